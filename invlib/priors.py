"""Prior distributions: the contract, and three families with exact density, score and Hessian.

A prior enters the posterior in `book/point-estimators.md`; its score is the subject of `book/tweedie.md`.
"""

import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, distributions

from invlib import _checks, quadrature

Function = Callable[[Tensor], Tensor]

CHUNK = 2**23
"""The most numbers that the intermediate tensors of a mixture may hold: 64 MB."""


class Prior:
    r"""A distribution of x on $\mathbb R^n$ with a smooth density: the contract.

    A subclass gives `dim` and what its users need:

    - `_log_prob(x)`, float64 points (..., n) to (...), made of differentiable torch operations. It suffices for
      `map_estimate` and `map_curvature`. Score and Hessian come by automatic differentiation; `_score` and `_hessian`
      may be given where they are known.
    - `sample(count, *, generator=None)`, (count, n). It suffices for `train`.
    - `box`, (2, n), lower and upper corners that hold the mass: for posterior means, covariances and evidences by
      quadrature, with n <= 2 and a normalized density.
    - `log_concave = True` where it is true: every posterior then has one mode, and the MAP estimate is secured.
    - `from_uniform(uniform)`, (..., n + 1) in the unit cube to (..., n): `train` then uses quasi-random points.
    - `mean`, (n,), and `covariance`, (n, n).

    `Prior.from_log_density` and `Prior.from_distribution` make a prior without a class.

    Arguments are checked, everything is computed in float64, and results come back in the dtype of the argument, with
    gradients.

    Example:
        >>> class Quartic(Prior):
        ...     dim = 3
        ...     log_concave = True
        ...
        ...     def _log_prob(self, x):
        ...         return -x.square().sum(-1).square()
        >>> Quartic().score(torch.ones(3))
        tensor([-12., -12., -12.])
    """

    dim: int
    """The dimension n of x."""

    box: Tensor | None = None
    """Lower and upper corner, (2, n), of a box that holds the mass, if known."""

    log_concave: bool = False
    """Whether log p is known to be concave."""

    @staticmethod
    def from_log_density(
        dim: int,
        log_density: Function,
        *,
        score: Function | None = None,
        sample: Callable[..., Tensor] | None = None,
        log_concave: bool = False,
    ) -> "Prior":
        """Return a prior in any dimension from its log-density.

        Args:
            dim: the dimension n.
            log_density: maps float64 points (..., n) to (...), made of differentiable torch operations; a constant may
                be missing.
            score: its gradient, (..., n) to (..., n), if a formula is at hand.
            sample: `sample(count, generator=...)` returns (count, n), if there is a sampler.
            log_concave: whether the log-density is known to be concave.

        Raises:
            ValueError, TypeError: if an argument is of the wrong kind.

        Example:
            >>> prior = Prior.from_log_density(3, lambda x: -x.cosh().log().sum(-1), log_concave=True)
            >>> prior.score(torch.zeros(3))
            tensor([-0., -0., -0.])
        """
        return _FromLogDensity(dim, log_density, score, sample, log_concave)

    @staticmethod
    def from_distribution(distribution: distributions.Distribution) -> "Prior":
        """Return a `torch.distributions` object as a prior; see `from_distribution`."""
        return from_distribution(distribution)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x), (...), for x of shape (..., n).

        Raises:
            ValueError: if `x` is no finite floating-point tensor of shape (..., n) with entries up to 1e100. The same
                holds for `score` and `hessian`.
            TypeError: if the prior gives no log-density.
        """
        return self._checked_log_prob(self._points(x)).to(x.dtype)

    def score(self, x: Tensor) -> Tensor:
        r"""Return the score $s(x) = \nabla \log p(x)$, (..., n), for x of shape (..., n)."""
        return self._score(self._points(x)).to(x.dtype)

    def hessian(self, x: Tensor) -> Tensor:
        r"""Return $\nabla^2 \log p(x)$, (..., n, n), for x of shape (..., n)."""
        return self._hessian(self._points(x)).to(x.dtype)

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw `count` independent points, (count, n), float64.

        Raises:
            ValueError: if `count` is not a positive integer.
            TypeError: if the prior has no sampler.
        """
        raise TypeError(
            f"prior must give sample(count, *, generator=None) to be sampled, got {self!r}"
        )

    def _points(self, x: Tensor) -> Tensor:
        return _checks.vectors("x", x, _dimension(self)).to(torch.float64)

    def _checked_log_prob(self, x: Tensor) -> Tensor:
        """The log-density at float64 points, whose shape is checked."""
        values = self._log_prob(x)
        return _values(f"{type(self).__name__}._log_prob", values, x)

    def _log_prob(self, x: Tensor) -> Tensor:
        raise TypeError(
            f"prior must give _log_prob(x), its log-density, for this purpose, got {self!r}"
        )

    def _score(self, x: Tensor) -> Tensor:
        return _gradient(self._checked_log_prob, x)

    def _hessian(self, x: Tensor) -> Tensor:
        return _jacobian(self._score, x)

    def _score_and_hessian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._score(x), self._hessian(x)


