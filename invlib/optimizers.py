"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv:2409.11321).

No optimizer of torch treats a parameter as a *stack* of matrices, one for each block and member; here each matrix of
the stack has its own preconditioner, and all are updated in the same batched products.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


class SOAP(torch.optim.Optimizer):
    r"""Adam, run in a slowly rotating basis in which the gradient's rows and columns are uncorrelated.

    For a matrix with gradient G let $L = \mathrm{avg}\, G G^*$ and $R = \mathrm{avg}\, G^* G$, with eigenvectors
    $Q_L, Q_R$. Adam's two moments are taken of $Q_L^* G Q_R$, and its step is rotated back. Eigenvectors follow the
    averages by one step of orthogonal iteration from time to time.

    Args:
        parameters: stacks of matrices (..., rows, columns).
        lr: the learning rate.
        betas: decay of the averages of the gradient and of its square; the second one also that of L and R.
        eps: added to the root of the second moment.
        refresh: steps between two updates of the eigenvectors.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        refresh: int = 10,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "refresh": refresh})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict) -> None:
        state = self.state[parameter]
        left, right = gradient @ gradient.mT, gradient.mT @ gradient
        if not state:
            state.update(step=0, left=left, right=right, first=torch.zeros_like(gradient))
            state.update(second=torch.zeros_like(gradient))
            state["left_basis"] = torch.linalg.eigh(left).eigenvectors
            state["right_basis"] = torch.linalg.eigh(right).eigenvectors
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["left"].lerp_(left, 1 - beta2)
        state["right"].lerp_(right, 1 - beta2)
        state["first"].lerp_(gradient, 1 - beta1)
        left_basis, right_basis = state["left_basis"], state["right_basis"]
        state["second"].lerp_((left_basis.mT @ gradient @ right_basis).square(), 1 - beta2)
        first = left_basis.mT @ state["first"] @ right_basis / (1 - beta1 ** state["step"])
        second = state["second"] / (1 - beta2 ** state["step"])
        rotated = first / (second.sqrt() + group["eps"])
        parameter.add_(left_basis @ rotated @ right_basis.mT, alpha=-group["lr"])
        if state["step"] % group["refresh"] == 0:
            state["left_basis"] = torch.linalg.qr(state["left"] @ left_basis).Q
            state["right_basis"] = torch.linalg.qr(state["right"] @ right_basis).Q
