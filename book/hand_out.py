"""Put together what a lecturer hands out: archives in ``_build/packs``, of notebooks that were built with the pages.

    python book/hand_out.py

- ``student.zip`` and ``lecturer.zip``: a notebook for each chapter, and the packages that they import.
- ``nbgrader.zip``: a course folder for nbgrader. ``otter.zip``: master notebooks for otter-grader.
"""

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKS, WHEELS = ROOT / "_build" / "packs", ROOT / "_build" / "html" / "wheels"
LONG_AGO = (2026, 1, 1, 0, 0, 0)  # the same archive from the same notebooks

INSTALL = "python -m pip install wheels/*.whl jupyterlab"
ABOUT = {
    "student": f"Notebooks for students. First: {INSTALL}\nThen open one in JupyterLab and run it from the top.\n",
    "lecturer": f"Notebooks for lecturers, with all solutions: not for students. First: {INSTALL}\n",
    "nbgrader": "A course for nbgrader, with all solutions: not for students.\n"
    "First: python -m pip install wheels/*.whl nbgrader\n"
    "Then: nbgrader generate_assignment divergence --create\n",
    "otter": "Master notebooks for otter-grader, with all solutions: not for students.\n"
    "First: python -m pip install wheels/*.whl otter-grader\n"
    "Then: otter assign divergence/divergence.ipynb divergence/dist\n",
}

NBGRADER_CONFIG = """c = get_config()
c.CourseDirectory.course_id = "invertible-networks"
c.ClearSolutions.code_stub = {"python": "# your code here"}
c.ClearSolutions.text_stub = "*Your answer*"
c.ExecutePreprocessor.timeout = 120
"""


def contents(kind: str) -> dict[str, bytes]:
    """Return the files of a pack by their names in the archive."""
    folder = PACKS / kind
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.ipynb"))}
    files |= {f"wheels/{path.name}": path.read_bytes() for path in sorted(WHEELS.glob("*.whl"))}
    files["README.txt"] = ABOUT[kind].encode()
    if kind == "nbgrader":
        files["nbgrader_config.py"] = NBGRADER_CONFIG.encode()
    return files


def pack(kind: str) -> Path:
    """Write one archive; return where it is."""
    target = PACKS / f"{kind}.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents(kind).items():
            archive.writestr(zipfile.ZipInfo(f"{kind}/{name}", LONG_AGO), data, zipfile.ZIP_DEFLATED)
    return target


def main() -> int:
    """Write all archives, and tell what is in them."""
    if not (PACKS / "student").is_dir():
        print("There are no notebooks to pack: build the pages first, with make packs.")
        return 1
    for kind in ABOUT:
        target = pack(kind)
        count = len(list((PACKS / kind).rglob("*.ipynb")))
        print(f"{target.relative_to(ROOT)}: {count} notebooks, {target.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
