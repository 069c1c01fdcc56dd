"""YAML files of loss parameters, which the option ``loss`` may name instead of a loss."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from tailwise.errors import InputError
from tailwise.spelling import near

FORMULA = "formula"
"""Name of the loss that has the parameters of such a file."""

_SUFFIXES = (".yaml", ".yml")


def is_loss_file(name: str) -> bool:
    """Whether ``loss`` names a file of parameters."""
    return name.endswith(_SUFFIXES)


def read_loss_file(path: str) -> dict[str, Any]:
    """Read the parameters of a loss: options of the loss ``formula``, some or all.

    Raises:
        InputError: the file cannot be read, is no YAML mapping, or has a key that is no parameter.
    """
    from tailwise.losses import option_names

    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise InputError(f"--loss {path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--loss {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"--loss {path} must be a mapping of parameters, such as 'neg_slope: 5'")
    known = option_names(FORMULA)
    for key in content:
        if key not in known:
            hint = near(str(key), known)
            raise InputError(f"--loss {path} has the key {key!r}{hint}; there are {', '.join(known)}")
    _refuse_text_for_numbers(content, path)
    return dict(content)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses mappings that have a key twice, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", node.start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _refuse_text_for_numbers(value: Any, path: str, key: str = "") -> None:
    if isinstance(value, Mapping):
        for name, item in value.items():
            _refuse_text_for_numbers(item, path, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for item in value:
            _refuse_text_for_numbers(item, path, key)
    elif isinstance(value, str) and _is_number(value):
        raise InputError(f"--loss {path}: {key} is the text {value!r}; YAML needs a point and a sign, as in 1.0e-3")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
