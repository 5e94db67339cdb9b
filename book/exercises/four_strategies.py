"""What the exercises of the chapter on the four strategies ask."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from checks.four_strategies import filters
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor

from exercises.asking import Mistake, Question, times
from invlib import LinearProblem

Map = Callable[[Tensor], Tensor]


def agreeing(s: float, delta: float) -> float:
    """Return the h at which log-determinant and divergence have the same filter."""

    def gap(h: float) -> float:
        a = filters(h, float(s), float(delta), float(delta))
        return a["log_det"] - a["divergence"]

    return float(brentq(gap, 1e-6, 5.0))


def growth() -> list[float]:
    """Return the exponents of the growth of the filters in the strength."""
    first, second = (filters(0.5, 0.8, 0.3, strength) for strength in (1e6, 1e7))
    return [math.log10(second[name] / first[name]) for name in ("divergence", "log_det")]


def noise_constant(A: Tensor, delta: float) -> Tensor:
    """Return half of the mean square of A* eta, from the covariance of A* eta."""
    problem = LinearProblem(A, float(delta))
    return 0.5 * (float(delta) ** 2 * problem.normal_operator).trace()


def inverse(z: Tensor) -> Tensor:
    """Return the inverse of a map that pulls to the middle."""
    return z - 0.2 * torch.tanh(z)


def two_terms(h: float, s: float, strength: float) -> float:
    """Return the best slope for the first two terms of the logarithm, by a search."""
    t = (float(strength) / float(s)) ** 2
    found = minimize_scalar(lambda a: 0.5 * (a - float(h)) ** 2 - t * ((a - 1) - 0.5 * (a - 1) ** 2))
    return float(found.x)


TALL = torch.tensor([[1.0, 2.0], [0.5, -1.0], [0.0, 0.7]], dtype=torch.float64)
WIDE = torch.tensor([[1.0, 0.3, -0.4], [0.2, 0.5, 0.9]], dtype=torch.float64)
POINTS = torch.tensor([[0.3, -1.2], [2.0, 0.1]], dtype=torch.float64)

QUESTIONS = (
    Question(
        "ex-four-order",
        "The $h$ for which the two filters agree, a function of $s$ and $\\delta < s$.",
        agreeing,
        (
            Mistake("The sign: where they agree, $h$ is below one.", lambda s, delta: 1 + delta**2 / s**2),
            Mistake("Variances, not standard deviations: square the quotient.", lambda s, delta: 1 - delta / s),
        ),
        takes="s, delta",
        inputs=((1.0, 0.6), (0.7, 0.3)),
    ),
    Question(
        "ex-four-limits",
        "The powers of $\\hat\\delta$ with which $a_{\\mathrm{div}}$ and $a_{\\mathrm{ld}}$ grow, a list of two "
        "numbers.",
        growth,
        (
            Mistake("The root is of the whole: it halves the power of the log-determinant.", lambda: [2, 2]),
            Mistake("These are the powers of $\\hat\\delta^2$.", lambda: [1, 0.5]),
            Mistake("The other way round: which of the two has a root?", lambda: [1, 2]),
        ),
    ),
    Question(
        "ex-four-noise",
        "The constant, a function of the matrix $A$ and of $\\delta$.",
        noise_constant,
        (
            Mistake("The factor one half of the loss is lost.", times(2, noise_constant)),
            Mistake("The noise enters with its variance.", lambda A, delta: noise_constant(A, delta) / delta),
            Mistake(
                "You forgot $A^*$: the data are $z = A^*y$, and the noise in them is $A^*\\eta$.",
                lambda A, delta: 0.5 * delta**2 * len(A),
            ),
        ),
        takes="A, delta",
        inputs=((TALL, 0.5), (WIDE, 1.3)),
    ),
    Question(
        "ex-four-half",
        "The corrected reconstruction, a function of the inverse of the network (a function of `z`) and of `z`.",
        lambda inverse, z: 2 * inverse(z) - z,
        (
            Mistake("The pull is still half as long as it should be.", lambda inverse, z: inverse(z)),
            Mistake(
                "You doubled the reconstruction. Only the step from $z$ to it is doubled.",
                lambda inverse, z: 2 * inverse(z),
            ),
            Mistake("The step goes the wrong way.", lambda inverse, z: 3 * z - 2 * inverse(z)),
        ),
        takes="inverse, z",
        inputs=((inverse, POINTS), (inverse, 3 * POINTS)),
    ),
    Question(
        "ex-four-between",
        "The slope $a$ for $m = 2$, a function of $h$, $s$ and $\\hat\\delta$.",
        two_terms,
        (
            Mistake("This is one term only: the divergence.", lambda h, s, strength: h + strength**2 / s**2),
            Mistake(
                "These are all terms: the log-determinant.",
                lambda h, s, strength: filters(h, s, 1.0, strength)["log_det"],
            ),
            Mistake(
                "The second term of the series has a minus.",
                lambda h, s, strength: h / (1 - strength**2 / s**2),
            ),
        ),
        takes="h, s, strength",
        inputs=((0.8, 1.0, 0.5), (0.4, 0.8, 0.3)),
    ),
)
