"""Checks and controls of the chapter on nonlinear measurements, and its machinery."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import solveh_banded
from scipy.optimize import brentq
from torch import Tensor, nn

import invlib
from checks.tools import quadrature, random_prior, seeded
from invlib import GaussianMixture, IResNet, QuasiRandom, testproblems
from invlib.ascent import maximize
from invlib.quadrature import moments
from invlib.training import Callback, History, minimize

Map = Callable[[Tensor], Tensor]
"""A function of one point (n), in the form that `torch.func` differentiates."""

Function = Callable[[Tensor], Tensor]
"""A function of points (..., n)."""

Numbers = dict[str, float]
"""What a page quotes, by name."""

NOISE = 0.35
"""The noise level of the experiments."""

LOUD = 1.0
"""A noise level at which the best map folds."""

NORMAL = GaussianMixture([1.0], [[0.0, 0.0]], torch.eye(2, dtype=torch.float64)[None])
"""The standard normal prior of the plane."""


def apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return matrix times vector, (..., n)."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def trace(matrix: Tensor) -> Tensor:
    """Return the trace of matrices (..., n, n), (...)."""
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


# The measurement


@dataclass(frozen=True)
class Push:
    """F(x) = (x_1, x_2 + a exp(-|x - m|^2 / 2)): near m the second reading is too large.

    Attributes:
        height: a, between -exp(1/2) and exp(1/2); a number, or (E, 1) for one push a member.
        centre: m, (2,) or (E, 1, 2).
    """

    height: Tensor
    centre: Tensor

    def bump(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the push a exp(-|x - m|^2 / 2) at points, its gradient and its Hessian."""
        d = x - self.centre
        value = self.height * torch.exp(-0.5 * d.square().sum(-1))
        outer = d.unsqueeze(-1) * d.unsqueeze(-2) - torch.eye(2, dtype=x.dtype)
        return value, -value.unsqueeze(-1) * d, value[..., None, None] * outer

    def __call__(self, x: Tensor) -> Tensor:
        """Return F(x), (..., 2)."""
        return torch.stack([x[..., 0], x[..., 1] + self.bump(x)[0]], -1)

    def jacobian(self, x: Tensor) -> Tensor:
        """Return DF(x), (..., 2, 2)."""
        gradient = self.bump(x)[1]
        first, second = torch.eye(2, dtype=x.dtype)
        return torch.stack([first.expand_as(gradient), second + gradient], -2)

    def weight(self, x: Tensor) -> Tensor:
        """Return M(x) = DF(x)^{-1}, (..., 2, 2)."""
        gradient = self.bump(x)[1]
        slope = 1 + gradient[..., 1:]
        first = torch.eye(2, dtype=x.dtype)[0]
        second = torch.cat([-gradient[..., :1], torch.ones_like(slope)], -1) / slope
        return torch.stack([first.expand_as(second), second], -2)

    def log_det_gradient(self, x: Tensor) -> Tensor:
        """Return the gradient of log det DF = log(1 + d_2 of the bump), (..., 2)."""
        _, gradient, hessian = self.bump(x)
        return hessian[..., 1] / (1 + gradient[..., 1:])

    def weight_div(self, x: Tensor) -> Tensor:
        """Return div M(x) = -M* grad log det DF, (..., 2)."""
        return -apply(self.weight(x).mT, self.log_det_gradient(x))

    def inverse(self, u: Tensor) -> Tensor:
        """Return F^{-1}(u): on each vertical line a fixed point of a contraction."""
        x = u
        for _ in range(150):
            x = u - (self(x) - x)
        return x


def push(height: float, *centre: float) -> Push:
    """Return the push of a given height with its centre at two coordinates."""
    return Push(torch.tensor(height, dtype=torch.float64), torch.tensor(centre, dtype=torch.float64))


