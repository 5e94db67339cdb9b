"""Exact maps and their two errors over noise and angle, and the check of the chapter on noise levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

import invlib
from checks.minimizers import minimizer_on_line
from checks.tools import rms
from invlib import GaussianMixture, IResNet, LinearProblem, testproblems
from invlib.ascent import maximize
from invlib.log_det_minimizer import LogDetMinimizer
from invlib.testproblems import epsilon_problem

Numbers = dict[str, float]

BUMPS = testproblems.two_bumps()
"""The prior of the chapter."""

STD = 0.59
"""The standard deviation of a bump, in every direction."""

AXIS = math.degrees(math.atan2(0.5, 0.8))
"""The angle of the line through both bumps."""

EPS = 1 / 8
"""The small singular value."""


# One direction and a Gaussian: phi(x) = a x with a = r h, and t = delta^2 / (h s^2)


def log_det_ratio(t: float) -> float:
    """Return r = a / h of the log-determinant in the norm of 1 / h: the positive root of r^2 = r + t."""
    return 0.5 * (1 + math.sqrt(1 + 4 * t))


def errors_of_filter(a: float, h: float, s: float, delta: float, correlation: float = 0.0) -> tuple[float, float]:
    """Return the mean squares of z / a - x and a x - z, as sums over pairs (x, eta) of normal quantiles.

    Args:
        a: the slope of phi.
        h: z = h x + sqrt(h) eta.
        s: the standard deviation of x.
        delta: that of eta.
        correlation: of x and eta.
    """
    uniform = (torch.arange(800, dtype=torch.float64) + 0.5) / 800
    normal = torch.special.ndtri(uniform)
    normal = normal / normal.square().mean().sqrt()
    x, other = s * normal[:, None], normal[None, ::2]
    other = other / other.square().mean().sqrt()
    eta = delta * (correlation * x / s + math.sqrt(1 - correlation**2) * other)
    z = h * x + math.sqrt(h) * eta
    return float((z / a - x).square().mean()), float((a * x - z).square().mean())


# The plane


@dataclass(frozen=True)
class Scene:
    """A problem and a prior with test data, the exact maps, and the errors of any map.

    No error uses the noise of the data twice: backward, the mean square of x^ - x is the mean square of x^ - x_PM plus
    the mean trace of the posterior covariance; forward, that of phi(x) - z is that of phi(x) - Hx plus the floor.

    Attributes:
        problem: in the plane.
        prior: its mean is zero.
        x: unknowns, (B, 2).
        z: data, (B, 2).
        found: the reconstructions of exact maps, as far as they were asked for.
    """

    problem: LinearProblem
    prior: GaussianMixture
    x: Tensor
    z: Tensor
    found: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def wiener(self) -> Tensor:
        """The matrix H + delta^2 Sigma^{-1}; its inverse is Wiener's filter."""
        precision = torch.linalg.inv(self.prior.covariance)
        matrix: Tensor = self.problem.normal_operator + self.problem.noise_std**2 * precision
        return matrix

    @cached_property
    def mean(self) -> Tensor:
        """The posterior means, (B, 2)."""
        return invlib.posterior_mean(self.problem, self.prior, self.z)

    @cached_property
    def minimizer(self) -> LogDetMinimizer:
        """The minimizer of the log-determinant's loss, in the norm of H^{-1}."""
        return LogDetMinimizer(self.problem, self.prior, whiten=True, spacing=0.85)

    @cached_property
    def least(self) -> float:
        """The least mean squared error of a reconstruction."""
        covariance = invlib.posterior_covariance(self.problem, self.prior, self.z)
        return float(covariance.diagonal(dim1=-2, dim2=-1).sum(-1).mean())

    @cached_property
    def floor(self) -> float:
        """The least mean squared forward error, delta^2 tr H."""
        return self.problem.noise_std**2 * float(self.problem.normal_operator.trace())

    def reconstruction(self, name: str) -> Tensor:
        """Return the reconstructions of an exact map: mean, map, log_det, wiener or naive, (B, 2)."""
        if name not in self.found:
            self.found[name] = self._reconstruction(name)
        return self.found[name]

    def _reconstruction(self, name: str) -> Tensor:
        if name == "map":
            return invlib.map_estimate(self.problem, self.prior, self.z)
        if name == "log_det":
            return self.minimizer.inverse(self.z, self.mean)
        if name == "mean":
            return self.mean
        matrix = self.wiener if name == "wiener" else self.problem.normal_operator
        solution: Tensor = torch.linalg.solve(matrix, self.z.mT).mT
        return solution

    def forward_map(self, name: str) -> Tensor:
        """Return the values at x of the exact forward map of the same name, (B, 2)."""
        hx = self.x @ self.problem.normal_operator
        if name == "map":
            return hx - self.problem.noise_std**2 * self.prior.score(self.x)
        if name == "log_det":
            return self.minimizer(self.x)[0]
        if name == "mean":
            return inverse_of_mean(self.problem, self.prior, self.x)
        return self.x @ self.wiener if name == "wiener" else hx

    def error(self, found: Tensor) -> Tensor:
        """Return the root mean square error of reconstructions (..., B, 2) against the truth, (...)."""
        return (rms(found - self.mean).square() + self.least).sqrt()

    def backward(self, found: Tensor | str) -> Tensor:
        """Return by how many per cent reconstructions, or those of an exact map, err more than the posterior mean."""
        found = self.reconstruction(found) if isinstance(found, str) else found
        return 100 * (self.error(found) / math.sqrt(self.least) - 1)

    def forward(self, value: Tensor | str) -> Tensor:
        """Return by how many per cent the forward error of values at x, or of an exact map, exceeds the floor."""
        value = self.forward_map(value) if isinstance(value, str) else value
        away = rms(value - self.x @ self.problem.normal_operator)
        return 100 * ((1 + away.square() / self.floor).sqrt() - 1)


