"""Two processes with half a batch each equal one process with the whole batch."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tailwise.losses import create
from tests.losses.conftest import COUNTS, NUM_SAMPLES

LOSSES = (("pg", "voc-mlt"), ("pg", "coco-mlt"), ("pg-auto", "voc-mlt"))


def run_rank(rank, rendezvous, results, logits, targets):
    from tailwise import LabelStats

    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    stats = LabelStats(COUNTS, NUM_SAMPLES)
    own = slice(0, 10) if rank == 0 else slice(10, 16)  # ranks of different size
    record = {}
    for name, recipe in LOSSES:
        z = logits[own].clone().requires_grad_()
        loss = create(name, stats, recipe=recipe, reduction="sum")
        value = loss(z, targets[own])
        value.backward()
        alone = create(name, stats, recipe=recipe, reduction="sum", sync="never")(logits[own], targets[own])
        evaluating = loss.eval()(logits[own], targets[own])
        record[name, recipe] = value.detach(), z.grad, alone, evaluating
    torch.save(record, f"{results}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_processes_equal_one(tmp_path, stats, batch, dtype):
    logits, targets = batch[0].to(dtype), batch[1]
    targets[10:, :3] = 0  # classes that only one of the processes sees
    mp.spawn(run_rank, (tmp_path / "rendezvous", tmp_path, logits, targets), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, recipe in LOSSES:
        whole = logits.clone().requires_grad_()
        value = create(name, stats, recipe=recipe, reduction="sum")(whole, targets)
        value.backward()
        halves = [rank[name, recipe] for rank in ranks]
        torch.testing.assert_close(halves[0][0] + halves[1][0], value.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            torch.cat([half[1] for half in halves]),
            whole.grad,
            rtol=1e-2 if dtype == torch.bfloat16 else 1e-5,
            atol=1e-6,
        )
        for half, (_, _, alone, evaluating) in enumerate(halves):
            # In evaluation, one has the batch of its process, the other what it saw of all processes in training.
            own = slice(0, 10) if half == 0 else slice(10, 16)
            seen = (
                alone
                if name == "pg"
                else create_and_see(name, stats, recipe, logits, targets)(logits[own], targets[own])
            )
            torch.testing.assert_close(evaluating, seen)
        assert not torch.isclose(halves[0][2] + halves[1][2], value, rtol=1e-3)


def create_and_see(name, stats, recipe, logits, targets):
    loss = create(name, stats, recipe=recipe, reduction="sum")
    loss(logits, targets)
    return loss.eval()
