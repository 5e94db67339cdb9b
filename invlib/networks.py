r"""Invertible residual networks with certified Lipschitz bounds and exact Jacobians.

A network is a composition of blocks $x \mapsto x + f_k(x)$ with $\mathrm{Lip}(f_k) \le L < 1$; by Banach's fixed-point
theorem each block is a homeomorphism, and with a C^1 activation a diffeomorphism (Behrmann et al. 2019).

Every tensor carries a leading *member* axis E: an ensemble or a sweep is evaluated in the same matrix products as a
single network, which is the case E = 1.

Derived in `book/residual-networks.md`: bounds, Jacobians, determinants, and the two stochastic estimates.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from invlib import _checks
from invlib.blocks import Block, Slopes, block_bounds, evaluate, evaluate_with_jacobian, spectral_norm
from invlib.inverse import InverseSolution, attach_gradient, solve_blocks


@dataclass(frozen=True)
class LogDetEstimate:
    """A stochastic estimate of log|det D phi(x)|.

    Attributes:
        value: (...), without a gradient. Its expectation misses the log-determinant by at most `bias_bound`.
        surrogate: (...), a quantity whose *gradient* estimates that of the log-determinant. Its value means nothing.
        bias_bound: n sum_k L_k^{m+1} / ((m + 1)(1 - L_k)) for m terms, a float, or (E,) with members.
    """

    value: Tensor
    surrogate: Tensor
    bias_bound: float | Tensor


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
        output_operator: an invertible matrix M, (n, n) or (E, n, n), for a fixed linear last layer: the network is then
            $\varphi = M \circ \psi$ with $\psi$ the blocks. With M = A* it predicts $z = A^* y$ by a $\psi$ that
            predicts y: the z-form and the y-form of the losses meet.
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
        output_operator: object | None = None,
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
        self.output_operator = None if output_operator is None else self._check_output(output_operator)
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
        """Show the sizes and certified bounds, which hold for every member."""
        lower, upper = map(torch.as_tensor, self.lipschitz_bounds())
        members = "" if self.members is None else f"members={self.members}, "
        return (
            f"dim={self.dim}, blocks={self.blocks}, width={self.width}, {members}"
            f"lipschitz={self.lipschitz:g}, bounds=({float(lower.min()):.3g}, {float(upper.max()):.3g})"
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return phi(x) for x of shape (..., n), or (E, ..., n) with members; same shape.

        Raises:
            ValueError: if `x` has another shape or dtype than the network. The same holds for the methods below.
        """
        return self._through_output(evaluate(self._blocks(), self._points("x", x))).reshape(x.shape)

    def forward_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return phi(x) and the exact Jacobian D phi(x), (..., n, n), for x of shape (..., n) or (E, ..., n)."""
        value, jacobian = evaluate_with_jacobian(self._blocks(), self._points("x", x))
        if self.output_operator is not None:
            jacobian = self.output_operator.to(jacobian).unsqueeze(1) @ jacobian
        return self._through_output(value).reshape(x.shape), jacobian.reshape(*x.shape, self.dim)

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return phi(x) and log|det D phi(x)|, (...), the sum of the blocks' exact log-determinants."""
        points = self._points("x", x)
        total = self._output_log_det(points)
        for block in self._blocks():
            points, log_det = block.value_and_log_det(points)
            total = total + log_det
        return self._through_output(points).reshape(x.shape), total.reshape(x.shape[:-1])

    def forward_and_divergence(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return phi(x) and div phi(x) = tr D phi(x), (...)."""
        value, jacobian = self.forward_and_jacobian(x)
        return value, jacobian.diagonal(dim1=-2, dim2=-1).sum(-1)

    def pushforward_score(self, x: Tensor, score: Tensor) -> Tensor:
        r"""Return $\nabla \log q$ at phi(x), of the shape of x, for q the density of phi(X) when X has the given score.

        By the change of variables, $\log q(\varphi(x)) = \log p_X(x) - \log|\det D\varphi(x)|$; the chain rule gives
        $D\varphi(x)^* \, \nabla \log q(\varphi(x)) = \nabla \log p_X(x) - \nabla \log|\det D\varphi(x)|$.

        Args:
            x: (..., n), or (E, ..., n) with members.
            score: grad log p_X at x, of the shape of x.
        """
        points = x.detach().requires_grad_()
        with torch.enable_grad():
            _, log_det = self.forward_and_log_det(points)
            (gradient,) = torch.autograd.grad(log_det.sum(), points)
        with torch.no_grad():
            _, jacobian = self.forward_and_jacobian(x)
            return torch.linalg.solve(jacobian.mT, (score - gradient).unsqueeze(-1)).squeeze(-1)

    def estimate_divergence(
        self, x: Tensor, *, metric: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""Return phi(x) and Hutchinson's estimate $v^* W D\varphi(x)\, v$ of $\mathrm{tr}(W D\varphi(x))$, (...).

        The entries of v are random signs. The estimate and its gradient are unbiased, at the cost of two forward passes
        in any dimension. `metric` is W, (n, n) or (E, n, n); None means the identity.
        """
        points = self._points("x", x)
        signs = tangent = self._signs(points, generator)
        for block in self._blocks():
            points, slopes = block.value_and_slopes(points)
            tangent = tangent + block.tangent(slopes, tangent)
        weighted = signs if metric is None else signs @ _checks.metric(metric, self.dim, self.members)
        estimate = (weighted * self._through_output(tangent)).sum(-1)
        return self._through_output(points).reshape(x.shape), estimate.reshape(x.shape[:-1])

    def estimate_log_det(
        self, x: Tensor, *, terms: int = 20, generator: torch.Generator | None = None
    ) -> tuple[Tensor, LogDetEstimate]:
        r"""Return phi(x) and a `LogDetEstimate` from the first `terms` terms of the power series of each block.

        $\log\det(I + J) = \sum_{k \ge 1} (-1)^{k+1} \mathrm{tr}(J^k)/k$, with each trace estimated from one vector of
        random signs. The exact `forward_and_log_det` costs min(n, width)^3 for each point and block; this one costs
        2 `terms` passes.
        """
        _checks.count("terms", terms)
        points = self._points("x", x)
        value, surrogate = self._output_log_det(points), torch.zeros_like(points[..., 0])
        for block in self._blocks():
            points, slopes = block.value_and_slopes(points)
            block_value, block_surrogate = _power_series(block, slopes, self._signs(points, generator), terms)
            value, surrogate = value + block_value, surrogate + block_surrogate
        lipschitz = self.block_bounds().reshape(-1, self.blocks)
        bias = self.dim * (lipschitz ** (terms + 1) / ((terms + 1) * (1 - lipschitz))).sum(-1)
        bias = float(bias) if self.members is None else bias
        estimate = LogDetEstimate(value.reshape(x.shape[:-1]), surrogate.reshape(x.shape[:-1]), bias)
        return self._through_output(points).reshape(x.shape), estimate

    def inverse(self, z: Tensor, *, tol: float = 1e-10, near: Tensor | None = None) -> Tensor:
        """Return phi^{-1}(z), of the shape of z, differentiable once in z and in the parameters.

        The solution is found without recording a graph (`solve_inverse`); its gradient follows from the implicit
        function theorem, by one Newton step whose Jacobian and starting point are held fixed.

        Args:
            z: (..., n), or (E, ..., n) with members.
            tol: bound on |phi(x) - z| relative to max(1, |z|), reached in float64; from 1e-3 on in the dtype of z.
            near: points of the shape of z close to the solution, to start from.

        Raises:
            InversionError: if `tol` was not reached for some z.
        """
        blocks = self._blocks()
        # Single precision is enough where no more than three digits are asked for, as in training.
        dtype = self.weights[0].dtype if _checks.positive("tol", tol) >= 1e-3 else torch.float64
        lower = (1 - self.lipschitz) ** self.blocks  # the sharper bound of `solve_inverse` takes spectral norms
        solution = self._solve([block.detached(dtype) for block in blocks], z, near, tol, lower, iterations=200)
        solution.raise_unless_converged()
        data = self._before_output(self._points("z", z))
        return attach_gradient(blocks, solution.x.to(z.dtype).reshape(data.shape), data).reshape(z.shape)

    def solve_inverse(
        self, z: Tensor, *, tol: float = 1e-10, near: Tensor | None = None, max_iterations: int = 200
    ) -> InverseSolution:
        """Return phi^{-1}(z) in float64 with residuals, iteration counts and error bounds; see `InverseSolution`.

        Args as for `inverse`; `max_iterations` bounds the iterations of each block. Nothing is raised where the
        tolerance is missed: the solution says so.
        """
        blocks = self._exact_blocks()
        lower = (1 - block_bounds(blocks)).prod(dim=-1, keepdim=True)
        return self._solve(blocks, z, near, _checks.positive("tol", tol), lower, max_iterations)

    def lipschitz_bounds(self) -> tuple[float, float] | tuple[Tensor, Tensor]:
        """Return certified bounds (lower, upper), a pair of floats or of (E,) tensors with members.

        For all a and b: lower |a - b| <= |phi(a) - phi(b)| <= upper |a - b|.
        """
        bounds = block_bounds(self._exact_blocks())
        least, largest = self._output_range(bounds)
        lower, upper = least * (1 - bounds).prod(dim=-1), largest * (1 + bounds).prod(dim=-1)
        return (lower, upper) if self.members is not None else (float(lower), float(upper))

    def block_bounds(self) -> Tensor:
        """Return the product of the spectral norms of each block's effective weights, (K,) or (E, K): its Lip(f_k)."""
        bounds = block_bounds(self._exact_blocks())
        return bounds[0] if self.members is None else bounds

    def effective_weights(self) -> list[Tensor]:
        """Return the three weight matrices of all blocks, (E, K, out, in), after the Lipschitz constraint."""
        bound = torch.stack([spectral_norm(weight) for weight in self.weights]).prod(dim=0)
        numbers = torch.finfo(bound.dtype)
        limit = self.lipschitz * (1 - 16 * numbers.eps)  # so that rounding does not lead beyond the bound
        scale = (limit / bound.clamp_min(numbers.tiny)).clamp_max(1.0)
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

    def _through_output(self, psi: Tensor) -> Tensor:
        """M psi, (E, B, n), for the output operator M."""
        return psi if self.output_operator is None else psi @ self.output_operator.to(psi).mT

    def _before_output(self, z: Tensor) -> Tensor:
        """M^{-1} z, (E, B, n)."""
        return z if self.output_operator is None else torch.linalg.solve(self.output_operator.to(z), z.mT).mT

    def _output_log_det(self, points: Tensor) -> Tensor:
        """log|det M| for each of the points, (E, B)."""
        start = torch.zeros_like(points[..., 0])
        if self.output_operator is None:
            return start
        return start + torch.linalg.slogdet(self.output_operator.to(points)).logabsdet.unsqueeze(-1)

    def _output_range(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the largest singular value of M, (E,) or (1,) each, float64."""
        if self.output_operator is None:
            return torch.ones(1, device=like.device), torch.ones(1, device=like.device)
        singular_values = torch.linalg.svdvals(self.output_operator).to(like.device)
        return singular_values[:, -1], singular_values[:, 0]

    def _check_output(self, value: object) -> Tensor:
        """The fixed last layer as (E, n, n), float64."""
        matrix = _checks.as_float64("output_operator", value)
        shape = (self.members or 1, self.dim, self.dim)
        if matrix.shape not in (shape, shape[1:]):
            raise ValueError(f"output_operator must have shape {shape[1:]} or {shape}, got {tuple(matrix.shape)}")
        if bool((torch.linalg.matrix_rank(matrix) < self.dim).any()):
            raise ValueError(f"output_operator must be invertible, got {matrix.tolist()}")
        return matrix.expand(shape)

    def _solve(
        self, blocks: list[Block], z: Tensor, near: Tensor | None, tol: float, lower: float | Tensor, iterations: int
    ) -> InverseSolution:
        """Invert the network in the dtype of its detached blocks; `lower`, a float or (E, 1), is their lower bound."""
        _checks.count("max_iterations", iterations)
        dtype = blocks[0].weights[0].dtype
        data = self._points("z", _checks.finite("z", z)).detach().to(dtype)
        if near is not None:
            if _checks.finite("near", near).shape != z.shape:
                raise ValueError(f"near must have the shape of z, {tuple(z.shape)}, got {tuple(near.shape)}")
            near = self._points("near", near).detach().to(dtype)
        least, largest = (value.unsqueeze(-1).to(dtype) for value in self._output_range(data))
        scale = data.norm(dim=-1).clamp_min(1.0)
        start, share = self._before_output(data), tol * scale / largest
        x, used = solve_blocks(blocks, start, near, share, self.lipschitz, iterations)
        residual = (self._through_output(evaluate(blocks, x)) - data).norm(dim=-1)
        rounding = 16 * (self.blocks + 1) * torch.finfo(dtype).eps * torch.maximum(scale, largest * x.norm(dim=-1))
        error_bound = (residual + rounding) / (least * lower)
        parts = (residual, used, residual <= tol * scale, error_bound)
        return InverseSolution(x.reshape(z.shape), *(part.reshape(z.shape[:-1]) for part in parts), tol)

    def _signs(self, points: Tensor, generator: torch.Generator | None) -> Tensor:
        return 2.0 * torch.randint(2, points.shape, generator=generator).to(points) - 1.0


def _power_series(block: Block, slopes: Slopes, signs: Tensor, terms: int) -> tuple[Tensor, Tensor]:
    """The truncated series of log det(I + J), and v* J a with a = sum_k (-J)^k v held fixed: its gradient is right."""
    value = torch.zeros_like(signs[..., 0])
    with torch.no_grad():
        power, resolvent = signs, torch.zeros_like(signs)
        for k in range(1, terms + 1):
            resolvent = resolvent + power
            power = -block.tangent(slopes, power)
            value = value - (signs * power).sum(-1) / k
    return value, (signs * block.tangent(slopes, resolvent)).sum(-1)