def inverse_of_mean(problem: LinearProblem, prior: GaussianMixture, x: Tensor) -> Tensor:
    """Return the data whose posterior mean is x, (B, n), by a damped Newton method.

    Raises:
        AssertionError: if some point was not reached to nine digits.
    """

    def value(z: Tensor, wanted: Tensor) -> Tensor:
        return -0.5 * (invlib.posterior_mean(problem, prior, z) - wanted).square().sum(-1)

    def derivatives(z: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        jacobian = invlib.posterior_covariance(problem, prior, z) / problem.noise_std**2
        away = wanted - invlib.posterior_mean(problem, prior, z)
        return (away.unsqueeze(-2) @ jacobian).squeeze(-2), -jacobian.mT @ jacobian

    z, _ = maximize(value, derivatives, x @ problem.normal_operator, data=(x,))
    assert rms(invlib.posterior_mean(problem, prior, z) - x) < 1e-9
    return z


def scene(
    delta: float, angle: float, prior: GaussianMixture = BUMPS, *, eps: float = EPS, count: int = 2000, seed: int = 1
) -> Scene:
    """Return the epsilon-problem with its weak direction at an angle, with quasi-random test data."""
    problem = epsilon_problem(eps, delta, angle=angle)
    uniform = invlib.quasi_uniform(count, prior.dim + 3, seed=seed)
    x = prior.from_uniform(uniform[:, : prior.dim + 1])
    y = problem.forward(x) + delta * torch.special.ndtri(uniform[:, prior.dim + 1 :])
    return Scene(problem, prior, x, problem.normal_data(y))


def evaluate(net: IResNet, scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Return reconstructions of all data and values at all x, (seeds, scenes, B, 2) each.

    Args:
        net: members for each scene, seed after seed; or one member for each seed, which serves all scenes.
        scenes: with the same x.

    Raises:
        AssertionError: if an inverse has not converged, or is not undone by the network.
    """
    z, x, members = torch.stack([s.z for s in scenes]), scenes[0].x, net.members or 1
    each = members % len(scenes) == 0
    data = z.repeat(members // len(scenes), 1, 1) if each else z.flatten(0, 1).expand(members, -1, -1)
    found = net.inverse(data, tol=1e-9)
    assert (net(found) - data).norm(dim=-1).max() < 1e-6
    value = net(x.expand(members, *x.shape))
    value = value if each else value[:, None].expand(-1, len(scenes), -1, -1)
    return found.reshape(-1, *z.shape), value.reshape(-1, *z.shape)


def equation_gap(s: Scene) -> float:
    """Return how far the log-determinant's minimizer is from H x = z + delta^2 H grad log q(z), against the last term.

    The score of q comes from log q(phi(x)) = log p_X(x) - log det D phi(x) by automatic differentiation, which knows
    nothing of how the minimizer was found.
    """
    x = s.reconstruction("log_det").clone().requires_grad_()
    jacobian = s.minimizer(x)[1]
    (slope,) = torch.autograd.grad((s.prior.log_prob(x) - jacobian.logdet()).sum(), x)
    score = torch.linalg.solve(jacobian.detach().mT, slope[..., None])[..., 0]
    pull = s.problem.noise_std**2 * score @ s.problem.normal_operator
    return float(rms(x.detach() @ s.problem.normal_operator - s.z - pull) / rms(pull))


def excess_loss(net: IResNet, scenes: Sequence[Scene]) -> Tensor:
    """Return the losses of the log-determinant above those of the minimizers, in units of delta^2, (E,).

    Sums over the grid of the minimizers; the constant that the noise adds cancels.
    """
    half = scenes[0].minimizer
    points, mass = torch.cat([half.points, -half.points]), torch.cat([half.mass, half.mass]) / 2

    def loss(s: Scene, value: Tensor, log_det: Tensor) -> Tensor:
        away = value - points @ s.problem.normal_operator
        fit = 0.5 * (torch.linalg.solve(s.problem.normal_operator, away.mT).mT * away).sum(-1)
        average: Tensor = (fit / s.problem.noise_std**2 - log_det) @ mass
        return average

    values, log_dets = net.forward_and_log_det(points.expand(net.members or 1, -1, -1))
    excess = []
    for member, (value, log_det) in enumerate(zip(values, log_dets, strict=True)):
        s = scenes[member % len(scenes)]
        best, jacobian = s.minimizer(points)
        excess.append(loss(s, value, log_det) - loss(s, best, jacobian.logdet()))
    return torch.stack(excess)


# The line, and the plane where directions separate


@dataclass(frozen=True)
class Direction:
    """One direction: the least mean squared error, what each map adds to it, and what it adds to the floor."""

    least: float
    gap: Numbers
    price: Numbers


def gaussian_direction(s: float, h: float, delta: float) -> Direction:
    """Return the errors for x ~ N(0, s^2), by hand."""
    t = delta**2 / (h * s**2)
    ratios = {"mean": 1 + t, "map": 1 + t, "wiener": 1 + t, "log_det": log_det_ratio(t), "naive": 1.0}
    least = s**2 * t / (1 + t)
    gap = {name: least * (1 + t - r) ** 2 / (r**2 * t) for name, r in ratios.items()}
    price = {name: h * delta**2 * (r - 1) ** 2 / t for name, r in ratios.items()}
    return Direction(least, gap, price)


def direction(prior: GaussianMixture, h: float, delta: float, count: int = 2001) -> Direction:
    """Return the errors for a mixture on the line with mean zero, as sums over grids of x and z."""
    problem, wide = LinearProblem([[math.sqrt(h)]], delta), 8 * math.sqrt(h) * delta + 6 * h
    z = torch.linspace(-wide, wide, count, dtype=torch.float64)[:, None]
    mass = invlib.data_distribution(problem, prior).log_prob(z).exp()
    mass = mass / mass.sum()
    mean = invlib.posterior_mean(problem, prior, z)
    least = float(mass @ invlib.posterior_covariance(problem, prior, z)[:, 0, 0])
    minimizer = minimizer_on_line(prior, h, h * delta**2, count=3001)
    slope = h + delta**2 / float(prior.covariance)
    found = {
        "map": invlib.map_estimate(problem, prior, z),
        "log_det": minimizer.inverse(z[:, 0])[:, None],
        "wiener": z / slope,
        "naive": z / h,
    }
    x = minimizer.x
    away = {
        "map": delta**2 * prior.score(x[:, None])[:, 0],
        "log_det": minimizer.f - h * x,
        "wiener": (slope - h) * x,
        "naive": 0 * x,
    }
    gap = {name: float(mass @ (point - mean)[:, 0].square()) for name, point in found.items()}
    price = {name: float(minimizer.mass @ value.square()) for name, value in away.items()}
    return Direction(least, gap, price)


def aligned(
    prior: GaussianMixture, delta: float, *, along: bool, std: float = STD, eps: float = EPS
) -> tuple[Numbers, Numbers]:
    """Return excess backward and forward, in per cent, for a prior that is a mixture along one axis, Gaussian across.

    Args:
        prior: of the coordinate along the axis.
        delta: the noise.
        along: whether the weak direction is the axis; otherwise it is across.
        std: of the other coordinate.
        eps: the small singular value.
    """
    weak, strong = eps**2, 1.0
    parts = [
        direction(prior, weak if along else strong, delta),
        gaussian_direction(std, strong if along else weak, delta),
    ]
    least, floor = sum(part.least for part in parts), delta**2 * (weak + strong)
    gaps = {name: sum(part.gap[name] for part in parts) for name in parts[0].gap}
    prices = {name: sum(part.price[name] for part in parts) for name in parts[0].price}
    return (
        {name: 100 * (math.sqrt(1 + gap / least) - 1) for name, gap in gaps.items()},
        {name: 100 * (math.sqrt(1 + price / floor) - 1) for name, price in prices.items()},
    )


def mixture(weights: Sequence[float], positions: Sequence[float], std: float = STD) -> GaussianMixture:
    """Return bumps of one width on the line, moved so that the mean is zero."""
    centre = sum(w * p for w, p in zip(weights, positions, strict=True))
    return GaussianMixture(weights, [[p - centre] for p in positions], [[[std**2]]] * len(weights))


def on_axis(s: Scene, points: Tensor) -> Tensor:
    """Return points (B, 2) in coordinates along the axis of the bumps and across, (B, 2)."""
    along = s.prior.means[0] / s.prior.means[0].norm()
    return points @ torch.stack([along, torch.stack([-along[1], along[0]])]).mT


def apart(offset: float, delta: float = 0.16) -> Numbers:
    """Return how far the maps of the plane are from those of the two directions, taken one by one.

    Root mean squares against the posterior mean's error. The one-dimensional problems have the entries of H and of the
    covariance along the axis of the bumps and across it; they are the whole truth only if both are the directions of H.
    """
    s = scene(delta, AXIS + offset, count=500)
    h = on_axis(s, on_axis(s, s.problem.normal_operator).mT)
    z, gaps = on_axis(s, s.z), {"mean": 0.0, "map": 0.0, "log_det": 0.0}
    for k, prior in enumerate((mixture([0.5, 0.5], [-(0.89**0.5), 0.89**0.5]), mixture([1.0], [0.0]))):
        line, data = LinearProblem([[math.sqrt(h[k, k])]], delta), z[:, k : k + 1]
        single = {
            "mean": invlib.posterior_mean(line, prior, data),
            "map": invlib.map_estimate(line, prior, data),
            "log_det": minimizer_on_line(prior, float(h[k, k]), float(h[k, k]) * delta**2).inverse(data[:, 0])[:, None],
        }
        for name, points in single.items():
            plane = on_axis(s, s.reconstruction(name))[:, k : k + 1]
            gaps[name] += float(rms(plane - points)) ** 2 / s.least
    return {name: math.sqrt(gap) for name, gap in gaps.items()}


def check_nl_separate() -> Numbers:
    """Compare the maps of the plane with those of two lines, where the weak direction is along the bumps or across.

    Posterior mean and MAP: closed forms and Newton's method in two and in one dimensions, exact to rounding. The
    log-determinant: trial functions in the plane against Newton's method on a grid of the line, two discretizations of
    different kind, of which the first is accurate to about a thousandth.
    """
    gaps = [apart(offset) for offset in (0.0, 90.0)]
    closed = max(max(gap["mean"], gap["map"]) for gap in gaps)
    log_det = max(gap["log_det"] for gap in gaps)
    assert closed < 1e-6
    assert log_det < 2e-3
    return {"closed": closed, "log_det": 100 * log_det}


def control_nl_separate() -> Numbers:
    """Break the assumption: the directions of H are turned by 45 degrees against those of the prior."""
    gaps = apart(45.0)
    assert min(gaps.values()) > 0.1
    return {name: 100 * gap for name, gap in gaps.items()}
