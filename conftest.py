"""Settings of pytest for the whole repository."""

import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from coverage import Coverage

sys.path.insert(0, str(Path(__file__).resolve().parent / "book"))

from execute import BOOK, KERNEL_ENVIRONMENT

# The notebooks run in the same environment as when their outputs were made.
os.environ.update(KERNEL_ENVIRONMENT)

# The coverage of the library is that by its own tests and examples. Watching takes about as long again as the Python
# code that is watched, so it rests while notebooks and checks run and pages are read.
MEASURED = ("invlib/", "tests/test_invlib_", "tests/test_user_trials.py")

NOTES = BOOK / "state" / "tests.json"
PAGES = "tests/test_pages.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, by the seconds that `make state` noted: then no worker waits long for the other.

    Before them the pages are built by one worker, and the notebooks run, which need no pages.
    """
    noted = json.loads(NOTES.read_text(encoding="utf-8"))["files"] if NOTES.exists() else {}

    def place(item: pytest.Item) -> tuple[bool, bool, float]:
        file = item.nodeid.partition("::")[0]
        return file != PAGES, not file.endswith(".ipynb"), -noted.get(file, {"seconds": 0})["seconds"]

    items.sort(key=place)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let no kernel of a notebook measure the coverage."""
    session.config.option.cov_source = []


@contextmanager
def coverage_at_rest() -> Iterator[None]:
    """Let the coverage rest.

    In a worker of pytest-xdist two are started, one above the other; when the upper one stops, the lower one goes on.
    """
    rested = []
    while coverage := Coverage.current():
        coverage.stop()
        rested.append(coverage)
    try:
        yield
    finally:
        for coverage in reversed(rested):
            coverage.start()


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[object]:
    """Watch how the library is imported, but not how the tests are; who only hands them out imports nothing."""
    if Coverage.current() and not session.config.pluginmanager.hasplugin("dsession"):
        for module in pkgutil.iter_modules([str(BOOK.parent / "invlib")], "invlib."):
            importlib.import_module(module.name)
    with coverage_at_rest():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    """Let the coverage rest during the tests of all other files."""
    with nullcontext() if item.nodeid.startswith(MEASURED) else coverage_at_rest():
        return (yield)
