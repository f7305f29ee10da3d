"""Real test images under each degradation, and what the base, the expert and the final network said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusiondistill.report.markup import Markup, element, heading, image, joined, scroll
from fusiondistill.report.words import EXPERT, FALLING, MISSING, degradation_title, in_order, method_title

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Example", "chosen", "examples_body", "final_method"]

_BYTES = 3_000_000  # of pictures in a page
_SIDE = 96  # pixels of the page that a small picture is enlarged to
_FINAL = ("fusiondistill-searched", "fusiondistill")

# (base right, final right) -> what to call it; in this order one image of each is shown
_CASES = {
    (False, True): "{base} wrong, {final} right",
    (True, True): "both right",
    (True, False): "{base} right, {final} wrong",
    (False, False): "both wrong",
}


@dataclass(frozen=True)
class Example:
    """One image of the test split under one degradation: its class, its pictures (PNG) and what was said, by level."""

    index: int
    label: str
    pictures: Mapping[int, bytes]
    said: Mapping[int, Mapping[str, str]]

    def right(self, level: int, method: str) -> bool | None:
        """Whether a method named the image's class at a level; None where it is not known."""
        answer = self.said.get(level, {}).get(method)
        return None if answer is None else answer == self.label


def final_method(methods: Sequence[str]) -> str | None:
    """The network that a run is for: the searched distillation, else the published one, else the last row."""
    ours = [name for name in _FINAL if name in methods]
    rest = [name for name in in_order(methods) if not name.startswith(EXPERT) and name != "base"]
    return ours[0] if ours else rest[-1] if rest else None


def chosen(examples: Sequence[Example], level: int, final: str | None) -> list[tuple[str, Example]]:
    """One image of each case at a level, the first in the order of the test split; without answers the first four."""
    found: dict[tuple[bool, bool], Example] = {}
    for one in sorted(examples, key=lambda one: one.index):
        base, ours = one.right(level, "base"), one.right(level, final or "")
        if base is not None and ours is not None:
            found.setdefault((base, ours), one)
    if not found:
        return [("", one) for one in sorted(examples, key=lambda one: one.index)[:4]]
    names = {"base": method_title("base"), "final": method_title(final or "")}
    return [(title.format(**names), found[case]) for case, title in _CASES.items() if case in found]


def examples_body(samples: pa.Table, answers: pa.Table | None, experiments: int = 1) -> Markup:
    """For each degradation a table: images down, levels across, below each image who was right.

    ``experiments``: how many of them share the room that a page has for pictures; each shows an image at least.
    """
    examples = _read(samples, answers)
    methods = {m for of in examples.values() for one in of for said in one.said.values() for m in said}
    final = final_method(list(methods))
    room, parts = _BYTES // max(experiments, 1), []
    for name in in_order(examples):
        levels = sorted({level for one in examples[name] for level in one.pictures}, reverse=name in FALLING)
        hardest = levels[-1]
        rows: list[tuple[str, Example]] = []
        for case, one in chosen(examples[name], hardest, final):
            room -= sum(map(len, one.pictures.values()))
            if room > 0 or not rows:
                rows.append((case, one))
        asked = [m for m in ("base", f"{EXPERT}{name}", final) if m and m in methods]
        parts += [element("h3", degradation_title(name)), _table(name, levels, rows, asked)]
    return joined(element("p", _note(final), class_="note"), *parts) if parts else Markup("")


def _note(final: str | None) -> str:
    text = (
        "Images of the test split as the networks saw them, the mildest level at the left, with what networks of the "
        "first seed said: ✓ right, ✗ wrong. "
    )
    if final:
        text += (
            "For each degradation one image of each case that there is at the hardest level shown, "
            f"{method_title('base')} and {method_title(final)} each right or wrong: the first such image of those that "
            "were kept for this page. They are chosen to show the cases, so how many of them are right says nothing; "
            "the accuracies are in the table."
        )
    return text


def _table(name: str, levels: Sequence[int], rows: Sequence[tuple[str, Example]], asked: Sequence[str]) -> Markup:
    head = element("tr", heading("image"), *(heading(f"level {level}") for level in levels))
    body = []
    for case, one in rows:
        title = element("th", one.label, element("small", case), scope="row")
        body.append(element("tr", title, *(_cell(name, one, level, asked) for level in levels)))
    table = element("table", element("thead", head), element("tbody", *body), class_="examples")
    return scroll(table, f"Examples: {degradation_title(name)}")


def _cell(name: str, one: Example, level: int, asked: Sequence[str]) -> Markup:
    if level not in one.pictures:
        return element("td", MISSING)
    alt = f"{one.label}, image {one.index} of the test split, {degradation_title(name)} at level {level}"
    lines = [_verdict(method, one, level) for method in asked]
    return element("td", image(one.pictures[level], alt, width=_SIDE, height=_SIDE), element("ul", *lines))


def _verdict(method: str, one: Example, level: int) -> Markup:
    right = one.right(level, method)
    if right is None:
        return element("li", f"{MISSING} {_short(method)}")
    mark = element("span", "✓" if right else "✗", class_="right" if right else "wrong")
    word = element("span", " right: " if right else " wrong: ", class_="unseen")
    return element("li", mark, word, " ", element("b", f"{_short(method)}:"), " ", one.said[level][method])


def _short(method: str) -> str:
    return "Expert" if method.startswith(EXPERT) else method_title(method).removesuffix(" (searched)")


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
