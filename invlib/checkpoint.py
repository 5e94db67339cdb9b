"""A training on disk: written as a whole or not at all, and continued only by the same training."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor


class Stateful(Protocol):
    """Something with a state that can be saved: a sampler, for example."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state: tensors, numbers, strings, and lists and dictionaries of them."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state."""


class Checkpoint:
    """A file with the state of a training, and the random numbers that belong to it.

    Args:
        path: of the file.
        every: steps between two writes.
        settings: what must agree when the training is continued.
        generator: whose state is saved; None means torch's global generator.
        sampler: whose state is saved too, or None.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        every: int,
        settings: Mapping[str, Any],
        generator: torch.Generator | None,
        sampler: Stateful | None,
    ) -> None:
        self.path = Path(path)
        self.every = every
        self.settings = dict(settings)
        self.generator = generator
        self.sampler = sampler
        self._random: dict[str, Any] = {}

    def mark(self) -> None:
        """Remember the random numbers between two steps: what is saved must not be from the middle of one."""
        self._random = {
            "generator": torch.get_rng_state()
            if self.generator is None
            else self.generator.get_state(),
            "sampler": None if self.sampler is None else self.sampler.state_dict(),
        }

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state, with the random numbers that were marked last; the old file stays until the new one is."""
        part = self.path.with_name(self.path.name + ".part")
        torch.save({"settings": self.settings, **self._random, **state}, part)
        os.replace(part, self.path)

    def load(self) -> dict[str, Any] | None:
        """Return the state in the file, and go on with its random numbers; None if there is no file.

        Raises:
            ValueError: if the file is no checkpoint, or one of another training.
        """
        if not self.path.exists():
            return None

        state = self._read()
        for name, value in self.settings.items():
            self._compare(name, state["settings"].get(name), value)

        if self.generator is None:
            torch.set_rng_state(state["generator"])
        else:
            self.generator.set_state(state["generator"])
        if self.sampler is not None:
            self.sampler.load_state_dict(state["sampler"])
        return state

    def _read(self) -> dict[str, Any]:
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises errors of many kinds for broken files
            raise ValueError(
                f"checkpoint must be a file that a training wrote, got {self.path}: {error}"
            ) from error
        if not isinstance(state, dict) or "settings" not in state:
            raise ValueError(
                f"checkpoint must be a file that a training wrote, got {self.path}"
            )
        return state

    def _compare(self, name: str, saved: object, given: object) -> None:
        if isinstance(saved, Tensor) and isinstance(given, Tensor):
            if not torch.equal(saved, given):
                raise ValueError(
                    f"checkpoint {self.path} belongs to a training with another {name}"
                )
        elif saved != given:
            raise ValueError(
                f"checkpoint {self.path} belongs to a training with {name} = {saved}, and this one has {given}"
            )
