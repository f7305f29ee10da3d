"""The table of what routers say of the test images: what they name under which degradation, how far levels are off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fusiondistill.report.grid import Entry, Grid
from fusiondistill.report.groups import Group, Routing
from fusiondistill.report.words import CLEAN, MISSING, degradation_title, printable, short_title

__all__ = ["routing_grids"]

_CLEAN = "clean"
_CONFUSED = 0.25
"""Of a degradation's images: from here on a wrong name is told below the table."""


def routing_grids(group: Group) -> Iterator[Grid]:
    """A table for each router of a group; rows that have the same one share it."""
    shown: dict[tuple[tuple[Entry, ...], ...], tuple[Sequence[Routing], list[str]]] = {}
    for row in group.rows:
        if said := group.routing.get(row.method):
            body = tuple(_body(group, said))
            shown.setdefault(body, (said, []))[1].append(row.about.name)
    for rows, (first, names) in shown.items():
        known = list(first[0].named)
        titles = (_CLEAN if name == _CLEAN else short_title(name) for name in known)
        heading = ("images of", *(f"named {title}" for title in titles), "own network", "level off by")
        yield Grid("What the router sees", heading, rows, _note(names, _confused(group, first)))


def _cells(group: Group, said: Sequence[Routing]) -> Iterator[tuple[str, list[Routing]]]:
    """(degradation, what the router said of it at levels that change an image) for each column of all tables."""
    for part in (group, *group.others):
        for degradation in part.degradations:
            clean = CLEAN.get(part.entry(degradation))
            if of := [one for one in said if one.degradation == degradation and one.level != clean]:
                yield degradation, of


def _unchanged(group: Group, said: Sequence[Routing]) -> list[Routing]:
    """What the router said at the levels that leave an image as it is."""
    entries = {name: part.entry(name) for part in (group, *group.others) for name in part.degradations}
    clean = {name: CLEAN[entry] for name, entry in entries.items() if entry in CLEAN}
    return [one for one in said if clean.get(one.degradation) == one.level]


def _body(group: Group, said: Sequence[Routing]) -> Iterator[tuple[Entry, ...]]:
    """A row for images as they are, where there are such, and one for each degradation."""
    known = list(said[0].named)
    if unchanged := _unchanged(group, said):
        shares = _mean([one.named for one in unchanged])
        yield (_CLEAN, ""), *((f"{100 * shares[name]:.1f}", "") for name in known), (MISSING, ""), (MISSING, "")
    for degradation, of in _cells(group, said):
        shares, chosen = _mean([one.named for one in of]), _mean([one.chosen for one in of])
        off, own = _off(of, degradation), degradation in known
        yield (
            (short_title(degradation), "" if own else "unseen"),
            *((f"{100 * shares[name]:.1f}", "") for name in known),
            (f"{100 * chosen[degradation]:.1f}" if own else MISSING, ""),
            (MISSING if off is None else f"{off:.1f}", ""),
        )


def _confused(group: Group, said: Sequence[Routing]) -> list[str]:
    """The degradations that a router often takes for others, in words."""
    found = []
    for degradation, of in _cells(group, said):
        shares = _mean([one.named for one in of])
        others = [name for name in shares if degradation in shares and name not in (degradation, _CLEAN)]
        wrong = [name for name in others if shares[name] > _CONFUSED]
        found += [f"{degradation_title(degradation)} from {degradation_title(name)}" for name in wrong]
    return found


def _note(names: Sequence[str], confused: Sequence[str]) -> str:
    text = (
        f"The router of {', '.join(map(printable, names))}. A row is the test images of one degradation, over the "
        f"measured levels; of {', '.join(map(short_title, CLEAN))} without the one that leaves an image as it is: "
        "these are the row clean (of others it is there, and may be named clean). The columns are the parts in % that "
        "the router gives each name, and the part that the degradation's own network answers. An image that the router "
        "names clean goes to the network that is best on clean validation images. Level off by: the mean distance of "
        "the guessed level where the name is right."
    )
    return text + (f" It hardly tells {'; '.join(confused)}." if confused else "")


def _mean(counts: Sequence[Mapping[str, int]]) -> Mapping[str, float]:
    """Name -> its part of the images, the mean over levels and seeds."""
    parts = [{name: count / sum(one.values()) for name, count in one.items()} for one in counts]
    return {name: sum(one[name] for one in parts) / len(parts) for name in parts[0]}


def _off(of: Sequence[Routing], degradation: str) -> float | None:
    """The mean distance of the guessed levels over the images that were named right; None without such."""
    pairs = [(one.named[degradation], off) for one in of if (off := one.off.get(degradation)) is not None]
    images = sum(count for count, _ in pairs)
    return sum(count * off for count, off in pairs) / images if images else None
