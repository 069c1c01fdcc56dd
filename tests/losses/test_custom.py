"""Losses of other projects, by dotted path."""

from __future__ import annotations

import sys

import pytest
import torch

from tailwise.losses import create, create_custom, is_dotted_path

MODULE = '''
import torch
from torch import nn
from tailwise.losses import create

class Scaled(nn.Module):
    """A class of its own."""
    def __init__(self, stats, *, factor=1.0):
        super().__init__()
        self.inner = create("bce", stats)
        self.factor = factor

    def forward(self, logits, targets, mask=None):
        return self.factor * self.inner(logits, targets, mask)

class Learned(nn.Module):
    def __init__(self, stats):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(stats.num_classes))

def factory(stats, gamma):
    return create("focal", stats, gamma=gamma)

def number(stats):
    return 3.0

constant = 5
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A package in the current folder, which is not on the path of modules."""
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "own_losses.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    yield "own_package.own_losses"
    for name in ("own_package.own_losses", "own_package"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("separator", [".", ":"])
def test_classes_and_functions_are_called_with_statistics_and_options(module, separator, stats, batch):
    scaled = create_custom(f"{module}{separator}Scaled", stats, factor=3.0)
    torch.testing.assert_close(scaled(*batch), 3 * create("bce", stats)(*batch))
    made = create_custom(f"{module}{separator}factory", stats, gamma=1.0)
    torch.testing.assert_close(made(*batch), create("focal", stats, gamma=1.0)(*batch))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("{}.Missing", {}, "module '{}' has no class or function 'Missing'"),
        ("{}.constant", {}, "no class or function 'constant'"),
        ("{}.number", {}, "must make a torch.nn.Module, but made a float"),
        ("{}.Learned", {}, "parameters to train"),
        ("{}.Scaled", {"scale": 2.0}, r"cannot be called with \(stats, scale\).*unexpected keyword argument 'scale'"),
        ("{}.factory", {}, "missing 1 required positional argument: 'gamma'"),
        ("no_such_package.losses:Mine", {}, "module 'no_such_package.losses' of .* cannot be imported"),
        ("bce", {}, "not a path of the form"),
    ],
)
def test_what_is_wrong_is_said(module, name, options, message, stats):
    with pytest.raises(ValueError, match=message.format(module)):
        create_custom(name.format(module), stats, **options)


def test_names_of_losses_are_no_dotted_paths():
    assert [is_dotted_path(name) for name in ("db-focal", "bce", "a.b", "a:b", "a.b:c", "a:b:c", "a..b", "./a.b")] == [
        *(False, False, True, True, True, False, False, False)
    ]
