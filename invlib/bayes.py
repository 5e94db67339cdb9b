r"""Exact Bayesian references: what the networks are compared with.

For a mixture prior and a linear problem the posterior is again a mixture of Gaussians,
$p(x \mid z) = \sum_k r_k(z)\, N(x; m_k(z), C_k)$, and everything follows from its weights, means and covariances. For
any other prior in one or two dimensions the integrals are computed by `invlib.quadrature`; its modes are sought by
Newton's method in any dimension.

Derived in `book/point-estimators.md`; the evidence and its score in `book/tweedie.md`.
"""

import math
import warnings
from dataclasses import dataclass, fields

import torch
from torch import Tensor, distributions

from invlib import _checks, modes, quadrature
from invlib.ascent import ConvergenceError, maximize
from invlib.priors import CHUNK, Components, GaussianMixture, Prior
from invlib.problems import LinearProblem

SECURED = 1e-6
"""A mode counts as the global one where no other point can be higher by more than this in log p(x | z)."""


class NotSecuredWarning(UserWarning):
    """A MAP estimate may be a local maximum: it could not be shown that no other mode is higher."""


@dataclass(frozen=True)
class MapSolution:
    """MAP estimates, and what is known about them.

    Attributes:
        x: the estimate, (..., n).
        log_posterior: log p(x | z), (...), up to a number that depends on z alone.
        gap: how much larger log p can be at the global mode, (...): a certified bound, up to rounding. It is inf, or
            only large, where nothing better is known, and nan where a grid was searched.
        secured: whether x is the global mode, (...): the gap is at most 1e-6, or a grid was searched.
    """

    x: Tensor
    log_posterior: Tensor
    gap: Tensor
    secured: Tensor


def posterior_moments(
    problem: LinearProblem, prior: Prior, z: Tensor
) -> quadrature.Moments:
    r"""Return log-evidence, mean and covariance of the posterior together, for data z of shape (..., n).

    Exact for mixtures and every A, also where it is not injective. Other priors, with n <= 2 and a `box`, are
    integrated until ten digits stand, once for all three; where that fails (a thin ridge of a non-injective A across
    the plane, say), an error is raised. See `book/point-estimators.md`.

    Args:
        problem: the problem that z belongs to.
        prior: the distribution of x.
        z: the data A* y.

    Returns:
        `log_evidence`, (...), which is nan where A is not injective or its condition number is above 1e7, since z then
        has no density, or none that can be computed; `mean`, (..., n); `covariance`, (..., n, n).

    Raises:
        TypeError: if `problem` or `prior` is of the wrong kind, or the prior has no log-density or no box.
        ValueError: if `z` is no finite (..., n) tensor, or lies outside the range of A*, or if the prior is no mixture
            and n > 2.
        QuadratureError: if the posterior of a prior that is no mixture is too rough to be integrated.

    Example:
        >>> prior = GaussianMixture([1.0], [[0.0]], [[[1.0]]])
        >>> moments = posterior_moments(LinearProblem([[1.0]], 1.0), prior, torch.tensor([2.0]))
        >>> moments.mean, moments.covariance
        (tensor([1.]), tensor([[0.5000]]))
    """
    data, operator = _reduce(problem, prior, z)
    moments = _moments(problem, prior, data, operator)

    evidence = torch.full_like(moments.log_mass, torch.nan)
    if _has_density(problem):
        evidence = moments.log_mass - _log_normalization(problem)

    return quadrature.Moments(
        evidence.reshape(z.shape[:-1]).to(z.dtype),
        moments.mean.reshape(z.shape).to(z.dtype),
        moments.covariance.reshape(*z.shape, problem.dim).to(z.dtype),
    )


