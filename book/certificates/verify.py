"""Proofs by ball arithmetic that what the pages show is so. Needs python-flint, and nothing of the book.

Usage::

    python verify.py                every certificate in this folder
    python verify.py FILE.json ...  these

A certificate is a file with numbers and claims. The numbers (weights of a network, a prior, a datum) are taken as
exact. Each claim is then proved: python-flint computes with balls that contain the exact value, whatever is rounded,
and a claim counts only if it holds for every point of the balls. There are three kinds.

``network``
    A network is ``last`` (K residual blocks) ``first``, the outer two invertible matrices. The Lipschitz constant of
    every block is at most ``lipschitz`` < 1; so the network is invertible, and the blocks stretch distances by a factor
    of at least (1 - lipschitz)^K. Each ``x`` lies within ``radius`` of the exact inverse image of its ``z``.
``posterior``
    For a mixture of Gaussians and y = Ax + e, the posterior mean and the evidence p(y) lie in the balls claimed.
``map``
    The minus-log-posterior takes its least value in one of the ``modes``, balls that hold exactly one stationary point
    each. Modes whose values differ by less than ``tie`` are listed together.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

from flint import arb, arb_mat, ctx

FOLDER = Path(__file__).resolve().parent
BITS = 113
Vector = list[arb]


class NotProvedError(Exception):
    """A claim does not hold, or the arithmetic could not prove it."""


def demand(holds: bool, claim: str) -> None:
    """Raise unless a claim is proved."""
    if not holds:
        raise NotProvedError(claim)


# Vectors and matrices of balls


def vector(numbers: Sequence[float]) -> Vector:
    """Exact numbers."""
    return [arb(number) for number in numbers]


def matrix(rows: Sequence[Sequence[float]], scale: float = 1.0) -> arb_mat:
    """An exact matrix; networks store whole numbers and their scale."""
    return arb_mat([[arb(scale) * entry for entry in vector(row)] for row in rows])


def apply(m: arb_mat, v: Vector) -> Vector:
    """Matrix times vector."""
    return (m * arb_mat([[entry] for entry in v])).entries()


def subtract(v: Vector, w: Vector) -> Vector:
    """The difference."""
    return [a - b for a, b in zip(v, w, strict=True)]


def dot(v: Vector, w: Vector) -> arb:
    """The scalar product."""
    return sum((a * b for a, b in zip(v, w, strict=True)), arb(0))


def square(a: arb) -> arb:
    """The square of a number, which is never negative."""
    low, high = a.abs_lower(), a.abs_upper()
    return (low * low).union(high * high)


def norm_squared(v: Vector) -> arb:
    """The square of the Euclidean norm."""
    return sum((square(a) for a in v), arb(0))


def norm(v: Vector) -> arb:
    """The Euclidean norm."""
    return norm_squared(v).nonnegative_part().sqrt()


def is_positive_definite(m: arb_mat) -> bool:
    """Whether Cholesky's factorization of a symmetric matrix has positive pivots."""
    rows = m.tolist()
    size = len(rows)
    for k in range(size):
        pivot = rows[k][k]
        if not pivot > 0:
            return False
        for i in range(k + 1, size):
            factor = rows[i][k] / pivot
            for j in range(k + 1, i + 1):
                rows[i][j] -= factor * rows[j][k]
    return True


# Networks


def smooth_abs(u: arb) -> arb:
    """The root of u^2 + 1/4, less 1/2; its slope is u / root, so smaller than 1."""
    return (square(u) + arb(0.25)).sqrt() - arb(0.5)


def residual(block: dict[str, Any], x: Vector) -> Vector:
    """f(x) = W3 s(W2 s(W1 x + b1) + b2) + b3."""
    for layer, (weight, bias) in enumerate(zip(block["weights"], block["biases"], strict=True)):
        x = [a + b for a, b in zip(apply(weight, x), bias, strict=True)]
        if layer < 2:
            x = [smooth_abs(a) for a in x]
    return x


