"""``tailwise compare``."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from tailwise.commands.output import require_counts
from tailwise.data.reading import read
from tailwise.training.config import Mode, TrainConfig

NO_OPTIONS = (
    *("loss", "loss_options", "sampler", "seed", "val_split", "val_folds", "val_fold", "resume", "devices"),
    *("num_nodes", "keep_backbone"),
)
"""Fields of a run that the methods set, or the comparison itself."""

_SEEDS = {"probe": 5, "finetune": 3}
_FOLDS = {"probe": 5, "finetune": 0}
_DEFAULT_SPLIT = "train"
_NO_BASELINE = "none"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options(TrainConfig):
    """Options of a comparison: what its runs share, and how methods are compared."""

    data: str
    """File of labels (CSV, Parquet, JSON lines, COCO), folder of a data set, hf:owner/name, or "digits"."""
    output: str = "comparison"
    """Folder of the comparison; the same command goes on with one that is there."""
    methods: list[str] | str | None = None
    """What to compare, separated by commas: names, each with @SAMPLER for another sampler, YAML files of a method or a
    loss, and losses package.module:Loss; "all" for every loss of the library, their parts and ML-GCN; by default
    bce@uniform,bce,focal,rw,asl,db-focal,pg,pg-auto."""
    mode: Mode = "probe"
    """Train neck and classifier on features of the frozen backbone (probe), or the network (finetune)."""
    recipe: Literal["voc-mlt", "coco-mlt"] | None = "coco-mlt"
    """Take the loss options published for this data set, the milder ones by default; null for the losses' own."""
    seeds: int | None = None
    """Runs of each method that are tested; by default 5 in probe mode and 3 in finetune mode."""
    folds: int | None = None
    """Parts of the training split that are held out in turn, for choosing among methods; 0 chooses on the test split.
    By default 5 in probe mode and 0 in finetune mode."""
    baseline: str | None = None
    """Method that the others are also compared with, or "none"; by default bce@uniform if it is among them."""
    search: bool = False
    """First try a few values of each method's own options on the folds."""
    replicates: int = 1000
    """Bootstrap replicates."""
    level: float = 0.95
    """Probability that intervals are made for."""
    workers: int | None = None
    """Runs at a time; by default one for each core, or one for the GPU in finetune mode."""


def run(options: Options) -> None:
    """Compare methods on one data set, and recommend one."""
    from rich.console import Console

    from tailwise.experiments.compare import compare
    from tailwise.experiments.methods import BASELINE, DEFAULT_METHODS, find_methods
    from tailwise.experiments.plan import Plan
    from tailwise.report.summary import publish

    require_counts(seeds=options.seeds, workers=options.workers)
    given = options.methods if options.methods is not None else list(DEFAULT_METHODS)
    methods = find_methods(given.split(",") if isinstance(given, str) else given)
    baseline = options.baseline
    if baseline is None and BASELINE in (method.name for method in methods):
        baseline = BASELINE
    shared = _shared(options)
    plan = Plan(
        folder=Path(options.output).absolute(),
        shared=shared,
        methods=methods,
        seeds=tuple(range(_SEEDS[options.mode] if options.seeds is None else options.seeds)),
        folds=_FOLDS[options.mode] if options.folds is None else options.folds,
        baseline=None if baseline == _NO_BASELINE else baseline,
        replicates=options.replicates,
        level=options.level,
        search=options.search,
    )
    publish(compare(plan, workers=options.workers), Console())


def _shared(options: Options) -> TrainConfig:
    """What all runs have in common."""
    shared = TrainConfig(**{entry.name: getattr(options, entry.name) for entry in fields(TrainConfig)})
    if shared.train_split != _DEFAULT_SPLIT:
        return shared
    splits = set(read(shared.data, shared).splits)
    near = [name for name in splits if name.startswith(_DEFAULT_SPLIT)]
    if _DEFAULT_SPLIT in splits or len(near) != 1:
        return shared
    _logger.info("there is no split %r: training on split %r", _DEFAULT_SPLIT, near[0])
    return replace(shared, train_split=near[0])
