"""What is made of finished runs: the predictions of each are written here, so that what must be found is known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from tailwise.data.dataset import Dataset
from tailwise.errors import InputError
from tailwise.experiments.executors import FAILED_FILE, Run
from tailwise.experiments.methods import Method, portable
from tailwise.experiments.plan import Chosen, Plan, settle
from tailwise.experiments.results import Difference, percent
from tailwise.experiments.scoring import Board, class_intervals, summarize
from tailwise.metrics.bootstrap import Resamples
from tailwise.training.config import HeadConfig, TrainConfig, load
from tailwise.training.folder import PREDICTIONS_FILE, VALIDATION_FILE, read_logits, write_predictions

NAMES = ("cat", "dog", "emu", "fox")
THRESHOLDS = (10, 20)
BCE, FOCAL, PG = Method("bce", {"loss": "bce"}), Method("focal", {"loss": "focal"}), Method("pg", {"loss": "pg"})


def make_split(name: str, size: int, seed: int) -> Dataset:
    """Labels with a class of each group and one that is never tested; one in ten unknown."""
    generator = np.random.default_rng(seed)
    targets = (generator.random((size, 4)) < (0.6, 0.4, 0.2, 0.3)).astype(np.int8)
    targets[generator.random(targets.shape) < 0.1] = -1
    targets[:4] = np.eye(4, dtype=np.int8)
    return Dataset.from_arrays([f"{name}/{row}.jpg" for row in range(size)], targets, NAMES, source=name)


TRAIN, TEST = make_split("train", 48, 0), make_split("test", 40, 1)
NEVER_TESTED = replace(TEST, targets=np.where(np.arange(4) == 3, np.minimum(TEST.targets, 0), TEST.targets))


def scores_of(split: Dataset, skill: float, seed: int) -> np.ndarray:
    """(N, K) logits that go the better with the labels the higher the skill."""
    noise = np.random.default_rng([seed, round(100 * abs(skill))]).normal(size=split.targets.shape)
    return (noise + 3 * skill * (split.targets == 1) - 1).astype(np.float32)


def precision(split: Dataset, logits: np.ndarray) -> np.ndarray:
    """(K,) average precision by scikit-learn, in percent; NaN of a class without a positive."""
    values = []
    for truth, found in zip(split.targets.T, logits.T, strict=True):
        known = truth >= 0
        has_any = (truth == 1).any()
        values.append(100 * average_precision_score(truth[known], found[known]) if has_any else np.nan)
    return np.array(values)


def finish(run: Run, file: str, split: Dataset, logits: np.ndarray) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    write_predictions(run.folder / file, split.names, split.class_names, torch.from_numpy(logits))


def finish_folds(runs: Sequence[Run], logits: np.ndarray) -> None:
    """The runs of folds, of which each holds out some of the images, in an order of its own."""
    for fold, run in enumerate(runs):
        rows = np.arange(len(TRAIN))[::-1][fold :: len(runs)]
        finish(run, VALIDATION_FILE, TRAIN.subset(rows), logits[rows])


def fail(run: Run, reason: str) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / FAILED_FILE).write_text(json.dumps({"reason": reason}))


def make_plan(folder: Path, methods: Sequence[Method], **options: Any) -> Plan:
    shared = TrainConfig(
        data=str(folder / "labels.csv"),
        output=str(folder),
        thresholds=THRESHOLDS,
        mode="probe",
        head=HeadConfig(solver="sgd"),
    )
    given = {"seeds": (0, 1), "folds": 2, "replicates": 30, **options}
    return Plan(folder=folder / "out", shared=shared, methods=tuple(methods), **given)


def found(plan: Plan, skills: Mapping[str, Sequence[float]], test: Dataset = TEST) -> dict[str, Any]:
    """What is found if the runs of each method have these skills: of each seed, and last of the folds together."""
    for method in plan.methods:
        for run, seed, skill in zip(plan.test_runs(method), plan.seeds, skills[method.name], strict=False):
            finish(run, PREDICTIONS_FILE, test, scores_of(test, skill, seed))
        finish_folds(plan.fold_runs(method), scores_of(TRAIN, skills[method.name][-1], 7))
    return summarize(plan, [Chosen(method) for method in plan.methods], TRAIN, test).to_json()


def by_name(results: Mapping[str, Any]) -> dict[str, Any]:
    return {method["name"]: method for method in results["methods"]}


def test_the_best_has_the_highest_mean_and_not_the_best_run(tmp_path: Path) -> None:
    results = found(make_plan(tmp_path, [BCE, FOCAL]), {"bce": (3.0, 0.0, 0.5), "focal": (1.0, 1.0, 1.0)})
    runs = {name: [run["mAP"]["total"] for run in entry["test"]["runs"]] for name, entry in by_name(results).items()}
    assert max(runs["bce"]) > max(runs["focal"])
    assert fmean(runs["bce"]) < fmean(runs["focal"])
    assert results["best"] == {"test": "focal", "validation": "focal"}


def test_the_folds_choose_whatever_the_test_says(tmp_path: Path) -> None:
    results = found(make_plan(tmp_path, [BCE, FOCAL]), {"bce": (0.2, 0.2, 2.0), "focal": (2.0, 2.0, 0.2)})
    assert results["best"] == {"test": "focal", "validation": "bce"}
    assert results["recommendation"]["methods"][0] == "bce"


def test_of_methods_that_tie_the_first_is_best(tmp_path: Path) -> None:
    same = (1.0, 1.0, 1.0)
    results = found(make_plan(tmp_path, [PG, BCE]), {"pg": same, "bce": same})
    assert results["best"] == {"test": "pg", "validation": "pg"}
    nothing = {"difference": 0, "low": 0, "high": 0}
    assert by_name(results)["bce"]["test"]["against_best"]["total"] == nothing
    assert results["recommendation"]["methods"] == ["pg", "bce"]


def test_scores_are_those_of_scikit_learn(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, [BCE, FOCAL], baseline="bce", seeds=(3, 5))
    results = found(plan, {"bce": (0.5, 0.7, 0.5), "focal": (1.0, 1.5, 1.0)}, NEVER_TESTED)
    means = {}
    for name, skills in (("bce", (0.5, 0.7)), ("focal", (1.0, 1.5))):
        runs = [
            precision(NEVER_TESTED, scores_of(NEVER_TESTED, skill, seed))
            for skill, seed in zip(skills, (3, 5), strict=True)
        ]
        test = by_name(results)[name]["test"]
        assert [run["seed"] for run in test["runs"]] == [3, 5]
        for run, expected in zip(test["runs"], runs, strict=True):
            assert run["AP"][:3] == pytest.approx(expected[:3], abs=1e-5)
            assert run["AP"][3] is None
            assert run["mAP"]["total"] == pytest.approx(np.nanmean(expected), abs=1e-5)
        totals = [np.nanmean(run) for run in runs]
        means[name] = fmean(totals)
        assert test["mean"]["total"] == pytest.approx(means[name], abs=1e-5)
        assert test["std"]["total"] == pytest.approx(stdev(totals), abs=1e-5)
        assert test["AP"][:3] == pytest.approx(np.mean(runs, axis=0)[:3], abs=1e-5)
        assert (test["AP"][3], test["AP_low"][3], test["AP_high"][3]) == (None, None, None)
        pooled = precision(TRAIN, scores_of(TRAIN, {"bce": 0.5, "focal": 1.0}[name], 7))
        validation = by_name(results)[name]["validation"]
        assert validation["AP"] == pytest.approx(pooled, abs=1e-5)
        assert validation["mAP"]["total"] == pytest.approx(pooled.mean(), abs=1e-5)
    gap = by_name(results)["focal"]["test"]["against_baseline"]["total"]
    assert gap["difference"] == pytest.approx(means["focal"] - means["bce"], abs=1e-5)
    assert gap["low"] < gap["difference"] < gap["high"]


def test_a_group_that_is_not_tested_has_no_score(tmp_path: Path) -> None:
    sizes = (TRAIN.targets == 1).sum(axis=0)
    tail = np.flatnonzero(sizes < THRESHOLDS[0])
    test = replace(TEST, targets=np.where(np.isin(np.arange(4), tail), 0, TEST.targets).astype(np.int8))
    assert len(tail)
    entry = by_name(found(make_plan(tmp_path, [BCE]), {"bce": (1.0, 1.0, 1.0)}, test))["bce"]["test"]
    assert (entry["mean"]["tail"], entry["std"]["tail"]) == (None, None)
    assert entry["against_best"]["tail"] == {"difference": None, "low": None, "high": None}
    assert entry["mean"]["head"] is not None


def test_one_seed_has_no_deviation(tmp_path: Path) -> None:
    results = found(make_plan(tmp_path, [BCE], seeds=(4,)), {"bce": (1.0, 1.0)})
    entry = by_name(results)["bce"]["test"]
    assert set(entry["std"].values()) == {None}
    assert entry["mean"]["total"] == entry["runs"][0]["mAP"]["total"]


def test_decisions_are_means_over_the_runs(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, [BCE])
    test = by_name(found(plan, {"bce": (0.5, 1.0, 0.8)}))["bce"]["test"]
    logits = [scores_of(TEST, 0.5, 0), scores_of(TEST, 1.0, 1)]
    known = TEST.targets >= 0
    plain = [100 * f1_score(TEST.targets[known] == 1, run[known] > 0) for run in logits]
    assert test["OF1"] == pytest.approx(fmean(plain), abs=1e-5)
    classes = json.loads((plan.folder / "folds" / "bce" / "thresholds.json").read_text())["classes"]
    cuts = np.array([classes[name]["threshold"] for name in NAMES])
    tuned = [100 * f1_score(TEST.targets[known] == 1, (run >= cuts)[known]) for run in logits]
    assert test["OF1_tuned"] == pytest.approx(fmean(tuned), abs=1e-5)
    assert test["OF1_tuned"] != pytest.approx(test["OF1"], abs=1e-3)


def test_without_folds_nothing_is_tuned_or_validated(tmp_path: Path) -> None:
    results = found(make_plan(tmp_path, [BCE, PG], folds=0), {"bce": (0.5, 0.5, 0), "pg": (1.0, 1.0, 0)})
    assert results["best"] == {"test": "pg", "validation": None}
    entry = by_name(results)["pg"]
    assert entry["validation"] is None
    assert (entry["test"]["CF1_tuned"], entry["test"]["calibration_error_calibrated"]) == (None, None)
    assert entry["test"]["CF1"] is not None
    assert not (tmp_path / "out" / "folds").exists()


@pytest.mark.parametrize("failing", ["seed1", "fold1"])
def test_a_method_with_a_failed_run_is_not_ranked_and_is_no_baseline(tmp_path: Path, failing: str) -> None:
    plan = make_plan(tmp_path, [BCE, PG], baseline="pg")
    (run,) = (run for run in plan.runs(PG) if run.folder.name == failing)
    fail(run, "no luck")
    results = found(plan, {"bce": (0.2, 0.2, 0.2), "pg": (2.0, 2.0, 2.0)})
    entry = by_name(results)["pg"]
    assert entry["failed"] == {"run": run.name, "reason": "no luck"}
    assert (entry["test"], entry["validation"]) == (None, None)
    assert results["baseline"] is None
    assert by_name(results)["bce"]["test"]["against_baseline"] is None
    assert results["best"] == {"test": "bce", "validation": "bce"}


def test_the_baseline_is_named_and_compared_with(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, [BCE, PG], baseline="bce", seeds=(0,), folds=0, level=0.5, replicates=20)
    results = found(plan, {"bce": (0.2, 0), "pg": (2.0, 0)})
    assert (results["baseline"], results["folds"], results["seeds"]) == ("bce", 0, [0])
    assert results["bootstrap"] == {"replicates": 20, "level": 0.5}
    assert by_name(results)["bce"]["test"]["against_baseline"]["total"] == {"difference": 0, "low": 0, "high": 0}
    assert by_name(results)["pg"]["test"]["against_baseline"]["total"]["difference"] > 0


def test_what_runs_do_not_share_is_left_out_and_places_are_names(tmp_path: Path) -> None:
    shared = found(make_plan(tmp_path, [BCE], folds=0, seeds=(0,)), {"bce": (1.0, 0)})["shared"]
    own = {"data", "output", "seed", "loss", "loss_options", "cache", "val_folds", "val_fold", "resume", "quiet"}
    own |= {"classes", "root", "split_file", "val_split", "accelerator", "devices", "num_nodes", "num_workers"}
    own |= {"checkpoint_minutes", "compile"}
    assert not own & shared.keys()
    assert {"mode", "thresholds", "batch_size", "optim", "model", "sampler", "recipe", "augment"} <= shared.keys()
    options = {"weights": "sub/w.bin", "label_embeddings": None, "deep": [{"weights": Path("/a/b.bin")}, "/c/d", 1]}
    assert portable(options) == {"weights": "w.bin", "label_embeddings": None, "deep": [{"weights": "b.bin"}, "d", 1]}
    assert portable({"title": "a/b"}) == {"title": "a/b"}


TUNED = Method("focal", {"loss": "focal"}, search=({"loss_options": {"gamma": 1.0}}, {"loss_options": {"gamma": 3.0}}))


def settled(plan: Plan, skills: Sequence[float | None]) -> list[Chosen]:
    """What is chosen if the options that a method tries have these skills on the folds; None fails."""

    def do(methods: Any) -> None:
        (runs,) = methods
        assert len({run.folder for run in runs}) == len(skills) * plan.folds

    for candidate, skill in zip(plan.search_runs(TUNED), skills, strict=True):
        if skill is None:
            for run in candidate:
                fail(run, "no luck")
        else:
            finish_folds(candidate, scores_of(TRAIN, skill, 7))
    return settle(plan, TRAIN, do)


@pytest.mark.parametrize(
    ("skills", "best"),
    [
        ((0.1, 2.0, 0.5), 1),
        ((0.1, 0.5, 2.0), 2),
        ((2.0, 0.1, 0.5), 0),
        ((1.0, 1.0, 1.0), 0),
        ((0.1, 2.0, 2.0), 1),
        ((None, 0.1, 0.1), 1),
        ((None, None, 0.1), 2),
        ((None, None, None), 0),
    ],
)
def test_a_search_takes_the_best_on_the_folds_and_the_first_of_several(
    tmp_path: Path, skills: tuple[float | None, ...], best: int
) -> None:
    plan = make_plan(tmp_path, [BCE, TUNED], search=True)
    plain, chosen = settled(plan, skills)
    tried = [{}, *TUNED.search]
    assert (plain.method, plain.found) == (BCE, None)
    assert chosen.found == tried[best]
    assert chosen.method.options == {"loss": "focal", **tried[best]}
    record = json.loads((plan.folder / "search.json").read_text())
    assert (record["folds"], list(record["methods"])) == (2, ["focal"])
    for entry, options, skill in zip(record["methods"]["focal"], tried, skills, strict=True):
        assert entry["options"] == options
        if skill is None:
            assert entry["mAP"] is None
            assert entry["failed"]["reason"] == "no luck"
        else:
            expected = precision(TRAIN, scores_of(TRAIN, skill, 7)).mean()
            assert entry["mAP"]["total"] == pytest.approx(expected, abs=1e-5)
    for fold, run in enumerate(plan.fold_runs(chosen.method)):
        assert run.folder.exists() == (skills[best] is not None)
        if skills[best] is not None:
            config = load(run.folder / "config.yaml")
            assert (config.output, config.val_fold) == (str(run.folder), fold)
            assert config.loss_options == tried[best].get("loss_options", {})
            assert (run.folder / VALIDATION_FILE).is_file()


def test_a_failed_try_is_worse_than_the_worst_score(tmp_path: Path) -> None:
    size = 400
    targets = np.zeros((size, 4), dtype=np.int8)
    targets[0] = 1
    rare = Dataset.from_arrays([f"{row}.jpg" for row in range(size)], targets, NAMES)
    worst = np.where(targets == 1, -1.0, np.arange(size)[:, None]).astype(np.float32)
    plan = make_plan(tmp_path, [TUNED], search=True)
    first, *others = plan.search_runs(TUNED)
    fail(first[1], "no luck")
    for runs in others:
        for fold, run in enumerate(runs):
            rows = np.arange(size)[fold::2]
            finish(run, VALIDATION_FILE, rare.subset(rows), worst[rows])
    (chosen,) = settle(plan, rare, lambda runs: list(runs))
    assert chosen.found == TUNED.search[0]
    record = json.loads((plan.folder / "search.json").read_text())["methods"]["focal"]
    assert record[1]["mAP"]["total"] == pytest.approx(100 / size)


def test_fold_runs_that_are_there_are_kept(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, [TUNED], search=True)
    (first, _) = plan.fold_runs(TUNED)
    first.folder.mkdir(parents=True)
    (first.folder / "mine").touch()
    settled(plan, (2.0, 0.1, 0.1))
    assert [path.name for path in first.folder.iterdir()] == ["mine"]


def test_without_a_search_nothing_is_tried(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, [BCE, TUNED])
    asked: list[Sequence[Run]] = []
    assert settle(plan, TRAIN, asked.extend) == [Chosen(BCE), Chosen(TUNED)]
    assert asked == []
    assert not (plan.folder / "search.json").exists()


def test_predictions_are_put_in_the_order_of_the_split(tmp_path: Path) -> None:
    logits = np.arange(4 * len(TRAIN), dtype=np.float32).reshape(-1, 4)
    runs = make_plan(tmp_path, [BCE]).fold_runs(BCE)
    finish_folds(runs, logits)
    files = [run.folder / VALIDATION_FILE for run in runs]
    assert read_logits(files, TRAIN).tolist() == logits.tolist()
    for wrong in (files[:1], [*files, files[0]], [files[0], files[0]]):
        with pytest.raises(InputError, match=r"is not of the 48 images and 4 classes of split 'train'"):
            read_logits(wrong, TRAIN)
    others = replace(TRAIN, names=("train/new.jpg", *TRAIN.names[1:]))
    renamed = replace(TRAIN, class_names=("cat", "dog", "emu", "gnu"))
    for split in (others, renamed, TRAIN.subset(np.arange(40))):
        with pytest.raises(InputError, match="the data have changed since; give another --output"):
            read_logits(files, split)


# Differences held against a bootstrap written out as a loop.
NUM_IMAGES, NUM_RUNS, REPLICATES = 60, 3, 20
BOARD_GROUPS = {"head": np.array([0, 1]), "medium": np.array([], dtype=int), "tail": np.array([2, 3])}


def board_and_logits():
    generator = np.random.default_rng(0)
    targets = (generator.random((NUM_IMAGES, 4)) < (0.5, 0.4, 0.3, 0.2)).astype(np.int8)
    logits = {
        name: [(generator.normal(size=targets.shape) + strength * targets).astype(np.float32) for _ in range(NUM_RUNS)]
        for name, strength in (("weak", 0.2), ("strong", 1.5))
    }
    board = Board(targets, BOARD_GROUPS, num_runs=NUM_RUNS, replicates=REPLICATES, level=0.9)
    for name, runs in logits.items():
        board.add(name, runs)
    return board, targets, logits


def mean_precision(scores, targets, rows, classes):
    return np.mean([average_precision_score(targets[rows, k], scores[rows, k]) for k in classes])


def test_differences_are_paired_over_images_and_runs():
    board, targets, logits = board_and_logits()
    assert board.best == "strong"
    found = board.difference("weak", "strong")
    resamples = Resamples.draw(NUM_IMAGES, NUM_RUNS, REPLICATES)
    for group, classes in {"total": [0, 1, 2, 3], "head": [0, 1], "tail": [2, 3]}.items():
        drawn = []
        for b in range(REPLICATES):
            rows = np.repeat(np.arange(NUM_IMAGES), resamples.images[:, b])
            means = {
                name: np.mean([mean_precision(runs[s], targets, rows, classes) for s in resamples.seeds[b]])
                for name, runs in logits.items()
            }
            drawn.append(100 * (means["weak"] - means["strong"]))
        assert found[group].low == pytest.approx(np.quantile(drawn, 0.05), abs=1e-5)
        assert found[group].high == pytest.approx(np.quantile(drawn, 0.95), abs=1e-5)
        everyone = np.arange(NUM_IMAGES)
        expected = [
            np.mean([mean_precision(run, targets, everyone, classes) for run in logits[name]])
            for name in ("weak", "strong")
        ]
        assert found[group].difference == pytest.approx(100 * (expected[0] - expected[1]), abs=1e-5)
    assert found["medium"] == Difference(None, None, None)


def test_a_method_does_not_differ_from_itself_or_from_nothing():
    board, _, _ = board_and_logits()
    assert board.difference("strong", "strong")["total"] == Difference(0, 0, 0)
    assert board.difference("strong", None) is None
    assert Board(np.ones((2, 4), np.int8), BOARD_GROUPS, num_runs=1, replicates=1, level=0.9).best is None


@pytest.mark.parametrize("of_one_kind", [[1, 1, -1], [0, -1, 0]])
def test_no_method_is_best_where_no_class_can_be_scored(of_one_kind):
    board = Board(np.array([of_one_kind] * 4).T.astype(np.int8), BOARD_GROUPS, num_runs=2, replicates=5, level=0.9)
    for name in ("one", "other"):
        board.add(name, [np.eye(3, 4, dtype=np.float32)] * 2)
    assert board.best is None
    assert board.methods["one"].means == dict.fromkeys(("total", *BOARD_GROUPS))
    assert board.methods["one"].class_means == [None] * 4
    assert class_intervals(board.methods["one"].replicates, board.level) == ((None,) * 4, (None,) * 4)
    undefined = Difference(None, None, None)
    assert board.difference("one", "other") == dict.fromkeys(("total", *BOARD_GROUPS), undefined)


def test_intervals_of_classes_hold_most_replicates():
    board, _, _ = board_and_logits()
    low, high = class_intervals(board.methods["strong"].replicates, board.level)
    replicates = 100 * board.methods["strong"].replicates.classes
    inside = ((replicates >= np.array(low) - 1e-6) & (replicates <= np.array(high) + 1e-6)).mean(axis=0)
    assert (np.abs(inside - 0.9) < 0.11).all()


def test_percent_is_what_json_holds():
    assert percent(float("nan")) is None
    assert percent(0.123456789) == 12.345679
    assert str(percent(-0.0)) == "0.0"
