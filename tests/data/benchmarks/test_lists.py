"""Lists of image ids: by content, from copies of the authors' repository, and not those of another split."""

from __future__ import annotations

import logging
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailwise.data.benchmarks import LongTailBenchmark
from tailwise.data.benchmarks.lists import read_image_ids
from tailwise.errors import InputError
from tests.data.benchmarks.tiny import VOC_LIST, build, voc
from tests.data.file_server import FileServer


@pytest.fixture
def tiny(server: FileServer) -> LongTailBenchmark:
    return voc(server)


def repository(folder: Path, server: FileServer) -> Path:
    """A copy of the authors' repository."""
    place = folder / "appendix/longtail2012"
    place.mkdir(parents=True)
    (place / "img_id.txt").write_bytes(server.files["/authors/appendix/longtail2012/img_id.txt"])
    return folder


@pytest.mark.parametrize("given", [".", "appendix", "appendix/longtail2012", "appendix/longtail2012/img_id.txt"])
def test_lists_may_come_from_a_copy(tiny: LongTailBenchmark, server: FileServer, tmp_path: Path, given: str) -> None:
    copy = repository(tmp_path / "copy", server)
    assert len(build(tiny, tmp_path / "data", lists=copy / given).train) == 3
    assert all(path.startswith("/voc/") for path, _ in server.requests)


def test_lists_with_windows_line_ends_are_the_same(
    tiny: LongTailBenchmark, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "img_id.txt").write_bytes("\r\n".join([*VOC_LIST, "", ""]).encode())
    with caplog.at_level(logging.INFO):
        build(tiny, tmp_path / "data", lists=tmp_path)
    assert "is not byte for byte the published list" in caplog.text


def test_lists_of_other_splits_are_refused(tiny: LongTailBenchmark, server: FileServer, tmp_path: Path) -> None:
    copy = repository(tmp_path / "copy", server)
    stray = copy / "appendix/longtail2012img_id.txt"
    stray.write_text("2008_000002\n")
    with pytest.raises(InputError, match=r"longtail2012img_id.txt belongs to another split than the published one"):
        build(tiny, tmp_path / "data", lists=stray)
    (copy / "appendix/longtail2012/img_id.txt").write_text("2008_000002\n2008_000003\n")
    with pytest.raises(InputError, match="lists 2 images where tiny-voc has 3 for training"):
        build(tiny, tmp_path / "data", lists=copy)
    (copy / "appendix/longtail2012/img_id.txt").write_text("2008_000002\n2008_000003\n2008_000004\n")
    with pytest.raises(InputError, match=r"(?s)dog +1 +0.*person +3 +2"):
        build(tiny, tmp_path / "data", lists=copy)
    with pytest.raises(InputError, match=r"no img_id.txt is there; give the list, or its folder, or a copy"):
        build(tiny, tmp_path / "data", lists=tmp_path / "nothing")


COUNTS = {"class_freq": np.array([0, 1, 3]), "neg_class_freq": np.array([3, 2, 0])}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("class_freq.pkl", COUNTS, "class_freq.pkl agrees with the published numbers"),
        ("class_freq.pkl", {"class_freq": [0.0, 1.0, 3.0]}, "class_freq.pkl agrees"),
        ("class_freq.pkl", {"class_freq": np.array([1, 2])}, "class_freq.pkl is not compared"),
        ("class_freq.pkl", [1, 2, 3], "class_freq.pkl is not compared"),
        ("class_freq.pkl", {"counts": 3}, "class_freq.pkl is not compared"),
        (
            "class_freq.pkl",
            {"class_freq": np.array([0, 1, 3], dtype=object)},
            "class_freq.pkl is not compared .*refused",
        ),
        ("class_split.pkl", {"head": set(), "middle": set(), "tail": {0, 1, 2}}, "class_split.pkl agrees"),
        ("class_split.pkl", {"head": [], "medium": (), "tail": np.arange(3)}, "class_split.pkl agrees"),
        ("class_split.pkl", {"head": [], "tail": [0, 1, 2]}, "class_split.pkl is not compared"),
        ("class_split.pkl", {"head": [], "middle": [], "tail": ["cat"]}, "class_split.pkl is not compared"),
        ("class_split.pkl", [[], [], [0, 1, 2]], "class_split.pkl is not compared"),
    ],
)
def test_pickles_beside_a_list_are_compared_if_they_are_understood(
    tiny: LongTailBenchmark,
    server: FileServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    content: Any,
    message: str,
) -> None:
    copy = repository(tmp_path / "copy", server)
    (copy / "appendix/longtail2012" / name).write_bytes(pickle.dumps(content))
    with caplog.at_level(logging.INFO):
        build(tiny, tmp_path / "data", lists=copy)
    assert re.search(message.replace("compared ", "compared.*"), caplog.text)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("class_freq.pkl", {"class_freq": np.array([0, 5, 3])}, r"(?s)class_freq.pkl is not that of .*dog +1 +5"),
        (
            "class_split.pkl",
            {"head": {2}, "middle": set(), "tail": {0, 1}},
            r"the group head differs by the classes \[2\]",
        ),
    ],
)
def test_pickles_of_another_split_are_refused(
    tiny: LongTailBenchmark, server: FileServer, tmp_path: Path, name: str, content: Any, message: str
) -> None:
    copy = repository(tmp_path / "copy", server)
    (copy / "appendix/longtail2012" / name).write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=message):
        build(tiny, tmp_path / "data", lists=copy)
    # A stray file with the same end of its name is not looked at.
    shutil.move(copy / "appendix/longtail2012" / name, copy / f"appendix/longtail2012{name}")
    build(tiny, tmp_path / "data", lists=copy)


@pytest.mark.parametrize(
    "content",
    [
        b"12\n7\n9\n",
        b"\xef\xbb\xbf12\r\n7\r\n\r\n9",
        pickle.dumps(["12", "7", "9"]),
        pickle.dumps([12, 7, 9], protocol=0),
        pickle.dumps(np.array([12, 7, 9]), protocol=2),
        pickle.dumps(np.array(["12", "7", "9"])),
        pickle.dumps((np.int64(12), 7, "9"), protocol=3),
    ],
)
def test_ids_by_content(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "img_id.pkl").write_bytes(content)
    assert read_image_ids(tmp_path / "img_id.pkl") == ["12", "7", "9"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"12\n../7\n", "line 2 is no image id"),
        (b"12\n7\n12\n", "image '12' stands more than once"),
        (pickle.dumps([12, 12]), "image '12' stands more than once"),
        (pickle.dumps({"ids": [1]}), "it holds no list but dict"),
        (pickle.dumps([]), "it holds no list"),
        (pickle.dumps([1.5]), "it holds something else than image ids"),
        (pickle.dumps(["../7"]), "it holds something else than image ids"),
        (b"cos\nsystem\n(S'true'\ntR.", "refused, it names os.system"),
        (b"<html>404</html>\n", "line 1 is no image id; nor is it a list in a pickle"),
    ],
)
def test_what_is_no_list_of_ids(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "img_id.pkl").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_image_ids(tmp_path / "img_id.pkl")
    assert str(tmp_path / "img_id.pkl") in str(caught.value)
