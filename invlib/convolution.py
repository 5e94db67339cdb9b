r"""Invertible residual networks of convolutions, on one- and two-dimensional grids.

The branch of a block is $f(x) = k_3 * \sigma(k_2 * \sigma(k_1 * x + b_1) + b_2) + b_3$ with small kernels. Points are
vectors of the values on the grid, (..., n), row by row; the parameters know nothing of the size of the grid.

*Lipschitz bound.* On a circular grid the Fourier transform diagonalizes a convolution: its norm is the largest singular
value of the symbol $\hat k(\theta) = \sum_j k_j e^{-i \langle j, \theta \rangle}$, a small matrix, over the frequencies
of the grid. `convolution_norm` bounds it over *all* frequencies, and so for every grid at once.

*Reflecting edges.* Let E mirror a picture at its edges, which doubles every axis, let f be the branch on the doubled
circular grid, and let $E^+$ average each value with its mirror images. The branch with reflecting edges is
$E^+ f E$. Since $\|Ex\| = 2^{d/2} \|x\|$ and $\|E^+\| = 2^{-d/2}$, its Lipschitz constant is at most that of f.

The Jacobian of a branch is banded: a value depends on neighbours only. Vectors that are zero but at points which do not
see each other therefore read off many diagonal entries at once: the divergence is exact with few of them ("coloured
probes").
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from invlib import _checks, linalg
from invlib.activations import SMOOTH_ABS, Activation
from invlib.blocks import Linearization, ResidualBlock
from invlib.residual import ResidualNetwork, shrink

Edges = Literal["circular", "reflecting"]

SAMPLES = 64
"""Frequencies along each axis at which `convolution_norm` looks."""


def convolution_norm(
    kernel: Tensor, dims: int = 1, *, shape: Sequence[int] | None = None
) -> Tensor:
    r"""Return the norm of a circular convolution, (...): differentiable.

    With `shape` it is exact, for this grid. Without, it is an upper bound for every grid: the largest singular value at
    64 frequencies along each axis, divided by $\cos(\pi r / 64)$ for each axis, where r is the radius of the kernel.
    (A trigonometric polynomial of degree r is at most that much larger between N = 64 equidistant points: Ehlich and
    Zeller, Math. Z. 86 (1964) 41-44.) For r = 1 the bound exceeds the supremum by at most .13 % an axis.

    Args:
        kernel: (..., out, in, k), or (..., out, in, k, k) in two dimensions; k is odd.
        dims: the number of dimensions of the grid, 1 or 2.
        shape: the grid, as many numbers.

    Raises:
        ValueError: if the kernel has even size or is larger than the grid, or `shape` has not `dims` numbers.

    Example:
        >>> difference = torch.tensor([[[0.0, 1.0, -1.0]]])
        >>> convolution_norm(difference, shape=(8,)).item()
        2.0
    """
    if dims not in (1, 2):
        raise ValueError(f"dims must be 1 or 2, got {dims!r}")
    size = kernel.shape[-1]
    if (
        kernel.ndim < dims + 2
        or size % 2 == 0
        or size >= SAMPLES
        or kernel.shape[-dims:] != (size,) * dims
    ):
        expected = "(..., out, in, k)" if dims == 1 else "(..., out, in, k, k)"
        raise ValueError(
            f"kernel must have shape {expected} with k odd and below {SAMPLES}, got {tuple(kernel.shape)}"
        )
    if shape is not None and (len(shape) != dims or min(shape) < size):
        raise ValueError(
            f"shape must be {dims} numbers, not below the size {size} of the kernel, got {tuple(shape)}"
        )
    return _norm(kernel, dims, shape)


def _norm(kernel: Tensor, dims: int, shape: Sequence[int] | None) -> Tensor:
    radius = kernel.shape[-1] // 2
    if radius == 0:
        # One matrix, at every frequency
        return linalg.spectral_norm(kernel.flatten(-dims - 1))
    sizes = [SAMPLES] * dims if shape is None else list(shape)
    symbol = torch.fft.rfftn(kernel, s=sizes, dim=list(range(-dims, 0)))
    symbol = symbol.flatten(-dims).movedim(-1, -3)  # (..., frequencies, out, in)
    largest: Tensor = _largest_singular_value(symbol).amax(-1)
    excess = 1.0 if shape is not None else math.cos(math.pi * radius / SAMPLES) ** -dims
    return largest * excess


def _largest_singular_value(symbol: Tensor) -> Tensor:
    if min(symbol.shape[-2:]) > 1:
        return linalg.spectral_norm(symbol)
    norms: Tensor = torch.linalg.vector_norm(symbol, dim=(-2, -1))
    return norms


class ConvBlock(ResidualBlock):
    """A block x + f(x) of every member, f three convolutions with two activations between.

    Args:
        kernels: of the three layers, (E, out, in, k) or (E, out, in, k, k); the second has k = 1.
        biases: of the three layers, (E, out).
        shape: the grid.
        edges: what lies beyond the edges of the grid.
        activation: between the layers.
        lipschitz: a bound on Lip(f) that the kernels obey.
    """

    def __init__(
        self,
        kernels: list[Tensor],
        biases: list[Tensor],
        *,
        shape: tuple[int, ...],
        edges: Edges,
        activation: Activation,
        lipschitz: float,
    ) -> None:
        self.kernels = kernels
        self.biases = biases
        self.shape = shape
        self.edges = edges
        self.activation = activation
        self.lipschitz = lipschitz

    def value(self, x: Tensor) -> Tensor:
        """Return x + f(x), (E, B, n)."""
        return self.linearize(x)[0]

    def linearize(self, x: Tensor) -> tuple[Tensor, Linearization]:
        """Return x + f(x), and x with the slopes of the two activations, (E, B, channels, ...) each."""
        hidden, inner = self._activate(self._first(x), 0)
        hidden, outer = self._activate(self._second(hidden), 1)
        image = self._third(hidden) + self.biases[2].unsqueeze(-1)
        return x + image, (x, inner.transpose(1, 2), outer.transpose(1, 2))

    def branch_tangent(self, at: Linearization, v: Tensor) -> Tensor:
        """Return the derivative of f applied to v, (E, B, n)."""
        _, inner, outer = at
        hidden = inner.transpose(1, 2) * self._first(v)
        hidden = outer.transpose(1, 2) * self._second(hidden)
        return self._third(hidden)

    def bound(self) -> Tensor:
        """Return the product of the norms of the layers and the activations' slopes, (E,)."""
        dims = len(self.shape)
        norms = torch.stack(
            [_norm(kernel, dims, None) for kernel in self.kernels]
        ).prod(dim=0)
        return norms * self.activation.slope_bound**2

    @property
    def radius(self) -> int:
        """How far a value sees along each axis."""
        return sum(kernel.shape[-1] // 2 for kernel in self.kernels)

    def _activate(self, u: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        bias = self.biases[layer]
        return self.activation.value_and_slope(
            u + bias.reshape(*bias.shape, *[1] * (u.ndim - 2))
        )

    # Fields are (E, channels, B, ...): each layer is one matrix product over the channels.

    def _first(self, x: Tensor) -> Tensor:
        """The first convolution of points (E, B, n), as fields: the kernel times the patches that it meets."""
        patches = torch.stack(
            list(self._shifts(self._padded(x), self.kernels[0])), dim=1
        )
        return _mix(self.kernels[0].flatten(2), patches)

    def _second(self, fields: Tensor) -> Tensor:
        """The convolution with a kernel of size one."""
        return _mix(self.kernels[1].flatten(2), fields)

    def _third(self, fields: Tensor) -> Tensor:
        """The last convolution, back to points (E, B, n): first all products, then their sum at the right places."""
        kernel = self.kernels[2]
        products = _mix(kernel[:, 0].flatten(2).mT, fields)
        total = torch.zeros(())
        for entry, shifted in enumerate(self._shifts(products, kernel)):
            total = total + shifted[:, entry]
        return self._unpadded(total)

    def _shifts(self, fields: Tensor, kernel: Tensor) -> Iterator[Tensor]:
        """For each entry of a kernel the part of the fields that it multiplies, row by row."""
        dims, size = len(self.shape), kernel.shape[-1]
        lengths = [length - size + 1 for length in fields.shape[-dims:]]
        for offsets in product(range(size), repeat=dims):
            part = fields
            for axis, (offset, length) in enumerate(
                zip(offsets, lengths, strict=True), start=-dims
            ):
                part = part.narrow(axis, offset, length)
            yield part

    def _padded(self, x: Tensor) -> Tensor:
        """The points on their grid, (E, B, ...), continued beyond the edges by the radius of the branch."""
        fields = x.unflatten(-1, self.shape)
        if self.edges == "reflecting":
            for axis in range(2, fields.ndim):
                fields = torch.cat([fields, fields.flip(axis)], dim=axis)
        return functional.pad(
            fields, [self.radius] * (2 * len(self.shape)), mode="circular"
        )

    def _unpadded(self, fields: Tensor) -> Tensor:
        """Back to points (E, B, n); where edges reflect, the mean over the mirror images."""
        if self.edges == "reflecting":
            for axis in range(2, fields.ndim):
                half, mirrored = fields.chunk(2, dim=axis)
                fields = 0.5 * (half + mirrored.flip(axis))
        return fields.flatten(2)


def _mix(matrix: Tensor, fields: Tensor) -> Tensor:
    """Multiply fields (E, in, ...) by matrices (E, out, in) over the channels."""
    mixed: Tensor = (matrix @ fields.flatten(2)).unflatten(-1, fields.shape[2:])
    return mixed


class ConvIResNet(ResidualNetwork):
    r"""An invertible residual network of convolutions on a grid, usable on any grid after training.

    Its inverse needs no Jacobian: safeguarded Newton, whose linear systems are solved by GMRES, point by point, with a
    certified error bound. It is as local in the forward direction as its kernels are small; the inverse is global.

    Args:
        shape: the grid, (n,) or (rows, columns). Points are vectors of rows * columns values, row by row:
            ``pictures.flatten(-2)``.
        blocks: the number K of blocks.
        channels: of the hidden layers.
        kernel: the size of the first and the last kernel, odd; the kernel between has size 1.
        edges: "circular" or "reflecting".
        lipschitz: the bound L on every block, 0 < L < 1.
        activation: of the hidden layers, as in `IResNet`.
        members: None for one network, or the number E of networks evaluated side by side.
        exact: whether log-determinant (by Jacobians) and divergence (by coloured probes) are exact. None means: up to
            16 points; beyond, both are estimated from random signs.
        dtype: of the parameters; the default is torch's.
        generator: for the initial weights.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> net = ConvIResNet((8, 8), blocks=2, channels=4, generator=torch.Generator().manual_seed(0))
        >>> x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
        >>> torch.allclose(net.inverse(net(x)), x, atol=1e-5)
        True
        >>> large = net.on((20, 30))
        >>> large(torch.zeros(1, 600)).shape
        torch.Size([1, 600])
    """

    exact_log_det = 16

    def __init__(
        self,
        shape: Sequence[int],
        *,
        blocks: int = 5,
        channels: int = 16,
        kernel: int = 3,
        edges: Edges = "circular",
        lipschitz: float = 0.97,
        activation: Activation | str = SMOOTH_ABS,
        members: int | None = None,
        exact: bool | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self_shape = _check_shape(shape)
        super().__init__(
            math.prod(self_shape),
            members=members,
            lipschitz=lipschitz,
            activation=activation,
            output_operator=None,
            exact=exact,
        )
        self.shape = self_shape
        self.depth = _checks.count("blocks", blocks)
        self.channels = _checks.count("channels", channels)
        self.kernel = _checks.count("kernel", kernel)
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {kernel}")
        if edges not in get_args(Edges):
            raise ValueError(f"edges must be 'circular' or 'reflecting', got {edges!r}")
        self.edges: Edges = edges
        self._check_fit(self_shape)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        self._initialize(_checks.parameter_dtype(dtype), generator)

    def _initialize(
        self, dtype: torch.dtype | None, generator: torch.Generator | None
    ) -> None:
        """Norm 1.5 in each layer: a start at the Lipschitz bound trains faster than one near the identity.

        A kernel is stored as a matrix (out, in * kernel^d), the form in which the optimizer SOAP takes it.
        """
        stack = (self.members or 1, self.depth)
        for layer, (outputs, inputs, size) in enumerate(self._sizes):
            weight = torch.randn(
                *stack,
                outputs,
                inputs * size**self._dims,
                dtype=dtype,
                generator=generator,
            )
            norm = _norm(self._kernel(weight, layer), self._dims, None)
            bias = torch.randn(*stack, 1, outputs, dtype=dtype, generator=generator)
            self.weights.append(nn.Parameter(1.5 * weight / norm[..., None, None]))
            self.biases.append(
                nn.Parameter(bias if layer < 2 else torch.zeros_like(bias))
            )

    @property
    def _dims(self) -> int:
        return len(self.shape)

    @property
    def _sizes(self) -> list[tuple[int, int, int]]:
        """Outputs, inputs and the size of the kernel of each layer."""
        return [
            (self.channels, 1, self.kernel),
            (self.channels, self.channels, 1),
            (1, self.channels, self.kernel),
        ]

    @property
    def radius(self) -> int:
        """How far a value of the network sees along each axis."""
        return 2 * self.depth * (self.kernel // 2)

    @property
    def work(self) -> int:
        """About the multiply-adds of one evaluation at one point of each member."""
        return self.dim * super().work

    def on(self, shape: Sequence[int]) -> Self:
        """Return the same network on another grid: it shares the parameters.

        Raises:
            ValueError: if `shape` has another number of axes, or is too small for the kernels.
        """
        twin = copy.copy(self)
        twin.shape = _check_shape(shape)
        if len(twin.shape) != len(self.shape):
            raise ValueError(
                f"shape must have {len(self.shape)} axes, as the kernels, got {tuple(shape)}"
            )
        twin._check_fit(twin.shape)
        twin.dim = math.prod(twin.shape)
        return twin

    def extra_repr(self) -> str:
        """Show the sizes and certified bounds, which hold for every member and on every grid."""
        members = "" if self.members is None else f"members={self.members}, "
        return (
            f"shape={self.shape}, blocks={self.depth}, channels={self.channels}, kernel={self.kernel}, "
            f"edges={self.edges!r}, {members}lipschitz={self.lipschitz:g}, {self._bounds_text()}"
        )

    def effective_kernels(self) -> list[Tensor]:
        """Return the kernels of the three layers, (E, K, out, in, k) or (E, K, out, in, k, k), after the constraint."""
        kernels = [
            self._kernel(weight, layer) for layer, weight in enumerate(self.weights)
        ]
        bound = torch.stack(
            [_norm(kernel, self._dims, None) for kernel in kernels]
        ).prod(dim=0)
        bound = bound * self.activation.slope_bound**2
        return [*kernels[:2], shrink(kernels[2], bound, self.lipschitz)]

    def residual_blocks(self) -> list[ResidualBlock]:
        """Return the blocks with their constrained kernels."""
        kernels = zip(
            *(kernel.unbind(1) for kernel in self.effective_kernels()), strict=True
        )
        biases = zip(*(bias.squeeze(2).unbind(1) for bias in self.biases), strict=True)
        return [
            ConvBlock(
                list(k),
                list(b),
                shape=self.shape,
                edges=self.edges,
                activation=self.activation,
                lipschitz=self.lipschitz,
            )
            for k, b in zip(kernels, biases, strict=True)
        ]

    def _kernel(self, weight: Tensor, layer: int) -> Tensor:
        _, inputs, size = self._sizes[layer]
        kernel: Tensor = weight.unflatten(-1, (inputs, *[size] * self._dims))
        return kernel

    def _check_fit(self, shape: tuple[int, ...]) -> None:
        reach = 2 * (self.kernel // 2)
        if min(shape) < max(reach, 1):
            raise ValueError(
                f"shape must have at least {reach} points along each axis, got {shape}"
            )

    def _exact_divergence(
        self, x: Tensor, metric: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """By coloured probes; with a metric, by the whole Jacobian."""
        if metric is not None:
            return super()._exact_divergence(x, metric)
        points = self._points("x", x)
        steps: list[
            tuple[Callable[[Linearization, Tensor], Tensor], Linearization]
        ] = []
        for block in self._blocks(points.dtype):
            points, at = block.linearize(points)
            steps.append((block.tangent, at))

        divergence = torch.zeros_like(points[..., 0])
        for probe in self._probes.to(points):
            tangent = probe.expand_as(points)
            for apply, at in steps:
                tangent = apply(at, tangent)
            divergence = divergence + (probe * tangent).sum(-1)
        return self._like(x, points), self._like(x[..., 0], divergence)

    @property
    def _probes(self) -> Tensor:
        """Vectors of zeros and ones, (colours, n), whose sum is one and whose ones do not see each other."""
        circular = self.edges == "circular"
        axes = [_colours(size, self.radius, circular) for size in self.shape]
        grids = torch.meshgrid(*axes, indexing="ij")
        colour = grids[0]
        for axis, grid in zip(axes[1:], grids[1:], strict=True):
            colour = colour * (int(axis.max()) + 1) + grid
        return functional.one_hot(colour.flatten()).mT


def _colours(size: int, radius: int, circular: bool) -> Tensor:
    """The colour of each point of an axis, (size,): equal colours are more than `radius` apart.

    On a circle the points left over, after as many rounds of all colours as fit, get colours of their own.
    """
    colours = torch.arange(size) % (radius + 1)
    if circular:
        rounds = max(1, size // (radius + 1))
        whole = rounds * (radius + 1)
        colours[whole:] = radius + 1 + torch.arange(max(0, size - whole))
    return colours


def _check_shape(shape: Sequence[int]) -> tuple[int, ...]:
    if (
        isinstance(shape, (str, int))
        or not isinstance(shape, Sequence)
        or len(shape) not in (1, 2)
    ):
        raise ValueError(f"shape must be (n,) or (rows, columns), got {shape!r}")
    return tuple(_checks.count("shape", size) for size in shape)
