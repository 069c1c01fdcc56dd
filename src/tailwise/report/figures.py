"""The papers' figures, drawn from counts, scores and recorded curves.

Groups have the colours of Paul Tol's high-contrast scheme, and scales those of cividis: people who confuse red and
green can distinguish them, and they differ in grey. Where there are more, lines differ in their dashes as well. Nothing
global is touched: figures are made without pyplot, and the style is set while one is drawn and written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from numpy.typing import ArrayLike, NDArray

from tailwise.files import replacing
from tailwise.metrics.curves import ProbabilityCurves

FigureFormat: TypeAlias = Literal["png", "svg", "pdf"]

_GROUP_COLOURS = {"head": "#004488", "medium": "#DDAA33", "tail": "#BB5566"}
_OTHER_COLOURS = ("#000000", "#777777")
# Okabe and Ito.
_LOSS_COLOURS = ("#000000", "#0072B2", "#E69F00", "#CC79A7", "#009E73", "#D55E00")
_LINE_STYLES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
    # Salt of the identifiers in an SVG, which are random otherwise.
    "svg.hashsalt": "tailwise",
}
_WITHOUT_DATE: dict[FigureFormat, dict[str, Any]] = {
    "png": {},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
_SIGN_LINES: dict[str, Any] = {"positives": "-", "negatives": ":"}
_PANELS_IN_A_ROW = (4, 5)
_MOST_POINTS_OF_A_LINE = 50
_LEAST_POINTS_SHOWN = 2.0
_MOST_NAMED_CLASSES = 25


@dataclass(frozen=True)
class CurvePanel:
    """A panel of mean predicted probabilities.

    Attributes:
        title: the method or factor.
        runs: the curves of its runs, which have the same steps.
    """

    title: str
    runs: Sequence[ProbabilityCurves]


@dataclass(frozen=True)
class GradientCurve:
    """The gradient of a loss on a negative label against its logit: both (L,)."""

    label: str
    logits: NDArray[np.float64]
    gradient: NDArray[np.float64]


@contextmanager
def style() -> Iterator[None]:
    """Set the figures' fonts, lines and colours inside the block, and nowhere else."""
    with mpl.rc_context(_STYLE):
        yield


def save_figure(figure: Figure, path: Path, formats: Sequence[FigureFormat], description: str) -> list[Path]:
    """Write a figure, the same bytes every time.

    Args:
        figure: the figure.
        path: the files without their ending.
        formats: which to write.
        description: text for the files' metadata.

    Returns:
        The files.
    """
    key: dict[FigureFormat, str] = {"png": "Description", "svg": "Description", "pdf": "Subject"}
    files = []
    for suffix in formats:
        file = path.with_name(f"{path.name}.{suffix}")
        with style(), replacing(file) as temporary:
            metadata = {**_WITHOUT_DATE[suffix], key[suffix]: description}
            figure.savefig(temporary, format=suffix, dpi=150, metadata=metadata)
        files.append(file)
    return files


