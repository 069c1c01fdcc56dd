"""What needs an extra that is not installed says so in one line, before anything else happens."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tailwise.cli import main
from tailwise.errors import InputError, MissingExtraError, require_extra


@pytest.mark.parametrize(
    ("module", "extra", "command", "part"),
    [
        ("sklearn", "demo", "train --data digits --output OUT", "the data set digits"),
        ("sklearn", "demo", "compare digits --output OUT", "the data set digits"),
        ("tensorboard", "tensorboard", "train --data labels.csv --output OUT --tensorboard", "--tensorboard"),
        ("matplotlib", "figures", "reproduce voc-mlt --root OUT --figure pg-2", "--figure"),
        (
            *("matplotlib", "figures", "reproduce photos --output OUT"),
            "drawing figures, which --table all leaves out,",
        ),
        ("datasets", "hub", "train --data hf:owner/name --output OUT", "reading hf:owner/name"),
    ],
)
def test_a_command_without_its_extra(
    module: str, extra: str, command: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(command.replace("OUT", str(tmp_path / "out")).split()) == 2
    shown = capfd.readouterr()
    assert shown.err == f"error: {part} needs {module}, which is not installed: pip install 'tailwise[{extra}]'\n"
    assert shown.out == ""


def test_the_error_is_one_of_input_and_of_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError) as raised:
        require_extra("a figure", "figures")
    assert isinstance(raised.value, InputError)
    assert isinstance(raised.value, ModuleNotFoundError)
    assert raised.value.name == "matplotlib"
