"""Long-tailed subsets of multi-label data, and the files that record them.

Wu et al., "Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed Datasets", ECCV 2020,
supplementary material, section 1.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tailwise.data.dataset import Dataset
from tailwise.errors import InputError
from tailwise.files import replacing
from tailwise.labels import LabelStats
from tailwise.matrix import (
    UNKNOWN,
    Targets,
    classes_by_row,
    count_positives,
    dense_chunks,
    from_indices,
    has_unknown,
    is_sparse,
    rows_by_class,
)
from tailwise.shapes import Int

GROUP_COLUMN = "group"
"""The column of groups of rows in files written here."""

_FORMAT = "tailwise-long-tail-1"
_LAST_QUANTILE = 0.99
# The range in which quantiles are finite and distinct in double precision, and counts are exact.
_PARETO_RANGE = (0.01, 1e6)
_LARGEST_COUNT = 10**12


@dataclass(frozen=True, eq=False)
class LongTailSubset:
    """A long-tailed choice of rows, with the history of its construction.

    Attributes:
        indices: (n,) chosen rows of the source, ascending.
        reference: (K,) number of positives each class was built towards.
        order: (K,) classes in the order they were visited, head to tail.
        history: (K + 1, K) positives per class before the first visit and after each one.
        notes: deviations from the reference counts, one sentence each.
        num_max: reference count of the first class.
        num_min: lower limit of the reference counts.
        pareto_b: shape of the Pareto distribution.
        seed: seed of the random choices.
    """

    indices: Int[np.ndarray, " n"]
    reference: Int[np.ndarray, " K"]
    order: Int[np.ndarray, " K"]
    history: Int[np.ndarray, "K+1 K"]
    notes: tuple[str, ...]
    num_max: int
    num_min: int
    pareto_b: float
    seed: int

    @property
    def counts(self) -> NDArray[np.int64]:
        """(K,) positives per class in the subset."""
        counts: NDArray[np.int64] = self.history[-1]
        return counts


@dataclass(frozen=True, eq=False)
class Manifest:
    """A long-tailed subset as read from its file: enough to train on, and to identify the labels it was built from.

    Attributes:
        subset: the rows and their history.
        images: n image references, in the order of ``subset.indices``.
        targets: (n, K) int8 labels, an array or sparse: 1, 0, or -1 for unknown.
        stats: counts and groups of ``targets``.
        source_sha256: :func:`labels_digest` of the labels the subset was built from.
    """

    subset: LongTailSubset
    images: tuple[str, ...]
    targets: Targets
    stats: LabelStats
    source_sha256: str


def reference_counts(
    num_classes: int, *, num_max: int, num_min: int = 1, pareto_b: int | float = 6.0
) -> NDArray[np.int64]:
    r"""Number of positives wanted of each class, from the most to the least frequent.

    With the Pareto density :math:`f(x) = b x^{-b-1}` and quantiles :math:`Q(q) = (1 - q)^{-1/b}`, for x on
    ``num_classes`` even steps from :math:`Q(0) = 1` to :math:`Q(.99)`,

    .. math:: \lfloor f(x) (N_{max} - N_{min}) / b + N_{min} \rfloor .

    Args:
        num_classes: number of classes K.
        num_max: :math:`N_{max}`, the first class's count.
        num_min: :math:`N_{min}`, which no count is below.
        pareto_b: shape b; the larger, the steeper.

    Returns:
        (K,) counts, descending.

    Raises:
        InputError: unless ``1 <= num_min <= num_max <= 10**12``, ``0.01 <= pareto_b <= 1e6`` and ``num_classes >= 1``.
    """
    if num_classes < 1:
        raise InputError(f"num_classes must be at least 1, got {num_classes}")
    if not 1 <= num_min <= num_max:
        raise InputError(f"expected 1 <= num_min <= num_max, got num_min = {num_min} and num_max = {num_max}")
    if num_max > _LARGEST_COUNT:
        raise InputError(f"num_max must be at most {_LARGEST_COUNT}, got {num_max}")
    low, high = _PARETO_RANGE
    if not low <= pareto_b <= high:
        raise InputError(f"pareto_b must be a number from {low:g} to {high:g}, got {pareto_b}")
    x = np.linspace(1.0, (1 - _LAST_QUANTILE) ** (-1 / pareto_b), num_classes)
    # f(x) / b in one power: at x = 1 it is exactly 1, so the floor cannot fall one below num_max.
    density = x ** (-pareto_b - 1)
    return np.floor(density * (num_max - num_min) + num_min).astype(np.int64)


def build_long_tail(
    targets: Targets | ArrayLike,
    class_names: Sequence[str],
    *,
    num_max: int,
    num_min: int = 1,
    pareto_b: int | float = 6.0,
    seed: int = 0,
) -> LongTailSubset:
    r"""Choose rows of a label matrix so that the class counts follow a Pareto distribution.

    Classes are visited head to tail: by descending :math:`\sum_i p(j | i) = \sum_i n_{ij} / n_i`, how often class j
    accompanies the other classes, with :math:`n_{ij}` the rows in which i and j are positive together. At each visit,
    random rows with the class join the subset until it has as many as :func:`reference_counts` asks, or random ones
    leave it. Later visits change the counts of earlier classes, so the counts reached differ from the reference.

    Args:
        targets: (N, K) labels, an array or a ``scipy.sparse`` matrix: 1, 0, or -1 for unknown, which does not count
            as positive.
        class_names: K distinct names.
        num_max: reference count of the first class: 800 for VOC-MLT, 1200 for COCO-MLT.
        num_min: lower limit of the reference counts.
        pareto_b: shape of the Pareto distribution.
        seed: the same seed and rows give the same subset on every platform.

    Returns:
        The subset. A class with fewer rows than wanted gives all it has; ``notes`` names it.

    Raises:
        InputError: targets are not an (N, K) matrix of 1, 0 and -1 or hold no positive, names do not fit, or a
            parameter is out of range.
    """
    labels: Targets = targets if is_sparse(targets) else np.asarray(targets)
    if labels.ndim != 2:
        raise InputError(f"targets must be (N, K), got shape {labels.shape}")
    if seed < 0:
        raise InputError(f"seed must not be negative, got {seed}")
    try:
        stats = LabelStats.from_targets(labels, class_names, cooccurrence=True)
    except ValueError as error:
        raise InputError(str(error)) from error
    if not stats.class_counts.any():
        raise InputError(f"none of the {stats.num_samples} rows has a positive label: there is nothing to choose from")
    ranked = reference_counts(stats.num_classes, num_max=num_max, num_min=num_min, pareto_b=pareto_b)
    order = _head_to_tail(stats)
    reference = np.empty_like(ranked)
    reference[order] = ranked
    chosen, history = _visit(labels, order, reference, np.random.Generator(np.random.PCG64(seed)))
    return LongTailSubset(
        indices=np.flatnonzero(chosen),
        reference=reference,
        order=order,
        history=history,
        notes=_notes(stats, order, reference, history[-1]),
        num_max=num_max,
        num_min=num_min,
        pareto_b=float(pareto_b),
        seed=seed,
    )


def labels_digest(data: Dataset) -> str:
    """SHA-256 of the image references, class names and labels, in their order; the same on every platform."""
    head = json.dumps([data.class_names, data.names], ensure_ascii=False, separators=(",", ":"))
    digest = hashlib.sha256(head.encode() + b"\n")
    for chunk in dense_chunks(data.targets):
        digest.update(chunk.astype(np.int8).tobytes())
    return digest.hexdigest()


def write_manifest(
    path: str | Path, subset: LongTailSubset, data: Dataset, *, thresholds: tuple[int, int] = (20, 100)
) -> None:
    """Write a subset as JSON: images, labels, counts, groups, parameters, history, digest of the source labels.

    Args:
        path: the file to write.
        subset: what :func:`build_long_tail` chose.
        data: what it chose from; its labels are recorded, and all of them go into the digest.
        thresholds: as in :class:`~tailwise.labels.LabelStats`.

    Raises:
        InputError: ``subset`` was not built from the labels in ``data``.
    """
    fits = len(subset.reference) == data.targets.shape[1] and subset.indices.max(initial=-1) < len(data)
    if not fits or not np.array_equal(count_positives(data.targets[subset.indices]), subset.counts):
        raise InputError(f"the subset was not built from these {len(data)} rows of {data.source}; give the same rows")
    rows = data.subset(subset.indices)
    stats = rows.stats(thresholds)
    names = np.array(data.class_names, dtype=object)
    record = {
        "format": _FORMAT,
        "parameters": {
            "num_max": subset.num_max,
            "num_min": subset.num_min,
            "pareto_b": subset.pareto_b,
            "seed": subset.seed,
        },
        "source": {"file": data.source.name, "rows": len(data), "sha256": labels_digest(data)},
        "class_names": list(data.class_names),
        "class_counts": stats.class_counts.tolist(),
        "thresholds": list(thresholds),
        "groups": {group: names[members].tolist() for group, members in stats.groups.items()},
        "reference": subset.reference.tolist(),
        "order": subset.order.tolist(),
        "notes": list(subset.notes),
        "indices": subset.indices.tolist(),
        "images": list(rows.names),
        "labels": [names[classes].tolist() for classes in classes_by_row(rows.targets)],
        "unknown": {
            str(index): names[classes].tolist()
            for index, classes in enumerate(classes_by_row(rows.targets, UNKNOWN))
            if len(classes)
        },
        "history": subset.history.tolist(),
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")


def read_manifest(path: str | Path) -> Manifest:
    """Read a file written by :func:`write_manifest`.

    Raises:
        InputError: the file cannot be read, is no manifest, or contradicts itself.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"cannot read the manifest {path}: {error}") from error
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise InputError(f'{path} is not a manifest of a long-tailed subset: no "format": "{_FORMAT}" in it')
    try:
        manifest = _parse_manifest(record)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a whole manifest ({error!r}); build it again") from error
    if not np.array_equal(manifest.stats.class_counts, manifest.subset.counts):
        raise InputError(f"{path}: its labels and its class counts disagree; build it again")
    return manifest


