"""Tests of `invlib.samples` and `invlib.sampling`: epochs, held-out parts, and the same quasi-random points as ever."""

import types

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor

from invlib import GaussianMixture, sampling
from invlib.samples import Epochs, Samples
from invlib.sampling import PlainBatches, QuasiRandom, batches, quasi_sample, quasi_uniform

PRIOR = oracles.random_mixture(2, 2, seed=1)
POINTS = torch.arange(20.0).reshape(10, 2)


def rows(points: Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in points.tolist()}


# Samples


def test_an_epoch_has_every_point_once_and_the_next_one_another_order():
    epochs = Epochs(POINTS, oracles.generator(0))
    batches = [epochs.draw(4) for _ in range(5)]  # two epochs; the third batch reaches over both
    points = torch.cat(batches)
    assert rows(points[:10]) == rows(points[10:]) == rows(POINTS)
    assert not torch.equal(points[:10], points[10:])


def test_a_batch_larger_than_the_data_has_whole_epochs():
    points = Epochs(POINTS, oracles.generator(0)).draw(25)
    assert [rows(points[i : i + 10]) == rows(POINTS) for i in (0, 10)] == [True, True]
    assert len(rows(points[20:])) == 5


def test_epochs_continue_from_a_saved_state():
    generator = oracles.generator(3)
    one = Epochs(POINTS, generator)
    one.draw(7)
    state, numbers = one.state_dict(), generator.get_state()
    expected = one.draw(20)
    other_generator = oracles.generator(4)
    other_generator.set_state(numbers)
    other = Epochs(POINTS, other_generator)
    other.load_state_dict(state)
    assert torch.equal(other.draw(20), expected)
    with pytest.raises(ValueError, match=r"^state must belong to 9 points"):
        Epochs(POINTS[:9]).load_state_dict(state)


def test_the_held_out_part_and_the_training_part_make_up_the_data():
    samples = Samples(POINTS, held_out=0.3)
    assert (len(samples), len(samples.held_out)) == (7, 3)
    assert rows(torch.cat([samples.training, samples.held_out])) == rows(POINTS)
    assert rows(samples.sample(7, generator=oracles.generator(0))) == rows(samples.training)
    np.testing.assert_allclose(samples.mean.numpy(), samples.training.numpy().mean(0), rtol=1e-14)
    np.testing.assert_allclose(samples.covariance.numpy(), np.cov(samples.training.numpy().T, bias=True), rtol=1e-13)
    assert not torch.equal(Samples(POINTS, held_out=0.3, seed=1).held_out, samples.held_out)


