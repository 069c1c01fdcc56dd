"""Batches: what is drawn, by whom, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from tailwise.data.samplers import EpochSampler, UniformSampler
from tailwise.training.datamodule import Batch, EpochBatches, ResumableLoader, TrainData
from tailwise.training.tables import TensorTable


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


def loader(num_workers: int, sampler: EpochSampler) -> ResumableLoader:
    data = make(len(sampler) * sampler.num_replicas, sampler, batch_size=4)
    return ResumableLoader(
        data.rows,
        sampler=data.batches(),
        batch_size=None,
        collate_fn=lambda batch: batch,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("num_rows", [21, 22])
def test_loader_resumes_after_any_batch_whatever_its_workers_have_loaded(num_workers: int, num_rows: int) -> None:
    def new() -> ResumableLoader:
        return loader(num_workers, UniformSampler(num_rows, seed=3, rank=1, num_replicas=2))

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
