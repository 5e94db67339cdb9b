"""Keep the notebooks of the book current.

Each chapter is a pair: ``NAME.md`` is the text that people edit, ``NAME.ipynb`` holds the same
cells with their outputs. This script writes the second from the first::

    python book/execute.py              run what is out of date, copy the text of the rest
    python book/execute.py --all        run every chapter
    python book/execute.py --check      change nothing; list what is wrong, and fail if anything is
    python book/execute.py --jobs N     run N chapters side by side (by default two, if there are two cores)
    python book/execute.py --reseed N   run with all seeds shifted by N, and store nothing: do the assertions hold?
    python book/execute.py --format     run nothing; format the code cells of the .md files
    python book/execute.py --lint       change nothing; list what is wrong with the style of the code cells
    python book/execute.py NAME ...     the same for some chapters only

A chapter is out of date when a code cell, the code of ``invlib``, or a module of ``checks`` that the chapter imports,
itself or by way of another one, has changed since it was last run. A hash of these, stored in the notebook's metadata,
decides this. So an edit of the prose, or of a docstring, never runs a training again. How long a chapter took, and on
which machine, stands in ``state/chapters.json``.

Each chapter runs on one thread: its matrices are small, and threads that wait for each other lose much on
a busy machine. A chapter that fails keeps its stored notebook, and the others still run.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import base64
import datetime
import hashlib
import json
import os
import platform
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from importlib.metadata import version
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

BOOK = Path(__file__).resolve().parent
LIBRARY = BOOK.parent / "invlib"
CHECKS = BOOK / "checks"

FORMATS = "ipynb,md:myst"
TEXT_FORMAT = "md:myst"
HASH_KEYS = ("book", "code_sha256")  # where the hash sits in the metadata of the .ipynb
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
KERNEL_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",  # the same order of sets in every run
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # A step of a training frees all that it allocates. Without these two, the C library of Linux would return large
    # pieces to the system, which has to clear the same pages again for the next step.
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
}
RECORD = {"BOOK_RECORD": "1"}  # store the arrays behind the figures, see figures.py; only here, not in tests
SHIFT_SEEDS = """\
import numpy as np
import torch


class ShiftedGenerator(torch.Generator):
    def manual_seed(self, seed):
        return super().manual_seed(seed + {shift})


class ShiftedSobolEngine(torch.quasirandom.SobolEngine):
    def __init__(self, dimension, scramble=False, seed=None):
        super().__init__(dimension, scramble, None if seed is None else seed + {shift})


def shifted_rng(seed=None, plain=np.random.default_rng):
    return plain(seed + {shift} if isinstance(seed, int) else seed)


