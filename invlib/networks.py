r"""The contract of a network: what losses, training and error bars ask for.

A network is a `torch.nn.Module` that maps points (..., n) to points (..., n), each by itself, with

- ``net(x)``, the forward direction $\varphi(x)$, differentiable in x and the parameters;
- ``net.inverse(z)``, the reconstruction $\varphi^{-1}(z)$; for reconstruction training it is differentiable, too, and
  may accept ``guess=`` (points to start from) and ``tol=``.

Everything else has a default, derived by automatic differentiation, which a network overrides where it knows better:

- ``net.forward_and_jacobian(x)``: $\varphi(x)$ and $D\varphi(x)$, (..., n, n);
- ``net.forward_and_log_det(x)``: $\varphi(x)$ and $\log|\det D\varphi(x)|$, (...);
- ``net.forward_and_divergence(x, metric=W)``: $\varphi(x)$ and $\mathrm{tr}(W D\varphi(x))$, (...).

The last two may be exact or estimates, whose bias the network states: that is its business. One that draws random
numbers accepts ``generator=``. ``net.members`` is the number E of networks that are evaluated side by side on points
(E, ..., n), or None. Subclass `InvertibleNetwork` to have the derived methods on the network itself; any other module
will do as well.

*Transforms.* ``torch.func.jacrev``, ``jacfwd``, ``jvp``, ``vjp`` and ``vmap`` work over ``net(x)``. They do not work
over ``net.inverse(z)``, whose number of iterations depends on the data, nor over the methods with derivatives: call
these with a batch, and differentiate them by ``torch.autograd``.

How to bring a network of your own: `invlib/coupling.py` is a worked example.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from invlib import _checks, linalg

P = ParamSpec("P")
R = TypeVar("R")

EXACT_DIVERGENCE = 16
"""Up to this dimension the derived divergence is exact; beyond it is estimated from one vector of random signs."""


class InvertibleNetwork(nn.Module):
    """A network with the derived methods of the contract. A subclass gives `forward` and `inverse`.

    `torch.func` transforms work over the forward direction only: see the top of this module.

    Attributes:
        members: the number of networks evaluated side by side, or None.

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
        """Return phi(x) and D phi(x), (..., n, n), by reverse-mode differentiation of the n coordinates."""
        return _derived_jacobian(self, x)

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return phi(x) and log|det D phi(x)|, (...), from the Jacobian."""
        return _derived_log_det(self, x)

    def forward_and_divergence(
        self,
        x: Tensor,
        *,
        metric: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return phi(x) and tr(W D phi(x)), (...): exact up to dimension 16, Hutchinson's estimate beyond."""
        return _derived_divergence(self, x, metric, generator)

    def pushforward_score(self, x: Tensor, score: Tensor) -> Tensor:
        r"""Return $\nabla \log q$ at phi(x), of the shape of x, for q the density of phi(X) when X has the given score.

        By the change of variables, $\log q(\varphi(x)) = \log p_X(x) - \log|\det D\varphi(x)|$; the chain rule gives
        $D\varphi(x)^* \, \nabla \log q(\varphi(x))$ $= \nabla \log p_X(x) - \nabla \log|\det D\varphi(x)|$.

        Args:
            x: (..., n), or (E, ..., n) with members.
            score: grad log p_X at x, of the shape of x.
        """
        _checks.points("x", x)
        _checks.points("score", score)
        if score.shape != x.shape:
            raise ValueError(
                f"score must have the shape of x, {tuple(x.shape)}, got {tuple(score.shape)}"
            )
        check_device("score", score, x)
        _checks.finite("score", score)

        with torch.inference_mode(False), torch.enable_grad():
            points = x.detach().clone().requires_grad_()
            _, log_det = call(self.forward_and_log_det, points, exact=True)
            (gradient,) = torch.autograd.grad(log_det.sum(), points)
        with torch.no_grad():
            _, jacobian = self.forward_and_jacobian(x)
            right = (score.detach().to(x) - gradient).unsqueeze(-1)
            solution: Tensor = torch.linalg.solve(jacobian.mT, right)
            return solution.squeeze(-1)


def forward_and_jacobian(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return phi(x) and D phi(x), (..., n, n), by the network's own method or the derived one."""
    own = getattr(net, "forward_and_jacobian", None)
    if own is None:
        return _derived_jacobian(net, x)
    result: tuple[Tensor, Tensor] = own(x)
    return result


def forward_and_log_det(
    net: nn.Module, x: Tensor, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Return phi(x) and log|det D phi(x)|, (...), by the network's own method or the derived one."""
    own = getattr(net, "forward_and_log_det", None)
    if own is None:
        return _derived_log_det(net, x)
    result: tuple[Tensor, Tensor] = call(own, x, generator=generator)
    return result


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
    options: dict[str, object] = {} if metric is None else {"metric": metric}
    result: tuple[Tensor, Tensor] = call(own, x, generator=generator, **options)
    return result


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that must not be rounded by `torch.autocast`: inside, it is off."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        active = [
            device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)
        ]
        if not active:
            return function(*args, **kwargs)
        with contextlib.ExitStack() as stack:
            for device in active:
                stack.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **kwargs)

    return wrapped


