"""What the exercises of the chapter on signals ask."""

from __future__ import annotations

import torch
from checks import signals as checks
from checks.tools import identity
from torch import Tensor

import invlib
from exercises.asking import Mistake, Question
from invlib import GaussianMixture, LinearProblem


def farthest() -> list[float]:
    """Return r and (t - r) / d^2 where mode and mean differ most, for a small d, on a grid."""
    d = 0.02
    t = torch.linspace(1e-3, 1 - 1e-3, 199_601, dtype=torch.float64)
    r = (torch.logit(t) - d**2 * (t - 0.5)).sigmoid()
    best = int((t - r).argmax())
    return [float(r[best]), float((t - r)[best]) / d**2]


def seen(A: Tensor, covariance: Tensor, delta: float, a: Tensor) -> Tensor:
    """Return D^2: what the classes are apart in the prior, less what the posterior leaves open."""
    return a @ torch.linalg.solve(covariance, a) - open_distance(A, covariance, delta, a)


def open_distance(A: Tensor, covariance: Tensor, delta: float, a: Tensor) -> Tensor:
    """Return d^2, with the posterior covariance of one class."""
    prior = GaussianMixture([1.0], torch.zeros(1, len(a)), covariance[None])
    origin = torch.zeros(1, len(a), dtype=torch.float64)
    C = invlib.posterior_covariance(LinearProblem(A, float(delta)), prior, origin)[0]
    g = torch.linalg.solve(covariance, a)
    return g @ C @ g


def law_of_logit(share: float, D: float) -> list[float]:
    """Return mean and variance of logit r, given the second class: from the two densities along one line, by sums."""
    y = torch.linspace(-12, 16, 28_001, dtype=torch.float64)
    weight = torch.softmax(-0.5 * (y - float(D)) ** 2, 0)
    odds = torch.logit(torch.tensor(float(share), dtype=torch.float64)) - 0.5 * (y - float(D)) ** 2 + 0.5 * y**2
    mean = weight @ odds
    return [float(mean), float(weight @ (odds - mean) ** 2)]


def certificate(gradient: Tensor, B: Tensor, T: Tensor) -> Tensor:
    """Return the bound in the new variables."""
    return (gradient @ T).norm(dim=-1) / torch.linalg.eigvalsh(T.mT @ B @ T)[0]


def four(d: float) -> list[float]:
    """Return what the certificate says for four classes with this distance of neighbours, and what is true."""
    far = 2 * float(d)
    level = float(d) / (far**2 - float(d) ** 2) ** 0.5
    problem, prior = LinearProblem(identity(32), level), checks.four_classes(far)
    ends = torch.linspace(-0.5, 1.5, 21, dtype=torch.float64)
    points = torch.nn.functional.pad(far * torch.cartesian_prod(ends, ends), (0, 30))
    certified = 1 - checks.largest_distance(problem, prior) ** 2 / 4
    return [certified, checks.least_relative(problem, prior, points)]


A = torch.tensor([[1.0, 0.4, 0.0], [0.0, 0.5, 0.3]], dtype=torch.float64)
S = torch.tensor([[1.0, 0.2, 0.0], [0.2, 0.6, 0.1], [0.0, 0.1, 0.8]], dtype=torch.float64)
TWO = torch.tensor([1.5, -0.5, 0.7], dtype=torch.float64)
G = torch.tensor([[0.3, -0.2, 0.1], [0.0, 0.5, -0.4]], dtype=torch.float64)
T = torch.tensor([[1.2, 0.0, 0.3], [0.5, 0.8, 0.0], [0.0, -0.4, 1.5]], dtype=torch.float64)

QUESTIONS = (
    Question(
        "ex-sg-small",
        "The $r > \\frac12$ for which $t - r$ is largest, and the value of $(t - r)/d^2$ there, as $d \\to 0$; a list.",
        farthest,
        (
            Mistake("This is $u = r - \\frac12$.", lambda: [farthest()[0] - 0.5, farthest()[1]]),
            Mistake(
                "Half of it is lost: the slope of the inverse of logit is $r(1 - r)$.",
                lambda: [farthest()[0], 0.5 * farthest()[1]],
            ),
            Mistake(
                "This is where $r(1 - r)^2$ is largest. The second factor is $r - \\frac12$.", lambda: [1 / 3, 4 / 27]
            ),
        ),
    ),
    Question(
        "ex-sg-seen",
        "$D^2$, a function of $A$, $\\Sigma_0$ (matrices), $\\delta$ and $a$ (a vector).",
        seen,
        (
            Mistake("This is $d^2$, what the data leave open.", open_distance),
            Mistake(
                "This is the distance in the prior, all of it.", lambda A, S, delta, a: a @ torch.linalg.solve(S, a)
            ),
            Mistake("The noise enters with its variance.", lambda A, S, delta, a: seen(A, S, delta**0.5, a)),
        ),
        takes="A, Sigma, delta, a",
        inputs=((A, S, 0.6, TWO), (A, S, 1.4, 2 * TWO)),
    ),
    Question(
        "ex-sg-gain",
        "Mean and variance of $\\mathrm{logit}\\,r$ given the second class: a function of $w_2$ and $D$ that "
        "returns both.",
        law_of_logit,
        (
            Mistake(
                "The mean is too large: complete the square with the point half-way between the classes.",
                lambda w, D: [law_of_logit(w, D)[0] + 0.5 * D**2, D**2],
            ),
            Mistake(
                "This is given the first class: the sign of $D^2$.", lambda w, D: [law_of_logit(w, D)[0] - D**2, D**2]
            ),
            Mistake("This is the standard deviation.", lambda w, D: [law_of_logit(w, D)[0], D]),
            Mistake("The weights of the classes shift the mean.", lambda w, D: [0.5 * D**2, D**2]),
        ),
        part="2",
        takes="w_2, D",
        inputs=((0.3, 1.5), (0.6, 2.5)),
    ),
    Question(
        "ex-sg-newton",
        "The certificate in the standard variables: a function of the gradient of $J_z$ (B, n), of the matrix $B$ "
        "whose least eigenvalue counts in the old variables, and of $T$.",
        certificate,
        (
            Mistake(
                "The gradient is multiplied by the transpose, $T^*$.",
                lambda g, B, T: (g @ T.mT).norm(dim=-1) / torch.linalg.eigvalsh(T.mT @ B @ T)[0],
            ),
            Mistake(
                "The eigenvalue is that of $T^*BT$: the objective bends otherwise in the new variables.",
                lambda g, B, T: (g @ T).norm(dim=-1) / torch.linalg.eigvalsh(B)[0],
            ),
            Mistake(
                "Divide by the *least* eigenvalue.",
                lambda g, B, T: (g @ T).norm(dim=-1) / torch.linalg.eigvalsh(T.mT @ B @ T)[-1],
            ),
        ),
        takes="gradient, B, T",
        inputs=((G, S, T), (2 * G, S @ S, T.mT.contiguous())),
    ),
    Question(
        "ex-sg-four",
        "What the certificate says, and what is true: a function of the distance $d$ of neighbours that returns both.",
        four,
        (
            Mistake(
                "The certificate looks at opposite corners, which are farther apart.",
                lambda d: [four(d)[1], four(d)[1]],
            ),
            Mistake("It is true that neighbours decide: the prior is a product.", lambda d: [four(d)[0], four(d)[0]]),
            Mistake("Distances enter squared.", lambda d: [1 - 2**0.5 * d / 4, 1 - d / 4]),
        ),
        takes="d",
        inputs=((1.6,), (1.2,)),
    ),
)
