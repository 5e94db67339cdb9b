"""Prior distributions with exact density, score and Hessian."""

import abc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invlib import _checks, quadrature


class Prior(abc.ABC):
    """A distribution of x on R^n with a smooth density.

    Arguments are checked, everything is computed in float64, and results come back in the dtype of the argument. A
    subclass gives the four functions of float64 points that start with an underscore, and `dim`.
    """

    dim: int
    """The dimension n of x."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x), (...), for x of shape (..., n).

        Raises:
            ValueError: if `x` is no finite floating-point tensor of shape (..., n). The same holds for `score` and
                `hessian`.
        """
        return self._log_prob(self._points(x)).to(x.dtype)

    def score(self, x: Tensor) -> Tensor:
        r"""Return the score $s(x) = \nabla \log p(x)$, (..., n), for x of shape (..., n)."""
        return self._score(self._points(x)).to(x.dtype)

    def hessian(self, x: Tensor) -> Tensor:
        r"""Return $\nabla^2 \log p(x)$, (..., n, n), for x of shape (..., n)."""
        return self._hessian(self._points(x)).to(x.dtype)

    def from_uniform(self, uniform: Tensor) -> Tensor:
        """Map points of the unit cube, (..., n + 1), to points of the prior, (..., n), float64.

        Uniform points become samples; low-discrepancy points (Sobol) become a quasi-random sample. A mixture chooses
        the component by the first coordinate, so that the sample is stratified; the other priors do not use it.

        Raises:
            ValueError: if `uniform` has not n + 1 columns or leaves the open unit cube.
        """
        _checks.vectors("uniform", uniform, self.dim + 1)
        if not bool(((uniform > 0) & (uniform < 1)).all()):
            raise ValueError("uniform must lie strictly between 0 and 1 in every entry")
        return self._from_uniform(uniform.to(torch.float64))

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw `count` independent points, (count, n), float64.

        Raises:
            ValueError: if `count` is not a positive integer.
        """
        _checks.count("count", count)
        uniform = torch.rand(count, self.dim + 1, dtype=torch.float64, generator=generator)
        return self._from_uniform(uniform.clamp(1e-15, 1 - 1e-15))

    def _points(self, x: Tensor) -> Tensor:
        return _checks.vectors("x", x, self.dim).to(torch.float64)

    @abc.abstractmethod
    def _log_prob(self, x: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def _score(self, x: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def _hessian(self, x: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def _from_uniform(self, uniform: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Components:
    """K weighted Gaussians with inverse covariances R* R: of a prior, or of the posteriors for many data at once.

    Everything is computed in log space, so that densities hundreds of standard deviations from the means neither
    underflow nor overflow.

    Attributes:
        log_weights: (..., K).
        means: (..., K, n).
        whiteners: the matrices R, (K, n, n), which all data share.
    """

    log_weights: Tensor
    means: Tensor
    whiteners: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the logarithm of the sum of the densities, (...), at x of shape (..., n)."""
        return torch.logsumexp(self._log_joint(self._whitened(x)), dim=-1)

    def score_and_hessian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first two derivatives of `log_prob`, (..., n) and (..., n, n)."""
        whitened = self._whitened(x)
        responsibilities = torch.softmax(self._log_joint(whitened), dim=-1)  # p(k | x)
        scores = -torch.einsum("...ki,kij->...kj", whitened, self.whiteners)
        score = torch.einsum("...k,...ki->...i", responsibilities, scores)
        # The covariance of the component scores, centred first: no cancellation far from the means.
        centred = scores - score.unsqueeze(-2)
        between = torch.einsum("...k,...ki,...kj->...ij", responsibilities, centred, centred)
        within = torch.einsum("...k,kij->...ij", responsibilities, self.whiteners.mT @ self.whiteners)
        return score, between - within

    def _whitened(self, x: Tensor) -> Tensor:
        """R_k (x - m_k), (..., K, n)."""
        return torch.einsum("kij,...kj->...ki", self.whiteners, x.unsqueeze(-2) - self.means)

    def _log_joint(self, whitened: Tensor) -> Tensor:
        """log(w_k N(x; m_k, C_k)), (..., K)."""
        constant = torch.linalg.slogdet(self.whiteners).logabsdet - 0.5 * whitened.shape[-1] * math.log(2 * math.pi)
        return self.log_weights + constant - 0.5 * whitened.square().sum(-1)


class GaussianMixture(Prior):
    r"""The mixture $p(x) = \sum_k w_k \, N(x;\, \mu_k, \Sigma_k)$ on $\mathbb R^n$.

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
        count = len(self.weights)
        if self.means.ndim != 2 or self.means.shape[0] != count or self.means.shape[1] == 0:
            raise ValueError(f"means must have shape ({count}, n), got {tuple(self.means.shape)}")
        self.dim = self.means.shape[1]
        if self.covariances.shape != (count, self.dim, self.dim):
            expected = (count, self.dim, self.dim)
            raise ValueError(f"covariances must have shape {expected}, got {tuple(self.covariances.shape)}")
        if not bool((self.weights > 0).all()) or abs(float(self.weights.sum()) - 1) > 1e-6:
            raise ValueError(f"weights must be positive and sum to one, got {self.weights.tolist()}")
        self.weights = self.weights / self.weights.sum()
        self.factors = _checks.covariances("covariances", self.covariances)
        whiteners = torch.linalg.solve_triangular(self.factors, torch.eye(self.dim).to(self.factors), upper=False)
        self.components = Components(self.weights.log(), self.means, whiteners)

    def __repr__(self) -> str:
        return f"GaussianMixture(components={len(self.weights)}, dim={self.dim})"

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
        """Draw `count` independent points, (count, n), float64: a component for each, then a point of its Gaussian."""
        _checks.count("count", count)
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        normal = torch.randn(count, self.dim, 1, dtype=torch.float64, generator=generator)
        return self.means[chosen] + (self.factors[chosen] @ normal).squeeze(-1)

    def _log_prob(self, x: Tensor) -> Tensor:
        return self.components.log_prob(x)

    def _score(self, x: Tensor) -> Tensor:
        return self.components.score_and_hessian(x)[0]

    def _hessian(self, x: Tensor) -> Tensor:
        return self.components.score_and_hessian(x)[1]

    def _from_uniform(self, uniform: Tensor) -> Tensor:
        chosen = torch.searchsorted(self.weights.cumsum(0)[:-1], uniform[..., 0].contiguous())
        normal = torch.special.ndtri(uniform[..., 1:]).unsqueeze(-1)
        return self.means[chosen] + (self.factors[chosen] @ normal).squeeze(-1)


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