class Network:
    """The matrices of a network."""

    def __init__(self, claim: dict[str, Any]) -> None:
        self.first, self.last = matrix(claim["first"]), matrix(claim["last"])
        self.blocks = [
            {
                "weights": [matrix(rows, scale) for rows, scale in block["weights"]],
                "biases": [[arb(scale) * entry for entry in vector(row)] for row, scale in block["biases"]],
            }
            for block in claim["blocks"]
        ]

    def forward(self, x: Vector) -> Vector:
        """The image of x."""
        x = apply(self.first, x)
        for block in self.blocks:
            x = [a + b for a, b in zip(x, residual(block, x), strict=True)]
        return apply(self.last, x)


def spectral_norm_is_at_most(weight: arb_mat, bound: arb) -> bool:
    """Whether bound^2 I - W W* (or W* W, if smaller) is positive definite."""
    transposed = weight.transpose()
    gram = weight * transposed if weight.nrows() <= weight.ncols() else transposed * weight
    size = gram.nrows()
    return is_positive_definite(scaled_identity(size, bound * bound) - gram)


def scaled_identity(size: int, factor: arb) -> arb_mat:
    """The matrix factor * I."""
    return arb_mat(size, size, [factor * (i == j) for i in range(size) for j in range(size)])


def verify_network(claim: dict[str, Any]) -> str:
    """Prove the Lipschitz constants, then the enclosures of the inverse."""
    limit, net = arb(claim["lipschitz"]), Network(claim)
    demand(0 < limit < 1, "0 < lipschitz < 1")
    for number, (block, norms) in enumerate(zip(net.blocks, claim["norms"], strict=True), start=1):
        bounds = vector(norms)
        for weight, bound in zip(block["weights"], bounds, strict=True):
            demand(spectral_norm_is_at_most(weight, bound), f"block {number}: spectral norm <= {bound}")
        demand(bounds[0] * bounds[1] * bounds[2] <= limit, f"block {number}: Lipschitz constant <= {limit}")

    # The norm of an inverse is at most that of Frobenius
    expansion = norm(net.first.inv().entries()) * norm(net.last.inv().entries()) / (1 - limit) ** len(net.blocks)
    radius = arb(claim["radius"])
    for z, x in zip(claim["z"], claim["x"], strict=True):
        miss = norm(subtract(net.forward(vector(x)), vector(z)))
        demand(expansion * miss <= radius, f"|inverse({z}) - {x}| <= {radius}")
    return (
        f"{len(net.blocks)} blocks with Lipschitz constants <= {claim['lipschitz']}, "
        f"{len(claim['z'])} points of the inverse within {claim['radius']:.0e}"
    )


# Mixtures of Gaussians


class Mixture:
    """sum_k w_k N(m_k, C_k), and y = Ax + e with e normal of standard deviation delta."""

    def __init__(self, problem: dict[str, Any]) -> None:
        self.weights = vector(problem["weights"])
        total = sum(self.weights, arb(0))
        self.weights = [weight / total for weight in self.weights]
        self.means = [vector(mean) for mean in problem["means"]]
        self.covariances = [matrix(covariance) for covariance in problem["covariances"]]
        self.operator = matrix(problem["operator"])
        self.noise_std = arb(problem["noise_std"])
        self.precisions = [covariance.inv() for covariance in self.covariances]
        self.constants = [
            weight.log() - (2 * arb.pi() * covariance).det().log() / 2
            for weight, covariance in zip(self.weights, self.covariances, strict=True)
        ]

    def responsibilities(self, x: Vector) -> tuple[list[Vector], list[arb], arb]:
        """Return the slopes s_k = -C_k^-1 (x - m_k), the shares r_k(x), and an enclosure of log p(x)."""
        exponents, slopes = [], []
        for mean, precision, constant in zip(self.means, self.precisions, self.constants, strict=True):
            away = subtract(x, mean)
            slope = [-a for a in apply(precision, away)]
            slopes.append(slope)
            exponents.append(constant - quadratic(precision, away) / 2)
        shares = []
        for one in exponents:
            shares.append(1 / sum(((other - one).exp() if other is not one else arb(1) for other in exponents), arb(0)))
        low = log_sum([e.lower() for e in exponents])
        high = log_sum([e.upper() for e in exponents])
        return slopes, shares, low.union(high)

    def objective(self, y: Vector, x: Vector) -> tuple[arb, Vector, arb_mat]:
        """Return J(x) = |Ax - y|^2 / (2 delta^2) - log p(x), its gradient and its Hessian, enclosed over the box x."""
        slopes, shares, log_density = self.responsibilities(x)
        miss = subtract(apply(self.operator, x), y)
        transposed = self.operator.transpose()
        variance = self.noise_std * self.noise_std

        score = [dot(shares, [slope[i] for slope in slopes]) for i in range(len(x))]
        gradient = [a / variance - s for a, s in zip(apply(transposed, miss), score, strict=True)]

        hessian = transposed * self.operator / variance
        for share, precision in zip(shares, self.precisions, strict=True):
            hessian = hessian + share * precision
        for (k, share), (j, other) in combinations(enumerate(shares), 2):
            apart = arb_mat([self._slope_difference(k, j, x)])
            hessian = hessian - at_most_a_quarter(share * other) * (apart.transpose() * apart)
        return norm_squared(miss) / (2 * variance) - log_density, gradient, hessian

    def _slope_difference(self, k: int, j: int, x: Vector) -> Vector:
        """s_k - s_j, in which x cancels where the covariances are equal."""
        constant = subtract(apply(self.precisions[k], self.means[k]), apply(self.precisions[j], self.means[j]))
        return subtract(constant, apply(self.precisions[k] - self.precisions[j], x))

    def greatest_log_density(self) -> arb:
        """A bound on log p over the whole space."""
        return log_sum([constant.upper() for constant in self.constants])


