r"""Display formulas for wide windows: rows that were broken for a phone are joined again where there is room.

The sources break a long formula into rows that fit a phone. A row that goes on with an operator begins with ``{}``, and
one that continues the row above is indented: ``&\quad {} + ...`` or ``&\quad = ...``. Chains of relations and separate
equations keep their rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

ALIGNED = re.compile(
    r"(?:\\begin\{split\})?\s*\\begin\{aligned\}(?P<rows>.*)\\end\{aligned\}\s*(?:\\end\{split\})?", re.DOTALL
)
ROW_END = re.compile(r"\\\\(?:\s*\[[^\]]*\])?")
INDENT = re.compile(r"^(?:\\qquad|\\quad|\\ |\\,|\s)+")
OPERATOR = re.compile(r"\{\}|\\times\b|\\cdot\b")
RELATION = re.compile(r":?=|<|>|\\(?:leq?|geq?|approx|sim|to|in|succeq|preceq|propto|equiv)\b")
OPENING, CLOSING = re.compile(r"[{(\[]|\\l[vV]ert\b"), re.compile(r"[})\]]|\\r[vV]ert\b")


@dataclass
class Row:
    """What stands before and behind the mark of alignment."""

    before: str
    behind: str

    @property
    def has_relation(self) -> bool:
        """Whether there is a relation outside of all brackets."""
        depth = 0
        for place in range(len(self.behind)):
            if not depth and RELATION.match(self.behind, place):
                return True
            depth += bool(OPENING.match(self.behind, place)) - bool(CLOSING.match(self.behind, place))
        return False


def rows_of(tex: str) -> list[Row] | None:
    """Return the rows of a formula that is nothing but aligned rows, each with one mark; None for any other."""
    found = ALIGNED.fullmatch(tex.strip())
    if found is None or "\\begin" in found["rows"]:
        return None
    rows = [row for row in ROW_END.split(found["rows"]) if row.strip()]
    if any(row.count("&") != 1 for row in rows):
        return None
    return [Row(*map(str.strip, row.split("&"))) for row in rows]


def joined(rows: list[Row], fits: Callable[[str], bool]) -> list[Row]:
    """Return fewer rows: each is joined with the one before if it continues it, and if both fit into a line."""
    made: list[Row] = []
    turned = False  # the first row, which had no relation, now stands before the mark
    for row in rows:
        core = INDENT.sub("", row.behind)
        together = f"{made[-1].before} {made[-1].behind} {core}" if made and not row.before else ""
        if together and OPERATOR.match(core) and fits(together):
            made[-1].behind += f" {core}"
        elif together and RELATION.match(core) and is_open(made) and fits(together):
            made[-1], turned = Row(made[-1].behind, core), True
        else:
            made.append(Row(row.before, core if turned and RELATION.match(core) else row.behind))
    return made


def is_open(rows: list[Row]) -> bool:
    """Whether a formula has only begun: one row, without a relation."""
    return len(rows) == 1 and not rows[0].before and not rows[0].has_relation


def widened(tex: str, fits: Callable[[str], bool]) -> str | None:
    """Return a formula with fewer rows for a wide window; None if there is none that fits."""
    rows = rows_of(tex)
    if rows is None:
        return None
    made = joined(rows, fits)
    if len(made) == 1:
        return f"{made[0].before} {made[0].behind}".strip()
    body = " \\\\ ".join(f"{row.before} & {row.behind}" for row in made)
    wide = f"\\begin{{aligned}} {body} \\end{{aligned}}"
    return wide if len(made) < len(rows) and fits(wide) else None
