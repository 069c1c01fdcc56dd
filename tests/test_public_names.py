"""The public names are a contract: one that disappears or changes its parameters fails here."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import tailwise
from tailwise import errors, losses, metrics


def parameters(function) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_losses_by_name():
    assert losses.available() == (
        *("bce", "rw", "focal", "cb-focal", "ldam", "asl", "r-bce", "ntr", "db", "db-focal", "pr", "apaf", "pg"),
        *("pg-auto", "hill", "splc", "two-way", "zlpr", "formula"),
    )
    assert parameters(losses.create) == ["name", "stats", "recipe", "options"]
    assert parameters(losses.Loss.forward) == ["logits", "targets", "mask"]


def test_options_of_the_central_losses():
    distribution_balanced = {"alpha", "beta", "mu", "neg_scale", "kappa", "gamma", "balance", "reduction"}
    assert distribution_balanced <= set(losses.option_names("db-focal"))
    guided = {"neg_slope", "neg_divisor", "pos_slope", "pos_divisor", "adaptive", "base_exponent", "max_exponent"}
    guided |= {"alpha", "beta", "mu", "kappa", "neg_scale", "rebalance", "balance", "focal_on", "sync", "reduction"}
    assert guided <= set(losses.option_names("pg"))


def test_label_stats():
    assert parameters(tailwise.LabelStats)[:4] == ["class_counts", "num_samples", "class_names", "thresholds"]
    assert {"from_targets", "groups", "save", "load"} <= set(dir(tailwise.LabelStats))


def test_decisions():
    assert parameters(metrics.tune_thresholds) == ["scores", "targets", "objective", "target", "fallback"]
    assert parameters(metrics.fit_decisions) == ["logits", "targets", "class_names", "objective", "target", "method"]
    assert {"thresholds", "untuned", "predict", "calibrate", "save", "load"} <= {
        *dir(metrics.Decisions),
        *metrics.Decisions.__dataclass_fields__,
    }


def test_label_suspects():
    assert parameters(metrics.find_suspects) == ["probabilities", "targets", "min_score"]
    fields = ["rows", "classes", "given", "probabilities", "scores"]
    assert list(metrics.Suspects.__dataclass_fields__) == fields


def test_the_core_imports_torch_and_numpy_only():
    optional = (
        "torchvision",
        "timm",
        "lightning",
        "torchmetrics",
        "jsonargparse",
        "pandas",
        "sklearn",
        "scipy",
        "jaxtyping",
    )
    code = f"""
import sys
for name in {optional}:
    sys.modules[name] = None  # as if it were not installed
import tailwise, tailwise.losses, tailwise.metrics
from tailwise.losses import create
import torch
print(float(create("pg", tailwise.LabelStats([5, 1], 8))(torch.zeros(2, 2), torch.ones(2, 2))))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) > 0


@pytest.mark.parametrize("missing", ["jsonargparse", "lightning"])
@pytest.mark.parametrize("given", [["--help"], ["train", "--data", "digits", "--output", "x"], []])
def test_the_command_of_a_plain_installation_says_what_to_install(missing, given):
    code = f"""
import runpy, sys
sys.modules[{missing!r}] = None  # as if it were not installed
sys.argv[1:] = {given}
runpy.run_module("tailwise", run_name="__main__")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    message = f"error: the command tailwise needs {missing}, which is not installed: pip install 'tailwise[train]'\n"
    assert result.stderr == message


@pytest.mark.parametrize("part", ["training", "models", "experiments", "report"])
def test_parts_that_need_more_than_a_plain_installation_say_so(part):
    code = f"import sys; sys.modules['timm'] = None; import tailwise.{part}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.endswith(
        f"MissingExtraError: tailwise.{part} needs timm, which is not installed: pip install 'tailwise[train]'\n"
    )


def test_the_console_script_is_the_command_that_says_so():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"tailwise": "tailwise.__main__:main"}
    distributions = packages_distributions()
    for extra, modules in errors._MODULES_OF.items():
        found = {name.lower().replace("_", "-") for module in modules for name in distributions[module]}
        wanted = {re.split(r"[\[>]", requirement)[0] for requirement in project["optional-dependencies"][extra]}
        assert found == wanted - {"tailwise"}, extra
