"""The arrays behind the figures that show trained networks: small files to download, and a manifest.

A chapter calls `record` beside the cell that draws a figure. When ``execute.py`` runs the chapter, the arrays go to
``figures/LABEL.npz`` and an entry to ``figures/manifest.json``. Anywhere else (Jupyter, the tests of the notebooks)
nothing is written: `record` only checks that the names and shapes of the arrays are those of the manifest. Beside a
notebook that runs alone there is no manifest, and nothing is checked.

Chapters that run side by side share the manifest, so only one at a time may change it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from filelock import FileLock

FOLDER = Path(__file__).resolve().parent / "figures"
RECORD_VARIABLE = "BOOK_RECORD"  # set by execute.py
LARGEST_FILE_BYTES = 100_000


class FigureError(ValueError):
    """The arrays of a figure do not fit the manifest, or cannot be stored."""


def as_arrays(arrays: Mapping[str, object]) -> dict[str, np.ndarray]:
    """Return the arrays in the form in which they are stored, sorted by name: real numbers in single precision.

    Raises:
        FigureError: if there are no arrays, or one has neither numbers nor truth values, or a number is not finite.
    """
    if not arrays:
        raise FigureError("arrays must hold at least one array")
    stored = {}
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        if array.dtype.kind not in "biuf":
            raise FigureError(f"{name} must hold numbers or truth values, got the type {array.dtype}")
        if not np.isfinite(array).all():
            raise FigureError(f"{name} must be finite")
        stored[name] = array.astype(np.float32) if array.dtype.kind == "f" else array
    return stored


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of the arrays."""
    result = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        little_endian = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        result.update(f"{name}\0{little_endian.dtype.str}\0{array.shape}\0".encode())
        result.update(little_endian.tobytes())
    return result.hexdigest()


def shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, list[int]]:
    """Return the shape of each array, as it is stored in the manifest."""
    return {name: list(arrays[name].shape) for name in sorted(arrays)}


def read_manifest(folder: Path = FOLDER) -> dict[str, dict]:
    """Return the entries of the manifest by figure label; none if there is no manifest."""
    path = folder / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def load(label: str, folder: Path = FOLDER) -> dict[str, np.ndarray]:
    """Return the stored arrays of a figure."""
    with np.load(folder / f"{label}.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def record(
    label: str,
    arrays: Mapping[str, object],
    *,
    chapter: str,
    seed: int,
    settings: Mapping[str, object],
    seconds: float,
    folder: Path = FOLDER,
) -> None:
    """Store the arrays behind a figure, or check them against the manifest.

    Args:
        label: of the figure, such as "fig-nl-errors".
        arrays: tensors or arrays of numbers or truth values, by name.
        chapter: name of the chapter, without suffix.
        seed: of the random generator that everything follows from.
        settings: what else is needed to make the figure again; goes into the manifest as JSON.
        seconds: time that the trainings behind the figure took.
        folder: of the files and the manifest.

    Raises:
        FigureError: if the arrays cannot be stored, or (without `BOOK_RECORD`) differ from the manifest in name or
            shape.
    """
    stored = as_arrays(arrays)
    if not os.environ.get(RECORD_VARIABLE):
        if not folder.is_dir():
            return
        expected = read_manifest(folder).get(label, {}).get("arrays")
        if expected != shapes(stored):
            raise FigureError(f"{label}: the manifest has the arrays {expected}, this run has {shapes(stored)}")
        return
    folder.mkdir(exist_ok=True)
    file = folder / f"{label}.npz"
    np.savez_compressed(file, allow_pickle=False, **stored)
    size = file.stat().st_size
    if size > LARGEST_FILE_BYTES:
        file.unlink()
        raise FigureError(f"{label}: {size} bytes are more than {LARGEST_FILE_BYTES}")
    entry = {
        "arrays": shapes(stored),
        "chapter": chapter,
        "file": file.name,
        "seconds": round(float(seconds)),
        "seed": seed,
        "settings": dict(settings),
        "sha256": digest(stored),
    }
    add_to_manifest(label, entry, folder)


def add_to_manifest(label: str, entry: Mapping[str, object], folder: Path = FOLDER) -> None:
    """Write the entry of a figure into the manifest, in place of the one that it had."""
    path = folder / "manifest.json"
    with FileLock(folder / "manifest.lock"):
        manifest = {**read_manifest(folder), label: entry}
        text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False)

        new = path.with_suffix(".new")
        new.write_text(text + "\n", encoding="utf-8", newline="\n")
        new.replace(path)  # at once: whoever reads sees the old manifest or the new one
