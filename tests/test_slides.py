"""The decks of slides: what stands on them, what in the notes only, and that a browser shows every slide whole."""

import re
import sys
from functools import cache

import browsing
import pytest
from bs4 import BeautifulSoup, Tag

sys.path.insert(0, str(browsing.ROOT / "book" / "_extension"))

import slides

NAMES = browsing.chapters()
FOLDER = browsing.HTML / "slides"


@cache
def deck_of(name: str) -> BeautifulSoup:
    browsing.build_if_stale()
    return browsing.soup(FOLDER / f"{name}.html")


def kinds(deck: BeautifulSoup) -> list[str]:
    return [slide["class"][1] for slide in deck.select(".slide")]


def content(deck: BeautifulSoup) -> str:
    return " ".join(slide.get_text() for slide in deck.select(".slide .content"))


@pytest.mark.parametrize("name", NAMES)
def test_a_deck_has_what_its_chapter_shows(name: str) -> None:
    """Puzzle first, answer last; each open statement, figure and exercise; solutions stand in the notes only."""
    deck = deck_of(name)
    found = kinds(deck)
    assert found[:2] == ["title", "puzzle"]
    assert "answer" in found[-4:]
    assert not deck.select(".content .used-in, .reading-time")
    article = browsing.soup(browsing.HTML / "book" / f"{name}.html").select_one("article.bd-article")

    def shown(selector: str) -> list[Tag]:
        return [element for element in article.select(selector) if not element.find_parent("details")]

    assert found.count("picture") == len([figure for figure in shown("figure") if figure.find("img")])
    titles = [slide.h2.get_text(" ", strip=True) for slide in deck.select(".slide.question")]
    assert len(set(titles)) == len(shown("div.exercise"))
    assert len({slide.h2.get_text() for slide in deck.select(".slide.statement")}) == len(
        [box for box in shown("div.proof.admonition") if "prf-proof" not in box["class"]]
    )
    for question in deck.select(".slide.question"):
        assert "Solution to" in question.select_one(".notes").get_text()
    assert "Solution to" not in content(deck)
    assert deck.select(".slide.picture .notes")
    for picture in deck.select("img"):
        assert (FOLDER / picture["src"]).exists()
        assert picture["alt"]


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_is_not_given_away(name: str) -> None:
    deck = deck_of(name)
    (answer,) = deck.select(".slide.answer .content p")
    before = " ".join(slide.get_text() for slide in deck.select(".slide.title .content, .slide.puzzle .content"))
    assert answer.get_text() not in before


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    for link in deck_of(name).select("a[href]"):
        if not re.match(r"\w+:", link["href"]):
            assert (FOLDER / link["href"].partition("#")[0]).exists(), link["href"]


SHOW_ALL = """async () => {
    const found = [];
    for (let number = 1; number <= document.querySelectorAll(".slide").length; number += 1) {
        if (location.hash !== `#${number}`) {
            const turned = new Promise((done) => addEventListener("hashchange", done, { once: true }));
            location.hash = `#${number}`;
            await turned; // after the deck, which has listened for longer
        }
        const slide = document.querySelector(".slide.shown");
        if (slide !== document.querySelectorAll(".slide")[number - 1]) found.push(`${number}: not shown`);
        const inside = slide.getBoundingClientRect();
        const parts = slide.querySelectorAll(".content, .content img, .content mjx-container, .content table");
        for (const part of parts) {
            const box = part.getBoundingClientRect();
            if (box.bottom > inside.bottom + 1 || box.right > inside.right + 1) {
                found.push(`${number}: ${part.tagName} ${part.className}`);
                break;
            }
        }
        const small = Number(slide.querySelector(".content").style.zoom);
        if (small < 0.6) found.push(`${number}: shown at ${small}`);
    }
    return found;
}"""


@browsing.needs_browser
def test_every_slide_is_shown_whole() -> None:
    browsing.build_if_stale()
    with browsing.launched() as browser, browsing.serve_folder(browsing.HTML) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        missing: list[str] = []
        page.on("response", lambda answer: missing.append(answer.url) if answer.status >= 400 else None)
        found = {}
        for name in NAMES:
            page.goto(f"{address}/slides/{name}.html")
            page.wait_for_selector("html[data-ready]")
            twice = (
                "[...document.querySelectorAll('mjx-assistive-mml')].filter(e => e.getBoundingClientRect().width > 2)"
            )
            assert page.evaluate(f"{twice}.length") == 0  # formulas for screen readers, seen beside those for the eye
            cut = page.evaluate(SHOW_ALL)
            if cut:
                found[name] = cut
        assert not found
        assert not missing


