"""Tiny Pascal VOC trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

# The annotations of VOC name the parts of persons and what they do; neither is an object.
_PART = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
_ACTIONS = "<actions><jumping>0</jumping></actions>"


def annotation(name: str, objects: Sequence[str | tuple[str, int]], *, filename: str | None = None) -> str:
    """XML of an image with objects; a number after a name says whether the object is difficult."""
    parts = []
    for entry in objects:
        label, difficult = (entry, None) if isinstance(entry, str) else entry
        flag = "" if difficult is None else f"<difficult>{difficult}</difficult>"
        extra = _PART + _ACTIONS if label == "person" else ""
        parts.append(f"<object><name>{escape(label)}</name><pose>Unspecified</pose>{flag}{extra}</object>")
    named = f"<filename>{escape(filename or f'{name}.jpg')}</filename>"
    return f"<annotation><folder>VOC</folder>{named}<size><width>4</width></size>{''.join(parts)}</annotation>"


def write_year(
    year: Path,
    images: Mapping[str, Sequence[str | tuple[str, int]]],
    lists: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write the annotations and lists of one year."""
    (year / "Annotations").mkdir(parents=True)
    (year / "ImageSets" / "Main").mkdir(parents=True)
    for name, objects in images.items():
        (year / "Annotations" / f"{name}.xml").write_text(annotation(name, objects), encoding="utf-8")
    for name, members in (lists or {}).items():
        (year / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{member}\n" for member in members))
    return year
