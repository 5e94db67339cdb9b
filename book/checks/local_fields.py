"""Checks of the chapter on Markov random fields, one function a statement, each with its control, and its machinery."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import optimize, sparse
from scipy.sparse import csgraph
from scipy.sparse import linalg as sparse_linalg
from torch import Tensor, nn

import invlib
from checks.tools import seeded
from invlib import ConvIResNet, LinearProblem, Prior
from invlib.blocks import ResidualBlock, evaluate
from invlib.inverse import invert_blocks
from invlib.training import History, Loss, Strategy

Numbers = dict[str, float]

NOISE = 0.3
"""The noise level of the chapter."""


class Field(Prior):
    r"""A Markov random field on a circular grid: smoothed total variation, and a weak pull to zero.

    Its density is proportional to $\exp(-\sum_{i \sim j} \rho(x_i - x_j) - \sum_i V(x_i))$, where the first sum goes
    over pairs of neighbours, $\rho(t) = \sqrt{t^2 + \beta^2}/s$ and $V(t) = vt^2/2$.

    Args:
        shape: of the grid, (n,) or (rows, columns). Points are vectors, row by row.
        rounding: the width beta of the rounded corner of the absolute value.
        scale: s, the size of a typical jump.
        pull: v.
    """

    log_concave = True

    def __init__(self, *shape: int, rounding: float = 0.05, scale: float = 0.25, pull: float = 0.05) -> None:
        self.shape = shape
        self.dim = math.prod(shape)
        self.rounding, self.scale, self.pull = rounding, scale, pull

    @property
    def degree(self) -> int:
        """The number of neighbours."""
        return 2 * len(self.shape)

    @property
    def sharpness(self) -> float:
        """The largest value of rho''."""
        return 1 / (self.rounding * self.scale)

    def rho(self, t: Tensor) -> Tensor:
        """The smooth absolute value."""
        return (t.square() + self.rounding**2).sqrt() / self.scale

    def rho_slope(self, t: Tensor) -> Tensor:
        """Its derivative."""
        return t / (t.square() + self.rounding**2).sqrt() / self.scale

    def rho_bend(self, t: Tensor) -> Tensor:
        """Its second derivative."""
        return self.rounding**2 * (t.square() + self.rounding**2) ** -1.5 / self.scale

    def potential(self, t: Tensor) -> Tensor:
        """V."""
        return 0.5 * self.pull * t.square()

    def jumps(self, x: Tensor) -> Tensor:
        """The differences of all pairs of neighbours, (..., axes, *shape)."""
        grid = x.unflatten(-1, self.shape)
        dims = range(-len(self.shape), 0)
        return torch.stack([grid - grid.roll(-1, dim) for dim in dims], dim=-1 - len(self.shape))

    def gathered(self, pulls: Tensor) -> Tensor:
        """The adjoint of `jumps`: what the pulls of all pairs, (..., axes, *shape), add up to at each site."""
        dims = range(-len(self.shape), 0)
        each = zip(pulls.unbind(-1 - len(self.shape)), dims, strict=True)
        total = sum((pull - pull.roll(1, dim) for pull, dim in each), torch.zeros(()))
        return total.flatten(-len(self.shape))

    def _log_prob(self, x: Tensor) -> Tensor:
        edges = self.rho(self.jumps(x)).flatten(-1 - len(self.shape)).sum(-1)
        return -edges - self.potential(x).sum(-1)

    def _score(self, x: Tensor) -> Tensor:
        """Each value is pulled to zero, and towards both neighbours on each axis."""
        return -self.pull * x - self.gathered(self.rho_slope(self.jumps(x)))

    def best_map(self, x: Tensor, strength: float = NOISE, H: Tensor | None = None) -> Tensor:
        """Return phi*(x) = H x - strength^2 s(x); H = I if it is left out."""
        return (x if H is None else x @ H.mT) - strength**2 * self.score(x)

    def incidence(self) -> sparse.csr_array:
        """The matrix of all differences of neighbours, (edges, n)."""
        parts = []
        for axis, size in enumerate(self.shape):
            step = sparse.eye_array(size) - sparse.csr_array(np.roll(np.eye(size), 1, axis=1))
            factors = [step if k == axis else sparse.eye_array(m) for k, m in enumerate(self.shape)]
            parts.append(reduce(sparse.kron, factors))
        return sparse.csr_array(sparse.vstack(parts))

    def reach(self, strength: float = NOISE, least: float = 1.0, largest: float = 1.0) -> tuple[float, float]:
        """Return the bounds c and C on the slopes of phi*, given those of H."""
        return (
            least + strength**2 * self.pull,
            largest + strength**2 * (self.pull + 2 * self.degree * self.sharpness),
        )


# The exact MAP estimate: Newton's method with a sparse Hessian


def exact_map(
    field: Field, z: Tensor, strength: float = NOISE, H: sparse.csr_array | None = None, tol: float = 1e-10
) -> Tensor:
    """Return the minimizer of J_z for every row of z, (B, n): damped Newton steps on sparse equations.

    Raises:
        RuntimeError: if the gradient, relative to z, is not below `tol` after 100 steps.
    """
    D = field.incidence()
    identity = sparse.csr_array(sparse.eye_array(field.dim))
    H = identity if H is None else H

    def objective(x: np.ndarray, datum: np.ndarray) -> float:
        prior = -float(field.log_prob(torch.from_numpy(x)))
        return float(0.5 * x @ (H @ x) - datum @ x) + strength**2 * prior

    def solve(datum: np.ndarray) -> np.ndarray:
        x, value = datum.copy(), objective(datum, datum)
        slack = 1e-12 * (field.dim + float(datum @ datum))  # rounding of the objective
        for _ in range(100):
            gradient: np.ndarray = H @ x - strength**2 * field.score(torch.from_numpy(x)).numpy() - datum
            if np.linalg.norm(gradient) <= tol * max(1.0, float(np.linalg.norm(datum))):
                return x
            bends = field.rho_bend(torch.from_numpy(D @ x)).numpy()
            hessian = sparse.csc_array(H + strength**2 * (field.pull * identity + D.T @ sparse.diags_array(bends) @ D))
            step: np.ndarray = sparse_linalg.spsolve(hessian, gradient)
            promised, length = 1e-4 * float(gradient @ step), 1.0
            while (after := objective(x - length * step, datum)) > value - length * promised + slack:
                length /= 2
            x, value = x - length * step, after
        raise RuntimeError("Newton's method did not converge")

    return torch.from_numpy(np.stack([solve(datum) for datum in z.to(torch.float64).numpy()]))


# The exact posterior mean, and exact samples, of a circular chain


def _kernels(field: Field, nodes: Tensor) -> Tensor:
    """The factors of neighbours, (..., n, m, m), at nodes (..., n, m)."""
    return (-field.rho(nodes.unsqueeze(-1) - nodes.roll(-1, -2).unsqueeze(-2))).exp()


def exact_mean(field: Field, z: Tensor, noise_std: float = NOISE, step: float = 0.025, width: float = 7.5) -> Tensor:
    """Return the posterior mean of a circular chain (A = 1) for every row of z, (B, n), by forward and backward sums.

    The integrals are sums over equidistant nodes around each datum, `width` standard deviations to both sides. For
    analytic integrands such sums converge exponentially in 1/step.
    """
    count = round(width * noise_std / step)
    offsets = step * torch.arange(-count, count + 1, dtype=torch.float64)
    local = -0.5 * (offsets / noise_std) ** 2

    def of(datum: Tensor) -> Tensor:
        nodes = datum[:, None] + offsets
        factors = (local - field.potential(nodes)).exp().unsqueeze(-1) * _kernels(field, nodes)
        ahead = [factors[0]]
        for factor in factors[1:-1]:
            product = ahead[-1] @ factor
            ahead.append(product / product.max())
        back, means = factors[-1], []
        for i in range(len(datum) - 1, 0, -1):
            weights = (ahead[i - 1] * back.mT).sum(0)  # over the values of x_0
            means.append(weights @ nodes[i] / weights.sum())
            back = factors[i - 1] @ back
            back = back / back.max()
        weights = back.diagonal()
        means.append(weights @ nodes[0] / weights.sum())
        return torch.stack(means[::-1])

    return torch.stack([of(datum) for datum in z.to(torch.float64)])


def exact_samples(
    field: Field, count: int, generator: torch.Generator, *, group: int = 64, step: float = 0.025, edge: float = 5.0
) -> Tensor:
    """Return samples of a circular chain, (count, n), by backward sums and forward draws.

    Each site has its own grid, shifted at random. Given the shifts, points of the product grid are drawn with
    probabilities proportional to the density. The sum of the density over the grid is the same for all shifts, up to an
    error that is exponentially small in 1/step; so the points have the density of the field, up to this error.
    """
    (n,), cells = field.shape, round(2 * edge / step)
    found = []
    for _ in range(-(-count // group)):
        shifts = torch.rand(n, 1, dtype=torch.float64, generator=generator)
        nodes = step * (torch.arange(cells) + shifts) - edge
        factors = _kernels(field, nodes) * (-field.potential(nodes.roll(-1, 0))).exp().unsqueeze(-2)
        back = [factors[-1]]  # from site k to site 0 around the circle
        for factor in factors[:-1].flip(0):
            product = factor @ back[-1]
            back.append(product / product.max())
        back = back[::-1]
        first = torch.multinomial(back[0].diagonal(), group, replacement=True, generator=generator)
        drawn = [first]
        for k in range(n - 1):
            weights = factors[k][drawn[-1]] * back[k + 1].mT[first]
            drawn.append(torch.multinomial(weights, 1, generator=generator)[:, 0])
        found.append(torch.stack([nodes[k][index] for k, index in enumerate(drawn)], dim=-1))
    return torch.cat(found)[:count]


# Pictures: samples by Hamiltonian Monte Carlo

PICTURES = Field(24, 24, scale=0.5)
"""The field of the pictures: its slopes c and C are those of the chain."""


def roughness(shape: tuple[int, ...]) -> Tensor:
    """Return the eigenvalues of the graph's Laplacian, at the frequencies of the grid."""
    turns = [2 * math.pi * torch.fft.fftfreq(n, dtype=torch.float64) for n in shape]
    return sum((2 - 2 * angle.cos() for angle in torch.meshgrid(*turns, indexing="ij")), torch.zeros(()))


