"""Behaviour that all losses share: unknown labels, reductions, precision, extremes, errors, buffers."""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tailwise import LabelStats
from tailwise.losses import create
from tailwise.losses.backends.eager import EAGER
from tests.losses.conftest import NUM_SAMPLES, SUMS, every_loss, loss_id

VARIANTS = pytest.mark.parametrize("variant", every_loss(), ids=loss_id)
HALF_TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def make(variant, stats, **options):
    name, variant_options = variant
    return create(name, stats, **(variant_options | options))


def gradient(loss, logits, targets, mask=None):
    logits = logits.detach().clone().requires_grad_()
    loss(logits, targets, mask).sum().backward()
    return logits.grad


@VARIANTS
@pytest.mark.parametrize("kind", ["binary", "soft", "unknown"])
def test_gradient_is_the_derivative_of_the_value(variant, kind, stats, batch):
    loss = make(variant, stats, reduction="none", validate=False)
    if loss.guidance is not None:
        # The batch statistics are constants of the gradient, so they must not move with the probe's steps.
        sums = EAGER.probability_sums(*batch, None)
        frozen = loss.guidance(sums, loss.side("positive"), loss.side("negative"))
        loss.guidance.forward = lambda *_: frozen
    logits, targets = batch
    if kind == "soft":
        targets = torch.rand(targets.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    elif kind == "unknown":
        targets = targets.to(torch.int8).masked_fill(targets.new_tensor(np.tri(16, 9) % 2 == 1, dtype=torch.bool), -1)
    assert torch.autograd.gradcheck(lambda z: loss(z, targets), logits.clone().requires_grad_(), eps=1e-6, atol=1e-7)


@VARIANTS
def test_integer_boolean_and_float_targets_agree(variant, stats, batch):
    logits, targets = batch
    loss = make(variant, stats, reduction="none")
    expected = loss(logits, targets.double())
    for dtype in (torch.uint8, torch.int8, torch.int64, torch.bool, torch.float16):
        torch.testing.assert_close(loss(logits, targets.to(dtype)), expected)


@VARIANTS
@pytest.mark.parametrize("marker", ["minus one", "NaN", "mask"])
def test_unknown_labels_have_no_loss_no_gradient_and_enter_no_statistic(variant, marker, stats, batch):
    logits, targets = batch[0], batch[1].double()
    unknown = torch.rand(targets.shape, generator=torch.Generator().manual_seed(5)) < 0.4
    unknown[2] = True  # a row without any judgement
    unknown[:, 4] = True  # a class without any judgement
    mask = ~unknown if marker == "mask" else None
    marked = targets if marker == "mask" else targets.masked_fill(unknown, -1 if marker == "minus one" else math.nan)

    loss = make(variant, stats, reduction="none")
    value, slope = loss(logits, marked, mask), gradient(loss, logits, marked, mask)
    assert (value[unknown] == 0).all()
    assert (slope[unknown] == 0).all()

    # Whatever the logits of unknown pairs are, nothing else moves.
    disturbed = torch.where(unknown, 50 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(6)), logits)
    fresh = make(variant, stats, reduction="none")  # without memory of the batch, where a loss has one
    torch.testing.assert_close(fresh(disturbed, marked, mask), value, rtol=0, atol=0)
    # And an unknown row is as if it were not there.
    keep = torch.arange(len(logits)) != 2
    fresh = make(variant, stats, reduction="none")
    shorter = fresh(logits[keep], marked[keep], None if mask is None else mask[keep])
    torch.testing.assert_close(shorter, value[keep])
    mean = make(variant, stats)(logits, marked, mask)
    torch.testing.assert_close(mean, value.sum() / (~unknown).sum())


@VARIANTS
def test_nothing_known_gives_zero(variant, stats, batch):
    logits, targets = batch
    for reduction in ("mean", "sum", "batchmean"):
        loss = make(variant, stats, reduction=reduction)
        nothing = torch.full_like(targets, -1, dtype=torch.int8)
        assert loss(logits, nothing) == 0
        assert (gradient(loss, logits, nothing) == 0).all()
        assert loss(logits[:0], targets[:0]) == 0


@VARIANTS
def test_reductions(variant, stats, batch):
    each = make(variant, stats, reduction="none")(*batch)
    assert each.shape == batch[0].shape
    torch.testing.assert_close(make(variant, stats, reduction="sum")(*batch), each.sum())
    torch.testing.assert_close(make(variant, stats, reduction="mean")(*batch), each.mean())
    torch.testing.assert_close(make(variant, stats, reduction="batchmean")(*batch), each.sum(1).mean())


@VARIANTS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_logits_compute_in_float32(variant, dtype, stats, batch):
    logits, targets = batch[0].to(dtype), batch[1]
    loss = make(variant, stats)
    value, slope = loss(logits, targets), gradient(loss, logits, targets)
    assert value.dtype == torch.float32
    assert slope.dtype == dtype
    torch.testing.assert_close(value, loss(logits.float(), targets), rtol=1e-6, atol=1e-7)
    expected = gradient(loss, logits.float(), targets)
    torch.testing.assert_close(slope.float(), expected, rtol=HALF_TOLERANCE[dtype], atol=1e-6)


@VARIANTS
def test_autocast_changes_nothing(variant, stats, batch):
    logits, targets = batch[0].float(), batch[1]
    loss = make(variant, stats)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(logits, targets)
    torch.testing.assert_close(inside, loss(logits, targets), rtol=0, atol=0)


