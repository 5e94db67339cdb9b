"""A small Sphinx extension: which statement uses which, told in each statement and drawn as a map.

A statement uses another if it, or the proof that follows it, refers to it. Every statement ends with a line that says
where it is used, which functions of the library its check calls, and which theorem for Coq has part of its algebra.
``{statement-map}`` draws all of them, coloured by how they are secured, and holds a table as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from claims import chapter_files, read_chapter
from docutils import nodes
from lemmas import FOLDER, Theorem, by_label
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

SECURED = {
    "proved": "proved, checked, and broken by a control",
    "cited": "checked and broken by a control; the proof is in the text, or cited",
    "stated": "an assumption, a definition or a remark: nothing to prove",
}
LIBRARY, PROOFS = "book/library", "book/proofs"
STEP, ROW, LEFT, TOP = 42, 56, 110, 30  # of the drawing, in its own units


@dataclass
class Statement:
    """A statement as the pages show it, and what it uses; ``proved`` if a proof follows it on its page."""

    label: str
    page: str
    kind: str
    title: str
    proved: bool = False
    uses: list[str] = field(default_factory=list)
    number: str = ""

    def name(self) -> str:
        """Return kind and number."""
        return f"{self.kind.title()} {self.number}"


def read_statements(app: Sphinx, tree: nodes.document) -> None:
    """Keep the statements of a page with what they use, and what the rest of the page uses."""
    found: dict[str, Statement] = {}
    rest: list[str] = []
    last: Statement | None = None
    for node in tree.findall(nodes.Element):
        classes = node["classes"] if isinstance(node, nodes.Element) else []
        if "proof" in classes and node.get("label") and node.get("countertype"):
            last = Statement(node["label"], app.env.docname, kind_of(node), node["title"])
            found[last.label] = last
        elif "prf-proof" in classes and last is not None:
            last.proved = True
        elif isinstance(node, addnodes.pending_xref) and node["refdomain"] == "prf":
            owner = last if last is not None and is_inside(node) else None
            (owner.uses if owner else rest).append(node["reftarget"])
    kept = app.env.book_statements = getattr(app.env, "book_statements", {})  # type: ignore[attr-defined]
    kept[app.env.docname] = (found, rest)


def kind_of(node: nodes.Element) -> str:
    """Return the kind of a statement."""
    return next(name for name in node["classes"] if name != "proof")


def is_inside(node: nodes.Node) -> bool:
    """Tell whether a node stands in a statement or in a proof."""
    while node.parent is not None:
        node = node.parent
        if isinstance(node, nodes.Element) and {"proof", "prf-proof"} & set(node["classes"]):
            return True
    return False


def all_statements(env: BuildEnvironment) -> dict[str, Statement]:
    """Return the statements of the book, by their labels, in the order of the pages, with numbers."""
    kept = env.book_statements  # type: ignore[attr-defined]
    found: dict[str, Statement] = {}
    for page in pages_in_order(env):
        counters = env.toc_fignumbers.get(page, {}).values()
        numbers = {name: number for counter in counters for name, number in counter.items()}
        for label, statement in kept.get(page, ({}, []))[0].items():
            statement.number = ".".join(map(str, numbers.get(label, ())))
            found[label] = statement
    return found


def pages_in_order(env: BuildEnvironment) -> list[str]:
    """Return the names of all pages that were read, chapters by their numbers."""
    pages = env.book_statements  # type: ignore[attr-defined]
    return sorted(pages, key=lambda page: env.toc_secnumbers.get(page, {}).get("") or (len(pages),))


def users(env: BuildEnvironment, statement: Statement) -> tuple[list[Statement], list[str]]:
    """Return the statements that use one, and the other chapters that refer to it elsewhere."""
    label = statement.label
    statements = [other for other in all_statements(env).values() if label in other.uses and other.label != label]
    kept = env.book_statements  # type: ignore[attr-defined]
    told = {statement.page, *(other.page for other in statements)}
    pages = [page for page in pages_in_order(env) if page not in told and label in kept[page][1]]
    return statements, [page for page in pages if env.toc_secnumbers.get(page, {}).get("")]


def say_where_used(app: Sphinx, tree: nodes.document, page: str) -> None:
    """End every statement of a page with a line that says where it is used."""
    if not hasattr(app.env, "book_statements"):
        return
    called = functions_called(app.env, page)
    checked = by_label(Path(app.srcdir) / FOLDER) if PROOFS in app.env.all_docs else {}
    for label, own in app.env.book_statements.get(page, ({}, []))[0].items():
        node = next((node for node in tree.findall(nodes.Element) if node.get("label") == label and node["ids"]), None)
        statements, pages = users(app.env, own)
        if node is None:
            continue
        links = [(statement.name(), statement.page, statement.label) for statement in statements]
        links += [(chapter_name(app.env, other), other, "") for other in pages]
        entries = [(name, LIBRARY, f"invlib.{name}") for name in called.get(label, [])]
        line = nodes.paragraph("", classes=["used-in"])
        line += sentence(app, page, "Used in ", links)
        line += sentence(app, page, " In the library: " if links else "In the library: ", entries)
        line += checked_by_coq(app, page, checked.get(label, []), " " if len(line) else "")
        if len(line):
            node[-1] += line


def sentence(app: Sphinx, page: str, start: str, links: list[tuple[str, str, str]]) -> list[nodes.Node]:
    """Return a sentence of links, each a text, a page and a name on it; nothing if there are none."""
    parts: list[nodes.Node] = []
    for text, target, name in links:
        address = f"#{name}" if name else ""
        if target != page:
            address = app.builder.get_relative_uri(page, target) + address
        parts += [nodes.Text(", " if parts else start), nodes.reference("", text, refuri=address, internal=True)]
    return [*parts, nodes.Text(".")] if parts else []


def checked_by_coq(app: Sphinx, page: str, theorems: list[Theorem], space: str) -> list[nodes.Node]:
    """Return a sentence with a link to the first of some theorems, and how many more there are."""
    if not theorems:
        return []
    first, more = theorems[0].name, len(theorems) - 1
    address = f"{app.builder.get_relative_uri(page, PROOFS)}#coq-{first}"
    link = nodes.reference("", "", nodes.literal("", first), refuri=address, internal=True)
    return [nodes.Text(f"{space}Checked by Coq, in part: "), link, nodes.Text(f" and {more} more." if more else ".")]


def functions_called(env: BuildEnvironment, page: str) -> dict[str, list[str]]:
    """Return for the labels of a page what their checks call of the library and its page lists."""
    if LIBRARY not in env.all_docs:
        return {}
    file = Path(env.doc2path(page))
    listed = set(env.get_domain("py").objects)  # type: ignore[attr-defined]
    called: dict[str, list[str]] = {}
    for claim in read_chapter(file).claims if file in chapter_files(Path(env.srcdir)) else ():
        names = [name.partition(".")[0] for name in claim.functions if claim.role == "check"]
        known = [name for name in names if f"invlib.{name}" in listed]
        called[claim.label] = list(dict.fromkeys([*called.get(claim.label, []), *known]))
    return called


def chapter_name(env: BuildEnvironment, page: str) -> str:
    """Return how a page is called in a line."""
    number = env.toc_secnumbers.get(page, {}).get("", ())
    return f"Chapter {'.'.join(map(str, number))}" if number else env.titles[page].astext().split(":")[0]


# The map


class statement_map(nodes.General, nodes.Element):  # noqa: N801
    """The place of the map, until all is known."""


class StatementMap(SphinxDirective):
    """The directive ``{statement-map}``."""

    def run(self) -> list[nodes.Node]:
        """Leave the place open; the page depends on all chapters."""
        for file in chapter_files(Path(self.env.srcdir)):
            self.env.note_dependency(str(file))
        return [statement_map()]


def secured(env: BuildEnvironment) -> dict[str, str]:
    """Return for each statement how it is secured: a key of ``SECURED``."""
    roles: dict[str, set[str]] = {}
    for file in chapter_files(Path(env.srcdir)):
        for claim in read_chapter(file).claims:
            roles.setdefault(claim.label, set()).add(claim.role)
    found = {}
    for label, statement in all_statements(env).items():
        tested = {"check", "control"} <= roles.get(label, set())
        found[label] = "stated" if not tested else "proved" if statement.proved else "cited"
    return found


def places(env: BuildEnvironment) -> dict[str, tuple[int, int]]:
    """Return where each statement stands in the drawing: a row for each chapter."""
    rows: dict[str, list[str]] = {}
    for label, statement in all_statements(env).items():
        rows.setdefault(statement.page, []).append(label)
    return {
        label: (LEFT + STEP * column, TOP + ROW * row)
        for row, labels in enumerate(rows.values())
        for column, label in enumerate(labels)
    }


def edges(env: BuildEnvironment) -> Iterator[tuple[str, str]]:
    """Yield pairs: a statement, and one that it uses."""
    known = all_statements(env)
    for label, statement in known.items():
        for other in dict.fromkeys(statement.uses):
            if other in known and other != label:
                yield label, other


def curve(start: tuple[int, int], end: tuple[int, int]) -> str:
    """Return the path of an edge; within a row it bends upwards."""
    (x, y), (u, v) = start, end
    if y == v:
        return f"M{x} {y}Q{(x + u) / 2:.0f} {y - 14 - abs(x - u) / 6:.0f} {u} {v}"
    return f"M{x} {y}C{x} {(y + v) / 2:.0f} {u} {(y + v) / 2:.0f} {u} {v}"


def drawing(app: Sphinx, page: str) -> str:
    """Return the map as SVG."""
    at, known, how = places(app.env), all_statements(app.env), secured(app.env)
    width = max(x for x, _ in at.values()) + STEP
    height = max(y for _, y in at.values()) + ROW
    lines = [
        f'<path class="edge" data-from="{user}" data-to="{used}" d="{curve(at[user], at[used])}"/>'
        for user, used in edges(app.env)
    ]
    rows = dict.fromkeys((statement.page, at[label][1]) for label, statement in known.items())
    names = [f'<text class="row" x="8" y="{y + 4}">{escape(chapter_name(app.env, name))}</text>' for name, y in rows]
    dots = []
    for label, statement in known.items():
        x, y = at[label]
        address = f"{app.builder.get_relative_uri(page, statement.page)}#{label}"
        dots.append(
            f'<a href="{address}" class="statement {how[label]}" data-label="{label}" data-kind="{statement.kind}" '
            f'aria-label="{escape(statement.name())}: {escape(spoken_title(statement))}">'
            f'<circle cx="{x}" cy="{y}" r="8"/><text x="{x}" y="{y + 22}">{statement.number}</text></a>'
        )
    return (
        f'<svg class="statement-map" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="group" '
        f'aria-label="Map of statements; the table below says the same">{"".join(lines + names + dots)}</svg>'
    )


def spoken_title(statement: Statement) -> str:
    """Return the title of a statement without the marks of formulas."""
    return statement.title.replace("$", "").replace("\\", "") or statement.kind


def legend() -> str:
    """Return the key of colours, and the fields that filter the map."""
    keys = "".join(f'<li><span class="key {name}"></span>{escape(text)}</li>' for name, text in SECURED.items())
    return (
        f'<ul class="map-key">{keys}</ul><p class="map-filter pst-js-only"><label>Show '
        '<select><option value="">all</option><option value="theorem">theorems</option>'
        '<option value="proposition">propositions</option><option value="lemma">lemmas</option>'
        '<option value="corollary">corollaries</option></select></label> '
        '<label>with the words <input type="search"></label> <output></output></p>'
    )


def table(app: Sphinx, page: str) -> str:
    """Return the same as the map, as a table."""
    known, how = all_statements(app.env), secured(app.env)

    def link(label: str, text: str = "") -> str:
        address = f"{app.builder.get_relative_uri(page, known[label].page)}#{label}"
        return f'<a href="{address}">{text or known[label].number}</a>'

    rows = []
    for label, statement in known.items():
        uses = ", ".join(link(other) for user, other in edges(app.env) if user == label) or "—"
        used = ", ".join(link(user) for user, other in edges(app.env) if other == label) or "—"
        name = link(label, statement.name())
        rows.append(
            f"<tr><td>{name} {titled(statement.title)}</td><td>{how[label]}</td><td>{uses}</td><td>{used}</td></tr>"
        )
    head = "".join(f"<th>{name}</th>" for name in ("Statement", "Secured", "Uses", "Used in"))
    return (
        '<details class="fold"><summary><span class="fold-title">The map as a table</span></summary>'
        '<div class="fold-body"><div class="pst-scrollable-table-container"><table class="table">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></div></details>"
    )


def titled(title: str) -> str:
    """Return a title as HTML; the formulas in it get the marks by which they are found."""
    parts = [escape(part) for part in title.split("$")]
    parts[1::2] = [f'<span class="math notranslate nohighlight">\\({part}\\)</span>' for part in parts[1::2]]
    return "".join(parts)


def draw_map(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Put the map in its place."""
    for node in list(tree.findall(statement_map)):
        html = f'<div class="map">{legend()}<div class="map-box">{drawing(app, page)}</div></div>{table(app, page)}'
        node.replace_self(nodes.raw("", html, format="html"))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register both with Sphinx."""
    app.add_node(statement_map)
    app.add_directive("statement-map", StatementMap)
    app.connect("doctree-read", read_statements, priority=50)
    app.connect("doctree-resolved", say_where_used)
    app.connect("doctree-resolved", draw_map)
    app.add_js_file("map.js", loading_method="defer")
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
