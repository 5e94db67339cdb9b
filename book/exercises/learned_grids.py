"""What the exercises of the chapter on learned grids ask."""

from __future__ import annotations

import math

import torch
from checks import learned_grids as checks
from scipy.optimize import brentq
from torch import Tensor

from exercises.asking import Mistake, Question, sqrt
from invlib import GaussianMixture, LinearProblem, posterior_mean


def round_bumps(m: float, sigma: float) -> GaussianMixture:
    """Return two equal bumps on the line."""
    return GaussianMixture([0.5, 0.5], [[float(m)], [-float(m)]], 2 * [[[float(sigma) ** 2]]])


def threshold(h: float, norm: float, sigma: float) -> float:
    """Return the noise level with kappa = 1, along an eigenvector."""

    def gap(delta: float) -> float:
        return checks.scalar_form(LinearProblem([[sqrt(h)]], delta), round_bumps(norm, sigma)).kappa - 1

    return float(brentq(gap, 1e-3, 50.0))


def decision(b: float, kappa: float) -> float:
    """Return the decision of the MAP estimate."""
    return float(checks.decide(torch.tensor([float(b)], dtype=torch.float64), float(kappa)))


def steps(b: float, kappa: float, tolerance: float) -> int:
    """Return how many steps the iteration needs."""
    target, w, count = decision(b, kappa), 0.0, 0
    while abs(w - target) > float(tolerance):
        w, count = math.tanh(float(b) + float(kappa) * w), count + 1
    return count


def steps_by_size(b: float, kappa: float, tolerance: float) -> int:
    """Return after how many steps the step itself is small."""
    w, previous, count = math.tanh(float(b)), 0.0, 1
    while abs(w - previous) > float(tolerance):
        previous, w, count = w, math.tanh(float(b) + float(kappa) * w), count + 1
    return count


def area_of_mean(share: float, kappa: float, w: float) -> float:
    """Return the factor of the area, with the slope of the decision by differences."""
    b, step = math.atanh(float(w)), 1e-5
    slope = (math.tanh(b + step) - math.tanh(b - step)) / (2 * step)
    return float(share) * (1 + float(kappa) * slope)


def area_of_map(share: float, kappa: float, w: float) -> float:
    """Return the factor of the area, with the slope of the decision by differences."""
    b, step = math.atanh(float(w)) - float(kappa) * float(w), 1e-5
    slope = (decision(b + step, kappa) - decision(b - step, kappa)) / (2 * step)
    return float(share) * (1 + float(kappa) * slope)


def shares(a: Tensor, K: Tensor) -> Tensor:
    """Return the shares of the posterior mean of the three bumps, from the posterior mean itself."""
    k = next(k for k, case in enumerate(CASES) if torch.allclose(case[0], a))
    problem, prior, z = problem_of(k)
    P = problem.normal_operator / problem.noise_std**2 + torch.eye(2, dtype=torch.float64) / VARIANCE
    parts = torch.linalg.solve(P, prior.means.mT) / VARIANCE
    rest = posterior_mean(problem, prior, z[None])[0] - torch.linalg.solve(P, z) / problem.noise_std**2
    system = torch.cat([parts, torch.ones(1, 3, dtype=torch.float64)])
    return torch.linalg.solve(system, torch.cat([rest, torch.ones(1, dtype=torch.float64)]))


VARIANCE = 0.09
MEANS = torch.tensor([[0.9, 0.1], [-0.5, 0.6], [-0.2, -0.8]], dtype=torch.float64)


def problem_of(k: int) -> tuple[LinearProblem, GaussianMixture, Tensor]:
    """Return a problem with three bumps, and a datum."""
    prior = GaussianMixture([0.2, 0.3, 0.5], MEANS, (VARIANCE * torch.eye(2, dtype=torch.float64)).expand(3, 2, 2))
    z = torch.tensor(((0.1, 0.05), (0.0, -0.1))[k], dtype=torch.float64)
    return LinearProblem([[1.0, 0.0], [0.2, 0.6]], (0.5, 0.8)[k]), prior, z


def letters(k: int) -> tuple[Tensor, Tensor]:
    """Return a and K of the exercise."""
    problem, prior, z = problem_of(k)
    P = problem.normal_operator / problem.noise_std**2 + torch.eye(2, dtype=torch.float64) / VARIANCE
    d = torch.linalg.solve(P, prior.means.mT).mT / VARIANCE
    a = prior.weights.log() - prior.means.square().sum(-1) / (2 * VARIANCE) + d @ z / problem.noise_std**2
    return a, prior.means @ d.mT / VARIANCE


