"""What the exercises of the chapter on reconstruction training ask."""

from __future__ import annotations

from collections.abc import Callable

import torch
from checks import reconstruction as checks
from checks.tools import column
from torch import Tensor

import invlib
from exercises.asking import Mistake, Question, times
from invlib import GaussianMixture, LinearProblem

Map = Callable[[Tensor], Tensor]


def zero() -> Tensor:
    """Return the origin."""
    return torch.zeros(1, 1, dtype=torch.float64)


def gaussian(s: float) -> GaussianMixture:
    """Return a centred Gaussian on the line."""
    return GaussianMixture([1.0], [[0.0]], [[[float(s) ** 2]]])


def slope(problem: LinearProblem, prior: GaussianMixture) -> float:
    """Return the slope of the ideal map at the reconstruction of zero: one over that of the posterior mean."""
    return problem.noise_std**2 / float(invlib.posterior_covariance(problem, prior, zero()))


def forward_error(h: float, s: float, delta: float) -> float:
    """Return the root mean square of phi(x) - hx for a Gaussian prior."""
    problem = LinearProblem([[float(h) ** 0.5]], float(delta))
    return (slope(problem, gaussian(s)) - float(h)) * float(s)


def middle(m: float, s: float, delta: float) -> float:
    """Return the slope of the ideal map between two bumps."""
    return slope(LinearProblem([[1.0]], float(delta)), two(m, s))


def two(m: float, s: float) -> GaussianMixture:
    """Return two equal bumps."""
    return GaussianMixture([0.5, 0.5], [[float(m)], [-float(m)]], 2 * [[[float(s) ** 2]]])


def penalty_gradient(x: float) -> Tensor:
    """Return the gradient of R for the two unequal bumps."""
    point = torch.tensor([[float(x)]], dtype=torch.float64)
    return (case().forward(point) - point).squeeze()


def case() -> checks.Case:
    """Return the two unequal bumps with noise."""
    prior = GaussianMixture([0.7, 0.3], [[-0.8], [0.9]], [[[0.25**2]], [[0.35**2]]])
    return checks.Case(prior, LinearProblem([[1.0]], noise_std=0.45))


def map_gradient(x: float) -> Tensor:
    """Return the gradient of the penalty of the MAP estimate."""
    point = torch.tensor([[float(x)]], dtype=torch.float64)
    return (case().map_forward(point) - point).squeeze()


def fourth(x: float, delta: float) -> Tensor:
    """Return the leading term of the difference of the two maps."""
    point = torch.tensor([float(x)], dtype=torch.float64)
    (third,) = torch.func.grad(lambda at: two(0.9, 0.6).hessian(at).sum())(point)
    return -0.5 * float(delta) ** 4 * third


def unrolled(f: Map, z: Tensor, k: int, sign: float = 1.0) -> Tensor:
    """Return x_k, from x_0 = z."""
    x = z
    for _ in range(int(k)):
        x = z - sign * f(x)
    return x


def branch(x: Tensor) -> Tensor:
    """Return a steep branch."""
    return -0.85 * x + 0.1 * torch.sin(x)


def blind(z: float, s: float, first: float, second: float) -> float:
    """Return E[x | z] if the noise has one of two levels, by a sum over x and the levels."""
    x = column(-12.0, 12.0, 24_001)[:, 0]
    prior = (-0.5 * x**2 / float(s) ** 2).exp()
    noise = sum((-0.5 * (float(z) - x) ** 2 / float(d) ** 2).exp() / float(d) for d in (first, second))
    return float((prior * noise) @ x / (prior * noise).sum())


def even(z: float, s: float, first: float, second: float) -> float:
    """Return the mean of the two posterior means."""
    return 0.5 * z * sum(s**2 / (s**2 + d**2) for d in (first, second))


START = torch.tensor([[0.7], [-0.4]], dtype=torch.float64)

