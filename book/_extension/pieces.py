"""Find what a page can be asked for: sections, statements, exercises, equations, figures, tables, terms, literature.

Plain functions on the HTML of a page, before its formulas are typeset; the search and the previews are made of them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape

NAME = r'\bid="(?P<name>[^"]+)"'
KINDS = {
    "statement": rf'<div class="(?:proof|exercise) [^"]*admonition" {NAME}>.*?</section>\s*</div>',
    "equation": rf'<div class="math notranslate nohighlight" {NAME}>.*?</div>',
    "figure": rf"<figure [^>]*{NAME}>.*?</figure>",
    "table": rf"<table [^>]*{NAME}>.*?</table>",
    "term": rf"<dt {NAME.replace('[^', 'term-[^')}>.*?</dd>",
    "code": rf'<dt class="sig[^"]*" {NAME}>.*?(?=<dt class="sig|</section>|<h\d)',
    "literature": rf'<div class="citation" {NAME}[^>]*>.*?</div>',
}
TITLES = {
    "statement": r'<p class="admonition-title">(.*?)</p>',
    "equation": r'<span class="eqno">(.*?)<a ',
    "figure": r'<span class="caption-number">(.*?)</span>',
    "table": r"<caption>(.*?)</caption>",
    "term": r'(?s)<dt[^>]*>(.*?)<a class="headerlink"',
    "code": r'id="([^"]+)"',
    "literature": r"<p>(.*?)</p>",
}
HEADING = re.compile(
    r'<h([1-6])[^>]*>(?P<title>.*?)<a class="headerlink" href="#(?P<name>[^"]+)"[^>]*>.*?</a>', re.DOTALL
)

GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigmaf sigma tau upsilon"
)
LETTERS = dict(zip(GREEK.split(), "αβγδεζηθικλμνξοπρςστυ", strict=True)) | {
    **{"varphi": "φ", "phi": "ϕ", "chi": "χ", "psi": "ψ", "omega": "ω", "varepsilon": "ε", "Gamma": "Γ", "Delta": "Δ"},
    **{"Theta": "Θ", "Lambda": "Λ", "Xi": "Ξ", "Pi": "Π", "Sigma": "Σ", "Phi": "Φ", "Psi": "Ψ", "Omega": "Ω"},
    **{
        "nabla": "∇",
        "partial": "∂",
        "infty": "∞",
        "sum": "∑",
        "int": "∫",
        "prod": "∏",
        "in": "∈",
        "to": "→",
        "le": "≤",
    },
    **{"ge": "≥", "ne": "≠", "leq": "≤", "geq": "≥", "neq": "≠", "approx": "≈", "sim": "∼", "cdot": "·", "times": "×"},
    **{"lVert": "‖", "rVert": "‖", "lvert": "|", "rvert": "|", "langle": "⟨", "rangle": "⟩", "mid": "|", "pm": "±"},
    **{"circ": "∘", "dots": "…", "ldots": "…", "cdots": "…", "mapsto": "↦", "iff": "⇔", "quad": " ", "qquad": " "},
    **{"top": "ᵀ", "star": "*", "ast": "*", "ell": "ℓ", "subset": "⊂", "cup": "∪", "cap": "∩", "prime": "′", "ll": "≪"},
}
ACCENTS = {
    "hat": "\u0302",
    "widehat": "\u0302",
    "bar": "\u0304",
    "overline": "\u0304",
    "tilde": "\u0303",
    "dot": "\u0307",
}
OPERATORS = ("log", "exp", "det", "tr", "div", "min", "max", "arg", "inf", "sup", "sin", "cos", "tanh")
HALVES = {"12": "½", "14": "¼", "13": "⅓"}


@dataclass(frozen=True)
class Piece:
    """What a page can be asked for: its kind, name as a target of links, title, and HTML."""

    kind: str
    name: str
    title: str
    html: str


def pieces(body: str) -> Iterator[Piece]:
    """Yield the pieces of the body of a page."""
    for kind, pattern in KINDS.items():
        for found in re.finditer(pattern, body, re.DOTALL):
            title = re.search(TITLES[kind], found[0])
            if title or kind != "equation":
                yield Piece(kind, found["name"], plain(title[1]) if title else "", found[0])


def sections(body: str) -> Iterator[Piece]:
    """Yield the sections of a page, each up to the next heading, without what is a piece of its own kind."""
    headings = list(HEADING.finditer(body))
    for heading, following in zip(headings, [*headings[1:], None], strict=True):
        inside = body[heading.end() : following.start() if following else len(body)]
        for kind in ("statement", "figure", "code"):
            inside = re.sub(KINDS[kind].replace("?P<name>", "?:"), " ", inside, flags=re.DOTALL)
        kind = "page" if heading is headings[0] else "section"
        yield Piece(kind, heading["name"], plain(heading["title"]), inside)


def symbols(body: str) -> Iterator[Piece]:
    """Yield the rows of the tables of a page, each by its first cell, as parts of their table or section."""
    for heading in re.finditer(r'<section id="([^"]+)">(.*?)(?=<section id|</article>|\Z)', body, re.DOTALL):
        for row in re.finditer(r"<tr[^>]*><td[^>]*>(.*?)</td>(.*?)</tr>", heading[2], re.DOTALL):
            yield Piece("symbol", heading[1], plain(row[1]), row[2])


# Words


def unicode_formula(tex: str) -> str:
    """Return a formula as far as letters can say it: no command is left."""
    tex = unescape(tex)
    tex = re.sub(r"\\(?:begin|end)\{[^}]*\}(?:\[[^]]*\])?|\\(?:label|tag)\{[^}]*\}", " ", tex)
    tex = re.sub(r"\\[td]?frac\s*(?:(\d)\s*(\d)|\{(\d)\}\{(\d)\})", lambda f: half(f[1] or f[3], f[2] or f[4]), tex)
    tex = re.sub(r"\\[td]?frac", " ", tex)
    accent = "|".join(ACCENTS)
    tex = re.sub(
        rf"\\({accent})\s*(?:\{{\s*(\\?[A-Za-z]+)\s*\}}|(\\[A-Za-z]+|[A-Za-z]))",
        lambda found: letter(found[2] or found[3]) + ACCENTS[found[1]],
        tex,
    )
    tex = re.sub(r"\\(?:left|right|big|Big|bigl|bigr|Bigl|Bigr)\b", "", tex)
    tex = re.sub(r"\\[A-Za-z]+", lambda found: letter(found[0]), tex)
    tex = re.sub(r"\\.|[{}&~$]", " ", tex).replace("^", "").replace("_", "")
    return " ".join(unicodedata.normalize("NFC", tex).split())


def half(above: str, below: str) -> str:
    """Return a small fraction."""
    return HALVES.get(above + below, f"{above}/{below}")


def letter(command: str) -> str:
    """Return the letter for a command of TeX, its name for an operator, and nothing for the shape of letters."""
    name = command.lstrip("\\")
    if name in LETTERS:
        return LETTERS[name]
    return name if name in OPERATORS or not command.startswith("\\") else " "


def plain(html: str) -> str:
    """Return what a reader sees of a piece of a page, as one line: no code, no labels of buttons, no TeX."""
    html = re.sub(r'<p class="used-in">.*?</p>', " ", html, flags=re.DOTALL)
    html = re.sub(r"<(pre|script|style|svg|button|summary)\b.*?</\1>", " ", html, flags=re.DOTALL)
    html = re.sub(r'<span class="eqno">.*?</span>|<a class="headerlink".*?</a>', " ", html, flags=re.DOTALL)
    html = re.sub(r"\\\((.+?)\\\)|\\\[(.+?)\\\]", lambda f: formula_words(f[1] or f[2]), html, flags=re.DOTALL)
    text = unescape(re.sub(r"</?(?:span|em|strong|a|sub|sup|code|cite)\b[^>]*>", "", html))
    return " ".join(re.sub(r"<[a-zA-Z/][^>]*>", " ", text).split())


def formula_words(tex: str) -> str:
    """Return a formula as text inside of HTML."""
    return unicode_formula(tex).replace("<", "‹").replace(">", "›").replace("&", " ")
