"""What ``loss`` may be in a run besides a name: a file of parameters, or a dotted path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tailwise.errors import InputError
from tailwise.training.config import TrainConfig, load
from tailwise.training.resolution import resolve
from tailwise.training.run import train

Tiny = Callable[..., TrainConfig]
DB_FOCAL = """
weight: {rule: rebalanced, mu: 0.3}
pos_shift: &prior {rule: prior, strength: 0.01}
neg_shift: *prior
neg_slope: 5
neg_divisor: {head: 5, medium: 5, tail: 5.0}
pos_exponent: 2
neg_exponent: [2, 2, 2, 2]
balance: 2
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file given by a relative path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(DB_FOCAL)
    return "mine.yaml"


def predictions(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "predictions.parquet")


def test_file_trains_as_the_loss_it_describes_and_is_recorded_whole(tiny: Tiny, tmp_path: Path, file: str) -> None:
    train(tiny(mode="probe", loss=file, output=str(tmp_path / "file")))
    train(tiny(mode="probe", loss="db-focal", recipe="voc-mlt", output=str(tmp_path / "name")))
    # Exponents of 2 by class are powers, and one number 2 is a square: they differ by rounding.
    pd.testing.assert_frame_equal(predictions(tmp_path / "file"), predictions(tmp_path / "name"), atol=1e-5)
    (tmp_path / file).unlink()
    recorded = load(tmp_path / "file" / "config.yaml")
    assert (recorded.loss, recorded.loss_options) == ("formula", yaml.safe_load(DB_FOCAL))
    train(replace(recorded, output=str(tmp_path / "again"), quiet=True))
    pd.testing.assert_frame_equal(predictions(tmp_path / "again"), predictions(tmp_path / "file"))


def test_changed_file_is_not_resumed_and_the_same_one_is_from_anywhere(
    tiny: Tiny, tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(mode="probe", loss=file, resume=True)
    train(config)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert train(replace(config, loss="../mine.yaml")) is not None
    (tmp_path / file).write_text(DB_FOCAL + "margin: 0.1\n")
    with pytest.raises(InputError, match=r"--loss-options\.margin: None, now 0\.1"):
        train(replace(config, loss="../mine.yaml"))


def test_options_win_over_the_file(tiny: Tiny, file: str) -> None:
    config = resolve(tiny(loss=file, loss_options={"neg_slope": {"tail": 3.0}}))
    assert config.loss_options["neg_slope"] == {"tail": 3.0}
    assert config.loss_options["balance"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "neg_slop: 2",
            r"mine.yaml has the key 'neg_slop' \(did you mean 'neg_slope'\?\); there are weight",
        ),
        ("- 1", "mine.yaml must be a mapping"),
        ("", "mine.yaml must be a mapping"),
        ("neg_slope: [1", "mine.yaml is not YAML"),
        ("neg_slope: 1\nneg_slope: 2", "mine.yaml is not YAML: the key 'neg_slope' is given twice"),
        ("pos_shift: {rule: prior, strength: 1e-2}", "mine.yaml: pos_shift.strength is the text '1e-2'"),
        ("neg_slope: [1, 1e2, 1, 1]", "mine.yaml: neg_slope is the text '1e2'"),
        ("neg_slope: {rare: 2}", "--loss mine.yaml: neg_slope names the group 'rare'; there are head, medium, tail"),
        ("neg_slope: [1, 2]", "--loss mine.yaml: neg_slope must be a number or 4 values"),
        ("weight: {rule: rebalanced, mo: 1}", "--loss mine.yaml: weight by the rule 'rebalanced' has no 'mo'"),
    ],
)
def test_errors_name_the_file_and_the_key(tiny: Tiny, tmp_path: Path, file: str, text: str, message: str) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=message):
        train(tiny(loss=file))
    assert not (tmp_path / "run").exists()


def test_missing_file(tiny: Tiny) -> None:
    with pytest.raises(InputError, match=r"--loss nowhere\.yml cannot be read: No such file"):
        train(tiny(loss="nowhere.yml"))


def test_dotted_path_trains_a_loss_of_ones_own(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    definition = "def wide(stats, slope):\n    return create('ntr', stats, neg_scale=slope)\n"
    (tmp_path / "losses_of_mine.py").write_text(f"from tailwise.losses import create\n\n{definition}")
    path = "losses_of_mine:wide"
    try:
        train(tiny(mode="probe", loss=path, loss_options={"slope": 3.0}, output=str(tmp_path / "path")))
        with pytest.raises(InputError, match=r"--loss losses_of_mine:wide: .* with \(stats, slop\)"):
            train(tiny(loss=path, loss_options={"slop": 3.0}))
    finally:
        sys.modules.pop("losses_of_mine")
    train(tiny(mode="probe", loss="ntr", loss_options={"neg_scale": 3.0}, output=str(tmp_path / "name")))
    pd.testing.assert_frame_equal(predictions(tmp_path / "path"), predictions(tmp_path / "name"))
