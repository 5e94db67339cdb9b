"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv:2409.11321).

No optimizer of torch treats a parameter as a *stack* of matrices, one for each block and member; here each matrix of
the stack has its own preconditioner, and all are updated in the same batched products.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

# Decay of the averages: of the gradient; of its square, L and R
BETA_FIRST, BETA_SECOND = (
    0.9,
    0.95,
)
EPSILON = 1e-8  # added to the root of the second moment
REFRESH = 10  # steps between two updates of the eigenvectors


class SOAP(torch.optim.Optimizer):
    r"""Adam, run in a slowly rotating basis in which the gradient's rows and columns are uncorrelated.

    For a matrix with gradient G let $L = \mathrm{avg}\, G G^*$ and $R = \mathrm{avg}\, G^* G$, with eigenvectors
    $Q_L, Q_R$. Adam's two moments are taken of $Q_L^* G Q_R$, and its step is rotated back. Eigenvectors follow the
    averages by one step of orthogonal iteration every `REFRESH` steps.

    How a parameter is read:

    - (rows, columns): one matrix;
    - (..., rows, columns): a stack of matrices that do not see each other, such as (members, blocks, rows, columns);
    - (n,) and scalars: Adam with the same constants, since no rotation mixes the entries.

    The kernels of `torch.nn.Conv2d`, (out, in, height, width), are no stack: put them into a parameter group with
    `"flatten": True`, and each is read as one matrix (out, in * height * width).

    Args:
        parameters: parameters, or groups of them, as for every optimizer of torch.
        lr: the learning rate, a number >= 0.
        flatten: whether a parameter with more than two dimensions is one matrix: its first dimension are the rows.

    Raises:
        ValueError: if `lr` or `flatten` does not fit, also in a group of its own.

    Example:
        >>> layer = torch.nn.Linear(2, 2)
        >>> optimizer = SOAP(layer.parameters(), lr=0.01)
        >>> layer(torch.ones(1, 2)).square().sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self, parameters: Iterable[Any], lr: float, *, flatten: bool = False
    ) -> None:
        super().__init__(parameters, {"lr": lr, "flatten": flatten})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with options of its own, to those that are optimized."""
        _check_options({**self.defaults, **param_group})
        super().add_param_group(param_group)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient.

        Args:
            closure: evaluates the loss and its gradient again, and returns the loss; None if they are there already.

        Returns:
            The loss of the closure, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(
        self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]
    ) -> None:
        if gradient.is_sparse or gradient.is_complex():
            raise ValueError(
                "parameters must have dense, real gradients, got a sparse or complex one"
            )

        state = self.state[parameter]
        if parameter.ndim < 2:
            change = _adam(state, gradient)
        elif group["flatten"]:
            change = _soap(state, gradient.flatten(1)).view_as(parameter)
        else:
            change = _soap(state, gradient)
        parameter.add_(change, alpha=-group["lr"])


def _check_options(options: dict[str, Any]) -> None:
    lr, flatten = options["lr"], options["flatten"]

    number = isinstance(lr, (int, float)) and not isinstance(lr, bool)
    if not number or not math.isfinite(lr) or lr < 0:
        raise ValueError(f"lr must be a number >= 0, got {lr!r}")
    if not isinstance(flatten, bool):
        raise ValueError(f"flatten must be True or False, got {flatten!r}")


def _adam(state: dict[str, Any], gradient: Tensor) -> Tensor:
    """The direction of Adam, of the shape of the gradient."""
    if not state:
        state["step"] = 0
        state["first"] = torch.zeros_like(gradient)
        state["second"] = torch.zeros_like(gradient)

    state["step"] += 1
    state["first"].lerp_(gradient, 1 - BETA_FIRST)
    state["second"].lerp_(gradient.square(), 1 - BETA_SECOND)
    return _normalized(state, state["first"])


def _soap(state: dict[str, Any], gradient: Tensor) -> Tensor:
    """The direction of SOAP for a stack of gradients (..., rows, columns)."""
    left, right = gradient @ gradient.mT, gradient.mT @ gradient
    if not state:
        state["step"] = 0
        state["left"], state["right"] = left, right
        state["first"] = torch.zeros_like(gradient)
        state["second"] = torch.zeros_like(gradient)
        state["left_basis"] = torch.linalg.eigh(left).eigenvectors
        state["right_basis"] = torch.linalg.eigh(right).eigenvectors

    state["step"] += 1
    state["left"].lerp_(left, 1 - BETA_SECOND)
    state["right"].lerp_(right, 1 - BETA_SECOND)
    state["first"].lerp_(gradient, 1 - BETA_FIRST)

    left_basis, right_basis = state["left_basis"], state["right_basis"]
    rotated = left_basis.mT @ gradient @ right_basis
    state["second"].lerp_(rotated.square(), 1 - BETA_SECOND)
    direction = _normalized(state, left_basis.mT @ state["first"] @ right_basis)
    change: Tensor = left_basis @ direction @ right_basis.mT

    if state["step"] % REFRESH == 0:
        state["left_basis"] = torch.linalg.qr(state["left"] @ left_basis).Q
        state["right_basis"] = torch.linalg.qr(state["right"] @ right_basis).Q
    return change


def _normalized(state: dict[str, Any], first: Tensor) -> Tensor:
    """The first moment over the root of the second, both corrected for their start at zero."""
    first = first / (1 - BETA_FIRST ** state["step"])
    second: Tensor = state["second"] / (1 - BETA_SECOND ** state["step"])
    return first / (second.sqrt() + EPSILON)
