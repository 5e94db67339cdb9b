"""Tests of the size of pictures on a page, and of drawings (SVG) on their way from a cell to the page."""

from pathlib import Path

import execute
import nbformat
import pytest
import small_pages
from bs4 import BeautifulSoup, Tag

import pictures  # isort: skip  (small_pages shows the way to it)

CELL = """\

```{{code-cell}} ipython3
---
mystnb:
  figure:
    caption: Picture {number}.
    name: fig-{number}
  image:
    alt: Picture number {number} of several{more}
---
{number}
```
"""


def page(folder: Path, outputs: list[nbformat.NotebookNode], more: str = "") -> BeautifulSoup:
    cells = "".join(CELL.format(number=number, more=more) for number in range(len(outputs)))
    shown = {number: [output] for number, output in enumerate(outputs)}
    return small_pages.build(folder, "# Pictures\n" + cells, shown, extensions=("pictures",))


def style(image: Tag) -> str:
    return image["style"].replace(" ", "").removesuffix(";")


def test_pictures_have_their_natural_size(tmp_path: Path) -> None:
    outputs = [
        small_pages.svg(7.4 * 72, 240),
        small_pages.svg(4.8 * 72, 240),
        small_pages.png(528, 374, 110),
        small_pages.png(1056, 748, 220),
        small_pages.png(1221, 600, 165),
        small_pages.png(550, 300),  # does not tell its resolution
    ]
    images = page(tmp_path, outputs).find_all("img")
    assert [style(image) for image in images] == [f"width:{width}px" for width in (740, 480, 480, 480, 740, 500)]
    assert ["wide" in image["class"] for image in images] == [True, False, False, False, True, False]
    assert [image.find_parent("a") is not None for image in images] == [True, False, False, False, True, False]


def test_a_width_that_a_cell_asks_for_holds(tmp_path: Path) -> None:
    (image,) = page(tmp_path, [small_pages.png(528, 374, 110)], "\n    width: 80%").find_all("img")
    assert style(image) == "width:80%"


def test_a_drawing_is_a_file_with_caption_and_description(tmp_path: Path) -> None:
    html = page(tmp_path, [small_pages.svg(300, 200)])
    (image,) = html.find_all("img")
    assert image["alt"] == "Picture number 0 of several"
    assert image["src"].endswith(".svg")
    assert (tmp_path / "html" / image["src"]).read_text(encoding="utf-8").startswith("<svg")
    assert not html.find_all(["svg", "object"])
    assert image.find_parent("figure").figcaption.get_text().strip().startswith("Figure 1")


@pytest.mark.parametrize(
    ("head", "inches"),
    [
        ('<?xml version="1.0"?>\n<svg height="72pt" width="144pt">', 2),
        ("<svg viewBox='0 0 9 9' width='96'>", 1),
        ('<svg width="100%">', None),
        ('<svg viewBox="0 0 9 9">', None),
    ],
)
def test_the_width_of_a_drawing_is_read_from_its_file(tmp_path: Path, head: str, inches: float | None) -> None:
    (tmp_path / "a.svg").write_text(head, encoding="utf-8")
    assert pictures.width_in_inches(tmp_path / "a.svg") == inches


@pytest.mark.parametrize(("size", "problems"), [(100, 0), (execute.LARGEST_IMAGE_BYTES + 1, 1)])
def test_a_stored_drawing_may_be_as_large_as_any_picture(size: int, problems: int) -> None:
    output = nbformat.v4.new_output("display_data", {"image/svg+xml": "x" * size})
    cell = nbformat.v4.new_code_cell("1", outputs=[output])
    assert len(list(execute.output_problems(cell))) == problems
