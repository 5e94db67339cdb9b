"""What the exercises of the chapter on photographs ask."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from checks import photographs as checks
from checks.photographs import Case, Spectrum
from checks.tools import seeded
from torch import Tensor

from exercises.asking import Mistake, Question
from invlib import ConvIResNet, GaussianMixture

RIPPLE = 0.97  # L of a block
Map = Callable[[Tensor], Tensor]


def excess(s: float, delta: float, C: float) -> list[float]:
    """Return what the slope C costs in both losses, from the losses themselves, less their least values."""
    s2, noise = float(s) ** 2, float(delta) ** 2

    def divergence(slope: float) -> float:
        return 0.5 * slope**2 * s2 - slope * s2 - noise * slope

    def squared(slope: float) -> float:
        return (1 / slope - 1) ** 2 * s2 + noise / slope**2

    best = 1 + noise / s2
    return [divergence(float(C)) - divergence(best), squared(float(C)) - squared(best)]


def on_the_prior(s: float, delta: float, C: float) -> list[float]:
    """Return the costs, with the variance of x instead of that of z in the second."""
    s2, noise = float(s) ** 2, float(delta) ** 2
    return [excess(s, delta, C)[0], excess(s, delta, C)[1] * s2 / (s2 + noise)]


def blocks(strength: float, tau: float) -> int:
    """Return the least K whose slopes reach the bound."""
    needed, reached = 0, 1.0
    while reached < checks.smoothing_bound(float(strength), float(tau)):
        needed, reached = needed + 1, reached * (1 + RIPPLE)
    return needed


def halfway(d: float, strength: float, tau: float) -> float:
    """Return the least eigenvalue halfway, from second differences of the log-density of the line."""
    d, strength, tau = float(d), float(strength), float(tau)
    step = 1e-3 * tau

    def log_density(at: float) -> float:
        parts = (-0.5 * ((at - place) / tau) ** 2 for place in (-0.5 * d, 0.5 * d))
        return float(torch.logsumexp(torch.tensor(list(parts), dtype=torch.float64), 0))

    bend = (log_density(step) - 2 * log_density(0.0) + log_density(-step)) / step**2
    return 1 - strength**2 * bend


def root(A: Tensor, covariance: Tensor, delta: float, power: float) -> Tensor:
    """Return W to a power."""
    W = A.mT @ A + float(delta) ** 2 * torch.linalg.inv(covariance)
    values, vectors = torch.linalg.eigh(W)
    return vectors * values**power @ vectors.mT


def wiener(A: Tensor, covariance: Tensor, delta: float, y: Tensor) -> Tensor:
    """Return Wiener's estimate in pixels, from the covariance of x and y and that of y."""
    noise = float(delta) ** 2 * torch.eye(len(A), dtype=A.dtype)
    return covariance @ A.mT @ torch.linalg.solve(A @ covariance @ A.mT + noise, y)


def datum(A: Tensor, covariance: Tensor, delta: float, y: Tensor) -> Tensor:
    """Return the datum in the new variables: Wiener's estimate, carried over."""
    return root(A, covariance, delta, 0.5) @ wiener(A, covariance, delta, y)


@cache
def best_map(strength: float, tau: float) -> Map:
    """Return phi* for A = I and a few smoothed points."""
    smoothed = checks.smoothed(POINTS, tau)
    return lambda x: x - strength**2 * smoothed.score(x)


def inside(phi: Map, x: Tensor, strength: float, tau: float) -> Tensor:
    """Return the denoiser, from the posterior of the points: it does not look at phi."""
    return checks.denoiser(POINTS, float(tau), x)


def squares() -> Tensor:
    """Return the squares of the chapter."""
    return checks.test_pictures()[1:3, 40:52, 60:72]


def kept(name: str) -> ConvIResNet:
    """Return an invertible network of the chapter."""
    net = checks.kept(name)
    assert isinstance(net, ConvIResNet)
    return net


def slopes(net: ConvIResNet, pictures: Tensor, step: float = 1e-5) -> Tensor:
    """Return the singular values of the Jacobian at pictures, (P, n), by differences."""
    placed, points = net.double().on((pictures.shape[-2], pictures.shape[-1])), pictures.flatten(1)
    moves = step * torch.eye(points.shape[-1], dtype=torch.float64)
    with torch.no_grad():
        here, there = placed(points), placed((points[:, None] + moves).flatten(0, 1))
    columns: Tensor = there.unflatten(0, (len(points), -1)) - here[:, None]
    return torch.linalg.svdvals(columns / step)


