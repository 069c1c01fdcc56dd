"""Folders of images: which of their forms is meant, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tailwise.data.formats.image_folder import holds_image_folders
from tailwise.errors import InputError
from tests.formats import read_folder


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_folders_of_classes_hold_images_at_any_depth_and_other_files(tmp_path: Path) -> None:
    touch(
        tmp_path, "cat/b.JPG", "cat/2024/a.png", "dog/c.webp", "dog/notes.txt", "dog/.hidden.jpg", ".git/x.jpg", "i.txt"
    )
    data = read_folder(tmp_path)
    assert data.names == ("cat/2024/a.png", "cat/b.JPG", "dog/c.webp")
    assert data.class_names == ("cat", "dog")
    assert data.targets.tolist() == [[1, 0], [1, 0], [0, 1]]
    assert data.splits == ("", "", "")
    assert holds_image_folders(tmp_path)


def test_folders_are_splits_only_if_all_are(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/a.jpg", "test/cat/b.jpg")
    assert read_folder(tmp_path).splits == ("test", "train")
    assert read_folder(tmp_path).class_names == ("cat",)
    touch(tmp_path, "boat/d.jpg")
    assert read_folder(tmp_path).class_names == ("boat", "test", "train")


def test_names_of_splits_in_any_case_and_every_ending_of_images(tmp_path: Path) -> None:
    endings = ("jpg", "JPEG", "png", "webp", "bmp", "gif", "tif", "TIFF")
    touch(
        tmp_path, *(f"Train/cat/{k}.{ending}" for k, ending in enumerate(endings)), "VALID/dog/v.png", "dev/cat/w.png"
    )
    touch(tmp_path, "Train/cat/x.txt", "Train/cat/.y.jpg", "Train/notes.md", ".hidden/cat/z.jpg")
    (tmp_path / "Train" / "cat" / "folder.jpg").mkdir()
    data = read_folder(tmp_path)
    assert len(data) == len(endings) + 2
    assert data.class_names == ("cat", "dog")
    assert {split: data.splits.count(split) for split in data.splits} == {"Train": 8, "VALID": 1, "dev": 1}
    assert data.lines == tuple(range(1, 11))
    assert data.where(0) == f"{tmp_path}, image {data.names[0]}"
    assert read_folder(tmp_path, classes=["dog", "cat", "cow"]).targets.sum(axis=0).tolist() == [1, 9, 0]


@pytest.mark.parametrize("split", ["train", "training", "val", "valid", "validation", "dev", "test", "testing"])
def test_what_names_a_split(tmp_path: Path, split: str) -> None:
    touch(tmp_path, f"{split}/cat/a.jpg")
    assert (read_folder(tmp_path).splits, read_folder(tmp_path).class_names) == ((split,), ("cat",))


def test_metadata_of_each_folder_is_its_split(tmp_path: Path) -> None:
    for split, labels in (("train", ["cat"]), ("test", ["dog"])):
        touch(tmp_path, f"{split}/in/a.jpg")
        line = json.dumps({"file_name": "in/a.jpg", "labels": labels})
        (tmp_path / split / "metadata.jsonl").write_text(line)
    data = read_folder(tmp_path)
    assert (data.names, data.splits) == (("test/in/a.jpg", "train/in/a.jpg"), ("test", "train"))
    assert (data.class_names, data.targets.tolist()) == (("cat", "dog"), [[0, 1], [1, 0]])
    assert holds_image_folders(tmp_path)


def test_classes_may_be_given_and_bad_images_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", "dgo/b.jpg")
    with pytest.raises(InputError, match=r"image dgo/b\.jpg: 'dgo' is none of the 2 classes"):
        read_folder(tmp_path, classes=["cat", "dog"])
    assert read_folder(tmp_path, classes=["cat", "dog"], on_error="skip").names == ("cat/a.jpg",)
    with pytest.raises(InputError, match=r"expected metadata\.jsonl, or a folder of images for each class"):
        read_folder(tmp_path / "cat")


def test_images_beside_folders_of_classes_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/a.jpg", "train/b.jpg")
    with pytest.raises(InputError, match=r"b\.jpg lies in no folder of a class; expected .*train/<class>/b\.jpg"):
        read_folder(tmp_path)


def test_metadata_says_more_than_folders(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "cat/a.jpg", "labels": ["cat", "dog"], "split": "x"}\n')
    data = read_folder(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert data.paths() == [tmp_path / "cat" / "a.jpg"]
    assert data.where(0) == f"{tmp_path / 'metadata.jsonl'}:1"


def test_metadata_of_folders_cannot_leave_the_root(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.jpg")
    line = '{"file_name": "%s", "labels": ["cat"]}\n'
    (tmp_path / "train" / "metadata.jsonl").write_text(line % "a.jpg" + line % "../../b.jpg")
    with pytest.raises(InputError, match=r"image 'train/\.\./\.\./b\.jpg' lies outside the root"):
        read_folder(tmp_path)


@pytest.mark.parametrize("names", [[], ["a.txt"], ["deep/er/still/a.jpg"], ["a.jpg"]])
def test_what_is_no_image_folder_is_not_taken_for_one(tmp_path: Path, names: list[str]) -> None:
    touch(tmp_path, *names)
    assert not holds_image_folders(tmp_path)
