"""How long are the pages? Measure the built book in a browser, as a reader finds it, and print a table.

    python tests/measure_pages.py              all chapters, totals, and the routes of the landing page
    python tests/measure_pages.py NAME ...     some chapters only

The window has 1280 x 800 pixels, all folds are closed. What is counted:

- *screens*: the height of the article, without the lists of pages around it, in windows of 800 pixels.
- *words*: pieces of the visible text between blanks that hold a letter. So numbers do not count, in tables or
  elsewhere; neither do formulas, code (in the line or in cells), printed outputs, and the bars of folds, except for the
  titles of folded sections. Captions, statements, exercises and lists do.
- *all*: the same with all folds open.
- *folds*, and *figure*: the screens above the first picture.
- *stops*: what the key Tab reaches on the whole page.
- *ready*: seconds until the page is painted and its text and formulas stand.
- *cells*, *lines*, *longest*, *median*: the code cells of the chapter and their lines.

Last, how long the laboratory takes for a picture while its datum is dragged.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "book"))

import browsing
import execute
import yaml
from playwright.sync_api import Page

WIDTH, HEIGHT = 1280, 800
ROUTES = execute.BOOK / "prerequisites.yml"

MEASURE = r"""(label) => {
    const article = document.querySelector("article.bd-article");
    const top = article.getBoundingClientRect().top;
    const skip = "pre, code, script, style, .math, mjx-container, .headerlink, summary > span, .output.stream";
    const visible = (element) => {
        for (let fold = element.closest("details"); fold; fold = fold.parentElement.closest("details"))
            if (!fold.open && !fold.firstElementChild.contains(element)) return false;
        return true;
    };
    const text = [];
    let words = 0;
    let all = 0;
    const walker = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const parent = walker.currentNode.parentElement;
        if (parent.closest(skip)) continue;
        const count = walker.currentNode.data.split(/\s+/).filter((word) => /\p{L}/u.test(word)).length;
        text.push(walker.currentNode.data);
        all += count;
        if (visible(parent)) words += count;
    }
    const shown = (element) => element.checkVisibility({ visibilityProperty: true }) && !element.disabled;
    const picture = [...article.querySelectorAll("img, svg.widget, canvas")].find(shown);
    const goal = label && document.getElementById(label);
    const [loaded, painted] = ["navigation", "paint"].map((kind) => performance.getEntriesByType(kind).pop());
    return {
        height: (goal ? goal.getBoundingClientRect().bottom - top : article.scrollHeight),
        found: !label || Boolean(goal),
        words,
        all,
        folds: article.querySelectorAll("details.fold").length,
        figure: picture ? picture.getBoundingClientRect().top - top : null,
        stops: [...document.querySelectorAll("*")].filter((e) => e.tabIndex >= 0 && shown(e)).length,
        ready: Math.max(loaded.domContentLoadedEventEnd, painted?.startTime ?? 0) / 1000,
        text: text.join(" "),
    };
}"""


@dataclass(frozen=True)
class Measures:
    """What was measured of a page; see the head of this file. Lengths are in screens."""

    name: str
    screens: float
    words: int
    all: int
    folds: int
    figure: float
    stops: int
    ready: float
    cells: int
    lines: int
    longest: int
    median: float


@dataclass(frozen=True)
class Code:
    """The lines of the code cells of a chapter."""

    lines: tuple[int, ...]

    @property
    def longest(self) -> int:
        return max(self.lines, default=0)

    @property
    def median(self) -> float:
        return statistics.median(self.lines) if self.lines else 0.0


def code_of(name: str) -> Code:
    """Measure the code of a chapter."""
    cells = execute.code_cells(execute.read_text(execute.BOOK / f"{name}.md"))
    return Code(tuple(len(cell.source.splitlines()) for cell in cells))


@contextmanager
def reader(html: Path = browsing.HTML) -> Iterator[tuple[Page, str]]:
    """Open a window of a browser, and serve the pages of a folder; yield both."""
    with browsing.launched() as browser, browsing.serve_folder(html) as address:
        context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce")
        yield context.new_page(), address
        context.close()


def look(page: Page, address: str, label: str = "") -> dict:
    """Open a page and measure it, or what is above the end of the element with a label; lengths are in pixels."""
    browsing.open_page(page, address)
    found = page.evaluate(MEASURE, label)
    if not found["found"]:
        raise SystemExit(f"{address} has no {label}")
    return found


def measures(name: str, found: dict) -> Measures:
    """Join what was seen of a chapter with what its code is."""
    code = code_of(name)
    return Measures(
        name=name,
        screens=found["height"] / HEIGHT,
        words=found["words"],
        all=found["all"],
        folds=found["folds"],
        figure=float("inf") if found["figure"] is None else found["figure"] / HEIGHT,
        stops=found["stops"],
        ready=found["ready"],
        cells=len(code.lines),
        lines=sum(code.lines),
        longest=code.longest,
        median=code.median,
    )


def totals(rows: list[Measures]) -> Measures:
    """Sum up; of the last columns take the greatest, and the median over all cells."""
    lines = [count for row in rows for count in code_of(row.name).lines]
    sums = {name: sum(getattr(row, name) for row in rows) for name in ("screens", "words", "all", "folds", "stops")}
    return Measures(
        name="together",
        **sums,
        figure=max(row.figure for row in rows),
        ready=max(row.ready for row in rows),
        cells=len(lines),
        lines=sum(lines),
        longest=max(lines),
        median=statistics.median(lines),
    )


def route_length(page: Page, address: str, stations: Iterable[str]) -> tuple[float, int]:
    """Return the screens and visible words of a route, a list of pages; PAGE#LABEL ends with the statement LABEL."""
    screens, words = 0.0, 0
    for station in stations:
        name, _, label = station.partition("#")
        found = look(page, f"{address}/book/{name}.html", label)
        screens += found["height"] / HEIGHT
        words += found["words"]
    return screens, words


