"""Standard variables: networks around Wiener's filter, and how they are trained."""

import copy

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor

import invlib
from invlib import GaussianMixture, IResNet, LinearProblem, LogisticPrior, Prior, QuasiRandom, Samples
from invlib.sampling import BITS
from invlib.standard import StandardVariables, moments, shrunk_covariance
from invlib.training import PLAIN, STANDARD

F32, F64 = torch.float32, torch.float64
PRIOR = oracles.random_mixture(3, 2, seed=1)
PROBLEM = LinearProblem(oracles.random_operator(2, 3, seed=2), 0.4)  # not injective
LOSSES = ("approximation", "reconstruction", "log_det", "divergence")


def build(problem=PROBLEM, prior=PRIOR, seed=0, **options) -> IResNet:
    options = {"width": 8, "dtype": F64, "generator": oracles.generator(seed), **options}
    return IResNet.for_problem(problem, prior, **options)


def with_identity_core(net: IResNet) -> IResNet:
    with torch.no_grad():
        net.weights[-1].zero_()
        net.biases[-1].zero_()
    return net


def wiener(problem: LinearProblem, mean: np.ndarray, covariance: np.ndarray, noise_std: float, z: Tensor) -> Tensor:
    """The best affine estimate of x from y = A x + noise, by the textbook formula for y, not for z."""
    A, z = problem.operator.numpy(), z.numpy()
    gain = covariance @ A.T @ np.linalg.inv(A @ covariance @ A.T + noise_std**2 * np.eye(len(A)))
    y = z @ np.linalg.pinv(A)  # z = A* y; what of y is lost is orthogonal to the range of A
    return torch.from_numpy(mean + (y - mean @ A.T) @ gain.T)


def data(problem: LinearProblem, prior: Prior, count: int, seed: int = 3) -> Tensor:
    x = prior.sample(count, generator=oracles.generator(seed))
    return problem.normal_data(problem.measure(x, generator=oracles.generator(seed + 1)))


def symmetric_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T


# Wiener's filter


