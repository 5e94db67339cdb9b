"""Checks of the chapter on reconstruction training, one function a statement, each with its control; its machinery."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

import invlib
from checks.tools import bumps, column, random_prior, rms, seeded
from invlib import GaussianMixture, IResNet, LinearProblem, testproblems
from invlib.training import Strategy

Map = Callable[[Tensor], Tensor]
Numbers = dict[str, float]
Parameters = dict[str, Tensor]


# The two directions


def ideal_forward(problem: LinearProblem, prior: GaussianMixture, x: Tensor) -> Tensor:
    """Return phi_rec(x), (..., n): solve posterior_mean(z) = x by Newton's method with step halving.

    Raises:
        AssertionError: if a point is not reached, up to 1e-10.
    """
    z = x @ problem.normal_operator
    residual = invlib.posterior_mean(problem, prior, z) - x
    for _ in range(40):
        size = residual.norm(dim=-1, keepdim=True)
        if float(size.max()) < 1e-13:
            break
        jacobian = invlib.posterior_covariance(problem, prior, z) / problem.noise_std**2
        step = torch.linalg.solve(jacobian, residual[..., None])[..., 0]
        length = torch.ones_like(size)
        for _ in range(12):
            new = invlib.posterior_mean(problem, prior, z - length * step) - x
            worse = (new.norm(dim=-1, keepdim=True) > size) & (size > 1e-13)
            if not bool(worse.any()):
                break
            length = torch.where(worse, 0.5 * length, length)
        z = z - length * step
        residual = invlib.posterior_mean(problem, prior, z) - x
    assert residual.norm(dim=-1).max() < 1e-10
    return z


def posterior_variance(problem: LinearProblem, prior: GaussianMixture, z: Tensor) -> Tensor:
    """Return tr Cov(x | z), (...)."""
    return invlib.posterior_covariance(problem, prior, z).diagonal(dim1=-2, dim2=-1).sum(-1)


@dataclass(frozen=True)
class Case:
    """A prior and a problem.

    Attributes:
        prior: the distribution of x.
        problem: the problem.
    """

    prior: GaussianMixture
    problem: LinearProblem

    @property
    def delta(self) -> float:
        """Return the noise level."""
        return self.problem.noise_std

    @property
    def law(self) -> GaussianMixture:
        """Return the distribution of z."""
        return invlib.data_distribution(self.problem, self.prior)

    def clean(self, x: Tensor) -> Tensor:
        """Return H x."""
        return x @ self.problem.normal_operator

    def forward(self, x: Tensor) -> Tensor:
        """Return phi_rec(x)."""
        return ideal_forward(self.problem, self.prior, x)

    def map_forward(self, x: Tensor) -> Tensor:
        """Return H x - delta^2 s(x), at which training with the divergence term aims."""
        return self.clean(x) - self.delta**2 * self.prior.score(x)

    def mean(self, z: Tensor) -> Tensor:
        """Return the posterior mean."""
        return invlib.posterior_mean(self.problem, self.prior, z)

    def mode(self, z: Tensor) -> Tensor:
        """Return the MAP estimate."""
        return invlib.map_estimate(self.problem, self.prior, z)

    def naive(self, z: Tensor) -> Tensor:
        """Return H^{-1} z."""
        x: Tensor = torch.linalg.solve(self.problem.normal_operator, z.mT).mT
        return x

    def wiener(self, z: Tensor) -> Tensor:
        """Return the affine map with the least mean squared error."""
        noise2, inverse = self.delta**2, torch.linalg.inv(self.prior.covariance)
        shifted = z + noise2 * inverse @ self.prior.mean
        x: Tensor = torch.linalg.solve(self.problem.normal_operator + noise2 * inverse, shifted.mT).mT
        return x

    def floor(self) -> float:
        """Return the root mean square length of the noise of z."""
        return self.delta * math.sqrt(float(self.problem.normal_operator.trace()))

    def data(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return fresh pairs of the unknown and its data, (B, n) each."""
        truth = self.prior.sample(count, generator=generator)
        return truth, self.problem.normal_data(self.problem.measure(truth, generator=generator))

    def backward_errors(self, truth: Tensor, z: Tensor, found: Tensor) -> Numbers:
        """Return root mean square errors against the truth; of the networks' answers (E, B, n), the worst.

        Also `to_mean`, the worst distance of an answer to the posterior mean over that of MAP and mean.
        """
        mean, mode = self.mean(z), self.mode(z)
        answers = {"naive": self.naive(z), "wiener": self.wiener(z), "map": mode, "network": found, "mean": mean}
        errors = {name: float(rms(x - truth).max()) for name, x in answers.items()}
        return errors | {"to_mean": float(rms(found - mean).max() / rms(mean - mode))}

    def forward_errors(self, x: Tensor, predicted: Tensor) -> Numbers:
        """Return root mean square forward errors: exact ones, and those of the networks' predictions (E, B, n).

        `off` is the worst distance of a network to phi_rec, and `residual` what the theorem's equation misses for it,
        both over the exact error; the residual uses the score of the data and no inversion.
        """
        exact, clean = self.forward(x), self.clean(x)
        error = rms(exact - clean)
        step = self.delta**2 * self.clean(self.law.score(predicted))
        return {
            "noise": self.floor(),
            "exact": float(error),
            "network": float(rms(predicted - clean).mean()),
            "star": float(rms(self.map_forward(x) - clean)),
            "off": float((rms(predicted - exact) / error).max()),
            "residual": float((rms(predicted - clean + step) / error).max()),
            "share": float(error) / self.floor(),
        }


