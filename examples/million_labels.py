"""A linear head of a million labels, trained without a table of logits: ``python examples/million_labels.py``.

Labels are sparse, and cost what their entries cost. The head is evaluated and stepped a chunk of labels at a time in
the forward pass, so that neither its logits nor its gradient ever exist as a whole.
"""

from __future__ import annotations

import argparse
import time
import warnings

import torch
from torch import Tensor

from tailwise import LabelStats
from tailwise.losses import ChunkedSGD, create, linear_loss

BATCH = 64
DIM = 64


def made_up(labels: int) -> tuple[Tensor, Tensor]:
    """Features and sparse labels: every label on one row at least, and frequent ones on many."""
    generator = torch.Generator().manual_seed(0)
    rows = -(-labels // 10)
    once = torch.stack([torch.arange(labels) // 10, torch.randperm(labels, generator=generator)])
    # The fourth power of a uniform variate is small for most: low numbers are drawn far more often.
    drawn = (torch.rand(10 * rows, generator=generator) ** 4 * labels).long()
    again = torch.stack([torch.arange(10 * rows) // 10, drawn])
    where = torch.cat([once, again], dim=1)
    ones = torch.ones(where.shape[1], dtype=torch.int8)
    targets = torch.sparse_coo_tensor(where, ones, (rows, labels), check_invariants=True).coalesce()
    targets.values().clamp_(max=1)  # a pair that was drawn twice
    # What the frequent labels of a row are shows in its features.
    features = torch.zeros(rows, DIM)
    features.index_put_((again[0], drawn * DIM // labels), torch.ones(10 * rows), accumulate=True)
    return features, targets


def main() -> None:
    """Train for some steps, and print the loss and the time of each."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")

    features, targets = made_up(options.labels)
    stats = LabelStats.from_targets(targets.to_sparse_csr())
    frequency = torch.as_tensor(stats.class_counts) / len(features)
    weight = torch.zeros(options.labels, DIM)
    bias = torch.logit(frequency.float(), 1e-6)
    loss = create("db-focal", stats, reduction="batchmean")
    sgd = ChunkedSGD(lr=0.3, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    for step in range(options.steps):
        started = time.perf_counter()
        batch = torch.randint(len(features), (BATCH,), generator=generator)
        inputs = features[batch].requires_grad_()
        labels = targets.index_select(0, batch).coalesce().to_sparse_csr()
        value = linear_loss(inputs, weight, bias, labels, loss, sgd=sgd)
        value.backward()  # to the features, and from there to whatever network made them
        print(f"step {step}  loss {value.item():.3f}  {time.perf_counter() - started:.1f} s")
    print(f"logits and their gradient would have taken {8 * BATCH * options.labels / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
