"""In which order a comparison does its runs, and what it says of them before."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tailwise.cli import main
from tailwise.experiments import comparison
from tailwise.experiments.executors import Run
from tailwise.experiments.plan import in_rounds


class Stopped(Exception):  # noqa: N818
    """Ends a comparison where it would judge runs that have not been done."""


@pytest.fixture
def order(monkeypatch):
    """The runs that a comparison would do, in their order, by their names; it ends before it judges them."""
    found = {}

    def record(runs, **_):
        found.update({run.name: run for run in runs})
        yield from ()

    def stop(*_):
        raise Stopped

    monkeypatch.setattr(comparison, "execute", record)
    monkeypatch.setattr(comparison, "summarize", stop)
    return found


@pytest.fixture
def line(tmp_path):
    """A comparison of two methods, the longer one first."""
    (tmp_path / "long.yaml").write_text("options: {loss: bce, optim: {epochs: 90}}\nsearch: [{loss_options: {}}]\n")
    options = "--head.solver sgd --backbone test_resnet --no-pretrained --image-size 32 --seeds 2 --folds 2"
    return (
        f"compare digits --output {tmp_path / 'out'} --cache {tmp_path / 'cache'} {options} "
        f"--methods {tmp_path / 'long.yaml'},bce@uniform"
    ).split()


def test_short_runs_go_first_and_every_method_soon_has_a_result(line, order, capsys):
    """80 epochs of each image once are fewer steps than 90 class-aware ones, each of half as many draws at least."""
    with pytest.raises(Stopped):
        main(line)
    first, second = ("runs/{}/seed0", "folds/{}/fold0"), ("runs/{}/seed1", "folds/{}/fold1")
    assert list(order) == [name.format(method) for name in (*first, *second) for method in ("bce@uniform", "long")]
    said = capsys.readouterr().err
    assert "8 runs: 2 methods (long, bce@uniform), each with 2 seeds and 2 held-out folds\n" in said


def test_a_search_comes_before_all_else(line, order, capsys, monkeypatch):
    def stop(*_):
        raise Stopped

    monkeypatch.setattr("tailwise.experiments.plan._score", stop)
    with pytest.raises(Stopped):
        main([*line, "--search"])
    assert list(order) == [f"search/long/{index}/fold{fold}" for index in (0, 1) for fold in (0, 1)]
    assert "2 held-out folds; before that 4 runs to try options\n" in capsys.readouterr().err


def test_data_without_splits_are_divided_once_for_all_runs(line, order, capsys, tiny_labels, tmp_path):
    rows = pd.read_csv(tiny_labels, dtype=str).drop(columns="split")
    rows.to_csv(tmp_path / "unsplit.csv", index=False)
    for added in ([], ["--split-ratios", '{"train": 0.8, "test": 0.2}']):  # which is the same comparison
        with pytest.raises(Stopped):
            main([line[0], str(tmp_path / "unsplit.csv"), *line[2:], "--root", str(tiny_labels.parent), *added])
        assert len(order) == 8
        assert all(run.configure().split_ratios == {"train": 0.8, "test": 0.2} for run in order.values())
        assert ("unsplit.csv has no splits, and is divided" in capsys.readouterr().err) == (not added)


def test_rounds_take_one_of_each_as_long_as_there_are_any():
    runs = {name: Run(name, Path(), lambda: None) for name in ("a1", "a2", "a3", "b1", "c1", "c2")}
    groups = [[runs[name] for name in names] for names in (("a1", "a2", "a3"), ("b1",), ("c1", "c2"))]
    assert [run.name for run in in_rounds(groups)] == ["a1", "b1", "c1", "a2", "c2", "a3"]