def frames(page: Page, address: str) -> list[float]:
    """Drag the datum of the laboratory around a circle; return the milliseconds that each picture took."""
    browsing.open_page(page, f"{address}/book/laboratory.html")
    page.locator("#fig-lab-plane").scroll_into_view_if_needed()
    datum = page.locator("#fig-lab-plane .lab-datum .lab-dot")
    box = datum.bounding_box()
    page.evaluate("Laboratory.frames.length = 0")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for turn in range(100):
        angle = 2 * math.pi * turn / 50
        page.mouse.move(box["x"] + 80 * math.sin(angle), box["y"] + 80 * (1 - math.cos(angle)))
        page.evaluate("new Promise(requestAnimationFrame)")
    page.mouse.up()
    return page.evaluate("Laboratory.frames")


def table(rows: list[Measures]) -> str:
    """Return the measures as lines of text."""
    columns = [field.name for field in fields(Measures)]
    width = max(len(row.name) for row in rows)
    lines = [f"{'':{width}} " + " ".join(f"{name:>8}" for name in columns[1:])]
    for row in rows:
        values = [getattr(row, name) for name in columns[1:]]
        texts = [f"{value:8.1f}" if isinstance(value, float) else f"{value:8,}" for value in values]
        lines.append(f"{row.name:{width}} " + " ".join(texts))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="chapters; default: all")
    parser.add_argument("--html", type=Path, default=browsing.HTML, help="folder of the built pages")
    options = parser.parse_args(arguments)
    if browsing.EXECUTABLE is None:
        parser.exit(1, "no browser found\n")
    with reader(options.html) as (page, address):
        names = options.names or browsing.chapters()
        rows = [measures(name, look(page, f"{address}/book/{name}.html")) for name in names]
        print(table([*rows, totals(rows)] if len(rows) > 1 else rows))
        if not options.names and ROUTES.exists():
            print()
            for name, stations in yaml.safe_load(ROUTES.read_text(encoding="utf-8"))["routes"].items():
                screens, words = route_length(page, address, stations)
                print(f"{name}: {screens:.1f} screens; its pages have {words:,} words ({', '.join(stations)})")
            taken = frames(page, address)
            print(f"laboratory: {statistics.median(taken):.0f} ms a picture, {max(taken):.0f} ms the slowest")
    return 0


if __name__ == "__main__":
    sys.exit(main())
