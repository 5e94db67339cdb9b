"""What the exercises of the chapter on point estimators ask."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from checks import point_estimators as checks
from checks.tools import column
from scipy.optimize import brentq
from torch import Tensor

import invlib
from exercises.asking import Mistake, Question, sqrt, times
from invlib import GaussianMixture, LinearProblem, testproblems


def bumps(distance: float, width: float) -> GaussianMixture:
    """Return two equal bumps on the line, at plus and minus a distance."""
    variance = float(width) ** 2
    return GaussianMixture([0.5, 0.5], [[float(distance)], [-float(distance)]], 2 * [[[variance]]])


def line(delta: float) -> LinearProblem:
    """Return denoising on the line."""
    return LinearProblem([[1.0]], float(delta))


def least_curvature(distance: float, width: float, delta: float) -> float:
    """Return the curvature of the MAP objective in the middle."""
    middle = torch.zeros(1, 1, dtype=torch.float64)
    return float(invlib.map_curvature(line(delta), bumps(distance, width), middle))


def threshold(distance: float, width: float) -> float:
    """Return the noise level at which the curvature in the middle is zero."""
    return float(brentq(lambda delta: least_curvature(distance, width, delta), 1e-3, 50.0))


def plateau(z: float) -> float:
    """Return the MAP estimate for the plateau, by a search on a grid."""
    x = torch.linspace(-4, 4, 800_001, dtype=torch.float64)
    return float(x[((x.abs() - 1).clamp(min=0) ** 3 - float(z) * x).argmin()])


def half_plateau() -> float:
    """Return half of the largest leap of the MAP estimate."""
    z = torch.linspace(-1e-3, 1e-3, 4, dtype=torch.float64)
    found = torch.tensor([plateau(1e-3 * float(each)) for each in z], dtype=torch.float64)
    return 0.5 * float(found.diff().max())


def least_absolute(points: Tensor, weights: Tensor) -> Tensor:
    """Return the point with the least mean absolute distance."""
    return points[((points[:, None] - points).abs() @ weights).argmin()]


def black_box(
    operator: list[list[float]], delta: float, z: list[float]
) -> tuple[Callable[[Tensor], Tensor], Tensor, float]:
    """Return a posterior mean that can only be called, a datum, and the noise level."""
    problem, prior = LinearProblem(operator, delta), testproblems.two_bumps()
    return Mean(problem, prior), torch.tensor(z, dtype=torch.float64), delta


class Mean:
    """A posterior mean."""

    def __init__(self, problem: LinearProblem, prior: GaussianMixture) -> None:
        """Keep the problem and the prior."""
        self.problem, self.prior = problem, prior

    def __call__(self, z: Tensor) -> Tensor:
        """Return the posterior mean."""
        return invlib.posterior_mean(self.problem, self.prior, torch.as_tensor(z, dtype=torch.float64))


def covariance(mean: Mean, z: Tensor, delta: float) -> Tensor:
    """Return the posterior covariance."""
    return invlib.posterior_covariance(mean.problem, mean.prior, z)


def lower_hull(x: Tensor, J: Tensor) -> list[int]:
    """Return the indices of the corners of the lower convex hull of a graph."""
    hull: list[int] = []
    for k in range(len(x)):
        while len(hull) > 1:
            a, b = hull[-2:]
            if (J[b] - J[a]) * (x[k] - x[a]) < (J[k] - J[a]) * (x[b] - x[a]):
                break
            hull.pop()
        hull.append(k)
    return hull


def longest_edge(x: Tensor, J: Tensor) -> Tensor:
    """Return the slope of the longest edge of the lower convex hull."""
    corners = torch.tensor(lower_hull(x, J))
    k = int(x[corners].diff().argmax())
    first, second = corners[k], corners[k + 1]
    return (J[second] - J[first]) / (x[second] - x[first])


def longest_length(x: Tensor, J: Tensor) -> Tensor:
    """Return the length of the longest edge of the lower convex hull, along x."""
    return x[torch.tensor(lower_hull(x, J))].diff().max()


def well(tilt: float, weight: float) -> tuple[Tensor, Tensor]:
    """Return a grid and the MAP objective of two unequal bumps on it."""
    x = torch.linspace(-2, 2, 401, dtype=torch.float64)
    prior = GaussianMixture([weight, 1 - weight], [[-0.8], [0.9]], [[[0.25**2]], [[0.35**2]]])
    return x, 0.5 * x**2 - 0.45**2 * prior.log_prob(x[:, None]) + tilt * x


def leading(x: float, delta: float) -> Tensor:
    """Return the leading term of mean less mode for the bumps of the exercise."""
    point = torch.tensor([[float(x)]], dtype=torch.float64)
    return checks.leading_term(line(delta), bumps(0.9, 0.6), point).squeeze()


def first_order(kappa: float, delta2: float, m: float) -> float:
    """Return g(m) less its average over the posterior, for g = cos 2x, by a sum over a grid."""
    return averaged_gap(float(m), float(delta2) / float(kappa))


def averaged_gap(m: float, variance: float) -> float:
    """Return cos 2m less its average over N(m, variance)."""
    x = column(-12.0, 12.0, 8001)[:, 0]
    weights = torch.softmax(-0.5 * (x - m) ** 2 / variance, dim=-1)
    return math.cos(2 * m) - float(weights @ torch.cos(2 * x))


GRID = torch.tensor([-1.0, 0.0, 0.5, 2.0, 5.0], dtype=torch.float64)
LAWS = (
    (GRID, torch.tensor([0.1, 0.2, 0.25, 0.1, 0.35], dtype=torch.float64)),
    (GRID, torch.tensor([0.4, 0.05, 0.1, 0.4, 0.05], dtype=torch.float64)),
)

QUESTIONS = (
    Question(
        "ex-pe-threshold",
        "The least curvature $c$, a function of $\\lVert\\mu\\rVert$, $\\sigma$ and $\\delta$, for "
        "$\\lVert\\mu\\rVert > \\sigma$.",
        least_curvature,
        (
            Mistake(
                "The Hessian of $\\log p_X$ has the term $-I/\\sigma^2$ as well, and it helps.",
                lambda norm, sigma, delta: 1 - delta**2 * norm**2 / sigma**4,
            ),
            Mistake(
                "The sign of the term of each single bump is wrong: one bump alone makes the objective more convex.",
                lambda norm, sigma, delta: 1 - delta**2 / sigma**2 - delta**2 * norm**2 / sigma**4,
            ),
            Mistake(
                "The prior enters the objective with $\\delta^2$, not with $\\delta$.",
                lambda norm, sigma, delta: 1 + delta / sigma**2 - delta * norm**2 / sigma**4,
            ),
        ),
        part="a",
        takes="norm, sigma, delta",
        inputs=((0.94, 0.59, 0.45), (1.5, 0.7, 0.3)),
    ),
    Question(
        "ex-pe-threshold",
        "The noise level at which $c = 0$, a function of $\\lVert\\mu\\rVert > \\sigma$ and $\\sigma$.",
        threshold,
        (
            Mistake("This is its square.", lambda norm, sigma: threshold(norm, sigma) ** 2),
            Mistake(
                "The Hessian of $\\log p_X$ has the term $-I/\\sigma^2$ as well, and it helps.",
                lambda norm, sigma: sigma**2 / norm,
            ),
            Mistake(
                "A power of $\\sigma$ is lost: $\\delta$ must have the unit of a length.",
                lambda norm, sigma: sigma / sqrt(norm**2 - sigma**2),
            ),
        ),
        part="b",
        takes="norm, sigma",
        inputs=((0.94, 0.59), (1.5, 0.7)),
    ),
    Question(
        "ex-pe-plateau",
        "The MAP estimate as a function of $z \\ne 0$.",
        plateau,
        (
            Mistake(
                "You forgot the plateau: $J_0$ depends on $\\lvert x\\rvert - 1$.",
                lambda z: math.copysign(sqrt(abs(z) / 3), z),
            ),
            Mistake("The derivative of a cube has a factor three.", lambda z: math.copysign(1 + sqrt(abs(z)), z)),
            Mistake(
                "For $z < 0$ take the mirror image: the estimate has the sign of $z$.", lambda z: 1 + sqrt(abs(z) / 3)
            ),
        ),
        part="b",
        takes="z",
        inputs=((0.4,), (1.7,), (-0.9,)),
    ),
    Question(
        "ex-pe-plateau",
        "What the supremum of the distance of a continuous map from the MAP estimator is at least, a number.",
        half_plateau,
        (
            Mistake("A continuous map may go through the middle: only half of the leap is left.", lambda: 2.0),
            Mistake(
                "The estimator leaps from one end of the plateau to the other. No continuous map can.", lambda: 0.0
            ),
        ),
        part="c",
        rtol=1e-2,
    ),
    Question(
        "ex-pe-losses",
        "A function of points (in increasing order) and their probabilities: the one of the points that is best for "
        "the mean absolute error.",
        least_absolute,
        (
            Mistake("This is the mean, which is best for the squared error.", lambda points, weights: points @ weights),
            Mistake("This is the most probable point, which is MAP.", lambda points, weights: points[weights.argmax()]),
            Mistake(
                "This is the middle one of the points; their probabilities must come in.",
                lambda points, weights: points[2],
            ),
        ),
        takes="points, weights",
        inputs=(*LAWS, (GRID, torch.tensor([0.02, 0.03, 0.05, 0.45, 0.45], dtype=torch.float64))),
    ),
    Question(
        "ex-pe-ellipse",
        "The posterior covariance, a $2 \\times 2$ matrix, a function of the posterior mean (a function of `z`), of "
        "a datum `z` of shape (2,), and of $\\delta$.",
        covariance,
        (
            Mistake(
                "The derivative of the posterior mean is multiplied by $\\delta^2$, not by $\\delta$.",
                lambda mean, z, delta: covariance(mean, z, delta) / delta,
            ),
            Mistake(
                "This is the derivative of the posterior mean; the covariance has a factor in front of it.",
                lambda mean, z, delta: covariance(mean, z, delta) / delta**2,
            ),
            Mistake(
                "Your difference quotient is too large by two: a central difference divides by $2h$.",
                lambda mean, z, delta: 2 * covariance(mean, z, delta),
            ),
        ),
        takes="posterior_mean, z, delta",
        inputs=(
            black_box([[1.0, 0.0], [0.0, 0.5]], 0.45, [0.3, -0.1]),
            black_box([[1.0, 0.4], [0.2, 0.5]], 0.7, [-0.2, 0.5]),
        ),
    ),
    Question(
        "ex-pe-maxwell",
        "A function of a grid `x` and of the values `J` of $J_0$ on it: the slope of the longest segment of the "
        "lower convex hull.",
        longest_edge,
        (
            Mistake(
                "This is the difference of the heights; divide it by the length of the segment.",
                lambda x, J: longest_edge(x, J) * longest_length(x, J),
            ),
            Mistake("The sign is wrong: the line through both points has the slope $z$.", times(-1, longest_edge)),
            Mistake(
                "This is the steepest edge of the hull. Look for the longest.",
                lambda x, J: (J[1] - J[0]) / (x[1] - x[0]),
            ),
        ),
        takes="x, J",
        inputs=(well(0.0, 0.7), well(0.3, 0.4), well(-0.1, 0.8)),
        rtol=2e-2,
    ),
    Question(
        "ex-pe-fourth",
        "The leading term of $x_{\\mathrm{PM}} - x_{\\mathrm{MAP}}$ on the line with $A = 1$, for the prior with "
        "bumps of the standard deviation 0.6 at $\\pm 0.9$, equal weights: a function of $z$ and $\\delta$.",
        leading,
        (
            Mistake("The factor one half is lost.", times(2, leading)),
            Mistake("This is mode less mean: the sign is wrong.", times(-1, leading)),
            Mistake(
                "Second order is the same for both. The difference begins in fourth.", lambda z, d: leading(z, d) / d**2
            ),
        ),
        takes="z, delta",
        inputs=((0.2, 0.3), (0.7, 0.5), (-1.1, 0.4)),
    ),
    Question(
        "ex-pe-agree",
        "For $g(x) = \\cos 2x$: what $\\varepsilon$ is multiplied by in $\\Lambda - J_0^*$ (up to a constant), as a "
        "function of $\\kappa$, $\\delta^2$ and $m = z/\\kappa$.",
        first_order,
        (
            Mistake("The sign: $J_0$ enters both $\\Lambda$ and $J_0^*$ with a minus.", times(-1, first_order)),
            Mistake(
                "The posterior has the variance $\\delta^2/\\kappa$, not that of the noise.",
                lambda kappa, delta2, m: averaged_gap(float(m), float(delta2)),
            ),
            Mistake(
                "You average only. The value at the mode is to be subtracted.",
                lambda kappa, delta2, m: np.cos(2 * float(m)) - first_order(kappa, delta2, m),
            ),
        ),
        part="b",
        takes="kappa, delta2, m",
        inputs=((1.64, 0.64, 0.3), (1.2, 0.3, -0.8)),
    ),
)
