"""Lists of image ids: by content, from copies of the authors' repository, and not those of another split."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pytest

from tailwise.data.benchmarks import LongTailBenchmark
from tailwise.data.benchmarks.benchmark import read_image_ids
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


@pytest.mark.parametrize("content", [b"12\n7\n9\n", b"\xef\xbb\xbf12\r\n7\r\n\r\n9"])
def test_ids_by_content(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "img_id.pkl").write_bytes(content)
    assert read_image_ids(tmp_path / "img_id.pkl") == ["12", "7", "9"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"12\n../7\n", "line 2 is no image id"),
        (b"12\n7\n12\n", "image '12' is listed more than once"),
        (b"cos\nsystem\n(S'true'\ntR.", "line 3 is no image id"),
        (pickle.dumps(["12", "7"]), "is not UTF-8 text"),
        (pickle.dumps([12, 7], protocol=0), "line 1 is no image id"),
        (b"<html>404</html>\n", "line 1 is no image id; give a text with one id per line"),
    ],
)
def test_what_is_no_list_of_ids(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "img_id.pkl").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_image_ids(tmp_path / "img_id.pkl")
    assert str(tmp_path / "img_id.pkl") in str(caught.value)
