"""The directive ``{benchmark} TOPIC``: the table of one topic of ``benchmarks/results.json``.

The page that shows the benchmarks holds no number of its own: its tables are made from the file of results when the
book is built. An option ``:columns:`` chooses columns, separated by semicolons; without it all are shown. Below each
table stand the machine, the versions and the date of that measurement.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from glued_numbers import parts_of
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results.json"


def as_text(value: object) -> str:
    """Return a cell of a table, as Markdown: numbers with three digits, small ones with two and a power of ten."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if value == 0 or abs(value) >= 1e-3:
        return f"{value:#.3g}".rstrip(".")
    return "".join(line + (f"{{sup}}`{exponent}`" if exponent else "") for line, exponent in parts_of(f"{value:.1e}"))


def table(rows: list[dict[str, object]], columns: list[str] | None = None) -> list[str]:
    """Return rows as the lines of a Markdown table; its columns are those asked for, or the keys of all rows."""
    columns = columns or list(dict.fromkeys(key for row in rows for key in row))
    numbers = [all(isinstance(row.get(column, 0), (int, float)) for row in rows) for column in columns]
    rule = "|" + "".join("--:|" if number else ":--|" for number in numbers)
    body = ["| " + " | ".join(as_text(row.get(column, "")) for column in columns) + " |" for row in rows]
    return ["| " + " | ".join(columns) + " |", rule, *body]


def machine(about: dict[str, Any]) -> str:
    """Return a sentence on where and when a topic was measured."""
    peers = ", ".join(f"{name} {version}" for name, version in about["peers"].items())
    return (
        f"*Measured on {about['date']}: {about['cpu']}, {about['cores']} cores, Python {about['python']}, "
        f"torch {about['torch']}, {peers}; load of the machine at the end {about['load']}.*"
    )


class Benchmark(SphinxDirective):
    """The directive ``{benchmark}``."""

    required_arguments = 1
    option_spec = {"columns": directives.unchanged}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """Return the table of the topic and where it was measured."""
        self.env.note_dependency(str(RESULTS))
        topics = json.loads(RESULTS.read_text(encoding="utf-8"))["topics"]
        topic = topics.get(self.arguments[0])
        if topic is None:
            raise self.error(f"no topic {self.arguments[0]!r} in {RESULTS.name}; there are {', '.join(topics)}")
        columns = [name.strip() for name in self.options.get("columns", "").split(";") if name.strip()]
        lines = [*table(topic["rows"], columns), "", machine(topic["machine"])]
        node = nodes.container()
        self.state.nested_parse(StringList(lines, source=str(RESULTS)), 0, node)
        return node.children


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive with Sphinx."""
    app.add_directive("benchmark", Benchmark)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
