"""What is drawn for an image: distributions, independence, and nothing but seed, epoch and position behind it."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tailwise.data.pixels.augment import Augmentation, draw, sample_uniforms
from tailwise.errors import InputError

MANY = torch.arange(20_000)


def splitmix64(state: int, j: int) -> int:
    """Output j of the generator started at ``state``."""
    z = (state + (j + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


class TestUniforms:
    def test_equals_the_formula_in_python_integers(self):
        # Check values that circulate with the C code of SplitMix64: its first outputs from the state 1234567.
        stream = [splitmix64(1234567, j) for j in range(3)]
        assert stream == [6457827717110365317, 3203168211198807973, 9817491932198370423]

        for seed, epoch, position in [(0, 0, 0), (1, 2, 3), (2**63 + 5, 7, 123_456_789), (-1, 0, 1)]:
            state = 0
            for value in (seed, epoch, position):
                state = splitmix64(state ^ value % 2**64, 0)
            expected = [(splitmix64(state, j) >> 40) / 2**24 for j in range(5)]
            assert sample_uniforms(seed, epoch, np.array([position]), 5)[0].tolist() == expected

    @pytest.mark.parametrize("column", range(4))
    def test_each_number_is_uniform(self, column):
        u = sample_uniforms(0, 0, MANY, 4)[:, column].numpy()
        assert 0 <= u.min() < u.max() < 1
        assert stats.kstest(u, "uniform").pvalue > 1e-3

    @pytest.mark.parametrize(
        ("name", "other"),
        [
            ("position", sample_uniforms(0, 0, MANY + 1, 4)),
            ("epoch", sample_uniforms(0, 1, MANY, 4)),
            ("seed", sample_uniforms(1, 0, MANY, 4)),
            ("number", sample_uniforms(0, 0, MANY, 5)[:, 1:]),
            ("seed and epoch exchanged", sample_uniforms(1, 0, MANY, 4) - sample_uniforms(0, 1, MANY, 4)),
        ],
    )
    def test_neighbours_are_not_correlated(self, name, other):
        u = sample_uniforms(0, 0, MANY, 4)
        for column in range(4):
            r = np.corrcoef(u[:, column], other[:, column])[0, 1]
            assert abs(r) < 4 / np.sqrt(len(MANY)), name

    def test_pairs_fill_the_square(self):
        u = sample_uniforms(5, 0, MANY, 2).numpy()
        counts = np.histogram2d(u[:, 0], u[:, 1], bins=10, range=[[0, 1], [0, 1]])[0]
        assert stats.chisquare(counts.ravel()).pvalue > 1e-3

    @given(st.integers(0, 2**32), st.integers(0, 1000), st.lists(st.integers(0, 2**40), min_size=1, max_size=8))
    @settings(max_examples=30, deadline=None)
    def test_a_row_depends_on_its_own_position_only(self, seed, epoch, positions):
        together = sample_uniforms(seed, epoch, torch.tensor(positions), 3)
        for row, position in enumerate(positions):
            assert torch.equal(together[row], sample_uniforms(seed, epoch, np.array([position]), 3)[0])

    def test_more_numbers_leave_the_first_ones(self):
        assert torch.equal(sample_uniforms(1, 2, MANY[:10], 8)[:, :3], sample_uniforms(1, 2, MANY[:10], 3))


class TestDraws:
    draws = draw(0, 0, MANY, Augmentation())

    @pytest.mark.parametrize(
        ("name", "neutral", "low", "high"),
        [("offset", 0, -32, 32), ("saturation", 1, 0.5, 1.5), ("hue", 0, -18, 18)],
    )
    def test_half_of_the_images_get_a_uniform_amount(self, name, neutral, low, high):
        amounts = getattr(self.draws, name).numpy()
        changed = amounts[amounts != neutral]
        assert len(changed) / len(MANY) == pytest.approx(0.5, abs=0.02)
        assert stats.kstest(changed, "uniform", args=(low, high - low)).pvalue > 1e-3

    def test_contrast_comes_once_on_either_side_of_the_hue(self):
        before, after = self.draws.gain_before.numpy(), self.draws.gain_after.numpy()
        assert not ((before != 1) & (after != 1)).any()
        assert (before != 1).mean() == pytest.approx(0.25, abs=0.02)
        assert (after != 1).mean() == pytest.approx(0.25, abs=0.02)
        assert stats.kstest((before * after)[before * after != 1], "uniform", args=(0.5, 1)).pvalue > 1e-3

    def test_half_of_the_images_get_one_of_six_channel_orders(self):
        orders = [tuple(order) for order in self.draws.channels.tolist()]
        share = {order: orders.count(order) / len(orders) for order in permutations(range(3))}
        assert share.pop((0, 1, 2)) == pytest.approx(0.5 + 0.5 / 6, abs=0.02)
        assert list(share.values()) == pytest.approx([0.5 / 6] * 5, abs=0.01)

    def test_crops_lie_inside_and_their_sides_are_independent(self):
        d = self.draws
        for start, side in ((d.left, d.width), (d.top, d.height)):
            assert start.min() >= 0
            assert (start + side).max() <= 1 + 1e-6
            assert stats.kstest(side.numpy(), "uniform", args=(0.8, 0.2)).pvalue > 1e-3
            assert stats.kstest((start / (1 - side).clamp_min(1e-9)).numpy(), "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(d.width, d.height)[0, 1]) < 4 / np.sqrt(len(MANY))

    def test_draws_are_independent_of_each_other(self):
        d = self.draws
        contrast_side = (d.gain_before != 1).float() - (d.gain_after != 1).float()
        columns = torch.stack(
            [
                *(d.offset, d.gain_before * d.gain_after, contrast_side, d.saturation, d.hue),
                *(d.channels[:, 0].float(), d.mirrored.float(), d.width, d.height),
                *(d.left / (1 - d.width).clamp_min(1e-9), d.top / (1 - d.height).clamp_min(1e-9)),
            ]
        )
        correlations = np.corrcoef(columns) - np.eye(len(columns))
        assert np.abs(correlations).max() < 4 / np.sqrt(len(MANY))

    def test_one_coin_of_a_change_says_nothing_of_another(self):
        """Whether there is each change, and on which side the contrast: what amounts with a mean of 0 do not show."""
        d = self.draws
        has_contrast = (d.gain_before != 1) | (d.gain_after != 1)
        coins = {
            "brightness": d.offset != 0,
            "contrast": has_contrast,
            "saturation": d.saturation != 1,
            "hue": d.hue != 0,
            "flip": d.mirrored,
            "order": (d.channels != torch.arange(3)).any(1),
            "first": d.gain_before != 1,
        }
        amounts = {
            "offset": (d.offset, d.offset != 0),
            "gain": (d.gain_before * d.gain_after, has_contrast),
            "saturation": (d.saturation, d.saturation != 1),
            "hue": (d.hue, d.hue != 0),
            "width": (d.width, d.width > 0),
            "height": (d.height, d.height > 0),
        }
        for one, coin in coins.items():
            for other, thrown in coins.items():
                if one == other or {one, other} == {"contrast", "first"}:
                    continue
                among = has_contrast if "first" in (one, other) else torch.ones_like(coin)
                share, mean = thrown[among & coin].double().mean(), thrown[among].double().mean()
                assert abs(share - mean) < 0.03, (one, other)
            for name, (amount, is_there) in amounts.items():
                among = is_there & has_contrast if one == "first" else is_there
                with_it, without = amount[among & coin].numpy(), amount[among & ~coin].numpy()
                if len(without) and len(with_it):
                    assert stats.ks_2samp(with_it, without).pvalue > 1e-4, (one, name)

    def test_the_numbers_of_an_image_are_used_in_this_order(self):
        """A record: an image that is drawn again, by a later version as well, must be changed in the same way."""
        chosen = Augmentation(contrast=(0.25, 2.0), saturation=(0.5, 3.0), hue=90.0, min_crop=0.5, flip=0.4)
        u = sample_uniforms(5, 6, MANY[:64], 16).double()
        d = draw(5, 6, MANY[:64], chosen)
        orders = list(permutations(range(3)))
        for i, v in enumerate(u.tolist()):
            contrast = 0.25 + 1.75 * v[3] if v[2] < 0.5 else 1
            width, height = 1 - 0.5 * v[12], 1 - 0.5 * v[11]
            expected = {
                "offset": 64 * v[1] - 32 if v[0] < 0.5 else 0,
                "gain_before": contrast if v[4] < 0.5 else 1,
                "gain_after": 1 if v[4] < 0.5 else contrast,
                "saturation": 0.5 + 2.5 * v[6] if v[5] < 0.5 else 1,
                "hue": 180 * v[8] - 90 if v[7] < 0.5 else 0,
                "width": width,
                "height": height,
                "left": (1 - width) * v[14],
                "top": (1 - height) * v[13],
                "mirrored": v[15] < 0.4,
            }
            for name, value in expected.items():
                assert getattr(d, name)[i].item() == pytest.approx(value, rel=1e-5, abs=1e-5), name
            assert tuple(d.channels[i].tolist()) == orders[int(6 * v[10]) if v[9] < 0.5 else 0]

    @pytest.mark.parametrize(
        ("option", "ends"),
        [
            ("brightness", (0.0, 255.0)),
            ("contrast", ((0.0, 0.0), (1.5, 1.5))),
            ("saturation", ((0.0, 0.0), (1.0, 1.0))),
            ("hue", (0.0, 180.0)),
            ("min_crop", (1e-3, 1.0)),
            ("flip", (0.0, 1.0)),
        ],
    )
    def test_the_ends_of_the_ranges_are_allowed(self, option, ends):
        for end in ends:
            drawn = draw(0, 0, MANY[:9], Augmentation(**{option: end}))
            assert all(getattr(drawn, name).isfinite().all() for name in ("offset", "gain_before", "saturation", "hue"))

    def test_defaults_are_the_published_settings(self):
        """32 of 255, contrast and saturation .5 to 1.5, hue 18 degrees, crops from .8 of a side, half flipped."""
        assert Augmentation() == Augmentation(True, 32.0, (0.5, 1.5), (0.5, 1.5), 18.0, True, 0.8, 0.5)

    @pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
    def test_flips_come_with_their_probability(self, probability):
        mirrored = draw(0, 0, MANY, Augmentation(flip=probability)).mirrored
        assert mirrored.float().mean().item() == pytest.approx(probability, abs=0.02)

    def test_colours_can_be_left_alone(self):
        d = draw(0, 0, MANY, Augmentation(photometric=False))
        assert (d.offset == 0).all()
        assert all((factor == 1).all() for factor in (d.gain_before, d.gain_after, d.saturation))
        assert (d.hue == 0).all()
        assert (d.channels == torch.arange(3)).all()
        assert torch.equal(d.width, self.draws.width)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"brightness": -1.0}, "brightness"),
            ({"contrast": (1.5, 0.5)}, "contrast"),
            ({"saturation": (-0.1, 1.0)}, "saturation"),
            ({"hue": 181.0}, "hue"),
            ({"min_crop": 0.0}, "min-crop"),
            ({"flip": 1.1}, "flip"),
            ({"contrast": (0.5, float("nan"))}, "contrast"),
            ({"contrast": (0.5, float("inf"))}, "contrast"),
            ({"brightness": 255.5}, "brightness"),
            ({"hue": -1.0}, "hue"),
            ({"min_crop": 1.01}, "min-crop"),
            ({"flip": -0.1}, "flip"),
        ],
    )
    def test_settings_out_of_range_are_refused(self, options, message):
        with pytest.raises(InputError, match=message):
            Augmentation(**options)
