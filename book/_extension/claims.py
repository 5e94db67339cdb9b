"""Read the chapters: statements, the cells that check them, and what is missing.

Plain functions without Sphinx; the directives in ``claim_map`` show what they find, and the tests
demand that nothing is missing.

A code cell names the statements that it checks in its metadata, under the key ``claim``: a mapping,
or a list of mappings, with

* ``label``: the label of a statement, or a list of labels;
* ``functions``: names in ``invlib`` that the cell exercises (only in a check);
* ``tests``: ``FILE.py::NAME`` of tests of the same fact in the library (only in a check);
* ``paper``: the statement of the source paper, or "book's own" (only in a check);
* ``only``: one of the roles, where a cell has several but for this statement only this one.

The tags ``check``, ``control`` and ``picture`` of the cell say what it does; a picture is a cell with a named figure.

The work of a check or control may be done by functions ``check_...`` or ``control_...`` of the package ``checks`` that
the cell calls. Their code, see ``check_calls``, then counts as part of the cell's.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jupytext
import yaml
from check_calls import Call, calls_of, names_of
from nbformat import NotebookNode

ROLES = ("check", "control", "picture")
PROVED = ("theorem", "lemma", "proposition", "corollary")
KINDS = (*PROVED, "remark")
CHECKS = Path(__file__).resolve().parent.parent / "checks"
OWN = "book's own"
DEVIATIONS = "Deviations from the paper"

STATEMENT = re.compile(
    rf"^:{{3,}}\{{prf:(?P<kind>{'|'.join(KINDS)})\}}[ \t]*(?P<title>.*)\n"
    r"(?:^:(?!label)\w+:.*\n)*^:label: (?P<label>\S+)$",
    re.MULTILINE,
)
ASSERTION = re.compile(r"^\s*(?:assert\b|torch\.testing\.assert_|with pytest\.raises|except\b)", re.MULTILINE)


@dataclass(frozen=True)
class Statement:
    """A numbered statement of a chapter."""

    kind: str
    label: str
    title: str


@dataclass(frozen=True)
class Claim:
    """What one code cell has to do with one statement.

    ``anchor`` is the name of the cell as a target of links, ``code`` its own code, and ``calls`` are those of checks or
    controls that serve its role. ``paper`` is None if nothing is said, and ``figure`` if the cell has no named one.
    """

    label: str
    role: str
    anchor: str
    code: str
    paper: str | None
    functions: tuple[str, ...]
    tests: tuple[str, ...]
    figure: str | None
    calls: tuple[Call, ...]

    def asserts(self) -> bool:
        """Tell whether the cell, or a check or control that it calls, asserts anything."""
        return any(ASSERTION.search(code) for code in (self.code, *(call.code or "" for call in self.calls)))


@dataclass(frozen=True)
class Chapter:
    """A chapter: its name, title, text, code with that of its checks, statements and claims, in the page's order."""

    name: str
    title: str
    text: str
    code: str
    statements: tuple[Statement, ...]
    claims: tuple[Claim, ...]

    def claims_on(self, label: str, role: str) -> list[Claim]:
        """Return the claims of one role on one statement."""
        return [claim for claim in self.claims if (claim.label, claim.role) == (label, role)]


