"""Folders of images: which of their forms is meant, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailwise.data.sources.folder import holds_image_folders, read_folder
from tailwise.errors import InputError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_folders_of_classes_hold_images_at_any_depth_and_other_files(tmp_path: Path) -> None:
    touch(
        tmp_path, "cat/b.JPG", "cat/2024/a.png", "dog/c.webp", "dog/notes.txt", "dog/.hidden.jpg", ".git/x.jpg", "i.txt"
    )
    data = read_folder(tmp_path)
    assert data.images == ("cat/2024/a.png", "cat/b.JPG", "dog/c.webp")
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
