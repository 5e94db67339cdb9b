"""Tests of what Coq checks: the theorems belong to statements, Coq accepts them, and refuses planted faults."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "proofs"
sys.path[:0] = [str(FOLDER), str(ROOT / "book" / "_extension")]

import lemmas  # noqa: E402
import prove  # noqa: E402

THEOREMS = lemmas.read_theorems(FOLDER)
FILES = {name: (FOLDER / f"{name}.v").read_text(encoding="utf-8") for name in (*lemmas.CORE, *prove.EXERCISES)}
COMMENT = re.compile(r"\(\*.*?\*\)", re.DOTALL)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = tmp_path_factory.mktemp("proofs")
    if not prove.has_coq(build):
        pytest.skip(prove.MISSING)
    prove.compile_all(FOLDER, build)
    return build


# Without Coq


def test_every_theorem_belongs_to_a_statement_and_is_named_after_it() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*.md"))
    for theorem in THEOREMS:
        assert f":label: {theorem.label}\n" in text, theorem
        assert theorem.name.startswith(theorem.label.partition("-")[2].replace("-", "_") + "_"), theorem


def test_no_theorem_of_the_core_lacks_a_label() -> None:
    found = [name for file in lemmas.CORE for name in re.findall(r"^Theorem (\w+)", FILES[file], re.MULTILINE)]
    assert [theorem.name for theorem in THEOREMS] == found
    assert len(set(found)) == len(found) >= 15


def test_nothing_is_assumed_or_left_open() -> None:
    for name, text in FILES.items():
        code = COMMENT.sub("", text)
        assert not re.search(r"\b(?:Admitted|admit|Axiom|Parameter|Conjecture)\b", code), name
        assert ("Abort" in code) == (name == "Exercises"), name


def test_the_exercises_and_their_solutions_state_the_same() -> None:
    def stated(name: str) -> list[str]:
        return re.findall(r"^Theorem .*?\.\n(?=Proof)", FILES[name], re.DOTALL | re.MULTILINE)

    assert stated("Exercises") == stated("Solutions")
    assert [re.match(r"Theorem (\w+)", text)[1] for text in stated("Solutions")] == list(prove.SOLVED)
    assert FILES["Exercises"].count("(* your proof") == FILES["Exercises"].count("Abort.\n") == len(prove.SOLVED)


def test_the_page_shows_every_theorem_and_no_proof() -> None:
    pieces = [piece for name in lemmas.CORE for piece in lemmas.pieces_of(FOLDER, name)]
    assert [piece.theorem for piece in pieces if piece.theorem] == THEOREMS
    for piece in pieces:
        assert not re.search(r"^(?:Proof|Qed|Lemma|From)\b", piece.code, re.MULTILINE), piece
    assert not list(lemmas.read_theorems(ROOT / "nowhere"))


def test_a_missing_coq_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", ["prove.py"])
    prove.main()
    assert capsys.readouterr().out.count("\n") == 1
    monkeypatch.setattr(sys, "argv", ["prove.py", "--required"])
    with pytest.raises(prove.NotProvedError, match="apt install coq"):
        prove.main()


def test_an_assumption_that_is_not_listed_is_seen() -> None:
    assert prove.forbidden({*prove.REALS, "Filters.wrong"}, numbers=True) == {"Filters.wrong"}
    assert prove.forbidden({"FloatAxioms.add_spec"}, numbers=False) == {"FloatAxioms.add_spec"}
    assert not prove.forbidden({*prove.REALS, "FloatAxioms.add_spec"}, numbers=True)


# With Coq


def test_coq_accepts_all_of_them(compiled: Path) -> None:
    prove.check_all(FOLDER, compiled)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("divergence (h + t / s^2) < divergence a.", "divergence (h - t / s^2) < divergence a."),
        ("/ (1 + u) - (1 + 2 * (explicit_slope (u / 2) - 1))", "/ (1 + u) - (1 + 2 * (explicit_slope u - 1))"),
        (":= approximation a - t * a.", ":= approximation a + t * a."),
    ],
)
def test_coq_refuses_a_planted_fault(compiled: Path, right: str, wrong: str) -> None:
    assert FILES["Filters"].count(right) == 1
    (compiled / "Fault.v").write_text(FILES["Filters"].replace(right, wrong), encoding="utf-8")
    with pytest.raises(prove.NotProvedError, match=r"Fault\.v"):
        prove.run_coq(compiled, "Fault")


def test_a_planted_axiom_is_named(compiled: Path) -> None:
    text = FILES["Filters"] + "\nAxiom wrong : 0 = 1.\nTheorem easy : 1 = 0. Proof. symmetry. exact wrong. Qed.\n"
    (compiled / "Planted.v").write_text(text, encoding="utf-8")
    prove.run_coq(compiled, "Planted")
    with pytest.raises(prove.NotProvedError, match="easy assumes wrong"):
        prove.check_assumptions(compiled, ["Planted"], ["ap_clip_nearest", "easy"])
