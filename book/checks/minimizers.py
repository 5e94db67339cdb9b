"""Minimizers of the loss with the log-determinant, on a grid of the line and for Gaussians."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from scipy.linalg import solveh_banded
from torch import Tensor

import invlib
from invlib import GaussianMixture, LinearProblem, testproblems

Numbers = dict[str, float]
"""What a page quotes, by name."""

PRIOR = GaussianMixture([0.35, 0.65], [[-1.0], [0.9]], [[[0.5**2]], [[0.6**2]]])
"""The prior of the puzzle, on the line."""

DELTA = 0.3
"""The noise of the puzzle."""

BUMPS = GaussianMixture([0.5, 0.5], [[0.89**0.5], [-(0.89**0.5)]], 2 * [[[0.59**2]]])
"""The prior `two_bumps`, along the line through its bumps."""

WINDOW = 2.5
"""Errors on the line are means over the x with |x| < WINDOW, which hold most of the mass."""


class LineDensity(Protocol):
    """A density on the line: all that a minimizer on a grid needs of a prior."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the logarithm of the density at points (N, 1), (N,)."""


@dataclass(frozen=True)
class Line:
    """A minimizer on a grid of the line.

    Attributes:
        x: the grid, (N,).
        points: the clean data h x, (N,).
        f: the minimizer at x, (N,).
        mass: probabilities of the points, (N,).
        between: probabilities of the intervals between them, (N - 1,).
        tau: the squared strength.
    """

    x: Tensor
    points: Tensor
    f: Tensor
    mass: Tensor
    between: Tensor
    tau: float

    @property
    def middle(self) -> Tensor:
        """The middle of f_i and f_{i+1}, (N - 1,)."""
        return 0.5 * (self.f[1:] + self.f[:-1])

    @property
    def log_q(self) -> Tensor:
        """The logarithm of the output density there: probability over length, (N - 1,)."""
        return (self.between / self.f.diff()).log()

    @property
    def score(self) -> Tensor:
        """The difference quotients of `log_q` at f_1, ..., f_{N-2}."""
        return self.log_q.diff() / self.middle.diff()

    @property
    def value(self) -> float:
        """The minimal loss, without the constant of the noise."""
        fit = 0.5 * self.mass @ (self.f - self.points).square()
        return float(fit - self.tau * self.between @ (self.f.diff() / self.x.diff()).log())

    def loss(self, value: Tensor, slope: Tensor) -> float:
        """Return the loss of another map with the given values and slopes at x, without the constant of the noise."""
        fit = 0.5 * (value - self.points).square()
        return float(self.mass @ (fit - self.tau * slope.abs().log()))

    def rms(self, values: Tensor) -> float:
        """Return the root mean square of values (N,) over the x in the window."""
        inner = self.x.abs() < WINDOW
        mass = self.mass[inner]
        return float((mass @ values[inner].square() / mass.sum()).sqrt())

    def inverse(self, z: Tensor) -> Tensor:
        """Return the inverse of the minimizer at z, by linear interpolation."""
        return torch.from_numpy(np.interp(z.numpy(), self.f.numpy(), self.x.numpy()))


def jko_step(points: Tensor, mass: Tensor, between: Tensor, tau: float, iterations: int = 80) -> Tensor:
    """Minimize sum m_i (f_i - y_i)^2 / 2 - tau sum m_{i+1/2} log((f_{i+1} - f_i) / (y_{i+1} - y_i)), (N,).

    A strictly convex problem over the increasing sequences f. The Hessian has three diagonals, so a step of Newton's
    method costs one elimination; damping keeps f increasing and the value falling.

    Raises:
        RuntimeError: if Newton's method did not converge.
    """

    def value(f: Tensor) -> float:
        gaps = f.diff() / points.diff()
        if not bool((gaps > 0).all()):
            return math.inf
        return float(0.5 * mass @ (f - points).square() - tau * between @ gaps.log())

    f = points.clone()
    for _ in range(iterations):
        force = tau * between / f.diff()
        stiffness = force / f.diff()
        slope = mass * (f - points)
        slope[:-1] += force
        slope[1:] -= force
        diagonals = torch.zeros(2, len(f), dtype=torch.float64)
        diagonals[1] = mass
        diagonals[1, :-1] += stiffness
        diagonals[1, 1:] += stiffness
        diagonals[0, 1:] = -stiffness
        step = torch.from_numpy(solveh_banded(diagonals.numpy(), -slope.numpy()))
        now, fall, length = value(f), float(slope @ step), 1.0
        slack = 1e-13 * (1 + abs(now))  # rounding of the value
        while length > 1e-8 and not value(f + length * step) <= now + 0.25 * length * fall + slack:
            length *= 0.5
        f = f + length * step
        if step.abs().max() < 1e-11:
            return f
    raise RuntimeError("Newton's method did not converge")


