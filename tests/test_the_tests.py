"""Tests of the tests: a planted fault must turn the run red. All on copies of a small book."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
from coverage import Coverage

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


def at_once(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The same in this process, which has all imports at hand, for what needs no kernel."""
    spec = importlib.util.spec_from_file_location("execute_of_the_copy", folder / "book" / "execute.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    with redirect_stdout(StringIO()) as printed, redirect_stderr(StringIO()) as errors:
        try:
            code = script.main([*options])
        except SystemExit as stopped:
            code = stopped.code
    return subprocess.CompletedProcess(options, code, printed.getvalue(), errors.getvalue())


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
    for name in ("_config.yml", "book/_extension", "book/_static", "book/_templates", "book/references.bib"):
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
    checked = at_once(book, "--check")
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
    done = at_once(book)
    assert done.returncode == 0
    assert "outputs kept" in done.stdout
    assert at_once(book, "--check").returncode == 0


def test_an_edit_of_a_docstring_of_the_library_keeps_the_outputs(book: Path) -> None:
    (book / "invlib" / "__init__.py").write_text('"""A description."""\n\n')
    assert at_once(book, "--check").returncode == 0


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


def plant(book: Path, name: str, code: str) -> Path:
    """Add a chapter with one cell; return its text."""
    start, end = CHAPTER.split("```{code-cell} ipython3\nimport small", 1)[0], "\n```\n"
    chapter = book / "book" / f"{name}.md"
    chapter.write_text(start + "```{code-cell} ipython3\n" + code + end)
    return chapter


WAIT_FOR_EACH_OTHER = """\
import time
from pathlib import Path

Path("NAME.started").touch()
deadline = time.monotonic() + 60
while not Path("OTHER.started").exists():
    assert time.monotonic() < deadline, "the other chapter did not start"
    time.sleep(0.01)"""


def test_two_chapters_run_side_by_side(book: Path) -> None:
    """Each waits for the other to start; one after the other, the first would fail."""
    for name, other in [("left", "right"), ("right", "left")]:
        plant(book, name, WAIT_FOR_EACH_OTHER.replace("NAME", name).replace("OTHER", other))
    done = execute(book, "--jobs", "2", "left", "right")
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert all(re.fullmatch(r"(left|right): run in \d+ s", line) for line in lines)
    assert {line.split(":")[0] for line in lines} == {"left", "right"}
    assert re.fullmatch(r"2 of 2 chapters in \d+ s", last)


def test_with_one_job_chapters_run_one_after_the_other(book: Path) -> None:
    code = """\
import time
from pathlib import Path

Path("running").mkdir()  # fails if it exists
time.sleep(0.5)
Path("running").rmdir()"""
    for name in ("left", "right"):
        plant(book, name, code)
    done = execute(book, "--jobs", "1", "left", "right")
    assert done.returncode == 0, done.stderr


def test_side_by_side_or_alone_the_bytes_are_the_same(book: Path) -> None:
    shutil.copy(book / "book" / "chapter.md", book / "book" / "second.md")
    notebooks = [book / "book" / f"{name}.ipynb" for name in ("chapter", "second")]
    stored = []
    for jobs in ("1", "2"):
        done = execute(book, "--all", "--jobs", jobs)
        assert done.returncode == 0, done.stderr
        stored.append([notebook.read_bytes() for notebook in notebooks])
    assert stored[0] == stored[1]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_failing_chapter_leaves_the_others_fine(book: Path, jobs: str) -> None:
    """Also where its kernel dies, and whether it starts first or last."""
    plant(book, "a-wrong", "assert False, 'planted'")
    plant(book, "b-right", "print(1)")
    plant(book, "c-dead", "import os\n\nos._exit(1)")
    plant(book, "d-right", "print(2)")
    done = execute(book, "--jobs", jobs)
    assert done.returncode == 1
    *lines, last = done.stdout.splitlines()
    states = dict(line.split(": ", 1) for line in lines)
    assert states["a-wrong"] == states["c-dead"] == "failed; the stored notebook is left as it was"
    assert states["b-right"].startswith("run in")
    assert states["d-right"].startswith("run in")
    assert states["chapter"] == "current"
    assert re.fullmatch(r"3 of 5 chapters in \d+ s", last)
    assert "planted" in done.stderr
    assert "a-wrong: CellExecutionError" in done.stderr
    assert "c-dead: DeadKernelError" in done.stderr
    assert {path.stem for path in (book / "book").glob("*.ipynb")} == {"chapter", "b-right", "d-right"}


def test_the_longest_chapter_starts_first(book: Path) -> None:
    """By the seconds in the manifest of the figures, added up; the others follow in alphabetical order."""
    seconds = [("short", 5), ("long", 4), ("long", 4)]
    manifest = {f"fig-{number}": {"chapter": name, "seconds": length} for number, (name, length) in enumerate(seconds)}
    (book / "book" / "figures").mkdir()
    (book / "book" / "figures" / "manifest.json").write_text(json.dumps(manifest))
    for name in ("a-none", "b-none", "long", "short"):
        plant(book, name, "print(1)")
    done = execute(book, "--jobs", "1")
    assert done.returncode == 0, done.stderr
    names = [line.split(":")[0] for line in done.stdout.splitlines()[:-1]]
    assert names == ["long", "short", "a-none", "b-none", "chapter"]


SHOW_THREADS = """\
# NBVAL_CHECK_OUTPUT
import torch

print(torch.get_num_threads(), "thread")"""


def test_chapters_run_on_one_thread(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In spite of what the reader's shell says, and in the tests of the notebooks as well."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    plant(book, "chapter", SHOW_THREADS)
    done = execute(book)
    assert done.returncode == 0, done.stderr
    assert "1 thread" in (book / "book" / "chapter.ipynb").read_text()
    shutil.copy(ROOT / "conftest.py", book)
    ran = nbval(book)
    assert ran.returncode == 0, ran.stdout


def test_the_tests_run_on_one_thread() -> None:
    assert torch.get_num_threads() == 1


def test_no_coverage_is_measured_here() -> None:
    """Also in a worker of pytest-xdist, where two would be."""
    assert Coverage.current() is None


def test_chapters_keep_freed_memory(book: Path) -> None:
    """The names are those of the C library of Linux; elsewhere they have no effect."""
    names = ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"]
    plant(book, "chapter", f"import os\n\nprint([os.environ[name] for name in {names}])")
    done = execute(book)
    assert done.returncode == 0, done.stderr
    assert str([str(2**30)] * 2) in (book / "book" / "chapter.ipynb").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
def test_ctrl_c_stops_all_chapters_and_their_kernels(book: Path) -> None:
    code = """\
import os
import time
from pathlib import Path

Path("NAME.part").write_text(str(os.getpid()))
Path("NAME.part").rename("NAME.pid")
time.sleep(600)"""
    for name in ("a-sleeper", "b-sleeper"):
        plant(book, name, code.replace("NAME", name))
    plant(book, "c-waiting", "print(1)")
    command = [sys.executable, "book/execute.py", "--jobs", "2", "a-sleeper", "b-sleeper", "c-waiting"]
    process = subprocess.Popen(command, cwd=book, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    files = [book / "book" / f"{name}-sleeper.pid" for name in "ab"]
    try:
        wait_until(lambda: all(file.exists() for file in files))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "stopped" in errors
    assert [path.stem for path in (book / "book").glob("*.ipynb")] == ["chapter"]
    for file in files:
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.mark.parametrize("jobs", ["0", "-1", "two", "1.5"])
def test_a_wrong_number_of_jobs_is_an_error(book: Path, jobs: str) -> None:
    done = at_once(book, f"--jobs={jobs}")
    assert done.returncode == 2
    assert "must be a positive integer" in done.stderr


def test_bad_references_turn_the_build_red(book: Path) -> None:
    text = "\n\n".join(BAD_REFERENCES)
    replace(book / "book" / "chapter.md", "Some prose.", text)
    assert at_once(book).returncode == 0
    built = build(book)
    assert built.returncode != 0
    for reference, message in BAD_REFERENCES.items():
        assert message in built.stderr, f"not reported: {reference}"


def test_a_single_bad_reference_turns_the_build_red(book: Path) -> None:
    replace(book / "book" / "chapter.md", "Some prose.", "See {ref}`no-section`.")
    assert at_once(book).returncode == 0
    assert build(book).returncode != 0


def test_stored_stderr_turns_the_build_red(book: Path) -> None:
    replace(book / "book" / "chapter.ipynb", '"name": "stdout"', '"name": "stderr"')
    built = build(book)
    assert built.returncode != 0
    assert "stderr was found" in built.stderr