def call(function: Callable[..., Any], *arguments: object, **options: object) -> Any:  # noqa: ANN401
    """Call a function with those of the options that it accepts; `metric` must be accepted where it is given.

    Raises:
        TypeError: if `metric` is given and the function does not know it.
    """
    target = function.forward if isinstance(function, nn.Module) else function
    parameters = inspect.signature(target).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        if "metric" in options and "metric" not in parameters:
            name = getattr(function, "__qualname__", repr(function))
            raise TypeError(f"{name} must accept metric= to be used with a metric")
        options = {name: value for name, value in options.items() if name in parameters}
    return function(*arguments, **options)


def check_device(name: str, value: Tensor, like: Tensor) -> None:
    """Raise a `ValueError` if a tensor is on another device."""
    if value.device != like.device:
        raise ValueError(
            f"{name} must be on the device {like.device}, got {value.device}"
        )


def check_shape(name: str, value: object, shape: torch.Size) -> Tensor:
    """Return what a network returned, if it is a tensor of this shape: another one would be broadcast, silently."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.shape != shape:
        raise ValueError(
            f"{name} must have shape {tuple(shape)}, got {tuple(value.shape)}"
        )
    return value


def check_metric(metric: Tensor, x: Tensor, batch: tuple[int, ...]) -> Tensor:
    """Return the metric in the dtype of the points, if it is symmetric positive definite and of a fitting shape."""
    if isinstance(metric, Tensor):
        check_device("metric", metric, x)
    return _checks.metric(metric, x.shape[-1], batch).to(x)


def evaluation_work(net: nn.Module) -> int:
    """Return about the multiply-adds of one evaluation at a point of each member: `net.work`, or its parameters."""
    own = getattr(net, "work", None)
    return (
        own
        if isinstance(own, int)
        else sum(parameter.numel() for parameter in net.parameters())
    )


def random_signs(points: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return independent fair signs, +1 or -1, of the shape and dtype of the points."""
    return 2.0 * torch.randint(2, points.shape, generator=generator).to(points) - 1.0


def _derived_jacobian(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Row by row: each is one backward pass, since points do not mix."""
    recording = torch.is_grad_enabled()
    with _record():
        points, value = _follow(net, x)
        rows = [
            _pull(value[..., i], points, None, recording) for i in range(x.shape[-1])
        ]
        jacobian = torch.stack(rows, dim=-2)
    return (value, jacobian) if recording else (value.detach(), jacobian.detach())


def _derived_log_det(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    value, jacobian = forward_and_jacobian(net, x)
    return value, linalg.slogdet(jacobian)


def _derived_divergence(
    net: nn.Module, x: Tensor, metric: Tensor | None, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    _checks.points("x", x)
    if metric is not None:
        metric = check_metric(metric, x, tuple(x.shape[:-2]))
    if x.shape[-1] <= EXACT_DIVERGENCE:
        value, jacobian = forward_and_jacobian(net, x)
        return value, weighted_trace(jacobian, metric)

    signs = random_signs(x, generator)
    weighted = signs if metric is None else signs @ metric
    recording = torch.is_grad_enabled()
    with _record():
        points, value = _follow(net, x)
        divergence = (_pull(value, points, weighted, recording) * signs).sum(-1)
    return (value, divergence) if recording else (value.detach(), divergence.detach())


@contextlib.contextmanager
def _record() -> Iterator[None]:
    """Autograd on, also where it is off outside."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _follow(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Points that autograd follows, and their image."""
    _checks.points("x", x)
    points = x if x.requires_grad else x.detach().clone().requires_grad_()
    value = check_shape("net(x)", net(points), x.shape)
    if not value.requires_grad:
        raise ValueError("net(x) must be differentiable in x")
    return points, value


@full_precision
def _pull(value: Tensor, points: Tensor, v: Tensor | None, recording: bool) -> Tensor:
    """The adjoint of the derivative, applied to v or to ones, (..., n)."""
    v = torch.ones_like(value) if v is None else v
    (pulled,) = torch.autograd.grad(
        value,
        points,
        v,
        create_graph=recording,
        retain_graph=True,
        materialize_grads=True,
    )
    return pulled


@full_precision
def weighted_trace(jacobian: Tensor, metric: Tensor | None) -> Tensor:
    """Return tr(W J), (...), for matrices J, (..., B, n, n), and W, (n, n) or one for each batch of points."""
    if metric is not None:
        jacobian = (metric if metric.ndim == 2 else metric.unsqueeze(-3)) @ jacobian
    return jacobian.diagonal(dim1=-2, dim2=-1).sum(-1)
