"""A small Sphinx extension: unique names, scripts that a page needs, buttons that wait for an address.

*Names.* The names that ``sphinx-proof`` and ``sphinx-exercise`` give to all their bodies alike become unique, as HTML
asks for.

*Descriptions.* Every page tells search engines, and those who show links, its title and its first paragraph that needs
no formula; once ``html: baseurl`` is set, also its address and its first picture of points.

*Scripts.* Extensions and the theme bring scripts that nothing in the book uses, and some twice; they stay out.

*Colours.* Who comes for the first time sees light or dark pages as the system asks for, from the first moment on.

*Address.* The buttons that lead to the repository appear once ``repository: url`` in
``_config.yml`` is set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape, unescape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment

UNUSED = ("thebe", "togglebutton", "togglehint", "toggleopen", "design-tabs", "search_as_you_type")
REPEATED = ("proof-content", "exercise-content", "solution-content")
SHORTEST, LONGEST = 60, 200  # letters of a description
ADDRESS_BUTTONS = ("use_repository_button", "use_edit_page_button", "use_issues_button")

FIRST_VISIT = """{
  const { dataset } = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  if (!dataset.mode) Object.assign(dataset, { mode: "auto", theme: dark ? "dark" : "light" });
}"""


def make_names_unique(app: Sphinx, tree: nodes.document) -> None:
    """Number the bodies of statements, exercises and solutions."""
    for count, node in enumerate(tree.findall(nodes.section), start=1):
        if node["ids"] and node["ids"][0] in REPEATED:
            node["ids"][0] += f"-{count}"


def leave_out(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: nodes.document | None) -> None:
    """Leave out the scripts and styles that a page does not use, and what comes twice."""
    for kind in ("script_files", "css_files"):
        files = {described_file(file): file for file in context[kind]}
        context[kind] = [file for name, file in files.items() if not any(word in name.lower() for word in UNUSED)]


def described_file(file: Any) -> str:  # noqa: ANN401
    """Return the address of a script or style, and what is written in it."""
    return f"{getattr(file, 'filename', file)} {getattr(file, 'attributes', {}).get('body', '')}"


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


def write_every_page(app: Sphinx, env: BuildEnvironment) -> Iterable[str]:
    """Have every page written in each build: search, previews and the list of figures are gathered from all pages."""
    return env.found_docs


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the parts with Sphinx."""
    app.connect("config-inited", set_buttons)
    app.connect("env-updated", write_every_page)
    app.connect("doctree-read", make_names_unique)
    app.connect("html-page-context", describe)
    app.connect("html-page-context", leave_out, priority=950)
    app.add_css_file("icons.css")
    app.add_js_file("reading.js", loading_method="defer")
    app.add_js_file(None, body=FIRST_VISIT)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
