"""Rehearse what a lecturer hands out: every student notebook to its first gap, and both graders, as in a course.

    python tests/run_packs.py                       all of it
    python tests/run_packs.py notebooks NAME ...    some student notebooks
    python tests/run_packs.py nbgrader otter        the graders only

For the graders a new environment gets the packages of the site, nbgrader and otter-grader; if one of them cannot be
installed, a line says so and it is skipped. `GRADERS=/path/to/python` names an environment that has them. The packs
must have been made: `make packs`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import browsing
import nbformat
import run_alone
import test_packs

sys.path.insert(0, str(browsing.ROOT / "book"))

import exercises
import hand_out

GRADED = "divergence"  # the chapter that goes through the graders
TOOLS = {"nbgrader": "nbgrader==0.9.6", "otter": "otter-grader==7.0.0"}


def notebooks(names: list[str]) -> int:
    """Run student notebooks to their first gaps; return how many do not stop there."""
    failed = 0
    for name in names or list(exercises.CHAPTERS):
        start = time.monotonic()
        place, kind, _ = test_packs.run_to_gap(name)
        good = place == test_packs.first_gap(test_packs.notebook("student", name)) and kind == "Gap"
        failed += not good
        print(f"{name}: {'runs to its first gap' if good else f'stops at cell {place}, {kind}'}, ", end="")
        print(f"{time.monotonic() - start:.0f} s", flush=True)
    return failed


def environment(folder: Path, tool: str) -> Path | None:
    """Return the Python of an environment with a grader, or None if there is none."""
    named = os.environ.get("GRADERS")
    module = "nbgrader" if tool == "nbgrader" else "otter"
    if named:
        there = subprocess.run([named, "-c", f"import {module}"], capture_output=True).returncode == 0
        return Path(named) if there else None
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        run_alone.new_environment(folder)
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", TOOLS[tool]], capture_output=True)
    return python if done.returncode == 0 else None


def unpack(kind: str, folder: Path) -> Path:
    """Unpack an archive; return its folder."""
    with zipfile.ZipFile(hand_out.PACKS / f"{kind}.zip") as archive:
        archive.extractall(folder)
    return folder / kind


def run(python: Path, *words: str, folder: Path) -> str:
    """Run a tool of an environment in a folder; return what it prints."""
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        [python, "-m", *words], cwd=folder, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} fails:\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}")
    return done.stdout


def check_released(path: Path) -> None:
    """Check that what a grader hands out holds no solution."""
    found = nbformat.read(path, as_version=4)
    text = json.dumps(found)
    assert ".solution()" not in text
    assert ".right(" not in text
    leaked = test_packs.leaks(GRADED, found)
    assert not leaked, leaked


def hand_in(student: str, released: Path, target: Path) -> None:
    """Write a submission: as it was handed out, or with the right answers in its gaps."""
    found = nbformat.read(released, as_version=4)
    for cell in found.cells if student == "right" else []:
        for question in exercises.questions(GRADED):
            gap = f"def {question.variable}(" if question.takes else f"{question.variable} = ..."
            if cell.cell_type == "code" and gap in cell.source:
                answer = f'find("{question.name}").solution()'
                cell.source = f"from exercises import find\n{question.variable} = {answer}"
    target.parent.mkdir(parents=True)
    nbformat.write(found, target)


def nbgrader(folder: Path, python: Path) -> bool:
    """Make an assignment, hand in an empty and a right one, and have both graded by nbgrader."""
    course = unpack("nbgrader", folder)
    run(python, "nbgrader", "generate_assignment", GRADED, "--create", folder=course)
    released = course / "release" / GRADED / f"{GRADED}.ipynb"
    check_released(released)
    for student in ("empty", "right"):
        hand_in(student, released, course / "submitted" / student / GRADED / f"{GRADED}.ipynb")
    run(python, "nbgrader", "autograde", GRADED, "--create", folder=course)
    script = (
        "from nbgrader.api import Gradebook\n"
        "with Gradebook('sqlite:///gradebook.db') as book:\n"
        f"    for s in ('empty', 'right'): x = book.find_submission({GRADED!r}, s); print(s, x.code_score, "
        "x.max_code_score)\n"
    )
    printed = subprocess.run([python, "-c", script], cwd=course, capture_output=True, text=True, check=True).stdout
    scores = {line.split()[0]: [float(each) for each in line.split()[1:]] for line in printed.splitlines()}
    count = len(exercises.questions(GRADED))
    print(f"nbgrader: {scores['right'][0]:.0f} of {count} points for right answers, {scores['empty'][0]:.0f} for none")
    return scores == {"empty": [0.0, count], "right": [count, count]}


def otter(folder: Path, python: Path) -> bool:
    """Make an assignment, and have an empty and a right submission graded by otter-grader."""
    place = unpack("otter", folder) / GRADED
    run(python, "otter", "assign", f"{GRADED}.ipynb", "dist", folder=place)
    released = place / "dist" / "student" / f"{GRADED}.ipynb"
    check_released(released)
    (grader,) = (place / "dist" / "autograder").glob("*.zip")
    points = {}
    for student in ("empty", "right"):
        target = place / student / f"{GRADED}.ipynb"
        hand_in(student, released, target)
        run(python, "otter", "run", "-a", str(grader), "-o", str(target.parent), str(target), folder=place)
        results = json.loads((target.parent / "results.json").read_text(encoding="utf-8"))
        scores = [test["score"] for test in results["tests"] if test.get("max_score") == 1]
        points[student] = sum(scores)
    count = len(exercises.questions(GRADED))
    print(f"otter-grader: {points['right']:.0f} of {count} points for right answers, {points['empty']:.0f} for none")
    return points == {"empty": 0, "right": count}


def graders(names: list[str]) -> int:
    """Run some graders; return how many fail. One that is not there is skipped."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for tool, run_it in (("nbgrader", nbgrader), ("otter", otter)):
            if tool not in names:
                continue
            python = environment(Path(folder) / "environment", tool)
            if python is None:
                print(f"{TOOLS[tool].split('==')[0]} is not installed and cannot be: skipped")
                continue
            failed += not run_it(Path(folder), python)
    return failed


def main(words: list[str]) -> int:
    """Run what is named, or all."""
    if words and words[0] == "notebooks":
        return min(notebooks(words[1:]), 1)
    failed = graders(words or list(TOOLS))
    if not words:
        failed += notebooks([])
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
