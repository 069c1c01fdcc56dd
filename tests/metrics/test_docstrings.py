"""The examples in the docstrings of metrics."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

from tailwise import metrics

MODULES = [f"tailwise.metrics.{module.name}" for module in pkgutil.iter_modules(metrics.__path__)]


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.usefixtures("unchecked")
def test_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