SKEWED = [[1.0, 0.3], [0.0, 0.6]]

GEOMETRIES = {
    "identity": Case(bumps(), LinearProblem(torch.eye(2), 0.45)),
    "skewed": Case(bumps(), LinearProblem(SKEWED, 0.45)),
    "unequal": Case(bumps(0.8), testproblems.epsilon_problem(0.6, 0.45, angle=122)),
    "apart": Case(bumps(scale=1.4), testproblems.epsilon_problem(0.6, 0.45, angle=32)),
}
"""The book's bumps with two operators; weights 0.8 and 0.2, weak direction across the axis of the bumps; means that are
1.4 times as far apart, weak direction along the axis."""

NOISY = Case(bumps(), LinearProblem(torch.eye(2), 1.0))


# Two bumps on the line, by hand


def two_bumps_mean(z: Tensor, m: float, s: float, delta: float) -> Tensor:
    """Return the posterior mean for the bumps N(+-m, s^2) of equal weight and A = 1."""
    v = s**2 + delta**2
    return (s**2 * z + delta**2 * m * torch.tanh(m * z / v)) / v


def two_bumps_backward(x: float, m: float, s: float, delta: float) -> float:
    """Return the datum whose posterior mean is x, by bisection."""
    f = lambda z: float(two_bumps_mean(torch.tensor(z, dtype=torch.float64), m, s, delta)) - x  # noqa: E731
    return float(optimize.brentq(f, -50, 50, xtol=1e-13))


# Quadrature over unknown and noise


def hermite(count: int, dim: int) -> tuple[Tensor, Tensor]:
    """Return nodes (count^dim, dim) and weights of a standard normal vector."""
    nodes, weights = (torch.from_numpy(values) for values in np.polynomial.hermite_e.hermegauss(count))
    points, products = (torch.cartesian_prod(*[values] * dim).reshape(-1, dim) for values in (nodes, weights))
    return points, products.prod(-1) / products.prod(-1).sum()


def mixture_nodes(mixture: GaussianMixture, count: int) -> tuple[Tensor, Tensor]:
    """Return quadrature points (P, n) and weights (P,) of a mixture, component by component."""
    nodes, weights = hermite(count, mixture.dim)
    points = mixture.means[:, None] + nodes @ mixture.factors.mT
    return points.flatten(0, 1), (mixture.weights[:, None] * weights).flatten()


