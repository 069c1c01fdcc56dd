"""Corrected labels of SPLC: naive loops, and when the correction starts, in one process and in two."""

from __future__ import annotations

import copy
import math
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tailwise import LabelStats
from tailwise.losses import create, linear_loss
from tests.losses.conftest import COUNTS, NUM_SAMPLES
from tests.losses.naive import pair_loss, sigmoid


def naive(logits, targets, threshold):
    """Mean over known pairs, with corrected negatives as positives; None corrects nothing."""
    known = [(z, y) for row in zip(logits.tolist(), targets.tolist(), strict=True) for z, y in zip(*row, strict=True)]
    values = [
        pair_loss(
            z,
            1 if y == 0 and threshold is not None and sigmoid(z) > threshold else y,
            up=(1, 1, 1, 2),
            down=(0, 1, 1, 2),
        )
        for z, y in known
        if y >= 0
    ]
    return sum(values) / len(values)


@pytest.fixture
def unknown(batch):
    logits, targets = batch
    return logits, targets.to(torch.int8).masked_fill(
        torch.rand(16, 9, generator=torch.Generator().manual_seed(2)) < 0.2, -1
    )


@pytest.mark.parametrize("kind", ["dense", "NaN", "sparse", "masked"])
@pytest.mark.parametrize("threshold", [0.6, 0.3])
def test_negatives_of_high_probability_are_taken_for_positives(kind, threshold, unknown, stats):
    logits, targets = unknown
    given, mask = targets, None
    if kind == "NaN":
        given = targets.double().masked_fill(targets < 0, math.nan)
    elif kind == "sparse":
        given = targets.to_sparse_csr()
    elif kind == "masked":
        given, mask = targets.clamp(min=0), targets >= 0
    loss = create("splc", stats, threshold=threshold, change_epoch=0)
    value = loss(logits, given, mask)
    torch.testing.assert_close(value.item(), naive(logits, targets, threshold), rtol=1e-10, atol=0)
    assert value != create("splc", stats)(logits, given, mask)
    assert (targets == unknown[1]).all()


def test_it_starts_when_the_samples_of_an_epoch_have_been_seen(unknown):
    logits, targets = unknown
    stats = LabelStats([20, 10, 9, 8, 7, 6, 5, 4, 3], 40)
    loss = create("splc", stats)
    expected = [naive(logits, targets, threshold) for threshold in (None, None, None, 0.6, 0.6)]  # of 16, 32, 48 before
    for step, value in enumerate(expected):
        evaluated = copy.deepcopy(loss).eval()
        for _ in range(5):  # which is not counted
            torch.testing.assert_close(evaluated(logits, targets).item(), value, rtol=1e-10, atol=0)
        chunked = copy.deepcopy(loss)
        features = torch.eye(16, dtype=torch.float64)
        in_chunks = linear_loss(features, logits.T.contiguous(), None, targets, chunked, chunk=4)
        torch.testing.assert_close(in_chunks.item(), value, rtol=1e-10, atol=0)
        restored = create("splc", stats)
        restored.load_state_dict(loss.state_dict())
        for other in (restored, loss):
            torch.testing.assert_close(other(logits, targets).item(), value, rtol=1e-10, atol=0)
            assert other.correction.seen == chunked.correction.seen == 16 * (step + 1)


def test_counting_is_refused_under_transforms(unknown, stats):
    loss = create("splc", stats)
    with pytest.raises(RuntimeError, match=r"torch\.func does not support: put it into evaluation, loss\.eval\(\)"):
        torch.func.grad(lambda z: loss(z, unknown[1]))(unknown[0])
    assert loss.correction.seen == 0
    assert torch.func.grad(lambda z: loss.eval()(z, unknown[1]))(unknown[0]).isfinite().all()


def run_rank(rank, rendezvous, results):
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    loss = create("splc", LabelStats(COUNTS, NUM_SAMPLES))
    rows = 10 if rank == 0 else 6  # ranks of different size
    loss(torch.zeros(rows, 9), torch.zeros(rows, 9))
    torch.save(loss.correction.seen, f"{results}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_count_the_samples_of_both(tmp_path):
    mp.spawn(run_rank, (tmp_path / "rendezvous", tmp_path), nprocs=2)
    assert [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)] == [16, 16]
