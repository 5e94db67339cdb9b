"""Tests of the shape of the library: short pieces, no circles, a small core, and everything public explained."""

import ast
import doctest
import inspect
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import invlib

LIBRARY = Path(invlib.__file__).parent
MODULES = sorted(LIBRARY.glob("*.py"))
MODULE_NAMES = [path.stem for path in MODULES]
OPTIONAL = {"drawing"}  # modules that need more than the core
IN_NOTEBOOKS = {"IPython"}  # there where it is used

LONGEST_CLASS = 200
LONGEST_FUNCTION = 45
MEDIAN_LINE, MEAN_LINE = 35, 36  # characters without the indentation

OWN_EXAMPLE = [
    "approximation_loss",
    "reconstruction_loss",
    "log_det_loss",
    "divergence_loss",
    "posterior_mean",
    "posterior_covariance",
    "posterior_moments",
    "map_estimate",
    "map_solution",
    "map_curvature",
    "log_evidence",
    "data_distribution",
    "measurement_distribution",
    "train",
    "minimize",
    "maximize",
]


def code_lines(source: str) -> dict[int, str]:
    """The lines of code by number: no docstrings, no comments of their own, no blank lines."""
    text: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            text.update(range(node.lineno, node.end_lineno + 1))
    lines = {number: line.strip() for number, line in enumerate(source.splitlines(), start=1)}
    return {number: line for number, line in lines.items() if line and line[0] != "#" and number not in text}


def long_classes(source: str, limit: int = LONGEST_CLASS) -> list[tuple[str, int]]:
    """The classes with more lines of code than the limit."""
    classes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    return over(limit, source, [(node.name, node.lineno, node.end_lineno) for node in classes])


def long_functions(source: str, limit: int = LONGEST_FUNCTION) -> list[tuple[str, int]]:
    """The functions whose bodies have more lines of code than the limit; a long list of parameters does not count."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    return over(limit, source, [(node.name, node.body[0].lineno, node.end_lineno) for node in functions])


def over(limit: int, source: str, pieces: list[tuple[str, int, int]]) -> list[tuple[str, int]]:
    """The pieces (name, first line, last line) with more lines of code than the limit, and how many they have."""
    numbers = code_lines(source)
    lengths = [(name, sum(first <= number <= last for number in numbers)) for name, first, last in pieces]
    return [(name, length) for name, length in lengths if length > limit]


@pytest.mark.parametrize("path", MODULES, ids=MODULE_NAMES)
def test_classes_and_functions_are_short(path):
    source = path.read_text(encoding="utf-8")
    assert long_classes(source) == []
    assert long_functions(source) == []


def test_lines_are_airy():
    lines = [line for path in MODULES for line in code_lines(path.read_text(encoding="utf-8")).values()]
    lengths = [len(line) for line in lines]
    assert statistics.median(lengths) <= MEDIAN_LINE
    assert statistics.mean(lengths) <= MEAN_LINE


def test_long_pieces_are_found():
    body = "".join(f"    x = {number}\n\n    # a comment\n" for number in range(4))
    source = f'class A:\n    pass\n\n\ndef f(\n    x,\n):\n    """Several\n\n    lines.\n    """\n{body}'
    assert code_lines(source)[5] == "def f("
    assert long_functions(source, 3) == [("f", 4)]
    assert long_functions(source, 4) == []
    assert long_classes(source, 1) == [("A", 2)]
    assert long_classes(source, 2) == []


def imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All imports below a node, also those inside functions, but none that only serves the types."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        yield from imports(node)


def imported_modules(source: str, names: list[str]) -> set[str]:
    """The modules of the library that a source imports; `__init__` for the package itself."""
    found = set()
    for node in imports(ast.parse(source)):
        if isinstance(node, ast.Import):
            full_names = [alias.name for alias in node.names]
        else:
            assert node.level == 0, "relative import"
            full_names = [f"{node.module}.{alias.name}" for alias in node.names]
        for full_name in full_names:
            package, *rest = full_name.split(".")
            if package == "invlib":
                found.add(rest[0] if rest and rest[0] in names else "__init__")
    return found


def test_modules_do_not_import_each_other_in_a_circle():
    graph = {path.stem: imported_modules(path.read_text(encoding="utf-8"), MODULE_NAMES) for path in MODULES}
    assert graph["__init__"] >= {"networks", "training"}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_a_circle_is_found():
    sources = {
        "a": "def f():\n    from invlib.b import g",
        "b": "from invlib import a, nothing",
        "__init__": "import torch\nif TYPE_CHECKING:\n    from invlib import a",
    }
    graph = {name: imported_modules(source, list(sources)) for name, source in sources.items()}
    assert graph == {"a": {"b"}, "b": {"a", "__init__"}, "__init__": set()}
    with pytest.raises(CycleError):
        TopologicalSorter(graph).prepare()


def loaded_by(statement: str) -> set[str]:
    """The packages that a fresh interpreter has loaded after a statement, of those that the core does without."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()} & {
        "matplotlib",
        "PIL",
        "IPython",
        "ipywidgets",
        "scipy",
    }


