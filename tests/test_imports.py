"""Imports point one way: entry scripts -> pipeline, training, conversion -> models, sampling, ... -> diffusion, ....

The table says which rooms each room may import, besides itself; it is what docs and reviews refer to.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "diffbir_jax"

FLOOR = {"diffusion", "imaging", "metrics"}
ROOMS = {
    **{room: set() for room in (*FLOOR, "cli")},
    "models": {"imaging", "metrics"},
    "sampling": FLOOR,
    "data": FLOOR | {"cli"},
    "text": FLOOR,
    "sharding": FLOOR,
    "checkpoint": FLOOR | {"sharding"},
    "weights": FLOOR | {"checkpoint", "cli"},
    "defaults": {"sampling"},
    "loading": {"checkpoint", "models", "weights"},
    "faces": FLOOR | {"models"},
    "conversion": FLOOR | {"checkpoint", "models"},
}
ROOMS["plan"], ROOMS["programs"] = set(), {"sharding"}
ROOMS["stages"] = FLOOR | {"models", "sampling"}
ROOMS["frames"] = FLOOR | {"models", "plan"}
ROOMS["stage2"] = FLOOR | {"models", "sampling", "text"}
ROOMS["packs"] = ROOMS["stage2"] | {"frames", "plan", "programs", "stage2", "stages"}
ROOMS["flags"] = {"cli", "defaults", "loading", "models", "sampling"}
ROOMS["first_use"] = {"conversion", "loading", "models", "weights"}
MIDDLE = set(ROOMS)
ROOMS |= {"training": MIDDLE - {"conversion"}, "planner": MIDDLE, "pipeline": MIDDLE | {"planner"}}
ROOMS["batch"] = MIDDLE | {"planner", "pipeline"}
ROOMS["evaluation"] = ROOMS["batch"] | {"batch"}
# Checks everything; nothing imports it.
ROOMS["parity"] = set(ROOMS)
# Libraries that only the named rooms may import.
# The preview of data, a command, reads configurations.
CONFINED = {"flax": {"models"}, "torch": {"conversion"}, "tensorflow": set(), "ml_collections": {"data"}}

MODULES = sorted((ROOT / PACKAGE).rglob("*.py"))


def room_of(path: Path) -> str:
    """The room of a module: its folder or, at the top, its own name; "" for the package's __init__."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, `from a import b` as "a.b"; lazy imports included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by the full name, not relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    """The rooms of the package that a file imports."""
    names = [name.split(".") for name in imported(path)]
    return {
        name[1] for name in names if name[0] == PACKAGE and len(name) > 1 and not name[1].startswith("__")
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_only_what_lies_below(path: Path) -> None:
    room = room_of(path)
    assert room == "" or room in ROOMS, f"{room}: a new room; give it its place in the table of this test"
    excess = rooms_imported(path) - ROOMS.get(room, set(ROOMS)) - {room}
    assert not excess, f"{path.relative_to(ROOT)} ({room}) must not import {sorted(excess)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    libraries = {name.split(".")[0] for name in imported(path)}
    for library in libraries & CONFINED.keys():
        assert room_of(path) in CONFINED[library], f"{path.relative_to(ROOT)} must not import {library}"


def test_the_package_imports_no_script() -> None:
    scripts = {path.stem for path in ROOT.glob("*.py")} | {"benchmarks", "configs", "scripts", "tests"}
    for path in MODULES:
        assert not {name.split(".")[0] for name in imported(path)} & scripts, path


def test_configs_are_data() -> None:
    for path in (ROOT / "configs").glob("*.py"):
        libraries = {name.split(".")[0] for name in imported(path)}
        assert libraries <= {"configs", "ml_collections"}, f"{path.name} imports {sorted(libraries)}"


def test_the_table_has_no_cycle() -> None:
    below: set[str] = set()
    rooms = dict(ROOMS)
    while rooms:
        ready = {room for room, lower in rooms.items() if lower <= below}
        assert ready, f"cycle among {sorted(rooms)}"
        below |= ready
        rooms = {room: lower for room, lower in rooms.items() if room not in ready}
