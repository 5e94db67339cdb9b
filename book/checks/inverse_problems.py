"""Checks of the chapter "Why does an inverse problem need a prior?": least squares, filters, posteriors, rates."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from matplotlib.axes import Axes
from matplotlib.patches import ConnectionPatch
from torch import Tensor

import invlib
from checks.tools import column, random_prior, seeded
from invlib import GaussianMixture, LinearProblem, LogisticPrior, testproblems

Numbers = dict[str, float]
LogDensity = Callable[[Tensor], Tensor]

SAMPLES = 20_000
STANDARD_ERRORS = 5
"""A correct mean of so many samples is farther off about once in two million trials."""


# What the page uses, too


def least_squares(problem: LinearProblem, y: Tensor) -> Tensor:
    """Return H^-1 A* y, (..., m) -> (..., n)."""
    found: Tensor = torch.linalg.solve(problem.normal_operator, problem.normal_data(y).unsqueeze(-1))
    return found.squeeze(-1)


def noise_amplification(problem: LinearProblem) -> Tensor:
    """Return delta^2 tr H^-1, the mean squared error of least squares."""
    inverse: Tensor = torch.linalg.inv(problem.normal_operator)
    return problem.noise_std**2 * inverse.trace()


def best_filter(problem: LinearProblem, covariance: Tensor, noise_std: float | None = None) -> Tensor:
    """Return G = (H + delta^2 Sigma^-1)^-1, with another delta if one is given."""
    delta = problem.noise_std if noise_std is None else noise_std
    inverse: Tensor = torch.linalg.inv(problem.normal_operator + delta**2 * torch.linalg.inv(covariance))
    return inverse


def risk(problem: LinearProblem, covariance: Tensor, b: Tensor) -> Tensor:
    """Return R(B) = E|By - x|^2, (n, m) -> (), as squared bias plus variance."""
    gap = b @ problem.operator - torch.eye(problem.dim, dtype=torch.float64)
    return (gap @ covariance @ gap.mT).trace() + problem.noise_std**2 * b.square().sum()


def deviation(samples: Tensor, value: Tensor | float) -> float:
    """Return by how many standard errors the means of samples (N, ...) miss a value, at most."""
    errors = samples.std(0) / len(samples) ** 0.5
    return float(((samples.mean(0) - value).abs() / errors).max())


def covariance_deviation(samples: Tensor, value: Tensor) -> float:
    """Return by how many standard errors the covariance of samples (N, n) misses a matrix, at most.

    The entry (i, j) of a Gaussian sample covariance has the variance (c_ii c_jj + c_ij^2) / N, to leading order.
    """
    variances = value.diagonal()
    errors = ((variances[:, None] * variances + value**2) / len(samples)).sqrt()
    return float(((torch.cov(samples.mT) - value).abs() / errors).max())


def arrow(start: Axes, tail: tuple[float, float], end: Axes, head: tuple[float, float]) -> None:
    """Draw an arrow between two panels; tail and head are fractions of their panels."""
    patch = ConnectionPatch(tail, head, start.transAxes, end.transAxes, arrowstyle="-|>", mutation_scale=16)
    patch.set(linewidth=1.8, color="0.25")
    start.figure.add_artist(patch)


# Problems and grids


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Return standard normal numbers, float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def known_problem(m: int, n: int, generator: torch.Generator) -> tuple[LinearProblem, Tensor, Tensor]:
    """Return a problem with random singular vectors and the singular values 1.5 to 0.3, and its u_n and v_n."""
    u, v = (torch.linalg.qr(normal(generator, size, n)).Q for size in (m, n))
    sigma = torch.linspace(1.5, 0.3, n, dtype=torch.float64)
    return LinearProblem((u * sigma) @ v.mT, noise_std=0.4), u[:, -1], v[:, -1]


SHAPES = ((2, 2), (5, 3), (8, 5))


def plane(half_width: float = 7.0, step: float = 0.05) -> tuple[Tensor, float]:
    """Return the points of a square grid, (P, 2), and the area of one cell."""
    axis = column(-half_width, half_width, round(2 * half_width / step) + 1)[:, 0]
    return torch.cartesian_prod(axis, axis), float(axis[1] - axis[0]) ** 2


def moments(density: Tensor, points: Tensor, cell: float) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of a density (P,) on a grid of points (P, n)."""
    mean = density @ points * cell
    centred = points - mean
    return mean, centred.mT @ (centred * density[:, None]) * cell


