"""The data set: made from arrays, selected from, and said in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from tailwise.data import Dataset, Features, Files, Pixels, read
from tailwise.data.dataset import require_images
from tailwise.errors import InputError
from tailwise.labels import LabelStats
from tailwise.matrix import to_dense
from tailwise.training.config import TrainConfig
from tailwise.training.inputs import open_images

NAMES = ("cat", "dog", "owl")
LABELS = np.array([[1, 0, -1], [0, 1, 0], [1, 1, 0], [0, 0, 0]], dtype=np.int8)
FEATURES = np.arange(8, dtype=np.float64).reshape(4, 2)

FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda m: m,
    "floating point with NaN": lambda m: np.where(m < 0, np.nan, m),
    "tensor": torch.from_numpy,
    "torch csr": lambda m: torch.from_numpy(m).to_sparse_csr(),
    "scipy csr": sparse.csr_array,
    "scipy coo": sparse.coo_array,
    "frame": lambda m: pd.DataFrame(m, columns=NAMES),
    "frame with missing entries": lambda m: pd.DataFrame(m, columns=NAMES, dtype="Int8").mask(m < 0, pd.NA),
    "rows": lambda m: m.tolist(),
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_every_form_are_the_same(form: str) -> None:
    data = Dataset.from_arrays(FEATURES, FORMS[form](LABELS), NAMES)
    assert to_dense(data.targets).tolist() == LABELS.tolist()
    assert (data.class_names, data.targets.dtype) == (NAMES, np.int8)
    assert data.stats() == LabelStats.from_targets(LABELS, NAMES)


def test_lists_of_names_are_labels_wherever_labels_are() -> None:
    lists = [["cat"], ["dog"], ["dog", "cat"], []]
    data = Dataset.from_arrays(FEATURES, lists)
    assert (data.class_names, data.targets.tolist()) == (("cat", "dog"), [[1, 0], [0, 1], [1, 1], [0, 0]])
    assert Dataset.from_arrays(FEATURES, lists, ["dog", "owl", "cat"]).targets.tolist()[2] == [1, 0, 1]
    assert LabelStats.from_targets(lists) == data.stats()
    assert LabelStats.from_targets(lists, ["dog", "owl", "cat"]).class_counts.tolist() == [2, 0, 2]
    with pytest.raises(InputError, match=r"row 1 has the label .dog., which is none of the 2 classes \(did you mean"):
        Dataset.from_arrays(FEATURES, lists, ["cat", "dot"])


def test_inputs_are_features_pixels_or_files(tmp_path: Path) -> None:
    features = Dataset.from_arrays(pd.DataFrame(FEATURES), LABELS).inputs
    assert isinstance(features, Features)
    assert (features.values.dtype, features.values.tolist()) == (np.float32, FEATURES.tolist())
    pixels = Dataset.from_arrays(torch.zeros((4, 3, 5, 5), dtype=torch.uint8), LABELS)
    assert isinstance(pixels.inputs, Pixels)
    assert pixels.names == ("0", "1", "2", "3")
    files = Dataset.from_arrays([tmp_path / f"{row}.jpg" for row in range(4)], LABELS)
    assert files.inputs == Files(Path())
    assert files.paths() == [tmp_path / f"{row}.jpg" for row in range(4)]
    for data in (features, pixels.inputs):
        assert data.take(np.array([2, 0])).values.tolist() == data.values[[2, 0]].tolist()


def test_rows_are_selected_with_all_that_belongs_to_them() -> None:
    data = Dataset.from_arrays(
        FEATURES, LABELS, NAMES, splits=["a", "b", "a", "c"], groups=[7, 7, 8, 9], names=["w", "x", "y", "z"]
    )
    assert (data.name, data.where(2)) == ("arrays", "arrays, row 3")
    chosen = data.select("a")
    assert (chosen.name, chosen.names, chosen.groups, chosen.lines) == ("a", ("w", "y"), ("7", "8"), (1, 3))
    assert isinstance(chosen.inputs, Features)
    assert chosen.inputs.values.tolist() == FEATURES[[0, 2]].tolist()
    assert chosen.targets.tolist() == LABELS[[0, 2]].tolist()
    assert data.select("c+a").name == "c+a"
    assert data.subset([], "none").name == "none"
    assert len(data.subset([])) == 0
    assert require_images(data) is data
    with pytest.raises(InputError, match=r"arrays has no split 'd'; its splits are a \(2 rows\)"):
        data.select("d")
    with pytest.raises(InputError, match="arrays holds features in memory, and this needs image files"):
        data.paths()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": LABELS[:3]}, "targets have 3 rows and names 4"),
        ({"splits": ["a"]}, "splits have 1 rows and names 4"),
        ({"groups": ["a"] * 5}, "groups have 5 rows and names 4"),
        ({"names": ["a", "b", "c"]}, "targets have 4 rows and names 3"),
        ({"names": ["a", "b", "b", "c"]}, "the name 'b' is given to several rows"),
        ({"class_names": ["cat", "dog"]}, "2 class names for 3"),
        ({"class_names": ["cat", "dog", "cat"]}, "'cat' occurs more than once"),
        ({"targets": LABELS * 0.5}, "found 0.5"),
        ({"targets": LABELS[:, 0]}, r"targets must be \(N, K\), got shape \(4,\)"),
        ({"targets": "cat"}, "N lists of class names, got str"),
        ({"inputs": np.where(FEATURES == 5, np.inf, FEATURES)}, "the first in row 2; features must be finite"),
        ({"inputs": np.where(FEATURES == 5, 1e39, FEATURES)}, "beyond float32"),
        ({"inputs": FEATURES[:, :0]}, r"\(N, F\) with F >= 1"),
        ({"inputs": FEATURES[0]}, "inputs must be"),
        ({"inputs": np.zeros((4, 5, 5, 3), np.uint8)}, r"\(N, 3, S, S\) uint8 .* got uint8 of shape \(4, 5, 5, 3\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Dataset.from_arrays(**{"inputs": FEATURES, "targets": LABELS, **arguments})


def test_a_data_set_is_said_in_words() -> None:
    data = Dataset.from_arrays(FEATURES, LABELS, NAMES, splits=["a", "b", "a", "c"], groups="ppqq", source="<mine>")
    assert repr(data) == (
        "Dataset(4 rows of 2 features, 3 classes, splits a 2, b 1 and c 1, 2 groups, source='<mine>')"
    )
    shown = data._repr_html_()
    assert "&lt;mine&gt;" in shown
    assert "<li>3 classes</li>" in shown
    many = Dataset.from_arrays(FEATURES[[0] * 8], LABELS[[0] * 8], splits="abcdefgh")
    assert "splits a 1, b 1, c 1, d 1 and 4 more" in repr(many)
    assert repr(read("digits")).startswith("Dataset(1,642 images of 32 x 32 pixels, 10 classes, splits train 642")


def test_what_needs_images_says_so_of_features(tmp_path: Path) -> None:
    data = Dataset.from_arrays(FEATURES, LABELS)
    with pytest.raises(InputError, match="arrays holds features where images are needed"):
        open_images(data, 8, TrainConfig(data="x", output=str(tmp_path)))


def test_reading_takes_options_by_name(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,labels\na.jpg,cat;dog\n")
    assert read(tmp_path / "labels.csv", separator=";").class_names == ("cat", "dog")
    with pytest.raises(InputError, match=r"no option 'seperator' of reading \(did you mean 'separator'"):
        read(tmp_path / "labels.csv", seperator=";")
