"""Results of a comparison, a run or an evaluation, as one type, with its JSON file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from tailwise.errors import InputError
from tailwise.labels import LabelStats
from tailwise.metrics.groups import TOTAL
from tailwise.records import KEY, from_json, read_json, to_json
from tailwise.training.config import TrainConfig, load
from tailwise.training.folder import CONFIG_FILE, METRICS_FILE, write_json

if TYPE_CHECKING:
    import pandas as pd

FORMAT = "tailwise-comparison-1"
RESULTS_FILE = "results.json"
RUNS = "runs"
_DECIMALS = 6

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
"""Scores of a method that are one number each, with their titles."""


def percent(fraction: float) -> float | None:
    """A fraction in percent as JSON holds it: None for NaN."""
    # Adding 0 makes -0 a plain 0.
    return None if math.isnan(fraction) else round(100 * float(fraction), _DECIMALS) + 0.0


@dataclass(frozen=True)
class Difference:
    """A difference in mAP and its interval, in points; None where it is undefined."""

    difference: float | None
    low: float | None
    high: float | None

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class RunScores:
    """Scores of one run: its mAP by group and average precision by class, in percent; None where undefined."""

    seed: int
    means: Mapping[str, float | None] = field(metadata={KEY: "mAP"})
    AP: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Scores:
    """Scores of a method on the test split, means over its runs, in percent; None where undefined.

    Attributes:
        means: mAP by group.
        deviations: its standard deviation over the runs, None with one run.
        AP: average precision of each of the K classes; ``AP_low`` and ``AP_high`` are the ends of its interval.
        runs: scores of each run.
        against_best: differences in mAP to the best method by group; None without one.
        against_baseline: differences to the baseline likewise.

    The other scores are those of :data:`SINGLE_SCORES`.
    """

    means: Mapping[str, float | None] = field(metadata={KEY: "mean"})
    deviations: Mapping[str, float | None] = field(metadata={KEY: "std"})
    CF1: float | None = None
    OF1: float | None = None
    CF1_tuned: float | None = None
    OF1_tuned: float | None = None
    calibration_error: float | None = None
    calibration_error_calibrated: float | None = None
    AP: tuple[float | None, ...] = ()
    AP_low: tuple[float | None, ...] | None = None
    AP_high: tuple[float | None, ...] | None = None
    runs: tuple[RunScores, ...] = ()
    against_best: Mapping[str, Difference] | None = None
    against_baseline: Mapping[str, Difference] | None = None

    @property
    def by_run(self) -> dict[str, list[float | None]]:
        """mAP of each run, by group."""
        return {group: [run.means[group] for run in self.runs] for group in self.means}

    def against(self, reference: Reference) -> Mapping[str, Difference]:
        """Differences in mAP to the best method or the baseline by group; empty where there are none."""
        return (self.against_best if reference == "best" else self.against_baseline) or {}


@dataclass(frozen=True)
class Validation:
    """Scores of a method on validation images, in percent: mAP by group, average precision by class.

    ``where`` describes those images.
    """

    means: Mapping[str, float | None] = field(metadata={KEY: "mAP"})
    AP: tuple[float | None, ...] = ()
    against_best: Mapping[str, Difference] | None = None
    where: str = field(default="validation images", compare=False)


@dataclass(frozen=True)
class RunFailure:
    """The run that failed, and why."""

    run: str
    reason: str

    def __str__(self) -> str:
        return f"{self.run}: {self.reason}" if self.run else self.reason


@dataclass(frozen=True)
class MethodResult:
    """Results of one method.

    Attributes:
        name: its name.
        title: what it is, for readers.
        options: training options by which it differs from the others.
        chosen: options found by the search; None without a search.
        failed: why there are no scores, if a run failed.
        test: scores on the test split.
        validation: scores on validation images.
        solved: of solved heads, the transform of the features and how the head of each loss was chosen, as in
            metrics.json of the run.
        folders: folders of its finished runs, by rising seed; or that of an evaluation of one.
        tested: of an evaluation, the configuration of the run with the data that were read for it.
        origin: of an evaluation, the folder of the run.
    """

    name: str
    title: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    chosen: Mapping[str, Any] | None = None
    failed: RunFailure | None = None
    test: Scores | None = None
    validation: Validation | None = None
    solved: Mapping[str, Any] | None = None
    folders: tuple[Path, ...] = field(default=(), compare=False)
    tested: TrainConfig | None = field(default=None, compare=False)
    origin: Path | None = field(default=None, compare=False)

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

    def mean(self, group: str = TOTAL) -> float | None:
        """Mean mAP of its runs on the test split."""
        return None if self.test is None else self.test.means.get(group)

    def against(self, reference: Reference) -> Mapping[str, Difference]:
        """Differences in mAP to the best method or the baseline by group; empty where there are none."""
        return {} if self.test is None else self.test.against(reference)


@dataclass(frozen=True)
class Data:
    """The data of a comparison: splits, classes with their positives, and groups of class indices.

    The test split is None for a run without a test, ``test_counts`` where they are not recorded.
    """

    source: str
    train_split: str
    test_split: str | None
    num_train: int
    num_test: int
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    test_counts: tuple[int, ...] | None
    groups: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Bootstrap:
    """Number of replicates, and the confidence level of their intervals."""

    replicates: int
    level: float


@dataclass(frozen=True)
class Highest:
    """Names of the methods with the highest mAP; None where no method has one."""

    test: str | None = None
    validation: str | None = None


@dataclass(frozen=True)
class Recommendation:
    """The method to take and then those that do not differ from it, by name; and the reasons, as sentences."""

    methods: tuple[str, ...] = ()
    text: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join(self.text)


@dataclass(frozen=True)
class Comparison:
    """One or several methods on the same data.

    Fields that equality ignores name the place of results, and are not written.

    Attributes:
        data: the data.
        mode: "probe" or "finetune", of the methods whose options name no other.
        seeds: seeds of every method.
        folds: parts of the training split that were held out in turn; 0 for none.
        baseline: name of the method that the others are also compared with.
        bootstrap: how intervals were made; None without intervals.
        shared: options that all methods share.
        methods: results by method.
        highest: the methods with the highest scores.
        recommendation: which method to take.
        folder: the folder of the runs; None for results alone.
        command: the command of tailwise that made them.
        is_of_all_rows: whether an evaluation is of all rows of the data, in any split.
    """

    data: Data
    mode: str
    seeds: tuple[int, ...]
    folds: int
    baseline: str | None
    bootstrap: Bootstrap | None
    shared: Mapping[str, Any]
    methods: tuple[MethodResult, ...]
    highest: Highest = field(default=Highest(), metadata={KEY: "best"})
    recommendation: Recommendation = Recommendation()
    folder: Path | None = field(default=None, compare=False)
    command: Literal["compare", "train", "evaluate"] = field(default="compare", compare=False)
    is_of_all_rows: bool = field(default=False, compare=False)

    @property
    def best(self) -> str | None:
        """Name of the recommended method, if there is one."""
        return next(iter(self.recommendation.methods), None)

    @property
    def is_comparison(self) -> bool:
        """Whether these are results of a comparison, rather than of a run or an evaluation."""
        return self.command == "compare"

    @cached_property
    def stats(self) -> LabelStats:
        """Counts, names and groups of the training labels."""
        counts = np.array(self.data.class_counts, dtype=np.int64)
        return LabelStats(counts, self.data.num_train, self.data.class_names, groups=self.data.groups)

    def method(self, name: str | None) -> MethodResult | None:
        """The method of a name, if it has scores."""
        return next((method for method in self.methods if method.name == name and method.test), None)

    def reference(self, kind: Reference) -> str | None:
        """Name of the method that differences of this kind are to."""
        return self.baseline if kind == "baseline" else self.highest.test

    @property
    def leading(self) -> list[str]:
        """Names of the recommended method, the best on the test split and the baseline, where they exist."""
        names = (self.best, self.highest.test, self.baseline)
        return list(dict.fromkeys(name for name in names if name is not None))

    @property
    def scored(self) -> list[MethodResult]:
        """The methods with scores: those that are recommended, best or baseline first, then by falling mAP."""
        ranks = [*self.leading, *self.recommendation.methods]

        def key(method: MethodResult) -> tuple[int, float]:
            rank = ranks.index(method.name) if method.name in ranks else len(ranks)
            return rank, -(method.mean() or 0.0)

        return sorted((method for method in self.methods if method.test is not None), key=key)

    def with_intervals(self, ends: Mapping[str, Mapping[str, Any]], bootstrap: Bootstrap) -> Comparison:
        """The results with further intervals: ``AP_low`` and ``AP_high`` by name of the method."""
        if not ends:
            return self
        methods = tuple(
            replace(method, test=replace(method.test, **ends[method.name]))
            if method.test is not None and method.name in ends
            else method
            for method in self.methods
        )
        return replace(self, methods=methods, bootstrap=bootstrap)

    def to_frame(self) -> pd.DataFrame:
        """A row per method, by name: mAP by group with deviations, and the other scores, in percent.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        import pandas as pd

        groups = (TOTAL, *self.data.groups)
        rows = {}
        for method in self.methods:
            test = method.test
            row: dict[str, Any] = {}
            for group in groups:
                row |= {group: method.mean(group), f"{group}_std": test.deviations.get(group) if test else None}
            to_baseline = method.against("baseline").get(TOTAL)
            row["against_baseline"] = to_baseline.difference if to_baseline else None
            row["held_out"] = method.validation.means.get(TOTAL) if method.validation else None
            row |= {name: getattr(test, name) if test else None for name in SINGLE_SCORES}
            rows[method.name] = {**row, "seconds": method.seconds}
        numbers = pd.DataFrame.from_dict(rows, orient="index").astype("float64")
        failed = [None if method.failed is None else str(method.failed) for method in self.methods]
        return numbers.assign(failed=failed).rename_axis("method")

    def to_json(self) -> dict[str, Any]:
        """The content of results.json, without times and folders."""
        return {"format": FORMAT, **to_json(self)}

    def write(self, folder: Path) -> None:
        """Write results.json into a folder, whole or not at all."""
        write_json(folder / RESULTS_FILE, self.to_json())

    def located(self, folder: Path) -> Comparison:
        """The comparison with the finished runs in its folder."""

        def folders(name: str) -> tuple[Path, ...]:
            paths = (folder / RUNS / name / f"seed{seed}" for seed in sorted(self.seeds))
            return tuple(path for path in paths if (path / METRICS_FILE).is_file())

        methods = tuple(replace(method, folders=folders(method.name)) for method in self.methods)
        return replace(self, methods=methods, folder=folder)


def read_comparison(folder: Path) -> Comparison:
    """Read the folder of a comparison.

    Raises:
        InputError: its results cannot be read, or are of another form.
    """
    path = folder / RESULTS_FILE
    found = read_json(path)
    if found.get("format") != FORMAT:
        raise InputError(f'{path} holds no results of a comparison: its "format" is not "{FORMAT}"')
    try:
        comparison = from_json(Comparison, found)
        _check(comparison)
    except ValueError as error:
        raise InputError(f"{path} is not as a comparison writes it: {error}; compare again") from error
    return comparison.located(folder)


def _check(comparison: Comparison) -> None:
    """Refuse results whose parts disagree in the number of classes.

    Raises:
        ValueError: they do.
    """
    num_classes = comparison.stats.num_classes
    for method in comparison.methods:
        found = () if method.test is None else (method.test.AP, method.test.AP_low, method.test.AP_high)
        if any(values is not None and len(values) != num_classes for values in found):
            raise ValueError(f"method {method.name!r} has scores of other than {num_classes} classes")