def normalized(logs: Tensor, cell: float) -> Tensor:
    """Return the density (..., P) on a grid that is proportional to exp(logs)."""
    density = (logs - logs.amax(-1, keepdim=True)).exp()
    return density / (density.sum(-1, keepdim=True) * cell)


# The normal equation


def check_normal() -> Numbers:
    """Compare the solution of Hx = z with a factorization of A that never forms H, and 1/sigma_n with the worst step.

    Sizes are below 20 and H has the condition 25, so both are exact to 1e-12.
    """
    generator, gaps = seeded(20), []
    for m, n in SHAPES:
        problem, worst, _ = known_problem(m, n, generator)
        y = normal(generator, 40, m)
        by_normal = torch.linalg.solve(problem.normal_operator, problem.normal_data(y).mT).mT
        by_factors = torch.linalg.lstsq(problem.operator, y.mT).solution.mT
        moved, apart = (points.diff(dim=0).norm(dim=-1) for points in (by_factors, y))
        attained = torch.linalg.lstsq(problem.operator, worst[:, None]).solution.norm()
        assert bool((moved <= apart / 0.3 * (1 + 1e-12)).all())
        gaps += [float((by_normal - by_factors).abs().max()), abs(float(attained) - 1 / 0.3)]
    assert max(gaps) < 1e-12
    return {"gap": max(gaps)}


def control_normal() -> Numbers:
    """Injectivity broken: with a kernel, a step of length two along it leaves the misfit as it is."""
    generator = seeded(21)
    rises = []
    for kernel in (False, True):
        problem, _, weakest = known_problem(5, 3, generator)
        operator = problem.operator - kernel * torch.outer(problem.operator @ weakest, weakest)
        y = normal(generator, 5)
        found = torch.linalg.pinv(operator) @ y
        before, after = (0.5 * (operator @ x - y).square().sum() for x in (found, found + 2 * weakest))
        rises.append(float(after - before))
    assert abs(rises[0] - 2 * 0.3**2) < 1e-12
    assert abs(rises[1]) < 1e-12
    return {"injective": rises[0], "kernel": abs(rises[1])}


# Noise in the reconstruction and in z


def check_noise() -> Numbers:
    """Compare the error of least squares by three routes of algebra, to rounding, and by simulation.

    The routes are the inverse of H, the singular values and the squared entries of the pseudo-inverse. The simulation
    is asked for the mean, the covariance and the mean squared error, also with noise of two values, which is white but
    not Gaussian.
    """
    generator, off = seeded(10), 0.0
    for m, n in SHAPES:
        problem, _, _ = known_problem(m, n, generator)
        value, pinv = noise_amplification(problem), torch.linalg.pinv(problem.operator)
        for other in ((problem.singular_values**-2).sum(), pinv.square().sum()):
            torch.testing.assert_close(value, problem.noise_std**2 * other, rtol=1e-12, atol=0)
        x, white = normal(generator, n), normal(generator, SAMPLES, m)
        for noise in (white, white.sign()):
            errors = least_squares(problem, problem.forward(x) + problem.noise_std * noise) - x
            off = max(off, deviation(errors, 0.0), deviation(errors.square().sum(-1), value))
        gaussian = least_squares(problem, problem.noise_std * white)
        covariance = problem.noise_std**2 * torch.linalg.inv(problem.normal_operator)
        off = max(off, covariance_deviation(gaussian, covariance))
    assert off < STANDARD_ERRORS
    return {"samples": SAMPLES, "off": off}


