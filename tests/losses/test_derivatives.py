"""Derivatives beyond one backward pass: second ones, forward mode and torch.func are right, or refused."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from timm.loss import AsymmetricLossMultiLabel
from torch.autograd import forward_ad
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from tailwise.losses import ChunkedSGD, create, linear_loss
from tailwise.losses.backends.eager import EAGER
from tests.losses.conftest import COUNTS, NUM_SAMPLES, every_loss, loss_id

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # of forward mode
VARIANTS = pytest.mark.parametrize("variant", every_loss(), ids=loss_id)


def small(kind="unknown"):
    """(5, 9) float64 logits, one row of them 0, where |a| has no derivative; targets with unknown labels."""
    generator = torch.Generator().manual_seed(2)
    logits = 2 * torch.randn(5, 9, generator=generator, dtype=torch.float64)
    logits[0] = 0
    targets = (torch.rand(5, 9, generator=generator) < 0.4).to(torch.int8)
    targets[3] = 0
    unknown = torch.rand(5, 9, generator=generator) < 0.2
    if kind == "soft":
        soft = torch.rand(5, 9, generator=generator, dtype=torch.float64)
        return logits, soft.masked_fill(unknown, math.nan)
    return logits, targets.masked_fill(unknown, -1) if kind == "unknown" else targets


def frozen(variant, stats, logits, targets, **options):
    """A loss whose batch statistics are constants, as they are for every derivative."""
    name, own = variant
    loss = create(name, stats, **(own | options))
    if loss.guidance is not None:
        sums = EAGER.probability_sums(logits, targets, None)
        sides = loss.guidance(sums, loss.side("positive"), loss.side("negative"))
        loss.guidance.forward = lambda *_: sides
    return loss


def naive_pg(z, y, counts, groups):
    """PG with its defaults, written from the formulas in operations that torch differentiates; statistics detached."""
    n, p = torch.tensor(counts, dtype=z.dtype), torch.sigmoid(z).detach()
    up, down = y.sum(0), (1 - y).sum(0)
    positive, negative = (p * y).sum(0) / up, (p * (1 - y)).sum(0) / down
    for members in groups.values():
        having = [k for k in members if up[k] > 0]
        for k in members:
            if up[k] == 0:
                positive[k] = positive[having].mean() if having else negative[k]
    ratio = positive / negative
    weight = 0.1 + torch.sigmoid(10 * ((1 / n) / (y / n).sum(1, keepdim=True).clamp(min=1e-30) - 0.2))
    v = 0.05 / 2 * torch.log(NUM_SAMPLES / n - 1)
    a, b = -(z - v), 2 / ratio * (z - v)
    plus = functional.softplus(a) * torch.sigmoid(a) ** (2 * ratio)
    minus = functional.softplus(b) * torch.sigmoid(b) ** (2 / ratio) / 2
    return 2 * (weight * (y * plus + (1 - y) * minus)).mean()


def oracles(stats):
    asl = AsymmetricLossMultiLabel(gamma_neg=4, gamma_pos=0, clip=None, reduction="mean")
    return {
        "bce": functional.binary_cross_entropy_with_logits,
        "focal": lambda z, y: 2 * sigmoid_focal_loss(z, y, alpha=-1, gamma=2, reduction="mean"),
        "asl": asl,
        "pg": lambda z, y: naive_pg(z, y, COUNTS, stats.groups),
    }


OPTIONS = {"asl": {"margin": 0.0}}


@VARIANTS
@pytest.mark.parametrize("kind", ["unknown", "soft"])
def test_second_derivatives_are_those_of_the_gradient(variant, kind, stats):
    logits, targets = small(kind)
    loss = frozen(variant, stats, logits, targets)
    probe = logits.clone().requires_grad_()
    (with_graph,) = torch.autograd.grad(loss(probe, targets), probe, create_graph=True)
    (without,) = torch.autograd.grad(loss(probe, targets), probe)
    torch.testing.assert_close(with_graph.detach(), without, rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, targets), probe, eps=1e-6, atol=1e-8, fast_mode=True)


@VARIANTS
def test_every_way_to_differentiate_gives_the_same(variant, stats):
    logits, targets = small()
    loss = frozen(variant, stats, logits, targets)

    def value(z):
        return loss(z, targets)

    hessian = torch.autograd.functional.hessian(value, logits)
    assert hessian.abs().sum() > 0
    torch.testing.assert_close(torch.func.hessian(value)(logits), hessian, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(torch.func.jacrev(torch.func.grad(value))(logits), hessian, rtol=1e-9, atol=1e-12)
    probe = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(probe), probe)
    torch.testing.assert_close(torch.func.grad(value)(logits), gradient, rtol=1e-9, atol=1e-12)
    direction = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    along = (gradient * direction).sum()
    primal, tangent = torch.func.jvp(value, (logits,), (direction,))
    torch.testing.assert_close((primal, tangent), (value(logits), along), rtol=1e-9, atol=1e-12)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(value(forward_ad.make_dual(logits, direction)))
        torch.testing.assert_close((dual.primal, dual.tangent), (value(logits), along), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("impl", ["numba", "eager"])
@pytest.mark.parametrize("name", ["bce", "focal", "asl", "pg"])
def test_gradient_penalty_equals_that_of_the_formula_under_autograd(name, impl, stats):
    """Of the inputs, for the parameters of a network, in float32 as people train."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 9))
    inputs, (_, targets) = torch.randn(5, 6), small("binary")

    def penalised(function, net, x):
        x = x.clone().requires_grad_()
        value = function(net(x))
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        return torch.autograd.grad(value + 100 * slope.square().sum(), net.parameters())

    loss = create(name, stats, impl=impl, **OPTIONS.get(name, {}))
    actual = penalised(lambda z: loss(z, targets), network, inputs)
    expected = penalised(lambda z: oracles(stats)[name](z, targets.double()), network.double(), inputs.double())
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-4, atol=2e-6)


