"""Backbones as feature extractors: preparation for inference, and records of architecture, source and digest."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tailwise.errors import InputError
from tailwise.files import replacing
from tailwise.models.backbone import input_statistics
from tailwise.models.model_config import ModelConfig
from tailwise.shapes import Float

RECORD_FILE = "backbone.json"
WEIGHTS_FILE = "backbone.safetensors"

_FORMAT = "tailwise-backbone-1"
# The download cache, which does not change the network.
_OPTIONS_WITHOUT_EFFECT = ("cache_dir",)
# Subclasses may compute their weights in the forward pass (weight standardisation) and cannot be folded.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_BATCH_NORMS = (nn.BatchNorm2d, BatchNormAct2d)
_logger = logging.getLogger(__name__)


class FrozenBackbone(nn.Module):
    """Pooled features of images, without gradients; see :func:`prepare_for_inference`.

    Args:
        backbone: (B, 3, H, W) images to (B, F) features, in evaluation mode, with weights of ``dtype`` in
            channels-last order.
        dtype: what it computes in.
    """

    def __init__(self, backbone: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.backbone = backbone
        self.dtype = dtype

    @torch.inference_mode()
    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F"]:
        """Return the (B, F) float32 features of normalised images."""
        pooled: Tensor = self.backbone(images.to(self.dtype, memory_format=torch.channels_last))
        return pooled.float()


def prepare_for_inference(backbone: nn.Module, dtype: torch.dtype = torch.float32) -> FrozenBackbone:
    """Copy a backbone for fast feature extraction.

    Batch norms are folded into the convolutions before them, which is exact up to rounding, and tensors are laid out
    channels last, the layout of the fast convolutions of CPUs and GPUs. A backbone whose operations cannot be traced is
    not folded, with a warning in the log.

    Args:
        backbone: a timm model without classifier; it does not change.
        dtype: float32, or a half precision to trade digits for speed where the processor has fast half-precision
            arithmetic.

    Returns:
        Images (B, 3, H, W) of any floating dtype to float32 features (B, F), on the device of ``backbone``.
    """
    prepared = copy.deepcopy(backbone).eval().requires_grad_(False)
    _fold_batch_norms(prepared)
    return FrozenBackbone(prepared.to(dtype=dtype).to(memory_format=torch.channels_last), dtype).eval()


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
        """A key that is equal for two backbones only if they compute the same features in this precision.

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
            InputError: its weights are different.
        """
        found = weights_digest(backbone)
        if found != self.sha256:
            raise InputError(
                f"{place}: the backbone's weights have the SHA-256 {found}; expected {self.sha256}, those of "
                f"{self.source} when the run began. Restore those, or train again"
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
            raise InputError(f"{path} is not a record of a backbone: {error}; restore it, or remove it") from error


def describe_backbone(backbone: nn.Module, config: ModelConfig, *, seed: int) -> BackboneRecord:
    """Record a backbone made by :func:`~tailwise.models.backbone.create_backbone` with this configuration and seed.

    Raises:
        InputError: there are not as many means as standard deviations.
    """
    known: Any = backbone.pretrained_cfg
    name = ".".join(part for part in (known.get("architecture"), known.get("tag")) if part)
    options = {name: value for name, value in config.timm_options.items() if name not in _OPTIONS_WITHOUT_EFFECT}
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


class _Tracer(fx.Tracer):
    """A tracer that does not enter convolutions and batch norms, so that pairs can be found."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (*_CONVOLUTIONS, *_BATCH_NORMS)) or super().is_leaf_module(m, module_qualified_name)


def _fold_batch_norms(model: nn.Module) -> None:
    for convolution, norm in _foldable_pairs(model):
        conv, bn = model.get_submodule(convolution), model.get_submodule(norm)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(bn, nn.BatchNorm2d)
        model.set_submodule(convolution, fuse_conv_bn_eval(conv, bn))
        # timm's batch norm carries the activation after it.
        model.set_submodule(norm, bn.act if isinstance(bn, BatchNormAct2d) else nn.Identity())


def _foldable_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Names of each convolution and the batch norm that alone uses its output."""
    modules = dict(model.named_modules())
    if not any(type(module) in _BATCH_NORMS for module in modules.values()):
        return []
    try:
        calls = [node for node in _Tracer().trace(model).nodes if node.op == "call_module"]
    except (fx.proxy.TraceError, RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
        _logger.warning("batch norms of %s are not folded: it cannot be traced (%s)", type(model).__name__, error)
        return []
    called = [str(node.target) for node in calls]
    pairs = []
    for node, norm in zip(calls, called, strict=True):
        before = node.args[0] if node.args else None
        if (
            type(modules[norm]) in _BATCH_NORMS
            and isinstance(before, fx.Node)
            and before.op == "call_module"
            and type(modules[str(before.target)]) in _CONVOLUTIONS
            and len(before.users) == 1
            and called.count(norm) == called.count(str(before.target)) == 1
            and modules[norm].running_mean is not None
        ):
            pairs.append((str(before.target), norm))
    return pairs
