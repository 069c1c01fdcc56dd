"""Tables of an inspection, for the page and the terminal: splits, groups, classes, pairs and image files."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tailwise.data.class_pairs import ClassPairs
from tailwise.data.label_facts import Inspection, SplitFacts
from tailwise.data.pixels.image_check import ImageReport
from tailwise.report.page import Fact, finite
from tailwise.report.tables import Column, Table, Value
from tailwise.spelling import counted

_MOST_ROWS = 20_000
_MOST_FILES = 1_000
_MODES = {
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


def split_table(inspection: Inspection) -> Table:
    """Every split, and all rows together: images, labels, classes and imbalance."""
    columns = (
        Column("split", "text"),
        Column("images", "count"),
        Column("labels per image", "decimal", short="labels\neach"),
        Column("without label", "count", short="without\nlabel"),
        Column("positive labels", "percent"),
        Column("unknown labels", "percent", short="unknown\nlabels"),
        Column("classes", "count"),
        Column("classes without image", "count"),
        Column("classes with one", "count"),
        Column("head only", "percent", short="head\nonly"),
        Column("imbalance ratio", "count", short="imbalance\nratio"),
    )
    rows: list[list[Value]] = []
    for facts in (*inspection.splits, inspection.total):
        present, ratio = int(np.count_nonzero(facts.class_counts)), finite(facts.imbalance_ratio)
        rows.append(
            [
                *(_split_name(inspection, facts), facts.num_images, facts.mean_labels, facts.unlabelled),
                *(facts.density, facts.unknown_share),
                *(present, len(facts.class_counts) - present, int(np.count_nonzero(facts.class_counts == 1))),
                *(finite(facts.head_only_share), None if ratio is None else round(ratio)),
            ]
        )
    note = (
        "“Head only”: share of the labelled images whose labels are all of head classes. “Imbalance ratio”: images of "
        "the most frequent class divided by those of the rarest class that has any."
    )
    table = Table("split-table", "Splits", columns, rows, note, "split")
    return table if inspection.total.unknown_share > 0 else table.without("unknown labels")


def _split_name(inspection: Inspection, facts: SplitFacts) -> str:
    """A split's name, with its use where the name does not say it."""
    if facts is inspection.total:
        return "all rows"
    name = facts.name or "(none)"
    role = {inspection.train_split: "train", inspection.test_split: "test"}.get(facts.name)
    return name if role is None or role == name else f"{name} ({role})"


def group_table(inspection: Inspection) -> Table:
    """Every group: its classes, their training images, and its share of the labels."""
    counts, test = inspection.stats.class_counts, inspection.test
    columns = (
        Column("group", "text"),
        Column("classes", "count"),
        Column("training images of a class", "range", short="training images\nof a class"),
        Column("labels", "count"),
        Column("share of labels", "percent", short="share of\nlabels"),
        *([Column("labels in test", "count", short="labels\nin test")] if test is not None else []),
    )
    rows: list[list[Value]] = []
    for name, members in inspection.stats.groups.items():
        mine, labels = counts[members], int(counts[members].sum())
        row: list[Value] = [name, len(members), [int(mine.min()), int(mine.max())] if len(mine) else None, labels]
        row += [labels / int(counts.sum()) if counts.any() else None]
        rows.append([*row, *([int(test.class_counts[members].sum())] if test is not None else [])])
    return Table("group-table", "Groups", columns, rows)


