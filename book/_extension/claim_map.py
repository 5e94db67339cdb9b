"""Two pages that write themselves: the claim map and the register of deviations.

``{claim-map}`` shows, for each statement of each chapter, the statement of the paper, the cells that
check and break it, its pictures, the functions of the library, and its tests. ``{deviations}`` repeats the section
"Deviations from the paper" of each chapter. Both read the chapters when the page is built, so that
nothing is written twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from claims import (
    CHECKS,
    DEVIATIONS,
    ROLES,
    Chapter,
    Claim,
    Statement,
    anchors_of,
    chapter_files,
    read_chapter,
    section,
)
from docutils import nodes
from docutils.statemachine import StringList
from lemmas import FOLDER, Theorem, by_label
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

COLUMNS = ("Statement", "In the paper", "Check", "Control", "Picture", "Library and its tests", "Certificate")
CERTIFICATES = Path(__file__).resolve().parent.parent / "certificates"
PROOFS = "book/proofs"
NOTHING = "—"
ELSEWHERE = ("*Next:*", "Back to {doc}", "The arrays behind the figures:")  # begin paragraphs that are no deviations


def unique(items: list[str]) -> list[str]:
    """Return the items without repetitions, in their order."""
    return list(dict.fromkeys(items))


def cell_links(claims: list[Claim]) -> str:
    """Return numbered links to cells."""
    return ", ".join(f"{{ref}}`{number} <{claim.anchor}>`" for number, claim in enumerate(claims, start=1)) or NOTHING


def function_name(name: str) -> str:
    """Return a name of the library so that a long one can be broken."""
    owner, _, last = name.rpartition(".")
    return f"`{last}` of `{owner}`" if owner else f"`{last}`"


def test_sentence(test: str) -> str:
    """Return the name of a test as words, behind the part of the library that it tests."""
    file, name = test.split("::")
    part = file.removeprefix("test_invlib_").removeprefix("test_").removesuffix(".py")
    return f"*{part}:* {name.removeprefix('test_').replace('_', ' ')}"


@cache
def certified() -> dict[str, list[str]]:
    """Return the kinds of certificates for each label of a statement that they serve."""
    found: dict[str, list[str]] = {}
    for path in sorted(CERTIFICATES.glob("*.json")):
        for label in json.loads(path.read_text(encoding="utf-8"))["statements"]:
            found.setdefault(label, []).append(path.stem)
    return found


def certificates_on(label: str) -> list[str]:
    """Return how many certificates of each kind serve a statement, as Markdown."""
    kinds = Counter(name.partition("-")[0] for name in certified().get(label, []))
    return [f"{count} `{kind}`" for kind, count in kinds.items()]


def theorems_on(theorems: list[Theorem]) -> list[str]:
    """Return how many theorems Coq checks for a statement, as Markdown with a link to the first of them."""
    return [f"{{ref}}`{len(theorems)} by Coq <coq-{theorems[0].name}>`"] if theorems else []


def table_row(chapter: Chapter, statement: Statement, theorems: list[Theorem]) -> str:
    """Return the row of one statement, as Markdown."""
    checks, controls, pictures = (chapter.claims_on(statement.label, role) for role in ROLES)
    figures = unique([f"{{numref}}`{claim.figure}`" for claim in pictures])
    functions = unique([function_name(name) for claim in checks for name in claim.functions])
    tests = unique([test_sentence(name) for claim in checks for name in claim.tests])
    cells = (
        f"{{prf:ref}}`{statement.label}` {statement.title}",
        ", ".join(unique([claim.paper for claim in checks if claim.paper])) or NOTHING,
        cell_links(checks),
        cell_links(controls),
        ", ".join(figures) or NOTHING,
        ". ".join(part for part in (", ".join(functions), "; ".join(tests)) if part) or NOTHING,
        ", ".join([*certificates_on(statement.label), *theorems_on(theorems)]) or NOTHING,
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def chapter_table(chapter: Chapter, theorems: Mapping[str, list[Theorem]]) -> list[str]:
    """Return the table of one chapter, as lines of Markdown; no lines if it has no statements."""
    claimed = {claim.label for claim in chapter.claims}
    shown = [item for item in chapter.statements if item.kind != "remark" or item.label in claimed]
    if not shown:
        return []
    head = ["| " + " | ".join(COLUMNS) + " |", "|" + ":--|" * len(COLUMNS)]
    return head + [table_row(chapter, statement, theorems.get(statement.label, [])) for statement in shown]


def deviations_of(chapter: Chapter) -> list[str]:
    """Return what a chapter says about deviations, as lines of Markdown, without where to go from there."""
    paragraphs = (section(chapter.text, DEVIATIONS) or "").split("\n\n")
    return "\n\n".join(part for part in paragraphs if not part.lstrip().startswith(ELSEWHERE)).splitlines()


class ChapterSections(SphinxDirective):
    """One section for each chapter of the book, with the chapter's title and a text made from it."""

    prefix: str

    def lines(self, chapter: Chapter) -> list[str]:
        """Return the Markdown for one chapter."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Read all chapters, and return their sections."""
        return [node for file in chapter_files(Path(self.env.srcdir)) for node in self.section(file)]

    def section(self, file: Path) -> list[nodes.Node]:
        """Return the section of one chapter, or nothing if there is nothing to say."""
        self.env.note_dependency(str(file))
        self.env.note_dependency(str(CHECKS / f"{file.stem.replace('-', '_')}.py"))
        chapter = read_chapter(file)
        lines = self.lines(chapter)
        if not lines:
            return []
        node = nodes.section(ids=[f"{self.prefix}-{chapter.name}"], names=[f"{self.prefix}-{chapter.name}"])
        title = nodes.title()
        inline = nodes.paragraph()
        self.parse([f"{{doc}}`{chapter.title} <{chapter.name}>`"], inline)
        title += inline[0].children
        node += title
        self.parse(lines, node)
        return [node]

    def parse(self, lines: list[str], parent: nodes.Element) -> None:
        """Parse Markdown into a node."""
        self.state.nested_parse(StringList(lines, source=self.env.doc2path(self.env.docname)), 0, parent)


class ClaimMap(ChapterSections):
    """The directive ``{claim-map}``."""

    prefix = "claims"

    def lines(self, chapter: Chapter) -> list[str]:
        """Return a table with a row for each statement."""
        shown = PROOFS in self.env.found_docs
        return chapter_table(chapter, by_label(Path(self.env.srcdir) / FOLDER) if shown else {})


class Deviations(ChapterSections):
    """The directive ``{deviations}``."""

    prefix = "deviations"

    def lines(self, chapter: Chapter) -> list[str]:
        """Return the chapter's own section."""
        return deviations_of(chapter)


def name_cells(app: Sphinx, tree: nodes.document) -> None:
    """Make every cell that claims something a target of ``{ref}``."""
    cells = [node for node in tree.findall(nodes.container) if node.get("nb_element") == "cell_code"]
    targets = app.env.get_domain("std").anonlabels  # targets without a text of their own
    for node, names in zip(cells, anchors_of(node["cell_metadata"] for node in cells), strict=True):
        for anchor in names.values():
            node["ids"].append(anchor)
            targets[anchor] = (app.env.docname, anchor)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives with Sphinx."""
    app.add_directive("claim-map", ClaimMap)
    app.add_directive("deviations", Deviations)
    app.connect("doctree-read", name_cells)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
