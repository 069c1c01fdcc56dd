"""Batches: what is drawn, by whom, and in which order."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from tailwise.data.samplers import EpochSampler, UniformSampler
from tailwise.errors import InputError
from tailwise.training.datamodule import Batch, EpochBatches, ResumableLoader, TrainData, loaded_ahead
from tailwise.training.inputs import TensorTable


def draws(batches: EpochBatches) -> tuple[list[int], list[int], list[int]]:
    taken = list(batches)
    rows = [row for batch, _ in taken for row in batch.tolist()]
    positions = [position for _, batch in taken for position in batch.tolist()]
    return [len(batch) for batch, _ in taken], rows, positions


@pytest.mark.parametrize(
    ("samples", "sizes"), [(12, [4, 4, 4]), (13, [4, 4, 4]), (14, [4, 4, 4, 2]), (3, [3]), (2, [2])]
)
def test_last_batch_has_what_is_left_but_never_one_row(samples: int, sizes: list[int]) -> None:
    batches = EpochBatches(UniformSampler(samples), 4)
    taken, rows, positions = draws(batches)
    assert taken == sizes
    assert len(batches) == len(sizes)
    assert len(set(rows)) == len(rows) == sum(sizes)
    assert positions == list(range(len(rows)))


def test_epochs_differ_and_can_be_revisited() -> None:
    batches = EpochBatches(UniformSampler(50, seed=3), 10)
    epochs = []
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        epochs.append(draws(batches)[1])
    assert epochs[0] == epochs[2] != epochs[1]


def make(num_rows: int, sampler: EpochSampler, layout: Callable[[Any], Any] = np.asarray, **options: int) -> TrainData:
    """Training data whose targets are the negative inputs."""
    table = TensorTable(torch.arange(num_rows).view(num_rows, 1))
    return TrainData(table, layout(-np.arange(num_rows, dtype=np.int8)[:, None]), sampler, **options)


def test_processes_share_the_draws_of_one_and_know_their_positions() -> None:
    _, alone, _ = draws(make(40, UniformSampler(40, seed=1), batch_size=5).batches())
    shared = {}
    for rank in range(4):
        sampler = UniformSampler(40, seed=1, rank=rank, num_replicas=4)
        _, rows, positions = draws(make(40, sampler, batch_size=5).batches())
        shared.update(zip(positions, rows, strict=True))
    assert [shared[position] for position in range(40)] == alone


@pytest.mark.parametrize("layout", [np.asarray, csr_array])
def test_batches_gather_rows_and_targets_of_the_same_draw(layout: Callable[[Any], Any]) -> None:
    data = make(30, UniformSampler(30), layout, batch_size=7)
    for drawn in data.batches():
        batch = data.rows[drawn]
        assert torch.equal(batch.inputs, -batch.targets)
        assert torch.equal(batch.inputs[:, 0], drawn[0])
        np.testing.assert_array_equal(batch.positions, drawn[1])


def loader(num_workers: int, sampler: EpochSampler, ahead: int = 0) -> ResumableLoader:
    data = make(len(sampler) * sampler.num_replicas, sampler, batch_size=4)
    return ResumableLoader(
        data.rows,
        sampler=data.batches(),
        batch_size=None,
        collate_fn=lambda batch: batch,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        ahead=ahead,
    )


@pytest.mark.parametrize(("num_workers", "ahead"), [(0, 0), (2, 0), (0, 1), (0, 2), (0, 50)])
@pytest.mark.parametrize("num_rows", [21, 22])
def test_loader_resumes_after_any_batch_whatever_is_loaded_ahead(num_workers: int, ahead: int, num_rows: int) -> None:
    def new() -> ResumableLoader:
        return loader(num_workers, UniformSampler(num_rows, seed=3, rank=1, num_replicas=2), ahead)

    def taken(batches: Iterable[Batch]) -> list[tuple[list[int], list[int]]]:
        return [(batch.inputs[:, 0].tolist(), batch.positions.tolist()) for batch in batches]

    whole = new()
    epochs = [taken(whole) for _ in range(3)]
    assert len(epochs[0]) == len(whole)
    broken = new()
    assert taken(broken) == epochs[0]
    ended = broken.state_dict()
    for stop in range(1, len(whole) + 1):
        broken = new()
        broken.load_state_dict(ended)
        assert taken(broken) == []
        seen = taken(islice(broken, stop))
        state = broken.state_dict()
        resumed = new()
        resumed.load_state_dict(state)
        # Saved again before anything is loaded, and set to the epoch it is in, as a trainer does.
        assert resumed.state_dict() == state
        resumed.sampler.set_epoch(state["epoch"])
        assert seen + taken(resumed) == epochs[1]
        assert taken(resumed) == epochs[2]


class Counted:
    """Numbers from 0 to ``stop`` - 1, made one at a time: how many, and by which threads."""

    def __init__(self, stop: int) -> None:
        self.stop = stop
        self.made = 0
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[int]:
        for number in range(self.stop):
            self.made += 1
            self.threads.add(threading.get_ident())
            yield number


def settle(counted: Counted, made: int) -> None:
    """Wait until so many are made, and a moment for more that ought not to be."""
    end = time.monotonic() + 10
    while counted.made < made and time.monotonic() < end:
        time.sleep(0.001)
    time.sleep(0.01)


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_a_bounded_number_is_loaded_ahead_in_order_while_the_last_one_is_used(count: int) -> None:
    counted = Counted(20)
    for number, taken in enumerate(loaded_ahead(iter(counted), count)):
        assert number == taken
        settle(counted, min(20, number + 1 + count))
        assert counted.made == min(20, number + 1 + count)
    assert len(counted.threads) == 1
    assert threading.get_ident() not in counted.threads


def test_nothing_is_loaded_ahead_without_a_thread() -> None:
    counted = Counted(5)
    for number, taken in enumerate(loaded_ahead(iter(counted), 0)):
        assert number == taken
        assert counted.made == number + 1
    assert counted.threads == {threading.get_ident()}


class Deleted(TensorTable):
    """A table whose file is gone when row 13 is wanted."""

    def batch(self, rows: torch.Tensor) -> torch.Tensor:
        if 13 in rows:
            raise InputError("this image cache was deleted while in use; start again")
        return super().batch(rows)


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_what_fails_in_the_thread_is_raised_as_it_was_and_where_it_was(ahead: int) -> None:
    batches = loader(0, UniformSampler(40, seed=2), ahead)
    order = [rows.tolist() for rows, _ in batches.sampler]
    batches.sampler.set_epoch(0)
    batches.dataset.table = Deleted(torch.arange(40).view(40, 1))
    taken = []
    with pytest.raises(InputError, match="deleted while in use") as caught:
        taken.extend(batch.inputs[:, 0].tolist() for batch in batches)
    assert taken == order[: next(place for place, rows in enumerate(order) if 13 in rows)]
    assert caught.traceback[-1].name == "batch"


@pytest.mark.parametrize("how", ["closed", "dropped", "failed"])
def test_the_thread_ends_with_the_iteration(how: str) -> None:
    def loading() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("load")]

    batches: Any = iter(loader(0, UniformSampler(40), ahead=2))
    next(batches)
    assert len(loading()) == 1
    if how == "closed":
        batches.close()
    elif how == "dropped":
        del batches
        gc.collect()
    else:
        with pytest.raises(KeyboardInterrupt):
            batches.throw(KeyboardInterrupt)
    assert loading() == []


@pytest.mark.parametrize(
    ("device", "num_workers", "ahead"), [("cpu", 0, 0), ("cpu", 2, 0), ("cuda", 0, 2), ("cuda", 2, 0), ("mps", 0, 2)]
)
def test_a_thread_loads_ahead_where_another_device_computes(device: str, num_workers: int, ahead: int) -> None:
    data: Any = make(30, UniformSampler(30), batch_size=7, num_workers=num_workers)
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))
    batches = data.train_dataloader()
    assert (batches.ahead, batches.pin_memory) == (ahead, device == "cuda")
