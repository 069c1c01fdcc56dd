"""Methods by name, file and Python name, and what is said of those that are not there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from tailwise import LabelStats
from tailwise.errors import InputError
from tailwise.experiments.methods import METHODS, OTHER_LOSSES, SOLVED, TRAINED, find_methods, simplicity
from tailwise.experiments.plan import candidates
from tailwise.losses import available, create
from tailwise.training.config import TrainConfig
from tailwise.training.resolution import resolve
from tailwise.training.run import create_loss

STATS = LabelStats(np.array([150, 60, 30, 8, 3]), 200)
SHARED = TrainConfig(data="digits", output="out")


def test_every_loss_of_the_library_is_a_method():
    losses = {method.options["loss"] for method in METHODS.values()}
    assert set(available()) - {"formula"} == losses | set(OTHER_LOSSES)  # "formula" is nothing without its parameters
    assert OTHER_LOSSES == ("hill", "splc", "two-way", "zlpr")
    assert not losses & set(OTHER_LOSSES)
    for name in OTHER_LOSSES:
        (method,) = find_methods([f"{name}@uniform"])
        assert (method.name, method.options) == (f"{name}@uniform", {"loss": name, "sampler": "uniform"})


FACTORS = (
    {"neg_slope": {"tail": 6.0}, "pos_divisor": {"tail": 1.5}, "pos_slope": None},
    {"neg_slope": {"tail": 10.0}, "pos_divisor": {"tail": 2.0}, "pos_slope": None},
    {"neg_slope": 4.0, "pos_slope": 2.0, "pos_divisor": None},
)
# The methods from the simplest on: options of a run, and the loss options that a search tries.
REGISTRY: dict[str, tuple[dict, tuple[dict, ...]]] = {
    "bce@uniform": ({"loss": "bce", "sampler": "uniform"}, ()),
    "bce": ({"loss": "bce"}, ()),
    "focal": ({"loss": "focal"}, ({"gamma": 0.5}, {"gamma": 1.0})),
    "rw": ({"loss": "rw"}, ({"power": 0.25}, {"power": 1.0})),
    "cb-focal": ({"loss": "cb-focal", "optim": {"lr": 0.1}}, ({"beta": 0.99}, {"beta": 0.999})),
    "ldam": ({"loss": "ldam"}, ({"max_margin": 0.25}, {"max_margin": 1.0})),
    "asl": ({"loss": "asl"}, ({"gamma_neg": 2.0}, {"gamma_neg": 6.0}, {"gamma_pos": 1.0})),
    "ml-gcn": ({"loss": "bce", "model": {"head": "gcn"}}, ()),
    "r-bce": ({"loss": "r-bce"}, ({"mu": 0.3},)),
    "ntr": ({"loss": "ntr"}, ({"neg_scale": 5.0},)),
    "db": ({"loss": "db"}, ({"mu": 0.3, "neg_scale": 5.0},)),
    "db-focal": ({"loss": "db-focal"}, ({"mu": 0.3, "neg_scale": 5.0},)),
    "pr": ({"loss": "pr"}, FACTORS),
    "apr": ({"loss": "pr", "loss_options": {"adaptive": ["neg_slope"]}}, FACTORS),
    "apaf": ({"loss": "apaf"}, ({"base_exponent": 1.0}, {"max_exponent": 4.0})),
    "apr-focal": ({"loss": "pg", "loss_options": {"exponent": "fixed"}}, FACTORS),
    "pg": ({"loss": "pg"}, FACTORS),
    "pg-auto": ({"loss": "pg-auto"}, ()),
}


def test_methods_from_the_simplest_on_and_what_their_searches_try():
    assert list(METHODS) == list(REGISTRY)
    ranks = [simplicity(name) for name in ("ridge", "logistic", *REGISTRY)]
    assert ranks == sorted(set(ranks))
    for name, (options, tried) in REGISTRY.items():
        method = METHODS[name]
        assert (method.name, method.options) == (name, options)
        assert method.search == tuple({"loss_options": candidate} for candidate in tried)
        if "@" not in name:
            assert simplicity(f"{name}@repeat-factor") == simplicity(name)
        assert method.title not in ("", name)


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
    assert resolve(replace(plain.configure(SHARED, 0), recipe="voc-mlt")).sampler == "class-aware"
    config = sampled.configure(SHARED, 3)
    assert (config.loss, config.sampler, config.seed) == ("pg", "repeat-factor", 3)
    assert sampled.name == "pg@repeat-factor"
    assert sampled.title == "probability-guided loss (PG), repeat-factor sampling"
    (stripped,) = find_methods([" pg "])
    assert stripped is METHODS["pg"]


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


class Gentle(torch.nn.Module):
    """A loss that is not the library's."""

    def __init__(self, stats):
        super().__init__()
        self.num_classes = stats.num_classes

    def forward(self, logits, targets):
        return (logits.sigmoid() - targets).square().mean()


