"""Tests of `book/_extension/formula_rows.py`: which rows of a formula may stand in one line of a wide window."""

from pathlib import Path

import browsing
import pytest
import small_pages

import formula_rows  # isort: skip  (small_pages shows the way to it)
import formulas  # isort: skip

PAGE = r"""# A page

$$
\begin{aligned}
L(f) &= a + b + c + d + e + f \\
&\quad {} + g + h + i + j .
\end{aligned}
$$

$$
\begin{aligned}
&f(x) - f(y) + f(z) \\
&\quad = a + b + c + d + e + f + g + h \\
&\qquad {} + i + j + k + l + m .
\end{aligned}
$$ (eq-numbered)
"""
SHOWN = """() => [...document.querySelectorAll("div.math > mjx-container")].map(
    (formula) => [...formula.querySelectorAll("svg")].map((drawing) => drawing.getBoundingClientRect().height)
)"""


def short(row: str) -> bool:
    """Whether a row has room, for these tests, in which a letter is as wide as any other."""
    return len(row) <= 60


def aligned(rows: str) -> str:
    return rf"\begin{{split}}\begin{{aligned}} {rows} \end{{aligned}}\end{{split}}"


@pytest.mark.parametrize(
    ("rows", "wide"),
    [
        (r"L &= a \\ &\quad {} + b .", "L = a {} + b ."),
        (r"&f(x) \\ &\quad \le g(x) \\ &\qquad {} - h(x)", r"f(x) \le g(x) {} - h(x)"),
        (r"&\sum_{i < n} a_i \\ &\quad = b", r"\sum_{i < n} a_i = b"),  # a relation below a sum is none of the row
        (r"R = \Bigl[ &a \\ &{} + b \Bigr]", r"R = \Bigl[ a {} + b \Bigr]"),
        (r"&a \\ &\quad = b \\ &\quad = c", r"\begin{aligned} a & = b \\  & = c \end{aligned}"),  # a chain is aligned
    ],
)
def test_rows_that_go_on_are_joined(rows: str, wide: str) -> None:
    assert formula_rows.widened(aligned(rows), short) == wide


@pytest.mark.parametrize(
    "rows",
    [
        r"a &= b \\ &= c",  # a chain of relations
        r"a &= b , \\ c &= d .",  # two equations
        r"&a + b, \\ &\quad c = d .",  # an expression, and an equation about it
        r"&a = b \\ &\quad = c",  # a relation in each row
        r"a &= \begin{pmatrix} b \\ c \end{pmatrix} \\ &\quad {} + d",  # rows within a row
        r"a &= b & c &= d \\ &\quad {} + e",  # two columns
        "a &= " + 40 * "b" + r" \\ &\quad {} + " + 40 * "c",  # no room
    ],
)
def test_other_rows_stay(rows: str) -> None:
    assert formula_rows.widened(aligned(rows), short) is None


def test_what_does_not_fit_begins_a_row_of_its_own() -> None:
    tex = aligned(r"&f(x) \\ &\quad = " + 30 * "a" + r" \\ &\qquad {} - " + 30 * "b")
    wide = formula_rows.widened(tex, short)
    assert wide is None  # two rows, but the check is made of the whole
    wide = formula_rows.widened(tex, lambda row: len(row) <= 60 or "aligned" in row)
    assert wide == r"\begin{aligned} f(x) & = " + 30 * "a" + r" \\  & \qquad {} - " + 30 * "b" + r" \end{aligned}"


def test_a_formula_without_rows_is_left_alone() -> None:
    assert formula_rows.widened("a = b + c", short) is None


def test_the_style_sheet_has_a_rule_for_each_room() -> None:
    style = (browsing.ROOT / "book" / "_static" / "formulas.css").read_text(encoding="utf-8")
    for room in formulas.ROOMS:  # a container query takes no variable
        assert f"@container (min-width: {room}ex) {{\n  .room-{room} > svg {{" in style


@browsing.needs_browser
def test_a_window_shows_the_rows_for_which_it_has_room(tmp_path: Path) -> None:
    small_pages.build(tmp_path, PAGE, extensions=("book_setup", "formulas"), theme="sphinx_book_theme")
    with browsing.serve_folder(tmp_path / "html") as address, browsing.launched() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        browsing.open_page(page, f"{address}/index.html")
        wide = page.evaluate(SHOWN)
        page.set_viewport_size({"width": 390, "height": 800})
        narrow = page.evaluate(SHOWN)
    assert [[height > 0 for height in drawings] for drawings in wide] == [[False, True], [False, True]]
    assert [[height > 0 for height in drawings] for drawings in narrow] == [[True, False], [True, False]]
    assert all(few[1] < 0.8 * many[0] for few, many in zip(wide, narrow, strict=True))
