"""Comparison, training and prediction on precomputed features, and scikit-learn: ``python examples/features.py``.

The features are made here, from scenes of handwritten digits by a convolution with random weights
(``pip install 'tailwise[demo]'``); take those of your own network instead. On frozen features, a linear model of
scikit-learn is hard to beat. Try one before you tune anything.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional

import tailwise as tw
from tailwise.metrics import average_precision, group_means


def features_of(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, 1024) features of (N, 3, 32, 32) images: the largest responses of 64 random filters in a 4 x 4 grid."""
    filters = torch.randn(64, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    filters -= filters.mean(dim=(2, 3), keepdim=True)
    filters /= filters.norm(dim=(2, 3), keepdim=True)
    grey = torch.as_tensor(images).float().mean(dim=1, keepdim=True) / 255
    return functional.adaptive_max_pool2d(functional.conv2d(grey, filters).relu(), 4).flatten(1).numpy()


def main() -> None:
    """Compare two losses on features, train the best, and print its scores beside those of scikit-learn."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    epochs = parser.parse_args().epochs
    options = {"neck": "none", "lr": 0.5, "epochs": epochs, "warmup_steps": 50, "accelerator": "cpu"}

    scenes = tw.read("digits")
    features = features_of(scenes.inputs.values)
    data = tw.Dataset.from_arrays(features, scenes.targets, scenes.class_names, splits=scenes.splits)
    train, test = data.select("train"), data.select("test")
    groups = train.stats().groups

    with TemporaryDirectory() as folder:
        methods = ["bce", "db"]
        comparison = tw.compare(data, output=Path(folder, "comparison"), methods=methods, seeds=1, folds=2, **options)
        print(comparison.table[["total", "head", "medium", "tail"]].round(1).to_string())
        print(comparison.recommendation, end="\n\n")

        loss = comparison.best or "bce"
        model = tw.train(data, output=Path(folder, "run"), loss=loss, mode="probe", **options)
        print(model.predict(features[:3])["labels"].to_string(), end="\n\n")
        scores = {f"{loss} of tailwise": model.logits(test.inputs.values)}

    ridge = RidgeCV(np.logspace(-2, 3, 6)).fit(train.inputs.values, train.targets)
    scores["ridge regression"] = ridge.predict(test.inputs.values)
    logistic = make_pipeline(StandardScaler(), OneVsRestClassifier(LogisticRegression(max_iter=1000)))
    scores["logistic regression"] = logistic.fit(train.inputs.values, train.targets).decision_function(
        test.inputs.values
    )
    for name, values in scores.items():
        means = group_means(average_precision(values, test.targets), groups)
        print(f"{name:19}", "  ".join(f"{group} {100 * value:.1f}" for group, value in means.items()))


if __name__ == "__main__":
    main()
