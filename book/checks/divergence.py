"""Checks of the chapter on the divergence, one function a statement, each with its control, and its machinery."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy import optimize, signal
from torch import Tensor

import invlib
from checks.tools import column, isotonic, quadrature, random_prior, random_problem, rms, seeded, steep_network
from invlib import GaussianMixture, IResNet, LinearProblem, testproblems
from invlib.activations import smooth_abs

Map = Callable[[Tensor], Tensor]
"""A function of one point (n), in the form that `torch.func` differentiates."""

Numbers = dict[str, float]


# The map and the value of Theorem 2


def optimal_map(problem: LinearProblem, prior: GaussianMixture, strength: float, x: Tensor) -> Tensor:
    """Return phi*(x) = H x - strength^2 s(x), (..., n)."""
    return x @ problem.normal_operator - strength**2 * prior.score(x)


def optimal_value(problem: LinearProblem, strength: float, fisher: float) -> float:
    """Return L*, given the Fisher information E |s|^2."""
    trace = float(problem.normal_operator.trace())
    return 0.5 * problem.noise_std**2 * trace - strength**2 * trace - 0.5 * strength**4 * fisher


def mean_square(difference: Tensor, w: Tensor) -> Tensor:
    """Return E |difference|^2, (...), for values (..., P, n) at points of weights (P,)."""
    return difference.square().sum(-1) @ w


def random_map(dim: int, generator: torch.Generator) -> Map:
    """Return a smooth map of one point, B x + C sin(W x + b), in general not invertible."""
    linear, mixed, inner = torch.randn(3, dim, dim, dtype=torch.float64, generator=generator)
    shift = torch.randn(dim, dtype=torch.float64, generator=generator)
    return lambda x: linear @ x + mixed @ torch.sin(inner @ x + shift)


def value_and_divergence(phi: Map, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return phi and div phi at points (P, n), by automatic differentiation."""
    jacobian = torch.vmap(torch.func.jacrev(phi))(x)
    return torch.vmap(phi)(x), jacobian.diagonal(dim1=-2, dim2=-1).sum(-1)


# Integration by parts


def check_dv_parts() -> Numbers:
    """Compare E div v, by automatic differentiation of v, with -E <v, s>, from the exact score.

    The maps are random and not invertible. Two densities have heavy tails; for the second, that of Cauchy, E |v| is
    infinite and only E |v| / (1 + |x|) finite. Sums of up to 6e4 terms of size one; the trapezoidal rule is exact to
    rounding for mixtures. With x = sinh t the integrands decay like exp(-|t|): beyond |t| = 40 nothing is left.
    """
    generator, gaps = seeded(1), []
    for dim in (1, 2, 1, 2, 2):
        prior = random_prior(dim, generator, components=3)
        x, w = quadrature(prior, 12.0, 0.1)
        value, divergence = value_and_divergence(random_map(dim, generator), x)
        gaps.append(abs(float(w @ divergence) + float(w @ (value * prior.score(x)).sum(-1))))

    t = torch.linspace(-40, 40, 16_001, dtype=torch.float64)
    x, stretch = torch.sinh(t), torch.cosh(t) * (t[1] - t[0])
    for power, constant in ((3, 8 / 3), (1, 1.0)):
        w = constant / math.pi * (1 + x**2) ** -power * stretch
        assert abs(float(w.sum()) - 1) < 1e-12
        score, bend = -2 * power * x / (1 + x**2), torch.exp(-((x - 1) ** 2))
        gaps.append(abs(float(w @ (1 - 2 * (x - 1) * bend)) + float(w @ ((x + bend) * score))))
    assert max(gaps) < 1e-10
    return {"gap": max(gaps)}


def sides_with_edges(log_density: Map, v: Map, edge: float, count: int = 200_000) -> tuple[float, float, float]:
    """Return E v', -E v s and the boundary term for a density on the line that is cut off at +-edge."""
    ends = torch.linspace(-edge, edge, count + 1, dtype=torch.float64)
    x = 0.5 * (ends[1:] + ends[:-1])  # midpoints: inside of the edges
    w = log_density(x).exp()
    outer = v(ends[[0, -1]]) * log_density(ends[[0, -1]]).exp()
    boundary = float((outer[1] - outer[0]) / (w.sum() * (ends[1] - ends[0])))
    w = w / w.sum()
    slope, score = (torch.vmap(torch.func.grad(f))(x) for f in (v, log_density))
    return float(w @ slope), -float(w @ (v(x) * score)), boundary


def bell(x: Tensor) -> Tensor:
    """Return the logarithm of a Gaussian with the variance of the uniform law on [-1, 1], without its constant."""
    return -1.5 * x**2


def waves(x: Tensor) -> Tensor:
    """Return x + sin 2x."""
    return x + torch.sin(2 * x)


def log_channel(x: Tensor) -> Tensor:
    """Return the log-density at (2) of a channel: x_1 logistic, and x_2 given x_1 is N(0, exp(-2 x_1))."""
    logistic = -x[0] - 2 * torch.nn.functional.softplus(-x[0])
    scaled = x[1] * torch.exp(x[0])  # standard normal
    return logistic + x[0] - 0.5 * scaled**2 - 0.5 * math.log(2 * math.pi)


def channel_averages(power: float, end: float) -> tuple[float, float, float]:
    """Return E div v, -E <v, s> and E |v| / (1 + |x|) over |x_1| < end, for v = exp(power x_1) (1, -x_2)."""

    def v(x: Tensor) -> Tensor:
        return torch.exp(power * x[0]) * torch.stack([torch.ones_like(x[0]), -x[1]])

    first = torch.linspace(-end, end, round(10 * end) + 1, dtype=torch.float64)
    scaled = torch.linspace(-9, 9, 37, dtype=torch.float64)
    x = torch.cartesian_prod(first, scaled)
    std = torch.exp(-x[:, 0])
    x[:, 1] *= std
    w = torch.vmap(log_channel)(x).exp() * std * (first[1] - first[0]) * (scaled[1] - scaled[0])
    value, divergence = value_and_divergence(v, x)
    score = torch.vmap(torch.func.grad(log_channel))(x)
    moment = value.norm(dim=-1) / (1 + x.norm(dim=-1))
    return float(w @ divergence), -float(w @ (value * score).sum(-1)), float(w @ moment)


def control_dv_parts() -> Numbers:
    """Break two assumptions of the lemma: the density has edges; the moment of v / (1 + |x|) is infinite.

    The gap that the edges make is the boundary term (midpoint rule: 1e-7), and it closes where they are moved to six
    standard deviations and more. In the channel the sides are 0 and -1 for exp(x_1), which escapes; for exp(x_1 / 2),
    whose moment is finite, they agree: both are -pi / 4.
    """
    for log_density, v in ((lambda x: 0 * x, lambda x: 1 * x), (bell, waves)):
        left, right, boundary = sides_with_edges(log_density, v, 1.0)
        edge_gap = left - right
        assert edge_gap > 0.2
        assert abs(edge_gap - boundary) < 1e-7
    far = 6.0
    left, right, _ = sides_with_edges(bell, waves, far)
    assert left > 0.2
    assert abs(left - right) < 1e-10

    left, right, tame = channel_averages(0.5, 60.0)
    assert max(abs(left + math.pi / 4), abs(right + math.pi / 4)) < 1e-11
    assert abs(tame - channel_averages(0.5, 40.0)[2]) < 1e-8
    left, right, moment = channel_averages(1.0, 60.0)
    assert abs(left) < 1e-11
    assert abs(right + 1) < 1e-11
    growth = moment - channel_averages(1.0, 40.0)[2]  # like the logarithm of the end
    assert abs(growth - math.log(61 / 41)) < 1e-3
    return {"edge_gap": edge_gap, "far": far, "left": left, "right": right}


# Theorem 2


