"""A small Sphinx extension: a search of pages, sections, statements, figures, terms and names of the library.

Each is an entry with its own address. The entries are a script, ``search-entries.js``, which the page loads once a
reader begins to search: so it works on pages opened from disk as well. ``search.js`` ranks and shows them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pieces
from sphinx.application import Sphinx

LONGEST = 4000  # letters of the text of an entry
SEARCHED = ("statement", "figure", "table", "term", "code", "literature")
REPEATING = ("claims", "deviations")  # their sections are called like the chapters
NOT_SEARCHED = ("search", "genindex")
START = "bookEntries = "


def entries(page: str, body: str) -> list[dict[str, str]]:
    """Return the entries of a page: title, kind, address, the page they stand on, and words."""
    found = list(pieces.sections(body))
    if not found:
        return []
    if page.rpartition("/")[2] in REPEATING:
        found = found[:1]
    found += pieces.symbols(body) if page.endswith("notation") else []
    found += [piece for piece in pieces.pieces(body) if piece.kind in SEARCHED]
    title = found[0].title
    return [
        {
            "title": piece.title.removesuffix("."),
            "kind": "exercise" if piece.title.startswith("Exercise") else piece.kind,
            "url": f"{page}.html" + ("" if piece.kind == "page" else f"#{piece.name}"),
            "page": title if piece.kind != "page" else "",
            "text": words(piece)[:LONGEST],
        }
        for piece in found
    ]


def words(piece: pieces.Piece) -> str:
    """Return the text of an entry, without its title."""
    text = pieces.plain(piece.html)
    return text.removeprefix(piece.title).lstrip(" ()").strip()


def note_entries(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: object) -> None:
    """Keep the entries of a page."""
    if tree is not None and page not in NOT_SEARCHED:
        app.env.book_entries = getattr(app.env, "book_entries", {})  # type: ignore[attr-defined]
        app.env.book_entries[page] = entries(page, context.get("body", ""))


def write_entries(app: Sphinx, error: Exception | None) -> None:
    """Write the entries of all pages."""
    if error is not None or app.builder.format != "html":
        return
    kept = getattr(app.env, "book_entries", {})
    target = Path(app.outdir) / "_static" / "search-entries.js"
    if target.exists():  # pages that did not change were not written again
        kept = json.loads(target.read_text(encoding="utf-8").removeprefix(START).rstrip(";\n")) | kept
    kept = {page: kept[page] for page in sorted(kept) if page in app.env.found_docs}
    target.write_text(f"{START}{json.dumps(kept, ensure_ascii=False)};\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register both with Sphinx."""
    app.connect("html-page-context", note_entries, priority=950)
    app.connect("build-finished", write_entries)
    app.add_js_file("search.js", loading_method="defer")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": False}
