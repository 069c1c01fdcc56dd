"""Custom losses: the formula by its parameters, YAML files of these parameters, and losses of other projects."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor, nn

from tailwise.errors import InputError
from tailwise.labels import LabelStats, require_stats
from tailwise.losses.formula import Factor, FocalOn, Side, is_finite, require, with_margin
from tailwise.losses.guidance import Adaptive, Sync, guided
from tailwise.losses.loss import Formula
from tailwise.losses.registry import option_names, options_of, preset
from tailwise.losses.statistics import (
    Classes,
    FactorChoice,
    Weighting,
    class_balanced,
    inverse_frequency,
    margins,
    prior,
    rebalanced,
)
from tailwise.spelling import near

Rule: TypeAlias = Mapping[str, Any]
"""``{"rule": name}`` with the numbers of that rule: a parameter that follows from the class counts."""

_SUFFIXES = (".yaml", ".yml")


@preset("formula")
def formula(
    classes: Classes,
    *,
    weight: Rule | None = None,
    pos_shift: FactorChoice | Rule = None,
    neg_shift: FactorChoice | Rule = None,
    pos_slope: FactorChoice = None,
    neg_slope: FactorChoice = None,
    pos_divisor: FactorChoice = None,
    neg_divisor: FactorChoice = None,
    pos_exponent: FactorChoice = None,
    neg_exponent: FactorChoice = None,
    balance: float = 1.0,
    margin: float = 0.0,
    adaptive: Adaptive = (),
    base_exponent: float | None = None,
    max_exponent: float | None = None,
    focal_on: FocalOn = "regularized",
    sync: Sync = "auto",
) -> Formula:
    """Any point of the formula by its parameters, BCE when none is given: the loss behind YAML files.

    A slope, divisor, exponent or shift is a number, (K,) values, or ``{group: value}`` that replaces its base, which is
    1 for slopes and divisors, and 0 for exponents and shifts. ``weight`` is ``{"rule": "rebalanced"}``,
    ``"inverse-frequency"`` or ``"class-balanced"`` with options of the function of that name in
    :mod:`tailwise.losses.statistics`; a shift may be ``{"rule": "prior"}`` or ``{"rule": "margin"}`` in the same way.
    ``margin`` is ASL's, ``adaptive``, ``max_exponent``, ``focal_on`` and ``sync`` are as for PG. ``base_exponent`` is
    λ₀ of exponents that follow the batch ratio; None leaves γ± as given.
    """
    if base_exponent is not None and not (pos_exponent is None and neg_exponent is None):
        raise ValueError("base_exponent makes the exponents follow the batch: leave pos_exponent, neg_exponent out")
    if max_exponent is not None and base_exponent is None:
        raise ValueError("max_exponent bounds exponents that follow the batch: give base_exponent as well")
    require("a positive number", balance=balance)

    def side(prefix: str, shift: FactorChoice | Rule, *factors: FactorChoice) -> Side:
        slope, divisor, exponent = factors
        return Side(
            _shift(classes, f"{prefix}_shift", shift),
            classes.factor(f"{prefix}_slope", slope, 1.0),
            classes.factor(f"{prefix}_divisor", divisor, 1.0),
            classes.factor(f"{prefix}_exponent", exponent, 0.0, "not negative"),
        )

    return Formula(
        side("pos", pos_shift, pos_slope, pos_divisor, pos_exponent),
        with_margin(side("neg", neg_shift, neg_slope, neg_divisor, neg_exponent), margin),
        weight=None if weight is None else _by_rule(classes, "weight", weight, _WEIGHTS),
        scale=balance,
        guidance=guided(
            classes.stats, adaptive=adaptive, base_exponent=base_exponent, max_exponent=max_exponent, sync=sync
        ),
        focal_on=focal_on,
    )


_WEIGHTS: dict[str, Callable[..., Weighting]] = {
    "rebalanced": rebalanced,
    "inverse-frequency": inverse_frequency,
    "class-balanced": class_balanced,
}
_SHIFTS: dict[str, Callable[..., Tensor]] = {"prior": prior, "margin": margins}


def _shift(classes: Classes, option: str, given: FactorChoice | Rule) -> Factor:
    if isinstance(given, Mapping) and "rule" in given:
        by_rule: Tensor = _by_rule(classes, option, given, _SHIFTS)
        return by_rule
    return classes.factor(option, given, 0.0, "finite")


def _by_rule(classes: Classes, option: str, given: Rule, rules: Mapping[str, Callable[..., Any]]) -> Any:
    """Apply the rule that an option names to the class counts."""
    if not isinstance(given, Mapping) or given.get("rule") not in rules:
        raise ValueError(f"{option} must have a rule, one of {', '.join(rules)}, got {given!r}")
    rule = rules[given["rule"]]
    numbers = {name: value for name, value in given.items() if name != "rule"}
    known = options_of(rule)
    for name, value in numbers.items():
        if name not in known:
            raise ValueError(f"{option} by the rule {given['rule']!r} has no {name!r}; it takes {', '.join(known)}")
        if name != "mode" and not is_finite(value):
            raise ValueError(f"{name} of {option} must be a finite number, got {value!r}")
    try:
        return rule(classes, **numbers)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error


def is_loss_file(name: str) -> bool:
    """Whether ``loss`` names a file of parameters."""
    return name.endswith(_SUFFIXES)


def read_loss_file(path: str) -> dict[str, Any]:
    """Read the parameters of a loss: options of the loss ``formula``, some or all.

    Raises:
        InputError: the file cannot be read, is no YAML mapping, or has a key that is no parameter.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        text = Path(path).read_text(encoding="utf-8")
        _require_distinct_keys(yaml.compose(text, yaml.SafeLoader))
        content = yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"--loss {path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--loss {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"--loss {path} must be a mapping of parameters, such as 'neg_slope: 5'")
    known = option_names("formula")
    for key in content:
        if key not in known:
            hint = near(str(key), known)
            raise InputError(f"--loss {path} has the key {key!r}{hint}; there are {', '.join(known)}")
    _refuse_text_for_numbers(content, path)
    return dict(content)


def _require_distinct_keys(node: Any) -> None:
    """Raise a YAML error where a mapping has a key twice, of which YAML would take the last."""
    import yaml

    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    keys = [key.value for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", node.start_mark)
    for child in node.value if isinstance(node, yaml.SequenceNode) else [value for _, value in pairs]:
        _require_distinct_keys(child)


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


def is_dotted_path(name: str) -> bool:
    """Whether a name has the form ``package.module.Name`` or ``package.module:Name``."""
    parts = name.replace(":", ".", 1).split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts)


def create_custom(path: str, stats: LabelStats, **options: Any) -> nn.Module:
    """Make a loss of another project.

    Args:
        path: ``package.module.Name`` or ``package.module:Name`` of a class or function, called with
            ``(stats, **options)``. Modules are also searched in the current folder.
        stats: statistics of the training labels.
        options: its keyword arguments.

    Returns:
        The module, which is called as ``loss(logits, targets)`` or ``loss(logits, targets, mask)``: (B, K)
        each. Training gives int8 targets: 1, 0, or -1 for unknown.

    Raises:
        ValueError: there is no such module or name, it does not take these options, or its result is not an
            ``nn.Module``, or one with parameters, which training would not update.
    """
    if not is_dotted_path(path):
        raise ValueError(f"{path!r} is not a path of the form package.module.Name or package.module:Name")
    require_stats(stats)
    module_name, _, name = path.rpartition(":" if ":" in path else ".")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that it hides no module; kept, for what the module imports later
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
