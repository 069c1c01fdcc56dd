"""Results on a folder of real photographs: ``python -m benchmarks.photos COMMAND PHOTOS WEIGHTS``.

PHOTOS holds labels.csv (splits train_lt and test) and classes.json, WEIGHTS is a file of mobilenetv2_100 with
``pad_type="same"``. ``heads`` compares heads, ``schedules`` lengths of training. ``choose`` prints how PG's raised
factors do on held-out training images, which is how the recipes' values were chosen, and ``parts`` what each part of PG
adds there; neither opens the test split. All losses side by side are what ``tailwise compare`` shows.
Finished runs are kept below --output, so a command that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import csv
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
from jsonargparse import auto_cli

from tailwise.data import read
from tailwise.data.dataset import Dataset
from tailwise.experiments.comparison import compare
from tailwise.experiments.methods import Method
from tailwise.experiments.plan import Plan
from tailwise.losses import RecipeName
from tailwise.models.model_config import ModelConfig
from tailwise.report.tables import Column, Table, best_cells
from tailwise.training.config import OptimConfig, TrainConfig


class Row(NamedTuple):
    """A method with the mAP of its runs in percent, by group."""

    method: str
    scores: Mapping[str, Sequence[float | None]]


HEADS = {
    "linear": {},
    "linear-no-neck": {"model": {"neck": "none"}},
    "ml-gcn": {"model": {"head": "gcn"}},
    "ml-gcn-neck": {"model": {"head": "gcn", "neck": "recipe"}},
}
HEAD_METHODS = tuple(
    Method(f"{head}-{sampler}", {"loss": "bce", "sampler": sampler, **options})
    for sampler in ("class-aware", "uniform")
    for head, options in HEADS.items()
)

SCHEDULED_METHODS = (
    *(Method(name, {"loss": name}) for name in ("bce", "focal", "db", "db-focal")),
    Method("apr", {"loss": "pr", "loss_options": {"adaptive": ["neg_slope"]}}),
    Method("pg", {"loss": "pg"}),
)
# Without what the voc-mlt recipe raises: λ₁⁻ and λ₂⁺ of tail classes.
NOT_RAISED: dict[str, Any] = {"neg_slope": 5.0, "pos_divisor": 1.0}
APR: dict[str, Any] = {**NOT_RAISED, "adaptive": ["neg_slope"]}
PARTS = {
    "db": ("db", {}),
    "db-focal": ("db-focal", {}),
    "db-focal, plain": ("pg", {**NOT_RAISED, "adaptive": [], "exponent": "fixed", "focal_on": "plain"}),
    "λ₁⁻ adaptive, tail": ("pr", {**NOT_RAISED, "adaptive": {"neg_slope": "tail"}}),
    "λ₁⁻ adaptive, all": ("pr", APR),
    "λ₁⁻ adaptive, tail, raised": ("pr", {"adaptive": {"neg_slope": "tail"}}),
    "λ₁⁻ adaptive, all, raised": ("pr", {"adaptive": ["neg_slope"]}),
    "λ₁⁻ adaptive, all, with focal": ("pg", {**APR, "exponent": "fixed"}),
    "λ₁⁻ adaptive, all, with apaf": ("pg", APR),
    "with apaf, γ at most 2": ("pg", {**APR, "max_exponent": 2.0}),
    "with apaf, γ at most 4": ("pg", {**APR, "max_exponent": 4.0}),
    "with apaf, plain": ("pg", {**APR, "focal_on": "plain"}),
    "with apaf, raised (pg)": ("pg", {}),
    "db, λ = 1": ("db", {"neg_scale": 1.0}),
    "db, λ = 20": ("db", {"neg_scale": 20.0}),
    "db, λ₂⁻ = 25": ("pr", {**NOT_RAISED, "neg_divisor": 25.0}),
    "pg-auto": ("pg-auto", {}),
}

NUM_FOLDS = 4


def heads(photos: Path, weights: Path, output: Path = Path("runs/photos"), seeds: int = 3, workers: int = 1) -> None:
    """Train linear and graph heads on frozen features with BCE."""
    shared = configuration(photos, weights, output / "heads", mode="probe")
    show(run(shared, HEAD_METHODS, seeds, workers))


def schedules(
    photos: Path, weights: Path, output: Path = Path("runs/photos"), seeds: int = 3, workers: int = 1
) -> None:
    """Train with and without focal factor for 1, 2, 4 and 8 times the recipe's epochs, on frozen features."""
    for times in (1, 2, 4, 8):
        shared = configuration(photos, weights, output / f"schedule{times}", mode="probe", epochs=8 * times)
        print(f"\n{8 * times} epochs")
        show(run(shared, SCHEDULED_METHODS, seeds, workers))


