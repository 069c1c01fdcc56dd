"""The page of an inspection, with its figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailwise.data.label_facts import Inspection
from tailwise.data.pixels.image_check import ImageReport
from tailwise.report.inspection import inspection_tables as tables
from tailwise.report.inspection.problems import find_problems
from tailwise.report.page import (
    GROUP_COLOURS,
    Fact,
    PagePlot,
    name_ticks,
    plot_text,
    rule,
    tick_length,
    trace,
    write_page,
)
from tailwise.spelling import counted, percent

_MOST_BARS = 300
_MOST_NAMED_BARS = 40


def write_inspection_page(path: str | Path, inspection: Inspection, images: ImageReport | None = None) -> None:
    """Write an inspection as one HTML file, with more than the terminal shows.

    The page loads nothing and works without a network. Tables can be sorted and filtered.

    Args:
        path: the file, which is replaced if it exists; its folder must exist.
        inspection: facts about the labels.
        images: facts about the image files, where they were checked.
    """
    sections = {
        "problems": "Problems",
        "classes": "Classes",
        "labels": "Labels per image",
        "pairs": "Pairs",
        "splits": "Splits",
    }
    found = inspection.cooccurrence
    write_page(
        path,
        "inspection.html",
        source=str(inspection.source),
        source_name=inspection.source.name,
        sections=sections | ({"files": "Image files"} if images else {}),
        cards=list(_cards(inspection)),
        problems=find_problems(inspection, images),
        long_tail=long_tail(inspection),
        classes=tables.class_table(inspection),
        labels_per_image=labels_per_image(inspection),
        heat_map=heat_map(inspection),
        pairs=tables.pair_table(inspection, found.by_count, found.by_share, found.by_lift),
        splits=tables.split_table(inspection),
        files=None if images is None else _files(images),
    )


def _cards(inspection: Inspection) -> Iterator[Fact]:
    train, stats = inspection.train, inspection.stats
    groups = ", ".join(f"{len(members):,} {name}" for name, members in stats.groups.items())
    if inspection.train_split is None:
        yield Fact("Images", f"{train.num_images:,}", "all of them for training")
    else:
        yield Fact("Training images", f"{train.num_images:,}", f"split {train.name} of {inspection.total.num_images:,}")
    if inspection.test is not None:
        yield Fact("Test images", f"{inspection.test.num_images:,}", f"split {inspection.test.name}")
    if inspection.row_groups is not None:
        sizes = inspection.row_groups
        yield Fact("Groups of rows", f"{sizes.number:,}", str(sizes))
    yield Fact("Classes", f"{stats.num_classes:,}", groups)
    yield Fact("Labels per image", f"{train.mean_labels:.2f}", f"at most {train.max_labels}")
    ratio = train.imbalance_ratio
    present = stats.class_counts[stats.class_counts > 0]
    if len(present):
        yield Fact("Imbalance ratio", f"{ratio:,.0f}", f"{present.max():,} images to {present.min():,}")
    unknown = f"; {percent(train.unknown_share)} are unknown" if train.unknown_share else ""
    yield Fact("Positive labels", percent(train.density), f"{train.num_positives:,} in all{unknown}")
    yield Fact("Head classes only", percent(train.head_only_share), "of the labelled training images")
    if len(present):
        yield Fact("Class-aware epoch", f"{inspection.class_aware_epoch:,}", "images drawn")


def _files(images: ImageReport) -> dict[str, object]:
    return {
        "cards": list(tables.image_facts(images)),
        "tables": tables.image_tables(images),
        "bad": tables.bad_file_table(images),
        "copies": tables.copy_table(images),
    }


def long_tail(inspection: Inspection) -> PagePlot:
    """Training images of each class, by falling count, in the colours of the groups; test images as circles."""
    counts, order = inspection.stats.class_counts, inspection.order
    names = [inspection.stats.class_names[k] for k in order]
    # Thousands of bars are slow, one outline is not.
    as_bars = len(order) <= _MOST_BARS
    traces = [
        drawn
        for group in GROUP_COLOURS
        if (drawn := _group_trace(group, np.array(inspection.group_of)[order] == group, counts[order], names, as_bars))
    ]
    highest = int(counts.max())
    circles = inspection.test is not None and as_bars
    if inspection.test is not None and circles:
        traces.append(
            trace(
                "points",
                f"images in {inspection.test.name}",
                list(range(1, len(order) + 1)),
                inspection.test.class_counts[order].tolist(),
                "%{text}: %{y:,} test images",
                text=[plot_text(name) for name in names],
                marker={"color": "var(--surface)", "size": 7, "line": {"color": "var(--ink)", "width": 1.5}},
            )
        )
        highest = max(highest, int(inspection.test.class_counts.max()))
    named = len(order) <= _MOST_NAMED_BARS
    low, high = inspection.stats.thresholds
    lines = ((high, f"head from {high:,}"), (low, f"tail below {low:,}"))
    layout = {
        "barmode": "overlay",
        "bargap": 0.15,
        "shapes": [_threshold(count, text) for count, text in lines if 0 < count <= counts.max()],
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
        traces=traces,
        layout=layout,
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
        trace(
            "bars",
            f"{name} images",
            list(range(len(facts.histogram))),
            (facts.histogram / facts.num_images).tolist(),
            f"%{{x}} labels: %{{customdata:,}} {name} images (%{{y:.1%}})",
            marker={"color": colour},
            customdata=facts.histogram.tolist(),
        )
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
        traces=traces,
        layout=layout,
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
    cells = {
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
        traces=[cells],
        layout=layout,
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
    style = {"marker": {"color": colour}} if as_bars else {"line": {"color": colour, "width": 2.5, "shape": "hv"}}
    return trace(
        "bars" if as_bars else "line",
        group,
        (places + 1).tolist(),
        counts[places].tolist(),
        "%{text}: %{y:,} training images",
        text=[plot_text(names[place]) for place in places.tolist()],
        textposition="none",
        **style,
    )


def _threshold(count: int, text: str) -> dict[str, Any]:
    """A dashed line across the figure at a count."""
    font = {"color": "var(--soft)", "size": 11}
    label = {"text": text, "textposition": "end", "yanchor": "bottom", "font": font}
    return rule(count, line={"color": "var(--soft)", "width": 1, "dash": "dash"}, label=label)
