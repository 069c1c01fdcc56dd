"""Batches for training: rows drawn by a sampler, gathered from a table, made into model inputs on the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from typing_extensions import override

from tailwise.data.samplers import EpochSampler
from tailwise.data.targets import Targets, to_dense
from tailwise.training.tables import Table


class Batch(NamedTuple):
    """What a training step sees."""

    inputs: Tensor
    """(B, ...) rows of the table: uint8 images, until the transform makes them floating point, or features."""
    targets: Tensor
    """(B, K) int8 labels: 1, 0, or -1 for unknown."""
    positions: NDArray[np.int64]
    """(B,) number of each draw within the epoch, counted over all processes. An array, so that it stays on the host."""


class TrainTransform(Protocol):
    """Makes a batch of table rows into model inputs, on the device, as a function of where the batch stands."""

    def __call__(self, inputs: Tensor, *, epoch: int, positions: NDArray[np.int64]) -> Tensor: ...


class EpochBatches(Sampler[tuple[Tensor, NDArray[np.int64]]]):
    """Cuts the draws of a sampler into batches of (rows, positions), both (B,).

    The last batch has what is left; a single draw that is left is dropped, because batch norm cannot train on it.
    """

    def __init__(self, sampler: EpochSampler, batch_size: int) -> None:
        self.sampler = sampler
        self.batch_size = batch_size

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of ``epoch``."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        full, left = divmod(len(self.sampler), self.batch_size)
        return full + (left > 1)

    def __iter__(self) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        rows = torch.tensor(list(self.sampler), dtype=torch.int64)
        # A sampler that has loaded its place in the epoch gives the rest of it.
        done = len(self.sampler) - len(rows)
        positions = (done + np.arange(len(rows))) * self.sampler.num_replicas + self.sampler.rank
        for batch in range(-(-done // self.batch_size), len(self)):
            start = batch * self.batch_size - done
            drawn = slice(start, start + self.batch_size)
            yield rows[drawn], positions[drawn]


class ResumableLoader(DataLoader[Batch]):
    """Loads the batches of an :class:`EpochBatches`, which is its sampler, and knows how far the training is.

    A trainer that saves :meth:`state_dict` with a run gets the rest of the epoch after :meth:`load_state_dict`. What
    counts are the batches handed over, not those that workers have loaded ahead of that.
    """

    sampler: EpochBatches
    _state: Mapping[str, int] | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self._state = state = self.sampler.sampler.state_dict()
        for batch in super().__iter__():
            state["position"] += len(batch.positions)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Place of the training in the epoch, the same for all processes."""
        return dict(self._state or self.sampler.sampler.state_dict())

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Make the next iteration what was left of the epoch when ``state`` was taken."""
        self._state = None
        self.sampler.sampler.load_state_dict(state)


class TrainData(pl.LightningDataModule):
    """Training batches of a table, for any number of processes.

    Args:
        table: the inputs.
        targets: (N, K) int8 labels, an array or sparse.
        sampler: draws the rows.
        batch_size: rows per batch and process.
        transform: makes table rows into model inputs on the device; None where they are that already.
        num_workers: loading processes; 0 gathers in the training process, which is enough for tables.
    """

    def __init__(
        self,
        table: Table,
        targets: Targets,
        sampler: EpochSampler,
        *,
        batch_size: int,
        transform: TrainTransform | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.rows = _Rows(table, targets)
        self.sampler = sampler
        self.batch_size = batch_size
        self.transform = transform
        self.num_workers = num_workers

    def batches(self) -> EpochBatches:
        """The batches of this process."""
        return EpochBatches(self.sampler, self.batch_size)

    @override
    def train_dataloader(self) -> DataLoader[Batch]:
        trainer = self.trainer
        assert trainer is not None
        return ResumableLoader(
            self.rows,
            sampler=self.batches(),  # a "sample" is a whole batch, so the index is a pair of tensors
            batch_size=None,
            collate_fn=_as_is,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=trainer.strategy.root_device.type == "cuda",
            # A loader seeds its workers from the global generator unless it has its own: the model's must not move.
            generator=torch.Generator().manual_seed(0),
        )

    @override
    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        if self.transform is None:
            return batch
        assert self.trainer is not None
        epoch = self.trainer.current_epoch
        return batch._replace(inputs=self.transform(batch.inputs, epoch=epoch, positions=batch.positions))


class _Rows(Dataset[Batch]):
    def __init__(self, table: Table, targets: Targets) -> None:
        self.table = table
        self.targets = targets

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, drawn: tuple[Tensor, NDArray[np.int64]]) -> Batch:
        rows, positions = drawn
        targets = torch.from_numpy(to_dense(self.targets[rows.numpy()]))
        return Batch(self.table.batch(rows), targets, positions)


def _as_is(batch: Any) -> Any:
    return batch
