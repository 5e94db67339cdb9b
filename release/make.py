"""A release: the site, the packs, the packages, the book as a PDF, its figures, and a list of all that with hashes.

    python release/make.py [--without-pdf]

The pages and packs must have been made (`make packs`); figures are taken along where they have been (`make figures`).
At the end everything is opened once; see ``check.py``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import contents

sys.path.insert(0, str(contents.ROOT / "book" / "_extension"))

from reader_notebooks import PACKAGES, WHEELS

SUMS = "SHA256SUMS"
BUILD_SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
BEGINNING = (1980, 1, 1, 0, 0, 0)  # the time of all files in a zip: the same content gives the same bytes


def zip_folder(folder: Path, file: Path, top: str) -> None:
    """Put all files of a folder into a zip, below one folder in it."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(f"{top}/{path.relative_to(folder).as_posix()}", BEGINNING)
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            target.writestr(entry, path.read_bytes())


def build_sdists(target: Path) -> None:
    """Build the sources of the packages whose wheels the site has."""
    for folder, parts in PACKAGES.items():
        root = contents.ROOT if folder == "invlib" else contents.ROOT / folder
        with TemporaryDirectory() as copy:
            for part in parts:
                place = shutil.copytree if (root / part).is_dir() else shutil.copy
                place(root / part, Path(copy) / part)
            command = [sys.executable, "-c", BUILD_SDIST, str(target.resolve())]
            subprocess.run(command, cwd=copy, check=True, stdout=subprocess.DEVNULL)


def write_sums(folder: Path) -> None:
    """Write the SHA-256 of each file of a folder, in the form that ``sha256sum --check`` reads."""
    files = sorted(path for path in folder.iterdir() if path.name != SUMS)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def assemble(target: Path, html: Path = contents.HTML) -> None:
    """Put all parts but the PDF into an empty folder."""
    name = f"book-{contents.version()}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    zip_folder(html, target / f"{name}-site.zip", f"{name}-site")
    for wheel in (html / WHEELS).glob("*.whl"):
        shutil.copy(wheel, target)
    build_sdists(target)
    for pack in sorted(contents.PACKS.glob("*.zip")):
        shutil.copy(pack, target)
    if contents.FIGURES.is_dir():
        zip_folder(contents.FIGURES, target / f"{name}-figures.zip", f"{name}-figures")
    for text in ("LICENSE", "CHANGELOG.md"):
        shutil.copy(contents.ROOT / text, target)


def main() -> None:
    """Make the release, and check it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--without-pdf", action="store_true", help="for a quick look: the PDF takes some minutes")
    without_pdf = parser.parse_args().without_pdf
    if not (contents.HTML / "index.html").exists():
        raise SystemExit("There are no pages: make book")
    target = contents.RELEASE
    assemble(target)
    if not without_pdf:
        import pdf

        pdf.make(target / f"book-{contents.version()}.pdf", address=contents.address())
    write_sums(target)

    import check

    for path in sorted(target.iterdir()):
        print(f"{path.stat().st_size / 1e6:8.1f} MB  {os.path.relpath(path)}")
    found = check.faults(target)
    raise SystemExit("\n".join(found) if found else 0)


if __name__ == "__main__":
    main()
