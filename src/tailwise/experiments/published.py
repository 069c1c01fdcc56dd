"""The papers' tables as data: each row with its label, its method and the published mAP.

All are of ResNet-50 at 224² on VOC-MLT ("VOC-LT") and COCO-MLT ("COCO-LT"). "DB" is Wu et al., "Distribution-Balanced
Loss for Multi-Label Classification in Long-Tailed Datasets", ECCV 2020; "PG" is Lin, "Probability Guided Loss for
Long-Tailed Multi-Label Image Classification", AAAI 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tailwise.experiments.methods import Method, find_methods
from tailwise.losses import RecipeName

GROUPS = ("total", "head", "medium", "tail")
"""The columns of every table."""

TABLES = (2, 3, 4, 5)
"""Numbers of the tables, in the paper of PG."""

Scores = tuple[float | None, float | None, float | None, float | None]
_UNREADABLE: Scores = (None, None, None, None)


@dataclass(frozen=True)
class PublishedRow:
    """A row of a published table.

    Attributes:
        label: the method's name in the paper.
        method: the method.
        scores: published mAP in percent, of all classes and of head, medium and tail; None where it cannot be read.
        remark: source of the numbers, where a method has two rows.
        optim: optimizer options of its paper on these data where they differ from the recipe of DB.
    """

    label: str
    method: Method
    scores: Scores
    remark: str = ""
    optim: Mapping[str, Any] = field(default_factory=dict)

    def published(self, group: str) -> float | None:
        """The published mAP of a group of classes, if it can be read."""
        return self.scores[GROUPS.index(group)]


@dataclass(frozen=True)
class PublishedTable:
    """A published table, its part for one data set.

    Attributes:
        benchmark: the data set.
        number: number of the table in the paper of PG.
        title: what it compares.
        rows: its rows.
        notes: further published results that fit no row, one sentence each.
    """

    benchmark: RecipeName
    number: int
    title: str
    rows: tuple[PublishedRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """Paper and number of the table."""
        return f"Lin, AAAI 2023, Table {self.number}"


def published_table(benchmark: RecipeName, number: int) -> PublishedTable:
    """The part of a table that is about one data set.

    Raises:
        ValueError: there is no such table.
    """
    if (benchmark, number) not in _TABLES:
        raise ValueError(f"there is no table {number} of {benchmark}; there are {', '.join(map(str, TABLES))}")
    return _TABLES[benchmark, number]


# Settings in the text of PG; all others are "similar" to DB.
_PG_OPTIM: Mapping[RecipeName, Mapping[str, Any]] = {
    "voc-mlt": MappingProxyType({"lr": 8e-3, "warmup_ratio": 0.5}),
    "coco-mlt": MappingProxyType({"lr": 1e-2, "warmup_ratio": 0.5}),
}
# The second factor that PG raises, after λ₁⁻, by its option and as the tables write it.
_SECOND_FACTOR: Mapping[RecipeName, tuple[str, str]] = {
    "voc-mlt": ("pos_divisor", "λ₂⁺"),
    "coco-mlt": ("pos_slope", "λ₁⁺"),
}
_PG, _DB_FOCAL = find_methods(("pg", "db-focal"))
# No source names their samplers; re-sampling (RS) has a row of its own, so the others are without it.
_BASELINES = {
    "ERM": "bce@uniform",
    "RW": "rw@uniform",
    "Focal": "focal@uniform",
    "RS": "bce",
    "ML-GCN": "ml-gcn@uniform",
    "LDAM": "ldam@uniform",
    "CB Focal": "cb-focal@uniform",
    "ASL": "asl@uniform",
}


def _baselines(benchmark: RecipeName, *scores: Scores) -> PublishedTable:
    """Table 2, with the scores of the baselines, of DB Focal in the paper and as released, and of PG."""
    *baselines, paper, released, pg = scores
    methods = find_methods(_BASELINES.values())
    rows = [PublishedRow(*row) for row in zip(_BASELINES, methods, baselines, strict=True)]
    rows += [
        PublishedRow("DB Focal", _DB_FOCAL, paper, "paper of PG"),
        PublishedRow("DB Focal", _DB_FOCAL, released, "official models of DB"),
        PublishedRow("PG", _PG, pg, optim=_PG_OPTIM[benchmark]),
    ]
    return PublishedTable(benchmark, 2, "PG and other methods", tuple(rows))


def _rebalancing(benchmark: RecipeName, db: Scores, slope: Scores, second: Scores, both: Scores) -> PublishedTable:
    """Table 3: the effect of each raised factor of PR, without focal factors."""
    option, symbol = _SECOND_FACTOR[benchmark]
    # The recipe raises both; None leaves a factor at its base.
    plain, raised = find_methods(("db", "pr"))
    rows = (
        ("DB", plain, db),
        ("λ₁⁻+", Method("pr-neg_slope", {"loss": "pr", "loss_options": {option: None}}), slope),
        (f"{symbol}+", Method(f"pr-{option}", {"loss": "pr", "loss_options": {"neg_slope": None}}), second),
        (f"λ₁⁻+ {symbol}+", raised, both),
    )
    return _of_pg(benchmark, 3, "Raised factors of probability re-balancing (PR)", rows)


def _adaptive(
    benchmark: RecipeName, ff: Scores, af: Scores, fa: Scores, aa: Scores, notes: tuple[str, ...] = ()
) -> PublishedTable:
    """Table 4: which factors follow the batch, in PG."""
    option, symbol = _SECOND_FACTOR[benchmark]

    def pg(name: str, *adaptive: str) -> Method:
        return Method(name, {"loss": "pg", "loss_options": {"adaptive": adaptive}})

    rows = (
        ("FF", pg("pg-ff"), ff),
        ("AF", _PG, af),
        ("FA", pg("pg-fa", option), fa),
        ("AA", pg("pg-aa", "neg_slope", option), aa),
    )
    title = f"Fixed (F) and adaptive (A) factors λ₁⁻, {symbol} of PG"
    return _of_pg(benchmark, 4, title, rows, notes)


def _focal(benchmark: RecipeName, focal: Scores, apaf: Scores, apr_focal: Scores, pg: Scores) -> PublishedTable:
    """Table 5: the effect of the adaptive focal exponents."""
    labels = ("Focal", "APAF", "APR+Focal", "APR+APAF")
    methods = find_methods(("focal", "apaf", "apr-focal", "pg"))
    rows = tuple(zip(labels, methods, (focal, apaf, apr_focal, pg), strict=True))
    return _of_pg(benchmark, 5, "Adaptive focal exponents (APAF), alone and with APR", rows)


def _of_pg(
    benchmark: RecipeName,
    number: int,
    title: str,
    rows: tuple[tuple[str, Method, Scores], ...],
    notes: tuple[str, ...] = (),
) -> PublishedTable:
    optim = _PG_OPTIM[benchmark]
    listed = tuple(PublishedRow(label, method, scores, optim=optim) for label, method, scores in rows)
    return PublishedTable(benchmark, number, title, listed, notes)


_TABLES: dict[tuple[RecipeName, int], PublishedTable] = {
    (table.benchmark, table.number): table
    for table in (
        _baselines(
            "voc-mlt",
            (70.86, 68.91, 80.20, 65.31),
            (74.70, 67.58, 82.81, 73.96),
            (73.88, 69.41, 81.43, 71.56),
            (75.38, 70.95, 82.94, 73.05),
            (68.92, 70.14, 76.41, 62.39),
            (70.73, 68.73, 80.38, 69.09),
            (75.24, 70.30, 83.53, 72.74),
            (76.40, 70.70, 82.26, 76.29),
            (78.29, 72.67, 83.17, 78.75),
            (78.94, 73.22, 84.18, 79.30),
            (80.37, 73.67, 83.83, 82.88),
        ),
        _baselines(
            "coco-mlt",
            (41.27, 48.48, 49.06, 24.25),
            (42.27, 48.62, 45.80, 32.02),
            (49.46, 49.80, 54.77, 42.14),
            (46.97, 47.58, 50.55, 41.70),
            (44.24, 44.04, 48.36, 38.96),
            (40.53, 48.77, 48.38, 22.92),
            (49.06, 47.91, 53.01, 44.85),
            (50.21, 49.05, 53.65, 46.68),
            (53.45, 50.91, 56.58, 51.52),
            (53.55, 51.13, 57.05, 51.06),
            (54.43, 51.23, 57.42, 53.40),
        ),
        _rebalancing(
            "voc-mlt",
            db=(77.29, 72.17, 83.83, 76.37),
            slope=(77.85, 72.17, 83.50, 78.00),
            second=(77.56, 72.83, 83.83, 76.50),
            both=(78.44, 73.00, 82.50, 79.75),
        ),
        _rebalancing(
            "coco-mlt",
            db=(51.91, 49.50, 54.88, 50.12),
            slope=(52.24, 50.00, 55.70, 49.64),
            second=(None, 49.95, 56.21, 50.88),
            both=_UNREADABLE,
        ),
        _adaptive(
            "voc-mlt",
            ff=(79.46, 73.67, 84.00, 80.50),
            af=(80.37, 73.67, 83.83, 82.88),
            fa=(79.70, 73.83, 83.33, 81.38),
            aa=(79.95, 73.33, 83.67, 82.00),
        ),
        _adaptive(
            "coco-mlt",
            ff=(54.08, 51.14, 57.09, 52.72),
            af=(54.43, 51.22, 57.42, 53.40),
            fa=_UNREADABLE,
            aa=_UNREADABLE,
            notes=(
                "54.18 / 51.05 / 57.24 / 52.80 (total / head / medium / tail) is published for FA or for AA: the "
                "source is damaged and does not show for which.",
            ),
        ),
        _focal(
            "voc-mlt",
            focal=(76.86, 72.17, 83.50, 75.50),
            apaf=(76.77, 72.17, 83.33, 75.13),
            apr_focal=(79.14, 73.50, 83.00, 80.25),
            pg=(80.36, 73.67, 83.83, 82.62),
        ),
        _focal(
            "coco-mlt",
            focal=(50.20, 48.09, 53.88, 47.00),
            apaf=(50.79, 49.14, 53.88, 49.96),
            apr_focal=(54.24, 51.00, 57.39, 53.12),
            pg=_UNREADABLE,
        ),
    )
}
