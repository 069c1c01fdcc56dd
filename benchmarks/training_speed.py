"""Speed beside plain PyTorch: ``python -m benchmarks.training_speed PHOTOS WEIGHTS``.

Each pair of figures comes from the same process, interleaved, and is given as medians with the median of the ratios of
the pairs. PHOTOS and WEIGHTS are those of benchmarks.photos.
"""

from __future__ import annotations

import copy
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning
import lightning.pytorch as pl
import psutil
import timm
import torch
from jsonargparse import auto_cli
from torch import nn

from benchmarks.photos import configuration
from benchmarks.timing import machine, side_by_side
from tailwise import LabelStats
from tailwise.data.pixels.augment import prepare
from tailwise.models.backbone import create_backbone
from tailwise.models.extractor import prepare_for_inference
from tailwise.training import finetune
from tailwise.training.config import TrainConfig
from tailwise.training.datamodule import EpochBatches
from tailwise.training.folder import checkpoint_path
from tailwise.training.inputs import open_images, read_run
from tailwise.training.optimizer import create_schedule
from tailwise.training.resolution import resolve
from tailwise.training.run import create_loss, train
from tailwise.training.testing import PRECISION_TYPES, TrainingTask
from tailwise.training.trainer import create_sampler, fit

WARMUP_STEPS = 5
Part = Literal["all", "features", "step", "probe"]


def compare(
    photos: Path, weights: Path, size: int = 160, steps: int = 25, repeats: int = 5, part: Part = "all"
) -> None:
    """Print every table, or one of them.

    Args:
        photos: folder with labels.csv, classes.json and the images.
        weights: backbone weights.
        size: image size of the fine-tuning steps; features are extracted at 224.
        steps: fine-tuning steps per repeat.
        repeats: interleaved repeats of each pair.
        part: the table to print: of features, of the fine-tuning step, or of the probe; or all.
    """
    print(f"{machine(timm, lightning)}; medians of {repeats}\n")
    with tempfile.TemporaryDirectory() as folder:
        shared = configuration(photos, weights, Path(folder), mode="finetune", precision="bf16", image_size=size)
        if part in ("all", "features"):
            feature_extraction(shared, repeats)
        if part in ("all", "step"):
            fine_tuning_step(shared, steps, repeats)
        if part in ("all", "probe"):
            probe_run(photos, weights, Path(folder), repeats)


def feature_extraction(shared: TrainConfig, repeats: int, batch_size: int = 64) -> None:
    """Features of decoded images at 224: our frozen backbone against timm's model called plainly."""
    config = resolve(replace(shared, image_size=224))
    split = read_rows(config.data, config.train_split, config)
    table = open_images(split, 224, config).table
    images = prepare(table.batch(torch.arange(batch_size)), 224, (0.5,) * 3, (0.5,) * 3)
    plain_images = images.contiguous()
    plain = create_backbone(config.model).eval()
    print(
        f"| features, batches of {batch_size} at 224² | timm, images/s | ours, images/s | ours / timm |\n"
        "|---|---|---|---|"
    )
    for precision in ("fp32", "bf16"):
        dtype = PRECISION_TYPES[precision]
        ours = prepare_for_inference(plain, dtype)

        def call_plain(dtype: torch.dtype = dtype) -> Any:
            with torch.inference_mode(), torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                return plain(plain_images)

        def call_ours(ours: nn.Module = ours) -> Any:
            with torch.inference_mode():
                return ours(images)

        times = side_by_side({"ours": call_ours, "theirs": call_plain}, repeats)
        theirs, mine = (batch_size / times[name].seconds for name in ("theirs", "ours"))
        print(f"| {precision} | {theirs:.0f} | {mine:.0f} | {times['theirs'].ratio:.2f} |", flush=True)


