r"""The four training losses: two classical ones and the two regularized ones.

All take a network, points x ~ p_X and their data z = A* y, both (B, n) or (E, B, n) with members, and return the
mean over the batch: a scalar, or (E,).
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from invlib import _checks

if TYPE_CHECKING:
    from invlib.networks import IResNet


def approximation_loss(net: "IResNet", x: Tensor, z: Tensor) -> Tensor:
    r"""Return $\tfrac12 E\|\varphi(x) - z\|^2$: the network approximates the forward operator, blind to the prior.

    Raises:
        ValueError: if `x` or `z` does not fit the network. The same holds for the other losses.
    """
    _check_pair(net, x, z)
    return _half_mean_square(net(x) - z)


def reconstruction_loss(net: "IResNet", x: Tensor, z: Tensor) -> Tensor:
    r"""Return $\tfrac12 E\|\varphi^{-1}(z) - x\|^2$: the inverse approximates the posterior mean.

    Raises:
        InversionError: if the inverse did not converge.
    """
    _check_pair(net, x, z)
    return _half_mean_square(net.inverse(z, near=x, tol=1e-4) - x)


def log_det_loss(net: "IResNet", x: Tensor, z: Tensor, strength: float | Tensor) -> Tensor:
    r"""Return $\tfrac12 E\|\varphi(x) - z\|^2 - \hat\delta^2 E \log|\det D\varphi(x)|$ (Theorem 1).

    `strength` is $\hat\delta$: a positive number, or (E,).
    """
    _check_pair(net, x, z)
    strength = _check_strength(net, strength)
    value, log_det = net.forward_and_log_det(x)
    return _half_mean_square(value - z) - strength**2 * log_det.mean(dim=-1)


def divergence_loss(net: "IResNet", x: Tensor, z: Tensor, strength: float | Tensor) -> Tensor:
    r"""Return $\tfrac12 E\|\varphi(x) - z\|^2 - \hat\delta^2 E\,\mathrm{div}\,\varphi(x)$ (Theorem 2).

    `strength` is $\hat\delta$: a positive number, or (E,).
    """
    _check_pair(net, x, z)
    strength = _check_strength(net, strength)
    value, divergence = net.forward_and_divergence(x)
    return _half_mean_square(value - z) - strength**2 * divergence.mean(dim=-1)


def _half_mean_square(difference: Tensor) -> Tensor:
    return 0.5 * difference.square().sum(dim=-1).mean(dim=-1)


def _check_pair(net: "IResNet", x: Tensor, z: Tensor) -> None:
    axes = 2 if net.members is None else 3
    for name, points in (("x", x), ("z", z)):
        _checks.shaped_vectors(name, points, net.dim)
        if points.ndim < axes:
            shape = f"(..., B, {net.dim})" if net.members is None else f"({net.members}, ..., B, {net.dim})"
            raise ValueError(f"{name} must have shape {shape}, got {tuple(points.shape)}")
    if x.shape != z.shape or x.dtype != z.dtype:
        raise ValueError(
            f"z must have the shape and dtype of x, {tuple(x.shape)} and {x.dtype}, got {tuple(z.shape)} and {z.dtype}"
        )


def _check_strength(net: "IResNet", strength: float | Tensor) -> float | Tensor:
    if not isinstance(strength, Tensor):
        return _checks.positive("strength", strength)
    shapes = [()] if net.members is None else [(), (net.members,)]
    if strength.shape not in shapes or not bool(((strength > 0) & torch.isfinite(strength)).all()):
        raise ValueError(f"strength must be a positive number, or one for each member, got {strength!r}")
    return strength
