"""Runs in worker processes: finished ones are kept, interrupted ones resumed, and a failure ends one run only.

A worker that crashes ends its current run only. When this process ends for any reason, its workers end too; while one
of them may still be writing, no other process writes into the folder of its run.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing import connection, get_context, parent_process
from multiprocessing.context import SpawnContext
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from filelock import FileLock, Timeout

from tailwise.errors import InputError
from tailwise.training.config import TrainConfig, differences, load, to_mapping
from tailwise.training.folder import CONFIG_FILE, METRICS_FILE, is_unstarted, write_json
from tailwise.training.resolution import resolve
from tailwise.training.run import train

FAILED_FILE = "failed.json"

_SECONDS_TO_STOP = 10.0
_SECONDS_TO_WAIT_FOR_AN_ORPHAN = 60.0
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """One of many runs.

    Attributes:
        name: its name in messages, such as ``runs/pg/seed3``.
        folder: its run folder.
        configure: makes its configuration, in this process or a worker; raises :class:`InputError` if it cannot.
    """

    name: str
    folder: Path
    configure: Callable[[], TrainConfig]


@dataclass(frozen=True)
class Failure:
    """Why a run failed.

    Attributes:
        reason: in words, without times and paths.
        details: the traceback of an unexpected error.
    """

    reason: str
    details: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        failure: why it failed, or None.
        messages: warnings of the run.
    """

    failure: Failure | None
    messages: tuple[str, ...] = ()


def unfinished(runs: Iterable[Run]) -> list[Run]:
    """The runs that are not finished.

    Raises:
        InputError: a folder holds a run with other options.
    """
    return [run for run in runs if not _is_finished(run)]


