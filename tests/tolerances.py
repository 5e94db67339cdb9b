"""How far the checks stay below their tolerances.

A tolerance ten times as large is a fault that no test of the same computation can find: what passed passes. So each
tolerance is compared with what is measured. Its *slack* is their quotient: a tolerance divided by more than its slack
would fail.
"""

from __future__ import annotations

import ast
import copy
import math
from collections.abc import Callable

import torch
from faults import compiled, located
from mutation_table import definitions, source_file

NAME = "note_slack"
LOOSE = 1e-3  # a number up to this one, positive, is a tolerance


def is_tolerance(node: ast.AST) -> bool:
    """Whether an expression is a small number, or a multiple of one."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
        return is_tolerance(node.left) or is_tolerance(node.right)
    return isinstance(node, ast.Constant) and isinstance(node.value, float) and 0 < node.value <= LOOSE


class Measuring(ast.NodeTransformer):
    """Lets the comparisons of a function's assertions with a tolerance say what they compare."""

    def __init__(self, function: str) -> None:
        self.function, self.inside = function, False
        self.lines: list[int] = []

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """Enter an assertion."""
        self.inside = True
        node.test = self.visit(node.test)
        self.inside = False
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """Replace a comparison with a tolerance."""
        below = len(node.ops) == 1 and isinstance(node.ops[0], ast.Lt | ast.LtE)
        if not (self.inside and below and is_tolerance(node.comparators[0])):
            return self.generic_visit(node)
        self.lines.append(node.lineno)
        where = [ast.Constant(self.function), ast.Constant(node.lineno)]
        return ast.copy_location(
            ast.Call(ast.Name(NAME, ast.Load()), [*where, node.left, node.comparators[0]], []), node
        )


def tolerances_of(function: str) -> list[int]:
    """Return the numbers of the lines of a function in which a tolerance stands."""
    module, name = function.split(":")
    measuring = Measuring(function)
    measuring.visit(copy.deepcopy(definitions(module)[name]))
    return measuring.lines


def slack_of(measured: object, tolerance: object) -> float:
    """Return by how much a tolerance could be divided; infinity if what is measured is not positive."""
    value = torch.as_tensor(measured, dtype=torch.float64)
    bound = torch.as_tensor(tolerance, dtype=torch.float64)
    quotients = torch.where(value > 0, bound / value.clamp_min(1e-300), math.inf)
    return float(quotients.min()) if quotients.numel() else math.inf


def measure(functions: list[str], call: Callable[[], object]) -> list[tuple[str, str, float]]:
    """Return function, line and slack of the tolerances that a call meets, in this process."""
    least: dict[tuple[str, int], float] = {}

    def note(function: str, line: int, measured: object, tolerance: object) -> object:
        slack = slack_of(measured, tolerance)
        if slack >= 1:  # a control may wait for a check to fail
            least[function, line] = min(least.get((function, line), math.inf), slack)
        return measured < tolerance

    for function in functions:
        target, tree = located(function)
        target.__code__ = compiled(Measuring(function).visit(copy.deepcopy(tree)), target)
        target.__globals__[NAME] = note
    call()
    found = []
    for (function, line), slack in least.items():
        lines = source_file(function.partition(":")[0]).read_text(encoding="utf-8").split("\n")
        found.append((function, lines[line - 1].strip(), slack))
    return found