@pytest.mark.parametrize("strength", [None, 0.9])
def test_around_the_identity_the_inverse_is_wieners_filter(strength):
    net, z = with_identity_core(build(strength=strength)), data(PROBLEM, PRIOR, 50)
    mean, covariance = PRIOR.mean.numpy(), PRIOR.covariance.numpy()
    expected = wiener(PROBLEM, mean, covariance, strength or PROBLEM.noise_std, z)
    torch.testing.assert_close(net.inverse(z).detach(), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(net(expected).detach(), z, rtol=1e-9, atol=1e-9)


def test_for_a_gaussian_prior_that_is_the_posterior_mean():
    prior = GaussianMixture([1.0], PRIOR.means[:1], PRIOR.covariances[:1])
    net, z = with_identity_core(build(prior=prior)), data(PROBLEM, prior, 50)
    torch.testing.assert_close(net.inverse(z).detach(), invlib.posterior_mean(PROBLEM, prior, z), rtol=1e-8, atol=1e-8)
    result = invlib.reconstruct(net, PROBLEM, z[:5])
    expected = invlib.posterior_covariance(PROBLEM, prior, z[:5])
    torch.testing.assert_close(result.covariance, expected, rtol=1e-8, atol=1e-10)


def test_the_size_of_data_is_their_distance_from_the_mean():
    """The mean is 5 away from zero; near it, it is what moves the core by one."""
    standard = build(prior=GaussianMixture([1.0], [[3.0, 4.0, 0.0]], torch.eye(3)[None])).standard
    centre = PROBLEM.normal_operator @ torch.tensor([3.0, 4.0, 0.0], dtype=F64)
    far = 1e3 * torch.eye(3, dtype=F64)
    torch.testing.assert_close(standard.size((centre + far)[None])[0], torch.full((3,), 1e3, dtype=F64))
    torch.testing.assert_close(standard.size(centre[None, None])[0], standard.last.limits[1], rtol=1e-12, atol=0)


def test_members_have_filters_of_their_own():
    problems = [PROBLEM, LinearProblem(oracles.random_operator(4, 3, seed=5), 0.2)]
    priors = [PRIOR, LogisticPrior([0.3, 1.0, 2.0])]
    strengths = [0.3, 0.7]
    net = with_identity_core(build(problems, priors, members=2, strength=strengths))
    z = torch.stack([data(*pair, 20) for pair in zip(problems, priors, strict=True)])
    found = net.inverse(z).detach()
    for e in range(2):
        mean, covariance = priors[e].mean.numpy(), priors[e].covariance.numpy()
        expected = wiener(problems[e], mean, covariance, strengths[e], z[e])
        torch.testing.assert_close(found[e], expected, rtol=1e-8, atol=1e-8)


def test_the_core_sees_points_of_mean_zero_and_of_size_one():
    mean, covariance = torch.tensor([1e3, -2e3]), torch.tensor([[4e4, 1e4], [1e4, 9e4]])
    prior = GaussianMixture([1.0], mean[None], covariance[None])
    net = build(LinearProblem([[1e-3, 2e-3], [0.0, 5e-4]], 0.05), prior)
    x = prior.sample(20_000, generator=oracles.generator(6))
    standard = net.standard.first.value(x[None])[0]
    assert float(standard.mean(0).abs().max()) < 0.05
    assert float(standard.square().mean()) == pytest.approx(1.0, abs=0.03)


def test_at_the_start_a_network_is_close_to_the_filter():
    net, z = build(), data(PROBLEM, PRIOR, 200)
    filtered = with_identity_core(copy.deepcopy(net)).inverse(z).detach()
    spread = float((filtered - PRIOR.mean).square().mean().sqrt())
    assert 0 < float((net.inverse(z).detach() - filtered).square().mean().sqrt()) < 0.5 * spread


# Moments


def test_moments_are_the_priors_own_where_it_knows_them():
    for prior in (PRIOR, LogisticPrior([0.3, 1.0, 2.0])):
        mean, covariance = moments(prior, 3)
        assert torch.equal(mean, prior.mean)
        assert torch.equal(covariance, prior.covariance)


class Known:
    """A sampler without anything else."""

    def __init__(self, prior: Prior, quasi_random: bool) -> None:
        self.prior, self.dim = prior, prior.dim
        if quasi_random:
            self.from_uniform = prior.from_uniform

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        return self.prior.sample(count, generator=generator)


@pytest.mark.parametrize(("quasi_random", "tolerance"), [(True, 0.01), (False, 0.06)])
def test_moments_of_another_prior_come_from_its_points_without_touching_the_generator(quasi_random, tolerance):
    state = torch.get_rng_state()
    mean, covariance = moments(Known(PRIOR, quasi_random), 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert float((mean - PRIOR.mean).abs().max()) < tolerance
    assert float((covariance - PRIOR.covariance).abs().max()) < tolerance * float(PRIOR.covariance.max())


def test_given_moments_replace_those_of_the_prior():
    prior = Prior.from_log_density(3, lambda x: -x.cosh().log().sum(-1))  # cannot be sampled
    mean, covariance = torch.tensor([1.0, 2.0, 3.0]), torch.diag(torch.tensor([1.0, 2.0, 4.0]))
    net, z = build(prior=prior, mean=mean, covariance=covariance), data(PROBLEM, PRIOR, 20)
    expected = wiener(PROBLEM, mean.double().numpy(), covariance.double().numpy(), 0.4, z)
    torch.testing.assert_close(with_identity_core(net).inverse(z).detach(), expected, rtol=1e-8, atol=1e-8)
    half = build(mean=mean)
    torch.testing.assert_close(half.standard.mean[0], mean.double())
    assert torch.equal(half.standard.root, build().standard.root)


def test_the_covariance_of_few_samples_is_shrunk_and_that_of_many_is_not():
    exact = torch.diag(torch.linspace(0.5, 1.5, 30, dtype=F64))
    errors = {}
    for count in (20, 20_000):
        points = oracles.randn(count, 30, seed=7) * exact.diagonal().sqrt()
        empirical = torch.from_numpy(np.cov(points.numpy().T, bias=True))
        shrunk = shrunk_covariance(points)
        errors[count] = float((shrunk - exact).norm()), float((empirical - exact).norm())
        assert float(torch.linalg.eigvalsh(shrunk)[0]) > 0.2
        torch.testing.assert_close(shrunk.trace(), empirical.trace())
    assert errors[20][0] < 0.4 * errors[20][1]
    assert errors[20_000][0] == pytest.approx(errors[20_000][1], rel=0.1)


def test_samples_in_a_subspace_have_a_filter():
    points = oracles.randn(200, 2, seed=8) @ oracles.randn(2, 5, seed=9)
    problem = LinearProblem(torch.eye(5), 0.3)
    net = with_identity_core(build(problem, Samples(points, held_out=0.1)))
    x = oracles.randn(500, 2, seed=10) @ oracles.randn(2, 5, seed=9)
    z = problem.normal_data(problem.measure(x, generator=oracles.generator(11)))
    error = float((net.inverse(z).detach() - x).square().mean().sqrt())
    assert error < 0.22  # of 0.30; projecting onto the plane leaves 0.19


# Training


@pytest.mark.parametrize("loss", LOSSES)
@torch.no_grad()
def test_the_loss_of_train_is_that_of_the_core(loss):
    """The first loss of the history, against the loss in standard variables, written down anew."""
    net = build()
    points = QuasiRandom(PRIOR, members=1, noise_dim=3, shift="digital", generator=oracles.generator(13))
    x, noise = (part[0] for part in points.draw_with_noise(8))
    P, c, H = net.standard.wiener[0], float(net.standard.scale), PROBLEM.normal_operator
    root = symmetric_root(P)
    values, vectors = torch.linalg.eigh(H)
    z = x @ H + (loss == "reconstruction") * 0.4 * (noise * values.clamp_min(0).sqrt()) @ vectors.T
    phi, jacobian = net.forward_and_jacobian(x)

    inverse_root = torch.linalg.inv(root)
    core, core_jacobian = (phi - z) @ inverse_root / c, inverse_root @ jacobian @ inverse_root
    misfit = 0.5 * core.square().sum(-1).mean() + 0.5 * 0.4**2 * torch.trace(torch.linalg.inv(P) @ H) / c**2
    euclidean = 0.5 * (phi - z).square().sum(-1).mean() + 0.5 * 0.4**2 * torch.trace(H)
    expected = {
        "approximation": misfit,
        "divergence": misfit - 0.4**2 / c**2 * core_jacobian.diagonal(dim1=-2, dim2=-1).sum(-1).mean(),
        "reconstruction": 0.5 * ((net.inverse(z) - x) @ root / c).square().sum(-1).mean(),
        "log_det": euclidean - 0.4**2 * torch.linalg.slogdet(jacobian).logabsdet.mean(),
    }
    history = invlib.train(net, PROBLEM, PRIOR, loss, steps=1, batch_size=8, generator=oracles.generator(13))
    assert float(history.loss[0]) == pytest.approx(float(expected[loss]), rel=1e-6)


@pytest.mark.parametrize("loss", ["approximation", "divergence"])
def test_the_known_minimum_belongs_to_the_same_map_in_every_norm(loss):
    """Theorem 2 in the norm W: the loss of a network exceeds the minimum by half its squared W-distance to it."""
    net = build()
    for metric in (None, torch.eye(3, dtype=F64), net.standard.wiener[0].inverse()):
        twin = copy.deepcopy(net)
        options = {"steps": 1, "batch_size": 2**13, "generator": oracles.generator(14), "metric": metric}
        history = invlib.train(twin, PROBLEM, PRIOR, loss, **options)
        W = net.standard.metric(loss)[0] if metric is None else metric
        x = PRIOR.sample(100_000, generator=oracles.generator(15))
        target = x @ PROBLEM.normal_operator
        if loss == "divergence":
            target = target - 0.4**2 * PRIOR.score(x)
        difference = net(x).detach() - target
        distance = 0.5 * ((difference @ W) * difference).sum(-1).mean()
        assert float(history.excess[0]) == pytest.approx(float(distance), rel=0.05)


def test_the_reconstruction_in_any_norm_has_the_posterior_mean_as_its_minimizer():
    """In a norm W, the excess over the loss of the mean is half the squared W-distance to it."""
    prior = GaussianMixture([1.0], torch.zeros(1, 2), torch.eye(2)[None])
    problem = LinearProblem([[1.0, 0.3], [0.0, 0.6]], 0.5)
    net, x = build(problem, prior), prior.sample(200_000, generator=oracles.generator(16))
    z = problem.normal_data(problem.measure(x, generator=oracles.generator(17)))
    mean = invlib.posterior_mean(problem, prior, z)
    W = torch.tensor([[3.0, 1.0], [1.0, 0.5]], dtype=F64)
    with torch.no_grad():
        loss = float(invlib.reconstruction_loss(net, x, z, metric=W))
        least = 0.5 * float((((mean - x) @ W) * (mean - x)).sum(-1).mean())
        difference = net.inverse(z) - mean
    distance = 0.5 * float(((difference @ W) * difference).sum(-1).mean())
    assert loss - least == pytest.approx(distance, rel=0.05)


def test_the_batches_grow_earlier_and_those_of_plain_networks_as_before():
    sizes = [STANDARD.growth(step, 20) for step in range(20)]
    assert sizes == [1] * 2 + [4] * 8 + [8] * 10
    assert [PLAIN.growth(step, 5) for step in range(5)] == [1, 1, 1, 4, 4]
    counted = []

    class Counting(Known):
        def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
            counted.append(count)
            return super().sample(count, generator=generator)

    prior = Counting(PRIOR, quasi_random=False)
    net = build(prior=prior)
    counted.clear()
    invlib.train(net, PROBLEM, prior, steps=10, batch_size=4)
    assert counted == [4] + [16] * 4 + [32] * 5


@pytest.mark.parametrize("loss", ["approximation", "divergence", "reconstruction"])
def test_single_precision_stands_extreme_conditions_and_offsets(loss):
    """The condition of P is 10^8, and the mean is 1,000 standard deviations away."""
    problem = LinearProblem([[1.0, 0.0], [1e-3, 1e-5]], 1e-4)
    prior = GaussianMixture([1.0], [[1000.0, 2000.0]], torch.eye(2)[None])
    losses = []
    for dtype in (F32, F64):
        net = IResNet.for_problem(problem, prior, width=8, dtype=F32, generator=oracles.generator(1)).to(dtype)
        options = {"steps": 5, "batch_size": 64, "generator": oracles.generator(2)}
        options |= {"optimizer": torch.optim.Adam, "learning_rate": 1e-2}
        losses.append(invlib.train(net, problem, prior, loss, **options).loss.double())
    assert float(torch.linalg.cond(net.standard.wiener[0])) > 5e7
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-4)


def test_the_core_is_the_network_without_its_fixed_layers():
    net = build(members=2)
    core, x = net.core(), oracles.randn(2, 5, 3, seed=29)
    assert core.standard is None
    assert net.standard is not None
    assert all(ours is theirs for ours, theirs in zip(core.parameters(), net.parameters(), strict=True))
    expected = net.standard.last.value(core(net.standard.first.value(x)))
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dim", [3, 20])
def test_training_follows_units_and_offsets(dim):
    """x in other units and with an offset, y in other units: the same training, up to rounding.

    By Adam: SOAP turns to eigenvectors of the gradients, which rounding chooses where their eigenvalues agree.
    """
    prior = oracles.random_mixture(dim, 2, seed=18)
    operator = oracles.random_operator(dim, dim, seed=19)
    offset = oracles.randn(dim, seed=20)
    moved = GaussianMixture(prior.weights, 50 * (prior.means + offset), 2500 * prior.covariances)
    pairs = (LinearProblem(operator, 0.3), prior), (LinearProblem(operator / 1e4, 0.3 / 200), moved)
    for loss in ("divergence", "reconstruction"):
        results = []
        for problem, law in pairs:
            net = build(problem, law)
            options = {"steps": 5, "batch_size": 32, "generator": oracles.generator(21)}
            options |= {"optimizer": torch.optim.Adam, "learning_rate": 1e-2}
            history = invlib.train(net, problem, law, loss, **options)
            assert history.loss.isfinite().all()
            results.append((history.loss, [p.detach() for p in net.parameters()]))
        torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-3, atol=1e-4)


