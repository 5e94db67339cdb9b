r"""Invertible residual networks with certified Lipschitz bounds and exact Jacobians.

A network is a composition of blocks $x \mapsto x + f_k(x)$ with $\mathrm{Lip}(f_k) \le L < 1$; by Banach's fixed-point
theorem each block is a homeomorphism, and with a C^1 activation a diffeomorphism (Behrmann et al. 2019).

Every tensor carries a leading *member* axis E: an ensemble or a sweep is evaluated in the same matrix products as a
single network, which is the case E = 1.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from invlib import _checks
from invlib.inverse import InverseSolution, attach_gradient, solve_blocks

SWISH_SLOPE = 1.0998393201288669
r"""The largest slope of swish, $\max_u \frac{d}{du} u\,\sigma(u)$: attained where $u \tanh(u/2) = 2$, rounded up."""


def lipswish(u: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return LipSwish $a(u) = u\,\sigma(u) / \max \mathrm{swish}'$ and its slope, both of the shape of u.

    It is smooth and $|a'| \le 1$ (Chen et al. 2019). The divergence term needs C^1: where a' jumps, the sample-path
    gradient of the loss misses the kinks that move with the weights.
    """
    gate = torch.sigmoid(u)
    swish = u * gate
    return swish / SWISH_SLOPE, (gate + swish * (1 - gate)) / SWISH_SLOPE


