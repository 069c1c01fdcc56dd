"""What a results page shows, read from the folder of a comparison or of a single run, which is one of one method."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, Literal, TypeAlias

from tailwise.errors import InputError
from tailwise.labels import LabelStats
from tailwise.metrics.groups import TOTAL
from tailwise.training.config import TrainConfig, load, to_mapping
from tailwise.training.folder import CONFIG_FILE, METRICS_FILE, STATS_FILE

RESULTS_FILE = "results.json"
COMPARISON_FORMAT = "tailwise-comparison-1"

Reference: TypeAlias = Literal["baseline", "best"]
REFERENCES: tuple[Reference, ...] = ("baseline", "best")

SINGLE_SCORES = {
    "CF1": "CF1 at ½",
    "OF1": "OF1 at ½",
    "CF1_tuned": "CF1, tuned",
    "OF1_tuned": "OF1, tuned",
    "calibration_error": "calibration error",
    "calibration_error_calibrated": "calibrated",
}
"""Scores of a method that are one number each, with the titles of their columns."""

_RUNS_FOLDER = "runs"


@dataclass(frozen=True)
class MethodResults:
    """One method.

    Attributes:
        name: its name.
        title: what it is, for readers; "" where the name says it.
        options: training options by which it differs from the others.
        chosen: options found by search, if there was one.
        failed: why there are no scores, if a run failed.
        test: scores in percent as results.json has them ("mean", "std", "AP", ...); None without any.
        validation: the same of validation images ("mAP", "AP"); None without any.
        folders: the folders of its finished runs, by rising seed; or that of a test of one.
        tested: of a test, the configuration of the run with the data that were read for it.
        origin: of a test, the folder of the run.
    """

    name: str
    title: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    chosen: Mapping[str, Any] | None = None
    failed: str | None = None
    test: Mapping[str, Any] | None = None
    validation: Mapping[str, Any] | None = None
    folders: tuple[Path, ...] = ()
    tested: TrainConfig | None = None
    origin: Path | None = None

    @cached_property
    def seconds(self) -> float | None:
        """Median wall time of its runs; None without one."""
        times = [read_json(folder / METRICS_FILE)["seconds"] for folder in self.folders if self.origin is None]
        return median(times) if times else None

    @cached_property
    def config(self) -> TrainConfig | None:
        """The configuration of its first run; None without one."""
        return self.tested or (load(self.folders[0] / CONFIG_FILE) if self.folders else None)

    @property
    def trained(self) -> Path | None:
        """The folder of its first run; None without one."""
        return self.origin or (self.folders[0] if self.folders else None)

    @property
    def is_tuned(self) -> bool:
        """Whether it was also tested with thresholds tuned on validation images."""
        return (self.test or {}).get("CF1_tuned") is not None

    def mean(self, group: str = TOTAL) -> float | None:
        """Mean mAP of its runs on the test split."""
        return None if self.test is None else self.test["mean"].get(group)

    def against(self, reference: Reference) -> Mapping[str, Any]:
        """Differences in mAP to the best method or the baseline by group; empty where there are none."""
        return (self.test or {}).get(f"against_{reference}") or {}


@dataclass(frozen=True)
class Results:
    """One or several methods on the same data.

    Attributes:
        folder: where they were read from.
        is_comparison: whether it is the folder of a comparison, rather than that of a run or of a test of one.
        source: what the data were read from.
        splits: name and number of images of the training and the test split; None for a run that is tested on nothing.
        stats: counts, names and groups of the training labels.
        test_counts: K positives in the test split; None where it is not recorded.
        mode: "probe" or "finetune".
        seeds: seeds of every method.
        methods: the methods.
        baseline: name of the method that others are compared with.
        best: name of the method with the highest score on the test split.
        recommended: names of those that cannot be told apart from the best, the one to take first.
        sentences: what to make of it, in words.
        shared: options that all methods share.
        folds: parts of the training split that were held out in turn; 0 for none.
        level: of the intervals, such as .95; None without intervals.
        replicates: of the bootstrap that made them; None without.
        is_of_all_rows: whether all rows of the data were tested on, whatever their split.
    """

    folder: Path
    is_comparison: bool
    source: str
    splits: tuple[tuple[str, int], tuple[str, int] | None]
    stats: LabelStats
    test_counts: tuple[int, ...] | None
    mode: str
    seeds: tuple[int, ...]
    methods: tuple[MethodResults, ...]
    baseline: str | None = None
    best: str | None = None
    recommended: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()
    shared: Mapping[str, Any] = field(default_factory=dict)
    folds: int = 0
    level: float | None = None
    replicates: int | None = None
    is_of_all_rows: bool = False

    @property
    def command(self) -> str:
        """The command of tailwise that found them."""
        is_test = self.methods[0].origin is not None
        return "compare" if self.is_comparison else "evaluate" if is_test else "train"

    @property
    def is_tested(self) -> bool:
        """Whether there is a test split."""
        return self.splits[1] is not None

    def method(self, name: str | None) -> MethodResults | None:
        """The method of a name, if it has scores."""
        return next((method for method in self.methods if method.name == name and method.test), None)

    def with_intervals(self, ends: Mapping[str, Mapping[str, Any]], level: float) -> Results:
        """The results with further intervals: "AP_low" and "AP_high" by name of the method."""
        if not ends:
            return self
        methods = (replace(m, test={**m.test, **ends.get(m.name, {})}) if m.test else m for m in self.methods)
        return replace(self, methods=tuple(methods), level=level)

    def reference(self, kind: Reference) -> str | None:
        """Name of the method that differences of this kind are to."""
        return self.baseline if kind == "baseline" else self.best

    @property
    def title(self) -> str:
        """What a page of them is called."""
        if self.is_comparison:
            return Path(self.source).name
        folder, loss = self.folder.absolute().name, self.methods[0].name
        return folder if loss in folder else f"{loss}: {folder}"

    @property
    def leading(self) -> list[str]:
        """Names of the recommended method, of the best on the test split and of the baseline, as far as there are."""
        names = (*self.recommended[:1], self.best, self.baseline)
        return list(dict.fromkeys(name for name in names if name is not None))

    @property
    def scored(self) -> list[MethodResults]:
        """The methods that have scores: those with a part first, the recommended one before all, the rest by falling
        mAP."""
        ranks = [*self.leading, *self.recommended]

        def key(method: MethodResults) -> tuple[int, float]:
            rank = ranks.index(method.name) if method.name in ranks else len(ranks)
            return rank, -(method.mean() or 0.0)

        return sorted((method for method in self.methods if method.test is not None), key=key)


def validation_name(method: MethodResults) -> str:
    """What the validation images of a method are, in words."""
    return str((method.validation or {}).get("split", "validation images"))


def is_comparison(folder: Path) -> bool:
    """Whether a folder holds a comparison; a single run, or a test of one, otherwise.

    Raises:
        InputError: it holds none of these.
    """
    if (folder / RESULTS_FILE).is_file():
        return True
    if (folder / METRICS_FILE).is_file():
        return False
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give the folder of a run, an evaluation or a comparison")
    state = "its run is not finished" if (folder / CONFIG_FILE).is_file() else f"there is no {RESULTS_FILE} in it"
    raise InputError(
        f"{folder} has nothing to report: {state}, and no {METRICS_FILE}; give the folder of a finished run, of an "
        "evaluation (evaluate --output), or of a comparison"
    )


def read_comparison(folder: Path) -> Results:
    """Read the folder of a comparison.

    Raises:
        InputError: its results cannot be read, or are of another form.
    """
    path = folder / RESULTS_FILE
    found = read_json(path)
    if found.get("format") != COMPARISON_FORMAT:
        raise InputError(f'{path} holds no results of a comparison: its "format" is not "{COMPARISON_FORMAT}"')
    try:
        return _comparison(folder, found)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise InputError(f"{path} is not as a comparison writes it: {_reason(error)}; compare again") from error


def read_run(folder: Path) -> Results:
    """Read the folder of a finished run, or of a test of one, as a comparison of one method.

    Raises:
        InputError: the run is not finished, or one of its files cannot be read.
    """
    metrics = read_json(folder / METRICS_FILE)
    is_test = not (folder / CONFIG_FILE).is_file()
    origin = _tested_run(folder, metrics) if is_test else folder
    config = load(origin / CONFIG_FILE)
    if is_test:
        config = replace(config, **{name: value for name, value in metrics["reading"].items() if name != "split"})
    try:
        stats = LabelStats.load(origin / STATS_FILE)
        is_tested = metrics["split"] is not None
        test = _scores(metrics, config, stats) if is_tested else None
        tested_on = (metrics["split"], metrics["num_images"]) if is_tested else None
    except (KeyError, OSError, ValueError) as error:
        raise InputError(f"{folder} is not as training leaves a run: {_reason(error)}; train again") from error
    method = MethodResults(
        config.loss,
        options=_options(config),
        test=test,
        validation=metrics.get("validation"),
        folders=(folder,),
        tested=replace(config, test_split=tested_on[0]) if is_test and tested_on else None,
        origin=origin if is_test else None,
    )
    return Results(
        folder=folder,
        is_comparison=False,
        source=config.data,
        is_of_all_rows=is_test and metrics["reading"].get("split") is None,
        splits=((config.train_split, stats.num_samples), tested_on),
        stats=stats,
        test_counts=None,
        mode=config.mode,
        seeds=(config.seed,),
        methods=(method,),
        best=method.name if is_tested else None,
    )


def _tested_run(folder: Path, metrics: Mapping[str, Any]) -> Path:
    """The folder of the run that a test in a folder is of."""
    if not isinstance(metrics.get("run"), str) or not isinstance(metrics.get("reading"), dict):
        raise InputError(
            f"{folder / METRICS_FILE} does not say which run was tested on which data, and there is no {CONFIG_FILE} "
            "beside it; evaluate the run again with --output"
        )
    run = Path(metrics["run"])
    if not (run / CONFIG_FILE).is_file():
        raise InputError(f"{folder} is an evaluation of the run in {run}, which is not there any more")
    return run


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: there is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object")
    return content


def _scores(metrics: Mapping[str, Any], config: TrainConfig, stats: LabelStats) -> dict[str, Any]:
    """The scores of a run as those of a method."""
    return {
        "mean": metrics["mAP"],
        "std": dict.fromkeys(metrics["mAP"]),
        "AP": [metrics["AP"][name] for name in stats.class_names],
        "runs": [{"seed": config.seed, "mAP": metrics["mAP"]}],
        **{name: metrics[name] for name in SINGLE_SCORES if name in metrics},
    }


def _reason(error: Exception) -> str:
    return f"there is no {error} in it" if isinstance(error, KeyError) else str(error)


def _comparison(folder: Path, found: Mapping[str, Any]) -> Results:
    data, advice = found["data"], found.get("recommendation") or {}
    bootstrap = found.get("bootstrap") or {}
    stats = LabelStats(data["class_counts"], data["num_train"], data["class_names"], groups=data["groups"])
    return Results(
        folder=folder,
        is_comparison=True,
        source=data["source"],
        splits=((data["train_split"], data["num_train"]), (data["test_split"], data["num_test"])),
        stats=stats,
        test_counts=tuple(data["test_counts"]),
        mode=found["mode"],
        seeds=tuple(found["seeds"]),
        methods=tuple(_method(folder, entry, found["seeds"], stats.num_classes) for entry in found["methods"]),
        baseline=found["baseline"],
        best=found["best"]["test"],
        recommended=tuple(advice.get("methods") or ()),
        sentences=tuple(advice.get("text") or ()),
        shared=found["shared"],
        folds=found["folds"],
        level=bootstrap.get("level"),
        replicates=bootstrap.get("replicates"),
    )


def _method(folder: Path, entry: Mapping[str, Any], seeds: Sequence[int], num_classes: int) -> MethodResults:
    test, failed = entry["test"], entry["failed"]
    if test is not None and any(len(test[key]) != num_classes for key in ("AP", "AP_low", "AP_high") if key in test):
        raise ValueError(f"method {entry['name']!r} has scores of other than {num_classes} classes")
    folders = [folder / _RUNS_FOLDER / entry["name"] / f"seed{seed}" for seed in sorted(seeds)]
    if failed is not None:
        place = f"{failed['run']}: " if failed.get("run") else ""
        failed = f"{place}{failed['reason']}"
    return MethodResults(
        name=entry["name"],
        title=title if (title := entry.get("title", "")) != entry["name"] else "",
        options=entry["options"],
        chosen=entry.get("chosen"),
        failed=failed,
        test=test,
        validation=entry.get("validation"),
        folders=tuple(path for path in folders if (path / METRICS_FILE).is_file()),
    )


def _options(config: TrainConfig) -> dict[str, Any]:
    """The options of a run that make its method."""
    plain = to_mapping(config)
    return {name: plain[name] for name in ("loss", "loss_options", "recipe", "sampler") if plain[name]}