def test_the_divergence_is_estimated_in_the_standard_variables():
    """A core that is the identity has no variance there, however skew the operator is."""
    problem = LinearProblem(torch.diag(torch.logspace(0, -3, 20, dtype=F64)), 0.01)
    prior = GaussianMixture([1.0], torch.zeros(1, 20), torch.eye(20)[None])
    net, x = with_identity_core(build(problem, prior)), oracles.randn(50, 20, seed=22)
    P = net.standard.wiener[0]
    for metric in (None, net.standard.metric("divergence")[0]):
        _, estimate = net.estimate_divergence(x, metric=metric, generator=oracles.generator(23))
        exact = P.trace() if metric is None else (metric @ P).trace()
        torch.testing.assert_close(estimate.detach(), exact.expand(50), rtol=1e-8, atol=0)


def test_an_inverse_in_small_units_is_as_exact_as_in_large_ones():
    """A tolerance relative to max(1, |z|) would ask for nothing where z is small."""
    problem = LinearProblem(1e-4 * oracles.random_operator(3, 3, seed=24), 1e-5)
    net, x = build(problem), PRIOR.sample(100, generator=oracles.generator(25))
    with torch.no_grad():
        for tol, error in ((1e-3, 1e-3), (1e-10, 1e-9)):
            assert float((net.inverse(net(x), tol=tol) - x).abs().max()) < error * float(x.abs().max())


