"""The inverse of one residual block by a safeguarded Newton method, for many points at once.

Derived in `book/residual-networks.md`: convergence, stopping rule, why the fixed-point step is the safeguard.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Protocol, Self

import torch
from torch import Tensor

DIRECTION_TOL = 1e-2
"""Relative residual of a Newton direction that is computed by an iteration."""

LARGE = 1e15
"""Beyond it, squares of numbers come close to the range of single precision."""

SHORTEST = 0.125
"""A step that would have to be shorter gives way to the fixed-point step."""


class Residual(Protocol):
    """What `newton` asks of a block x + f(x)."""

    def linearize(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the value at x and what `solver` needs there."""

    def solver(
        self, at: tuple[Tensor, ...], *, tol: float
    ) -> Callable[[Tensor], Tensor]:
        """Return the function that applies the inverse of the derivative."""

    def detached(self, dtype: torch.dtype) -> Self:
        """Return the same block in another dtype."""


@dataclass
class _Points:
    """The points under way, and what is known of each: vectors (E, B, n), numbers (E, B)."""

    x: Tensor
    z: Tensor
    residual: Tensor
    direction: Tensor  # the Newton direction at x
    length: Tensor  # of the next step along it
    tol: Tensor
    size: Tensor  # the norm of the residual

    def take(self, columns: Tensor) -> "_Points":
        """Return the points of these columns only."""
        return _Points(
            *(getattr(self, f.name).index_select(1, columns) for f in fields(self))
        )


def newton(
    block: Residual, z: Tensor, start: Tensor, tol: Tensor, max_iterations: int
) -> tuple[Tensor, Tensor]:
    """Solve x + f(x) = z for one block from the points `start`; return the points and the iterations each took.

    A Newton step is tried whole, then halved three times; it counts as a success if the residual shrinks as a Newton
    step of that length promises, less a margin. If all fail, the fixed-point step x - r = z - f(x) is taken: it
    multiplies the residual by at most Lip(f) < 1, whatever the point. Where even that gains nothing, what is left is
    rounding, and the point has to do. The tolerance is never taken smaller than the rounding floor of z.

    A direction needs few digits and is computed in single precision, twice as fast; the residual decides. Points leave
    once they have converged (with members: once they have in every member).

    Args:
        block: x + f(x), Lip(f) < 1.
        z: (E, B, n).
        start: (E, B, n).
        tol: bound on the norm of the residual, (E, B).
        max_iterations: the most steps that a point may try.
    """
    iterations = torch.zeros(z.shape[:-1], dtype=torch.long, device=z.device)
    solution = start.clone()
    rows = torch.arange(z.shape[1], device=z.device)

    value, at = block.linearize(start)
    points = _begin(value, start, z, tol)
    # The direction of these is not known yet
    fresh = torch.ones_like(points.size, dtype=torch.bool)
    coarse = _Coarse(block, points)

    for _ in range(max_iterations):
        moving = points.size > points.tol
        stay = moving.any(dim=0).nonzero().squeeze(-1)
        if len(stay) == 0:
            break
        _update_directions(coarse, points, fresh & moving, at)

        # Otherwise it costs more to move the others out than to take them along
        if len(stay) < 0.8 * len(rows):
            solution[:, rows] = points.x
            rows = rows[stay]
            points = points.take(stay)
            moving = moving.index_select(1, stay)

        iterations[:, rows] += moving
        at, fresh = _step(block, points, moving)

    solution[:, rows] = points.x
    return solution, iterations


class _Coarse:
    """The block in single precision; in its own where numbers are so large that single precision ends."""

    def __init__(self, block: Residual, points: _Points) -> None:
        largest = (
            float(points.z.abs().amax() + points.size.amax())
            if points.z.numel()
            else 0.0
        )
        self.dtype = torch.float32 if largest < LARGE else points.z.dtype
        self.block = block.detached(self.dtype)

    def solve(self, at: tuple[Tensor, ...], residual: Tensor) -> Tensor:
        """Return the Newton directions for residuals, in the dtype of these."""
        solver = self.block.solver(
            tuple(tensor.to(self.dtype) for tensor in at), tol=DIRECTION_TOL
        )
        return solver(residual.to(self.dtype)).to(residual.dtype)


def _begin(value: Tensor, start: Tensor, z: Tensor, tol: Tensor) -> _Points:
    floor = 64 * torch.finfo(z.dtype).eps * z.norm(dim=-1).clamp_min(1.0)
    residual = value - z
    return _Points(
        x=start,
        z=z,
        residual=residual,
        direction=torch.zeros_like(start),
        length=torch.ones_like(tol),
        tol=torch.maximum(tol, floor),
        size=residual.norm(dim=-1),
    )


def _step(
    block: Residual, points: _Points, moving: Tensor
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Try one step of every point, in place; return the linearization there, and who has moved, (E, B)."""
    contract = points.length < SHORTEST
    along = points.length.unsqueeze(-1) * points.direction
    candidate = points.x - torch.where(contract.unsqueeze(-1), points.residual, along)

    value, at = block.linearize(candidate)
    residual = value - points.z
    size = residual.norm(dim=-1)

    promised = (1 - 0.25 * points.length) * points.size
    moved = moving & (contract | (size <= promised))
    stuck = contract & (size >= points.size)

    points.tol = torch.where(stuck, torch.inf, points.tol)
    points.x = torch.where(moved.unsqueeze(-1), candidate, points.x)
    points.residual = torch.where(moved.unsqueeze(-1), residual, points.residual)
    points.size = torch.where(moved, size, points.size)
    points.length = torch.where(
        moved, torch.ones_like(points.length), points.length / 2
    )
    return at, moved


def _update_directions(
    coarse: "_Coarse", points: _Points, fresh: Tensor, at: tuple[Tensor, ...]
) -> None:
    """Replace the Newton directions of the fresh points, (E, B); the linearization of the others is stale."""
    columns = fresh.any(dim=0).nonzero().squeeze(-1)
    residual = points.residual
    if len(columns) < fresh.shape[1]:
        residual = residual.index_select(1, columns)
        at = tuple(tensor.index_select(1, columns) for tensor in at)

    found = coarse.solve(at, residual)

    known = points.direction[:, columns]
    points.direction[:, columns] = torch.where(
        fresh[:, columns].unsqueeze(-1), found, known
    )
