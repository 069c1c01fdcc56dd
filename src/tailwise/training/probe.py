"""Probing: neck and classifier on features of the frozen backbone, which are computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tailwise.config import TrainConfig
from tailwise.data.cache_entries import make_room, remove_leftovers, touch
from tailwise.data.disk import alone
from tailwise.errors import InputError
from tailwise.files import replacing
from tailwise.models.gcn import blank_graph, create_graph
from tailwise.models.heads import create_head
from tailwise.shapes import Float
from tailwise.training.frozen import Backbone, configured_weights
from tailwise.training.inference import forward_table
from tailwise.training.inputs import Images, RunSplits, Split, open_images
from tailwise.training.outputs import METRICS_FILE
from tailwise.training.tables import TensorTable
from tailwise.training.task import EvaluationTask, Task
from tailwise.training.trainer import checkpoint_path

# Also stands for how images are resized before the backbone sees them.
_FORMAT = "tailwise-features-2"
_IMAGES_PER_BATCH = 64
_logger = logging.getLogger(__name__)


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
    backbone, other_keys = _backbone(begun_in or Path(config.output), config, device)
    train, rows = _features(config, splits.whole, backbone)
    validation = None
    if splits.held_out.any():
        assert splits.validation is not None
        validation = train.subset(splits.held_out, splits.validation.name)
        train = train.subset(~splits.held_out)
        rows = train.table.batch(torch.arange(len(train.split)))
    elif splits.validation is not None:
        validation, _ = _features(config, splits.validation, backbone)
    test = None if splits.test is None else _features(config, splits.test, backbone)[0]
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
        keep_backbone=backbone.keep if config.keep_backbone else None,
    )


def compute_features(config: TrainConfig, splits: Sequence[Split], device: torch.device) -> list[Images]:
    """Compute the features of splits, or find them computed, so that runs need not.

    Raises:
        InputError: the backbone cannot be made, or an image cannot be read.
    """
    backbone = Backbone.new(config, device)
    return [_features(config, split, backbone)[0] for split in splits]


def restore(
    run: Path, config: TrainConfig, state: Mapping[str, Any], num_classes: int, device: torch.device
) -> tuple[ProbeModel, Backbone]:
    """Make the head of the run in a folder with the state of its checkpoint, and find its backbone.

    The backbone is the one that the run was started with, from its own file of weights if it has one.

    Raises:
        InputError: the backbone is not the one that the head was trained on.
    """
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
    run: Path, config: TrainConfig, state: Mapping[str, Any], test: Split, device: torch.device
) -> EvaluationTask:
    """Compute the features of a split, or find them computed, and make the head with the state of a checkpoint.

    The backbone is the one that the run in the folder was started with, from its own file of weights if it has one.

    Raises:
        InputError: the backbone's weights cannot be had, or are not those that the head was trained on.
    """
    model, backbone = restore(run, config, state, len(test.class_names), device)
    test_features, _ = _features(config, test, backbone)
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


def _features(config: TrainConfig, split: Split, backbone: Backbone) -> tuple[Images, Float[Tensor, "N F"]]:
    """Features of a split as a table, and as the tensor in it; computed and written unless there is a file of them."""
    images = open_images(split, config.image_size, config)
    # Nothing here says where images and weights lie, or which versions of libraries have read them.
    parts = [_FORMAT, images.key, backbone.key, config.image_size]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    path = config.cache_folder / "features" / f"{key}.npy"
    rows = _read(path, len(images.split))
    if rows is None:
        _logger.info("computing features of the %d images of split %r into %s", len(images.split), split.name, path)
        rows = forward_table(
            partial(backbone.features, size=config.image_size),
            images.table,
            device=backbone.device,
            batch_size=_IMAGES_PER_BATCH,
            description=f"features of {split.name}",
            show=not config.quiet,
        )
        where = f"split {split.name!r} of {Path(config.data).name}"
        _write(path, rows, f"{len(rows)} x {rows.shape[1]} features of {config.model.backbone}, {where}")
    touch(path)
    make_room(config.cache_folder, keep=path)
    return replace(images, table=TensorTable(rows), key=key), rows


def _write(path: Path, rows: Float[Tensor, "N F"], what: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.with_suffix("")) as is_alone:
        if is_alone:
            remove_leftovers(path.parent, own=path.stem)
        with replacing(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps({"of": what}), encoding="utf-8")
        with replacing(path) as temporary:
            np.save(temporary, rows.numpy())


def _read(path: Path, num_images: int) -> Float[Tensor, "N F"] | None:
    try:
        rows = np.load(path)
    except FileNotFoundError:
        return None
    except (ValueError, EOFError, OSError) as error:
        _logger.warning("%s: damaged features (%s); computing them again", path, error)
        return None
    if rows.ndim != 2 or rows.dtype != np.float32 or len(rows) != num_images:
        _logger.warning("%s: not the features of %d images; computing them again", path, num_images)
        return None
    return torch.from_numpy(rows)
