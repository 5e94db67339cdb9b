r"""Exact Bayesian references: what the networks are compared with.

For a mixture prior and a linear problem the posterior is again a mixture of Gaussians,
$p(x \mid z) = \sum_k r_k(z)\, N(x; m_k(z), C_k)$, and everything follows from its weights, means and covariances. For
any other prior in one or two dimensions the integrals are computed by `invlib.quadrature`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain, combinations, islice

import torch
from torch import Tensor

from invlib import _checks, quadrature
from invlib.priors import DensityPrior, GaussianMixture, LogisticPrior
from invlib.problems import LinearProblem

Prior = GaussianMixture | LogisticPrior | DensityPrior


class ConvergenceError(RuntimeError):
    """An iteration did not reach its tolerance."""


def posterior_mean(problem: LinearProblem, prior: Prior, z: Tensor) -> Tensor:
    r"""Return the posterior mean $E[x \mid z]$, (..., n), for data z of shape (..., n).

    Exact for mixtures and every A, also where it is not injective. Other priors, with n <= 2, are integrated until ten
    digits stand; where that fails (a thin ridge of a non-injective A across the plane, say), an error is raised.

    Raises:
        ValueError: if `z` is no finite (..., n) tensor, or lies outside the range of A*, or if the prior is no mixture
            and n > 2.
        QuadratureError: if the posterior of a prior that is no mixture is too rough to be integrated.
    """
    if not isinstance(prior, GaussianMixture):
        return _integrate(problem, prior, z).mean.reshape(z.shape).to(z.dtype)
    posterior = _posterior(problem, prior, z)
    return torch.einsum("...k,...ki->...i", posterior.weights, posterior.means).to(z.dtype)


def posterior_covariance(problem: LinearProblem, prior: Prior, z: Tensor) -> Tensor:
    r"""Return the posterior covariance $\mathrm{Cov}(x \mid z)$, (..., n, n), for data z of shape (..., n).

    It is $\delta^2$ times the derivative of the posterior mean with respect to z. Errors as for `posterior_mean`.
    """
    if not isinstance(prior, GaussianMixture):
        return _integrate(problem, prior, z).covariance.reshape(*z.shape, problem.dim).to(z.dtype)
    posterior = _posterior(problem, prior, z)
    mean = torch.einsum("...k,...ki->...i", posterior.weights, posterior.means)
    centred = posterior.means - mean.unsqueeze(-2)
    between = torch.einsum("...k,...ki,...kj->...ij", posterior.weights, centred, centred)
    within = torch.einsum("...k,kij->...ij", posterior.weights, posterior.covariances)
    return (between + within).to(z.dtype)


def log_evidence(problem: LinearProblem, prior: Prior, z: Tensor) -> Tensor:
    r"""Return $\log p_Z(z)$, (...), the log-density of $z = Hx + A^*\eta$, for z of shape (..., n).

    Errors as for `posterior_mean`, and a ValueError if A is not injective: then z has no density.
    """
    _check_density(problem, prior)
    _checks.vectors("z", z, problem.dim)
    if isinstance(prior, GaussianMixture):
        return data_distribution(problem, prior).log_prob(z)
    log_mass = _integrate(problem, prior, z).log_mass.reshape(z.shape[:-1])
    log_noise = 0.5 * problem.dim * math.log(2 * math.pi * problem.noise_std**2)
    return (log_mass - log_noise - problem.singular_values.log().sum()).to(z.dtype)


def map_estimate(problem: LinearProblem, prior: Prior, z: Tensor) -> Tensor:
    r"""Return the MAP estimate $\arg\max_x p(x \mid z)$, (..., n), for data z of shape (..., n).

    The global mode, also where the posterior has several: all modes reached from the posterior components, from the
    products of up to n + 1 of them (where their ridges cross) and from the posterior mean are compared. Each start
    climbs by Newton's method where the log-posterior is concave, and otherwise by the expectation-maximization step of
    a mixture, which never descends. Of a prior that is no mixture, the peaks on a grid are polished by Newton's method;
    a logistic prior is log-concave and has one mode, in any dimension.

    Raises:
        ValueError: if `z` is no finite (..., n) tensor, or lies outside the range of A*, or if the prior is neither a
            mixture nor logistic and n > 2.
        ConvergenceError: if the best mode of some z was not reached to rounding accuracy.
    """
    if not isinstance(prior, GaussianMixture):
        return _polished_peaks(problem, prior, z).reshape(z.shape).to(z.dtype)
    posterior = _posterior(problem, prior, z)
    starts = torch.cat([posterior.means, _products(posterior), _mean(posterior)], dim=-2)
    points, reached = _climb(posterior, starts)
    best = _log_density(posterior, points).argmax(dim=-1, keepdim=True)
    if not bool(reached.gather(-1, best).all()):
        failed = int((~reached.gather(-1, best)).sum())
        raise ConvergenceError(f"the MAP estimate was not reached for {failed} of {best.numel()} data z")
    chosen = best.unsqueeze(-1).expand(*best.shape, prior.dim)
    return points.gather(-2, chosen).squeeze(-2).to(z.dtype)


def map_curvature(problem: LinearProblem, prior: Prior, x: Tensor) -> Tensor:
    r"""Return the least eigenvalue of $H - \delta^2 \nabla^2 \log p_X(x)$, (...), for x of shape (..., n).

    Where it is at least c > 0 for every x, Corollary 1 holds: the divergence-trained map is a diffeomorphism whose
    inverse is the MAP estimator.
    """
    _check_dimensions(problem, prior)
    _checks.vectors("x", x, problem.dim)
    hessian = problem.normal_operator - problem.noise_std**2 * prior.hessian(x.to(torch.float64))
    return torch.linalg.eigvalsh(hessian)[..., 0].to(x.dtype)


def measurement_distribution(problem: LinearProblem, prior: GaussianMixture) -> GaussianMixture:
    r"""Return the distribution of $y = A x + \eta$, the evidence of Lemma 1(b), as a mixture on R^m."""
    _check_dimensions(problem, prior)
    a = problem.operator
    noise = problem.noise_std**2 * torch.eye(len(a), dtype=torch.float64)
    return GaussianMixture(prior.weights, prior.means @ a.mT, _symmetric(a @ prior.covariances @ a.mT + noise))


def data_distribution(problem: LinearProblem, prior: GaussianMixture) -> GaussianMixture:
    r"""Return the distribution of $z = H x + A^* \eta$, the evidence of Lemma 1(c), as a mixture on R^n.

    Raises:
        ValueError: if A is not injective: then z has no density.
    """
    _check_density(problem, prior)
    h = problem.normal_operator
    return GaussianMixture(
        prior.weights, prior.means @ h, _symmetric(h @ prior.covariances @ h + problem.noise_std**2 * h)
    )


@dataclass(frozen=True)
class _Mixture:
    """Posterior components for a batch of data: weights (..., K), means (..., K, n), covariances (K, n, n)."""

    weights: Tensor
    log_weights: Tensor
    means: Tensor
    covariances: Tensor
    precisions: Tensor
    log_norms: Tensor


def _posterior(problem: LinearProblem, prior: GaussianMixture, z: Tensor) -> _Mixture:
    r"""Condition every component on z.

    With the factor $\Sigma_k = F F^*$ and the singular value decomposition of the whitened operator,
    $A F / \delta = U S V^*$, the posterior covariance is $F V (I + S^2)^{-1} V^* F^*$ and the mean moves by
    $F V S (I + S^2)^{-1} U^* (y - A \mu) / \delta$: no term cancels another, however small the noise. Of y, only its
    part in the range of A is used, and that is a function of z.
    """
    _check_dimensions(problem, prior)
    data, operator = _reduce(problem, z)
    u, s, vh = torch.linalg.svd(operator @ prior.factors / problem.noise_std)
    s2 = torch.nn.functional.pad(s.square(), (0, prior.dim - s.shape[-1]))
    axes = prior.factors @ vh.mT  # (K, n, n): columns F v_i
    residual = (data.unsqueeze(-2) - prior.means @ operator.mT) / problem.noise_std
    residual = torch.einsum("kri,...kr->...ki", u, residual)
    means = prior.means + torch.einsum("knr,...kr->...kn", axes[..., : s.shape[-1]], s / (1 + s**2) * residual)
    log_evidence = -0.5 * (torch.log1p(s**2).sum(-1) + (residual.square() / (1 + s**2)).sum(-1))
    log_weights = torch.log_softmax(prior.weights.log() + log_evidence, dim=-1)
    covariances = (axes / (1 + s2).unsqueeze(-2)) @ axes.mT
    precisions = prior.precisions + problem.normal_operator / problem.noise_std**2
    log_norms = -prior.factors.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * torch.log1p(s2).sum(-1)
    return _Mixture(log_weights.exp(), log_weights, means, covariances, precisions, log_norms)


def _integrate(problem: LinearProblem, prior: Prior, z: Tensor) -> quadrature.Moments:
    """The moments of the posterior for data (..., n), flattened to (B, n), in chunks that fit into memory."""
    log_posterior = _log_posterior(problem, prior, z)
    chunks = [
        quadrature.moments(partial(log_posterior, rows), prior.box.expand(len(rows), -1, -1))
        for rows in torch.arange(z.shape[:-1].numel()).split(64)
    ]
    return quadrature.Moments(*(torch.cat(parts) for parts in zip(*map(_fields, chunks), strict=True)))


def _fields(moments: quadrature.Moments) -> tuple[Tensor, Tensor, Tensor]:
    return moments.log_mass, moments.mean, moments.covariance


def _polished_peaks(problem: LinearProblem, prior: Prior, z: Tensor) -> Tensor:
    """The highest of the local maxima reached from the peaks on a grid, (B, n), for data (..., n)."""
    _check_dimensions(problem, prior)
    _checks.vectors("z", z, problem.dim)
    rows = torch.arange(z.shape[:-1].numel())
    if isinstance(prior, LogisticPrior):
        starts = torch.zeros(len(rows), 1, problem.dim, dtype=torch.float64)
    else:
        log_posterior = partial(_log_posterior(problem, prior, z), rows)
        starts = quadrature.local_maxima(log_posterior, prior.box.expand(len(rows), -1, -1))
    points, values, reached = _newton_ascent(problem, prior, z, starts)
    best = values.argmax(-1, keepdim=True)
    if not bool(reached.gather(-1, best).all()):
        failed = int((~reached.gather(-1, best)).sum())
        raise ConvergenceError(f"the MAP estimate was not reached for {failed} of {len(rows)} data z")
    return points.gather(1, best.unsqueeze(-1).expand(-1, 1, problem.dim)).squeeze(1)


def _newton_ascent(
    problem: LinearProblem, prior: Prior, z: Tensor, x: Tensor, iterations: int = 200
) -> tuple[Tensor, Tensor, Tensor]:
    """Maximize the log-posterior from every start x, (B, S, n); return points, values and which points have settled.

    The Hessian's eigenvalues are replaced by their absolute values, so that each step ascends; a step that does not
    gain enough is halved.
    """
    data, operator = _reduce(problem, z.reshape(-1, problem.dim))
    variance = problem.noise_std**2

    def log_posterior(x: Tensor) -> Tensor:
        return prior.log_prob(x) - 0.5 * (data.unsqueeze(1) - x @ operator.mT).square().sum(-1) / variance

    value, settled = log_posterior(x), torch.zeros(x.shape[:-1], dtype=torch.bool)
    length = torch.ones_like(value)
    for _ in range(iterations):
        gradient = prior.score(x) + (data.unsqueeze(1) - x @ operator.mT) @ operator / variance
        eigenvalues, vectors = torch.linalg.eigh(problem.normal_operator / variance - prior.hessian(x))
        eigenvalues = eigenvalues.abs().clamp_min(1e-12 * eigenvalues.abs().amax(-1, keepdim=True))
        step = (vectors @ ((vectors.mT @ gradient.unsqueeze(-1)) / eigenvalues.unsqueeze(-1))).squeeze(-1)
        gain = (gradient * step).sum(-1)  # twice what a quadratic would gain
        candidate = x + length.unsqueeze(-1) * step
        new_value = log_posterior(candidate)
        # A gain below the rounding error of the value cannot be seen in it: trust the Newton step there.
        accept = ~settled & ((new_value >= value + 0.1 * length * gain) | (gain <= 1e-10 * (1 + value.abs())))
        x = torch.where(accept.unsqueeze(-1), candidate, x)
        value = torch.where(accept, new_value, value)
        length = torch.where(accept, torch.ones_like(length), length / 2)
        settled = settled | (gain <= 1e-18)
        if bool(settled.all()):
            break
    return x, value, settled


def _log_posterior(problem: LinearProblem, prior: Prior, z: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    r"""Return $(i, x) \mapsto \log p_X(x) - \|y_i - Ax\|^2 / 2\delta^2$ for rows i, (B,), and points x, (B, G, n)."""
    _check_dimensions(problem, prior)
    if problem.dim > 2:
        raise ValueError(f"prior must be a GaussianMixture in more than two dimensions, got {prior!r}")
    data, operator = _reduce(problem, z)
    flat = data.reshape(-1, data.shape[-1])

    def function(rows: Tensor, x: Tensor) -> Tensor:
        misfit = (flat[rows].unsqueeze(1) - x @ operator.mT).square().sum(-1)
        return prior.log_prob(x) - 0.5 * misfit / problem.noise_std**2

    return function


def _reduce(problem: LinearProblem, z: Tensor) -> tuple[Tensor, Tensor]:
    """The part of y in the range of A, (..., rank), in coordinates, from z; and A in these coordinates, (rank, n)."""
    _checks.vectors("z", z, problem.dim)
    z = z.to(torch.float64)
    _, singular, right = torch.linalg.svd(problem.operator, full_matrices=False)
    singular, right = singular[: problem.rank], right[: problem.rank]
    outside = z - (z @ right.mT) @ right
    if bool((outside.norm(dim=-1) > 1e-6 * z.norm(dim=-1)).any()):
        raise ValueError(f"z must lie in the range of A*, got a part of norm {float(outside.norm(dim=-1).max()):g}")
    return z @ right.mT / singular, singular[:, None] * right


def _check_density(problem: LinearProblem, prior: Prior) -> None:
    _check_dimensions(problem, prior)
    if not problem.is_injective:
        raise ValueError(f"operator must be injective for z to have a density, got rank {problem.rank} < {prior.dim}")
    if problem.singular_values[-1] < 1e-7 * problem.singular_values[0]:
        raise ValueError("operator must have a condition number below 1e7, or H is singular to rounding accuracy")


def _check_dimensions(problem: LinearProblem, prior: Prior) -> None:
    if prior.dim != problem.dim:
        raise ValueError(f"prior must live on R^{problem.dim}, the domain of the operator, got dimension {prior.dim}")


def _mean(posterior: _Mixture) -> Tensor:
    return torch.einsum("...k,...ki->...i", posterior.weights, posterior.means).unsqueeze(-2)


def _products(posterior: _Mixture) -> Tensor:
    """The means of the products of up to n + 1 components, (..., S, n): modes can sit where ridges cross.

    Subsets are taken by size; those beyond the first 128 are left out.
    """
    count, dim = posterior.means.shape[-2:]
    subsets = chain.from_iterable(combinations(range(count), size) for size in range(2, dim + 2))
    chosen = [[float(k in subset) for k in range(count)] for subset in islice(subsets, 128)]
    indicator = torch.tensor(chosen, dtype=torch.float64).reshape(-1, count)
    pulls = torch.einsum("kij,...kj->...ki", posterior.precisions, posterior.means)
    total = torch.einsum("sk,kij->sij", indicator, posterior.precisions)
    return _solve(total, torch.einsum("sk,...ki->...si", indicator, pulls))


def _log_joint(posterior: _Mixture, x: Tensor) -> Tensor:
    """log(r_k N(x; m_k, C_k)) up to one constant, (..., S, K), for starts x of shape (..., S, n)."""
    centred = x.unsqueeze(-2) - posterior.means.unsqueeze(-3)
    quadratic = torch.einsum("...ki,kij,...kj->...k", centred, posterior.precisions, centred)
    return posterior.log_weights.unsqueeze(-2) + posterior.log_norms - 0.5 * quadratic


def _log_density(posterior: _Mixture, x: Tensor) -> Tensor:
    return torch.logsumexp(_log_joint(posterior, x), dim=-1)


def _climb(posterior: _Mixture, x: Tensor, iterations: int = 500) -> tuple[Tensor, Tensor]:
    """Ascend from every start x, (..., S, n), to a mode; return the points and which of them have settled."""
    settled = torch.zeros(x.shape[:-1], dtype=torch.bool)
    spread = posterior.covariances.diagonal(dim1=-2, dim2=-1).sum(-1).min().sqrt()
    for _ in range(iterations):
        responsibilities = torch.softmax(_log_joint(posterior, x), dim=-1)
        scores = torch.einsum("kij,...kj->...ki", posterior.precisions, posterior.means.unsqueeze(-3) - x.unsqueeze(-2))
        score = torch.einsum("...k,...ki->...i", responsibilities, scores)
        precision = torch.einsum("...k,kij->...ij", responsibilities, posterior.precisions)
        centred = scores - score.unsqueeze(-2)
        curvature = precision - torch.einsum("...k,...ki,...kj->...ij", responsibilities, centred, centred)
        # Expectation-maximization: replace every component by its expected quadratic; never descends.
        climb = x + _solve(precision, score)
        newton, usable = _newton_point(x, curvature, score)
        climb_value, newton_value = _log_density(posterior, climb), _log_density(posterior, newton)
        take_newton = usable & (newton_value >= climb_value - 1e-12 * climb_value.abs())
        new = torch.where(take_newton.unsqueeze(-1), newton, climb)
        step = (new - x).norm(dim=-1)
        x = torch.where(settled.unsqueeze(-1), x, new)
        settled = settled | (take_newton & (step <= 1e-9 * (spread + x.norm(dim=-1))))
        if bool(settled.all()):
            break
    return x, settled


def _newton_point(x: Tensor, curvature: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
    """The Newton point of the log-density and whether it is usable, i.e. the log-density concave at x."""
    factor, info = torch.linalg.cholesky_ex(curvature)
    usable = info == 0
    identity = torch.eye(x.shape[-1], dtype=x.dtype)
    factor = torch.where(usable[..., None, None], factor, identity)
    step = torch.cholesky_solve(score.unsqueeze(-1), factor).squeeze(-1)
    usable = usable & torch.isfinite(step).all(dim=-1)
    return torch.where(usable.unsqueeze(-1), x + step, x), usable


def _solve(matrices: Tensor, vectors: Tensor) -> Tensor:
    return torch.linalg.solve(matrices, vectors.unsqueeze(-1)).squeeze(-1)


def _symmetric(matrices: Tensor) -> Tensor:
    return 0.5 * (matrices + matrices.mT)
