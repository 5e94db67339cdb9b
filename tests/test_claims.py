"""Tests of the claim map, the register of deviations and the notation page.

Every statement of the book has a check, a negative control and a picture; whatever these name exists. And the
tests of this can fail: each kind of gap is planted in a copy of a chapter and must be found.
"""

import re
import sys
from pathlib import Path

import execute
import jupytext
import pytest

import invlib

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
sys.path.insert(0, str(BOOK / "_extension"))

import check_calls  # noqa: E402
import claim_map  # noqa: E402
import claims  # noqa: E402

FILES = claims.chapter_files(ROOT)
CHAPTERS = [claims.read_chapter(file) for file in FILES]
TESTS = claims.known_tests(ROOT / "tests")
PROVING = [chapter for chapter in CHAPTERS if chapter.name != "fifteen-minutes"]  # it stands alone, without apparatus

PAPER = {"Lemma 1 (a)", "Lemma 1 (b)", "Lemma 1 (c)", "Theorem 1", "Remark 1", "Theorem 2", "Corollary 1"}
ANY_STATEMENT = re.compile(rf"^:{{3,}}\{{prf:(?:{'|'.join(claims.KINDS)})\}}", re.MULTILINE)


def by_name(chapter: claims.Chapter) -> str:
    return chapter.name


# Claims


def test_the_chapters_are_those_of_the_contents():
    assert {chapter.name for chapter in CHAPTERS} == {path.stem for path in execute.find_chapters()}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=by_name)
def test_every_statement_is_found(chapter):
    assert len(chapter.statements) == len(ANY_STATEMENT.findall(chapter.text))


def test_labels_are_unique():
    labels = [statement.label for chapter in CHAPTERS for statement in chapter.statements]
    assert len(labels) == len(set(labels))


@pytest.mark.parametrize("chapter", CHAPTERS, ids=by_name)
def test_every_statement_has_its_check_and_its_control(chapter):
    assert claims.problems(chapter, invlib, TESTS) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_both_halves_of_a_pair_make_the_same_claims(file):
    assert claims.read_chapter(file) == claims.read_chapter(file.with_suffix(".md"))


def test_the_statements_of_the_paper_are_covered():
    named = {claim.paper for chapter in CHAPTERS for claim in chapter.claims if claim.paper}
    assert named == PAPER | {claims.OWN}


@pytest.mark.parametrize("name", sorted(PAPER))
def test_a_statement_of_the_paper_is_one_statement_with_check_and_control(name):
    """The same cells may serve several statements, but a name of the paper belongs to one label."""
    labels = {claim.label for chapter in CHAPTERS for claim in chapter.claims if claim.paper == name}
    assert len(labels) == 1
    roles = {claim.role for chapter in CHAPTERS for claim in chapter.claims if claim.label in labels}
    assert roles == set(claims.ROLES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_tags_and_the_claims_of_a_cell_belong_together(file):
    for cell in execute.code_cells(jupytext.read(file)):
        tagged = bool(set(cell.metadata.get("tags", [])) & set(claims.ROLES))
        assert tagged == ("claim" in cell.metadata), cell.source


# Planted gaps

SMALL = """\
# A small chapter

:::{prf:theorem} A title
:label: thm-small

One is one.
:::

```{code-cell} ipython3
---
claim:
  functions: [posterior_mean, LinearProblem.normal_data]
  label: thm-small
  paper: book's own
  tests:
  - test_invlib_losses.py::test_one_strength_serves_all_members
tags: [hide-input, check]
---
problem.normal_data(posterior_mean)
assert 1 == 1
```

```{code-cell} ipython3
---
claim:
  label: thm-small
tags: [control]
---
assert 1 != 2
```

```{code-cell} ipython3
---
claim:
  label: thm-small
mystnb:
  figure:
    caption: One.
    name: fig-small
tags: [picture]
---
plt.show()
```
"""


def problems_of(text: str) -> list[str]:
    chapter = claims.parse_chapter("small", jupytext.reads(text, fmt="md:myst"))
    return claims.problems(chapter, invlib, TESTS)


def test_the_small_chapter_is_in_order():
    assert problems_of(SMALL) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("tags: [control]", "tags: [hide-input]", "thm-small: no control"),
        ("tags: [hide-input, check]", "tags: [hide-input]", "thm-small: no check"),
        ("  label: thm-small\ntags", "  label: thm-small\n  only: check\ntags", "thm-small: no control"),
        ("tags: [picture]", "tags: []", "thm-small: no picture"),
        ("    name: fig-small\n", "", "thm-small: a picture without a named figure"),
        ("assert 1 != 2", "print(1 != 2)", "thm-small: no assertion in its control"),
        ("assert 1 == 1", "# assert 1 == 1", "thm-small: no assertion in its check"),
        ("_serves_all_members", "_serves_nobody", "no test test_invlib_losses.py::test_one_strength_serves_nobody"),
        ("test_invlib_losses", "test_invlib_nothing", "no test test_invlib_nothing.py::"),
        ("posterior_mean,", "posterior_meaning,", "no function posterior_meaning in the library"),
        ("LinearProblem.normal", "LinearProblem.nice", "no function LinearProblem.nice_data in the library"),
        ("problem.normal_data(", "print(", "the page does not use LinearProblem.normal_data"),
        ("  paper: book's own\n", "", "thm-small: a check does not say what the paper has"),
        (":label: thm-small", ":label: thm-other", "thm-small: no such statement on this page"),
        (":label: thm-small", ":label: thm-other", "thm-other: no check"),
    ],
)
def test_a_planted_gap_is_found(old, new, expected):
    assert old in SMALL
    assert any(expected in problem for problem in problems_of(SMALL.replace(old, new)))


