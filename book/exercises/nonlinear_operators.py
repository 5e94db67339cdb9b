"""What the exercises of the chapter on nonlinear measurements ask."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.optimize import brentq
from torch import Tensor

from exercises.asking import Mistake, Question, sqrt

Point = Tensor


def best_map(F: float, slope: float, bend: float, delta: float) -> Tensor:
    """Return the best map at a point: F is replaced by its parabola there, the score of x is automatic."""

    def log_prior(x: Tensor) -> Tensor:
        value = float(F) + float(slope) * x + 0.5 * float(bend) * x**2
        return (float(slope) + float(bend) * x).log() - 0.5 * value**2

    score = torch.func.grad(log_prior)(torch.zeros((), dtype=torch.float64))
    return float(F) - float(delta) ** 2 * score / float(slope)


def safe(ell: float, gamma: float, kappa: float) -> float:
    """Return the noise level at which the bound of the least eigenvalue is zero."""
    return float(brentq(lambda d: float(ell) ** 2 - d**2 * (float(gamma) + float(kappa)), 1e-6, 100.0))


def shears(x: Tensor) -> Tensor:
    """Return the value of the two shears."""
    first = x[0] + torch.sin(x[1])
    return torch.stack([first, x[1] + torch.tanh(first)])


def swapped(x: Tensor) -> Tensor:
    """Return the value of the two shears in the other order."""
    second = x[1] + torch.tanh(x[0])
    return torch.stack([x[0] + torch.sin(second), second])


def jacobian(F: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return what computes the Jacobian."""
    derivative: Callable[[Tensor], Tensor] = torch.func.jacrev(F)
    return derivative


def unmoved(x: Tensor) -> Tensor:
    """Return the product with the slope of the second shear at the wrong point."""
    first, second = torch.eye(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    first[0, 1], second[1, 0] = x[1].cos(), 1 / x[0].cosh() ** 2
    return second @ first


def rows() -> list[int]:
    """Return the ranks of the differences of values."""
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)
    parabola = torch.stack([x, x**2 / 2], -1)
    generator = torch.Generator().manual_seed(1)
    linear = torch.randn(20, 3, dtype=torch.float64, generator=generator) @ torch.randn(
        3, 5, dtype=torch.float64, generator=generator
    )
    return [int(torch.linalg.matrix_rank(values - values[0])) for values in (parabola, linear)]


def curvature(slope: Tensor, Q: Tensor, u: Tensor, delta: float) -> Tensor:
    """Return the Hessian of the MAP objective at u, for the datum of which u is a critical point, by torch."""
    matrix = -slope * torch.exp(u)
    score = -(Q @ u)
    datum = matrix @ torch.exp(-u) - float(delta) ** 2 * torch.linalg.solve(slope.T, score)

    def objective(p: Tensor) -> Tensor:
        return 0.5 * (matrix @ torch.exp(-p) - datum).square().sum() + 0.5 * float(delta) ** 2 * (p @ Q @ p)

    hessian: Tensor = torch.func.jacrev(torch.func.jacrev(objective))(u)
    return hessian


def layer_points() -> tuple[tuple[Tensor, Tensor, Tensor, float], ...]:
    """Return two points of two layers: DF, Q, u, delta."""
    found = []
    for values, delta in (((0.4, -0.7), 0.5), ((-0.3, 0.9), 0.8)):
        u = torch.tensor(values, dtype=torch.float64)
        slope = -torch.tensor([[0.9, 0.0], [0.9, 0.6]], dtype=torch.float64) * torch.exp(-u)
        found.append((slope, torch.tensor([[2.0, -0.8], [-0.8, 1.5]], dtype=torch.float64), u, delta))
    return tuple(found)


POINTS = tuple((torch.tensor(each, dtype=torch.float64),) for each in ((0.3, -0.8), (-1.1, 0.6)))

