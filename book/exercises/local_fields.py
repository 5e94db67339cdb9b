"""What the exercises of the chapter on Markov random fields ask."""

from __future__ import annotations

import math

import torch
from checks import local_fields as checks
from checks.local_fields import NOISE, Field
from checks.tools import seeded
from torch import Tensor

from exercises.asking import Mistake, Question

SITES = 4096  # a circle on which nothing comes around
RIPPLE = 0.97  # L of a block


def weights(strength: float, kappa: float, v: float) -> Tensor:
    """Return the weights at the distances 0, 1, 2 and 5, from the inverse on a long circle, by Fourier."""
    angle = 2 * math.pi * torch.arange(SITES, dtype=torch.float64) / SITES
    symbol = 1 + float(strength) ** 2 * (float(v) + float(kappa) * (2 - 2 * angle.cos()))
    return torch.fft.ifft(1 / symbol).real[[0, 1, 2, 5]]


def spread(k: float) -> float:
    """Return over how many neighbours the weights fall to 1/e, from two of them."""
    found = weights(1.0, float(k), 0.0)
    return 1 / float((found[0] / found[1]).log())


def blocks(beta: float) -> int:
    """Return the least K whose slopes reach C."""
    needed, reached, (_, C) = 0, 1.0, Field(64, rounding=float(beta)).reach()
    while reached < C:
        needed, reached = needed + 1, reached * (1 + RIPPLE)
    return needed


def branch(field: Field, x: Tensor) -> Tensor:
    """Return f(x)."""
    c, C = field.reach()
    return x - 2 / (C + c) * field.best_map(x)


def middle(w: int, z: Tensor) -> Tensor:
    """Return the MAP estimate of the middle of a window."""
    return checks.exact_map(Field(2 * w + 1), z[:, 32 - w : 33 + w])[:, w]


def bounds(n: int = 64) -> list[float]:
    """Return c, C and w, the last by looking where H is not zero."""
    field = Field(n)
    H = normal(field)
    spectrum = torch.linalg.eigvalsh(H)
    c, C = field.reach(NOISE, max(0.0, float(spectrum[0])), float(spectrum[-1]))
    return [c, C, float(checks.distances(field)[H.abs() > 1e-12].max())]


def normal(field: Field, power: int = 2) -> Tensor:
    """Return H = A^2; A itself for another power."""
    return torch.linalg.matrix_power(torch.from_numpy(checks.blur(field, 0.5).toarray()), power)


def inverse(x: Tensor, power: int = 2) -> Tensor:
    """Return the derivative of the inverse at phi*(x)."""
    field = Field(len(x))
    D = torch.from_numpy(field.incidence().toarray())
    bends = field.pull * torch.eye(len(x), dtype=torch.float64) + D.mT * field.rho_bend(D @ x) @ D
    return torch.linalg.inv(normal(field, power) + NOISE**2 * bends)


def scale(n: int) -> float:
    """Return s_n, from the variance of one jump at s = 1, by sums."""
    t = torch.linspace(0, 60, 60_001, dtype=torch.float64)
    density = (-t).exp()
    return 1 / math.sqrt(int(n) * float(density @ t.square() / density.sum()))


def penalty(n: int, variation: float) -> float:
    """Return the penalty of a ramp with this variation, in n jumps."""
    jumps = torch.full((int(n),), float(variation) / int(n), dtype=torch.float64)
    return float(jumps.abs().sum()) / scale(n)


DATA = 0.6 * torch.randn(2, 64, dtype=torch.float64, generator=seeded(5)).cumsum(-1).sin() + NOISE * torch.randn(
    2, 64, dtype=torch.float64, generator=seeded(6)
)
POINTS = 0.4 * torch.randn(3, 12, dtype=torch.float64, generator=seeded(7))

