"""Tests of what `train` is open for: losses, optimizers, stops, checkpoints, data sets; and of its errors."""

import copy
import os
import pickle
import signal
import sys

import oracles
import pytest
import torch
from torch import Tensor, nn

import invlib
from invlib import GaussianMixture, IResNet, LinearProblem, TrainingError
from invlib.history import History
from invlib.objective import Objective
from invlib.optimizers import SOAP
from invlib.samples import Samples
from invlib.sampling import QuasiRandom
from invlib.targets import ReachWarning
from invlib.training import minimize

STRATEGIES = ["approximation", "reconstruction", "log_det", "divergence"]
PROBLEM = LinearProblem([[1.0, 0.0], [0.0, 0.7]], noise_std=0.5)
PRIOR = oracles.random_mixture(2, 2, seed=1)


class SampleOnly:
    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        return PRIOR.sample(count, generator=generator)


SOURCES = {"mixture": PRIOR, "sample": SampleOnly(), "data": Samples(oracles.randn(30, 2, seed=2), held_out=0.3)}


def small(members: int | None = None, dtype: torch.dtype = torch.float64) -> IResNet:
    return IResNet(2, blocks=2, width=8, members=members, dtype=dtype, generator=oracles.generator(0))


def fit(net: nn.Module, loss: object = "divergence", prior: object = PRIOR, **options: object) -> History:
    settings = {"steps": 20, "batch_size": 8, "generator": oracles.generator(1)}
    return invlib.train(net, PROBLEM, prior, loss, **{**settings, **options})


def values(net: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in net.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def misfit(net: nn.Module, x: Tensor, z: Tensor) -> Tensor:
    return 0.5 * (net(x) - z).square().sum(-1).mean(-1)


def stop_at(step: int):
    return lambda now: now.step == step


# Three trials


def test_a_loss_of_ones_own_on_samples_of_ones_own_with_adam():
    """Least squares on noisy data: near Hx, the mean of z for each x."""
    samples = Samples(oracles.randn(200, 2, seed=3))
    net = small()
    history = fit(net, misfit, samples, steps=400, optimizer=torch.optim.Adam, learning_rate=1e-2, batch_size=50)
    x = samples.training
    expected = x @ PROBLEM.normal_operator
    error = (net(x).detach() - expected).square().mean().sqrt()
    assert float(error) < 0.15 * float(expected.square().mean().sqrt())
    assert history.minimum is None
    assert history.excess is None


def test_a_callback_sees_every_step_and_stops():
    net, seen = small(), []

    def watch(now: invlib.training.TrainingStep) -> bool:
        seen.append((now.step, now.steps, float(now.loss), now.learning_rate, now.net is net))
        return now.step == 7

    history = fit(net, callback=watch)
    assert history.stopped == "callback"
    assert history.kept == 7
    assert [entry[0] for entry in seen] == list(range(1, 8))
    assert [entry[2] for entry in seen] == history.loss.tolist()
    assert [entry[3] for entry in seen] == pytest.approx(history.learning_rate.tolist())
    assert all(entry[1] == 20 and entry[4] for entry in seen)


def test_tensors_of_truth_stop_and_other_answers_are_refused():
    assert len(fit(small(), callback=lambda now: now.loss < 1e9).loss) == 1
    with pytest.raises(TypeError, match=r"^callback must return True"):
        fit(small(), callback=lambda now: now.step)


@pytest.mark.parametrize("loss", [*STRATEGIES, misfit])
@pytest.mark.parametrize("source", SOURCES)
def test_a_training_is_continued_bit_for_bit(loss, source, tmp_path):
    """Stopped after 7 and 13 of 20 steps, each time with a fresh network and a fresh generator."""
    path, whole = tmp_path / "training.pt", small()
    expected = fit(whole, loss, SOURCES[source])
    for stop in (7, 13, None):
        net = IResNet(2, blocks=2, width=8, dtype=torch.float64, generator=oracles.generator(stop or 3))
        callback = None if stop is None else stop_at(stop)
        history = fit(net, loss, SOURCES[source], callback=callback, checkpoint=path, generator=oracles.generator(9))
        if stop == 7:  # only the first call is to start from the seed of the whole training
            path.unlink()
            net = small()
            history = fit(net, loss, SOURCES[source], callback=callback, checkpoint=path)
    assert torch.equal(history.loss, expected.loss)
    assert same(values(net), values(whole))
    if source == "data":
        assert torch.equal(history.held_out, expected.held_out)
        assert torch.equal(history.held_out_steps, expected.held_out_steps)
    again = small()  # a finished training gives its result once more
    assert torch.equal(fit(again, loss, SOURCES[source], checkpoint=path).loss, expected.loss)
    assert same(values(again), values(whole))


@pytest.mark.parametrize("source", SOURCES)
def test_a_training_without_generator_is_continued_bit_for_bit(source, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        whole, net = small(2), small(2)
        fit(whole, prior=SOURCES[source], generator=None)
        torch.manual_seed(3)
        options = {"prior": SOURCES[source], "generator": None, "checkpoint": tmp_path / "t.pt"}
        fit(net, callback=stop_at(11), **options)
        torch.manual_seed(99)
        fit(net, **options)
    assert same(values(net), values(whole))


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, SOAP])
def test_minimize_continues_with_its_sampler(optimizer, tmp_path):
    def run(layer: nn.Linear, **options: object) -> None:
        points = QuasiRandom(PRIOR, seed=0)
        minimize(
            layer,
            lambda step: (layer(points.draw(16).float()) - 1).square().mean(),
            20,
            optimizer=optimizer,
            sampler=points,
            **options,
        )

    start = nn.Linear(2, 1)
    whole, parts = copy.deepcopy(start), copy.deepcopy(start)
    run(whole)
    run(parts, checkpoint=tmp_path / "m.pt", callback=stop_at(12))
    run(parts, checkpoint=tmp_path / "m.pt")
    assert same(values(whole), values(parts))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("steps", {"steps": 30}),
        ("loss", {"loss": "log_det"}),
        ("strength", {"strength": 0.4}),
        ("batch_size", {"batch_size": 9}),
        ("learning_rate", {"learning_rate": 0.01}),
        ("optimizer", {"optimizer": torch.optim.Adam}),
        ("prior", {"prior": SampleOnly()}),
        ("whiten", {"whiten": True}),
        ("members", {"net": small(2)}),
        ("shapes", {"net": IResNet(2, blocks=3, width=8, dtype=torch.float64)}),
        ("dtypes", {"net": small(dtype=torch.float32)}),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_by_name(name, options, tmp_path):
    path = tmp_path / "t.pt"
    fit(small(), checkpoint=path, callback=stop_at(3))
    with pytest.raises(ValueError, match=rf"^checkpoint .* {name}\b"):
        fit(**{"net": small(), "checkpoint": path, **options})


