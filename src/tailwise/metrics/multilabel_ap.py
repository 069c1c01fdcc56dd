"""Average precision as a torchmetrics metric, accumulated over batches and gathered over processes."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from tailwise.labels import LabelStats
from tailwise.metrics.average_precision import average_precision
from tailwise.metrics.groups import group_means
from tailwise.metrics.score_matrix import scores_and_targets


class MultilabelAP(Metric):
    """Mean average precision over all classes and over each group, and the average precision of every class.

    Every logit is kept (5 bytes per label, on the metric's device), because average precision is exact: it ranks all
    samples of a class, from all processes, together. Processes may have different numbers of samples, or none.

    Args:
        num_classes: number of classes K.
        groups: class indices by group name, as :attr:`LabelStats.groups` gives them; only the total when absent.
        **kwargs: of :class:`torchmetrics.Metric`, such as ``compute_on_cpu`` and ``process_group``.

    Raises:
        ValueError: ``num_classes`` is no whole number or below 1, or a group does not fit it.

    Example:
        >>> metric = MultilabelAP(2, {"tail": [1]})
        >>> metric.update(torch.tensor([[2.0, 0.1], [0.5, 0.3]]), torch.tensor([[1, 1], [0, 0]]))
        >>> metric.compute()["tail"]
        tensor(0.5000, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    logits: list[Tensor]
    targets: list[Tensor]

    def __init__(self, num_classes: int, groups: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        given: object = num_classes
        if not isinstance(given, Integral) or isinstance(given, bool):
            way = ": give stats.num_classes, stats.groups" if isinstance(given, LabelStats) else ""
            raise ValueError(f"num_classes must be a whole number, got {type(given).__name__}{way}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = int(num_classes)
        self.groups = dict(groups or {})
        group_means(torch.zeros(num_classes), self.groups)
        self.add_state("logits", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add one batch.

        Args:
            logits: (B, K) raw scores; kept as float32.
            targets: (B, K) entries 1, 0, or unknown (-1, and NaN in floating point).

        Raises:
            ValueError: a logit is NaN, a target is none of 1, 0 and unknown, or there are not K classes.
        """
        s, t = scores_and_targets(logits, targets)
        if s.shape[1] != self.num_classes:
            raise ValueError(f"logits have {s.shape[1]} classes, the metric was made for {self.num_classes}")
        self.logits.append(s.float())
        self.targets.append(t)

    def compute(self) -> dict[str, Tensor]:
        """Average precision of all batches since the last reset, by all processes.

        Returns:
            ``"total"`` and one entry per group: float64 means that leave out classes without a positive or without a
            known negative, NaN where none is left; ``"per_class"``: (K,) float64, NaN for those classes.
        """
        per_class = average_precision(dim_zero_cat(self.logits), dim_zero_cat(self.targets))
        means = {
            name: torch.tensor(mean, dtype=torch.float64, device=per_class.device)
            for name, mean in group_means(per_class, self.groups).items()
        }
        return means | {"per_class": per_class}

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the rows of all processes; see :meth:`torchmetrics.Metric.sync`."""
        self._have_rows()
        super().sync(*args, **kwargs)

    def _have_rows(self) -> None:
        """Make zero rows of the right width and dtype in a process without data, so that all can be gathered."""
        if isinstance(self.logits, list) and not self.logits:
            self.logits.append(torch.empty(0, self.num_classes, device=self.device))
            self.targets.append(torch.empty(0, self.num_classes, dtype=torch.int8, device=self.device))
