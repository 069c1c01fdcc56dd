"""Pages of one file that load nothing: Jinja templates, with style, scripts and Plotly inside."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from tailwise import __version__
from tailwise.files import replacing


@dataclass(frozen=True)
class Fact:
    """A number with its name, and a line on it."""

    name: str
    value: str
    detail: str = ""


def write_page(path: str | Path, template: str, **values: Any) -> None:
    """Write a page, whole or not at all.

    Args:
        path: the HTML file.
        template: name of the template.
        values: what the template shows; strings are escaped.
    """
    text = _environment().get_template(template).render(**values)
    with replacing(path) as temporary:
        # Half of a surrogate pair, which JSON can smuggle into a class name, has no encoding.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tailwise.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # "tojson" escapes <, > and &, so that no text can end the script tag it stands in.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.globals.update(version=__version__, plotly=get_plotlyjs())
    return environment
