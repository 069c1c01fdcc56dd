"""Command ``tailwise compare``: comparisons of losses and samplers."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tailwise.commands.output import MOST_RUNS, publish
from tailwise.data.reading import read
from tailwise.options import Role, names_of, option
from tailwise.training.config import Mode, TrainConfig
from tailwise.training.resolution import resolve

if TYPE_CHECKING:
    from tailwise.experiments.plan import Plan
NO_OPTIONS = names_of(TrainConfig, of_one_run=True)
"""Options of a run that the methods or the comparison set."""

_SEEDS = {"probe": 5, "finetune": 3}
_FOLDS = {"probe": 5, "finetune": 0}
_DEFAULT_SPLIT = "train"
_NO_BASELINE = "none"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options(TrainConfig):
    """Options of a comparison: those that its runs share, and those of the comparison itself."""

    data: str = option(Role.PLACE)
    """File of labels (CSV, Parquet, JSON lines, COCO, .npz), folder of a data set, hf:owner/name, or "digits"."""
    output: str = option(Role.DISPLAY, "comparison", first=True)
    """Folder of the comparison. The same command continues one that is there."""
    methods: list[str] | str | None = option(Role.METHOD, None, first=True)
    """Methods to compare, separated by commas. They are names, each with @SAMPLER for another sampler, YAML files of a
    method or a loss, and losses package.module:Loss. "all" compares every loss of the library, their parts and ML-GCN.
    "ridge", "logistic" and averages such as ridge+asl are methods of exact heads. By default one of each kind."""
    mode: Mode = option(Role.PROTOCOL, "probe", first=True)
    """Train a head on frozen features (probe), or the whole network (finetune)."""
    recipe: Literal["voc-mlt", "coco-mlt"] | None = option(Role.METHOD, "coco-mlt")
    """Take the loss options published for this data set. The default has the milder ones; null is for those of the
    losses themselves."""
    seeds: int | None = option(Role.PROTOCOL, None, first=True, at_least=1, at_most=MOST_RUNS)
    """Runs of each method that are tested. By default 5 in probe mode and 3 in finetune mode; 1 of an exact head, which
    nothing random decides."""
    folds: int | None = option(Role.PROTOCOL, None, first=True)
    """Parts of the training split that are held out in turn. The held-out scores choose among methods. With 0, the
    test split chooses. By default 5 in probe mode and 0 in finetune mode."""
    baseline: str | None = option(Role.METHOD, None)
    """Method that the others are also compared with, or "none". By default bce@uniform if it is among them."""
    search: bool = option(Role.METHOD, False, first=True)
    """First try a few values of each method's own options on the folds."""
    replicates: int = option(Role.PROTOCOL, 1000)
    """Bootstrap replicates."""
    level: float = option(Role.PROTOCOL, 0.95)
    """Confidence level of the intervals."""
    workers: int | None = option(Role.MACHINE, None, first=True, at_least=1, at_most=MOST_RUNS)
    """Runs at a time. By default one for each core, or one for the GPU in finetune mode."""


def run(options: Options) -> None:
    """Compare methods on one data set, and recommend one."""
    from tailwise.experiments.comparison import compare

    publish(compare(plan_of(options), workers=options.workers))


def plan_of(options: Options) -> Plan:
    """The comparison that the options describe.

    Raises:
        InputError: a method does not exist, or options do not go together.
    """
    from tailwise.experiments.methods import SOLVED, TRAINED, find_methods
    from tailwise.experiments.plan import Plan

    shared = _shared(options)
    selection = SOLVED if resolve(replace(shared, loss="bce")).is_solved else TRAINED
    given = options.methods if options.methods is not None else list(selection.default)
    methods = find_methods(given.split(",") if isinstance(given, str) else given, selection)
    baseline = options.baseline
    if baseline is None and selection.baseline in (method.name for method in methods):
        baseline = selection.baseline
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
    return replace(plan, seeds=plan.seeds[:1]) if all(map(plan.is_solved, methods)) else plan


def _shared(options: Options) -> TrainConfig:
    """The configuration that all runs share, with the only split whose name starts with "train"."""
    shared = TrainConfig(**{entry.name: getattr(options, entry.name) for entry in fields(TrainConfig)})
    if shared.train_split != _DEFAULT_SPLIT:
        return shared
    splits = set(read(shared.data, shared).splits)
    near = [name for name in splits if name.startswith(_DEFAULT_SPLIT)]
    if _DEFAULT_SPLIT in splits or len(near) != 1:
        return shared
    _logger.info("there is no split %r: training on split %r", _DEFAULT_SPLIT, near[0])
    return replace(shared, train_split=near[0])
