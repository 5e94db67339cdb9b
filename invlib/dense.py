"""Residual blocks on R^n whose branch is a perceptron, and their network `IResNet`.

Derived in `book/residual-networks.md`: the Lipschitz constraint, the Jacobian carried forward, determinants.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from invlib import _checks, linalg
from invlib.activations import LARGE, SMOOTH_ABS, Activation, is_moderate
from invlib.blocks import Linearization, ResidualBlock, Solver
from invlib.errors import DifferentiatedTwiceError
from invlib.problems import LinearProblem
from invlib.residual import ResidualNetwork, shrink
from invlib.sampling import Sampler
from invlib.standard import standardize

FIRST_NORM = 1.5
"""Of the weights at the start: at the Lipschitz bound training is faster than near the identity."""

LAST_NORM = 0.2
"""Of the last weights in standard variables, over the dimension: such a network starts close to Wiener's filter."""


class DenseBlock(ResidualBlock):
    """A block x + f(x) of every member, f a perceptron with two hidden layers.

    Args:
        weights: of the three layers, (E, out, in) each.
        biases: of the three layers, (E, 1, out) each.
        activation: of the hidden layers.
        lipschitz: a bound on Lip(f) that the weights obey.
    """

    def __init__(
        self,
        weights: list[Tensor],
        biases: list[Tensor],
        *,
        activation: Activation = SMOOTH_ABS,
        lipschitz: float = 1.0,
    ) -> None:
        self.weights = weights
        self.biases = biases
        self.activation = activation
        self.lipschitz = lipschitz

    @property
    def is_low_rank(self) -> bool:
        """Whether the dimension exceeds the width: then $Df = UV$ with inner dimension `width`, less than n."""
        width, dim = self.weights[0].shape[-2:]
        return dim > width

    def value(self, x: Tensor) -> Tensor:
        """Return x + f(x), (E, B, n)."""
        return self.linearize(x)[0]

    def linearize(self, x: Tensor) -> tuple[Tensor, Linearization]:
        """Return x + f(x), (E, B, n), and the slopes of the two activations, (E, B, width) each."""
        first, second, third = self.weights
        hidden, inner = self.activation.value_and_slope(
            torch.baddbmm(self.biases[0], x, first.mT)
        )
        hidden, outer = self.activation.value_and_slope(
            torch.baddbmm(self.biases[1], hidden, second.mT)
        )
        return x + torch.baddbmm(self.biases[2], hidden, third.mT), (inner, outer)

    def value_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x + f(x), (E, B, n), and its Jacobian, (E, B, n, n); with `smooth_abs` differentiable once."""
        if self.activation != SMOOTH_ABS:  # a copy of it is equal
            return super().value_and_jacobian(x)
        layers = [
            tensor
            for layer in zip(self.weights, self.biases, strict=True)
            for tensor in layer
        ]
        value, tangents = _ValueAndTangents.apply(x, *layers)  # type: ignore[no-untyped-call]
        return x + value, _add_identity(tangents)

    def value_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return x + f(x), (E, B, n), and $\log|\det(I + Df)|$, (E, B).

        For $Df = UV$ of low rank it is $\log|\det(I + VU)|$, the determinant of a smaller matrix (Sylvester).
        """
        if not self.is_low_rank:
            return super().value_and_log_det(x)
        value, slopes = self.linearize(x)
        return value, linalg.log_abs_det(self._core(slopes))

    def branch_tangent(self, at: Linearization, v: Tensor) -> Tensor:
        """Return the derivative of f applied to v, (E, B, n)."""
        return self._inner_tangent(at, v) @ self.weights[2].mT

    def jacobian(self, at: Linearization) -> Tensor:
        """Return I + U V, (E, B, n, n), the tangents of the n coordinate directions."""
        first, second = (slope.unsqueeze(1) for slope in at)
        # Contiguous, or the product would be laid out transposed
        columns = self.weights[0].mT.contiguous().unsqueeze(2)
        tangents = second * _rows(first * columns, self.weights[1].mT)
        return _add_identity(_rows(tangents, self.weights[2].mT))

    def solver(self, at: Linearization, *, tol: float) -> Solver:
        r"""Return the function $r \mapsto (I + Df)^{-1} r$ of residuals r of shape (E, B, n), exact.

        With $Df = UV$ of low rank this is $r - U (I + VU)^{-1} V r$ (Woodbury): no n x n matrix is formed.
        """
        if not self.is_low_rank:
            return partial(linalg.solve, self.jacobian(at))

        def woodbury(residual: Tensor) -> Tensor:
            inner = self._inner_tangent(at, residual).unsqueeze(-1)
            solution: Tensor = torch.linalg.solve(self._core(at), inner)
            return residual - solution.squeeze(-1) @ self.weights[2].mT

        return woodbury

    def bound(self) -> Tensor:
        """Return the product of the spectral norms of the layers and the activations' slopes, (E,)."""
        norms = torch.stack(
            [linalg.spectral_norm(weight) for weight in self.weights]
        ).prod(dim=0)
        return norms * self.activation.slope_bound**2

    def rank(self, dim: int) -> int:
        """Return the width, if it is less than the dimension."""
        return min(dim, self.weights[0].shape[-2])

    def _inner_tangent(self, slopes: Linearization, v: Tensor) -> Tensor:
        """V v for the factorization Df = U V with U the last weight, (E, B, width)."""
        first, second = slopes
        return second * ((first * (v @ self.weights[0].mT)) @ self.weights[1].mT)

    def _core(self, slopes: Linearization) -> Tensor:
        """I + V U, (E, B, width, width)."""
        first, second = slopes
        mixed = (self.weights[0] @ self.weights[2]).unsqueeze(1)
        product = self.weights[1].unsqueeze(1) @ (first.unsqueeze(-1) * mixed)
        identity = torch.eye(product.shape[-1], dtype=first.dtype, device=first.device)
        return identity + second.unsqueeze(-1) * product


