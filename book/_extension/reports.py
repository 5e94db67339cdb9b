"""A small Sphinx extension: beside each statement, figure and exercise, a link that opens a report of an error.

The report is filled in: kind, number and label, and the edition and the commit that the pages were built from. The
links appear once ``repository: url`` in ``_config.yml`` names a place on GitHub.
"""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from docutils import nodes
from launch import REPOSITORY
from sphinx.application import Sphinx

KINDS = {"figure": "Figure", "exercise": "Exercise"}
BODY = """What is wrong:


Where: {name}, `{label}`, on the page `{page}`
Edition: {edition}
Commit: {commit}
"""


def edition(root: Path) -> str:
    """Return the version of a book."""
    file = root / "pyproject.toml"
    if not file.exists():
        return "unknown"
    return str(tomllib.loads(file.read_text(encoding="utf-8"))["project"]["version"])


@cache
def commit(root: Path) -> str:
    """Return the commit of a folder."""
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def numbered(app: Sphinx, page: str, tree: nodes.document) -> Iterator[tuple[nodes.Element, str, str]]:
    """Yield the statements, figures and exercises of a page, each with its name and its label."""
    numbers = {
        label: (kind, ".".join(map(str, number)))
        for kind, counted in app.env.toc_fignumbers.get(page, {}).items()
        for label, number in counted.items()
    }
    for node in tree.findall(nodes.Element):
        label = next((name for name in node.get("ids", []) if name in numbers), "")
        if not label:
            continue
        kind, number = numbers[label]
        kind = node["realtype"].title() if node.get("realtype") else KINDS.get(kind, "")
        if kind:
            yield node, f"{kind} {number}", label


def form_of(repository: str) -> str:
    """Return the address at which a repository takes reports, or nothing."""
    found = REPOSITORY.fullmatch(repository)
    return f"https://github.com/{found[1]}/{found[2]}/issues/new" if found else ""


def address_of(form: str, name: str, **where: str) -> str:
    """Return the address of a new report about a thing of this name."""
    title = f"{name} ({where['label']}): "
    return f"{form}?{urlencode({'title': title, 'body': BODY.format(name=name, **where)})}"


def add_links(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Put a link behind each title and caption."""
    form = form_of(app.config.html_theme_options.get("repository_url") or "")
    if not form or app.builder.format != "html":
        return
    root = Path(app.srcdir)
    built = {"edition": edition(root), "commit": commit(root)}
    for node, name, label in list(numbered(app, page, tree)):
        address = address_of(form, name, label=label, page=page, **built)
        words = escape(f"Report an error in {name}")
        link = f'<a class="report" href="{escape(address)}" title="{words}" aria-label="{words}"></a>'
        title = next(iter(node.findall(lambda part: isinstance(part, nodes.title | nodes.caption))), None)
        if title is not None:
            title += nodes.raw("", link, format="html")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the links with Sphinx."""
    app.connect("doctree-resolved", add_links)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
