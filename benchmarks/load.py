"""Measure how much longer a command takes while two busy loops run beside it.

Usage::

    python benchmarks/load.py                 the example on the book's first page
    python benchmarks/load.py noise-levels    a chapter, in the environment of `book/execute.py`
    python benchmarks/load.py --rounds 5      more rounds; the median of each kind counts

The rounds alternate between an idle and a loaded machine. Nothing is stored.
"""

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book"))

import execute

ROOT = execute.BOOK.parent
BUSY_LOOP = """\
import os

parent = os.getppid()
while os.getppid() == parent:  # ends with whoever started it
    for _ in range(10**6):
        pass
"""


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Keep `count` processes busy during the body."""
    loops = [subprocess.Popen([sys.executable, "-c", BUSY_LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def reader_environment() -> dict[str, str]:
    """Return the environment of a reader: this one's, without any word about threads and memory."""
    environment = {name: value for name, value in os.environ.items() if name not in execute.KERNEL_ENVIRONMENT}
    return {**environment, "PYTHONPATH": str(ROOT)}


def run_first_page() -> None:
    """Run the example on the book's first page in a process of its own."""
    text = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)

    command = [sys.executable, "-c", code]
    subprocess.run(command, env=reader_environment(), check=True, capture_output=True)


def run_chapter(chapter: Path) -> None:
    """Run all cells of a chapter, and forget their outputs."""
    notebook = execute.read_text(chapter)
    asyncio.run(execute.run(notebook, chapter.parent, record=False))


def seconds(task: Callable[[], None]) -> float:
    """Return the wall-clock time of a task."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def measure(task: Callable[[], None], rounds: int, loops: int) -> tuple[float, float]:
    """Return the median seconds of a task alone and beside busy loops, in alternating rounds."""
    idle, loaded = [], []
    for _ in range(rounds):
        idle.append(seconds(task))
        with busy_loops(loops):
            loaded.append(seconds(task))
    return statistics.median(idle), statistics.median(loaded)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="chapters; default: the example on the first page")
    parser.add_argument("--rounds", type=int, default=3, help="of each kind (default: 3)")
    parser.add_argument("--loops", type=int, default=2, help="busy loops (default: 2)")
    options = parser.parse_args()

    os.environ["PYTHONPATH"] = str(ROOT)  # the library beside this folder, installed or not
    tasks: dict[str, Callable[[], None]] = {"first page": run_first_page}
    if options.names:
        chapters = execute.select(options.names)
        tasks = {chapter.stem: lambda chapter=chapter: run_chapter(chapter) for chapter in chapters}

    print(f"load of the machine at the start: {os.getloadavg()[0]:.1f}")
    for name, task in tasks.items():
        idle, loaded = measure(task, options.rounds, options.loops)
        print(f"{name}: {idle:.1f} s idle, {loaded:.1f} s loaded, ratio {loaded / idle:.2f}", flush=True)


if __name__ == "__main__":
    main()
