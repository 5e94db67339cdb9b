"""What the exercises of the chapter on Tweedie's formula ask."""

from __future__ import annotations

import math

import torch
from checks.tools import column
from torch import Tensor

import invlib
from exercises.asking import Mistake, Question, sqrt
from invlib import GaussianMixture, LinearProblem

COIN = torch.tensor([1.0, -1.0], dtype=torch.float64)


def coin(y: float, delta: float) -> tuple[float, float]:
    """Return mean and variance of the coin by Bayes' rule."""
    weight = torch.softmax(-0.5 * (float(y) - COIN) ** 2 / float(delta) ** 2, dim=-1)
    mean = float(weight @ COIN)
    return mean, float(weight @ COIN**2) - mean**2


def second(theta: float, y: float) -> Tensor:
    """Return the posterior mean of x_2 = theta x_1 + N(0, 1), for y = x_1 + noise and x_1 ~ N(0, 1)."""
    theta = float(theta)
    prior = GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0, theta], [theta, theta**2 + 1]]])
    problem = LinearProblem([[1.0, 0.0]], 0.45)
    return invlib.posterior_mean(problem, prior, torch.tensor([float(y), 0.0], dtype=torch.float64))[1]


def error_from_fisher(fisher: float, m: int, delta: float) -> Tensor:
    """Return the best error for the Gaussian signal in m dimensions whose data have this Fisher information."""
    fisher, delta = float(fisher), float(delta)
    eye = torch.eye(int(m), dtype=torch.float64)
    prior = GaussianMixture([1.0], [[0.0] * int(m)], ((int(m) / fisher - delta**2) * eye)[None])
    covariance = invlib.posterior_covariance(
        LinearProblem(eye, delta), prior, torch.zeros(1, int(m), dtype=torch.float64)
    )
    return covariance[0].trace()


def counts(k: float, beta: float) -> Tensor:
    """Return the probabilities of the counts 0, 1, ..., 9 for a Gamma prior, by a sum over x."""
    x, weight = gamma(k, beta)
    y = torch.arange(10, dtype=torch.float64)
    return ((y[:, None] * x.log() - x - torch.lgamma(y + 1)[:, None]).exp()) @ weight


def gamma(k: float, beta: float) -> tuple[Tensor, Tensor]:
    """Return points and weights of a Gamma law."""
    x = torch.linspace(0, 80, 40_001, dtype=torch.float64)[1:]
    return x, torch.softmax((k - 1) * x.log() - beta * x, dim=-1)


def mean_of_counts(p: Tensor) -> Tensor:
    """Return E[x | y] for y = 0, ..., 8, from the prior that made these counts."""
    k, beta = next(case for case in GAMMAS if torch.allclose(counts(*case), p))
    x, weight = gamma(k, beta)
    y = torch.arange(9, dtype=torch.float64)
    likelihood = (y[:, None] * x.log() - x).exp() * weight
    return likelihood @ x / likelihood.sum(-1)


GAMMAS = ((3.0, 0.6), (1.5, 1.0))


def bend(case: int) -> Tensor:
    """Return (log p_Y)'' on a grid, for one of two problems."""
    prior = GaussianMixture([0.4, 0.6], [[-0.9], [0.8]], [[[0.04]], [[0.16]]])
    law = invlib.measurement_distribution(LinearProblem([[1.0]], (0.45, 0.8)[case]), prior)
    return law.hessian(column(-4.0, 4.0, 1601))[:, 0, 0]


def level_bound(second_derivative: Tensor) -> float:
    """Return the largest level for which y + level^2 (log p_Y)' still increases, by bisection."""
    low, high = 0.0, 10.0
    for _ in range(60):
        level = 0.5 * (low + high)
        rises = bool((1 + level**2 * second_derivative >= 0).all())
        low, high = (level, high) if rises else (low, level)
    return low


def risk_case(delta: float) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return f and f' on a grid of data, the weights of p_Y, and the noise level."""
    y, weight, _, _ = risk_truth(delta)
    return -0.3 * torch.tanh(y), -0.3 / torch.cosh(y) ** 2, weight, delta


