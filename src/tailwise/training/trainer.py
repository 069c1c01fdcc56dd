"""Lightning's trainer as this project runs it: quiet, atomic checkpoints, and no trace left in the process."""

from __future__ import annotations

import csv
import logging
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from tailwise.config import ALL_FOLDS, Precision, TrainConfig
from tailwise.errors import InputError
from tailwise.files import replacing
from tailwise.training.progress import LossLog, TrainingProgress

_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}

# Reading losses waits for the device, and asking all processes whether to save for each of them.
_STEPS_BETWEEN_LOOKS = 50

# Warnings of Lightning that nobody can act on here, each with the reason.
_WITHOUT_CONSEQUENCE = (
    "The 'train_dataloader' does not have many workers",  # rows come from a table: workers would slow it down
    r"Found \d+ module\(s\) in eval mode at the start of training",  # frozen batch norm is meant to be
    "GPU available but not used",  # the user chose the CPU
    "The number of training batches",  # losses are logged by us, at the end of an epoch at the latest
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # between Lightning and torch
    r"\d+ of \d+ classes have no image and are never drawn",  # said before, with their names
)


class LastCheckpoint(Checkpoint):
    """Saves the state of the run, so that it can be resumed as if it had not been interrupted.

    That is at the end of every ``every_n_epochs``-th epoch and of the last one; inside an epoch and at its end, when
    ``minutes`` have passed since the last save; and when the run is told to terminate, if it is a single process.

    Args:
        path: the file, replaced each time.
        every_n_epochs: epochs between two saves at their end.
        minutes: time between two other saves.
        look_every: steps between two looks at the clock, on which all processes must agree.
    """

    def __init__(self, path: Path, every_n_epochs: int, *, minutes: float, look_every: int) -> None:
        self.path = path
        self.every_n_epochs = every_n_epochs
        self.minutes = minutes
        self.look_every = look_every
        self._last_save = 0.0

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_save = time.monotonic()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # The last step of an epoch is left to the end of the epoch.
        if batch_idx + 1 < trainer.num_training_batches and (
            _must_terminate(trainer) or ((batch_idx + 1) % self.look_every == 0 and self._is_time(trainer))
        ):
            self._save(trainer)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        finished = trainer.current_epoch + 1
        is_regular = finished % self.every_n_epochs == 0 or finished == trainer.max_epochs
        if is_regular or _must_terminate(trainer) or self._is_time(trainer):
            self._save(trainer)

    def _is_time(self, trainer: pl.Trainer) -> bool:
        is_time: bool = trainer.strategy.broadcast(time.monotonic() - self._last_save >= 60 * self.minutes)
        return is_time

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._last_save = time.monotonic()


def _must_terminate(trainer: pl.Trainer) -> bool:
    # Of several processes, each may have been told before or after its step: they could not save the same one.
    return trainer.received_sigterm and trainer.world_size == 1


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final place, so that the rename is atomic, and reads tensors and numbers only."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with replacing(path) as temporary:
            torch.save(checkpoint, temporary)

    @override
    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        return checkpoint


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
        first_step: number of steps that are done; what was logged of later ones is of no account.
        callbacks: further callbacks.
    """
    plugins: list[Any] = [SafeCheckpointIO()]
    if SLURMEnvironment.detect():
        # Left to itself, Lightning saves in the handler of a signal, which may come in the middle of a step. The job
        # ends with the signal to terminate instead, LastCheckpoint saves after the step, and --resume goes on.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    losses = LossLog(config.loss, config.optim.lr, read_every=_STEPS_BETWEEN_LOOKS)
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
        logger=[
            CSVLogger(folder, name="logs", flush_logs_every_n_steps=1),
            TensorBoardLogger(folder, name="tensorboard", version="", purge_step=first_step + 1),
        ],
        plugins=plugins,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )


def _title(config: TrainConfig) -> str:
    """What the progress of a run is called."""
    holds_out = config.val_folds and config.val_fold != ALL_FOLDS
    return f"training without fold {config.val_fold} of {config.val_folds}" if holds_out else "training"


def forget_logs_after(folder: Path, step: int) -> None:
    """Remove the rows of later steps from the CSV logs of an interrupted run: it will go through these steps again."""
    for path in (folder / "logs").glob("version_*/metrics.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, reader.fieldnames or ())
            writer.writeheader()
            # The step is the last cell: a row that a kill has cut short has none.
            writer.writerows(row for row in rows if (row["step"] or "").isdigit() and int(row["step"]) <= step)


def trained_precision(config: TrainConfig) -> Precision:
    """Precision that a run trains in; that of the configuration is the backbone's in probe mode."""
    return config.precision if config.mode == "finetune" else "fp32"


def checkpoint_path(folder: Path) -> Path:
    """Where a run folder keeps the state to resume from and to evaluate."""
    return folder / "checkpoints" / "last.ckpt"


def steps_in(checkpoint: Path) -> int:
    """Number of steps after which a checkpoint was saved."""
    return int(read_checkpoint(checkpoint)["global_step"])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the state of a run: tensors and numbers only.

    Raises:
        InputError: the file is damaged, or holds something else.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if not {"global_step", "state_dict"} <= state.keys():
            raise KeyError("no state of a training is in it")
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, AttributeError, pickle.UnpicklingError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path} is damaged ({reason}); remove it and give --resume true to train from the start"
        ) from error
    return state


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Run operations on the CPU with ``count`` threads inside; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def contained() -> Iterator[None]:
    """Run Lightning inside: its messages stay, and so do the changes it makes to the process.

    The random state of torch, log levels, warning filters and the handler of interrupts are as before afterwards. An
    interrupt, which Lightning turns into an exit, is a KeyboardInterrupt again; a run that was told to terminate,
    which Lightning turns into a plain exit, exits with the code of that signal.
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
