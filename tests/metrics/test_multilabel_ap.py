"""The accumulating metric against the function, over batches and over two processes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from tailwise import LabelStats
from tailwise.metrics import MultilabelAP, average_precision, group_means

GATHER = Path(__file__).with_name("gather.py")
_spec = importlib.util.spec_from_file_location("gather", GATHER)
gather = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(gather)


def assert_scores(result: dict[str, torch.Tensor], logits: torch.Tensor, targets: torch.Tensor) -> None:
    """Compare with scikit-learn, class by class."""
    per_class = np.full(logits.shape[1], np.nan)
    for k in range(logits.shape[1]):
        known = targets[:, k] >= 0
        if set(targets[known, k].tolist()) == {0, 1}:
            per_class[k] = average_precision_score(targets[known, k], logits[known, k])
    np.testing.assert_allclose(result["per_class"], per_class, rtol=0, atol=1e-12)
    assert result["total"].item() == pytest.approx(np.nanmean(per_class), abs=1e-12)
    for name, members in gather.GROUPS.items():
        assert result[name].item() == pytest.approx(np.nanmean(per_class[members]), abs=1e-12)


def test_batches_give_the_average_precision_of_their_union() -> None:
    logits, targets = gather.samples()
    metric = MultilabelAP(5, gather.GROUPS)
    for rows in torch.arange(20).split(7):
        metric.update(logits[rows], targets[rows])
    assert_scores(metric.compute(), logits, targets)
    metric.reset()
    metric.update(logits[:9], targets[:9])
    assert_scores(metric.compute(), logits[:9], targets[:9])


def test_two_processes_give_the_average_precision_of_their_union(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, GATHER, tmp_path], check=True, env=environment, timeout=120)
    for rank in range(2):
        for result in torch.load(tmp_path / f"{rank}.pt").values():
            assert_scores(result, *gather.samples())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_logits_are_kept_as_float32_and_targets_as_int8(dtype: torch.dtype) -> None:
    logits, targets = gather.samples()
    metric = MultilabelAP(5)
    metric.update(logits.to(dtype), targets.masked_fill(targets < 0, 0).bool())
    assert metric.logits[0].dtype == torch.float32
    assert metric.targets[0].dtype == torch.int8
    expected = average_precision(logits, targets.clamp(min=0))
    torch.testing.assert_close(metric.compute()["per_class"], expected, rtol=0, atol=0, equal_nan=True)


def test_without_groups_only_the_total_is_given() -> None:
    logits, targets = gather.samples()
    metric = MultilabelAP(5)
    metric.update(logits, targets)
    result = metric.compute()
    assert set(result) == {"total", "per_class"}
    assert result["total"].item() == group_means(average_precision(logits, targets), {})["total"]


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_seen_is_undefined() -> None:
    result = MultilabelAP(3).compute()
    assert result["total"].isnan()
    assert result["per_class"].shape == (3,)


def test_no_gradient_graph_is_kept() -> None:
    metric = MultilabelAP(1)
    metric.update(torch.zeros(2, 1, requires_grad=True) * 2, torch.ones(2, 1))
    assert not metric.logits[0].requires_grad


def test_batches_that_do_not_fit_are_refused() -> None:
    metric = MultilabelAP(3)
    with pytest.raises(ValueError, match="2 classes, the metric was made for 3"):
        metric.update(torch.zeros(4, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="is NaN"):
        metric.update(torch.full((4, 3), torch.nan), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="at least 1"):
        MultilabelAP(0)
    with pytest.raises(ValueError, match="'tail' has an index outside the 3 classes"):
        MultilabelAP(3, {"tail": [3]})


@pytest.mark.parametrize("given", [LabelStats([1, 2], 3), np.array([1, 2]), "5", 2.0, True])
def test_what_is_no_number_of_classes(given, unchecked) -> None:
    with pytest.raises(ValueError, match=f"num_classes must be a whole number, got {type(given).__name__}") as caught:
        MultilabelAP(given)
    assert MultilabelAP(np.int64(2)).num_classes == 2
    assert ("give stats.num_classes, stats.groups" in str(caught.value)) == isinstance(given, LabelStats)
