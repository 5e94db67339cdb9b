r"""Invertible residual networks: compositions of blocks with certified bounds, exact or estimated traces, an inverse.

A network is a composition of blocks $x \mapsto x + f_k(x)$ with $\mathrm{Lip}(f_k) \le L < 1$; by Banach's fixed-point
theorem each block is a homeomorphism, and with a C^1 activation a diffeomorphism (Behrmann et al. 2019).

Every tensor carries a leading *member* axis E: an ensemble or a sweep is evaluated in the same matrix products as a
single network, which is the case E = 1.

Derived in `book/residual-networks.md`: bounds, Jacobians, determinants, and the two stochastic estimates.
"""

import abc
import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from invlib import _checks
from invlib.activations import SMOOTH_ABS, Activation, as_activation
from invlib.blocks import (
    AffineBlock,
    Block,
    ResidualBlock,
    evaluate,
    evaluate_with_jacobian,
)
from invlib.errors import differentiable_once
from invlib.inverse import InverseSolution, attach_gradient, per_member, product, solve
from invlib.networks import (
    InvertibleNetwork,
    check_device,
    check_metric,
    full_precision,
    random_signs,
    weighted_trace,
)
from invlib.standard import StandardVariables
from invlib.threads import one_thread_if_small

LARGEST_DATUM = 1e150
"""Data beyond it are refused: their squares leave the range of double precision."""


@dataclass(frozen=True)
class LogDetEstimate:
    """A stochastic estimate of log|det D phi(x)|.

    Attributes:
        value: (...), without a gradient. Its expectation misses the log-determinant by at most `bias_bound`.
        surrogate: (...), a quantity whose *gradient* estimates that of the log-determinant. Its value means nothing.
        bias_bound: sum_k r_k L_k^{m+1} / ((m + 1)(1 - L_k)) for m terms and blocks of rank r_k, a float, or (E,) with
            members.
    """

    value: Tensor
    surrogate: Tensor
    bias_bound: float | Tensor


