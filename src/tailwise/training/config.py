"""Configuration of a training run: what the command line and YAML files set, and what a run folder records.

The defaults are the official recipe of the Distribution-Balanced Loss (Wu et al., ECCV 2020).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

import yaml  # type: ignore[import-untyped]

from tailwise.data.dataset import SPLIT_JOINER
from tailwise.data.pixels.augment import Augmentation
from tailwise.data.reading import ReadOptions, is_named
from tailwise.errors import InputError
from tailwise.files import replacing
from tailwise.loss_file import FORMULA, is_loss_file, read_loss_file
from tailwise.models.model_config import ModelConfig
from tailwise.options import add_options, from_namespace
from tailwise.spelling import near
from tailwise.training.schedule import OptimConfig as OptimConfig
from tailwise.training.schedule import SamplerName as SamplerName
from tailwise.training.schedule import scheduled

Mode = Literal["finetune", "probe"]
Precision = Literal["fp32", "bf16", "fp16"]
Accelerator = Literal["auto", "cpu", "gpu", "mps"]
ThresholdObjective = Literal["f1", "precision", "recall"]
CalibrationMethod = Literal["platt", "temperature"]

DEFAULT_SAMPLER: SamplerName = "class-aware"
"""How a run samples unless it, or its loss, says otherwise."""

NO_SPLIT: Final = "none"
"""The value of ``test_split`` with which a run is tested on nothing."""

ALL_FOLDS: Final = "all"
"""The value of ``val_fold`` with which every part is held out in turn."""

# Options that say where and how a run shows itself, not what it computes, but for rounding: a resumed run may change
# them.
_OPTIONS_WITHOUT_EFFECT = (
    *("output", "resume", "quiet", "cache", "num_workers", "checkpoint_minutes", "compile", "keep_backbone"),
    "tensorboard",
)

# Beyond what anybody means: a number with a digit too many is said at once, not by a machine that is overrun.
_MOST_PIXELS = 16_384
_MOST_WORKERS = 1024


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ReadOptions):
    """A training run. The same configuration, data and seed give the same model."""

    data: str
    """File of labels (CSV, Parquet, JSON lines, COCO), folder of a data set, hf:owner/name, or "digits"."""
    output: str
    """Folder of the run; made if absent."""
    loss: str = "db-focal"
    """Name of a loss, YAML file of its parameters, or package.module:Name of your own; each may end with a sampler, as
    in bce@uniform."""
    loss_options: dict[str, Any] = field(default_factory=dict)
    """Options of the loss, by name."""
    recipe: Literal["voc-mlt", "coco-mlt"] | None = None
    """Take the loss options published for this data set; loss_options win over them."""
    mode: Mode = "finetune"
    """Train the network (finetune), or neck and classifier on features of the frozen backbone (probe)."""
    train_split: str = "train"
    """Name of the training split; several are joined by a plus, such as train+val."""
    test_split: str = "test"
    """Name of the split that the final model is tested on, or "none" to test it on nothing."""
    val_split: str | None = None
    """Name of a split that the final model is validated on: thresholds and calibration are fitted there."""
    val_folds: int = 0
    """Number of parts that the training split is divided into, each with its share of every class, to hold one out for
    validation and train on the others; 0 to train on all of it. The parts are the same for every seed."""
    val_fold: int | Literal["all"] = 0
    """The part that is held out, from 0 to val_folds - 1. With "all", each is held out in turn from a model of its own,
    and their scores together give thresholds and calibration; the final model is trained on the whole split."""
    threshold_objective: ThresholdObjective = "f1"
    """What the threshold of a class is chosen for on the validation images: the best F1 (f1), or threshold_target as
    the precision, with the most recall (precision), or as the recall, with the most precision (recall)."""
    threshold_target: float | None = None
    """The precision or recall wanted, above 0 and up to 1."""
    calibration: CalibrationMethod = "platt"
    """How probabilities are brought to frequencies on the validation images: with a slope and an intercept per class
    (platt), or a slope alone (temperature)."""
    thresholds: tuple[int, int] = (20, 100)
    """Training counts that separate tail from medium and medium from head classes."""
    sampler: SamplerName | None = None
    """Draw every class equally often (class-aware); every image once per epoch (uniform); every image once, and those
    of rare classes again (repeat-factor); or images at random, each class with the same chance (inverse-frequency). By
    default the one that loss names, or class-aware."""
    samples_per_class: int = 3
    """Images that the class-aware sampler draws from a class in a row."""
    epoch_reduce: float = 4.0
    """Divisor of an epoch of the class-aware sampler: it draws (images of the largest class) x (classes) / this."""
    repeat_threshold: float | None = None
    """Share of the training images below which the repeat-factor sampler repeats the images of a class; by default the
    share of the smallest head class, which is (second of thresholds) / (training images)."""
    background_weight: float = 1.0
    """How often the inverse-frequency sampler draws images without any label, all together: 1 is as often as one class,
    0 never."""
    image_size: int = 224
    """Side of the square images that the network sees, in pixels."""
    cache_size: int | None = None
    """Side of the decoded training images on disk, for finetune; by default large enough for the smallest crop."""
    batch_size: int = 32
    """Images per step, on each device."""
    precision: Precision = "fp32"
    """Arithmetic of the network, for probe of the backbone; losses and metrics are computed in fp32 whatever it is."""
    compile: bool = False
    """Compile the backbone with torch.compile, for finetune: faster steps, after some minutes of compiling at the first
    one and at the first smaller batch. Needs a C++ compiler."""
    seed: int = 0
    """Seed of everything random: initial weights, sampling, augmentation, dropout."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and schedule."""
    augment: Augmentation = field(default_factory=Augmentation)
    """Augmentation of training images, for finetune."""
    standardize_features: bool | None = None
    """Scale features to unit norm and each dimension to mean 0 and variance 1 over the training set, for probe; by
    default where the model has a neck."""
    keep_backbone: bool = True
    """Keep the weights of the frozen backbone in the run folder, for probe, so that the model can be tested when the
    file or download that they came from is gone; else the folder only says what and where they were."""
    accelerator: Accelerator = "auto"
    """What to compute on; by default whatever there is."""
    devices: int = 1
    """Number of devices on each machine."""
    num_nodes: int = 1
    """Number of machines."""
    num_workers: int = 0
    """Processes that load images ahead of training, per device; with 0, a thread does on a GPU, and a CPU loads them in
    between."""
    tensorboard: bool = False
    """Write the losses for TensorBoard too, into the folder tensorboard of the run; the extra tensorboard brings it."""
    checkpoint_minutes: float = 10.0
    """Minutes after which the state of the run is saved inside an epoch; at the end of an epoch it is saved anyway."""
    quiet: bool = False
    """Plain lines instead of progress bars."""
    resume: bool = False
    """Continue the run in the output folder from its last checkpoint."""


