"""Drawing for two-dimensional chapters: deformed grids, level lines, arrows, and one colour for each estimator."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from invlib import _checks

COLOURS = {
    "prior": "#4477aa",
    "data": "#555555",
    "posterior_mean": "#117733",
    "map": "#cc3311",
    "affine": "#ddaa33",
    "approximation": "#777777",
    "reconstruction": "#117733",
    "log_det": "#aa4499",
    "divergence": "#cc3311",
}
"""The colours of the book (after Paul Tol's schemes, told apart by readers with colour-vision deficiencies).

A strategy has the colour of the estimator that it aims at. The best affine map is Wiener's filter.
"""


@dataclass(frozen=True)
class Style:
    """How a strategy is drawn in every figure: nothing else has its colour, its marker or its dashes.

    Attributes:
        color: of its lines, points and areas; the one in `COLOURS`.
        marker: of its points.
        linestyle: of its lines.
        label: its name in legends.
    """

    color: str
    marker: str
    linestyle: str
    label: str

    def line(self) -> dict[str, str]:
        """Return the options of `Axes.plot` for a curve."""
        return {"color": self.color, "linestyle": self.linestyle, "label": self.label}

    def points(self) -> dict[str, str]:
        """Return the options of `Axes.plot` for points that are joined by a line."""
        return {**self.line(), "marker": self.marker}


STRATEGIES = {
    "approximation": Style(COLOURS["approximation"], "o", ":", "approximation"),
    "reconstruction": Style(COLOURS["reconstruction"], "s", "--", "reconstruction"),
    "log_det": Style(COLOURS["log_det"], "^", "-.", "log-determinant"),
    "divergence": Style(COLOURS["divergence"], "D", "-", "divergence"),
}
"""The style of each strategy."""

SIZES = {"narrow": (4.8, 3.4), "wide": (7.4, 3.3), "tall": (7.4, 6.2)}
"""The sizes of the figures, in inches: one panel, a row of panels, two rows."""

Extent = tuple[float, float, float, float]
"""Left, right, bottom, top, in data coordinates."""

SVG_BYTES = 40_000
"""The largest drawing that is shown as SVG; above, it becomes a picture of points."""

PNG_BYTES = 80_000
"""The largest picture of points; of `SCALES`, the first that keeps to it is taken."""

SCALES = (2.0, 1.5, 1.0)
"""The resolutions of a picture of points, relative to that of a page."""

LINES = 10_000
"""The most lines of a grid: more would fill the memory, and no picture shows them."""


def grid_lines(extent: Extent, spacing: float, points: int = 161) -> Tensor:
    """Return the lines of an equidistant grid, (lines, points, 2), float64: the vertical ones, then the horizontal.

    Args:
        extent: (left, right, bottom, top).
        spacing: distance of neighbouring lines; lines lie at its multiples.
        points: points on each line, dense enough that its image under a map looks smooth.

    Raises:
        ValueError: if the extent is empty, `spacing` is not positive, no line or more than 10,000 lines lie in the
            extent, or `points` is less than 2.
    """
    left, right, bottom, top = _extent(extent)
    _checks.positive("spacing", spacing)
    _checks.count("points", points, least=2)
    if (right - left) / spacing + (top - bottom) / spacing > LINES:
        raise ValueError(
            f"spacing must leave at most {LINES} lines in the extent {extent}, got {spacing}"
        )

    horizontal = torch.linspace(left, right, points, dtype=torch.float64)
    vertical = torch.linspace(bottom, top, points, dtype=torch.float64)
    columns = [
        torch.stack([torch.full_like(vertical, at), vertical], -1)
        for at in _multiples(left, right, spacing)
    ]
    rows = [
        torch.stack([horizontal, torch.full_like(horizontal, at)], -1)
        for at in _multiples(bottom, top, spacing)
    ]
    if not columns + rows:
        raise ValueError(
            f"spacing must put a line into the extent {extent}, got {spacing}: lines lie at its multiples"
        )
    return torch.stack(columns + rows)


def draw_grid(
    axes: Axes, lines: Tensor, *, color: str = "0.45", linewidth: float = 0.7
) -> LineCollection:
    """Draw lines (lines, points, 2), for instance the image of `grid_lines` under a reconstruction."""
    collection = LineCollection(
        list(lines.detach().numpy()), colors=color, linewidths=linewidth, zorder=2
    )
    axes.add_collection(collection)
    return collection


def draw_density(
    axes: Axes,
    log_density: Callable[[Tensor], Tensor],
    extent: Extent,
    *,
    color: str = COLOURS["prior"],
    masses: Sequence[float] = (0.2, 0.5, 0.8, 0.95),
    filled: bool = True,
    resolution: int = 201,
) -> None:
    """Draw the level lines of a density that enclose the given probabilities.

    Args:
        axes: where to draw.
        log_density: maps points (..., 2) to (...); a constant may be missing.
        extent: (left, right, bottom, top); should hold nearly all of the mass.
        color: of the lines and, lighter, of the areas.
        masses: the probabilities enclosed, in (0, 1).
        filled: fill the areas as well.
        resolution: points along each axis.

    Raises:
        ValueError: if the extent is empty or holds no mass, `masses` is empty or leaves (0, 1), or `resolution` is
            below 2.
    """
    left, right, bottom, top = _extent(extent)
    _checks.count("resolution", resolution, least=2)
    _checks.flag("filled", filled)
    masses = [_checks.open_unit("masses", mass) for mass in masses]
    if not masses:
        raise ValueError("masses must hold at least one probability, got none")

    first = torch.linspace(left, right, resolution, dtype=torch.float64)
    second = torch.linspace(bottom, top, resolution, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(first, second, indexing="xy"), dim=-1)
    logs = log_density(points)
    if not bool(torch.isfinite(logs.max())) or bool(logs.max() == logs.min()):
        raise ValueError(
            f"extent must hold mass of the density, got {extent}, where it is constant or not finite"
        )
    density = (logs - logs.max()).exp()
    ordered = density.flatten().sort(descending=True).values
    enclosed = ordered.cumsum(0) / ordered.sum()
    levels = sorted(
        {float(ordered[torch.searchsorted(enclosed, mass)]) for mass in masses}
    )
    coordinates = (first.numpy(), second.numpy(), density.numpy())
    if filled:
        for level in levels:
            axes.contourf(
                *coordinates,
                levels=[level, np.inf],
                colors=[color],
                alpha=0.12,
                zorder=0,
            )
    axes.contour(
        *coordinates, levels=levels, colors=[color], linewidths=0.8, alpha=0.8, zorder=1
    )


def draw_arrows(axes: Axes, start: Tensor, end: Tensor, *, color: str) -> None:
    """Draw an arrow from each point of `start` to that of `end`, both (B, 2), at their true length."""
    tails, steps = start.detach().numpy(), (end - start).detach().numpy()
    axes.quiver(
        *tails.T,
        *steps.T,
        color=color,
        angles="xy",
        scale_units="xy",
        scale=1.0,
        width=0.007,
        headwidth=3.5,
        zorder=4,
    )


def draw_points(
    axes: Axes,
    points: Tensor,
    *,
    color: str,
    hollow: bool = False,
    label: str | None = None,
) -> None:
    """Draw points (B, 2) as dots, or as rings if `hollow`."""
    face = "white" if hollow else color
    first, second = points.detach().numpy().T
    axes.scatter(
        first,
        second,
        s=16,
        facecolor=face,
        edgecolor=color,
        linewidth=1.0,
        zorder=5,
        label=label,
    )


def figure(
    size: str = "wide", rows: int = 1, columns: int = 1, *, share: str = "none"
) -> tuple[Figure, Any]:
    """Return a new figure in one of three sizes and its axes, one or an array as `plt.subplots` has them.

    Args:
        size: a key of `SIZES`.
        rows: of panels.
        columns: of panels.
        share: which panels have the same scales: "none", "all", "row" or "col".

    Raises:
        ValueError: if `size` is not a key of `SIZES`, or `share` not one of the four words.
    """
    if size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
    if share not in ("none", "all", "row", "col"):
        raise ValueError(f"share must be one of none, all, row, col, got {share!r}")
    shares: dict[str, Any] = {"sharex": share, "sharey": share}
    return plt.subplots(
        rows, columns, figsize=SIZES[size], layout="constrained", **shares
    )


def show(figure: Figure, colours: int = 128) -> None:
    """Show a figure in a notebook: as SVG if that is small, otherwise as sharp a picture as 80 kB allow.

    Beside an SVG goes a plain PNG, for front ends that draw none in a notebook that they do not trust.

    Args:
        figure: it is closed.
        colours: of the palette, where the SVG would have more than `SVG_BYTES` bytes.

    Raises:
        ValueError: if `colours` is not between 2 and 256.
    """
    from IPython.display import display  # only where there is a notebook

    if _checks.count("colours", colours, least=2) > 256:
        raise ValueError(f"colours must be at most 256, got {colours}")
    drawing = _svg(figure)
    if len(drawing) <= SVG_BYTES:
        bundle = {
            "image/svg+xml": drawing,
            "image/png": _png(figure, colours, 1.0),
        }
    else:
        pictures = (_png(figure, colours, scale) for scale in SCALES)
        sharpest = next(
            (picture for picture in pictures if len(picture) <= PNG_BYTES), None
        )
        bundle = {"image/png": sharpest or _png(figure, colours, 1.0)}
    display(bundle, raw=True)
    plt.close(figure)


def _svg(figure: Figure) -> str:
    """Return the figure as SVG, the same in every run, without the head of a file."""
    buffer = io.BytesIO()
    with plt.rc_context({"svg.hashsalt": "invlib"}):
        figure.savefig(buffer, format="svg", metadata={"Creator": None, "Date": None})
    text = buffer.getvalue().decode()
    return text[text.index("<svg") :]


def _png(figure: Figure, colours: int, scale: float) -> bytes:
    """Return the figure as PNG with a palette, at `scale` times the resolution of a page."""
    full, small = io.BytesIO(), io.BytesIO()
    dpi = scale * figure.dpi
    figure.savefig(full, format="png", dpi=dpi)

    picture = PIL.Image.open(full).convert("RGB")
    picture = picture.quantize(
        colours, method=PIL.Image.Quantize.MEDIANCUT, dither=PIL.Image.Dither.NONE
    )
    picture.save(small, format="png", optimize=True, dpi=(dpi, dpi))
    return small.getvalue()


def square_axes(axes: Axes, extent: Extent, title: str = "") -> None:
    """Give the axes equal scales, the extent and a title.

    Raises:
        ValueError: if the extent is not (left, right, bottom, top) with left < right, bottom < top.
    """
    _extent(extent)
    axes.set(xlim=extent[:2], ylim=extent[2:], aspect="equal", title=title)


def _extent(extent: Extent) -> Extent:
    """Return the extent if it is (left, right, bottom, top) with left < right and bottom < top."""
    wanted = "extent must be (left, right, bottom, top) with left < right, bottom < top"
    if np.shape(extent) != (4,):
        raise ValueError(f"{wanted}, got {extent!r}")
    left, right, bottom, top = (_checks.number("extent", side) for side in extent)
    if not (left < right and bottom < top):
        raise ValueError(f"{wanted}, got {extent}")
    return left, right, bottom, top


def _multiples(low: float, high: float, spacing: float) -> list[float]:
    tolerance = 1e-9
    first, last = (
        int(np.ceil(low / spacing - tolerance)),
        int(np.floor(high / spacing + tolerance)),
    )
    return [spacing * i for i in range(first, last + 1)]
