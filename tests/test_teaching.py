"""The plans of the page "Teaching from this book": no meeting needs what comes later, the minutes are those shown."""

import re
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path

import browsing
import pytest
import yaml
from bs4 import BeautifulSoup

BOOK = browsing.ROOT / "book"
sys.path.insert(0, str(BOOK / "_extension"))

import teaching  # noqa: E402

FILE = yaml.safe_load((BOOK / "prerequisites.yml").read_text(encoding="utf-8"))
TEXTS = {name: (BOOK / f"{name}.md").read_text(encoding="utf-8") for name in browsing.chapters()}
MINUTES = {name: teaching.minutes(text) for name, text in TEXTS.items()}
LONGEST = 110  # minutes of a meeting


def plan_of(name: str) -> list[list[str]]:
    return teaching.plan(needs=FILE["needs"], durations=MINUTES, **FILE["plans"][name])


def faults_of_plan(meetings: Sequence[Sequence[str]], needs: Mapping[str, Sequence[str]]) -> list[str]:
    """The chapters that need what no meeting before them, nor their own before them, has."""
    seen: list[str] = []
    found = []
    for number, chapters in enumerate(meetings, start=1):
        for name in chapters:
            found += [f"meeting {number}: {name} needs {other}" for other in needs[name] if other not in seen]
            seen.append(name)
    return found + [f"{name} twice" for name in dict.fromkeys(seen) if seen.count(name) > 1]


@pytest.mark.parametrize("name", FILE["plans"])
def test_no_meeting_needs_what_comes_later(name: str) -> None:
    assert faults_of_plan(plan_of(name), FILE["needs"]) == []


@pytest.mark.parametrize("name", FILE["plans"])
def test_a_plan_reaches_its_aims_in_time(name: str) -> None:
    meetings, wanted = plan_of(name), FILE["plans"][name]
    assert len(meetings) == wanted["meetings"]
    assert {chapter for chapters in meetings for chapter in chapters} >= set(wanted["aims"])
    assert all(0 < sum(MINUTES[chapter] for chapter in chapters) <= LONGEST for chapters in meetings)


@pytest.mark.parametrize("name", FILE["plans"])
def test_the_page_shows_the_plan(name: str) -> None:
    """The built table, read back: meetings, chapters in their order, minutes and their sums, and slides that exist."""
    browsing.build_if_stale()
    page = browsing.HTML / "book" / "teaching.html"
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    rows = [row.find_all("td") for row in soup.find("section", id=f"{name}-meetings").select("tbody tr")]
    meetings = plan_of(name)
    shown: list[list[str]] = []
    for first, chapter, duration, _, slides in rows:
        link = Path(chapter.a["href"]).stem
        if first.get_text(strip=True):
            number, total = map(int, re.findall(r"\d+", first.get_text()))
            assert number == len(shown) + 1
            assert total == sum(MINUTES[each] for each in meetings[number - 1])
            shown.append([])
        shown[-1].append(link)
        assert int(duration.get_text()) == MINUTES[link]
        assert (page.parent / slides.a["href"]).exists()
    assert shown == meetings


# The same on small plans, with planted faults

NEED = {"one": [], "two": ["one"], "three": ["two"], "four": []}


def test_planted_faults_are_found() -> None:
    assert faults_of_plan([["one", "two"], ["three"]], NEED) == []
    assert faults_of_plan([["two"], ["one"]], NEED) == ["meeting 1: two needs one"]
    assert faults_of_plan([["one"], ["three", "two"]], NEED) == ["meeting 2: three needs two"]
    assert faults_of_plan([["one"], ["one"]], NEED) == ["one twice"]


def test_what_is_needed_comes_in_and_nothing_else() -> None:
    order = ["four", "one", "two", "three"]
    assert teaching.needed(["three"], NEED, order) == ["one", "two", "three"]
    with pytest.raises(ValueError, match="aims must be chapters, got five"):
        teaching.needed(["five"], NEED, order)


@pytest.mark.parametrize("durations", [[5, 5, 5, 5], [60, 10, 10, 40, 30], [10, 20, 30, 40, 50, 60], [90, 10]])
def test_the_longest_meeting_is_as_short_as_can_be(durations: list[int]) -> None:
    """Beside all ways to cut the row of chapters."""
    for meetings in range(1, len(durations) + 1):
        found = teaching.spread(durations, meetings)
        assert [number for part in found for number in part] == list(range(len(durations)))
        cuts = ([0, *between, len(durations)] for between in combinations(range(1, len(durations)), meetings - 1))
        lowest = min(max(sum(durations[a:b]) for a, b in pairwise(cut)) for cut in cuts)
        assert max(sum(durations[number] for number in part) for part in found) == lowest
    with pytest.raises(ValueError, match="meetings must be between"):
        teaching.spread(durations, len(durations) + 1)


def test_the_minutes_count_the_main_line_only() -> None:
    statement = ":::{prf:lemma} L\n:label: lem-l\n:::\n"
    figure = "```{code-cell}\n---\nmystnb:\n  figure:\n    name: fig-a\n---\n# no heading\nplot()\n```\n"
    assert teaching.minutes("# Title\n") == 0
    assert teaching.minutes("# Title\n\n## A puzzle\n") == teaching.PUZZLE
    long = "# Title\n\n## A puzzle\n" + 4 * statement + figure
    assert teaching.minutes(long) == 5 * -(-(teaching.PUZZLE + 4 * teaching.STATEMENT + teaching.PICTURE) // 5)
    folded = "### ▸ Check\n" + 9 * (statement + figure) + "#### Deeper\n" + statement
    assert teaching.minutes(long + folded) == teaching.minutes(long)
    solved = ":::{solution-start} ex\n" + 9 * figure + ":::{solution-end}\n"
    assert teaching.minutes(long + solved) == teaching.minutes(long)
    more = "## Next\n" + 5 * statement
    assert teaching.minutes(long + folded + more) == teaching.minutes(long) + 5 * teaching.STATEMENT