# The same with checks that the cells call.

CALLING = (
    SMALL.replace("problem.normal_data(posterior_mean)\nassert 1 == 1", "numbers('small', **checks.check_small())")
    .replace("assert 1 != 2", "numbers('small', **checks.control_small())")
    .replace("```{code-cell}", "```{code-cell} ipython3\nfrom checks import small as checks\n```\n\n```{code-cell}", 1)
)
MODULE = """\
def check_small():
    \"\"\"One is one.

    assert nothing here
    \"\"\"
    return compared(problem.normal_data(posterior_mean))


def compared(number):
    assert number == 1  # the only one
    return {"number": number}


def control_small():
    assert 1 != 2
    return {}


def check_other():
    assert True
"""


def problems_with_checks(folder: Path, text: str, module: str) -> list[str]:
    check_calls.definitions.cache_clear()
    (folder / "small.py").write_text(module, encoding="utf-8")
    chapter = claims.parse_chapter("small", jupytext.reads(text, fmt="md:myst"), folder)
    return claims.problems(chapter, invlib, TESTS)


@pytest.mark.parametrize(
    ("statement", "call"),
    [
        ("from checks import small as checks", "checks."),
        ("from checks import small", "small."),
        ("import checks.small as both", "both."),
        ("import checks.small", "checks.small."),
        ("import checks", "checks.small."),
        ("%matplotlib inline\nfrom checks.small import check_small, control_small", ""),
    ],
)
def test_checks_may_be_imported_in_any_way(tmp_path, statement, call):
    text = CALLING.replace("**checks.", f"**{call}").replace("from checks import small as checks", statement)
    assert problems_with_checks(tmp_path, text, MODULE) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("    assert number == 1  # the only one\n", "    # assert number == 1\n", "no assertion in check_small"),
        ("    assert number == 1  # the only one\n", "    # assert number == 1\n", "no assertion in its check"),
        ("return compared(", "return dict(", "thm-small: no assertion in its check"),
        ("    assert 1 != 2\n", "", "thm-small: no assertion in control_small"),
        ("problem.normal_data", "print", "the page does not use LinearProblem.normal_data"),
        ("def control_small", "def control_smaller", "thm-small: no function control_small in small.py"),
    ],
)
def test_a_gap_in_a_called_check_is_found(tmp_path, old, new, expected):
    assert old in MODULE
    problems = problems_with_checks(tmp_path, CALLING, MODULE.replace(old, new))
    assert any(expected in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("**checks.check_small()", "**{}", "thm-small: no assertion in its check"),
        ("**checks.check_small()", "**checks.compared(1)", "thm-small: no assertion in its check"),
        ("**checks.check_small()", "check=checks.check_small", "thm-small: no assertion in its check"),
        ("**checks.check_small()", "**checks.control_small()", "thm-small: no assertion in its check"),
        ("**checks.control_small()", "**checks.check_small()", "thm-small: no assertion in its control"),
        ("small as checks", "smaller as checks", "thm-small: no function check_small in smaller.py"),
        ("from checks import", "from elsewhere import", "thm-small: no assertion in its check"),
    ],
)
def test_a_cell_that_calls_no_check_is_found(tmp_path, old, new, expected):
    assert old in CALLING
    problems = problems_with_checks(tmp_path, CALLING.replace(old, new), MODULE)
    assert any(expected in problem for problem in problems), problems


def test_a_gap_in_a_real_chapter_is_found():
    """The controls of Theorem 2 lose their tags."""
    text = (BOOK / "divergence.md").read_text(encoding="utf-8")
    chapter = claims.parse_chapter("divergence", jupytext.reads(text, fmt="md:myst"))
    assert claims.problems(chapter, invlib, TESTS) == []
    text = text.replace(", control]", "]")
    chapter = claims.parse_chapter("divergence", jupytext.reads(text, fmt="md:myst"))
    assert "thm-dv-divergence: no control" in claims.problems(chapter, invlib, TESTS)


def test_a_list_of_entries_gives_every_statement_its_own_roles():
    metadata = {
        "tags": ["check", "control"],
        "claim": [{"label": ["a", "b"]}, {"label": "c", "only": "check"}],
    }
    found = [(label, role) for label, role, _ in claims.entries_of(metadata)]
    assert found == [("a", "check"), ("a", "control"), ("b", "check"), ("b", "control"), ("c", "check")]
    assert claims.anchors_of([metadata, {}, {"tags": ["check"], "claim": {"label": "b"}}]) == [
        {"a": "cell-a-1", "b": "cell-b-1", "c": "cell-c-1"},
        {},
        {"b": "cell-b-2"},
    ]


