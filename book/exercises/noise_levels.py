"""What the exercises of the chapter on noise levels ask."""

from __future__ import annotations

import math

import torch
from checks import noise_levels as checks
from checks.tools import quadrature
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor

import invlib
from exercises.asking import Mistake, Question, sqrt
from invlib import GaussianMixture, LinearProblem, testproblems


def errors(eps: float, d: float) -> dict[str, float]:
    """Return the squared errors of the naive inverse and of Wiener's filter, and of both forward, for s = 1."""
    problem = LinearProblem([[1.0, 0.0], [0.0, eps]], d**0.5)
    covariance = invlib.posterior_covariance(problem, GAUSS, torch.zeros(1, 2, dtype=torch.float64))[0]
    floor = d * float(problem.normal_operator.trace())
    return {"naive": d * (1 + eps**-2), "wiener": float(covariance.trace()), "floor": floor, "price": floor + 2 * d**2}


GAUSS = GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]])


def window(eps: float, price: float = 1.0) -> list[float]:
    """Return the two ends of the window, in units of s."""

    def gain(d: float) -> float:
        found = errors(float(eps), d)
        return found["naive"] - 2 * found["wiener"]

    def loss(d: float) -> float:
        found = errors(float(eps), d)
        return price * (found["price"] - found["floor"]) - 0.1 * found["floor"]

    return [sqrt(brentq(gain, 1e-6, 10.0)), sqrt(brentq(loss, 1e-6, 10.0))]


def best_ratio(t: float) -> float:
    """Return the r with the least product, by a search."""
    t = float(t)
    found = minimize_scalar(
        lambda r: (1 + (1 + t - r) ** 2 / (r**2 * t)) * (1 + (r - 1) ** 2 / t), bounds=(1, 1 + t), method="bounded"
    )
    return float(found.x)


def price(A: Tensor, prior: GaussianMixture, delta: float) -> Tensor:
    """Return the forward error of the MAP map: from the score, by a sum over the plane."""
    problem = LinearProblem(A, float(delta))
    points, weights = quadrature(prior, 6.0, 0.05)
    square = prior.score(points).square().sum(-1)
    return float(delta) ** 4 * weights @ square + float(delta) ** 2 * problem.normal_operator.trace()


def sign_change(eps: float = 0.5) -> float:
    """Return the noise level at which the curvature of the MAP objective loses its sign."""
    axis = torch.linspace(-1.5, 1.5, 41, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)

    def least(delta: float) -> float:
        problem = testproblems.epsilon_problem(eps, delta, angle=40.0)
        return float(invlib.map_curvature(problem, checks.BUMPS, x).min())

    return float(brentq(least, 0.02, 2.0))


def best_trade(h: float, d: float, mu: float) -> float:
    """Return the best a, for s = 1, by a search."""
    h, d, mu = float(h), float(d), float(mu)
    found = minimize_scalar(
        lambda a: (h / a - 1) ** 2 + h * d / a**2 + mu * ((a - h) ** 2 + h * d), bounds=(h, h + d), method="bounded"
    )
    return float(found.x)


LEVELS = (0.02, 0.04, 0.08, 0.16)
BACK = torch.tensor([[1.0, 1.4, 1.2], [1.3, 1.1, 1.5], [0.9, 1.0, 0.7]], dtype=torch.float64)
AHEAD = torch.tensor([[1.1, 1.2, 0.8], [0.7, 1.0, 0.6], [1.3, 0.9, 1.9]], dtype=torch.float64)
NAMES = ["reconstruction", "divergence", "log_det"]


def winners(names: list[str], back: Tensor, ahead: Tensor) -> list[str]:
    """Return the name with the smallest product, for each level."""
    return [names[int(k)] for k in (back.log() + ahead.log()).argmin(0)]


A_SKEW = torch.tensor([[1.0, 0.3], [0.0, 0.5]], dtype=torch.float64)