@VARIANTS
@pytest.mark.parametrize("magnitude", [30.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_are_finite(variant, magnitude, dtype, stats):
    signs = torch.tensor([1.0, -1.0] * 8)[:, None].expand(16, 9)
    targets = (torch.arange(16)[:, None] + torch.arange(9)) % 3 == 0
    loss = make(variant, stats, reduction="none")
    logits = (magnitude * signs).to(dtype)
    assert loss(logits, targets).isfinite().all()
    assert gradient(loss, logits, targets).isfinite().all()


def test_very_wrong_positives_keep_their_gradient(stats):
    for magnitude in (30.0, 1e4):
        logits = torch.full((1, 9), -magnitude)
        targets = torch.ones(1, 9, dtype=torch.uint8)
        for name in ("bce", "asl"):
            loss = create(name, stats, reduction="sum")
            torch.testing.assert_close(gradient(loss, logits, targets), -torch.ones(1, 9), rtol=0, atol=0)
        expected = 2 * (1 + 2 * 0.0) * torch.ones(1, 9)  # σ(a)^γ [σ(a) + γ (1 − σ(a)) sp(a)] → 1, times c = 2
        slope = gradient(create("focal", stats, reduction="sum"), logits, targets)
        torch.testing.assert_close(slope, -expected, rtol=1e-6, atol=1e-6)


@VARIANTS
def test_inputs_stay_as_they_were(variant, stats, batch):
    logits, targets = batch[0], batch[1].to(torch.int8)
    targets[1, 1] = -1
    before = logits.clone(), targets.clone()
    gradient(make(variant, stats), logits, targets)
    torch.testing.assert_close((logits, targets), before, rtol=0, atol=0)


@VARIANTS
def test_tensor_parameters_are_buffers(variant, stats, batch):
    loss = make(variant, stats)
    stray = [
        name for module in loss.modules() for name, value in vars(module).items() if isinstance(value, torch.Tensor)
    ]
    assert not stray
    restored = make(variant, LabelStats([1] * 9, NUM_SAMPLES, groups=stats.groups))
    restored.load_state_dict(loss.state_dict())
    torch.testing.assert_close(restored(*batch), loss(*batch), rtol=0, atol=0)
    moved = copy.deepcopy(loss).to("meta")
    assert all(buffer.is_meta for buffer in moved.buffers())


@VARIANTS
def test_compiles_without_graph_breaks(variant, stats, batch, unchecked):
    torch._dynamo.reset()
    logits, targets = batch[0].float(), batch[1].to(torch.int8)
    targets[0, 2] = -1
    loss = make(variant, stats)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, targets), loss(logits, targets))
    torch.testing.assert_close(gradient(compiled, logits, targets), gradient(loss, logits, targets))


def test_compiles_to_machine_code(stats, batch, unchecked):
    torch._dynamo.reset()
    logits, targets = batch[0].float(), batch[1]
    loss = create("pg", stats, recipe="voc-mlt")
    compiled = torch.compile(loss, fullgraph=True)
    torch.testing.assert_close(compiled(logits, targets), loss(logits, targets))
    torch.testing.assert_close(
        gradient(compiled, logits, targets), gradient(loss, logits, targets), rtol=1e-5, atol=1e-8
    )


def test_no_graph_is_built_without_need(stats, batch):
    logits, targets = batch
    assert create("pg", stats)(logits, targets).grad_fn is None
    with torch.no_grad():
        assert create("pg", stats)(logits.clone().requires_grad_(), targets).grad_fn is None


@settings(max_examples=60, deadline=None)
@given(data=st.data(), name=st.sampled_from(SUMS))
def test_any_shape_and_any_labels_give_finite_losses_and_gradients(data, name):
    classes, samples = data.draw(st.integers(1, 7)), data.draw(st.integers(0, 9))
    counts = data.draw(st.lists(st.integers(0, 40), min_size=classes, max_size=classes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # counts of 0 and N warn, as another test says
        loss = create(name, LabelStats(counts, 40, thresholds=(5, 20)), reduction="sum")
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    logits = data.draw(st.sampled_from([0.1, 3.0, 300.0])) * torch.randn(samples, classes, generator=generator)
    targets = torch.randint(-1, 2, (samples, classes), generator=generator)
    assert loss(logits, targets).isfinite()
    assert loss(logits, targets) >= 0
    assert gradient(loss, logits, targets).isfinite().all()
    assert (gradient(loss, logits, targets)[targets == 1] <= 0).all()
    assert (gradient(loss, logits, targets)[targets == 0] >= 0).all()


def test_impossible_counts_warn_once_with_the_names():
    stats = LabelStats([0, 100, 5], 100, ["never", "always", "fine"])
    with pytest.warns(
        UserWarning, match=r"in no training sample, or in all 100: 'never', 'always'; .* 1 or 99$"
    ) as record:
        loss = create("pg", stats)
    assert len(record) == 1
    assert loss(torch.zeros(2, 3), torch.ones(2, 3)).isfinite()


@pytest.mark.parametrize(("impossible", "more"), [(5, ""), (7, " and 2 more")])
def test_a_warning_names_five_classes(impossible, more):
    names = ", ".join(f"'class {k}'" for k in range(5))
    with pytest.warns(UserWarning, match=f"in all 100: {names}{more}; the loss"):
        create("db", LabelStats([0] * impossible + [5], 100))
