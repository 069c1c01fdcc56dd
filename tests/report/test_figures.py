"""The papers' figures: what their lines and bars show is what they were given, and files are the same every time."""

from __future__ import annotations

from statistics import fmean, stdev

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer

from tailwise.metrics import ProbabilityCurves
from tailwise.report import figures
from tailwise.report.figures import CurvePanel, GradientCurve

NAMES = ("cat", "dog", "emu", "fox")
GROUPS = {"head": np.array([1]), "medium": np.array([0, 3]), "tail": np.array([2])}


def curves(seed: int, points: int = 7) -> ProbabilityCurves:
    """Random pairs, with points that have none of a class."""
    generator = np.random.default_rng(seed)
    counts = generator.integers(0, 4, (2, points, 4)).astype(np.float32)
    sums = (counts * generator.random((2, points, 4))).astype(np.float32)
    steps = np.arange(1, points + 1) * 10
    return ProbabilityCurves(steps, sums[0], counts[0], sums[1], counts[1], NAMES, GROUPS)


def one_each() -> dict[str, np.ndarray]:
    """A class for each group."""
    return {group: np.array([k]) for k, group in enumerate(GROUPS)}


def line_with(axes, label):
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return line


def test_reference_curves_show_the_counts_and_mark_the_chosen_shape():
    figure = figures.reference_curves({6.0: [800, 50, 4], 2.0: [800, 9, 1]}, chosen=6.0)
    (axes,) = figure.axes
    chosen, other = line_with(axes, "b = 6"), line_with(axes, "b = 2")
    assert chosen.get_xydata().tolist() == [[1, 800], [2, 50], [3, 4]]
    assert other.get_ydata().tolist() == [800, 9, 1]
    assert chosen.get_linewidth() > other.get_linewidth()
    assert axes.get_yscale() == "log"


def test_construction_shows_the_history_and_the_reference_in_the_order_of_the_steps():
    order = np.array([2, 0, 3, 1])
    history = np.array([[0, 0, 0, 0], [1, 0, 8, 2], [5, 0, 8, 3], [5, 1, 7, 4], [5, 2, 7, 4]])
    reference = np.array([5, 2, 8, 3])
    figure = figures.construction(history, order, reference, NAMES)
    steps, final = figure.axes[:2]
    shown = steps.images[0].get_array()
    assert shown.filled(0).tolist() == history[1:][:, order].tolist()
    assert shown.mask.tolist() == (history[1:][:, order] == 0).tolist()
    bars = next(container for container in final.containers if isinstance(container, BarContainer))
    assert [bar.get_height() for bar in bars] == [7, 5, 4, 2]
    assert line_with(final, "wanted").get_ydata().tolist() == [8, 5, 3, 2]
    for axes in (steps, final):
        assert [label.get_text() for label in axes.get_xticklabels()] == ["emu", "cat", "fox", "dog"]


def test_test_counts_stand_in_the_order_of_training_counts_in_the_colours_of_groups():
    train, test = np.array([40, 300, 3, 25]), np.array([10, 20, 30, 40])
    figure = figures.test_counts(train, test, GROUPS, NAMES)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["dog", "cat", "fox", "emu"]
    assert [bar.get_height() for bar in axes.patches] == [20, 10, 40, 30]
    assert axes.lines[0].get_ydata().tolist() == [300, 40, 25, 3]
    colours = [to_rgb(bar.get_facecolor()) for bar in axes.patches]
    assert colours[1] == colours[2]
    assert len(set(colours)) == 3
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "test, head",
        "test, medium",
        "test, tail",
        "training",
    ]


def test_classes_have_names_only_where_there_is_space():
    many = np.arange(30) + 1
    figure = figures.test_counts(many, many, {"all": np.arange(30)}, [f"class {k}" for k in range(30)])
    assert not any("class" in label.get_text() for label in figure.axes[0].get_xticklabels())


def test_sweeps_show_mean_and_deviation_of_each_group_that_has_any():
    scores = {
        0.3: {"total": [50.0, 52.0, 51.0], "tail": [20.0, None, 30.0], "head": [None, None, None]},
        0.1: {"total": [40.0, 41.0, 45.0], "tail": [None, None, 7.0], "head": [None, None, None]},
    }
    figure = figures.sweep("μ", scores, recipe=0.3, groups=("total", "head", "tail"))
    total, tail = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["total", "tail"]
    line = total.lines[0]
    assert line.get_xydata().tolist() == [[0.1, 42.0], [0.3, 51.0]]
    (bars,) = total.containers[0].lines[2]
    expected = [(fmean(runs) - stdev(runs), fmean(runs) + stdev(runs)) for runs in ([40, 41, 45], [50, 52, 51])]
    np.testing.assert_allclose([segment[:, 1] for segment in bars.get_segments()], expected)
    assert tail.lines[0].get_xydata().tolist() == [[0.1, 7.0], [0.3, 25.0]]
    assert total.lines[-1].get_xdata() == [0.3, 0.3]
    spans = [high - low for low, high in (axes.get_ylim() for axes in figure.axes)]
    assert spans[0] == pytest.approx(spans[1])
    assert spans[0] > 18  # the tail goes from 7 to 25


