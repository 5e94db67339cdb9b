"""A chapter says how long it takes to read; what is folded counts apart, and formulas and code do not count."""

import re
from pathlib import Path

import browsing
import pytest
import small_pages

TOP = "# A chapter\n\nIt answers.\n\n*It needs* nothing. *It costs* a second on one thread.\n\n"
FORMULAS = "$x$ 1.5 `code` " * 5000
FOLDED = "\n## ▸ Check\n\n" + "word " * 1200


def sentence(folder: Path, text: str) -> str | None:
    page = small_pages.build(folder, text, extensions=("reading_time",))
    found = page.find(class_="reading-time")
    return found and found.get_text().strip()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TOP + "word " * 1200, "It takes about 10 minutes to read."),
        (TOP + "word " * 1200 + FORMULAS, "It takes about 10 minutes to read."),
        (TOP + "word " * 1200 + FOLDED, "It takes about 10 minutes to read, and 20 with all that is folded."),
        ("# No chapter\n\n" + "word " * 1200, None),
    ],
)
def test_a_page_says_how_long_its_main_line_takes(tmp_path: Path, text: str, said: str | None) -> None:
    assert sentence(tmp_path, text) == said


def test_the_chapters_say_it_and_the_first_one_keeps_its_title() -> None:
    browsing.build_if_stale()
    said = {}
    for name in browsing.chapters():
        page = (browsing.HTML / "book" / f"{name}.html").read_text(encoding="utf-8")
        article = page.partition("<article")[2].partition("</article>")[0]
        (said[name],) = re.findall(r'<span class="reading-time">(.*?)</span>', article)
    assert all("minutes to read" in text for text in said.values())
    assert "about 15 minutes" in said["fifteen-minutes"]