class _Transported(Prior):
    """A prior whose samples are images of uniform points."""

    def from_uniform(self, uniform: Tensor) -> Tensor:
        """Map points of the unit cube, (..., n + 1), to points of the prior, (..., n), float64.

        Uniform points become samples; low-discrepancy points (Sobol) become a quasi-random sample. A mixture chooses
        the component by the first coordinate, so that the sample is stratified; the other priors do not use it.

        Raises:
            ValueError: if `uniform` has not n + 1 columns or leaves the open unit cube.
        """
        _checks.vectors("uniform", uniform, self.dim + 1)
        if not _checks.every((uniform > 0) & (uniform < 1)):
            raise ValueError("uniform must lie strictly between 0 and 1 in every entry")
        return self._from_uniform(uniform.to(torch.float64))

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw `count` independent points, (count, n), float64.

        Raises:
            ValueError: if `count` is not a positive integer.
        """
        _checks.count("count", count)
        uniform = torch.rand(
            count, self.dim + 1, dtype=torch.float64, generator=generator
        )
        return self._from_uniform(uniform.clamp(1e-15, 1 - 1e-15))

    def _from_uniform(self, uniform: Tensor) -> Tensor:
        raise NotImplementedError


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

    @property
    def log_peaks(self) -> Tensor:
        """The logarithms of the largest values of the weighted densities, (..., K)."""
        constant = 0.5 * self.means.shape[-1] * math.log(2 * math.pi)
        log_det: Tensor = torch.linalg.slogdet(self.whiteners).logabsdet
        return self.log_weights + (log_det - constant)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the logarithm of the sum of the densities, (...), at x of shape (..., n)."""
        return torch.logsumexp(self._log_joint(self.whitened(x)), dim=-1)

    def score(self, x: Tensor) -> Tensor:
        """Return the gradient of `log_prob`, (..., n)."""
        whitened = self.whitened(x)
        responsibilities = torch.softmax(self._log_joint(whitened), dim=-1)
        weighted = -responsibilities.unsqueeze(-1) * whitened
        return torch.einsum("...ki,kij->...j", weighted, self.whiteners)

    def score_and_hessian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first two derivatives of `log_prob`, (..., n) and (..., n, n)."""
        whitened = self.whitened(x)
        responsibilities = torch.softmax(self._log_joint(whitened), dim=-1)  # p(k | x)
        scores = -torch.einsum("...ki,kij->...kj", whitened, self.whiteners)
        score = torch.einsum("...k,...ki->...i", responsibilities, scores)

        # The covariance of the component scores, centred first: no cancellation far from the means.
        centred = scores - score.unsqueeze(-2)
        between = centred.mT @ (responsibilities.unsqueeze(-1) * centred)
        precisions = self.whiteners.mT @ self.whiteners
        within = torch.einsum("...k,kij->...ij", responsibilities, precisions)
        return score, between - within

    def whitened(self, x: Tensor) -> Tensor:
        """R_k (x - m_k), (..., K, n)."""
        return torch.einsum(
            "kij,...kj->...ki", self.whiteners, x.unsqueeze(-2) - self.means
        )

    def _log_joint(self, whitened: Tensor) -> Tensor:
        """log(w_k N(x; m_k, C_k)), (..., K)."""
        return self.log_peaks - 0.5 * whitened.square().sum(-1)


class GaussianMixture(_Transported):
    r"""The mixture $p(x) = \sum_k w_k \, N(x;\, \mu_k, \Sigma_k)$ on $\mathbb R^n$.

    Of a scikit-learn mixture with `covariance_type="full"`, take its three attributes:
    `GaussianMixture(fit.weights_, fit.means_, fit.covariances_)`.

    Args:
        weights: (K,), positive, summing to one.
        means: (K, n).
        covariances: (K, n, n), symmetric positive definite, variances between 1e-100 and 1e100. What comes in float32
            may be symmetric up to the rounding errors of float32.

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
            raise ValueError(
                f"weights must have shape (K,), got {tuple(self.weights.shape)}"
            )

        count = len(self.weights)
        if (
            self.means.ndim != 2
            or self.means.shape[0] != count
            or self.means.shape[1] == 0
        ):
            raise ValueError(
                f"means must have shape ({count}, n), got {tuple(self.means.shape)}"
            )
        _checks.vectors("means", self.means, self.means.shape[1])

        self.dim = self.means.shape[1]
        expected = (count, self.dim, self.dim)
        if self.covariances.shape != expected:
            raise ValueError(
                f"covariances must have shape {expected}, got {tuple(self.covariances.shape)}"
            )

        if (
            not bool((self.weights > 0).all())
            or abs(float(self.weights.sum()) - 1) > 1e-6
        ):
            raise ValueError(
                f"weights must be positive and sum to one, got {self.weights.tolist()}"
            )
        self.weights = self.weights / self.weights.sum()

        came_in = _checks.precision(covariances)
        self.factors = _checks.cholesky_factors(
            "covariances", self.covariances, came_in
        )
        self.covariances = 0.5 * (self.covariances + self.covariances.mT)

        identity = torch.eye(self.dim, dtype=torch.float64)
        whiteners = torch.linalg.solve_triangular(self.factors, identity, upper=False)
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
        chosen = torch.multinomial(
            self.weights, count, replacement=True, generator=generator
        )
        normal = torch.randn(count, self.dim, dtype=torch.float64, generator=generator)
        return self._place(chosen, normal)

    def _log_prob(self, x: Tensor) -> Tensor:
        return in_chunks(self.components.log_prob, x, self.means.numel())

    def _score(self, x: Tensor) -> Tensor:
        return in_chunks(self.components.score, x, self.means.numel())

    def _hessian(self, x: Tensor) -> Tensor:
        return in_chunks(
            lambda part: self.components.score_and_hessian(part)[1],
            x,
            self.means.numel(),
        )

    def _score_and_hessian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.components.score_and_hessian(x)

    def _from_uniform(self, uniform: Tensor) -> Tensor:
        chosen = torch.searchsorted(
            self.weights.cumsum(0)[:-1], uniform[..., 0].contiguous()
        )
        return self._place(chosen, torch.special.ndtri(uniform[..., 1:]))

    def _place(self, chosen: Tensor, normal: Tensor) -> Tensor:
        """Standard normal points, (..., n), moved to the chosen components, (...)."""
        if normal.numel() * self.dim <= CHUNK:
            return self.means[chosen] + (
                self.factors[chosen] @ normal.unsqueeze(-1)
            ).squeeze(-1)

        # One component after the other: no copy of its matrix for every point
        points = self.means[chosen]
        for k, factor in enumerate(self.factors):
            points[chosen == k] += normal[chosen == k] @ factor.mT
        return points