def test_a_checkpoint_goes_on_with_the_same_digital_shifts(tmp_path):
    results = []
    for stop in (None, 3):
        net = build()
        options = {"steps": 6, "batch_size": 8, "checkpoint": tmp_path / f"{stop}.pt"}
        callback = None if stop is None else lambda now: now.step == 3
        invlib.train(net, PROBLEM, PRIOR, generator=oracles.generator(26), callback=callback, **options)
        if stop is not None:
            net = build()
            invlib.train(net, PROBLEM, PRIOR, generator=oracles.generator(26), **options)
        results.append([parameter.detach() for parameter in net.parameters()])
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_one_problem_drawn_at_random_ends_near_its_map():
    """Fast: a fifth of the steps of the benchmark `random_problems`, and one of its problems."""
    rotation = torch.linalg.qr(oracles.randn(2, 2, seed=27)).Q
    problem = LinearProblem(0.5 * torch.diag(torch.tensor([1.0, 0.3], dtype=F64)) @ rotation, 0.4)
    prior = GaussianMixture(
        [0.3, 0.5, 0.2],
        torch.tensor([[8.0, 3.0], [6.0, 4.5], [5.5, 2.5]]),
        torch.stack([torch.eye(2), 1.5 * torch.eye(2), 0.7 * torch.eye(2)]),
    )
    z = data(problem, prior, 500)
    mode = invlib.map_estimate(problem, prior, z)
    distance = float((mode - invlib.posterior_mean(problem, prior, z)).square().sum(-1).mean().sqrt())
    net = IResNet.for_problem(problem, prior, generator=oracles.generator(28))
    invlib.train(net, problem, prior, steps=400, generator=oracles.generator(28))
    error = float((net.inverse(z).detach() - mode).square().sum(-1).mean().sqrt())
    assert error < 0.25 * distance


