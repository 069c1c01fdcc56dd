"""What Triton's kernels must do: the same as operations of torch, which are compared with the formulas elsewhere.

``tests/losses/test_triton.py`` runs this file, on a GPU where there is one, and in Triton's interpreter: that is chosen
by TRITON_INTERPRET=1, which must be set before anything imports Triton.
"""

from __future__ import annotations

import math
import os

import pytest
import torch

from tailwise import LabelStats
from tailwise.losses import create
from tailwise.losses.backends import Wanted, choose
from tailwise.losses.backends import triton as backend_module
from tailwise.losses.backends.eager import Eager
from tailwise.losses.backends.triton import Triton
from tailwise.losses.formula import Coefficients
from tests.losses.conftest import EVERY_PARAMETER, every_loss, loss_id

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
KINDS = ("binary", "unknown", "soft", "sparse", "sparse soft", "masked")
TOLERANCE = {torch.float32: 1e-5 if INTERPRETED else 3e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

pytestmark = [
    # Powers and quotients that leave the numbers are meant to: NumPy's are the interpreter's.
    pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state:UserWarning"),
]


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """Give every program several samples, as large batches do; the interpreter is the faster for it too."""
    monkeypatch.setattr(backend_module, "_PROGRAMS", 4)


def stats_of(classes):
    return LabelStats([1 + (37 * k) % 500 for k in range(classes)], 800)


def batch_of(samples, classes, kind="binary", dtype=torch.float32, seed=3):
    """Logits, targets and mask; the last class and the last sample have no positive."""
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(samples, classes, generator=generator)).to(dtype)
    targets = (torch.rand(samples, classes, generator=generator) < 0.2).to(torch.uint8)
    targets[:, -1] = 0
    targets[-1:] = 0
    unknown = torch.rand(samples, classes, generator=generator) < 0.3
    unknown[: samples // 8] = True
    soft = torch.rand(samples, classes, generator=generator)
    mask = None
    if kind == "unknown":
        targets = targets.to(torch.int8).masked_fill(unknown, -1)
    elif kind == "soft":
        targets = torch.where(soft < 0.5, targets.float(), soft).masked_fill(unknown, math.nan)
    elif kind == "sparse":
        targets = targets.to(torch.int64).to_sparse_csr()
    elif kind == "sparse soft":
        targets = (targets * soft).to_sparse_csr()
    elif kind == "masked":
        mask = (~unknown).to(DEVICE)
    return logits.to(DEVICE), targets.to(DEVICE), mask


def differentiated(variant, logits, targets, mask=None, **options):
    name, own = variant
    loss = create(name, stats_of(logits.shape[1]), **(own | options)).to(DEVICE)
    z = logits.detach().clone().requires_grad_()
    value = loss(z, targets, mask)
    value.backward(torch.linspace(-1, 2, value.numel(), device=DEVICE).view(value.shape) if value.ndim else None)
    return value.detach(), z.grad


def assert_same(variant, logits, targets, mask=None, **options):
    """Compare with operations of torch in float64, on the same numbers."""
    ours = differentiated(variant, logits, targets, mask, impl="triton", **options)
    exact = differentiated(variant, logits.double(), targets, mask, impl="eager", **options)
    assert ours[0].dtype == torch.float32
    assert ours[1].dtype == logits.dtype
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=TOLERANCE[torch.float32], atol=1e-7)
    largest = float(exact[1].abs().max()) if exact[1].numel() else 0.0
    smallest = torch.finfo(logits.dtype).smallest_normal * torch.finfo(logits.dtype).eps
    torch.testing.assert_close(ours[1].double(), exact[1], rtol=TOLERANCE[logits.dtype], atol=1e-6 * largest + smallest)


def parameters_for(variant, classes):
    """The variant for another number of classes than that of its values."""
    name, options = variant
    if options is EVERY_PARAMETER:
        options = {
            k: (v * classes)[:classes] if k != "adaptive" and isinstance(v, list) else v for k, v in options.items()
        }
    return name, options


