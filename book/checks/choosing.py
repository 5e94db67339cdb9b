"""Checks and controls of the chapter that compares the four strategies, and its machinery."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor, nn

import invlib
from checks.tools import random_problem, rms, seeded
from invlib import GaussianMixture, IResNet, LinearProblem, testproblems
from invlib.ascent import maximize
from invlib.log_det_minimizer import LogDetMinimizer
from invlib.training import minimize

MapWithJacobian = Callable[[Tensor], tuple[Tensor, Tensor]]
"""x (..., n) -> phi(x) (..., n) and its Jacobian (..., n, n)."""

Numbers = dict[str, float]
"""What a page quotes, by name."""

EPSILON, DELTA, LOUDER = 0.25, 0.13, 1.5
"""The weak singular value, the noise level, and the ratio of a louder one to it."""

PRIOR = testproblems.two_bumps()
BUMP, STD = PRIOR.means[0], float(PRIOR.covariances[0, 0, 0].sqrt())

ORIGIN = torch.zeros(1, 2, dtype=torch.float64)
"""Where the curvature of the objective is least, for two round bumps."""


def problem_at(angle: float = 75.0, level: float = 1.0) -> LinearProblem:
    """Return the problem of the chapter with its weak direction at an angle, and its noise times a level."""
    return testproblems.epsilon_problem(EPSILON, level * DELTA, angle=angle)


def least_curvature(problem: LinearProblem) -> float:
    """Return c, the least eigenvalue of H - delta^2 hess log p over all points."""
    return float(invlib.map_curvature(problem, PRIOR, ORIGIN)[0])


def linear_start(problem: LinearProblem, z: Tensor) -> Tensor:
    """Return the best affine reconstruction; the prior has mean zero."""
    shrink = problem.noise_std**2 * torch.linalg.inv(PRIOR.covariance)
    estimate: Tensor = z @ torch.linalg.inv(problem.normal_operator + shrink)
    return estimate


def affine_forward(problem: LinearProblem) -> Tensor:
    """Return the matrix whose inverse is the best affine reconstruction, (2, 2)."""
    matrix: Tensor = problem.normal_operator + problem.noise_std**2 * torch.linalg.inv(PRIOR.covariance)
    return matrix


# One training, other noise levels and operators


def optimal_map(x: Tensor, h: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Return phi* = H - strength^2 s and its Jacobian at points (..., n)."""
    return x @ h - strength**2 * PRIOR.score(x), h - strength**2 * PRIOR.hessian(x)


def best_map(problem: LinearProblem) -> MapWithJacobian:
    """Return phi* of a problem, trained at the strength of its noise."""
    return lambda x: optimal_map(x, problem.normal_operator, problem.noise_std)


def carried(phi: MapWithJacobian, old: LinearProblem, new: LinearProblem, strength: float) -> MapWithJacobian:
    """Return phi_rho for a new problem, from a map that was trained for an old one."""
    h, h_new = old.normal_operator, new.normal_operator
    rho = (new.noise_std / strength) ** 2

    def changed(x: Tensor) -> tuple[Tensor, Tensor]:
        value, jacobian = phi(x)
        return x @ h_new - rho * (x @ h - value), h_new - rho * (h - jacobian)

    return changed


def newton(phi: MapWithJacobian, z: Tensor, start: Tensor, iterations: int = 200) -> tuple[Tensor, Tensor]:
    """Return points where a damped Newton method for phi(x) = z ends, (..., n), and which of them solve it."""

    def value(x: Tensor) -> Tensor:
        return -0.5 * (phi(x)[0] - z).square().sum(-1)

    def derivatives(x: Tensor) -> tuple[Tensor, Tensor]:  # less a term that vanishes at the solution
        image, jacobian = phi(x)
        return ((z - image).unsqueeze(-2) @ jacobian).squeeze(-2), -jacobian.mT @ jacobian

    x, _ = maximize(value, derivatives, start, iterations=iterations)
    return x, (phi(x)[0] - z).norm(dim=-1) < 1e-6


