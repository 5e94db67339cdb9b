"""Plant faults in the mathematics, one at a time, and see whether what guards it finds them.

Usage::

    python tests/mutate.py                        every function; `make mutate`
    python tests/mutate.py checks.divergence ...  the functions of some modules
    python tests/mutate.py --again                what is new or has changed since
    python tests/mutate.py --missed               where a fault was neither caught nor explained
    python tests/mutate.py --tolerances           no faults: only how wide the tolerances of the checks are
    python tests/mutate.py --minutes 5            stop after five minutes; --again, or --tolerances, goes on from there

The faults (see `faults`) are planted in `invlib`, and in the functions of `checks` that a check or control runs. The
guards of a function are those tests of the library and of formulas, and those checks and controls, each a test of
`test_checks.py`, that run it. A fault in a chapter's checks meets all the checks and controls of that chapter that run
the function; any other fault meets its guards one after the other, the tests of its own module and quick ones that run
little else first, until one catches it. A fault is caught if a guard fails or does not come to an end.

Each fault lives in a process of its own: a fork of one that has imported everything, in which the code of one function
is replaced. Of each function at most `--most` faults are planted, chosen at random, always the same ones. As many more
go into what a control of a chapter runs: they blind it, and a check that cannot see holds. Into a check that no control
runs, and into what only controls run, they go one after the other until one is caught.

The result, `book/state/mutation.json`, is shown by the page *State of the book*. A row holds the hash of the function
that was examined, so that a later change is known. The command fails if too few faults are caught.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import itertools
import json
import math
import os
import random
import select
import signal
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "book"), str(ROOT / "tests")]

import pytest  # noqa: E402
import torch  # noqa: E402
from execute import KERNEL_ENVIRONMENT  # noqa: E402
from faults import Fault, faults_of, functions  # noqa: E402
from mutation_table import LEAST_PERCENT, RESULTS, faults, score_of, source_hash, stored  # noqa: E402
from tolerances import measure, tolerances_of  # noqa: E402

TOLERANCES = RESULTS.with_name("tolerances.json")
RUNS = ROOT / "_build" / "mutation.json"  # which functions each test runs, kept for --again
SLACKS = ROOT / "_build" / "tolerances.json"  # what each check or control met, while --tolerances is not through
FOLDER_OF_CHECKS = ROOT / "book" / "checks"
FOLDERS = {str(ROOT / "invlib"): "invlib", str(FOLDER_OF_CHECKS): "checks"}

SHARED = ("checks.tools", "checks.minimizers")

SLOWEST = 4.0  # seconds: a test of the library that takes longer guards nothing here
BUDGET = {True: 15.0, False: 4.0}  # seconds of guards for a fault in a chapter's checks, and for any other
LONGER = 8  # times as long for another fault that was missed
MOST = 1
TRIES = 4  # faults in a check or control, and as many that blind it: until one is caught

Item = pytest.Item
Row = dict[str, Any]
REPORTS: list[pytest.TestReport] = []  # of the test that runs now


# Processes


def in_a_fork(work: Callable[[Callable[[object], object]], None], limit: Callable[[int], float]) -> Iterator[object]:
    """Run in a process of its own, and yield what it says; "late" if the n-th word takes longer than `limit(n)`."""
    inside, outside = os.pipe()
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        with contextlib.suppress(BaseException):
            work(lambda word: os.write(outside, f"{json.dumps(word)}\n".encode()))
        os._exit(0)
    os.close(outside)
    count, heard = 0, b""
    try:
        while True:
            if not select.select([inside], [], [], limit(count))[0]:
                yield "late"
                return
            piece = os.read(inside, 1 << 16)
            if not piece:
                return
            *lines, heard = (heard + piece).split(b"\n")
            count += len(lines)
            yield from map(json.loads, lines)
    finally:
        os.close(inside)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def outcome_of(item: Item, next_item: Item | None) -> str:
    """Run a test; return "passed", "failed" or "skipped"."""
    REPORTS.clear()
    item.ihook.pytest_runtest_protocol(item=item, nextitem=next_item)
    if any(report.failed for report in REPORTS):
        return "failed"
    return "skipped" if any(report.skipped for report in REPORTS) else "passed"


# What a test runs


def functions_run(call: Callable[[], object]) -> set[str]:
    """Return the functions of the project that run during a call, as `module:name`."""
    seen: set[tuple[str, str]] = set()

    def watch(frame: types.FrameType, event: str, _: object) -> None:
        if event == "call":
            seen.add((frame.f_code.co_filename, frame.f_code.co_qualname))

    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)
    found = set()
    for file, name in seen:
        folder, _, module = file.rpartition("/")
        if folder in FOLDERS:
            found.add(f"{FOLDERS[folder]}.{module.removesuffix('.py')}:{name.split('.<locals>')[0]}")
    return found


def source_of(test: str) -> str:
    """Return a hash of the file of a test; of a check or control, of its chapter's module."""
    file, _, name = test.partition("::")
    chapter = name.partition("[")[2].partition(".")[0]
    path = FOLDER_OF_CHECKS / f"{chapter}.py" if "test_it_holds[" in test else ROOT / file
    return file_hash(path)


