"""``tailwise build voc-mlt`` and ``coco-mlt`` from a server on this machine, and training on what they leave."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tailwise.cli import main
from tailwise.data.benchmarks import BENCHMARKS, LongTailBenchmark
from tests.data.benchmarks import tiny
from tests.data.file_server import FileServer
from tests.formats import read_csv

MAKERS = {"voc-mlt": tiny.voc, "coco-mlt": tiny.coco}
ORDERS = {"voc-mlt": tiny.CLASSES, "coco-mlt": tiny.BY_ID}


@pytest.fixture(params=list(MAKERS))
def name(request: pytest.FixtureRequest, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A benchmark that is served from this machine under the name of the published one."""
    benchmark: LongTailBenchmark = MAKERS[request.param](server)
    monkeypatch.setitem(BENCHMARKS, request.param, benchmark)
    return str(request.param)


@pytest.fixture
def tailwise(capsys: pytest.CaptureFixture[str]) -> Callable[[str], tuple[int, str]]:
    """Runs a command line: (exit code, standard error)."""

    def run(line: str) -> tuple[int, str]:
        code = main(shlex.split(line))
        return code, capsys.readouterr().err

    return run


def test_what_is_built_can_be_trained_on(
    name: str, tailwise: Callable[[str], tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, err = tailwise(f"build {name} --root images")
    assert code == 0, err
    data = read_csv(f"{name}.csv", classes=f"{name}.json", root="images")
    assert data.class_names == ORDERS[name]
    assert all(path.is_file() for path in data.paths())
    recorded = json.loads(Path(f"{name}.json").read_text())
    train = data.select("train")
    assert (train.targets == 1).sum(axis=0).tolist() == recorded["class_counts"]
    assert (len(train), len(data.select("test"))) == (3, 3)
    advice = re.search(r"train with (.*)", err)
    assert advice is not None
    code, err = tailwise(
        f"train {advice.group(1)} --output run --mode probe --loss bce --image-size 32 --batch-size 2 "
        "--sampler uniform --backbone test_resnet --no-pretrained --epochs 1 --accelerator cpu "
        "--cache cache --quiet"
    )
    assert code == 0, err
    assert np.isfinite(json.loads(Path("run/metrics.json").read_text())["mAP"]["total"])
    assert tailwise(f"build {name} --root images")[0] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "--root is needed"),
        ("--root images --num-max 5", "--num-max does not apply to .*: .* is a published choice of images"),
        ("--root images --keep-split test", "--keep-split does not apply"),
        ("--root images --no-download", "is missing.*nothing may be downloaded"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    name: str,
    tailwise: Callable[[str], tuple[int, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, err = tailwise(f"build {name} {options}")
    assert code == 2
    assert re.search(message, " ".join(err.split()))
    assert not list(tmp_path.glob("*.csv"))


def test_lists_are_for_benchmarks(tailwise: Callable[[str], tuple[int, str]], tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,labels\na.jpg,cat\n")
    code, err = tailwise(f"build {tmp_path}/labels.csv --output {tmp_path}/out.csv --lists x")
    assert code == 2
    assert "--lists does not apply" in err
