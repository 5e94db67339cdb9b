"""The page *State of the book*: it says what was recorded, and that nothing was where nothing was."""

import json
import sys
from pathlib import Path

import execute
import note_tests
import pytest
import small_pages

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book" / "_extension"))

import book_state  # noqa: E402

PAGE = (ROOT / "book" / "state.md").read_text(encoding="utf-8")
BOOK = book_state.book_of(ROOT)

COMMANDS = {"tests": "make test, and make state"}

REPORT = """\
<testsuites><testsuite>
<testcase classname="tests.test_state" name="test_a" time="0.25"/>
<testcase classname="tests.test_state" name="test_b" time="0.55"><skipped/></testcase>
<testcase classname="invlib.bayes" name="invlib.bayes.posterior_mean" time="1"><failure/></testcase>
<testcase classname="book.divergence.ipynb" name="Cell 0" time="2"/>
</testsuite></testsuites>
"""


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A book of which nothing is recorded: no folder of state, no repository, no pins."""
    monkeypatch.setattr(book_state, "ROOT", tmp_path)
    monkeypatch.setattr(book_state, "STATE", tmp_path)
    monkeypatch.setattr(book_state, "planted", list)
    return tmp_path


def test_the_page_shows_every_topic_once():
    shown = [line.split()[-1] for line in PAGE.splitlines() if line.startswith("```{book-state}")]
    assert sorted(shown) == sorted(book_state.TOPICS)


@pytest.mark.parametrize("topic", book_state.TOPICS)
def test_every_topic_knows_something_of_the_book(topic):
    lines = book_state.TOPICS[topic](BOOK)
    if topic in COMMANDS and lines == book_state.NOTHING:
        pytest.skip(f"not recorded; run {COMMANDS[topic]}")
    assert lines != book_state.NOTHING
    assert any(line.startswith("| ") for line in lines)


@pytest.mark.parametrize("topic", book_state.TOPICS)
def test_without_records_the_page_is_built_and_says_so(topic, nowhere):
    page = small_pages.build(nowhere / "page", f"```{{book-state}} {topic}\n```\n", extensions=("book_state",))
    said = page.get_text()
    assert "Not recorded" in said or "unknown" in said


def test_the_commit_is_that_of_the_repository(tmp_path, monkeypatch):
    head = book_state.git("rev-parse", "HEAD")
    assert head[:12] in book_state.commit() if head else book_state.commit() == "unknown"
    monkeypatch.setattr(book_state, "ROOT", ROOT / "book")
    assert book_state.commit() == "unknown"  # the book is not the top of its repository
    monkeypatch.setattr(book_state, "ROOT", tmp_path)
    assert book_state.commit() == "unknown"


def test_every_chapter_has_a_row():
    rows = [line for line in book_state.chapters(BOOK) if line.startswith("| {doc}")]
    assert len(rows) == len(BOOK)


def test_the_time_of_a_chapter_is_noted(tmp_path):
    for name, seconds in (("b", 2.4), ("a", 61.6), ("b", 3.5)):
        execute.note_seconds(tmp_path / f"{name}.md", seconds)
    noted = json.loads((tmp_path / "state" / "chapters.json").read_text(encoding="utf-8"))
    assert list(noted) == ["a", "b"]
    assert [entry["seconds"] for entry in noted.values()] == [62, 4]
    assert set(noted["a"]) == {"seconds", "date", "cpu", "cores", "python", "torch"}


def test_a_report_of_pytest_is_counted_by_file(tmp_path):
    report = tmp_path / "tests.xml"
    report.write_text(REPORT, encoding="utf-8")
    assert note_tests.counted(report) == {
        "book/divergence.ipynb": {"tests": 1, "skipped": 0, "failed": 0, "seconds": 2.0},
        "invlib/bayes.py": {"tests": 1, "skipped": 0, "failed": 1, "seconds": 1.0},
        "tests/test_state.py": {"tests": 2, "skipped": 1, "failed": 0, "seconds": 0.8},
    }


def test_the_notes_ask_for_a_run_of_the_tests(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(note_tests, "BUILD", tmp_path)
    assert note_tests.main() == 1
    assert "make test" in capsys.readouterr().err