def posterior_mean(problem: LinearProblem, prior: Prior, z: Tensor) -> Tensor:
    r"""Return the posterior mean $E[x \mid z]$, (..., n), for data z of shape (..., n).

    Exact for mixtures, to ten digits for other priors with n <= 2. Errors as for `posterior_moments`.

    Example:
        >>> prior = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[[0.25]], [[0.25]]])
        >>> posterior_mean(LinearProblem([[1.0]], 0.5), prior, torch.tensor([[-0.5], [0.0], [0.5]]))
        tensor([[-0.6308],
                [ 0.0000],
                [ 0.6308]])
    """
    data, operator = _reduce(problem, prior, z)
    if not isinstance(prior, GaussianMixture):
        mean = _moments(problem, prior, data, operator).mean
        return mean.reshape(z.shape).to(z.dtype)

    rows = max(1, CHUNK // prior.means.numel())
    parts = [
        _mean(_posterior(problem, prior, part, operator)[0])
        for part in torch.split(data, rows)
    ]
    return torch.cat(parts).reshape(z.shape).to(z.dtype)


def posterior_covariance(problem: LinearProblem, prior: Prior, z: Tensor) -> Tensor:
    r"""Return the posterior covariance $\mathrm{Cov}(x \mid z)$, (..., n, n), for data z of shape (..., n).

    It is $\delta^2$ times the derivative of the posterior mean with respect to z. Errors as for `posterior_moments`.

    Example:
        >>> prior = GaussianMixture([1.0], [[0.0]], [[[1.0]]])
        >>> posterior_covariance(LinearProblem([[1.0]], 1.0), prior, torch.tensor([2.0]))
        tensor([[0.5000]])
    """
    return posterior_moments(problem, prior, z).covariance


def log_evidence(problem: LinearProblem, prior: Prior, z: Tensor) -> Tensor:
    r"""Return $\log p_Z(z)$, (...), the log-density of $z = Hx + A^*\eta$, for z of shape (..., n).

    Errors as for `posterior_moments`, and a ValueError if A is not injective: then z has no density.

    Example:
        >>> prior = GaussianMixture([1.0], [[0.0]], [[[1.0]]])
        >>> log_evidence(LinearProblem([[1.0]], 1.0), prior, torch.tensor([0.0])).exp()  # 1 / sqrt(4 pi)
        tensor(0.2821)
    """
    _check_density(problem, prior)
    return posterior_moments(problem, prior, z).log_mass


def map_estimate(
    problem: LinearProblem, prior: Prior, z: Tensor, *, local: bool = False
) -> Tensor:
    r"""Return the MAP estimate $\arg\max_x p(x \mid z)$, (..., n), for data z of shape (..., n).

    It is the global mode, also where the posterior has several; where that cannot be shown, a warning says so.
    `map_solution` tells how it is shown, and returns the bounds.

    Args:
        problem: the problem that z belongs to.
        prior: the distribution of x; its log-density suffices.
        z: the data A* y.
        local: accept the highest mode that was found, without a warning.

    Raises:
        TypeError: if `problem` or `prior` is of the wrong kind, or the prior has no log-density.
        ValueError: if `z` is no finite (..., n) tensor, or lies outside the range of A*.
        ConvergenceError: if the best mode of some z was not reached to rounding accuracy.

    Warns:
        NotSecuredWarning: if some estimate may be a local maximum.

    Example:
        >>> prior = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[[0.25]], [[0.25]]])
        >>> map_estimate(LinearProblem([[1.0]], 0.5), prior, torch.tensor([[-0.5], [0.5]]))
        tensor([[-0.7475],
                [ 0.7475]])
    """
    _checks.flag("local", local)
    solution = map_solution(problem, prior, z)
    if not local:
        _warn(solution)
    return solution.x


def map_solution(problem: LinearProblem, prior: Prior, z: Tensor) -> MapSolution:
    r"""Return MAP estimates for data z of shape (..., n), and whether they are the global modes.

    Newton's method climbs from many starts, and the highest point counts. It is secured

    - where the prior is log-concave (`prior.log_concave`) or a single Gaussian: then there is one mode;
    - for mixtures of two in any dimension: all modes lie on a curve, on which they are enclosed;
    - for mixtures in up to three dimensions, by branch and bound, unless the search grows too large;
    - for mixtures in more dimensions where one component outweighs the others, or where they lie far apart: the bound
      is then tiny;
    - for other priors in one or two dimensions that have a `box`, up to the resolution of a grid of 65 points along
      each axis, which shrinks to where the posterior is not negligible; the gap is then nan.

    Other priors start from the origin, $A^+ y$, the mean and samples of the prior, where it has them; nothing secures
    that no mode was missed, and the gap is inf.

    The derivatives of x and of the log-posterior with respect to z, up to the third, are those of the implicit function
    theorem.

    Raises:
        TypeError, ValueError, ConvergenceError: as `map_estimate`.

    Example:
        >>> prior = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[[0.25]], [[0.25]]])
        >>> solution = map_solution(LinearProblem([[1.0]], 0.5), prior, torch.tensor([0.5]))
        >>> solution.secured, solution.gap
        (tensor(True), tensor(0.))
    """
    data, operator = _reduce(problem, prior, z)
    posterior = _LogPosterior(problem, prior, operator)

    with torch.no_grad():
        found = _find_modes(posterior, data.detach())
    if not bool(found.settled.all()):
        failed = int((~found.settled).sum())
        raise ConvergenceError(
            f"the MAP estimate was not reached for {failed} of {len(data)} data z (noise_std {problem.noise_std:g}): "
            "the posterior may be flat there, or much narrower than rounding errors of z allow"
        )

    x = found.points
    if torch.is_grad_enabled() and data.requires_grad:
        x = posterior.attach(x, data)
    secured = found.gap.isnan() | (found.gap <= SECURED)
    return MapSolution(
        x.reshape(z.shape).to(z.dtype),
        posterior.value(x, data).reshape(z.shape[:-1]).to(z.dtype),
        found.gap.reshape(z.shape[:-1]).to(z.dtype),
        secured.reshape(z.shape[:-1]),
    )


def map_curvature(problem: LinearProblem, prior: Prior, x: Tensor) -> Tensor:
    r"""Return the least eigenvalue of $H - \delta^2 \nabla^2 \log p_X(x)$, (...), for x of shape (..., n).

    Where it is at least c > 0 for every x, Corollary 1 applies: the divergence-trained map is a diffeomorphism whose
    inverse is the MAP estimator. See `book/divergence.md`.

    Raises:
        TypeError: if `problem` or `prior` is of the wrong kind, or the prior has no log-density.
        ValueError: if `x` is no finite (..., n) tensor.

    Example:
        >>> prior = GaussianMixture([1.0], [[0.0, 0.0]], [torch.eye(2)])
        >>> map_curvature(LinearProblem([[2.0, 0.0], [0.0, 1.0]], 0.5), prior, torch.zeros(2))
        tensor(1.2500)
    """
    _check_pair(problem, prior)
    _checks.vectors("x", x, problem.dim)
    hessian = problem.normal_operator - problem.noise_std**2 * prior.hessian(
        x.to(torch.float64)
    )
    if x.numel() == 0:
        return x.new_zeros(x.shape[:-1])
    eigenvalues: Tensor = torch.linalg.eigvalsh(hessian)
    return eigenvalues[..., 0].to(x.dtype)


def measurement_distribution(
    problem: LinearProblem, prior: GaussianMixture
) -> GaussianMixture:
    r"""Return the distribution of $y = A x + \eta$, the evidence of Lemma 1(b), as a mixture on R^m.

    Raises:
        TypeError: if the prior is no mixture: then this distribution has no closed form.
        ValueError: if prior and problem have different dimensions.

    Example:
        >>> prior = GaussianMixture([1.0], [[0.0]], [[[1.0]]])
        >>> measurement_distribution(LinearProblem([[2.0]], 1.0), prior).covariance
        tensor([[5.]], dtype=torch.float64)
    """
    _check_pair(problem, prior)
    _check_mixture(prior)
    noise = problem.noise_std**2 * torch.eye(len(problem.operator), dtype=torch.float64)
    return _image(prior, problem.operator, noise)


def data_distribution(
    problem: LinearProblem, prior: GaussianMixture
) -> GaussianMixture:
    r"""Return the distribution of $z = H x + A^* \eta$, the evidence of Lemma 1(c), as a mixture on R^n.

    Raises:
        TypeError: if the prior is no mixture: then this distribution has no closed form; `log_evidence` has its
            density.
        ValueError: if A is not injective: then z has no density.

    Example:
        >>> prior = GaussianMixture([1.0], [[0.0]], [[[1.0]]])
        >>> data_distribution(LinearProblem([[2.0]], 1.0), prior).covariance
        tensor([[20.]], dtype=torch.float64)
    """
    _check_density(problem, prior)
    _check_mixture(prior)
    return _image(
        prior, problem.normal_operator, problem.noise_std**2 * problem.normal_operator
    )


# Posteriors


def _image(prior: GaussianMixture, matrix: Tensor, noise: Tensor) -> GaussianMixture:
    """The distribution of the matrix times x plus Gaussian noise with the given covariance."""
    covariances = matrix @ prior.covariances @ matrix.mT + noise
    return GaussianMixture(
        prior.weights, prior.means @ matrix.mT, 0.5 * (covariances + covariances.mT)
    )


def _reduce(problem: LinearProblem, prior: Prior, z: Tensor) -> tuple[Tensor, Tensor]:
    """The part of y in the range of A, (B, rank), in coordinates, from z; and A in these coordinates, (rank, n)."""
    _check_pair(problem, prior)
    z = _checks.vectors("z", z, problem.dim).to(torch.float64)
    z = z.reshape(z.shape[:-1].numel(), problem.dim)

    _, singular, right = torch.linalg.svd(problem.operator, full_matrices=False)
    singular, right = singular[: problem.rank], right[: problem.rank]
    outside = z - (z @ right.mT) @ right
    if not _checks.every(outside.norm(dim=-1) <= 1e-6 * z.norm(dim=-1)):
        raise ValueError(
            f"z must lie in the range of A*, got a part of norm {float(outside.norm(dim=-1).max()):g}"
        )
    return z @ right.mT / singular, singular[:, None] * right


def _posterior(
    problem: LinearProblem, prior: GaussianMixture, data: Tensor, operator: Tensor
) -> tuple[Components, Tensor]:
    r"""The components of p(x) exp(-|y - Ax|^2 / 2 delta^2), unnormalized, and their covariances, (K, n, n).

    With the factor $\Sigma_k = F F^*$ and the singular value decomposition of the whitened operator,
    $A F / \delta = U S V^*$, the posterior covariance is $F V (I + S^2)^{-1} V^* F^*$ and the mean moves by
    $F V S (I + S^2)^{-1} U^* (y - A \mu) / \delta$: no term cancels another, however small the noise.
    """
    u, s, vh = torch.linalg.svd(operator @ prior.factors / problem.noise_std)
    # (K, n)
    stretch = 1 + torch.nn.functional.pad(s.square(), (0, prior.dim - s.shape[-1]))
    axes = prior.factors @ vh.mT  # (K, n, n): columns F v_i
    residual = (data.unsqueeze(-2) - prior.means @ operator.mT) / problem.noise_std
    residual = torch.einsum("kri,...kr->...ki", u, residual)
    means = prior.means + torch.einsum(
        "knr,...kr->...kn", axes[..., : s.shape[-1]], s / (1 + s**2) * residual
    )
    log_evidence = -0.5 * (
        stretch.log().sum(-1) + (residual.square() / (1 + s**2)).sum(-1)
    )
    whiteners = stretch.sqrt().unsqueeze(-1) * (vh @ prior.components.whiteners)
    return Components(prior.weights.log() + log_evidence, means, whiteners), (
        axes / stretch.unsqueeze(-2)
    ) @ axes.mT


def _mean(posterior: Components) -> Tensor:
    return torch.einsum(
        "...k,...ki->...i", posterior.log_weights.softmax(-1), posterior.means
    )


def _moments(
    problem: LinearProblem, prior: Prior, data: Tensor, operator: Tensor
) -> quadrature.Moments:
    """The moments of p(x) exp(-|y - Ax|^2 / 2 delta^2) for data (B, rank)."""
    if isinstance(prior, GaussianMixture):
        return _moments_of_mixture(*_posterior(problem, prior, data, operator))

    box = _box(prior)
    posterior = _LogPosterior(problem, prior, operator)
    parts = torch.split(data, 64)  # that fit into memory
    results = [_integrate(posterior, part, box) for part in parts]
    return _join(results)


def _moments_of_mixture(
    posterior: Components, covariances: Tensor
) -> quadrature.Moments:
    mean = _mean(posterior)
    weights = posterior.log_weights.softmax(-1)
    centred = posterior.means - mean.unsqueeze(-2)
    between = torch.einsum("bk,bki,bkj->bij", weights, centred, centred)
    within = torch.einsum("bk,kij->bij", weights, covariances)
    return quadrature.Moments(
        posterior.log_weights.logsumexp(-1), mean, between + within
    )


def _integrate(
    posterior: "_LogPosterior", data: Tensor, box: Tensor
) -> quadrature.Moments:
    nested = data.unsqueeze(1)
    return quadrature.moments(
        lambda x: posterior.value(x, nested), box.expand(len(data), -1, -1)
    )


def _join(results: list[quadrature.Moments]) -> quadrature.Moments:
    log_mass, mean, covariance = (
        torch.cat(parts) for parts in zip(*results, strict=True)
    )
    return quadrature.Moments(log_mass, mean, covariance)


class _LogPosterior:
    r"""$x \mapsto \log p_X(x) - \|y - Ax\|^2 / 2\delta^2$ at points (..., n), for data (..., rank), one for each."""

    def __init__(self, problem: LinearProblem, prior: Prior, operator: Tensor) -> None:
        self.problem = problem
        self.prior = prior
        self.operator = operator
        self.variance = problem.noise_std**2

    def value(self, x: Tensor, data: Tensor) -> Tensor:
        misfit = data - x @ self.operator.mT
        return (
            self.prior._checked_log_prob(x)
            - 0.5 * misfit.square().sum(-1) / self.variance
        )

    def derivatives(self, x: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
        score, hessian = self.prior._score_and_hessian(x)
        pull = (data - x @ self.operator.mT) @ self.operator
        return (
            score + pull / self.variance,
            hessian - self.problem.normal_operator / self.variance,
        )

    def attach(self, x: Tensor, data: Tensor) -> Tensor:
        """The modes with their dependence on the data: two Newton steps, which do not move them.

        The first one makes the first derivative right, the second one those up to the third.
        """
        for _ in range(2):
            gradient, hessian = self.derivatives(x, data)
            moved = torch.linalg.solve(
                hessian, (gradient - gradient.detach()).unsqueeze(-1)
            )
            x = x - moved.squeeze(-1)
        return x


# Modes


def _find_modes(posterior: _LogPosterior, data: Tensor) -> modes.Highest:
    """The highest modes for data (B, rank)."""
    prior, dim = posterior.prior, posterior.problem.dim
    if isinstance(prior, GaussianMixture):
        return _modes_of_mixture(posterior, data)

    if len(data) == 0:
        return modes.Highest(
            data.new_zeros(0, dim), data.new_zeros(0), data.new_zeros(0) > 0
        )

    if not prior.log_concave and _has_grid(prior):
        parts = [_modes_on_grid(posterior, part) for part in torch.split(data, 64)]
        return modes.Highest(
            *(
                torch.cat([getattr(p, f.name) for p in parts])
                for f in fields(modes.Highest)
            )
        )

    starts = _starts(posterior, data)
    return _climb(posterior, starts, data, 0.0 if prior.log_concave else math.inf)


def _modes_of_mixture(posterior: _LogPosterior, data: Tensor) -> modes.Highest:
    assert isinstance(posterior.prior, GaussianMixture)
    rows = max(1, 4 * CHUNK // posterior.prior.means.numel())
    parts = []
    for part in torch.split(data, rows):
        components, _ = _posterior(
            posterior.problem, posterior.prior, part, posterior.operator
        )
        parts.append(modes.highest_modes(components))
    return modes.Highest(
        *(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(modes.Highest))
    )


def _modes_on_grid(posterior: _LogPosterior, data: Tensor) -> modes.Highest:
    """From the best peaks on a grid."""
    box = _box(posterior.prior).expand(len(data), -1, -1)
    nested = data.unsqueeze(1)
    starts = quadrature.local_maxima(lambda x: posterior.value(x, nested), box)
    return _climb(posterior, starts, data, math.nan)


def _climb(
    posterior: _LogPosterior, starts: Tensor, data: Tensor, gap: float
) -> modes.Highest:
    """Climb from the starts, (B, S, n), of all data, (B, rank)."""
    count, number, _ = starts.shape
    owner = torch.arange(count).repeat_interleave(number)
    points, settled = maximize(
        posterior.value,
        posterior.derivatives,
        starts.flatten(0, 1),
        data=(data[owner],),
    )
    heights = posterior.value(points, data[owner])
    best, arrived = modes.best_of(owner, points, heights, settled, count)
    return modes.Highest(best, torch.full((count,), gap, dtype=torch.float64), arrived)


def _starts(posterior: _LogPosterior, data: Tensor, number: int = 8) -> Tensor:
    """The candidates, (B, S, n), at which the posterior is highest: samples of the prior, its mean, 0 and A^+ y."""
    prior, dim = posterior.prior, posterior.problem.dim
    origin = torch.zeros(1, dim, dtype=torch.float64)
    if prior.log_concave:
        return origin.expand(len(data), 1, dim)

    fixed = [origin, *_mean_of(prior), *_samples_of(prior)]
    shared = torch.cat(fixed).expand(len(data), -1, -1)
    naive = data @ torch.linalg.pinv(posterior.operator).mT
    candidates = torch.cat([naive.unsqueeze(1), shared], dim=1)

    values = posterior.value(candidates, data.unsqueeze(1)).nan_to_num(nan=-torch.inf)
    best = values.topk(min(number, candidates.shape[1]), dim=1).indices
    return candidates.gather(1, best.unsqueeze(-1).expand(-1, -1, dim))


def _mean_of(prior: Prior) -> list[Tensor]:
    mean = getattr(prior, "mean", None)
    return [mean.to(torch.float64).reshape(1, -1)] if isinstance(mean, Tensor) else []


def _samples_of(prior: Prior) -> list[Tensor]:
    """Always the same 256 samples, if the prior has any."""
    try:
        samples = prior.sample(256, generator=torch.Generator().manual_seed(0))
    except TypeError as error:
        if str(error).startswith("prior must give sample"):
            return []
        raise
    return [
        _checks.vectors("samples of the prior", samples, prior.dim).to(torch.float64)
    ]


def _warn(solution: MapSolution) -> None:
    open_cases = ~solution.secured
    if not bool(open_cases.any()):
        return
    worst = float(solution.gap[open_cases].max())
    bound = (
        "no bound is known"
        if math.isinf(worst)
        else f"log p(x | z) may be larger elsewhere by up to {worst:.2g}"
    )
    warnings.warn(
        f"map_estimate: {int(open_cases.sum())} of {open_cases.numel()} estimates may be local maxima ({bound}). "
        "map_solution returns the bounds; a prior that is known to be log-concave can say so by log_concave = True; "
        "local=True accepts the highest mode that was found",
        NotSecuredWarning,
        stacklevel=3,
    )


# Checks


def _log_normalization(problem: LinearProblem) -> float:
    log_noise = 0.5 * problem.dim * math.log(2 * math.pi * problem.noise_std**2)
    return log_noise + float(problem.singular_values.log().sum())


def _has_density(problem: LinearProblem) -> bool:
    well_conditioned = problem.singular_values[-1] >= 1e-7 * problem.singular_values[0]
    return problem.is_injective and bool(well_conditioned)


def _check_density(problem: LinearProblem, prior: Prior) -> None:
    _check_pair(problem, prior)
    if not problem.is_injective:
        raise ValueError(
            f"operator must be injective for z to have a density, got rank {problem.rank} < {prior.dim}"
        )
    if not _has_density(problem):
        raise ValueError(
            "operator must have a condition number below 1e7, or H is singular to rounding accuracy"
        )


def _check_pair(problem: LinearProblem, prior: Prior) -> None:
    if not isinstance(problem, LinearProblem):
        raise TypeError(f"problem must be a LinearProblem, got {problem!r}")
    if isinstance(prior, distributions.Distribution):
        raise TypeError(
            f"prior must be wrapped: invlib.Prior.from_distribution(prior), got {prior!r}"
        )
    if not isinstance(prior, Prior):
        hint = ""
        if hasattr(prior, "sample"):
            hint = ": exact estimators need a log-density, samples do not suffice (invlib.Prior.from_log_density)"
        raise TypeError(f"prior must be an invlib.Prior, got {prior!r}{hint}")
    dim = getattr(prior, "dim", None)
    if dim != problem.dim:
        raise ValueError(
            f"prior must live on R^{problem.dim}, the domain of the operator, got dimension {dim}"
        )


def _check_mixture(prior: Prior) -> None:
    if not isinstance(prior, GaussianMixture):
        raise TypeError(
            f"prior must be a GaussianMixture for a closed form of this distribution, got {prior!r}"
        )


def _has_grid(prior: Prior) -> bool:
    return prior.dim <= 2 and prior.box is not None


def _box(prior: Prior) -> Tensor:
    """The box of a prior that can be integrated, (2, n), float64."""
    if prior.dim > 2:
        raise ValueError(
            f"prior must be a GaussianMixture in more than two dimensions, got {prior!r}"
        )
    if prior.box is None:
        raise TypeError(
            f"prior must have a box that holds its mass to be integrated (see invlib.Prior), got {prior!r}"
        )
    box = _checks.as_float64("prior.box", prior.box)
    if box.shape != (2, prior.dim) or not bool((box[0] < box[1]).all()):
        raise ValueError(
            f"prior.box must be a lower and an upper corner, (2, {prior.dim}), got {box.tolist()}"
        )
    return box