def literal_loss(
    value: Tensor,
    divergence: Tensor,
    problem: LinearProblem,
    strength: float,
    x: Tensor,
    w: Tensor,
    *,
    lean: float = 0.0,
    bias: float = 0.0,
) -> float:
    """Return the loss as it is written: an average over x and over the noise, of which each entry is +-delta.

    Args:
        value: phi(x), (P, n).
        divergence: (P,).
        problem: the problem.
        strength: of the term.
        x: points, (P, n).
        w: their weights, (P,).
        lean: how much more likely a positive entry is where x_1 is large: the noise depends on x.
        bias: the mean of each entry of the noise, in units of delta.
    """
    m = len(problem.operator)
    signs = torch.cartesian_prod(*m * [torch.tensor([-1.0, 1.0], dtype=torch.float64)]).reshape(-1, m)
    misfit = 0.0
    for sign in signs:
        z = problem.normal_data(problem.forward(x) + problem.noise_std * (sign + bias))
        chance = (0.5 * (1 + lean * torch.tanh(x[:, :1]) * sign)).prod(-1)
        misfit += 0.5 * float(mean_square(value - z, w * chance))
    return misfit - strength**2 * float(w @ divergence)


@dataclass(frozen=True)
class Instance:
    """A random problem and a random map that is not invertible, with averages over the prior by quadrature."""

    problem: LinearProblem
    prior: GaussianMixture
    strength: float
    phi: Map
    x: Tensor
    w: Tensor

    def loss(self, *, lean: float = 0.0, bias: float = 0.0) -> float:
        """Return the loss, literally; `lean` and `bias` as for `literal_loss`."""
        value, divergence = value_and_divergence(self.phi, self.x)
        return literal_loss(value, divergence, self.problem, self.strength, self.x, self.w, lean=lean, bias=bias)

    def star(self) -> Tensor:
        """Return phi*(x)."""
        return optimal_map(self.problem, self.prior, self.strength, self.x)

    def lowest(self) -> float:
        """Return L*."""
        return optimal_value(self.problem, self.strength, float(mean_square(self.prior.score(self.x), self.w)))

    def distance(self) -> float:
        """Return half the mean square distance of phi and phi*."""
        return 0.5 * float(mean_square(torch.vmap(self.phi)(self.x) - self.star(), self.w))


def instances(seed: int) -> list[Instance]:
    """Return five instances with m > n, m = n and m < n, and a strength that is not the noise level."""
    generator, found = seeded(seed), []
    for m, dim in [(1, 1), (3, 1), (2, 2), (4, 2), (1, 2)]:
        prior = random_prior(dim, generator, components=3)
        operator = torch.randn(m, dim, dtype=torch.float64, generator=generator)
        phi = random_map(dim, generator)
        found.append(Instance(LinearProblem(operator, 0.6), prior, 0.8, phi, *quadrature(prior, 12.0, 0.1)))
    return found


def check_dv_divergence() -> Numbers:
    """Compare the loss, taken literally with automatic derivatives, with distance and lowest value from the score.

    Then the same at phi* itself, where the distance is zero and the divergence comes from the Hessian of log p.
    Averages of size 1 to 100 over up to 6e4 points: rounding stays below 1e-10.
    """
    gaps = []
    for each in instances(2):
        gaps.append(abs(each.loss() - each.distance() - each.lowest()))
        laplacian = each.prior.hessian(each.x).diagonal(dim1=-2, dim2=-1).sum(-1)
        divergence = each.problem.normal_operator.trace() - each.strength**2 * laplacian
        at_best = literal_loss(each.star(), divergence, each.problem, each.strength, each.x, each.w)
        gaps.append(abs(at_best - each.lowest()))
        assert at_best < each.loss()
    assert max(gaps) < 1e-9
    return {"gap": max(gaps)}


def gap_on_line(x: Tensor, w: Tensor, value: Tensor, slope: Tensor, score: Tensor, strength: float) -> float:
    """Return the two sides' difference for H = 1 on the line, without noise: loss less distance less L*."""
    loss = 0.5 * (value - x).square() - strength**2 * slope
    distance = 0.5 * (value - x + strength**2 * score).square()
    lowest = -(strength**2) - 0.5 * strength**4 * score.square()
    return float(w @ (loss - distance - lowest))


def control_dv_divergence() -> Numbers:
    """Break the assumptions of Theorem 2 one by one; then the identity fails, or there is no lowest loss.

    Noise with a mean. Noise that depends on x. A positive density with a jump at zero. A map with a jump. A density
    with an infinite Fisher information, where the losses of C^1 maps fall without end. (A density with edges and an
    escaping flow are the controls of the lemma.) Over random instances: the root mean square of the gap.
    """
    sides = [(each, each.distance() + each.lowest()) for each in instances(2)]
    biased = torch.tensor([each.loss(bias=0.5) - right for each, right in sides]).square().mean().sqrt()
    leaning = torch.tensor([each.loss(lean=0.5) - right for each, right in sides]).square().mean().sqrt()

    ends = torch.linspace(-10, 10, 200_001, dtype=torch.float64)
    x, strength = 0.5 * (ends[1:] + ends[:-1]), 0.8
    w = torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi) * (ends[1] - ends[0])
    value, slope = waves(x) + 1, 1 + 2 * torch.cos(2 * x)
    smooth = abs(gap_on_line(x, w, value, slope, -x, strength))
    assert smooth < 1e-10  # the control can fail
    halves = torch.where(x > 0, 0.6, 1.4) * w  # the score is still -x, where it exists
    jump = abs(gap_on_line(x, halves, value, slope, -x, strength))
    by_hand = strength**2 * 0.8 / math.sqrt(2 * math.pi)  # strength^2 times phi(0) - 0 times the jump of the density
    assert abs(jump - by_hand) < 1e-6
    torn = abs(gap_on_line(x, w, value + (x > 0), slope, -x, strength))
    assert abs(torn - strength**2 / math.sqrt(2 * math.pi)) < 1e-6

    falls = losses_without_floor()
    assert (falls.diff() < -0.02).all()
    gaps = {"biased": float(biased), "leaning": float(leaning), "jump": jump, "torn": torn}
    assert min(gaps.values()) > 1e-2
    return {**gaps, "first": float(falls[0]), "last": float(falls[-1])}


def losses_without_floor(strength: float = 0.8) -> Tensor:
    """Return the losses of x - strength^2 chi_R(x) s(x), R = 1 ... 5, for a density with infinite Fisher information.

    The density is proportional to exp(-x^2 / 2 - sin(w(x)) / 2) with w(x) = x exp(x^2 / 4): smooth, positive, with
    Gaussian tails. But its score oscillates so fast that the integral of s^2 p over [-R, R] grows without bound.
    """

    def log_density(x: Tensor) -> Tensor:
        return -0.5 * x**2 - 0.5 * torch.sin(x * torch.exp(0.25 * x**2))

    ends = torch.linspace(-8, 8, 3_200_001, dtype=torch.float64)
    x = 0.5 * (ends[1:] + ends[:-1])
    w = log_density(x).exp()
    w = w / w.sum()
    inside = x.abs() < 5.5
    x, w = x[inside], w[inside]
    frequency = (1 + 0.5 * x**2) * torch.exp(0.25 * x**2)
    phase = x * torch.exp(0.25 * x**2)
    score = -x - 0.5 * torch.cos(phase) * frequency
    change = (1.5 * x + 0.25 * x**3) * torch.exp(0.25 * x**2)  # of the frequency
    score_slope = -1 - 0.5 * (torch.cos(phase) * change - torch.sin(phase) * frequency**2)
    losses = []
    for radius in range(1, 6):
        t = ((x.abs() - radius) / 0.5).clamp(0, 1)  # a cut-off between the radius and one half more
        cut, cut_slope = 1 - t**2 * (3 - 2 * t), -6 * t * (1 - t) / 0.5 * x.sign()
        gain = cut * score_slope + cut_slope * score
        losses.append(float(w @ (0.5 * strength**4 * (cut * score) ** 2 + strength**4 * gain)))
    return torch.tensor(losses) - strength**2


# Corollary 1