def test_a_checkpoint_is_data_only_and_a_broken_file_is_refused(tmp_path):
    path = tmp_path / "t.pt"
    fit(small(), checkpoint=path, checkpoint_every=5)
    assert torch.load(path, weights_only=True)["done"] == 20
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.pt"]
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"^checkpoint must be a file that a training wrote"):
        fit(small(), checkpoint=path)
    with pytest.raises(ValueError, match=r"^checkpoint must be a file in a folder that exists"):
        fit(small(), checkpoint=tmp_path / "no" / "t.pt")


# Stops


def interrupt(now: object) -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("where", ["callback", "loss", "update"])
def test_an_interruption_keeps_the_weights_of_the_last_whole_step(where, tmp_path):
    """And the training is continued from its file with the result of an uninterrupted one."""
    calls = 0

    def break_off(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            interrupt(None)

    class Broken(SOAP):
        def _update(self, *arguments: object) -> None:
            super()._update(*arguments)
            if where == "update" and self.state[arguments[0]]["step"] == 6:
                break_off()

    def loss(net: nn.Module, x: Tensor, z: Tensor) -> Tensor:
        if where == "loss":
            break_off()
        return misfit(net, x, z)

    calls, net, path = (5 if where == "update" else 0), small(), tmp_path / "t.pt"
    options = {"optimizer": Broken, "checkpoint": path, "checkpoint_every": 2, "loss": loss}
    history = fit(net, callback=break_off if where == "callback" else None, **options)
    assert history.stopped == "interrupted"
    done = {"callback": 6, "loss": 5, "update": 5}[where]
    assert len(history.loss) == len(history.learning_rate) == history.kept == done
    reference = small()
    fit(reference, misfit, callback=stop_at(done))
    assert same(values(net), values(reference))

    where = "nowhere"
    whole = small()
    fit(whole, misfit)
    fit(net, **options)
    assert same(values(net), values(whole))


def test_a_training_error_has_the_history_and_leaves_the_last_finite_weights():
    net, seen = small(), []

    def spoil(now: invlib.training.TrainingStep) -> None:
        seen.append(values(net))
        if now.step == 4:
            with torch.no_grad():
                net.weights[1].fill_(torch.nan)

    with pytest.raises(TrainingError, match=r"after 4 steps") as caught:
        fit(net, callback=spoil)
    assert len(caught.value.history.loss) == 4
    assert same(values(net), seen[2])  # the weights of the last finite loss
    assert pickle.loads(pickle.dumps(caught.value)).history.kept == 3


def test_patience_stops_and_the_best_weights_on_the_held_out_points_are_kept():
    """Few points, noisy data and no regularization: the loss on held-out points rises again."""
    samples = Samples(oracles.randn(24, 2, seed=5), held_out=0.5)
    net = IResNet(2, width=32, dtype=torch.float64, generator=oracles.generator(0))
    history = fit(net, "reconstruction", samples, steps=300, patience=60, batch_size=12)
    assert history.stopped == "patience"
    assert len(history.loss) < 300
    best = int(history.held_out.argmin())
    assert history.kept == int(history.held_out_steps[best])
    assert int(history.held_out_steps[-1]) - history.kept >= 60
    assert float(history.held_out[best]) < float(history.held_out[0])


def test_the_loss_on_held_out_points_is_that_of_the_kept_weights():
    samples = Samples(oracles.randn(40, 2, seed=6), held_out=0.25)
    net = small()
    history = fit(net, "divergence", samples, steps=60)
    x = samples.held_out
    expected = invlib.divergence_loss(net, x, x @ PROBLEM.normal_operator, 0.5)
    expected = float(expected.detach()) + 0.5 * 0.25 * float(PROBLEM.normal_operator.trace())
    assert float(history.held_out.min()) == pytest.approx(expected, rel=1e-12)
    assert fit(small(3), "divergence", samples).held_out.shape[1:] == (3,)


# Foreign networks, and the state of the world


class Scaling(nn.Module):
    """A foreign network: one slope for each coordinate, and nothing but `forward` and `inverse`."""

    def __init__(self) -> None:
        super().__init__()
        self.log_slope = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.log_slope.exp()

    def inverse(self, z: Tensor) -> Tensor:
        return z * (-self.log_slope).exp()


def test_a_foreign_network_learns_the_operator():
    net = Scaling()
    fit(net, misfit, steps=300, batch_size=64)
    torch.testing.assert_close(net.log_slope.exp(), torch.tensor([1.0, 0.49]), rtol=0.05, atol=0.05)


def test_training_works_without_gradients_around_it_and_under_autocast():
    plain, inside, cast = small(dtype=torch.float32), small(dtype=torch.float32), small(dtype=torch.float32)
    fit(plain)
    with torch.no_grad():
        fit(inside)
        assert not torch.is_grad_enabled()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fit(cast)
    assert same(values(plain), values(inside))
    assert same(values(plain), values(cast))


def test_inference_mode_is_refused():
    with torch.inference_mode(), pytest.raises(ValueError, match=r"outside of torch.inference_mode"):
        fit(small())


def test_threads_are_set_for_the_training_only():
    before, seen = torch.get_num_threads(), []
    for threads in (None, 2):
        fit(small(), callback=lambda now: seen.append(torch.get_num_threads()), steps=1, threads=threads)
        assert torch.get_num_threads() == before
    assert seen == [1, 2]


def test_members_may_have_priors_of_their_own():
    priors = [PRIOR, Samples(oracles.randn(10, 2, seed=7))]
    assert fit(small(2), prior=priors).loss.shape == (20, 2)
    with pytest.raises(ValueError, match=r"^prior must be one, or one for each of the 2 members"):
        fit(small(2), prior=[PRIOR] * 3)


def test_an_objective_takes_one_prior_or_one_for_each_member():
    objective = Objective(small(2), PROBLEM, "divergence", None, False)
    assert len(objective.priors(PRIOR)) == len(objective.priors([PRIOR, PRIOR])) == 2
    with pytest.raises(ValueError, match=r"^prior must be one, or one for each of the 2 members, got 3"):
        objective.priors([PRIOR] * 3)


def test_a_log_gets_lines_instead_of_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["invlib.progress"], "SECONDS", 0.0)
    fit(small(), steps=3, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"the divergence loss: {k} of 3 steps" for k in (1, 2, 3, 3)]


