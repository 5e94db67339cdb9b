"""Default options on problems that nobody chose: how near to MAP and mean, and in 64 dimensions beside Wiener's filter.

Problems in the plane are drawn by `draw`. Their seeds were used for nothing else: no option was tuned to them.
"""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from common import THREAD_COUNTS, Row, Topic, check, seeded, threads
from torch import Tensor

import invlib
from invlib import (
    DensityPrior,
    GaussianMixture,
    IResNet,
    LinearProblem,
    LogisticPrior,
    Prior,
    map_estimate,
    posterior_mean,
    train,
)
from invlib.standard import shrunk_covariance
from invlib.training import Strategy

FIRST_SEED = 3000
PROBLEMS = 16
NETWORK_SEEDS = (101, 202)
SEEDS_64 = (101, 202, 303)
DATA = 1000
QUARTER = 0.25


@dataclass(frozen=True)
class Case:
    """A problem, its prior, and the exact estimates at data z, (B, n); mean and covariance for the network, or None."""

    problem: LinearProblem
    prior: Prior
    z: Tensor
    mode: Tensor
    mean: Tensor
    deviation: float
    moments: tuple[Tensor, Tensor] | None = None

    @property
    def distance(self) -> float:
        """RMS(MAP - posterior mean)."""
        return _rms(self.mode - self.mean)


class Draw:
    """Random numbers of one problem."""

    def __init__(self, seed: int) -> None:
        self.generator = seeded(seed)

    def uniform(self, low: float, high: float) -> float:
        """Uniform between low and high."""
        return low + (high - low) * float(torch.rand((), dtype=torch.float64, generator=self.generator))

    def log_uniform(self, low: float, high: float) -> float:
        """Uniform in the logarithm."""
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(*shape, dtype=torch.float64, generator=self.generator)

    def orthogonal(self, dim: int) -> Tensor:
        """A random orthogonal matrix."""
        return torch.linalg.qr(self.normal(dim, dim)).Q

    def mixture(self, dim: int) -> GaussianMixture:
        """Two to five Gaussians that overlap, in units between 0.3 and 3, up to three units from the origin.

        Weights in proportion to U(0.25, 1.25), means normal, standard deviations along random axes between 0.5 and 1.2.
        """
        count = int(torch.randint(2, 6, (), generator=self.generator))
        weights = 0.25 + torch.rand(count, dtype=torch.float64, generator=self.generator)
        means = self.normal(count, dim)
        covariances = []
        for _ in range(count):
            axes = self.orthogonal(dim)
            variances = torch.tensor([self.log_uniform(0.5, 1.2) ** 2 for _ in range(dim)], dtype=torch.float64)
            covariances.append(axes @ torch.diag(variances) @ axes.mT)
        unit = self.log_uniform(0.3, 3)
        offset = torch.tensor([self.uniform(-3, 3) for _ in range(dim)], dtype=torch.float64)
        stacked = torch.stack(covariances)
        covariance = 0.5 * unit**2 * (stacked + stacked.mT)
        return GaussianMixture(weights / weights.sum(), unit * means + offset, covariance)

    def operator(self, dim: int) -> Tensor:
        """Singular values a, ..., a/k with a between 0.3 and 3 and the condition k between 1 and 5."""
        size, condition = self.log_uniform(0.3, 3), self.uniform(1, 5)
        values = torch.logspace(0, -math.log10(condition), dim, dtype=torch.float64)
        return size * self.orthogonal(dim) @ torch.diag(values) @ self.orthogonal(dim)


