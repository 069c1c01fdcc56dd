"""The folder of a run: its files, checks before writing into it, and the state to resume from."""

from __future__ import annotations

import csv
import json
import logging
import os
import pickle
import platform
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tailwise import __version__
from tailwise.data.dataset import Dataset
from tailwise.errors import InputError
from tailwise.files import replacing
from tailwise.labels import LabelStats
from tailwise.metrics import Decisions, Suspects
from tailwise.shapes import Float
from tailwise.training.config import TrainConfig, differences, load
from tailwise.training.inputs import IMAGE_COLUMN
from tailwise.training.resolution import resolve

CONFIG_FILE = "config.yaml"
STATS_FILE = "stats.json"
CURVES_FILE = "curves.npz"
METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.parquet"
VALIDATION_FILE = "validation.parquet"
THRESHOLDS_FILE = "thresholds.json"
SUSPECTS_FILE = "suspects.csv"
SKIPPED_FILE = "skipped.txt"
DATA_FILE = "data.npz"
"""Data that were given in memory, written into the folder before the run starts."""

_SUSPECT_COLUMNS = ("rank", "image", "class", "given", "kind", "probability", "score")
_LIBRARIES = ("lightning", "timm", "torchmetrics", "numpy")
_logger = logging.getLogger(__name__)


def make_output(folder: Path) -> None:
    """Make the folder of an output, if it is absent.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {folder} cannot be made: {error.strerror}") from error


def is_first_process() -> bool:
    """Whether this process writes the files, of all that a launcher or Lightning has started for the run."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def claim(config: TrainConfig, folder: Path) -> dict[str, Any] | None:
    """Check that the run may use its folder; return the metrics if the run to resume is finished.

    A folder in which a run was killed before it started counts as absent: the run starts anew.

    Raises:
        InputError: the folder holds another run, this one without ``resume``, or other files.
    """
    if not is_first_process():
        return None
    if not folder.exists() or (folder.is_dir() and is_unstarted(folder)):
        _require_writable(folder)
        return None
    if not (folder / CONFIG_FILE).is_file():
        raise InputError(f"--output {folder} exists already and holds no run; give another output")
    finished = (folder / METRICS_FILE).is_file()
    if not config.resume:
        state = "a finished run" if finished else "an unfinished run"
        raise InputError(f"--output {folder} holds {state}: continue it with --resume, or give another output")
    try:
        changed = differences(resolve(load(folder / CONFIG_FILE)), config)
    except (InputError, ValueError, TypeError, OSError) as error:
        raise InputError(
            f"--resume: {folder / CONFIG_FILE} is damaged ({' '.join(str(error).split())}); give another output, "
            "or remove the folder to start anew"
        ) from error
    if changed:
        raise InputError(
            f"--resume: the run in {folder} was started with other options ({'; '.join(changed)}); resume it with "
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
    """Check that a run is resumed on the labels that it was started with.

    Raises:
        InputError: they have changed, or their record cannot be read.
    """
    recorded = folder / STATS_FILE
    if not recorded.exists():
        return
    try:
        before = LabelStats.load(recorded)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"--resume: {recorded} is damaged ({error}); remove it to continue") from error
    if before != stats:
        raise InputError(f"--resume: the training labels have changed since the run in {folder} was started")


def write_skipped(skipped: tuple[str, ...], folder: Path) -> None:
    """List the rows and images that were left out, each once."""
    messages = list(dict.fromkeys(skipped))
    if messages:
        with replacing(folder / SKIPPED_FILE) as temporary:
            temporary.write_text("\n".join(messages) + "\n", encoding="utf-8")
        _logger.warning("%d rows or images are left out; see %s", len(messages), folder / SKIPPED_FILE)