torch.Generator = ShiftedGenerator
torch.quasirandom.SobolEngine = ShiftedSobolEngine
np.random.default_rng = shifted_rng
"""
"""Run before everything else where seeds are shifted. Every random number of the book has one of these sources."""

TIMEOUT_SECONDS = 1800
MOST_JOBS = 2  # by default
LARGEST_IMAGE_BYTES = 80_000
WIDGET = "application/vnd.jupyter.widget-view+json"  # a progress bar: it lives in a kernel, not on a page
ADDRESS_IN_MEMORY = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")

Task = Callable[[Path], Coroutine[None, None, str]]


def is_chapter(text_file: Path) -> bool:
    """Tell whether a Markdown file is one half of a pair (and not a plain page)."""
    head = text_file.read_text(encoding="utf-8").split("\n---", 1)[0]
    return head.startswith("---") and f"formats: {FORMATS}" in head


def find_chapters(book: Path = BOOK) -> list[Path]:
    """Return the ``.md`` files of all pairs, in alphabetical order."""
    return [path for path in sorted(book.glob("*.md")) if is_chapter(path)]


def stored_notebook(chapter: Path) -> Path:
    """Return the ``.ipynb`` beside a chapter's ``.md``."""
    return chapter.with_suffix(".ipynb")


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the code cells of a notebook."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def code_hash(notebook: NotebookNode, chapter: Path, library: Path = LIBRARY) -> str:
    """Return the SHA-256 of all code that a notebook runs: its own, its checks' and the library's."""
    digest, sources = hashlib.sha256(), [cell.source for cell in code_cells(notebook)]
    for source in sources:
        digest.update(source.encode() + b"\0")
    for root, paths in ((library, library.rglob("*.py")), (chapter.parent, checks_of(sources, chapter.parent))):
        for path in sorted(paths, key=lambda path: path.relative_to(root).as_posix()):
            code = code_lines(path.read_text(encoding="utf-8"))
            digest.update(f"{path.relative_to(root).as_posix()}\0{code}\0".encode())
    for path in sorted(library.glob("*.mplstyle")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def checks_of(sources: list[str], book: Path) -> set[Path]:
    """Return the modules of checks that code imports, and those that these import in turn."""
    found: set[Path] = set()
    waiting = list(sources)
    while waiting:
        new = {book / CHECKS.name / f"{name}.py" for name in imported_checks(waiting.pop())} - found
        new = {path for path in new if path.exists()}
        found |= new
        waiting += [path.read_text(encoding="utf-8") for path in new]
    return found


def imported_checks(source: str) -> set[str]:
    """Return the names that code imports from the package of checks: modules, as a rule."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == CHECKS.name:
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{CHECKS.name}."):
            names.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            names.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith(f"{CHECKS.name}."))
    return names


def code_lines(source: str) -> str:
    """Return the lines of a Python file without docstrings and empty lines; chapters may show the comments."""
    text: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            text.update(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(source.splitlines(), start=1)
    return "\n".join(line for number, line in lines if number not in text and line.strip())


def stored_hash(notebook: NotebookNode) -> str | None:
    """Return the hash that was stored when the notebook was last run."""
    section, key = HASH_KEYS
    return notebook.metadata.get(section, {}).get(key)


def read_text(chapter: Path) -> NotebookNode:
    """Read the ``.md`` of a chapter and give every cell an id that depends on its content alone."""
    notebook = jupytext.read(chapter, fmt=TEXT_FORMAT)
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        name = hashlib.sha256(f"{cell.cell_type}\0{cell.source}".encode()).hexdigest()[:12]
        seen[name] = seen.get(name, 0) + 1
        cell["id"] = name if seen[name] == 1 else f"{name}-{seen[name]}"
    notebook.metadata["kernelspec"] = dict(KERNEL)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def read_stored(chapter: Path) -> NotebookNode | None:
    """Read the ``.ipynb`` of a chapter, if there is one."""
    path = stored_notebook(chapter)
    return nbformat.read(path, as_version=4) if path.exists() else None


def as_text(notebook: NotebookNode) -> str:
    """Write a notebook in the form of the ``.md`` file, to compare the halves of a pair."""
    return jupytext.writes(notebook, fmt=TEXT_FORMAT)


def is_current(notebook: NotebookNode, stored: NotebookNode | None, chapter: Path, library: Path) -> bool:
    """Tell whether the stored outputs belong to today's code."""
    return stored is not None and stored_hash(stored) == code_hash(notebook, chapter, library)


def copy_outputs(stored: NotebookNode, notebook: NotebookNode) -> None:
    """Copy outputs and execution counts between notebooks with the same code cells."""
    for old, new in zip(code_cells(stored), code_cells(notebook), strict=True):
        new.outputs, new.execution_count = old.outputs, old.execution_count
    if "language_info" in stored.metadata:
        notebook.metadata["language_info"] = stored.metadata["language_info"]


async def run(notebook: NotebookNode, folder: Path, record: bool = True) -> None:
    """Execute all cells in a fresh kernel that starts in the given folder."""
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_SECONDS,
        kernel_name=KERNEL["name"],
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
    )
    environment = {**os.environ, **KERNEL_ENVIRONMENT, **(RECORD if record else {})}
    await client.async_execute(env=environment)
    notebook.metadata["kernelspec"] = dict(KERNEL)
    notebook.metadata.get("language_info", {}).pop("version", None)  # differs between machines


def drop_widgets(notebook: NotebookNode) -> None:
    """Remove progress bars from the outputs."""
    for cell in code_cells(notebook):
        cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    notebook.metadata.pop("widgets", None)


def write_stored(notebook: NotebookNode, chapter: Path, library: Path) -> bool:
    """Write the ``.ipynb`` of a chapter; return whether the file changed."""
    section, key = HASH_KEYS
    notebook.metadata[section] = {key: code_hash(notebook, chapter, library)}
    drop_widgets(notebook)
    nbformat.validate(notebook)
    path, content = stored_notebook(chapter), nbformat.writes(notebook) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == content:
        return False
    path.write_text(content, encoding="utf-8", newline="\n")
    return True


