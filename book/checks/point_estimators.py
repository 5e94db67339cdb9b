r"""Checks of the chapter on the posterior mean and the MAP estimate, and their controls.

Two problems come back throughout: `LINE`, denoising on the line with the two unequal bumps of the puzzle, and the two
round bumps of `invlib.testproblems` in the plane.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import softplus

import invlib
from checks.tools import column, random_prior, random_problem, rms, seeded
from invlib import GaussianMixture, LinearProblem, testproblems

Numbers = dict[str, float]
Estimator = Callable[[LinearProblem, GaussianMixture, Tensor], Tensor]

LINE = LinearProblem([[1.0]], 0.45)
LINE_PRIOR = GaussianMixture([0.7, 0.3], [[-0.8], [0.9]], [[[0.25**2]], [[0.35**2]]])
GRID = column(-3.0, 3.0, 6001)
STEP = 0.001
"""The distance of neighbouring points of `GRID`."""


# What the statements speak of


def objective(problem: LinearProblem, prior: GaussianMixture, x: Tensor) -> Tensor:
    """Return J_0(x), (...), for x of shape (..., n)."""
    misfit = 0.5 * problem.forward(x).square().sum(-1)
    return misfit - problem.noise_std**2 * prior.log_prob(x)


def normal_map(problem: LinearProblem, prior: GaussianMixture, x: Tensor) -> Tensor:
    """Return H x - delta^2 s(x), (..., n), the left side of the normal equation with the prior in it."""
    return x @ problem.normal_operator - problem.noise_std**2 * prior.score(x)


def components(problem: LinearProblem, prior: GaussianMixture, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log g_k(z), (..., K), m_k(z), (..., K, n), and C_k, (K, n, n), for z of shape (..., n).

    Letter by letter as on the page; nothing is taken from the formulas of the library, for which this is a witness.
    """
    delta2 = problem.noise_std**2
    prior_precision = torch.linalg.inv(prior.covariances)
    precision = prior_precision + problem.normal_operator / delta2  # C_k^{-1}
    pull = torch.einsum("kij,kj->ki", prior_precision, prior.means)
    right = pull + z.unsqueeze(-2) / delta2  # C_k^{-1} m_k
    m = torch.linalg.solve(precision, right.unsqueeze(-1)).squeeze(-1)
    exponent = 0.5 * (m * right).sum(-1) - 0.5 * (prior.means * pull).sum(-1)
    log_g = prior.weights.log() + 0.5 * (prior_precision.logdet() - precision.logdet()) + exponent
    return log_g, m, torch.linalg.inv(precision)


def soft_maximum(problem: LinearProblem, prior: GaussianMixture, z: Tensor) -> Tensor:
    """Return Lambda(z) = delta^2 log sum_k g_k(z), (...), for z of shape (..., n)."""
    return problem.noise_std**2 * torch.logsumexp(components(problem, prior, z)[0], dim=-1)


