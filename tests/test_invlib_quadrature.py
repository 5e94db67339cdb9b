"""Tests of `invlib.quadrature` and of the priors that need it: against mixtures, scipy's integrals and grids."""

import math
from collections.abc import Callable

import numpy as np
import oracles
import pytest
import torch
from scipy import integrate, optimize, stats
from torch import Tensor

import invlib
from invlib import DensityPrior, GaussianMixture, LinearProblem, LogisticPrior, QuadratureError, quadrature

F64 = torch.float64
SIZES = [(1, 1), (3, 1), (1, 2), (2, 2), (3, 2)]
NOISE = [1e-3, 0.03, 0.3, 1.0]


def log_density_of(prior: GaussianMixture) -> Callable[[Tensor], Tensor]:
    """log p + 3.7 of points (..., n), by precision matrices and determinants: differentiable, not normalized."""
    precisions = torch.linalg.inv(prior.covariances)
    constants = prior.weights.log() - 0.5 * torch.logdet(2 * torch.pi * prior.covariances) + 3.7

    def log_density(x: Tensor) -> Tensor:
        centred = x.unsqueeze(-2) - prior.means
        quadratic = torch.einsum("...ki,kij,...kj->...k", centred, precisions, centred)
        return torch.logsumexp(constants - 0.5 * quadratic, dim=-1)

    return log_density


def as_density(prior: GaussianMixture) -> DensityPrior:
    reach = prior.means.abs().amax(0) + 9 * prior.covariances.diagonal(dim1=-2, dim2=-1).amax(0).sqrt()
    return DensityPrior(log_density_of(prior), -reach, reach)


def setting(m: int, n: int, noise_std: float, count: int = 6) -> tuple[LinearProblem, GaussianMixture, Tensor]:
    """A problem, a mixture prior and data z (count, n)."""
    problem = LinearProblem(oracles.random_operator(m, n, seed=10 * m + n), noise_std)
    prior = oracles.random_mixture(n, 3, seed=20 * m + n)
    x = prior.sample(count, generator=oracles.generator(m + n))
    return problem, prior, problem.normal_data(problem.measure(x, generator=oracles.generator(m)))


# The rule


def test_moments_of_gaussians_in_a_batch_are_exact_however_large_the_box():
    """Standard deviations from 1e-3 to 1 in boxes of size 60; log mass, mean and covariance in closed form."""
    std = torch.tensor([1e-3, 0.1, 1.0], dtype=F64)
    mean = torch.tensor([[-20.3, 1.7], [0.0, 0.0], [5.1, -3.0]], dtype=F64)
    box = torch.tensor([[-30.0, -30.0], [30.0, 30.0]], dtype=F64).expand(3, -1, -1)

    def log_density(x: Tensor) -> Tensor:
        return 2.5 - 0.5 * ((x - mean.unsqueeze(1)) / std[:, None, None]).square().sum(-1)

    result = quadrature.moments(log_density, box)
    torch.testing.assert_close(result.log_mass, 2.5 + torch.log(2 * torch.pi * std**2), rtol=0, atol=1e-10)
    assert float(((result.mean - mean) / std.unsqueeze(-1)).abs().max()) < 1e-9
    scaled = result.covariance / std[:, None, None] ** 2
    torch.testing.assert_close(scaled, torch.eye(2, dtype=F64).expand(3, -1, -1), rtol=0, atol=1e-9)


def test_focus_keeps_both_of_two_distant_peaks_and_drops_the_rest():
    def log_density(x: Tensor) -> Tensor:
        return torch.logsumexp(-0.5 * ((x - torch.tensor([-3.0, 4.0], dtype=F64)) / 0.3).square(), dim=-1)

    (low,), (high,) = quadrature.focus(log_density, torch.tensor([[[-500.0], [500.0]]], dtype=F64))[0].tolist()
    reach = 0.3 * math.sqrt(2 * 40)
    assert -6.5 < low < -3 - reach
    assert 4 + reach < high < 7.5


