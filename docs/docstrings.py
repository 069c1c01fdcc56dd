"""Docstrings for the API reference: roles such as ``:func:`name``` become links, and LaTeX becomes MathML."""

from __future__ import annotations

import re
from typing import Any

import griffe
from latex2mathml.converter import convert

_FORMULA = re.compile(r":math:`([^`]+)`")
_BLOCK = re.compile(r"^( *)\.\. math::(.*(?:\n\1 +\S.*)*)", re.MULTILINE)
_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(?P<short>~?)(?P<target>[^`]+)`")


class Roles(griffe.Extension):
    """Rewrites docstrings when they are read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _rewrite(obj.docstring.value)


def _rewrite(text: str) -> str:
    text = _BLOCK.sub(lambda match: match[1] + _math(match[2], "block"), text)
    text = _FORMULA.sub(lambda match: _math(match[1], "inline"), text)
    return _ROLE.sub(_link, text)


def _math(formula: str, display: str) -> str:
    return convert(" ".join(formula.split()), display=display)


def _link(match: re.Match[str]) -> str:
    # Optional: what has no place on the site is shown as code.
    target = match["target"]
    shown = target.rsplit(".", 1)[-1] if match["short"] else target
    return f'<autoref optional identifier="{target}"><code>{shown}</code></autoref>'
