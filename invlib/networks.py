r"""Invertible residual networks with certified Lipschitz bounds and exact Jacobians.

A network is a composition of blocks $x \mapsto x + f_k(x)$ with $\mathrm{Lip}(f_k) \le L < 1$; by Banach's fixed-point
theorem each block is a homeomorphism, and with a C^1 activation a diffeomorphism (Behrmann et al. 2019).

Every tensor carries a leading *member* axis E: an ensemble or a sweep is evaluated in the same matrix products as a
single network, which is the case E = 1.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from invlib import _checks
from invlib.blocks import Block, bilipschitz_bounds, block_bounds, evaluate, evaluate_with_jacobian, spectral_norm
from invlib.inverse import InverseSolution, attach_gradient, solve_blocks


class IResNet(nn.Module):
    r"""An invertible residual network $\varphi = (\mathrm{Id} + f_K) \circ \dots \circ (\mathrm{Id} + f_1)$ on R^n.

    Each $f_k$ is a perceptron with two hidden layers and the activation `smooth_abs`. The product of the spectral norms
    of its three layers bounds its Lipschitz constant; where it exceeds `lipschitz`, the last layer is scaled down.
    Only the product is limited: a block may spend its budget on steep features or on large ones.

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
        if dtype not in (None, torch.float32, torch.float64):
            raise ValueError(f"dtype must be torch.float32, torch.float64 or None, got {dtype!r}")
        sizes = [dim, width, width, dim]
        stack = (members or 1, blocks)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
            weight = torch.randn(*stack, outputs, inputs, dtype=dtype, generator=generator)
            # Spectral norm 1.5 in each layer: a start at the Lipschitz bound trains faster than one near the identity.
            weight = 1.5 * weight / torch.linalg.matrix_norm(weight, 2)[..., None, None]
            bias = torch.randn(*stack, 1, outputs, dtype=dtype, generator=generator)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(bias if layer < 2 else torch.zeros_like(bias)))

    def extra_repr(self) -> str:
        """Show the sizes and the certified bounds."""
        lower, upper = (f"{float(bound.min()):.3g}" for bound in bilipschitz_bounds(self._exact_blocks()))
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
        return evaluate(self._blocks(), self._points("x", x)).reshape(x.shape)

    def forward_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return phi(x) and the exact Jacobian D phi(x), (..., n, n), for x of shape (..., n) or (E, ..., n)."""
        value, jacobian = evaluate_with_jacobian(self._blocks(), self._points("x", x))
        return value.reshape(x.shape), jacobian.reshape(*x.shape, self.dim)

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
        blocks = self._blocks()
        solution = self._solve(blocks, z, tol, near, max_iterations=200)
        solution.raise_unless_converged()
        x = attach_gradient(blocks, solution.x.to(z.dtype), self._points("z", z))
        return x.reshape(z.shape)

    def solve_inverse(
        self, z: Tensor, *, tol: float = 1e-10, near: Tensor | None = None, max_iterations: int = 200
    ) -> InverseSolution:
        """Return phi^{-1}(z) in float64 with residuals, iteration counts and error bounds; see `InverseSolution`.

        Args as for `inverse`; `max_iterations` bounds the iterations of each block. Nothing is raised where the
        tolerance is missed: the solution says so.
        """
        _checks.count("max_iterations", max_iterations)
        return self._solve(self._blocks(), z, tol, near, max_iterations).reshape(z.shape)

    def lipschitz_bounds(self) -> tuple[float, float] | tuple[Tensor, Tensor]:
        """Return certified bounds (lower, upper), a pair of floats or of (E,) tensors with members.

        For all a and b: lower |a - b| <= |phi(a) - phi(b)| <= upper |a - b|.
        """
        lower, upper = bilipschitz_bounds(self._exact_blocks())
        return (lower, upper) if self.members is not None else (float(lower), float(upper))

    def block_bounds(self) -> Tensor:
        """Return the product of the spectral norms of each block's effective weights, (K,) or (E, K): its Lip(f_k)."""
        bounds = block_bounds(self._exact_blocks())
        return bounds[0] if self.members is None else bounds

    def effective_weights(self) -> list[Tensor]:
        """Return the three weight matrices of all blocks, (E, K, out, in), after the Lipschitz constraint."""
        bound = torch.stack([spectral_norm(weight) for weight in self.weights]).prod(dim=0)
        scale = (self.lipschitz / bound.clamp_min(torch.finfo(bound.dtype).tiny)).clamp_max(1.0)
        first, second, third = self.weights
        return [first, second, third * scale[..., None, None]]

    def _points(self, name: str, x: Tensor) -> Tensor:
        """Reshape to (E, B, n)."""
        _checks.shaped_vectors(name, x, self.dim)
        parameter = self.weights[0]
        if x.dtype != parameter.dtype:
            raise ValueError(f"{name} must have the dtype of the network, {parameter.dtype}, got {x.dtype}")
        if self.members is not None and (x.ndim < 2 or x.shape[0] != self.members):
            raise ValueError(f"{name} must have shape ({self.members}, ..., {self.dim}), got {tuple(x.shape)}")
        return x.reshape(self.members or 1, -1, self.dim)

    def _blocks(self) -> list[Block]:
        """The blocks with their constrained weights, ready to evaluate."""
        weights = zip(*(weight.unbind(1) for weight in self.effective_weights()), strict=True)
        biases = zip(*(bias.unbind(1) for bias in self.biases), strict=True)
        return [Block(list(w), list(b)) for w, b in zip(weights, biases, strict=True)]

    def _exact_blocks(self) -> list[Block]:
        return [block.detached(torch.float64) for block in self._blocks()]

    def _solve(
        self, blocks: list[Block], z: Tensor, tol: float, near: Tensor | None, max_iterations: int
    ) -> InverseSolution:
        _checks.positive("tol", tol)
        data = self._points("z", _checks.finite("z", z)).detach()
        if near is not None:
            _checks.finite("near", near)
            if near.shape != z.shape:
                raise ValueError(f"near must have the shape of z, {tuple(z.shape)}, got {tuple(near.shape)}")
            near = self._points("near", _checks.finite("near", near)).detach().to(torch.float64)
        exact = [block.detached(torch.float64) for block in blocks]
        return solve_blocks(exact, data.to(torch.float64), near, tol=tol, max_iterations=max_iterations)
