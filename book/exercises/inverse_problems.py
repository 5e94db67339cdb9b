"""What the exercises of the chapter on inverse problems ask."""

from __future__ import annotations

import torch
from checks import inverse_problems as checks
from scipy.optimize import brentq
from torch import Tensor

from exercises.asking import Mistake, Question, sqrt
from invlib import LinearProblem
from invlib.testproblems import epsilon_problem

EYE = torch.eye(2, dtype=torch.float64)


def diagonal(weak: float) -> LinearProblem:
    """Return the problem of the first exercise."""
    return LinearProblem([[1.0, 0.0], [0.0, weak]], 0.05)


def best_risk(problem: LinearProblem, covariance: Tensor, filtering: float | None = None) -> Tensor:
    """Return the risk of a linear reconstruction that takes another noise level for the true one."""
    filter_ = checks.best_filter(problem, covariance, filtering)
    return checks.risk(problem, covariance, filter_ @ problem.operator.mT)


def threshold() -> float:
    """Return the weak number for which inversion is as bad as the answer zero."""
    return float(brentq(lambda weak: float(checks.noise_amplification(diagonal(weak))) - 2, 0.01, 1.0))


def excess(a: Tensor, d: Tensor, delta: float) -> Tensor:
    """Return the error of B less that of least squares, from the definition."""
    inverse = torch.linalg.pinv(a)
    return delta**2 * ((inverse + d).square().sum() - inverse.square().sum())