def first_members(net: IResNet, count: int) -> IResNet:
    """Return the first members of an ensemble with a fixed last layer, as an ensemble of its own, in float64."""
    assert net.output_operator is not None
    last = net.output_operator[:count]
    few = IResNet(net.dim, members=count, output_operator=last, dtype=torch.float64).requires_grad_(False)
    for mine, theirs in zip(few.parameters(), net.parameters(), strict=True):
        mine.copy_(theirs[:count])
    return few


def solve(phi: MapWithJacobian, new: LinearProblem, z: Tensor) -> Tensor:
    """Return the solutions of phi(x) = z, from the linear reconstruction.

    Raises:
        AssertionError: if Newton's method did not arrive.
    """
    x, solved = newton(phi, z, linear_start(new, z))
    assert solved.all()
    return x


def _new_problem(generator: torch.Generator) -> LinearProblem:
    """Return a random problem with three rows, and with the highest of some noise levels that has curvature."""
    while True:
        operator = random_problem(3, 2, generator).operator
        for noise in (0.6, 0.4, 0.3, 0.2, 0.1):
            if least_curvature(LinearProblem(operator, noise)) > 0.02:
                return LinearProblem(operator, noise)


def _olds(generator: torch.Generator) -> list[LinearProblem]:
    """Return three problems to train for, one with a kernel."""
    return [
        LinearProblem(torch.randn(3, 2, generator=generator), 0.4),
        LinearProblem(torch.tensor([[1.0, -0.5]]), 0.8),
        problem_at(),
    ]


def check_ch_levels() -> Numbers:
    """Compare solutions of phi_rho(x) = z for phi = phi*, by Newton's method, with `map_estimate`; up to rounding.

    For a map that is not phi* the gradient of the new objective is compared with automatic differentiation of the
    log-posterior, and the bound of part 2 is verified at random points; part 3 on a grid and on pairs of points.
    """
    generator, gaps, sharp = seeded(5), [0.0], 0.0
    for old in _olds(generator):
        for _ in range(4):
            new = _new_problem(generator)
            x = PRIOR.sample(200, generator=generator)
            z = new.normal_data(new.measure(x, generator=generator))
            found = solve(carried(best_map(old), old, new, old.noise_std), new, z)
            gaps.append(float((found - invlib.map_estimate(new, PRIOR, z)).norm(dim=-1).max()))
            sharp = max(sharp, _bound_of_a_rough_map(old, new, x))
    assert max(gaps) < 1e-8
    assert sharp > 0.3  # the bound is not idle
    _curvature_of_smaller_noise(generator)
    return {"worst": max(gaps), "sharp": sharp, "tried": 200.0 * (len(gaps) - 1)}


def _bound_of_a_rough_map(old: LinearProblem, new: LinearProblem, x: Tensor) -> float:
    """Verify the gradient and the bound for phi* plus a ripple; return the largest share of the bound that is used."""
    rho, ripple = (new.noise_std / old.noise_std) ** 2, 0.05 * torch.sin(3 * x.flip(-1))
    near = best_map(old)(x)[0] + ripple
    image = x @ new.normal_operator - rho * (x @ old.normal_operator - near)
    at = x.clone().requires_grad_()
    objective = 0.5 * new.forward(at).square().sum(-1) - (image * at).sum(-1) - new.noise_std**2 * PRIOR.log_prob(at)
    (slope,) = torch.autograd.grad(objective.sum(), at)
    assert (slope + rho * ripple).abs().max() < 1e-10
    error = (x - invlib.map_estimate(new, PRIOR, image)).norm(dim=-1)
    bound = rho / least_curvature(new) * ripple.norm(dim=-1)
    assert (error <= bound * (1 + 1e-9) + 1e-9).all()
    return float((error / bound).max())


