"""Methods by name: each a choice of training options, from the registry, a file or a Python name."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast, get_args

import yaml  # type: ignore[import-untyped]

from tailwise.command_line import add_options, from_namespace
from tailwise.data.formats.rows import read_text
from tailwise.errors import InputError
from tailwise.losses import available, is_dotted_path
from tailwise.options import Role, groups_of, names_of
from tailwise.spelling import near
from tailwise.training.config import NO_SPLIT, RIDGE, SamplerName, TrainConfig

NESTED = tuple(groups_of(TrainConfig))
"""Options of a run that are groups of options."""

_logger = logging.getLogger(__name__)
_FILES = ("weights", "label_embeddings")


@dataclass(frozen=True)
class Method:
    """A name for options of :class:`~tailwise.training.config.TrainConfig` that differ from those all methods share.

    Attributes:
        name: its name in tables, and its folder.
        options: values by option; a mapping for a nested configuration such as ``optim`` changes only its keys.
        title: a description for readers; the name when empty.
        search: further options to try, each laid over ``options``.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    search: tuple[Mapping[str, Any], ...] = ()

    def configure(self, shared: TrainConfig, seed: int) -> TrainConfig:
        """The configuration of one run, in a folder of its own below the shared output.

        Raises:
            InputError: there is no such option, or a value is out of its range.
        """
        changes: dict[str, Any] = {}
        for option, value in self.options.items():
            _require_options("a run", shared, (option,))
            if option in NESTED:
                _require_options(option, getattr(shared, option), value)
                value = replace(getattr(shared, option), **value)
            changes[option] = value
        return replace(shared, **changes, seed=seed, output=str(Path(shared.output) / self.name / f"seed{seed}"))

    def tried(self, candidate: Mapping[str, Any]) -> Method:
        """This method with options of its search laid over its own."""
        merged = dict(self.options)
        for option, value in candidate.items():
            own = merged.get(option)
            merged[option] = {**own, **value} if isinstance(own, Mapping) and isinstance(value, Mapping) else value
        return replace(self, options=merged)

    def sampled(self, sampler: SamplerName) -> Method:
        """This method with another sampler, called ``NAME@SAMPLER``."""
        return replace(
            self,
            name=f"{self.name}@{sampler}",
            options={**self.options, "sampler": sampler},
            title=f"{self.title or self.name}, {sampler} sampling",
        )


