"""Runs in worker processes: results, failures that stay alone, and what is kept, gone on with and refused."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import tailwise
from tailwise.commands.demo import configuration
from tailwise.errors import InputError
from tailwise.experiments.executors import (
    FAILED_FILE,
    Failure,
    Run,
    _death,
    _interrupts_ignored,
    _is_useless,
    do,
    execute,
    failure_of,
    unfinished,
)
from tailwise.training.config import HeadConfig, OptimConfig, TrainConfig, save
from tailwise.training.folder import METRICS_FILE
from tailwise.training.resolution import resolve


@pytest.fixture
def config(tmp_path) -> TrainConfig:
    """One epoch of the demo's network on the digits, frozen: a second per run."""
    shared = replace(
        configuration(tmp_path / "out"),
        mode="probe",
        head=HeadConfig(solver="sgd"),
        cache=str(tmp_path / "cache"),
        seed=1,
    )
    return replace(shared, optim=OptimConfig(epochs=1, warmup_steps=5))


def same(config):
    return config


def wrong(text):
    raise InputError(text)


def broken():
    raise RuntimeError("two\nlines")


def killed(record):
    with record.open("a") as file:
        file.write("tried\n")
    os.kill(os.getpid(), signal.SIGKILL)


def noisy(config):
    warnings.warn("a warning", stacklevel=1)
    logging.getLogger("tailwise.tests").warning("a message")
    return config


def run_of(config, name, configure=None):
    folder = Path(config.output) / name
    return Run(name, folder, configure or partial(same, replace(config, output=str(folder))))


def test_a_failure_is_only_its_own(config, tmp_path):
    runs = [
        run_of(config, "wrong", partial(wrong, f"no folder {config.output}/wrong/x")),
        run_of(config, "broken", broken),
        run_of(config, "killed", partial(killed, tmp_path / "record")),
        run_of(config, "good"),
    ]
    with closing(execute(runs, workers=1, threads=1)) as outcomes:
        found = {run.name: outcome.failure for run, outcome in outcomes}
    assert {name: failure and failure.reason for name, failure in found.items()} == {
        "wrong": "no folder wrong/x",
        "killed": "its process was ended by SIGKILL; the system may have had too little memory",
        "broken": "RuntimeError: two lines",
        "good": None,
    }
    assert (tmp_path / "record").read_text().splitlines() == ["tried", "tried"]
    for run in runs[:-1]:
        recorded = json.loads((run.folder / FAILED_FILE).read_text())
        assert recorded["reason"] == found[run.name].reason
        assert failure_of(run) == found[run.name]
    assert "broken()" not in found["broken"].reason
    assert "in broken" in found["broken"].details
    assert (runs[-1].folder / METRICS_FILE).is_file()
    assert unfinished(runs) == runs[:-1]


def test_a_script_needs_no_main_guard(config, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from dataclasses import replace\n"
        "from functools import partial\n"
        "from pathlib import Path\n"
        "from tailwise.training.config import load\n"
        "from tailwise.experiments.executors import Run, execute\n"
        "print('started')\n"
        "config = load(Path(sys.argv[1]))\n"
        "run = Run('run', Path(config.output), partial(replace, config))\n"
        "print([outcome.failure for _, outcome in execute([run], workers=1, threads=1)])\n"
    )
    save(replace(config, output=str(tmp_path / "run")), tmp_path / "run.yaml")
    line = [sys.executable, str(script), str(tmp_path / "run.yaml")]
    source = str(Path(tailwise.__file__).parents[1])
    done = subprocess.run(line, env={**os.environ, "PYTHONPATH": source}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "started\n[None]\n", "")
    assert (tmp_path / "run" / METRICS_FILE).is_file()


def test_a_failed_run_is_tried_again_with_other_options(config):
    run = run_of(config, "run")
    exploding = replace(run.configure(), optim=replace(config.optim, lr=1e30))
    failure = do(Run("run", run.folder, partial(same, exploding))).failure
    assert failure is not None
    assert "lower --lr" in failure.reason
    run.folder.joinpath(FAILED_FILE).write_text(json.dumps({"reason": failure.reason}))
    assert unfinished([run]) == [run]
    assert do(run).failure is None
    assert failure_of(run) is None
    assert unfinished([run]) == []


