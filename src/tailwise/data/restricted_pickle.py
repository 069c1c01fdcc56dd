"""Pickle files read without running anything that they name: plain containers and NumPy arrays, nothing else.

A pickle is a program that may call any function, so that to read a stranger's file is to run it. Here, the few names
that honest files of numbers hold stand for functions of this module, which check what they are given; every other name
is refused. NumPy's own functions are not called with what a file says either: some allocate whatever it asks for.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from tailwise.errors import InputError

_LARGEST_FILE = 64 * 10**6
# What honest files repeat beyond their length: short texts and the like.
_SPARE = 1 << 16
# Booleans, numbers and texts; not objects, nor records, whose definitions are small programs.
_PLAIN_TYPE = re.compile(r"[<>|=]?(b1|[iufc]\d{1,2}|[USV][1-9]\d{0,5})")


def read_pickle(path: str | Path) -> Any:
    """Read a pickle of plain containers, numbers, texts and NumPy arrays, by Python 2 or 3, without running code.

    Args:
        path: the file, of at most 64 MB.

    Returns:
        What was stored; but ``OrderedDict`` and ``defaultdict`` become ``dict``, and some arrays are of a subclass of
        ``numpy.ndarray`` that adds nothing: ``numpy.asarray`` makes plain arrays of them.

    Raises:
        InputError: the file cannot be read, is no pickle or a damaged one, or holds anything else, which the message
            names.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise InputError(f"{path} has {size / 1e6:.0f} MB; pickles are read up to {_LARGEST_FILE / 1e6:.0f} MB")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    try:
        _require_sane_memo(content)
        return _Unpickler(content).load()
    except _RefusedError as error:
        raise InputError(
            f"{path}: refused, {error}; only lists, dictionaries, sets, numbers, texts and arrays of them are read "
            "from pickles, because anything else may run code. Save what you need of it as CSV or JSON"
        ) from error
    except Exception as error:  # a damaged pickle makes the reader raise almost anything
        raise InputError(f"{path} is no pickle, or a damaged one ({error})") from error


class _RefusedError(Exception):
    """Something in a pickle that is not read; the message says what."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes) -> None:
        # Python 2 stored the bytes of arrays as text, which latin-1 gives back one by one.
        super().__init__(io.BytesIO(content), encoding="latin1")
        self._left = len(content) + _SPARE

    def find_class(self, module: str, name: str) -> Any:
        call = _KNOWN.get((module, name))
        if call is None:
            raise _RefusedError(f"it names {module}.{name}")
        return _Sealed(f"{module}.{name}", call, self._spend)

    def _spend(self, elements: int) -> None:
        # Calls copy what they are given: a short file could ask for the same long copy again and again.
        self._left -= elements
        if self._left < 0:
            raise _RefusedError("it makes more copies of its content than it is long")


class _Sealed:
    """What a name in a pickle becomes: it can be called, by way of its checks, but not changed."""

    __slots__ = ("_call", "_name", "_spend")
    _name: str
    _call: Callable[..., Any]
    _spend: Callable[[int], None]

    def __init__(self, name: str, call: Callable[..., Any], spend: Callable[[int], None]) -> None:
        for slot, value in (("_name", name), ("_call", call), ("_spend", spend)):
            object.__setattr__(self, slot, value)

    def __call__(self, *args: Any) -> Any:
        self._spend(sum(len(arg) for arg in args if hasattr(arg, "__len__")))
        try:
            return self._call(*args)
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            raise _RefusedError(f"it calls {self._name} in an unusual way ({error})") from error

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise _RefusedError(f"it would change {self._name}")

    def __setstate__(self, state: Any) -> NoReturn:
        raise _RefusedError(f"it would change {self._name}")


class _Type:
    """What ``numpy.dtype`` becomes until its byte order is known."""

    __slots__ = ("dtype",)

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or not _PLAIN_TYPE.fullmatch(code):
            raise _RefusedError("it holds an array of objects or records")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        _, order, subarray, names, fields, *_rest = state
        if (subarray, names, fields) != (None, None, None):
            raise _RefusedError("it holds an array of objects or records")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array whose content follows after it has been made, as NumPy stores arrays."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_column, content = state
        raw = content.encode("latin1") if isinstance(content, str) else content
        _require_consistent(raw, kind, shape)
        checked: Any = (1, shape, kind.dtype, bool(by_column), raw)
        super().__setstate__(checked)


def _empty_array(*_: object) -> _Array:
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _array(raw: Any, kind: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    _require_consistent(raw, kind, shape)
    if order == "K":
        return np.ndarray(shape, kind.dtype, raw).transpose(axes)
    if order not in ("C", "F"):
        raise ValueError("no such order of axes")
    return np.ndarray(shape, kind.dtype, raw, order="F" if order == "F" else "C")


def _scalar(kind: Any, content: Any) -> Any:
    raw = content.encode("latin1") if isinstance(content, str) else content
    _require_consistent(raw, kind, ())
    return np.ndarray((), kind.dtype, raw)[()]


def _require_consistent(raw: object, kind: object, shape: object) -> None:
    """Check that an array is exactly as large as the bytes there are for it."""
    if not isinstance(kind, _Type):
        raise ValueError("an array without a type")
    if not isinstance(shape, tuple) or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise ValueError("an array without a shape")
    if not isinstance(raw, bytes | bytearray) or math.prod(shape) * kind.dtype.itemsize != len(raw):
        raise ValueError("an array whose length is not that of its content")


def _latin1(text: Any, codec: Any) -> bytes:
    if codec.replace("-", "") != "latin1":
        raise ValueError(f"the codec {codec!r}")
    encoded: bytes = text.encode("latin1")
    return encoded


def _empty_bytes() -> bytes:
    # With a number, bytes would make as many.
    return b""


def _nothing_but_a_name(*_: object) -> NoReturn:
    raise ValueError("it is only named in honest files")


def _require_sane_memo(content: bytes) -> None:
    """Refuse numbers of memorised objects that the reader would make room for, whatever there is."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name.endswith("PUT") and not 0 <= int(argument or 0) <= len(content):
            raise _RefusedError(f"it numbers an object {argument}")
        if opcode.name.startswith("EXT"):
            raise _RefusedError("it uses names registered in the program that wrote it")


_BUILTINS: dict[str, Callable[..., Any]] = {
    "set": set,
    "frozenset": frozenset,
    "complex": complex,
    "bytes": _empty_bytes,
    # Files name these as what a defaultdict makes.
    **dict.fromkeys(("list", "tuple", "dict", "int", "float", "str", "bool"), _nothing_but_a_name),
}
_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _nothing_but_a_name,
    ("numpy", "dtype"): _Type,
    ("collections", "OrderedDict"): dict,
    ("collections", "defaultdict"): lambda *_: {},
    ("_codecs", "encode"): _latin1,
}
for _package in ("numpy.core", "numpy._core"):
    _KNOWN[f"{_package}.multiarray", "_reconstruct"] = _empty_array
    _KNOWN[f"{_package}.multiarray", "scalar"] = _scalar
    _KNOWN[f"{_package}.numeric", "_frombuffer"] = _array
for _module in ("builtins", "__builtin__"):
    _KNOWN |= {(_module, name): call for name, call in _BUILTINS.items()}
