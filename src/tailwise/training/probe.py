"""Probing: the features of a frozen backbone, kept on disk, and the neck and classifier trained on them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tailwise.data.cache_folder import alone, make_room, remove_leftovers, touch
from tailwise.data.dataset import Dataset, Features
from tailwise.data.pixels.augment import prepare
from tailwise.errors import InputError
from tailwise.files import replacing
from tailwise.models.backbone import create_backbone
from tailwise.models.extractor import (
    RECORD_FILE,
    WEIGHTS_FILE,
    BackboneRecord,
    FrozenBackbone,
    describe_backbone,
    keep_weights,
    prepare_for_inference,
)
from tailwise.models.gcn import blank_graph, create_graph
from tailwise.models.heads import FeatureTransform, create_head
from tailwise.models.model_config import ModelConfig
from tailwise.shapes import Float, UInt8
from tailwise.training.config import TrainConfig
from tailwise.training.inputs import Images, RunSplits, TensorTable, content_key, open_images
from tailwise.training.testing import PRECISION_TYPES, Task, TrainingTask, forward_table

# Covers how images are resized before the backbone sees them.
_FORMAT = "tailwise-features-2"
_IMAGES_PER_BATCH = 64
_KEY_OF_GIVEN_FEATURES = "features of the data"
_logger = logging.getLogger(__name__)


class Backbone:
    """A backbone of known weights, which are loaded when they are needed.

    Args:
        record: its architecture and weights.
        model: where its weights are.
        config: gives the precision, and the seed of random weights.
        device: where to compute.
        note: the file that the record was read from, if it may be out of date.

    Attributes:
        key: a key that two backbones share only if they compute the same features.
    """

    def __init__(
        self,
        record: BackboneRecord,
        model: ModelConfig,
        config: TrainConfig,
        device: torch.device,
        *,
        note: Path | None = None,
    ) -> None:
        self.record = record
        self.model = model
        self.config = config
        self.device = device
        self.note = note
        self.key = record.key(config.precision if model.tta == "none" else f"{config.precision}, {model.tta}")

    @classmethod
    def new(cls, config: TrainConfig, device: torch.device) -> Backbone:
        """The backbone that a configuration describes.

        Its record is kept in the cache folder, so that a backbone whose features are computed already is not loaded.

        Raises:
            InputError: it cannot be made.
        """
        note = config.cache_folder / "backbones" / f"{_weights_key(config)}.json"
        record = None
        with suppress(InputError):  # a damaged note is written again
            record = BackboneRecord.load(note)
        if record is not None:
            if config.model.weights is not None:
                record = replace(record, source=str(Path(config.model.weights).absolute()))
            return cls(record, config.model, config, device, note=note)
        made = create_backbone(config.model, seed=config.seed)
        record = describe_backbone(made, config.model, seed=config.seed)
        note.parent.mkdir(parents=True, exist_ok=True)
        record.save(note)
        found = cls(record, config.model, config, device)
        found.__dict__["plain"] = made  # loaded already
        return found

    @classmethod
    def of_run(cls, folder: Path, config: TrainConfig, device: torch.device) -> Backbone:
        """The backbone that the run in a folder was started with, or that a new run there starts with.

        Its weights are those in the folder, or else what the configuration names.

        Raises:
            InputError: the record cannot be read, or a new backbone cannot be made.
        """
        record = BackboneRecord.load(folder / RECORD_FILE)
        if record is None:
            return cls.new(config, device)
        kept = folder / WEIGHTS_FILE
        model = record.model(config.model, kept) if kept.is_file() else config.model
        return cls(record, model, config, device)

    @cached_property
    def plain(self) -> nn.Module:
        """The timm model.

        Raises:
            InputError: its weights cannot be loaded, or are not those of the record.
        """
        place = self.record.source if self.model.weights is None else str(self.model.weights)
        try:
            backbone = create_backbone(self.model, seed=self.config.seed)
        except InputError as error:
            raise InputError(
                f"features must be computed, and the backbone's weights ({place}, SHA-256 {self.record.sha256}) cannot "
                f"be had: {error}"
            ) from error
        try:
            self.record.check(backbone, place)
        except InputError:
            if self.note is not None:
                self.note.unlink(missing_ok=True)
            raise
        return backbone

    @cached_property
    def _prepared(self) -> FrozenBackbone:
        return prepare_for_inference(self.plain, PRECISION_TYPES[self.config.precision]).to(self.device)

    def features(self, images: UInt8[Tensor, "B 3 S S"], size: int) -> Float[Tensor, "B F"]:
        """Features of a batch of decoded images, squashed to ``size``."""
        inputs = prepare(images, size, self.record.mean, self.record.std)
        computed: Tensor = self._prepared(inputs)
        return (computed + self._prepared(inputs.flip(-1))) / 2 if self.model.tta == "flip" else computed

    def keep(self, folder: Path) -> None:
        """Write the weights into the folder of a run, unless they are there, and release the network.

        Raises:
            InputError: they cannot be loaded.
        """
        if not (folder / WEIGHTS_FILE).is_file():
            keep_weights(self.plain, folder / WEIGHTS_FILE)
        self.__dict__.pop("plain", None)
        self.__dict__.pop("_prepared", None)


def compute_features(config: TrainConfig, splits: Sequence[Dataset], device: torch.device) -> list[Images]:
    """Compute the features of splits, or find them computed, before the runs that need them.

    Raises:
        InputError: the backbone cannot be made, or an image cannot be read.
    """
    are_given = all(isinstance(split.inputs, Features) for split in splits)
    backbone = None if are_given else Backbone.new(config, device)
    return [features_of(config, split, backbone)[0] for split in splits]


def features_of(config: TrainConfig, split: Dataset, backbone: Backbone | None) -> tuple[Images, Float[Tensor, "N F"]]:
    """Features of a split, as a table and as its tensor; computed and written unless there is a file of them.

    Raises:
        InputError: the split holds features and the model takes images, or vice versa; or an image cannot be read.
    """
    if isinstance(split.inputs, Features) != (backbone is None):
        held, wanted = ("features", "images") if isinstance(split.inputs, Features) else ("images", "features")
        raise InputError(f"{split.source} holds {held}, and the model takes {wanted}")
    if isinstance(split.inputs, Features):
        given = torch.from_numpy(split.inputs.values)
        return Images(split, TensorTable(given), content_key(split.inputs.values), np.arange(len(split))), given
    assert backbone is not None
    images = open_images(split, config.image_size, config)
    # The key does not depend on where images and weights lie, or on the versions of the libraries that read them.
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


class ProbeModel(nn.Module):
    """Features to logits. Its state records the backbone that the features must come from.

    Args:
        scale: scales features.
        head: scaled features to (B, K) logits.
        backbone: the backbone; None where the features come with the data.
    """

    def __init__(self, scale: nn.Module, head: nn.Module, backbone: Backbone | None) -> None:
        super().__init__()
        self.scale = scale
        self.head = head
        self.backbone_key = _KEY_OF_GIVEN_FEATURES if backbone is None else backbone.key

    @property
    def width(self) -> int:
        """F, the width of the features that it takes."""
        return _width(self.state_dict())

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B C"]:
        """Return the (B, K) logits of backbone features."""
        logits: Tensor = self.head(self.scale(features))
        return logits

    def load_head(self, transform: FeatureTransform, weight: Float[Tensor, "K F"], bias: Float[Tensor, "K"]) -> None:
        """Take over a transform and a linear layer."""
        self.scale = transform
        with torch.no_grad():
            self.head.linear.weight.copy_(weight)  # type: ignore[union-attr, operator]
            self.head.linear.bias.copy_(bias)  # type: ignore[union-attr, operator]

    def get_extra_state(self) -> dict[str, str]:
        return {"backbone_key": self.backbone_key}

    def set_extra_state(self, state: dict[str, str]) -> None:
        if state["backbone_key"] != self.backbone_key:
            raise InputError(
                "this run's backbone is no longer what it was trained with: the weights file has changed; restore it, "
                "or train again"
            )


def new_task(
    config: TrainConfig, splits: RunSplits, device: torch.device, begun_in: Path | None = None
) -> TrainingTask:
    """Compute the features of all splits, or find them computed, and make a new head.

    Features are those of the whole training split, so that runs that hold out other parts share them.

    Args:
        config: the run.
        splits: its labels.
        device: where to compute.
        begun_in: folder of the run that records the backbone; by default its own.

    Raises:
        InputError: the backbone or head cannot be made, or an image cannot be read.
    """
    # First what is quick to fail.
    labels = splits.train
    graph = create_graph(config.model, labels.targets, labels.class_names, seed=config.seed)
    has_images = not isinstance(labels.inputs, Features)
    backbone = Backbone.of_run(begun_in or Path(config.output), config, device) if has_images else None
    train, rows = features_of(config, splits.whole, backbone)
    validation = None
    if splits.held_out.any():
        assert splits.validation is not None
        validation = train.subset(splits.held_out, splits.validation.name)
        train = train.subset(~splits.held_out)
        rows = train.table.batch(torch.arange(len(train.split)))
    elif splits.validation is not None:
        validation, _ = features_of(config, splits.validation, backbone)
    scale = FeatureTransform.fit("standardize", rows) if _has_transform(config) else nn.Identity()
    head = create_head(rows.shape[1], len(train.split.class_names), config.model, seed=config.seed, graph=graph)
    return TrainingTask(
        model=ProbeModel(scale, head, backbone),
        train=train,
        test=None if splits.test is None else features_of(config, splits.test, backbone)[0],
        validation=validation,
        test_inputs=nn.Identity(),
        record=None if backbone is None else backbone.record,
        keep_backbone=backbone.keep if backbone is not None and config.keep_backbone else None,
    )


def restore(
    run: Path, config: TrainConfig, state: Mapping[str, Any], num_classes: int, device: torch.device
) -> tuple[ProbeModel, Backbone | None]:
    """Make the head of the run in a folder with the state of its checkpoint, and find its backbone.

    The backbone is the one that the run was started with, from its own file of weights if it has one; None where the
    run was trained on features of the data.

    Raises:
        InputError: the backbone is not the one that the head was trained on.
    """
    is_given = state["_extra_state"]["backbone_key"] == _KEY_OF_GIVEN_FEATURES
    backbone = None if is_given else Backbone.of_run(run, config, device)
    width = _width(state)
    scale = FeatureTransform(1.0, torch.zeros(width), torch.ones(width)) if _has_transform(config) else nn.Identity()
    head = create_head(width, num_classes, config.model, graph=blank_graph(config.model, num_classes))
    model = ProbeModel(scale, head, backbone)
    model.load_state_dict(state)
    return model, backbone


def evaluation_task(
    run: Path, config: TrainConfig, state: Mapping[str, Any], test: Dataset, device: torch.device
) -> Task:
    """Compute the features of a split, or find them computed, and make the head with the state of a checkpoint.

    Raises:
        InputError: the backbone's weights cannot be loaded, or are not those that the head was trained on.
    """
    model, backbone = restore(run, config, state, len(test.class_names), device)
    return Task(model=model, test=features_of(config, test, backbone)[0], test_inputs=nn.Identity())


def _has_transform(config: TrainConfig) -> bool:
    return config.is_solved or bool(config.standardize_features)


def _width(state: Mapping[str, Any]) -> int:
    """The width of the features that a head of this state takes: the last dimension of its first layer."""
    firsts = ("scale.mean", "head.neck.0.weight", "head.linear.weight", "head.second.weight")
    return next(int(state[name].shape[-1]) for name in firsts if name in state)


def _weights_key(config: TrainConfig) -> str:
    """A key of all that decides which backbone is made; libraries do, because they draw weights and name downloads."""
    model, libraries = config.model, [version("timm"), version("torch")]
    parts = [model.backbone, model.timm_options, _weights_source(config), model.mean, model.std, libraries]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _weights_source(config: TrainConfig) -> str:
    """The SHA-256 of the file of weights that a configuration names, or where else they come from."""
    weights = config.model.weights
    if weights is None:
        return "pretrained" if config.model.pretrained else f"random, seed {config.seed}"
    try:
        with Path(weights).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"--weights {weights} cannot be read: {error.strerror}") from error


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