def test_samples_are_determined_by_the_generator_and_remember_nothing():
    samples = Samples(POINTS)
    first, second = (samples.sample(4, generator=oracles.generator(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("points", lambda: Samples(torch.zeros(3))),
        ("points", lambda: Samples(torch.zeros(0, 2))),
        ("points", lambda: Samples([[float("nan")]])),
        ("points", lambda: Samples("abc")),
        ("held_out", lambda: Samples(POINTS, held_out=1.0)),
        ("held_out", lambda: Samples(POINTS, held_out=-0.1)),
        ("held_out", lambda: Samples(POINTS, held_out=0.01)),
        ("held_out", lambda: Samples(POINTS, held_out=0.99)),
        ("held_out", lambda: Samples(POINTS, held_out=True)),
        ("held_out", lambda: Samples(POINTS, held_out="half")),
        ("count", lambda: Samples(POINTS).sample(0)),
        ("count", lambda: QuasiRandom(PRIOR, seed=0).draw(0)),
        ("members", lambda: QuasiRandom(PRIOR, seed=0, members=0)),
        ("noise_dim", lambda: QuasiRandom(PRIOR, seed=0, noise_dim=-1)),
        ("seed", lambda: QuasiRandom(PRIOR, seed=-1)),
        ("prior", lambda: QuasiRandom([PRIOR], seed=0, members=2)),
        ("dim", lambda: quasi_uniform(4, 30_000, seed=0)),
    ],
)
def test_bad_input_names_the_argument(name, call):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        call()


def test_a_quasi_random_prior_needs_from_uniform():
    with pytest.raises(TypeError, match=r"^prior must have dim and a method from_uniform"):
        QuasiRandom(Samples(POINTS), seed=0)


# Quasi-random points


@pytest.mark.parametrize("seed", [0, 4])
def test_a_quasi_sample_is_the_image_of_the_scrambled_sobol_sequence(seed):
    uniform = torch.quasirandom.SobolEngine(3, scramble=True, seed=seed).draw(512, dtype=torch.float64)
    expected = PRIOR.from_uniform(uniform.clamp(1e-12, 1 - 1e-12))
    assert torch.equal(quasi_sample(PRIOR, 512, seed=seed), expected)
    assert torch.equal(quasi_uniform(512, 3, seed=seed), uniform.clamp(1e-12, 1 - 1e-12))


class Edge:
    """A sequence that begins on the edge of the cube."""

    def draw(self, count: int, dtype: torch.dtype) -> Tensor:
        return torch.tensor([[0.0], [1.0]], dtype=dtype).expand(count, 4)


def test_points_on_the_edge_of_the_cube_are_moved_inside(monkeypatch):
    monkeypatch.setattr(sampling, "_sobol", lambda dim, seed: Edge())
    assert quasi_uniform(2, 4, seed=0).tolist() == [[1e-12] * 4, [1 - 1e-12] * 4]
    assert all(bool(part.isfinite().all()) for part in QuasiRandom(PRIOR, seed=0, noise_dim=1).draw_with_noise(2))


def test_batches_are_plain_where_the_sobol_sequence_has_too_few_dimensions():
    wide = types.SimpleNamespace(dim=10_601, from_uniform=None, sample=None)  # with the noise, 21,203 dimensions
    assert isinstance(batches([wide], wide.dim, None), PlainBatches)
    assert isinstance(batches([PRIOR], PRIOR.dim, None), QuasiRandom)


def test_members_see_the_sequence_shifted_and_noise_comes_from_the_last_coordinates():
    sobol = torch.quasirandom.SobolEngine(5, scramble=True, seed=7)
    shifts = torch.rand(3, 1, 5, dtype=torch.float64, generator=oracles.generator(8))
    points = QuasiRandom(PRIOR, seed=7, members=3, noise_dim=2, generator=oracles.generator(8))
    for count in (16, 5):
        uniform = ((sobol.draw(count, dtype=torch.float64) + shifts) % 1.0).clamp(1e-12, 1 - 1e-12)
        x, noise = points.draw_with_noise(count)
        assert torch.equal(x, PRIOR.from_uniform(uniform[..., :3]))
        assert torch.equal(noise, torch.special.ndtri(uniform[..., 3:]))


def test_members_may_have_priors_of_their_own():
    far = GaussianMixture([1.0], [[100.0, 0.0]], torch.eye(2)[None])
    x = QuasiRandom([PRIOR, far], seed=0, members=2).draw(64)
    one = QuasiRandom(PRIOR, seed=0, members=2).draw(64)
    assert torch.equal(x[0], one[0])
    assert float((x[1].mean(0) - far.mean).abs().max()) < 0.2


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("drawn", [0, 1, 37])
def test_a_sequence_continues_from_a_saved_state(members, drawn):
    one = QuasiRandom(PRIOR, members=members, noise_dim=1, generator=oracles.generator(0))
    if drawn:
        one.draw(drawn)
    state = one.state_dict()
    other = QuasiRandom(PRIOR, members=members, noise_dim=1, generator=oracles.generator(9))
    other.load_state_dict(state)
    for ours, theirs in zip(one.draw_with_noise(50), other.draw_with_noise(50), strict=True):
        assert torch.equal(ours, theirs)


def test_a_state_of_other_members_is_refused():
    with pytest.raises(ValueError, match=r"^state must have shifts"):
        QuasiRandom(PRIOR, seed=0, members=2).load_state_dict(QuasiRandom(PRIOR, seed=0).state_dict())
