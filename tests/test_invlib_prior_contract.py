"""One contract for every prior: the shipped ones, a user's class, and wrapped functions and distributions."""

import copy
import math
import pickle

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor, distributions

import invlib
from invlib import DensityPrior, GaussianMixture, LinearProblem, LogisticPrior, Prior
from invlib.priors import from_distribution
from invlib.testproblems import two_bumps

F64 = torch.float64


def quartic(x: Tensor) -> Tensor:
    return -x.square().sum(-1).square()


def normal_samples(count: int, *, generator: torch.Generator | None = None) -> Tensor:
    return torch.randn(count, 3, dtype=F64, generator=generator)


class Student(Prior):
    """A user's prior with nothing but a log-density."""

    dim = 4

    def _log_prob(self, x: Tensor) -> Tensor:
        return -2.5 * torch.log1p(x.square()).sum(-1)


def student_distribution() -> distributions.Distribution:
    return distributions.Independent(distributions.StudentT(9.0 * torch.ones(3, dtype=F64)), 1)


PRIORS = {
    "mixture 1": oracles.random_mixture(1, 3, seed=1),
    "mixture 2": oracles.random_mixture(2, 3, seed=2),
    "mixture 5": oracles.random_mixture(5, 2, seed=3),
    "logistic": LogisticPrior([0.5, 1.3, 2.0]),
    "density 1": DensityPrior(quartic, [-3.0], [3.0]),
    "density 2": DensityPrior(quartic, [-3.0, -3.0], [3.0, 3.0]),
    "class": Student(),
    "log-density": Prior.from_log_density(3, quartic, sample=normal_samples, log_concave=True),
    "distribution": from_distribution(student_distribution()),
}
SAMPLED = [name for name in PRIORS if name != "class"]
MOMENTS = [name for name in SAMPLED if hasattr(PRIORS[name], "mean")]


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (0,), (2, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", PRIORS)
def test_shapes_and_dtypes(name, dtype, shape):
    prior = PRIORS[name]
    n = prior.dim
    x = 0.7 * oracles.randn(*shape, n, seed=1).to(dtype)
    for method, tail in (("log_prob", ()), ("score", (n,)), ("hessian", (n, n))):
        result = getattr(prior, method)(x)
        assert (result.shape, result.dtype, result.requires_grad) == ((*shape, *tail), dtype, False)


@pytest.mark.parametrize("name", PRIORS)
def test_score_and_hessian_are_derivatives_and_can_be_differentiated(name):
    prior = PRIORS[name]
    x = (0.7 * oracles.randn(6, prior.dim, seed=2)).requires_grad_()
    (slope,) = torch.autograd.grad(prior.log_prob(x).sum(), x)
    score, hessian = prior.score(x), prior.hessian(x)
    torch.testing.assert_close(score, slope, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(hessian, hessian.mT, rtol=0, atol=1e-12)
    rows = [torch.autograd.grad(score[:, i].sum(), x, retain_graph=True)[0] for i in range(prior.dim)]
    torch.testing.assert_close(hessian, torch.stack(rows, dim=1), rtol=1e-8, atol=1e-8)
    assert torch.autograd.grad(hessian.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("name", SAMPLED)
def test_samples_are_finite_and_belong_to_the_generator_alone(name):
    prior, state = PRIORS[name], torch.get_rng_state()
    x = prior.sample(500, generator=oracles.generator(3))
    assert (x.shape, x.dtype) == ((500, prior.dim), F64)
    assert bool(x.isfinite().all())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, prior.sample(500, generator=oracles.generator(3)))
    assert not torch.equal(x, prior.sample(500, generator=oracles.generator(4)))


@pytest.mark.parametrize("name", MOMENTS)
def test_samples_have_the_moments_that_the_prior_names(name):
    """Six standard errors of 20,000 draws, seed fixed."""
    prior, count = PRIORS[name], 20_000
    x = prior.sample(count, generator=oracles.generator(5))
    error = (x.mean(0) - prior.mean) / (prior.covariance.diagonal() / count).sqrt()
    assert float(error.abs().max()) < 6
    products = torch.einsum("pi,pj->pij", x - prior.mean, x - prior.mean)
    error = (products.mean(0) - prior.covariance) / (products.var(0) / count).sqrt()
    assert float(error.abs().max()) < 6


@pytest.mark.parametrize("name", PRIORS)
def test_copies_and_pickles_are_the_same_prior(name):
    prior = PRIORS[name]
    x = oracles.randn(3, prior.dim, seed=6)
    for twin in (copy.copy(prior), copy.deepcopy(prior), pickle.loads(pickle.dumps(prior))):
        assert torch.equal(twin.log_prob(x), prior.log_prob(x))
        assert torch.equal(twin.score(x), prior.score(x))


@pytest.mark.parametrize("name", PRIORS)
def test_bad_points_are_named(name):
    prior = PRIORS[name]
    good = torch.zeros(2, prior.dim)
    bad = {
        "columns": torch.zeros(2, prior.dim + 1),
        "half": good.half(),
        "bfloat16": good.bfloat16(),
        "complex": good.to(torch.complex64),
        "bool": good.bool(),
        "huge": good.double() + 1e150,
        "nan": good * math.nan,
        "device": good.to("meta"),
        "none": None,
    }
    for method in ("log_prob", "score", "hessian"):
        for x in bad.values():
            with pytest.raises(ValueError, match=r"^x must"):
                getattr(prior, method)(x)


@pytest.mark.parametrize("name", PRIORS)
def test_the_map_estimate_needs_the_log_density_only_and_is_a_critical_point(name):
    prior = PRIORS[name]
    problem = LinearProblem(oracles.random_operator(prior.dim, prior.dim, seed=7), 0.3)
    z = problem.normal_data(0.5 * oracles.randn(5, prior.dim, seed=8))
    x = invlib.map_estimate(problem, prior, z, local=True)
    gradient = x @ problem.normal_operator - 0.3**2 * prior.score(x) - z
    assert float(gradient.abs().max()) < 1e-9
    assert float(invlib.map_curvature(problem, prior, x).min()) > -1e-9
    empty = torch.zeros(0, prior.dim)
    assert invlib.map_estimate(problem, prior, empty, local=True).shape == (0, prior.dim)
    assert invlib.map_curvature(problem, prior, empty).shape == (0,)


@pytest.mark.parametrize("name", PRIORS)
def test_the_gradient_of_the_map_estimate_is_the_inverse_of_the_curvature(name):
    """D x(z) = (H - delta^2 Hessian)^{-1}, the implicit function theorem, and the gradient of map_curvature."""
    prior = PRIORS[name]
    problem = LinearProblem(torch.eye(prior.dim), 0.3)
    z = (0.4 * oracles.randn(prior.dim, seed=9)).requires_grad_()
    x = invlib.map_estimate(problem, prior, z, local=True)
    rows = [torch.autograd.grad(x[i], z, retain_graph=True)[0] for i in range(prior.dim)]
    curvature = problem.normal_operator - 0.3**2 * prior.hessian(x.detach())
    torch.testing.assert_close(torch.stack(rows), torch.linalg.inv(curvature), rtol=1e-7, atol=1e-8)

    at = (0.4 + torch.arange(prior.dim, dtype=F64)).requires_grad_()
    direction, step = oracles.randn(prior.dim, seed=10), 1e-6
    (slope,) = torch.autograd.grad(invlib.map_curvature(problem, prior, at), at)
    sides = [invlib.map_curvature(problem, prior, at.detach() + s * step * direction) for s in (1, -1)]
    assert float(slope @ direction) == pytest.approx(float(sides[0] - sides[1]) / (2 * step), rel=1e-5, abs=1e-7)


def test_second_derivatives_of_the_map_estimate_are_right():
    prior, problem = two_bumps(), LinearProblem(torch.eye(2), 0.3)
    z = torch.tensor([0.3, -0.2], dtype=F64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda data: invlib.map_estimate(problem, prior, data), (z,))


# What a prior lacks is said


def test_samples_alone_are_refused_by_the_exact_estimators_with_a_reason():
    class Draws:
        dim = 2

        def sample(self, count, *, generator=None):
            return torch.zeros(count, 2)

    problem, z = LinearProblem(torch.eye(2), 0.3), torch.zeros(2)
    for estimator in (invlib.posterior_mean, invlib.map_estimate, invlib.log_evidence, invlib.map_curvature):
        with pytest.raises(TypeError, match=r"^prior must be .* samples do not suffice"):
            estimator(problem, Draws(), z)
        for bad in (None, "prior", problem):
            with pytest.raises(TypeError, match=r"^prior must be"):
                estimator(problem, bad, z)
        for bad in (None, "problem", two_bumps()):
            with pytest.raises(TypeError, match=r"^problem must be"):
                estimator(bad, two_bumps(), z)
        with pytest.raises(TypeError, match=r"^prior must be wrapped: invlib.Prior.from_distribution"):
            estimator(problem, student_distribution(), z)


def test_what_a_class_does_not_give_is_named():
    class Empty(Prior):
        dim = 2

    problem, z = LinearProblem(torch.eye(2), 0.3), torch.zeros(2)
    with pytest.raises(TypeError, match=r"^prior must give _log_prob"):
        invlib.map_estimate(problem, Empty(), z)
    with pytest.raises(TypeError, match=r"^prior must give sample"):
        Empty().sample(3)
    for dim in (None, 0, True, 2.0):
        prior = Student()
        prior.dim = dim
        with pytest.raises(TypeError, match=rf"^prior must have a positive integer dim, got {dim} in Student"):
            prior.log_prob(torch.zeros(4))
    with pytest.raises(TypeError, match=r"^prior must have a box"):
        invlib.posterior_mean(problem, Prior.from_log_density(2, quartic), z)
    for function in (invlib.measurement_distribution, invlib.data_distribution):
        with pytest.raises(TypeError, match=r"^prior must be a GaussianMixture"):
            function(problem, LogisticPrior([1.0, 1.0]))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: None,
        lambda x: 0.0,
        lambda x: torch.tensor(0.0),
        lambda x: x,
        lambda x: -x.detach().square().sum(-1),
        lambda x: -np.square(x.numpy()).sum(-1),
        lambda x: (x * math.nan).sum(-1),
        "density",
    ],
)
def test_a_function_that_is_no_differentiable_log_density_is_named(function):
    with pytest.raises((TypeError, ValueError), match=r"^log_density must"):
        DensityPrior(function, [-3.0], [3.0])


