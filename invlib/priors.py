"""Prior distributions with exact density, score and Hessian."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from invlib import _checks, quadrature


class GaussianMixture:
    r"""The mixture $p(x) = \sum_k w_k \, N(x;\, \mu_k, \Sigma_k)$ on $\mathbb R^n$.

    Everything is computed in float64 and in log space, so that densities hundreds of standard deviations
    from the means neither underflow nor overflow; results come back in the dtype of `x`.

    Args:
        weights: (K,), positive, summing to one.
        means: (K, n).
        covariances: (K, n, n), symmetric positive definite.

    Raises:
        ValueError: if a shape does not fit, an entry is not finite, the weights are not positive or do not sum
            to one, or a covariance is not symmetric positive definite.

    Example:
        >>> prior = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[[0.25]], [[0.25]]])
        >>> prior
        GaussianMixture(components=2, dim=1)
        >>> prior.score(torch.zeros(1))
        tensor([0.])
    """

    def __init__(self, weights: object, means: object, covariances: object) -> None:
        self.weights = _checks.as_float64("weights", weights)
        self.means = _checks.as_float64("means", means)
        self.covariances = _checks.as_float64("covariances", covariances)
        if self.weights.ndim != 1 or len(self.weights) == 0:
            raise ValueError(f"weights must have shape (K,), got {tuple(self.weights.shape)}")
        components = len(self.weights)
        if self.means.ndim != 2 or self.means.shape[0] != components or self.means.shape[1] == 0:
            raise ValueError(f"means must have shape ({components}, n), got {tuple(self.means.shape)}")
        expected = (components, self.dim, self.dim)
        if self.covariances.shape != expected:
            raise ValueError(f"covariances must have shape {expected}, got {tuple(self.covariances.shape)}")
        if not bool((self.weights > 0).all()):
            raise ValueError(f"weights must be positive, got {self.weights.tolist()}")
        if abs(float(self.weights.sum()) - 1) > 1e-6:
            raise ValueError(f"weights must sum to one, got the sum {float(self.weights.sum())}")
        self.weights = self.weights / self.weights.sum()
        self.factors = _checks.covariances("covariances", self.covariances)
        self.precisions = torch.cholesky_inverse(self.factors)

    def __repr__(self) -> str:
        return f"GaussianMixture(components={len(self.weights)}, dim={self.dim})"

    @property
    def dim(self) -> int:
        """The dimension n of x."""
        return self.means.shape[1]

    @property
    def mean(self) -> Tensor:
        """The expectation E[x], (n,)."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """The covariance of x, (n, n)."""
        centred = self.means - self.mean
        between = centred.mT @ (self.weights[:, None] * centred)
        return between + torch.einsum("k,kij->ij", self.weights, self.covariances)

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw `count` independent points, (count, n), float64.

        Raises:
            ValueError: if `count` is not a positive integer.
        """
        _checks.count("count", count)
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        normal = torch.randn(count, self.dim, 1, dtype=torch.float64, generator=generator)
        return self.means[component] + (self.factors[component] @ normal).squeeze(-1)

    def transport(self, uniform: Tensor) -> Tensor:
        """Map points of the unit cube to points of the mixture: (..., n + 1) to (..., n).

        The first coordinate chooses the component, the others its Gaussian through the inverse normal
        distribution function. Uniform points become samples; low-discrepancy points (Sobol) become a
        quasi-random sample, stratified over the components.

        Raises:
            ValueError: if `uniform` has not n + 1 columns or leaves the open unit cube.
        """
        _checks.vectors("uniform", uniform, self.dim + 1)
        uniform = uniform.to(torch.float64)
        if not bool(((uniform > 0) & (uniform < 1)).all()):
            raise ValueError("uniform must lie strictly between 0 and 1 in every entry")
        component = torch.searchsorted(self.weights.cumsum(0)[:-1], uniform[..., 0].contiguous())
        normal = torch.special.ndtri(uniform[..., 1:]).unsqueeze(-1)
        return self.means[component] + (self.factors[component] @ normal).squeeze(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x), (...), for x of shape (..., n).

        Raises:
            ValueError: if `x` is no finite floating-point tensor of shape (..., n). The same holds for
                `score` and `hessian`.
        """
        _checks.vectors("x", x, self.dim)
        return torch.logsumexp(self._log_joint(x.to(torch.float64)), dim=-1).to(x.dtype)

    def score(self, x: Tensor) -> Tensor:
        r"""Return the score $s(x) = \nabla \log p(x)$, (..., n), for x of shape (..., n)."""
        _checks.vectors("x", x, self.dim)
        responsibilities, scores = self._component_scores(x.to(torch.float64))
        return torch.einsum("...k,...ki->...i", responsibilities, scores).to(x.dtype)

    def hessian(self, x: Tensor) -> Tensor:
        r"""Return $\nabla^2 \log p(x)$, (..., n, n), for x of shape (..., n)."""
        _checks.vectors("x", x, self.dim)
        responsibilities, scores = self._component_scores(x.to(torch.float64))
        score = torch.einsum("...k,...ki->...i", responsibilities, scores)
        # The covariance of the component scores, centred first: no cancellation far from the means.
        centred = scores - score.unsqueeze(-2)
        between = torch.einsum("...k,...ki,...kj->...ij", responsibilities, centred, centred)
        within = torch.einsum("...k,kij->...ij", responsibilities, self.precisions)
        return (between - within).to(x.dtype)

    def _log_joint(self, x: Tensor) -> Tensor:
        """log(w_k N(x; mu_k, Sigma_k)), (..., K)."""
        centred = (x.unsqueeze(-2) - self.means).unsqueeze(-1)
        whitened = torch.linalg.solve_triangular(self.factors, centred, upper=False).squeeze(-1)
        log_det = self.factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = self.weights.log() - log_det - 0.5 * self.dim * math.log(2 * math.pi)
        return constant - 0.5 * whitened.square().sum(-1)

    def _component_scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Responsibilities p(k | x), (..., K), and scores of the components, (..., K, n)."""
        responsibilities = torch.softmax(self._log_joint(x), dim=-1)
        scores = torch.einsum("kij,...kj->...ki", self.precisions, self.means - x.unsqueeze(-2))
        return responsibilities, scores


