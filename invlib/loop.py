"""The loop behind `train` and `minimize`: steps, averaged weights, stops, and the best weights on points held out."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.linalg import LinAlgError

from invlib import _checks
from invlib.checkpoint import Checkpoint
from invlib.history import History, TrainingError, TrainingStep
from invlib.progress import progress
from invlib.targets import Target

AVERAGED = 0.05
"""The share of the steps, at the end of a training, whose weights are averaged."""

LOOKS = 50
"""How often the loss on the points held out is computed during a training."""

Optimizer = Callable[..., torch.optim.Optimizer]
"""Called as `optimizer(parameters, lr=learning_rate)`."""

Schedule = Callable[[int, int], float]
"""The factor of the learning rate in step `step` = 0, 1, ... of `steps`."""

Callback = Callable[[TrainingStep], bool | None]
"""Called after each step; True stops the training."""


class Weights:
    """The trainable parameters of a network, and the values of them that a training keeps.

    Attributes:
        average: the mean of the weights that were added so far, `averaged` of them.
        finite: the last weights whose loss was finite.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.average: list[Tensor] = []
        self.averaged = 0
        self.finite = self.values()

    def values(self) -> list[Tensor]:
        """Return a copy."""
        return [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def set(self, values: list[Tensor]) -> None:
        """Give the network these values."""
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    @torch.no_grad()
    def mark_finite(self) -> None:
        """Remember the present values as the last good ones."""
        for kept, parameter in zip(self.finite, self.parameters, strict=True):
            kept.copy_(parameter)

    @torch.no_grad()
    def add_to_average(self) -> None:
        """Take the present values into the average."""
        if self.averaged == 0:
            self.average = self.values()
        else:
            for mean, parameter in zip(self.average, self.parameters, strict=True):
                mean.copy_(mean + (parameter - mean) / (self.averaged + 1))
        self.averaged += 1

    def are_finite(self) -> bool:
        """Whether every parameter is a number."""
        return all(
            bool(torch.isfinite(parameter).all()) for parameter in self.parameters
        )


class Validation:
    """The loss on points that are held out, seen every few steps, and the weights with the least one.

    Args:
        loss: computes it, a scalar or (E,).
        steps: of the whole training.
        patience: steps without a better loss after which the training stops; None means never.
    """

    def __init__(
        self, loss: Callable[[], Tensor], steps: int, patience: int | None
    ) -> None:
        self.loss = loss
        self.patience = patience
        self.every = max(1, min(steps // LOOKS, patience or steps))
        self.losses: list[Tensor] = []
        self.steps: list[int] = []
        self.best = float("inf")
        self.best_step = 0
        self.best_weights: list[Tensor] = []

    def look(self, step: int, weights: Weights) -> None:
        """Compute the loss after `step` steps, and keep the weights if it is the least so far."""
        value = self.loss().detach()
        self.losses.append(value)
        self.steps.append(step)
        mean = float(value.mean())  # members share the step at which they are kept
        if mean < self.best:
            self.best, self.best_step, self.best_weights = mean, step, weights.values()

    def is_due(self, step: int, last: int) -> bool:
        """Whether to look after `step` steps; after the last one, the averaged weights are looked at instead."""
        return step % self.every == 0 and step not in (last, *self.steps[-1:])

    def is_exhausted(self, step: int) -> bool:
        """Whether the loss has not become better for too many steps."""
        return (
            self.patience is not None
            and bool(self.steps)
            and step - self.best_step >= self.patience
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes."""
        losses = torch.stack(self.losses) if self.losses else torch.empty(0)
        kept = {
            "best": self.best,
            "best_step": self.best_step,
            "best_weights": self.best_weights,
        }
        return {"losses": losses, "steps": self.steps, **kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where another one was."""
        self.losses, self.steps = list(state["losses"]), list(state["steps"])
        self.best, self.best_step = state["best"], state["best_step"]
        self.best_weights = state["best_weights"]


@dataclass
class Loop:
    """A training between two steps, and how a step changes it.

    Attributes:
        net: the network.
        parameters: those of its parameters that are trained.
        loss: the loss of a step, given its number.
        factors: of the learning rate, for each step.
        learning_rate: its peak.
        optimizer: of the parameters, at the peak learning rate.
        name: of the loss, for the progress bar and for errors.
        callback: or None.
        validation: or None.
        checkpoint: or None.
        target: what is known about the minimizer, for the history.
        shown: whether to show a progress bar.
    """

    net: nn.Module
    parameters: list[nn.Parameter]
    loss: Callable[[int], Tensor]
    factors: list[float]
    learning_rate: float
    optimizer: torch.optim.Optimizer
    name: str
    callback: Callback | None = None
    validation: Validation | None = None
    checkpoint: Checkpoint | None = None
    target: Target | None = None
    shown: bool = False

    done: int = field(default=0, init=False)
    losses: list[Tensor] = field(default_factory=list, init=False)
    seconds: float = field(default=0.0, init=False)
    stopped: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.weights = Weights(self.parameters)
        self.base_rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.updating = False
        self.marked = self.kept = 0
        self.started = time.perf_counter()

    @property
    def steps(self) -> int:
        """The number of steps of the whole training."""
        return len(self.factors)

    def run(self) -> History:
        """Do all steps that are missing, or those until a stop; leave the best weights in the network."""
        self._resume()
        bar = progress(self.name, self.steps, self.done, self.shown)
        try:
            while self.done < self.steps and not self._is_stopped():
                self._step()
                bar.update()
            self._save()
        except KeyboardInterrupt:
            self._interrupted()
        except TrainingError:
            raise
        except Exception as error:
            # Of a network whose weights, or their gradients, are no longer finite, anything may fail.
            if self.weights.are_finite() and not isinstance(error, LinAlgError):
                raise
            raise self._failed(
                f"could not be computed after {self.done} steps"
            ) from error
        finally:
            bar.close()

        self._keep_weights()
        return self._history()

    def _step(self) -> None:
        value = self._checked(self.loss(self.done))
        self.weights.mark_finite()
        self.marked = self.done
        self.optimizer.zero_grad()
        value.sum().backward()

        self.updating = True
        for group, rate in zip(
            self.optimizer.param_groups, self.base_rates, strict=True
        ):
            group["lr"] = rate * self.factors[self.done]
        self.optimizer.step()
        self.losses.append(value.detach())
        self.done += 1
        if self.done > (1 - AVERAGED) * self.steps:
            self.weights.add_to_average()
        if self.checkpoint is not None:
            self.checkpoint.mark()
        self.updating = False

        self._look()
        self._call_back(value.detach())
        if self.checkpoint is not None and self.done % self.checkpoint.every == 0:
            self._save()

    def _checked(self, value: object) -> Tensor:
        """The loss, if it is a number that depends on the parameters."""
        if not isinstance(value, Tensor):
            raise TypeError(f"loss must return a tensor, got {value!r}")
        if value.ndim > 1 or not value.is_floating_point():
            found = f"shape {tuple(value.shape)} and {value.dtype}"
            raise ValueError(
                f"loss must return a real scalar, or one number for each member, (E,), got {found}"
            )
        if self.losses and value.shape != self.losses[0].shape:
            shapes = tuple(self.losses[0].shape), tuple(value.shape)
            raise ValueError(
                f"loss must return the same shape in every step, got {shapes[0]}, then {shapes[1]}"
            )
        if not bool(torch.isfinite(value).all()):
            raise self._failed(f"became {value.tolist()} after {self.done} steps")
        if not value.requires_grad:
            raise ValueError(
                "loss must depend on the parameters of net by differentiable operations"
            )
        return value

    def _look(self) -> None:
        if self.validation is not None and self.validation.is_due(
            self.done, self.steps
        ):
            self.validation.look(self.done, self.weights)

    def _call_back(self, value: Tensor) -> None:
        if self.callback is None:
            return

        rate = self.learning_rate * self.factors[self.done - 1]
        answer: object = self.callback(
            TrainingStep(self.done, self.steps, value, rate, self.net)
        )
        if (
            isinstance(answer, Tensor)
            and answer.dtype == torch.bool
            and answer.numel() == 1
        ):
            answer = bool(answer)
        if answer is not None and not isinstance(answer, (bool, np.bool_)):
            raise TypeError(
                f"callback must return True to stop the training, False or None, got {answer!r}"
            )
        if answer:
            self.stopped = "callback"

    def _is_stopped(self) -> bool:
        if self.validation is not None and self.validation.is_exhausted(self.done):
            self.stopped = "patience"
        return self.stopped is not None

    def _interrupted(self) -> None:
        """Go back to the last whole step."""
        self.stopped = "interrupted"
        if not self.updating:
            self._save()
            return

        self.weights.set(self.weights.finite)
        self.done = self.marked
        del self.losses[self.done :]

    def _failed(self, what: str) -> TrainingError:
        """Go back to the last weights with a finite loss, and return the error to raise."""
        self.weights.set(self.weights.finite)
        self.kept = self.marked
        return TrainingError(f"{self.name} {what}", self._history())

    def _keep_weights(self) -> None:
        """Leave the averaged weights in the network, or those that did best on the points held out."""
        self.kept = self.done
        averaged = self.weights.averaged > 0
        if averaged:
            self.weights.set(self.weights.average)
        if not self.weights.are_finite():
            raise self._failed(f"led to infinite weights after {self.done} steps")
        if self.validation is None:
            return

        if averaged or self.validation.steps[-1:] != [self.done]:
            self.validation.look(self.done, self.weights)
        if self.validation.best_weights:
            self.weights.set(self.validation.best_weights)
            self.kept = self.validation.best_step

    def _history(self) -> History:
        held_out = None if self.validation is None else self.validation.state_dict()
        rates = [self.learning_rate * factor for factor in self.factors[: self.done]]
        return History(
            loss=torch.stack(self.losses) if self.losses else torch.empty(0),
            learning_rate=torch.tensor(rates),
            seconds=self.seconds + time.perf_counter() - self.started,
            stopped=self.stopped,
            held_out=None if held_out is None else held_out["losses"],
            held_out_steps=None
            if held_out is None
            else torch.tensor(held_out["steps"]),
            kept=self.kept,
            target=self.target,
        )

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        self.checkpoint.save(
            {
                "done": self.done,
                "losses": torch.stack(self.losses) if self.losses else torch.empty(0),
                "seconds": self.seconds + time.perf_counter() - self.started,
                "net": self.net.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.weights.average,
                "averaged": self.weights.averaged,
                "validation": None
                if self.validation is None
                else self.validation.state_dict(),
            }
        )

    def _resume(self) -> None:
        """Take over the state in the checkpoint, if there is one."""
        if self.checkpoint is None:
            return

        state = self.checkpoint.load()
        self.checkpoint.mark()
        if state is None:
            return
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        device = self.parameters[0].device
        self.done, self.seconds = state["done"], state["seconds"]
        self.losses = [loss.to(device) for loss in state["losses"]]
        self.weights = Weights(self.parameters)
        self.weights.average = [value.to(device) for value in state["average"]]
        self.weights.averaged = state["averaged"]
        if self.validation is not None:
            self.validation.load_state_dict(state["validation"])
            self._look()


def checked_rates(
    learning_rate: object, schedule: Schedule, steps: int
) -> tuple[float, list[float]]:
    """Return the peak learning rate and the factor of each step, after checking them.

    Raises:
        ValueError: if one of them is not a number, or negative.
        TypeError: if `schedule` cannot be called.
    """
    peak = _checks.positive("learning_rate", learning_rate)
    if not callable(schedule):
        raise TypeError(
            f"schedule must be a function of the step and the number of steps, got {schedule!r}"
        )

    factors = [schedule(step, steps) for step in range(_checks.count("steps", steps))]
    for step, factor in enumerate(factors):
        number = isinstance(factor, (int, float)) and not isinstance(factor, bool)
        if not number or not 0 <= factor < float("inf"):
            raise ValueError(
                f"schedule must return a number >= 0, got {factor!r} for step {step}"
            )
    return peak, factors
