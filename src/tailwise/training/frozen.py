"""The frozen backbone of a probe, and its features, which are computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path

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
from tailwise.models.model_config import ModelConfig
from tailwise.shapes import Float, UInt8
from tailwise.training.config import TrainConfig
from tailwise.training.inputs import Images, TensorTable, content_key, open_images
from tailwise.training.testing import PRECISION_TYPES, forward_table

# Also stands for how images are resized before the backbone sees them.
_FORMAT = "tailwise-features-2"

_IMAGES_PER_BATCH = 64

_logger = logging.getLogger(__name__)


class Backbone:
    """A backbone of known weights, which are loaded when they are needed.

    Args:
        record: what it is.
        model: says where its weights are.
        config: gives the precision, and the seed of random weights.
        device: where to compute.
        note: the file that the record was read from, if it may be out of date.

    Attributes:
        key: a name that two backbones share only if they compute the same features.
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
        self.precision = config.precision
        self.seed = config.seed
        self.device = device
        self.note = note
        self.key = record.key(config.precision)

    @classmethod
    def new(cls, config: TrainConfig, device: torch.device) -> Backbone:
        """The backbone that a configuration describes.

        What it is was noted in the cache folder when it was last loaded, so that it is not loaded for finding features
        that are computed already.

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
        found.__dict__["plain"] = made  # which need not be loaded again
        return found

    @classmethod
    def of_run(cls, folder: Path, config: TrainConfig, device: torch.device) -> Backbone | None:
        """The backbone that the run in a folder was started with; None where the run is older than such records.

        Its weights are those in the folder, or else what its configuration names.

        Raises:
            InputError: the record cannot be read.
        """
        record = BackboneRecord.load(folder / RECORD_FILE)
        if record is None:
            return None
        kept = folder / WEIGHTS_FILE
        model = record.model(config.model, kept) if kept.is_file() else config.model
        return cls(record, model, config, device)

    @cached_property
    def plain(self) -> nn.Module:
        """The timm model.

        Raises:
            InputError: its weights cannot be had, or are not those that they should be.
        """
        place = self.record.source if self.model.weights is None else str(self.model.weights)
        try:
            backbone = create_backbone(self.model, seed=self.seed)
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
        return prepare_for_inference(self.plain, PRECISION_TYPES[self.precision]).to(self.device)

    def features(self, images: UInt8[Tensor, "B 3 S S"], size: int) -> Float[Tensor, "B F"]:
        """Features of a batch of decoded images, squashed to ``size``."""
        computed: Tensor = self._prepared(prepare(images, size, self.record.mean, self.record.std))
        return computed

    def keep(self, folder: Path) -> None:
        """Write the weights into the folder of a run, unless they are there, and forget them.

        Raises:
            InputError: they cannot be had.
        """
        if not (folder / WEIGHTS_FILE).is_file():
            keep_weights(self.plain, folder / WEIGHTS_FILE)
        # Training has no use for the network, which may fill the memory.
        for name in ("plain", "_prepared"):
            self.__dict__.pop(name, None)


class GivenFeatures:
    """Feature vectors that come with the data, where a backbone would compute them."""

    key = "features of the data"
    record = None


def compute_features(config: TrainConfig, splits: Sequence[Dataset], device: torch.device) -> list[Images]:
    """Compute the features of splits, or find them computed, so that runs need not.

    Raises:
        InputError: the backbone cannot be made, or an image cannot be read.
    """
    if all(isinstance(split.inputs, Features) for split in splits):
        return [features_of(config, split, GivenFeatures())[0] for split in splits]
    backbone = Backbone.new(config, device)
    return [features_of(config, split, backbone)[0] for split in splits]


def features_of(
    config: TrainConfig, split: Dataset, backbone: Backbone | GivenFeatures
) -> tuple[Images, Float[Tensor, "N F"]]:
    """Features of a split as a table, and as the tensor in it; computed and written unless there is a file of them.

    Raises:
        InputError: the split holds features and the model takes images, or the other way round; or an image cannot be
            read.
    """
    if isinstance(split.inputs, Features) != isinstance(backbone, GivenFeatures):
        held, wanted = ("features", "images") if isinstance(split.inputs, Features) else ("images", "features")
        raise InputError(f"{split.source} holds {held}, and the model takes {wanted}")
    if isinstance(split.inputs, Features):
        given = torch.from_numpy(split.inputs.values)
        return Images(split, TensorTable(given), content_key(split.inputs.values), np.arange(len(split))), given
    assert isinstance(backbone, Backbone)
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


def configured_weights(config: TrainConfig) -> str:
    """A name for the weights that a configuration asks for: the SHA-256 of a file, or where else they come from.

    Raises:
        InputError: the file cannot be read.
    """
    weights = config.model.weights
    if weights is None:
        return "pretrained" if config.model.pretrained else f"random, seed {config.seed}"
    try:
        with Path(weights).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"--weights {weights} cannot be read: {error.strerror}") from error


def _weights_key(config: TrainConfig) -> str:
    """A name for what decides which backbone is made; libraries do, because they draw weights and name downloads."""
    model, libraries = config.model, [version("timm"), version("torch")]
    parts = [model.backbone, model.options, configured_weights(config), model.mean, model.std, libraries]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


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
