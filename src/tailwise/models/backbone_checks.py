"""Checks of a backbone before any image is decoded: its name, its options, and a trial without memory or weights."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from tailwise.errors import InputError
from tailwise.models.model_config import ModelConfig
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
    width: Any = backbone.head_hidden_size
    return int(width)


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
    return _tried(config.backbone, json.dumps(config.options, sort_keys=True), image_size)


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
def _tried(name: str, options: str, size: int) -> int:
    given: dict[str, Any] = json.loads(options)
    try:
        return _features(name, given, size)
    except Exception as error:  # each of timm's models raises its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        text = f"--backbone {name}" + (f" with --model.options {given}" if given else "")
        raise InputError(
            f"{text} cannot be made for images of {size} x {size} pixels: {reason}{_way_out(name, given, size)}"
        ) from error


def _features(name: str, options: dict[str, Any], size: int) -> int:
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        model = timm.create_model(name, pretrained=False, num_classes=0, **options).eval()
        output = model(torch.empty(_TRIAL_IMAGES, 3, size, size))
    width = feature_width(model)
    if not isinstance(output, torch.Tensor) or output.shape != (_TRIAL_IMAGES, width):
        raise ValueError(f"it gives no {width} pooled features for each image")
    return width


def _way_out(name: str, options: dict[str, Any], size: int) -> str:
    """Advice on what to give instead, found by trial."""
    usual = timm.get_pretrained_cfg(name)
    native = usual.input_size[-1] if usual is not None else size
    candidates = (
        ({**options, "img_size": size}, size, f"; give --model.options '{json.dumps({**options, 'img_size': size})}'"),
        (options, native, f"; give --image-size {native}"),
    )
    for changed, side, advice in candidates:
        try:
            _features(name, changed, side)
        except Exception:  # as above
            continue
        return advice
    return "; check --model.options and --image-size" if options else ""