def control_noise() -> Numbers:
    """Break whiteness, the mean of zero and injectivity, one at a time.

    Noise along u_n with the same total variance has a larger error; noise with a mean shifts the reconstruction; the
    pseudo-inverse of a matrix with a kernel loses the part of x in the kernel.
    """
    generator = seeded(11)
    problem, worst, weakest = known_problem(5, 3, generator)
    x, value, delta = normal(generator, 3), noise_amplification(problem), problem.noise_std
    along = delta * 5**0.5 * normal(generator, SAMPLES, 1) * worst
    white = delta * normal(generator, SAMPLES, 5)
    errors = [least_squares(problem, problem.forward(x) + noise) - x for noise in (along, white + 0.5 * delta * worst)]
    not_white = deviation(errors[0].square().sum(-1), value)
    not_zero = deviation(errors[1], 0.0)

    flat = problem.operator - torch.outer(problem.operator @ weakest, weakest)
    inverse = torch.linalg.pinv(flat)
    x = x + 2 * weakest
    lost = (x - inverse @ flat @ x).square().sum()
    squares = ((x @ flat.mT + white) @ inverse.mT - x).square().sum(-1)
    over_range = delta**2 * inverse.square().sum()
    kernel = deviation(squares, over_range)
    assert min(not_white, not_zero, kernel) > 2 * STANDARD_ERRORS
    assert deviation(squares, over_range + lost) < STANDARD_ERRORS
    return {"not_white": not_white, "not_zero": not_zero, "kernel": kernel, "least": min(not_white, not_zero, kernel)}


def check_data() -> Numbers:
    """Compare mean and covariance of simulated z with Hx and delta^2 H, and the misfit with its three terms."""
    generator, off = seeded(12), 0.0
    for m, n in (*SHAPES, (2, 3)):
        problem = LinearProblem(normal(generator, m, n), noise_std=0.4)
        x, h = normal(generator, n), problem.normal_operator
        y = problem.measure(x.expand(SAMPLES, n), generator=generator)
        z = problem.normal_data(y)
        off = max(off, deviation(z, h @ x), covariance_deviation(z, problem.noise_std**2 * h))
        terms = problem.forward(x).square().sum() - 2 * z @ x + y.square().sum(-1)
        torch.testing.assert_close((problem.forward(x) - y).square().sum(-1), terms, rtol=1e-10, atol=1e-10)
    assert off < STANDARD_ERRORS
    return {"off": off}


def control_data() -> Numbers:
    """Break the mean of zero and whiteness: the mean of z is not Hx, its covariance is not delta^2 H."""
    generator = seeded(13)
    problem, worst, _ = known_problem(5, 3, generator)
    white, delta = normal(generator, SAMPLES, 5), problem.noise_std
    biased = problem.normal_data(delta * (white + 0.5 * worst))
    correlated = problem.normal_data(delta * (white + 2 * normal(generator, SAMPLES, 1) * worst))
    found = {
        "not_zero": deviation(biased, 0.0),
        "not_white": covariance_deviation(correlated, delta**2 * problem.normal_operator),
    }
    assert min(found.values()) > 2 * STANDARD_ERRORS
    return found


# The best linear reconstruction


def check_wiener() -> Numbers:
    """Compare R(B) as bias plus variance with the completed square, and N(Gz, delta^2 G) with the exact posterior.

    The exact posterior comes from a singular value decomposition of A times a root of the covariance: it never forms
    G. Both hold to rounding, also where A has a kernel.
    """
    generator, gaps = seeded(30), []
    for m, n in (*SHAPES, (3, 4)):
        problem = LinearProblem(normal(generator, m, n), noise_std=0.4)
        root = normal(generator, n, n)
        sigma = root @ root.mT + 0.1 * torch.eye(n, dtype=torch.float64)
        a, delta, g = problem.operator, problem.noise_std, best_filter(problem, sigma)
        of_y = a @ sigma @ a.mT + delta**2 * torch.eye(m, dtype=torch.float64)
        b = normal(generator, n, m)
        completed = delta**2 * g.trace() + ((b - g @ a.mT) @ of_y @ (b - g @ a.mT).mT).trace()
        gaps.append(float((completed / risk(problem, sigma, b) - 1).abs()))

        least = delta**2 * g.trace()
        assert least < sigma.trace()
        assert m < n or least < noise_amplification(problem)
        prior = GaussianMixture([1.0], torch.zeros(1, n), sigma[None])
        z = problem.normal_data(problem.measure(prior.sample(5, generator=generator), generator=generator))
        gaps.append(float((z @ g.mT - invlib.posterior_mean(problem, prior, z)).abs().max()))
        gaps.append(float((delta**2 * g - invlib.posterior_covariance(problem, prior, z)).abs().max()))
    assert max(gaps) < 1e-10
    return {"gap": max(gaps)}


