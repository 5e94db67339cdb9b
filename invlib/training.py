"""Training of networks and of whole sweeps in one batch: see `book/performance.md`, `book/noise-levels.md`."""

import ctypes
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm

from invlib import _checks
from invlib.losses import approximation_loss, divergence_loss, log_det_loss, reconstruction_loss
from invlib.dense import IResNet
from invlib.optimizers import SOAP
from invlib.problems import LinearProblem

AVERAGED = 0.05
"""The share of the steps, at the end of a training, whose weights are averaged."""

Strategy = Literal["approximation", "reconstruction", "log_det", "divergence"]


class Sampler(Protocol):
    """Anything that can draw samples of x: a prior, or a set of data."""

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw `count` independent points, (count, n)."""


class TrainingError(RuntimeError):
    """The loss became infinite or not a number."""


@dataclass(frozen=True)
class History:
    """What happened during training.

    Attributes:
        loss: (steps,), or (steps, E) with members: the loss of each batch.
        minimum: the infimum of the loss over all maps, a float or (E,), where it is known; otherwise None.
        learning_rate: (steps,).
        seconds: wall-clock time of the whole training.
    """

    loss: Tensor
    minimum: float | Tensor | None
    learning_rate: Tensor
    seconds: float

    @property
    def excess(self) -> Tensor | None:
        """The loss above its minimum: half the mean square distance to the minimizer, up to sampling; None if unknown.

        Single batches may come out below zero.
        """
        return None if self.minimum is None else self.loss - self.minimum


def train(
    net: IResNet,
    problem: LinearProblem | Sequence[LinearProblem],
    prior: Sampler,
    loss: Strategy,
    *,
    strength: float | Sequence[float] | None = None,
    steps: int = 2000,
    batch_size: int = 256,
    learning_rate: float = 6e-2,
    whiten: bool = False,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> History:
    r"""Train `net` in place with one of the four strategies and return the history.

    The optimizer is SOAP with a short memory, 5 % warm-up and a cosine decay to zero; the weights after the last 5 % of
    the steps are averaged. Many small batches find the way; in the second half, where the noise of the batches decides,
    they are four times as large. Where the prior offers `from_uniform`, the points are scrambled Sobol points, shifted
    at random for each member; otherwise they come from `sample`.

    The approximation-type losses depend on the noise only through $E\|\varphi(x) - z\|^2 = E\|\varphi(x) - Hx\|^2 +
    \delta^2\,\mathrm{tr}\,H$. Their noise is averaged exactly: they are evaluated at z = Hx and the constant is added.

    Args:
        net: the network, or an ensemble with `members=E`.
        problem: one problem, or one for each member.
        prior: the distribution of x; anything with `sample(count, generator=...)`.
        loss: "approximation", "reconstruction", "log_det" or "divergence".
        strength: the regularization strength, one number or one for each member; None means `noise_std`. Only the two
            regularized losses use it.
        steps: number of gradient steps.
        batch_size: points in each step of the first half, for each member; in the second half four times as many.
        learning_rate: its peak.
        whiten: measure the forward misfit in the norm of $H^{-1}$, in which the noise of z is white. Approximation and
            divergence keep their minimizers; together with `output_operator=A*` this is the y-form, which trains far
            better where H has small eigenvalues. For the log-determinant it puts an H in front of the score, as in
            Lemma 1(c). It does not touch the reconstruction loss.
        generator: for every random draw.
        progress: show a progress bar.

    Raises:
        ValueError: if an argument does not fit, names the argument.
        TrainingError: if the loss is not finite.
    """
    _checks.count("batch_size", batch_size)
    if not hasattr(prior, "sample"):
        raise ValueError(f"prior must have a method sample(count, generator=...), got {prior!r}")
    if getattr(prior, "dim", net.dim) != net.dim:
        raise ValueError(f"prior must live on R^{net.dim}, the space of net, got {prior!r}")
    sweep = _Sweep(net, problem, strength, loss, whiten)
    draw = sweep.sampler(prior, generator)

    def batch_loss(step: int) -> Tensor:
        x, z = draw(batch_size if 2 * step < steps else 4 * batch_size)
        return sweep.loss(x, z, generator)

    history = minimize(net, batch_loss, steps, learning_rate=learning_rate, name=f"the {loss} loss", progress=progress)
    return replace(history, minimum=sweep.minimum(prior))


def minimize(
    net: nn.Module,
    loss: Callable[[int], Tensor],
    steps: int,
    *,
    learning_rate: float = 6e-2,
    name: str = "the loss",
    progress: bool = False,
) -> History:
    """Minimize any loss over the parameters of `net`, in place, by the method of `train`.

    Args:
        net: the network.
        loss: the loss of a step, given its number: a scalar, or (E,) for members that do not share parameters.
        steps: number of gradient steps.
        learning_rate: its peak.
        name: of the loss, for the progress bar and for errors.
        progress: show a progress bar.

    Raises:
        ValueError: if `steps` is not a positive integer or `learning_rate` not a positive number.
        TrainingError: if the loss is not finite.
    """
    _checks.count("steps", steps)
    rates = [
        _checks.positive("learning_rate", learning_rate) * _warm_up_and_cosine(step, steps) for step in range(steps)
    ]
    optimizer, average, losses = SOAP(net.parameters(), lr=learning_rate), AveragedModel(net), []
    _keep_freed_memory()
    start = time.perf_counter()
    for step, rate in enumerate(tqdm(rates, desc=name, disable=not progress)):
        try:
            value = loss(step)
        except torch.linalg.LinAlgError as error:  # the parameters are no longer finite
            raise TrainingError(f"{name} could not be computed after {step} steps") from error
        if not bool(torch.isfinite(value).all()):
            raise TrainingError(f"{name} became {value.tolist()} after {step} steps")
        optimizer.zero_grad()
        value.sum().backward()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        losses.append(value.detach())
        if step + 1 > (1 - AVERAGED) * steps:
            average.update_parameters(net)
    net.load_state_dict(average.module.state_dict())
    return History(torch.stack(losses), None, torch.tensor(rates), time.perf_counter() - start)


def _keep_freed_memory() -> None:
    """Ask the C library of Linux to keep up to 1 GiB of freed memory for this process.

    A step frees all that it allocates. The library would return large pieces to the system, which has to clear the same
    pages again for the next step: a fifth of the time of a sweep.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            mallopt(option, 2**30)


