"""Tests of `invlib.bayes`: posterior moments, MAP and Lemma 1, against the space of y, quadrature and grids."""

import math

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch import Tensor

import invlib
from invlib import GaussianMixture, LinearProblem

# (m, n, rank): square, tall, wide, rank-deficient.
OPERATORS = [
    (1, 1, 1),
    (2, 2, 2),
    (3, 3, 3),
    (5, 5, 5),
    (3, 2, 2),
    (6, 3, 3),
    (1, 2, 1),
    (2, 3, 2),
    (3, 5, 3),
    (2, 2, 1),
    (4, 3, 2),
    (3, 5, 2),
]


def setting(m: int, n: int, rank: int, noise_std: float, components: int = 3) -> tuple:
    """A problem, a mixture prior and measurements y (20, m)."""
    seed = 100 * m + 10 * n + rank
    problem = LinearProblem(oracles.random_operator(m, n, seed=seed, rank=rank), noise_std)
    prior = oracles.random_mixture(n, components, seed=seed + 1)
    x = prior.sample(20, generator=oracles.generator(seed))
    return problem, prior, problem.measure(x, generator=oracles.generator(seed + 1))


@pytest.mark.parametrize(("m", "n", "rank"), OPERATORS)
@pytest.mark.parametrize("noise_std", [0.05, 0.4])
def test_posterior_mean_and_covariance_equal_the_formula_in_the_space_of_y(m, n, rank, noise_std):
    """The library starts from z; the oracle never forms it. Also Lemma 1(a): z carries all of y."""
    problem, prior, y = setting(m, n, rank, noise_std)
    z = problem.normal_data(y)
    expected = [
        oracles.moments(*oracles.posterior_from_y(problem.operator.numpy(), noise_std, prior, point))
        for point in y.numpy()
    ]
    mean, covariance = map(np.stack, zip(*expected, strict=True))
    np.testing.assert_allclose(invlib.posterior_mean(problem, prior, z).numpy(), mean, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(invlib.posterior_covariance(problem, prior, z).numpy(), covariance, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("m", "n", "rank"), [(1, 1, 1), (3, 1, 1), (2, 2, 2), (3, 2, 2), (1, 2, 1), (2, 2, 1)])
def test_posterior_moments_equal_quadrature_of_bayes_formula(m, n, rank):
    """The trapezoidal rule: exponentially accurate for a smooth decaying integrand resolved by the grid."""
    problem, prior, y = setting(m, n, rank, noise_std=0.4)
    y = y[:3]
    points = oracles.grid(n, 10.0, 4001 if n == 1 else 501)
    log_prior = oracles.numpy_log_prob(prior, points)
    for measurement in y.numpy():
        misfit = measurement - points @ problem.operator.numpy().T
        log_density = log_prior - (misfit**2).sum(-1) / (2 * problem.noise_std**2)
        mass = np.exp(log_density - log_density.max())
        mass /= mass.sum()
        mean = mass @ points
        covariance = np.einsum("p,pi,pj->ij", mass, points - mean, points - mean)
        z = torch.from_numpy(problem.operator.numpy().T @ measurement)
        np.testing.assert_allclose(invlib.posterior_mean(problem, prior, z).numpy(), mean, atol=1e-8)
        np.testing.assert_allclose(invlib.posterior_covariance(problem, prior, z).numpy(), covariance, atol=1e-8)


@pytest.mark.parametrize(("m", "n", "rank"), OPERATORS)
def test_derivative_of_the_posterior_mean_is_the_covariance_over_delta_squared(m, n, rank):
    """By central differences along A* dy: z must stay in the range of A*."""
    problem, prior, y = setting(m, n, rank, noise_std=0.4)
    direction = problem.normal_data(oracles.randn(20, m, seed=3))
    z, step = problem.normal_data(y), 1e-5
    slope = invlib.posterior_mean(problem, prior, z + step * direction)
    slope = (slope - invlib.posterior_mean(problem, prior, z - step * direction)) / (2 * step)
    covariance = invlib.posterior_covariance(problem, prior, z)
    expected = torch.einsum("bij,bj->bi", covariance, direction) / problem.noise_std**2
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("m", "n", "rank"), OPERATORS)
def test_posterior_covariance_is_symmetric_and_positive_definite(m, n, rank):
    problem, prior, y = setting(m, n, rank, noise_std=0.05)
    covariance = invlib.posterior_covariance(problem, prior, problem.normal_data(y))
    torch.testing.assert_close(covariance, covariance.mT, rtol=0, atol=1e-12)
    assert float(torch.linalg.eigvalsh(covariance).min()) > 0


