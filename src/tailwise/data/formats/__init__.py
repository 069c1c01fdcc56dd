"""Formats of labelled data: one file each, and a line in this table."""

from tailwise.data.formats.arrays import ARRAYS
from tailwise.data.formats.coco import COCO
from tailwise.data.formats.digits import SCENES
from tailwise.data.formats.hugging_face import HUGGING_FACE
from tailwise.data.formats.image_folder import IMAGE_FOLDER
from tailwise.data.formats.jsonl import JSON_LINES
from tailwise.data.formats.label_table import CSV, PARQUET
from tailwise.data.formats.rows import Format
from tailwise.data.formats.voc import VOC

FORMATS: dict[str, Format] = {
    known.name: known for known in (CSV, PARQUET, JSON_LINES, HUGGING_FACE, VOC, COCO, IMAGE_FOLDER, ARRAYS, SCENES)
}
"""Every format by its name. A folder is read in the first format that recognises it."""
