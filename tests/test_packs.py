"""Tests of what a lecturer hands out: no solution leaks, checks know right from wrong, gaps stop in a kind way."""

import re
import sys
import zipfile
from collections.abc import Iterator
from functools import cache

import browsing
import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

sys.path.insert(0, str(browsing.ROOT / "book"))

import exercises
import hand_out
from exercises import asking

NAMES = browsing.chapters()
QUICK = "heat-flow"  # is run to its first gap here; `make rehearse` runs all
QUESTIONS = [question for chapter in exercises.CHAPTERS for question in exercises.questions(chapter)]
IDS = [question.name for question in QUESTIONS]
SHORTEST = 30  # letters and digits of a piece of prose that gives a solution away


@pytest.fixture(scope="module", autouse=True)
def _pages() -> None:
    browsing.build_if_stale()


def notebook(kind: str, name: str) -> nbformat.NotebookNode:
    inner = {"nbgrader": f"source/{name}/{name}", "otter": f"{name}/{name}"}.get(kind, name)
    return nbformat.read(hand_out.PACKS / kind / f"{inner}.ipynb", as_version=4)


@cache
def page(name: str) -> str:
    return (browsing.ROOT / "book" / f"{name}.md").read_text(encoding="utf-8")


# Leaks


def squeezed(text: str) -> str:
    """Letters and digits only: what marks and line breaks cannot change."""
    return re.sub(r"[^a-z0-9]+", "", text.lower())


def solutions(name: str) -> list[str]:
    """The solutions of a page, as they stand in its source."""
    return re.findall(r":::\{solution-start\}.*?\n:::\n(.*?):::\{solution-end\}", page(name), re.DOTALL)


def rest(name: str) -> str:
    """The page without its solutions."""
    return re.sub(r":::\{solution-start\}.*?:::\{solution-end\}", "", page(name), flags=re.DOTALL)


@cache
def secrets(name: str) -> tuple[str, ...]:
    """Pieces of the solutions that stand nowhere else on the page: lines of code, what cells show, prose, formulas."""
    pieces, codes = set(), set()
    for text in solutions(name):
        code = "\n".join(re.findall(r"```\{code-cell\}[^\n]*\n(.*?)```", text, re.DOTALL))
        codes |= {squeezed(block) for block in re.findall(r"```\{code-cell\}[^\n]*\n(.*?)```", text, re.DOTALL)}
        pieces |= {squeezed(line) for line in code.split("\n") if len(squeezed(line)) > 12}
        prose = re.sub(r"```\{code-cell\}.*?```", "\n", text, flags=re.DOTALL)
        for part in re.split(r"\{[\w:-]+\}`[^`]*`|\n|(?<=[.:;,]) |\$", prose):
            pieces |= {squeezed(part)} if len(squeezed(part)) >= SHORTEST else set()
    for cell in stored(name).cells:
        if cell.cell_type == "code" and any(squeezed(cell.source) and squeezed(cell.source) in code for code in codes):
            for output in cell.outputs:
                lines = output.get("text", "").split("\n")
                pieces |= {squeezed(line) for line in lines if len(squeezed(line)) > 12}
    known = squeezed(rest(name))
    return tuple(piece for piece in pieces if piece not in known)


def stored(name: str) -> nbformat.NotebookNode:
    return nbformat.read(browsing.ROOT / "book" / f"{name}.ipynb", as_version=4)


