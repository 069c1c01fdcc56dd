"""Runs: training and testing of a model into a folder, cross-fitting, and evaluation of a finished run."""

from __future__ import annotations

import json
import logging
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tailwise import losses
from tailwise.data.dataset import Dataset, Features
from tailwise.data.reading import ReadOptions
from tailwise.errors import InputError, require_extra
from tailwise.labels import LabelStats
from tailwise.metrics import Decisions
from tailwise.models.backbone import refuse_sources, try_backbone
from tailwise.models.extractor import RECORD_FILE
from tailwise.models.gcn import embeddings_source
from tailwise.models.heads import require_memory
from tailwise.training import exact, finetune, inputs, probe
from tailwise.training.config import ALL_FOLDS, NO_SPLIT, RIDGE, TrainConfig, load, save
from tailwise.training.datamodule import check_epoch
from tailwise.training.finetune import require_compiler
from tailwise.training.folder import (
    CONFIG_FILE,
    METRICS_FILE,
    STATS_FILE,
    THRESHOLDS_FILE,
    VALIDATION_FILE,
    checkpoint_path,
    claim,
    is_first_process,
    load_thresholds,
    make_output,
    model_state,
    read_logits,
    require_same_labels,
    versions,
    write_json,
    write_model,
    write_skipped,
)
from tailwise.training.inputs import RunSplits, check_labels, each_fold, read_run
from tailwise.training.resolution import resolve
from tailwise.training.testing import TrainingTask, choose_device, judge_folds, run_test, run_validation
from tailwise.training.trainer import create_sampler, fit

FOLDS_FOLDER = "folds"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Result:
    """The metrics of a test.

    Attributes:
        metrics: the content of metrics.json; see :func:`tailwise.training.testing.score`.
        folder: where metrics and predictions were written, or None.
    """

    metrics: dict[str, Any]
    folder: Path | None


def train(config: TrainConfig) -> Result | None:
    """Train as configured, test the final model, and write everything into the run folder.

    The folder then holds config.yaml, stats.json (counts, names and groups of the classes), logs,
    checkpoints/last.ckpt, curves.npz (mean probabilities during training), metrics.json and, if there is a test split,
    predictions.parquet, and, if there are validation images, validation.parquet and thresholds.json, with suspects.csv
    if these are all training images, each written whole or not at all; and backbone.json, the record of the backbone,
    with backbone.safetensors of a probe. With ``config.val_fold`` "all", all training images are validated on; see
    :func:`cross_fit`. With ``config.resume``, an interrupted run continues from its last checkpoint, with the results
    of an uninterrupted one.

    Args:
        config: the run.

    Returns:
        The metrics of the final epoch; None in processes other than the first.

    Raises:
        InputError: the configuration, data or folder cannot be used, or the loss became NaN or infinite.
    """
    return _train(config)


def _train(config: TrainConfig, part: RunSplits | None = None) -> Result | None:
    """Train as :func:`train` does, on labels read before where the run is a part of a cross-fitting."""
    started = time.perf_counter()
    given_loss = config.loss
    config = resolve(config)
    if config.tensorboard:
        require_extra("--tensorboard", "tensorboard")
    folder = Path(config.output)
    device = choose_device(config.accelerator, config.precision)
    if config.resume:
        config = inputs.with_division_of(folder / CONFIG_FILE, config)
    recorded = claim(config, folder)
    if recorded is not None:
        return Result(recorded, folder)
    # The parts of a cross-fitting, in folders of its folder, start with its backbone.
    origin = folder if part is None else folder.parents[1]
    config, splits = _checked(config, part, given_loss, origin)
    if config.compile:
        require_compiler(device)
    if config.mode == "finetune":
        task = finetune.new_task(config, splits, device, create_loss)
    else:
        task = probe.new_task(config, splits, device, origin)
    stats = _stats(task.train.split, config)
    if is_first_process():
        _write_start(config, stats, task, folder)
    validation, decisions = None, None
    trained: dict[str, Any]
    if config.is_solved:
        solved = _solve(config, task, device, folder)
        trained = {"solved": solved.record}
        if task.validation is None:
            validation, decisions = judge_folds(config, solved.held_out, task.train.split, solved.folds, stats, folder)
    else:
        if config.val_fold == ALL_FOLDS:
            validation, decisions = cross_fit(config, splits, task, stats, folder)
        trained = {"steps": fit(config, task, create_loss(config, stats), stats, folder)}
    if not is_first_process():
        return None
    if validation is None:
        validation, decisions = run_validation(config, task, stats, device, folder, tell=part is None)
    metrics = {
        **run_test(config, task, stats, device, decisions, folder),
        **({} if validation is None else {"validation": validation}),
        "loss": config.loss,
        "recipe": config.recipe,
        "mode": config.mode,
        "head": config.model.head,
        "label_embeddings": embeddings_source(config.model, seed=config.seed),
        "epochs": None if config.is_solved else config.optim.epochs,
        **trained,
        "seed": config.seed,
        "seconds": round(time.perf_counter() - started, 2),
        "versions": versions(),
    }
    write_json(folder / METRICS_FILE, metrics)
    return Result(metrics, folder)