def resolve(config: TrainConfig) -> TrainConfig:
    """Fill in what depends on other options, make paths absolute, and check every range.

    Where the loss is a file, its content takes its place, so that a run does not change with the file. A sampler that
    the loss names becomes that of the run.

    Raises:
        InputError: an option is out of its range, or the file of the loss cannot be used.
    """
    _check(config)
    sampler = config.sampler or DEFAULT_SAMPLER
    loss, at, named = config.loss.rpartition("@")
    if at and not is_loss_file(named):
        sampler = _sampler_of(config, named)
        config = replace(config, loss=loss)
    if is_loss_file(config.loss):
        options = read_loss_file(config.loss) | config.loss_options
        config = replace(config, loss=FORMULA, loss_options=options)
    model, standardize = config.model, config.standardize_features
    return replace(
        config,
        data=config.data if is_named(config.data) else _absolute_path(config.data),
        output=str(Path(config.output).absolute()),
        classes=_absolute(config.classes),
        root=_absolute(config.root),
        split_file=_absolute(config.split_file),
        sampler=sampler,
        standardize_features=model.has_neck if standardize is None else standardize,
        model=replace(
            model,
            neck="recipe" if model.has_neck else "none",
            weights=model.weights and model.weights.absolute(),
            label_embeddings=model.label_embeddings and model.label_embeddings.absolute(),
        ),
        optim=scheduled(config.optim, sampler),
    )


