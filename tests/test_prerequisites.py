"""Nothing is used before it is there: chapters, statements, and the routes of the landing page.

The chapters that a chapter needs and the routes stand in ``book/prerequisites.yml``. What a proof uses is read from the
proof: the statements that it refers to.
"""

import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

import browsing
import execute
import pytest
import yaml

KINDS = "assumption|corollary|definition|example|lemma|proposition|remark|theorem"
BLOCK = re.compile(rf"^(?P<fence>:{{3,}})\{{prf:(?P<kind>{KINDS}|proof)\}}.*?^(?P=fence)\s*$", re.MULTILINE | re.DOTALL)
LABEL = re.compile(r"^:label: (\S+)$", re.MULTILINE)
REFERENCE = re.compile(r"\{prf:ref\}`(?:[^`<]*<)?([\w-]+)>?`")
DOCUMENT = re.compile(r"\{doc\}`(?:[^`<]*<)?([\w-]+)>?`")
NEEDS = re.compile(r"^\*(?:It )?need(?:s|ed):?\*(.*?)\*(?:It )?costs?:?\*", re.MULTILINE | re.DOTALL | re.IGNORECASE)

ORDER = browsing.chapters()
FILE = yaml.safe_load((execute.BOOK / "prerequisites.yml").read_text(encoding="utf-8"))
TEXTS = {name: (execute.BOOK / f"{name}.md").read_text(encoding="utf-8") for name in ORDER}
LANDING = (execute.BOOK / "index.md").read_text(encoding="utf-8")

Graph = dict[str, set[str]]