CASES = (letters(0), letters(1))

QUESTIONS = (
    Question(
        "ex-lg-threshold",
        "The $\\delta$ with $\\kappa = 1$, a function of $h$, $\\lVert m\\rVert > \\sigma$ and $\\sigma$.",
        threshold,
        (
            Mistake(
                "$\\delta^2$ is proportional to $h$, so $\\delta$ is to its root.",
                lambda h, m, s: threshold(h, m, s) * sqrt(h),
            ),
            Mistake(
                "The width of the bumps is missing: one bump alone does not jump.", lambda h, m, s: sqrt(h) * s**2 / m
            ),
            Mistake(
                "A power of $\\sigma$ is lost: $\\delta$ is a length (for $h = 1$).",
                lambda h, m, s: sqrt(h) * s / sqrt(m**2 - s**2),
            ),
        ),
        part="b",
        takes="h, norm, sigma",
        inputs=((0.25, 0.94, 0.59), (2.0, 1.5, 0.7)),
    ),
    Question(
        "ex-lg-order",
        "The decision of the MAP estimate, a function of $b \\ne 0$ and $\\kappa$.",
        decision,
        (
            Mistake("This is the decision of the posterior mean, the first step only.", lambda b, kappa: math.tanh(b)),
            Mistake(
                "These are two steps. Go on until nothing changes.",
                lambda b, kappa: math.tanh(b + kappa * math.tanh(b)),
            ),
            Mistake("Feedback makes bolder: the sign of $\\kappa$.", lambda b, kappa: decision(b, -kappa)),
        ),
        takes="b, kappa",
        inputs=((0.3, 0.8), (-0.2, 1.6), (1.0, 0.5)),
    ),
    Question(
        "ex-lg-iterate",
        "The number of steps from $w = 0$ until the error is at most a tolerance: a function of $b$, $\\kappa$ and the "
        "tolerance.",
        steps,
        (
            Mistake("You stop when the step is small. The error is larger.", steps_by_size),
            Mistake(
                "Count the first step, to the posterior mean, as well.", lambda b, kappa, tol: steps(b, kappa, tol) - 1
            ),
        ),
        takes="b, kappa, tolerance",
        inputs=((0.1, 0.7, 1e-4), (0.05, 1.1, 1e-3), (0.3, 0.9, 1e-6)),
    ),
    Question(
        "ex-lg-read",
        "The factor of the area for the posterior mean, a function of $\\lambda$, $\\kappa$ and $w$.",
        area_of_mean,
        (
            Mistake(
                "The slope of $\\tanh$ is one less the *square* of its value.",
                lambda s, kappa, w: s * (1 + kappa * (1 - w)),
            ),
            Mistake("This is the MAP estimate, with its implicit step.", area_of_map),
            Mistake(
                "The bumps pull points apart: the sign of $\\kappa$.", lambda s, kappa, w: s * (1 - kappa * (1 - w**2))
            ),
        ),
        part="a",
        takes="share, kappa, w",
        inputs=((0.6, 0.7, 0.5), (0.9, 0.5, 0.2)),
    ),
    Question(
        "ex-lg-read",
        "The factor of the area for the MAP estimate, a function of $\\lambda$, $\\kappa$ and $w$.",
        area_of_map,
        (
            Mistake("This is the posterior mean, with its explicit step.", area_of_mean),
            Mistake(
                "The slope of $\\tanh$ is one less the *square* of its value.",
                lambda s, kappa, w: s / (1 - kappa * (1 - w)),
            ),
            Mistake(
                "The step is implicit: $w'$ stands on both sides, and moves to the denominator with a minus.",
                lambda s, kappa, w: s / (1 + kappa * (1 - w**2)),
            ),
        ),
        part="b",
        takes="share, kappa, w",
        inputs=((0.6, 0.7, 0.5), (0.9, 0.5, 0.2)),
    ),
    Question(
        "ex-lg-open",
        "The shares of the posterior mean, a function of the vector $a$ and the matrix $\\mathcal K$.",
        shares,
        (
            Mistake("Half of the diagonal: complete the square.", lambda a, K: torch.softmax(a + K.diagonal(), 0)),
            Mistake(
                "The diagonal of $\\mathcal K$ comes in: bumps differ in how far they reach.",
                lambda a, K: torch.softmax(a, 0),
            ),
            Mistake(
                "This is one step from equal shares, which is the posterior mean only for special centres.",
                lambda a, K: torch.softmax(a + K.mean(1), 0),
            ),
        ),
        part="a",
        takes="a, K",
        inputs=CASES,
    ),
)