def joint_nodes(case: Case, count: int, correlation: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return quadrature points x (N, n) and z (N, M, n), the noise of z having the covariance delta^2 H, and weights.

    With a correlation, the noise depends on x, but keeps its covariance.
    """
    x, weight_x = mixture_nodes(case.prior, count)
    nodes, weight_noise = hermite(count, case.prior.dim)
    root = case.delta * torch.linalg.cholesky(case.problem.normal_operator)
    whitening = torch.linalg.inv(torch.linalg.cholesky(case.prior.covariance))
    standard_x = (x - case.prior.mean) @ whitening.mT
    standard = math.sqrt(1 - correlation**2) * nodes + correlation * standard_x[:, None]
    return x, case.clean(x)[:, None] + standard @ root.mT, weight_x[:, None] * weight_noise


def random_map(dim: int, generator: torch.Generator) -> Map:
    """Return B z + C sin(D z / 3 + e): smooth, nonlinear, of size one."""
    b, c, d = torch.randn(3, dim, dim, dtype=torch.float64, generator=generator)
    e = torch.randn(dim, dtype=torch.float64, generator=generator)
    return lambda z: z @ b.mT + torch.sin(z @ d.mT / 3 + e) @ c.mT


def literal_loss(psi: Map, case: Case, correlation: float = 0.0) -> float:
    """Return the reconstruction loss as it is written, an average over x and over the noise of z."""
    x, z, weight = joint_nodes(case, 20, correlation)
    return 0.5 * float((weight * (psi(z) - x[:, None]).square().sum(-1)).sum())


def random_cases(seed: int, shapes: list[tuple[int, int]]) -> Iterator[tuple[Case, torch.Generator]]:
    """Yield random cases of shapes (m, n) with singular values in [0.5, 1.5], and a generator to go on with."""
    generator = seeded(seed)
    for m, n in shapes:
        operator = torch.randn(m, n, dtype=torch.float64, generator=generator)
        left, _, right = torch.linalg.svd(operator, full_matrices=False)
        singular = 0.5 + torch.rand(n, dtype=torch.float64, generator=generator)
        yield Case(random_prior(n, generator), LinearProblem((left * singular) @ right, 0.6)), generator


@dataclass(frozen=True)
class OnTheLine:
    """x from a mixture of two Gaussians, z = h x + sqrt(h) eta with any law of eta, by sums over a lattice of (x, z).

    Attributes:
        z: data, (Z,).
        p_z: their weights, (Z,).
        joint: the weights of the pairs, (Z, X).
        kernel_score: d/dz log p(z | x), (Z, X).
        x: unknowns, (X,).
        h: the operator of the normal equation.
        delta2: the variance of eta.
    """

    z: Tensor
    p_z: Tensor
    joint: Tensor
    kernel_score: Tensor
    x: Tensor
    h: float
    delta2: float

    def unfaithful(self) -> float:
        """Return what the theorem's equation misses, over the forward error."""
        mean, score = self.joint @ self.x / self.p_z, (self.joint * self.kernel_score).sum(1) / self.p_z
        step = self.z - self.h * mean  # phi_rec(x) - h x at x = mean
        missed = step + self.delta2 * self.h * score
        return float((self.p_z @ missed.square() / (self.p_z @ step.square())).sqrt())

    def jacobian(self) -> float:
        """Return what x_PM' = Var(x | z) / delta^2 misses, relative."""
        mean = self.joint @ self.x / self.p_z
        variance = self.joint @ self.x.square() / self.p_z - mean.square()
        slope = torch.gradient(mean, spacing=(self.z,))[0]
        missed = slope - variance / self.delta2
        return float((self.p_z @ missed.square() / (self.p_z @ slope.square())).sqrt())

    def denoising(self, f: Map) -> float:
        """Return what the first line of the score matching identity misses, relative to the loss."""
        psi = self.z / self.h + self.delta2 * f(self.z)
        loss = 0.5 * (self.joint * (psi[:, None] - self.x).square()).sum()
        denoising = 0.5 * (self.joint * (f(self.z)[:, None] - self.kernel_score).square()).sum()
        return float((self.delta2**2 * denoising - loss).abs() / loss)


@cache
def on_the_line(*, heavy: bool) -> OnTheLine:
    """Return the setting on the line, with Gaussian noise, or with a mixture of two levels of the same variance."""
    variances = [0.05, 0.45] if heavy else [0.25, 0.25]
    noise = GaussianMixture([0.5, 0.5], [[0.0], [0.0]], [[[v]] for v in variances])
    law_x = GaussianMixture([0.6, 0.4], [[-0.8], [0.9]], [[[0.5**2]], [[0.4**2]]])
    assert abs(float(noise.covariance) - 0.25) < 1e-12
    h, x, z = 0.7, column(-5, 5, 1001), column(-5, 5, 1001)
    root = math.sqrt(h)
    eta = ((z - h * x[:, 0]) / root)[..., None]
    cell = float((x[1] - x[0]) * (z[1] - z[0]))
    joint = cell * (law_x.log_prob(x) + noise.log_prob(eta)).exp() / root
    return OnTheLine(z[:, 0], joint.sum(1), joint, noise.score(eta)[..., 0] / root, x[:, 0], h, 0.25)


# The minimizer


def split_gap(case: Case, psi: Map, correlation: float = 0.0) -> float:
    """Return the relative gap of the loss, an integral over x and noise, and its split, an integral over the data."""
    z, weight = mixture_nodes(case.law, 60)
    spread = float(weight @ posterior_variance(case.problem, case.prior, z))
    right = 0.5 * (float(weight @ (psi(z) - case.mean(z)).square().sum(-1)) + spread)
    return abs(literal_loss(psi, case, correlation) - right) / right


def jacobian_gap(case: Case, x: Tensor, step: float = 1e-4) -> float:
    """Return the largest relative distance of difference quotients of phi_rec to delta^2 Cov(x | z)^{-1}."""
    axes = torch.eye(case.prior.dim, dtype=torch.float64)
    ahead, back = (torch.stack([case.forward(x + h * axis) for axis in axes], dim=-1) for h in (step, -step))
    spread = invlib.posterior_covariance(case.problem, case.prior, case.forward(x))
    formula = case.delta**2 * torch.linalg.inv(spread)
    gap = (ahead - back) / (2 * step) - formula
    return float((gap.norm(dim=(-1, -2)) / formula.norm(dim=(-1, -2))).max())


def check_rc_minimizer() -> Numbers:
    """Compare the loss, averaged over unknown and noise, with its split, averaged over data, for random maps.

    Gauss-Hermite sums on both sides, good to 1e-6 and better; the closed forms of posterior mean and covariance occur
    on the right only. Then difference quotients of the inverted posterior mean with the formula for the Jacobian:
    step^2 times third derivatives, and Newton's 1e-13 over the step.
    """
    gaps, jacobians = [], []
    for case, generator in random_cases(1, [(2, 2), (4, 2)]):
        gaps += [split_gap(case, random_map(2, generator)) for _ in range(3)]
        jacobians.append(jacobian_gap(case, case.prior.sample(50, generator=generator)))
    assert max(gaps) < 1e-5
    assert max(jacobians) < 1e-5
    return {"gap": max(gaps), "jacobian": max(jacobians)}


def control_rc_minimizer() -> Numbers:
    """Break the assumptions on the noise: it is correlated with x; it is not Gaussian (then the Jacobian is another).

    With Gaussian noise the sums on the line satisfy the formula up to the square of their step.
    """
    gaps = [
        split_gap(case, random_map(2, generator), correlation=0.3)
        for case, generator in random_cases(1, [(2, 2), (4, 2)])
        for _ in range(3)
    ]
    gaussian, heavy = (on_the_line(heavy=flag).jacobian() for flag in (False, True))
    assert max(gaps) > 1e-2
    assert gaussian < 1e-3
    assert heavy > 0.05
    return {"dependent": 100 * max(gaps), "heavy": 100 * heavy}


# Unfaithfulness


def app_of_rec_gap(case: Case, correlation: float = 0.0) -> float:
    """Return the relative gap of L_app(phi_rec), literally over x and noise, and what the theorem says."""
    x, z, weight = joint_nodes(case, 8, correlation)
    forward = case.forward(x)
    loss = 0.5 * float((weight * (forward[:, None] - z).square().sum(-1)).sum())
    step = case.clean(case.law.score(forward))
    mean_square = case.delta**4 * float(weight.sum(-1) @ step.square().sum(-1))
    return abs(loss / (0.5 * case.floor() ** 2 + 0.5 * mean_square) - 1)


def check_rc_unfaithful() -> Numbers:
    """Compare phi_rec(x) - H x, by inverting the posterior mean, with the score of the data's closed form.

    No score occurs on the left, no conditioning on the right. Newton's residual of 1e-10 over slopes above 1e-2. The
    approximation loss uses the same points on both sides: rounding and Newton's residual.
    """
    gaps, losses = [], []
    for case, generator in random_cases(2, [(1, 1), (2, 2), (4, 2), (3, 3), (5, 3)]):
        x = case.prior.sample(200, generator=generator)
        z = case.forward(x)
        gaps.append(float((z - case.clean(x) + case.delta**2 * case.clean(case.law.score(z))).abs().max()))
        if case.prior.dim < 3:
            losses.append(app_of_rec_gap(case))
    assert max(gaps) < 1e-8
    assert max(losses) < 1e-9
    return {"gap": max(gaps), "loss": max(losses)}


def control_rc_unfaithful() -> Numbers:
    """Break the assumptions on the noise: it depends on x, and the loss is another; it is not Gaussian.

    With Gaussian noise the sums on the line satisfy the equation to rounding.
    """
    losses = [app_of_rec_gap(case, correlation=0.3) for case, _ in random_cases(2, [(1, 1), (2, 2), (4, 2)])]
    gaussian, heavy = (on_the_line(heavy=flag).unfaithful() for flag in (False, True))
    assert min(losses) > 0.02
    assert gaussian < 1e-9
    assert heavy > 0.05
    return {"dependent": 100 * min(losses), "heavy": 100 * heavy}


# Small noise


def order_of(first: float, second: float) -> float:
    """Return the order, from errors at a noise level and at half of it."""
    return math.log2(first / second)


def check_rc_small_noise() -> Numbers:
    """Compare phi_rec, by inverting the posterior mean, with H x - delta^2 s(x), and its error with the limit.

    The orders of the remainder are observed between 0.05 and 0.025; the mean square is summed over Gauss-Hermite
    points. Four priors and operators.
    """
    orders, ratios = [], []
    for case in GEOMETRIES.values():
        x, weight = mixture_nodes(case.prior, 24)
        fisher = float(weight @ case.prior.score(x).square().sum(-1))
        remainders = []
        for delta in (0.05, 0.025):
            now = Case(case.prior, LinearProblem(case.problem.operator, delta))
            forward = now.forward(x)
            remainders.append(float((weight @ (forward - now.map_forward(x)).square().sum(-1)).sqrt()))
        orders.append(order_of(*remainders))
        ratios.append(float(weight @ (forward - now.clean(x)).square().sum(-1)) / (0.025**4 * fisher))
    assert all(3.8 < order < 4.2 for order in orders)
    assert max(abs(ratio - 1) for ratio in ratios) < 0.02
    return {"least": min(orders), "most": max(orders), "ratio": 100 * max(abs(ratio - 1) for ratio in ratios)}


def laplace_remainder(delta: float) -> float:
    """Return the largest |phi_rec(x) - x + delta^2 s(x)|, x in (0, 1), for the Laplace prior exp(-|x|) / 2 and A = 1.

    Its data density is a closed form in the normal distribution function, and Tweedie's formula gives the mean.
    """
    z = torch.linspace(1e-3, 1.0, 1000, dtype=torch.float64) * (1 + delta**2)
    right = torch.exp(-z) * torch.special.ndtr(z / delta - delta)
    left = torch.exp(z) * torch.special.ndtr(-z / delta - delta)
    found = z + delta**2 * (left - right) / (left + right)
    inside = (found > 0) & (found < 1)
    return float((z - found - delta**2)[inside].abs().max())  # s(x) = -1


def control_rc_small_noise() -> Numbers:
    """Break the assumption on the prior: a density whose score jumps. The remainder has the order two only."""
    order = order_of(laplace_remainder(0.05), laplace_remainder(0.025))
    assert order < 2.1
    return {"kinked": order}


# Score matching


def dsm_gaps(case: Case, f: Map) -> tuple[float, float]:
    """Return the relative gaps of the two lines, for one residual f."""
    inverse, delta = torch.linalg.inv(case.problem.normal_operator), case.delta
    loss = literal_loss(lambda z: z @ inverse + delta**2 * f(z), case)
    x, z, weight = joint_nodes(case, 20)
    kernel_score = -(z - case.clean(x)[:, None]) @ inverse / delta**2  # of the noise N(0, delta^2 H)
    denoising = 0.5 * float((weight * (f(z) - kernel_score).square().sum(-1)).sum())
    z, weight = mixture_nodes(case.law, 60)
    explicit = 0.5 * float(weight @ (f(z) - case.law.score(z)).square().sum(-1))
    constant = 0.5 * float(weight @ posterior_variance(case.problem, case.prior, z))
    return abs(delta**4 * denoising - loss) / loss, abs(delta**4 * explicit + constant - loss) / loss


def check_rc_dsm() -> Numbers:
    """Compare both lines with the loss as it is written, for random f; Gauss-Hermite sums, good to 1e-5 and better.

    The first line uses the noise only, on the same points as the loss; the second the score of the data and the
    posterior covariance, on other points.
    """
    gaps = [
        gap
        for case, generator in random_cases(6, [(2, 2), (3, 2)])
        for _ in range(3)
        for gap in dsm_gaps(case, random_map(2, generator))
    ]
    assert max(gaps) < 1e-4
    return {"gap": max(gaps)}


def control_rc_dsm() -> Numbers:
    """Break the assumption on the noise: it is not Gaussian. With Gaussian noise the same sums agree to rounding."""
    gaussian, heavy = (on_the_line(heavy=flag).denoising(torch.sin) for flag in (False, True))
    assert gaussian < 1e-9
    assert heavy > 0.05
    return {"heavy": 100 * heavy}


# Gradient noise


def tanh_layer(theta: Parameters, point: Tensor) -> Tensor:
    """Return W tanh(V point / 3 + b) for one point (2)."""
    return theta["w"] @ torch.tanh(theta["v"] @ point / 3 + theta["b"])


@dataclass(frozen=True)
class Family:
    """Maps `best` + layer_theta - layer_start: equal to `best` at the parameter `start`, nonlinear in theta."""

    start: Parameters

    def gradients(self, theta: Parameters, inputs: Tensor, best: Tensor, targets: Tensor) -> Tensor:
        """Return the gradient of half the squared error of each sample, (B, P), by automatic differentiation."""

        def loss(theta: Parameters, point: Tensor, value: Tensor, target: Tensor) -> Tensor:
            psi = value + tanh_layer(theta, point) - tanh_layer(self.start, point)
            return 0.5 * (psi - target).square().sum()

        parts = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0))(theta, inputs, best, targets)
        return torch.cat([part.flatten(1) for part in parts.values()], dim=-1)

    def jacobians(self, theta: Parameters, inputs: Tensor) -> Tensor:
        """Return the derivative of the map in theta, (B, 2, P)."""
        parts = torch.vmap(torch.func.jacrev(tanh_layer), in_dims=(None, 0))(theta, inputs)
        return torch.cat([part.flatten(2) for part in parts.values()], dim=-1)


