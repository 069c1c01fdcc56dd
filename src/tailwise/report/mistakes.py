"""The worst mistakes of a run on rare classes, with their photographs, and the predictions that they are found in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from tailwise.data.dataset import Dataset
from tailwise.data.reading import read
from tailwise.errors import InputError
from tailwise.labels import LabelStats
from tailwise.matrix import to_dense
from tailwise.report.photographs import Photograph, photograph
from tailwise.training.config import TrainConfig
from tailwise.training.folder import PREDICTIONS_FILE, read_predictions

_MOST_IMAGES = 60
_MOST_CLASSES = 15
_MOST_OF_A_KIND = 5


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of a run with their labels.

    Attributes:
        rows: (n,) rows of the test data, which have more if the run left images out.
        logits: (n, K) raw scores.
        targets: (n, K) int8 labels: 1, 0, or -1 for unknown.
    """

    rows: NDArray[np.intp]
    logits: NDArray[np.float32]
    targets: NDArray[np.int8]

    @classmethod
    def of(cls, run: Path, data: Dataset) -> Predictions:
        """The predictions of a run for data.

        Raises:
            InputError: the predictions cannot be read, or are of other images or classes.
        """
        path = run / PREDICTIONS_FILE
        names, class_names, logits = read_predictions(path)
        if class_names != data.class_names:
            raise InputError(f"{path} has other classes than the data")
        row_of = {name: row for row, name in enumerate(data.names)}
        unknown = next((name for name in names if name not in row_of), None)
        if unknown is not None:
            raise InputError(f"{path} has a prediction for {unknown!r}, which is no image of the test split now")
        rows = np.array([row_of[name] for name in names], dtype=np.intp)
        return cls(rows, logits, to_dense(data.targets[rows]))


def read_test_rows(config: TrainConfig, class_names: Sequence[str], *, is_of_all_rows: bool = False) -> Dataset:
    """Read the test split of a run again. Unlike in training, no image needs to exist.

    Args:
        config: the run.
        class_names: its classes.
        is_of_all_rows: whether to read all rows of the data instead.

    Raises:
        InputError: the labels cannot be read, or there is no such split in them any more.
    """
    rows = read(config.data, config, classes=class_names)
    return rows if is_of_all_rows else rows.select(config.test_split)


@dataclass(frozen=True)
class ClassMistakes:
    """The worst mistakes on one class.

    Attributes:
        name: the class.
        count: its training images.
        num_ranked: images that are ranked, which are those whose label is known.
        missed: positives with the lowest scores.
        false: negatives with the highest scores.
    """

    name: str
    count: int
    num_ranked: int
    missed: tuple[Photograph, ...]
    false: tuple[Photograph, ...]


def find_mistakes(data: Dataset, predicted: Predictions, stats: LabelStats) -> list[ClassMistakes]:
    """The worst mistakes on tail classes with positives and negatives, the rarest first; 60 photographs at most.

    A positive that is ranked above every negative is no miss, nor a negative below every positive a false alarm.

    Args:
        data: the test images.
        predicted: predictions of a run for them.
        stats: statistics of the training labels; the group "tail" is shown.
    """
    tail = stats.groups.get("tail", np.empty(0, dtype=np.intp))
    labels = predicted.targets[:, tail]
    tail = tail[(labels == 1).any(axis=0) & (labels == 0).any(axis=0)]
    shown = tail[np.argsort(stats.class_counts[tail], kind="stable")][:_MOST_CLASSES]
    if not len(shown):
        return []
    most = min(_MOST_OF_A_KIND, max(1, _MOST_IMAGES // (2 * len(shown))))
    return [_of_class(data, predicted, stats, int(k), most) for k in shown]


def _of_class(data: Dataset, predicted: Predictions, stats: LabelStats, k: int, most: int) -> ClassMistakes:
    scores, labels = predicted.logits[:, k], predicted.targets[:, k]
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    highest_negative = scores[negative].max(initial=-np.inf)
    missed = positive[scores[positive] <= highest_negative]
    false = negative[scores[negative] >= scores[positive].min()]
    known = np.sort(scores[labels >= 0])

    def photographs(rows: NDArray[np.intp], what: str) -> Iterator[Photograph]:
        for row in rows[:most].tolist():
            rank = len(known) - int(np.searchsorted(known, scores[row], side="right")) + 1
            probability = float(expit(scores[row]))
            yield photograph(data, int(predicted.rows[row]), what, probability=probability, rank=rank)

    name = stats.class_names[k]
    return ClassMistakes(
        name=name,
        count=int(stats.class_counts[k]),
        num_ranked=len(known),
        missed=tuple(photographs(missed[np.argsort(scores[missed], kind="stable")], f"{name}, missed")),
        false=tuple(photographs(false[np.argsort(-scores[false], kind="stable")], f"no {name}, but taken for it")),
    )