def control_wiener() -> Numbers:
    """Break uncorrelated noise, the mean of zero, delta > 0 and the Gaussian prior, one at a time.

    Without the first two the simulated error is not delta^2 tr G; for a tiny delta least squares is as good; for two
    bumps another function of z is better.
    """
    generator = seeded(31)
    problem, eye = testproblems.epsilon_problem(1 / 4, 0.3), torch.eye(2, dtype=torch.float64)
    x, white = normal(generator, SAMPLES, 2), normal(generator, SAMPLES, 2)
    off = []
    for lean, shift in ((0.0, 0.0), (0.6, 0.0), (0.0, 1.0)):
        noise = problem.noise_std * (lean * x + math.sqrt(1 - lean**2) * white)
        z = problem.normal_data(problem.forward(x + shift) + noise)
        errors = (z @ best_filter(problem, eye).mT - x - shift).square().sum(-1)
        off.append(deviation(errors, problem.noise_std**2 * best_filter(problem, eye).trace()))
    assert off[0] < STANDARD_ERRORS
    assert min(off[1:]) > 2 * STANDARD_ERRORS

    quiet = testproblems.epsilon_problem(1 / 4, 1e-9)
    gain = 1 - float(1e-18 * best_filter(quiet, eye).trace() / noise_amplification(quiet))
    assert abs(gain) < 1e-12

    prior = testproblems.two_bumps()
    z = problem.normal_data(problem.measure(prior.sample(200, generator=generator), generator=generator))
    linear = z @ best_filter(problem, prior.covariance).mT
    gap = float((linear - invlib.posterior_mean(problem, prior, z)).norm(dim=-1).max())
    assert gap > 0.1
    return {"correlated": off[1], "shifted": off[2], "gap": gap}


# The posterior


def check_posterior() -> Numbers:
    """Compare Bayes' rule on a grid, for y and for z, with the closed forms of the library.

    The integrands are sums of Gaussians, below 1e-16 at the edge of the grid, and the step is at most a quarter of the
    narrowest: the plain sum is exact up to rounding. A is wide (with a kernel), square and tall; the density of z given
    x is taken on the range of A*.
    """
    generator, (points, cell) = seeded(40), plane()
    prior, gaps = testproblems.two_bumps(), []
    for m in (1, 2, 3):
        problem = LinearProblem(normal(generator, m, 2), noise_std=0.5)
        y = problem.measure(prior.sample(1, generator=generator)[0], generator=generator)
        z, delta, h = problem.normal_data(y), problem.noise_std, problem.normal_operator
        misfit = (problem.forward(points) - y).square().sum(-1) / (2 * delta**2)
        joint = prior.log_prob(points) - misfit - m / 2 * math.log(2 * math.pi * delta**2)
        evidence = invlib.measurement_distribution(problem, prior).log_prob(y)
        gaps.append(float(((joint - evidence).exp().sum() * cell - 1).abs()))

        given_y = normalized(joint, cell)
        off = z - points @ h
        exponent = (off @ torch.linalg.pinv(h, rtol=1e-10) * off).sum(-1) / (2 * delta**2)
        given_z = normalized(prior.log_prob(points) - exponent, cell)
        gaps.append(float((given_y - given_z).abs().max()))
        mean, covariance = moments(given_y, points, cell)
        gaps.append(float((mean - invlib.posterior_mean(problem, prior, z)).abs().max()))
        gaps.append(float((covariance - invlib.posterior_covariance(problem, prior, z)).abs().max()))
    assert max(gaps) < 1e-10
    return {"gap": max(gaps)}


