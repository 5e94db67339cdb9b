"""Newton's method for maxima, from many starts at once."""

from collections.abc import Callable

import torch
from torch import Tensor


class ConvergenceError(RuntimeError):
    """An iteration did not reach its tolerance."""


def ascend(
    value: Callable[[Tensor], Tensor],
    derivatives: Callable[[Tensor], tuple[Tensor, Tensor]],
    x: Tensor,
    iterations: int = 200,
) -> tuple[Tensor, Tensor]:
    """Climb from every start x, (..., n), to a local maximum; return the points and which of them have settled, (...).

    The Hessian's eigenvalues are replaced by minus their absolute values, so that each step ascends; a step that does
    not gain enough is halved. (A start with gradient zero stays, whatever it is.)

    Args:
        value: the function, from (..., n) to (...).
        derivatives: its gradient, (..., n), and its Hessian, (..., n, n).
        x: the starts.
        iterations: the most that any point may take.
    """
    height = value(x)
    length, settled = torch.ones_like(height), torch.zeros_like(height, dtype=torch.bool)
    for _ in range(iterations):
        gradient, hessian = derivatives(x)
        eigenvalues, vectors = torch.linalg.eigh(hessian)
        eigenvalues = eigenvalues.abs().clamp_min(torch.finfo(x.dtype).tiny)
        eigenvalues = eigenvalues.maximum(1e-12 * eigenvalues.amax(-1, keepdim=True))
        step = (vectors @ ((vectors.mT @ gradient.unsqueeze(-1)) / eigenvalues.unsqueeze(-1))).squeeze(-1)
        gain = (gradient * step).sum(-1)  # twice what a quadratic would gain
        candidate = x + length.unsqueeze(-1) * step
        new_height = value(candidate)
        # A gain below the rounding error of the value cannot be seen in it: trust the Newton step there.
        accept = ~settled & ((new_height >= height + 0.1 * length * gain) | (gain <= 1e-10 * (1 + height.abs())))
        x = torch.where(accept.unsqueeze(-1), candidate, x)
        height = torch.where(accept, new_height, height)
        length = torch.where(accept, torch.ones_like(length), length / 2)
        settled |= (length * gain <= 1e-18) | (step.norm(dim=-1) <= 1e-15 * x.norm(dim=-1))
        if bool(settled.all()):
            break
    return x, settled
