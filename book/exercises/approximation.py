"""What the exercises of the chapter on approximation training ask."""

from __future__ import annotations

import math

import torch
from checks import approximation as checks
from checks.tools import seeded
from scipy.optimize import minimize_scalar
from torch import Tensor

from exercises.asking import Mistake, Question
from invlib import LinearProblem


def error(h: float, s: float, delta: float, c: float) -> float:
    """Return the mean squared error along one direction."""
    one = torch.ones(1, dtype=torch.float64)
    return float(checks.direction_error(float(h) * one, float(s) ** 2 * one, float(delta), float(c) * one))


def best_slope(h: float, s: float, delta: float) -> float:
    """Return the best c, by a search."""
    top = float(h) + 10 * (float(delta) / float(s)) ** 2
    found = minimize_scalar(lambda c: error(h, s, delta, c), bounds=(float(h), top), method="bounded")
    return float(found.x)


def weighted_slope(delta: float) -> float:
    """Return the best value at x = 1 for the weight exp(-z^2 / 2) on the line, by a sum over the noise."""
    z = torch.linspace(-12, 14, 26_001, dtype=torch.float64)
    law = (-0.5 * (z - 1) ** 2 / float(delta) ** 2 - 0.5 * z**2).exp()
    return float(law @ z / law.sum())


def corner(rho: float) -> float:
    """Return the entry below the diagonal of the best matrix."""
    operator = torch.diag(torch.tensor([1.0, 0.1], dtype=torch.float64))
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
    return float(checks.best_linear(operator, covariance, 0.5, 1, seeded(20))[0][1, 0])


def budget(problem: LinearProblem, lipschitz: float, squared: bool = True, both: bool = True) -> list[float]:
    """Return the least number of blocks, by trying, and the amplification."""
    values = problem.singular_values.square() if squared else problem.singular_values
    count = 1
    while (1 - lipschitz) ** count > values.min() * (1 + 1e-9) or (both and (1 + lipschitz) ** count < values.max()):
        count += 1
    return [count, (1 - lipschitz) ** -count]


def estimated_risk(variances: Tensor, h: Tensor, delta: float, c: float) -> Tensor:
    """Return the error for the prior whose data have these variances."""
    prior = (variances - delta**2 * h) / h**2
    return checks.direction_error(h, prior, float(delta), torch.full_like(h, float(c))).sum()


def rough_risk(variances: Tensor, h: Tensor, delta: float, c: float) -> Tensor:
    """Return the estimate that takes the spread of the data for that of the unknown."""
    return checks.direction_error(h, variances / h**2, float(delta), torch.full_like(h, float(c))).sum()


def no_noise(variances: Tensor, h: Tensor, delta: float, c: float) -> Tensor:
    """Return the estimate without the noise of the reconstruction."""
    return estimated_risk(variances, h, delta, c) - (delta**2 * h / torch.clamp(h, min=float(c)) ** 2).sum()


H = torch.tensor([1.0, 0.1], dtype=torch.float64)
RISKS = tuple((H**2 * torch.tensor([s1, s2]) + 0.09 * H, H, 0.3, c) for s1, s2, c in ((1.0, 0.5, 0.3), (0.4, 2.0, 0.2)))

QUESTIONS = (
    Question(
        "ex-ap-hand",
        "The best $c$, a function of $h$, $s$ and $\\delta$.",
        best_slope,
        (
            Mistake(
                "The noise counts relative to the spread of the prior: divide by $s^2$.",
                lambda h, s, delta: h + delta**2,
            ),
            Mistake("Variances, not standard deviations: square both.", lambda h, s, delta: h + delta / s),
            Mistake("With $c = h$ you invert, and amplify all noise.", lambda h, s, delta: h),
        ),
        part="b",
        takes="h, s, delta",
        inputs=((0.25, 0.8, 0.25), (0.5, 2.0, 0.7)),
    ),
    Question(
        "ex-ap-hand",
        "The $L$ of one block and the $L$ of each of two blocks, a list.",
        lambda: [1 - best_slope(0.25, 1.0, 0.25), 1 - math.sqrt(best_slope(0.25, 1.0, 0.25))],
        (
            Mistake(
                "Two blocks share the slope, not the bound: their slopes multiply.",
                lambda: [1 - best_slope(0.25, 1.0, 0.25), 0.5 * (1 - best_slope(0.25, 1.0, 0.25))],
            ),
            Mistake(
                "These are the least slopes. A block with the bound $L$ has slopes down to $1 - L$.",
                lambda: [best_slope(0.25, 1.0, 0.25), math.sqrt(best_slope(0.25, 1.0, 0.25))],
            ),
        ),
        part="c",
    ),
    Question(
        "ex-ap-weights",
        "On the line with $h = 1$ and the weight $w(z) = e^{-z^2/2}$ the minimizer is a multiple of $x$. The "
        "factor, a function of $\\delta$.",
        weighted_slope,
        (
            Mistake(
                "This weight depends on the datum and favours small ones: $Hx$ is not the minimizer.", lambda delta: 1.0
            ),
            Mistake(
                "Multiply the two Gaussians: precisions add up, and the noise has $1/\\delta^2$.",
                lambda delta: 1 / (1 + delta),
            ),
            Mistake("This is the first term of a series only.", lambda delta: 1 - delta**2),
        ),
        part="c",
        takes="delta",
        inputs=((0.45,), (1.2,)),
    ),
    Question(
        "ex-ap-correlated",
        "The entry $M_{21}$ for $h = 0.1$, $L = 0.5$ and $\\rho = 0.6$, a number.",
        lambda: corner(0.6),
        (
            Mistake("This is the clipped operator. It is not optimal for this prior.", lambda: 0.0),
            Mistake("The sign: $M_{21}$ has to take away what $M_{22}$ gives too much.", lambda: -corner(0.6)),
        ),
        part="b",
        rtol=2e-2,
        atol=1e-3,
    ),
    Question(
        "ex-ap-budget",
        "The smallest $K$, and the largest factor by which the inverse amplifies noise: a function of a "
        "`LinearProblem` and of $L$ that returns the two.",
        budget,
        (
            Mistake(
                "The network learns $H = A^*A$: square the singular values of $A$.",
                lambda problem, L: budget(problem, L, squared=False),
            ),
            Mistake(
                "Look at the upper end as well: each block can at most multiply by $1 + L$.",
                lambda problem, L: budget(problem, L, both=False),
            ),
            Mistake(
                "The inverse is steep where the network is flat: $(1 - L)^{-K}$.",
                lambda problem, L: [budget(problem, L)[0], (1 + L) ** budget(problem, L)[0]],
            ),
        ),
        takes="problem, L",
        inputs=tuple((LinearProblem([[3.0, 0.0], [0.0, eps]], 0.1), 0.9) for eps in (1 / 2, 1 / 8, 1 / 32)),
    ),
    Question(
        "ex-ap-choose",
        "The estimate $R(c)$ of the error, a function of the variances of the data and of $h$ (tensors), of "
        "$\\delta$ and $c$.",
        estimated_risk,
        (
            Mistake(
                "The data spread by the noise as well: subtract its part before you solve for $s_i^2$.", rough_risk
            ),
            Mistake("This is the bias alone. The reconstruction passes noise on, too.", no_noise),
        ),
        takes="variances, h, delta, c",
        inputs=RISKS,
    ),
)
