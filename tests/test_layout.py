"""Arrows point one way: a room of the house imports only from those before it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import gflow

ROOT = Path(gflow.__file__).parent
# Foundations first. A room is a module or a folder of gflow.
ROOMS = [
    "status", "interrupts", "lapack", "clocks", "losses", "charts", "validate", "observe", "datasets", "flow",
    "plateaus", "falls", "modified", "solvers", "driver", "kinks", "models", "limits", "mirror", "mixed_units",
    "turned", "symmetric", "split", "aligned", "graded", "trajectory", "invariance", "memory_maps", "run", "solve",
    "descent", "metrics", "precise", "sweeps", "plots", "explorer", "studies", "cli",
]  # fmt: skip
# Imported when used: a check of separability asks the linear program.
LATER = {("validate", "limits")}


def imports(file: Path) -> Iterator[str]:
    """The rooms that a module imports from, inside of functions too."""
    package = ("gflow", *file.parent.relative_to(ROOT).parts)
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = package[: len(package) - node.level + 1] if node.level else ()
        path = (*base, *(node.module.split(".") if node.module else ()))
        if path[:1] == ("gflow",):
            yield from [path[1]] if len(path) > 1 else [alias.name for alias in node.names]


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room):
    place = ROOT / room
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    found = {other for file in files for other in imports(file)} & set(ROOMS) - {room}
    above = {other for other in found if ROOMS.index(other) > ROOMS.index(room)}
    assert {(room, other) for other in above} <= LATER


def test_every_room_is_listed():
    there = {p.stem for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert there - {"__init__"} == set(ROOMS)


def test_the_guide_lists_rooms_in_their_order():
    table = re.findall(r"^\| (`[^|]*`) \|", (ROOT.parent / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert [room for row in table for room in re.findall(r"`(\w+)`", row)] == ROOMS


MOST_LINES = 400


def test_files_are_short_or_say_why():
    """One idea a module; a longer one has a sentence in its docstring that begins with "Long because"."""
    long = [
        file.relative_to(ROOT).as_posix()
        for file in sorted(ROOT.rglob("*.py"))
        if len((text := file.read_text()).splitlines()) > MOST_LINES
        and "Long because" not in (ast.get_docstring(ast.parse(text)) or "")
    ]
    assert not long