@cache
def seen() -> tuple[Tensor, Tensor]:
    """Return the slopes at the squares, of the network from pictures to data and of that from data to pictures."""
    data = Case(Spectrum(1.0, 1.0)).measure(squares(), seeded(9))  # without blur, whatever the spectrum
    return slopes(kept("divergence-tuned"), squares()), slopes(kept("other"), data)


@cache
def bounds() -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the certified bounds of the two networks."""
    (low, high), (other_low, other_high) = (kept(name).lipschitz_bounds() for name in ("divergence-tuned", "other"))
    return (float(low), float(high)), (float(other_low), float(other_high))


A = torch.tensor([[1.0, 0.4, 0.0], [0.0, 0.5, 0.3]], dtype=torch.float64)
S = torch.tensor([[1.0, 0.2, 0.0], [0.2, 0.6, 0.1], [0.0, 0.1, 0.8]], dtype=torch.float64)
Y = torch.tensor([0.9, -0.6], dtype=torch.float64)
PLACES = torch.tensor([[0.0, 0.2], [0.3, -0.1], [-0.2, -0.3]], dtype=torch.float64)
POINTS = GaussianMixture([0.5, 0.3, 0.2], PLACES, 0.002 * torch.eye(2, dtype=torch.float64).expand(3, 2, 2))
X = torch.tensor([[0.1, 0.1], [0.25, -0.2], [-0.1, -0.25], [0.02, -0.15]], dtype=torch.float64)

QUESTIONS = (
    Question(
        "ex-ph-patch",
        "What the slope $C$ costs in the divergence loss, and in the squared error: a function of $s$, $\\delta$ and "
        "$C$ that returns both, exactly.",
        excess,
        (
            Mistake(
                "The divergence loss begins with one half of a square.",
                lambda s, delta, C: [2 * excess(s, delta, C)[0], excess(s, delta, C)[1]],
            ),
            Mistake("The reconstruction is a function of $z$, whose variance is larger than $s^2$.", on_the_prior),
            Mistake(
                "These are the limit for flat patches and the bound, not the costs themselves.",
                lambda s, delta, C: [0.5 * delta**4 / s**2, delta**2 / C**2],
            ),
            Mistake(
                "This compares with the identity; compare with the slope $a$.",
                lambda s, delta, C: [0.5 * (C - 1) ** 2 * s**2, (1 - 1 / C) ** 2 * (s**2 + delta**2)],
            ),
        ),
        takes="s, delta, C",
        inputs=((0.003, 0.1, 30.0), (0.02, 0.1, 5.0), (0.05, 0.1, 2.0)),
        atol=1e-9,
    ),
    Question(
        "ex-ph-blocks",
        "The least number of blocks with $L = 0.97$: a function of $\\hat\\delta$ and $\\tau$.",
        blocks,
        (
            Mistake("So many blocks do not yet reach the bound.", lambda strength, tau: blocks(strength, tau) - 1),
            Mistake(
                "The score is a difference divided by a variance: squares are missing.",
                lambda strength, tau: blocks((strength / tau) ** 0.5, 1.0),
            ),
            Mistake(
                "Slopes of blocks multiply; they do not add up.",
                lambda strength, tau: math.ceil((1 + (strength / tau) ** 2) / (1 + RIPPLE)),
            ),
        ),
        part="a",
        takes="strength, tau",
        inputs=((0.1, 0.03), (0.1, 0.01), (0.1, 0.001)),
    ),
    Question(
        "ex-ph-blocks",
        "The least eigenvalue halfway between the two, for $A = \\mathrm{Id}$: a function of $d$, $\\hat\\delta$ and "
        "$\\tau$.",
        halfway,
        (
            Mistake(
                "Halfway each of the two is at half of the distance.",
                lambda d, strength, tau: halfway(2 * d, strength, tau),
            ),
            Mistake(
                "This is $\\hat\\delta^2$ times minus the Hessian. The operator adds to it.",
                lambda d, strength, tau: halfway(d, strength, tau) - 1,
            ),
            Mistake(
                "This is an eigenvalue in a direction in which the two do not differ.",
                lambda d, strength, tau: 1 + (strength / tau) ** 2,
            ),
            Mistake(
                "Count the powers of $\\tau$ under the covariance.",
                lambda d, strength, tau: 1 + (strength / tau) ** 2 * (1 - d**2 / (4 * tau)),
            ),
        ),
        part="b",
        takes="d, strength, tau",
        inputs=((0.1, 0.1, 0.03), (0.04, 0.2, 0.05)),
    ),
    Question(
        "ex-ph-wiener",
        "The datum of the normal equation in the variables $u = W^{1/2}x$: a function of $A$, $\\Sigma$ (matrices), "
        "$\\delta$ and $y$ (a vector).",
        datum,
        (
            Mistake(
                "This is $W^{1/2}A^*y$: the adjoint of the new operator $AW^{-1/2}$ counts.",
                lambda A, S, delta, y: root(A, S, delta, 0.5) @ A.mT @ y,
            ),
            Mistake("This is Wiener's estimate in the old variables.", wiener),
            Mistake("This is the datum in the old variables.", lambda A, S, delta, y: A.mT @ y),
            Mistake("In $W$ the noise enters with its variance.", lambda A, S, delta, y: datum(A, S, delta**0.5, y)),
        ),
        takes="A, Sigma, delta, y",
        inputs=((A, S, 0.6, Y), (2 * A, S @ S, 0.3, Y.flip(0))),
    ),
    Question(
        "ex-ph-inside",
        "What the denoiser inside a network makes of pictures, $(B, n)$, if the network is $\\varphi^*$ and "
        "$A = \\mathrm{Id}$: a function of the network, the pictures, $\\hat\\delta$ and $\\tau$.",
        inside,
        (
            Mistake("This is the inverse of the factor.", lambda phi, x, d, t: x - (d / t) ** 2 * (phi(x) - x)),
            Mistake("The factor is a quotient of variances.", lambda phi, x, d, t: x - t / d * (phi(x) - x)),
            Mistake("This is the noise that is found; take it off.", lambda phi, x, d, t: (t / d) ** 2 * (phi(x) - x)),
            Mistake("This adds noise: a sign.", lambda phi, x, d, t: x + (t / d) ** 2 * (phi(x) - x)),
            Mistake("$Hx$ stays in the equation: take it to the left.", lambda phi, x, d, t: x - (t / d) ** 2 * phi(x)),
        ),
        takes="phi, x, strength, tau",
        inputs=((best_map(0.1, 0.03), X, 0.1, 0.03), (best_map(0.06, 0.1), X, 0.06, 0.1)),
    ),
    Question(
        "ex-ph-stable",
        "By how much each reconstruction changes at most, by the certificates: of *divergence, best strength*, then of "
        "the network from data to pictures; a list.",
        lambda: [1 / bounds()[0][0], bounds()[1][1]],
        (
            Mistake(
                "The first network is inverted to reconstruct; this is how its *data* change.",
                lambda: [bounds()[0][1], bounds()[1][1]],
            ),
            Mistake(
                "The second network needs no inverse to reconstruct.",
                lambda: [1 / bounds()[0][0], 1 / bounds()[1][0]],
            ),
            Mistake(
                "The least change of the data belongs to the largest change of the reconstruction.",
                lambda: [1 / bounds()[0][1], bounds()[1][1]],
            ),
        ),
        part="a",
        atol=1e-6,
    ),
    Question(
        "ex-ph-stable",
        "The same as seen at the two squares of 12 × 12 points of this chapter (`squares`, `backward` for the "
        "second network): the largest over both squares; a list.",
        lambda: [float(1 / seen()[0].min()), float(seen()[1].max())],
        (
            Mistake(
                "The inverse stretches most where the network stretches least.",
                lambda: [float(1 / seen()[0].max()), float(seen()[1].max())],
            ),
            Mistake(
                "These are means over directions; noise may come from the worst one.",
                lambda: [float((1 / seen()[0]).mean()), float(seen()[1].mean())],
            ),
            Mistake(
                "The second network reconstructs by itself: no reciprocal.",
                lambda: [float(1 / seen()[0].min()), float(1 / seen()[1].min())],
            ),
        ),
        part="b",
    ),
)
