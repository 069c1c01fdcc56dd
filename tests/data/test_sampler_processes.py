"""Samplers ask for their process themselves, and trainers with default settings leave them alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed
from torch.utils.data import DataLoader

from tailwise.data.samplers import UniformSampler

NUM_ROWS, EPOCHS = 21, 2

# Run by itself, because the trainer starts its second process by running the program again.
PROGRAM = f"""
import json, sys
import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader
from tailwise.data.samplers import *

targets = np.random.default_rng(0).integers(0, 2, ({NUM_ROWS}, 3))
targets[:, 2] = np.arange({NUM_ROWS}) < 2


def samplers(**options):
    return {{
        "uniform": UniformSampler(targets, seed=5, **options),
        "class-aware": ClassAwareSampler(targets, seed=5, **options),
        "inverse-frequency": InverseFrequencySampler(targets, seed=5, **options),
        "repeat-factor": RepeatFactorSampler(targets, seed=5, threshold=0.5, **options),
    }}


def loader(sampler):
    # Without workers: a process that has a process group, and its threads, cannot be forked safely.
    return DataLoader(range({NUM_ROWS}), batch_size=4, sampler=sampler)


class Recorder(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.draws = {{}}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch):
        for name, rows in batch.items():
            if rows is not None:
                self.draws.setdefault(name, [[] for _ in range({EPOCHS})])[self.current_epoch] += rows.tolist()
        return self.weight.sum()

    def on_train_end(self):
        # The same without the trainer: nobody tells the epoch.
        plain = loader(samplers()["class-aware"])
        self.draws["plain loader"] = [[row for batch in plain for row in batch.tolist()] for _ in range({EPOCHS})]
        alone = {{
            name: [list(sampler) for _ in range({EPOCHS})]
            for name, sampler in samplers(rank=0, num_replicas=1).items()
        }}
        alone["plain loader"] = alone["class-aware"]
        with open(f"{{sys.argv[1]}}/{{self.global_rank}}.json", "w") as file:
            json.dump([self.draws, alone], file)


if __name__ == "__main__":
    # Made before the trainer makes the process group.
    loaders = {{name: loader(sampler) for name, sampler in samplers().items()}}
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        max_epochs={EPOCHS},
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Recorder(), CombinedLoader(loaders, "max_size"))
"""


def test_trainer_with_default_settings_shares_the_draws_among_processes(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(program), str(tmp_path)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    (first, alone), (second, _) = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first.keys() == second.keys() == alone.keys()
    for name, epochs in alone.items():
        assert epochs[0] != epochs[1]
        for epoch, draws in enumerate(epochs):
            assert len(first[name][epoch]) == len(second[name][epoch]) == -(-len(draws) // 2)
            pairs = zip(first[name][epoch], second[name][epoch], strict=True)
            assert [row for pair in pairs for row in pair][: len(draws)] == draws


@pytest.fixture
def second_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("is_initialized", True), ("get_rank", 1), ("get_world_size", 3)):
        monkeypatch.setattr(distributed, name, lambda value=value: value)


def test_sampler_made_before_the_processes_learns_of_them(request: pytest.FixtureRequest) -> None:
    sampler = UniformSampler(10, seed=1)
    state = sampler.state_dict()
    assert (len(sampler), sampler.rank, sampler.num_replicas) == (10, 0, 1)
    request.getfixturevalue("second_of_three")
    assert (len(sampler), sampler.rank, sampler.num_replicas) == (4, 1, 3)
    assert list(sampler) == list(UniformSampler(10, seed=1, rank=1, num_replicas=3))
    with pytest.raises(ValueError, match="saved with num_replicas = 1 and this sampler has 3"):
        sampler.load_state_dict(state)


@pytest.mark.usefixtures("second_of_three")
def test_numbers_that_are_given_win() -> None:
    alone = UniformSampler(10, rank=0, num_replicas=1)
    assert sorted(alone) == list(range(10))
    assert (len(UniformSampler(10, num_replicas=5)), UniformSampler(10, num_replicas=5).rank) == (2, 1)
    with pytest.raises(ValueError, match="got rank = 1 and num_replicas = 1"):
        list(UniformSampler(10, num_replicas=1))


def test_persistent_workers_see_every_epoch_and_a_resumed_one() -> None:
    rows = torch.arange(23)

    def make() -> tuple[UniformSampler, DataLoader[torch.Tensor]]:
        sampler = UniformSampler(23, seed=1)
        return sampler, DataLoader(rows, batch_size=4, sampler=sampler, num_workers=2, persistent_workers=True)

    alone = UniformSampler(23, seed=1)
    epochs = [list(alone) for _ in range(3)]
    sampler, loader = make()
    assert [torch.cat(list(loader)).tolist() for _ in range(3)] == epochs
    # Trained on two batches of epoch 1, whatever the workers have asked for meanwhile.
    sampler, loader = make()
    sampler.load_state_dict(sampler.state_dict() | {"epoch": 1, "position": 8})
    assert torch.cat(list(loader)).tolist() == epochs[1][8:]
    assert torch.cat(list(loader)).tolist() == epochs[2]
    np.testing.assert_array_equal(np.sort(epochs[2]), np.arange(23))
