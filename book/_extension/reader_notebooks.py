"""A small Sphinx extension: behind the download button is a notebook that reads well wherever it is opened.

It is written from the page as Sphinx has resolved it. So numbers, references, citations and the numbers of equations
are those of the page, and what remains is plain Markdown with a little HTML: no front end needs an extension.

- Code cells are those of the stored notebook, with their outputs. Folded code is marked as hidden.
- Statements and exercises are block quotes. Proofs, hints and solutions are ``<details>``; the code of a solution stays
  inside of them, as text.
- Below each figure stands its caption, and its description in words behind another ``<details>``.
- A folded section keeps its heading, which JupyterLab shows collapsed.
"""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from docutils import nodes
from folds import fold, fold_title
from nbformat import NotebookNode
from sphinx import addnodes
from sphinx.application import Sphinx

FOLDER = "_reader_notebooks"
WHEELS = "wheels"
COLUMN = 740  # pixels of the text of a desktop page
KEPT_OUTPUTS = ("stream", "display_data", "execute_result")
GLUED = "application/papermill.record/"
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")  # behind a closing dollar, which is then none for KaTeX and code hosts
SPECIAL = re.compile(r"([\\`*_\[\]<>$#|])")
HIDDEN = {"jupyter": {"source_hidden": True}, "cellView": "form"}  # for Jupyter, and for Colab
Numbers = dict[str, dict[str, tuple[int, ...]]]


# Inline


