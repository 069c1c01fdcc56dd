"""Augmentation against colorsys, Pillow, SciPy and torchvision, image by image and operation by operation."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torchvision.transforms.v2 import functional as vision

from tailwise.data.pixels import augment as augment_module
from tailwise.data.pixels.augment import Augmentation, Draws, _varied_on_device, augment, draw, prepare
from tailwise.errors import InputError

NOTHING = Augmentation(
    brightness=0.0, contrast=(1.0, 1.0), saturation=(1.0, 1.0), hue=0.0, swap_channels=False, min_crop=1.0, flip=0.0
)
RAW = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}  # leaves values in 0-255
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
COLOUR_TOLERANCE = 2e-3  # of 255, in float32


def only(**changes) -> Augmentation:
    return Augmentation(**{**NOTHING.__dict__, **changes})


def random_noise(count: int, side: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def random_images(count: int, side: int, seed: int = 0) -> torch.Tensor:
    """Noise with greys, pure colours, black and white among it: the corners of HSV."""
    images = random_noise(count, side, seed).to(torch.int64)
    images[:, :, 0, 0] = 0
    images[:, :, 0, 1] = 255
    images[:, :, 0, 2] = 128
    images[:, :, 1, :3] = 255 * torch.eye(3, dtype=images.dtype)
    images[:, :, 1, 3:6] = 255 - 255 * torch.eye(3, dtype=images.dtype)
    return images.to(torch.uint8)


def in_hsv(image: np.ndarray, saturation: float = 1.0, degrees: float = 0.0) -> np.ndarray:
    """(3, H, W) in 0-255, changed pixel by pixel with colorsys."""
    result = np.empty_like(image)
    for y, x in np.ndindex(image.shape[1:]):
        h, s, v = colorsys.rgb_to_hsv(*(image[:, y, x] / 255))
        result[:, y, x] = colorsys.hsv_to_rgb((h + degrees / 360) % 1, min(s * saturation, 1), v)
    return result * 255


def sampled(image: np.ndarray, size: int, left: float, top: float, width: float, height: float) -> np.ndarray:
    """(3, S, S) cropped and squashed by SciPy: pixel centres lie at half-integers of the image's side."""
    side = image.shape[-1]
    along = (np.arange(size) + 0.5) / size
    rows, columns = (top + height * along) * side - 0.5, (left + width * along) * side - 0.5
    where = np.meshgrid(rows, columns, indexing="ij")
    return np.stack([ndimage.map_coordinates(channel, where, order=1, mode="nearest") for channel in image])


def naive_chain(image: np.ndarray, size: int, draws: Draws, i: int) -> np.ndarray:
    """The published order for one image in float64, one step after the other."""
    image = np.clip((image + draws.offset[i].item()) * draws.gain_before[i].item(), 0, 255)
    image = in_hsv(image, saturation=draws.saturation[i].item())
    image = in_hsv(image, degrees=draws.hue[i].item())
    image = np.clip(image * draws.gain_after[i].item(), 0, 255)
    image = image[draws.channels[i].numpy()]
    crop = (draws.left[i].item(), draws.top[i].item(), draws.width[i].item(), draws.height[i].item())
    image = sampled(image, size, *crop)
    image = (image / 255 - np.array(IMAGENET["mean"])[:, None, None]) / np.array(IMAGENET["std"])[:, None, None]
    return image[:, :, ::-1] if draws.mirrored[i] else image


def run(images: torch.Tensor, size: int, chosen: Augmentation, seed: int = 3, **normalisation) -> torch.Tensor:
    positions = torch.arange(len(images))
    return augment(images, size, **(normalisation or RAW), seed=seed, epoch=1, positions=positions, settings=chosen)


def drawn(images: torch.Tensor, chosen: Augmentation, seed: int = 3) -> Draws:
    return draw(seed, 1, torch.arange(len(images)), chosen)


