"""Problems of a data set: findings with their severity, and advice."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tailwise.data.label_facts import MAX_SPLITS, Inspection, SplitFacts
from tailwise.data.pixels.image_check import EXTREME_ASPECT, DuplicateGroup, ImageReport
from tailwise.spelling import counted, percent

Severity: TypeAlias = Literal["error", "warning", "note"]

_MOST_EXAMPLES = 50
_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_STRONG_IMBALANCE = 50
_MANY_HEAD_ONLY = 0.5
_IF_ONLY_POSITIVES = (
    "If only positives were ever recorded, write 0 for the labels that do not apply, or say with --negative or --blank "
    "what stands for them."
)
_WAY_OUT = {
    "error": "{repair}, remove their rows, or have them skipped; otherwise training stops at the first of them.",
    "note": "None of them is trained or tested on. {repair} before these splits are used.",
}


@dataclass(frozen=True)
class Problem:
    """One finding.

    Attributes:
        severity: "error": training or testing does not do what is expected; "warning": results are worse or
            misleading; "note": good to know.
        title: the finding, as a sentence.
        advice: its consequences, and what to do.
        examples: the first classes or images concerned.
    """

    severity: Severity
    title: str
    advice: str
    examples: tuple[str, ...] = ()


def find_problems(inspection: Inspection, images: ImageReport | None = None) -> list[Problem]:
    """All findings, the most severe first.

    Args:
        inspection: facts about the labels.
        images: facts about the image files, where they were checked.
    """
    found = [
        *_about_training_counts(inspection),
        *_about_test_counts(inspection),
        *_about_other_counts(inspection),
        *_about_labels(inspection),
        *_about_row_groups(inspection),
        *_about_pairs(inspection),
        *_about_imbalance(inspection),
    ]
    if images is not None:
        found += [*_about_files(inspection, images), *_about_duplicates(images), *_about_kinds(images)]
    return sorted(found, key=lambda problem: _SEVERITIES.index(problem.severity))


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _has(number: int) -> str:
    return "has" if number == 1 else "have"


def _classes(number: int) -> str:
    return counted(number, "class", "classes")


def _about_classes(inspection: Inspection, *findings: tuple[Severity, NDArray[np.intp], str, str]) -> Iterator[Problem]:
    """Problems of classes, given as severity, classes, what they have, and advice; none where there are no classes."""
    for severity, classes, what, advice in findings:
        if number := len(classes):
            names = tuple(inspection.stats.class_names[k] for k in classes[:_MOST_EXAMPLES])
            yield Problem(severity, f"{_classes(number)} {_has(number)} {what}", advice, names)


def _about_training_counts(inspection: Inspection) -> Iterator[Problem]:
    empty, always = _of_one_kind(inspection.train)
    yield from _about_classes(
        inspection,
        (
            "error",
            empty,
            "no training image",
            "Nothing can be learnt about them. Add images, move some from another split, or leave these classes out; "
            "samplers skip them and their scores are arbitrary.",
        ),
        (
            "warning",
            np.flatnonzero(inspection.stats.class_counts == 1),
            "one training image",
            "Nothing can be validated on them: an image held out is missing from training. Collect more images, merge "
            "them into a broader class, or do not rely on their scores.",
        ),
        (
            "error",
            always,
            "no negative training image",
            "Every image whose label is known has the label, so there is nothing to learn. Add images without it, or "
            f"leave it out. {_IF_ONLY_POSITIVES}",
        ),
    )
    missing = [name for name, members in inspection.stats.groups.items() if not len(members)]
    if missing:
        low, high = inspection.stats.thresholds
        yield Problem(
            "note",
            f"No class is in the group {' or '.join(missing)}",
            f"Head classes have at least {high:,} training images, tail classes fewer than {low:,}. Set thresholds "
            "that divide your classes, or do not use means over these groups.",
        )


def _about_test_counts(inspection: Inspection) -> Iterator[Problem]:
    test = inspection.test
    if test is None:
        return
    (empty, always), where = _of_one_kind(test), f"in the test split {test.name!r}"
    yield from _about_classes(
        inspection,
        (
            "error",
            empty,
            f"no positive {where}",
            "Average precision is undefined for them, and means exclude them. Add test images that have them, or "
            "report how many classes were measured.",
        ),
        (
            "error",
            always,
            f"no negative {where}",
            "Any scores rank them perfectly: average precision is undefined for them, and means exclude them. Add test "
            f"images without them. {_IF_ONLY_POSITIVES}",
        ),
        (
            "warning",
            np.flatnonzero(test.class_counts == 1),
            f"one positive {where}",
            "Their average precision depends on one image. Do not compare methods on these classes alone; use means "
            "over a group, with several seeds.",
        ),
    )


def _of_one_kind(facts: SplitFacts) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Classes without a positive, and those with positives and without a known negative."""
    has_positive = facts.class_counts > 0
    return np.flatnonzero(~has_positive), np.flatnonzero(has_positive & (facts.negative_counts == 0))


