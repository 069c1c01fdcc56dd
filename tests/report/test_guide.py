"""Advice on PG's factors: each rule on curves made for it, options that the command line takes, and a real run."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tailwise import LabelStats
from tailwise.cli import main
from tailwise.commands.demo import configuration
from tailwise.losses import create
from tailwise.losses.formula import SIDE_FACTORS
from tailwise.metrics import ProbabilityCurves
from tailwise.report.advice import Advice, advise, courses, options_to_paste, with_factors
from tailwise.training.config import HeadConfig, OptimConfig, TrainConfig
from tailwise.training.run import train

GROUPS = {"head": np.array([0, 1]), "medium": np.array([2, 3]), "tail": np.array([4, 5, 6])}
STATS = LabelStats([500, 300, 60, 30, 12, 9, 5], 800)
POINTS = 40
Course = tuple[Sequence[float], Sequence[float]]
# Odds of positives and negatives at the start, in the middle and at the end, of groups that are as they should be.
EVEN: Course = ((1.0, 2.0, 3.0), (1.0, 0.5, 0.3))


def curves(**changed: Course) -> ProbabilityCurves:
    """Curves whose odds run through three values each; groups that are not named are even."""
    place = np.linspace(0, 1, POINTS)
    positive, negative = np.empty((POINTS, 7)), np.empty((POINTS, 7))
    for group, members in GROUPS.items():
        for series, odds in zip((positive, negative), changed.get(group, EVEN), strict=True):
            # Flat at both ends and in the middle, so that the parts have these odds exactly.
            value = np.where(place < 0.3, odds[0], np.where(place < 0.7, odds[1], odds[2]))
            series[:, members] = (value / (1 + value))[:, None]
    count = np.full((POINTS, 7), 10.0)
    return ProbabilityCurves(
        steps=np.arange(1, POINTS + 1) * 5,
        positive_sum=(positive * count).astype(np.float32),
        positive_count=count.astype(np.float32),
        negative_sum=(negative * 9 * count).astype(np.float32),
        negative_count=(9 * count).astype(np.float32),
        class_names=STATS.class_names,
        groups=GROUPS,
    )


def moves(**changed: Course) -> set[tuple[str, str, str]]:
    return {(item.group, item.direction, item.factor) for item in advise(courses(curves(**changed)))}


def test_even_groups_need_nothing() -> None:
    assert moves() == set()


@pytest.mark.parametrize(
    ("course", "expected"),
    [
        (((1.0, 3.1, 3.5), (1.0, 0.5, 0.3)), ("raise", "pos_divisor")),  # positives fast
        (((1.0, 1.3, 2.5), (1.0, 0.5, 0.3)), ("raise", "neg_divisor")),  # positives slow
        (((1.0, 1.3, 2.0), (1.0, 0.4, 0.15)), ("lower", "neg_slope")),  # both held down
        (((1.0, 2.0, 3.0), (0.2, 0.3, 0.3)), ("raise", "neg_slope")),  # negatives rise
        (((1.0, 2.0, 3.0), (1.0, 0.6, 0.5)), ("raise", "neg_slope")),  # negatives stay high
        (((1.0, 1.5, 1.5), (1.0, 0.9, 0.4)), None),  # narrower, but apart, and negatives not far from others
        (((1.0, 2.0, 1.0), (1.0, 0.9, 0.55)), ("raise", "pos_slope")),  # hardly apart
        (((1.0, 2.0, 9.5), (1.0, 0.5, 0.3)), ("raise", "pos_divisor")),  # gap wide: log 31.7 > 1.5 log 10
        (((1.0, 2.9, 3.5), (1.0, 0.5, 0.25)), None),  # all just inside the thresholds
    ],
)
def test_each_rule_moves_the_factor_of_table_1(course: Course, expected: tuple[str, str] | None) -> None:
    found = {(direction, factor) for group, direction, factor in moves(tail=course) if group == "tail"}
    wanted = {expected} if expected else set()
    if expected == ("raise", "pos_slope"):
        wanted |= {("raise", "neg_slope")}  # its negatives are high as well
    assert found == wanted


def test_high_group_that_is_hardly_apart_is_lowered_not_narrowed() -> None:
    found = moves(tail=((1.0, 4.0, 4.0), (3.5, 3.0, 2.5)))
    assert ("tail", "raise", "neg_slope") in found
    assert not any(factor == "pos_divisor" and group == "tail" for group, _, factor in found)


def test_one_group_alone_is_judged_by_itself_only() -> None:
    every = curves(head=((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)))
    alone = replace(every, groups={"head": GROUPS["head"], "tail": np.array([], dtype=np.intp)})
    assert [(item.group, item.factor) for item in advise(courses(alone))] == [("head", "pos_slope")]


def test_groups_without_pairs_are_shown_and_get_no_advice() -> None:
    every = curves()
    for series in (every.positive_sum, every.positive_count):
        series[:, GROUPS["tail"]] = 0
    (tail,) = [course for course in courses(every) if course.group == "tail"]
    assert math.isnan(tail.end.positive)
    assert math.isnan(tail.end.predicted)
    assert advise(courses(every)) == []


def test_parts_are_means_over_classes_of_the_pairs_in_them() -> None:
    generator = np.random.default_rng(0)
    counts = generator.integers(0, 3, (POINTS, 7)).astype(np.float32)
    sums = (generator.random((POINTS, 7)) * counts).astype(np.float32)
    every = replace(curves(), positive_sum=sums, positive_count=counts)
    head = courses(every)[0]
    for part, points in ((head.start, slice(0, 4)), (head.middle, slice(18, 22)), (head.end, slice(36, 40))):
        means = [sums[points, k].sum() / counts[points, k].sum() for k in (0, 1)]
        assert part.positive == pytest.approx(float(np.mean(means)))
        total = sums[points, :2].sum() + every.negative_sum[points, :2].sum()
        assert part.predicted == pytest.approx(float(total / counts[points, :2].sum()))


def test_short_curves_are_refused() -> None:
    every = curves()
    short = {name: getattr(every, name)[:2] for name in ("steps", "positive_sum", "positive_count", "negative_sum")}
    with pytest.raises(ValueError, match="2 points, and 3 are needed"):
        courses(replace(every, **short, negative_count=every.negative_count[:2]))


LOSSES = [
    ("bce", {}, None),
    ("focal", {}, None),
    ("focal", {"gamma": 1.0, "balance": 3.0}, None),
    ("apaf", {"max_exponent": 3.0}, None),
    ("r-bce", {"mu": 0.4}, "voc-mlt"),
    ("ntr", {}, "voc-mlt"),
    ("db", {}, "coco-mlt"),
    ("db", {"gamma": 1.5}, "voc-mlt"),
    ("db-focal", {"kappa": 0.1}, "voc-mlt"),
    ("db-focal", {"gamma": 1.0}, None),
    ("pr", {}, "voc-mlt"),
    ("pg", {"max_exponent": 4.0}, "voc-mlt"),
    ("formula", {"neg_slope": [1, 2, 3, 4, 5, 6, 7], "margin": 0.1}, None),
]


@pytest.mark.parametrize(("loss", "options", "recipe"), LOSSES)
def test_loss_with_factors_is_the_loss_itself(loss: str, options: dict, recipe: str | None) -> None:
    name, all_options = with_factors(
        TrainConfig(data="digits", output="x", loss=loss, loss_options=options, recipe=recipe)
    )
    logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    targets = (torch.rand(20, 7, generator=torch.Generator().manual_seed(1)) < 0.3).int()
    torch.testing.assert_close(
        create(name, STATS, **all_options)(logits, targets), create(loss, STATS, recipe, **options)(logits, targets)
    )


def parsed(options: str) -> TrainConfig:
    """The options as the command line takes them."""
    from jsonargparse import ArgumentParser

    from tailwise.command_line import add_options, canonical, from_namespace

    parser = ArgumentParser(exit_on_error=False)
    add_options(parser, TrainConfig)
    line = f"--data digits --output x --recipe voc-mlt {options}"
    return from_namespace(TrainConfig, parser.parse_args(canonical(shlex.split(line), TrainConfig)))


ADVICE = [
    Advice("tail", "", "neg_slope", "raise"),
    Advice("head", "", "neg_slope", "lower"),
    Advice("tail", "", "pos_divisor", "raise"),
]


@pytest.mark.parametrize(("loss", "options", "recipe"), LOSSES)
def test_pasted_options_multiply_the_factors_and_change_nothing_else(
    loss: str, options: dict, recipe: str | None
) -> None:
    config = TrainConfig(data="digits", output="x", loss=loss, loss_options=options, recipe=recipe)
    name, before_options = with_factors(config)
    pasted = parsed(options_to_paste(config, STATS, ADVICE))
    assert (pasted.loss, pasted.recipe) == (name, None)
    before = create(name, STATS, **before_options)
    after = create(pasted.loss, STATS, **pasted.loss_options)
    expected = {"neg_slope": np.ones(7), "pos_divisor": np.ones(7)}
    expected["neg_slope"][GROUPS["tail"]] = expected["pos_divisor"][GROUPS["tail"]] = 1.5
    expected["neg_slope"][GROUPS["head"]] = 1 / 1.5
    for side, sign in (("positive", "pos"), ("negative", "neg")):
        for field in SIDE_FACTORS:
            value = getattr(before.side(side), field)
            changed = torch.as_tensor(getattr(after.side(side), field)).expand(7)
            factor = torch.tensor(expected.get(f"{sign}_{field}", np.ones(7))).float()
            torch.testing.assert_close(changed, torch.as_tensor(value).expand(7) * factor, rtol=1e-3, atol=0)
        assert after.side(side)[4:] == before.side(side)[4:]
    assert {key: value for key, value in pasted.loss_options.items() if key not in expected} == {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in before_options.items()
        if key not in expected
    }


def test_equal_values_become_one_number() -> None:
    config = TrainConfig(data="digits", output="x", loss="db")
    advice = [Advice(group, "", "neg_slope", "raise") for group in GROUPS]
    assert options_to_paste(config, STATS, advice) == "--recipe null --loss pr --loss-options '{\"neg_slope\": 3.0}'"
    assert options_to_paste(replace(config, loss="asl"), STATS, advice) is None


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short probe of the demo's network on the digits."""
    folder = tmp_path_factory.mktemp("guide")
    config = replace(
        configuration(folder / "run"),
        mode="probe",
        head=HeadConfig(solver="sgd"),
        loss="db-focal",
        recipe="voc-mlt",
        cache=str(folder / "cache"),
        optim=OptimConfig(epochs=2, warmup_steps=5),
    )
    train(config)
    return folder / "run"


