"""Losses that are no sum over labels: naive loops, unknown labels, precision, derivatives, and what is refused."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional

from tailwise.losses import create, linear_loss
from tests.losses.conftest import COUPLED

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # of forward mode
NAMES = pytest.mark.parametrize("name", COUPLED)


def softplus(a):
    return max(a, 0) + math.log1p(math.exp(-abs(a)))


def two_way(rows, temperature=4.0):
    """From the formula, pair by pair; rows of (z, y), where y is None if unknown."""
    totals = []
    for lines in (rows, list(zip(*rows, strict=True))):
        values = []
        for line in lines:
            negatives = [z for z, y in line if y == 0]
            positives = [z for z, y in line if y == 1]
            if positives and not negatives:
                values.append(0.0)
            elif positives:
                low = math.log(sum(math.exp(z) for z in negatives))
                high = math.log(sum(math.exp(-z / temperature) for z in positives))
                values.append(softplus(low + temperature * high))
        totals.append(sum(values) / max(len(values), 1))
    return sum(totals)


def zlpr(rows):
    known = [[(z, y) for z, y in row if y is not None] for row in rows]
    return sum(
        math.log(1 + sum((1 - y) * math.exp(z) for z, y in row)) + math.log(1 + sum(y * math.exp(-z) for z, y in row))
        for row in known
    ) / max(sum(bool(row) for row in known), 1)


ORACLES = {"two-way": two_way, "zlpr": zlpr}
SOFT = ("zlpr",)
"""Losses that take soft targets."""


def cases(kind):
    """(7, 9) float64 logits; targets with a sample without positives, one without negatives, and unknown ones."""
    generator = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(7, 9, generator=generator, dtype=torch.float64)
    hard = (torch.rand(7, 9, generator=generator) < 0.4).to(torch.int8)
    hard[2], hard[3], hard[:, 5], hard[:, 6] = 0, 1, 0, 1
    unknown = torch.rand(7, 9, generator=generator) < 0.3
    unknown[4], unknown[:, 7] = True, True
    if kind == "known":
        return logits, hard, None
    if kind == "masked":
        return logits, hard, ~unknown
    marked = hard.masked_fill(unknown, -1)
    if kind == "sparse":
        return logits, marked.to_sparse_csr(), None
    return logits, marked.double().masked_fill(unknown, math.nan) if kind == "NaN" else marked, None


def differentiated(loss, logits, targets, mask=None):
    logits = logits.clone().requires_grad_()
    value = loss(logits, targets, mask)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return value.detach(), gradient


KINDS = pytest.mark.parametrize("kind", ["known", "unknown", "NaN", "masked", "sparse"])


@NAMES
@KINDS
def test_values_are_those_of_the_formula(name, kind, stats):
    logits, targets, mask = cases(kind)
    dense = targets.to_dense() if kind == "sparse" else targets
    known = (dense >= 0) & (True if mask is None else mask)
    rows = [
        [(z, y if is_known else None) for z, y, is_known in zip(*row, strict=True)]
        for row in zip(logits.tolist(), dense.tolist(), known.tolist(), strict=True)
    ]
    loss = create(name, stats)
    torch.testing.assert_close(loss(logits, targets, mask).item(), ORACLES[name](rows), rtol=1e-12, atol=0)
    # Whatever the logits of unknown pairs are, nothing moves, and they have no gradient.
    disturbed = logits.masked_fill(~known, math.nan)
    value, gradient = differentiated(loss, disturbed, targets, mask)
    torch.testing.assert_close(value, loss(logits, targets, mask), rtol=0, atol=0)
    assert (gradient[~known] == 0).all()
    assert gradient.isfinite().all()


@NAMES
@KINDS
def test_derivatives_of_every_order(name, kind, stats):
    logits, targets, mask = cases(kind)
    loss = create(name, stats, validate=False)
    probe = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, targets, mask), probe, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, targets, mask), probe, fast_mode=True)


@NAMES
def test_every_way_to_differentiate_gives_the_same(name, stats):
    logits, targets, _ = cases("unknown")
    loss = create(name, stats)
    value, gradient = differentiated(loss, logits, targets)
    direction = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    torch.testing.assert_close(torch.func.grad(lambda z: loss(z, targets))(logits), gradient)
    primal, tangent = torch.func.jvp(lambda z: loss(z, targets), (logits,), (direction,))
    torch.testing.assert_close((primal, tangent), (value, (gradient * direction).sum()))
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(loss(forward_ad.make_dual(logits, direction), targets))
        torch.testing.assert_close(dual.tangent, tangent)
    each = torch.func.vmap(lambda z, y: loss(z[None], y[None]))(logits, targets)
    torch.testing.assert_close(
        each, torch.stack([loss(z[None], y[None]) for z, y in zip(logits, targets, strict=True)])
    )


@NAMES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precision(name, dtype, stats):
    logits, targets, _ = cases("unknown")
    loss = create(name, stats)
    value, gradient = differentiated(loss, logits.to(dtype), targets)
    assert (value.dtype, gradient.dtype) == (torch.float32, dtype)
    full = differentiated(loss, logits.to(dtype).float(), targets)
    torch.testing.assert_close(value, full[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, full[1].to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(logits.to(dtype), targets), value, rtol=0, atol=0)
    for magnitude in (30.0, 1e4):
        extreme = differentiated(loss, magnitude * logits.sign().to(torch.float32), targets)
        assert all(table.isfinite().all() for table in extreme)


@NAMES
def test_reductions(name, stats):
    logits, targets, _ = cases("unknown")
    for reduction in ("mean", "sum"):
        loss = create(name, stats, reduction=reduction)
        assert loss(logits[:0], targets[:0]) == 0
        value, gradient = differentiated(loss, logits, torch.full_like(targets, -1))
        assert value == 0
        assert (gradient == 0).all()
    if name in SOFT:
        each = create(name, stats, reduction="none")(logits, targets)
        assert each.shape == (7,)
        torch.testing.assert_close(create(name, stats, reduction="sum")(logits, targets), each.sum())
        torch.testing.assert_close(create(name, stats, reduction="batchmean")(logits, targets), each.mean())
        torch.testing.assert_close(create(name, stats)(logits, targets), each.sum() / (targets >= 0).any(1).sum())
    else:
        for reduction in ("none", "batchmean"):
            with pytest.raises(ValueError, match="reduction must be one of mean, sum for this loss, got"):
                create(name, stats, reduction=reduction)


@NAMES
def test_types_of_targets(name, stats):
    logits, targets, _ = cases("known")
    expected = create(name, stats)(logits, targets)
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64):
        torch.testing.assert_close(create(name, stats)(logits, targets.to(dtype)), expected, rtol=1e-12, atol=0)
    soft = targets.double() * 0.9
    if name in SOFT:
        rows = [list(zip(*row, strict=True)) for row in zip(logits.tolist(), soft.tolist(), strict=True)]
        torch.testing.assert_close(create(name, stats)(logits, soft).item(), ORACLES[name](rows), rtol=1e-12, atol=0)
    else:
        with pytest.raises(
            ValueError, match=r"targets must be 0, 1 or unknown .* for this loss, which has no soft ones"
        ):
            create(name, stats)(logits, soft)
        with pytest.raises(ValueError, match="targets must be 0, 1 or unknown"):
            create(name, stats)(logits, soft.to_sparse_csr())


@NAMES
def test_what_is_refused(name, stats, unchecked):
    for impl in ("numba", "triton"):
        with pytest.raises(
            ValueError, match=f"impl must be 'auto' or 'eager' for a loss that is no sum .* got '{impl}'"
        ):
            create(name, stats, impl=impl)
    logits, targets, _ = cases("known")
    with pytest.raises(ValueError, match=r"needs a loss that is a sum over labels, .* loss\(functional.linear"):
        linear_loss(torch.zeros(7, 2), torch.zeros(9, 2), None, targets, create(name, stats))
    with pytest.raises(ValueError, match=r"logits must be \(batch, 9\)"):
        create(name, stats)(logits[:, :8], targets[:, :8])


@NAMES
def test_training_loops(name, stats, unchecked):
    """Changed in place, copied, compiled, and trained until it separates what can be separated."""
    logits, targets, _ = cases("unknown")
    loss = create(name, stats)
    expected = differentiated(lambda *batch: 3 * loss(*batch) - 0.5, logits, targets)

    def in_place(*batch):
        value = loss(*batch)
        value *= 3
        return value.sub_(0.5)

    torch.testing.assert_close(differentiated(in_place, logits, targets), expected)
    torch.testing.assert_close(copy.deepcopy(loss)(logits, targets), loss(logits, targets), rtol=0, atol=0)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(differentiated(compiled, logits, targets), differentiated(loss, logits, targets))
    z = torch.zeros(7, 9, requires_grad=True)
    optimizer = torch.optim.SGD([z], lr=5.0)
    _, hard, _ = cases("known")
    for _ in range(200):
        optimizer.zero_grad()
        loss(z, hard).backward()
        optimizer.step()
    assert functional.relu(z.detach()[2:4].sign() * (1 - 2 * hard[2:4])).sum() == 0
