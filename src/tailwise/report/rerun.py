"""Command lines that repeat what a results page shows, to paste into a shell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from tailwise.config import TrainConfig, flatten, to_mapping
from tailwise.data.sources.formats import ReadOptions
from tailwise.report.page import Fact
from tailwise.report.results import Results
from tailwise.training.run import CONFIG_FILE

_NEW_FOLDER = "again"


def commands(results: Results) -> Iterator[Fact]:
    """Each command line with what it does."""
    methods = results.scored if results.is_tested else results.methods
    first = next((method for method in methods if method.folders), None)
    if first is not None and first.config is not None:
        folder = first.folders[0].absolute()
        train = ["tailwise", "train", "--config", str(folder / CONFIG_FILE)]
        run = f"the first run of {first.name}" if results.is_comparison else "this run"
        if results.is_comparison:
            yield Fact("Repeat the comparison", shlex.join(_compare(results, first.config)))
        yield Fact(f"Repeat {run}", shlex.join([*train, "--output", _NEW_FOLDER]))
        if results.mode == "probe":
            yield Fact(
                f"Train the whole network as in {run}",
                shlex.join([*train, "--mode", "finetune", "--output", "finetuned"]),
            )
        yield Fact(
            f"Test the model of {run} on other data",
            shlex.join(["tailwise", "evaluate", str(folder), "--data", "other.csv"]),
        )
    yield Fact("Write this page again", shlex.join(["tailwise", "report", str(results.folder.absolute())]))


def _compare(results: Results, config: TrainConfig) -> list[str]:
    """The command line of a comparison; results.json has what is shared, a run's configuration where the data lie."""
    given: dict[str, Any] = {
        "methods": ",".join(method.name for method in results.methods),
        "baseline": results.baseline or "none",
        "seeds": len(results.seeds),
        "folds": results.folds,
        "level": results.level,
        "replicates": results.replicates,
    }
    given |= {"search": True} if any(method.chosen is not None for method in results.methods) else {}
    # What differs between "train" and "compare" by default is said in any case.
    given |= {"mode": results.mode, "recipe": results.shared.get("recipe")}
    here, usual = flatten(to_mapping(config)), flatten(to_mapping(TrainConfig(data="", output="")))
    reading = ReadOptions.__dataclass_fields__.keys()
    for name, value in (flatten(results.shared) | {name: here.get(name) for name in reading}).items():
        if name != "cache" and name not in given and value != usual.get(name):
            # Results name files without their folders.
            given[name] = here.get(name) if name.endswith("weights") else value
    words = ["tailwise", "compare", config.data, "--output", _NEW_FOLDER]
    for name, value in given.items():
        words += [f"--{name}", _word(value)]
    return words


def _word(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