@pytest.mark.parametrize(("m", "n", "rank"), OPERATORS)
def test_lemma_1b_tweedie_for_y(m, n, rank):
    problem, prior, y = setting(m, n, rank, noise_std=0.4)
    evidence = invlib.measurement_distribution(problem, prior)
    mean = invlib.posterior_mean(problem, prior, problem.normal_data(y))
    torch.testing.assert_close(problem.forward(mean), y + 0.4**2 * evidence.score(y), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("m", "n", "rank"), [case for case in OPERATORS if case[1] == case[2]])
def test_lemma_1c_tweedie_for_z_with_h_in_front_of_the_score(m, n, rank):
    problem, prior, y = setting(m, n, rank, noise_std=0.4)
    z, h = problem.normal_data(y), problem.normal_operator
    correction = 0.4**2 * invlib.data_distribution(problem, prior).score(z)
    mean = invlib.posterior_mean(problem, prior, z)
    torch.testing.assert_close(mean @ h, z + correction @ h, rtol=1e-8, atol=1e-8)
    if n > 1:  # negative control: without H it is false
        assert float((mean @ h - z - correction).norm(dim=-1).max()) > 1e-2


def test_measurement_and_data_distributions_have_the_moments_of_simulated_data():
    """Five standard errors of 100,000 draws, seed fixed."""
    count = 100_000
    problem, prior, _ = setting(3, 2, 2, noise_std=0.4)
    x = prior.sample(count, generator=oracles.generator(1))
    y = problem.measure(x, generator=oracles.generator(2))
    for points, law in (
        (y, invlib.measurement_distribution(problem, prior)),
        (problem.normal_data(y), invlib.data_distribution(problem, prior)),
    ):
        standard_error = (law.covariance.diagonal() / count).sqrt()
        assert float(((points.mean(0) - law.mean) / standard_error).abs().max()) < 5
        products = torch.einsum("pi,pj->pij", points - law.mean, points - law.mean)
        error = (products.mean(0) - law.covariance) / (products.var(0) / count).sqrt()
        assert float(error.abs().max()) < 5


def longdouble_posterior_1d(weights: list, means: list, stds: list, a: float, noise_std: float, y: float) -> tuple:
    """Mean and variance of p(x | y) in 1-D by Bayes' formula, in 80-bit arithmetic and log space."""
    w, mu, s = (np.array(v, dtype=np.longdouble) for v in (weights, means, stds))
    a, noise_std, y = np.longdouble(a), np.longdouble(noise_std), np.longdouble(y)
    evidence = a**2 * s**2 + noise_std**2
    log_weights = np.log(w) - np.log(evidence) / 2 - (y - a * mu) ** 2 / (2 * evidence)
    responsibilities = np.exp(log_weights - log_weights.max())
    responsibilities /= responsibilities.sum()
    component_means = mu + a * s**2 * (y - a * mu) / evidence
    mean = (responsibilities * component_means).sum()
    variance = (responsibilities * (s**2 * noise_std**2 / evidence + (component_means - mean) ** 2)).sum()
    return float(mean), float(variance)