def test_local_maxima_are_the_grid_points_next_to_the_peaks_best_first():
    def log_density(x: Tensor) -> Tensor:
        centres, heights = torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
        return torch.logsumexp(heights - 5 * (x.unsqueeze(-2) - centres).square().sum(-1), dim=-1)

    box = torch.tensor([[[-5.0, -5.0], [5.0, 5.0]]], dtype=F64)
    peaks = quadrature.local_maxima(log_density, box)
    assert peaks.shape == (1, 8, 2)
    np.testing.assert_allclose(peaks[0, :2], [[1.0, 0.5], [-1.0, 0.0]], atol=10 / 64)


@pytest.mark.parametrize(
    "log_density",
    [
        lambda x: -x.abs().sum(-1),  # a kink
        lambda x: torch.where(x.abs().amax(-1) < 1.2345, 0.0, -100.0).to(F64),  # a jump
    ],
)
@pytest.mark.parametrize("dim", [1, 2])
def test_a_rough_density_raises_a_quadrature_error(log_density, dim):
    with pytest.raises(QuadratureError, match="the integrals still change by"):
        DensityPrior(log_density, [-50.0] * dim, [50.0] * dim)


@pytest.mark.parametrize("dim", [1, 2])
def test_a_density_that_is_not_a_number_is_never_integrated_in_silence(dim):
    with pytest.raises((QuadratureError, ValueError)):
        DensityPrior(lambda x: -x.square().sum(-1) + 0 * torch.sqrt(x).sum(-1), [-9.0] * dim, [9.0] * dim)


# A mixture written as a density


