"""What a mode of training hands to the trainer and to the test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from tailwise.models.record import RECORD_FILE, BackboneRecord
from tailwise.training.datamodule import TrainTransform
from tailwise.training.inputs import Images


@dataclass(frozen=True, eq=False)
class Task:
    """A model with its data.

    Attributes:
        model: inputs to (B, K) logits.
        train: training rows.
        train_inputs: makes training rows into inputs, on the device; None where they are that already.
        test: test rows, if any.
        validation: validation rows, if any.
        test_inputs: makes test and validation rows into inputs, on the device.
        record: the backbone that training begins with; None where a run goes on that is older than such records.
        keep_backbone: writes the backbone's weights into a folder; None where they are not wanted there.
    """

    model: nn.Module
    train: Images
    train_inputs: TrainTransform | None
    test: Images | None
    validation: Images | None
    test_inputs: Callable[[Tensor], Tensor]
    record: BackboneRecord | None = None
    keep_backbone: Callable[[Path], None] | None = None

    def write_backbone(self, folder: Path) -> None:
        """Record in the folder of the run what training begins with, and keep it where that is wanted."""
        if self.keep_backbone is not None:
            self.keep_backbone(folder)
        if self.record is not None:
            self.record.save(folder / RECORD_FILE)


@dataclass(frozen=True, eq=False)
class EvaluationTask:
    """A trained model with data to test it on; attributes as in :class:`Task`."""

    model: nn.Module
    test: Images
    test_inputs: Callable[[Tensor], Tensor]