class Setting(NamedTuple):
    """A measurement, a prior and a noise level."""

    f: Push
    prior: GaussianMixture
    noise: float = NOISE

    def data(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return points of the prior and their noisy readings, (count, 2) each."""
        x = self.prior.sample(count, generator=seeded(seed))
        noise = torch.randn(count, 2, dtype=torch.float64, generator=seeded(seed + 1))
        return x, self.f(x) + self.noise * noise


def settings() -> dict[str, Setting]:
    """Return the setting of the chapter and three others: another push, another angle, unequal bumps."""
    bumps = testproblems.two_bumps()
    turned = testproblems.two_bumps((0.3, -0.9))
    uneven = GaussianMixture([0.3, 0.7], bumps.means, bumps.covariances)
    return {
        "standard": Setting(push(1.2, 0.3, 0.0), bumps),
        "other push": Setting(push(0.8, -0.7, 0.4), bumps),
        "other angle": Setting(push(1.2, 0.3, 0.0), turned),
        "uneven bumps": Setting(push(0.9, 0.0, -0.5), uneven),
    }


STANDARD = settings()["standard"]


def check_push() -> Numbers:
    """Compare the derivatives, weight and inverse of the push, by hand, with those of torch, and with a round trip."""
    f, x = STANDARD.f, STANDARD.prior.sample(500, generator=seeded(1))
    assert float(f.height) * math.exp(-0.5) < 1  # the contraction
    log_det = torch.func.grad(lambda p: torch.func.jacrev(f)(p).det().log())
    assert (f.inverse(f(x)) - x).abs().max() < 1e-13
    assert (f.jacobian(x) - torch.vmap(torch.func.jacrev(f))(x)).abs().max() < 1e-14
    assert (f.weight(x) - torch.linalg.inv(f.jacobian(x))).abs().max() < 1e-13
    assert (f.log_det_gradient(x) - torch.vmap(log_det)(x)).abs().max() < 1e-12
    return {"height": float(f.height), "centre": float(f.centre[0]), "delta": NOISE}


# Random measurements, by automatic differentiation


def waves(n: int, generator: torch.Generator, size: float | None = None) -> Map:
    """Return x -> B x + C sin(W x + b) for one point; with a size, B = I and |C| |W| = size."""
    linear, mixed, inner = torch.randn(3, n, n, dtype=torch.float64, generator=generator)
    shift = torch.randn(n, dtype=torch.float64, generator=generator)
    if size is not None:
        linear = torch.eye(n, dtype=torch.float64)
        mixed = mixed * size / (torch.linalg.matrix_norm(mixed, 2) * torch.linalg.matrix_norm(inner, 2))
    return lambda x: linear @ x + mixed @ torch.sin(inner @ x + shift)


def inverse_jacobian(f: Map) -> Map:
    """Return M = DF^{-1} as a function of one point."""
    return lambda x: torch.linalg.inv(torch.func.jacrev(f)(x))


def weighted_divergence(f: Map, phi: Map) -> Map:
    """Return div(M phi) at one point, by automatic differentiation of the product."""
    return lambda x: trace(torch.func.jacrev(lambda p: inverse_jacobian(f)(p) @ phi(p))(x))


def averaged_misfit(
    value: Tensor, reading: Tensor, delta: float | Tensor, w: Tensor, chance: Function | None = None
) -> Tensor:
    """Return E |phi - y|^2 / 2 over x and the signs of the noise, (...).

    Args:
        value: phi(x), (..., P, n).
        reading: F(x), (P, n).
        delta: the noise has the entries +-delta; a number, or (P, n).
        w: the weights of the points, (P,).
        chance: of a vector of signs (n) at each point, (P,); by default all are equally likely.
    """
    n = value.shape[-1]
    signs = torch.cartesian_prod(*n * [torch.tensor([-1.0, 1.0], dtype=torch.float64)]).reshape(-1, n)
    total = torch.zeros(value.shape[:-2], dtype=torch.float64)
    for sign in signs:
        share = torch.full_like(w, 0.5**n) if chance is None else chance(sign)
        total = total + 0.5 * ((value - reading - delta * sign).square().sum(-1) @ (w * share))
    return total


def differences(function: Function, y: Tensor, h: float = 4e-3) -> Tensor:
    """Return the derivative of (B, m) -> (B, k), (B, k, m): central differences of fourth order."""
    columns = []
    for e in torch.eye(y.shape[-1], dtype=torch.float64):
        near, far = function(y + h * e) - function(y - h * e), function(y + 2 * h * e) - function(y - 2 * h * e)
        columns.append((8 * near - far) / (12 * h))
    return torch.stack(columns, -1)


# Tweedie's formula


def gaussian_noise(v: Tensor) -> Tensor:
    """Return the log-density of the noise, up to a constant."""
    return -0.5 * (v / NOISE).square().sum(-1)


def logistic_noise(v: Tensor) -> Tensor:
    """Return that of independent logistic noise with the same variance."""
    scale = NOISE * math.sqrt(3) / math.pi
    return -2 * torch.logaddexp(0.5 * v / scale, -0.5 * v / scale).sum(-1)


def posterior(readings: Tensor, w: Tensor, y: Tensor, log_noise: Function = gaussian_noise) -> Tensor:
    """Return the posterior probabilities of points with the given readings and weights, (B, P)."""
    return torch.softmax(w.log() + log_noise(y[:, None] - readings), -1)


def log_density_of_data(readings: Tensor, log_w: Tensor, y: Tensor, log_noise: Function = gaussian_noise) -> Tensor:
    """Return log p_Y at data, (B, 1), up to a constant."""
    return torch.logsumexp(log_w + log_noise(y[:, None] - readings), -1, keepdim=True)


def log_density_of_readings(setting: Setting, u: Tensor) -> Tensor:
    """Return log p_U, (...), by the change of variables."""
    x = setting.f.inverse(u)
    density: Tensor = setting.prior.log_prob(x) - torch.linalg.slogdet(setting.f.jacobian(x)).logabsdet
    return density


@dataclass(frozen=True)
class TweedieCase:
    """A measurement for which Tweedie's formula is tested: points for the left side, readings for the right."""

    points: Tensor
    w: Tensor
    readings: Tensor
    right_readings: Tensor
    right_log_w: Tensor
    y: Tensor

    def gap(self, log_noise: Function = gaussian_noise) -> float:
        """Return the largest difference of E[F(x) | y] and y + delta^2 grad log p_Y."""
        mean = posterior(self.readings, self.w, self.y, log_noise) @ self.readings

        def log_density(y: Tensor) -> Tensor:
            return log_density_of_data(self.right_readings, self.right_log_w, y, log_noise)

        return float((mean - self.y - NOISE**2 * differences(log_density, self.y)[:, 0]).norm(dim=-1).max())

    def covariance(self, values: Tensor) -> Tensor:
        """Return Cov(values, F(x) | y), (B, k, m)."""
        r = posterior(self.readings, self.w, self.y)
        cross = torch.einsum("bp,pi,pj->bij", r, values, self.readings)
        return cross - (r @ values)[:, :, None] * (r @ self.readings)[:, None, :]

    def slope_gap(self, values: Tensor) -> float:
        """Return the largest difference of the derivative of E[values | y] and the covariance over delta^2."""
        slopes = differences(lambda y: posterior(self.readings, self.w, y) @ values, self.y)
        return float((slopes - self.covariance(values) / NOISE**2).abs().max())


def tweedie_cases() -> tuple[TweedieCase, TweedieCase]:
    """Return the push, and a map from the line to the plane that folds and forgets, x -> (x^2, sin 3x)."""
    generator, f, prior = seeded(4), STANDARD.f, STANDARD.prior
    x, w = quadrature(prior, 5.4, 0.06)
    u = torch.cartesian_prod(*2 * [torch.linspace(-5.6, 6.2, 201, dtype=torch.float64)])
    y = f(prior.sample(12, generator=generator)) + NOISE
    first = TweedieCase(x, w, f(x), u, log_density_of_readings(STANDARD, u), y)

    def fold(x: Tensor) -> Tensor:
        return torch.cat([x**2, torch.sin(3 * x)], -1)

    line = GaussianMixture([0.4, 0.6], [[-0.9], [0.7]], [[[0.2]], [[0.3]]])
    x, w = quadrature(line, 6.0, 0.01)
    y = fold(line.sample(12, generator=generator)) + NOISE
    return first, TweedieCase(x, w, fold(x), fold(x[::2]), w[::2].log(), y)


def check_no_tweedie() -> Numbers:
    """Compare posterior means of readings, on a lattice of x, with differences of the log-density of y.

    That density comes from another lattice, of u, by the change of variables; where there is no p_U, from fewer points
    x. Parts 2 and 3: derivatives of the means, by differences, are covariances. Differences of fourth order with
    h = 4e-3: h^4 times fifth derivatives of sizes up to 1e2.
    """
    cases = tweedie_cases()
    gaps = [case.gap() for case in cases]
    gaps += [case.slope_gap(values) for case in cases for values in (case.readings, case.points)]
    cross = cases[0].covariance(cases[0].points)
    lopsided = float((cross - cross.mT).abs().max() / cross.abs().max())
    assert max(gaps) < 1e-6
    assert lopsided > 0.02  # the mean of x is not the gradient of a function of y
    return {"gap": max(gaps), "lopsided": lopsided}


def control_no_tweedie() -> Numbers:
    """Logistic noise instead of Gaussian, with the same variance: part 1 fails. And F(mean) is not the mean of F."""
    cases = tweedie_cases()
    logistic = min(case.gap(logistic_noise) for case in cases)
    first = cases[0]
    r = posterior(first.readings, first.w, first.y)
    curved = float((STANDARD.f(r @ first.points) - r @ first.readings).norm(dim=-1).max())
    assert logistic > 0.01
    assert curved > 0.01
    return {"logistic": logistic, "curved": curved}


# The weighted divergence


class Sides(NamedTuple):
    """The two sides of the identity, up to L*, and what controls need."""

    loss: Tensor
    other: Tensor
    value: Tensor
    reading: Tensor
    reward: Tensor
    forgotten: Tensor


def sides_of_identity(n: int, generator: torch.Generator, lean: float = 0.0) -> Sides:
    """Return L_F(phi) and E |phi - phi*|^2 / 2 + L* for a random prior, measurement and map.

    With lean, the signs of the noise depend on x: its mean at x is delta lean tanh(x_1) in each entry.
    """
    delta, strength = 0.5, 0.8
    prior = random_prior(n, generator, components=3)
    f, phi = waves(n, generator, size=0.7), waves(n, generator)
    x, w = quadrature(prior, 13.0, 0.1 if n == 2 else 0.02)
    weight = torch.vmap(inverse_jacobian(f))(x)
    identity = torch.eye(n, dtype=torch.float64)
    assert (weight @ torch.vmap(torch.func.jacfwd(f))(x) - identity).abs().max() < 1e-12
    reading, value = torch.vmap(f)(x), torch.vmap(phi)(x)
    reward = torch.vmap(weighted_divergence(f, phi))(x)

    def chance(sign: Tensor) -> Tensor:
        return (0.5 * (1 + lean * torch.tanh(x[:, :1]) * sign)).prod(-1)

    loss = averaged_misfit(value, reading, delta, w, chance) - strength**2 * (w @ reward)
    pull = apply(weight.mT, prior.score(x))
    best = 0.5 * n * delta**2 - strength**2 * (w @ torch.vmap(weighted_divergence(f, f))(x))
    best = best - 0.5 * strength**4 * (w @ pull.square().sum(-1))
    distance = 0.5 * (w @ (value - reading + strength**2 * pull).square().sum(-1))
    plain = trace(weight @ torch.vmap(torch.func.jacrev(phi))(x))
    return Sides(loss, distance + best, value, reading, reward, strength**2 * (w @ (reward - plain)))


def check_no_divergence() -> Numbers:
    """Compare the loss, literally, with the squared distance to phi*, for random priors, measurements and maps.

    The divergence of M phi comes from automatic differentiation of the product, without the product rule. The noise
    enters through a square, so that signs +-delta make its average exact. Averages of sizes 1 to 100; the lattice
    leaves out less than 1e-9 of the mass.
    """
    generator = seeded(2)
    sides = [sides_of_identity(n, generator) for n in (1, 2, 2, 1, 2)]
    gap = max(abs(float(each.loss - each.other)) for each in sides)
    forgotten = min(abs(float(each.forgotten)) for each in sides)
    assert gap < 1e-7
    assert forgotten > 1e-4
    return {"gap": gap, "forgotten": forgotten}


def control_no_divergence() -> Numbers:
    """Noise whose mean depends on x: the two sides of the identity differ."""
    generator = seeded(2)
    sides = [sides_of_identity(n, generator, lean=0.5) for n in (1, 2, 2)]
    leaning = min(abs(float(each.loss - each.other)) for each in sides)
    assert leaning > 1e-3
    return {"leaning": leaning}


def sides_of_trade(height: float, cut: float) -> tuple[float, float, float]:
    """Return E (1/F')', -E s/F' and E (s/F')^2 where |F'| > cut, for x ~ N(0, 1) and F = x + height exp(-x^2/2)."""
    x = torch.linspace(-8, 8, 1_600_001, dtype=torch.float64)
    w = torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi) * float(x[1] - x[0])
    bell = height * torch.exp(-0.5 * x**2)
    slope, bend = 1 - x * bell, (x**2 - 1) * bell
    w = w * (slope.abs() > cut)
    return float(-w @ (bend / slope**2)), float(w @ (x / slope)), float(w @ (x / slope) ** 2)