@pytest.mark.parametrize(("m", "n", "noise_std"), [(*s, d) for s in SIZES for d in NOISE if (*s, d) != (1, 2, 1e-3)])
def test_a_mixture_as_density_has_the_posterior_moments_of_the_mixture(m, n, noise_std):
    """Relative to the posterior's own standard deviations."""
    problem, mixture, z = setting(m, n, noise_std)
    prior = as_density(mixture)
    mean, covariance = (f(problem, mixture, z) for f in (invlib.posterior_mean, invlib.posterior_covariance))
    spread = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    error = (invlib.posterior_mean(problem, prior, z) - mean) / spread
    assert float(error.abs().max()) < 1e-8
    error = (invlib.posterior_covariance(problem, prior, z) - covariance) / (spread[:, :, None] * spread[:, None])
    assert float(error.abs().max()) < 1e-8


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.1])
def test_a_posterior_on_a_thin_ridge_is_integrated_rightly_or_refused(angle):
    """One measurement of two unknowns with noise 1e-3: a ridge across the box, and never a piece of it in silence."""
    mixture = oracles.random_mixture(2, 3, seed=32)
    problem = LinearProblem([[math.cos(angle), math.sin(angle)]], 1e-3)
    z = problem.normal_data(torch.tensor([0.7], dtype=F64))
    try:
        mean = invlib.posterior_mean(problem, as_density(mixture), z)
    except QuadratureError:
        return
    torch.testing.assert_close(mean, invlib.posterior_mean(problem, mixture, z), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("noise_std", NOISE)
@pytest.mark.parametrize(("m", "n"), SIZES)
def test_a_mixture_as_density_has_the_map_estimate_of_the_mixture(m, n, noise_std):
    problem, mixture, z = setting(m, n, noise_std, count=20)
    estimate = invlib.map_estimate(problem, as_density(mixture), z)
    torch.testing.assert_close(estimate, invlib.map_estimate(problem, mixture, z), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("noise_std", NOISE)
@pytest.mark.parametrize(("m", "n"), [size for size in SIZES if size[0] >= size[1]])
def test_log_evidence_is_that_of_the_mixture_and_the_formula_in_the_space_of_z(m, n, noise_std):
    """N(z; H mu, H Sigma H + delta^2 H), by scipy; the relative error of the density is below 1e-8."""
    problem, mixture, z = setting(m, n, noise_std)
    h = problem.normal_operator.numpy()
    terms = [
        np.log(w) + stats.multivariate_normal(h @ mean, h @ covariance @ h + noise_std**2 * h).logpdf(z.numpy())
        for w, mean, covariance in zip(
            mixture.weights.numpy(), mixture.means.numpy(), mixture.covariances.numpy(), strict=True
        )
    ]
    expected = np.logaddexp.reduce(np.stack(terms), axis=0)
    scale = 1e-8 * (1 + np.abs(expected))
    for prior in (mixture, as_density(mixture)):
        value = invlib.log_evidence(problem, prior, z)
        assert value.shape == (6,)
        assert bool((np.abs(value.numpy() - expected) < scale).all())


@pytest.mark.parametrize("n", [1, 2])
def test_a_density_is_normalized_and_its_moments_derivatives_are_those_of_the_mixture(n):
    mixture = oracles.random_mixture(n, 3, seed=n)
    prior = as_density(mixture)
    x = 2 * oracles.randn(7, 3, n, seed=1)
    torch.testing.assert_close(prior.log_mass, torch.tensor(3.7, dtype=F64), rtol=0, atol=1e-9)
    torch.testing.assert_close(prior.mean, mixture.mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(prior.covariance, mixture.covariance, rtol=1e-8, atol=1e-8)
    expected = torch.from_numpy(oracles.numpy_log_prob(mixture, x.numpy()))
    torch.testing.assert_close(prior.log_prob(x), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(prior.score(x), mixture.score(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(prior.hessian(x), mixture.hessian(x), rtol=1e-9, atol=1e-9)
    problem = LinearProblem(oracles.random_operator(2, n, seed=3), 0.4)
    curvature = [invlib.map_curvature(problem, p, x) for p in (prior, mixture)]
    torch.testing.assert_close(*curvature, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(), (5,), (70,), (2, 3), (0,)])
@pytest.mark.parametrize("name", ["posterior_mean", "posterior_covariance", "map_estimate", "log_evidence"])
def test_leading_dimensions_are_kept_and_points_do_not_depend_on_their_batch(name, shape):
    """70 rows need two chunks."""
    n = 1 if shape == (70,) else 2
    problem, mixture, _ = setting(n, n, 0.4)
    estimator, prior = getattr(invlib, name), as_density(mixture)
    z = oracles.randn(*shape, n, seed=4)
    result = estimator(problem, prior, z)
    assert result.shape == estimator(problem, mixture, z).shape
    assert result.dtype == F64
    for index in list(np.ndindex(shape))[:: 30 if shape == (70,) else 1]:
        torch.testing.assert_close(result[index], estimator(problem, prior, z[index]), rtol=1e-9, atol=1e-9)
    assert estimator(problem, prior, z.float()).dtype == torch.float32


@pytest.mark.parametrize("y", [-40.0, 7.0, 60.0, 500.0])
@pytest.mark.parametrize("kind", ["logistic", "density"])
def test_data_far_outside_the_box_are_integrated_rightly_or_refused(kind, y):
    """The posterior of a logistic prior far out is N(y - delta^2/s, delta^2): never the edge of the box."""
    logistic = LogisticPrior([1.0])
    prior = logistic if kind == "logistic" else DensityPrior(lambda x: -2 * log_cosh(x / 2).sum(-1), [-45.0], [45.0])
    problem, z = LinearProblem([[1.0]], 0.1), torch.tensor([[y]], dtype=F64)
    try:
        mean = invlib.posterior_mean(problem, prior, z)
    except (QuadratureError, ValueError):
        assert abs(y) > 30
        return
    expected = y - math.copysign(0.01, y) * math.tanh(abs(y) / 2)
    assert mean.item() == pytest.approx(expected, abs=2e-5)  # the curvature of log cosh at 7 is 2e-3


# Logistic priors


SCALES = [0.5, 1.3]
LOGISTIC = LogisticPrior(SCALES)


def log_cosh(u: Tensor) -> Tensor:
    return u.abs() + torch.log1p(torch.exp(-2 * u.abs())) - math.log(2)


def test_log_prob_of_a_logistic_prior_is_that_of_scipy_also_far_out():
    x = torch.cat([3 * oracles.randn(50, 2, seed=5), torch.tensor([[1e3, -1e3], [1e6, 0.0]], dtype=F64)])
    expected = sum(stats.logistic(scale=s).logpdf(x[:, i].numpy()) for i, s in enumerate(SCALES))
    np.testing.assert_allclose(LOGISTIC.log_prob(x).numpy(), expected, rtol=1e-12)
    assert LOGISTIC.log_prob(x.float()).dtype == torch.float32
    assert "0.5, 1.3" in repr(LOGISTIC)


def test_a_logistic_density_integrates_to_one_and_has_the_variance_pi_squared_s_squared_over_three():
    for s in SCALES:
        prior = LogisticPrior([s])

        def moment(power: int, prior: LogisticPrior = prior, s: float = s) -> float:
            def integrand(x: float) -> float:
                return x**power * prior.log_prob(torch.tensor([x], dtype=F64)).exp().item()

            return integrate.quad(integrand, -60 * s, 60 * s, points=[0.0], epsabs=1e-13, epsrel=1e-12)[0]

        assert moment(0) == pytest.approx(1, rel=1e-9)
        assert moment(2) == pytest.approx(math.pi**2 * s**2 / 3, rel=1e-9)


def test_samples_of_a_logistic_prior_follow_the_logistic_distribution():
    x = LOGISTIC.sample(20_000, generator=oracles.generator(6))
    assert x.shape == (20_000, 2)
    assert x.dtype == F64
    for i, s in enumerate(SCALES):
        assert stats.kstest(x[:, i].numpy(), stats.logistic(scale=s).cdf).pvalue > 1e-3
    assert abs(stats.spearmanr(x[:, 0], x[:, 1]).statistic) < 5 / math.sqrt(20_000)
    assert torch.equal(x[:5], LOGISTIC.sample(20_000, generator=oracles.generator(6))[:5])


def test_transport_of_a_logistic_prior_inverts_its_distribution_function():
    level = torch.linspace(1e-6, 1 - 1e-6, 1001, dtype=F64)
    x = LOGISTIC.from_uniform(torch.stack([torch.full_like(level, 0.3), level, level], dim=-1))
    assert bool((x.diff(dim=0) > 0).all())
    for i, s in enumerate(SCALES):
        np.testing.assert_allclose(stats.logistic(scale=s).cdf(x[:, i].numpy()), level.numpy(), rtol=1e-9)


DENSITIES = {
    "logistic": LOGISTIC,
    "quartic": DensityPrior(lambda x: -x.square().sum(-1).square(), [-3.0, -3.0], [3.0, 3.0]),
    "double well": DensityPrior(lambda x: -2 * (x.square() - 1).square().sum(-1), [-3.5], [3.5]),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_score_and_hessian_equal_finite_differences_of_log_prob(name):
    prior = DENSITIES[name]
    x, step = 0.7 * oracles.randn(20, prior.dim, seed=7), 1e-5
    score, hessian = prior.score(x), prior.hessian(x)
    assert hessian.shape == (20, prior.dim, prior.dim)
    for i, unit in enumerate(torch.eye(prior.dim, dtype=F64)):
        slope = (prior.log_prob(x + step * unit) - prior.log_prob(x - step * unit)) / (2 * step)
        torch.testing.assert_close(score[:, i], slope, rtol=1e-7, atol=1e-8)
        slope = (prior.score(x + step * unit) - prior.score(x - step * unit)) / (2 * step)
        torch.testing.assert_close(hessian[..., i], slope, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("y", [-4.0, 0.1, 2.5])
@pytest.mark.parametrize("noise_std", [0.05, 0.5, 2.0])
def test_posterior_of_a_logistic_prior_in_1d_equals_scipy_quad(noise_std, y):
    a, s = 0.8, 0.6
    problem, prior = LinearProblem([[a]], noise_std), LogisticPrior([s])
    z = torch.tensor([a * y], dtype=F64)
    law, noise = stats.logistic(scale=s), stats.norm(scale=noise_std)
    mode = invlib.map_estimate(problem, prior, z).item()
    width = 12 / math.sqrt(a**2 / noise_std**2 + 1e-3)

    def integral(power: int, centre: float = 0.0) -> float:
        edges = [mode - width, mode + width]
        f = lambda x: (x - centre) ** power * law.pdf(x) * noise.pdf(y - a * x)  # noqa: E731
        return integrate.quad(f, *edges, points=[mode], epsabs=0, epsrel=1e-11, limit=200)[0]

    mass = integral(0)
    mean = integral(1) / mass
    variance = integral(2, mean) / mass
    assert abs(invlib.posterior_mean(problem, prior, z).item() - mean) < 1e-8 * math.sqrt(variance)
    assert invlib.posterior_covariance(problem, prior, z).item() == pytest.approx(variance, rel=1e-8)
    assert invlib.log_evidence(problem, prior, z).item() == pytest.approx(math.log(mass / a), abs=1e-8)
    best = optimize.minimize_scalar(
        lambda x: -law.logpdf(x) - noise.logpdf(y - a * x), bracket=(mode - 0.1, mode + 0.1), tol=1e-10
    )
    assert mode == pytest.approx(best.x, abs=1e-6)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_posterior_of_a_logistic_prior_in_2d_equals_scipy_dblquad(m):
    """m < n, m = n and m > n, one datum each."""
    problem = LinearProblem(oracles.random_operator(m, 2, seed=m), 0.6)
    y = oracles.randn(m, seed=m)
    a, y_list, variance = problem.operator.tolist(), y.tolist(), 0.36

    def density(x1: float, x0: float) -> float:
        misfit = sum((row[0] * x0 + row[1] * x1 - datum) ** 2 for row, datum in zip(a, y_list, strict=True))
        prior = math.cosh(x0 / (2 * SCALES[0])) * math.cosh(x1 / (2 * SCALES[1]))
        return math.exp(-0.5 * misfit / variance) / prior**2

    def integral(weight: Callable[[float, float], float]) -> float:
        f = lambda x1, x0: weight(x0, x1) * density(x1, x0)  # noqa: E731
        return integrate.dblquad(f, -14, 14, -32, 32, epsabs=1e-9, epsrel=1e-9)[0]

    mass = integral(lambda x0, x1: 1.0)
    mean = [integral(lambda x0, x1: x0) / mass, integral(lambda x0, x1: x1) / mass]
    cross = integral(lambda x0, x1: (x0 - mean[0]) * (x1 - mean[1])) / mass
    z = problem.normal_data(y)
    np.testing.assert_allclose(invlib.posterior_mean(problem, LOGISTIC, z).numpy(), mean, atol=1e-7)
    covariance = invlib.posterior_covariance(problem, LOGISTIC, z)
    assert covariance[0, 1].item() == pytest.approx(cross, abs=1e-7)
    assert covariance[1, 0].item() == pytest.approx(cross, abs=1e-7)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 2), (3, 1), (3, 2)])
@pytest.mark.parametrize("kind", ["logistic", "density"])
def test_lemma_1b_and_1c_for_priors_that_are_no_mixtures(kind, m, n):
    """Central differences of log_evidence; p_Y is p_Z times a Gaussian off the range of A."""
    problem = LinearProblem(oracles.random_operator(m, n, seed=m + n), 0.4)
    double_well = DensityPrior(lambda x: -2 * (x.square() - 1).square().sum(-1), [-3.5] * n, [3.5] * n)
    prior = LogisticPrior(SCALES[:n]) if kind == "logistic" else double_well
    y = oracles.randn(4, m, seed=8)
    z, step, h = problem.normal_data(y), 1e-4, problem.normal_operator
    score = torch.stack(
        [
            invlib.log_evidence(problem, prior, z + step * unit) - invlib.log_evidence(problem, prior, z - step * unit)
            for unit in torch.eye(n, dtype=F64)
        ],
        dim=-1,
    ) / (2 * step)
    mean = invlib.posterior_mean(problem, prior, z)
    torch.testing.assert_close(mean @ h, z + 0.4**2 * score @ h, rtol=0, atol=1e-5)
    projection = problem.operator @ torch.linalg.pinv(problem.operator)
    score_y = problem.forward(score) - (y - y @ projection) / 0.4**2
    torch.testing.assert_close(problem.forward(mean), y + 0.4**2 * score_y, rtol=0, atol=1e-5)


def test_the_derivative_of_the_posterior_mean_is_the_covariance_over_delta_squared():
    problem = LinearProblem(oracles.random_operator(2, 2, seed=9), 0.4)
    z, step = oracles.randn(5, 2, seed=10), 1e-4
    slopes = [
        (invlib.posterior_mean(problem, LOGISTIC, z + u) - invlib.posterior_mean(problem, LOGISTIC, z - u)) / (2 * step)
        for u in step * torch.eye(2, dtype=F64)
    ]
    covariance = invlib.posterior_covariance(problem, LOGISTIC, z)
    torch.testing.assert_close(torch.stack(slopes, dim=-1), covariance / 0.4**2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2])
def test_a_log_concave_prior_has_positive_curvature_everywhere(m, n):
    """Where A is injective; where it is not, the prior alone makes it positive."""
    problem = LinearProblem(oracles.random_operator(m, n, seed=m), 0.4)
    x = 3 * oracles.randn(500, n, seed=11)
    curvature = invlib.map_curvature(problem, LogisticPrior(SCALES[:n]), x)
    assert float(curvature.min()) > 0
    if m >= n:
        assert float(curvature.min()) >= float(problem.singular_values[-1]) ** 2 * (1 - 1e-12)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("noise_std", [1e-3, 0.3, 3.0])
@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 2), (2, 2), (3, 2), (4, 3), (5, 10), (10, 10)])
def test_the_map_estimate_of_a_logistic_prior_has_gradient_zero(m, n, noise_std, scale):
    """H x - delta^2 s(x) = z, Corollary 1: the objective is strictly convex, so this is the only condition."""
    problem = LinearProblem(oracles.random_operator(m, n, seed=m + n), noise_std)
    prior = LogisticPrior(torch.linspace(0.3, 1.5, n))
    z = problem.normal_data(scale * oracles.randn(30, m, seed=12))
    x = invlib.map_estimate(problem, prior, z)
    residual = x @ problem.normal_operator - noise_std**2 * prior.score(x) - z
    assert float((residual.norm(dim=-1) / z.norm(dim=-1).clamp_min(1)).max()) < 1e-9