def draw(seed: int, dim: int = 2, prior: Callable[[Draw], Prior] | None = None) -> tuple[LinearProblem, Prior]:
    """Return a random problem with an operator of condition at most 5, and a random smooth prior.

    The noise level is 12 to 50 % of the size of a measurement, but so low that Corollary 1 holds with a margin: the
    curvature of the negative log posterior, relative to that of the Gaussian with the same covariance, is at least a
    number between 0.05 and 0.3 at all of 4,000 samples. (Beyond it, no invertible network has the MAP as its inverse.)
    """
    random = Draw(seed)
    law = random.mixture(dim) if prior is None else prior(random)
    operator = random.operator(dim)
    x = law.sample(4000, generator=random.generator)
    covariance = torch.atleast_2d(x.mT.cov())
    size = math.sqrt(float((operator @ covariance @ operator.mT).trace()) / dim)
    noise_std, margin = random.log_uniform(0.12, 0.5) * size, random.uniform(0.05, 0.3)
    hessian, normal = law.hessian(x), operator.mT @ operator
    while _least_curvature(normal, noise_std, covariance, hessian) < margin:
        noise_std *= 0.93
    return LinearProblem(operator, noise_std), law


def _least_curvature(normal: Tensor, noise_std: float, covariance: Tensor, hessian: Tensor) -> float:
    values, vectors = torch.linalg.eigh(normal + noise_std**2 * torch.linalg.inv(covariance))
    root = vectors @ torch.diag(values.rsqrt()) @ vectors.mT
    return float(torch.linalg.eigvalsh(root @ (normal - noise_std**2 * hessian) @ root).min())


def _logistic(random: Draw) -> Prior:
    return LogisticPrior([random.log_uniform(0.3, 1.5) for _ in range(2)])


def _quartic(random: Draw) -> Prior:
    """A density on its box: a rotated product of exp(-u^2/2 - k u^4)."""
    axes, strength, unit = random.orthogonal(2), random.log_uniform(0.05, 1), random.log_uniform(0.3, 3)

    def log_density(x: Tensor) -> Tensor:
        square = (x @ axes / unit).square()
        return -(0.5 * square + strength * square.square()).sum(-1)

    corner = 8 * unit * torch.ones(2, dtype=torch.float64)
    return DensityPrior(log_density, -corner, corner, log_concave=True)


def case(seed: int, dim: int = 2, prior: Callable[[Draw], Prior] | None = None) -> Case:
    """Return a random problem with its exact estimates at random data."""
    problem, law = draw(seed, dim, prior)
    generator = seeded(10_000 + seed)
    x = law.sample(DATA, generator=generator)
    z = problem.normal_data(problem.measure(x, generator=generator))
    covariance = invlib.posterior_covariance(problem, law, z)
    deviation = float(covariance.diagonal(dim1=-2, dim2=-1).sum(-1).mean().sqrt())
    return Case(problem, law, z, map_estimate(problem, law, z), posterior_mean(problem, law, z), deviation)


def _by_log_density(seed: int) -> Case:
    """The same density given by its logarithm and a sampler alone: no box, no moments, no quasi-random points."""
    known = case(seed, prior=_quartic)
    density = known.prior
    prior = Prior.from_log_density(2, density.log_density, sample=density.sample)
    return Case(known.problem, prior, known.z, known.mode, known.mean, known.deviation)


def _by_samples(seed: int) -> Case:
    """Mean and covariance from 256 samples."""
    known = case(seed)
    points = known.prior.sample(256, generator=seeded(20_000 + seed))
    moments = points.mean(0), shrunk_covariance(points)
    return Case(known.problem, known.prior, known.z, known.mode, known.mean, known.deviation, moments)


OTHERS: dict[str, Callable[[int], Case]] = {
    "on the line": lambda seed: case(seed, dim=1),
    "logistic prior": lambda seed: case(seed, prior=_logistic),
    "log-density and sampler": _by_log_density,
    "C from 256 samples": _by_samples,
}


