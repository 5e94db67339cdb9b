"""Tests of the links that open a report: filled in, beside statements, figures, exercises; off without an address."""

import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import small_pages
from bs4 import BeautifulSoup

sys.path.insert(0, str(small_pages.ROOT / "book" / "_extension"))

import reports

REPOSITORY = "https://github.com/owner/a-book"
TEXT = """\
# One

:::{prf:theorem} A title
:label: thm-one

It holds.
:::

:::{prf:proof}
Clear.
:::

:::{exercise} Another title
:label: ex-one

Show it.
:::

```{figure} picture.svg
:name: fig-one

A caption.
```
"""

HOST = "pages.invalid"  # a name that is kept free for examples


def build(folder: Path, repository: str) -> BeautifulSoup:
    return small_pages.build(
        folder,
        TEXT,
        extensions=("book_setup", "reports"),
        theme="sphinx_book_theme",
        more={
            "pyproject.toml": '[project]\nversion = "4.5.6"\n',
            "picture.svg": '<svg xmlns="http://www.w3.org/2000/svg"/>',
        },
        more_settings={"html_theme_options": {"repository_url": repository}},
    )


def test_each_link_opens_a_report_that_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "commit", lambda root: "c0ffee")
    page = build(tmp_path, f"{REPOSITORY}.git")
    found = {link.find_parent(["figure", "div"], id=True)["id"]: link for link in page.select("a.report")}
    names = {"thm-one": "Theorem 1", "ex-one": "Exercise 1", "fig-one": "Figure 1"}
    assert set(found) == set(names)
    for label, link in found.items():
        address = urlsplit(link["href"])
        asked = parse_qs(address.query)
        assert address._replace(query="").geturl() == f"{REPOSITORY}/issues/new"
        assert asked["title"] == [f"{names[label]} ({label}): "]
        for part in (f"{names[label]}, `{label}`, on the page `index`", "Edition: 4.5.6", "Commit: c0ffee"):
            assert part in asked["body"][0]
        assert link["aria-label"] == f"Report an error in {names[label]}"


def test_without_an_address_there_is_no_link(tmp_path: Path) -> None:
    assert "report" not in str(build(tmp_path, "").select_one("article"))
    assert reports.form_of("") == reports.form_of(f"https://{HOST}/owner/a-book") == ""


def test_the_edition_and_the_commit_are_those_of_the_book(tmp_path: Path) -> None:
    version = reports.edition(small_pages.ROOT)
    assert f'version = "{version}"' in (small_pages.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert reports.edition(tmp_path) == reports.commit(tmp_path) == "unknown"
    assert len(reports.commit(small_pages.ROOT)) in (40, len("unknown"))
