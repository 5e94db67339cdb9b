"""What the exercises of the chapter on ablations ask."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import invlib
from exercises.asking import Mistake, Question
from invlib import GaussianMixture, LinearProblem

Map = Callable[[Tensor], Tensor]


def steep(a: float, rho: float, inner: float = 1.0, outer: float = 1.0) -> Map:
    """Return x + outer * rho * tanh(inner * a * x / rho)."""
    return lambda x: x + outer * rho * torch.tanh(inner * a * x / rho)


def look(F: Callable[..., Any], a: float, rho: float) -> list[float]:
    """Return what a steep map must have: its value and slope at zero, whether it increases, whether it stays near."""
    zero = torch.zeros(1, dtype=torch.float64)
    h = 1e-6 * float(rho) / float(a)
    rise = float((F(zero + h, a, rho) - F(zero - h, a, rho)) / (2 * h))
    x = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
    value = F(x, a, rho)
    increases = float((value.diff() > 0).all())
    return [rise, increases, float(((value - x).abs() <= rho * (1 + 1e-9)).all()), float(F(zero, a, rho))]


def clipped(a: float, ell: float, sigma: float) -> list[float]:
    """Return the best slope in the range and its excess loss, by a search over slopes."""
    b = torch.linspace(float(ell), float(ell) + 3, 30_001, dtype=torch.float64)
    excess = 0.5 * (b - float(a)) ** 2 * float(sigma) ** 2
    return [float(b[excess.argmin()]), float(excess.min())]


def spread_of_slopes(kappa: float) -> Tensor:
    """Return the largest e^2 + m^2 for two numbers in [-kappa, 1], on a grid."""
    ends = torch.linspace(-float(kappa), 1, 401, dtype=torch.float64)
    pairs = torch.cartesian_prod(ends, ends)
    return ((pairs[:, 0] - pairs[:, 1]) ** 2 + pairs.mean(-1) ** 2).max()


def inverse(sigma: float, strength: float) -> Tensor:
    """Return the factor of the inverse: the MAP estimate for the noise level of the strength."""
    prior = GaussianMixture([1.0], [[0.0]], [[[float(sigma) ** 2]]])
    one = torch.ones(1, 1, dtype=torch.float64)
    return invlib.map_estimate(LinearProblem([[1.0]], float(strength)), prior, one).squeeze()


def best_strength(sigma: float, delta: float) -> float:
    """Return the strength with the least mean squared error, on a grid."""
    strengths = torch.linspace(0.1, 3.0, 2901, dtype=torch.float64)
    factor = 1 / (1 + strengths**2 / float(sigma) ** 2)
    error = (factor - 1) ** 2 * float(sigma) ** 2 + factor**2 * float(delta) ** 2
    return float(strengths[error.argmin()])


def deviations(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean difference in standard errors, sample by sample."""
    gap = first - second
    return gap.mean() / (gap.std() / math.sqrt(len(gap)))


def unpaired(first: Tensor, second: Tensor) -> Tensor:
    """Return the difference of two means in standard errors, as if the samples were different."""
    return (first.mean() - second.mean()) / ((first.var() + second.var()) / len(first)).sqrt()


def losses(seed: int) -> tuple[Tensor, Tensor]:
    """Return the losses of two networks on the same samples."""
    generator = torch.Generator().manual_seed(seed)
    hard, first, second = torch.randn(3, 400, dtype=torch.float64, generator=generator)
    return hard + 0.1 * first + 0.02, hard + 0.1 * second


