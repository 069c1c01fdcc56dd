"""Command ``tailwise evaluate``: tests of a finished run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tailwise.commands.output import show_metrics
from tailwise.data.reading import ReadOptions
from tailwise.options import Role, option


@dataclass(frozen=True)
class Options(ReadOptions):
    """Options of an evaluation."""

    run: str = option(Role.PLACE)
    """Folder of the run."""
    data: str | None = option(Role.PLACE, None, first=True)
    """Other data with classes of the run, in any format. By default the data of the run."""
    split: str | None = option(Role.DATA, None, first=True)
    """Split to test on. By default the test split of the run, or all rows of other data."""
    output: str | None = option(Role.DISPLAY, None, first=True)
    """Folder to write metrics and predictions into."""
    trust: bool = option(Role.MACHINE, False, first=True)
    """Trust the configuration of the run, which then may name a backbone of a hub or a folder (hf-hub:, local-dir:)."""


def run(options: Options) -> None:
    """Test the model of a finished run, on its own test split or on other data."""
    from tailwise.training.run import evaluate

    result = evaluate(
        Path(options.run),
        data=options.data,
        options=options,
        split=options.split,
        output=None if options.output is None else Path(options.output),
        trust=options.trust,
    )
    show_metrics(result.metrics, result.folder)
