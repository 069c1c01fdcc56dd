"""Records of backbones: the architecture, the source of the weights, and their digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import nn

from tailwise.errors import InputError
from tailwise.files import replacing
from tailwise.models.backbone import input_statistics
from tailwise.models.model_config import ModelConfig

RECORD_FILE = "backbone.json"
WEIGHTS_FILE = "backbone.safetensors"

_FORMAT = "tailwise-backbone-1"
# The folder of downloads, which does not change the network.
_OPTIONS_WITHOUT_EFFECT = ("cache_dir",)


@dataclass(frozen=True)
class BackboneRecord:
    """A backbone at the beginning of training.

    Attributes:
        name: the timm model, with the tag of its weights if it has one.
        options: further arguments of the timm model.
        source: where its weights came from: a file, an address, or the seed of random ones.
        sha256: :func:`weights_digest` of it.
        mean: channel means that images in [0, 1] are normalised with.
        std: channel standard deviations that they are normalised with.
    """

    name: str
    options: Mapping[str, Any]
    source: str
    sha256: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def key(self, precision: str) -> str:
        """A key that two backbones share only if they compute the same features in this precision.

        It depends on the architecture and the weights, not on their path or on how they were loaded.
        """
        architecture = self.name.partition(".")[0]
        parts = [architecture, self.options, self.sha256, self.mean, self.std, precision]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def model(self, config: ModelConfig, weights: Path | None = None) -> ModelConfig:
        """The configuration with this backbone; its weights are in a file, or are loaded afterwards."""
        name, options = _known_name(self.name), dict(self.options)
        return replace(
            config, backbone=name, options=options, weights=weights, pretrained=False, mean=self.mean, std=self.std
        )

    def check(self, backbone: nn.Module, place: str) -> None:
        """Check that a backbone that was loaded from ``place`` has these weights.

        Raises:
            InputError: it has others.
        """
        found = weights_digest(backbone)
        if found != self.sha256:
            raise InputError(
                f"{place}: the backbone's weights have the SHA-256 {found}; expected {self.sha256}, those of "
                f"{self.source} when the run began. Put those back, or train again"
            )

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        with replacing(path) as temporary:
            content = {"format": _FORMAT, **asdict(self)}
            temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n", "utf-8")

    @classmethod
    def load(cls, path: Path) -> BackboneRecord | None:
        """Read what :meth:`save` has written; None where there is no such file.

        Raises:
            InputError: the file is incomplete, or has another format.
        """
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != _FORMAT:
                raise ValueError(f'its "format" is not "{_FORMAT}"')
            record = cls(**content | {name: tuple(content[name]) for name in ("mean", "std")})
            # Records name plain models of timm. Another name would make timm read a folder or a hub.
            if ":" in record.name or record.options.keys() & set(_OPTIONS_WITHOUT_EFFECT):
                raise ValueError(f"it names a source of models, {record.name!r}")
            return record
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path} is no record of a backbone: {error}; restore it, or remove it") from error


def describe_backbone(backbone: nn.Module, config: ModelConfig, *, seed: int) -> BackboneRecord:
    """Record a backbone made by :func:`~tailwise.models.backbone.create_backbone` with this configuration and seed.

    Raises:
        InputError: there are not as many means as standard deviations.
    """
    known: Any = backbone.pretrained_cfg
    name = ".".join(part for part in (known.get("architecture"), known.get("tag")) if part)
    options = {name: value for name, value in config.options.items() if name not in _OPTIONS_WITHOUT_EFFECT}
    if config.weights is not None:
        source = str(Path(config.weights).absolute())
    elif config.pretrained:
        source = f"hf-hub:{known['hf_hub_id']}" if known.get("hf_hub_id") else str(known.get("url"))
    else:
        source = f"random weights, seed {seed}"
    mean, std = input_statistics(backbone, config)
    return BackboneRecord(name or config.backbone, options, source, weights_digest(backbone), mean, std)


def weights_digest(backbone: nn.Module) -> str:
    """SHA-256 of the names, types, shapes and bytes of all tensors of a backbone, by rising name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def keep_weights(backbone: nn.Module, path: Path) -> None:
    """Write the tensors of a backbone as safetensors, atomically."""
    # Copies, because tensors that share memory cannot be written.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in backbone.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary)


def _known_name(name: str) -> str:
    """The name of a timm model, without the tag of its weights where this version of timm does not have that tag."""
    base, _, tag = name.partition(".")
    return name if not tag or name in timm.list_models(f"{base}.*", pretrained=True) else base
