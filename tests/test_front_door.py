"""The Python front door: its names, and what each gives back, on data in files and in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import tailwise as tw
from tailwise.errors import InputError

pytestmark = pytest.mark.usefixtures("unchecked")

SHORT = {"epochs": 2, "warmup_steps": 2, "accelerator": "cpu", "thresholds": (10, 30)}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("TAILWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def arrays(seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    generator = np.random.default_rng(seed)
    targets = (generator.random((160, 4)) < (0.5, 0.4, 0.3, 0.15)).astype(int)
    features = targets @ generator.normal(size=(4, 9)) + 0.3 * generator.normal(size=(160, 9))
    return features.astype(np.float32), targets, ["train"] * 100 + ["test"] * 60


@pytest.fixture
def data() -> tw.Dataset:
    """Features in memory."""
    features, targets, splits = arrays()
    return tw.Dataset.from_arrays(features, targets, ["cat", "dog", "owl", "yak"], splits=splits)


def test_its_names_are_a_contract() -> None:
    names = {
        "read",
        "inspect",
        "compare",
        "train",
        "load",
        "Dataset",
        "Model",
        "LabelStats",
        "losses",
        "metrics",
        "data",
    }
    assert names <= set(tw.__all__)
    assert all(getattr(tw, name) is not None for name in names)
    assert names <= set(dir(tw))
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        tw.trian  # noqa: B018


def test_importing_it_loads_nothing_heavy() -> None:
    code = """
import sys
import tailwise
heavy = {"torch", "pandas", "scipy", "lightning", "timm", "numba", "rich", "pyarrow", "PIL", "sklearn", "matplotlib"}
print(sorted(heavy & sys.modules.keys()))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_samplers_and_the_builder_are_names_of_the_data() -> None:
    from tailwise.data import ClassAwareSampler, build_long_tail, read

    assert {ClassAwareSampler.__module__, build_long_tail.__module__, read.__module__} == {
        "tailwise.data.samplers",
        "tailwise.data.long_tail",
        "tailwise.data.reading",
    }


def test_reading_takes_the_options_of_the_command_line(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("image,labels\n" + "".join(f"{row}.jpg,cat\n" for row in range(20)))
    data = tw.read(labels, split_ratios={"train": 0.8, "test": 0.2})
    assert len(data.select("train")) == 16
    assert tw.read(data) is data
    with pytest.raises(InputError, match=r"there is no option 'split_ratio' .did you mean 'split_ratios'"):
        tw.read(labels, split_ratio={"train": 1.0})
    with pytest.raises(InputError, match="root has no effect on data that are read already"):
        tw.read(data, root="images")


def test_an_inspection_prints_shows_and_saves_itself(data: tw.Dataset, tmp_path: Path) -> None:
    facts = tw.inspect(data, thresholds=(10, 30))
    assert "4 classes; training on split 'train'" in repr(facts)
    assert facts.inspection.stats.num_samples == 100
    assert facts._repr_html_().startswith("<iframe srcdoc=")
    facts.save(tmp_path / "inspection.html")
    assert "yak" in (tmp_path / "inspection.html").read_text(encoding="utf-8")


def test_a_comparison_on_data_in_memory(data: tw.Dataset, tmp_path: Path) -> None:
    options = {**SHORT, "methods": ["bce@uniform", "db"], "seeds": 1, "folds": 2, "workers": 1, "replicates": 20}
    found = tw.compare(data, output=tmp_path / "comparison", **options)
    assert list(found.table.index) == ["bce@uniform", "db"]
    assert found.table["total"].between(30, 100).all()
    assert found.best in found.table.index
    assert found.best in str(found.recommendation)
    assert "<table" in found._repr_html_()
    assert all(text in repr(found) for text in ("bce@uniform", "medium", str(found.recommendation)))
    found.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == (tmp_path / "comparison/report.html").read_text(
        encoding="utf-8"
    )
    # The same call reads what it finds, and other data are refused.
    pd.testing.assert_frame_equal(tw.compare(data, output=tmp_path / "comparison", **options).table, found.table)
    features, targets, splits = arrays(1)
    other = tw.Dataset.from_arrays(features, targets, data.class_names, splits=splits)
    with pytest.raises(InputError, match=r"data.npz holds other data; give another output"):
        tw.compare(other, output=tmp_path / "comparison", **options)


def test_a_model_of_data_in_memory_is_loaded_again(data: tw.Dataset, tmp_path: Path) -> None:
    model = tw.train(data, output=tmp_path / "run", loss="db", mode="probe", val_folds=2, **SHORT)
    features = data.inputs.values
    pd.testing.assert_frame_equal(tw.load(tmp_path / "run").predict(features), model.predict(features))
    assert model.evaluate(split="test").metrics["mAP"] == model.metrics["mAP"]
    assert model.evaluate(data, split="test").metrics["mAP"] == model.metrics["mAP"]
    whole = model.evaluate(data).metrics
    assert whole["num_images"] == len(data)
    with pytest.raises(InputError, match="holds a finished run"):
        tw.train(data, output=tmp_path / "run", loss="db", mode="probe", **SHORT)


def test_data_from_a_file_are_read_from_it_again(data: tw.Dataset, tmp_path: Path) -> None:
    data.save(tmp_path / "mine.npz")
    read = tw.read(tmp_path / "mine.npz", classes=None)
    model = tw.train(read, output=tmp_path / "run", mode="probe", **SHORT)
    assert model.config.data == str(tmp_path / "mine.npz")
    assert not (tmp_path / "run" / "data.npz").exists()
    part = read.subset(range(80))
    trained = tw.train(part, output=tmp_path / "part", mode="probe", test_split="none", **SHORT)
    assert trained.config.data == str(tmp_path / "part" / "data.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"los": "db"}, "there is no option 'los' .did you mean 'loss'"),
        ({"loss": "db-foca"}, "did you mean 'db-focal'"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"mode": "prob"}, "did you mean 'probe'"),
    ],
)
def test_options_are_checked_before_anything_is_written(
    data: tw.Dataset, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tw.train(data, output=tmp_path / "run", **options)