def random_family(generator: torch.Generator, units: int = 3) -> Family:
    """Return a family with random start."""
    shapes = {"w": (2, units), "v": (units, 2), "b": (units,)}
    return Family({k: torch.randn(s, dtype=torch.float64, generator=generator) for k, s in shapes.items()})


def covariance_gaps(case: Case, family: Family, theta: Parameters, correlation: float = 0.0) -> Numbers:
    """Return relative gaps of the covariances of gradients and their formulas, and of the means and zero.

    Left: gradients of single samples, by automatic differentiation, averaged over unknown and noise. Right: posterior
    covariances and derivatives in theta, averaged over the data; for the forward loss, over the unknown.
    """
    x, z, weight = joint_nodes(case, 20, correlation)
    targets, data, weight = x[:, None].expand_as(z).flatten(0, 1), z.flatten(0, 1), weight.flatten()
    keep = weight > 1e-14
    targets, data, weight = targets[keep], data[keep], weight[keep]
    sampled = {
        "backward": family.gradients(theta, data, case.mean(data), targets),
        "forward": family.gradients(theta, targets, case.clean(targets), data),
    }
    at, w = mixture_nodes(case.law, 40)
    jacobian = family.jacobians(theta, at)
    inner = invlib.posterior_covariance(case.problem, case.prior, at)
    nodes, w_x = mixture_nodes(case.prior, 40)
    ahead = family.jacobians(theta, nodes)
    h = case.delta**2 * case.problem.normal_operator
    formulas = {
        "backward": torch.einsum("b,bip,bij,bjq->pq", w, jacobian, inner, jacobian),
        "forward": torch.einsum("b,bip,ij,bjq->pq", w_x, ahead, h, ahead),
    }
    gaps = {}
    for name, g in sampled.items():
        mean = weight @ g
        covariance = (weight[:, None] * g).mT @ g - mean[:, None] * mean
        gaps[name] = float((covariance - formulas[name]).norm() / formulas[name].norm())
        gaps[f"{name}_mean"] = float(mean.norm() / formulas[name].trace().sqrt())
    return gaps