def test_a_sweep_without_effect_looks_flat():
    scores = {value: {"total": [50.0 + value / 100]} for value in (0.1, 0.2)}
    (axes,) = figures.sweep("κ", scores, recipe=0.1, groups=("total",)).axes
    low, high = axes.get_ylim()
    assert high - low == pytest.approx(2)
    assert low < 50 < high


def test_panels_show_the_pooled_probability_of_every_group_and_sign():
    runs = [curves(0), curves(1)]
    figure = figures.probability_panels([CurvePanel("BCE", runs), CurvePanel("PG", [curves(2)])])
    assert [axes.get_title() for axes in figure.axes] == ["BCE", "PG"]
    found = {(line.get_color(), line.get_linestyle()): line for line in figure.axes[0].lines}
    handles = {
        text.get_text(): handle
        for text, handle in zip(figure.legends[0].texts, figure.legends[0].legend_handles, strict=True)
    }
    for group, members in GROUPS.items():
        for sign in ("positive", "negative"):
            expected = []
            for point in range(7):
                means = []
                for k in members:
                    total = sum(float(getattr(run, f"{sign}_sum")[point, k]) for run in runs)
                    count = sum(float(getattr(run, f"{sign}_count")[point, k]) for run in runs)
                    means += [total / count] if count else []
                expected.append(np.mean(means) if means else np.nan)
            handle = handles[f"{group}, {sign}s"]
            line = found[handle.get_color(), handle.get_linestyle()]
            assert line.get_linestyle() == {"positive": "-", "negative": ":"}[sign]
            assert line.get_xdata().tolist() == runs[0].steps.tolist()
            np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-5)


def test_long_curves_are_pooled_over_steps_without_losing_a_pair():
    run = curves(3, points=120)
    (line,) = [
        line
        for line in figures.probability_panels([CurvePanel("PG", [run])]).axes[0].lines
        if line.get_linestyle() == "-" and to_rgb(line.get_color()) == to_rgb("#004488")
    ]
    # The group head is the class dog, so that pooled means are sums over counts.
    windows = [slice(start, start + 3) for start in range(0, 120, 3)]
    expected = [run.positive_sum[w, 1].sum() / run.positive_count[w, 1].sum() for w in windows]
    np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-5)
    assert line.get_xdata().tolist() == [30 * (place + 1) for place in range(40)]


def test_a_group_without_classes_has_no_line():
    none = {**GROUPS, "tail": np.array([], dtype=int), "head": np.array([1, 2])}
    run = curves(0)
    run = ProbabilityCurves(*(getattr(run, name) for name in ("steps", "positive_sum", "positive_count")),
                            run.negative_sum, run.negative_count, NAMES, none)  # fmt: skip
    assert len(figures.probability_panels([CurvePanel("PG", [run])]).axes[0].lines) == 4


def test_runs_of_a_panel_must_have_the_same_steps():
    with pytest.raises(ValueError, match="at the same steps"):
        figures.probability_panels([CurvePanel("PG", [curves(0), curves(0, points=6)])])


@pytest.mark.parametrize(("panels", "columns", "empty"), [(4, 4, 0), (6, 4, 2), (10, 5, 0), (11, 4, 1)])
def test_panels_fill_a_grid_and_the_lowest_have_the_label(panels, columns, empty):
    run = curves(0, points=2)
    figure = figures.probability_panels([CurvePanel(str(place), [run]) for place in range(panels)])
    assert [axes.axison for axes in figure.axes] == [True] * panels + [False] * empty
    assert [axes.get_title() for axes in figure.axes[:panels]] == [str(place) for place in range(panels)]
    assert [place for place in range(panels) if figure.axes[place].get_xlabel()] == [*range(panels - columns, panels)]
    assert figure.axes[0].get_subplotspec().get_gridspec().ncols == columns


def test_gradients_are_drawn_as_given_with_looks_of_their_own():
    z = np.linspace(-1, 1, 5)
    figure = figures.negative_gradients([GradientCurve(f"loss {k}", z, z**k) for k in range(6)])
    lines = figure.axes[0].lines
    for k, line in enumerate(lines):
        np.testing.assert_array_equal(line.get_xydata(), np.stack([z, z**k], 1))
        assert line.get_label() == f"loss {k}"
    assert len({line.get_color() for line in lines}) == 6


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_files_are_the_same_bytes_every_time_and_say_what_they_show(suffix, tmp_path):
    before = dict(mpl.rcParams)
    written = []
    for name in ("one", "two"):
        figure = figures.probability_panels([CurvePanel("λ₁⁻+", [curves(0)])])
        (file,) = figures.save_figure(figure, tmp_path / name, (suffix,), "mean probabilities of the test")
        assert file == tmp_path / f"{name}.{suffix}"
        written.append(file.read_bytes())
    assert written[0] == written[1]
    assert b"mean probabilities of the test" in written[0]
    assert dict(mpl.rcParams) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"one.{suffix}", f"two.{suffix}"]


def test_groups_can_be_told_apart_in_grey():
    bars = figures.test_counts(np.array([3, 2, 1]), np.ones(3, dtype=int), one_each(), NAMES[:3]).axes[0].patches
    grey = [np.dot(to_rgb(bar.get_facecolor()), (0.299, 0.587, 0.114)) for bar in bars]
    assert min(np.diff(sorted(grey))) > 0.15
