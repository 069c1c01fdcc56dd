"""The Python entry points of ``import tailwise``: each calls what the command of its name calls."""

from __future__ import annotations

import filecmp
import io
import os
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from rich.console import Console

from tailwise.commands import compare as compare_command
from tailwise.commands import inspect as inspect_command
from tailwise.data.dataset import Dataset
from tailwise.data.label_facts import Inspection
from tailwise.data.pixels.image_check import ImageReport
from tailwise.data.reading import ReadOptions
from tailwise.data.reading import read as read_data
from tailwise.errors import InputError
from tailwise.experiments import comparison
from tailwise.model import Model
from tailwise.options import from_names
from tailwise.report.inspection.inspection_page import write_inspection_page
from tailwise.report.inspection.terminal import show_inspection
from tailwise.report.results_page import ComparisonReport, write_files
from tailwise.training import run
from tailwise.training.config import TrainConfig
from tailwise.training.folder import DATA_FILE

Source: TypeAlias = str | os.PathLike[str] | Dataset
"""Labelled data: whatever :func:`read` takes, or what it has returned."""

# Where data sets come from, so that a run reads them again rather than a copy.
_ORIGINS: WeakKeyDictionary[Dataset, tuple[str, ReadOptions]] = WeakKeyDictionary()
_TEXT_WIDTH = 120
_FRAME_HEIGHT = 640


def read(data: Source, **options: Any) -> Dataset:
    """Read labels, and where their images or features are, from any supported format.

    Args:
        data: a CSV, Parquet, JSON lines or COCO file; the folder of a data set; ``hf:owner/name``; a ``.npz`` file of
            arrays; or ``"digits"``, the data of the demo.
        options: how to read it: fields of :class:`~tailwise.data.reading.ReadOptions`, such as ``features="emb.npy"``
            or ``split_ratios={"train": 0.8, "test": 0.2}``.

    Raises:
        InputError: the data or an option cannot be used.

    Example:
        >>> import tailwise as tw
        >>> tw.read("digits")
        Dataset(1,642 images of 32 x 32 pixels, 10 classes, splits train 642 and test 1,000, source='digits')
    """
    if isinstance(data, Dataset):
        if options:
            raise InputError(f"{next(iter(options))} has no effect on data that are read already; give it to read")
        return data
    chosen = from_names(ReadOptions, options)
    found = read_data(os.fspath(data), chosen)
    _ORIGINS[found] = os.fspath(data), chosen
    return found


