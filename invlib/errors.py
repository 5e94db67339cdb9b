"""Errors that have a name of their own."""

from typing import Any

import torch
from torch import Tensor


class DifferentiatedTwiceError(RuntimeError):
    """A second derivative was asked for where only the first one is right."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} has first derivatives only: call backward without create_graph"
        )
        self.what = what

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.what,)


def differentiable_once(tensor: Tensor, what: str) -> Tensor:
    """Return the tensor; its backward pass raises `DifferentiatedTwiceError` where it would be differentiated again."""
    if not tensor.requires_grad:
        return tensor
    result: Tensor = _Once.apply(tensor, what)  # type: ignore[no-untyped-call]
    return result


class _Once(torch.autograd.Function):
    """The identity."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, what: str) -> Tensor:  # noqa: ANN401
        ctx.what = what
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        if torch.is_grad_enabled():
            raise DifferentiatedTwiceError(ctx.what)
        return gradient, None
