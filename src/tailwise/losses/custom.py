"""Losses of other projects, by the dotted path of their class or of a function that makes them."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from tailwise.labels import LabelStats, require_stats


def is_dotted_path(name: str) -> bool:
    """Whether a name has the form ``package.module.Name`` or ``package.module:Name``."""
    parts = name.replace(":", ".", 1).split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts)


def create_custom(path: str, stats: LabelStats, **options: Any) -> nn.Module:
    """Make a loss of another project.

    Args:
        path: ``package.module.Name`` or ``package.module:Name`` of a class or function, called with
            ``(stats, **options)``. Modules are also looked for in the current folder.
        stats: statistics of the training labels.
        options: its keyword arguments.

    Returns:
        The module it made, which is called as ``loss(logits, targets)`` or ``loss(logits, targets, mask)``: (B, K)
        each. Training gives int8 targets: 1, 0, or -1 for unknown.

    Raises:
        ValueError: there is no such module or name, it does not take these options, or what it makes is no
            ``nn.Module``, or one with parameters, which training would leave as they are.
    """
    if not is_dotted_path(path):
        raise ValueError(f"{path!r} is no path of the form package.module.Name or package.module:Name")
    require_stats(stats)
    module_name, _, name = path.rpartition(":" if ":" in path else ".")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that nothing is hidden; to stay, for what the module imports later
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise ValueError(f"the module {module_name!r} of {path!r} cannot be imported: {error}") from error
    if not callable(factory := getattr(module, name, None)):
        raise ValueError(f"the module {module_name!r} has no class or function {name!r}")
    try:
        loss = factory(stats, **options)
    except TypeError as error:
        raise ValueError(f"{path} cannot be called with (stats, {', '.join(options)}): {error}") from error
    if not isinstance(loss, nn.Module):
        raise ValueError(f"{path} must make a torch.nn.Module, but made a {type(loss).__name__}")
    if any(parameter.requires_grad for parameter in loss.parameters()):
        raise ValueError(f"{path} made a loss with parameters to train; only those of the network are trained")
    return loss
