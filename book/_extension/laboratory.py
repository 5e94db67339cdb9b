"""Bring the figures of class ``laboratory`` to life: their pages, and only these, load the scripts in ``_static/lab``.

The scripts put what can be moved in the place of the still picture; the caption stays. Without them the picture stays.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

SCRIPTS = ("mathematics", "networks", "drawing", "laboratory")  # in this order
MORE = ("curves", "training")  # of the figures that need them
WITH_MORE = ("fig-lab-line", "fig-lab-filter", "fig-lab-train")


def add_scripts(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: nodes.document | None) -> None:
    """Load the scripts and the style sheet on a page that has such a figure."""
    figures = [figure for figure in tree.findall(nodes.figure) if "laboratory" in figure["classes"]] if tree else []
    if not figures:
        return
    all_names = {name for figure in figures for name in figure["ids"]}
    for name in SCRIPTS + (MORE if all_names & set(WITH_MORE) else ()):
        app.add_js_file(f"lab/{name}.js", loading_method="defer")
    app.add_css_file("lab/lab.css")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the scripts with Sphinx."""
    app.connect("html-page-context", add_scripts)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
