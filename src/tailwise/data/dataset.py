"""The data set: labels, names, splits and groups of rows whose inputs are image files, pixels or features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tailwise.data.row_groups import group_name
from tailwise.errors import InputError, OnError
from tailwise.files import replacing
from tailwise.labels import LabelStats
from tailwise.matrix import Targets, decode_labels, is_sparse
from tailwise.shapes import Float, UInt8
from tailwise.spelling import counted, near

SPLIT_JOINER = "+"
"""Stands between the names of several splits that are taken together."""

IN_MEMORY = Path("arrays")
"""The source of data sets that were made from arrays."""

CSR_ARRAYS = ("targets_indptr", "targets_indices", "targets_data")
"""Names of the arrays of a sparse label matrix in a file."""

_Rows: TypeAlias = "Sequence[SupportsIndex] | NDArray[np.integer] | NDArray[np.bool_]"


@dataclass(frozen=True)
class Files:
    """Inputs that are image files; their paths are the names of the rows, relative to ``root``."""

    root: Path

    def take(self, _rows: NDArray[np.intp]) -> Files:
        """The inputs of some rows."""
        return self


@dataclass(frozen=True, eq=False)
class Pixels:
    """Inputs that are images in memory: (N, 3, S, S), 0 to 255."""

    values: UInt8[np.ndarray, "N 3 S S"]

    def take(self, rows: NDArray[np.intp]) -> Pixels:
        """The inputs of some rows."""
        return Pixels(self.values[rows])


@dataclass(frozen=True, eq=False)
class Features:
    """Inputs that are feature vectors: (N, F), finite."""

    values: Float[np.ndarray, "N F"]

    def take(self, rows: NDArray[np.intp]) -> Features:
        """The inputs of some rows."""
        return Features(self.values[rows])


Inputs: TypeAlias = Files | Pixels | Features


@dataclass(frozen=True, eq=False)
class Dataset:
    """N labelled rows.

    Attributes:
        names: N names: image references as written in the source, or identifiers of the rows.
        targets: (N, K) labels: 1, 0, or -1 for unknown; an int8 array, or an int8
            ``scipy.sparse.csr_array`` (what is not stored is 0) where an array would take too much memory.
        class_names: K distinct names, in the order of the columns of ``targets``.
        inputs: image files, pixels or features.
        splits: N split names; "" where the source gives none.
        groups: N groups whose rows belong together, such as the patient or the site; None where none are given.
        lines: N places in ``source``: line or row numbers from 1, or ids.
        source: the file or folder the labels were read from, or the name of the data.
        place: how a place is written in messages, from ``{source}``, ``{line}`` and ``{image}``.
        skipped: one message for each row of the source that was left out.
        name: what these rows are called: the split that was selected, or the name of the source.

    Raises:
        InputError: lengths disagree.

    Example:
        >>> import numpy as np
        >>> data = Dataset.from_arrays(
        ...     np.eye(3), [["cat"], ["cat", "dog"], []], splits=["train", "train", "test"], names=["a", "b", "c"]
        ... )
        >>> data
        Dataset(3 rows of 3 features, 2 classes, splits train 2 and test 1, source='arrays')
        >>> data.select("train").targets
        array([[1, 0],
               [1, 1]], dtype=int8)
    """

    names: tuple[str, ...]
    targets: Targets
    class_names: tuple[str, ...]
    inputs: Inputs
    splits: tuple[str, ...] = ()
    groups: tuple[str, ...] | None = None
    lines: tuple[int, ...] = ()
    source: Path = IN_MEMORY
    place: str = "{source}:{line}"
    skipped: tuple[str, ...] = field(default=(), repr=False)
    name: str = ""

    def __post_init__(self) -> None:
        count = len(self.names)
        defaults = {"splits": ("",) * count, "lines": tuple(range(1, count + 1)), "name": self.source.name}
        for attribute, value in defaults.items():
            if not getattr(self, attribute):
                object.__setattr__(self, attribute, value)
        lengths = {"targets": self.targets.shape[0], "splits": len(self.splits), "lines": len(self.lines)}
        lengths |= {} if self.groups is None else {"groups": len(self.groups)}
        lengths |= {} if isinstance(self.inputs, Files) else {"inputs": len(self.inputs.values)}
        for what, length in lengths.items():
            if length != count:
                raise InputError(f"{self.source}: {what} have {length} rows and names {count}; give one for each row")
        if self.targets.shape[1] != len(self.class_names):
            raise InputError(
                f"{self.source}: targets have {self.targets.shape[1]} columns and there are {len(self.class_names)} "
                "class names; give one for each column"
            )

    @classmethod
    def from_arrays(
        cls,
        inputs: Any,
        targets: Any,
        class_names: Sequence[str] | None = None,
        *,
        splits: Iterable[str] | None = None,
        groups: Iterable[object] | None = None,
        names: Iterable[object] | None = None,
        source: str = str(IN_MEMORY),
    ) -> Dataset:
        """Make a data set of what is in memory.

        Args:
            inputs: one of: an (N, F) array, tensor or data frame of features; an (N, 3, S, S) uint8 array or tensor of
                images; N paths of image files.
            targets: one of: an (N, K) array or tensor of 1, 0 and unknown (-1 or NaN); a CSR matrix of ``scipy.sparse``
                or torch; a data frame with a column for each class; N lists of class names.
            class_names: K names in the order of the columns; those of the data frame or of the lists, sorted, when
                absent, else ``class 0``, ...
            splits: N split names.
            groups: N groups of rows that belong together, each a text or a number; splits and folds keep them whole.
            names: N distinct names of the rows; the paths, or "0", "1", ... when absent.
            source: what the data are called in messages.

        Raises:
            InputError: lengths disagree, a feature is not finite, a row has no group, or an array has another shape
                or type.
        """
        try:
            matrix, found_names = decode_labels(targets, class_names)
        except ValueError as error:
            raise InputError(f"{source}: {error}") from error
        made, own_names = _inputs(inputs, source)
        row_names = own_names if names is None else tuple(str(name) for name in names)
        if len(set(row_names)) != len(row_names):
            repeated = Counter(row_names).most_common(1)[0][0]
            raise InputError(f"{source}: the name {repeated!r} is given to several rows; names must be distinct")
        row_groups = None if groups is None else tuple(group_name(group) for group in groups)
        if row_groups is not None and "" in row_groups:
            raise InputError(
                f"{source}: row {row_groups.index('')} has no group; give each row one, and a row that belongs with no "
                "other a group of its own"
            )
        return cls(
            names=row_names,
            targets=matrix,
            class_names=found_names,
            inputs=made,
            splits=() if splits is None else tuple(str(split) for split in splits),
            groups=row_groups,
            source=Path(source),
            place="{source}, row {line}",
        )

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Dataset({', '.join(self._facts())}, source={str(self.source)!r})"

    def _repr_html_(self) -> str:
        facts = "".join(f"<li>{escape(fact)}</li>" for fact in self._facts())
        return f"<b>Dataset</b> {escape(str(self.source))}<ul>{facts}</ul>"

    def _facts(self) -> list[str]:
        match self.inputs:
            case Files():
                what = counted(len(self), "image")
            case Pixels(values):
                what = f"{counted(len(self), 'image')} of {values.shape[-1]} x {values.shape[-1]} pixels"
            case Features(values):
                what = f"{counted(len(self), 'row')} of {counted(values.shape[1], 'feature')}"
        facts = [what, counted(len(self.class_names), "class", "classes")]
        sizes = [f"{split} {size:,}" for split, size in Counter(self.splits).items() if split]
        if sizes:
            listed = sizes if len(sizes) <= 5 else [*sizes[:4], f"{len(sizes) - 4} more"]
            facts.append("splits " + " and ".join(", ".join(listed).rsplit(", ", 1)))
        if self.groups is not None:
            facts.append(counted(len(set(self.groups)), "group"))
        return facts

    @property
    def root(self) -> Path:
        """The folder that image references start from.

        Raises:
            InputError: the inputs are no files.
        """
        if not isinstance(self.inputs, Files):
            kind = type(self.inputs).__name__.lower()
            raise InputError(f"{self.source} holds {kind} in memory, and this needs image files")
        return self.inputs.root

    def paths(self) -> list[Path]:
        """The N image files.

        Raises:
            InputError: the inputs are no files.
        """
        root = self.root
        return [root / name for name in self.names]

    def where(self, row: SupportsIndex) -> str:
        """The place of a row in the source, for messages."""
        return self.place.format(source=self.source, line=self.lines[row], image=self.names[row])

    def select(self, split: str) -> Dataset:
        """Keep the rows of one split, or of several: ``"train+val"``.

        Raises:
            InputError: no row is in ``split``; the message lists the splits there are.
        """
        sizes = Counter(name for name in self.splits if name)
        wanted = {split} if split in sizes else set(split.split(SPLIT_JOINER))
        if wanted <= sizes.keys():
            return self.subset([row for row, name in enumerate(self.splits) if name in wanted], split)
        if not sizes:
            raise InputError(
                f"{self.source} assigns no row to a split, so it has no split {split!r}: "
                "add a column 'split', divide the rows with split_ratios or split_file, or use all its rows"
            )
        missing = sorted(wanted - sizes.keys())[0]
        listed = ", ".join(f"{name} ({size} rows)" for name, size in sizes.items())
        raise InputError(f"{self.source} has no split {missing!r}{near(missing, sizes)}; its splits are {listed}")

    def subset(self, rows: _Rows, name: str | None = None) -> Dataset:
        """Keep the rows at ``rows``, in that order, under another name if one is given.

        Args:
            rows: indices, or an (N,) boolean mask that keeps the rows where it is true.
            name: what these rows are called.
        """
        # An empty list would become an array of floats, which cannot index.
        chosen = np.arange(len(self))[np.asarray(rows) if len(rows) else np.empty(0, dtype=np.intp)]
        kept = chosen.tolist()
        return replace(
            self,
            names=tuple(self.names[row] for row in kept),
            targets=self.targets[chosen],
            inputs=self.inputs.take(chosen),
            splits=tuple(self.splits[row] for row in kept),
            groups=None if self.groups is None else tuple(self.groups[row] for row in kept),
            lines=tuple(self.lines[row] for row in kept),
            name=self.name if name is None else name,
        )

    def with_classes(self, class_names: Sequence[str]) -> Dataset:
        """Keep some of the classes, in the order given.

        Raises:
            InputError: a name is none of a class.
        """
        column_of = {name: column for column, name in enumerate(self.class_names)}
        unknown = next((name for name in class_names if name not in column_of), None)
        if unknown is not None:
            raise InputError(f"{self.source}: there is no class {unknown!r}{near(unknown, column_of)}")
        columns = [column_of[name] for name in class_names]
        return replace(self, targets=self.targets[:, columns], class_names=tuple(class_names))

    def save(self, path: str | Path) -> None:
        """Write everything as one ``.npz`` file that :func:`tailwise.data.read` reads, whole or not at all.

        It holds ``features`` (N, F), ``pixels`` (N, 3, S, S) or the ``root`` of image files; ``targets`` (N, K), or
        their CSR arrays ``targets_indptr``, ``targets_indices`` and ``targets_data``; ``class_names``, ``names``,
        ``splits``, and ``groups`` if there are any.
        """
        arrays: dict[str, Any] = {
            "class_names": self.class_names,
            "names": self.names,
            "splits": self.splits,
        }
        if isinstance(self.inputs, Files):
            arrays["root"] = str(self.inputs.root.absolute())
        else:
            arrays["pixels" if isinstance(self.inputs, Pixels) else "features"] = self.inputs.values
        if self.groups is not None:
            arrays["groups"] = self.groups
        if is_sparse(self.targets):
            arrays |= {name: getattr(self.targets, name.removeprefix("targets_")) for name in CSR_ARRAYS}
        else:
            arrays["targets"] = self.targets
        with replacing(path) as temporary, Path(temporary).open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    def stats(self, thresholds: tuple[int, int] = (20, 100), cooccurrence: bool = False) -> LabelStats:
        """Count the labels of these rows; see :class:`~tailwise.labels.LabelStats` for the arguments."""
        return LabelStats.from_targets(self.targets, self.class_names, thresholds, cooccurrence=cooccurrence)


def require_images(data: Dataset, on_error: OnError = "raise") -> Dataset:
    """Check that every image is a file; images and features in memory are there.

    Args:
        data: the images to look for.
        on_error: "raise", or "skip" to leave out the rows whose image is missing.

    Returns:
        The rows whose image is there, with one more message in ``skipped`` for each row left out.

    Raises:
        InputError: an image is missing and ``on_error`` is "raise", or every image is missing.
    """
    if not isinstance(data.inputs, Files):
        return data
    present = np.array([path.is_file() for path in data.paths()], dtype=bool)
    if present.all():
        return data
    missing = tuple(
        f"{data.where(row)}: no image {data.names[row]!r} in {data.root}" for row in np.flatnonzero(~present)
    )
    if not present.any():
        raise InputError(f"{missing[0]}; none of the {len(data)} images is there: is this the root of the references?")
    if on_error != "skip":
        raise InputError(
            f"{missing[0]} ({len(missing)} of {len(data)} images are missing); "
            'add them, or leave such rows out with on_error="skip"'
        )
    return replace(data.subset(present), skipped=data.skipped + missing)


def _inputs(given: Any, source: str) -> tuple[Inputs, tuple[str, ...]]:
    """Inputs in memory, checked, and names for their rows."""
    if not hasattr(given, "shape") and all(isinstance(path, str | Path) for path in given):
        paths = [str(path) for path in given]
        return Files(Path()), tuple(paths)
    values = given.numpy(force=True) if hasattr(given, "detach") else np.asarray(given)
    if values.ndim == 4 and values.dtype == np.uint8 and values.shape[1] == 3 and values.shape[2] == values.shape[3]:
        made: Inputs = Pixels(np.ascontiguousarray(values))
    elif values.ndim == 2 and values.dtype.kind in "biuf":
        made = Features(features_of(values, source))
    else:
        raise InputError(
            f"{source}: inputs must be (N, F) numbers for features, (N, 3, S, S) uint8 for images, or N paths; got "
            f"{values.dtype} of shape {values.shape}"
        )
    return made, tuple(str(row) for row in range(len(values)))


def features_of(values: NDArray[Any], source: object) -> Float[np.ndarray, "N F"]:
    """Feature vectors as float32, after checking that they are finite.

    Raises:
        InputError: one is not, or there is no feature.
    """
    if values.ndim != 2 or not values.shape[1]:
        raise InputError(f"{source}: features must be (N, F) with F >= 1, got shape {values.shape}")
    features: NDArray[np.float32] = np.ascontiguousarray(values, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise InputError(
            f"{source}: the features of {counted(len(bad), 'row')} are NaN, infinite or beyond float32, the first in "
            f"row {bad[0]}; features must be finite"
        )
    return features