def returning(value: object) -> object:
    class Source:
        def sample(self, count: int, *, generator: torch.Generator | None = None) -> object:
            return value

    return Source()


class NoGenerator:
    def sample(self, count: int) -> Tensor:
        return torch.zeros(count, 2)


half, frozen = small(dtype=torch.float32).half(), small().requires_grad_(False)
mixed = small()
mixed.biases[0].data = mixed.biases[0].data.float()

WRONG = {
    "net none": ("net", {"net": None}),
    "net a prior": ("net", {"net": PRIOR}),
    "net frozen": ("net", {"net": frozen}),
    "net half": ("net", {"net": half}),
    "net mixed": ("net", {"net": mixed}),
    "prior none": ("prior", {"prior": None}),
    "prior a problem": ("prior", {"prior": PROBLEM}),
    "prior of torch": ("prior", {"prior": torch.distributions.Normal(torch.zeros(2), torch.ones(2))}),
    "prior without generator": ("prior", {"prior": NoGenerator()}),
    "samples none": ("prior", {"prior": returning(None)}),
    "samples list": ("prior", {"prior": returning([[0.0, 0.0]] * 8)}),
    "samples array": ("prior", {"prior": returning(torch.zeros(8, 2).numpy())}),
    "samples complex": ("prior", {"prior": returning(torch.zeros(8, 2, dtype=torch.complex64))}),
    "samples integer": ("prior", {"prior": returning(torch.zeros(8, 2, dtype=torch.int64))}),
    "samples shape": ("prior", {"prior": returning(torch.zeros(8, 3))}),
    "samples nan": ("prior", {"prior": returning(torch.full((8, 2), torch.nan))}),
    "whiten text": ("whiten", {"whiten": "no"}),
    "whiten own loss": ("whiten", {"whiten": True, "loss": misfit}),
    "strength own loss": ("strength", {"strength": 0.3, "loss": misfit}),
    "strength bool": ("strength", {"strength": True}),
    "progress text": ("progress", {"progress": "no"}),
    "learning rate bool": ("learning_rate", {"learning_rate": True}),
    "learning rate text": ("learning_rate", {"learning_rate": "0.1"}),
    "optimizer": ("optimizer", {"optimizer": "adam"}),
    "optimizer result": ("optimizer", {"optimizer": lambda parameters, lr: None}),
    "schedule": ("schedule", {"schedule": 0.1}),
    "schedule result": ("schedule", {"schedule": lambda step, steps: -1.0}),
    "callback": ("callback", {"callback": 3}),
    "patience": ("patience", {"patience": 3}),
    "patience zero": ("patience", {"patience": 0, "prior": SOURCES["data"]}),
    "threads": ("threads", {"threads": 0}),
    "generator": ("generator", {"generator": 3}),
    "checkpoint": ("checkpoint", {"checkpoint": 3}),
    "checkpoint every": ("checkpoint_every", {"checkpoint_every": 0}),
    "loss none": ("loss", {"loss": lambda net, x, z: None}),
    "loss float": ("loss", {"loss": lambda net, x, z: 1.0}),
    "loss shape": ("loss", {"loss": lambda net, x, z: net(x).sum(-1)}),
    "loss constant": ("loss", {"loss": lambda net, x, z: x.sum()}),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_named(case):
    name, options = WRONG[case]
    with pytest.raises((TypeError, ValueError), match=rf"^{name}\b"):
        fit(**{"net": small(), **options})


@pytest.mark.parametrize("problem", [None, PRIOR, [PROBLEM, None]])
def test_a_problem_of_another_kind_is_named(problem):
    net = small(2 if isinstance(problem, list) else None)
    with pytest.raises(TypeError, match=r"^problem must be a LinearProblem"):
        invlib.train(net, problem, PRIOR, steps=1)


def test_whitening_refuses_an_operator_of_condition_above_1e7():
    with pytest.raises(ValueError, match=r"^whiten must be False for an operator of condition above 1e\+07"):
        invlib.train(small(), LinearProblem([[1.0, 0.0], [0.0, 1e-8]], 0.1), PRIOR, steps=1, whiten=True)


@pytest.mark.parametrize("value", [None, 1.0, torch.zeros(2, 2, requires_grad=True) * 1, torch.zeros(())])
def test_minimize_names_a_loss_that_is_none(value):
    with pytest.raises((TypeError, ValueError), match=r"^loss must"):
        minimize(nn.Linear(1, 1), lambda step: value, 2)


# What is known of the minimizer


@pytest.mark.parametrize("loss", STRATEGIES)
def test_slopes_out_of_reach_are_named_with_both_numbers(loss):
    """A = 3 Id needs slopes of 9 or, with delta^2/C, 10; three blocks with L = .97 have at most 1.97^3 = 7.645."""
    prior = GaussianMixture([1.0], [[0.0, 0.0]], 0.25 * torch.eye(2)[None])
    net = IResNet(2, generator=oracles.generator(0))
    needed = 9.0 if loss in ("approximation", "log_det") else 10.0
    with pytest.warns(ReachWarning, match=rf"the {loss} loss has slopes of {needed:.3g}, .* at most 7.65"):
        invlib.train(net, LinearProblem(3 * torch.eye(2), 0.5), prior, loss, steps=1, batch_size=4)


@pytest.mark.parametrize("loss", ["reconstruction", "divergence"])
def test_slopes_that_are_too_small_are_named_with_both_numbers(loss):
    """A = Id / 1000 needs slopes of 2e-6; three blocks with L = .97 have at least .03^3 = 2.7e-5."""
    prior = GaussianMixture([1.0], [[0.0, 0.0]], torch.eye(2)[None])
    net = IResNet(2, generator=oracles.generator(0))
    with pytest.warns(ReachWarning, match=rf"the {loss} loss has slopes of 2e-06, .* at least 2.7e-05"):
        invlib.train(net, LinearProblem(1e-3 * torch.eye(2), 1e-3), prior, loss, steps=1, batch_size=4)


@pytest.mark.parametrize("loss", STRATEGIES)
@pytest.mark.parametrize("members", [None, 3])
def test_no_warning_for_the_problems_of_the_book(loss, members):
    """A = Id, diag(1, 1/2), diag(1, 1/8); bumps of standard deviation .45 to .59; noise .1 to .45."""
    for std in (0.45, 0.59):
        prior = GaussianMixture([0.5, 0.5], [[0.8, 0.5], [-0.8, -0.5]], (std**2 * torch.eye(2)).repeat(2, 1, 1))
        for small_value in (1.0, 0.5, 0.125):
            for noise_std in (0.1, 0.45):
                problem = LinearProblem([[1.0, 0.0], [0.0, small_value]], noise_std)
                net = IResNet(2, members=members, generator=oracles.generator(0))
                options = {"steps": 1, "batch_size": 2, "generator": oracles.generator(1)}
                assert len(invlib.train(net, problem, prior, loss, **options).loss) == 1


def test_the_share_of_negative_curvature_is_zero_for_log_concave_priors_and_not_for_bumps_far_apart():
    gaussian = GaussianMixture([1.0], [[0.0, 0.0]], torch.eye(2)[None])
    assert fit(small(), prior=gaussian, steps=1).negative_curvature == 0.0
    bumps = GaussianMixture([0.5, 0.5], [[0.6], [-0.6]], torch.full((2, 1, 1), 0.16))
    net = IResNet(1, blocks=2, width=8, dtype=torch.float64)
    problem = LinearProblem([[0.5]], 0.5)
    share = invlib.train(net, problem, bumps, steps=1, batch_size=4).negative_curvature
    x = bumps.sample(20_000, generator=oracles.generator(3))
    expected = (0.25 - 0.25 * bumps.hessian(x)[:, 0, 0] < 0).double().mean()
    assert 0 < share < 1
    assert share == pytest.approx(float(expected), abs=0.02)
    assert fit(small(), "log_det", steps=1).negative_curvature is None


def test_the_minimum_is_computed_when_asked_for_and_cannot_lose_the_history():
    class Failing(GaussianMixture):
        def score(self, x: Tensor) -> Tensor:
            raise MemoryError

    prior = Failing(PRIOR.weights, PRIOR.means, PRIOR.covariances)
    history = fit(small(), prior=prior)
    assert history.loss.shape == (20,)
    with pytest.raises(MemoryError):
        _ = history.minimum


def test_a_history_is_pickled_with_its_minimum_and_without_the_prior():
    prior = invlib.DensityPrior(lambda x: -x.square().sum(-1), [-7.0, -7.0], [7.0, 7.0])
    history = fit(small(), prior=prior, steps=2)
    other = pickle.loads(pickle.dumps(history))
    assert other.minimum == history.minimum
    assert torch.equal(other.loss, history.loss)
