"""A small Sphinx extension: what a lecturer hands out, written from the same pages as all else.

For each chapter there are four notebooks, in ``_build/packs``:

- ``student``: the notebook of the reader without solutions. In their place is room: for a text, and for code, whose
  answer a cell checks (`exercises.check`).
- ``lecturer``: the notebook with all solutions open, the usual wrong answers and what to say to them, minutes, and what
  to ask the room.
- ``nbgrader`` and ``otter``: the exercises alone, in the formats of these two graders.

``make packs`` makes archives of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import yaml
from docutils import nodes
from folds import fold
from nbformat import NotebookNode
from reader_notebooks import Writer, details, writer_for
from sphinx.application import Sphinx

if TYPE_CHECKING:
    from exercises import Mistake, Question

BOOK = Path(__file__).resolve().parent.parent
FOLDER = "packs"
IMPORT = "from exercises import check"
KINDS = {"By hand": 10, "Proof": 20, "Code": 25, "Explore": 25, "Open": 0}
"""The kinds of exercises, and the minutes that each may take in class; an open one is for later."""

WORDS_A_MINUTE, MINUTES_A_FIGURE = 100, 2
MARK = "# your code here"


# What an exercise has


@dataclass
class Task:
    """An exercise, in Markdown.

    Attributes:
        label: its label.
        number: with its number and title, as "Exercise 9.1 (By hand: the best affine map)".
        text: what it asks, in its box.
        hints: folded.
        solution: the text of its solution.
    """

    label: str
    number: str
    text: str
    hints: str = ""
    solution: str = ""

    @property
    def kind(self) -> str:
        """The first words of its title."""
        return next((kind for kind in KINDS if f"{kind}" in self.number), "Open")

    def asked(self) -> list[Question]:
        """Return the questions that a check can judge."""
        from exercises import CHAPTERS, questions

        return [question for chapter in CHAPTERS for question in questions(chapter) if question.label == self.label]


def is_solution(node: nodes.Node) -> bool:
    """Tell whether a node is a solution, folded or not."""
    named = isinstance(node, nodes.Element) and any(name.startswith("sol-") for name in node.get("ids", []))
    return named or type(node).__name__ == "solution_node"


def is_exercise(node: nodes.Node) -> bool:
    """Tell whether a node is an exercise."""
    return type(node).__name__ in ("exercise_node", "exercise_enumerable_node")


def is_hint(node: nodes.Node) -> bool:
    """Tell whether a node is a hint."""
    return isinstance(node, fold) and "hint" in node.get("classes", [])


def stub(question: Question, body: str = "...") -> str:
    """Return the code of a gap, or, with another body, of an answer."""
    if question.takes:
        return f"def {question.variable}({question.takes}):\n    {MARK}\n    return {body}"
    return f"{MARK}\n{question.variable} = {body}"


def check_code(question: Question) -> str:
    """Return the code that checks an answer."""
    return f'check("{question.name}", {question.variable})'


def ask(question: Question) -> str:
    """Return the text above a gap."""
    return f"**({question.part})** {question.asks}" if question.part else question.asks


def markdown(text: str, **metadata: object) -> NotebookNode:
    """Return a cell of text."""
    return nbformat.v4.new_markdown_cell(text, metadata=metadata)


def code(text: str, **metadata: object) -> NotebookNode:
    """Return a cell of code."""
    return nbformat.v4.new_code_cell(text, metadata=metadata)


ROOM = "**Your answer**\n\n*Double-click here, and write.*"


# The two notebooks of a chapter


class PackWriter(Writer):
    """Writes a notebook of a pack; what to do with a solution is left to the two below."""

    def __post_init__(self) -> None:
        """Begin without exercises."""
        super().__post_init__()
        self.tasks: list[Task] = []

    def block(self, node: nodes.Node, inside: bool = False) -> None:
        """Write one block; exercises, hints and solutions are noted."""
        if is_solution(node):
            self.solution(node, self.tasks[-1])
            return
        start = len(self.text)
        if is_exercise(node) and not inside:
            self.flush()
            start = 0
        super().block(node, inside)
        if is_exercise(node):
            text = self.text[start]
            self.tasks.append(Task(node["label"], head(text), text))
        elif is_hint(node) and self.tasks:
            self.tasks[-1].hints += "\n\n".join(self.text[start:])

    def solution(self, node: nodes.Element, task: Task) -> None:
        """Write what stands at the place of a solution."""
        raise NotImplementedError


def head(text: str) -> str:
    """Return the first line of an exercise without its marks."""
    return text.split("\n")[0].removeprefix("> ").replace("**", "")


class Student(PackWriter):
    """Writes gaps where the solutions are."""

    def solution(self, node: nodes.Element, task: Task) -> None:
        """Leave room for a text, and a gap for each question."""
        task.solution = self.blocks(node.children[1:])
        self.flush()
        for cell in room(task):
            self.add(cell)


def room(task: Task) -> list[NotebookNode]:
    """Return the cells in which a student works on an exercise."""
    asked = task.asked()
    cells = [] if task.kind == "Code" and asked else [markdown(ROOM)]
    for question in asked:
        cells += [
            markdown(ask(question)),
            code(stub(question), tags=["gap"]),
            code(check_code(question), tags=["check"]),
        ]
    return cells


class Lecturer(PackWriter):
    """Writes the solutions, open, and what students get wrong."""

    def solution(self, node: nodes.Element, task: Task) -> None:
        """Write the solution in the main text, with cells that run."""
        self.flush()
        self.text.append(f"**Solution to {task.number.split(' (')[0]}**")
        for child in node.children[1:]:
            self.block(child)
        self.text.append(wrong_answers(task.asked()))
        self.flush()


def wrong_answers(asked: Iterable[Question]) -> str:
    """Return the usual wrong answers, and what the check says to them."""
    parts = ["**What goes wrong, and what the check says**"]
    for question in asked:
        said = [f"- {wrong_value(question, mistake)}{mistake.says}" for mistake in question.mistakes]
        parts.append(f"{ask(question)}\n\n" + "\n".join(said))
    return "\n\n".join(parts) if len(parts) > 1 else ""


def wrong_value(question: Question, mistake: Mistake) -> str:
    """Return the numbers of a wrong answer; none if a function is asked for."""
    if question.takes:
        return ""
    value = mistake.answer()
    numbers = value if isinstance(value, list) else [value]
    return f"*{', '.join(f'{float(number):.3g}' for number in numbers)}*: "


# What only the lecturer sees


def visible_words(section: nodes.Element) -> int:
    """Return the number of words that a section shows, without what is folded, code and deeper sections of its own."""
    count = 0
    for text in section.findall(nodes.Text):
        above = ancestors(text)
        hidden = any(isinstance(node, fold | nodes.literal_block | nodes.math | nodes.math_block) for node in above)
        count += 0 if hidden else len(text.astext().split())
    return count


def ancestors(node: nodes.Node) -> Iterable[nodes.Node]:
    """Yield the nodes around a node."""
    while node.parent is not None:
        node = node.parent
        yield node


def minutes(section: nodes.Element) -> int:
    """Return how long a section may take in class, by rule of thumb."""
    figures = sum(1 for _ in section.findall(nodes.figure))
    return max(1, round(visible_words(section) / WORDS_A_MINUTE + MINUTES_A_FIGURE * figures))


def plan(writer: Writer, tree: nodes.document, tasks: Iterable[Task], name: str) -> str:
    """Return the page for the lecturer: what to ask the room, and how long it takes."""
    chapter = yaml.safe_load((BOOK / "room.yml").read_text(encoding="utf-8"))[name]
    asked = [f"**{k}.** {each['ask']}\n\n{details('What to hear', each['hear'])}" for k, each in enumerate(chapter, 1)]
    sections = [node for node in tree[0].children if isinstance(node, nodes.section)]
    rows = [
        f"| {writer.inline(each[0])} | {minutes(each)} |" for each in sections if not list(each.findall(is_exercise))
    ]
    rows += [f"| {task.number} | {KINDS[task.kind] or 'at home'} |" for task in tasks]
    return "\n\n".join(
        [
            "## For the lecturer",
            "### What to ask the room",
            *asked,
            "### Minutes",
            "\n".join(["| Part | Minutes |", "|:--|--:|", *rows]),
            f"*A rule of thumb, not a measurement: {WORDS_A_MINUTE} visible words a minute, {MINUTES_A_FIGURE} minutes "
            "for each figure; exercises by their kind. Folded proofs and checks are not counted.*",
        ]
    )


# The graders


def sheet_opening(title: str, setup: str) -> list[NotebookNode]:
    """Return the first cells of the exercises alone."""
    note = "*The exercises of a chapter. Equations and figures are on its page and in the student's notebook.*"
    return [markdown(f"# {title}: exercises\n\n{note}"), code(f"{setup}\n{IMPORT}")]


def answer_code(question: Question) -> str:
    """Return an expression that is the right answer; a lecturer's file has it, a student's has not."""
    arguments = f"({question.takes})" if question.takes else ""
    return f'find("{question.name}").{"right" if question.takes else "solution()"}{arguments}'


def nbgrader(title: str, setup: str, tasks: Iterable[Task]) -> NotebookNode:
    """Return the exercises in the format of nbgrader: the version of the instructor."""
    cells = sheet_opening(title, setup)
    for task in tasks:
        cells += [markdown(each) for each in (task.text, task.hints) if each]
        asked = task.asked()
        if task.kind != "Code" or not asked:
            name = task.label.removeprefix("ex-")
            cells.append(markdown(task.solution, nbgrader=graded(f"text-{name}", solution=True, points=2)))
        for question in asked:
            cells.append(markdown(ask(question)))
            cells.append(code(nbgrader_answer(question), nbgrader=graded(question.variable, solution=True)))
            cells.append(code(check_code(question), nbgrader=graded(f"check-{question.variable}", points=1)))
    return nbformat.v4.new_notebook(cells=numbered(cells), metadata=KERNEL)


def nbgrader_answer(question: Question) -> str:
    """Return a gap with the answer between the marks of nbgrader."""
    gap, room = stub(question).replace(MARK, "", 1), "    " if question.takes else ""
    name = "return" if question.takes else f"{question.variable} ="
    lines = ["### BEGIN SOLUTION", "from exercises import find", f"{name} {answer_code(question)}", "### END SOLUTION"]
    before, after = gap.rsplit("\n", 1) if question.takes else (gap.strip(), "")
    return "\n".join([before.rstrip(), *(room + line for line in lines), after]).rstrip()


def graded(name: str, *, solution: bool = False, points: int = 0) -> dict[str, object]:
    """Return the metadata of nbgrader."""
    common = {"grade_id": name, "schema_version": 3, "task": False, "solution": solution}
    return {**common, "grade": points > 0, "locked": not solution, **({"points": points} if points else {})}


def otter(title: str, setup: str, tasks: Iterable[Task]) -> NotebookNode:
    """Return the exercises in the format of otter-grader: the master notebook."""
    cells = [raw("# ASSIGNMENT CONFIG\nexport_cell: false\ncheck_all_cell: false"), *sheet_opening(title, setup)]
    for task in tasks:
        text = [markdown(each) for each in (task.text, task.hints) if each]
        asked, name = task.asked(), task.label.removeprefix("ex-").replace("-", "_")
        by_hand = task.kind != "Code" or not asked
        answer = solution([markdown(task.solution)])
        cells += between("QUESTION", f"text_{name}", [*text, *answer], 2, manual=True) if by_hand else text
        for question in asked:
            answer = code(stub(question, answer_code(question) + "  # SOLUTION"))
            answer.source = answer.source.replace(MARK, "from exercises import find  # SOLUTION", 1)
            parts = [markdown(ask(question)), *solution([answer]), *otter_test(question)]
            cells += between("QUESTION", question.variable, parts, 1)
    return nbformat.v4.new_notebook(cells=numbered(cells), metadata=KERNEL)


def raw(text: str) -> NotebookNode:
    """Return a raw cell."""
    return nbformat.v4.new_raw_cell(text)


def between(kind: str, name: str, cells: list[NotebookNode], points: int, manual: bool = False) -> list[NotebookNode]:
    """Return cells between the marks of a question."""
    settings = f"name: {name}\npoints: {points}" + ("\nmanual: true" if manual else "")
    return [raw(f"# BEGIN {kind}\n{settings}"), *cells, raw(f"# END {kind}")]


def solution(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Return cells between the marks of a solution."""
    return [raw("# BEGIN SOLUTION"), *cells, raw("# END SOLUTION")]


