"""timm backbones: made by name, started from checked weights, frozen by stages."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from timm.models import group_parameters
from timm.models import load_state_dict as read_state_dict
from torch import Tensor, nn

from tailwise.data.http import why_unreachable
from tailwise.errors import InputError
from tailwise.models.config import ModelConfig
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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the block, draw on the CPU from ``seed``; afterwards torch's global generators are as they were."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # torch.manual_seed would seed the accelerators too, which fork_rng(devices=[]) does not restore.
        torch.default_generator.manual_seed(seed)
        yield


def create_backbone(config: ModelConfig, *, seed: int = 0) -> nn.Module:
    """Make the timm model without its classifier: images (B, 3, H, W) to pooled features (B, F).

    Args:
        config: ``backbone``, ``pretrained``, ``weights`` and ``options`` are used; nothing is frozen here.
        seed: of the random initialisation, for what is not loaded. The global random state is left alone.

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


def check_backbone(config: ModelConfig) -> None:
    """Look at the names of a backbone and of its options, without making it.

    Raises:
        InputError: timm has no such model or weights, or an option is not the user's to set.
    """
    _check_name(config.backbone)
    own = sorted(_OWN_OPTIONS & config.options.keys())
    if own:
        raise InputError(f"--model.options: {own[0]!r} is set by this program; use the other options of the model")


def refuse_sources(config: ModelConfig, place: str, way_out: str) -> None:
    """Refuse what makes timm read other files, or the network, than a name of its own does.

    Args:
        config: the model.
        place: where it was read.
        way_out: what to do if it is meant.

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
        backbone: a timm model; its ``group_matcher(coarse=True)`` says what its stages are.
        stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages.

    Raises:
        InputError: the model has fewer stages, or does not say what its stages are.
    """
    if stages < 0:
        return
    group_matcher: Any = getattr(backbone, "group_matcher", None)
    if group_matcher is None:
        raise InputError(
            f"{type(backbone).__name__} does not say what its stages are; train all of it with --model.frozen_stages -1"
        )
    groups = group_parameters(backbone, group_matcher(coarse=True))
    if stages >= len(groups):
        raise InputError(
            f"--model.frozen_stages {stages}: {type(backbone).__name__} has {len(groups) - 1} stages after its stem"
        )
    for stage in range(stages + 1):
        for name in groups[stage]:
            backbone.get_parameter(name).requires_grad_(False)


def known_name(name: str) -> str:
    """The name of a timm model, without the tag of its weights where this version of timm does not have that tag."""
    base, _, tag = name.partition(".")
    return name if not tag or name in timm.list_models(f"{base}.*", pretrained=True) else base


def _check_name(name: str) -> None:
    """Refuse unknown names here; timm resolves names with a colon (``hf-hub:``, ``local-dir:``) itself."""
    base, _, tag = name.partition(".")
    if ":" in name:
        return
    if not timm.is_model(base):
        hint = near(base, timm.list_models())
        raise InputError(f"--model.backbone {name}: timm {timm.__version__} has no model {base!r}{hint}")
    tagged = timm.list_models(f"{base}.*", pretrained=True)
    if tag and name not in tagged:
        known = ", ".join(tagged) or "none"
        raise InputError(f"--model.backbone {name}: timm {timm.__version__} has no such weights; it has: {known}")


def _create(name: str, options: Mapping[str, Any], **arguments: Any) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(name, **arguments, **options)
        return model
    except TypeError as error:
        raise InputError(f"--model.backbone {name} does not take --model.options {dict(options)}: {error}") from error


def _from_download(name: str, options: Mapping[str, Any]) -> nn.Module:
    try:
        _require_hub(name, options.get("cache_dir"))
        return _create(name, options, num_classes=0, pretrained=True)
    except OSError as error:
        raise InputError(
            f"--model.backbone {name}: its weights could not be downloaded ({_first_line(error)}). Give a file "
            "with --model.weights FILE, or start from random weights with --model.pretrained false"
        ) from error
    except RuntimeError as error:
        if "No pretrained weights exist" not in str(error):
            raise
        raise InputError(
            f"--model.backbone {name}: timm has no weights for this model. Give a file with --model.weights FILE, or "
            "start from random weights with --model.pretrained false"
        ) from error


def _require_hub(name: str, cache: Any) -> None:
    """Find out quickly where weights cannot come from: timm asks for several files, each time for half a minute.

    Raises:
        ConnectionError: the weights are neither on this machine nor to be had.
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
    """Load strictly: timm drops strictness when it drops a classifier, so the classifier is dropped here."""
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
    # timm keeps its source of weights in the model; the tensors would live on beside the loaded ones.
    backbone.pretrained_cfg.pop("state_dict", None)
    model: nn.Module = backbone
    return model


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"--model.weights {path}: there is no such file")
    try:
        tensors = read_state_dict(str(path), weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
        raise InputError(
            f"--model.weights {path} cannot be read as weights: {_first_line(error)}. Expected a .safetensors "
            "file, or a .pth file of a state dict that torch.load(weights_only=True) accepts"
        ) from error
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise InputError(f"--model.weights {path} does not hold a state dict: expected tensors by parameter name")
    return tensors


def _misfit(name: str, path: Path, given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Say how a weights file differs from the backbone's state dict."""
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
        f"--model.weights {path} does not fit --model.backbone {name}: {len(found)} tensors for {len(needed)} places, "
        f"{'; '.join(differences) or 'none can be converted'}. Check the name of the backbone, and --model.options"
    )


def _some(keys: Iterable[str]) -> str:
    first = list(keys)
    return ", ".join(first[:3]) + (", ..." if len(first) > 3 else "")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
