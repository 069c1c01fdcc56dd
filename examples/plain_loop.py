"""A loss and a sampler of tailwise in a plain PyTorch loop, against plain BCE: ``python examples/plain_loop.py``.

The data are scenes of handwritten digits, of which most are rare (``pip install 'tailwise[demo]'``). With as many
steps, the tail gains and the head pays for it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import count, islice

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tailwise.data import ClassAwareSampler, UniformSampler, read
from tailwise.data.samplers import EpochSampler
from tailwise.losses import create
from tailwise.metrics import average_precision, group_means


def network(num_classes: int) -> nn.Module:
    """A small convolutional network with one logit per class."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(256, num_classes)),
    )


def train(data: TensorDataset, sampler: EpochSampler, loss: nn.Module, num_classes: int, steps: int) -> nn.Module:
    """Train a network for a number of steps."""
    torch.manual_seed(0)
    model = network(num_classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, weight_decay=1e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=steps)
    for images, targets in islice(batches(data, sampler), steps):
        optimizer.zero_grad()
        loss(model(images), targets).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def batches(data: TensorDataset, sampler: EpochSampler) -> Iterator[list[Tensor]]:
    """Batches of one epoch after the other, without end."""
    loader = DataLoader(data, batch_size=32, sampler=sampler)
    for epoch in count():
        sampler.set_epoch(epoch)
        yield from loader


def main() -> None:
    """Train with BCE and with DB-Focal, and print the mAP of both by group."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--steps", type=int, default=600)
    steps = parser.parse_args().steps

    scenes = read("digits")  # 32 x 32 images in memory
    known, asked = scenes.select("train"), scenes.select("test")
    stats = known.stats()  # of an array of labels: LabelStats.from_targets(targets)
    targets = torch.from_numpy(known.targets)
    data = TensorDataset(as_input(known.inputs.values), targets)
    methods = {
        "BCE, uniform sampling": (UniformSampler(len(data)), create("bce", stats)),
        "DB-Focal, class-aware sampling": (ClassAwareSampler(targets), create("db-focal", stats)),
    }
    for name, (sampler, loss) in methods.items():
        model = train(data, sampler, loss, stats.num_classes, steps)
        with torch.inference_mode():
            logits = model(as_input(asked.inputs.values))
        means = group_means(average_precision(logits, asked.targets), stats.groups)
        print(f"{name:30}", "  ".join(f"{group} {100 * value:.1f}" for group, value in means.items()))


def as_input(images: object) -> Tensor:
    """Pixels as floats around 0."""
    return torch.as_tensor(images).float() / 127.5 - 1


if __name__ == "__main__":
    main()
