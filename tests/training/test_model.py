"""The model in the folder of a run: loading, predicting and evaluating, beside the files that the run has written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tailwise.data.dataset import Dataset
from tailwise.errors import InputError
from tailwise.model import Model
from tailwise.models.model_config import ModelConfig
from tailwise.training.config import OptimConfig, TrainConfig
from tailwise.training.folder import read_predictions
from tailwise.training.run import train

Tiny = Callable[..., TrainConfig]


@pytest.fixture(params=["finetune", "probe"])
def folder(request: pytest.FixtureRequest, tiny: Tiny) -> Path:
    """A finished run with thresholds and calibration."""
    config = tiny(mode=request.param, val_folds=3)
    train(config)
    return Path(config.output)


@pytest.fixture
def probed(tiny: Tiny) -> Path:
    """A finished run on frozen features, without validation images."""
    config = tiny(mode="probe")
    train(config)
    return Path(config.output)


def test_predictions_are_those_that_the_run_has_written(folder: Path, labels: Path) -> None:
    images, class_names, logits = read_predictions(folder / "predictions.parquet")
    model = Model(folder, accelerator="cpu")
    files = [labels.parent / image for image in images]
    np.testing.assert_allclose(model.logits(files, batch_size=7), logits, atol=1e-4, rtol=1e-4)

    table = model.predict(files)
    assert list(table.columns) == ["labels", *class_names]
    assert list(table.index) == [str(file) for file in files]
    decisions = model.decisions
    assert decisions is not None
    np.testing.assert_allclose(table[list(class_names)], decisions.calibrate(logits), atol=1e-4)
    above = logits >= decisions.thresholds
    sure = (np.abs(logits - decisions.thresholds) > 1e-3).all(axis=1)
    expected = [[name for name, is_there in zip(class_names, row, strict=True) if is_there] for row in above[sure]]
    assert table["labels"][sure].tolist() == expected


def test_files_pillow_images_and_pixels_are_the_same_input(probed: Path, labels: Path) -> None:
    model = Model(probed, accelerator="cpu")
    file = labels.parent / "images" / "3.jpg"
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    pixels = np.asarray(image)
    by_file = model.logits(str(file))
    assert by_file.shape == (1, 4)
    for inputs in (file, image, pixels, [file], np.stack([pixels, pixels])[:1]):
        np.testing.assert_array_equal(model.logits(inputs), by_file)
    assert list(model.predict([image, file]).index) == [0, str(file)]
    gray = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(model.logits(gray), model.logits(np.stack([gray] * 3, axis=2)))


def test_without_thresholds_a_class_is_predicted_from_one_half_on(probed: Path, labels: Path) -> None:
    model = Model(probed, accelerator="cpu")
    files = [labels.parent / "images" / f"{index}.jpg" for index in range(46)]
    table = model.predict(files)
    probabilities = table[list(model.class_names)]
    np.testing.assert_allclose(probabilities, torch.sigmoid(torch.from_numpy(model.logits(files)).double()))
    for names, (_, row) in zip(table["labels"], probabilities.iterrows(), strict=True):
        assert names == [name for name in model.class_names if row[name] >= 0.5]


def test_features_take_the_place_of_images(probed: Path, labels: Path) -> None:
    model = Model(probed, accelerator="cpu")
    files = [labels.parent / "images" / f"{index}.jpg" for index in range(9)]
    _, backbone = model._probe
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(file)).transpose(2, 0, 1)) for file in files])
    features = backbone.features(pixels, 32)
    np.testing.assert_allclose(model.logits(features), model.logits(files), atol=1e-4)
    pd.testing.assert_frame_equal(model.predict(features.numpy().astype(np.float64)), model.predict(features))
    with pytest.raises(InputError, match=rf"takes {features.shape[1]} features for each input, got 3"):
        model.predict(np.zeros((2, 3)))
    with pytest.raises(InputError, match="must be finite"):
        model.predict(torch.full_like(features, np.nan))


def test_no_input_is_an_empty_table(probed: Path) -> None:
    table = Model(probed, accelerator="cpu").predict([])
    assert table.shape == (0, 5)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["absent.jpg"], "absent.jpg: there is no such file"),
        ([np.zeros((4, 4, 2), np.uint8)], r"input 0 is not an image: pixels must be uint8 .* got uint8 of the shape"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), int)], "input 1 is not an image"),
        (np.zeros((2, 3, 4, 4)), "a matrix of floating-point numbers is taken for features"),
        (7, "expected an image, or a sequence of them, got int"),
    ],
)
def test_other_inputs_are_refused(probed: Path, inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Model(probed, accelerator="cpu").predict(inputs)


def test_evaluation_repeats_the_metrics_of_the_run(folder: Path) -> None:
    model = Model(folder, accelerator="cpu")
    assert model.evaluate().metrics["mAP"] == pytest.approx(model.metrics["mAP"])
    total = model.evaluate(model.config.data, split="train").metrics["num_images"]
    assert total == 46


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not the folder of a finished run"):
        Model(tmp_path)


def test_a_model_says_what_it_is(probed: Path) -> None:
    assert repr(Model(probed)).startswith("Model(db-focal on test_resnet, 4 classes, mAP ")


def test_a_run_on_given_features_is_a_model_of_features(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    targets = (generator.random((160, 4)) < (0.5, 0.4, 0.3, 0.2)).astype(int)
    features = targets @ generator.normal(size=(4, 9)) + 0.3 * generator.normal(size=(160, 9))
    Dataset.from_arrays(features, targets, splits=["train"] * 100 + ["test"] * 60).save(tmp_path / "data.npz")
    config = TrainConfig(
        data=str(tmp_path / "data.npz"),
        output=str(tmp_path / "run"),
        mode="probe",
        val_folds=2,
        quiet=True,
        optim=OptimConfig(warmup_steps=4, epochs=20),
    )
    result = train(config)
    assert result is not None
    assert result.metrics["mAP"]["total"] > 80
    model = Model(tmp_path / "run", accelerator="cpu")
    logits = read_predictions(tmp_path / "run" / "predictions.parquet")[2]
    np.testing.assert_allclose(model.logits(features[100:]), logits, atol=1e-4)
    assert model.evaluate().metrics["mAP"] == result.metrics["mAP"]
    with pytest.raises(InputError, match="the model has no backbone: it takes 9 features of each input, not images"):
        model.predict(np.zeros((8, 8, 3), np.uint8))
    images = tmp_path / "images.npz"
    Dataset.from_arrays(np.zeros((8, 3, 8, 8), np.uint8), targets[:8], splits=["test"] * 8).save(images)
    with pytest.raises(InputError, match="holds images, and the model takes features"):
        model.evaluate(str(images), split="test")
    with pytest.raises(InputError, match=r"data.npz holds features where images are needed"):
        train(replace(config, mode="finetune", output=str(tmp_path / "network"), model=ModelConfig(pretrained=False)))
