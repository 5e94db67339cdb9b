"""Small linear algebra: exact spectral norms, and determinants and solutions that are fast in the plane."""

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError


def spectral_norm(weight: Tensor) -> Tensor:
    """Return the largest singular value, (...), of matrices (..., out, in): exact and differentiable.

    The value is the root of the largest eigenvalue of the smaller Gram matrix. Its gradient follows from
    sigma = u* W v with the singular vectors held fixed (they are stationary). No power iteration: that is a lower
    bound, and a bound from the wrong side certifies nothing. Complex matrices are allowed.

    Derived in `book/residual-networks.md`.

    Raises:
        torch.linalg.LinAlgError: if the weight is not finite.
    """
    try:
        with torch.no_grad():
            left, right = _top_singular_vectors(weight)
    except LinAlgError as error:
        message = "the spectral norm of a weight cannot be computed: are the parameters of the network finite?"
        raise LinAlgError(message) from error
    return (
        (left.mH @ weight @ right)[..., 0, 0].real
        if weight.is_complex()
        else (left.mT @ weight @ right)[..., 0, 0]
    )


def _top_singular_vectors(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The singular vectors (..., out, 1) and (..., in, 1) of the largest singular value."""
    rows, columns = weight.shape[-2:]
    tiny = torch.finfo(weight.dtype).tiny
    scale = weight.abs().amax(dim=(-2, -1), keepdim=True).clamp_min(tiny)
    unit = weight / scale

    if rows <= columns:
        left = torch.linalg.eigh(unit @ unit.mH).eigenvectors[..., -1:]
        right = unit.mH @ left
        return left, right / right.norm(dim=-2, keepdim=True).clamp_min(tiny)

    right = torch.linalg.eigh(unit.mH @ unit).eigenvectors[..., -1:]
    left = unit @ right
    return left / left.norm(dim=-2, keepdim=True).clamp_min(tiny), right


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Return the solutions, (..., n), of linear systems (..., n, n): in the plane by Cramer's rule, which is faster."""
    if matrix.shape[-1] != 2:
        solution: Tensor = torch.linalg.solve(matrix, right.unsqueeze(-1))
        return solution.squeeze(-1)

    (a, b), (c, d) = (row.unbind(-1) for row in matrix.unbind(-2))
    first, second = right.unbind(-1)
    adjugate = torch.stack([d * first - b * second, a * second - c * first], dim=-1)
    return adjugate / (a * d - b * c).unsqueeze(-1)


def log_abs_det(matrix: Tensor) -> Tensor:
    """Return log|det|, (...), of matrices (..., n, n)."""
    if matrix.shape[-1] != 2:
        return slogdet(matrix)

    (a, b), (c, d) = (row.unbind(-1) for row in matrix.unbind(-2))
    return (a * d - b * c).abs().log()


def slogdet(matrix: Tensor) -> Tensor:
    """Return log|det|, (...), of matrices (..., n, n) of any scale, by elimination with pivots."""
    log_det: Tensor = torch.linalg.slogdet(matrix).logabsdet
    return log_det


def jvp(
    function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """Return a function at x and its derivative there, applied to v."""
    _prepare_forward_mode()
    # A copy: it refuses expanded tensors
    result = torch.func.jvp(function, (x.contiguous(),), (v.contiguous(),))
    return result[0], result[1]


@functools.cache
def _prepare_forward_mode() -> None:
    """At its first use torch compiles something, and warns that its own way to do so is deprecated."""
    one = torch.ones(())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.sin, (one,), (one,))
