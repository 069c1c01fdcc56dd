"""Methods by name, file and Python name, and what is said of those that are not there."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from tailwise import LabelStats
from tailwise.config import TrainConfig
from tailwise.errors import InputError
from tailwise.experiments.plan import candidates
from tailwise.experiments.registry import METHODS, find_methods, simplicity
from tailwise.losses import available, create

STATS = LabelStats(np.array([150, 60, 30, 8, 3]), 200)
SHARED = TrainConfig(data="digits", output="out")


def test_every_loss_of_the_library_is_a_method():
    losses = {method.options["loss"] for method in METHODS.values()}
    assert set(available()) <= losses


@pytest.mark.parametrize("recipe", [None, "voc-mlt", "coco-mlt"])
def test_losses_take_the_options_of_methods_and_searches(recipe):
    checked = 0
    for method in METHODS.values():
        for candidate in candidates(method):
            if candidate.options["loss"] in available():
                create(candidate.options["loss"], STATS, recipe, **candidate.options.get("loss_options", {}))
                checked += 1
    assert checked > 30


def test_parts_of_pg_differ_from_one_another_with_the_default_recipe():
    import torch

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(16, 5, generator=generator)
    targets = (torch.rand(16, 5, generator=generator) < 0.3).int()
    values = {}
    for name in ("db", "db-focal", "pr", "apr", "apaf", "apr-focal", "pg"):
        options = METHODS[name].options
        loss = create(options["loss"], STATS, "coco-mlt", **options.get("loss_options", {}))
        values[name] = round(loss(logits, targets).item(), 6)
    assert len(set(values.values())) == len(values), values


def test_methods_with_another_sampler():
    plain, sampled = find_methods(["pg", "pg@repeat-factor"])
    assert plain.configure(SHARED, 0).sampler == "class-aware"
    config = sampled.configure(SHARED, 3)
    assert (config.loss, config.sampler, config.seed) == ("pg", "repeat-factor", 3)
    assert sampled.name == "pg@repeat-factor"
    assert "repeat-factor" in sampled.title


def test_a_file_describes_a_method(tmp_path):
    path = tmp_path / "mild.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "title": "PG, milder",
                "options": {"loss": "pg", "loss_options": {"neg_scale": 3.0}, "optim": {"lr": 0.01, "milestones": [2]}},
                "search": [{"loss_options": {"mu": 0.4}}],
            }
        )
    )
    (method,) = find_methods([str(path)])
    config = method.configure(SHARED, 0)
    assert (method.name, method.title, config.loss) == ("mild", "PG, milder", "pg")
    assert (config.optim.lr, config.optim.momentum) == (0.01, SHARED.optim.momentum)
    (_, tried) = candidates(method)
    assert tried.configure(SHARED, 0).loss_options == {"neg_scale": 3.0, "mu": 0.4}
    assert method.configure(SHARED, 0).loss_options == {"neg_scale": 3.0}


def test_losses_of_ones_own_are_named_by_file_or_python_name(tmp_path):
    path = tmp_path / "term.yml"
    path.write_text(json.dumps({"positive": {"exponent": 1}}))
    by_file, by_name = find_methods([str(path), "my_package.losses:Gentle"])
    assert (by_file.name, by_file.options["loss"]) == ("term", str(path))
    assert (by_name.name, by_name.options["loss"]) == ("Gentle", "my_package.losses:Gentle")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["db-focl"], r"no method 'db-focl' \(did you mean 'db-focal'\?\)"),
        (["pg@unifrm"], r"no sampler 'unifrm' \(did you mean 'uniform'\?\)"),
        (["pg", "pg"], "two methods are called 'pg'"),
        ([], "no method is given"),
        (["none.yaml"], "cannot read none.yaml"),
    ],
)
def test_methods_that_are_not_there(given, message):
    with pytest.raises(InputError, match=message):
        find_methods(given)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2", "bad.yaml: .*flow sequence"),
        ("- pg", "expected options by name"),
        ("options: {loss: pg}\nsaerch: []", r"no 'saerch' \(did you mean 'search'\?\)"),
        ("options: {losss: pg}", r"cannot set 'losss' \(did you mean 'loss'\?\)"),
        ("options: {test_split: train}", "cannot set 'test_split'"),
        ("options: {optim: {lr: fast}}", "options: .*float"),
        ("options: {optim: {rate: 1}}", "options: .*rate"),
        ("options: {loss: pg}\nname: a/b", "cannot be the name of a method"),
        ("options: {loss: pg}\nsearch: {mu: 1}", "search must be a list"),
        ("options: {loss: pg}\nsearch: [{mu: 1}]", "search: .*cannot set 'mu'"),
    ],
)
def test_files_that_describe_no_method(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        find_methods([str(path)])


def test_simplicity_orders_methods_of_the_registry_before_others():
    names = ["mine", "pg", "bce@repeat-factor", "bce@uniform", "bce", "pg@uniform"]
    ranked = sorted(names, key=simplicity)
    assert ranked[0] == "bce@uniform"
    assert ranked[-1] == "mine"
    assert simplicity("pg") == simplicity("pg@uniform")