def two_bumps(centre: Sequence[float] = (0.8, 0.5), std: float = 0.59) -> GaussianMixture:
    """Return the bimodal prior of the book's pictures: two round Gaussians of equal weight at +centre and -centre.

    Args:
        centre: (n,), the mean of the first component.
        std: the standard deviation of both components in every direction.

    Example:
        >>> two_bumps()
        GaussianMixture(components=2, dim=2)
    """
    mean = _checks.as_float64("centre", centre)
    if mean.ndim != 1:
        raise ValueError(f"centre must have shape (n,), got {tuple(mean.shape)}")
    covariance = _checks.positive("std", std) ** 2 * torch.eye(len(mean), dtype=torch.float64)
    return GaussianMixture([0.5, 0.5], torch.stack([mean, -mean]), torch.stack([covariance, covariance]))


class LogisticPrior:
    r"""Independent logistic coordinates, $p(x) = \prod_i \frac{1}{4 s_i} \cosh^{-2}(x_i / 2 s_i)$ on $\mathbb R^n$.

    It is log-concave and not Gaussian: near the origin like a Gaussian of variance $2 s^2$, far away like the Laplace
    density $e^{-|x| / s}$. So Corollary 1 holds for it everywhere.

    Args:
        scales: (n,), the positive scales s.

    Raises:
        ValueError: if `scales` is no vector of positive numbers.
    """

    def __init__(self, scales: object) -> None:
        self.scales = _checks.as_float64("scales", scales)
        if self.scales.ndim != 1 or len(self.scales) == 0 or not bool((self.scales > 0).all()):
            raise ValueError(f"scales must be a vector of positive numbers, got {self.scales.tolist()}")

    def __repr__(self) -> str:
        return f"LogisticPrior(scales={self.scales.tolist()})"

    @property
    def dim(self) -> int:
        """The dimension n of x."""
        return len(self.scales)

    @property
    def box(self) -> Tensor:
        """Lower and upper corner, (2, n), of a box that holds the mass to rounding accuracy."""
        return 50.0 * torch.stack([-self.scales, self.scales])

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw `count` independent points, (count, n), float64."""
        return _sample_by_transport(self, count, generator)

    def transport(self, uniform: Tensor) -> Tensor:
        """Map points of the unit cube, (..., n + 1), to points of the prior, (..., n); the first column is unused."""
        _checks.vectors("uniform", uniform, self.dim + 1)
        if not bool(((uniform > 0) & (uniform < 1)).all()):
            raise ValueError("uniform must lie strictly between 0 and 1 in every entry")
        return self.scales * torch.logit(uniform[..., 1:].to(torch.float64))

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x), (...), for x of shape (..., n)."""
        _checks.vectors("x", x, self.dim)
        half = x.to(torch.float64) / (2 * self.scales)
        log_cosh = torch.logaddexp(half, -half) - math.log(2)
        return (-2 * log_cosh - torch.log(4 * self.scales)).sum(-1).to(x.dtype)

    def score(self, x: Tensor) -> Tensor:
        """Return the score, (..., n), for x of shape (..., n)."""
        _checks.vectors("x", x, self.dim)
        return (-torch.tanh(x.to(torch.float64) / (2 * self.scales)) / self.scales).to(x.dtype)

    def hessian(self, x: Tensor) -> Tensor:
        r"""Return $\nabla^2 \log p(x)$, (..., n, n), for x of shape (..., n)."""
        _checks.vectors("x", x, self.dim)
        slope = torch.tanh(x.to(torch.float64) / (2 * self.scales))
        return torch.diag_embed((slope.square() - 1) / (2 * self.scales**2)).to(x.dtype)