def _warm_up_and_cosine(step: int, steps: int, warm_up: float = 0.05) -> float:
    """The learning rate as a fraction of its peak."""
    done = step / steps
    decay = 0.5 * (1 + math.cos(math.pi * max(0.0, (done - warm_up) / (1 - warm_up))))
    return min(1.0, (step + 1) / (warm_up * steps)) * decay


class _Sweep:
    """The loss and the data of every member: what differs between them is stacked, E = 1 for a single network."""

    def __init__(self, net: IResNet, problem: object, strength: object, loss: str, whiten: bool) -> None:
        if loss not in get_args(Strategy):
            raise ValueError(f"loss must be one of {', '.join(get_args(Strategy))}, got {loss!r}")
        whiten = whiten and loss != "reconstruction"
        problems = _per_member("problem", problem, LinearProblem, net)
        for p in problems:
            if p.dim != net.dim:
                raise ValueError(f"problem must act on R^{net.dim}, the space of net, got R^{p.dim}")
            if whiten and not p.is_injective:
                raise ValueError(f"whiten must be False for an operator that is not injective, got {p}")
        self.net, self.name = net, loss
        self.noise_std = torch.tensor([p.noise_std for p in problems], dtype=torch.float64)
        strengths = (
            self.noise_std.tolist() if strength is None else _per_member("strength", strength, (int, float), net)
        )
        self.strength = torch.tensor([_checks.positive("strength", s) for s in strengths], dtype=torch.float64)
        self.normal = torch.stack([p.normal_operator for p in problems])
        identity = torch.eye(net.dim, dtype=torch.float64).expand_as(self.normal)
        self.metric = torch.linalg.inv(self.normal) if whiten else identity
        self.noise = 0.5 * self.noise_std**2 * _trace(self.metric @ self.normal)  # E |A* eta|_W^2 / 2
        self.options = {"metric": self._like_net(self.metric)} if whiten else {}

    def _like_net(self, value: Tensor) -> Tensor:
        value = value.to(self.net.weights[0])
        return value if self.net.members is not None else value[0]

    def loss(self, x: Tensor, z: Tensor, generator: torch.Generator | None) -> Tensor:
        """The loss of a batch, a scalar or (E,), with the constant that the exact average over the noise adds."""
        if self.name == "reconstruction":
            return reconstruction_loss(self.net, x, z)
        noise, strength = self._like_net(self.noise), self._like_net(self.strength)
        if self.name == "approximation":
            return approximation_loss(self.net, x, z, **self.options) + noise
        loss = log_det_loss if self.name == "log_det" else divergence_loss
        return loss(self.net, x, z, strength, generator=generator, **self.options) + noise

    def minimum(self, prior: Sampler) -> float | Tensor | None:
        r"""The optimal value, where Theorem 2 or the approximation loss gives it.

        For the divergence it is the noise constant less $\hat\delta^2 \mathrm{tr}(WH) + \tfrac12\hat\delta^4
        E\langle s, Ws \rangle$. The mean needs the prior's score; it is taken over 2^16 quasi-random points.
        """
        minimum = self.noise
        if self.name == "divergence" and hasattr(prior, "score") and hasattr(prior, "from_uniform"):
            sobol = torch.quasirandom.SobolEngine(self.net.dim + 1, scramble=True, seed=0)
            uniform = sobol.draw(2**16, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
            score = prior.score(prior.from_uniform(uniform))
            information = _trace(self.metric @ (score.mT @ score / len(score)))
            strength2 = self.strength.square()
            minimum = minimum - strength2 * _trace(self.metric @ self.normal) - 0.5 * strength2.square() * information
        elif self.name != "approximation":
            return None
        return minimum if self.net.members is not None else float(minimum)

    def sampler(self, prior: Sampler, generator: torch.Generator | None) -> Callable[[int], tuple[Tensor, Tensor]]:
        """Return a function that draws points x and data z of the network's shape, (size, n) or (E, size, n)."""
        members, dim = self.noise_std.shape[0], self.net.dim
        # A* eta has the law of delta H^{1/2} (standard normal): the noise of z, whatever the size of y.
        values, vectors = torch.linalg.eigh(self.normal)
        noise_factor = self.noise_std[:, None, None] * vectors * values.clamp_min(0).sqrt().unsqueeze(-2)
        quasi_random = _quasi_random(prior, members, dim, generator) if hasattr(prior, "from_uniform") else None

        def draw(size: int) -> tuple[Tensor, Tensor]:
            if quasi_random is not None:
                x, noise = quasi_random(size)
            else:
                x = torch.stack([prior.sample(size, generator=generator) for _ in range(members)]).to(torch.float64)
                if x.shape[1:] != (size, dim) or not bool(torch.isfinite(x).all()):
                    raise ValueError(f"prior must return finite samples of shape {(size, dim)}, got {x[0]}")
                noise = torch.randn(x.shape, dtype=torch.float64, generator=generator)
            z = x @ self.normal.mT
            if self.name == "reconstruction":
                z = z + noise @ noise_factor.mT
            return self._like_net(x), self._like_net(z)

        return draw


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)


def _quasi_random(
    prior: Sampler, members: int, dim: int, generator: torch.Generator | None
) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Return a function that draws the next points and standard normal noise, (E, count, n) each.

    One scrambled Sobol sequence serves all members, shifted modulo one by a vector of each member's own.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    sequence = torch.quasirandom.SobolEngine(2 * dim + 1, scramble=True, seed=seed)
    shifts = torch.rand(members, 1, 2 * dim + 1, dtype=torch.float64, generator=generator)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        uniform = (sequence.draw(count, dtype=torch.float64) + shifts) % 1.0
        uniform = uniform.clamp(1e-12, 1 - 1e-12)
        return prior.from_uniform(uniform[..., : dim + 1]), torch.special.ndtri(uniform[..., dim + 1 :])

    return draw


def _per_member(name: str, value: object, kind: type | tuple[type, ...], net: IResNet) -> list:
    """Return a list with one entry per member from one entry or a sequence of them."""
    members = net.members or 1
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        value = value.tolist()
    values = [value] * members if isinstance(value, kind) or not isinstance(value, Sequence) else list(value)
    if len(values) != members or not all(isinstance(v, kind) for v in values):
        raise ValueError(f"{name} must be one entry, or one for each of the {members} members, got {value!r}")
    return values
