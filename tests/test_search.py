"""Readers find what they ask for: queries and the entry that must come first, ranked by the page's own script."""

from collections.abc import Iterator

import browsing
import pytest
from playwright.sync_api import Browser, Page

pytestmark = browsing.needs_browser

# A query, and the end of the address of what must come first.
QUERIES = {
    # what readers asked before
    "MAP estimator": "divergence.html",
    "Corollary 1": "divergence.html#cor-dv-map",
    "Theorem 2": "divergence.html#theorem-2",
    "error bars": "error-bars.html",
    "half step": "glossary.html#term-half-step",
    "φ*": "notation.html#used-everywhere",
    "δ̂": "notation.html#used-everywhere",
    "ε": "notation.html#used-in-one-or-two-chapters",
    "posterior mean": "glossary.html#term-posterior-mean",
    "Tweedie": "glossary.html#term-Tweedie-s-formula",
    "heat flow": "heat-flow.html",
    "Maxwell point": "glossary.html#term-Maxwell-point",
    "Bregman distance": "glossary.html#term-Bregman-distance",
    "log-determinant": "glossary.html#term-log-determinant-training",
    "Lipschitz constant": "glossary.html#term-Lipschitz-constant",
    "noise level": "noise-levels.html",
    "deblurring": "signals.html",
    "nonlinear operator": "nonlinear-operators.html",
    "Wiener": "glossary.html#term-Wiener-filter",
    "which strategy should I use": "noise-levels.html",
    # numbers
    "Theorem 9.3": "divergence.html#thm-dv-divergence",
    "Figure 9.1": "divergence.html#fig-dv-puzzle",
    "Exercise 9.1": "divergence.html#ex-dv-affine",
    "Assumption 9.1": "divergence.html#asm-dv-setting",
    # formulas by name
    "phi star": "notation.html#used-everywhere",
    "delta hat": "notation.html#used-everywhere",
    # names of the library
    "posterior_mean": "library.html#invlib.posterior_mean",
    "invlib.train": "library.html#invlib.train",
    "divergence loss": "library.html#invlib.divergence_loss",
    "SOAP": "library.html#invlib.SOAP",
    "own prior": "library.html#a-prior-of-your-own",
    # words of the text
    "Hutchinson": "glossary.html#term-Hutchinson-estimator",
    "Stein identity": "glossary.html#term-Stein-s-identity",
    "Newton": "glossary.html#term-Newton-s-method",
    "score": "glossary.html#term-score",
    "fold": "glossary.html#term-fold",
    "proximal": "point-estimators.html#one-view-of-both-proximal-maps",
    "naive inverse": "glossary.html#term-naive-inverse",
    "Euler step": "glossary.html#term-Euler-step",
    "deviations": "deviations.html",
    "train a network": "four-strategies.html",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing.launched() as running:
        yield running


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """A chapter opened from disk, without a server."""
    browsing.build_if_stale()
    page = browser.new_page()
    page.goto((browsing.HTML / "book" / "divergence.html").as_uri())
    page.evaluate("bookSearch.load()")
    yield page
    page.close()


@pytest.mark.parametrize("query", QUERIES)
def test_the_first_answer(page: Page, query: str) -> None:
    first = page.evaluate("(query) => bookSearch.search(query)[0]?.url", query)
    assert first == f"book/{QUERIES[query]}"


def test_excerpts_are_plain_words(page: Page) -> None:
    texts = page.evaluate("Object.values(bookEntries).flat().flatMap((entry) => [entry.title, entry.text])")
    assert len(texts) > 2000
    for sign in ("\\", ".ipynb", "Click to show", "Link to this", "</", "<span", "<a "):
        found = [text for text in texts if sign in text]
        assert not found, f"{sign}: {found[0][:300]}"


def test_every_entry_leads_somewhere(page: Page) -> None:
    addresses = set(page.evaluate("Object.values(bookEntries).flat().map((entry) => entry.url)"))
    pages: dict[str, str] = {}
    for address in addresses:
        file, _, name = address.partition("#")
        text = pages.setdefault(file, (browsing.HTML / file).read_text(encoding="utf-8"))
        assert not name or f'id="{name}"' in text, address


def test_answers_come_while_one_types(page: Page) -> None:
    page.keyboard.press("Control+k")
    page.keyboard.type("half step")
    page.wait_for_selector("#pst-search-dialog ol.hits > li")
    assert page.locator("#pst-search-dialog ol.hits a").first.inner_text() == "half step"
    assert page.locator("#pst-search-dialog .excerpt mark").count()
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results ol.hits > li")
    assert page.locator("#search-results ol.hits a").first.inner_text() == "half step"
    page.locator("#search-results ol.hits a").first.click()
    page.wait_for_url("**/glossary.html#term-half-step")