def load_thresholds(run_folder: Path) -> Decisions | None:
    """The thresholds and calibration that a run has fitted; None for a run without validation images.

    Raises:
        InputError: the file cannot be used.
    """
    path = run_folder / THRESHOLDS_FILE
    if not path.exists():
        return None
    try:
        return Decisions.load(path)
    except ValueError as error:
        raise InputError(f"{error}; remove it to continue without thresholds") from error


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that computed the results."""
    return {
        "tailwise": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # with the build, which the metadata leaves out
        **{name: version(name) for name in _LIBRARIES},
    }


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_predictions(
    path: Path, images: Sequence[str], class_names: Sequence[str], logits: Float[Tensor, "N K"]
) -> None:
    """Write logits as Parquet: a column ``image``, then one float32 column per class, a row per image."""
    columns = logits.numpy(force=True).astype(np.float32).T
    table = pa.table({IMAGE_COLUMN: pa.array(images, pa.string())} | dict(zip(class_names, columns, strict=True)))
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def read_predictions(path: Path) -> tuple[tuple[str, ...], tuple[str, ...], NDArray[np.float32]]:
    """Read what :func:`write_predictions` has written.

    Returns:
        N image names, K class names, and (N, K) logits.

    Raises:
        InputError: the file cannot be read, or is not such a file.
    """
    try:
        table = pq.read_table(path)
        images = tuple(table[IMAGE_COLUMN].to_pylist())
        class_names = tuple(name for name in table.column_names if name != IMAGE_COLUMN)
        logits = np.empty((len(images), len(class_names)), dtype=np.float32)
        for k, name in enumerate(class_names):
            logits[:, k] = table[name].to_numpy()
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
        raise InputError(f"{path} holds no predictions of a run: {error}") from error
    return images, class_names, logits


def read_logits(paths: Sequence[Path], split: Dataset) -> NDArray[np.float32]:
    """Read the logits of a split.

    Args:
        paths: files written by a run, which together contain each image of the split once.
        split: its images.

    Returns:
        (N, K) logits in the order of the split and its classes.

    Raises:
        InputError: the files hold other images or classes.
    """
    rows = {image: row for row, image in enumerate(split.names)}
    logits = np.full((len(split), len(split.class_names)), np.nan, dtype=np.float32)
    count = 0
    for path in paths:
        images, class_names, found = read_predictions(path)
        count += len(images)
        if class_names != split.class_names or not rows.keys() >= set(images):
            count = -1
            break
        logits[[rows[image] for image in images]] = found
    if count != len(split) or np.isnan(logits).any():
        raise InputError(
            f"{paths[0]} is not of the {len(split)} images and {len(split.class_names)} classes of split "
            f"{split.name!r}: the data have changed since; give another --output"
        )
    return logits


class Suspect(NamedTuple):
    """A label that held-out predictions contradict, as a row of suspects.csv.

    Attributes:
        rank: its place among all of them, from 1.
        image: the image.
        class_name: the class.
        given: the label as recorded: 1 or 0.
        kind: "wrong" of a recorded 1, "missing" of a 0.
        probability: calibrated probability of the class.
        score: as :func:`tailwise.metrics.find_suspects` defines it.
    """

    rank: int
    image: str
    class_name: str
    given: int
    kind: str
    probability: float
    score: float


def write_suspects(path: Path, images: Sequence[str], class_names: Sequence[str], suspects: Suspects) -> None:
    """Write label suspects as CSV, the most suspect first; images and classes are those that they are indices of."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_SUSPECT_COLUMNS)
        columns = (suspects.rows, suspects.classes, suspects.given, suspects.probabilities, suspects.scores)
        lists = zip(*(column.tolist() for column in columns), strict=True)
        for rank, (row, k, given, probability, score) in enumerate(lists, 1):
            kind = "wrong" if given else "missing"
            writer.writerow([rank, images[row], class_names[k], given, kind, f"{probability:.6f}", f"{score:.6g}"])


def read_suspects(path: Path) -> list[Suspect]:
    """Read what :func:`write_suspects` has written.

    Raises:
        InputError: the file cannot be read, or is not such a file.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            if tuple(next(rows, ())) != _SUSPECT_COLUMNS:
                raise ValueError("its first line does not name their columns")
            return [
                Suspect(int(rank), image, name, int(given), kind, float(probability), float(score))
                for rank, image, name, given, kind, probability, score in rows
            ]
    except (OSError, ValueError) as error:
        raise InputError(f"{path} holds no label suspects: {error}") from error


def checkpoint_path(folder: Path) -> Path:
    """Path of the checkpoint in a run folder, for resuming and evaluation."""
    return folder / "checkpoints" / "last.ckpt"


def steps_in(checkpoint: Path) -> int:
    """Number of steps after which a checkpoint was saved."""
    return int(read_checkpoint(checkpoint)["global_step"])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the state of a run: tensors and numbers only.

    Raises:
        InputError: the file is damaged, or is not a checkpoint of a training.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if not {"global_step", "state_dict"} <= state.keys():
            raise KeyError("it holds no state of a training")
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, AttributeError, pickle.UnpicklingError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path} is damaged ({reason}); remove it and give --resume to train from the start"
        ) from error
    return state


def write_model(folder: Path, model: nn.Module) -> None:
    """Write the state of a model that was not trained by steps as the checkpoint of its run."""
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    with replacing(checkpoint_path(folder)) as temporary:
        torch.save({"global_step": 0, "state_dict": state}, temporary)


def model_state(folder: Path) -> dict[str, Any]:
    """The state of the model of a run, from its checkpoint.

    Raises:
        InputError: the checkpoint is damaged.
    """
    saved = read_checkpoint(checkpoint_path(folder))["state_dict"]
    return {key.removeprefix("model."): value for key, value in saved.items() if key.startswith("model.")}


def forget_logs_after(folder: Path, step: int) -> None:
    """Remove the rows of later steps, which will be repeated, from the CSV logs of an interrupted run."""
    for path in (folder / "logs").glob("version_*/metrics.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, reader.fieldnames or ())
            writer.writeheader()
            # The step is the last cell: a row truncated by a kill has none.
            writer.writerows(row for row in rows if (row["step"] or "").isdigit() and int(row["step"]) <= step)


def is_unstarted(folder: Path, *others: str) -> bool:
    """Whether a folder holds only leftovers of a run that was killed before it wrote its configuration.

    Args:
        folder: the folder.
        others: names of further files that it may hold, complete or incomplete.
    """
    partial = tuple(f".{name}." for name in (CONFIG_FILE, *others))
    return all(
        (path.name == checkpoint_path(folder).parent.name and path.is_dir() and not any(path.iterdir()))
        or (path.is_file() and (path.name in others or path.name.startswith(partial)))
        or path.name == DATA_FILE
        for path in folder.iterdir()
    )


def _require_writable(folder: Path) -> None:
    above = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        # The permissions of a folder do not tell everything: some file systems refuse new files.
        with tempfile.TemporaryDirectory(dir=above):
            pass
    except OSError as error:
        raise InputError(
            f"--output {folder} cannot be written: {above} is not a writable folder ({error.strerror})"
        ) from error
