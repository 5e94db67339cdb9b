"""The numbers that a figure draws, as arrays: curves, points, areas, meshes, pictures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib import collections
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.path import Path
from matplotlib.quiver import Quiver

from invlib import drawing

SHOW = drawing.show
GAP = np.full((1, 2), np.nan)


def joined(paths: list[Path]) -> np.ndarray:
    """Return the corners of some paths as one array of points, with a row of NaN between two paths."""
    parts = [part for path in paths for corners in path.to_polygons(closed_only=False) for part in (GAP, corners)]
    return np.concatenate(parts[1:]) if parts else np.empty((0, 2))


def numbers(artist: Artist) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what a part of a figure draws, in the units of its axes, with the kind of each array."""
    if isinstance(artist, Line2D):
        yield "curve", artist.get_xydata()
    elif isinstance(artist, AxesImage):
        yield "picture", np.ma.filled(artist.get_array().astype(float), np.nan)
        yield "picture_extent", np.asarray(artist.get_extent())
    elif isinstance(artist, ContourSet):
        yield "levels", np.asarray(artist.levels)
        yield "contours", joined(artist.get_paths())
    elif isinstance(artist, Quiver):
        yield "arrows", np.column_stack([artist.XY, artist.U, artist.V])
    elif isinstance(artist, collections.QuadMesh):
        yield "mesh", artist.get_coordinates()
        yield "mesh_values", np.ma.filled(artist.get_array().astype(float), np.nan)
    elif isinstance(artist, collections.PathCollection):
        values = artist.get_array()
        yield "points", np.column_stack([artist.get_offsets(), *([] if values is None else [values])])
    elif isinstance(artist, collections.LineCollection | collections.PolyCollection):
        yield "curves" if isinstance(artist, collections.LineCollection) else "areas", joined(artist.get_paths())
    elif isinstance(artist, Patch):
        yield "shape", joined([artist.get_path().transformed(artist.get_patch_transform())])


def arrays_of(figure: Figure) -> dict[str, np.ndarray]:
    """Return all that a figure draws, and what stands at its axes.

    Returns:
        Arrays such as ``panel1_curve2``, in single precision, and ``panel1_axes`` with the title and the two labels.
    """
    found: dict[str, np.ndarray] = {}
    for k, axes in enumerate(figure.axes, 1):
        count: dict[str, int] = {}
        found[f"panel{k}_axes"] = np.array([axes.get_title(), axes.get_xlabel(), axes.get_ylabel()])
        for kind, array in (pair for artist in shown(axes) for pair in numbers(artist)):
            count[kind] = count.get(kind, 0) + 1
            found[f"panel{k}_{kind}{count[kind]}"] = np.asarray(array, dtype=np.float32)
    return found


def shown(axes: Axes) -> list[Artist]:
    """Return the parts of axes that show data."""
    return [*axes.lines, *axes.collections, *axes.images, *axes.patches]


def keep(label: str, folder: str) -> None:
    """Let the next figure that a chapter shows go to a folder, too: as a drawing, and as arrays."""

    def show(figure: Figure, *options: int, **others: int) -> None:
        figure.savefig(f"{folder}/{label}.pdf", metadata={"CreationDate": None})
        np.savez_compressed(f"{folder}/{label}.npz", **arrays_of(figure))
        SHOW(figure, *options, **others)

    drawing.show = show
