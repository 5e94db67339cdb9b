"""Training of networks and of whole sweeps in one batch: see `book/performance.md`, `book/noise-levels.md`."""

import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from invlib import _checks
from invlib.checkpoint import Checkpoint, Stateful
from invlib.history import History, TrainingError, TrainingStep
from invlib.loop import (
    AVERAGED,
    Callback,
    Loop,
    Optimizer,
    Schedule,
    Validation,
    checked_rates,
)
from invlib.networks import evaluation_work
from invlib.objective import Loss, Objective, Strategy, check_network
from invlib.optimizers import SOAP
from invlib.problems import LinearProblem
from invlib.samples import Samples
from invlib.sampling import Sampler, Shift, batches
from invlib.targets import Target, warn_if_out_of_reach
from invlib.threads import one_thread_if_small

__all__ = [
    "AVERAGED",
    "Callback",
    "History",
    "Loss",
    "Optimizer",
    "Sampler",
    "Schedule",
    "Strategy",
    "TrainingError",
    "TrainingStep",
    "minimize",
    "train",
    "warm_up_and_cosine",
]


PEAK = 6e-2
"""Of the learning rate."""


@dataclass(frozen=True)
class Plan:
    """The defaults of a training that depend on the kind of the network.

    Attributes:
        shift: of the quasi-random points.
        stages: (until which share of the steps, how many times `batch_size`).
        fading: whether the learning rate falls with the dimension.
    """

    shift: Shift
    stages: tuple[tuple[float, int], ...]
    fading: bool

    def peak(self, dim: int) -> float:
        """Return the peak of the learning rate in this dimension."""
        return PEAK * min(1.0, math.sqrt(2 / dim)) if self.fading else PEAK

    def growth(self, step: int, steps: int) -> int:
        """Return by which factor the batch of step 0, 1, ... of `steps` is larger than `batch_size`."""
        return next(factor for share, factor in self.stages if step < share * steps)


PLAIN = Plan("modulo", ((0.5, 1), (1.0, 4)), fading=False)
STANDARD = Plan("digital", ((0.1, 1), (0.5, 4), (1.0, 8)), fading=True)


def warm_up_and_cosine(step: int, steps: int, warm_up: float = 0.05) -> float:
    """Return the learning rate as a fraction of its peak: a linear rise, then half a cosine down to zero.

    Args:
        step: the number of steps done.
        steps: the number of all steps.
        warm_up: the share of the rise.

    Example:
        >>> [round(warm_up_and_cosine(step, 100), 2) for step in (0, 4, 50, 99)]
        [0.2, 1.0, 0.54, 0.0]
    """
    done = step / steps
    decay = 0.5 * (1 + math.cos(math.pi * max(0.0, (done - warm_up) / (1 - warm_up))))
    return min(1.0, (step + 1) / (warm_up * steps)) * decay


