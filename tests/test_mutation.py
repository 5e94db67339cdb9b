"""Faults planted in the mathematics: the planter works, guards see them, and what is stored belongs to this code."""

import ast
import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book" / "_extension"))

import book_state  # noqa: E402
import mutation_table  # noqa: E402
import tolerances  # noqa: E402
from faults import BLINDNESS, FAULTS, Planter, faults_of, located  # noqa: E402

MOST_EXPLAINED = 0.1  # share of the faults of which somebody says that they are none
MOST_CHANGED = 0.1  # share of the functions that may have changed since they were examined

SNIPPETS = {
    "sign": ("a + b", "a - b"),
    "factor": ("0.5 * a", "a"),
    "square": ("s ** 2", "s"),
    "operator": ("torch.linalg.solve(H, b)", "b"),
    "transpose": ("A.mT", "A"),
    "estimator": ("invlib.posterior_mean(p)", "invlib.map_estimate(p)"),
    "assumption": ("x.clamp(0, 1)", "x"),
    "recursion": ("[f(k) for k in range(n)]", "[f(k) for k in range(n - 1)]"),
    "comparison": ("a - b", "a - a"),
}

FORMULAS_ONLY = """\
def f(prior, n):
    generator = seeded(2 * n + 1)
    x = 0.5 * torch.randn(n - 1, generator=generator) + 3
    y = torch.linspace(-a, 2 * b, n + 1)
    z = y[n - 1 :]
    net = network(3, seed=n + 1)
    for _ in range(10):
        z = step(z)
    assert abs(x - y) < 1e-9
    raise ValueError(f"{n - 1}")
"""

PLANTED = [
    (
        "checks.nonlinear_operators:Push.inverse",
        "u - (self(x) - x) → u + (self(x) - x)",
        "nonlinear_operators.check_push",
    ),
    (
        "checks.nonlinear_operators:Push.jacobian",
        "second + gradient → second - gradient",
        "nonlinear_operators.check_push",
    ),
    ("checks.signals:RankOne.variance", "2 * self.factor ** 2 → self.factor ** 2", "signals.check_sg_probes"),
    ("checks.signals:best_affine", "torch.linalg.inv(prior.covariance) → prior.covariance", "signals.check_sg_probes"),
    ("checks.signals:log_odds", "0.5 * prior.means.sum(0) → prior.means.sum(0)", "signals.check_sg_probes"),
    ("checks.signals:target_slopes", "torch.linalg.solve(T, x.mT) → x.mT", "signals.check_sg_probes"),
    ("checks.tweedie:law_along_range", "problem.noise_std ** 2 → problem.noise_std", "tweedie.check_tw_scores"),
    ("checks.tweedie:check_tw_scores", "basis.mT → basis", "tweedie.check_tw_scores"),
    ("checks.reconstruction:Case.clean", "x @ self.problem.normal_operator → x", "reconstruction.check_rc_small_noise"),
    (
        "checks.log_determinant:_remark",
        "solution.score - score → solution.score + score",
        "log_determinant.check_ld_tweedie",
    ),
    ("invlib.bayes:measurement_distribution", "problem.noise_std ** 2 → problem.noise_std", "tweedie.check_tw_scores"),
    (
        "invlib.priors:GaussianMixture.covariance",
        "self.means - self.mean → self.means + self.mean",
        "signals.check_sg_probes",
    ),
]
"""Function, fault, and the check that sees it."""


def planted(source: str, number: int | None = None, **rules: object) -> tuple[str, list[tuple[str, int, str]]]:
    """The source with a fault, and all faults there are."""
    planter = Planter(**{"is_check": True, "is_guard": False, **rules}, number=number)
    tree = planter.visit(ast.parse(source))
    return ast.unparse(ast.fix_missing_locations(tree)), planter.found


@pytest.mark.parametrize("kind", [*FAULTS, *BLINDNESS])
def test_each_kind_of_fault_is_planted(kind):
    right, wrong = SNIPPETS[kind]
    changes = BLINDNESS if kind in BLINDNESS else FAULTS
    _, found = planted(right, changes=changes)
    assert [entry[0] for entry in found] == [kind]
    assert planted(right, 0, changes=changes)[0] == wrong


def test_a_condition_that_raises_is_an_assumption():
    source = "def f(x):\n    if x < 0:\n        raise ValueError\n    return x"
    assert planted(source, 0)[0] == "def f(x):\n    pass\n    return x"


def test_no_fault_is_planted_in_inputs_assertions_and_messages():
    assert planted(FORMULAS_ONLY)[1] == []
    _, found = planted("x = torch.randn(2, generator=g) + 1", is_check=False)
    assert [kind for kind, _, _ in found] == ["sign"]  # in the library, to draw is mathematics


