"""Data sets of arrays in files: written and read again, features beside labels, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from tailwise.data.dataset import Dataset, Features, Files, Pixels
from tailwise.data.reading import read
from tailwise.errors import InputError
from tailwise.matrix import to_dense

LABELS = np.array([[1, 0, -1], [0, 1, 0], [1, 1, 0], [0, 0, 0]], dtype=np.int8)
NAMES = ("cat", "dog", "owl")


def features(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 5)).astype(np.float32)


def assert_same(first: Dataset, second: Dataset) -> None:
    np.testing.assert_array_equal(to_dense(first.targets), to_dense(second.targets))
    for attribute in ("names", "class_names", "splits", "groups"):
        assert getattr(first, attribute) == getattr(second, attribute), attribute
    assert type(first.inputs) is type(second.inputs)
    if isinstance(first.inputs, Files):
        assert [path.absolute() for path in first.paths()] == second.paths()
    else:
        np.testing.assert_array_equal(first.inputs.values, second.inputs.values)


@pytest.mark.parametrize(
    ("inputs", "kind"),
    [
        (features(), Features),
        (np.random.default_rng(0).integers(0, 256, (4, 3, 6, 6)).astype(np.uint8), Pixels),
        (["a.jpg", "b/c.png", "d.jpg", "e.jpg"], Files),
    ],
)
@pytest.mark.parametrize("targets", [LABELS, csr_array(LABELS)])
def test_what_is_saved_is_read_again(tmp_path: Path, inputs: Any, kind: type, targets: Any) -> None:
    splits, groups = ["train", "train", "test", ""], ["p1", "p1", "p2", "p3"]
    data = Dataset.from_arrays(inputs, targets, NAMES, splits=splits, groups=groups)
    assert isinstance(data.inputs, kind)
    data.save(tmp_path / "data.npz")
    found = read(tmp_path / "data.npz")
    assert_same(data, found)
    assert found.where(2) == f"{tmp_path / 'data.npz'}, row 3"
    some = read(tmp_path / "data.npz", classes=["owl", "cat"])
    np.testing.assert_array_equal(to_dense(some.targets), LABELS[:, [2, 0]])
    with pytest.raises(InputError, match=r"there is no class 'owll' \(did you mean 'owl'\?"):
        read(tmp_path / "data.npz", classes=["owll"])


def test_a_file_that_numpy_has_written_needs_features_and_targets_only(tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", features=features().astype(np.float64), targets=LABELS.astype(float))
    data = read(tmp_path / "plain.npz")
    assert (data.names, data.class_names) == (("0", "1", "2", "3"), ("class 0", "class 1", "class 2"))
    np.testing.assert_array_equal(data.targets, LABELS)
    np.testing.assert_array_equal(data.inputs.values, features())


def test_features_in_the_order_of_the_labels_take_the_place_of_images(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("image,labels\na.jpg,cat\nb.jpg,cat|dog\nc.jpg,\n")
    np.save(tmp_path / "emb.npy", features(3))
    data = read(labels, features=str(tmp_path / "emb.npy"))
    assert data.names == ("a.jpg", "b.jpg", "c.jpg")
    np.testing.assert_array_equal(data.inputs.values, features(3))
    np.testing.assert_array_equal(data.subset([2, 0]).inputs.values, features(3)[[2, 0]])


def test_features_with_names_are_matched_by_them(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("image,labels\nb.jpg,cat\na.jpg,dog\n")
    np.savez(tmp_path / "emb.npz", names=["a.jpg", "x.jpg", "b.jpg"], features=features(3))
    data = read(labels, features=str(tmp_path / "emb.npz"))
    np.testing.assert_array_equal(data.inputs.values, features(3)[[2, 0]])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"targets": LABELS}, "expected features .* got none"),
        ({"features": features(), "pixels": features(), "targets": LABELS}, "got features and pixels"),
        ({"features": features()}, r"expected targets \(N, K\), or all of targets_indptr"),
        ({"features": features(), "targets": LABELS[:3]}, "targets have 3 rows and names 4"),
        ({"features": features(), "targets": LABELS + 1}, "2"),
        ({"features": np.full((4, 2), np.nan), "targets": LABELS}, "finite"),
        ({"features": features(), "target": LABELS}, "unknown array 'target' .did you mean 'targets'"),
        (
            {"features": features(), "targets": LABELS, "splits": np.ones((4, 2), int)},
            "splits must be a list of strings",
        ),
        ({"features": features(), "targets_data": np.ones(2)}, "all of targets_indptr"),
        ({"root": "x", "targets": LABELS}, "image files need names"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path / "bad.npz")
    assert "bad.npz" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a whole archive", b"image,labels\n"])
def test_files_of_other_content_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"bad.npz is not a NumPy file of plain arrays"):
        read(tmp_path / "bad.npz")


def test_pickled_objects_are_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", features=features(), targets=np.array([["cat"], [], [], []], dtype=object))
    with pytest.raises(InputError, match=r"bad.npz is not a NumPy file of plain arrays"):
        read(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("emb.npy", features(2), "has 2 rows and .*labels.csv has 3; features in .npy files are in the order"),
        ("emb.npy", features(3)[0], r"expected an \(N, F\) array of numbers, got \(5,\)"),
        ("emb.npz", {"features": features(3)}, "expected the arrays features and names, got features"),
        ("emb.npz", {"features": features(3), "names": ["a.jpg", "b.jpg"]}, "2 names and 3 rows"),
        (
            "emb.npz",
            {"features": features(3), "names": ["a.jpg", "b.jpg", "x"]},
            "has no features of 'c.jpg', and 1 of 3",
        ),
        (
            "emb.npz",
            {"features": features(4), "names": ["a.jpg", "b.jpg", "c.jpg", "a.jpg"]},
            "1 names occur more",
        ),
    ],
)
def test_features_of_other_rows_are_refused(tmp_path: Path, name: str, values: Any, message: str) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("image,labels\na.jpg,cat\nb.jpg,cat|dog\nc.jpg,\n")
    path = tmp_path / name
    np.savez(path, **values) if isinstance(values, dict) else np.save(path, values)
    with pytest.raises(InputError, match=message):
        read(labels, features=str(path))
