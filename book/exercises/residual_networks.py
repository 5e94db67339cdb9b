"""What the exercises of the chapter on residual networks ask."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from checks import residual_networks as checks
from torch import Tensor

from exercises.asking import Mistake, Question

Map = Callable[[Tensor], Tensor]


def rounds(lipschitz: float) -> int:
    """Return how many rounds it takes until the error has shrunk to a tenth."""
    error, count = 1.0, 0
    while error > 0.1:
        error, count = float(lipschitz) * error, count + 1
    return count


def blocks(slope: float, lipschitz: float) -> int:
    """Return how many blocks reach a slope, by trying."""
    count, low, high = 0, 1.0, 1.0
    while not low <= float(slope) <= high:
        low, high, count = low * (1 - float(lipschitz)), high * (1 + float(lipschitz)), count + 1
    return count


def distance_of_root(angle: float, count: int) -> float:
    """Return the norm of the root of a rotation less the identity."""
    root = checks.rotation(float(angle) / int(count))
    return float(torch.linalg.matrix_norm(root - torch.eye(2, dtype=torch.float64), 2))


def largest_turn(lipschitz: float, count: int) -> float:
    """Return the largest angle that equal blocks turn a vector by, in degrees, from the best block on a grid."""
    sizes, angles = (
        torch.linspace(0.01, 1, 200, dtype=torch.float64),
        torch.linspace(0, 1.57, 1501, dtype=torch.float64),
    )
    reach = (torch.polar(sizes[:, None], angles) - 1).abs() <= float(lipschitz)
    return int(count) * math.degrees(float((angles * reach).max()))


def flat(z: float, lipschitz: float) -> tuple[Map, Tensor, float, float]:
    """Return the worst block, data, its constant and a tolerance."""
    return Flat(lipschitz), torch.tensor([[z], [-z]], dtype=torch.float64), lipschitz, 1e-3


class Flat:
    """The block with the branch -Lx."""

    def __init__(self, lipschitz: float) -> None:
        """Keep the constant."""
        self.lipschitz = lipschitz

    def __call__(self, x: Tensor) -> Tensor:
        """Return the value."""
        return (1 - self.lipschitz) * x


def inverted(phi: Map, z: Tensor, lipschitz: float, tau: float) -> Tensor:
    """Return the inverse of the worst block."""
    return z / (1 - float(lipschitz))


def naive(phi: Map, z: Tensor, lipschitz: float, tau: float) -> Tensor:
    """Return where the fixed-point iteration is when its step is below tau."""
    x = z
    while (z - phi(x)).abs().max() > tau:
        x = x + z - phi(x)
    return x


def real(mu: complex, nu: complex) -> Tensor:
    """Return the matrix of z -> mu z + nu conj(z)."""
    columns = [mu * 1 + nu * 1, mu * 1j + nu * (-1j)]
    return torch.tensor([[c.real for c in columns], [c.imag for c in columns]], dtype=torch.float64)


def norm_of_branch(mu: complex, nu: complex) -> Tensor:
    """Return the norm of M less the identity."""
    return torch.linalg.matrix_norm(real(mu, nu) - torch.eye(2, dtype=torch.float64), 2)


PAIRS = ((0.8 + 0.5j, 0.3 - 0.1j), (1.4 - 0.2j, -0.6j), (-0.5 + 0.7j, 0.2 + 0.4j))

QUESTIONS = (
    Question(
        "ex-rn-line",
        "How many rounds of the fixed-point iteration gain one digit, in the worst case: a function of $L$.",
        rounds,
        (
            Mistake(
                "This is the gain of the factor $e$. A digit is a factor ten.", lambda L: math.ceil(-1 / math.log(L))
            ),
            Mistake("The error shrinks by $L$, not by $1 - L$.", lambda L: math.ceil(math.log(0.1) / math.log(1 - L))),
        ),
        part="b",
        takes="L",
        inputs=((0.9,), (0.7,), (0.6,)),
    ),
    Question(
        "ex-rn-line",
        "How many blocks with the bound $L$ the map $x \\mapsto ax$ needs, a function of $a > 0$ and $L$.",
        blocks,
        (
            Mistake(
                "A block shrinks by the factor $1 - L$ at most, not by $1/(1 + L)$.",
                lambda a, L: math.ceil(abs(math.log(a)) / math.log(1 + L) - 1e-9),
            ),
            Mistake(
                "The slopes of blocks multiply, they do not add up.",
                lambda a, L: math.ceil(abs(a - 1) / L),
            ),
        ),
        part="c",
        takes="a, L",
        inputs=((10.0, 0.9), (0.11, 0.9), (30.0, 0.5), (0.03, 0.5)),
    ),
    Question(
        "ex-rn-reflection",
        "For $n = 1, 2, 3$: one if $x \\mapsto -x$ is a composition of blocks, else zero; a list.",
        lambda: [float(torch.linalg.det(-torch.eye(n, dtype=torch.float64)) > 0) for n in (1, 2, 3)],
        (
            Mistake(
                "Blocks and their compositions have a positive determinant. Which of these maps has one?",
                lambda: [1, 1, 1],
            ),
            Mistake("In the plane there is a way to turn around. What is the determinant there?", lambda: [0, 0, 0]),
            Mistake("You have it the wrong way round: look at the sign of the determinant.", lambda: [1, 0, 1]),
        ),
        part="a",
    ),
    Question(
        "ex-rn-reflection",
        "The norm $\\lVert Q^{1/K} - I\\rVert$ for the plane rotation $Q$ by an angle $\\alpha$, a function of "
        "$\\alpha$ and $K$.",
        distance_of_root,
        (
            Mistake("This is the length of the arc; the norm is that of the chord.", lambda alpha, K: alpha / K),
            Mistake(
                "The chord of an angle has the sine of *half* of it.",
                lambda alpha, K: 2 * math.sin(alpha / K),
            ),
        ),
        part="b",
        takes="alpha, K",
        inputs=((3.0, 1), (3.0, 2), (2.0, 3)),
    ),
    Question(
        "ex-rn-angles",
        "The largest angle, in degrees, by which $K$ blocks with the bound $L$ may turn a difference: a function of "
        "$L$ and $K$.",
        largest_turn,
        (
            Mistake("This is in radians.", lambda L, K: K * math.asin(L)),
            Mistake(
                "A block that turns most has to shrink, too: then $L$ is the sine of the angle, not the tangent.",
                lambda L, K: math.degrees(K * math.atan(L)),
            ),
            Mistake(
                "$L$ is not the half chord: that would be a block that keeps the length.",
                lambda L, K: math.degrees(2 * K * math.asin(L / 2)),
            ),
        ),
        takes="L, K",
        inputs=((0.5, 1), (0.8, 2), (0.3, 5)),
    ),
    Question(
        "ex-rn-certified",
        "An inverse that is certainly right to $\\tau$: a function of $\\varphi$ (a function of points), of data "
        "`z` of shape (B, n), of $L$ and of $\\tau$.",
        inverted,
        (
            Mistake(
                "You stop when the step is below $\\tau$. The error may be larger than the step by $1/(1 - L)$.",
                naive,
            ),
            Mistake("This is the datum itself: iterate.", lambda phi, z, L, tau: z),
        ),
        takes="phi, z, L, tau",
        inputs=(flat(0.05, 0.9), flat(1.0, 0.97)),
        rtol=0.0,
        atol=1.001e-3,
    ),
    Question(
        "ex-rn-open",
        "The determinant of $M$, a function of the complex numbers $\\mu$ and $\\nu$.",
        lambda mu, nu: torch.linalg.det(real(mu, nu)),
        (
            Mistake("The absolute values are to be squared.", lambda mu, nu: abs(mu) - abs(nu)),
            Mistake(
                "The conjugation turns the plane over: its part counts negative.",
                lambda mu, nu: abs(mu) ** 2 + abs(nu) ** 2,
            ),
        ),
        part="a",
        takes="mu, nu",
        inputs=PAIRS,
    ),
    Question(
        "ex-rn-open",
        "The norm $\\lVert M - I\\rVert$, a function of $\\mu$ and $\\nu$.",
        norm_of_branch,
        (
            Mistake(
                "The identity belongs to $\\mu$: subtract before you take absolute values.",
                lambda mu, nu: abs(mu) + abs(nu) - 1,
            ),
            Mistake(
                "On the worst vector the two parts point the same way: they add up without squares.",
                lambda mu, nu: math.hypot(abs(mu - 1), abs(nu)),
            ),
        ),
        part="b",
        takes="mu, nu",
        inputs=PAIRS,
    ),
)
