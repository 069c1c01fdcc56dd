"""``tailwise build``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from tailwise.commands.output import require_new, writing
from tailwise.data.dataset import Dataset
from tailwise.data.reading import ReadOptions, read
from tailwise.errors import InputError
from tailwise.labels import LabelStats

_OF_CHOICE = ("num_max", "num_min", "pareto_b", "seed", "split", "keep_split")
_OF_BENCHMARKS = ("lists", "download")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options(ReadOptions):
    """Options of the builder."""

    data: str
    """File of labels (CSV, Parquet, JSON lines, COCO), folder of a data set, or hf:owner/name, of which the images need
    not be there; or voc-mlt or coco-mlt for the published training set, of which they are downloaded into --root."""
    output: str | None = None
    """CSV file to write, by default long-tail.csv, voc-mlt.csv or coco-mlt.csv. Class names and counts, and how they
    came about, are written beside it with the ending .json."""
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
    lists: str | None = None
    """For voc-mlt and coco-mlt: the authors' list of images, its folder, or a copy of their repository; by default
    downloaded."""
    download: bool = True
    """For voc-mlt and coco-mlt: whether missing images may be downloaded."""
    quiet: bool = False
    """Plain lines instead of progress bars."""


def run(options: Options) -> None:
    """Choose a long-tailed training set from labelled images, or get a published one."""
    from tailwise.data.benchmarks import BENCHMARKS

    is_published = options.data in BENCHMARKS
    target = Path(options.output or (f"{options.data}.csv" if is_published else "long-tail.csv"))
    if target.suffix == ".json":
        raise InputError(f"--output {target}: that is where class names and counts go; give a name that ends in .csv")
    require_new(target, target.with_suffix(".json"))
    if is_published:
        _get_published(options, target)
    else:
        _choose(options, target)


def _choose(options: Options, target: Path) -> None:
    from tailwise.data.long_tail import build_long_tail, write_csv, write_manifest

    _refuse(options, _OF_BENCHMARKS, "only voc-mlt and coco-mlt take it")
    split, keep = options.split, options.keep_split
    if split is not None and split == keep:
        raise InputError(f"split and keep_split are both {split!r}; training and kept rows must differ")
    data = read(options.data, options)
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
    splits = {name: pool.subset(chosen.indices)} | kept
    with writing(target):
        write_csv(target, splits, separator=options.separator)
        write_manifest(target.with_suffix(".json"), chosen, pool)
    for note in chosen.notes:
        _logger.warning("%s", note)
    _report(target, splits, splits[name].stats())


def _get_published(options: Options, target: Path) -> None:
    from tailwise.data.benchmarks import BENCHMARKS, build_benchmark
    from tailwise.data.long_tail import write_csv

    _refuse(options, _OF_CHOICE, f"{options.data} is a published choice of images")
    if options.root is None:
        raise InputError(f"--root is needed: the folder where the images of {options.data} are, or are to be put")
    built = build_benchmark(
        BENCHMARKS[options.data],
        options.root,
        lists=options.lists,
        download=options.download,
        progress=not options.quiet,
    )
    splits = {"train": built.train, "test": built.test}
    with writing(target):
        write_csv(target, splits, separator=options.separator)
        built.stats.save(target.with_suffix(".json"))
    _report(target, splits, built.stats)


def _refuse(options: Options, names: tuple[str, ...], reason: str) -> None:
    defaults = {entry.name: entry.default for entry in fields(Options)}
    for name in names:
        if getattr(options, name) != defaults[name]:
            raise InputError(f"--{name} does not apply to {options.data}: {reason}")


def _report(target: Path, splits: Mapping[str, Dataset], stats: LabelStats) -> None:
    groups = ", ".join(f"{len(members)} {group}" for group, members in stats.groups.items())
    sizes = ", ".join(f"{len(data)} images in split {split!r}" for split, data in splits.items())
    _logger.info("%s: %s; %d classes: %s", target, sizes, stats.num_classes, groups)
    manifest, root = target.with_suffix(".json"), next(iter(splits.values())).root
    where = "" if target.absolute().parent == root.absolute() else f" --root {root}"
    _logger.info("train with --data %s --classes %s%s", target, manifest, where)
