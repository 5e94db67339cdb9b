"""Tests of the shape of the library: it stays small, and everything public is named in one place."""

import inspect
import re
from pathlib import Path

import execute
import pytest

import invlib

LIBRARY = Path(invlib.__file__).parent
NOT_CORE = {"__init__.py", "drawing.py", "log_det_minimizer.py"}


def test_the_library_can_be_read_in_an_evening():
    """Lines of code without docstrings and blank lines; pictures and the special minimizer do not count."""
    lines = {
        path.name: len(execute.code_lines(path.read_text(encoding="utf-8")).splitlines())
        for path in LIBRARY.glob("*.py")
    }
    assert lines.keys() >= NOT_CORE
    assert sum(count for name, count in lines.items() if name not in NOT_CORE) <= 1_260, lines
    assert max(lines.values()) <= 220, lines


@pytest.mark.parametrize("name", invlib.__all__)
def test_everything_public_is_documented(name):
    thing = getattr(invlib, name)
    assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        for method, function in inspect.getmembers(thing, inspect.isfunction):
            if not method.startswith("_") and function.__module__.startswith("invlib"):
                assert inspect.getdoc(function), f"{name}.{method}"


def test_the_pages_that_docstrings_name_exist():
    pages = {
        page for path in LIBRARY.glob("*.py") for page in re.findall(r"`(book/[\w-]+\.md)`", path.read_text("utf-8"))
    }
    assert len(pages) >= 8
    assert [page for page in pages if not (LIBRARY.parent / page).exists()] == []
