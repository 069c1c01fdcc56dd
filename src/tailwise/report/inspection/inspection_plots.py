"""Plotly figures of facts about a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailwise.data.label_facts import Inspection
from tailwise.report.page import GROUP_COLOURS, PagePlot, name_ticks, plot_text, tick_length
from tailwise.spelling import counted

_MOST_BARS = 300
_MOST_NAMED_BARS = 40


def long_tail(inspection: Inspection) -> PagePlot:
    """Training images of each class, by falling count, in the colours of the groups; test images as circles."""
    counts, order = inspection.stats.class_counts, inspection.order
    names = [inspection.stats.class_names[k] for k in order]
    # Thousands of bars are slow, one outline is not.
    as_bars = len(order) <= _MOST_BARS
    traces = [
        trace
        for group in GROUP_COLOURS
        if (trace := _group_trace(group, np.array(inspection.group_of)[order] == group, counts[order], names, as_bars))
    ]
    highest = int(counts.max())
    circles = inspection.test is not None and as_bars
    if inspection.test is not None and circles:
        traces.append(_test_trace(inspection.test.name, inspection.test.class_counts[order], names))
        highest = max(highest, int(inspection.test.class_counts.max()))
    named = len(order) <= _MOST_NAMED_BARS
    low, high = inspection.stats.thresholds
    lines = ((high, f"head from {high:,}"), (low, f"tail below {low:,}"))
    layout = {
        "barmode": "overlay",
        "bargap": 0.15,
        "shapes": [_level(count, text) for count, text in lines if 0 < count <= counts.max()],
        "xaxis": {
            "range": [0.4, len(order) + 0.6],
            "showgrid": False,
            **(
                name_ticks(names, start=1)
                if named
                else {"title": {"text": "classes by falling number of images"}, "tickformat": ",d"}
            ),
        },
        "yaxis": {"title": {"text": "images"}, "tickformat": ",d"},
    }
    return PagePlot(
        name="long-tail",
        title="Training images of each class, from the most frequent class to the rarest",
        caption="Training images of each class, from the most frequent to the rarest"
        + ("; circles are images of the test split." if circles else ".")
        + " A logarithmic scale has no place for a count of 0.",
        figure={"data": traces, "layout": layout},
        height=360 + 5 * tick_length(names) if named else 400,
        min_width=11 * len(order) + 60 if named else 0,
        # A little below 1, so that a class with one image has a bar.
        log_range=(-0.2, float(np.log10(max(highest, 1))) + 0.2),
        starts_log=highest > 20,
    )


def labels_per_image(inspection: Inspection) -> PagePlot:
    """Share of the training images, and of the test images, by number of positive labels."""
    train, test = inspection.train, inspection.test
    shown = [(train, "training", "var(--train)"), *([] if test is None else [(test, "test", "var(--test)")])]
    traces = [
        {
            "type": "bar",
            "name": f"{name} images",
            "marker": {"color": colour},
            "x": list(range(len(facts.histogram))),
            "y": (facts.histogram / facts.num_images).tolist(),
            "customdata": facts.histogram.tolist(),
            "hovertemplate": f"%{{x}} labels: %{{customdata:,}} {name} images (%{{y:.1%}})<extra></extra>",
        }
        for facts, name, colour in shown
    ]
    longest = max(facts.max_labels for facts, _, _ in shown)
    layout = {
        "bargap": 0.25,
        "showlegend": len(shown) > 1,
        "xaxis": {
            "title": {"text": "positive labels of an image"},
            "showgrid": False,
            "zeroline": False,
            **({"dtick": 1} if longest <= 20 else {"tickformat": "d"}),
        },
        "yaxis": {"title": {"text": "share of images"}, "tickformat": ".0%"},
    }
    return PagePlot(
        name="labels-per-image",
        title="Share of images by number of positive labels",
        caption=f"Training images have {train.mean_labels:.2f} positive labels on average and at most "
        f"{train.max_labels}; {counted(train.unlabelled, 'image')} {'has' if train.unlabelled == 1 else 'have'} none.",
        figure={"data": traces, "layout": layout},
        height=320,
    )


def heat_map(inspection: Inspection) -> PagePlot:
    """p(column | row) of the most frequent classes."""
    counts = inspection.frequent_pairs
    names = [inspection.stats.class_names[k] for k in inspection.frequent]
    own = np.diagonal(counts)[:, None]
    share = np.divide(counts, own, out=np.full(counts.shape, np.nan), where=own > 0)
    np.fill_diagonal(share, np.nan)
    escaped = [plot_text(name) for name in names]
    trace = {
        "type": "heatmap",
        "z": [[None if np.isnan(value) else float(f"{value:.4g}") for value in row] for row in share],
        "zmin": 0,
        "zmax": 1,
        "customdata": [
            [[row, column, int(counts[i, j])] for j, column in enumerate(escaped)] for i, row in enumerate(escaped)
        ],
        "hovertemplate": "%{customdata[0]}, with %{customdata[1]} too: %{customdata[2]:,} images, %{z:.1%}"
        "<extra></extra>",
        "hoverongaps": False,
        "colorscale": [[0, "var(--surface)"], [0.5, "var(--heat-middle)"], [1, "var(--heat)"]],
        "colorbar": {"tickformat": ".0%", "thickness": 12, "outlinewidth": 0},
        "xgap": 1,
        "ygap": 1,
    }
    plain = {"showgrid": False, "zeroline": False, "showline": False}
    layout = {
        "xaxis": {**plain, **name_ticks(names)},
        "yaxis": {**plain, **name_ticks(names), "tickangle": 0, "autorange": "reversed"},
    }
    which = "All classes" if len(names) == inspection.stats.num_classes else f"The {len(names)} most frequent classes"
    return PagePlot(
        name="heat-map",
        title="How often the images of one class have another",
        caption=f"{which}: the share of the training images of the class on the left that have the class below, too.",
        figure={"data": [trace], "layout": layout},
        height=120 + 5 * tick_length(names) + 20 * len(names),
        min_width=110 + 6 * tick_length(names) + 16 * len(names),
    )


def _group_trace(
    group: str, mine: NDArray[np.bool_], counts: NDArray[np.int64], names: Sequence[str], as_bars: bool
) -> dict[str, Any] | None:
    """The classes of one group among the classes by falling count; None if there are none."""
    places = np.flatnonzero(mine)
    if not len(places):
        return None
    colour = GROUP_COLOURS[group]
    style: dict[str, Any] = {"type": "bar", "marker": {"color": colour}}
    if not as_bars:
        style = {"type": "scatter", "mode": "lines", "line": {"color": colour, "width": 2.5, "shape": "hv"}}
    return style | {
        "name": group,
        "x": (places + 1).tolist(),
        "y": counts[places].tolist(),
        "text": [plot_text(names[place]) for place in places.tolist()],
        "textposition": "none",
        "hovertemplate": "%{text}: %{y:,} training images<extra></extra>",
    }


def _test_trace(split: str, counts: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "marker": {"color": "var(--surface)", "size": 7, "line": {"color": "var(--ink)", "width": 1.5}},
        "name": f"images in {plot_text(split)}",
        "x": list(range(1, len(counts) + 1)),
        "y": counts.tolist(),
        "text": [plot_text(name) for name in names],
        "hovertemplate": "%{text}: %{y:,} test images<extra></extra>",
    }


def _level(count: int, text: str) -> dict[str, Any]:
    """A dashed line across the figure at a count."""
    font = {"color": "var(--soft)", "size": 11}
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": count,
        "y1": count,
        "line": {"color": "var(--soft)", "width": 1, "dash": "dash"},
        "label": {"text": text, "textposition": "end", "yanchor": "bottom", "font": font},
    }
