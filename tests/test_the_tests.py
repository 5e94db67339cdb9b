"""Tests of the tests: a planted fault must turn the run red. All on copies of a small book."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

CHAPTER = """\
---
jupytext:
  formats: ipynb,md:myst
  text_representation:
    extension: .md
    format_name: myst
    format_version: 0.13
    jupytext_version: 1.19.6
kernelspec:
  display_name: Python 3 (ipykernel)
  language: python
  name: python3
---

# A small chapter

```{code-cell} ipython3
import small

assert small.TWO == 2
```

Some prose.

```{code-cell} ipython3
# NBVAL_CHECK_OUTPUT
print(small.TWO + 1)
```
"""

JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"

# Each of these must be reported by name.
BAD_REFERENCES = {
    "{ref}`no-section`": "undefined label: 'no-section'",
    "{numref}`no-figure`": "undefined label: 'no-figure'",
    "{eq}`no-equation`": "equation not found: no-equation",
    "{prf:ref}`no-theorem`": "no-theorem",
    "{cite}`no-paper`": 'could not find bibtex key "no-paper"',
    "{glue:text}`no-number`": "no-number",
    "[link](no-page.md)": "no-page.md",
}


def call(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a Python module or script in a folder."""
    return subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=300)


def execute(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return call("book/execute.py", *options, cwd=folder)


def nbval(folder: Path) -> subprocess.CompletedProcess[str]:
    return call("-m", "pytest", "--nbval-lax", "-p", "no:cacheprovider", "-q", "book", cwd=folder)


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """Build with the settings of the real book."""
    return call("-c", JUPYTER_BOOK, "build", ".", "-W", "-n", "--keep-going", cwd=folder)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small book, executed once."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "book").mkdir()
    (folder / "invlib").mkdir()
    (folder / "invlib" / "__init__.py").write_text("")
    (folder / "book" / "small.py").write_text("TWO = 2\n")
    (folder / "book" / "chapter.md").write_text(CHAPTER)
    for name in ("_config.yml", "book/_extension", "book/_static", "book/references.bib"):
        source, target = ROOT / name, folder / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    (folder / "_toc.yml").write_text("format: jb-book\nroot: book/chapter.ipynb\n")
    (folder / "pytest.ini").write_text("[pytest]\n")
    shutil.copy(ROOT / "book" / "execute.py", folder / "book")
    done = execute(folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def book(pristine: Path, tmp_path: Path) -> Path:
    """A copy of the small book to plant a fault in."""
    return Path(shutil.copytree(pristine, tmp_path / "copy"))


def replace(path: Path, old: str, new: str) -> None:
    """Replace text that must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_without_a_fault_all_is_green(book: Path) -> None:
    checked, ran, built = execute(book, "--check"), nbval(book), build(book)
    assert checked.returncode == 0, checked.stdout
    assert ran.returncode == 0, ran.stdout
    assert "2 passed" in ran.stdout
    assert built.returncode == 0, built.stderr


def test_a_failing_cell_turns_nbval_red(book: Path) -> None:
    replace(book / "book" / "chapter.ipynb", "assert small.TWO == 2", "assert small.TWO == 5")
    ran = nbval(book)
    assert ran.returncode == 1
    assert "AssertionError" in ran.stdout


def test_a_wrong_number_turns_nbval_red(book: Path) -> None:
    replace(book / "book" / "chapter.ipynb", '"3\\n"', '"4\\n"')
    ran = nbval(book)
    assert ran.returncode == 1
    assert "1 failed, 1 passed" in ran.stdout


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("chapter.md", "Some prose", "Other prose", "not in sync"),
        ("chapter.md", "small.TWO + 1", "small.TWO + 2", "not in sync"),
        ("chapter.ipynb", '"execution_count": 2', '"execution_count": 7', "execution counts"),
        ("chapter.ipynb", '"execution_count": 2', '"execution_count": null', "execution counts"),
        ("chapter.ipynb", '"name": "stdout"', '"name": "stderr"', "stored stderr"),
        ("chapter.ipynb", '"3\\n"', '"<T at 0x7f00aa00>\\n"', "address in memory"),
        ("../invlib/__init__.py", "", "# changed\n", "out of date"),
    ],
)
def test_a_fault_turns_the_check_red(book: Path, file: str, old: str, new: str, message: str) -> None:
    replace(book / "book" / file, old, new)
    checked = execute(book, "--check")
    assert checked.returncode == 1
    assert message in checked.stdout


def test_a_missing_notebook_turns_the_check_red(book: Path) -> None:
    (book / "book" / "chapter.ipynb").unlink()
    checked = execute(book, "--check")
    assert checked.returncode == 1
    assert "missing" in checked.stdout


def test_an_edit_of_prose_keeps_the_outputs(book: Path) -> None:
    (book / "book" / "small.py").write_text("raise RuntimeError\n")  # running it would fail
    replace(book / "book" / "chapter.md", "Some prose", "Other prose")
    done = execute(book)
    assert done.returncode == 0
    assert "outputs kept" in done.stdout
    assert execute(book, "--check").returncode == 0


def test_an_edit_of_a_docstring_of_the_library_keeps_the_outputs(book: Path) -> None:
    (book / "invlib" / "__init__.py").write_text('"""A description."""\n\n')
    assert execute(book, "--check").returncode == 0


def test_running_again_changes_no_byte(book: Path) -> None:
    before = (book / "book" / "chapter.ipynb").read_bytes()
    assert execute(book, "--all").returncode == 0
    assert (book / "book" / "chapter.ipynb").read_bytes() == before


def test_a_failing_cell_leaves_the_stored_notebook_alone(book: Path) -> None:
    before = (book / "book" / "chapter.ipynb").read_bytes()
    replace(book / "book" / "chapter.md", "assert small.TWO == 2", "assert small.TWO == 5")
    done = execute(book)
    assert done.returncode == 1
    assert "AssertionError" in done.stderr
    assert (book / "book" / "chapter.ipynb").read_bytes() == before


def test_bad_references_turn_the_build_red(book: Path) -> None:
    text = "\n\n".join(BAD_REFERENCES)
    replace(book / "book" / "chapter.md", "Some prose.", text)
    assert execute(book).returncode == 0
    built = build(book)
    assert built.returncode != 0
    for reference, message in BAD_REFERENCES.items():
        assert message in built.stderr, f"not reported: {reference}"


def test_a_single_bad_reference_turns_the_build_red(book: Path) -> None:
    replace(book / "book" / "chapter.md", "Some prose.", "See {ref}`no-section`.")
    assert execute(book).returncode == 0
    assert build(book).returncode != 0


def test_stored_stderr_turns_the_build_red(book: Path) -> None:
    replace(book / "book" / "chapter.ipynb", '"name": "stdout"', '"name": "stderr"')
    built = build(book)
    assert built.returncode != 0
    assert "stderr was found" in built.stderr