def _about_other_counts(inspection: Inspection) -> Iterator[Problem]:
    """Classes of one kind in splits that are neither trained nor tested on."""
    used = ("", inspection.train_split, inspection.test_split)
    ways_out = "Split the images again if these splits are for validation or tests.", _IF_ONLY_POSITIVES
    for place, (kind, advice) in enumerate(zip(("positive", "negative"), ways_out, strict=True)):
        found = {facts.name: _of_one_kind(facts)[place] for facts in inspection.splits if facts.name not in used}
        number = len({k for classes in found.values() for k in classes.tolist()})
        if number:
            where = ", ".join(f"{name} {len(classes):,}" for name, classes in found.items() if len(classes))
            listed = (f"{inspection.stats.class_names[k]} ({name})" for name, classes in found.items() for k in classes)
            yield Problem(
                "note",
                f"{_classes(number)} {_has(number)} no {kind} in another split ({where})",
                f"There, no threshold can be chosen for them and average precision is undefined. {advice}",
                tuple(islice(listed, _MOST_EXAMPLES)),
            )


def _about_labels(inspection: Inspection) -> Iterator[Problem]:
    train = inspection.train
    if inspection.skipped:
        yield Problem(
            "warning",
            f"{counted(len(inspection.skipped), 'row')} could not be read from the source",
            "Correct these rows, or make sure that they are not needed.",
            inspection.skipped[:_MOST_EXAMPLES],
        )
    if train.unlabelled:
        yield Problem(
            "note" if train.unlabelled < train.num_images / 2 else "warning",
            f"{counted(train.unlabelled, 'training image')} ({percent(train.unlabelled / train.num_images)}) "
            f"{_has(train.unlabelled)} no positive label",
            "They are negatives of every class whose label is known. If nobody labelled them, mark their labels "
            "as unknown (-1) or leave them out.",
        )
    if train.unknown_share:
        yield Problem(
            "note",
            f"{percent(train.unknown_share)} of the training labels are unknown",
            "Unknown labels add nothing to the loss and are left out of the metrics.",
        )
    unsplit = next((facts for facts in inspection.splits if not facts.name), None)
    if unsplit is not None:
        yield Problem(
            "warning",
            f"{counted(unsplit.num_images, 'row')} {_is(unsplit.num_images)} in no split",
            "Other rows name one, so these are in neither training nor test. Name a split for each row.",
        )
    if inspection.splits_left_out:
        yield Problem(
            "warning",
            f"There are {inspection.splits_left_out + len(inspection.splits):,} splits; {MAX_SPLITS} are shown",
            "So many splits are unusual: check the column 'split'.",
        )
    alike = _names_alike(inspection.stats.class_names)
    if alike:
        yield Problem(
            "warning",
            f"{counted(len(alike), 'class name')} {_is(len(alike))} spelt in more than one way",
            "They count as different classes. If they mean the same, spell them the same.",
            tuple(alike[:_MOST_EXAMPLES]),
        )


