"""A tiny labelled data set of real JPEG files, and configurations that train on it in a second."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from tailwise.models.model_config import ModelConfig
from tailwise.training import probe
from tailwise.training.config import HeadConfig, OptimConfig, TrainConfig
from tailwise.training.trainer import MultiLabelModule

CLASSES = ("red", "green", "blue", "dark")
SIDE = 32

Interruption = Callable[[Callable[[MultiLabelModule], bool]], AbstractContextManager[None]]


def write_data(folder: Path, num_train: int = 46, num_test: int = 30) -> Path:
    """JPEGs whose colour channels say which classes they have; "dark" is rare, and one label in ten unknown."""
    generator = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = []
    for index in range(num_train + num_test):
        labels = (generator.random(4) < (0.6, 0.4, 0.3, 0.15)).astype(int)
        if index in (0, num_train):
            labels[:] = 1
        pixels = generator.integers(0, 90, (SIDE, SIDE, 3))
        pixels[..., labels[:3] == 1] += 120
        pixels //= 1 + labels[3]
        name = f"images/{index}.jpg"
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name, quality=95)
        cells = ["" if generator.random() < 0.1 else value for value in labels]
        rows.append([name, "train" if index < num_train else "test", *cells])
    path = folder / "labels.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["image", "split", *CLASSES], *rows])
    return path


@pytest.fixture(scope="session")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file with a column per class, of 46 training and 30 test images."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def tiny(labels: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TrainConfig]:
    """Makes configurations of runs that train for a second; options of the optimizer go under ``optim``."""
    cache = tmp_path_factory.getbasetemp() / "cache"

    def make(*, optim: dict[str, Any] | None = None, **options: Any) -> TrainConfig:
        defaults: dict[str, Any] = {
            "data": str(labels),
            "output": str(tmp_path / "run"),
            "image_size": SIDE,
            "batch_size": 8,
            "cache": str(cache),
            "accelerator": "cpu",
            "quiet": True,
            "thresholds": (10, 20),
            "model": ModelConfig(backbone="test_resnet", pretrained=False),
            "head": HeadConfig(solver="sgd"),
            "optim": OptimConfig(**{"epochs": 3, "warmup_steps": 4, **(optim or {})}),
        }
        return TrainConfig(**{**defaults, **options})

    return make


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A weights file of a timm model, with batch norm statistics that are not the initial ones."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = timm.create_model("test_resnet", pretrained=False)
        model.train()(torch.randn(16, 3, 32, 32))
    path = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What features are computed of, from now on."""
    found: list[str] = []
    forward = probe.forward_table

    def noted(*arguments: Any, description: str, **options: Any) -> torch.Tensor:
        found.append(description)
        return forward(*arguments, description=description, **options)

    monkeypatch.setattr(probe, "forward_table", noted)
    return found


@pytest.fixture
def interruption(monkeypatch: pytest.MonkeyPatch) -> Interruption:
    """Within it, a training must be interrupted: before the first step at which ``when(module)`` holds."""

    @contextmanager
    def interrupt(when: Callable[[MultiLabelModule], bool]) -> Iterator[None]:
        step = MultiLabelModule.training_step

        def interrupted(self: MultiLabelModule, batch: Any) -> Any:
            if when(self):
                raise KeyboardInterrupt
            return step(self, batch)

        with monkeypatch.context() as patch:
            patch.setattr(MultiLabelModule, "training_step", interrupted)
            with pytest.raises(KeyboardInterrupt):
                yield

    return interrupt
