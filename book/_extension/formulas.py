"""A small Sphinx extension: formulas are typeset when the book is built, and the pages load no script for them.

MathJax, from the package ``sphinx-mathjax-offline``, runs in the engine of ``mini-racer`` and draws formulas as SVG,
which needs no fonts. A page holds the outline of a letter once, and once a formula that it shows again. Beside each
drawing stands the same formula in MathML, which is hidden from sight: screen readers read it. A formula that cannot be
read stops the build.

A line never ends between a formula and the comma behind it, or the number that it leads to. A formula whose rows were
broken for a phone is drawn a second time with fewer rows, and the style sheet shows the one for which there is room.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from html import unescape
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import formula_rows
from py_mini_racer import MiniRacer
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

MATHJAX_PACKAGE = "sphinx-mathjax-offline"
PARTS = (
    "core.js",
    "adaptors/liteDOM.js",
    "loader.js",
    "input/tex-full.js",
    "output/svg.js",
    "output/svg/fonts/tex.js",
)
ALONE = "globalThis.global = globalThis; MathJax = {startup: {typeset: false, ready() {}}};"
FORMULA = re.compile(r"\\\((?P<line>.+?)\\\)|\\\[(?P<display>.+?)\\\]", re.DOTALL)
PLACE = re.compile(
    r'(?P<open><(?P<tag>span|div) class="[^"]*\bmath notranslate nohighlight[^"]*"[^>]*>)'
    r"(?P<inside>.*?)(?P<close></(?P=tag)>)",
    re.DOTALL,
)
BESIDE = re.compile(  # a formula with what belongs to it; a longer one may need the whole line
    r'(?P<before>[(\[“‘]*)(?P<formula><span class="[^"]*\bmath notranslate nohighlight[^"]*"[^>]*>'
    r"\\\([^<]{0,60}?(?P<leads>\{\}|=|\\approx|\\[gl]eq?|\\pm)?\s*\\\)</span>)"
    r'(?P<number>\s*<span class="pasted-text">[^<]*</span>)?(?P<after>(?:[^\s<&]|&\w+;){0,15})'
)
OUTLINE = re.compile(r'<path id="MJX-(?:\d+-)?TEX-([^"]+)" d="([^"]*)"></path>')
LETTER = re.compile(r' data-c="\w+" xlink:href="#MJX-(?:\d+-)?TEX-([^"]+)"')
NEEDLESS = re.compile(r' (?:data-mml-node|data-mjx-[\w-]+|xmlns(?::\w+)?|role|focusable)="[^"]*"')
SVG_PARTS = re.compile(r"<svg([^>]*)>(.*)</svg>", re.DOTALL)
USED = re.compile(r'href="#m-([^"]+)"')
WIDTH = re.compile(r' width="([\d.]+)ex"')
ROOMS = (40, 46, 52, 58, 67)
"""Widths of places, in ex; the style sheet has a rule for each. In a proof there is the last, beside a number the one
before it."""


class Source(NamedTuple):
    """A formula of a page: its TeX, whether it is displayed, and whether a number stands beside it."""

    tex: str
    display: bool
    numbered: bool


@dataclass(frozen=True)
class Formula:
    """A typeset formula: the attributes of its drawing, the drawing, and the formula in MathML."""

    frame: str
    drawing: str
    mathml: str

    @property
    def width(self) -> float:
        """Of the drawing, in ex."""
        return float(WIDTH.search(self.frame)[1])


def mathjax_folder() -> Path:
    """Return the folder of the installed MathJax."""
    spec = find_spec(MATHJAX_PACKAGE)
    if spec is None or spec.origin is None:
        raise ExtensionError(f"{MATHJAX_PACKAGE} is missing: pip install -r requirements.txt")
    return Path(spec.origin).parent / "static" / "mathjax"


@cache
def engine() -> MiniRacer:
    """Start the engine with MathJax in it."""
    started = MiniRacer()
    started.eval(ALONE)
    for file in (*(mathjax_folder() / part for part in PARTS), Path(__file__).with_name("typeset.js")):
        started.eval(file.read_text(encoding="utf-8"))
    return started


@cache
def typeset(tex: str, display: bool) -> Formula:
    """Typeset one formula; what cannot be read is a ValueError."""
    made = json.loads(engine().call("typeset", tex, display))
    if "fault" in made:
        raise ValueError(f"a formula cannot be typeset ({made['fault']}): {tex}")
    frame, drawing = SVG_PARTS.search(NEEDLESS.sub("", LETTER.sub(r' href="#m-\1"', made["drawing"]))).groups()
    mathml = re.sub(r">\s+<", "><", NEEDLESS.sub("", made["mathml"])).strip()
    return Formula(frame, drawing, mathml)


@cache
def widened(tex: str, numbered: bool) -> Formula | None:
    """Typeset a display formula with fewer rows, as far as there may be room for them; None if there is not."""
    room = ROOMS[-2] if numbered else ROOMS[-1]
    wide = formula_rows.widened(tex, lambda row: typeset(row, display=True).width <= room)
    return None if wide is None else typeset(wide, display=True)


@cache
def outlines(known: int) -> dict[str, str]:
    """Return the outlines of all letters typeset so far, of which some number of formulas is known."""
    return dict(OUTLINE.findall(engine().call("outlines")))


def drawn(source: Source) -> list[Formula]:
    """Return a formula, and behind it the one with fewer rows, if there is any."""
    wide = widened(source.tex, source.numbered) if source.display else None
    return [typeset(source.tex, source.display)] + ([] if wide is None else [wide])


def markup(source: Source, names: dict[str, str]) -> str:
    """Return a formula as HTML; drawings with names stand elsewhere on the page."""

    def svg(each: Formula) -> str:
        name = names.get(each.drawing)
        drawing = each.drawing if name is None else f'<use href="#{name}"></use>'
        return f'<svg{each.frame} aria-hidden="true">{drawing}</svg>'

    formula, *wider = drawn(source)
    looks = ' jax="SVG"' + (' display="true"' if source.display else "")
    for wide in wider:
        looks += f' class="room-{next(room for room in ROOMS if wide.width <= room)}"'
    mathml = formula.mathml.replace("<math", '<math display="block"', 1) if source.display else formula.mathml
    return (
        f"<mjx-container{looks}>{''.join(map(svg, (formula, *wider)))}"
        f"<mjx-assistive-mml>{mathml}</mjx-assistive-mml></mjx-container>"
    )


def store(drawings: dict[str, str], names: dict[str, str]) -> str:
    """Return what a page keeps out of sight: letters, and drawings with names."""
    paths = letters_of("".join(drawings))
    letters = "".join(f'<path id="m-{letter}" d="{path}"></path>' for letter, path in paths.items())
    shared = "".join(f'<g id="{name}">{drawing}</g>' for drawing, name in names.items())
    return f'<svg class="formulas" aria-hidden="true" width="0" height="0"><defs>{letters}{shared}</defs></svg>'


def sources(html: str) -> Iterator[Source]:
    """Yield the formulas of a page, each as often as it stands there."""
    for place in PLACE.finditer(html):
        for formula in FORMULA.finditer(bracketed(place["inside"])):
            yield source_of(formula, place["inside"])


def source_of(formula: re.Match[str], inside: str) -> Source:
    """Return a formula that was found inside of a place."""
    tex = unescape(formula["line"] or formula["display"]).strip()
    return Source(tex, formula["line"] is None, 'class="eqno"' in inside)


def filled(html: str, names: dict[str, str]) -> str:
    """Return a page, or a piece of one, with drawings in the places of formulas."""

    def place(found: re.Match[str]) -> str:
        inside = bracketed(found["inside"])
        made = FORMULA.sub(lambda formula: markup(source_of(formula, inside), names), inside)
        return found["open"] + made + found["close"]

    return PLACE.sub(place, join(html))


def bracketed(inside: str) -> str:
    r"""Return the inside of a place for a formula; an environment of its own gets the brackets that others have."""
    return f"\\[{inside}\\]" if inside.lstrip().startswith("\\begin{") else inside


def join(html: str) -> str:
    """Return a page in which the formulas in the lines are joined with what belongs to them."""

    def one(found: re.Match[str]) -> str:
        number = found["number"] or ""
        if found[0] == found["formula"] or (number and not found["leads"]):
            return found[0]
        if found["leads"] == "{}":
            number = number.lstrip()  # the formula ends with a space of its own
        return f'<span class="joined">{found["before"]}{found["formula"]}{number}{found["after"]}</span>'

    return BESIDE.sub(one, html)


def typeset_page(html: str, prefix: str = "f") -> str:
    """Return a page, or a piece of one, with its formulas typeset; names of shared drawings begin with the prefix."""
    times = Counter(formula.drawing for source in sources(html) for formula in drawn(source))
    if not times:
        return html
    shared = [drawing for drawing, count in times.items() if count > 1 and len(drawing) > 60]
    names = {drawing: f"{prefix}{number}" for number, drawing in enumerate(shared)}
    html = filled(html, names)
    kept = store(dict.fromkeys(times, ""), names)
    return re.sub(r"<body[^>]*>", lambda body: body[0] + kept, html, count=1) if "<body" in html else kept + html


def letters_of(html: str) -> dict[str, str]:
    """Return the outlines of the letters that some HTML uses."""
    paths = outlines(typeset.cache_info().currsize)
    return {letter: paths[letter] for letter in dict.fromkeys(USED.findall(html))}


def typeset_alone(html: str) -> str:
    """Return a piece of a page with its formulas drawn in full; the letters are left to ``letters_of``."""
    return filled(html, {})


def typeset_pages(app: Sphinx, error: Exception | None) -> None:
    """Typeset the formulas of all pages that were written."""
    if error is not None or app.builder.format != "html":
        return
    for file in sorted(Path(app.outdir).rglob("*.html")):
        html = file.read_text(encoding="utf-8")
        try:
            made = typeset_page(html)
        except ValueError as fault:
            raise ExtensionError(f"{file.name}: {fault}") from fault
        if made != html:
            file.write_text(made, encoding="utf-8")
    finish()


def finish() -> None:
    """Stop the engine, and forget what it made: the next one starts without letters."""
    if engine.cache_info().currsize:
        engine().close()
    for function in (engine, typeset, widened, outlines):
        function.cache_clear()


def without_script(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: object) -> None:
    """Take out the script that would typeset in the browser."""
    context["script_files"] = [
        file for file in context["script_files"] if "mathjax" not in str(script_of(file)).lower()
    ]


def script_of(file: Any) -> str:  # noqa: ANN401
    """Return the address of a script, or its own text."""
    return f"{getattr(file, 'filename', file)} {getattr(file, 'attributes', {}).get('body', '')}"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register both with Sphinx."""
    app.connect("html-page-context", without_script, priority=900)
    app.connect("build-finished", typeset_pages, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