def _checked(
    config: TrainConfig, part: RunSplits | None, given_loss: str, origin: Path
) -> tuple[TrainConfig, RunSplits]:
    """The labels of a run, and its configuration with their division, after all checks that need no images.

    Args:
        config: the run, resolved.
        part: its labels, if they were read before.
        given_loss: the loss as the user named it, for messages.
        origin: the folder where the backbone is recorded, if the run was begun.
    """
    for name in losses_of(config):  # a misspelt name, before anything is read
        try:
            if not losses.is_dotted_path(name):
                losses.option_names(name)
        except ValueError as error:
            raise InputError(f"--loss {given_loss}: {error}") from error
    splits = part or read_run(config)
    # A run that was begun has recorded its backbone, even where the file of its weights is gone.
    needs_backbone = not isinstance(splits.whole.inputs, Features) and not (origin / RECORD_FILE).is_file()
    num_features = try_backbone(config.model, config.image_size) if needs_backbone else None
    config = replace(config, split_ratios=splits.ratios)
    stats = _stats(splits.train, config)
    check_labels(splits, stats, tell=part is None)
    if num_features is not None:
        require_memory(config.model, num_features, stats.num_classes)
    # Images may take long to decode: sampler and loss are tried first. Their warnings come when they are made for
    # training.
    with warnings.catch_warnings(action="ignore"):
        check_epoch(create_sampler(config, splits.train.targets), config)
        for name in losses_of(config):
            create_loss(replace(config, loss=name), stats, given_loss)
    return config, splits


def losses_of(config: TrainConfig) -> list[str]:
    """The losses of a run: several where heads are averaged; without ridge regression, which is none."""
    return [name for name in config.loss.split("+") if name != RIDGE]


def _solve(config: TrainConfig, task: TrainingTask, device: torch.device, folder: Path) -> exact.Solved:
    """Solve the head of a probe, and write the model."""
    assert isinstance(task.model, probe.ProbeModel)
    features = task.train.table.batch(torch.arange(len(task.train.split))).to(device)
    solved = exact.solve_head(features, task.train.split, config, create_loss)
    task.model.load_head(solved.transform, solved.weight, solved.bias)
    if is_first_process():
        write_model(folder, task.model)
    return solved


def require_finished(run: Path) -> dict[str, Any]:
    """The metrics of a finished run.

    Raises:
        InputError: the folder holds none.
    """
    path = run / METRICS_FILE
    if not path.is_file():
        raise InputError(f"{run} is not the folder of a finished run: there is no {METRICS_FILE} in it")
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return metrics


def evaluate(
    run: Path,
    *,
    data: str | Dataset | None = None,
    options: ReadOptions | None = None,
    split: str | None = None,
    output: Path | None = None,
    trust: bool = False,
) -> Result:
    """Test the model of a finished run, also at the thresholds and with the calibration in its folder.

    Args:
        run: folder of the run.
        data: other data with classes of the run, or where they lie; by default the data of the run.
        options: how to read other data; the classes are always those of the run.
        split: split to test on; by default the test split of the run, or all rows of other data.
        output: folder for metrics and predictions, and the list of images left out; nothing is written without it.
        trust: whether the configuration of the run may name a backbone that is read from files or the network.

    Raises:
        InputError: the run is not finished, the data do not fit it, or ``output`` has results already.
    """
    require_finished(run)
    if output is not None and (output / METRICS_FILE).exists():
        raise InputError(f"{output} has results already; give another output")
    config = load(run / CONFIG_FILE)
    if not trust:
        refuse_sources(config.model, str(run / CONFIG_FILE), "give --trust if you trust whoever made the run")
    stats = LabelStats.load(run / STATS_FILE)
    decisions = load_thresholds(run)
    if decisions is not None and decisions.class_names != stats.class_names:
        raise InputError(
            f"{run / THRESHOLDS_FILE} has other classes than the run; remove it to continue without thresholds"
        )
    device = choose_device(
        "cpu" if config.accelerator == "cpu" else "auto", config.precision if config.mode == "probe" else "fp32"
    )
    if isinstance(data, Dataset) and output is not None:
        raise InputError("a report cannot read data in memory again: save them, and give the file with the output")
    config, rows, name = _rows_to_test(run, config, data, options or ReadOptions(), split, stats)
    state = model_state(run)
    if config.mode == "finetune":
        task = finetune.evaluation_task(run, config, state, rows)
    else:
        task = probe.evaluation_task(run, config, state, rows, device)
    if output is not None:
        make_output(output)
    metrics = {
        **run_test(config, task, stats, device, decisions, output),
        "run": str(run.absolute()),
        "reading": inputs.record_reading(config, name),
        "versions": versions(),
    }
    if output is not None:
        assert task.test is not None
        write_skipped(task.test.split.skipped, output)
        write_json(output / METRICS_FILE, metrics)
    return Result(metrics, output)


