"""Ridge regression of scikit-learn on the features behind a comparison.

``python -m benchmarks.simple_heads LABELS TRAIN TEST`` takes the label file and the features, (N, F), of the training
and test split, as ``tailwise compare`` leaves them in its cache. Strengths are those with the highest mAP of held-out
folds of the training split; the test split is read once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import auto_cli
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.preprocessing import normalize

from tailwise.data import read
from tailwise.metrics import average_precision, group_means

Floats = NDArray[np.floating[Any]]
FOLDS = 5
STRENGTHS = 10.0 ** np.arange(-2, 2.5, 0.5)


def print_scores(labels: Path, train: Path, test: Path, train_split: str = "train", test_split: str = "test") -> None:
    """Print the table of mAP by group.

    Args:
        labels: the label file.
        train: features of the training split, .npy.
        test: features of the test split, .npy.
        train_split: name of the training split.
        test_split: name of the test split.
    """
    data = read(labels)
    known, asked = data.select(train_split), data.select(test_split)
    groups = known.stats().groups
    print("| head | total | head classes | medium | tail | strength |\n|---|---|---|---|---|---|")
    for name, transform in {"square roots": np.sqrt, "as they are": np.asarray}.items():
        features, test_features = (normalize(transform(np.load(path).astype(np.float64))) for path in (train, test))
        alpha = max(STRENGTHS, key=lambda alpha: held_out(features, known.targets, alpha))
        scores = Ridge(alpha=alpha).fit(features, known.targets).predict(test_features)
        means = group_means(100 * average_precision(scores, asked.targets), groups)
        print(f"| ridge, {name} |", " | ".join(f"{value:.1f}" for value in means.values()), f"| {alpha:.1f} |")


def held_out(features: Floats, targets: NDArray[np.integer[Any]], alpha: float) -> float:
    """Mean average precision of the predictions for held-out folds, all folds together."""
    scores = np.empty(targets.shape)
    for fit, rest in KFold(FOLDS, shuffle=True, random_state=0).split(features):
        scores[rest] = Ridge(alpha=alpha).fit(features[fit], targets[fit]).predict(features[rest])
    return float(average_precision(scores, targets).nanmean())


if __name__ == "__main__":
    auto_cli(print_scores)
