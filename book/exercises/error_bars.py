"""What the exercises of the chapter on error bars ask."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from checks.tools import column
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from torch import Tensor

import invlib
from exercises.asking import Mistake, Question, sqrt
from invlib import GaussianMixture, LinearProblem


def gap(h: float, s: float, delta: float, b: float) -> float:
    """Return true error less claim of z / b, from the joint moments of x and z."""
    h, s, delta, b = float(h), float(s), float(delta), float(b)
    second = h**2 * s**2 + h * delta**2  # E z^2
    return s**2 - 2 * h * s**2 / b + second / b**2 - delta**2 / b


def honest(h: float, s: float, delta: float) -> list[float]:
    """Return the honest slopes, the smaller one first: naive inverse and posterior mean."""
    prior, problem = GaussianMixture([1.0], [[0.0]], [[[float(s) ** 2]]]), LinearProblem([[sqrt(h)]], float(delta))
    return [float(h), 1 / float(invlib.posterior_mean(problem, prior, torch.ones(1, 1, dtype=torch.float64)))]


Law = Callable[[float], tuple[Sequence[float], Sequence[float]]]


def worst(alpha: float, far: float = 0.5, share: float = 1.0) -> list[list[float]]:
    """Return points and probabilities: zero, and two far points."""
    alpha = float(alpha)
    each = 0.5 * share * alpha
    return [[0.0, alpha**-far, -(alpha**-far)], [1 - 2 * each, each, each]]


def look(law: Callable[..., Any], alpha: float) -> list[float]:
    """Return total, mean, variance, and the probability of every interval that is a little shorter than the bound."""
    points, weights = (torch.as_tensor(each, dtype=torch.float64) for each in law(float(alpha)))
    inside = [weights[points**2 <= share / float(alpha)].sum() for share in (0.999, 0.5, 0.01)]
    return [float(each) for each in (weights.sum(), weights @ points, weights @ points**2, *inside)]


def averaged(problem: LinearProblem, prior: GaussianMixture, z: float) -> float:
    """Return one over the mean precision, by a sum over the posterior."""
    x, weight = posterior(problem, prior, float(z))
    return 1 / float(weight @ precision(problem, prior, x))


def posterior(problem: LinearProblem, prior: GaussianMixture, z: float) -> tuple[Tensor, Tensor]:
    """Return points and weights of the posterior on the line."""
    x = column(-6.0, 6.0, 6001)
    exponent = (z * x - 0.5 * problem.normal_operator * x**2)[:, 0] / problem.noise_std**2 + prior.log_prob(x)
    return x, torch.softmax(exponent, 0)


def precision(problem: LinearProblem, prior: GaussianMixture, x: Tensor) -> Tensor:
    """Return H / delta^2 less the bend of the log-density."""
    return problem.normal_operator[0, 0] / problem.noise_std**2 - prior.hessian(x)[:, 0, 0]


def laplace(problem: LinearProblem, prior: GaussianMixture, z: float) -> float:
    """Return one over the precision at the mode."""
    mode = invlib.map_estimate(problem, prior, torch.tensor([[float(z)]], dtype=torch.float64))
    return 1 / float(precision(problem, prior, mode))


def variance(problem: LinearProblem, prior: GaussianMixture, z: float) -> float:
    """Return the posterior variance."""
    return float(invlib.posterior_covariance(problem, prior, torch.tensor([[float(z)]], dtype=torch.float64)))


def blend(moved: float, trace: float, divergence: float, delta: float) -> float:
    """Return the best t for a linear network on the line with these numbers, from the truth."""
    h, b, d = 1 / float(trace), 1 / float(divergence), float(delta)
    s2 = float(moved) / (1 / b - 1 / h) ** 2 / h**2 - d**2 / h

    def error(t: float) -> float:
        factor = (1 - t) / h + t / b
        return (factor * h - 1) ** 2 * s2 + factor**2 * h * d**2

    return float(minimize_scalar(error).x)


def blend_case(h: float, s: float, delta: float, b: float) -> tuple[float, float, float, float]:
    """Return the numbers that the data tell."""
    return (1 / b - 1 / h) ** 2 * (h**2 * s**2 + h * delta**2), 1 / h, 1 / b, delta


def explosion(z0: float, e0: float, delta: float) -> float:
    """Return where the solution becomes infinite: the time it takes is an integral over e."""
    size = abs(float(e0))
    time = quad(lambda e: float(delta) ** 2 / e**2, size, math.inf)[0]
    return float(z0) + math.copysign(time, float(e0))


LINE = LinearProblem([[1.0]], 0.6)
BUMPS = GaussianMixture([0.4, 0.6], [[-0.8], [0.9]], [[[0.16]], [[0.25]]])

QUESTIONS = (
    Question(
        "ex-eb-honest",
        "Error less claim of $z/b$, a function of $h$, $s$, $\\delta$ and $b$.",
        gap,
        (
            Mistake(
                "The claim is $\\delta^2$ times the slope of the inverse, $1/b$.",
                lambda h, s, d, b: gap(h, s, d, b) + d**2 / b - d**2 / b**2,
            ),
            Mistake(
                "The noise of $z$ has the variance $h\\delta^2$.",
                lambda h, s, d, b: gap(h, s, d, b) + (1 - h) * d**2 / b**2,
            ),
            Mistake("This is the error; subtract the claim.", lambda h, s, d, b: gap(h, s, d, b) + d**2 / b),
        ),
        part="a",
        takes="h, s, delta, b",
        inputs=((0.5, 0.8, 0.6, 0.9), (1.5, 1.2, 0.7, 1.1)),
    ),
    Question(
        "ex-eb-honest",
        "The two honest $b$, the smaller one first: a function of $h$, $s$ and $\\delta$ that returns a list.",
        honest,
        (
            Mistake(
                "The second one is the posterior mean. Variances, not standard deviations.",
                lambda h, s, d: [h, h + d / s],
            ),
            Mistake("These are the values of $1/b$.", lambda h, s, d: [1 / each for each in honest(h, s, d)]),
            Mistake("The noise counts relative to the spread of the prior.", lambda h, s, d: [h, h + d**2]),
        ),
        part="b",
        takes="h, s, delta",
        inputs=((0.5, 0.8, 0.6), (1.5, 1.2, 0.7)),
    ),
    Question(
        "ex-eb-sharp",
        "Your distribution, a function of $\\alpha$ that returns its points and their probabilities.",
        worst,
        (
            Mistake("The variance is not one: where must the far points be?", lambda alpha: worst(alpha, far=1.0)),
            Mistake("The two far points share the probability $\\alpha$.", lambda alpha: worst(alpha, share=2.0)),
            Mistake(
                "The mean is not zero: put far points on both sides.",
                lambda alpha: [[0.0, float(alpha) ** -0.5], [1 - float(alpha), float(alpha)]],
            ),
        ),
        takes="alpha",
        inputs=((0.05,), (0.3,)),
        read=look,
        atol=1e-4,
    ),
    Question(
        "ex-eb-information",
        "The lower bound $F(z)^{-1}$ on the line, a function of problem, prior (a `GaussianMixture`) and $z$.",
        averaged,
        (
            Mistake("This is the precision at the mode, inverted: Laplace's method, and no bound.", laplace),
            Mistake("This is the posterior variance itself, which is to be bounded.", variance),
            Mistake("This is the mean precision. Invert it.", lambda p, q, z: 1 / averaged(p, q, z)),
        ),
        takes="problem, prior, z",
        inputs=((LINE, BUMPS, 0.1), (LINE, BUMPS, -0.6)),
    ),
    Question(
        "ex-eb-blend",
        "The best $t$ from data: a function of $N$, of $\\mathrm{tr}\\,H^{-1}$, of the mean of "
        "$\\mathrm{div}\\,\\varphi^{-1}$ and of $\\delta$.",
        blend,
        (
            Mistake(
                "The noise enters with its variance.", lambda N, trace, div, delta: blend(N, trace, div, delta) / delta
            ),
            Mistake(
                "The sign: a network that shrinks has the smaller divergence.",
                lambda N, trace, div, delta: -blend(N, trace, div, delta),
            ),
            Mistake(
                "Divide by how far the network moves from the naive inverse.",
                lambda N, trace, div, delta: N * blend(N, trace, div, delta),
            ),
        ),
        takes="N, trace, divergence, delta",
        inputs=(blend_case(0.5, 0.8, 0.6, 0.9), blend_case(0.3, 1.2, 0.7, 1.1)),
    ),
    Question(
        "ex-eb-local",
        "Where a solution of $\\delta^2 e' = e^2$ with $e(z_0) = e_0 \\ne 0$ becomes infinite, a function of $z_0$, "
        "$e_0$ and $\\delta$.",
        explosion,
        (
            Mistake(
                "The sign: where $e$ is positive it grows to the right.",
                lambda z0, e0, d: 2 * z0 - explosion(z0, e0, d),
            ),
            Mistake("The variance of the noise, $\\delta^2$, stands in the equation.", lambda z0, e0, d: z0 + d / e0),
            Mistake("A larger error explodes sooner.", lambda z0, e0, d: z0 + d**2 * e0),
        ),
        takes="z_0, e_0, delta",
        inputs=((0.2, 0.5, 0.6), (-1.0, -0.3, 0.8)),
    ),
)
