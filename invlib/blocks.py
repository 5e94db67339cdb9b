"""Residual blocks x + f(x): the activation, the exact spectral norm, and the evaluation with the exact Jacobian.

Derived in `book/residual-networks.md`; why the activation must be smooth, in `book/divergence.md`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Slopes = tuple[Tensor, ...]
"""Slopes of the two activations of a block, (E, B, width) each; empty for a linear block."""


def smooth_abs(u: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the activation $\sqrt{u^2 + 1/4} - 1/2$, a smooth absolute value, and its slope.

    The slope $u / \sqrt{u^2 + 1/4}$ lies in (-1, 1), so the activation never raises a Lipschitz bound; and away from
    the origin it is close to 1 in size, so little of the bound is wasted. It is $C^\infty$. The divergence term needs
    C^1: where the slope of an activation jumps, the sample-path gradient of the loss misses the kinks that move with
    the weights.
    """
    square = torch.addcmul(u.new_tensor(0.25), u, u)
    if u.requires_grad:
        root = square.sqrt()
        return root - 0.5, u / root
    inverse = square.rsqrt()  # cheaper, but in single precision its derivative is lost where |u| > 1e12
    return torch.addcmul(u.new_tensor(-0.5), square, inverse), u * inverse


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


class _ValueAndTangents(torch.autograd.Function):
    """The branch f, (E, B, n), and its derivatives in the n coordinate directions, (E, n, B, n), in one pass.

    The derivative is carried forward with the value: row 0 of each stack (E, 1 + n, B, width) is the value, the others
    are the tangents. All pass a layer in one matrix product, and the activation multiplies the tangents by its slope.

    The backward pass is the transpose, written out: what autograd would do takes half as long again, since it sweeps
    the memory once for each elementary operation. A product with a side of only n is several times faster when the
    short side comes first in memory; that is why some of them are written transposed.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *layers: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        weight1, bias1, weight2, bias2, weight3, bias3 = layers
        # The first layer is linear, so its weight is its derivative at every point.
        stack1, slope1, inverse1 = _activate(torch.baddbmm(bias1, x, weight1.mT), weight1.mT.unsqueeze(2))
        linear = _rows(stack1, weight2.mT)
        stack2, slope2, inverse2 = _activate(linear[:, 0] + bias2, linear[:, 1:])
        output = _rows(stack2, weight3.mT)
        ctx.save_for_backward(x, weight1, weight2, weight3, slope1, inverse1, stack1, linear, slope2, inverse2, stack2)
        return output[:, 0] + bias3, output[:, 1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, value: Tensor, tangents: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        x, weight1, weight2, weight3, slope1, inverse1, stack1, linear, slope2, inverse2, stack2 = ctx.saved_tensors
        output = torch.cat([value.unsqueeze(1), tangents], dim=1).flatten(1, 2)
        to_weight3 = output.mT @ stack2.flatten(1, 2)
        stack = (output @ weight3).unflatten(1, stack2.shape[1:3])
        _deactivate(stack, linear[:, 1:], slope2, inverse2)
        to_bias2 = stack[:, 0].sum(1, keepdim=True)
        to_weight2 = stack.flatten(1, 2).mT @ stack1.flatten(1, 2)
        stack = _rows(stack, weight2)
        _deactivate(stack, weight1.mT.unsqueeze(2), slope1, inverse1)
        first = stack[:, 0]
        to_weight1, to_bias1 = (x.mT @ first + stack[:, 1:].sum(2)).mT, first.sum(1, keepdim=True)
        to_x = first @ weight1.mT.contiguous().mT
        return to_x, to_weight1, to_bias1, to_weight2, to_bias2, to_weight3, value.sum(1, keepdim=True)


def _activate(u: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Apply `smooth_abs` to u, (E, B, width), and its slope to the tangents, (E, n, B or 1, width), of u.

    Returns the stack (E, 1 + n, B, width) of both, the slope (in the memory of u), and the inverse of the root.
    """
    square = torch.addcmul(u.new_tensor(0.25), u, u)
    inverse = square.rsqrt()
    slope = u.mul_(inverse)
    stack = u.new_empty(len(u), 1 + tangents.shape[1], *u.shape[1:])
    torch.addcmul(u.new_tensor(-0.5), square, inverse, out=stack[:, 0])
    torch.mul(slope.unsqueeze(1), tangents, out=stack[:, 1:])
    return stack, slope, inverse


def _deactivate(stack: Tensor, tangents: Tensor, slope: Tensor, inverse: Tensor) -> None:
    """Overwrite a gradient with respect to the result of `_activate` by that with respect to u and its tangents.

    The slope depends on u, too: its derivative is 1 / (4 root^3).
    """
    bend = stack[:, 1] * tangents[:, 0]
    for i in range(1, tangents.shape[1]):
        bend.addcmul_(stack[:, 1 + i], tangents[:, i])
    stack.mul_(slope.unsqueeze(1))
    stack[:, 0].addcmul_(bend, inverse.pow(3), value=0.25)


