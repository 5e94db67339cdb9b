"""Every check of the book and every control of it, run directly: they assert by themselves."""

import importlib
import inspect
from pathlib import Path

import execute
import pytest

MODULES = sorted(
    path.stem for path in execute.CHECKS.glob("*.py") if path.stem not in {"__init__", "tools", "minimizers"}
)
FUNCTIONS = [
    pytest.param(function, id=f"{name}.{function.__name__}")
    for name in MODULES
    for module in [importlib.import_module(f"checks.{name}")]
    for _, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__ and function.__name__.startswith(("check_", "control_"))
]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch warns of itself: forward mode, first use
@pytest.mark.parametrize("function", FUNCTIONS)
def test_it_holds(function):
    assert function() is not None, "a check returns the numbers that the page quotes"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_belongs_to_a_chapter(name):
    assert name.replace("_", "-") in {path.stem for path in execute.find_chapters()}


@pytest.mark.parametrize("name", MODULES)
def test_every_check_is_on_its_page(name):
    page = (Path(execute.BOOK) / f"{name.replace('_', '-')}.md").read_text(encoding="utf-8")
    module = importlib.import_module(f"checks.{name}")
    unused = [other for other in vars(module) if other.startswith(("check_", "control_")) and other not in page]
    assert unused == []


def test_the_hash_of_a_chapter_depends_on_the_checks_that_it_imports(tmp_path):
    cells = {"first": "from checks.first import x", "second-one": "from checks import second_one as checks"}
    head = "---\njupytext:\n  formats: ipynb,md:myst\n---\n"
    for name, cell in cells.items():
        (tmp_path / f"{name}.md").write_text(f"{head}\n```{{code-cell}}\n{cell}\n```\n", encoding="utf-8")
    checks = tmp_path / "checks"
    checks.mkdir()
    heads = {
        "first": "from checks.tools import x\n",
        "second_one": "import checks.far\n",
        "far": "from checks.tools import x\n",
        "tools": "import torch\n",
        "idle": "",
    }
    for name, text in heads.items():
        (checks / f"{name}.py").write_text(text, encoding="utf-8")

    library = tmp_path / "library"
    library.mkdir()
    chapters = execute.find_chapters(tmp_path)

    def hashes():
        return [execute.code_hash(execute.read_text(chapter), chapter, library) for chapter in chapters]

    def changed_by(name):
        before = hashes()
        (checks / f"{name}.py").write_text(f"{heads[name]}x = {len(name)}\n", encoding="utf-8")
        return [old != new for old, new in zip(before, hashes(), strict=True)]

    assert changed_by("first") == [True, False]
    assert changed_by("second_one") == [False, True]
    assert changed_by("far") == [False, True]  # by way of another one
    assert changed_by("tools") == [True, True]
    assert changed_by("idle") == [False, False]
