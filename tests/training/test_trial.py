"""What cannot be trained is refused in one line, before an image is decoded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tailwise.cli import main
from tailwise.errors import InputError
from tailwise.models.backbone import try_backbone
from tailwise.models.extractor import RECORD_FILE
from tailwise.models.model_config import ModelConfig
from tailwise.training import inputs
from tailwise.training.config import TrainConfig
from tailwise.training.folder import METRICS_FILE, checkpoint_path
from tailwise.training.run import evaluate, train

Tiny = Callable[..., TrainConfig]


def model(backbone: str = "test_resnet", **options: Any) -> dict[str, Any]:
    return {"model": ModelConfig(backbone, pretrained=False, **options)}


@pytest.mark.parametrize("mode", ["probe", "finetune"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (model("test_resnt"), r"no model 'test_resnt' \(did you mean 'test_resnet'"),
        (model(weights=Path("none.safetensors")), r"none.safetensors cannot be read: there is no such file"),
        (model(options={"in_chans": 1}), r"with --model.options \{'in_chans': 1\} cannot be made for images of 32"),
        (model(options={"output_stride": 3}), r"output_stride.*cannot be made"),
        (model(options={"foo": 3}), r"unexpected keyword argument 'foo'"),
        (model(options={"num_classes": 3}), r"'num_classes' is set by this program"),
        (model(options={"pretrained_strict": False}), r"'pretrained_strict' is set by this program"),
        (model(options={"global_pool": ""}), r"no 96 pooled features"),
        (model("vit_tiny_patch16_224"), r"images of 32 x 32 .*give --model.options '\{\"img_size\": 32\}'"),
        (model(neck="recipe", neck_width=10**9), r"the head needs \d+ GB .*lower model.neck_width \(1000000000\)"),
        (model(neck="recipe", neck_width=10**30), r"lower model.neck_width"),
        (model(head="gcn", label_width=10**12), r"model.label_width \(1000000000000\)"),
        ({"loss": "db-focl"}, r"--loss db-focl: unknown loss 'db-focl' \(did you mean 'db-focal'"),
        (
            {"sampler": "class-aware", "epoch_reduce": 1e9},
            r"an epoch of the class-aware sampler has 1 draw .*change --epoch-reduce",
        ),
        (
            {"sampler": "class-aware", "epoch_reduce": 1e-9},
            r"would have [\d,]+ draws, 100,000,000 are the most: change --epoch-reduce",
        ),
    ],
)
def test_it_is_said_before_images_are_decoded(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, mode: str, options: dict[str, Any], message: str
) -> None:
    def decoded(*_: Any, **__: Any) -> None:
        raise AssertionError("images are decoded")

    monkeypatch.setattr(inputs, "build_cache", decoded)
    config = tiny(mode=mode, **options)
    with pytest.raises(InputError, match=message) as refused:
        train(config)
    assert "\n" not in str(refused.value)
    assert not Path(config.output).exists()


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_images_are_too_few_for_a_class_aware_epoch(tiny: Tiny, labels: Path, count: int) -> None:
    table = pd.read_csv(labels)
    data = labels.parent / f"few{count}.csv"
    pd.concat([table[:count], table[46:]]).to_csv(data, index=False)
    with pytest.raises(InputError, match="training needs at least two" if count == 1 else "a step needs at least two"):
        train(tiny(data=str(data), mode="probe"))


def test_the_size_that_is_advised_works() -> None:
    assert try_backbone(ModelConfig("vit_tiny_patch16_224", options={"img_size": 32}), 32) == 192
    assert try_backbone(ModelConfig("resnet50.tv_in1k"), 224) == 2048


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {backbone: 'hf-hub:someone/model'}", "names the backbone 'hf-hub:someone/model'"),
        ("model: {backbone: 'hf_hub:someone/model'}", "names the backbone"),
        ("model: {backbone: 'local-dir:/somewhere'}", "names the backbone"),
        ("model: {options: {cache_dir: /somewhere}}", "names a folder for downloads"),
        ("model: {options: {checkpoint_path: /somewhere}}", "is set by this program"),
        ("model: {options: {pretrained_cfg_overlay: {file: /somewhere}}}", "is set by this program"),
        ("loss: evil.Loss", r"runs the code 'evil\.Loss'"),
        ("loss: 'evil:Loss'", "runs the code 'evil:Loss'"),
        ("loss: os.system", "runs the code"),
        ("loss: evil.Loss@uniform", "runs the code"),
        ("loss: !!python/object/apply:os.system ['touch ran']", "."),
        ("loss: !!python/name:os.system", "."),
        ("loss_options: {a: !!python/object/new:subprocess.Popen [[touch, ran]]}", "."),
        ("model: {class_path: evil.Loss, init_args: {}}", "."),
        ("augment: {class_path: evil.Loss}", "."),
    ],
)
def test_a_strangers_options_run_nothing_and_read_nothing(
    labels: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    Path("theirs.yaml").write_text(text + "\n")
    code = main(["train", "--config", "theirs.yaml", "--data", str(labels), "--output", "run"])
    error = capsys.readouterr().err
    assert code == 2
    assert re.search(rf"^error: .*{message}", error, re.MULTILINE), error
    assert "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.py", "theirs.yaml"]


def test_a_strangers_run_reads_no_hub_and_runs_no_loss(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(mode="probe", optim={"epochs": 1})
    train(config)
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    file = Path(config.output) / "config.yaml"
    text = file.read_text()
    file.write_text(text.replace("loss: db-focal", "loss: evil.Loss"))
    evaluate(Path(config.output))
    assert not Path("ran").exists()
    file.write_text(text.replace("backbone: test_resnet", "backbone: hf-hub:someone/model"))
    with pytest.raises(InputError, match=r"config\.yaml names the backbone 'hf-hub:someone/model'.*--trust"):
        evaluate(Path(config.output))


class Evil:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("resume", [False, True])
def test_a_strangers_checkpoint_runs_nothing(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    config = tiny(mode="probe", optim={"epochs": 1})
    train(config)
    monkeypatch.chdir(tmp_path)
    checkpoint = checkpoint_path(Path(config.output))
    state = torch.load(checkpoint, weights_only=True)
    torch.save(state | {"extra": Evil()}, checkpoint)
    if resume:
        (Path(config.output) / METRICS_FILE).unlink()
    with pytest.raises(InputError, match=r"last\.ckpt is damaged"):
        _ = train(replace(config, resume=True)) if resume else evaluate(Path(config.output))
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "change", [{"name": "local-dir:/somewhere"}, {"name": "hf-hub:someone/model"}, {"options": {"cache_dir": "/there"}}]
)
def test_a_strangers_record_of_a_backbone_names_no_source(tiny: Tiny, change: dict[str, Any]) -> None:
    config = tiny(mode="probe", optim={"epochs": 1})
    train(config)
    record = Path(config.output) / RECORD_FILE
    record.write_text(json.dumps(json.loads(record.read_text()) | change))
    with pytest.raises(InputError, match=r"backbone\.json is not a record of a backbone: it names a source of models"):
        evaluate(Path(config.output))


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        ("model: {backbone: 'hf-hub:someone/model'}", ["--model.options", "{pad_type: same}"], "names the backbone"),
        ("model: {options: {cache_dir: /there}}", ["--backbone", "test_resnet"], "names a folder for downloads"),
    ],
)
def test_an_option_of_the_command_line_vouches_for_no_other(
    labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, given: list[str], message: str
) -> None:
    (tmp_path / "theirs.yaml").write_text(text + "\n")
    line = [
        "train",
        "--config",
        str(tmp_path / "theirs.yaml"),
        "--data",
        str(labels),
        "--output",
        str(tmp_path / "run"),
    ]
    assert main([*line, *given]) == 2
    assert message in capsys.readouterr().err


def test_methods_of_a_strangers_file_run_nothing(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    for written in ("methods: [bce, evil.Loss]", "methods: bce,evil:Loss@uniform"):
        Path("theirs.yaml").write_text(written + "\n")
        assert main(["compare", str(labels), "--config", "theirs.yaml", "--output", "run"]) == 2
        assert "runs the code 'evil" in capsys.readouterr().err
    assert not Path("ran").exists()
