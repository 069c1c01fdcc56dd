"""The papers' tables as data: numbers typed again from the papers, and methods that can be trained."""

from __future__ import annotations

import pytest
import torch

from tailwise import LabelStats, losses
from tailwise.config import TrainConfig, resolve
from tailwise.experiments.published import GROUPS, TABLES, published_table

BENCHMARKS = ("voc-mlt", "coco-mlt")
# (benchmark, table, row from 0, label): total, head, medium, tail.
TYPED_AGAIN = {
    ("voc-mlt", 2, 0, "ERM"): (70.86, 68.91, 80.20, 65.31),
    ("voc-mlt", 2, 3, "RS"): (75.38, 70.95, 82.94, 73.05),
    ("voc-mlt", 2, 9, "DB Focal"): (78.94, 73.22, 84.18, 79.30),
    ("voc-mlt", 2, 10, "PG"): (80.37, 73.67, 83.83, 82.88),
    ("coco-mlt", 2, 5, "LDAM"): (40.53, 48.77, 48.38, 22.92),
    ("coco-mlt", 2, 6, "CB Focal"): (49.06, 47.91, 53.01, 44.85),
    ("coco-mlt", 2, 8, "DB Focal"): (53.45, 50.91, 56.58, 51.52),
    ("voc-mlt", 3, 2, "λ₂⁺+"): (77.56, 72.83, 83.83, 76.50),
    ("voc-mlt", 3, 3, "λ₁⁻+ λ₂⁺+"): (78.44, 73.00, 82.50, 79.75),
    ("coco-mlt", 3, 1, "λ₁⁻+"): (52.24, 50.00, 55.70, 49.64),
    ("coco-mlt", 3, 2, "λ₁⁺+"): (None, 49.95, 56.21, 50.88),
    ("voc-mlt", 4, 2, "FA"): (79.70, 73.83, 83.33, 81.38),
    ("coco-mlt", 4, 1, "AF"): (54.43, 51.22, 57.42, 53.40),
    ("coco-mlt", 4, 3, "AA"): (None, None, None, None),
    ("voc-mlt", 5, 2, "APR+Focal"): (79.14, 73.50, 83.00, 80.25),
    ("coco-mlt", 5, 1, "APAF"): (50.79, 49.14, 53.88, 49.96),
}


@pytest.mark.parametrize(("place", "scores"), TYPED_AGAIN.items(), ids=lambda value: str(value[:4]))
def test_numbers_are_the_published_ones(place, scores):
    benchmark, number, row, label = place
    found = published_table(benchmark, number).rows[row]
    assert found.label == label
    assert tuple(found.published(group) for group in GROUPS) == scores


def test_totals_follow_from_the_groups():
    # Groups are means over their classes, so a digit typed wrong would show. Two rows contradict themselves in print.
    sizes = {"voc-mlt": (6, 6, 8), "coco-mlt": (22, 33, 25)}
    contradictions, checked = {}, 0
    for benchmark in BENCHMARKS:
        for row in (row for number in TABLES for row in published_table(benchmark, number).rows):
            total, *groups = row.scores
            if None in row.scores:
                continue
            checked += 1
            mean = sum(n * score for n, score in zip(sizes[benchmark], groups, strict=True)) / sum(sizes[benchmark])
            if abs(mean - total) > 0.3:
                contradictions[benchmark, row.label] = round(mean - total, 1)
    assert checked == 23 + 18
    assert contradictions == {("voc-mlt", "LDAM"): 1.6, ("coco-mlt", "APAF"): 0.6}


def test_what_cannot_be_told_of_the_damaged_table_is_noted():
    (note,) = published_table("coco-mlt", 4).notes
    assert "54.18 / 51.05 / 57.24 / 52.80" in note
    assert "FA or for AA" in note
    assert published_table("voc-mlt", 4).notes == ()


@pytest.mark.parametrize("benchmark", BENCHMARKS)
@pytest.mark.parametrize("number", TABLES)
def test_every_row_is_a_method_that_can_be_configured(benchmark, number):
    stats = LabelStats([300, 50, 5], 400)
    shared = TrainConfig(data="labels.csv", output="runs", recipe=benchmark)
    for row in published_table(benchmark, number).rows:
        config = resolve(row.method.configure(shared, seed=0))
        losses.create(config.loss, stats, config.recipe, **config.loss_options)


def test_one_name_is_one_method_in_all_tables():
    for benchmark in BENCHMARKS:
        methods = [row.method for number in TABLES for row in published_table(benchmark, number).rows]
        assert len({method.name for method in methods}) == len({repr(method) for method in methods}) == 20


@pytest.mark.parametrize(
    ("benchmark", "raised"),
    [
        # By how much the gradient of a hard negative, and of a hard positive, of a tail class is larger than DB's.
        ("voc-mlt", {"DB": (1, 1), "λ₁⁻+": (6 / 5, 1), "λ₂⁺+": (1, 1 / 1.5), "λ₁⁻+ λ₂⁺+": (6 / 5, 1 / 1.5)}),
        ("coco-mlt", {"DB": (1, 1), "λ₁⁻+": (4 / 2, 1), "λ₁⁺+": (1, 2), "λ₁⁻+ λ₁⁺+": (4 / 2, 2)}),
    ],
)
def test_rows_of_table_3_raise_one_factor_each(benchmark, raised):
    stats = LabelStats([300, 50, 5], 400)
    targets = torch.tensor([[0, 0, 0], [0, 0, 1]], dtype=torch.int8)
    gradients = {}
    for row in published_table(benchmark, 3).rows:
        loss = losses.create(row.method.options["loss"], stats, benchmark, **row.method.options.get("loss_options", {}))
        logits = torch.tensor([[0.0, 0.0, 60.0], [0.0, 0.0, -60.0]], requires_grad=True)
        loss(logits, targets).backward()
        gradients[row.label] = logits.grad[:, 2]
    for label, factors in raised.items():
        assert (gradients[label] / gradients["DB"]).tolist() == pytest.approx(factors, rel=1e-5)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_rows_of_table_4_adapt_the_factors_of_their_letters(benchmark):
    stats = LabelStats([300, 50, 5], 400)
    second = {"voc-mlt": "pos_divisor", "coco-mlt": "pos_slope"}[benchmark]
    for row in published_table(benchmark, 4).rows:
        loss = losses.create("pg", stats, benchmark, **row.method.options.get("loss_options", {}))
        adaptive = loss.guidance.adaptive
        assert "".join("A" if name in adaptive else "F" for name in ("neg_slope", second)) == row.label


def test_samplers_follow_the_papers():
    table = published_table("voc-mlt", 2)
    samplers = {row.label: row.method.options.get("sampler", "class-aware") for row in table.rows}
    assert [label for label, sampler in samplers.items() if sampler == "class-aware"] == ["RS", "DB Focal", "PG"]
    for number in (3, 4, 5):
        assert all("sampler" not in row.method.options for row in published_table("coco-mlt", number).rows)


def test_there_is_no_other_table():
    with pytest.raises(ValueError, match="no table 1 of voc-mlt; there are 2, 3, 4, 5"):
        published_table("voc-mlt", 1)
