"""The whole book as one PDF: all pages joined to one, which Chromium prints.

    python release/pdf.py [FILE]

All folds are open, every link between pages is a link inside of the PDF, and formulas that are too wide for the paper
are made smaller. The contents get their page numbers from a first print. The pages must have been built.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import contents
import one_page
import pikepdf
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(contents.ROOT / "book" / "_extension"))

from formulas import mathjax_folder

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MARGIN, FOOT = 18, 17  # millimetres
SCALE = 0.8
WIDTH = round((210 - 2 * MARGIN) / 25.4 * 96 / SCALE)  # pixels of the page that fit the width of the paper
FOOTER = (
    '<div style="width: 100%; text-align: center; font: 8pt sans-serif; color: #555">'
    '<span class="pageNumber"></span></div>'
)
STARTED = "async () => { await MathJax.startup.promise; await document.fonts.ready; }"

MATHJAX = ("mml-chtml.js", "output/chtml/fonts/woff-v2")

# Formulas as wide as the paper at most, and what is too wide in spite of that.
FIT = """() => {
    for (const fold of document.querySelectorAll("details")) fold.open = true;
    const width = (box) => box.getBoundingClientRect().width;
    const room = width(document.querySelector("main"));
    const sizes = [...document.querySelectorAll("mjx-container[display='true']")].map((formula) => {
        const outer = formula.closest("div.math") ?? formula.parentElement;
        const number = outer.querySelector(".eqno");
        const share = (width(outer) - (number ? width(number) + 14 : 0)) / width(formula.querySelector("mjx-math"));
        return [formula, share < 1 ? share * parseFloat(getComputedStyle(formula).fontSize) : 0];
    });
    const wide = () => [...document.querySelectorAll("table")].filter((table) => width(table) > room);
    const tables = wide();
    for (const [formula, size] of sizes) if (size) formula.style.fontSize = `${size}px`; // after all has been measured
    for (const table of tables) table.classList.add("tight");
    for (const table of wide()) table.classList.add("tightest");

    const right = document.querySelector("main").getBoundingClientRect().right;
    const cut = (box) => box.scrollWidth > box.clientWidth + 1 && box.clientWidth > 0;
    return [...document.querySelectorAll("pre, table, img, mjx-math, p")]
        .filter((box) => box.getBoundingClientRect().right > right + 1 || (box.matches("pre") && cut(box)))
        .map((box) => `${box.closest("section.page")?.id}: ${box.tagName} ${box.textContent.slice(0, 80)}`);
}"""
HEADINGS = """() => [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")]
    .map((heading) => heading.innerText.replace(/\\s+/g, " ").trim())"""

# Nothing but the numbers of the pages, each in its place.
ONLY_NUMBERS = """(pages) => {
    for (const cell of document.querySelectorAll("[data-page]")) cell.textContent = pages[cell.dataset.page] ?? "";
    for (const page of document.querySelectorAll("section.page")) page.remove();
    document.body.style.visibility = "hidden";
    for (const element of [document.documentElement, document.body]) element.style.background = "transparent";
    for (const cell of document.querySelectorAll("[data-page]")) cell.style.visibility = "visible";
}"""


# Print


def named_places(file: pikepdf.Pdf) -> dict[str, int]:
    """Return the number of the page of each named place of a PDF."""
    numbers = {page.obj.objgen: number for number, page in enumerate(file.pages, start=1)}
    root = file.Root
    pairs = list(root.Dests.items()) if "/Dests" in root else []
    if "/Names" in root and "/Dests" in root.Names:
        pairs += list(pikepdf.NameTree(root.Names.Dests).items())
    found = {}
    for name, place in pairs:
        page = (place.D if isinstance(place, pikepdf.Dictionary) else place)[0]
        found[str(name).removeprefix("/")] = numbers[page.objgen]
    return found


def places(file: Path) -> dict[str, int]:
    """Return the number of the page of each named place of a file."""
    with pikepdf.open(file) as opened:
        return named_places(opened)


def squeezed(text: str) -> str:
    """Return text without blanks."""
    return "".join(text.split())


def mend_marks(items: Iterable[pikepdf.OutlineItem], headings: Mapping[str, str]) -> None:
    """Give the marks of an outline their blanks back, which the browser drops where a heading is broken into lines.

    Args:
        items: the marks.
        headings: the headings, by their letters without blanks.
    """
    for item in items:
        title = squeezed(item.title)
        once = title[: len(title) // 2]  # a heading that goes to the next page comes twice
        item.title = headings.get(title) or headings.get(once if title == 2 * once else "") or item.title
        mend_marks(item.children, headings)


def finish(file: Path, numbers: Path, headings: Iterable[str]) -> None:
    """Print one PDF over the first pages of another, mend the marks, and pack the result as small as can be."""
    with pikepdf.open(file, allow_overwriting_input=True) as opened, pikepdf.open(numbers) as over:
        for page, number in zip(opened.pages, over.pages, strict=False):
            page.add_overlay(number)
        with opened.open_outline() as outline:
            mend_marks(outline.root, {squeezed(heading): heading for heading in headings})
        opened.save(file, object_stream_mode=pikepdf.ObjectStreamMode.generate, compress_streams=True)


def print_page(page: Page, file: Path, footer: str = FOOTER) -> None:
    """Print what a browser shows."""
    margin = {"top": f"{FOOT}mm", "bottom": f"{FOOT}mm", "left": f"{MARGIN}mm", "right": f"{MARGIN}mm"}
    page.pdf(
        path=file,
        format="A4",
        margin=margin,
        scale=SCALE,
        print_background=True,
        display_header_footer=True,
        header_template="<span></span>",
        footer_template=footer,
        outline=True,
        tagged=True,
    )


def print_book(text: str, html: Path, file: Path) -> None:
    """Print the text of all pages, which finds its pictures and styles in the built pages.

    Raises:
        ValueError: if something is wider than the paper.
        FileNotFoundError: if there is no Chromium or Chrome browser.
    """
    executable = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if executable is None:
        raise FileNotFoundError(f"no browser found (looked for {', '.join(BROWSERS)})")
    root = hasattr(os, "getuid") and os.getuid() == 0
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        for part in ("_static", "_images"):
            if (html / part).is_dir():
                shutil.copytree(html / part, Path(folder) / part)
        for part in MATHJAX:
            source, place = mathjax_folder() / part, Path(folder) / "mathjax" / part
            place.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, place)
        (Path(folder) / "book.html").write_text(text, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"] if root else [])
        page = browser.new_page(viewport={"width": WIDTH, "height": 1000})
        page.set_default_timeout(0)
        page.emulate_media(media="print")
        page.goto((Path(folder) / "book.html").as_uri(), wait_until="load", timeout=0)
        page.evaluate(STARTED)
        cut = page.evaluate(FIT)
        if cut:
            raise ValueError("wider than the paper:\n" + "\n".join(cut))
        print_page(page, file)
        headings = page.evaluate(HEADINGS)
        page.evaluate(ONLY_NUMBERS, places(file))
        print_page(page, Path(folder) / "numbers.pdf", "<span></span>")
        browser.close()
        finish(file, Path(folder) / "numbers.pdf", headings)


# What a PDF must have


def links(file: pikepdf.Pdf) -> Iterator[tuple[int, str, bool]]:
    """Yield the number of the page, the goal, and whether it lies in the PDF, of each link."""
    for number, page in enumerate(file.pages, start=1):
        for annotation in page.obj.get("/Annots", []):
            if annotation.get("/Subtype") != "/Link":
                continue
            action = annotation.get("/A", pikepdf.Dictionary())
            if "/URI" in action:
                yield number, str(action.URI), False
            else:
                yield number, str(annotation.get("/Dest", action.get("/D"))).removeprefix("/"), True


def marks(items: Iterable[pikepdf.OutlineItem]) -> Iterator[str]:
    """Yield the titles of an outline."""
    for item in items:
        yield " ".join(item.title.split())
        yield from marks(item.children)


def faults(path: Path, titles: list[str], address: str = "") -> list[str]:
    """Return what is wrong with a PDF: links to nowhere or into the machine that printed it, pages without a mark.

    Args:
        path: the PDF.
        titles: of the pages, each of which must be a mark of the outline.
        address: of the pages, to which links may lead.
    """
    found = []
    with pikepdf.open(path) as file:
        known = named_places(file)
        for number, goal, inside in links(file):
            if inside and goal not in known:
                found.append(f"page {number}: a link to {goal}, which is nowhere")
            elif not inside and not goal.startswith(("https://", address or "https://")):
                found.append(f"page {number}: a link to {goal}")
        with file.open_outline() as outline:
            there = set(marks(outline.root))
    return found + [f"no mark for {title!r}" for title in titles if title not in there]


def make(file: Path, html: Path = contents.HTML, address: str = "") -> None:
    """Print the book into a file."""
    text = one_page.whole(contents.printed_parts(), html, contents.title(), contents.version(), address)
    print_book(text, html, file)


if __name__ == "__main__":
    make(Path(sys.argv[1] if len(sys.argv) > 1 else contents.RELEASE / f"book-{contents.version()}.pdf"))
