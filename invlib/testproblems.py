"""The prior and the problem in the plane with which the book experiments: see `book/inverse-problems.md`."""

import math
from collections.abc import Sequence

import torch

from invlib import _checks
from invlib.priors import GaussianMixture
from invlib.problems import LinearProblem


def two_bumps(
    centre: Sequence[float] = (0.8, 0.5), std: float = 0.59
) -> GaussianMixture:
    """Return the bimodal prior of the book's pictures: two round Gaussians of equal weight at +centre and -centre.

    Args:
        centre: (n,), the mean of the first component.
        std: the standard deviation of both components in every direction.

    Raises:
        ValueError: if `centre` is no vector of numbers, or `std` not positive.

    Example:
        >>> two_bumps()
        GaussianMixture(components=2, dim=2)
    """
    mean = _checks.as_float64("centre", centre)
    if mean.ndim != 1 or len(mean) == 0:
        raise ValueError(
            f"centre must have shape (n,) with n >= 1, got {tuple(mean.shape)}"
        )

    covariance = _checks.scale("std", std) ** 2 * torch.eye(
        len(mean), dtype=torch.float64
    )
    means = torch.stack([mean, -mean])
    return GaussianMixture([0.5, 0.5], means, torch.stack([covariance, covariance]))


def epsilon_problem(
    epsilon: float, noise_std: float, *, angle: float = 40.0
) -> LinearProblem:
    r"""Return the ill-conditioned problem of the book's experiments in the plane.

    $A = V \,\mathrm{diag}(1, \varepsilon)\, V^*$ with $V = (v_1, v_2)$ orthogonal: the singular value 1 belongs to
    $v_1 = (-\sin\alpha, \cos\alpha)$, and epsilon to the direction $v_2 = (\cos\alpha, \sin\alpha)$.

    Args:
        epsilon: the other singular value, between 1e-50 and 1e50.
        noise_std: the noise standard deviation delta, between 1e-50 and 1e50.
        angle: alpha, in degrees.

    Raises:
        ValueError: if an argument is not a finite number, or `epsilon` or `noise_std` out of its range.

    Example:
        >>> epsilon_problem(0.125, noise_std=0.1)
        LinearProblem(A: R^2 -> R^2, noise_std=0.1, singular values 1 ... 0.125)
    """
    alpha = _checks.number("angle", angle) * math.pi / 180
    weakest = _checks.scale("epsilon", epsilon)

    strong = torch.tensor([-math.sin(alpha), math.cos(alpha)], dtype=torch.float64)
    weak = torch.tensor([math.cos(alpha), math.sin(alpha)], dtype=torch.float64)
    return LinearProblem(strong.outer(strong) + weakest * weak.outer(weak), noise_std)