class DensityPrior:
    """A prior given by any smooth density in one or two dimensions; a constant factor may be missing.

    Args:
        log_density: maps points (..., n) to (...), made of differentiable torch operations.
        lower: (n,), the lower corner of a box that holds the mass.
        upper: (n,), the upper corner.

    Raises:
        ValueError: if the box is empty, has more than two dimensions, or leaves mass outside.
        QuadratureError: if the density is too rough to be integrated.

    Example:
        >>> prior = DensityPrior(lambda x: -x.square().sum(-1) ** 2, [-3.0], [3.0])
        >>> round(prior.log_prob(torch.zeros(1, dtype=torch.float64)).exp().item(), 4)
        0.5516
    """

    def __init__(self, log_density: Callable[[Tensor], Tensor], lower: object, upper: object) -> None:
        corners = [_checks.as_float64(name, value) for name, value in (("lower", lower), ("upper", upper))]
        if corners[0].shape != corners[1].shape or corners[0].ndim != 1 or not 1 <= len(corners[0]) <= 2:
            raise ValueError(f"lower and upper must have shape (1,) or (2,), got {[tuple(c.shape) for c in corners]}")
        if not bool((corners[0] < corners[1]).all()):
            raise ValueError(f"lower must be below upper, got {corners[0].tolist()} and {corners[1].tolist()}")
        self.log_density = log_density
        self.box = torch.stack(corners)
        self.dim = len(corners[0])
        points, self._axes = self._table()
        values = log_density(points)
        edge = torch.ones_like(values, dtype=torch.bool)
        edge[(slice(1, -1),) * self.dim] = False
        if float(values[edge].max()) > float(values.max()) - 30:
            raise ValueError("lower and upper must enclose the mass: the density is not negligible at the box's edge")
        whole = quadrature.moments(lambda x: log_density(x), self.box.unsqueeze(0))
        self.log_mass, self.mean, self.covariance = whole.log_mass[0], whole.mean[0], whole.covariance[0]
        self._density = (values - values.max()).exp()

    def __repr__(self) -> str:
        return f"DensityPrior(dim={self.dim}, box={self.box.tolist()})"

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x), (...), for x of shape (..., n), normalized."""
        _checks.vectors("x", x, self.dim)
        return (self.log_density(x.to(torch.float64)) - self.log_mass).to(x.dtype)

    def score(self, x: Tensor) -> Tensor:
        """Return the score, (..., n), by automatic differentiation, for x of shape (..., n)."""
        _checks.vectors("x", x, self.dim)
        points = x.detach().to(torch.float64).reshape(-1, self.dim)
        return torch.func.vmap(torch.func.grad(self.log_density))(points).reshape(x.shape).to(x.dtype)

    def hessian(self, x: Tensor) -> Tensor:
        r"""Return $\nabla^2 \log p(x)$, (..., n, n), by automatic differentiation, for x of shape (..., n)."""
        _checks.vectors("x", x, self.dim)
        points = x.detach().to(torch.float64).reshape(-1, self.dim)
        hessian = torch.func.vmap(torch.func.jacrev(torch.func.grad(self.log_density)))(points)
        return hessian.reshape(*x.shape, self.dim).to(x.dtype)

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw `count` independent points, (count, n), float64."""
        return _sample_by_transport(self, count, generator)

    def transport(self, uniform: Tensor) -> Tensor:
        """Map points of the unit cube, (..., n + 1), to points of the prior, (..., n); the first coordinate is unused.

        Each coordinate in turn goes through the inverse of its (conditional) distribution function, which is
        interpolated between the points of a fine table.
        """
        _checks.vectors("uniform", uniform, self.dim + 1)
        if not bool(((uniform > 0) & (uniform < 1)).all()):
            raise ValueError("uniform must lie strictly between 0 and 1 in every entry")
        level = uniform.to(torch.float64)
        first_density = self._density if self.dim == 1 else self._density.sum(1)
        first = _invert_distribution(first_density, self._axes[0], level[..., 1].reshape(-1)).reshape(level.shape[:-1])
        if self.dim == 1:
            return first.unsqueeze(-1)
        step = self._axes[0][1] - self._axes[0][0]
        position = ((first - self._axes[0][0]) / step).clamp(0, len(self._axes[0]) - 1.000001)
        row, share = position.long(), (position - position.floor()).unsqueeze(-1)
        conditional = (1 - share) * self._density[row] + share * self._density[row + 1]
        return torch.stack([first, _invert_distribution(conditional, self._axes[1], level[..., 2])], dim=-1)

    def _table(self) -> tuple[Tensor, list[Tensor]]:
        count = 4097 if self.dim == 1 else 513
        axes = [torch.linspace(float(low), float(high), count, dtype=torch.float64) for low, high in self.box.mT]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1), axes


def _sample_by_transport(prior: LogisticPrior | DensityPrior, count: int, generator: torch.Generator | None) -> Tensor:
    _checks.count("count", count)
    uniform = torch.rand(count, prior.dim + 1, dtype=torch.float64, generator=generator)
    return prior.transport(uniform.clamp(1e-15, 1 - 1e-15))


def _invert_distribution(density: Tensor, axis: Tensor, level: Tensor) -> Tensor:
    """Solve F(x) = level, (...), for the piecewise linear F of tabulated densities (..., P) on equidistant points."""
    pieces = 0.5 * (density[..., 1:] + density[..., :-1])
    distribution = torch.nn.functional.pad(pieces.cumsum(-1), (1, 0))
    target = level * distribution[..., -1] if density.ndim == 1 else (level * distribution[..., -1]).unsqueeze(-1)
    above = torch.searchsorted(distribution.contiguous(), target.contiguous()).clamp(1, len(axis) - 1)
    low, high = distribution.gather(-1, above - 1), distribution.gather(-1, above)
    share = ((target - low) / (high - low).clamp_min(1e-300)).clamp(0, 1)
    x = axis[above - 1] + share * (axis[above] - axis[above - 1])
    return x if density.ndim == 1 else x.squeeze(-1)