def random_problems(quick: bool) -> Topic:
    """Train default and standardized networks, one for each random problem: distance to the MAP or the mean."""
    rows: list[Row] = []
    checks: list[Row] = []
    count, seeds = (2, NETWORK_SEEDS[:1]) if quick else (PROBLEMS, NETWORK_SEEDS)
    plane = [case(FIRST_SEED + k) for k in range(count)]
    for loss in ("divergence", "reconstruction"):
        for network, build in BUILDERS.items():
            runs = seeds[:1] if network == "default" else seeds
            rows.append(_row(f"{count} in the plane", loss, network, plane, runs, build, quick))
        checks.append(check(f"worst / MAP-PM, {loss}, in the plane", rows[-1]["worst / MAP-PM"], QUARTER))
    for kind, make in OTHERS.items():
        cases = [make(FIRST_SEED + 100 + k) for k in range(2 if quick else 3)]
        for loss in ("divergence", "reconstruction"):
            rows.append(_row(f"{len(cases)}, {kind}", loss, "for_problem", cases, seeds[:1], _for_problem, quick))
    title = "Default options on random problems: RMS distance to the exact estimator, over its yardsticks"
    return {"title": title, "rows": rows, "checks": checks}


def _default(cases: Sequence[Case], seed: int) -> IResNet:
    return IResNet(cases[0].problem.dim, members=len(cases), generator=seeded(seed))


def _for_problem(cases: Sequence[Case], seed: int) -> IResNet:
    given = [each.moments for each in cases]
    options = {}
    if all(given):
        options = {"mean": torch.stack([m for m, _ in given]), "covariance": torch.stack([C for _, C in given])}
    problems, priors = [each.problem for each in cases], [each.prior for each in cases]
    return IResNet.for_problem(problems, priors, members=len(cases), generator=seeded(seed), **options)


BUILDERS = {"default": _default, "for_problem": _for_problem}


def _row(
    problems: str,
    loss: Strategy,
    network: str,
    cases: Sequence[Case],
    seeds: Sequence[int],
    build: Callable[[Sequence[Case], int], IResNet],
    quick: bool,
) -> Row:
    errors, seconds = [], 0.0
    for seed in seeds:
        found, took = _errors(build(cases, seed), cases, loss, seed, quick)
        errors.append(found)
        seconds += took
    shares = [error / each.distance for found in errors for error, each in zip(found, cases, strict=True)]
    deviations = [error / each.deviation for found in errors for error, each in zip(found, cases, strict=True)]
    print(f"{loss}, {network}, {problems}:", *[f"{share:.2f}" for share in shares], f"{seconds:.0f} s", flush=True)
    return {
        "problems": problems,
        "loss": loss,
        "network": network,
        "runs": len(shares),
        "worst / MAP-PM": max(shares),
        "median / MAP-PM": statistics.median(shares),
        "beyond 1/4": sum(share > QUARTER for share in shares),
        "worst / posterior std": max(deviations),
        "median / posterior std": statistics.median(deviations),
        "CPU seconds, each": seconds / len(shares),
    }


def _errors(net: IResNet, cases: Sequence[Case], loss: Strategy, seed: int, quick: bool) -> tuple[list[float], float]:
    """The distance of each member's inverse to its exact estimator, and the CPU seconds of the training."""
    problems, priors = [each.problem for each in cases], [each.prior for each in cases]
    options = {"steps": 50} if quick else {}
    with threads(max(THREAD_COUNTS)):
        start = time.process_time()
        train(net, problems, priors, loss, generator=seeded(seed), **options)
        seconds = time.process_time() - start
        with torch.no_grad():
            found = net.inverse(torch.stack([each.z for each in cases]), tol=1e-8)
    exact = [each.mode if loss == "divergence" else each.mean for each in cases]
    return [_rms(x - target) for x, target in zip(found, exact, strict=True)], seconds


# Sixty-four dimensions


def signals(seed: int) -> tuple[LinearProblem, GaussianMixture]:
    """Return a blur of signals of 64 points, condition between 10 and 100, and a mixture of five random Gaussians."""
    random, dim = Draw(seed), 64
    weights = 0.3 + torch.rand(5, dtype=torch.float64, generator=random.generator)
    means = 0.7 * random.normal(5, dim)
    covariances = []
    for _ in range(5):
        factor = 0.5 * random.normal(dim, 6)
        variances = 0.05 + 0.25 * torch.rand(dim, dtype=torch.float64, generator=random.generator)
        covariances.append(factor @ factor.mT + torch.diag(variances))
    prior = GaussianMixture(weights / weights.sum(), means, torch.stack(covariances))

    index = torch.arange(dim, dtype=torch.float64)
    frequency = torch.minimum(index, dim - index) / (dim / 2)
    transfer = torch.exp(-math.log(random.log_uniform(10, 100)) * frequency.square())
    kernel = torch.fft.ifft(transfer.to(torch.complex128)).real
    rows = [kernel.roll(shift) for shift in range(dim)]
    return LinearProblem(torch.stack(rows, dim=1), 0.1), prior


