"""Tiny COCO instances files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OUTLINE = [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]


def box(
    image: int, category: int, number: int = 0, size: tuple[float, float] = (10.0, 10.0), **more: Any
) -> dict[str, Any]:
    """An annotation as COCO has it; ``more`` replaces values, and None removes them."""
    record = {
        "segmentation": OUTLINE,
        "area": size[0] * size[1],
        "iscrowd": 0,
        "image_id": image,
        "bbox": [1.5, 2.5, *size],
        "category_id": category,
        "id": number,
    }
    return {key: value for key, value in (record | more).items() if value is not None}


def instances(
    images: Sequence[int | dict[str, Any]], boxes: Sequence[Any], categories: dict[int, str]
) -> dict[str, Any]:
    """The content of an instances file; images given by id have the usual names and sizes."""
    return {
        "info": {"year": 2017},
        "images": [
            {"id": image, "file_name": f"{image:012d}.jpg", "width": 8, "height": 6}
            if isinstance(image, int)
            else image
            for image in images
        ],
        "annotations": list(boxes),
        "categories": [{"id": key, "name": name, "supercategory": "x"} for key, name in categories.items()],
    }


def write_instances(path: Path, *content: Any) -> Path:
    """Write an instances file; ``content`` as for :func:`instances`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(instances(*content)), encoding="utf-8")
    return path