def control_no_fold() -> Numbers:
    """A measurement that folds: F' has zeros, and without an invertible Jacobian the trade fails, more at each cut."""
    left, right, information = sides_of_trade(1.2, 0.01)
    assert abs(left - right) < 1e-9
    assert information < 10
    cut = [sides_of_trade(2.4, width) for width in (0.1, 0.03, 0.01)]
    gaps = [abs(left - right) for left, right, _ in cut]
    assert gaps[0] > 0.5
    assert gaps[1] > 2.5 * gaps[0]
    assert gaps[2] > 2.5 * gaps[1]
    assert cut[1][2] > 2 * cut[0][2]
    assert cut[2][2] > 2 * cut[1][2]
    return {"first": gaps[0], "last": gaps[2]}


# The forgotten term


def check_no_volume() -> Numbers:
    """Part 1: div M against the log-determinant, each by torch, n <= 3. Part 2: the score of u, and the trade.

    The score of u comes from differences of log p_U, h^4 times a fifth derivative of size 1e4: 1e-5. The trade,
    E tr(M D phi) = -E <phi, s_U(F)>, is tested for a random phi on a lattice.
    """
    generator, gaps = seeded(5), []
    for n in (1, 2, 2, 3):
        f = waves(n, generator, size=0.7)
        x = torch.randn(200, n, dtype=torch.float64, generator=generator)
        slopes = torch.vmap(torch.func.jacrev(inverse_jacobian(f)))(x)  # d_l M_ij
        div_m = torch.einsum("bijl,il->bj", slopes, torch.eye(n, dtype=torch.float64))
        log_det = torch.func.grad(lambda p, f=f: torch.linalg.slogdet(torch.func.jacrev(f)(p))[1])
        pulled = apply(torch.vmap(inverse_jacobian(f))(x).mT, torch.vmap(log_det)(x))
        assert (div_m - pulled).abs().max() > 1e-3  # not with the other sign
        gaps.append(float((div_m + pulled).abs().max()))
    f, prior = STANDARD.f, STANDARD.prior
    x = prior.sample(300, generator=generator)
    formula = apply(f.weight(x).mT, prior.score(x) - f.log_det_gradient(x))
    score = differences(lambda u: log_density_of_readings(STANDARD, u)[:, None], f(x), h=2e-3)[:, 0]
    trade, other = sides_of_short_trade(generator)
    assert max(gaps) < 1e-11
    assert (score - formula).abs().max() < 1e-5
    assert abs(trade) < 1e-8
    assert abs(other) > 1e-3
    return {"gap": max(gaps), "score": float((score - formula).abs().max())}


def sides_of_short_trade(generator: torch.Generator) -> tuple[float, float]:
    """Return E tr(M D phi) + E <phi, v> for v = s_U(F), and for v = M* s, at the push."""
    f, prior = STANDARD.f, STANDARD.prior
    x, w = quadrature(prior, 5.4, 0.06)
    phi = waves(2, generator)
    value, jacobian = torch.vmap(phi)(x), torch.vmap(torch.func.jacrev(phi))(x)
    left = float(w @ trace(f.weight(x) @ jacobian))
    scores = (prior.score(x) - f.log_det_gradient(x), prior.score(x))
    right = [float(w @ (value * apply(f.weight(x).mT, score)).sum(-1)) for score in scores]
    return left + right[0], left + right[1]


