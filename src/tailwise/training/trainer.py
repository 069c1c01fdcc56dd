"""Training of a model: Lightning module, learning-rate schedule, samplers and trainer."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from tailwise.data.samplers import (
    ClassAwareSampler,
    EpochSampler,
    InverseFrequencySampler,
    RepeatFactorSampler,
    UniformSampler,
)
from tailwise.errors import InputError
from tailwise.files import replacing
from tailwise.labels import LabelStats
from tailwise.matrix import Targets
from tailwise.training.callbacks import LastCheckpoint, LossLog, ProbabilityCurveCallback, TrainingProgress
from tailwise.training.config import ALL_FOLDS, Precision, TrainConfig
from tailwise.training.datamodule import Batch, TrainData
from tailwise.training.folder import CURVES_FILE, checkpoint_path, forget_logs_after, is_first_process, steps_in
from tailwise.training.optim_config import OptimConfig, known
from tailwise.training.optimizer import (
    create_average,
    create_optimizer,
    create_schedule,
    trained_parameters,
    warmup_steps,
)
from tailwise.training.testing import TrainingTask

_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}

# Reading losses waits for the device; the decision to save waits for all processes.
_STEPS_BETWEEN_LOOKS = 50

# A probe's epochs are short: saving each would take longer than the epoch.
_STEPS_BETWEEN_PROBE_CHECKPOINTS = 1000

# The head's operations on small batches are too short to be shared between threads: on a busy machine, waiting for the
# other threads takes many times as long as the work.
_LARGEST_BATCH_FOR_ONE_THREAD = 256

# Warnings of Lightning that do not apply here, each with the reason.
_WITHOUT_CONSEQUENCE = (
    "The 'train_dataloader' does not have many workers",  # rows come from a table: workers would slow it down
    r"Found \d+ module\(s\) in eval mode at the start of training",  # frozen batch norm is intended
    "GPU available but not used",  # the user chose the CPU
    "The number of training batches",  # LossLog logs the losses, at the end of an epoch at the latest
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # between Lightning and torch
    r"\d+ of \d+ classes have no image and are never drawn",  # reported before, by name
)

_ONLY_WARM_UP = (
    "the training has fewer steps than its warm-up, --warmup-steps %d, so that the learning rate never reaches "
    "--lr: lower --warmup-steps, or train for more epochs"
)

_logger = logging.getLogger(__name__)


def fit(
    config: TrainConfig,
    task: TrainingTask,
    loss: nn.Module,
    stats: LabelStats,
    folder: Path,
    callbacks: Sequence[pl.Callback] = (),
) -> int:
    """Train the model of a task, and leave logs, the checkpoint and the probability curves in the run folder.

    Args:
        config: the run, resolved.
        task: model and data.
        loss: called with (logits, targets).
        stats: names and groups of the classes.
        folder: the run folder.
        callbacks: further callbacks, called after all others.

    Returns:
        The number of steps of the whole training.

    Raises:
        InputError: the device has too little memory, or the loss became NaN or infinite.
    """
    epochs = known(config.optim.epochs)
    is_short = config.mode == "probe" and config.batch_size <= _LARGEST_BATCH_FOR_ONE_THREAD
    with contained(), threads(1 if is_short else None):
        data = _train_data(config, task)
        steps_per_epoch = len(data.batches())
        warmup = warmup_steps(config.optim, epochs * steps_per_epoch)
        if epochs * steps_per_epoch < warmup:
            _logger.warning(_ONLY_WARM_UP, warmup)
        module = MultiLabelModule(
            task.model.train(),
            loss,
            config.optim,
            steps_per_epoch=steps_per_epoch,
            seed=config.seed,
        )
        between = 1 if config.mode == "finetune" else -(-_STEPS_BETWEEN_PROBE_CHECKPOINTS // steps_per_epoch)
        checkpoint = checkpoint_path(folder)
        resume_from = checkpoint if config.resume and checkpoint.exists() else None
        steps_done = 0 if resume_from is None else steps_in(resume_from)
        if config.resume and is_first_process():
            forget_logs_after(folder, steps_done)
        curves = ProbabilityCurveCallback(folder / CURVES_FILE, stats, epochs * steps_per_epoch)
        average = create_average(config.optim, epochs * steps_per_epoch)
        recorded = [curves, *([] if average is None else [average]), *callbacks]
        trainer = create_trainer(
            config, folder, epochs=epochs, checkpoint_every=between, first_step=steps_done, callbacks=recorded
        )
        try:
            trainer.fit(module, datamodule=data, ckpt_path=resume_from)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"the device has too little memory for --batch-size {config.batch_size} at --image-size "
                f"{config.image_size}: lower one of them, or train with --precision bf16"
            ) from error
    return epochs * steps_per_epoch


class MultiLabelModule(pl.LightningModule):
    """Trains ``model`` with ``loss`` on batches of inputs and targets.

    Random numbers of the model (dropout) restart in every step from (seed, epoch, step, process), so that a resumed run
    draws the same ones as an uninterrupted one.

    Args:
        model: maps inputs to (B, K) logits.
        loss: called with (logits, targets).
        optim: optimizer and schedule, completed.
        steps_per_epoch: optimizer steps in an epoch.
        seed: seed of the model's random numbers.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        optim: OptimConfig,
        *,
        steps_per_epoch: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.optim = optim
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = create_optimizer(self.model, self.optim)
        schedule = create_schedule(optimizer, self.optim, self.steps_per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        entropy = [self.seed, self.current_epoch, batch_idx, self.global_rank]
        seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
        # Not torch.manual_seed, which takes 0.1 ms to seed every kind of device.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    @override
    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning does not clip with fused optimizers, because they get scaled gradients in fp16.
        if gradient_clip_val is None:
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(trained_parameters(optimizer), gradient_clip_val)

    @override
    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        logits: Tensor = self.model(batch.inputs)
        return {"loss": self.loss(logits, batch.targets), "logits": logits.detach()}


def create_sampler(config: TrainConfig, targets: Targets) -> EpochSampler:
    """Make the sampler that a configuration names, for all processes of the run."""
    # The rank of a process is known when the trainer has started all processes; their number is needed before.
    shared: dict[str, Any] = {"seed": config.seed, "num_replicas": config.devices * config.num_nodes}
    match config.sampler:
        case "uniform":
            return UniformSampler(targets, **shared)
        case "class-aware":
            return ClassAwareSampler(
                targets, samples_per_class=config.samples_per_class, reduce=config.epoch_reduce, **shared
            )
        case "inverse-frequency":
            return InverseFrequencySampler(targets, background=config.background_weight, **shared)
        case "repeat-factor":
            threshold = config.repeat_threshold
            if threshold is None:
                threshold = min(1.0, config.thresholds[1] / targets.shape[0])
            return RepeatFactorSampler(targets, threshold=threshold, **shared)
        case None:
            raise ValueError("the configuration of the run is not resolved: it has no sampler")


def create_trainer(
    config: TrainConfig,
    folder: Path,
    *,
    epochs: int,
    checkpoint_every: int,
    first_step: int = 0,
    callbacks: Sequence[pl.Callback] = (),
) -> pl.Trainer:
    """Make the trainer of a run.

    Args:
        config: gives devices, precision, clipping and whether progress is shown.
        folder: the run folder; logs and checkpoints go into it.
        epochs: number of epochs.
        checkpoint_every: epochs between two checkpoints at their end.
        first_step: number of steps that are done; logs of later steps are discarded.
        callbacks: further callbacks.
    """
    plugins: list[Any] = [SafeCheckpointIO()]
    if SLURMEnvironment.detect():
        # By default, Lightning saves in the handler of a signal, possibly in the middle of a step. Here the job ends
        # with the signal to terminate, LastCheckpoint saves after the step, and --resume continues from there.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    loggers: list[Logger] = [CSVLogger(folder, name="logs", flush_logs_every_n_steps=1)]
    if config.tensorboard:
        loggers.append(TensorBoardLogger(folder, name="tensorboard", version="", purge_step=first_step + 1))
    losses = LossLog(config.loss, known(config.optim.lr), read_every=_STEPS_BETWEEN_LOOKS)
    return pl.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        precision=_PRECISIONS[trained_precision(config)],  # type: ignore[arg-type]
        max_epochs=epochs,
        gradient_clip_val=config.optim.clip_norm,
        use_distributed_sampler=False,
        callbacks=[
            losses,
            TrainingProgress(losses, show=not config.quiet, title=_title(config)),
            LastCheckpoint(
                checkpoint_path(folder),
                checkpoint_every,
                minutes=config.checkpoint_minutes,
                look_every=_STEPS_BETWEEN_LOOKS,
            ),
            *callbacks,
        ],
        logger=loggers,
        plugins=plugins,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, and reads tensors and numbers only."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with replacing(path) as temporary:
            torch.save(checkpoint, temporary)

    @override
    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        return checkpoint


def trained_precision(config: TrainConfig) -> Precision:
    """Precision that a run trains in; in probe mode, the configured precision is that of the backbone alone."""
    return config.precision if config.mode == "finetune" else "fp32"


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Run the operations of the block on ``count`` CPU threads; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def contained() -> Iterator[None]:
    """Keep the effects of Lightning within the block: its messages, and its changes to the process.

    The random state of torch, log levels, warning filters and the handler of interrupts are restored. An interrupt,
    which Lightning turns into an exit, becomes a KeyboardInterrupt again; a run that received the signal to terminate
    exits with the code of that signal.
    """
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    in_main_thread = threading.current_thread() is threading.main_thread()
    on_interrupt = signal.getsignal(signal.SIGINT)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with warnings.catch_warnings(), torch.random.fork_rng(devices=devices):
        for message in _WITHOUT_CONSEQUENCE:
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        except SIGTERMException as error:
            raise SystemExit(128 + signal.SIGTERM) from error
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            raise
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if in_main_thread:
                signal.signal(signal.SIGINT, on_interrupt)


def _title(config: TrainConfig) -> str:
    holds_out = config.val_folds and config.val_fold != ALL_FOLDS
    return f"training without fold {config.val_fold} of {config.val_folds}" if holds_out else "training"


def _train_data(config: TrainConfig, task: TrainingTask) -> TrainData:
    targets = task.train.split.targets
    return TrainData(
        task.train.table,
        targets,
        create_sampler(config, targets),
        batch_size=config.batch_size,
        transform=task.train_inputs,
        num_workers=config.num_workers,
    )
