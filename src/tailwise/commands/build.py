"""``tailwise build``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from tailwise.commands.output import require_new
from tailwise.data.sources.formats import ReadOptions, read_labels
from tailwise.data.sources.labeled import LabeledImages
from tailwise.errors import InputError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options(ReadOptions):
    """Options of the builder."""

    data: str
    """File of labels (CSV, Parquet, JSON lines, COCO), folder of a data set, or hf:owner/name. Images need not be
    there."""
    output: str = "long-tail.csv"
    """CSV file to write; the manifest has the same name with the ending .json."""
    num_max: int = 800
    """Positives of the most frequent class."""
    num_min: int = 1
    """Fewest positives of a class."""
    pareto_b: float = 6.0
    """Shape of the Pareto distribution that class counts follow."""
    seed: int = 0
    """Seed of the random choices."""
    split: str | None = None
    """Choose from the rows of this split only; by default from all but those of keep_split."""
    keep_split: str | None = None
    """Copy the rows of this split, such as a test set, to the output."""


def run(options: Options) -> None:
    """Choose a long-tailed training set from labelled images."""
    target = Path(options.output)
    manifest = target.with_suffix(".json")
    require_new(target, manifest)
    _build(options, target, manifest)


def _build(options: Options, target: Path, manifest: Path) -> None:
    from tailwise.data.build import build_long_tail, write_csv, write_manifest

    split, keep = options.split, options.keep_split
    if split is not None and split == keep:
        raise InputError(f"split and keep_split are both {split!r}; training and kept rows must differ")
    data = read_labels(options.data, options)
    kept = {} if keep is None else {keep: data.select(keep)}
    name = "train" if keep != "train" else "train_lt"
    pool = data.select(split) if split is not None else data.subset([row_split != keep for row_split in data.splits])
    chosen = build_long_tail(
        pool.targets,
        pool.class_names,
        num_max=options.num_max,
        num_min=options.num_min,
        pareto_b=options.pareto_b,
        seed=options.seed,
    )
    training = pool.subset(chosen.indices)
    write_csv(target, {name: training} | kept, separator=options.separator)
    write_manifest(manifest, chosen, pool)
    for note in chosen.notes:
        _logger.warning("%s", note)
    groups = ", ".join(f"{len(members)} {group}" for group, members in training.stats().groups.items())
    _logger.info("%s: %d training images in split %r (classes: %s)", target, len(training), name, groups)
    _logger.info("%s: parameters, class counts and history", manifest)
    _logger.info("train with --data %s --classes %s%s", target, manifest, _root_option(data, target))


def _root_option(data: LabeledImages, target: Path) -> str:
    return "" if target.absolute().parent == data.root.absolute() else f" --root {data.root}"
