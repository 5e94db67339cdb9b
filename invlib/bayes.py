r"""Exact Bayesian references: what the networks are compared with.

For a mixture prior and a linear problem the posterior is again a mixture of Gaussians,
$p(x \mid z) = \sum_k r_k(z)\, N(x; m_k(z), C_k)$, and everything follows from its weights, means and covariances. For
any other prior in one or two dimensions the integrals are computed by `invlib.quadrature`.

Derived in `book/point-estimators.md`; the evidence and its score in `book/tweedie.md`.
"""

import math
from collections.abc import Callable
from itertools import chain, combinations, islice

import torch
from torch import Tensor

from invlib import _checks, quadrature
from invlib.ascent import ConvergenceError, ascend
from invlib.priors import Components, GaussianMixture, LogisticPrior, Prior
from invlib.problems import LinearProblem


def posterior_mean(problem: LinearProblem, prior: Prior, z: Tensor) -> Tensor:
    r"""Return the posterior mean $E[x \mid z]$, (..., n), for data z of shape (..., n).

    Exact for mixtures and every A, also where it is not injective. Other priors, with n <= 2, are integrated until ten
    digits stand; where that fails (a thin ridge of a non-injective A across the plane, say), an error is raised.

    Raises:
        ValueError: if `z` is no finite (..., n) tensor, or lies outside the range of A*, or if the prior is no mixture
            and n > 2.
        QuadratureError: if the posterior of a prior that is no mixture is too rough to be integrated.
    """
    return _moments(problem, prior, z).mean.reshape(z.shape).to(z.dtype)


def posterior_covariance(problem: LinearProblem, prior: Prior, z: Tensor) -> Tensor:
    r"""Return the posterior covariance $\mathrm{Cov}(x \mid z)$, (..., n, n), for data z of shape (..., n).

    It is $\delta^2$ times the derivative of the posterior mean with respect to z. Errors as for `posterior_mean`.
    """
    return _moments(problem, prior, z).covariance.reshape(*z.shape, problem.dim).to(z.dtype)


def log_evidence(problem: LinearProblem, prior: Prior, z: Tensor) -> Tensor:
    r"""Return $\log p_Z(z)$, (...), the log-density of $z = Hx + A^*\eta$, for z of shape (..., n).

    Errors as for `posterior_mean`, and a ValueError if A is not injective: then z has no density.
    """
    _check_density(problem, prior)
    log_mass = _moments(problem, prior, z).log_mass.reshape(z.shape[:-1])
    log_noise = 0.5 * problem.dim * math.log(2 * math.pi * problem.noise_std**2)
    return (log_mass - log_noise - problem.singular_values.log().sum()).to(z.dtype)


def map_estimate(problem: LinearProblem, prior: Prior, z: Tensor) -> Tensor:
    r"""Return the MAP estimate $\arg\max_x p(x \mid z)$, (..., n), for data z of shape (..., n).

    The global mode, also where the posterior has several: Newton's method climbs from many starts, and the highest
    point counts. The starts of a mixture are the means of the posterior's components, of the products of up to n + 1
    of them (where their ridges cross), and of the whole; those of a density are its peaks on a grid. A logistic prior
    is log-concave: its posterior has one mode, in any dimension.

    Raises:
        ValueError: if `z` is no finite (..., n) tensor, or lies outside the range of A*.
        ConvergenceError: if the best mode of some z was not reached to rounding accuracy.
    """
    data, operator = _reduce(problem, prior, z)
    if isinstance(prior, GaussianMixture):
        posterior, _ = _posterior(problem, prior, data, operator)
        starts = torch.cat([posterior.means, _products(posterior), _mean(posterior).unsqueeze(1)], dim=1)
        posterior = Components(posterior.log_weights.unsqueeze(1), posterior.means.unsqueeze(1), posterior.whiteners)
        value, derivatives = posterior.log_prob, posterior.score_and_hessian
    else:
        value, derivatives = _log_posterior(problem, prior, data, operator)
        starts = torch.zeros(len(data), 1, problem.dim, dtype=torch.float64)
        if not isinstance(prior, LogisticPrior):
            starts = quadrature.local_maxima(value, prior.box.expand(len(data), -1, -1))
    points, settled = ascend(value, derivatives, starts)
    best = value(points).argmax(dim=-1, keepdim=True)
    if not bool(settled.gather(1, best).all()):
        failed = int((~settled.gather(1, best)).sum())
        raise ConvergenceError(f"the MAP estimate was not reached for {failed} of {len(data)} data z")
    return points.gather(1, best.unsqueeze(-1).expand(-1, 1, problem.dim)).reshape(z.shape).to(z.dtype)


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
    return _image(prior, problem.operator, problem.noise_std**2 * torch.eye(len(problem.operator), dtype=torch.float64))


def data_distribution(problem: LinearProblem, prior: GaussianMixture) -> GaussianMixture:
    r"""Return the distribution of $z = H x + A^* \eta$, the evidence of Lemma 1(c), as a mixture on R^n.

    Raises:
        ValueError: if A is not injective: then z has no density.
    """
    _check_density(problem, prior)
    return _image(prior, problem.normal_operator, problem.noise_std**2 * problem.normal_operator)


def _image(prior: GaussianMixture, matrix: Tensor, noise: Tensor) -> GaussianMixture:
    """The distribution of the matrix times x plus Gaussian noise with the given covariance."""
    covariances = matrix @ prior.covariances @ matrix.mT + noise
    return GaussianMixture(prior.weights, prior.means @ matrix.mT, 0.5 * (covariances + covariances.mT))