def write_csv(path: str | Path, splits: Mapping[str, Dataset], *, separator: str = "|") -> None:
    """Write labelled images as one CSV file with a column ``split``, which :func:`tailwise.data.read` reads again.

    Labels are listed in a column ``labels``, and in another ``unknown`` where some are. Classes without a label in
    any row, and the order of the classes, are not in the file. Groups of rows are in a column ``group``, where all
    splits have them. Image references are written as they are: read the file with the ``root`` of the data.

    Args:
        path: the file to write.
        splits: the rows of each split, such as ``{"train": pool.subset(subset.indices), "test": test}``.
        separator: text between two labels.

    Raises:
        InputError: the splits have different classes or roots, an image is in two of them, or a class name cannot
            be written.
    """
    parts = list(splits.values())
    if not parts:
        raise InputError("splits must name at least one split")
    names = parts[0].class_names
    if any(part.class_names != names or part.root != parts[0].root for part in parts):
        raise InputError(f"the splits {', '.join(splits)} must have the same classes and the same root")
    image, count = Counter(image for part in parts for image in part.names).most_common(1)[0]
    if count > 1:
        raise InputError(f"image {image!r} is in the splits {count} times; an image has one row, in one split")
    for name in names:
        if separator in name:
            raise InputError(f"class {name!r} holds the separator {separator!r}; give another separator")
    lists = {"labels": 1} | ({"unknown": UNKNOWN} if any(has_unknown(part.targets) for part in parts) else {})
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        has_groups = all(part.groups is not None for part in parts)
        writer.writerow(["image", "split", *lists, *[GROUP_COLUMN] * has_groups])
        for split, part in splits.items():
            cells = [
                [separator.join(names[k] for k in classes) for classes in classes_by_row(part.targets, value)]
                for value in lists.values()
            ]
            groups = [part.groups or ()] * has_groups
            writer.writerows(zip(part.names, [split] * len(part), *cells, *groups, strict=True))