def failure_of(run: Run) -> Failure | None:
    """Why a run failed when it was last tried; None if it did not."""
    path = run.folder / FAILED_FILE
    return Failure(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def execute(runs: Iterable[Run], *, workers: int, threads: int) -> Generator[tuple[Run, Outcome], None, None]:
    """Execute runs in worker processes; each ends with its metrics, or with failed.json in its folder.

    A run that was interrupted is resumed. One that failed is tried again. One whose process was killed is resumed once,
    after all others: the cause may have been another process, such as one that used up the memory.

    Args:
        runs: the runs; see :func:`unfinished`.
        workers: processes, each with one run at a time.
        threads: threads of each process.

    Yields:
        Each run when it ends, in any order. Close the generator to end the workers before that.
    """
    waiting = deque(runs)
    context = get_context("spawn")
    idle: list[_Worker] = []
    busy: dict[Any, tuple[_Worker, Run]] = {}
    ended: set[str] = set()
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                worker = idle.pop() if idle else _Worker(context, threads)
                run = waiting.popleft()
                busy[worker.connection] = worker, run
                worker.start(run)
            for ready in connection.wait(list(busy)):
                worker, run = busy.pop(ready)
                outcome = worker.outcome()
                if worker.is_alive:
                    idle.append(worker)
                elif run.name not in ended:
                    ended.add(run.name)
                    waiting.append(run)
                    continue
                if outcome.failure is not None:
                    run.folder.mkdir(parents=True, exist_ok=True)
                    write_json(run.folder / FAILED_FILE, asdict(outcome.failure))
                yield run, outcome
    finally:
        remaining = [*idle, *(worker for worker, _ in busy.values())]
        for worker in remaining:
            worker.stop()
        for worker in remaining:
            worker.wait()


def do(run: Run) -> Outcome:
    """Execute a run in this process; every error but an interrupt becomes its outcome."""
    messages = _Messages()
    logger = logging.getLogger("tailwise")
    logger.addHandler(messages)
    failure: Failure | None = None
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: messages.texts.append(str(message))
            _train(run)
    except InputError as error:
        failure = Failure(_without_places(str(error), run))
    except MemoryError:
        failure = Failure("there is too little memory for this run")
    except Exception as error:
        text = " ".join(str(error).split())
        failure = Failure(_without_places(f"{type(error).__name__}: {text}", run), traceback.format_exc())
    finally:
        logger.removeHandler(messages)
    return Outcome(failure, tuple(messages.texts))


def _train(run: Run) -> None:
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    # A worker whose parent was killed may run for a moment longer.
    lock = FileLock(run.folder.parent / f".{run.folder.name}.lock", timeout=_SECONDS_TO_WAIT_FOR_AN_ORPHAN)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError("another process is writing this run; end it first") from error
    try:
        config = run.configure()
        failed = run.folder / FAILED_FILE
        if run.folder.exists() and _is_useless(run.folder, config):
            shutil.rmtree(run.folder)
        failed.unlink(missing_ok=True)
        train(replace(config, resume=(run.folder / CONFIG_FILE).is_file()))
    finally:
        lock.release()


def _is_useless(folder: Path, config: TrainConfig) -> bool:
    """Whether there is nothing to resume: a run killed before it started, or that failed with other options."""
    if (folder / CONFIG_FILE).is_file():
        return (folder / FAILED_FILE).is_file() and bool(_changes(folder, config))
    return is_unstarted(folder, FAILED_FILE)


def _is_finished(run: Run) -> bool:
    if not (run.folder / CONFIG_FILE).is_file():
        return False
    failed = (run.folder / FAILED_FILE).is_file()
    try:
        changed = _changes(run.folder, run.configure())
    except InputError:
        return False  # the run will say so
    if changed and not failed:
        raise InputError(
            f"{run.name} was done with other options ({'; '.join(changed)}): repeat the command that it was done with, "
            "or give another --output"
        )
    return (run.folder / METRICS_FILE).is_file() and not failed


def _changes(folder: Path, config: TrainConfig) -> list[str]:
    """Options in which a configuration differs from that of the run in a folder."""
    config, path = resolve(config), folder / CONFIG_FILE
    recorded = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    # Parsing the types takes ten times as long, and there may be hundreds of runs.
    if recorded == to_mapping(config):
        return []
    return differences(resolve(load(path)), config)


def _without_places(text: str, run: Run) -> str:
    return text.replace(str(run.folder.absolute()), run.name).replace(str(run.folder), run.name)


class _Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


class _Worker:
    """A process that executes one run after another."""

    def __init__(self, context: SpawnContext, threads: int) -> None:
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, threads))
        # The process inherits that interrupts are ignored, before it can ignore them itself.
        with _interrupts_ignored(), _script_hidden():
            self._process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        self.is_alive = True

    def start(self, run: Run) -> None:
        with suppress(BrokenPipeError):  # it died while idle, which reading will show
            self.connection.send(run)

    def outcome(self) -> Outcome:
        try:
            outcome: Outcome = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.is_alive = False
            self._process.join()
            outcome = Outcome(_death(self._process.exitcode))
        return outcome

    def stop(self) -> None:
        # The run saves its state after the current step.
        self._process.terminate()

    def wait(self) -> None:
        self._process.join(_SECONDS_TO_STOP)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.connection.close()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _script_hidden() -> Iterator[None]:
    """Start processes that do not import the script of this one: without a main guard, it would run again in each."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _death(code: int | None) -> Failure:
    # A run that is terminated saves its state and exits with the code that a shell reports.
    number = -code if code is not None and code < 0 else (code or 0) - 128
    if number not in set(signal.Signals):
        return Failure(f"its process ended with exit code {code}")
    name = signal.Signals(number).name
    hint = "; the system may have had too little memory" if name == "SIGKILL" else ""
    return Failure(f"its process was ended by {name}{hint}")


def _work(requests: connection.Connection, threads: int) -> None:
    """The loop of a worker process: runs, until the parent closes the pipe."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # An interrupt from the keyboard reaches all processes; the parent ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    # Messages of a run go to the parent, which shows them.
    logging.getLogger("tailwise").propagate = False
    while True:
        try:
            run = requests.recv()
        except EOFError:
            return
        requests.send(do(run))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
