"""Every implementation gives the values and gradients of the eager one: losses × types × labels × odd shapes."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tailwise import LabelStats
from tailwise.losses import backends, create
from tailwise.losses.batches import sparse_row_sums
from tests.losses.conftest import NUM_SAMPLES, every_loss, loss_id

VARIANTS = pytest.mark.parametrize("variant", every_loss(), ids=loss_id)
LABELS = ("uint8", "bool", "int8 with unknown", "int64", "0 and 1 in float", "soft with unknown", "masked", "sparse")
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def labels(kind: str, shape: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(3)
    hard = torch.rand(shape, generator=generator) < 0.2
    unknown = torch.rand(shape, generator=generator) < 0.3
    if kind == "soft with unknown":
        soft = torch.rand(shape, generator=generator).masked_fill(unknown, float("nan"))
        return soft, None
    return {
        "uint8": (hard.to(torch.uint8), None),
        "bool": (hard, None),
        "int8 with unknown": (hard.to(torch.int8).masked_fill(unknown, -1), None),
        "int64": (hard.long().masked_fill(unknown, -1), None),
        "0 and 1 in float": (hard.float(), None),
        "masked": (hard, ~unknown),
        "sparse": (hard.to(torch.int8).masked_fill(unknown & hard, -1).to_sparse_csr(), None),
    }[kind]


def logits_of(shape, dtype, scale=3.0):
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(4))).to(dtype)


def value_and_gradient(loss, logits, targets, mask):
    logits = logits.clone().requires_grad_()
    value = loss(logits, targets, mask)
    value.sum().backward()
    return value.detach(), logits.grad


def agree(actual, expected, dtype):
    torch.testing.assert_close(actual[0], expected[0], rtol=3e-6, atol=1e-6)
    largest = expected[1].abs().max().item() if expected[1].numel() else 0.0
    # Where the terms of a derivative cancel, as at the margin of ASL, float32 has their digits only.
    torch.testing.assert_close(actual[1], expected[1], rtol=TOLERANCE[dtype], atol=4e-6 * largest)


@VARIANTS
@pytest.mark.parametrize("kind", LABELS)
def test_numba_agrees_for_all_labels(variant, kind, stats):
    name, options = variant
    targets, mask = labels(kind, (16, 9))
    logits = logits_of((16, 9), torch.float32)
    for reduction in ("mean", "none"):
        pair = [
            value_and_gradient(create(name, stats, **options, reduction=reduction, impl=impl), logits, targets, mask)
            for impl in ("numba", "eager")
        ]
        agree(*pair, torch.float32)


@VARIANTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_numba_agrees_for_all_types(variant, dtype, stats):
    name, options = variant
    targets, mask = labels("uint8", (16, 9))
    logits = logits_of((16, 9), dtype)
    pair = [
        value_and_gradient(create(name, stats, **options, impl=impl), logits, targets, mask)
        for impl in ("numba", "eager")
    ]
    assert pair[0][1].dtype == dtype
    agree(*pair, dtype)


@pytest.mark.parametrize("shape", [(1, 1), (3, 513), (300, 5), (130, 1031), (0, 4)])
@pytest.mark.parametrize("name", ["db-focal", "pg", "asl", "cb-focal", "pg-auto"])
@pytest.mark.parametrize("kind", ["uint8", "soft with unknown", "sparse"])
def test_numba_agrees_for_odd_shapes(name, shape, kind):
    counts = np.random.default_rng(0).integers(1, 500, shape[1])
    targets, mask = labels(kind, shape)
    logits = logits_of(shape, torch.float32)
    pair = [
        value_and_gradient(create(name, LabelStats(counts, 600), impl=impl), logits, targets, mask)
        for impl in ("numba", "eager")
    ]
    agree(*pair, torch.float32)


def stored_with_mask(soft: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sparse labels of which some entries are unknown or 0, a mask, and both as dense labels with NaN for unknown.

    Two classes have no positive, so that others of their group replace them, and one has none that is not masked.
    """
    generator = torch.Generator().manual_seed(8)
    is_stored = torch.rand(16, 9, generator=generator) < 0.5
    is_stored[:, [4, 8]] = False
    kind = torch.rand(16, 9, generator=generator)
    values = torch.rand(16, 9, generator=generator).clamp(min=0.01) if soft else torch.ones(16, 9)
    values = values.masked_fill(kind < 0.2, -1.0).masked_fill((kind >= 0.2) & (kind < 0.3), 0.0)
    if soft:
        values = values.masked_fill((kind >= 0.3) & (kind < 0.4), float("nan"))
    bounds = torch.cat([torch.zeros(1, dtype=torch.int64), is_stored.sum(1).cumsum(0)])
    entries = values[is_stored] if soft else values[is_stored].to(torch.int8)
    stored = torch.sparse_csr_tensor(bounds, is_stored.nonzero()[:, 1], entries, (16, 9), check_invariants=True)
    mask = torch.rand(16, 9, generator=generator) < 0.7
    mask[:, 1] &= ~is_stored[:, 1]
    dense = torch.where(is_stored, values, 0.0)
    return stored, mask, dense.masked_fill((dense < 0) | ~mask, float("nan"))