def _head_to_tail(stats: LabelStats) -> NDArray[np.intp]:
    pairs = stats.cooccurrence
    assert pairs is not None
    # A class without rows has a row of zeros: any divisor but zero leaves it out of the sums.
    conditional = pairs / np.maximum(stats.class_counts, 1)[:, None]
    return np.argsort(-conditional.sum(axis=0), kind="stable")


def _visit(
    targets: Targets,
    order: NDArray[np.intp],
    reference: NDArray[np.int64],
    generator: np.random.Generator,
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Visit each class once; return (N,) whether each row is chosen, and the (K + 1, K) history of counts."""
    rows_of = rows_by_class(targets)
    chosen = np.zeros(targets.shape[0], dtype=bool)
    history = np.zeros((len(order) + 1, len(order)), dtype=np.int64)
    for step, k in enumerate(order):
        surplus = int(history[step, k] - reference[k])
        candidates = rows_of[k][chosen[rows_of[k]] == (surplus > 0)]
        # Sorted uniform keys: the doubles of PCG64 never change, while NumPy may change how `choice` uses them.
        keys = generator.random(len(candidates))
        moved = candidates[np.argsort(keys, kind="stable")[: abs(surplus)]]
        chosen[moved] = surplus < 0
        history[step + 1] = history[step] - np.sign(surplus) * count_positives(targets[moved])
    return chosen, history


def _notes(
    stats: LabelStats, order: NDArray[np.intp], reference: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[str, ...]:
    notes = []
    for k in order:
        name, available, wanted = stats.class_names[k], int(stats.class_counts[k]), int(reference[k])
        if available == 0:
            notes.append(f"class {name!r} has no image: {wanted} were wanted, and the subset has none")
        elif available < wanted:
            notes.append(f"class {name!r} has {available} images where {wanted} were wanted; it gave all it has")
        elif counts[k] == 0:
            notes.append(f"class {name!r} lost its {wanted} images again when later classes were cut down")
    return tuple(notes)


def _parse_manifest(record: Mapping[str, Any]) -> Manifest:
    names = record["class_names"]
    position = {name: index for index, name in enumerate(names)}
    indices = np.array(record["indices"], dtype=np.intp)
    positive = [(row, position[label]) for row, labels in enumerate(record["labels"]) for label in labels]
    unknown = [(int(row), position[label]) for row, labels in record["unknown"].items() for label in labels]
    if not len(indices) == len(record["images"]) == len(record["labels"]):
        raise ValueError("indices, images and labels differ in length")
    places = [np.array(pairs, dtype=np.int64).reshape(-1, 2).T for pairs in (positive, unknown)]
    targets = from_indices(places[0], places[1], (len(indices), len(names)))
    subset = LongTailSubset(
        indices=indices,
        reference=np.array(record["reference"], dtype=np.int64),
        order=np.array(record["order"], dtype=np.intp),
        history=np.array(record["history"], dtype=np.int64),
        notes=tuple(record["notes"]),
        **record["parameters"],
    )
    return Manifest(
        subset=subset,
        images=tuple(record["images"]),
        targets=targets,
        stats=LabelStats.from_targets(targets, names, tuple(record["thresholds"])),
        source_sha256=record["source"]["sha256"],
    )
