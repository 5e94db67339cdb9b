"""What the exercises of the chapter on what invertibility buys ask."""

from __future__ import annotations

import math
from typing import Any

import torch
from checks import invertibility as checks
from checks.tools import seeded
from scipy import optimize
from torch import Tensor

from exercises.asking import Mistake, Question

H = torch.tensor([[1.0, 0.3], [0.3, 0.4]], dtype=torch.float64)
G = torch.tensor([[0.6, -0.2], [-0.2, 0.9]], dtype=torch.float64)
D = torch.tensor([[0.8, 0.5], [-0.1, 0.4]], dtype=torch.float64)
THREE = torch.tensor([[0.8, 0.5, 0.0], [-0.1, 0.4, 0.2], [0.3, 0.0, 1.1]], dtype=torch.float64)


def covariance(G: Tensor, H: Tensor, delta: float) -> Tensor:
    """Return the covariance whose Wiener filter is G, from the filter in the form of gain and residual."""
    solved: Tensor = torch.linalg.solve(torch.eye(len(G), dtype=G.dtype) - G @ H, G)
    return delta**2 * solved


def nearest(D: Tensor) -> float:
    """Return the distance of a matrix from the symmetric ones, by least squares over their entries."""
    n = len(D)
    places = [(i, j) for i in range(n) for j in range(i + 1)]
    basis = torch.zeros(len(places), n, n, dtype=D.dtype)
    for k, (i, j) in enumerate(places):
        basis[k, i, j] = basis[k, j, i] = 1.0
    return float(optimize.lsq_linear(basis.flatten(1).mT.numpy(), D.flatten().numpy()).cost * 2) ** 0.5


def around(D: Tensor, radius: float, count: int) -> float:
    """Return the sum around a circle of data, term by term."""
    angles = 2 * math.pi * torch.arange(int(count), dtype=torch.float64) / int(count)
    return checks.circuit(lambda z: z @ D.mT, float(radius) * torch.stack([angles.cos(), angles.sin()], -1))


def backwards(D: Tensor, radius: float, count: int) -> float:
    """Return the sum in the other direction."""
    return around(D.mT, radius, count)


def through(f: Any, z: float, h: float, new: float, rho: float) -> float:
    """Return the reconstruction of a new problem on the line from a proximal map f."""
    return float(f(unknown(f, z, h, new, rho)))


def unknown(f: Any, z: float, h: float, new: float, rho: float) -> float:
    """Return the solution of the equation for u, by a search for the root."""

    def equation(u: float) -> float:
        return float((new - rho * h) * f(u) + rho * u - z)

    return float(optimize.brentq(equation, -1e3, 1e3))


def same_factor(f: Any, z: float, h: float, new: float, rho: float) -> float:
    """Return what comes out without rho in front of h."""
    return float(f(optimize.brentq(lambda u: float((new - h) * f(u) + rho * u - z), -1e3, 1e3)))


def soft(u: float) -> float:
    """Return a map that shrinks, more near zero."""
    return 0.5 * u + 0.3 * math.tanh(u)


SAMPLE = torch.randn(5, 2, dtype=torch.float64, generator=seeded(1))

QUESTIONS = (
    Question(
        "ex-iv-linear",
        "The covariance $\\Sigma$ of the Gaussian prior whose Wiener filter is $z \\mapsto Gz$: a function of $G$, $H$ "
        "(symmetric matrices) and $\\delta$.",
        covariance,
        (
            Mistake("The noise enters with its variance.", lambda G, H, d: covariance(G, H, 1.0) * d),
            Mistake("This is $\\Sigma^{-1}$, the precision.", lambda G, H, d: torch.linalg.inv(covariance(G, H, d))),
            Mistake("$G$ acts on $z = A^*y$: $H$ is missing.", lambda G, H, d: d**2 * G),
            Mistake(
                "This is the filter of a denoiser; $G^{-1} - H$, not $G^{-1} - I$.",
                lambda G, H, d: covariance(G, torch.eye(2, dtype=G.dtype), d),
            ),
        ),
        takes="G, H, delta",
        inputs=((G, H, 0.5), (0.4 * G, 2 * H, 0.2)),
    ),
    Question(
        "ex-iv-turn",
        "The Frobenius distance of a matrix $D$ from the nearest symmetric matrix: a function of $D$.",
        nearest,
        (
            Mistake("This is the whole of $D - D^*$; the nearest matrix is half-way.", lambda D: 2 * nearest(D)),
            Mistake("This is the spectral norm.", lambda D: torch.linalg.matrix_norm(0.5 * (D - D.mT), 2)),
            Mistake("This is the square of the distance.", lambda D: nearest(D) ** 2),
        ),
        takes="D",
        inputs=((D,), (THREE,)),
    ),
    Question(
        "ex-iv-circuit",
        "The sum $\\sum_i\\langle r(z_i), z_{i+1} - z_i\\rangle$ for $r(z) = Dz$ and $N$ equidistant data on a "
        "circle of radius $\\varrho$ around zero, counter-clockwise: a function of $D$, $\\varrho$ and $N$.",
        around,
        (
            Mistake("This is the sum in the other direction.", backwards),
            Mistake(
                "This is the limit for many data, $2\\pi\\varrho^2$ times the turn; a finite walk has a second part.",
                lambda D, radius, count: math.pi * radius**2 * (D[1, 0] - D[0, 1]),
            ),
            Mistake("This is the sum of one step only.", lambda D, radius, count: around(D, radius, count) / count),
            Mistake(
                "The circle has the radius $\\varrho$, so its square enters.", lambda D, r, n: around(D, 1.0, n) * r
            ),
        ),
        part="b",
        takes="D, radius, N",
        inputs=((D, 1.5, 5), (-D, 0.4, 40)),
    ),
    Question(
        "ex-iv-through",
        "The reconstruction for a new problem on the line, from a proximal map $f$ (increasing): a function of "
        "$f$, $z'$, $h$, $h'$ and $\\rho$.",
        through,
        (
            Mistake("This is $f(z')$: the old noise, the old operator.", lambda f, z, h, new, rho: f(z)),
            Mistake(
                "The factor $\\rho$ stands in front of $h$, too.",
                same_factor,
            ),
            Mistake(
                "This is the unknown $u$ of the equation; the reconstruction is $f(u)$.",
                unknown,
            ),
        ),
        takes="f, z, h, h_new, rho",
        inputs=((soft, 0.9, 1.0, 1.0, 2.25), (soft, -0.4, 1.0, 0.6, 0.5)),
    ),
)
