"""Lightning callbacks of a run: loss logs, progress, checkpoints and probability curves."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor
from typing_extensions import override

from tailwise.errors import InputError
from tailwise.labels import LabelStats
from tailwise.metrics.curves import CurveRecorder, steps_between_points
from tailwise.progress import bar, is_shown

LAST_WEIGHTS = "last_weights"
"""The key of a checkpoint with the weights after its step, where it has averaged weights as those of the model."""

_SECONDS_BETWEEN_LINES = 5.0
_STEPS_BETWEEN_REFRESHES = 25

_logger = logging.getLogger(__name__)


class LossLog(pl.Callback):
    """Logs the training losses, and stops a run whose loss is NaN or infinite.

    Steps do not wait for the device: losses stay there, and are read every ``read_every`` steps and at the end of an
    epoch, checked, and logged as their mean. Losses that are not logged yet are saved with the run, so that a resumed
    epoch is logged like an uninterrupted one.

    Args:
        loss_name: name of the loss, for messages.
        base_rate: the learning rate, for messages.
        read_every: steps between two reads of the losses.

    Attributes:
        last_mean: mean of the losses read last; NaN before.
    """

    def __init__(self, loss_name: str, base_rate: float, *, read_every: int) -> None:
        self.loss_name = loss_name
        self.base_rate = base_rate
        self.read_every = read_every
        self.last_mean = math.nan
        self._unread: list[Tensor] = []
        self._epoch_sum = 0.0
        self._rate = base_rate

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._unread.clear()
        self._epoch_sum = 0.0

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._rate = trainer.optimizers[0].param_groups[-1]["lr"]  # the head's

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._unread.append(outputs["loss"])
        is_last = batch_idx + 1 == trainer.num_training_batches
        if not is_last and (batch_idx + 1) % self.read_every:
            return
        mean = self._read(trainer)
        metrics = {"epoch": trainer.current_epoch + 1, "lr": self._rate, "loss": mean}
        if is_last:
            metrics["epoch_loss"] = self._epoch_sum / trainer.num_training_batches
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)

    def _read(self, trainer: pl.Trainer) -> float:
        device = self._unread[-1].device  # losses from a checkpoint are on the host
        losses = torch.stack([loss.to(device) for loss in self._unread]).tolist()
        self._unread.clear()
        first_step = trainer.global_step - len(losses)
        for offset, value in enumerate(losses):
            if not math.isfinite(value):
                raise InputError(
                    f"the {self.loss_name} loss became {value} at step {first_step + offset + 1} (epoch "
                    f"{trainer.current_epoch + 1}): lower --lr (now {self.base_rate:g}), raise "
                    "--warmup-steps, or train with --precision fp32"
                )
        self._epoch_sum += sum(losses)
        self.last_mean = sum(losses) / len(losses)
        return self.last_mean

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"unread": [loss.item() for loss in self._unread], "epoch_sum": self._epoch_sum}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._unread = [torch.tensor(loss) for loss in state_dict["unread"]]
        self._epoch_sum = state_dict["epoch_sum"]


class TrainingProgress(pl.Callback):
    """One bar over all epochs; without a terminal, a log line at the end of an epoch, every few seconds at most.

    Args:
        losses: gives the loss to show.
        show: whether a bar is wanted.
        title: the text of the bar.
    """

    def __init__(self, losses: LossLog, *, show: bool, title: str) -> None:
        self.losses = losses
        self.show = show
        self.title = title
        self._context: Any = None
        self._advance: Callable[[int, str], None] = lambda _steps, _description: None
        self._pending = 0
        self._last_line = 0.0

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = int(trainer.num_training_batches) * (trainer.max_epochs or 0)
        self._context = bar(self.title, total, show=self.show and trainer.is_global_zero)
        self._advance = self._context.__enter__()
        self._pending = trainer.global_step
        self._last_line = time.monotonic()

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._pending += 1
        if self._pending >= _STEPS_BETWEEN_REFRESHES:
            self._advance(self._pending, self._describe(trainer))
            self._pending = 0

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if is_shown(self.show) or not trainer.is_global_zero:
            return
        if last or time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            _logger.info(self._describe(trainer))

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._context is not None:
            self._context.__exit__(None, None, None)
            self._context = None

    def _describe(self, trainer: pl.Trainer) -> str:
        epoch = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        return f"{self.title}, {epoch}, loss {self.losses.last_mean:.4f}"


class ProbabilityCurveCallback(pl.Callback):
    """Records :class:`~tailwise.metrics.ProbabilityCurves` over a training, and writes them at its end.

    The training step must return a mapping with "logits", and the batch have an attribute ``targets``. The record is
    saved with the run, so that a resumed run has the curves of an uninterrupted one.

    Args:
        path: the file to write.
        stats: names and groups of the classes.
        num_steps: steps of the whole training.
    """

    def __init__(self, path: Path, stats: LabelStats, num_steps: int) -> None:
        self.path = path
        self.recorder = CurveRecorder(stats, steps_between_points(num_steps, stats.num_classes))

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.recorder.update(outputs["logits"], batch.targets)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        curves = self.recorder.curves()
        if trainer.is_global_zero:
            curves.save(self.path)

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.recorder.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.recorder.load_state_dict(state_dict)


class WeightAverage(pl.Callback):
    """Averages the weights over a training, and leaves their average in the model and in checkpoints.

    The average starts at the weights that training starts with, and each step moves it towards the present ones by a
    share of 1 / ``length``: an exponential moving average. One as long as the training keeps 1/e of the first weights.
    It is made here, and not by Lightning, whose averages wait for the device in every step.

    Args:
        length: steps after which the share of a weight has fallen to 1/e.
    """

    def __init__(self, length: float) -> None:
        self.share = 1 / max(1.0, length)
        self._average: dict[str, Tensor] = {}

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        present = _model_state(pl_module)
        kept = self._average or present
        self._average = {name: kept[name].detach().to(value.device, copy=True) for name, value in present.items()}

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        present = list(_model_state(pl_module).values())
        torch._foreach_lerp_(list(self._average.values()), present, self.share)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with torch.no_grad():
            for name, value in _model_state(pl_module).items():
                value.copy_(self._average[name])

    @override
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[LAST_WEIGHTS] = {name: checkpoint["state_dict"][name] for name in self._average}
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **self._average}

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # The model has the average by now.
        last = checkpoint[LAST_WEIGHTS]
        self._average = {name: checkpoint["state_dict"][name].clone() for name in last}
        pl_module.load_state_dict(last, strict=False)


def _model_state(pl_module: pl.LightningModule) -> dict[str, Tensor]:
    """The floating-point tensors of the network by their names in checkpoints, without those of the loss."""
    model: Any = pl_module.model
    return {
        f"model.{name}": value.detach()
        for name, value in chain(model.named_parameters(), model.named_buffers())
        if value.is_floating_point()
    }


class LastCheckpoint(Checkpoint):
    """Saves the state of the run, so that it can be resumed as if it had not been interrupted.

    It is saved at the end of every ``every_n_epochs``-th epoch and of the last one; within and after an epoch when
    ``minutes`` have passed since the last save; and when a run of a single process receives the signal to terminate.

    Args:
        path: the file, replaced each time.
        every_n_epochs: epochs between two regular saves.
        minutes: time between two other saves.
        look_every: steps between two checks of the time, for which all processes synchronize.
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
        # After the last step of an epoch, on_train_epoch_end saves.
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
    # Several processes may receive the signal in different steps, and would save different states.
    return trainer.received_sigterm and trainer.world_size == 1
