"""Damaged image files by the thousand.

    python -m tests.data.fuzz_images --count 100000 --seed 7        # or: --minutes 10

Small valid files of every kind are mutated, and decoded in processes of their own, each file within a time limit. The
outcome must be pixels of the right shape, or an ImageError that names the file, whether Python's warnings are errors or
not. Everything else is printed as a failure, with the number of the file: --first NUMBER --count 1 --keep FOLDER writes
it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import resource
import struct
import sys
import tempfile
import threading
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count as count_from
from itertools import islice, takewhile
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from tailwise.data.pixels.decode import ImageError, decode_image
from tests.data.image_files import PNG_SIGNATURE, Original, originals

SIZES = (1, 7, 24, 64)
EDGE_VALUES = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@dataclass
class Report:
    """What became of the files."""

    decoded: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    megabytes: int = 0

    @property
    def files(self) -> int:
        return self.decoded + self.refused.total() + len(self.failures)


@dataclass(frozen=True)
class Plan:
    """What to decode, and how.

    Args:
        seed: of the files.
        kinds: suffixes of the valid files to start from; all when empty.
        seconds: the longest that a file may take.
        megabytes: the most memory that a file may take; Pillow's limit on pixels allows about 1000.
        keep: a folder to write the files into.
        decode: what is tested.
    """

    seed: int = 0
    kinds: tuple[str, ...] = ()
    seconds: float = 10.0
    megabytes: int = 1500
    keep: Path | None = None
    decode: Callable[[Path, int], np.ndarray] = decode_image


def mutated(plan: Plan, number: int) -> tuple[Original, int]:
    """File ``number`` of a plan, and the size to decode it at."""
    generator = np.random.default_rng([plan.seed, number])
    choices = originals(plan.kinds)
    original = choices[generator.integers(len(choices))]
    data = bytearray(original.data)
    for _ in range(generator.geometric(0.5)):
        if data:
            mutation = MUTATIONS[generator.integers(len(MUTATIONS))]
            data = mutation(data, generator) or data
    if data.startswith(PNG_SIGNATURE) and generator.random() < 0.7:
        data = with_valid_checksums(data)
    return Original(original.name, original.suffix, bytes(data)), int(generator.choice(SIZES))


def run(plan: Plan, numbers: Iterator[int], workers: int = 2) -> Report:
    """Decode files in ``workers`` processes until there are no more numbers."""
    report, lock = Report(), threading.Lock()
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(_supervise, plan, numbers, report, lock) for _ in range(workers)]:
            done.result()
    return report


def with_valid_checksums(data: bytearray) -> bytearray:
    """A PNG whose chunks have the checksums of what they now hold, so that decoders look further than that."""
    result, at = data[:8], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        result += data[at:end] + struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return result + data[at:]


def _flip_bits(data: bytearray, generator: np.random.Generator) -> None:
    for _ in range(generator.integers(1, 9)):
        data[_place(data, generator)] ^= 1 << int(generator.integers(8))


def _flip_bits_of_the_header(data: bytearray, generator: np.random.Generator) -> None:
    for _ in range(generator.integers(1, 4)):
        data[int(generator.integers(min(len(data), 64)))] ^= 1 << int(generator.integers(8))


def _set_number(data: bytearray, generator: np.random.Generator) -> None:
    """Overwrite what may be a length, a size or an offset, anywhere but more often near the start."""
    width, order = int(generator.choice([1, 2, 4])), ("big", "little")[generator.integers(2)]
    at = _place(data, generator) if generator.random() < 0.5 else int(generator.integers(min(len(data), 64)))
    value = EDGE_VALUES[generator.integers(len(EDGE_VALUES))] % 256**width
    data[at : at + width] = value.to_bytes(width, order)  # type: ignore[arg-type]


def _truncate(data: bytearray, generator: np.random.Generator) -> None:
    del data[int(generator.integers(1, len(data) + 1)) :]


def _cut_out(data: bytearray, generator: np.random.Generator) -> None:
    at = _place(data, generator)
    del data[at : at + int(generator.integers(1, 33))]


def _insert(data: bytearray, generator: np.random.Generator) -> None:
    at = _place(data, generator)
    data[at:at] = generator.bytes(int(generator.integers(1, 33)))


def _repeat(data: bytearray, generator: np.random.Generator) -> None:
    at, source = _place(data, generator), _place(data, generator)
    data[at:at] = data[source : source + int(generator.integers(1, 257))]


def _swap_blocks(data: bytearray, generator: np.random.Generator) -> None:
    length = int(generator.integers(1, 65))
    one, other = _place(data, generator), _place(data, generator)
    first, second = data[one : one + length], data[other : other + length]
    data[one : one + length], data[other : other + length] = second, first


def _fill(data: bytearray, generator: np.random.Generator) -> None:
    at, length = _place(data, generator), int(generator.integers(1, 65))
    data[at : at + length] = bytes([generator.choice([0, 255])]) * length


def _rearrange_parts(data: bytearray, generator: np.random.Generator) -> bytearray | None:
    """Drop, double or exchange whole chunks of a PNG or segments of a JPEG."""
    parts = _parts(data)
    if len(parts) < 3:
        return None
    one, other = (int(place) for place in generator.integers(1, len(parts), 2))
    action = generator.integers(3)
    if action == 0:
        del parts[one]
    elif action == 1:
        parts.insert(other, parts[one])
    else:
        parts[one], parts[other] = parts[other], parts[one]
    return bytearray().join(parts)


MUTATIONS: tuple[Callable[[bytearray, np.random.Generator], bytearray | None], ...] = (
    _flip_bits,
    _flip_bits_of_the_header,
    _set_number,
    _truncate,
    _cut_out,
    _insert,
    _repeat,
    _swap_blocks,
    _fill,
    _rearrange_parts,
)


def _place(data: bytearray, generator: np.random.Generator) -> int:
    return int(generator.integers(len(data)))


def _parts(data: bytearray) -> list[bytearray]:
    png = data.startswith(PNG_SIGNATURE)
    at, parts = (8, [data[:8]]) if png else (2, [data[:2]])
    if not png and not data.startswith(b"\xff\xd8"):
        return []
    while at + 4 <= len(data):
        if png:
            end = at + 12 + struct.unpack_from(">I", data, at)[0]
        else:
            end = len(data) if data[at + 1] == 0xDA else at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        parts.append(data[at:end])
        at = end
    return parts


class _Decoder:
    """A process that decodes files one by one."""

    def __init__(self, plan: Plan) -> None:
        self.seconds = plan.seconds
        spawn = multiprocessing.get_context("spawn")
        self.channel, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_decode_files, args=(plan, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.channel.recv()

    def outcome(self, number: int) -> tuple[str, str, int]:
        """What became of a file; "hung" and "died" are the end of this process."""
        try:
            self.channel.send(number)
            if self.channel.poll(self.seconds):
                return self.channel.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            return "died", f"kills the process, exit code {self.process.exitcode}", 0
        return "hung", f"takes longer than {self.seconds:g} s", 0

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.channel.close()


def _supervise(plan: Plan, numbers: Iterator[int], report: Report, lock: threading.Lock) -> None:
    decoder = _Decoder(plan)
    while True:
        with lock:
            number = next(numbers, None)
        if number is None:
            break
        outcome, detail, megabytes = decoder.outcome(number)
        if outcome in ("died", "hung"):
            decoder.stop()
            decoder = _Decoder(plan)
        with lock:
            report.megabytes = max(report.megabytes, megabytes)
            if outcome == "decoded":
                report.decoded += 1
            elif outcome == "refused":
                report.refused[detail] += 1
            else:
                file, _ = mutated(plan, number)
                report.failures.append(f"file {number} of seed {plan.seed} ({file.name} {file.suffix}): {detail}")
    decoder.stop()


def _decode_files(plan: Plan, channel: Connection) -> None:
    originals(plan.kinds)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stderr.fileno())  # libtiff prints
    before = _peak_megabytes()
    with tempfile.TemporaryDirectory() as folder:
        channel.send("ready")
        while True:
            number = channel.recv()
            file, size = mutated(plan, number)
            path = (plan.keep or Path(folder)) / f"{number}.{file.suffix}"
            path.write_bytes(file.data)
            warnings.simplefilter("error" if number % 2 else "ignore")
            outcome, detail = _decode(plan, path, size)
            if plan.keep is None:
                path.unlink()
            megabytes = _peak_megabytes() - before
            if megabytes > plan.megabytes:
                outcome, detail = "failed", f"takes {megabytes} MB"
            channel.send((outcome, detail, megabytes))


def _decode(plan: Plan, path: Path, size: int) -> tuple[str, str]:
    try:
        pixels = plan.decode(path, size)
    except ImageError as error:
        if error.path != path or not str(error).startswith(f"{path}: ") or not error.reason:
            return "failed", f"an error that does not name the file: {error!r}"
        return "refused", error.reason
    except BaseException as error:
        return "failed", f"raises {error!r}"
    if not isinstance(pixels, np.ndarray) or pixels.shape != (size, size, 3) or pixels.dtype != np.uint8:
        return "failed", f"gives {type(pixels)} {getattr(pixels, 'shape', '')}"
    return "decoded", ""


def _peak_megabytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage, which begins with the memory of the process that started this one.
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))[0]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; the exit code says whether a file failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, help="number of files; 10000 unless --minutes is given")
    parser.add_argument("--minutes", type=float, help="go on for so long instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--kinds", nargs="*", default=(), help="suffixes of the files to start from, such as jpg png")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, help="folder to write the files into")
    options = parser.parse_args(arguments)
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    numbers: Iterator[int] = count_from(options.first)
    if options.minutes is not None:
        end = time.monotonic() + 60 * options.minutes
        numbers = takewhile(lambda _: time.monotonic() < end, numbers)
    if options.count is not None or options.minutes is None:
        numbers = islice(numbers, options.count or 10_000)
    report = run(Plan(options.seed, tuple(options.kinds), keep=options.keep), numbers, options.workers)
    print(f"{report.files} files: {report.decoded} decoded, {report.refused.total()} refused, at most ", end="")
    print(f"{report.megabytes} MB above the start, {len(report.failures)} failures")
    for reason, times in report.refused.most_common(40):
        print(f"{times:8} {reason[:110]}")
    for failure in report.failures:
        print(failure)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
