"""What a loss refuses: names, options, statistics and batches, each in words that say the way out."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from tailwise.losses import FormulaLoss, available, create, create_custom, option_names
from tailwise.losses.loss import Formula
from tests.losses.conftest import COUNTS, NUM_SAMPLES

# Types are refused by the losses themselves here, not by the checks of the tests.
pytestmark = pytest.mark.usefixtures("unchecked")


def test_unknown_name_offers_the_near_ones(stats):
    with pytest.raises(ValueError, match=r"unknown loss 'db_focal' \(did you mean 'db-focal'"):
        create("db_focal", stats)


def test_unknown_option_offers_the_near_ones(stats):
    with pytest.raises(ValueError, match=r"'pg' has no option 'neg_slop' \(did you mean 'neg_slope'"):
        create("pg", stats, neg_slop=2.0)


def test_unknown_recipe(stats):
    with pytest.raises(ValueError, match="unknown recipe 'nus'; there are voc-mlt, coco-mlt"):
        create("pg", stats, recipe="nus")


@pytest.mark.parametrize("name", available())
def test_every_named_option_is_accepted(name, stats):
    loss = create(name, stats)
    assert {"reduction", "validate"} <= set(option_names(name))
    with pytest.raises(ValueError, match="reduction must be one of mean, sum, batchmean, none"):
        create(name, stats, reduction="average")
    assert loss.reduction == "mean"


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("focal", "gamma", -1.0),
        ("asl", "margin", 1.0),
        ("cb-focal", "beta", 1.5),
        ("cb-focal", "mode", "average"),
        ("db", "neg_scale", 0.0),
        ("ntr", "shift", "theirs"),
        ("pr", "neg_slope", {"rare": 2.0}),
        ("pr", "pos_slope", [1.0, 2.0]),
        ("pr", "pos_divisor", 0.0),
        ("pg", "adaptive", ("slope",)),
        ("pg", "adaptive", {"neg_slope": "rare"}),
        ("pg", "exponent", "free"),
        ("pg", "focal_on", "both"),
        ("pg", "sync", "always"),
        ("apaf", "max_exponent", -1.0),
    ],
)
def test_options_out_of_range(name, option, value, stats):
    with pytest.raises(ValueError, match=option):
        create(name, stats, **{option: value})


@pytest.mark.parametrize(
    ("name", "option", "allowed", "refused"),
    [
        ("rw", "power", (0.0,), (-1e-3,)),
        ("focal", "gamma", (0.0,), (-1e-3,)),
        ("cb-focal", "beta", (0.0, 1.0), (-1e-3, 1.001)),
        ("cb-focal", "gamma", (0.0,), (-1e-3,)),
        ("ldam", "max_margin", (0.0,), (-1e-3,)),
        ("asl", "gamma_neg", (0.0,), (-1e-3,)),
        ("asl", "gamma_pos", (0.0,), (-1e-3,)),
        ("asl", "margin", (0.0, 0.999), (-1e-3, 1.0)),
        ("pg", "base_exponent", (0.0,), (-1e-3,)),
        ("db-focal", "gamma", (0.0,), (-1e-3,)),
        ("hill", "height", (1.0,), (0.99,)),
        ("splc", "threshold", (1e-3, 0.999), (0.0, 1.0)),
        ("splc", "change_epoch", (0.0,), (-1e-3,)),
        ("ntr", "neg_scale", (1e-3,), (0.0, -1e-3)),
        ("formula", "margin", (0.0, 0.999), (-1e-3, 1.0)),
        ("formula", "balance", (1e-3,), (0.0, -1e-3)),
    ],
)
def test_ranges_end_where_they_are_said_to(name, option, allowed, refused, stats):
    for value in allowed:
        create(name, stats, **{option: value})
    for value in refused:
        with pytest.raises(ValueError, match=option):
            create(name, stats, **{option: value})


@pytest.mark.parametrize("given", [[10, 20], np.array([10, 20]), {"cat": 10}, None, 9])
def test_what_is_no_statistics(given, stats):
    message = rf"stats must be a LabelStats, got {type(given).__name__}: LabelStats\(class_counts, num_samples\) or"
    for make_one in (lambda: create("bce", given), lambda: create_custom("torch.nn.BCELoss", given)):
        with pytest.raises(ValueError, match=message):
            make_one()
    for name in available():
        with pytest.raises(ValueError, match=message):
            create(name, given)
    with pytest.raises(ValueError, match=message):
        FormulaLoss(given, Formula())


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (
            torch.zeros(2, 3, 9),
            torch.zeros(2, 3, 9),
            r"got \(2, 3, 9\): flatten\(0, 1\) makes rows of logits and of",
        ),
        (torch.zeros(9), torch.zeros(9), r"got \(9,\): logits\[None\] and targets\[None\] are a batch of one"),
        (torch.zeros(9, 2), torch.zeros(9, 2), r"logits must be \(batch, 9\), got \(9, 2\)$"),
        (
            np.zeros((2, 9)),
            torch.zeros(2, 9),
            r"logits must be a torch.Tensor, got numpy.ndarray: give torch.from_",
        ),
        (torch.zeros(2, 9), np.zeros((2, 9)), r"got numpy.ndarray: give torch.from_numpy\(targets\)"),
        (torch.zeros(2, 9), pd.DataFrame(np.zeros((2, 9))), r"give torch.from_numpy\(targets.to_numpy\(\)\)"),
        (
            torch.zeros(2, 9),
            [[0] * 9] * 2,
            r"targets must be a torch.Tensor, got list: give torch.tensor\(targets\)",
        ),
        (torch.zeros(2, 9), None, "targets must be a torch.Tensor, got NoneType$"),
        (
            torch.zeros(2, 9),
            torch.zeros(2, dtype=torch.long),
            "one label for every class, not the index of a class",
        ),
        (
            torch.zeros(2, 9, dtype=torch.long),
            torch.zeros(2, 9),
            "logits must be floating point .* got torch.int64",
        ),
        (
            torch.zeros(2, 9, dtype=torch.cfloat),
            torch.zeros(2, 9),
            "logits must be floating point .* torch.complex64",
        ),
        (torch.zeros(2, 9).to(torch.float8_e4m3fn), torch.zeros(2, 9), "logits must be floating point .*float8"),
        (torch.zeros(2, 9).to_sparse(), torch.zeros(2, 9), r"logits must be dense, .*: give logits.to_dense\(\)"),
        (torch.zeros(2, 9), torch.zeros(2, 9).to_sparse(), r"give targets.to_sparse_csr\(\)"),
        (
            torch.zeros(2, 9),
            torch.zeros(2, 9, dtype=torch.cfloat),
            r"targets must be boolean, .* got torch.complex64",
        ),
        (torch.zeros(2, 9), torch.zeros(2, 9, device="meta"), r"targets are on meta, .*: give targets.to\('cpu'\)"),
    ],
)
def test_what_is_no_batch(logits, targets, message, stats):
    with pytest.raises(ValueError, match=message):
        create("db", stats)(logits, targets)


def test_masks(stats, batch):
    loss, (logits, targets) = create("db", stats), batch
    with pytest.raises(ValueError, match=r"mask must be boolean .* got torch.uint8 \(16, 9\): give mask.bool"):
        loss(logits, targets, targets)
    with pytest.raises(ValueError, match=r"mask must be a torch\.Tensor, got numpy\.ndarray"):
        loss(logits, targets, targets.bool().numpy())
    with pytest.raises(ValueError, match="mask is on meta"):
        loss(logits, targets, targets.bool().to("meta"))


def test_a_loss_on_another_device(stats, batch):
    with pytest.raises(ValueError, match=r"the loss \(positive_shift\) is on meta, its batch on cpu: .*loss.to\('cpu'"):
        create("db", stats).to("meta")(*batch)


def test_shapes(stats, batch):
    loss, (logits, targets) = create("bce", stats), batch
    with pytest.raises(ValueError, match=r"logits must be \(batch, 9\), got \(16, 8\)"):
        loss(logits[:, :8], targets[:, :8])
    with pytest.raises(ValueError, match=r"targets must be \(16, 9\), samples by classes of the loss, got \(15, 9\)"):
        loss(logits, targets[:15])
    with pytest.raises(ValueError, match="mask must be boolean"):
        loss(logits, targets, torch.ones(2, 9, dtype=torch.bool))


@pytest.mark.parametrize("wrong", [2.0, -0.5, math.inf])
def test_targets_out_of_range_in_the_first_batch(wrong, stats, batch):
    logits, targets = batch[0], batch[1].double()
    targets[3, 3] = wrong
    with pytest.raises(ValueError, match=f"targets must be 0, 1, soft in .* found {wrong}"):
        create("bce", stats)(logits, targets)


def test_recipes_are_the_published_numbers(stats):
    for recipe, mu, scale in (("voc-mlt", 0.3, 5.0), ("coco-mlt", 0.2, 2.0)):
        loss = create("db-focal", stats, recipe=recipe)
        assert loss.weight.smoothing == (0.1, 10, mu)
        negative = loss.side("negative")
        assert (negative.slope, negative.divisor, negative.exponent) == (scale, scale, 2)
        expected = [0.05 / scale * math.log(NUM_SAMPLES / n - 1) for n in COUNTS]
        torch.testing.assert_close(loss.negative_shift, torch.tensor(expected))
        explicit = create("db-focal", stats, recipe=recipe, mu=0.7)
        assert explicit.weight.smoothing.mu == 0.7
