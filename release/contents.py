"""What the release is made of: where the parts are, which version this is, the pages in their order."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
PACKS = ROOT / "_build" / "packs"
FIGURES = ROOT / "_build" / "figures"
RELEASE = ROOT / "_build" / "release"
ONLY_IN_A_BROWSER = {"book/figures"}  # lists what the other pages show, and leads to files


class Part(NamedTuple):
    """A part of the book: its title, empty for the landing page, and its pages, by names such as ``book/notation``."""

    title: str
    pages: list[str]


def version() -> str:
    """Return the version of the book."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def title() -> str:
    """Return the title of the book."""
    return str(yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["title"])


def address() -> str:
    """Return the public address of the pages, with a slash at the end; empty while it is not set."""
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    found = str(settings["html"]["baseurl"] or "")
    return found.rstrip("/") + "/" if found else ""


def parts() -> list[Part]:
    """Return the parts of the book in their order, the landing page first."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    found = [Part("", [contents["root"]])]
    for part in contents["parts"]:
        files = [entry["file"].removesuffix(".ipynb") for entry in part["chapters"]]
        found.append(Part(part["caption"], files))
    return found


def printed_parts() -> list[Part]:
    """Return the parts of the book without the pages that make sense in a browser only."""
    return [Part(part.title, [page for page in part.pages if page not in ONLY_IN_A_BROWSER]) for part in parts()]
