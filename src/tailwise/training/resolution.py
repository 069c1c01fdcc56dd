"""Resolution of configurations: options that depend on others filled in, and combinations checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from tailwise.data.dataset import SPLIT_JOINER
from tailwise.data.reading import is_named
from tailwise.errors import InputError
from tailwise.losses import is_dotted_path, is_loss_file, read_loss_file
from tailwise.models.model_config import PUBLISHED_FROZEN_STAGES
from tailwise.options import Role, flag, names_of
from tailwise.spelling import near
from tailwise.training.config import (
    ALL_FOLDS,
    DEFAULT_SAMPLER,
    NO_SPLIT,
    RIDGE,
    SamplerName,
    ThresholdObjective,
    TrainConfig,
)
from tailwise.training.optim_config import CURRENT, FROM_RANDOM, PUBLISHED, completed

_LOGISTIC: Final = "logistic"


def resolve(config: TrainConfig) -> TrainConfig:
    """Fill in options that depend on others, make paths absolute, and check combinations of options.

    A loss that is a file is replaced by its content, so that a run does not change with the file. A sampler that the
    loss names becomes that of the run.

    Raises:
        InputError: options do not go together, or the file of the loss cannot be used.
    """
    _check(config)
    config = _with_solver(_with_sampler(config))
    if is_loss_file(config.loss):
        options = read_loss_file(config.loss) | config.loss_options
        config = replace(config, loss="formula", loss_options=options)
    # Links are kept: images are found from the place of a link to a file. But "a/../b" and "b" are one folder.
    places: dict[str, Any] = {
        name: os.path.normpath(Path(path).absolute())
        for name in names_of(TrainConfig, Role.PLACE)
        if (path := getattr(config, name)) is not None and not (name == "data" and is_named(path))
    }
    model, standardize = config.model, config.standardize_features
    neck = model.neck or _neck_of(config)
    frozen = PUBLISHED_FROZEN_STAGES if _is_published(config) else -1
    assert config.sampler is not None
    return replace(
        config,
        **places,
        output=str(Path(config.output).absolute()),
        standardize_features=neck == "recipe" if standardize is None else standardize,
        model=replace(
            model,
            neck=neck,
            frozen_stages=frozen if model.frozen_stages is None else model.frozen_stages,
            weights=model.weights and model.weights.absolute(),
            label_embeddings=model.label_embeddings and model.label_embeddings.absolute(),
        ),
        optim=completed(config.optim, _recipe_of(config), is_class_aware=config.sampler == "class-aware"),
    )


def _is_published(config: TrainConfig) -> bool:
    """Whether what is left open is that of the published recipe: in training by steps on features, and where asked."""
    return config.mode == "probe" or config.recipe is not None


def _recipe_of(config: TrainConfig) -> Mapping[str, Any]:
    """The options of the optimizer by default."""
    if _is_published(config):
        return PUBLISHED
    return CURRENT if config.head.solver == "exact" else FROM_RANDOM


def _neck_of(config: TrainConfig) -> Literal["recipe", "unit", "none"]:
    """The neck by default."""
    if config.head.solver == "exact":
        return "none" if config.mode == "probe" else "unit"
    if config.model.head != "linear":
        return "none"
    return "recipe" if _is_published(config) else "unit"


def _with_sampler(config: TrainConfig) -> TrainConfig:
    """The configuration with the sampler that its loss names."""
    loss, at, named = config.loss.rpartition("@")
    if at and not is_loss_file(named):
        config = replace(config, loss=loss, sampler=_sampler_of(config, named))
    names = config.loss.split("+")
    if _LOGISTIC in names:
        if config.sampler not in (None, "uniform"):
            raise InputError(f"logistic regression weighs all images alike: give --loss bce@{config.sampler}")
        names = ["bce" if name == _LOGISTIC else name for name in names]
        config = replace(config, loss="+".join(names), sampler="uniform")
    return config


def _with_solver(config: TrainConfig) -> TrainConfig:
    """The configuration with its solver, and the sampler that this has by default.

    Raises:
        InputError: the model or the loss is not one for the solver.
    """
    model, solver, is_probe = config.model, config.head.solver, config.mode == "probe"
    is_linear = model.head == "linear" and model.neck in ((None, "unit", "none") if is_probe else (None, "unit"))
    if solver is None:
        solver = "exact" if is_linear and (is_probe or config.recipe is None) else "sgd"
    if solver == "exact" and not is_linear:
        given = f"--model.head {model.head}" if model.head != "linear" else f"--model.neck {model.neck}"
        raise InputError(f"--head.solver exact solves linear heads only, got {given}: give --head.solver sgd")
    if solver == "exact" and not is_probe and config.head.transform not in ("auto", "none"):
        raise InputError(
            f"--head.transform {config.head.transform} is for --mode probe: a network that is fine-tuned scales its "
            "features to unit norm; leave it out"
        )
    if solver == "exact" and is_probe and config.devices * config.num_nodes > 1:
        raise InputError(
            f"an exact head is solved on one device, got --devices {config.devices} and --num-nodes {config.num_nodes}"
        )
    names = [] if is_loss_file(config.loss) or is_dotted_path(config.loss) else config.loss.split("+")
    if not (solver == "exact" and is_probe) and (RIDGE in names or len(names) > 1):
        raise InputError(
            f"--loss {config.loss} is for exact heads: give --mode probe and no other solver, neck or head"
        )
    if config.loss_options and (RIDGE in names or len(names) > 1):
        raise InputError(f"--loss {config.loss} takes no --loss-options; its parts have their defaults")
    weighs_alike = not _is_published(config) or (is_probe and solver == "exact")
    sampler = config.sampler or ("uniform" if weighs_alike else DEFAULT_SAMPLER)
    is_judged = is_probe and solver == "exact" and config.val_fold == ALL_FOLDS
    folds = config.val_folds if is_judged else config.head.folds
    return replace(config, sampler=sampler, head=replace(config.head, solver=solver, folds=folds))


def _sampler_of(config: TrainConfig, named: str) -> SamplerName:
    """The sampler named after the @ of the loss."""
    known = get_args(SamplerName)
    if named not in known:
        raise InputError(
            f"--loss {config.loss}: no sampler {named!r}{near(named, known)}; there are {', '.join(known)}"
        )
    if config.sampler not in (None, named):
        raise InputError(f"--loss {config.loss} and --sampler {config.sampler} name two samplers; leave one out")
    return cast(SamplerName, named)


def _check(config: TrainConfig) -> None:
    """Check rules that are more than the range of one option."""
    size, folds, fold = config.cache_size, config.val_folds, config.val_fold
    target = config.threshold_target
    rules = (
        ("output", repr(config.output), bool(config.output.strip()), "the name of a folder (. is this one)"),
        ("cache_size", size, size is None or size <= 2 * config.image_size, "at most twice --image-size"),
        ("val_folds", folds, folds != 1, "0, or 2 or more"),
        ("val_fold", fold, fold == ALL_FOLDS or 0 <= fold < max(1, folds), "0 or more, and below --val-folds"),
        (
            "threshold_target",
            target,
            _fits(target, config.threshold_objective),
            "above 0 and at most 1, or null for f1",
        ),
        ("thresholds", config.thresholds, 0 <= config.thresholds[0] <= config.thresholds[1], "two rising counts"),
    )
    for name, value, allowed, expected in rules:
        if not allowed:
            raise InputError(f"{flag(name)} must be {expected}, got {value}")
    if config.compile and config.mode == "probe":
        raise InputError(
            "--compile is for --mode finetune: a probe runs its backbone once over the images; leave it out"
        )
    if config.model.is_spatial and config.mode == "probe":
        raise InputError(
            f"--model.head {config.model.head} needs the features of all locations, and a probe has pooled ones: give "
            "--mode finetune, or --model.head linear"
        )
    _check_splits(config)
    _check_cross_fitting(config)


def _fits(target: float | None, objective: ThresholdObjective) -> bool:
    return target is None if objective == "f1" else target is not None and 0 < target <= 1


def _check_splits(config: TrainConfig) -> None:
    if config.val_split is not None and config.val_folds:
        raise InputError("--val-split and --val-folds are both given; choose one")
    splits = {"train_split": config.train_split, "test_split": config.test_split, "val_split": config.val_split}
    if config.test_split == NO_SPLIT:
        del splits["test_split"]
    given = {name: set(split.split(SPLIT_JOINER)) for name, split in splits.items() if split is not None}
    for (first, parts), (second, others) in combinations(given.items(), 2):
        if parts & others:
            raise InputError(
                f"{flag(first)} and {flag(second)} both have {min(parts & others)!r}; train, test and validate on "
                "different images"
            )


def _check_cross_fitting(config: TrainConfig) -> None:
    if config.val_fold != ALL_FOLDS:
        return
    if not config.val_folds:
        raise InputError("--val-fold all holds out every part in turn: give their number, such as --val-folds 5")
    if config.devices * config.num_nodes > 1:
        raise InputError(
            f"--val-fold all trains one model after the other on one device, got --devices {config.devices} and "
            f"--num-nodes {config.num_nodes}: train on one device, or each part as a run of its own (--val-fold 0, "
            "1, ...)"
        )