QUESTIONS = (
    Question(
        "ex-lf-green",
        "The weights of the data at the distances 0, 1, 2 and 5 from a value on the integers: a function of "
        "$\\hat\\delta$, $\\kappa$ and $v$.",
        weights,
        (
            Mistake("The strength enters squared.", lambda strength, kappa, v: weights(strength**0.5, kappa, v)),
            Mistake(
                "The weights fall as they should, but the one at distance zero is not one.",
                lambda strength, kappa, v: weights(strength, kappa, v) / weights(strength, kappa, v)[0],
            ),
            Mistake(
                "The pull is lost: without it all weights add up to one.",
                lambda strength, kappa, v: weights(strength, kappa, 0.0),
            ),
            Mistake(
                "Each of two neighbours pulls: count both in the middle.",
                lambda strength, kappa, v: weights(strength, 0.5 * kappa, v),
            ),
        ),
        part="a",
        takes="strength, kappa, v",
        inputs=((1.5, 4.0, 0.2), (0.8, 20.0, 1.5)),
    ),
    Question(
        "ex-lf-green",
        "Over how many steps to one side the weights fall to $1/\\mathrm{e}$ of the largest, for $v = 0$ and large "
        "$\\hat\\delta^2\\kappa$: a function of this product $k$.",
        spread,
        (
            Mistake("A diffusion goes less far: look at the order of $1 - q_0$.", lambda k: k),
            Mistake("This counts both sides.", lambda k: 2 * spread(k)),
            Mistake(
                "$q_0^{-1}$ has a term of second order in $1 - q_0$, and it counts once, not half.",
                lambda k: spread(k) * 2**-0.5,
            ),
        ),
        part="b",
        takes="k",
        inputs=((100.0,), (900.0,)),
    ),
    Question(
        "ex-lf-block",
        "The least number of blocks, for the field of the chapter: a function of $\\beta$.",
        blocks,
        (
            Mistake("With so many the slopes do not yet reach $C$: round up.", lambda beta: blocks(beta) - 1),
            Mistake(
                "Slopes of blocks multiply; they do not add up.",
                lambda beta: math.ceil(Field(64, rounding=float(beta)).reach()[1] / (1 + RIPPLE)),
            ),
            Mistake(
                "Slopes go down with $1 - L$; upwards they go with $1 + L$.",
                lambda beta: math.ceil(math.log(Field(64, rounding=float(beta)).reach()[1]) / -math.log(1 - RIPPLE)),
            ),
        ),
        part="a",
        takes="beta",
        inputs=((0.1,), (0.01,), (0.001,)),
    ),
    Question(
        "ex-lf-block",
        "The values $f(x)$ of the one branch, $(B, n)$: a function of a `Field` and of points $(B, n)$.",
        branch,
        (
            Mistake("The block is $x$ *minus* $f(x)$.", lambda field, x: -branch(field, x)),
            Mistake("This is the block. Its branch is what it takes off $x$.", lambda field, x: x - branch(field, x)),
            Mistake(
                "With $1/C$ all slopes of the branch are positive, and it is steeper than it has to be.",
                lambda field, x: x - field.best_map(x) / field.reach()[1],
            ),
        ),
        part="b",
        takes="field, x",
        inputs=((Field(12), POINTS), (Field(3, 4, rounding=0.3), POINTS)),
    ),
    Question(
        "ex-lf-window",
        "The MAP estimates of the values at position 32, $(B)$, each from a window of $2w + 1$ data: a function of $w$ "
        "and of data $(B, 64)$.",
        middle,
        (
            Mistake("This is computed from all data.", lambda w, z: checks.exact_map(Field(64), z)[:, 32]),
            Mistake(
                "The window ends too early: it has as many data after position 32 as before.",
                lambda w, z: checks.exact_map(Field(2 * w), z[:, 32 - w : 32 + w])[:, w],
            ),
            Mistake(
                "This is the posterior mean for the window.",
                lambda w, z: checks.exact_mean(Field(2 * w + 1), z[:, 32 - w : 33 + w])[:, w],
            ),
        ),
        takes="w, z",
        inputs=((2, DATA), (4, DATA)),
    ),
    Question(
        "ex-lf-deblur",
        "$c$, $C$ and $w$ for the circle of 64 values, a list.",
        bounds,
        (
            Mistake(
                "This $c$ is that of denoising: look at $(-1)^i$ after the blur.",
                lambda: [Field(64).reach()[0], *bounds()[1:]],
            ),
            Mistake("This is how far $A$ sees. What counts is $H$.", lambda: [*bounds()[:2], 1.0]),
            Mistake(
                "On a circle each site has two neighbours, and $D$ counts them.",
                lambda: [bounds()[0], bounds()[1] - 2 * NOISE**2 * Field(64).sharpness, bounds()[2]],
            ),
        ),
        part="a",
        atol=1e-6,
    ),
    Question(
        "ex-lf-deblur",
        "The smallest entry of $D(\\varphi^*)^{-1}(z)$ at $z = \\varphi^*(x)$: a function of $x$, $(n)$.",
        lambda x: inverse(x).min(),
        (
            Mistake("The map contains $H = A^*A$, not $A$.", lambda x: inverse(x, 1).min()),
            Mistake("This is without the blur.", lambda x: inverse(x, 0).min()),
            Mistake("The sign counts: this is the smallest size of an entry.", lambda x: inverse(x).abs().min()),
            Mistake(
                "This is the derivative of $\\varphi^*$, not of its inverse.", lambda x: inverse(x).inverse().min()
            ),
        ),
        part="b",
        takes="x",
        inputs=((POINTS[0],), (POINTS[1],)),
    ),
    Question(
        "ex-lf-refine",
        "$s_n$: a function of $n$.",
        scale,
        (
            Mistake("The variance of one jump is not $s_n^2$: integrate.", lambda n: n**-0.5),
            Mistake("Variances of independent jumps add up, not their deviations.", lambda n: 2**-0.5 / n),
            Mistake("This is the variance of one jump.", lambda n: 1 / n),
            Mistake("This is $1/s_n$.", lambda n: 1 / scale(n)),
        ),
        part="a",
        takes="n",
        inputs=((3,), (50,)),
    ),
    Question(
        "ex-lf-refine",
        "The penalty of a rising signal, with the $s_n$ of this exercise: a function of $n$ and of $x(1) - x(0)$.",
        penalty,
        (
            Mistake("The penalty is divided by $s_n$.", lambda n, variation: variation * scale(n)),
            Mistake("This is the variation alone: it does not see the grid.", lambda n, variation: variation),
            Mistake(
                "This is one jump of $n$.",
                lambda n, variation: penalty(n, variation) / n,
            ),
        ),
        part="b",
        takes="n, variation",
        inputs=((4, 1.5), (100, 0.7)),
    ),
)
