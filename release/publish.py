"""The folder that a web server shows: the pages of today, and the editions that were kept under their versions.

    python release/publish.py TARGET [--before FOLDER] [--edition]

TARGET gets the built pages. What the folder of before (the branch ``gh-pages``) holds under ``edition/VERSION`` is
taken along, and each page of it gets a banner that leads to the text of today. With ``--edition`` the pages are also
kept under their own version. ``.github/workflows/pages.yml`` calls this.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
from pathlib import Path

import contents
from bs4 import BeautifulSoup

EDITIONS = "edition"
BANNER = "edition-banner"
STYLE = "background: #ffe9a8; color: #1b1b1b; padding: 0.5rem 1rem; text-align: center"


def with_banner(page: str, version: str, today: str, address: str = "") -> str:
    """Return a page of an old edition with a banner, in place of one that it may have.

    Args:
        page: its HTML.
        version: of the edition.
        today: where the same page of today's text is, seen from the page.
        address: where that is for search engines, which are sent there; they are not where it is empty.
    """
    soup = BeautifulSoup(page, "html.parser")
    if soup.body is None:
        return page
    for old in soup.select(f"#{BANNER}"):
        old.decompose()
    banner = soup.new_tag("div", id=BANNER, role="note", style=STYLE)
    link = soup.new_tag("a", href=today, style="color: #0b4f9e")
    link.string = "Read the current text."
    banner.append(f"This is version {version}, kept as it was. ")
    banner.append(link)
    skip = soup.body.find(id="pst-skip-link")
    (skip.insert_after if skip else lambda tag: soup.body.insert(0, tag))(banner)
    if address and soup.head is not None:
        for old in soup.head.select("link[rel=canonical]"):
            old.decompose()
        soup.head.append(soup.new_tag("link", rel="canonical", href=address))
    return str(soup)


def mark(edition: Path, site: Path, address: str = "") -> None:
    """Put the banner on all pages of an edition, which lies in the folder of the pages of today."""
    for file in edition.rglob("*.html"):
        place = file.relative_to(edition)
        goal = place if (site / place).exists() else Path("index.html")
        today = Path(os.path.relpath(site / goal, file.parent)).as_posix()
        page = with_banner(file.read_text(encoding="utf-8"), edition.name, today, address and address + goal.as_posix())
        file.write_text(page, encoding="utf-8")


def publish(target: Path, html: Path, before: Path | None, version: str, keep: bool, address: str = "") -> None:
    """Put pages and editions together.

    Raises:
        ValueError: if an edition with this version was kept before.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(html, target)
    old = before / EDITIONS if before else None
    if old and old.is_dir():
        shutil.copytree(old, target / EDITIONS)
    if keep:
        if (target / EDITIONS / version).exists():
            raise ValueError(f"version must be new, but an edition {version} is there already")
        shutil.copytree(html, target / EDITIONS / version)
    for edition in (target / EDITIONS).glob("*"):
        if edition.name != version:
            mark(edition, target, address)
    shutil.copytree(contents.ROOT / ".binder", target / ".binder")
    (target / ".nojekyll").touch()


def main() -> None:
    """Put pages and editions together."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path)
    parser.add_argument("--before", type=Path, help="what is shown now")
    parser.add_argument("--edition", action="store_true", help="keep these pages under their version")
    given = parser.parse_args()
    version = contents.version()
    tag = os.environ.get("GITHUB_REF_NAME", "")
    if given.edition and re.match(r"v\d", tag) and tag != f"v{version}":
        raise SystemExit(f"The tag is {tag}, but the version is {version}")
    publish(given.target, contents.HTML, given.before, version, given.edition, contents.address())


if __name__ == "__main__":
    main()
