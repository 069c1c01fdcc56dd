"""Every table of docs/performance.md: ``python -m benchmarks``, with PHOTOS and WEIGHTS also those of training."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import torch
from jsonargparse import auto_cli


def print_all(photos: Path | None = None, weights: Path | None = None) -> None:
    """Run each benchmark in a process of its own and print its tables.

    Args:
        photos: folder with labels.csv, classes.json and the images, for the tables of input and training.
        weights: backbone weights, for the tables of training.
    """
    modules: list[tuple[str, ...]] = [("losses",), ("linear",), ("average_precision",)]
    if torch.cuda.is_available():
        modules.append(("gpu_losses",))
    if importlib.util.find_spec("triton"):
        modules.append(("gpu_instructions",))
    if photos is not None:
        modules.append(("input_pipeline", str(photos)))
        if weights is not None:
            modules.append(("training_speed", str(photos), str(weights)))
    for name, *arguments in modules:
        print(f"\n## {name}\n", flush=True)
        subprocess.run([sys.executable, "-W", "ignore", "-m", f"benchmarks.{name}", *arguments], check=True)


if __name__ == "__main__":
    auto_cli(print_all, as_positional=False)
