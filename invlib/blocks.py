"""Residual blocks x + f(x): the activation, the exact spectral norm, and the evaluation with the exact Jacobian."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def smooth_abs(u: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the activation $\sqrt{u^2 + 1/4} - 1/2$, a smooth absolute value, and its slope.

    The slope $u / \sqrt{u^2 + 1/4}$ lies in (-1, 1), so the activation never raises a Lipschitz bound; and away from
    the origin it is close to 1 in size, so little of the bound is wasted. It is $C^\infty$. The divergence term needs
    C^1: where the slope of an activation jumps, the sample-path gradient of the loss misses the kinks that move with
    the weights.
    """
    root = torch.sqrt(u.square() + 0.25)
    return root - 0.5, u / root


def spectral_norm(weight: Tensor) -> Tensor:
    """Return the largest singular value, (...), of matrices (..., out, in): exact and differentiable.

    The value is the root of the largest eigenvalue of the smaller Gram matrix. Its gradient follows from
    sigma = u* W v with the singular vectors held fixed (they are stationary). No power iteration: that is a lower
    bound, and a bound from the wrong side certifies nothing.
    """
    rows, columns = weight.shape[-2:]
    with torch.no_grad():
        scale = weight.abs().amax(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        unit = weight / scale
        gram = unit @ unit.mT if rows <= columns else unit.mT @ unit
        top = torch.linalg.eigh(gram).eigenvectors[..., -1:]
        other = unit.mT @ top if rows <= columns else unit @ top
        other = other / other.norm(dim=-2, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        left, right = (top, other) if rows <= columns else (other, top)
    return (left.mT @ weight @ right)[..., 0, 0]


def solve_small(matrix: Tensor, right: Tensor) -> Tensor:
    """Return the solutions, (..., n), of linear systems (..., n, n): in the plane by Cramer's rule, which is faster."""
    if matrix.shape[-1] != 2:
        return torch.linalg.solve(matrix, right.unsqueeze(-1)).squeeze(-1)
    (a, b), (c, d) = (row.unbind(-1) for row in matrix.unbind(-2))
    first, second = right.unbind(-1)
    return torch.stack([d * first - b * second, a * second - c * first], dim=-1) / (a * d - b * c).unsqueeze(-1)


def log_abs_det(matrix: Tensor) -> Tensor:
    """Return log|det|, (...), of matrices (..., n, n)."""
    if matrix.shape[-1] != 2:
        return torch.linalg.slogdet(matrix).logabsdet
    (a, b), (c, d) = (row.unbind(-1) for row in matrix.unbind(-2))
    return (a * d - b * c).abs().log()


@dataclass(frozen=True)
class Block:
    """A block x + f(x) of every member: weights (E, out, in) and biases (E, 1, out) of the three layers of f."""

    weights: list[Tensor]
    biases: list[Tensor]

    def value(self, x: Tensor) -> Tensor:
        """Return x + f(x), (E, B, n)."""
        hidden, _ = smooth_abs(torch.baddbmm(self.biases[0], x, self.weights[0].mT))
        hidden, _ = smooth_abs(torch.baddbmm(self.biases[1], hidden, self.weights[1].mT))
        return x + torch.baddbmm(self.biases[2], hidden, self.weights[2].mT)

    def value_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x + f(x), (E, B, n), and its Jacobian, (E, B, n, n).

        The derivative is carried forward with the value: the value and the n tangents pass each layer in one matrix
        product, and the activation multiplies the tangents by its slope.
        """
        _, count, dim = x.shape
        value = torch.baddbmm(self.biases[0], x, self.weights[0].mT)
        tangents = self.weights[0].mT.unsqueeze(-2)  # (E, n, 1, width): the derivative of a layer is its weight
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            value, slope = smooth_abs(value)
            value = torch.baddbmm(bias, value, weight.mT)
            tangents = ((slope.unsqueeze(1) * tangents).flatten(1, 2) @ weight.mT).unflatten(1, (dim, count))
        identity = torch.eye(dim, dtype=x.dtype, device=x.device)
        return x + value, identity + tangents.permute(0, 2, 3, 1)

    @property
    def is_low_rank(self) -> bool:
        """Whether the dimension exceeds the width: then the derivative of f has low rank, and `core` is smaller."""
        return self.weights[0].shape[-1] > self.weights[0].shape[-2]

    def value_and_derivative(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x + f(x) and what `solve` and `log_abs_det` need of the derivative there, (E, B, ...).

        It is the Jacobian; where the dimension exceeds the width, the slopes of the two activations, (E, B, 2, width).
        """
        return self.value_and_slopes(x) if self.is_low_rank else self.value_and_jacobian(x)

    def value_and_slopes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x + f(x), (E, B, n), and the slopes of the two activations, (E, B, 2, width)."""
        hidden, first = smooth_abs(torch.baddbmm(self.biases[0], x, self.weights[0].mT))
        hidden, second = smooth_abs(torch.baddbmm(self.biases[1], hidden, self.weights[1].mT))
        return x + torch.baddbmm(self.biases[2], hidden, self.weights[2].mT), torch.stack([first, second], dim=-2)

    def tangent(self, slopes: Tensor, v: Tensor) -> Tensor:
        """Return the derivative of f, not of x + f, applied to v, (E, B, n)."""
        return self._inner_tangent(slopes, v) @ self.weights[2].mT

    def solve(self, derivative: Tensor, residual: Tensor) -> Tensor:
        r"""Return $(I + Df)^{-1} r$ for residuals r of shape (E, B, n).

        With $Df = UV$ of low rank this is $r - U (I + VU)^{-1} V r$ (Woodbury): no n x n matrix is formed.
        """
        if not self.is_low_rank:
            return solve_small(derivative, residual)
        inner = self._inner_tangent(derivative, residual).unsqueeze(-1)
        return residual - torch.linalg.solve(self._core(derivative), inner).squeeze(-1) @ self.weights[2].mT

    def log_abs_det(self, derivative: Tensor) -> Tensor:
        r"""Return $\log|\det(I + Df)|$, (E, B); for $Df = UV$ of low rank as $\log|\det(I + VU)|$ (Sylvester)."""
        return log_abs_det(self._core(derivative) if self.is_low_rank else derivative)

    def _inner_tangent(self, slopes: Tensor, v: Tensor) -> Tensor:
        """V v for the factorization Df = U V with U the last weight, (E, B, width)."""
        hidden = slopes[..., 0, :] * (v @ self.weights[0].mT)
        return slopes[..., 1, :] * (hidden @ self.weights[1].mT)

    def _core(self, slopes: Tensor) -> Tensor:
        """I + V U, (E, B, width, width)."""
        mixed = (self.weights[0] @ self.weights[2]).unsqueeze(1)
        product = self.weights[1].unsqueeze(1) @ (slopes[..., 0, :].unsqueeze(-1) * mixed)
        identity = torch.eye(product.shape[-1], dtype=slopes.dtype, device=slopes.device)
        return identity + slopes[..., 1, :].unsqueeze(-1) * product

    def detached(self, dtype: torch.dtype) -> "Block":
        """Return the same block without gradients, in another dtype."""
        return Block([w.detach().to(dtype) for w in self.weights], [b.detach().to(dtype) for b in self.biases])


@dataclass(frozen=True)
class LinearBlock:
    """A fixed invertible linear map x -> M x in the place of a block, (E, n, n)."""

    matrix: Tensor

    def value(self, x: Tensor) -> Tensor:
        """Return M x, (E, B, n)."""
        return x @ self.matrix.mT

    def value_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return M x, (E, B, n), and M for every point, (E, B, n, n)."""
        return self.value(x), self.matrix.unsqueeze(1).expand(*x.shape, x.shape[-1])

    def value_and_derivative(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return M x, and an empty derivative, (E, B, 0, 0): the matrix is known."""
        return self.value(x), x.new_empty(*x.shape[:2], 0, 0)

    value_and_slopes = value_and_derivative

    def tangent(self, derivative: Tensor, v: Tensor) -> Tensor:
        """Return (M - I) v, the derivative of the map less that of the identity, (E, B, n)."""
        return self.value(v) - v

    def solve(self, derivative: Tensor | None, residual: Tensor) -> Tensor:
        """Return M^{-1} r for residuals r of shape (E, B, n)."""
        return torch.linalg.solve(self.matrix, residual.mT).mT

    def log_abs_det(self, derivative: Tensor) -> Tensor:
        """Return log|det M|, (E, B)."""
        return torch.linalg.slogdet(self.matrix).logabsdet.unsqueeze(-1).expand(derivative.shape[:2])

    def detached(self, dtype: torch.dtype) -> "LinearBlock":
        """Return the same map in another dtype."""
        return LinearBlock(self.matrix.to(dtype))


def evaluate(blocks: Sequence[Block | LinearBlock], x: Tensor) -> Tensor:
    """Return the composition of the blocks, first block first, at x of shape (E, B, n)."""
    for block in blocks:
        x = block.value(x)
    return x


def evaluate_with_jacobian(blocks: Sequence[Block | LinearBlock], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the composition at x, (E, B, n), and its Jacobian, (E, B, n, n), the product of the blocks' Jacobians."""
    x, jacobian = blocks[0].value_and_jacobian(x)
    for block in blocks[1:]:
        x, block_jacobian = block.value_and_jacobian(x)
        jacobian = block_jacobian @ jacobian
    return x, jacobian


def block_bounds(blocks: Sequence[Block]) -> Tensor:
    """Return the product of the spectral norms of each block's layers, (E, K): a bound on its Lip(f)."""
    layers = zip(*(block.weights for block in blocks), strict=True)
    return torch.stack([spectral_norm(torch.stack(weights, dim=1)) for weights in layers]).prod(dim=0)


def bilipschitz_bounds(blocks: Sequence[Block | LinearBlock]) -> tuple[Tensor, Tensor]:
    """Return (E,) lower and upper bounds of |phi(a) - phi(b)| / |a - b| for the composition phi of the blocks."""
    bounds = block_bounds([block for block in blocks if isinstance(block, Block)])
    lower, upper = (1 - bounds).prod(dim=-1), (1 + bounds).prod(dim=-1)
    for block in blocks:
        if isinstance(block, LinearBlock):
            singular_values = torch.linalg.svdvals(block.matrix)
            lower, upper = lower * singular_values[:, -1], upper * singular_values[:, 0]
    return lower, upper
