"""A small Sphinx extension: a numbered reference looks at the page it leads to, which is read from disk only once.

Without it, Sphinx reads that page anew for each of some six hundred references: about a fifth of the time of a build.

An appendix, a page with statements and without a number, gets a letter: Proposition A.1, Figure A.1, formula (A.1).
"""

from __future__ import annotations

from functools import cache
from string import ascii_uppercase
from typing import Any, cast

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.builders import Builder
from sphinx.domains.std import StandardDomain
from sphinx.environment import BuildEnvironment


class ReadOnce:
    """The environment of a build, whose pages are read once. They are to be looked at, not changed."""

    def __init__(self, env: BuildEnvironment) -> None:
        """Wrap an environment."""
        self._env = env
        self.get_doctree = cache(env.get_doctree)

    def __getattr__(self, name: str) -> object:
        """Return anything else from the environment."""
        return getattr(self._env, name)


class NumberedReferences(StandardDomain):
    """Sphinx's own references; those by number share the pages that they look at."""

    read_once: ReadOnce | None = None

    def resolve_xref(
        self,
        env: BuildEnvironment,
        fromdocname: str,
        builder: Builder,
        typ: str,
        target: str,
        node: pending_xref,
        contnode: nodes.Element,
    ) -> nodes.Element | None:
        """Return the link of a reference (see Sphinx)."""
        if typ == "numref":
            self.read_once = self.read_once or ReadOnce(env)
            env = cast("BuildEnvironment", self.read_once)
        return super().resolve_xref(env, fromdocname, builder, typ, target, node, contnode)


def letter_appendices(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Count what an appendix has by its letter, since Sphinx would go on counting from the pages before."""
    letters = iter(ascii_uppercase)
    for page, counted in env.toc_fignumbers.items():
        if "theorem" in counted and not env.toc_secnumbers.get(page, {}).get(""):
            letter = next(letters)
            for numbers in counted.values():
                numbers.update({label: (letter, count) for count, label in enumerate(numbers, 1)})  # type: ignore[misc]
    return []


def setup(app: Sphinx) -> dict[str, Any]:
    """Register it with Sphinx."""
    app.add_domain(NumberedReferences, override=True)
    app.connect("env-get-updated", letter_appendices, priority=900)  # after Sphinx has counted
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
