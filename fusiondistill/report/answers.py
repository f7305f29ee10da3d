"""Rows that name one class for every image, and the share of the largest class, in words."""

from __future__ import annotations

from fusiondistill.report.groups import Group, Row
from fusiondistill.report.words import printable

__all__ = ["ONE_CLASS", "always", "beside", "classes_note", "marked_name", "together_note"]

_TOGETHER = "(transductive)"
ONE_CLASS = "(one class)"
"""Marks a row in plain text that names one class for every image."""


def always(row: Row) -> str:
    """What a row names for every image at every level: 'always says "cat"'; empty where it names several classes."""
    return f"always says {_named(row)}" if row.always else ""


def _named(row: Row) -> str:
    """The only class, or that of each seed that names one alone: '"cat" with 1 of 3 seeds'."""
    seeds = {seed for cell in row.cells.values() for seed in cell.by_seed}
    part = f" with {len(row.always)} of {len(seeds)} seeds" if len(row.always) < len(seeds) else ""
    return " or ".join(f'"{printable(said)}"' for said in dict.fromkeys(row.always.values())) + part


def marked_name(row: Row) -> str:
    """A row's name in plain text, marked where it names one class for every image, or looks at several together."""
    marks = [_TOGETHER] * row.about.transductive + [ONE_CLASS] * bool(row.always)
    return " ".join([row.about.name, *marks])


def beside(row: Row) -> list[str]:
    """What stands beside a row's name: what it is told, and what it always says."""
    told = ["told the degradation"] * row.about.told + ["transductive"] * row.about.transductive
    return told + [always(row)] * bool(row.always)


def together_note(group: Group) -> str:
    """What the mark of rows says that look at several images together; "" without such rows."""
    marked = [row.about.name for row in group.rows if row.about.transductive]
    if not marked:
        return ""
    return (
        f"{_TOGETHER}: {', '.join(marked)} looks at several test images of one degradation and level together, so it "
        "does not compete with rows that are told nothing."
    )


def classes_note(group: Group) -> str:
    """What always naming the largest class would give, and which rows name one class alone; "" where unknown."""
    if group.majority is None:
        return ""
    said: dict[str, list[str]] = {}
    for row in (row for row in group.rows if row.always):
        said.setdefault(_named(row), []).append(row.about.name)
    marked = "; ".join(f"{text} ({', '.join(names)})" for text, names in said.items())
    note = f"Always naming the largest class would give {group.majority:.1f} %."
    return note + (f" These rows name one class for every image {ONE_CLASS}: {marked}." if marked else "")
