"""Backbones of timm: creation from checked weights, frozen stages, and preparation for inference."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from timm.models import group_parameters
from timm.models import load_state_dict as read_state_dict
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tailwise.data.download import why_unreachable
from tailwise.errors import InputError
from tailwise.models.backbone_checks import check_backbone
from tailwise.models.model_config import ModelConfig
from tailwise.shapes import Float

# Subclasses may compute their weights on the way (weight standardisation) and cannot be folded.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_BATCH_NORMS = (nn.BatchNorm2d, BatchNormAct2d)
_logger = logging.getLogger(__name__)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw on the CPU from ``seed`` within the block; afterwards torch's global generators are restored."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # torch.manual_seed would seed the accelerators too, which fork_rng(devices=[]) does not restore.
        torch.default_generator.manual_seed(seed)
        yield


def create_backbone(config: ModelConfig, *, seed: int = 0) -> nn.Module:
    """Make the timm model without its classifier: images (B, 3, H, W) to pooled features (B, F).

    Args:
        config: ``backbone``, ``pretrained``, ``weights`` and ``options`` are used; nothing is frozen here.
        seed: of the random initialisation, for what is not loaded. The global random state does not change.

    Returns:
        The model in training mode, on the CPU; :func:`feature_width` is F.

    Raises:
        InputError: there is no such model, an option is not one of its arguments, the weights file is missing,
            unreadable or of another model, or the download failed.
    """
    check_backbone(config)
    with seeded(seed):
        if config.weights is not None:
            return _from_file(config.backbone, Path(config.weights), config.options)
        if config.pretrained:
            return _from_download(config.backbone, config.options)
        return _create(config.backbone, config.options, num_classes=0)


def input_statistics(backbone: nn.Module, config: ModelConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Channel means and standard deviations that images in [0, 1] are normalised with: configured, else timm's.

    Raises:
        InputError: there are not as many means as standard deviations.
    """
    pretrained_cfg: Any = backbone.pretrained_cfg
    mean = tuple(config.mean or pretrained_cfg["mean"])
    std = tuple(config.std or pretrained_cfg["std"])
    if len(mean) != len(std):
        raise InputError(f"--model.mean {mean} and --model.std {std} must both have one value per channel")
    return mean, std


def freeze_stages(backbone: nn.Module, stages: int) -> None:
    """Stop the gradient of the stem and the first ``stages`` stages.

    Args:
        backbone: a timm model; its ``group_matcher(coarse=True)`` defines its stages.
        stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages.

    Raises:
        InputError: the model has fewer stages, or does not define any.
    """
    if stages < 0:
        return
    group_matcher: Any = getattr(backbone, "group_matcher", None)
    if group_matcher is None:
        raise InputError(
            f"{type(backbone).__name__} does not define its stages; train all of it with --frozen-stages -1"
        )
    groups = group_parameters(backbone, group_matcher(coarse=True))
    if stages >= len(groups):
        raise InputError(
            f"--frozen-stages {stages}: {type(backbone).__name__} has {len(groups) - 1} stages after its stem"
        )
    for stage in range(stages + 1):
        for name in groups[stage]:
            backbone.get_parameter(name).requires_grad_(False)


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


def _create(name: str, options: Mapping[str, Any], **arguments: Any) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(name, **arguments, **options)
        return model
    except TypeError as error:
        raise InputError(f"--backbone {name} does not take --model.options {dict(options)}: {error}") from error


def _from_download(name: str, options: Mapping[str, Any]) -> nn.Module:
    try:
        _require_hub(name, options.get("cache_dir"))
        return _create(name, options, num_classes=0, pretrained=True)
    except OSError as error:
        raise InputError(
            f"--backbone {name}: its weights could not be downloaded ({_first_line(error)}). Give a file "
            "with --weights FILE, or start from random weights with --no-pretrained"
        ) from error
    except RuntimeError as error:
        if "No pretrained weights exist" not in str(error):
            raise
        raise InputError(
            f"--backbone {name}: timm has no weights for this model. Give a file with --weights FILE, or "
            "start from random weights with --no-pretrained"
        ) from error


def _require_hub(name: str, cache: Any) -> None:
    """Check quickly that the hub can be reached: timm asks for several files, each time for half a minute.

    Raises:
        ConnectionError: the weights are neither on this machine nor available.
    """
    source = timm.get_pretrained_cfg(name)
    if constants.HF_HUB_OFFLINE or source is None or not source.hf_hub_id:
        return
    repository = source.hf_hub_id.partition("@")[0]
    files = ("model.safetensors", "pytorch_model.bin", source.hf_hub_filename)
    if any(isinstance(try_to_load_from_cache(repository, file, cache), str) for file in files if file):
        return
    reason = why_unreachable(constants.ENDPOINT)
    if reason is not None:
        raise ConnectionError(f"{constants.ENDPOINT} cannot be reached: {reason}")


def _from_file(name: str, path: Path, options: Mapping[str, Any]) -> nn.Module:
    """Load strictly: timm is not strict when it drops a classifier, so the classifier is dropped here."""
    tensors = _read_weights(path)
    reference: Any = _create(name, options, pretrained=False)
    whole = reference.state_dict().keys()
    reference.reset_classifier(0)
    expected = reference.state_dict()
    classifier = whole - expected.keys()
    tensors = {key: tensor for key, tensor in tensors.items() if key not in classifier}
    source = {"state_dict": tensors, "num_classes": 0, "label_offset": 0}
    try:
        backbone: Any = timm.create_model(
            name, pretrained=True, num_classes=0, pretrained_cfg_overlay=source, **options
        )
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(_misfit(name, path, tensors, expected)) from error
    # timm keeps its source of weights in the model; the tensors would be kept in memory twice.
    backbone.pretrained_cfg.pop("state_dict", None)
    model: nn.Module = backbone
    return model


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"--weights {path}: there is no such file")
    try:
        tensors = read_state_dict(str(path), weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
        raise InputError(
            f"--weights {path} cannot be read as weights: {_first_line(error)}. Expected a .safetensors "
            "file, or a .pth file of a state dict that torch.load(weights_only=True) accepts"
        ) from error
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise InputError(f"--weights {path} does not hold a state dict: expected tensors by parameter name")
    return tensors


def _misfit(name: str, path: Path, given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The message about how a weights file differs from the backbone's state dict."""
    # Files without batch norm's counters load all the same.
    needed, found = ([key for key in keys if not key.endswith("num_batches_tracked")] for keys in (expected, given))
    reshaped = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in needed
        if key in given and given[key].shape != expected[key].shape
    ]
    differences = [
        f"{len(keys)} {what} ({_some(keys)})"
        for what, keys in (
            ("missing", [key for key in needed if key not in given]),
            ("unexpected", [key for key in found if key not in expected]),
            ("of another shape", reshaped),
        )
        if keys
    ]
    return (
        f"--weights {path} does not fit --backbone {name}: {len(found)} tensors for {len(needed)} places, "
        f"{'; '.join(differences) or 'none can be converted'}. Check the name of the backbone, and --model.options"
    )


def _some(keys: Iterable[str]) -> str:
    first = list(keys)
    return ", ".join(first[:3]) + (", ..." if len(first) > 3 else "")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class _Tracer(fx.Tracer):
    """A tracer into everything but convolutions and batch norms, which stay whole to be found as pairs."""

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