QUESTIONS = (
    Question(
        "ex-rc-hand",
        "The root mean square forward error along one eigenvector, a function of $h$, $s$ and $\\delta$.",
        forward_error,
        (
            Mistake("This is the noise of $z$.", lambda h, s, delta: delta * h**0.5),
            Mistake(
                "This is the factor of $x$. The error has the size of $x$ as well.", lambda h, s, delta: delta**2 / s**2
            ),
            Mistake("The noise enters with its variance.", lambda h, s, delta: delta / s),
        ),
        part="a",
        takes="h, s, delta",
        inputs=((0.25, 0.8, 0.3), (1.5, 0.4, 0.6)),
    ),
    Question(
        "ex-rc-hand",
        "The slope of $\\varphi_{\\mathrm{rec}}$ in the middle of the two bumps, a function of $m$, $s$ and $\\delta$.",
        middle,
        (
            Mistake(
                "This is the slope of the posterior mean; the network is its inverse.",
                lambda m, s, delta: 1 / middle(m, s, delta),
            ),
            Mistake(
                "This is for one bump only; the other one bends the posterior mean upwards.",
                lambda m, s, delta: middle(0.0, s, delta),
            ),
            Mistake(
                "This is the map whose inverse is the MAP estimate.",
                lambda m, s, delta: 1 + delta**2 / s**2 - delta**2 * m**2 / s**4,
            ),
        ),
        part="c",
        takes="m, s, delta",
        inputs=((0.5, 0.45, 0.45), (0.7, 0.45, 0.6)),
    ),
    Question(
        "ex-rc-penalty",
        "The derivative of $R$ for the two unequal bumps (weights 0.7 and 0.3 at $-0.8$ and $0.9$, standard "
        "deviations 0.25 and 0.35, $\\delta = 0.45$), a function of $x$.",
        penalty_gradient,
        (
            Mistake("This is $\\varphi_{\\mathrm{rec}}$ itself; subtract $Hx$.", lambda x: penalty_gradient(x) + x),
            Mistake("This belongs to the MAP estimate: $-\\delta^2$ times the score of the prior.", map_gradient),
            Mistake("The sign is wrong.", times(-1, penalty_gradient)),
        ),
        part="a",
        takes="x",
        inputs=((0.1,), (-0.5,), (1.1,)),
        rtol=1e-2,
    ),
    Question(
        "ex-rc-fourth",
        "The leading term of $\\varphi_{\\mathrm{rec}} - \\varphi^*$ on the line, for bumps of the standard "
        "deviation 0.6 at $\\pm0.9$ with equal weights: a function of $x$ and $\\delta$.",
        fourth,
        (
            Mistake(
                "This is the difference of the reconstructions; that of the maps has the opposite sign.",
                times(-1, fourth),
            ),
            Mistake("The factor one half is lost.", times(2, fourth)),
            Mistake(
                "The power of the noise: second order is the same for both.",
                lambda x, delta: fourth(x, delta) / delta**2,
            ),
        ),
        takes="x, delta",
        inputs=((0.2, 0.3), (0.7, 0.5), (-1.1, 0.4)),
    ),
    Question(
        "ex-rc-unroll",
        "The iterate $x_k$ from $x_0 = z$, a function of $f$ (a function of points), `z` and $k$.",
        unrolled,
        (
            Mistake("The sign: $z = x + f(x)$.", lambda f, z, k: unrolled(f, z, k, sign=-1.0)),
            Mistake("This is one step too few.", lambda f, z, k: unrolled(f, z, k - 1)),
            Mistake(
                "You start at zero, not at $z$: that is one step behind.",
                lambda f, z, k: unrolled(f, torch.zeros_like(z), k),
            ),
        ),
        takes="f, z, k",
        inputs=((branch, START, 3), (branch, 2 * START, 10)),
    ),
    Question(
        "ex-rc-blind",
        "$\\mathbb E[x \\mid z]$ for two noise levels of equal probability, a function of $z$, $s$, $\\delta_1$ and "
        "$\\delta_2$.",
        blind,
        (
            Mistake("The levels are equally likely before $z$ is seen, not after it.", even),
            Mistake(
                "The datum has the variance $s^2 + \\delta_k^2$; you took only the more likely level.",
                lambda z, s, a, b: z * s**2 / (s**2 + min(a, b) ** 2),
            ),
        ),
        takes="z, s, delta_1, delta_2",
        inputs=((0.8, 1.0, 0.3, 2.0), (2.5, 1.0, 0.3, 2.0)),
    ),
)
