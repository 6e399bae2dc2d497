"""Pictures of explanations: what is drawn is what was found, and it can be drawn for any network."""

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hwmodel.chip import Chip, Level, Rate
from hwmodel.random_graphs import random_workload
from hwmodel.report.explain import explain
from hwmodel.report.plots import (
    LEVELS,
    memory_figure,
    plot_latency,
    plot_memory,
    plot_placement,
    plot_roofline,
)

CHIP = Chip(
    name="toy",
    levels=(
        Level("slow", 1e8, 2e8),
        Level("mid", 2e9, 1e9, capacity_bytes=1 << 20, reserved_bytes=1 << 16, ports="dual"),
        Level("fast", 1e10, 1e10, capacity_bytes=100_000),
    ),
    compute=(Rate(8, 8, 1e11), Rate(16, 16, 1e10)),
)


def explained(operations=20, seed=0, **sizes):
    work = random_workload(seed, operations, 0.4, **sizes)
    placement = np.random.default_rng(seed).integers(0, 3, (operations, 2))
    return explain(work, CHIP, placement)


def drawn(figure):
    """The picture as PNG bytes; every text must lie within the canvas where the layout can see to that."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def test_bars_are_the_times_and_have_the_colour_of_what_binds():
    found = explained()
    axes = plot_latency(found)
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    bars = {round(box.get_x() + box.get_width() / 2 - 0.5): box for box in boxes}
    assert len(bars) == 20
    heights = np.array([bars[i].get_height() for i in range(20)])
    np.testing.assert_allclose(heights / found.time_s, heights[0] / found.time_s[0], rtol=1e-12)
    colours = ["#555555", *LEVELS]
    for i, bar in bars.items():
        assert bar.get_facecolor() == to_rgba(colours[found.binding[i]])
    unit = {"time (s)": 1, "time (ms)": 1e3, "time (µs)": 1e6}[axes.get_ylabel()]
    assert heights.max() == pytest.approx(found.time_s.max() * unit)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == list(found.operations)


def test_memory_shows_weights_outputs_reserved_bytes_and_capacity():
    found = explained(weight_elems=(1, 1 << 15))
    axes = plot_memory(found, "mid")
    scale = {"MB ($10^6$ bytes)": 1e6, "kB ($10^3$ bytes)": 1e3}[axes.get_ylabel()]
    tops = {area.get_label(): area.get_datalim(axes.transData).y1 for area in axes.collections}
    reserved = (1 << 16) / scale
    assert tops["reserved"] == pytest.approx(reserved)
    assert tops["weights"] == pytest.approx(reserved + found.weight_bytes[1] / scale)
    assert tops["live outputs"] == pytest.approx(reserved + found.held_bytes[:, 1].max() / scale)
    capacity = [line.get_ydata()[0] for line in axes.lines if "capacity" in str(line.get_label())]
    assert capacity == [pytest.approx((1 << 20) / scale)] or "capacity" in axes.get_title(loc="left")
    assert plot_memory(found, -1).get_title(loc="left").startswith("fast")
    assert plot_memory(found, 0).get_title(loc="left") == "slow, unlimited"


def test_what_does_not_fit_is_hatched():
    found = explained(weight_elems=(50_000, 60_000))
    assert not found.peaks[2].fits
    labels = [area.get_label() for area in plot_memory(found, "fast").collections]
    assert "does not fit" in labels
    roomy = replace(CHIP, levels=(*CHIP.levels[:2], replace(CHIP.levels[2], capacity_bytes=1 << 21)))
    fitting = explain(random_workload(0, 20, 0.4, weight_elems=(50_000, 60_000)), roomy, found.placement)
    assert "does not fit" not in [area.get_label() for area in plot_memory(fitting, "fast").collections]


def test_no_operation_is_above_its_roofs():
    found = explained()
    axes = plot_roofline(found)
    roofs = [line for line in axes.lines if len(line.get_xdata()) == 200]
    assert len(roofs) == 3
    points = 0
    for k, roof in enumerate(roofs):
        clouds = [
            c for c in axes.collections if np.allclose(c.get_edgecolor()[:, :3], to_rgba(LEVELS[k])[:3])
        ]
        for x, y in np.concatenate([np.asarray(cloud.get_offsets()) for cloud in clouds]):
            limit = np.exp(np.interp(np.log(x), np.log(roof.get_xdata()), np.log(roof.get_ydata())))
            assert y <= limit * 1.01
            points += 1
    moved = (found.terms.read_bytes + found.terms.write_bytes) > 0
    assert points == (moved & (found.macs > 0)[:, None]).sum()


def test_the_strip_is_the_placement():
    found = explained()
    mesh = plot_placement(found).collections[0]
    outputs, weights = np.ma.filled(mesh.get_array(), np.nan).reshape(2, -1)
    np.testing.assert_array_equal(outputs, found.placement[:, 1])
    expected = np.where(found.terms.holds_weights, found.placement[:, 0], np.nan)
    np.testing.assert_array_equal(weights, expected)
    assert np.isnan(weights).any()
    assert mesh.get_cmap().colors[:3] == list(LEVELS[:3])


@pytest.mark.parametrize("operations", [1, 64, 376])
def test_any_number_of_operations_can_be_drawn(operations):
    found = explained(operations)
    figures = [memory_figure(found)]
    figures += [plot(found).get_figure(root=True) for plot in (plot_latency, plot_roofline, plot_placement)]
    for figure in figures:
        assert drawn(figure).startswith(b"\x89PNG")


def test_of_long_names_the_end_is_shown():
    found = explained(3)
    names = ("stem", "model/encoder/layers_0/attention/query", "a" * 60)
    long = replace(found, operations=names)
    axes = plot_placement(long)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["stem", "…attention/query", "…" + "a" * 19]
    assert drawn(axes.get_figure(root=True)).startswith(b"\x89PNG")  # warns where names leave no room


def test_a_network_without_arithmetic_can_be_drawn():
    found = explained(5, macs=(0, 0))
    assert drawn(plot_roofline(found).get_figure(root=True)).startswith(b"\x89PNG")
    assert drawn(plot_latency(found).get_figure(root=True)).startswith(b"\x89PNG")


def test_a_picture_can_go_on_axes_of_ones_own():
    panels = Figure().subplots(2, 2).ravel()
    found = explained()
    for plot, axes in zip((plot_latency, plot_roofline, plot_placement, plot_memory), panels, strict=True):
        assert plot(found, ax=axes) is axes
    with pytest.raises(ValueError, match="level must be a name or an index below 3, got 3"):
        plot_memory(found, 3)
    with pytest.raises(ValueError, match=r"has levels .* not 'L2'"):
        plot_memory(found, "L2")
