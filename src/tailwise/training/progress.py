"""Progress for people: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typing_extensions import override

from tailwise.training.module import MultiLabelModule

_SECONDS_BETWEEN_LINES = 5.0
_logger = logging.getLogger(__name__)


@contextmanager
def bar(description: str, total: int, *, show: bool) -> Iterator[Callable[[int, str], None]]:
    """Yield ``advance(steps, description)`` for a bar of ``total`` steps on standard error.

    Args:
        description: what is being done.
        total: number of steps.
        show: whether a bar is wanted; there is none either way if standard error is no terminal.
    """
    console = Console(stderr=True)
    if not _is_shown(show, console):
        yield lambda _steps, _description: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(description, total=total)
        yield lambda steps, text: progress.update(task, advance=steps, description=text)


def _is_shown(show: bool, console: Console) -> bool:
    return show and console.is_terminal


class TrainingProgress(pl.Callback):
    """One bar over all epochs; where there is none, a log line at the end of an epoch, every few seconds at most.

    Args:
        show: whether a bar is wanted.
        refresh_every: steps between two updates of the bar.
    """

    def __init__(self, *, show: bool, refresh_every: int = 25) -> None:
        self.show = show
        self.refresh_every = refresh_every
        self._context: Any = None
        self._advance: Callable[[int, str], None] = lambda _steps, _description: None
        self._pending = 0
        self._last_line = 0.0

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = int(trainer.num_training_batches) * (trainer.max_epochs or 0)
        self._context = bar("training", total, show=self.show and trainer.is_global_zero)
        self._advance = self._context.__enter__()
        self._pending = trainer.global_step
        self._last_line = time.monotonic()

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._pending += 1
        if self._pending >= self.refresh_every:
            self._advance(self._pending, _describe(trainer, pl_module))
            self._pending = 0

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if _is_shown(self.show, Console(stderr=True)) or not trainer.is_global_zero:
            return
        if last or time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            _logger.info(_describe(trainer, pl_module))

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


def _describe(trainer: pl.Trainer, module: pl.LightningModule) -> str:
    assert isinstance(module, MultiLabelModule)
    return f"training, epoch {trainer.current_epoch + 1} of {trainer.max_epochs}, loss {module.last_mean_loss:.4f}"