def free_case(seed: int, delta: float) -> tuple[Tensor, Tensor, float]:
    """Return an operator, a matrix D with DA = 0, and a noise level."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    free = torch.randn(3, 5, dtype=torch.float64, generator=generator)
    return a, free - free @ a @ torch.linalg.pinv(a), delta


def integration(n: int, growing: bool = True) -> LinearProblem:
    """Return the problem of integration on n cells: a reading is the integral up to the end of its cell."""
    ones = torch.ones(n, n, dtype=torch.float64)
    return LinearProblem(ones.tril() / n, 0.05 * sqrt(n / 10) if growing else 0.05)


def smooth(n: int) -> Tensor:
    """Return the covariance of the exercise."""
    t = torch.arange(1, n + 1, dtype=torch.float64) / n
    return (-5 * (t[:, None] - t).abs()).exp()


def growth(kappa: float, eps: float, real: bool = False, power: float = 2.0) -> Tensor:
    """Return how much a wrong noise level multiplies the error; real: the noise itself is wrong, too."""
    problem = epsilon_problem(float(eps), noise_std=0.3)
    believed = 0.3 * float(kappa) ** (power / 2)
    used = epsilon_problem(float(eps), noise_std=believed) if real else problem
    return best_risk(used, EYE, believed) / best_risk(problem, EYE)


def rotation(degrees: float) -> Tensor:
    """Return the matrix that turns the plane."""
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])


def turned_mean(first: Tensor, second: Tensor, eps: float, delta: float, covariance: Tensor, z: Tensor) -> Tensor:
    """Return the posterior mean for the turned operator, by way of the measurement behind z."""
    a = first @ torch.diag(torch.tensor([1.0, eps], dtype=torch.float64)) @ second.mT
    y = torch.linalg.solve(a.mT, z)
    return covariance @ a.mT @ torch.linalg.solve(a @ covariance @ a.mT + delta**2 * EYE, y)


def filtered(q: Tensor, weak: float, delta: float, covariance: Tensor, z: Tensor) -> Tensor:
    """Return what a filter makes of z that takes q diag(1, weak) q* for H."""
    h = q @ torch.diag(torch.tensor([1.0, weak], dtype=torch.float64)) @ q.mT
    return torch.linalg.solve(h + delta**2 * torch.linalg.inv(covariance), z)


SPREAD = torch.tensor([[1.0, 0.4], [0.4, 0.5]], dtype=torch.float64)
DATUM = torch.tensor([0.7, -0.4], dtype=torch.float64)

QUESTIONS = (
    Question(
        "ex-inv-hand",
        "The mean squared error of $H^{-1}z$, a number.",
        lambda: checks.noise_amplification(diagonal(0.1)),
        (
            Mistake(
                "The noise enters through its variance: it is squared.",
                lambda: checks.noise_amplification(diagonal(0.1)) / 0.05,
            ),
            Mistake(
                "You invert $A$. The trace is that of $H^{-1}$ with $H = A^*A$: singular values are squared.",
                lambda: 0.05**2 * torch.linalg.inv(diagonal(0.1).operator).trace(),
            ),
            Mistake(
                "This is the error without the noise variance in front.",
                lambda: checks.noise_amplification(diagonal(0.1)) / 0.05**2,
            ),
        ),
        part="a",
    ),
    Question(
        "ex-inv-hand",
        "The mean squared error of the best linear reconstruction, a number.",
        lambda: best_risk(diagonal(0.1), EYE),
        (
            Mistake(
                "You filter with $\\delta$ where its square belongs: $(H + \\delta^2\\Sigma^{-1})^{-1}$.",
                lambda: 0.05**2 * torch.linalg.inv(diagonal(0.1).normal_operator + 0.05 * EYE).trace(),
            ),
            Mistake(
                "This is the trace of the filter; the error has $\\delta^2$ in front of it.",
                lambda: best_risk(diagonal(0.1), EYE) / 0.05**2,
            ),
            Mistake(
                "This is the error of inversion: the prior has not come in.",
                lambda: checks.noise_amplification(diagonal(0.1)),
            ),
        ),
        part="b",
    ),
    Question(
        "ex-inv-hand",
        "The $\\varepsilon$ below which inversion is worse than the answer zero, a number.",
        threshold,
        (
            Mistake(
                "You compare with an error of one. The answer zero errs by the prior variance of both directions.",
                lambda: brentq(lambda weak: float(checks.noise_amplification(diagonal(weak))) - 1, 0.01, 1.0),
            ),
            Mistake("This is its square: $H$ holds the square of $\\varepsilon$.", lambda: threshold() ** 2),
        ),
        part="c",
        rtol=2e-3,
    ),
    Question(
        "ex-inv-gauss-markov",
        "A function of the matrices $A$ and $D$ with $DA = 0$ and of $\\delta$: by how much the mean squared error for "
        "$B = H^{-1}A^* + D$ is above that of least squares.",
        excess,
        (
            Mistake(
                "This is linear in $\\delta$. A mean squared error has the variance of the noise.",
                lambda a, d, delta: excess(a, d, delta) / delta,
            ),
            Mistake(
                "This is the length of $D$, not its square.",
                lambda a, d, delta: delta**2 * d.square().sum().sqrt(),
            ),
            Mistake(
                "You take the largest singular value. The trace of $DD^*$ adds the squares of all.",
                lambda a, d, delta: delta**2 * torch.linalg.matrix_norm(d, 2) ** 2,
            ),
        ),
        takes="A, D, delta",
        inputs=(free_case(1, 0.3), free_case(2, 1.7)),
    ),
    Question(
        "ex-inv-rotation",
        "The posterior mean given $z$ for $A = Q_1\\operatorname{diag}(1, \\varepsilon)\\,Q_2^*$ and the prior "
        "$N(0, \\Sigma)$: a function of $Q_1$, $Q_2$, $\\varepsilon$, $\\delta$, $\\Sigma$ and $z$.",
        turned_mean,
        (
            Mistake(
                "You have $AA^*$ where $H = A^*A$ belongs: it is $Q_1$ that must drop out.",
                lambda q1, q2, eps, delta, s, z: filtered(q1, eps**2, delta, s, z),
            ),
            Mistake(
                "Singular values of $A$ are squared in $H$.",
                lambda q1, q2, eps, delta, s, z: filtered(q2, eps, delta, s, z),
            ),
            Mistake(
                "You turn the wrong way: the weak direction is the second column of $Q_2$.",
                lambda q1, q2, eps, delta, s, z: filtered(q2.mT, eps**2, delta, s, z),
            ),
            Mistake(
                "You dropped $Q_2$ along with $Q_1$; but it says which direction is weak.",
                lambda q1, q2, eps, delta, s, z: filtered(EYE, eps**2, delta, s, z),
            ),
            Mistake(
                "The filter has the inverse of $\\Sigma$, the precision, not $\\Sigma$.",
                lambda q1, q2, eps, delta, s, z: filtered(q2, eps**2, delta, torch.linalg.inv(s), z),
            ),
        ),
        part="c",
        takes="Q1, Q2, eps, delta, Sigma, z",
        inputs=(
            (rotation(20.0), rotation(65.0), 0.25, 0.3, SPREAD, DATUM),
            (rotation(-50.0), rotation(130.0), 0.5, 0.6, SPREAD, -2 * DATUM),
        ),
    ),
    Question(
        "ex-inv-integration",
        "The trace of $H^{-1}$ as a function of $n$.",
        lambda n: checks.noise_amplification(integration(int(n))) / integration(int(n)).noise_std ** 2,
        (
            Mistake("The first cell has no neighbour on its left: one entry of $A^{-1}$ too many.", lambda n: 2 * n**3),
            Mistake("The ones of $A$ are divided by $n$, so its inverse has entries of size $n$.", lambda n: 2 * n - 1),
            Mistake("The entries of $A^{-1}$ are to be squared.", lambda n: n * (2 * n - 1)),
        ),
        part="a",
        takes="n",
        inputs=((3,), (10,), (25,)),
    ),
    Question(
        "ex-inv-integration",
        "The root mean square error per value of inversion, as a function of $n$.",
        lambda n: (checks.noise_amplification(integration(int(n))) / n).sqrt(),
        (
            Mistake(
                "This is the error of all $n$ values together: divide the square by $n$.",
                lambda n: checks.noise_amplification(integration(int(n))).sqrt(),
            ),
            Mistake(
                "The noise of a reading grows as the cells get shorter; you left it at 0.05.",
                lambda n: (checks.noise_amplification(integration(int(n), growing=False)) / n).sqrt(),
            ),
            Mistake(
                "The root is missing.",
                lambda n: checks.noise_amplification(integration(int(n))) / n,
            ),
        ),
        part="b",
        takes="n",
        inputs=((20,), (40,)),
    ),
    Question(
        "ex-inv-integration",
        "The root mean square error per value of the best linear reconstruction under the prior, a function of $n$.",
        lambda n: (best_risk(integration(int(n)), smooth(int(n))) / n).sqrt(),
        (
            Mistake(
                "The filter has the inverse of $\\Sigma$, the precision, not $\\Sigma$.",
                lambda n: (
                    integration(int(n)).noise_std ** 2
                    * torch.linalg.inv(
                        integration(int(n)).normal_operator + integration(int(n)).noise_std ** 2 * smooth(int(n))
                    ).trace()
                    / n
                ).sqrt(),
            ),
            Mistake(
                "The noise of a reading grows as the cells get shorter; you left it at 0.05.",
                lambda n: (best_risk(integration(int(n), growing=False), smooth(int(n))) / n).sqrt(),
            ),
        ),
        part="c",
        takes="n",
        inputs=((20,), (40,)),
    ),
    Question(
        "ex-inv-level",
        "The factor by which the mean squared error grows, for $\\Sigma = I$ and $\\delta = 0.3$, as a function of "
        "$\\kappa$ and $\\varepsilon$.",
        growth,
        (
            Mistake(
                "You changed the noise of the data as well. Only the analyst is wrong: the data keep $\\delta$.",
                lambda kappa, eps: growth(kappa, eps, real=True),
            ),
            Mistake(
                "The filter has the square of $\\kappa\\delta$; you squared only $\\delta$.",
                lambda kappa, eps: growth(kappa, eps, power=1.0),
            ),
            Mistake(
                "This is the error itself; divide it by that of the right noise level.",
                lambda kappa, eps: growth(kappa, eps) * best_risk(epsilon_problem(float(eps), noise_std=0.3), EYE),
            ),
        ),
        takes="kappa, eps",
        inputs=((0.5, 0.25), (2.0, 0.25), (4.0, 1.0)),
    ),
)
