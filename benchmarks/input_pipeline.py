"""Images per second of the input pipeline: ``python -m benchmarks.input_pipeline PHOTOS``.

PHOTOS is that of benchmarks.photos; all its images of the splits train_lt and test are used. The peer is what most
projects do: a torchvision data set that opens the JPEG with Pillow, and the published augmentation per image, in the
worker processes of a DataLoader. Ours is what a run of ``tailwise train`` does: decode into a cache, read batches from
it, augment them on the CPU, in the training process. Both make normalised batches of 32 in every epoch. All figures
come from one process, interleaved.
"""

from __future__ import annotations

import csv
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import PIL
import torch
import torchvision
from jsonargparse import auto_cli
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as vision

from benchmarks.timing import machine
from tailwise.data.pixels.augment import Augmentation, augment
from tailwise.data.pixels.image_cache import ImageCache, build_cache
from tailwise.data.samplers import UniformSampler
from tailwise.training.datamodule import EpochBatches

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def compare(photos: Path, size: int = 224, batch_size: int = 32, workers: int = 2, repeats: int = 3) -> None:
    """Print every table.

    Args:
        photos: folder with labels.csv and the images.
        size: side of the batches' images in pixels.
        batch_size: images per batch.
        workers: worker processes of the peer.
        repeats: interleaved repeats.
    """
    paths = image_paths(photos)
    for path in paths:
        path.read_bytes()  # from the disk, once for all
    print(f"{machine(torchvision, PIL)}; {len(paths)} photographs, medians of {repeats}\n")
    contestants: dict[str, Callable[[], Iterable[float]]] = {
        f"Pillow and DataLoader, {workers} workers": partial(peer_epochs, paths, "pillow", size, batch_size, workers),
        f"uint8 tensors and DataLoader, {workers} workers": partial(
            peer_epochs, paths, "tensor", size, batch_size, workers
        ),
        "ours": partial(our_epochs, paths, size, batch_size),
    }
    speeds: dict[str, list[tuple[float, ...]]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, epochs in contestants.items():
            speeds[name].append(tuple(len(paths) / seconds for seconds in epochs()))
    print_speeds(speeds, size, batch_size)
    print_stages(paths, size, batch_size, repeats)
    command = [sys.executable, "-m", "benchmarks.pipeline_memory", str(photos)]
    torch_alone, peak, end = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    print(
        f"\nResident memory of a process that builds the cache and makes an epoch's batches: {peak} MiB at most, {end} "
        f"at the end, of which torch alone takes {torch_alone}."
    )


def image_paths(photos: Path) -> list[Path]:
    """The photographs that are there."""
    with (photos / "labels.csv").open(newline="", encoding="utf-8") as file:
        return [photos / row["image"] for row in csv.DictReader(file) if row["split"] in ("train_lt", "test")]


class Photographs(Dataset[Tensor]):
    """A folder of images as torchvision's ImageFolder reads it, with the augmentation of one image after the other."""

    def __init__(self, paths: list[Path], transform: Callable[[Any], Tensor]) -> None:
        self.paths = paths
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with self.paths[index].open("rb") as file, Image.open(file) as image:
            return self.transform(image.convert("RGB"))


class CropAndSquash(v2.Transform):
    """A random crop of at least ``smallest`` of each side, squashed to a square."""

    def __init__(self, size: int, smallest: float) -> None:
        super().__init__()
        self.size = size
        self.smallest = smallest

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = vision.get_size(flat_inputs[0])
        crop_height = round(height * random.uniform(self.smallest, 1))
        crop_width = round(width * random.uniform(self.smallest, 1))
        top, left = random.randint(0, height - crop_height), random.randint(0, width - crop_width)
        return {"top": top, "left": left, "height": crop_height, "width": crop_width}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return vision.resized_crop(inpt, **params, size=[self.size, self.size])


def peer_transform(kind: str, size: int) -> v2.Compose:
    """The published augmentation in torchvision, on Pillow's images or on uint8 tensors."""
    ours = Augmentation()
    colours = v2.RandomPhotometricDistort(
        brightness=(1 - ours.brightness / 255, 1 + ours.brightness / 255),
        contrast=ours.contrast,
        saturation=ours.saturation,
        hue=(-ours.hue / 360, ours.hue / 360),
        p=0.5,
    )
    geometry = CropAndSquash(size, ours.min_crop)
    images = [colours, geometry, v2.ToImage()] if kind == "pillow" else [v2.ToImage(), colours, geometry]
    numbers = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD), v2.RandomHorizontalFlip(ours.flip)]
    return v2.Compose([*images, *numbers])