def _curvature_of_smaller_noise(generator: torch.Generator) -> None:
    """Verify part 3: curvature on a grid, monotonicity of a rough map (Lipschitz constant 0.03 off phi*) on pairs."""
    problem = problem_at()
    h, c = problem.normal_operator, least_curvature(problem)
    h_min = float(torch.linalg.eigvalsh(h)[0])
    plane = torch.cartesian_prod(*2 * [torch.linspace(-4, 4, 161, dtype=torch.float64)])
    a = 0.5 * torch.randn(4000, 2, generator=generator, dtype=torch.float64)
    pair = torch.stack([a, a + 0.1 * torch.randn(4000, 2, generator=generator, dtype=torch.float64)])
    rough = best_map(problem)(pair)[0] + 0.01 * torch.sin(3 * pair.flip(-1))
    step = pair[1] - pair[0]
    for ratio in (0.2, 0.5, 0.9):
        rho = ratio**2
        smaller = invlib.map_curvature(problem_at(level=ratio), PRIOR, plane).min()
        assert smaller >= (1 - rho) * h_min + rho * c - 1e-12
        image = (1 - rho) * pair @ h + rho * rough
        slope = ((image[1] - image[0]) * step).sum(-1) / step.square().sum(-1)
        assert slope.min() >= (1 - rho) * h_min + rho * (c - 0.03)


def control_ch_levels() -> Numbers:
    """Break one assumption at a time: more noise in part 3; negative curvature; another H; another map than phi*."""
    problem, generator = problem_at(), seeded(15)
    h_min, c = float(torch.linalg.eigvalsh(problem.normal_operator)[0]), least_curvature(problem)
    assert least_curvature(problem_at(level=LOUDER)) < 0.5 * ((1 - LOUDER**2) * h_min + LOUDER**2 * c)

    x = PRIOR.sample(400, generator=generator)
    loud = problem_at(level=2.5)
    assert least_curvature(loud) < 0
    z = loud.normal_data(loud.measure(x, generator=generator))
    phi, modes = carried(best_map(problem), problem, loud, DELTA), invlib.map_estimate(loud, PRIOR, z)
    wrong, _ = maximize(  # from the other bump, to a solution there
        lambda x: loud.noise_std**2 * PRIOR.log_prob(x) - 0.5 * loud.forward(x).square().sum(-1) + (z * x).sum(-1),
        lambda x: (z - phi(x)[0], -phi(x)[1]),
        -modes,
    )
    assert ((phi(wrong)[0] - z).norm(dim=-1) < 1e-8).all()
    elsewhere = float(((wrong - modes).norm(dim=-1) > 0.3).double().mean())
    assert elsewhere > 0.02

    quiet = problem_at(level=0.5)
    z = quiet.normal_data(quiet.measure(x, generator=generator))
    modes = invlib.map_estimate(quiet, PRIOR, z)
    apart = float(rms(modes - invlib.posterior_mean(quiet, PRIOR, z)))
    minimizer = LogDetMinimizer(problem, PRIOR, whiten=True)
    off = {}
    for name, phi, old in (
        ("operator", best_map(problem), LinearProblem(1.1 * problem.operator, DELTA)),
        ("map", minimizer, problem),
    ):
        off[name] = float(rms(solve(carried(phi, old, quiet, DELTA), quiet, z) - modes)) / apart
    assert min(off.values()) > 3
    return {"elsewhere": 100 * elsewhere, **off}


# Which bump?


def half_plane_mass(problem: LinearProblem, prior: GaussianMixture, centre: Tensor, y: Tensor) -> Tensor:
    """Return P(<m, x> > 0 | y) by Bayes' formula on a grid of the plane, (B,)."""
    axis = torch.linspace(-4.5, 4.5, 301, dtype=torch.float64)
    along = centre / centre.norm()
    across = torch.stack([-along[1], along[0]])
    shifted = axis + 0.5 * (axis[1] - axis[0])  # no point where the sign is zero
    grid = (shifted[:, None, None] * along + axis[None, :, None] * across).reshape(-1, 2)
    misfit = (y[:, None] - problem.forward(grid)).square().sum(-1)
    weight = torch.softmax(prior.log_prob(grid) - 0.5 * misfit / problem.noise_std**2, -1)
    mass: Tensor = weight @ ((grid @ centre) > 0).double()
    return mass