# The pages that are made from the chapters


@pytest.mark.parametrize("chapter", CHAPTERS, ids=by_name)
def test_the_claim_map_has_a_row_for_every_proved_statement(chapter):
    rows = claim_map.chapter_table(chapter, {})[2:]
    assert len(rows) >= sum(statement.kind in claims.PROVED for statement in chapter.statements)
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == len(claim_map.COLUMNS) + 1
        _, _, _, check, control, picture, *_ = re.split(r"(?<!\\)\|", row)
        assert "{ref}" in check
        assert "{ref}" in control
        assert "{numref}" in picture


@pytest.mark.parametrize("chapter", PROVING, ids=by_name)
def test_every_chapter_registers_its_deviations(chapter):
    text = claims.section(chapter.text, claims.DEVIATIONS)
    assert text is not None
    assert len(text.split()) > 20
    assert "{glue" not in text, "numbers are not glued across pages"
    kept = "\n".join(claim_map.deviations_of(chapter))
    left_out = [part.strip() for part in text.split("\n\n") if part not in kept]
    assert len(kept.split()) > 15
    assert all(part.startswith(("*Next:* ", "Back to {doc}", "The arrays behind the figures: ")) for part in left_out)
    assert "*Next:*" not in kept


def test_a_section_ends_where_the_next_one_begins():
    text = "# T\n\n## One\n\na\n\n(label)=\n## Two\n\nb\n\n## Three\n\nc"
    assert [claims.section(text, name) for name in ("One", "Two", "Three", "Four")] == ["a", "b", "c", None]


# Notation

Row = tuple[frozenset[str], frozenset[str], str, str]  # symbols, names in the code, shape, last cell


def symbols_of(cell: str) -> frozenset[str]:
    """The symbols of a table cell; of a formula "left = right" only the left side."""
    formulas = [re.sub(r"\s+", "", formula) for formula in re.findall(r"\$([^$]+)\$", cell)]
    parts = [part for formula in formulas for part in re.split(r"\\sim|(?<!\\),", formula.split("=")[0])]
    return frozenset(re.sub(r"\((?:x|z)\)$", "", part) for part in parts)


def rows_of(text: str) -> list[Row]:
    """The rows of all tables of symbols in a text."""
    rows = []
    for table in re.findall(r"^\| Symbol \|.*\n\|[:|-]+\|\n((?:\|.*\n)+)", text, re.MULTILINE):
        for line in table.splitlines():
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            names = frozenset(re.findall(r"`([^`]+)`", cells[2]))
            rows.append((symbols_of(cells[0]), names, cells[3], cells[-1]))
    return rows


NOTATION = rows_of((BOOK / "notation.md").read_text(encoding="utf-8"))


def notation_problems(rows: list[Row], notation: list[Row]) -> list[str]:
    """What a chapter's table says and the notation page does not."""
    found = []
    for symbols, names, shape, _ in rows:
        for symbol in sorted(symbols):
            if not any(symbol in known for known, *_ in notation):
                found.append(f"{symbol} is not on the notation page")
        there = [row for row in notation if row[0] & symbols]
        unknown = names - {name for row in there for name in row[1]}
        found += [f"{sorted(symbols)}: the notation page does not call it {name}" for name in sorted(unknown)]
        shapes = {row[2] for row in there if row[0] == symbols}
        if len(symbols) == 1 and shapes and shape not in shapes:
            found.append(f"{sorted(symbols)}: another shape than {shape}")
    return found


@pytest.mark.parametrize("chapter", PROVING, ids=by_name)
def test_the_notation_of_a_chapter_is_that_of_the_notation_page(chapter):
    rows = rows_of(chapter.text)
    assert len(rows) >= 5
    assert notation_problems(rows, NOTATION) == []


def test_the_notation_page_leads_to_tables_with_the_symbol():
    tables = {}
    for chapter in PROVING:
        (name,) = re.findall(r"^:name: (tab-\w+-notation)$", chapter.text, re.MULTILINE)
        tables[name] = frozenset().union(*(row[0] for row in rows_of(chapter.text)))
    for symbols, _, _, introduced in NOTATION:
        names = re.findall(r"\{numref\}`([\w-]+)`", introduced)
        assert names, symbols
        assert symbols <= frozenset().union(*(tables[name] for name in names)), symbols


def test_a_planted_contradiction_in_the_notation_is_found():
    table = "| Symbol | Meaning | In the code | Shape |\n|:--|:--|:--|:--|\n"
    good = table + "| $s = \\nabla \\log p_X$ | score of the prior | `prior.score` | $(n)$ |\n"
    assert notation_problems(rows_of(good), NOTATION) == []
    for old, new in (("$s =", "$t ="), ("prior.score", "prior.slope"), ("$(n)$", "$(m)$")):
        assert notation_problems(rows_of(good.replace(old, new)), NOTATION) != []
