"""Faults of mathematics, to be planted in the code one at a time: which there are, where they go, and where not.

A *site* is an expression of a function in which a fault can sit. Faults go into formulas, not into the inputs of a
computation: a statement that holds for every prior holds for another random prior, too. So none is planted in

- assertions, errors, messages, annotations, defaults, indices, seeds, and arguments of what makes inputs (`INPUTS`);
- in the checks, a statement that draws random numbers, and a helper that makes inputs: it is called `random_...`, takes
  a `generator` and returns more than numbers, or makes a prior, a problem or a network of numbers alone;
- in a check or control, the numbers that it returns: they are for the text of the page.

A tolerance that is too large is no fault that a test of the same computation could find: see `tolerances`.
"""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHECKS = ROOT / "book" / "checks"
sys.path[:0] = [str(ROOT / "book" / "_extension"), str(ROOT / "book")]

from mutation_table import definitions, source_file  # noqa: E402

MATHEMATICS = """
activations ascent bayes blocks convolution coupling dense error_bars inverse krylov linalg log_det_minimizer losses
modes networks newton objective optimizers priors problems quadrature residual samples sampling standard targets
testproblems
"""
"""The modules of `invlib` that compute what the book states; the others run, store, draw and check arguments."""

RANDOM = {"rand", "randn", "randint", "randperm", "multinomial", "normal_", "uniform_", "seeded", "default_rng"}
SIZES = """
manual_seed Generator linspace arange logspace geomspace column tensor zeros ones full eye empty zeros_like ones_like
new_zeros new_ones full_like reshape view expand split chunk repeat unflatten len isinstance round unsqueeze numbers
SobolEngine
"""
INPUTS = RANDOM | set(SIZES.split())
"""Calls whose arguments are seeds, sizes, shapes or places, not formulas."""

BUILT = ("GaussianMixture", "LinearProblem", "IResNet")
TAKEN = (*BUILT, "Tensor")


# Faults: each takes an expression and returns the wrong one, or None where it does not apply


def sign(node: ast.AST) -> ast.AST | None:
    """Plus for minus, minus for plus; a minus in front is lost."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub) and not is_joined(node):
        return ast.BinOp(node.left, ast.Sub() if isinstance(node.op, ast.Add) else ast.Add(), node.right)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        return node.operand
    return None


def factor(node: ast.AST) -> ast.AST | None:
    """A factor 2 or 1/2 is lost."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult | ast.Div):
        return None
    if isinstance(node.op, ast.Mult) and is_number(node.left, (2, 0.5)) and not isinstance(node.right, ast.List):
        return node.right
    return node.left if is_number(node.right, (2, 0.5)) else None


def square(node: ast.AST) -> ast.AST | None:
    """A strength, or anything else, is not squared; a root is not taken."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and is_number(node.right, (2, 0.5)):
        return node.left
    return receiver(node, "square", "sqrt")


def operator(node: ast.AST) -> ast.AST | None:
    """A matrix or its inverse is dropped."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        return node.left
    if isinstance(node, ast.Call) and name_of(node) in ("solve", "cholesky_solve") and len(node.args) == 2:
        return node.args[0] if name_of(node) == "cholesky_solve" else node.args[1]
    return node.args[0] if isinstance(node, ast.Call) and name_of(node) == "inv" and node.args else None


def transpose(node: ast.AST) -> ast.AST | None:
    """A matrix is not transposed."""
    is_transposed = isinstance(node, ast.Attribute) and node.attr in ("T", "mT", "mH")
    return node.value if is_transposed else None


def estimator(node: ast.AST) -> ast.AST | None:
    """The mean is taken for the mode, or the mode for the mean."""
    swapped = {"posterior_mean": "map_estimate", "map_estimate": "posterior_mean"}
    if isinstance(node, ast.Attribute) and node.attr in swapped:
        return ast.Attribute(node.value, swapped[node.attr], node.ctx)
    return None


def assumption(node: ast.AST) -> ast.AST | None:
    """An assumption is not checked, a bound not kept."""
    if isinstance(node, ast.If) and not node.orelse and isinstance(node.body[-1], ast.Raise):
        return ast.Pass()
    return node.func.value if is_method(node, "clamp", "clamp_min", "clamp_max", "clip") else None