@pytest.mark.parametrize("noise_std", [1e-8, 1e-3, 0.3, 30.0])
@pytest.mark.parametrize("y", [-300.0, -50.0, -0.2, 0.02, 0.5, 50.0, 300.0])
def test_posterior_of_extreme_data_and_noise_neither_under_nor_overflows(noise_std, y):
    """Up to 1,000 prior standard deviations away and 3e10 noise standard deviations."""
    weights, means, stds, a = [0.3, 0.7], [-0.8, 0.9], [0.25, 0.35], 0.7
    prior = GaussianMixture(weights, np.array(means)[:, None], np.square(stds)[:, None, None])
    problem = LinearProblem([[a]], noise_std)
    z = torch.tensor([a * y], dtype=torch.float64)
    mean, variance = longdouble_posterior_1d(weights, means, stds, a, noise_std, y)
    assert float(invlib.posterior_mean(problem, prior, z)) == pytest.approx(mean, rel=1e-10)
    assert float(invlib.posterior_covariance(problem, prior, z)) == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize("distance", [100.0, 1e4])
@pytest.mark.parametrize("noise_std", [1e-3, 0.4])
def test_map_far_from_the_prior_is_the_closed_form_of_the_only_component_left(distance, noise_std):
    """With equal covariances the component nearest in the direction of z takes all the weight."""
    covariance = np.array([[0.3, 0.1], [0.1, 0.2]])
    prior = GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], np.stack([covariance, covariance]))
    problem = LinearProblem([[1.0, 0.2], [0.0, 0.7]], noise_std)
    z = distance * torch.tensor([1.0, 0.3], dtype=torch.float64)
    h, precision = problem.normal_operator.numpy(), np.linalg.inv(covariance)
    pull = z.numpy() + noise_std**2 * precision @ np.array([1.0, 0.0])
    expected = np.linalg.solve(h + noise_std**2 * precision, pull)
    for estimate in (invlib.map_estimate, invlib.posterior_mean):
        np.testing.assert_allclose(estimate(problem, prior, z).numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize(("m", "n", "rank"), OPERATORS)
@pytest.mark.parametrize("noise_std", [1e-3, 0.4])
def test_map_satisfies_the_prior_based_normal_equation(m, n, rank, noise_std):
    """The gradient of J_z, with the score from torch.func, vanishes: H x - delta^2 s(x) = z."""
    problem, prior, y = setting(m, n, rank, noise_std)
    z = problem.normal_data(y)
    x = invlib.map_estimate(problem, prior, z, local=n > 3)
    score = torch.func.vmap(torch.func.jacrev(oracles.plain_log_prob(prior)))(x)
    gradient = x @ problem.normal_operator - noise_std**2 * score - z
    assert float(gradient.norm(dim=-1).max()) < 1e-9 * (1 + float(z.norm(dim=-1).max()))
    assert float(invlib.map_curvature(problem, prior, x).min()) > -1e-9  # a maximum, no saddle


def log_posterior(problem: LinearProblem, prior: GaussianMixture, z: Tensor, points: np.ndarray) -> np.ndarray:
    """-J_z / delta^2 at points (..., n)."""
    data = ((points @ problem.operator.numpy().T) ** 2).sum(-1) / 2 - points @ z.numpy()
    return oracles.numpy_log_prob(prior, points) - data / problem.noise_std**2


def ridge_mixture(dim: int, components: int, seed: int) -> GaussianMixture:
    """Elongated components that cross: more modes than components are possible."""
    rng = np.random.default_rng(seed)
    rotations = np.linalg.qr(rng.normal(size=(components, dim, dim)))[0]
    stds = 10 ** rng.uniform(-1.2, 0.2, size=(components, dim))
    covariances = rotations @ (stds[..., None] ** 2 * rotations.transpose(0, 2, 1))
    covariances = (covariances + covariances.transpose(0, 2, 1)) / 2
    weights = rng.uniform(0.2, 1, components)
    return GaussianMixture(weights / weights.sum(), rng.normal(size=(components, dim)), covariances)


@pytest.mark.parametrize("dim", [1, 2])
def test_map_is_the_global_maximum_on_a_dense_grid_also_of_multimodal_posteriors(dim):
    points = oracles.grid(dim, 5.0, 8001 if dim == 1 else 401)
    spacing = 10.0 / (8000 if dim == 1 else 400)
    multimodal = 0
    for seed in range(20):
        prior = ridge_mixture(dim, 2 + seed % 4, seed)
        problem = LinearProblem(0.4 * oracles.random_operator(dim, dim, seed=seed), noise_std=1.0)
        z = problem.normal_data(oracles.randn(dim, seed=seed))
        values = log_posterior(problem, prior, z, points)
        best = values.argmax()
        x = invlib.map_estimate(problem, prior, z).numpy()
        value = log_posterior(problem, prior, z, x)
        assert value >= values[best] - 1e-12
        runner_up = values[np.linalg.norm(points - points[best], axis=-1) > 3 * spacing].max()
        if values[best] - runner_up > 1e-3 or np.linalg.norm(points[best] - x) < 2 * spacing:
            assert np.linalg.norm(points[best] - x) < 2 * spacing
        shaped = values.reshape([len(values)] if dim == 1 else [401, 401])
        interior = shaped[(slice(1, -1),) * dim]
        peaks = np.ones_like(interior, dtype=bool)
        for axis in range(dim):
            for shift in (0, 2):
                window = [slice(1, -1)] * dim
                window[axis] = slice(shift, shaped.shape[axis] - 2 + shift)
                peaks &= interior > shaped[tuple(window)]
        multimodal += peaks.sum() > 1
    assert multimodal >= 8  # the test is about something


@pytest.mark.parametrize("seed", range(6))
def test_map_is_no_worse_than_a_multistart_optimizer_in_3d(seed):
    prior = ridge_mixture(3, 3, seed)
    problem = LinearProblem(0.4 * oracles.random_operator(2, 3, seed=seed), noise_std=1.0)
    z = problem.normal_data(oracles.randn(2, seed=seed))
    x = invlib.map_estimate(problem, prior, z).numpy()
    starts = prior.sample(40, generator=oracles.generator(seed)).numpy()
    best = max(
        -optimize.minimize(lambda p: -log_posterior(problem, prior, z, p), start, method="BFGS").fun for start in starts
    )
    assert log_posterior(problem, prior, z, x) >= best - 1e-9


def test_map_finds_the_mode_where_three_ridges_cross():
    """Three pancakes in R^3 meet in one point near 0, far from every pairwise crossing; it is the global mode."""
    means = np.array([[0.0, 0.45, 0.55], [0.55, 0.0, 0.5], [0.45, 0.55, 0.0]])
    covariances = np.stack([np.eye(3) - (1 - 1e-4) * np.outer(e, e) for e in np.eye(3)])
    prior = GaussianMixture([0.32, 0.33, 0.35], means, covariances)
    problem = LinearProblem(1e-3 * torch.eye(3), 1.0)
    z = torch.zeros(3, dtype=torch.float64)
    x = invlib.map_estimate(problem, prior, z).numpy()
    assert log_posterior(problem, prior, z, x) >= log_posterior(problem, prior, z, np.zeros(3))


def test_map_jumps_at_the_maxwell_point_where_both_modes_are_equally_high():
    """Symmetric mixture: the mode switches sides at z = 0 whatever the distance; just beside it the side is known."""
    prior = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[[0.09]], [[0.09]]])
    problem = LinearProblem([[1.0]], 0.9)
    z = torch.tensor([[-1e-6], [1e-6]], dtype=torch.float64)
    left, right = invlib.map_estimate(problem, prior, z).flatten().tolist()
    assert left == pytest.approx(-right, abs=1e-5)
    assert right > 0.5