class Composition(InvertibleNetwork, abc.ABC):
    """The settings of a residual network, its blocks, its certified bounds, and the checks of its arguments.

    Args:
        dim: the dimension n.
        members: None for one network, or the number E of networks evaluated side by side.
        lipschitz: the bound L on every block, 0 < L < 1.
        activation: a name or an `Activation`.
        output_operator: an invertible matrix M, (n, n) or (E, n, n), for a fixed linear last layer; or None.
        exact: whether log-determinant and divergence are exact or estimated; None lets the size decide.

    Attributes:
        standard: the fixed first and last layers around the blocks (`IResNet.for_problem`), or None.
        exact_log_det: up to this rank of a block's derivative the log-determinant is exact unless asked otherwise.
        exact_divergence: up to this dimension the divergence is.
    """

    exact_log_det = 64
    exact_divergence = 16

    def __init__(
        self,
        dim: int,
        *,
        members: int | None = None,
        lipschitz: float = 0.97,
        activation: Activation | str = SMOOTH_ABS,
        output_operator: object | None = None,
        exact: bool | None = None,
    ) -> None:
        super().__init__()
        self.dim = _checks.count("dim", dim)
        self.members = members if members is None else _checks.count("members", members)
        self.lipschitz = _checks.open_unit("lipschitz", lipschitz)
        self.activation = as_activation(activation)
        self.standard: StandardVariables | None = None
        self._output: AffineBlock | None = None
        self.output_operator = output_operator
        self.exact = _check_exact(exact)

    @abc.abstractmethod
    def residual_blocks(self) -> list[ResidualBlock]:
        """Return the blocks with their constrained weights, in the dtype of the parameters."""

    @property
    def output_operator(self) -> Tensor | None:
        """The matrix M of the fixed last layer, (E or 1, n, n), float64, or None."""
        return None if self._output is None else self._output.matrix

    @output_operator.setter
    def output_operator(self, value: object | None) -> None:
        if value is None:
            self._output = None
        else:
            self._output = AffineBlock(_check_output(value, self.dim, self.members))

    @full_precision
    def lipschitz_bounds(self) -> tuple[float, float] | tuple[Tensor, Tensor]:
        """Return certified bounds (lower, upper), a pair of floats or of (E,) tensors with members.

        For all a and b: lower |a - b| <= |phi(a) - phi(b)| <= upper |a - b|.
        """
        pairs = [block.bounds() for block in self._exact_blocks()]
        one = torch.ones(
            self.members or 1, dtype=torch.float64, device=self._parameter.device
        )
        lower = upper = one
        for block_lower, block_upper in pairs:
            lower, upper = lower * block_lower, upper * block_upper
        return self._as_member(lower), self._as_member(upper)  # type: ignore[return-value]

    @full_precision
    def block_bounds(self) -> Tensor:
        """Return the certified bound on Lip(f_k) of each block, (K,) or (E, K)."""
        residual = [
            block for block in self._exact_blocks() if isinstance(block, ResidualBlock)
        ]
        bounds = torch.stack([block.certified_bound() for block in residual], dim=-1)
        return bounds[0] if self.members is None else bounds

    def get_extra_state(self) -> dict[str, Any]:
        """Return the settings that change the map and are no parameters: part of `state_dict`."""
        return {
            "lipschitz": self.lipschitz,
            "activation": self.activation.name,
            "output_operator": self.output_operator,
            "standard": None if self.standard is None else self.standard.state(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the settings.

        Raises:
            ValueError: if the state belongs to a network with another activation, or its last layer does not fit.
        """
        if state["activation"] != self.activation.name:
            found = f"{state['activation']!r}, the network has {self.activation.name!r}"
            raise ValueError(f"activation must be that of the saved network, {found}")
        self.lipschitz = _checks.open_unit("lipschitz", state["lipschitz"])
        self.output_operator = state["output_operator"]
        standard = state.get("standard")
        self.standard = None if standard is None else StandardVariables(**standard)

    def _blocks(self, dtype: torch.dtype) -> list[Block]:
        """All blocks in a dtype, with gradients."""
        blocks: list[Block] = list(self.residual_blocks())
        if dtype != self._parameter.dtype:
            blocks = [block.to(dtype) for block in blocks]
        if self.standard is not None:
            blocks = [self.standard.first, *blocks, self.standard.last]
        return blocks if self._output is None else [*blocks, self._output]

    def _exact_blocks(self) -> list[Block]:
        """All blocks in float64, without gradients, after a look at the parameters."""
        self._check_finite()
        return [
            block.detached(torch.float64)
            for block in self._blocks(self._parameter.dtype)
        ]

    def _check_finite(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.is_meta:
                raise ValueError(
                    f"parameter {name} of the network must have values, but it is on the device meta"
                )
            _checks.finite(f"parameter {name} of the network", parameter.detach())

    @property
    def _parameter(self) -> Tensor:
        """The first parameter: the others have its dtype and device."""
        first, *others = self.parameters()
        dtypes = list(dict.fromkeys(parameter.dtype for parameter in (first, *others)))
        if dtypes not in ([torch.float32], [torch.float64]):
            found = ", ".join(map(str, dtypes))
            raise ValueError(
                f"the parameters of the network must all be float32, or all float64, got {found}"
            )
        return first

    def _points(self, name: str, x: Tensor) -> Tensor:
        """Reshape to (E, B, n), in the wider of the dtypes of points and parameters."""
        _checks.points(name, x, self.dim)
        parameter = self._parameter
        check_device(name, x, parameter)
        if self.members is not None and (x.ndim < 2 or x.shape[0] != self.members):
            raise ValueError(
                f"{name} must have shape ({self.members}, ..., {self.dim}), got {tuple(x.shape)}"
            )
        dtype = torch.promote_types(x.dtype, parameter.dtype)
        return x.to(dtype).reshape(
            self.members or 1, math.prod(x.shape[:-1]) // (self.members or 1), self.dim
        )

    def _data(self, z: Tensor) -> Tensor:
        """Data of the inverse, (E, B, n): finite, and not too large to be squared."""
        data = self._points("z", z)
        largest = (
            float(_checks.finite("z", z.detach()).abs().max()) if z.numel() else 0.0
        )
        if largest > LARGEST_DATUM:
            raise ValueError(
                f"z must not exceed {LARGEST_DATUM:g} in size, got {largest:g}"
            )
        return data if largest < 1e15 else data.to(torch.float64)

    def _metric(self, metric: Tensor, x: Tensor) -> Tensor:
        batch = tuple(x.shape[:-2]) if self.members is None else (self.members,)
        return check_metric(metric, x, batch)

    def _like(self, x: Tensor, value: Tensor) -> Tensor:
        return value.reshape(x.shape).to(x.dtype)

    def _bounds_text(self) -> str:
        """The certified bounds, which hold for every member, for the network's repr, which never raises."""
        try:
            lower, upper = map(torch.as_tensor, self.lipschitz_bounds())
        except (ValueError, RuntimeError):  # of a diverged or a half precision network
            return "bounds=unknown"
        return f"bounds=({float(lower.min()):.3g}, {float(upper.max()):.3g})"

    def _as_member(self, value: Tensor) -> float | Tensor:
        """A float, or (E,) with members."""
        return float(value) if self.members is None else value.expand(self.members)

    def _decide(self, asked: bool | None, default: bool) -> bool:
        for choice in (asked, self.exact):
            if _check_exact(choice) is not None:
                return bool(choice)
        return default

    def _rank(self, blocks: Sequence[Block]) -> int:
        return max(
            block.rank(self.dim) for block in blocks if isinstance(block, ResidualBlock)
        )

    @property
    def work(self) -> int:
        """About the multiply-adds of one evaluation at one point of each member."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _size(self, z: Tensor) -> Tensor:
        """What a tolerance of the inverse is relative to, (E, B), for data z, (E, B, n)."""
        return (
            z.norm(dim=-1).clamp_min(1.0)
            if self.standard is None
            else self.standard.size(z)
        )

    def _guess(self, guess: Tensor, z: Tensor) -> Tensor:
        points = self._points("guess", guess).detach()
        if guess.shape != z.shape:
            raise ValueError(
                f"guess must have the shape of z, {tuple(z.shape)}, got {tuple(guess.shape)}"
            )
        return _checks.finite("guess", points)


class ResidualNetwork(Composition):
    """A composition of residual blocks, and of a fixed last layer. A subclass builds the blocks.

    Arguments as for `Composition`; a subclass gives `residual_blocks`.
    """

    def core(self) -> Self:
        """Return the network without the fixed layers of its standard variables, with the same parameters."""
        core = copy.copy(self)
        core.standard = None
        return core

    @full_precision
    def forward(self, x: Tensor) -> Tensor:
        """Return phi(x) for x of shape (..., n), or (E, ..., n) with members; same shape and dtype.

        Raises:
            ValueError: if `x` has another shape than the network, or is no tensor in single or double precision. The
                same holds for the methods below.
        """
        points = self._points("x", x)
        return self._like(x, evaluate(self._blocks(points.dtype), points))

    @full_precision
    def forward_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return phi(x) and the exact Jacobian D phi(x), (..., n, n), for x of shape (..., n) or (E, ..., n)."""
        points = self._points("x", x)
        value, jacobian = evaluate_with_jacobian(self._blocks(points.dtype), points)
        return self._like(x, value), jacobian.reshape(*x.shape, x.shape[-1]).to(x.dtype)

    @full_precision
    def forward_and_log_det(
        self,
        x: Tensor,
        *,
        exact: bool | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return phi(x) and log|det D phi(x)|, (...), the sum of the blocks' log-determinants.

        Args:
            x: (..., n), or (E, ..., n) with members.
            exact: whether to compute it or to estimate it by `estimate_log_det`; None means `self.exact`, and if that
                is None, too: exact where the rank of the blocks' derivatives is at most 64.
            generator: for the estimate.
        """
        points = self._points("x", x)
        blocks = self._blocks(points.dtype)
        if not self._decide(exact, self._rank(blocks) <= self.exact_log_det):
            value, estimate = self.estimate_log_det(x, generator=generator)
            # The value of the one with the gradient of the other.
            return (
                value,
                estimate.value + estimate.surrogate - estimate.surrogate.detach(),
            )

        total = torch.zeros_like(points[..., 0])
        for block in blocks:
            points, log_det = block.value_and_log_det(points)
            total = total + log_det
        total = differentiable_once(total, "the log-determinant")
        return self._like(x, points), self._like(x[..., 0], total)

    @full_precision
    def forward_and_divergence(
        self,
        x: Tensor,
        *,
        metric: Tensor | None = None,
        exact: bool | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return phi(x) and the divergence tr(W D phi(x)), (...).

        Args:
            x: (..., n), or (E, ..., n) with members.
            metric: W, (n, n) or (E, n, n); None means the identity.
            exact: whether to compute it or to estimate it by `estimate_divergence`; None means `self.exact`, and if
                that is None, too: exact up to dimension 16.
            generator: for the estimate.
        """
        self._points("x", x)
        if metric is not None:
            metric = self._metric(metric, x)
        if self._decide(exact, x.shape[-1] <= self.exact_divergence):
            return self._exact_divergence(x, metric)
        return self.estimate_divergence(x, metric=metric, generator=generator)

    @full_precision
    def estimate_divergence(
        self,
        x: Tensor,
        *,
        metric: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        r"""Return phi(x) and Hutchinson's estimate $v^* W D\varphi(x)\, v$ of $\mathrm{tr}(W D\varphi(x))$, (...).

        The entries of v are random signs. The estimate and its gradient are unbiased, at the cost of two forward passes
        in any dimension. In standard variables (`IResNet.for_problem`) they are the signs of the core's variables, in
        which its derivative is near the identity. `metric` is W, (n, n) or (E, n, n); None means the identity.
        """
        points = self._points("x", x)
        left = right = random_signs(points, generator)
        if self.standard is not None:
            left, right = self.standard.probes(right)
        weighted = (
            left if metric is None else self._weigh(left, self._metric(metric, x))
        )
        value, tangent = self._value_and_tangent(points, right)
        return self._like(x, value), self._like(x[..., 0], (weighted * tangent).sum(-1))

    @full_precision
    def estimate_log_det(
        self, x: Tensor, *, terms: int = 20, generator: torch.Generator | None = None
    ) -> tuple[Tensor, LogDetEstimate]:
        r"""Return phi(x) and a `LogDetEstimate` from the first `terms` terms of the power series of each block.

        $\log\det(I + J)$ $= \sum_{k \ge 1} (-1)^{k+1} \mathrm{tr}(J^k)/k$, with each trace estimated from one vector of
        random signs, at the cost of `terms` + 1 tangents of each block. The gradient is that of the surrogate, once.
        """
        _checks.count("terms", terms)
        points = self._points("x", x)
        value = surrogate = torch.zeros_like(points[..., 0])
        bias = torch.zeros(())

        for block in self._blocks(points.dtype):
            points, at = block.linearize(points)
            signs = random_signs(points, generator) if block.iterative else points
            block_value, block_surrogate = block.estimate_log_det(at, signs, terms)
            value = value + block_value
            surrogate = surrogate + block_surrogate
            bias = bias + block.detached(torch.float64).log_det_bias(x.shape[-1], terms)

        surrogate = differentiable_once(
            surrogate, "the estimate of the log-determinant"
        )
        estimate = LogDetEstimate(
            value=self._like(x[..., 0], value),
            surrogate=self._like(x[..., 0], surrogate),
            bias_bound=self._as_member(bias),
        )
        return self._like(x, points), estimate

    @full_precision
    def inverse(
        self, z: Tensor, *, tol: float = 1e-10, guess: Tensor | None = None
    ) -> Tensor:
        """Return phi^{-1}(z), of the shape and dtype of z, differentiable once in z and in the parameters.

        The solution is found without recording a graph (`solve_inverse`); its gradient follows from the implicit
        function theorem, by one Newton step whose Jacobian and starting point are held fixed.

        Args:
            z: (..., n), or (E, ..., n) with members.
            tol: bound on |phi(x) - z| relative to max(1, |z|), reached in float64; from 1e-3 on in the dtype of z. In
                standard variables (`IResNet.for_problem`) it is relative to the size of z there.
            guess: points of the shape of z close to the solution, to start from.

        Raises:
            InversionError: if `tol` was not reached for some z, or the dtype of z cannot hold the solution.
        """
        tol = _checks.positive("tol", tol)
        data = self._data(z)
        blocks = self._blocks(data.dtype)

        # Single precision is enough where no more than three digits are asked for, as in training.
        lower = product(per_member(block.limits[0], data) for block in blocks)
        for dtype in dict.fromkeys(
            (data.dtype if tol >= 1e-3 else torch.float64, torch.float64)
        ):
            detached = [block.detached(dtype) for block in blocks]
            solution = self._solve(
                detached, lower, z, guess, dtype, tol, max_iterations=200
            )
            if bool(solution.converged.all()):
                break
        solution.raise_unless_converged()
        solution.raise_unless_finite(z.dtype)

        x = solution.x.to(data.dtype).reshape(data.shape)
        linear_tol = max(min(tol, 1e-3), 32 * torch.finfo(data.dtype).eps)
        return self._like(z, attach_gradient(blocks, x, data, linear_tol))

    @full_precision
    def solve_inverse(
        self,
        z: Tensor,
        *,
        tol: float = 1e-10,
        guess: Tensor | None = None,
        max_iterations: int = 200,
    ) -> InverseSolution:
        """Return phi^{-1}(z) in float64 with residuals, iteration counts and error bounds; see `InverseSolution`.

        Args as for `inverse`; `max_iterations` bounds the iterations of each block. Nothing is raised where the
        tolerance is missed: the solution says so.
        """
        tol = _checks.positive("tol", tol)
        self._data(z)
        blocks = self._exact_blocks()
        lower = product(block.bounds()[0].unsqueeze(-1) for block in blocks)
        return self._solve(
            blocks,
            lower,
            z,
            guess,
            torch.float64,
            tol,
            _checks.count("max_iterations", max_iterations),
        )

    def _weigh(self, signs: Tensor, metric: Tensor) -> Tensor:
        """The signs, (E, B, n) or (1, B, n), times the metric of their member, or of their batch."""
        if self.members is None and metric.ndim > 2:
            batch = metric.shape[:-2]
            return (
                signs.reshape(*batch, -1, signs.shape[-1]) @ metric.to(signs)
            ).reshape(signs.shape)
        return signs @ metric.to(signs)

    def _value_and_tangent(self, points: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """phi(x) and D phi(x) v, both (E, B, n)."""
        tangent = v
        for block in self._blocks(points.dtype):
            points, at = block.linearize(points)
            tangent = block.tangent(at, tangent)
        return points, tangent

    def _exact_divergence(
        self, x: Tensor, metric: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        value, jacobian = self.forward_and_jacobian(x)
        if metric is None or self.members is None:
            return value, weighted_trace(jacobian, metric)
        single = (self.dim, self.dim)
        together = jacobian.reshape(
            self.members, x.shape[:-1].numel() // self.members, *single
        )
        return value, weighted_trace(together, metric).reshape(x.shape[:-1])

    def _solve(
        self,
        blocks: Sequence[Block],
        lower: float | Tensor,
        z: Tensor,
        guess: Tensor | None,
        dtype: torch.dtype,
        tol: float,
        max_iterations: int,
    ) -> InverseSolution:
        """Invert the detached blocks in their dtype; `lower`, a float or (E, 1), is their lower bound."""
        data = self._data(z).detach().to(dtype)
        start = None if guess is None else self._guess(guess, z).to(dtype)
        with one_thread_if_small(self.work * data.shape[1]):
            solution = solve(
                blocks, data, start, lower, tol, max_iterations, self._size(data)
            )
        return solution.reshaped(z.shape)


def _check_output(value: object, dim: int, members: int | None) -> Tensor:
    """The fixed last layer as (E or 1, n, n), float64."""
    matrix = _checks.as_float64("output_operator", value)
    single = (dim, dim)
    shapes = [single, (members or 1, *single)]
    if tuple(matrix.shape) not in shapes:
        expected = " or ".join(map(str, shapes))
        raise ValueError(
            f"output_operator must have shape {expected}, got {tuple(matrix.shape)}"
        )
    if bool((torch.linalg.matrix_rank(matrix) < dim).any()):
        raise ValueError(f"output_operator must be invertible, got {matrix.tolist()}")
    singular_values: Tensor = torch.linalg.svdvals(matrix)
    if float(singular_values.min()) < 1e-30 or float(singular_values.max()) > 1e30:
        raise ValueError(
            "output_operator must have singular values between 1e-30 and 1e30"
        )
    return matrix.expand(shapes[1]).clone()


def _check_exact(value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise TypeError(f"exact must be True, False or None, got {value!r}")


def shrink(weight: Tensor, bound: Tensor, limit: float) -> Tensor:
    """Return the weights of all blocks, (E, K, ...), scaled down where the bound, (E, K), exceeds the limit."""
    numbers = torch.finfo(bound.dtype)
    # So that rounding does not lead beyond the bound
    limit = limit * (1 - 16 * numbers.eps)
    scale = (limit / bound.clamp_min(numbers.tiny)).clamp_max(1.0)
    return weight * scale.reshape(*scale.shape, *[1] * (weight.ndim - 2))
