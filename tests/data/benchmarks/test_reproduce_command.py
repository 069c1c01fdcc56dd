"""``tailwise reproduce voc-mlt`` and ``coco-mlt`` on benchmarks of the same make, served from this machine."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tailwise.cli import main
from tailwise.data.benchmarks import BENCHMARKS, LongTailBenchmark, read_pool
from tailwise.errors import InputError
from tailwise.experiments.published import GROUPS, published_table
from tailwise.training.config import load
from tests.data.benchmarks import tiny
from tests.data.file_server import FileServer

# All images of the pool are for training: with fewer, an epoch of the class-aware sampler has no batch.
IDS = {"voc-mlt": list(tiny.VOC_TRAIN), "coco-mlt": tiny.COCO_TRAIN}
POOLS = {
    # cat, dog, person
    "voc-mlt": [[0, 1, 1], [1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 1, 0]],
    # person, cat, dog in images 9, 25, 30, 34 and 36; a box of half a pixel is none
    "coco-mlt": [[1, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]],
}
FAST = (
    "--seeds 1 --epochs 1 --image-size 32 --batch-size 2 --backbone test_resnet --no-pretrained "
    "--accelerator cpu --cache cache --quiet --figure-formats [png]"
)


@pytest.fixture(params=list(POOLS))
def name(request: pytest.FixtureRequest, server: FileServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A benchmark that is served from this machine under the name of the published one, in a folder of its own."""
    name = str(request.param)
    monkeypatch.setattr(tiny, "VOC_LIST", IDS["voc-mlt"])
    monkeypatch.setattr(tiny, "COCO_LIST", IDS["coco-mlt"])
    benchmark: LongTailBenchmark = {"voc-mlt": tiny.voc, "coco-mlt": tiny.coco}[name](server)
    counts = tuple(sum(column) for column in zip(*POOLS[name], strict=True))
    monkeypatch.setitem(
        BENCHMARKS, name, replace(benchmark, facts=replace(benchmark.facts, class_counts=counts, num_train=5))
    )
    monkeypatch.chdir(tmp_path)
    return name


@pytest.fixture
def tailwise(capsys: pytest.CaptureFixture[str]) -> Callable[[str], tuple[int, str, str]]:
    """Runs a command line: (exit code, standard output, standard error)."""

    def run(line: str) -> tuple[int, str, str]:
        code = main(shlex.split(line))
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_published_numbers_stand_beside_ours(name: str, tailwise: Callable[[str], tuple[int, str, str]]) -> None:
    code, out, err = tailwise(f"reproduce {name} --root images --table 3 {FAST}")
    assert code == 0, err
    folder = Path(f"reproduce-{name}")
    with (folder / "table3.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    published = published_table(name, 3)  # type: ignore[arg-type]
    for row, written in zip(published.rows, rows, strict=True):
        found = json.loads((folder / f"runs/{row.method.name}/seed0/metrics.json").read_text())
        for group in GROUPS:
            ours, theirs = found["mAP"][group], row.published(group)
            expected = (ours, theirs, None if ours is None or theirs is None else ours - theirs)
            for kind, value in zip(("mean", "published", "difference"), expected, strict=True):
                cell = written[f"{group}_{kind}"]
                assert cell == "" if value is None else float(cell) == pytest.approx(value, abs=1e-4)
    assert "Published: Lin, AAAI 2023, Table 3" in out
    assert "epochs 1 with class-aware" in out
    config = load(folder / "runs/pr/seed0/config.yaml")
    assert (config.mode, config.recipe, config.loss, config.optim.warmup_ratio) == ("finetune", name, "pr", 0.5)
    assert config.optim.lr == {"voc-mlt": 8e-3, "coco-mlt": 1e-2}[name]
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/metrics.json")}
    again, _, err = tailwise(f"reproduce {name} --root images --figure pg-3 {FAST} --no-download")
    assert again == 0, err
    assert {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/metrics.json")} == finished
    assert len(finished) == 4
    assert (folder / "pg-3.png").is_file()


def test_the_construction_starts_from_all_images(name: str, tailwise: Callable[[str], tuple[int, str, str]]) -> None:
    code, _, err = tailwise(f"reproduce {name} --root images --figure db-1b {FAST}")
    assert code == 0, err
    assert Path(f"reproduce-{name}/db-1b.png").is_file()
    pool = read_pool(BENCHMARKS[name], "images", download=False)
    assert pool.class_names == {"voc-mlt": tiny.CLASSES, "coco-mlt": tiny.BY_ID}[name]
    assert pool.targets.tolist() == POOLS[name]
    assert not Path(f"reproduce-{name}/runs").exists()


def test_a_pool_that_is_nowhere_is_an_error(name: str) -> None:
    with pytest.raises(InputError, match="nothing may be downloaded"):
        read_pool(BENCHMARKS[name], "elsewhere", download=False)
