"""No row is known by its name: the ids of the built-in methods stand in their table, not in runner or report."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusiondistill.methods import METHODS

ROOT = Path(__file__).parents[1]
BUILT_IN = set(METHODS)
FILES = sorted(
    path
    for folder in ("experiments/fusiondistill_runner", "fusiondistill/report")
    for path in (ROOT / folder).rglob("*.py")
)
KEYED = "fusiondistill/report/published.py"
"""The published figures, which are keyed by ids."""
INPUTS = {"base"}
"""Names of stage inputs that are also ids: allowed where an input is named."""
NAMES_AN_INPUT = (
    "experiments/fusiondistill_runner/planning/networks.py",
    "experiments/fusiondistill_runner/working/merge.py",
    "experiments/fusiondistill_runner/forecasting/paper_schedule.py",
)
"""Files that give an input its name, which :func:`of_inputs` does not see."""


def of_docstrings(tree: ast.AST) -> set[int]:
    """The nodes of texts that are statements of their own, as docstrings are."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def of_inputs(tree: ast.AST) -> set[int]:
    """The nodes that name a stage input: ``inputs["base"]``, ``inputs.get("base")``, ``{**inputs, "base": ...}``."""
    found = set()
    for node in ast.walk(tree):
        text = ast.unparse(node) if isinstance(node, ast.Subscript | ast.Call | ast.Compare) else ""
        if "inputs" in text:
            found |= {
                id(inner) for inner in ast.walk(node) if isinstance(inner, ast.Constant) and inner.value in INPUTS
            }
    return found


def built_in_names(text: str) -> Iterator[tuple[int, str]]:
    """(line, id) of each text in a program that is the id of a built-in method and is not allowed to be."""
    tree = ast.parse(text)
    allowed = of_docstrings(tree) | of_inputs(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in BUILT_IN and id(node) not in allowed:
            yield node.lineno, node.value


def hits(path: Path) -> list[str]:
    found = built_in_names(path.read_text(encoding="utf-8"))
    allowed = INPUTS if str(path.relative_to(ROOT)) in NAMES_AN_INPUT else set()
    return [f"line {line}: {name!r}" for line, name in found if name not in allowed]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_is_the_id_of_a_built_in_method(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    if name == KEYED:
        assert hits(path), "its keys are ids"
    else:
        assert not hits(path)


def test_the_search_finds_ids_and_leaves_what_is_allowed() -> None:
    program = """
def f(inputs, row):
    "base"
    if row == "vanilla" or inputs["base"] or inputs.get("base"):
        return {"expert": 1, "expert-jpeg": 2}, f"{row}", ("base",)
"""
    assert [name for _, name in built_in_names(program)] == ["vanilla", "expert", "base"]
