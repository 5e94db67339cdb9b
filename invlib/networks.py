r"""The contract of a network: what losses, training and error bars ask for.

A network is a `torch.nn.Module` that maps points (..., n) to points (..., n), each by itself, with

- ``net(x)``, the forward direction $\varphi(x)$, differentiable in x and the parameters;
- ``net.inverse(z)``, the reconstruction $\varphi^{-1}(z)$; for reconstruction training it is differentiable, too, and
  may accept ``guess=`` (points to start from) and ``tol=``.

Everything else has a default, derived by `torch.func`, which a network overrides by a method where it knows better:

- ``net.forward_and_jacobian(x)``: $\varphi(x)$ and $D\varphi(x)$, (..., n, n);
- ``net.forward_and_log_det(x)``: $\varphi(x)$ and $\log|\det D\varphi(x)|$, (...);
- ``net.forward_and_divergence(x, metric=W)``: $\varphi(x)$ and $\mathrm{tr}(W D\varphi(x))$, (...).

The last two may be exact or unbiased estimates: that is the network's business. One that draws random numbers accepts
``generator=``. ``net.members`` is the number E of networks that are evaluated side by side on points (E, ..., n), or
None. Subclass `InvertibleNetwork` to have the derived methods on the network itself; any other module will do as well.

How to bring a network of your own: `invlib/coupling.py` is a worked example.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from invlib import linalg

EXACT_DIVERGENCE = 16
"""Up to this dimension the derived divergence is exact; beyond it is estimated from one vector of random signs."""


class InvertibleNetwork(nn.Module):
    """A network with the derived methods of the contract. A subclass gives `forward` and `inverse`.

    Example:
        >>> class Scaling(InvertibleNetwork):
        ...     def forward(self, x):
        ...         return 2 * x
        ...     def inverse(self, z):
        ...         return z / 2
        >>> Scaling().forward_and_divergence(torch.zeros(5, 3))[1]
        tensor([6., 6., 6., 6., 6.])
    """

    members: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return phi(x), of the shape of x, (..., n)."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(x)")

    def inverse(self, z: Tensor) -> Tensor:
        """Return phi^{-1}(z), of the shape of z, (..., n)."""
        raise NotImplementedError(f"{type(self).__name__} must define inverse(z)")

    def forward_and_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return phi(x) and D phi(x), (..., n, n), by forward-mode differentiation in the n coordinate directions."""
        return _derived_jacobian(self, x)

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return phi(x) and log|det D phi(x)|, (...), from the Jacobian."""
        return _derived_log_det(self, x)

    def forward_and_divergence(
        self, x: Tensor, *, metric: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return phi(x) and tr(W D phi(x)), (...): exact up to dimension 16, Hutchinson's estimate beyond."""
        return _derived_divergence(self, x, metric, generator)


def forward_and_jacobian(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return phi(x) and D phi(x), (..., n, n), by the network's own method or the derived one."""
    own = getattr(net, "forward_and_jacobian", None)
    return own(x) if own is not None else _derived_jacobian(net, x)


def forward_and_log_det(
    net: nn.Module, x: Tensor, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Return phi(x) and log|det D phi(x)|, (...), by the network's own method or the derived one."""
    own = getattr(net, "forward_and_log_det", None)
    if own is None:
        return _derived_log_det(net, x)
    return call(own, x, generator=generator)  # type: ignore[no-any-return]


def forward_and_divergence(
    net: nn.Module,
    x: Tensor,
    *,
    metric: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Return phi(x) and tr(W D phi(x)), (...), by the network's own method or the derived one."""
    own = getattr(net, "forward_and_divergence", None)
    if own is None:
        return _derived_divergence(net, x, metric, generator)
    if metric is None:
        return call(own, x, generator=generator)  # type: ignore[no-any-return]
    return call(own, x, metric=metric, generator=generator)  # type: ignore[no-any-return]


def call(function: Callable[..., Any], *arguments: object, **options: object) -> Any:  # noqa: ANN401
    """Call a function with those of the options that it accepts; `metric` must be accepted where it is given.

    Raises:
        TypeError: if `metric` is given and the function does not know it.
    """
    parameters = inspect.signature(function).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        if "metric" in options and "metric" not in parameters:
            raise TypeError(f"{function.__qualname__} must accept metric= to be used with a metric")
        options = {name: value for name, value in options.items() if name in parameters}
    return function(*arguments, **options)


def random_signs(points: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return independent fair signs, +1 or -1, of the shape and dtype of the points."""
    return 2.0 * torch.randint(2, points.shape, generator=generator).to(points) - 1.0


def _derived_jacobian(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)

    def column(direction: Tensor) -> tuple[Tensor, Tensor]:
        value, tangent = torch.func.jvp(net, (x,), (direction.expand_as(x),))
        return value, tangent

    value, jacobian = torch.func.vmap(column, out_dims=(None, -1))(identity)
    return value, jacobian


def _derived_log_det(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    value, jacobian = forward_and_jacobian(net, x)
    return value, linalg.log_abs_det(jacobian)


def _derived_divergence(
    net: nn.Module, x: Tensor, metric: Tensor | None, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    if x.shape[-1] <= EXACT_DIVERGENCE:
        value, jacobian = forward_and_jacobian(net, x)
        return value, weighted_trace(jacobian, metric)

    signs = random_signs(x, generator)
    value, tangent = torch.func.jvp(net, (x,), (signs,))
    weighted = signs if metric is None else signs @ metric
    return value, (weighted * tangent).sum(-1)


def weighted_trace(jacobian: Tensor, metric: Tensor | None) -> Tensor:
    """Return tr(W J), (...), for matrices J, (..., B, n, n), and W, (n, n) or one for each batch of points."""
    if metric is not None:
        jacobian = metric.unsqueeze(-3) @ jacobian
    return jacobian.diagonal(dim1=-2, dim2=-1).sum(-1)