def choose(photos: Path, weights: Path, output: Path = Path("runs/photos"), workers: int = 1) -> None:
    """Cross-validate PG's raised factors on the training split."""
    # Raised as published: λ₁⁻ and λ₂⁺ of tail classes over 5 and 1, or λ₁⁻ and λ₁⁺ of all classes over 2 and 1.
    grids: dict[RecipeName, list[dict[str, Any]]] = {
        "voc-mlt": [
            {"neg_slope": {"tail": slope}, "pos_divisor": {"tail": divisor}, "adaptive": ["neg_slope"]}
            for slope, divisor in itertools.product((6.0, 7.5, 10.0), (1.5, 2.0, 3.0))
        ],
        "coco-mlt": [
            {"neg_slope": neg, "pos_slope": pos, "adaptive": ["neg_slope"]}
            for neg, pos in itertools.product((2.5, 3.0, 4.0), (1.25, 1.5, 2.0))
        ],
    }
    for recipe, grid in grids.items():
        methods = [Method("db", {"loss": "db"}), Method("db-focal", {"loss": "db-focal"})]
        methods += [Method(option_name(options), {"loss": "pg", "loss_options": options}) for options in grid]
        rows = cross_validate(photos, weights, output / "choose", methods, recipe=recipe, workers=workers)
        print(f"\n{recipe}, mean and deviation over {NUM_FOLDS} folds")
        show(sorted(rows, key=lambda row: -sum(value or 0 for value in row.scores["total"])))


def parts(photos: Path, weights: Path, output: Path = Path("runs/photos"), seeds: int = 2, workers: int = 1) -> None:
    """Cross-validate what each part of PG adds to DB, on the training split."""
    methods = [Method(name, {"loss": loss, "loss_options": options}) for name, (loss, options) in PARTS.items()]
    rows = cross_validate(photos, weights, output / "parts", methods, recipe="voc-mlt", seeds=seeds, workers=workers)
    print(
        f"\n{seeds} seeds of {NUM_FOLDS} folds; beside the mAP, the mean difference from {rows[0].method} on the same"
    )
    print("fold with the same seed ± its standard error")
    print(paired_table(rows))


def cross_validate(
    photos: Path,
    weights: Path,
    output: Path,
    methods: Sequence[Method],
    *,
    recipe: RecipeName,
    seeds: int = 1,
    workers: int = 1,
) -> list[Row]:
    """Rows of the held-out quarters of the training split, fold by fold and in each seed by seed."""
    folds = write_folds(read(photos / "labels.csv", classes=photos / "classes.json"), output / "folds")
    # One fold after the other: each opens a pool of workers.
    by_fold = []
    for fold in folds:
        shared = replace(
            configuration(photos, weights, output / recipe / fold.stem, mode="probe"),
            data=str(fold),
            root=str(photos),
            train_split="train",
            test_split="held-out",
            recipe=recipe,
        )
        by_fold.append(run(shared, methods, seeds, workers))
    return [merge(parts) for parts in zip(*by_fold, strict=True)]


def run(shared: TrainConfig, methods: Sequence[Method], seeds: int, workers: int) -> list[Row]:
    """Rows of a comparison of methods; finished runs in its folder are not repeated."""
    folder = Path(shared.output).absolute()
    plan = Plan(folder=folder, shared=shared, methods=tuple(methods), seeds=tuple(range(seeds)), folds=0, replicates=1)
    found = compare(plan, workers=workers).methods
    return [Row(method.name, method.test.by_run) for method in found if method.test is not None]


