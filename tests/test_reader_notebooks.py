"""Tests of the notebooks behind the download buttons: they say what the pages say, hide what is folded, run alone."""

import json
import re
import subprocess
import sys
import zipfile
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import browsing
import nbformat
import pytest

NAMES = browsing.chapters()
QUICK = "heat-flow"  # the chapter that is run alone here; `make alone` runs all
RAW = re.compile(
    r"\{(glue|prf|doc|numref|eq|ref|cite|term|func|meth|class|download)[:\w]*\}`|^:::|^```\{|\(eq-\w", re.M
)
BLOCKED = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"myst_nb", "jupytext", "nbformat", "sphinx", "jupyter_book", "yaml"}:
            raise ImportError(f"{name} does not belong to what a reader has")
sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture(scope="module", autouse=True)
def _pages() -> None:
    browsing.build_if_stale()


@cache
def notebook(name: str) -> nbformat.NotebookNode:
    return nbformat.read(browsing.HTML / "_sources" / "book" / f"{name}.ipynb", as_version=4)


@cache
def stored(name: str) -> nbformat.NotebookNode:
    return nbformat.read(browsing.ROOT / "book" / f"{name}.ipynb", as_version=4)


def prose(found: nbformat.NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in found.cells if cell.cell_type == "markdown")


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`]*`|<img[^>]*>", "", text, flags=re.DOTALL)


