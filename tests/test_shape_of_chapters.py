"""Limits of a chapter: how long it is as loaded, how much code it has, and in which style.

Run as a script, this checks the style of the code cells of all chapters.
"""

import re
import statistics
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "book"))

import browsing
import execute
import measure_pages
import pytest
import style

MOST_SCREENS = 25  # of 1280 x 800 pixels, as loaded
MOST_WORDS = 6000  # of prose, as loaded
ALL_WORDS = 75_000  # of all chapters together
LATEST_FIGURE = 1.5  # screens above the first picture
LONGEST_CELL = 40  # lines
MEDIAN_CELL = 15
WIDEST_VISIBLE = 88  # letters in a line of code that is not folded: more do not fit beside both panels
MOST_CODE = 9000  # lines of all chapters together

COMPUTER_NOTATION = re.compile(r"(?<![\w.])\d+(?:\.\d+)?e[+-]?\d+(?!\w)", re.IGNORECASE)
NEGATIVE_ZERO = re.compile("(?<![\\w.)])[-\N{MINUS SIGN}]0(?:\\.0+)?(?![\\w.,]*\\d)")
ODD_WORDS = re.compile(r"\bin the place of\b", re.IGNORECASE)

NAMES = [chapter.stem for chapter in execute.find_chapters()]


def path(name: str) -> Path:
    return execute.BOOK / f"{name}.md"


# Code and text: from the sources


def faults_of_cells(text: str) -> Iterator[str]:
    """What is wrong with the length of the code cells of a chapter."""
    cells = execute.code_cells(style.as_notebook(text))
    median = statistics.median([len(cell.source.splitlines()) for cell in cells] or [0])
    for number, cell in enumerate(cells, start=1):
        lines = cell.source.splitlines()
        if len(lines) > LONGEST_CELL:
            yield f"code cell {number} has {len(lines)} lines, more than {LONGEST_CELL}"
        widest = max(map(len, lines), default=0)
        if "hide-input" not in cell.metadata.get("tags", []) and widest > WIDEST_VISIBLE:
            yield f"code cell {number} is visible and has a line of {widest} letters, more than {WIDEST_VISIBLE}"
    if median > MEDIAN_CELL:
        yield f"the median length of a code cell is {median} lines, more than {MEDIAN_CELL}"


def faults_of_words(text: str) -> Iterator[str]:
    """Words that no reader would use."""
    for found in ODD_WORDS.finditer(text):
        yield f"{found[0]!r} in line {text.count(chr(10), 0, found.start()) + 1}: say 'instead of', or name it"


@cache
def faults_of_code(name: str) -> list[str]:
    """All that is wrong with the sources of a chapter."""
    text = path(name).read_text(encoding="utf-8")
    return [*faults_of_cells(text), *faults_of_words(text), *style.problems(path(name))]


@pytest.mark.parametrize("name", NAMES)
def test_the_code_of_a_chapter_keeps_the_limits(name: str) -> None:
    assert faults_of_code(name) == []


def test_the_chapters_together_have_little_code() -> None:
    lines = {name: sum(measure_pages.code_of(name).lines) for name in NAMES}
    assert sum(lines.values()) <= MOST_CODE, lines


# Length and numbers: from the built pages


WAYS = {  # at most so many screens from the top of the landing page to the end of a picture or a statement
    "the picture of the four networks": (("index", "fifteen-minutes#fig-fm-grids"), 10),
    "Corollary 1": (("index", "point-estimators", "divergence#cor-dv-map"), 40),
}


def faults_of_page(found: dict) -> list[str]:
    """What is wrong with a page, as a browser measured it."""
    screens = found["height"] / measure_pages.HEIGHT
    figure = float("inf") if found["figure"] is None else found["figure"] / measure_pages.HEIGHT
    limits = {
        "screens": (screens, MOST_SCREENS),
        "visible words": (found["words"], MOST_WORDS),
        "screens above the first picture": (figure, LATEST_FIGURE),
    }
    faults = [f"{value:,.1f} {what}, more than {limit}" for what, (value, limit) in limits.items() if value > limit]
    for pattern in (COMPUTER_NOTATION, NEGATIVE_ZERO):
        faults += [f"a number is set as {number[0]}" for number in pattern.finditer(found["text"])]
    return faults


@pytest.fixture(scope="module")
def pages() -> dict[str, dict]:
    """What a browser measures of the chapters."""
    if NAMES:
        browsing.build_if_stale()
    with measure_pages.reader() as (page, address):
        found = {name: measure_pages.look(page, f"{address}/book/{name}.html") for name in NAMES}
        ways = {goal: measure_pages.route_length(page, address, stations)[0] for goal, (stations, _) in WAYS.items()}
    return found | {"ways": ways}


@browsing.needs_browser
@pytest.mark.parametrize("name", NAMES)
def test_the_page_of_a_chapter_keeps_the_limits(pages: dict[str, dict], name: str) -> None:
    assert faults_of_page(pages[name]) == []


