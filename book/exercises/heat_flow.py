"""What the exercises of the chapter on the heat flow ask."""

from __future__ import annotations

import math

import numpy as np
import torch
from checks.minimizers import matrix_loss
from scipy.optimize import brentq
from torch import Tensor

from exercises.asking import Mistake, Question, times


def corner(c: float, d: float, tau: float) -> float:
    """Return by how much the slope of the log-density jumps for two points, by differences of the density."""
    c, d, tau = float(c), float(d), float(tau)
    middle, step = 0.5 * (c + d), 1e-4

    def log_density(z: float) -> float:
        return -min(0.5 * (z - c) ** 2, 0.5 * (z - d) ** 2) / tau

    after = (log_density(middle + 2 * step) - log_density(middle + step)) / step
    before = (log_density(middle - step) - log_density(middle - 2 * step)) / step
    return after - before


def variance(s2: float, delta2: float, count: int, share: float = 0.5) -> float:
    """Return the variance after some steps."""
    v, tau = float(s2), share * float(delta2) / int(count)
    for _ in range(int(count)):
        v = 0.5 * (1 + math.sqrt(1 + 4 * tau / v)) * v + tau
    return v


def rate(s2: float, delta2: float) -> float:
    """Return c, from many steps and twice as many."""
    values = [count * (float(s2) + float(delta2) - variance(s2, delta2, count)) for count in (400, 800)]
    return 2 * values[1] - values[0]


def meeting(p: float, tau: float) -> float:
    """Return where two cells at -1 and 1 meet, such that the left one has the probability p; by bisection."""
    z = np.linspace(-12, 12, 240_001)

    def gap(at: float) -> float:
        density = np.exp(-np.minimum(0.5 * (z + 1) ** 2 - 2 * at, 0.5 * (z - 1) ** 2) / float(tau))
        return float(density[z < at].sum() / density.sum()) - float(p)

    return float(brentq(gap, -2.0, 2.0))


def extrapolated(first: Tensor, second: Tensor) -> Tensor:
    """Return x from x_1 = x + e and x_2 = x + e / 2, by solving for x and e."""
    system = torch.tensor([[1.0, 1.0], [1.0, 0.5]], dtype=torch.float64)
    return torch.linalg.solve(system, torch.stack([first, second]))[0]


def middle_gain(P: Tensor, Q: Tensor) -> Tensor:
    """Return how far the loss half-way between two matrices is below the mean of the ends."""
    eye = torch.eye(len(P), dtype=torch.float64)
    ends = 0.5 * (matrix_loss(P, eye, eye, 0.4) + matrix_loss(Q, eye, eye, 0.4))
    return ends - matrix_loss(0.5 * (P + Q), eye, eye, 0.4)


X = torch.tensor([0.3, -1.2, 0.8], dtype=torch.float64)
Y = torch.tensor([0.4, -1.0, 0.1], dtype=torch.float64)
P = torch.tensor([[1.0, 0.2], [0.2, 0.4]], dtype=torch.float64)
Q = torch.tensor([[0.5, -0.3], [-0.3, 2.0]], dtype=torch.float64)


def quadratic(P: Tensor, Q: Tensor) -> Tensor:
    """Return the part of the misfit."""
    return 0.125 * (P - Q).square().sum()


def entropy(P: Tensor, Q: Tensor) -> Tensor:
    """Return the part of the determinant."""
    return middle_gain(P, Q) - quadratic(P, Q)


QUESTIONS = (
    Question(
        "ex-hf-tails",
        "The least jump of the slope of $\\log\\nu^*$ over the gap $(c, d)$, a function of $c$, $d$ and $\\tau$.",
        corner,
        (
            Mistake("The score is the step divided by $\\tau$.", lambda c, d, tau: d - c),
            Mistake("This is half of it: the slope jumps from below $c$ to above $d$.", times(0.5, corner)),
            Mistake("It jumps up, not down.", times(-1, corner)),
        ),
        part="b",
        takes="c, d, tau",
        inputs=((-0.4, 0.4, 0.3), (0.1, 1.5, 0.2)),
    ),
    Question(
        "ex-ld-steps",
        "The variance $v_K$, a function of $s^2$, $\\delta^2$ and $K$.",
        variance,
        (
            Mistake(
                "A step has the length $\\delta^2/2K$: the variance grows by twice the time.",
                lambda s2, d2, K: variance(s2, d2, K, 1.0),
            ),
            Mistake("This is the heat flow itself, the limit of many steps.", lambda s2, d2, K: s2 + d2),
            Mistake("Here all is done in one step.", lambda s2, d2, K: variance(s2, d2, 1)),
        ),
        part="a",
        takes="s2, delta2, K",
        inputs=((0.49, 0.8, 2), (1.0, 2.5, 3)),
    ),
    Question(
        "ex-ld-steps",
        "The number $c$, a function of $s^2$ and $\\delta^2$.",
        rate,
        (
            Mistake("One factor one half is lost: one comes from $\\tau$, one from the sum.", times(2, rate)),
            Mistake("The sign: the steps fall short of the heat flow.", times(-1, rate)),
            Mistake("The variance grows on the way: integrate $1/v$.", lambda s2, d2: 0.25 * d2 * d2 / s2),
        ),
        part="b",
        takes="s2, delta2",
        inputs=((0.49, 0.4), (1.0, 2.0)),
    ),
    Question(
        "ex-ld-convex",
        "For linear maps with symmetric positive definite matrices $P$ and $Q$, $H = I$, $x \\sim N(0, I)$ and "
        "$\\hat\\delta^2 = 0.4$: by how much the loss at $\\frac12(P + Q)$ is below the mean of the two losses, a "
        "function of $P$ and $Q$.",
        middle_gain,
        (
            Mistake("This is the misfit alone. The determinant gains as well.", quadratic),
            Mistake("This is the determinant alone. The misfit gains as well.", entropy),
            Mistake("The sign: the loss is convex here.", times(-1, middle_gain)),
        ),
        part="a",
        takes="P, Q",
        inputs=((P, Q), (Q, 2 * P)),
    ),
    Question(
        "ex-hf-dual",
        "Where the cells meet, a function of the mass of the point $-1$ and of $\\tau$.",
        meeting,
        (
            Mistake(
                "This is the difference of the two $\\psi_i$. The cells meet where the two parabolas do.",
                times(2, meeting),
            ),
            Mistake("The heavier point has the larger cell: the sign.", times(-1, meeting)),
            Mistake("Half-way between the points is right for equal masses only.", lambda p, tau: 0.0),
        ),
        part="b",
        takes="mass, tau",
        inputs=((0.7, 0.3), (0.4, 0.5)),
    ),
    Question(
        "ex-ld-open",
        "The extrapolation, a function of $\\hat x_1$ and $\\hat x_2$.",
        extrapolated,
        (
            Mistake("The other way round: $\\hat x_2$ is the better one, and counts positive.", lambda a, b: 2 * a - b),
            Mistake("The mean keeps three quarters of the error.", lambda a, b: 0.5 * (a + b)),
            Mistake("This is for errors that fall like $1/K^2$.", lambda a, b: (4 * b - a) / 3),
        ),
        takes="x_1, x_2",
        inputs=((X, Y), (Y, X**2)),
    ),
)
