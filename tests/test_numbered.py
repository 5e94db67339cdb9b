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


APPENDIX = """# Appendix

{numref}`fig-first`, {prf:ref}`lem-first`, {eq}`eq-first`.

:::{prf:lemma} First
:label: lem-first
$$
x = 1
$$ (eq-first)
:::

:::{figure} picture.svg
:name: fig-first
First.
:::
"""


def test_an_appendix_counts_by_its_letter(tmp_path: Path) -> None:
    page = small_pages.build(
        tmp_path,
        APPENDIX,
        extensions=("numbered",),
        more={"picture.svg": PICTURE},
        more_settings={"prf_realtyp_to_countertyp": {"lemma": "theorem"}},
    )
    figure, lemma, formula = page.select("p a.reference")[:3]
    assert [link.get_text() for link in (figure, lemma, formula)] == ["Figure A.1", "Lemma A.1", "(A.1)"]
    captions = [number.get_text().strip() for number in page.select(".caption-number")]
    assert captions == ["Lemma A.1", "Figure A.1"]
