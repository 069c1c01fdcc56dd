"""The public names are a contract: one that disappears or changes its parameters fails here."""

from __future__ import annotations

import inspect
import subprocess
import sys

import tailwise
from tailwise import losses, metrics


def parameters(function) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_losses_by_name():
    assert losses.available() == (
        *("bce", "rw", "focal", "cb-focal", "ldam", "asl", "r-bce", "ntr", "db", "db-focal", "pr", "apaf", "pg"),
        *("pg-auto", "formula"),
    )
    assert parameters(losses.create) == ["name", "stats", "recipe", "options"]
    assert parameters(losses.MultiLabelLoss.forward) == ["logits", "targets", "mask"]


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