def reference_curves(counts: Mapping[float, ArrayLike], chosen: float) -> Figure:
    """Wanted positives per class, from the most frequent class to the rarest, for several Pareto distributions.

    Args:
        counts: (K,) descending counts by the shape b of the distribution.
        chosen: the shape that is used, which is emphasized.
    """
    with style():
        figure, axes = _one_panel()
        colours = mpl.colormaps["cividis"](np.linspace(0, 0.9, len(counts)))
        dashes = cycle(_LINE_STYLES[1:])
        for (shape, wanted), colour in zip(sorted(counts.items()), colours, strict=True):
            values = np.asarray(wanted)
            look: dict[str, Any] = {"color": colour, "linestyle": next(dashes)}
            if shape == chosen:
                look = {"color": "black", "linestyle": "-", "linewidth": 2}
            axes.plot(np.arange(1, len(values) + 1), values, label=f"b = {shape:g}", **look)
        _log_counts(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("rank of the class, head to tail")
        axes.set_ylabel("wanted positives")
        axes.legend(title="Pareto shape")
        return figure


def construction(
    history: NDArray[np.int64], order: NDArray[np.integer[Any]], reference: NDArray[np.int64], names: Sequence[str]
) -> Figure:
    """Positives per class after each step of the construction of a long-tailed subset, and after the last one.

    Args:
        history: (K + 1, K) positives per class before the first step and after each one.
        order: (K,) the class that each step visits.
        reference: (K,) wanted positives.
        names: K class names.
    """
    with style():
        figure = Figure(figsize=(7.2, 3.6))
        steps, final = figure.subplots(1, 2, width_ratios=(1.25, 1))
        ranks = np.arange(1, len(order) + 1)
        counts = np.ma.masked_equal(history[1:][:, order], 0)
        image = steps.imshow(
            counts,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            cmap="cividis",
            norm=LogNorm(1, max(2, int(history.max()))),
            extent=(0.5, len(order) + 0.5, 0.5, len(order) + 0.5),
        )
        steps.grid(visible=False)
        bar = figure.colorbar(image, ax=steps, format=ScalarFormatter())
        bar.set_label("positives (white: none)")
        steps.plot(ranks, ranks, color="white", linewidth=0.8, linestyle=":")
        steps.set_ylabel("step (it visits the class on the dotted line)")
        final.bar(ranks, history[-1][order], color="#BBBBBB", width=0.8, label="after the last step")
        final.plot(ranks, reference[order], color="black", marker=".", markersize=4, linewidth=1, label="wanted")
        _log_counts(final)
        final.set_ylim(bottom=0.7)
        final.set_ylabel("positives")
        final.legend()
        for axes in (steps, final):
            _class_axis(axes, [names[k] for k in order], "class, in the order of the steps")
        return figure


def test_counts(
    train: NDArray[np.int64], test: NDArray[np.int64], groups: Mapping[str, NDArray[np.intp]], names: Sequence[str]
) -> Figure:
    """Positives per class in the test split, in the order of those in the training split.

    Args:
        train: (K,) training positives.
        test: (K,) test positives.
        groups: indices of the classes of each group.
        names: K class names.
    """
    with style():
        figure, axes = _one_panel(width=6.4)
        order = np.argsort(-train, kind="stable")
        group_of = {int(k): group for group, members in groups.items() for k in members}
        ranks = np.arange(1, len(order) + 1)
        colours = [_group_colour(group_of[int(k)], list(groups)) for k in order]
        axes.bar(ranks, test[order], color=colours, width=0.8)
        axes.plot(ranks, train[order], color="black", marker=".", markersize=5, linewidth=1)
        _log_counts(axes)
        axes.set_ylim(bottom=0.7)
        axes.set_ylabel("positives")
        _class_axis(axes, [names[k] for k in order], "class, in the order of training positives")
        handles: list[Any] = [
            Patch(color=_group_colour(group, list(groups)), label=f"test, {group}")
            for group, members in groups.items()
            if len(members)
        ]
        handles.append(Line2D([], [], color="black", marker=".", label="training"))
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
        return figure


def sweep(
    symbol: str, scores: Mapping[float, Mapping[str, Sequence[float | None]]], recipe: float, groups: Sequence[str]
) -> Figure:
    """mAP against an option of a loss: a panel for all classes and for each group, mean ± standard deviation over runs.

    All panels span as many points of mAP.

    Args:
        symbol: the option, on the horizontal axis.
        scores: mAP in percent of each run, by group, by value of the option.
        recipe: the value of the recipe, which is marked.
        groups: the panels, in their order.
    """
    with style():
        shown = [group for group in groups if any(_known(runs[group]) for runs in scores.values())]
        figure = Figure(figsize=(1.9 * len(shown) + 0.4, 2.3))
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        for axes, group in zip(panels, shown, strict=True):
            found = {value: _known(runs[group]) for value, runs in sorted(scores.items()) if _known(runs[group])}
            axes.errorbar(
                list(found),
                [fmean(values) for values in found.values()],
                [stdev(values) if len(values) > 1 else 0.0 for values in found.values()],
                color=_GROUP_COLOURS.get(group, "black"),
                marker="o",
                markersize=3.5,
                capsize=2,
                elinewidth=0.9,
            )
            axes.axvline(recipe, color="#777777", linestyle=":", linewidth=1)
            axes.set_title(group)
            axes.set_xlabel(symbol)
        _share_span(panels)
        panels[0].set_ylabel("mAP (%)")
        figure.legend(
            handles=[Line2D([], [], color="#777777", linestyle=":", label="value of the recipe")],
            loc="outside lower center",
        )
        return figure


def probability_panels(panels: Sequence[CurvePanel]) -> Figure:
    """Mean predicted probability during training, by group of classes: positives solid, negatives dotted.

    The pairs of all runs of a panel count together.

    Raises:
        ValueError: runs of a panel have points at different steps.
    """
    with style():
        columns, rows = _grid(len(panels))
        figure = Figure(figsize=(1.75 * columns + 0.5, 1.75 * rows + 0.6))
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        groups = list(panels[0].runs[0].groups)
        for axes, panel in zip(grid.flat, panels, strict=False):
            curves = _pooled(panel.runs)
            for group in groups:
                for means, line in zip(curves.group_means(group), _SIGN_LINES.values(), strict=True):
                    if np.isfinite(means).any():
                        axes.plot(curves.steps, means, color=_group_colour(group, groups), linestyle=line)
            axes.set_title(panel.title)
            axes.set_ylim(0, 1)
            axes.locator_params(axis="x", nbins=4)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes in grid.flat[max(0, len(panels) - columns) : len(panels)]:
            axes.set_xlabel("training step")
        figure.supylabel("mean predicted probability", fontsize=9)
        handles = [
            Line2D([], [], color=_group_colour(group, groups), linestyle=line, label=f"{group}, {sign}")
            for group in groups
            for sign, line in _SIGN_LINES.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(groups))
        return figure


def negative_gradients(curves: Sequence[GradientCurve]) -> Figure:
    """Gradient on a negative label against its logit, a line for each loss."""
    with style():
        figure, axes = _one_panel()
        for place, curve in enumerate(curves):
            axes.plot(
                curve.logits,
                curve.gradient,
                label=curve.label,
                color=_LOSS_COLOURS[place % len(_LOSS_COLOURS)],
                linestyle=_LINE_STYLES[place % len(_LINE_STYLES)],
            )
        axes.set_xlabel("logit z of a negative label")
        axes.set_ylabel("gradient dℓ/dz")
        axes.legend(loc="upper left")
        return figure


def _one_panel(width: float = 4.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 3.1))
    return figure, figure.subplots()


