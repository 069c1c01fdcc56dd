"""Probing: neck and classifier on features of the frozen backbone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tailwise.data.dataset import Dataset, Features
from tailwise.errors import InputError
from tailwise.models.gcn import blank_graph, create_graph
from tailwise.models.heads import create_head
from tailwise.shapes import Float
from tailwise.training.config import TrainConfig
from tailwise.training.folder import METRICS_FILE, checkpoint_path
from tailwise.training.frozen import Backbone, GivenFeatures, configured_weights, features_of
from tailwise.training.inputs import RunSplits
from tailwise.training.testing import EvaluationTask, Task


class Standardize(nn.Module):
    """Scales features to unit norm, and then each dimension to mean 0 and variance 1 over the training set.

    Args:
        mean: (F,) mean of the unit-norm training features.
        std: (F,) their standard deviation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Float[Tensor, "F"], std: Float[Tensor, "F"]) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @classmethod
    def fit(cls, features: Float[Tensor, "N F"]) -> Standardize:
        """Measure mean and standard deviation; a dimension that never changes keeps its scale."""
        unit = functional.normalize(features.double(), dim=1)
        std, mean = torch.std_mean(unit, dim=0, correction=0)
        return cls(mean.float(), torch.where(std > 0, std, 1.0).float())

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B F"]:
        """Scale a batch of features."""
        return (functional.normalize(features, dim=1) - self.mean) / self.std


class ProbeModel(nn.Module):
    """Features to logits; its state also says which backbone the features must come from.

    Args:
        scale: scales features.
        head: scaled features to (B, K) logits.
        backbone_key: :attr:`~tailwise.training.frozen.Backbone.key` of the backbone.
        other_keys: what older versions called this backbone.
    """

    def __init__(self, scale: nn.Module, head: nn.Module, backbone_key: str, other_keys: Collection[str] = ()) -> None:
        super().__init__()
        self.scale = scale
        self.head = head
        self.backbone_key = backbone_key
        self.other_keys = other_keys

    @property
    def width(self) -> int:
        """F, the width of the features that it takes."""
        return _width(self.state_dict())

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B C"]:
        """Return the (B, K) logits of backbone features."""
        logits: Tensor = self.head(self.scale(features))
        return logits

    def get_extra_state(self) -> dict[str, str]:
        return {"backbone_key": self.backbone_key}

    def set_extra_state(self, state: dict[str, str]) -> None:
        if state["backbone_key"] not in (self.backbone_key, *self.other_keys):
            raise InputError(
                "this run's backbone is no longer what it was trained with: the weights file has changed; restore it, "
                "or train again"
            )


def new_task(config: TrainConfig, splits: RunSplits, device: torch.device, begun_in: Path | None = None) -> Task:
    """Compute the features of all splits, or find them computed, and make a new head.

    Features of the training split are those of the whole of it, so that runs that hold out other parts share them.

    Args:
        config: the run.
        splits: its labels.
        device: where to compute.
        begun_in: folder of the run whose backbone it is, if that is recorded there; by default its own.

    Raises:
        InputError: the backbone or head cannot be made, or an image cannot be read.
    """
    # First what is quick to fail.
    labels = splits.train
    graph = create_graph(config.model, labels.targets, labels.class_names, seed=config.seed)
    backbone: Backbone | GivenFeatures = GivenFeatures()
    other_keys: Collection[str] = ()
    if not isinstance(labels.inputs, Features):
        backbone, other_keys = _backbone(begun_in or Path(config.output), config, device)
    train, rows = features_of(config, splits.whole, backbone)
    validation = None
    if splits.held_out.any():
        assert splits.validation is not None
        validation = train.subset(splits.held_out, splits.validation.name)
        train = train.subset(~splits.held_out)
        rows = train.table.batch(torch.arange(len(train.split)))
    elif splits.validation is not None:
        validation, _ = features_of(config, splits.validation, backbone)
    test = None if splits.test is None else features_of(config, splits.test, backbone)[0]
    model = ProbeModel(
        Standardize.fit(rows) if config.standardize_features else nn.Identity(),
        create_head(rows.shape[1], len(train.split.class_names), config.model, seed=config.seed, graph=graph),
        backbone.key,
        other_keys,
    )
    return Task(
        model,
        train=train,
        train_inputs=None,
        test=test,
        validation=validation,
        test_inputs=nn.Identity(),
        record=backbone.record,
        keep_backbone=backbone.keep if isinstance(backbone, Backbone) and config.keep_backbone else None,
    )


def restore(
    run: Path, config: TrainConfig, state: Mapping[str, Any], num_classes: int, device: torch.device
) -> tuple[ProbeModel, Backbone | GivenFeatures]:
    """Make the head of the run in a folder with the state of its checkpoint, and find its backbone.

    The backbone is the one that the run was started with, from its own file of weights if it has one.

    Raises:
        InputError: the backbone is not the one that the head was trained on.
    """
    backbone: Backbone | GivenFeatures = GivenFeatures()
    other_keys: Collection[str] = ()
    if state["_extra_state"]["backbone_key"] != backbone.key:
        backbone, other_keys = _backbone(run, config, device)
    width = _width(state)
    model = ProbeModel(
        Standardize(torch.zeros(width), torch.ones(width)) if config.standardize_features else nn.Identity(),
        create_head(width, num_classes, config.model, graph=blank_graph(config.model, num_classes)),
        backbone.key,
        other_keys,
    )
    model.load_state_dict(state)
    return model, backbone


def evaluation_task(
    run: Path, config: TrainConfig, state: Mapping[str, Any], test: Dataset, device: torch.device
) -> EvaluationTask:
    """Compute the features of a split, or find them computed, and make the head with the state of a checkpoint.

    The backbone is the one that the run in the folder was started with, from its own file of weights if it has one.

    Raises:
        InputError: the backbone's weights cannot be had, or are not those that the head was trained on.
    """
    model, backbone = restore(run, config, state, len(test.class_names), device)
    test_features, _ = features_of(config, test, backbone)
    return EvaluationTask(model, test=test_features, test_inputs=nn.Identity())


def _backbone(run: Path, config: TrainConfig, device: torch.device) -> tuple[Backbone, Collection[str]]:
    """The backbone of a run, recorded in its folder or new, and what older versions called it."""
    recorded = Backbone.of_run(run, config, device)
    if recorded is not None:
        return recorded, ()
    has_begun = (run / METRICS_FILE).is_file() or checkpoint_path(run).is_file()
    return Backbone.new(config, device), _older_keys(run, config) if has_begun else ()


def _width(state: Mapping[str, Any]) -> int:
    """The width of the features that a head of this state takes: the last dimension of what sees them first."""
    firsts = ("scale.mean", "head.neck.0.weight", "head.linear.weight", "head.second.weight")
    return next(int(state[name].shape[-1]) for name in firsts if name in state)


def _older_keys(run: Path, config: TrainConfig) -> Collection[str]:
    """Names of the backbone in checkpoints of the first version, which had timm's version in them."""
    releases = {version("timm")}
    with suppress(OSError, ValueError, KeyError):
        releases.add(json.loads((run / METRICS_FILE).read_text(encoding="utf-8"))["versions"]["timm"])
    model, weights = config.model, configured_weights(config)
    whole = [[model.backbone, model.options, weights, model.mean, model.std, config.precision, it] for it in releases]
    return {hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest() for parts in whole}
