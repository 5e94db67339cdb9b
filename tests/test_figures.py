"""Tests of the arrays behind the figures and of their manifest."""

import json
import os
import subprocess
import sys
from pathlib import Path

import execute
import figures
import numpy as np
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
MANIFEST = figures.read_manifest()
EXACT_TAG = "no-networks"  # of a figure that shows no trained network, and need not be recorded
FIELDS = {"arrays", "chapter", "file", "seconds", "seed", "settings", "sha256"}


def experiments() -> list[str]:
    """The names of the chapters of the part Experiments."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    parts = [part for part in contents["parts"] if part["caption"] == "Experiments"]
    return [Path(entry["file"]).stem for part in parts for entry in part["chapters"]]


def figure_cells(chapter: Path) -> dict[str, str]:
    """The source of the cell of each figure of a chapter, by label; without those that show no networks."""
    found = {}
    for cell in execute.code_cells(execute.read_text(chapter)):
        label = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        if label and EXACT_TAG not in cell.metadata.get("tags", []):
            found[label] = cell.source
    return found


def problems_of(manifest: dict[str, dict], folder: Path, book: Path) -> list[str]:
    """What is wrong with a manifest, its files and the chapters that it names."""
    found = []
    for label, entry in manifest.items():
        if set(entry) != FIELDS:
            found.append(f"{label}: wrong fields")
            continue
        file, chapter = folder / entry["file"], book / f"{entry['chapter']}.md"
        if not file.exists():
            found.append(f"{label}: no file")
        else:
            arrays = figures.load(label, folder)
            if figures.digest(arrays) != entry["sha256"]:
                found.append(f"{label}: wrong hash")
            if figures.shapes(arrays) != entry["arrays"]:
                found.append(f"{label}: wrong shapes")
            if file.stat().st_size > figures.LARGEST_FILE_BYTES:
                found.append(f"{label}: file too large")
        if not chapter.exists() or label not in figure_cells(chapter):
            found.append(f"{label}: not a figure of its chapter")
        elif f"<figures/{entry['file']}>" not in chapter.read_text(encoding="utf-8"):
            found.append(f"{label}: no link to its file")
    unknown = {file.name for file in folder.glob("*.npz")} - {entry.get("file") for entry in manifest.values()}
    return found + [f"{name}: not in the manifest" for name in sorted(unknown)]


def unrecorded(chapter: Path, manifest: dict[str, dict]) -> list[str]:
    """The figures of a chapter that show trained networks and have no entry."""
    return sorted(set(figure_cells(chapter)) - set(manifest))


def test_the_manifest_is_in_order() -> None:
    assert MANIFEST
    assert problems_of(MANIFEST, figures.FOLDER, BOOK) == []


@pytest.mark.parametrize("name", sorted({entry["chapter"] for entry in MANIFEST.values()} | set(experiments())))
def test_every_figure_of_an_experiment_is_recorded(name: str) -> None:
    assert unrecorded(BOOK / f"{name}.md", MANIFEST) == []


def test_the_manifest_is_written_as_json_dumps_it() -> None:
    text = (figures.FOLDER / "manifest.json").read_text(encoding="utf-8")
    assert text == json.dumps(MANIFEST, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


# The same on a small book, with planted faults.

CHAPTER = """\
# A chapter

```{code-cell} ipython3
---
mystnb:
  figure:
    caption: A line.
    name: fig-small-line
---
plt.plot(x, y)
```

{download}`arrays <figures/fig-small-line.npz>`
"""
HEAD = "---\njupytext:\n  text_representation:\n    extension: .md\n    format_name: myst\n---\n\n"
ARRAYS = {"x": np.linspace(0, 1, 5), "seen": np.array([True, False])}
OPTIONS = {"chapter": "small", "seed": 1, "settings": {"steps": 10}, "seconds": 2.4}


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A book of one chapter with one recorded figure."""
    (tmp_path / "small.md").write_text(HEAD + CHAPTER, encoding="utf-8")
    monkeypatch.setenv(figures.RECORD_VARIABLE, "1")
    figures.record("fig-small-line", ARRAYS, folder=tmp_path / "figures", **OPTIONS)
    monkeypatch.delenv(figures.RECORD_VARIABLE)
    return tmp_path


def problems(book: Path) -> list[str]:
    return problems_of(figures.read_manifest(book / "figures"), book / "figures", book)


def test_a_recorded_figure_is_in_order(book: Path) -> None:
    assert problems(book) == []
    assert unrecorded(book / "small.md", figures.read_manifest(book / "figures")) == []
    loaded = figures.load("fig-small-line", book / "figures")
    assert loaded["x"].dtype == np.float32
    np.testing.assert_allclose(loaded["x"], ARRAYS["x"], atol=1e-7)
    assert loaded["seen"].tolist() == [True, False]


