"""Tests of invlib.drawing: what is drawn is what was given."""

import io

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest
import torch

import invlib
from invlib import drawing
from invlib.testproblems import two_bumps

EXTENT = (-1.0, 2.0, -0.5, 0.5)


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def test_grid_lines_lie_at_the_multiples_of_the_spacing():
    lines = drawing.grid_lines(EXTENT, spacing=0.5, points=11)
    assert lines.shape == (7 + 3, 11, 2)
    assert lines.dtype == torch.float64
    torch.testing.assert_close(lines[:7, :, 0], torch.arange(-1, 2.1, 0.5).double()[:, None].expand(7, 11))
    torch.testing.assert_close(lines[7:, :, 1], torch.tensor([-0.5, 0.0, 0.5]).double()[:, None].expand(3, 11))
    assert lines[:, :, 0].min() == -1
    assert lines[:, :, 0].max() == 2
    assert lines[:, :, 1].min() == -0.5
    assert lines[:, :, 1].max() == 0.5


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"extent": (1.0, 0.0, 0.0, 1.0), "spacing": 0.1}, "extent"),
        ({"extent": EXTENT, "spacing": 0.0}, "spacing"),
        ({"extent": EXTENT, "spacing": float("nan")}, "spacing"),
        ({"extent": EXTENT, "spacing": 0.1, "points": 1}, "points"),
        ({"extent": (-1e9, 1e9, -1e9, 1e9), "spacing": 0.5}, "spacing"),
        ({"extent": EXTENT, "spacing": 1e-9}, "spacing"),
        ({"extent": (0.1, 0.2, 0.1, 0.2), "spacing": 1.0}, "spacing"),
        ({"extent": "abcd", "spacing": 1.0}, "extent"),
        ({"extent": 2.0, "spacing": 1.0}, "extent"),
        ({"extent": None, "spacing": 1.0}, "extent"),
    ],
)
def test_bad_grids_are_refused(arguments, name):
    with pytest.raises(ValueError, match=name):
        drawing.grid_lines(**arguments)


def test_a_drawn_grid_keeps_its_points(axes):
    lines = drawing.grid_lines(EXTENT, spacing=0.5, points=5).requires_grad_()
    collection = drawing.draw_grid(axes, lines)
    for segment, line in zip(collection.get_segments(), lines.detach().numpy(), strict=True):
        np.testing.assert_array_equal(segment, line)


def test_level_lines_enclose_the_stated_mass(axes):
    """For a Gaussian the level that encloses the mass p is exp(-r^2 / 2) with 1 - exp(-r^2 / 2) = p."""
    prior = invlib.GaussianMixture([1.0], [[0.0, 0.0]], [torch.eye(2).tolist()])
    masses = (0.2, 0.5, 0.9)
    drawing.draw_density(axes, prior.log_prob, (-5, 5, -5, 5), masses=masses, filled=False)
    levels = axes.collections[-1].levels
    np.testing.assert_allclose(np.sort(levels), np.sort(1 - np.array(masses)), atol=5e-3)


def test_filled_areas_come_one_for_each_mass(axes):
    drawing.draw_density(axes, two_bumps().log_prob, (-3, 3, -3, 3), masses=(0.3, 0.8), resolution=41)
    assert len(axes.collections) == 2 + 1


@pytest.mark.parametrize(
    ("extent", "options", "name"),
    [
        ((3, -3, -3, 3), {}, "extent"),
        ((1e6, 1e6 + 1, 1e200, 2e200), {}, "extent"),
        ((-3, 3, -3, 3), {"masses": (0.0,)}, "masses"),
        ((-3, 3, -3, 3), {"masses": (0.5, 1.0)}, "masses"),
        ((-3, 3, -3, 3), {"masses": (-0.5,)}, "masses"),
        ((-3, 3, -3, 3), {"masses": ()}, "masses"),
        ((-3, 3, -3, 3), {"resolution": 1}, "resolution"),
    ],
)
def test_bad_densities_are_refused(axes, extent, options, name):
    with pytest.raises(ValueError, match=rf"^{name} must"):
        drawing.draw_density(axes, lambda x: -x.square().sum(-1), extent, **options)


@pytest.mark.parametrize("extent", [(1.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 1.0), (), "abcd"])
def test_bad_axes_are_refused(axes, extent):
    with pytest.raises(ValueError, match=r"^extent must"):
        drawing.square_axes(axes, extent)