def tilt(problem: LinearProblem, centre: Tensor = BUMP, width: float = STD) -> Tensor:
    """Return the vector a with b(z) = <a, z>, (2,)."""
    precision = problem.normal_operator / problem.noise_std**2 + torch.eye(2, dtype=torch.float64) / width**2
    vector: Tensor = torch.linalg.solve(precision, centre) / (width * problem.noise_std) ** 2
    return vector


def error_rate(problem: LinearProblem, vector: Tensor, centre: Tensor = BUMP, width: float = STD) -> float:
    """Return P(sign <a, z> != B): given B = 1, <a, z> is Gaussian."""
    h = problem.normal_operator
    spread = width**2 * h @ h + problem.noise_std**2 * h
    return float(torch.special.ndtr(-(vector @ h @ centre) / (vector @ spread @ vector).sqrt()))


def check_ch_sign() -> Numbers:
    """Compare the signs of both estimates with that of b(z), on nine random problems, three of them with a kernel.

    Also P(B | z) with Bayes' formula for the densities of y, up to rounding; the likelier sign of <m, x> with an
    integral over the plane; and error rates with those of random linear rules and of the naive one. Part 3 also where
    m is an eigenvector of H: there the naive rule is the best one.
    """
    generator, width = seeded(8), 0.45
    gaps, differ, regret = [], 0, []
    for rows in (1, 2, 3):
        for noise in (0.3, 0.6, 1.2):
            matrix = torch.randn(rows, 2, generator=generator, dtype=torch.float64)
            centre = torch.randn(2, generator=generator, dtype=torch.float64)
            problem, prior = LinearProblem(matrix, noise), testproblems.two_bumps(centre.tolist(), width)
            y = problem.measure(prior.sample(60, generator=generator), generator=generator)
            z = problem.normal_data(y)
            b = z @ tilt(problem, centre, width)
            for estimate in (invlib.posterior_mean, invlib.map_estimate):
                decided = (estimate(problem, prior, z) @ centre).sign()
                differ += int((decided != b.sign())[b.abs() > 1e-3].sum())
            likelier = (half_plane_mass(problem, prior, centre, y) - 0.5).sign()
            differ += int((likelier != b.sign())[b.abs() > 0.02].sum())
            spread = width**2 * matrix @ matrix.mT + noise**2 * torch.eye(rows, dtype=torch.float64)
            given = [torch.distributions.MultivariateNormal(k * matrix @ centre, spread) for k in (1, -1)]
            odds = given[0].log_prob(y) - given[1].log_prob(y)
            gaps.append(float((torch.sigmoid(odds) - 0.5 * (1 + torch.tanh(b))).abs().max()))
            regret += _regret(problem, centre, width, generator)
    assert max(gaps) < 1e-12
    assert differ == 0
    assert min(regret) > 0
    aligned = testproblems.epsilon_problem(0.25, 0.4, angle=math.degrees(math.atan2(0.5, 0.8)))
    naive = torch.linalg.solve(aligned.normal_operator, BUMP)
    assert abs(error_rate(aligned, naive) - error_rate(aligned, tilt(aligned))) < 1e-12
    return {"gap": max(gaps), "regret": 100 * max(regret)}


def _regret(problem: LinearProblem, centre: Tensor, width: float, generator: torch.Generator) -> list[float]:
    """Verify that no random linear rule is better; return how much worse the naive one is, if there is one."""
    h = problem.normal_operator
    best = error_rate(problem, tilt(problem, centre, width), centre, width)
    for _ in range(20):
        other = h @ torch.randn(2, generator=generator, dtype=torch.float64)  # in the range of A*
        assert error_rate(problem, other, centre, width) >= best - 1e-12
    if len(problem.operator) == 1:
        return []
    return [error_rate(problem, torch.linalg.solve(h, centre), centre, width) - best]


def unequal_bumps(share: float = 0.7) -> GaussianMixture:
    """Return the bumps of the chapter with unequal weights."""
    return GaussianMixture([share, 1 - share], PRIOR.means, PRIOR.covariances)


