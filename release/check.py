"""Open everything that a release holds.

    python release/check.py [FOLDER]

The hashes agree; the zips are whole; the pages in the zip have no link to a missing page, picture or style; each
package can be imported where there is nothing but it; its sources make the same package; the PDF has a mark for every
page, and each of its links leads somewhere.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

import contents
from bs4 import BeautifulSoup

SUMS = "SHA256SUMS"
IMPORTED = {
    "invlib": "invlib",
    "invlib_book": "figures",
}  # a module of each package that needs no other package of ours


def faults_of_sums(folder: Path) -> Iterator[str]:
    """Yield what does not agree with the list of hashes."""
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    sums = dict(reversed(line.split("  ", 1)) for line in lines)
    there = {path.name for path in folder.iterdir()} - {SUMS}
    yield from (f"{name}: only in the list" for name in sorted(set(sums) - there))
    yield from (f"{name}: not in the list" for name in sorted(there - set(sums)))
    for name in sorted(there & set(sums)):
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != sums[name]:
            yield f"{name}: another hash"


def faults_of_zip(file: Path) -> Iterator[str]:
    """Yield the first damaged file of a zip, and names that lead out of its folder."""
    with zipfile.ZipFile(file) as opened:
        damaged = opened.testzip()
        if damaged:
            yield f"{file.name}: {damaged} is damaged"
        for name in opened.namelist():
            if name.startswith("/") or ".." in PurePosixPath(name).parts:
                yield f"{file.name}: {name} leads out of the folder"


def faults_of_site(file: Path) -> Iterator[str]:
    """Yield links of the pages in a zip to files that are not there."""
    with zipfile.ZipFile(file) as opened:
        names = set(opened.namelist())
        for name in sorted(name for name in names if name.endswith(".html") and "/_static/" not in name):
            soup = BeautifulSoup(opened.read(name), "html.parser")
            found = [element.get("href") or element.get("src") for element in soup.select("a[href], link[href], [src]")]
            for link in dict.fromkeys(found):
                parts = urlsplit(str(link))
                if parts.scheme or parts.netloc or not parts.path:
                    continue
                goal = normpath(f"{PurePosixPath(name).parent}/{unquote(parts.path)}")
                if goal not in names:
                    yield f"{name}: no {goal}"


def files_of_wheel(file: Path) -> dict[str, bytes]:
    """Return the modules and data of a wheel."""
    with zipfile.ZipFile(file) as opened:
        return {name: opened.read(name) for name in opened.namelist() if ".dist-info/" not in name}


def faults_of_package(wheel: Path, sources: Path) -> Iterator[str]:
    """Yield how a package fails: it is imported alone, and built again from its sources."""
    name = wheel.name.split("-")[0]
    with TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as opened:
            opened.extractall(Path(folder) / "site")
        code = f"import sys; sys.path.insert(0, {str(Path(folder) / 'site')!r}); import {IMPORTED[name]} as found; "
        code += f"assert found.__file__.startswith({folder!r}), found.__file__"
        done = subprocess.run([sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            yield f"{wheel.name}: {done.stderr.strip().splitlines()[-1]}"
        with tarfile.open(sources) as opened:
            opened.extractall(Path(folder) / "sources", filter="data")
        (copy,) = (Path(folder) / "sources").iterdir()
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*command, "--wheel-dir", str(Path(folder) / "again"), str(copy)], check=True)
        (again,) = (Path(folder) / "again").iterdir()
        if files_of_wheel(again) != files_of_wheel(wheel):
            yield f"{sources.name}: makes another package than {wheel.name}"


def titles(html: Path = contents.HTML) -> list[str]:
    """Return the titles of all printed pages, with their numbers."""
    found = []
    for page in (page for part in contents.printed_parts() for page in part.pages):
        soup = BeautifulSoup((html / f"{page}.html").read_text(encoding="utf-8"), "html.parser")
        heading = soup.select_one("article.bd-article h1")
        if heading is None:
            raise ValueError(f"{page} has no title")
        for mark in heading.select(".headerlink"):
            mark.decompose()
        found.append(" ".join(heading.get_text().split()))
    return found


def faults(folder: Path) -> list[str]:
    """Return all that is wrong with a release."""
    found = list(faults_of_sums(folder))
    for file in [*folder.glob("*.zip"), *folder.glob("*.whl")]:
        found += faults_of_zip(file)
    for file in folder.glob("*-site.zip"):
        found += faults_of_site(file)
    for wheel in folder.glob("*.whl"):
        sources = wheel.with_name("-".join(wheel.name.split("-")[:2]) + ".tar.gz")
        found += faults_of_package(wheel, sources) if sources.exists() else [f"{wheel.name}: no sources"]
    for file in folder.glob("*.pdf"):
        import pdf

        found += [f"{file.name}: {fault}" for fault in pdf.faults(file, titles(), contents.address())]
    return found


if __name__ == "__main__":
    found = faults(Path(sys.argv[1]) if len(sys.argv) > 1 else contents.RELEASE)
    raise SystemExit("\n".join(found) if found else 0)
