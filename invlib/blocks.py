r"""Blocks: the invertible maps that a network is composed of.

All blocks act on points of the shape (E, B, n): E members, which have parameters of their own, and B points for each.

A *residual block* is $x \mapsto x + f(x)$ with a Lipschitz constant of f below one. It says how f is evaluated and what
its Lipschitz constant is at most; everything else can be derived from these two: the derivative applied to a vector,
the Jacobian, linear systems with it (GMRES), the log-determinant (exact, or a power series), and the inverse
(safeguarded Newton). A block overrides what it can do better. An `AffineBlock` is the other kind.

Derived in `book/residual-networks.md`.
"""

import abc
import copy
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor

from invlib import krylov, linalg
from invlib.newton import newton

Linearization = tuple[Tensor, ...]
"""What a block needs to apply its derivative at each point: tensors of shape (E, B, ...)."""

Solver = Callable[[Tensor], Tensor]
"""Applies the inverse of the derivative to vectors (E, B, n)."""


class Block(abc.ABC):
    """An invertible map of R^n, (E, B, n) to (E, B, n). Most blocks are a `ResidualBlock`."""

    iterative = True
    """Whether `invert` iterates and takes a share of the tolerance."""

    @property
    @abc.abstractmethod
    def limits(self) -> tuple[float | Tensor, float | Tensor]:
        """Bounds (lower, upper) on the stretching of distances that hold by construction: numbers or (E,)."""

    @abc.abstractmethod
    def value(self, x: Tensor) -> Tensor:
        """Return the image of x, (E, B, n)."""

    @abc.abstractmethod
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return certified bounds (lower, upper) on the stretching of distances, (E,) each, as sharp as is known."""

    @abc.abstractmethod
    def tangent(self, at: Linearization, v: Tensor) -> Tensor:
        """Return the derivative of the block applied to v, (E, B, n)."""

    @abc.abstractmethod
    def solver(self, at: Linearization, *, tol: float) -> Solver:
        """Return the function that solves linear systems with the derivative, to a relative residual `tol`."""

    @abc.abstractmethod
    def estimate_log_det(
        self, at: Linearization, signs: Tensor, terms: int
    ) -> tuple[Tensor, Tensor]:
        """Return an estimate of log|det|, (E, B), without gradient, and a quantity with the gradient of it."""

    @abc.abstractmethod
    def log_det_bias(self, dim: int, terms: int) -> Tensor:
        """Return a bound on the bias of `estimate_log_det`, (E,)."""

    @abc.abstractmethod
    def invert(
        self, z: Tensor, start: Tensor | None, tol: Tensor, max_iterations: int
    ) -> tuple[Tensor, Tensor]:
        """Return the points whose image is z to the tolerance `tol`, (E, B), and the iterations of each, (E, B)."""

    def linearize(self, x: Tensor) -> tuple[Tensor, Linearization]:
        """Return the image of x and what `tangent` and `solver` need there."""
        return self.value(x), (x,)

    def value_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image of x, (E, B, n), and the Jacobian, (E, B, n, n)."""
        value, at = self.linearize(x)
        return value, self.jacobian(at)

    def jacobian(self, at: Linearization) -> Tensor:
        """Return the Jacobian, (E, B, n, n): the tangents of the n coordinate directions."""
        like = at[0]
        identity = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)

        def column(direction: Tensor) -> Tensor:
            return self.tangent(at, direction.expand_as(like))

        jacobian: Tensor = torch.func.vmap(column, out_dims=-1)(identity)
        return jacobian

    def value_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image of x, (E, B, n), and log|det| of the Jacobian, (E, B)."""
        value, jacobian = self.value_and_jacobian(x)
        return value, linalg.log_abs_det(jacobian)

    def to(self, dtype: torch.dtype) -> Self:
        """Return the same block in another dtype."""
        return self._map(lambda tensor: tensor.to(dtype))

    def detached(self, dtype: torch.dtype) -> Self:
        """Return the same block without gradients, in another dtype."""
        return self._map(lambda tensor: tensor.detach().to(dtype))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """A copy of the block, with a function applied to each of its tensors."""
        twin = copy.copy(self)
        vars(twin).update(
            {name: _apply(function, value) for name, value in vars(self).items()}
        )
        return twin


class ResidualBlock(Block):
    r"""A block $x \mapsto x + f(x)$ with Lip(f) < 1. A subclass gives `value` and `bound`.

    The tensors of a block are its attributes, or in lists or tuples: so they are found where it is needed in another
    dtype, or without gradients. The first linearization tensor must have the shape of x unless `jacobian` is
    overridden, too.

    Attributes:
        lipschitz: a bound L < 1 on Lip(f) that holds by construction; None: `bound` is asked each time.

    Example:
        >>> class Sine(ResidualBlock):
        ...     def __init__(self, weight):
        ...         self.weight = weight
        ...     def value(self, x):
        ...         return x + torch.sin(x @ self.weight.mT)
        ...     def bound(self):
        ...         return linalg.spectral_norm(self.weight)
        >>> block = Sine(0.5 * torch.eye(2).unsqueeze(0))
        >>> block.value_and_jacobian(torch.zeros(1, 1, 2))[1]
        tensor([[[[1.5000, 0.0000],
                  [0.0000, 1.5000]]]])
    """

    lipschitz: float | None = None

    @abc.abstractmethod
    def bound(self) -> Tensor:
        """Return a certified bound on Lip(f), (E,), below one."""

    def certified_bound(self) -> Tensor:
        """Return `bound`, (E,), after a look at it.

        Raises:
            ValueError: if it is not below one: then it certifies nothing.
        """
        bound = self.bound()
        if not bool((bound < 1).all()):
            raise ValueError(
                f"bound() of {type(self).__name__} must be less than one, got {bound.tolist()}"
            )
        return bound

    @property
    def limits(self) -> tuple[float | Tensor, float | Tensor]:
        """1 - L and 1 + L."""
        limit = (
            self.certified_bound().detach()
            if self.lipschitz is None
            else self.lipschitz
        )
        return 1 - limit, 1 + limit

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return 1 - Lip(f) and 1 + Lip(f), (E,) each, with the certified bound."""
        bound = self.certified_bound()
        return 1 - bound, 1 + bound

    def rank(self, dim: int) -> int:
        """Return a bound on the rank of the derivative of f in dimension `dim`."""
        return dim

    def branch_tangent(self, at: Linearization, v: Tensor) -> Tensor:
        """Return the derivative of f, not of x + f, applied to v, (E, B, n)."""
        return linalg.jvp(self.value, at[0], v)[1] - v

    def tangent(self, at: Linearization, v: Tensor) -> Tensor:
        """Return v + Df v, (E, B, n)."""
        return v + self.branch_tangent(at, v)

    def solver(self, at: Linearization, *, tol: float) -> Solver:
        """Return the function that applies (I + Df)^{-1} by GMRES: no matrix is formed."""

        def apply(v: Tensor) -> Tensor:
            return self.tangent(at, v)

        return lambda residual: krylov.solve(apply, residual, tol=tol)

    def estimate_log_det(
        self, at: Linearization, signs: Tensor, terms: int
    ) -> tuple[Tensor, Tensor]:
        r"""Return the first `terms` terms of $\log\det(I + J) = \sum_k (-1)^{k+1} \mathrm{tr}(J^k)/k$, estimated.

        The trace of a matrix A is estimated by v* A v with random signs v. The second result is v* J a with
        $a = \sum_k (-J)^k v$ held fixed: its gradient is right, its value means nothing.
        """
        value = torch.zeros_like(signs[..., 0])
        with torch.no_grad():
            power = signs
            resolvent = torch.zeros_like(signs)
            for k in range(1, terms + 1):
                resolvent = resolvent + power
                power = -self.branch_tangent(at, power)
                value = value - (signs * power).sum(-1) / k
        return value, (signs * self.branch_tangent(at, resolvent)).sum(-1)

    def log_det_bias(self, dim: int, terms: int) -> Tensor:
        r"""Return rank(J) L^{m+1} / ((m + 1)(1 - L)), (E,), for m terms: what the rest of the series can be."""
        bound = self.certified_bound()
        return self.rank(dim) * bound ** (terms + 1) / ((terms + 1) * (1 - bound))

    def invert(
        self, z: Tensor, start: Tensor | None, tol: Tensor, max_iterations: int
    ) -> tuple[Tensor, Tensor]:
        """Return the points whose image is z, by `newton` from `start` or from z itself, and their iterations."""
        return newton(self, z, z if start is None else start, tol, max_iterations)


