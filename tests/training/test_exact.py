"""Solved heads of runs: held-out scores and strengths against loops over scikit-learn, and their files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import normalize

import tailwise as tw
from tailwise.data.dataset import Dataset
from tailwise.data.splits import divide
from tailwise.errors import InputError
from tailwise.metrics import log_rank_score
from tailwise.training.config import HeadConfig, TrainConfig
from tailwise.training.exact import STRENGTHS, solve_head
from tailwise.training.folder import checkpoint_path, model_state
from tailwise.training.resolution import resolve
from tailwise.training.run import create_loss, evaluate, train

ROWS, WIDTH, CLASSES, FOLDS = 150, 20, 4, 3


def rows_of(seed: int) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    generator = np.random.default_rng(seed)
    features = generator.exponential(size=(ROWS, WIDTH)).astype(np.float32)
    scores = normalize(features) @ np.random.default_rng(99).normal(size=(WIDTH, CLASSES)) * 4
    scores += generator.logistic(size=scores.shape)
    return features, (scores > np.quantile(scores, [0.5, 0.7, 0.85, 0.95], axis=0).diagonal()).astype(np.int8)


@pytest.fixture
def data() -> Dataset:
    (train_x, train_y), (test_x, test_y) = rows_of(0), rows_of(1)
    splits = ["train"] * ROWS + ["test"] * ROWS
    return Dataset.from_arrays(np.concatenate([train_x, test_x]), np.concatenate([train_y, test_y]), splits=splits)


def config_of(loss: str, **head: object) -> TrainConfig:
    chosen = HeadConfig(**{"folds": FOLDS, "transform": "none", **head})  # type: ignore[arg-type]
    return resolve(
        TrainConfig(data="in memory", output="out", mode="probe", loss=loss, head=chosen, thresholds=(20, 40))
    )


def solve(data: Dataset, config: TrainConfig):
    split = data.select("train")
    return solve_head(torch.from_numpy(split.inputs.values), split, config, create_loss)


def naive_held_out(data: Dataset, strength: float) -> NDArray[np.floating]:
    """Ridge regression without each fold; scores of a fold have the mean of all."""
    split = data.select("train")
    features, parts = normalize(split.inputs.values.astype(np.float64)), divide(split, FOLDS)
    alpha = strength * features.var(axis=0).sum()
    scores, biases = np.empty(split.targets.shape), []
    for fold in range(FOLDS):
        kept = parts != fold
        model = Ridge(alpha=alpha).fit(features[kept], 2.0 * split.targets[kept] - 1)
        own = model.predict(features[~kept])
        scores[~kept] = own - own.mean(axis=0)
        biases.append(model.predict(features).mean(axis=0))
    return scores + np.mean(biases, axis=0)


@pytest.mark.parametrize("strength", [STRENGTHS[3], STRENGTHS[9]])
def test_held_out_scores_are_those_of_heads_without_the_fold(data: Dataset, strength: float) -> None:
    found = solve(data, config_of("ridge", strength=strength))
    np.testing.assert_allclose(found.held_out, naive_held_out(data, strength), atol=1e-4)
    (part,) = found.parts
    assert (part.strength, part.tried, part.converged) == (strength, (strength,), True)


def test_the_strength_is_the_one_that_ranks_held_out_rows_best(data: Dataset) -> None:
    (part,) = solve(data, config_of("ridge")).parts
    targets = data.select("train").targets
    scores = [float(log_rank_score(naive_held_out(data, strength), targets).mean()) for strength in STRENGTHS]
    best = int(np.argmax(scores[: len(part.tried)]))
    assert part.strength == STRENGTHS[best]
    np.testing.assert_allclose(part.scores, scores[: len(part.tried)], atol=1e-3)
    precisions = average_precision_score(targets, naive_held_out(data, part.strength), average="macro")
    assert part.precisions[best] == pytest.approx(precisions, abs=2e-3)
    # The path ends three strengths after the best one, unless it is through before.
    assert len(part.tried) in (best + 4, len(STRENGTHS))


def test_the_transform_is_the_one_of_the_best_ridge_regression(data: Dataset) -> None:
    best = {
        name: max(solve(data, config_of("ridge", transform=name)).parts[0].scores)
        for name in ("none", "sqrt", "standardize")
    }
    ranked = sorted(best, key=best.__getitem__)
    # By scores that leave out one row instead of a fold, close ones may change places.
    assert solve(data, config_of("ridge", transform="auto")).transform_name != ranked[0]
    assert best[solve(data, config_of("asl", transform="auto")).transform_name] > best[ranked[-1]] - 0.02


def test_an_average_is_the_mean_in_the_unit_of_held_out_scores(data: Dataset) -> None:
    parts = [solve(data, config_of(loss)) for loss in ("ridge", "asl")]
    both = solve(data, config_of("ridge+asl"))
    units = torch.stack([part.held_out.std(0) for part in parts])
    shares = units.mean(0) / units / 2
    expected = shares[0][:, None] * parts[0].weight + shares[1][:, None] * parts[1].weight
    torch.testing.assert_close(both.weight, expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(
        both.held_out, shares[0] * parts[0].held_out + shares[1] * parts[1].held_out, atol=1e-3, rtol=1e-3
    )
    assert [part.loss for part in both.parts] == ["ridge", "asl"]


def test_test_labels_change_nothing_and_a_run_is_the_same_to_the_byte(data: Dataset, tmp_path: Path) -> None:
    targets = data.targets.copy()
    targets[ROWS:] = 1 - targets[ROWS:]
    other = replace(data, targets=targets)
    for name, given in (("one", data), ("two", data), ("other", other)):
        tw.train(given, mode="probe", loss="db", output=tmp_path / name, quiet=True)
    states = {name: model_state(tmp_path / name) for name in ("one", "two", "other")}
    for name in ("two", "other"):
        for key, value in states["one"].items():
            assert torch.equal(value, states[name][key]) if torch.is_tensor(value) else value == states[name][key]
    files = [(tmp_path / name / "validation.parquet").read_bytes() for name in ("one", "two", "other")]
    assert files[0] == files[1] == files[2]


def test_a_run_has_thresholds_of_held_out_scores_and_predicts_as_it_was_tested(data: Dataset, tmp_path: Path) -> None:
    model = tw.train(data, mode="probe", loss="ridge+logistic", output=tmp_path / "run", quiet=True)
    test = data.select("test")
    metrics = model.metrics
    assert metrics["epochs"] is None
    assert metrics["validation"]["folds"] == 5
    assert metrics["solved"]["transform"] in ("none", "sqrt", "standardize")
    logits = model.logits(test.inputs.values)
    for k, name in enumerate(model.class_names):
        expected = 100 * average_precision_score(test.targets[:, k], logits[:, k])
        assert metrics["AP"][name] == pytest.approx(expected)
    labels = model.predict(test.inputs.values)["labels"]
    decided = logits > model.decisions.thresholds
    assert [len(row) for row in labels] == decided.sum(axis=1).tolist()


def test_a_probe_of_images_is_solved_and_evaluated(tiny: Callable[..., TrainConfig]) -> None:
    config = tiny(mode="probe", head=HeadConfig(folds=2), loss="asl")
    result = train(config)
    assert result is not None
    assert evaluate(Path(config.output)).metrics["AP"] == result.metrics["AP"]
    assert checkpoint_path(Path(config.output)).is_file()
    again = train(replace(config, resume=True))
    assert again is not None
    assert again.metrics == result.metrics


def test_folds_are_no_more_than_rows_or_groups(data: Dataset) -> None:
    few = data.select("train").subset(np.arange(4))
    config = config_of("ridge", folds=10)
    assert solve_head(torch.from_numpy(few.inputs.values), few, config, create_loss).folds == 4
    sites = replace(data, groups=tuple("abc"[row % 3] for row in range(2 * ROWS))).select("train")
    found = solve_head(torch.from_numpy(sites.inputs.values), sites, config, create_loss)
    assert found.folds == 3
    assert np.isfinite(found.held_out.numpy()).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "ridge", "mode": "finetune"}, r"--loss ridge is for exact heads"),
        ({"loss": "ridge", "loss_options": {"gamma": 1}}, r"--loss ridge takes no --loss-options"),
        ({"loss": "ridge+asl", "head": HeadConfig(solver="sgd")}, r"--loss ridge\+asl is for exact heads"),
        ({"loss": "logistic@class-aware"}, r"logistic regression weighs all images alike: give --loss bce@class-aware"),
        ({"loss": "asl", "devices": 2}, r"an exact head is solved on one device"),
    ],
)
def test_what_cannot_be_solved(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(TrainConfig(**{"data": "digits", "output": "out", "mode": "probe", **options}))  # type: ignore[arg-type]


def test_a_misspelt_part_of_an_average_is_named(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown loss 'asll' \(did you mean 'asl'\?\)"):
        tw.train(data, mode="probe", loss="ridge+asll", output=tmp_path / "run", quiet=True)