def _rows(stack: Tensor, matrix: Tensor) -> Tensor:
    """Multiply every row of a stack (E, S, B, inputs) by a matrix (E, inputs, outputs)."""
    return (stack.flatten(1, 2) @ matrix).unflatten(1, stack.shape[1:3])


def _add_identity(tangents: Tensor) -> Tensor:
    """The Jacobian of x + f, (E, B, n, n), from the tangents of f, (E, n, B, n)."""
    identity = torch.eye(tangents.shape[-1], dtype=tangents.dtype, device=tangents.device)
    return identity + tangents.permute(0, 2, 3, 1)


@dataclass(frozen=True)
class Block:
    """A block x + f(x) of every member: weights (E, out, in) and biases (E, 1, out) of the three layers of f."""

    weights: list[Tensor]
    biases: list[Tensor]

    def value(self, x: Tensor) -> Tensor:
        """Return x + f(x), (E, B, n)."""
        return self.value_and_slopes(x)[0]

    def value_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x + f(x), (E, B, n), and its Jacobian, (E, B, n, n), differentiable once."""
        layers = [tensor for layer in zip(self.weights, self.biases, strict=True) for tensor in layer]
        value, tangents = _ValueAndTangents.apply(x, *layers)
        return x + value, _add_identity(tangents)

    @property
    def is_low_rank(self) -> bool:
        """Whether the dimension exceeds the width: then $Df = UV$ with inner dimension `width`, less than n."""
        return self.weights[0].shape[-1] > self.weights[0].shape[-2]

    def value_and_slopes(self, x: Tensor) -> tuple[Tensor, Slopes]:
        """Return x + f(x), (E, B, n), and the slopes of the two activations: all that the derivative needs."""
        hidden, first = smooth_abs(torch.baddbmm(self.biases[0], x, self.weights[0].mT))
        hidden, second = smooth_abs(torch.baddbmm(self.biases[1], hidden, self.weights[1].mT))
        return x + torch.baddbmm(self.biases[2], hidden, self.weights[2].mT), (first, second)

    def tangent(self, slopes: Slopes, v: Tensor) -> Tensor:
        """Return the derivative of f, not of x + f, applied to v, (E, B, n)."""
        return self._inner_tangent(slopes, v) @ self.weights[2].mT

    def solver(self, slopes: Slopes) -> Callable[[Tensor], Tensor]:
        r"""Return the function $r \mapsto (I + Df)^{-1} r$ of residuals r of shape (E, B, n).

        With $Df = UV$ of low rank this is $r - U (I + VU)^{-1} V r$ (Woodbury): no n x n matrix is formed.
        """
        if not self.is_low_rank:
            return partial(solve_small, self._jacobian(slopes))

        def woodbury(residual: Tensor) -> Tensor:
            inner = self._inner_tangent(slopes, residual).unsqueeze(-1)
            return residual - torch.linalg.solve(self._core(slopes), inner).squeeze(-1) @ self.weights[2].mT

        return woodbury

    def value_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return x + f(x), (E, B, n), and $\log|\det(I + Df)|$, (E, B).

        For $Df = UV$ of low rank it is $\log|\det(I + VU)|$, the determinant of a smaller matrix (Sylvester).
        """
        if not self.is_low_rank:
            value, jacobian = self.value_and_jacobian(x)
            return value, log_abs_det(jacobian)
        value, slopes = self.value_and_slopes(x)
        return value, log_abs_det(self._core(slopes))

    def _inner_tangent(self, slopes: Slopes, v: Tensor) -> Tensor:
        """V v for the factorization Df = U V with U the last weight, (E, B, width)."""
        first, second = slopes
        return second * ((first * (v @ self.weights[0].mT)) @ self.weights[1].mT)

    def _jacobian(self, slopes: Slopes) -> Tensor:
        """I + U V, (E, B, n, n), the tangents of the n coordinate directions."""
        first, second = (slope.unsqueeze(1) for slope in slopes)
        columns = self.weights[0].mT.contiguous().unsqueeze(2)  # or the product would be laid out transposed
        tangents = second * _rows(first * columns, self.weights[1].mT)
        return _add_identity(_rows(tangents, self.weights[2].mT))

    def _core(self, slopes: Slopes) -> Tensor:
        """I + V U, (E, B, width, width)."""
        first, second = slopes
        mixed = (self.weights[0] @ self.weights[2]).unsqueeze(1)
        product = self.weights[1].unsqueeze(1) @ (first.unsqueeze(-1) * mixed)
        identity = torch.eye(product.shape[-1], dtype=first.dtype, device=first.device)
        return identity + second.unsqueeze(-1) * product

    def detached(self, dtype: torch.dtype) -> "Block":
        """Return the same block without gradients, in another dtype."""
        return Block([w.detach().to(dtype) for w in self.weights], [b.detach().to(dtype) for b in self.biases])


def evaluate(blocks: Sequence[Block], x: Tensor) -> Tensor:
    """Return the composition of the blocks, first block first, at x of shape (E, B, n)."""
    for block in blocks:
        x = block.value(x)
    return x


def evaluate_with_jacobian(blocks: Sequence[Block], x: Tensor) -> tuple[Tensor, Tensor]:
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
