"""The directive ``{book-state} TOPIC``: what the page *State of the book* knows of the book, when it is built.

The topics are the functions of `TOPICS`. They read what other commands leave behind: the pins, the repository, the
folder ``book/state``, the certificates, and the results of the benchmarks. What is not there is said to be unknown.
"""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import mutation_table
from claims import Chapter, chapter_files, read_chapter
from docutils import nodes
from docutils.statemachine import StringList
from mutation_table import Planted, score_of
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / "book" / "state"
NOTHING = ["*Not recorded.*"]


def table(columns: Iterable[str], rows: Iterable[Iterable[object]], numbers: int) -> list[str]:
    """Return the lines of a Markdown table, of which the last columns hold numbers."""
    columns = list(columns)
    rule = [":--"] * (len(columns) - numbers) + ["--:"] * numbers
    lines = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return ["| " + " | ".join(line) + " |" for line in (columns, rule, *lines)] + [""]


def folded(title: str, lines: list[str]) -> list[str]:
    """Return lines that are shown when a reader asks for them."""
    return [f"::::{{dropdown}} {title}", "", *lines, "::::", ""]


def recorded(name: str, folder: Path | None = None) -> dict[str, Any]:
    """Return what a file of results holds, by default one of the state; nothing if there is none."""
    path = (folder or STATE) / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


@cache
def book_of(root: Path) -> list[Chapter]:
    """Return the chapters of a book; none without a table of contents."""
    return [read_chapter(file) for file in chapter_files(root)] if (root / "_toc.yml").exists() else []


def where(entry: dict[str, Any]) -> str:
    """Return on which machine something ran."""
    return f"{entry['cpu']}, {entry['cores']} cores, Python {entry['python']}, torch {entry['torch']}"


def code(text: str) -> str:
    """Return text as code of Markdown."""
    return f"`` {text} ``"


# Edition