def test_the_core_needs_no_drawing_and_no_notebook():
    assert loaded_by("import invlib") == set()
    assert loaded_by("import invlib.drawing") == {"matplotlib", "PIL"}


def outside_packages(path: Path) -> set[str]:
    """The packages that a module imports, by the names under which they are installed; not those of Python itself."""
    names = set()
    for node in imports(ast.parse(path.read_text(encoding="utf-8"))):
        full_names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
        names |= {name.split(".")[0] for name in full_names}
    return {"pillow" if name == "PIL" else name for name in names - sys.stdlib_module_names - {"invlib"}}


def test_the_declared_dependencies_are_those_of_the_code():
    project = tomllib.loads((LIBRARY.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = {re.split("[<>=]", package)[0] for package in project["dependencies"]}
    extra = set(project["optional-dependencies"]["drawing"])
    needed = {path.stem: outside_packages(path) for path in MODULES}
    assert set.union(*(packages for name, packages in needed.items() if name not in OPTIONAL)) == core
    assert set.union(*(needed[name] for name in OPTIONAL)) - core - IN_NOTEBOOKS == extra


def test_the_oldest_torch_is_one_that_is_tried_every_week():
    root = LIBRARY.parent
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (oldest,) = [name.removeprefix("torch>=") for name in project["dependencies"] if name.startswith("torch>=")]
    assert f'torch: ["torch=={oldest}.0", "torch"]' in (root / ".github/workflows/weekly.yml").read_text(
        encoding="utf-8"
    )


def public_parts(thing: type) -> Iterator[str]:
    """The methods and properties of a class and its bases that the library defines."""
    kinds = (property, classmethod, staticmethod)
    for base in thing.__mro__:
        if base.__module__.startswith("invlib"):
            for name, part in vars(base).items():
                if not name.startswith("_") and (inspect.isfunction(part) or isinstance(part, kinds)):
                    yield name


@pytest.mark.parametrize("name", invlib.__all__)
def test_everything_public_is_documented(name):
    thing = getattr(invlib, name)
    assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        for part in public_parts(thing):
            assert inspect.getdoc(getattr(thing, part)), f"{name}.{part}"


@pytest.mark.parametrize("name", OWN_EXAMPLE)
def test_the_docstring_has_an_example_that_calls_it(name):
    """The examples themselves run as doctests."""
    function = getattr(invlib, name)
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(function))
    assert any(re.search(rf"\b{name}\(", example.source) for example in examples)
    assert any(example.want for example in examples), "an example shows what comes out"


def test_no_loss_and_no_estimator_is_forgotten():
    functions = {name: getattr(invlib, name) for name in invlib.__all__ if inspect.isfunction(getattr(invlib, name))}
    losses = {name for name in functions if name.endswith("_loss")}
    estimators = {
        name for name, function in functions.items() if next(iter(inspect.signature(function).parameters)) == "problem"
    }
    assert len(losses) >= 4
    assert len(estimators) >= 5
    assert losses | estimators <= set(OWN_EXAMPLE)


def test_the_pages_that_docstrings_name_exist():
    pages = {page for path in MODULES for page in re.findall(r"`(book/[\w-]+\.md)`", path.read_text(encoding="utf-8"))}
    assert len(pages) >= 8
    assert [page for page in pages if not (LIBRARY.parent / page).exists()] == []
