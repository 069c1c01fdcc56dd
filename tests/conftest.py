"""Shared fixtures. Shape annotations are checked at run time in every test (jaxtyping with beartype)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

from tests import checker

checked = install_import_hook(
    ["tailwise.labels", "tailwise.matrix", "tailwise.losses", "tailwise.metrics", "tailwise.data"],
    f"{checker.__name__}.typechecked",
).hook
is_checked = checked.should_instrument
# What Numba and Triton compile must be the functions themselves.
checked.should_instrument = lambda name: is_checked(name) and not name.endswith(("_loops", "_kernels"))

# Operations on test-sized tensors are too short to share: threads would wait for each other.
torch.set_num_threads(1)

# Numba numbers the files it keeps without looking at what another process keeps at the same moment; it reads this
# when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    kept = Path(__file__).parents[1] / ".pytest_cache" / f"numba-{os.environ['PYTEST_XDIST_WORKER']}"
    os.environ.setdefault("NUMBA_CACHE_DIR", str(kept))

# How long a case takes is up to the machine and what else it does.
settings.register_profile("tailwise", deadline=None)
settings.load_profile("tailwise")

SHARED = Path(os.environ.get("TAILWISE_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photographs, official label lists and weights; skips where it is not on the machine."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the folder with the real photographs and weights is not beside the project on this machine")
    return SHARED


@pytest.fixture(scope="session")
def photos(shared: Path) -> Path:
    """The CSV of real photographs: columns image, split (train_lt, test, pool, unused) and labels."""
    return shared / "data" / "photos" / "labels.csv"


@pytest.fixture(scope="session")
def backbone_weights(shared: Path) -> Path:
    """ImageNet weights of timm's mobilenetv2_100 with ``pad_type="same"``, mean = std = .5."""
    return shared / "weights" / "mobilenetv2_100_in1k_same.safetensors"


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server on this machine that takes connections and never says a word."""
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(params=["refusing", "silent"])
def unreachable(request: pytest.FixtureRequest, silent: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The address of a hub that cannot be reached, and why."""
    monkeypatch.setattr("tailwise.data.download._SECONDS_TO_ANSWER", 0.2)
    found = {"refusing": ("http://127.0.0.1:9", "Connection refused"), "silent": (silent, "no answer within 0 s")}
    return found[request.param]


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Turn the shape and type checks off: for what only users without them reach, and for compiled code."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
