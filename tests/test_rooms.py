"""The runner's rooms: imports go in one direction, and nothing with a common name is installed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

RUNNER = Path(__file__).parents[1] / "experiments" / "fusiondistill_runner"
ROOMS = ("planning", "storage", "working", "nodes", "searching", "driving", "views", "forecasting", "watching")
"""From the bottom to the top: a room imports from itself and from those before it."""
TOP = ("runner", "session", "command", "verbs", "cli")
"""What lies over the rooms: files, and the folder of the verbs."""


def imported(path: Path) -> set[str]:
    """The modules of the runner that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == RUNNER.name:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == RUNNER.name}
    return found


def test_every_file_is_in_a_room() -> None:
    assert {path.name for path in RUNNER.iterdir() if path.is_dir()} - {"__pycache__"} == {*ROOMS, "verbs"}
    assert {path.stem for path in RUNNER.glob("*.py")} - {"__init__"} == {*TOP} - {"verbs"}


@pytest.mark.parametrize("path", sorted(RUNNER.rglob("*.py")), ids=lambda path: str(path.relative_to(RUNNER)))
def test_imports_go_down_only(path: Path) -> None:
    order = {name: place for place, name in enumerate((*ROOMS, *TOP))}
    parts = path.relative_to(RUNNER).with_suffix("").parts
    own = order.get(parts[0], -1)
    for module in imported(path):
        name = module.split(".")[1]
        if name in order and parts[0] != name:
            allowed = order[name] < own or (parts[0] in TOP and name in TOP)
            assert allowed, f"{path.relative_to(RUNNER)} imports {module}, which is above it"


def test_no_room_is_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    modules = {".".join(path.relative_to(RUNNER.parent).with_suffix("").parts): path for path in RUNNER.rglob("*.py")}
    for name, path in modules.items():
        found = {m if m in modules else m.rpartition(".")[0] for m in imported(path)}
        graph[name] = (found & modules.keys()) - {name}
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle of imports: {' -> '.join((*path, name))}"
        if name not in done:
            for other in graph[name]:
                walk(other, (*path, name))
            done.add(name)

    for name in graph:
        walk(name, ())