def two_components(dim: int, spread: float, generator: torch.Generator) -> GaussianMixture:
    """Return two Gaussians with equal covariances; `spread` is the distance of their means in standard deviations."""
    factor = torch.randn(dim, dim, dtype=torch.float64, generator=generator)
    covariance = 0.3 * factor @ factor.mT / dim + 0.2 * torch.eye(dim, dtype=torch.float64)
    direction = torch.randn(dim, dtype=torch.float64, generator=generator)
    half = 0.5 * spread * torch.linalg.cholesky(covariance) @ (direction / direction.norm())
    return GaussianMixture([0.35, 0.65], torch.stack([half, -half]), torch.stack(2 * [covariance]))


def least_curvature(problem: LinearProblem, prior: GaussianMixture, strength: float) -> float:
    """Return a valid c for two components with the same covariance 1/P, the means d apart.

    The Hessian of log p is -P + r_1 r_2 (P d)(P d)*, and r_1 r_2 is at most 1/4. With equal weights this is the
    largest possible c: it is attained half-way between the means.
    """
    precision = torch.linalg.inv(prior.covariances[0])
    pull = precision @ (prior.means[0] - prior.means[1])
    hessian = -precision + 0.25 * torch.outer(pull, pull)
    return float(torch.linalg.eigvalsh(problem.normal_operator - strength**2 * hessian)[0])


def round_trip(
    problem: LinearProblem, prior: GaussianMixture, strength: float, nodes: Tensor, starts: Tensor
) -> Tensor:
    """Return |x - argmax_z p(. | z)| for z = phi*(x), (S,), where x is nodes[starts]; the maximum is over the nodes.

    Only values of the posterior density are compared: no gradient, no Newton's method.
    """
    z = optimal_map(problem, prior, strength, nodes[starts])
    misfit = 0.5 * problem.forward(nodes).square().sum(-1)
    height = prior.log_prob(nodes) - misfit / problem.noise_std**2  # of the posterior at z = 0
    best = torch.stack([(height + nodes @ each / problem.noise_std**2).argmax() for each in z])
    miss: Tensor = (nodes[best] - nodes[starts]).norm(dim=-1)
    return miss


def lattice(dim: int) -> Tensor:
    """Return the nodes of a lattice on the line or in the plane, (P, n)."""
    axis = torch.linspace(-5, 5, 4001 if dim == 1 else 301, dtype=torch.float64)
    return torch.cartesian_prod(*dim * [axis]).reshape(-1, dim)


def check_dv_map() -> Numbers:
    """Send a node x of a lattice to z = phi*(x), and find the largest posterior density for z over all nodes.

    By the corollary it is at x: exactly, since x is a node. One operator has a kernel, along which the prior is convex
    enough. The nodes that start are random. Also the Lipschitz constant 1/c of the inverse, for random pairs.
    """
    generator, trips, tightness = seeded(3), [], []
    for m, dim, spread in [(1, 1, 1.8), (3, 2, 1.8), (2, 2, 1.6), (1, 2, 1.5)]:
        prior = two_components(dim, spread, generator)
        problem = random_problem(m, dim, generator, noise_std=0.5)
        c = least_curvature(problem, prior, problem.noise_std)
        assert c > 0
        nodes = lattice(dim)
        inner = (nodes.abs() < 2.5).all(-1).nonzero()[:, 0]
        starts = inner[torch.randint(len(inner), (60,), generator=generator)]
        trips.append(round_trip(problem, prior, problem.noise_std, nodes, starts))
        x = nodes[starts]
        moved = optimal_map(problem, prior, problem.noise_std, x).diff(dim=0).norm(dim=-1)
        tightness.append((c * x.diff(dim=0).norm(dim=-1) / moved).max())
    assert torch.stack(trips).max() == 0
    assert torch.stack(tightness).max() <= 1 + 1e-10
    return {"count": float(torch.stack(trips).numel()), "tightest": float(torch.stack(tightness).max())}


def control_dv_map() -> Numbers:
    """Break the assumptions of the corollary: c < 0, a strength that is not the noise level, noise of another law.

    In the first case some x is the MAP estimate of no datum; we give how far the trip from it ends. In the second, the
    trip ends elsewhere. In the third, on the line with A = 1, the noise has the Laplace law, and the density of x given
    y = phi*(x) has its maximum elsewhere.
    """
    generator = seeded(3)
    nodes = lattice(1)
    starts = torch.arange(1200, 2800, 20)
    prior = two_components(1, 3.0, generator)
    loud = LinearProblem([[1.0]], 1.3)
    assert least_curvature(loud, prior, loud.noise_std) < 0
    folded = float(round_trip(loud, prior, loud.noise_std, nodes, starts).max())

    prior = two_components(1, 1.6, generator)
    problem = LinearProblem([[1.0]], 0.5)
    other = float(round_trip(problem, prior, 1.3 * problem.noise_std, nodes, starts).max())
    y = optimal_map(problem, prior, problem.noise_std, nodes[starts])
    height = prior.log_prob(nodes) - math.sqrt(2) * (y - nodes.mT).abs() / problem.noise_std
    laplace = float((nodes[height.argmax(-1)] - nodes[starts]).abs().max())
    assert min(folded, other, laplace) > 0.1
    return {"folded": folded, "other": other, "laplace": laplace}


def critical_noise(prior: GaussianMixture, epsilon: float, angle: float) -> float:
    """Return the noise level below which Corollary 1 applies to `epsilon_problem`, for two equal round bumps."""

    def curvature(noise: float) -> float:
        return least_curvature(testproblems.epsilon_problem(epsilon, noise, angle=angle), prior, noise)

    return float(optimize.brentq(curvature, 1e-3, 5.0)) if curvature(5.0) < 0 else math.inf


# The bound at every datum


