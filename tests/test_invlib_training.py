"""Tests of `invlib.training`: determinism, what the losses see, and convergence to the known minimizers."""

import itertools
import math

import numpy as np
import oracles
import pytest
import torch
from scipy import stats
from torch import Tensor

import invlib
from invlib import GaussianMixture, IResNet, LinearProblem, TrainingError
from invlib.targets import ReachWarning
from invlib.training import minimize

STRATEGIES = ["approximation", "reconstruction", "log_det", "divergence"]
PROBLEM = LinearProblem([[1.0, 0.0], [0.0, 0.7]], noise_std=0.5)
PRIOR = oracles.random_mixture(2, 2, seed=1)
GAUSSIAN = GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]])


class SampleOnly:
    """A user's prior: nothing but `sample`; records what it was asked."""

    def __init__(self, prior: GaussianMixture, dtype: torch.dtype = torch.float64) -> None:
        self.prior, self.dtype, self.counts = prior, dtype, []

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        self.counts.append(count)
        return self.prior.sample(count, generator=generator).to(self.dtype)


class Fixed:
    """The same points in every batch; in larger batches, all of them several times."""

    def __init__(self, points: Tensor) -> None:
        self.points = points

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        assert count % len(self.points) == 0
        return self.points.repeat(count // len(self.points), 1)


def small(members: int | None = None, dtype: torch.dtype = torch.float64) -> IResNet:
    return IResNet(2, blocks=2, width=16, members=members, dtype=dtype, generator=oracles.generator(0))


def fit(net: IResNet, loss: str, prior: object = GAUSSIAN, problem: object = PROBLEM, **options: object) -> object:
    return invlib.train(net, problem, prior, loss=loss, **{"generator": oracles.generator(1), **options})


# Determinism and the state of the world


@pytest.mark.parametrize("loss", STRATEGIES)
@pytest.mark.parametrize("prior", [PRIOR, SampleOnly(PRIOR)], ids=["mixture", "sample only"])
def test_training_is_determined_by_the_generator_alone(loss, prior):
    """Identical parameters twice, whatever the global state, which is left untouched; other seeds differ."""
    results = []
    with torch.random.fork_rng():
        for global_seed, seed in ((1, 5), (2, 5), (2, 6)):
            torch.manual_seed(global_seed)
            state = torch.get_rng_state()
            net = small()
            history = fit(net, loss, prior, steps=3, batch_size=16, generator=oracles.generator(seed))
            assert torch.equal(torch.get_rng_state(), state)
            results.append([history.loss, *[p.detach() for p in net.parameters()]])
    first, second, other = results
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])


def test_generators_continue_where_they_stopped():
    """Two trainings from one generator see different points."""
    generator = oracles.generator(1)
    first = fit(small(), "divergence", PRIOR, steps=2, batch_size=16, generator=generator)
    second = fit(small(), "divergence", PRIOR, steps=2, batch_size=16, generator=generator)
    assert not torch.equal(first.loss, second.loss)