class TestOperationsAlone:
    images = random_images(12, 8)

    def compare(self, chosen: Augmentation, expected) -> None:
        """``expected(image, draws, i)`` in float64 for each image; some images must be changed, some not."""
        result, draws = run(self.images, 8, chosen), drawn(self.images, chosen)
        changed = 0
        for i, image in enumerate(self.images.double().numpy()):
            np.testing.assert_allclose(result[i].numpy(), expected(image, draws, i), atol=COLOUR_TOLERANCE)
            changed += not np.allclose(result[i].numpy(), image, atol=0.01)
        assert 0 < changed < len(self.images)

    def test_brightness(self):
        self.compare(only(brightness=32.0), lambda image, d, i: np.clip(image + d.offset[i].item(), 0, 255))

    def test_contrast(self):
        def expected(image, d, i):
            return np.clip(image * (d.gain_before[i] * d.gain_after[i]).item(), 0, 255)

        self.compare(only(contrast=(0.5, 1.5)), expected)

    def test_saturation(self):
        self.compare(only(saturation=(0.0, 3.0)), lambda image, d, i: in_hsv(image, saturation=d.saturation[i].item()))

    @pytest.mark.parametrize("limit", [18.0, 180.0])
    def test_hue(self, limit):
        self.compare(only(hue=limit), lambda image, d, i: in_hsv(image, degrees=d.hue[i].item()))

    def test_hue_as_torchvision_turns_it(self):
        chosen = only(hue=90.0)
        images = random_images(8, 32, seed=1)
        result, draws = run(images, 32, chosen), drawn(images, chosen)
        for i, image in enumerate(images):
            expected = 255 * vision.adjust_hue(image / 255, draws.hue[i].item() / 360)
            torch.testing.assert_close(result[i], expected, atol=0.01, rtol=0)

    def test_channel_order(self):
        self.compare(only(swap_channels=True), lambda image, d, i: image[d.channels[i].numpy()])

    def test_flip(self):
        self.compare(only(flip=0.5), lambda image, d, i: image[:, :, ::-1] if d.mirrored[i] else image)

    @pytest.mark.parametrize("size", [5, 8, 13])
    def test_crop_and_squash_as_scipy_samples(self, size):
        chosen = only(min_crop=0.5)
        result, d = run(self.images, size, chosen), drawn(self.images, chosen)
        for i, image in enumerate(self.images.double().numpy()):
            crop = (d.left[i].item(), d.top[i].item(), d.width[i].item(), d.height[i].item())
            np.testing.assert_allclose(result[i].numpy(), sampled(image, size, *crop), atol=COLOUR_TOLERANCE)

    def test_crop_and_squash_as_pillow_enlarges(self):
        chosen = only(min_crop=0.6)
        result, d = run(self.images, 11, chosen), drawn(self.images, chosen)
        for i, image in enumerate(self.images.float().numpy()):
            left, top = 8 * d.left[i].item(), 8 * d.top[i].item()
            box = (left, top, min(left + 8 * d.width[i].item(), 8), min(top + 8 * d.height[i].item(), 8))
            for channel in range(3):
                picture = Image.fromarray(image[channel])
                expected = np.asarray(picture.resize((11, 11), Image.Resampling.BILINEAR, box=box))
                np.testing.assert_allclose(result[i, channel].numpy(), expected, atol=0.02)

    @pytest.mark.parametrize("size", [6, 8, 11])
    def test_squash_of_the_whole_image_as_torchvision_resizes(self, size):
        expected = vision.resize(self.images.float(), [size, size], antialias=False)
        torch.testing.assert_close(run(self.images, size, NOTHING), expected, atol=COLOUR_TOLERANCE, rtol=0)


class TestWholeChain:
    @pytest.mark.parametrize("size", [9, 14])
    def test_equals_the_steps_one_by_one(self, size):
        images = random_images(32, 12, seed=2)
        result, draws = run(images, size, Augmentation(), **IMAGENET), drawn(images, Augmentation())
        for i, image in enumerate(images.double().numpy()):
            np.testing.assert_allclose(result[i].numpy(), naive_chain(image, size, draws, i), atol=1e-4)

    @pytest.mark.parametrize("hue", [18.0, 180.0])
    @pytest.mark.parametrize(("side", "size"), [(12, 9), (12, 14), (1, 3), (2, 2)])
    def test_the_way_of_other_devices_is_the_same(self, side, size, hue):
        """On a GPU the batch is varied as a whole, by code that runs on a CPU too."""
        images, chosen = random_noise(32, side), Augmentation(hue=hue)
        together = _varied_on_device(images, size, drawn(images, chosen))
        torch.testing.assert_close(together, run(images, size, chosen), atol=COLOUR_TOLERANCE, rtol=0)

    def test_a_sample_is_the_same_alone_and_in_any_batch(self):
        images = random_images(11, 16)
        positions = torch.arange(11) * 1000

        def result(rows):
            where = {"seed": 1, "epoch": 2, "positions": positions[rows]}
            return augment(images[rows], 12, **IMAGENET, **where)

        everything = result(torch.arange(11))
        order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(result(order), everything[order], atol=1e-5, rtol=0)
        for i in range(11):
            torch.testing.assert_close(result(torch.tensor([i]))[0], everything[i], atol=1e-5, rtol=0)

    def test_memory_layout_does_not_matter(self):
        images = random_images(6, 16)
        channels_last = images.contiguous(memory_format=torch.channels_last)
        assert torch.equal(run(images, 12, Augmentation()), run(channels_last, 12, Augmentation()))

    def test_seed_epoch_and_position_change_the_result(self):
        images = random_images(1, 16).repeat(4, 1, 1, 1)

        def result(seed, epoch, first):
            where = {"seed": seed, "epoch": epoch, "positions": torch.arange(first, first + 4)}
            return augment(images, 16, **IMAGENET, **where)

        base = result(0, 0, 0)
        assert torch.equal(base, result(0, 0, 0))
        for other in (result(1, 0, 0), result(0, 1, 0), result(0, 0, 4), base.flip(0)):
            assert all(not torch.allclose(a, b) for a, b in zip(base, other, strict=True))

    def test_global_random_state_is_neither_read_nor_moved(self):
        images = random_images(4, 8)
        torch.manual_seed(0)
        first, state = run(images, 8, Augmentation()), torch.get_rng_state()
        torch.manual_seed(1)
        assert torch.equal(first, run(images, 8, Augmentation()))
        torch.manual_seed(0)
        assert torch.equal(state, torch.get_rng_state())

    def test_the_input_is_not_changed(self):
        images = random_images(8, 8)
        before = images.clone()
        run(images, 8, Augmentation())
        prepare(images, 8, **IMAGENET)
        assert torch.equal(images, before)

    def test_values_stay_in_range(self):
        strong = Augmentation(brightness=255.0, contrast=(0.0, 9.0), saturation=(0.0, 9.0), hue=180.0)
        result = run(random_images(64, 8), 8, strong)
        assert result.min() >= -1e-3
        assert result.max() <= 255 + 1e-3

    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_output_is_float32_in_channels_last_order(self, device):
        images = random_images(3, 16).to(device)
        for result in (run(images, 8, Augmentation()), prepare(images, 8, **IMAGENET), prepare(images, 16, **IMAGENET)):
            assert result.shape[:2] == (3, 3)
            assert result.dtype == torch.float32
            assert result.is_contiguous(memory_format=torch.channels_last)

    def test_no_number_is_read_back_from_the_device(self):
        """A meta tensor has no values: whatever would wait for some fails."""
        images = random_images(4, 16).to("meta")
        with pytest.raises(NotImplementedError):
            images.tolist()
        assert run(images, 12, Augmentation(hue=180.0), **IMAGENET).shape == (4, 3, 12, 12)
        assert prepare(images, 12, **IMAGENET).shape == (4, 3, 12, 12)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_the_gpu_gives_what_the_cpu_gives(self):
        images = random_images(16, 32)
        on_gpu = run(images.cuda(), 24, Augmentation(), **IMAGENET)
        torch.testing.assert_close(on_gpu.cpu(), run(images, 24, Augmentation(), **IMAGENET), atol=1e-3, rtol=0)

    def test_an_empty_batch_gives_an_empty_batch(self):
        empty = random_images(1, 8)[:0]
        assert run(empty, 6, Augmentation()).shape == (0, 3, 6, 6)
        assert prepare(empty, 6, **IMAGENET).shape == (0, 3, 6, 6)