@pytest.mark.parametrize("found", [None, 0.0, torch.zeros(2, 1)])
def test_a_score_or_sampler_that_returns_something_else_is_named(found):
    prior = Prior.from_log_density(3, quartic, score=lambda x: found, sample=lambda count, *, generator=None: found)
    with pytest.raises(ValueError, match=r"^score must return a tensor of shape \(2, 3\)"):
        prior.score(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"^sample must return a tensor of shape \(2, 3\)"):
        prior.sample(2)


def test_a_lambda_cannot_be_pickled_and_the_error_says_what_can():
    for prior in (DensityPrior(lambda x: quartic(x), [-3.0], [3.0]), Prior.from_log_density(2, lambda x: quartic(x))):
        assert torch.equal(
            copy.deepcopy(prior).log_prob(torch.zeros(prior.dim)), prior.log_prob(torch.zeros(prior.dim))
        )
        with pytest.raises(TypeError, match=r"^log_density must be a function defined by def"):
            pickle.dumps(prior)


def test_normal_distributions_and_their_mixtures_become_mixtures():
    mixture = oracles.random_mixture(2, 3, seed=11)
    parts = distributions.MultivariateNormal(mixture.means, mixture.covariances)
    wrapped = Prior.from_distribution(
        distributions.MixtureSameFamily(distributions.Categorical(mixture.weights), parts)
    )
    assert isinstance(wrapped, GaussianMixture)
    x = oracles.randn(7, 2, seed=12)
    torch.testing.assert_close(wrapped.log_prob(x), mixture.log_prob(x), rtol=1e-12, atol=1e-12)
    single = from_distribution(distributions.MultivariateNormal(torch.zeros(2), torch.eye(2)))
    assert repr(single) == "GaussianMixture(components=1, dim=2)"
    normal = distributions.Normal(torch.zeros(2), 3 * torch.ones(2))
    independent = from_distribution(distributions.Independent(normal, 1))
    torch.testing.assert_close(independent.covariance, 9 * torch.eye(2, dtype=F64))


