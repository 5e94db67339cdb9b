"""Tests of the small comforts of a page in a browser: wide formulas and tables, tab stops, contents that follow."""

from collections.abc import Iterator
from pathlib import Path

import browsing
import pytest
import small_pages
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page

import formulas  # isort: skip  (small_pages shows the way to it)

pytestmark = browsing.needs_browser

TERMS = " + ".join(f"x_{{{number}}}" for number in range(16))
WORDS = " | ".join("unbreakable" * 3 for _ in range(8))
PAGE = f"""\
# A page with formulas

In the line $x^2$.

$$ {" + ".join(f"x_{{{number}}}" for number in range(5))} $$

$$ {TERMS} $$

$$ {TERMS} $$ (eq-wide)

$$ {" + ".join(f"x_{{{number}}}" for number in range(9))} $$

| {" | ".join("abcdefgh")} |
|{":--|" * 8}
| {WORDS} |
| 64 {"| 1 " * 7}|

:::{{figure}} picture.svg
:alt: Two panels
Left, one panel. Right, another.
:::

## ▸ Folded

$$ {TERMS} $$

""" + "".join(f"\n## Section {number}\n\n" + "A line of text.\n\n" * 20 for number in range(40))

PICTURE = """\
<svg xmlns="http://www.w3.org/2000/svg" width="540pt" height="240pt" viewBox="0 0 540 240">
<g id="axes_1"><path d="M 54 200
L 265 200
L 265 20"/></g>
<g id="text_1"><!-- up --><g transform="translate(20 100) scale(0.1 -0.1)"></g></g>
<g id="axes_2"><path d="M 275 200
L 530 200
L 530 20"/></g>
</svg>
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("themed")
    extensions = ("book_setup", "formulas", "pictures")
    small_pages.build(folder, PAGE, extensions=extensions, theme="sphinx_book_theme", more={"picture.svg": PICTURE})
    with browsing.serve_folder(folder / "html") as served:
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing.launched() as running:
        yield running


@pytest.fixture(scope="module")
def window(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(reduced_motion="reduce")
    yield context.new_page()
    context.close()


@pytest.fixture
def page(window: Page, address: str) -> Page:
    """The page on a phone, with its formulas set."""
    window.set_viewport_size({"width": 390, "height": 800})
    window.goto("about:blank")  # where the reader was is forgotten
    browsing.open_page(window, f"{address}/index.html")
    window.wait_for_function("document.querySelector('.goes-on')")
    return window


def boxes(page: Page) -> list[dict]:
    """What the display formulas are like, in their order; one with a number scrolls beside it.

    The size is that of the whole formula, relative to the usual one.
    """
    return page.evaluate(
        """() => [...document.querySelectorAll(".bd-article div.math")].map((e) => {
            const box = e.querySelector(".eqno") ? e.querySelector("mjx-container") : e;
            const drawing = e.querySelector("mjx-container > svg");
            const now = drawing.getBoundingClientRect();
            const set = drawing.style.cssText;
            drawing.style.width = drawing.style.height = "";
            const usual = drawing.getBoundingClientRect();
            drawing.style.cssText = set;
            const size = now.height ? [now.width / usual.width, now.height / usual.height] : [1, 1];
            return {cut: box.classList.contains("goes-on"), tab: box.tabIndex >= 0, size};
        })"""
    )


def test_only_what_scrolls_is_a_tab_stop(page: Page) -> None:
    narrow, wide, numbered, nearly, folded = boxes(page)
    assert narrow == {"cut": False, "tab": False, "size": [1, 1]}
    for box in (wide, numbered):
        assert box["size"] == pytest.approx([0.7, 0.7], abs=0.01)
        assert box["cut"]
        assert box["tab"]
    assert 0.7 < nearly["size"][0] < 1
    assert nearly["size"][1] == pytest.approx(nearly["size"][0], abs=0.01)
    assert not nearly["cut"]
    assert not nearly["tab"]
    assert not folded["cut"], "nobody has seen it yet"
    assert page.evaluate("document.querySelector('p mjx-container').tabIndex") == -1


def test_a_formula_in_a_fold_is_fitted_when_the_fold_opens(page: Page) -> None:
    page.locator("details.fold > summary").click()
    page.wait_for_function("document.querySelectorAll('details .goes-on').length === 1")


def test_the_end_of_a_formula_does_not_fade(page: Page) -> None:
    page.evaluate("document.querySelectorAll('div.math')[1].scrollLeft = 10000")
    page.wait_for_function("!document.querySelectorAll('div.math')[1].classList.contains('goes-on')")
    assert boxes(page)[1]["tab"]


@pytest.mark.parametrize(
    ("line", "joined"),
    [
        ("a FORMULA, b", [r"\(x = {}\),"]),
        ("(FORMULA), b", [r"(\(x = {}\)),"]),
        ("a FORMULA-problem", [r"\(x = {}\)-problem"]),
        ("a FORMULA NUMBER. b", [r"\(x = {}\)0.21."]),
        ("a FORMULA b", []),
    ],
)
def test_what_belongs_to_a_formula_stays_in_its_line(line: str, joined: list[str]) -> None:
    formula = r'<span class="math notranslate nohighlight">\(x = {}\)</span>'
    html = formulas.join(line.replace("FORMULA", formula).replace("NUMBER", '<span class="pasted-text">0.21</span>'))
    page = BeautifulSoup(html, "html.parser")
    assert [part.get_text() for part in page.find_all(class_="joined")] == joined


def test_a_wide_table_becomes_a_list_on_a_phone(page: Page) -> None:
    table = page.locator("table.stacks")
    assert table.evaluate("e => e.scrollWidth <= e.parentElement.clientWidth")
    cells = table.locator("tbody td")
    assert cells.nth(1).inner_text().split() == ["b", "unbreakable" * 3]
    assert cells.nth(0).inner_text() == "unbreakable" * 3
    assert cells.nth(8).inner_text().split() == ["a", "64"]  # a number needs its name
    boxes = [cells.nth(number).bounding_box() for number in (0, 1)]
    assert boxes[1]["y"] > boxes[0]["y"]


def test_the_panels_of_a_wide_picture_stand_below_each_other_on_a_phone(page: Page) -> None:
    assert page.locator("figure").evaluate("e => e.scrollWidth <= e.clientWidth")
    assert 330 < page.get_by_role("img", name="Two panels").bounding_box()["width"] < 360
    parts = page.locator(".panels > span > span")
    boxes = [parts.nth(number).bounding_box() for number in range(3)]
    assert boxes[1]["y"] == boxes[2]["y"] >= boxes[0]["y"] + boxes[0]["height"] - 1
    assert boxes[1]["width"] == pytest.approx(0.2 * boxes[0]["width"], rel=0.02)
    scale = page.locator(".panels img").evaluate_all("images => images.map((image) => image.clientWidth)")
    assert len({round(width) for width in scale}) == 1
    assert scale[0] == pytest.approx(2 * boxes[0]["width"], rel=0.02)
    assert page.locator(".panels > small").all_inner_texts() == ["left", "right"]  # as the caption calls them


def test_a_wide_table_scrolls_with_a_cue(window: Page, address: str) -> None:
    page = window
    page.set_viewport_size({"width": 800, "height": 800})
    browsing.open_page(page, f"{address}/index.html")
    page.wait_for_selector(".pst-scrollable-table-container.goes-on")
    assert page.locator(".pst-scrollable-table-container").evaluate("e => e.tabIndex") == 0
    assert not page.locator("table.stacks").count()


def test_nothing_fades_where_there_is_room(page: Page) -> None:
    page.set_viewport_size({"width": 2400, "height": 800})
    page.wait_for_function("document.querySelectorAll('div.math.goes-on').length === 0")
    assert all(box["size"] == pytest.approx([1, 1], abs=0.03) for box in boxes(page)[:4])


def test_the_contents_follow_the_reader(window: Page, address: str) -> None:
    page = window
    page.set_viewport_size({"width": 1280, "height": 600})
    page.goto("about:blank")
    browsing.open_page(page, f"{address}/index.html#section-35")
    page.wait_for_function(
        """() => {
            const panel = document.querySelector(".bd-sidebar-secondary").getBoundingClientRect();
            const active = [...document.querySelectorAll(".bd-sidebar-secondary a.nav-link.active")].pop();
            const entry = active?.getBoundingClientRect();
            return entry && entry.top >= panel.top && entry.bottom <= panel.bottom;
        }"""
    )


def test_a_page_describes_itself(tmp_path: Path) -> None:
    text = """\
# A *title* & more

Short.

With $x$ this paragraph has a formula, and so it is not taken, although it would be long enough to describe the page.

"""
    text += "This one has none & is *long* enough, " * 9
    html = small_pages.build(tmp_path, text, extensions=("book_setup", "formulas"), theme="sphinx_book_theme")
    described = html.find("meta", attrs={"name": "description"})["content"]
    assert described.startswith("This one has none & is long enough, This")
    assert described.endswith(" …")
    assert len(described) <= 202
    assert html.find("meta", property="og:title")["content"] == "A title & more"
    assert html.find("meta", property="og:description")["content"] == described