@pytest.mark.parametrize("kind", KINDS[:4])
@pytest.mark.parametrize("variant", every_loss(), ids=loss_id)
def test_every_loss_of_every_kind_of_labels(variant, kind):
    assert_same(parameters_for(variant, 30), *batch_of(17, 30, kind))


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (3, 5), (64, 256), (33, 257), (5, 1300), (2, 2048), (300, 3)])
@pytest.mark.parametrize("variant", [("pg", {}), ("cb-focal", {}), ("asl", {})], ids=loss_id)
def test_every_shape(variant, shape):
    for kind in ("binary", "masked"):
        assert_same(variant, *batch_of(*shape, kind))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(kind, dtype):
    for variant in (("db-focal", {}), ("asl", {}), ("pg", {"focal_on": "plain"})):
        assert_same(variant, *batch_of(17, 130, kind, dtype), reduction="batchmean")


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    ],
)
def test_every_type_of_labels(dtype):
    logits, targets, _ = batch_of(9, 70)
    assert_same(("pg", {}), logits, targets.to(dtype))
    assert_same(("pg", {}), logits, targets.to(dtype).to_sparse_csr())


@pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean", "none"])
@pytest.mark.parametrize("kind", ["binary", "unknown", "soft"])
def test_reductions(reduction, kind):
    assert_same(("pg", {}), *batch_of(17, 130, kind), reduction=reduction)
    assert_same(("asl", {}), *batch_of(17, 130, kind, torch.float16), reduction=reduction)


def test_tables_that_are_not_contiguous():
    logits, targets, mask = batch_of(40, 200, "masked")
    assert_same(("pg", {}), logits[::2, 5:70], targets[1::2, 7:72], mask[::2, :65])
    assert_same(("pg", {}), logits.T, targets.T, mask.T)
    assert_same(("db-focal", {}), logits, targets[:1].expand(40, -1), mask[:, :1].expand(-1, 200))


@pytest.mark.parametrize("name", ["bce", "db-focal", "pg", "asl"])
@pytest.mark.parametrize("magnitude", [88.0, 1e4])
def test_extreme_logits(name, magnitude):
    signs = torch.tensor([1.0, -1.0] * 8)[:, None].expand(16, 9)
    targets = ((torch.arange(16)[:, None] + torch.arange(9)) % 3 == 0).to(DEVICE)
    assert_same((name, {}), (magnitude * signs).to(DEVICE), targets)
    assert_same((name, {}), (magnitude * signs).to(DEVICE), targets.float())


@pytest.mark.parametrize("name", ["bce", "db-focal", "asl", "pg"])
def test_what_is_no_number_stays_none_and_does_not_matter_where_nothing_is_known(name):
    logits, targets, mask = batch_of(17, 30, "masked")
    mask[4, 5], targets[4, 5] = False, 0
    logits[4, 5] = math.nan
    values, slopes = differentiated((name, {}), logits, targets, mask, impl="triton", reduction="none")
    assert values.isfinite().all()
    assert slopes.isfinite().all()
    mask[4, 5] = True
    for kind in (targets, targets.float()):
        values, slopes = differentiated((name, {}), logits, kind, mask, impl="triton", reduction="none")
        assert values[4, 5].isnan()
        assert slopes[4, 5].isnan()
        if name != "pg":  # there it is in the statistics
            assert values.isnan().sum() == slopes.isnan().sum() == 1


