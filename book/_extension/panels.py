"""Where a wide picture can be cut into its panels, so that a phone shows them below each other at a legible size.

A cut lies in a column of the picture that is blank from top to bottom, near the place where the second half, or the
second or third third, would begin. A panel whose axis has no labels of its own, because it shares them with the first,
gets the labels of the first.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
from PIL import ImageChops

BLANK = 0.008  # of the width: the narrowest gap between two panels
NEAR = 0.1  # of the width: how far a cut may lie from where equal panels would meet
TICKS = 0.009  # of the width: the marks of an axis, which are no labels
LONG = 0.25  # of the height: a dark upright line of at least this length is an axis
AXES = re.compile(r'<g id="axes_\d+">.*?<path d="M ([\d.]+) [\d.]+ ?\nL ([\d.]+)', re.DOTALL)
TEXT = re.compile(r"<!-- (.+?) -->\s*<g transform=\"translate\(([\d.]+) ([\d.]+)\)( rotate)?[^\"]*scale\(([\d.]+)")
VIEW = re.compile(r'viewBox="0 0 ([\d.]+) ([\d.]+)')
MIDDLE = (0.1, 0.8)  # of the height: where labels of upright axes stand, and no titles or labels of level axes
LETTER = 57  # the usual width of a letter at the scale 1
HEIGHT = 76  # the same for the height


class Columns(NamedTuple):
    """What stands in the columns of a picture: anything at all, anything beside the axes, an upright axis."""

    ink: np.ndarray
    beside: np.ndarray
    axis: np.ndarray


def panels(file: Path) -> list[list[tuple[int, int]]]:
    """Return the parts of the picture that show each panel, in thousandths of the width; nothing for a single panel."""
    columns = columns_of_drawing(file) if file.suffix == ".svg" else columns_of_points(file)
    width = len(columns.ink)
    places = cuts(columns.ink)
    found = [with_labels(columns, start, end) for start, end in pairwise([0, *places, width])] if places else []
    return [[(round(1000 * start / width), round(1000 * end / width)) for start, end in parts] for parts in found]


def columns_of_points(file: Path) -> Columns:
    """Look at a picture of points."""
    with PIL.Image.open(file) as picture:
        red, green, blue = picture.convert("RGB").split()
    brightest = np.asarray(ImageChops.lighter(red, ImageChops.lighter(green, blue)))
    darkest = np.asarray(ImageChops.darker(red, ImageChops.darker(green, blue)))
    run = longest = np.zeros(brightest.shape[1], dtype=int)
    for dark in brightest < 100:
        run = (run + 1) * dark
        longest = np.maximum(longest, run)
    ink = darkest < darkest[0, 0] - 12
    top, bottom = (round(share * len(ink)) for share in MIDDLE)
    return Columns(ink.any(axis=0), ink[top:bottom].any(axis=0), longest > LONG * len(ink))


def columns_of_drawing(file: Path) -> Columns:
    """Read a drawing of matplotlib: its axes, and its texts, whose widths are estimated."""
    drawing = file.read_text(encoding="utf-8")
    view = VIEW.search(drawing)
    width, height = (round(float(number)) for number in view.groups()) if view else (1, 1)
    ink, beside, axis = np.zeros((3, width), dtype=bool)
    for left, right in AXES.findall(drawing) if view else ():
        ink[int(float(left)) : int(float(right)) + 1] = True
        axis[int(float(left))] = True
    for words, x, y, turned, scale in TEXT.findall(drawing):
        start = int(float(x))
        size = round(float(scale) * (HEIGHT if turned else LETTER * len(words)))
        place = slice(max(0, start - size), start + 2) if turned else slice(start, start + size)
        ink[place] = True
        beside[place] |= MIDDLE[0] * height < float(y) < MIDDLE[1] * height
    return Columns(ink, beside, axis)


def cuts(ink: np.ndarray) -> list[int]:
    """Return the columns where a picture can be cut, in two or in three; none if it cannot."""
    for count in (2, 3):
        found = [first_gap(ink, number / count) for number in range(1, count)]
        if all(found):
            return found
    return []


def first_gap(ink: np.ndarray, share: float) -> int:
    """Return the middle of the first blank gap near some share of the width, the one before a label; zero for none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], ink, [True]]).astype(int)))
    for start, end in edges.reshape(-1, 2):
        middle = (start + end) // 2
        inside = start > 0 and end < len(ink)
        if inside and end - start >= BLANK * len(ink) and abs(middle / len(ink) - share) <= NEAR:
            return int(middle)
    return 0


def with_labels(columns: Columns, start: int, end: int) -> list[tuple[int, int]]:
    """Return the parts that show a panel: itself, after the labels of the first if it has none."""
    axes, own = np.flatnonzero(columns.axis), start + np.flatnonzero(columns.axis[start:end])
    if start == 0 or not len(own) or has_labels(columns, start, own[0]) or not has_labels(columns, 0, axes[0]):
        return [(start, end)]
    return [(0, int(axes[0])), (int(own[0]), end)]


def has_labels(columns: Columns, start: int, axis: int) -> bool:
    """Tell whether something stands left of an axis, other than its marks and the edge of the picture."""
    marks = round(TICKS * len(columns.ink))
    return bool(columns.beside[start + 2 : max(start + 2, axis - marks)].any())