LOSSES_64: dict[str, dict[str, int]] = {
    "divergence": {"steps": 300},
    "reconstruction": {"steps": 150, "batch_size": 128},
    "log_det": {"steps": 150, "batch_size": 128},
    "approximation": {"steps": 300},
}


def random_problems_64(quick: bool) -> Topic:
    """Train networks in 64 dimensions for a minute and less: RMS error of x beside Wiener's filter."""
    rows: list[Row] = []
    checks: list[Row] = []
    numbers = range(1) if quick else range(3)
    cases = [_signals_case(FIRST_SEED + 200 + k) for k in numbers]
    short = {"steps": 10} if quick else {}
    for loss, options in LOSSES_64.items():
        often = loss in ("divergence", "reconstruction") and not quick
        if loss == "divergence":
            rows.append(_row_64(loss, "default", cases, SEEDS_64[:1], options | short))
        rows.append(_row_64(loss, "for_problem", cases, SEEDS_64 if often else SEEDS_64[:1], options | short))
        if loss in ("divergence", "reconstruction"):
            checks.append(check(f"error / Wiener's filter, {loss}, n = 64", rows[-1]["worst / Wiener"], 1.0))
    return {
        "title": "64 dimensions: RMS error of the reconstruction over that of Wiener's filter",
        "rows": rows,
        "checks": checks,
    }


@dataclass(frozen=True)
class SignalsCase:
    """A problem, its prior, test points x with their data z, and the errors of the best filter and of the mean."""

    problem: LinearProblem
    prior: GaussianMixture
    x: Tensor
    z: Tensor
    wiener: float
    best: float


def _signals_case(seed: int) -> SignalsCase:
    problem, prior = signals(seed)
    x = prior.sample(DATA, generator=seeded(10_000 + seed))
    z = problem.normal_data(problem.measure(x, generator=seeded(20_000 + seed)))
    inverse = torch.linalg.inv(problem.normal_operator + problem.noise_std**2 * torch.linalg.inv(prior.covariance))
    filtered = prior.mean + (z - problem.normal_operator @ prior.mean) @ inverse
    return SignalsCase(problem, prior, x, z, _rms(filtered - x), _rms(posterior_mean(problem, prior, z) - x))


def _row_64(
    loss: Strategy,
    network: str,
    cases: Sequence[SignalsCase],
    seeds: Sequence[int],
    options: dict[str, int],
) -> Row:
    ratios, seconds = [], []
    for each, seed in itertools.product(cases, seeds):
        if network == "default":
            net = IResNet(64, generator=seeded(seed))
        else:
            net = IResNet.for_problem(each.problem, each.prior, generator=seeded(seed))
        start = time.process_time()
        train(net, each.problem, each.prior, loss, generator=seeded(seed), **options)
        seconds.append(time.process_time() - start)
        with torch.no_grad():
            ratios.append(_rms(net.inverse(each.z) - each.x) / each.wiener)
    print(f"{loss}, {network}:", *[f"{ratio:.3f}" for ratio in ratios], f"{sum(seconds):.0f} s", flush=True)
    return {
        "loss": loss,
        "network": network,
        "runs": len(ratios),
        "steps": options["steps"],
        "worst / Wiener": max(ratios),
        "median / Wiener": statistics.median(ratios),
        "posterior mean / Wiener": statistics.median(each.best / each.wiener for each in cases),
        "CPU seconds, each": statistics.median(seconds),
    }


def _rms(difference: Tensor) -> float:
    return float(difference.double().square().sum(-1).mean().sqrt())