def gradient_and_hessian(problem: LinearProblem, prior: GaussianMixture, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient and the Hessian of J_z at x, (..., n) and (..., n, n)."""
    gradient = optimal_map(problem, prior, problem.noise_std, x) - z
    return gradient, problem.normal_operator - problem.noise_std**2 * prior.hessian(x)


def newton_step(problem: LinearProblem, prior: GaussianMixture, x: Tensor, z: Tensor) -> Tensor:
    """Return the step of Newton's method for the gradient of J_z, (..., n)."""
    gradient, hessian = gradient_and_hessian(problem, prior, x, z)
    step: Tensor = torch.linalg.solve(hessian, gradient.unsqueeze(-1)).squeeze(-1)
    return -step


def check_dv_bound() -> Numbers:
    """Compare the error of a point with the length of the gradient of J_z over c, and over C from below.

    The MAP estimate is known: z = phi*(x_0), and `check_dv_map` shows by values of the density alone that it is x_0.
    The gradient is the automatic derivative of J_z = |Ax|^2 / 2 - <z, x> - delta^2 log p. Part 3: for a map that misses
    phi* by a ripple, its error over the prior against the excess of its literal loss.
    """
    generator, ratios, averages = seeded(4), [], []
    for m, dim, spread in [(1, 1, 1.8), (3, 2, 1.8), (2, 2, 1.6), (4, 3, 1.5)]:
        prior = two_components(dim, spread, generator)
        problem = random_problem(m, dim, generator, noise_std=0.5)
        c, noise2 = least_curvature(problem, prior, problem.noise_std), problem.noise_std**2
        precision = torch.linalg.inv(prior.covariances[0])
        largest = float(torch.linalg.eigvalsh(problem.normal_operator + noise2 * precision)[-1])
        truth = 2 * torch.randn(500, dim, dtype=torch.float64, generator=generator)
        x = truth + torch.randn(500, dim, dtype=torch.float64, generator=generator)
        z = optimal_map(problem, prior, problem.noise_std, truth)
        leaf = x.clone().requires_grad_()
        objective = 0.5 * problem.forward(leaf).square().sum() - (z * leaf).sum() - noise2 * prior.log_prob(leaf).sum()
        (gradient,) = torch.autograd.grad(objective, leaf)
        error, size = (x - truth).norm(dim=-1), gradient.norm(dim=-1)
        ratios.append(error * c / size)
        assert (error * largest >= size * (1 - 1e-10)).all()
        if dim < 3:
            averages.append(average_bound(problem, prior, c))
    assert torch.stack(ratios).max() <= 1 + 1e-10
    assert max(averages) <= 1
    return {"sharpest": float(torch.stack(ratios).max()), "average": max(averages)}


def average_bound(problem: LinearProblem, prior: GaussianMixture, c: float) -> float:
    """Return E |x - x_MAP(phi(x))|^2 over its bound, 2 / c^2 times the excess loss, for phi = phi* + sin(x) / 5."""
    x, w = quadrature(prior, 12.0, 0.1 if prior.dim == 1 else 0.2)
    strength = problem.noise_std
    value = optimal_map(problem, prior, strength, x) + 0.2 * torch.sin(x)
    laplacian = prior.hessian(x).diagonal(dim1=-2, dim2=-1).sum(-1)
    divergence = problem.normal_operator.trace() - strength**2 * laplacian + 0.2 * torch.cos(x).sum(-1)
    lowest = optimal_value(problem, strength, float(mean_square(prior.score(x), w)))
    excess = literal_loss(value, divergence, problem, strength, x, w) - lowest
    miss = mean_square(x - invlib.map_estimate(problem, prior, value), w)
    return float(miss) * c**2 / (2 * excess)


def control_dv_bound() -> Numbers:
    """Break the assumption on c: one that is too large, and one that is negative somewhere.

    With 2c, two points beside the origin violate the bound. With c < 0, the gradient at the origin is next to zero for
    a datum beside it, and the origin is far from the MAP estimate.
    """
    prior = testproblems.two_bumps()
    along = prior.means[0] / prior.means[0].norm()
    quiet, loud = (LinearProblem(torch.eye(2), noise) for noise in (0.45, 0.8))
    c = least_curvature(quiet, prior, quiet.noise_std)
    pair = 0.02 * torch.stack([along, -along])
    z = optimal_map(quiet, prior, quiet.noise_std, pair)
    gradient, _ = gradient_and_hessian(quiet, prior, pair[0], z[1])
    overstated = float((pair[0] - pair[1]).norm() * 2 * c / gradient.norm())

    assert least_curvature(loud, prior, loud.noise_std) < 0
    near, origin = 1e-6 * along, torch.zeros(2, dtype=torch.float64)
    gradient, _ = gradient_and_hessian(loud, prior, origin, near)
    far = float(invlib.map_estimate(loud, prior, near).norm())
    assert overstated > 1.5
    assert gradient.norm() < 1e-5
    assert far > 0.5
    return {"overstated": overstated, "loud": loud.noise_std, "far": far}


# The score inside


def check_dv_score() -> Numbers:
    """Compare the literal loss of random maps with implicit and with explicit score matching.

    The first line is algebra, for every prior. To make it a test of signs and factors, the divergence of s_theta is a
    central difference of its values (step 1e-4: errors of 1e-8 and less), while that of phi is automatic. The second
    line needs the integration by parts: it takes the exact score.
    """
    implicit, explicit, step = [], [], 1e-4
    for each in instances(6):
        x, w, factor = each.x, each.w, each.strength**2
        linear, dim = each.problem.normal_operator, x.shape[-1]

        def inside(x: Tensor, each: Instance = each) -> Tensor:
            return (x @ each.problem.normal_operator - torch.vmap(each.phi)(x)) / each.strength**2

        shifts = step * torch.eye(dim, dtype=torch.float64)
        slopes = [(inside(x + shift) - inside(x - shift))[:, i] / (2 * step) for i, shift in enumerate(shifts)]
        value, constant = inside(x), (0.5 * each.problem.noise_std**2 - factor) * float(linear.trace())
        objective = float(w @ (0.5 * value.square().sum(-1) + torch.stack(slopes).sum(0)))
        implicit.append(abs(each.loss() - factor**2 * objective - constant))
        matched = 0.5 * float(mean_square(value - each.prior.score(x), w))
        explicit.append(abs(each.loss() - factor**2 * matched - each.lowest()))
    assert max(implicit) < 1e-7
    assert max(explicit) < 1e-9
    return {"implicit": max(implicit), "explicit": max(explicit)}


def control_dv_score() -> Numbers:
    """Break the assumption on the prior: a Gaussian with edges at +-1, H = 1, no noise, phi = x + sin 2x.

    The first line still holds, the second does not: it is off by the boundary term.
    """
    strength = 0.7
    ends = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    x = 0.5 * (ends[1:] + ends[:-1])
    w = bell(x).exp() / bell(x).exp().sum()

    def inside(x: Tensor) -> Tensor:
        return (x - waves(x)) / strength**2

    slope, slope_inside, score = (torch.vmap(torch.func.grad(f))(x) for f in (waves, inside, bell))
    loss = float(w @ (0.5 * (waves(x) - x) ** 2 - strength**2 * slope))
    first = strength**4 * float(w @ (0.5 * inside(x) ** 2 + slope_inside)) - strength**2
    second = 0.5 * strength**4 * float(w @ ((inside(x) - score) ** 2 - score**2)) - strength**2
    assert abs(loss - first) < 1e-12
    assert abs(loss - second) > 0.1
    return {"edge": abs(loss - second)}


# The puzzle

LINE_BUMPS = GaussianMixture([0.5, 0.5], [[0.94], [-0.94]], [[[0.59**2]], [[0.59**2]]])
"""The prior of the puzzle: the line through the two bumps of the plane."""


@dataclass(frozen=True)
class Candidate:
    """A map x + factor g(x) on the line with H = 1, with the factor that is best for it.

    Attributes:
        g: a direction at the points of `line`.
        slope: its derivative.
        strength: of the divergence term.
    """

    g: Tensor
    slope: Tensor
    strength: float = 0.45

    def loss(self, factor: float) -> float:
        """Return the loss, without the constant of the noise."""
        _, w = line()
        return float(w @ (0.5 * (factor * self.g) ** 2 - self.strength**2 * (1 + factor * self.slope)))

    def best(self) -> float:
        """Return the best factor."""
        _, w = line()
        return self.strength**2 * float(w @ self.slope) / float(w @ self.g**2)

    def gain(self) -> float:
        """Return by how much the loss falls."""
        return self.loss(0.0) - self.loss(self.best())


@cache
def line() -> tuple[Tensor, Tensor]:
    """Return numbers on the line, and their weights under the prior of the puzzle."""
    x = column(-7.0, 7.0, 14_001)
    w = LINE_BUMPS.log_prob(x).exp() * 1e-3
    assert abs(float(w.sum()) - 1) < 1e-12
    return x[:, 0], w


def line_scores() -> tuple[Tensor, Tensor]:
    """Return the score of the puzzle's prior and its derivative, at the points of `line`."""
    x = line()[0][:, None]
    return LINE_BUMPS.score(x)[:, 0], LINE_BUMPS.hessian(x)[:, 0, 0]


def strength_excess(noise: float, strength: float, law: GaussianMixture = LINE_BUMPS) -> float:
    """Return E (f(z) - x_PM(z))^2 on the line, H = 1, for the inverse f of phi*; z = phi*(x) is the variable."""
    one, x = LinearProblem([[1.0]], noise), column(-7.0, 7.0, 1401)
    z = optimal_map(one, law, strength, x)
    steep = 1 - strength**2 * law.hessian(x)[:, 0, 0]
    assert (steep > 0).all()  # phi* is invertible
    density = invlib.data_distribution(one, law).log_prob(z).exp()
    gap = (x - invlib.posterior_mean(one, law, z))[:, 0]
    return 0.01 * float((density * steep) @ gap**2)


def best_strength(noise: float) -> tuple[float, float]:
    """Return the strength with the least mean squared error for the puzzle's prior, and the share of excess left."""
    plain = strength_excess(noise, noise)
    found = optimize.minimize_scalar(
        lambda strength: strength_excess(noise, strength) / plain,
        bounds=(0.5 * noise, 1.05 * noise),
        method="bounded",
        options={"xatol": 1e-6 * noise},
    )
    return float(found.x), float(found.fun)


# Kinks

ACTIVATIONS: dict[str, tuple[Map, float]] = {
    "relu": (torch.relu, 1.0),
    "leaky": (lambda u: torch.nn.functional.leaky_relu(u, 0.1), 0.9),
    "elu": (torch.nn.functional.elu, 0.0),
    "smooth": (lambda u: smooth_abs(u)[0], 0.0),
}
"""Activations, and by how much their slopes jump at zero."""


def midpoints(half_width: float = 7.0, cell: float = 1e-3) -> Tensor:
    """Return the midpoints of equal cells on the line."""
    return torch.arange(-half_width + cell / 2, half_width, cell, dtype=torch.float64)


def slopes_of_bend(activation: Map, weight: float, b: float, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the slope of x + w activation(x - b) and its derivative in b at numbers x, by automatic derivatives."""

    def bent(x: Tensor, b: Tensor) -> Tensor:
        return x + weight * activation(x - b)

    slope = torch.func.grad(bent)
    position = torch.tensor(b, dtype=torch.float64)
    pair = (torch.vmap(f, in_dims=(0, None))(x, position) for f in (slope, torch.func.grad(slope, argnums=1)))
    return tuple(pair)


def expected_slopes(activation: Map, weight: float, b: float, x: Tensor, w: Tensor) -> tuple[float, float]:
    """Return the derivative in b of the expected slope, by a central difference, and the expected sample-path one."""
    ahead, behind = (float(w @ slopes_of_bend(activation, weight, b + e, x)[0]) for e in (0.01, -0.01))
    return (ahead - behind) / 0.02, float(w @ slopes_of_bend(activation, weight, b, x)[1])


def check_dv_kinks() -> Numbers:
    """Compare the derivative of the expected slope with the average of automatic derivatives plus the correction.

    Left: a central difference of an integral (error 1e-4 times third derivatives); for ReLU also the derivative of the
    distribution function. The cells are such that b and b +- 0.01 are edges: no kink is inside of a cell. And for a
    ReLU network in the plane the automatic derivative of the divergence in every bias is zero.
    """
    x, weight, shown = midpoints(), 0.5, 0.8
    w, found = LINE_BUMPS.log_prob(x[:, None]).exp() * 1e-3, {}
    for name, (activation, jump) in ACTIVATIONS.items():
        for b in (-1.2, 0.1, shown):
            exact, path = expected_slopes(activation, weight, b, x, w)
            density = float(LINE_BUMPS.log_prob(torch.tensor([b], dtype=torch.float64)).exp())
            assert abs(exact - path + weight * jump * density) < 2e-4
            found[f"exact_{name}"], found[f"path_{name}"] = exact, path
    by_hand = -weight * float(LINE_BUMPS.log_prob(torch.tensor([shown], dtype=torch.float64)).exp())
    assert abs(found["exact_relu"] - by_hand) < 2e-4
    assert found["path_relu"] == 0

    generator = seeded(7)
    first, second = torch.randn(2, 16, 2, dtype=torch.float64, generator=generator)
    bias = torch.randn(16, dtype=torch.float64, generator=generator)
    points = torch.randn(200, 2, dtype=torch.float64, generator=generator)
    for name, moves in (("relu", False), ("smooth", True)):
        activation = ACTIVATIONS[name][0]

        def reward(bias: Tensor, activation: Map = activation) -> Tensor:
            return value_and_divergence(lambda x: x + second.mT @ activation(first @ x + bias) / 16, points)[1].mean()

        assert bool((torch.func.grad(reward)(bias).abs() > 1e-6).any()) == moves
    return {**found, "at": shown, "weight": weight}


def control_dv_kinks() -> Numbers:
    """Break the assumption that the density is continuous: uniform on [-1, 1], ReLU with its kink at b = 1.

    From the left, the expected slope has the derivative -w / 2; from the right, zero. There is no derivative, whatever
    value the density is given at the edge.
    """
    x, weight = midpoints(), 0.5
    w = 0.5e-3 * (x.abs() < 1).double()
    before, there, after = (float(w @ slopes_of_bend(torch.relu, weight, 1 + e, x)[0]) for e in (-0.01, 0, 0.01))
    left, right = (there - before) / 0.01, (after - there) / 0.01
    assert abs(left + 0.5 * weight) < 1e-9
    assert abs(right) < 1e-9
    return {"left": left, "right": right}


# Descent for the position of one kink: the prior is N(0, 1), and phi_b(x) = x + activation(x - b) / 2


def rounded(u: Tensor, width: float = 0.3) -> Tensor:
    """Return a rounded ReLU."""
    return 0.5 * (u + torch.sqrt(u**2 + width**2))


def kink_loss(b: Tensor, weight: float = 0.5, strength: float = 0.45) -> Tensor:
    """Return the loss of a ReLU bend, by hand, with the constant left out."""
    tail, density = torch.special.ndtr(-b), torch.exp(-(b**2) / 2) / math.sqrt(2 * math.pi)
    second = (1 + b**2) * tail - b * density  # E max(x - b, 0)^2
    loss: Tensor = 0.5 * weight**2 * second - strength**2 * weight * tail
    return loss


def bend_loss(activation: Map, b: Tensor, x: Tensor, w: Tensor, weight: float = 0.5, strength: float = 0.45) -> Tensor:
    """Return the loss of a bend from points and weights, with automatic slopes that can be differentiated in b."""
    slope = torch.vmap(torch.func.grad(activation))(x - b)
    loss: Tensor = w @ (0.5 * weight**2 * activation(x - b) ** 2 - strength**2 * weight * slope)
    return loss


def descend(activation: Map | None, start: float, steps: int = 300, batch: int = 512) -> Tensor:
    """Return the positions of gradient descent for b, with the exact gradient for None, else with fresh batches."""
    generator, b, path = seeded(8), torch.tensor(start, dtype=torch.float64), []
    w = torch.full((batch,), 1 / batch, dtype=torch.float64)
    for _ in range(steps):
        path.append(b)
        leaf = b.clone().requires_grad_()
        if activation is None:
            loss = kink_loss(leaf)
        else:
            x = torch.randn(batch, dtype=torch.float64, generator=generator)
            loss = bend_loss(activation, leaf, x, w)
        b = b - torch.autograd.grad(loss, leaf)[0]
    return torch.stack(path)


def layer_losses(log_density: Map, heights: Tensor, strength: float = 0.45) -> Tensor:
    """Return the losses of x + M r(x), where r climbs from 0 to 1 in a layer of width M^-2 at x = 1; H = 1, no noise.

    Midpoints of cells of width 4e-5: at M = 8 the layer holds 390 of them, of which one may be counted wrongly.
    """
    x = midpoints(8.0, 4e-5)
    w = log_density(x).exp()
    losses = []
    for height in heights:
        ramp = ((x - 1) * height**2 + 1).clamp(0, 1)
        slope = height**3 * ((ramp > 0) & (ramp < 1))
        losses.append(w @ (0.5 * (height * ramp) ** 2 - strength**2 * (1 + slope)) / w.sum())
    return torch.stack(losses)


def kink_descents() -> tuple[dict[str, Tensor], float, float]:
    """Return the paths of three descents from the best kink, its position, and the best one of the rounded ReLU."""
    places = torch.linspace(-1, 2, 301, dtype=torch.float64)
    x = midpoints(7.0, 2e-3)
    w = 2e-3 * torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
    for b in (-1.0, 0.5, 2.0):  # by hand against quadrature
        place = torch.tensor(b, dtype=torch.float64)
        assert abs(bend_loss(torch.relu, place, x, w) - kink_loss(place)) < 1e-5
    best = float(places[kink_loss(places).argmin()])
    own = float(places[torch.stack([bend_loss(rounded, b, x, w) for b in places]).argmin()])
    kinds = {"ReLU, sample path": torch.relu, "ReLU, exact": None, "rounded, sample path": rounded}
    return {name: descend(activation, best) for name, activation in kinds.items()}, best, own


# The fold

FOLD_PRIOR = GaussianMixture([0.7, 0.3], [[-0.8], [0.9]], [[[0.25**2]], [[0.35**2]]])
FOLD_PROBLEM = LinearProblem([[1.0]], 0.45)
FOLD_CELL = 1e-4


@dataclass(frozen=True)
class Fold:
    """phi* of the folding example on a fine grid, the best increasing maps, and where they jump.

    Attributes:
        x: points of the line, (P,).
        w: their weights under the prior.
        star: phi*(x).
        weighted: the nearest increasing function, with the prior as the weight.
        plain: with equal weights.
        floor: half the mean square distance of `weighted` and phi*.
    """

    x: Tensor
    w: Tensor
    star: Tensor
    weighted: Tensor
    plain: Tensor
    floor: float


def fold(strength: float = 0.45) -> Fold:
    """Return the folding example; the probability outside of the grid is below 1e-10."""
    x = column(-3.5, 3.5, 70_001)
    w = FOLD_PRIOR.log_prob(x).exp() * FOLD_CELL
    assert abs(float(w.sum()) - 1) < 1e-10
    star = optimal_map(FOLD_PROBLEM, FOLD_PRIOR, strength, x)[:, 0]
    weighted = isotonic(star, w)
    return Fold(x[:, 0], w, star, weighted, isotonic(star), 0.5 * float(w @ (weighted - star) ** 2))


def longest_flat(x: Tensor, values: Tensor) -> tuple[float, float, float]:
    """Return the value and both ends of the longest constant piece."""
    levels, counts = torch.unique_consecutive(values, return_counts=True)
    longest = int(counts.argmax())
    first = int(counts[:longest].sum())
    return float(levels[longest]), float(x[first]), float(x[first + int(counts[longest]) - 1])


def equal_areas(x: Tensor, star: Tensor, w: Tensor) -> float:
    """Return the level z for which the areas between the fold and the level cancel, from first to last crossing."""

    def area(z: float) -> float:
        crossings = (star > z).double().diff().nonzero()[:, 0]
        inside = slice(int(crossings[0]) + 1, int(crossings[-1]) + 1)
        return float(((star - z) * w)[inside].sum())

    return float(optimize.brentq(area, -0.3, 0.7, xtol=1e-12))


def map_jump() -> float:
    """Return where the MAP estimate of the folding example changes its sign, by bisection."""

    def estimate(z: float) -> float:
        return float(invlib.map_estimate(FOLD_PROBLEM, FOLD_PRIOR, torch.tensor([z], dtype=torch.float64)))

    return float(optimize.bisect(estimate, 0.0, 0.5, xtol=1e-9))


def smoothed(case: Fold, cut: float, width: float, least: float) -> tuple[Tensor, Tensor]:
    """Return values and slopes of step 7: the best increasing map cut off at +-cut, smoothed, plus a small slope.

    The bump is C^1, of half-width `width`; beyond the grid the map goes on as a constant.
    """
    count = round(width / FOLD_CELL)
    t = torch.arange(-count, count + 1, dtype=torch.float64) / count
    bump = (1 - t**2) ** 2
    bump = bump / bump.sum()
    slope = -4 * t * (1 - t**2)
    slope = slope / -(slope @ t) / width  # exact for linear functions
    padded = np.pad(case.weighted.clamp(-cut, cut).numpy(), count, mode="edge")
    value, steep = (torch.from_numpy(signal.fftconvolve(padded, k.numpy(), mode="valid")) for k in (bump, slope))
    return value + least * case.x, steep + least


def check_dv_fold() -> Numbers:
    """Compare three ways to each jump, test the relations of step 4, and build the diffeomorphisms of step 7.

    Training: pooling with weights, equal weighted areas. MAP: pooling without weights, equal areas, and the global
    mode. The ends of the areas are known to one cell, where the integrand is zero: 1e-6. Step 4: for all step functions
    k. Step 6: the nearest decreasing function is a constant. Step 7: the loss, literally from values and slopes,
    approaches the floor from above.
    """
    case = fold()
    trained, plain = (longest_flat(case.x, f)[0] for f in (case.weighted, case.plain))
    maximum = map_jump()
    assert abs(trained - equal_areas(case.x, case.star, case.w)) < 1e-6
    assert abs(plain - equal_areas(case.x, case.star, torch.ones_like(case.w))) < 1e-6
    assert abs(plain - maximum) < 1e-6
    assert trained > maximum + 0.1

    residual = (case.star - case.weighted) * case.w
    assert residual.flip(0).cumsum(0).max() < 1e-12
    assert max(abs(float(residual.sum())), abs(float(residual @ case.weighted))) < 1e-12
    falling = -isotonic(-case.star, case.w)
    assert (falling - case.w @ case.star).abs().max() < 1e-9

    strength, fisher = FOLD_PROBLEM.noise_std, float(case.w @ FOLD_PRIOR.score(case.x[:, None])[:, 0] ** 2)
    lowest = optimal_value(FOLD_PROBLEM, strength, fisher)
    above = []
    for cut, width, least in ((2.0, 0.2, 0.1), (3.0, 0.05, 0.01), (4.0, 0.01, 0.001)):
        value, slope = smoothed(case, cut, width, least)
        assert slope.min() >= least * (1 - 1e-9)
        loss = float(case.w @ (0.5 * (value - case.x) ** 2 - strength**2 * slope)) + 0.5 * strength**2
        above.append((loss - lowest) / case.floor - 1)
    assert above[0] > above[1] > above[2] > 0
    assert above[2] < 0.01
    return {"trained": trained, "maximum": maximum, "above": above[2], "floor": case.floor}


def control_dv_fold() -> Numbers:
    """Break the assumptions: a strength that is not the noise level (part 2), and two dimensions for one (part 1).

    With another strength, equal areas lie at a level where the MAP estimator does not jump. In the plane, with the same
    prior in the first coordinate, an explicit diffeomorphism has less loss than any on the line: the floor is gone.
    """
    case = fold(0.8 * FOLD_PROBLEM.noise_std)
    other, _, _ = longest_flat(case.x, case.plain)
    assert abs(other - map_jump()) > 0.05
    floor = fold().floor
    ratio = comb_excess(COMBS[-1]) / floor
    assert ratio < 0.7
    return {"factor": 0.8, "other": other, "ratio": ratio}


# Combs: in two dimensions there is no floor


@dataclass(frozen=True)
class Comb:
    """A diffeomorphism of the plane that follows a folded map of the first coordinate, in fine teeth.

    With a phase c(x_1) in (-1/2, 1/2), which increases, the second coordinate is squeezed close to the lattice
    period * (Z + c(x_1)). Then the phase tells where x_1 was, and the first coordinate is corrected by it:

        t = S(x_2 / period) + c(x_1),   phi(x) = (g(x_1) + psi(t), scale * period * t).

    S is an increasing staircase with S(u + 1) = S(u) + 1; g increases and is nearly the best increasing map; psi has
    the period one and psi(c(x_1)) = phi*_1(x_1) - g(x_1), up to the slope `least`. Given t, the map increases in x_1;
    given x_1, t increases in x_2. So it is a diffeomorphism, for any choice of S, c, g and psi of this kind.

    Attributes:
        period: of the teeth.
        blunt: how blunt the corners of the staircase are, between 0 and 1.
        least: the least slope of g.
    """

    period: float
    blunt: float
    least: float

    def staircase(self, u: Tensor, sign: float = 1.0) -> Tensor:
        """Return S(u), or its inverse for `sign` -1."""
        rho = sign * (1 - self.blunt)
        angle = 2 * math.pi * u
        return u - torch.atan2(rho * angle.sin(), 1 + rho * angle.cos()) / math.pi

    def phase(self, x: Tensor) -> Tensor:
        """Return t for points (..., 2)."""
        return self.staircase(x[..., 1] / self.period) + phase_of(x[..., 0])

    def __call__(self, x: Tensor) -> Tensor:
        """Return phi(x), (..., 2)."""
        phase = self.phase(x)
        first = interpolated(x[..., 0], "base") + self.least * x[..., 0] + correction(phase)
        return torch.stack([first, SECOND_SCALE * self.period * phase], -1)

    def inverse(self, z: Tensor) -> Tensor:
        """Return phi^{-1}(z), (..., 2): the steps backwards."""
        phase = z[..., 1] / (SECOND_SCALE * self.period)
        grid = teeth()
        rising = grid["base"] + self.least * grid["x"]
        first = np.interp((z[..., 0] - correction(phase)).numpy(), rising, grid["x"])
        second = self.period * self.staircase(phase - phase_of(torch.from_numpy(first)), -1.0)
        return torch.stack([torch.from_numpy(first), second], -1)


SECOND_STD = 0.5
SECOND_SCALE = 1 + FOLD_PROBLEM.noise_std**2 / SECOND_STD**2
PLANE_PRIOR = GaussianMixture(
    [0.7, 0.3],
    [[-0.8, 0.0], [0.9, 0.0]],
    [torch.diag(torch.tensor([std**2, SECOND_STD**2], dtype=torch.float64)) for std in (0.25, 0.35)],
)
"""The folding prior in the first coordinate, and a Gaussian in the second, which is independent of it."""

PLANE_PROBLEM = LinearProblem(torch.eye(2), FOLD_PROBLEM.noise_std)
COMBS = [Comb(0.4 / 2**k, 0.32 / 4**k, 0.02 / 2**k) for k in range(5)]
"""Combs with finer and finer teeth."""


@cache
def teeth() -> dict[str, Any]:
    """Return on a grid: x, the smoothed best increasing map `base`, and `rest`, phi* less it; and the flat piece."""
    case = fold()
    _, low, high = longest_flat(case.x, case.weighted)
    base, _ = smoothed(case, 20.0, 0.05, 0.0)
    rest = (case.star - base) * (case.x.abs() < 3)  # farther out the maps are straight, and equal to rounding
    return {"x": case.x.numpy(), "base": base.numpy(), "rest": rest.numpy(), "flat": (low, high)}


def phase_of(first: Tensor) -> Tensor:
    """Return c(x_1), which runs through most of (-1/2, 1/2) in the flat piece."""
    low, high = teeth()["flat"]
    t = (2 * first - low - high) / (high - low)
    phase: Tensor = t / (t**2 + 0.25).sqrt() / 2
    return phase


def correction(phase: Tensor) -> Tensor:
    """Return psi(t), for any t."""
    low, high = teeth()["flat"]
    t = phase - phase.round()
    first = 0.5 * (low + high) + 0.5 * (high - low) * t / (1 - 4 * t**2).clamp_min(1e-12).sqrt()
    return interpolated(first, "rest")


def interpolated(x: Tensor, name: str) -> Tensor:
    """Return a function of `teeth` at numbers x; constant beyond its grid."""
    return torch.from_numpy(np.interp(x.numpy(), teeth()["x"], teeth()[name]))


def comb_excess(comb: Comb) -> float:
    """Return half the mean square distance of a comb and phi*, over the prior of the plane.

    The position u in a tooth is uniform and independent of x_1, up to exp(-2 pi^2 (std / period)^2). It is substituted
    by a staircase half as steep (in the logarithm), so that the trapezoidal rule sees its corners.
    """
    first = column(-3.4, 3.4, 341)
    w = FOLD_PRIOR.log_prob(first).exp() * 0.02
    v = torch.arange(400, dtype=torch.float64) / 400
    u = Comb(1.0, math.sqrt(comb.blunt), 0.0).staircase(v, -1.0)
    spread = torch.cat([u, u[:1] + 1]).diff()
    spread = 0.5 * (spread + spread.roll(1))  # the measure of each node
    phase = comb.staircase(u) + phase_of(first)
    star = optimal_map(FOLD_PROBLEM, FOLD_PRIOR, FOLD_PROBLEM.noise_std, first)
    miss = (interpolated(first, "base") + comb.least * first + correction(phase) - star).square()
    miss = miss + (SECOND_SCALE * comb.period * (phase - u)).square()
    return 0.5 * float(w @ miss @ spread)


def comb_losses(comb: Comb) -> tuple[float, float]:
    """Return the literal loss and half the mean square distance to phi*, on a lattice that sees the teeth.

    The divergence is a central difference of values.
    """
    step = 1e-4
    first = torch.linspace(-3.2, 3.2, 641, dtype=torch.float64)
    loss = distance = 0.0
    for part in first.split(80):
        x = torch.cartesian_prod(part, first)
        w = PLANE_PRIOR.log_prob(x).exp() * 0.01**2
        value = comb(x)
        shifts = step * torch.eye(2, dtype=torch.float64)
        slopes = [(comb(x + shift) - comb(x - shift))[:, i] / (2 * step) for i, shift in enumerate(shifts)]
        loss += literal_loss(value, slopes[0] + slopes[1], PLANE_PROBLEM, PLANE_PROBLEM.noise_std, x, w)
        star = optimal_map(PLANE_PROBLEM, PLANE_PRIOR, PLANE_PROBLEM.noise_std, x)
        distance += 0.5 * float(mean_square(value - star, w))
    return loss, distance


def check_dv_dense() -> Numbers:
    """Build diffeomorphisms whose loss tends to L*, where the best increasing map on the line is stuck at its floor.

    Their inverse closes. For the coarsest, the loss taken literally, with differences for derivatives, is L* plus the
    distance to phi* (both to the errors of the lattice and of the differences, 1e-4). For all, the distance is computed
    with the position in a tooth as a variable of its own; this is compared with the lattice first.
    """
    coarse, case = COMBS[0], fold()
    x = torch.randn(500, 2, dtype=torch.float64, generator=seeded(15)).clamp(-3, 3)  # as far as the grid goes
    assert all((comb.inverse(comb(x)) - x).abs().max() < 1e-6 for comb in COMBS)
    loss, distance = comb_losses(coarse)
    fisher = float(case.w @ FOLD_PRIOR.score(case.x[:, None])[:, 0] ** 2) + SECOND_STD**-2
    gap = abs(loss - optimal_value(PLANE_PROBLEM, PLANE_PROBLEM.noise_std, fisher) - distance)
    assert gap < 1e-4
    assert abs(distance - comb_excess(coarse)) < 1e-4
    excess = torch.tensor([comb_excess(comb) for comb in COMBS])
    assert (excess.diff() < 0).all()
    assert excess[0] > case.floor > 10 * excess[-1]
    return {"gap": gap, "coarse": float(excess[0]), "fine": float(excess[-1]), "share": float(excess[-1]) / case.floor}


def control_dv_dense() -> Numbers:
    """Break the assumption n >= 2: on the line, no increasing map comes below the floor.

    We move the best increasing map, by sums of smooth steps of random heights, places and widths, which are added or
    (as far as the result still increases) taken away.
    """
    case, generator, least = fold(), seeded(16), math.inf
    x, w, star, best = case.x[::10], 10 * case.w[::10], case.star[::10], case.weighted[::10]
    for size in (1e-3, 1e-2, 1e-1):
        for _ in range(60):
            centre, width = torch.randn(2, 4, 1, dtype=torch.float64, generator=generator)
            height = torch.rand(4, dtype=torch.float64, generator=generator)
            steps = size * height @ torch.sigmoid((x - centre) / (0.02 + 0.3 * width.abs()))
            for value in (best + steps, torch.cummax(best - steps, 0).values):
                least = min(least, 0.5 * float(w @ (value - star) ** 2))
    assert least > case.floor * (1 - 1e-6)
    return {"best": least / case.floor}


# Probes


def random_signs(*shape: int, generator: torch.Generator) -> Tensor:
    """Return independent signs."""
    return 2.0 * torch.randint(2, shape, generator=generator).double() - 1.0


def moments_of_probes(matrix: Tensor, nodes: Tensor, weights: Tensor) -> tuple[float, float]:
    """Return mean and variance of <v, B v>, for v with independent entries of a law with finitely many values."""
    dim = len(matrix)
    v = torch.cartesian_prod(*dim * [nodes]).reshape(-1, dim)
    w = torch.cartesian_prod(*dim * [weights]).reshape(-1, dim).prod(-1)
    estimate = torch.einsum("pi,ij,pj->p", v, matrix, v)
    mean = float(w @ estimate)
    return mean, float(w @ (estimate - mean) ** 2)


def variance_of_probes(matrix: Tensor, kappa: float) -> float:
    """Return 2 sum_{i != j} S_ij^2 + (kappa - 1) sum_i B_ii^2."""
    symmetric, diagonal = 0.5 * (matrix + matrix.mT), float(matrix.diagonal().square().sum())
    return 2 * (float(symmetric.square().sum()) - diagonal) + (kappa - 1) * diagonal


SIGNS = torch.tensor([-1.0, 1.0], dtype=torch.float64), torch.tensor([0.5, 0.5], dtype=torch.float64)
NORMAL = math.sqrt(3) * torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64), torch.tensor([1.0, 4.0, 1.0]).double() / 6
"""Three nodes that integrate polynomials of degree five exactly against N(0, 1)."""


def check_rn_hutchinson() -> Numbers:
    """Compare trace and variance formula with sums over all probes, and with the library's estimates.

    Over all signs; for Gaussian probes by a quadrature that is exact, as the square of <v, B v> has degree four in each
    entry. Sums of up to 3^6 terms of size 100. The library, in four dimensions, has eight different estimates at one
    point, since v and -v give the same: we ask for many and collect the eight.
    """
    generator, gaps = seeded(17), []
    for dim in (1, 2, 5, 6):
        matrix = torch.randn(dim, dim, dtype=torch.float64, generator=generator)
        for law, kappa in ((SIGNS, 1), (NORMAL, 3)):
            mean, variance = moments_of_probes(matrix, *law)
            gaps += [abs(mean - float(matrix.trace())), abs(variance - variance_of_probes(matrix, kappa))]
    assert max(gaps) < 1e-10

    net = steep_network(4, 2, 12, 0.9, 80, gain=1.5)
    point = torch.randn(1, 4, dtype=torch.float64, generator=generator)
    _, estimates = net.estimate_divergence(point.expand(2000, 4), generator=generator)
    eight = estimates.mul(1e9).round().unique() / 1e9
    assert len(eight) == 8
    jacobian = net.forward_and_jacobian(point)[1][0]
    assert abs(float(eight.mean() - jacobian.trace())) < 1e-8
    assert abs(float(eight.var(correction=0)) - variance_of_probes(jacobian, 1)) < 1e-7
    return {"gap": max(gaps)}


def control_rn_hutchinson() -> Numbers:
    """Break the assumptions on the probes: entries of mean one half; entries that are all the same sign.

    Both have entries of variance one. Both are biased.
    """
    matrix = torch.randn(5, 5, dtype=torch.float64, generator=seeded(18))
    trace, total = float(matrix.trace()), float(matrix.sum())
    lifted, _ = moments_of_probes(matrix, SIGNS[0] + 0.5, SIGNS[1])
    assert abs(lifted - trace - 0.25 * total) < 1e-10
    equal = float((torch.ones(5).double() @ matrix) @ torch.ones(5).double())
    assert min(abs(0.25 * total), abs(equal - trace)) > 1e-3
    return {"lifted": abs(lifted - trace), "equal": abs(equal - trace)}


# The experiment


@dataclass(frozen=True)
class Case:
    """What one network is trained for.

    Attributes:
        prior: the distribution of x.
        problem: the problem.
        strength: of the divergence term.
    """

    prior: GaussianMixture
    problem: LinearProblem
    strength: float

    def naive(self, z: Tensor) -> Tensor:
        """Return H^{-1} z, (B, n)."""
        x: Tensor = torch.linalg.solve(self.problem.normal_operator, z.mT).mT
        return x

    def wiener(self, z: Tensor) -> Tensor:
        """Return the affine map with the least mean squared error, for the noise level of the data."""
        noise2, inverse = self.problem.noise_std**2, torch.linalg.inv(self.prior.covariance)
        shifted = z + noise2 * inverse @ self.prior.mean
        x: Tensor = torch.linalg.solve(self.problem.normal_operator + noise2 * inverse, shifted.mT).mT
        return x

    def data(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return fresh pairs of the unknown and its data, (B, n) each."""
        truth = self.prior.sample(count, generator=generator)
        return truth, self.problem.normal_data(self.problem.measure(truth, generator=generator))

    def errors(self, nets: list[IResNet], count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return root mean square errors of all estimators against the truth, for fresh data; of networks, the worst.

        Also `to_map`, the distance of the worst network to the MAP estimate, and `apart`, that of MAP and mean.
        """
        truth, z = self.data(count, generator)
        exact = invlib.map_estimate(self.problem, self.prior, z)
        mean = invlib.posterior_mean(self.problem, self.prior, z)
        found = [net.inverse(z) for net in nets]
        return {
            "naive": rms(self.naive(z) - truth),
            "wiener": rms(self.wiener(z) - truth),
            "network": torch.stack([rms(x - truth) for x in found]).max(),
            "map": rms(exact - truth),
            "mean": rms(mean - truth),
            "to_map": torch.stack([rms(x - exact) for x in found]).max(),
            "apart": rms(exact - mean),
        }

    def certificate(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the length of the gradient of J_z at x over c, (B,)."""
        gradient, _ = gradient_and_hessian(self.problem, self.prior, x, z)
        length: Tensor = gradient.norm(dim=-1)
        return length / self.curvature()

    def curvature(self) -> float:
        """Return a valid c."""
        return least_curvature(self.problem, self.prior, self.strength)


def member(net: IResNet, index: int) -> IResNet:
    """Return one member of an ensemble, in double precision."""
    alone = IResNet(net.dim, dtype=torch.float64).requires_grad_(False)
    for mine, shared in zip(alone.parameters(), net.parameters(), strict=True):
        mine.copy_(shared.detach()[index : index + 1])
    return alone


def excess_and_distance(net: IResNet, case: Case, step: float) -> tuple[float, float]:
    """Return L - L* and half the mean square distance to phi*, by sums over a square lattice.

    The first uses values and divergence of the network, and of the score only its mean square; the second the score at
    every point, and no divergence.
    """
    points, weights = quadrature(case.prior, 5.4, step, smallest=1e-12 * step**2)
    loss = distance = fisher = 0.0
    for x, w in zip(points.split(8000), weights.split(8000), strict=True):
        score, (value, divergence) = case.prior.score(x), net.forward_and_divergence(x)
        misfit = value - x @ case.problem.normal_operator
        loss += 0.5 * float(mean_square(misfit, w)) - case.strength**2 * float(w @ divergence)
        distance += 0.5 * float(mean_square(misfit + case.strength**2 * score, w))
        fisher += float(mean_square(score, w))
    noise = 0.5 * case.problem.noise_std**2 * float(case.problem.normal_operator.trace())
    return loss + noise - optimal_value(case.problem, case.strength, fisher), distance


def settled(net: IResNet, case: Case, share: float, step: float = 0.1, finest: float = 0.01) -> tuple[float, float]:
    """Return excess and distance once halving the step moves neither by more than `share` of the distance.

    The bends of a trained network are narrow, and a coarse lattice steps over them.

    Raises:
        RuntimeError: if the finest lattice is still too coarse.
    """
    now = excess_and_distance(net, case, step)
    while step > finest:
        before, step = now, 0.5 * step
        now = excess_and_distance(net, case, step)
        if max(abs(a - b) for a, b in zip(now, before, strict=True)) < share * now[1]:
            return now
    raise RuntimeError("a network bends more sharply than the finest lattice sees")
