"""The formula by its parameters: equal to the named losses in value and gradient, and strict about what it is given."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from tailwise import LabelStats
from tailwise.losses import create

REBALANCED = {"rule": "rebalanced", "mu": 0.3}
PRIOR = {"rule": "prior", "strength": 0.05 / 5}
NTR = {"pos_shift": PRIOR, "neg_shift": PRIOR, "neg_slope": 5, "neg_divisor": 5}
FOCAL = {"pos_exponent": 2, "neg_exponent": 2, "balance": 2}
VOC: dict[str, Any] = {"recipe": "voc-mlt"}

SAME = {
    "bce": ({}, {}),
    "rw": ({}, {"weight": {"rule": "inverse-frequency"}}),
    "rw by count": ({"power": 1.0}, {"weight": {"rule": "inverse-frequency", "power": 1}}),
    "focal": ({}, FOCAL),
    "ldam": ({}, {"pos_shift": {"rule": "margin"}}),
    "asl": ({"gamma_pos": 1.0}, {"margin": 0.05, "neg_exponent": 4, "pos_exponent": 1}),
    "r-bce": (VOC, {"weight": REBALANCED}),
    "ntr": (VOC, NTR),
    "db": (VOC, {"weight": REBALANCED, **NTR}),
    "db-focal": (VOC, {"weight": REBALANCED, **NTR, **FOCAL}),
    "apaf": ({"max_exponent": 4.0}, {"base_exponent": 2, "max_exponent": 4, "balance": 2}),
    "pr": (VOC, {"weight": REBALANCED, **NTR, "neg_slope": [5] * 5 + [5, 6, 6, 6], "pos_divisor": {"tail": 1.5}}),
    "pg": (
        VOC,
        {
            **{"weight": REBALANCED, **NTR, "neg_slope": {"head": 5, "medium": 5, "tail": 6}},
            **{"pos_divisor": {"tail": 1.5}, "adaptive": ["neg_slope"], "base_exponent": 2, "balance": 2},
        },
    ),
} | {
    f"cb-focal {mode}": (
        {"mode": mode, "beta": 0.99},
        {"weight": {"rule": "class-balanced", "beta": 0.99, "mode": mode}, **FOCAL},
    )
    for mode in ("mean_effective", "effective_of_mean", "mean_weight", "class")
}


@pytest.mark.parametrize("name", SAME)
def test_parameters_of_a_named_loss_give_its_values_and_gradients(name, stats, batch):
    options, parameters = SAME[name]
    results = []
    for loss in (create(name.split()[0], stats, **options), create("formula", stats, **parameters)):
        logits = batch[0].clone().requires_grad_()
        value = loss(logits, batch[1])
        value.backward()
        results.append((value.detach(), logits.grad))
    torch.testing.assert_close(results[1], results[0])


def test_shifts_and_exponents_by_group_and_by_class_agree(stats, batch):
    by_class = np.zeros(stats.num_classes)
    by_class[stats.groups["tail"]] = -0.7
    for option, sign in (("pos_shift", 1), ("neg_shift", 1), ("pos_exponent", -1), ("neg_exponent", -1)):
        values = sign * by_class
        by_group = create("formula", stats, **{option: {"tail": values.min() + values.max()}})(*batch)
        torch.testing.assert_close(create("formula", stats, **{option: values.tolist()})(*batch), by_group)
        assert not torch.isclose(by_group, create("formula", stats)(*batch))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"weight": {"rule": "square-root"}},
            "weight must have a rule, one of rebalanced, inverse-frequency, class",
        ),
        ({"weight": 2.0}, "weight must have a rule"),
        ({"weight": {"rule": "rebalanced", "gamma": 1}}, "weight by the rule 'rebalanced' has no 'gamma'.*alpha"),
        ({"weight": {"rule": "class-balanced", "mode": "mean"}}, "weight: mode must be one of mean_effective"),
        ({"weight": {"rule": "class-balanced", "beta": 1.5}}, r"weight: beta must be a number in \[0, 1\]"),
        ({"weight": {"rule": "inverse-frequency", "power": -1}}, "weight: power must be 0 or more"),
        ({"pos_shift": {"rule": "margin", "largest": -1.0}}, "pos_shift: largest must be 0 or more"),
        ({"neg_shift": {"rule": "prior", "strength": "strong"}}, "strength of neg_shift must be a finite number"),
        ({"neg_shift": {"rare": 1.0}}, "neg_shift names the group 'rare'; there are head, medium, tail"),
        ({"neg_shift": float("nan")}, "neg_shift must be finite"),
        ({"neg_slope": {"tail": "steep"}}, "neg_slope must be a number, one per class, or by group"),
        ({"pos_slope": [1.0, 2.0]}, r"pos_slope must be a number or 9 values, got shape \(2,\)"),
        ({"pos_divisor": 0.0}, "pos_divisor must be positive"),
        ({"neg_exponent": -1.0}, "neg_exponent must be not negative"),
        ({"balance": 0.0}, "balance must be a positive number"),
        ({"margin": 1.0}, r"margin must be a number in \[0, 1\)"),
        ({"base_exponent": 2.0, "pos_exponent": 1.0}, "leave pos_exponent, neg_exponent out"),
        ({"max_exponent": 2.0}, "give base_exponent as well"),
    ],
)
def test_wrong_parameters_are_named(options, message, stats, unchecked):
    with pytest.raises(ValueError, match=message):
        create("formula", stats, **options)


def test_classes_at_the_ends_of_the_counts_are_warned_of_once_and_only_where_counts_matter():
    stats = LabelStats([0, 5, 40], 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create("formula", stats, neg_slope=2.0)
    with pytest.warns(UserWarning, match="'class 0', 'class 2'") as caught:
        create("formula", stats, pos_shift=PRIOR, neg_shift=PRIOR, weight=REBALANCED)
    assert len(caught) == 1
