r"""The four training losses: two classical ones and the two regularized ones.

All take a network (`invlib.networks`: anything with ``net(x)`` and ``net.inverse(z)``), points x ~ p_X and their data
z = A* y, both (..., B, n), and return the mean over the batch, (...): a scalar for one batch, (E,) for members.

All measure the misfit, of z or (reconstruction) of x, in the Euclidean norm or in that of a `metric` W, symmetric
positive definite, (n, n) or (E, n, n): $\|v\|_W^2 = \langle v, Wv \rangle$. The noise of z has the covariance
$\delta^2 H$, so $W = H^{-1}$ weighs every direction by its own noise. For square A it is the norm of the y-form: with
$\varphi = A^* \psi$ we have $\|\varphi(x) - z\|_W = \|\psi(x) - y\|$.

Whether the log-determinant and the divergence are exact or estimated is the network's business.

Compared in `book/four-strategies.md`; each has its own page: `approximation`, `reconstruction`, `log-determinant`,
`divergence`.
"""

import torch
from torch import Tensor, nn

from invlib import _checks, networks


def approximation_loss(
    net: nn.Module, x: Tensor, z: Tensor, *, metric: Tensor | None = None
) -> Tensor:
    r"""Return $\tfrac12 E\|\varphi(x) - z\|_W^2$: the network approximates the forward operator, blind to the prior.

    Derived in `book/approximation.md`.

    Args:
        net: the network.
        x: points, (..., B, n).
        z: their data, of the shape of x.
        metric: W, (n, n) or one for each batch, (..., n, n); None means the identity.

    Raises:
        ValueError: if `x`, `z` or `metric` does not fit. The same holds for the other losses.

    Example:
        >>> from invlib import IResNet
        >>> net = IResNet(2, generator=torch.Generator().manual_seed(0))
        >>> x = torch.zeros(10, 2)
        >>> approximation_loss(net, x, net(x)).item()
        0.0
    """
    _check_pair(net, x, z)
    metric = _as_metric(metric, x)

    value = networks.check_shape("net(x)", net(x), x.shape)
    return _half_mean_square(value - z, metric)


def reconstruction_loss(
    net: nn.Module, x: Tensor, z: Tensor, *, metric: Tensor | None = None
) -> Tensor:
    r"""Return $\tfrac12 E\|\varphi^{-1}(z) - x\|_W^2$: the inverse approximates the posterior mean, whatever W.

    Where the network's inverse is an iteration (it accepts `guess` and `tol`), it starts at x and is solved to three
    digits in single precision and to six in double precision; the Newton step that carries its gradient doubles their
    number.

    Derived in `book/reconstruction.md`.

    Args:
        net: the network.
        x: points, (..., B, n).
        z: their data, of the shape of x.
        metric: W, (n, n) or one for each batch, (..., n, n), here a norm of x; None means the identity.

    Raises:
        InversionError: if the inverse did not converge.

    Example:
        >>> from invlib import IResNet
        >>> net = IResNet(2, generator=torch.Generator().manual_seed(0))
        >>> x = torch.ones(10, 2)
        >>> bool(reconstruction_loss(net, x, net(x)) < 1e-12)
        True
    """
    _check_pair(net, x, z)
    metric = _as_metric(metric, x)
    inverse = getattr(net, "inverse", None)
    if not callable(inverse):
        raise TypeError(f"net must have a method inverse(z), got {type(net).__name__}")

    tol = 1e-3 if x.dtype == torch.float32 else 1e-6
    reconstruction = networks.call(inverse, z, guess=x, tol=tol)
    reconstruction = networks.check_shape("net.inverse(z)", reconstruction, z.shape)
    return _half_mean_square(reconstruction - x, metric)


