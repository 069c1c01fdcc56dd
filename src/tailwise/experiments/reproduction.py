"""The papers' tables and figures as experiments: a comparison of the published methods on given data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tailwise.command_line import spelled
from tailwise.data.dataset import Dataset
from tailwise.experiments.comparison import compare
from tailwise.experiments.methods import Method
from tailwise.experiments.plan import Plan
from tailwise.experiments.published import PublishedRow, PublishedTable, published_table
from tailwise.experiments.results import RUNS, MethodResult
from tailwise.losses import RecipeName
from tailwise.options import Role, names_of
from tailwise.training.config import TrainConfig, changes
from tailwise.training.optim_config import PUBLISHED, OptimConfig, filled, known

RECIPE_SEEDS = 3
"""Fewest runs of a method for which tables show a mean and a deviation."""

_RECIPE_EPOCHS = 8
_UNIFORM_PER_CLASS_AWARE = 10
# Data, folders and devices are no part of the recipe.
_NOT_OF_THE_RECIPE = names_of(TrainConfig, Role.PLACE, Role.DATA, Role.DEVICE)
_LABEL_EMBEDDINGS = ("model.label_embeddings", "model.label_words")


@dataclass(frozen=True)
class Experiment:
    """Data and settings of tables and figures.

    Attributes:
        data_name: name of the data in tables.
        recipe: the data set whose tables and loss options are taken.
        is_published: whether the data are those of the published numbers.
        shared: the configuration that all runs share; its output is the folder of the comparison.
        seeds: seeds of each method.
        workers: runs in parallel.
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
        return Path(self.shared.output) / RUNS / method.name / f"seed{seed}"

    def run(self, methods: Sequence[Method]) -> dict[str, MethodResult]:
        """Compare methods, each once; finished runs are not repeated.

        Returns:
            Results by name of the method; empty without methods.

        Raises:
            InputError: as :func:`~tailwise.experiments.comparison.compare`.
        """
        distinct = {method.name: method for method in methods}.values()
        if not distinct:
            return {}
        plan = Plan(
            folder=Path(self.shared.output).absolute(),
            shared=self.shared,
            methods=tuple(distinct),
            seeds=tuple(self.seeds),
            folds=0,
            holds_more=True,
        )
        return {result.name: result for result in compare(plan, workers=self.workers).methods}

    def departures(self) -> list[str]:
        """Options in which the runs differ from the recipe, as "--option value (recipe: value)"."""
        shared = replace(self.shared, optim=filled(self.shared.optim, PUBLISHED))
        recipe = TrainConfig(
            data=shared.data, output=shared.output, recipe=shared.recipe, optim=shortened(None), head=shared.head
        )
        found = [
            f"{spelled(name, TrainConfig)} {_short(now)} (recipe: {_short(before)})"
            for name, before, now in changes(recipe, shared)
            # An empty mapping is no option of its own; notes of tables name the label embeddings.
            if name.partition(".")[0] not in _NOT_OF_THE_RECIPE
            and before != {}
            and not name.startswith(_LABEL_EMBEDDINGS)
        ]
        if self.epochs is not None and self.epochs != _RECIPE_EPOCHS:
            found.append(
                f"--epochs {self.epochs} with class-aware sampling and {self.epochs * _UNIFORM_PER_CLASS_AWARE} "
                f"without (recipe: {_RECIPE_EPOCHS} and {_RECIPE_EPOCHS * _UNIFORM_PER_CLASS_AWARE})"
            )
        if len(self.seeds) < RECIPE_SEEDS:
            found.append(f"{len(self.seeds)} of the {RECIPE_SEEDS} seeds that a deviation needs")
        return found

    def notes(self) -> list[str]:
        """Sentences that belong to every result."""
        departures = self.departures()
        runs = "one run" if len(self.seeds) == 1 else f"mean ± standard deviation over {len(self.seeds)} runs"
        notes = [f"Final epoch, {runs}; mAP in percent on the raw logits."]
        if not self.is_published:
            notes.append(
                "The data are not those of the papers, so no published numbers are shown; the losses have their "
                f"options for {self.recipe}."
            )
        if departures:
            notes.append(f"Not the recipe: {'; '.join(departures)}.")
        return notes

    @property
    def label_embeddings(self) -> str:
        """The label embeddings of ML-GCN, in words."""
        file = self.shared.model.label_embeddings
        return "random orthogonal vectors of each run's seed" if file is None else f"those of {file.name}"


def shortened(epochs: int | None) -> OptimConfig:
    """The recipe's optimizer and schedule, with a warm-up in proportion to a number of class-aware epochs."""
    recipe = OptimConfig(**PUBLISHED)
    if epochs is None:
        return recipe
    return replace(recipe, warmup_steps=known(recipe.warmup_steps) * epochs // _RECIPE_EPOCHS)


def _short(value: object) -> str:
    """A value in a sentence: of a file, the name."""
    if value is None:
        return "none"
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else str(value)
