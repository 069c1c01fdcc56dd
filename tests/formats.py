"""One small data set of real JPEG files, written in every format that can be read."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tailwise.data import read

# In alphabetical order, which formats without an order of their own fall back on.
CLASSES = ("blue", "dark", "green", "red")
SIDE = 32


@dataclass(frozen=True)
class Example:
    """An image as a format should say it; ``content`` None leaves the file out."""

    name: str
    labels: tuple[str, ...]
    split: str
    content: bytes | None = field(repr=False)


Writer = Callable[[Path, Sequence[Example]], Path]


read_csv, read_parquet, read_jsonl, read_folder, read_hub, read_voc, read_coco = (
    partial(read, format=name) for name in ("csv", "parquet", "jsonl", "folder", "hf", "voc", "coco")
)


@cache
def examples(num_train: int = 46, num_test: int = 30) -> tuple[Example, ...]:
    """Images whose colour channels say which classes they have; "dark" is rare."""
    generator = np.random.default_rng(0)
    made = []
    for index in range(num_train + num_test):
        present = generator.random(4) < (0.3, 0.15, 0.4, 0.6)
        if index in (0, num_train):
            present[:] = True
        pixels = generator.integers(0, 90, (SIDE, SIDE, 3))
        pixels[..., present[[3, 2, 0]]] += 120
        pixels //= 1 + int(present[1])
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=95)
        labels = tuple(name for name, here in zip(CLASSES, present, strict=True) if here)
        made.append(Example(f"{index}.jpg", labels, "train" if index < num_train else "test", buffer.getvalue()))
    return tuple(made)


def single_label(rows: Sequence[Example]) -> tuple[Example, ...]:
    """The examples with one label each, the rarest: all that folders named by a class can say."""
    counts = Counter(label for row in rows for label in row.labels)
    rarest = [min(row.labels or sorted(counts), key=lambda label: counts[label]) for row in rows]
    return tuple(replace(row, labels=(label,)) for row, label in zip(rows, rarest, strict=True))


def write_images(folder: Path, rows: Sequence[Example]) -> None:
    for row in rows:
        if row.content is not None:
            path = folder / row.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(row.content)


def write_csv_lists(folder: Path, rows: Sequence[Example]) -> Path:
    write_images(folder / "images", rows)
    path = folder / "labels.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["image", "split", "labels"], *([f"images/{r.name}", r.split, "|".join(r.labels)] for r in rows)]
        )
    return path


def write_csv_columns(folder: Path, rows: Sequence[Example]) -> Path:
    write_images(folder / "images", rows)
    path = folder / "labels.csv"
    names = class_names(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [
                ["image", *names, "split"],
                *([f"images/{r.name}", *(int(name in r.labels) for name in names), r.split] for r in rows),
            ]
        )
    return path


def write_parquet_lists(folder: Path, rows: Sequence[Example]) -> Path:
    write_images(folder / "images", rows)
    columns = {
        "image": [f"images/{r.name}" for r in rows],
        "labels": pa.array([list(r.labels) for r in rows], pa.list_(pa.string())),
        "split": [r.split for r in rows],
    }
    pq.write_table(pa.table(columns), folder / "labels.parquet")
    return folder / "labels.parquet"


def write_parquet_columns(folder: Path, rows: Sequence[Example]) -> Path:
    write_images(folder / "images", rows)
    columns: dict[str, list[object]] = {"image": [f"images/{r.name}" for r in rows], "split": [r.split for r in rows]}
    for name in class_names(rows):
        columns[name] = [name in r.labels for r in rows]
    pq.write_table(pa.table(columns), folder / "labels.parquet")
    return folder / "labels.parquet"


def write_jsonl(folder: Path, rows: Sequence[Example]) -> Path:
    write_images(folder / "images", rows)
    path = folder / "labels.jsonl"
    lines = [{"image": f"images/{r.name}", "labels": list(r.labels), "split": r.split} for r in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_folder(folder: Path, rows: Sequence[Example]) -> Path:
    root = folder / "photos"
    for split in splits(rows):
        own = [row for row in rows if row.split == split]
        write_images(root / split, own)
        lines = [{"file_name": row.name, "labels": list(row.labels)} for row in own]
        (root / split).mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (root / split / "metadata.jsonl").write_text(text, encoding="utf-8")
    return root


def write_class_folders(folder: Path, rows: Sequence[Example]) -> Path:
    root = folder / "photos"
    for row in rows:
        for label in row.labels:
            write_images(root / row.split / label, [row])
    return root


def write_coco(folder: Path, rows: Sequence[Example]) -> Path:
    root = folder / "coco"
    (root / "annotations").mkdir(parents=True)
    names = class_names(rows)
    categories = [{"id": 3 * index + 1, "name": name} for index, name in enumerate(names)]
    for split in splits(rows):
        own = [row for row in rows if row.split == split]
        write_images(root / split, own)
        boxes = [(image, label) for image, row in enumerate(own) for label in row.labels]
        record = {
            "images": [{"id": i, "file_name": row.name, "width": SIDE, "height": SIDE} for i, row in enumerate(own)],
            "categories": categories,
            "annotations": [
                {
                    "id": i,
                    "image_id": image,
                    "category_id": 3 * names.index(label) + 1,
                    "bbox": [1, 1, 9, 9],
                    "area": 81,
                }
                for i, (image, label) in enumerate(boxes)
            ],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(record), encoding="utf-8")
    return root


def write_voc(folder: Path, rows: Sequence[Example]) -> Path:
    root = folder / "VOCdevkit" / "VOC2012"
    write_images(root / "JPEGImages", rows)
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for row in rows:
        annotation = ElementTree.Element("annotation")
        ElementTree.SubElement(annotation, "filename").text = row.name
        for label in row.labels:
            thing = ElementTree.SubElement(annotation, "object")
            ElementTree.SubElement(thing, "name").text = label
            ElementTree.SubElement(thing, "difficult").text = "0"
        path = root / "Annotations" / f"{Path(row.name).stem}.xml"
        ElementTree.ElementTree(annotation).write(path, encoding="utf-8")
    for split in splits(rows):
        names = [row.name.removesuffix(".jpg") for row in rows if row.split == split]
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def write_hub(folder: Path, rows: Sequence[Example]) -> Path:
    import datasets

    names = class_names(rows)
    features = datasets.Features(
        {"image": datasets.Image(), "labels": datasets.List(datasets.ClassLabel(names=list(names)))}
    )
    made = {}
    for split in splits(rows):
        own = [row for row in rows if row.split == split]
        columns = {
            "image": [None if row.content is None else {"bytes": row.content, "path": row.name} for row in own],
            "labels": [[names.index(label) for label in row.labels] for row in own],
        }
        made[split] = datasets.Dataset.from_dict(columns, features=features)
    datasets.disable_progress_bars()
    datasets.DatasetDict(made).save_to_disk(str(folder / "saved"))
    return folder / "saved"


WRITERS: dict[str, Writer] = {
    "csv-lists": write_csv_lists,
    "csv-columns": write_csv_columns,
    "parquet-lists": write_parquet_lists,
    "parquet-columns": write_parquet_columns,
    "jsonl": write_jsonl,
    "folder": write_folder,
    "class-folders": write_class_folders,
    "coco": write_coco,
    "voc": write_voc,
    "hf": write_hub,
}


def splits(rows: Sequence[Example]) -> list[str]:
    return list(dict.fromkeys(row.split for row in rows))


def class_names(rows: Sequence[Example]) -> tuple[str, ...]:
    return tuple(sorted({label for row in rows for label in row.labels}))
