"""Label suspects of a results page: their table, and the photographs of the most suspect ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tailwise.data.dataset import Dataset, Features
from tailwise.data.reading import read
from tailwise.errors import InputError
from tailwise.labels import LabelStats
from tailwise.report.photographs import Photograph, photograph
from tailwise.report.tables import Column, Table
from tailwise.training.config import TrainConfig
from tailwise.training.folder import SUSPECTS_FILE, Suspect, read_suspects

_MOST_ROWS = 1000
_MOST_OVERALL = 12
_MOST_BY_CLASS = 18
_LARGEST_SCORE = 99_999.0
_DOUBTS = {"wrong": "labelled {name}, which may be wrong", "missing": "not labelled {name}, which may be missing"}


@dataclass(frozen=True)
class ShownSuspect:
    """A label suspect with the photograph of its image."""

    class_name: str
    score: float
    photograph: Photograph


@dataclass(frozen=True)
class SuspectGroup:
    """Label suspects that are shown together.

    Attributes:
        title: what they have in common.
        wrong: labels that may be wrong.
        missing: labels that may be missing.
    """

    title: str
    wrong: tuple[ShownSuspect, ...]
    missing: tuple[ShownSuspect, ...]


@dataclass(frozen=True)
class SuspectLabels:
    """Label suspects of a run or a comparison.

    Attributes:
        num_wrong: labels that may be wrong.
        num_missing: labels that may be missing.
        table: the most suspect ones.
        groups: those with photographs: the most suspect ones, then those of every class; empty without images.
        problem: why there are no photographs, if the data cannot be read again.
    """

    num_wrong: int
    num_missing: int
    table: Table
    groups: tuple[SuspectGroup, ...] = ()
    problem: str = ""


def read_suspect_labels(folder: Path, config: TrainConfig | None, stats: LabelStats) -> SuspectLabels | None:
    """Read the label suspects in the folder of a run or a comparison.

    Args:
        folder: the folder.
        config: a run whose training split they are of; None where there is none any more.
        stats: statistics of its labels.

    Returns:
        The suspects; None where the folder has no file of them.

    Raises:
        InputError: the file cannot be read.
    """
    path = folder / SUSPECTS_FILE
    if not path.is_file():
        return None
    suspects = read_suspects(path)
    groups: tuple[SuspectGroup, ...] = ()
    problem = ""
    if config is not None and suspects:
        try:
            data = read(config.data, config, classes=stats.class_names).select(config.train_split)
        except InputError as error:
            problem = f"The labels of the training split cannot be read again: {error}."
        else:
            groups = () if isinstance(data.inputs, Features) else show_suspects(suspects, data, stats)
    num_wrong = sum(suspect.kind == "wrong" for suspect in suspects)
    return SuspectLabels(num_wrong, len(suspects) - num_wrong, _table(suspects), groups, problem)


def show_suspects(suspects: Sequence[Suspect], data: Dataset, stats: LabelStats) -> tuple[SuspectGroup, ...]:
    """Photographs of the most suspect labels, and of the next ones of every class, the rarest first; 60 at most.

    Args:
        suspects: the suspects, the most suspect first. Those of images that the data no longer have are not shown.
        data: the training images.
        stats: statistics of their labels.
    """
    row_of = {name: row for row, name in enumerate(data.names)}
    known = [suspect for suspect in suspects if suspect.image in row_of]

    def show(chosen: Iterable[Suspect]) -> tuple[ShownSuspect, ...]:
        return tuple(_show(suspect, data, row_of[suspect.image]) for suspect in chosen)

    overall, by_class = {}, {}
    for kind in _DOUBTS:
        own = [suspect for suspect in known if suspect.kind == kind]
        overall[kind] = show(own[:_MOST_OVERALL])
        by_class[kind] = show(_of_each_class(own[_MOST_OVERALL:], stats))
    groups = (SuspectGroup("The most suspect", **overall), SuspectGroup("By class, the rarest first", **by_class))
    return tuple(group for group in groups if group.wrong or group.missing)


def _of_each_class(suspects: Iterable[Suspect], stats: LabelStats) -> list[Suspect]:
    """As many of each class as there is room for."""
    of_class: dict[str, list[Suspect]] = {name: [] for name in stats.class_names}
    for suspect in suspects:
        of_class[suspect.class_name].append(suspect)
    most = max(1, _MOST_BY_CLASS // stats.num_classes)
    rarest_first = [stats.class_names[k] for k in stats.class_counts.argsort(kind="stable").tolist()]
    return [suspect for name in rarest_first for suspect in of_class[name][:most]][:_MOST_BY_CLASS]


def _show(suspect: Suspect, data: Dataset, row: int) -> ShownSuspect:
    what = _DOUBTS[suspect.kind].format(name=suspect.class_name)
    taken = photograph(data, row, what, probability=suspect.probability, rank=suspect.rank)
    return ShownSuspect(suspect.class_name, min(suspect.score, _LARGEST_SCORE), taken)


def _table(suspects: Sequence[Suspect]) -> Table:
    columns = (
        Column("rank", "count"),
        Column("image", "text"),
        Column("class", "text"),
        Column("recorded as", "text"),
        Column("may be", "text"),
        Column("probability", "percent"),
        Column("score", "decimal"),
    )
    rows = [
        [
            *(suspect.rank, suspect.image, suspect.class_name, "present" if suspect.given else "absent"),
            *(suspect.kind, suspect.probability, min(suspect.score, _LARGEST_SCORE)),
        ]
        for suspect in suspects[:_MOST_ROWS]
    ]
    note = (
        ""
        if len(suspects) <= _MOST_ROWS
        else f"The first {_MOST_ROWS:,} of {len(suspects):,}; {SUSPECTS_FILE} has all."
    )
    return Table("suspect-table", "Label suspects", columns, rows, note, filter_hint="image or class")
