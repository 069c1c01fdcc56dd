"""The order of the package's layers: imports point one way, and form no circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import tailwise

PACKAGE = Path(tailwise.__file__).parent

# From what stands by itself to what people run. A part imports from layers before its own, not from others of its own
# layer but at the ends, and the package itself names what each part offers.
LAYERS = (
    ("errors", "files", "spelling", "shapes", "progress", "loops", "options", "command_line", "records"),
    ("matrix", "labels"),
    ("losses", "data"),
    ("metrics",),
    ("models",),
    ("training",),
    ("model", "experiments"),
    ("report",),
    ("commands",),
    ("api", "cli"),
    ("__main__",),
)
INDEPENDENT = ("losses", "data", "model", "experiments", "api", "cli")
LAYER_OF = {part: layer for layer, parts in enumerate(LAYERS) for part in parts}


def module_names() -> dict[str, Path]:
    """Every module of the package by its dotted name without the package's own, "" for the package itself."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports_of(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a module imports anywhere, but for type checking only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("tailwise.") for alias in node.names if alias.name[:9] == "tailwise.")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tailwise":
            base = node.module.removeprefix("tailwise").removeprefix(".")
            for alias in node.names:
                within = f"{base}.{alias.name}".removeprefix(".")
                yield within if within in modules else base


def graph() -> dict[str, set[str]]:
    modules = module_names()
    return {name: set(imports_of(path, modules)) - {name} for name, path in modules.items()}


def test_every_part_has_its_layer() -> None:
    parts = {name.split(".")[0] for name in module_names() if name}
    assert parts == LAYER_OF.keys()


def test_imports_point_one_way() -> None:
    wrong = []
    for name, imported in graph().items():
        part = name.split(".")[0]
        for other in imported:
            other_part = other.split(".")[0]
            if not (part and other_part) or part == other_part:
                continue
            is_beside = LAYER_OF[other_part] == LAYER_OF[part] and part in INDEPENDENT
            if LAYER_OF[other_part] > LAYER_OF[part] or is_beside:
                wrong.append(f"{name} imports {other}")
    assert wrong == []


def test_imports_form_no_circle() -> None:
    edges = {name: {other for other in imported if other} for name, imported in graph().items() if name}
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        raise AssertionError(f"modules import each other in a circle: {' -> '.join(error.args[1])}") from None


def test_no_two_modules_have_one_name() -> None:
    seen: dict[str, str] = {}
    twice = []
    for name in module_names():
        stem = name.rpartition(".")[2]
        if stem in seen and not name.startswith("commands."):  # a command has the name of what it does
            twice.append(f"{seen[stem]} and {name}")
        if not name.startswith("commands."):
            seen[stem] = name
    assert twice == []
