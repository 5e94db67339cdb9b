"""Open every page of the built book in a real browser: wide in light colours, narrow in dark ones.

The pages must load nothing from elsewhere, show every formula and every image, fit the screen, and have no
accessibility fault, with all folds open and closed. Without a Chromium or Chrome browser these tests are skipped.
"""

import gzip
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import axe_playwright_python
import browsing
import pytest
from browsing import HTML, open_page, pages, serve_folder
from playwright.sync_api import Browser, Page

# Colours do not depend on the width, nor the layout on the colours: two views show all four cases.
VIEWS = {"wide, light": (1280, "light"), "narrow, dark": (390, "dark")}
RAW, SENT = 3.5e6, 1.2e6  # bytes that a page may weigh, and as a server sends it, compressed
PICTURES = (".png", ".woff2")  # are compressed already

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
    """Formulas that were left as source text."""
    return page.evaluate(
        r"""() => {
            const found = [];
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


MARK_LOOKS = """() => {
    const seen = new Set();
    for (const element of document.querySelectorAll("body *")) {
        delete element.dataset.look;
        const hasText = [...element.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
        if (!hasText || !element.checkVisibility()) continue;
        const style = getComputedStyle(element);
        const look = [style.color, style.fontSize, style.fontWeight];
        if (element.matches("a")) look.push(style.textDecoration, getComputedStyle(element.parentElement).color);
        for (let around = element; around; around = around.parentElement) {
            const { backgroundColor, backgroundImage, opacity } = getComputedStyle(around);
            if (backgroundColor !== "rgba(0, 0, 0, 0)") look.push(backgroundColor);
            if (backgroundImage !== "none") look.push(backgroundImage);
            if (opacity !== "1") look.push(opacity);
        }
        if (!seen.has(look.join())) element.dataset.look = "new";
        seen.add(look.join());
    }
}"""
"""Marks one element for each look that a text has."""

SIMPLIFY = """() => {
    const all = (selector) => [...document.querySelectorAll(selector)];
    const seen = new Set();
    for (const word of all(".highlight pre span[class]")) {
        if (seen.has(word.className) && !word.children.length) word.replaceWith(word.textContent);
        seen.add(word.className);
    }
    for (const formula of all("span.math").slice(1)) formula.replaceWith("x");
    for (const formula of all(".math").slice(1)) formula.textContent = "x";
    for (const number of all(".pasted-text").slice(1)) number.replaceWith(number.textContent);
    for (const inside of all("mjx-container > *, svg.formulas")) inside.replaceChildren();
    for (const line of all("svg.icon > :not(title)")) line.remove();
}"""
"""Leaves one of the elements that are made alike, of which a page has thousands.

Each kind of word in code is left once, all others become plain text, and so do all formulas and glued numbers but
the first; drawings of formulas and of buttons are emptied.
"""


def violations(page: Page) -> list[dict]:
    """What axe finds in a page by all rules; by those of colours, which are slow, once for each look of a text."""
    page.evaluate(MARK_LOOKS)
    return page.evaluate(
        """async () => {
            axe.configure({ rules: [
                { id: "color-contrast", selector: "[data-look]" },
                { id: "link-in-text-block", selector: "a[data-look]" },
            ] });
            const exclude = [[".citation-list"]]; // its roles are a fault of docutils
            const runOnly = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];
            const options = { resultTypes: ["violations"], preload: false, runOnly }; // load no style sheet again
            return (await axe.run({ exclude }, options)).violations;
        }"""
    )


def faults(page: Page) -> list[str]:
    """The accessibility faults, with all folds open and then with all closed."""
    page.evaluate(SIMPLIFY)
    page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    found = []
    for state in ("open", "closed"):
        page.evaluate(
            f"for (const fold of document.querySelectorAll('details')) fold.open = {str(state == 'open').lower()}"
        )
        found += [
            f"{state}: {fault['id']}: {node['html'][:160]} | {node['failureSummary'][:300]}"
            for fault in violations(page)
            for node in fault["nodes"][:3]
        ]
    return found


def repeated_names(page: Page) -> list[str]:
    """Names that several elements of a page have."""
    return page.evaluate(
        """() => {
            const names = [...document.querySelectorAll("[id]")].map((e) => e.id);
            return [...new Set(names.filter((name, index) => names.indexOf(name) < index))].map((n) => "twice: " + n);
        }"""
    )


class Visit(NamedTuple):
    """What is wrong with a page, and the addresses of all that it loads."""

    found: list[str]
    loaded: set[str]


@contextmanager
def window(browser: Browser, view: str) -> Iterator[Page]:
    """A window for all pages, one after the other: what they share is loaded and read once."""
    width, mode = VIEWS[view]
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=mode,
        reduced_motion="reduce",
    )
    context.add_init_script(
        "if (location.protocol === 'http:') "
        f"localStorage.mode = localStorage.theme = '{mode}', localStorage.folds = 'open'"
    )
    yield context.new_page()
    context.close()


def inspect(page: Page, url: str, view: str) -> Visit:
    """Open a page with all its folds and look at it."""
    here = url.split("/", 3)[:3]
    visit = Visit([], set())

    def note_request(address: str) -> None:
        visit.loaded.add(address.split("?")[0])
        if not address.startswith(("data:", "blob:")) and address.split("/", 3)[:3] != here:
            visit.found.append(f"asks for something from elsewhere: {address}")

    listeners = {
        "console": lambda said: (
            visit.found.append(f"console: {said.text} {said.location.get('url', '')}") if said.type == "error" else None
        ),
        "pageerror": lambda error: visit.found.append(f"script: {error.message}"),
        "request": lambda request: note_request(request.url),
        "requestfailed": lambda request: visit.found.append(f"failed: {request.url}"),
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    try:
        open_page(page, url)
        broken = "[...document.images].filter(i => !i.naturalWidth).map(i => 'broken ' + i.src)"
        visit.found.extend(page.evaluate(broken))
        visit.found.extend(raw_formulas(page) + overflow(page) + repeated_names(page) + faults(page))
        shown, mode = page.evaluate("document.documentElement.dataset.theme"), VIEWS[view][1]
        if shown not in (mode, None):
            visit.found.append(f"shown in mode {shown}, not {mode}")
    finally:
        for event, listener in listeners.items():
            page.remove_listener(event, listener)
        page.goto("about:blank")
    return visit


@pytest.fixture(scope="module")
def visit(browser: Browser, address: str) -> Iterator[Callable[[str, str], Visit]]:
    """What a visit of a page in a view finds; each is made once."""
    with window(browser, "wide, light") as wide, window(browser, "narrow, dark") as narrow:
        windows = {"wide, light": wide, "narrow, dark": narrow}
        yield cache(lambda name, view: inspect(windows[view], f"{address}/{name}", view))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", pages())
def test_page(visit: Callable[[str, str], Visit], name: str, view: str) -> None:
    assert visit(name, view).found == []


def test_planted_faults_are_seen(browser: Browser, tmp_path: Path) -> None:
    """The test of this test: each fault on a bad page is reported."""
    (tmp_path / "bad.html").write_text(
        """<!doctype html><html lang="en"><title>Bad</title><main>
        <p>A formula as source: \\(x^2\\)</p>
        <p style="width: 3000px">Too wide</p>
        <p style="color: #ddd; background: #fff">Too pale</p>
        <details><summary>More</summary><p style="color: #dddddc; background: #fff">Pale inside</p></details>
        <p>Nobody sees <a href="#" style="color: #222; text-decoration: none">a link</a> in black</p>
        <img src="missing.png"><img src="http://127.0.0.2:9/far.png" alt="from elsewhere">
        <script>throw new Error("a script fails")</script></main></html>"""
    )
    with serve_folder(tmp_path) as address, window(browser, "narrow, dark") as page:
        report = "\n".join(inspect(page, f"{address}/bad.html", "narrow, dark").found)
    for sign in (
        "raw: A formula as source",
        "page is 30",
        "color-contrast",
        "Pale inside",
        "link-in-text-block",
        "image-alt",
        "broken",
        "404",
        "from elsewhere",
        "a script fails",
    ):
        assert sign in report, f"{sign} is not in:\n{report}"


@cache
def weight(file: str) -> tuple[int, int]:
    """The bytes of a file, and as they are sent."""
    content = (HTML / file).read_bytes()
    return len(content), len(content) if file.endswith(PICTURES) else len(gzip.compress(content, 6))


@pytest.mark.parametrize("name", pages())
def test_weight(visit: Callable[[str, str], Visit], address: str, name: str) -> None:
    """A page with all that it loads is light, raw and as a server sends it."""
    files = {url.removeprefix(f"{address}/") for url in visit(name, "wide, light").loaded}
    weights = [weight(file) for file in files if not file.startswith(("data:", "blob:"))]
    raw, sent = (sum(column) for column in zip(*weights, strict=True))
    assert raw <= RAW, f"{raw:,} bytes"
    assert sent <= SENT, f"{sent:,} bytes"


def stops(page: Page) -> dict[str, list]:
    """What can have the focus, as marked by the keyboard: its number, and what does not look different then."""
    page.keyboard.press("Tab")  # from now on, the keyboard is in use
    return page.evaluate(
        """() => {
            const found = { count: 0, unseen: [] };
            for (const stop of document.querySelectorAll("*")) {
                if (stop.tabIndex < 0 || !stop.checkVisibility({ visibilityProperty: true })) continue;
                document.activeElement.blur();
                const parts = [stop, ...stop.children];
                const look = () => parts.map((part) => {
                    const { outline, boxShadow, stroke } = getComputedStyle(part);
                    return [outline, boxShadow, stroke].join();
                }).join();
                const blurred = look();
                stop.focus({ preventScroll: true });
                if (document.activeElement !== stop) continue;
                found.count += 1;
                if (look() === blurred) found.unseen.push(stop.outerHTML.slice(0, 120));
            }
            return found;
        }"""
    )


@pytest.mark.parametrize("name", ["book/index", "book/divergence", "book/laboratory", "book/claims"])
def test_the_keyboard_sees_where_it_is(browser: Browser, address: str, name: str) -> None:
    """Whatever the tabulator key reaches looks different there, by a ring, a shadow or a stroke."""
    page = browser.new_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    open_page(page, f"{address}/{name}.html")
    found = stops(page)
    page.close()
    assert found["count"] > 50
    assert found["unseen"] == []


def test_the_keyboard_reaches_every_stop(browser: Browser, tmp_path: Path) -> None:
    """On a small page the tabulator key goes where `stops` goes; and one that looks the same is seen."""
    (tmp_path / "small.html").write_text(
        """<!doctype html><html lang="en"><title>Small</title><style>.same:focus { outline: none }</style>
        <a href="#">one</a> <button class="same">two</button> <button disabled>no</button> <input>
        <details><summary>four</summary><a href="#">hidden</a></details> <span tabindex="0">five</span></html>"""
    )
    page = browser.new_page()
    page.goto((tmp_path / "small.html").as_uri())
    steps = 0
    for _ in range(9):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
        steps += 1
    found = stops(page)
    page.close()
    assert found["count"] == steps == 5
    assert [text[:21] for text in found["unseen"]] == ['<button class="same">']


def test_formulas_are_in_the_pages(address: str) -> None:
    """A reader needs no script and no server for them."""
    for name in pages():
        text = (HTML / name).read_text(encoding="utf-8")
        assert text.count("<mjx-container") >= text.count('class="math notranslate')
        assert set(re.findall(r'<use href="#([^"]+)"', text)) <= set(re.findall(r' id="([^"]+)"', text))


@pytest.mark.parametrize("name", ["choosing", "divergence", "residual-networks"])
def test_print(browser: Browser, address: str, name: str) -> None:
    """On paper no code is cut, no button is seen, all folds are open, and code may go on on the next page."""
    page = browser.new_page(viewport={"width": 680, "height": 1000})
    open_page(page, f"{address}/book/{name}.html")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    found = page.evaluate(
        """() => {
            const shown = (e) => e.checkVisibility() && e.getBoundingClientRect().width > 0;
            const all = (selector) => [...document.querySelectorAll(selector)];
            const whole = (e) => getComputedStyle(e).breakInside !== "auto" || getComputedStyle(e).display === "flex";
            return {
                cut: all("article pre").filter((e) => e.scrollWidth > e.clientWidth + 1).length,
                buttons: all("button, .headerlink, .copybtn").filter(shown).length,
                closed: all("article details > .fold-body").filter((e) => !shown(e)).length,
                whole: all("article :is(.cell, .cell_input, .highlight, pre)").filter(whole).length,
            };
        }"""
    )
    page.close()
    assert found == {"cut": 0, "buttons": 0, "closed": 0, "whole": 0}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_first_visit_has_the_colours_of_the_system(browser: Browser, address: str, scheme: str) -> None:
    page = browser.new_page(color_scheme=scheme)
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text) if message.type == "error" else None)
    open_page(page, f"{address}/book/index.html")
    shown = page.evaluate("document.documentElement.dataset.theme")
    page.close()
    assert shown == scheme
    assert messages == []


def test_first_page_leads_to_the_book(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}/index.html")
    page.wait_for_url("**/book/index.html")
    assert "Bayesian Point Estimators" in page.title()
    page.close()


def test_the_bibliography_has_no_numbers_since_no_citation_has_one(browser: Browser, address: str) -> None:
    page = browser.new_page()
    open_page(page, f"{address}/book/references.html")
    shown = page.locator(".citation").evaluate_all("works => works.map((work) => work.innerText.trim())")
    page.close()
    assert len(shown) > 50
    assert [text for text in shown if text.startswith("[")] == []
