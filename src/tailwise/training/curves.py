"""The probability curves of a run, as a Lightning callback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from typing_extensions import override

from tailwise.labels import LabelStats
from tailwise.metrics.probability_curves import CurveRecorder, steps_between_points

CURVES_FILE = "curves.npz"


class ProbabilityCurveCallback(pl.Callback):
    """Records :class:`~tailwise.metrics.ProbabilityCurves` over a training, and writes them at its end.

    The training step must return a mapping with "logits", and the batch have an attribute ``targets``. What is recorded
    is saved with the run, so that a resumed run has the curves of an uninterrupted one.

    Args:
        path: the file to write; None keeps them in ``recorder`` only.
        stats: names and groups of the classes.
        num_steps: steps of the whole training.
    """

    def __init__(self, path: Path | None, stats: LabelStats, num_steps: int) -> None:
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
        if self.path is not None and trainer.is_global_zero:
            curves.save(self.path)

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.recorder.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.recorder.load_state_dict(state_dict)