@pytest.mark.parametrize("name", ["bce", "cb-focal", "db-focal", "pg", "pg-auto", "asl"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("impl", ["numba", "eager"])
def test_soft_labels_and_masks_of_sparse_samples(name, soft, impl, stats):
    stored, mask, dense = stored_with_mask(soft)
    logits = logits_of((16, 9), torch.float32)
    with_mask = value_and_gradient(create(name, stats, impl=impl), logits, stored, mask)
    expected = value_and_gradient(create(name, stats), logits.double(), dense.double(), None)
    agree(with_mask, (expected[0].float(), expected[1].float()), torch.float32)
    without = value_and_gradient(create(name, stats, impl=impl), logits, stored, None)
    dense = stored.to_dense().double()
    expected = value_and_gradient(create(name, stats), logits.double(), dense.where(dense >= 0, torch.nan), None)
    agree(without, (expected[0].float(), expected[1].float()), torch.float32)


@pytest.mark.parametrize("impl", ["numba", "eager"])
def test_bfloat16_gradients_are_rounded_to_the_nearest_and_to_even(impl, stats):
    targets, _ = labels("uint8", (16, 9))
    for name in ("bce", "db-focal", "pg"):
        logits = logits_of((16, 9), torch.bfloat16)
        _, rounded = value_and_gradient(create(name, stats, impl=impl, reduction="sum"), logits, targets, None)
        _, exact = value_and_gradient(create(name, stats, reduction="sum"), logits.double(), targets, None)
        below = torch.exp2(exact.abs().log2().floor()) / 128  # a unit in the last of 8 digits
        error = (rounded.double() - exact).abs() / below
        assert error.max() < 0.501  # cut, it would come near 1
    # At logit 0 the derivative is half of the factor: with 9 digits it lies in the middle between two numbers.
    for digits, even in ((1 + 1 / 256, 1.0), (1 + 3 / 256, 1 + 4 / 256)):
        loss = create("formula", stats, impl=impl, reduction="sum", balance=digits)
        zero = torch.zeros(2, 9, dtype=torch.bfloat16)
        _, gradient = value_and_gradient(loss, zero, torch.tensor([[0] * 9, [1] * 9], dtype=torch.uint8), None)
        assert (2 * gradient.float()).tolist() == [[even] * 9, [-even] * 9]


@pytest.mark.parametrize("impl", ["numba", "eager"])
@pytest.mark.parametrize("name", ["bce", "ntr", "focal", "r-bce"])
def test_confident_pairs_keep_their_digits(name, impl, stats):
    """Beyond 20, 1 − p is lost in float32, and value and derivative are as small as p; in float64 they are exact."""
    distances = torch.tensor([12.0, 19.0, 20.5, 22.0, 24.5, 26.0, 28.0])
    logits = torch.cat([-distances, distances])[:, None].expand(14, 9).contiguous()
    targets = (logits > 0).to(torch.uint8)
    loss = create(name, stats, impl=impl, reduction="none")
    value, gradient = value_and_gradient(loss, logits, targets, None)
    y, z = targets.double(), logits.double()
    weight, shift, scale, gamma, factor = torch.ones(14, 9).double(), torch.zeros(9).double(), 1, 0, 1
    counts = torch.tensor([610, 250, 130, 60, 25, 20, 12, 5, 1]).double()
    if name == "ntr":
        shift, scale = 0.05 / 2 * torch.log(NUM_SAMPLES / counts - 1), 2
    elif name == "focal":
        gamma, factor = 2, 2
    elif name == "r-bce":
        ratio = torch.where(y.any(1, keepdim=True), 1 / counts / (1 / counts).sum(), torch.inf)
        weight = 0.1 + torch.sigmoid(10 * (ratio - 0.2))
    slope = torch.where(targets == 1, -1.0, float(scale)).double()
    a = slope * (z - shift)  # far below 0 on the right side
    factor = factor * weight / slope.abs()
    softplus, sigmoid = torch.log1p(torch.exp(a)), torch.exp(a) / (1 + torch.exp(a))
    expected = factor * sigmoid**gamma * softplus
    derivative = factor * slope * sigmoid**gamma * (sigmoid + gamma * softplus / (1 + torch.exp(a)))
    # A float32 argument near 60 is known to 4e-6, and so is what it is the exponent of.
    torch.testing.assert_close(value.double(), expected, rtol=2e-5, atol=1e-37)
    torch.testing.assert_close(gradient.double(), derivative, rtol=2e-5, atol=1e-37)
    assert expected.max() > 0
    assert (value > 0).all()


@pytest.mark.parametrize("impl", ["numba", "eager"])
@pytest.mark.parametrize("sparse", [False, True])
def test_counts_stand_for_1(impl, sparse, stats):
    """Only the first batch is checked; what comes later must not be weighed by how often it was counted."""
    logits, (targets, _) = logits_of((16, 9), torch.float32), labels("int64", (16, 9))
    targets = targets.clamp(min=0)
    counted = 3 * targets
    if sparse:
        targets, counted = targets.to_sparse_csr(), counted.to_sparse_csr()
    loss = create("focal", stats, impl=impl, validate=False)
    expected = value_and_gradient(loss, logits, targets, None)
    agree(value_and_gradient(loss, logits, counted, None), expected, torch.float32)


def test_sums_of_sparse_samples_without_a_mask():
    targets, _ = labels("sparse", (16, 9))
    values = torch.rand(2, 9, generator=torch.Generator().manual_seed(5))
    expected = targets.to_dense().clamp(min=0).float() @ values.T
    torch.testing.assert_close(backends.choose("numba", values).row_sums(targets, None, values), expected)


def test_sums_of_sparse_samples_weigh_soft_labels():
    stored, _, _ = stored_with_mask(soft=True)
    values = torch.rand(2, 9, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    expected = torch.zeros(16, 2, dtype=torch.float64)
    for i, row in enumerate(stored.to_dense().tolist()):
        for m in range(2):
            expected[i, m] = sum(y * values[m, k].item() for k, y in enumerate(row) if y > 0)
    torch.testing.assert_close(sparse_row_sums(stored, values), expected)
    single = backends.choose("numba", values.float()).row_sums(stored, None, values.float())
    torch.testing.assert_close(single, expected.float())


@pytest.mark.parametrize("transpose", [False, True])
def test_layouts_other_than_rows(transpose, stats):
    logits, (targets, _) = logits_of((32, 18), torch.float32)[::2, ::2], labels("uint8", (32, 18))
    targets = targets[::2, ::2]
    if transpose:
        logits, targets = logits.T.contiguous().T, targets.T.contiguous().T
    loss = create("db-focal", stats)
    expected = value_and_gradient(loss, logits.contiguous(), targets.contiguous(), None)
    agree(value_and_gradient(loss, logits, targets, None), expected, torch.float32)


@pytest.mark.parametrize("impl", ["numba", "eager"])
def test_the_number_of_threads_changes_nothing(impl):
    shape = (200, 700)
    stats = LabelStats(np.random.default_rng(0).integers(1, 500, shape[1]), 600)
    targets, mask = labels("int8 with unknown", shape)
    logits = logits_of(shape, torch.float32)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(value_and_gradient(create("pg", stats, impl=impl), logits, targets, mask))
    finally:
        torch.set_num_threads(threads)
    if impl == "numba":
        torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    else:
        agree(results[0], results[1], torch.float32)


@pytest.mark.parametrize("impl", ["numba", "eager"])
def test_what_is_no_number_is_not_hidden(impl, stats):
    targets, _ = labels("uint8", (16, 9))
    for name in ("bce", "db-focal", "pg", "asl"):
        logits = logits_of((16, 9), torch.float32)
        logits[3, 4] = float("nan")
        value, gradient = value_and_gradient(create(name, stats, impl=impl), logits, targets, None)
        assert value.isnan()
        assert gradient[3, 4].isnan()


@pytest.mark.parametrize("impl", ["numba", "eager"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_second_backward_pass_gives_the_same(impl, reduction, stats):
    targets, _ = labels("int8 with unknown", (16, 9))
    logits = logits_of((16, 9), torch.float32).requires_grad_()
    value = create("pg", stats, impl=impl, reduction=reduction)(logits, targets)
    upstream = torch.full_like(value, 3.0)
    (first,) = torch.autograd.grad(value, logits, upstream, retain_graph=True)
    kept = first.clone()
    first.zero_()  # it is the caller's
    (second,) = torch.autograd.grad(value, logits, upstream)
    torch.testing.assert_close(second, kept, rtol=0, atol=0)


def test_a_scaled_half_gradient_keeps_its_digits(stats):
    """A mean over very many pairs makes derivatives smaller than float16 has: the scaler must come first."""
    samples, classes = 512, 400
    counts = np.full(classes, 50)
    targets, _ = labels("uint8", (samples, classes))
    logits = logits_of((samples, classes), torch.float16).requires_grad_()
    for impl in ("numba", "eager"):
        loss = create("focal", LabelStats(counts, 600), impl=impl)
        (scaled,) = torch.autograd.grad(loss(logits, targets) * 65536, logits)
        full = logits.detach().float().requires_grad_()
        (expected,) = torch.autograd.grad(loss(full, targets), full)
        torch.testing.assert_close(scaled.float() / 65536, expected, rtol=2e-3, atol=1e-9)


def test_gradients_reach_the_layers_below(stats):
    """The gradient is handed over in place: what is upstream of it and other losses must not see that."""
    torch.manual_seed(0)
    layer, features = torch.nn.Linear(5, 9), torch.randn(16, 5)
    targets, _ = labels("uint8", (16, 9))
    for impl in ("numba", "eager"):
        loss = create("db-focal", stats, impl=impl)
        logits = layer(features)
        parts = loss(logits, targets) + 2 * loss(logits * 0.5, targets)
        gradients = torch.autograd.grad(parts, layer.parameters())
        table = create("db-focal", stats, impl="eager", reduction="none")
        logits = layer(features).double()
        plain = table(logits, targets).mean() + 2 * table(logits * 0.5, targets).mean()
        for actual, expected in zip(gradients, torch.autograd.grad(plain, layer.parameters()), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)


class TestChoice:
    def test_it_is_said_once(self, stats, batch, caplog):
        backends._say_once.cache_clear()
        logits, targets = batch[0].float(), batch[1]
        with caplog.at_level(logging.INFO, logger="tailwise.losses.backends"):
            for _ in range(2):
                create("bce", stats)(logits, targets)
                create("pg", stats)(batch[0], targets)
        assert [record.getMessage() for record in caplog.records] == [
            "losses of float32 logits on cpu are evaluated by numba",
            "losses of float64 logits on cpu are evaluated by eager",
        ]

    def test_without_numba_torch_does_it(self, stats, batch, monkeypatch):
        monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
        for function in (backends._automatic, backends._why_not):
            function.cache_clear()
        try:
            assert type(backends.choose("auto", batch[0].float())).__name__ == "Eager"
            with pytest.raises(ValueError, match=r"impl='numba' cannot be used: numba is not installed; impl='auto'"):
                create("bce", stats, impl="numba")(batch[0].float(), batch[1])
        finally:
            for function in (backends._automatic, backends._why_not):
                function.cache_clear()

    def test_numba_does_not_round_float64(self, stats, batch):
        with pytest.raises(ValueError, match="it computes in float32, and the logits are float64"):
            create("bce", stats, impl="numba")(*batch)

    @pytest.mark.usefixtures("unchecked")
    def test_a_name_that_does_not_exist(self, stats):
        with pytest.raises(ValueError, match="impl must be one of auto, eager, numba, triton, got 'cuda'"):
            create("bce", stats, impl="cuda")


def test_little_is_made_apart_from_the_gradient(stats):
    """All tensors that a step makes, whether or not at the same time, are hardly larger than the gradient."""
    shape = (768, 2048)
    loss = create("pg", LabelStats(np.full(shape[1], 30), NUM_SAMPLES))
    logits, (targets, _) = logits_of(shape, torch.float32).requires_grad_(), labels("uint8", shape)
    loss(logits, targets)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        loss(logits, targets)
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in recorded.key_averages())
    assert allocated < 1.1 * logits.numel() * logits.element_size()