def test_recording_twice_gives_the_same_bytes(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted((book / "figures").iterdir())
    before = [file.read_bytes() for file in files]
    monkeypatch.setenv(figures.RECORD_VARIABLE, "1")
    figures.record("fig-small-line", ARRAYS, folder=book / "figures", **OPTIONS)
    assert [file.read_bytes() for file in files] == before


RECORD_MANY = """\
import sys

import figures

chapter, folder = sys.argv[1], figures.Path(sys.argv[2])
for number in range(30):
    options = {"chapter": chapter, "seed": 1, "settings": {}, "seconds": 0}
    figures.record(f"fig-{chapter}-{number}", {"x": [number]}, folder=folder, **options)
"""


def test_chapters_that_run_side_by_side_lose_no_entry(tmp_path: Path) -> None:
    chapters = ["left", "right"]
    environment = {**os.environ, figures.RECORD_VARIABLE: "1", "PYTHONPATH": str(BOOK)}
    commands = [[sys.executable, "-c", RECORD_MANY, chapter, str(tmp_path)] for chapter in chapters]
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    expected = {f"fig-{chapter}-{number}" for chapter in chapters for number in range(30)}
    assert set(figures.read_manifest(tmp_path)) == expected


def test_without_the_variable_nothing_is_written(book: Path) -> None:
    before = {file: file.read_bytes() for file in (book / "figures").iterdir()}
    figures.record("fig-small-line", {**ARRAYS, "x": 2 * ARRAYS["x"]}, folder=book / "figures", **OPTIONS)
    assert {file: file.read_bytes() for file in (book / "figures").iterdir()} == before


@pytest.mark.parametrize(
    "arrays", [{"x": np.zeros(4), "seen": ARRAYS["seen"]}, {"x": ARRAYS["x"]}, {**ARRAYS, "more": np.zeros(1)}]
)
def test_without_the_variable_other_names_or_shapes_are_an_error(book: Path, arrays: dict) -> None:
    with pytest.raises(figures.FigureError, match="fig-small-line"):
        figures.record("fig-small-line", arrays, folder=book / "figures", **OPTIONS)


def test_a_figure_that_was_never_recorded_is_an_error(book: Path) -> None:
    with pytest.raises(figures.FigureError, match="fig-small-other"):
        figures.record("fig-small-other", ARRAYS, folder=book / "figures", **OPTIONS)


@pytest.mark.parametrize(
    "arrays",
    [{}, {"x": np.array(["a"])}, {"x": np.array([1.0, np.nan])}, {"x": np.random.default_rng(0).random(10**5)}],
)
def test_what_cannot_be_stored_is_an_error(book: Path, arrays: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(figures.RECORD_VARIABLE, "1")
    with pytest.raises(figures.FigureError):
        figures.record("fig-small-other", arrays, folder=book / "figures", **OPTIONS)
    assert problems(book) == []


def test_planted_faults_are_found(book: Path) -> None:
    folder = book / "figures"
    file, good = folder / "fig-small-line.npz", (folder / "fig-small-line.npz").read_bytes()
    np.savez_compressed(file, x=np.linspace(0, 1.001, 5).astype(np.float32), seen=ARRAYS["seen"])
    assert problems(book) == ["fig-small-line: wrong hash"]
    np.savez_compressed(file, x=np.float32(1), seen=ARRAYS["seen"])
    assert problems(book) == ["fig-small-line: wrong hash", "fig-small-line: wrong shapes"]
    file.unlink()
    assert problems(book) == ["fig-small-line: no file"]
    file.write_bytes(good)
    (folder / "fig-small-stray.npz").write_bytes(good)
    assert problems(book) == ["fig-small-stray.npz: not in the manifest"]
    (folder / "fig-small-stray.npz").unlink()

    chapter = book / "small.md"
    chapter.write_text(HEAD + CHAPTER.replace("name: fig-small-line", "name: fig-small-new"), encoding="utf-8")
    assert problems(book) == ["fig-small-line: not a figure of its chapter"]
    assert unrecorded(chapter, figures.read_manifest(folder)) == ["fig-small-new"]
    chapter.write_text(HEAD + CHAPTER.replace("<figures/", "<pictures/"), encoding="utf-8")
    assert problems(book) == ["fig-small-line: no link to its file"]
    manifest = figures.read_manifest(folder)
    del manifest["fig-small-line"]["seed"]
    assert problems_of(manifest, folder, book) == ["fig-small-line: wrong fields"]
