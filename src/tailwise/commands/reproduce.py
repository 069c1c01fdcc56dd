"""``tailwise reproduce``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from tailwise.commands.output import require_counts
from tailwise.data.dataset import Dataset
from tailwise.data.reading import ReadOptions, read
from tailwise.errors import InputError, require_extra
from tailwise.models.model_config import ModelConfig
from tailwise.training.config import Accelerator, Mode, Precision, TrainConfig

if TYPE_CHECKING:
    from tailwise.experiments.reproduce import Experiment
    from tailwise.report.paper_figures import PaperFigure

FigureName: TypeAlias = Literal[
    "db-1a", "db-1b", "db-2", "db-3a", "db-3b", "pg-1", "pg-2", "pg-3", "pg-4", "pg-5", "all"
]

_OTHER_DATA = "photos"
_OF_OTHER_DATA = ("data", "train_split", "test_split", "pool_split", "num_max", "recipe")
_OF_BENCHMARKS = ("lists", "download")
_READING_OF_BENCHMARKS = ("root", "cache")
# What a build of the published sets starts from: the largest reference count.
_NUM_MAX = {"voc-mlt": 800, "coco-mlt": 1200}
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options(ReadOptions):
    """Options of a reproduction."""

    benchmark: Literal["voc-mlt", "coco-mlt", "photos"]
    """Published data set, whose images are downloaded into --root where they are missing; or photos, to run the same
    on data of your own."""
    table: Literal[2, 3, 4, 5, "all"] | None = None
    """Table to run, by its number in the paper of PG; with neither table nor figure, everything."""
    figure: FigureName | None = None
    """Figure to draw: db-... of the supplement of DB, pg-... of the paper of PG."""
    output: str | None = None
    """Folder of runs, tables and figures, by default reproduce-voc-mlt and so on. Finished runs in it are not done
    again."""
    data: str = "labels.csv"
    """For photos: labels, in any of the formats."""
    train_split: str = "train"
    """For photos: the training split."""
    test_split: str = "test"
    """For photos: the test split."""
    pool_split: str | None = None
    """For photos: split that db-1b chooses a long-tailed subset from; by default all but the test split."""
    num_max: int = 800
    """For photos: positives of the most frequent class in db-1a and db-1b."""
    recipe: Literal["voc-mlt", "coco-mlt"] = "voc-mlt"
    """For photos: the data set whose tables and loss options are taken."""
    seeds: int = 3
    """Runs of each method."""
    workers: int = 1
    """Runs at a time."""
    mode: Mode = "finetune"
    """Train the network as published (finetune), or neck and classifier on features of the frozen backbone (probe)."""
    epochs: int | None = None
    """Epochs with class-aware sampling instead of the recipe's 8; methods without re-sampling have ten times as many,
    and the warm-up is shorter in proportion."""
    thresholds: tuple[int, int] = (20, 100)
    """Training counts that separate tail from medium and medium from head classes."""
    image_size: int = 224
    """Side of the square images that the network sees, in pixels."""
    batch_size: int = 32
    """Images per step."""
    precision: Precision = "fp32"
    """Arithmetic of the network."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    losses: tuple[str, ...] = ("bce", "ntr", "focal")
    """Losses whose gradients pg-2 shows."""
    figure_formats: tuple[Literal["png", "svg", "pdf"], ...] = ("png", "svg", "pdf")
    """File formats of the figures."""
    lists: str | None = None
    """For voc-mlt and coco-mlt: the authors' list of images, its folder, or a copy of their repository; by default
    downloaded."""
    download: bool = True
    """For voc-mlt and coco-mlt: whether missing images may be downloaded."""
    accelerator: Accelerator = "auto"
    """What to compute on; by default whatever there is."""
    num_workers: int = 0
    """Processes that load images ahead of training; with 0, a thread does on a GPU, and a CPU loads them in between."""
    quiet: bool = False
    """Plain lines instead of progress bars."""


def run(options: Options) -> None:
    """Run the papers' tables and figures again, and set the numbers beside those published."""
    from rich.console import Console

    _check(options)
    everything = options.table is None and options.figure is None
    draws = everything or options.figure is not None
    if draws:
        # Before anything that takes long.
        require_extra("drawing figures, which --table all leaves out," if everything else "--figure", "figures")
    from tailwise.experiments.published import TABLES
    from tailwise.report.results_tables import published_table
    from tailwise.report.tables import write_table

    numbers = TABLES if everything or options.table == "all" else () if options.table is None else (options.table,)
    figures = _figures(options.figure or "all") if draws else {}
    output = _output(options)
    experiment = _experiment(options, output)
    departures = experiment.departures()
    if departures:
        _logger.info("not the recipe: %s", "; ".join(departures))
    methods = [method for number in numbers for method in experiment.methods(number)]
    methods += [method for figure in figures.values() for method in figure.methods(experiment)]
    found = experiment.run(methods)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for number in numbers:
        table = published_table(experiment, number, found)
        console.print(table.caption, table.to_rich(title=False), *table.notes, sep="\n")
        for file in write_table(table, output / f"table{number}"):
            _logger.info("table: %s", file)
    for name, figure in figures.items():
        from tailwise.report.figures import save_figure

        description = " ".join([f"{figure.caption}: {experiment.data_name}.", *experiment.notes()])
        drawn = figure.draw(experiment, found)
        for file in save_figure(drawn, output / name, options.figure_formats, description):
            _logger.info("figure: %s", file)


