"""The folder of a run: who may write into it, and what an interrupted run has left there."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from tailwise.config import TrainConfig, differences, load, resolve
from tailwise.errors import InputError
from tailwise.labels import LabelStats
from tailwise.training.outputs import METRICS_FILE
from tailwise.training.trainer import checkpoint_path

CONFIG_FILE = "config.yaml"
STATS_FILE = "stats.json"

_logger = logging.getLogger(__name__)


def is_first_process() -> bool:
    """Whether this process, of those that a launcher or Lightning has started for one run, writes the files."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def claim(config: TrainConfig, folder: Path) -> dict[str, Any] | None:
    """Make sure that the run may use its folder; returns the metrics if the run to resume is finished.

    A folder in which a run was killed before it began is as good as none: the run starts anew.

    Raises:
        InputError: the folder holds another run, or this one and it is not to be resumed, or something else.
    """
    if not is_first_process():
        return None
    if not folder.exists() or (folder.is_dir() and _is_unstarted(folder)):
        _require_writable(folder)
        return None
    if not (folder / CONFIG_FILE).is_file():
        raise InputError(f"--output {folder} is there already and holds no run; give another output")
    finished = (folder / METRICS_FILE).is_file()
    if not config.resume:
        state = "a finished run" if finished else "an unfinished run"
        raise InputError(f"--output {folder} holds {state}: go on with --resume true, or give another output")
    try:
        changed = differences(resolve(load(folder / CONFIG_FILE)), config)
    except (InputError, ValueError, TypeError, OSError) as error:
        raise InputError(
            f"--resume true: {folder / CONFIG_FILE} is damaged ({' '.join(str(error).split())}); give another output, "
            "or remove the folder to start anew"
        ) from error
    if changed:
        raise InputError(
            f"--resume true: the run in {folder} was started with other options ({'; '.join(changed)}); resume it with "
            "its own, or give another output"
        )
    if not finished:
        _require_writable(folder)
        return None
    _logger.info("the run in %s is finished", folder)
    try:
        recorded: dict[str, Any] = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{folder / METRICS_FILE} is damaged ({error}); remove it to test the model again") from error
    return recorded


def require_same_labels(folder: Path, stats: LabelStats) -> None:
    """Refuse to resume a run on labels that have changed.

    Raises:
        InputError: they have, or what was recorded of them cannot be read.
    """
    recorded = folder / STATS_FILE
    if not recorded.exists():
        return
    try:
        before = LabelStats.load(recorded)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"--resume true: {recorded} is damaged ({error}); remove it to go on") from error
    if before != stats:
        raise InputError(f"--resume true: the training labels have changed since the run in {folder} was started")


def _is_unstarted(folder: Path) -> bool:
    """Whether nothing is in a folder but what a run leaves that is killed before it has written its configuration."""
    return all(
        (path.name == checkpoint_path(folder).parent.name and path.is_dir() and not any(path.iterdir()))
        or (path.name.startswith(f".{CONFIG_FILE}.") and path.is_file())
        for path in folder.iterdir()
    )


def _require_writable(folder: Path) -> None:
    above = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        # What the rights of a folder say is not all: of some, nothing can be made in them.
        with tempfile.TemporaryDirectory(dir=above):
            pass
    except OSError as error:
        raise InputError(
            f"--output {folder} cannot be written: {above} is no folder that you may write into ({error.strerror})"
        ) from error
