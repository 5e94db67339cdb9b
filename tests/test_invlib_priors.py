"""Tests of `invlib.priors`: density, score, Hessian, sampling, against formulas, quadrature and torch.func."""

import math

import numpy as np
import oracles
import pytest
import torch
from scipy import integrate, stats

from invlib import GaussianMixture, priors
from invlib.testproblems import two_bumps


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
@pytest.mark.parametrize("components", [1, 2, 4])
def test_log_prob_equals_the_sum_of_scipy_densities(dim, components):
    prior = oracles.random_mixture(dim, components, seed=10 * dim + components)
    points = prior.sample(50, generator=oracles.generator(1)) * 1.5
    density = sum(
        float(w) * stats.multivariate_normal(m.numpy(), c.numpy()).pdf(points.numpy())
        for w, m, c in zip(prior.weights, prior.means, prior.covariances, strict=True)
    )
    np.testing.assert_allclose(prior.log_prob(points).numpy(), np.log(density), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_score_is_the_gradient_of_the_plain_log_density(dim):
    prior = oracles.random_mixture(dim, 3, seed=dim)
    points = prior.sample(40, generator=oracles.generator(2))
    expected = torch.func.vmap(torch.func.jacrev(oracles.plain_log_prob(prior)))(points)
    torch.testing.assert_close(prior.score(points), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_hessian_is_the_second_derivative_of_the_plain_log_density(dim):
    prior = oracles.random_mixture(dim, 3, seed=20 + dim)
    points = prior.sample(40, generator=oracles.generator(3))
    expected = torch.func.vmap(torch.func.jacrev(torch.func.jacrev(oracles.plain_log_prob(prior))))(points)
    torch.testing.assert_close(prior.hessian(points), expected, rtol=1e-9, atol=1e-9)


def test_score_and_hessian_agree_with_central_differences_of_log_prob_and_score():
    prior = oracles.random_mixture(2, 3, seed=4)
    x = prior.sample(20, generator=oracles.generator(4))
    step = 1e-5
    for i in range(2):
        shift = step * torch.eye(2, dtype=torch.float64)[i]
        slope = (prior.log_prob(x + shift) - prior.log_prob(x - shift)) / (2 * step)
        torch.testing.assert_close(prior.score(x)[:, i], slope, rtol=1e-7, atol=1e-8)
        curvature = (prior.score(x + shift) - prior.score(x - shift)) / (2 * step)
        torch.testing.assert_close(prior.hessian(x)[:, i], curvature, rtol=1e-7, atol=1e-8)


def test_density_integrates_to_one_with_its_mean_and_covariance_in_1d():
    prior = oracles.random_mixture(1, 3, seed=5)

    def moment(power: int) -> float:
        def integrand(x: float) -> float:
            return x**power * math.exp(float(prior.log_prob(torch.tensor([x], dtype=torch.float64))))

        return integrate.quad(integrand, -25, 25, points=sorted(prior.means.flatten().tolist()), limit=200)[0]

    mean = moment(1)
    assert moment(0) == pytest.approx(1, abs=1e-9)
    assert float(prior.mean) == pytest.approx(mean, abs=1e-9)
    assert float(prior.covariance) == pytest.approx(moment(2) - mean**2, abs=1e-8)


def test_density_integrates_to_one_with_its_mean_and_covariance_in_2d():
    """The trapezoidal rule on a fine grid is exponentially accurate for a smooth decaying density."""
    prior = oracles.random_mixture(2, 3, seed=6)
    points, cell = oracles.grid(2, 12.0, 601), (24.0 / 600) ** 2
    mass = cell * prior.log_prob(torch.from_numpy(points)).exp().numpy()
    mean = mass @ points
    assert mass.sum() == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(prior.mean.numpy(), mean, atol=1e-9)
    second = np.einsum("p,pi,pj->ij", mass, points, points)
    np.testing.assert_allclose(prior.covariance.numpy(), second - np.outer(mean, mean), atol=1e-8)


@pytest.mark.parametrize("distance", [30.0, 100.0, 1e3, 1e6])
def test_far_from_the_means_only_the_widest_component_is_left(distance):
    """Every other responsibility is below exp(-distance); there the mixture is one Gaussian to rounding accuracy."""
    wide, narrow = 4.0, 0.25
    prior = GaussianMixture([0.999, 0.001], [[-1.0, 0.0], [1.0, 0.0]], np.stack([np.eye(2) * narrow, np.eye(2) * wide]))
    x = distance * torch.tensor([[1.0, 0.0], [0.0, -1.0], [-0.6, 0.8]], dtype=torch.float64)
    centred = x - torch.tensor([1.0, 0.0], dtype=torch.float64)
    log_prob = math.log(0.001) - centred.square().sum(-1) / (2 * wide) - math.log(2 * math.pi * wide)
    torch.testing.assert_close(prior.log_prob(x), log_prob, rtol=1e-12, atol=0)
    torch.testing.assert_close(prior.score(x), -centred / wide, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        prior.hessian(x), -torch.eye(2, dtype=torch.float64).expand(3, 2, 2) / wide, rtol=1e-10, atol=1e-12
    )


def test_hessian_has_no_cancellation_far_out_on_the_symmetry_axis():
    """On the axis x_1 = 0 both responsibilities stay 1/2 at any height: closed form -P + P d d* P."""
    prior = GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], np.stack([np.eye(2), np.eye(2)]))
    x = torch.tensor([[0.0, 1e5]], dtype=torch.float64)
    torch.testing.assert_close(
        prior.hessian(x), torch.tensor([[[0.0, 0.0], [0.0, -1.0]]], dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_mixture_does_not_depend_on_the_order_of_its_components():
    prior = oracles.random_mixture(3, 4, seed=7)
    order = [2, 0, 3, 1]
    other = GaussianMixture(prior.weights[order], prior.means[order], prior.covariances[order])
    x = prior.sample(20, generator=oracles.generator(5))
    for method in ("log_prob", "score", "hessian"):
        torch.testing.assert_close(getattr(prior, method)(x), getattr(other, method)(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (0,)])
def test_leading_dimensions_are_kept(shape):
    prior = oracles.random_mixture(2, 3, seed=8)
    x = oracles.randn(*shape, 2, seed=6)
    assert prior.log_prob(x).shape == shape
    assert prior.score(x).shape == (*shape, 2)
    assert prior.hessian(x).shape == (*shape, 2, 2)


def test_results_have_the_dtype_of_x_and_the_accuracy_of_float64_inside():
    prior = oracles.random_mixture(2, 3, seed=9)
    x = oracles.randn(30, 2, seed=7).to(torch.float32)
    for method in ("log_prob", "score", "hessian"):
        result = getattr(prior, method)(x)
        assert result.dtype == torch.float32
        assert torch.equal(result, getattr(prior, method)(x.double()).float())


def test_the_prior_keeps_its_own_copy_of_its_arguments():
    means = torch.zeros(1, 2, dtype=torch.float64)
    covariances = np.eye(2)[None].copy()
    prior = GaussianMixture([1.0], means, covariances)
    means += 5
    covariances *= 9
    assert torch.equal(prior.means, torch.zeros(1, 2, dtype=torch.float64))
    assert torch.equal(prior.covariances, torch.eye(2, dtype=torch.float64)[None])


def test_weights_that_sum_to_one_up_to_rounding_are_normalized():
    prior = GaussianMixture(torch.full((3,), 1 / 3), [[0.0]] * 3, [[[1.0]]] * 3)
    assert float(prior.weights.sum()) == pytest.approx(1, abs=1e-15)


def test_repr_names_components_and_dimension():
    assert repr(oracles.random_mixture(3, 4, seed=0)) == "GaussianMixture(components=4, dim=3)"


def mixture_cdf(prior: GaussianMixture, x: np.ndarray) -> np.ndarray:
    w, m, c = prior.weights.numpy(), prior.means.numpy()[:, 0], prior.covariances.numpy()[:, 0, 0]
    return (w * stats.norm.cdf((np.asarray(x)[..., None] - m) / np.sqrt(c))).sum(-1)


def test_samples_follow_the_distribution_in_1d():
    """Kolmogorov-Smirnov test against the exact distribution function; the seed is fixed."""
    prior = oracles.random_mixture(1, 3, seed=11)
    points = prior.sample(20_000, generator=oracles.generator(8))[:, 0].numpy()
    assert stats.kstest(points, lambda x: mixture_cdf(prior, x)).pvalue > 0.01


def test_sample_moments_are_within_five_standard_errors():
    prior = oracles.random_mixture(3, 3, seed=12)
    count = 100_000
    points = prior.sample(count, generator=oracles.generator(9))
    assert points.shape == (count, 3)
    assert points.dtype == torch.float64
    error = (points.mean(0) - prior.mean) / (prior.covariance.diagonal() / count).sqrt()
    assert float(error.abs().max()) < 5
    products = torch.einsum("pi,pj->pij", points - prior.mean, points - prior.mean)
    error = (products.mean(0) - prior.covariance) / (products.var(0) / count).sqrt()
    assert float(error.abs().max()) < 5


def test_sampling_is_determined_by_the_generator_alone():
    prior = oracles.random_mixture(2, 3, seed=13)
    state = torch.get_rng_state()
    first = prior.sample(10, generator=oracles.generator(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, prior.sample(10, generator=oracles.generator(1)))
    assert not torch.equal(first, prior.sample(10, generator=oracles.generator(2)))


def test_from_uniform_sends_each_stratum_to_its_component_by_the_normal_quantiles():
    prior = oracles.random_mixture(2, 3, seed=14)
    rng = np.random.default_rng(0)
    uniform = rng.uniform(size=(200, 3))
    component = np.digitize(uniform[:, 0], np.cumsum(prior.weights.numpy())[:-1])
    factors = np.linalg.cholesky(prior.covariances.numpy())
    expected = prior.means.numpy()[component] + np.einsum(
        "pij,pj->pi", factors[component], stats.norm.ppf(uniform[:, 1:])
    )
    np.testing.assert_allclose(prior.from_uniform(torch.from_numpy(uniform)).numpy(), expected, rtol=1e-9, atol=1e-9)


def test_transported_sobol_points_integrate_far_better_than_samples():
    """The error of their means is below a tenth of the standard error of as many independent samples."""
    prior = oracles.random_mixture(2, 2, seed=15)
    uniform = torch.quasirandom.SobolEngine(3, scramble=True, seed=1).draw(2**12, dtype=torch.float64)
    error = prior.from_uniform(uniform.clamp(1e-12, 1 - 1e-12)).mean(0) - prior.mean
    standard_error = (prior.covariance.diagonal() / 2**12).sqrt()
    assert float((error / standard_error).abs().max()) < 0.1


@pytest.mark.parametrize("shape", [(), (5,), (2, 5)])
def test_from_uniform_keeps_leading_dimensions_and_accepts_one_component_and_float32(shape):
    prior = oracles.random_mixture(2, 1, seed=16)
    assert prior.from_uniform(torch.full((*shape, 3), 0.5)).shape == (*shape, 2)
    torch.testing.assert_close(prior.from_uniform(torch.full((*shape, 3), 0.5)), prior.means[0].expand(*shape, 2))


def test_many_points_are_placed_as_few_are(monkeypatch):
    prior = oracles.random_mixture(3, 4, seed=18)
    few = prior.sample(50, generator=oracles.generator(19))
    monkeypatch.setattr(priors, "CHUNK", 1)
    torch.testing.assert_close(prior.sample(50, generator=oracles.generator(19)), few, rtol=1e-12, atol=1e-12)


def test_from_uniform_of_extreme_uniform_points_is_finite():
    prior = oracles.random_mixture(2, 3, seed=17)
    uniform = torch.tensor([[1e-12] * 3, [1 - 1e-12] * 3], dtype=torch.float64)
    assert bool(torch.isfinite(prior.from_uniform(uniform)).all())


@pytest.mark.parametrize("convert", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_a_list_of_arrays_or_tensors_means_their_stack_without_a_warning(convert):
    torch.set_warn_always(True)
    try:
        prior = GaussianMixture([0.5, 0.5], [convert([0.0, 1.0])] * 2, [convert([[1.0, 0.0], [0.0, 2.0]])] * 2)
    finally:
        torch.set_warn_always(False)
    assert prior.covariances.tolist() == [[[1.0, 0.0], [0.0, 2.0]]] * 2


@pytest.mark.parametrize("centre", [(0.8, 0.5), (1.0,), (0.1, 0.2, 0.3)])
def test_two_bumps_is_the_even_mixture_of_its_two_round_gaussians(centre):
    prior = two_bumps(centre, std=0.4)
    x = oracles.randn(20, len(centre), seed=21)
    density = sum(
        0.5 * stats.multivariate_normal(sign * np.array(centre), 0.16 * np.eye(len(centre))).pdf(x.numpy())
        for sign in (1, -1)
    )
    np.testing.assert_allclose(prior.log_prob(x).numpy(), np.log(density), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(prior.score(-x), -prior.score(x))