def control_no_volume() -> Numbers:
    """A kink breaks the smoothness: F = x for x < 0, 2x for x > 0, x ~ N(0, 1), phi = 1 + sin x.

    Where it exists, div M is zero; the jump of the weight leaves a boundary term, (1 - 1/2) p(0) phi(0).
    """
    x = (torch.arange(160_000, dtype=torch.float64) + 0.5) / 10_000 - 8  # no point at the kink
    w = torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi) / 10_000
    slope = torch.where(x < 0, 1.0, 2.0)
    gap = float(w @ (torch.cos(x) / slope)) - float(w @ ((1 + torch.sin(x)) * x / slope))
    smooth = float(w @ torch.cos(x)) - float(w @ ((1 + torch.sin(x)) * x))
    assert abs(gap - 0.5 / math.sqrt(2 * math.pi)) < 1e-6
    assert abs(smooth) < 1e-9
    return {"gap": gap}


# Maps and estimators


def optimal_map(setting: Setting, x: Tensor, *, part: float = 1.0, factor: float = 1.0) -> Tensor:
    """Return phi*(x), (..., 2); with part = 0 phi-circle, without div M; factor multiplies the strength."""
    f, prior, noise = setting
    score = prior.score(x) - (1 - part) * f.log_det_gradient(x)
    return f(x) - (factor * noise) ** 2 * apply(f.weight(x).mT, score)


def curvature(setting: Setting, x: Tensor) -> Tensor:
    """Return B(x), (..., 2, 2); only the second component of the push is curved."""
    f, prior, noise = setting
    pull = apply(f.weight(x).mT, prior.score(x))[..., 1, None, None]
    gram = f.jacobian(x).mT @ f.jacobian(x)
    b: Tensor = gram - noise**2 * prior.hessian(x) + noise**2 * pull * f.bump(x)[2]
    return b


def least_curvature(setting: Setting, x: Tensor) -> Tensor:
    """Return the least eigenvalue of B(x), (...)."""
    least: Tensor = torch.linalg.eigvalsh(curvature(setting, x))[..., 0]
    return least


def log_posterior(setting: Setting, x: Tensor, y: Tensor) -> Tensor:
    """Return -J_y / delta^2 at points (..., 2) for data (..., 2), (...)."""
    f, prior, noise = setting
    log_density: Tensor = prior.log_prob(x) - 0.5 * (f(x) - y).square().sum(-1) / noise**2
    return log_density


