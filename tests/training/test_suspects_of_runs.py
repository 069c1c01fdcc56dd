"""suspects.csv of cross-fitted runs and of comparisons: what it holds, and files that are none."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tailwise.errors import InputError
from tailwise.metrics import Suspects, find_suspects, fit_calibration
from tailwise.training.config import TrainConfig
from tailwise.training.folder import Suspect, read_suspects, write_suspects
from tailwise.training.run import train
from tests.formats import read_csv
from tests.training.conftest import CLASSES

Tiny = Callable[..., TrainConfig]
COLUMNS = ["rank", "image", "class", "given", "kind", "probability", "score"]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    found = Suspects(
        rows=np.array([2, 0]),
        classes=np.array([0, 1]),
        given=np.array([0, 1], dtype=np.int8),
        probabilities=np.array([0.975, 1 / 3]),
        scores=np.array([np.inf, 2.5]),
    )
    path = tmp_path / "suspects.csv"
    write_suspects(path, ["a, b.jpg", "b.jpg", 'c "d".jpg'], ["cat", "größe\nzwei"], found)
    assert path.read_bytes().splitlines()[0].decode() == ",".join(COLUMNS)
    assert read_suspects(path) == [
        Suspect(1, 'c "d".jpg', "cat", 0, "missing", 0.975, np.inf),
        Suspect(2, "a, b.jpg", "größe\nzwei", 1, "wrong", 0.333333, 2.5),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "its first line does not name their columns"),
        ("image,class\na,b\n", "its first line does not name their columns"),
        (",".join(COLUMNS) + "\n1,a.jpg,cat,1,wrong,0.5\n", "not enough values to unpack"),
        (",".join(COLUMNS) + "\n1,a.jpg,cat,1,wrong,half,3\n", "could not convert string to float: 'half'"),
        (b"\xff\xfe", "can't decode byte"),
        (None, "No such file or directory"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path: Path, content: str | bytes | None, reason: str) -> None:
    path = tmp_path / "suspects.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=rf"suspects\.csv holds no label suspects: .*{reason}"):
        read_suspects(path)


@pytest.mark.parametrize("calibration", ["platt", "temperature"])
def test_a_run_on_all_folds_lists_what_its_held_out_scores_contradict(
    tiny: Tiny, labels: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, calibration: str
) -> None:
    config = tiny(mode="probe", val_folds=2, val_fold="all", calibration=calibration, optim={"epochs": 1})
    with caplog.at_level(logging.INFO, "tailwise"):
        train(config)
    folder = tmp_path / "run"
    scores = pd.read_parquet(folder / "validation.parquet").set_index("image")
    data = read_csv(labels).select("train")
    logits = scores.loc[list(data.names), list(CLASSES)].to_numpy()
    # Whatever calibration the run has, that of the suspects fits the frequency of the class.
    found = find_suspects(fit_calibration(logits, data.targets).probabilities(logits), data.targets)
    written = read_suspects(folder / "suspects.csv")
    assert len(found) > 5
    assert [suspect.rank for suspect in written] == list(range(1, len(found) + 1))
    assert [suspect.image for suspect in written] == [data.names[row] for row in found.rows]
    assert [suspect.class_name for suspect in written] == [CLASSES[k] for k in found.classes]
    assert [suspect.given for suspect in written] == found.given.tolist()
    assert [suspect.score for suspect in written] == pytest.approx(found.scores.tolist(), rel=1e-5)
    assert {(suspect.given, suspect.kind) for suspect in written} <= {(1, "wrong"), (0, "missing")}
    num_wrong = int(found.given.sum())
    told = f"label suspects: {num_wrong} labels that may be wrong and {len(found) - num_wrong} that may be missing, in "
    assert [line for line in caplog.messages if "suspects" in line] == [f"{told}{folder / 'suspects.csv'}"]
    assert not list(folder.glob("folds/*/suspects.csv"))


def test_a_run_that_holds_out_a_part_lists_none(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny(mode="probe", val_folds=2, val_fold=0, optim={"epochs": 1}))
    assert (tmp_path / "run" / "thresholds.json").is_file()
    assert not (tmp_path / "run" / "suspects.csv").exists()