def plain(text: str) -> str:
    """Return text with the marks of Markdown escaped, on one line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split(" ")).replace("\n", " "))


def formula(node: nodes.Node) -> str:
    """Return TeX on one line: inside of a quote, a second line would begin with its mark."""
    return " ".join(node.astext().split())


def code(text: str) -> str:
    """Return text between as many backticks as it needs."""
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


@dataclass
class Writer:
    """Turns the tree of a page into the cells of a notebook.

    Attributes:
        name: the name of the page, such as ``book/divergence``.
        source: the stored notebook.
        numbers: the numbers of figures, tables, statements and exercises of the page, by kind and name.
        sections: the numbers of its sections, by anchor.
        address: where the pages are, with a slash at the end; empty if that is not known: then nothing is linked.
        formats: how a figure, a table, a statement is called with its number.
    """

    name: str
    source: NotebookNode
    numbers: Numbers
    sections: dict[str, tuple[int, ...]]
    address: str = ""
    formats: dict[str, str] = field(default_factory=lambda: {"figure": "Figure %s", "table": "Table %s"})

    def __post_init__(self) -> None:
        """Begin with no cell."""
        self.cells: list[NotebookNode] = []
        self.text: list[str] = []
        self.level = 0
        self.codes: Iterator[NotebookNode] = (cell for cell in self.source.cells if cell.cell_type == "code")

    # Cells

    def flush(self, **metadata: object) -> None:
        """Make a cell of the text so far."""
        text = "\n\n".join(part for part in self.text if part.strip())
        self.text = []
        if text:
            self.add(nbformat.v4.new_markdown_cell(text, metadata=metadata))

    def add(self, cell: NotebookNode) -> None:
        """Append a cell; its name is its place."""
        cell["id"] = f"cell-{len(self.cells)}"
        self.cells.append(cell)

    def next_code(self, shown: str) -> NotebookNode:
        """Return the stored cell with the code that the page shows."""
        for cell in self.codes:
            if cell.source.strip() == shown.strip():
                return cell
            self.add(code_cell(cell, hidden=True))  # the page leaves it out; what follows may need it
        raise ValueError(f"{self.name}: no stored cell has the code {shown[:60]!r}")

    # Blocks

    def blocks(self, children: Iterable[nodes.Node]) -> str:
        """Return the Markdown of some children, as one text without code cells of its own."""
        outer, self.text = self.text, []
        for child in children:
            self.block(child, inside=True)
        inner, self.text = "\n\n".join(part for part in self.text if part.strip()), outer
        return inner

    def block(self, node: nodes.Node, inside: bool = False) -> None:
        """Write one block."""
        kind = type(node).__name__
        if isinstance(node, nodes.section):
            self.section(node, inside)
        elif isinstance(node, fold):
            self.fold(node, inside)
        elif isinstance(node, nodes.container) and node.get("nb_element") == "cell_code":
            (self.quoted_cell if inside else self.cell)(node)
        elif kind in BLOCKS:
            self.text.append(BLOCKS[kind](self, node))
        elif isinstance(node, nodes.Element) and kind not in SILENT:
            raise NotImplementedError(f"{self.name}: no Markdown for {kind}")

    def section(self, node: nodes.section, inside: bool) -> None:
        """Write a section: its heading begins a cell."""
        self.heading(node[0], node["ids"], inside)
        self.level += 1
        for child in node.children[1:]:
            self.block(child, inside)
        self.level -= 1

    def heading(self, title: nodes.Node, names: list[str], inside: bool = False) -> None:
        """Write a heading with its number."""
        if not inside:
            self.flush()
        found = [self.sections[f"#{name}"] for name in names if f"#{name}" in self.sections]
        if self.level == 0:
            found = [self.sections[""]] if "" in self.sections else found
        number = f"{'.'.join(map(str, found[0]))} " if found else ""
        self.text.append(f"{'#' * min(self.level + 1, 6)} {number}{self.inline(title)}")

    def fold(self, node: fold, inside: bool) -> None:
        """Write a fold: a section of its own, or details."""
        title, *rest = node.children
        if not isinstance(title, fold_title) or inside:
            self.text.append(details(self.inline(title), self.blocks(rest)))
            return
        self.heading(title, [])
        self.flush(**{"jp-MarkdownHeadingCollapsed": True})
        self.level += 1
        for child in rest:
            self.block(child)
        self.flush()
        self.level -= 1

    # Code

    def cell(self, node: nodes.container) -> None:
        """Write the code cells of a container, and the captions of the figures that they show."""
        self.flush()
        pictures = iter([image.attributes for image in node.findall(nodes.image)])
        for source in node.findall(is_source):
            self.add(code_cell(self.next_code(source.astext()), pictures))
        for figure in node.findall(nodes.figure):
            self.text.append(self.caption(figure))
            self.flush()

    def quoted_cell(self, node: nodes.container) -> None:
        """Write code and what it shows as text: it is part of a solution, and must not be seen before it is opened."""
        for source in node.findall(is_source):
            stored = self.next_code(source.astext())
            self.text.append(f"```python\n{stored.source}\n```")
            self.text.extend(quoted_output(output) for output in kept_outputs(stored))
        self.text.extend(self.caption(figure) for figure in node.findall(nodes.figure))

    def caption(self, figure: nodes.figure) -> str:
        """Return the caption of a figure, with its number and its description."""
        caption = next(iter(figure.findall(nodes.caption)), None)
        text = f"{self.label('figure', figure)}{self.inline(caption) if caption is not None else ''}"
        described = next((image["alt"] for image in figure.findall(nodes.image) if image.get("alt")), "")
        return f"{text}\n\n{details('The figure in words', plain(described))}" if described else text

    def label(self, kind: str, node: nodes.Element) -> str:
        """Return "**Figure 9.1.** " if the node has a number, else nothing."""
        of_kind = self.numbers.get(kind, {})
        found = [of_kind[name] for name in node["ids"] if name in of_kind]
        return f"**{self.formats[kind] % '.'.join(map(str, found[0]))}.** " if found else ""

    # Inline

    def inline(self, node: nodes.Node) -> str:
        """Return the Markdown of what stands in a paragraph."""
        return "".join(self.pieces(node)).strip()

    def pieces(self, node: nodes.Node) -> list[str]:
        """Return the Markdown of the parts of a paragraph; a number right behind a formula joins it."""
        found = [self.piece(child) for child in node.children]
        for k, child in enumerate(node.children[:-1]):
            number = NUMBER.match(found[k + 1])
            if isinstance(child, nodes.math) and number:
                found[k] = f"${formula(child)}{number[0].replace(',', '{,}')}$"
                found[k + 1] = found[k + 1][number.end() :]
        return found

    def piece(self, node: nodes.Node) -> str:
        """Return the Markdown of one part of a paragraph."""
        if isinstance(node, nodes.Text):
            return plain(node.astext())
        if isinstance(node, nodes.raw):  # HTML that is for the page
            return ""
        if isinstance(node, nodes.math):
            return f"${formula(node)}$"
        if isinstance(node, nodes.literal) and not isinstance(node.parent, addnodes.download_reference):
            return code(node.astext())
        inner = "".join(self.pieces(node))
        if isinstance(node, nodes.reference):
            return self.link(node, inner)
        mark = {nodes.emphasis: "*", nodes.strong: "**"}.get(type(node), "")
        if mark and inner.strip():
            left, right = " " * inner.startswith(" "), " " * inner.endswith(" ")
            return f"{left}{mark}{inner.strip()}{mark}{right}"
        if isinstance(node, nodes.superscript | nodes.subscript):
            tag = "sup" if isinstance(node, nodes.superscript) else "sub"
            return f"<{tag}>{inner}</{tag}>"
        return inner

    def link(self, node: nodes.reference, inner: str) -> str:
        """Return a link to the page, if its address is known, or to somewhere else."""
        target = node.get("refuri", "")
        if not node.get("internal"):
            return f"[{inner}]({target})" if target else inner
        if not self.address:
            return inner
        page = self.address + self.name + ".html"
        if not target or target.startswith("#"):
            return f"[{inner}]({page}{target or '#' + node.get('refid', '')})"
        return f"[{inner}]({page.rsplit('/', 1)[0]}/{target})"


def is_source(node: nodes.Node) -> bool:
    """Tell whether a node holds the code of one cell."""
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code_source"


def details(summary: str, body: str) -> str:
    """Return a fold that every front end can open."""
    return f"<details>\n<summary><strong>{html_of(summary)}</strong></summary>\n\n{body}\n\n</details>"


def html_of(markdown: str) -> str:
    """Return the plain words of a label for a place where Markdown is not read; formulas are."""
    return escape(re.sub(r"\\([\\`*_\[\]<>#|])", r"\1", markdown), quote=False)


def indent(text: str, mark: str) -> str:
    """Return text with a mark before its first line and as much room before the others."""
    first, *rest = text.split("\n")
    room = " " * len(mark)
    return "\n".join([mark + first, *(room + line if line else "" for line in rest)])


def quote(text: str) -> str:
    """Return text as a block quote."""
    return "\n".join(f"> {line}" if line else ">" for line in text.split("\n"))


# Cells and outputs


def kept_outputs(cell: NotebookNode) -> list[NotebookNode]:
    """Return the outputs that a page shows: not the numbers that went into the text."""
    outputs = [output for output in cell.outputs if output.output_type in KEPT_OUTPUTS]
    return [output for output in outputs if not any(kind.startswith(GLUED) for kind in output.get("data", {}))]


def code_cell(stored: NotebookNode, pictures: Iterable[dict[str, Any]] = (), hidden: bool = False) -> NotebookNode:
    """Return a code cell with the outputs of a stored one.

    Args:
        stored: the cell.
        pictures: what the page knows of the pictures that the cell and those after it show: size and description.
        hidden: whether the code is hidden though the page does not fold it.
    """
    cell = nbformat.v4.new_code_cell(stored.source, execution_count=stored.execution_count)
    cell.outputs, found = kept_outputs(stored), iter(pictures)
    if hidden or "hide-input" in stored.metadata.get("tags", []):
        cell.metadata.update(HIDDEN)
    for output in (each for each in cell.outputs if "data" in each):
        kinds = [kind for kind in output.data if kind.startswith("image/")]
        known = next(found, {}) if kinds else {}
        size = {"width": pixels(known["width"])} if "width" in known else {}
        alt = {"alt": known["alt"]} if known.get("alt") else {}
        output.metadata.update({kind: {**size, **alt} for kind in kinds if size or alt})
    return cell


def pixels(width: str) -> int:
    """Return a width on the page in pixels; a share is one of the column."""
    return round(COLUMN / 100 * float(width[:-1])) if width.endswith("%") else int(width.removesuffix("px"))


def quoted_output(output: NotebookNode) -> str:
    """Return an output as Markdown."""
    if output.output_type == "stream":
        return f"```text\n{output.text.rstrip()}\n```"
    data = output.data
    if "image/png" in data:
        return f'<img alt="" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    if "image/svg+xml" in data:
        drawn = base64.b64encode("".join(data["image/svg+xml"]).encode()).decode()
        return f'<img alt="" src="data:image/svg+xml;base64,{drawn}">'
    return f"```text\n{''.join(data.get('text/plain', '')).rstrip()}\n```"


# One function for each kind of block


def paragraph(writer: Writer, node: nodes.Element) -> str:
    """Return a paragraph."""
    return writer.inline(node)


def math_block(writer: Writer, node: nodes.Element) -> str:
    """Return a displayed formula with its number."""
    names = [f"equation-{node['label']}"] if node.get("label") else []
    shown = writer.numbers.get("displaymath", {})
    number = next((shown[name] for name in [*node["ids"], *names] if name in shown), None)
    tag = rf" \tag{{{'.'.join(map(str, number))}}}" if number else ""
    return f"$$ {formula(node)}{tag} $$"


def literal_block(writer: Writer, node: nodes.Element) -> str:
    """Return code that is not to be run."""
    language = node.get("language", "")
    language = {"ipython3": "python", "default": "", "myst-ansi": "text"}.get(language, language)
    return f"```{language}\n{node.astext().rstrip()}\n```"


def bullet_list(writer: Writer, node: nodes.Element) -> str:
    """Return a list."""
    return "\n\n".join(indent(writer.blocks(item.children), "- ") for item in node.children)


def enumerated_list(writer: Writer, node: nodes.Element) -> str:
    """Return a numbered list."""
    start = node.get("start", 1)
    items = enumerate(node.children, start=start)
    return "\n\n".join(indent(writer.blocks(item.children), f"{number}. ") for number, item in items)


def statement(writer: Writer, node: nodes.Element) -> str:
    """Return a statement in a box, with its number and title."""
    title, *rest = node.children
    kind = node["realtype"].capitalize()
    number = writer.numbers.get(node["countertype"], {}).get(node["label"])
    head = f"**{kind} {'.'.join(map(str, number))}**" if number else f"**{kind}**"
    named = f" {writer.inline(title)}" if writer.inline(title) else ""
    body = writer.blocks(child for part in rest for child in (part.children if is_body(part) else [part]))
    return quote(f"{head}{named}\n\n{body}")


def exercise(writer: Writer, node: nodes.Element) -> str:
    """Return an exercise in a box, with its number and title."""
    title, *rest = node.children
    number = writer.numbers.get("exercise", {}).get(node["label"])
    head = f"**Exercise {'.'.join(map(str, number))}**" if number else "**Exercise**"
    named = f" {writer.inline(title)}" if writer.inline(title) else ""
    body = writer.blocks(child for part in rest for child in (part.children if is_body(part) else [part]))
    return quote(f"{head}{named}\n\n{body}")


def is_body(node: nodes.Node) -> bool:
    """Tell whether a node is the body of a statement or an exercise, which has no title."""
    return isinstance(node, nodes.section) and not (node.children and isinstance(node[0], nodes.title))


def admonition(writer: Writer, node: nodes.Element) -> str:
    """Return an admonition in a box."""
    title = node[0] if node.children and isinstance(node[0], nodes.title) else None
    body = writer.blocks(node.children[1:] if title is not None else node.children)
    return quote(f"**{writer.inline(title)}**\n\n{body}" if title is not None else body)


def table(writer: Writer, node: nodes.Element) -> str:
    """Return a table with its title above."""
    title = next((child for child in node.children if isinstance(child, nodes.title)), None)
    group = next(iter(node.findall(nodes.tgroup)))
    rows = [[cell_text(writer, entry) for entry in row.children] for row in group.findall(nodes.row)]
    has_head = any(isinstance(child, nodes.thead) for child in group.children)
    head, body = (rows[0], rows[1:]) if has_head else ([""] * len(rows[0]), rows)
    sides = ["right" in " ".join(entry["classes"]) for entry in list(group.findall(nodes.row))[-1].children]
    lines = [head, ["--:" if right else ":--" for right in sides], *body]
    drawn = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    above = f"{writer.label('table', node)}{writer.inline(title)}" if title is not None else ""
    return f"{above}\n\n{drawn}" if above else drawn


def cell_text(writer: Writer, entry: nodes.Element) -> str:
    """Return the text of an entry of a table; a bar in a formula would end the entry."""
    text = " ".join(writer.blocks(entry.children).split("\n"))
    return re.sub(r"\$[^$]*\$", lambda found: found[0].replace(r"\|", r"\Vert ").replace("|", r"\vert "), text)


def figure(writer: Writer, node: nodes.Element) -> str:
    """Return the caption of a figure that no code shows."""
    return writer.caption(node)


def container(writer: Writer, node: nodes.Element) -> str:
    """Return what a container holds."""
    return writer.blocks(node.children)


def definition_list(writer: Writer, node: nodes.Element) -> str:
    """Return terms with their definitions."""
    return "\n\n".join(f"**{writer.inline(item[0])}**\n\n{writer.blocks(item[-1].children)}" for item in node.children)


BLOCKS: dict[str, Callable[[Writer, Any], str]] = {
    "paragraph": paragraph,
    "math_block": math_block,
    "displaymath": math_block,
    "literal_block": literal_block,
    "bullet_list": bullet_list,
    "enumerated_list": enumerated_list,
    "theorem_node": statement,
    "exercise_enumerable_node": exercise,
    "exercise_node": exercise,
    "admonition": admonition,
    "note": admonition,
    "tip": admonition,
    "warning": admonition,
    "table": table,
    "figure": figure,
    "container": container,
    "block_quote": lambda writer, node: quote(writer.blocks(node.children)),
    "definition_list": definition_list,
}
SILENT = ("target", "raw", "comment", "index", "substitution_definition", "meta", "fold_bar", "transition")


# Pages

PACKAGES = {
    "invlib": ("invlib", "pyproject.toml", "README.md", "LICENSE"),
    "book": ("checks", "exercises", "figures.py", "pyproject.toml"),
}
"""The folders of the packages that a notebook needs, and what goes into each, from the root and from the book."""


def build_wheels(app: Sphinx) -> None:
    """Build the packages that the notebooks need, beside the pages."""
    if app.builder.format != "html":
        return
    for folder, parts in PACKAGES.items():
        root = Path(app.srcdir) / ("" if folder == "invlib" else folder)
        if not (root / "pyproject.toml").exists():  # a book without packages of its own
            continue
        with TemporaryDirectory() as copy:  # where setuptools may leave what it likes
            for part in parts:
                place = shutil.copytree if (root / part).is_dir() else shutil.copy
                place(root / part, Path(copy) / part)
            command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
            subprocess.run([*command, "--wheel-dir", str(Path(app.outdir) / WHEELS), copy], check=True)


def opening(address: str, name: str, wheels: Iterable[str]) -> list[NotebookNode]:
    """Return the first cells: what a reader of the notebook alone has to know, and to install."""
    if not address:
        text = (
            "*This is a chapter of a book. Its code needs `invlib`, the library of the book, and the checks of its "
            "chapters: in the folder of the book, `pip install . ./book` installs them.*"
        )
        return [nbformat.v4.new_markdown_cell(text, id="opening")]
    text = f"*This is a chapter of a book. [Its page]({address}{name}.html) has links, a search, and the latest text.*"
    command = " ".join(["%pip install --quiet", *(f"{address}{WHEELS}/{wheel}" for wheel in wheels)])
    return [nbformat.v4.new_markdown_cell(text, id="opening"), nbformat.v4.new_code_cell(command, id="install")]


def notebook_of(writer: Writer, tree: nodes.document, wheels: Iterable[str] = ()) -> NotebookNode:
    """Return the notebook of a page."""
    for child in tree.children:
        writer.block(child)
    writer.flush()
    first, *rest = writer.cells
    kept = ("kernelspec", "language_info")
    metadata = {key: value for key, value in writer.source.metadata.items() if key in kept}
    cells = [first, *opening(writer.address, writer.name, wheels), *rest]
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def writer_for(app: Sphinx, name: str, kind: type[Writer] = Writer) -> Writer | None:
    """Return a writer for the notebook of a page, if the page is one."""
    source = Path(app.env.doc2path(name))
    if app.builder.format != "html" or source.suffix != ".ipynb":
        return None
    numbers, sections = app.env.toc_fignumbers.get(name, {}), app.env.toc_secnumbers.get(name, {})
    formats = {each: app.config.numfig_format[each] for each in ("figure", "table")}
    address = app.config.html_baseurl.rstrip("/") + "/" if app.config.html_baseurl else ""
    return kind(name, nbformat.read(source, as_version=4), numbers, sections, address, formats)


def write(app: Sphinx, tree: nodes.document, name: str) -> None:
    """Write the notebook of a page, if the page is one."""
    writer = writer_for(app, name)
    if writer is None:
        return
    wheels = sorted(path.name for path in (Path(app.outdir) / WHEELS).glob("*.whl"))
    target = Path(app.outdir) / FOLDER / f"{name}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook_of(writer, tree, wheels), target)


def offer(app: Sphinx, error: Exception | None) -> None:
    """Put the notebooks where the download buttons lead."""
    written = Path(app.outdir) / FOLDER
    if error is None and written.is_dir():
        shutil.copytree(written, Path(app.outdir) / "_sources", dirs_exist_ok=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the notebooks with Sphinx."""
    app.connect("builder-inited", build_wheels)
    app.connect("doctree-resolved", write, priority=900)
    app.connect("build-finished", offer)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