def train(
    net: nn.Module,
    problem: LinearProblem | Sequence[LinearProblem],
    prior: Sampler | Sequence[Sampler],
    loss: Strategy | Loss = "divergence",
    *,
    strength: float | Sequence[float] | None = None,
    steps: int = 2000,
    batch_size: int = 256,
    learning_rate: float | None = None,
    optimizer: Optimizer = SOAP,
    schedule: Schedule = warm_up_and_cosine,
    whiten: bool = False,
    metric: Tensor | None = None,
    callback: Callback | None = None,
    patience: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 100,
    generator: torch.Generator | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> History:
    r"""Train `net` in place, with one of the four strategies or a loss of your own, and return the history.

    The optimizer is SOAP with a short memory, 5 % warm-up and a cosine decay to zero; the weights after the last 5 % of
    the steps are averaged. Many small batches find the way; in the second half, where the noise of the batches decides,
    they are four times as large. Where the prior offers `from_uniform`, the points are scrambled Sobol points, shifted
    at random for each member; from `Samples` come minibatches without replacement; otherwise points come from `sample`.

    The approximation-type losses depend on the noise only through $E\|\varphi(x) - z\|^2$
    $= E\|\varphi(x) - Hx\|^2 + \delta^2\,\mathrm{tr}\,H$. Their noise is averaged exactly: they are evaluated at z = Hx
    and the constant is added.

    *A problem of your own.* Build the network by `IResNet.for_problem`: it starts close to Wiener's filter, and units,
    offsets and correlations do not matter. It is trained in the norm of its own variables, with digitally shifted
    points, a learning rate that falls with the dimension, and `batch_size` points up to a tenth of the steps, four
    times as many up to half of them, and eight times as many from there.

    *Stops.* `callback` and `patience` can end a training early, and so does Ctrl-C: the weights so far are kept, and
    `history.stopped` says why. With `Samples(..., held_out=share)` the weights with the least loss on the points held
    out are kept (one moment for all members: the mean of their losses decides).

    *Going on.* With `checkpoint=path`, the same call continues a training that was stopped or killed, with the same
    result, bit for bit, as if it had never been interrupted. Do not call `train` again and again instead: each call
    rises to the peak of the learning rate anew, where the gain of the small rates before is lost, and its optimizer has
    forgotten the gradients. Four calls of 100 steps ended twice as far from the minimizer as one of 400 (two
    bumps, three networks); keeping one schedule and the optimizer's memory together recovers most of it.

    Args:
        net: the network, or an ensemble with `members=E`: any module with `net(x)`, for reconstruction also
            `net.inverse(z, ...)`; see the losses for what they use where it is there.
        problem: one problem, or one for each member.
        prior: the distribution of x; anything with `sample(count, generator=...)`, or one for each member.
        loss: "approximation", "reconstruction", "log_det" or "divergence"; or a function of net, x and z that returns
            a scalar, or (E,) with members. x and noisy data z are (B, n), or (E, B, n) with members.
        strength: the regularization strength, one number or one for each member; None means `noise_std`. Only the two
            regularized losses use it.
        steps: number of gradient steps.
        batch_size: points in each step of the first half, for each member; in the second half four times as many.
        learning_rate: its peak; None means 6e-2, and for a network of `IResNet.for_problem` in more than two dimensions
            $6 \cdot 10^{-2} \sqrt{2/n}$.
        optimizer: called as `optimizer(parameters, lr=learning_rate)`, such as `torch.optim.Adam`.
        schedule: the learning rate in step 0, 1, ... as a fraction of its peak, a function of the step and the number
            of steps.
        whiten: measure the forward misfit in the norm of $H^{-1}$, in which the noise of z is white. Approximation and
            divergence keep their minimizers; together with `output_operator=A*` this is the y-form, which trained
            better where it was measured, for the singular values 1 and 1/8 (`book/noise-levels.md`). For the
            log-determinant it puts an H in front of the score, as in Lemma 1(c). It does not touch the
            reconstruction loss.
        metric: measure the misfit in this norm, (n, n) or (E, n, n), symmetric positive definite: that of z, and for
            the reconstruction that of x. None means that of the network's own variables (`IResNet.for_problem`) if it
            has some and the loss is not the log-determinant, and otherwise the Euclidean norm.
        callback: sees a `TrainingStep` after each step; if it returns True, the training stops.
        patience: stop when the loss on the points held out has not become better for so many steps.
        checkpoint: a file to write to, and to continue from if it exists.
        checkpoint_every: steps between two writes; one more at the end and at a stop. Ctrl-C in the middle of an update
            of the weights goes back to the last write.
        generator: for every random draw. None means torch's global generator (which a training that is continued
            sets back to where it was).
        threads: how many threads torch uses during the training; None means one for small work and as many as now for
            large sweeps. The setting of the process is restored.
        progress: show a progress bar; where the standard error stream is a file, a line every few seconds.

    Raises:
        ValueError: if an argument does not fit, names the argument.
        TypeError: if an argument is of a wrong kind, names the argument.
        TrainingError: if the loss is not finite. The network then has the last weights for which it was, and the error
            has the history so far.

    Warns:
        ReachWarning: if the minimizer of the loss has slopes that the network cannot have.

    Example:
        >>> from invlib import GaussianMixture, IResNet
        >>> generator = torch.Generator().manual_seed(0)
        >>> prior = GaussianMixture([0.5, 0.5], [[0.8, 0.5], [-0.8, -0.5]], torch.eye(2).repeat(2, 1, 1) / 4)
        >>> problem = LinearProblem([[1.0, 0.0], [0.0, 0.7]], noise_std=0.3)
        >>> net = IResNet(2, blocks=2, width=8, generator=generator)
        >>> history = train(net, problem, prior, "divergence", steps=20, generator=generator)
        >>> history.loss.shape, history.stopped
        (torch.Size([20]), None)

        A loss of one's own, another optimizer, and a callback that stops after ten steps:

        >>> def robust(net, x, z):
        ...     return torch.nn.functional.huber_loss(net(x), z)
        >>> history = train(
        ...     net, problem, prior, robust, steps=20, optimizer=torch.optim.Adam, learning_rate=1e-3,
        ...     callback=lambda now: now.step == 10, generator=generator,
        ... )
        >>> len(history.loss), history.stopped
        (10, 'callback')
    """
    _refuse_inference_mode()
    _checks.count("batch_size", batch_size)
    _check_generator(generator)
    objective = Objective(net, problem, loss, strength, whiten, metric)
    priors = objective.priors(prior)
    plan = STANDARD if objective.standard else PLAIN
    peak = plan.peak(objective.dim) if learning_rate is None else learning_rate
    rates = checked_rates(peak, schedule, steps)
    target = objective.target(priors)
    if target is not None:
        warn_if_out_of_reach(net, target)

    source = batches(priors, objective.dim, generator, plan.shift)
    validation = _validation(objective, priors, batch_size, steps, patience)

    def batch_loss(step: int) -> Tensor:
        size = batch_size * plan.growth(step, steps)
        x, z = objective.data(*source.draw_with_noise(size))
        return objective.loss(x, z, generator)

    kinds = [type(each).__qualname__ for each in priors]
    settings = {**objective.settings(), "batch_size": batch_size, "prior": kinds}
    file = _checkpoint(checkpoint, checkpoint_every, settings, generator, source)
    work = batch_size * evaluation_work(net)
    return _run(
        net,
        batch_loss,
        rates,
        optimizer,
        schedule,
        work=work,
        threads=threads,
        name=objective.description,
        callback=callback,
        validation=validation,
        checkpoint=file,
        target=target,
        progress=progress,
    )


def minimize(
    net: nn.Module,
    loss: Callable[[int], Tensor],
    steps: int,
    *,
    learning_rate: float = PEAK,
    optimizer: Optimizer = SOAP,
    schedule: Schedule = warm_up_and_cosine,
    callback: Callback | None = None,
    held_out: Callable[[], Tensor] | None = None,
    patience: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 100,
    generator: torch.Generator | None = None,
    sampler: Stateful | None = None,
    threads: int | None = None,
    name: str = "the loss",
    progress: bool = False,
) -> History:
    """Minimize any loss over the parameters of any module, in place, by the method of `train`.

    Args:
        net: the module.
        loss: the loss of a step, given its number: a scalar, or (E,) for members that do not share parameters.
        steps: number of gradient steps.
        learning_rate: its peak.
        optimizer: as for `train`.
        schedule: as for `train`.
        callback: as for `train`.
        held_out: the loss on points that are held out; if given, the weights with the least one are kept.
        patience: as for `train`; needs `held_out`.
        checkpoint: as for `train`.
        checkpoint_every: as for `train`.
        generator: the one that `loss` draws from, saved in the checkpoint; nothing else is done with it.
        sampler: what `loss` takes its points from (such as `QuasiRandom`), saved in the checkpoint.
        threads: as for `train`; the work of a step is taken to be that of a batch of 256.
        name: of the loss, for the progress bar and for errors.
        progress: show a progress bar.

    Raises:
        ValueError: if an argument does not fit, or the loss is no scalar and not (E,); names it.
        TypeError: if an argument is of a wrong kind, names it.
        TrainingError: if the loss is not finite.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> y = torch.tensor([[1.0], [2.0], [3.0]])
        >>> history = minimize(layer, lambda step: (layer(x) - y).square().mean(), 300)
        >>> bool(history.loss[-1] < 1e-3)
        True
    """
    _refuse_inference_mode()
    _check_generator(generator)
    check_network(net, mixed=True)
    if not callable(loss):
        raise TypeError(
            f"loss must be a function of the number of the step, got {loss!r}"
        )
    factors = checked_rates(learning_rate, schedule, steps)
    file = _checkpoint(checkpoint, checkpoint_every, {"loss": name}, generator, sampler)
    work = 256 * evaluation_work(net)
    return _run(
        net,
        loss,
        factors,
        optimizer,
        schedule,
        work=work,
        threads=threads,
        name=name,
        callback=callback,
        validation=_checked_validation(held_out, steps, patience),
        checkpoint=file,
        target=None,
        progress=progress,
    )


def _run(
    net: nn.Module,
    loss: Callable[[int], Tensor],
    rates: tuple[float, list[float]],
    optimizer: Optimizer,
    schedule: Schedule,
    *,
    work: float,
    threads: int | None,
    name: str,
    callback: Callback | None,
    validation: Validation | None,
    checkpoint: Checkpoint | None,
    target: Target | None,
    progress: object,
) -> History:
    """The part that `train` and `minimize` have in common."""
    if callback is not None and not callable(callback):
        raise TypeError(
            f"callback must be a function of a TrainingStep, got {callback!r}"
        )
    if not isinstance(progress, bool):
        raise ValueError(f"progress must be True or False, got {progress!r}")

    learning_rate, factors = rates
    parameters = [
        parameter for parameter in net.parameters() if parameter.requires_grad
    ]
    built = _built(optimizer, parameters, learning_rate)
    if checkpoint is not None:
        checkpoint.settings.update(
            steps=len(factors),
            learning_rate=learning_rate,
            optimizer=type(built).__qualname__,
            schedule=getattr(schedule, "__qualname__", type(schedule).__qualname__),
            shapes=[list(parameter.shape) for parameter in parameters],
            dtypes=[str(parameter.dtype) for parameter in parameters],
        )

    loop = Loop(
        net=net,
        parameters=parameters,
        loss=loss,
        factors=factors,
        learning_rate=learning_rate,
        optimizer=built,
        name=name,
        callback=callback,
        validation=validation,
        checkpoint=checkpoint,
        target=target,
        shown=progress,
    )
    with one_thread_if_small(work, threads), _full_precision(parameters[0]):
        return loop.run()


def _built(
    optimizer: Optimizer, parameters: list[nn.Parameter], learning_rate: float
) -> torch.optim.Optimizer:
    if not callable(optimizer):
        raise TypeError(
            f"optimizer must be called as optimizer(parameters, lr=...), got {optimizer!r}"
        )

    built = optimizer(parameters, lr=learning_rate)
    if not isinstance(built, torch.optim.Optimizer):
        raise TypeError(f"optimizer must return a torch.optim.Optimizer, got {built!r}")
    return built


def _full_precision(parameter: Tensor) -> AbstractContextManager[Any]:
    """Gradients are recorded, and nothing is cast to half precision, whatever the caller's settings are."""
    stack = ExitStack()
    stack.enter_context(torch.enable_grad())
    stack.enter_context(torch.autocast(parameter.device.type, enabled=False))
    return stack


def _refuse_inference_mode() -> None:
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "a training must run outside of torch.inference_mode, in which there are no gradients"
        )


