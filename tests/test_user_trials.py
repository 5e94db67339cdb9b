"""Three trials as a reader of the README and of the docstrings would write them, with nothing from inside the library.

Each result must beat a baseline by a margin that the seeds leave room for.
"""

import torch
from torch import Tensor

import invlib
from invlib import testproblems
from invlib.coupling import CouplingFlow


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mean_square(error: Tensor) -> float:
    return error.detach().square().mean().item()


# A network that is no residual network


def test_a_coupling_flow_learns_to_denoise_with_both_regularized_losses():
    prior = testproblems.two_bumps()
    problem = invlib.LinearProblem(torch.eye(2), noise_std=0.45)
    x = prior.sample(2000, generator=seeded(1))
    z = problem.normal_data(problem.measure(x, generator=seeded(2)))
    noise = mean_square(z - x)
    best = mean_square(invlib.posterior_mean(problem, prior, z) - x)

    for loss in ("divergence", "log_det"):
        net = CouplingFlow(2, layers=4, generator=seeded(3))
        history = invlib.train(
            net, problem, prior, loss, steps=150, batch_size=64, learning_rate=1e-2, generator=seeded(4)
        )
        assert history.loss[-20:].mean() < history.loss[:5].mean()
        error = mean_square(net.inverse(z) - x)
        assert best < error < (noise + best) / 2, loss  # the posterior mean is the best of all maps of z


# Pictures


def smooth_pictures(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Random sums of nine products of cosines, as vectors, (count, size * size)."""
    points = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    waves = torch.stack([torch.cos(torch.pi * k * points) for k in range(3)])
    decay = torch.tensor([1.0, 0.7, 0.4], dtype=torch.float64)
    amplitudes = torch.randn(count, 3, 3, dtype=torch.float64, generator=generator)
    amplitudes = amplitudes * decay * decay.unsqueeze(-1)
    return (waves.mT @ amplitudes @ waves).flatten(-2)


def noisy_pictures(size: int) -> tuple[Tensor, Tensor]:
    """Pictures that no training has seen, and the same with noise."""
    pictures = smooth_pictures(50, size, seeded(11))
    problem = invlib.LinearProblem(torch.eye(size * size), noise_std=0.5)
    return pictures, problem.normal_data(problem.measure(pictures, generator=seeded(12)))


def check_pictures(loss: str, steps: int) -> None:
    problem = invlib.LinearProblem(torch.eye(64), noise_std=0.5)
    samples = invlib.Samples(smooth_pictures(2048, 8, seeded(13)))
    net = invlib.ConvIResNet((8, 8), blocks=2, channels=8, generator=seeded(14))
    history = invlib.train(net, problem, samples, loss, steps=steps, batch_size=16, generator=seeded(15))
    assert history.loss[-5:].mean() < history.loss[:5].mean()

    x, z = noisy_pictures(8)
    assert mean_square(net.inverse(z) - x) < 0.6 * mean_square(z - x)

    # Twice as fine, the same waves are smoother still; the kernels have seen only neighbours.
    x, z = noisy_pictures(16)
    reconstruction = net.on((16, 16)).inverse(z)
    assert reconstruction.shape == (50, 256)
    assert mean_square(reconstruction - x) < 0.6 * mean_square(z - x)


def test_pictures_are_reconstructed_after_training_with_the_divergence():
    check_pictures("divergence", steps=60)


def test_pictures_are_reconstructed_after_training_with_the_backward_error():
    check_pictures("reconstruction", steps=60)


# A loss of one's own


def test_a_loss_of_ones_own_with_adam_held_out_points_and_a_callback():
    """The loss is the forward error in the first norm: it is least at the median of z given x, which is A x."""

    def absolute_error(net: torch.nn.Module, x: Tensor, z: Tensor) -> Tensor:
        return (net(x) - z).abs().sum(dim=-1).mean()

    seen = []

    def watch(now: invlib.TrainingStep) -> None:
        seen.append(now.step)

    operator = torch.tensor([[1.2, 0.3, 0.0], [0.3, 1.0, 0.2], [0.0, 0.2, 0.8]])
    problem = invlib.LinearProblem(operator, noise_std=0.1)
    samples = invlib.Samples(torch.randn(1000, 3, generator=seeded(21)), held_out=0.2)

    net = invlib.IResNet(3, blocks=2, width=16, generator=seeded(22))
    history = invlib.train(
        net,
        problem,
        samples,
        absolute_error,
        steps=400,
        batch_size=64,
        optimizer=torch.optim.Adam,
        learning_rate=2e-2,
        patience=100,
        callback=watch,
        generator=seeded(23),
    )
    assert history.stopped in (None, "patience")
    assert seen == list(range(1, len(history.loss) + 1))
    assert history.held_out is not None
    assert history.held_out.min() < 0.4 * history.held_out[0]

    x = torch.randn(500, 3, generator=seeded(24))
    exact = problem.normal_data(problem.forward(x))
    assert mean_square(net(x) - exact) < 0.02 * mean_square(x - exact)  # the identity is where a learner would start
    assert mean_square(net.inverse(exact) - x) < 0.02 * mean_square(exact - x)
