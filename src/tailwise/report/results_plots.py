"""Plotly figures of results.

A trace of one method has the method's place in ``meta``, so that the page can show the methods that the reader chooses.
Methods have colours and symbols by their place, the same in every figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailwise.experiments.results import REFERENCES, Bootstrap, Comparison, MethodResult, Reference
from tailwise.labels import LabelStats
from tailwise.metrics.curves import ProbabilityCurves
from tailwise.metrics.groups import TOTAL
from tailwise.report.evidence import NUM_THRESHOLDS
from tailwise.report.page import GROUP_COLOURS, PagePlot, finite, name_ticks, plot_text, rule, tick_length, trace

_MOST_NAMED_CLASSES = 60
_MOST_INTERVALS = 300
_SERIES = "abcdefgh"
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")


def method_style(place: int) -> dict[str, str]:
    """Colour and symbol of the method at a place; colours repeat with another symbol."""
    symbol = _SYMBOLS[place // len(_SERIES) % len(_SYMBOLS)]
    return {"color": f"var(--series-{_SERIES[place % len(_SERIES)]})", "symbol": symbol}


def differences(results: Comparison, methods: Sequence[MethodResult]) -> dict[Reference, PagePlot]:
    """Differences in mAP to the best method and to the baseline with their intervals, by group, where there are any."""
    plots: dict[Reference, PagePlot] = {}
    for reference in REFERENCES:
        name = results.reference(reference)
        compared = [method for method in methods if method.against(reference)]
        compared = sorted((m for m in compared if m.name != name), key=lambda m: -(m.mean() or 0.0))
        if compared and name is not None:
            plots[reference] = _forest(results, compared, reference, name)
    return plots


def class_precision(
    results: Comparison, methods: Sequence[MethodResult], order: NDArray[np.intp], *, has_curves: bool
) -> PagePlot:
    """Average precision of every class with its interval, the classes by falling number of training images.

    Args:
        results: gives the classes.
        methods: the methods.
        order: class indices in the order of the axis.
        has_curves: whether the page shows the curves of a class that is chosen.
    """
    names = [results.stats.class_names[k] for k in order]
    traces = [_precision_trace(place, method, names, order) for place, method in enumerate(methods)]
    named = len(order) <= _MOST_NAMED_CLASSES
    layout = {
        "shapes": list(_group_lines(results.stats, order)),
        "xaxis": {
            "range": [0.3, len(order) + 0.7],
            "showgrid": False,
            "zeroline": False,
            **(name_ticks(names, start=1) if named else {"title": {"text": "classes by falling number of images"}}),
        },
        # The names of the groups are above 100.
        "yaxis": {
            "title": {"text": "average precision (%)"},
            "range": [0, 112],
            "tickvals": list(range(0, 101, 20)),
            "zeroline": False,
        },
    }
    has_intervals = any("error_y" in trace for trace in traces)
    choice = " Choose a point, or a row of the table below, to see the precision-recall curves of its class."
    lines = f" Lines are {_level(results.bootstrap)} intervals." if has_intervals else ""
    return PagePlot(
        name="class-precision",
        title="Average precision of each class, from the most frequent class to the rarest",
        caption=f"Classes from the most frequent in training to the rarest.{lines}{choice if has_curves else ''}",
        traces=traces,
        layout=layout,
        height=330 + 5 * tick_length(names) if named else 400,
        min_width=24 * len(order) + 60 if named else 0,
    )


def _precision_trace(place: int, method: MethodResult, names: Sequence[str], order: NDArray[np.intp]) -> dict[str, Any]:
    assert method.test is not None
    intervals = len(order) <= _MOST_INTERVALS
    values = _in_order(method.test.AP, order)
    points = trace(
        "points",
        method.name,
        list(range(1, len(order) + 1)),
        [None if value is None else round(value, 3) for value in values],
        f"%{{text}}: %{{y:.1f}} ({plot_text(method.name)})",
        meta={"method": place},
        text=[plot_text(name) for name in names],
        customdata=[int(k) for k in order],
        marker={**method_style(place), "size": 8 if intervals else 4},
    )
    low, high = method.test.AP_low, method.test.AP_high
    if intervals and low is not None and high is not None:
        points["error_y"] = _error_bars(values, _in_order(low, order), _in_order(high, order))
    return points


def gains(results: Comparison, methods: Sequence[MethodResult]) -> PagePlot | None:
    """Gain in average precision over the baseline by number of training images; None without a baseline."""
    baseline = results.method(results.baseline)
    if baseline is None:
        return None
    assert baseline.test is not None
    stats, before = results.stats, _numbers(baseline.test.AP)
    traces = []
    for place, method in enumerate(methods):
        if method.name == baseline.name:
            continue
        assert method.test is not None
        gain = _numbers(method.test.AP) - before
        for group, members in stats.groups.items():
            known = members[np.isfinite(gain[members])]
            traces.append(
                trace(
                    "points",
                    group,
                    np.maximum(stats.class_counts[known], 0.5).tolist(),
                    gain[known].round(3).tolist(),
                    "%{text} (%{x:,} images): %{y:+.1f}",
                    meta={"method": place},
                    text=[plot_text(stats.class_names[k]) for k in known.tolist()],
                    customdata=known.tolist(),
                    marker={"color": GROUP_COLOURS.get(group, "var(--soft)"), "size": 9 if len(gain) < 300 else 5},
                )
            )
    if not traces:
        return None
    unseen = " Classes without a training image are at ½." if (stats.class_counts == 0).any() else ""
    return PagePlot(
        name="gains",
        title=f"Gain in average precision over {baseline.name} by number of training images",
        caption=f"Each point is a class: its average precision minus that of {baseline.name}.{unseen}",
        traces=traces,
        layout={
            "xaxis": {
                "type": "log",
                "title": {"text": "training images (logarithmic)"},
                "tickvals": [first * 10**power for power in range(7) for first in (1, 2, 5)],
                "tickformat": ",d",
            },
            "yaxis": {
                "title": {"text": f"AP gain over {plot_text(baseline.name)}"},
                "zerolinecolor": "var(--soft)",
            },
        },
    )


def thresholds(
    methods: Sequence[MethodResult], sweeps: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
) -> PagePlot:
    """CF1 and OF1 over one probability threshold for all classes.

    Args:
        methods: the methods.
        sweeps: (T,) CF1 and OF1 in [0, 1] by method.
    """
    levels = [round(level, 4) for level in np.linspace(0, 1, NUM_THRESHOLDS).tolist()]
    traces = [
        trace(
            "line",
            f"{measure} {method.name}",
            levels,
            [None if (value := finite(score)) is None else round(100 * value, 4) for score in scores],
            f"{measure} %{{y:.1f}} at %{{x:.3f}} ({plot_text(method.name)})",
            line={"color": method_style(place)["color"], "width": 2, "dash": dash},
            meta={"method": place},
        )
        for place, method in enumerate(methods)
        if method.name in sweeps
        for measure, dash, scores in zip(("CF1", "OF1"), ("solid", "dot"), sweeps[method.name], strict=True)
    ]
    return PagePlot(
        name="threshold-curves",
        title="CF1 and OF1 over the threshold",
        caption="CF1 solid, OF1 dotted: predictions are the classes whose probability reaches the threshold.",
        traces=traces,
        layout={
            "xaxis": {"title": {"text": "threshold on the probability"}, "range": [0, 1], "zeroline": False},
            "yaxis": {"title": {"text": "F1 (%)"}, "rangemode": "tozero"},
        },
    )


def probability_curves(method: str, place: int, curves: ProbabilityCurves) -> PagePlot:
    """Mean probability of positive and negative training pairs over the steps of a run, by group."""
    traces = []
    for group, members in curves.groups.items():
        if not len(members):
            continue
        for kind, dash, values in zip(
            ("positives", "negatives"), ("solid", "dot"), curves.group_means(group), strict=True
        ):
            traces.append(
                trace(
                    "line",
                    group,
                    curves.steps.tolist(),
                    [None if np.isnan(value) else round(float(value), 4) for value in values],
                    f"{plot_text(group)} {kind}: %{{y:.3f}} at step %{{x:,}}",
                    line={"color": GROUP_COLOURS.get(group, "var(--soft)"), "width": 2, "dash": dash},
                    legendgroup=group,
                    showlegend=kind == "positives",
                )
            )
    return PagePlot(
        name=f"probabilities-{place}",
        title=f"Mean probabilities of positives and negatives during training with {method}",
        caption="",
        traces=traces,
        layout={
            "xaxis": {"title": {"text": "training step"}, "tickformat": ",d", "rangemode": "tozero"},
            "yaxis": {"title": {"text": "mean probability"}, "range": [0, 1]},
        },
        height=280,
    )


def read_curves(path: Path) -> ProbabilityCurves | None:
    """The curves of a run; None where it has none, or none that can be read."""
    try:
        curves = ProbabilityCurves.load(path)
    except (OSError, ValueError):
        return None
    return curves if len(curves.steps) else None


def _forest(results: Comparison, methods: Sequence[MethodResult], reference: Reference, name: str) -> PagePlot:
    groups = [group for group in (TOTAL, *results.stats.groups) if any(group in m.against(reference) for m in methods)]
    traces = []
    for place, group in enumerate(groups):
        known = [(row, method.against(reference).get(group)) for row, method in enumerate(methods)]
        found = [(row, entry) for row, entry in known if entry is not None and entry.difference is not None]
        middle = [entry.difference for _, entry in found]
        low, high = [entry.low for _, entry in found], [entry.high for _, entry in found]
        traces.append(
            trace(
                "points",
                group,
                middle,
                [row + (place - (len(groups) - 1) / 2) * 0.64 / len(groups) for row, _ in found],
                f"%{{text}}, {group}: %{{x:+.2f}} [%{{customdata[0]:+.2f}}, %{{customdata[1]:+.2f}}]",
                text=[plot_text(methods[row].name) for row, _ in found],
                customdata=[list(ends) for ends in zip(low, high, strict=True)],
                marker={"color": GROUP_COLOURS.get(group, "var(--ink)"), "size": 8},
                error_x=_error_bars(middle, low, high),
            )
        )
    names = [method.name for method in methods]
    return PagePlot(
        name=f"against-{reference}",
        title=f"Difference in mAP to {name}",
        caption=f"Difference in mAP to {name}, the {reference}, in points, with {_level(results.bootstrap)} intervals. "
        "Where an interval contains 0, this test split shows no difference between the two.",
        traces=traces,
        layout={
            "shapes": [
                rule(row - 0.5, layer="below", line={"color": "var(--line)", "width": 1})
                for row in range(1, len(names))
            ],
            "xaxis": {"title": {"text": f"mAP minus that of {plot_text(name)}"}, "zerolinecolor": "var(--ink)"},
            "yaxis": {
                **name_ticks(names),
                "tickangle": 0,
                "range": [len(names) - 0.4, -0.6],
                "showgrid": False,
                "zeroline": False,
            },
        },
        height=110 + 46 * len(names),
    )


def _group_lines(stats: LabelStats, order: NDArray[np.intp]) -> Iterator[dict[str, Any]]:
    """A line between one group and the next, where the groups follow each other, and the groups' names."""
    group_of = np.empty(stats.num_classes, dtype=object)
    for group, members in stats.groups.items():
        group_of[members] = group
    starts = [0, *(np.flatnonzero(group_of[order][1:] != group_of[order][:-1]) + 1).tolist()]
    if len(starts) > len(stats.groups):
        return
    for start in starts:
        yield {
            "type": "line",
            "yref": "paper",
            "x0": start + 0.5,
            "x1": start + 0.5,
            "y0": 0,
            "y1": 1,
            "layer": "below",
            "line": {"color": "var(--line)", "width": 1 if start else 0},
            "label": {
                "text": plot_text(group_of[order[start]]),
                "textposition": "end",
                "textangle": 0,
                "xanchor": "left",
                "yanchor": "top",
                "padding": 4,
                "font": {"color": "var(--soft)", "size": 11},
            },
        }


def _error_bars(
    middle: Sequence[float | None], low: Sequence[float | None], high: Sequence[float | None]
) -> dict[str, Any]:
    """Bars from ``low`` to ``high`` around ``middle``; none where one is missing."""

    def lengths(ends: Sequence[float | None], sign: int) -> list[float]:
        pairs = zip(middle, ends, strict=True)
        return [0.0 if m is None or end is None else round(max(0.0, sign * (end - m)), 3) for m, end in pairs]

    return {
        "type": "data",
        "symmetric": False,
        "array": lengths(high, 1),
        "arrayminus": lengths(low, -1),
        "thickness": 1.4,
        "width": 0,
    }


def _in_order(values: Sequence[float | None], order: NDArray[np.intp]) -> list[float | None]:
    return [values[k] for k in order.tolist()]


def _numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values])


def _level(bootstrap: Bootstrap | None) -> str:
    return f"{bootstrap.level:.0%}" if bootstrap is not None else "bootstrap"