def _about_row_groups(inspection: Inspection) -> Iterator[Problem]:
    """Groups of rows, such as patients, that are both trained and tested on."""
    for shared in inspection.shared_groups:
        yield Problem(
            "warning" if shared.other == inspection.test_split else "note",
            str(shared),
            "A model recognizes what it was trained on, such as a patient, so that scores there are higher than on new "
            "groups. Divide the rows anew with --split-ratios, which keeps groups whole, or give other splits with "
            "--split-file.",
        )


def _names_alike(names: Sequence[str]) -> list[str]:
    """Groups of names that differ in case, spaces, hyphens and underscores only, each written as one line."""
    spellings: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        spellings[re.sub(r"[\s_-]+", " ", name).strip().casefold()].append(name)
    return [" / ".join(group) for plain, group in spellings.items() if len(group) > 1 and plain]


def _about_pairs(inspection: Inspection) -> Iterator[Problem]:
    pairs, names = inspection.cooccurrence.by_share, inspection.stats.class_names
    # The list is cut; if its last pair still qualifies, there may be more.
    least = "At least " if len(pairs) and pairs.share[-1] == 1 and len(pairs) == inspection.cooccurrence.top else ""
    both = np.flatnonzero(pairs.reverse_share == 1)
    if len(both):
        yield Problem(
            "warning",
            f"{least}{counted(len(both), 'pair')} of classes {_has(len(both))} the same training images",
            "No method can learn to distinguish two such classes. Merge them, or add images with only one of them.",
            tuple(f"{names[pairs.first[p]]} and {names[pairs.second[p]]}" for p in both[:_MOST_EXAMPLES]),
        )
    # A lift of 1: the companion is on every image, which says nothing about the pair.
    implied = np.flatnonzero((pairs.share == 1) & (pairs.reverse_share < 1) & (pairs.lift > 1))
    if len(implied):
        number = len(np.unique(pairs.first[implied]))
        yield Problem(
            "note",
            f"{least}{_classes(number)} always {'comes' if number == 1 else 'come'} with a certain other class",
            "A network may recognize the companion alone. Unless that is a rule of your labels, add images of the "
            "rarer class on its own.",
            tuple(f"{names[pairs.first[p]]}, always with {names[pairs.second[p]]}" for p in implied[:_MOST_EXAMPLES]),
        )


def _about_imbalance(inspection: Inspection) -> Iterator[Problem]:
    train = inspection.train
    if train.imbalance_ratio >= _STRONG_IMBALANCE:
        repeats = np.nanmax(inspection.class_aware_repeats)
        yield Problem(
            "note",
            f"The most frequent class has {train.imbalance_ratio:,.0f} times the images of the rarest",
            "Plain binary cross-entropy tends to ignore the rare classes: compare it with a re-balancing loss. "
            f"Class-aware sampling would draw {counted(inspection.class_aware_epoch, 'image')} per epoch, and each "
            f"image of the rarest class about {counted(round(float(repeats)), 'time')}.",
        )
    if train.head_only_share >= _MANY_HEAD_ONLY and len(inspection.stats.groups["tail"]):
        yield Problem(
            "note",
            f"{percent(train.head_only_share)} of the labelled training images show head classes only",
            "Uniform sampling spends most of each epoch on them; class-aware sampling does not.",
        )


def _about_files(inspection: Inspection, images: ImageReport) -> Iterator[Problem]:
    data = images.data
    if len(images.missing):
        severity, where = _weigh_rows(inspection, images, images.missing)
        number = len(images.missing)
        yield Problem(
            severity,
            f"{counted(number, 'image')} of {len(data):,} {_is(number)} missing{where}",
            "None is there: is this the root of the references?"
            if number == len(data)
            else _WAY_OUT[severity].format(repair="Add the files"),
            tuple(_describe_row(images, row) for row in images.missing[:_MOST_EXAMPLES]),
        )
    if images.unreadable:
        severity, where = _weigh_rows(inspection, images, list(images.unreadable))
        empty = f", {images.num_empty:,} of them empty" if images.num_empty else ""
        listed = list(images.unreadable.items())[:_MOST_EXAMPLES]
        yield Problem(
            severity,
            f"{counted(len(images.unreadable), 'image')} cannot be read{where}{empty}",
            _WAY_OUT[severity].format(repair="Copy or convert them again"),
            tuple(f"{_describe_row(images, row)}: {reason}" for row, reason in listed),
        )


