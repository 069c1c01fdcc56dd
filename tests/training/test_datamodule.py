"""Batches: what is drawn, by whom, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from tailwise.data.samplers import UniformSampler
from tailwise.training.datamodule import EpochBatches, TrainData
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


def test_processes_share_the_draws_of_one_and_know_their_positions() -> None:
    data = TrainData(
        TensorTable(torch.zeros(40, 1)),
        np.zeros((40, 2), dtype=np.int8),
        partial(UniformSampler, 40, seed=1),
        batch_size=5,
    )
    _, alone, _ = draws(data.batches())
    shared = {}
    for rank in range(4):
        _, rows, positions = draws(data.batches(rank=rank, num_replicas=4))
        shared.update(zip(positions, rows, strict=True))
    assert [shared[position] for position in range(40)] == alone


@pytest.mark.parametrize("layout", [np.asarray, csr_array])
def test_batches_gather_rows_and_targets_of_the_same_draw(layout: Callable[[Any], Any]) -> None:
    table = TensorTable(torch.arange(30).view(30, 1))
    targets = layout(-np.arange(30, dtype=np.int8)[:, None])
    data = TrainData(table, targets, partial(UniformSampler, 30), batch_size=7)
    for drawn in data.batches():
        batch = data.rows[drawn]
        assert torch.equal(batch.inputs, -batch.targets)
        assert torch.equal(batch.inputs[:, 0], drawn[0])
        np.testing.assert_array_equal(batch.positions, drawn[1])
