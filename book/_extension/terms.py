"""A small Sphinx extension: where a page first says a term of the glossary, it links to it (and so shows a preview).

Only terms of several words are linked by themselves, since a single word, such as *fold*, may mean something else; the
role ``{term}`` links any.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

GLOSSARY = "book/glossary"
WITHOUT = (GLOSSARY, "book/library", "book/references")
CLOSED = (nodes.reference, nodes.title, nodes.caption, nodes.literal, nodes.literal_block, nodes.math, nodes.rubric)


def link_terms(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Link the first place of each term on a page."""
    if page in WITHOUT or app.builder.format != "html":
        return
    places = long_terms(app)
    said = {link.get("refuri", "").partition("#")[2] for link in tree.findall(nodes.reference)}
    left = {term: place for term, place in places.items() if place not in said}
    for text in list(tree.findall(nodes.Text)):
        if left and is_prose(text):
            link_first(app, text, left, page)


def long_terms(app: Sphinx) -> dict[str, str]:
    """Return the glossary's terms of several words, in small letters, with the names of their places."""
    objects = app.env.get_domain("std").get_objects()
    terms = {re.sub(r" \(.*\)", "", name): place for name, _, kind, page, place, _ in objects if kind == "term"}
    return {term.lower(): place for term, place in terms.items() if re.search(r"\w[ \-–]\w", term)}


def is_prose(text: nodes.Text) -> bool:
    """Tell whether a text is part of a paragraph, and not of a link, a title, code or a formula."""
    node, inside = text.parent, False
    while node is not None:
        if isinstance(node, CLOSED):
            return False
        inside |= isinstance(node, nodes.paragraph)
        node = node.parent
    return inside


def link_first(app: Sphinx, text: nodes.Text, left: dict[str, str], page: str) -> None:
    """Link the terms in a text that are still to be linked, and take them from those left."""
    longest_first = "|".join(map(re.escape, sorted(left, key=len, reverse=True)))
    pattern = re.compile(rf"\b(?P<term>{longest_first})s?\b", re.IGNORECASE)
    made: list[nodes.Node] = []
    end = 0
    for found in pattern.finditer(text):
        place = left.pop(found["term"].lower(), None)
        if place is None:
            continue
        address = f"{app.builder.get_relative_uri(page, GLOSSARY)}#{place}"
        link = nodes.reference("", "", internal=True, refuri=address, classes=["term-link"])
        link += nodes.Text(found[0])
        made += [nodes.Text(text[end : found.start()]), link]
        end = found.end()
    if made:
        text.parent.replace(text, [*made, nodes.Text(text[end:])])


def setup(app: Sphinx) -> dict[str, Any]:
    """Register it with Sphinx."""
    app.connect("doctree-resolved", link_terms)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
