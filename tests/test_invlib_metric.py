"""Tests of losses measured in the norm of a matrix W, of whitened training, and of the known minima."""

import copy

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor

import invlib
from invlib import DensityPrior, GaussianMixture, IResNet, LinearProblem, LogisticPrior

F64 = torch.float64
LOSSES = ["approximation", "log_det", "divergence"]


def evaluate(name: str, net: IResNet, x: Tensor, z: Tensor, strength: object = 0.4, **options: object) -> Tensor:
    arguments = () if name == "approximation" else (strength,)
    return getattr(invlib, f"{name}_loss")(net, x, z, *arguments, **options)


def positive_definite(dim: int, seed: int) -> Tensor:
    factor = oracles.random_operator(dim, dim, seed=seed)
    return factor @ factor.T


def direct(name: str, net: IResNet, x: Tensor, z: Tensor, strength: float, metric: np.ndarray) -> float:
    """The formulas of the mathematics, point by point, with Jacobians by torch.func."""
    parameters = [p.detach() for p in net.parameters()]
    jacobians = oracles.plain_jacobians(net, x).numpy()
    total = 0.0
    for point, datum, jacobian in zip(x, z, jacobians, strict=True):
        misfit = (oracles.plain_network(parameters, point, net.lipschitz) - datum).numpy()
        total += 0.5 * misfit @ metric @ misfit
        if name == "log_det":
            total -= strength**2 * np.linalg.slogdet(jacobian)[1]
        if name == "divergence":
            total -= strength**2 * np.trace(metric @ jacobian)
    return total / len(x)


