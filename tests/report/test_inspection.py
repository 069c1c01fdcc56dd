"""Terminal tables: what they say, that they fit, and that class names are only ever text."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from tailwise.data.dataset import Dataset
from tailwise.data.label_facts import Inspection, inspect_labels
from tailwise.data.pixels.image_check import ImageReport, check_images
from tailwise.report.inspection.terminal import show_inspection
from tests.report.conftest import labelled


def shown(facts: Inspection, images: ImageReport | None = None, width: int = 80, page: str | None = None) -> str:
    screen = io.StringIO()
    show_inspection(facts, images, console=Console(file=screen, width=width), page=page)
    return screen.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_lines_fit_and_hold_no_control_characters(nasty: Dataset, width: int) -> None:
    facts = inspect_labels(nasty, train_split="train", test_split="test")
    text = shown(facts, check_images(nasty, progress=False), width)
    assert max(cell_len(line) for line in text.split("\n")) <= width
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "\\x1b[31mcolour" in text
    assert "[red]dog[/red]" in text


def test_problems_come_first_then_the_tables(nasty: Dataset) -> None:
    facts = inspect_labels(nasty, train_split="train", test_split="test")
    text = shown(facts, check_images(nasty, progress=False))
    titles = ("error: ", "warning: ", "note: ", "Splits", "Groups", "Classes", "Most frequent pairs", "Image files")
    places = [re.search(f"^{title}", text, re.MULTILINE) for title in titles]
    assert [place.start() for place in places if place] == sorted(place.start() for place in places if place)
    assert all(places)
    assert text.startswith(f"{nasty.source}"[:40])


def row(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if re.match(rf"{re.escape(name)}\s\s", line))
    return re.split(r"\s\s+", line.strip())


def test_rows_hold_the_facts() -> None:
    targets = np.zeros((60, 3), dtype=np.int8)
    targets[:30, 0] = 1
    targets[:12, 1] = 1
    targets[40:, :2] = 1
    data = labelled(targets, ["train"] * 40 + ["test"] * 20, names=("cat", "dog", "owl"))
    text = shown(inspect_labels(data, train_split="train", test_split="test", thresholds=(1, 20)))
    assert row(text, "train") == ["train", "40", "1.05", "10", "2", "60.0%", "2"]
    assert row(text, "all rows") == ["all rows", "60", "1.37", "10", "2", "36.0%", "2"]
    assert row(text, "head") == ["head", "1", "30 to 30", "30", "71.4%", "20"]
    assert row(text, "tail") == ["tail", "1", "0 to 0", "0", "0%", "0"]
    # 30 / (4 · 12) draws of each image of the dog.
    assert row(text, "dog") == ["dog", "cat", "100%", "medium", "12", "20", "0.6"]
    assert row(text, "owl") == ["owl", "–", "–", "tail", "0", "0", "–"]
    assert ["dog", "cat", "12", "100%", "40.0%", "1.3"] in [
        re.split(r"\s\s+", line.strip()) for line in text.splitlines()
    ]
    assert "0: 25.0%, 1: 45.0%, 2: 30.0%" in text
    assert "Image files" not in text


def test_groups_of_rows_are_counted() -> None:
    data = labelled(np.ones((7, 2), dtype=np.int8))
    facts = inspect_labels(replace(data, groups=tuple("aaabbcd")))
    assert "4 groups of rows, 1 to 3 rows each, median 1.5\n" in shown(facts)
    assert "of rows, 1" not in shown(inspect_labels(data))


def test_many_classes_are_cut_and_the_page_is_named() -> None:
    facts = inspect_labels(labelled(np.tri(100, dtype=np.int8)))
    text = shown(facts, page="inspection.html")
    assert "80 classes in between are left out here; all are in inspection.html." in text
    names = [int(name) for name in re.findall(r"^class (\d+) ", text.split("Most frequent pairs")[0], re.MULTILINE)]
    assert names == [*range(10), *range(90, 100)]


def test_all_rows_are_described_without_splits(nasty: Dataset) -> None:
    text = shown(inspect_labels(labelled(nasty.targets, names=tuple("abcdefghijklmn"))))
    assert "80 images, 14 classes; training on all rows" in text
    assert "in test" not in text
