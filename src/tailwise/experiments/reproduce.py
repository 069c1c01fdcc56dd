"""The papers' tables, run again: each row is trained over several seeds and set beside what is published for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tailwise.data.dataset import Dataset
from tailwise.experiments.methods import Method, Row, run_methods
from tailwise.experiments.published import GROUPS, PublishedRow, PublishedTable, published_table
from tailwise.experiments.results_table import ResultsRow, ResultsTable
from tailwise.losses import RecipeName
from tailwise.training.config import OptimConfig, TrainConfig, changes

RECIPE_SEEDS = 3
"""Fewest runs of a method whose mean and deviation are worth a table."""

_RECIPE_EPOCHS = 8
_UNIFORM_PER_CLASS_AWARE = 10
# What says which data are read and where a run shows itself, not how it is trained.
_NOT_OF_THE_RECIPE = frozenset(
    {"data", "output", "recipe", "train_split", "test_split", "format", "classes", "root", "separator", "difficult"}
    | {"split_ratios", "split_seed", "split_file", "on_error", "accelerator"}
)
_LABEL_EMBEDDINGS = ("model.label_embeddings", "model.label_words")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    """What the tables and figures are run on, and how.

    Attributes:
        data_name: what tables call the data.
        recipe: the data set whose tables and loss options are taken.
        is_published: whether the data are those that the published numbers are about.
        shared: what all runs share; its output folder holds them.
        seeds: seeds of each method.
        workers: runs at a time.
        epochs: epochs with the class-aware sampler; None for the recipe's 8.
        pool: reads the labels that a long-tailed subset is chosen from.
        num_max: reference count of the most frequent class of that subset.
        losses: losses whose gradients are drawn.
    """

    data_name: str
    recipe: RecipeName
    is_published: bool
    shared: TrainConfig
    seeds: Sequence[int]
    workers: int
    epochs: int | None
    pool: Callable[[], Dataset]
    num_max: int
    losses: Sequence[str]

    def method(self, row: PublishedRow) -> Method:
        """The method of a published row, as it is trained here.

        On the published data it has the learning rate and warm-up of its paper; on others all have those of DB.
        """
        own = row.optim if self.is_published else {}
        return self.scheduled(row.method.tried({"optim": own}) if own else row.method)

    def scheduled(self, method: Method) -> Method:
        """The method with this experiment's number of epochs: ten times as many without re-sampling, as published."""
        if self.epochs is None:
            return method
        uniform = method.options.get("sampler") == "uniform"
        return method.tried({"optim": {"epochs": self.epochs * (_UNIFORM_PER_CLASS_AWARE if uniform else 1)}})

    def table(self, number: int) -> PublishedTable:
        """A published table."""
        return published_table(self.recipe, number)

    def rows(self, number: int) -> tuple[PublishedRow, ...]:
        """The rows of a table that are shown: on other data than the published, one for each method."""
        rows = self.table(number).rows
        if self.is_published:
            return rows
        return tuple({row.method.name: row for row in reversed(rows)}.values())[::-1]

    def methods(self, number: int) -> list[Method]:
        """The methods of a table."""
        return [self.method(row) for row in self.rows(number)]

    def folder(self, method: Method, seed: int) -> Path:
        """The folder of a run."""
        return Path(method.configure(self.shared, seed).output)

    def run(self, methods: Sequence[Method]) -> dict[str, Row]:
        """Run methods, each once; finished runs are taken as they are.

        Returns:
            What was found, by name of the method.

        Raises:
            InputError: as :func:`~tailwise.experiments.methods.run_methods`.
        """
        distinct = list({method.name: method for method in methods}.values())
        # Bars of several processes would write over each other.
        shared = replace(self.shared, quiet=self.shared.quiet or self.workers > 1)
        found = {}
        for row in run_methods(shared, distinct, self.seeds, workers=self.workers):
            found[row.method] = row
            _logger.info("%s: mAP %s (%d of %d methods)", row.method, row.cell("total"), len(found), len(distinct))
        return found

    def departures(self) -> list[str]:
        """In what the runs are not the recipe, as "option value (recipe: value)"."""
        shared = self.shared
        recipe = TrainConfig(data=shared.data, output=shared.output)
        found = [
            f"{name} {_short(now)} (recipe: {_short(before)})"
            for name, before, now in changes(recipe, shared)
            # An empty mapping is no option of its own; tables say what the label embeddings are.
            if name.partition(".")[0] not in _NOT_OF_THE_RECIPE
            and before != {}
            and not name.startswith(_LABEL_EMBEDDINGS)
        ]
        if self.epochs is not None and self.epochs != _RECIPE_EPOCHS:
            found.append(
                f"epochs {self.epochs} with class-aware sampling and {self.epochs * _UNIFORM_PER_CLASS_AWARE} without "
                f"(recipe: {_RECIPE_EPOCHS} and {_RECIPE_EPOCHS * _UNIFORM_PER_CLASS_AWARE})"
            )
        if len(self.seeds) < RECIPE_SEEDS:
            found.append(f"{len(self.seeds)} of the {RECIPE_SEEDS} seeds that a deviation needs")
        return found

    def notes(self) -> list[str]:
        """What must be said of every result, in sentences."""
        departures = self.departures()
        runs = "one run" if len(self.seeds) == 1 else f"mean ± standard deviation over {len(self.seeds)} runs"
        notes = [f"Final epoch, {runs}; mAP in percent on the raw logits."]
        if not self.is_published:
            notes.append(
                "The data are not those of the papers, so nothing published is set beside them; the losses have their "
                f"options for {self.recipe}."
            )
        if departures:
            notes.append(f"Not the recipe: {'; '.join(departures)}.")
        return notes


def shortened(epochs: int | None) -> OptimConfig:
    """The recipe's optimizer and schedule, with a warm-up in proportion to a number of class-aware epochs."""
    if epochs is None:
        return OptimConfig()
    recipe = OptimConfig()
    return replace(recipe, warmup_steps=recipe.warmup_steps * epochs // _RECIPE_EPOCHS)


def results_table(experiment: Experiment, number: int, found: Mapping[str, Row]) -> ResultsTable:
    """A table of what was found, beside what is published about the same data.

    Args:
        experiment: the data, and how methods were run on them.
        number: number of the published table.
        found: what :meth:`Experiment.run` found, of these methods at least.
    """
    table = experiment.table(number)
    rows = [_results_row(row, found[row.method.name], experiment.is_published) for row in experiment.rows(number)]
    notes = experiment.notes()
    if any(row.method.options.get("model", {}).get("head") == "gcn" for row in experiment.rows(number)):
        notes.append(f"Label embeddings of ML-GCN: {_label_embeddings(experiment.shared)}.")
    if experiment.is_published:
        notes.append(f"Published: {table.source}; in brackets, ours minus published.")
        notes += table.notes
    return ResultsTable(f"{table.title}: {experiment.data_name}", rows, notes)


def _results_row(row: PublishedRow, runs: Row, is_published: bool) -> ResultsRow:
    if not is_published:
        return ResultsRow(row.label, runs)
    label = f"{row.label} ({row.remark})" if row.remark else row.label
    return ResultsRow(label, runs, {group: row.published(group) for group in GROUPS})


def _label_embeddings(shared: TrainConfig) -> str:
    file = shared.model.label_embeddings
    return "random orthogonal vectors of each run's seed" if file is None else f"those of {file.name}"


def _short(value: object) -> str:
    """A value as it is written in a sentence; of a file, the name."""
    if value is None:
        return "none"
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else str(value)