QUESTIONS = (
    Question(
        "ex-ab-below",
        "The least possible gap between true loss and loss on the samples: a function of $\\min L_{\\mathrm{div}}$ and "
        "$L_N(\\varphi_N)$.",
        lambda least, found: torch.linspace(float(least), float(least) + 5, 11, dtype=torch.float64).min() - found,
        (
            Mistake(
                "The sign: the true loss is at least the minimum, and the loss on the samples is below it.",
                lambda least, found: found - least,
            ),
            Mistake(
                "Losses are compared by differences: they may be negative, and have a constant.",
                lambda least, found: least / found,
            ),
        ),
        takes="least, found",
        inputs=((-0.4, -0.9), (0.2, -0.3)),
    ),
    Question(
        "ex-ab-steep",
        "Your map $F$, a function of `x` (a tensor), $a$ and $\\rho$.",
        lambda x, a, rho: steep(a, rho)(x),
        (
            Mistake(
                "It is not steep enough at zero: the narrower it is, the faster the argument must grow.",
                lambda x, a, rho: steep(a, rho, inner=rho)(x),
            ),
            Mistake("It leaves the band of width $\\rho$.", lambda x, a, rho: steep(a, rho, 1 / 3, 3)(x)),
            Mistake("It does not increase everywhere.", lambda x, a, rho: x + rho * torch.sin(a * x / rho)),
        ),
        takes="x, a, rho",
        inputs=((9.0, 0.1), (4.0, 0.5)),
        read=look,
    ),
    Question(
        "ex-ab-clip",
        "The best slope and its excess loss: a function of $a < \\ell$, $\\ell$ and $\\sigma$ that returns both.",
        clipped,
        (
            Mistake(
                "Half of the square: the excess loss has a factor one half.",
                lambda a, ell, s: [ell, (ell - a) ** 2 * s**2],
            ),
            Mistake(
                "The variance of the prior, not its standard deviation.",
                lambda a, ell, s: [ell, 0.5 * (ell - a) ** 2 * s],
            ),
            Mistake("This slope is out of the range.", lambda a, ell, s: [a, 0.0]),
        ),
        takes="a, ell, sigma",
        inputs=((0.2, 0.343, 0.8), (0.1, 0.5, 1.5)),
    ),
    Question(
        "ex-ab-rise",
        "The $C$ with $e^2 + m^2 \\le C$, the smallest: a function of $\\kappa$.",
        spread_of_slopes,
        (
            Mistake(
                "This is the difference alone; its mean is not zero for $\\kappa < 1$.", lambda kappa: (1 + kappa) ** 2
            ),
            Mistake("This is the triangle inequality.", lambda kappa: 2.0),
            Mistake(
                "The mean of the two ends is $(1 - \\kappa)/2$; it is to be squared.",
                lambda kappa: (1 + kappa) ** 2 + 0.5 * (1 - kappa),
            ),
        ),
        takes="kappa",
        inputs=((0.1,), (0.4,), (0.7,)),
    ),
    Question(
        "ex-ab-strength",
        "The factor by which the inverse multiplies the datum, a function of $\\sigma$ and $\\hat\\delta$.",
        inverse,
        (
            Mistake("This is the map $\\varphi^*$; the reconstruction is its inverse.", lambda s, d: 1 + d**2 / s**2),
            Mistake("The strength is squared.", lambda s, d: 1 / (1 + d / s**2)),
            Mistake("The sign: regularization shrinks.", lambda s, d: 1 / (1 - d**2 / s**2)),
        ),
        part="a",
        takes="sigma, strength",
        inputs=((0.8, 0.45), (1.5, 0.6)),
    ),
    Question(
        "ex-ab-strength",
        "The $\\hat\\delta$ with the smallest mean squared error, a function of $\\sigma$ and $\\delta$.",
        best_strength,
        (
            Mistake("This is its square.", lambda s, d: d**2),
            Mistake("Without regularization the noise is not damped at all.", lambda s, d: 0.0),
            Mistake("Twice the variance is too much: compare with the posterior mean.", lambda s, d: math.sqrt(2) * d),
        ),
        part="b",
        takes="sigma, delta",
        inputs=((0.8, 0.45), (1.5, 0.7)),
    ),
    Question(
        "ex-ab-held",
        "The mean difference (first less second) in units of its standard error: a function of the losses of two "
        "networks, each of shape (N,), on the same N samples.",
        deviations,
        (
            Mistake(
                "Both saw the same samples: take differences sample by sample first. Most of the spread cancels.",
                unpaired,
            ),
            Mistake(
                "The standard error of a mean is smaller than the spread, by $\\sqrt N$.",
                lambda a, b: deviations(a, b) / math.sqrt(len(a)),
            ),
            Mistake("This is second less first.", lambda a, b: -deviations(a, b)),
        ),
        takes="first, second",
        inputs=(losses(1), losses(2)),
    ),
)