def _check_generator(generator: object) -> None:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator or None, got {generator!r}"
        )


def _checkpoint(
    path: object,
    every: object,
    settings: dict[str, Any],
    generator: torch.Generator | None,
    sampler: Stateful | None,
) -> Checkpoint | None:
    every = _checks.count("checkpoint_every", every)
    if path is None:
        return None

    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"checkpoint must be the path of a file, got {path!r}")
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise ValueError(
            f"checkpoint must be a file in a folder that exists, got {path!r}"
        )
    return Checkpoint(path, every, settings, generator, sampler)


def _validation(
    objective: Objective,
    priors: Sequence[Sampler],
    batch_size: int,
    steps: int,
    patience: int | None,
) -> Validation | None:
    """The loss on the points that the members' data sets hold out, always with the same noise."""
    parts = [
        prior.held_out
        for prior in priors
        if isinstance(prior, Samples) and len(prior.held_out)
    ]
    if not parts:
        return _checked_validation(None, steps, patience)
    if len(parts) < len(priors) or len({len(part) for part in parts}) > 1:
        raise ValueError(
            "prior must hold out the same number of points for every member"
        )

    points = torch.stack(parts)
    noise = torch.randn(points.shape, dtype=torch.float64, generator=_fixed_generator())
    x, z = objective.data(points, noise)

    def held_out() -> Tensor:
        """The mean over batches, so that no more memory is needed than in training."""
        generator = _fixed_generator()
        total, size = torch.zeros(()).to(x), 4 * batch_size
        for part in zip(
            torch.split(x, size, dim=-2), torch.split(z, size, dim=-2), strict=True
        ):
            share = part[0].shape[-2] / x.shape[-2]
            total = total + share * objective.loss(*part, generator).detach()
        return total

    return _checked_validation(held_out, steps, patience)


def _fixed_generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _checked_validation(
    loss: Callable[[], Tensor] | None, steps: int, patience: int | None
) -> Validation | None:
    if patience is not None:
        _checks.count("patience", patience)
        if loss is None:
            raise ValueError(
                "patience must be None where no points are held out (`Samples(..., held_out=share)`)"
            )
    return None if loss is None else Validation(loss, steps, patience)
