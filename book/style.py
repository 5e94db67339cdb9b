"""The style of the code cells of chapters: ``ruff`` formats and checks them, by the settings of the project.

``execute.py --format`` and ``--lint`` call this. Both read the ``.md`` of a chapter, and leave the ``.ipynb`` alone.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

TEXT_FORMAT = "md:myst"
ROOT = Path(__file__).resolve().parent.parent
CELL = re.compile(
    r"^(?P<fence>`{3,})\{code-cell\}[^\n]*\n"
    r"(?P<head>---\n.*?^---\n|(?::[^\n]*\n)+\n?)?"
    r"(?P<code>.*?)"
    r"^(?P=fence)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)


class StyleError(RuntimeError):
    """A chapter that cannot be formatted."""


def ruff(chapter: Path, content: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run ruff on a notebook, given as text, as if it stood beside the chapter."""
    name = str(chapter.resolve().with_suffix(".ipynb"))
    arguments = [sys.executable, "-m", "ruff", *command, "--no-cache", "--stdin-filename", name, "-"]
    return subprocess.run(arguments, input=content, capture_output=True, text=True, cwd=ROOT, encoding="utf-8")


def as_notebook(text: str) -> NotebookNode:
    """Return the text of a chapter as a notebook for ruff."""
    notebook = jupytext.reads(text, fmt=TEXT_FORMAT)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def sources(notebook: NotebookNode) -> list[str]:
    """Return the sources of the code cells."""
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def formatted(chapter: Path) -> str:
    """Return the text of a chapter with its imports sorted and its code cells formatted; cells with magics stay.

    Raises:
        StyleError: if ruff cannot read the code, or the text cannot be written back.
    """
    text = chapter.read_text(encoding="utf-8")
    content = nbformat.writes(as_notebook(text))
    for command in (("check", "--select", "I", "--fix-only", "--quiet"), ("format", "--quiet")):
        done = ruff(chapter, content, *command)
        if done.returncode:
            raise StyleError(f"{chapter.stem}: {done.stderr.strip() or done.stdout.strip()}")
        content = done.stdout
    wanted = ["".join(cell["source"]) for cell in json.loads(content)["cells"] if cell["cell_type"] == "code"]

    codes = iter(wanted)
    result = CELL.sub(lambda cell: replaced(cell, next(codes, "")), text)
    if sources(as_notebook(result)) != wanted:
        raise StyleError(f"{chapter.stem}: the cells of {chapter.name} are not written as usual")
    return result


def replaced(cell: re.Match[str], code: str) -> str:
    """Return the text of a cell with other code."""
    start = cell.start("code") - cell.start()
    return cell[0][:start] + (code + "\n" if code else "") + cell["fence"]


def format_chapter(chapter: Path) -> str:
    """Format the code cells of a chapter in place, and say in one line what was done."""
    text, result = chapter.read_text(encoding="utf-8"), formatted(chapter)
    if text == result:
        return "formatted already"
    old, new = sources(as_notebook(text)), sources(as_notebook(result))
    chapter.write_text(result, encoding="utf-8", newline="\n")
    return f"{sum(a != b for a, b in zip(old, new, strict=True))} cells formatted; now run the chapter"


def problems(chapter: Path) -> list[str]:
    """Return what ruff finds in the code cells of a chapter; an empty list means that all is well."""
    content = nbformat.writes(as_notebook(chapter.read_text(encoding="utf-8")))
    checked = ruff(chapter, content, "check", "--quiet", "--output-format", "concise")
    found = [line.split(".ipynb:", 1)[-1] for line in checked.stdout.splitlines() if ".ipynb:" in line]
    if checked.returncode and not found:
        found = [checked.stderr.strip()]
    if ruff(chapter, content, "format", "--check", "--quiet").returncode:
        found.append(f"not formatted: python book/execute.py --format {chapter.stem}")
    return found