@browsing.needs_browser
def test_keys_turn_the_slides_and_the_second_window_follows() -> None:
    browsing.build_if_stale()
    with browsing.launched() as browser, browsing.serve_folder(browsing.HTML) as address:
        context = browser.new_context(viewport={"width": 1280, "height": 720})
        page = context.new_page()
        page.goto(f"{address}/slides/{NAMES[0]}.html")
        page.wait_for_selector("html[data-ready]")

        def number() -> int:
            return int(page.evaluate("location.hash.slice(1)"))

        count = page.locator(".slide").count()
        for key, wanted in (("ArrowRight", 2), ("Space", 3), ("ArrowLeft", 2), ("End", count), ("Home", 1)):
            page.keyboard.press(key)
            assert number() == wanted
        assert page.locator(".notes:visible").count() == 0
        with context.expect_page() as opened:
            page.keyboard.press("p")
        other = opened.value
        other.wait_for_selector("html[data-ready]")
        page.keyboard.press("ArrowRight")
        other.wait_for_function("location.hash === '#2'")
        other.keyboard.press("ArrowRight")
        page.wait_for_function("location.hash === '#3'")
        assert other.locator(".notes:visible").count() == 1
        page.keyboard.press("n")
        assert page.locator(".notes:visible").count() == 1
        hides = """() => {
            const slide = document.querySelector(".slide.shown");
            const box = (name) => slide.querySelector(name).getBoundingClientRect();
            return box(".content").bottom > box(".notes").top + 1;
        }"""
        assert not page.evaluate(hides)


# A small page, with planted differences

PAGE = """<article class="bd-article"><section><h1>Why?<a class="headerlink">#</a></h1><p>Because.</p><p>Needs.</p>
<section id="puzzle"><h2>A puzzle</h2><p>Which?</p></section>
<section id="main"><h2>Main</h2>
<div class="proof theorem admonition" id="thm-x-one"><p class="admonition-title">Theorem 1</p>
<section><p>It is.</p></section></div>
<p>It says this.</p>
<details class="fold"><summary>More</summary><div class="fold-body">
<figure id="fig-hidden"><img src="../_images/a.png" alt="a"></figure></div></details></section>
<section id="exercises"><h2>Exercises</h2>
<div class="exercise admonition" id="ex-a"><p class="admonition-title">Exercise 1</p>
<section><p>Show it.</p></section></div>
<details class="fold solution"><summary>Solution to Exercise 1</summary><div class="fold-body"><p>So.</p>
<div class="cell">secret()</div></div></details></section>
</section></article>"""


def test_a_small_page_makes_a_small_deck() -> None:
    deck = BeautifulSoup(slides.make(PAGE, "small", {"x-one": "Break it.\n\nThen it falls."}), "html.parser")
    assert kinds(deck) == ["title", "puzzle", "statement", "control", "question", "answer"]
    statement, control, question = deck.select(".statement, .control, .question")
    assert "It says this." in statement.select_one(".notes").get_text()
    assert "Break it." in control.select_one(".notes").get_text()
    assert "Break it." not in control.select_one(".content").get_text()
    assert "So." in question.select_one(".notes").get_text()
    assert "secret" not in deck.get_text()


def test_a_long_text_is_cut_between_its_blocks() -> None:
    blocks = BeautifulSoup("".join(f"<p>{letter * 400}</p>" for letter in "abcd"), "html.parser").find_all("p")
    assert [len(group) for group in slides.cut(blocks)] == [2, 2]


def test_a_short_first_or_last_block_is_not_alone() -> None:
    lengths = (30, 890, 500, 30, 890, 30)
    blocks = BeautifulSoup("".join(f"<p>{'a' * length}</p>" for length in lengths), "html.parser").find_all("p")
    assert [len(group) for group in slides.cut(blocks)] == [2, 2, 2]


def test_a_page_without_a_title_is_refused() -> None:
    with pytest.raises(ValueError, match="no title"):
        slides.make('<article class="bd-article"><section><p>x</p></section></article>', "small", {})
