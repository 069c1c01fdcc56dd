"""What a cache folder holds, removing it, and the limit, while other processes make, use and lose entries."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pytest
from PIL import Image

from tailwise.cli import main
from tailwise.data.cache_folder import cache_limit, find_entries, make_room, remove, remove_leftovers
from tailwise.data.pixels import image_cache as cache_module
from tailwise.data.pixels.image_cache import ImageCache, build_cache
from tailwise.data.reading import ReadOptions, read
from tailwise.errors import InputError

SIDE = 10
BYTES = 4 * SIDE * SIDE * 3
"""Pixels of the caches here, which have four images each."""

USER = """
import sys
from pathlib import Path
from tailwise.data.pixels.image_cache import build_cache
source, folder = Path(sys.argv[1]), Path(sys.argv[2])
cache = build_cache(sorted(source.glob("*.png")), 10, folder / "images", progress=False)
print("open", flush=True)
sys.stdin.readline()
print(cache.damaged(), flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def pictures(folder: Path, shade: int) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{index}.png" for index in range(4)]
    for index, path in enumerate(paths):
        Image.new("L", (12, 12), shade + index).save(path)
    return paths


def build(paths: list[Path], folder: Path) -> ImageCache:
    return build_cache(paths, SIDE, folder / "images", workers=1, progress=False)


@pytest.fixture
def three(tmp_path: Path, folder: Path) -> list[Path]:
    """The folders of images of three caches that nobody uses, built an hour after each other."""
    sources = [tmp_path / name for name in ("first", "second", "third")]
    for hours, source in zip((3, 2, 1), sources, strict=True):
        cache = build(pictures(source, 20 * hours), folder)
        for path in (cache.path, cache.path.with_suffix(".json")):
            os.utime(path, (time.time() - 3600 * hours,) * 2)
    return sources


def listed(folder: Path) -> list[str]:
    """The folders of images of the entries, in their order."""
    return [Path(entry.describe().rpartition(" in ")[2]).name for entry in find_entries(folder)]


def use(source: Path, folder: Path) -> ImageCache:
    return build(sorted(source.glob("*.png")), folder)


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., list["subprocess.Popen[str]"]]]:
    """Starts a process for each folder of images, which opens its cache; all have done so."""
    started: list[subprocess.Popen[str]] = []

    def start_all(*sources: Path) -> list[subprocess.Popen[str]]:
        for source in sources:
            command = [sys.executable, "-c", USER, str(source), str(folder)]
            started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
        return started

    yield start_all
    for process in started:
        process.kill()
        process.communicate()


def test_entries_tell_their_size_and_what_they_are_of(three: list[Path], folder: Path) -> None:
    entries = find_entries(folder)
    assert listed(folder) == ["first", "second", "third"]
    assert entries[0].describe() == f"4 images of {SIDE} x {SIDE} pixels in {three[0]}"
    assert [entry.kind for entry in entries] == ["images"] * 3
    for entry in entries:
        header = entry.path.with_suffix(".json").stat().st_size
        assert entry.size == BYTES + header
    assert find_entries(folder / "nothing") == []


def test_an_entry_that_is_used_becomes_the_newest(three: list[Path], folder: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "images").iterdir()}
    use(three[0], folder)
    assert listed(folder) == ["second", "third", "first"]
    assert before == {path.name: path.stat().st_mtime_ns for path in (folder / "images").iterdir()}


