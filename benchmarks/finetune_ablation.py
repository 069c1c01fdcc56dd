"""Parts of fine-tuning on photographs: ``python -m benchmarks.finetune_ablation PHOTOS WEIGHTS``.

PHOTOS and WEIGHTS are those of :mod:`benchmarks.photos`. Every row is trained once for each fold of the training split,
and scored on what was held out; the test split is not opened. A run that was averaged over its course is also scored
with its last weights, and with mirror images. Finished runs are kept below --output, and the scores of a row are added
to results.jsonl there when it is done. ``report`` trains rows on the whole split, and scores them on the test split.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import auto_cli
from numpy.typing import NDArray

from benchmarks.photos import configuration
from tailwise.data.pixels.augment import prepare
from tailwise.experiments.methods import Method
from tailwise.metrics import average_precision, group_means
from tailwise.training import finetune
from tailwise.training.callbacks import LAST_WEIGHTS
from tailwise.training.config import NO_SPLIT, TrainConfig
from tailwise.training.folder import VALIDATION_FILE, checkpoint_path, model_state, read_checkpoint, read_logits
from tailwise.training.inputs import each_fold, open_images, read_run
from tailwise.training.resolution import resolve
from tailwise.training.run import train
from tailwise.training.testing import forward_table

Scores = NDArray[np.float32]

FOLDS = 4
ROWS: dict[str, dict[str, Any]] = {
    "solved head, no training": {"mode": "probe", "head": {"transform": "none"}},
    "default, bce": {},
    "asl": {"loss": "asl"},
    "db-focal": {"loss": "db-focal"},
    # An epoch of this sampler has as many draws as four of the uniform one.
    "class-aware": {"sampler": "class-aware", "optim": {"epochs": 1}},
    "random head": {"head": {"solver": "sgd"}, "optim": {"epochs": 4, "ema": 1.0}},
    "head and backbone at 5e-4": {"optim": {"lr": 5e-4, "backbone_rate": 1.0}},
    "backbone at a tenth of the head's rate": {"optim": {"lr": 5e-4, "backbone_rate": 0.1}},
    "rates twice as high": {"optim": {"lr": 1e-4}},
    "8 epochs": {"optim": {"epochs": 8}},
    "crops and mirror images only": {"augment": {"photometric": False}},
    "stem and first stage frozen": {"model": {"frozen_stages": 1}},
    "catavgmax": {"model": {"pool": "catavgmax"}},
}


def ablation(
    photos: Path,
    weights: Path,
    output: Path = Path("runs/finetune"),
    image_size: int = 128,
    rows: tuple[str, ...] = tuple(ROWS),
    threads: int = 1,
) -> None:
    """Print mAP of held-out images, all folds together, after each row."""
    torch.set_num_threads(threads)
    print("| | weights | total | head | medium | tail |\n|---|---|---|---|---|---|")
    for name in rows:
        shared = _configuration(photos, weights, output / str(image_size) / name, image_size)
        for variant, means in _row(Method("run", ROWS[name]).configure(shared, 0)):
            cells = " | ".join(f"{value:.1f}" for value in means.values())
            print(f"| {name} | {variant} | {cells} |", flush=True)
            with (output / "results.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"row": name, "image_size": image_size, "weights": variant, **means}) + "\n")


def report(
    photos: Path,
    weights: Path,
    rows: tuple[str, ...] = ("solved head, no training", "default, bce"),
    output: Path = Path("runs/finetune"),
    image_size: int = 128,
    threads: int = 1,
) -> None:
    """Train rows on the whole training split, and print their mAP on the test split, with mirror images."""
    torch.set_num_threads(threads)
    for name in rows:
        shared = _configuration(photos, weights, output / str(image_size) / f"{name}, test", image_size)
        config = Method("run", ROWS[name]).configure(shared, 0)
        model = replace(config.model, tta="flip")
        result = train(replace(config, model=model, resume=Path(config.output).exists()))
        assert result is not None
        cells = " | ".join(f"{value:.1f}" for value in result.metrics["mAP"].values())
        print(f"| {name} | {cells} | {result.metrics['seconds']:.0f} s |", flush=True)


def _configuration(photos: Path, weights: Path, output: Path, image_size: int) -> TrainConfig:
    config = configuration(photos, weights, output, image_size=image_size, precision="bf16")
    return replace(config, recipe=None, loss="bce")


def _row(config: TrainConfig) -> Iterator[tuple[str, dict[str, float]]]:
    """Means of groups for each kind of weights."""
    whole = read_run(resolve(replace(config, test_split=NO_SPLIT)))
    places = []
    for fold in range(FOLDS):
        place = Path(config.output) / f"fold{fold}"
        held_out = replace(config, val_folds=FOLDS, val_fold=fold, test_split=NO_SPLIT, output=str(place))
        train(replace(held_out, resume=place.exists()))
        places.append(place)
    stats, targets = whole.train.stats(), whole.train.targets
    folds = np.stack([part.held_out for part in each_fold(whole, FOLDS)])

    def means(scores: Scores) -> dict[str, float]:
        scores = scores.copy()
        for rows in folds:  # models of different folds have biases and scales of their own
            scores[rows] = (scores[rows] - scores[rows].mean(0)) / scores[rows].std(0)
        return group_means(100 * average_precision(scores, targets), stats.groups)

    tested = read_logits([place / VALIDATION_FILE for place in places], whole.train)
    yield "tested", means(tested)
    if config.mode == "finetune":
        for variant in ("tested, mirrored", "last", "last, mirrored"):
            scores = np.empty_like(tested)
            for rows, place, part in zip(folds, places, each_fold(whole, FOLDS), strict=True):
                scores[rows] = _scores(place, config, variant, part.validation)
            yield variant, means(scores)


def _scores(run: Path, config: TrainConfig, variant: str, split: Any) -> Scores:
    """Scores of a split by the last or the averaged weights of a run."""
    state = model_state(run)
    if variant.startswith("last"):
        saved = read_checkpoint(checkpoint_path(run))[LAST_WEIGHTS]
        state |= {key.removeprefix("model."): value for key, value in saved.items()}
    config = resolve(config)
    config = replace(config, model=replace(config.model, tta="flip" if variant.endswith("mirrored") else "none"))
    model = finetune.restore(run, config, state, len(split.class_names)).eval()
    inputs = partial(prepare, size=config.image_size, mean=model.mean, std=model.std)
    table = open_images(split, config.image_size, config).table
    scores: Scores = forward_table(
        lambda rows: model(inputs(rows)), table, device=torch.device("cpu"), batch_size=64
    ).numpy()
    return scores


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    auto_cli([ablation, report], as_positional=True)