@functools.cache
def file_hash(path: Path) -> str:
    """Return a hash of a file; nothing if there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.exists() else ""


def watched(item: Item) -> Row:
    """Run a test in a fork; return its outcome, its seconds, and the functions that it runs."""

    def work(say: Callable[[object], object]) -> None:
        start, outcome = time.perf_counter(), []
        names = functions_run(lambda: outcome.append(outcome_of(item, None)))
        say([outcome[0], round(time.perf_counter() - start, 2), sorted(names)])

    limit = 150.0 if guards_chapters(item.nodeid) else SLOWEST
    answers = list(in_a_fork(work, lambda _: limit))
    outcome, seconds, names = answers[0] if answers and answers[0] != "late" else ("late", limit, [])
    return {"source": source_of(item.nodeid), "outcome": outcome, "seconds": seconds, "functions": names}


def does_not_pass(test: str, run: Row) -> bool:
    """Whether a test fails, or a check does not come to an end; a test of the library may only take too long."""
    return run["outcome"] == "failed" or (run["outcome"] == "late" and guards_chapters(test))


def watch_all(items: list[Item], known: dict[str, Row], until: float) -> dict[str, Row]:
    """Return what each test runs, as far as the time allows; what was known of it is taken if its file is the same."""
    runs = {name: run for name, run in known.items() if run.get("source") == source_of(name)}
    for item in items:
        if item.nodeid not in runs and time.monotonic() < until:
            runs[item.nodeid] = watched(item)
    RUNS.parent.mkdir(parents=True, exist_ok=True)
    RUNS.write_text(json.dumps(runs), encoding="utf-8")
    return runs


# What guards a function


def short_name(test: str) -> str:
    """The name of a check or control; of another test, its file and name."""
    file, _, name = test.partition("::")
    if file.endswith("test_checks.py"):
        return name.rstrip("]").partition(".")[2]
    return f"{Path(file).name}::{name}"


def is_chapter(function: str) -> bool:
    """Whether a function belongs to the checks of a chapter."""
    module = function.partition(":")[0]
    return module.startswith("checks.") and module not in SHARED


def guards_chapters(test: str) -> bool:
    """Whether a test is a check or control, or one of formulas."""
    return "test_it_holds[" in test or "test_formulas.py" in test


def guards_of(function: str, runs: dict[str, Row], longer: float = 1.0) -> list[str]:
    """Return the tests that guard a function, in the order in which they are to run, as far as there is time."""
    own = function.partition(":")[0].partition(".")[2]
    found = [name for name, run in runs.items() if function in run["functions"] and run["outcome"] == "passed"]
    if is_chapter(function):
        found = [name for name in found if f"test_it_holds[{own}." in name or "test_formulas.py" in name]
    else:
        found = [name for name in found if runs[name]["seconds"] < SLOWEST]
    cost = {name: (runs[name]["seconds"] + 0.01) * len(runs[name]["functions"]) for name in found}
    of_module = f"tests/test_invlib_{own}.py"
    order = sorted(found, key=lambda name: (".control_" in name, not name.startswith(of_module), cost[name]))
    most = BUDGET[True] if is_chapter(function) else longer * BUDGET[False]
    until = itertools.accumulate(runs[name]["seconds"] for name in order)
    return [name for number, (name, end) in enumerate(zip(order, until, strict=True)) if end < most or not number]


def verdicts(fault: Fault, guards: list[Item], seconds: list[float], every: bool) -> list[str]:
    """Return the names of the guards that catch a fault: every one, or the first that does."""
    caught: list[str] = []
    while guards:

        def work(say: Callable[[object], object], guards: list[Item] = guards) -> None:
            fault.plant()
            say("planted")
            for item, next_item in zip(guards, [*guards[1:], None], strict=True):
                outcome = outcome_of(item, next_item)
                say(outcome)
                if outcome == "failed" and not every:
                    return

        limits = [60.0, *(10 + 10 * each for each in seconds)]
        planted, *words = in_a_fork(work, lambda n, limits=limits: limits[min(n, len(limits) - 1)])
        if planted != "planted":
            raise RuntimeError(f"cannot plant {fault}")
        if len(words) < len(guards) and words[-1:] in ([], ["passed"]):
            words.append("died")
        caught += [short_name(item.nodeid) for item, word in zip(guards, words, strict=False) if word != "passed"]
        if caught and not every:
            break
        guards, seconds = guards[len(words) :], seconds[len(words) :]
    return caught


# Tolerances


def measure_tolerances(runs: dict[str, Row], items: dict[str, Item], until: float) -> None:
    """Store the least slack of each tolerance that the checks and controls meet."""
    known = set(functions())
    met = json.loads(SLACKS.read_text(encoding="utf-8")) if SLACKS.exists() else {}
    for name in (name for name in items if "test_it_holds[" in name and name not in met):
        if time.monotonic() > until:
            SLACKS.write_text(json.dumps(met), encoding="utf-8")
            print("out of time; --tolerances goes on")
            return
        run = [function for function in runs[name]["functions"] if function in known and tolerances_of(function)]

        def work(say: Callable[[object], object], run: list[str] = run, item: Item = items[name]) -> None:
            say(measure(run, lambda: outcome_of(item, None)))

        met[name] = list(in_a_fork(work, lambda _: 150.0)) if run else []
    SLACKS.unlink(missing_ok=True)
    store_tolerances(list(met.values()))


def store_tolerances(words: list[list[Any]]) -> None:
    """Store the least slack of each tolerance of all that was said."""
    least: dict[tuple[str, str], float] = {}
    for function, line, slack in (row for word in words for found in word if found != "late" for row in found):
        least[function, line] = min(least.get((function, line), slack), slack)
    rows = [[*key, None if least[key] == math.inf else float(f"{least[key]:.3g}")] for key in sorted(least)]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    TOLERANCES.write_text(f'{{"tolerances": [\n{lines}\n]}}\n', encoding="utf-8", newline="\n")


# All of it


def is_tried(function: str, guards: list[str]) -> bool:
    """Whether faults go into a function until one is caught: what only controls run, and a check that none runs."""
    controls = [guard for guard in guards if ".control_" in guard]
    only_controls = is_chapter(function) and bool(controls) and len(controls) == len(guards)
    return only_controls or (":check_" in function and not controls)


def chosen_faults(function: str, most: int, guards: list[str]) -> list[Fault]:
    """Return at most so many faults of a function: always the same ones, and more of them for a larger number.

    As many more make it blind, if a control of a chapter guards it. Of a function that is tried they are those that
    are planted until one is caught.
    """
    has_control = is_chapter(function) and any(".control_" in guard for guard in guards)
    tried = is_tried(function, guards)
    most = max(most, TRIES) if tried else most
    chosen = []
    for blindness in (False, True)[: 1 + has_control]:
        faults = list(faults_of(function, blindness))
        random.Random(function).shuffle(faults)
        chosen.append(faults[:most])
    order = itertools.chain.from_iterable(itertools.zip_longest(*chosen) if tried else chosen)
    return [fault for fault in order if fault]


class Mutation:
    """A plugin of pytest that plants faults instead of running the tests it has collected."""

    def __init__(self, modules: list[str], which: str, minutes: float, most: int) -> None:
        self.modules, self.which, self.most = modules, which, most
        self.until = time.monotonic() + 60 * minutes

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Examine the functions, save and print what comes out."""
        with warnings.catch_warnings(action="ignore"):  # torch warns once, when it first goes forward
            torch.func.jvp(torch.exp, (torch.zeros(1),), (torch.ones(1),))
        runs = json.loads(RUNS.read_text(encoding="utf-8")) if self.which != "all" and RUNS.exists() else {}
        items = {item.nodeid: item for item in session.items}
        for tests in ([item for item in session.items if guards_chapters(item.nodeid)], session.items):
            runs = watch_all(tests, runs, self.until)
            if any(item.nodeid not in runs for item in tests):
                print("out of time to watch what each test runs; --again goes on")
                break
            here = {name: run for name, run in runs.items() if name in items}
            self.examine_part(here, items, whole=tests is session.items)
            if self.which == "tolerances":
                break
        for name in (name for name, run in runs.items() if does_not_pass(name, run)):
            print(f"fails in a process of its own, and guards nothing here: {name}")
        return True

    def examine_part(self, runs: dict[str, Row], items: dict[str, Item], whole: bool) -> None:
        """Examine the functions of the chapters; when it is known what all tests run, the others."""
        if not whole and self.which in ("all", "tolerances") and not self.modules:
            measure_tolerances(runs, items, self.until)
        plans, examined, possible = self.plans(runs), stored(), None
        if whole:
            examined, possible = {name: entry for name, entry in examined.items() if name in plans}, len(plans)
        wanted = [name for name in self.wanted(plans, examined) if is_chapter(name) != whole]
        for blindness, function in itertools.product((False, True), wanted):
            if time.monotonic() > self.until:
                print("out of time; --again goes on")
                break
            chosen = chosen_faults(function, self.most, plans[function])
            tried = is_tried(function, plans[function])
            if blindness and (tried or not any(fault.blinds for fault in chosen)):
                continue
            known = examined.get(function) if blindness or self.which in ("again", "missed") else None
            entry = self.examine(chosen, blindness, plans[function], runs, items, known)
            examined[function] = entry
            missed = [row["change"] for row in entry["faults"] if not row["caught"]]
            caught = f"{len(entry['faults']) - len(missed)} of {len(entry['faults'])}"
            print(f"{function}: {caught}", *missed, sep="\n    ", flush=True)
            save(examined, possible)
        save(examined, possible)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take notice of what a test says, in a fork."""
        REPORTS.append(report)

    def plans(self, runs: dict[str, Row]) -> dict[str, list[str]]:
        """Return the guards of each function that can have a fault; what only controls run comes last."""
        longer = LONGER if self.which == "missed" else 1
        found = {name: guards_of(name, runs, longer) for name in functions()}
        found = {name: guards for name, guards in found.items() if chosen_faults(name, 1, guards)}
        idle = {name for name, guards in found.items() if is_chapter(name) and not guards}
        last = {name for name, guards in found.items() if guards and all(".control_" in guard for guard in guards)}
        return {name: found[name] for name in sorted(found.keys() - idle, key=lambda name: (name in last, name))}

    def wanted(self, plans: dict[str, list[str]], examined: dict[str, Row]) -> list[str]:
        """Return the functions to examine: checks and controls first, then what never was."""
        names = [name for name in plans if not self.modules or name.partition(":")[0] in self.modules]
        fresh = {name for name in names if is_current(name, examined.get(name), self.most, plans[name])}
        missed = set(names) & {f.function for f in faults() if not (f.caught or f.because or f.is_of_control)}
        wanted = {"all": set(names), "again": set(names) - fresh, "missed": missed, "tolerances": set()}[self.which]
        helps = {name for name in names if not name.partition(":")[2].startswith(("check_", "control_"))}
        return sorted((name for name in names if name in wanted), key=lambda name: (name in helps, name in examined))

    def examine(
        self,
        chosen: list[Fault],
        blindness: bool,
        guards: list[str],
        runs: dict[str, Row],
        items: dict[str, Item],
        known: Row | None,
    ) -> Row:
        """Plant the faults of a function of which it is not known what became of them; blindness only on demand."""
        function = chosen[0].function
        every, tried = is_chapter(function), is_tried(function, guards)
        seconds = [runs[name]["seconds"] for name in guards]
        stay = {row["change"]: row for row in known["faults"]} if known and has_met(function, known, guards) else {}
        rows = []
        for fault in chosen:
            row = stay.get(fault.change)
            if tried and any(each["caught"] for each in rows):
                break
            if row is None and fault.blinds > blindness and not tried:
                continue
            if row is None or (self.which == "missed" and not row["caught"] and fault.blinds == blindness):
                caught = verdicts(fault, [items[name] for name in guards], seconds, every)
                row = {"kind": fault.kind, "line": fault.line, "change": fault.change, "caught": caught}
            rows.append(row)
        shown = [short_name(name) for name in guards] if every else len(guards)
        return {"source": source_hash(function), "guards": shown, "faults": rows}


def has_met(function: str, entry: Row, guards: list[str]) -> bool:
    """Whether a function is what it was when it was examined, and in a chapter has the guards that it had."""
    same = not is_chapter(function) or set(entry["guards"]) == {short_name(name) for name in guards}
    return same and bool(entry["source"] == source_hash(function))


def is_current(function: str, entry: Row | None, most: int, guards: list[str]) -> bool:
    """Whether a function is what it was when it was examined, and would get the same faults."""
    if entry is None or not has_met(function, entry, guards):
        return False
    rows, chosen = entry["faults"], chosen_faults(function, most, guards)
    enough = len(rows) == len(chosen) or (is_tried(function, guards) and any(row["caught"] for row in rows))
    return bool(enough) and all(row["change"] == fault.change for row, fault in zip(rows, chosen, strict=False))


def save(examined: dict[str, Row], possible: int | None) -> None:
    """Store the results, a function a line, and the number of functions that a whole run examines, if it is known."""
    if possible is None:
        counted = json.loads(RESULTS.read_text(encoding="utf-8"))["possible"] if RESULTS.exists() else 0
        possible = max(counted, len(examined))  # new functions, since all were counted
    lines = [f"{json.dumps(name)}: {json.dumps(examined[name], ensure_ascii=False)}" for name in sorted(examined)]
    body = ",\n".join(lines)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    text = f'{{"possible": {possible}, "functions": {{\n{body}\n}}}}\n'
    RESULTS.write_text(text, encoding="utf-8", newline="\n")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as checks.divergence; default: all")
    for which, text in (
        ("again", "only what is new or changed"),
        ("missed", "only where a fault was neither caught nor explained"),
        ("tolerances", "no faults, only tolerances"),
    ):
        parser.add_argument(f"--{which}", dest="which", action="store_const", const=which, default="all", help=text)
    parser.add_argument("--minutes", type=float, default=600.0, help="stop after this time")
    parser.add_argument("--most", type=int, default=MOST, help=f"faults for each function ({MOST})")
    options = parser.parse_args()
    os.environ.update(KERNEL_ENVIRONMENT)
    plugin = Mutation(options.modules, options.which, options.minutes, options.most)
    names = ["test_checks.py", "test_formulas.py"]
    if not options.modules or not all(is_chapter(name) for name in options.modules):
        names.append("test_invlib_*.py")
    files = [str(path) for name in names for path in sorted((ROOT / "tests").glob(name))]
    settings = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:randomly", f"--rootdir={ROOT}"]
    code = pytest.main([*settings, *files], plugins=[plugin])
    score = score_of(faults())
    print(f"{score.caught} of {score.planted - score.explained} faults caught, {score.percent:.1f} per cent")
    return 0 if code in (0, 5) and score.percent >= LEAST_PERCENT else 1


if __name__ == "__main__":
    sys.exit(main())