def check_rc_noise() -> Numbers:
    """Compare covariances of gradients of single samples, over unknown and noise, with the two formulas.

    A family that is nonlinear in its parameters and passes through the posterior mean, and through H. Gauss-Hermite
    sums of functions with the curvature of posterior means: good to 1e-4.
    """
    found = []
    for case, generator in random_cases(8, [(2, 2), (3, 2)]):
        family = random_family(generator)
        found.append(covariance_gaps(case, family, family.start))
    worst = max(max(gaps.values()) for gaps in found)
    assert worst < 1e-3
    return {"gap": worst}


def control_rc_noise() -> Numbers:
    """Break the assumptions: the map is not the best one; the noise is correlated with the unknown.

    In both cases the gradients have a mean, for both losses, and their covariances are others.
    """
    away, dependent = [], []
    for case, generator in random_cases(8, [(2, 2), (3, 2)]):
        family = random_family(generator)
        shifted = {name: value + 0.4 for name, value in family.start.items()}
        away.append(covariance_gaps(case, family, shifted))
        dependent.append(covariance_gaps(case, family, family.start, correlation=0.3))
    least = min(min(gaps.values()) for gaps in away)
    correlated = min(gaps[f"{name}_mean"] for gaps in dependent for name in ("backward", "forward"))
    assert least > 5e-3
    assert correlated > 5e-3
    return {"away": 100 * least, "dependent": 100 * correlated}


