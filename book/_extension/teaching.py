"""Plans for a course: the directive ``{course}`` shows one, made from the chapters and from what needs what.

A plan in ``book/prerequisites.yml`` names the number of its meetings and the chapters at which it aims. All that these
need comes in, in the order of the book. The chapters are spread over the meetings so that the longest meeting is as
short as whole chapters allow. The minutes of a chapter follow from its main line: see `minutes`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from claims import KINDS, chapter_files
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PUZZLE, STATEMENT, PICTURE, ENDING, EXERCISE = 10, 4, 2, 5, 10
"""Minutes of class for the vote on the puzzle, for a statement and a figure of the main line, for the takeaways, and
for one exercise."""

HEADING = re.compile(r"^(#+) (▸)?")
BLOCK = re.compile(rf"^:{{3,}}\{{prf:(?:{'|'.join((*KINDS, 'assumption', 'definition'))})\}}")
SOLUTION = re.compile(r"^:{3,}\{solution-start\}")
FIGURE = re.compile(r"^    name: fig-")
FILE = "prerequisites.yml"
RULE = (
    f"Minutes: {PUZZLE} for the vote on the puzzle, {STATEMENT} for each statement and {PICTURE} for each figure that "
    f"stands outside the folds, {ENDING} for the takeaways, {EXERCISE} for one exercise; where a chapter has these. "
    "They are an estimate for a class that has read nothing, without proofs; a proof at the board comes on top."
)


def main_line(text: str) -> Iterator[str]:
    """Yield the lines of a chapter that stand neither in a folded section nor in a solution."""
    level, solution, code = 0, False, False
    for line in text.splitlines():
        code ^= line.startswith("```")
        heading = None if code else HEADING.match(line)
        if heading and (not level or len(heading[1]) <= level):
            level = len(heading[1]) if heading[2] else 0
        solution = solution or bool(SOLUTION.match(line))
        if not level and not solution:
            yield line
        solution = solution and "{solution-end}" not in line


def minutes(text: str) -> int:
    """Return how long a chapter takes in class, rounded up to five minutes."""
    lines = list(main_line(text))
    found = [
        PUZZLE * any(re.match(r"## .*puzzle", line) for line in lines),
        STATEMENT * sum(bool(BLOCK.match(line)) for line in lines),
        PICTURE * sum(bool(FIGURE.match(line)) for line in lines),
        ENDING * ("## Takeaways" in lines),
        EXERCISE * ("## Exercises" in lines),
    ]
    return 5 * math.ceil(sum(found) / 5)


def needed(aims: Sequence[str], needs: Mapping[str, Sequence[str]], order: Sequence[str]) -> list[str]:
    """Return the aims and all that they need, in the order of the book.

    Raises:
        ValueError: if an aim is no chapter.
    """
    unknown = [name for name in aims if name not in needs]
    if unknown:
        raise ValueError(f"aims must be chapters, got {', '.join(unknown)}")
    found, waiting = set(), list(aims)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += needs[name]
    return [name for name in order if name in found]


def spread(durations: Sequence[int], meetings: int) -> list[range]:
    """Return the chapters of each meeting, by their numbers: in order, and the longest meeting as short as can be.

    Raises:
        ValueError: if there are fewer chapters than meetings.
    """
    if not 1 <= meetings <= len(durations):
        raise ValueError(f"meetings must be between 1 and the number of chapters, {len(durations)}, got {meetings}")
    count = len(durations)

    @cache
    def best(left: int, start: int) -> tuple[int, int, tuple[range, ...]]:
        """Return the longest meeting, the sum of squares, and the parts, for the chapters from one on."""
        if left == 1:
            total = sum(durations[start:])
            return total, total**2, (range(start, count),)
        options = []
        for end in range(start + 1, count - left + 2):
            total = sum(durations[start:end])
            longest, squares, parts = best(left - 1, end)
            options.append((max(total, longest), total**2 + squares, (range(start, end), *parts)))
        return min(options, key=lambda option: option[:2])

    return list(best(meetings, 0)[2])


def plan(
    meetings: int, aims: Sequence[str], needs: Mapping[str, Sequence[str]], durations: Mapping[str, int]
) -> list[list[str]]:
    """Return the chapters of each meeting.

    Args:
        meetings: their number.
        aims: the chapters for which the course is held.
        needs: the chapters that each chapter needs.
        durations: the minutes of each chapter, in the order of the book.
    """
    chapters = needed(aims, needs, list(durations))
    return [[chapters[number] for number in part] for part in spread([durations[name] for name in chapters], meetings)]


def table(meetings: list[list[str]], needs: Mapping[str, Sequence[str]], durations: Mapping[str, int]) -> list[str]:
    """Return a plan as a table, in lines of Markdown."""
    place = {name: number for number, names in enumerate(meetings, start=1) for name in names}
    lines = ["| Meeting | Chapter | Minutes | Builds on meeting | Slides |", "|:--|:--|--:|:--|:--|"]
    for number, names in enumerate(meetings, start=1):
        total = sum(durations[name] for name in names)
        for name in names:
            shown = f"{number} ({total}\N{NO-BREAK SPACE}min)" if name == names[0] else ""
            earlier = ", ".join(map(str, sorted({place[other] for other in needs[name]}))) or "–"
            slides = f'<a href="../slides/{name}.html">slides</a>'
            lines.append(f"| {shown} | {{doc}}`{name}` | {durations[name]} | {earlier} | {slides} |")
    return lines


class Course(SphinxDirective):
    """The directive ``{course} NAME``: a plan of the book, as a table; the first one says how minutes are counted."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Read the chapters and return the table."""
        source = Path(self.env.srcdir)
        files = [file.with_suffix(".md") for file in chapter_files(source)]
        self.env.note_dependency(str(source / "book" / FILE))
        for file in files:
            self.env.note_dependency(str(file))
        settings = yaml.safe_load((source / "book" / FILE).read_text(encoding="utf-8"))
        durations = {file.stem: minutes(file.read_text(encoding="utf-8")) for file in files}
        plans, name = settings["plans"], self.arguments[0]
        rule = ["", RULE] if name == next(iter(plans)) else []
        lines = table(plan(needs=settings["needs"], durations=durations, **plans[name]), settings["needs"], durations)
        parent = nodes.Element()
        source_name = self.env.doc2path(self.env.docname)
        self.state.nested_parse(StringList([*lines, *rule], source=source_name), 0, parent)
        return parent.children


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive with Sphinx."""
    app.add_directive("course", Course)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
