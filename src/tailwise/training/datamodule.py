"""Batches for training: rows drawn by a sampler, gathered from a table, and transformed on the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple, Protocol, TypeVar

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from typing_extensions import override

from tailwise.data.samplers import EpochSampler
from tailwise.errors import InputError
from tailwise.matrix import Targets, to_dense
from tailwise.training.config import TrainConfig
from tailwise.training.inputs import Table

# One is ready while another is read and pinned.
_AHEAD_OF_AN_ACCELERATOR = 2
# An epoch is drawn at once, at some 100 bytes a draw.
_MOST_DRAWS = 10**8
_T = TypeVar("_T")


class Batch(NamedTuple):
    """The inputs and labels of a training step."""

    inputs: Tensor
    """(B, ...) rows of the table: uint8 images, until the transform makes them floating point, or features."""
    targets: Tensor
    """(B, K) int8 labels: 1, 0, or -1 for unknown."""
    positions: NDArray[np.int64]
    """(B,) number of each draw within the epoch, counted over all processes. An array, so that it stays on the host."""


class TrainTransform(Protocol):
    """Transforms a batch of table rows into model inputs, on the device, as a function of epoch and positions."""

    def __call__(self, inputs: Tensor, *, epoch: int, positions: NDArray[np.int64]) -> Tensor: ...


class EpochBatches(Sampler[tuple[Tensor, NDArray[np.int64]]]):
    """Cuts the draws of a sampler into batches of (rows, positions), both (B,).

    The last batch may be smaller; a single remaining draw is dropped, because batch norm cannot train on it.
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
        # A sampler that was restored within an epoch yields the rest of it.
        done = len(self.sampler) - len(rows)
        positions = (done + np.arange(len(rows))) * self.sampler.num_replicas + self.sampler.rank
        for batch in range(-(-done // self.batch_size), len(self)):
            start = batch * self.batch_size - done
            drawn = slice(start, start + self.batch_size)
            yield rows[drawn], positions[drawn]


def check_epoch(sampler: EpochSampler, config: TrainConfig) -> None:
    """Check the number of draws in an epoch.

    Raises:
        InputError: an epoch has no batch, or more draws than fit into memory.
    """
    draws = len(sampler)
    way_out = "--epoch-reduce" if config.sampler == "class-aware" else "the number of training images"
    if not len(EpochBatches(sampler, config.batch_size)):
        raise InputError(
            f"an epoch of the {config.sampler} sampler has {draws} draw of {config.devices * config.num_nodes} "
            f"process(es), and a step needs at least two: change {way_out}, or add training images"
        )
    if draws > _MOST_DRAWS:
        raise InputError(
            f"an epoch of the {config.sampler} sampler would have {draws:,} draws, {_MOST_DRAWS:,} are the most: "
            f"change {way_out}"
        )


class ResumableLoader(DataLoader[Batch]):
    """Loads the batches of an :class:`EpochBatches`, its sampler, and can be restored within an epoch.

    After :meth:`load_state_dict` it yields the rest of the epoch in which :meth:`state_dict` was taken. Batches that
    workers or the thread have loaded ahead, but not yielded, are part of the rest.

    Args:
        ahead: batches that a thread loads and pins while the training computes; with 0, each is loaded when needed.
        options: those of ``DataLoader``.
    """

    sampler: EpochBatches
    _state: Mapping[str, int] | None = None

    def __init__(self, *args: Any, ahead: int = 0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ahead = ahead

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self._state = state = self.sampler.sampler.state_dict()
        with closing(loaded_ahead(super().__iter__(), self.ahead)) as batches:
            for batch in batches:
                state["position"] += len(batch.positions)
                yield batch

    def state_dict(self) -> dict[str, int]:
        """Place of the training in the epoch, the same for all processes."""
        return dict(self._state or self.sampler.sampler.state_dict())

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Make the next iteration what was left of the epoch when ``state`` was taken."""
        self._state = None
        self.sampler.sampler.load_state_dict(state)


def loaded_ahead(items: Iterator[_T], count: int) -> Generator[_T, None, None]:
    """Yield the items in order, while a thread computes up to ``count`` of the next ones; with 0, without a thread.

    An exception in the thread is raised in place of the item. The thread ends with the generator: when it is exhausted,
    closed, or garbage-collected.
    """
    if not count:
        yield from items
        return
    end = object()
    with ThreadPoolExecutor(1, "load") as thread:
        pending: deque[Future[Any]] = deque(thread.submit(next, items, end) for _ in range(count))
        try:
            while (item := pending.popleft().result()) is not end:
                pending.append(thread.submit(next, items, end))
                yield item
        finally:
            for future in pending:
                future.cancel()


class TrainData(pl.LightningDataModule):
    """Training batches of a table, for any number of processes.

    Args:
        table: the inputs.
        targets: (N, K) int8 labels, an array or sparse.
        sampler: draws the rows.
        batch_size: rows per batch and process.
        transform: transforms table rows into model inputs on the device; None where they are inputs already.
        num_workers: loading processes. With 0, rows are gathered in the training process, which is fast enough for
            tables: on an accelerator in a thread, on a CPU between the steps.
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
        device = trainer.strategy.root_device.type
        return ResumableLoader(
            self.rows,
            sampler=self.batches(),  # a "sample" is a whole batch: its index is a pair of tensors
            batch_size=None,
            collate_fn=_as_is,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=device == "cuda",
            ahead=0 if device == "cpu" or self.num_workers else _AHEAD_OF_AN_ACCELERATOR,
            # Without a generator of its own, a loader draws from the global one, which is the model's.
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