def test_no_fault_is_planted_in_the_numbers_for_the_text():
    source = "def check_x():\n    return {'gap': a - b}"
    assert planted(source, is_guard=True)[1] == []
    assert len(planted(source)[1]) == 1


@pytest.mark.parametrize(("function", "change", "check"), PLANTED, ids=[change for _, change, _ in PLANTED])
def test_a_planted_fault_is_caught(function, change, check):
    module, _, name = check.partition(".")
    guard = getattr(importlib.import_module(f"checks.{module}"), name)
    (fault, *_) = [fault for fault in faults_of(function) if fault.change == change]
    target, _ = located(function)
    right = target.__code__
    guard()
    try:
        fault.plant()
        with pytest.raises((AssertionError, RuntimeError, ValueError)):
            guard()
    finally:
        target.__code__ = right
    guard()


def test_a_method_that_knows_its_class_gets_a_fault():
    """What a function takes from around it stays what it was."""
    function = "invlib.residual:Composition.__init__"
    assert located(function)[0].__code__.co_freevars == ("__class__",)
    for fault in faults_of(function):
        target, right = located(function)[0], located(function)[0].__code__
        fault.plant()
        assert target.__code__ != right
        target.__code__ = right


# What is stored


def test_what_is_stored_belongs_to_this_code():
    changed, stored = mutation_table.changed(), mutation_table.stored()
    assert len(changed) <= MOST_CHANGED * len(stored), f"run make mutate: {len(changed)} functions have changed"


def test_the_faults_are_caught():
    score = mutation_table.score_of(mutation_table.faults())
    assert score.planted > 300
    assert score.percent >= mutation_table.LEAST_PERCENT
    assert score.explained <= MOST_EXPLAINED * score.planted


def test_check_and_control_each_catch_what_the_other_does_not():
    chapters = book_state.book_of(ROOT)
    rows = [book_state.statement_row(chapter, each.label) for chapter in chapters for each in chapter.statements]
    pairs = [(by_check, by_control) for _, _, _, by_check, by_control, _ in filter(None, rows)]
    assert len(pairs) > 85
    assert all(min(pair) > 0 for pair in pairs)


def test_every_explanation_is_of_a_fault_that_survived():
    assert mutation_table.idle_explanations() == []
    for function, change in mutation_table.explanations():
        possible = {fault.change for blindness in (False, True) for fault in faults_of(function, blindness)}
        assert change in possible, f"{function}: {change}"


def test_a_changed_function_and_an_idle_explanation_are_found(tmp_path):
    function = "checks.divergence:optimal_map"
    row = {"kind": "sign", "line": "x = 1", "change": "a → b", "caught": []}
    results, explained = tmp_path / "mutation.json", tmp_path / "explained.yml"

    def store(source, **changes):
        entry = {"source": source, "guards": ["check_a"], "faults": [row | changes]}
        results.write_text(json.dumps({"functions": {function: entry}}), encoding="utf-8")

    store(mutation_table.source_hash(function))
    explained.write_text(f"- function: {function}\n  change: a → b\n  because: so\n", encoding="utf-8")
    assert mutation_table.changed(results) == []
    assert mutation_table.idle_explanations(results, explained) == []
    (fault,) = mutation_table.faults(results, explained)
    assert mutation_table.score_of([fault]) == mutation_table.Score(planted=1, caught=0, explained=1)

    store("0" * 12, caught=["check_a"])
    assert mutation_table.changed(results) == [function]
    assert mutation_table.idle_explanations(results, explained) == [(function, "a → b")]
    assert mutation_table.faults(results, explained)[0].because is None


# Tolerances


def test_the_slack_of_a_tolerance_is_measured():
    assert tolerances.slack_of(1e-12, 1e-9) == pytest.approx(1000)
    assert tolerances.slack_of([1e-12, 1e-11], 1e-9) == pytest.approx(100)
    assert tolerances.slack_of(0.0, 1e-9) == tolerances.slack_of(-1.0, 1e-9) == float("inf")


def test_the_tolerances_of_a_check_are_found():
    function = "checks.tweedie:check_tw_scores"
    target, _ = located(function)
    right = target.__code__
    try:
        found = tolerances.measure([function], lambda: importlib.import_module("checks.tweedie").check_tw_scores())
    finally:
        target.__code__ = right
    assert found
    assert all(name == function and "1e-" in line and slack > 1 for name, line, slack in found)


def test_a_check_that_a_control_makes_fail_says_nothing_of_its_tolerance():
    function = "checks.point_estimators:check_pe_conjugate"
    target, _ = located(function)
    right = target.__code__
    try:
        module = importlib.import_module("checks.point_estimators")
        assert all(slack >= 1 for _, _, slack in tolerances.measure([function], module.control_pe_conjugate))
    finally:
        target.__code__ = right