@pytest.mark.parametrize("noise_std", [0.05, 0.5, 1.5])
@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 2), (2, 2)])
def test_the_map_estimate_of_a_multimodal_density_is_the_global_mode(m, n, noise_std):
    """Its log-posterior is at least that of the best point of a dense grid, and its gradient vanishes."""
    tilt = torch.tensor([0.3, -0.2][:n], dtype=F64)
    prior = DensityPrior(lambda x: (-2 * (x.square() - 1).square() + tilt * x).sum(-1), [-3.5] * n, [3.5] * n)
    problem = LinearProblem(oracles.random_operator(m, n, seed=m + n), noise_std)
    y = problem.operator.new_tensor(np.linspace(-1.5, 1.5, 15))[:, None] * torch.ones(m, dtype=F64)
    x = invlib.map_estimate(problem, prior, problem.normal_data(y))
    grid = oracles.grid(n, 2.5, 5001 if n == 1 else 301)

    def log_posterior(points: np.ndarray, datum: np.ndarray) -> np.ndarray:
        log_prior = (-2 * (points**2 - 1) ** 2 + tilt.numpy() * points).sum(-1)
        return log_prior - ((datum - points @ problem.operator.numpy().T) ** 2).sum(-1) / (2 * noise_std**2)

    for point, datum in zip(x.numpy(), y.numpy(), strict=True):
        assert log_posterior(point, datum) >= log_posterior(grid, datum).max() - 1e-9
    gradient = prior.score(x) + (y - problem.forward(x)) @ problem.operator / noise_std**2
    assert float((gradient * noise_std**2).abs().max()) < 1e-9


