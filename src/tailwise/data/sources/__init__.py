"""Sources of labelled images: every format is read into one type."""

from tailwise.data.sources.formats import ReadOptions, read_labels
from tailwise.data.sources.jsonl import read_jsonl
from tailwise.data.sources.labeled import LabeledImages, require_images
from tailwise.data.sources.tables import read_csv, read_parquet

__all__ = [
    "LabeledImages",
    "ReadOptions",
    "read_csv",
    "read_jsonl",
    "read_labels",
    "read_parquet",
    "require_images",
]
