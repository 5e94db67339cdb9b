"""The inverse of a composition of blocks with a certified error bound, and its gradient.

Derived in `book/residual-networks.md`: stopping rule, error bound, implicit gradient.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invlib.blocks import AffineBlock, Block, evaluate
from invlib.errors import differentiable_once


class InversionError(RuntimeError):
    """The inverse missed its tolerance; `solution` holds the points, residuals and error bounds."""

    def __init__(self, message: str, solution: "InverseSolution") -> None:
        super().__init__(message)
        self.solution = solution

    def __reduce__(self) -> tuple[type, tuple[str, "InverseSolution"]]:
        return type(self), (str(self), self.solution)


@dataclass(frozen=True)
class InverseSolution:
    """What `solve_inverse` found, in float64.

    Attributes:
        x: (..., n), the solutions.
        residual: (...), |phi(x) - z|, evaluated anew at x.
        iterations: (...), Newton evaluations over all blocks.
        converged: (...), residual <= tol max(1, |z|); in standard variables, relative to the size of z there.
        error_bound: (...), (residual + its rounding error) / lower: the exact inverse is certainly no farther away.
        tol: the tolerance asked for.
    """

    x: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor
    error_bound: Tensor
    tol: float

    def reshaped(self, shape: Sequence[int]) -> "InverseSolution":
        """Return the same solution with points of the given shape, (..., n)."""
        numbers = shape[:-1]
        return InverseSolution(
            x=self.x.reshape(shape),
            residual=self.residual.reshape(numbers),
            iterations=self.iterations.reshape(numbers),
            converged=self.converged.reshape(numbers),
            error_bound=self.error_bound.reshape(numbers),
            tol=self.tol,
        )

    def raise_unless_converged(self) -> None:
        """Raise `InversionError` if some point missed the tolerance."""
        if bool(self.converged.all()):
            return
        failed = int((~self.converged).sum())
        worst = float(self.residual.nan_to_num(nan=torch.inf).max())
        hint = (
            "" if worst < torch.inf else " (are the parameters of the network finite?)"
        )
        raise InversionError(
            f"{failed} of {self.converged.numel()} points missed the tolerance {self.tol:g}: "
            f"largest residual {worst:.3g}, most iterations {int(self.iterations.max())}{hint}",
            self,
        )

    def raise_unless_finite(self, dtype: torch.dtype) -> None:
        """Raise `InversionError` if some point leaves the range of the dtype."""
        largest = float(self.x.abs().max()) if self.x.numel() else 0.0
        if largest > torch.finfo(dtype).max:
            raise InversionError(
                f"the solution, of size {largest:.3g}, exceeds the range of {dtype}",
                self,
            )


@torch.no_grad()
def solve(
    blocks: Sequence[Block],
    z: Tensor,
    start: Tensor | None,
    lower: float | Tensor,
    tol: float,
    max_iterations: int,
    scale: Tensor | None = None,
) -> InverseSolution:
    """Invert detached blocks in their dtype, for data z of shape (E, B, n), and look at what came out.

    Args:
        blocks: first block first.
        z: (E, B, n), in the dtype of the blocks.
        start: points to start from, (E, B, n), or None.
        lower: a lower bound on the stretching of distances, a float or (E, 1).
        tol: bound on |phi(x) - z| relative to the scale.
        max_iterations: of each block.
        scale: (E, B); None means max(1, |z|).
    """
    length = z.norm(dim=-1).clamp_min(1.0)
    scale = length if scale is None else scale
    x, used = invert_blocks(blocks, z, start, tol * scale, max_iterations)
    residual = (evaluate(blocks, x) - z).norm(dim=-1)

    size = torch.maximum(length, _image_size(blocks, x))
    rounding = 16 * (len(blocks) + 1) * torch.finfo(z.dtype).eps * size
    return InverseSolution(
        x=x,
        residual=residual,
        iterations=used,
        converged=residual <= tol * scale,
        error_bound=(residual + rounding) / lower,
        tol=tol,
    )


def invert_blocks(
    blocks: Sequence[Block],
    z: Tensor,
    guess: Tensor | None,
    tol: Tensor,
    max_iterations: int,
) -> tuple[Tensor, Tensor]:
    """Invert the composition of `blocks`, last block first, for data z of shape (E, B, n).

    Each block starts from its own data, or from the forward pass of `guess`. The residual of a block reaches the end
    multiplied by at most the upper limit of each later block; so the blocks share `tol`, (E, B), the bound on
    |phi(x) - z|. Returns the points x and the iterations of each, over all blocks.
    """
    starts = [guess]
    for block in blocks[:-1]:
        starts.append(None if starts[-1] is None else block.value(starts[-1]))

    x = z
    share = tol / max(1, sum(block.iterative for block in blocks))
    iterations = torch.zeros(z.shape[:-1], dtype=torch.long, device=z.device)

    for block, start in zip(reversed(blocks), reversed(starts), strict=True):
        x, used = block.invert(x, start, share, max_iterations)
        iterations += used
        share = share / per_member(block.limits[1], share)
    return x, iterations


def _image_size(blocks: Sequence[Block], x: Tensor) -> Tensor:
    """The size of what is added up in the image of x, (E, B): the affine blocks at their worst."""
    size: Tensor = x.norm(dim=-1)
    for block in blocks:
        if isinstance(block, AffineBlock):
            shift = 0.0 if block.shift is None else block.shift.norm(dim=-1).to(x)
            size = per_member(block.limits[1], x) * size + shift
    return size


def attach_gradient(
    blocks: Sequence[Block], x: Tensor, z: Tensor, tol: float
) -> Tensor:
    r"""Return $x - [D\varphi(x)]^{-1}(\varphi(x) - z)$ with x and the inverse Jacobian held fixed, all (E, B, n).

    At a solution the correction vanishes, but its derivatives are those of the implicit function theorem:
    $[D\varphi]^{-1}$ in z and $-[D\varphi]^{-1} \partial_\theta \varphi$ in the parameters. Second derivatives would be
    wrong, so asking for them raises. `tol` is for blocks that solve linear systems by an iteration.
    """
    if not torch.is_grad_enabled():
        return x

    point, solvers = x, []
    for block in (block.detached(x.dtype) for block in blocks):
        point, at = block.linearize(point)
        solvers.append(block.solver(at, tol=tol))

    # Last, since its graph is the larger part of the memory
    correction = evaluate(blocks, x) - z
    if not correction.requires_grad:
        return x
    for solver in reversed(solvers):
        correction = solver(correction)
    return x - differentiable_once(correction, "the inverse")


def product(factors: Iterable[float | Tensor]) -> float | Tensor:
    """The product of numbers and tensors."""
    result: float | Tensor = 1.0
    for factor in factors:
        result = result * factor
    return result


def per_member(value: float | Tensor, like: Tensor) -> float | Tensor:
    """A number, or (E,) as (E, 1) in the dtype of `like`."""
    return value.unsqueeze(-1).to(like) if isinstance(value, Tensor) else value