class LogisticPrior(Prior):
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
        self.dim = len(self.scales)

    def __repr__(self) -> str:
        return f"LogisticPrior(scales={self.scales.tolist()})"

    @property
    def box(self) -> Tensor:
        """Lower and upper corner, (2, n), of a box that holds the mass to rounding accuracy."""
        return 50.0 * torch.stack([-self.scales, self.scales])

    def _log_prob(self, x: Tensor) -> Tensor:
        half = x / (2 * self.scales)
        log_cosh = torch.logaddexp(half, -half) - math.log(2)
        return (-2 * log_cosh - torch.log(4 * self.scales)).sum(-1)

    def _score(self, x: Tensor) -> Tensor:
        return -torch.tanh(x / (2 * self.scales)) / self.scales

    def _hessian(self, x: Tensor) -> Tensor:
        slope = torch.tanh(x / (2 * self.scales))
        return torch.diag_embed((slope.square() - 1) / (2 * self.scales**2))

    def _from_uniform(self, uniform: Tensor) -> Tensor:
        return self.scales * torch.logit(uniform[..., 1:])


class DensityPrior(Prior):
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
        self.log_density, self.box, self.dim = log_density, torch.stack(corners), len(corners[0])
        count = 4097 if self.dim == 1 else 513
        self._axes = [torch.linspace(*corner.tolist(), count, dtype=torch.float64) for corner in self.box.mT]
        values = log_density(torch.stack(torch.meshgrid(*self._axes, indexing="ij"), dim=-1))
        edge = torch.ones_like(values, dtype=torch.bool)
        edge[(slice(1, -1),) * self.dim] = False
        if float(values[edge].max()) > float(values.max()) - 30:
            raise ValueError("lower and upper must enclose the mass: the density is not negligible at the box's edge")
        whole = quadrature.moments(log_density, self.box.unsqueeze(0))
        self.log_mass, self.mean, self.covariance = (integral[0] for integral in whole)
        self._density = (values - values.max()).exp()

    def __repr__(self) -> str:
        return f"DensityPrior(dim={self.dim}, box={self.box.tolist()})"

    def _log_prob(self, x: Tensor) -> Tensor:
        return self.log_density(x) - self.log_mass

    def _score(self, x: Tensor) -> Tensor:
        return self._at_each(torch.func.grad(self.log_density), x).reshape(x.shape)

    def _hessian(self, x: Tensor) -> Tensor:
        return self._at_each(torch.func.jacrev(torch.func.grad(self.log_density)), x).reshape(*x.shape, self.dim)

    def _at_each(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return torch.func.vmap(function)(x.detach().reshape(-1, self.dim))

    def _from_uniform(self, uniform: Tensor) -> Tensor:
        """Send each coordinate through the inverse of its (conditional) distribution function, from a fine table."""
        level = uniform.reshape(-1, self.dim + 1)
        marginal = self._density.reshape(len(self._axes[0]), -1).sum(1)
        x = [_invert_distribution(marginal, self._axes[0], level[:, 1])]
        if self.dim == 2:
            position = (x[0] - self._axes[0][0]) / (self._axes[0][1] - self._axes[0][0])
            row = position.long().clamp(0, len(self._axes[0]) - 2)
            conditional = torch.lerp(self._density[row], self._density[row + 1], (position - row).unsqueeze(-1))
            x.append(_invert_distribution(conditional, self._axes[1], level[:, 2]))
        return torch.stack(x, dim=-1).reshape(*uniform.shape[:-1], self.dim)


def _invert_distribution(density: Tensor, axis: Tensor, level: Tensor) -> Tensor:
    """Solve F(x) = level, (B,), for the piecewise linear F of a density, (P,) or (B, P), on equidistant points."""
    pieces = 0.5 * (density[..., 1:] + density[..., :-1])
    distribution = torch.nn.functional.pad(pieces.cumsum(-1), (1, 0))
    target = (level * distribution[..., -1]).unsqueeze(-1)
    above = torch.searchsorted(distribution, target).clamp(1, len(axis) - 1)
    low, high = (distribution.expand(len(level), -1).gather(-1, i) for i in (above - 1, above))
    share = ((target - low) / (high - low).clamp_min(1e-300)).clamp(0, 1)
    return torch.lerp(axis[above - 1], axis[above], share).squeeze(-1)