def multiplied(x: Tensor, factors: Tensor) -> Tensor:
    """Return points whose Fourier coefficients are multiplied by real factors, (*shape)."""
    axes = tuple(range(-factors.ndim, 0))
    spectrum = torch.fft.fftn(x.unflatten(-1, factors.shape), dim=axes) * factors
    found: Tensor = torch.fft.ifftn(spectrum, dim=axes).real.flatten(-factors.ndim)
    return found


@dataclass(frozen=True)
class Draws:
    """States of Hamiltonian Monte Carlo, (rounds, chains, n), and the share of the proposals that were accepted."""

    points: Tensor
    accepted: float

    def spread(self, of: Callable[[Tensor], Tensor]) -> float:
        """Return the split R-hat of a number: its standard deviation over all draws by that within half a chain."""
        values = of(self.points)
        halves = torch.cat(values[: len(values) // 2 * 2].chunk(2), dim=1)
        within, between = halves.var(0).mean(), halves.mean(0).var()
        return float((1 - 1 / len(halves) + between / within).sqrt())


def hamiltonian(
    field: Field,
    start: Tensor,
    generator: torch.Generator,
    *,
    rounds: int,
    z: Tensor | None = None,
    step: float = 0.25,
    stiffness: float = 8.0,
    length: int = 8,
) -> Draws:
    """Sample the field, or its posterior for data z with A = 1, in parallel chains that start at (chains, n).

    A circulant mass, the precision of the Gaussian field with quadratic jumps, makes all frequencies about equally
    fast; each round has a random number of leapfrog steps, at least half of `length`, and a step of Metropolis.
    """
    mass = field.pull + stiffness * roughness(field.shape)
    mass = mass if z is None else mass + NOISE**-2

    def filtered(x: Tensor, power: float) -> Tensor:
        return multiplied(x, mass**power)

    def log_density(x: Tensor) -> Tensor:
        found: Tensor = field.log_prob(x)
        return found if z is None else found - 0.5 * ((x - z) / NOISE).square().sum(-1)

    def push(x: Tensor) -> Tensor:
        force = field.score(x)
        return filtered(force if z is None else force + (z - x) / NOISE**2, -1.0)

    x, density, states, accepted = start.clone(), log_density(start), [], 0.0
    for _ in range(rounds):
        noise = torch.randn(x.shape, dtype=x.dtype, generator=generator)
        v, y = filtered(noise, -0.5), x
        energy = density - 0.5 * noise.square().sum(-1)
        v = v + 0.5 * step * push(y)
        for _ in range(int(torch.randint(length // 2, length + 1, (), generator=generator))):
            y = y + step * v
            v = v + step * (change := push(y))
        v = v - 0.5 * step * change
        after = log_density(y)
        gain = after - 0.5 * filtered(v, 0.5).square().sum(-1) - energy
        taken = torch.rand(gain.shape, dtype=x.dtype, generator=generator).log() < gain
        x, density = torch.where(taken[..., None], y, x), torch.where(taken, after, density)
        states.append(x)
        accepted += float(taken.double().mean()) / rounds
    return Draws(torch.stack(states), accepted)


# Local forward, global inverse


class Wrinkled(Field):
    r"""The field with $\rho(t) = \log(1 + t^2/\beta^2)/2$, which is not convex for $|t| > \beta$."""

    log_concave = False

    def rho(self, t: Tensor) -> Tensor:
        """Not convex beyond |t| = beta."""
        return 0.5 * (1 + (t / self.rounding).square()).log()

    def rho_slope(self, t: Tensor) -> Tensor:
        """Its derivative."""
        return t / (t.square() + self.rounding**2)

    def rho_bend(self, t: Tensor) -> Tensor:
        """Its second derivative."""
        return (self.rounding**2 - t.square()) / (t.square() + self.rounding**2) ** 2


class Quadratic(Field):
    r"""The field with $\rho(t) = t^2/(2\beta s)$, whose slopes lie between the same c and C."""

    def rho(self, t: Tensor) -> Tensor:
        """No corner."""
        return 0.5 * self.sharpness * t.square()

    def rho_slope(self, t: Tensor) -> Tensor:
        """Its derivative."""
        return self.sharpness * t

    def rho_bend(self, t: Tensor) -> Tensor:
        """Its second derivative."""
        return self.sharpness + torch.zeros_like(t)


def distances(field: Field) -> Tensor:
    """Return how many steps from neighbour to neighbour lie between two sites, (n, n)."""
    D = field.incidence()
    steps = csgraph.shortest_path(abs(D.T @ D) - sparse.diags_array((D.T @ D).diagonal()), unweighted=True)
    return torch.from_numpy(steps)


def blur(field: Field, weight: float) -> sparse.csr_array:
    """Return the matrix that mixes each value with its neighbours on every axis, which get `weight` in all."""
    D = field.incidence()
    return sparse.csr_array(sparse.eye_array(field.dim) - weight / field.degree * (D.T @ D))


def slopes(field: Field, x: Tensor, strength: float, H: Tensor) -> Tensor:
    """Return D phi* at points, (B, n, n), by automatic differentiation of log p_X, twice."""

    def log_density(point: Tensor) -> Tensor:
        value: Tensor = field.log_prob(point)
        return value

    bends: Tensor = torch.vmap(torch.func.hessian(log_density))(x)
    return H - strength**2 * bends


def local_cases() -> list[tuple[Field, float]]:
    """Return chains and pictures, with the weight of the blur of each."""
    return [
        (Field(12), 0.0),
        (Field(4, 5, rounding=0.2, scale=0.4), 0.0),
        (Field(11, rounding=0.05, pull=0.3), 0.4),
        (Field(5, 4, scale=1.0), 0.3),
    ]


def check_lf_local() -> Numbers:
    """Compare the statements with the automatic Hessian of log p_X, and the MAP estimate with that of the library.

    The map from its formula against the gradient. Entries beyond the reach of H and neighbours are zero, to rounding.
    Eigenvalues against c and C. Entries of the inverse against the bound on their decay; without blur they are
    positive, and rows add up to 1 / (1 + strength^2 pull). The library climbs the posterior from several starts;
    Newton's method here knows nothing of it; and it inverts the map as a residual block, by GMRES. And on a grid of
    twice the size the map of a repeated point is the repeated map.
    """
    gap, mode_gap, tightest, generator = 0.0, 0.0, 0.0, seeded(1)
    for field, weight in local_cases():
        n, strength = field.dim, 0.4
        A = torch.from_numpy(blur(field, weight).toarray())
        H, radius, d = A.mT @ A, 1 if weight == 0 else 2, distances(field)
        x = torch.randn(20, n, dtype=torch.float64, generator=generator) * torch.tensor([0.05, 0.6]).repeat(10)[:, None]
        gradient = torch.vmap(torch.func.grad(lambda point, f=field: f.log_prob(point)))(x)
        gap = max(gap, float((x @ H - strength**2 * gradient - field.best_map(x, strength, H)).abs().max()))

        M = slopes(field, x, strength, H)
        assert M[:, d > radius].abs().max() < 1e-12
        spectrum = torch.linalg.eigvalsh(M)
        singular = torch.linalg.svdvals(A)
        c, C = field.reach(strength, float(singular.min()) ** 2, float(singular.max()) ** 2)
        assert c - 1e-9 < float(spectrum.min())
        assert float(spectrum.max()) < C + 1e-9

        inverse = torch.linalg.inv(M)
        bound = ((C - c) / (C + c)) ** (d / radius).ceil() / c
        tightest = max(tightest, float((inverse.abs() / bound).max()))
        if weight == 0:
            assert float(inverse.min()) > 0
            gap = max(gap, float((inverse.sum(-1) - 1 / (1 + strength**2 * field.pull)).abs().max()))

        z = x[:6] @ H + 0.2 * torch.randn(6, n, dtype=torch.float64, generator=generator) @ A
        mode = invlib.map_estimate(LinearProblem(A, strength), field, z)
        found = exact_map(field, z, strength, sparse.csr_array(H.numpy()))
        mode_gap = max(mode_gap, float((found - mode).abs().max()))
        if weight == 0:
            block = BestBlock(field, strength)
            inverse = block.invert(block.factor * z[None], None, torch.full((1, 6), 1e-11), 100)[0]
            mode_gap = max(mode_gap, float((found - inverse[0]).abs().max()))
    assert tightest < 1 + 1e-9
    assert gap < 1e-10
    assert mode_gap < 1e-6

    small, large = Field(6, 5), Field(12, 10)
    x = torch.randn(6, 5, dtype=torch.float64, generator=generator)
    repeated = small.best_map(x.flatten()).reshape(6, 5).tile(2, 2)
    assert (large.best_map(x.tile(2, 2).flatten()).reshape(12, 10) - repeated).abs().max() < 1e-12
    return {"gap": gap, "mode": mode_gap, "tightest": tightest}


def control_lf_local() -> Numbers:
    """Break two assumptions: a rho that is not convex, and a term in the density that ties all values together.

    For the first the least eigenvalue falls below c, even below zero, and the inverse has negative entries. The second,
    (sum x_i)^2 / 2, is convex, but then phi* looks at all values: entries at the largest distance are not zero.
    """
    generator, strength = seeded(2), 0.4
    field = Wrinkled(12, rounding=0.15)
    x = 0.3 * torch.randn(50, 12, dtype=torch.float64, generator=generator)
    M = slopes(field, x, strength, torch.eye(12, dtype=torch.float64))
    least = float(torch.linalg.eigvalsh(M).min())
    entry = float(torch.linalg.inv(M).min())
    tied = slopes(Field(12), x, strength, torch.eye(12, dtype=torch.float64)) + strength**2
    far = float(tied[:, distances(field) == 6].min())
    assert least < -0.1 < 1 + strength**2 * field.pull
    assert entry < -0.1
    assert far > 0.1
    return {"least": least, "entry": entry, "far": far}


# Staircases


def sharp_map(field: Field, z: Tensor, strength: float = NOISE) -> Tensor:
    """Return the MAP estimates, (B, n), for rho = |t|/s without rounding (A = 1): a least-squares problem with bounds.

    With x = (z - strength^2 D* w) / (1 + strength^2 v) the dual problem is to minimize |z - strength^2 D* w| over
    |w| <= 1/s.
    """
    D = field.incidence().toarray()
    found = [
        optimize.lsq_linear(strength**2 * D.T, datum, (-1 / field.scale, 1 / field.scale), tol=1e-14, method="bvls").fun
        for datum in z.numpy()
    ]
    return -torch.from_numpy(np.stack(found)) / (1 + strength**2 * field.pull)


def equal_neighbours(x: Tensor, tol: float = 1e-9) -> float:
    """Return the share of the neighbours of a chain with equal values."""
    return float(((x - x.roll(-1, -1)).abs() < tol).double().mean())


def stair_data(count: int, seed: int) -> tuple[Field, Tensor]:
    """Return a short chain without rounding, and data."""
    field, generator = Field(12, rounding=0.0), seeded(seed)
    x = exact_samples(field, count, generator)
    return field, x + NOISE * torch.randn(count, 12, dtype=torch.float64, generator=generator)


def check_lf_stairs() -> Numbers:
    """Compare the dual problem (bounds and active sets) with Newton's method for a rounding that tends to zero.

    Then the statement: data near a constant, within the radius of the proof, give a constant, all values equal; of the
    data of the model most neighbours become equal; and the posterior mean, by sums with the same sharp rho, has no two
    equal neighbours.
    """
    field, z = stair_data(30, 3)
    sharp = sharp_map(field, z)
    rounded = [exact_map(Field(12, rounding=beta), z) for beta in (1e-2, 1e-3)]
    gaps = [float((each - sharp).abs().max()) for each in rounded]
    assert gaps[1] < 0.2 * gaps[0] < 0.02

    flat = torch.randn(30, 12, dtype=torch.float64, generator=seeded(4))
    D = torch.from_numpy(field.incidence().toarray())
    flows = torch.linalg.lstsq(D.mT, (flat - flat.mean(-1, keepdim=True)).mT).solution.mT
    flat = flat * 0.9 * NOISE**2 / field.scale / flows.abs().amax(-1, keepdim=True)
    constant = sharp_map(field, flat)
    assert (constant - flat.mean(-1, keepdim=True) / (1 + NOISE**2 * field.pull)).abs().max() < 1e-9

    mean = exact_mean(field, z, step=0.02)
    closest = float((mean - mean.roll(-1, -1)).abs().min())
    assert equal_neighbours(sharp) > 0.5
    assert closest > 1e-6
    return {"gap": gaps[1], "share": 100 * equal_neighbours(sharp), "closest": closest}


def control_lf_stairs() -> Numbers:
    """Break the corner of rho: with a rounding of 0.05 no two neighbours of a MAP estimate are equal any more."""
    _, z = stair_data(30, 3)
    mode = exact_map(Field(12), z)
    share, closest = equal_neighbours(mode), float((mode - mode.roll(-1, -1)).abs().min())
    assert share == 0
    assert closest > 1e-6
    return {"share": share, "closest": closest}


@dataclass(frozen=True)
class Pair:
    """Two sites with one edge: MAP estimate and posterior mean of the jump t = x_1 - x_2, given s = z_1 - z_2."""

    field: Field

    def modes(self, s: Tensor) -> Tensor:
        """Return the minimizers of t^2/4 - st/2 + delta^2 rho(t), by bisection of the derivative."""
        low, high = -s.abs() - 1, s.abs() + 1
        for _ in range(60):
            t = 0.5 * (low + high)
            above = 0.5 * (t - s) + NOISE**2 * self.field.rho_slope(t) > 0
            low, high = torch.where(above, low, t), torch.where(above, t, high)
        return 0.5 * (low + high)

    def means(self, s: Tensor) -> Tensor:
        """Return the posterior means, by sums."""
        t = torch.linspace(-6, 6, 12_001, dtype=torch.float64)
        weights = ((0.5 * s[:, None] * t - 0.25 * t**2) / NOISE**2 - self.field.rho(t)).softmax(-1)
        return weights @ t


# Networks


SEEDS = 3
"""How many networks are trained side by side with each loss."""

LOSSES = ("divergence", "reconstruction", "log_det", "approximation", "plain", "regression", "narrow", "symmetric")
"""Names of the stored trainings: the four losses, the divergence without helps, and three regressions."""

TIED = ("divergence", "symmetric", "pictures")
"""Names of the trainings whose networks have the symmetries of the field."""

STORED = Path(__file__).with_suffix(".npz")
"""The weights of the trained networks: see `book/experiments/local_fields.py`."""


def network(
    seed: int, members: int | None = SEEDS, shape: tuple[int, ...] = (64,), kernel: int = 5, channels: int = 8
) -> ConvIResNet:
    """Return an untrained network of eight blocks, whose branches bend within about the rounding of the field.

    The first layer starts four times as large as that of the library, the last one three times smaller.
    """
    net = ConvIResNet(shape, blocks=8, channels=channels, kernel=kernel, members=members, generator=seeded(seed))
    with torch.no_grad():
        net.weights[0].mul_(4.0)
        net.weights[2].div_(3.0)
    return net


@torch.no_grad()
def tie(net: ConvIResNet, scale: float = 1.0) -> None:
    """Give a network of 4k channels the symmetries of the field: phi(-x) = -phi(x), and the same in reverse order.

    The channels are k groups of four, which the two symmetries permute. Kernels and biases become their means over the
    symmetries, times a scale.
    """

    def mean(parameter: Tensor, dims: list[int], sign: int = 1) -> None:
        parameter.copy_(0.5 * (parameter + sign * parameter.flip(dims)))

    k, members = net.channels // 4, net.weights[0].shape[:2]
    first, second, third = (
        weight.view(*members, *[k, 2, 2] * (1 + (i == 1)), -1) for i, weight in enumerate(net.weights)
    )
    for kernel in (first, third):
        mean(kernel, [3], -1)
        mean(kernel, [4, 5])
    for dims in ([3, 6], [4, 7]):
        mean(second, dims)
    for bias in net.biases[:2]:
        for dim in (3, 4):
            mean(bias.view(*members, k, 2, 2), [dim])
    net.biases[2].zero_()
    for parameter in (*net.weights, *net.biases):
        parameter.mul_(scale)


def untrained(name: str, seed: int) -> ConvIResNet:
    """Return the network that a training starts from."""
    if name == "pictures":
        net = network(seed, 1, PICTURES.shape, kernel=3)
    else:
        net = network(seed, kernel=3 if name == "narrow" else 5, channels=16 if name in TIED else 8)
    if name in TIED:
        tie(net, 2.0)
    return net


def coloured(net: ConvIResNet, x: Tensor, z: Tensor, stiffness: float = 0.0) -> Tensor:
    r"""Return the loss with the divergence, (E,), in the norm of $W = (I + kL)^{-1}$, L the Laplacian of the grid.

    The trace of W D phi is estimated by random signs on even sites, and on odd ones: the map is near to one that
    couples neighbours, and these do not meet in either probe. The signs are those of the noise of the data, which is
    independent of x and does not occur in this loss otherwise.
    """
    weight = 1 / (1 + stiffness * roughness(net.shape))
    weight = (weight / weight.mean()).to(x)
    even = (torch.stack(torch.meshgrid(*map(torch.arange, net.shape), indexing="ij")).sum(0) % 2).flatten().to(x)
    probes = [part * (z - x).sign() for part in (even, 1 - even)]
    value, tangents = x, probes
    for block in net.residual_blocks():
        value, at = block.linearize(value)
        tangents = [block.tangent(at, tangent) for tangent in tangents]
    misfit, *weighted = [multiplied(each, weight) if stiffness else each for each in (value - x, *probes)]
    trace = sum(((v * tangent).sum(-1) for v, tangent in zip(weighted, tangents, strict=True)), torch.zeros(()))
    return (0.5 * ((value - x) * misfit).sum(-1) - NOISE**2 * trace).mean(-1)


def regression(net: nn.Module, x: Tensor, z: Tensor) -> Tensor:
    """Return the mean square distance from the exact map of the chain, (E,): what the architecture can do."""
    off: Tensor = net(x) - Field(x.shape[-1]).best_map(x)
    return 0.5 * off.square().sum(-1).mean(-1)


def fit(
    net: ConvIResNet,
    loss: Strategy | Loss,
    points: Tensor,
    *,
    batch_size: int = 32,
    seed: int = 0,
    **options: Any,  # noqa: ANN401
) -> History:
    """Train a network for denoising from samples of the field, (N, n), with the library's own training."""
    problem, samples = LinearProblem(torch.eye(net.dim), NOISE), invlib.Samples(points)
    return invlib.train(net, problem, samples, loss, batch_size=batch_size, generator=seeded(seed), **options)


def trained() -> dict[str, ConvIResNet]:
    """Return the networks whose weights are stored: three members for each loss, and one for pictures."""
    nets = {name: untrained(name, 0) for name in (*LOSSES, "pictures")}
    with np.load(STORED) as file:
        for name, net in nets.items():
            state = {key: torch.from_numpy(file[f"{name}/{key}"]) for key, _ in net.named_parameters()}
            net.load_state_dict({**net.state_dict(), **state})
            net.requires_grad_(requires_grad=False)
    return nets


def about_training() -> dict[str, Any]:
    """Return seconds and fresh samples by training, the number of exact samples, and numbers of the pictures."""
    with np.load(STORED) as file:
        names = [key.removesuffix("/seconds") for key in file.files if key.endswith("/seconds")]
        numbers = ("accepted", "spread", "apart", "apart_error", "large", "range", "large_accepted", "energies")
        drawn = {key: torch.from_numpy(file[f"pictures/{key}"]) for key in numbers}
        seconds = {name: float(file[f"{name}/seconds"]) for name in names}
        fresh = {name: int(file[f"{name}/fresh"]) for name in ("divergence", "pictures")}
        return {"seconds": seconds, "points": int(file["points"]), "fresh": fresh, **drawn}


def large_picture(stored: dict[str, Any]) -> Tensor:
    """Return the stored picture of 256 x 256, (1, n), from its grey levels."""
    low, high = stored["range"].double()
    x: Tensor = low + (high - low) / 255 * stored["large"].double()
    return x.reshape(1, -1)


def row(x: Tensor, truth: Tensor, mode: Tensor, mean: Tensor) -> dict[str, Tensor]:
    """Return the distances of reconstructions (E, B, n) from truth, MAP estimate and mean, per value, (E,) each."""
    return {
        name: (x - other).square().mean((-2, -1)).sqrt()
        for name, other in {"truth": truth, "map": mode, "mean": mean}.items()
    }


def wiener(points: Tensor, z: Tensor) -> Tensor:
    """Return Wiener's filter (A = 1), with the spectrum of the samples: circles have circulant covariances."""
    spectrum = torch.fft.fft(points).abs().square().mean(0) / points.shape[-1]
    filtered: Tensor = torch.fft.ifft(torch.fft.fft(z) * spectrum / (spectrum + NOISE**2)).real
    return filtered


def noisy(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return signals and their data."""
    return x, x + NOISE * torch.randn(x.shape, dtype=x.dtype, generator=generator)


def held_out(field: Field, count: int) -> tuple[Tensor, Tensor]:
    """Return new signals on a circle, and data."""
    generator = seeded(field.dim)
    return noisy(exact_samples(field, count, generator, group=count), generator)


def long_data(data: tuple[Tensor, Tensor], size: int) -> Tensor:
    """Return data on a large circle, (1, size): signals one after the other, again and again, with new noise."""
    x = data[0].flatten()
    x = x.repeat(-(-size // len(x)))[:size]
    return (x + NOISE * torch.randn(size, dtype=x.dtype, generator=seeded(6)))[None]


class BestBlock(ResidualBlock):
    r"""The best map, up to a factor, as one residual block: $2\varphi^*(x)/(C + c) = x + f(x)$, A = 1."""

    def __init__(self, field: Field, strength: float = NOISE) -> None:
        c, C = field.reach(strength)
        self.field, self.strength, self.factor = field, strength, 2 / (C + c)
        self.lipschitz = (C - c) / (C + c)

    def bound(self) -> Tensor:
        """Return q."""
        return torch.tensor([self.lipschitz])

    def value(self, x: Tensor) -> Tensor:
        """Return x + f(x)."""
        return self.factor * self.field.best_map(x, self.strength)

    def branch_tangent(self, at: tuple[Tensor, ...], v: Tensor) -> Tensor:
        """Return Df v, by the Hessian of log p."""
        pulls = self.field.rho_bend(self.field.jumps(at[0])) * self.field.jumps(v)
        bent = self.field.pull * v + self.field.gathered(pulls)
        return self.factor * (v + self.strength**2 * bent) - v


@dataclass(frozen=True)
class Cost:
    """What an inverse takes: evaluations of blocks, values and tangents alike, seconds, relative residual, and x."""

    evaluations: int
    seconds: float
    residual: float
    x: Tensor


def inverse_cost(blocks: Sequence[ResidualBlock], z: Tensor, kind: str, tol: float = 1e-6) -> Cost:
    """Measure the library's inverse of blocks ("newton"), or the plain iteration x <- z - f(x), at one point (1, n)."""
    count, kind_of_block = 0, type(blocks[0])
    originals = {name: getattr(kind_of_block, name) for name in ("linearize", "branch_tangent")}

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:  # noqa: ANN401
            nonlocal count
            count += 1
            return function(*arguments)

        return counted

    for name, original in originals.items():
        setattr(kind_of_block, name, counting(original))
    start, bound = time.perf_counter(), tol * z.norm(dim=-1)[None]
    try:
        with torch.no_grad():
            x = invert_blocks(blocks, z[None], None, bound, 100)[0] if kind == "newton" else _iterated(blocks, z, bound)
        seconds, evaluations = time.perf_counter() - start, count
    finally:
        for name, original in originals.items():
            setattr(kind_of_block, name, original)
    residual = float((evaluate(blocks, x) - z).norm() / z.norm())
    return Cost(evaluations, seconds, residual, x[0])


def best_cost(field: Field, z: Tensor, kind: str) -> int:
    """Return the evaluations that the inverse of the best map of a field takes, as one block."""
    block = BestBlock(field)
    return inverse_cost([block], block.factor * z, kind).evaluations


def _iterated(blocks: Sequence[ResidualBlock], z: Tensor, bound: Tensor) -> Tensor:
    """One block after the other, each to its share of the tolerance."""
    x = z[None]
    for block in reversed(blocks):
        target = x
        while (residual := block.linearize(x)[0] - target).norm() > bound / len(blocks):
            x = x - residual
    return x
