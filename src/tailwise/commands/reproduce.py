"""Command ``tailwise reproduce``: the papers' tables and figures."""

from __future__ import annotations

import logging
from dataclasses import KW_ONLY, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from tailwise.commands.output import MOST_RUNS, DownloadOptions
from tailwise.data.dataset import Dataset
from tailwise.data.reading import ReadOptions, read
from tailwise.errors import InputError, require_extra
from tailwise.models.model_config import ModelConfig
from tailwise.options import Role, names_of, option, refuse
from tailwise.training.config import Accelerator, HeadConfig, Mode, Precision, TrainConfig

if TYPE_CHECKING:
    from tailwise.experiments.reproduction import Experiment
    from tailwise.report.paper_figures import PaperFigure

FigureName: TypeAlias = Literal[
    "db-1a", "db-1b", "db-2", "db-3a", "db-3b", "pg-1", "pg-2", "pg-3", "pg-4", "pg-5", "all"
]

_OTHER_DATA = "photos"
# Positives of the most frequent class in the published sets.
_NUM_MAX = {"voc-mlt": 800, "coco-mlt": 1200}
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options(ReadOptions, DownloadOptions):
    """Options of a reproduction. Those of the roles data and place apply to photos only."""

    benchmark: Literal["voc-mlt", "coco-mlt", "photos"] = option(Role.METHOD)
    """Published data set, whose missing images are downloaded into --root. Or photos, to run the same on your data."""
    _: KW_ONLY
    root: str | None = option(Role.MACHINE, None, first=True)
    """Folder of the images. Published ones are downloaded into it where they are missing."""
    table: Literal[2, 3, 4, 5, "all"] | None = option(Role.METHOD, None, first=True)
    """Table to run, by its number in the paper of PG. With neither table nor figure, everything is run."""
    figure: FigureName | None = option(Role.METHOD, None, first=True)
    """Figure to draw: db-... of the supplement of DB, pg-... of the paper of PG."""
    output: str | None = option(Role.DISPLAY, None, first=True)
    """Folder of runs, tables and figures. By default reproduce-voc-mlt and so on. Finished runs in it are not
    repeated."""
    data: str = option(Role.DATA, "labels.csv", first=True)
    """For photos: labels, in any of the formats."""
    train_split: str = option(Role.DATA, "train")
    """For photos: the training split."""
    test_split: str = option(Role.DATA, "test")
    """For photos: the test split."""
    pool_split: str | None = option(Role.DATA, None)
    """For photos: split that db-1b chooses a long-tailed subset from. By default all but the test split."""
    num_max: int = option(Role.DATA, 800, at_least=1)
    """For photos: positives of the most frequent class in db-1a and db-1b."""
    recipe: Literal["voc-mlt", "coco-mlt"] = option(Role.DATA, "voc-mlt", first=True)
    """For photos: the data set whose tables and loss options are taken."""
    seeds: int = option(Role.PROTOCOL, 3, first=True, at_least=1, at_most=MOST_RUNS)
    """Runs of each method."""
    workers: int = option(Role.MACHINE, 1, first=True, at_least=1, at_most=MOST_RUNS)
    """Runs at a time."""
    mode: Mode = option(Role.PROTOCOL, "finetune", first=True)
    """Train the network as published (finetune), or neck and classifier on features of the frozen backbone (probe)."""
    epochs: int | None = option(Role.PROTOCOL, None, first=True, at_least=1, at_most=MOST_RUNS)
    """Epochs with class-aware sampling instead of the recipe's 8. Methods without re-sampling have ten times as many,
    and the warm-up is shorter in proportion."""
    thresholds: tuple[int, int] = option(Role.PROTOCOL, (20, 100))
    """Training counts that separate tail from medium and medium from head classes."""
    image_size: int = option(Role.PROTOCOL, 224)
    """Side of the square images that the network sees, in pixels."""
    batch_size: int = option(Role.PROTOCOL, 32)
    """Images per step."""
    precision: Precision = option(Role.PROTOCOL, "fp32")
    """Floating-point type of the network."""
    model: ModelConfig = option(Role.METHOD, factory=ModelConfig)
    """The network."""
    losses: tuple[str, ...] = option(Role.METHOD, ("bce", "ntr", "focal"))
    """Losses whose gradients pg-2 shows."""
    figure_formats: tuple[Literal["png", "svg", "pdf"], ...] = option(Role.DISPLAY, ("png", "svg", "pdf"))
    """File formats of the figures."""
    accelerator: Accelerator = option(Role.DEVICE, "auto")
    """What to compute on. By default the accelerator that there is."""
    num_workers: int = option(Role.MACHINE, 0)
    """Processes that load images ahead of training. With 0, a thread loads them ahead on a GPU, and a CPU loads them
    between steps."""
    quiet: bool = option(Role.DISPLAY, False)
    """Plain lines instead of progress bars."""


def run(options: Options) -> None:
    """Run the papers' tables and figures again, next to the published numbers."""
    from rich.console import Console

    _check(options)
    everything = options.table is None and options.figure is None
    draws = everything or options.figure is not None
    if draws:
        # Checked before the runs, which take long.
        require_extra("drawing figures, which --table all leaves out," if everything else "--figure", "figures")
    from tailwise.experiments.published import TABLES
    from tailwise.report.results_tables import published_table
    from tailwise.report.tables import write_table
    from tailwise.training.folder import make_output

    numbers = TABLES if everything or options.table == "all" else () if options.table is None else (options.table,)
    figures = _figures(options.figure or "all") if draws else {}
    output = Path(options.output or f"reproduce-{options.benchmark}")
    make_output(output)
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
    if not options.losses:
        raise InputError("--losses names no loss; give at least one, such as bce")
    if options.benchmark == _OTHER_DATA:
        of_benchmarks = names_of(Options, Role.DOWNLOAD)
        refuse(options, of_benchmarks, options.benchmark, "only voc-mlt and coco-mlt take it")
        return
    of_other_data = names_of(Options, Role.DATA, Role.PLACE)
    refuse(options, of_other_data, options.benchmark, "the data and how they are read are published")
    if options.root is None:
        raise InputError(
            f"--root is needed: the folder of the images of {options.benchmark}, which are downloaded into it"
        )


def _experiment(options: Options, output: Path) -> Experiment:
    from tailwise.experiments.reproduction import Experiment, shortened
    from tailwise.training.inputs import with_division

    own = {entry.name for entry in fields(options)}
    given = {entry.name: getattr(options, entry.name) for entry in fields(TrainConfig) if entry.name in own}
    # The published heads were trained by steps.
    head = HeadConfig(solver="sgd")
    shared = TrainConfig(**{**given, "output": str(output), "optim": shortened(options.epochs), "head": head})
    if options.benchmark == _OTHER_DATA:
        shared, labels = with_division(shared, read(options.data, options))
        is_published, num_max, pool = False, options.num_max, partial(_other_pool, options, labels)
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


def _other_pool(options: Options, labels: Dataset) -> Dataset:
    if options.pool_split is not None:
        return labels.select(options.pool_split)
    return labels.subset([split != options.test_split for split in labels.splits])