def _reduce(problem: LinearProblem, prior: Prior, z: Tensor) -> tuple[Tensor, Tensor]:
    """The part of y in the range of A, (B, rank), in coordinates, from z; and A in these coordinates, (rank, n)."""
    _check_dimensions(problem, prior)
    z = _checks.vectors("z", z, problem.dim).to(torch.float64).reshape(-1, problem.dim)
    _, singular, right = torch.linalg.svd(problem.operator, full_matrices=False)
    singular, right = singular[: problem.rank], right[: problem.rank]
    outside = z - (z @ right.mT) @ right
    if bool((outside.norm(dim=-1) > 1e-6 * z.norm(dim=-1)).any()):
        raise ValueError(f"z must lie in the range of A*, got a part of norm {float(outside.norm(dim=-1).max()):g}")
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
    stretch = 1 + torch.nn.functional.pad(s.square(), (0, prior.dim - s.shape[-1]))  # (K, n)
    axes = prior.factors @ vh.mT  # (K, n, n): columns F v_i
    residual = (data.unsqueeze(-2) - prior.means @ operator.mT) / problem.noise_std
    residual = torch.einsum("kri,...kr->...ki", u, residual)
    means = prior.means + torch.einsum("knr,...kr->...kn", axes[..., : s.shape[-1]], s / (1 + s**2) * residual)
    log_evidence = -0.5 * (stretch.log().sum(-1) + (residual.square() / (1 + s**2)).sum(-1))
    whiteners = stretch.sqrt().unsqueeze(-1) * (vh @ prior.components.whiteners)
    return Components(prior.weights.log() + log_evidence, means, whiteners), (axes / stretch.unsqueeze(-2)) @ axes.mT


def _mean(posterior: Components) -> Tensor:
    return torch.einsum("...k,...ki->...i", posterior.log_weights.softmax(-1), posterior.means)


def _products(posterior: Components) -> Tensor:
    """The means of the products of up to n + 1 components, (B, S, n): modes can sit where ridges cross.

    Subsets are taken by size; those beyond the first 128 are left out.
    """
    count, dim = posterior.means.shape[-2:]
    subsets = chain.from_iterable(combinations(range(count), size) for size in range(2, dim + 2))
    chosen = [[float(k in subset) for k in range(count)] for subset in islice(subsets, 128)]
    indicator = torch.tensor(chosen, dtype=torch.float64).reshape(-1, count)
    precisions = posterior.whiteners.mT @ posterior.whiteners
    total = torch.einsum("sk,kij->sij", indicator, precisions)
    pull = torch.einsum("sk,kij,bkj->bsi", indicator, precisions, posterior.means)
    return torch.linalg.solve(total, pull.unsqueeze(-1)).squeeze(-1)


def _moments(problem: LinearProblem, prior: Prior, z: Tensor) -> quadrature.Moments:
    """The moments of p(x) exp(-|y - Ax|^2 / 2 delta^2) for data (..., n), flattened to (B, n)."""
    data, operator = _reduce(problem, prior, z)
    if isinstance(prior, GaussianMixture):
        posterior, covariances = _posterior(problem, prior, data, operator)
        mean = _mean(posterior)
        weights, centred = posterior.log_weights.softmax(-1), posterior.means - mean.unsqueeze(-2)
        between = torch.einsum("bk,bki,bkj->bij", weights, centred, centred)
        within = torch.einsum("bk,kij->bij", weights, covariances)
        return quadrature.Moments(posterior.log_weights.logsumexp(-1), mean, between + within)
    if problem.dim > 2:
        raise ValueError(f"prior must be a GaussianMixture in more than two dimensions, got {prior!r}")
    chunks = []
    for part in data.split(64):  # that fit into memory
        value, _ = _log_posterior(problem, prior, part, operator)
        chunks.append(quadrature.moments(value, prior.box.expand(len(part), -1, -1)))
    return quadrature.Moments(*map(torch.cat, zip(*chunks, strict=True)))


def _log_posterior(
    problem: LinearProblem, prior: Prior, data: Tensor, operator: Tensor
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], tuple[Tensor, Tensor]]]:
    r"""Return $x \mapsto \log p_X(x) - \|y - Ax\|^2 / 2\delta^2$, (B, G), at (B, G, n), and its two derivatives."""
    variance = problem.noise_std**2

    def value(x: Tensor) -> Tensor:
        return prior.log_prob(x) - 0.5 * (data.unsqueeze(1) - x @ operator.mT).square().sum(-1) / variance

    def derivatives(x: Tensor) -> tuple[Tensor, Tensor]:
        score = prior.score(x) + (data.unsqueeze(1) - x @ operator.mT) @ operator / variance
        return score, prior.hessian(x) - problem.normal_operator / variance

    return value, derivatives


def _check_density(problem: LinearProblem, prior: Prior) -> None:
    _check_dimensions(problem, prior)
    if not problem.is_injective:
        raise ValueError(f"operator must be injective for z to have a density, got rank {problem.rank} < {prior.dim}")
    if problem.singular_values[-1] < 1e-7 * problem.singular_values[0]:
        raise ValueError("operator must have a condition number below 1e7, or H is singular to rounding accuracy")


def _check_dimensions(problem: LinearProblem, prior: Prior) -> None:
    if prior.dim != problem.dim:
        raise ValueError(f"prior must live on R^{problem.dim}, the domain of the operator, got dimension {prior.dim}")