def test_a_second_backward_pass_and_one_that_scales():
    logits, targets, _ = batch_of(17, 130)
    gradients = []
    for impl in ("triton", "eager"):
        z = logits.clone().requires_grad_()
        value = create("pg", stats_of(130), impl=impl).to(DEVICE)(z, targets)
        (3 * value).backward(retain_graph=True)
        (0.5 * value).backward()
        gradients.append(z.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=TOLERANCE[torch.float32], atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaling_in_place(dtype):
    gradient = torch.randn(7, 1501, dtype=dtype).to(DEVICE)
    before = gradient.clone()
    backend = Triton()
    assert backend.scale_(gradient, torch.tensor(1.0, device=DEVICE)) is gradient
    torch.testing.assert_close(gradient, before, rtol=0, atol=0)
    backend.scale_(gradient, torch.tensor(-0.3, device=DEVICE))
    # The interpreter cuts bfloat16 numbers off where a GPU rounds them.
    scaled = (before.float() * -0.3).to(dtype)
    torch.testing.assert_close(gradient, scaled, rtol=8e-3 if INTERPRETED and dtype == torch.bfloat16 else 0, atol=0)
    after = gradient.clone()
    backend.scale_(gradient.T, torch.tensor(2.0, device=DEVICE))
    backend.scale_(gradient, torch.full((7, 1501), 0.5, device=DEVICE))
    torch.testing.assert_close(gradient, after, rtol=0, atol=0)


def test_derivatives_are_written_where_they_may_be():
    logits, targets, _ = batch_of(17, 130)
    backend, coefficients = Triton(), Coefficients()
    expected = Eager().evaluate(logits, targets, None, coefficients, Wanted(gradient=True, values=False, factor=0.25))
    for out in (torch.empty_like(logits), torch.zeros(17, 200, device=DEVICE)[:, 9:139], logits.clone()):
        source = out if out.is_contiguous() and out.any() else logits
        wanted = Wanted(gradient=True, values=False, factor=0.25, out=out)
        evaluated = backend.evaluate(source.copy_(logits), targets, None, coefficients, wanted)
        assert evaluated.gradient is out
        torch.testing.assert_close(out, expected.gradient, rtol=TOLERANCE[torch.float32], atol=1e-8)
        torch.testing.assert_close(evaluated.total, expected.total, rtol=TOLERANCE[torch.float32], atol=0)


def test_sparse_labels_in_several_blocks(monkeypatch):
    monkeypatch.setattr(backend_module, "_SCRATCH_BYTES", 130 * 5)
    for kind in ("sparse", "sparse soft"):
        assert_same(("pg", {}), *batch_of(17, 130, kind))
        assert_same(("db-focal", {}), *batch_of(17, 130, kind), reduction="none")


def test_sums_are_the_same_every_time():
    logits, targets, _ = batch_of(40, 300, "unknown")
    loss = create("pg", stats_of(300), impl="triton").to(DEVICE)
    assert len({loss(logits, targets).item() for _ in range(3)}) == 1


def test_what_it_is_chosen_for():
    assert isinstance(choose("auto", torch.zeros(1, 1, device=DEVICE)), Triton)
    assert isinstance(choose("auto", torch.zeros(1, 1, device=DEVICE, dtype=torch.float64)), Eager)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter would take hours for so many pairs")
def test_tables_of_more_than_two_to_the_31_pairs():
    if torch.cuda.mem_get_info()[0] < 20 << 30:
        pytest.skip("there are no 20 GB free on the GPU")
    samples, classes = 66_000, 32_768
    last = slice(samples - 100, samples)
    logits, targets, _ = batch_of(100, classes, dtype=torch.bfloat16)
    whole = torch.zeros(samples, classes, device=DEVICE, dtype=torch.bfloat16)
    labels = torch.zeros(samples, classes, device=DEVICE, dtype=torch.uint8)
    whole[last], labels[last] = logits, targets
    expected = differentiated(("db-focal", {}), logits, targets, impl="eager", reduction="sum")[1]
    whole.requires_grad_()
    create("db-focal", stats_of(classes), impl="triton", reduction="sum").to(DEVICE)(whole, labels).backward()
    torch.testing.assert_close(whole.grad[last], expected, rtol=1.6e-2, atol=1e-6)