def at_most_a_quarter(product: arb) -> arb:
    """The product of two shares, which add up to 1 at most."""
    low, high = product.lower(), product.upper()
    return low.max(arb(0)).union(high.min(arb(0.25)))


def quadratic(precision: arb_mat, v: Vector) -> arb:
    """v* P v for positive definite P: with a Cholesky factor, so that no term is counted with the wrong sign."""
    rows, size, result = precision.tolist(), len(v), arb(0)
    for k in range(size):
        pivot = rows[k][k]
        result += pivot * square(v[k] + sum((rows[j][k] / pivot * v[j] for j in range(k + 1, size)), arb(0)))
        for i in range(k + 1, size):
            factor = rows[i][k] / pivot
            for j in range(k + 1, size):
                rows[i][j] -= factor * rows[j][k]
    return result


def log_sum(exponents: Sequence[arb]) -> arb:
    """The logarithm of the sum of exponentials."""
    return sum((exponent.exp() for exponent in exponents), arb(0)).log()


def verify_posterior(claim: dict[str, Any]) -> str:
    """Enclose the posterior mean and the log-evidence: one linear system a component."""
    mixture = Mixture(claim["problem"])
    operator, transposed = mixture.operator, mixture.operator.transpose()
    size = operator.nrows()
    noise = scaled_identity(size, mixture.noise_std * mixture.noise_std)
    for y, mean, evidence in zip(claim["y"], claim["mean"], claim["log_evidence"], strict=True):
        logs, means = [], []
        for weight, centre, covariance in zip(mixture.weights, mixture.means, mixture.covariances, strict=True):
            total = operator * covariance * transposed + noise
            miss = subtract(vector(y), apply(operator, centre))
            solved = apply(total.inv(), miss)
            logs.append(weight.log() - (2 * arb.pi() * total).det().log() / 2 - dot(miss, solved) / 2)
            means.append([c + g for c, g in zip(centre, apply(covariance * transposed, solved), strict=True)])
        found = log_sum(logs)
        exact = [
            sum(((e - found).exp() * m[i] for e, m in zip(logs, means, strict=True)), arb(0)) for i in range(len(mean))
        ]
        radius = arb(claim["radius"])
        demand(norm(subtract(exact, vector(mean))) <= radius, f"|posterior mean({y}) - {mean}| <= {radius}")
        demand(abs(found - arb(evidence)) <= radius, f"|log p({y}) - {evidence}| <= {radius}")
    return f"{len(claim['y'])} posterior means and evidences within {claim['radius']:.0e}"


# The global minimum


def box(centre: Sequence[float], radius: float) -> Vector:
    """The cube around a point."""
    return [arb(c, radius) for c in centre]


def halves(region: Vector) -> Iterator[Vector]:
    """The region, cut in two along each axis."""
    parts = [[arb(a.mid() - a.rad() / 2, a.rad() / 2), arb(a.mid() + a.rad() / 2, a.rad() / 2)] for a in region]
    yield from (list(part) for part in product(*parts))


