"""Draw the figures again as PDF, with lines instead of points, however large they are, and keep their arrays.

    python release/draw_figures.py              all chapters
    python release/draw_figures.py NAME ...     some

Notebooks store a large figure as a picture of points. Here the code of a chapter runs once more, and each figure that
it shows goes to ``_build/figures/LABEL.pdf``, and the numbers in it to ``LABEL.npz``. A chapter takes as long as the
page says.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import contents

sys.path.insert(0, str(contents.ROOT / "book"))

import execute

HEAD = """\
import matplotlib
matplotlib.use("agg")
__import__("sys").path.append({release!r})
"""


def script_of(chapter: Path, folder: Path) -> str:
    """Return the code of a chapter, in which each figure is kept under its label."""
    lines = [HEAD.format(release=str(contents.ROOT / "release"))]
    for cell in execute.code_cells(execute.read_text(chapter)):
        label = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        keep = f"__import__('drawn').keep({label!r}, {str(folder.resolve())!r})\n"  # whatever names a chapter uses
        lines.append(keep + cell.source if label else cell.source)
    return "\n\n".join(lines) + "\n"


def labels(chapter: Path) -> set[str]:
    """Return the labels of the figures of a chapter."""
    figures = (
        cell.metadata.get("mystnb", {}).get("figure", {}) for cell in execute.code_cells(execute.read_text(chapter))
    )
    return {figure["name"] for figure in figures if "name" in figure}


def draw(chapter: Path, folder: Path) -> list[str]:
    """Run a chapter, and return the labels of which no drawing came."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **execute.KERNEL_ENVIRONMENT}
    environment["PYTHONPATH"] = os.pathsep.join([str(contents.ROOT), str(contents.ROOT / "book")])
    command = [sys.executable, "-"]
    subprocess.run(
        command, input=script_of(chapter, folder), cwd=chapter.parent, env=environment, text=True, check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return sorted(label for label in labels(chapter) if not (folder / f"{label}.pdf").exists())


def main(names: list[str]) -> int:
    """Draw the figures of the chapters, and tell which are missing."""
    chapters = {path.stem: path for path in execute.find_chapters()}
    missing = []
    for name in names or list(chapters):
        missing += draw(chapters[name], contents.FIGURES)
        print(f"{name}: {len(labels(chapters[name]))} figures", flush=True)
    if missing:
        print("missing:", ", ".join(missing))
    return min(len(missing), 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
