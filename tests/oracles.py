"""Independent re-computations that the tests of `invlib` compare with: numpy, scipy and plain formulas only."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor

from invlib import GaussianMixture, IResNet

Parameters = Sequence[Tensor]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=generator(seed))


def random_mixture(dim: int, components: int, seed: int, spread: float = 1.5) -> GaussianMixture:
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.2, 1.0, components)
    factors = rng.normal(size=(components, dim, dim)) * 0.6
    covariances = factors @ factors.transpose(0, 2, 1) + 0.15 * np.eye(dim)
    return GaussianMixture(weights / weights.sum(), spread * rng.normal(size=(components, dim)), covariances)


def random_operator(m: int, n: int, seed: int, rank: int | None = None) -> Tensor:
    """A matrix with singular values between 0.5 and 1.5, all others exactly absent."""
    rng = np.random.default_rng(seed)
    rank = min(m, n) if rank is None else rank
    u = np.linalg.qr(rng.normal(size=(m, m)))[0][:, :rank]
    v = np.linalg.qr(rng.normal(size=(n, n)))[0][:, :rank]
    return torch.from_numpy(u @ np.diag(rng.uniform(0.5, 1.5, rank)) @ v.T)


def random_network(
    dim: int,
    *,
    seed: int,
    blocks: int = 3,
    width: int = 8,
    lipschitz: float = 0.9,
    members: int | None = None,
    dtype: torch.dtype = torch.float64,
    gain: float = 1.0,
) -> IResNet:
    """A network whose last biases are not zero; `gain` multiplies all weights (steeper, still constrained)."""
    net = IResNet(
        dim,
        blocks=blocks,
        width=width,
        lipschitz=lipschitz,
        members=members,
        dtype=dtype,
        generator=generator(seed),
    )
    with torch.no_grad():
        for weight in net.weights:
            weight.mul_(gain)
        net.biases[2].copy_(randn(*net.biases[2].shape, seed=seed + 1, dtype=dtype))
    return net


def member(net: IResNet, index: int) -> IResNet:
    """A single network with the parameters of one member."""
    single = IResNet(net.dim, blocks=net.depth, width=net.width, lipschitz=net.lipschitz, dtype=net.weights[0].dtype)
    with torch.no_grad():
        for ours, theirs in zip(single.parameters(), net.parameters(), strict=True):
            ours.copy_(theirs[index : index + 1])
    return single


def with_output(net: IResNet, matrix: object, dtype: torch.dtype | None = None) -> IResNet:
    """The same network followed by a fixed linear layer."""
    composed = IResNet(
        net.dim,
        blocks=net.depth,
        width=net.width,
        lipschitz=net.lipschitz,
        members=net.members,
        output_operator=matrix,
        dtype=dtype or net.weights[0].dtype,
    )
    with torch.no_grad():
        for ours, theirs in zip(composed.parameters(), net.parameters(), strict=True):
            ours.copy_(theirs)
    return composed


def all_signs(dim: int) -> Tensor:
    """All vectors of signs, (2^n, n)."""
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=dim)), dtype=torch.float64)


@contextlib.contextmanager
def every_sign(dim: int) -> Iterator[None]:
    """Inside, the random signs of networks are all vectors of signs in turn: for points from `for_every_sign`."""
    signs = all_signs(dim)

    def draw(points: Tensor, generator: torch.Generator | None) -> Tensor:
        return signs.to(points).repeat(points.shape[-2] // len(signs), 1).expand_as(points)

    with mock.patch("invlib.residual.random_signs", draw), mock.patch("invlib.networks.random_signs", draw):
        yield


def for_every_sign(x: Tensor) -> Tensor:
    """Each of the points, (..., B, n), repeated 2^n times."""
    return x.repeat_interleave(2 ** x.shape[-1], dim=-2)


def mean_over_signs(values: Tensor, dim: int) -> Tensor:
    """The mean of estimates, (..., B 2^n), over the vectors of signs, (..., B)."""
    return values.unflatten(-1, (-1, 2**dim)).mean(-1)


def plain_log_prob(prior: GaussianMixture) -> Callable[[Tensor], Tensor]:
    """log p of one point (n,), by inverses and determinants: to be differentiated with torch.func."""

    def log_prob(x: Tensor) -> Tensor:
        terms = []
        for weight, mean, covariance in zip(prior.weights, prior.means, prior.covariances, strict=True):
            quadratic = (x - mean) @ torch.linalg.inv(covariance) @ (x - mean)
            terms.append(weight.log() - 0.5 * quadratic - 0.5 * torch.logdet(2 * torch.pi * covariance))
        return torch.logsumexp(torch.stack(terms), dim=0)

    return log_prob


def activation(u: Tensor) -> Tensor:
    """sqrt(u^2 + 1/4) - 1/2, with the numerator made rational; also of numpy arrays."""
    return u**2 / ((u**2 + 0.25) ** 0.5 + 0.5)


def plain_network(parameters: Parameters, x: Tensor, lipschitz: float) -> Tensor:
    """phi(x) of a single network for one point (n,), written out; parameters in the order of `net.parameters()`."""
    weights, biases = parameters[:3], parameters[3:]
    for k in range(weights[0].shape[1]):
        first, second, third = (weight[0, k] for weight in weights)
        product = 1.0
        for matrix in (first, second, third):
            product = product * torch.linalg.svdvals(matrix)[0]
        third = third * torch.clamp(lipschitz / product, max=1.0)
        inner, middle, outer = (bias[0, k].reshape(-1) for bias in biases)
        hidden = activation(second @ activation(first @ x + inner) + middle)
        x = x + third @ hidden + outer
    return x


def plain_jacobians(net: IResNet, x: Tensor) -> Tensor:
    """D phi, (B, n, n), of a single network at points (B, n), by reverse-mode differentiation of the plain one."""
    parameters = [parameter.detach() for parameter in net.parameters()]
    return torch.func.vmap(torch.func.jacrev(lambda point: plain_network(parameters, point, net.lipschitz)))(x)


def numpy_log_prob(prior: GaussianMixture, points: np.ndarray) -> np.ndarray:
    """log p at points (..., n)."""
    terms = []
    for weight, mean, covariance in zip(
        prior.weights.numpy(), prior.means.numpy(), prior.covariances.numpy(), strict=True
    ):
        centred = points - mean
        quadratic = np.einsum("...i,ij,...j->...", centred, np.linalg.inv(covariance), centred)
        terms.append(np.log(weight) - 0.5 * quadratic - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1])
    return logsumexp(np.stack(terms), axis=0)


def posterior_from_y(
    operator: np.ndarray, noise_std: float, prior: GaussianMixture, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (K,), means (K, n) and covariances (K, n, n) of p(x | y) by the Kalman gain, in the space of y."""
    log_weights, means, covariances = [], [], []
    for weight, mean, covariance in zip(
        prior.weights.numpy(), prior.means.numpy(), prior.covariances.numpy(), strict=True
    ):
        evidence = operator @ covariance @ operator.T + noise_std**2 * np.eye(len(operator))
        gain = np.linalg.solve(evidence, operator @ covariance).T
        misfit = y - operator @ mean
        log_weights.append(
            np.log(weight)
            - 0.5 * misfit @ np.linalg.solve(evidence, misfit)
            - 0.5 * np.linalg.slogdet(2 * np.pi * evidence)[1]
        )
        means.append(mean + gain @ misfit)
        covariances.append(covariance - gain @ operator @ covariance)
    log_weights = np.array(log_weights)
    return np.exp(log_weights - logsumexp(log_weights)), np.array(means), np.array(covariances)


def moments(weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a mixture, through the second moment."""
    mean = np.einsum("k,ki->i", weights, means)
    second = np.einsum("k,kij->ij", weights, covariances + np.einsum("ki,kj->kij", means, means))
    return mean, second - np.outer(mean, mean)


def grid(dim: int, half_width: float, count: int) -> np.ndarray:
    """A regular grid of count**dim points, (count**dim, dim)."""
    axis = np.linspace(-half_width, half_width, count)
    return np.stack(np.meshgrid(*[axis] * dim, indexing="ij"), axis=-1).reshape(-1, dim)


def directional_difference(function: Callable[[], Tensor], tensor: Tensor, direction: Tensor, step: float) -> Tensor:
    """The central difference of a function of no arguments when a leaf tensor moves along a direction in place."""
    with torch.no_grad():
        tensor.add_(direction, alpha=step)
        above = function().detach().clone()
        tensor.sub_(direction, alpha=2 * step)
        below = function().detach().clone()
        tensor.add_(direction, alpha=step)
    return (above - below) / (2 * step)