def test_learning_to_learn_differentiates_through_a_step(stats):
    """The step of MAML: what the loss is after a step, by what it was started from."""
    logits, targets = small("binary")

    def after_a_step(function):
        start = logits.clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(start, targets.double()), start, create_graph=True)
        (by_start,) = torch.autograd.grad(function(start - 5 * slope, targets.double()), start)
        return by_start

    torch.testing.assert_close(after_a_step(create("pg", stats)), after_a_step(oracles(stats)["pg"]))


@pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean", "none"])
def test_reductions_and_half_precision_keep_their_factors_in_a_graph(reduction, stats):
    logits, targets = small()
    loss = create("focal", stats, reduction=reduction)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        probe = logits.to(dtype).requires_grad_()
        upstream = torch.full_like(loss(probe, targets), 3.0)
        (expected,) = torch.autograd.grad(loss(probe, targets), probe, upstream)
        (actual,) = torch.autograd.grad(loss(probe, targets), probe, upstream, create_graph=True)
        assert actual.dtype == dtype
        assert actual.requires_grad
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5 if dtype == torch.float32 else 1e-2
        torch.testing.assert_close(actual.detach(), expected, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("name", ["bce", "cb-focal", "db-focal", "pg", "asl"])
def test_gradients_of_single_samples_at_once(name, stats):
    logits, targets = small()
    logits = logits.float()
    loss = create(name, stats, reduction="sum")

    def of_one(z, y):
        return loss(z[None], y[None])

    values = torch.func.vmap(of_one)(logits, targets)
    gradients = torch.func.vmap(torch.func.grad(of_one))(logits, targets)
    for row in range(len(logits)):
        probe = logits[row].clone().requires_grad_()
        value = of_one(probe, targets[row])
        torch.testing.assert_close(values[row], value.detach())
        torch.testing.assert_close(gradients[row], torch.autograd.grad(value, probe)[0], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("impl", ["numba", "eager"])
def test_several_upstream_gradients_at_once(impl, stats):
    logits, targets = small()
    loss = create("db", stats, impl=impl, reduction="none")

    def table(z):
        return loss(z, targets)

    at_once = torch.autograd.functional.jacobian(table, logits.float(), vectorize=True)
    torch.testing.assert_close(at_once, torch.autograd.functional.jacobian(table, logits.float()), rtol=0, atol=0)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs g++ on a CPU")
def test_transforms_in_a_compiled_program(stats, unchecked):
    torch._dynamo.reset()
    logits, targets = small()
    loss = create("pg", stats)

    def slope(z):
        return torch.func.grad(lambda x: loss(x, targets))(z)

    compiled = torch.compile(slope, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits), slope(logits))


def test_a_loss_that_steers_itself_must_not_be_in_training(stats):
    logits, targets = small()
    loss = create("pg-auto", stats)
    for transform in (torch.func.grad, torch.func.vmap):
        with pytest.raises(RuntimeError, match=r"torch\.func does not support: put it into evaluation, loss\.eval\(\)"):
            transform(lambda z: loss(z.view(-1, 9), targets[: z.numel() // 9]))(logits)
    assert (loss.guidance.running == 0).all()
    assert torch.func.grad(lambda z: loss.eval()(z, targets))(logits).isfinite().all()


@pytest.mark.parametrize("what", ["targets", "mask"])
def test_labels_that_have_changed_are_noticed(what, stats):
    """A gradient that is made anew from other labels would be that of another loss."""
    logits, targets = small()
    mask = torch.ones(targets.shape, dtype=torch.bool)
    probe = logits.clone().requires_grad_()
    value = create("db", stats)(probe, targets, mask)
    value.backward(retain_graph=True)
    (targets if what == "targets" else mask).zero_()
    for options in ({}, {"create_graph": True}):
        with pytest.raises(RuntimeError, match="targets or mask have been changed in place since the loss"):
            torch.autograd.grad(value, probe, retain_graph=True, **options)


def test_logits_that_have_changed_are_noticed(stats):
    weight, (logits, targets) = torch.ones((), dtype=torch.float64, requires_grad=True), small()
    scaled = logits * weight
    value = create("db", stats)(scaled, targets)
    scaled.sigmoid_()  # for a metric; the first backward pass has no need of them
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_targets_receive_no_gradient_and_say_so(stats):
    logits, targets = small("soft")
    targets = targets.nan_to_num(0.5)
    loss = create("db", stats)
    with pytest.raises(ValueError, match=r"targets require a gradient, .*give targets\.detach\(\)"):
        loss(logits.clone().requires_grad_(), targets.clone().requires_grad_())
    with pytest.raises(ValueError, match="targets require a gradient"):
        torch.func.jvp(lambda y: loss(logits, y), (targets,), (targets,))
    with torch.no_grad():
        assert loss(logits, targets.clone().requires_grad_()) == loss(logits, targets)


class TestHeadInChunks:
    """It has first derivatives only, and says so whichever way others are asked for."""

    REFUSED = r"first derivatives of a backward pass only: .* compute the logits, loss\(functional.linear"

    @staticmethod
    def head():
        generator = torch.Generator().manual_seed(11)
        return [torch.randn(shape, generator=generator).requires_grad_() for shape in ((5, 6), (9, 6), (9,))]

    @pytest.mark.parametrize("of", [0, 1, 2])
    def test_penalties(self, of, stats):
        tensors, (_, targets) = self.head(), small()
        value = linear_loss(*tensors, targets, create("db", stats), chunk=4)
        gradients = torch.autograd.grad(value, tensors, create_graph=True)
        with pytest.raises(RuntimeError, match=self.REFUSED):
            gradients[of].square().sum().backward()

    def test_a_graph_that_is_not_used(self, stats):
        tensors, (_, targets) = self.head(), small()
        first = torch.autograd.grad(linear_loss(*tensors, targets, create("db", stats)), tensors, create_graph=True)
        plain = torch.autograd.grad(linear_loss(*tensors, targets, create("db", stats)), tensors)
        torch.testing.assert_close([slope.detach() for slope in first], list(plain), rtol=0, atol=0)

    def test_a_stepped_head(self, stats):
        (features, weight, bias), (_, targets) = self.head(), small()
        value = linear_loss(features, weight, bias, targets, create("db", stats), sgd=ChunkedSGD(0.1))
        (slope,) = torch.autograd.grad(value, features, create_graph=True)
        with pytest.raises(RuntimeError, match=self.REFUSED):
            slope.sum().backward()

    def test_transforms(self, stats):
        (features, weight, bias), (_, targets) = [tensor.detach() for tensor in self.head()], small()
        loss = create("db", stats)

        def value(w):
            return linear_loss(features, w, bias, targets, loss)

        for attempt in (
            lambda: torch.func.grad(value)(weight),
            lambda: torch.func.jvp(value, (weight,), (weight,)),
            lambda: torch.func.vmap(value)(weight[None]),
        ):
            with pytest.raises(RuntimeError, match=self.REFUSED):
                attempt()
        with forward_ad.dual_level(), pytest.raises(RuntimeError, match=self.REFUSED):
            value(forward_ad.make_dual(weight, weight))

    @pytest.mark.parametrize("name", ["pg", "pg-auto"])
    def test_a_second_pass_is_the_first_again(self, name, stats):
        tensors, (_, targets) = self.head(), small()
        loss = create(name, stats)
        value = linear_loss(*tensors, targets, loss, chunk=4)
        first = torch.autograd.grad(value, tensors, retain_graph=True)
        other = [tensor.detach() for tensor in self.head()]
        linear_loss(other[0] * 3, *other[1:], targets, loss)  # another step of training in between
        seen = [buffer.clone() for buffer in loss.buffers()]
        second = torch.autograd.grad(value, tensors, retain_graph=True)
        torch.testing.assert_close(second, first, rtol=0, atol=0)
        torch.testing.assert_close(list(loss.buffers()), seen, rtol=0, atol=0)
        with torch.no_grad():
            tensors[1].add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(value, tensors)
