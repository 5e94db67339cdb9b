"""Build the book a second time, with plain, current Sphinx, and compare all numbers with those of the book's own build.

    python tests/build_twice.py

``jupyter-book config`` writes the settings as a ``conf.py``; one line more tells Sphinx where the extensions are. The
second environment has the packages of ``tests/build_twice.txt``, and everything else from the one that runs this
script. The pages must have been built. It takes some minutes.
"""

import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections import Counter
from pathlib import Path

import browsing
from bs4 import Tag

REQUIREMENTS = browsing.ROOT / "tests" / "build_twice.txt"
WORK = browsing.ROOT / "_build" / "twice"
NUMBERS = {  # where a page has its numbers
    "section": ("section[id]", "h1 .section-number, h2 .section-number, h3 .section-number"),
    "statement": ("div.proof[id]", ".caption-number"),
    "exercise": ("div.exercise[id]", ".caption-number"),
    "figure": ("figure[id]", ".caption-number"),
    "table": ("table[id], div.pst-scrollable-table-container[id]", ".caption-number"),
    "equation": ("div.math[id]", ".eqno"),
}
Numbers = dict[tuple[str, str, str], str]


def environment(folder: Path) -> Path:
    """Make an environment with current Sphinx in front of all that this one has, or take it; return its Python."""
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    asked, ready = REQUIREMENTS.read_text(encoding="utf-8"), folder / "ready.txt"
    if ready.exists() and ready.read_text(encoding="utf-8") == asked:
        return python
    venv.create(folder, with_pip=True, clear=True)
    quiet = ["--quiet", "--disable-pip-version-check"]
    subprocess.run([python, "-m", "pip", "install", *quiet, "-r", REQUIREMENTS], check=True)
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
    (own / "behind.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    ready.write_text(asked, encoding="utf-8")
    return python


def copy_of_the_book(folder: Path) -> None:
    """Copy the sources, and write the settings for plain Sphinx."""
    shutil.rmtree(folder, ignore_errors=True)
    left_out = shutil.ignore_patterns(".*", "_build", "*.egg-info", "__pycache__")
    shutil.copytree(browsing.ROOT, folder, ignore=left_out)
    main = "from jupyter_book.cli.main import main; main()"
    subprocess.run([sys.executable, "-c", main, "config", "sphinx", "."], cwd=folder, check=True, capture_output=True)
    settings = (folder / "conf.py").read_text(encoding="utf-8")
    (folder / "conf.py").write_text(
        f"import sys\n\nsys.path.insert(0, 'book/_extension')\n{settings}", encoding="utf-8"
    )


def words(element: Tag) -> str:
    """Return what an element says, without the mark of a link."""
    return " ".join(element.get_text().split()).rstrip("#¶ ")


def numbers_on(path: Path) -> Numbers:
    """Return the numbers on a page: by page, kind and name."""
    found, page = {}, browsing.soup(path)
    for kind, (boxes, number) in NUMBERS.items():
        for box in page.select(f".bd-article {boxes}" if ", " not in boxes else boxes):
            if text := box.select_one(number):
                # A section with two names has the one or the other first, so its title is taken.
                name = words(text.parent).removeprefix(words(text)) if kind == "section" else str(box["id"])
                found[path.stem, kind, name.strip()] = words(text)
    return found


def numbers_of(html: Path) -> Numbers:
    """Return the numbers on all pages in a folder."""
    pages = sorted((html / "book").glob("*.html"))
    return {key: number for path in pages for key, number in numbers_on(path).items()}


def differences(first: Numbers, second: Numbers) -> list[str]:
    """Return what one build numbers in another way than the other, or not at all."""
    keys = sorted(first.keys() | second.keys())
    return [
        f"{' '.join(key)}: {first.get(key, 'nothing')} and {second.get(key, 'nothing')}"
        for key in keys
        if first.get(key) != second.get(key)
    ]


def build(python: Path, source: Path, html: Path) -> None:
    """Build the pages; a warning is an error."""
    command = [python, "-m", "sphinx", "-W", "-n", "--keep-going", "--quiet", "-b", "html", ".", str(html)]
    subprocess.run(command, cwd=source, check=True)


def main() -> int:
    """Build and compare."""
    start = time.monotonic()
    python = environment(WORK / "environment")
    copy_of_the_book(WORK / "source")
    build(python, WORK / "source", WORK / "html")
    own, second = numbers_of(browsing.HTML), numbers_of(WORK / "html")
    wrong = differences(own, second)
    counted = Counter(kind for _, kind, _ in own)
    wrong += [f"no {kind} has a number" for kind in NUMBERS if not counted[kind]]
    print(", ".join(f"{count} {kind}s" for kind, count in counted.items()), f"in {time.monotonic() - start:.0f} s")
    print("\n".join(wrong) or "The second build has the same numbers.")
    return min(len(wrong), 1)


if __name__ == "__main__":
    sys.exit(main())
