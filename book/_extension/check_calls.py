"""Find the code of the checks that a cell of a chapter calls: ``check_...`` and ``control_...`` of ``checks``.

Plain functions without Sphinx, which only read source code and run nothing. A chapter may import its module of checks
in any of the usual ways, in any of its cells. What such a function does is its own code and that of the functions and
classes of the same module that it uses, without docstrings and comments.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = "checks"
PREFIXES = ("check_", "control_")
MAGIC = re.compile(r"^\s*[%!].*$", re.MULTILINE)

Definition = ast.FunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Call:
    """A call of a check or control.

    ``code`` is what it does, or None if there is no such function.
    """

    module: str
    name: str
    code: str | None


@cache
def tree_of(source: str) -> ast.Module:
    """Return the syntax tree of a cell; of magics nothing is left."""
    return ast.parse(MAGIC.sub("", source))


def names_of(cells: Iterable[str]) -> dict[str, str]:
    """Return what names in a chapter stand for, as far as it is the package of checks or something in it."""
    names = {}
    for node in (node for source in cells for node in ast.walk(tree_of(source))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE:
                    names[alias.asname or PACKAGE] = alias.name if alias.asname else PACKAGE
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def dotted(node: ast.expr) -> str | None:
    """Return an expression such as ``a.b.c`` as text; None for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value)
        return owner and f"{owner}.{node.attr}"
    return None


@cache
def definitions(file: Path) -> dict[str, Definition]:
    """Return the functions and classes of a module, without their docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, Definition) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return {node.name: node for node in tree.body if isinstance(node, Definition)}


def code_of(name: str, known: dict[str, Definition]) -> str:
    """Return the code of a function of a module, and of what it uses of that module."""
    found: dict[str, str] = {}
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        found[current] = ast.unparse(known[current])
        used = (node.id for node in ast.walk(known[current]) if isinstance(node, ast.Name))
        waiting += [other for other in used if other in known]
    return "\n".join(found.values())


@cache
def code_in(file: Path, name: str) -> str | None:
    """Return the code of a function of a file, and of what it uses of it; None if there is no such function."""
    known = definitions(file) if file.exists() else {}
    return code_of(name, known) if name in known else None


def calls_of(source: str, names: dict[str, str], folder: Path) -> Iterator[Call]:
    """Yield the calls of checks and controls in a cell.

    Args:
        source: of the cell.
        names: what names of the chapter stand for, see `names_of`.
        folder: of the package of checks.
    """
    for node in ast.walk(tree_of(source)):
        text = dotted(node.func) if isinstance(node, ast.Call) else None
        first, _, rest = (text or "").partition(".")
        if first not in names:
            continue
        parts = ".".join(filter(None, [names[first], rest])).split(".")
        if len(parts) == 3 and parts[2].startswith(PREFIXES):
            yield Call(parts[1], parts[2], code_in(folder / f"{parts[1]}.py", parts[2]))