def circles(graph: Mapping[str, set[str] | list[str]]) -> Iterator[str]:
    """The circles of a graph, one if there are any."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield "a circle: " + " - ".join(error.args[1])


# Chapters and routes


def faults_of_needs(needs: Mapping[str, list[str]], order: list[str]) -> list[str]:
    """What is wrong with the chapters that chapters need: names, order, circles."""
    found = [f"{name} stands in one of the contents and the needs only" for name in sorted(set(needs) ^ set(order))]
    place = {name: number for number, name in enumerate(order)}
    for name, earlier in needs.items():
        for other in earlier:
            if other not in place:
                found.append(f"{name} needs {other}, which is no chapter")
            elif place[other] >= place.get(name, -1):
                found.append(f"{name} needs {other}, which comes later")
    return [*found, *circles(needs)]


def needs_on_page(text: str) -> list[str] | None:
    """The chapters that a page says it needs, in the line at its start; None if there is no such line."""
    line = NEEDS.search(text)
    return DOCUMENT.findall(line[1]) if line else None


def faults_of_route(stations: list[str], needs: Mapping[str, list[str]]) -> list[str]:
    """The chapters of a route that need something that does not lie before them."""
    seen: list[str] = []
    found = []
    for station in (station.partition("#")[0] for station in stations):
        found += [f"{station} needs {other}" for other in needs.get(station, []) if other not in seen]
        seen.append(station)
    return found


def route_on_page(landing: str, name: str) -> list[str] | None:
    """The chapters that a route has on the landing page; None if there is no such route."""
    found = re.search(rf"^- \*{re.escape(name)}:\*(.*?)(?=^- |^\s*$)", landing, re.MULTILINE | re.DOTALL)
    return DOCUMENT.findall(found[1]) if found else None


def test_the_needs_of_the_chapters_are_in_order() -> None:
    assert faults_of_needs(FILE["needs"], ORDER) == []


@pytest.mark.parametrize("name", ORDER)
def test_a_chapter_says_what_it_needs(name: str) -> None:
    assert sorted(needs_on_page(TEXTS[name]) or []) == sorted(FILE["needs"][name])


@pytest.mark.parametrize("name", ORDER)
def test_a_chapter_says_at_its_top_how_long_it_takes_on_one_thread(name: str) -> None:
    top = TEXTS[name].split("\n## ")[0]
    assert re.search(r"\*(?:It costs|Cost:)\*[^.]*(?:second|minute)[^.]* on one thread\b", top)


@pytest.mark.parametrize("name", FILE["routes"])
def test_a_route_holds_all_that_it_needs(name: str) -> None:
    assert faults_of_route(FILE["routes"][name], FILE["needs"]) == []


@pytest.mark.parametrize("name", FILE["routes"])
def test_a_route_is_on_the_landing_page(name: str) -> None:
    first, *stations = FILE["routes"][name]
    assert first == "index"
    assert route_on_page(LANDING, name) == [station.partition("#")[0] for station in stations]


@pytest.mark.parametrize("name", FILE["routes"])
def test_the_end_of_a_page_leads_to_the_next_one_of_its_route(name: str) -> None:
    pages = [station.partition("#")[0] for station in FILE["routes"][name][1:]]
    for page, following in pairwise(pages):
        assert following in DOCUMENT.findall(TEXTS[page].rpartition("\n## Takeaways")[2])


@pytest.mark.parametrize("name", FILE["routes"])
def test_a_route_ends_at_a_statement_that_is_there(name: str) -> None:
    for station in FILE["routes"][name]:
        chapter, _, label = station.partition("#")
        assert not label or f"\n:label: {label}\n" in TEXTS[chapter]


# Statements


def statements_of(texts: Mapping[str, str]) -> tuple[dict[str, str], Graph]:
    """The chapter of each statement, and what the proof of each statement uses.

    A proof belongs to the last statement before it.
    """
    chapters: dict[str, str] = {}
    uses: Graph = {}
    for name, text in texts.items():
        latest = None
        for block in BLOCK.finditer(text):
            if block["kind"] != "proof":
                label = LABEL.search(block[0])
                latest = label[1] if label else None
                if latest:
                    chapters[latest] = name
            elif latest:
                uses.setdefault(latest, set()).update(set(REFERENCE.findall(block[0])) - {latest})
    return chapters, uses


def faults_of_proofs(texts: Mapping[str, str], allowed: set[tuple[str, str]]) -> list[str]:
    """Proofs that use later chapters, circles, and exceptions that nobody needs."""
    chapters, uses = statements_of(texts)
    place = {name: number for number, name in enumerate(texts)}
    forward = {
        (label, used)
        for label, others in uses.items()
        for used in others
        if used in chapters and place[chapters[used]] > place[chapters[label]]
    }
    found = [f"the proof of {label} uses {used}, of a later chapter" for label, used in sorted(forward - allowed)]
    found += [f"the proof of {label} does not use {used} any more" for label, used in sorted(allowed - forward)]
    return [*found, *circles(uses)]


def test_no_proof_uses_what_comes_later() -> None:
    allowed = {(entry["proof"], entry["uses"]) for entry in FILE["later"] or []}
    assert faults_of_proofs(TEXTS, allowed) == []


def test_every_exception_has_a_reason() -> None:
    assert all(len(entry["reason"].split()) >= 5 for entry in FILE["later"] or [])


# The same with planted faults

NEED = {"one": [], "two": ["one"], "three": ["one", "two"]}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"one": ["three"]}, "one needs three, which comes later"),
        ({"one": ["three"]}, "a circle"),
        ({"two": ["two"]}, "two needs two, which comes later"),
        ({"two": ["four"]}, "four, which is no chapter"),
        ({"four": []}, "four stands in one"),
    ],
)
def test_planted_needs_are_found(change: dict[str, list[str]], fault: str | None) -> None:
    found = faults_of_needs({**NEED, **change}, ["one", "two", "three"])
    assert any(fault in line for line in found) if fault else not found


def test_a_route_with_a_gap_is_found() -> None:
    assert faults_of_route(["index", "one", "two", "three#thm"], NEED) == []
    assert faults_of_route(["index", "two", "three"], NEED) == ["two needs one", "three needs one"]
    assert faults_of_route(["three", "one", "two"], NEED) == ["three needs one", "three needs two"]


def test_the_landing_page_is_read() -> None:
    text = "- *One way:* {doc}`a`,\n  {doc}`the b <b>`.\n- *Other:* {doc}`c`.\n\n{doc}`d`\n"
    assert route_on_page(text, "One way") == ["a", "b"]
    assert route_on_page(text, "Other") == ["c"]
    assert route_on_page(text, "Third") is None


@pytest.mark.parametrize(
    ("line", "needs"),
    [
        ("*Needs* the mean of {doc}`a` and {doc}`b`. *Costs* nothing, see {doc}`c`.", ["a", "b"]),
        ("*It needs* {doc}`the MAP estimator <a>`. *It costs* a minute.", ["a"]),
        ("*Needs:* convexity. *Costs:* a minute.", []),
        ("It needs {doc}`a`.", None),
    ],
)
def test_the_needs_of_a_page_are_read(line: str, needs: list[str] | None) -> None:
    assert needs_on_page(f"# Title\n\n{line}\n") == needs


def page(*statements: tuple[str, str]) -> str:
    return "".join(
        f":::{{prf:lemma}} L\n:label: {label}\nIt is.\n:::\n\n:::{{prf:proof}}\n1. See {uses}.\n:::\n\n"
        for label, uses in statements
    )


def test_planted_proofs_are_found() -> None:
    a, b, c = "{prf:ref}`a`", "{prf:ref}`the lemma <b>`", "{prf:ref}`c`"
    good = {"one": page(("a", "nothing"), ("b", a)), "two": page(("c", a + b + c))}
    assert faults_of_proofs(good, set()) == []
    assert faults_of_proofs(good, {("b", "c")}) == ["the proof of b does not use c any more"]
    forward = {"one": page(("a", "nothing"), ("b", c)), "two": page(("c", a))}
    assert faults_of_proofs(forward, set()) == ["the proof of b uses c, of a later chapter"]
    assert faults_of_proofs(forward, {("b", "c")}) == []
    (circle,) = faults_of_proofs({"one": page(("a", b), ("b", a))}, set())
    assert circle.startswith("a circle: ")