def strings(part: object) -> Iterator[str]:
    """All that is written anywhere in a notebook, but pictures."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        for key, value in part.items():
            yield from () if key.startswith("image/") else strings(value)
    elif isinstance(part, list):
        for value in part:
            yield from strings(value)


def leaks(name: str, found: nbformat.NotebookNode) -> list[str]:
    """What a notebook gives away, wherever it hides: in a cell, an output, or the metadata."""
    everything = squeezed("\n".join(strings(found)))
    return [piece for piece in secrets(name) if piece in everything]


@pytest.mark.parametrize("name", exercises.CHAPTERS)
def test_no_solution_leaks(name: str) -> None:
    assert len(secrets(name)) > 20
    assert not leaks(name, notebook("student", name))


@pytest.mark.parametrize("where", ["code", "text", "output", "metadata"])
def test_a_planted_leak_is_found(where: str) -> None:
    name = exercises.CHAPTERS[0]
    found, line = notebook("student", name), "filtered = linear_filter(diagonal(0.1), unit, nothing)[1]"
    assert line in page(name)
    if where == "code":
        found.cells.append(nbformat.v4.new_code_cell(line))
    elif where == "text":
        text = "As $\\kappa \\to 0$ *the error for ignoring the data* and small mistakes cost only in second order."
        found.cells.append(nbformat.v4.new_markdown_cell(text))
    elif where == "output":
        shown = "n =  10: inversion"
        (output,) = (o.text for c in stored(name).cells for o in c.get("outputs", []) if shown in o.get("text", ""))
        found.cells.append(nbformat.v4.new_code_cell("", outputs=[nbformat.v4.new_output("stream", text=output)]))
    else:
        found.cells[3].metadata["note"] = line
    assert leaks(name, found)


def test_the_lecturer_has_what_the_students_have_not() -> None:
    for name in exercises.CHAPTERS:
        found = leaks(name, notebook("lecturer", name))
        assert len(found) > 0.9 * len(secrets(name)), name


# What is in the notebooks


@pytest.mark.parametrize("kind", ["student", "lecturer", "nbgrader", "otter"])
def test_notebooks_are_valid(kind: str) -> None:
    for name in NAMES if kind in ("student", "lecturer") else exercises.CHAPTERS:
        found = notebook(kind, name)
        nbformat.validate(found)
        for cell in found.cells:
            if cell.cell_type == "markdown":
                assert cell.source.count("<details>") == cell.source.count("</details>")


@pytest.mark.parametrize("name", exercises.CHAPTERS)
def test_every_exercise_has_room_and_every_code_exercise_a_check(name: str) -> None:
    """The labels and kinds come from the source of the page."""
    found = notebook("student", name)
    labels = re.findall(r":::\{exercise\} ([^\n]*)\n:label: (ex-[\w-]+)", page(name))
    checked = {
        each.split('"')[1] for cell in found.cells if "check" in cell.metadata.get("tags", []) for each in [cell.source]
    }
    rooms = sum(cell.source.startswith("**Your answer**") for cell in found.cells)
    assert rooms >= sum(not title.startswith("Code") for title, _ in labels)
    assert {question.name for question in exercises.questions(name)} == checked
    for title, label in labels:
        if "ode" in title.split(":")[0]:  # "Code", "Proof and code"
            assert any(each.startswith(label) for each in checked), label
    assert {question.label for question in exercises.questions(name)} <= {label for _, label in labels}


def test_there_are_sixty_exercises_with_a_check() -> None:
    assert len({question.label for question in QUESTIONS}) >= 60
    assert len(set(IDS)) == len(IDS)


@pytest.mark.parametrize("name", NAMES)
def test_the_lecturer_finds_questions_and_minutes(name: str) -> None:
    text = "\n".join(cell.source for cell in notebook("lecturer", name).cells[:2])
    assert text.count("What to hear") >= 2
    rows = re.findall(r"^\| .* \| (\d+|at home) \|$", text, re.M)
    assert len(rows) >= 4


# Gaps


def first_gap(found: nbformat.NotebookNode) -> int:
    """The place of the first check, which is where a notebook stops."""
    return next(k for k, cell in enumerate(found.cells) if "check" in cell.metadata.get("tags", []))


@pytest.mark.parametrize("name", exercises.CHAPTERS)
def test_every_gap_stops_in_a_kind_way(name: str) -> None:
    """All gaps of a chapter, one by one, in the state in which the student gets them."""
    cells = [cell for cell in notebook("student", name).cells if cell.cell_type == "code"]
    assert cells[0].source == "from exercises import check"
    gaps = [(cells[k - 1], cell) for k, cell in enumerate(cells) if "check" in cell.metadata.get("tags", [])]
    assert gaps
    for gap, test in gaps:
        assert "# your code here" in gap.source
        space: dict = {}
        exec(f"{cells[0].source}\n{gap.source}", space)
        with pytest.raises(exercises.Gap, match="has no answer yet"):
            exec(test.source, space)


def run_to_gap(name: str) -> tuple[int, str, list[str]]:
    """Run the notebook of a student in a kernel; return where it stops, and the name and the text of what it shows."""
    found = notebook("student", name)
    for cell in found.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    resources = {"metadata": {"path": str(browsing.ROOT / "book")}}
    with pytest.raises(CellExecutionError):
        NotebookClient(found, timeout=600, kernel_name="python3", resources=resources).execute()
    place = max(k for k, cell in enumerate(found.cells) if cell.cell_type == "code" and cell.execution_count)
    (shown,) = found.cells[place].outputs
    return place, shown.ename, shown.traceback


def test_a_notebook_runs_to_its_first_gap() -> None:
    place, kind, shown = run_to_gap(QUICK)
    assert place == first_gap(notebook("student", QUICK))
    assert kind == "Gap"
    assert len(shown) == 1
    assert "Here is a gap" in shown[0]


# Checks


def forms(value: object) -> list[object]:
    """An answer in every form that one may give it."""
    tensor = torch.as_tensor(value, dtype=torch.float64)
    found = [tensor, tensor.float(), tensor.numpy(), tensor.numpy().astype(np.float32), tensor.tolist()]
    if tensor.numel() == 1:
        found += [tensor.reshape(1), np.float64(tensor.item()), [tensor.item()], (tensor.item(),)]
    else:
        found += [tuple(tensor.tolist()), list(tensor), tensor[None]]
    return found


def answers(question: asking.Question, maker: asking.Maker) -> list[object]:
    """An answer, a value or a function, in every form."""
    if not question.takes:
        return forms(maker())
    if question.read is not None:
        return [maker]
    first = maker(*question.inputs[0])
    if isinstance(first, list) and isinstance(first[0], str):
        return [maker, lambda *a: tuple(maker(*a)), lambda *a: [each.upper() for each in maker(*a)]]
    found = [forms(maker(*each)) for each in question.inputs]
    return [lambda *a, k=k: found[tried(question, a)][k] for k in range(len(forms(first)))]


def tried(question: asking.Question, arguments: tuple) -> int:
    """Which of the inputs a function was called with."""
    same = [all(equal(a, b) for a, b in zip(each, arguments, strict=True)) for each in question.inputs]
    return same.index(True)


def equal(one: object, other: object) -> bool:
    """Whether two arguments are the same; a number may have become a tensor."""
    if isinstance(one, float | torch.Tensor):
        one, other = (torch.as_tensor(each, dtype=torch.float64) for each in (one, other))
        return one.shape == other.shape and bool((one == other).all())
    return one is other or one == other


@pytest.mark.parametrize("question", QUESTIONS, ids=IDS)
def test_a_right_answer_is_right_in_every_form(question: asking.Question, capsys: pytest.CaptureFixture) -> None:
    tried = answers(question, question.right)
    for answer in tried:
        exercises.check(question.name, answer)
    assert capsys.readouterr().out == "Right.\n" * len(tried)


@pytest.mark.parametrize("question", QUESTIONS, ids=IDS)
def test_the_usual_mistakes_are_told_apart(question: asking.Question) -> None:
    assert len(question.mistakes) >= 2
    assert len({mistake.says for mistake in question.mistakes}) == len(question.mistakes)
    for mistake in question.mistakes:
        answer = mistake.answer if question.takes else mistake.answer()
        with pytest.raises(exercises.NotYet) as told:
            exercises.check(question.name, answer)
        assert str(told.value) == mistake.says


@pytest.mark.parametrize("question", [q for q in QUESTIONS if q.read is None], ids=lambda q: q.name)
def test_another_wrong_answer_is_wrong_and_nothing_is_given_away(question: asking.Question) -> None:
    wanted = question.right(*question.inputs[0])
    if isinstance(wanted, list) and isinstance(wanted[0], str):
        return
    values = torch.as_tensor(wanted, dtype=torch.float64)
    maker = asking.times(1.37, lambda *a: torch.as_tensor(question.right(*a), dtype=torch.float64) + 0.71)
    with pytest.raises(exercises.NotYet) as told:
        exercises.check(question.name, maker if question.takes else maker())
    said = " ".join([str(told.value), *(mistake.says for mistake in question.mistakes), question.asks])
    if not question.takes:
        for value in values.flatten().tolist():
            digits = f"{abs(value):.4g}"
            assert len(digits) < 3 or digits not in said


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "no answer yet"),
        ("nothing", "asks for numbers"),
        ([1.0, 2.0], "The shape is"),
        (float("nan"), "not finite"),
        (lambda x: x, "a value, not a function"),
        (object(), "not object"),
    ],
)
def test_an_answer_of_the_wrong_kind_is_told(answer: object, said: str) -> None:
    with pytest.raises(exercises.NotYet, match=said):
        exercises.check("ex-inv-hand-a", answer)


def test_a_function_that_fails_is_told() -> None:
    with pytest.raises(exercises.NotYet, match="ZeroDivisionError"):
        exercises.check("ex-inv-integration-a", lambda n: 1 / 0)
    with pytest.raises(exercises.NotYet, match="asks for a function of"):
        exercises.check("ex-inv-integration-a", 3.0)


def test_an_unknown_question_is_told() -> None:
    with pytest.raises(ValueError, match="name must be that of a question"):
        exercises.check("ex-inv-nothing", 1.0)
    with pytest.raises(ValueError, match="chapter must be one of"):
        exercises.questions("nothing")


# Archives


def test_the_archives_hold_all_notebooks_and_are_the_same_every_time() -> None:
    for kind in hand_out.ABOUT:
        target = hand_out.pack(kind)
        before = target.read_bytes()
        assert hand_out.pack(kind).read_bytes() == before
        with zipfile.ZipFile(target) as archive:
            names = archive.namelist()
        wanted = NAMES if kind in ("student", "lecturer") else exercises.CHAPTERS
        assert {name for name in names if name.endswith(".ipynb")} == {
            f"{kind}/{path.relative_to(hand_out.PACKS / kind).as_posix()}"
            for path in (hand_out.PACKS / kind).rglob("*.ipynb")
        }
        assert sum(name.endswith(".ipynb") for name in names) == len(wanted)
        assert sum(name.endswith(".whl") for name in names) == 2
