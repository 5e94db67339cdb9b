"""Look at the notebooks behind the download buttons in JupyterLab, as it comes and with the extension jupyterlab-myst.

    python tests/run_jupyterlab.py              some chapters
    python tests/run_jupyterlab.py NAME ...     these

Pictures of what a reader sees go to _build/jupyterlab. The pages must have been built. JupyterLab is installed into an
environment of its own; most of the minute that it takes goes there.
"""

import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import browsing
from playwright.sync_api import Page

FRONT_ENDS = {"plain": ["jupyterlab==4.6.6"], "myst": ["jupyterlab==4.6.6", "jupyterlab-myst==2.7.0"]}
NAMES = ("fifteen-minutes", "divergence", "local-fields", "choosing")
PICTURES = browsing.ROOT / "_build" / "jupyterlab"
WHOLE = (
    '{"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}'  # draw all cells, not only those in sight
)
RAW = re.compile(r"\{(?:glue|prf|ref|eq|numref|cite|doc|term)[^}]*\}`|^:::|\\begin\{|\$[^$\s]", re.MULTILINE)
SCROLL = """(share) => {
    const notebook = document.querySelector(".jp-WindowedPanel-outer");
    notebook.scrollTo(0, share * notebook.scrollHeight);
}"""
SEEN = """() => {
    const all = (selector) => [...document.querySelectorAll(`.jp-Notebook .jp-MarkdownCell ${selector}`)];
    const shown = (e) => e.checkVisibility({contentVisibilityAuto: true});
    return {
        words: all(".jp-RenderedMarkdown").map((e) => e.innerText).join("\\n"),
        formulas: all("mjx-container, .katex").length,
        faults: all("mjx-merror, .katex-error, .myst-error").length,
        unseen: [...document.querySelectorAll(".jp-OutputArea")].filter((e) => e.innerText.includes("<IPython")).length,
        broken: [...document.images].filter((image) => !image.naturalWidth).length,
        pictures: document.querySelectorAll(".jp-Notebook .jp-OutputArea img, .jp-Notebook .jp-OutputArea svg").length,
        folds: all("details").length,
        open: all("details[open]").length,
        code: [...document.querySelectorAll(".jp-CodeCell .jp-Cell-inputArea")].filter(shown).length,
    };
}"""


def install(folder: Path, packages: list[str]) -> Path:
    """Make an environment with a front end; return the folder of its programs."""
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if sys.platform == "win32" else "bin")
    subprocess.run([programs / "python", "-m", "pip", "install", "--quiet", *packages], check=True)
    settings = folder / "share" / "jupyter" / "lab" / "settings"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "overrides.json").write_text(WHOLE, encoding="utf-8")
    return programs


@contextmanager
def serving(programs: Path, folder: Path) -> Iterator[str]:
    """Run JupyterLab in a folder; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", f"--port={port}", "--IdentityProvider.token=", "--allow-root"]
    command = [programs / "python", "-m", "jupyterlab", *options]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api")
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def look(page: Page, address: str, name: str, picture: str) -> list[str]:
    """Open a notebook; return what is wrong with what a reader sees of it."""
    page.goto(f"{address}/doc/tree/{name}.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-MarkdownCell", timeout=60_000)
    page.wait_for_function(
        "document.querySelectorAll('.jp-MarkdownCell mjx-container, .katex').length > 20", timeout=60_000
    )
    page.wait_for_timeout(5_000)
    for part in range(4):
        page.evaluate(SCROLL, part / 4)
        page.wait_for_timeout(500)
        page.screenshot(path=PICTURES / f"{picture}-{part}.png")
    seen = page.evaluate(SEEN)
    limits = dict.fromkeys(("faults", "unseen", "broken", "open"), (0, 0))
    limits |= {"formulas": (20, 1e5), "pictures": (2, 1e3), "folds": (2, 1e3)}
    found = [f"{what}: {seen[what]}" for what, (least, most) in limits.items() if not least <= seen[what] <= most]
    return found + [f"raw: {raw[0]!r}" for raw in RAW.finditer(seen["words"])]


def main(names: list[str]) -> int:
    """Look at the notebooks in both front ends, and tell what is wrong."""
    failed = 0
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder, browsing.launched() as browser:
        books = Path(folder) / "books"
        books.mkdir()
        for name in names or NAMES:
            shutil.copy(browsing.HTML / "_sources" / "book" / f"{name}.ipynb", books)
        for kind, packages in FRONT_ENDS.items():
            with serving(install(Path(folder) / kind, packages), books) as address:
                for name in names or NAMES:
                    page = browser.new_page(viewport={"width": 1280, "height": 1000})
                    faults = look(page, address, name, f"{name}-{kind}")
                    page.close()
                    failed += bool(faults)
                    print(f"{name}, {kind}: {'; '.join(faults) or 'reads well'}", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