def _sampler_of(config: TrainConfig, named: str) -> SamplerName:
    """The sampler that stands after the @ of the loss."""
    known = get_args(SamplerName)
    if named not in known:
        raise InputError(
            f"--loss {config.loss}: no sampler {named!r}{near(named, known)}; there are {', '.join(known)}"
        )
    if config.sampler not in (None, named):
        raise InputError(f"--loss {config.loss} and --sampler {config.sampler} name two samplers; leave one out")
    return cast(SamplerName, named)


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
        InputError: the file cannot be read, or holds options or values that do not exist.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    add_options(parser, TrainConfig)
    try:
        return from_namespace(TrainConfig, parser.parse_path(path))
    except (ArgumentError, TypeError, UnicodeDecodeError, yaml.YAMLError, OSError) as error:
        raise InputError(f"{path} is not the configuration of a run: {' '.join(str(error).split())}") from error


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Options whose values make the two runs compute different things, as "name: old, now new"."""
    return [f"{name}: {before!r}, now {after!r}" for name, before, after in changes(old, new)]


def changes(old: TrainConfig, new: TrainConfig) -> list[tuple[str, Any, Any]]:
    """Name, old and new value of the options that make the two runs compute different things, by name."""
    before, after = (flatten(to_mapping(config)) for config in (old, new))
    return [
        (name, before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if name not in _OPTIONS_WITHOUT_EFFECT and before.get(name) != after.get(name)
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


def _check(config: TrainConfig) -> None:
    size = config.cache_size
    repeat, background = config.repeat_threshold, config.background_weight
    folds, fold, target = config.val_folds, config.val_fold, config.threshold_target
    rules = (
        ("output", repr(config.output), bool(config.output.strip()), "the name of a folder (. is this one)"),
        ("image_size", config.image_size, 1 <= config.image_size <= _MOST_PIXELS, f"1 to {_MOST_PIXELS}"),
        ("batch_size", config.batch_size, config.batch_size >= 2, "at least 2, because batch norm trains on it"),
        ("samples_per_class", config.samples_per_class, config.samples_per_class >= 1, "at least 1"),
        ("epoch_reduce", config.epoch_reduce, config.epoch_reduce > 0, "positive"),
        ("repeat_threshold", repeat, repeat is None or 0 < repeat <= 1, "in (0, 1]"),
        ("background_weight", background, background >= 0, "0 or more"),
        ("checkpoint_minutes", config.checkpoint_minutes, config.checkpoint_minutes > 0, "positive"),
        ("seed", config.seed, 0 <= config.seed < 2**63, "0 or more, and below 2**63"),
        ("devices", config.devices, config.devices >= 1, "at least 1"),
        ("num_nodes", config.num_nodes, config.num_nodes >= 1, "at least 1"),
        ("num_workers", config.num_workers, 0 <= config.num_workers <= _MOST_WORKERS, f"0 to {_MOST_WORKERS}"),
        ("cache_size", size, size is None or 1 <= size <= 2 * config.image_size, "at most twice image_size"),
        ("val_folds", folds, folds == 0 or folds >= 2, "0, or 2 or more"),
        ("val_fold", fold, fold == ALL_FOLDS or 0 <= fold < max(1, folds), "0 or more, and below val_folds"),
        ("threshold_target", target, _fits(target, config.threshold_objective), "in (0, 1], or null for f1"),
        ("thresholds", config.thresholds, 0 <= config.thresholds[0] <= config.thresholds[1], "two rising counts"),
    )
    for name, value, allowed, expected in rules:
        if not allowed:
            raise InputError(f"{name} must be {expected}, got {value}")
    if config.compile and config.mode == "probe":
        raise InputError("compile is for mode finetune: a probe runs its backbone once over the images; leave it out")
    _check_splits(config)
    _check_cross_fitting(config)


def _fits(target: float | None, objective: ThresholdObjective) -> bool:
    return target is None if objective == "f1" else target is not None and 0 < target <= 1


def _check_splits(config: TrainConfig) -> None:
    if config.val_split is not None and config.val_folds:
        raise InputError("val_split and val_folds are both given; choose one")
    splits = {"train_split": config.train_split, "test_split": config.test_split, "val_split": config.val_split}
    if config.test_split == NO_SPLIT:
        del splits["test_split"]
    given = {name: set(split.split(SPLIT_JOINER)) for name, split in splits.items() if split is not None}
    for (first, parts), (second, others) in combinations(given.items(), 2):
        if parts & others:
            raise InputError(
                f"{first} and {second} both have {min(parts & others)!r}; train, test and validate on different images"
            )


def _check_cross_fitting(config: TrainConfig) -> None:
    if config.val_fold != ALL_FOLDS:
        return
    if not config.val_folds:
        raise InputError("val_fold all holds out every part in turn: say how many there are with val_folds, such as 5")
    if config.devices * config.num_nodes > 1:
        raise InputError(
            f"val_fold all trains one model after the other on one device, got devices {config.devices} and num_nodes "
            f"{config.num_nodes}: train with one device, or each part as a run of its own (val_fold 0, 1, ...)"
        )


def _absolute(path: str | None) -> str | None:
    return None if path is None else _absolute_path(path)


def _absolute_path(path: str) -> str:
    # Not resolved: where a link to a file lies says where its images are. But "a/../b" and "b" are one folder.
    return os.path.normpath(Path(path).absolute())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