class LogisticPrior(_Transported):
    r"""Independent logistic coordinates, $p(x) = \prod_i \frac{1}{4 s_i} \cosh^{-2}(x_i / 2 s_i)$ on $\mathbb R^n$.

    It is log-concave and not Gaussian: near the origin like a Gaussian of variance $2 s^2$, far away like the Laplace
    density $e^{-|x| / s}$. So Corollary 1 applies for it everywhere.

    Args:
        scales: (n,), the scales s, between 1e-50 and 1e50.

    Raises:
        ValueError: if `scales` is no vector of such numbers.

    Example:
        >>> LogisticPrior([1.0]).log_prob(torch.zeros(1)).exp()
        tensor(0.2500)
    """

    log_concave = True

    def __init__(self, scales: object) -> None:
        self.scales = _checks.as_float64("scales", scales)
        if (
            self.scales.ndim != 1
            or len(self.scales) == 0
            or not bool((self.scales > 0).all())
        ):
            raise ValueError(
                f"scales must be a vector of positive numbers, got {self.scales.tolist()}"
            )
        for scale in self.scales.tolist():
            _checks.scale("scales", scale)
        self.dim = len(self.scales)

    def __repr__(self) -> str:
        return f"LogisticPrior(scales={self.scales.tolist()})"

    @property
    def box(self) -> Tensor:  # type: ignore[override]
        """Lower and upper corner, (2, n), of a box that holds the mass to rounding accuracy."""
        return 50.0 * torch.stack([-self.scales, self.scales])

    @property
    def mean(self) -> Tensor:
        """The expectation E[x], (n,), which is zero."""
        return torch.zeros_like(self.scales)

    @property
    def covariance(self) -> Tensor:
        r"""The covariance of x, (n, n), with the variances $\pi^2 s^2 / 3$."""
        return torch.diag(math.pi**2 * self.scales.square() / 3)

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


