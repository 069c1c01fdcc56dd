"""Facts about a data set as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tailwise.data.label_facts import ClassPairs, Inspection, SplitFacts
from tailwise.data.pixels.image_check import ImageReport
from tailwise.report.inspection.problems import Problem, Severity, find_problems
from tailwise.spelling import counted, percent, shorten

_MOST_CLASSES = 40
_EXCERPT = 10
_MOST_PAIRS = 8
_MOST_NAMES = 5
_MOST_BINS = 6
_NARROWEST = 8
_STYLES: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def show_inspection(
    inspection: Inspection,
    images: ImageReport | None = None,
    *,
    console: Console | None = None,
    page: str | None = None,
) -> None:
    """Print the findings, then tables of splits, groups, classes, pairs and image files.

    Args:
        inspection: facts about the labels.
        images: facts about the image files, where they were checked.
        console: where to print; standard output when None.
        page: name of the page with what is left out here, to be pointed at.
    """
    console = console or Console()
    training = "all rows" if inspection.train_split is None else f"split {inspection.train_split!r}"
    images_and_classes = (
        f"{counted(inspection.total.num_images, 'image')}, {counted(inspection.stats.num_classes, 'class', 'classes')}"
    )
    console.print(_text(f"{inspection.source}: {images_and_classes}; training on {training}"))
    console.print()
    _show_problems(console, find_problems(inspection, images))
    _show_splits(console, inspection)
    _show_groups(console, inspection)
    _show_classes(console, inspection, page)
    found = inspection.cooccurrence
    if len(found.by_count):
        _show_pairs(console, "Most frequent pairs", inspection, found.by_count)
    if len(found.by_lift):
        title = f"Strongest pairs, of those on {found.min_count} images or more"
        _show_pairs(console, title, inspection, found.by_lift)
    if images is not None:
        _show_images(console, images)


def _text(content: str, style: str = "") -> Text:
    """Text from outside: no markup, and no character that a terminal would obey."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in content)
    return Text(plain, style=style)


def _show_problems(console: Console, problems: Iterable[Problem]) -> None:
    for problem in problems:
        console.print(Text.assemble((problem.severity, _STYLES[problem.severity]), ": ", _text(problem.title, "bold")))
        if problem.examples:
            shown = "; ".join(problem.examples[:_MOST_NAMES])
            more = "; ..." if len(problem.examples) > _MOST_NAMES else ""
            console.print(Padding(_text(shown + more), (0, 0, 0, 4), expand=False))
        console.print(Padding(_text(problem.advice, "dim"), (0, 0, 0, 4), expand=False))
        console.print()


def _table(title: str, *columns: str, text: Sequence[int] = (0,), widest: int = 20) -> Table:
    """A table whose columns at ``text`` are words, cut after ``widest`` characters, and the rest numbers."""
    table = Table(
        title=title, title_justify="left", title_style="bold", header_style="cyan", box=None, padding=(0, 2, 0, 0)
    )
    for index, column in enumerate(columns):
        if index in text:
            table.add_column(column, no_wrap=True, overflow="ellipsis", max_width=widest)
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table


def _finish(console: Console, table: Table, *explanations: str) -> None:
    console.print(table)
    for explanation in explanations:
        console.print(_text(explanation, "dim"))
    console.print()


def _show_splits(console: Console, inspection: Inspection) -> None:
    has_unknown = inspection.total.unknown_share > 0
    unknown = ["unknown\nlabels"] if has_unknown else []
    columns = (
        "split",
        "images",
        "labels\neach",
        "without\nlabel",
        *unknown,
        "classes",
        "head\nonly",
        "imbalance\nratio",
    )
    table = _table("Splits", *columns, widest=max(_NARROWEST, console.width - 60))
    for facts in (*inspection.splits, inspection.total):
        ratio = facts.imbalance_ratio
        table.add_row(
            _text(split_name(inspection, facts)),
            f"{facts.num_images:,}",
            f"{facts.mean_labels:.2f}",
            f"{facts.unlabelled:,}",
            *([percent(facts.unknown_share)] if has_unknown else []),
            f"{np.count_nonzero(facts.class_counts):,}",
            percent(facts.head_only_share),
            "–" if np.isnan(ratio) else f"{ratio:,.0f}",
        )
    train = inspection.train
    shares = train.histogram / train.num_images
    bins = [f"{number}: {percent(share)}" for number, share in enumerate(shares[:_MOST_BINS]) if share]
    if train.max_labels >= _MOST_BINS:
        last = f"{_MOST_BINS} to {train.max_labels}" if train.max_labels > _MOST_BINS else f"{_MOST_BINS}"
        bins.append(f"{last}: {percent(float(shares[_MOST_BINS:].sum()))}")
    _finish(
        console,
        table,
        f"Training images by number of labels: {', '.join(bins)}. {percent(train.density)} of all labels are positive.",
    )


def split_name(inspection: Inspection, facts: SplitFacts) -> str:
    """A split's name, with what it is used for where the name does not say it."""
    if facts is inspection.total:
        return "all rows"
    name = facts.name or "(none)"
    role = {inspection.train_split: "train", inspection.test_split: "test"}.get(facts.name)
    return name if role is None or role == name else f"{name} ({role})"


