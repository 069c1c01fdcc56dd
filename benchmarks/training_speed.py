"""Speed beside plain PyTorch: ``python -m benchmarks.training_speed PHOTOS WEIGHTS``.

Each pair of figures comes from the same process, interleaved, and is given as the median of the repeats with the
median of the ratios of the pairs. PHOTOS and WEIGHTS are those of benchmarks.photos.
"""

from __future__ import annotations

import itertools
import platform
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import lightning.pytorch as pl
import psutil
import timm
import torch
from jsonargparse import auto_cli
from torch import nn

from benchmarks.photos import configuration
from benchmarks.timing import interleaved
from tailwise import LabelStats
from tailwise.config import TrainConfig, resolve
from tailwise.data.augment import prepare
from tailwise.models.backbone import create_backbone
from tailwise.models.inference import prepare_for_inference
from tailwise.training import finetune
from tailwise.training.datamodule import TrainData
from tailwise.training.inference import PRECISION_TYPES
from tailwise.training.inputs import open_images, read_run, read_splits
from tailwise.training.module import MultiLabelModule, warmup_and_decay
from tailwise.training.run import create_loss, create_sampler, train
from tailwise.training.trainer import checkpoint_path, contained, create_trainer

WARMUP_STEPS = 5


def compare(photos: Path, weights: Path, size: int = 160, steps: int = 25, repeats: int = 5) -> None:
    """Print every table.

    Args:
        photos: folder with labels.csv, classes.json and the images.
        weights: backbone weights.
        size: image size of the fine-tuning steps; features are extracted at 224.
        steps: fine-tuning steps per repeat.
        repeats: interleaved repeats of each pair.
    """
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}, timm {timm.__version__}, lightning {lightning.__version__}; medians of {repeats}\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        shared = configuration(photos, weights, Path(folder), mode="finetune", precision="bf16", image_size=size)
        feature_extraction(shared, repeats)
        fine_tuning_step(shared, steps, repeats)
        probe_run(photos, weights, Path(folder), repeats)


def feature_extraction(shared: TrainConfig, repeats: int, batch_size: int = 64) -> None:
    """Features of decoded images at 224: our frozen backbone against timm's model called plainly."""
    config = resolve(replace(shared, image_size=224))
    (split,) = read_splits(config.data, [config.train_split], config)
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

        theirs_s, ours_s, ratio = interleaved(call_plain, call_ours, repeats)
        print(f"| {precision} | {batch_size / theirs_s:.0f} | {batch_size / ours_s:.0f} | {ratio:.2f} |", flush=True)


def fine_tuning_step(shared: TrainConfig, steps: int, repeats: int) -> None:
    """A fine-tuning step: our trainer against a loop by hand, same data, model, loss, optimiser and precision."""
    config = resolve(shared)
    splits = read_run(config)
    train_split = splits.train
    targets = torch.from_numpy(train_split.targets)
    task = finetune.new_task(config, splits)
    stats = LabelStats.from_targets(train_split.targets, train_split.class_names)
    milestones = config.optim.milestones or ()

    def data() -> TrainData:
        sampler = create_sampler(config, train_split.targets)
        return TrainData(task.train.table, train_split.targets, sampler, batch_size=32, transform=task.train_inputs)

    def ours() -> float:
        timer = StepTimer()
        with tempfile.TemporaryDirectory() as folder, contained():
            module = MultiLabelModule(
                task.model.train(),
                create_loss(config, stats),
                config.optim,
                milestones=milestones,
                steps_per_epoch=147,
                seed=0,
                fused=False,  # as runs in mixed precision are
            )
            checkpoint_path(Path(folder)).parent.mkdir()
            trainer = create_trainer(config, Path(folder), epochs=1, checkpoint_every=10)
            trainer.callbacks.append(timer)  # type: ignore[attr-defined]
            trainer.limit_train_batches = steps
            trainer.fit(module, datamodule=data())
        return timer.median()

    def bare() -> float:
        timer = StepTimer()
        loss = create_loss(config, stats)
        model = task.model.train()
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=0.02, momentum=0.9, weight_decay=1e-4)
        schedule = warmup_and_decay(optimizer, config.optim, milestones, 147)
        assert task.train_inputs is not None
        for step, (rows, positions) in enumerate(data().batches()):
            inputs = task.train_inputs(task.train.table.batch(rows), epoch=0, positions=positions)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                value = loss(model(inputs), targets[rows])
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(parameters, 35.0)
            optimizer.step()
            schedule.step()
            timer.tick()
            if step + 1 == steps:
                break
        return timer.median()

    pairs = [(bare(), ours()) for _ in range(repeats)]
    bare_s, ours_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(mine / other for other, mine in pairs)
    print(f"\n| fine-tuning step, batch 32 at {config.image_size}², bf16 | bare loop, ms | ours, ms | ours / bare |")
    print(f"|---|---|---|---|\n| {config.loss} | {1e3 * bare_s:.1f} | {1e3 * ours_s:.1f} | {ratio:.3f} |", flush=True)


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


class StepTimer(pl.Callback):
    """Seconds from the end of one step to the end of the next."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def tick(self) -> None:
        self.ends.append(time.perf_counter())

    def on_train_batch_end(self, *_: Any) -> None:
        self.tick()

    def median(self) -> float:
        ends = self.ends[WARMUP_STEPS:]
        return statistics.median(after - before for before, after in itertools.pairwise(ends))


if __name__ == "__main__":
    auto_cli(compare, as_positional=True)
