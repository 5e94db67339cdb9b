"""Buttons that run a chapter in the browser: Colab and Binder, once the addresses of pages and repository are set.

Both open the reader's notebook, which lies beside the pages on the branch that ``release/publish.py`` prepares, and
both install its packages from the pages. So a button appears only if ``repository: url`` in ``_config.yml`` names a
place on GitHub and ``html: baseurl`` is set.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from docutils import nodes
from sphinx.application import Sphinx

BRANCH = "gh-pages"
REPOSITORY = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?")
TARGETS = {
    "Colab": "https://colab.research.google.com/github/{owner}/{name}/blob/{branch}/{file}",
    "Binder": "https://mybinder.org/v2/gh/{owner}/{name}/{branch}?urlpath={lab}",
}
LOGOS = {"Colab": "_static/images/logo_colab.png", "Binder": "_static/images/logo_binder.svg"}


def targets(repository: str, baseurl: str, page: str) -> dict[str, str]:
    """Return the address behind each button; nothing while an address is missing.

    Args:
        repository: the address of the repository.
        baseurl: that of the pages.
        page: the name of the page, such as ``book/divergence``.
    """
    found = REPOSITORY.fullmatch(repository)
    if not found or not baseurl:
        return {}
    file = f"_sources/{page}.ipynb"
    parts = {"owner": found[1], "name": found[2], "branch": BRANCH, "file": file, "lab": quote(f"lab/tree/{file}")}
    return {name: form.format(**parts) for name, form in TARGETS.items()}


def add_buttons(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: nodes.document | None) -> None:
    """Add the buttons to the header of a chapter."""
    if tree is None or Path(app.env.doc2path(page)).suffix != ".ipynb":
        return
    repository = app.config.html_theme_options.get("repository_url") or ""
    found = targets(repository, app.config.html_baseurl or "", page)
    buttons = [
        {"type": "link", "text": name, "tooltip": f"Run on {name}", "icon": LOGOS[name], "url": url}
        for name, url in found.items()
    ]
    if buttons:
        group = {"type": "group", "tooltip": "Run this chapter", "icon": "fas fa-rocket", "label": "launch-buttons"}
        context["header_buttons"].append({**group, "buttons": buttons})


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the buttons with Sphinx."""
    app.connect("html-page-context", add_buttons, priority=502)  # after those of the theme
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