def test_the_limit_removes_what_was_not_used_for_longest(
    three: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    total = sum(entry.size for entry in find_entries(folder))
    newest = find_entries(folder)[-1].path
    monkeypatch.setenv("TAILWISE_CACHE_LIMIT", repr(total / 1e9))
    make_room(folder, keep=newest)
    assert listed(folder) == ["first", "second", "third"]
    use(three[0], folder)
    monkeypatch.setenv("TAILWISE_CACHE_LIMIT", repr((total - 1) / 1e9))
    with caplog.at_level("INFO", logger="tailwise"):
        make_room(folder, keep=newest)
    assert listed(folder) == ["third", "first"]
    assert "removed 1 entries" in caplog.text
    monkeypatch.setenv("TAILWISE_CACHE_LIMIT", "0")
    make_room(folder, keep=newest)
    assert listed(folder) == ["third"]


@pytest.mark.parametrize(("given", "expected"), [("", 50e9), ("0", 0.0), ("1.5", 1.5e9), ("inf", float("inf"))])
def test_limits(monkeypatch: pytest.MonkeyPatch, given: str, expected: float) -> None:
    monkeypatch.setenv("TAILWISE_CACHE_LIMIT", given)
    assert cache_limit() == expected


@pytest.mark.parametrize("given", ["-1", "nan", "50 GB", "much"])
def test_limits_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("TAILWISE_CACHE_LIMIT", given)
    with pytest.raises(InputError, match=f"TAILWISE_CACHE_LIMIT must be a number of GB.*{given}"):
        cache_limit()


def test_what_this_process_uses_stays(three: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = use(three[0], folder)
    pickled_elsewhere = used.batch([0])
    monkeypatch.setenv("TAILWISE_CACHE_LIMIT", "0")
    make_room(folder, keep=Path())
    assert listed(folder) == ["first"]
    assert used.damaged() == []
    del used
    gc.collect()
    make_room(folder, keep=Path())
    assert listed(folder) == []
    assert len(pickled_elsewhere) == 1


def test_what_another_process_uses_stays_until_it_ends(
    three: list[Path], folder: Path, start: Callable[..., list[subprocess.Popen[str]]]
) -> None:
    kept, killed = start(three[0], three[1])
    for source in (three[0], three[1]):
        use(source, folder)  # their order
    gc.collect()
    assert [remove(entry) for entry in find_entries(folder)] == [True, False, False]
    killed.kill()
    killed.wait()
    assert listed(folder) == ["first", "second"]
    assert [remove(entry) for entry in find_entries(folder)] == [False, True]
    out, _ = kept.communicate("\n")
    assert out == "[]\n"
    assert [remove(entry) for entry in find_entries(folder)] == [True]
    assert all(path.suffix == ".lock" for path in (folder / "images").iterdir())


def test_a_removal_that_was_killed_halfway_is_ended_by_the_next(three: list[Path], folder: Path) -> None:
    entries = find_entries(folder)
    entries[0].note.unlink()
    assert len(use(three[0], folder)) == 4  # built again
    entries[1].note.unlink()
    halfway = next(entry for entry in find_entries(folder) if entry.path == entries[1].path)
    assert halfway.describe() == ""
    assert remove(halfway)
    assert listed(folder) == ["third", "first"]


def test_an_entry_removed_while_it_is_opened_is_built_again(
    three: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header has been read when another process removes it."""
    held = cache_module.hold

    def too_late(path: Path) -> int | None:
        if monkeypatch_is_on:
            monkeypatch_is_on.clear()
            assert remove(find_entries(folder)[0])
        return held(path)

    monkeypatch_is_on = [True]
    monkeypatch.setattr(cache_module, "hold", too_late)
    assert use(three[0], folder).damaged() == []
    assert listed(folder) == ["second", "third", "first"]


def test_files_of_others_are_no_entries(folder: Path) -> None:
    images = folder / "images"
    images.mkdir(parents=True)
    key = 64 * "a"
    others = [images / f"{key}.bin", images / f"{key}.json", images / "notes.txt", images / f".{key}.txt.x"]
    for path in others:
        path.write_text("{}")
    assert find_entries(folder) == []
    remove_leftovers(images)
    assert all(path.exists() for path in others)


def test_an_entry_that_may_not_be_removed_stays(as_nobody: Path) -> None:
    folder = as_nobody / "cache"
    cache = build(pictures(as_nobody / "images", 1), folder)
    path = cache.path
    del cache
    gc.collect()
    path.parent.chmod(0o500)
    (entry,) = find_entries(folder)
    assert not remove(entry)
    assert len(build(sorted((as_nobody / "images").glob("*.png")), folder)) == 4
    path.parent.chmod(0o700)
    assert remove(entry)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    features = datasets.Features({"image": datasets.Image(), "labels": datasets.List(datasets.Value("string"))})
    cells = [{"bytes": path.read_bytes(), "path": None} for path in pictures(tmp_path / "pictures", 5)]
    data = datasets.Dataset.from_dict({"image": cells, "labels": [["a"], ["b"], ["a"], []]}, features=features)
    data.save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_images_of_a_hub_are_an_entry_that_stays_while_its_reader_lives(
    saved: Path, three: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILWISE_CACHE_LIMIT", "0")
    script = (
        "from tailwise.data.reading import ReadOptions, read\n"
        f"read({str(saved)!r}, ReadOptions(cache={str(folder)!r}))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    (entry,) = find_entries(folder)  # the limit has removed the others
    assert (entry.kind, entry.describe()) == ("hub", f"images of {saved}")
    assert entry.size == sum(path.stat().st_size for path in entry.path.rglob("*") if path.is_file())
    assert remove(entry)
    assert not entry.path.exists()
    data = read(saved, ReadOptions(cache=str(folder)))
    assert not remove(find_entries(folder)[0])
    assert all(path.is_file() for path in data.paths())


def test_the_command_lists_and_clears(
    three: list[Path], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TAILWISE_CACHE", str(folder))
    leftover = folder / "features" / f".{64 * 'b'}.npy.writing.npy"
    leftover.parent.mkdir()
    leftover.write_bytes(b"half")
    assert main(["cache", "list"]) == 0
    out = capsys.readouterr().out
    assert [line.split("in ")[1].split()[0] for line in out.splitlines() if "images of" in line] == [*map(str, three)]
    assert f"{folder}: 3 entries, 0.00 GB of at most 50 GB" in out
    hours = 1.5 / 24
    assert main(["cache", "clear", "--older-than", str(hours)]) == 0
    assert "removed 2 of 3 entries" in capsys.readouterr().err
    assert listed(folder) == ["third"]
    assert not leftover.exists()
    used = use(three[2], folder)
    assert main(["cache", "clear", "--all", "true"]) == 0
    assert "1 entries are in use" in capsys.readouterr().err
    assert used.damaged() == []
    del used
    gc.collect()
    assert main(["cache", "clear", "--all", "true", "--cache", str(folder)]) == 0
    assert main(["cache", "list"]) == 0
    assert "0 entries" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("clear", "needs either --older-than DAYS or --all"),
        ("clear --all --older-than 3", "needs either --older-than DAYS or --all"),
        ("clear --older-than -1", "--older-than must be at least 0, got -1"),
        ("clear --older-than .nan", "--older-than must be a finite number or null, got nan"),
        ("list --all", "are for tailwise cache clear"),
        ("list --cache /nowhere", "there is no such folder"),
        ("prune", "list"),
    ],
)
def test_senseless_cache_commands_are_refused(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", *line.split()]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
