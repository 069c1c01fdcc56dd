"""The Trainer of Hugging Face transformers: a run with a loss of ours takes the steps of a loop by hand."""

from __future__ import annotations

import pytest
import torch

from tailwise.losses import create

transformers = pytest.importorskip("transformers", reason="the Trainer of transformers is not installed")
pytest.importorskip("accelerate", reason="the Trainer of transformers needs accelerate")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


class Network(torch.nn.Module):
    """A network as the Trainer takes it, with or without a loss inside."""

    def __init__(self, loss=None):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 9))
        self.loss = loss

    def forward(self, inputs, labels=None):
        logits = self.layers(inputs)
        return {"logits": logits} if self.loss is None else {"loss": self.loss(logits, labels), "logits": logits}


class Rows(torch.utils.data.Dataset):
    def __init__(self):
        generator = torch.Generator().manual_seed(8)
        self.inputs = torch.randn(16, 6, generator=generator)
        self.labels = (torch.rand(16, 9, generator=generator) < 0.3).to(torch.int8)

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return {"inputs": self.inputs[index], "labels": self.labels[index]}


class InOrder(transformers.Trainer):
    def _get_train_sampler(self, *_):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def trained(network, folder, **options):
    """The network after two steps of two batches of four."""
    arguments = transformers.TrainingArguments(
        **{"output_dir": str(folder), "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        **{"num_train_epochs": 1, "learning_rate": 0.5, "optim": "sgd", "lr_scheduler_type": "constant"},
        **{"max_grad_norm": 0.0, "use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True},
        **{"logging_strategy": "no", "dataloader_pin_memory": False, "remove_unused_columns": False},
    )
    InOrder(network, arguments, train_dataset=Rows(), **options).train()
    return network


def by_hand(loss):
    """The same with torch alone: each step has the mean over its eight samples."""
    network, rows = Network(), Rows()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    for start in range(0, 16, 8):
        optimizer.zero_grad()
        for first in (start, start + 4):
            part = slice(first, first + 4)
            (loss(network(rows.inputs[part])["logits"], rows.labels[part]) / 2).backward()
        optimizer.step()
    return network


def assert_same(one, other):
    for (name, parameter), start in zip(other.named_parameters(), Network().parameters(), strict=True):
        assert not torch.allclose(parameter, start, rtol=0, atol=1e-4)
        torch.testing.assert_close(one.get_parameter(name), parameter, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["bce", "db-focal", "pg", "pg-auto"])
def test_a_function_of_outputs_and_labels(name, stats, tmp_path):
    """The Trainer multiplies what this returns in place; what to divide by, it leaves to the function."""
    summed, mean, fresh = create(name, stats, reduction="sum"), create(name, stats), create(name, stats)

    def divided(outputs, labels, num_items_in_batch):
        return summed(outputs["logits"], labels) / num_items_in_batch

    def as_it_is(outputs, labels, num_items_in_batch):
        assert num_items_in_batch == 8 * 9
        return mean(outputs["logits"], labels)

    assert_same(trained(Network(), tmp_path, compute_loss_func=divided), by_hand(create(name, stats)))
    twice = by_hand(lambda logits, labels: 2 * fresh(logits, labels))
    assert_same(trained(Network(), tmp_path, compute_loss_func=as_it_is), twice)


@pytest.mark.parametrize("name", ["asl", "pg-auto"])
def test_a_loss_inside_the_model(name, stats, tmp_path):
    assert_same(trained(Network(create(name, stats)), tmp_path), by_hand(create(name, stats)))
