"""Resident memory of the input pipeline alone: ``python -m benchmarks.pipeline_memory PHOTOS``.

Imports torch and what reads images, no trainer; builds the cache from nothing and makes the batches of an epoch.
Prints MiB: after importing torch, at most, at the end.
"""

from __future__ import annotations

import csv
import re
import sys
import tempfile
from pathlib import Path

import psutil
import torch


def resident() -> int:
    """MiB of this process that are in memory now."""
    return int(psutil.Process().memory_info().rss // 2**20)


def most_resident() -> int:
    """The most MiB that were. Not getrusage, which begins with the memory of the process that started this one."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) // 1024


def main(photos: Path, size: int = 224, batch_size: int = 32) -> None:
    """Measure one process."""
    with_torch = resident()
    from tailwise.data.pixels.augment import augment
    from tailwise.data.pixels.image_cache import build_cache
    from tailwise.data.samplers import UniformSampler

    with (photos / "labels.csv").open(newline="", encoding="utf-8") as file:
        paths = [photos / row["image"] for row in csv.DictReader(file) if row["split"] in ("train_lt", "test")]
    with tempfile.TemporaryDirectory() as folder:
        cache = build_cache(paths, round(size / 0.8), Path(folder), progress=False)
        rows = torch.tensor(list(UniformSampler(len(cache))))
        for positions in torch.arange(len(rows)).split(batch_size):
            images = cache.batch(rows[positions])
            augment(images, size, (0.5,) * 3, (0.5,) * 3, seed=0, epoch=0, positions=positions)
    print(with_torch, most_resident(), resident())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
