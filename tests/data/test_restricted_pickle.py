"""Pickles: honest ones against pickle itself, hostile ones against what they would have done."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import re
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tailwise.data.restricted_pickle import read_pickle
from tailwise.errors import InputError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def write(folder: Path, content: bytes) -> Path:
    path = folder / "file.pkl"
    path.write_bytes(content)
    return path


def same(found: Any, expected: Any) -> bool:
    """Equality of nested containers that may hold arrays, which must agree in type and shape as well."""
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list | tuple):
        return (
            type(found) is type(expected)
            and len(found) == len(expected)
            and all(same(*pair) for pair in zip(found, expected, strict=True))
        )
    if isinstance(expected, np.ndarray):
        # NumPy itself reads arrays of the other byte order into its own.
        return found.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=") and np.array_equal(
            np.asarray(found), expected, equal_nan=expected.dtype.kind in "fc"
        )
    return bool(found == expected) and type(found) is type(expected)


TYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(),
    hnp.unsigned_integer_dtypes(),
    hnp.floating_dtypes(),
    hnp.complex_number_dtypes(),
    hnp.unicode_string_dtypes(min_len=1),
    hnp.byte_string_dtypes(min_len=1),
)
ARRAYS = TYPES.flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, min_side=0, max_side=3)))
ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.complex_numbers(allow_nan=False),
)
HASHABLE = st.one_of(st.integers(), st.text())
CONTENT = st.recursive(
    st.one_of(ATOMS, ARRAYS, st.sets(HASHABLE), st.frozensets(HASHABLE)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner, inner), st.dictionaries(HASHABLE, inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=CONTENT, protocol=st.sampled_from(PROTOCOLS), by_column=st.booleans())
def test_whatever_is_plain_comes_back(tmp_path: Path, content: Any, protocol: int, by_column: bool) -> None:
    if isinstance(content, np.ndarray) and by_column:
        content = np.asfortranarray(content)
    assert same(read_pickle(write(tmp_path, pickle.dumps(content, protocol))), content)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scalars_and_dictionaries_of_other_kinds(tmp_path: Path, protocol: int) -> None:
    content = {
        "ordered": collections.OrderedDict(b=1, a=2),
        "default": collections.defaultdict(list, {3: [4]}),
        "scalars": [np.float32(0.5), np.int64(-3), np.bool_(True), np.str_("ab"), np.complex64(1j)],
        "strided": np.arange(24.0).reshape(2, 3, 4)[:, ::-1].transpose(2, 0, 1),
        "axes": np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0),
    }
    found = read_pickle(write(tmp_path, pickle.dumps(content, protocol)))
    assert type(found["ordered"]) is type(found["default"]) is dict
    assert found["default"] == {3: [4]}
    assert list(found["ordered"].items()) == [("b", 1), ("a", 2)]
    assert same(found["scalars"], content["scalars"])
    assert np.array_equal(found["strided"], content["strided"])
    assert np.array_equal(found["axes"], content["axes"])


def test_python_2_arrays(tmp_path: Path) -> None:
    """Text opcodes for the bytes, module names of the time: what Python 2 wrote with protocol 2."""
    values = np.array([1.5, -2.0, 1e300])
    raw = values.tobytes()
    content = (
        b"\x80\x02}q\x00U\nclass_freqq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85"
        b"U\x01b\x87Rq\x04(K\x01K\x03\x85cnumpy\ndtype\nq\x05U\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U" + bytes([len(raw)]) + raw + b"tbs."
    )
    reference = pickle.loads(content, encoding="latin1")
    found = read_pickle(write(tmp_path, content))
    assert np.array_equal(found["class_freq"], values)
    assert np.array_equal(found["class_freq"], reference["class_freq"])


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *args: Any, state: Any = None) -> None:
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_code_in_a_pickle_does_not_run(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "ran"
    code = f"__import__('os').mkdir({str(trace)!r})"
    attacks = {
        "os.system": Call(os.system, f"mkdir {trace}"),
        "eval": Call(eval, code),
        "exec": [Call(exec, code)],
        "argument of an admitted name": Call(set, [Call(eval, code)]),
        "beside an array": {"class_freq": np.arange(3), "more": (Call(os.mkdir, str(trace)),)},
        "state of an array": Call(np.ndarray, (0,), state=Call(eval, code)),
    }
    for name, attack in attacks.items():
        path = write(tmp_path, pickle.dumps(attack, protocol))
        with pytest.raises(InputError, match=r"refused, it (names|calls) [\w.]+"):
            read_pickle(path)
        assert not trace.exists(), name
        # The attack is a real one: this is what it does where it is let.
        with contextlib.suppress(TypeError):
            pickle.loads(path.read_bytes())
        assert trace.exists(), name
        trace.rmdir()


@pytest.mark.parametrize(
    "named",
    [
        *("builtins eval", "builtins exec", "builtins getattr", "builtins setattr", "builtins open", "builtins map"),
        *("builtins __import__", "builtins type", "builtins object", "builtins bytearray", "builtins range"),
        *("__builtin__ eval", "__builtin__ apply", "os system", "posix system", "nt system", "subprocess Popen"),
        *("importlib import_module", "sys exit", "pickle loads", "_pickle loads", "copyreg _reconstructor"),
        *("functools partial", "operator attrgetter", "operator methodcaller", "types FunctionType", "codecs decode"),
        *("numpy load", "numpy fromfile", "numpy memmap", "numpy lib.npyio.load", "numpy ones", "numpy frombuffer"),
        *("numpy.lib.npyio load", "numpy.lib._npyio_impl load", "numpy.testing._private.utils runstring"),
        *("numpy.core.multiarray fromfile", "numpy._core.multiarray fromfile", "numpy.core.multiarray empty"),
        *("numpy ndarray.tofile", "numpy dtype.__class__", "builtins set.__class__", "numpy.ma.core _mareconstruct"),
        *("torch._utils _rebuild_tensor_v2", "torch.serialization _load", "pandas.io.pickle read_pickle"),
        *("tailwise.data.restricted_pickle read_pickle", "collections namedtuple", "collections OrderedDict.fromkeys"),
    ],
)
def test_other_names_are_refused_by_name(tmp_path: Path, named: str) -> None:
    module, name = named.split(" ")
    for content in (
        f"c{module}\n{name}\n.".encode(),
        f"c{module}\n{name}\n(Vx\ntR.".encode(),
        f"(i{module}\n{name}\n.".encode(),
        b"\x80\x04" + b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name)) + b"\x93.",
    ):
        with pytest.raises(InputError, match=re.escape(f"refused, it names {module}.{name};")):
            read_pickle(write(tmp_path, content))


OBJECTS = np.array([1, "a", None], dtype=object)
RECORDS = np.zeros(2, dtype=[("a", "i4"), ("b", "f8")])


@pytest.mark.parametrize("content", [OBJECTS, RECORDS, {"class_freq": [OBJECTS]}, RECORDS.dtype])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_objects_and_records_are_refused(tmp_path: Path, content: Any, protocol: int) -> None:
    with pytest.raises(InputError, match="refused, it holds an array of objects or records"):
        read_pickle(write(tmp_path, pickle.dumps(content, protocol)))


FLOAT = b"cnumpy\ndtype\n(Vf8\nI0\nI1\ntR"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cnumpy\nndarray\n((I1000000000000\ntVf8\ntR.", "refused, it calls numpy.ndarray"),
        (b"cbuiltins\nbytes\n(I64\ntR.", "refused, it calls builtins.bytes"),
        (b"cbuiltins\nlist\n(](I1\nI2\netR.", "refused, it calls builtins.list"),
        (b"cbuiltins\nset\n(I3\ntR.", "refused, it calls builtins.set in an unusual way"),
        (b"cnumpy\ndtype\n(VS2147483647\nI0\nI1\ntR.", "array of objects or records"),
        (b"cnumpy\ndtype\n(V(1000000,1000000)f8\ntR.", "array of objects or records"),
        (b"cnumpy\ndtype\n(VO8\ntR.", "array of objects or records"),
        (b"cnumpy\ndtype\n(Vi3\ntR.", "refused, it calls numpy.dtype in an unusual way"),
        (b"cnumpy.core.multiarray\nscalar\n(" + FLOAT + b"V1234567\ntR.", "whose length is not that of its content"),
        (b"cnumpy.core.multiarray\nscalar\n(Vf8\nV12345678\ntR.", "an array without a type"),
        (ARRAY + b"(I1\n(I1000000000000\nt" + FLOAT + b"I00\nVshort\ntb.", "whose length is not that of its content"),
        (ARRAY + b"(I1\n(I-1\nt" + FLOAT + b"I00\nV12345678\ntb.", "an array without a shape"),
        (ARRAY + b"(I1\n(I1\nt" + FLOAT + b"I00\n(I1\nltb.", "whose length is not that of its content"),
        (
            b"cnumpy.core.numeric\n_frombuffer\n(\x96" + struct.pack("<Q", 8) + b"\0" * 8 + FLOAT + b"(I9\ntVC\ntR.",
            "length",
        ),
        (b"c_codecs\nencode\n(V666f6f\nVhex\ntR.", "the codec 'hex'"),
        (b"c_codecs\nencode\n(Vabc\nVrot13\ntR.", "the codec 'rot13'"),
        (b"cbuiltins\nset\n(N(Vx\nVy\ndtb.", "refused, it would change builtins.set"),
        (b"cnumpy\ndtype\nVx\nb.", "refused, it would change numpy.dtype"),
        (b"\x80\x02cbuiltins\nset\n)\x81.", "no pickle, or a damaged one"),
        (b"\x80\x02\x82\x01.", "registered in the program that wrote it"),
        (b"I1\np1000000000\n.", "refused, it numbers an object 1000000000"),
        (b"\x80\x02K\x01r\xff\xff\xff\x7f.", "refused, it numbers an object 2147483647"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.", "no pickle, or a damaged one"),
        (b"\x80\x04P1\n.", "no pickle, or a damaged one"),
        (b"", "no pickle, or a damaged one"),
        (b"2008_000023\n2008_000028\n", "no pickle, or a damaged one"),
        (pickle.dumps([1, 2, 3])[:-4], "no pickle, or a damaged one"),
    ],
)
def test_calls_that_honest_files_do_not_make(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path, content)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message) as caught:
            read_pickle(path)
        assert str(path) in str(caught.value)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_copies_are_limited_by_the_length_of_the_file(tmp_path: Path) -> None:
    """A few bytes each ask for a copy of a long list: a bomb if all were made."""
    elements = b"".join(b"M" + struct.pack("<H", value) for value in range(10_000))
    content = b"\x80\x02(" + elements + b"lq\x00" + b"(cbuiltins\nset\nh\x00\x85Rt" * 100 + b"."
    with pytest.raises(InputError, match="more copies of its content than it is long"):
        read_pickle(write(tmp_path, content))


def test_a_pickle_changes_nothing_for_the_next_one(tmp_path: Path) -> None:
    for content in (b"cnumpy\ndtype\n(N}Vdtype\nVx\nstb.", ARRAY + b"(N}V__setstate__\nI1\nstb."):
        with pytest.raises(InputError):
            read_pickle(write(tmp_path, content))
    assert np.array_equal(read_pickle(write(tmp_path, pickle.dumps(np.arange(3)))), np.arange(3))


def test_files_too_long_or_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"cannot read .*nothing.pkl: No such file"):
        read_pickle(tmp_path / "nothing.pkl")
    path = write(tmp_path, b"")
    with path.open("r+b") as file:
        file.truncate(64_000_001)
    with pytest.raises(InputError, match="has 64 MB; pickles are read up to 64 MB"):
        read_pickle(path)