def _rows_to_test(
    run: Path,
    config: TrainConfig,
    data: str | Dataset | None,
    options: ReadOptions,
    split: str | None,
    stats: LabelStats,
) -> tuple[TrainConfig, Dataset, str | None]:
    """The rows that a finished run is tested on, the configuration that reads them, and the name of their split."""
    name = split or (config.test_split if data is None else None)
    if name == config.test_split == NO_SPLIT and split is None:
        raise InputError(f"the run in {run} has no test split: say what to test it on with --split or --data")
    if isinstance(data, Dataset):
        return config, inputs.select_rows(data.with_classes(stats.class_names), name, config), name
    trained_on = config.train_split if data is None else None
    if data is not None:
        config = inputs.read_as(config, data, options)
    rows = inputs.read_rows(config.data, name, config, classes=stats.class_names, train_split=trained_on)
    return config, rows, name


def create_loss(config: TrainConfig, stats: LabelStats, given: str | None = None) -> nn.Module:
    """Make the loss of a resolved configuration: one of tailwise by name, or another by its dotted path.

    Args:
        config: names the loss.
        stats: statistics of the training labels.
        given: the name that the user gave, for messages; by default that of the configuration.

    Raises:
        InputError: there is no such loss, or it does not take these options.
    """
    try:
        if losses.is_dotted_path(config.loss):
            return losses.create_custom(config.loss, stats, **config.loss_options)
        return losses.create(config.loss, stats, config.recipe, **config.loss_options)
    except ValueError as error:
        raise InputError(f"--loss {given or config.loss}: {error}") from error


def _stats(split: Dataset, config: TrainConfig) -> LabelStats:
    return LabelStats.from_targets(split.targets, split.class_names, config.thresholds)


def _write_start(config: TrainConfig, stats: LabelStats, task: TrainingTask, folder: Path) -> None:
    """Write the configuration, statistics, backbone and skipped rows of a run that starts."""
    if config.resume:
        require_same_labels(folder, stats)
    checkpoint_path(folder).parent.mkdir(parents=True, exist_ok=True)
    save(replace(config, resume=False), folder / CONFIG_FILE)
    stats.save(folder / STATS_FILE)
    task.write_backbone(folder)
    opened = (task.train, task.test, task.validation)
    write_skipped(tuple(entry for images in opened if images is not None for entry in images.split.skipped), folder)


def cross_fit(
    config: TrainConfig,
    splits: RunSplits,
    task: TrainingTask,
    stats: LabelStats,
    folder: Path,
) -> tuple[dict[str, Any], Decisions]:
    """Hold out each part of the training split from a run of its own, and fit thresholds to all held-out scores.

    The runs are in the folders ``folds/0``, ``folds/1``, ... of the run folder, each a usual run with that part held
    out and without a test split. Finished ones are reused, interrupted ones continue. validation.parquet has the scores
    of all training images, thresholds.json the fitted thresholds, suspects.csv the labels that the scores contradict.

    Args:
        config: the run, resolved.
        splits: its labels.
        task: its training images; unreadable ones are missing.
        stats: statistics of the training labels, which give the groups.
        folder: the run folder.

    Returns:
        The metrics of the scores, at probability 1/2, and the thresholds and calibration.

    Raises:
        InputError: a run without one of the parts fails.
    """
    parts = each_fold(splits, config.val_folds)
    for part in parts:  # all are checked before the first is trained
        labels = part.train
        check_labels(part, LabelStats.from_targets(labels.targets, labels.class_names), tell=False)
    places = [folder / FOLDS_FOLDER / str(fold) for fold in range(config.val_folds)]
    for fold, (part, place) in enumerate(zip(parts, places, strict=True)):
        _logger.info("holding out fold %d of %d (from 0)", fold, config.val_folds)
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # those of the whole split suffice
            _train(_held_out(config, fold, place), replace(part, test=None))
    logits = torch.from_numpy(read_logits([place / VALIDATION_FILE for place in places], task.train.split))
    metrics, decisions = judge_folds(config, logits, task.train.split, config.val_folds, stats, folder)
    total = metrics["mAP"]["total"]
    found = "undefined" if total is None else f"{total:.2f}"
    _logger.info("cross-validated mAP: %s; now training on all images of split %r", found, task.train.split.name)
    return metrics, decisions


def _held_out(config: TrainConfig, fold: int, place: Path) -> TrainConfig:
    """The run that holds out a fold; it continues if it was started."""
    return replace(
        config, val_fold=fold, output=str(place), test_split=NO_SPLIT, keep_backbone=False, resume=place.exists()
    )