def control_posterior() -> Numbers:
    """Take two data with the same z: the posteriors agree for white Gaussian noise, and not if this is broken.

    One number is measured twice, y = (x, x) + noise, so that z = y_1 + y_2. The total variation distance of the two
    posteriors is computed for noise that is Gaussian, Laplace, of unequal variance, and larger where x is. For unequal
    variances, two data with the same A* Gamma^-1 y have the same posterior again.
    """
    prior, points = testproblems.two_bumps([0.94]), column(-6.0, 6.0, 2401)
    step = float(points[1, 0] - points[0, 0])
    scale = torch.tensor([0.3, 0.9], dtype=torch.float64)
    large = 0.3 * (1.5 + points.tanh())

    def gauss(noise: Tensor, std: Tensor | float) -> Tensor:
        return -((noise / std).square() / 2 + torch.as_tensor(std).log()).sum(-1)

    models: dict[str, LogDensity] = {
        "white": lambda noise: gauss(noise, torch.tensor([0.3, 0.3], dtype=torch.float64)),
        "laplace": lambda noise: -noise.abs().sum(-1) * math.sqrt(2) / 0.3,
        "unequal": lambda noise: gauss(noise, scale),
        "dependent": lambda noise: gauss(noise, large.expand(-1, 2)),
    }

    def distance(log_noise: LogDensity, *data: tuple[float, float]) -> float:
        values = torch.tensor(data, dtype=torch.float64)[:, None]
        first, second = (normalized(prior.log_prob(points) + log_noise(y - points), step) for y in values)
        return 0.5 * step * float((first - second).abs().sum())

    found = {name: distance(model, (1.1, -0.3), (0.4, 0.4)) for name, model in models.items()}
    whitened = distance(models["unequal"], (0.5, -0.1), (0.4, 0.8))  # the same y_1 / 0.09 + y_2 / 0.81
    assert max(found.pop("white"), whitened) < 1e-12
    assert min(found.values()) > 0.1
    return {**found, "whitened": whitened}


# Well-posedness


def hellinger(first: Tensor, second: Tensor, cell: float) -> Tensor:
    """Return the Hellinger distance of two densities (..., P) on a grid, from its definition."""
    return ((first.sqrt() - second.sqrt()).square().sum(-1) * cell / 2).sqrt()


def posteriors(problem: LinearProblem, log_prior: LogDensity, y: Tensor, points: Tensor, cell: float) -> Tensor:
    """Return the posteriors for data (B, m) on a grid, by Bayes' rule, (B, P)."""
    misfit = (problem.forward(points) - y[:, None]).square().sum(-1)
    return normalized(log_prior(points) - misfit / (2 * problem.noise_std**2), cell)


def spread(problem: LinearProblem, prior: GaussianMixture, y: Tensor) -> Tensor:
    """Return the largest eigenvalue of Cov(Ax | y), (..., m) -> (...)."""
    covariance = invlib.posterior_covariance(problem, prior, problem.normal_data(y))
    eigenvalues: Tensor = torch.linalg.eigvalsh(problem.operator @ covariance @ problem.operator.mT)
    return eigenvalues[..., -1]


def formula_gap(problem: LinearProblem, prior: GaussianMixture, y: Tensor, exact: Tensor) -> float:
    """Return by how much squared distances (B,) for data (2, B, m) miss the formula in p_Y, at most."""
    density = invlib.measurement_distribution(problem, prior)
    first, second, middle = (density.log_prob(data) for data in (*y, y.mean(0)))
    apart = (y[0] - y[1]).square().sum(-1) / (8 * problem.noise_std**2)
    affinity = (middle - (first + second) / 2 - apart).exp()
    return float((exact**2 - (1 - affinity)).abs().max())


def bound_ratio(problem: LinearProblem, prior: GaussianMixture, y: Tensor, exact: Tensor) -> float:
    """Return the largest quotient of distances (B,) for data (2, B, m) and their Lipschitz bounds (b)."""
    between = y[0] + column(0.0, 1.0, 65)[:, None] * (y[1] - y[0])
    slope = spread(problem, prior, between).amax(0).sqrt() / (math.sqrt(8) * problem.noise_std**2)
    return float((exact / (slope * (y[0] - y[1]).norm(dim=-1))).max())


