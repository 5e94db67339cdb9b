"""Checks and machinery of `book/ablations.md`: finite samples, geometries, limits on slopes, activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

import invlib
from checks.tools import bumps, isotonic, rms, seeded
from invlib import Activation, GaussianMixture, IResNet, LinearProblem, Samples, testproblems
from invlib.activations import SWISH

Numbers = dict[str, float]

NOISE_STD = 0.45


# The settings that are tried, and what every estimator makes of them


@dataclass(frozen=True)
class Geometry:
    """A prior and a problem, with the estimators that networks are compared with.

    Attributes:
        name: for legends and tables.
        problem: the problem.
        prior: the distribution of x.
    """

    name: str
    problem: LinearProblem
    prior: GaussianMixture | invlib.LogisticPrior

    def data(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return fresh pairs of the unknown and its data, (B, n) each."""
        generator = seeded(seed)
        truth = self.prior.sample(count, generator=generator)
        return truth, self.problem.normal_data(self.problem.measure(truth, generator=generator))

    def affine(self, z: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
        """Return Wiener's filter for a prior with this mean and covariance, (B, n)."""
        noise2, inverse = self.problem.noise_std**2, torch.linalg.inv(covariance)
        shifted = z + noise2 * inverse @ mean
        x: Tensor = torch.linalg.solve(self.problem.normal_operator + noise2 * inverse, shifted.mT).mT
        return x

    def mean(self, z: Tensor) -> Tensor:
        """Return the exact posterior mean, (B, n); for the logistic prior by the trapezoidal rule, which is faster."""
        if isinstance(self.prior, GaussianMixture):
            return invlib.posterior_mean(self.problem, self.prior, z)
        axis = torch.linspace(-15, 15, 121, dtype=torch.float64)
        x = torch.cartesian_prod(axis, axis)
        misfit = 0.5 * self.problem.forward(x).square().sum(-1) / self.problem.noise_std**2
        weights = torch.softmax(z @ x.mT / self.problem.noise_std**2 + self.prior.log_prob(x) - misfit, -1)
        mean: Tensor = weights @ x
        return mean

    def naive(self, z: Tensor) -> Tensor:
        """Return H^{-1} z, (B, n)."""
        x: Tensor = torch.linalg.solve(self.problem.normal_operator, z.mT).mT
        return x


@dataclass(frozen=True)
class Trial:
    """Test data of several geometries, with the exact estimates, (G, B, n) each.

    Attributes:
        x: the truth.
        z: the data.
        mean: the exact posterior means.
        mode: the exact MAP estimates.
    """

    x: Tensor
    z: Tensor
    mean: Tensor
    mode: Tensor

    @classmethod
    def of(cls, geometries: Sequence[Geometry], count: int, seed: int) -> Trial:
        """Draw the data and compute the estimates."""
        rows = []
        for each in geometries:
            x, z = each.data(count, seed)
            mean = each.mean(z)
            rows.append((x, z, mean, invlib.map_estimate(each.problem, each.prior, z)))
        return cls(*(torch.stack(part) for part in zip(*rows, strict=True)))

    @property
    def apart(self) -> Tensor:
        """The root mean square distances of MAP and posterior mean, (G,)."""
        return rms(self.mode - self.mean)

    def reconstruct(self, net: IResNet) -> Tensor:
        """Return what the networks make of the data, (G, members for each geometry, B, n), with small residuals."""
        each = (net.members or 1) // len(self.z)
        solution = net.solve_inverse(self.z.repeat_interleave(each, 0))
        assert solution.residual.max() <= 1e-6
        return solution.x.reshape(len(self.z), each, *self.z.shape[1:])

    def measure(self, net: IResNet) -> tuple[Tensor, Tensor]:
        """Return errors against the truth and distances to the MAP estimates, (G, members for each geometry) each.

        Errors are root mean squares; the unit of the distances is that of MAP and mean.
        """
        found = self.reconstruct(net)
        return rms(found - self.x[:, None]), rms(found - self.mode[:, None]) / self.apart[:, None]


def data_sets(geometries: Sequence[Geometry], size: int, repeats: int, held_out: float) -> list[Samples]:
    """Return `repeats` data sets of each geometry, one for each member of an ensemble."""
    generator = seeded(5)
    return [
        Samples(each.prior.sample(size, generator=generator), held_out=held_out, seed=repeat)
        for each in geometries
        for repeat in range(repeats)
    ]


def modes_for(geometry: Geometry, z: Tensor, ratios: Sequence[float]) -> Tensor:
    """Return the exact MAP estimates for other noise levels, given relative to the true one, (len(ratios), B, n)."""
    operator, noise_std = geometry.problem.operator, geometry.problem.noise_std
    believed = [LinearProblem(operator, noise_std=ratio * noise_std) for ratio in ratios]
    return torch.stack([invlib.map_estimate(each, geometry.prior, z) for each in believed])


LONG = 1.2, 0.15
"""Length and width of the long bumps: standard deviations."""


def other_priors() -> list[Geometry]:
    """Return three bumps, two long parallel bumps, and the logistic prior with two noise levels."""
    eye = torch.eye(2, dtype=torch.float64)
    angles = [math.pi / 2 + 2 * math.pi * k / 3 for k in range(3)]
    corners = [[0.95 * math.cos(a), 0.95 * math.sin(a)] for a in angles]
    three = GaussianMixture([1 / 3] * 3, corners, torch.stack([0.55**2 * eye] * 3))
    c, s = math.cos(math.pi / 6), math.sin(math.pi / 6)
    along, across = torch.tensor([[c, s], [-s, c]], dtype=torch.float64)
    spread = LONG[0] ** 2 * along.outer(along) + LONG[1] ** 2 * across.outer(across)
    offset = 1.5 * LONG[1] * across
    long = GaussianMixture([0.5, 0.5], torch.stack([offset, -offset]), torch.stack([spread, spread]))
    logistic = invlib.LogisticPrior([0.5, 0.5])
    return [
        Geometry("three bumps", LinearProblem(eye, noise_std=0.36), three),
        Geometry("long bumps", LinearProblem(eye, noise_std=0.1), long),
        *(Geometry("logistic", testproblems.epsilon_problem(0.5, noise_std=std), logistic) for std in (0.5, 2.0)),
    ]


def affine_errors(geometries: Sequence[Geometry], trial: Trial, sets: Sequence[Samples]) -> Tensor:
    """Return the errors of Wiener's filters with the mean and covariance of all points of a set, (G, repeats)."""
    repeats, errors = len(sets) // len(geometries), []
    for index, each in enumerate(sets):
        points = torch.cat([each.training, each.held_out])
        at = index // repeats
        found = geometries[at].affine(trial.z[at], points.mean(0), points.mT.cov(correction=0))
        errors.append(rms(found - trial.x[at]))
    return torch.stack(errors).reshape(len(geometries), repeats)


# Steep on the samples


def optimal_map(prior: GaussianMixture, x: Tensor, strength: float = NOISE_STD) -> Tensor:
    """Return the minimizer of the divergence loss for A = Id, (..., n)."""
    return x - strength**2 * prior.score(x)


def optimal_divergence(prior: GaussianMixture, x: Tensor, strength: float = NOISE_STD) -> Tensor:
    """Return the divergence of this minimizer, (...)."""
    laplacian: Tensor = prior.hessian(x).diagonal(dim1=-2, dim2=-1).sum(-1)
    return x.shape[-1] - strength**2 * laplacian


def least_loss(prior: GaussianMixture, fresh: Tensor, strength: float = NOISE_STD) -> float:
    """Return the minimum of the true loss for A = Id, without the constant of the noise, from a quasi-random sample."""
    fisher = float(prior.score(fresh).square().sum(-1).mean())
    return -fresh.shape[-1] * strength**2 - 0.5 * strength**4 * fisher


def loss_on(net: IResNet, points: Tensor, strength: float = NOISE_STD) -> Tensor:
    """Return the loss of each member at z = Hx = x; points (B, n), or (E, B, n)."""
    points = points.expand(net.members or 1, *points.shape[-2:])
    return invlib.divergence_loss(net, points, points, strength)


def divergence_on(net: IResNet, points: Tensor) -> Tensor:
    """Return the divergence of each member, (E, B); points (B, n), or (E, B, n)."""
    return net.forward_and_divergence(points.expand(net.members or 1, *points.shape[-2:]))[1]


@dataclass(frozen=True)
class SteepFlow:
    """The map F of the proposition: the flow at time t of a field that pushes away from each sample.

    Attributes:
        points: the samples, (N, n).
        rho: twice the radius of the balls.
        t: the time; the slope at a sample is exp(t).
        rounds: steps of the Runge-Kutta method.
    """

    points: Tensor
    rho: float
    t: float
    rounds: int = 32

    def field(self, x: Tensor) -> Tensor:
        """Return the field at one point, (n,): the offset, times a bump of the squared distance."""
        offsets = x - self.points
        r = 4 * offsets.square().sum(-1) / self.rho**2
        safe = torch.where(r < 1, r, torch.zeros_like(r))
        bump = torch.where(r < 1, torch.exp(1 - 1 / (1 - safe)), torch.zeros_like(r))
        return (offsets * bump[:, None]).sum(0)

    def one(self, x: Tensor) -> Tensor:
        """Return F at one point, (n,)."""
        dt = self.t / self.rounds
        for _ in range(self.rounds):
            k1 = self.field(x)
            k2 = self.field(x + 0.5 * dt * k1)
            k3 = self.field(x + 0.5 * dt * k2)
            k4 = self.field(x + dt * k3)
            x = x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return x

    def __call__(self, x: Tensor) -> Tensor:
        """Return F at points (B, n)."""
        value: Tensor = torch.func.vmap(self.one)(x)
        return value

    def jacobian(self, x: Tensor) -> Tensor:
        """Return DF at points (B, n), (B, n, n)."""
        value: Tensor = torch.func.vmap(torch.func.jacfwd(self.one))(x)
        return value

    def mean_loss(self, points: Tensor) -> float:
        """Return L_N over points, for H = Id, without the constant of the noise."""
        misfit = 0.5 * (self(points) - points).square().sum(-1)
        divergence = self.jacobian(points).diagonal(dim1=-2, dim2=-1).sum(-1)
        return float((misfit - NOISE_STD**2 * divergence).mean())


def separated_samples(count: int = 10) -> tuple[Tensor, float]:
    """Return samples of the two bumps and the least distance of two of them."""
    samples = bumps().sample(count, generator=seeded(1))
    return samples, float(torch.pdist(samples).min())


def changes_of_true_loss(samples: Tensor, flow: SteepFlow, side: int = 81) -> tuple[float, float]:
    """Return by how much the true loss of F exceeds that of the identity, computed in two ways.

    The first uses divergences and no score, the second, half the squared distance to the best map, the score and no
    divergence. In the ball around x_i the map is x_i + F_0(x - x_i), with F_0 for one sample at zero: so one lattice
    serves all balls (midpoint rule).
    """
    prior, rho, origin = bumps(), flow.rho, replace(flow, points=torch.zeros(1, 2).double())
    ticks = rho * ((torch.arange(side, dtype=torch.float64) + 0.5) / side - 0.5)
    cell = torch.cartesian_prod(ticks, ticks)
    image, slopes = origin(cell), origin.jacobian(cell)
    inside = cell.norm(dim=-1) < rho / 2
    assert (flow(samples[0] + cell[inside][::97]) - samples[0] - image[inside][::97]).abs().max() < 1e-12
    places = samples[:, None] + cell
    weight = prior.log_prob(places).exp() * (rho / side) ** 2
    gained = slopes.diagonal(dim1=-2, dim2=-1).sum(-1) - 2
    by_slopes = (weight * (0.5 * (image - cell).square().sum(-1) - NOISE_STD**2 * gained)).sum()
    best = optimal_map(prior, places)
    after, before = samples[:, None] + image - best, places - best
    by_distance = 0.5 * (weight * (after.square() - before.square()).sum(-1)).sum()
    return float(by_slopes), float(by_distance)


def check_ab_finite() -> Numbers:
    """Build F for ten samples: steep there, near the identity everywhere, and with nearly the same true loss.

    Values and slopes at the samples are exact up to the error of the Runge-Kutta method (1e-5; 1e-4 for t = 4). The
    change of the true loss is computed with divergences and with distances to the best map; both are sums over the same
    lattice (a few per cent). Then the loss on the samples falls without end as t grows, and on the maps
    with slopes up to C it stays above the bound of part 4.
    """
    samples, rho = separated_samples()
    flow, eye = SteepFlow(samples, rho, 2.0), torch.eye(2, dtype=torch.float64)
    slope = math.exp(flow.t)
    offsets = rho * (torch.rand(10, 5, 2, dtype=torch.float64, generator=seeded(11)) - 0.5)
    near = (samples[:, None] + offsets).reshape(-1, 2)
    assert (flow(samples) - samples).abs().max() < 1e-12
    assert (flow.jacobian(samples) - slope * eye).abs().max() < 1e-5
    assert (flow(near) - near).norm(dim=-1).max() <= rho
    assert torch.linalg.det(flow.jacobian(near)).min() > 0

    identity = -2 * NOISE_STD**2
    falls = [identity - SteepFlow(samples, rho, t).mean_loss(samples) for t in (1.0, 2.0, 4.0)]
    for t, fall in zip((1.0, 2.0, 4.0), falls, strict=True):
        assert abs(fall - NOISE_STD**2 * 2 * (math.exp(t) - 1)) < 1e-4 * math.exp(t)
        assert identity - fall >= -(NOISE_STD**2) * 2 * math.exp(t) * (1 + 1e-4)

    by_slopes, by_distance = changes_of_true_loss(samples, flow)
    assert abs(by_slopes - by_distance) < 0.05 * by_slopes  # the lattice
    fresh = invlib.quasi_sample(bumps(), 2**14, seed=4)
    excess = identity - least_loss(bumps(), fresh)
    shift = math.sqrt(2 * (excess + by_slopes)) - math.sqrt(2 * excess)
    assert abs(shift) <= rho
    assert abs(by_slopes) < 1e-4 * falls[1]
    return {"fall": falls[1], "rho": rho, "change": abs(by_slopes), "shift": abs(shift)}


def control_ab_finite() -> Numbers:
    """Break three assumptions: balls that overlap; a prior without a density; slopes that stay within a class.

    An eleventh sample closer than rho is moved, and its slope is another one. If the prior is the uniform law of the
    ten points, which has no density, the true loss is the loss on the samples, and it falls although no point
    moves. And a map that is as steep everywhere has the same divergence at the samples, but is far from the identity.
    """
    samples, rho = separated_samples()
    crowd = torch.cat([samples, samples[:1] + 0.2 * rho])
    crowded, slope = SteepFlow(crowd, rho, 2.0), math.exp(2.0)
    moved = float((crowded(crowd) - crowd).norm(dim=-1).max())
    assert moved > 0.1 * rho
    assert (crowded.jacobian(crowd) - slope * torch.eye(2).double()).abs().max() > 0.1

    flow = SteepFlow(samples, rho, 2.0)
    fall = -2 * NOISE_STD**2 - flow.mean_loss(samples)
    assert fall > 2
    assert (flow(samples) - samples).abs().max() < 1e-12

    fresh = invlib.quasi_sample(bumps(), 2**14, seed=4)
    floor = least_loss(bumps(), fresh)
    loss = 0.5 * (slope - 1) ** 2 * float(fresh.square().sum(-1).mean()) - 2 * NOISE_STD**2 * slope
    shift = math.sqrt(2 * (loss - floor)) - math.sqrt(2 * (-2 * NOISE_STD**2 - floor))
    assert shift > 10 * rho
    return {"moved": moved / rho, "fall": fall, "everywhere": shift / rho}


# On the line: the nearest function with slopes in a range


@dataclass(frozen=True)
class Line:
    """A mixture on the line on a grid, where every exact answer is a curve; A = 1.

    Attributes:
        prior: the distribution of x.
        u: the grid for x, (P,).
        z: the grid for the data, (D,).
    """

    prior: GaussianMixture
    u: Tensor
    z: Tensor

    @classmethod
    def through(cls, weight: float = 0.5, scale: float = 1.0) -> Line:
        """Return the line through the two bumps."""
        centre = scale * math.hypot(0.8, 0.5)
        prior = GaussianMixture([weight, 1 - weight], [[centre], [-centre]], 2 * [[[0.59**2]]])
        u, z = (torch.linspace(-end, end, count, dtype=torch.float64) for end, count in ((5, 4001), (4.5, 901)))
        return cls(prior, u, z)

    @property
    def problem(self) -> LinearProblem:
        """The problem with A = 1."""
        return LinearProblem([[1.0]], noise_std=NOISE_STD)

    @property
    def weights(self) -> Tensor:
        """Of the prior at the grid points, (P,)."""
        return self.prior.log_prob(self.u[:, None]).exp() * (self.u[1] - self.u[0])

    @property
    def star(self) -> Tensor:
        """The best map, (P,)."""
        return optimal_map(self.prior, self.u[:, None])[:, 0]

    def size(self, values: Tensor) -> Tensor:
        """Return root mean squares over the prior of functions on the grid, (..., P) to (...)."""
        return (values.square() @ self.weights).sqrt()

    def slopes(self, values: Tensor) -> Tensor:
        """Return the slopes of functions on the grid."""
        return values.diff() / self.u.diff()

    def values(self, net: IResNet) -> Tensor:
        """Return the trained maps on the grid, (E, P)."""
        values: Tensor = net(self.u[:, None].expand(net.members or 1, -1, -1))[..., 0]
        return values

    def inverse(self, values: Tensor) -> Tensor:
        """Return the inverses of increasing functions on the grid, at the data, (..., P) to (..., D)."""
        assert (values.diff() > 0).all()
        rows = [np.interp(self.z, row, self.u) for row in values.reshape(-1, len(self.u))]
        return torch.from_numpy(np.stack(rows)).reshape(*values.shape[:-1], len(self.z))

    def to_mode(self, values: Tensor) -> Tensor:
        """Return the distances of inverses to the MAP estimator, in units of that of MAP and mean."""
        points = self.z[:, None]
        law = invlib.data_distribution(self.problem, self.prior)
        weights = law.log_prob(points).exp() * (self.z[1] - self.z[0])
        mode = invlib.map_estimate(self.problem, self.prior, points)[:, 0]
        mean = invlib.posterior_mean(self.problem, self.prior, points)[:, 0]

        def size(errors: Tensor) -> Tensor:
            return (errors.square() @ weights).sqrt()

        return size(self.inverse(values) - mode) / size(mode - mean)


def nearest_with_slopes(line: Line, low: float, high: float, rounds: int = 10_000) -> Tensor:
    """Return the function nearest to the best map, over the prior, with slopes in [low, high]: Dykstra's method.

    It repeats two projections, with corrections: on the functions for which f - low x increases, and on those for which
    high x - f does.
    """
    u, w, f = line.u, line.weights, line.star
    first, second = torch.zeros_like(f), torch.zeros_like(f)
    for _ in range(rounds):
        g = isotonic(f + first - low * u, w) + low * u
        first = f + first - g
        new = high * u - isotonic(high * u - g - second, w)
        second = g + second - new
        change, f = float((new - f).abs().max()), new
        if change < 1e-12:
            return f
    raise RuntimeError(f"the projections still change by {change}")


def certificate(line: Line, f: Tensor, low: float, high: float) -> float:
    """Return the largest E(star - f)(g - f) over all g with slopes in [low, high]: nothing, if f is the nearest one."""
    rest = (line.star - f) * line.weights
    assert abs(float(rest.sum())) < 1e-12
    tail = rest.flip(0).cumsum(0).flip(0)[1:]  # from each grid point on
    most = (high * tail.clamp_min(0) + low * tail.clamp_max(0)) @ line.u.diff()
    return float(most - tail @ f.diff())


def clipped(line: Line, low: float, high: float) -> Tensor:
    """Return the best map with its slopes cut off, shifted to the right mean: in the range, but not the nearest."""
    steps = line.star.diff().clamp(low * line.u.diff(), high * line.u.diff())
    cut = torch.cat([torch.zeros(1, dtype=torch.float64), steps.cumsum(0)])
    return cut + ((line.star - cut) @ line.weights) / line.weights.sum()


# Activations


KINK = Activation("kink", torch.abs, torch.sign, 1.0)


def swish_falls_by() -> float:
    """Return minus the least slope of swish, relative to the bound on its slopes."""
    slopes = SWISH.derivative(torch.linspace(-40, 40, 80_001, dtype=torch.float64)) / SWISH.slope_bound
    assert slopes.abs().max() <= 1
    return -float(slopes.min())


def with_score(priors: Sequence[GaussianMixture]) -> Callable[[IResNet, Tensor, Tensor], Tensor]:
    """Return the loss of the divergence term after integration by parts, with one prior for each member."""

    def loss(net: IResNet, x: Tensor, z: Tensor) -> Tensor:
        score = torch.stack([prior.score(points) for prior, points in zip(priors, x, strict=True)]).to(x)
        value: Tensor = net(x)
        return (0.5 * (value - z).square().sum(-1) + NOISE_STD**2 * (value * score).sum(-1)).mean(-1)

    return loss


def gradient_bias(net: IResNet, line: Line) -> Tensor:
    """Return the relative error of the sample-path gradient of E phi' of each member, (E,), with exact averages.

    The exact gradient is that of -E phi s: there is no slope in it, and one may differentiate under the integral.
    """
    step = 2.5e-4
    u = torch.arange(-5, 5 + step / 2, step, dtype=torch.float64)[:, None]
    w, score = line.prior.log_prob(u).exp() * step, line.prior.score(u)[:, 0]
    net.requires_grad_(True)
    points = u.expand(net.members or 1, -1, -1)
    value, slope = net.forward_and_divergence(points)
    by_parts = -(value[..., 0] * score) @ w
    assert (slope @ w - by_parts).abs().max() < 1e-3  # equal with kinks, too, up to the grid
    parameters = [*net.weights, *net.biases[:-1]]  # the last bias moves no slope

    def gradient(total: Tensor) -> Tensor:
        parts = torch.autograd.grad(total, parameters, retain_graph=True, materialize_grads=True)
        return torch.cat([part.flatten(1) for part in parts], 1)  # zeros for a sign, which has no gradient

    path, exact = gradient((slope @ w).sum()), gradient(by_parts.sum())
    net.requires_grad_(False)
    bias: Tensor = (path - exact).norm(dim=1) / exact.norm(dim=1)
    return bias


def largest_difference(low: float, rounds: int = 400, width: int = 12) -> float:
    """Return the largest difference of two Jacobians over random branches with L = 1 and slopes in [low, 1].

    Half of the slopes are at the ends of the interval.
    """
    generator = seeded(12)
    shapes = ((width, 2), (width, width), (2, width))
    layers = [torch.randn(rounds, *shape, dtype=torch.float64, generator=generator) for shape in shapes]
    w1, w2, w3 = (w / torch.linalg.matrix_norm(w, 2)[:, None, None] for w in layers)
    d = torch.rand(rounds, 4, width, dtype=torch.float64, generator=generator)
    d[::2] = d[::2].round()
    d1, d2, e1, e2 = (low + (1 - low) * d).unbind(1)
    first, second = (w3 @ (b[:, :, None] * w2 * a[:, None]) @ w1 for a, b in ((d1, d2), (e1, e2)))
    return float(torch.linalg.matrix_norm(first - second, 2).max())
