"""Facts about a data set as a page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tailwise.data.label_facts import Inspection
from tailwise.data.pixels.image_check import ImageReport
from tailwise.report.inspection.inspection_plots import heat_map, labels_per_image, long_tail
from tailwise.report.inspection.problems import find_problems
from tailwise.report.inspection.terminal import describe_mode, split_name
from tailwise.report.page import Fact, finite, write_page
from tailwise.report.tables import Column, Table, Value
from tailwise.spelling import counted, percent

_MOST_ROWS = 20_000
_MOST_FILES = 1_000


def write_inspection_page(path: str | Path, inspection: Inspection, images: ImageReport | None = None) -> None:
    """Write everything :func:`~tailwise.report.inspection.terminal.show_inspection` prints, and more, as one file.

    The page loads nothing and works from a disk without a network. Tables can be sorted and filtered.

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
    write_page(
        path,
        "inspection.html",
        source=str(inspection.source),
        source_name=inspection.source.name,
        sections=sections | ({"files": "Image files"} if images else {}),
        cards=list(_cards(inspection)),
        problems=find_problems(inspection, images),
        long_tail=long_tail(inspection),
        classes=_class_table(inspection),
        labels_per_image=labels_per_image(inspection),
        heat_map=heat_map(inspection),
        pairs=_pair_table(inspection),
        splits=_split_table(inspection),
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


def _class_table(inspection: Inspection) -> Table:
    stats, found, test = inspection.stats, inspection.cooccurrence, inspection.test
    repeats = inspection.class_aware_repeats
    others = [f for f in inspection.splits if f.name not in (inspection.train_split, inspection.test_split)]
    has_unknown = inspection.train.unknown_share > 0
    shown = inspection.order
    if len(shown) > _MOST_ROWS:
        shown = np.concatenate([shown[: _MOST_ROWS // 2], shown[-_MOST_ROWS // 2 :]])
    columns = [Column("class", "text"), Column("group", "group"), Column("training images", "count")]
    columns += [Column("test images", "count")] if test is not None else []
    columns += [Column(split_name(inspection, facts), "count") for facts in others]
    columns += [Column("unknown", "percent")] if has_unknown else []
    columns += [
        Column("draws per image", "decimal"),
        Column("most often with", "text"),
        Column("share with it", "percent"),
    ]
    rows: list[list[Value]] = []
    for k in shown.tolist():
        count, companion = int(stats.class_counts[k]), int(found.companions[k])
        row: list[Value] = [stats.class_names[k], inspection.group_of[k], count]
        row += [int(facts.class_counts[k]) for facts in ([test] if test is not None else []) + others]
        row += [int(inspection.train.unknown_counts[k]) / inspection.train.num_images] if has_unknown else []
        row += [None if count == 0 else round(float(repeats[k]), 4)]
        row += (
            [None, None] if companion < 0 else [stats.class_names[companion], _share(found.companion_counts[k], count)]
        )
        rows.append(row)
    note = "“Draws per image”: how often class-aware sampling draws each image of the class in an epoch."
    if len(shown) < stats.num_classes:
        left = stats.num_classes - len(shown)
        note += f" {counted(left, 'class', 'classes')} of middling frequency are left out of this page."
    return Table("class-table", "Classes", tuple(columns), rows, note, "class, group or companion", sort_by=2)


def _share(part: int, whole: int) -> float:
    """A share with as many digits as anybody reads."""
    return float(f"{part / whole:.6g}")


def _split_table(inspection: Inspection) -> Table:
    shows_unknown = inspection.total.unknown_share > 0
    columns = [
        Column("split", "text"),
        Column("images", "count"),
        Column("labels per image", "decimal"),
        Column("without label", "count"),
        Column("positive labels", "percent"),
        *([Column("unknown labels", "percent")] if shows_unknown else []),
        Column("classes", "count"),
        Column("classes without image", "count"),
        Column("classes with one", "count"),
        Column("head only", "percent"),
        Column("imbalance ratio", "count"),
    ]
    rows: list[list[Value]] = []
    for facts in (*inspection.splits, inspection.total):
        present = int(np.count_nonzero(facts.class_counts))
        row: list[Value] = [split_name(inspection, facts), facts.num_images, facts.mean_labels, facts.unlabelled]
        row += [facts.density, facts.unknown_share] if shows_unknown else [facts.density]
        row += [present, len(facts.class_counts) - present, int(np.count_nonzero(facts.class_counts == 1))]
        rows.append([*row, finite(facts.head_only_share), finite(round(facts.imbalance_ratio, 0))])
    note = (
        "“Head only”: share of the labelled images whose labels are all of head classes. “Imbalance ratio”: images of "
    )
    note += "the most frequent class over those of the rarest that has any."
    return Table("split-table", "Splits", tuple(columns), rows, note, "split")


def _pair_table(inspection: Inspection) -> Table:
    found, names = inspection.cooccurrence, inspection.stats.class_names
    columns = (
        Column("class", "text"),
        Column("with", "text"),
        Column("images", "count"),
        Column("share of the class", "percent"),
        Column("share of the other", "percent"),
        Column("lift", "decimal"),
    )
    rows: dict[tuple[int, int], list[Value]] = {}
    for pairs in (found.by_count, found.by_share, found.by_lift):
        for first, second, *values in zip(
            pairs.first.tolist(),
            pairs.second.tolist(),
            pairs.counts.tolist(),
            pairs.share.tolist(),
            pairs.reverse_share.tolist(),
            pairs.lift.tolist(),
            strict=True,
        ):
            rows[first, second] = [names[first], names[second], *values]
    note = "The rarer class stands first. “Lift”: how many times more often the two come together than by chance. "
    if len(rows) < found.num_pairs:
        note += (
            f"Of {found.num_pairs:,} pairs these are the {found.top} with the most images, and the {found.top} with "
        )
        note += f"the largest share and lift of those on {found.min_count} images or more."
    return Table("pair-table", "Pairs of classes", columns, list(rows.values()), note, "class", sort_by=2)


def _files(images: ImageReport) -> dict[str, object]:
    sizes = images.size_quantiles()
    cards = [
        Fact("Readable", f"{images.num_readable:,}", f"of {len(images.data):,}"),
        Fact("Missing", f"{len(images.missing):,}"),
        Fact(
            "Unreadable",
            f"{len(images.unreadable):,}",
            f"{images.num_empty:,} of zero bytes" if images.num_empty else "",
        ),
        Fact("Copies", f"{len(images.duplicates):,}", "groups of equal files"),
        Fact("Turned by EXIF", f"{len(images.rotated):,}", "shown upright in training"),
        Fact("Several frames", f"{len(images.animated):,}", "the first is used"),
        Fact("Far from square", f"{len(images.extreme):,}", "one side 3 times the other or more"),
    ]
    formats: list[list[Value]] = [[name, number] for name, number in images.formats.items()]
    modes: list[list[Value]] = [[describe_mode(mode), number] for mode, number in images.modes.items()]
    levels = ("smallest", "5% are below", "median", "5% are above", "largest")
    quantiles: list[list[Value]] = [
        [level, int(width), int(height)] for level, width, height in zip(levels, *sizes, strict=True)
    ]
    count = Column("images", "count")
    return {
        "cards": cards,
        "tables": [
            Table("format-table", "Formats", (Column("format", "text"), count), formats),
            Table("mode-table", "Colours", (Column("colours", "text"), count), modes),
            Table(
                "size-table",
                "Sizes in pixels",
                (Column("size", "text"), Column("width", "count"), Column("height", "count")),
                quantiles if images.num_readable else [],
            ),
        ],
        "bad": _bad_files(images),
        "copies": _copies(images),
    }


def _bad_files(images: ImageReport) -> Table:
    columns = (Column("image", "text"), Column("split", "text"), Column("place", "text"), Column("reason", "text"))
    # What is damaged is rarer than what is missing, and would drown in it.
    bad = [*images.unreadable.items(), *((int(row), "there is no such file") for row in images.missing)]
    rows = [
        [images.data.names[row], images.data.splits[row] or None, images.data.where(row), reason]
        for row, reason in bad[:_MOST_FILES]
    ]
    note = f"{len(bad):,} in all, of which the first {_MOST_FILES:,} are listed." if len(bad) > _MOST_FILES else ""
    return Table("bad-table", "Images that cannot be read", columns, rows, note, "image, split or reason")


def _copies(images: ImageReport) -> Table:
    columns = (
        Column("image", "text"),
        Column("group", "count"),
        Column("split", "text"),
        Column("labels", "text"),
        Column("place", "text"),
    )
    rows: list[list[Value]] = [
        [
            images.data.names[row],
            number,
            images.data.splits[row] or None,
            "equal" if group.same_labels else "differ",
            images.data.where(row),
        ]
        for number, group in enumerate(images.duplicates, 1)
        for row in group.rows
    ]
    note = "Files that are equal byte for byte have the same group number."
    if len(rows) > _MOST_FILES:
        note += f" {len(rows):,} in all, of which the first {_MOST_FILES:,} are listed."
    return Table("copy-table", "Copies of images", columns, rows[:_MOST_FILES], note, "image or split")