def test_map_of_two_unequal_bumps_jumps():
    """The jump of the example with unequal bumps, to three digits."""
    prior = GaussianMixture([0.7, 0.3], [[-0.8], [0.9]], [[[0.25**2]], [[0.35**2]]])
    problem = LinearProblem([[1.0]], 0.45)
    z = torch.tensor([[0.2085], [0.2095]], dtype=torch.float64)
    below, above = invlib.map_estimate(problem, prior, z).flatten().tolist()
    assert below < 0 < above


def test_map_of_a_flat_top_converges():
    """At equal variance and squared distance two components merge into one mode with zero curvature."""
    prior = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[[1.0]], [[1.0]]])
    x = invlib.map_estimate(LinearProblem([[1e-9]], 1.0), prior, torch.zeros(1, dtype=torch.float64))
    assert abs(float(x)) < 1e-3  # the fourth root of the rounding error of the density


@pytest.mark.parametrize("unit", [1e-9, 1e-6, 1.0, 1e6])
def test_map_does_not_depend_on_the_unit_of_length(unit):
    prior = GaussianMixture([0.4, 0.6], [[-unit], [unit]], [[[0.3 * unit**2]], [[0.3 * unit**2]]])
    problem = LinearProblem([[1 / unit]], 0.5)
    x = invlib.map_estimate(problem, prior, torch.tensor([-0.1 / unit], dtype=torch.float64))
    reference = GaussianMixture([0.4, 0.6], [[-1.0], [1.0]], [[[0.3]], [[0.3]]])
    expected = invlib.map_estimate(LinearProblem([[1.0]], 0.5), reference, torch.tensor([-0.1], dtype=torch.float64))
    assert float(x) / unit == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(("m", "n", "rank"), OPERATORS)