def test_losses_of_ones_own_are_named_by_file_or_python_name(tmp_path):
    path = tmp_path / "term.yml"
    path.write_text("pos_exponent: 1\n")
    by_file, by_name, sampled = find_methods([str(path), f"{__name__}:Gentle", f"{__name__}.Gentle@uniform"])
    assert [method.name for method in (by_file, by_name, sampled)] == ["term", "Gentle", "Gentle@uniform"]
    config = resolve(by_file.configure(SHARED, 0))
    assert (config.loss, config.loss_options) == ("formula", {"pos_exponent": 1})
    for method in (by_name, sampled):
        assert type(create_loss(resolve(method.configure(SHARED, 0)), STATS)).__name__ == "Gentle"
    assert sampled.configure(SHARED, 0).sampler == "uniform"


def test_all_stands_for_every_method_and_the_default_is_a_part_of_them(tmp_path):
    (tmp_path / "mine.yaml").write_text("options: {loss: bce}")
    found = find_methods(["all", str(tmp_path / "mine.yaml")])
    assert [method.name for method in found] == [*METHODS, "mine"]
    for selection in (TRAINED, SOLVED):
        every = [method.name for method in find_methods(["all"], selection)]
        assert selection.baseline in selection.default
        assert set(selection.default) < set(every)
        assert [method.name for method in find_methods(selection.default)] == list(selection.default)


def test_all_solved_methods_are_different_heads():
    """Twenty: no two have the same loss, options and sampler, and each can be solved."""
    probe = TrainConfig(data="digits", output="out", mode="probe")
    configs = [resolve(replace(method.configure(probe, 0), output="out")) for method in find_methods(["all"], SOLVED)]
    assert len(configs) == 20
    assert all(config.head.solver == "exact" for config in configs)
    described = {(config.loss, repr(config.loss_options), config.sampler) for config in configs}
    assert len(described) == len(configs)


def test_averages_name_their_losses():
    (average,) = find_methods(["ridge+logistic"])
    config = resolve(average.configure(TrainConfig(data="digits", output="out", mode="probe"), 0))
    assert (average.title, config.loss, config.sampler) == (
        "mean of the heads of ridge and logistic",
        "ridge+bce",
        "uniform",
    )
    (sampled,) = find_methods(["ridge+asl@class-aware"])
    config = resolve(sampled.configure(TrainConfig(data="digits", output="out", mode="probe"), 0))
    assert (config.loss, config.sampler) == ("ridge+asl", "class-aware")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["all", "pg"], "two methods are called 'pg'"),
        (["db-focl"], r"no method 'db-focl' \(did you mean 'db-focal'\?\)"),
        (["pg@unifrm"], r"no sampler 'unifrm' \(did you mean 'uniform'\?\)"),
        (["pg", "pg"], "two methods are called 'pg'"),
        ([], "no method is given"),
        (["none.yaml"], "cannot read none.yaml"),
        (["ridge+asll"], r"'ridge\+asll'.*got 'asll' \(did you mean 'asl'\?\)"),
        (["ridge+apr"], r"heads of losses by name are averaged, got 'apr'"),
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
        ("options: {loss: pg}\nname: .hidden", "cannot be the name of a method"),
        ("options: {loss: pg}\nname: ''", "cannot be the name of a method"),
        ("options: {loss: pg}\nname: a@b", "cannot be the name of a method"),
        ("options: [loss]", "options: expected options by name"),
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