@dataclass(frozen=True)
class Strips:
    """Averages of pairs over vertical strips of the datum along a line.

    Attributes:
        at: mean datum, (S,).
        mean: of the unknown.
        exact: of the posterior mean at the same data.
        error: standard error of the mean.
        score: mean score of the noise kernel.
    """

    at: Tensor
    mean: Tensor
    exact: Tensor
    error: Tensor
    score: Tensor


def strips(case: Case, x: Tensor, z: Tensor, along: Tensor) -> Strips:
    """Return averages of pairs with A = Id, over 14 strips, along a direction."""
    datum, unknown, exact = z @ along, x @ along, case.mean(z) @ along
    edges = torch.linspace(-2.1, 2.1, 15, dtype=torch.float64)
    rows = []
    for left, right in pairwise(edges):
        inside = (datum >= left) & (datum < right)
        at, mean, best = (values[inside].mean() for values in (datum, unknown, exact))
        error = (unknown - exact)[inside].std() / inside.sum() ** 0.5
        rows.append(torch.stack([at, mean, best, error, (mean - at) / case.delta**2]))
    return Strips(*torch.stack(rows).T)


# Gradient noise of networks


def member(net: IResNet, index: int) -> IResNet:
    """Return one member of an ensemble, in double precision."""
    alone = IResNet(net.dim, dtype=torch.float64).requires_grad_(False)
    for mine, shared in zip(alone.parameters(), net.parameters(), strict=True):
        mine.copy_(shared.detach()[index : index + 1])
    return alone


def parameter_jacobian(net: IResNet, points: Tensor) -> Tensor:
    """Return the derivative of net(x) in all parameters, at fixed points, (B, n, P)."""

    def value(parameters: Parameters, point: Tensor) -> Tensor:
        output: Tensor = torch.func.functional_call(net, parameters, (point[None],))
        return output[0]

    parameters = {name: values.detach() for name, values in net.named_parameters()}
    parts = torch.vmap(torch.func.jacrev(value), in_dims=(None, 0))(parameters, points)
    return torch.cat([part.flatten(2) for part in parts.values()], dim=-1)