def portable(value: Any) -> Any:
    """Options as JSON, with paths as the names of their files: results say nothing of where they were made."""
    if isinstance(value, Mapping):
        return {
            str(key): Path(item).name if key in _FILES and item is not None else portable(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if isinstance(value, Path) or (isinstance(value, str) and Path(value).is_absolute()):
        return Path(value).name
    return value


def require_test(shared: TrainConfig) -> None:
    """Refuse runs without a test split, which would leave nothing to report.

    Raises:
        InputError: there is none.
    """
    if shared.test_split == NO_SPLIT:
        raise InputError(
            f"--test-split {NO_SPLIT}: methods are compared by their scores on a test split; give its name "
            "(only tailwise train works without one)"
        )


def _require_options(owner: str, options: Any, names: Iterable[str]) -> None:
    known = [entry.name for entry in fields(options)]
    for name in names:
        if name not in known:
            raise InputError(f"{owner} has no option {name!r}{near(name, known)}")


# A method may change how a run trains, but not its training and test images, nor how classes are grouped.
_METHOD_OPTIONS = names_of(TrainConfig, Role.METHOD)
_METHOD_KEYS = ("name", "title", "options", "search")
_YAML_SUFFIXES = (".yaml", ".yml")


def _loss(name: str, title: str, *search: Mapping[str, Any], **options: Any) -> Method:
    """A method that is a loss, with values of its own options to try."""
    tried = tuple({"loss_options": candidate} for candidate in search)
    return Method(name, {"loss": name, **options}, title, tried)


_LAMBDA_5 = {"neg_scale": 5.0}
_LAMBDA_5_MU_3 = {"mu": 0.3, "neg_scale": 5.0}
# The two published choices of raised factors, and the first one raised further.
_FACTORS: tuple[Mapping[str, Any], ...] = (
    {"neg_slope": {"tail": 6.0}, "pos_divisor": {"tail": 1.5}, "pos_slope": None},
    {"neg_slope": {"tail": 10.0}, "pos_divisor": {"tail": 2.0}, "pos_slope": None},
    {"neg_slope": 4.0, "pos_slope": 2.0, "pos_divisor": None},
)

_METHODS = (
    Method("bce@uniform", {"loss": "bce", "sampler": "uniform"}, "BCE, uniform sampling (ERM)"),
    _loss("bce", "BCE, class-aware sampling (RS)"),
    _loss("focal", "focal loss", {"gamma": 0.5}, {"gamma": 1.0}),
    _loss("rw", "BCE weighted by inverse frequency (RW)", {"power": 0.25}, {"power": 1.0}),
    # The multi-label form was published with its own learning rate.
    _loss("cb-focal", "class-balanced focal loss", {"beta": 0.99}, {"beta": 0.999}, optim={"lr": 0.1}),
    _loss("ldam", "margins by class frequency (LDAM)", {"max_margin": 0.25}, {"max_margin": 1.0}),
    _loss("asl", "asymmetric loss (ASL)", {"gamma_neg": 2.0}, {"gamma_neg": 6.0}, {"gamma_pos": 1.0}),
    Method("ml-gcn", {"loss": "bce", "model": {"head": "gcn"}}, "BCE, graph convolution over labels (ML-GCN)"),
    _loss("r-bce", "BCE with rebalanced weights (R-BCE)", {"mu": 0.3}),
    _loss("ntr", "negative-tolerant regularization (NTR)", _LAMBDA_5),
    _loss("db", "distribution-balanced loss (DB)", _LAMBDA_5_MU_3),
    _loss("db-focal", "distribution-balanced focal loss (DB-Focal)", _LAMBDA_5_MU_3),
    _loss("pr", "probability re-balancing (PR)", *_FACTORS),
    Method(
        "apr",
        {"loss": "pr", "loss_options": {"adaptive": ["neg_slope"]}},
        "adaptive probability re-balancing (APR)",
        tuple({"loss_options": factors} for factors in _FACTORS),
    ),
    _loss("apaf", "adaptive focal exponents (APAF)", {"base_exponent": 1.0}, {"max_exponent": 4.0}),
    Method(
        "apr-focal",
        {"loss": "pg", "loss_options": {"exponent": "fixed"}},
        "adaptive probability re-balancing, focal factor",
        tuple({"loss_options": factors} for factors in _FACTORS),
    ),
    _loss("pg", "probability-guided loss (PG)", *_FACTORS),
    _loss("pg-auto", "probability-guided loss that sets its own factors"),
)

METHODS: Mapping[str, Method] = {method.name: method for method in _METHODS}
"""The methods that have a name, the simplest first. They are the rows of the published tables and the parts of DB and
PG; their loss options are the losses' defaults, or those of the shared ``recipe``."""

OTHER_LOSSES = tuple(name for name in available() if name not in METHODS and name != "formula")
"""Further losses that are methods by their name, with their defaults, but are not among ``all``."""

ALL = "all"
"""Stands for every method of the registry."""


@dataclass(frozen=True)
class Selection:
    """Methods of one solver by name.

    Attributes:
        default: those compared by default: whole losses rather than their parts, and one of each kind.
        every: those that ``all`` stands for.
        baseline: the default baseline.
    """

    default: tuple[str, ...]
    every: tuple[str, ...]
    baseline: str


TRAINED = Selection(
    default=("bce@uniform", "bce", "focal", "rw", "asl", "db-focal", "pg", "pg-auto"),
    every=tuple(METHODS),
    baseline="bce@uniform",
)
"""Methods that train by steps."""

SOLVED = Selection(
    default=(RIDGE, "logistic", "rw", "asl", "db", "pg", "pg-auto", "ridge+logistic", "ridge+asl"),
    every=(
        *(RIDGE, "logistic", "bce@class-aware"),
        *(name for name in METHODS if name not in ("bce@uniform", "bce", "ml-gcn")),
        *("ridge+logistic", "ridge+asl"),
    ),
    baseline="logistic",
)
"""Methods whose linear heads are solved. Their images have equal weights, so that BCE is logistic regression."""

_HEADS = {RIDGE: "ridge regression", "logistic": "logistic regression"}


def simplicity(name: str) -> int:
    """Rank of a method, 0 for the simplest; averages and methods outside the registry come last."""
    names = [*_HEADS, *METHODS]
    base = name if name in names else name.partition("@")[0]
    return names.index(base) if base in names else len(names)


def find_methods(given: Iterable[str], selection: Selection = TRAINED) -> tuple[Method, ...]:
    """Methods by name.

    Args:
        given: names of the registry, or ``all`` for every one; further losses by name; ``ridge``, ``logistic`` and
            averages such as ``ridge+asl``, of solved heads; files ``*.yaml``, of a method (``name``, ``title``,
            ``options`` of a run, a list ``search`` of options to try) or of a loss; and losses in Python,
            ``package.module:Loss``. Each may end with ``@SAMPLER``.
        selection: the methods that ``all`` stands for.

    Raises:
        InputError: an unknown name (near ones are offered) or sampler, two methods of one name, or a file that is not
            of a method.
    """
    texts = [text.strip() for text in given]
    texts = [name for text in texts for name in (selection.every if text == ALL else (text,))]
    methods = tuple(map(_find, texts))
    if not methods:
        raise InputError(f"no method is given; there are {', '.join(selection.every)}, and {ALL} for every one")
    names = [method.name for method in methods]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two methods are called {name!r}; give one of them another name")
    return methods


def _find(text: str) -> Method:
    if text in METHODS:
        return METHODS[text]
    if text in OTHER_LOSSES or text in _HEADS:
        return Method(text, {"loss": text}, _HEADS.get(text, f"{text} loss"))
    base, at, sampler = text.rpartition("@")
    if at and sampler in get_args(SamplerName):
        return _find(base).sampled(cast(SamplerName, sampler))
    if at:
        raise InputError(
            f"method {text!r}: no sampler {sampler!r}{near(sampler, get_args(SamplerName))}; there are "
            f"{', '.join(get_args(SamplerName))}"
        )
    if Path(text).suffix in _YAML_SUFFIXES:
        return _from_file(Path(text))
    if is_dotted_path(text):
        return Method(text.replace(":", ".").rpartition(".")[2], {"loss": text}, text)
    if "+" in text and not text.startswith("+"):
        _require_losses(text)
        return Method(text, {"loss": text}, f"mean of the heads of {' and '.join(text.split('+'))}")
    known = (*METHODS, *OTHER_LOSSES, *_HEADS)
    raise InputError(
        f"no method {text!r}{near(text, known)}; there are {', '.join(known)}, each with @SAMPLER, files *.yaml "
        "and losses package.module:Loss"
    )


def _require_losses(text: str) -> None:
    """Refuse an average of anything but losses by name."""
    known = (*_HEADS, *(name for name in available() if name != "formula"))
    for name in text.split("+"):
        if name not in known:
            raise InputError(
                f"method {text!r}: heads of losses by name are averaged, got {name!r}{near(name, known)}; there are "
                f"{', '.join(known)}"
            )


def _from_file(path: Path) -> Method:
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected options by name, of a method or of a loss")
    if "options" not in content:
        return Method(path.stem, {"loss": str(path.absolute())}, f"loss of {path.name}")
    for key in content:
        if key not in _METHOD_KEYS:
            raise InputError(
                f"{path}: a method has no {key!r}{near(str(key), _METHOD_KEYS)}; it has name, title, options and search"
            )
    name = str(content.get("name", path.stem))
    if not name or name.startswith(".") or any(mark in name for mark in '/\\:@"'):
        raise InputError(f"{path}: {name!r} cannot be the name of a method, because it cannot be that of a folder")
    search = content.get("search") or []
    if not isinstance(search, list):
        raise InputError(f"{path}: search must be a list, each entry options to try")
    return Method(
        name,
        _checked(content["options"], f"{path}: options"),
        str(content.get("title", "")),
        tuple(_checked(entry, f"{path}: search") for entry in search),
    )


def _checked(options: Any, place: str) -> dict[str, Any]:
    """Options of a method, parsed to the types that a run has; options that all methods share are refused."""
    from jsonargparse import ArgumentError, ArgumentParser

    if not isinstance(options, dict):
        raise InputError(f"{place}: expected options by name, got {options!r}")
    for option in options:
        if option not in _METHOD_OPTIONS:
            raise InputError(
                f"{place}: a method cannot set {option!r}{near(str(option), _METHOD_OPTIONS)}; it sets "
                f"{', '.join(_METHOD_OPTIONS)}"
            )
    parser = ArgumentParser(exit_on_error=False)
    add_options(parser, TrainConfig)
    try:
        parsed = from_namespace(TrainConfig, parser.parse_object({"data": "", "output": "", **options}))
    except (ArgumentError, TypeError, InputError) as error:
        raise InputError(f"{place}: {' '.join(str(error).split())}") from error
    return {
        option: {name: getattr(getattr(parsed, option), name) for name in value}
        if option in NESTED
        else getattr(parsed, option)
        for option, value in options.items()
    }