# Digital shifts


def test_digitally_shifted_points_stay_a_net():
    """Each member's first 2^k points have one in each of the 2^k intervals; shifts modulo one do not keep that."""
    prior = LogisticPrior([1.0, 1.0])
    for shift, even in (("digital", True), ("modulo", False)):
        points = QuasiRandom(prior, seed=0, members=4, shift=shift)
        cells = [(torch.special.expit(member) * 64).long() for member in points.draw(64)]
        counts = torch.stack([torch.bincount(cell[:, i], minlength=64) for cell in cells for i in range(2)])
        assert bool((counts == 1).all()) == even


def test_digital_shifts_differ_between_members_and_come_from_the_generator():
    prior = LogisticPrior([1.0])
    first, again = (QuasiRandom(prior, members=2, shift="digital", generator=oracles.generator(1)) for _ in range(2))
    assert first.shifts.dtype == torch.int64
    assert int(first.shifts.max()) < 2**BITS
    x = first.draw(16)
    assert torch.equal(again.draw(16), x)
    assert not torch.equal(x[0], x[1])
    other = QuasiRandom(prior, members=2, shift="digital", generator=oracles.generator(2))
    other.load_state_dict(first.state_dict())
    assert torch.equal(other.draw(8), first.draw(8))
    with pytest.raises(ValueError, match=r"^state must have shifts of shape and dtype"):
        QuasiRandom(prior, members=2, generator=oracles.generator(1)).load_state_dict(first.state_dict())