def _weigh_rows(inspection: Inspection, images: ImageReport, rows: Sequence[int] | np.ndarray) -> tuple[Severity, str]:
    """Severity of bad rows and the splits they are in; rows outside the splits in use do no harm."""
    sizes = Counter(images.data.splits[row] for row in rows)
    used = {inspection.train_split, inspection.test_split} - {None}
    matters = inspection.train_split is None or any(name in used for name in sizes)
    where = ", ".join(f"{name or 'no split'} {size:,}" for name, size in sizes.most_common(MAX_SPLITS))
    return "error" if matters else "note", f" ({where})" if inspection.splits else ""


def _about_duplicates(images: ImageReport) -> Iterator[Problem]:
    def listed(groups: Sequence[DuplicateGroup]) -> tuple[str, ...]:
        return tuple(_describe_duplicates(images, group) for group in groups[:_MOST_EXAMPLES])

    leaks = [group for group in images.duplicates if group.crosses_splits]
    contradictions = [group for group in images.duplicates if not group.same_labels]
    others = [group for group in images.duplicates if group.same_labels and not group.crosses_splits]
    if leaks:
        yield Problem(
            "error",
            f"{counted(len(leaks), 'image')} {_has(len(leaks))} copies in more than one split",
            "The same file, byte for byte. Testing on training images gives scores that are too high. Keep each "
            "image in one split.",
            listed(leaks),
        )
    if contradictions:
        yield Problem(
            "error",
            f"{counted(len(contradictions), 'image')} {_has(len(contradictions))} copies with other labels",
            "The same file, byte for byte, is labelled in two ways, and one is wrong. Decide which, and keep one row.",
            listed(contradictions),
        )
    if others:
        yield Problem(
            "note",
            f"{counted(len(others), 'image')} {_has(len(others))} copies in the same split",
            "A copy counts twice in training and in metrics. Remove it unless that is intended.",
            listed(others),
        )


def _describe_duplicates(images: ImageReport, group: DuplicateGroup) -> str:
    shown = [_describe_row(images, row) for row in group.rows[:3]]
    more = f" and {len(group.rows) - 3:,} more" if len(group.rows) > 3 else ""
    return " = ".join(shown) + more


def _describe_row(images: ImageReport, row: int) -> str:
    data, image, split = images.data, images.data.names[row], images.data.splits[row]
    place = data.place.format(source=data.source.name, line=data.lines[row], image=image)
    return f"{image} ({place}{', ' + split if split else ''})"


def _about_kinds(images: ImageReport) -> Iterator[Problem]:
    extreme = images.extreme
    if len(extreme):
        yield Problem(
            "note",
            f"{counted(len(extreme), 'image')} {_is(len(extreme))} far from square",
            f"One side is at least {EXTREME_ASPECT:g} times the other. Training squashes images to squares, which "
            "distorts these; crop or tile them if details matter.",
            tuple(
                f"{_describe_row(images, row)}: {images.sizes[row, 0]:,} × {images.sizes[row, 1]:,}"
                for row in extreme[:_MOST_EXAMPLES]
            ),
        )
    if len(images.animated):
        yield Problem(
            "note",
            f"{counted(len(images.animated), 'image')} {_has(len(images.animated))} several frames or pages",
            "Only the first is used. Save the one that the labels describe as an image of its own.",
            tuple(_describe_row(images, row) for row in images.animated[:_MOST_EXAMPLES]),
        )
