"""What is published about a benchmark, and whether a data set agrees with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources

import numpy as np

from tailwise.data.dataset import Dataset
from tailwise.errors import InputError

_FILE = "published.json"


@dataclass(frozen=True)
class PublishedFacts:
    """The numbers that identify a benchmark.

    Attributes:
        class_names: K names, in the order of the published counts.
        class_counts: training images of each class.
        groups: indices of the classes of each group.
        num_train: training images.
        num_test: test images.
        test_counts: test images of some classes, by name.
        num_test_without_label: test images without any class, if known.
    """

    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    groups: Mapping[str, tuple[int, ...]]
    num_train: int
    num_test: int
    test_counts: Mapping[str, int] = field(default_factory=dict)
    num_test_without_label: int | None = None

    @classmethod
    def load(cls, name: str) -> PublishedFacts:
        """The facts of a benchmark by its name, from ``published.json``, which names the source."""
        text = resources.files(__package__).joinpath(_FILE).read_text(encoding="utf-8")
        record = json.loads(text)[name]
        return cls(
            class_names=tuple(record.pop("class_names")),
            class_counts=tuple(record.pop("class_counts")),
            groups={group: tuple(members) for group, members in record.pop("groups").items()},
            **record,
        )


def require_published(name: str, facts: PublishedFacts, train: Dataset, test: Dataset) -> None:
    """Check that training and test images are those of the publication, as far as its numbers tell.

    Raises:
        InputError: they are not; the message lists every difference and the likely reasons.
    """
    differences = [*_train_differences(facts, train), *_test_differences(facts, test)]
    if differences:
        listed = "\n".join(f"  {difference}" for difference in differences)
        raise InputError(
            f"{name}: these are not the published images and labels.\n{listed}\n"
            f"Likely reasons: the list of image ids is another one ({train.source}); annotations were edited, or "
            "objects marked as difficult were removed from them; the test images are those of another year or split. "
            "Name a folder that holds none of these data, to have all of them downloaded and verified"
        )


def _train_differences(facts: PublishedFacts, train: Dataset) -> Iterator[str]:
    if len(train) != facts.num_train:
        yield f"{len(train)} training images instead of {facts.num_train}"
    found = train.stats()
    yield from class_differences(facts, found.class_counts.tolist())
    for group, members in facts.groups.items():
        if found.groups[group].tolist() != list(members):
            names = [facts.class_names[k] for k in np.setxor1d(found.groups[group], members)]
            yield f"the group {group} differs by {', '.join(names)}"


def class_differences(facts: PublishedFacts, counts: Sequence[int]) -> list[str]:
    """A table of the classes whose training images are not as many as published; empty if all are."""
    differing = [
        (name, published, found)
        for name, published, found in zip(facts.class_names, facts.class_counts, counts, strict=True)
        if published != found
    ]
    if not differing:
        return []
    width = max(len("class"), *(len(name) for name, _, _ in differing))
    header = f"{'class':{width}}  published  found"
    return [header, *(f"{name:{width}}  {published:9}  {found:5}" for name, published, found in differing)]


def _test_differences(facts: PublishedFacts, test: Dataset) -> Iterator[str]:
    if len(test) != facts.num_test:
        yield f"{len(test)} test images instead of {facts.num_test}"
    for name, published in facts.test_counts.items():
        found = int((test.targets[:, facts.class_names.index(name)] == 1).sum())
        if found != published:
            yield f"{found} test images with {name} instead of {published}"
    without = int((~(test.targets == 1).any(axis=1)).sum())
    if facts.num_test_without_label not in (None, without):
        yield f"{without} test images without any class instead of {facts.num_test_without_label}"