def test_gaussian_prior_map_and_mean_are_the_wiener_filter(m, n, rank):
    """One component, closed form."""
    problem, prior, y = setting(m, n, rank, noise_std=0.3, components=1)
    z = problem.normal_data(y)
    precision = np.linalg.inv(prior.covariances[0].numpy())
    system = problem.normal_operator.numpy() + 0.3**2 * precision
    right = z.numpy() + 0.3**2 * precision @ prior.means[0].numpy()
    expected = np.linalg.solve(system, right.T).T
    np.testing.assert_allclose(invlib.posterior_mean(problem, prior, z).numpy(), expected, atol=1e-10)
    np.testing.assert_allclose(invlib.map_estimate(problem, prior, z).numpy(), expected, atol=1e-10)
    np.testing.assert_allclose(
        invlib.posterior_covariance(problem, prior, z)[0].numpy(), 0.3**2 * np.linalg.inv(system), atol=1e-11
    )


def test_estimators_without_any_information_return_the_prior():
    """A = 0: the posterior is the prior, its only datum z = 0."""
    prior = oracles.random_mixture(2, 3, seed=1)
    problem, z = LinearProblem(torch.zeros(1, 2), 0.1), torch.zeros(2, dtype=torch.float64)
    torch.testing.assert_close(invlib.posterior_mean(problem, prior, z), prior.mean)
    torch.testing.assert_close(invlib.posterior_covariance(problem, prior, z), prior.covariance)
    points = oracles.grid(2, 5.0, 801)
    best = oracles.numpy_log_prob(prior, points).max()
    assert float(prior.log_prob(invlib.map_estimate(problem, prior, z))) >= best - 1e-12


def test_map_curvature_is_the_least_eigenvalue_of_the_hessian_of_the_objective():
    problem, prior, _ = setting(3, 2, 2, noise_std=0.4)
    x = prior.sample(30, generator=oracles.generator(1))

    def objective(point: Tensor) -> Tensor:
        data = 0.5 * (problem.operator @ point).square().sum()
        return data - problem.noise_std**2 * oracles.plain_log_prob(prior)(point)

    hessian = torch.func.vmap(torch.func.jacrev(torch.func.jacrev(objective)))(x)
    expected = torch.linalg.eigvalsh(hessian)[:, 0]
    torch.testing.assert_close(invlib.map_curvature(problem, prior, x), expected, rtol=1e-9, atol=1e-9)
    assert invlib.map_curvature(problem, prior, x.float()).dtype == torch.float32


def test_a_posteriori_bound_on_the_distance_to_the_map():
    """Strong convexity: |x - x_MAP| <= |grad J_z(x)| / c for any x where the prior is log-concave."""
    prior = GaussianMixture([0.5, 0.5], [[-0.3, 0.0], [0.3, 0.1]], np.stack([0.5 * np.eye(2)] * 2))
    problem = LinearProblem([[1.0, 0.1], [0.0, 0.7]], 0.4)
    grid = torch.from_numpy(oracles.grid(2, 4.0, 81))
    c = float(invlib.map_curvature(problem, prior, grid).min())
    assert c > 0
    z = oracles.randn(50, 2, seed=1)
    x = invlib.map_estimate(problem, prior, z)
    other = x + oracles.randn(50, 2, seed=2)
    gradient = other @ problem.normal_operator - problem.noise_std**2 * prior.score(other) - z
    assert bool(((other - x).norm(dim=-1) <= gradient.norm(dim=-1) / c).all())


