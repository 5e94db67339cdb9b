r"""The four training losses: two classical ones and the two regularized ones.

All take a network, points x ~ p_X and their data z = A* y, both (B, n) or (E, B, n) with members, and return the
mean over the batch: a scalar, or (E,).
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from invlib.networks import IResNet


def approximation_loss(net: "IResNet", x: Tensor, z: Tensor) -> Tensor:
    r"""Return $\tfrac12 E\|\varphi(x) - z\|^2$: the network approximates the forward operator, blind to the prior.

    Raises:
        ValueError: if `x` or `z` does not fit the network. The same holds for the other losses.
    """
    _check_pair(x, z)
    return _half_mean_square(net(x) - z)


def reconstruction_loss(net: "IResNet", x: Tensor, z: Tensor) -> Tensor:
    r"""Return $\tfrac12 E\|\varphi^{-1}(z) - x\|^2$: the inverse approximates the posterior mean.

    Raises:
        InversionError: if the inverse did not converge.
    """
    _check_pair(x, z)
    return _half_mean_square(net.inverse(z, near=x, tol=1e-4) - x)


def log_det_loss(net: "IResNet", x: Tensor, z: Tensor, strength: float | Tensor) -> Tensor:
    r"""Return $\tfrac12 E\|\varphi(x) - z\|^2 - \hat\delta^2 E \log|\det D\varphi(x)|$ (Theorem 1).

    `strength` is $\hat\delta$: a positive number, or (E,).
    """
    _check_pair(x, z)
    strength = _check_strength(strength)
    value, log_det = net.forward_and_log_det(x)
    return _half_mean_square(value - z) - strength**2 * log_det.mean(dim=-1)


def divergence_loss(net: "IResNet", x: Tensor, z: Tensor, strength: float | Tensor) -> Tensor:
    r"""Return $\tfrac12 E\|\varphi(x) - z\|^2 - \hat\delta^2 E\,\mathrm{div}\,\varphi(x)$ (Theorem 2).

    `strength` is $\hat\delta$: a positive number, or (E,).
    """
    _check_pair(x, z)
    strength = _check_strength(strength)
    value, divergence = net.forward_and_divergence(x)
    return _half_mean_square(value - z) - strength**2 * divergence.mean(dim=-1)


def _half_mean_square(difference: Tensor) -> Tensor:
    return 0.5 * difference.square().sum(dim=-1).mean(dim=-1)


def _check_pair(x: Tensor, z: Tensor) -> None:
    if x.shape != z.shape:
        raise ValueError(f"z must have the shape of x, {tuple(x.shape)}, got {tuple(z.shape)}")


def _check_strength(strength: float | Tensor) -> float | Tensor:
    if not bool((torch.as_tensor(strength) > 0).all()):
        raise ValueError(f"strength must be positive, got {strength!r}")
    return strength
