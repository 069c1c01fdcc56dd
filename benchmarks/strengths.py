"""Criteria that choose the strength of a penalty: what each loses on the test split against the best strength there.

``python -m benchmarks.strengths PHOTOS WEIGHTS`` solves heads on the photographs, on parts of them, on Yeast and Birds
(see :mod:`benchmarks.exact_heads`) and on the digits, for several divisions into folds, and prints for each criterion
the loss of mAP in points: its mean over data sets, losses and divisions, and the largest.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

import tailwise as tw
from benchmarks.tables_of_features import birds, photos, yeast
from tailwise.data.dataset import Dataset, Features
from tailwise.data.splits import split_by_ratio
from tailwise.labels import LabelStats
from tailwise.matrix import to_dense
from tailwise.metrics import average_precision, log_rank_score
from tailwise.models.heads import FeatureTransform
from tailwise.models.ridge import Ridge
from tailwise.models.solver import Design, Problem
from tailwise.training.exact import STRENGTHS

FOLDS, DIVISIONS = 5, 4
LOSSES = ("ridge", "bce", "asl", "db")
SIZES = (200, 400, 800)

Table = NDArray[np.floating[Any]]
Criterion = Callable[[Table, NDArray[np.int8], NDArray[np.intp]], float]


def print_regrets(photographs: Path, weights: Path) -> None:
    """Print the table of criteria, and one of data sets.

    Args:
        photographs: folder with labels.csv, classes.json and the images.
        weights: backbone weights.
    """
    regrets: dict[str, dict[str, list[float]]] = {name: {} for name in CRITERIA}
    for data, train, test in _data(photographs, weights):
        for loss in LOSSES:
            paths, on_test, parts = _paths(train, test, loss)
            for scores, part in zip(paths, parts, strict=True):
                for name, criterion in CRITERIA.items():
                    values = [criterion(table, to_dense(train.targets), part) for table in scores]
                    regret = max(on_test) - on_test[int(np.argmax(values))]
                    regrets[name].setdefault(data, []).append(100 * regret)
        print(data, {name: f"{np.mean(found[data]):.2f}" for name, found in regrets.items()}, flush=True)
    print("\n| criterion | mean | largest |", *(f" {data} |" for data in regrets["log ranks"]), sep="")
    print("|---" * (3 + len(regrets["log ranks"])) + "|")
    for name, found in regrets.items():
        every = np.concatenate([*found.values()])
        cells = [f"{np.mean(values):.2f}" for values in found.values()]
        print(f"| {name} | {every.mean():.2f} | {every.max():.2f} |", " | ".join(cells), "|")


def _data(photographs: Path, weights: Path) -> Iterator[tuple[str, Dataset, Dataset]]:
    whole = photos(photographs, weights)
    train, test = whole.select("train"), whole.select("test")
    yield "photos", train, test
    for size in SIZES:
        rows = np.random.default_rng(size).permutation(len(train))[:size]
        yield f"{size} photos", train.subset(rows), test
    for name, table in (("Yeast", yeast()), ("Birds", birds()), ("digits", tw.read("digits"))):
        yield name, table.select("train"), table.select("test")


def _paths(train: Dataset, test: Dataset, loss: str) -> tuple[list[list[Table]], list[float], list[NDArray[np.intp]]]:
    """Held-out scores at each strength by division, mAP on the test split at each strength, and the divisions."""
    x, z = (torch.from_numpy(_features(split)) for split in (train, test))
    transform = FeatureTransform.fit("sqrt", x)
    design, labels = Design.of(transform(x)), torch.from_numpy(to_dense(train.targets))
    asked = (transform(z).double() - design.center) @ design.axes
    whole = _problem(design.rows, labels, loss)
    unit = whole.curvature * design.variance
    on_test, head = [], None
    for strength in STRENGTHS:
        head = whole.solve(strength * unit, head)
        precision = average_precision(head.logits(asked.to(head.weight)).numpy(), test.targets)
        on_test.append(float(precision[_shown(labels)].nanmean()))
    paths, parts = [], []
    for seed in range(DIVISIONS):
        part = np.array(split_by_ratio(train.targets, {str(fold): 1 / FOLDS for fold in range(FOLDS)}, seed=seed))
        parts.append(part.astype(np.intp))
        paths.append(_held_out(design, labels, loss, unit, parts[-1]))
    return paths, on_test, parts


def _shown(labels: torch.Tensor) -> torch.Tensor:
    """Whether each class has a positive."""
    return (labels == 1).any(0)


def _held_out(design: Design, labels: torch.Tensor, loss: str, unit: float, part: NDArray[np.intp]) -> list[Table]:
    tables = [np.zeros(labels.shape, dtype=np.float32) for _ in STRENGTHS]
    for fold in range(FOLDS):
        kept, head = torch.from_numpy(part != fold), None
        problem = _problem(design.rows[kept], labels[kept], loss)
        for table, strength in zip(tables, STRENGTHS, strict=True):
            head = problem.solve(strength * unit, head)
            table[part == fold] = head.logits(design.rows[~kept].to(head.weight)).numpy()
    return tables


def _problem(rows: torch.Tensor, labels: torch.Tensor, loss: str) -> Problem | Ridge:
    if loss == "ridge":
        return Ridge(rows, labels)
    stats = LabelStats.from_targets(labels.numpy())
    return Problem(rows.float(), labels, tw.losses.create(loss, stats, reduction="none"))


def _features(split: Dataset) -> NDArray[np.float32]:
    if isinstance(split.inputs, Features):
        return split.inputs.values
    return split.inputs.values.reshape(len(split), -1).astype(np.float32)  # type: ignore[union-attr]


def _log_ranks(scores: Table, targets: NDArray[np.int8], part: NDArray[np.intp]) -> float:
    """What tailwise chooses by: ranks among all held-out rows, with the folds at one mean."""
    centred = scores.copy()
    for fold in range(FOLDS):
        centred[part == fold] -= scores[part == fold].mean(axis=0)
    return float(log_rank_score(centred, targets).nanmean())


def _pooled(scores: Table, targets: NDArray[np.int8], _: NDArray[np.intp]) -> float:
    return float(average_precision(scores, targets).nanmean())


def _by_fold(scores: Table, targets: NDArray[np.int8], part: NDArray[np.intp]) -> float:
    return float(np.mean([_pooled(scores[part == fold], targets[part == fold], part) for fold in range(FOLDS)]))


def _area(scores: Table, targets: NDArray[np.int8], _: NDArray[np.intp]) -> float:
    both = np.flatnonzero((targets == 1).any(axis=0) & (targets == 0).any(axis=0))
    return float(np.mean([roc_auc_score(targets[:, k], scores[:, k]) for k in both]))


def _pooled_log_ranks(scores: Table, targets: NDArray[np.int8], _: NDArray[np.intp]) -> float:
    return float(log_rank_score(scores, targets).nanmean())


CRITERIA: Mapping[str, Criterion] = {
    "log ranks": _log_ranks,
    "log ranks, folds at their own means": _pooled_log_ranks,
    "AP of all held-out rows": _pooled,
    "mean of the folds' AP": _by_fold,
    "area under the ROC curve": _area,
}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    auto_cli(print_regrets)
