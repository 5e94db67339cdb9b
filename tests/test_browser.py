"""Open every page of the built book in a real browser: wide in light colours, narrow in dark ones.

The pages must load nothing from elsewhere, show every formula and every image, fit the screen, and have no serious
accessibility fault, with all folds open. Without a Chromium or Chrome browser these tests are skipped.
"""

from collections.abc import Iterator
from pathlib import Path

import browsing
import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import HTML, open_page, pages, serve_folder
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request

# Colours do not depend on the width, nor the layout on the colours: two views show all four cases.
VIEWS = {"wide, light": (1280, "light"), "narrow, dark": (390, "dark")}
HARMLESS = ("THEBE_JS_URL",)  # the theme loads one of its scripts twice

pytestmark = browsing.needs_browser


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Build the book if need be, and serve it on this machine only."""
    browsing.build_if_stale()
    with serve_folder(HTML) as served:
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all pages."""
    with browsing.launched() as running:
        yield running


def overflow(page: Page) -> list[str]:
    """What sticks out of the page to the right (boxes that scroll by themselves may)."""
    return page.evaluate(
        """() => {
            const width = document.documentElement.clientWidth;
            if (document.documentElement.scrollWidth <= width) {
                const article = document.querySelector("#main-content, main");
                if (!article || article.scrollWidth <= article.clientWidth + 1) return [];
            }
            const scrolls = e => {
                for (let p = e.parentElement; p && p.tagName !== "BODY"; p = p.parentElement)
                    if (/auto|scroll|hidden/.test(getComputedStyle(p).overflowX)) return true;
                return false;
            };
            return [...document.querySelectorAll("main *")]
                .filter(e => e.getBoundingClientRect().right > width + 1 && !scrolls(e))
                .map(e => `${e.tagName}.${e.className}: ${e.textContent.slice(0, 60)}`)
                .concat([`page is ${document.documentElement.scrollWidth} wide`]);
        }"""
    )


def raw_formulas(page: Page) -> list[str]:
    """Formulas that MathJax left as source text or could not read."""
    return page.evaluate(
        r"""() => {
            const found = [...document.querySelectorAll("mjx-merror, [data-mml-node='merror']")]
                .map(e => "MathJax error: " + e.textContent);
            const texts = document.createTreeWalker(
                document.querySelector("main"), NodeFilter.SHOW_TEXT);
            while (texts.nextNode()) {
                const node = texts.currentNode;
                if (node.parentElement.closest("pre, code, script, style, mjx-container")) continue;
                if (/\\\(|\\\[|\$[^$]|\{(ref|eq|numref|cite|prf:ref|glue)/.test(node.data))
                    found.push("raw: " + node.data.trim().slice(0, 80));
            }
            return found;
        }"""
    )


def faults(page: Page) -> list[str]:
    """The serious and critical accessibility faults.

    The insides of formulas are taken away first: they are thousands of elements, all made by MathJax.
    """
    insides = "mjx-container > svg, mjx-assistive-mml > math"
    page.evaluate(f"for (const e of document.querySelectorAll('{insides}')) e.replaceChildren()")
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    options = {"runOnly": rules, "resultTypes": ["violations"], "preload": False}  # load no style sheet again
    context = {"exclude": [[".citation-list"]]}  # its roles are a fault of docutils
    results = Axe().run(page, context=context, options=options).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:160]} | {node['failureSummary'][:300]}"
        for fault in results
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"][:3]
    ]


def inspect(browser: Browser, url: str, view: str) -> list[str]:
    """Open a page with all its folds and return all that is wrong with it."""
    width, mode = VIEWS[view]
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=mode,
        reduced_motion="reduce",
    )
    context.add_init_script(f"localStorage.mode = localStorage.theme = '{mode}'; localStorage.folds = 'open'")
    page = context.new_page()
    found: list[str] = []

    def note_message(message: ConsoleMessage) -> None:
        if message.type == "error" and not any(word in message.text for word in HARMLESS):
            found.append(f"console: {message.text} {message.location.get('url', '')}")

    def note_error(error: Error) -> None:
        if not any(word in error.message for word in HARMLESS):
            found.append(f"script: {error.message}")

    def note_request(request: Request) -> None:
        here = url.split("/", 3)[:3]
        if not request.url.startswith(("data:", "blob:")) and request.url.split("/", 3)[:3] != here:
            found.append(f"asks for something from elsewhere: {request.url}")

    page.on("console", note_message)
    page.on("pageerror", note_error)
    page.on("request", note_request)
    page.on("requestfailed", lambda request: found.append(f"failed: {request.url}"))
    try:
        open_page(page, url)
        broken = "[...document.images].filter(i => !i.naturalWidth).map(i => 'broken ' + i.src)"
        found += page.evaluate(broken)
        found += raw_formulas(page) + overflow(page) + faults(page)
        shown = page.evaluate("document.documentElement.dataset.theme")
        if shown not in (mode, None):
            found.append(f"shown in mode {shown}, not {mode}")
    finally:
        context.close()
    return found


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", pages())
def test_page(browser: Browser, address: str, name: str, view: str) -> None:
    assert inspect(browser, f"{address}/{name}", view) == []


def test_planted_faults_are_seen(browser: Browser, tmp_path: Path) -> None:
    """The test of this test: each fault on a bad page is reported."""
    (tmp_path / "bad.html").write_text(
        """<!doctype html><html lang="en"><title>Bad</title><main>
        <p>A formula as source: \\(x^2\\)</p>
        <p style="width: 3000px">Too wide</p>
        <p style="color: #ddd; background: #fff">Too pale</p>
        <img src="missing.png"><img src="http://127.0.0.2:9/far.png" alt="from elsewhere">
        <script>throw new Error("a script fails")</script></main></html>"""
    )
    with serve_folder(tmp_path) as address:
        report = "\n".join(inspect(browser, f"{address}/bad.html", "narrow, dark"))
    for sign in (
        "raw: A formula as source",
        "page is 30",
        "color-contrast",
        "image-alt",
        "broken",
        "404",
        "from elsewhere",
        "a script fails",
    ):
        assert sign in report, f"{sign} is not in:\n{report}"


def test_formulas_are_set_without_a_server(browser: Browser, address: str) -> None:
    """A reader opens the pages from disk."""
    page = browser.new_page()
    for name in pages():
        open_page(page, (HTML / name).as_uri())
        sources = page.locator(".math").count()
        assert page.locator("mjx-container svg").count() >= sources
    page.close()


def test_first_page_leads_to_the_book(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}/index.html")
    page.wait_for_url("**/book/index.html")
    assert "Bayesian Point Estimators" in page.title()
    page.close()
