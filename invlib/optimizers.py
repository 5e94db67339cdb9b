"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv:2409.11321).

No optimizer of torch treats a parameter as a *stack* of matrices, one for each block and member; here each matrix of
the stack has its own preconditioner, and all are updated in the same batched products.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

BETA_FIRST, BETA_SECOND = 0.9, 0.95  # decay of the averages: of the gradient; of its square, L and R
EPSILON = 1e-8  # added to the root of the second moment
REFRESH = 10  # steps between two updates of the eigenvectors


class SOAP(torch.optim.Optimizer):
    r"""Adam, run in a slowly rotating basis in which the gradient's rows and columns are uncorrelated.

    For a matrix with gradient G let $L = \mathrm{avg}\, G G^*$ and $R = \mathrm{avg}\, G^* G$, with eigenvectors
    $Q_L, Q_R$. Adam's two moments are taken of $Q_L^* G Q_R$, and its step is rotated back. Eigenvectors follow the
    averages by one step of orthogonal iteration every `REFRESH` steps.

    Args:
        parameters: stacks of matrices (..., rows, columns).
        lr: the learning rate.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group["lr"])

    def _update(self, parameter: Tensor, gradient: Tensor, lr: float) -> None:
        state = self.state[parameter]
        left, right = gradient @ gradient.mT, gradient.mT @ gradient
        if not state:
            state.update(step=0, left=left, right=right, first=torch.zeros_like(gradient))
            state.update(second=torch.zeros_like(gradient))
            state["left_basis"] = torch.linalg.eigh(left).eigenvectors
            state["right_basis"] = torch.linalg.eigh(right).eigenvectors
        state["step"] += 1
        state["left"].lerp_(left, 1 - BETA_SECOND)
        state["right"].lerp_(right, 1 - BETA_SECOND)
        state["first"].lerp_(gradient, 1 - BETA_FIRST)
        left_basis, right_basis = state["left_basis"], state["right_basis"]
        state["second"].lerp_((left_basis.mT @ gradient @ right_basis).square(), 1 - BETA_SECOND)
        first = left_basis.mT @ state["first"] @ right_basis / (1 - BETA_FIRST ** state["step"])
        second = state["second"] / (1 - BETA_SECOND ** state["step"])
        rotated = first / (second.sqrt() + EPSILON)
        parameter.add_(left_basis @ rotated @ right_basis.mT, alpha=-lr)
        if state["step"] % REFRESH == 0:
            state["left_basis"] = torch.linalg.qr(state["left"] @ left_basis).Q
            state["right_basis"] = torch.linalg.qr(state["right"] @ right_basis).Q