QUESTIONS = (
    Question(
        "ex-no-gauss",
        "The value of $\\varphi^*$ at a point, a function of the numbers $F$, $F'$, $F''$ there and of $\\delta$.",
        best_map,
        (
            Mistake(
                "This is the map of the MAP of $u$. The density of $x$ has a factor $F'$.",
                lambda F, slope, bend, delta: (1 + delta**2) * F,
            ),
            Mistake(
                "The sign of the term with $F''$: the best map *subtracts* the score of $x$.",
                lambda F, slope, bend, delta: (1 + delta**2) * F + delta**2 * bend / slope**2,
            ),
            Mistake(
                "The score of $x$ is still to be divided by $F'$.",
                lambda F, slope, bend, delta: F + delta**2 * (F * slope - bend / slope),
            ),
        ),
        takes="F, slope, bend, delta",
        inputs=((0.4, 1.5, 0.6, 0.5), (-0.8, 0.7, -0.3, 0.9)),
    ),
    Question(
        "ex-no-noise",
        "The noise level up to which $B$ is certainly positive definite, a function of $\\ell$, $\\gamma$ and "
        "$\\kappa$.",
        safe,
        (
            Mistake("This bounds $\\delta^2$. Take the root.", lambda ell, gamma, kappa: ell**2 / (gamma + kappa)),
            Mistake(
                "$\\gamma$ bounds $\\nabla^2\\log p_X$ from above: a positive one harms, a negative one helps.",
                lambda ell, gamma, kappa: ell / sqrt(kappa - gamma),
            ),
            Mistake(
                "$DF^*DF$ is bounded by the square of $\\ell$.", lambda ell, gamma, kappa: sqrt(ell / (gamma + kappa))
            ),
        ),
        takes="ell, gamma, kappa",
        inputs=((0.6, -1.0, 2.5), (0.8, 0.3, 1.1)),
    ),
    Question(
        "ex-no-shear",
        "The Jacobian $DF(x)$ for $f = \\sin$ and $g = \\tanh$, a $2 \\times 2$ matrix, a function of `x` of shape "
        "(2,).",
        jacobian(shears),
        (
            Mistake("These are the shears in the other order.", jacobian(swapped)),
            Mistake("The chain rule: the second shear is differentiated at $F_1(x)$, not at $x$.", unmoved),
            Mistake("This is transposed: rows belong to the entries of $F$.", lambda x: jacobian(shears)(x).mT),
        ),
        takes="x",
        inputs=POINTS,
    ),
    Question(
        "ex-no-correlated",
        "The matrix $B$, a function of `DF` and `Q`, matrices of shape (2, 2), `u` of shape (2,), and `delta`.",
        curvature,
        (
            Mistake(
                "This would be right if $F$ were linear: the term with $\\nabla^2F_k$ is missing.",
                lambda DF, Q, u, delta: DF.T @ DF + delta**2 * Q,
            ),
            Mistake(
                "The sign of the term with $\\nabla^2F_k$: the score is $-Qu$.",
                lambda DF, Q, u, delta: DF.T @ DF + delta**2 * (Q - torch.diag(Q @ u)),
            ),
            Mistake(
                "The score is $-Qu$, not $-u$.",
                lambda DF, Q, u, delta: DF.T @ DF + delta**2 * (Q + torch.diag(u)),
            ),
        ),
        takes="DF, Q, u, delta",
        inputs=layer_points(),
    ),
    Question(
        "ex-no-reduce",
        "How many rows $K$ needs at least: for $F(x) = (x, x^2/2)$ on the line, and for an injective linear $F$ "
        "from $\\mathbb R^3$ to $\\mathbb R^5$; a list of two numbers.",
        rows,
        (
            Mistake("The parabola is a curve, but its chords point in more than one direction.", lambda: [1, 3]),
            Mistake("For a linear $F$ the differences fill its range only, and $z = A^*y$ is enough.", lambda: [2, 5]),
        ),
    ),
)
