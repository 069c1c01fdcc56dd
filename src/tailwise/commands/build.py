"""Command ``tailwise build``: long-tailed training sets, chosen from labelled images or published."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tailwise.commands.output import DownloadOptions, require_new, writing
from tailwise.data.dataset import Dataset
from tailwise.data.reading import ReadOptions, read
from tailwise.data.row_groups import tell_of_shared_groups
from tailwise.errors import InputError
from tailwise.labels import LabelStats
from tailwise.options import Role, names_of, option, refuse

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options(ReadOptions, DownloadOptions):
    """Options of the builder."""

    data: str = option(Role.PLACE)
    """File of labels (CSV, Parquet, JSON lines, COCO), folder of a data set, or hf:owner/name; the images need not
    exist. Or voc-mlt or coco-mlt for the published training set, whose images are downloaded into --root."""
    output: str | None = option(Role.DISPLAY, None, first=True)
    """CSV file to write. By default long-tail.csv, voc-mlt.csv or coco-mlt.csv. A .json file of the same name gets
    class names, counts, and how they were chosen."""
    num_max: int = option(Role.METHOD, 800, first=True, at_least=1, at_most=10**12)
    """Positives of the most frequent class."""
    num_min: int = option(Role.METHOD, 1, first=True, at_least=1, at_most=10**12)
    """Fewest positives of a class."""
    pareto_b: float = option(Role.METHOD, 6.0, first=True, at_least=0.01, at_most=1e6)
    """Shape of the Pareto distribution that class counts follow."""
    seed: int = option(Role.METHOD, 0, first=True)
    """Seed of the random choices."""
    split: str | None = option(Role.METHOD, None, first=True)
    """Choose from the rows of this split only. By default from all but those of --keep-split."""
    keep_split: str | None = option(Role.METHOD, None, first=True)
    """Copy the rows of this split, such as a test set, to the output."""
    quiet: bool = option(Role.DISPLAY, False, first=True)
    """Plain lines instead of progress bars."""


def run(options: Options) -> None:
    """Choose a long-tailed training set from labelled images, or get a published one."""
    from tailwise.data.benchmarks import BENCHMARKS

    is_published = options.data in BENCHMARKS
    target = Path(options.output or (f"{options.data}.csv" if is_published else "long-tail.csv"))
    if target.suffix == ".json":
        raise InputError(
            f"--output {target}: a .json file is for class names and counts; give a name that ends in .csv"
        )
    require_new(target, target.with_suffix(".json"))
    if is_published:
        _get_published(options, target)
    else:
        _choose(options, target)


def _choose(options: Options, target: Path) -> None:
    from tailwise.data.long_tail import build_long_tail, write_csv, write_manifest

    refuse(options, names_of(Options, Role.DOWNLOAD), options.data, "only voc-mlt and coco-mlt take it")
    split, keep = options.split, options.keep_split
    if split is not None and split == keep:
        raise InputError(f"--split and --keep-split are both {split!r}; training and kept rows must differ")
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
    for other, rows in kept.items():
        tell_of_shared_groups(splits[name].groups, rows.groups, names=(name, other))
    _report(target, splits, splits[name].stats())


def _get_published(options: Options, target: Path) -> None:
    from tailwise.data.benchmarks import BENCHMARKS, build_benchmark
    from tailwise.data.long_tail import write_csv

    refuse(options, names_of(Options, Role.METHOD), options.data, f"{options.data} is a published choice of images")
    if options.root is None:
        raise InputError(f"--root is needed: the folder of the images of {options.data}, which are downloaded into it")
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


def _report(target: Path, splits: Mapping[str, Dataset], stats: LabelStats) -> None:
    from tailwise.data.long_tail import GROUP_COLUMN

    groups = ", ".join(f"{len(members)} {group}" for group, members in stats.groups.items())
    sizes = ", ".join(f"{len(data)} images in split {split!r}" for split, data in splits.items())
    _logger.info("%s: %s; %d classes: %s", target, sizes, stats.num_classes, groups)
    manifest, root = target.with_suffix(".json"), next(iter(splits.values())).root
    where = "" if target.absolute().parent == root.absolute() else f" --root {root}"
    if all(data.groups is not None for data in splits.values()):
        where += f" --group-column {GROUP_COLUMN}"
    _logger.info("train with --data %s --classes %s%s", target, manifest, where)
