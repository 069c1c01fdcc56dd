"""``tailwise demo``: transfer from single handwritten digits to long-tailed scenes of several."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tailwise.commands.output import MOST_RUNS, publish
from tailwise.errors import InputError
from tailwise.options import Role, check_fields, option

if TYPE_CHECKING:
    from tailwise.experiments.methods import Method
    from tailwise.experiments.plan import Plan
    from tailwise.training.config import TrainConfig

PRETRAINING = "single-digits"
"""The folder, in that of the demo, of the pre-trained network."""

_SOLVED = ("ridge", "logistic", "asl", "db", "pg-auto", "ridge+asl")
_FOLDS = 5


@dataclass(frozen=True)
class Options:
    """Options of the demo."""

    output: str = option(Role.DISPLAY, "demo-run")
    """Folder of the pre-trained weights, the runs, the table and the report page."""
    seeds: int = option(Role.PROTOCOL, 2, at_least=1, at_most=MOST_RUNS)
    """Number of runs that fine-tune the network. A solved head needs one: nothing random decides it."""
    workers: int = option(Role.MACHINE, 2, at_least=1, at_most=MOST_RUNS)
    """Runs at a time."""

    def __post_init__(self) -> None:
        check_fields(self)


def run(options: Options) -> None:
    """Pre-train a small network on single digits, then compare heads on its features with fine-tuning, on scenes."""
    from tailwise.experiments.comparison import compare

    output = Path(options.output)
    publish(compare(plan(output, pretrain(output), options.seeds), workers=options.workers))


def pretrain(output: Path) -> Path:
    """Train the network on single digits, unless that is done.

    Args:
        output: folder of the demo.

    Returns:
        The file of its weights, without the classifier.

    Raises:
        InputError: the folder holds something else, or cannot be written.
    """
    from tailwise.data.formats.digits import single_digits
    from tailwise.models.extractor import WEIGHTS_FILE, keep_weights
    from tailwise.training import finetune
    from tailwise.training.folder import DATA_FILE, make_output, model_state
    from tailwise.training.run import train

    folder = output / PRETRAINING
    weights = folder / WEIGHTS_FILE
    if weights.is_file():
        return weights
    if not folder.exists() and output.is_dir() and any(output.iterdir()):
        raise InputError(f"--output {output} exists and holds no demo; give another output")
    make_output(folder)
    data = single_digits()
    data.save(folder / DATA_FILE)
    config = pretraining(folder)
    train(config)
    model = finetune.restore(Path(config.output), config, model_state(Path(config.output)), len(data.class_names))
    keep_weights(model.backbone, weights)
    return weights


def methods() -> tuple[Method, ...]:
    """The methods compared: solved heads on frozen features, and training of the whole network from one of them."""
    from tailwise.experiments.methods import SOLVED, Method, find_methods

    # The recipe of the others is of training from a random head. Epochs and rate are the best of a few on the folds.
    options = {"loss": "asl", "mode": "finetune", "recipe": None, "optim": {"epochs": 20, "lr": 2e-3}}
    return (*find_methods(_SOLVED, SOLVED), Method("asl-finetuned", options, "asymmetric loss, whole network tuned"))


def plan(output: Path, weights: Path, seeds: int) -> Plan:
    """The comparison of the methods on the scenes.

    Args:
        output: folder of the demo; finished runs in it are not repeated.
        weights: file of the pre-trained network.
        seeds: runs of a method that trains by steps.
    """
    from tailwise.experiments.methods import SOLVED
    from tailwise.experiments.plan import Plan
    from tailwise.training.optim_config import OptimConfig

    scratch = configuration(output)
    network = replace(scratch.model, weights=weights.absolute(), neck=None, running_stats=True)
    return Plan(
        folder=output.absolute(),
        shared=replace(scratch, mode="probe", recipe="coco-mlt", model=network, sampler=None, optim=OptimConfig()),
        methods=methods(),
        seeds=tuple(range(seeds)),
        folds=_FOLDS,
        baseline=SOLVED.baseline,
        holds_more=True,
    )


def pretraining(folder: Path) -> TrainConfig:
    """The configuration of the pre-training: of all weights, on single digits that are all for training.

    Args:
        folder: holds the data, and the run in a folder of its own; a run that is there is gone on with.
    """
    from tailwise.training.config import NO_SPLIT
    from tailwise.training.folder import DATA_FILE

    output = folder / "run"
    scratch = configuration(output)
    return replace(
        scratch,
        data=str(folder / DATA_FILE),
        test_split=NO_SPLIT,
        loss="bce",
        sampler="uniform",
        optim=replace(scratch.optim, epochs=4),
        resume=output.exists(),
    )


def configuration(output: Path) -> TrainConfig:
    """The configuration of a small network from scratch, and of digits neither mirrored nor recoloured."""
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
