"""A small Sphinx extension: what a reader may want, but need not see at once, is folded behind a labelled bar.

Every fold is a native ``<details>``: it opens without a script, by mouse, keyboard and in a search of the browser.
``folds.js`` adds what a page has to do as a whole: open all, print, follow a link into a fold.

*Sections.* A section whose title begins with "▸ " becomes a fold. The title, without the mark, is the label of its bar;
the section keeps its names, and leaves the contents on the right.

*Proofs.* The directive ``{prf:proof}`` becomes a fold with the label "Proof, 5 steps". With ``:class: open`` it stays
open, and begins with the word "Proof".

*Hints and solutions.* Dropdowns become folds like all others.

*Code.* Cells with the tag ``hide-input`` that follow each other share one bar, up to the first that shows a figure; the
label says which. What the cells show stays visible below.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.writers.html5 import HTML5Translator

MARK = "▸"


class fold(nodes.General, nodes.Element):  # noqa: N801
    """A fold: its first child is the bar. The attribute ``opened`` opens it from the start."""


class fold_title(nodes.title):  # noqa: N801
    """The bar of a folded section. Like any title, the search finds it."""


class inner_title(nodes.title):  # noqa: N801
    """The title of a section in a folded one. The contents do not list it, so it has no number."""


class fold_bar(nodes.General, nodes.TextElement):  # noqa: N801
    """The bar of any other fold."""


# In HTML


def visit_fold(self: HTML5Translator, node: fold) -> None:
    """Open the element; a folded section is one level deeper, as any section is."""
    self.section_level += isinstance(node[0], fold_title)
    classes = " ".join(["fold", *node["classes"]])
    name = f' id="{node["ids"][0]}"' if node["ids"] else ""
    opened = " open" if node.get("opened") else ""
    self.body.append(f'<details class="{classes}"{name}{opened}>\n<summary>')
    self.body.extend(f'<span id="{other}"></span>' for other in node["ids"][1:])


def depart_fold(self: HTML5Translator, node: fold) -> None:
    """Close the element."""
    self.section_level -= isinstance(node[0], fold_title)
    self.body.append("</div>\n</details>\n")


def visit_fold_title(self: HTML5Translator, node: fold_title) -> None:
    """Open the heading in the bar."""
    self.body.append(f'<h{self.section_level} class="fold-title">')


def depart_fold_title(self: HTML5Translator, node: fold_title) -> None:
    """Close the bar, and open what it hides."""
    self.add_permalink_ref(node.parent, "Link to this heading")
    self.body.append(f'</h{self.section_level}></summary>\n<div class="fold-body">\n')


def visit_inner_title(self: HTML5Translator, node: inner_title) -> None:
    """Open the heading, without the number of the page, which Sphinx gives to those that have none of their own."""
    self.body.append(f"<h{self.section_level}>")


def depart_inner_title(self: HTML5Translator, node: inner_title) -> None:
    """Close the heading."""
    self.add_permalink_ref(node.parent, "Link to this heading")
    self.body.append(f"</h{self.section_level}>\n")


def visit_fold_bar(self: HTML5Translator, node: fold_bar) -> None:
    """Open the text of the bar."""
    self.body.append('<span class="fold-title">')


def depart_fold_bar(self: HTML5Translator, node: fold_bar) -> None:
    """Close the bar, and open what it hides."""
    self.body.append('</span></summary>\n<div class="fold-body">\n')


# Sections


class UnmarkTitles(SphinxTransform):
    """Take the mark from the titles of sections before anything else reads them."""

    default_priority = 400  # before Sphinx collects labels and contents

    def apply(self, **options: object) -> None:
        """Give the class "fold" to the sections whose titles have the mark."""
        for title in self.document.findall(nodes.title):
            text = next(iter(title.findall(nodes.Text)), None)
            if isinstance(title.parent, nodes.section) and text is not None and text.startswith(MARK):
                text.parent.replace(text, nodes.Text(text.removeprefix(MARK).lstrip()))
                title.rawsource = title.rawsource.removeprefix(MARK).lstrip()
                title.parent["classes"].append("fold")


def fold_sections(app: Sphinx, tree: nodes.document) -> None:
    """Make folds of the sections with the class "fold"; the contents do not list them, since this comes first."""
    for section in [node for node in tree.findall(nodes.section) if "fold" in node["classes"]]:
        title, *rest = section.children
        bar = fold_title(title.rawsource, "", *title.children)
        new = fold("", bar, *rest, ids=section["ids"], names=section["names"], classes=["part"])
        section.parent.replace(section, new)
        for title in [title for inner in new.findall(nodes.section) for title in inner.children[:1]]:
            if type(title) is nodes.title:
                title.replace_self(inner_title(title.rawsource, "", *title.children))


# Proofs


def steps(proof: nodes.Element) -> int:
    """Return the number of items of the numbered lists of a proof, not counting those inside of other lists."""
    return sum(len(child) for child in proof.children if isinstance(child, nodes.enumerated_list))


def proof_label(count: int) -> str:
    """Return the label of the bar of a proof."""
    return "Proof" if count == 0 else f"Proof, {count} step" + "s" * (count > 1)


class Proof(SphinxDirective):
    """The directive ``{prf:proof}``."""

    has_content = True
    option_spec = {"class": directives.class_option}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """Return a fold, or, for the class "open", an open proof."""
        classes = ["proof", "prf-proof", *self.options.get("class", [])]
        body = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, body)
        if "open" not in classes:
            bar = fold_bar("", proof_label(steps(body)))
            return [fold("", bar, *body.children, classes=classes)]
        if not isinstance(body.next_node(), nodes.paragraph):
            body.insert(0, nodes.paragraph())
        body[0].insert(0, [nodes.emphasis("", "Proof."), nodes.Text(" ")])
        return [nodes.admonition("", *body.children, classes=classes)]


# What is made of the page as a whole, once numbers are known


def is_hidden_code(node: nodes.Node) -> bool:
    """Tell whether a node is a code cell whose code is hidden and whose output is not."""
    return (
        isinstance(node, nodes.container)
        and node.get("nb_element") == "cell_code"
        and node.get("hide_mode") == "input"
        and bool(node.children)
        and node[0].get("nb_element") == "cell_code_source"
    )


def figures_of(cell: nodes.Element) -> list[nodes.figure]:
    """Return the figures with a name that a cell shows."""
    return [figure for figure in cell.findall(nodes.figure) if figure["ids"]]


def runs(parent: nodes.Element) -> Iterator[list[nodes.container]]:
    """Yield the cells with hidden code that follow each other; a figure ends a run."""
    run: list[nodes.container] = []
    for child in parent.children:
        if is_hidden_code(child):
            run.append(child)
        if run and (not is_hidden_code(child) or figures_of(child)):
            yield run
            run = []
    if run:
        yield run


def join_cells(run: list[nodes.container], label: str) -> nodes.container:
    """Return one cell with a bar for all code, and all that the cells show below it."""
    code, shown = fold("", fold_bar("", label), classes=["code"]), []
    for cell in run:
        source, *outputs = cell.children
        source["ids"] += cell["ids"]  # a link to the cell leads to its code
        code += source
        shown += outputs
    classes = dict.fromkeys(name for cell in run for name in cell["classes"])
    return nodes.container("", code, *shown, nb_element="cell_code", classes=list(classes))


class Folds(SphinxPostTransform):
    """Make folds of dropdowns, solutions and hidden code."""

    default_priority = 190  # after the titles of solutions are known, before others hide code in their way
    formats = ("html",)

    def run(self, **options: object) -> None:
        """Change the tree of one page."""
        for node in list(self.document.findall(nodes.Element)):
            if isinstance(node, nodes.container) and node.get("design_component") == "dropdown":
                self.fold_dropdown(node)
            elif isinstance(node, nodes.Admonition) and "dropdown" in node["classes"]:
                self.fold_admonition(node)
        for parent in {id(node.parent): node.parent for node in self.document.findall(is_hidden_code)}.values():
            for run in list(runs(parent)):
                parent.replace(run[0], join_cells(run, self.code_label(run)))
                for other in run[1:]:
                    parent.remove(other)

    def fold_dropdown(self, node: nodes.container) -> None:
        """Make a fold of a dropdown of ``sphinx-design``."""
        title, rest = ("Details", node.children) if not node["has_title"] else (node[0].astext(), node[1:])
        names = node["ids"] + (node[0]["ids"] if node["has_title"] else [])
        classes = ["hint"] if title.lower().startswith("hint") else []
        new = fold("", fold_bar("", title), *rest, ids=names, classes=classes, opened=node["opened"])
        node.parent.replace(node, new)

    def fold_admonition(self, node: nodes.Element) -> None:
        """Make a fold of an admonition or a solution; the title becomes plain, so that all of it opens the fold."""
        title, *rest = node.children
        text = title.astext()
        for link in title.findall(nodes.reference):  # "Solution to", and a link to the exercise with its title
            text = "".join(child.astext() for child in title.children[: title.index(link)]) + link[0].astext()
        if len(rest) == 1 and isinstance(rest[0], nodes.section):
            rest = rest[0].children
        classes = [name for name in node["classes"] if name != "dropdown"]
        node.parent.replace(node, fold("", fold_bar("", text), *rest, ids=node["ids"], classes=classes))

    def code_label(self, run: list[nodes.container]) -> str:
        """Return the label of the bar of some cells."""
        numbers = self.env.toc_fignumbers.get(self.env.docname, {}).get("figure", {})
        found = [numbers[name] for figure in figures_of(run[-1]) for name in figure["ids"] if name in numbers]
        if not found:
            return "Code"
        names = [self.config.numfig_format["figure"] % ".".join(map(str, number)) for number in found]
        return "Code of " + " and ".join(names)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the folds with Sphinx."""
    app.setup_extension("sphinx_proof")
    app.add_node(fold, html=(visit_fold, depart_fold))
    app.add_node(fold_title, html=(visit_fold_title, depart_fold_title))
    app.add_node(inner_title, html=(visit_inner_title, depart_inner_title))
    app.add_node(fold_bar, html=(visit_fold_bar, depart_fold_bar))
    app.add_directive_to_domain("prf", "proof", Proof, override=True)
    app.add_transform(UnmarkTitles)
    app.connect("doctree-read", fold_sections, priority=100)
    app.add_post_transform(Folds)
    app.add_js_file("folds.js", loading_method="defer")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
