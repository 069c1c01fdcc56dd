"""Probability curves against plain loops, and what is left after saving, resuming and several processes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from tailwise import LabelStats
from tailwise.metrics import CurveRecorder, ProbabilityCurves, steps_between_points

STATS = LabelStats([60, 30, 4, 2], 200, ["cat", "dog", "emu", "fox"], thresholds=(10, 50))
EMPTY = LabelStats([60, 30], 200, thresholds=(10, 20))


def batches(count: int, *, classes: int = 4, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(6, classes, generator=generator),
            torch.randint(-1, 2, (6, classes), generator=generator, dtype=torch.int8),
        )
        for _ in range(count)
    ]


def naive_means(steps: list[tuple[torch.Tensor, torch.Tensor]], wanted: int) -> np.ndarray:
    """Mean probability by class over the pairs of some steps whose label is the wanted one."""
    means = []
    for k in range(steps[0][0].shape[1]):
        seen = [
            1 / (1 + np.exp(-z))
            for logits, targets in steps
            for z, y in zip(logits[:, k].tolist(), targets[:, k].tolist(), strict=True)
            if y == wanted
        ]
        means.append(np.mean(seen) if seen else np.nan)
    return np.array(means)


def record(steps: list[tuple[torch.Tensor, torch.Tensor]], every: int) -> CurveRecorder:
    recorder = CurveRecorder(STATS, every)
    for logits, targets in steps:
        recorder.update(logits, targets)
    return recorder


def test_points_are_means_over_the_steps_since_the_point_before():
    steps = batches(7)
    curves = record(steps, every=3).curves()
    assert curves.steps.tolist() == [3, 6, 7]
    for point, part in enumerate((steps[:3], steps[3:6], steps[6:])):
        np.testing.assert_allclose(curves.positive[point], naive_means(part, 1), rtol=1e-5)
        np.testing.assert_allclose(curves.negative[point], naive_means(part, 0), rtol=1e-5)


def test_group_means_leave_out_classes_without_a_pair():
    logits, targets = torch.zeros(2, 4), torch.tensor([[1, 0, 0, 0], [1, 0, 0, -1]], dtype=torch.int8)
    logits[:, 3] = 2.0
    targets[0, 3] = 1
    curves = record([(logits, targets)], every=1).curves()
    positive, negative = curves.group_means("tail")
    # Of emu and fox, only the one has positives and only the other negatives.
    np.testing.assert_allclose(positive, [1 / (1 + np.exp(-2))], rtol=1e-6)
    np.testing.assert_allclose(negative, [0.5])
    assert np.isnan(curves.group_means("medium")[0]).all()


def test_a_group_without_classes_has_no_mean():
    recorder = CurveRecorder(EMPTY)
    recorder.update(torch.zeros(3, 2), torch.ones(3, 2, dtype=torch.int8))
    assert np.isnan(recorder.curves().group_means("tail")[0]).all()


def test_masked_and_soft_targets_count_as_in_the_losses():
    recorder = CurveRecorder(STATS)
    targets = torch.tensor([[0.25, 1.0, 0.0, float("nan")]])
    mask = torch.tensor([[True, False, True, True]])
    recorder.update(torch.zeros(1, 4), targets, mask)
    curves = recorder.curves()
    np.testing.assert_allclose(curves.positive_count, [[0.25, 0, 0, 0]])
    np.testing.assert_allclose(curves.negative_count, [[0.75, 0, 1, 0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_curves_are_of_the_probability_of_the_whole_logit(dtype):
    """Logits log(p / (1 − p)) of 4/5 and 1/10 for cats, 1/4 and 2/3 for dogs, nothing known of the others."""
    odds = torch.tensor([[4.0, 1 / 3, 1, 1], [1 / 9, 2.0, 1, 1]])
    targets = torch.tensor([[1, 1, -1, -1], [0, 0, -1, -1]], dtype=torch.int8)
    recorder = CurveRecorder(STATS)
    recorder.update(odds.log().to(dtype), targets)
    curves = recorder.curves()
    tolerance = {torch.bfloat16: 1e-2, torch.float16: 2e-3}.get(dtype, 1e-6)
    np.testing.assert_allclose(curves.positive, [[0.8, 0.25, np.nan, np.nan]], rtol=tolerance)
    np.testing.assert_allclose(curves.negative, [[0.1, 2 / 3, np.nan, np.nan]], rtol=tolerance)


def test_a_group_of_several_classes_has_the_mean_of_their_means():
    """One pair of an emu at p = 3/4 and three of foxes at 1/4, 1/2 and 1/2: each class counts once."""
    logits = torch.tensor([[0.0, 0, np.log(3), -np.log(3)], [0, 0, 0, 0], [0, 0, 0, 0]])
    targets = torch.tensor([[1, 0, 1, 1], [1, 0, -1, 1], [1, -1, -1, 1]], dtype=torch.int8)
    curves = record([(logits, targets)], every=1).curves()
    fox = (0.25 + 0.5 + 0.5) / 3
    np.testing.assert_allclose(curves.group_means("tail")[0], [(0.75 + fox) / 2], rtol=1e-6)
    np.testing.assert_allclose(curves.group_means("head")[0], [0.5], rtol=1e-6)
    assert np.isnan(curves.group_means("head")[1]).all()


@pytest.mark.parametrize(
    ("steps", "classes", "options", "every"),
    # At most 200 points by default, and 2^24 = 16,777,216 numbers, 4 for each class: 4 points of a million classes.
    [
        *((200, 20, {}, 1), (201, 20, {}, 2), (400, 20, {}, 2), (401, 20, {}, 3), (0, 20, {}, 1), (7, 0, {}, 1)),
        *((100, 1_000_000, {}, 25), (7, 5_000_000, {}, 7)),
        *((100, 20, {"points": 10}, 10), (101, 20, {"points": 10}, 11)),
    ],
)
def test_steps_between_points(steps, classes, options, every):
    assert steps_between_points(steps, classes, **options) == every


def test_saved_curves_come_back_whole(tmp_path):
    curves = record(batches(5), every=2).curves()
    curves.save(tmp_path / "curves.npz")
    loaded = ProbabilityCurves.load(tmp_path / "curves.npz")
    for name in ("steps", "positive_sum", "positive_count", "negative_sum", "negative_count"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(curves, name))
    assert loaded.class_names == STATS.class_names
    assert {name: members.tolist() for name, members in loaded.groups.items()} == {
        "head": [0],
        "medium": [1],
        "tail": [2, 3],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["curves.npz"]


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04"])
def test_a_file_of_something_else_is_refused_by_name(tmp_path, content):
    path = tmp_path / "curves.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"curves\.npz holds no probability curves"):
        ProbabilityCurves.load(path)


def test_an_archive_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", steps=np.arange(3))
    with pytest.raises(ValueError, match=r"other\.npz holds no probability curves"):
        ProbabilityCurves.load(tmp_path / "other.npz")


@pytest.mark.parametrize("done", [0, 1, 4, 6])
def test_a_resumed_recorder_ends_like_an_uninterrupted_one(done):
    steps = batches(8)
    whole = record(steps, every=3).curves()
    first = record(steps[:done], every=3)
    second = CurveRecorder(STATS, 3)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for logits, targets in steps[done:]:
        second.update(logits, targets)
    resumed = second.curves()
    assert resumed.steps.tolist() == whole.steps.tolist()
    np.testing.assert_array_equal(resumed.positive_sum, whole.positive_sum)
    np.testing.assert_array_equal(resumed.negative_count, whole.negative_count)


def test_recording_leaves_graph_and_inputs_alone():
    logits, targets = torch.randn(4, 4, requires_grad=True), torch.ones(4, 4, dtype=torch.int8)
    recorder = CurveRecorder(STATS, every=10)
    recorder.update(logits, targets)
    recorder.update(logits, targets)
    state = recorder.state_dict()
    assert not state["window"].requires_grad
    np.testing.assert_allclose(state["window"][1], [8, 8, 8, 8])


def test_nothing_recorded_is_no_point():
    curves = CurveRecorder(STATS).curves()
    assert len(curves.steps) == 0
    assert curves.positive.shape == (0, 4)


@pytest.mark.parametrize(("steps", "classes"), [(1, 1), (199, 80), (1176, 18), (100_000, 100_000), (50, 10_000_000)])
def test_curves_stay_small(steps, classes):
    every = steps_between_points(steps, classes)
    points = -(-steps // every)
    assert points <= 200
    assert points * 4 * classes <= max(1 << 24, 4 * classes)
    assert every == 1 or points > 1 or classes > 1 << 20


def test_steps_between_points_must_be_there():
    with pytest.raises(ValueError, match="at least 1"):
        CurveRecorder(STATS, 0)