class IResNet(ResidualNetwork):
    r"""An invertible residual network $\varphi = (\mathrm{Id} + f_K) \circ \dots \circ (\mathrm{Id} + f_1)$ on R^n.

    Each $f_k$ is a perceptron with two hidden layers. The product of the spectral norms of its three layers, times the
    slopes of the two activations, bounds its Lipschitz constant; where it exceeds `lipschitz`, the last layer is scaled
    down. Only the product is limited: a block may spend its budget on steep features or on large ones.

    Args:
        dim: the dimension n.
        blocks: the number K of blocks.
        width: the size of the hidden layers.
        lipschitz: the bound L on every block, 0 < L < 1.
        activation: of the hidden layers: "smooth_abs", "tanh", "softplus", "swish", or an `Activation` of your own.
        members: None for one network, or the number E of networks evaluated side by side.
        output_operator: an invertible matrix M, (n, n) or (E, n, n), for a fixed linear last layer: the network is then
            $\varphi = M \circ \psi$ with $\psi$ the blocks. With M = A* it predicts $z = A^* y$ by a $\psi$ that
            predicts y: the z-form and the y-form of the losses meet.
        exact: whether log-determinant and divergence are exact or estimated. None lets the size decide: the
            log-determinant is exact up to min(n, width) = 64, the divergence up to n = 16.
        dtype: of the parameters; the default is torch's.
        generator: for the initial weights.

    For a problem of your own, build it by `IResNet.for_problem`: then units, offsets and correlations do not matter.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> net = IResNet(2, blocks=2, width=8, generator=torch.Generator().manual_seed(0))
        >>> x = torch.tensor([[0.5, -1.0]])
        >>> torch.allclose(net.inverse(net(x)), x, atol=1e-6)
        True
    """

    def __init__(
        self,
        dim: int,
        *,
        blocks: int = 3,
        width: int = 32,
        lipschitz: float = 0.97,
        activation: Activation | str = SMOOTH_ABS,
        members: int | None = None,
        output_operator: object | None = None,
        exact: bool | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            dim,
            members=members,
            lipschitz=lipschitz,
            activation=activation,
            output_operator=output_operator,
            exact=exact,
        )
        self.depth = _checks.count("blocks", blocks)
        self.width = _checks.count("width", width)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        self._initialize(_checks.parameter_dtype(dtype), generator)

    @classmethod
    def for_problem(
        cls,
        problem: LinearProblem | Sequence[LinearProblem],
        prior: Sampler | Sequence[Sampler],
        *,
        strength: float | Sequence[float] | None = None,
        mean: object | None = None,
        covariance: object | None = None,
        blocks: int = 3,
        width: int = 32,
        lipschitz: float = 0.97,
        activation: Activation | str = SMOOTH_ABS,
        members: int | None = None,
        exact: bool | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> Self:
        r"""Return a network that starts close to Wiener's filter of a problem: the choice for a problem of your own.

        With m and C the mean and covariance of the prior, $P = H + \hat\delta^2 C^{-1}$ and $c^2 = \mathrm{tr}(PC)/n$,
        the network is

        $$\varphi(x) = c\,P^{1/2}\,\psi\bigl(P^{1/2}(x - m)/c\bigr) + Hm$$

        with the blocks as $\psi$. For $\psi = \mathrm{Id}$ its inverse is Wiener's filter, the best affine
        reconstruction; so the blocks need not learn units, offsets and correlations. The layers around them are fixed
        and part of the state: it is saved, copied and trained like any other network.

        `train` knows such a network. It fits divergence and approximation in the norm of $P^{-1}$ and the
        reconstruction in that of P, which moves no minimizer, takes its points from digitally shifted Sobol points, and
        lets the batches grow earlier. The log-determinant has another minimizer in another norm, so it keeps the
        Euclidean one; `train(..., metric=net.standard.wiener.inverse())` asks for that of $P^{-1}$.

        Args:
            problem: one problem, or one for each member.
            prior: the distribution of x, or one for each member. Its moments are its `mean` and `covariance` where it
                has them, and those of 2^14 points otherwise. Of `Samples` the covariance is shrunk towards a multiple
                of the identity (`invlib.standard.shrunk_covariance`): so few samples suffice.
            strength: the regularization strength of the training to come, one number or one for each member; None
                means `noise_std`. Another one in `train` does no harm to the minimizer.
            mean: m, (n,), or (E, n) with members, in the place of the prior's.
            covariance: C, (n, n), or (E, n, n) with members, in the place of the prior's.
            blocks: as for `IResNet`, and so are the others.
            width: of the hidden layers.
            lipschitz: the bound L on every block.
            activation: of the hidden layers.
            members: None, or the number E of networks.
            exact: whether log-determinant and divergence are exact.
            dtype: of the parameters.
            generator: for the initial weights.

        Raises:
            ValueError: if an argument does not fit, names the argument.
            TypeError: if an argument is of a wrong kind, names the argument.

        Example:
            >>> from invlib import GaussianMixture, posterior_mean
            >>> problem = LinearProblem([[0.05, 0.02], [0.0, 0.01]], noise_std=0.02)
            >>> prior = GaussianMixture([1.0], [[100.0, 50.0]], [[[4.0, 0.0], [0.0, 4.0]]])
            >>> net = IResNet.for_problem(problem, prior, generator=torch.Generator().manual_seed(0))
            >>> z = problem.normal_data(torch.tensor([[6.0, 0.6]]))
            >>> wiener = posterior_mean(problem, prior, z)
            >>> bool((net.inverse(z) - wiener).norm() < 0.3)
            True
        """
        variables = standardize(
            problem,
            prior,
            strength=strength,
            members=members,
            mean=mean,
            covariance=covariance,
        )
        net = cls(
            variables.dim,
            blocks=blocks,
            width=width,
            lipschitz=lipschitz,
            activation=activation,
            members=members,
            exact=exact,
            dtype=dtype,
            generator=generator,
        )
        net.standard = variables
        with torch.no_grad():
            net.weights[-1].mul_(LAST_NORM / FIRST_NORM / max(2, net.dim))
        return net

    def _initialize(
        self, dtype: torch.dtype | None, generator: torch.Generator | None
    ) -> None:
        """Spectral norm 1.5 in each layer."""
        stack = (self.members or 1, self.depth)
        sizes = [self.dim, self.width, self.width, self.dim]
        for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
            weight = torch.randn(
                *stack, outputs, inputs, dtype=dtype, generator=generator
            )
            weight = (
                FIRST_NORM
                * weight
                / torch.linalg.matrix_norm(weight, 2)[..., None, None]
            )
            bias = torch.randn(*stack, 1, outputs, dtype=dtype, generator=generator)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(
                nn.Parameter(bias if layer < 2 else torch.zeros_like(bias))
            )

    def extra_repr(self) -> str:
        """Show the sizes and certified bounds, which hold for every member."""
        members = "" if self.members is None else f"members={self.members}, "
        standard = "" if self.standard is None else "in standard variables, "
        return (
            f"dim={self.dim}, blocks={self.depth}, width={self.width}, {members}{standard}"
            f"lipschitz={self.lipschitz:g}, {self._bounds_text()}"
        )

    def effective_weights(self) -> list[Tensor]:
        """Return the three weight matrices of all blocks, (E, K, out, in), after the Lipschitz constraint."""
        first, second, third = self.weights
        norms = [linalg.spectral_norm(weight) for weight in self.weights]
        bound = torch.stack(norms).prod(dim=0) * self.activation.slope_bound**2
        return [first, second, shrink(third, bound, self.lipschitz)]

    def residual_blocks(self) -> list[ResidualBlock]:
        """Return the blocks with their constrained weights."""
        weights = zip(
            *(weight.unbind(1) for weight in self.effective_weights()), strict=True
        )
        biases = zip(*(bias.unbind(1) for bias in self.biases), strict=True)
        return [
            DenseBlock(
                list(w), list(b), activation=self.activation, lipschitz=self.lipschitz
            )
            for w, b in zip(weights, biases, strict=True)
        ]


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
        stack1, slope1, inverse1 = _activate(
            torch.baddbmm(bias1, x, weight1.mT), weight1.mT.unsqueeze(2)
        )
        linear = _rows(stack1, weight2.mT)
        stack2, slope2, inverse2 = _activate(linear[:, 0] + bias2, linear[:, 1:])
        output = _rows(stack2, weight3.mT)

        ctx.save_for_backward(
            x,
            weight1,
            weight2,
            weight3,
            slope1,
            inverse1,
            stack1,
            linear,
            slope2,
            inverse2,
            stack2,
        )
        return output[:, 0] + bias3, output[:, 1:]

    @staticmethod
    def backward(ctx: Any, value: Tensor, tangents: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401
        if torch.is_grad_enabled():
            raise DifferentiatedTwiceError("the Jacobian")
        (
            x,
            weight1,
            weight2,
            weight3,
            slope1,
            inverse1,
            stack1,
            linear,
            slope2,
            inverse2,
            stack2,
        ) = ctx.saved_tensors

        output = torch.cat([value.unsqueeze(1), tangents], dim=1).flatten(1, 2)
        to_weight3 = output.mT @ stack2.flatten(1, 2)
        to_bias3 = value.sum(1, keepdim=True)

        stack = (output @ weight3).unflatten(1, stack2.shape[1:3])
        _deactivate(stack, linear[:, 1:], slope2, inverse2)
        to_weight2 = stack.flatten(1, 2).mT @ stack1.flatten(1, 2)
        to_bias2 = stack[:, 0].sum(1, keepdim=True)

        stack = _rows(stack, weight2)
        _deactivate(stack, weight1.mT.unsqueeze(2), slope1, inverse1)
        first = stack[:, 0]
        to_weight1 = (x.mT @ first + stack[:, 1:].sum(2)).mT
        to_bias1 = first.sum(1, keepdim=True)

        to_x = first @ weight1.mT.contiguous().mT
        return to_x, to_weight1, to_bias1, to_weight2, to_bias2, to_weight3, to_bias3


def _activate(u: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Apply `smooth_abs` to u, (E, B, width), and its slope to the tangents, (E, n, B or 1, width), of u.

    Returns the stack (E, 1 + n, B, width) of both, the slope, and the inverse of the root.
    """
    moderate = is_moderate(u)
    near = u if moderate else u.clamp(-LARGE, LARGE)
    beyond = None if moderate else (u - near).abs()
    square = torch.addcmul(u.new_tensor(0.25), near, near)
    inverse = square.rsqrt()
    slope = near.mul_(inverse)

    stack = u.new_empty(len(u), 1 + tangents.shape[1], *u.shape[1:])
    torch.addcmul(u.new_tensor(-0.5), square, inverse, out=stack[:, 0])
    if beyond is not None:
        stack[:, 0] += beyond
    torch.mul(slope.unsqueeze(1), tangents, out=stack[:, 1:])
    return stack, slope, inverse


def _deactivate(
    stack: Tensor, tangents: Tensor, slope: Tensor, inverse: Tensor
) -> None:
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
    rows = stack.flatten(1, 2) @ matrix
    return rows.reshape(*stack.shape[:3], matrix.shape[-1])


def _add_identity(tangents: Tensor) -> Tensor:
    """The Jacobian of x + f, (E, B, n, n), from the tangents of f, (E, n, B, n)."""
    identity = torch.eye(
        tangents.shape[-1], dtype=tangents.dtype, device=tangents.device
    )
    return identity + tangents.permute(0, 2, 3, 1)