class _HoldsFunctions:
    """Copies share the functions; a pickle needs functions that have a name, and says so."""

    def __getstate__(self) -> dict[str, object]:
        for name, value in vars(self).items():
            if callable(value):
                _check_pickle(name, value)
        return vars(self)

    def __copy__(self) -> "_HoldsFunctions":
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __deepcopy__(self, memo: dict[int, object]) -> "_HoldsFunctions":
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin


class DensityPrior(_HoldsFunctions, _Transported):
    """A prior given by any smooth density in one or two dimensions; a constant factor may be missing.

    To be pickled, it needs a `log_density` that was defined by `def` at the top of a module.

    Args:
        log_density: maps points (..., n) to (...), made of differentiable torch operations.
        lower: (n,), the lower corner of a box that holds the mass.
        upper: (n,), the upper corner.
        log_concave: whether the log-density is known to be concave.

    Raises:
        ValueError: if the box is empty, has more than two dimensions, or leaves mass outside; if `log_density` does
            not return one number for each point.
        TypeError: if `log_density` is no function, or not made of differentiable torch operations.
        QuadratureError: if the density is too rough to be integrated.

    Example:
        >>> prior = DensityPrior(lambda x: -x.square().sum(-1) ** 2, [-3.0], [3.0])
        >>> round(prior.log_prob(torch.zeros(1, dtype=torch.float64)).exp().item(), 4)
        0.5516
    """

    box: Tensor

    def __init__(
        self,
        log_density: Function,
        lower: object,
        upper: object,
        *,
        log_concave: bool = False,
    ) -> None:
        self.box = _box(lower, upper)
        self.dim = self.box.shape[1]
        self.log_density = _function("log_density", log_density, self.dim)
        self.log_concave = _checks.flag("log_concave", log_concave)

        count = 4097 if self.dim == 1 else 513
        self._axes = [
            torch.linspace(float(low), float(high), count, dtype=torch.float64)
            for low, high in self.box.mT
        ]

        with torch.no_grad():
            values = self._unnormalized(
                torch.stack(torch.meshgrid(*self._axes, indexing="ij"), dim=-1)
            )
            self._check_edge(values)
            whole = quadrature.moments(self._unnormalized, self.box.unsqueeze(0))

        self.log_mass, self.mean, self.covariance = (integral[0] for integral in whole)
        self._density = (values - values.max()).exp()

    def __repr__(self) -> str:
        return f"DensityPrior(dim={self.dim}, box={self.box.tolist()})"

    def _check_edge(self, values: Tensor) -> None:
        if bool(values.isnan().any()):
            raise ValueError(
                "log_density must be a number at every point of the box, got nan"
            )

        edge = torch.ones_like(values, dtype=torch.bool)
        edge[(slice(1, -1),) * self.dim] = False
        if float(values[edge].max()) > float(values.max()) - 30:
            raise ValueError(
                "lower and upper must enclose the mass: the density is not negligible at the box's edge"
            )

    def _unnormalized(self, x: Tensor) -> Tensor:
        return _values("log_density", self.log_density(x), x)

    def _log_prob(self, x: Tensor) -> Tensor:
        return self._unnormalized(x) - self.log_mass

    def _from_uniform(self, uniform: Tensor) -> Tensor:
        """Send each coordinate through the inverse of its (conditional) distribution function, from a fine table."""
        level = uniform.reshape(-1, self.dim + 1)
        marginal = self._density.reshape(len(self._axes[0]), -1).sum(1)
        x = [_invert_distribution(marginal, self._axes[0], level[:, 1])]

        if self.dim == 2:
            position = (x[0] - self._axes[0][0]) / (self._axes[0][1] - self._axes[0][0])
            row = position.long().clamp(0, len(self._axes[0]) - 2)
            share = (position - row).unsqueeze(-1)
            conditional = torch.lerp(self._density[row], self._density[row + 1], share)
            x.append(_invert_distribution(conditional, self._axes[1], level[:, 2]))

        return torch.stack(x, dim=-1).reshape(*uniform.shape[:-1], self.dim)


