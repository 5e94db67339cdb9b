"""Read what ``tests/mutate.py`` found: faults planted in the mathematics, and which tests caught them.

Plain functions without Sphinx. The results stand in ``book/state/mutation.json``; beside them, ``explained.yml`` says
of faults that nothing catches why they are none. Its entries are

* ``function``: as ``module:name``;
* ``change``: what the fault does, as the results have it: ``RIGHT → WRONG``;
* ``because``: why what the function is for still holds.
"""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "book" / "state" / "mutation.json"
EXPLAINED = ROOT / "book" / "state" / "explained.yml"
LEAST_PERCENT = 95  # of the faults that nobody explained are to be caught


def source_file(module: str) -> Path:
    """Return the file of a module of ``invlib`` or ``checks``."""
    folder = ROOT if module.startswith("invlib") else ROOT / "book"
    return folder / f"{module.replace('.', '/')}.py"


@functools.cache
def definitions(module: str) -> dict[str, ast.FunctionDef]:
    """Return the functions and methods of a module by their qualified names, without decorators and docstrings."""

    def found(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
        for node in body:
            if isinstance(node, ast.ClassDef):
                yield from found(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                bare = copy.deepcopy(node)
                bare.decorator_list = []
                if ast.get_docstring(bare) is not None:
                    bare.body = bare.body[1:] or [ast.Pass()]
                yield prefix + node.name, bare

    file = source_file(module)
    return dict(found(ast.parse(file.read_text(encoding="utf-8")).body, "")) if file.exists() else {}


def source_hash(function: str) -> str | None:
    """Return a hash of the code of a function, told as ``module:name``; None if there is no such function."""
    module, name = function.split(":")
    node = definitions(module).get(name)
    return node and hashlib.sha256(ast.unparse(node).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Planted:
    """A fault, and what became of it.

    ``guards`` are the checks and controls that it met, if it is one in a chapter's checks; ``caught`` are those, or
    the first test, that caught it; ``because`` says why it is no fault, if somebody did.
    """

    function: str
    kind: str
    line: str
    change: str
    guards: tuple[str, ...]
    caught: tuple[str, ...]
    because: str | None

    @property
    def module(self) -> str:
        """The module of the function."""
        return self.function.partition(":")[0]

    @property
    def is_of_control(self) -> bool:
        """Whether only controls run the function: they show that something false fails, and so does another fault."""
        return bool(self.guards) and all(guard.startswith("control_") for guard in self.guards)


@dataclass(frozen=True)
class Score:
    """How many faults were planted, caught, and explained; what remains survived."""

    planted: int
    caught: int
    explained: int

    @property
    def survived(self) -> int:
        """The number of faults that nothing caught and nobody explained."""
        return self.planted - self.caught - self.explained

    @property
    def percent(self) -> float:
        """The share that was caught, of those that are not explained."""
        return 100 * self.caught / max(1, self.planted - self.explained)


def score_of(faults: Iterable[Planted]) -> Score:
    """Count faults, but for those that only controls meet."""
    faults = [fault for fault in faults if not fault.is_of_control]
    explained = sum(not fault.caught and fault.because is not None for fault in faults)
    return Score(len(faults), sum(bool(fault.caught) for fault in faults), explained)


def stored(file: Path = RESULTS) -> dict[str, dict[str, object]]:
    """Return the entry of each function that was examined."""
    return json.loads(file.read_text(encoding="utf-8"))["functions"] if file.exists() else {}


def explanations(file: Path = EXPLAINED) -> dict[tuple[str, str], str]:
    """Return the explanations by function and change."""
    entries = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else []
    return {(entry["function"], entry["change"]): entry["because"] for entry in entries or []}


def faults(results: Path = RESULTS, explained: Path = EXPLAINED) -> list[Planted]:
    """Return all faults that were planted."""
    reasons = explanations(explained)
    return [
        Planted(
            function,
            row["kind"],
            row["line"],
            row["change"],
            tuple(entry["guards"]) if isinstance(entry["guards"], list) else (),
            tuple(row["caught"]),
            None if row["caught"] else reasons.get((function, row["change"])),
        )
        for function, entry in stored(results).items()
        for row in entry["faults"]
    ]


def changed(results: Path = RESULTS) -> list[str]:
    """Return the functions that are not what they were when they were examined."""
    return [function for function, entry in stored(results).items() if entry["source"] != source_hash(function)]


def idle_explanations(results: Path = RESULTS, explained: Path = EXPLAINED) -> list[tuple[str, str]]:
    """Return the explanations of faults that did not survive, or are not there."""
    alive = {(fault.function, fault.change) for fault in faults(results, explained) if not fault.caught}
    return [key for key in explanations(explained) if key not in alive]
