"""Tests of the folds: what the extension makes of a text, and what a reader can do with it in a browser."""

from collections.abc import Iterator
from pathlib import Path

import browsing
import pytest
import small_pages
from bs4 import BeautifulSoup, Tag
from playwright.sync_api import Browser, Page

import folds  # isort: skip  (small_pages shows the way to it)

PAGE = """\
# A page

{ref}`sec-check`, {numref}`fig-line`, {ref}`sol-one`.

## One

### ▸ Notation

Symbols.

(sec-check)=
### ▸ Check: two *ways* agree

Before the cell.

```{code-cell} ipython3
checked = 1
```

(sec-deeper)=
#### Deeper

Deeper text.

## Two

:::{prf:theorem} Title
:label: thm-one

It is.
:::

:::{prf:proof}
In words first.

1. First, $1 + 1 = 2$.
2. Second.

   $$
   1 + 2 = 3
   $$
3. Third.
   1. Not a step of its own.
:::

:::{prf:proof}
Two words.
:::

:::{prf:proof}
1. The only one.
:::

:::{prf:proof}
:class: open

In the open.
:::

## Figures

```{code-cell} ipython3
:tags: [hide-input]
computed = 1
```

```{code-cell} ipython3
:tags: [hide-input]
drawn = 1
```

```{code-cell} ipython3
:tags: [hide-input]
after = 1
```

Prose.

```{code-cell} ipython3
:tags: [hide-input]
alone = 1
```

```{code-cell} ipython3
visible = 1
```

## Exercises

:::{exercise} By hand: a title
:label: ex-one

Do it.
:::

:::{dropdown} Hint
Think.
:::

:::{solution-start} ex-one
:label: sol-one
:class: dropdown
:::

It is done.

```{code-cell} ipython3
solved = 1
```

:::{solution-end}
:::

:::{admonition} More
:class: dropdown

About it.
:::
""".replace(
    """:tags: [hide-input]
drawn = 1""",
    """---
mystnb:
  figure:
    caption: A line.
    name: fig-line
  image:
    alt: A line
tags: [hide-input]
---
drawn = 1""",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> BeautifulSoup:
    """The page as built."""
    shown = {1: [small_pages.stdout("computed\n")], 2: [small_pages.png()], 3: [small_pages.stdout("after\n")]}
    return small_pages.build(tmp_path_factory.mktemp("plain"), PAGE, shown)


def bars(page: BeautifulSoup) -> list[str]:
    """The labels of all folds, in their order."""
    return [fold.summary.get_text(" ", strip=True).replace(" ¶", "") for fold in page.find_all("details")]


def fold(page: BeautifulSoup, label: str) -> Tag:
    """The fold with a label."""
    return page.find_all("details")[bars(page).index(label)]


def test_all_folds_are_there_and_closed(page: BeautifulSoup) -> None:
    assert bars(page) == [
        "Notation",
        "Check: two ways agree",
        "Proof, 3 steps",
        "Proof",
        "Proof, 1 step",
        "Code of Figure 1",
        "Code",
        "Code",
        "Hint",
        "Solution to Exercise 1",
        "More",
    ]
    assert all("fold" in found["class"] and not found.has_attr("open") for found in page.find_all("details"))
    assert folds.MARK not in page.get_text()


def test_a_folded_section_keeps_its_names_and_holds_all_of_it(page: BeautifulSoup) -> None:
    section = fold(page, "Check: two ways agree")
    assert section["id"] == "check-two-ways-agree"
    assert section.summary.h3.find("a", class_="headerlink")["href"] == "#check-two-ways-agree"
    assert section.summary.find(id="sec-check") is not None
    assert page.find("a", href="#sec-check").get_text() == "Check: two ways agree"
    held = section.find("div", class_="fold-body")
    for text in ("Before the cell.", "checked", "Deeper text."):
        assert text in held.get_text()
    assert held.h4.get_text().startswith("Deeper")
    assert "Two" not in held.get_text()


def test_a_heading_in_a_fold_does_not_bear_the_number_of_its_page(tmp_path: Path) -> None:
    other = "# Other\n\n## One\n\n### ▸ Folded\n\n#### Deeper\n\nText.\n\n## Two\n"
    small_pages.build(tmp_path, "# A page\n\n```{toctree}\n:numbered:\nother\n```\n", more={"other.md": other})
    found = browsing.soup(tmp_path / "html" / "other.html").find("div", class_="body").select("h1, h2, h3, h4")
    headings = [heading.get_text().rstrip("¶#") for heading in found]
    assert headings == ["1. Other", "1.1. One", "Folded", "Deeper", "1.2. Two"]


def test_a_folded_section_is_not_in_the_contents(page: BeautifulSoup) -> None:
    contents = page.find("div", class_="sphinxsidebar").get_text(" ", strip=True)
    assert "One Two Figures Exercises" in contents


def test_the_search_finds_a_folded_section(page: BeautifulSoup, tmp_path: Path) -> None:
    small_pages.build(tmp_path, PAGE, {2: [small_pages.png()]})
    index = (tmp_path / "html" / "searchindex.js").read_text(encoding="utf-8")
    assert "check-two-ways-agree" in index
    assert "Proof, 3 steps" not in index


def test_a_proof_may_stay_open(page: BeautifulSoup) -> None:
    (proof,) = page.find_all("div", class_="prf-proof")
    assert proof.get_text().strip() == "Proof. In the open."
    assert "Proof." not in fold(page, "Proof").get_text()


def test_the_output_of_hidden_code_is_visible_in_its_order(page: BeautifulSoup) -> None:
    code = fold(page, "Code of Figure 1")
    assert [block.get_text().split()[0] for block in code.find_all("pre")] == ["computed", "drawn"]
    shown = code.find_next_siblings()
    assert "computed" in shown[0].get_text()
    assert shown[1].find("figure", id="fig-line") is not None
    assert not code.find_all("figure")
    other = page.find_all("details")[bars(page).index("Code of Figure 1") + 1]
    assert other.get_text().split() == ["Code", "after", "=", "1"]


def test_visible_code_ends_a_run(page: BeautifulSoup) -> None:
    (visible,) = [block for block in page.find_all("pre") if "visible" in block.get_text()]
    assert visible.find_parent("details") is None


def test_all_of_the_bar_of_a_solution_opens_it(page: BeautifulSoup) -> None:
    solution = fold(page, "Solution to Exercise 1")
    assert solution["id"] == "sol-one"
    assert not solution.summary.find_all("a")
    assert "solved" in solution.get_text()


def test_cells_that_claim_something_can_be_reached(tmp_path: Path) -> None:
    text = PAGE.replace(
        ":tags: [hide-input]\ncomputed", "---\nclaim:\n  label: thm-one\ntags: [hide-input, check]\n---\n0"
    )
    page = small_pages.build(tmp_path, text, {2: [small_pages.png()]}, extensions=("claim_map",))
    (cell,) = page.find_all(id="cell-thm-one-1")
    assert cell.find_parent("details") is fold(page, "Code of Figure 1")


def test_names_are_unique(page: BeautifulSoup) -> None:
    names = [tag["id"] for tag in page.find_all(id=True) if not tag["id"].endswith("-content")]
    assert len(names) == len(set(names))


# In a browser

in_browser = browsing.needs_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing.launched() as running:
        yield running


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page with the look of the book, beside a page that links into its folds."""
    folder = tmp_path_factory.mktemp("themed")
    other = "# Other\n\n{ref}`in <sec-deeper>`\n"
    text = PAGE + "\n```{toctree}\nother\n```\n" + "\nA line of text.\n" * 60
    small_pages.build(folder, text, {2: [small_pages.png()]}, more={"other.md": other}, theme="sphinx_book_theme")
    with browsing.serve_folder(folder / "html") as served:
        yield served


@pytest.fixture(scope="module")
def window(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    yield context.new_page()
    context.close()


@pytest.fixture
def reader(window: Page, address: str) -> Iterator[Page]:
    """A reader on the page, who has never been there."""
    window.goto(f"{address}/index.html")
    yield window
    window.goto(f"{address}/other.html")
    window.evaluate("localStorage.clear(); sessionStorage.clear()")


def opened(page: Page) -> int:
    return page.locator("details.fold[open]").count()


def everything(page: Page) -> int:
    return page.locator("details.fold").count()


@in_browser
def test_one_button_opens_and_closes_all(reader: Page) -> None:
    assert (opened(reader), everything(reader)) == (0, 11)
    reader.get_by_role("button", name="Open all").click()
    assert opened(reader) == 11
    reader.get_by_role("button", name="Close all").click()
    assert opened(reader) == 0


@in_browser
def test_the_state_survives_a_reload_and_a_change_of_page(reader: Page, address: str) -> None:
    reader.get_by_role("button", name="Open all").click()
    reader.reload()
    assert opened(reader) == 11
    assert reader.get_by_role("button", name="Close all").is_visible()
    reader.goto(f"{address}/other.html")
    assert reader.get_by_role("button", name="all").count() == 0, "there is nothing to open on that page"
    reader.goto(f"{address}/index.html")
    reader.get_by_role("button", name="Close all").click()
    reader.reload()
    assert opened(reader) == 0


@in_browser
def test_the_button_knows_what_the_reader_opened(reader: Page) -> None:
    for bar in reader.locator("details.fold > summary").all():
        bar.dispatch_event("click")
    reader.get_by_role("button", name="Close all").wait_for()
    reader.locator("details.fold > summary").first.dispatch_event("click")
    reader.get_by_role("button", name="Open all").wait_for()


@in_browser
def test_the_reader_keeps_the_place(reader: Page) -> None:
    prose = reader.get_by_text("Prose.", exact=True)
    prose.evaluate("e => scrollBy(0, e.getBoundingClientRect().top - 120)")
    for _ in range(2):  # open all, close all
        before, box = prose.bounding_box()["y"], reader.locator(".folds-button").bounding_box()
        reader.mouse.click(box["x"] + 5, box["y"] + 5)  # its own click would scroll
        assert abs(prose.bounding_box()["y"] - before) < 2
    assert opened(reader) == 0


@in_browser
@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("sec-check", "Check: two ways agree"),
        ("check-two-ways-agree", "Check: two ways agree"),
        ("deeper", "Check: two ways agree"),
        ("sol-one", "Solution to Exercise 1"),
    ],
)
def test_an_address_opens_the_fold_that_it_leads_to(reader: Page, address: str, name: str, label: str) -> None:
    for where in ("about:blank", f"{address}/index.html"):  # a new page, then a change on the same page
        reader.goto(where)
        reader.goto(f"{address}/index.html#{name}")
        reader.wait_for_function("document.querySelectorAll('details.fold[open]').length === 1")
        assert reader.locator("details[open] > summary").inner_text().startswith(label)
        reader.wait_for_timeout(100)
        top = reader.evaluate("name => document.getElementById(name).getBoundingClientRect().top", name)
        assert 0 <= top < 800


@in_browser
def test_a_link_opens_its_fold_each_time(reader: Page, address: str) -> None:
    link = reader.locator("a[href='#sec-check']").first
    for _ in range(2):
        link.click()
        reader.wait_for_function("document.querySelectorAll('details.fold[open]').length === 1")
        reader.locator("details[open] > summary").first.evaluate("e => e.parentElement.open = false")
    reader.goto(f"{address}/other.html")
    reader.get_by_role("link", name="in", exact=True).click()
    reader.wait_for_url("**#sec-deeper")
    reader.wait_for_function("document.querySelectorAll('details.fold[open]').length === 1")


@in_browser
def test_who_comes_from_a_search_sees_everything(reader: Page, address: str) -> None:
    reader.goto(f"{address}/index.html?highlight=deeper")
    assert opened(reader) == 11
    reader.goto(f"{address}/index.html")
    assert opened(reader) == 0
    reader.evaluate("localStorage.setItem('sphinx_highlight_terms', 'deeper')")  # as the search page does
    reader.reload()
    assert opened(reader) == 11
    reader.locator(".highlighted").first.wait_for()


@in_browser
def test_the_end_of_a_proof_covers_no_word(reader: Page) -> None:
    last = reader.locator("details.prf-proof > .fold-body > :last-child > li:last-child > p:last-child")
    room = last.evaluate_all("all => all.map((e) => parseFloat(getComputedStyle(e).paddingRight))")
    assert room
    assert min(room) > 10


@in_browser
def test_a_print_holds_everything(reader: Page) -> None:
    reader.locator("details.fold > summary").first.click()
    reader.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened(reader) == 11
    reader.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened(reader) == 1


@in_browser
def test_without_scripts_every_fold_opens_and_a_print_holds_everything(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/index.html")
    text = page.get_by_text("Deeper text.")
    assert not text.is_visible()
    page.emulate_media(media="print")
    assert text.bounding_box()["height"] > 0
    page.emulate_media(media="screen")
    page.locator("summary", has_text="Check: two").click()
    assert text.is_visible()
    context.close()


@in_browser
def test_a_browser_that_stores_nothing_opens_folds_as_well(browser: Browser, address: str) -> None:
    context = browser.new_context()
    context.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no') }})")
    page = context.new_page()
    page.goto(f"{address}/index.html")
    page.get_by_role("button", name="Open all").click()
    assert opened(page) == 11
    context.close()


@in_browser
def test_the_keyboard_opens_a_fold(reader: Page) -> None:
    bar = reader.locator("details.fold > summary").first
    bar.focus()
    reader.keyboard.press("Enter")
    assert opened(reader) == 1
    reader.keyboard.press("Space")
    assert opened(reader) == 0
