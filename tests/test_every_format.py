"""Every format through every command, with good input and with bad: nothing half-written, nothing silently lost."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy.sparse import issparse

from tailwise.cli import main
from tailwise.data.long_tail import read_manifest
from tests.formats import CLASSES, WRITERS, Example, examples, read_csv, single_label

pytestmark = pytest.mark.usefixtures("unchecked")

NUM_TRAIN, NUM_TEST = 46, 30
TINY = (
    "--mode probe --loss bce --image-size 32 --batch-size 8 --accelerator cpu --quiet --epochs 1 "
    "--backbone test_resnet --no-pretrained --thresholds [10,20]"
)
Outcome = tuple[int, str, str]


def rows_for(name: str) -> tuple[Example, ...]:
    return single_label(examples()) if name == "class-folders" else examples()


@pytest.fixture(params=list(WRITERS))
def name(request: pytest.FixtureRequest) -> str:
    """A format."""
    return str(request.param)


@pytest.fixture
def tailwise(
    capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Outcome]:
    """Runs a command line in this process: (exit code, standard error, standard output)."""
    # One cache for all: features of the same images are computed once.
    monkeypatch.setenv("TAILWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))

    def run(line: str) -> Outcome:
        code = main(shlex.split(line))
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, err, out

    return run


def test_inspect(name: str, tailwise: Callable[[str], Outcome], tmp_path: Path) -> None:
    rows = rows_for(name)
    data = WRITERS[name](tmp_path, [*rows, replace(rows[0], name="copy.jpg", split="test")])
    code, err, out = tailwise(f"inspect {data} --page {tmp_path}/page.html --check-images --thresholds [10,20]")
    assert code == 0, err
    assert f"{NUM_TRAIN + NUM_TEST + 1} images, 4 classes; training on split 'train'" in " ".join(out.split())
    assert re.search(rf"^train \s+ {NUM_TRAIN}\s", out, re.MULTILINE)
    assert re.search(rf"^test \s+ {NUM_TEST + 1}\s", out, re.MULTILINE)
    for label in CLASSES:
        count = sum(label in row.labels for row in rows if row.split == "train")
        assert re.search(rf"^{label}\s.*\s{count}\s", out, re.MULTILINE)
    assert "error: 1 image has copies in more than one split" in out
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert all(label in page for label in CLASSES)
    assert not re.search(
        r"https?://(?!www\.w3\.org|plot(ly)?\.|[\w.]*mapbox|[\w./]*github)[^\s\"']*\.(js|css)[\"']", page
    )
    assert tailwise(f"inspect {data} --page {tmp_path}/page.html")[0] == 2


def metrics(folder: Path) -> dict[str, Any]:
    """What two runs on the same images have in common."""
    recorded = json.loads((folder / "metrics.json").read_text())
    return {key: recorded[key] for key in ("mAP", "AP", "CF1", "OF1", "num_images")}


def test_train_and_evaluate(name: str, tailwise: Callable[[str], Outcome], tmp_path: Path) -> None:
    rows = rows_for(name)
    data = WRITERS[name](tmp_path, rows)
    assert tailwise(f"train --data {data} --output {tmp_path}/run {TINY}")[0] == 0
    trained = metrics(tmp_path / "run")
    assert trained["num_images"] == NUM_TEST
    assert tuple(trained["AP"]) == CLASSES
    assert not (tmp_path / "run" / "skipped.txt").exists()
    reference = tmp_path / "reference"
    reference.mkdir()
    same = WRITERS["csv-lists"](reference, rows)
    assert tailwise(f"train --data {same} --output {tmp_path}/same {TINY}")[0] == 0
    if name != "class-folders":  # which come in another order, so that other rows are drawn
        assert metrics(tmp_path / "same") == trained
    for line in (f"--data {data} --split test", ""):
        output = tmp_path / f"evaluated{len(line)}"
        assert tailwise(f"evaluate {tmp_path}/run {line} --output {output}")[0] == 0
        assert metrics(output) == trained


@pytest.mark.parametrize("sampler", ["class-aware", "repeat-factor", "inverse-frequency", "uniform"])
@pytest.mark.filterwarnings("ignore:.*repeat")
def test_sparse_labels_train_the_same(
    sampler: str, tailwise: Callable[[str], Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = WRITERS["csv-lists"](tmp_path, examples())
    for layout, limit in (("dense", 2**20), ("sparse", 0)):
        monkeypatch.setattr("tailwise.matrix._LARGEST_ARRAY", limit)
        assert issparse(read_csv(data).targets) == (layout == "sparse")
        line = f"train --data {data} --output {tmp_path}/{layout} {TINY} --loss pg --sampler {sampler}"
        assert tailwise(f'{line} --split-ratios \'{{"train": 0.6, "test": 0.4}}\'')[0] == 0
    assert metrics(tmp_path / "dense") == metrics(tmp_path / "sparse")


def test_build(name: str, tailwise: Callable[[str], Outcome], tmp_path: Path) -> None:
    rows = rows_for(name)
    data = WRITERS[name](tmp_path, rows)
    target = tmp_path / "built.csv"
    code, err, _ = tailwise(f"build {data} --output {target} --num-max 9 --num-min 2 --keep-split test --seed 3")
    assert code == 0, err
    advice = re.search(r"train with (.*)", err)
    assert advice is not None
    root = re.search(r"--root (\S+)", advice.group(1))
    built = read_csv(target, classes=target.with_suffix(".json"), root=root and root.group(1))
    manifest = read_manifest(target.with_suffix(".json"))
    assert built.select("train").names == manifest.images
    assert len(built.select("test")) == NUM_TEST
    by_content = {row.content: row for row in rows}
    for path, targets in zip(built.paths(), built.targets, strict=True):
        row = by_content[path.read_bytes()]
        assert [name for name, label in zip(CLASSES, targets, strict=True) if label] == sorted(row.labels)
    # Nothing is replaced.
    assert tailwise(f"build {data} --output {target}")[0] == 2


@pytest.mark.filterwarnings("ignore:.* classes have no image and are never drawn")
def test_digits_go_where_files_go(tailwise: Callable[[str], Outcome], tmp_path: Path) -> None:
    code, _, out = tailwise("inspect digits")
    assert (code, "1,642 images, 10 classes; training on split 'train'" in " ".join(out.split())) == (0, True)
    assert tailwise(f"train --data digits --output {tmp_path}/run {TINY}")[0] == 0
    assert tailwise(f"evaluate {tmp_path}/run --output {tmp_path}/again")[0] == 0
    assert metrics(tmp_path / "again") == metrics(tmp_path / "run")
    assert tailwise(f"evaluate {tmp_path}/run --data digits --output {tmp_path}/all")[0] == 0
    assert metrics(tmp_path / "all")["num_images"] == 1642
    for line in ("inspect digits --check-images", f"build digits --output {tmp_path}/built.csv"):
        code, err, _ = tailwise(line)
        assert (code, err) == (2, "error: digits holds pixels in memory, and this needs image files\n")
    code, err, _ = tailwise(f"train --data digits --train-split trian --output {tmp_path}/no {TINY}")
    assert code == 2
    assert "digits has no split 'trian' (did you mean 'train'?); its splits are train (642 rows), test" in err


@pytest.fixture(scope="module")
def some_photos(photos: Path) -> tuple[Example, ...]:
    """Real photographs: 120 of a long-tailed training set, 80 for test."""
    data = read_csv(photos)
    rows = [
        row
        for split, count in (("train_lt", 120), ("test", 80))
        for row in [index for index, name in enumerate(data.splits) if name == split][:count]
    ]
    return tuple(
        Example(
            Path(data.names[row]).name,
            tuple(label for label, here in zip(data.class_names, data.targets[row], strict=True) if here),
            "train" if data.splits[row] == "train_lt" else "test",
            (data.root / data.names[row]).read_bytes(),
        )
        for row in rows
    )


@pytest.mark.filterwarnings("ignore:classes that are positive in no training sample")
@pytest.mark.filterwarnings("ignore:.* classes have no image and are never drawn")
def test_real_photographs_in_every_format(
    name: str,
    some_photos: tuple[Example, ...],
    backbone_weights: Path,
    tailwise: Callable[[str], Outcome],
    tmp_path: Path,
) -> None:
    """What a user does: inspect, build, train on features of the backbone, evaluate."""
    rows = single_label(some_photos) if name == "class-folders" else some_photos
    data = WRITERS[name](tmp_path, rows)
    code, _, out = tailwise(f"inspect {data} --check-images")
    assert (code, "200 images" in " ".join(out.split())) == (0, True)
    built = tmp_path / "long-tail.csv"
    code, err, _ = tailwise(f"build {data} --output {built} --num-max 40 --num-min 2 --keep-split test")
    assert code == 0, err
    advice = re.search(r"train with (.*)", err)
    assert advice is not None
    model = f"--backbone mobilenetv2_100 --model.options.pad_type same --weights {backbone_weights}"
    options = "--mode probe --loss db --image-size 64 --accelerator cpu --quiet --epochs 1 --recipe voc-mlt"
    code, err, _ = tailwise(f"train {advice.group(1)} --output {tmp_path}/run {options} {model}")
    assert code == 0, err
    code, err, _ = tailwise(f"evaluate {tmp_path}/run --data {data} --split test --output {tmp_path}/again")
    assert code == 0, err
    trained, again = metrics(tmp_path / "run"), metrics(tmp_path / "again")
    assert trained["num_images"] == 80
    assert again == trained
    present = Counter(label for row in rows if row.split == "test" for label in row.labels)
    assert {label for label, precision in trained["AP"].items() if precision is not None} == set(present)


def truncated(row: Example) -> Example:
    assert row.content is not None
    return replace(row, content=row.content[: len(row.content) // 2])


BAD_IMAGES: dict[str, tuple[Callable[[Example], Example], str]] = {
    "missing": (lambda row: replace(row, content=None), r"no image|no image is named"),
    "truncated": (truncated, "cannot be decoded"),
    "zero bytes": (lambda row: replace(row, content=b""), r"the file is empty \(0 bytes\)|no image is named"),
    "no image": (lambda row: replace(row, content=b"<html>gone</html>"), "not an image"),
}
BAD_ROWS: dict[str, tuple[Callable[[Example], Sequence[Example]], str]] = {
    "unknown class": (lambda row: [replace(row, labels=("gren",))], "'gren' is none of the 4 classes"),
    "repeated": (lambda row: [row, row], "already; an image has one row"),
    "outside": (
        lambda row: [replace(row, name="../../../x.jpg", content=None)],
        "lies outside the root|is not the name of an image",
    ),
}
# What a format cannot say, it cannot say wrongly.
IMPOSSIBLE = {
    ("class-folders", "missing"),
    ("class-folders", "repeated"),
    ("class-folders", "outside"),
    ("hf", "repeated"),
    ("hf", "outside"),
    ("hf", "unknown class"),
    ("coco", "unknown class"),
    ("csv-columns", "unknown class"),
    ("parquet-columns", "unknown class"),
}


@pytest.mark.parametrize(
    ("name", "damage"),
    [(name, bad) for name in WRITERS for bad in (*BAD_IMAGES, *BAD_ROWS) if (name, bad) not in IMPOSSIBLE],
    indirect=["name"],
)
def test_bad_input_stops_a_run_or_is_left_out_and_listed(
    name: str, damage: str, tailwise: Callable[[str], Outcome], tmp_path: Path
) -> None:
    rows = list(rows_for(name))
    if damage in BAD_IMAGES:
        change, message = BAD_IMAGES[damage]
        rows[3] = change(rows[3])
    else:
        changes, message = BAD_ROWS[damage]
        rows[3:4] = changes(rows[3])
    data = WRITERS[name](tmp_path, rows)
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    line = f"train --data {data} --output {tmp_path}/run --classes {tmp_path}/classes.json {TINY}"
    code, err, _ = tailwise(line)
    assert code == 2
    assert re.search(message, err)
    assert "on_error" in err
    assert not (tmp_path / "run").exists()
    code, err, _ = tailwise(f"{line} --on-error skip")
    assert code == 0, err
    (listed,) = (tmp_path / "run" / "skipped.txt").read_text().splitlines()
    assert re.search(message, listed)
    assert "1 rows or images are left out" in err
    kept = json.loads((tmp_path / "run" / "stats.json").read_text())["num_samples"]
    assert kept == NUM_TRAIN - (damage != "repeated")


TEXT_FILES = {
    "csv-lists": ["labels.csv"],
    "csv-columns": ["labels.csv"],
    "jsonl": ["labels.jsonl"],
    "folder": ["photos/train/metadata.jsonl", "photos/test/metadata.jsonl"],
    "coco": ["coco/annotations/instances_train.json", "coco/annotations/instances_test.json"],
    "voc": ["VOCdevkit/VOC2012/ImageSets/Main/train.txt", "VOCdevkit/VOC2012/ImageSets/Main/test.txt"],
}


@pytest.mark.parametrize("name", TEXT_FILES, indirect=True)
def test_byte_order_marks_and_windows_line_ends_change_nothing(
    name: str, tailwise: Callable[[str], Outcome], tmp_path: Path
) -> None:
    data = WRITERS[name](tmp_path, examples())
    assert tailwise(f"train --data {data} --output {tmp_path}/before {TINY}")[0] == 0
    for file in TEXT_FILES[name]:
        content = (tmp_path / file).read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        (tmp_path / file).write_bytes(b"\xef\xbb\xbf" + content)
    assert tailwise(f"train --data {data} --output {tmp_path}/after {TINY}")[0] == 0
    assert metrics(tmp_path / "before") == metrics(tmp_path / "after")