def risk_truth(delta: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return data on a grid, their weights, the posterior mean, and the least error."""
    prior = GaussianMixture([0.4, 0.6], [[-0.9], [0.8]], [[[0.04]], [[0.16]]])
    problem, y = LinearProblem([[1.0]], delta), column(-8.0, 8.0, 4001)
    weight = invlib.measurement_distribution(problem, prior).log_prob(y).exp()
    mean = invlib.posterior_mean(problem, prior, y)[:, 0]
    variance = invlib.posterior_covariance(problem, prior, y)[:, 0, 0]
    return y[:, 0], weight / weight.sum(), mean, variance


def risk(f: Tensor, slope: Tensor, weight: Tensor, delta: float) -> Tensor:
    """Return the error of y + delta^2 f(y) from the joint law."""
    y, _, mean, variance = risk_truth(float(delta))
    return weight @ ((y + float(delta) ** 2 * f - mean) ** 2 + variance)


QUESTIONS = (
    Question(
        "ex-tw-coin",
        "The posterior mean as a function of $y$ and $\\delta$.",
        lambda y, delta: coin(y, delta)[0],
        (
            Mistake("The score is multiplied by $\\delta^2$, not by $\\delta$.", lambda y, delta: math.tanh(y / delta)),
            Mistake(
                "A factor two too much: $e^{t} + e^{-t}$ is $2\\cosh t$, with $t$ and not $2t$.",
                lambda y, delta: math.tanh(2 * y / delta**2),
            ),
            Mistake(
                "This is the most probable value. The mean lies between the two.",
                lambda y, delta: math.copysign(1.0, y),
            ),
        ),
        part="a",
        takes="y, delta",
        inputs=((0.3, 0.8), (-0.9, 1.3), (0.1, 0.5)),
    ),
    Question(
        "ex-tw-coin",
        "The posterior variance as a function of $y$ and $\\delta$.",
        lambda y, delta: coin(y, delta)[1],
        (
            Mistake(
                "This is one less the mean. The mean is to be squared.",
                lambda y, delta: 1 - abs(coin(y, delta)[0]),
            ),
            Mistake(
                "This is the standard deviation.",
                lambda y, delta: sqrt(coin(y, delta)[1]),
            ),
            Mistake(
                "A power of $\\delta$ is left: the second derivative is multiplied by $\\delta^4$.",
                lambda y, delta: coin(y, delta)[1] / delta**2,
            ),
        ),
        part="b",
        takes="y, delta",
        inputs=((0.3, 0.8), (-0.9, 1.3), (0.1, 0.5)),
    ),
    Question(
        "ex-tw-blind",
        "Let $x_1 \\sim N(0, 1)$, $x_2 = \\theta x_1 + \\xi$ with an independent $\\xi \\sim N(0, 1)$ and $\\delta "
        "= 0.45$. The mean of $x_2$ given $y$, a function of $\\theta$ and $y$.",
        second,
        (
            Mistake(
                "You take $y$ for $x_1$. Its posterior mean is nearer to zero.",
                lambda theta, y: theta * y,
            ),
            Mistake("This is the mean of $x_1$.", lambda theta, y: second(1.0, y)),
            Mistake("$y$ does tell something of $x_2$, through $x_1$.", lambda theta, y: 0.0),
        ),
        part="a",
        takes="theta, y",
        inputs=((2.0, 0.7), (-0.5, 1.2)),
    ),
    Question(
        "ex-tw-fisher",
        "The best mean squared error for the signal as a function of $I_Y$, $m$ and $\\delta$.",
        error_from_fisher,
        (
            Mistake(
                "The Fisher information is multiplied by $\\delta^4$: the score by $\\delta^2$, and then squared.",
                lambda fisher, m, delta: m * delta**2 - delta**2 * fisher,
            ),
            Mistake(
                "The sign is wrong: the more the score knows, the smaller the error.",
                lambda fisher, m, delta: m * delta**2 + delta**4 * fisher,
            ),
            Mistake(
                "The noise has $m$ entries, each of variance $\\delta^2$.",
                lambda fisher, m, delta: delta**2 - delta**4 * fisher,
            ),
        ),
        part="a",
        takes="fisher, m, delta",
        inputs=((1.2, 2, 0.7), (2.5, 3, 0.5)),
    ),
    Question(
        "ex-tw-poisson",
        "A function of the probabilities (or numbers) `p` of the counts 0, 1, ..., $N$: the means of $x$ given $y = "
        "0, \\dots, N - 1$.",
        mean_of_counts,
        (
            Mistake(
                "For $y = 0$ this is zero, whatever the prior is. Can that be?",
                lambda p: torch.arange(len(p) - 1) * p[1:] / p[:-1],
            ),
            Mistake("The quotient is upside down.", lambda p: (torch.arange(len(p) - 1) + 1) * p[:-1] / p[1:]),
            Mistake("The factor in front of the quotient is lost.", lambda p: p[1:] / p[:-1]),
        ),
        takes="p",
        inputs=tuple((counts(*case),) for case in GAMMAS),
    ),
    Question(
        "ex-tw-level",
        "A function of the values of $(\\log p_Y)''$ on a grid: the best upper bound for $\\delta$.",
        level_bound,
        (
            Mistake("This bounds $\\delta^2$. Take the root.", lambda bend: level_bound(bend) ** 2),
            Mistake(
                "The bound holds at every $y$, so the sharpest counts: the largest curvature.",
                lambda bend: 1 / sqrt(bend.max().abs()),
            ),
            Mistake(
                "You average the curvature. The sharpest place gives the bound.",
                lambda bend: 1 / sqrt(bend.mean().abs()),
            ),
        ),
        part="a",
        takes="bend",
        inputs=((bend(0),), (bend(1),)),
    ),
    Question(
        "ex-tw-width",
        "An estimate of $\\mathbb E(y + \\delta^2 f(y) - x)^2$ from data alone: a function of the values of $f$ and "
        "of $f'$ at the data, of the weights of the data (their sum is one), and of $\\delta$.",
        risk,
        (
            Mistake(
                "The mixed term has a factor two.",
                lambda f, slope, w, delta: delta**2 + delta**4 * (w @ (f**2 + slope)),
            ),
            Mistake(
                "The sign of the term with $f'$: integration by parts turns it, and the score stands with a minus.",
                lambda f, slope, w, delta: delta**2 + delta**4 * (w @ (f**2 - 2 * slope)),
            ),
            Mistake(
                "The error of the plain datum, $\\delta^2$, is missing.",
                lambda f, slope, w, delta: delta**4 * (w @ (f**2 + 2 * slope)),
            ),
        ),
        takes="f, slope, weights, delta",
        inputs=(risk_case(0.45), risk_case(0.8)),
    ),
)
