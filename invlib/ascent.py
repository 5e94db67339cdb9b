"""Newton's method for maxima, from many starts at once: used for the modes in `book/point-estimators.md`."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class ConvergenceError(RuntimeError):
    """An iteration did not reach its tolerance."""


def maximize(
    value: Callable[..., Tensor],
    derivatives: Callable[..., tuple[Tensor, Tensor]],
    x: Tensor,
    *,
    data: Sequence[Tensor] = (),
    iterations: int = 200,
) -> tuple[Tensor, Tensor]:
    """Climb from every start x, (..., n), to a local maximum; return the points and which of them have settled, (...).

    The Hessian's eigenvalues are replaced by minus their absolute values, so that each step ascends; a step that does
    not gain enough is halved. Points that have settled leave the iteration. (A start with gradient zero stays, whatever
    it is; a start at which a derivative is not finite stays as well, and is not settled.)

    Args:
        value: the function: `value(points, *data)`, from (P, n) to (P,).
        derivatives: its gradient, (P, n), and its Hessian, (P, n, n), called in the same way.
        x: the starts.
        data: tensors with the leading dimensions of x: what belongs to each start, where the functions differ.
        iterations: the most that any point may take.

    Example:
        >>> def bowl(x):
        ...     return -(x - 2).square().sum(-1)
        >>> def bowl_derivatives(x):
        ...     return -2 * (x - 2), -2 * torch.eye(1).expand(len(x), 1, 1)
        >>> maximize(bowl, bowl_derivatives, torch.zeros(1, 1))
        (tensor([[2.]]), tensor([True]))
    """
    shape, leading = x.shape, x.ndim - 1
    points = x.reshape(-1, shape[-1]).clone()
    settled = torch.zeros(len(points), dtype=torch.bool)

    # What follows has one row for each point that still moves.
    rows = torch.arange(len(points))
    given = [tensor.reshape(-1, *tensor.shape[leading:]) for tensor in data]
    height = value(points, *given)
    length = torch.ones_like(height)

    for _ in range(iterations):
        if len(rows) == 0:
            break

        here = points[rows]
        gradient, hessian = derivatives(here, *given)
        usable = gradient.isfinite().all(-1) & hessian.isfinite().all(-1).all(-1)
        step = _ascending_step(gradient, hessian, usable)
        gain = (gradient * step).sum(-1)  # twice what a quadratic would gain

        candidate = here + length.unsqueeze(-1) * step
        new_height = value(candidate, *given)
        # A gain below the rounding error of the value cannot be seen in it: trust the Newton step there.
        enough = new_height >= height + 0.1 * length * gain
        accept = usable & (enough | (gain <= 1e-10 * (1 + height.abs())))

        points[rows] = torch.where(accept.unsqueeze(-1), candidate, here)
        height = torch.where(accept, new_height, height)
        length = torch.where(accept, torch.ones_like(length), length / 2)

        small = step.norm(dim=-1) <= 1e-15 * points[rows].norm(dim=-1)
        arrived = usable & ((length * gain <= 1e-18) | small)
        settled[rows[arrived]] = True

        moving = usable & ~arrived
        rows, height, length = rows[moving], height[moving], length[moving]
        given = [tensor[moving] for tensor in given]

    return points.reshape(shape), settled.reshape(shape[:-1])


def _ascending_step(gradient: Tensor, hessian: Tensor, usable: Tensor) -> Tensor:
    """Newton's step, (P, n), with the curvatures made negative; zero where the derivatives cannot be used."""
    safe = torch.where(usable[:, None, None], hessian, torch.eye(hessian.shape[-1], dtype=hessian.dtype))
    eigenvalues, vectors = torch.linalg.eigh(safe)
    eigenvalues = eigenvalues.abs().clamp_min(torch.finfo(gradient.dtype).tiny)
    eigenvalues = eigenvalues.maximum(1e-12 * eigenvalues.amax(-1, keepdim=True))
    components = (vectors.mT @ gradient.unsqueeze(-1)) / eigenvalues.unsqueeze(-1)
    step = (vectors @ components).squeeze(-1)
    return torch.where(usable.unsqueeze(-1), step, torch.zeros_like(step))