@pytest.mark.parametrize(
    "bad",
    [
        distributions.Normal(0.0, 1.0),
        distributions.Normal(torch.zeros(2), torch.ones(2)),
        distributions.MultivariateNormal(torch.zeros(3, 2), torch.eye(2)),
        distributions.Independent(distributions.Uniform(torch.zeros(2), torch.ones(2)), 1),
    ],
)
def test_other_distributions_are_refused(bad):
    with pytest.raises(ValueError, match=r"^distribution must"):
        from_distribution(bad)


def test_a_covariance_that_was_rounded_to_float32_is_symmetric_enough():
    matrix = torch.linalg.inv(torch.linalg.inv(torch.tensor([[2.0, 0.7], [0.7, 0.3]])))
    matrix[0, 1] *= 1 + 1e-6
    prior = GaussianMixture([1.0], [[0.0, 0.0]], matrix[None])
    assert torch.equal(prior.covariances, prior.covariances.mT)
    with pytest.raises(ValueError, match=r"^covariances must be symmetric"):
        GaussianMixture([1.0], [[0.0, 0.0]], matrix[None].double())
    wrapped = from_distribution(distributions.MultivariateNormal(torch.zeros(2), matrix))
    assert torch.equal(wrapped.covariances, wrapped.covariances.mT)


def test_scores_of_many_points_in_784_dimensions_need_no_hessian():
    """A Hessian for each of 1,000 points would take 4.9 GB."""
    prior = GaussianMixture([0.5, 0.5], oracles.randn(2, 784, seed=13), torch.eye(784).expand(2, 784, 784))
    x = prior.sample(1000, generator=oracles.generator(14))
    expected = -(x - prior.components.means[0]), -(x - prior.components.means[1])
    weights = torch.stack([-0.5 * e.square().sum(-1) for e in expected]).softmax(0).unsqueeze(-1)
    torch.testing.assert_close(prior.score(x), (weights * torch.stack(expected)).sum(0), rtol=1e-9, atol=1e-9)
    problem = LinearProblem(torch.eye(784), 0.5)
    assert invlib.posterior_mean(problem, prior, x).shape == (1000, 784)