def tempered(z: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return Lambda_beta(z) and x_beta(z) for `LINE`, both (B,), by quadrature, for z of shape (B, 1)."""
    exponent = beta * (z * GRID[:, 0] - objective(LINE, LINE_PRIOR, GRID)) / LINE.noise_std**2
    values = torch.logsumexp(exponent, dim=-1) + math.log(STEP)
    return LINE.noise_std**2 / beta * values, torch.softmax(exponent, dim=-1) @ GRID[:, 0]


def conjugate(problem: LinearProblem, prior: GaussianMixture, z: Tensor) -> Tensor:
    """Return J_0^*(z), (...), from the MAP estimate of the library."""
    x = invlib.map_estimate(problem, prior, z)
    return (z * x).sum(-1) - objective(problem, prior, x)


@cache
def maxwell_point() -> tuple[float, Tensor]:
    """Return the Maxwell point of `LINE` and its two modes, (2, 1): by bisection, left at z = 0 and right at .5."""
    low, high = 0.0, 0.5
    while high - low > 1e-13:
        middle = 0.5 * (low + high)
        left = float(invlib.map_estimate(LINE, LINE_PRIOR, torch.tensor([middle], dtype=torch.float64))) < 0
        low, high = (middle, high) if left else (low, middle)
    return low, invlib.map_estimate(LINE, LINE_PRIOR, torch.tensor([[low], [high]], dtype=torch.float64))


def problem_of_rank(m: int, n: int, rank: int, generator: torch.Generator) -> LinearProblem:
    """Return a random problem with an operator (m, n) of the given rank, with singular values between .3 and 1.5."""
    left, right = (
        torch.linalg.qr(torch.randn(size, rank, dtype=torch.float64, generator=generator)).Q for size in (m, n)
    )
    singular = 0.3 + 1.2 * torch.rand(rank, dtype=torch.float64, generator=generator)
    return LinearProblem((left * singular) @ right.mT, 0.6)


def draw_data(problem: LinearProblem, prior: GaussianMixture, count: int, generator: torch.Generator) -> Tensor:
    """Return data z = A* (A x + noise), (count, n)."""
    x = prior.sample(count, generator=generator)
    return problem.normal_data(problem.measure(x, generator=generator))


def range_basis(problem: LinearProblem) -> Tensor:
    """Return an orthonormal basis of the range of A*, (rank, n)."""
    rows: Tensor = torch.linalg.svd(problem.operator).Vh
    return rows[: problem.rank]


# Mixtures in closed form


@cache
def _plane() -> tuple[Tensor, float]:
    """Points of the plane, (P, 2), and the area of a cell: the trapezoidal rule on [-12, 12]^2."""
    axis = torch.linspace(-12, 12, 481, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), 0.05**2


def _moments_by_bayes(problem: LinearProblem, log_prior: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-mass, mean and covariance of p_X(x) exp(-|Ax - y|^2 / 2 delta^2) in the plane, by quadrature."""
    points, area = _plane()
    exponent = log_prior - 0.5 * (problem.forward(points) - y).square().sum(-1) / problem.noise_std**2
    weights = torch.softmax(exponent, dim=0)
    mean = weights @ points
    covariance = (points - mean).mT @ (weights[:, None] * (points - mean))
    return torch.logsumexp(exponent, dim=0) + math.log(area), mean, covariance


def check_pe_mixture() -> Numbers:
    """Compare Bayes' rule for y on a grid of the plane with the closed forms in z, for m > n, m = n and m < n.

    The trapezoidal rule converges faster than any power of its step, so that rounding of sums over 2e5 points is left.
    """
    generator, errors = seeded(1), []
    for m, rank in [(3, 2), (2, 2), (1, 1)]:
        problem, prior = problem_of_rank(m, 2, rank, generator), random_prior(2, generator, components=3)
        for y in problem.measure(prior.sample(2, generator=generator), generator=generator):
            z, delta2 = problem.normal_data(y), problem.noise_std**2
            log_mass, mean, covariance = _moments_by_bayes(problem, prior.log_prob(_plane()[0]), y)
            errors += [
                delta2 * log_mass + 0.5 * y.square().sum() - soft_maximum(problem, prior, z),
                mean - invlib.posterior_mean(problem, prior, z),
                covariance - invlib.posterior_covariance(problem, prior, z),
            ]
    worst = max(float(error.abs().max()) for error in errors)
    assert worst < 1e-9
    return {"error": worst}


def control_pe_mixture() -> Numbers:
    """Broken: the prior is no mixture of Gaussians (a product of Laplace densities, covariance I/2).

    The formula for the one Gaussian with its mean and covariance then misses mean and covariance of the posterior.
    """
    problem = LinearProblem([[1.0, 0.3], [0.0, 0.6], [0.4, -0.2]], noise_std=0.6)
    bell = GaussianMixture([1.0], [[0.0, 0.0]], [[[0.5, 0.0], [0.0, 0.5]]])
    gaps = []
    for y in torch.tensor([[0.8, 0.1, 0.3], [-1.2, 0.4, 0.1]], dtype=torch.float64):
        _, mean, covariance = _moments_by_bayes(problem, -2 * _plane()[0].abs().sum(-1), y)
        z = problem.normal_data(y)
        formula = invlib.posterior_moments(problem, bell, z)
        parts = (mean - formula.mean, covariance - formula.covariance)
        gaps += [float(part.abs().max()) for part in parts]
    assert 0.05 < min(gaps) <= max(gaps) < 0.1
    return {"gap": min(gaps)}


# The mean squared error


@dataclass(frozen=True)
class Joint:
    """The joint law of x and z on a grid, for the prior of the puzzle and A = 0.8.

    Attributes:
        x: points of x, (X,).
        z: data, (Z, 1).
        weights: probabilities of the pairs, (Z, X).
        data_weights: probabilities of the data, (Z,), from the closed form of p_Z.
        variance: Var(x | z), (Z,), in closed form.
        estimators: the prior mean, the naive inverse, the MAP estimate and the posterior mean, each (Z,).
    """

    x: Tensor
    z: Tensor
    weights: Tensor
    data_weights: Tensor
    variance: Tensor
    estimators: dict[str, Tensor]

    def error(self, estimate: Tensor) -> float:
        """Return E |f(z) - x|^2 as a double sum, for f of shape (Z,) or a function of z and x, (Z, X)."""
        estimate = estimate[:, None] if estimate.ndim == 1 else estimate
        return float((self.weights * (estimate - self.x) ** 2).sum())

    def distance(self, estimate: Tensor) -> float:
        """Return E |f(z) - x_PM(z)|^2 as a sum over the data."""
        estimate = estimate[:, None] if estimate.ndim == 1 else estimate
        square = (estimate - self.estimators["mean"][:, None]) ** 2
        if square.shape[1] == 1:
            return float(self.data_weights @ square[:, 0])
        return float((self.weights * square).sum())

    @property
    def least(self) -> float:
        """The mean posterior variance, the error of the posterior mean."""
        return float(self.data_weights @ self.variance)


@cache
def joint() -> Joint:
    """Return the joint law on a grid of steps 0.005 in z and 0.004 in x; both tails are cut below 1e-10."""
    problem, x, z = LinearProblem([[0.8]], 0.45), GRID[::4, 0], column(-4.0, 4.0, 1601)
    h, spread, cell = 0.64, 0.45**2 * 0.64, 0.004 * 0.005
    log_noise = -0.5 * (z - h * x) ** 2 / spread - 0.5 * math.log(2 * math.pi * spread)
    weights = (LINE_PRIOR.log_prob(x[:, None]) + log_noise).exp() * cell
    assert abs(float(weights.sum()) - 1) < 1e-9
    return Joint(
        x=x,
        z=z,
        weights=weights,
        data_weights=invlib.data_distribution(problem, LINE_PRIOR).log_prob(z).exp() * 0.005,
        variance=invlib.posterior_covariance(problem, LINE_PRIOR, z)[:, 0, 0],
        estimators={
            "prior-mean": LINE_PRIOR.mean.expand_as(z)[:, 0],
            "naive": z[:, 0] / h,
            "map": invlib.map_estimate(problem, LINE_PRIOR, z)[:, 0],
            "mean": invlib.posterior_mean(problem, LINE_PRIOR, z)[:, 0],
        },
    )


def check_pe_mse() -> Numbers:
    """Compare a double sum over x and z with a sum over z of closed forms, for four estimators.

    Sums over x of smooth functions are exact up to the cut tails; the jump of the MAP estimate in z enters both sides
    in the same way.
    """
    law = joint()
    gaps = [abs(law.error(f) - law.distance(f) - law.least) for f in law.estimators.values()]
    assert max(gaps) < 1e-8
    return {"gap": max(gaps)}


def control_pe_mse() -> Numbers:
    """Broken: f is a map of z. This one sees a tenth of the true x, and is better than the posterior mean."""
    law = joint()
    leak = 0.9 * law.estimators["mean"][:, None] + 0.1 * law.x
    gap = abs(law.error(leak) - law.distance(leak) - law.least)
    assert gap > 1e-2
    assert law.error(leak) < law.least
    return {"gap": gap, "gain": 100 * (1 - math.sqrt(law.error(leak) / law.least))}


GEOMETRIES = ("two bumps", "weights .8, .2", "twice as far", "A narrow, 40°", "A narrow, 122°")


def geometry(name: str, noise_std: float) -> tuple[LinearProblem, GaussianMixture]:
    """Return one of five problems in the plane: the two bumps, and changes of weights, separation and operator."""
    bumps = testproblems.two_bumps((1.6, 1.0)) if name == "twice as far" else testproblems.two_bumps()
    if name.startswith("weights"):
        bumps = GaussianMixture([0.8, 0.2], bumps.means, bumps.covariances)
    if name.startswith("A narrow"):
        return testproblems.epsilon_problem(0.25, noise_std, angle=float(name[-4:-1].strip(" ,"))), bumps
    return LinearProblem(torch.eye(2), noise_std), bumps


def affine_estimate(problem: LinearProblem, prior: GaussianMixture, z: Tensor) -> Tensor:
    """Return the best affine estimate, (..., n), which is Wiener's filter: the posterior mean of a Gaussian prior."""
    bell = GaussianMixture([1.0], prior.mean[None], prior.covariance[None])
    return invlib.posterior_mean(problem, bell, z)


def relative_errors(problem: LinearProblem, prior: GaussianMixture, uniform: Tensor) -> dict[str, float]:
    """Return root mean squared errors of naive inverse, affine and MAP estimate, relative to the posterior mean's.

    By Pythagoras only data are needed: |f - x_PM|^2 on average, and the mean trace of the posterior covariance.

    Args:
        problem: with an injective operator.
        prior: of x.
        uniform: points of the cube, (B, n + 1), that choose the data.
    """
    z = invlib.data_distribution(problem, prior).from_uniform(uniform)
    moments = invlib.posterior_moments(problem, prior, z)
    least = moments.covariance.diagonal(dim1=-2, dim2=-1).sum(-1).mean()
    estimates = {
        "naive": torch.linalg.solve(problem.normal_operator, z.mT).mT,
        "affine": affine_estimate(problem, prior, z),
        "map": invlib.map_estimate(problem, prior, z),
    }
    return {name: float((1 + rms(f - moments.mean) ** 2 / least).sqrt()) for name, f in estimates.items()}


def pythagoras(count: int) -> tuple[list[float], list[float]]:
    """Return mean squared errors of maps, and their mean squared distances to the posterior mean, for `joint`.

    First `count` random blends of its four estimators with waves added, then the four.
    """
    law, generator = joint(), seeded(30)
    maps = torch.stack(list(law.estimators.values()), dim=1)  # (Z, 4)
    blends = torch.rand(count, 4, dtype=torch.float64, generator=generator)
    pitch, height = torch.rand(2, count, dtype=torch.float64, generator=generator)
    waves = 0.6 * height * torch.sin((1 + 4 * pitch) * law.z)
    guesses = torch.cat([maps @ (blends / blends.sum(-1, keepdim=True)).mT + waves, maps], dim=1)
    return [law.error(guess) for guess in guesses.mT], [law.distance(guess) for guess in guesses.mT]


def cost_of_the_choice(levels: Tensor) -> dict[str, dict[str, list[float]]]:
    """Return the relative errors of naive inverse, affine and MAP estimate, for `GEOMETRIES`, over noise levels."""
    uniform = invlib.quasi_uniform(512, 3, seed=0)
    rows = {name: [relative_errors(*geometry(name, at), uniform) for at in levels.tolist()] for name in GEOMETRIES}
    return {
        kind: {name: [row[kind] for row in rows[name]] for name in GEOMETRIES} for kind in ("naive", "affine", "map")
    }


def distances(levels: Tensor, samples: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Return root mean squares, each (L, samples), over data of the two bumps in the plane, for A = Id.

    Of the distance of both estimators, of its leading term, and of the step from the datum to the posterior mean.
    """
    rows, bumps = [], testproblems.two_bumps()
    for level in levels.tolist():
        problem = LinearProblem(torch.eye(2), level)
        law = invlib.data_distribution(problem, bumps)
        for seed in range(samples):
            z = invlib.quasi_sample(law, 512, seed=seed)
            mean, mode = invlib.posterior_mean(problem, bumps, z), invlib.map_estimate(problem, bumps, z)
            rows.append(torch.stack([rms(mode - mean), rms(leading_term(problem, bumps, z)), rms(mean - z)]))
    gaps, leading, moved = torch.stack(rows).reshape(len(levels), samples, 3).unbind(-1)
    return gaps, leading, moved


def leading_term(problem: LinearProblem, prior: GaussianMixture, z: Tensor) -> Tensor:
    """Return delta^4 / 2 times the gradient of the Laplacian of log p_X, (B, n), for z of shape (B, n)."""

    def laplacian(point: Tensor) -> Tensor:
        return prior.hessian(point).diagonal(dim1=-2, dim2=-1).sum()

    gradient: Tensor = torch.func.grad(laplacian)(z)
    return 0.5 * problem.noise_std**4 * gradient


def stretches(problem: LinearProblem, prior: GaussianMixture) -> tuple[float, float]:
    """Return the largest slopes of both estimators at z = 0: 1/c for the MAP estimate, |Cov| / delta^2 for the mean."""
    origin = torch.zeros(problem.dim, dtype=torch.float64)
    covariance = invlib.posterior_covariance(problem, prior, origin)
    norm = float(torch.linalg.matrix_norm(covariance, 2))
    return 1 / float(invlib.map_curvature(problem, prior, origin)), norm / problem.noise_std**2


# MAP estimates


def check_pe_map() -> Numbers:
    """Compare slopes of H - delta^2 s between pairs of points with the least curvature, and data with their minimizers.

    The curvature is an eigenvalue of the Hessian, the slopes are differences of the score. The least slope belongs to a
    close pair across the middle, where it is c up to the square of the distance; otherwise rounding alone is left.
    """
    problem, prior = LinearProblem(torch.eye(2), 0.45), testproblems.two_bumps()
    first, second = prior.sample(2000, generator=seeded(7)).chunk(2)
    second = first + 0.3 * (second - first)  # near and far pairs
    first, second = torch.cat([first, 1e-3 * prior.means]), torch.cat([second, -1e-3 * prior.means])
    c = float(invlib.map_curvature(problem, prior, torch.zeros(2, dtype=torch.float64)))
    change = normal_map(problem, prior, first) - normal_map(problem, prior, second)
    square = (first - second).square().sum(-1)
    slopes = (change * (first - second)).sum(-1) / square
    assert c > 0
    assert -1e-9 < float(slopes.min()) - c < 1e-4

    modes, others = (invlib.map_estimate(problem, prior, z) for z in (first, second))
    residual = float((normal_map(problem, prior, modes) - first).abs().max())
    assert residual < 1e-9
    assert float(invlib.map_curvature(problem, prior, modes).min()) > -1e-9
    assert bool(((modes - others).norm(dim=-1) <= square.sqrt() / c + 1e-12).all())
    return {"residual": residual, "curvature": c}


def newton(z: Tensor) -> Tensor:
    """Return what plain Newton steps for the normal equation of `LINE` reach from x = z, (B, 1): no safeguard."""
    x = z.clone()
    for _ in range(60):
        slope = 1 - LINE.noise_std**2 * LINE_PRIOR.hessian(x)[..., 0]
        x = x - (normal_map(LINE, LINE_PRIOR, x) - z) / slope
    return x


def control_pe_map() -> Numbers:
    """Broken: c > 0 (more noise), and the decay of the prior (ever narrower spikes of growing height).

    Without the first, data that are close have minimizers far apart, and the equation has a solution that is no
    minimizer. Without the second there is no minimizer: J_0 falls like -k^2 / 2 over the spikes.
    """
    problem, prior = LinearProblem(torch.eye(2), 0.8), testproblems.two_bumps()
    saddle, close = torch.zeros(2, dtype=torch.float64), 5e-8 * prior.means[:1]
    ahead, behind = (invlib.map_estimate(problem, prior, z) for z in (close, -close))
    jump = float((ahead - behind).norm())
    assert jump > 1e5 * float((2 * close).norm())
    assert float(normal_map(problem, prior, saddle).norm()) < 1e-12
    assert float(objective(problem, prior, ahead) - objective(problem, prior, saddle)) < -0.01

    k = torch.arange(1.0, 5.0, dtype=torch.float64)[:, None]
    spikes = GaussianMixture(2.0 ** -k[:, 0] / (1 - 2.0**-4), k, (-2 * k**2).exp()[..., None])
    depth = objective(LinearProblem([[1.0]], 1.0), spikes, k)
    assert bool((depth.diff() < -0.5).all())
    assert bool((depth + 0.5 * k[:, 0] ** 2 < 2 + k[:, 0]).all())
    return {"jump": jump}


# Derivatives of the soft maximum


def check_pe_lambda() -> Numbers:
    """Compare derivatives of our Lambda by automatic differentiation with the library's mean, Jacobian and covariance.

    Derivatives are exact, and the matrices have condition numbers below 1e4: 1e-10 leaves four digits of room. The
    projection onto the range of A* accounts for a kernel.
    """
    generator, errors = seeded(2), []
    for m, n, rank in [(1, 1, 1), (2, 2, 2), (5, 3, 3), (2, 3, 2), (3, 3, 2), (2, 5, 1)]:
        problem, prior = problem_of_rank(m, n, rank, generator), random_prior(n, generator, components=3)
        projection, delta2 = range_basis(problem).mT @ range_basis(problem), problem.noise_std**2
        for z in draw_data(problem, prior, 3, generator):
            covariance = invlib.posterior_covariance(problem, prior, z)
            gradient = torch.func.grad(lambda q, p=problem, r=prior: soft_maximum(p, r, q))
            hessian = torch.func.jacrev(gradient)(z)
            jacobian = torch.func.jacrev(lambda q, p=problem, r=prior: invlib.posterior_mean(p, r, q))(z)
            errors += [
                gradient(z) - invlib.posterior_mean(problem, prior, z),
                hessian - covariance / delta2,
                jacobian - covariance @ projection / delta2,
            ]
    worst = max(float(error.abs().max()) for error in errors)
    assert worst < 1e-10
    gap = max(_covariance_gap(gaussian_noise, y) for y in LOCATIONS)
    assert gap < 1e-6  # a difference quotient of step 1e-4
    return {"error": worst, "logistic": gap}


def control_pe_lambda() -> Numbers:
    """Broken: Gaussian noise. With Laplace noise of the same variance, slope and covariance differ (logistic prior)."""
    gap = max(_covariance_gap(laplace_noise, y) for y in LOCATIONS)
    assert gap > 0.1
    return {"gap": 100 * gap, "count": len(LOCATIONS)}


NOISE_STD = 0.7
LOCATIONS = (-2.0, 0.3, 1.7, 4.0)
FREEDOM = 3
"""Degrees of freedom of the noise with Student's distribution."""

LogDensity = Callable[[Tensor], Tensor]


def gaussian_noise(residual: Tensor) -> Tensor:
    """Return the log-density of Gaussian noise, up to a constant."""
    return -0.5 * residual**2 / NOISE_STD**2


def laplace_noise(residual: Tensor) -> Tensor:
    """Return the log-density of Laplace noise of the same variance, up to a constant."""
    return -math.sqrt(2) * residual.abs() / NOISE_STD


def student_noise(residual: Tensor) -> Tensor:
    """Return the log-density of noise with Student's distribution and the same variance, up to a constant."""
    return -0.5 * (FREEDOM + 1) * torch.log1p(residual**2 / (NOISE_STD**2 * (FREEDOM - 2)))


def _covariance_gap(log_noise: LogDensity, y: float, step: float = 1e-4) -> float:
    """Relative difference of the slope of the posterior mean and Var / delta^2, for a logistic prior and A = 1."""
    x = torch.linspace(-30, 30, 60001, dtype=torch.float64)

    def moments(at: float) -> tuple[float, float]:
        weights = torch.softmax(-x - 2 * softplus(-x) + log_noise(at - x), dim=0)
        mean = float(weights @ x)
        return mean, float(weights @ (x - mean) ** 2)

    slope = (moments(y + step)[0] - moments(y - step)[0]) / (2 * step)
    return abs(slope - moments(y)[1] / NOISE_STD**2) / slope


def mean_for(log_noise: LogDensity, z: Tensor) -> Tensor:
    """Return E[x | z] for the prior N(0, 1) and z = x + noise, (B,), by quadrature, for z of shape (B, 1)."""
    x = torch.linspace(-30, 30, 6001, dtype=torch.float64)
    return torch.softmax(-0.5 * x**2 + log_noise(z - x), dim=-1) @ x


def mode_for(log_noise: LogDensity, z: Tensor) -> Tensor:
    """Return the mode of the same posterior, (B,), up to 5e-4, by a search of a grid."""
    x = torch.linspace(-30, 30, 60001, dtype=torch.float64)
    return x[(-0.5 * x**2 + log_noise(z - x)).argmax(dim=-1)]


def collision_of_student(second: float) -> tuple[float, float]:
    """Return a smaller datum with the same posterior mean as `second`, for Student's noise, and this mean."""

    def mean(z: float) -> float:
        return float(mean_for(student_noise, torch.tensor([[z]], dtype=torch.float64)))

    common, low, high = mean(second), 0.0, 2.0  # it rises up to 2
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if mean(middle) < common else (low, middle)
    assert abs(mean(low) - common) < 1e-12
    assert second - low > 1
    return low, common


# Derivatives of the maximum


@dataclass(frozen=True)
class Supremum:
    """The supremum of <z, x> - J_0(x), found by brute force.

    Attributes:
        value: J_0^*(z), (B,).
        lead: by how much it exceeds the highest value near another component of the prior, (B,).
    """

    value: Tensor
    lead: Tensor


def supremum(problem: LinearProblem, prior: GaussianMixture, z: Tensor) -> Supremum:
    """Search a grid of the line or the plane for the highest point near each component, then polish by Newton steps.

    Nothing of the library's search for modes is used.
    """
    axis = torch.linspace(-5, 5, 161, dtype=torch.float64)
    points = torch.cartesian_prod(*problem.dim * [axis]).reshape(-1, problem.dim)
    values = z @ points.mT - objective(problem, prior, points)
    nearest = torch.cdist(points, prior.means).argmin(dim=-1)
    peaks = []
    for component in range(len(prior.weights)):
        x = points[values.masked_fill(nearest != component, -math.inf).argmax(dim=-1)]
        best = (z * x).sum(-1) - objective(problem, prior, x)
        for _ in range(8):
            hessian = problem.normal_operator - problem.noise_std**2 * prior.hessian(x)
            x = x - torch.linalg.solve(hessian, normal_map(problem, prior, x) - z)
            best = torch.maximum(best, (z * x).sum(-1) - objective(problem, prior, x))
        peaks.append(best)
    ordered = torch.stack(peaks).sort(dim=0, descending=True).values
    return Supremum(ordered[0], ordered[0] - ordered[1])


def bimodal(dim: int, generator: torch.Generator) -> tuple[LinearProblem, GaussianMixture]:
    """Return a random problem whose posterior has two modes for many data: a narrow and a wide bump, much noise."""
    direction = torch.randn(dim, dtype=torch.float64, generator=generator)
    distance, weight, first, second = torch.rand(4, dtype=torch.float64, generator=generator).tolist()
    mean = (1.2 + 0.3 * distance) * direction / direction.norm()
    stds = torch.tensor([0.2 + 0.1 * first, 0.4 + 0.1 * second], dtype=torch.float64)
    covariances = stds[:, None, None] ** 2 * torch.eye(dim, dtype=torch.float64)
    prior = GaussianMixture([0.3 + 0.4 * weight, 0.7 - 0.4 * weight], torch.stack([mean, -mean]), covariances)
    return LinearProblem(random_problem(dim, dim, generator).operator / 2, 0.7), prior


def check_pe_conjugate(estimator: Estimator = invlib.map_estimate) -> Numbers:
    """Compare J_0^* by brute force with the MAP estimate: values, difference quotients, monotonicity, injectivity.

    The posteriors have two modes, and a local mode fails: with it, the value falls short of the supremum. Values agree
    up to rounding; difference quotients of step 1e-5 up to 1e-6, at data whose second mode is lower by 1e-3.

    Args:
        estimator: the map that should return global modes.
    """
    generator, errors, slopes, products = seeded(3), [], [], []
    for dim in (1, 1, 1, 2, 2):
        problem, prior = bimodal(dim, generator)
        z = draw_data(problem, prior, 100, generator)
        mode, mean = estimator(problem, prior, z), invlib.posterior_mean(problem, prior, z)
        largest = supremum(problem, prior, z)
        errors.append(largest.value - (z * mode).sum(-1) + objective(problem, prior, mode))
        errors.append((normal_map(problem, prior, mode) - z).flatten())  # so z can be recovered: injectivity

        way = torch.randn(z.shape, dtype=torch.float64, generator=generator)
        ahead, behind = (supremum(problem, prior, z + t * way).value for t in (1e-5, -1e-5))
        slopes.append(((ahead - behind) / 2e-5 - (mode * way).sum(-1))[largest.lead > 1e-3])
        products += [((f[:50] - f[50:]) * (z[:50] - z[50:])).sum(-1) for f in (mode, mean)]
    worst, slope = (float(torch.cat(each).abs().max()) for each in (errors, slopes))
    assert worst < 1e-8
    assert slope < 1e-6
    assert float(torch.cat(products).min()) > 0
    return {"error": worst, "slope": slope}


def local_mode(problem: LinearProblem, prior: GaussianMixture, z: Tensor) -> Tensor:
    """Return the local mode that gradient steps reach from the posterior mean, polished by Newton steps."""
    x = invlib.posterior_mean(problem, prior, z)
    for _ in range(300):
        x = x - 0.05 * (normal_map(problem, prior, x) - z)
    for _ in range(6):
        hessian = problem.normal_operator - problem.noise_std**2 * prior.hessian(x)
        x = x - torch.linalg.solve(hessian, normal_map(problem, prior, x) - z)
    return x


def _fails(check: Callable[[Estimator], Numbers], estimator: Estimator) -> bool:
    try:
        check(estimator)
    except AssertionError:
        return True
    return False


def control_pe_conjugate() -> Numbers:
    """Broken, one at a time: x is a global minimizer (part 1), Gaussian noise (2), two derivatives of the prior (3).

    A local minimizer is no subgradient. With Student's noise the MAP estimate turns back. With a Laplace prior it is
    soft thresholding, which sends an interval of data to zero.
    """
    generator, below = seeded(3), []
    for dim in (1, 1, 1, 2, 2):
        problem, prior = bimodal(dim, generator)
        z = draw_data(problem, prior, 100, generator)
        x = local_mode(problem, prior, z)
        assert float((normal_map(problem, prior, x) - z).abs().max()) < 1e-9  # a critical point
        below.append(supremum(problem, prior, z).value - (z * x).sum(-1) + objective(problem, prior, x))
    missed = torch.cat(below)
    assert float(missed.max()) > 1e-3
    assert float(missed.min()) > -1e-9
    assert _fails(check_pe_conjugate, local_mode)

    data = column(-8.0, 8.0, 161)
    assert bool((mode_for(student_noise, data).diff() < -1e-2).any())  # MAP is not monotone
    b, few = 0.5, column(-0.3, 0.3, 7)
    line = GRID[:, 0]
    thresholded = line[(few * line - 0.5 * line**2 - 0.45**2 * line.abs() / b).argmax(dim=-1)]
    assert bool((thresholded.abs() < 1e-12).all())  # seven data, one MAP estimate
    return {"missed": int((missed > 1e-6).sum()), "of": len(missed), "below": float(missed.max())}


# Temperature


def check_pe_temperature() -> Numbers:
    """Compare x_beta with the MAP estimate, and Lambda_beta - J_0^* with the Gaussian integral around the one maximum.

    What the Gaussian integral leaves is of order 1 / beta^2. For a strictly convex J_0 the error is also taken over an
    interval of data, where it falls as well; for a Gaussian prior x_beta is the MAP estimate for every beta.
    """
    z, delta2 = torch.tensor([[-0.6], [0.0], [0.5], [1.0]], dtype=torch.float64), LINE.noise_std**2
    mode, largest = invlib.map_estimate(LINE, LINE_PRIOR, z), conjugate(LINE, LINE_PRIOR, z)
    curvature = invlib.map_curvature(LINE, LINE_PRIOR, mode)
    means, values = [], []
    for beta in (64, 256, 1024):
        soft, mean = tempered(z, beta)
        laplace = 0.5 * delta2 / beta * (2 * math.pi * delta2 / beta / curvature).log()
        assert float((soft - largest - laplace).abs().max()) < (delta2 / beta) ** 2
        means.append(float((mean - mode[:, 0]).abs().max()))
        values.append(float((soft - largest).abs().max()))
    assert means[2] < 0.4 * means[1] < 0.16 * means[0]
    assert values[2] < 0.4 * values[1] < 0.16 * values[0]

    convex = GaussianMixture([0.5, 0.5], [[0.94], [-0.94]], 2 * [[[0.59**2]]])
    bell = GaussianMixture([1.0], [[0.3]], [[[0.5]]])
    uniform = [_tempered_gap(convex, beta) for beta in (16, 64, 256)]
    assert uniform[2] < 0.7 * uniform[1] < 0.49 * uniform[0]
    gaussian = max(_tempered_gap(bell, beta) for beta in (1, 16, 256))
    assert gaussian < 1e-9
    return {"mean": means[2], "value": values[2], "uniform": uniform[2], "gaussian": gaussian}


def _tempered_gap(prior: GaussianMixture, beta: float) -> float:
    """The largest distance of x_beta and the MAP estimate over data in [-1.5, 1.5], A = 1, delta = 0.45."""
    z, x = column(-1.5, 1.5, 61), column(-6.0, 6.0, 12001)
    exponent = beta * (z * x[:, 0] - objective(LINE, prior, x)) / LINE.noise_std**2
    return float((torch.softmax(exponent, -1) @ x - invlib.map_estimate(LINE, prior, z)).abs().max())


def control_pe_temperature() -> Numbers:
    """Broken: one minimizer. At the Maxwell point x_beta stays far from both modes."""
    z, modes = maxwell_point()
    at = torch.tensor([[z]], dtype=torch.float64)
    jump = float(modes[1] - modes[0])
    away = min(float((modes[:, 0] - tempered(at, beta)[1]).abs().min()) for beta in (64, 256, 1024))
    assert away > 0.4 * jump
    return {"away": away / jump}


# The image of the posterior mean


def data_for(problem: LinearProblem, prior: GaussianMixture, target: Tensor) -> Tensor:
    """Minimize Lambda(z) - <z, target> over z in the range of A* by a damped Newton method, (B, n)."""
    basis = range_basis(problem)

    def value(z: Tensor) -> Tensor:
        return soft_maximum(problem, prior, z) - (z * target).sum(-1)

    z = target @ problem.normal_operator
    for _ in range(25):
        moments = invlib.posterior_moments(problem, prior, z)
        slope = basis @ moments.covariance @ basis.mT / problem.noise_std**2
        way = torch.linalg.solve(slope, (moments.mean - target) @ basis.mT) @ basis
        length = torch.ones(len(z), 1, dtype=torch.float64)
        for _ in range(30):
            worse = value(z - length * way) > value(z) + 1e-13
            length = torch.where(worse[:, None], 0.5 * length, length)
        z = z - length * way
    return z


def misses(problem: LinearProblem, prior: GaussianMixture, generator: torch.Generator) -> Tensor:
    """Return how far the posterior mean stays from 50 targets, near and far, at the best data, (50, n)."""
    target = 4 * torch.randn(50, problem.dim, dtype=torch.float64, generator=generator)
    return invlib.posterior_mean(problem, prior, data_for(problem, prior, target)) - target


@cache
def _disk() -> tuple[Tensor, Tensor]:
    """Points of the unit disk, (P, 2), and their weights, (P,): midpoints in radius, equal angles."""
    radii, angles = (torch.arange(count, dtype=torch.float64) for count in (160, 128))
    r, angle = (radii + 0.5) / 160, 2 * math.pi * angles / 128
    points = torch.stack([torch.outer(r, angle.cos()), torch.outer(r, angle.sin())], dim=-1)
    return points.reshape(-1, 2), r.repeat_interleave(128) / r.sum() / 128


def moments_on(points: Tensor, weights: Tensor, problem: LinearProblem, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return posterior means (B, n) and covariances (B, n, n) for a prior that sits on points (P, n) with weights."""
    exponent = weights.log() + (z @ points.mT - 0.5 * problem.forward(points).square().sum(-1)) / problem.noise_std**2
    posterior = torch.softmax(exponent, dim=-1)
    mean = posterior @ points
    second = torch.einsum("bp,pi,pj->bij", posterior, points, points)
    return mean, second - mean[:, :, None] * mean[:, None, :]


def mean_on_disk(problem: LinearProblem, z: Tensor) -> Tensor:
    """Return the posterior mean, (B, 2), of the uniform prior on the unit disk."""
    return moments_on(*_disk(), problem, z)[0]


def mean_on_segment(problem: LinearProblem, z: Tensor) -> Tensor:
    """Return the posterior mean, (B, 2), of a uniform prior on the segment from -(.8, .6) to (.8, .6): no density."""
    points = column(-1.0, 1.0, 401) * torch.tensor([[0.8, 0.6]], dtype=torch.float64)
    return moments_on(points, torch.full((401,), 1 / 401, dtype=torch.float64), problem, z)[0]


def check_pe_diffeo() -> Numbers:
    """Find data for given targets: all of them for a positive prior; all of the disk, and no others, for one on a disk.

    The targets are reached by minimizing a convex function, as in the proof; the posterior mean at the minimizer, and
    the eigenvalues of the covariance, come from the library (mixtures) or from polar coordinates (disk).
    """
    generator, missed = seeded(8), []
    for m, n in [(1, 1), (2, 2), (4, 3)]:
        problem, prior = random_problem(m, n, generator), random_prior(n, generator, components=3)
        missed.append(float(misses(problem, prior, generator).abs().max()))
    assert max(missed) < 1e-8

    problem, (points, weights) = LinearProblem([[1.0, 0.3], [0.0, 0.6]], 0.5), _disk()
    z = 3 * torch.randn(200, 2, dtype=torch.float64, generator=generator)
    mean, covariance = moments_on(points, weights, problem, z)
    product = ((mean[:100] - mean[100:]) * (z[:100] - z[100:])).sum(-1)
    least = float(torch.linalg.eigvalsh(covariance).min())
    assert float(mean.norm(dim=-1).max()) < 1
    assert least > 0
    assert float(product.min()) > 0

    target = torch.tensor([[0.0, 0.2], [0.5, -0.5], [-0.95, 0.0]], dtype=torch.float64)
    reached, z = target, torch.zeros_like(target)
    for _ in range(60):  # Newton steps for the mean, damped
        reached, covariance = moments_on(points, weights, problem, z)
        way = torch.linalg.solve(covariance, target - reached) * problem.noise_std**2
        z = z + way / (1 + way.norm(dim=-1, keepdim=True)).clamp(max=2)
    assert float((reached - target).abs().max()) < 1e-8
    return {"targets": 50, "missed": max(missed), "radius": float(mean.norm(dim=-1).max()), "least": least}


def control_pe_diffeo() -> Numbers:
    """Broken, one at a time: A is injective, and the prior has a density.

    With a kernel the targets are reached along the range of A* only. A prior on a line gives a singular covariance and
    collisions; a little width undoes them.
    """
    generator = seeded(9)
    for m, n, rank in [(2, 3, 2), (4, 3, 1)]:
        problem, prior = problem_of_rank(m, n, rank, generator), random_prior(n, generator, components=3)
        missed = misses(problem, prior, generator)
        assert float((missed @ range_basis(problem).mT).abs().max()) < 1e-8
        assert float(missed.norm(dim=-1).median()) > 1

    problem = LinearProblem([[1.0, 0.3], [0.0, 0.6]], 0.5)
    along, across = torch.tensor([[0.8, 0.6], [-0.6, 0.8]], dtype=torch.float64)
    z = torch.stack([0.1 * along, 0.1 * along + across, 1.1 * along])  # the first two differ across the line
    means = mean_on_segment(problem, z)
    collision, apart = float((means[1] - means[0]).norm()), float((means[2] - means[0]).norm())
    assert collision < 1e-12
    assert apart > 0.1
    covariance = 0.3 * along.outer(along) + 0.1**2 * torch.eye(2, dtype=torch.float64)
    wide = GaussianMixture([0.5, 0.5], torch.stack([along, -along]), covariance.expand(2, 2, 2))
    assert float(invlib.posterior_mean(problem, wide, z[:2]).diff(dim=0).norm()) > 1e-3
    return {"collision": collision, "apart": apart}


# Jumps


def largest_leap(values: Tensor, x: Tensor, z: Tensor) -> float:
    """Return the largest step of the argmax of z x - J_0(x) over points x, between neighbouring data z (B, 1)."""
    found = x[(z * x - values).argmax(dim=-1)]
    return float(found.diff().abs().max())


def check_pe_jump() -> Numbers:
    """Compare strict convexity, by the curvature of J_0, with unique minimizers, by brute force, on 30 random problems.

    Also: without it, MAP estimates on two sides of a Maxwell point in the plane keep their distance, so that random
    continuous maps miss one of them by half of the jump; and a J_0 that is convex but not strictly.
    """
    generator, agreed = seeded(10), 0
    x, z = torch.linspace(-4, 4, 2001, dtype=torch.float64), column(-3.0, 3.0, 1201)
    for trial in range(30):
        _, prior = bimodal(1, generator)
        bend = float(prior.hessian(x[:, None]).max())  # of log p_X; positive between the bumps
        share = 0.4 + 0.5 * float(torch.rand(1, generator=generator))
        problem = LinearProblem([[1.0]], (share if trial % 2 else 1 / share) / math.sqrt(bend))
        convex = float(invlib.map_curvature(problem, prior, x[:, None]).min()) > 0
        leap = largest_leap(objective(problem, prior, x[:, None]), x, z)
        assert convex == bool(trial % 2)
        assert convex == (leap < 0.1)
        agreed += 1

    plateau = largest_leap((x.abs() - 1).clamp(min=0) ** 3, x, z)
    assert abs(plateau - 2) < 0.2  # convex, not strictly: from one end of the segment to the other
    return {"agreed": agreed, "plateau": plateau, **_half_jump(generator)}


def _half_jump(generator: torch.Generator) -> Numbers:
    """Try 200 random continuous maps and the best one, a constant, beside a Maxwell point in the plane."""
    bumps = testproblems.two_bumps()
    problem, prior = LinearProblem(torch.eye(2), 0.8), GaussianMixture([0.7, 0.3], bumps.means, bumps.covariances)
    side, low, high = bumps.means[:1], -1.0, 1.0  # the heavier bump is at +side
    while high - low > 1e-9:
        middle = 0.5 * (low + high)
        behind = float((invlib.map_estimate(problem, prior, middle * side) * side).sum()) < 0
        low, high = (middle, high) if behind else (low, middle)
    first, second = (invlib.map_estimate(problem, prior, t * side)[0] for t in (low, high))
    jump = float((second - first).norm())

    inner = torch.randn(200, 2, 8, dtype=torch.float64, generator=generator)
    outer = torch.randn(200, 8, 2, dtype=torch.float64, generator=generator)
    values = [torch.tanh(t * side @ inner) @ outer for t in (low, high)]
    errors = torch.stack([(f[:, 0] - x).norm(dim=-1) for f, x in zip(values, (first, second), strict=True)]).amax(0)
    best = float((0.5 * (first + second) - first).norm())
    assert float(errors.min()) > 0.5 * jump - 1e-6
    assert abs(best - 0.5 * jump) < 1e-6
    assert jump > 0.5
    return {"jump": jump, "closest": float(errors.min()) / jump}


def control_pe_jump() -> Numbers:
    """Broken: A is injective. A = (1, 0) and a prior that has one mode, but is not log-concave, along the kernel.

    Then every J_z has one minimizer, which is continuous in z, although J_0 is not convex.
    """
    problem = LinearProblem([[1.0, 0.0]], 0.5)
    covariances = [[[1.0, 0.0], [0.0, 0.04]], [[1.0, 0.0], [0.0, 4.0]]]
    prior = GaussianMixture([0.5, 0.5], [[0.0, 0.0], [0.0, 0.0]], covariances)
    axis = torch.linspace(-4, 4, 401, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    curvature = float(invlib.map_curvature(problem, prior, points[::7]).min())
    assert curvature < -0.01  # J_0 is not convex

    z = torch.stack([torch.linspace(-2, 2, 41, dtype=torch.float64), torch.zeros(41, dtype=torch.float64)], dim=-1)
    values = z @ points.mT - objective(problem, prior, points)
    best, index = values.max(dim=-1)
    found = points[index]
    far = (points[None] - found[:, None]).norm(dim=-1) > 0.1
    assert bool((values.masked_fill(~far, -math.inf).amax(dim=-1) < best - 1e-4).all())  # one minimizer
    assert float((found[:, 0] - z[:, 0] / 1.25).abs().max()) < 0.011
    assert float(found[:, 1].abs().max()) < 1e-12
    return {"curvature": curvature}
