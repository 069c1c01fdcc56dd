"""Findings and tables of an inspection in the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from tailwise.data.label_facts import Inspection
from tailwise.data.pixels.image_check import ImageReport
from tailwise.report.inspection import inspection_tables as tables
from tailwise.report.inspection.problems import Problem, Severity, find_problems
from tailwise.report.tables import Column, Table, printable
from tailwise.spelling import counted, percent

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
        page: name of the page that has everything, which is mentioned where something is left out.
    """
    console = console or Console()
    training = "all rows" if inspection.train_split is None else f"split {inspection.train_split!r}"
    images_and_classes = (
        f"{counted(inspection.total.num_images, 'image')}, {counted(inspection.stats.num_classes, 'class', 'classes')}"
    )
    console.print(_text(f"{inspection.source}: {images_and_classes}; training on {training}"))
    if inspection.row_groups is not None:
        console.print(_text(f"{counted(inspection.row_groups.number, 'group')} of rows, {inspection.row_groups}"))
    console.print()
    _show_problems(console, find_problems(inspection, images))
    shown = ("split", "images", "labels per image", "without label", "unknown labels", "classes", "head only")
    splits = tables.split_table(inspection).select(*shown, "imbalance ratio")
    _show(console, splits, _labels_per_image(inspection), widest=console.width - 60)
    _show(console, tables.group_table(inspection))
    _show_classes(console, inspection, page)
    found = inspection.cooccurrence
    strongest = f"Strongest pairs, of those on {found.min_count} images or more"
    for title, pairs in (("Most frequent pairs", found.by_count), (strongest, found.by_lift)):
        if len(pairs):
            table = tables.pair_table(inspection, pairs)
            excerpt = replace(table, caption=title, rows=table.rows[:_MOST_PAIRS])
            _show(console, excerpt, widest=(console.width - 46) // 2)
    if images is not None:
        _show_images(console, images)


def _text(content: str, style: str = "") -> Text:
    return Text(printable(content), style=style)


def _show_problems(console: Console, problems: Iterable[Problem]) -> None:
    for problem in problems:
        console.print(Text.assemble((problem.severity, _STYLES[problem.severity]), ": ", _text(problem.title, "bold")))
        if problem.examples:
            shown = "; ".join(problem.examples[:_MOST_NAMES])
            more = "; ..." if len(problem.examples) > _MOST_NAMES else ""
            console.print(Padding(_text(shown + more), (0, 0, 0, 4), expand=False))
        console.print(Padding(_text(problem.advice, "dim"), (0, 0, 0, 4), expand=False))
        console.print()


def _show(console: Console, table: Table, *explanations: str, widest: int = 20) -> None:
    """Print a table whose names have at most ``widest`` characters."""
    console.print(table.to_plain(max(_NARROWEST, widest)))
    for explanation in explanations:
        console.print(_text(explanation, "dim"))
    console.print()


def _labels_per_image(inspection: Inspection) -> str:
    train = inspection.train
    shares = train.histogram / train.num_images
    bins = [f"{number}: {percent(share)}" for number, share in enumerate(shares[:_MOST_BINS]) if share]
    if train.max_labels >= _MOST_BINS:
        last = f"{_MOST_BINS} to {train.max_labels}" if train.max_labels > _MOST_BINS else f"{_MOST_BINS}"
        bins.append(f"{last}: {percent(float(shares[_MOST_BINS:].sum()))}")
    listed = ", ".join(bins)
    return f"Training images by number of labels: {listed}. {percent(train.density)} of all labels are positive."


def _show_classes(console: Console, inspection: Inspection, page: str | None) -> None:
    shown = ("class", "most often with", "share with it", "group", "training images", "test images", "draws per image")
    table, widest = tables.class_table(inspection).select(*shown), (console.width - 48) // 2
    explanation = "per epoch: draws of each image of the class in an epoch of class-aware sampling"
    number = inspection.stats.num_classes
    if number <= _MOST_CLASSES:
        _show(console, table, explanation, widest=widest)
        return
    where = "" if page is None else f"; all are in {page}"
    left_out = f"{number - 2 * _EXCERPT:,} classes in between are left out here{where}."
    first = replace(table, caption="Most frequent classes", rows=table.rows[:_EXCERPT])
    last = replace(table, caption="Rarest classes", rows=table.rows[-_EXCERPT:])
    _show(console, first, widest=widest)
    _show(console, last, left_out, explanation, widest=widest)


def _show_images(console: Console, images: ImageReport) -> None:
    rows = [[fact.name, f"{fact.value} {fact.detail}"] for fact in tables.image_facts(images)]
    facts = Table("image-table", "Image files", (Column("", "text"), Column("", "text")), rows)
    for table in (facts, *tables.image_tables(images)):
        _show(console, table, widest=console.width // 2)
