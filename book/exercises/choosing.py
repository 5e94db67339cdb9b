"""What the exercises of the chapter on choosing a strategy ask."""

from __future__ import annotations

import math

import torch
from checks.four_strategies import filters
from scipy.optimize import brentq

import invlib
from exercises.asking import Mistake, Question, times
from invlib import GaussianMixture, LinearProblem


def missing(h: float, tau: float, rho: float) -> float:
    """Return the filter of the log-determinant for the smaller noise, less the carried one."""
    return slope(h, float(rho) * float(tau)) - (1 - float(rho)) * float(h) - float(rho) * slope(h, tau)


def slope(h: float, tau: float) -> float:
    """Return the filter of the log-determinant for s = 1."""
    return filters(float(h), 1.0, 1.0, float(tau) ** 0.5)["log_det"]


def falls(n: int, C: float, strength: float) -> list[float]:
    """Return how far the two losses fall for the map C times the identity, which uses the whole bound."""
    jacobian = float(C) * torch.eye(int(n), dtype=torch.float64)
    strength2 = float(strength) ** 2
    return [strength2 * float(jacobian.trace() - int(n)), strength2 * float(torch.linalg.slogdet(jacobian).logabsdet)]


def carried_mean(rho: float) -> float:
    """Return how far the carried posterior mean is off, in units of mode less mean, for a small noise."""
    prior = GaussianMixture([0.5, 0.5], [[0.94], [-0.94]], 2 * [[[0.59**2]]])
    grid = torch.linspace(-3, 3, 601, dtype=torch.float64)[:, None]
    found = []
    for noise in (0.1, 0.1 / 2**0.5):
        old, new = LinearProblem([[1.0]], noise), LinearProblem([[1.0]], float(rho) ** 0.5 * noise)
        points = invlib.posterior_mean(old, prior, grid)
        moved = (1 - float(rho)) * points + float(rho) * grid
        mean, mode = invlib.posterior_mean(new, prior, moved), invlib.map_estimate(new, prior, moved)
        weight = invlib.data_distribution(new, prior).log_prob(moved).exp()
        squares = [float(weight @ (each - mean)[:, 0] ** 2) for each in (points, mode)]
        found.append((squares[0] / squares[1]) ** 0.5)
    return 2 * found[1] - found[0]  # the error is of the order of the variance


def cut(share: float, sigma: float) -> float:
    """Return the posterior mean times m where both bumps are equally likely, by a search for the datum."""
    share, sigma, m = float(share), float(sigma), 0.9
    prior = GaussianMixture([share, 1 - share], [[m], [-m]], 2 * [[[sigma**2]]])
    problem = LinearProblem([[1.0]], 0.8)
    variance = sigma**2 + 0.8**2

    def odds(z: float) -> float:
        return math.log(share / (1 - share)) + 2 * z * m / variance

    datum = torch.tensor([[brentq(odds, -20.0, 20.0)]], dtype=torch.float64)
    return m * float(invlib.posterior_mean(problem, prior, datum))


QUESTIONS = (
    Question(
        "ex-ch-filters",
        "By how much the carried filter of the log-determinant is too small: a function of $h$, $\\tau = "
        "\\delta^2/s^2$ and $\\rho$.",
        missing,
        (
            Mistake("The sign: the root is concave, so the carried filter lies below.", times(-1, missing)),
            Mistake(
                "The new filter is that for the noise $\\rho\\tau$; you took $\\rho^2\\tau$.",
                lambda h, tau, rho: missing(h, tau, rho) - slope(h, rho * tau) + slope(h, rho**2 * tau),
            ),
            Mistake(
                "For divergence training nothing is missing. This is the log-determinant.", lambda h, tau, rho: 0.0
            ),
        ),
        takes="h, tau, rho",
        inputs=((0.5, 0.8, 0.3), (0.9, 2.0, 0.6)),
    ),
    Question(
        "ex-ch-finite",
        "By how much the losses of divergence and log-determinant can fall at most: a function of $n$, $C$ and "
        "$\\hat\\delta$ that returns both.",
        falls,
        (
            Mistake(
                "The identity already has the divergence $n$.", lambda n, C, d: [d**2 * n * C, d**2 * n * math.log(C)]
            ),
            Mistake("The strength is squared.", lambda n, C, d: [d * n * (C - 1), d * n * math.log(C)]),
            Mistake(
                "There are $n$ directions, and all can be stretched.",
                lambda n, C, d: [d**2 * (C - 1), d**2 * math.log(C)],
            ),
        ),
        takes="n, C, strength",
        inputs=((2, 3.0, 0.5), (5, 1.7, 1.2)),
    ),
    Question(
        "ex-ch-mean",
        "The ratio for small noise, a function of $\\rho = \\delta'^2/\\delta^2$.",
        carried_mean,
        (
            Mistake(
                "This compares with the MAP estimate at $\\delta$. Take the one at $\\delta'$.",
                lambda rho: rho - rho**2,
            ),
            Mistake("What the carried map should have is to be subtracted.", lambda rho: 1 / rho),
            Mistake("One power of $\\rho$ is lost: the mode is off by $\\delta'^4$.", lambda rho: 1 - rho),
        ),
        takes="rho",
        inputs=((0.25,), (0.5,), (0.8,)),
        rtol=2e-2,
    ),
    Question(
        "ex-ch-unequal",
        "Where to cut $\\langle m, x_{\\mathrm{PM}}\\rangle$: a function of $w_+$ and $\\sigma$.",
        cut,
        (
            Mistake("The sign: the likelier bump gets the larger side.", times(-1, cut)),
            Mistake("Half of the logarithm: the odds are $e^{2b}$.", times(2, cut)),
            Mistake("The origin is right for equal bumps only.", lambda w, sigma: 0.0),
            Mistake(
                "This is the cut of $b(z)$; times $\\sigma^2$ it is that of the estimate.",
                lambda w, sigma: cut(w, sigma) / sigma**2,
            ),
        ),
        takes="w, sigma",
        inputs=((0.7, 0.5), (0.4, 0.8)),
    ),
)