@dataclass(frozen=True, eq=False)
class InspectionReport:
    """What data look like before training. It prints itself, and shows itself in a notebook.

    Attributes:
        inspection: counts by class, group and split, and pairs of classes.
        images: what opening every image has found; None where that was not asked for.
    """

    inspection: Inspection
    images: ImageReport | None = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page of the inspection as one HTML file, which is replaced if it exists."""
        write_inspection_page(Path(path), self.inspection, self.images)

    def __repr__(self) -> str:
        text = io.StringIO()
        show_inspection(self.inspection, self.images, console=Console(file=text, width=_TEXT_WIDTH))
        return text.getvalue()

    def _repr_html_(self) -> str:
        with TemporaryDirectory() as folder:
            page = Path(folder, "inspection.html")
            self.save(page)
            content = page.read_text(encoding="utf-8")
        # The page has scripts and styles of its own, which must not meet those of the notebook.
        return f'<iframe srcdoc="{escape(content)}" width="100%" height="{_FRAME_HEIGHT}" frameborder="0"></iframe>'


def inspect(data: Source, **options: Any) -> InspectionReport:
    """Show what labelled data look like before training: counts, groups, splits, problems and what to do about them.

    Args:
        data: labelled data.
        options: those of the command ``tailwise inspect``, such as ``train_split`` or ``check_images=True``.

    Raises:
        InputError: the data or an option cannot be used.

    Example:
        >>> import tailwise as tw
        >>> facts = tw.inspect("digits")
        >>> int(facts.inspection.stats.class_counts.min())
        5
    """
    chosen = from_names(inspect_command.Options, {**_reading(data), **options, "quiet": True})
    found = data if isinstance(data, Dataset) else read_data(chosen.data, chosen)
    return InspectionReport(*inspect_command.inspect(found, chosen))


def compare(data: Source, *, output: str | os.PathLike[str] = "comparison", **options: Any) -> ComparisonReport:
    """Compare losses and samplers on labelled data, and recommend one.

    The runs are made in worker processes: in a script, call it under ``if __name__ == "__main__":``.

    Args:
        data: labelled data. What is in memory only is written into the folder first.
        output: folder of the comparison; the same call continues one that is there.
        options: those of the command ``tailwise compare``, such as ``methods=["bce", "pg"]``, ``seeds=3`` or
            ``backbone="resnet18"``.

    Returns:
        The results: ``table`` is a data frame with a row for each method, ``best`` the name of the recommended one,
        ``recommendation`` says why, and ``save`` writes the page.

    Raises:
        InputError: the data, the folder or an option cannot be used.
    """
    located = _located(data, Path(output))
    chosen = from_names(compare_command.Options, {**located, "quiet": True, **options, "output": str(output)})
    found = comparison.compare(compare_command.plan_of(chosen), workers=chosen.workers)
    write_files(found)
    return ComparisonReport.of(found)


def train(data: Source, *, output: str | os.PathLike[str], **options: Any) -> Model:
    """Train a classifier, test it, and leave a folder with the model.

    Args:
        data: labelled data. What is in memory only is written into the folder first.
        output: folder of the run; it must be new unless ``resume=True``.
        options: those of the command ``tailwise train``, such as ``loss="pg"``, ``mode="probe"``, ``epochs=20`` or
            ``backbone="resnet18"``.

    Raises:
        InputError: the data, the folder or an option cannot be used.

    Example:
        >>> from tempfile import mkdtemp
        >>> import numpy as np, tailwise as tw
        >>> generator = np.random.default_rng(0)
        >>> targets = (generator.random((200, 5)) < 0.3).astype(int)
        >>> features = targets @ generator.normal(size=(5, 8)) + generator.normal(size=(200, 8))
        >>> data = tw.Dataset.from_arrays(features, targets, splits=["train"] * 150 + ["test"] * 50)
        >>> model = tw.train(data, output=mkdtemp(), loss="db", mode="probe", warmup_steps=5)
        >>> model.predict(features[:2]).shape
        (2, 6)
    """
    located = _located(data, Path(output))
    run.train(from_names(TrainConfig, {**located, "quiet": True, **options, "output": str(output)}))
    return Model(output)


def load(folder: str | os.PathLike[str], **options: Any) -> Model:
    """Load the model of a finished run.

    Args:
        folder: folder of the run.
        options: ``accelerator`` and ``trust`` of :class:`~tailwise.model.Model`.

    Raises:
        InputError: the folder holds no finished run, or one of its files cannot be used.
    """
    return Model(folder, **options)


def _reading(data: Source) -> dict[str, Any]:
    """The options that say what to read, and how, where the data lie anywhere."""
    if not isinstance(data, Dataset):
        return {"data": os.fspath(data)}
    if data in _ORIGINS:
        name, options = _ORIGINS[data]
        return {"data": name, **vars(options)}
    return {"data": str(data.source)}


def _located(data: Source, folder: Path) -> dict[str, Any]:
    """The same, after writing what is in memory only into the folder of a run, which reads its data from files."""
    if not isinstance(data, Dataset) or data in _ORIGINS:
        return _reading(data)
    path = folder / DATA_FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        data.save(path)
        return {"data": str(path)}
    with TemporaryDirectory() as other:
        data.save(Path(other, DATA_FILE))
        if not filecmp.cmp(path, Path(other, DATA_FILE), shallow=False):
            raise InputError(f"{path} holds other data; give another output")
    return {"data": str(path)}
