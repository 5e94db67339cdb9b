"""All figures on one page: the directive ``{figure-list}``, and their files beside it.

The list is made from the finished pages, so that captions and numbers are those of the chapters. For each figure the
folder ``figures`` of the pages gets the drawing as the notebook stores it (SVG, or a picture of points), the drawing as
a PDF and its arrays where ``make figures`` has made them, else the arrays if it shows trained networks. A zip
has all, with caption, description and licence in ``figures.json``.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import PIL.Image
from bs4 import BeautifulSoup, SoupStrainer
from claims import chapter_files
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

FOLDER, DRAWN = "figures", Path("_build") / "figures"
SMALL, WIDTH = "thumbnails", 240  # their folder, and their size in pixels
PLACE = '<div id="figure-list"></div>'
LICENCE = "CC BY 4.0, The contributors"
BEGINNING = (1980, 1, 1, 0, 0, 0)  # the time of all files in the zip: the same content gives the same bytes
NAMES = {".svg": "SVG", ".pdf": "PDF", ".png": "PNG", ".npz": "arrays"}


@dataclass
class Figure:
    """A figure of a chapter: name, chapter, number, caption as HTML and as text, description, files, small picture."""

    name: str
    chapter: str
    number: str
    caption: str
    text: str
    description: str
    source: str
    files: list[str] = field(default_factory=list)
    small: str = ""

    def html(self) -> str:
        """Return the entry of the figure."""
        links = ", ".join(f'<a href="../{FOLDER}/{file}">{NAMES[Path(file).suffix]}</a>' for file in self.files)
        return (
            f'<div class="figure-entry" id="list-{self.name}">'
            f'<img class="thumbnail" src="../{self.small}" alt="" loading="lazy">'
            f'<p><a href="{self.chapter}.html#{self.name}"><strong>{self.number}</strong></a> {self.caption}</p>'
            f'<p class="figure-files">{links}</p>'
            f"<details class='fold'><summary><span class='fold-title'>In words</span></summary>"
            f"<div class='fold-body'><p>{escape(self.description)}</p></div></details></div>"
        )

    def entry(self) -> dict[str, object]:
        """Return what the list in the zip says."""
        kept = {key: value for key, value in asdict(self).items() if key not in ("caption", "text", "source", "small")}
        return {**kept, "caption": self.text, "licence": LICENCE}


class FigureList(SphinxDirective):
    """The directive ``{figure-list}``: a place that is filled when all pages are there."""

    def run(self) -> list[nodes.Node]:
        """Return the place."""
        return [nodes.raw("", PLACE, format="html")]


def load_formulas(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: nodes.document | None) -> None:
    """Let a page with the list set formulas, though it has none of its own."""
    if tree is not None and any(node.astext() == PLACE for node in tree.findall(nodes.raw)):
        app.env.get_domain("math").data["has_equations"][page] = True


def figures_of(page: str, chapter: str) -> tuple[str, list[Figure]]:
    """Return the title of a page and its figures, from its HTML."""
    article = BeautifulSoup(page, "html.parser", parse_only=SoupStrainer(["h1", "figure"]))
    if article.h1 is None:
        raise ValueError(f"{chapter} has no title")
    for useless in article.select(".headerlink, .section-number"):
        useless.decompose()
    found = []
    for element in article.select("figure[id]"):
        image, caption = element.find("img"), element.select_one(".caption-text")
        number = element.select_one(".caption-number")
        if image is None or caption is None or number is None:
            continue
        found.append(
            Figure(
                name=element["id"],
                chapter=chapter,
                number=number.get_text(strip=True),
                caption=caption.decode_contents(),
                text=" ".join(caption.get_text().split()),
                description=image.get("alt", ""),
                source=image["src"],
            )
        )
    return " ".join(article.h1.get_text().split()), found


def collect(figure: Figure, pages: Path, root: Path) -> None:
    """Copy the files of a figure to their place, and note them.

    A drawing that is older than the notebook is left out: it may show what the chapter showed once.

    Args:
        figure: the figure.
        pages: the folder of the built pages.
        root: the folder of the project.
    """
    picture = (pages / "book" / figure.source).resolve()
    notebook = root / "book" / f"{figure.chapter}.ipynb"
    drawn = [root / DRAWN / f"{figure.name}{suffix}" for suffix in (".pdf", ".npz")]
    current = [path for path in drawn if path.exists() and path.stat().st_mtime > notebook.stat().st_mtime]
    recorded = root / "book" / "figures" / f"{figure.name}.npz"
    arrays = [path for path in (recorded, *current) if path.exists() and path.suffix == ".npz"][:1]
    for source in [*(path for path in current if path.suffix == ".pdf"), picture, *arrays]:
        name = f"{figure.name}{source.suffix}"
        shutil.copy(source, pages / FOLDER / name)
        figure.files.append(name)
    figure.small = small_picture(picture, pages, figure.name)


def small_picture(picture: Path, pages: Path, name: str) -> str:
    """Return the address of a small picture, which is made from a picture of points; a drawing is its own."""
    if picture.suffix == ".svg":
        return f"{FOLDER}/{name}.svg"
    with PIL.Image.open(picture) as opened:
        image = opened.convert("RGB")
    image.thumbnail((WIDTH, WIDTH), PIL.Image.Resampling.LANCZOS)
    image.save(pages / SMALL / f"{name}.webp", quality=60, method=6)
    return f"{SMALL}/{name}.webp"


def chapters(app: Sphinx) -> Iterator[tuple[str, str, list[Figure]]]:
    """Yield name, title and figures of each chapter."""
    for file in chapter_files(Path(app.srcdir)):
        page = Path(app.outdir) / "book" / f"{file.stem}.html"
        yield file.stem, *figures_of(page.read_text(encoding="utf-8"), file.stem)


def write_zip(folder: Path, entries: list[dict[str, object]]) -> None:
    """Put all files of a folder into a zip in it, with their list."""
    text = json.dumps(entries, indent=2, ensure_ascii=False) + "\n"
    (folder / "figures.json").write_text(text, encoding="utf-8", newline="\n")
    with zipfile.ZipFile(folder / "figures.zip", "w", zipfile.ZIP_DEFLATED) as target:
        for path in sorted(path for path in folder.iterdir() if path.suffix != ".zip"):
            entry = zipfile.ZipInfo(f"figures/{path.name}", BEGINNING)
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            target.writestr(entry, path.read_bytes())


def fill(app: Sphinx, error: Exception | None) -> None:
    """Fill the page, when all pages are there."""
    pages = Path(app.outdir)
    page = pages / "book" / "figures.html"
    if error is not None or app.builder.format != "html" or not page.exists():
        return
    for folder in (pages / FOLDER, pages / SMALL):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    parts, entries = [], []
    for name, title, figures in chapters(app):
        for figure in figures:
            collect(figure, pages, Path(app.srcdir))
            entries.append(figure.entry())
        shown = "".join(figure.html() for figure in figures)
        parts.append(f'<section id="figures-of-{name}"><h2>{escape(title)}</h2>{shown}</section>')
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace(PLACE, "".join(parts)), encoding="utf-8")
    write_zip(pages / FOLDER, entries)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive with Sphinx."""
    app.add_directive("figure-list", FigureList)
    app.connect("html-page-context", load_formulas, priority=100)  # before Sphinx asks which pages have formulas
    app.connect("build-finished", fill, priority=600)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
