"""The loss and the data of a training: what differs between members is stacked, E = 1 for a single network."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from invlib import _checks
from invlib.losses import (
    approximation_loss,
    divergence_loss,
    log_det_loss,
    reconstruction_loss,
)
from invlib.problems import LinearProblem
from invlib.sampling import Sampler, check_sampler
from invlib.standard import StandardVariables
from invlib.targets import Target, trace

Strategy = Literal["approximation", "reconstruction", "log_det", "divergence"]

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""A loss of one's own: of the network, points x and noisy data z, both (B, n) or (E, B, n); a scalar or (E,)."""

WORST_CONDITION = 1e7
"""Condition of A up to which H, with its square, can be inverted in float64."""


class Objective:
    """One of the four losses, or a loss of the caller's, of a network on the data of its problems.

    Attributes:
        members: None or the number E of members of the network.
        dim: the dimension n.
        name: the name of the loss, or None for one of the caller's.
        description: the loss in a sentence.
    """

    def __init__(
        self,
        net: nn.Module,
        problem: object,
        loss: object,
        strength: object,
        whiten: bool,
        metric: Tensor | None = None,
    ) -> None:
        self.net = net
        self.parameter = check_network(net)[0]
        self.members = _members(net)
        self.problems = self._problems(problem, net)
        self.dim = self.problems[0].dim

        self.own_loss = loss if callable(loss) else None
        self.name = None if callable(loss) else _known(loss)
        self.description = "the loss" if self.name is None else f"the {self.name} loss"
        self.noise_std = torch.tensor(
            [p.noise_std for p in self.problems], dtype=torch.float64
        )
        self.strength = self._strength(strength)

        self.normal = torch.stack([p.normal_operator for p in self.problems])
        self.whiten = self._check_whiten(whiten)
        chosen = self._chosen_metric(metric)
        self.standard = standard_variables(net)
        self.in_core = chosen is None and self._standard_metric() is not None
        identity = torch.eye(self.dim, dtype=torch.float64).expand_as(self.normal)
        self.metric = next(
            m for m in (chosen, self._standard_metric(), identity) if m is not None
        )
        # E |A* eta|_W^2 / 2
        self.noise = 0.5 * self.noise_std**2 * trace(self.metric @ self.normal)
        self.options: dict[str, Any] = (
            {} if chosen is None else {"metric": self._like_net(chosen)}
        )

        # A* eta has the law of delta H^{1/2} (standard normal): the noise of z, whatever the size of y.
        values, vectors = torch.linalg.eigh(self.normal)
        self._noise_factor = (
            self.noise_std[:, None, None]
            * vectors
            * values.clamp_min(0).sqrt().unsqueeze(-2)
        )

    @property
    def count(self) -> int:
        """The number of members, 1 for a single network."""
        return self.members or 1

    def priors(self, prior: object) -> list[Sampler]:
        """Return the prior of each member."""
        priors = (
            list(prior) if isinstance(prior, (list, tuple)) else [prior] * self.count
        )
        if len(priors) != self.count:
            raise ValueError(
                f"prior must be one, or one for each of the {self.count} members, got {len(priors)}"
            )

        return [check_sampler(each, self.dim) for each in priors]

    def data(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return points and their data z for the network, from points and standard normal noise, (E, B, n) each.

        The noise of the forward losses is averaged exactly; they see z = Hx.
        """
        z = x @ self.normal.mT
        if self.name in (None, "reconstruction"):
            z = z + noise @ self._noise_factor.mT
        if self.standard is not None and self.in_core:
            x, z = self.standard.of_core(x, z)
        return self._like_net(x), self._like_net(z)

    def loss(self, x: Tensor, z: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return the loss of a batch, a scalar or (E,), with the constant from the exact average over the noise."""
        if self.own_loss is not None:
            return self._checked(self.own_loss(self.net, x, z))

        net, strength = self._fitted()
        if self.name == "reconstruction":
            return reconstruction_loss(net, x, z, **self.options)

        noise = self._like_net(self.noise)
        if self.name == "approximation":
            return approximation_loss(net, x, z, **self.options) + noise

        loss = log_det_loss if self.name == "log_det" else divergence_loss
        return (
            loss(
                net, x, z, self._like_net(strength), generator=generator, **self.options
            )
            + noise
        )

    def target(self, priors: Sequence[Sampler]) -> Target | None:
        """Return what is known about the minimizer; None for a loss of the caller's."""
        if self.name is None:
            return None
        return Target(
            loss=self.name,
            priors=priors,
            normal=self.normal,
            metric=self.metric,
            noise=self.noise,
            noise_std=self.noise_std,
            strength=self.strength,
            single=self.members is None,
        )

    def settings(self) -> dict[str, Any]:
        """Return what must be the same when a training is continued."""
        own_metric = (
            {"metric": self.metric}
            if self.in_core or (self.options and not self.whiten)
            else {}
        )
        return {
            "loss": self.name
            or getattr(self.own_loss, "__qualname__", type(self.own_loss).__qualname__),
            "members": self.members,
            "strength": self.strength.tolist(),
            "noise_std": self.noise_std.tolist(),
            "normal_operator": self.normal,
            "whiten": self.whiten,
            **own_metric,
        }

    def _like_net(self, value: Tensor) -> Tensor:
        value = value.to(self.parameter)
        return value if self.members is not None else value[0]

    def _problems(self, problem: object, net: nn.Module) -> list[LinearProblem]:
        problems = _checks.per_member("problem", problem, LinearProblem, self.members)
        dim = getattr(net, "dim", problems[0].dim)
        for p in problems:
            if p.dim != dim:
                raise ValueError(
                    f"problem must act on R^{dim}, the space of net, got R^{p.dim}"
                )
        return problems

    def _strength(self, strength: object) -> Tensor:
        if strength is None:
            return self.noise_std
        if self.name is None:
            raise ValueError(
                f"strength must be None for a loss of your own, which does not see it, got {strength!r}"
            )
        strengths = _checks.per_member("strength", strength, (int, float), self.members)
        return torch.tensor(
            [_checks.positive("strength", s) for s in strengths], dtype=torch.float64
        )

    def _check_whiten(self, whiten: object) -> bool:
        if not isinstance(whiten, bool):
            raise ValueError(f"whiten must be True or False, got {whiten!r}")
        if whiten and self.name is None:
            raise ValueError(
                "whiten must be False for a loss of your own, which sees no metric"
            )
        if not whiten or self.name == "reconstruction":
            return False

        for p in self.problems:
            if not p.is_injective:
                raise ValueError(
                    f"whiten must be False for an operator that is not injective, got {p}"
                )
            if float(p.singular_values[0] / p.singular_values[-1]) > WORST_CONDITION:
                worst = f"of condition above {WORST_CONDITION:.0e}, whose H cannot be inverted"
                raise ValueError(
                    f"whiten must be False for an operator {worst}, got {p}"
                )
        return True

    def _fitted(self) -> tuple[Any, Tensor]:
        """The network, or its core, and the strength, (E,), for data as `data` returns them.

        In the core's variables the loss is that in the norm `metric`: the same number, without rounding errors of large
        offsets and of extreme conditions.
        """
        net: Any = self.net
        if self.standard is None or not self.in_core:
            return net, self.strength
        return net.core(), self.strength / self.standard.scale

    def _standard_metric(self) -> Tensor | None:
        """The norm of the network's own variables, (E, n, n), if it has some and no minimizer depends on it."""
        return (
            None
            if self.standard is None or self.name is None
            else self.standard.metric(self.name)
        )

    def _chosen_metric(self, metric: Tensor | None) -> Tensor | None:
        """The norm of the misfit that was asked for, (E, n, n), or None."""
        if self.whiten:
            if metric is not None:
                raise ValueError(
                    f"metric must be None with whiten=True, which is a metric, got {metric!r}"
                )
            inverse: Tensor = torch.linalg.inv(self.normal)
            return inverse
        if metric is None:
            return None

        if self.name is None:
            raise ValueError(
                "metric must be None for a loss of your own, which does not see it"
            )
        batch = () if self.members is None else (self.members,)
        checked: Tensor = _checks.metric(metric, self.dim, batch)
        return checked.detach().to("cpu", torch.float64).expand_as(self.normal)

    def _checked(self, value: object) -> Tensor:
        shape = () if self.members is None else (self.members,)
        if not isinstance(value, Tensor):
            raise TypeError(
                f"loss must return a tensor of shape {shape}, got {value!r}"
            )
        if value.shape != shape:
            raise ValueError(
                f"loss must return a tensor of shape {shape}, got {tuple(value.shape)}"
            )
        return value


def standard_variables(net: object) -> StandardVariables | None:
    """Return the standard variables of a network, if it has some (`IResNet.for_problem`)."""
    standard = getattr(net, "standard", None)
    return standard if isinstance(standard, StandardVariables) else None


def check_network(net: object, *, mixed: bool = False) -> list[nn.Parameter]:
    """Return the parameters that can be trained.

    Args:
        net: the network.
        mixed: whether float32 and float64 may be mixed.

    Raises:
        TypeError: if `net` is no module.
        ValueError: if it has no parameter to train, or if their dtypes are not all float32 or all float64.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {net!r}")

    parameters = [
        parameter for parameter in net.parameters() if parameter.requires_grad
    ]
    if not parameters:
        raise ValueError(
            "net must have a parameter that requires a gradient; this one has none, or is frozen"
        )

    dtypes = {parameter.dtype for parameter in parameters}
    if not dtypes <= {torch.float32, torch.float64} or (len(dtypes) > 1 and not mixed):
        found = " and ".join(sorted(map(str, dtypes)))
        raise ValueError(
            f"net must have parameters of torch.float32, or all of torch.float64, got {found}"
        )
    return parameters


def _known(loss: object) -> str:
    names = get_args(Strategy)
    if not isinstance(loss, str) or loss not in names:
        raise ValueError(
            f"loss must be one of {', '.join(names)}, or a function of net, x and z, got {loss!r}"
        )
    return loss


def _members(net: nn.Module) -> int | None:
    members = getattr(net, "members", None)
    return None if members is None else _checks.count("net.members", members)