class Page(HTMLParser):
    """Collects the words of a page that name a statement, a figure, a table or an exercise."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.feed((browsing.HTML / "book" / f"{name}.html").read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@cache
def numbered(name: str) -> dict[str, set[str]]:
    """The numbers of captions, statements and exercises of a page, from its HTML."""
    html = (browsing.HTML / "book" / f"{name}.html").read_text(encoding="utf-8")
    captions = set(re.findall(r'class="caption-number">(?:Figure|Table) ([\w.]+?)\s*</span>', html))
    return {
        "captions": captions,
        "boxes": set(re.findall(r'class="caption-number">(?!Fig|Tab)\w+ ([\w.]+?)\s*</span>', html)),
    }


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_that_only_the_book_can_read(name: str) -> None:
    found = RAW.findall(without_code(prose(notebook(name))))
    assert not found


@pytest.mark.parametrize("name", NAMES)
def test_figures_tables_and_statements_have_the_numbers_of_the_page(name: str) -> None:
    text, page = prose(notebook(name)), numbered(name)
    assert page["captions"]
    captions = set(re.findall(r"^\*\*(?:Figure|Table) ([\w.]+)\.\*\*", text, re.M))
    assert captions == page["captions"]
    boxes = set(re.findall(r"^> \*\*\w+ ([\w.]+)\*\*", text, re.M))
    assert boxes >= page["boxes"] - captions


@pytest.mark.parametrize("name", NAMES)
def test_every_reference_of_the_page_is_there(name: str) -> None:
    """The words "Theorem 9.3" stand as often in the notebook as in what the page shows."""
    pattern = re.compile(r"(?:Theorem|Lemma|Proposition|Corollary|Assumption|Figure|Table|Exercise) [A-Z\d]+\.\d+")
    on_page = {found for found in pattern.findall(Page(name).text)}
    in_notebook = set(pattern.findall(prose(notebook(name))))
    assert in_notebook <= on_page
    assert len(on_page - in_notebook) == 0


@pytest.mark.parametrize("name", NAMES)
def test_folded_code_is_hidden_and_no_other(name: str) -> None:
    tags = {
        cell.source.strip(): cell.metadata.get("tags", []) for cell in stored(name).cells if cell.cell_type == "code"
    }
    for cell in notebook(name).cells:
        if cell.cell_type == "code":
            hidden = bool(cell.metadata.get("jupyter", {}).get("source_hidden"))
            wanted = {"hide-input", "remove-cell", "remove-input"} & set(tags[cell.source.strip()])
            assert hidden == bool(wanted) == (cell.metadata.get("cellView") == "form")


@pytest.mark.parametrize("name", NAMES)
def test_the_code_of_a_solution_is_inside_of_it(name: str) -> None:
    """Every stored cell is a cell of the notebook, or stands in the details of a solution."""
    found = notebook(name)
    run = {cell.source.strip() for cell in found.cells if cell.cell_type == "code"}
    folded = "\n".join(re.findall(r"<summary><strong>Solution.*?</details>", prose(found), re.DOTALL))
    assert "Solution" in folded or not re.search(
        "solution-start|{solution}", (browsing.ROOT / "book" / f"{name}.md").read_text()
    )
    for cell in stored(name).cells:
        if cell.cell_type == "code":
            assert (cell.source.strip() in run) != (f"```python\n{cell.source}\n```" in folded)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_have_a_size_and_words(name: str) -> None:
    pictures = [
        output.metadata.get(kind, {})
        for cell in notebook(name).cells
        if cell.cell_type == "code"
        for output in cell.outputs
        for kind in output.get("data", {})
        if kind.startswith("image/")
    ]
    assert pictures
    assert all(picture.get("width", 0) > 100 and len(picture.get("alt", "")) > 20 for picture in pictures)


@pytest.mark.parametrize("name", NAMES)
def test_html_is_closed_and_formulas_stand_on_one_line(name: str) -> None:
    for cell in notebook(name).cells:
        if cell.cell_type == "markdown":
            assert cell.source.count("<details>") == cell.source.count("</details>")
            for line in without_code(cell.source).split("\n"):
                assert line.count("$$") % 2 == 0


def crowded(text: str) -> list[str]:
    """Formulas that a front end takes for money or leaves as they are: a letter or a digit touches a dollar."""
    text = re.sub(r"\$\$.*?\$\$", "", without_code(text).replace(r"\$", ""))
    found = re.finditer(r"(\w?)\$([^$\n]+)\$(\w?)", text)
    return [each[0] for each in found if each[1] or each[3] or each[2] != each[2].strip()]


def markup(text: str) -> set[str]:
    """The tags of a text, with their attributes."""
    return set(re.findall(r"<[a-z][^<>]*>", re.sub(r"\$[^$]*\$", "", without_code(text).replace(r"\$", ""))))


@pytest.mark.parametrize("name", NAMES)
def test_formulas_stand_free_and_nothing_rests_on_a_style(name: str) -> None:
    """VS Code, Colab and code hosts read a dollar beside a digit as money, and drop styles and classes."""
    text = prose(notebook(name))
    assert not crowded(text)
    assert markup(text) <= {"<details>", "<summary>", "<strong>", "<sup>", "<sub>"}


def test_a_number_of_the_notebook_is_not_that_of_another_page() -> None:
    first, second = numbered(NAMES[0]), numbered(NAMES[1])
    assert first["captions"].isdisjoint(second["captions"])


def test_a_notebook_runs_where_there_is_only_what_a_reader_has(tmp_path: Path) -> None:
    """In an empty folder, with the two wheels of the site, and without the tools that make the book."""
    for wheel in (browsing.HTML / "wheels").glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    cells = [cell.source for cell in notebook(QUICK).cells if cell.cell_type == "code"]
    code = "\n\n".join(["import matplotlib", "matplotlib.use('agg')", *cells])
    script = tmp_path / "empty" / "run.py"
    script.parent.mkdir()
    places = f"sys.path[:] = [{str(tmp_path / 'site')!r}, *(p for p in sys.path if p != {str(browsing.ROOT)!r})]"
    check = "import invlib, checks; assert 'site' in invlib.__file__ and 'site' in checks.__file__"
    script.write_text("\n".join([BLOCKED, places, check, code]), encoding="utf-8")
    done = subprocess.run([sys.executable, "-I", str(script)], cwd=script.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_packages_of_the_site_need_no_more_than_they_say() -> None:
    wanted = {"invlib": {"torch", "numpy", "tqdm"}, "invlib_book": {"invlib", "scipy", "scikit-image", "filelock"}}
    for wheel in (browsing.HTML / "wheels").glob("*.whl"):
        with zipfile.ZipFile(wheel) as file:
            (name,) = (entry for entry in file.namelist() if entry.endswith("METADATA"))
            lines = file.read(name).decode().splitlines()
        needs = [
            line.split(":")[1].strip() for line in lines if line.startswith("Requires-Dist") and "extra" not in line
        ]
        assert {re.match(r"[\w-]+", need)[0] for need in needs} == wanted.pop(wheel.name.split("-")[0])
    assert not wanted


def test_planted_faults_are_found() -> None:
    assert RAW.search("see {prf:ref}`thm-dv-divergence`")
    assert RAW.search("a number {glue:text}`x:.2f`")
    assert RAW.search(":::{prf:proof}")
    assert not RAW.search(without_code("code `{glue:text}` is fine"))
    assert crowded("at $z = {}$0.2") == ["$z = {}$0"]
    assert crowded("in$z$") == ["n$z$"]
    assert crowded("in $ z$") == ["$ z$"]
    assert not crowded("in $z = {}0.2$, and ($y$)")
    assert markup('<p style="color: red"> and $a <b> c$') == {'<p style="color: red">'}
    assert json.dumps(numbered(QUICK), default=sorted)
