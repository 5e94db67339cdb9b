"""Let Coq check the theorems of this folder, and print which statement of the book each belongs to.

Usage::

    python proofs/prove.py               without Coq, say so; that is no error
    python proofs/prove.py --required    without Coq, fail

Coq compiles copies of the files in ``_build/proofs``. What a theorem may assume is listed here, and nothing else: what
the real numbers of Coq's standard library are built on, and the excluded middle; and for the theorems of ``Numbers.v``
also the specification of the machine's integers and floats in this library.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
sys.path.insert(0, str(ROOT / "book" / "_extension"))

from lemmas import CORE, NUMBERS, read_theorems  # noqa: E402

EXERCISES = ("Exercises", "Solutions")
SOLVED = ("average_of_blocks", "wiener_is_map", "composition_of_blocks")
MISSING = "Coq is not installed, or not its libraries (Debian: apt install coq libcoq-coquelicot libcoq-interval)."
REALS = {
    "ClassicalDedekindReals.sig_forall_dec",
    "ClassicalDedekindReals.sig_not_dec",
    "FunctionalExtensionality.functional_extensionality_dep",
    "Classical_Prop.classic",
}
MACHINE = ("PrimInt63.", "Uint63.", "PrimFloat.", "FloatAxioms.")


class NotProvedError(Exception):
    """Coq refuses a file, or a theorem assumes what it must not."""


def run_coq(build: Path, name: str) -> str:
    """Let Coq compile a file of a folder, and return what it prints."""
    command = ["coqc", "-Q", ".", "Book", "-w", "none", f"{name}.v"]
    done = subprocess.run(command, cwd=build, capture_output=True, text=True)
    if done.returncode:
        raise NotProvedError(f"{name}.v: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def has_coq(build: Path) -> bool:
    """Tell whether Coq is installed, with both libraries."""
    if not shutil.which("coqc"):
        return False
    build.mkdir(parents=True, exist_ok=True)
    probe = "From Coquelicot Require Import Coquelicot.\nFrom Interval Require Import Tactic.\n"
    (build / "Probe.v").write_text(probe, encoding="utf-8")
    try:
        run_coq(build, "Probe")
    except NotProvedError:
        return False
    return True


def compile_files(folder: Path, build: Path, names: Sequence[str]) -> None:
    """Compile copies of files, in their order."""
    build.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(folder / f"{name}.v", build)
        run_coq(build, name)


def assumed(build: Path, files: Sequence[str], theorems: Sequence[str]) -> set[str]:
    """Return the names of all that some compiled theorems assume together."""
    imports = "".join(f"From Book Require Import {name}.\n" for name in files)
    every = ", ".join(f"@{name}" for name in theorems)
    (build / "Assumed.v").write_text(f"{imports}Definition every := ({every}).\nPrint Assumptions every.\n")
    lines = run_coq(build, "Assumed").splitlines()
    return {line.split()[0] for line in lines[1:] if line.strip() and not line[0].isspace()}


def forbidden(names: set[str], *, numbers: bool) -> set[str]:
    """Return what of some assumptions is not allowed."""
    return {name for name in names - REALS if not (numbers and name.startswith(MACHINE))}


def check_assumptions(build: Path, files: Sequence[str], theorems: Sequence[str]) -> None:
    """Raise if theorems of some files assume what they must not; name the first that does."""
    numbers = NUMBERS in files
    if not forbidden(assumed(build, files, theorems), numbers=numbers):
        return
    for name in theorems:
        if found := forbidden(assumed(build, files, [name]), numbers=numbers):
            raise NotProvedError(f"{name} assumes {', '.join(sorted(found))}")


def compile_all(folder: Path, build: Path) -> None:
    """Compile all files, also the exercises."""
    compile_files(folder, build, (*CORE, *EXERCISES))


def check_all(folder: Path, build: Path) -> None:
    """Look at what all compiled theorems assume."""
    theorems = read_theorems(folder)
    core = [name for name in CORE if name != NUMBERS]
    names = [theorem.name for theorem in theorems if theorem.file != NUMBERS]
    check_assumptions(build, [*core, "Solutions"], [*names, *SOLVED])
    check_assumptions(build, [NUMBERS], [theorem.name for theorem in theorems if theorem.file == NUMBERS])


def main() -> None:
    """Check all, and print a table."""
    build, start = ROOT / "_build" / "proofs", time.perf_counter()
    if not has_coq(build):
        if "--required" in sys.argv:
            raise NotProvedError(MISSING)
        print(f"{MISSING} Skipped.")
        return
    compile_all(FOLDER, build)
    check_all(FOLDER, build)
    theorems = read_theorems(FOLDER)
    width = max(len(theorem.name) for theorem in theorems)
    for theorem in theorems:
        print(f"{theorem.name:{width}}  {theorem.label:18}  ok")
    labels = {theorem.label for theorem in theorems}
    print(f"{len(theorems)} theorems for {len(labels)} statements, in {time.perf_counter() - start:.0f} seconds")


if __name__ == "__main__":
    try:
        main()
    except NotProvedError as error:
        sys.exit(f"Not proved. {error}")