def log_det_loss(
    net: nn.Module,
    x: Tensor,
    z: Tensor,
    strength: float | Tensor,
    *,
    metric: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Return $\tfrac12 E\|\varphi(x) - z\|_W^2 - \hat\delta^2 E \log|\det D\varphi(x)|$ (Theorem 1).

    Its critical points satisfy $H\varphi^{-1}(z) = z + \hat\delta^2 W^{-1} \nabla \log q(z)$, q the density of phi(x).

    Derived in `book/log-determinant.md`.

    Args:
        net: the network.
        x: points, (..., B, n).
        z: their data, of the shape of x.
        strength: $\hat\delta$, a positive number, or (...), one for each batch. It enters the loss squared.
        metric: W, (n, n) or one for each batch, (..., n, n); None means the identity.
        generator: for a network that estimates its log-determinant.

    Example:
        >>> from invlib import IResNet
        >>> net = IResNet(2, generator=torch.Generator().manual_seed(0))
        >>> x = torch.randn(10, 2, generator=torch.Generator().manual_seed(1))
        >>> value, log_det = net.forward_and_log_det(x)
        >>> loss = log_det_loss(net, x, value, strength=0.5)
        >>> torch.allclose(loss, -0.25 * log_det.mean())
        True
    """
    _check_pair(net, x, z)
    metric = _as_metric(metric, x)
    strength = _as_strength(strength, x)

    value, log_det = networks.forward_and_log_det(net, x, generator=generator)
    value = networks.check_shape(
        "the value of net.forward_and_log_det(x)", value, x.shape
    )
    log_det = networks.check_shape(
        "the log-determinant of net.forward_and_log_det(x)", log_det, x.shape[:-1]
    )
    return _half_mean_square(value - z, metric) - strength**2 * log_det.mean(dim=-1)


def divergence_loss(
    net: nn.Module,
    x: Tensor,
    z: Tensor,
    strength: float | Tensor,
    *,
    metric: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Return $\tfrac12 E\|\varphi(x) - z\|_W^2 - \hat\delta^2 E\,\mathrm{tr}(W D\varphi(x))$ (Theorem 2 for W = I).

    Its minimizer is $\varphi^*(x) = Hx - \hat\delta^2 s(x)$, whatever W.

    Derived in `book/divergence.md`.

    Args:
        net: the network.
        x: points, (..., B, n).
        z: their data, of the shape of x.
        strength: $\hat\delta$, a positive number, or (...), one for each batch. It enters the loss squared.
        metric: W, (n, n) or one for each batch, (..., n, n); None means the identity.
        generator: for a network that estimates its divergence.

    Example:
        >>> from invlib import IResNet
        >>> net = IResNet(2, generator=torch.Generator().manual_seed(0))
        >>> x = torch.randn(10, 2, generator=torch.Generator().manual_seed(1))
        >>> value, divergence = net.forward_and_divergence(x)
        >>> loss = divergence_loss(net, x, value, strength=0.5)
        >>> torch.allclose(loss, -0.25 * divergence.mean())
        True
    """
    _check_pair(net, x, z)
    metric = _as_metric(metric, x)
    strength = _as_strength(strength, x)

    value, divergence = networks.forward_and_divergence(
        net, x, metric=metric, generator=generator
    )
    value = networks.check_shape(
        "the value of net.forward_and_divergence(x)", value, x.shape
    )
    divergence = networks.check_shape(
        "the divergence of net.forward_and_divergence(x)", divergence, x.shape[:-1]
    )
    return _half_mean_square(value - z, metric) - strength**2 * divergence.mean(dim=-1)


@networks.full_precision
def _half_mean_square(difference: Tensor, metric: Tensor | None) -> Tensor:
    weighted = difference if metric is None else difference @ metric
    return 0.5 * (difference * weighted).sum(dim=-1).mean(dim=-1)


def _check_pair(net: nn.Module, x: Tensor, z: Tensor) -> None:
    if not callable(net):
        raise TypeError(f"net must be a network, got {type(net).__name__}")
    own = next(net.parameters(), x) if isinstance(net, nn.Module) else x
    for name, points in (("x", x), ("z", z)):
        _checks.points(name, points)
        networks.check_device(name, points, own)
        _checks.finite(name, points)
        if points.ndim < 2:
            raise ValueError(
                f"{name} must have shape (..., B, n), got {tuple(points.shape)}"
            )
        if points.shape[:-1].numel() == 0:
            raise ValueError(
                f"{name} must hold at least one point, got the shape {tuple(points.shape)}"
            )
    if x.shape != z.shape or x.dtype != z.dtype:
        found = f"{tuple(z.shape)} and {z.dtype}"
        raise ValueError(
            f"z must have the shape and dtype of x, {tuple(x.shape)} and {x.dtype}, got {found}"
        )


def _as_metric(metric: Tensor | None, x: Tensor) -> Tensor | None:
    """The metric in the dtype of the points, if it is a symmetric positive definite matrix, or one for each batch."""
    if metric is None:
        return None
    return networks.check_metric(metric, x, tuple(x.shape[:-2]))


def _as_strength(strength: float | Tensor, x: Tensor) -> float | Tensor:
    if not isinstance(strength, Tensor):
        return _checks.positive("strength", strength)
    if not strength.is_floating_point():
        raise ValueError(
            f"strength must have a floating-point dtype, got {strength.dtype}"
        )
    networks.check_device("strength", strength, x)
    shapes = {(), tuple(x.shape[:-2])}
    positive = bool(((strength > 0) & torch.isfinite(strength)).all())
    if tuple(strength.shape) not in shapes or not positive:
        raise ValueError(
            f"strength must be a positive number, or one for each batch, got {strength!r}"
        )
    return strength.to(x)
