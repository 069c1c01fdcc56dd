"""Command ``tailwise train``: training and test of one model."""

from __future__ import annotations

from tailwise.commands.output import show_metrics
from tailwise.training.config import TrainConfig as Options


def run(options: Options) -> None:
    """Train a classifier, test it, and leave a folder with the model, metrics and predictions."""
    from tailwise.training.run import train

    result = train(options)
    if result is not None:
        show_metrics(result.metrics, result.folder)