def _show_groups(console: Console, inspection: Inspection) -> None:
    counts, test = inspection.stats.class_counts, inspection.test
    in_test = [] if test is None else ["labels\nin test"]
    table = _table("Groups", "group", "classes", "training images\nof a class", "labels", "share of\nlabels", *in_test)
    for name, members in inspection.stats.groups.items():
        mine = counts[members]
        table.add_row(
            name,
            f"{len(members):,}",
            f"{mine.min():,} to {mine.max():,}" if len(mine) else "–",
            f"{mine.sum():,}",
            percent(float(mine.sum() / counts.sum())) if counts.any() else "–",
            *([] if test is None else [f"{test.class_counts[members].sum():,}"]),
        )
    _finish(console, table)


def _show_classes(console: Console, inspection: Inspection, page: str | None) -> None:
    order = inspection.order
    explanation = "per epoch: draws of each of its images in an epoch of class-aware sampling"
    if len(order) <= _MOST_CLASSES:
        _finish(console, _classes_table(console, "Classes", inspection, order), explanation)
        return
    left_out = f"{len(order) - 2 * _EXCERPT:,} classes in between are left out here"
    where = "" if page is None else f"; all are in {page}"
    _finish(console, _classes_table(console, "Most frequent classes", inspection, order[:_EXCERPT]))
    rarest = _classes_table(console, "Rarest classes", inspection, order[-_EXCERPT:])
    _finish(console, rarest, f"{left_out}{where}.", explanation)


def _classes_table(console: Console, title: str, inspection: Inspection, classes: Sequence[int] | np.ndarray) -> Table:
    test, found = inspection.test, inspection.cooccurrence
    names, counts = inspection.stats.class_names, inspection.stats.class_counts
    in_test = [] if test is None else ["test"]
    columns = ("class", "most often with", "share", "group", "train", *in_test, "per epoch")
    widest = max(_NARROWEST, (console.width - 48) // 2)
    table = _table(title, *columns, text=(0, 1, 3), widest=widest)
    repeats = inspection.class_aware_repeats
    for k in classes:
        companion = found.companions[k]
        table.add_row(
            _text(shorten(names[k], widest)),
            "–" if companion < 0 else _text(shorten(names[companion], widest)),
            "–" if companion < 0 else percent(float(found.companion_counts[k] / counts[k])),
            inspection.group_of[k],
            f"{counts[k]:,}",
            *([] if test is None else [f"{test.class_counts[k]:,}"]),
            "–" if np.isnan(repeats[k]) else f"{repeats[k]:.1f}",
        )
    return table


def _show_pairs(console: Console, title: str, inspection: Inspection, pairs: ClassPairs) -> None:
    columns = ("class", "with", "images", "of class", "of other", "lift")
    widest = max(_NARROWEST, (console.width - 46) // 2)
    table = _table(title, *columns, text=(0, 1), widest=widest)
    names = inspection.stats.class_names
    for p in range(min(len(pairs), _MOST_PAIRS)):
        table.add_row(
            _text(shorten(names[pairs.first[p]], widest)),
            _text(shorten(names[pairs.second[p]], widest)),
            f"{pairs.counts[p]:,}",
            percent(float(pairs.share[p])),
            percent(float(pairs.reverse_share[p])),
            f"{pairs.lift[p]:.1f}",
        )
    _finish(console, table)


def _show_images(console: Console, images: ImageReport) -> None:
    table = _table("Image files", "", "", text=(0, 1), widest=console.width)
    table.show_header = False
    rows = {
        "can be read": f"{images.num_readable:,} of {len(images.data):,}",
        "missing": f"{len(images.missing):,}",
        "unreadable": f"{len(images.unreadable):,}" + (f", {images.num_empty:,} empty" if images.num_empty else ""),
        "copies": f"{counted(len(images.duplicates), 'group')} of equal files",
        "turned by EXIF data": f"{len(images.rotated):,}",
        "several frames": f"{len(images.animated):,}",
        "formats": ", ".join(f"{name} {number:,}" for name, number in images.formats.items()),
        "colours": ", ".join(f"{describe_mode(mode)} {number:,}" for mode, number in images.modes.items()),
    }
    if images.num_readable:
        for side, (smallest, low, median, high, largest) in zip(
            ("width", "height"), images.size_quantiles(), strict=True
        ):
            rows[side] = f"{smallest:,} to {largest:,} pixels, median {median:,}, nine in ten {low:,} to {high:,}"
    for fact, value in rows.items():
        table.add_row(fact, Text(value or "–", overflow="fold", no_wrap=False))
    _finish(console, table)


def describe_mode(mode: str) -> str:
    """Pillow's name of a pixel format, in words."""
    words = {
        "1": "black and white",
        "L": "grey",
        "LA": "grey, transparent",
        "P": "palette",
        "PA": "palette, transparent",
        "RGB": "RGB",
        "RGBA": "RGB, transparent",
        "CMYK": "CMYK",
        "YCbCr": "YCbCr",
        "LAB": "CIE Lab",
        "I": "32-bit integers",
        "F": "32-bit floating point",
    }
    return "16-bit grey" if mode.startswith("I;16") else words.get(mode, mode)
