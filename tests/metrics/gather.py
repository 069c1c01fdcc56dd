"""Two processes score their rows with one metric: ``gather.py FOLDER`` saves the result of each.

A program of its own, so that it can fork before torch has started any thread and pay for the imports once.
"""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from tailwise.metrics import MultilabelAP

GROUPS = {"head": [0, 1], "tail": [2, 3, 4]}
ROWS = {"uneven": (range(13), range(13, 20)), "one_empty": (range(20), range(0))}


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    """The union of what the processes see, with ties, unknown labels, and classes of one kind."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(-4, 5, (20, 5), generator=generator).float()
    targets = torch.randint(-1, 2, (20, 5), generator=generator)
    targets[:, 3] = targets[:, 3].abs() * 2 - 1
    targets[:, 4] = 0
    return logits, targets


def score(folder: Path, rank: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", world_size=2, rank=rank)
    logits, targets = samples()
    results = {}
    for name, shares in ROWS.items():
        metric = MultilabelAP(5, GROUPS)
        for rows in torch.tensor(list(shares[rank]), dtype=torch.int64).split(4):
            if len(rows):
                metric.update(logits[rows], targets[rows])
        first = metric.compute()
        # The gathered rows must not stay behind: computing again gives the same.
        metric._computed = None
        assert torch.equal(metric.compute()["total"], first["total"])
        results[name] = first
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=score, args=(Path(sys.argv[1]), rank), daemon=True) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    sys.exit(any(worker.exitcode != 0 for worker in workers))
