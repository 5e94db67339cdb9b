"""Checks of the chapter on approximation training, one function a statement, each with its control, and machinery."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

import invlib
from checks.four_strategies import filters
from checks.tools import Points, quadrature, random_prior, random_problem, rms, seeded
from invlib import GaussianMixture, IResNet, LinearProblem, testproblems
from invlib.history import History

Map = Callable[[Tensor], Tensor]
Numbers = dict[str, float]
STRATEGIES = ("approximation", "reconstruction", "log_det", "divergence")
PUZZLE = LinearProblem([[1.0, 0.3], [0.0, 0.7]], noise_std=0.45)
"""The operator and the noise of the puzzle."""


def puzzle_priors() -> dict[str, GaussianMixture]:
    """Return the three priors of the puzzle."""
    return {
        "rising": testproblems.two_bumps((0.8, 0.5)),
        "single": GaussianMixture([1.0], [[0.0, 0.0]], 0.9**2 * eye(2)[None]),
        "falling": testproblems.two_bumps((-0.5, 0.8)),
    }


def eye(dim: int) -> Tensor:
    """Return the identity matrix in double precision."""
    return torch.eye(dim, dtype=torch.float64)


def rotation(dim: int, generator: torch.Generator) -> Tensor:
    """Return a random orthogonal matrix."""
    q: Tensor = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=generator)).Q
    return q


def random_map(dim: int, generator: torch.Generator) -> Map:
    """Return B x + C sin(W x + b): smooth, nonlinear, of size one."""
    linear, mixed, inner = torch.randn(3, dim, dim, dtype=torch.float64, generator=generator)
    shift = torch.randn(dim, dtype=torch.float64, generator=generator)
    return lambda x: x @ linear.mT + torch.sin(0.7 * x @ inner.mT + shift) @ mixed.mT


def hermite(count: int, dim: int) -> Points:
    """Return nodes (count^dim, dim) and weights of a standard normal vector."""
    numbers, masses = np.polynomial.hermite_e.hermegauss(count)
    nodes, weights = torch.tensor(numbers), torch.tensor(masses / masses.sum())
    grid = torch.cartesian_prod(*[nodes] * dim).reshape(-1, dim)
    return grid, torch.cartesian_prod(*[weights] * dim).reshape(-1, dim).prod(-1)


def prior_nodes(prior: GaussianMixture, count: int) -> Points:
    """Return quadrature points and weights of a mixture, component by component."""
    nodes, weights = hermite(count, prior.dim)
    points = prior.means[:, None] + nodes @ prior.factors.mT
    return points.flatten(0, 1), (prior.weights[:, None] * weights).flatten()


# Blindness


def times(matrix: Tensor) -> Map:
    """Return the map x -> x @ matrix."""
    return lambda x: x @ matrix


def literal_loss(
    phi: Map, problem: LinearProblem, prior: GaussianMixture, factor: Tensor | None = None, lean: Tensor | None = None
) -> float:
    """Return the loss as it is written, with every noise vector carried through A*.

    Args:
        phi: takes points (..., n).
        problem: its noise has the covariance `factor` @ `factor`*, by default delta^2 I.
        prior: the law of x.
        factor: (m, m).
        lean: (m, n), the conditional mean of the noise as a function of x; by default zero.
    """
    x, weight_x = prior_nodes(prior, 40)
    noise, weight_noise = hermite(3, len(problem.operator))  # the loss is quadratic in the noise: exact
    factor = problem.noise_std * eye(len(problem.operator)) if factor is None else factor
    y = problem.forward(x)[:, None] + noise @ factor.mT
    if lean is not None:
        y = y + (x @ lean.mT)[:, None]
    error = phi(x)[:, None] - problem.normal_data(y)
    return float(weight_x @ (0.5 * error.square().sum(-1)) @ weight_noise)


def split_loss(phi: Map, problem: LinearProblem, prior: GaussianMixture) -> float:
    """Return half the mean square distance to H, by a sum over a lattice, plus the noise floor."""
    x, w = quadrature(prior, 12.0, 0.06)
    distance = (phi(x) - x @ problem.normal_operator).square().sum(-1)
    return 0.5 * float(w @ distance + problem.noise_std**2 * problem.normal_operator.trace())


@dataclass(frozen=True)
class Knots:
    """Piecewise bilinear maps on a square: their values at the knots, and the normal equation of the loss for them."""

    corners: Tensor
    sites: Tensor
    hats: Tensor
    noisy: Tensor
    weight_noise: Tensor

    @classmethod
    def on_a_square(cls, problem: LinearProblem) -> Knots:
        """Return 9 x 9 knots on [-2, 2]^2, with 81 x 81 sites for sums and all data that noise makes of them."""
        knots, fine = (torch.linspace(-2, 2, count, dtype=torch.float64) for count in (9, 81))
        sites = torch.cartesian_prod(fine, fine)
        hat = (1 - (sites[..., None] - knots).abs() / 0.5).clamp_min(0)
        hats = (hat[:, 0, :, None] * hat[:, 1, None, :]).flatten(1)
        noise, weight_noise = hermite(3, 2)
        noisy = problem.normal_data(problem.forward(sites)[:, None] + problem.noise_std * noise)
        return cls(torch.cartesian_prod(knots, knots), sites, hats, noisy, weight_noise)

    def equation(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return matrix and right side of the normal equation of the loss."""
        weighted = (weight[:, None] * self.hats).mT
        return weighted @ self.hats, weighted @ torch.einsum("q,bqi->bi", self.weight_noise, self.noisy)

    def loss(self, values: Tensor, weight: Tensor) -> float:
        """Return the loss of the map with these values at the knots, noise included."""
        error = (self.hats @ values)[:, None] - self.noisy
        return float(weight @ (0.5 * error.square().sum(-1)) @ self.weight_noise)


