"""What an exercise asks, and how an answer is judged: the right answer is computed, and so are the usual wrong ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from numbers import Real
from typing import Any

import torch
from torch import Tensor

Maker = Callable[..., Any]


@dataclass(frozen=True)
class Mistake:
    """A usual wrong answer.

    Attributes:
        says: the sentence that teaches; it must not give the answer away.
        answer: what makes the wrong answer, of the same arguments as the right one.
    """

    says: str
    answer: Maker


@dataclass(frozen=True, eq=False)
class Question:
    """One question of an exercise.

    Attributes:
        label: of the exercise on its page.
        asks: what the answer is to be, in a sentence of Markdown.
        right: what makes the right answer, of the arguments in `inputs`.
        mistakes: the usual wrong answers, the first that fits is told.
        part: the letter of the question in its exercise, if there are several.
        takes: the arguments of the function that is asked for; empty if a value is.
        inputs: the arguments on which a function is tried.
        rtol: what an answer may be off, relative to each of its numbers.
        atol: what it may be off in any case; by default a ten-thousandth of the largest number.
        read: what is looked at instead of the answer itself, of the answer and the arguments.
    """

    label: str
    asks: str
    right: Maker
    mistakes: tuple[Mistake, ...]
    part: str = ""
    takes: str = ""
    inputs: tuple[tuple[Any, ...], ...] = ((),)
    rtol: float = 5e-3
    atol: float | None = None
    read: Maker | None = None

    @property
    def name(self) -> str:
        """The label, and the letter if there is one."""
        return f"{self.label}-{self.part}" if self.part else self.label

    @property
    def variable(self) -> str:
        """The name that the answer has in a notebook."""
        return self.name.removeprefix("ex-").replace("-", "_")

    def solution(self) -> Any:
        """Return the right answer: a value or a function."""
        return self.right if self.takes else self.right()


class NotYet(Exception):  # noqa: N818
    """An answer is wrong. In a notebook only its sentence is shown."""

    def _render_traceback_(self) -> list[str]:
        return [f"Not yet. {self}"]


class Gap(NotYet):
    """There is no answer yet."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def times(factor: float, right: Maker) -> Maker:
    """Return what makes the right answer times a factor."""
    return lambda *arguments: factor * torch.as_tensor(right(*arguments), dtype=torch.float64)


def judge(question: Question, answer: Any) -> None:
    """Judge an answer.

    Raises:
        Gap: if there is no answer yet.
        NotYet: if it is wrong, with a sentence that teaches if the mistake is a usual one.
    """
    found = [given(question, answer, arguments) for arguments in question.inputs]
    wanted = expected(question)
    check_form(question, found, wanted)
    if agree(question, found, wanted):
        return
    for mistake in question.mistakes:
        wrong = [looked_at(question, mistake.answer, arguments) for arguments in question.inputs]
        if agree(question, found, wrong):
            raise NotYet(mistake.says)
    hint = "Try it on a case that you can do by hand." if question.takes else "Try to find it in a second way."
    raise NotYet(f"This is none of the usual mistakes. {hint}")


def given(question: Question, answer: Any, arguments: tuple[Any, ...]) -> Any:
    """Return what is looked at in an answer.

    Raises:
        Gap: if there is no answer yet.
        NotYet: if a function is asked for and there is none, or the reverse, or it fails.
    """
    empty = f"Here is a gap: {question.name} has no answer yet. Fill it in, and run on."
    if answer is None or answer is ...:
        raise Gap(empty)
    if callable(answer) != bool(question.takes):
        wanted = f"a function of ({question.takes})" if question.takes else "a value, not a function"
        raise NotYet(f"{question.name} asks for {wanted}.")
    if not question.takes:
        return plain(answer)
    try:
        value = call(answer, arguments) if question.read is None else question.read(filled(answer, empty), *arguments)
    except NotYet:
        raise
    except Exception as error:
        raise NotYet(f"Your function raises {type(error).__name__}: {error}") from None
    if value is None or value is ...:
        raise Gap(empty)
    return plain(value)


@cache
def expected(question: Question) -> list[Any]:
    """Return the right answer for all inputs."""
    return [looked_at(question, question.right, arguments) for arguments in question.inputs]


def filled(function: Maker, empty: str) -> Maker:
    """Return a function of a reader that does not pass a gap on."""

    def value(*arguments: Any) -> Any:
        found = function(*arguments)
        if found is None or found is ...:
            raise Gap(empty)
        return found

    return value


def looked_at(question: Question, maker: Maker, arguments: tuple[Any, ...]) -> Any:
    """Return what is looked at in an answer of our own."""
    if question.read is not None:
        return plain(question.read(maker, *arguments))
    return plain(maker(*arguments))


def call(function: Maker, arguments: tuple[Any, ...]) -> Any:
    """Call a function of a reader: it may be written for tensors or for floats."""
    tensors = [torch.tensor(each, dtype=torch.float64) if isinstance(each, float) else each for each in arguments]
    try:
        return function(*tensors)
    except (TypeError, RuntimeError, AttributeError):
        return function(*arguments)


def plain(value: Any) -> Any:
    """Return an answer as a tensor of float64, or words as a list of lower-case words.

    Raises:
        NotYet: if it is neither numbers nor words.
    """
    if isinstance(value, str):
        return value.strip().lower()
    if isinstance(value, Iterable) and not hasattr(value, "__array__"):
        items = [plain(item) for item in value]
        if items and all(isinstance(item, str) for item in items):
            return items
        if not items or any(not isinstance(item, Tensor) or item.shape != items[0].shape for item in items):
            raise NotYet("The answer should be a number, an array of numbers, or words.")
        return torch.stack(items)
    try:
        if isinstance(value, Tensor):
            return value.detach().cpu().to(torch.float64)
        return torch.as_tensor(float(value) if isinstance(value, Real) else value).to(torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise NotYet(f"The answer should be a number, an array or words, not {type(value).__name__}.") from None


def check_form(question: Question, found: list[Any], wanted: list[Any]) -> None:
    """Check that an answer has as many numbers as it should, or words where words are asked for.

    Raises:
        NotYet: if not.
    """
    for mine, right in zip(found, wanted, strict=True):
        if isinstance(mine, Tensor) != isinstance(right, Tensor):
            raise NotYet(f"{question.name} asks for {'numbers' if isinstance(right, Tensor) else 'words'}.")
        if isinstance(mine, Tensor) and mine.squeeze().shape != right.squeeze().shape:
            raise NotYet(f"The shape is {tuple(mine.shape)}; {question.name} asks for {tuple(right.shape)}.")
        if isinstance(mine, Tensor) and not mine.isfinite().all():
            raise NotYet("There is a number in it that is not finite.")


def agree(question: Question, found: list[Any], wanted: list[Any]) -> bool:
    """Tell whether two answers are the same for all inputs, within the tolerance."""
    return all(close(question, mine, other) for mine, other in zip(found, wanted, strict=True))


def close(question: Question, mine: Any, other: Any) -> bool:
    """Tell whether two answers are the same for one input."""
    if not isinstance(mine, Tensor) or not isinstance(other, Tensor):
        return bool(mine == other) if type(mine) is type(other) else False
    mine, other = mine.squeeze(), other.squeeze()
    if mine.shape != other.shape or not other.isfinite().all():
        return False
    largest = float(other.abs().max()) if other.numel() else 0.0
    floor = question.atol if question.atol is not None else max(1e-4 * largest, 1e-12)
    return bool(((mine - other).abs() <= floor + question.rtol * other.abs()).all())


def sqrt(value: Any) -> float:
    """Return the root of a number of any kind."""
    return math.sqrt(float(value))