QUESTIONS = (
    Question(
        "ex-nl-window",
        "The two ends of the window of $\\delta/s$, a function of $\\varepsilon$ that returns a list.",
        window,
        (
            Mistake("These are the $d = \\delta^2/s^2$. Take roots.", lambda eps: [each**2 for each in window(eps)]),
            Mistake(
                "The forward price is counted for one direction only; both pay it.",
                lambda eps: window(eps, price=0.5),
            ),
        ),
        takes="eps",
        inputs=((1 / 8,), (1 / 64,)),
    ),
    Question(
        "ex-nl-product",
        "The $r$ with the least product, a function of $t$.",
        best_ratio,
        (
            Mistake("This is the map of the divergence term, at one end of the trade.", lambda t: 1 + t),
            Mistake("This is the middle of the two ends; it is not the arithmetic mean.", lambda t: 1 + t / 2),
            Mistake("This is the log-determinant. It is good, not best.", lambda t: checks.log_det_ratio(float(t))),
        ),
        takes="t",
        inputs=((1.0,), (4.0,), (30.0,)),
    ),
    Question(
        "ex-nl-forward",
        "The squared forward error $\\mathbb E\\lVert\\varphi^*(x) - z\\rVert^2$ with $\\hat\\delta = \\delta$, a "
        "function of the matrix $A$, the prior (a `GaussianMixture` in the plane) and $\\delta$.",
        price,
        (
            Mistake(
                "The score is multiplied by $\\delta^2$, and the error is squared: $\\delta^4$.",
                lambda A, q, d: price(A, q, d) + (d**2 - d**4) * (price(A, q, 1.0) - (A.mT @ A).trace()),
            ),
            Mistake(
                "The noise of the data itself is missing: the floor.",
                lambda A, q, d: price(A, q, d) - d**2 * (A.mT @ A).trace(),
            ),
            Mistake(
                "The noise of $z$ is $A^*\\eta$: its square has the trace of $H$, not of $I$.",
                lambda A, q, d: price(A, q, d) + d**2 * (2 - (A.mT @ A).trace()),
            ),
        ),
        takes="A, prior, delta",
        inputs=((A_SKEW, testproblems.two_bumps(), 0.45), (A_SKEW, testproblems.two_bumps(), 0.8)),
    ),
    Question(
        "ex-nl-half",
        "The noise level at which $c$ changes its sign, for $\\varepsilon = \\frac12$ and 40°, a number.",
        sign_change,
        (
            Mistake("This is for $\\varepsilon = \\frac18$.", lambda: sign_change(1 / 8)),
            Mistake(
                "The weak direction has $\\varepsilon^2$ in $H$, not $\\varepsilon$.",
                lambda: sign_change(math.sqrt(0.5)),
            ),
        ),
        rtol=2e-2,
    ),
    Question(
        "ex-nl-arrays",
        "A function of the names of the strategies and of their errors backward and forward (each of shape "
        "(strategies, levels)): the name of the winner for each level, a list.",
        winners,
        (
            Mistake("This looks backward only.", lambda names, back, ahead: [names[int(k)] for k in back.argmin(0)]),
            Mistake("This looks forward only.", lambda names, back, ahead: [names[int(k)] for k in ahead.argmin(0)]),
            Mistake(
                "This is the largest product.",
                lambda names, back, ahead: [names[int(k)] for k in (back * ahead).argmax(0)],
            ),
        ),
        takes="names, back, ahead",
        inputs=((NAMES, BACK, AHEAD), (NAMES, AHEAD**2, BACK)),
    ),
    Question(
        "ex-nl-frontier",
        "The best $a$ for $s = 1$, a function of $h$, $d = \\delta^2$ and $\\mu$.",
        best_trade,
        (
            Mistake("This is $\\mu = 0$: only the error backward counts.", lambda h, d, mu: h + d),
            Mistake(
                "The two errors weigh differently in different directions: $\\mu$ comes with $a^3/h$.",
                lambda h, d, mu: h + d / (1 + mu),
            ),
        ),
        takes="h, d, mu",
        inputs=((0.5, 0.5, 0.3), (0.3, 1.5, 2.0)),
    ),
)
