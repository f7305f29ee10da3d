"""Real test images under each degradation, with the answers of the base, the expert and the final network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusiondistill.report.blocks import Block, Shot, Table, Text, named
from fusiondistill.report.methods import Method, Methods, base_of, final_of
from fusiondistill.report.words import FALLING, MISSING, degradation_title, in_order

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Example", "chosen", "examples_blocks"]

_BYTES = 3_000_000  # of pictures in a page

# (base right, final right) -> what to call it; in this order one image of each is shown
_CASES = {
    (False, True): "{0} wrong, {1} right",
    (True, True): "both right",
    (True, False): "{0} right, {1} wrong",
    (False, False): "both wrong",
}


@dataclass(frozen=True)
class Example:
    """One image of the test split under one degradation: its class, and by level its picture (PNG) and answers."""

    index: int
    label: str
    pictures: Mapping[int, bytes]
    said: Mapping[int, Mapping[str, str]]

    def right(self, level: int, method: Method) -> bool | None:
        """Whether a method named the image's class at a level; None where it is not known."""
        answer = self.said.get(level, {}).get(method.id)
        return None if answer is None else answer == self.label


def chosen(
    examples: Sequence[Example], level: int, base: Method | None, final: Method | None
) -> list[tuple[str, Example]]:
    """One image of each case at a level, the first in the order of the test split; without answers the first four."""
    found: dict[tuple[bool, bool], Example] = {}
    ordered = sorted(examples, key=lambda one: one.index)
    for one in ordered if base and final else ():
        assert base and final
        theirs, ours = one.right(level, base), one.right(level, final)
        if theirs is not None and ours is not None:
            found.setdefault((theirs, ours), one)
    if not found or not base or not final:
        return [("", one) for one in ordered[:4]]
    names = (base.name, final.name)
    return [(title.format(*names), found[case]) for case, title in _CASES.items() if case in found]


def examples_blocks(samples: pa.Table, answers: pa.Table | None, methods: Methods, experiments: int = 1) -> list[Block]:
    """For each degradation a table: images down, levels across, below each image which methods were right.

    ``experiments``: how many of them share the room that a page has for pictures; each shows an image at least.
    """
    examples = _read(samples, answers)
    asked = methods.sorted(m for of in examples.values() for one in of for said in one.said.values() for m in said)
    base, final = base_of(asked), final_of(asked)
    room = _BYTES // max(experiments, 1)
    blocks: list[Block] = []
    for name in in_order(examples):
        levels = sorted({level for one in examples[name] for level in one.pictures}, reverse=name in FALLING)
        rows: list[tuple[str, Example]] = []
        for case, one in chosen(examples[name], levels[-1], base, final):
            room -= sum(map(len, one.pictures.values()))
            if room > 0 or not rows:
                rows.append((case, one))
        own = [method for method in asked if method.own == name]
        shown = [method for method in (base, *own, final) if method]
        blocks += named(degradation_title(name), [_table(name, levels, rows, shown)])
    return [Text(_note(base, final)), *blocks] if blocks else []


def _note(base: Method | None, final: Method | None) -> str:
    text = (
        "Images of the test split as the networks saw them, the mildest level at the left, with what networks of the "
        "first seed said: ✓ right, ✗ wrong. "
    )
    if base and final:
        text += (
            "For each degradation one image of each case that there is at the hardest level shown, "
            f"{base.name} and {final.name} each right or wrong: the first such image of those that were kept for this "
            "page. They are chosen to show the cases, so how many of them are right says nothing; the accuracies are "
            "in the table."
        )
    return text


def _table(name: str, levels: Sequence[int], rows: Sequence[tuple[str, Example]], asked: Sequence[Method]) -> Table:
    heading = ("image", *(f"level {level}" for level in levels))
    body = [((one.label, case), *(_shot(name, one, level, asked) for level in levels)) for case, one in rows]
    return Table(f"Examples: {degradation_title(name)}", heading, body, "examples")


def _shot(name: str, one: Example, level: int, asked: Sequence[Method]) -> Shot | str:
    """The picture at a level, with a line for each method's answer."""
    if level not in one.pictures:
        return MISSING
    alt = f"{one.label}, image {one.index} of the test split, {degradation_title(name)} at level {level}"
    said = one.said.get(level, {})
    verdicts = [(one.right(level, method), method.short, said.get(method.id, "")) for method in asked]
    return Shot(base64.b64encode(one.pictures[level]).decode(), alt, verdicts)


def _read(samples: pa.Table, answers: pa.Table | None) -> dict[str, list[Example]]:
    """degradation -> its examples."""
    said: dict[tuple[str, int], dict[int, dict[str, str]]] = {}
    for row in answers.to_pylist() if answers is not None else ():
        of = said.setdefault((row["degradation"], row["index"]), {})
        of.setdefault(row["level"], {})[row["method"]] = row["said"]
    found: dict[str, dict[int, tuple[str, dict[int, bytes]]]] = {}
    for row in samples.to_pylist():
        if row["image"]:
            of_image = found.setdefault(row["degradation"], {}).setdefault(row["index"], (row["label"], {}))
            of_image[1][row["level"]] = row["image"]
    return {
        name: [Example(i, label, pictures, said.get((name, i), {})) for i, (label, pictures) in images.items()]
        for name, images in found.items()
    }
