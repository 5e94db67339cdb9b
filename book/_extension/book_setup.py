"""A small Sphinx extension: MathJax from disk, unique names, buttons that wait for an address.

*MathJax.* The package ``sphinx-mathjax-offline`` ships a complete MathJax. The book needs only one
of its files, plus the TeX extensions that MathJax loads on demand. The SVG output needs no web
fonts, so formulas also work where a browser refuses to load fonts for a page opened from disk.

*Names.* The names that ``sphinx-proof`` and ``sphinx-exercise`` give to all their bodies alike become unique, as HTML
asks for.

*Descriptions.* Every page tells search engines, and those who show links, its title and its first paragraph that needs
no formula; once ``html: baseurl`` is set, also its address and its first picture of points.

*Address.* The buttons that lead to the repository appear once ``repository: url`` in
``_config.yml`` is set.
"""

from __future__ import annotations

import re
from html import escape, unescape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError
from sphinx.util.fileutil import copy_asset

MATHJAX_PACKAGE = "sphinx-mathjax-offline"
MATHJAX_FILES = ("tex-svg.js", "input/tex/extensions")
REPEATED = ("proof-content", "exercise-content", "solution-content")
SHORTEST, LONGEST = 60, 200  # letters of a description
ADDRESS_BUTTONS = ("use_repository_button", "use_edit_page_button", "use_issues_button")


def mathjax_folder() -> Path:
    """Return the folder of the installed MathJax."""
    spec = find_spec(MATHJAX_PACKAGE)
    if spec is None or spec.origin is None:
        raise ExtensionError(f"{MATHJAX_PACKAGE} is missing: pip install -r requirements.txt")
    return Path(spec.origin).parent / "static" / "mathjax"


def copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Copy the needed part of MathJax into the built pages."""
    if error is not None or app.builder.format != "html":
        return
    target = Path(app.outdir) / "_static" / "mathjax"
    for name in MATHJAX_FILES:
        source = mathjax_folder() / name
        place = target / name if source.is_dir() else (target / name).parent
        place.mkdir(parents=True, exist_ok=True)
        copy_asset(str(source), str(place))


def make_names_unique(app: Sphinx, tree: nodes.document) -> None:
    """Number the bodies of statements, exercises and solutions."""
    for count, node in enumerate(tree.findall(nodes.section), start=1):
        if node["ids"] and node["ids"][0] in REPEATED:
            node["ids"][0] += f"-{count}"


def describe(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: nodes.document | None) -> None:
    """Put a description into the head of a page."""
    plain = (node.astext() for node in tree.findall(is_plain_paragraph)) if tree else ()
    text = next((" ".join(text.split()) for text in plain if len(text) > SHORTEST), app.config.html_title)
    if len(text) > LONGEST:
        text = text[:LONGEST].rsplit(" ", 1)[0] + " …"
    title = unescape(re.sub("<[^>]+>", "", context.get("title", ""))) or app.config.html_title
    tags = [
        ("name", "description", text),
        ("property", "og:title", title),
        ("property", "og:description", text),
        ("property", "og:type", "article" if tree else "website"),
        ("property", "og:site_name", app.config.html_title),
        *(("property", name, address) for name, address in addresses(app.config.html_baseurl, page, tree).items()),
    ]
    lines = [f'<meta {kind}="{name}" content="{escape(content)}" />' for kind, name, content in tags]
    context["metatags"] = "\n".join([context.get("metatags", ""), *lines])


def addresses(baseurl: str | None, page: str, tree: nodes.document | None) -> dict[str, str]:
    """Return the address of a page and that of its first picture of points; nothing if the pages have no address."""
    if not baseurl:
        return {}
    base = baseurl.rstrip("/")
    pictures = (Path(image["uri"]).name for image in tree.findall(nodes.image)) if tree else ()
    first = next((name for name in pictures if name.endswith(".png")), None)
    return {"og:url": f"{base}/{page}.html", **({"og:image": f"{base}/_images/{first}"} if first else {})}


def is_plain_paragraph(node: nodes.Node) -> bool:
    """Tell whether a node is a paragraph of a section that needs no formula."""
    if not isinstance(node, nodes.paragraph) or not isinstance(node.parent, nodes.section):
        return False
    return not any(node.findall(lambda part: isinstance(part, nodes.math | nodes.math_block)))


def set_buttons(app: Sphinx, config: Config) -> None:
    """Show the buttons that need a public address only if there is one."""
    options = config.html_theme_options
    for button in ADDRESS_BUTTONS:
        options[button] = bool(options.get("repository_url"))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the parts with Sphinx."""
    app.config.mathjax_path = "mathjax/tex-svg.js"
    app.connect("config-inited", set_buttons)
    app.connect("doctree-read", make_names_unique)
    app.connect("html-page-context", describe)
    app.connect("build-finished", copy_mathjax)
    app.add_js_file("reading.js", loading_method="defer")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
