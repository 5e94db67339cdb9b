"""A small Sphinx extension: what a link leads to can be seen before one follows it.

Each page lays its statements, equations, figures, terms and literature down in a script of its own, with formulas
typeset. ``previews.js`` loads the script when a reader points at a link, and shows the piece beside the link.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pieces
from formulas import letters_of, typeset_alone
from sphinx.application import Sphinx

SHOWN = ("statement", "equation", "figure", "table", "term", "literature")
LONGEST = 20_000  # letters: a longer piece, such as a large table, is no preview


def note_pieces(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: object) -> None:
    """Keep the pieces of a page."""
    if tree is not None:
        kept = app.env.book_previews = getattr(app.env, "book_previews", {})  # type: ignore[attr-defined]
        found = pieces.pieces(context.get("body", ""))
        shown = {piece.name: piece.html for piece in found if piece.kind in SHOWN and len(piece.html) < LONGEST}
        kept[page] = {name: inert(html) for name, html in shown.items()}


def inert(html: str) -> str:
    """Return a piece without names, links and buttons, for they belong to its page."""
    html = re.sub(r'<p class="used-in">.*?</p>|<a class="headerlink".*?</a>', "", html, flags=re.DOTALL)
    html = re.sub(r"<a\b[^>]*>|</a>|<!--.*?-->", "", html, flags=re.DOTALL)
    return re.sub(r'(<[^>]*?) id="[^"]*"', r"\1", html)


def write_previews(app: Sphinx, error: Exception | None) -> None:
    """Write the script of each page."""
    if error is not None or app.builder.format != "html":
        return
    for page, found in getattr(app.env, "book_previews", {}).items():
        made = {name: typeset_alone(html) for name, html in found.items()}
        target = Path(app.outdir) / "_static" / "previews" / f"{page}.js"
        target.parent.mkdir(parents=True, exist_ok=True)
        held = json.dumps({"letters": letters_of("".join(made.values())), "pieces": made}, ensure_ascii=False)
        target.write_text(f"bookPreviews[{json.dumps(page)}] = {held};\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register both with Sphinx."""
    app.connect("html-page-context", note_pieces, priority=950)
    app.connect("build-finished", write_previews)
    app.add_js_file("previews.js", loading_method="defer")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": False}
