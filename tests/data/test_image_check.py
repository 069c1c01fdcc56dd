"""Opening every image: what is counted, against Pillow and hashlib; what is listed, and that nothing is raised."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import logging
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy import sparse

from tailwise.data.dataset import Dataset, Files
from tailwise.data.pixels import image_check
from tailwise.data.pixels.decode import ImageError, decode_image
from tailwise.data.pixels.image_check import ImageReport, check_images
from tailwise.errors import InputError
from tests.formats import read_csv

ORIENTATION = 0x0112


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def images_in(
    folder: Path, names: list[str], splits: list[str] | None = None, labels: list[list[int]] | None = None
) -> Dataset:
    targets = np.ones((len(names), 1), dtype=np.int8) if labels is None else np.array(labels, dtype=np.int8)
    return Dataset(
        names=tuple(names),
        inputs=Files(folder),
        targets=targets,
        class_names=tuple(f"class {k}" for k in range(targets.shape[1])),
        splits=("",) * len(names) if splits is None else tuple(splits),
        lines=tuple(range(2, len(names) + 2)),
        source=folder / "labels.csv",
    )


@pytest.fixture
def kinds(tmp_path: Path) -> Dataset:
    """One image of each kind, by name."""
    picture(40, 30).save(tmp_path / "plain.jpg")
    picture(20, 20, "L").save(tmp_path / "grey.png")
    picture(20, 20, "CMYK").save(tmp_path / "cmyk.jpg")
    picture(20, 20, "P").save(tmp_path / "palette.png")
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20)).save(tmp_path / "wide.png")
    frames = [picture(20, 20, seed=seed) for seed in (1, 2)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture(50, 20).save(tmp_path / "turned.jpg", exif=exif)
    exif[ORIENTATION] = 1
    picture(30, 20).save(tmp_path / "upright.jpg", exif=exif)
    picture(90, 30).save(tmp_path / "three.png")
    picture(20, 100).save(tmp_path / "five.png")
    picture(89, 30).save(tmp_path / "nearly.png")
    whole = io.BytesIO()
    picture(64, 64).save(whole, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "folder.jpg").mkdir()
    return images_in(tmp_path, [*sorted(path.name for path in tmp_path.iterdir()), "away.jpg"])


def named(report: ImageReport, rows: np.ndarray) -> list[str]:
    return [report.data.names[row] for row in rows]


def test_every_kind_is_counted(kinds: Dataset) -> None:
    report = check_images(kinds, workers=2, progress=False)
    assert named(report, report.missing) == ["away.jpg"]
    assert [kinds.names[row] for row in report.unreadable] == ["cut.jpg", "empty.jpg", "folder.jpg", "text.jpg"]
    assert report.num_empty == 1
    assert report.num_readable == len(kinds) - 5
    assert report.formats == {"PNG": 6, "JPEG": 4, "GIF": 1}
    assert report.modes == {"RGB": 6, "P": 2, "L": 1, "CMYK": 1, "I;16": 1}
    assert named(report, report.animated) == ["moving.gif"]
    assert named(report, report.rotated) == ["turned.jpg"]
    assert named(report, report.extreme) == ["five.png", "three.png"]
    sizes = dict(zip(kinds.names, report.sizes.tolist(), strict=True))
    assert (sizes["plain.jpg"], sizes["turned.jpg"], sizes["cut.jpg"]) == ([40, 30], [20, 50], [0, 0])
    readable = [size for size in sizes.values() if size != [0, 0]]
    assert report.size_quantiles((0, 1)).tolist() == [[20, 90], [20, 100]]
    assert report.size_quantiles((0.5,)).tolist() == [[sorted(side)[5]] for side in zip(*readable, strict=True)]


def test_reasons_are_those_of_training_and_name_the_line(kinds: Dataset) -> None:
    report = check_images(kinds, progress=False)
    expected = []
    for name, line, path in zip(kinds.names, kinds.lines, kinds.paths(), strict=True):
        try:
            decode_image(path, 32)
        except ImageError as error:
            expected.append(f"{kinds.source}:{line}: {name}: {error.reason}")
    assert list(report.messages()) == expected
    assert len(expected) == 5
    assert expected[-1] == f"{kinds.source}:{len(kinds) + 1}: away.jpg: there is no such file"


def test_copies_are_told_by_split_and_labels(tmp_path: Path) -> None:
    for name, seed in {"a": 1, "b": 1, "c": 2, "d": 2, "e": 2, "f": 3, "g": 4, "h": 4, "i": 5}.items():
        picture(9, 9, seed=seed).save(tmp_path / f"{name}.png")
    for name in "jk":
        (tmp_path / f"{name}.png").touch()
    data = images_in(
        tmp_path,
        [f"{name}.png" for name in "abcdefghijk"],
        splits=["train", "test", "train", "train", "train", "test", "", "test", "test", "train", "test"],
        labels=[[1, 0], [1, 0], [0, 1], [1, 1], [0, 1], [1, 0], [1, -1], [1, -1], [1, 0], [1, 0], [1, 0]],
    )
    report = check_images(data, progress=False)
    assert [(group.rows, group.splits, group.same_labels, group.crosses_splits) for group in report.duplicates] == [
        ((0, 1), ("train", "test"), True, True),
        ((2, 3, 4), ("train",), False, False),
        ((6, 7), ("test",), True, False),
    ]
    in_rows = dataclasses.replace(data)
    object.__setattr__(in_rows, "targets", sparse.csr_array(data.targets))
    assert check_images(in_rows, progress=False).duplicates == report.duplicates


def test_labels_stored_as_zero_are_no_labels(tmp_path: Path) -> None:
    for name in "ab":
        picture(9, 9).save(tmp_path / f"{name}.png")
    data = images_in(tmp_path, ["a.png", "b.png"], labels=[[1, 0], [1, 0]])
    stored = sparse.csr_array((np.array([0, 1, 1], dtype=np.int8), [1, 0, 0], [0, 2, 3]), shape=(2, 2))
    object.__setattr__(data, "targets", stored)
    assert check_images(data, progress=False).duplicates[0].same_labels


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_do_not_change_results(kinds: Dataset, workers: int) -> None:
    whole = check_images(kinds, progress=False)
    part = check_images(kinds, workers=workers, progress=False)
    assert list(part.messages()) == list(whole.messages())
    assert part.sizes.tolist() == whole.sizes.tolist()
    assert (part.formats, part.modes) == (whole.formats, whole.modes)


def test_photos_match_pillow_and_hashlib(photos: Path) -> None:
    data = read_csv(photos, classes=photos.with_name("classes.json")).select("train_lt").subset(range(0, 1205, 6))
    report = check_images(data, progress=False)
    assert report.num_readable == len(data) == 201
    by_digest = defaultdict(list)
    for row, path in enumerate(data.paths()):
        by_digest[hashlib.sha256(path.read_bytes()).digest()].append(row)
        with Image.open(path) as image:
            assert report.sizes[row].tolist() == list(image.size)
    assert [list(group.rows) for group in report.duplicates] == [rows for rows in by_digest.values() if len(rows) > 1]


def test_nothing_readable_is_no_error(tmp_path: Path) -> None:
    report = check_images(images_in(tmp_path, ["a.jpg", "b.jpg"]), progress=False)
    assert report.missing.tolist() == [0, 1]
    assert report.num_readable == 0
    assert report.extreme.tolist() == []
    assert report.size_quantiles((0, 1)).tolist() == [[0, 0], [0, 0]]
    assert report.duplicates == ()


def test_many_pixels_neither_warn_nor_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(40, 30).save(tmp_path / "large.png")
    picture(90, 30).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    report = check_images(images_in(tmp_path, ["large.png", "huge.png"]), progress=False)
    assert report.num_readable == 1
    assert "too many pixels" in report.unreadable[1]


def test_progress_is_lines_where_there_is_no_terminal(
    kinds: Dataset, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, logger="tailwise"):
        check_images(kinds, progress=False)
        assert not caplog.messages
        check_images(kinds)
    assert caplog.messages == [f"checked {len(kinds)} of {len(kinds)} images, 1 missing, 4 unreadable, 0 s left"]
    assert capsys.readouterr().err == ""


def test_progress_is_a_bar_on_a_terminal(kinds: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        image_check, "Console", lambda **_: Console(file=screen, force_terminal=True, width=100, color_system=None)
    )
    check_images(kinds)
    assert "checking images (5 bad)" in screen.getvalue()
    assert f"{len(kinds)}/{len(kinds)}" in screen.getvalue()


def test_no_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="workers must be at least 1, got 0"):
        check_images(images_in(tmp_path, ["a.jpg"]), workers=0)
