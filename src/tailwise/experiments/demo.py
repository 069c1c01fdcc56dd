"""The demo: BCE, DB-Focal and PG on long-tailed scenes of handwritten digits, trained from scratch."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from tailwise.data.pixels.augment import Augmentation
from tailwise.experiments.compare import compare
from tailwise.experiments.methods import Method
from tailwise.experiments.plan import Plan
from tailwise.experiments.tables import show_results
from tailwise.models.model_config import ModelConfig
from tailwise.training.config import OptimConfig, TrainConfig

# The same number of steps for both samplers: 10 class-aware epochs are as long as 21 uniform ones.
METHODS = (
    Method("bce", {"loss": "bce", "sampler": "uniform", "optim": {"epochs": 21}}, "BCE, uniform sampling"),
    Method("bce-class-aware", {"loss": "bce"}, "BCE, class-aware sampling"),
    Method("db-focal", {"loss": "db-focal"}, "distribution-balanced focal loss"),
    Method("pg", {"loss": "pg"}, "probability-guided loss"),
)


def demo(output: Path, seeds: int, workers: int) -> None:
    """Compare the methods on the digits: print the table of their mAP, and write it and the report page.

    Args:
        output: folder of the comparison; finished runs in it are not done again.
        seeds: runs of each method.
        workers: runs at a time.

    Raises:
        InputError: the folder holds something else, or a number is out of its range.
    """
    plan = Plan(
        folder=output.absolute(),
        shared=configuration(output),
        methods=METHODS,
        seeds=tuple(range(seeds)),
        folds=0,
        baseline=METHODS[0].name,
    )
    show_results(compare(plan, workers=workers), plan, Console())


def configuration(output: Path) -> TrainConfig:
    """What the methods share: a small network from scratch, and augmentation that leaves digits what they are."""
    return TrainConfig(
        data="digits",
        output=str(output),
        image_size=32,
        model=ModelConfig(
            backbone="test_resnet",
            pretrained=False,
            frozen_stages=-1,
            running_stats=False,
            neck="none",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        optim=OptimConfig(lr=0.1, epochs=10, warmup_steps=50),
        augment=Augmentation(photometric=False, flip=0.0),
    )