def _grid(panels: int) -> tuple[int, int]:
    """Columns and rows for a number of panels, with as few empty places as can be."""
    if panels <= max(_PANELS_IN_A_ROW):
        return panels, 1
    columns = min(_PANELS_IN_A_ROW, key=lambda number: -panels % number)
    return columns, math.ceil(panels / columns)


def _log_counts(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ScalarFormatter())


def _share_span(panels: Sequence[Axes]) -> None:
    """Give vertical axes the same length in points, so that slopes can be compared, and noise does not look large."""
    limits = [axes.get_ylim() for axes in panels]
    half = max(_LEAST_POINTS_SHOWN, *(high - low for low, high in limits)) / 2
    for axes, (low, high) in zip(panels, limits, strict=True):
        axes.set_ylim((low + high) / 2 - half, (low + high) / 2 + half)


def _class_axis(axes: Axes, names: Sequence[str], title: str) -> None:
    """Name the classes at 1, 2, ... on the horizontal axis where there is space for their names."""
    axes.set_xlim(0.5, len(names) + 0.5)
    axes.set_xlabel(title)
    axes.grid(visible=False, axis="x")
    if len(names) <= _MOST_NAMED_CLASSES:
        axes.set_xticks(range(1, len(names) + 1), names, rotation=90, fontsize=7)


def _pooled(runs: Sequence[ProbabilityCurves]) -> ProbabilityCurves:
    """The pairs of all runs together, with few enough points to read the lines."""
    first = runs[0]
    if any(not np.array_equal(run.steps, first.steps) for run in runs):
        raise ValueError("the runs of a panel must have their points at the same steps")
    every = max(1, -(-len(first.steps) // _MOST_POINTS_OF_A_LINE))
    starts = np.arange(0, len(first.steps), every)
    ends = np.append(starts[1:], len(first.steps)) - 1
    series: dict[str, Any] = {
        name: np.add.reduceat(np.sum([getattr(run, name) for run in runs], axis=0), starts, axis=0)
        for name in ("positive_sum", "positive_count", "negative_sum", "negative_count")
    }
    return replace(first, steps=first.steps[ends], **series)


def _group_colour(group: str, groups: Sequence[str]) -> str:
    if group in _GROUP_COLOURS:
        return _GROUP_COLOURS[group]
    others = [*_OTHER_COLOURS, *_GROUP_COLOURS.values()]
    return others[groups.index(group) % len(others)]


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]
