"""Tests of the size of pictures on a page, and of drawings (SVG) on their way from a cell to the page."""

from pathlib import Path

import execute
import nbformat
import pytest
import small_pages
from bs4 import BeautifulSoup, Tag
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import panels  # isort: skip  (small_pages shows the way to it)
import pictures  # isort: skip

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


def drawn(
    file: Path, columns: int, label: str, *, share: bool, rows: int = 1
) -> tuple[list[list[panels.Part]], list[Axes]]:
    """Save a figure with some panels; return the panels found, and those drawn."""
    size = (7.4, 3.3 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey=share, layout="constrained", squeeze=False)
    for ax in axes.flat:
        ax.plot([0, 1], [0, 1])
        ax.set(ylabel="" if share and ax is not axes[0, 0] else label, xlabel="across")
    figure.savefig(file, dpi=220)
    plt.close(figure)
    return panels.panels(file), list(axes.flat)


@pytest.mark.parametrize("suffix", ["png", "svg"])
@pytest.mark.parametrize("share", [False, True], ids=["own labels", "shared labels"])
@pytest.mark.parametrize("columns", [2, 3])
def test_a_wide_picture_knows_its_panels(tmp_path: Path, columns: int, share: bool, suffix: str) -> None:
    found, axes = drawn(tmp_path / f"a.{suffix}", columns, "up", share=share)
    assert len(found) == columns
    first = round(1000 * axes[0].get_position().x0)
    for parts, ax in zip(found, axes, strict=True):
        left, right = 1000 * ax.get_position().x0, 1000 * ax.get_position().x1
        start, end, *heights = parts[-1]
        assert heights == [0, 1000]
        assert start <= left + 2
        assert right - 2 <= end
        labels_of_the_first = share and ax is not axes[0]
        assert len(parts) == 1 + labels_of_the_first
        if labels_of_the_first:
            assert parts[0][:2] == (0, pytest.approx(first, abs=3))
        elif ax is not axes[0]:
            assert start < left - 40  # its labels come with it


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_two_rows_of_panels_are_read_row_by_row(tmp_path: Path, suffix: str) -> None:
    found, axes = drawn(tmp_path / f"a.{suffix}", 2, "up", share=True, rows=2)
    assert len(found) == 4
    for parts, ax in zip(found, axes, strict=True):
        left, right, top, bottom = parts[-1]
        place = ax.get_position()
        assert left <= 1000 * place.x0 + 2
        assert right >= 1000 * place.x1 - 2
        assert top <= 1000 * (1 - place.y1) + 2
        assert bottom >= 1000 * (1 - place.y0) + 20  # with the labels below it
    assert found[0][0][3] == found[2][0][2] < 1000 * (1 - axes[2].get_position().y1)
    assert panels.ratio(tmp_path / f"a.{suffix}") == pytest.approx(7.4 / 6.6, rel=0.01)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_three_panels_are_told_from_two_behind_long_labels(tmp_path: Path, suffix: str) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(7.4, 2.4), sharey=True, layout="constrained")
    for ax in axes:
        ax.plot([0, 1], [0, 1])
    axes[0].set_yticks([0, 1], ["the first long label", "the second one"])
    figure.draw_without_rendering()
    assert 0.4 < axes[1].get_position().x0 < 0.5  # near the middle, where the second of two panels would begin
    figure.savefig(tmp_path / f"a.{suffix}", dpi=220)
    plt.close(figure)
    found = panels.panels(tmp_path / f"a.{suffix}")
    assert len(found) == 3
    for parts, ax in zip(found, axes, strict=True):
        assert parts[-1][0] <= 1000 * ax.get_position().x0 + 2
        assert parts[-1][1] >= 1000 * ax.get_position().x1 - 2


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_title_wider_than_its_panel_stays_whole(tmp_path: Path, suffix: str) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 2.4), sharey=True, layout="constrained")
    for ax in axes:
        ax.set_aspect(1)
    axes[0].set_ylabel("up")
    title = axes[1].set_title("a long title " * 3)
    figure.draw_without_rendering()
    begin = 1000 * title.get_window_extent().x0 / figure.bbox.width
    figure.savefig(tmp_path / f"a.{suffix}", dpi=220)
    plt.close(figure)
    found = panels.panels(tmp_path / f"a.{suffix}")
    assert len(found) == 2
    assert found[1][-1][0] <= begin + 5 < 1000 * axes[1].get_position().x0


def test_one_panel_above_another_is_not_cut(tmp_path: Path) -> None:
    assert drawn(tmp_path / "a.png", 1, "up", share=False, rows=2)[0] == []


def test_one_panel_is_not_cut(tmp_path: Path) -> None:
    assert drawn(tmp_path / "a.png", 1, "up", share=False)[0] == []


@pytest.mark.parametrize("suffix", ["png", "svg"])
@pytest.mark.parametrize("words", ["0.001", ""], ids=["across the axis", "none"])
def test_labels_shown_again_bring_no_piece_of_a_number(tmp_path: Path, words: str, suffix: str) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 2.4), sharey=True, layout="constrained")
    for ax in axes:
        ax.plot([0, 1], [0, 1])
        ax.set(xlim=(0, 1), xticks=[0, 1], xticklabels=[words, "1"], xlabel="across")
    figure.savefig(tmp_path / f"a.{suffix}", dpi=220)
    plt.close(figure)
    ((_, _, top, bottom), panel) = panels.panels(tmp_path / f"a.{suffix}")[1]
    end_of_the_axis = 1000 * (1 - axes[0].get_position().y0)
    assert top == panel[2] == 0
    assert panel[3] == 1000
    numbers = end_of_the_axis + 1000 * 7 / 72 / 2.4  # they begin seven points below the axis
    assert end_of_the_axis < bottom < numbers if words else bottom == 1000