def _figures(name: FigureName) -> dict[str, PaperFigure]:
    """The figures asked for, by name."""
    from tailwise.report.paper_figures import FIGURES

    return dict(FIGURES) if name == "all" else {name: FIGURES[name]}


def _check(options: Options) -> None:
    """Refuse options that are out of range, and those that would have no effect.

    Raises:
        InputError: one is given.
    """
    require_counts(seeds=options.seeds, workers=options.workers, epochs=options.epochs)
    if not options.losses:
        raise InputError("--losses names no loss; give at least one, such as bce")
    if options.num_max < 1:
        raise InputError(f"num_max must be at least 1, got {options.num_max}")
    if options.benchmark == _OTHER_DATA:
        _refuse(options, _OF_BENCHMARKS, "only voc-mlt and coco-mlt take it")
        return
    reading = [entry.name for entry in fields(ReadOptions) if entry.name not in _READING_OF_BENCHMARKS]
    _refuse(options, [*_OF_OTHER_DATA, *reading], "the data and how they are read are published")
    if options.root is None:
        raise InputError(f"--root is needed: the folder where the images of {options.benchmark} are, or are to be put")


def _refuse(options: Options, names: Sequence[str], reason: str) -> None:
    defaults = {entry.name: entry.default for entry in fields(Options)}
    for name in names:
        if getattr(options, name) != defaults[name]:
            raise InputError(f"--{name} does not apply to {options.benchmark}: {reason}")


def _output(options: Options) -> Path:
    """The output folder, made if absent."""
    output = Path(options.output or f"reproduce-{options.benchmark}")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {output} cannot be made: {error.strerror}") from error
    return output


def _experiment(options: Options, output: Path) -> Experiment:
    from tailwise.experiments.reproduce import Experiment, shortened
    from tailwise.training.inputs import with_division

    shared = TrainConfig(
        **{entry.name: getattr(options, entry.name) for entry in fields(ReadOptions)},
        data=options.data,
        output=str(output),
        recipe=options.recipe,
        mode=options.mode,
        train_split=options.train_split,
        test_split=options.test_split,
        thresholds=options.thresholds,
        image_size=options.image_size,
        batch_size=options.batch_size,
        precision=options.precision,
        model=options.model,
        optim=shortened(options.epochs),
        accelerator=options.accelerator,
        num_workers=options.num_workers,
        quiet=options.quiet,
    )
    if options.benchmark == _OTHER_DATA:
        shared = with_division(shared, read(options.data, options))[0]
        is_published, num_max, pool = False, options.num_max, partial(_other_pool, options, shared)
    else:
        is_published, num_max, pool = True, _NUM_MAX[options.benchmark], partial(_published_pool, options)
        shared = _with_published_data(options, shared, output)
    return Experiment(
        data_name=f"photos ({Path(options.data).name})" if not is_published else options.benchmark.upper(),
        recipe=shared.recipe or options.recipe,
        is_published=is_published,
        shared=shared,
        seeds=range(options.seeds),
        workers=options.workers,
        epochs=options.epochs,
        pool=pool,
        num_max=num_max,
        losses=options.losses,
    )


def _with_published_data(options: Options, shared: TrainConfig, output: Path) -> TrainConfig:
    """Get and verify the images of a benchmark, and train on them with its recipe."""
    from tailwise.data.benchmarks import BENCHMARKS, build_benchmark
    from tailwise.data.long_tail import write_csv

    assert options.benchmark != "photos"
    assert options.root is not None
    built = build_benchmark(
        BENCHMARKS[options.benchmark],
        options.root,
        lists=options.lists,
        download=options.download,
        progress=not options.quiet,
    )
    labels = output / f"{options.benchmark}.csv"
    write_csv(labels, {"train": built.train, "test": built.test})
    built.stats.save(labels.with_suffix(".json"))
    return replace(
        shared, data=str(labels), classes=str(labels.with_suffix(".json")), recipe=options.benchmark, format="csv"
    )


def _published_pool(options: Options) -> Dataset:
    from tailwise.data.benchmarks import BENCHMARKS, read_pool

    assert options.root is not None
    return read_pool(BENCHMARKS[options.benchmark], options.root, download=options.download, progress=not options.quiet)


def _other_pool(options: Options, shared: TrainConfig) -> Dataset:
    labels = read(shared.data, shared)
    if options.pool_split is not None:
        return labels.select(options.pool_split)
    return labels.subset([split != options.test_split for split in labels.splits])
