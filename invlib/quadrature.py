r"""Posteriors of arbitrary priors in one and two dimensions, by quadrature with error control.

The trapezoidal rule converges faster than any power of the spacing on smooth functions that decay: so the integrals are
taken over a box that holds the posterior's mass, with a spacing that is halved until nothing changes any more.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

NEGLIGIBLE = 45.0
"""Where a density is below exp(-45) of its maximum, it is left out: less than float64 can see in a sum."""

LogDensity = Callable[[Tensor], Tensor]


class QuadratureError(RuntimeError):
    """An integral did not settle to its tolerance."""


class Moments(NamedTuple):
    """Integrals of exp(f): log of the mass, (B,), mean, (B, n), and covariance, (B, n, n)."""

    log_mass: Tensor
    mean: Tensor
    covariance: Tensor


def moments(log_density: LogDensity, box: Tensor, *, tol: float = 1e-10) -> Moments:
    """Integrate exp(log_density) for a batch of functions.

    Args:
        log_density: maps points (B, G, n) to (B, G), a function for each row.
        box: (B, 2, n), lower and upper corners, holding the mass of every function.
        tol: bound on the change of the mass, relative, and of the mean and the covariance, in units of the standard
            deviation, when the spacing is halved.

    Raises:
        QuadratureError: if the integrals have not settled at the finest spacing.
    """
    box = focus(log_density, box)
    largest = 2**14 + 1 if box.shape[-1] == 1 else 2**10 + 1
    points, current, change = 33, _trapezoidal(log_density, box, 33), math.inf
    while not change <= tol:
        points = 2 * points - 1
        if points > largest:
            raise QuadratureError(
                f"the integrals still change by {change:.2g} with {largest} points on each axis"
            )
        previous, current = current, _trapezoidal(log_density, box, points)
        change = _change(previous, current)
    return current


def focus(log_density: LogDensity, box: Tensor, points: int = 33) -> Tensor:
    """Shrink each box, (B, 2, n), to where its function is not negligible."""
    for _ in range(40):
        x, spacing = _grid(box, points)
        values = log_density(x)
        kept = (values > values.amax(-1, keepdim=True) - NEGLIGIBLE).unsqueeze(-1)
        lower = torch.where(kept, x, torch.inf).amin(-2) - spacing
        upper = torch.where(kept, x, -torch.inf).amax(-2) + spacing
        new = torch.stack(
            [torch.maximum(lower, box[:, 0]), torch.minimum(upper, box[:, 1])], dim=1
        )
        shrunk = (new[:, 1] - new[:, 0]) / (box[:, 1] - box[:, 0])
        box = new
        if bool((shrunk > 0.8).all()):
            break
    return box


def local_maxima(
    log_density: LogDensity, box: Tensor, count: int = 8, points: int = 65
) -> Tensor:
    """Return for each function the best `count` grid points that no neighbour exceeds, (B, count, n)."""
    box = focus(log_density, box)
    x, _ = _grid(box, points)
    dim = box.shape[-1]
    values = log_density(x).reshape(-1, 1, *([points] * dim))
    pool = (
        torch.nn.functional.max_pool1d if dim == 1 else torch.nn.functional.max_pool2d
    )
    peaks = torch.where(
        values >= pool(values, 3, stride=1, padding=1), values, -torch.inf
    ).flatten(1)
    best = peaks.topk(count, dim=-1).indices
    return x.gather(1, best.unsqueeze(-1).expand(-1, -1, dim))


def _grid(box: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """The points of a tensor grid in each box, (B, points^n, n), and its spacing, (B, n)."""
    unit = torch.linspace(0, 1, points, dtype=box.dtype)
    unit = torch.cartesian_prod(*[unit] * box.shape[-1]).reshape(-1, box.shape[-1])
    size = box[:, 1] - box[:, 0]
    return box[:, :1] + unit * size.unsqueeze(1), size / (points - 1)


def _trapezoidal(log_density: LogDensity, box: Tensor, points: int) -> Moments:
    """The trapezoidal rule; the boundary counts in full, since nothing is left there."""
    x, spacing = _grid(box, points)
    values = log_density(x)
    log_mass = torch.logsumexp(values, dim=-1)
    weights = (values - log_mass.unsqueeze(-1)).exp()
    mean = torch.einsum("bg,bgi->bi", weights, x)
    centred = x - mean.unsqueeze(1)
    covariance = torch.einsum("bg,bgi,bgj->bij", weights, centred, centred)
    return Moments(log_mass + spacing.log().sum(-1), mean, covariance)


def _change(old: Moments, new: Moments) -> float:
    variance = new.covariance.diagonal(dim1=-2, dim2=-1).amin(-1)
    changes = (
        (new.log_mass - old.log_mass).abs(),
        (new.mean - old.mean).norm(dim=-1) / variance.sqrt(),
        (new.covariance - old.covariance).abs().amax((-2, -1)) / variance,
    )
    return float(torch.stack(changes).max()) if len(variance) else 0.0
