"""Run the notebooks behind the download buttons where a reader would: in an environment that knows nothing of the book.

    python tests/run_alone.py              all chapters
    python tests/run_alone.py NAME ...     some

The new environment gets the two packages that the site serves, with what they ask for, and a kernel; the notebooks
run in an empty folder. The pages must have been built. It takes some minutes, most of them for the installation.
"""

import re
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import browsing
import nbformat
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

LIBRARIES = ("torch", "numpy", "matplotlib", "scipy", "scikit-image")  # in the versions of the book


def pinned() -> list[str]:
    """The lines of requirements.txt for the libraries."""
    lines = (browsing.ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if re.match(rf"({'|'.join(LIBRARIES)})==", line)]


def new_environment(folder: Path) -> Path:
    """Make an environment with the packages of the site and a kernel; return its Python."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    wheels = [str(path) for path in (browsing.HTML / "wheels").glob("*.whl")]
    subprocess.run([python, "-m", "pip", "install", "--quiet", "ipykernel", *pinned(), *wheels], check=True)
    return python


def run(name: str, python: Path, folder: Path) -> str | None:
    """Run one notebook in a folder; return what went wrong, or None."""
    kernel = AsyncKernelManager(kernel_name="python3")
    kernel.kernel_spec.argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    notebook = nbformat.read(browsing.HTML / "_sources" / "book" / f"{name}.ipynb", as_version=4)
    try:
        NotebookClient(notebook, km=kernel, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    except CellExecutionError as error:
        return str(error)
    return None


def main(names: list[str]) -> int:
    """Run the notebooks and tell which fail."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        python = new_environment(Path(folder) / "environment")
        for name in names or browsing.chapters():
            empty = Path(folder) / name
            empty.mkdir()
            start = time.monotonic()
            fault = run(name, python, empty)
            failed += fault is not None
            left = [path.name for path in empty.iterdir()]
            print(f"{name}: {fault or 'runs'}, {time.monotonic() - start:.0f} s{f', leaves {left}' if left else ''}")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
