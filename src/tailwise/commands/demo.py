"""``tailwise demo``: BCE, DB-Focal and PG on long-tailed scenes of handwritten digits, trained from scratch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tailwise.commands.output import MOST_RUNS, publish
from tailwise.options import Role, check_fields, option

if TYPE_CHECKING:
    from tailwise.experiments.methods import Method
    from tailwise.experiments.plan import Plan
    from tailwise.training.config import TrainConfig


@dataclass(frozen=True)
class Options:
    """Options of the demo."""

    output: str = option(Role.DISPLAY, "demo-run")
    """Folder of the runs, the table and the report page."""
    seeds: int = option(Role.PROTOCOL, 2, at_least=1, at_most=MOST_RUNS)
    """Number of runs of each loss."""
    workers: int = option(Role.MACHINE, 2, at_least=1, at_most=MOST_RUNS)
    """Runs at a time."""

    def __post_init__(self) -> None:
        check_fields(self)


def run(options: Options) -> None:
    """Compare BCE, DB-Focal and PG on embedded data."""
    from tailwise.experiments.comparison import compare

    publish(compare(plan(Path(options.output), options.seeds), workers=options.workers))


def methods() -> tuple[Method, ...]:
    """The methods compared. Both samplers take the same number of steps: 10 class-aware epochs are 21 uniform ones."""
    from tailwise.experiments.methods import Method

    return (
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
    from tailwise.experiments.plan import Plan

    compared = methods()
    return Plan(
        folder=output.absolute(),
        shared=configuration(output),
        methods=compared,
        seeds=tuple(range(seeds)),
        folds=0,
        baseline=compared[0].name,
    )


def configuration(output: Path) -> TrainConfig:
    """The configuration of all methods: a small network from scratch, and digits neither mirrored nor recoloured."""
    from tailwise.data.pixels.augment import Augmentation
    from tailwise.models.model_config import ModelConfig
    from tailwise.training.config import TrainConfig
    from tailwise.training.optim_config import PUBLISHED, OptimConfig

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
        optim=OptimConfig(**{**PUBLISHED, "lr": 0.1, "epochs": 10, "warmup_steps": 50}),
        sampler="class-aware",
        augment=Augmentation(photometric=False, flip=0.0),
    )
