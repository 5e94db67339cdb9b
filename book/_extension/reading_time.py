"""A small Sphinx extension: a chapter says at its top how long it takes to read.

An estimate: so many words a minute, formulas, numbers and code not counted, and some time for each figure. The first
number is that of the main line, the second one that of all that is folded as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from folds import fold, fold_bar
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

WORDS, FIGURE = 120, 1.5
"""Words that one reads in a minute, and minutes for a figure."""

WORD = re.compile(r"\S*[^\W\d_]\S*")
NOT_READ = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.comment, fold_bar)


def around(node: nodes.Node) -> Iterator[nodes.Node]:
    """Yield a node and those around it."""
    while node is not None:
        yield node
        node = node.parent


def minutes(page: nodes.Element, *, folded: bool) -> int:
    """Return how long a page takes to read, in steps of five minutes: its main line, or also what is folded."""
    found = 0.0
    for node in page.findall(lambda each: isinstance(each, nodes.Text | nodes.figure)):
        above = list(around(node))
        if any(isinstance(each, NOT_READ) for each in above):
            continue
        if folded or not any(isinstance(each, fold) for each in above):
            found += FIGURE if isinstance(node, nodes.figure) else len(WORD.findall(node.astext())) / WORDS
    return max(5, 5 * round(found / 5))


def says_what_it_costs(node: nodes.Node) -> bool:
    """Tell whether a node is the line at the top of a chapter."""
    return isinstance(node, nodes.emphasis) and node.astext() == "It costs"


class ReadingTime(SphinxPostTransform):
    """End the line on what a chapter needs and costs with how long it takes to read."""

    default_priority = 900  # after the folds are made
    formats = ("html",)

    def run(self, **options: object) -> None:
        """Change the tree of one page."""
        line = next(self.document.findall(says_what_it_costs), None)
        if line is None:
            return
        main, everything = (minutes(self.document, folded=folded) for folded in (False, True))
        more = f", and {everything} with all that is folded" if everything > main else ""
        text = nodes.Text(f" about {main} minutes to read{more}.")
        sentence = nodes.inline("", " ", nodes.emphasis("", "It takes"), text, classes=["reading-time"])
        line.parent.append(sentence)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register it with Sphinx."""
    app.add_post_transform(ReadingTime)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
