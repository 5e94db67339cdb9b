"""Draw the notebooks of the readers, students and lecturers as VS Code draws Markdown: with its own code, in a browser.

    python tests/run_vscode.py              all chapters
    python tests/run_vscode.py NAME ...     some

VS Code typesets formulas with KaTeX, which knows fewer commands than MathJax, and takes a dollar before a digit for
money. Both renderers come from the package code-server, which npm fetches (47 MB); without npm a line says so, and
nothing is drawn. Pictures go to _build/vscode. The pages must have been built.
"""

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import browsing
import nbformat
from playwright.sync_api import Page

PACKAGE = "code-server@4.139.1"
PARTS = ("markdown-language-features/notebook-out/index.js", "markdown-math/notebook-out")
PICTURES = browsing.ROOT / "_build" / "vscode"
PAGE = """<!doctype html>
<style id="_defaultStyles"></style>
<style>body { font: 14px/1.4 sans-serif; max-width: 60em; margin: 1em auto }</style>
<script type="module">
    import { activate } from "./markdown-language-features/notebook-out/index.js";
    import { activate as addFormulas } from "./markdown-math/notebook-out/katex.js";
    const renderer = await activate({ workspace: { isTrusted: true } });
    await addFormulas({ getRenderer: async () => renderer });
    window.draw = (text) => {
        const cell = document.body.appendChild(document.createElement("div"));
        renderer.renderOutputItem({ id: "", mime: "text/markdown", text: () => text }, cell);
        const drawn = cell.shadowRoot.getElementById("preview");
        const all = (selector) => [...drawn.querySelectorAll(selector)];
        const seen = {
            formulas: all(".katex").length,
            faults: all(".katex-error, [style*='#cc0000']").map((e) => e.title || e.textContent),
            folds: all("details:not([open])").length,
        };
        const words = drawn.cloneNode(true);
        words.querySelectorAll(".katex, code, style").forEach((e) => e.remove());
        return { ...seen, words: words.textContent };
    };
</script>"""
RAW = re.compile(r"\$|\*\*|</?[a-z]+>|\\[a-z]+")


def fetch(folder: Path) -> None:
    """Put the renderers of VS Code into a folder, with a page that calls them."""
    subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as packed:
        extensions = "package/lib/vscode/extensions/"
        wanted = tuple(extensions + part for part in PARTS)
        for member in packed:
            if member.name.startswith(wanted):
                member.name = member.name.removeprefix(extensions)
                packed.extract(member, folder, filter="data")
    (folder / "index.html").write_text(PAGE, encoding="utf-8")


def notebooks(names: list[str]) -> Iterator[tuple[str, Path]]:
    """Yield the notebooks of some chapters, with what to call them."""
    build = browsing.ROOT / "_build"
    places = {"reader": build / "html" / "_sources" / "book", "student": build / "packs" / "student"}
    places["lecturer"] = build / "packs" / "lecturer"
    for name in names:
        yield from ((f"{name}-{kind}", folder / f"{name}.ipynb") for kind, folder in places.items())


def look(page: Page, path: Path) -> tuple[int, list[str]]:
    """Draw the text of a notebook; return how many formulas it has, and what is wrong."""
    formulas, faults = 0, []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "markdown":
            continue
        seen = page.evaluate("(text) => window.draw(text)", cell.source)
        formulas += seen["formulas"]
        faults += seen["faults"]
        words = seen["words"]
        faults += [repr(words[max(0, raw.start() - 30) : raw.end() + 30]) for raw in RAW.finditer(words)]
        folds = len(re.findall("^<details>$", cell.source, re.MULTILINE))
        faults += [f"{seen['folds']} folds of {folds} in {cell.id}"] if seen["folds"] != folds else []
    return formulas, faults


def main(names: list[str]) -> int:
    """Draw the notebooks, and tell what is wrong."""
    if not shutil.which("npm"):
        print("npm is not installed: nothing is drawn as VS Code draws it")
        return 0
    failed = 0
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder, browsing.launched() as browser:
        fetch(Path(folder))
        with browsing.serve_folder(Path(folder)) as address:
            for title, path in notebooks(names or browsing.chapters()):
                page = browser.new_page(viewport={"width": 1000, "height": 1000})
                page.goto(address)
                page.wait_for_function("() => Boolean(window.draw)")
                formulas, faults = look(page, path)
                page.screenshot(path=PICTURES / f"{title}.png", full_page=True)
                page.close()
                failed += bool(faults)
                print(f"{title}: {'; '.join(faults) or f'reads well, {formulas} formulas'}", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
