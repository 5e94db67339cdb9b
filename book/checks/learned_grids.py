"""Checks of the chapter on learned grids: one scalar equation behind both estimators, and what networks make of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

import invlib
from checks.tools import bumps, rms, seeded
from invlib import GaussianMixture, LinearProblem
from invlib.log_det_minimizer import LogDetMinimizer
from invlib.testproblems import epsilon_problem

Numbers = dict[str, float]
"""What a page quotes, by name."""

EPS = 0.5
"""The small singular value of the chapter's operator."""

STD = 0.59
"""The standard deviation of a bump."""

SPACING = 1.0
"""Of the trial functions of the exact minimizers, in standard deviations of a bump."""


# The scalar equation


@dataclass(frozen=True)
class Form:
    """The letters of the chapter, for two round bumps at m and -m.

    Attributes:
        P: H / delta^2 + I / sigma^2, (n, n).
        d: P^{-1} m / sigma^2, (n,).
        kappa: the feedback, <m, d> / sigma^2.
        beta: half of the logarithm of the ratio of the weights.
        noise2: delta^2.
    """

    P: Tensor
    d: Tensor
    kappa: float
    beta: float
    noise2: float

    def b(self, z: Tensor) -> Tensor:
        """Return what the data say about the bump, <d, z> / delta^2 + beta, (B,)."""
        return z @ self.d / self.noise2 + self.beta

    def at(self, z: Tensor, w: Tensor) -> Tensor:
        """Return the estimate P^{-1} z / delta^2 + w d for the decisions w (B,), (B, n)."""
        linear: Tensor = torch.linalg.solve(self.P, z.mT).mT / self.noise2
        return linear + w[:, None] * self.d

    def mean(self, z: Tensor) -> Tensor:
        """Return the posterior mean by the proposition, (B, n)."""
        return self.at(z, torch.tanh(self.b(z)))

    def map(self, z: Tensor) -> Tensor:
        """Return the MAP estimate by the proposition, (B, n)."""
        return self.at(z, decide(self.b(z), self.kappa))

    def decision(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decisions w of estimates x (..., B, n), (..., B), and what no w explains, (..., B, n)."""
        rest = x - self.at(z, torch.zeros_like(z[:, 0]))
        w = rest @ self.d / (self.d @ self.d)
        return w, rest - w[..., None] * self.d

    @property
    def least(self) -> float:
        """The positive solution of w = tanh(kappa w), or zero: no MAP estimate decides less."""
        return float(decide(torch.tensor([1e-300], dtype=torch.float64), self.kappa)) if self.kappa > 1 else 0.0


def scalar_form(problem: LinearProblem, prior: GaussianMixture) -> Form:
    """Return the letters for a mixture of two Gaussians at m and -m, with the covariance of the first one."""
    m, variance = prior.means[0], prior.covariances[0, 0, 0]
    eye = torch.eye(problem.dim, dtype=torch.float64)
    p = problem.normal_operator / problem.noise_std**2 + eye / variance
    d = torch.linalg.solve(p, m) / variance
    beta = 0.5 * float((prior.weights[0] / prior.weights[1]).log())
    return Form(p, d, float(m @ d / variance), beta, problem.noise_std**2)


def decide(b: Tensor, kappa: float) -> Tensor:
    """Return the solution of w = tanh(b + kappa w) with the sign of b, by bisection."""
    low, high = torch.zeros_like(b), torch.ones_like(b)
    for _ in range(60):
        w = 0.5 * (low + high)
        above = torch.tanh(b.abs() + kappa * w) > w
        low, high = torch.where(above, w, low), torch.where(above, high, w)
    return torch.sign(b) * 0.5 * (low + high)


def random_bumps(generator: torch.Generator, stretch: float, size: float) -> GaussianMixture:
    """Return two bumps at m and -m with random weights, m of the size given; the second is `stretch` times as wide."""
    m = size * torch.randn(3, dtype=torch.float64, generator=generator)
    weight, std = (0.2 + 0.6 * torch.rand(2, dtype=torch.float64, generator=generator)).tolist()
    covariance = (std + 0.2) ** 2 * torch.eye(3, dtype=torch.float64)
    return GaussianMixture(
        [weight, 1 - weight], torch.stack([m, -m]), torch.stack([covariance, stretch**2 * covariance])
    )


def random_case(
    rows: int, generator: torch.Generator, stretch: float = 1.0, size: float = 1.0
) -> tuple[LinearProblem, GaussianMixture, Tensor, Tensor]:
    """Return a random problem with `rows` x 3, bumps, unknowns and their data, (50, 3)."""
    operator = torch.randn(rows, 3, dtype=torch.float64, generator=generator)
    noise = 0.4 + float(torch.rand(1, generator=generator))
    problem, prior = LinearProblem(operator, noise), random_bumps(generator, stretch, size)
    x = prior.sample(50, generator=generator)
    return problem, prior, x, problem.normal_data(problem.measure(x, generator=generator))


def gaps(problem: LinearProblem, prior: GaussianMixture, z: Tensor) -> tuple[float, float]:
    """Return the largest distances of the library's mean and MAP estimate from those of the proposition."""
    form = scalar_form(problem, prior)
    mean = (form.mean(z) - invlib.posterior_mean(problem, prior, z)).norm(dim=-1).max()
    mode = (form.map(z) - invlib.map_estimate(problem, prior, z)).norm(dim=-1).max()
    return float(mean), float(mode)


def check_lg_scalar() -> Numbers:
    """Compare the library's estimators with the scalar equations, for random operators, bumps, weights and data.

    The library sums the components of the posterior, climbs from many starts, and takes the prior's Hessian; the
    formulas solve one equation by bisection. All are exact to rounding, times a condition number: hence 1e-8. Part 3:
    the sign of the curvature on the plane <m, x> = -beta sigma^2, and that it is least there. Operators with more, as
    many and fewer rows than columns.
    """
    generator, kappas = seeded(1), []
    found: list[float] = []
    for rows, size in product((4, 3, 2, 1), (0.2, 0.7, 2.0)):
        problem, prior, x, z = random_case(rows, generator, size=size)
        form = scalar_form(problem, prior)
        found += gaps(problem, prior, z)
        kappas.append(form.kappa)
        m, variance = prior.means[0], prior.covariances[0, 0, 0]
        plane = x - ((x @ m + form.beta * variance) / (m @ m))[:, None] * m
        flat, elsewhere = (invlib.map_curvature(problem, prior, at) for at in (plane, x))
        assert (flat - flat[0]).abs().max() < 1e-9
        assert bool(flat[0] > 0) == (form.kappa < 1)
        assert elsewhere.min() > flat[0] - 1e-10
    assert max(found) < 1e-8
    assert min(kappas) < 1 < max(kappas)  # both cases occurred
    return {"gap": max(found), "instances": len(kappas)}


def control_lg_scalar() -> Numbers:
    """Break the assumption of a common covariance: the second bump is twice as wide.

    Then both formulas fail, and the two estimates no longer differ along one direction: the root mean
    square of what the best line does not explain is zero to rounding with a common covariance.
    """
    generator = seeded(1)
    broken: list[float] = []
    aside: dict[float, list[float]] = {1.0: [], 2.0: []}
    for rows in (4, 3, 4, 3):
        for stretch, values in aside.items():
            problem, prior, _, z = random_case(rows, generator, stretch)
            moves = invlib.map_estimate(problem, prior, z) - invlib.posterior_mean(problem, prior, z)
            singular = torch.linalg.svdvals(moves)
            values.append(float(singular[1]) / len(z) ** 0.5)
            if stretch != 1:
                broken += gaps(problem, prior, z)
    assert min(broken) > 1e-2
    assert max(aside[1.0]) < 1e-8
    assert max(aside[2.0]) > 1e-3
    return {"broken": min(broken), "aside": max(aside[2.0])}


# More than two bumps


@dataclass(frozen=True)
class Shares:
    """The letters for bumps N(m_k, sigma^2 I): the estimates are P^{-1} z / delta^2 + sum_k r_k d_k.

    Attributes:
        directions: the d_k, (K, n).
        feedback: the matrix <m_k, P^{-1} m_l> / sigma^4, (K, K).
        a: log of the weights - |m_k|^2 / 2 sigma^2 + <d_k, z> / delta^2, (B, K).
        linear: P^{-1} z / delta^2, (B, n).
    """

    directions: Tensor
    feedback: Tensor
    a: Tensor
    linear: Tensor

    def mean(self) -> Tensor:
        """Return the shares of the posterior mean, (B, K)."""
        return torch.softmax(self.a + 0.5 * self.feedback.diagonal(), -1)

    def step(self, shares: Tensor) -> Tensor:
        """Return the right side of the equation of the MAP estimate at shares (K,) or (B, K)."""
        return torch.softmax(self.a + shares @ self.feedback, -1)

    def at(self, shares: Tensor) -> Tensor:
        """Return the estimates with these shares, (B, n)."""
        return self.linear + shares @ self.directions


def round_bumps(weights: Tensor, means: Tensor, std: float) -> GaussianMixture:
    """Return the mixture of N(m_k, std^2 I) with the weights (K,) and means (K, n)."""
    eye = torch.eye(means.shape[1], dtype=torch.float64)
    return GaussianMixture(weights, means, (std**2 * eye).expand(len(means), -1, -1))


def shares_of(problem: LinearProblem, prior: GaussianMixture, z: Tensor) -> Shares:
    """Return the letters for round bumps of equal width and the data z."""
    means, variance = prior.means, prior.covariances[0, 0, 0]
    p = problem.normal_operator / problem.noise_std**2 + torch.eye(problem.dim, dtype=torch.float64) / variance
    directions = torch.linalg.solve(p, means.mT).mT / variance
    own = prior.weights.log() - means.square().sum(-1) / (2 * variance)
    a = own + z @ directions.mT / problem.noise_std**2
    linear = torch.linalg.solve(p, z.mT).mT / problem.noise_std**2
    return Shares(directions, means @ directions.mT / variance, a, linear)


CORNERS = torch.tensor([[1.0, 0.0], [-0.7, 0.8], [-0.4, -1.0]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def three_bumps(noise: float, means: Tensor = CORNERS) -> tuple[LinearProblem, GaussianMixture, Tensor]:
    """Return a problem, three bumps of different weights, and 500 data."""
    problem, prior = epsilon_problem(EPS, noise, angle=40), round_bumps(WEIGHTS, means, 0.4)
    generator = seeded(5)
    x = prior.sample(500, generator=generator)
    return problem, prior, problem.normal_data(problem.measure(x, generator=generator))


def check_lg_shares() -> Numbers:
    """Compare mean and MAP estimate of three bumps with the equations for their shares, at two noise levels.

    The library knows no shares: those of the MAP estimate are the probabilities of the bumps at its place.
    """
    largest: Numbers = {}
    for level, noise in (("low", 0.2), ("high", 0.6)):
        problem, prior, z = three_bumps(noise)
        form = shares_of(problem, prior, z)
        mode = invlib.map_estimate(problem, prior, z)
        away = (mode[:, None] - prior.means).square().sum(-1)
        shares = torch.softmax(prior.weights.log() - away / (2 * 0.4**2), -1)
        assert (form.at(form.mean()) - invlib.posterior_mean(problem, prior, z)).abs().max() < 1e-9
        assert (shares - form.step(shares)).abs().max() < 1e-7
        assert (form.at(shares) - mode).abs().max() < 1e-7
        largest[f"mean_{level}"] = float(form.mean().amax(-1).min())
        largest[f"mode_{level}"] = float(shares.amax(-1).min())
    return largest


def first_steps(problem: LinearProblem, prior: GaussianMixture, z: Tensor, start: Tensor) -> tuple[float, float]:
    """Return how far the first step from shares `start` is off the shares of the mean, and the spread of distances.

    The distances are those of the m_k from their average with the shares, in the norm of P^{-1}.
    """
    form = shares_of(problem, prior, z)
    away = (prior.means - start @ prior.means) / prior.covariances[0, 0, 0]
    p = problem.normal_operator / problem.noise_std**2 + torch.eye(2, dtype=torch.float64) / prior.covariances[0, 0, 0]
    squares = (away @ torch.linalg.inv(p) * away).sum(-1)
    return float((form.step(start) - form.mean()).abs().max()), float(squares.max() - squares.min())


def check_lg_first() -> Numbers:
    """The first step is the posterior mean where all bumps have the same distance from their average, and only there.

    Equal distances: three bumps on an ellipse of the norm, with equal shares and with others; and two bumps that are
    far from symmetric about the origin. Different ones: three corners. The step is taken by the formula, the mean by
    the shares that `check_lg_shares` compares with the library.
    """
    problem, prior, z = three_bumps(0.4)
    p = problem.normal_operator / 0.4**2 + torch.eye(2, dtype=torch.float64) / 0.4**2
    root = torch.linalg.cholesky(p)
    equal = torch.full((3,), 1 / 3, dtype=torch.float64)
    uneven = torch.tensor([80.0, 180.0, 300.0], dtype=torch.float64).deg2rad()
    angles = {"equal": torch.tensor([0.0, 2.0, 4.0], dtype=torch.float64) * math.pi / 3, "uneven": uneven}
    exact = []
    for name, angle in angles.items():
        circle = torch.stack([angle.cos(), angle.sin()], -1)  # its centre is an average of the three, with these shares
        system = torch.cat([circle.mT, torch.ones(1, 3, dtype=torch.float64)])
        start = torch.linalg.solve(system, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
        assert start.min() > 0
        assert (name == "uneven") == bool((start - equal).abs().max() > 0.05)
        ellipse = round_bumps(WEIGHTS, 0.5 * circle @ root.mT + torch.tensor([0.3, -0.2], dtype=torch.float64), 0.4)
        exact.append(first_steps(problem, ellipse, z, start))
    pair = torch.tensor([[1.3, 0.2], [-0.1, 0.9]], dtype=torch.float64)
    half = torch.full((2,), 0.5, dtype=torch.float64)
    exact.append(first_steps(problem, round_bumps(half, pair, 0.4), z, half))
    off, spread = first_steps(problem, prior, z, equal)
    assert max(max(each) for each in exact) < 1e-10
    assert min(off, spread) > 0.05
    feedback = shares_of(problem, round_bumps(half, pair, 0.4), z).feedback.diagonal()
    assert feedback.max() > 1.5 * feedback.min()  # not symmetric at all
    return {"same": max(gap for gap, _ in exact), "off": off}


# Geometries, and estimators on fresh data


@dataclass(frozen=True)
class Geometry:
    """A prior, a noise level and the angle of the weak direction, with test data.

    Attributes:
        prior: two round bumps at m and -m.
        noise: the standard deviation delta.
        angle: of the weak direction, in degrees.
        count: number of data.
        seed: of the data.
    """

    prior: GaussianMixture
    noise: float
    angle: float = 40.0
    count: int = 2000
    seed: int = 2

    @cached_property
    def problem(self) -> LinearProblem:
        """The problem with the singular values 1 and EPS."""
        return epsilon_problem(EPS, self.noise, angle=self.angle)

    @cached_property
    def form(self) -> Form:
        """The letters of the chapter."""
        return scalar_form(self.problem, self.prior)

    @cached_property
    def x(self) -> Tensor:
        """Unknowns of the prior, (count, 2)."""
        return self.prior.sample(self.count, generator=seeded(self.seed))

    @cached_property
    def z(self) -> Tensor:
        """Their data, (count, 2)."""
        return self.problem.normal_data(self.problem.measure(self.x, generator=seeded(self.seed + 1)))

    @cached_property
    def naive(self) -> Tensor:
        """The naive inverses H^{-1} z."""
        u: Tensor = torch.linalg.solve(self.problem.normal_operator, self.z.mT).mT
        return u

    @cached_property
    def wiener(self) -> Tensor:
        """The affine map of the data with the least mean squared error."""
        inverse = self.noise**2 * torch.linalg.inv(self.prior.covariance)
        shifted = self.z + inverse @ self.prior.mean
        x: Tensor = torch.linalg.solve(self.problem.normal_operator + inverse, shifted.mT).mT
        return x

    @cached_property
    def mean(self) -> Tensor:
        """The posterior means."""
        return invlib.posterior_mean(self.problem, self.prior, self.z)

    @cached_property
    def map(self) -> Tensor:
        """The MAP estimates."""
        return invlib.map_estimate(self.problem, self.prior, self.z)

    @cached_property
    def apart(self) -> Tensor:
        """The root mean square distance of MAP estimate and posterior mean."""
        return rms(self.map - self.mean)

    @property
    def equal(self) -> bool:
        """Whether the bumps have equal weights."""
        return bool(self.prior.weights[0] == self.prior.weights[1])

    def log_det(self, whiten: bool = True, share: float = 1.0) -> Tensor:
        """Return the reconstructions by the exact minimizer of the log-determinant's loss with strength share * delta.

        Only for equal weights.
        """
        softer = epsilon_problem(EPS, self.noise * share, angle=self.angle)
        return LogDetMinimizer(softer, self.prior, whiten=whiten, spacing=SPACING).inverse(self.z, self.mean)

    def half_step(self) -> Tensor:
        """Return the half step: the minimizer for half of the squared strength, and twice the step from the naive x."""
        return 2 * self.log_det(share=0.5**0.5) - self.naive

    def errors(self) -> Numbers:
        """Return the root mean square errors of the exact estimators against the truth."""
        return {name: float(rms(getattr(self, name) - self.x)) for name in ("naive", "wiener", "mean", "map")}


def equation_residual(minimizer: LogDetMinimizer, geometry: Geometry, x: Tensor, whiten: bool) -> float:
    """Return the residual of H x = z + delta^2 W^{-1} grad log q(z) at z = phi(x), relative to its last term.

    The density q of the outputs is that of the change of variables, its gradient is automatic.
    """
    points = x.clone().requires_grad_()
    image, jacobian = minimizer(points)
    log_q = geometry.prior.log_prob(points) - jacobian.logdet()
    (slope,) = torch.autograd.grad(log_q.sum(), points)
    score = torch.linalg.solve(jacobian.detach().mT, slope[..., None])[..., 0]
    h = geometry.problem.normal_operator
    pull = geometry.noise**2 * (score @ h if whiten else score)
    return float(rms(x @ h - image.detach() - pull) / rms(pull))


def check_lg_weighted() -> Numbers:
    """Test the exact minimizers by their equations, and by a second set of trial functions.

    Each minimizer must solve its own equation, with the score of q by automatic differentiation, and must fail in that
    of the other norm. They are sums of trial functions on a grid: a finer grid tells the error, here relative to the
    distance of MAP estimate and posterior mean.
    """
    own, swapped, moved = [], [], []
    for noise in (0.2, 0.4):
        case = Geometry(bumps(), noise, count=500)
        for whiten in (True, False):
            minimizer = LogDetMinimizer(case.problem, case.prior, whiten=whiten, spacing=SPACING)
            x = minimizer.inverse(case.z, case.mean)
            finer = LogDetMinimizer(case.problem, case.prior, whiten=whiten, spacing=0.68 * SPACING)
            moved.append(float(rms(finer.inverse(case.z, x) - x) / case.apart))
            own.append(equation_residual(minimizer, case, x, whiten))
            swapped.append(equation_residual(minimizer, case, x, not whiten))
    assert max(own) < 0.02
    assert min(swapped) > 0.3
    assert max(moved) < 0.02
    return {"own": 100 * max(own), "swapped": 100 * min(swapped), "moved": 100 * max(moved)}


def distances_to_mean(geometry: Geometry) -> list[Tensor]:
    """Return the distances of four exact maps to the posterior mean: MAP, log-determinant in both norms, half step."""
    maps = (geometry.map, geometry.log_det(), geometry.log_det(whiten=False), geometry.half_step())
    return [rms(each - geometry.mean) for each in maps]


def across_the_line(geometry: Geometry, places: int = 7) -> tuple[Tensor, Tensor]:
    """Return data of the line b(z) = 0, (places, 2), spread as far as the data are, and the unit vector d / |d|."""
    form = geometry.form
    along = form.d / form.d.norm()
    line = torch.stack([-along[1], along[0]])
    spread = (geometry.z @ line).std()
    middle = (geometry.z @ line).mean()
    steps = middle + torch.linspace(-1.5, 1.5, places, dtype=torch.float64) * spread
    start = -form.beta * form.noise2 / form.d.norm() * along
    return start + steps[:, None] * line, along


def torn(geometry: Geometry, points: Tensor, z: Tensor) -> Tensor:
    """Return lines (lines, points, 2) of MAP estimates of z, cut (by nan) where the estimator jumps."""
    if geometry.form.kappa < 1:
        return points
    b = geometry.form.b(z)
    cut = points.clone()
    cut[:, 1:][b[:, 1:] * b[:, :-1] <= 0] = math.nan
    cut[b.abs() < 1e-9] = math.nan  # on the line itself there are two MAP estimates
    return cut


def transects(geometry: Geometry, b: Tensor, places: int = 7) -> Tensor:
    """Return data on straight ways across the line b(z) = 0, where b(z) takes the given values, (places, len(b), 2)."""
    start, along = across_the_line(geometry, places)
    steps = b * geometry.form.noise2 / geometry.form.d.norm()
    ways: Tensor = start[:, None] + steps[:, None] * along
    return ways


def crossing(geometry: Geometry, x: Tensor, z: Tensor, b: Tensor) -> Tensor:
    """Return the b(z) at which the decision of reconstructions x of `transects` z changes its sign, (places,)."""
    found = []
    for points, data in zip(x, z, strict=True):
        w, _ = geometry.form.decision(points, data)
        last = int((w < 0).nonzero().max())
        found.append(b[last] - w[last] * (b[last + 1] - b[last]) / (w[last + 1] - w[last]))
    return torch.stack(found)


def areas(geometry: Geometry) -> dict[str, Tensor]:
    """Return the area factors of the exact estimators at the data, by strategy."""
    form, z = geometry.form, geometry.z
    base = torch.linalg.det(torch.linalg.solve(form.P, geometry.problem.normal_operator)) / form.noise2**2
    b = form.b(z)
    at_mean, at_map = (form.kappa * (1 - w.square()) for w in (torch.tanh(b), decide(b, form.kappa)))
    return {"reconstruction": base * (1 + at_mean), "divergence": base / (1 - at_map)}


def check_lg_area() -> Numbers:
    """Compare the area factors with determinants of the posterior covariance and of the Hessian at the MAP estimate."""
    gap = 0.0
    for case in (Geometry(bumps(), 0.2), Geometry(bumps(0.7), 0.4, 75)):
        h, variance = case.problem.normal_operator, case.noise**2
        area, volume = areas(case), torch.linalg.det(h)
        covariance = invlib.posterior_covariance(case.problem, case.prior, case.z)
        hessian = h - variance * case.prior.hessian(case.map)
        ratios = (
            area["reconstruction"] * variance**2 / (volume * covariance.det()),
            area["divergence"] * hessian.det() / volume,
        )
        gap = max(gap, *(float((ratio - 1).abs().max()) for ratio in ratios))
    assert gap < 1e-6  # an error of w is magnified where the Hessian is nearly singular
    return {"gap": gap}