def as_list(value: Any) -> list[Any]:  # noqa: ANN401
    """Return a list as it is, nothing as an empty list, and anything else as a list of one."""
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def entries_of(metadata: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield label, role and entry for all that the metadata of a cell claim."""
    roles = [tag for tag in metadata.get("tags", []) if tag in ROLES]
    for entry in as_list(metadata.get("claim")):
        for label in as_list(entry.get("label")):
            for role in roles:
                if entry.get("only", role) == role:
                    yield label, role, entry


def anchors_of(cells: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """Give every claiming cell, told by its metadata, a name for each label: ``cell-LABEL-1``, ..."""
    seen: dict[str, int] = {}
    names: list[dict[str, str]] = []
    for metadata in cells:
        labels = dict.fromkeys(label for label, _, _ in entries_of(metadata))
        for label in labels:
            seen[label] = seen.get(label, 0) + 1
        names.append({label: f"cell-{label}-{seen[label]}" for label in labels})
    return names


def claims_of(cells: list[NotebookNode], calls: list[list[Call]]) -> Iterator[Claim]:
    """Yield the claims of the code cells of a chapter, of which the calls of checks and controls are known."""
    anchors = anchors_of(cell.metadata for cell in cells)
    for cell, names, called in zip(cells, anchors, calls, strict=True):
        for label, role, entry in entries_of(cell.metadata):
            yield Claim(
                label=label,
                role=role,
                anchor=names[label],
                code=cell.source,
                paper=entry.get("paper"),
                functions=tuple(as_list(entry.get("functions"))),
                tests=tuple(as_list(entry.get("tests"))),
                figure=cell.metadata.get("mystnb", {}).get("figure", {}).get("name"),
                calls=tuple(call for call in called if call.name.startswith(f"{role}_")),
            )


def parse_chapter(name: str, notebook: NotebookNode, checks: Path = CHECKS) -> Chapter:
    """Find the statements and claims of a notebook, whose checks are in a folder."""
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = [Statement(match["kind"], match["label"], match["title"].strip()) for match in STATEMENT.finditer(text)]
    names = names_of(cell.source for cell in cells)
    calls = [list(calls_of(cell.source, names, checks)) for cell in cells]
    called = [call.code for call in dict.fromkeys(call for some in calls for call in some) if call.code]
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    return Chapter(
        name=name,
        title=title[1].strip() if title else name,
        text=text,
        code="\n".join([*(cell.source for cell in cells), *called]),
        statements=tuple(found),
        claims=tuple(claims_of(cells, calls)),
    )


def read_chapter(path: Path) -> Chapter:
    """Read a chapter from either half of its pair; once, as long as the file is the same."""
    return read_version(path, path.stat().st_mtime_ns)


@cache
def read_version(path: Path, changed: int) -> Chapter:
    """Read a chapter as it was changed last."""
    return parse_chapter(path.stem, jupytext.read(path))


def chapter_files(root: Path) -> list[Path]:
    """Return the notebooks in the order of the table of contents."""
    contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    files = [entry["file"] for part in contents.get("parts", []) for entry in part["chapters"]]
    return [root / file for file in files if file.endswith(".ipynb")]


def section(text: str, title: str) -> str | None:
    """Return the text under a level-two heading, without the heading; None if there is none."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |^\([\w-]+\)=\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else None


def known_tests(folder: Path) -> set[str]:
    """Return ``FILE.py::NAME`` for every test function of a folder."""
    names = set()
    for path in folder.glob("test_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                names.add(f"{path.name}::{node.name}")
    return names


def is_known(library: Any, name: str) -> bool:  # noqa: ANN401
    """Tell whether a dotted name exists in a package; modules that the package does not import are looked up, too."""
    module, _, rest = name.partition(".")
    if rest and find_spec(f"{library.__name__}.{module}") is not None:
        library, name = import_module(f"{library.__name__}.{module}"), rest
    for part in name.split("."):
        if not hasattr(library, part):
            return False
        library = getattr(library, part)
    return True


def missing_cells(chapter: Chapter) -> Iterator[str]:
    """Yield the statements without check, control or picture, and checks and controls without an assertion."""
    for statement in chapter.statements:
        for role in ROLES:
            claims = chapter.claims_on(statement.label, role)
            if not claims and statement.kind in PROVED:
                yield f"{statement.label}: no {role}"
            if role != "picture" and claims and not any(claim.asserts() for claim in claims):
                yield f"{statement.label}: no assertion in its {role}"
            for call in dict.fromkeys(call for claim in claims for call in claim.calls):
                if call.code is None:
                    yield f"{statement.label}: no function {call.name} in {call.module}.py"
                elif not ASSERTION.search(call.code):
                    yield f"{statement.label}: no assertion in {call.name}"


def wrong_names(chapter: Chapter, library: Any, tests: set[str]) -> Iterator[str]:  # noqa: ANN401
    """Yield the labels, functions and tests that do not exist, and functions that the chapter never uses."""
    labels = {statement.label for statement in chapter.statements}
    for claim in chapter.claims:
        if claim.label not in labels:
            yield f"{claim.label}: no such statement on this page"
        if claim.role == "check" and not claim.paper:
            yield f"{claim.label}: a check does not say what the paper has"
        if claim.role == "picture" and not claim.figure:
            yield f"{claim.label}: a picture without a named figure"
        for name in claim.functions:
            if not is_known(library, name):
                yield f"{claim.label}: no function {name} in the library"
            elif not re.search(rf"\b{name.rsplit('.')[-1]}\b", chapter.code):
                yield f"{claim.label}: the page does not use {name}"
        for name in claim.tests:
            if name not in tests:
                yield f"{claim.label}: no test {name}"


def problems(chapter: Chapter, library: Any, tests: set[str]) -> list[str]:  # noqa: ANN401
    """Return what is wrong with the claims of a chapter; an empty list means that all is well."""
    return [*missing_cells(chapter), *wrong_names(chapter, library, tests)]
