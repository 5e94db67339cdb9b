"""The right answers of exercises, as they are computed, against the closed forms of the solutions on the pages."""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "book"))

import exercises

QUESTIONS = {question.name: question for chapter in exercises.CHAPTERS for question in exercises.questions(chapter)}


def level(kappa: float, eps: float) -> float:
    """By how much a believed noise of 0.3 kappa makes the error for H = diag(1, eps^2) and x ~ N(0, I) larger."""
    errors = []
    for believed in (0.09 * kappa**2, 0.09):
        errors.append(sum((believed**2 + 0.09 * h) / (h + believed) ** 2 for h in (1.0, eps**2)))
    return errors[0] / errors[1]


def integration_with_prior(n: int) -> float:
    """The error of the filter Sigma A* (A Sigma A* + delta_n^2 I)^-1, which never inverts Sigma."""
    t = torch.arange(1, n + 1, dtype=torch.float64) / n
    smooth, a = (-5 * (t[:, None] - t).abs()).exp(), (t[:, None] >= t).double() / n
    of_y = a @ smooth @ a.mT + 0.05**2 * n / 10 * torch.eye(n, dtype=torch.float64)
    left = smooth - smooth @ a.mT @ torch.linalg.solve(of_y, a @ smooth)
    return math.sqrt(float(left.trace()) / n)


def third_derivative(x: float, bump: float = 0.9, width: float = 0.6) -> float:
    """The third derivative of log p for two equal bumps: that of log cosh(t), t = bump x / width^2."""
    t, factor = bump * x / width**2, bump / width**2
    return -2 * factor**3 * math.tanh(t) / math.cosh(t) ** 2


def window(eps: float) -> list[float]:
    """Both ends of the window of delta / s; the lower one is a root of a quadratic equation in its square."""
    a = 1 + eps**-2
    b = a * (1 + eps**2) - 4
    root = (math.sqrt(b**2 + 4 * a * (1 + eps**2)) - b) / (2 * a)
    return [math.sqrt(root), math.sqrt(0.05 * (1 + eps**2))]


def patch(a: float, s: float, delta: float, c: float) -> list[float]:
    """What the slope c instead of a costs in both losses."""
    return [0.5 * (a - c) ** 2 * s**2, delta**2 * (a - c) ** 2 / (c**2 * a * (a - 1))]


def circuit(d: torch.Tensor, radius: float, count: int) -> float:
    """The sum around a circle, in trace and turn of the matrix."""
    angle, turn = 2 * math.pi / count, float(d[1, 0] - d[0, 1])
    return 0.5 * count * radius**2 * (float(d.trace()) * (math.cos(angle) - 1) + turn * math.sin(angle))


