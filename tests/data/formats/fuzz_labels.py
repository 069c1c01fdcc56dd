"""Label files with random damage, in every format: each is read whole, or refused with its name.

    python -m tests.data.formats.fuzz_labels --minutes 10 --seed 7

Says which file, format and seed broke the rule, and leaves the file.
"""

from __future__ import annotations

import argparse
import logging
import posixpath
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tailwise.data.dataset import Dataset
from tailwise.data.reading import ReadOptions, read
from tailwise.errors import InputError
from tests.formats import WRITERS, examples

FORMATS = ("csv-lists", "csv-columns", "parquet-lists", "parquet-columns", "jsonl", "folder", "coco", "voc")
SECONDS_PER_FILE = 10
# What label files are made of: damage that a parser notices late.
TOKENS = (
    *(b",", b";", b"|", b"\t", b"\n", b"\r\n", b'"', b"'", b"\\", b"\0", b"\xff", b"\xef\xbb\xbf", b"{", b"}", b"["),
    *(b"]", b":", b"<", b">", b"&lt;", b"&#0;", b"<!DOCTYPE a>", b"null", b"NaN", b"1e999", b"-1", b"2", b"../", b"/"),
    *(
        b"image",
        b"labels",
        b"split",
        b"<object>",
        b"</object>",
        b"PAR1",
        "é".encode(),
        "\u2028".encode(),
        b"\xed\xa0\x80",
    ),
)


def mutate(content: bytes, generator: np.random.Generator) -> bytes:
    """Damage a file in one to four places."""
    for _ in range(generator.integers(1, 5)):
        at = int(generator.integers(0, len(content) + 1))
        length = int(generator.integers(1, 30))
        other = int(generator.integers(0, len(content) + 1))
        match generator.integers(0, 6):
            case 0:
                content = content[:at] + bytes(generator.integers(0, 256, 1, dtype=np.uint8)) + content[at + 1 :]
            case 1:
                content = content[:at] + content[at + length :]
            case 2:
                content = content[:at] + TOKENS[generator.integers(0, len(TOKENS))] + content[at:]
            case 3:
                content = content[:at] + content[other : other + length] + content[at:]
            case 4:
                content = content[:at]
            case _:
                token = TOKENS[generator.integers(0, len(TOKENS))]
                content = content[:at] + token + content[at + len(token) :]
    return content


def check(data: Dataset) -> None:
    """What holds for whatever is read."""
    shape = (len(data.names), len(data.class_names))
    assert shape[0] > 0
    assert data.targets.shape == shape
    assert data.targets.dtype == np.int8
    assert set(np.unique(data.targets)) <= {-1, 0, 1}
    assert len(set(data.class_names)) == shape[1]
    assert len(data.splits) == len(data.lines) == shape[0]
    plain = [posixpath.normpath(image.replace("\\", "/")) for image in data.names]
    assert len(set(plain)) == shape[0]
    assert not any(image.startswith(("/", "../")) or image in ("..", ".") for image in plain)
    assert all(name == name.strip() and name for name in data.class_names)


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Break off what hangs."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not read within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def try_one(name: str, folder: Path, generator: np.random.Generator) -> str:
    """Damage one file of a data set, read it, and put the file back; returns what happened."""
    data = WRITERS[name](folder, examples(12, 6)) if not any(folder.iterdir()) else located(name, folder)
    files = sorted(
        path for path in folder.rglob("*") if path.suffix in (".csv", ".parquet", ".jsonl", ".json", ".xml", ".txt")
    )
    file = files[generator.integers(0, len(files))]
    before = file.read_bytes()
    file.write_bytes(mutate(before, generator))
    on_error = ("raise", "skip")[generator.integers(0, 2)]
    try:
        with time_limit(SECONDS_PER_FILE):
            check(read(data, ReadOptions(on_error=on_error)))  # type: ignore[arg-type]
        outcome = "read"
    except InputError as error:
        if str(folder) not in str(error):
            raise AssertionError("the error names no file") from error
        outcome = "refused"
    file.write_bytes(before)
    return outcome


def located(name: str, folder: Path) -> Path:
    """Where a format's writer has put the data."""
    places = {"folder": "photos", "coco": "coco", "voc": "VOCdevkit/VOC2012", "jsonl": "labels.jsonl"}
    ending = "parquet" if name.startswith("parquet") else "csv"
    return folder / places.get(name, f"labels.{ending}")


def run(root: Path, *, seed: int, count: int | None = None, minutes: float | None = None) -> Counter[str]:
    """Damage files until ``count`` are done or ``minutes`` have passed; returns how often what happened."""
    generator = np.random.default_rng(seed)
    outcomes: Counter[str] = Counter()
    end = None if minutes is None else time.monotonic() + 60 * minutes
    while (count is None or outcomes.total() < count) and (end is None or time.monotonic() < end):
        name = FORMATS[outcomes.total() % len(FORMATS)]
        folder = root / name
        folder.mkdir(exist_ok=True)
        try:
            outcomes[try_one(name, folder, generator)] += 1
        except Exception as error:
            error.add_note(f"damaged file number {outcomes.total()} of seed {seed}, format {name}, in {folder}")
            raise
    return outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable()
    print(run(Path(tempfile.mkdtemp(prefix="fuzz-labels-")), seed=options.seed, minutes=options.minutes))