def grid_of(prior: LineDensity, half_width: float, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the points of a grid of the line, their probabilities, and those of the intervals between them."""
    x = torch.linspace(-half_width, half_width, count, dtype=torch.float64)
    step = float(x[1] - x[0])
    mass = prior.log_prob(x[:, None]).exp() * step
    return x, mass, prior.log_prob((x[1:] - 0.5 * step)[:, None]).exp() * step


def minimizer_on_line(prior: LineDensity, h: float, tau: float, half_width: float = 6.0, count: int = 6001) -> Line:
    """Return the minimizer for z = hx + noise on a grid of the given half width and number of points."""
    x, mass, between = grid_of(prior, half_width, count)
    return Line(x, h * x, jko_step(h * x, mass, between, tau), mass, between, tau)


def posterior_mean_on_line(prior: GaussianMixture, h: float, delta: float, z: Tensor) -> Tensor:
    """Return the posterior mean for A = h^{1/2} at data z, (N,)."""
    mean: Tensor = invlib.posterior_mean(LinearProblem([[math.sqrt(h)]], delta), prior, z[:, None])
    return mean[:, 0]


def observed_orders(errors: Sequence[float]) -> list[float]:
    """Return the observed orders of errors at step sizes that are halved again and again."""
    return [math.log2(a / b) for a, b in pairwise(errors)]


def random_spd(n: int, generator: torch.Generator, least: float = 0.2) -> Tensor:
    """Return a random symmetric matrix with eigenvalues of at least `least`."""
    factor = torch.randn(n, n, dtype=torch.float64, generator=generator)
    return factor @ factor.mT / n + least * torch.eye(n, dtype=torch.float64)


def square_root(matrix: Tensor) -> Tensor:
    """Return the symmetric root of a symmetric positive definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.sqrt()) @ vectors.mT
    return root


def matrix_loss(matrix: Tensor, h: Tensor, covariance: Tensor, tau: float, weight: Tensor | None = None) -> Tensor:
    """Return the loss of x -> matrix x for x ~ N(0, covariance), without the constant of the noise."""
    gap = matrix - h
    weighted = gap if weight is None else weight @ gap
    loss: Tensor = 0.5 * (weighted @ covariance @ gap.mT).trace() - tau * torch.linalg.slogdet(matrix).logabsdet
    return loss


def gaussian_minimizer(h: Tensor, covariance: Tensor, tau: float) -> Tensor:
    """Return SH with S = (I + (I + 4 tau K^{-1})^{1/2}) / 2 and K = H covariance H, (n, n)."""
    identity = torch.eye(len(h), dtype=torch.float64)
    root = square_root(identity + 4 * tau * torch.linalg.inv(h @ covariance @ h))
    return 0.5 * (identity + root) @ h


def square_grid(centre: Tensor, half_width: float, count: int) -> tuple[Tensor, float]:
    """Return the points (count^2, 2) of a square and the area of a cell."""
    axis = torch.linspace(-half_width, half_width, count, dtype=torch.float64)
    return centre + torch.cartesian_prod(axis, axis), float(axis[1] - axis[0]) ** 2


OTHER_PRIORS = (
    BUMPS,
    GaussianMixture([0.8, 0.2], [[-0.6], [1.5]], [[[0.6**2]], [[0.5**2]]]),
    GaussianMixture([0.5, 0.3, 0.2], [[-1.2], [0.2], [1.6]], [[[0.45**2]], [[0.5**2]], [[0.6**2]]]),
)
"""Other geometries on the line: equal bumps, unequal weights farther apart, three bumps."""

WIDE = testproblems.two_bumps(std=0.7)
"""The prior of the half step in the plane."""


def squeezed(delta: float, angle: float = 70.0) -> LinearProblem:
    """Return an operator with the singular values 1 and .75, turned against the axis of the bumps."""
    return testproblems.epsilon_problem(0.75, delta, angle=angle)
