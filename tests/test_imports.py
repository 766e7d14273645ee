"""Imports point one way: cli -> evaluation -> batch -> restoration, conversion -> models, sampling -> imaging, metrics.

The table says which rooms each room may import, besides itself; it is what docs and reviews refer to.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "diffbir_jax"

FLOOR = {"console", "diffusion", "files", "imaging", "metrics"}
ROOMS = {
    **{room: set() for room in ("console", "diffusion")},
    **{room: {"console"} for room in ("files", "metrics")},
    "imaging": {"console", "files"},
    "models": {"console", "files", "imaging", "metrics"},
    "sampling": FLOOR,
    "data": FLOOR,
    "text": FLOOR,
    "sharding": FLOOR,
    "weights": FLOOR | {"models", "sharding"},
    "conversion": FLOOR | {"models", "weights"},
}
LOWER = set(ROOMS)
ROOMS["restoration"] = LOWER
ROOMS["faces"] = {"console", "files", "imaging", "models", "restoration", "sampling", "weights"}
ROOMS["training"] = LOWER - {"conversion"} | {"restoration"}
ROOMS["batch"] = LOWER | {"restoration", "faces"}
ROOMS["evaluation"] = ROOMS["batch"] | {"batch"}
ROOMS["serve"] = ROOMS["batch"] | {"batch"}
ROOMS["web"] = {"batch", "console", "serve"}
# Checks everything.
ROOMS["parity"] = set(ROOMS)
# Starts every program.
ROOMS["cli"] = set(ROOMS)
ROOMS["__main__"] = {"cli"}
# Libraries that only the named rooms may import.
# Commands read configurations by one reader.
CONFINED = {
    "flax": {"models"},
    "torch": set(),
    "tensorflow": set(),
    "ml_collections": {"console"},
}

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


def test_rooms_import_only_what_lies_below() -> None:
    rooms = {room_of(path) for path in MODULES} - {""}
    assert rooms == ROOMS.keys(), "give each room its row in the table of this test, and no other"
    excess = {
        str(path.relative_to(ROOT)): sorted(more)
        for path in MODULES
        if (room := room_of(path)) and (more := rooms_imported(path) - ROOMS[room] - {room})
    }
    assert not excess, f"these must not import these rooms: {excess}"


def test_libraries_stay_in_their_rooms() -> None:
    for path in MODULES:
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
