"""Data sets of arrays in one NumPy file: features, pixels, or names of image files, with their labels."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailwise.data.dataset import CSR_ARRAYS, Dataset, Features, Files, features_of
from tailwise.data.formats.rows import Format, Request
from tailwise.errors import InputError
from tailwise.spelling import near

_INPUTS = ("features", "pixels", "root")
_ROWS = ("names", "splits", "groups")
_KNOWN = (*_INPUTS, "targets", *CSR_ARRAYS, *_ROWS, "class_names")


def read_arrays(request: Request) -> Dataset:
    """Read a ``.npz`` file of arrays; see :meth:`tailwise.data.Dataset.save` for its keys.

    ``class_names`` default to ``class 0``, ..., ``names`` to the positions, and ``splits`` to none. The option
    ``group_column`` names an array of groups other than ``groups``.

    Raises:
        InputError: the file cannot be read, or its arrays are no data set.
    """
    path = request.path
    arrays = _load_named(path)
    groups = request.options.group_column
    if groups is not None:
        if groups not in arrays:
            raise InputError(
                f"{path}: no array {groups!r}, which --group-column names{near(groups, arrays)}; there are "
                f"{', '.join(arrays)}"
            )
        arrays["groups"] = arrays.pop(groups)
    unknown = sorted(arrays.keys() - set(_KNOWN))
    if unknown:
        raise InputError(
            f"{path}: unknown array {unknown[0]!r}{near(unknown[0], _KNOWN)}; known are {', '.join(_KNOWN)}"
        )
    given = [name for name in _INPUTS if name in arrays]
    if len(given) != 1:
        raise InputError(
            f"{path}: expected features (N, F), pixels (N, 3, S, S) or the root of image files, and one of them only; "
            f"got {' and '.join(given) or 'none'}"
        )
    if given == ["root"] and "names" not in arrays:
        raise InputError(f"{path}: image files need names, their paths from the root")
    data = Dataset.from_arrays(
        _strings(arrays, "names", path) if given == ["root"] else arrays[given[0]],
        _targets(arrays, path),
        _strings(arrays, "class_names", path),
        **{name: _strings(arrays, name, path) for name in _ROWS},
        source=str(path),
    )
    if given == ["root"]:
        data = replace(data, inputs=Files(Path(str(arrays["root"]))))
    return data if request.class_names is None else data.with_classes(request.class_names)


def read_features(path: str | Path, data: Dataset) -> Dataset:
    """A data set whose inputs are the feature vectors of a file.

    Args:
        path: ``.npy``: (N, F), row by row as in ``data``; or ``.npz`` with ``features`` (M, F) and ``names`` (M,), of
            which each name in ``data`` is one.
        data: gives names and labels.

    Raises:
        InputError: the file cannot be read, its rows are not those of ``data``, or a feature is not finite.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        values = _load_features(path)
        if len(values) != len(data):
            skipped = f", of which {len(data.skipped)} more are left out" if data.skipped else ""
            raise InputError(
                f"{path} has {len(values)} rows and {data.source} has {len(data)}{skipped}; features in .npy files "
                "are in the order of the labels, row by row: give a .npz file with names and features to match by name"
            )
        return replace(data, inputs=Features(features_of(values, path)))
    arrays = _load_named(path)
    if not {"features", "names"} <= arrays.keys():
        raise InputError(f"{path}: expected the arrays features and names, got {', '.join(sorted(arrays)) or 'none'}")
    names = _strings(arrays, "names", path) or ()
    values = features_of(arrays["features"], path)
    if len(names) != len(values):
        raise InputError(f"{path}: there are {len(names)} names and {len(values)} rows of features")
    row_of = {name: row for row, name in enumerate(names)}
    missing = [name for name in data.names if name not in row_of]
    if missing:
        raise InputError(f"{path} has no features of {missing[0]!r}, and {len(missing)} of {len(data)} rows lack them")
    if len(row_of) != len(names):
        raise InputError(f"{path}: {len(names) - len(row_of)} names occur more than once; names must be distinct")
    return replace(data, inputs=Features(values[[row_of[name] for name in data.names]]))


def _load(path: Path) -> Any:
    """The arrays of a ``.npz`` file by name, or the one of a ``.npy`` file."""
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            return {name: found[name] for name in found.files} if isinstance(found, np.lib.npyio.NpzFile) else found
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a NumPy file of plain arrays: {error}") from error


def _load_named(path: Path) -> dict[str, NDArray[Any]]:
    arrays = _load(path)
    if not isinstance(arrays, dict):
        raise InputError(f"{path} holds one array; expected a .npz file with several by name")
    return arrays


def _load_features(path: Path) -> NDArray[Any]:
    values = _load(path)
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "biuf":
        raise InputError(
            f"{path}: expected an (N, F) array of numbers, got {getattr(values, 'shape', 'several arrays')}"
        )
    return values


def _targets(arrays: Mapping[str, NDArray[Any]], path: Path) -> Any:
    sparse = [name for name in CSR_ARRAYS if name in arrays]
    if ("targets" in arrays) == bool(sparse) or len(sparse) not in (0, len(CSR_ARRAYS)):
        raise InputError(f"{path}: expected targets (N, K), or all of {', '.join(CSR_ARRAYS)}")
    if "targets" in arrays:
        return arrays["targets"]
    from scipy.sparse import csr_array

    if "class_names" not in arrays:
        raise InputError(f"{path}: sparse targets need class_names, which say how many classes there are")
    indptr, indices, values = (arrays[name] for name in CSR_ARRAYS)
    try:
        return csr_array((values, indices, indptr), shape=(len(indptr) - 1, len(arrays["class_names"])))
    except ValueError as error:
        raise InputError(
            f"{path}: targets_indptr, targets_indices and targets_data are no CSR matrix: {error}"
        ) from error


def _strings(arrays: Mapping[str, NDArray[Any]], name: str, path: Path) -> tuple[str, ...] | None:
    if name not in arrays:
        return None
    values = arrays[name]
    if values.ndim != 1 or values.dtype.kind not in "Uiu":
        raise InputError(f"{path}: {name} must be a list of strings, got {values.dtype} of the shape {values.shape}")
    return tuple(str(value) for value in values.tolist())


ARRAYS = Format("npz", read_arrays, suffixes=(".npz",), has_columns=True)
