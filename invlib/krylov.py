"""Linear systems without matrices: GMRES for many right-hand sides at once, each with its own Krylov space.

Source: Saad and Schultz, GMRES, SIAM J. Sci. Stat. Comput. 7 (1986) 856-869.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from invlib.errors import DifferentiatedTwiceError

LinearMap = Callable[[Tensor], Tensor]


def gmres(
    apply: LinearMap,
    right: Tensor,
    *,
    tol: float,
    restart: int = 30,
    cycles: int = 20,
) -> Tensor:
    """Return the solutions of A u = r, of the shape of r, for a linear map A of points (..., n).

    Points do not mix: each has a Krylov space and a residual of its own. The iteration ends when every relative
    residual is at most `tol`, or after `cycles` restarts; whoever needs certainty looks at the residual.

    Args:
        apply: A, from (..., n) to (..., n), acting on each point by itself.
        right: r, (..., n).
        tol: bound on |A u - r| / |r|.
        restart: dimension of the Krylov spaces.
        cycles: the most restarts.

    Example:
        >>> r = torch.tensor([[1.0, 2.0]])
        >>> gmres(lambda u: u * torch.tensor([2.0, 4.0]), r, tol=1e-6)
        tensor([[0.5000, 0.5000]])
    """
    scale = (
        right.abs().amax(dim=-1, keepdim=True).clamp_min(torch.finfo(right.dtype).tiny)
    )
    right = right / scale  # so that squares neither vanish nor overflow
    size = right.norm(dim=-1, keepdim=True)
    solution = torch.zeros_like(right)
    residual = right

    for _ in range(cycles):
        correction = _arnoldi(
            apply, residual, tol * size, min(restart, right.shape[-1])
        )
        solution = solution + correction
        residual = right - apply(solution)
        if bool((residual.norm(dim=-1, keepdim=True) <= tol * size).all()):
            break
    return scale * solution


def _arnoldi(apply: LinearMap, residual: Tensor, goal: Tensor, steps: int) -> Tensor:
    """One cycle: the correction in the Krylov space that makes the residual smallest.

    Givens rotations keep the least-squares problem triangular, so that the norm of its residual is known in each step.
    What a point finds after it has arrived is left out: its Krylov space may be exhausted.
    """
    tiny = torch.finfo(residual.dtype).tiny
    size = residual.norm(dim=-1, keepdim=True)
    basis = [residual / size.clamp_min(tiny)]
    columns: list[Tensor] = []
    rotations: list[tuple[Tensor, Tensor]] = []
    reduced: list[Tensor] = []  # the right-hand side, rotated

    for _ in range(steps):
        arrived = size.abs() <= goal
        if bool(arrived.all()):
            break
        entries, length, direction = _orthogonalize(apply(basis[-1]), basis)
        column, (cosine, sine) = _rotate([*entries, length], rotations)
        columns.append(column)
        rotations.append((cosine, sine))
        reduced.append(torch.where(arrived, 0.0, cosine * size))
        size = -sine * size
        basis.append(direction / length.clamp_min(tiny))

    return _combine(columns, reduced, basis, residual)


def _orthogonalize(
    direction: Tensor, basis: list[Tensor]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Gram and Schmidt: the overlaps with the basis, (..., 1) each, the length of the rest, and the rest."""
    overlaps = []
    for vector in basis:
        overlap = (vector * direction).sum(-1, keepdim=True)
        direction = direction - overlap * vector
        overlaps.append(overlap)
    return overlaps, direction.norm(dim=-1, keepdim=True), direction


def _rotate(
    column: list[Tensor], rotations: list[tuple[Tensor, Tensor]]
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """A column of the Hessenberg matrix after all rotations, (..., k), and the new rotation, which removes its end."""
    for row, (cosine, sine) in enumerate(rotations):
        upper, lower = column[row], column[row + 1]
        column[row] = cosine * upper + sine * lower
        column[row + 1] = cosine * lower - sine * upper

    *rest, upper, lower = column
    diagonal = torch.hypot(upper, lower).clamp_min(torch.finfo(upper.dtype).tiny)
    return torch.cat([*rest, diagonal], dim=-1), (upper / diagonal, lower / diagonal)


def _combine(
    columns: list[Tensor], reduced: list[Tensor], basis: list[Tensor], like: Tensor
) -> Tensor:
    """Solve the triangular system from below, and add up the basis."""
    weights: list[Tensor] = []  # the last one first
    result = torch.zeros_like(like)
    for step in reversed(range(len(columns))):
        right = reduced[step]
        for later, weight in zip(
            reversed(range(step + 1, len(columns))), weights, strict=True
        ):
            right = right - columns[later][..., step : step + 1] * weight
        weights.append(right / columns[step][..., -1:])
        result = result + weights[-1] * basis[step]
    return result


def solve(apply: LinearMap, right: Tensor, *, tol: float) -> Tensor:
    """Return the solution of A u = r by `gmres`, differentiable once in r: its gradient solves the adjoint system."""
    if not right.requires_grad:
        with torch.no_grad():
            return gmres(apply, right, tol=tol)
    solution: Tensor = _Solve.apply(right, apply, tol)  # type: ignore[no-untyped-call]
    return solution


def transposed(apply: LinearMap, like: Tensor) -> LinearMap:
    """Return the adjoint of a linear map of points of the shape of `like`, by automatic differentiation."""
    with torch.enable_grad():
        start = torch.zeros_like(like).requires_grad_()
        image = apply(start)

    def adjoint(v: Tensor) -> Tensor:
        (pulled,) = torch.autograd.grad(image, start, v, retain_graph=True)
        return pulled

    return adjoint


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, right: Tensor, apply: LinearMap, tol: float) -> Tensor:  # noqa: ANN401
        ctx.linear_map, ctx.tol = apply, tol
        return gmres(apply, right, tol=tol)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        if torch.is_grad_enabled():
            raise DifferentiatedTwiceError("the inverse")
        adjoint = transposed(ctx.linear_map, gradient)
        return gmres(adjoint, gradient, tol=ctx.tol), None, None
