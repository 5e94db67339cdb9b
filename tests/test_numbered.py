"""A numbered reference shows the number of its target, and the page of the target is read from disk once."""

from pathlib import Path

import pytest
import small_pages
from sphinx.environment import BuildEnvironment

PAGE = """# Page

{numref}`fig-first`, {numref}`fig-second`, {numref}`fig-second`.

:::{figure} picture.svg
:name: fig-first
First.
:::

:::{figure} picture.svg
:name: fig-second
Second.
:::
"""
PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" width="10pt" height="10pt" viewBox="0 0 10 10"></svg>'


@pytest.mark.parametrize(("extensions", "reads"), [(("numbered",), 2), ((), 4)], ids=["once", "as Sphinx does"])
def test_a_page_is_read_once_for_its_numbered_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extensions: tuple[str, ...], reads: int
) -> None:
    read, original = [], BuildEnvironment.get_doctree
    monkeypatch.setattr(BuildEnvironment, "get_doctree", lambda env, name: read.append(name) or original(env, name))
    page = small_pages.build(tmp_path, PAGE, extensions=extensions, more={"picture.svg": PICTURE})
    assert [link.get_text() for link in page.select("a.reference span.std-numref")] == [
        "Figure 1",
        "Figure 2",
        "Figure 2",
    ]
    assert read.count("index") == reads  # once to write the page, and then for its references
