"""A small Sphinx extension: every picture has its natural size on the page, whatever its resolution.

A picture of a cell is shown at 100 pixels of the page an inch, and never wider than the text. For a drawing (SVG) the
size in inches is in the file; for a picture of points (PNG) it follows from the pixels and the resolution, which the
file holds as well. Where a cell asks for a width (``image: width`` in its metadata), that holds.

A wide picture gets the class ``wide`` and says where its panels are (``panels.py``): on a phone they stand below each
other (``reading.js``). One without panels keeps a size at which its labels can be read, and scrolls in its own box
(``book.css``). Only a wide picture is a link to its full size, so that the keyboard reaches the box.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import panels
import PIL.Image
from docutils import nodes
from sphinx.application import Sphinx

PIXELS = 100  # of the page, for an inch of a figure
WIDE = 7  # inches: the pictures that fill the column of a desktop page
RESOLUTION = 110  # of a picture of points that does not tell, in pixels an inch
IN_AN_INCH = {"pt": 72, "in": 1, "cm": 2.54, "mm": 25.4, "pc": 6, "px": 96, "": 96}
WIDE_IMAGE = re.compile(r'<img\b(?=[^>]*\bclass="[^"]*\bwide\b)(?=[^>]*\bsrc="([^"]*)")')
SVG_WIDTH = re.compile(r"<svg\b[^>]*?\swidth=[\"']([\d.]+)(\w*)[\"']", re.DOTALL)


def width_in_inches(file: Path) -> float | None:
    """Return how wide a picture is; None if its file does not tell."""
    if file.suffix == ".svg":
        found = SVG_WIDTH.search(file.read_text(encoding="utf-8"))
        return float(found[1]) / IN_AN_INCH[found[2]] if found and found[2] in IN_AN_INCH else None
    if file.suffix == ".png":
        with PIL.Image.open(file) as picture:
            return picture.width / picture.info.get("dpi", (RESOLUTION,))[0]
    return None


def size_pictures(app: Sphinx, tree: nodes.document, name: str) -> None:
    """Give every picture of a page its width, and the wide ones their class."""
    for image in tree.findall(nodes.image):
        file = Path(app.srcdir) / image["uri"]
        inches = width_in_inches(file) if file.exists() else None
        if inches is None:
            continue
        image["classes"].append("wide" if inches >= WIDE else "no-scaled-link")
        image.setdefault("width", f"{inches * PIXELS:.0f}px")


def show_panels(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: object) -> None:
    """Tell every wide picture of a page where its panels are."""
    files = {Path(kept).name: Path(app.srcdir) / source for source, (_, kept) in app.env.images.items()}

    def one(image: re.Match[str]) -> str:
        file = files[Path(image[1]).name]
        found = panels.panels(file)
        parts = " ".join(",".join("-".join(map(str, part)) for part in panel) for panel in found)
        return f'{image[0]} data-panels="{parts}" data-ratio="{panels.ratio(file):.4f}"' if found else image[0]

    if "body" in context:
        context["body"] = WIDE_IMAGE.sub(one, context["body"])


def setup(app: Sphinx) -> dict[str, Any]:
    """Register both with Sphinx."""
    app.connect("doctree-resolved", size_pictures)
    app.connect("html-page-context", show_panels)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