# State


def test_a_plain_network_takes_over_the_variables_from_a_state_and_gives_them_up():
    net, x = build(), PRIOR.sample(5, generator=oracles.generator(30))
    plain = IResNet(3, width=8, dtype=F64, generator=oracles.generator(31))
    before, state = plain(x), copy.deepcopy(plain.state_dict())
    plain.load_state_dict(net.state_dict())
    assert torch.equal(plain(x), net(x))
    assert "in standard variables" in repr(plain)
    net.load_state_dict(state)
    assert net.standard is None
    assert torch.equal(net(x), before)


def test_a_state_without_the_entry_is_that_of_a_plain_network():
    net = IResNet(3, width=8, dtype=F64, generator=oracles.generator(31))
    state = net.get_extra_state()
    del state["standard"]
    net.set_extra_state(state)
    assert net.standard is None


def test_the_constructor_of_plain_networks_draws_the_same_weights():
    plain = IResNet(3, width=8, dtype=F64, generator=oracles.generator(0))
    net = build()
    for ours, theirs in zip(net.biases, plain.biases, strict=True):
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(net.weights[2] * 22.5, plain.weights[2])


@pytest.mark.parametrize(("dim", "norm", "rate"), [(1, 0.1, 6e-2), (2, 0.1, 6e-2), (8, 0.025, 3e-2)])
def test_last_weights_and_learning_rate_fall_with_the_dimension(dim, norm, rate):
    problem, prior = LinearProblem(torch.eye(dim), 0.3), LogisticPrior([1.0] * dim)
    net = build(problem, prior)
    torch.testing.assert_close(torch.linalg.svdvals(net.weights[-1])[..., 0], torch.full((1, 3), norm, dtype=F64))
    assert STANDARD.peak(dim) == pytest.approx(rate)
    assert PLAIN.peak(dim) == 6e-2
    options = {"steps": 20, "batch_size": 4, "generator": oracles.generator(1)}
    assert float(invlib.train(net, problem, prior, **options).learning_rate.max()) == pytest.approx(rate, rel=1e-6)


