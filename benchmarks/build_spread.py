"""How much a built long-tailed set varies with its seed, beside the published one.

    python -m benchmarks.build_spread LABELS STATS --num-max 800 --seeds 100

LABELS holds the labels that the published set was chosen from, STATS its published ``class_counts`` and
``num_samples`` (JSON). Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tailwise.data.long_tail import build_long_tail
from tailwise.data.reading import read
from tailwise.labels import LabelStats


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels")
    parser.add_argument("stats", type=Path)
    parser.add_argument("--num-max", type=int, default=800)
    parser.add_argument("--pareto-b", type=float, default=6.0)
    parser.add_argument("--seeds", type=int, default=100)
    options = parser.parse_args()
    data = read(options.labels)
    record = json.loads(options.stats.read_text(encoding="utf-8"))
    published = LabelStats(record["class_counts"], record["num_samples"], data.class_names)
    subsets = [
        build_long_tail(data.targets, data.class_names, num_max=options.num_max, pareto_b=options.pareto_b, seed=seed)
        for seed in range(options.seeds)
    ]
    counts = np.stack([subset.counts for subset in subsets])
    sizes = np.array([len(subset.indices) for subset in subsets])
    print(f"| | published | mean of {options.seeds} seeds | std | least | most |\n|---|---|---|---|---|---|")
    print(row("images", published.num_samples, sizes))
    groups = [LabelStats(c, int(n)).groups for c, n in zip(counts, sizes, strict=True)]
    for name, members in published.groups.items():
        print(row(f"{name} classes", len(members), np.array([len(group[name]) for group in groups])))
    for k in np.argsort(-published.class_counts, kind="stable"):
        print(row(data.class_names[k], int(published.class_counts[k]), counts[:, k]))


def row(name: str, published: int, values: NDArray[np.int64]) -> str:
    """A line of the table."""
    return (
        f"| {name} | {published} | {values.mean():.1f} | {values.std(ddof=1):.1f} | {values.min()} | {values.max()} |"
    )


if __name__ == "__main__":
    main()