def check_ap_minimizer() -> Numbers:
    """Compare the loss as it is written with its split, and the best piecewise bilinear map with H.

    Identity: quadrature over the components and the noise, against a lattice sum of the distance to H plus a trace;
    maps are random and nonlinear, m > n, m = n and m < n. Both rules converge faster than any power, tails below 1e-14.
    Minimizer: the normal equation of the loss with its noisy data, which knows nothing of H, for the three priors of
    the puzzle; condition numbers below 1e6 leave ten digits.
    """
    generator, gaps = seeded(1), []
    for m in (4, 2, 1):
        problem, prior = random_problem(m, 2, generator), random_prior(2, generator)
        for _ in range(2):
            phi = random_map(2, generator)
            right = split_loss(phi, problem, prior)
            gaps.append(abs(literal_loss(phi, problem, prior) / right - 1))
    assert max(gaps) < 1e-9
    knots, misses = Knots.on_a_square(PUZZLE), []
    for prior in puzzle_priors().values():
        gram, right_side = knots.equation(prior.log_prob(knots.sites).exp())
        best = torch.linalg.solve(gram, right_side)
        misses.append(float((best - knots.corners @ PUZZLE.normal_operator).abs().max()))
    assert max(misses) < 1e-9
    return {"gap": max(gaps), "knots": len(knots.corners), "miss": max(misses)}


def control_ap_minimizer() -> Numbers:
    """Break the assumptions: the noise has a mean that depends on x, its covariance is another, no full support.

    The first two break the identity, here for H itself, whose loss they make larger (the second changes the constant
    only: differences of two maps stay right). For x uniform on a disc, the values at all knots whose neighbourhood
    misses the disc are free: another map, far from H, has the same loss. `outside` is the share of the data whose naive
    inversion leaves the disc.
    """
    generator, leaning, coloured = seeded(2), [], []
    for m in (4, 2):
        problem, prior = random_problem(m, 2, generator), random_prior(2, generator)
        normal, other = problem.normal_operator, random_map(2, generator)
        right = split_loss(times(normal), problem, prior)  # of H: the floor
        lean = 0.3 * problem.operator
        leaning.append(literal_loss(times(normal), problem, prior, lean=lean) / right - 1)
        factor = problem.noise_std * torch.diag(1.0 + torch.arange(m, dtype=torch.float64) % 2)
        with_colour = literal_loss(times(normal), problem, prior, factor)
        coloured.append(with_colour / right - 1)
        difference = with_colour - literal_loss(other, problem, prior, factor)
        assert abs(difference - right + split_loss(other, problem, prior)) < 1e-9 * (1 + right)
    assert min(leaning) > 1e-2
    assert min(coloured) > 1e-2

    knots = Knots.on_a_square(PUZZLE)
    on_disc = (knots.sites.norm(dim=-1) < 1).double()
    gram, right_side = knots.equation(on_disc)
    eigenvalues, vectors = torch.linalg.eigh(gram)
    free = eigenvalues < 1e-10 * eigenvalues.max()
    values = knots.corners @ PUZZLE.normal_operator
    assert (gram @ values - right_side).abs().max() < 1e-12 * right_side.abs().max()  # H is one minimizer
    other_values = values + vectors[:, free].sum(-1, keepdim=True)  # and this is another one
    assert int(free.sum()) == int((knots.hats.mT @ on_disc == 0).sum()) > 0
    assert abs(knots.loss(other_values, on_disc) / knots.loss(values, on_disc) - 1) < 1e-12
    assert (other_values - values).abs().max() > 0.5
    return {"leaning": max(leaning), "coloured": max(coloured), "free": int(free.sum()), "outside": share_outside()}


