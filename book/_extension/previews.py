"""A small Sphinx extension: what a link leads to can be seen before one follows it, and what a symbol means.

Each page lays its statements, equations, figures, terms and literature down in a script of its own, with formulas
typeset. ``previews.js`` loads the script when a reader points at a link, and shows the piece beside the link. A formula
that is a symbol of the page on notation, and nothing else, shows the rows of its tables in the same way.
"""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pieces
from formulas import letters_of, typeset_alone
from sphinx.application import Sphinx

SHOWN = ("statement", "equation", "figure", "table", "term", "literature")
NOTATION = "book/notation"
SYMBOL = re.compile(r'<span class="math notranslate nohighlight">\\\((?P<tex>[^<]+?)\\\)</span>')
ROW = re.compile(r"<tr[^>]*>\s*(<td[^>]*>(.*?)</td>.*?)</tr>", re.DOTALL)
LONGEST = 20_000  # letters: a longer piece, such as a large table, is no preview


def symbols_of(tex: str) -> list[str]:
    r"""Return the symbols that a formula of the notation's first column names: ``x`` and ``p_X`` of ``x \sim p_X``."""
    sides = re.split(r"(=|\\sim)", unescape(tex).replace(" ", ""), maxsplit=1)
    return sides[::2] if sides[1:2] == ["\\sim"] else sides[:1]


def meanings(body: str) -> dict[str, str]:
    """Return the rows of the page on notation by symbol: its name, meaning, code and shape."""
    rows: dict[str, str] = {}
    for row in ROW.finditer(body):
        cells = re.findall(r"<td.*?</td>", row[1], re.DOTALL)[:-1]
        for formula in SYMBOL.finditer(row[2]):
            for symbol in symbols_of(formula["tex"]):
                rows[symbol] = rows.get(symbol, "") + f"<tr>{''.join(cells)}</tr>"
    return {symbol: f'<table class="table">{found}</table>' for symbol, found in rows.items()}


def note_pieces(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: object) -> None:
    """Keep the pieces of a page."""
    if tree is not None:
        kept = app.env.book_previews = getattr(app.env, "book_previews", {})  # type: ignore[attr-defined]
        found = pieces.pieces(context.get("body", ""))
        shown = {piece.name: piece.html for piece in found if piece.kind in SHOWN and len(piece.html) < LONGEST}
        kept[page] = {name: inert(html) for name, html in shown.items()}
        if page == NOTATION:
            app.env.book_symbols = meanings(context["body"])  # type: ignore[attr-defined]


def inert(html: str) -> str:
    """Return a piece without names, links and buttons, for they belong to its page."""
    html = re.sub(r'<p class="used-in">.*?</p>|<a class="headerlink".*?</a>', "", html, flags=re.DOTALL)
    html = re.sub(r"<a\b[^>]*>|</a>|<!--.*?-->", "", html, flags=re.DOTALL)
    return re.sub(r'(<[^>]*?) id="[^"]*"', r"\1", html)


def mark_symbols(html: str, names: dict[str, str]) -> str:
    """Return a page in which each symbol has the name of its preview."""

    def one(formula: re.Match[str]) -> str:
        name = names.get(unescape(formula["tex"]).replace(" ", ""))
        return formula[0].replace(">", f' data-symbol="{name}">', 1) if name else formula[0]

    return SYMBOL.sub(one, html)


def write_previews(app: Sphinx, error: Exception | None) -> None:
    """Write the script of each page, and mark the symbols of the pages."""
    if error is not None or app.builder.format != "html":
        return
    previews = getattr(app.env, "book_previews", {})
    symbols = getattr(app.env, "book_symbols", {})
    names = {symbol: f"symbol-{number}" for number, symbol in enumerate(symbols)}
    previews.setdefault(NOTATION, {}).update({names[symbol]: inert(html) for symbol, html in symbols.items()})
    for page in previews:
        file = Path(app.outdir) / f"{page}.html"
        if page != NOTATION and file.exists():
            file.write_text(mark_symbols(file.read_text(encoding="utf-8"), names), encoding="utf-8")
    for page, found in previews.items():
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