def class_table(inspection: Inspection) -> Table:
    """Every class by falling number of training images; of very many, the most frequent and the rarest."""
    stats, found, test = inspection.stats, inspection.cooccurrence, inspection.test
    others = [f for f in inspection.splits if f.name not in (inspection.train_split, inspection.test_split)]
    shown = inspection.order
    if len(shown) > _MOST_ROWS:
        shown = np.concatenate([shown[: _MOST_ROWS // 2], shown[-_MOST_ROWS // 2 :]])
    columns = (
        Column("class", "text"),
        Column("group", "group"),
        Column("training images", "count", short="train"),
        *([Column("test images", "count", short="test")] if test is not None else []),
        *(Column(_split_name(inspection, facts), "count") for facts in others),
        Column("unknown", "percent"),
        Column("draws per image", "decimal", short="per epoch", digits=1),
        Column("most often with", "text"),
        Column("share with it", "percent", short="share"),
    )
    rows: list[list[Value]] = []
    for k in shown.tolist():
        count, companion = int(stats.class_counts[k]), int(found.companions[k])
        row: list[Value] = [stats.class_names[k], inspection.group_of[k], count]
        row += [int(facts.class_counts[k]) for facts in ([test] if test is not None else []) + others]
        row += [int(inspection.train.unknown_counts[k]) / inspection.train.num_images]
        row += [None if count == 0 else round(float(inspection.class_aware_repeats[k]), 4)]
        row += (
            [None, None]
            if companion < 0
            else [stats.class_names[companion], float(f"{found.companion_counts[k] / count:.6g}")]
        )
        rows.append(row)
    note = "“Draws per image”: how often class-aware sampling draws each image of the class in an epoch."
    if len(shown) < stats.num_classes:
        left = stats.num_classes - len(shown)
        note += f" {counted(left, 'class', 'classes')} of middling frequency are left out of this page."
    table = Table("class-table", "Classes", columns, rows, note, "class, group or companion", sort_by=2)
    return table if inspection.train.unknown_share > 0 else table.without("unknown")


def pair_table(inspection: Inspection, *kinds: ClassPairs) -> Table:
    """The pairs of classes of the kinds given, each pair once."""
    found, names = inspection.cooccurrence, inspection.stats.class_names
    columns = (
        Column("class", "text"),
        Column("with", "text"),
        Column("images", "count"),
        Column("share of the class", "percent", short="of class"),
        Column("share of the other", "percent", short="of other"),
        Column("lift", "decimal", digits=1),
    )
    rows: dict[tuple[int, int], list[Value]] = {}
    for pairs in kinds:
        values = (pairs.first, pairs.second, pairs.counts, pairs.share, pairs.reverse_share, pairs.lift)
        for first, second, *facts in zip(*(column.tolist() for column in values), strict=True):
            rows[first, second] = [names[first], names[second], *facts]
    note = "The rarer class comes first. “Lift”: how many times more often the two occur together than by chance. "
    if len(rows) < found.num_pairs:
        note += (
            f"Of {found.num_pairs:,} pairs these are the {found.top} with the most images, and the {found.top} with "
            f"the largest share and lift of those on {found.min_count} images or more."
        )
    return Table("pair-table", "Pairs of classes", columns, list(rows.values()), note, "class", sort_by=2)


def image_facts(images: ImageReport) -> Iterator[Fact]:
    """Numbers of image files: readable, missing, and those with a peculiarity."""
    yield Fact("Readable", f"{images.num_readable:,}", f"of {len(images.data):,}")
    yield Fact("Missing", f"{len(images.missing):,}")
    empty = f"{images.num_empty:,} of zero bytes" if images.num_empty else ""
    yield Fact("Unreadable", f"{len(images.unreadable):,}", empty)
    yield Fact("Copies", f"{len(images.duplicates):,}", "groups of equal files")
    yield Fact("Turned by EXIF", f"{len(images.rotated):,}", "shown upright in training")
    yield Fact("Several frames", f"{len(images.animated):,}", "the first is used")
    yield Fact("Far from square", f"{len(images.extreme):,}", "one side 3 times the other or more")


def image_tables(images: ImageReport) -> list[Table]:
    """Formats, colours and sizes of the images that can be read."""
    formats: list[list[Value]] = [[name, number] for name, number in images.formats.items()]
    modes: list[list[Value]] = [[_describe_mode(mode), number] for mode, number in images.modes.items()]
    levels = ("smallest", "5% are below", "median", "5% are above", "largest")
    sizes = zip(levels, *images.size_quantiles(), strict=True) if images.num_readable else ()
    count = Column("images", "count")
    return [
        Table("format-table", "Formats", (Column("format", "text"), count), formats),
        Table("mode-table", "Colours", (Column("colours", "text"), count), modes),
        Table(
            "size-table",
            "Sizes in pixels",
            (Column("size", "text"), Column("width", "count"), Column("height", "count")),
            [[level, int(width), int(height)] for level, width, height in sizes],
        ),
    ]


def _describe_mode(mode: str) -> str:
    """Pillow's name of a pixel format, in words."""
    return "16-bit grey" if mode.startswith("I;16") else _MODES.get(mode, mode)


def bad_file_table(images: ImageReport) -> Table:
    """Image files that are missing or cannot be read."""
    columns = [Column(title, "text") for title in ("image", "split", "place", "reason")]
    # Damaged files are rarer than missing ones, which would hide them.
    bad = [*images.unreadable.items(), *((int(row), "there is no such file") for row in images.missing)]
    rows = [
        [images.data.names[row], images.data.splits[row] or None, images.data.where(row), reason]
        for row, reason in bad[:_MOST_FILES]
    ]
    note = _first_files(len(bad))
    return Table("bad-table", "Images that cannot be read", columns, rows, note, "image, split or reason")


def copy_table(images: ImageReport) -> Table:
    """Image files that are equal byte for byte, by group."""
    kinds = {"image": "text", "group": "count", "split": "text", "labels": "text", "place": "text"}
    columns = [Column(title, "count" if kind == "count" else "text") for title, kind in kinds.items()]
    data = images.data
    rows: list[list[Value]] = [
        [data.names[row], number, data.splits[row] or None, labels, data.where(row)]
        for number, group in enumerate(images.duplicates, 1)
        for labels in ("equal" if group.same_labels else "differ",)
        for row in group.rows
    ]
    note = "Files that are equal byte for byte have the same group number. " + _first_files(len(rows))
    return Table("copy-table", "Copies of images", columns, rows[:_MOST_FILES], note.strip(), "image or split")


def _first_files(number: int) -> str:
    return f"{number:,} in all, of which the first {_MOST_FILES:,} are listed." if number > _MOST_FILES else ""