class AffineBlock(Block):
    """The map x -> M x + b with an invertible matrix M: a fixed layer of a network.

    Args:
        matrix: M, (E, n, n) or (1, n, n).
        shift: b, (E, 1, n) or (1, 1, n); None means zero.
    """

    iterative = False

    def __init__(self, matrix: Tensor, shift: Tensor | None = None) -> None:
        self.matrix = matrix
        self.shift = shift
        singular_values = torch.linalg.svdvals(matrix)
        self._range = (singular_values[..., -1], singular_values[..., 0])

    @property
    def limits(self) -> tuple[Tensor, Tensor]:
        """The least and the largest singular value of M, (E,) each."""
        return self._range

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the least and the largest singular value of M, (E,) each."""
        return self._range

    def value(self, x: Tensor) -> Tensor:
        """Return M x + b."""
        image: Tensor = x @ self.matrix.to(x).mT
        return image if self.shift is None else image + self.shift.to(x)

    def tangent(self, at: Linearization, v: Tensor) -> Tensor:
        """Return M v."""
        return v @ self.matrix.to(v).mT

    def jacobian(self, at: Linearization) -> Tensor:
        """Return M, (E, 1, n, n), the same at every point."""
        return self.matrix.to(at[0]).unsqueeze(1)

    def value_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return M x + b and log|det M|."""
        return self.value(x), self._log_det(x)

    def solver(self, at: Linearization, *, tol: float) -> Solver:
        """Return the function that applies M^{-1}."""
        return self._solve

    def estimate_log_det(
        self, at: Linearization, signs: Tensor, terms: int
    ) -> tuple[Tensor, Tensor]:
        """Return log|det M|, exactly, and zero."""
        return self._log_det(signs), torch.zeros_like(signs[..., 0])

    def log_det_bias(self, dim: int, terms: int) -> Tensor:
        """Return zero: nothing is estimated."""
        return torch.zeros_like(self._range[0])

    def invert(
        self, z: Tensor, start: Tensor | None, tol: Tensor, max_iterations: int
    ) -> tuple[Tensor, Tensor]:
        """Return M^{-1} (z - b), and no iterations."""
        x = self._solve(z if self.shift is None else z - self.shift.to(z))
        return x, torch.zeros(z.shape[:-1], dtype=torch.long, device=z.device)

    def _solve(self, v: Tensor) -> Tensor:
        solution: Tensor = torch.linalg.solve(self.matrix.to(v), v.mT)
        return solution.mT

    def _log_det(self, points: Tensor) -> Tensor:
        log_det = linalg.slogdet(self.matrix.to(points))
        return torch.zeros_like(points[..., 0]) + log_det.unsqueeze(-1)


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


def _apply(function: Callable[[Tensor], Tensor], value: object) -> object:
    """The function of a tensor, also in lists and tuples; anything else as it is."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_apply(function, entry) for entry in value)
    return value
