"""Findings in words: each appears when it should, with the classes it concerns, and only then."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from tailwise.data.dataset import Dataset, Files
from tailwise.data.label_facts import Inspection, inspect_labels
from tailwise.data.pixels.image_check import check_images
from tailwise.report.inspection.problems import Problem, find_problems
from tailwise.spelling import percent, shorten
from tests.report.conftest import labelled


def found(pattern: str, inspection: Inspection, **others: object) -> Problem | None:
    problems = [problem for problem in find_problems(inspection, **others) if re.search(pattern, problem.title)]  # type: ignore[arg-type]
    assert len(problems) <= 1
    return problems[0] if problems else None


def sound(num_images: int = 200) -> np.ndarray:
    """Labels that nothing is wrong with: three independent classes, one in each group."""
    generator = np.random.default_rng(0)
    return (generator.random((num_images, 3)) < [0.6, 0.5, 0.08]).astype(np.int8)


def test_sound_labels_have_no_problem_but_images_without_label() -> None:
    splits = ["train"] * 150 + ["test"] * 50
    facts = inspect_labels(labelled(sound(), splits), train_split="train", test_split="test", thresholds=(20, 80))
    titles = [problem.title for problem in find_problems(facts)]
    without = int((sound()[:150].sum(axis=1) == 0).sum())
    assert [re.sub(r"\(.*\) ", "", title) for title in titles] == [f"{without} training images have no positive label"]


def test_classes_with_too_few_images_are_named() -> None:
    targets = sound()
    targets[:, 1] = 0
    targets[:, 2] = 0
    targets[7, 2] = 1
    facts = inspect_labels(labelled(targets, names=("many", "none", "single")))
    empty, single = found("no training image", facts), found("one training image", facts)
    assert empty is not None
    assert (empty.severity, empty.title, empty.examples) == ("error", "1 class has no training image", ("none",))
    assert single is not None
    assert (single.severity, single.title, single.examples) == (
        "warning",
        "1 class has one training image",
        ("single",),
    )


def test_classes_that_cannot_be_tested_are_named() -> None:
    targets = sound()
    targets[150:, 1] = 0
    targets[150:, 2] = [1] + [0] * 49
    data = labelled(targets, ["train"] * 150 + ["eval"] * 50)
    facts = inspect_labels(data, train_split="train", test_split="eval")
    empty, single = found("no positive in the test", facts), found("one positive in the test", facts)
    assert empty is not None
    assert (empty.severity, empty.examples) == ("error", ("class 1",))
    assert "'eval'" in empty.title
    assert single is not None
    assert (single.severity, single.examples) == ("warning", ("class 2",))
    assert found("test", inspect_labels(data, train_split="train")) is None


def test_a_class_without_negatives_counts_known_labels_only() -> None:
    targets = sound()
    targets[:, 0] = 1
    targets[:, 1] = np.where(targets[:, 1] == 1, 1, -1)
    targets[:, 2] = -1
    problem = found("no negative training image", inspect_labels(labelled(targets)))
    assert problem is not None
    assert problem.examples == ("class 0", "class 1")


def test_a_class_that_no_test_image_is_judged_to_be_without_is_named() -> None:
    targets = sound()
    targets[150:, 0] = 2 * targets[150:, 0] - 1
    targets[150:, 1] = -1  # no positive either, which is told of
    facts = inspect_labels(labelled(targets, ["train"] * 150 + ["eval"] * 50), train_split="train", test_split="eval")
    problem, empty = found("no negative in the test split 'eval'", facts), found("no positive in the test", facts)
    assert problem is not None
    assert (problem.severity, problem.examples) == ("error", ("class 0",))
    assert "--negative or --blank" in problem.advice
    assert empty is not None
    assert empty.examples == ("class 1",)
    assert found("no negative training image", facts) is None


def test_classes_of_one_kind_in_other_splits_are_named_with_the_split() -> None:
    targets = sound(300)
    targets[150:200, 0] = 2 * targets[150:200, 0] - 1
    targets[200:250, :2] = 0
    targets[250:, 0] = 0
    splits = ["train"] * 100 + ["test"] * 50 + ["val"] * 50 + ["pool"] * 50 + [""] * 50
    facts = inspect_labels(labelled(targets, splits), train_split="train", test_split="test")
    negative, positive = found("no negative in another split", facts), found("no positive in another split", facts)
    assert negative is not None
    assert (negative.severity, negative.title) == ("note", "1 class has no negative in another split (val 1)")
    assert negative.examples == ("class 0 (val)",)
    assert positive is not None
    assert positive.title == "2 classes have no positive in another split (pool 2)"
    assert positive.examples == ("class 0 (pool)", "class 1 (pool)")


def test_unknown_labels_are_told() -> None:
    targets = sound()
    targets[:50, 1] = -1
    problem = found("unknown", inspect_labels(labelled(targets)))
    assert problem is not None
    assert problem.title == "8.3% of the training labels are unknown"


def test_rows_outside_every_split_are_told_only_if_there_are_splits() -> None:
    problem = found("no split", inspect_labels(labelled(sound(), ["train"] * 190 + [""] * 10), train_split="train"))
    assert problem is not None
    assert problem.title == "10 rows are in no split"
    assert found("no split", inspect_labels(labelled(sound()))) is None


def test_rows_skipped_in_reading_are_told() -> None:
    data = labelled(sound())
    object.__setattr__(data, "skipped", ("labels.csv:7: bad", "labels.csv:9: worse"))
    problem = found("could not be read", inspect_labels(data))
    assert problem is not None
    assert problem.title.startswith("2 rows")
    assert problem.examples == ("labels.csv:7: bad", "labels.csv:9: worse")


def test_groups_that_are_trained_and_tested_on_are_told() -> None:
    splits = ["train"] * 120 + ["test"] * 40 + ["other"] * 40
    data = labelled(sound(), splits)
    own = [f"{split} {row % 8}" for row, split in enumerate(splits)]
    mixed = [*own[:120], *["train 3"] * 10, *own[130:160], *["train 4"] * 40]
    facts = inspect_labels(dataclasses.replace(data, groups=tuple(mixed)), train_split="train", test_split="test")
    tested, other = found("groups of split 'test'", facts), found("group of split 'other'", facts)
    assert tested is not None
    assert tested.title == "1 of 9 groups of split 'test', with 25.0% of its rows, has rows in split 'train' too"
    assert (tested.severity, "--split-ratios" in tested.advice) == ("warning", True)
    assert other is not None
    assert (other.severity, other.title[:30]) == ("note", "1 of 1 group of split 'other',")
    for groups, train in ((own, "train"), (mixed, None)):
        facts = inspect_labels(dataclasses.replace(data, groups=tuple(groups)), train_split=train, test_split="test")
        assert found("of split", facts) is None


def test_names_spelt_alike_are_told() -> None:
    facts = inspect_labels(labelled(np.ones((4, 5)), names=("Stop sign", "stop-sign", "stop  SIGN", "cat", "cats")))
    problem = found("spelt", facts)
    assert problem is not None
    assert problem.examples == ("Stop sign / stop-sign / stop  SIGN",)


def test_classes_that_cannot_be_told_apart_are_told() -> None:
    targets = np.tile(sound(600), (1, 2))[:, :5]
    targets[:, 3] = targets[:, 0]
    targets[:, 4] = targets[:, 1] & targets[:, 2]
    facts = inspect_labels(labelled(targets))
    both, implied = found("same training images", facts), found("always come", facts)
    assert both is not None
    assert (both.title, both.examples) == (
        "1 pair of classes has the same training images",
        ("class 0 and class 3",),
    )
    assert implied is not None
    assert implied.title == "1 class always comes with a certain other class"
    assert set(implied.examples) == {"class 4, always with class 1", "class 4, always with class 2"}


def test_a_companion_on_every_image_is_no_finding() -> None:
    targets = sound()
    targets[:, 0] = 1
    assert found("always come", inspect_labels(labelled(targets))) is None


def test_imbalance_is_told_with_what_sampling_would_do() -> None:
    targets = np.zeros((500, 2), dtype=np.int8)
    targets[:400, 0] = 1
    targets[:5, 1] = 1
    facts = inspect_labels(labelled(targets))
    problem = found("times the images", facts)
    assert problem is not None
    assert problem.title == "The most frequent class has 80 times the images of the rarest"
    assert "200 images per epoch" in problem.advice
    assert "about 20 times" in problem.advice
    head_only = found("head classes only", facts)
    assert head_only is not None
    assert head_only.title.startswith("98.8% of the labelled")
    assert found("times the images", inspect_labels(labelled(sound()))) is None


def test_files_are_weighed_by_the_splits_in_use(nasty: Dataset) -> None:
    images = check_images(nasty, progress=False)
    used = inspect_labels(nasty, train_split="train", test_split="test")
    missing, unreadable = found("missing", used, images=images), found("cannot be read", used, images=images)
    assert missing is not None
    assert (missing.severity, missing.title, missing.examples) == (
        "error",
        "1 image of 80 is missing (train 1)",
        ("6.png (labels.csv:8, train)",),
    )
    assert unreadable is not None
    assert unreadable.title == "2 images cannot be read (train 2), 1 of them empty"
    assert unreadable.examples[0] == "5.png (labels.csv:7, train): the file is empty (0 bytes)"
    unused = found("missing", inspect_labels(nasty, train_split="test"), images=images)
    assert unused is not None
    assert unused.severity == "note"
    assert "None of them is trained or tested on" in unused.advice


def test_missing_images_throughout_point_at_the_root(nasty: Dataset) -> None:
    moved = dataclasses.replace(nasty, inputs=Files(nasty.root / "elsewhere"))
    problem = found("missing", inspect_labels(moved), images=check_images(moved, progress=False))
    assert problem is not None
    assert problem.severity == "error"
    assert "is this the root of the references?" in problem.advice


def test_copies_are_loud_where_they_leak_or_contradict(nasty: Dataset) -> None:
    images = check_images(nasty, progress=False)
    facts = inspect_labels(nasty, train_split="train", test_split="test")
    leak, contradiction = (
        found("more than one split", facts, images=images),
        found("other labels", facts, images=images),
    )
    assert leak is not None
    assert (leak.severity, leak.examples) == (
        "error",
        (
            "11.png (labels.csv:13, test) = 12.png (labels.csv:14, train)",
            "15.png (labels.csv:17, test) = 16.png (labels.csv:18, train)",
        ),
    )
    assert contradiction is not None
    assert (contradiction.severity, contradiction.examples) == ("error", leak.examples[1:])
    assert found("same split", facts, images=images) is None


def test_the_gravest_come_first(nasty: Dataset) -> None:
    facts = inspect_labels(nasty, train_split="train", test_split="test")
    severities = [problem.severity for problem in find_problems(facts, check_images(nasty, progress=False))]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert set(severities) == {"error", "warning", "note"}


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0%"),
        (1, "100%"),
        (0.99999, "99.9%"),
        (0.123, "12.3%"),
        (0.00412, "0.41%"),
        (0.00001, "<0.01%"),
        (float("nan"), "–"),
    ],
)
def test_shares_keep_the_digits_they_need(share: float, text: str) -> None:
    assert percent(share) == text


def test_long_names_lose_their_middle() -> None:
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghijk", 10) == "abcde…hijk"
    assert shorten("abcdefghijk", 9) == "abcd…hijk"
    assert len(shorten("abcdefghijk", 8)) == 8