class _FromLogDensity(_HoldsFunctions, Prior):
    """What `Prior.from_log_density` returns."""

    def __init__(
        self,
        dim: int,
        log_density: Function,
        score: Function | None,
        sample: Callable[..., Tensor] | None,
        log_concave: bool,
    ) -> None:
        self.dim = _checks.count("dim", dim)
        self.log_density = _function("log_density", log_density, self.dim)
        for name, function in (("score", score), ("sample", sample)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function, got {function!r}")
        self._given_score = score
        self._given_sample = sample
        self.log_concave = _checks.flag("log_concave", log_concave)

    def __repr__(self) -> str:
        return (
            f"Prior.from_log_density(dim={self.dim}, log_density={self.log_density!r})"
        )

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw `count` independent points, (count, n), float64."""
        _checks.count("count", count)
        if self._given_sample is None:
            return super().sample(count, generator=generator)
        points = self._given_sample(count, generator=generator)
        return _samples("sample", points, count, self.dim)

    def _log_prob(self, x: Tensor) -> Tensor:
        return _values("log_density", self.log_density(x), x)

    def _score(self, x: Tensor) -> Tensor:
        if self._given_score is None:
            return super()._score(x)
        score = self._given_score(x)
        if not isinstance(score, Tensor) or score.shape != x.shape:
            found = tuple(score.shape) if isinstance(score, Tensor) else score
            raise ValueError(
                f"score must return a tensor of shape {tuple(x.shape)}, got {found!r}"
            )
        return score.to(torch.float64)


class _FromDistribution(Prior):
    """A distribution of torch without a closed-form posterior."""

    def __init__(self, distribution: distributions.Distribution) -> None:
        self.distribution = distribution
        self.dim = distribution.event_shape[0]

    def __repr__(self) -> str:
        return f"Prior.from_distribution({self.distribution!r})"

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw `count` independent points, (count, n), float64."""
        _checks.count("count", count)
        if generator is None:
            return self.distribution.sample((count,)).to(torch.float64)

        # torch.distributions draw from the global generator: lend it the seed, and put its state back.
        state = torch.get_rng_state()
        try:
            torch.default_generator.manual_seed(
                int(torch.randint(2**62, (), generator=generator))
            )
            return self.distribution.sample((count,)).to(torch.float64)
        finally:
            torch.set_rng_state(state)

    def _log_prob(self, x: Tensor) -> Tensor:
        if x.numel() == 0:  # torch.distributions cannot reshape nothing
            return x.sum(-1)
        return self.distribution.log_prob(x)


def from_distribution(distribution: distributions.Distribution) -> Prior:
    """Return a `torch.distributions` object as a prior.

    Normal distributions of vectors and mixtures of them become a `GaussianMixture`, with which everything is exact. Any
    other distribution on R^n is used by its `log_prob` and `sample`. Its `sample` takes no generator; where one is
    given, the global generator is seeded from it and then put back into its old state.

    Args:
        distribution: one distribution (no batch) of vectors of shape (n,).

    Raises:
        TypeError: if it is no `torch.distributions.Distribution`.
        ValueError: if it is a batch of distributions, no distribution of vectors, or does not live on all of R^n.

    Example:
        >>> normal = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
        >>> from_distribution(torch.distributions.Independent(normal, 1))
        GaussianMixture(components=1, dim=2)
    """
    if not isinstance(distribution, distributions.Distribution):
        raise TypeError(
            f"distribution must be a torch.distributions.Distribution, got {distribution!r}"
        )

    if len(distribution.event_shape) != 1 or len(distribution.batch_shape) != 0:
        raise ValueError(
            "distribution must be one distribution of vectors: event_shape (n,) and batch_shape (), got "
            f"{tuple(distribution.event_shape)} and {tuple(distribution.batch_shape)}; "
            "torch.distributions.Independent(distribution, 1) makes a batch of numbers a vector"
        )

    if isinstance(distribution, distributions.MixtureSameFamily):
        parts = _means_and_covariances(distribution.component_distribution)
        if parts is not None:
            return GaussianMixture(
                distribution.mixture_distribution.probs.double(), *parts
            )

    parts = _means_and_covariances(distribution)
    if parts is not None:
        return GaussianMixture([1.0], parts[0].unsqueeze(0), parts[1].unsqueeze(0))

    if not _is_everywhere(distribution):
        raise ValueError(
            f"distribution must have a density on all of R^n, got {distribution!r}"
        )
    return _FromDistribution(distribution)


def in_chunks(function: Function, x: Tensor, size: int) -> Tensor:
    """Apply a function of points (..., n) in parts, if `size` numbers for each point do not fit into memory."""
    rows = x.shape[:-1].numel()
    if rows * size <= CHUNK:
        return function(x)

    parts = torch.split(x.reshape(rows, -1), max(1, CHUNK // size))
    results = torch.cat([function(part) for part in parts])
    return results.reshape(*x.shape[:-1], *results.shape[1:])


def _dimension(prior: Prior) -> int:
    dim = getattr(prior, "dim", None)
    if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
        raise TypeError(
            f"prior must have a positive integer dim, got {dim!r} in {type(prior).__name__}"
        )
    return dim


def _values(name: str, values: object, x: Tensor) -> Tensor:
    """The values of a log-density that someone else wrote, if they are one number for each point."""
    expected = tuple(x.shape[:-1])
    if not isinstance(values, Tensor):
        raise TypeError(
            f"{name} must return a torch tensor of shape (...), got {type(values).__name__}"
        )
    if values.shape != expected or not values.is_floating_point():
        found = f"shape {tuple(values.shape)} and {values.dtype} for points {tuple(x.shape)}"
        raise ValueError(
            f"{name} must return real numbers of shape {expected}, got {found}"
        )
    return values.to(torch.float64)


def _samples(name: str, points: object, count: int, dim: int) -> Tensor:
    if not isinstance(points, Tensor) or points.shape != (count, dim):
        found = (
            tuple(points.shape) if isinstance(points, Tensor) else type(points).__name__
        )
        raise ValueError(
            f"{name} must return a tensor of shape {(count, dim)}, got {found}"
        )
    return _checks.finite(name, points.to(torch.float64))


def _function(name: str, function: Function, dim: int) -> Function:
    """Return a log-density if it can be differentiated."""
    if not callable(function):
        raise TypeError(f"{name} must be a function, got {function!r}")
    _check_differentiable(name, function, torch.zeros(dim, dtype=torch.float64))
    return function


def _check_differentiable(name: str, function: Function, point: Tensor) -> None:
    """Raise if automatic differentiation cannot see how the values depend on the point, (n,)."""
    wanted = f"{name} must be made of differentiable torch operations"
    with torch.inference_mode(False), torch.enable_grad():
        attached = torch.stack([point.detach().clone(), point.detach().clone() + 1.0])
        # Inside a transform of torch.func: it was or will be checked outside
        try:
            attached.requires_grad_()
        except RuntimeError:
            return
        try:
            values = function(attached)
        except RuntimeError as error:
            raise TypeError(f"{wanted}, got the error: {error}") from error
        _values(name, values, attached)
        if not values.requires_grad:
            raise TypeError(f"{wanted}: what it returned does not depend on the points")


def _gradient(function: Function, x: Tensor) -> Tensor:
    """The gradient, (..., n), of a function that treats every point on its own; itself differentiable."""
    if x.numel() == 0:
        return torch.zeros_like(x)
    _check_differentiable("_log_prob", function, x.reshape(-1, x.shape[-1])[0])

    with torch.inference_mode(False):
        points = x.clone() if x.is_inference() else x
        values, pull = torch.func.vjp(function, points)[:2]
        (slope,) = pull(torch.ones_like(values))
        assert isinstance(slope, Tensor)
        return slope


def _jacobian(function: Function, x: Tensor) -> Tensor:
    """The symmetric Jacobian, (..., n, n), of a gradient, (..., n), one coordinate after the other."""
    if x.numel() == 0:
        return x.new_zeros(*x.shape, x.shape[-1])

    with torch.inference_mode(False):
        points = x.clone() if x.is_inference() else x
        values, pull = torch.func.vjp(function, points)[:2]
        units = torch.eye(x.shape[-1], dtype=x.dtype)
        rows = [pull(unit.expand_as(values))[0] for unit in units]
        jacobian = torch.stack(rows, dim=-2)
        return 0.5 * (jacobian + jacobian.mT)


def _box(lower: object, upper: object) -> Tensor:
    """The corners, (2, n), of a box in one or two dimensions."""
    low, high = _checks.as_float64("lower", lower), _checks.as_float64("upper", upper)
    if low.shape != high.shape or low.ndim != 1 or not 1 <= len(low) <= 2:
        shapes = [tuple(low.shape), tuple(high.shape)]
        raise ValueError(f"lower and upper must have shape (1,) or (2,), got {shapes}")
    if not bool((low < high).all()):
        raise ValueError(
            f"lower must be below upper, got {low.tolist()} and {high.tolist()}"
        )
    _checks.vectors("lower", low, len(low))
    _checks.vectors("upper", high, len(low))
    return torch.stack([low, high])


def _check_pickle(name: str, function: object) -> None:
    try:
        pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"{name.removeprefix('_given_')} must be a function defined by def at the top of a module for the prior to "
            f"be pickled, got {function!r}"
        ) from error


def _means_and_covariances(
    distribution: distributions.Distribution,
) -> tuple[Tensor, Tensor] | None:
    """Of normal distributions of vectors: (..., n) and (..., n, n); of others None."""
    if isinstance(distribution, distributions.MultivariateNormal):
        return distribution.loc.double(), _symmetric(
            distribution.covariance_matrix.double()
        )
    if (
        isinstance(distribution, distributions.Independent)
        and distribution.reinterpreted_batch_ndims == 1
    ):
        base = distribution.base_dist
        if isinstance(base, distributions.Normal):
            return base.loc.double(), torch.diag_embed(base.scale.double().square())
    return None


def _symmetric(matrix: Tensor) -> Tensor:
    return 0.5 * (matrix + matrix.mT)


def _is_everywhere(distribution: distributions.Distribution) -> bool:
    try:
        support = distribution.support
    except NotImplementedError:
        return True
    while isinstance(support, distributions.constraints.independent):
        support = support.base_constraint
    return support in (
        distributions.constraints.real,
        distributions.constraints.real_vector,
    )


def _invert_distribution(density: Tensor, axis: Tensor, level: Tensor) -> Tensor:
    """Solve F(x) = level, (B,), for the piecewise linear F of a density, (P,) or (B, P), on equidistant points."""
    pieces = 0.5 * (density[..., 1:] + density[..., :-1])
    distribution = torch.nn.functional.pad(pieces.cumsum(-1), (1, 0))
    target = (level * distribution[..., -1]).unsqueeze(-1)
    above = torch.searchsorted(distribution, target).clamp(1, len(axis) - 1)
    low, high = (
        distribution.expand(len(level), -1).gather(-1, i) for i in (above - 1, above)
    )
    share = ((target - low) / (high - low).clamp_min(1e-300)).clamp(0, 1)
    return torch.lerp(axis[above - 1], axis[above], share).squeeze(-1)