async def update(chapter: Path, force: bool = False, library: Path = LIBRARY) -> str:
    """Bring the ``.ipynb`` of a chapter up to date and say in one line what was done."""
    notebook, stored = read_text(chapter), read_stored(chapter)
    if not force and stored is not None and is_current(notebook, stored, chapter, library):
        copy_outputs(stored, notebook)
        changed = write_stored(notebook, chapter, library)
        return "text copied, outputs kept" if changed else "current"
    start = time.perf_counter()
    await run(notebook, chapter.parent)
    write_stored(notebook, chapter, library)
    seconds = time.perf_counter() - start
    note_seconds(chapter, seconds)
    return f"run in {seconds:.0f} s"


def machine() -> dict[str, object]:
    """Return today's date, the machine and the versions of Python and torch."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def note_seconds(chapter: Path, seconds: float) -> None:
    """Store how long a chapter took, one line for each; no hash depends on it."""
    path = chapter.parent / "state" / "chapters.json"
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    entries[chapter.stem] = {"seconds": round(seconds), **machine()}
    lines = [f"{json.dumps(name)}: {json.dumps(entries[name])}" for name in sorted(entries)]
    path.parent.mkdir(exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8", newline="\n")


def shift_seeds(notebook: NotebookNode, shift: int) -> None:
    """Put a cell first that shifts every seed."""
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SHIFT_SEEDS.format(shift=shift)))


async def reseed(chapter: Path, shift: int) -> str:
    """Run a chapter with all seeds shifted, store nothing, and say in one line what was done."""
    start = time.perf_counter()
    notebook = read_text(chapter)
    shift_seeds(notebook, shift)
    await run(notebook, chapter.parent, record=False)
    return f"holds with the seeds shifted by {shift}, {time.perf_counter() - start:.0f} s"


def output_problems(cell: NotebookNode) -> Iterator[str]:
    """Yield what is wrong with the stored outputs of one cell."""
    for output in cell.outputs:
        if output.output_type == "error" and "raises-exception" not in cell.metadata.get("tags", []):
            yield f"stored error {output.ename}"
        if output.output_type == "stream" and output.name == "stderr":
            yield f"stored stderr: {output.text.strip()[:80]!r}"
        data = output.get("data", {})
        if WIDGET in data:
            yield "stored widget, which loads code from elsewhere and shows nothing on a page"
        for kind, content in data.items():
            if kind.startswith("image/"):
                size = len(content if kind == "image/svg+xml" else base64.b64decode(content))
                if size > LARGEST_IMAGE_BYTES:
                    yield f"{kind} of {size} bytes, more than {LARGEST_IMAGE_BYTES}"
        if ADDRESS_IN_MEMORY.search(str(data.get("text/plain", "")) + str(output.get("text", ""))):
            yield "output shows an address in memory, which differs in each run"


def check(chapter: Path, library: Path = LIBRARY) -> list[str]:
    """Return what is wrong with a chapter; an empty list means that all is well."""
    notebook, stored = read_text(chapter), read_stored(chapter)
    if stored is None:
        return ["the .ipynb is missing"]
    problems = []
    if as_text(notebook) != as_text(stored):
        problems.append("the .md and the .ipynb are not in sync")
    if stored_hash(stored) != code_hash(stored, chapter, library):
        problems.append("out of date: the code or invlib changed since the last run")
    counts = [cell.execution_count for cell in code_cells(stored)]
    if counts != list(range(1, len(counts) + 1)):
        problems.append(f"execution counts are {counts}, not 1 to {len(counts)}")
    for number, cell in enumerate(code_cells(stored), start=1):
        problems += [f"code cell {number}: {problem}" for problem in output_problems(cell)]
    return problems


def select(names: list[str], book: Path = BOOK) -> list[Path]:
    """Return the chapters with the given names (with or without suffix), or all of them."""
    chapters = {path.stem: path for path in find_chapters(book)}
    if not names:
        return list(chapters.values())
    stems = [Path(name).stem for name in names]
    unknown = sorted(set(stems) - set(chapters))
    if unknown:
        known = ", ".join(chapters) or "none"
        raise SystemExit(f"no such chapter: {', '.join(unknown)} (known: {known})")
    return [chapters[stem] for stem in stems]


def check_all(chapters: list[Path]) -> int:
    """Print the problems of the chapters; return how many have one."""
    bad = 0
    for chapter in chapters:
        problems = check(chapter)
        bad += bool(problems)
        for problem in problems:
            print(f"{chapter.stem}: {problem}")
    print(f"{len(chapters) - bad} of {len(chapters)} chapters in order")
    return bad


def format_all(chapters: list[Path]) -> int:
    """Format the code cells of the chapters; return how many could not be formatted."""
    import style  # needs ruff, which running a chapter does not

    bad = 0
    for chapter in chapters:
        try:
            print(f"{chapter.stem}: {style.format_chapter(chapter)}")
        except style.StyleError as error:
            print(error, file=sys.stderr)
            bad += 1
    return bad


def lint_all(chapters: list[Path]) -> int:
    """Print what is wrong with the style of the code cells; return how many chapters have a fault."""
    import style

    found = {chapter: style.problems(chapter) for chapter in chapters}
    for chapter, problems in found.items():
        for problem in problems:
            print(f"{chapter.stem}: {problem}")
    bad = sum(map(bool, found.values()))
    print(f"{len(chapters) - bad} of {len(chapters)} chapters in style")
    return bad


def longest_first(chapters: list[Path]) -> list[Path]:
    """Sort chapters by the seconds of training behind their figures, as the manifest of the figures has them.

    A long chapter that starts last would run alone at the end. Chapters that train little keep their order.
    """
    seconds: Counter[str] = Counter()
    manifest = BOOK / "figures" / "manifest.json"
    if manifest.exists():
        for entry in json.loads(manifest.read_text(encoding="utf-8")).values():
            seconds[entry["chapter"]] += entry["seconds"]
    return sorted(chapters, key=lambda chapter: -seconds[chapter.stem])


async def attempt(chapter: Path, task: Task, free: asyncio.Semaphore) -> bool:
    """Do a task for a chapter as soon as there is room, print what was done, and return whether all went well."""
    async with free:
        try:
            done = await task(chapter)
        except Exception as error:  # whatever it is, the other chapters still run
            print(f"{chapter.stem}: failed; the stored notebook is left as it was", flush=True)
            print(f"{chapter.stem}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            return False
        print(f"{chapter.stem}: {done}", flush=True)
        return True


async def for_all(chapters: list[Path], task: Task, jobs: int) -> int:
    """Do a task for the chapters, some side by side; return how many failed."""
    free = asyncio.Semaphore(jobs)
    start = time.perf_counter()
    results = await asyncio.gather(*(attempt(chapter, task, free) for chapter in longest_first(chapters)))

    failed = results.count(False)
    print(f"{len(chapters) - failed} of {len(chapters)} chapters in {time.perf_counter() - start:.0f} s")
    return failed


def stoppable(work: Coroutine[None, None, int]) -> int:
    """Run a coroutine so that Ctrl-C ends all of it.

    In the main thread, each notebook would catch Ctrl-C for itself, and only the last one would stop. So the work is
    done in another thread, and is cancelled from here: then all kernels are shut down.
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)
    with closing(loop), ThreadPoolExecutor(1) as thread:
        result = thread.submit(loop.run_until_complete, task)
        try:
            return result.result()
        except KeyboardInterrupt:
            loop.call_soon_threadsafe(task.cancel)
            raise SystemExit("stopped") from None


def job_count(text: str) -> int:
    """Read a number of jobs."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="chapters; default: all")
    parser.add_argument("--all", action="store_true", help="run also what is current")
    parser.add_argument("--check", action="store_true", help="change nothing, list what is wrong")
    jobs = min(MOST_JOBS, os.cpu_count() or 1)
    parser.add_argument("--jobs", type=job_count, default=jobs, metavar="N", help=f"chapters side by side ({jobs})")
    parser.add_argument("--reseed", type=int, metavar="N", help="run with all seeds shifted by N, store nothing")
    parser.add_argument("--format", action="store_true", help="run nothing, format the code cells of the .md files")
    parser.add_argument("--lint", action="store_true", help="change nothing, list faults of style in the code cells")
    options = parser.parse_args(arguments)

    chapters = select(options.names)
    for chosen, work in ((options.check, check_all), (options.format, format_all), (options.lint, lint_all)):
        if chosen:
            return 1 if work(chapters) else 0
    task: Task = partial(update, force=options.all)
    if options.reseed is not None:
        task = partial(reseed, shift=options.reseed)
    return 1 if stoppable(for_all(chapters, task, options.jobs)) else 0


if __name__ == "__main__":
    sys.exit(main())