def test_arrows_have_their_true_length(axes):
    start = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    end = torch.tensor([[1.0, 0.0], [1.0, 3.0]])
    drawing.draw_arrows(axes, start, end, color="red")
    (quiver,) = axes.collections
    np.testing.assert_array_equal(np.stack([quiver.U, quiver.V], -1), (end - start).numpy())
    assert quiver.scale == 1.0
    assert quiver.angles == quiver.scale_units == "xy"


@pytest.mark.parametrize("hollow", [False, True])
def test_points_are_where_they_belong(axes, hollow):
    points = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    drawing.draw_points(axes, points, color="red", hollow=hollow, label="points")
    (scatter,) = axes.collections
    np.testing.assert_array_equal(scatter.get_offsets(), points.numpy())
    assert (scatter.get_facecolor()[0, :3] == 1).all() == hollow


def test_square_axes_have_equal_scales(axes):
    drawing.square_axes(axes, EXTENT, "title")
    assert axes.get_xlim() == EXTENT[:2]
    assert axes.get_ylim() == EXTENT[2:]
    assert axes.get_aspect() == 1
    assert axes.get_title() == "title"


@pytest.fixture
def shown(monkeypatch):
    """What a notebook is given to display."""
    outputs = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: outputs.append(bundle))
    return outputs


def noisy_figure(curves):
    figure, axes = drawing.figure("narrow")
    points = np.random.default_rng(0).normal(size=(curves, 200))
    axes.plot(points.T, color="#cc3311", linewidth=0.5)
    return figure


def test_show_displays_a_small_drawing_as_svg_and_closes_it(shown):
    for _ in range(2):
        figure, axes = drawing.figure("wide", columns=2)
        axes[0].plot([0, 1], [0, 1])
        drawing.show(figure)
        assert not plt.fignum_exists(figure.number)
    assert shown[0]["image/svg+xml"].startswith("<svg")
    assert 'width="532.8pt"' in shown[0]["image/svg+xml"]  # 7.4 inches
    assert shown[0] == shown[1]


def test_a_front_end_that_draws_no_svg_has_the_same_picture_as_points(shown):
    figure, axes = drawing.figure("wide", columns=2)
    axes[0].plot([0, 1], [0, 1])
    drawing.show(figure)
    picture = PIL.Image.open(io.BytesIO(shown[0]["image/png"]))
    assert picture.width / picture.info["dpi"][0] == pytest.approx(7.4, abs=0.02)
    assert len(picture.getcolors()) > 2


def test_show_displays_a_large_drawing_as_points(shown):
    figure = noisy_figure(30)
    drawing.show(figure, colours=16)
    assert not plt.fignum_exists(figure.number)
    picture = PIL.Image.open(io.BytesIO(shown[0]["image/png"]))
    assert picture.mode == "P"
    assert len(picture.getcolors()) <= 16
    assert len(shown[0]["image/png"]) <= drawing.PNG_BYTES
    dpi = picture.info["dpi"][0]
    assert picture.width / dpi == pytest.approx(4.8, abs=0.02)


def test_show_takes_the_sharpest_picture_that_is_small_enough(shown, monkeypatch):
    widths = []
    for limit in (10**6, drawing.PNG_BYTES, 1):
        monkeypatch.setattr(drawing, "PNG_BYTES", limit)
        drawing.show(noisy_figure(30), colours=256)
        widths.append(PIL.Image.open(io.BytesIO(shown[-1]["image/png"])).width)
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == 2 * widths[2]


def test_bad_sizes_and_palettes_are_refused():
    with pytest.raises(ValueError, match="size must be one of narrow, wide, tall, got 'huge'"):
        drawing.figure("huge")
    figure = noisy_figure(1)
    with pytest.raises(ValueError, match="colours must be at most 256, got 1000"):
        drawing.show(figure, colours=1000)
    plt.close(figure)


def test_strategies_differ_in_colour_marker_and_dashes():
    styles = drawing.STRATEGIES.values()
    for attribute in ("color", "marker", "linestyle", "label"):
        assert len({getattr(style, attribute) for style in styles}) == 4
    assert all(drawing.COLOURS[name] == style.color for name, style in drawing.STRATEGIES.items())
    style = drawing.STRATEGIES["divergence"]
    assert style.points() == {"color": "#cc3311", "linestyle": "-", "label": "divergence", "marker": "D"}


def test_the_style_is_valid_and_its_backgrounds_are_white():
    with plt.style.context("invlib.book"):
        for name in ("figure.facecolor", "axes.facecolor", "savefig.facecolor"):
            assert mpl.rcParams[name] == "white"
