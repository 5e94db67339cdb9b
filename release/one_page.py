"""All pages of the book as one page, which ``pdf.py`` prints: names and links as one page needs them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from html import escape
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import contents
from bs4 import BeautifulSoup, Tag

MATHJAX = """{
    chtml: {fontURL: "mathjax/output/chtml/fonts/woff-v2"},
    options: {enableMenu: false, enableAssistiveMml: false},
}"""  # letters instead of drawings: a smaller file, with formulas that can be searched


def anchor(page: str, name: str = "") -> str:
    """Return the name that a page, or an element of it, has in the whole."""
    return f"{page.replace('/', '-')}--{name}" if name else page.replace("/", "-")


def target(link: str, page: str, pages: Iterable[str]) -> str | None:
    """Return where a link of a page leads in the whole; None if it does not stay in the book.

    Args:
        link: as it stands in the page.
        page: the name of the page.
        pages: the names of all pages.
    """
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    place = page
    if parts.path:
        where = PurePosixPath(os.path.normpath(PurePosixPath(page).parent / unquote(parts.path)))
        place = str(where.with_suffix("")) if where.suffix == ".html" else ""
    return "#" + anchor(place, unquote(parts.fragment)) if place in pages else None


def joined(page: str, pages: list[str], html: Path, address: str = "") -> Tag:
    """Return the text of a page, with names and links as the whole has them.

    Args:
        page: its name.
        pages: the names of all pages.
        html: the folder of the built pages.
        address: of the pages, with a slash at the end; where it is empty, what leads out of the book is no link.
    """
    soup = BeautifulSoup((html / f"{page}.html").read_text(encoding="utf-8"), "html.parser")
    article = soup.select_one("article.bd-article")
    if article is None:
        raise ValueError(f"{page} has no text")
    for useless in article.select("script, .headerlink, .copybtn, .cell_input button"):
        useless.decompose()
    for formula in article.select("mjx-container"):
        formula.replace_with(formula.math)  # letters come from MathJax again, see above
    for element in article.find_all(id=True):
        element["id"] = anchor(page, element["id"])
    for link in article.find_all("a", href=True):
        inside = target(link["href"], page, pages)
        if inside:
            link["href"] = inside
        elif not urlsplit(link["href"]).scheme:
            outside = os.path.normpath(f"{PurePosixPath(page).parent}/{link['href']}")
            link["href"] = address + outside
            if not address:
                link.unwrap()
    for picture in article.find_all("img", src=True):
        if not urlsplit(picture["src"]).scheme:
            picture["src"] = os.path.normpath(f"{PurePosixPath(page).parent}/{picture['src']}")
        picture.attrs.pop("loading", None)
    return article


def heading(article: Tag) -> str:
    """Return the title of a page, with its number."""
    found = article.find("h1")
    return " ".join(found.get_text().split()) if found else ""


def contents_of(parts: list[contents.Part], articles: dict[str, Tag]) -> str:
    """Return the table of contents, with places for the numbers of the pages."""
    lines = []
    for part in parts:
        lines += [f'<p class="part">{escape(part.title)}</p>'] if part.title else []
        for page in part.pages:
            link = f'<a href="#{anchor(page)}">{escape(heading(articles[page]))}</a>'
            lines.append(f'<p>{link}<span data-page="{anchor(page)}"></span></p>')
    return f'<nav><p class="contents-title">Contents</p>{"".join(lines)}</nav>'


def style_of(page: str, html: Path) -> str:
    """Return the style sheets of a page, as the whole needs them, and those of the paper."""
    soup = BeautifulSoup((html / f"{page}.html").read_text(encoding="utf-8"), "html.parser")
    sheets = [urlsplit(link["href"]) for link in soup.select("link[rel~=stylesheet]")]
    files = [os.path.normpath(f"{PurePosixPath(page).parent}/{sheet.path}") for sheet in sheets if not sheet.scheme]
    own = (Path(__file__).parent / "print.css").read_text(encoding="utf-8")
    return "".join(f'<link rel="stylesheet" href="{file}">' for file in files) + f"<style>{own}</style>"


def unlink_strangers(articles: dict[str, Tag]) -> None:
    """Make plain text of the links to names that nothing has."""
    known = {element["id"] for article in articles.values() for element in article.find_all(id=True)}
    known |= {anchor(page) for page in articles}
    for article in articles.values():
        for link in article.find_all("a", href=True):
            if link["href"].startswith("#") and link["href"][1:] not in known:
                link.unwrap()


def whole(parts: list[contents.Part], html: Path, title: str, version: str, address: str = "") -> str:
    """Return one page with all pages of the book, a title page and the contents."""
    pages = [page for part in parts for page in part.pages]
    articles = {page: joined(page, pages, html, address) for page in pages}
    unlink_strangers(articles)
    texts = (f'<section class="page" id="{anchor(page)}">{article}</section>' for page, article in articles.items())
    return (
        f'<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"{style_of(pages[0], html)}<script>window.MathJax = {MATHJAX}</script>"
        '<script src="mathjax/mml-chtml.js"></script></head><body><main class="bd-content">'
        f'<header><p class="book-title">{escape(title)}</p><p>The contributors</p><p>Version {escape(version)}</p>'
        f"<p>Text and figures: CC BY 4.0. Code: MIT.</p></header>{contents_of(parts, articles)}"
        + "\n".join(texts)
        + "</main></body></html>"
    )
