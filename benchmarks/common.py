"""What all benchmarks share: interleaved timing, the problem, and networks whose slopes reach their bound."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from invlib import IResNet, LinearProblem
from invlib.testproblems import two_bumps

Row = dict[str, object]
Topic = dict[str, object]
BLOCKS, WIDTH, LIPSCHITZ, STRENGTH = 5, 64, 0.97, 0.2
PROBLEM = LinearProblem(torch.eye(2), noise_std=STRENGTH)
PRIOR = two_bumps(std=0.45)
THREAD_COUNTS = [1, 2]  # what the timed topics run with; --threads replaces it


def seeded(seed: int = 0) -> torch.Generator:
    """Return a generator of random numbers with this seed."""
    return torch.Generator().manual_seed(seed)


def interleaved(tasks: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median wall-clock seconds of each task over rounds A B C A B C; one round first warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        task()
    for _ in range(repeats):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run the body with `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check(name: str, value: float, target: float) -> Row:
    """Return one line of the final comparison: a number that should be at most `target`."""
    return {"what": name, "value": value, "target": target, "reached": value <= target}


def folded_network(lipschitz: float, *, dtype: torch.dtype = torch.float64) -> IResNet:
    """Return a network each of whose blocks folds the plane twice, with slopes that reach the Lipschitz bound.

    Random weights do not: scaled until the bound is attained, their steepest slope is still 0.14. Here all three
    layers act by orthogonal matrices on the first two of the 64 channels, so the product of the spectral norms is the
    slope of f wherever the smooth absolute values are nearly linear.
    """
    generator = seeded()
    net = IResNet(2, blocks=BLOCKS, width=WIDTH, lipschitz=lipschitz, dtype=dtype)
    with torch.no_grad():
        for weight, bias in zip(net.weights, net.biases, strict=True):
            weight.zero_()
            bias.zero_()
            weight[0, :, :2, :2] = torch.linalg.qr(torch.randn(BLOCKS, 2, 2, dtype=dtype, generator=generator)).Q
            bias[0, :, 0, :2] = torch.randn(BLOCKS, 2, dtype=dtype, generator=generator)
        net.biases[2].zero_()
    return net


def random_network(lipschitz: float, *, dtype: torch.dtype = torch.float64) -> IResNet:
    """Return a network with random weights, three times as large as initially: every block's bound is attained."""
    net = IResNet(2, blocks=BLOCKS, width=WIDTH, lipschitz=lipschitz, dtype=dtype, generator=seeded())
    with torch.no_grad():
        for weight in net.weights:
            weight.mul_(3)
    return net


def steepest_slope(net: IResNet, x: Tensor) -> float:
    """Return the largest spectral norm of Df over all blocks and all points x, (B, n), by automatic differentiation."""
    largest = 0.0
    with torch.no_grad():
        for branch in branches(net):
            jacobian = torch.func.vmap(torch.func.jacrev(branch))(x)
            largest = max(largest, float(torch.linalg.matrix_norm(jacobian, 2).max()))
            x = x + branch(x)
    return largest


class Branch(torch.nn.Module):
    """The branch f of one block as an ordinary module, its weights already constrained: what the peers iterate."""

    def __init__(self, weights: list[Tensor], biases: list[Tensor]) -> None:
        super().__init__()
        self.layers = list(zip(weights, biases, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Return f(x) for x of shape (..., n)."""
        for weight, bias in self.layers[:-1]:
            x = torch.sqrt(torch.nn.functional.linear(x, weight, bias).square() + 0.25) - 0.5
        return torch.nn.functional.linear(x, *self.layers[-1])


def branches(net: IResNet) -> list[Branch]:
    """Return the branches f_1, ..., f_K of a single network, differentiable in its parameters."""
    weights, biases = net.effective_weights(), net.biases
    return [Branch([w[0, k] for w in weights], [b[0, k, 0] for b in biases]) for k in range(net.depth)]
