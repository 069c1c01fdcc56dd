"""The comparison of methods: shared inputs, missing runs, scores and results in one folder."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from tailwise.data.dataset import Dataset, Features
from tailwise.data.splits import require_folds
from tailwise.errors import InputError
from tailwise.experiments.executors import Run, execute, unfinished
from tailwise.experiments.plan import FOLDS, Chosen, Plan, in_rounds, settle
from tailwise.experiments.results import RUNS, Comparison
from tailwise.experiments.scoring import summarize
from tailwise.labels import LabelStats
from tailwise.matrix import Targets, can_be_scored, dense_chunks
from tailwise.metrics import Decisions
from tailwise.models.backbone import try_backbone
from tailwise.progress import countdown
from tailwise.spelling import counted
from tailwise.training import finetune
from tailwise.training.config import TrainConfig
from tailwise.training.folder import DATA_FILE, THRESHOLDS_FILE, read_logits, write_json
from tailwise.training.inputs import RunSplits, check_labels, open_images, read_run
from tailwise.training.optim_config import known
from tailwise.training.probe import compute_features
from tailwise.training.resolution import resolve
from tailwise.training.testing import choose_device, list_suspects
from tailwise.training.trainer import create_sampler

_RECORD_FILE = "data.json"
_LOCK_FILE = ".lock"
_logger = logging.getLogger(__name__)


def compare(plan: Plan, *, workers: int | None = None) -> Comparison:
    """Run a comparison, or resume one, and write results.json into its folder; with folds, suspects.csv as well.

    Args:
        plan: the comparison; its folder is new, or that of the same comparison. Methods, seeds and folds may be added.
        workers: runs in parallel; by default :func:`default_workers`.

    Raises:
        InputError: the data, the folder or the shared options cannot be used, or there are too few images for folds.
    """
    workers = default_workers(plan.shared) if workers is None else workers
    shared = resolve(replace(plan.shared, output=str(plan.folder)))
    splits = read_run(shared)
    if not isinstance(splits.whole.inputs, Features):
        try_backbone(shared.model, shared.image_size)
    plan = replace(plan, shared=replace(plan.shared, split_ratios=splits.ratios))
    stats = LabelStats.from_targets(splits.whole.targets, splits.whole.class_names, shared.thresholds)
    check_labels(splits, stats)
    assert splits.test is not None
    if not plan.folds and not can_be_scored(splits.test.targets).any():
        raise InputError(
            f"no class of split {splits.test.name!r} has both a positive and a judged negative, so that methods cannot "
            "be compared on it; test on other images, or choose on held-out --folds"
        )
    require_folds(splits.whole, plan.folds)
    with _claimed(plan, splits):
        # Runs with other options must be found before hours are spent on the rest.
        for method in plan.methods:
            is_searched = plan.search and method.search
            unfinished(chain(*plan.search_runs(method)) if is_searched else plan.runs(method))
        _announce(plan)
        train, test = _prepare(plan, splits)
        do = _Runner(plan, workers, splits.whole).do
        chosen = settle(plan, train, do)
        do([in_rounds([plan.test_runs(entry.method), plan.fold_runs(entry.method)]) for entry in chosen])
        results = summarize(plan, chosen, train, test)
        results.write(plan.folder)
        if plan.folds and results.best is not None:
            _list_suspects(plan, chosen, results.best, train)
    return results


def _list_suspects(plan: Plan, chosen: Sequence[Chosen], name: str, train: Dataset) -> None:
    """List the training labels that held-out predictions of a method contradict, in the folder of the comparison."""
    method = next(entry.method for entry in chosen if entry.method.name == name)
    pooled = read_logits(plan.held_out(method), train)
    decisions = Decisions.load(plan.folder / FOLDS / name / THRESHOLDS_FILE)
    list_suspects(pooled, train, decisions, plan.folder)


class _Runner:
    """Executes runs in worker processes, with progress, and logs each message once."""

    def __init__(self, plan: Plan, workers: int, train: Dataset) -> None:
        self.show = not plan.shared.quiet
        self.workers = workers
        # Matrices of a head are too small for several threads; with one, sums do not depend on the number of workers.
        self.threads = 1 if plan.shared.mode == "probe" else max(1, _num_cores() // workers)
        self._targets = train.targets
        self._logged: set[str] = set()

    def do(self, methods: Iterable[Sequence[Run]]) -> None:
        """Execute the unfinished runs of methods: one of each method in turn, the shorter ones first."""
        methods = [runs for runs in methods if runs]
        runs = in_rounds(sorted(methods, key=lambda runs: _steps(runs[0], self._targets)))
        missing = unfinished(runs)
        if not missing:
            return
        if len(missing) < len(runs):
            _logger.info("%d of %d runs are done already", len(runs) - len(missing), len(runs))
        with (
            countdown("starting", len(missing), show=self.show) as advance,
            closing(execute(missing, workers=min(self.workers, len(missing)), threads=self.threads)) as outcomes,
        ):
            for run, outcome in outcomes:
                advance(1, run.name)
                # Messages about runs on a part of the images are dropped: those about runs on all of them matter.
                for message in outcome.messages if run.name.startswith(f"{RUNS}/") else ():
                    self._say(run, message)
                if outcome.failure is not None:
                    self._say(run, f"failed: {outcome.failure.reason}")

    def _say(self, run: Run, message: str) -> None:
        if message not in self._logged:
            self._logged.add(message)
            _logger.warning("%s: %s", run.name, message)


def default_workers(shared: TrainConfig) -> int:
    """One run for each core; one for the device where that trains the network."""
    device = choose_device(shared.accelerator, shared.precision)
    return 1 if shared.mode == "finetune" and device.type != "cpu" else _num_cores()


def _num_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _announce(plan: Plan) -> None:
    """Log the number of runs, methods, seeds and folds."""
    parts = [counted(len(plan.seeds), "seed")]
    parts += [counted(plan.folds, "held-out fold")] if plan.folds else []
    tried = [runs for method in plan.methods if plan.search and method.search for runs in plan.search_runs(method)]
    searching = f"; before that {counted(sum(map(len, tried)), 'run')} to try options" if tried else ""
    _logger.info(
        "%s: %s (%s), each with %s%s",
        counted(sum(len(plan.runs(method)) for method in plan.methods), "run"),
        counted(len(plan.methods), "method"),
        ", ".join(method.name for method in plan.methods),
        " and ".join(parts),
        searching,
    )


def _steps(run: Run, targets: Targets) -> int:
    """Number of training steps of a run on these labels; 0 of one that will fail."""
    try:
        config = resolve(run.configure())
        draws = len(create_sampler(config, targets))
    except ValueError:
        return 0
    return known(config.optim.epochs) * math.ceil(draws / config.batch_size)


def _prepare(plan: Plan, splits: RunSplits) -> tuple[Dataset, Dataset]:
    """Decode the images, or compute the features, that runs share; returns the splits without unreadable images."""
    shared = plan.shared
    assert splits.test is not None
    if shared.mode == "finetune":
        train = open_images(splits.whole, finetune.training_size(shared), shared)
        return train.split, open_images(splits.test, shared.image_size, shared).split
    wanted = (splits.whole, splits.test)
    found = compute_features(shared, wanted, choose_device(shared.accelerator, shared.precision))
    others = [] if isinstance(splits.whole.inputs, Features) else _other_features(plan)
    for config in others:
        with suppress(InputError):  # the run itself will fail with it
            try_backbone(config.model, config.image_size)
            compute_features(config, wanted, choose_device(config.accelerator, config.precision))
    train, test = found
    return train.split, test.split


def _other_features(plan: Plan) -> list[TrainConfig]:
    """Configurations of runs whose features are not those of the shared one, each kind once."""

    def kind(config: TrainConfig) -> tuple[Any, ...]:
        model = config.model
        is_random = model.weights is None and not model.pretrained
        return (
            *(model.backbone, str(model.weights), model.pretrained, repr(model.options), model.mean, model.std),
            *(config.image_size, config.precision, config.seed if is_random else None),
        )

    kinds: dict[tuple[Any, ...], TrainConfig] = {}
    for run in chain.from_iterable(plan.runs(method) for method in plan.methods):
        with suppress(InputError):
            config = run.configure()
            kinds.setdefault(kind(config), config)
    kinds.pop(kind(plan.shared), None)
    return list(kinds.values())


@contextmanager
def _claimed(plan: Plan, splits: RunSplits) -> Iterator[None]:
    """Lock the folder of a comparison for this process.

    Raises:
        InputError: it holds something else, a comparison of other data, or one that another process is writing.
    """
    assert splits.test is not None
    folder, record = plan.folder, plan.folder / _RECORD_FILE
    is_empty = not folder.exists() or (
        folder.is_dir() and all(path.name[0] == "." or path.name == DATA_FILE for path in folder.iterdir())
    )
    if not is_empty and not plan.holds_more and not record.is_file():
        raise InputError(f"--output {folder} exists and holds no comparison; give another output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK_FILE, timeout=0)
        lock.acquire()
    except OSError as error:
        if isinstance(error, Timeout):
            raise InputError(
                f"another process is writing the comparison in {folder}; wait, or give another --output"
            ) from error
        raise InputError(f"--output {folder} cannot be written: {error.strerror}") from error
    with lock:
        content = {"format": "tailwise-comparison-data-1", "train": _key(splits.whole), "test": _key(splits.test)}
        if not record.is_file():
            write_json(record, content)
        elif json.loads(record.read_text(encoding="utf-8")) != content:
            raise InputError(f"the comparison in {folder} was started with other data; give another --output")
        yield


def _key(split: Dataset) -> str:
    """A hash that two splits share only if their names, groups, features, labels and classes are the same."""
    digest = hashlib.sha256(json.dumps([split.class_names, split.names]).encode())
    if split.groups is not None:
        digest.update(json.dumps(split.groups).encode())
    if isinstance(split.inputs, Features):
        digest.update(split.inputs.values.tobytes())
    for targets in dense_chunks(split.targets):
        digest.update(np.ascontiguousarray(targets).tobytes())
    return digest.hexdigest()
