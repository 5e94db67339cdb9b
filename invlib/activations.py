"""Activations of residual blocks, each with a proven bound on its slope.

The bound enters the Lipschitz constant of a block, so it must hold everywhere. The divergence term needs activations
that are C^1: where a slope jumps, the sample-path gradient of the loss misses the kinks that move with the weights
(`book/divergence.md`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from invlib import _checks

Function = Callable[[Tensor], Tensor]

LARGE = 1e9
"""Beyond it the root of u^2 + 1/4 is |u| to rounding accuracy, and u^2 would soon overflow."""


@dataclass(frozen=True)
class Activation:
    """A C^1 function of the line, its derivative, and a bound on the derivative.

    Attributes:
        name: identifies the activation in a saved network.
        function: maps tensors elementwise.
        derivative: its derivative, elementwise, made of differentiable operations.
        slope_bound: a number that |derivative| never exceeds, with a proof.

    Raises:
        TypeError: if `function` or `derivative` cannot be called.
        ValueError: if `slope_bound` is not a positive number.

    Example:
        >>> sine = Activation("sine", torch.sin, torch.cos, slope_bound=1.0)
        >>> value, slope = sine.value_and_slope(torch.zeros(1))
        >>> value.item(), slope.item()
        (0.0, 1.0)
    """

    name: str
    function: Function
    derivative: Function
    slope_bound: float

    def __post_init__(self) -> None:
        for field in ("function", "derivative"):
            value = getattr(self, field)
            if not callable(value):
                raise TypeError(f"{field} must be callable, got {value!r}")
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a string, got {self.name!r}")
        _checks.positive("slope_bound", self.slope_bound)

    def value_and_slope(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the function and its derivative at u, both of the shape of u."""
        return self.function(u), self.derivative(u)


def smooth_abs(u: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return $\sqrt{u^2 + 1/4} - 1/2$, a smooth absolute value, and its slope $u / \sqrt{u^2 + 1/4}$.

    The slope lies in (-1, 1), and away from the origin it is close to 1 in size, so that little of the Lipschitz bound
    is wasted. The function is $C^\infty$.
    """
    if is_moderate(u):
        return _moderate(u)

    near = u.clamp(-LARGE, LARGE)
    value, slope = _moderate(near)
    return value + (u - near).abs(), slope


def is_moderate(u: Tensor) -> bool:
    """Return whether no number is beyond `LARGE`, or not finite; False where `torch.func.vmap` hides the numbers."""
    if u.numel() == 0:
        return True
    try:
        low, high = u.detach().aminmax()
        return bool(-low < LARGE) and bool(high < LARGE)
    except RuntimeError:
        return False


def _constant(value: float, like: Tensor) -> Tensor:
    """Return a number as a tensor; in torch 2.4, `new_tensor` fails under `torch.func`."""
    return torch.full((), value, dtype=like.dtype, device=like.device)


def _moderate(u: Tensor) -> tuple[Tensor, Tensor]:
    """Return `smooth_abs` for numbers whose squares do not overflow: three sweeps over the memory."""
    square = torch.addcmul(_constant(0.25, u), u, u)
    if u.requires_grad:
        root = square.sqrt()
        return root - 0.5, u / root
    inverse = square.rsqrt()  # cheaper
    return torch.addcmul(_constant(-0.5, u), square, inverse), u * inverse


class _SmoothAbs(Activation):
    """Value and slope share the root."""

    def value_and_slope(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return smooth_abs(u)


def _smooth_abs_value(u: Tensor) -> Tensor:
    return smooth_abs(u)[0]


def _smooth_abs_slope(u: Tensor) -> Tensor:
    return smooth_abs(u)[1]


def _tanh_slope(u: Tensor) -> Tensor:
    return 1 - torch.tanh(u).square()


def _swish_slope(u: Tensor) -> Tensor:
    gate = torch.sigmoid(u)
    return gate * (1 + u * (1 - gate))


SMOOTH_ABS = _SmoothAbs("smooth_abs", _smooth_abs_value, _smooth_abs_slope, 1.0)
TANH = Activation("tanh", torch.tanh, _tanh_slope, 1.0)
SOFTPLUS = Activation("softplus", torch.nn.functional.softplus, torch.sigmoid, 1.0)
SWISH = Activation("swish", torch.nn.functional.silu, _swish_slope, 1.1)
"""u sigmoid(u): its largest slope is 1.09984 (where u tanh(u / 2) = 2), so 1.1 bounds it."""

ACTIVATIONS = {each.name: each for each in (SMOOTH_ABS, TANH, SOFTPLUS, SWISH)}


def as_activation(value: Activation | str) -> Activation:
    """Return the activation of this name, or the activation itself.

    Raises:
        TypeError: if `activation` is neither a string nor an `Activation`.
        ValueError: if no activation has this name.
    """
    if isinstance(value, Activation):
        return value
    if not isinstance(value, str):
        raise TypeError(f"activation must be a name or an Activation, got {value!r}")
    if value not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(
            f"activation must be one of {known}, or an Activation, got {value!r}"
        )
    return ACTIVATIONS[value]
