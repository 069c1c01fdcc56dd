"""What the training loops of others do to a loss: each loop with ours equals the same loop with torch's own pieces."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import lightning
import pytest
import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from tailwise.losses import create, linear_loss
from tests.losses.conftest import SUMS, every_loss, loss_id

VARIANTS = pytest.mark.parametrize("variant", every_loss(), ids=loss_id)
IMPLEMENTATIONS = ["eager", "numba"]


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    """(16, 6) inputs and (16, 9) targets."""
    generator = torch.Generator().manual_seed(8)
    return torch.randn(16, 6, generator=generator), (torch.rand(16, 9, generator=generator) < 0.3).to(torch.uint8)


def network() -> torch.nn.Module:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 9))


def in_place(value, penalty):
    """What loops do to a value before they call backward."""
    value *= 3
    value /= 4
    value += penalty
    value.sub_(0.5)
    return value


def out_of_place(value, penalty):
    return value * 3 / 4 + penalty - 0.5


def gradients(value, tensors):
    return value.detach().clone(), *torch.autograd.grad(value.sum(), tensors)


@VARIANTS
@pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean", "none"])
def test_a_value_can_be_changed_in_place(variant, reduction, stats, batch):
    name, options = variant
    logits, targets = batch[0].float().requires_grad_(), batch[1]
    results = []
    for change in (in_place, out_of_place):
        value = create(name, stats, **options, reduction=reduction)(logits, targets)
        results.append(gradients(change(value, logits.square().mean()), logits))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_every_implementation_can_be_changed_in_place(impl, reduction, stats, batch, unchecked):
    logits, targets = batch[0].float().requires_grad_(), batch[1].to(torch.int8)
    loss = create("bce", stats, impl=impl, reduction=reduction)
    theirs = functional.binary_cross_entropy_with_logits(logits, targets.float(), reduction=reduction)
    actual = gradients(in_place(loss(logits, targets), logits.square().mean()), logits)
    expected = gradients(in_place(theirs, logits.square().mean()), logits)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["bce", "pg", "pg-auto"])
def test_the_value_of_a_head_can_be_changed_in_place(name, stats, data):
    inputs, targets = data
    results = []
    for change in (in_place, out_of_place):
        weight = torch.ones(9, 6).requires_grad_()
        value = linear_loss(inputs, weight, None, targets, create(name, stats), chunk=4)
        results.append(gradients(change(value, weight.square().mean()), weight))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_a_compiled_loop_can_change_it_in_place(stats, batch, unchecked):
    torch._dynamo.reset()
    targets, loss = batch[1], create("db-focal", stats)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(logits):
        return in_place(loss(logits, targets), logits.square().mean())

    logits = batch[0].float().requires_grad_()
    value = step(logits)
    value *= 2
    expected = 2 * out_of_place(loss(logits, targets), logits.square().mean())
    torch.testing.assert_close(gradients(value, logits), gradients(expected, logits), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in SUMS if name not in ("apaf", "pg", "pg-auto")])
def test_accumulated_gradients_are_those_of_the_whole(name, stats, data):
    """Of losses without statistics of their batch, those of whose parts are others."""
    inputs, targets = data
    loss, net = create(name, stats), network()
    loss(net(inputs), targets).backward()
    expected = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    for part, labels in zip(inputs.split(4), targets.split(4), strict=True):
        value = loss(net(part), labels)
        value /= 4
        value.backward()
    torch.testing.assert_close([parameter.grad for parameter in net.parameters()], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["bce", "pg"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scaled_mixed_precision(name, dtype, stats, data):
    """Steps under autocast with a gradient scaler, one of them with an overflow, which has to be left out."""
    inputs, targets = data
    net, loss = network(), create(name, stats)
    plain, optimizer = copy.deepcopy(net), torch.optim.SGD(net.parameters(), lr=0.5)
    reference = torch.optim.SGD(plain.parameters(), lr=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(3):
        optimizer.zero_grad()
        reference.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            value = loss(net(inputs), targets)
        value *= 1.0 if step != 1 else float("inf")
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        if step != 1:
            loss(plain(inputs), targets).backward()
            reference.step()
    assert scaler.get_scale() == 2.0**9
    for one, other in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", ["bce", "asl", "pg"])
def test_checkpointing(name, reentrant, stats, data):
    inputs, targets = data
    net, loss = network(), create(name, stats)
    inputs.requires_grad_()

    def step(x):
        return in_place(loss(net(x), targets), 0.0)

    expected = gradients(step(inputs), [inputs, *net.parameters()])
    value = checkpoint(step, inputs, use_reentrant=reentrant)
    inputs.grad = None
    value.backward()
    actual = [value.detach(), inputs.grad, *(parameter.grad for parameter in net.parameters())]
    torch.testing.assert_close(actual, list(expected), rtol=0, atol=0)


@pytest.mark.parametrize("impl", ["numba", "eager"])
def test_backward_twice_adds_up(impl, stats, data):
    inputs, targets = data
    net, loss = network(), create("pg", stats, impl=impl)
    value = loss(net(inputs), targets)
    value.backward(retain_graph=True)
    once = [parameter.grad.clone() for parameter in net.parameters()]
    value.backward()
    torch.testing.assert_close([parameter.grad for parameter in net.parameters()], [2 * grad for grad in once])
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        value.backward()


def test_logits_in_use_elsewhere_are_left_alone(stats, data):
    """A value leaves the graph of the logits intact, whatever order loops take its parts in."""
    inputs, targets = data
    net = network()
    logits = net(inputs)
    first, second = create("db", stats)(logits, targets), create("pg", stats)(logits, targets)
    entropy = functional.binary_cross_entropy_with_logits(logits, targets.float())
    total = torch.zeros(())
    for part in (first, second, entropy):
        total += part
    separate = [torch.autograd.grad(part, net.parameters(), retain_graph=True) for part in (first, second, entropy)]
    together = torch.autograd.grad(total, net.parameters())
    for one, parts in zip(together, zip(*separate, strict=True), strict=True):
        torch.testing.assert_close(one, sum(parts), rtol=1e-5, atol=1e-7)


@VARIANTS
def test_the_type_of_a_model_does_not_change_the_loss(variant, stats, batch):
    name, options = variant
    logits, targets = batch[0].bfloat16(), batch[1]
    expected = create(name, stats, **options)(logits, targets)
    model = torch.nn.ModuleList([create(name, stats, **options), torch.nn.Linear(2, 2)]).bfloat16()
    assert model[1].weight.dtype == torch.bfloat16
    converted = [model[0], *(create(name, stats, **options) for _ in range(3))]
    converted[1].half()
    converted[2].double()
    converted[3].to(dtype=torch.bfloat16)
    for loss in converted:
        torch.testing.assert_close(loss(logits, targets), expected, rtol=0, atol=0)
        assert {buffer.dtype for buffer in loss.buffers() if buffer.is_floating_point()} <= {torch.float32}


@VARIANTS
def test_the_default_type_does_not_change_the_loss(variant, stats, batch):
    """Which frameworks set while a model in half precision is made and run."""
    name, options = variant
    logits, targets = batch[0].float(), batch[1].to(torch.int8)
    targets[2, 3] = -1
    expected = create(name, stats, **options)(logits, targets)
    torch.set_default_dtype(torch.bfloat16)
    try:
        for impl in ("numba", "eager"):
            loss = create(name, stats, **options, impl=impl)
            value = loss(logits, targets)
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_mean_in_float64_has_its_digits(stats, batch):
    logits, targets = batch[0], batch[1].to(torch.int8)
    targets[:3, 2] = -1
    each = create("db", stats, reduction="none")(logits, targets)
    mean = each.sum() / (targets >= 0).sum().double()
    torch.testing.assert_close(create("db", stats)(logits, targets), mean, rtol=1e-14, atol=0)


class Module(lightning.LightningModule):
    """A network with its loss inside, as people write them."""

    def __init__(self, loss):
        super().__init__()
        self.net, self.loss, self.seen = network(), loss, []

    def training_step(self, batch, _index):
        inputs, targets = batch
        logits = self.net(inputs.to(self.net[0].weight.dtype))
        value = self.loss(logits, targets)
        self.seen.append((logits.detach(), targets, value.item()))
        return value

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_lightning_in_other_precisions(precision, stats, data, tmp_path):
    module = Module(create("pg", stats))
    trainer = lightning.Trainer(
        **{"max_steps": 2, "accelerator": "cpu", "precision": precision, "default_root_dir": tmp_path},
        **{"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False},
    )
    trainer.fit(module, DataLoader(TensorDataset(*data), batch_size=8))
    assert len(module.seen) == 2
    fresh = create("pg", stats)
    assert [value for _, _, value in module.seen] == [
        pytest.approx(fresh(logits, targets).item(), rel=1e-6) for logits, targets, _ in module.seen
    ]


@VARIANTS
def test_copies_are_the_same_loss(variant, stats, batch):
    name, options = variant
    loss = create(name, stats, **options)
    loss(*batch)  # where a loss has a memory, it is copied too
    restored = create(name, stats, **options)
    restored.load_state_dict(loss.state_dict())
    copies = [copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), restored, copy.deepcopy(loss).share_memory()]
    expected = loss.eval()(*batch)
    for other in copies:
        torch.testing.assert_close(other.eval()(*batch), expected, rtol=0, atol=0)


@VARIANTS
def test_inference_mode(variant, stats, batch):
    name, options = variant
    loss = create(name, stats, **options)
    expected = create(name, stats, **options)(*batch)
    with torch.inference_mode():
        torch.testing.assert_close(loss(batch[0].clone(), batch[1].clone()), expected, rtol=0, atol=0)
        teacher = torch.sigmoid(batch[0])
    assert loss(batch[0].clone().requires_grad_(), teacher).requires_grad  # targets that inference has made


@pytest.mark.parametrize("name", ["db-focal", "pg"])
def test_several_threads_at_once(name, stats, data):
    """As data parallel modules in one process call it."""
    inputs, targets = data
    net, loss = network(), create(name, stats)
    logits = net(inputs).detach()

    def step(scale):
        own = (scale * logits).requires_grad_()
        return gradients(in_place(loss(own, targets), 0.0), own)

    scales = [0.1 * number for number in range(1, 33)]
    expected = [step(scale) for scale in scales]
    with ThreadPoolExecutor(8) as pool:
        torch.testing.assert_close(list(pool.map(step, scales)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["db-focal", "pg", "asl"])
def test_exported_programs(name, stats, batch, unchecked):
    logits, targets = batch[0].float(), batch[1]
    loss = create(name, stats)
    program = torch.export.export(loss, (logits, targets))
    torch.testing.assert_close(program.module()(logits, targets), loss(logits, targets))
