"""A model tried without memory or weights, so that what cannot work shows before images are decoded."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch

from tailwise.errors import InputError
from tailwise.models.backbone import check_backbone, feature_width
from tailwise.models.config import ModelConfig

# Weights, gradient and momentum, four bytes each.
_BYTES_PER_WEIGHT = 12
_TRIAL_IMAGES = 2


def try_backbone(config: ModelConfig, image_size: int) -> int | None:
    """Find out whether a backbone can be made and takes images of a size; nothing is downloaded or allocated.

    Args:
        config: ``backbone``, ``options`` and ``weights`` are used.
        image_size: side of the square images.

    Returns:
        The number of its features; None for a model of a hub or a folder, which is not looked into.

    Raises:
        InputError: there is no such model or weights file, or it does not take its options or such images.
    """
    check_backbone(config)
    if config.weights is not None and not Path(config.weights).is_file():
        raise InputError(f"--model.weights {config.weights} cannot be read: there is no such file")
    if ":" in config.backbone:
        return None
    return _tried(config.backbone, json.dumps(config.options, sort_keys=True), image_size)


def require_memory(config: ModelConfig, num_features: int, num_classes: int) -> None:
    """Refuse a head that this machine has no memory to train.

    Args:
        config: the widths of the head.
        num_features: F.
        num_classes: K.

    Raises:
        InputError: its weights, their gradient and momentum are larger than the memory.
    """
    width = config.neck_width if config.has_neck else num_features
    weights = num_features * width if config.has_neck else 0
    if config.head == "gcn":
        weights += config.label_width * (config.graph_hidden + num_classes) + config.graph_hidden * width
    else:
        weights += width * num_classes
    needed = weights * _BYTES_PER_WEIGHT
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else needed
    if needed > memory:
        raise InputError(
            f"the head needs {needed / 1e9:.0f} GB of memory in training and this machine has {memory / 1e9:.0f} GB: "
            f"lower model.neck_width ({config.neck_width})"
            + (
                f", model.label_width ({config.label_width}) or model.graph_hidden ({config.graph_hidden})"
                if config.head == "gcn"
                else ""
            )
        )


@cache
def _tried(name: str, options: str, size: int) -> int:
    given: dict[str, Any] = json.loads(options)
    try:
        return _features(name, given, size)
    except Exception as error:  # of timm's models, each fails in its own way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        text = f"--model.backbone {name}" + (f" with --model.options {given}" if given else "")
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
    """What to give instead, found by trial."""
    usual = timm.get_pretrained_cfg(name)
    native = usual.input_size[-1] if usual is not None else size
    candidates = (
        ({**options, "img_size": size}, size, f"; give --model.options '{json.dumps({**options, 'img_size': size})}'"),
        (options, native, f"; give --image_size {native}"),
    )
    for changed, side, advice in candidates:
        try:
            _features(name, changed, side)
        except Exception:  # as above
            continue
        return advice
    return "; check --model.options and --image_size" if options else ""