def spectral_norm(weight: Tensor) -> Tensor:
    """Return the largest singular value, (...), of matrices (..., out, in): exact and differentiable.

    The value is the root of the largest eigenvalue of the smaller Gram matrix. Its gradient follows from
    sigma = u* W v with the singular vectors held fixed (they are stationary). No power iteration: that is a lower
    bound, and a bound from the wrong side certifies nothing.
    """
    rows, columns = weight.shape[-2:]
    with torch.no_grad():
        gram = weight @ weight.mT if rows <= columns else weight.mT @ weight
        top = torch.linalg.eigh(gram).eigenvectors[..., -1:]
        other = weight.mT @ top if rows <= columns else weight @ top
        other = other / other.norm(dim=-2, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        left, right = (top, other) if rows <= columns else (other, top)
    return (left.mT @ weight @ right)[..., 0, 0]


class IResNet(nn.Module):
    r"""An invertible residual network $\varphi = (\mathrm{Id} + f_K) \circ \dots \circ (\mathrm{Id} + f_1)$ on R^n.

    Each $f_k$ is a perceptron with two hidden layers and LipSwish activation. The product of its three spectral norms
    bounds its Lipschitz constant; where the product exceeds `lipschitz`, the last layer is scaled down to meet it.
    Only the product matters, so a block may spend its budget on steep features or on large ones.

    Args:
        dim: n.
        blocks: the number K of blocks.
        width: the size of the hidden layers.
        lipschitz: the bound L on every block, 0 < L < 1.
        members: None for one network, or the number E of networks evaluated side by side.
        dtype: of the parameters; the default is torch's.
        generator: for the initial weights.

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
        members: int | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.dim = _checks.count("dim", dim)
        self.blocks = _checks.count("blocks", blocks)
        self.width = _checks.count("width", width)
        self.lipschitz = _checks.open_unit("lipschitz", lipschitz)
        self.members = members if members is None else _checks.count("members", members)
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point dtype, got {dtype}")
        sizes = [dim, width, width, dim]
        stack = (members or 1, blocks)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for inputs, outputs in pairwise(sizes):
            weight = torch.randn(*stack, outputs, inputs, dtype=dtype, generator=generator)
            # Unit spectral norm times 1.5: blocks start saturated, which trains faster than a start near the identity.
            weight = 1.5 * weight / torch.linalg.matrix_norm(weight, 2)[..., None, None]
            bias = torch.randn(*stack, outputs, dtype=dtype, generator=generator)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(bias if outputs == width else torch.zeros_like(bias)))

    def extra_repr(self) -> str:
        """Show the sizes and the certified bounds."""
        lower, upper = (f"{float(bound.min()):.3g}" for bound in self._bounds())
        members = "" if self.members is None else f"members={self.members}, "
        return (
            f"dim={self.dim}, blocks={self.blocks}, width={self.width}, {members}"
            f"lipschitz={self.lipschitz:g}, bounds=({lower}, {upper})"
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return phi(x) for x of shape (..., n), or (E, ..., n) with members; same shape.

        Raises:
            ValueError: if `x` has another shape or dtype than the network. The same holds for the methods below.
        """
        points = self._points("x", x)
        for block in self._blocks():
            points = block.value(points)
        return points.reshape(x.shape)

    def forward_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return phi(x) and the exact Jacobian D phi(x), (..., n, n), for x of shape (..., n) or (E, ..., n)."""
        points = self._points("x", x)
        first, *others = self._blocks()
        points, jacobian = first.value_and_jacobian(points)
        for block in others:
            points, block_jacobian = block.value_and_jacobian(points)
            jacobian = block_jacobian @ jacobian
        return points.reshape(x.shape), jacobian.reshape(*x.shape, self.dim)

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return phi(x) and log|det D phi(x)|, (...), the sum of the blocks' exact log-determinants."""
        points = self._points("x", x)
        log_dets = []
        for block in self._blocks():
            points, jacobian = block.value_and_jacobian(points)
            log_dets.append(torch.linalg.slogdet(jacobian).logabsdet)
        return points.reshape(x.shape), torch.stack(log_dets).sum(0).reshape(x.shape[:-1])

    def forward_and_divergence(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return phi(x) and div phi(x) = tr D phi(x), (...)."""
        value, jacobian = self.forward_and_jacobian(x)
        return value, jacobian.diagonal(dim1=-2, dim2=-1).sum(-1)

    def inverse(self, z: Tensor, *, tol: float = 1e-10, near: Tensor | None = None) -> Tensor:
        """Return phi^{-1}(z), of the shape of z, differentiable once in z and in the parameters.

        The solution is found without recording a graph (`solve_inverse`); its gradient follows from the implicit
        function theorem, by one Newton step whose Jacobian and starting point are held fixed.

        Args:
            z: (..., n), or (E, ..., n) with members.
            tol: bound on |phi(x) - z| relative to max(1, |z|), reached in float64.
            near: points of the shape of z close to the solution, to start from.

        Raises:
            InversionError: if `tol` was not reached for some z.
        """
        solution = self.solve_inverse(z, tol=tol, near=near)
        solution.raise_unless_converged()
        return attach_gradient(self, solution.x.to(z.dtype), z)

    def solve_inverse(
        self, z: Tensor, *, tol: float = 1e-10, near: Tensor | None = None, max_iterations: int = 200
    ) -> InverseSolution:
        """Return phi^{-1}(z) in float64 with residuals, iteration counts and error bounds; see `InverseSolution`.

        Args as for `inverse`; `max_iterations` bounds the iterations of each block. Nothing is raised where the
        tolerance is missed: the solution says so.
        """
        _checks.positive("tol", tol)
        _checks.count("max_iterations", max_iterations)
        data = self._points("z", _checks.finite("z", z))
        if near is not None and near.shape != z.shape:
            raise ValueError(f"near must have the shape of z, {tuple(z.shape)}, got {tuple(near.shape)}")
        with torch.no_grad():
            start = None if near is None else self._points("near", near).to(torch.float64)
            solution = solve_blocks(
                self._blocks(torch.float64),
                data.to(torch.float64),
                start,
                bounds=self._bounds(),
                tol=tol,
                max_iterations=max_iterations,
            )
        return solution.reshape(z.shape)

    def lipschitz_bounds(self) -> tuple[float, float] | tuple[Tensor, Tensor]:
        """Return certified bounds (lower, upper), a pair of floats or of (E,) tensors with members.

        For all a and b: lower |a - b| <= |phi(a) - phi(b)| <= upper |a - b|.
        """
        lower, upper = self._bounds()
        return (lower, upper) if self.members is not None else (float(lower), float(upper))

    def block_bounds(self) -> Tensor:
        """Return the product of the spectral norms of each block's effective weights, (K,) or (E, K): its Lip(f_k)."""
        with torch.no_grad():
            norms = [spectral_norm(weight.to(torch.float64)) for weight in self.effective_weights()]
        product = torch.stack(norms).prod(dim=0)
        return product[0] if self.members is None else product

    def effective_weights(self) -> list[Tensor]:
        """Return the three weight matrices of all blocks, (E, K, out, in), after the Lipschitz constraint."""
        bound = torch.stack([spectral_norm(weight) for weight in self.weights]).prod(dim=0)
        scale = (self.lipschitz / bound.clamp_min(torch.finfo(bound.dtype).tiny)).clamp_max(1.0)
        first, second, third = self.weights
        return [first, second, third * scale[..., None, None]]

    def _bounds(self) -> tuple[Tensor, Tensor]:
        block = self.block_bounds().reshape(-1, self.blocks)
        return (1 - block).prod(-1), (1 + block).prod(-1)

    def _points(self, name: str, x: Tensor) -> Tensor:
        """Reshape to (E, B, n)."""
        _checks.shaped_vectors(name, x, self.dim)
        parameter = self.weights[0]
        if x.dtype != parameter.dtype:
            raise ValueError(f"{name} must have the dtype of the network, {parameter.dtype}, got {x.dtype}")
        if self.members is not None and (x.ndim < 2 or x.shape[0] != self.members):
            raise ValueError(f"{name} must have shape ({self.members}, ..., {self.dim}), got {tuple(x.shape)}")
        return x.reshape(self.members or 1, -1, self.dim)

    def _blocks(self, dtype: torch.dtype | None = None) -> list["_Block"]:
        """The blocks with their constrained weights (E, out, in) and biases (E, 1, out), ready to evaluate."""
        weights = [weight.to(dtype or weight.dtype).unbind(1) for weight in self.effective_weights()]
        biases = [bias.to(dtype or bias.dtype).unsqueeze(-2).unbind(1) for bias in self.biases]
        layers = zip(zip(*weights, strict=True), zip(*biases, strict=True), strict=True)
        return [_Block(list(w), list(b)) for w, b in layers]


@dataclass(frozen=True)
class _Block:
    """One block x + f(x) of every member: weights (E, out, in) and biases (E, 1, out) of its three layers."""

    weights: list[Tensor]
    biases: list[Tensor]

    def value(self, x: Tensor) -> Tensor:
        """Return x + f(x), (E, B, n)."""
        hidden, _ = lipswish(torch.baddbmm(self.biases[0], x, self.weights[0].mT))
        hidden, _ = lipswish(torch.baddbmm(self.biases[1], hidden, self.weights[1].mT))
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
            value, slope = lipswish(value)
            stacked = torch.cat([value.unsqueeze(1), slope.unsqueeze(1) * tangents], dim=1)
            stacked = (stacked.flatten(1, 2) @ weight.mT).unflatten(1, (1 + dim, count))
            value, tangents = stacked[:, 0] + bias, stacked[:, 1:]
        identity = torch.eye(dim, dtype=x.dtype, device=x.device)
        return x + value, identity + tangents.permute(0, 2, 3, 1)
