"""A finite data set in the place of a prior."""

from typing import Any

import torch
from torch import Tensor

from invlib import _checks


class Samples:
    r"""A finite set of points of R^n as the distribution of x: what `train` needs, and no more.

    `train` takes minibatches without replacement: every point once in each epoch, in an order drawn anew. It keeps the
    held-out part apart, records its loss, and keeps the weights with the least one.

    A data set has no density: the exact estimators, the score and the MAP need a prior with `log_prob`.

    Args:
        points: (N, n), an array or a tensor of finite numbers.
        held_out: the share of the points that is held out, 0 <= share < 1. Which points, is drawn at random.
        seed: of this draw.

    Attributes:
        training: the points to train on, (N_t, n), float64.
        held_out: the points held out, (N - N_t, n), float64.
        dim: the dimension n.

    Raises:
        ValueError: if `points` is no finite matrix, or `held_out` leaves one of the two parts empty.

    Example:
        >>> samples = Samples(torch.arange(10.0).reshape(5, 2), held_out=0.4)
        >>> samples
        Samples(3 points, 2 held out, dim=2)
        >>> samples.sample(2, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 2])
    """

    def __init__(self, points: object, *, held_out: float = 0.0, seed: int = 0) -> None:
        points = _checks.as_float64("points", points)
        if points.ndim != 2 or 0 in points.shape:
            raise ValueError(
                f"points must have shape (N, n), got {tuple(points.shape)}"
            )
        self.dim = points.shape[1]

        left_out = _held_out_count(held_out, len(points))
        if left_out:
            generator = torch.Generator().manual_seed(_checks.count("seed", seed, 0))
            points = points[torch.randperm(len(points), generator=generator)]
        self.training = points[left_out:]
        self.held_out = points[:left_out]

    def __len__(self) -> int:
        """The number of points to train on."""
        return len(self.training)

    def __repr__(self) -> str:
        return f"Samples({len(self)} points, {len(self.held_out)} held out, dim={self.dim})"

    @property
    def mean(self) -> Tensor:
        """The mean of the training part, (n,), float64."""
        return self.training.mean(dim=0)

    @property
    def covariance(self) -> Tensor:
        """The covariance of the training part (divided by the number of points), (n, n), float64."""
        centred = self.training - self.mean
        return centred.mT @ centred / len(self)

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw `count` points of the training part, (count, n), float64.

        No point comes twice before all have come once. Nothing is remembered between two calls; for whole epochs over
        several calls see `epochs`.

        Raises:
            ValueError: if `count` is not a positive integer.
        """
        return self.epochs(generator).draw(count)

    def epochs(self, generator: torch.Generator | None = None) -> "Epochs":
        """Return a source of minibatches without replacement, one epoch after the other."""
        return Epochs(self.training, generator)


class Epochs:
    """Minibatches without replacement: all points in random order, then all again in another one.

    Args:
        points: (N, n).
        generator: for the orders; None means torch's global generator.
    """

    def __init__(
        self, points: Tensor, generator: torch.Generator | None = None
    ) -> None:
        self.points = points
        self.generator = generator
        self.order = torch.empty(0, dtype=torch.int64)
        self.used = 0

    def draw(self, count: int) -> Tensor:
        """Return the next `count` points, (count, n); a batch may reach over several epochs.

        Raises:
            ValueError: if `count` is not a positive integer.
        """
        missing = _checks.count("count", count)
        chosen = []
        while missing > 0:
            if self.used == len(self.order):
                self.order = torch.randperm(len(self.points), generator=self.generator)
                self.used = 0

            part = self.order[self.used : self.used + missing]
            chosen.append(part)
            self.used += len(part)
            missing -= len(part)
        return self.points[torch.cat(chosen)]

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands: the order of this epoch, and how much of it was used."""
        return {"order": self.order, "used": self.used}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where another one over the same points stood.

        Raises:
            ValueError: if the other one had another number of points.
        """
        if len(state["order"]) not in (0, len(self.points)):
            raise ValueError(
                f"state must belong to {len(self.points)} points, got one of {len(state['order'])}"
            )
        self.order = state["order"]
        self.used = state["used"]


def _held_out_count(share: object, total: int) -> int:
    """The number of points to hold out; both parts keep at least one."""
    if (
        isinstance(share, (bool, str))
        or not isinstance(share, (int, float))
        or not 0 <= share < 1
    ):
        raise ValueError(f"held_out must be a number, 0 <= held_out < 1, got {share!r}")

    count = round(share * total)
    if share > 0 and not 0 < count < total:
        raise ValueError(
            f"held_out must leave both parts at least one of the {total} points, got {share!r}"
        )
    return count
