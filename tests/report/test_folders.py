"""Reading folders of runs and comparisons, and the command lines that repeat them."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from tailwise.command_line import add_options, canonical, from_namespace
from tailwise.errors import InputError
from tailwise.experiments.methods import METHODS, find_methods
from tailwise.experiments.plan import candidates
from tailwise.models.model_config import ModelConfig
from tailwise.report.folders import read_results
from tailwise.report.results_tables import method_table
from tailwise.report.summary import commands, train_command
from tailwise.training.config import OptimConfig, TrainConfig, load
from tailwise.training.resolution import resolve
from tests.report.folders import make_comparison, make_data, make_logits, make_run


@pytest.fixture
def comparison(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path / "a comparison"
    folder.mkdir()
    return folder, make_comparison(folder, make_data(tmp_path), {"bce": 0.6, "db-focal": 0.9, "pg": 1.2})


def test_folders_are_told_apart(comparison: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder = comparison[0]
    assert read_results(folder).command == "compare"
    run = folder / "runs" / "bce" / "seed0"
    assert read_results(run).command == "train"
    (run / "metrics.json").unlink()
    with pytest.raises(InputError, match="its run is not finished"):
        read_results(run)
    with pytest.raises(InputError, match=r"has nothing to report: there is no results\.json in it"):
        read_results(tmp_path)
    with pytest.raises(InputError, match=r"there is no folder .*nowhere"):
        read_results(tmp_path / "nowhere")


def test_important_methods_come_first(comparison: tuple[Path, dict[str, Any]]) -> None:
    folder, written = comparison
    found = read_results(folder)
    assert [method.name for method in found.scored] == ["pg", "bce", "db-focal"]
    written["recommendation"]["methods"] = ["db-focal", "bce", "pg"]
    (folder / "results.json").write_text(json.dumps(written), encoding="utf-8")
    assert [method.name for method in read_results(folder).scored] == ["db-focal", "pg", "bce"]
    assert [method.name for method in found.methods] == ["bce", "db-focal", "pg", "apaf"]
    assert str(found.methods[3].failed) == "runs/apaf/seed1: the loss is <no number>: lower optim.lr"
    assert found.methods[0].seconds == 2.0
    assert found.methods[3].seconds is None
    assert found.stats.groups["tail"].tolist() == written["data"]["groups"]["tail"]
    (folder / "runs" / "pg" / "seed0" / "metrics.json").unlink()
    assert read_results(folder).methods[2].folders == (folder / "runs" / "pg" / "seed1",)


def test_what_is_best_on_the_test_is_not_what_is_recommended(
    comparison: tuple[Path, dict[str, Any]],
) -> None:
    folder, results = comparison
    assert results["best"]["test"] == "pg"
    for methods, roles in (
        (
            ["db-focal", "bce"],
            {"pg": "best on test", "db-focal": "recommended", "bce": "statistically tied · baseline"},
        ),
        (["bce"], {"pg": "best on test", "db-focal": "", "bce": "recommended · baseline"}),
        (
            ["bce", "pg"],
            {"pg": "statistically tied · best on test", "db-focal": "", "bce": "recommended · baseline"},
        ),
        ([], {"pg": "best on test", "db-focal": "", "bce": "baseline"}),
    ):
        results["recommendation"]["methods"] = methods
        (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
        table = method_table(read_results(folder))
        assert {row[0][0]: row[0][1] for row in table.rows} == {**roles, "apaf": ""}
        assert ("Statistically tied" in table.note) == (len(methods) > 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.update(format="other"), 'its "format" is not "tailwise-comparison-1"'),
        (
            lambda found: found.pop("seeds"),
            "is not as a comparison writes it: there is no 'seeds' in it",
        ),
        (lambda found: found["methods"][0]["test"]["AP"].pop(), "'bce' has scores of other than 7 classes"),
        (lambda found: found["data"]["groups"].pop("tail"), "is not as a comparison writes it"),
    ],
)
def test_results_of_another_form_are_refused(
    comparison: tuple[Path, dict[str, Any]], change: Any, message: str
) -> None:
    folder, found = comparison
    change(found)
    (folder / "results.json").write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_results(folder)


def test_files_that_are_no_json_are_refused(comparison: tuple[Path, dict[str, Any]]) -> None:
    folder = comparison[0]
    for content, message in ((b"\xff", "cannot be read"), (b"{", "cannot be read"), (b"[]", "holds no JSON object")):
        (folder / "results.json").write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_results(folder)
    run = folder / "runs" / "bce" / "seed0"
    (run / "stats.json").write_text("{}")
    with pytest.raises(InputError, match="is not as training leaves a run"):
        read_results(run)


def test_command_lines_repeat_the_runs(comparison: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, found = comparison
    found["shared"] |= {"recipe": "voc-mlt", "batch_size": 16, "optim": {"lr": 0.1}, "model": {"options": {"a": "b"}}}
    (folder / "results.json").write_text(json.dumps(found), encoding="utf-8")
    lines = {fact.name: shlex.split(fact.value) for fact in commands(read_results(folder))}
    config = folder / "runs" / "pg" / "seed0" / "config.yaml"
    assert lines["Repeat the first run of pg"] == ["tailwise", "train", "--config", str(config), "--output", "again"]
    assert configured(shlex.join(lines["Train pg as it was here"])) == replace(
        resolve(load(config)), output=str(Path("pg").absolute())
    )
    assert lines["Write this page again"] == ["tailwise", "report", str(folder)]
    again = lines["Repeat the comparison"]
    assert again[:5] == ["tailwise", "compare", str(tmp_path / "labels.jsonl"), "--output", "again"]
    given = dict(zip(again[5::2], again[6::2], strict=True))
    expected = {
        **{"--methods": "bce,db-focal,pg,apaf", "--baseline": "bce", "--seeds": "2", "--folds": "3"},
        **{"--level": "0.95", "--replicates": "50", "--mode": "probe", "--recipe": "voc-mlt"},
        **{"--thresholds": "[8, 30]", "--batch-size": "16", "--lr": "0.1"},
        **{"--model.options.a": "b", "--classes": str(tmp_path / "classes.json")},
    }
    assert given == expected
    # What goes on to the runs is read as it was.
    parser = ArgumentParser(exit_on_error=False)
    add_options(parser, TrainConfig)
    own = ("--methods", "--baseline", "--seeds", "--folds", "--level", "--replicates")
    shared = [word for name, value in given.items() if name not in own for word in (name, value)]
    parsed = parser.parse_args(canonical(["--data", "x", "--output", "y", *shared], TrainConfig))
    assert (parsed.thresholds, parsed.batch_size, parsed.optim.lr) == ((8, 30), 16, 0.1)
    assert parsed.model.options == {"a": "b"}
    assert parsed.recipe == "voc-mlt"


def test_a_comparison_of_methods_without_a_common_name_has_no_command_line(
    comparison: tuple[Path, dict[str, Any]],
) -> None:
    folder, found = comparison
    found["methods"][-1]["name"] = "of a file"
    (folder / "results.json").write_text(json.dumps(found), encoding="utf-8")
    names = [fact.name for fact in commands(read_results(folder))]
    assert "Repeat the comparison" not in names
    assert "Repeat the first run of pg" in names


def configured(line: str) -> TrainConfig:
    """The configuration that a command line of ``tailwise train`` has."""
    words = shlex.split(line)
    assert words[:2] == ["tailwise", "train"]
    parser = ArgumentParser(exit_on_error=False)
    add_options(parser, TrainConfig)
    return resolve(from_namespace(TrainConfig, parser.parse_args(canonical(words[2:], TrainConfig))))


@pytest.mark.parametrize("name", [*METHODS, "pg@repeat-factor", "ml-gcn@uniform"])
def test_the_command_line_of_a_run_has_its_configuration(tmp_path: Path, name: str) -> None:
    shared = TrainConfig(
        data=str(tmp_path / "labels of mine.csv"),
        output="runs",
        recipe="voc-mlt",
        mode="probe",
        classes="classes.json",
        split_ratios={"my-train": 0.5, "my test": 0.5},
        split_seed=3,
        train_split="my-train",
        test_split="my test",
        thresholds=(10, 30),
        accelerator="cpu",
        optim=OptimConfig(epochs=3, clip_norm=None),
        model=ModelConfig(backbone="test_resnet", options={"pad_type": "same"}, weights=Path("a b.safetensors")),
    )
    (method,) = find_methods([name])
    for candidate in (method, candidates(method)[-1]):
        config = resolve(candidate.configure(shared, 2))
        line = train_command(config, "again")
        assert configured(line) == replace(config, output=str(Path("again").absolute()), keep_backbone=True)
        assert "--sampler" not in line
    if set(method.options) <= {"loss", "sampler"}:
        # Uniform sampling is the default of solved heads.
        assert f"--loss {name.removesuffix('@uniform')} " in line


def test_a_probe_is_offered_to_be_finetuned(tmp_path: Path) -> None:
    data = make_data(tmp_path)
    make_run(tmp_path / "run", data, make_logits(data, 1.0, 0))
    lines = {fact.name: fact.value for fact in commands(read_results(tmp_path / "run"))}
    assert "--mode finetune" in lines["Train the whole network as in this run"]
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("mode: probe", "mode: finetune"))
    assert load(config).mode == "finetune"
    assert not any("whole network" in fact.name for fact in commands(read_results(tmp_path / "run")))
