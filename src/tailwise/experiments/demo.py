"""The demo: BCE, DB-Focal and PG on long-tailed scenes of handwritten digits, trained from scratch."""

from __future__ import annotations

from pathlib import Path

from tailwise.data.pixels.augment import Augmentation
from tailwise.experiments.methods import Method
from tailwise.experiments.plan import Plan
from tailwise.models.model_config import ModelConfig
from tailwise.training.config import OptimConfig, TrainConfig

# The same number of steps for both samplers: 10 class-aware epochs are as long as 21 uniform ones.
METHODS = (
    Method("bce", {"loss": "bce", "sampler": "uniform", "optim": {"epochs": 21}}, "BCE, uniform sampling"),
    Method("bce-class-aware", {"loss": "bce"}, "BCE, class-aware sampling"),
    Method("db-focal", {"loss": "db-focal"}, "distribution-balanced focal loss"),
    Method("pg", {"loss": "pg"}, "probability-guided loss"),
)


def plan(output: Path, seeds: int) -> Plan:
    """The comparison of the methods on the digits.

    Args:
        output: folder of the comparison; finished runs in it are not repeated.
        seeds: runs of each method.
    """
    return Plan(
        folder=output.absolute(),
        shared=configuration(output),
        methods=METHODS,
        seeds=tuple(range(seeds)),
        folds=0,
        baseline=METHODS[0].name,
    )


def configuration(output: Path) -> TrainConfig:
    """The configuration of all methods: a small network from scratch, and digits neither mirrored nor recoloured."""
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