def check_hellinger() -> Numbers:
    """Compare Hellinger distances on a grid with the formula in p_Y, and with the bounds.

    The distances use Bayes' rule on a grid; p_Y and the covariances are closed forms. The formula holds to rounding.
    The bound (b) is approached by small steps along the eigenvector; (c) is tried with a logistic prior, which is
    log-concave. One of the matrices has a kernel.
    """
    generator, (points, cell) = seeded(50), plane(12.0, 0.08)
    logistic = LogisticPrior([0.4, 0.5])
    gaps, ratios, sharp, convex = [], [], [], []
    for operator in ([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.5]], [[0.6, -0.4], [0.3, 0.2], [0.0, 0.7]]):
        problem, prior = LinearProblem(operator, noise_std=0.4), random_prior(2, generator)
        sample = prior.sample(6, generator=generator)
        y = problem.measure(sample, generator=generator).reshape(2, 3, -1)

        def distances(log_prior: LogDensity, data: Tensor, problem: LinearProblem = problem) -> Tensor:
            first, second = (posteriors(problem, log_prior, part, points, cell) for part in data)
            return hellinger(first, second, cell)

        exact = distances(prior.log_prob, y)
        gaps.append(formula_gap(problem, prior, y, exact))
        ratios.append(bound_ratio(problem, prior, y, exact))

        covariance = invlib.posterior_covariance(problem, prior, problem.normal_data(y[0, 0]))
        top = torch.linalg.eigh(problem.operator @ covariance @ problem.operator.mT)[1][:, -1]
        near = torch.stack([y[0, :1], y[0, :1] + 1e-3 * top])
        sharp.append(bound_ratio(problem, prior, near, distances(prior.log_prob, near)))

        of_noise = -(-(y[0] - y[1]).square().sum(-1) / (8 * 0.4**2)).expm1()
        convex.append(float((distances(logistic.log_prob, y) ** 2 / of_noise).max()))
    assert max(gaps) < 1e-10
    assert max(ratios) <= 1 + 1e-3
    assert min(sharp) > 0.99
    assert min(convex) > 0
    assert max(convex) <= 1 + 1e-10
    return {"gap": max(gaps), "ratio": max(ratios), "sharp": min(sharp), "convex": max(convex)}


def control_hellinger() -> Numbers:
    """Break Gaussian noise, and the log-concave prior of part (c).

    For uniform noise on [-1, 1] and the prior N(0, 1) on the line the distance is a formula in the normal distribution
    function; divided by |y - y'| it grows without bound, like |y - y'|^(-1/2). For two bumps on the line the slope
    exceeds 1 / (2 sqrt(2) delta).
    """

    def mass(left: float, right: float) -> float:
        return (math.erf(right / math.sqrt(2)) - math.erf(left / math.sqrt(2))) / 2

    def quotient(step: float) -> float:
        affinity = mass(step - 1, 1) / math.sqrt(mass(-1, 1) * mass(step - 1, step + 1))
        return math.sqrt(1 - affinity) / step

    rough = quotient(1e-6) / quotient(1e-4)
    assert abs(rough - 10) < 0.1

    problem, prior = LinearProblem([[1.0]], noise_std=0.45), testproblems.two_bumps([1.5], std=0.3)
    bumps = float(spread(problem, prior, torch.zeros(1, dtype=torch.float64)).sqrt()) / 0.45
    assert bumps > 1.5
    return {"rough": rough, "bumps": bumps}


# Infinitely many directions


def volterra(count: int) -> Tensor:
    """Return the first singular values 1 / ((i - 1/2) pi) of the integration x -> int_0^t x on [0, 1]."""
    return 1 / ((torch.arange(1, count + 1, dtype=torch.float64) - 0.5) * math.pi)


def volterra_coefficients(y: LogDensity, count: int) -> Tensor:
    """Return <u_i, y> for u_i = sqrt(2) sin(t / sigma_i), by the midpoint rule on fine cells."""
    t = (torch.arange(40_000, dtype=torch.float64) + 0.5) / 40_000
    values = y(t) * math.sqrt(2) / len(t)
    return torch.stack([(t / sigma).sin() @ values for sigma in volterra(count)])