# Bad arguments

BAD = {
    "no problem": (TypeError, r"^problem must be a LinearProblem", {"problem": 3}),
    "problems without members": (ValueError, r"^problem must be one entry", {"problem": [PROBLEM, PROBLEM]}),
    "problems of two dimensions": (
        ValueError,
        r"^problem must act on the same space",
        {"problem": [PROBLEM, LinearProblem(torch.eye(2), 0.1)], "members": 2},
    ),
    "prior of another dimension": (ValueError, r"^prior must live on R\^3", {"prior": LogisticPrior([1.0])}),
    "no prior": (TypeError, r"^prior must have a method sample", {"prior": 3}),
    "priors without members": (ValueError, r"^prior must be one, or one for each of the 1", {"prior": [PRIOR, PRIOR]}),
    "negative strength": (ValueError, r"^strength must be a positive number", {"strength": -1.0}),
    "strength in words": (ValueError, r"^strength must be one entry", {"strength": "large"}),
    "mean of another shape": (ValueError, r"^mean must have shape \(3,\) or \(1, 3\)", {"mean": [1.0, 2.0]}),
    "mean is nan": (ValueError, r"^mean must be finite", {"mean": [1.0, 2.0, float("nan")]}),
    "covariance of another shape": (ValueError, r"^covariance must have shape \(3, 3\)", {"covariance": torch.eye(2)}),
    "singular covariance": (
        ValueError,
        r"^covariance must be positive definite",
        {"covariance": torch.ones(3, 3)},
    ),
    "asymmetric covariance": (
        ValueError,
        r"^covariance must be symmetric",
        {"covariance": torch.eye(3) + torch.ones(3, 3).triu(1)},
    ),
    "covariance of extreme condition": (
        ValueError,
        r"^covariance must leave H",
        {"covariance": torch.diag(torch.tensor([1.0, 1.0, 1e-20], dtype=F64))},
    ),
    "one sample": (ValueError, r"^the covariance of prior must be positive definite", {"prior": Samples([[1, 2, 3]])}),
    "prior without samples": (
        TypeError,
        r"^prior must give sample",
        {"prior": Prior.from_log_density(3, lambda x: -x.square().sum(-1))},
    ),
    "no members": (ValueError, r"^members must be an integer >= 1", {"members": 0}),
    "no blocks": (ValueError, r"^blocks must be an integer >= 1", {"blocks": 0}),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_arguments_are_named(kind):
    error, message, options = BAD[kind]
    with pytest.raises(error, match=message):
        build(**options)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        (r"^metric must be None with whiten=True", {"metric": torch.eye(2), "whiten": True}),
        (r"^metric must be a tensor of shape \(2, 2\), got", {"metric": torch.eye(3)}),
        (r"^metric must be a tensor of shape", {"metric": "euclidean"}),
        (r"^metric must be positive definite", {"metric": -torch.eye(2)}),
        (r"^metric must be None for a loss of your own", {"metric": torch.eye(2), "loss": lambda net, x, z: x.mean()}),
    ],
)
def test_bad_metrics_of_train_are_named(message, options):
    net, prior = oracles.random_network(2, seed=1), oracles.random_mixture(2, 2, seed=2)
    with pytest.raises(ValueError, match=message):
        invlib.train(net, LinearProblem(torch.eye(2), 0.3), prior, steps=1, **options)


def test_a_shift_of_another_name_is_named():
    with pytest.raises(ValueError, match=r"^shift must be 'modulo' or 'digital', got 'xor'"):
        QuasiRandom(PRIOR, seed=0, members=2, shift="xor")


def test_data_that_do_not_fit_are_refused_by_the_network():
    net = build()
    assert isinstance(net.standard, StandardVariables)
    assert net.dim == net.standard.dim == 3
    with pytest.raises(ValueError, match=r"^z must have shape"):
        net.inverse(torch.zeros(4, 2))
