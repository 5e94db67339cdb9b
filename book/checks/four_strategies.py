"""Checks of the chapter on the four strategies, and the exact maps that its networks are compared with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.linalg import solve_banded
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor

import invlib
from checks.minimizers import grid_of, minimizer_on_line
from checks.tools import bumps, rms, seeded
from invlib import GaussianMixture, IResNet, LinearProblem
from invlib.log_det_minimizer import LogDetMinimizer

Numbers = dict[str, float]
"""What a page quotes, by name."""

Law = tuple[np.ndarray, np.ndarray]
"""Nodes and weights of a probability law on the line."""

TARGETS = {"approximation": "naive", "reconstruction": "mean", "log_det": "least", "divergence": "map"}
"""The exact map that each strategy aims at, as `Geometry.maps` names it."""


# The four filters


def filters(h: float, s: float, delta: float, strength: float) -> Numbers:
    """Return the slopes of the proposition on the four filters."""
    return {
        "approximation": h,
        "reconstruction": h + delta**2 / s**2,
        "log_det": 0.5 * (h + math.sqrt(h**2 + 4 * strength**2 / s**2)),
        "divergence": h + strength**2 / s**2,
    }


def law(name: str) -> Law:
    """Return 20 nodes and weights of a Gaussian, uniform or skewed law with mean zero and variance one."""
    nodes, weights = {
        "gaussian": np.polynomial.hermite_e.hermegauss,
        "uniform": np.polynomial.legendre.leggauss,
        "skewed": np.polynomial.laguerre.laggauss,
    }[name](20)
    scale, shift = {"gaussian": (1.0, 0.0), "uniform": (math.sqrt(3), 0.0), "skewed": (1.0, 1.0)}[name]
    return scale * (nodes - shift), weights / weights.sum()


def scalar_losses(
    h: float,
    s: float,
    delta: float,
    strength: float,
    correlation: float = 0.0,
    laws: tuple[str, str] = ("gaussian", "gaussian"),
) -> dict[str, Callable[[float], float]]:
    """Return the four losses of the slope a, as they are written: by quadrature over x and over the noise."""
    (nodes_x, weights_x), (nodes_noise, weights_noise) = law(laws[0]), law(laws[1])
    first, second = np.meshgrid(nodes_x, nodes_noise, indexing="ij")
    joint = np.outer(weights_x, weights_noise)
    x = s * first
    eta = delta * (correlation * first + math.sqrt(1 - correlation**2) * second)
    z = h * x + math.sqrt(h) * eta

    def forward(a: float) -> float:
        return 0.5 * float((joint * (a * x - z) ** 2).sum())

    return {
        "approximation": forward,
        "reconstruction": lambda a: 0.5 * float((joint * (z / a - x) ** 2).sum()),
        "log_det": lambda a: forward(a) - strength**2 * math.log(a),
        "divergence": lambda a: forward(a) - strength**2 * a,
    }


def largest_gap(correlation: float, instances: int = 10) -> float:
    """Return the largest relative distance of formula and numerical minimizer over random instances."""
    random, gaps = np.random.default_rng(0), []
    for laws in (("gaussian", "gaussian"), ("uniform", "skewed")):
        for h, s, delta, strength in random.uniform(0.3, 1.5, size=(instances // 2, 4)).tolist():
            expected = filters(h, s, delta, strength)
            for name, loss in scalar_losses(h, s, delta, strength, correlation, laws).items():
                found = minimize_scalar(loss, bounds=(1e-3, 60.0), method="bounded", options={"xatol": 1e-10}).x
                gaps.append(abs(found - expected[name]) / expected[name])
    return float(max(gaps))


def check_four_filter() -> Numbers:
    """Compare the formulas with a search for the minimum of the losses, taken literally.

    The search sees values only, no moments and no derivatives; half of the laws are not Gaussian. A minimum is flat, so
    its place is known to the square root of the rounding error only.
    """
    gap = largest_gap(correlation=0.0)
    assert gap < 1e-6
    return {"gap": gap, "instances": 10}


def control_four_filter() -> Numbers:
    """Break the independence of x and the noise: a correlation of 0.3."""
    correlation = 0.3
    gap = largest_gap(correlation)
    assert gap > 1e-2
    return {"correlation": correlation, "broken": 100 * gap}


# The losses, by other means than the library's


def inverse_by_newton(net: IResNet, z: Tensor, start: Tensor) -> Tensor:
    """Return the inverse at z, (B, n), by a simplified Newton iteration with automatic derivatives at `start`."""
    jacobian, x = torch.func.vmap(torch.func.jacrev(net))(start), start
    for _ in range(200):
        x = x - torch.linalg.solve(jacobian, (net(x) - z).unsqueeze(-1)).squeeze(-1)
    assert (net(x) - z).abs().max() < 1e-12
    return x


# Geometries and their exact maps


class Separable:
    """The minimizer of the log-determinant's loss for A = Id and two round bumps at +-m, as a product of two maps.

    Along the line through the bumps it is the minimizer on the line, computed on a grid; across, a multiplication.

    Args:
        prior: two round bumps.
        delta: the strength.
    """

    def __init__(self, prior: GaussianMixture, delta: float) -> None:
        mean, std = prior.means[0], float(prior.covariances[0, 0, 0].sqrt())
        reach = float(mean.norm())
        along = mean / reach
        self.axes = torch.stack([along, torch.stack([-along[1], along[0]])])
        line = GaussianMixture(prior.weights, [[reach], [-reach]], 2 * [[[std**2]]])
        self.line = minimizer_on_line(line, 1.0, delta**2)
        self.slope = filters(1.0, std, delta, delta)["log_det"]

    def inverse(self, z: Tensor) -> Tensor:
        """Return the inverse at z, (..., 2)."""
        along, across = (z @ self.axes.mT).unbind(-1)
        x: Tensor = torch.stack([self.line.inverse(along), across / self.slope], -1) @ self.axes
        return x


@dataclass(frozen=True)
class Geometry:
    """A prior with two round bumps and a problem in the plane.

    Attributes:
        prior: the distribution of x.
        problem: the problem; its noise level is the strength of the terms.
    """

    prior: GaussianMixture
    problem: LinearProblem

    @cached_property
    def least(self) -> Separable | LogDetMinimizer:
        """The minimizer of the log-determinant's loss."""
        if torch.equal(self.problem.operator, torch.eye(2, dtype=torch.float64)):
            return Separable(self.prior, self.problem.noise_std)
        return LogDetMinimizer(self.problem, self.prior)

    def curvature(self) -> float:
        """Return the least c of Corollary 1 over a lattice; it is taken where both bumps are equally likely."""
        axis = torch.linspace(-2.5, 2.5, 201, dtype=torch.float64)
        return float(invlib.map_curvature(self.problem, self.prior, torch.cartesian_prod(axis, axis)).min())

    def data(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return pairs of the unknown and its data, (count, 2) each."""
        truth = self.prior.sample(count, generator=generator)
        return truth, self.problem.normal_data(self.problem.measure(truth, generator=generator))

    def maps(self, z: Tensor) -> dict[str, Tensor]:
        """Return the reconstructions of z, (B, 2), by all exact maps: naive, Wiener, and those of the losses."""
        h, noise2 = self.problem.normal_operator, self.problem.noise_std**2
        precision = torch.linalg.inv(self.prior.covariance)
        naive: Tensor = torch.linalg.solve(h, z.mT).mT
        shifted = z + noise2 * precision @ self.prior.mean
        wiener = torch.linalg.solve(h + noise2 * precision, shifted.mT).mT
        least = self.least.inverse(z) if isinstance(self.least, Separable) else self.least.inverse(z, guess=naive)
        return {
            "naive": naive,
            "wiener": wiener,
            "least": least,
            "map": invlib.map_estimate(self.problem, self.prior, z),
            "mean": invlib.posterior_mean(self.problem, self.prior, z),
        }

    def smoothed(self, z: Tensor) -> Tensor:
        """Return the posterior mean at z for the prior that the noise has blurred once, for A = Id."""
        noise2 = self.problem.noise_std**2
        blur = noise2 * torch.eye(2, dtype=torch.float64)
        blurred = GaussianMixture(self.prior.weights, self.prior.means, self.prior.covariances + blur)
        return invlib.posterior_mean(self.problem, blurred, z)


# Between the divergence and the log-determinant


def slope_with_terms(strength: float, terms: int) -> float:
    """Return the slope for h = s = 1 if the logarithm is replaced by the first terms of its series."""
    equation = lambda a: a - 1 - strength**2 * (1 - (1 - a) ** terms) / a  # noqa: E731
    return float(brentq(equation, 1.0, 2.0, xtol=1e-15))


def map_with_terms(prior: GaussianMixture, tau: float, terms: int) -> tuple[Tensor, Tensor]:
    """Return a grid of the line and the critical increasing function there, for the first terms of the logarithm.

    Newton's method from f(x) = x; its matrix has three diagonals.

    Raises:
        RuntimeError: if it did not converge, or the function is not increasing.
    """
    x, mass, between = grid_of(prior, 4.0, 1601)
    step, f = float(x[1] - x[0]), x.clone()
    for _ in range(40):
        b = 1 - f.diff() / step
        first = sum(b**k for k in range(terms))
        second = -sum((k * b ** (k - 1) for k in range(1, terms)), torch.zeros_like(b))
        force, stiffness = tau * between * first / step, -tau * between * second / step**2
        gradient = mass * (f - x)
        gradient[:-1] += force
        gradient[1:] -= force
        diagonals = torch.zeros(3, len(x), dtype=torch.float64)
        diagonals[1] = mass
        diagonals[1, :-1] += stiffness
        diagonals[1, 1:] += stiffness
        diagonals[0, 1:], diagonals[2, :-1] = -stiffness, -stiffness
        move = torch.from_numpy(solve_banded((1, 1), diagonals.numpy(), -gradient.numpy()))
        f = f + move
        if move.abs().max() < 1e-10:
            break
    else:
        raise RuntimeError("Newton's method did not converge")
    if not bool((f.diff() > 0).all()):
        raise RuntimeError("the critical function is not increasing")
    return x, f


def distances_to_mean(prior: GaussianMixture, delta: float, numbers_of_terms: tuple[int, ...]) -> list[float]:
    """Return RMS distances of the inverses to the posterior mean over the data on the line; all terms come last."""
    problem, z = LinearProblem([[1.0]], delta), torch.linspace(-3, 3, 601, dtype=torch.float64)
    weight = torch.softmax(invlib.data_distribution(problem, prior).log_prob(z[:, None]), dim=0)
    mean = invlib.posterior_mean(problem, prior, z[:, None])[:, 0]
    inverses = []
    for terms in numbers_of_terms:
        x, f = map_with_terms(prior, delta**2, terms)
        inverses.append(torch.from_numpy(np.interp(z.numpy(), f.numpy(), x.numpy())))
    inverses.append(minimizer_on_line(prior, 1.0, delta**2).inverse(z))
    return [float((weight @ (found - mean).square()).sqrt()) for found in inverses]


def two_minimizers() -> float:
    """Return the RMS distance of two computations of one minimizer: a product of two maps, and a search in the plane.

    The second minimizes over gradients of convex functions, and knows nothing of the two coordinates.
    """
    case = Geometry(bumps(), LinearProblem(torch.eye(2), 0.45))
    _, z = case.data(2000, seeded(6))
    product = Separable(case.prior, case.problem.noise_std)
    gap = float(rms(product.inverse(z) - LogDetMinimizer(case.problem, case.prior).inverse(z, guess=z)))
    assert gap < 1e-3
    return gap
