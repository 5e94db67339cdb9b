"""Read the files of ``proofs``: which theorems Coq checks, and to which statements of the book they belong.

Plain functions without Sphinx. A theorem stands behind a comment that begins with the label of its
statement::

    (** [prop-four-filter] What is proved, in a sentence. *)
    Theorem four_filter_divergence a : ...

Its name begins with the label, without the kind. A ``Lemma`` only helps; it belongs to no statement.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = "proofs"  # of a book
CORE = ("Vectors", "Filters", "Bayes", "Networks", "Numbers")
NUMBERS = "Numbers"  # the file whose theorems may assume what the machine computes
COMMENT = r"\(\*\* (?:(?!\*\)).)*?\s*\*\)\n"
LABELLED = re.compile(
    r"^\(\*\* \[(?P<label>[a-z]+-[a-z-]+)\] (?P<text>(?:(?!\*\)).)*?)\s*\*\)\n"
    r"(?P<code>Theorem (?P<name>\w+).*?\.)\n(?=Proof\.)",
    re.DOTALL | re.MULTILINE,
)
LEFT_OUT = (  # proofs, what only helps, and imports
    re.compile(r"^Proof\..*?\b(?:Qed|Defined|Abort)\.$\n?", re.DOTALL | re.MULTILINE),
    re.compile(rf"^(?:{COMMENT})?Lemma .*?\.$\n?", re.DOTALL | re.MULTILINE),
    re.compile(r"^(?:From|Open|Declare|Delimit|Bind|Implicit) .*\n", re.MULTILINE),
    re.compile(r"^Section (\w+)\.\n(?:Variable.*\n|\s*\n)*End \1\.\n", re.MULTILINE),
)
END = re.compile(r"(?:End \w+\.\s*)+")


@dataclass(frozen=True)
class Theorem:
    """A theorem that Coq checks: its name, file, the label of the statement that it serves, and what it says."""

    name: str
    file: str
    label: str
    text: str
    statement: str


@dataclass(frozen=True)
class Piece:
    """A piece of a file as its page shows it: a comment, code behind it (or none), and the theorem that it is."""

    comment: str
    code: str
    theorem: Theorem | None = None


def read_theorems(folder: Path) -> list[Theorem]:
    """Return the theorems of a folder that belong to statements; none if there is no folder."""
    return [theorem for name in CORE if (folder / f"{name}.v").exists() for theorem in theorems_of(folder, name)]


def theorems_of(folder: Path, name: str) -> Iterator[Theorem]:
    """Yield the theorems of one file that belong to statements."""
    for found in LABELLED.finditer((folder / f"{name}.v").read_text(encoding="utf-8")):
        yield Theorem(found["name"], name, found["label"], " ".join(found["text"].split()), found["code"])


def by_label(folder: Path) -> dict[str, list[Theorem]]:
    """Return the theorems of a folder by the labels of their statements."""
    found: dict[str, list[Theorem]] = {}
    for theorem in read_theorems(folder):
        found.setdefault(theorem.label, []).append(theorem)
    return found


def pieces_of(folder: Path, name: str) -> Iterator[Piece]:
    """Yield what a page shows of a file: comments, definitions, assumptions and theorems, without proofs."""
    theorems = {theorem.name: theorem for theorem in theorems_of(folder, name)}
    text = (folder / f"{name}.v").read_text(encoding="utf-8")
    for pattern in LEFT_OUT:
        text = pattern.sub("", text)
    for part in re.split(r"^(?=\(\*\* )", text, flags=re.MULTILINE):
        comment, _, code = part.removeprefix("(** ").partition("*)") if part.startswith("(** ") else ("", "", part)
        code = re.sub(r"\n{3,}", "\n\n", code).strip("\n")
        shown = re.match(r"Theorem (\w+)", code)
        theorem = theorems.get(shown[1]) if shown else None
        if theorem is not None:
            rest = code.removeprefix(theorem.statement).strip("\n")
            ends = rest if END.fullmatch(rest) else ""
            yield Piece(theorem.text, f"{theorem.statement}\n\n{ends}".rstrip(), theorem)
            comment, code = "", rest.removeprefix(ends)
        if comment or code:
            yield Piece(comment.strip(), code)
