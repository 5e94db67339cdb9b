"""The pages for readers who use the book: errata name tests that exist, the summary fits a sheet, files are there."""

import ast
import json
import re
import zipfile
from pathlib import Path

import browsing
import numpy as np
import pytest
import small_pages

ROOT = browsing.ROOT
TABLE_ROW = re.compile(r"^\| (?!Where |:--)(.+) \|$", re.MULTILINE)
GUARD = re.compile(r"`([\w/-]+\.py)::(\w+)`")


def faults_of_errata(text: str, root: Path) -> list[str]:
    """The entries that name no test, or one that does not exist; a check must be a check, a test a test."""
    found = []
    for row in TABLE_ROW.findall(text):
        guards = GUARD.findall(row.split(" | ")[-1])
        if not guards:
            found.append(f"no test: {row[:40]}")
        for file, name in guards:
            kind = ("check_", "control_") if file.startswith("book/checks/") else ("test_",)
            path = root / file
            names = set()
            if path.exists():
                tree = ast.parse(path.read_text(encoding="utf-8"))
                names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            if name not in names or not name.startswith(kind):
                found.append(f"{file} has no {name}")
    return found


def test_every_erratum_names_the_test_that_guards_it() -> None:
    text = (ROOT / "book" / "errata.md").read_text(encoding="utf-8")
    assert len(TABLE_ROW.findall(text)) >= 10
    assert faults_of_errata(text, ROOT) == []


def test_planted_faults_of_errata_are_found(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text("def test_it(): ...\ndef helper(): ...\n")
    good = "| Where | It said | Guarded by |\n|:--|:--|:--|\n| here | this | `tests/test_a.py::test_it` |\n"
    assert faults_of_errata(good, tmp_path) == []
    assert faults_of_errata(good.replace("test_it`", "test_that`"), tmp_path) == ["tests/test_a.py has no test_that"]
    assert faults_of_errata(good.replace("test_it`", "helper`"), tmp_path) == ["tests/test_a.py has no helper"]
    assert faults_of_errata(good.replace("test_a.py", "test_b.py"), tmp_path) == ["tests/test_b.py has no test_it"]
    assert faults_of_errata(good.replace("`tests", "tests"), tmp_path) == [
        "no test: here | this | tests/test_a.py::test_it`"
    ]


def test_the_changes_begin_with_this_version() -> None:
    import tomllib

    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert headings[0] == version
    package = tomllib.loads((ROOT / "book" / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    cited = re.findall(r"version ([\d.]+)\.$", (ROOT / "book" / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [package, *cited] == [version, version]


@pytest.mark.parametrize("file", ["CONTRIBUTING.md", "CHANGELOG.md", "README.md"])
def test_files_that_a_text_names_are_there(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    for name in re.findall(r"`((?:book|tests|release|benchmarks|invlib|\.github|\.ci)/[\w./-]+)`", text):
        if "NAME" not in name:
            assert (ROOT / name).exists(), name


def test_commands_that_a_text_names_are_there() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for file in ["CONTRIBUTING.md", "README.md", "book/index.md", "book/teaching.md", ".github/workflows/weekly.yml"]:
        for name in re.findall(r"(?:`|run: |^)make ([a-z]+)", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE):
            assert name in targets, f"{file}: make {name}"


# All figures


def test_every_figure_of_the_book_is_on_its_page() -> None:
    """Caption, description and files of each; the zip holds the same files and a list of them."""
    browsing.build_if_stale()
    folder = browsing.HTML / "figures"
    entries = {entry["name"]: entry for entry in json.loads((folder / "figures.json").read_text(encoding="utf-8"))}
    texts = {name: (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8") for name in browsing.chapters()}
    names = {
        name: chapter
        for chapter, text in texts.items()
        for name in re.findall(r"^(?:    |:)name: (fig-\S+)", text, re.M)
    }
    assert {name: entry["chapter"] for name, entry in entries.items()} == names
    page = (browsing.HTML / "book" / "figures.html").read_text(encoding="utf-8")
    recorded = {path.stem for path in (ROOT / "book" / "figures").glob("*.npz")}
    for name, entry in entries.items():
        assert f'id="list-{name}"' in page
        assert entry["licence"].startswith("CC BY 4.0")
        assert len(entry["caption"].split()) > 3
        assert len(entry["description"].split()) > 3
        kinds = {Path(file).suffix for file in entry["files"]}
        assert kinds & {".svg", ".png"}
        small = re.search(rf'id="list-{name}"><img class="thumbnail" src="([^"]+)"', page)[1]
        assert (browsing.HTML / "book" / small).exists()
        assert (".npz" in kinds) == (name in recorded or ".pdf" in kinds)
        assert all(f'href="../figures/{file}"' in page for file in entry["files"])
    with zipfile.ZipFile(folder / "figures.zip") as opened:
        files = {f"figures/{file}" for entry in entries.values() for file in entry["files"]}
        assert set(opened.namelist()) == files | {"figures/figures.json"}


def test_the_page_of_figures_sets_formulas(tmp_path: Path) -> None:
    """It has none of its own: they come in with the captions."""
    page = small_pages.build(tmp_path, "# All\n\n```{figure-list}\n```\n", extensions=("figure_list",))
    assert page.select("#figure-list")
    assert page.select("script[src*=mathjax]")
    plain = small_pages.build(tmp_path, "# All\n", extensions=("figure_list",))
    assert not plain.select("script[src*=mathjax]")


def test_drawings_are_drawings() -> None:
    browsing.build_if_stale()
    for file in (browsing.HTML / "figures").glob("*.svg"):
        assert "<svg" in file.read_text(encoding="utf-8")[:1000]
    for file in (browsing.HTML / "figures").glob("*.npz"):
        with np.load(file, allow_pickle=False) as arrays:
            assert arrays.files


@browsing.needs_browser
def test_the_summary_fills_one_sheet() -> None:
    browsing.build_if_stale()
    margin = dict.fromkeys(("top", "bottom", "left", "right"), "12mm")
    with browsing.launched() as browser, browsing.serve_folder(browsing.HTML) as address:
        page = browser.new_page()
        browsing.open_page(page, f"{address}/book/summary.html")
        for paper in ("A4", "Letter"):
            assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(format=paper, margin=margin))) == 1
        page.set_viewport_size({"width": 703, "height": 1032})  # A4 without its margins
        page.emulate_media(media="print")
        assert page.locator("article.bd-article").evaluate("e => e.getBoundingClientRect().height") > 0.75 * 1032