def share_outside() -> float:
    """Return the share of data from the unit disc whose naive inversion is outside of it."""
    generator = seeded(2)
    radius, turn = torch.rand(2, 4000, 1, dtype=torch.float64, generator=generator)
    disc = radius.sqrt() * torch.cat([(2 * math.pi * turn).cos(), (2 * math.pi * turn).sin()], dim=-1)
    found = naive(PUZZLE, PUZZLE.normal_data(PUZZLE.measure(disc, generator=generator)))
    share = float((found.norm(dim=-1) > 1).double().mean())
    assert share > 0.2
    return share


# The price of blindness


def variance_and_price(problem: LinearProblem, prior: GaussianMixture, count: int = 60) -> tuple[float, float]:
    """Return E tr Cov(x | z) and delta^4 E |score of z|^2, by quadrature over the data."""
    law = invlib.data_distribution(problem, prior)
    z, w = prior_nodes(law, count)
    spread = invlib.posterior_covariance(problem, prior, z).diagonal(dim1=-2, dim2=-1).sum(-1)
    return float(w @ spread), problem.noise_std**4 * float(w @ law.score(z).square().sum(-1))


def check_ap_price() -> Numbers:
    """Compare delta^2 tr H^-1, from the matrix alone, with a quadrature over the data of posterior variance and score.

    The integrands are smooth, with bumps a few noise widths apart: seven digits of a Gaussian rule.
    """
    generator, gaps = seeded(3), []
    for m in (2, 3, 5):
        problem, prior = random_problem(m, 2, generator), random_prior(2, generator)
        left = problem.noise_std**2 * float(torch.linalg.inv(problem.normal_operator).trace())
        gaps.append(abs(sum(variance_and_price(problem, prior, 80)) / left - 1))
    assert max(gaps) < 1e-6
    return {"gap": max(gaps)}


def sides_of_the_price(density: Map, slope: Map) -> tuple[float, float]:
    """Return the error of y itself and the right side of the formula for A = 1 and noise of standard deviation 0.4.

    Args:
        density: of the noise, up to a factor.
        slope: the derivative of its logarithm.
    """
    x = torch.linspace(-4, 4, 801, dtype=torch.float64)
    y = torch.linspace(-8, 8, 1601, dtype=torch.float64)[:, None]
    prior = GaussianMixture([0.7, 0.3], [[-0.8], [0.9]], [[[0.25**2]], [[0.35**2]]])
    joint = prior.log_prob(x[:, None]).exp() * density(y - x)
    joint = joint / joint.sum()
    mass = joint.sum(-1)
    score = (joint * slope(y - x)).sum(-1) / mass
    spread = float((joint * (x - (joint @ x / mass)[:, None]) ** 2).sum())
    return float((joint * (y - x) ** 2).sum()), spread + 0.4**4 * float(mass @ score**2)


def control_ap_price() -> Numbers:
    """Break the assumption that the noise is Gaussian: Laplace noise of the same variance.

    The first line of the formula stays true (up to the kink of the density, 1e-3), the second does not. With Gaussian
    noise the same sums agree, so that nothing else makes the gap.
    """
    error, formula = sides_of_the_price(lambda v: (-0.5 * (v / 0.4) ** 2).exp(), lambda v: -v / 0.4**2)
    assert abs(error - 0.4**2) < 1e-9
    assert abs(formula - error) < 1e-9
    steep = math.sqrt(2) / 0.4
    error, formula = sides_of_the_price(lambda v: (-steep * v.abs()).exp(), lambda v: -steep * v.sign())
    assert abs(error - 0.4**2) < 1e-3
    assert abs(formula / error - 1) > 0.1
    return {"laplace": abs(formula / error - 1)}


# The clipped filters: matrices


def matrix_losses(operator: Tensor, covariance: Tensor, delta: float, strength: float) -> dict[str, Map]:
    """Return the four losses of matrices (..., 2, 2), as averages over nodes of x and of the noise.

    Three nodes in each direction are exact for second moments.
    """
    nodes, weights = hermite(3, 2 + len(operator))
    x = nodes[:, :2] @ torch.linalg.cholesky(covariance).mT
    z = (x @ operator.mT + delta * nodes[:, 2:]) @ operator

    def forward(matrix: Tensor) -> Tensor:
        loss: Tensor = 0.5 * (x @ matrix.mT - z).square().sum(-1) @ weights
        return loss

    def backward(matrix: Tensor) -> Tensor:
        loss: Tensor = 0.5 * (z @ torch.linalg.inv(matrix).mT - x).square().sum(-1) @ weights
        return loss

    return {
        "approximation": forward,
        "reconstruction": backward,
        "log_det": lambda matrix: forward(matrix) - strength**2 * matrix.det().abs().log(),
        "divergence": lambda matrix: forward(matrix) - strength**2 * matrix.diagonal(dim1=-2, dim2=-1).sum(-1),
    }


