"""What the exercises of the chapter on the log-determinant ask."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from checks import log_determinant as checks
from checks.minimizers import minimizer_on_line
from scipy.optimize import brentq

import invlib
from exercises.asking import Mistake, Question, times
from invlib import GaussianMixture, LinearProblem


def roots(h: float, s: float, tau: float) -> Any:
    """Return where the derivative of the loss vanishes, the larger one first."""
    return np.sort(np.roots([float(s) ** 2, -float(h) * float(s) ** 2, -float(tau)]).real)[::-1].copy()


def acceleration(x: float, s: float) -> float:
    """Return the second derivative of the heat flow for a Gaussian, by differences of its exact map."""
    law, step = GaussianMixture([1.0], [[0.0]], [[[float(s) ** 2]]]), 1e-3 * float(s) ** 2
    points = torch.tensor([[float(x)]], dtype=torch.float64)
    first, second = (checks.heat_flow_map(law, k * step, points) for k in (1, 2))
    return float((second - 2 * first + points) / step**2)


@cache
def kink(scale: float, tau: float) -> tuple[float, float]:
    """Return S'(0) and the jump of S'' for the Laplace prior, from the minimizer on a grid."""
    law = checks.Laplace(scale)
    line = minimizer_on_line(law, 1.0, tau, 12 * scale, 20001)
    slope = line.x.diff() / line.f.diff()
    bend = slope.diff() / line.middle.diff()
    zero = len(line.x) // 2 - 1
    near, far = bend[zero + 1] - bend[zero - 1], bend[zero + 2] - bend[zero - 2]
    return float(0.5 * (slope[zero] + slope[zero + 1])), float(1.5 * near - 0.5 * far)


KINKS = ((0.8, 0.2), (0.5, 0.1))


def jump(slope: float, scale: float) -> float:
    """Return the jump that belongs to a slope."""
    return next(kink(*each)[1] for each in KINKS if abs(kink(*each)[0] - float(slope)) < 1e-9)


def half_step(h: float, s: float, delta: float) -> float:
    """Return the factor of the half step."""
    h_, covariance = (torch.tensor([[float(each)]], dtype=torch.float64) for each in (h, float(s) ** 2))
    return float(checks.gaussian_half_step(h_, covariance, float(delta)))


def plain(h: float, s: float, delta: float) -> float:
    """Return the factor of the plain minimizer with the strength delta, in the same norm."""
    t = delta**2 / (h * s**2)
    return 2 / (1 + (1 + 4 * t) ** 0.5) / h


def mean(h: float, s: float, delta: float) -> float:
    """Return the factor of the posterior mean."""
    prior, problem = GaussianMixture([1.0], [[0.0]], [[[s**2]]]), LinearProblem([[h**0.5]], delta)
    return float(invlib.posterior_mean(problem, prior, torch.ones(1, 1, dtype=torch.float64)))


def reversal() -> float:
    """Return the t at which the half step changes its sign."""
    return float(brentq(lambda t: half_step(1.0, 1.0, t**0.5), 1.0, 10.0))


def sixth() -> float:
    """Return the factor of (delta / s)^6 z in the error of the half step, at a small noise."""
    delta = 0.1
    return (half_step(1.0, 1.0, delta) - mean(1.0, 1.0, delta)) / delta**6


QUESTIONS = (
    Question(
        "ex-ld-spurious",
        "The two critical $a$, the larger one first, a function of $h$, $s$ and $\\tau$ that returns a list.",
        roots,
        (
            Mistake(
                "A factor four is lost under the root.",
                lambda h, s, tau: [0.5 * (h + k * (h**2 + tau / s**2) ** 0.5) for k in (1, -1)],
            ),
            Mistake(
                "The prior enters with its variance.",
                lambda h, s, tau: [0.5 * (h + k * (h**2 + 4 * tau / s) ** 0.5) for k in (1, -1)],
            ),
            Mistake("The sum of the two is $h$, not $-h$.", lambda h, s, tau: -roots(h, s, tau)[::-1].copy()),
        ),
        part="a",
        takes="h, s, tau",
        inputs=((0.8, 0.7, 0.3), (1.2, 0.5, 0.1)),
    ),
    Question(
        "ex-ld-euler",
        "The acceleration $a(x) = \\ddot X_0(x)$ of the heat flow for $N(0, s^2)$, a function of $x$ and $s$.",
        acceleration,
        (
            Mistake("The law spreads as it flows, so the flow slows down: the sign.", times(-1, acceleration)),
            Mistake("This is the coefficient of $\\tau^2$; the derivative is twice that.", times(0.5, acceleration)),
            Mistake("Only the change of $v$ in time; the point moves, too.", times(2, acceleration)),
        ),
        takes="x, s",
        inputs=((0.8, 1.0), (-1.1, 0.7)),
        rtol=1e-2,
    ),
    Question(
        "ex-ld-laplace",
        "The jump of $S''$ at zero, a function of $S'(0)$ and $\\beta$.",
        jump,
        (
            Mistake("The slope of $\\log p_X$ jumps by twice $1/\\beta$.", lambda slope, beta: slope**2 / beta),
            Mistake("A factor $S'$ is lost: it is $S''/S'$ that jumps.", lambda slope, beta: 2 * slope / beta),
            Mistake("The sign: what the first term loses the second gains.", lambda slope, beta: -2 * slope**2 / beta),
        ),
        part="a",
        takes="slope, beta",
        inputs=tuple((kink(*each)[0], each[0]) for each in KINKS),
        rtol=3e-2,
    ),
    Question(
        "ex-ld-sixth",
        "For $N(0, s^2)$ on the line the leading term of $\\hat x - x_{\\mathrm{PM}}$ is a multiple of "
        "$(\\delta/s)^6 z$. The factor, a number.",
        sixth,
        (
            Mistake("The sign: for a Gaussian $\\nabla e$ points to the middle.", lambda: -sixth()),
            Mistake("The derivative of a square has a factor two.", lambda: 0.5 * sixth()),
            Mistake(
                "This is the formula for the plain minimizer; the half step has another constant.", lambda: 4 * sixth()
            ),
        ),
        rtol=4e-2,
    ),
    Question(
        "ex-ld-gauss",
        "The factor by which the half step multiplies $z$, a function of $h$, $s$ and $\\delta$.",
        half_step,
        (
            Mistake("This is the plain minimizer with the strength $\\delta$.", plain),
            Mistake("The step is not yet doubled.", lambda h, s, delta: 0.5 * (half_step(h, s, delta) + 1 / h)),
            Mistake("This is the posterior mean, which the half step only comes near to.", mean),
        ),
        part="a",
        takes="h, s, delta",
        inputs=((0.5, 0.8, 0.6), (1.5, 1.0, 1.2)),
    ),
    Question(
        "ex-ld-gauss",
        "The $t$ above which the half step reverses the sign of the datum, a number.",
        reversal,
        (
            Mistake("This is the value of $r$. Solve for $t$.", lambda: (1 + 2 * reversal()) ** 0.5),
            Mistake("Under the root stands $2t$: half of the strength squared, times four.", lambda: 2 * reversal()),
        ),
        part="c",
    ),
)