def configuration(
    photos: Path, weights: Path, output: Path, *, epochs: int | None = None, **options: Any
) -> TrainConfig:
    """What all runs on the photographs share."""
    return TrainConfig(
        data=str(photos / "labels.csv"),
        classes=str(photos / "classes.json"),
        train_split="train_lt",
        output=str(output),
        recipe="voc-mlt",
        model=ModelConfig(
            backbone="mobilenetv2_100",
            weights=weights,
            options={"pad_type": "same"},
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        # A shorter training keeps the proportions of the recipe, warm-up included.
        optim=OptimConfig() if epochs is None else OptimConfig(epochs=epochs, warmup_steps=500 * epochs // 8),
        quiet=True,
        **options,
    )


def write_folds(data: Dataset, folder: Path) -> list[Path]:
    """Label files that each hold out a quarter of the training split, every class spread evenly over the quarters."""
    train = data.select("train_lt")
    fold_of = deal(train.targets == 1, NUM_FOLDS)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for fold in range(NUM_FOLDS):
        path = folder / f"fold{fold}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "split", "labels"])
            for image, row, own in zip(train.names, train.targets, fold_of, strict=True):
                labels = "|".join(name for name, y in zip(train.class_names, row, strict=True) if y == 1)
                writer.writerow([image, "held-out" if own == fold else "train", labels])
        paths.append(path)
    return paths


def deal(positive: np.ndarray, num_folds: int) -> np.ndarray:
    """Deal rows to folds, the rarest class first, each row to the fold that has the fewest of that class so far."""
    fold_of = np.full(len(positive), -1)
    generator = np.random.default_rng(0)
    for k in np.argsort(positive.sum(0), kind="stable"):
        for row in generator.permutation(np.flatnonzero(positive[:, k] & (fold_of < 0))):
            have = [int((positive[:, k] & (fold_of == fold)).sum()) for fold in range(num_folds)]
            size = [int((fold_of == fold).sum()) for fold in range(num_folds)]
            fold_of[row] = min(range(num_folds), key=lambda fold: (have[fold], size[fold]))
    return fold_of


def merge(rows: Sequence[Row]) -> Row:
    """One row of the runs of several."""
    return Row(
        rows[0].method,
        {group: [value for row in rows for value in row.scores[group]] for group in rows[0].scores},
    )


def paired_table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table of mAP with the differences from the first row, and the standard errors of these."""
    groups = list(rows[0].scores)
    lines = ["| | " + " | ".join(groups) + " |", "|---|" + "---|" * len(groups)]
    for row in rows:
        cells = []
        for group in groups:
            own, first = (np.array(scores[group], dtype=np.float64) for scores in (row.scores, rows[0].scores))
            difference = own - first
            error = difference.std(ddof=1) / len(difference) ** 0.5
            mean = f"{own.mean():.2f}"
            cells.append(mean if row is rows[0] else f"{mean} ({difference.mean():+.2f} ± {error:.2f})")
        lines.append(f"| {row.method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def option_name(options: dict[str, Any]) -> str:
    """The options as a folder name."""

    def plain(value: Any) -> str:
        if isinstance(value, dict):
            return "_".join(f"{key}-{item}" for key, item in value.items())
        return "_".join(value) if isinstance(value, list) else str(value)

    return ",".join(f"{name}={plain(value)}" for name, value in options.items())


def show(rows: Sequence[Row]) -> None:
    """Print the rows as a table: mean and standard deviation over the runs."""
    columns = (Column("method", "text"), *(Column(group, "spread") for group in rows[0].scores))
    cells = [[row.method, *map(_spread, row.scores.values())] for row in rows]
    print(Table("rows", "mAP (%)", columns, cells, best=best_cells(columns, cells)).to_markdown(), flush=True)


def _spread(scores: Sequence[float | None]) -> list[float | None] | None:
    known = [score for score in scores if score is not None]
    return [fmean(known), stdev(known) if len(known) > 1 else None] if known else None


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    auto_cli([heads, schedules, choose, parts], as_positional=True)
