"""Head and loss in chunks equal head and loss one after the other: values, gradients, updates."""

from __future__ import annotations

import copy
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from tailwise import LabelStats
from tailwise.losses import ChunkedSGD, create, linear_loss, sharded_linear_loss
from tests.losses.conftest import every_loss, loss_id
from tests.losses.test_implementations import LABELS, labels, stored_with_mask

VARIANTS = pytest.mark.parametrize("variant", every_loss(), ids=loss_id)
SAMPLES, WIDTH, CLASSES = 16, 6, 9


def head(dtype=torch.float32, classes=CLASSES, samples=SAMPLES):
    generator = torch.Generator().manual_seed(11)
    shapes = ((samples, WIDTH), (classes, WIDTH), (classes,))
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def plain(features, weight, bias, targets, loss, mask):
    return loss(functional.linear(features, weight, bias), targets, mask)


def value_and_gradients(function, tensors, *rest, upstream=1.0, **options):
    tensors = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    value = function(*tensors, *rest, **options)
    (value * upstream).backward()
    return value.detach(), [tensor.grad for tensor in tensors]


def agree(actual, expected, rtol=2e-5, atol=1e-6):
    torch.testing.assert_close(actual[0], expected[0], rtol=rtol, atol=1e-6)
    for one, other in zip(actual[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol * max(1.0, other.abs().max().item()))


@VARIANTS
@pytest.mark.parametrize("kind", LABELS)
def test_chunks_equal_the_whole(variant, kind, stats):
    name, options = variant
    targets, mask = labels(kind, (SAMPLES, CLASSES))
    expected = value_and_gradients(plain, head(), targets, create(name, stats, **options), mask)
    for chunk in (1, 4, 100):
        loss = create(name, stats, **options)
        agree(value_and_gradients(linear_loss, head(), targets, loss, mask, chunk=chunk), expected)


@pytest.mark.parametrize("name", ["bce", "cb-focal", "db-focal", "pg", "pg-auto", "asl"])
@pytest.mark.parametrize(
    "kind", ["hard", "masked", "soft", "soft, masked", "sparse, masked", "sparse, soft", "sparse, soft, masked"]
)
def test_soft_labels_and_masks_count_in_every_chunk(name, kind, stats):
    """Against the whole, in float64, on dense labels with NaN for what is unknown."""
    targets, mask, dense = stored_with_mask(soft="soft" in kind)
    if "sparse" not in kind:
        targets = targets.to_dense()
    if "masked" not in kind:
        dense, mask = targets.to_dense() if "sparse" in kind else targets, None
    known = dense.double().masked_fill(~(dense >= 0), torch.nan)
    expected = value_and_gradients(plain, head(torch.float64), known, create(name, stats), None)
    single = expected[0].float(), [gradient.float() for gradient in expected[1]]
    for chunk in (1, 4, 100):
        agree(value_and_gradients(linear_loss, head(), targets, create(name, stats), mask, chunk=chunk), single)


@pytest.mark.parametrize("name", ["db-focal", "pg", "pg-auto", "asl"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean"])
def test_reductions_and_upstream_factors(name, reduction, stats):
    targets, mask = labels("int8 with unknown", (SAMPLES, CLASSES))
    loss = create(name, stats, reduction=reduction)
    expected = value_and_gradients(plain, head(), targets, copy.deepcopy(loss), mask, upstream=3.0)
    agree(value_and_gradients(linear_loss, head(), targets, loss, mask, chunk=4, upstream=3.0), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_types(dtype, stats):
    targets, mask = labels("uint8", (SAMPLES, CLASSES))
    loss = create("pg", stats)
    expected = value_and_gradients(plain, head(dtype), targets, loss, mask)
    actual = value_and_gradients(linear_loss, head(dtype), targets, loss, mask, chunk=4)
    assert [gradient.dtype for gradient in actual[1]] == [dtype] * 3
    tolerance = {torch.float64: 1e-10, torch.bfloat16: 2e-2, torch.float16: 4e-3}[dtype]
    agree(actual, expected, rtol=tolerance, atol=tolerance / 10)


def test_autocast(stats):
    targets, mask = labels("uint8", (SAMPLES, CLASSES))
    loss = create("db-focal", stats)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = value_and_gradients(plain, head(), targets, loss, mask)
        actual = value_and_gradients(linear_loss, head(), targets, loss, mask, chunk=4)
    assert [gradient.dtype for gradient in actual[1]] == [torch.float32] * 3
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-6, atol=1e-7)  # the logits are the same
    agree(actual, expected, rtol=2e-2, atol=2e-3)


def test_without_bias_and_without_gradients(stats):
    targets, mask = labels("sparse", (SAMPLES, CLASSES))
    features, weight, _ = head()
    loss = create("pg", stats)
    value = linear_loss(features, weight, None, targets, loss)
    torch.testing.assert_close(value, plain(features, weight, None, targets, loss, mask))
    value.backward()
    frozen = features.grad.clone()
    features.grad = None
    linear_loss(features, weight.detach(), None, targets, loss).backward()
    torch.testing.assert_close(features.grad, frozen)
    with torch.no_grad():
        assert linear_loss(features, weight, None, targets, loss).grad_fn is None


def test_a_second_backward_pass(stats):
    targets, _ = labels("uint8", (SAMPLES, CLASSES))
    tensors = head()
    value = linear_loss(*tensors, targets, create("pg", stats), chunk=4)
    first = torch.autograd.grad(value, tensors, torch.tensor(3.0), retain_graph=True)
    kept = [gradient.clone() for gradient in first]
    for gradient in first:
        gradient.zero_()
    for one, other in zip(torch.autograd.grad(value, tensors, torch.tensor(3.0)), kept, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "weight_decay": 0.1}])
@pytest.mark.parametrize("name", ["db-focal", "pg"])
def test_steps_in_the_loop_are_those_of_torch(name, options, stats):
    targets, _ = labels("sparse", (SAMPLES, CLASSES))
    loss = create(name, stats)
    features, weight, bias = head()
    theirs = [tensor.detach().clone().requires_grad_() for tensor in (weight, bias)]
    optimizer, sgd = torch.optim.SGD(theirs, lr=0.5, **options), ChunkedSGD(0.5, **options)
    for step in range(4):
        optimizer.param_groups[0]["lr"] = sgd.lr = 0.5 / (step + 1)
        optimizer.zero_grad()
        (expected,) = torch.autograd.grad(plain(features, *theirs, targets, loss, None), features, retain_graph=True)
        plain(features, *theirs, targets, loss, None).backward()
        optimizer.step()
        features.grad = None
        linear_loss(features, weight, bias, targets, loss, chunk=4, sgd=sgd).backward()
        torch.testing.assert_close(features.grad, expected, rtol=1e-5, atol=1e-7)
        assert weight.grad is None
        if step == 1:  # a run that is resumed
            restored = ChunkedSGD(0.0, **options)
            restored.load_state_dict(sgd.state_dict())
            sgd = restored
    torch.testing.assert_close(weight, theirs[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(bias, theirs[1], rtol=1e-5, atol=1e-6)


def test_a_stepped_head_has_one_backward_pass(stats):
    targets, _ = labels("uint8", (SAMPLES, CLASSES))
    features, weight, bias = head()
    value = linear_loss(features, weight, bias, targets, create("bce", stats), sgd=ChunkedSGD(0.1))
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="updated in the forward pass has one backward pass"):
        value.backward()


def test_memory_is_that_of_a_chunk():
    """Neither logits nor a table of their size is ever made."""
    samples, classes = 64, 20000
    stats = LabelStats(np.full(classes, 30), 1000)
    columns = torch.randint(classes, (samples, 3), generator=torch.Generator().manual_seed(0)).sort(1).values
    entries = torch.ones(3 * samples, dtype=torch.uint8)
    bounds = torch.arange(0, 3 * samples + 1, 3)
    targets = torch.sparse_csr_tensor(bounds, columns.flatten(), entries, (samples, classes), check_invariants=True)
    features, weight, bias = head(classes=classes, samples=samples)
    largest = LargestTensor()
    with largest:
        linear_loss(features, weight, bias, targets, create("pg", stats), chunk=500).backward()
    assert largest.elements <= max(weight.numel(), 4 * classes, 500 * samples)
    assert largest.elements < samples * classes / 8


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the elements of the largest dense tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


class Wrapped(torch.nn.Module):
    """A backbone with a head, as distributed data parallel takes them."""

    def __init__(self, name, stats, function):
        super().__init__()
        torch.manual_seed(1)
        self.backbone, self.head = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, CLASSES)
        self.loss, self.function = create(name, stats), function

    def forward(self, inputs, targets):
        options = {"chunk": 4} if self.function is linear_loss else {"mask": None}
        return self.function(self.backbone(inputs), self.head.weight, self.head.bias, targets, self.loss, **options)


PROCESS_LOSSES = ("db-focal", "pg", "pg-auto")


def run_rank(rank, rendezvous, results):
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    stats = LabelStats([610, 250, 130, 60, 25, 20, 12, 5, 1], 800)
    own, record = slice(8 * rank, 8 * rank + 8), {}
    features, weight, bias = head()
    for name in PROCESS_LOSSES:
        for kind in ("uint8", "sparse"):
            dense, _ = labels("uint8", (SAMPLES, CLASSES))
            targets = dense[own].to_sparse_csr() if kind == "sparse" else dense[own]
            for function in (linear_loss, plain):
                model = DistributedDataParallel(Wrapped(name, stats, function))
                value = model(features.detach()[own], targets)
                value.backward()
                record[name, kind, function.__name__] = value.detach(), [p.grad for p in model.parameters()]
            # Four classes here and five there; batches of different size; steps of both kinds.
            classes = slice(0, 4) if rank == 0 else slice(4, 9)
            uneven = slice(0, 5) if rank == 0 else slice(5, 16)
            targets = dense[uneven].to_sparse_csr() if kind == "sparse" else dense[uneven]
            tensors = [t.detach().clone().requires_grad_() for t in (features[uneven], weight[classes], bias[classes])]
            loss = create(name, stats)
            value = sharded_linear_loss(*tensors, targets, loss, first=classes.start, chunk=2)
            value.backward()
            record[name, kind, "sharded"] = value.detach(), [t.grad for t in tensors]
        stepped = [t.detach().clone().requires_grad_() for t in (features[own], weight, bias)]
        linear_loss(*stepped, dense[own], create(name, stats), chunk=4, sgd=ChunkedSGD(0.5)).backward()
        record[name, "stepped"] = [t.detach() for t in stepped[1:]]
    torch.save(record, f"{results}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes(tmp_path, stats):
    mp.spawn(run_rank, (tmp_path / "rendezvous", tmp_path), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    targets, _ = labels("uint8", (SAMPLES, CLASSES))
    for name in PROCESS_LOSSES:
        whole = value_and_gradients(plain, head(), targets, create(name, stats), None)
        for kind in ("uint8", "sparse"):
            for rank in ranks:
                agree(rank[name, kind, "linear_loss"], rank[name, kind, "plain"])
                torch.testing.assert_close(rank[name, kind, "sharded"][0], whole[0], rtol=1e-5, atol=1e-7)
            parts = [rank[name, kind, "sharded"][1] for rank in ranks]
            by_features, by_weight, by_bias = (torch.cat(pair) for pair in zip(*parts, strict=True))
            agree((whole[0], [by_features / 2, by_weight, by_bias]), whole)
        # Both processes have made the step that data parallel training makes.
        _, (_, by_weight, by_bias) = whole
        for actual, start, gradient in zip(ranks[0][name, "stepped"], head()[1:], (by_weight, by_bias), strict=True):
            torch.testing.assert_close(actual, (start - 0.5 * gradient).detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ranks[1][name, "stepped"], ranks[0][name, "stepped"], rtol=0, atol=0)


@pytest.mark.usefixtures("unchecked")
class TestErrors:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"features": torch.zeros(16, 5)},
                r"features must be \(B, D\) and weight \(C, D\), got \(16, 5\) and \(9, 6\)",
            ),
            ({"weight": torch.zeros(8, 6)}, "weight must have a row for each of 9 classes, got 8"),
            ({"bias": torch.zeros(3)}, r"bias must be \(9,\), one for each row of weight, got \(3,\)"),
            (
                {"targets": torch.zeros(16, 8)},
                r"targets must be \(16, 9\), samples by classes of the loss, got \(16, 8\)",
            ),
            (
                {"mask": torch.zeros(16, 9)},
                r"mask must be boolean with the shape of the targets \(16, 9\), got torch.float32 .*: give mask.bool",
            ),
            ({"features": np.zeros((16, 6))}, r"features must be a torch.Tensor, got numpy.ndarray: give torch.from_"),
            ({"targets": np.zeros((16, 9))}, r"targets must be a torch.Tensor, got numpy.ndarray: give torch.from_"),
            ({"loss": torch.nn.BCEWithLogitsLoss()}, "loss must be one of tailwise.losses, .* got BCEWithLogitsLoss"),
            ({"chunk": 0}, "chunk must be at least 1 class, got 0"),
            ({"targets": torch.full((16, 9), 3)}, "targets must be 0, 1, soft"),
        ],
    )
    def test_bad_input(self, change, message, stats):
        features, weight, bias = head()
        given = {"features": features, "weight": weight, "bias": bias, "targets": torch.zeros(16, 9), "mask": None}
        with pytest.raises(ValueError, match=message):
            linear_loss(**({"loss": create("bce", stats)} | given | change))

    def test_a_table_is_not_reduced(self, stats):
        with pytest.raises(ValueError, match="reduction of the loss must not be 'none'"):
            linear_loss(*head(), torch.zeros(16, 9), create("bce", stats, reduction="none"))

    def test_no_processes(self, stats):
        with pytest.raises(RuntimeError, match="initialize a process group"):
            sharded_linear_loss(*head(), torch.zeros(16, 9), create("bce", stats), first=0)

    def test_steps_must_be_possible(self):
        with pytest.raises(ValueError, match="lr must not be negative, got -1"):
            ChunkedSGD(-1)
