"""A deck of slides for each chapter, made from its page: puzzle, statements, pictures, controls, questions, answer.

Decks go to ``slides/NAME.html`` beside the pages and use their pictures and formulas, so that they work offline. What a
lecturer wants to say stands in the notes of a slide: answers, ideas of proofs, what a control breaks, solutions.
``slides.js`` shows one slide at a time; without it, or printed, they stand one below the other, with their notes.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup, Tag
from claims import chapter_files
from sphinx.application import Sphinx

FOLDER = "slides"
LONGEST = 900  # letters of a slide; what is longer goes on on the next
SHORTEST = 120  # what is shorter has no slide of its own
BLOCKS = ("p", "ul", "ol", "div", "table", "figure", "blockquote")
STATEMENTS = "div.proof.admonition:not(.prf-proof)"


@dataclass
class Slide:
    """One slide: its kind, its title and text as HTML, and the notes, also HTML."""

    kind: str
    title: str
    body: str = ""
    notes: str = ""

    def html(self) -> str:
        """Return the slide as an element."""
        notes = f'<aside class="notes" aria-label="Notes">{self.notes}</aside>' if self.notes else ""
        return (
            f'<section class="slide {self.kind}" aria-label="{self.kind}"><div class="content"><h2>{self.title}</h2>'
            f"{self.body}</div>{notes}</section>"
        )


# What stands on a page


def inner(element: Tag | None) -> str:
    """Return what an element holds, as HTML."""
    return element.decode_contents().strip() if element is not None else ""


def is_folded(element: Tag, root: Tag) -> bool:
    """Tell whether an element stands in a fold of a part of the page."""
    return any(parent.name == "details" for parent in element.parents if parent is not root)


def is_text(element: Tag) -> bool:
    """Tell whether an element is text, and neither a statement, an exercise nor code."""
    classes = set(element.get("class", []))
    return element.name in BLOCKS and not classes & {"cell", "proof", "exercise", "highlight"}


def texts(section: Tag) -> list[Tag]:
    """Return the blocks of text right below a heading."""
    return [child for child in section.find_all(recursive=False) if is_text(child)]


def plain(element: Tag) -> str:
    """Return the letters of an element."""
    return " ".join(element.get_text().split())


def cut(blocks: Iterable[Tag]) -> Iterator[list[Tag]]:
    """Yield blocks so that each group fits a slide, and no short block at the beginning or the end is left alone."""
    blocks = list(blocks)
    group: list[Tag] = []
    size = 0
    for number, block in enumerate(blocks, start=1):
        added = len(plain(block))
        is_alone = size < SHORTEST or (number == len(blocks) and added < SHORTEST)
        if size + added > LONGEST and not is_alone:
            yield group
            group, size = [], 0
        group.append(block)
        size += added
    if group:
        yield group


def joined(blocks: Iterable[Tag]) -> str:
    """Return blocks as HTML."""
    return "\n".join(str(block) for block in blocks)


# One function for each kind of slide


def puzzle_slides(section: Tag) -> Iterator[Slide]:
    """Yield the puzzle: its text, its pictures, and what is asked."""
    for group in cut(texts(section)):
        yield Slide("puzzle", inner(section.h2), joined(group), "<p>Let the room commit to an answer: hands up.</p>")


def picture_slide(figure: Tag) -> Slide:
    """Return a picture with its caption; the notes say it in words."""
    caption = figure.find("figcaption")
    number = caption.select_one(".caption-number") if caption else None
    text = caption.select_one(".caption-text") if caption else None
    image = copy.copy(figure.find("img"))
    image.attrs = {key: value for key, value in image.attrs.items() if key in ("src", "alt")}
    notes = f"<p>In words: {escape(image.get('alt', ''))}</p>"
    return Slide("picture", inner(number), f"{image}<p>{inner(text)}</p>", notes)


def statement_slides(box: Tag, control: str | None) -> Iterator[Slide]:
    """Yield a statement, with the text after it as notes, and the question what its control breaks."""
    title, *rest = box.find_all(recursive=False)
    after = []
    for sibling in box.find_next_siblings():
        if not is_text(sibling):
            break
        after.append(sibling)
    blocks = [
        block for part in rest for block in (part.find_all(recursive=False) if part.name == "section" else [part])
    ]
    blocks = [block for block in blocks if "used-in" not in block.get("class", [])]  # for readers, not for a room
    for number, group in enumerate(cut(blocks)):
        yield Slide("statement", inner(title), joined(group), joined(after) if number == 0 else "")
    if control:
        question = "<p>A computation breaks an assumption of this statement. Which one, and what goes wrong then?</p>"
        notes = "".join(f"<p>{escape(part)}</p>" for part in control.split("\n\n"))
        yield Slide(
            "control", f"Which assumption is broken? {inner(title.select_one('.caption-number'))}", question, notes
        )


def question_slides(box: Tag) -> Iterator[Slide]:
    """Yield an exercise, with hints and solution as notes."""
    title, *rest = box.find_all(recursive=False)
    notes = []
    for sibling in box.find_next_siblings():
        if sibling.name != "details" or not set(sibling.get("class", [])) & {"hint", "solution"}:
            break
        shown = [block for block in sibling.select_one(".fold-body").find_all(recursive=False) if is_text(block)]
        notes.append(f"<p><strong>{escape(plain(sibling.summary))}</strong></p>{joined(shown)}")
    blocks = [block for part in rest for block in part.find_all(recursive=False)]
    for group in cut(blocks):
        yield Slide("question", inner(title), joined(group), "".join(notes))


def ending_slides(lead: list[Tag], takeaways: Tag | None) -> Iterator[Slide]:
    """Yield the answer to the question of the chapter, and the takeaways."""
    yield Slide("answer", "The answer", joined(lead))
    for item in takeaways.select("div.admonition > ul, div.admonition > ol") if takeaways else []:
        points = item.find_all("li", recursive=False)
        for group in cut(points):
            yield Slide("takeaways", "Takeaways", f"<ul>{joined(group)}</ul>")


def deck(article: Tag, controls: dict[str, str]) -> list[Slide]:
    """Return the slides of a page.

    Args:
        article: the text of the page.
        controls: what each control breaks, by the label of its statement without the kind.
    """
    root = article.find("section")
    if root is None or root.h1 is None:
        raise ValueError("the page has no title")
    lead, needs = texts(root)[0], texts(root)[1:2]
    slides = [Slide("title", inner(root.h1), "", joined(needs))]
    for element in root.find_all(True):
        classes = set(element.get("class", []))
        if is_folded(element, root):
            continue
        if element.name == "section" and element.h2 is not None and "puzzle" in element.h2.get_text().lower():
            slides += puzzle_slides(element) if element.parent is root and len(slides) == 1 else []
        elif element.name == "figure" and element.find("img"):
            slides.append(picture_slide(element))
        elif element.name == "div" and "admonition" in classes and "exercise" in classes:
            slides += question_slides(element)
        elif element.name == "div" and {"admonition", "proof"} <= classes and "prf-proof" not in classes:
            label = element.get("id", "").split("-", 1)[-1]
            slides += statement_slides(element, controls.get(label) or controls.get(label.partition("-")[2]))
    titles = [heading for heading in root.find_all("h2") if plain(heading).rstrip("#").endswith("Takeaways")]
    slides += ending_slides([lead], titles[0].parent if titles else None)
    return slides


def controls_of(module: Path) -> dict[str, str]:
    """Return what each control of a chapter says that it breaks, by label."""
    if not module.exists():
        return {}
    functions = [
        node for node in ast.parse(module.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)
    ]
    return {
        node.name.removeprefix("control_").replace("_", "-"): text
        for node in functions
        if node.name.startswith("control_") and (text := ast.get_docstring(node))
    }


# Pages


def page_of(slides: list[Slide], title: str, name: str) -> str:
    """Return the deck of a chapter as a page."""
    shown = "\n".join(slide.html() for slide in slides)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Slides: {escape(title)}</title>"
        '<link rel="stylesheet" href="../_static/formulas.css">'
        '<link rel="stylesheet" href="../_static/slides.css">'
        '<script defer src="../_static/slides.js"></script>'
        f'</head><body><main>{shown}</main><footer><a href="../book/{name}.html">The chapter</a>'
        "<span>The contributors. Text and figures: CC BY 4.0</span></footer></body></html>\n"
    )


def make(page: str, name: str, controls: dict[str, str]) -> str:
    """Return the deck of a page, from its HTML."""
    article = BeautifulSoup(page, "html.parser").select_one("article.bd-article")
    if article is None:
        raise ValueError(f"{name} has no text")
    for useless in article.select("script, .headerlink, button, .section-number, .report, .reading-time"):
        useless.decompose()
    for link in article.find_all("a", href=True):
        if not re.match(r"\w+:", link["href"]):
            link["href"] = f"../book/{name}.html{link['href']}" if link["href"][0] == "#" else f"../book/{link['href']}"
    for element in article.find_all(id=True):
        if element.name != "div" or not {"proof", "exercise"} & set(element.get("class", [])):
            del element["id"]  # a slide may repeat it
    slides = deck(article, controls)
    for each in slides:
        each.body = re.sub(r' id="[^"]*"', "", each.body)
    return page_of(slides, plain(article.h1), name)


def write(app: Sphinx, error: Exception | None) -> None:
    """Write the decks of all chapters, when their pages are written."""
    if error is not None or app.builder.format != "html":
        return
    target = Path(app.outdir) / FOLDER
    target.mkdir(exist_ok=True)
    for file in chapter_files(Path(app.srcdir)):
        page = Path(app.outdir) / "book" / f"{file.stem}.html"
        controls = controls_of(file.parent / "checks" / f"{file.stem.replace('-', '_')}.py")
        deck_page = make(page.read_text(encoding="utf-8"), file.stem, controls)
        (target / f"{file.stem}.html").write_text(deck_page, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the slides with Sphinx."""
    app.connect("build-finished", write, priority=600)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
