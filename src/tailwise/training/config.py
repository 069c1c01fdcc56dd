"""Configuration of a training run: options of the command line, of YAML files, and of the record in a run folder.

What is left open depends on other options, and is filled in by :func:`tailwise.training.resolution.resolve`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import yaml  # type: ignore[import-untyped]

from tailwise.command_line import add_options, from_namespace, spelled
from tailwise.data.pixels.augment import Augmentation
from tailwise.data.reading import ReadOptions
from tailwise.errors import InputError
from tailwise.files import replacing
from tailwise.models.model_config import ModelConfig
from tailwise.options import Role, check_fields, names_of, option
from tailwise.training.optim_config import OptimConfig

Mode = Literal["finetune", "probe"]
Precision = Literal["fp32", "bf16", "fp16"]
Accelerator = Literal["auto", "cpu", "gpu", "mps"]
ThresholdObjective = Literal["f1", "precision", "recall"]
CalibrationMethod = Literal["platt", "temperature"]
SamplerName = Literal["class-aware", "uniform", "repeat-factor", "inverse-frequency"]

DEFAULT_SAMPLER: SamplerName = "class-aware"
"""The sampler of a run that trains by steps, unless it or its loss names one. A solved head weighs all images alike."""

RIDGE: Final = "ridge"
"""The loss, of solved heads only, that is ridge regression."""

NO_SPLIT: Final = "none"
"""The value of ``test_split`` for a run without a test."""

ALL_FOLDS: Final = "all"
"""The value of ``val_fold`` that holds out every part in turn."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """How the head of a probe, or that which fine-tuning starts with, is found."""

    solver: Literal["exact", "sgd"] | None = option(default=None, prefixed=True)
    """"exact" solves a linear head to convergence, with an L2 penalty whose strength is chosen on folds of the training
    split; "sgd" trains neck and head by --optim for a number of epochs. In finetune mode, training starts with the
    exact head, or with a random one (sgd). By default exact, unless the model has another neck or head, or fine-tuning
    follows a published --recipe."""
    transform: Literal["auto", "sqrt", "none", "standardize"] = option(default="auto", prefixed=True)
    """What is done to features before an exact head. "none" scales each image to unit norm; "sqrt" takes signed square
    roots before that; "standardize" gives each dimension mean 0 and variance 1 after it. By default the one that
    explains most."""
    strength: float | None = option(default=None, prefixed=True, above=0)
    """Strength of the L2 penalty of an exact head, in the unit of the curvature of its loss. By default the one that
    ranks held-out images best."""
    folds: int = option(default=5, prefixed=True, at_least=2)
    """Parts of the training split that are held out in turn to choose the strength. Thresholds and calibration are
    fitted to the same scores."""

    def __post_init__(self) -> None:
        check_fields(self, "head")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ReadOptions):
    """A training run. The same configuration, data and seed give the same model."""

    data: str = option(Role.PLACE, first=True)
    """Labels: a file (CSV, Parquet, JSON lines, COCO, .npz), the folder of a data set, hf:owner/name, or "digits"."""
    output: str = option(Role.DISPLAY, first=True)
    """Folder of the run. It is made if there is none."""
    loss: str = option(Role.METHOD, "db-focal", first=True, of_one_run=True)
    """Name of a loss. Or a YAML file of its parameters, or package.module:Name of your own. Each may end with a
    sampler, as in bce@uniform. A probe also takes ridge, logistic, and averages of heads, as in ridge+asl."""
    loss_options: dict[str, Any] = option(Role.METHOD, factory=dict, of_one_run=True)
    """Options of the loss, by name."""
    recipe: Literal["voc-mlt", "coco-mlt"] | None = option(Role.METHOD, None)
    """Take the loss options published for this data set, and in finetune mode all of the recipe of the
    distribution-balanced loss (Wu et al., ECCV 2020): optimizer, schedule, sampler, neck, random head and frozen
    stages. Options that are given win over them."""
    mode: Mode = option(Role.PROTOCOL, "finetune", first=True)
    """Train the whole network (finetune), or a head on frozen features (probe). Features are computed once."""
    train_split: str = option(Role.DATA, "train", first=True)
    """Training split. Several are joined by a plus, as in train+val."""
    test_split: str = option(Role.DATA, "test", first=True)
    """Split to test the final model on, or "none" for no test."""
    val_split: str | None = option(Role.DATA, None, of_one_run=True)
    """Name of a validation split. Thresholds and calibration are fitted there."""
    val_folds: int = option(Role.DATA, 0, first=True, of_one_run=True, at_least=0)
    """Parts of the training split, one of which is held out for validation. Each part has its share of every
    class, and the parts are the same for every seed. With 0, the whole split is trained on."""
    val_fold: int | Literal["all"] = option(Role.DATA, 0, of_one_run=True)
    """The part that is held out, from 0 to val_folds - 1. With "all", each part is held out in turn from a model of its
    own, and thresholds and calibration are fitted to all these scores together. The final model is trained on the
    whole split."""
    threshold_objective: ThresholdObjective = option(Role.PROTOCOL, "f1")
    """What the threshold of a class is chosen for on the validation images. "f1" takes the best F1; "precision" takes
    the most recall with --threshold-target as the precision, "recall" the most precision with it as the recall."""
    threshold_target: float | None = option(Role.PROTOCOL, None)
    """The precision or recall wanted, above 0 and up to 1."""
    calibration: CalibrationMethod = option(Role.PROTOCOL, "platt")
    """How probabilities are calibrated on the validation images. "platt" fits a slope and an intercept for each class,
    "temperature" a slope alone."""
    thresholds: tuple[int, int] = option(Role.PROTOCOL, (20, 100))
    """Training counts that separate tail from medium and medium from head classes."""
    sampler: SamplerName | None = option(Role.METHOD, None, of_one_run=True)
    """How training images are drawn. "class-aware" draws every class equally often; "uniform" every image once per
    epoch; "repeat-factor" every image once, and those of rare classes again; "inverse-frequency" images at random, each
    class with the same chance. By default the sampler that the loss names, or uniform; class-aware in a published
    recipe, and for a head that is trained by SGD. An exact head weighs images by their expected draws."""
    samples_per_class: int = option(Role.METHOD, 3, at_least=1)
    """Images that the class-aware sampler draws from a class in a row."""
    epoch_reduce: float = option(Role.METHOD, 4.0, above=0)
    """Divisor of an epoch of the class-aware sampler: it draws (images of the largest class) x (classes) / this."""
    repeat_threshold: float | None = option(Role.METHOD, None, above=0, at_most=1)
    """Share of the training images below which the repeat-factor sampler repeats the images of a class. By default the
    share of the smallest head class: (second of --thresholds) / (training images)."""
    background_weight: float = option(Role.METHOD, 1.0, at_least=0)
    """How often the inverse-frequency sampler draws images without any label, all together: 1 is as often as one class,
    0 never."""
    image_size: int = option(Role.METHOD, 224, first=True, at_least=1, at_most=16_384)
    """Side of the square network inputs, in pixels."""
    cache_size: int | None = option(Role.METHOD, None, at_least=1)
    """Side of the decoded training images on disk, in finetune mode. By default large enough for the smallest crop."""
    batch_size: int = option(Role.METHOD, 32, at_least=2)
    """Images per step, on each device. At least 2, because batch norm trains on them."""
    precision: Precision = option(Role.PROTOCOL, "fp32")
    """Floating-point type of the network, in probe mode of its backbone. Losses and metrics are always in fp32."""
    compile: bool = option(Role.MACHINE, False)
    """Compile the backbone with torch.compile, in finetune mode. Steps are faster, after some minutes of compiling at
    the first step and at the first smaller batch. Needs a C++ compiler."""
    seed: int = option(Role.PROTOCOL, 0, first=True, of_one_run=True, at_least=0, below=2**63)
    """Seed of everything random. That is initial weights, sampling, augmentation and dropout."""
    model: ModelConfig = option(Role.METHOD, factory=ModelConfig)
    """The network."""
    head: HeadConfig = option(Role.METHOD, factory=HeadConfig)
    """How the head of a probe is found."""
    optim: OptimConfig = option(Role.METHOD, factory=OptimConfig)
    """Optimizer and schedule."""
    augment: Augmentation = option(Role.METHOD, factory=Augmentation)
    """Augmentation of training images, in finetune mode."""
    standardize_features: bool | None = option(Role.METHOD, None)
    """Scale features to unit norm and each dimension to mean 0 and variance 1 over the training set, before a head that
    is trained by SGD. By default where the model has a neck."""
    keep_backbone: bool = option(Role.MACHINE, True, of_one_run=True)
    """Keep the weights of the frozen backbone in the run folder, in probe mode, so that the model can be used when the
    file or download that they came from is gone. Else the folder only says what and where they were."""
    accelerator: Accelerator = option(Role.DEVICE, "auto", first=True)
    """What to compute on. By default the accelerator that there is."""
    devices: int = option(Role.DEVICE, 1, of_one_run=True, at_least=1)
    """Number of devices on each machine."""
    num_nodes: int = option(Role.DEVICE, 1, of_one_run=True, at_least=1)
    """Number of machines."""
    num_workers: int = option(Role.MACHINE, 0, at_least=0, at_most=1024)
    """Processes that load images ahead of training, for each device. With 0, a thread loads them ahead on a GPU, and a
    CPU loads them between steps."""
    tensorboard: bool = option(Role.MACHINE, False)
    """Write the losses for TensorBoard too, into the folder tensorboard of the run. Needs the extra tensorboard."""
    checkpoint_minutes: float = option(Role.MACHINE, 10.0, above=0)
    """Minutes after which the state of the run is saved inside an epoch. It is always saved at the end of an epoch."""
    quiet: bool = option(Role.DISPLAY, False, first=True)
    """Plain lines instead of progress bars."""
    resume: bool = option(Role.DISPLAY, False, first=True, of_one_run=True)
    """Continue the run in the output folder."""

    @property
    def is_solved(self) -> bool:
        """Whether the model is solved, without steps of training: a probe with an exact head."""
        return self.mode == "probe" and self.head.solver == "exact"


# A resumed run may change these: they have no effect on its results, except for rounding.
_WITHOUT_EFFECT = names_of(TrainConfig, Role.MACHINE, Role.DISPLAY)


def to_mapping(config: TrainConfig) -> dict[str, Any]:
    """The configuration as mappings, lists, numbers and strings."""
    plain: dict[str, Any] = _plain(asdict(config))
    return plain


def save(config: TrainConfig, path: Path) -> None:
    """Write the configuration as YAML that ``tailwise train --config`` reads."""
    with replacing(path) as temporary:
        temporary.write_text(yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True), encoding="utf-8")


def load(path: Path) -> TrainConfig:
    """Read a configuration written by :func:`save`.

    Raises:
        InputError: the file cannot be read, or has unknown options or values.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    add_options(parser, TrainConfig)
    try:
        return from_namespace(TrainConfig, parser.parse_path(path))
    except (ArgumentError, TypeError, UnicodeDecodeError, yaml.YAMLError, OSError) as error:
        raise InputError(f"{path} is not the configuration of a run: {' '.join(str(error).split())}") from error


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Options whose values make the two runs compute different things, as "--option: old, now new"."""
    return [f"{spelled(name, TrainConfig)}: {before!r}, now {after!r}" for name, before, after in changes(old, new)]


def changes(old: TrainConfig, new: TrainConfig) -> list[tuple[str, Any, Any]]:
    """Key, old and new value of the options that make the two runs compute different things, by key."""
    before, after = (flatten(to_mapping(config)) for config in (old, new))
    return [
        (name, before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if name not in _WITHOUT_EFFECT and before.get(name) != after.get(name)
    ]


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dots in the names."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
