"""The checks of the exercises: `check` tells whether an answer is right, and never what it is.

A module for each chapter says what its exercises ask. The right answers are computed there, from the library or from
the definition, and so are the usual wrong ones; each of these has a sentence that says what went wrong.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from exercises.asking import Gap, Mistake, NotYet, Question, judge

__all__ = ["CHAPTERS", "Gap", "Mistake", "NotYet", "Question", "check", "find", "questions"]

CHAPTERS = (
    "inverse-problems",
    "point-estimators",
    "tweedie",
    "residual-networks",
    "four-strategies",
    "approximation",
    "reconstruction",
    "log-determinant",
    "divergence",
    "noise-levels",
    "learned-grids",
    "ablations",
    "heat-flow",
    "error-bars",
    "nonlinear-operators",
    "signals",
    "local-fields",
    "photographs",
    "invertibility",
    "choosing",
)
"""The chapters that have exercises."""


@cache
def questions(chapter: str) -> tuple[Question, ...]:
    """Return the questions of a chapter, such as ``"divergence"``, in the order of its exercises.

    Raises:
        ValueError: if there is no such chapter.
    """
    if chapter not in CHAPTERS:
        raise ValueError(f"chapter must be one of {', '.join(CHAPTERS)}, got {chapter!r}")
    found: tuple[Question, ...] = import_module(f"exercises.{chapter.replace('-', '_')}").QUESTIONS
    return found


def find(name: str) -> Question:
    """Return the question with a name such as ``"ex-inv-hand-a"``.

    Raises:
        ValueError: if there is no such question.
    """
    for chapter in CHAPTERS:
        for question in questions(chapter):
            if question.name == name:
                return question
    raise ValueError(f"name must be that of a question, such as 'ex-inv-hand-a', got {name!r}")


def check(name: str, answer: Any) -> None:
    """Tell whether an answer is right.

    Args:
        name: of the question.
        answer: a number, a list, an array or a tensor; a function where one is asked for.

    Raises:
        Gap: if the answer is ``...`` or None.
        NotYet: if the answer is wrong.
        ValueError: if there is no such question.
    """
    judge(find(name), answer)
    print("Right.")