# Losses


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("dim", "width"), [(1, 8), (2, 8), (3, 2)])
def test_a_loss_in_a_metric_is_its_formula(name, dim, width):
    net = oracles.random_network(dim, seed=dim, width=width, gain=2.0)
    x, z, metric = oracles.randn(12, dim, seed=2), oracles.randn(12, dim, seed=3), positive_definite(dim, 4)
    loss = evaluate(name, net, x, z, metric=metric)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(direct(name, net, x, z, 0.4, metric.numpy()), rel=1e-11)
    identity = evaluate(name, net, x, z, metric=torch.eye(dim, dtype=F64))
    assert identity.item() == pytest.approx(evaluate(name, net, x, z).item(), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shared", [True, False])
def test_every_member_has_its_own_metric(name, shared):
    net = oracles.random_network(2, seed=5, members=3)
    x, z = oracles.randn(3, 9, 2, seed=6), oracles.randn(3, 9, 2, seed=7)
    strengths = torch.tensor([0.2, 0.5, 0.9], dtype=F64)
    metrics = torch.stack([positive_definite(2, 8 + e) for e in range(3)])
    loss = evaluate(name, net, x, z, strengths, metric=metrics[0] if shared else metrics)
    assert loss.shape == (3,)
    for e in range(3):
        metric = metrics[0 if shared else e].numpy()
        expected = direct(name, oracles.member(net, e), x[e], z[e], float(strengths[e]), metric)
        assert loss[e].item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", LOSSES)
def test_further_leading_axes_are_refused_or_keep_strengths_and_metrics_with_their_members(name, exact, metric):
    """x of shape (E, C, B, n) with C = E: a strength or a metric must not be applied along C."""
    net = oracles.random_network(2, seed=46, members=2)
    x, z = oracles.randn(2, 2, 5, 2, seed=47), oracles.randn(2, 2, 5, 2, seed=48)
    strengths = torch.tensor([0.2, 0.9], dtype=F64)
    metrics = torch.stack([positive_definite(2, 49), 3 * positive_definite(2, 50)])
    net.exact = exact
    options = {} if name == "approximation" else {"generator": oracles.generator(0)}
    if metric:
        options["metric"] = metrics
    try:
        loss = evaluate(name, net, x, z, strengths, **options)
    except ValueError:
        return
    assert loss.shape == (2, 2)
    if not exact and name != "approximation":
        return  # other signs
    for e in range(2):
        for c in range(2):
            weight = metrics[e].numpy() if metric else np.eye(2)
            expected = direct(name, oracles.member(net, e), x[e, c], z[e, c], float(strengths[e]), weight)
            assert loss[e, c].item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_of_a_loss_in_a_metric_equals_finite_differences(name):
    net = oracles.random_network(2, seed=10, gain=2.0)
    x, z, metric = oracles.randn(12, 2, seed=11), oracles.randn(12, 2, seed=12), positive_definite(2, 13)
    parameters = list(net.parameters())
    gradients = torch.autograd.grad(evaluate(name, net, x, z, metric=metric), parameters)
    for index, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        direction = oracles.randn(*parameter.shape, seed=14 + index)
        slope = oracles.directional_difference(
            lambda: evaluate(name, net, x, z, metric=metric), parameter, direction, 1e-6
        )
        assert (gradient * direction).sum().item() == pytest.approx(float(slope), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("members", [None, 2])
def test_with_the_metric_of_the_noise_the_losses_are_those_of_the_y_form(members):
    """phi = A* psi and W = H^{-1}: the misfit is |psi - y|, the divergence tr(A^{-1} D psi)."""
    operator = oracles.random_operator(3, 3, seed=20)
    psi = oracles.random_network(3, seed=21, members=members, gain=2.0)
    net = oracles.with_output(psi, operator.T)
    shape = (12, 3) if members is None else (members, 12, 3)
    x, y, metric = (
        oracles.randn(*shape, seed=22),
        oracles.randn(*shape, seed=23),
        torch.linalg.inv(operator.T @ operator),
    )
    losses = {name: evaluate(name, net, x, y @ operator, 0.4, metric=metric) for name in LOSSES}
    for e in range(members or 1):
        single = psi if members is None else oracles.member(psi, e)
        xe, ye = (x, y) if members is None else (x[e], y[e])
        parameters = [p.detach() for p in single.parameters()]
        value = torch.stack([oracles.plain_network(parameters, point, single.lipschitz) for point in xe])
        jacobians = oracles.plain_jacobians(single, xe)
        misfit = 0.5 * float((value - ye).square().sum(-1).mean())
        trace = float(torch.einsum("ij,bji->b", torch.linalg.inv(operator), jacobians).mean())
        log_det = float(torch.linalg.slogdet(jacobians).logabsdet.mean()) + float(
            torch.linalg.slogdet(operator).logabsdet
        )
        found = {name: (loss if members is None else loss[e]).item() for name, loss in losses.items()}
        assert found["approximation"] == pytest.approx(misfit, rel=1e-10)
        assert found["divergence"] == pytest.approx(misfit - 0.16 * trace, rel=1e-10)
        assert found["log_det"] == pytest.approx(misfit - 0.16 * log_det, rel=1e-10)


def test_the_minimizer_of_the_divergence_loss_does_not_depend_on_the_metric():
    """Theorem 2: with weights of a quadrature rule, the loss of phi* + t v has slope zero at t = 0, for any W."""
    prior, problem = oracles.random_mixture(2, 2, seed=24), LinearProblem(oracles.random_operator(2, 2, seed=25), 0.4)
    axis = oracles.grid(2, 9.0, 361)
    mass = torch.from_numpy(np.exp(oracles.numpy_log_prob(prior, axis)) * (18 / 360) ** 2)
    x = torch.from_numpy(axis)
    kept = mass > 1e-18
    x, mass = x[kept], mass[kept]
    metric = positive_definite(2, 26)
    best_minus_data = -(0.4**2) * prior.score(x)
    direction = torch.stack([torch.sin(x[:, 0] + 2 * x[:, 1]), x[:, 0] * x[:, 1]], dim=-1)
    cosine = torch.cos(x[:, 0] + 2 * x[:, 1])
    trace = metric[0, 0] * cosine + metric[1, 0] * 2 * cosine + metric[0, 1] * x[:, 1] + metric[1, 1] * x[:, 0]
    slope = (mass * ((best_minus_data @ metric * direction).sum(-1) - 0.4**2 * trace)).sum()
    assert abs(float(slope)) < 1e-8
    assert problem.dim == 2


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("members", "bad"),
    [
        (None, torch.eye(3, dtype=F64)),
        (None, torch.ones(2, dtype=F64)),
        (None, torch.tensor(1.0, dtype=F64)),
        (None, torch.ones(2, 3, dtype=F64)),
        (None, torch.eye(2, dtype=F64).expand(3, 2, 2)),
        (None, [[1.0, 0.0], [0.0, 1.0]]),
        (3, torch.eye(3, dtype=F64)),
        (3, torch.eye(2, dtype=F64).expand(2, 2, 2)),
        (3, torch.eye(3, dtype=F64).expand(3, 3, 3)),
        (3, torch.eye(2, dtype=F64).expand(3, 1, 2, 2)),
    ],
)
def test_a_metric_of_another_shape_raises_whether_the_loss_is_exact_or_not(name, exact, members, bad):
    net = oracles.random_network(2, seed=27, members=members)
    x = torch.zeros(4, 2, dtype=F64) if members is None else torch.zeros(members, 4, 2, dtype=F64)
    net.exact = exact
    with pytest.raises(ValueError, match=r"^metric\b"):
        evaluate(name, net, x, x, metric=bad)


@pytest.mark.parametrize("bad", [torch.eye(3, dtype=F64), torch.ones(2, dtype=F64), [[1.0, 0.0], [0.0, 1.0]]])
def test_a_metric_of_another_shape_raises_in_the_estimate(bad):
    with pytest.raises(ValueError, match=r"^metric\b"):
        oracles.random_network(2, seed=28).estimate_divergence(torch.zeros(4, 2, dtype=F64), metric=bad)


# Training


class Perfect(IResNet):
    """A network that is the minimizer H x - strength^2 s(x) already, whatever its parameters."""

    def know(self, problem: LinearProblem, prior: object, strength: float) -> "Perfect":
        self.normal, self.prior, self.strength = problem.normal_operator, prior, strength
        return self

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.normal - self.strength**2 * self.score(x) + self.nothing()

    def forward_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hessian = self.prior.hessian(x) if self.strength else torch.zeros(2, 2, dtype=F64)
        return self(x), self.normal - self.strength**2 * hessian + self.nothing()

    def score(self, x: Tensor) -> Tensor:
        return self.prior.score(x)

    def nothing(self) -> Tensor:
        return 0.0 * sum(p.sum() for p in self.parameters())


PRIORS = {
    "Gaussian": GaussianMixture([1.0], [[0.3, -0.1]], [[[1.0, 0.4], [0.4, 0.7]]]),
    "mixture": oracles.random_mixture(2, 2, seed=30),
    "logistic": LogisticPrior([0.5, 0.8]),
    "density": DensityPrior(lambda x: -x.square().sum(-1).square() + x[..., 0], [-3.0, -3.0], [3.0, 3.0]),
}


def information(prior: object) -> np.ndarray:
    """E[s s*] by the trapezoidal rule, with scores by finite differences of log p."""
    if isinstance(prior, LogisticPrior):  # E tanh^2 / s^2 = 1 / (3 s^2), in closed form
        return np.diag(1 / (3 * prior.scales.numpy() ** 2))
    half = float(prior.box[1].max()) if isinstance(prior, DensityPrior) else 9.0
    points = oracles.grid(2, half, 301)
    mass = prior.log_prob(torch.from_numpy(points)).exp().numpy() * (2 * half / 300) ** 2
    kept = mass > 1e-20
    points, mass, step = points[kept], mass[kept], 1e-5
    score = []
    for unit in np.eye(2):
        above, below = (prior.log_prob(torch.from_numpy(points + t * unit)).numpy() for t in (step, -step))
        score.append((above - below) / (2 * step))
    return np.einsum("p,ip,jp->ij", mass, score, score)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("name", PRIORS)
def test_the_known_minimum_of_the_divergence_is_that_of_theorem_2(name, whiten):
    """Within 0.2 % of the part that depends on the prior: a mean over 2^16 quasi-random points."""
    problem, prior = LinearProblem(oracles.random_operator(3, 2, seed=31), 0.6), PRIORS[name]
    net = oracles.random_network(2, seed=32)
    options = {"strength": 0.5, "steps": 1, "batch_size": 4, "generator": oracles.generator(0), "whiten": whiten}
    history = invlib.train(net, problem, prior, "divergence", **options)
    h = problem.normal_operator.numpy()
    weight = np.linalg.inv(h) if whiten else np.eye(2)
    prior_part = 0.5 * 0.5**4 * np.trace(weight @ information(prior))
    expected = (0.5 * 0.6**2 - 0.5**2) * np.trace(weight @ h) - prior_part
    assert isinstance(history.minimum, float)
    assert history.minimum == pytest.approx(expected, abs=2e-3 * prior_part)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("name", ["Gaussian", "mixture", "logistic"])
def test_a_perfect_map_has_the_minimal_divergence_loss_in_training(name, whiten):
    """The mean over 64 batches of 256; the fourth moments of the score leave about one per mille."""
    problem, prior = LinearProblem(oracles.random_operator(2, 2, seed=33), 0.5), PRIORS[name]
    net = Perfect(2, blocks=1, width=4, dtype=F64, generator=oracles.generator(0)).know(problem, prior, 0.5)
    options = {"steps": 64, "batch_size": 256, "generator": oracles.generator(1), "whiten": whiten}
    history = invlib.train(net, problem, prior, "divergence", **options)
    assert float(history.loss.mean()) == pytest.approx(history.minimum, rel=0.005)


@pytest.mark.parametrize("whiten", [False, True])
def test_a_perfect_map_has_the_minimal_approximation_loss_in_training(whiten):
    problem, prior = LinearProblem(oracles.random_operator(3, 2, seed=34), 0.5), PRIORS["mixture"]
    net = Perfect(2, blocks=1, width=4, dtype=F64, generator=oracles.generator(0)).know(problem, prior, 0.0)
    history = invlib.train(net, problem, prior, "approximation", steps=3, generator=oracles.generator(1), whiten=whiten)
    expected = 0.5 * 0.25 * (2 if whiten else float(problem.normal_operator.trace()))
    assert history.minimum == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(history.loss.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("loss", ["approximation", "divergence"])
def test_the_minima_of_members_are_those_of_their_problems_and_strengths(loss, whiten):
    problems = [LinearProblem(oracles.random_operator(2, 2, seed=35 + e), 0.2 + 0.3 * e) for e in range(2)]
    strengths, prior = [0.3, 0.6], PRIORS["mixture"]
    options = {"steps": 1, "batch_size": 4, "whiten": whiten}
    net = oracles.random_network(2, seed=37, members=2)
    history = invlib.train(net, problems, prior, loss, strength=strengths, generator=oracles.generator(0), **options)
    assert history.minimum.shape == (2,)
    torch.testing.assert_close(history.excess + history.minimum, history.loss.double())
    for e in range(2):
        single = oracles.random_network(2, seed=37)
        alone = invlib.train(
            single, problems[e], prior, loss, strength=strengths[e], generator=oracles.generator(0), **options
        )
        assert float(history.minimum[e]) == pytest.approx(alone.minimum, rel=1e-12)


class SampleOnly:
    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        return PRIORS["mixture"].sample(count, generator=generator)


@pytest.mark.parametrize(
    ("loss", "prior"),
    [("log_det", PRIORS["mixture"]), ("reconstruction", PRIORS["mixture"]), ("divergence", SampleOnly())],
)
def test_an_unknown_minimum_is_none(loss, prior):
    net, problem = oracles.random_network(2, seed=38), LinearProblem(torch.eye(2), 0.3)
    history = invlib.train(net, problem, prior, loss, steps=1, batch_size=4, generator=oracles.generator(0))
    assert history.minimum is None
    assert history.excess is None


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("loss", LOSSES)
def test_whitened_training_minimizes_the_loss_in_the_metric_of_the_noise(loss, members):
    """The first loss: that of the losses module with W = H^{-1} at z = Hx, plus delta^2 n / 2 for the noise."""
    points = oracles.randn(9, 2, seed=39)

    class Fixed:
        def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
            return points

    problems = [LinearProblem(oracles.random_operator(3, 2, seed=40 + e), 0.3 + 0.2 * e) for e in range(members or 1)]
    net = oracles.random_network(2, seed=42, members=members)
    before = copy.deepcopy(net)
    given = problems if members else problems[0]
    options = {"steps": 1, "batch_size": 9, "generator": oracles.generator(0), "whiten": True}
    history = invlib.train(net, given, Fixed(), loss, **options)
    for e, problem in enumerate(problems):
        h = problem.normal_operator
        single = before if members is None else oracles.member(before, e)
        metric = torch.linalg.inv(h).numpy()
        expected = direct(loss, single, points, points @ h, problem.noise_std, metric) + problem.noise_std**2
        assert history.loss[0].reshape(-1)[e].item() == pytest.approx(expected, rel=1e-10)


def test_whitening_leaves_the_reconstruction_loss_alone():
    problem, prior = LinearProblem(oracles.random_operator(2, 2, seed=43), 0.3), PRIORS["mixture"]
    losses = []
    for whiten in (False, True):
        net = oracles.random_network(2, seed=44)
        options = {"steps": 3, "batch_size": 8, "generator": oracles.generator(0), "whiten": whiten}
        losses.append(invlib.train(net, problem, prior, "reconstruction", **options).loss)
    assert torch.equal(*losses)


@pytest.mark.parametrize("operator", [[[1.0, 0.5]], [[1.0, 2.0], [2.0, 4.0]]])
def test_whitening_needs_an_injective_operator(operator):
    net, problem = oracles.random_network(2, seed=45), LinearProblem(operator, 0.3)
    with pytest.raises(ValueError, match=r"^whiten must be False for an operator that is not injective"):
        invlib.train(net, problem, PRIORS["mixture"], "divergence", steps=1, whiten=True)


def test_whitening_and_the_output_operator_train_the_filter_of_small_eigenvalues():
    """diag(1, 1/8): h = 1 and 1/64. In the y-form both directions are learned to 6 % of the filter h + delta^2."""
    noise_std = 0.1
    problem = LinearProblem(np.diag([1.0, 1 / 8]), noise_std)
    prior = GaussianMixture([1.0], [[0.0, 0.0]], torch.eye(2)[None])
    test = prior.sample(500, generator=oracles.generator(1))
    wanted = test * torch.tensor([1.0, 1 / 64], dtype=F64) + noise_std**2 * test
    errors = {}
    for whiten in (True, False):
        operator = problem.operator.T if whiten else None
        net = IResNet(2, blocks=2, width=16, output_operator=operator, dtype=F64, generator=oracles.generator(0))
        options = {"steps": 250, "whiten": whiten, "generator": oracles.generator(2)}
        history = invlib.train(net, problem, prior, "divergence", **options)
        errors[whiten] = ((net(test) - wanted).square().mean(0) / wanted.square().mean(0)).sqrt().detach()
        assert float(history.loss[-50:].mean()) > history.minimum - 0.01 * abs(history.minimum)
    assert float(errors[True].max()) < 0.06
    assert float(errors[True][1]) < 0.5 * float(errors[False][1])
