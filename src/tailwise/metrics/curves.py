"""Probability curves: the mean predicted probability of positives and negatives during training.

Lin, "Probability Guided Loss for Long-Tailed Multi-Label Image Classification", AAAI 2023, Fig. 1 and 3 to 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailwise.files import replacing
from tailwise.labels import IndexArray, LabelStats
from tailwise.losses.backends import choose
from tailwise.losses.guidance import Sync, add_over_processes
from tailwise.shapes import Bool, Float, Shaped

_FORMAT = "tailwise-curves-1"
_SERIES = ("positive_sum", "positive_count", "negative_sum", "negative_count")
# 64 MB in single precision: four points for a million classes.
_MOST_NUMBERS = 1 << 24


@dataclass(frozen=True, eq=False)
class ProbabilityCurves:
    """Sums of predicted probabilities over the training pairs between one point and the next.

    Attributes:
        steps: (T,) number of training steps done at each point; rising.
        positive_sum: (T, K) sum of p = σ(z) over the positive pairs since the previous point.
        positive_count: (T, K) number of these pairs.
        negative_sum: (T, K) sum of p over the negative pairs.
        negative_count: (T, K) number of these.
        class_names: K names.
        groups: class indices of each group.
    """

    steps: NDArray[np.int64]
    positive_sum: NDArray[np.float32]
    positive_count: NDArray[np.float32]
    negative_sum: NDArray[np.float32]
    negative_count: NDArray[np.float32]
    class_names: tuple[str, ...]
    groups: Mapping[str, IndexArray]

    @property
    def positive(self) -> NDArray[np.float32]:
        """(T, K) mean probability of positive pairs; NaN where a class had none."""
        return _ratio(self.positive_sum, self.positive_count)

    @property
    def negative(self) -> NDArray[np.float32]:
        """(T, K) mean probability of negative pairs; NaN where a class had none."""
        return _ratio(self.negative_sum, self.negative_count)

    def group_means(self, group: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean over the classes of a group of their mean probabilities: (T,) of positives, and (T,) of negatives.

        At each point, classes without a pair of the kind are ignored; NaN if all are.
        """
        members = self.groups[group]
        return _mean_of_known(self.positive[:, members]), _mean_of_known(self.negative[:, members])

    def save(self, path: str | Path) -> None:
        """Write the curves as a compressed NumPy archive, atomically."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _SERIES}
        arrays |= {f"group_{name}": members for name, members in self.groups.items()}
        with replacing(Path(path)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file, format=np.array(_FORMAT), steps=self.steps, class_names=np.array(self.class_names), **arrays
            )

    @classmethod
    def load(cls, path: str | Path) -> ProbabilityCurves:
        """Read what :meth:`save` has written.

        Raises:
            ValueError: the file does not hold curves.
            OSError: it cannot be read.
        """
        try:
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
                if str(archive["format"]) != _FORMAT:
                    raise ValueError(f"its format is {str(archive['format'])!r}")
                names = tuple(str(name) for name in archive["class_names"])
                prefix = "group_"
                groups = {
                    key.removeprefix(prefix): archive[key].astype(np.intp)
                    for key in archive.files
                    if key.startswith(prefix)
                }
                series: dict[str, Any] = {name: archive[name] for name in _SERIES}
                return cls(steps=archive["steps"], **series, class_names=names, groups=groups)
        except (ValueError, KeyError, EOFError, AttributeError, TypeError, BadZipFile) as error:
            raise ValueError(f"{path} holds no probability curves ({error})") from error


class CurveRecorder:
    """Records probability curves in any training loop: call :meth:`update` once in each step.

    It never synchronises with the device; sums stay there until :meth:`curves` is called.

    Args:
        stats: names and groups of the classes.
        every: steps from one point to the next; :func:`steps_between_points` gives a number that keeps curves small.
        sync: ``"auto"`` adds the sums of all processes at each point when a process group is up, so that every
            process has the curves of the whole batch; ``"never"`` records this process's own pairs.

    Raises:
        ValueError: ``every`` is below 1.

    Example:
        >>> recorder = CurveRecorder(LabelStats([1, 1], 2))
        >>> recorder.update(torch.zeros(2, 2), torch.tensor([[1, 0], [0, 1]]))
        >>> recorder.curves().positive
        array([[0.5, 0.5]], dtype=float32)
    """

    def __init__(self, stats: LabelStats, every: int = 1, *, sync: Sync = "auto") -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1 step, got {every}")
        self.stats = stats
        self.every = every
        self.sync = sync
        self._steps = 0
        self._since = 0
        self._window: Tensor | None = None
        self._points: list[Tensor] = []
        self._point_steps: list[int] = []

    def update(
        self,
        logits: Float[Tensor, "B C"],
        targets: Shaped[Tensor, "B C"],
        mask: Bool[Tensor, "B C"] | None = None,
    ) -> None:
        """Add a training step.

        Args:
            logits: (B, K) raw scores; their graph is not kept.
            targets: (B, K) labels as a loss takes them: 0, 1, soft in [0, 1], or unknown (−1 or NaN).
            mask: (B, K), False where the label is unknown.
        """
        with torch.no_grad():
            sums = choose("auto", logits).probability_sums(logits, targets, mask).float()
            self._window = sums if self._window is None else self._window.to(sums.device).add_(sums)
        self._steps += 1
        self._since += 1
        if self._since == self.every:
            self._end_window()

    def curves(self) -> ProbabilityCurves:
        """The curves so far. Steps after the last complete interval form a shorter one.

        With several processes, call it in all of them.
        """
        if self._since:
            self._end_window()
        shape = (0, len(_SERIES), self.stats.num_classes)
        stacked = torch.stack([point.cpu() for point in self._points]) if self._points else torch.zeros(shape)
        series: dict[str, Any] = {name: stacked[:, i].numpy() for i, name in enumerate(_SERIES)}
        steps = np.array(self._point_steps, dtype=np.int64)
        return ProbabilityCurves(steps=steps, **series, class_names=self.stats.class_names, groups=self.stats.groups)

    def state_dict(self) -> dict[str, Any]:
        """Everything recorded, as tensors and numbers."""
        return {
            "steps": self._steps,
            "since": self._since,
            "window": self._window,
            "points": torch.stack([point.cpu() for point in self._points]) if self._points else None,
            "point_steps": list(self._point_steps),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self._steps, self._since = state["steps"], state["since"]
        self._window = state["window"]
        self._points = [] if state["points"] is None else list(state["points"])
        self._point_steps = list(state["point_steps"])

    def _end_window(self) -> None:
        assert self._window is not None
        if self.sync == "auto":
            add_over_processes(self._window)
        self._points.append(self._window)
        self._point_steps.append(self._steps)
        self._window, self._since = None, 0


def steps_between_points(num_steps: int, num_classes: int, points: int = 200) -> int:
    """Steps from one point to the next for at most about ``points`` points, fewer where there are many classes.

    The curves then hold 16 million numbers at most, 64 MB.

    >>> steps_between_points(10_000, num_classes=20)
    50
    """
    most = max(1, min(points, _MOST_NUMBERS // (len(_SERIES) * max(num_classes, 1))))
    return max(1, -(-num_steps // most))


def _ratio(total: NDArray[np.float32], count: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _mean_of_known(values: NDArray[np.float32]) -> NDArray[np.float32]:
    known = np.isfinite(values)
    return _ratio(np.where(known, values, 0).sum(1), known.sum(1).astype(np.float32))