def fine_tuning_step(shared: TrainConfig, steps: int, repeats: int) -> None:
    """A fine-tuning step: the trainer of a run, with all that it records, against a loop by hand.

    Both have the same cache, augmentation, model, loss, optimizer, clipping, schedule and precision, and take steps in
    turn, so that a pair of them meets the same machine.
    """
    config = resolve(replace(shared, accelerator="cpu"))
    splits = read_run(config)
    stats = LabelStats.from_targets(splits.train.targets, splits.train.class_names)
    pairs: list[tuple[float, float]] = []
    for _ in range(repeats):
        task = finetune.new_task(config, splits, torch.device("cpu"), create_loss)
        alternate = Alternate(loop_by_hand(config, copy.deepcopy(task), create_loss(config, stats)), steps)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint_path(Path(folder)).parent.mkdir()
            fit(config, task, create_loss(config, stats), stats, Path(folder), [alternate])
        pairs += alternate.pairs[WARMUP_STEPS:]
    bare_s, ours_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    low, ratio, high = statistics.quantiles([ours / bare for bare, ours in pairs])
    print(
        f"\n| fine-tuning step, batch {config.batch_size} at {config.image_size}², bf16; {len(pairs)} pairs "
        "| bare loop, ms | ours, ms | ours / bare | half of the pairs |\n|---|---|---|---|---|\n"
        f"| {config.loss} | {1e3 * bare_s:.1f} | {1e3 * ours_s:.1f} | {ratio:.3f} | {low:.2f} to {high:.2f} |",
        flush=True,
    )


def loop_by_hand(config: TrainConfig, task: TrainingTask, loss: nn.Module) -> Iterator[None]:
    """Train in bf16, and yield after each step."""
    model, split = task.model.train(), task.train.split
    targets = torch.from_numpy(split.targets)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optim = config.optim
    optimizer = torch.optim.SGD(
        parameters, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay, fused=True
    )
    batches = EpochBatches(create_sampler(config, split.targets), config.batch_size)
    schedule = create_schedule(optimizer, optim, len(batches))
    assert task.train_inputs is not None
    assert optim.clip_norm is not None
    for epoch in itertools.count():
        for rows, positions in batches:
            inputs = task.train_inputs(task.train.table.batch(rows), epoch=epoch, positions=positions)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                value = loss(model(inputs), targets[rows])
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(parameters, optim.clip_norm)
            optimizer.step()
            schedule.step()
            yield


class Alternate(pl.Callback):
    """Takes a step by hand after each step of the trainer, and ends the training after some of them.

    Attributes:
        pairs: seconds of each step by hand, and of the trainer's step before it.
    """

    def __init__(self, by_hand: Iterator[None], steps: int) -> None:
        self.by_hand = by_hand
        self.steps = steps
        self.pairs: list[tuple[float, float]] = []
        self.resumed = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        handed_over = time.perf_counter()
        next(self.by_hand)
        handed_back = time.perf_counter()
        self.pairs.append((handed_back - handed_over, handed_over - self.resumed))
        trainer.should_stop = len(self.pairs) == self.steps
        self.resumed = time.perf_counter()


def probe_run(photos: Path, weights: Path, folder: Path, repeats: int) -> None:
    """A whole probe run with features cached, and the resident memory of a process that has done everything above."""
    shared = configuration(photos, weights, folder, mode="probe")
    train(replace(shared, output=str(folder / "features")))
    print("\n| probe run, features cached | s |\n|---|---|")
    for sampler in ("class-aware", "uniform"):
        seconds = []
        for repeat in range(repeats):
            started = time.perf_counter()
            train(replace(shared, output=str(folder / f"{sampler}{repeat}"), sampler=sampler, seed=repeat))
            seconds.append(time.perf_counter() - started)
        print(f"| {sampler} | {statistics.median(seconds):.1f} |", flush=True)
    print(f"\nresident memory at the end: {psutil.Process().memory_info().rss / 2**20:.0f} MiB")


if __name__ == "__main__":
    auto_cli(compare, as_positional=True)