def git(*arguments: str) -> str:
    """Return what git says of the repository of the book; nothing without one."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def commit() -> str:
    """Return the commit that the pages were built from, and whether files differ from it."""
    if git("rev-parse", "--show-prefix") or not git("rev-parse", "--show-toplevel"):
        return "unknown"
    edited = ", with changes since" if git("status", "--porcelain", "--untracked-files=no") else ""
    return f"`{git('rev-parse', '--short=12', 'HEAD')}` of {git('log', '-1', '--format=%cs')}{edited}"


def pins() -> dict[str, str]:
    """Return the pinned versions."""
    path = ROOT / "requirements.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return dict(line.split("==") for line in lines if "==" in line)


def edition(_: list[Chapter]) -> list[str]:
    """The commit, the version of the library, and what is pinned."""
    path = ROOT / "pyproject.toml"
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"] if path.exists() else {}
    python = project.get("requires-python", "unknown").removeprefix(">=")
    oldest = dict(each.split(">=") for each in project.get("dependencies", ()) if ">=" in each)
    needs = f"Python {python} and torch {oldest.get('torch', 'unknown')} or newer"
    rows = [
        ("Commit", commit()),
        ("Library", f"`invlib` {project.get('version', 'unknown')}, for {needs}"),
        *((name, pins()[name]) for name in ("torch", "numpy", "jupyter-book", "sphinx") if name in pins()),
    ]
    return [
        *table(("Edition", ""), rows, 0),
        *folded(
            f"All {len(pins())} pinned versions", [", ".join(f"{name} {version}" for name, version in pins().items())]
        ),
    ]


# Chapters


def chapters(book: list[Chapter]) -> list[str]:
    """How long each chapter ran, and where."""
    times = recorded("chapters.json")
    machines = list(dict.fromkeys(where(entry) for entry in times.values()))
    rows = []
    for chapter in book:
        entry = times.get(chapter.name)
        seconds = entry["seconds"] if entry else "—"
        on = f"{entry['date']}, {machines.index(where(entry)) + 1}" if entry else "—"
        rows.append((f"{{doc}}`{chapter.name}`", on, len(chapter.statements), seconds))
    lines = table(("Chapter", "Last run, machine", "Statements", "Seconds"), rows, 2)
    if not times:
        return [*lines, *NOTHING]
    known = [times[chapter.name]["seconds"] for chapter in book if chapter.name in times]
    lines += [f"{len(known)} of {len(book)} chapters have a recorded time, together {sum(known):,} seconds.", ""]
    return [*lines, *(f"{number}. {machine}" for number, machine in enumerate(machines, start=1)), ""]


# Tests and coverage


def group_of(file: str) -> str:
    """Return what a file of tests is about."""
    if file.endswith(".ipynb"):
        return "Cells of the chapters"
    name = Path(file).name
    if not name.startswith("test_"):
        return "Examples in docstrings"
    if name == "test_checks.py":
        return "Checks and controls of the statements"
    return "Library" if name.startswith("test_invlib") else "Book, pages and commands"


def tests(_: list[Chapter]) -> list[str]:
    """How many tests there are, and how much of the library they run."""
    entry = recorded("tests.json")
    if not entry:
        return NOTHING
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for file, counts in entry["files"].items():
        groups[group_of(file)].update(files=1, **counts)
    keys = ("files", "tests", "skipped", "failed", "seconds")
    rows = [(name, *(round(group[key]) for key in keys)) for name, group in sorted(groups.items())]
    total = [round(sum(group[key] for group in groups.values())) for key in keys]
    each = [
        (code(file.removesuffix(".ipynb")), *(round(c[key]) for key in keys[1:]))
        for file, c in sorted(entry["files"].items())
    ]
    covered = [(code(file), f"{percent:.1f}") for file, percent in entry["coverage"].items()]
    head = ("Tests of", "Files", "Tests", "Skipped", "Failed", "Seconds")
    return [
        *table(head, [*rows, ("**all**", *(f"**{number}**" for number in total))], 5),
        f"Run on {entry['date']}: {where(entry)}. "
        "Those of the library and the examples in docstrings run "
        f"{entry['percent']:.1f} per cent of it, branches counted.",
        "",
        *folded("Tests by file", table(("File", *head[2:]), each, 4)),
        *folded("Coverage by module", table(("Module", "Per cent"), covered, 1)),
    ]


# Mutation


@cache
def planted() -> list[Planted]:
    """Return all faults."""
    return mutation_table.faults()


def score_row(name: str, faults: list[Planted]) -> tuple[object, ...]:
    """Return a row of a table of scores."""
    score = score_of(faults)
    return name, score.planted, score.caught, score.explained, score.survived, f"{score.percent:.0f} %"


def grouped(key: Callable[[Planted], str]) -> list[tuple[object, ...]]:
    """Return a row of scores for each group of faults, and one for all."""
    groups: dict[str, list[Planted]] = defaultdict(list)
    for fault in planted():
        if not fault.is_of_control:
            groups[key(fault)].append(fault)
    return [*(score_row(name, groups[name]) for name in sorted(groups)), score_row("**all**", planted())]


SCORES = ("Planted", "Caught", "No fault", "Survived", "Score")


def mutation(_: list[Chapter]) -> list[str]:
    """Which faults were caught: by kind, by module, and those that were not."""
    if not planted():
        return NOTHING
    changed = len(mutation_table.changed())
    examined = len(mutation_table.stored())
    possible = max(examined, recorded("mutation.json").get("possible", 0))  # new functions, since all were counted
    lines = table(("Fault", *SCORES), grouped(lambda fault: fault.kind), 5)
    lines += [f"Examined: {examined} of {possible} functions, of which {changed} have changed since.", ""]
    lines += folded("By module", table(("Module", *SCORES), grouped(lambda fault: code(fault.module)), 5))
    missed = [fault for fault in planted() if not fault.caught and not fault.is_of_control]
    groups = {
        "Survived": [fault for fault in missed if fault.because is None],
        "No faults, and why": [fault for fault in missed if fault.because is not None],
    }
    for title, faults in groups.items():
        rows = [
            (code(fault.function), code(fault.change), *([fault.because] if fault.because else [])) for fault in faults
        ]
        columns = ("Function", "Change", *(["The statement holds all the same"] if "why" in title else []))
        if rows:
            lines += folded(f"{title} ({len(rows)})", table(columns, rows, 0))
    return lines


def guards_of(chapter: Chapter, label: str, role: str) -> set[str]:
    """Return the names of the checks or controls of a statement."""
    return {call.name for claim in chapter.claims_on(label, role) for call in claim.calls}


def statement_row(chapter: Chapter, label: str) -> tuple[object, ...] | None:
    """Return how many faults the check and the control of a statement catch; None if they met none."""
    check, control = guards_of(chapter, label, "check"), guards_of(chapter, label, "control")
    met = [fault for fault in planted() if set(fault.guards) & (check | control)]
    if not met:
        return None
    by_check = {id(fault) for fault in met if set(fault.caught) & check}
    by_control = {id(fault) for fault in met if set(fault.caught) & control}
    caught, both = by_check | by_control, by_check & by_control
    counts = (len(met), len(caught), len(by_check - both), len(by_control - both), len(both))
    return f"{{prf:ref}}`{label}`", *counts


def statements(book: list[Chapter]) -> list[str]:
    """What the check and the control of each statement catch, and what only one of them does."""
    rows = [statement_row(chapter, statement.label) for chapter in book for statement in chapter.statements]
    shown = [row for row in rows if row]
    if not shown:
        return NOTHING
    alone = [sum(row[place] > 0 for row in shown) for place in (3, 4)]
    columns = ("Statement", "Planted", "Caught", "Check alone", "Control alone", "Both")
    return [
        f"Of {len(shown)} pairs, {alone[0]} checks and {alone[1]} controls caught a fault that the other missed.",
        "",
        *folded("By statement", table(columns, shown, 5)),
    ]


def tolerances(_: list[Chapter]) -> list[str]:
    """By how much the tolerances of the checks could be divided."""
    slacks = [slack for _, _, slack in recorded("tolerances.json").get("tolerances", [])]
    if not slacks:
        return NOTHING
    steps = (10, 1e3, 1e6, float("inf"))
    names = ("at most 10", "10 to 1,000", "1,000 to 1,000,000", "more, or nothing was off at all")
    counts: Counter[str] = Counter()
    for slack in slacks:
        counts[next(name for name, step in zip(names, steps, strict=True) if (slack or float("inf")) <= step)] += 1
    rows = [(name, counts[name]) for name in names]
    return table(("Tolerance divided by what was measured", "Tolerances"), rows, 1)


# Certificates and benchmarks


def certificates(_: list[Chapter]) -> list[str]:
    """How many certificates of each kind there are, and for which statements."""
    kinds: dict[str, list[str]] = defaultdict(list)
    labels: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "book" / "certificates").glob("*.json")):
        entry = json.loads(path.read_text(encoding="utf-8"))
        kinds[entry["kind"]].append(path.stem)
        labels[entry["kind"]] += entry["statements"]
    links = {kind: ", ".join(f"{{prf:ref}}`{label}`" for label in dict.fromkeys(labels[kind])) for kind in kinds}
    rows = [(f"`{kind}`", links[kind], len(kinds[kind])) for kind in kinds]
    return table(("Kind", "Statements", "Certificates"), rows, 1) if rows else NOTHING


def benchmarks(_: list[Chapter]) -> list[str]:
    """What the benchmarks measured, when, and how many of their targets were reached."""
    topics = recorded("results.json", ROOT / "benchmarks").get("topics", {})
    rows = []
    for topic in topics.values():
        met = [check["reached"] for check in topic["checks"]]
        title = re.sub(r"\$.*?\$", "", topic["title"])
        date = topic["machine"]["date"].replace("-", "\N{NON-BREAKING HYPHEN}")
        rows.append((title, date, f"{sum(met)} of {len(met)}" if met else "—"))
    return table(("Measured", "On", "Targets reached"), rows, 2) if rows else NOTHING


TOPICS: dict[str, Callable[[list[Chapter]], list[str]]] = {
    topic.__name__: topic
    for topic in (edition, chapters, tests, mutation, statements, tolerances, certificates, benchmarks)
}


class BookState(SphinxDirective):
    """The directive ``{book-state}``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the tables of a topic."""
        topic = TOPICS.get(self.arguments[0])
        if topic is None:
            raise self.error(f"no topic {self.arguments[0]!r}; there are {', '.join(TOPICS)}")
        self.env.note_reread()
        lines = topic(book_of(Path(self.env.srcdir)))
        node = nodes.container()
        self.state.nested_parse(StringList(lines, source=self.env.doc2path(self.env.docname)), 0, node)
        return node.children


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive with Sphinx."""
    app.add_directive("book-state", BookState)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