def test_command_on_a_trained_run(digits_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guide", str(digits_run)]) == 0
    out = capsys.readouterr().out
    found = courses(ProbabilityCurves.load(digits_run / "curves.npz"))
    assert [course.group for course in found] == ["head", "medium", "tail"]
    for course in found:
        (row,) = [line for line in out.splitlines() if re.match(rf"\W*{course.group} ", line)]
        numbers = [*(f"{part.positive:.3f}" for part in (course.start, course.middle, course.end))]
        numbers += [f"{part.negative:.3f}" for part in (course.start, course.middle, course.end)]
        assert re.findall(r"\d\.\d{3}", row) == numbers
    # An untrained network's features hardly tell the digits apart.
    assert "hardly apart: their odds differ" in out
    (line,) = [line.strip() for line in out.splitlines() if line.strip().startswith("--recipe")]
    config = parsed(line)
    assert config.loss == "pg"
    assert config.loss_options["neg_scale"] == 5.0
    assert create(config.loss, STATS, **config.loss_options)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "curves.npz").unlink(), "has no curves.npz: the run is not finished; finish it"),
        (lambda run: (run / "config.yaml").unlink(), "is not the folder of a run"),
        (lambda run: (run / "curves.npz").write_bytes(b"PK"), "cannot be read: .*holds no probability curves"),
        (lambda run: (run / "stats.json").write_text(json.dumps({})), "cannot be read: .*not a file of label stat"),
    ],
)
def test_runs_that_cannot_be_judged(
    digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object], message: str
) -> None:
    for name in ("curves.npz", "config.yaml", "stats.json"):
        (tmp_path / name).write_bytes((digits_run / name).read_bytes())
    spoil(tmp_path)
    assert main(["guide", str(tmp_path)]) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
