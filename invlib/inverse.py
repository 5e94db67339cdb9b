"""The inverse of a composition of blocks x + f(x), Lip(f) < 1: safeguarded Newton with a certified error bound.

Derived in `book/residual-networks.md`: convergence, stopping rule, error bound, gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from invlib.blocks import Block, evaluate


class InversionError(RuntimeError):
    """The inverse missed its tolerance; `solution` holds the points, residuals and error bounds."""

    def __init__(self, message: str, solution: "InverseSolution") -> None:
        super().__init__(message)
        self.solution = solution


@dataclass(frozen=True)
class InverseSolution:
    """What `IResNet.solve_inverse` found, in float64.

    Attributes:
        x: (..., n), the solutions.
        residual: (...), |phi(x) - z|, evaluated anew at x.
        iterations: (...), Newton evaluations over all blocks.
        converged: (...), residual <= tol max(1, |z|).
        error_bound: (...), (residual + its rounding error) / lower: the exact inverse is certainly no farther away.
        tol: the tolerance asked for.
    """

    x: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor
    error_bound: Tensor
    tol: float

    def raise_unless_converged(self) -> None:
        """Raise `InversionError` if some point missed the tolerance."""
        if not bool(self.converged.all()):
            failed = int((~self.converged).sum())
            worst = float(self.residual.nan_to_num(nan=torch.inf).max())
            raise InversionError(
                f"{failed} of {self.converged.numel()} points missed the tolerance {self.tol:g}: "
                f"largest residual {worst:.3g}, most iterations {int(self.iterations.max())}",
                self,
            )


def solve_blocks(
    blocks: Sequence[Block], z: Tensor, near: Tensor | None, tol: Tensor, lipschitz: float, max_iterations: int
) -> tuple[Tensor, Tensor]:
    """Invert the composition of `blocks`, last block first, for data z of shape (E, B, n).

    Each block starts from its own data, or from the forward pass of `near`. The residual of a block reaches the end
    multiplied by at most 1 + `lipschitz` for each later block; so the blocks share `tol`, (E, B), the bound on
    |phi(x) - z|. Returns the points x and the iterations of each, over all blocks.
    """
    starts = [near]
    for block in blocks[:-1]:
        starts.append(None if near is None else block.value(starts[-1]))
    x, share = z, tol / len(blocks)
    iterations = torch.zeros(z.shape[:-1], dtype=torch.long, device=z.device)
    for block, start in zip(reversed(blocks), reversed(starts), strict=True):
        x, used = _solve_block(block, x, x if start is None else start, share, max_iterations)
        iterations += used
        share = share / (1 + lipschitz)
    return x, iterations


def attach_gradient(blocks: Sequence[Block], x: Tensor, z: Tensor) -> Tensor:
    r"""Return $x - [D\varphi(x)]^{-1}(\varphi(x) - z)$ with x and the inverse Jacobian held fixed, all (E, B, n).

    At a solution the correction vanishes, but its derivatives are those of the implicit function theorem:
    $[D\varphi]^{-1}$ in z and $-[D\varphi]^{-1} \partial_\theta \varphi$ in the parameters. Second derivatives would be
    wrong, so asking for them raises.
    """
    if not torch.is_grad_enabled():
        return x
    point, solvers = x, []
    for block in (block.detached(x.dtype) for block in blocks):
        point, slopes = block.value_and_slopes(point)
        solvers.append(block.solver(slopes))
    correction = evaluate(blocks, x) - z  # last, since its graph is the larger part of the memory
    if not correction.requires_grad:
        return x
    for solver in reversed(solvers):
        correction = solver(correction)
    return x - _DifferentiableOnce.apply(correction)


class _DifferentiableOnce(torch.autograd.Function):
    """The identity; its backward pass cannot be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        if torch.is_grad_enabled():
            raise RuntimeError("the inverse has first derivatives only: call backward without create_graph")
        return gradient


def _solve_block(block: Block, z: Tensor, x: Tensor, tol: Tensor, max_iterations: int) -> tuple[Tensor, Tensor]:
    """Solve x + f(x) = z for one block from the start x; return the points and the iterations each took.

    A Newton step is tried whole, then halved three times; it counts as a success if the residual shrinks as a Newton
    step of that length promises, less a margin. If all fail, the fixed-point step x - r = z - f(x) is taken: it
    multiplies the residual by at most Lip(f) < 1, whatever the point. Where even that gains nothing, what is left is
    rounding, and the point has to do. The tolerance is never taken smaller than the rounding floor of z.

    A direction needs few digits and is computed in single precision, twice as fast; the residual decides. Points leave
    once they have converged (with members: once they have in every member).
    """
    iterations = torch.zeros(z.shape[:-1], dtype=torch.long, device=z.device)
    coarse = block.detached(torch.float32)
    floor = 64 * torch.finfo(z.dtype).eps * z.norm(dim=-1).clamp_min(1.0)
    tol = torch.maximum(tol, floor)
    solution, rows = x.clone(), torch.arange(z.shape[1], device=z.device)
    value, slopes = block.value_and_slopes(x)
    residual, newton, length = value - z, torch.zeros_like(x), torch.ones_like(tol)
    size = residual.norm(dim=-1)
    fresh = torch.ones_like(size, dtype=torch.bool)  # points whose Newton direction is not known yet
    for _ in range(max_iterations):
        moving = size > tol
        stay = moving.any(dim=0).nonzero().squeeze(-1)
        if len(stay) == 0:
            break
        newton = _update_directions(coarse, newton, fresh & moving, slopes, residual)
        if len(stay) < 0.8 * len(rows):  # otherwise it costs more to move the others out than to take them along
            solution[:, rows] = x
            rows = rows[stay]
            state = (x, z, residual, newton, length, tol, size, moving)
            x, z, residual, newton, length, tol, size, moving = (part.index_select(1, stay) for part in state)
        iterations[:, rows] += moving
        contract = length < 0.125
        candidate = x - torch.where(contract.unsqueeze(-1), residual, length.unsqueeze(-1) * newton)
        value, slopes = block.value_and_slopes(candidate)
        new_residual = value - z
        new_size = new_residual.norm(dim=-1)
        fresh = moving & (contract | (new_size <= (1 - 0.25 * length) * size))
        tol = torch.where(contract & (new_size >= size), torch.inf, tol)
        x = torch.where(fresh.unsqueeze(-1), candidate, x)
        residual = torch.where(fresh.unsqueeze(-1), new_residual, residual)
        size = torch.where(fresh, new_size, size)
        length = torch.where(fresh, torch.ones_like(length), length / 2)
    solution[:, rows] = x
    return solution, iterations


def _update_directions(
    block: Block, newton: Tensor, fresh: Tensor, slopes: Sequence[Tensor], residual: Tensor
) -> Tensor:
    """Replace the Newton directions, (E, B, n), of the fresh points, (E, B); the slopes of the others are stale."""
    columns = fresh.any(dim=0).nonzero().squeeze(-1)
    if len(columns) < fresh.shape[1]:
        residual, *slopes = (tensor.index_select(1, columns) for tensor in (residual, *slopes))
    found = block.solver(tuple(slope.float() for slope in slopes))(residual.float()).to(newton.dtype)
    newton[:, columns] = torch.where(fresh[:, columns].unsqueeze(-1), found, newton[:, columns])
    return newton