ESTIMATORS = [invlib.posterior_mean, invlib.posterior_covariance, invlib.map_estimate]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (0,)])
def test_leading_dimensions_are_kept_and_every_datum_is_treated_on_its_own(estimator, shape):
    problem, prior, _ = setting(3, 2, 2, noise_std=0.3)
    z = oracles.randn(*shape, 2, seed=5)
    result = estimator(problem, prior, z)
    assert result.shape[: len(shape)] == shape
    alone = [estimator(problem, prior, point) for point in z.reshape(-1, 2)]
    if alone:
        torch.testing.assert_close(result.reshape(-1, *alone[0].shape), torch.stack(alone), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_float32_data_give_float32_results_computed_in_float64(estimator):
    problem, prior, y = setting(3, 2, 2, noise_std=0.3)
    z = problem.normal_data(y).float()
    result = estimator(problem, prior, z)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, estimator(problem, prior, z.double()).float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_data_outside_the_range_of_the_adjoint_raise(estimator):
    problem, prior, y = setting(2, 3, 2, noise_std=0.3)
    z = problem.normal_data(y)
    estimator(problem, prior, z.float())  # rounding errors of float32 are no offence
    kernel = torch.from_numpy(np.linalg.svd(problem.operator.numpy())[2][-1])
    with pytest.raises(ValueError, match=r"z must lie in the range of A\*"):
        estimator(problem, prior, z + 1e-3 * kernel)


def test_a_rank_deficient_operator_gives_no_density_of_z():
    problem, prior, _ = setting(2, 2, 1, noise_std=0.3)
    with pytest.raises(ValueError, match="operator must be injective"):
        invlib.data_distribution(problem, prior)


def test_an_operator_that_is_singular_to_rounding_gives_no_density_of_z():
    problem, prior = LinearProblem(torch.diag(torch.tensor([1.0, 1e-8])), 0.3), oracles.random_mixture(2, 3, seed=1)
    assert problem.is_injective
    with pytest.raises(ValueError, match="operator must have a condition number below 1e7"):
        invlib.log_evidence(problem, prior, torch.zeros(2))


def test_map_raises_convergence_error_where_the_best_mode_is_not_reached(monkeypatch):
    """The iteration is cut after one step by hand: the public function must notice."""
    problem, prior, y = setting(2, 2, 2, noise_std=1.0)
    climb = invlib.modes.maximize
    monkeypatch.setattr(invlib.modes, "maximize", lambda *a, **options: climb(*a, **options, iterations=1))
    monkeypatch.setattr(invlib.modes, "_bisect", lambda ridge, owner, low, high: low)
    with pytest.raises(invlib.ConvergenceError, match=r"MAP estimate was not reached for .* of 20 data"):
        invlib.map_estimate(problem, prior, problem.normal_data(y))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    m=st.integers(1, 4),
    n=st.integers(1, 4),
    deficiency=st.integers(0, 2),
    components=st.integers(1, 4),
    log_noise=st.floats(-3, 1),
    seed=st.integers(0, 2**31 - 1),
)
def test_property_posterior_mean_equals_the_formula_in_the_space_of_y(m, n, deficiency, components, log_noise, seed):
    rank = max(0, min(m, n) - deficiency)
    problem = LinearProblem(oracles.random_operator(m, n, seed=seed, rank=rank), math.exp(log_noise))
    prior = oracles.random_mixture(n, components, seed=seed)
    y = oracles.randn(m, seed=seed) * 3
    mean, _ = oracles.moments(*oracles.posterior_from_y(problem.operator.numpy(), problem.noise_std, prior, y.numpy()))
    np.testing.assert_allclose(
        invlib.posterior_mean(problem, prior, problem.normal_data(y)).numpy(), mean, rtol=1e-7, atol=1e-7
    )
