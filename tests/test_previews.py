"""Tests of the previews of links, of the map of statements, and of the lines that say where a statement is used."""

from collections.abc import Iterator

import browsing
import pytest
from playwright.sync_api import Browser, Page, expect

pytestmark = browsing.needs_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browsing.build_if_stale()
    with browsing.launched() as running:
        yield running


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """A chapter opened from disk, without a server, and all its folds."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page.goto((browsing.HTML / "book" / "divergence.html").as_uri())
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    yield page
    page.close()


LINKS = {
    "statement": ("a[href='#asm-dv-setting']", "Assumption 9.1"),
    "statement of another page": ("a[href='choosing.html#prop-ch-levels']", "(One training, other noise levels"),
    "equation": ("a[href='#equation-eq-dv-loss']", "(9."),
    "figure": ("a[href='#fig-dv-puzzle']", "Figure 9.1"),
    "term": (".term-link[href$='#term-Fisher-information']", "Fisher information"),
    "source": ("a[href^='references.html#']", "."),
}


@pytest.mark.parametrize("kind", LINKS)
def test_a_link_shows_what_it_leads_to(page: Page, kind: str) -> None:
    selector, words = LINKS[kind]
    links = page.locator(f".bd-article {selector}:not(.headerlink)")
    links.first.hover()
    card = page.locator("#preview")
    expect(card).to_be_visible(timeout=15_000)
    assert words in card.inner_text()
    missing = page.evaluate(
        """[...document.querySelectorAll("#preview use")].filter(
            (use) => !document.getElementById(use.getAttribute("href").slice(1))).length"""
    )
    assert missing == 0
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()


SYMBOLS = {"δ^": "strength of the regularization term", "H": "matrix of the normal equation", "pX": "prior density"}


@pytest.mark.parametrize("letters", SYMBOLS)
def test_a_symbol_shows_what_it_means(page: Page, letters: str) -> None:
    page.evaluate(
        """(letters) => [...document.querySelectorAll(".bd-article [data-symbol]")]
            .find((symbol) => symbol.querySelector("mjx-assistive-mml").textContent === letters).id = letters""",
        letters,
    )
    page.locator(f"[id='{letters}']").hover()
    card = page.locator("#preview")
    expect(card).to_be_visible(timeout=15_000)
    assert SYMBOLS[letters] in card.inner_text()
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()


def test_the_keyboard_lists_the_symbols_of_the_page(page: Page) -> None:
    button = page.get_by_role("button", name="Symbols")
    button.focus()
    page.keyboard.press("Enter")
    card = page.get_by_role("dialog", name="Symbols of this page")
    expect(card).to_be_visible(timeout=15_000)
    used = set(page.locator(".bd-article [data-symbol]").evaluate_all("all => all.map(one => one.dataset.symbol)"))
    rows = card.locator("tbody tr")
    assert len(used) / 2 < rows.count() < 2 * len(used)  # a row may explain two symbols, a symbol have two rows
    assert all(meaning in card.inner_text() for meaning in SYMBOLS.values())
    assert page.locator("mjx-container[tabindex], [data-symbol][tabindex]").count() == 0
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()
    expect(button).to_be_focused()


def test_a_term_is_linked_where_a_page_first_says_it(page: Page) -> None:
    links = page.locator("a.term-link")
    goals = links.evaluate_all("links => links.map((link) => link.getAttribute('href'))")
    assert len(goals) > 5
    assert len(set(goals)) == len(goals)
    glossary = (browsing.HTML / "book" / "glossary.html").read_text(encoding="utf-8")
    assert all(f'id="{goal.partition("#")[2]}"' in glossary for goal in goals)
    assert page.locator(":is(h1, h2, h3, summary, figcaption, pre) a.term-link").count() == 0


def test_the_keyboard_shows_it_as_well(page: Page) -> None:
    link = page.locator(".bd-article a[href='#asm-dv-setting']").first
    page.keyboard.press("Tab")  # from now on, the keyboard is in use
    link.focus()
    card = page.locator("#preview")
    expect(card).to_be_visible(timeout=15_000)
    assert link.get_attribute("aria-describedby") == "preview"
    page.keyboard.press("Tab")
    expect(card).to_be_hidden()
    assert link.get_attribute("aria-describedby") is None


def test_the_first_touch_shows_and_the_second_follows(browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True)
    page = context.new_page()
    page.goto((browsing.HTML / "book" / "divergence.html").as_uri())
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    link = page.locator(".bd-article a[href='#asm-dv-setting']").first
    link.tap()
    expect(page.locator("#preview")).to_be_visible(timeout=15_000)
    assert not page.url.endswith("#asm-dv-setting")
    box = page.locator("#preview").bounding_box()
    assert 0 <= box["x"] <= box["x"] + box["width"] <= 390
    link.tap()
    page.wait_for_url("**#asm-dv-setting")
    context.close()


def test_a_statement_says_where_it_is_used(page: Page) -> None:
    line = page.locator("#thm-dv-divergence .used-in")
    assert line.inner_text().startswith("Used in ")
    assert line.locator("a").count() > 1


def test_the_map_shows_what_the_table_says(browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page.goto((browsing.HTML / "book" / "claims.html").as_uri())
    dots = page.locator(".statement-map .statement")
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    rows = page.locator(".map + details tbody tr")
    assert dots.count() == rows.count() > 90
    edges = page.locator(".statement-map .edge").count()
    links = page.locator(".map + details tbody td:nth-child(3) a").count()
    assert edges == links == page.locator(".map + details tbody td:nth-child(4) a").count() > 100

    page.locator(".statement-map [data-label='thm-dv-divergence']").focus()
    assert page.locator(".statement-map .edge.on").count() > 2
    page.locator(".map-filter select").select_option("theorem")
    shown = page.locator(".statement-map .statement:not(.out)")
    assert shown.count() == page.locator(".statement-map [data-kind='theorem']").count() > 5
    shown.first.press("Enter")
    page.wait_for_url("**/book/*.html#thm-*")
    page.close()
