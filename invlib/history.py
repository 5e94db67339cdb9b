"""What a training leaves behind: its history, what a callback sees, and the error when it fails."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from invlib.targets import Target


@dataclass(frozen=True)
class TrainingStep:
    """What a callback sees after each step.

    Attributes:
        step: the number of steps done, from 1 on.
        steps: the number of steps of the whole training.
        loss: the loss of this step's batch, before the step: a scalar, or (E,) with members.
        learning_rate: of this step.
        net: the network itself, not a copy.
    """

    step: int
    steps: int
    loss: Tensor
    learning_rate: float
    net: nn.Module


@dataclass(frozen=True, repr=False)
class History:
    """What happened during training.

    Attributes:
        loss: (steps done,), or (steps done, E) with members: the loss of each batch.
        learning_rate: (steps done,).
        seconds: wall-clock time of the steps, of all parts of a training that was continued.
        stopped: why it ended before the last step: "interrupted" (Ctrl-C), "callback", "patience"; otherwise None.
        held_out: the loss on the points held out, (V,) or (V, E); None if there are none.
        held_out_steps: the number of steps done at each of these, (V,). The last belongs to the averaged weights.
        kept: the number of steps after which the network had the weights that were kept.
    """

    loss: Tensor
    learning_rate: Tensor
    seconds: float
    stopped: str | None = None
    held_out: Tensor | None = None
    held_out_steps: Tensor | None = None
    kept: int = 0
    target: Target | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        last = self.loss[-1].mean().item() if len(self.loss) else math.nan
        ended = f", stopped={self.stopped!r}" if self.stopped else ""
        steps = len(self.loss)
        return (
            f"History({steps} steps, {self.seconds:.1f} s, last loss {last:.4g}{ended})"
        )

    @cached_property
    def minimum(self) -> float | Tensor | None:
        """The infimum of the loss over all maps, a float or (E,); None where it is unknown.

        It is computed when it is first asked for: for the divergence, from the prior's score.
        """
        return None if self.target is None else self.target.minimum()

    @property
    def excess(self) -> Tensor | None:
        """Half the mean square distance to the minimizer, up to sampling (the loss above its minimum), or None.

        Single batches may come out below zero.
        """
        return None if self.minimum is None else self.loss - self.minimum

    @cached_property
    def negative_curvature(self) -> float | Tensor | None:
        r"""The share of the prior at which Corollary 1 fails, a float or (E,); None where it is unknown.

        There $H - \hat\delta^2 \nabla^2 \log p$ is not positive definite. If the share is not zero, the minimizer of
        the divergence loss does not invert to the MAP estimate everywhere, however long the training is.
        """
        return None if self.target is None else self.target.negative_curvature()

    def __getstate__(self) -> dict[str, Any]:
        """Without the prior, which may not be picklable; what is known of the minimizer is computed before."""
        known = {"minimum": self.minimum, "negative_curvature": self.negative_curvature}
        return {**self.__dict__, **known, "target": None}


class TrainingError(RuntimeError):
    """The loss, or the weights, became infinite or not a number.

    Attributes:
        history: what happened until then; the network has the last weights whose loss was finite.
    """

    def __init__(self, message: str, history: History | None = None) -> None:
        super().__init__(message)
        self.history = history