def best_matrix(loss: Map, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Search the matrices with singular values in [low, high] by projected gradients; the best of eight starts."""
    matrix = found = torch.randn(8, 2, 2, dtype=torch.float64, generator=generator)
    for _ in range(250):
        u, values, vh = torch.linalg.svd(matrix)
        matrix = ((u * values.clamp(low, high).unsqueeze(-2)) @ vh).requires_grad_()
        value = loss(matrix)
        (gradient,) = torch.autograd.grad(value.sum(), matrix)
        matrix = matrix.detach()
        found, matrix = matrix[value.argmin()], matrix - 0.3 * gradient
    return found


LOW, HIGH = 0.7, 1.4
"""The interval of slopes in the checks of the clipped filters."""


def distances_to_clipped(correlation: float) -> list[float]:
    """Return how far the best matrices are from the clipped ones, for four losses and two operators.

    The prior has the same variances along the eigenvectors of H in all cases, and this correlation between them.
    """
    generator, gaps = seeded(9), []
    h, deviations = torch.tensor([0.3, 1.5], dtype=torch.float64), torch.tensor([0.9, 1.2], dtype=torch.float64)
    for m in (2, 3):
        turn, left = rotation(2, generator), rotation(m, generator)
        scale, tied = turn * deviations, torch.full((2, 2), correlation, dtype=torch.float64)
        covariance = scale @ tied.fill_diagonal_(1.0) @ scale.mT
        losses = matrix_losses(left[:, :2] @ h.sqrt().diag() @ turn.mT, covariance, delta=0.5, strength=0.6)
        each = [filters(*pair, 0.5, 0.6) for pair in zip(h.tolist(), deviations.tolist(), strict=True)]
        for strategy, loss in losses.items():
            slopes = torch.tensor([one[strategy] for one in each], dtype=torch.float64).clamp(LOW, HIGH)
            found = best_matrix(loss, LOW, HIGH, generator)
            gaps.append(float((found - (turn * slopes) @ turn.mT).abs().max()))
    return gaps


# The clipped filters: functions on the line


@dataclass(frozen=True)
class Line:
    """A literal loss on the line: pairs (x, z) with weights, and functions that are linear between knots."""

    x: Tensor
    z: Tensor
    weight: Tensor

    @classmethod
    def of(cls, prior: GaussianMixture, h: float, delta: float) -> Line:
        """Return all pairs of 121 points of a prior and 81 values of the noise, (9801,)."""
        points, noise = (torch.linspace(-4.8, 4.8, count, dtype=torch.float64) for count in (121, 81))
        weight = torch.outer(torch.softmax(prior.log_prob(points[:, None]), 0), torch.softmax(-0.5 * noise**2, 0))
        z = h * points[:, None] + math.sqrt(h) * delta * noise
        return cls(points[:, None].expand_as(z).flatten(), z.flatten(), weight.flatten())

    def best(self, strategy: str, strength: float, low: float, high: float, steps: int = 1500) -> Tensor:
        """Return the slopes of the best function with slopes in [low, high], up to two standard deviations.

        The unknown is the function, for reconstruction its inverse; the loss averages over all pairs (x, z), noise
        included. Accelerated projected gradients in the slopes; the best offset centres the residual.
        """
        argument, target = (self.z, self.x) if strategy == "reconstruction" else (self.x, self.z)
        low, high = (1 / high, 1 / low) if strategy == "reconstruction" else (low, high)
        knots = torch.linspace(float(argument.min()), float(argument.max()), 121, dtype=torch.float64)
        gaps = knots.diff()
        parts = ((argument[:, None] - knots[:-1]) / gaps).clamp(0, 1) * gaps  # of each piece, left of the argument
        parts = parts - self.weight @ parts
        goal = target - self.weight @ target
        gram, right = parts.mT @ (self.weight[:, None] * parts), parts.mT @ (self.weight * goal)
        place = (argument - knots[0]) / gaps[0]  # at a knot, the slope is the mean of its neighbours'
        left, right_side = ((place + shift).long().clamp(0, len(gaps) - 1) for shift in (-1e-9, 1e-9))
        mass = 0.5 * (torch.bincount(left, self.weight, len(gaps)) + torch.bincount(right_side, self.weight, len(gaps)))
        rewards: dict[str, Map] = {"log_det": lambda slope: 1 / slope, "divergence": torch.ones_like}
        reward = rewards.get(strategy, torch.zeros_like)
        curvature = torch.linalg.matrix_norm(gram, 2) + strength**2 * mass.max() / low**2
        slopes = ahead = torch.full_like(gaps, 0.5 * (low + high))
        for step in range(steps):
            gradient = gram @ ahead - right - strength**2 * mass * reward(ahead)
            new = (ahead - gradient / curvature).clamp(low, high)
            ahead, slopes = new + step / (step + 3) * (new - slopes), new
        deviation = (self.weight @ argument.square()).sqrt()
        inner = slopes[(knots[1:] - 0.5 * gaps).abs() < 2 * deviation]
        return 1 / inner if strategy == "reconstruction" else inner


BELL = GaussianMixture([1.0], [[0.0]], [[[1.0]]])
BUMPS = GaussianMixture([0.5, 0.5], [[0.8], [-0.8]], 2 * [[[0.36]]])
"""Two bumps with variance one."""


def check_four_clip() -> Numbers:
    """Compare clipped filters with searches that minimize the losses as they are written, noise included.

    Part 1: projected gradients over matrices, which know nothing of eigenvectors; they converge geometrically, and
    second moments are exact. Part 2: all slopes of a function on the line are free in [c, C]; the sums run over 9801
    pairs (x, z). At a bound the slopes are exact; inside, up to the square of the spacing.
    """
    plane = distances_to_clipped(correlation=0.0)
    assert max(plane) < 1e-9
    at_bound: list[float] = []
    inside: list[float] = []
    for strategy in STRATEGIES:
        for h in (0.05, 0.75, 1.6):  # clipped from below, in reach, clipped from above
            a = filters(h, 1.0, 0.5, 0.6)[strategy]
            assert (a < LOW, a > HIGH) == (h < 0.1, h > 1)
            found = Line.of(BELL, h, 0.5).best(strategy, 0.6, LOW, HIGH)
            gap = float((found - min(max(a, LOW), HIGH)).abs().max())
            (inside if h == 0.75 else at_bound).append(gap)
    assert max(at_bound) < 1e-9
    assert max(inside) < 1e-2
    return {"plane": max(plane), "bound": max(at_bound), "inside": max(inside), "low": LOW, "high": HIGH}


def control_four_clip() -> Numbers:
    """Break two assumptions: covariance and H do not commute; on the line, the prior is not Gaussian.

    For approximation the second control is none: it is clipped on the line for every prior, see the other proposition.
    """
    plane = distances_to_clipped(correlation=0.6)
    assert min(plane) > 0.05
    spread = []
    for strategy in STRATEGIES[1:]:
        found = Line.of(BUMPS, 0.75, 0.5).best(strategy, 0.6, LOW, HIGH)
        spread.append(float(found.max() - found.min()))
    assert min(spread) > 0.3
    flat = Line.of(BUMPS, 0.05, 0.5).best("approximation", 0.6, LOW, HIGH)
    assert float((flat - LOW).abs().max()) < 1e-9
    return {"plane": min(plane), "spread": min(spread)}


# The clipped operator


def clip(values: Tensor, lipschitz: float, blocks: int) -> Tensor:
    """Return the closest points of [(1 - L)^K, (1 + L)^K]."""
    return values.clamp((1 - lipschitz) ** blocks, (1 + lipschitz) ** blocks)


def best_linear(
    normal: Tensor, covariance: Tensor, lipschitz: float, blocks: int, generator: torch.Generator, steps: int = 400
) -> tuple[Tensor, float]:
    """Minimize tr((M - H) Sigma (M - H)*) over M = (I + F_K) ... (I + F_1) with |F_k| <= L, by projected gradients.

    Returns:
        M and the value. The step is the inverse of the gradient's Lipschitz constant (exact for one block).
    """
    f = 0.1 * torch.randn(blocks, *normal.shape, dtype=torch.float64, generator=generator)
    size = 2 * blocks * (1 + lipschitz) ** (2 * blocks - 2) * float(torch.linalg.matrix_norm(covariance, 2))
    matrix, value = normal, torch.zeros(())
    for _ in range(steps):
        f.requires_grad_()
        matrix = eye(len(normal))
        for block in f:
            matrix = matrix + block @ matrix
        error = matrix - normal
        value = torch.trace(error @ covariance @ error.mT)
        (gradient,) = torch.autograd.grad(value, f)
        u, s, vh = torch.linalg.svd((f - gradient / size).detach())
        f = (u * s.clamp(max=lipschitz).unsqueeze(-2)) @ vh
    return matrix.detach(), float(value.detach())


def blocks_against_clipped(correlation: float) -> tuple[float, float]:
    """Return the largest distance of the best composition of blocks to the clipped operator, and its least gain."""
    generator, gaps, gains = seeded(7), [], []
    for n, lipschitz, blocks in ((2, 0.5, 1), (3, 0.3, 1), (2, 0.3, 2)):
        turn, h = rotation(n, generator), torch.linspace(0.1, 2.5, n, dtype=torch.float64)  # both ends are clipped
        deviations = (0.3 + torch.rand(n, dtype=torch.float64, generator=generator)).sqrt()
        scale, tied = turn * deviations, torch.full((n, n), correlation, dtype=torch.float64).fill_diagonal_(1.0)
        covariance, normal = scale @ tied @ scale.mT, (turn * h) @ turn.mT
        clipped = (turn * clip(h, lipschitz, blocks)) @ turn.mT
        found, value = best_linear(normal, covariance, lipschitz, blocks, generator)
        of_clipped = torch.trace((clipped - normal) @ covariance @ (clipped - normal).mT)
        gaps.append(float((found - clipped).abs().max()))
        gains.append(1 - value / float(of_clipped))
    return max(gaps), min(gains)


def linear_error(matrix: Tensor, normal: Tensor, covariance: Tensor, delta: float) -> float:
    """Return the root mean square error of the inverse of a linear map, for x with mean zero."""
    inverse = torch.linalg.inv(matrix)
    bias = inverse @ normal - eye(len(normal))
    square = torch.trace(bias @ covariance @ bias.mT) + delta**2 * torch.trace(inverse @ normal @ inverse.mT)
    return float(square.sqrt())


def help_of_dependence(delta: float) -> Numbers:
    """Return extreme ratios of the error of the best block to that of the clipped operator and of naive inversion.

    For H = diag(1, 0.1), three correlations of the coordinates and three bounds, at one noise level.
    """
    normal = torch.diag(torch.tensor([1.0, 0.1], dtype=torch.float64))
    of_clipped, of_naive = [], []
    for rho in (0.3, 0.6, 0.9):
        covariance = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
        for lipschitz in (0.3, 0.5, 0.7):
            block, _ = best_linear(normal, covariance, lipschitz, 1, seeded(11), steps=150)
            maps = block, clip(normal.diagonal(), lipschitz, 1).diag(), normal
            errors = [linear_error(each, normal, covariance, delta) for each in maps]
            of_clipped.append(errors[0] / errors[1])
            of_naive.append(errors[0] / errors[2])
    return {"most": max(of_clipped), "naive_least": min(of_naive), "naive_most": max(of_naive)}


def best_values(
    points: Tensor, weight: Tensor, normal: Tensor, low: float, high: float, generator: torch.Generator
) -> tuple[float, Tensor]:
    """Search all maps of a few points whose difference quotients lie in [low, high]; the best of several random starts.

    Nothing is linear here and nothing parametrized: the unknowns are the values at the points, and the constraints one
    double inequality for each pair.

    Returns:
        The least mean square distance to H, and the values.
    """
    first, second = torch.triu_indices(len(points), len(points), 1).numpy()
    x, target, w = points.numpy(), (points @ normal).numpy(), weight.numpy()
    length2 = ((x[first] - x[second]) ** 2).sum(-1)

    def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
        error = values.reshape(x.shape) - target
        return float(w @ (error**2).sum(-1)), (2 * w[:, None] * error).ravel()

    def room(values: np.ndarray) -> np.ndarray:
        v = values.reshape(x.shape)
        quotient = ((v[first] - v[second]) ** 2).sum(-1) / length2
        return np.concatenate([quotient - low**2, high**2 - quotient])

    def room_slope(values: np.ndarray) -> np.ndarray:
        v, rows = values.reshape(x.shape), np.arange(len(first))
        slope = np.zeros((len(first), *x.shape))
        slope[rows, first] = 2 * (v[first] - v[second]) / length2[:, None]
        slope[rows, second] = -slope[rows, first]
        flat = slope.reshape(len(first), -1)
        return np.concatenate([flat, -flat])

    best, found = math.inf, x
    for _ in range(6):
        start = x + 0.3 * torch.randn(x.shape, dtype=torch.float64, generator=generator).numpy()
        result = optimize.minimize(
            objective,
            start.ravel(),
            jac=True,
            method="SLSQP",
            constraints={"type": "ineq", "fun": room, "jac": room_slope},
            options={"maxiter": 400, "ftol": 1e-13},
        )
        if result.success and room(result.x).min() > -1e-8 and result.fun < best:
            best, found = float(result.fun), result.x.reshape(x.shape)
    return best, torch.tensor(found)


def lattice(dependent: bool) -> Points:
    """Return twelve points of the plane with weights: a skewed product law, or one with the same marginals."""
    first, second = (torch.tensor(each, dtype=torch.float64) for each in ([-1.2, 0.1, 0.9], [-1.0, -0.6, 0.5, 1.3]))
    p, q = (torch.tensor(each, dtype=torch.float64) for each in ([0.3, 0.3, 0.4], [0.4, 0.2, 0.1, 0.3]))
    weight = torch.outer(p, q)
    if dependent:  # mass moves towards a diagonal; sums over rows and columns stay
        weight = weight + 0.06 * torch.outer(torch.tensor([1.0, 0.0, -1.0]), torch.tensor([1.0, 0.0, 0.0, -1.0]))
    return torch.cartesian_prod(first, second), weight.flatten()


def search_against_clipped(h: Sequence[float], dependent: bool) -> tuple[float, float]:
    """Return the loss of the best map found over that of the clipped operator, minus one, and their RMS distance."""
    points, weight = lattice(dependent)
    eigenvalues = torch.tensor(h, dtype=torch.float64)
    value, found = best_values(points, weight, eigenvalues.diag(), 0.5, 1.5, seeded(5))
    mean = weight @ points
    clipped = eigenvalues * mean + eigenvalues.clamp(0.5, 1.5) * (points - mean)
    of_clipped = float(weight @ (clipped - points * eigenvalues).square().sum(-1))
    distance = float((weight @ (found - clipped).square().sum(-1)).sqrt())
    return value / of_clipped - 1, distance


def check_ap_clip() -> Numbers:
    """Compare the clipped operator with the best of K linear blocks, and with the best of all maps of twelve points.

    Part 1: projected gradients over the matrices of the blocks, from random starts; the ends are exact once the bound
    is active, the middle contracts. Part 2: a search over all values at the points of a product law in the plane, with
    both bounds for each pair of points, one eigenvalue too small or too large; and a double one, for dependent
    coordinates, where none need be independent.
    A search by sequential quadratic programming stops at ten digits of the value, half as many of the map.
    """
    gap, _ = blocks_against_clipped(correlation=0.0)
    assert gap < 1e-5
    results = [search_against_clipped(h, dependent=False) for h in ((1.0, 0.1), (0.8, 2.2))]
    results.append(search_against_clipped((0.1, 0.1), dependent=True))
    excess, distance = (max(abs(one[k]) for one in results) for k in (0, 1))
    assert excess < 1e-6
    assert distance < 1e-3
    return {"blocks": gap, "excess": excess, "distance": distance}


def control_ap_clip() -> Numbers:
    """Break the assumptions: the covariance does not commute with H; the coordinates depend on each other.

    The searches of the check, with the same variances, and then the same marginal laws, now find something better.
    """
    _, gain = blocks_against_clipped(correlation=0.6)
    assert gain > 0.005
    excess, distance = search_against_clipped((1.0, 0.1), dependent=True)
    assert excess < -0.05
    assert distance > 0.05
    return {"gain_blocks": gain, "gain_maps": -excess}


# Reconstructions and trained networks


def naive(problem: LinearProblem, z: Tensor) -> Tensor:
    """Return H^-1 z."""
    x: Tensor = torch.linalg.solve(problem.normal_operator, z.mT).mT
    return x


def wiener(problem: LinearProblem, prior: GaussianMixture, z: Tensor) -> Tensor:
    """Return the affine reconstruction with the least mean squared error."""
    precision = problem.noise_std**2 * torch.linalg.inv(prior.covariance)
    x: Tensor = torch.linalg.solve(problem.normal_operator + precision, (z + precision @ prior.mean).mT).mT
    return x


def data(
    problem: LinearProblem, prior: GaussianMixture, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return fresh pairs of the unknown and its data, (B, n) each."""
    x = prior.sample(count, generator=generator)
    return x, problem.normal_data(problem.measure(x, generator=generator))


def baselines(problem: LinearProblem, prior: GaussianMixture, x: Tensor, z: Tensor) -> dict[str, float]:
    """Return the root mean square errors of what a reader would use instead of a network."""
    found = {
        "naive": naive(problem, z),
        "wiener": wiener(problem, prior, z),
        "map": invlib.map_estimate(problem, prior, z),
        "mean": invlib.posterior_mean(problem, prior, z),
    }
    return {name: float(rms(each - x)) for name, each in found.items()}


def trust(net: IResNet, history: History, problems: Sequence[LinearProblem], x: Tensor) -> list[list[float]]:
    """Return what must hold for every member of a trained ensemble, one row for each.

    A row has the largest residual |phi(phi^-1(z)) - z|; the least and the largest slope, of Jacobians and of difference
    quotients, over the certified bounds; and the loss as it is written, at these points, minus its known minimum.
    """
    points = x.expand(len(problems), *x.shape)
    value, jacobian = net.forward_and_jacobian(points)
    quotients = (value - value.roll(1, -2)).norm(dim=-1) / (points - points.roll(1, -2)).norm(dim=-1)
    slopes = torch.cat([torch.linalg.svdvals(jacobian).flatten(-2), quotients], -1)
    low, high = (torch.as_tensor(bound) for bound in net.lipschitz_bounds())
    noise, weight = hermite(3, net.dim)  # exact: the loss is quadratic in the noise
    noisy = torch.stack([p.normal_data(p.forward(x)[:, None] + p.noise_std * noise) for p in problems])
    loss = ((0.5 * (value[:, :, None] - noisy).square().sum(-1)) @ weight).mean(-1)
    residual = net.solve_inverse(noisy[:, :, 0]).residual  # a corner of the noise, 2.4 deviations out
    columns = residual.amax(-1), slopes.amin(-1) / low, slopes.amax(-1) / high, loss - torch.as_tensor(history.minimum)
    rows: list[list[float]] = torch.stack(columns, -1).tolist()
    return rows


class FewPoints:
    """The law of a few points, each as probable as the others, instead of a prior."""

    dim = 2

    def __init__(self, points: Tensor) -> None:
        self.points = points

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return points drawn at random, (count, n)."""
        return self.points[torch.randint(len(self.points), (count,), generator=generator)]


@dataclass(frozen=True)
class Sweep:
    """One network on the line for each operator sqrt(h), as members of an ensemble, for a Gaussian prior.

    Attributes:
        h: (E,).
        s: standard deviation of the prior.
        delta: that of the noise, and the strength of the regularized losses.
    """

    h: Tensor
    s: float
    delta: float

    def prior(self) -> GaussianMixture:
        """Return the prior."""
        return GaussianMixture([1.0], [[0.0]], [[[self.s**2]]])

    def problems(self) -> list[LinearProblem]:
        """Return the problems."""
        return [LinearProblem([[math.sqrt(h)]], self.delta) for h in self.h.tolist()]

    def slopes(self, strategy: str, low: float = 0.0, high: float = math.inf) -> Tensor:
        """Return the best slopes, cut off at low and high, (E,)."""
        best = [filters(h, self.s, self.delta, self.delta)[strategy] for h in self.h.tolist()]
        return torch.tensor(best, dtype=torch.float64).clamp(low, high)

    def nodes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return points x and data z, (E, P, 1), and the weights of a trapezoidal rule for both, (P, 1)."""
        nodes = torch.linspace(-6, 6, 1201, dtype=torch.float64)[:, None]
        of_z = (self.h**2 * self.s**2 + self.h * self.delta**2).sqrt()
        x = (self.s * nodes).expand(len(self.h), -1, -1)
        return x, of_z[:, None, None] * nodes, torch.softmax(-0.5 * nodes.square(), dim=0)

    def learned(self, net: IResNet, strategy: str) -> tuple[Tensor, Tensor]:
        """Return the slope of each member and its root mean square distance to a line, relative to the line's own.

        The line is fitted by least squares where the loss looks: to phi over the prior, to its inverse over the data.
        """
        x, z, w = self.nodes()
        points, values = (z, net.inverse(z)) if strategy == "reconstruction" else (x, net(x))
        square = (w * points.square()).sum((1, 2))
        slopes = (w * points * values).sum((1, 2)) / square
        rest = (w * (values - slopes[:, None, None] * points).square()).sum((1, 2)).sqrt()
        return (1 / slopes if strategy == "reconstruction" else slopes), rest / (slopes * square.sqrt())

    def excess(self, net: IResNet, strategy: str) -> Tensor:
        """Return the loss of each member minus that of the clipped line, (E,)."""
        x, z, w = self.nodes()
        h = self.h[:, None, None]
        line = self.slopes(strategy, 1 - net.lipschitz, 1 + net.lipschitz)[:, None, None]
        if strategy == "reconstruction":  # x = posterior mean + a rest that is independent of z
            mean = z / self.slopes(strategy)[:, None, None]
            return 0.5 * (w * ((net.inverse(z) - mean).square() - (z / line - mean).square())).sum((1, 2))
        value, jacobian = net.forward_and_jacobian(x)
        gains: dict[str, Map] = {"log_det": torch.log, "divergence": torch.clone}
        gain = gains.get(strategy, torch.zeros_like)
        fit = 0.5 * ((value - h * x).square() - ((line - h) * x).square())
        return (w * (fit - self.delta**2 * (gain(jacobian[..., 0]) - gain(line)))).sum((1, 2))


def direction_error(h: Tensor, s2: Tensor, delta: float, c: Tensor) -> Tensor:
    """Return squared bias plus variance of z / max(h, c) along one direction."""
    a = torch.maximum(c, h)
    return (1 - h / a) ** 2 * s2 + delta**2 * h / a**2
