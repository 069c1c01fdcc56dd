"""The pages and the facts about the project agree with each other."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import yaml

from tailwise import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_page_has_a_place_in_the_site():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    listed = set(re.findall(r"([\w/]+\.md)", nav))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}


def test_the_site_loads_nothing_from_elsewhere():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert site["theme"]["font"] is False
    assert not site.keys() & {"extra_css", "extra_javascript"}


def test_version_and_addresses_are_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["version"] == __version__
    assert re.search(rf"^## \[{re.escape(__version__)}\] - {citation['date-released']}$", changes, re.MULTILINE)
    home = PROJECT["urls"]["Homepage"]
    assert citation["repository-code"] == home
    assert f"repo_url: {home}\n" in site
    assert all(url.startswith(home) for url in PROJECT["urls"].values())
    assert all(url.startswith(home) for url in re.findall(r"^\[[\w.]+\]: (.*)$", changes, re.MULTILINE))


def test_extras_are_described_and_installed_for_tests():
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    extras = PROJECT["optional-dependencies"]
    assert set(re.findall(r"tailwise\[(\w+)\]", page)) == extras.keys() - {"dev", "docs"}
    assert extras["all"] == ["tailwise[demo,figures,hub,tensorboard]"]
    assert extras["dev"][0] == "tailwise[all,docs]"


def test_this_python_is_declared():
    assert f"Programming Language :: Python :: {sys.version_info[0]}.{sys.version_info[1]}" in PROJECT["classifiers"]


def test_what_a_source_distribution_holds_is_there():
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    include = targets["sdist"]["include"]
    assert {"/src", "/tests", "/benchmarks", "/examples", "/docs", "/mkdocs.yml", "/CHANGELOG.md"} <= set(include)
    assert all((ROOT / name.removeprefix("/")).exists() for name in include)


def test_names_of_the_map_are_in_the_files_it_points_to():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.findall(r"\]\((src/[\w/]+\.py)\): `(\w+)`", page)
    assert len(found) >= 10
    for path, name in found:
        assert re.search(rf"^(def|class) {name}\b", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), name