def tikhonov(a: Tensor, y: Tensor, alpha: float) -> Tensor:
    """Return x_alpha = (H + alpha I)^-1 A* y for columns y, (m, B) -> (n, B)."""
    found: Tensor = torch.linalg.solve(a.mT @ a + alpha * torch.eye(a.shape[1], dtype=torch.float64), a.mT @ y)
    return found


def integration(n: int) -> Tensor:
    """Return the matrix of integration on n cells of width 1/n, with half of the last cell."""
    ones = torch.ones(n, n, dtype=torch.float64)
    return (ones.tril(-1) + 0.5 * torch.eye(n, dtype=torch.float64)) / n


def worst_over_bound(mu: float, noise: float, factor: float = 1.0, n: int = 200) -> float:
    """Return the largest error over its bound among directions: x = H^mu v_i, noise along u_i, by solving with A.

    Alpha is the choice of the statement, times a factor.
    """
    a = integration(n)
    u, sigma, vh = torch.linalg.svd(a)
    alpha = factor * noise ** (2 / (2 * mu + 1))
    x = vh.mT * sigma ** (2 * mu)
    errors = [(tikhonov(a, a @ x + sign * noise * u, alpha) - x).norm(dim=0) for sign in (-1, 1)]
    bound: float = alpha**mu + noise / (2 * math.sqrt(alpha))
    return float(torch.stack(errors).max()) / bound


def check_rate() -> Numbers:
    """Check Picard's sum by quadrature, the upper bound by solving, the lower bound by two unknowns with one datum.

    (a) For the integral y of x(t) = 1 - t the sum of <u_i, y>^2 / sigma_i^2 approaches |x|^2 = 1/3; 400 terms leave out
    less than 1e-9. (b) Errors of solved systems, over unknowns of the source set and noise along singular vectors, are
    below the bound; they come close to it for a small alpha, and to more than a half for the alpha of the statement.
    (c) Two unknowns that the noise can make equal.
    """
    count = 400
    quotients = volterra_coefficients(lambda t: t - t**2 / 2, count) / volterra(count)
    picard = float(quotients.square().sum())
    assert abs(picard - 1 / 3) < 1e-6

    upper, chosen, lower = [], [], []
    for mu in (0.25, 0.5, 1.0):
        for noise in (1e-1, 1e-2, 1e-3):
            chosen.append(worst_over_bound(mu, noise))
            upper += [worst_over_bound(mu, noise, factor) for factor in (0.01, 10.0)]
        a = integration(200)
        _, sigma, vh = torch.linalg.svd(a)
        for k in (3, 20):
            x = sigma[k] ** (2 * mu) * vh[k]
            noise = float((a @ x).norm())
            lower.append(abs(float(x.norm()) / noise ** (2 * mu / (2 * mu + 1)) - 1))
    assert max(upper + chosen) <= 1
    assert max(upper) > 0.99
    assert min(chosen) > 0.5
    assert max(lower) < 1e-9
    return {"picard": abs(picard - 1 / 3), "largest": max(upper), "least": min(chosen)}


def control_rate() -> Numbers:
    """Break Picard's condition, mu <= 1, and the source condition.

    y = 1 has no integrable preimage: all quotients are equal, and the sum grows with the number of terms. For mu = 2
    Tikhonov's filter is saturated and exceeds the bound. For x(t) = 1, which does not vanish at t = 1, the bias exceeds
    any multiple of the square root of alpha.
    """
    count = 100
    quotients = volterra_coefficients(torch.ones_like, count) / volterra(count)
    assert bool(((quotients.square() - 2).abs() < 1e-4).all())

    saturated = worst_over_bound(2.0, 1e-6)
    assert saturated > 10

    sigma = volterra(200_000)
    signs = 1 - 2 * (torch.arange(len(sigma)) % 2)
    x = math.sqrt(2) * sigma * signs  # the coefficients of the constant one
    bias = [float((alpha / (sigma**2 + alpha) * x).norm()) / math.sqrt(alpha) for alpha in (1e-3, 1e-5)]
    assert bias[1] > 2 * bias[0]
    return {"sum": float(quotients.square().sum()), "saturated": saturated, "rough": bias[1] / bias[0]}
