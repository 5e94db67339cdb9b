"""A real browser for the tests of the pages: where it is, how it starts, and how it reaches the built book."""

import functools
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup
from filelock import FileLock
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
EXECUTABLE = next((path for path in map(shutil.which, BROWSERS) if path), None)
BUILD = "from jupyter_book.cli.main import main; main()"

DRAWING = re.compile(r"(<mjx-container[^>]*>)<svg.*?</svg>", re.DOTALL)

needs_browser = pytest.mark.skipif(EXECUTABLE is None, reason=f"no browser found (looked for {', '.join(BROWSERS)})")


def chapters() -> list[str]:
    """The names of the chapters, in the order of the table of contents."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [entry["file"] for part in contents["parts"] for entry in part["chapters"]]
    return [Path(file).stem for file in files if file.endswith(".ipynb")]


def pages() -> list[str]:
    """The addresses of all pages in the table of contents, and of the search page."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [contents["root"]]
    for part in contents["parts"]:
        files += [entry["file"] for entry in part["chapters"]]
    return [file.removesuffix(".ipynb") + ".html" for file in files] + ["search.html"]


def is_fresh() -> bool:
    """Tell whether the built pages are newer than all that they are made of."""
    index = HTML / "index.html"
    if not index.exists():
        return False
    sources = [ROOT / "_config.yml", ROOT / "_toc.yml"]
    for pattern in (
        "*.md",
        "*.ipynb",
        "*.bib",
        "_static/**/*",
        "_templates/*",
        "_extension/*.*",
        "exercises/*.py",
        "room.yml",
    ):
        sources += (ROOT / "book").glob(pattern)
    sources += (ROOT / "proofs").glob("*.v")
    return max(path.stat().st_mtime for path in sources) <= index.stat().st_mtime


def soup(file: Path) -> BeautifulSoup:
    """The HTML of a built page, without the drawings of its formulas, which are half of it; their words stay."""
    return BeautifulSoup(DRAWING.sub(r"\1", file.read_text(encoding="utf-8")), "html.parser")


class QuietHandler(SimpleHTTPRequestHandler):
    """Serve files without a line of log for each."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve(handler: Callable[..., SimpleHTTPRequestHandler]) -> Iterator[str]:
    """Serve files at a free port of this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class BuildError(Exception):
    """The pages could not be built without a warning."""


def build_if_stale() -> None:
    """Build the book if its pages are older than what they are made of; once, if several processes ask for it."""
    HTML.parent.mkdir(exist_ok=True)
    with FileLock(HTML.parent / "html.lock"):
        if is_fresh():
            return
        (HTML / "index.html").unlink(missing_ok=True)  # it is only written where there is none
        command = [sys.executable, "-c", BUILD, "build", str(ROOT), "-W", "-n", "--keep-going", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise BuildError(done.stderr)


@contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """Serve the files of a folder at a free port of this machine."""
    with serve(functools.partial(QuietHandler, directory=str(folder))) as address:
        yield address


@contextmanager
def launched() -> Iterator[Browser]:
    """Start a browser, which by itself asks nothing of the internet."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=EXECUTABLE,
            args=[
                *(["--no-sandbox"] if hasattr(os, "getuid") and os.getuid() == 0 else []),
                "--disable-gpu",
                "--disable-quic",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
            ],
        )
        yield running
        running.close()


def open_page(page: Page, url: str) -> None:
    """Go to a page and wait until fonts and pictures stand."""
    page.goto(url, wait_until="load")
    page.evaluate(
        """async () => {
            await document.fonts.ready;
            for (const image of document.images) image.loading = "eager";
            await Promise.all([...document.images].map(image => image.decode().catch(() => 0)));
        }"""
    )
