"""Readers find what they ask for: queries and the entry that must come first, ranked by the page's own script."""

from collections.abc import Iterator

import browsing
import pytest
from playwright.sync_api import Browser, Page

pytestmark = browsing.needs_browser

# A query, and the end of the address of what must come first.
QUERIES: dict[str, str] = {}


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
