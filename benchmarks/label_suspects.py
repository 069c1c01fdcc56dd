"""Which planted label errors are found on real photographs: ``python -m benchmarks.label_suspects PHOTOS WEIGHTS``.

PHOTOS and WEIGHTS are those of :mod:`benchmarks.photos`. Labels of the training split are changed by chance, held-out
probabilities of ridge regression on the frozen features rank all labels by how suspect they are, and the share of
changed labels among as many of the first as there are is printed, in percent. Rankings were chosen by the seeds 0 to 4
(``--first_seed 0``). Labels that were wrong before count as right, so that 100 is out of reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jsonargparse import auto_cli
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.preprocessing import normalize

from benchmarks.photos import configuration
from tailwise.data import read
from tailwise.data.dataset import Dataset
from tailwise.data.splits import divide
from tailwise.metrics import find_suspects, fit_calibration
from tailwise.metrics.suspects import MIN_SCORE
from tailwise.training.probe import compute_features
from tailwise.training.resolution import resolve

Floats = NDArray[np.float64]
Labels = NDArray[np.int8]
Mask = NDArray[np.bool_]

NUM_FOLDS = 5
STRENGTH = 1.0
EVENLY = 7
"""Labels changed in every class where their number is the same: half of the positives at most."""

WAYS = {
    "wrong and missing": ("share", True, True),
    "wrong only": ("share", True, False),
    "missing only": ("share", False, True),
    "as many in every class": ("even", True, True),
}
BANDS = (2.0, 4.0, 8.0, 16.0, np.inf)


class Trial(NamedTuple):
    """Labels with planted errors, and what held-out models say of them."""

    given: Labels
    is_wrong: Mask
    is_missing: Mask
    probabilities: Floats

    @property
    def is_planted(self) -> Mask:
        return self.is_wrong | self.is_missing


def print_tables(
    photos: Path,
    weights: Path,
    split: str = "train_lt",
    share: float = 0.05,
    first_seed: int = 5,
    num_seeds: int = 5,
) -> None:
    """Print precision by ranking, then the length of the lists, then what a score means.

    Args:
        photos: folder with labels.csv, classes.json and the images.
        weights: backbone weights.
        split: the photographs whose labels are changed.
        share: share of the positives that become negatives, and of labels that become positives in turn.
        first_seed: the first of consecutive seeds.
        num_seeds: their number.
    """
    config = resolve(configuration(photos, weights, Path("unused"), mode="probe"))
    data = read(photos / "labels.csv", classes=photos / "classes.json").select(split)
    (images,) = compute_features(config, [data], torch.device("cpu"))
    features = normalize(np.sqrt(images.table.batch(torch.arange(len(images.table))).numpy().astype(np.float64)))
    seeds = range(first_seed, first_seed + num_seeds)
    trials = {way: [plant(features, data, share, seed, *how) for seed in seeds] for way, how in WAYS.items()}
    print_precision(trials)
    print_lengths(trials["wrong and missing"])
    print_bands(trials["wrong and missing"], share)


def plant(features: Floats, data: Dataset, share: float, seed: int, amount: str, wrong: bool, missing: bool) -> Trial:
    """Change labels by chance, the same number of positives and negatives of a class, and predict them."""
    generator = np.random.default_rng(seed)
    given = data.targets.copy()
    for true, labels in zip(data.targets.T, given.T, strict=True):
        positive, negative = np.flatnonzero(true == 1), np.flatnonzero(true == 0)
        expected = share * len(positive) if amount == "share" else min(EVENLY, len(positive) // 2)
        number = int(expected) + int(generator.random() < expected % 1)
        if missing:
            labels[generator.choice(positive, number, replace=False)] = 0
        if wrong:
            labels[generator.choice(negative, min(number, len(negative)), replace=False)] = 1
    is_changed = given != data.targets
    return Trial(given, is_changed & (given == 1), is_changed & (given == 0), held_out(features, given))


def held_out(features: Floats, given: Labels) -> Floats:
    """Calibrated probabilities of models that have not seen the photograph."""
    scores = np.empty(given.shape)
    folds = divide(Dataset.from_arrays(features, given), NUM_FOLDS)
    for fold in range(NUM_FOLDS):
        own = folds == fold
        scores[own] = Ridge(alpha=STRENGTH).fit(features[~own], given[~own]).predict(features[own])
    return fit_calibration(scores, given).probabilities(scores).numpy()


def by_log_loss(trial: Trial) -> Floats:
    return -np.log(np.where(trial.given == 1, trial.probabilities, 1 - trial.probabilities))


def by_margin(trial: Trial) -> Floats:
    """How far a probability is beyond the threshold of the other label, as confident learning has it."""
    positive, negative = thresholds(trial)
    return np.where(trial.given == 1, 1 - trial.probabilities - negative, trial.probabilities - positive)


def by_odds_margin(trial: Trial) -> Floats:
    """The same on the scale of log-odds."""
    positive, negative = thresholds(trial)
    likely = log_odds(trial.probabilities)
    return np.where(trial.given == 1, log_odds(1 - negative) - likely, likely - log_odds(positive))


def by_joint_and_loss(trial: Trial) -> Floats:
    """Log-loss of the labels off the diagonal of the confident joint, before all others."""
    return np.where(off_diagonal(trial), by_log_loss(trial), -np.inf)


def by_score(trial: Trial) -> Floats:
    found = find_suspects(trial.probabilities, trial.given, min_score=1e-300)
    scores = np.full(trial.given.shape, -np.inf)
    scores[found.rows, found.classes] = found.scores
    return scores


RANKINGS: Mapping[str, Callable[[Trial], Floats]] = {
    "log-loss": by_log_loss,
    "confident joint, then log-loss": by_joint_and_loss,
    "margin to class thresholds": by_margin,
    "the same in log-odds": by_odds_margin,
    "`find_suspects`": by_score,
}


def log_odds(p: Floats) -> Floats:
    return np.log(p) - np.log1p(-p)


def thresholds(trial: Trial) -> tuple[Floats, Floats]:
    """Mean probability of the given positives, and mean 1 - p of the given negatives, by class.

    Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021, equation 2.
    """
    positive = trial.given == 1
    return (
        np.mean(trial.probabilities, axis=0, where=positive),
        np.mean(1 - trial.probabilities, axis=0, where=~positive),
    )


def confident(trial: Trial) -> tuple[Mask, Mask]:
    """Whether a label is confidently positive, and confidently negative; never both (equation 1)."""
    positive, negative = thresholds(trial)
    p = trial.probabilities
    above, below = p >= positive, 1 - p >= negative
    return above & ~(below & (p < 0.5)), below & ~(above & (p >= 0.5))


def off_diagonal(trial: Trial) -> Mask:
    above, below = confident(trial)
    return np.where(trial.given == 1, below, above)


def estimated_errors(trial: Trial) -> float:
    """Number of wrong and missing labels that the confident joint estimates, scaled to all labels (equation 3)."""
    above, below = confident(trial)
    total = 0.0
    for own, agrees, differs in ((trial.given == 1, above, below), (trial.given == 0, below, above)):
        off, diagonal = (own & differs).sum(axis=0), (own & agrees).sum(axis=0)
        total += float(np.sum(own.sum(axis=0) * off / np.maximum(off + diagonal, 1)))
    return total


def precision(scores: Floats, allowed: Mask, is_planted: Mask) -> float:
    """Share of planted errors among the first, in percent, of as many allowed labels as there are errors."""
    ranked = np.argsort(-np.where(allowed, scores, -np.inf), axis=None, kind="stable")
    return 100 * float(is_planted.ravel()[ranked[: is_planted.sum()]].mean())


def print_precision(trials: Mapping[str, list[Trial]]) -> None:
    """A row for each ranking: precision over all planted errors, of the wrong and of the missing ones."""
    both = trials["wrong and missing"]
    titles = [*WAYS, "wrong of both", "missing of both"]
    print(f"| ranking | {' | '.join(titles)} |\n|---|{'---|' * len(titles)}")
    for name, rank in RANKINGS.items():
        cells = [spread([precision(rank(it), it.given >= 0, it.is_planted) for it in trials[way]]) for way in WAYS]
        cells.append(spread([precision(rank(it), it.given == 1, it.is_wrong) for it in both]))
        cells.append(spread([precision(rank(it), it.given == 0, it.is_missing) for it in both]))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def print_lengths(trials: list[Trial]) -> None:
    """How many labels a list holds, what share of them was planted, and what share of the planted ones is in it."""
    lists = {
        "off the diagonal of the confident joint": off_diagonal,
        "`find_suspects`": lambda it: by_score(it) >= MIN_SCORE,
    }
    print("\n| list | labels | precision | recall |\n|---|---|---|---|")
    for name, choose in lists.items():
        rows = [(choose(it), it.is_planted) for it in trials]
        numbers = [mask.sum() for mask, _ in rows]
        found = [(mask & planted).sum() for mask, planted in rows]
        precisions = [100 * hits / number for hits, number in zip(found, numbers, strict=True)]
        recalls = [100 * hits / planted.sum() for hits, (_, planted) in zip(found, rows, strict=True)]
        print(f"| {name} | {np.mean(numbers):.0f} | {spread(precisions)} | {spread(recalls)} |")
    planted = np.mean([it.is_planted.sum() for it in trials])
    estimated = np.mean([estimated_errors(it) for it in trials])
    print(f"\n{planted:.0f} errors were planted; the confident joint estimates {estimated:.0f}.")


def print_bands(trials: list[Trial], share: float) -> None:
    """By score: the number of labels, and the share of planted ones next to the one expected, share times score."""
    scores = np.concatenate([by_score(it).ravel() for it in trials])
    is_planted = np.concatenate([it.is_planted.ravel() for it in trials])
    print("\n| score | labels | planted (%) | expected (%) |\n|---|---|---|---|")
    for low, high in pairwise(BANDS):
        own = (scores >= low) & (scores < high)
        expected = np.minimum(share * scores[own], 1).mean()
        name = f"{low:g} to {high:g}" if np.isfinite(high) else f"{low:g} or more"
        print(f"| {name} | {own.sum() / len(trials):.0f} | {100 * is_planted[own].mean():.0f} | {100 * expected:.0f} |")


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


if __name__ == "__main__":
    auto_cli(print_tables, as_positional=True)
