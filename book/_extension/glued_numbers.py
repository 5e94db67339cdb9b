"""A small Sphinx extension: numbers that code glues into the text are set as a book sets them.

``6e-10`` becomes 6·10 with the exponent raised, ``-0.3`` gets a true minus, ``-0.00`` loses its sign, ``12%`` gets its
space, and blanks around a number go. This holds for the role ``{glue:text}``, in paragraphs, tables and captions.
No line ends before a per cent sign, glued or not. Anything else stays as it is.

A bound is rounded so that it stays one: the format ``<.1f`` rounds down, for "at least", and ``>.1f`` rounds up.
"""

from __future__ import annotations

import re
from ast import literal_eval
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from typing import Any

from docutils import nodes
from myst_nb.core.variables import format_plain_text
from myst_nb.ext.glue import crossref, roles
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform

GLUED = "pasted-text"
MINUS = "\N{MINUS SIGN}"
NUMBER = re.compile(
    r"(?P<sign>(?<![\w.)])-)?(?<![\w.])(?P<digits>\d[\d,]*(?:\.\d+)?)(?:e(?P<exponent>[+-]?\d+))?(?![\w.]*\w)"
)
PER_CENT = re.compile(r"(?<=\d)%")
LOOSE_PER_CENT = re.compile(r"(?:(?<=\d)|^) %")  # in a text; at its beginning a number stands before the text
ROUNDING = {"<": ROUND_FLOOR, ">": ROUND_CEILING}
"""By the first letter of a format; without this extension it aligns, which changes no number that has no width."""
AS_WRITTEN = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.comment)


def format_bound(text: str, spec: str) -> str:
    """Format a glued value; one whose format begins with < or > is rounded down or up."""
    if spec[:1] not in ROUNDING:
        return format_plain_text(text, spec)
    value = Decimal(f"{float(literal_eval(text)):.12g}")  # without the rounding of the computation
    with localcontext() as context:
        context.rounding = ROUNDING[spec[0]]
        return format(value, spec[1:])


def parts_of(text: str) -> list[tuple[str, str]]:
    """Return a text as pieces: pairs of what stands on the line and of the exponent after it, which may be empty."""
    pieces, end = [], 0
    text = PER_CENT.sub("\N{NO-BREAK SPACE}%", text.strip())
    for number in NUMBER.finditer(text):
        digits, power = number["digits"], int(number["exponent"] or 0)
        if not digits.strip("0.,"):
            sign, power = "", 0
        else:
            sign = MINUS if number["sign"] else ""
        if power:
            digits = "10" if digits == "1" else f"{digits}·10"
        pieces.append((text[end : number.start()] + sign + digits, str(power).replace("-", MINUS) if power else ""))
        end = number.end()
    return [*pieces, (text[end:], "")] if text[end:] else pieces


def set_numbers(document: nodes.document) -> None:
    """Rewrite what is glued into a page. To do so twice changes nothing more."""
    for node in document.findall(nodes.inline):
        if GLUED not in node["classes"] or len(node) != 1 or not isinstance(node[0], nodes.Text):
            continue
        children: list[nodes.Node] = []
        for line, exponent in parts_of(node.astext()):
            children.append(nodes.Text(line))
            if exponent:
                children.append(nodes.superscript("", exponent))
        node.children = []
        node.extend(children)


def join_per_cent(document: nodes.document) -> None:
    """Join per cent signs with the numbers before them, outside of code and formulas."""
    for text in list(document.findall(nodes.Text)):
        joined = LOOSE_PER_CENT.sub("\N{NO-BREAK SPACE}%", text)
        if joined != text and not isinstance(text.parent, AS_WRITTEN):
            text.parent.replace(text, nodes.Text(joined))


class Numbers(SphinxTransform):
    """Set what a page glues from its own cells."""

    default_priority = 400

    def apply(self, **options: object) -> None:
        """Change the tree of one page."""
        set_numbers(self.document)
        join_per_cent(self.document)


class NumbersOfOtherPages(SphinxPostTransform):
    """Set what a page glues from another one: it is not known before."""

    default_priority = 10  # after the values have come in

    def run(self, **options: object) -> None:
        """Change the tree of one page."""
        set_numbers(self.document)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register both with Sphinx, and the rounding of bounds with what reads the glue."""
    roles.format_plain_text = crossref.format_plain_text = format_bound
    app.add_transform(Numbers)
    app.add_post_transform(NumbersOfOtherPages)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