@browsing.needs_browser
def test_the_chapters_together_are_short(pages: dict[str, dict]) -> None:
    words = {name: pages[name]["words"] for name in NAMES}
    assert sum(words.values()) <= ALL_WORDS, words


@browsing.needs_browser
@pytest.mark.parametrize("goal", WAYS)
def test_the_way_from_the_landing_page_is_short(pages: dict[str, dict], goal: str) -> None:
    assert pages["ways"][goal] <= WAYS[goal][1]


# The same with planted faults


def chapter(*cells: str, tags: str = "hide-input") -> str:
    head = "---\njupytext:\n  formats: ipynb,md:myst\n---\n\n# A chapter\n"
    return head + "".join(f"\n```{{code-cell}} ipython3\n:tags: [{tags}]\n\n{cell}\n```\n" for cell in cells)


def lines(count: int) -> str:
    return "\n".join(f"x{number} = {number}" for number in range(count))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (chapter(lines(3), lines(41), lines(3)), "code cell 2 has 41 lines"),
        (chapter(lines(16), lines(16), lines(3)), "median length of a code cell is 16"),
        (chapter(f"x = '{'a' * 90}'", tags="check"), "line of 96 letters"),
        (chapter(lines(40), lines(15), lines(3)), None),
        (chapter(f"x = '{'a' * 90}'"), None),
    ],
)
def test_a_planted_cell_is_found(text: str, fault: str | None) -> None:
    found = list(faults_of_cells(text))
    assert any(fault in line for line in found) if fault else not found


def test_odd_words_are_found_with_their_line() -> None:
    (fault,) = faults_of_words("One.\nA sample in the place of a formula.\n")
    assert "line 2" in fault
    assert not list(faults_of_words("In place of honour."))


GOOD = {"height": 8000, "figure": 400, "words": 4000, "text": "6·10 −10 0.0 t0e-3x 1.2 −0.5 (0, -0.1) 10-0 fig-0.1"}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"height": 20_001}, "25.0 screens"),
        ({"words": 6001}, "6,001.0 visible words"),
        ({"figure": 1210}, "1.5 screens above the first picture"),
        ({"figure": None}, "inf screens above the first picture"),
        ({"text": "an error of 6e-10"}, "6e-10"),
        ({"text": "(3.2E+07)"}, "3.2E+07"),
        ({"text": "a shift of -0.0"}, "-0.0"),
        ({"text": "a shift of \N{MINUS SIGN}0.00."}, "\N{MINUS SIGN}0.00"),
        ({}, None),
    ],
)
def test_a_planted_fault_of_a_page_is_found(change: dict, fault: str | None) -> None:
    faults = faults_of_page({**GOOD, **change})
    assert any(fault in line for line in faults) if fault else not faults


@pytest.mark.parametrize(
    ("code", "fault"),
    [("x=1", "not formatted"), ("import os", "F401"), ("x = 1\nif x == None:\n    x = 2", "E711"), ("x = 1", None)],
)
def test_a_fault_of_style_is_found(tmp_path: Path, code: str, fault: str | None) -> None:
    file = tmp_path / "small.md"
    file.write_text(chapter(code), encoding="utf-8")
    found = style.problems(file)
    assert any(fault in line for line in found) if fault else not found


MESSY = """\
---
jupytext:
  formats: ipynb,md:myst
---

# A chapter

```{code-cell} ipython3
---
mystnb:
  figure:
    name: fig-x
tags: [hide-input]
---
import sys,os
x = { 'a':1 }
```

```{code-cell} ipython3
:tags: [check]

%time y=1
z=2
```

```{code-cell} ipython3
%%bash
echo   1
```

````{code-cell} ipython3
s  =  '''
```
'''
````

```{code-cell} ipython3
```

```python
not = a cell
```
"""


def test_cells_are_formatted_in_place(tmp_path: Path) -> None:
    file = tmp_path / "small.md"
    file.write_text(MESSY, encoding="utf-8")
    assert style.format_chapter(file) == "3 cells formatted; now run the chapter"
    expected = (
        MESSY.replace("import sys,os\nx = { 'a':1 }", 'import os\nimport sys\n\nx = {"a": 1}')
        .replace("%time y=1\nz=2", "%time y=1\nz = 2")
        .replace("s  =  '''\n```\n'''", 's = """\n```\n"""')
    )
    assert file.read_text(encoding="utf-8") == expected
    assert style.format_chapter(file) == "formatted already"


def test_a_cell_with_wrong_syntax_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "small.md"
    file.write_text(chapter("x = ("), encoding="utf-8")
    with pytest.raises(style.StyleError, match="small"):
        style.format_chapter(file)
    assert style.problems(file)


if __name__ == "__main__":
    sys.exit(bool(NAMES) and execute.main(["--lint", *NAMES]))