def test_a_finished_run_with_other_options_is_refused(config):
    run = run_of(config, "run")
    run.folder.mkdir(parents=True)
    save(replace(run.configure(), batch_size=16), run.folder / "config.yaml")
    with pytest.raises(InputError, match=r"run was done with other options \(.*--batch-size: 16, now 32"):
        unfinished([run])


def test_a_run_killed_before_it_began_starts_anew(config):
    run = run_of(config, "run")
    (run.folder / "checkpoints").mkdir(parents=True)
    (run.folder / ".config.yaml.tmp").touch()
    assert do(run).failure is None
    assert unfinished([run]) == []


def test_a_folder_of_something_else_is_left_alone(config):
    run = run_of(config, "run")
    run.folder.mkdir(parents=True)
    (run.folder / "thesis.tex").touch()
    failure = do(run).failure
    assert failure is not None
    assert "holds no run" in failure.reason
    assert (run.folder / "thesis.tex").exists()


@pytest.mark.filterwarnings("default:a warning")
def test_warnings_of_a_run_are_handed_over(config):
    run = run_of(config, "run")
    outcome = do(replace(run, configure=partial(noisy, run.configure())))
    assert outcome.failure is None
    assert outcome.messages == ("a warning", "a message")


def out_of_memory():
    raise MemoryError


def test_too_little_memory_is_said(config):
    failure = do(run_of(config, "run", out_of_memory)).failure
    assert failure == Failure("there is too little memory for this run")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (3, "its process ended with exit code 3"),
        (0, "its process ended with exit code 0"),
        (None, "its process ended with exit code None"),
        (-15, "its process was ended by SIGTERM"),
        (143, "its process was ended by SIGTERM"),
        (-11, "its process was ended by SIGSEGV"),
        (-9, "its process was ended by SIGKILL; the system may have had too little memory"),
        (137, "its process was ended by SIGKILL; the system may have had too little memory"),
        (128, "its process ended with exit code 128"),
    ],
)
def test_how_processes_end(code, reason):
    assert _death(code) == Failure(reason)


def test_what_is_finished(config):
    run = run_of(config, "run")
    assert unfinished([run]) == [run]
    run.folder.mkdir(parents=True)
    assert unfinished([run]) == [run]
    save(resolve(run.configure()), run.folder / "config.yaml")
    assert unfinished([run]) == [run]
    (run.folder / METRICS_FILE).write_text("{}")
    assert unfinished([run]) == []
    assert failure_of(run) is None
    (run.folder / FAILED_FILE).write_text(json.dumps({"reason": "no", "details": "line 1"}))
    assert unfinished([run]) == [run]
    assert failure_of(run) == Failure("no", "line 1")
    other = run_of(config, "run", partial(wrong, "no such option"))
    assert unfinished([other]) == [other]
    changed = run_of(config, "run", partial(same, replace(run.configure(), batch_size=7)))
    assert unfinished([changed]) == [changed]  # it had failed: other options are what is wanted
    (run.folder / FAILED_FILE).unlink()
    with pytest.raises(InputError, match="--batch-size: 32, now 7"):
        unfinished([changed])


@pytest.mark.parametrize(
    ("files", "worthless"),
    [
        ([], True),
        (["checkpoints", "failed.json", ".failed.json.writing.json"], True),
        (["notes.txt"], False),
        (["checkpoints", "notes.txt"], False),
        (["config.yaml"], False),
        (["config.yaml", "failed.json"], False),
    ],
)
def test_what_is_worth_going_on_from(config, files, worthless):
    run = run_of(config, "run")
    run.folder.mkdir(parents=True)
    for name in files:
        if name == "config.yaml":
            save(resolve(run.configure()), run.folder / name)
        elif name == "checkpoints":
            (run.folder / name).mkdir()
        else:
            (run.folder / name).touch()
    assert _is_useless(run.folder, run.configure()) == worthless
    other = replace(run.configure(), batch_size=7)
    assert _is_useless(run.folder, other) == (worthless or files == ["config.yaml", "failed.json"])


def test_processes_are_started_deaf_to_the_keyboard():
    before = signal.getsignal(signal.SIGINT)
    with _interrupts_ignored():
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) == before
    seen = []

    def elsewhere():  # where signals cannot be set
        with _interrupts_ignored():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before]