@pytest.mark.parametrize("members", [None, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_history_has_one_loss_per_step_and_member(members, dtype):
    history = fit(small(members, dtype), "divergence", steps=7, batch_size=8)
    assert history.loss.shape == ((7,) if members is None else (7, members))
    assert history.loss.dtype == dtype
    assert not history.loss.requires_grad
    assert history.learning_rate.shape == (7,)
    assert history.seconds > 0


def test_learning_rate_warms_up_for_5_percent_and_decays_by_a_cosine():
    rates = fit(small(), "approximation", steps=100, batch_size=2, learning_rate=0.02).learning_rate.numpy()
    np.testing.assert_allclose(rates[:5], 0.02 * np.arange(1, 6) / 5, rtol=1e-5)
    expected = 0.02 * 0.5 * (1 + np.cos(np.pi * (np.arange(5, 100) / 100 - 0.05) / 0.95))
    np.testing.assert_allclose(rates[5:], expected, rtol=1e-4)


def test_a_single_step_is_allowed():
    assert fit(small(), "divergence", steps=1, learning_rate=0.01).learning_rate.tolist() == pytest.approx([0.01])


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize(("steps", "averaged"), [(1, 1), (19, 1), (60, 3)])
def test_steps_have_the_rates_of_the_history_and_the_last_weights_are_averaged(members, steps, averaged):
    net, seen, rates = small(members), [], []

    class Watched(invlib.optimizers.SOAP):
        def step(self, closure: None = None) -> None:
            super().step(closure)
            seen.append([parameter.detach().clone() for parameter in net.parameters()])
            rates.append(self.param_groups[0]["lr"])

    history = fit(net, "divergence", steps=steps, batch_size=4, optimizer=Watched)
    assert len(seen) == steps
    assert rates == pytest.approx(history.learning_rate.tolist())
    for parameter, *values in zip(net.parameters(), *seen, strict=True):
        torch.testing.assert_close(parameter.detach(), torch.stack(values[-averaged:]).mean(0), rtol=1e-12, atol=1e-12)
        assert averaged == 1 or (parameter - values[-1]).abs().max() > 1e-9


@pytest.mark.parametrize("progress", [True, False])
def test_progress_bar_is_shown_on_request_only(progress, capsys):
    fit(small(), "log_det", steps=2, batch_size=2, progress=progress)
    captured = capsys.readouterr()
    assert ("log_det" in captured.err + captured.out) == progress


# What the losses see


@pytest.mark.parametrize("loss", ["approximation", "log_det", "divergence"])
@pytest.mark.parametrize("strength", [None, 0.3])
def test_first_loss_is_the_formula_with_the_noise_averaged_exactly(loss, strength):
    """E |phi(x) - z|^2 = E |phi(x) - Hx|^2 + delta^2 tr H; strength None means noise_std; float64 all the way."""
    points, net = oracles.randn(16, 2, seed=2), small()
    value, jacobian = net(points).detach().numpy(), oracles.plain_jacobians(net, points).numpy()
    h = PROBLEM.operator.numpy().T @ PROBLEM.operator.numpy()
    used = 0.5 if strength is None else strength
    expected = 0.5 * ((value - points.numpy() @ h) ** 2).sum(-1).mean() + 0.5 * 0.5**2 * np.trace(h)
    if loss == "log_det":
        expected -= used**2 * np.linalg.slogdet(jacobian)[1].mean()
    if loss == "divergence":
        expected -= used**2 * np.trace(jacobian, axis1=1, axis2=2).mean()
    history = fit(net, loss, Fixed(points), steps=1, batch_size=16, strength=strength)
    assert history.loss.item() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("prior", [PRIOR, SampleOnly(PRIOR)], ids=["mixture", "sample only"])
@pytest.mark.parametrize("members", [None, 2])
def test_reconstruction_sees_the_joint_distribution_of_x_and_z(prior, members, monkeypatch):
    """All batches of two members with different problems: law of x, mean and covariance of z - Hx."""
    problems = [PROBLEM, LinearProblem([[1.0, 0.4], [0.0, 0.5], [0.3, 0.0]], 0.2)][: members or 1]
    batches = []

    def record(net: IResNet, x: Tensor, z: Tensor) -> Tensor:
        batches.append((x, z))
        return invlib.approximation_loss(net, x, z)

    monkeypatch.setattr("invlib.objective.reconstruction_loss", record)
    fit(small(members), "reconstruction", prior, problems, steps=20, batch_size=256)
    for e, problem in enumerate(problems):
        x, z = (torch.cat([batch[i].reshape(len(problems), -1, 2)[e] for batch in batches]) for i in range(2))
        count = len(x)
        noise = z - x @ problem.normal_operator
        covariance = problem.noise_std**2 * problem.normal_operator
        assert float((x.mean(0) - PRIOR.mean).abs().max()) < 5 * (float(PRIOR.covariance.max()) / count) ** 0.5
        assert float((noise.mean(0) / covariance.diagonal().sqrt()).abs().max()) < 5 / count**0.5
        spread = float(covariance.diagonal().max()) * 5 * (2 / count) ** 0.5
        assert float((noise.T @ noise / count - covariance).abs().max()) < spread
        cross = (x - PRIOR.mean).T @ noise / count
        assert float(cross.abs().max()) < 5 * (float(PRIOR.covariance.max() * covariance.max()) / count) ** 0.5
        std = PRIOR.covariances[:, 0, 0].sqrt().numpy()

        def cdf(t: np.ndarray, std: np.ndarray = std) -> np.ndarray:
            return (PRIOR.weights.numpy() * stats.norm.cdf((t[:, None] - PRIOR.means[:, 0].numpy()) / std)).sum(-1)

        assert stats.kstest(x[:, 0].numpy(), cdf).pvalue > 0.001
    if members:  # each member has its own points
        assert not torch.equal(batches[0][0][0], batches[0][0][1])


def test_a_prior_with_sample_only_is_asked_for_one_batch_per_member_and_step():
    prior = SampleOnly(PRIOR, dtype=torch.float32)
    fit(small(3, torch.float64), "divergence", prior, steps=4, batch_size=32)
    assert prior.counts == [32] * 6 + [128] * 6  # four times as many points in the second half


@pytest.mark.parametrize("loss", STRATEGIES[:1] + STRATEGIES[2:])
def test_an_ensemble_with_its_own_problems_and_strengths_trains_as_its_single_networks(loss):
    """The points are fixed, so nothing but the members differ; ten steps, float64."""
    points = oracles.randn(32, 2, seed=3)
    problems = [PROBLEM, LinearProblem([[0.8, 0.1], [0.0, 1.1]], 0.2), LinearProblem([[0.6, 0.0]], 1.0)]
    strengths = [0.5, 0.3, 0.8]
    net = small(3)
    singles = [oracles.member(net, e) for e in range(3)]
    options = {"steps": 10, "batch_size": 32}
    together = fit(net, loss, Fixed(points), problems, strength=strengths, **options)
    for e, single in enumerate(singles):
        alone = fit(single, loss, Fixed(points), problems[e], strength=strengths[e], **options)
        torch.testing.assert_close(together.loss[:, e], alone.loss, rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(net(points.expand(3, 32, 2))[e], single(points), rtol=1e-6, atol=1e-6)


def test_one_problem_and_one_strength_serve_all_members():
    points = oracles.randn(32, 2, seed=4)
    options = {"steps": 2, "batch_size": 32}
    one = fit(small(2), "divergence", Fixed(points), PROBLEM, strength=0.3, **options)
    many = fit(small(2), "divergence", Fixed(points), [PROBLEM] * 2, strength=[0.3, 0.3], **options)
    assert torch.equal(one.loss, many.loss)


@pytest.mark.parametrize(
    "strengths", [np.array([0.3, 0.4]), torch.tensor([0.3, 0.4]), (0.3, 0.4), np.float32([0.3, 0.4]), [1, 1]]
)
def test_strengths_may_be_any_sequence_of_numbers(strengths):
    """The losses take a tensor (E,); so does train."""
    assert fit(small(2), "divergence", steps=1, batch_size=4, strength=strengths).loss.shape == (1, 2)


@pytest.mark.parametrize("strength", [0.3, 1, np.float64(0.3), np.float32(0.3), torch.tensor(0.3)])
def test_one_strength_may_be_any_number(strength):
    assert fit(small(2), "divergence", steps=1, batch_size=4, strength=strength).loss.shape == (1, 2)


# Convergence


def filters(strategy: str, noise_std: float, operator: tuple[float, float] = (1.0, 0.7)) -> np.ndarray:
    """Unit prior variance: the factor by which phi multiplies each coordinate."""
    h = np.square(operator)
    return {
        "approximation": h,
        "reconstruction": h + noise_std**2,
        "divergence": h + noise_std**2,
        "log_det": (h + np.sqrt(h**2 + 4 * noise_std**2)) / 2,
    }[strategy]


def distance_to_filter(value: Tensor, x: Tensor, factor: np.ndarray) -> float:
    """The root mean square of phi(x) - a x relative to that of a x."""
    difference = value.detach().numpy() - x.numpy() * factor
    return math.sqrt((difference**2).mean() / ((x.numpy() * factor) ** 2).mean())


TEST_POINTS = GAUSSIAN.sample(500, generator=oracles.generator(99))


@pytest.mark.parametrize(
    ("strategy", "prior"), [*((s, GAUSSIAN) for s in STRATEGIES), ("divergence", SampleOnly(GAUSSIAN))]
)
def test_a_gaussian_prior_gives_the_linear_filter_of_each_strategy(strategy, prior):
    """Within 3 % after 400 steps; the filter of any strategy that differs is more than twice as far."""
    net = small()
    history = fit(net, strategy, prior, steps=400)
    value = net(TEST_POINTS)
    error = distance_to_filter(value, TEST_POINTS, filters(strategy, 0.5))
    assert error < 0.03
    for other in STRATEGIES:
        if not np.allclose(filters(other, 0.5), filters(strategy, 0.5)):
            assert distance_to_filter(value, TEST_POINTS, filters(other, 0.5)) > 2 * error
    assert float(history.loss[-50:].mean()) < float(history.loss[:50].mean())


def test_the_divergence_loss_ends_at_its_optimal_value():
    """Theorem 2(a) in the Gaussian case: the last batches average to the closed-form optimum within 1 %."""
    history = fit(small(), "divergence", steps=250)
    h, noise_std = np.array([1.0, 0.49]), 0.5
    optimum = -0.5 * noise_std**2 * h.sum() - 0.5 * noise_std**4 * 2
    assert float(history.loss[-50:].mean()) == pytest.approx(optimum, rel=0.01)


def test_members_learn_the_filters_of_their_own_problems_and_strengths():
    """Three noise levels with strength None, then a strength that is not the noise level."""
    levels = [0.2, 0.4, 0.6]
    problems = [LinearProblem(PROBLEM.operator, level) for level in levels]
    for strength, used in ((None, levels), ([0.6, 0.4, 0.2], [0.6, 0.4, 0.2])):
        net = small(3)
        fit(net, "divergence", GAUSSIAN, problems, strength=strength, steps=250)
        value = net(TEST_POINTS.expand(3, -1, -1))
        for e in range(3):
            errors = [distance_to_filter(value[e], TEST_POINTS, filters("divergence", level)) for level in used]
            assert errors[e] < 0.03
            assert errors[e] == min(errors)


def test_members_learn_the_filters_of_their_own_operators():
    operators = [(1.0, 0.7), (0.6, 1.1)]
    problems = [LinearProblem(np.diag(a), 0.3) for a in operators]
    net = small(2)
    fit(net, "divergence", GAUSSIAN, problems, steps=250)
    value = net(TEST_POINTS.expand(2, -1, -1))
    for e, a in enumerate(operators):
        assert distance_to_filter(value[e], TEST_POINTS, filters("divergence", 0.3, a)) < 0.03


def test_a_one_dimensional_mixture_gives_the_optimal_map():
    """Divergence training on a log-concave mixture: phi close to Hx - delta^2 s(x), its inverse to the MAP."""
    prior = GaussianMixture([0.4, 0.6], [[-0.5], [0.5]], [[[0.4]], [[0.3]]])
    problem = LinearProblem([[0.9]], 0.4)
    net = IResNet(1, blocks=2, width=16, dtype=torch.float64, generator=oracles.generator(0))
    fit(net, "divergence", prior, problem, steps=400)
    x = prior.sample(500, generator=oracles.generator(2))
    best = x @ problem.normal_operator - 0.4**2 * prior.score(x)
    assert (net(x) - best).square().mean().sqrt().item() < 0.02 * float(best.std())
    z = problem.normal_data(problem.measure(x, generator=oracles.generator(3)))
    estimate = invlib.map_estimate(problem, prior, z)
    error = (net.inverse(z) - estimate).square().mean().sqrt().item()
    assert error < 0.02
    assert error < 0.5 * float((invlib.posterior_mean(problem, prior, z) - estimate).square().mean().sqrt())


def test_training_keeps_the_certified_bounds():
    net = small()
    problem = LinearProblem([[9.0, 0.0], [0.0, 9.0]], 0.1)
    with pytest.warns(ReachWarning, match="has slopes of 81, and those of net are at most 3.88"):
        fit(net, "approximation", GAUSSIAN, problem, steps=50, learning_rate=0.5)
    assert float(net.block_bounds().max()) <= net.lipschitz * (1 + 1e-6)


# Failures


def failing_after(calls: int, value: float = 1e200) -> object:
    """A prior whose points become so large after some batches that their squares overflow, or NaN."""

    class Failing:
        counter = itertools.count()

        def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
            points = torch.randn(count, 2, generator=generator, dtype=torch.float64)
            return points if next(self.counter) < calls else points * value

    return Failing()


@pytest.mark.parametrize("loss", ["approximation", "log_det", "divergence"])
def test_a_loss_that_is_not_a_number_raises_training_error_with_the_step(loss):
    with pytest.raises(invlib.TrainingError, match=f"the {loss} loss became .*(nan|inf).* after 3 steps"):
        fit(small(), loss, failing_after(3), steps=5, batch_size=8)


def test_data_that_are_too_large_end_reconstruction_training_in_an_error_that_names_them():
    with pytest.raises(ValueError, match="z must not exceed 1e\\+150 in size"):
        fit(small(), "reconstruction", failing_after(3), steps=5, batch_size=8)


@pytest.mark.parametrize("loss", STRATEGIES)
def test_samples_that_are_not_finite_are_refused(loss):
    with pytest.raises(ValueError, match="prior must return finite samples"):
        fit(small(), loss, failing_after(3, torch.nan), steps=5, batch_size=8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("learning_rate", [1e12, 1e25])
@pytest.mark.parametrize("loss", ["divergence", "log_det"])
def test_a_learning_rate_that_blows_up_ends_in_training_error_or_a_finite_loss(dtype, learning_rate, loss):
    """Never in an error of the linear algebra underneath."""
    try:
        history = fit(small(None, dtype), loss, steps=10, batch_size=8, learning_rate=learning_rate)
    except invlib.TrainingError:
        return
    assert bool(torch.isfinite(history.loss).all())


def test_parameters_that_are_not_a_number_end_in_a_training_error_with_the_step():
    """The spectral norms of such weights fail in the linear algebra underneath; the step is known nevertheless."""
    net = small()

    class Spoiling:  # spoils the weights before the third batch
        counter = itertools.count()

        def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
            if next(self.counter) == 2:
                net.weights[1].data.fill_(torch.nan)
            return torch.randn(count, 2, generator=generator, dtype=torch.float64)

    with pytest.raises(invlib.TrainingError, match=r"the divergence loss .* after 2 steps"):
        fit(net, "divergence", Spoiling(), steps=5, batch_size=8)


def test_training_error_names_every_member():
    with pytest.raises(invlib.TrainingError, match=r"became \[(nan|inf), (nan|inf)\] after 0 steps"):
        fit(small(2), "divergence", failing_after(0), steps=5, batch_size=8)


# Any other loss


def quadratic(net: torch.nn.ParameterList, targets: Tensor):
    return lambda step: (net[0] - targets).square().sum((-2, -1))


@pytest.mark.parametrize("members", [1, 3])
def test_minimize_finds_the_minimum_of_any_loss(members):
    targets = oracles.randn(members, 4, 3, seed=1)
    net = torch.nn.ParameterList([torch.zeros_like(targets)])
    history = minimize(net, quadratic(net, targets), 300)
    torch.testing.assert_close(net[0].detach(), targets, rtol=1e-3, atol=1e-3)
    assert history.loss.shape == (300, members)
    assert history.learning_rate.max() == pytest.approx(6e-2, rel=1e-2)
    assert history.minimum is None


def test_minimize_hands_each_step_its_number_and_names_the_loss_in_errors():
    net, steps = torch.nn.ParameterList([torch.ones(2, 2)]), []

    def loss(step: int) -> Tensor:
        steps.append(step)
        return net[0].sum() / (3 - step)

    with pytest.raises(TrainingError, match=r"^my loss became .* after 3 steps$"):
        minimize(net, loss, 5, name="my loss")
    assert steps == [0, 1, 2, 3]