class TestThreads:
    """The CPU works on several images at a time."""

    images = random_images(10, 16)

    @pytest.fixture(params=[2, 16])
    def threads(self, request) -> Iterator[int]:
        before = torch.get_num_threads()
        torch.set_num_threads(request.param)
        yield request.param
        torch.set_num_threads(before)

    def both(self) -> list[torch.Tensor]:
        return [run(self.images, 12, Augmentation(), **IMAGENET), prepare(self.images, 12, **IMAGENET)]

    @pytest.mark.usefixtures("threads")
    def test_their_number_does_not_matter(self):
        together = self.both()
        torch.set_num_threads(1)
        assert all(torch.equal(a, b) for a, b in zip(self.both(), together, strict=True))

    def test_torch_keeps_its_own(self, threads):
        self.both()
        assert torch.get_num_threads() == threads
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == threads

    @pytest.mark.usefixtures("threads")
    def test_inference_mode_reaches_them(self):
        expected = self.both()
        with torch.inference_mode():
            results = self.both()
        for result, wanted in zip(results, expected, strict=True):
            assert result.is_inference()
            assert torch.equal(result, wanted)

    def test_what_fails_in_one_is_raised(self, threads, monkeypatch):
        def fail_in_one(*arguments: object) -> None:
            if arguments[-2] == 1:  # the images from the second on, whichever thread has them
                raise RuntimeError("no memory left")

        monkeypatch.setattr(augment_module, "vary", fail_in_one)
        with pytest.raises(RuntimeError, match="no memory left"):
            run(self.images, 12, Augmentation())
        assert torch.get_num_threads() == threads


class TestPrepare:
    @pytest.mark.parametrize("size", [7, 16, 24])
    def test_squash_as_pillow_within_rounding(self, size):
        images = random_images(5, 16)
        result = prepare(images, size, **RAW)
        for image, ours in zip(images, result, strict=True):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.BILINEAR)
            np.testing.assert_allclose(ours.permute(1, 2, 0).numpy(), np.asarray(picture), atol=1.01)

    def test_normalises_each_channel(self):
        images = random_images(2, 8)
        expected = vision.normalize(images / 255, list(IMAGENET["mean"]), list(IMAGENET["std"]))
        torch.testing.assert_close(prepare(images, 8, **IMAGENET), expected, atol=1e-5, rtol=0)

    def test_no_augmentation_gives_the_test_time_image(self):
        images = random_images(4, 16)
        torch.testing.assert_close(
            run(images, 16, NOTHING, **IMAGENET), prepare(images, 16, **IMAGENET), atol=1e-5, rtol=0
        )

    @pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5,)), ((0.5,) * 3, (0.5, 0.0, 0.5)), ((0.5,) * 3, (0.5,))])
    def test_wrong_mean_or_std_is_refused(self, mean, std):
        with pytest.raises(InputError, match="mean and std"):
            prepare(random_images(1, 8), 8, mean, std)
