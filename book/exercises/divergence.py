"""What the exercises of the chapter on divergence training ask."""

from __future__ import annotations

from collections.abc import Callable

import torch
from checks import divergence as checks
from checks.tools import column
from torch import Tensor

from exercises.asking import Mistake, Question, times
from invlib import GaussianMixture, LinearProblem, testproblems

H = torch.tensor([[1.0, 0.2], [0.2, 0.4]], dtype=torch.float64)
SIGMA = torch.tensor([[0.9, -0.3], [-0.3, 0.6]], dtype=torch.float64)
W = torch.tensor([[3.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)


def affine(H: Tensor, covariance: Tensor, strength: float) -> Tensor:
    """Return the matrix of the best map for the Gaussian prior with the same moments."""
    prior = GaussianMixture([1.0], torch.zeros(1, len(H)), covariance[None])
    origin = torch.zeros(1, len(H), dtype=torch.float64)
    return H - float(strength) ** 2 * prior.hessian(origin)[0]


def soft(z: float, strength: float, beta: float) -> Tensor:
    """Return the minimizer of J_z for the Laplace prior, on a grid."""
    x = torch.linspace(-4, 4, 800_001, dtype=torch.float64)
    return x[(0.5 * x**2 - float(z) * x + float(strength) ** 2 * x.abs() / float(beta)).argmin()]


def sign(z: float) -> float:
    """Return the sign."""
    return float(z > 0) - float(z < 0)


def best_multiple(W: Tensor, H: Tensor, covariance: Tensor, strength: float) -> Tensor:
    """Return the a for which a parabola, the loss of ax in the norm of W, is least; from three of its values."""

    def loss(a: float) -> Tensor:
        gap = a * torch.eye(len(H), dtype=torch.float64) - H
        return 0.5 * (gap @ covariance @ gap.mT @ W).trace() - float(strength) ** 2 * a * W.trace()

    low, mid, high = loss(-1.0), loss(0.0), loss(1.0)
    return 0.5 * (low - high) / (low - 2 * mid + high)


def sample_case(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, float]:
    """Return values and divergences of two maps, clean data, and a strength."""
    generator = torch.Generator().manual_seed(seed)
    first, second, clean = torch.randn(3, 200, 4, dtype=torch.float64, generator=generator)
    div_1, div_2 = torch.randn(2, 200, dtype=torch.float64, generator=generator) + 3
    return first, div_1, second, div_2 + 1, clean, 0.7


def difference(f1: Tensor, div1: Tensor, f2: Tensor, div2: Tensor, clean: Tensor, strength: float) -> Tensor:
    """Return twice the difference of the two losses."""
    losses = [0.5 * (f - clean).square().sum(-1) - float(strength) ** 2 * div for f, div in ((f1, div1), (f2, div2))]
    return 2 * (losses[0] - losses[1]).mean()


def variance_of_mean(sigma2: float, n: int, m: int) -> Tensor:
    """Return the variance of the mean of m of n errors that add up to zero, over all choices."""
    errors = torch.arange(int(n), dtype=torch.float64)
    errors = errors - errors.mean()
    errors = errors * (float(sigma2) / errors.square().mean()).sqrt()
    chosen = torch.combinations(errors, int(m)) if int(m) > 1 else errors[:, None]
    return chosen.mean(-1).square().mean()


def newton(problem: LinearProblem, prior: GaussianMixture, x: Tensor, z: Tensor) -> Tensor:
    """Return the point after a step."""
    return x + checks.newton_step(problem, prior, x, z)


def wrong_newton(problem: LinearProblem, prior: GaussianMixture, x: Tensor, z: Tensor) -> Tensor:
    """Return the point after a step with the wrong Hessian."""
    gradient, _ = checks.gradient_and_hessian(problem, prior, x, z)
    return x - torch.linalg.solve(problem.normal_operator - prior.hessian(x), gradient[..., None])[..., 0]


def descent(problem: LinearProblem, prior: GaussianMixture, x: Tensor, z: Tensor) -> Tensor:
    """Return the point after a step along the gradient."""
    return x - checks.gradient_and_hessian(problem, prior, x, z)[0]


def certificate(problem: LinearProblem, prior: GaussianMixture, x: Tensor, z: Tensor, c: float) -> Tensor:
    """Return the certificate."""
    return checks.gradient_and_hessian(problem, prior, x, z)[0].norm(dim=-1) / float(c)


def newton_case(delta: float) -> tuple[LinearProblem, GaussianMixture, Tensor, Tensor]:
    """Return a problem, a prior, points and data."""
    x = torch.tensor([[0.9, 0.5], [-1.2, -0.4], [0.2, 1.5]], dtype=torch.float64)
    problem = LinearProblem([[1.0, 0.0], [0.3, 0.8]], delta)
    return problem, testproblems.two_bumps(), x, x @ problem.normal_operator + 0.3


LINE = column(-7.0, 7.0, 7001)


def score_sums(prior: GaussianMixture, moments: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> float:
    """Return the quotient of two averages over a prior on the line, of s, s' and s''."""
    weight = prior.log_prob(LINE).exp()
    s, bend = prior.score(LINE)[:, 0], prior.hessian(LINE)[:, 0, 0]
    (second,) = torch.gradient(bend, spacing=2e-3)
    top, bottom = moments(s, bend, second)
    return float(weight @ top) / float(weight @ bottom)


def strength_factor(prior: GaussianMixture) -> float:
    """Return the a of the exercise."""
    return score_sums(prior, lambda s, bend, second: (s * second, 2 * s**2))


PRIORS = (
    GaussianMixture([0.5, 0.5], [[0.94], [-0.94]], 2 * [[[0.59**2]]]),
    GaussianMixture([0.7, 0.3], [[-0.8], [0.9]], [[[0.5**2]], [[0.6**2]]]),
)

QUESTIONS = (
    Question(
        "ex-dv-affine",
        "The matrix $B$ of the best affine map, a function of the matrices $H$ and $\\Sigma$ and of $\\hat\\delta$.",
        affine,
        (
            Mistake("The strength enters the loss with its square.", lambda H, S, d: H + d * torch.linalg.inv(S)),
            Mistake("Multiply $(B - H)\\Sigma = \\dots$ by the inverse of $\\Sigma$.", lambda H, S, d: H + d**2 * S),
            Mistake(
                "You forgot $H$: the misfit pulls to $Hx$, not to zero.", lambda H, S, d: d**2 * torch.linalg.inv(S)
            ),
            Mistake("The sign: the loss pays for divergence.", lambda H, S, d: H - d**2 * torch.linalg.inv(S)),
        ),
        takes="H, Sigma, strength",
        inputs=((H, SIGMA, 0.5), (SIGMA, H, 1.4)),
    ),
    Question(
        "ex-dv-laplace",
        "The inverse of $\\varphi^*$, with its gap filled: a function of $z$, $\\hat\\delta$ and $\\beta$.",
        soft,
        (
            Mistake(
                "This keeps large data as they are. The graph is shifted on both sides of the gap.",
                lambda z, d, b: z * (abs(z) > d**2 / b),
            ),
            Mistake("The strength is squared.", lambda z, d, b: sign(z) * max(abs(z) - d / b, 0.0)),
            Mistake("The inverse moves data towards zero, not away from it.", lambda z, d, b: z + sign(z) * d**2 / b),
            Mistake("Small data fall into the gap, and go to zero.", lambda z, d, b: z - sign(z) * d**2 / b),
        ),
        takes="z, strength, beta",
        inputs=((1.5, 0.6, 0.8), (-2.0, 0.6, 0.8), (0.1, 0.6, 0.8), (0.9, 0.7, 0.6)),
        atol=2e-5,
    ),
    Question(
        "ex-dv-metric",
        "Among the maps $x \\mapsto ax$, for a prior with mean zero and covariance $\\Sigma$: the $a$ with the "
        "least $L_W$, a function of $W$, $H$, $\\Sigma$ (matrices) and $\\hat\\delta$.",
        best_multiple,
        (
            Mistake(
                "This is the best multiple for $W = I$. Here the norm matters.",
                lambda W, H, S, d: best_multiple(torch.eye(len(H), dtype=torch.float64), H, S, d),
            ),
            Mistake("The strength is squared.", lambda W, H, S, d: best_multiple(W, H, S, d**0.5)),
            Mistake("The reward for the divergence is missing.", lambda W, H, S, d: best_multiple(W, H, S, 0.0)),
        ),
        takes="W, H, Sigma, strength",
        inputs=((W, H, SIGMA, 0.5), (W, SIGMA, H, 1.3)),
    ),
    Question(
        "ex-dv-dimension",
        "The estimated difference (first less second) of the mean squared distances to $\\varphi^*$: a function of "
        "the values (N, n) and divergences (N,) of the first map, the same of the second, the clean data $Hx$ (N, "
        "n), and $\\hat\\delta$.",
        difference,
        (
            Mistake("The loss has *half* of the squared distance in it.", times(0.5, difference)),
            Mistake("This is second less first.", times(-1, difference)),
            Mistake("The strength is squared.", lambda a, b, c, d, e, f: difference(a, b, c, d, e, f**0.5)),
            Mistake(
                "The divergence is paid for: it has a minus in the loss.",
                lambda a, b, c, d, e, f: difference(a, -b, c, -d, e, f),
            ),
        ),
        takes="value_1, div_1, value_2, div_2, clean, strength",
        inputs=(sample_case(1), sample_case(2)),
    ),
    Question(
        "ex-rn-hadamard",
        "The variance of the mean over $m$ of the $n$ columns, drawn without replacement: a function of the variance "
        "$\\sigma^2$ of one probe, of $n$ and $m$.",
        variance_of_mean,
        (
            Mistake("These are independent probes. Drawn columns do not repeat.", lambda v, n, m: v / m),
            Mistake("For $m = 1$ it must be the variance of one probe.", lambda v, n, m: v / m * (n - m) / n),
            Mistake("The average over $m$ is missing.", lambda v, n, m: v * (n - m) / (n - 1)),
        ),
        takes="sigma2, n, m",
        inputs=((1.0, 4, 2), (2.5, 8, 3), (0.7, 8, 1)),
    ),
    Question(
        "ex-dv-newton",
        "The certificate, a function of problem, prior, `x` and `z` of shape (B, n), and $c$.",
        certificate,
        (
            Mistake(
                "Divide by $c$: where the objective bends little, a small gradient means less.",
                lambda p, q, x, z, c: certificate(p, q, x, z, 1.0) * c,
            ),
            Mistake(
                "The length of the gradient, not its square.",
                lambda p, q, x, z, c: certificate(p, q, x, z, 1.0) ** 2 / c,
            ),
            Mistake("You forgot $z$ in the gradient.", lambda p, q, x, z, c: certificate(p, q, x, 0 * z, c)),
        ),
        part="a",
        takes="problem, prior, x, z, c",
        inputs=((*newton_case(0.45), 0.4), (*newton_case(0.3), 0.2)),
    ),
    Question(
        "ex-dv-newton",
        "The point after one Newton step, a function of problem, prior, `x` and `z`.",
        newton,
        (
            Mistake("The step goes uphill: subtract it.", lambda p, q, x, z: 2 * x - newton(p, q, x, z)),
            Mistake("The Hessian of the prior has the factor $\\delta^2$ in front.", wrong_newton),
            Mistake("This is a step along the gradient. Newton divides by the Hessian.", descent),
        ),
        part="b",
        takes="problem, prior, x, z",
        inputs=(newton_case(0.45), newton_case(0.3)),
    ),
    Question(
        "ex-dv-strength",
        "The $a$ of $\\hat\\delta^2 = \\delta^2(1 + a\\,\\delta^2)$ with the least error to leading order, a "
        "function of a prior on the line (a `GaussianMixture`).",
        strength_factor,
        (
            Mistake(
                "The factor one half is lost: the MAP estimate is off by half of $\\delta^4 s''$.",
                times(2, strength_factor),
            ),
            Mistake(
                "The sign is wrong. Does the MAP estimate pull too hard to the bumps, or not hard enough?",
                times(-1, strength_factor),
            ),
            Mistake(
                "Integrated by parts, $\\mathbb E\\,ss''$ has one more term: the prior has a slope, too.",
                lambda prior: score_sums(prior, lambda s, bend, second: (-(bend**2), 2 * s**2)),
            ),
        ),
        takes="prior",
        inputs=tuple((prior,) for prior in PRIORS),
        rtol=1e-2,
    ),
)
