"""A small Sphinx extension: the directive ``{coq-theorems}`` shows what Coq checks.

It shows the files of ``proofs`` without proofs: comments as text, definitions and theorems as code, at each theorem a
link to its statement. Each theorem is a target, ``coq-NAME``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from lemmas import CORE, FOLDER, Piece, pieces_of
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

HEADING = re.compile(r"\*\* (?P<title>.+?)(?:\n\n|\Z)(?P<rest>.*)", re.DOTALL)


def as_markdown(text: str) -> str:
    """Return a comment as Markdown: what stands in brackets is code."""
    return re.sub(r"\[([^\]]+)\]", r"`\1`", " ".join(text.split()))


class CoqTheorems(SphinxDirective):
    """The directive ``{coq-theorems}``."""

    def run(self) -> list[nodes.Node]:
        """Return one section for each file."""
        folder = Path(self.env.srcdir) / FOLDER
        return [self.file(folder, name) for name in CORE if (folder / f"{name}.v").exists()]

    def file(self, folder: Path, name: str) -> nodes.section:
        """Return the section of a file."""
        self.env.note_dependency(str(folder / f"{name}.v"))
        section = part = self.section(f"{name}.v", f"coq-{name.lower()}")
        for piece in pieces_of(folder, name):
            if heading := HEADING.match(piece.comment):
                part = self.section(as_markdown(heading["title"]), nodes.make_id(f"coq-{name}-{heading['title']}"))
                section += part
                piece = Piece(heading["rest"], piece.code)
            part += self.shown(piece)
        return section

    def section(self, title: str, name: str) -> nodes.section:
        """Return an empty section."""
        section, heading = nodes.section(ids=[name], names=[name]), nodes.title()
        section += heading
        for paragraph in self.parsed(title):
            heading += paragraph.children
        return section

    def shown(self, piece: Piece) -> Iterator[nodes.Node]:
        """Yield the nodes of a piece; those of a theorem are a target."""
        text, name = as_markdown(piece.comment), ""
        if piece.theorem is not None:
            text, name = f"{{prf:ref}}`{piece.theorem.label}`. {text}", f"coq-{piece.theorem.name}"
            self.env.get_domain("std").anonlabels[name] = (self.env.docname, name)  # type: ignore[attr-defined]
        box = nodes.container(ids=[name] if name else [], classes=["coq"])
        box += self.parsed(text) if text else []
        if piece.code:
            box += nodes.literal_block(piece.code, piece.code, language="coq")
        yield box

    def parsed(self, text: str) -> list[nodes.Node]:
        """Return the nodes of some Markdown."""
        parent = nodes.Element()
        self.state.nested_parse(StringList([text], source=self.env.doc2path(self.env.docname)), 0, parent)
        return parent.children


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive with Sphinx."""
    app.add_directive("coq-theorems", CoqTheorems)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
