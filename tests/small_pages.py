"""A page of the book in miniature: what the extensions make of a text, without the rest of the book."""

import base64
import io
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import jupytext
import nbformat
from bs4 import BeautifulSoup
from PIL import Image
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book" / "_extension"))

SETTINGS = {
    "extensions": ["myst_nb", "sphinx_proof", "sphinx_exercise", "sphinx_design", "folds"],
    "html_theme": "basic",
    "nb_execution_mode": "off",
    "numfig": True,
    "numfig_format": {"figure": "Figure %s", "exercise": "Exercise %s"},
    "myst_enable_extensions": ["amsmath", "colon_fence", "dollarmath"],
    "source_suffix": {".md": "myst-nb", ".ipynb": "myst-nb"},
    "suppress_warnings": ["mystnb.lexer"],
}


def png(width: int = 4, height: int = 3, dpi: float | None = None) -> nbformat.NotebookNode:
    """The output of a cell that shows a picture of points."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "white").save(buffer, "png", **({"dpi": (dpi, dpi)} if dpi else {}))
    return nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(buffer.getvalue()).decode()})


def svg(width_in_points: float, height_in_points: float) -> nbformat.NotebookNode:
    """The output of a cell that shows a drawing."""
    size = f'width="{width_in_points}pt" height="{height_in_points}pt"'
    return nbformat.v4.new_output(
        "display_data", {"image/svg+xml": f'<svg xmlns="http://www.w3.org/2000/svg" {size}></svg>'}
    )


def stdout(text: str) -> nbformat.NotebookNode:
    """The output of a cell that prints."""
    return nbformat.v4.new_output("stream", text=text)


def glued(**values: object) -> list[nbformat.NotebookNode]:
    """The outputs of a cell that glues values; an underscore becomes a hyphen."""
    return [
        nbformat.v4.new_output(
            "display_data",
            {"application/papermill.record/text/plain": repr(value)},
            metadata={"scrapbook": {"mime_prefix": "application/papermill.record/", "name": name.replace("_", "-")}},
        )
        for name, value in values.items()
    ]


def build(
    folder: Path,
    text: str,
    outputs: Mapping[int, list[nbformat.NotebookNode]] | None = None,
    *,
    extensions: tuple[str, ...] = (),
    more: Mapping[str, str] | None = None,
    theme: str | None = None,
    more_settings: Mapping[str, object] | None = None,
) -> BeautifulSoup:
    """Build the page ``index.html`` from Markdown, and return its HTML.

    Args:
        folder: where to build; the pages come into its folder ``html``.
        text: of the page.
        outputs: of its code cells, by their number from zero.
        extensions: more than those that every page has.
        more: the texts of other pages, by the names of their files.
        theme: a real one, with the book's own look; by default a plain page.
        more_settings: of Sphinx, beside those of all these pages.
    """
    source, target = folder / "source", folder / "html"
    shutil.rmtree(folder, ignore_errors=True)
    (source / "_static").mkdir(parents=True)
    (source / "conf.py").touch()
    notebook = jupytext.reads(text, fmt="md:myst")
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, shown in (outputs or {}).items():
        cells[number].outputs = shown
    nbformat.write(notebook, source / "index.ipynb")
    for name, content in (more or {}).items():
        (source / name).write_text(content, encoding="utf-8")

    settings = {**SETTINGS, "extensions": [*SETTINGS["extensions"], *extensions]}
    if theme is not None:
        shutil.copytree(ROOT / "book" / "_static", source / "_static", dirs_exist_ok=True)
        files = {"html_static_path": ["_static"], "html_css_files": ["formulas.css", "book.css"]}
        settings |= {"html_theme": theme, **files}
    settings |= more_settings or {}
    with patch_docutils(), docutils_namespace():
        app = Sphinx(source, source, target, folder / "doctrees", "html", settings, status=None, warning=io.StringIO())
        app.build(force_all=True)
        warnings = app._warning.getvalue()
    assert not warnings, warnings
    return BeautifulSoup((target / "index.html").read_text(encoding="utf-8"), "html.parser")
