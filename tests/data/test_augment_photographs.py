"""Augmentation of real photographs, stage by stage and whole, against a reference that treats one image at a time."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from tailwise.data.pixels import augment as augment_module
from tailwise.data.pixels.augment import Augmentation, Draws
from tailwise.data.pixels.decode import decode_image
from tests.data.test_augment import IMAGENET, drawn, in_hsv, naive_chain, only, run

SIDE, SIZE = 80, 64
TOLERANCE = 0.02  # of 255
NORMALISED_TOLERANCE = TOLERANCE / 255 / min(IMAGENET["std"])


@pytest.fixture(scope="module")
def images(photos: Path) -> Tensor:
    with photos.open(newline="") as file:
        names = [row["image"] for row in csv.DictReader(file) if row["split"] == "train_lt"][:24]
    return torch.from_numpy(np.stack([decode_image(photos.parent / name, SIDE) for name in names])).permute(0, 3, 1, 2)


def compare(images: Tensor, chosen: Augmentation, expected: Callable[[Tensor, Draws, int], Tensor]) -> None:
    """``expected`` makes of image ``i``, in 0-1, what it should become, given the draws."""
    result, draws = run(images, SIDE, chosen), drawn(images, chosen)
    unchanged = [torch.allclose(one, image.float(), atol=1) for one, image in zip(result, images, strict=True)]
    assert 0 < sum(unchanged) < len(images)
    for i, image in enumerate(images):
        torch.testing.assert_close(result[i], 255 * expected(image / 255, draws, i), atol=TOLERANCE, rtol=0)


def on_whole_pixels(draws: Draws) -> Draws:
    """The same draws with crops that torchvision can make."""
    edges = {name: (getattr(draws, name) * SIDE).floor() / SIDE for name in ("left", "top", "width", "height")}
    return replace(draws, **edges)


def cropped(image: Tensor, draws: Draws, i: int) -> Tensor:
    box = [round(SIDE * getattr(draws, name)[i].item()) for name in ("top", "left", "height", "width")]
    return vision.resized_crop(image, *box, size=[SIZE, SIZE], antialias=False)


class TestStages:
    def test_brightness_as_pillow_adds(self, images):
        def expected(image: Tensor, draws: Draws, i: int) -> Tensor:
            offset = draws.offset[i].item() / 255
            planes = [Image.fromarray(plane).point(lambda value: value * 1 + offset) for plane in image.numpy()]
            return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes])).clamp(0, 1)

        compare(images, only(brightness=32.0), expected)

    def test_contrast_as_torchvision_multiplies(self, images):
        def expected(image: Tensor, draws: Draws, i: int) -> Tensor:
            return vision.adjust_brightness(image, (draws.gain_before[i] * draws.gain_after[i]).item())

        compare(images, only(contrast=(0.5, 1.5)), expected)

    def test_saturation_as_colorsys(self, images):
        def expected(image: Tensor, draws: Draws, i: int) -> Tensor:
            factor = draws.saturation[i].item()
            return torch.from_numpy(in_hsv(255 * image.double().numpy(), saturation=factor) / 255).float()

        compare(images, only(saturation=(0.5, 1.5)), expected)

    def test_hue_as_torchvision(self, images):
        compare(images, only(hue=18.0), lambda image, draws, i: vision.adjust_hue(image, draws.hue[i].item() / 360))

    def test_channel_order_as_torchvision(self, images):
        def expected(image: Tensor, draws: Draws, i: int) -> Tensor:
            return vision.permute_channels(image, draws.channels[i].tolist())

        compare(images, only(swap_channels=True), expected)

    def test_flip_as_torchvision(self, images):
        def expected(image: Tensor, draws: Draws, i: int) -> Tensor:
            return vision.horizontal_flip(image) if draws.mirrored[i] else image

        compare(images, only(flip=0.5), expected)

    def test_crop_and_squash_as_torchvision(self, images, monkeypatch):
        draws = on_whole_pixels(drawn(images, only(min_crop=0.8)))
        monkeypatch.setattr(augment_module, "draw", lambda *_: draws)
        result = run(images, SIZE, only(min_crop=0.8))
        for i, image in enumerate(images):
            torch.testing.assert_close(result[i], cropped(image.float(), draws, i), atol=TOLERANCE, rtol=0)

    def test_normalisation_as_torchvision(self, images):
        expected = vision.normalize(images / 255, list(IMAGENET["mean"]), list(IMAGENET["std"]))
        result = run(images, SIDE, only(), **IMAGENET)
        torch.testing.assert_close(result, expected, atol=NORMALISED_TOLERANCE, rtol=0)


class TestWholeChain:
    def test_as_numpy_colorsys_and_scipy(self, images):
        result, draws = run(images, SIZE, Augmentation(), **IMAGENET), drawn(images, Augmentation())
        for i, image in enumerate(images.double().numpy()):
            expected = naive_chain(image, SIZE, draws, i)
            np.testing.assert_allclose(result[i].numpy(), expected, atol=NORMALISED_TOLERANCE)

    def test_as_torchvision(self, images, monkeypatch):
        """Without saturation, which torchvision defines otherwise: as a mixture with grey."""
        chosen = Augmentation(saturation=(1.0, 1.0))
        draws = on_whole_pixels(drawn(images, chosen))
        monkeypatch.setattr(augment_module, "draw", lambda *_: draws)
        result = run(images, SIZE, chosen, **IMAGENET)
        for i, image in enumerate(images):
            values = vision.adjust_brightness((image + draws.offset[i]) / 255, draws.gain_before[i].item())
            values = vision.adjust_hue(values, draws.hue[i].item() / 360)
            values = vision.adjust_brightness(values, draws.gain_after[i].item())
            values = cropped(vision.permute_channels(values, draws.channels[i].tolist()), draws, i)
            values = vision.normalize(values, list(IMAGENET["mean"]), list(IMAGENET["std"]))
            expected = vision.horizontal_flip(values) if draws.mirrored[i] else values
            torch.testing.assert_close(result[i], expected, atol=NORMALISED_TOLERANCE, rtol=0)