def inverse_jacobian(net: IResNet, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return psi(z), (B, n), and its derivative in all parameters, (B, n, P), by the implicit formula."""
    found = net.inverse(z)
    _, slope = net.forward_and_jacobian(found)
    return found, -torch.linalg.solve(slope, parameter_jacobian(net, found))


@dataclass(frozen=True)
class Cloud:
    """Gradients of single samples in some directions of the parameters.

    Attributes:
        gradients: (B, D).
        quiet: the same with the noise averaged for each x, (B, D); zero for the reconstruction, where it is unknown.
        formula: the covariance by the proposition, (D, D), of each sample, (B, D, D).
        other: the variances with the covariance of the prior instead, (D,).
    """

    gradients: Tensor
    quiet: Tensor
    formula: Tensor
    other: Tensor

    def variance(self) -> Tensor:
        """Return the measured variances, (D,)."""
        return self.gradients.var(0)

    def predicted(self) -> Tensor:
        """Return the covariance by the proposition, (D, D)."""
        return self.formula.mean(0)

    def deviations(self) -> tuple[float, float]:
        """Return the largest mean, and the largest excess of a mean square over the formula, in standard errors."""
        root = len(self.gradients) ** 0.5
        mean = self.gradients.mean(0) / self.gradients.std(0) * root
        paired = self.gradients.square() - self.formula.diagonal(dim1=-2, dim2=-1)
        return float(mean.abs().max()), float((paired.mean(0) / paired.std(0) * root).abs().max())


def cloud(case: Case, net: IResNet, x: Tensor, z: Tensor, *, backward: bool, directions: int = 40) -> Cloud:
    """Return the gradients of a network that was trained by reconstruction (`backward`) or by approximation.

    The directions are those of the largest variance by the formula, from the last 300 samples, which are not used
    again.
    """
    h = case.delta**2 * case.problem.normal_operator

    def parts_of(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if backward:
            value, jacobian = inverse_jacobian(net, z)
            inner = invlib.posterior_covariance(case.problem, case.prior, z)
            return jacobian, value - x, torch.zeros_like(x), inner
        value, jacobian = net(x), parameter_jacobian(net, x)
        return jacobian, value - z, value - case.clean(x), h.expand(len(x), *h.shape)

    jacobian, _, _, inner = parts_of(x[-300:], z[-300:])
    roots = (torch.linalg.cholesky(inner).mT @ jacobian).flatten(0, 1)
    axes = torch.linalg.svd(roots, full_matrices=False).Vh[:directions].mT
    found = []
    for x_part, z_part in zip(x[:-300].split(300), z[:-300].split(300), strict=True):
        jacobian, residual, quiet, inner = parts_of(x_part, z_part)
        along = jacobian @ axes
        gradient, still = ((r[:, None] @ along)[:, 0] for r in (residual, quiet))
        wrong = (along.mT @ case.prior.covariance @ along).diagonal(dim1=-2, dim2=-1)
        found.append((gradient, still, along.mT @ inner @ along, wrong))
    gradients, still, formula, wrong = (torch.cat(pieces) for pieces in zip(*found, strict=True))
    return Cloud(gradients, still, formula, wrong.mean(0))


def ellipse(covariance: Tensor, deviations: float = 2.0) -> Tensor:
    """Return the ellipse of a covariance at so many standard deviations, (2, 121)."""
    angle = torch.linspace(0, 2 * math.pi, 121, dtype=torch.float64)
    curve: Tensor = deviations * torch.linalg.cholesky(covariance) @ torch.stack([angle.cos(), angle.sin()])
    return curve


# A heuristic: the affine probe


def with_one(points: Tensor) -> Tensor:
    """Return (x, 1)."""
    return torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)


def probe(prior: GaussianMixture, delta: float, x: Tensor, noise: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return for each loss, A = Id, the inputs w and the matrices E whose mean is the correction times mean w w*."""
    case = Case(prior, LinearProblem(torch.eye(2), delta))
    z = x + delta * noise
    w_x, w_z = with_one(x), with_one(z)
    trace_term = torch.eye(2, 3, dtype=torch.float64)

    def outer(a: Tensor, b: Tensor) -> Tensor:
        return a[..., None] * b[..., None, :]

    return {
        "reconstruction": (w_z, outer(x - case.mean(z), w_z)),
        "approximation": (w_x, outer(z - x, w_x)),
        "divergence": (w_x, delta**2 * (outer(prior.score(x), w_x) + trace_term)),
    }


def needed(prior: GaussianMixture, delta: float, seed: int = 9) -> Numbers:
    """Return for each loss kappa / (delta^4 I_X), from the variance of single samples; quasi-random averages."""
    uniform = invlib.quasi_uniform(2**14, 5, seed=seed)
    x, noise = prior.from_uniform(uniform[:, :3]), torch.special.ndtri(uniform[:, 3:])
    found = {}
    for name, (w, e) in probe(prior, delta, x, noise).items():
        kappa = torch.einsum("bij,jk,bik->b", e, torch.linalg.inv(w.mT @ w / len(w)), e).mean()
        assert e.mean(0).abs().max() < 0.02 * delta  # the best correction is zero
        found[name] = float(kappa) / (delta**4 * fisher(prior))
    return found


def simulated(prior: GaussianMixture, delta: float, seed: int, fit: int = 400, repeats: int = 200) -> Numbers:
    """Return the same numbers from many fits of the probe to `fit` samples each."""
    generator = seeded(seed)
    x = prior.sample(fit * repeats, generator=generator)
    noise = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    found = {}
    for name, (all_w, all_e) in probe(prior, delta, x, noise).items():
        w, e = (values.unflatten(0, (repeats, fit)) for values in (all_w, all_e))
        fitted = e.mean(1) @ torch.linalg.inv(w.mT @ w / fit)
        square = torch.einsum("bij,jk,bik->b", fitted, all_w.mT @ all_w / len(all_w), fitted)
        found[name] = fit * float(square.mean()) / (delta**4 * fisher(prior))
    return found


def short_training(strategy: Strategy, levels: tuple[float, ...], seed: int, steps: int = 120) -> Tensor:
    """Return what networks miss of the prior's effect in the forward direction, relative, after a short training.

    A = Id and the book's prior; two networks for each level, whose numbers are averaged.
    """
    cases = [Case(bumps(), LinearProblem(torch.eye(2), delta)) for delta in levels for _ in range(2)]
    generator = seeded(seed)
    net = IResNet(2, members=len(cases), generator=generator)
    problems = [case.problem for case in cases]
    invlib.train(net, problems, bumps(), strategy, steps=steps, batch_size=128, generator=generator)
    x = bumps().sample(2000, generator=generator)
    found = net.double().requires_grad_(False)(x.expand(len(cases), *x.shape))
    aims = [case.forward(x) if strategy == "reconstruction" else case.map_forward(x) for case in cases]
    missed = [rms(y - aim) / rms(aim - x) for y, aim in zip(found, aims, strict=True)]
    averages: Tensor = torch.stack(missed).unflatten(0, (-1, 2)).mean(-1)
    return averages


def kappa(case: Case, seed: int = 9) -> float:
    """Return kappa of the reconstruction loss as the page writes it, with the posterior covariance."""
    uniform = invlib.quasi_uniform(2**14, 5, seed=seed)
    x = case.prior.from_uniform(uniform[:, :3])
    z = x + case.delta * torch.special.ndtri(uniform[:, 3:])
    w = with_one(z)
    leverage = (w @ torch.linalg.inv(w.mT @ w / len(w)) * w).sum(-1)
    return float((posterior_variance(case.problem, case.prior, z) * leverage).mean())


def fisher(prior: GaussianMixture) -> float:
    """Return the Fisher information of a prior."""
    nodes, weights = mixture_nodes(prior, 60)
    return float(weights @ prior.score(nodes).square().sum(-1))


# What holds for every network


def trust(net: IResNet, x: Tensor, z: Tensor, losses: Tensor, lowest: Tensor | float, distances: Tensor) -> Numbers:
    """Return what holds for one network, however well it was trained, after asserting it.

    Both round trips end where they began, within the certified error; all singular values of the Jacobian, and all
    stretch factors of pairs of points, are within the certified bounds; and what the losses exceed the minimum by is
    the half squared distance to the minimizer, on average, within four standard errors.

    Args:
        net: a single network in double precision.
        x: points of the prior, (B, n).
        z: their data, (B, n).
        losses: the loss of each sample, (B,).
        lowest: the least loss, or what has it as its mean, (B,).
        distances: half the squared distance to the minimizer at each sample, (B,).
    """
    image, jacobian = net.forward_and_jacobian(x)
    there, back = net.solve_inverse(z), net.solve_inverse(image)
    off = (back.x - x).norm(dim=-1)
    assert (off <= back.error_bound).all()
    trip = max(float(off.max()), float((net(there.x) - z).norm(dim=-1).max()))
    assert trip < 1e-6
    pairs = (image - image.roll(1, 0)).norm(dim=-1) / (x - x.roll(1, 0)).norm(dim=-1)
    factors = torch.cat([torch.linalg.svdvals(jacobian).flatten(), pairs])
    lower, upper = (float(bound) for bound in net.lipschitz_bounds())
    assert lower <= factors.min()
    assert factors.max() <= upper
    excess, error = with_error(losses - lowest)
    gap, gap_error = with_error(losses - lowest - distances)
    assert abs(gap) <= 4 * gap_error
    assert excess >= -4 * error
    return {
        "trip": trip,
        "least": float(factors.min()),
        "certified": lower,
        "used": float(factors.max()) / upper,
        "excess": excess,
        "error": error,
    }


def with_error(values: Tensor) -> tuple[float, float]:
    """Return mean and standard error."""
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


# Exercises


def barrier(axis: Tensor, values: Tensor) -> float:
    """Return the height of the hill between the two valleys, left of -0.5 and right of 0.6, above the higher one."""
    left, right = values[axis < -0.5].min(), values[axis > 0.6].min()
    between = values[(axis > -0.5) & (axis < 0.6)].max()
    return float(between - torch.maximum(left, right))


def flat_gradient(value: Tensor, net: IResNet) -> Tensor:
    """Return the gradient in all parameters, (P,)."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(net.parameters()))])


@dataclass(frozen=True)
class Unrolling:
    """One block, data and targets: gradients of the loss through iterations, and by the implicit formula."""

    block: IResNet
    z: Tensor
    target: Tensor

    def iterate(self, count: int) -> Tensor:
        """Return the point after so many fixed-point steps from z."""
        point = self.z
        for _ in range(count):
            point = self.z - (self.block(point) - point)
        return point

    def loss(self, point: Tensor) -> Tensor:
        """Return half the mean squared distance to the target."""
        return 0.5 * (point - self.target).square().sum(-1).mean()

    def exact(self) -> Tensor:
        """Return the gradient of the library, at a solution."""
        return flat_gradient(self.loss(self.block.inverse(self.z, tol=1e-13)), self.block)

    def relative(self, gradient: Tensor) -> float:
        """Return the relative error of a gradient."""
        exact = self.exact()
        return float((gradient - exact).norm() / exact.norm())

    def unrolled(self, count: int) -> float:
        """Return the error of differentiating through the iterations."""
        return self.relative(flat_gradient(self.loss(self.iterate(count)), self.block))

    def formula(self, point: Tensor) -> float:
        """Return the error of the implicit formula, evaluated at any point."""
        with torch.no_grad():
            _, jacobian = self.block.forward_and_jacobian(point)
        residual = (point - self.target) / len(self.target)
        w = torch.linalg.solve(jacobian.mT, residual[..., None])[..., 0]
        return self.relative(flat_gradient(-(self.block(point) * w).sum(), self.block))

    def errors(self, count: int) -> tuple[float, float, float]:
        """Return the errors of unrolling, of the formula at the same point, and of the formula after a Newton step."""
        with torch.no_grad():
            point = self.iterate(count)
            value, jacobian = self.block.forward_and_jacobian(point)
            newton = torch.linalg.solve(jacobian, (value - self.z)[..., None])[..., 0]
        return self.unrolled(count), self.formula(point), self.formula(point - newton)


def blind_law(first: float, second: float) -> GaussianMixture:
    """Return the law of z for x from N(0, 1) and one of two noise levels, with equal probability."""
    return GaussianMixture([0.5, 0.5], [[0.0], [0.0]], [[[1 + first**2]], [[1 + second**2]]])


def blind_mean(law: GaussianMixture, z: Tensor) -> Tensor:
    """Return E[x | z] by the score, (...), for z of shape (..., 1)."""
    return -law.score(z)[..., 0]


def blind_mean_by_sums(first: float, second: float, z: Tensor) -> Tensor:
    """Return E[x | z] by sums over x and both noise levels, (Z,), for z of shape (Z, 1)."""
    x = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    joint = sum(
        (torch.exp(-0.5 * x**2 - 0.5 * ((z - x) / level) ** 2) / level for level in (first, second)),
        torch.zeros(1, dtype=torch.float64),
    )
    mean: Tensor = (joint @ x) / joint.sum(-1)
    return mean


def fold_edge(first: float, z: Tensor) -> float:
    """Return the second noise level above which E[x | z] falls somewhere."""

    def steepest_fall(second: float) -> float:
        return float(blind_law(first, second).hessian(z).max())

    return float(optimize.brentq(lambda second: 1.0 if steepest_fall(second) > 0 else -1.0, first, 10.0, xtol=1e-6))
