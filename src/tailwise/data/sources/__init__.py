"""Sources of labelled images: every format is read into one type."""

from tailwise.data.sources.coco import read_coco
from tailwise.data.sources.folder import read_folder
from tailwise.data.sources.formats import ReadOptions, read_labels
from tailwise.data.sources.hub import read_hub
from tailwise.data.sources.jsonl import read_jsonl
from tailwise.data.sources.labeled import LabeledImages, require_images
from tailwise.data.sources.splits import split_by_ratio
from tailwise.data.sources.tables import read_csv, read_parquet
from tailwise.data.sources.voc import read_voc

__all__ = [
    "LabeledImages",
    "ReadOptions",
    "read_coco",
    "read_csv",
    "read_folder",
    "read_hub",
    "read_jsonl",
    "read_labels",
    "read_parquet",
    "read_voc",
    "require_images",
    "split_by_ratio",
]