# Samples of a density


@pytest.mark.parametrize(("power", "reach"), [(2, 3.0), (1, 9.0)])
def test_samples_of_a_density_in_1d_follow_its_distribution_function(power, reach):
    """Kolmogorov-Smirnov against scipy's integral, 5,000 points, seed fixed; skewed, so that no symmetry helps."""
    f = lambda x: -(x.square().sum(-1) ** power) + 0.8 * x.sum(-1)  # noqa: E731
    prior = DensityPrior(f, [-reach], [reach])
    axis = np.linspace(-reach, reach, 200_001)
    density = np.exp(-(axis ** (2 * power)) + 0.8 * axis)
    cdf = integrate.cumulative_simpson(density, x=axis, initial=0)
    x = prior.sample(5000, generator=oracles.generator(13))
    assert x.shape == (5000, 1)
    assert x.dtype == F64
    assert stats.kstest(x[:, 0].numpy(), lambda t: np.interp(t, axis, cdf / cdf[-1])).pvalue > 1e-3


def test_samples_of_a_density_in_2d_are_uniform_after_the_rosenblatt_transform_of_the_mixture():
    """x1 through its distribution function, x2 through the conditional one: both uniform and independent."""
    mixture = oracles.random_mixture(2, 3, seed=14)
    x = as_density(mixture).sample(20_000, generator=oracles.generator(15)).numpy()
    w, mu, c = mixture.weights.numpy(), mixture.means.numpy(), mixture.covariances.numpy()
    first = stats.norm(mu[:, 0], np.sqrt(c[:, 0, 0]))
    u1 = first.cdf(x[:, :1]) @ w
    given = w * first.pdf(x[:, :1])
    given /= given.sum(-1, keepdims=True)
    slope = c[:, 0, 1] / c[:, 0, 0]
    conditional = stats.norm(mu[:, 1] + slope * (x[:, :1] - mu[:, 0]), np.sqrt(c[:, 1, 1] - slope * c[:, 0, 1]))
    u2 = (given * conditional.cdf(x[:, 1:])).sum(-1)
    assert stats.kstest(u1, "uniform").pvalue > 1e-3
    assert stats.kstest(u2, "uniform").pvalue > 1e-3
    counts = np.histogram2d(u1, u2, bins=10, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


@pytest.mark.parametrize("dim", [1, 2])
def test_transport_of_a_density_is_monotone_and_stays_in_the_box(dim):
    prior = as_density(oracles.random_mixture(dim, 2, seed=16))
    level = torch.linspace(1e-12, 1 - 1e-12, 2001, dtype=F64)
    uniform = torch.full((2001, dim + 1), 0.4, dtype=F64)
    for column in range(1, dim + 1):
        moved = uniform.clone()
        moved[:, column] = level
        x = prior.from_uniform(moved)
        assert bool((x[:, column - 1].diff() > 0).all())
        assert bool(((x >= prior.box[0]) & (x <= prior.box[1])).all())
    assert torch.equal(prior.sample(9, generator=oracles.generator(1)), prior.sample(9, generator=oracles.generator(1)))


def test_many_samples_of_a_density_need_little_memory():
    """A table of 4097 entries for every point would be 33 GB for a million points."""
    prior = DENSITIES["double well"]
    largest = 0

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: object, types: object, args: tuple = (), kwargs: dict | None = None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(tensor, Tensor):
                    largest = max(largest, tensor.untyped_storage().nbytes())
            return out

    with Sizes():
        prior.sample(5000, generator=oracles.generator(17))
    assert largest <= 8 * 10 * (5000 + 4097)


# Errors


@pytest.mark.parametrize("reach", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("dim", [1, 2])
def test_a_box_that_cuts_mass_raises(dim, reach):
    with pytest.raises(ValueError, match="lower and upper must enclose the mass"):
        DensityPrior(lambda x: -0.5 * x.square().sum(-1), [-reach] * dim, [9.0] * dim)


def test_the_density_of_z_needs_an_injective_operator():
    for operator in ([[1.0, 0.5]], [[1.0, 2.0], [2.0, 4.0]]):
        problem = LinearProblem(operator, 0.3)
        z = problem.normal_data(torch.ones(problem.operator.shape[0], dtype=F64))
        for prior in (LOGISTIC, oracles.random_mixture(2, 2, seed=0), DENSITIES["quartic"]):
            with pytest.raises(ValueError, match=r"^operator must be injective"):
                invlib.log_evidence(problem, prior, z)


@pytest.mark.parametrize("name", ["posterior_mean", "posterior_covariance", "log_evidence"])
def test_integrals_in_three_dimensions_need_a_mixture(name):
    problem, prior = LinearProblem(torch.eye(3), 0.3), LogisticPrior([1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"^prior must be a GaussianMixture in more than two dimensions"):
        getattr(invlib, name)(problem, prior, torch.zeros(4, 3, dtype=F64))


def test_repr_of_a_density_names_its_box():
    assert repr(DENSITIES["double well"]) == "DensityPrior(dim=1, box=[[-3.5], [3.5]])"