def is_inside(small: Vector, large: Vector) -> bool:
    """Whether each interval lies in the interior of the other."""
    return all(b.contains_interior(a) for a, b in zip(small, large, strict=True))


def enclosed_mode(mixture: Mixture, y: Vector, mode: Sequence[float], radius: float) -> arb:
    """Prove that the cube holds exactly one stationary point, a minimum; return its value enclosed."""
    region = box(mode, radius)
    _, gradient, _ = mixture.objective(y, vector(mode))
    _, _, hessian = mixture.objective(y, region)
    demand(is_positive_definite(hessian), f"the Hessian is positive definite around {mode}")
    step = apply(hessian.inv(), gradient)
    demand(is_inside(subtract(vector(mode), step), region), f"Newton's step stays within {radius} of {mode}")
    return mixture.objective(y, subtract(vector(mode), step))[0]


def excluded(mixture: Mixture, y: Vector, region: Vector, least: arb) -> bool:
    """Whether no point of the region is a minimum with a value of at most `least`."""
    value, gradient, _ = mixture.objective(y, region)
    if value > least or any(not g.contains(0) for g in gradient):
        return True
    middle = [arb(a.mid()) for a in region]
    at_middle = mixture.objective(y, middle)[0]
    return at_middle + dot(gradient, subtract(region, middle)) > least


def verify_map(claim: dict[str, Any]) -> str:
    """Prove each mode, then exclude the rest of the space by branch and bound."""
    mixture, cells = Mixture(claim["problem"]), 0
    for y, modes, basins in zip(claim["y"], claim["modes"], claim["basins"], strict=True):
        datum = vector(y)
        values = [enclosed_mode(mixture, datum, mode, claim["radius"]) for mode in modes]
        least = min((value.upper() for value in values), key=float)
        demand(
            all(value - least < arb(claim["tie"]) for value in values), f"the modes at {y} differ by less than the tie"
        )
        regions = [box(mode, basin) for mode, basin in zip(modes, basins, strict=True)]
        cells += _exclude_the_rest(mixture, datum, regions, least)
    return f"{len(claim['y'])} data, global MAP estimates within {claim['radius']:.0e} ({cells} cells)"


def _exclude_the_rest(mixture: Mixture, y: Vector, basins: Sequence[Vector], least: arb) -> int:
    """Show that J is convex in the basin of each mode, and larger than `least` or without a minimum elsewhere."""
    for basin in basins:
        demand(is_positive_definite(mixture.objective(y, basin)[2]), f"J is convex in {basin}")

    waiting, cells = [_search_region(mixture, y, least)], 0
    while waiting:
        region = waiting.pop()
        cells += 1
        demand(cells < 50_000, f"the cells at {[float(a) for a in y]} can be excluded")
        inside = any(is_inside(region, other) for other in basins)
        if not inside and not excluded(mixture, y, region, least):
            waiting.extend(halves(region))
    return cells


def _search_region(mixture: Mixture, y: Vector, least: arb) -> Vector:
    """A cube beyond which J is larger than `least`, since |Ax - y|^2 / (2 delta^2) alone is."""
    room = least + mixture.greatest_log_density()
    inverse = mixture.operator.inv()
    reach = mixture.noise_std * (2 * room).sqrt() * norm(inverse.entries())
    return [arb(float(centre), float(reach.upper()) * (1 + 1e-9) + 1e-9) for centre in apply(inverse, y)]


KINDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "network": verify_network,
    "posterior": verify_posterior,
    "map": verify_map,
}


def verify(certificate: dict[str, Any]) -> str:
    """Prove a certificate; return what has been proved, or raise `NotProvedError`."""
    ctx.prec = BITS
    return KINDS[certificate["kind"]](certificate)


def main(names: Sequence[str]) -> int:
    """Verify files; print a line for each, and return 1 if one is refuted."""
    failed = False
    for path in [Path(name) for name in names] or sorted(FOLDER.glob("*.json")):
        start = time.perf_counter()
        try:
            line = verify(json.loads(path.read_text(encoding="utf-8")))
        except NotProvedError as claim:
            failed, line = True, f"NOT PROVED: {claim}"
        print(f"{path.stem}: {line} [{time.perf_counter() - start:.1f} s]")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