def derivatives_of_log_posterior(setting: Setting, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return its gradient, (..., 2), and its Hessian, (..., 2, 2), in x."""
    f, prior, noise = setting
    jacobian, misfit = f.jacobian(x), f(x) - y
    bent = jacobian.mT @ jacobian + misfit[..., 1, None, None] * f.bump(x)[2]
    return prior.score(x) - apply(jacobian.mT, misfit) / noise**2, prior.hessian(x) - bent / noise**2


def starts() -> Tensor:
    """Return a grid of starts, off the axes of symmetry, (36, 2)."""
    return torch.cartesian_prod(*2 * [torch.linspace(-2.5, 2.5, 6, dtype=torch.float64)]) + 0.01


def climb(setting: Setting, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the MAP estimates of x, (B, 2), and where the ascent from each start ends, (B, G, 2)."""
    return _highest(partial(log_posterior, setting), partial(derivatives_of_log_posterior, setting), y)


def _highest(
    value: Callable[[Tensor, Tensor], Tensor],
    derivatives: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    y: Tensor,
) -> tuple[Tensor, Tensor]:
    data = y[:, None].expand(-1, len(starts()), -1)
    ends, done = maximize(value, derivatives, starts().expand_as(data), data=(data,))
    assert done.all()
    return ends[torch.arange(len(y)), value(ends, data).argmax(-1)], ends


def climb_readings(setting: Setting, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return F^{-1} of the MAP estimates of u, (B, 2), and where each start ends.

    The gradient of the log-density is DF* (y - phi-circle) / delta^2; its Hessian comes from differences.
    """

    def value(x: Tensor, y: Tensor) -> Tensor:
        log_det: Tensor = torch.linalg.slogdet(setting.f.jacobian(x)).logabsdet
        return log_posterior(setting, x, y) - log_det

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        return apply(setting.f.jacobian(x).mT, y - optimal_map(setting, x, part=0.0)) / setting.noise**2

    def derivatives(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        hessian = differences(lambda p: gradient(p, y), x, h=1e-3)
        return gradient(x, y), 0.5 * (hessian + hessian.mT)

    return _highest(value, derivatives, y)


def posterior_means(setting: Setting, y: Tensor) -> Tensor:
    """Return E[x | y], (B, 2), by quadrature."""
    box = torch.tensor([[-6.0, -6.0], [6.0, 6.0]], dtype=torch.float64)
    parts = []
    for part in y.split(64):
        value = partial(log_posterior, setting, y=part[:, None])
        parts.append(moments(value, box.expand(len(part), -1, -1), tol=1e-6).mean)
    return torch.cat(parts)


def best_affine(setting: Setting, y: Tensor) -> Tensor:
    """Return the affine estimate of x from y with the least mean squared error, from 200,000 samples."""
    x, data = setting.data(200_000, seed=90)
    design = torch.cat([data, torch.ones(len(data), 1, dtype=torch.float64)], -1)
    coefficients = torch.linalg.lstsq(design, x).solution
    estimate: Tensor = y @ coefficients[:2] + coefficients[2]
    return estimate


def gauss_newton(setting: Setting, y: Tensor, steps: int = 20) -> Tensor:
    """Return where Gauss and Newton's iteration for J_y ends, (B, 2), from F^{-1}(y).

    It knows F, its Jacobian and the score and the curvature of the prior, but drops the curvature of F; each step is
    halved until J_y falls.
    """
    f, prior, noise = setting
    x = f.inverse(y)
    for _ in range(steps):
        jacobian = f.jacobian(x)
        gradient = apply(jacobian.mT, f(x) - y) - noise**2 * prior.score(x)
        hessian = jacobian.mT @ jacobian - noise**2 * prior.hessian(x)
        values, axes = torch.linalg.eigh(hessian)
        step = -apply(axes, apply(axes.mT, gradient) / values.abs().clamp_min(0.05))
        length, now = torch.ones(len(y), 1, dtype=torch.float64), log_posterior(setting, x, y)
        for _ in range(20):
            worse = log_posterior(setting, x + length * step, y) < now
            if not worse.any():
                break
            length = torch.where(worse[:, None], 0.5 * length, length)
        x = x + length * step
    return x


def log_bumps(x: Tensor) -> Tensor:
    """Return the log-density of `two_bumps` at one point, up to a constant, for automatic differentiation."""
    squares = [(x - mean).square().sum() for mean in STANDARD.prior.means]
    return torch.logaddexp(*[-0.5 * square / STANDARD.prior.covariances[0, 0, 0] for square in squares])


def points_of_square(count: int = 601) -> Tensor:
    """Return a grid over |x_i| <= 6, (count, count, 2)."""
    axis = torch.linspace(-6, 6, count, dtype=torch.float64)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)


def check_no_map() -> Numbers:
    """Part 1: B by its formula, the Hessian of J_y and DF* D phi*, both by torch. Part 2: a round trip.

    From y = phi*(x) the ascent, which does not know phi*, climbs from a grid of starts; every one must end at x.
    Outside of the square |x_i| <= 6 the bound of the text holds, inside B is positive definite on a grid.
    """
    f, prior, noise = STANDARD
    x = torch.cat([prior.sample(200, generator=seeded(8)), starts()])
    y = optimal_map(STANDARD, x)

    def star(p: Tensor) -> Tensor:
        value: Tensor = f(p) - noise**2 * f.weight(p).mT @ torch.func.grad(log_bumps)(p)
        return value

    def objective(p: Tensor, datum: Tensor) -> Tensor:
        return 0.5 * (f(p) - datum).square().sum() - noise**2 * log_bumps(p)

    b = curvature(STANDARD, x)
    product = f.jacobian(x).mT @ torch.vmap(torch.func.jacrev(star))(x)
    hessian = torch.vmap(torch.func.hessian(objective))(x, y)
    gap = max(float((b - other).abs().max()) for other in (product, hessian))
    assert gap < 1e-11
    _, ends = climb(STANDARD, y)
    assert (ends - x[:, None]).abs().max() < 1e-9  # every start, not only the best

    least = least_curvature(STANDARD, points_of_square())
    change = float(max(least.diff(dim=0).abs().max(), least.diff(dim=1).abs().max()))
    assert float(least.min()) > change
    return {"gap": gap, "least": float(least.min()), "change": change, **bound_outside()}


def bound_outside() -> Numbers:
    """Return the bound on the least eigenvalue of B outside of the square |x_i| <= 6, and the radius it holds from."""
    f, prior, noise = STANDARD
    variance, centre = float(prior.covariances[0, 0, 0]), float(prior.means[0].norm())
    radius = 6 - float(f.centre[0])
    tail = float(f.height) * radius**2 * math.exp(-0.5 * radius**2)
    score = (radius + float(f.centre.norm()) + centre) / variance
    third = noise**2 * score * tail / (1 - tail)
    assert tail < 1e-5
    assert 2 * tail + third < 1e-3
    outside = 1 - noise**2 * (centre**2 / variance**2 - 1 / variance) - 1e-3
    assert outside > 0.45  # as the text says
    return {"radius": radius}


def control_no_map() -> Numbers:
    """B with negative eigenvalues, for a *normal* prior and more noise: no such x is returned (part 3)."""
    loud = Setting(STANDARD.f, NORMAL, LOUD)
    grid = points_of_square().reshape(-1, 2)
    x = grid[least_curvature(loud, grid) < 0][::7]
    best, _ = climb(loud, optimal_map(loud, x))
    lost = (best - x).norm(dim=-1)
    assert lost.min() > 1e-3
    assert lost.max() > 0.5
    return {"count": len(x), "lost": float(lost.max()), "loud": LOUD}


def descend(setting: Setting, y: Tensor, x: Tensor, steps: int = 2500, length: float = 8e-3) -> Tensor:
    """Return paths of the gradient flow of J_y from x (B, 2), (steps + 1, B, 2), by Euler's method."""
    f, prior, noise = setting
    path = [x]
    for _ in range(steps):
        at = path[-1]
        gradient = apply(f.jacobian(at).mT, f(at) - y) - noise**2 * prior.score(at)
        path.append(at - length * gradient)
    return torch.stack(path)


def distinct(points: Tensor) -> Tensor:
    """Return the points that differ by more than 1e-6, (K, 2)."""
    found = [points[0]]
    for point in points[1:]:
        if min(float((point - other).norm()) for other in found) > 1e-6:
            found.append(point)
    return torch.stack(found)


# Training


def reward(f: Push, x: Tensor, value: Tensor, jacobian: Tensor) -> tuple[Tensor, Tensor]:
    """Return tr(M D phi) and <div M, phi>, (..., B) each, in the type of the value."""
    weight, weight_div = f.weight(x).to(value.dtype), f.weight_div(x).to(value.dtype)
    return trace(weight @ jacobian), (weight_div * value).sum(-1)


def stack(pushes: Sequence[Push]) -> Push:
    """Return one push a member."""
    return Push(torch.stack([f.height for f in pushes])[:, None], torch.stack([f.centre for f in pushes])[:, None])


def fit(
    net: IResNet,
    loss: Callable[[IResNet, Push, Tensor, Tensor], Tensor],
    members: Sequence[Setting],
    steps: int,
    seed: int,
    keep: Sequence[int] = (),
) -> dict[int, IResNet]:
    """Train the members of a network side by side, each in its own setting; return copies at the steps to keep.

    Args:
        net: changed in place.
        loss: of the network, the pushes, points (E, B, 2) and noise (E, B, 2); a loss for each member, (E,).
        members: the setting of each.
        steps: with 256 points each in the first half, 1,024 in the second, as in `invlib.train`.
        seed: of the quasi-random points.
        keep: steps at whose beginning a copy is made.
    """
    points = QuasiRandom([each.prior for each in members], seed=seed, members=len(members), noise_dim=2)
    pushes, copies = stack([each.f for each in members]), {}

    def batch_loss(step: int) -> Tensor:
        if step in keep:
            copies[step] = copy.deepcopy(net)
        x, noise = points.draw_with_noise(256 if 2 * step < steps else 1024)
        return loss(net, pushes, x, NOISE * noise)

    minimize(net, batch_loss, steps)
    copies[steps] = net
    for network in copies.values():
        network.double().requires_grad_(False)
    return copies


def backward_loss(net: nn.Module, f: Push, x: Tensor, noise: Tensor) -> Tensor:
    """Return the reconstruction loss of each member."""
    return invlib.reconstruction_loss(net, x.float(), (f(x) + noise).float())


def lattice(members: Sequence[Setting], step: float) -> tuple[Tensor, Tensor]:
    """Return points (P, 2) and their weights for the prior of each member, (E, P)."""
    axis = torch.arange(-5.2, 5.2 + step / 2, step, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    w = torch.stack([each.prior.log_prob(x).exp() * step**2 for each in members])
    assert (w.sum(-1) - 1).abs().max() < 1e-9
    keep = w.amax(0) > 1e-13
    return x[keep], w[:, keep]


def excess_and_distance(net: IResNet, members: Sequence[Setting], step: float) -> tuple[Tensor, Tensor]:
    """Return L_F - L* and E |phi - phi*|^2 / 2 of each member, (E,) each, on a lattice.

    The loss is taken literally, over the signs of the noise; the distance contains no Jacobian of the network.
    """
    x, w = lattice(members, step)
    excess = distance = torch.zeros(len(members), dtype=torch.float64)
    for points, weights in zip(x.split(10_000), w.split(10_000, -1), strict=True):
        values, jacobians = net.forward_and_jacobian(points.expand(len(members), -1, -1))
        rows = zip(members, values, jacobians, weights, strict=True)
        parts = torch.tensor([_excess_and_distance(each, points, *row) for each, *row in rows], dtype=torch.float64)
        excess, distance = excess + parts[:, 0], distance + parts[:, 1]
    return excess, distance


def _excess_and_distance(
    setting: Setting, x: Tensor, value: Tensor, jacobian: Tensor, w: Tensor
) -> tuple[float, float]:
    f, _, noise = setting
    star = optimal_map(setting, x)
    pull = (f(x) - star) / noise**2  # M* s
    gained, constant = sum(reward(f, x, value, jacobian)), sum(reward(f, x, f(x), f.jacobian(x)))
    lowest = noise**2 * (w.sum() - w @ constant) - 0.5 * noise**4 * (w @ pull.square().sum(-1))
    loss = averaged_misfit(value, f(x), noise, w) - noise**2 * (w @ gained)
    return float(loss - lowest), 0.5 * float(w @ (value - star).square().sum(-1))


# Layers: a differential equation


@dataclass(frozen=True)
class Layers:
    """-(e^u p')' = 1 on (0, 1), p(0) = 0, e^u p' = 1 at 1, with u ~ N(mean, sigma^2 I) constant in each of n layers.

    Attributes:
        delta: the standard deviation of the noise.
        sigma: that of u in each layer.
        mean: of u in each layer.
        n: the number of layers.
    """

    delta: float = 0.1
    sigma: float = 0.8
    mean: float = 0.0
    n: int = 16

    @property
    def drops(self) -> Tensor:
        """The rise of p in each layer if u = 0: the integral of the flux 2 - x, (n)."""
        return (2 - (torch.arange(self.n, dtype=torch.float64) + 0.5) / self.n) / self.n

    @property
    def matrix(self) -> Tensor:
        """The matrix A of sums of the drops, (n, n)."""
        return torch.tril(self.drops.expand(self.n, -1))

    @property
    def least_singular_value(self) -> float:
        """That of A."""
        return float(torch.linalg.svdvals(self.matrix)[-1])

    @property
    def loudest(self) -> float:
        """The noise below which B is positive definite everywhere."""
        return math.sqrt(2 * math.exp(3)) * self.sigma * self.least_singular_value

    def __call__(self, u: Tensor) -> Tensor:
        """Return F(u) = A exp(-u), (..., n)."""
        return apply(self.matrix, torch.exp(-u))

    def jacobian(self, u: Tensor) -> Tensor:
        """Return DF(u), (..., n, n)."""
        return -self.matrix * torch.exp(-u).unsqueeze(-2)

    def steps(self, y: Tensor) -> Tensor:
        """Return A^{-1} y, the differences of y over the drops, (..., n)."""
        return torch.diff(y, dim=-1, prepend=torch.zeros_like(y[..., :1])) / self.drops

    def weight(self, u: Tensor) -> Tensor:
        """Return M(u) = DF(u)^{-1}, with two diagonals, (..., n, n)."""
        inverse = torch.diag(1 / self.drops) - torch.diag(1 / self.drops[1:], -1)
        return -inverse * torch.exp(u).unsqueeze(-1)

    def weight_div(self, u: Tensor) -> Tensor:
        """Return div M(u), the sums over the columns of M, (..., n)."""
        return self.weight(u).sum(-2)

    def star(self, u: Tensor) -> Tensor:
        """Return phi*(u), (..., n)."""
        return self(u) + (self.delta / self.sigma) ** 2 * apply(self.weight(u).mT, u - self.mean)

    def curvature(self, u: Tensor) -> Tensor:
        """Return B(u), (..., n, n)."""
        jacobian = self.jacobian(u)
        return jacobian.mT @ jacobian + (self.delta / self.sigma) ** 2 * torch.diag_embed(1 + u - self.mean)

    def objective(self, u: Tensor, y: Tensor) -> Tensor:
        """Return J_y(u), (...)."""
        prior = 0.5 * ((u - self.mean) * self.delta / self.sigma).square().sum(-1)
        return 0.5 * (self(u) - y).square().sum(-1) + prior

    def draw(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return logarithms of conductivities from the prior, and noisy pressures, (count, n) each."""
        normal = torch.randn(2, count, self.n, dtype=torch.float64, generator=seeded(seed))
        u = self.mean + self.sigma * normal[0]
        return u, self(u) + self.delta * normal[1]

    @property
    def spread(self) -> Tensor:
        """The posterior covariance of u if F is replaced by its tangent at the mean of the prior, (n, n)."""
        slope = self.jacobian(torch.full((self.n,), self.mean, dtype=torch.float64))
        precision = slope.T @ slope / self.delta**2 + torch.eye(self.n, dtype=torch.float64) / self.sigma**2
        inverse: Tensor = torch.linalg.inv(precision)
        return inverse

    def linearized(self, y: Tensor) -> Tensor:
        """Return the posterior mean if F is replaced by its tangent at the mean of the prior, (..., n)."""
        centre = torch.full((self.n,), self.mean, dtype=torch.float64)
        gain = self.spread @ self.jacobian(centre).T / self.delta**2
        return centre + apply(gain, y - self(centre))

    def best_affine(self, y: Tensor) -> Tensor:
        """Return the affine estimate of u from y with the least mean squared error, from 100,000 samples."""
        u, data = self.draw(100_000, seed=91)
        design = torch.cat([data, torch.ones(len(data), 1, dtype=torch.float64)], -1)
        coefficients: Tensor = torch.linalg.lstsq(design, u).solution
        return y @ coefficients[:-1] + coefficients[-1]

    def gauss_newton(self, y: Tensor, u: Tensor, steps: int = 60) -> Tensor:
        """Return where Gauss and Newton's iteration for J_y ends from u, (B, n); steps are halved until J_y falls."""
        penalty = (self.delta / self.sigma) ** 2
        for _ in range(steps):
            slope = self.jacobian(u)
            gradient = apply(slope.mT, self(u) - y) + penalty * (u - self.mean)
            step = -torch.linalg.solve(slope.mT @ slope + penalty * torch.eye(self.n, dtype=u.dtype), gradient)
            length, now = torch.ones_like(u[..., :1]), self.objective(u, y)
            fall = 1e-4 * (step * gradient).sum(-1)
            for _ in range(30):
                worse = self.objective(u + length * step, y) > now + length[..., 0] * fall
                length = torch.where(worse.unsqueeze(-1), 0.5 * length, length)
            u = u + length * step
        return u

    def most_probable(self, y: Tensor) -> Tensor:
        """Return the critical point of J_y from Newton's method after Gauss-Newton's, (B, n)."""
        u = self.gauss_newton(y, torch.full_like(y, self.mean))
        for _ in range(4):
            gradient = apply(self.jacobian(u).mT, self.star(u) - y)
            hessian = self.curvature(u) + torch.diag_embed(apply(-self.jacobian(u).mT, self(u) - y))
            hessian = hessian - torch.diag_embed((self.delta / self.sigma) ** 2 * (u - self.mean))
            u = u - torch.linalg.solve(hessian, gradient)
        assert apply(self.jacobian(u).mT, self.star(u) - y).abs().max() < 1e-10
        return u

    def posterior_mean(self, y: Tensor, points: int = 121) -> Tensor:
        """Return E[u | y], (B, n): p is a Markov chain, so sums run forward and backward over layers.

        Each p_i is summed over points within six standard deviations of the noise around y_i.
        """
        return torch.cat([self._posterior_mean(part, points) for part in y.split(16)])

    def _posterior_mean(self, y: Tensor, points: int) -> Tensor:
        offsets = torch.linspace(-6, 6, points, dtype=torch.float64)
        chance = torch.exp(-0.5 * offsets**2)
        edges = [
            torch.zeros(len(y), 1, dtype=torch.float64),
            *(y[:, i, None] + self.delta * offsets for i in range(self.n)),
        ]
        rises = [(right[:, None] - left[:, :, None]) for left, right in itertools.pairwise(edges)]
        values = [-torch.log((rise / drop).clamp_min(1e-12)) for rise, drop in zip(rises, self.drops, strict=True)]
        kernels = [
            (rise > 0) * torch.exp(-0.5 * ((value - self.mean) / self.sigma) ** 2 + value) * chance
            for rise, value in zip(rises, values, strict=True)
        ]
        forward = [torch.ones_like(edges[0])]
        for kernel in kernels[:-1]:
            message = (forward[-1][:, None] @ kernel)[:, 0]
            forward.append(message / message.sum(-1, keepdim=True))
        backward, means = torch.ones(len(y), points, dtype=torch.float64), []
        for message, kernel, value in zip(forward[::-1], kernels[::-1], values[::-1], strict=True):
            joint = message[:, :, None] * kernel * backward[:, None]
            means.append((joint * value).sum((1, 2)) / joint.sum((1, 2)))
            backward = apply(kernel, backward)
            backward = backward / backward.sum(-1, keepdim=True)
        return torch.stack(means[::-1], -1)


LAYERS = Layers()
"""The layers of the chapter."""


STORED_LAYERS = Path(__file__).with_name("layers.npz")
"""The weights of the networks for the layers: see `book/experiments/layers.py`."""


def corrector(seed: int) -> IResNet:
    """Return three untrained networks, side by side: their inverses correct the linearized estimate."""
    return IResNet(LAYERS.n, blocks=4, members=3, generator=seeded(seed))


def loss_of_layers(net: IResNet, u: Tensor) -> Tensor:
    """Return the loss of each member, with the three terms of the product rule, (E,)."""
    value, jacobian = net.forward_and_jacobian(u.float())
    target, spread = LAYERS.linearized(LAYERS(u)).to(value.dtype), LAYERS.spread.to(value.dtype)
    e_u, w = torch.exp(u).to(value.dtype), torch.cosh(u).to(value.dtype) ** -2
    misfit = 0.5 * (w * (value - target).square()).sum(-1)
    reward = trace(e_u.unsqueeze(-1) * (spread @ (w.unsqueeze(-1) * jacobian)))
    slopes = e_u @ spread - 2 * e_u * spread.diagonal() * torch.tanh(u).to(value.dtype)
    return (misfit - reward - (slopes * w * value).sum(-1)).mean(-1)


def fit_layers(
    net: IResNet, steps: int, seed: int, callback: Callback | None = None, checkpoint: str | None = None
) -> History:
    """Train the networks side by side, with 256 points each in the first half of the steps, 1,024 in the second."""
    covariance = LAYERS.sigma**2 * torch.eye(LAYERS.n, dtype=torch.float64)
    prior = GaussianMixture([1.0], torch.zeros(1, LAYERS.n), covariance[None])
    points = invlib.QuasiRandom(prior, seed=seed, members=net.members)

    def batch_loss(step: int) -> Tensor:
        return loss_of_layers(net, points.draw(256 if 2 * step < steps else 1024))

    return minimize(
        net, batch_loss, steps, learning_rate=0.02, callback=callback, checkpoint=checkpoint, sampler=points
    )


def trained_layers() -> tuple[IResNet, int, float]:
    """Return the networks whose weights are stored, in float64, their steps and the seconds of their training."""
    net = corrector(0)
    with np.load(STORED_LAYERS) as file:
        state = {key: torch.from_numpy(file[key]) for key, _ in net.named_parameters()}
        steps, seconds = int(file["steps"]), float(file["seconds"])
    net.load_state_dict({**net.state_dict(), **state})
    return net.double().requires_grad_(requires_grad=False), steps, seconds


def by_elements(layers: Layers, u: Tensor, fine: int = 5) -> Tensor:
    """Return p at the edges of the layers for one u, (n): linear finite elements, `fine` in each layer.

    With a constant coefficient in each element the values at the nodes are exact.
    """
    count, width = layers.n * fine, 1 / (layers.n * fine)
    stiff = u.exp().repeat_interleave(fine) / width
    bands = torch.zeros(2, count, dtype=torch.float64)
    bands[0, 1:] = -stiff[1:]
    bands[1] = stiff
    bands[1, :-1] += stiff[1:]
    load = torch.full((count,), width, dtype=torch.float64)
    load[-1] = 0.5 * width + 1  # the flux at the right end
    return torch.from_numpy(solveh_banded(bands.numpy(), load.numpy()))[fine - 1 :: fine]


def gap_of_means() -> float:
    """Return the largest difference of E[u | y] for three layers, by the Markov chain and by sums over a lattice.

    The lattice lies around the MAP estimate, nine standard deviations of its curvature to each side.
    """
    layers = Layers(delta=0.3, n=3)
    _, y = layers.draw(4, seed=12)
    steps = torch.cartesian_prod(*3 * [torch.linspace(-9, 9, 101, dtype=torch.float64)])
    modes = layers.most_probable(y)
    stds = layers.delta * torch.linalg.inv(layers.curvature(modes)).diagonal(dim1=-2, dim2=-1).sqrt()
    means = []
    for each, mode, std in zip(y, modes, stds, strict=True):
        u = mode + std * steps
        means.append(torch.softmax(-layers.objective(u, each) / layers.delta**2, 0) @ u)
    return float((layers.posterior_mean(y) - torch.stack(means)).abs().max())


def sides_of_layers(n: int, power: int, generator: torch.Generator) -> tuple[float, float]:
    """Return the loss of a random map, with its divergence by torch, and half of its squared distance to phi* + L*.

    Both for n layers, and with the matrices W = diag(cosh(u_j)^-power) in misfit, reward and distance.
    """
    layers, strength = Layers(delta=0.3, n=n), 0.5
    axis = layers.sigma * torch.linspace(-10, 10, 201, dtype=torch.float64)
    u = torch.cartesian_prod(*n * [axis]).reshape(-1, n)
    w = torch.softmax(-0.5 * (u / layers.sigma).square().sum(-1), 0)
    phi, root = waves(n, generator), torch.cosh(u) ** (-0.5 * power)

    def weighted(f: Map) -> Map:
        return lambda p: torch.cosh(p) ** -power * f(p)

    def mean_divergence(f: Map) -> Tensor:
        return w @ torch.vmap(weighted_divergence(layers, weighted(f)))(u)

    value = torch.vmap(phi)(u)
    loss = averaged_misfit(root * value, root * layers(u), layers.delta * root, w) - strength**2 * mean_divergence(phi)
    pull = -apply(layers.weight(u).mT, u) / layers.sigma**2
    lowest = 0.5 * layers.delta**2 * (w @ root.square().sum(-1)) - strength**2 * mean_divergence(layers)
    lowest = lowest - 0.5 * strength**4 * (w @ (root * pull).square().sum(-1))
    distance = 0.5 * (w @ (root * (value - layers(u) + strength**2 * pull)).square().sum(-1))
    return float(loss), float(distance + lowest)


def check_no_layers() -> Numbers:
    """F against finite elements; its derivatives, phi-circle and B against torch; part 1 by quadrature; part 3.

    The loss is taken literally, for one and two layers, without and with weights W. The bound on the noise comes
    from the least singular value; on a grid of spacing 0.05, from a zero of the least eigenvalue of B.
    """
    layers, u = LAYERS, LAYERS.draw(20, seed=3)[0]
    elements = torch.stack([by_elements(layers, each) for each in u])
    exact = float((layers(u) - elements).abs().max())
    slopes = torch.vmap(torch.func.jacrev(inverse_jacobian(layers)))(u)
    pairs = [
        (layers.jacobian(u), torch.vmap(torch.func.jacrev(layers))(u)),
        (layers.weight(u), torch.linalg.inv(layers.jacobian(u))),
        (layers.weight_div(u), torch.einsum("bijl,il->bj", slopes, torch.eye(layers.n, dtype=torch.float64))),
        (layers.curvature(u), torch.vmap(torch.func.hessian(layers.objective))(u, layers.star(u))),
    ]
    pushed = torch.func.grad(
        lambda p: -0.5 * (p / layers.sigma).square().sum() - torch.linalg.slogdet(torch.func.jacrev(layers)(p))[1]
    )
    circle = layers(u) - layers.delta**2 * apply(layers.weight(u).mT, torch.vmap(pushed)(u))
    moved = Layers(mean=layers.sigma**2)
    gap = max(float((a - b).abs().max() / b.abs().max()) for a, b in [*pairs, (circle, moved.star(u))])
    generator = seeded(6)
    sides = [sides_of_layers(n, power, generator) for n in (1, 2) for power in (0, 2)]
    identity = max(abs(left - right) for left, right in sides)
    assert exact < 1e-11
    assert gap < 1e-10
    assert identity < 1e-8
    assert abs(_grid_bound() / Layers(n=2).loudest - 1) < 1e-5
    means = gap_of_means()
    assert means < 3e-3
    return {"exact": exact, "gap": gap, "identity": identity, "means": means}


def _grid_bound() -> float:
    """Return the noise at which B of two layers stops being positive definite on a grid."""
    axis = torch.arange(-120, 121, dtype=torch.float64) / 20
    u = torch.cartesian_prod(axis, axis)

    def least(noise: float) -> float:
        return float(torch.linalg.eigvalsh(Layers(delta=noise, n=2).curvature(u))[..., 0].min())

    return float(brentq(least, 0.1, 20.0, xtol=1e-6))


def control_no_layers() -> Numbers:
    """Exponential tails of the prior: part 1 fails. No prior: J_y need not have a minimizer, so phi* is not onto.

    One layer, F = exp(-u), with the density 1 / (pi cosh u), cut off at |u| < R: E (M s)^2 grows like e^R, and for
    the map phi = 1 the two sides of the trade differ by the boundary term, 2 / pi. And a datum with falling entries:
    the wider the prior, the farther away is the MAP estimate.
    """
    information, gaps = [], []
    for cut in (6.0, 9.0, 12.0):
        u = torch.linspace(-cut, cut, 24_001, dtype=torch.float64)
        p = 1 / (math.pi * torch.cosh(u))
        information.append(float(torch.trapezoid(p * (u.exp() * torch.tanh(u)) ** 2, u)))
        gaps.append(float(torch.trapezoid(p * u.exp() * (1 - torch.tanh(u)), u)))
    assert information[1] > 15 * information[0]
    assert information[2] > 15 * information[1]
    assert abs(gaps[-1] - 2 / math.pi) < 1e-3
    y = LAYERS(torch.zeros(1, LAYERS.n, dtype=torch.float64))
    y[0, 7] = y[0, 6] - LAYERS.delta
    far = [float(Layers(sigma=sigma).most_probable(y).max()) for sigma in (0.8, 8.0, 80.0)]
    assert far[1] > far[0] + 1
    assert far[2] > far[1] + 1
    return {"boundary": gaps[-1], "near": far[0], "far": far[2]}


# A curved measurement with two entries, reduced to one number


def _least_error(mean: float, readings: Tensor, data: Tensor, cell: float, level: float = 0.5) -> tuple[float, float]:
    """Return E (x - E[x | data])^2 and the mass, for x ~ N(mean, 1), by sums over data (B, k) and readings (P, k)."""
    x = torch.linspace(-5, 5, len(readings), dtype=torch.float64)
    w = torch.softmax(-0.5 * (x - mean) ** 2, 0)
    k = readings.shape[-1]
    misfit = (data[:, None] - readings).square().sum(-1)
    joint = w * torch.exp(-0.5 * misfit / level**2) * cell / (2 * math.pi * level**2) ** (k / 2)
    density = joint.sum(-1)
    estimate = (joint @ x) / density.clamp_min(1e-300)
    return float((joint @ x**2 - density * estimate**2).sum()), float(density.sum())


def _parabola() -> Tensor:
    """Return the readings (x, x^2 / 2) of points of the line, (P, 2)."""
    x = torch.linspace(-5, 5, 401, dtype=torch.float64)
    return torch.stack([x, 0.5 * x**2], -1)


def error_along(degrees: float, mean: float) -> float:
    """Return the least mean squared error of x from the component of y in one direction."""
    angle = math.radians(degrees)
    direction = torch.tensor([[math.cos(angle)], [math.sin(angle)]], dtype=torch.float64)
    data = torch.linspace(-18, 18, 721, dtype=torch.float64)[:, None]
    error, mass = _least_error(mean, _parabola() @ direction, data, 0.05)
    assert abs(mass - 1) < 1e-6  # the grids hold everything
    return error


def error_from_both(mean: float) -> float:
    """Return the least mean squared error of x from both entries of y."""
    first = torch.linspace(-6, 8, 141, dtype=torch.float64)
    second = torch.linspace(-2.5, 15, 176, dtype=torch.float64)
    columns = [torch.stack([one.expand_as(second), second], -1) for one in first]
    parts = [_least_error(mean, _parabola(), column, 0.01) for column in columns]
    assert abs(sum(mass for _, mass in parts) - 1) < 1e-6
    return sum(error for error, _ in parts)
