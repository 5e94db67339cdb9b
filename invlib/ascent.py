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
    data: Sequence[Tensor] | None = None,
    iterations: int = 200,
) -> tuple[Tensor, Tensor]:
    """Climb from every start x, (..., n), to a local maximum; return the points and which of them have settled, (...).

    The Hessian's eigenvalues are replaced by minus their absolute values, so that each step ascends; a step that does
    not gain enough is halved. (A start with gradient zero stays, whatever
    it is; a start at which a derivative is not finite stays as well, and is not settled.)

    Args:
        value: the function, from points of the shape of x, (..., n), to (...).
        derivatives: its gradient, (..., n), and its Hessian, (..., n, n).
        x: the starts.
        data: tensors with the leading dimensions of x: what belongs to each start, where the functions differ. Where
            they are given, the functions are called as `value(points, *data)` with the rows, (P, n), of those points
            only that still move: for thousands of starts this is faster.
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
    given = [tensor.reshape(-1, *tensor.shape[leading:]) for tensor in data or ()]
    if data is None:
        value, derivatives = _with_all_others(value, derivatives, x, lambda: rows)
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


def _with_all_others(
    value: Callable[[Tensor], Tensor],
    derivatives: Callable[[Tensor], tuple[Tensor, Tensor]],
    x: Tensor,
    moving: Callable[[], Tensor],
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], tuple[Tensor, Tensor]]]:
    """The functions for the moving rows, (P, n), of functions that take all points together, in the shape of x."""
    dim = x.shape[-1]

    def together(here: Tensor) -> Tensor:
        return x.reshape(-1, dim).index_put((moving(),), here).reshape(x.shape)

    def rows_of_value(here: Tensor) -> Tensor:
        return value(together(here)).flatten()[moving()]

    def rows_of_derivatives(here: Tensor) -> tuple[Tensor, Tensor]:
        gradient, hessian = derivatives(together(here))
        rows = moving()
        return gradient.reshape(-1, dim)[rows], hessian.reshape(-1, dim, dim)[rows]

    return rows_of_value, rows_of_derivatives


def _ascending_step(gradient: Tensor, hessian: Tensor, usable: Tensor) -> Tensor:
    """Newton's step, (P, n), with the curvatures made negative; zero where the derivatives cannot be used."""
    safe = torch.where(
        usable[:, None, None],
        hessian,
        torch.eye(hessian.shape[-1], dtype=hessian.dtype),
    )
    eigenvalues, vectors = torch.linalg.eigh(safe)
    eigenvalues = eigenvalues.abs().clamp_min(torch.finfo(gradient.dtype).tiny)
    eigenvalues = eigenvalues.maximum(1e-12 * eigenvalues.amax(-1, keepdim=True))
    components = (vectors.mT @ gradient.unsqueeze(-1)) / eigenvalues.unsqueeze(-1)
    step = (vectors @ components).squeeze(-1)
    return torch.where(usable.unsqueeze(-1), step, torch.zeros_like(step))