def peer_epochs(paths: list[Path], kind: str, size: int, batch_size: int, workers: int) -> Iterable[float]:
    """Seconds of the first epoch and of the second."""
    start = time.perf_counter()
    data = Photographs(paths, peer_transform(kind, size))
    loader = DataLoader(
        data, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0, drop_last=False
    )
    for _ in range(2):
        for batch in loader:
            assert batch.shape[1:] == (3, size, size)
        yield time.perf_counter() - start
        start = time.perf_counter()


def our_epochs(paths: list[Path], size: int, batch_size: int) -> Iterable[float]:
    """Seconds of the first epoch, from no cache at all, and of the second."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        cache = build_cache(paths, cache_size(size), Path(folder), progress=False)
        for epoch in range(2):
            for batch in our_batches(cache, size, batch_size, epoch):
                assert batch.shape[1:] == (3, size, size)
            yield time.perf_counter() - start
            start = time.perf_counter()


def our_batches(cache: ImageCache, size: int, batch_size: int, epoch: int) -> Iterator[Tensor]:
    """What a run with the default settings trains on: no worker processes, augmentation with torch's threads."""
    batches = EpochBatches(UniformSampler(cache), batch_size)
    batches.set_epoch(epoch)
    inputs = partial(augment, size=size, mean=MEAN, std=STD, seed=0, settings=Augmentation())
    for rows, positions in batches:
        yield inputs(cache.batch(rows), epoch=epoch, positions=positions)


def cache_size(size: int) -> int:
    """As fine-tuning chooses it."""
    return math.ceil(size / Augmentation().min_crop)


def print_speeds(speeds: dict[str, list[tuple[float, ...]]], size: int, batch_size: int) -> None:
    """Medians of each, and the median over repeats of how many times faster ours is."""
    *_, ours = speeds.values()
    print(f"| batches of {batch_size} at {size}² | first epoch, images/s | ours / it | later, images/s | ours / it |")
    print("|---|---|---|---|---|")
    for name, repeats in speeds.items():
        cells = []
        for epoch in range(2):
            ratio = statistics.median(mine[epoch] / its[epoch] for mine, its in zip(ours, repeats, strict=True))
            cells.append(f"{statistics.median(speed[epoch] for speed in repeats):.0f} | {ratio:.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def print_stages(paths: list[Path], size: int, batch_size: int, repeats: int) -> None:
    """What an image costs in each stage of ours."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        cache = build_cache(paths, cache_size(size), Path(folder), progress=False)
        stages = {"decode, once": [time.perf_counter() - start]}
        inputs = partial(augment, size=size, mean=MEAN, std=STD, seed=0, settings=Augmentation())
        for epoch in range(repeats):
            reading = augmenting = 0.0
            for rows, positions in EpochBatches(UniformSampler(cache), batch_size):
                start = time.perf_counter()
                images = cache.batch(rows)
                read = time.perf_counter()
                inputs(images, epoch=epoch, positions=positions)
                reading += read - start
                augmenting += time.perf_counter() - read
            stages.setdefault("read", []).append(reading)
            stages.setdefault("augment", []).append(augmenting)
    print("\n| stage of ours | ms per image |\n|---|---|")
    for name, seconds in stages.items():
        print(f"| {name} | {1000 * statistics.median(seconds) / len(paths):.3f} |", flush=True)


if __name__ == "__main__":
    auto_cli(compare, as_positional=True)