def recursion(node: ast.AST) -> ast.AST | None:
    """A loop ends one step early, unless it only repeats the same thing a fixed number of times."""
    if not isinstance(node, ast.For | ast.comprehension) or not isinstance(node.iter, ast.Call):
        return None
    call = node.iter
    repeats = isinstance(node.target, ast.Name) and node.target.id == "_" and isinstance(call.args[-1], ast.Constant)
    if name_of(call) != "range" or repeats:
        return None
    changed, place = copy.deepcopy(node), min(1, len(call.args) - 1)
    changed.iter.args[place] = ast.BinOp(call.args[place], ast.Sub(), ast.Constant(1))
    return changed


def comparison(node: ast.AST) -> ast.AST | None:
    """What is compared is compared with itself: a difference vanishes."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Sub) or is_joined(node):
        return None
    if any(isinstance(each, ast.Constant) for each in (node.left, node.right)):
        return None
    return ast.BinOp(node.left, ast.Sub(), copy.deepcopy(node.left))


Change = Callable[[ast.AST], ast.AST | None]

FAULTS: dict[str, Change] = {
    each.__name__: each for each in (sign, factor, square, operator, transpose, estimator, assumption, recursion)
}

BLINDNESS: dict[str, Change] = {"comparison": comparison}
"""Planted in what controls run: a check that cannot see holds all the same, and only its control can tell."""


def name_of(call: ast.Call) -> str:
    """The last part of the name of what is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def is_method(node: ast.AST, *names: str) -> bool:
    """Whether a node is the call of one of these methods."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names


def receiver(node: ast.AST, *methods: str) -> ast.AST | None:
    """Return x of x.method(), if it is one of these methods; or x of torch.method(x)."""
    if not is_method(node, *methods):
        return None
    return node.args[0] if node.args else node.func.value


def is_number(node: ast.AST, values: tuple[float, ...]) -> bool:
    """Whether a node is one of these constants."""
    return isinstance(node, ast.Constant) and type(node.value) in (int, float) and node.value in values


def is_joined(node: ast.BinOp) -> bool:
    """Whether strings or sequences are joined."""
    kinds = ast.JoinedStr | ast.List | ast.Tuple | ast.ListComp
    both = (node.left, node.right)
    return any(isinstance(x, kinds) or (isinstance(x, ast.Constant) and isinstance(x.value, str)) for x in both)


# Where they go


def draws(node: ast.AST) -> bool:
    """Whether a statement draws random numbers."""
    calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
    return any(name_of(call) in RANDOM or any(k.arg == "generator" for k in call.keywords) for call in calls)


class Planter(ast.NodeTransformer):
    """Goes through the formulas of a function, and puts a fault at the site of a given number, counted from zero.

    Attributes:
        found: of each site, the kind of the fault, the number of its line, and the wrong expression beside the right.
    """

    def __init__(
        self,
        is_check: bool,
        is_guard: bool,
        number: int | None = None,
        makers: frozenset[str] = frozenset(),
        changes: Mapping[str, Change] = FAULTS,
    ) -> None:
        self.is_check, self.is_guard, self.number, self.changes = is_check, is_guard, number, changes
        self.inputs = INPUTS | makers
        self.found: list[tuple[str, int, str]] = []

    def visit(self, node: ast.AST) -> ast.AST:
        """Visit the parts of a node, then the node itself."""
        if isinstance(node, ast.Assert | ast.Raise | ast.JoinedStr | ast.arguments):
            return node
        if (isinstance(node, ast.Return) and self.is_guard) or (isinstance(node, ast.keyword) and node.arg == "seed"):
            return node
        if self.is_check and isinstance(node, ast.Assign | ast.AnnAssign | ast.Expr | ast.Return) and draws(node):
            return node
        if isinstance(node, ast.AnnAssign):
            node.value = node.value and self.visit(node.value)
        elif isinstance(node, ast.Subscript):
            node.value = self.visit(node.value)
        elif not isinstance(node, ast.Call) or name_of(node) not in self.inputs:
            node = self.generic_visit(node)
        elif isinstance(node.func, ast.Attribute):
            node.func.value = self.visit(node.func.value)
        for kind, change in self.changes.items():
            wrong = change(node)
            if wrong is None:
                continue
            self.found.append((kind, line_of(node), f"{short(node)} → {short(wrong)}"))
            if len(self.found) - 1 == self.number:
                return wrong if isinstance(node, ast.comprehension) else ast.copy_location(wrong, node)
        return node


def line_of(node: ast.AST) -> int:
    """The line of a node."""
    return node.iter.lineno if isinstance(node, ast.comprehension) else node.lineno


def short(node: ast.AST, most: int = 70) -> str:
    """Source text of a node; of a loop or a condition, its head."""
    text = ast.unparse(node).split("\n")[0]
    return text if len(text) <= most else text[: most - 1] + "…"


@dataclass(frozen=True)
class Fault:
    """A fault in a function: `module:name`, the number of its site, its kind, its line, and what it changes."""

    function: str
    number: int
    kind: str
    line: str
    change: str

    @property
    def blinds(self) -> bool:
        """Whether it makes a check blind."""
        return self.kind in BLINDNESS

    def plant(self) -> None:
        """Replace the code of the function, in this process."""
        target, tree = located(self.function)
        changes = BLINDNESS if self.blinds else FAULTS
        changed = planter(self.function, changes, self.number).visit(copy.deepcopy(tree))
        target.__code__ = compiled(changed, target)


def compiled(tree: ast.FunctionDef, target: types.FunctionType) -> types.CodeType:
    """Compile a function; what it takes from around it has the names of what `target` takes."""
    free = target.__code__.co_freevars
    around = [ast.Assign([ast.Name(name, ast.Store())], ast.Constant(None)) for name in free]
    empty = ast.arguments([], [], None, [], [], None, [])
    outer = ast.FunctionDef("around", empty, [*around, tree], [])
    module = ast.fix_missing_locations(ast.Module([outer], type_ignores=[]))
    code = compile(module, inspect.getsourcefile(target), "exec", flags=annotations.compiler_flag)
    (code,) = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return next(c for c in code.co_consts if isinstance(c, types.CodeType) and c.co_name == tree.name)


def planter(function: str, changes: Mapping[str, Change], number: int | None = None) -> Planter:
    """Return a planter with the rules of a function."""
    module, name = function.split(":")
    is_guard = name.startswith(("check_", "control_"))
    return Planter(module.startswith("checks."), is_guard, number, makers_of(module), changes)


@functools.cache
def makers_of(module: str) -> frozenset[str]:
    """Return the names of the functions of a module of checks, or of their common tools, that make inputs."""
    modules = {module, "checks.tools"} if module.startswith("checks.") else set()
    return frozenset(name for each in modules for name in definitions(each) if makes_inputs(f"{each}:{name}"))


def located(function: str) -> tuple[types.FunctionType, ast.FunctionDef]:
    """Return a function, without its decorators, and its syntax tree."""
    module, name = function.split(":")
    target = importlib.import_module(module)
    for part in name.split("."):
        target = inspect.getattr_static(target, part)
        target = getattr(target, "__func__", None) or getattr(target, "fget", None) or getattr(target, "func", target)
    return inspect.unwrap(target), definitions(module)[name]


def makes_inputs(function: str) -> bool:
    """Whether a function of the checks draws random inputs, or builds priors, problems or networks from numbers."""
    module, name = function.split(":")
    node = definitions(module)[name]
    if not module.startswith("checks.") or name.startswith(("check_", "control_")):
        return False
    arguments = [*node.args.args, *node.args.kwonlyargs]
    if name.startswith("random_"):
        return True
    if any(each.arg == "generator" for each in arguments):
        return not returns_numbers(node)
    builds = node.returns is not None and any(kind in ast.unparse(node.returns) for kind in BUILT)
    return builds and not any(kind in ast.unparse(a.annotation) for a in arguments for kind in TAKEN if a.annotation)


def returns_numbers(node: ast.FunctionDef) -> bool:
    """Whether a function returns numbers alone, or nothing because it asserts."""
    kinds = {each.id for each in ast.walk(node.returns) if isinstance(each, ast.Name)} if node.returns else set()
    return node.name != "__init__" and kinds <= {"tuple", "list", "dict", "str", "float", "int", "Numbers"}


@functools.cache
def faults_of(function: str, blindness: bool = False) -> tuple[Fault, ...]:
    """Return all faults that can be planted in a function; or those that blind it."""
    if makes_inputs(function):
        return ()
    module, name = function.split(":")
    plants = planter(function, BLINDNESS if blindness else FAULTS)
    plants.visit(copy.deepcopy(definitions(module)[name]))
    lines = source_file(module).read_text(encoding="utf-8").split("\n")
    found = enumerate(plants.found)
    return tuple(Fault(function, i, kind, lines[n - 1].strip(), change) for i, (kind, n, change) in found)


def modules() -> list[str]:
    """Return the modules in which faults are planted."""
    checks = sorted(path.stem for path in CHECKS.glob("*.py") if path.stem != "__init__")
    return [*(f"invlib.{name}" for name in MATHEMATICS.split()), *(f"checks.{name}" for name in checks)]


def functions() -> list[str]:
    """Return all functions of these modules, as `module:name`."""
    return [f"{module}:{name}" for module in modules() for name in definitions(module)]
