"""What several chapters need: random problems, quadrature, root mean squares, and numbers for the text."""

from __future__ import annotations

import torch
from scipy import optimize
from torch import Tensor

from invlib import GaussianMixture, IResNet, LinearProblem
from invlib.testproblems import two_bumps

Points = tuple[Tensor, Tensor]
"""Points (P, n) and their weights (P,)."""


def seeded(seed: int) -> torch.Generator:
    """Return a generator of random numbers with the given seed."""
    return torch.Generator().manual_seed(seed)


def numbers(prefix: str, **values: object) -> None:
    """Make numbers available to the text of the page, as ``PREFIX-NAME``; an underscore becomes a hyphen.

    Tensors of one element and numbers of numpy become plain numbers. Outside of the book nothing happens.

    Args:
        prefix: the first part of the names, such as ``dv-fold``.
        values: what the text quotes.
    """
    try:
        from myst_nb import glue
    except ImportError:
        return
    for name, value in values.items():
        plain = value.item() if hasattr(value, "item") else value
        glue(f"{prefix}-{name.replace('_', '-')}", plain, display=False)


def rms(vectors: Tensor) -> Tensor:
    """Return the root mean square length of vectors (..., B, n), (...)."""
    return vectors.square().sum(-1).mean(-1).sqrt()


def identity(size: int) -> Tensor:
    """Return the identity matrix, (size, size), float64."""
    return torch.eye(size, dtype=torch.float64)


def randn(*shape: int, generator: torch.Generator) -> Tensor:
    """Return standard normal numbers, float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def isotonic(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the increasing sequence nearest to `values`, (P,): neighbours that violate the order are pooled."""
    result = optimize.isotonic_regression(values.numpy(), weights=None if weights is None else weights.numpy())
    return torch.from_numpy(result.x)


def column(start: float, stop: float, count: int) -> Tensor:
    """Return equidistant numbers as points of the line, (count, 1), float64."""
    return torch.linspace(start, stop, count, dtype=torch.float64)[:, None]


def quadrature(
    prior: GaussianMixture, half_width: float, step: float, smallest: float = 1e-18
) -> tuple[Tensor, Tensor]:
    """Return points (P, n) and weights (P,) for averages over a prior on the line or in the plane.

    The trapezoidal rule on a box, which converges faster than any power of its step for smooth functions that decay.
    Points with weights below `smallest` are left out.

    Raises:
        AssertionError: if the weights do not add up to one, to ten digits: the box is too small, or the step too large.
    """
    count = round(2 * half_width / step) + 1
    axis = torch.linspace(-half_width, half_width, count, dtype=torch.float64)
    points = torch.cartesian_prod(*prior.dim * [axis]).reshape(-1, prior.dim)
    weights = prior.log_prob(points).exp() * step**prior.dim
    keep = weights > smallest
    assert abs(float(weights[keep].sum()) - 1) < 1e-10
    return points[keep], weights[keep]


def bumps(weight: float = 0.5, scale: float = 1.0) -> GaussianMixture:
    """Return the book's two bumps with another weight of the first one, or with means that are farther apart."""
    usual = two_bumps([0.8 * scale, 0.5 * scale])
    return GaussianMixture([weight, 1 - weight], usual.means, usual.covariances)


def random_prior(dim: int, generator: torch.Generator, components: int = 2) -> GaussianMixture:
    """Return a random Gaussian mixture with means and widths of size one."""
    factor = torch.randn(components, dim, dim, dtype=torch.float64, generator=generator)
    covariances = 0.3 * factor @ factor.mT / dim + 0.2 * torch.eye(dim, dtype=torch.float64)
    means = torch.randn(components, dim, dtype=torch.float64, generator=generator)
    weights = 0.3 + torch.rand(components, dtype=torch.float64, generator=generator)
    return GaussianMixture(weights / weights.sum(), means, covariances)


def random_problem(measurements: int, dim: int, generator: torch.Generator, noise_std: float = 0.6) -> LinearProblem:
    """Return a problem with a random matrix (m, n); it is injective, and far from singular, if m >= n."""
    operator = torch.randn(measurements, dim, dtype=torch.float64, generator=generator)
    operator[:dim] += 1.5 * torch.eye(dim, dtype=torch.float64)[:measurements]
    return LinearProblem(operator, noise_std)


def steep_network(dim: int, blocks: int, width: int, lipschitz: float, seed: int, gain: float = 3.0) -> IResNet:
    """Return a random network whose blocks have sharp bends and use their whole budget."""
    net = IResNet(
        dim, blocks=blocks, width=width, lipschitz=lipschitz, dtype=torch.float64, generator=seeded(seed)
    ).requires_grad_(False)
    for parameter in net.parameters():
        parameter.mul_(gain)
    assert (net.block_bounds() > lipschitz * (1 - 1e-9)).all()
    return net
