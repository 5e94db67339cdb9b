"""The page of the library: docstrings, as they stand in the code, made into reStructuredText for ``autodoc``.

The docstrings of ``invlib`` are written to be read in an editor: formulas in dollars, names of code in single
backticks, chapters as ``book/NAME.md``. Before ``napoleon`` takes their sections apart,

- ``$...$`` and ``$$...$$`` become formulas;
- a name of the library in backticks becomes a link to its entry, anything else in backticks a literal;
- ``book/NAME.md`` becomes a link to the chapter;
- a vertical bar, which would open a substitution, stays one;
- a class or function that names no chapter itself gets the chapters that its module names.

Examples (lines from ``>>>`` to the next empty one) stay as they are.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from sphinx.application import Sphinx

MARKED = re.compile(
    r"(?P<literal>``.+?``)"
    r"|\$\$(?P<display>.+?)\$\$"
    r"|\$(?P<formula>[^$]+)\$"
    r"|`book/(?P<page>[\w-]+)\.md`"
    r"|`(?P<name>[^`]+)`"
    r"|(?P<bar>\|)",
    flags=re.DOTALL,
)

PAGE = re.compile(r"book/([\w-]+)\.md")

FOREIGN = r"(?!invlib)[\w., ]+"
"""Names that are not of this library: there is nothing here to link them to."""


def is_public(name: str) -> bool:
    """Whether the library exports a name, so that it has an entry on the page."""
    return name in sys.modules["invlib"].__all__


def as_rst(match: re.Match[str]) -> str:
    """Return the reStructuredText of one marked piece of a docstring."""
    if match["literal"]:
        return match["literal"]
    if match["bar"]:
        return r"\|"
    if match["formula"]:
        return f":math:`{' '.join(match['formula'].split())}`"
    if match["display"]:
        return f"\n\n.. math:: {' '.join(match['display'].split())}\n\n"
    if match["page"]:
        return f":doc:`/book/{match['page']}`"

    name = " ".join(match["name"].split()).removeprefix("invlib.")
    if is_public(name.split(".")[0]):
        return f":py:obj:`{name} <invlib.{name}>`"
    return f"``{' '.join(match['name'].split())}``"


def convert(text: str) -> str:
    """Return a docstring as reStructuredText, but for its sections."""
    paragraphs = re.split(r"(\n[ ]*\n)", text)
    return "".join(part if ">>>" in part else MARKED.sub(as_rst, part) for part in paragraphs)


def chapters(thing: object, text: str) -> str:
    """Return a sentence with the chapters of a thing's module, if its own docstring names none."""
    module = sys.modules[getattr(thing, "__module__", "invlib")]
    pages = list(dict.fromkeys(PAGE.findall(module.__doc__ or "")))
    if PAGE.search(text) or not pages:
        return ""
    return "See " + " and ".join(f":doc:`/book/{page}`" for page in pages) + "."


def process(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Rewrite a docstring in place: it is an event of ``autodoc``."""
    text = "\n".join(lines)
    result = convert(text).split("\n")

    closing = chapters(thing, text) if what in ("class", "exception", "function") else ""
    if closing:
        first = next((i for i, line in enumerate(result) if not line.strip()), len(result))
        result[first:first] = ["", closing]
    lines[:] = result


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the conversion, ahead of that of ``napoleon``."""
    app.config.autodoc_typehints = "none"
    app.config.autodoc_member_order = "bysource"
    app.config.autodoc_preserve_defaults = True
    app.config.napoleon_custom_sections = [("Attributes", "params_style")]
    app.config.nitpick_ignore_regex = [("py:.*", FOREIGN)]
    app.connect("autodoc-process-docstring", process, priority=100)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
