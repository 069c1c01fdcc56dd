"""Backbones of timm: checks of names and options, a trial without memory, creation from weights, frozen stages."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.models import group_parameters
from timm.models import load_state_dict as read_state_dict
from torch import Tensor, nn

from tailwise.data.download import why_unreachable
from tailwise.errors import InputError
from tailwise.models.model_config import ModelConfig
from tailwise.shapes import Float
from tailwise.spelling import near

_OWN_OPTIONS = {
    "checkpoint_path",
    "features_only",
    "model_name",
    "num_classes",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_strict",
}
_TRIAL_IMAGES = 2


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw on the CPU from ``seed`` within the block; afterwards torch's global generators are restored."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # torch.manual_seed would seed the accelerators too, which fork_rng(devices=[]) does not restore.
        torch.default_generator.manual_seed(seed)
        yield


def create_backbone(config: ModelConfig, *, seed: int = 0) -> nn.Module:
    """Make the timm model without its classifier: images (B, 3, H, W) to pooled features (B, F).

    For a head that takes the features of all locations, it gives what :func:`locations` takes.

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
            return _from_file(config.backbone, Path(config.weights), config.timm_options)
        if config.pretrained:
            return _from_download(config.backbone, config.timm_options)
        return _create(config.backbone, config.timm_options, num_classes=0)


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
    # timm keeps its source of weights in the model, which would keep the tensors in memory twice.
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


def check_backbone(config: ModelConfig) -> None:
    """Check the names of a backbone and of its options, without making it.

    Raises:
        InputError: timm has no such model or weights, or an option is reserved.
    """
    _check_name(config.backbone)
    own = sorted(_OWN_OPTIONS & config.options.keys())
    if own:
        raise InputError(f"--model.options: {own[0]!r} is set by this program; use the other options of the model")


def refuse_sources(config: ModelConfig, place: str, way_out: str) -> None:
    """Refuse a backbone for which timm reads other files, or the network, than for its own names.

    Args:
        config: the model.
        place: where it was read, for the message.
        way_out: what to do if it is intended, for the message.

    Raises:
        InputError: the backbone is one of a hub or a folder, or a folder for downloads is set.
    """
    if ":" in config.backbone:
        raise InputError(
            f"{place} names the backbone {config.backbone!r}, for which files or the network are read; {way_out}"
        )
    if "cache_dir" in config.options:
        raise InputError(f"{place} names a folder for downloads (model.options.cache_dir); {way_out}")


def feature_width(backbone: nn.Module) -> int:
    """Number F of pooled features of a timm model without its classifier."""
    # num_features is the width before the layers that some models keep between pooling and classifier.
    model: Any = backbone
    width = int(model.head_hidden_size)
    if width == model.num_features and isinstance(getattr(model, "global_pool", None), SelectAdaptivePool2d):
        width *= 2 if model.global_pool.pool_type == "catavgmax" else 1
    return width


def locations(backbone: nn.Module, features: Tensor) -> Float[Tensor, "B F L"]:
    """The features of the L locations of each image, from those that a timm model gives without pooling.

    Args:
        backbone: the model.
        features: its output: (B, F, H, W) maps, (B, H, W, F) where that is the layout of the model, or (B, N, F)
            tokens, of which the first may stand for the whole image; these are left out.
    """
    if features.ndim == 3:
        first: Any = getattr(backbone, "num_prefix_tokens", 0)
        return features[:, first:].transpose(1, 2)
    if getattr(backbone, "output_fmt", "NCHW") == "NHWC":
        return features.flatten(1, 2).transpose(1, 2)
    return features.flatten(2)


def try_backbone(config: ModelConfig, image_size: int) -> int | None:
    """Check on the meta device that a backbone can be made and takes images of a size; nothing is downloaded.

    Args:
        config: ``backbone``, ``options`` and ``weights`` are used.
        image_size: side of the square images.

    Returns:
        The number of its features; None for a model of a hub or a folder, which is not tried.

    Raises:
        InputError: there is no such model or weights file, or it does not take its options or such images.
    """
    check_backbone(config)
    if config.weights is not None and not Path(config.weights).is_file():
        raise InputError(f"--weights {config.weights} cannot be read: there is no such file")
    if ":" in config.backbone:
        return None
    return _tried(config.backbone, json.dumps(config.timm_options, sort_keys=True), image_size, not config.is_spatial)


def _check_name(name: str) -> None:
    """Refuse unknown names here; timm resolves names with a colon (``hf-hub:``, ``local-dir:``) itself."""
    base, _, tag = name.partition(".")
    if ":" in name:
        return
    if not timm.is_model(base):
        hint = near(base, timm.list_models())
        raise InputError(f"--backbone {name}: timm {timm.__version__} has no model {base!r}{hint}")
    tagged = timm.list_models(f"{base}.*", pretrained=True)
    if tag and name not in tagged:
        known = ", ".join(tagged) or "none"
        raise InputError(f"--backbone {name}: timm {timm.__version__} has no such weights; it has: {known}")


@cache
def _tried(name: str, options: str, size: int, is_pooled: bool) -> int:
    given: dict[str, Any] = json.loads(options)
    try:
        return _features(name, given, size, is_pooled)
    except Exception as error:  # each of timm's models raises its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        text = f"--backbone {name}" + (f" with --model.options {given}" if given else "")
        way_out = _way_out(name, given, size, is_pooled)
        raise InputError(f"{text} cannot be made for images of {size} x {size} pixels: {reason}{way_out}") from error


def _features(name: str, options: dict[str, Any], size: int, is_pooled: bool) -> int:
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        model = timm.create_model(name, pretrained=False, num_classes=0, **options).eval()
        output = model(torch.empty(_TRIAL_IMAGES, 3, size, size))
    width = feature_width(model)
    if isinstance(output, torch.Tensor) and not is_pooled and output.ndim in (3, 4):
        output = locations(model, output)[..., 0]
    if not isinstance(output, torch.Tensor) or output.shape != (_TRIAL_IMAGES, width):
        raise ValueError(f"it gives no {width} {'pooled features' if is_pooled else 'features of locations'}")
    return width


def _way_out(name: str, options: dict[str, Any], size: int, is_pooled: bool) -> str:
    """Advice on what to give instead, found by trial."""
    usual = timm.get_pretrained_cfg(name)
    native = usual.input_size[-1] if usual is not None else size
    candidates = (
        ({**options, "img_size": size}, size, f"; give --model.options '{json.dumps({**options, 'img_size': size})}'"),
        (options, native, f"; give --image-size {native}"),
    )
    for changed, side, advice in candidates:
        try:
            _features(name, changed, side, is_pooled)
        except Exception:  # as above
            continue
        return advice
    return "; check --model.options and --image-size" if options else ""
