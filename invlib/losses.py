r"""The four training losses: two classical ones and the two regularized ones.

All take a network, points x ~ p_X and their data z = A* y, both (..., B, n), or (E, B, n) with members, and return the
mean over the batch: (...), a scalar for one batch, or (E,).

The forward-type losses measure the misfit in the Euclidean norm or in that of a `metric` W, symmetric positive
definite, (n, n) or (E, n, n): $\|v\|_W^2 = \langle v, Wv \rangle$. The noise of z has the covariance $\delta^2 H$, so
$W = H^{-1}$ weighs every direction by its own noise. For square A it is the norm of the y-form: with
$\varphi = A^* \psi$ we have $\|\varphi(x) - z\|_W = \|\psi(x) - y\|$.

Compared in `book/four-strategies.md`; each has its own page: `approximation`, `reconstruction`, `log-determinant`,
`divergence`.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from invlib import _checks

if TYPE_CHECKING:
    from invlib.networks import IResNet


def approximation_loss(net: "IResNet", x: Tensor, z: Tensor, *, metric: Tensor | None = None) -> Tensor:
    r"""Return $\tfrac12 E\|\varphi(x) - z\|_W^2$: the network approximates the forward operator, blind to the prior.

    Raises:
        ValueError: if `x`, `z` or `metric` does not fit the network. The same holds for the other losses.
    """
    _check_pair(net, x, z)
    return _half_mean_square(net, net(x) - z, metric)


def reconstruction_loss(net: "IResNet", x: Tensor, z: Tensor) -> Tensor:
    r"""Return $\tfrac12 E\|\varphi^{-1}(z) - x\|^2$: the inverse approximates the posterior mean.

    The inverse is solved to three digits in single precision and to six in double precision; the Newton step that
    carries its gradient doubles their number.

    Raises:
        InversionError: if the inverse did not converge.
    """
    _check_pair(net, x, z)
    tol = 1e-3 if x.dtype == torch.float32 else 1e-6
    return _half_mean_square(net, net.inverse(z, near=x, tol=tol) - x, None)


def log_det_loss(
    net: "IResNet",
    x: Tensor,
    z: Tensor,
    strength: float | Tensor,
    *,
    metric: Tensor | None = None,
    exact: bool | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Return $\tfrac12 E\|\varphi(x) - z\|_W^2 - \hat\delta^2 E \log|\det D\varphi(x)|$ (Theorem 1).

    Its critical points satisfy $H\varphi^{-1}(z) = z + \hat\delta^2 W^{-1} \nabla \log q(z)$, q the density of phi(x).

    Args:
        net: the network.
        x: (B, n), or (E, B, n) with members.
        z: of the shape of x.
        strength: $\hat\delta$, a positive number, or (E,).
        metric: W; None means the identity.
        exact: whether to compute the log-determinant exactly or to estimate it (`IResNet.estimate_log_det`); None means
            exactly where the dimension or the width is at most 64.
        generator: for the estimate.
    """
    _check_pair(net, x, z)
    strength = _check_strength(net, strength)
    if exact or (exact is None and min(net.dim, net.width) <= 64):
        value, log_det = net.forward_and_log_det(x)
    else:
        value, estimate = net.estimate_log_det(x, generator=generator)
        # The value of the one with the gradient of the other.
        log_det = estimate.value + estimate.surrogate - estimate.surrogate.detach()
    return _half_mean_square(net, value - z, metric) - strength**2 * log_det.mean(dim=-1)


def divergence_loss(
    net: "IResNet",
    x: Tensor,
    z: Tensor,
    strength: float | Tensor,
    *,
    metric: Tensor | None = None,
    exact: bool | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Return $\tfrac12 E\|\varphi(x) - z\|_W^2 - \hat\delta^2 E\,\mathrm{tr}(W D\varphi(x))$ (Theorem 2 for W = I).

    Its minimizer is $\varphi^*(x) = Hx - \hat\delta^2 s(x)$, whatever W. Arguments as for `log_det_loss`; the estimate
    is `IResNet.estimate_divergence`, and None means exact up to dimension 16.
    """
    _check_pair(net, x, z)
    strength = _check_strength(net, strength)
    if exact or (exact is None and net.dim <= 16):
        value, jacobian = net.forward_and_jacobian(x)
        if metric is not None:
            jacobian = _checks.metric(metric, net.dim, net.members).unsqueeze(-3) @ jacobian
        divergence = jacobian.diagonal(dim1=-2, dim2=-1).sum(-1)
    else:
        value, divergence = net.estimate_divergence(x, metric=metric, generator=generator)
    return _half_mean_square(net, value - z, metric) - strength**2 * divergence.mean(dim=-1)


def _half_mean_square(net: "IResNet", difference: Tensor, metric: Tensor | None) -> Tensor:
    weighted = difference if metric is None else difference @ _checks.metric(metric, net.dim, net.members)
    return 0.5 * (difference * weighted).sum(dim=-1).mean(dim=-1)


def _check_pair(net: "IResNet", x: Tensor, z: Tensor) -> None:
    for name, points in (("x", x), ("z", z)):
        _checks.shaped_vectors(name, points, net.dim)
        if points.ndim < 2 or (net.members is not None and points.ndim != 3):
            shape = f"(..., B, {net.dim})" if net.members is None else f"({net.members}, B, {net.dim})"
            raise ValueError(f"{name} must have shape {shape}, got {tuple(points.shape)}")
    if x.shape != z.shape or x.dtype != z.dtype:
        found = f"{tuple(z.shape)} and {z.dtype}"
        raise ValueError(f"z must have the shape and dtype of x, {tuple(x.shape)} and {x.dtype}, got {found}")


def _check_strength(net: "IResNet", strength: float | Tensor) -> float | Tensor:
    if not isinstance(strength, Tensor):
        return _checks.positive("strength", strength)
    shapes = [()] if net.members is None else [(), (net.members,)]
    if strength.shape not in shapes or not bool(((strength > 0) & torch.isfinite(strength)).all()):
        raise ValueError(f"strength must be a positive number, or one for each member, got {strength!r}")
    return strength
