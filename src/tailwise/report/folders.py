"""Results read from the folder of a comparison, of a finished run, or of an evaluation of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tailwise.errors import InputError
from tailwise.experiments.results import (
    RESULTS_FILE,
    SINGLE_SCORES,
    Comparison,
    Data,
    Highest,
    MethodResult,
    Scores,
    Validation,
    read_comparison,
)
from tailwise.labels import LabelStats
from tailwise.records import read_json
from tailwise.training.config import TrainConfig, load, to_mapping
from tailwise.training.folder import CONFIG_FILE, METRICS_FILE, STATS_FILE


def results_file(folder: Path) -> Path:
    """The file of results in a folder: of a comparison, or else of a run or an evaluation.

    Raises:
        InputError: there is none.
    """
    for name in (RESULTS_FILE, METRICS_FILE):
        if (folder / name).is_file():
            return folder / name
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give the folder of a run, an evaluation or a comparison")
    state = "its run is not finished" if (folder / CONFIG_FILE).is_file() else f"there is no {RESULTS_FILE} in it"
    raise InputError(
        f"{folder} has nothing to report: {state}, and no {METRICS_FILE}; give the folder of a finished run, of an "
        "evaluation (evaluate --output), or of a comparison"
    )


def read_results(folder: Path) -> Comparison:
    """Read the folder of a comparison; or that of a run or an evaluation, as a comparison of one method.

    Raises:
        InputError: it holds none of these, or one of its files cannot be read.
    """
    return read_comparison(folder) if results_file(folder).name == RESULTS_FILE else _read_run(folder)


def _read_run(folder: Path) -> Comparison:
    metrics = read_json(folder / METRICS_FILE)
    is_evaluation = not (folder / CONFIG_FILE).is_file()
    origin = _evaluated_run(folder, metrics) if is_evaluation else folder
    config = load(origin / CONFIG_FILE)
    if is_evaluation:
        config = replace(config, **{name: value for name, value in metrics["reading"].items() if name != "split"})
    try:
        stats = LabelStats.load(origin / STATS_FILE)
        split = metrics["split"]
        test = None if split is None else _scores(metrics, stats)
        data = Data(
            source=config.data,
            train_split=config.train_split,
            test_split=split,
            num_train=stats.num_samples,
            num_test=0 if split is None else metrics["num_images"],
            class_names=tuple(stats.class_names),
            class_counts=tuple(stats.class_counts.tolist()),
            test_counts=None,
            groups={name: tuple(members.tolist()) for name, members in stats.groups.items()},
        )
    except (KeyError, OSError, ValueError) as error:
        reason = f"there is no {error} in it" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{folder} is not as training leaves a run: {reason}; train again") from error
    method = MethodResult(
        config.loss,
        options=_options(config),
        test=test,
        validation=_validation(metrics.get("validation")),
        folders=(folder,),
        tested=replace(config, test_split=split) if is_evaluation and split is not None else None,
        origin=origin if is_evaluation else None,
    )
    return Comparison(
        data=data,
        mode=config.mode,
        seeds=(config.seed,),
        folds=0,
        baseline=None,
        bootstrap=None,
        shared={},
        methods=(method,),
        highest=Highest(None if test is None else method.name),
        folder=folder,
        command="evaluate" if is_evaluation else "train",
        is_of_all_rows=is_evaluation and metrics["reading"].get("split") is None,
    )


def _evaluated_run(folder: Path, metrics: Mapping[str, Any]) -> Path:
    """The folder of the run that was evaluated."""
    if not isinstance(metrics.get("run"), str) or not isinstance(metrics.get("reading"), dict):
        raise InputError(
            f"{folder / METRICS_FILE} does not say which run was tested on which data, and the folder has no "
            f"{CONFIG_FILE}; evaluate the run again with --output"
        )
    run = Path(metrics["run"])
    if not (run / CONFIG_FILE).is_file():
        raise InputError(f"{folder} is an evaluation of the run in {run}, which is not there any more")
    return run


def _scores(metrics: Mapping[str, Any], stats: LabelStats) -> Scores:
    """The scores of a run as those of a method."""
    return Scores(
        means=metrics["mAP"],
        deviations=dict.fromkeys(metrics["mAP"]),
        AP=tuple(metrics["AP"][name] for name in stats.class_names),
        **{name: metrics[name] for name in SINGLE_SCORES if name in metrics},
    )


def _validation(found: Mapping[str, Any] | None) -> Validation | None:
    if found is None:
        return None
    return Validation(found["mAP"], where=found.get("split", Validation.where))


def _options(config: TrainConfig) -> dict[str, Any]:
    """The options of a run that make its method."""
    plain = to_mapping(config)
    return {name: plain[name] for name in ("loss", "loss_options", "recipe", "sampler") if plain[name]}
