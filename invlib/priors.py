"""Prior distributions with exact density, score and Hessian."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from invlib import _checks


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