CLOSED_FORMS: dict[str, Callable] = {
    "ex-inv-hand-a": lambda: 101 / 400,
    "ex-inv-hand-b": lambda: 1 / 401 + 1 / 5,
    "ex-inv-hand-c": lambda: 0.05 / math.sqrt(2 - 0.05**2),
    "ex-inv-gauss-markov": lambda a, d, delta: delta**2 * float(d.square().sum()),
    "ex-inv-integration-a": lambda n: n**2 * (2 * n - 1),
    "ex-inv-integration-b": lambda n: 0.05 * math.sqrt(n / 10) * math.sqrt(n * (2 * n - 1)),
    "ex-inv-integration-c": integration_with_prior,
    "ex-inv-level": level,
    "ex-pe-threshold-a": lambda m, s, d: 1 + d**2 / s**2 - d**2 * m**2 / s**4,
    "ex-pe-threshold-b": lambda m, s: s**2 / math.sqrt(m**2 - s**2),
    "ex-pe-plateau-b": lambda z: math.copysign(1 + math.sqrt(abs(z) / 3), z),
    "ex-pe-plateau-c": lambda: 1.0,
    "ex-pe-fourth": lambda z, d: 0.5 * d**4 * third_derivative(z),
    "ex-pe-agree-b": lambda kappa, d2, m: math.cos(2 * m) * (1 - math.exp(-2 * d2 / kappa)),
    "ex-tw-coin-a": lambda y, d: math.tanh(y / d**2),
    "ex-tw-coin-b": lambda y, d: 1 / math.cosh(y / d**2) ** 2,
    "ex-tw-blind-a": lambda theta, y: theta * y / (1 + 0.45**2),
    "ex-tw-fisher-a": lambda fisher, m, d: m * d**2 - d**4 * fisher,
    "ex-rn-line-b": lambda limit: math.ceil(math.log(0.1) / math.log(limit)),
    "ex-rn-reflection-b": lambda alpha, k: 2 * math.sin(alpha / (2 * k)),
    "ex-rn-angles": lambda limit, k: k * math.degrees(math.asin(limit)),
    "ex-rn-open-a": lambda mu, nu: abs(mu) ** 2 - abs(nu) ** 2,
    "ex-rn-open-b": lambda mu, nu: abs(mu - 1) + abs(nu),
    "ex-four-order": lambda s, d: 1 - d**2 / s**2,
    "ex-four-limits": lambda: [2, 1],
    "ex-four-noise": lambda a, d: 0.5 * d**2 * float(a.square().sum()),
    "ex-four-between": lambda h, s, d: (h + 2 * d**2 / s**2) / (1 + d**2 / s**2),
    "ex-ap-hand-b": lambda h, s, d: h + d**2 / s**2,
    "ex-ap-hand-c": lambda: [11 / 16, 1 - math.sqrt(5) / 4],
    "ex-ap-weights-c": lambda d: 1 / (1 + d**2),
    "ex-rc-hand-a": lambda h, s, d: d**2 / s,
    "ex-rc-hand-c": lambda m, s, d: (s**2 + d**2) / (s**2 + d**2 * m**2 / (s**2 + d**2)),
    "ex-rc-fourth": lambda x, d: -0.5 * d**4 * third_derivative(x),
    "ex-ld-spurious-a": lambda h, s, tau: [0.5 * (h + sign * math.sqrt(h**2 + 4 * tau / s**2)) for sign in (1, -1)],
    "ex-ld-euler": lambda x, s: -x / s**4,
    "ex-ld-laplace-a": lambda slope, beta: 2 * slope**2 / beta,
    "ex-ld-sixth": lambda: -1 / 4,
    "ex-ld-gauss-a": lambda h, s, d: (4 / (1 + math.sqrt(1 + 2 * d**2 / (h * s**2))) - 1) / h,
    "ex-ld-gauss-c": lambda: 4,
    "ex-dv-affine": lambda h, sigma, strength: h + strength**2 * sigma.inverse(),
    "ex-dv-laplace": lambda z, strength, beta: math.copysign(max(abs(z) - strength**2 / beta, 0), z),
    "ex-dv-metric": lambda w, h, sigma, strength: (
        float((w @ h @ sigma).trace() + strength**2 * w.trace()) / float((w @ sigma).trace())
    ),
    "ex-rn-hadamard": lambda sigma2, n, m: sigma2 / m * (n - m) / (n - 1),
    "ex-nl-window": window,
    "ex-nl-product": lambda t: math.sqrt(1 + t),
    "ex-lg-threshold-b": lambda h, m, s: math.sqrt(h) * s**2 / math.sqrt(m**2 - s**2),
    "ex-lg-read-a": lambda share, kappa, w: share * (1 + kappa * (1 - w**2)),
    "ex-lg-read-b": lambda share, kappa, w: share / (1 - kappa * (1 - w**2)),
    "ex-ab-below": lambda least, found: least - found,
    "ex-ab-clip": lambda a, ell, s: [ell, 0.5 * (ell - a) ** 2 * s**2],
    "ex-ab-rise": lambda kappa: 1.25 * (1 + kappa) ** 2 - kappa,
    "ex-ab-strength-a": lambda s, strength: 1 / (1 + strength**2 / s**2),
    "ex-ab-strength-b": lambda s, d: d,
    "ex-hf-tails-b": lambda c, d, tau: (d - c) / tau,
    "ex-ld-steps-b": lambda s2, d2: 0.25 * d2 * math.log(1 + d2 / s2),
    "ex-eb-honest-a": lambda h, s, d, b: s**2 * (1 - h / b) ** 2 + h * d**2 / b**2 - d**2 / b,
    "ex-eb-honest-b": lambda h, s, d: [h, h + d**2 / s**2],
    "ex-eb-blend": lambda n, trace, divergence, d: d**2 * (trace - divergence) / n,
    "ex-eb-local": lambda z, e, d: z + d**2 / e,
    "ex-no-gauss": lambda f, slope, bend, d: (1 + d**2) * f - d**2 * bend / slope**2,
    "ex-no-noise": lambda ell, gamma, kappa: ell / math.sqrt(gamma + kappa),
    "ex-sg-small": lambda: [0.5 + 1 / math.sqrt(12), 1 / (12 * math.sqrt(3))],
    "ex-sg-gain-2": lambda w, d: [math.log(w / (1 - w)) + d**2 / 2, d**2],
    "ex-sg-four": lambda d: [1 - d**2 / 2, 1 - d**2 / 4],
    "ex-ch-filters": lambda h, tau, rho: (
        0.5 * math.sqrt(h**2 + 4 * rho * tau) - 0.5 * (1 - rho) * h - 0.5 * rho * math.sqrt(h**2 + 4 * tau)
    ),
    "ex-ch-finite": lambda n, c, strength: [strength**2 * n * (c - 1), strength**2 * n * math.log(c)],
    "ex-ch-mean": lambda rho: 1 / rho - 1,
    "ex-lf-refine-a": lambda n: 1 / math.sqrt(2 * n),
    "ex-lf-refine-b": lambda n, variation: math.sqrt(2 * n) * variation,
    "ex-ph-patch": lambda s, d, c: patch(1 + d**2 / s**2, s, d, c),
    "ex-ph-blocks-a": lambda strength, tau: math.ceil(math.log(1 + (strength / tau) ** 2) / math.log(1.97)),
    "ex-ph-blocks-b": lambda d, strength, tau: 1 + (strength / tau) ** 2 * (1 - d**2 / (4 * tau**2)),
    "ex-iv-linear": lambda g, h, d: d**2 * (g.inverse() - h).inverse(),
    "ex-iv-turn": lambda d: 0.5 * float((d - d.mT).norm()),
    "ex-iv-circuit-b": circuit,
    "ex-ch-unequal": lambda w, s: -0.5 * s**2 * math.log(w / (1 - w)),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_the_right_answer_is_that_of_the_page(name: str) -> None:
    question, closed = QUESTIONS[name], CLOSED_FORMS[name]
    for arguments in question.inputs:
        right = torch.as_tensor(question.right(*arguments), dtype=torch.float64)
        formula = torch.as_tensor(closed(*arguments), dtype=torch.float64)
        torch.testing.assert_close(right, formula, rtol=question.rtol, atol=1e-9)