def control_ch_sign() -> Numbers:
    """Bumps of unequal weight: the signs of posterior mean and MAP differ for some data."""
    generator, problem, prior = seeded(9), problem_at(level=2.0), unequal_bumps()
    z = problem.normal_data(problem.measure(prior.sample(4000, generator=generator), generator=generator))
    sides = [(e(problem, prior, z) @ BUMP).sign() for e in (invlib.posterior_mean, invlib.map_estimate)]
    differ = float((sides[0] != sides[1]).double().mean())
    assert differ > 0.003
    return {"differ": 100 * differ}


# Six questions


@dataclass(frozen=True)
class Situation:
    """Test data of a problem, and the exact estimates.

    Attributes:
        problem: what the data come from.
        side: the bump of each point, 1 or -1, (B,).
        x: the points, (B, 2).
        z: their data, (B, 2).
    """

    problem: LinearProblem
    side: Tensor
    x: Tensor
    z: Tensor

    @classmethod
    def of(cls, problem: LinearProblem, count: int = 8192, share: float = 0.5) -> Situation:
        """Draw quasi-random test data; share is P(B = 1)."""
        uniform = invlib.quasi_uniform(count, 5, seed=1).double().clamp(1e-9, 1 - 1e-9)
        side = torch.where(uniform[:, 0] < share, 1.0, -1.0).double()
        normals = torch.special.ndtri(uniform[:, 1:])
        x = side[:, None] * BUMP + STD * normals[:, :2]
        return cls(problem, side, x, problem.normal_data(problem.forward(x) + problem.noise_std * normals[:, 2:]))

    @cached_property
    def minimizer(self) -> LogDetMinimizer:
        """The minimizer of the log-determinant's loss, in the norm of H^-1."""
        return LogDetMinimizer(self.problem, PRIOR, whiten=True)

    def exact(self, z: Tensor | None = None) -> dict[str, Tensor]:
        """Return the four exact reconstructions of data, by default its own."""
        z = self.z if z is None else z
        mean = invlib.posterior_mean(self.problem, PRIOR, z)
        return {
            "approximation": z @ torch.linalg.inv(self.problem.normal_operator),
            "reconstruction": mean,
            "log_det": self.minimizer.inverse(z, mean),
            "divergence": invlib.map_estimate(self.problem, PRIOR, z),
        }

    def slopes(self, exact: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the derivatives of z -> reconstruction at the exact reconstructions, (B, 2, 2)."""
        h, delta = self.problem.normal_operator, self.problem.noise_std
        return {
            "approximation": torch.linalg.inv(h).expand(len(self.z), 2, 2),
            "reconstruction": invlib.posterior_covariance(self.problem, PRIOR, self.z) / delta**2,
            "log_det": torch.linalg.inv(self.minimizer(exact["log_det"])[1]),
            "divergence": torch.linalg.inv(optimal_map(exact["divergence"], h, delta)[1]),
        }

    def log_posterior(self, x: Tensor) -> Tensor:
        """Return the log-posterior of reconstructions (B, 2), up to a constant that depends on z only."""
        inner = (self.z * x).sum(-1) - 0.5 * ((x @ self.problem.normal_operator) * x).sum(-1)
        return inner / self.problem.noise_std**2 + PRIOR.log_prob(x)

    def answers(self, found: Tensor, slope: Tensor, mode: Tensor) -> Numbers:
        """Return the answers to the first four questions, for reconstructions (B, 2) and their slopes (B, 2, 2)."""
        sensitive = torch.linalg.matrix_norm(slope @ self.problem.operator.mT, 2)
        return {
            "error": float(rms(found - self.x)),
            "wrong": 100 * float(((found @ BUMP).sign() != self.side).double().mean()),
            "lost": float((self.log_posterior(mode) - self.log_posterior(found)).mean()),
            "sensitive": float(sensitive.amax()),
        }


class Regressor(nn.Module):
    """Plain networks side by side, from data to reconstructions: the best affine map, plus three hidden layers."""

    def __init__(self, problems: Sequence[LinearProblem], seed: int, width: int = 64) -> None:
        super().__init__()
        self.affine = torch.stack([torch.linalg.inv(affine_forward(p)) for p in problems])
        generator, sizes = seeded(seed), (2, width, width, width, 2)

        def uniform(*shape: int, fan_in: int) -> nn.Parameter:
            numbers = 2 * torch.rand(len(problems), *shape, generator=generator) - 1
            return nn.Parameter(numbers / math.sqrt(fan_in))

        self.weights = nn.ParameterList(uniform(a, b, fan_in=a) for a, b in pairwise(sizes))
        self.biases = nn.ParameterList(uniform(1, b, fan_in=a) for a, b in pairwise(sizes))

    def forward(self, z: Tensor) -> Tensor:
        """Return reconstructions of data, (E, B, 2)."""
        start = h = z @ self.affine.to(z.dtype)
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h if k == 0 else nn.functional.silu(h), weight)
        return start + h


def train_regressors(problems: Sequence[LinearProblem], seed: int, steps: int, batch: int = 128) -> Regressor:
    """Return plain networks trained on the mean squared error, with fresh quasi-random batches."""
    net = Regressor(problems, seed)
    stream = invlib.QuasiRandom(PRIOR, seed=seed, members=len(problems), noise_dim=2)
    operator = torch.stack([p.operator for p in problems])
    noise_std = torch.tensor([p.noise_std for p in problems], dtype=torch.float64)[:, None, None]

    def loss(step: int) -> Tensor:
        x, noise = stream.draw_with_noise(batch if 2 * step < steps else 4 * batch)
        z = (x @ operator.mT + noise_std * noise) @ operator
        misfit: Tensor = 0.5 * (net(z.float()) - x.float()).square().sum(-1).mean(-1)
        return misfit

    minimize(net, loss, steps, optimizer=torch.optim.Adam, learning_rate=3e-3)
    return net.double().requires_grad_(False)


def slopes_of(net: nn.Module, z: Tensor) -> Tensor:
    """Return the derivatives of reconstructions at data, (E, B, 2, 2); each depends on its own datum only."""
    at = z.clone().requires_grad_()
    x = net(at)
    return torch.stack([torch.autograd.grad(x[..., i].sum(), at, retain_graph=True)[0] for i in range(2)], -2)


# Unequal bumps: where to cut


def rates_of_cuts(problem: LinearProblem, share: float) -> tuple[dict[str, float], dict[str, float]]:
    """Return the cuts in b(z) of the best rule and of the signs of both estimates, and their error rates in per cent.

    Given B, b(z) is Gaussian, so the rates are exact. The cut of the posterior mean is the zero of
    b + kappa tanh(b + beta).
    """
    from scipy.optimize import brentq

    beta, vector, h = 0.5 * math.log(share / (1 - share)), tilt(problem), problem.normal_operator
    kappa = float(vector @ BUMP) * problem.noise_std**2 / STD**2
    middle = float(vector @ h @ BUMP)
    spread = float(vector @ (STD**2 * h @ h + problem.noise_std**2 * h) @ vector) ** 0.5

    def rate(cut: float) -> float:
        tails = torch.tensor([cut - middle, -cut - middle], dtype=torch.float64) / spread
        low, high = torch.special.ndtr(tails).tolist()
        return float(100 * (share * low + (1 - share) * high))

    mean = brentq(lambda b: b + kappa * math.tanh(b + beta), -5.0, 5.0)
    cuts = {"best": -beta, "mean": float(mean), "map": -kappa * math.tanh(beta)}
    assert min(rate(-beta + t) for t in (-0.1, 0.1)) > rate(-beta)
    return cuts, {name: rate(cut) for name, cut in cuts.items()}


def steep(x: Tensor, samples: Sequence[float], grow: float, radius: float = 0.1) -> Tensor:
    """Return an increasing bijection of the line with the slope `grow` at samples more than 2 `radius` apart."""
    nodes = torch.tensor(samples, dtype=torch.float64)
    nearest = nodes[(x[:, None] - nodes).abs().argmin(-1)]
    u = (x - nearest) / radius
    inside = radius * u * grow / (1 + (grow - 1) * u.abs())
    return torch.where(u.abs() < 1, nearest + inside, x)
