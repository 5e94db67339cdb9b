"""Where a wide picture can be cut into its panels, so that a phone shows them below each other at a legible size.

A cut lies in a column of the picture that is blank from top to bottom, near the place where the second half, or the
second or third third, would begin. A picture with two rows of panels is first cut into these, in the widest blank near
its middle. A panel whose axis has no labels of its own, because it shares them with the first of its row, gets the
labels of the first.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
from PIL import ImageChops

BLANK = 0.008  # of the width or height: the narrowest gap between two panels
NEAR = 0.1  # of the width or height: how far a cut may lie from where equal panels would meet
TICKS = 0.009  # of the width: the marks of an axis, which are no labels
HALF = 0.006  # of the width: what the number at the end of an axis may reach beyond it
LONG = 0.25  # of the height: a dark upright line of at least this length is an axis
AXES = re.compile(
    r'<g id="axes_\d+">.*?<path d="M ([\d.]+) ([\d.]+) ?\nL ([\d.]+) [\d.]+ ?\nL [\d.]+ ([\d.]+)', re.DOTALL
)
TEXT = re.compile(r"<!-- (.+?) -->\s*<g transform=\"translate\(([\d.]+) ([\d.]+)\)( rotate)?[^\"]*scale\(([\d.]+)")
VIEW = re.compile(r'viewBox="0 0 ([\d.]+) ([\d.]+)')
MIDDLE = (0.1, 0.8)  # of the height: where labels of upright axes stand, and no titles or labels of level axes
LETTER = 57  # the usual width of a letter at the scale 1
HEIGHT = 76  # the same for the height


Part = tuple[int, int, int, int]
"""Left, right, top, bottom of a part of a picture, in thousandths of its width and height."""


class Picture(NamedTuple):
    """What stands in a picture, (height, width): anything at all, and what may be an axis."""

    ink: np.ndarray
    dark: np.ndarray


def panels(file: Path) -> list[list[Part]]:
    """Return the parts of the picture that show each panel; nothing for a single panel, or one above another."""
    picture = drawing(file) if file.suffix == ".svg" else points(file)
    height = len(picture.ink)
    middle = widest_gap(picture.ink.any(axis=1))
    found = []
    for top, bottom in pairwise([0, middle, height] if middle else [0, height]):
        row = Picture(*(part[top:bottom] for part in picture))
        share = round(1000 * top / height), round(1000 * bottom / height)
        for parts in panels_of_row(row):
            ends = [round(1000 * (top + end_of_labels(row, axis)) / height) for _, axis in parts[:-1]]
            labels = [(*part, share[0], end) for part, end in zip(parts, ends, strict=False)]
            found.append([*labels, (*parts[-1], *share)])
    return found if any(parts[-1][:2] != (0, 1000) for parts in found) else []


def panels_of_row(picture: Picture) -> list[list[tuple[int, int]]]:
    """Return left and right of the parts that show each panel of a row, in thousandths of the width."""
    columns = columns_of(picture)
    width = len(columns.ink)
    found = [with_labels(columns, start, end) for start, end in pairwise([0, *cuts(columns), width])]
    return [[(round(1000 * start / width), round(1000 * end / width)) for start, end in parts] for parts in found]


def ratio(file: Path) -> float:
    """Return the width of a picture, divided by its height."""
    if file.suffix == ".svg":
        view = VIEW.search(file.read_text(encoding="utf-8"))
        width, height = (float(number) for number in view.groups()) if view else (1.0, 1.0)
    else:
        with PIL.Image.open(file) as picture:
            width, height = picture.size
    return width / height


def points(file: Path) -> Picture:
    """Look at a picture of points."""
    with PIL.Image.open(file) as picture:
        red, green, blue = picture.convert("RGB").split()
    brightest = np.asarray(ImageChops.lighter(red, ImageChops.lighter(green, blue)))
    darkest = np.asarray(ImageChops.darker(red, ImageChops.darker(green, blue)))
    return Picture(darkest < darkest[0, 0] - 12, brightest < 100)


def drawing(file: Path) -> Picture:
    """Read a drawing of matplotlib: its axes, and its texts, whose sizes are estimated."""
    text = file.read_text(encoding="utf-8")
    view = VIEW.search(text)
    width, height = (round(float(number)) for number in view.groups()) if view else (1, 1)
    ink, dark = np.zeros((2, height, width), dtype=bool)
    for numbers in AXES.findall(text) if view else ():
        left, bottom, right, top = (int(float(number)) for number in numbers)
        ink[top : bottom + 1, left : right + 1] = True
        dark[top : bottom + 1, left] = True
    for words, *place, turned, scale in TEXT.findall(text):
        x, y = (int(float(number)) for number in place)
        high, wide = (round(float(scale) * size) for size in (HEIGHT, LETTER * len(words)))
        if turned:
            ink[max(0, y - wide) : y + 1, max(0, x - high) : x + 2] = True
        else:
            ink[max(0, y - high) : y + 1, x : x + wide] = True
    return Picture(ink, dark)


class Columns(NamedTuple):
    """What stands in the columns of a picture: anything at all, anything beside the axes, an upright axis."""

    ink: np.ndarray
    beside: np.ndarray
    axis: np.ndarray


def columns_of(picture: Picture) -> Columns:
    """Look at the columns of a picture."""
    ink, dark = picture
    run = longest = np.zeros(dark.shape[1], dtype=int)
    for line in dark:
        run = (run + 1) * line
        longest = np.maximum(longest, run)
    top, bottom = (round(share * len(ink)) for share in MIDDLE)
    return Columns(ink.any(axis=0), ink[top:bottom].any(axis=0), longest > LONG * len(ink))


def cuts(columns: Columns) -> list[int]:
    """Return the columns where a picture can be cut, in two or in three; none if it cannot.

    Long labels before the first axis move all panels to the right. Then the parts of the first way to cut do not have
    equally many axes, and equal panels are sought that begin at this axis.
    """
    ways = []
    for begin in (0.0, float(columns.axis.argmax()) / len(columns.ink)):
        for count in (2, 3):
            found = [first_gap(columns.ink, begin + (1 - begin) * number / count) for number in range(1, count)]
            if all(found) and len(set(found)) == len(found):
                ways.append(found)
    first = ways[0] if ways else []
    return next((found for found in ways if len(found) >= len(first) and is_fair(columns, found)), first)


def is_fair(columns: Columns, found: list[int]) -> bool:
    """Tell whether each part of a picture has as many upright axes as the others."""
    axes = np.flatnonzero(np.diff(columns.axis.astype(int)) == 1) + 1
    ends = [0, *found, len(columns.ink)]
    return len({int(((start <= axes) & (axes < end)).sum()) for start, end in pairwise(ends)}) == 1


def gaps(ink: np.ndarray, share: float) -> list[tuple[int, int]]:
    """Return begin and end of the blank gaps near some share of the length."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], ink, [True]]).astype(int)))
    return [
        (int(start), int(end))
        for start, end in edges.reshape(-1, 2)
        if start > 0 and end < len(ink)
        if end - start >= BLANK * len(ink) and abs((start + end) // 2 / len(ink) - share) <= NEAR
    ]


def first_gap(ink: np.ndarray, share: float) -> int:
    """Return the middle of the first gap near some share of the width, the one before a label; zero for none."""
    return next(((start + end) // 2 for start, end in gaps(ink, share)), 0)


def widest_gap(ink: np.ndarray) -> int:
    """Return the middle of the widest gap near half the height: between labels and the titles below; zero for none."""
    start, end = max(gaps(ink, 0.5), key=lambda gap: gap[1] - gap[0], default=(0, 0))
    return (start + end) // 2


def with_labels(columns: Columns, start: int, end: int) -> list[tuple[int, int]]:
    """Return the parts that show a panel: itself, after the labels of the first if it has none."""
    axes, own = np.flatnonzero(columns.axis), start + np.flatnonzero(columns.axis[start:end])
    if start == 0 or not len(own) or has_labels(columns, start, own[0]) or not has_labels(columns, 0, axes[0]):
        return [(start, end)]
    return [(0, int(axes[0])), (start + int(columns.ink[start:end].argmax()), end)]  # a title may begin before the axis


def end_of_labels(row: Picture, axis: int) -> int:
    """Return how far down the labels of an axis are shown again, for an axis at so many thousandths of the width.

    Only to the end of the axis, if a label of the level axis reaches across it: a piece of a number would be left.
    """
    height, width = row.ink.shape
    column = round(axis * width / 1000)
    beside = row.dark[:, max(0, column - 2) : column + 3].any(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], beside.astype(int), [0]])))
    end = max(edges.reshape(-1, 2).tolist(), key=lambda run: run[1] - run[0], default=(0, height))[1]
    end += round(HALF * width)
    return end if row.ink[end:, max(0, column - 3) : column].any() else height


def has_labels(columns: Columns, start: int, axis: int) -> bool:
    """Tell whether something stands left of an axis, other than its marks and the edge of the picture."""
    marks = round(TICKS * len(columns.ink))
    return bool(columns.beside[start + 2 : max(start + 2, axis - marks)].any())