def otter_test(question: Question) -> list[NotebookNode]:
    """Return the test of a question."""
    cell = code(check_code(question))
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="Right.\n")]
    return [raw("# BEGIN TESTS"), cell, raw("# END TESTS")]


def numbered(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Return cells whose names are their places."""
    for place, cell in enumerate(cells):
        cell["id"] = f"cell-{place}"
    return cells


KERNEL = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


# Pages


def with_opening(writer: Writer, opening: list[NotebookNode]) -> list[NotebookNode]:
    """Return the cells of a chapter with some more below its title."""
    title, *rest = writer.cells
    return numbered([title, *opening, *rest])


def write(app: Sphinx, tree: nodes.document, name: str) -> None:
    """Write the four notebooks of a chapter."""
    writer = writer_for(app, name, Student)
    if writer is None:
        return
    for child in tree.children:
        writer.block(child)
    writer.flush()
    place, chapter = Path(app.outdir).parent / FOLDER, name.rsplit("/", 1)[-1]
    save(place / "student" / f"{chapter}.ipynb", notebook(writer, [*opening(), code(IMPORT)]))
    lecturer = writer_for(app, name, Lecturer)
    for child in tree.children:
        lecturer.block(child)
    lecturer.flush()
    page = markdown(plan(lecturer, tree, lecturer.tasks, chapter))
    save(place / "lecturer" / f"{chapter}.ipynb", notebook(lecturer, [page, *opening()]))
    if writer.tasks:
        title = writer.inline(tree[0][0])
        setup = next(cell.source for cell in writer.source.cells if cell.cell_type == "code")
        save(place / "nbgrader" / "source" / chapter / f"{chapter}.ipynb", nbgrader(title, setup, writer.tasks))
        save(place / "otter" / chapter / f"{chapter}.ipynb", otter(title, setup, writer.tasks))


def opening() -> list[NotebookNode]:
    """Return what the notebook of a pack says about its packages, which are beside it."""
    return [
        markdown(
            "*This notebook is part of a pack. Its packages are in the folder* `wheels` *beside it:* "
            "`pip install wheels/*.whl` *installs them, and what they need.*"
        )
    ]


def notebook(writer: Writer, opening: list[NotebookNode]) -> NotebookNode:
    """Return the notebook of a pack."""
    kept = {key: value for key, value in writer.source.metadata.items() if key in KERNEL}
    return nbformat.v4.new_notebook(cells=with_opening(writer, opening), metadata=kept)


def save(target: Path, found: NotebookNode) -> None:
    """Write a notebook."""
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(found, target)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the packs with Sphinx."""
    if (BOOK / "exercises").is_dir():  # a book without exercises has nothing to hand out
        sys.path.insert(0, str(BOOK))
        app.connect("doctree-resolved", write, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
