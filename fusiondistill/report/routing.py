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
    routers: list[tuple[tuple[Routing, ...], list[str]]] = []
    for row in group.rows:
        if said := group.routing.get(row.method):
            same = next((names for of, names in routers if of == said), None)
            if same is None:
                routers.append((said, [row.about.name]))
            else:
                same.append(row.about.name)
    for said, names in routers:
        yield _grid(group, said, names)


def _grid(group: Group, said: Sequence[Routing], names: Sequence[str]) -> Grid:
    known = list(said[0].named)
    body: list[tuple[Entry, ...]] = []
    confused: list[str] = []
    for part in (group, *group.others):
        for degradation in part.degradations:
            clean = CLEAN.get(part.entry(degradation))
            of = [one for one in said if one.degradation == degradation and one.level != clean]
            if not of:
                continue
            shares, chosen = _mean([one.named for one in of]), _mean([one.chosen for one in of])
            off = _off(of, degradation)
            own = degradation in known
            body.append(
                (
                    (short_title(degradation), "" if own else "unseen"),
                    *((f"{100 * shares[name]:.1f}", "") for name in known),
                    (f"{100 * chosen[degradation]:.1f}" if own else MISSING, ""),
                    (MISSING if off is None else f"{off:.1f}", ""),
                )
            )
            wrong = [name for name in known if own and name not in (degradation, _CLEAN) and shares[name] > _CONFUSED]
            confused += [f"{degradation_title(degradation)} from {degradation_title(name)}" for name in wrong]
    titles = (_CLEAN if name == _CLEAN else short_title(name) for name in known)
    heading = ("images of", *(f"named {title}" for title in titles), "own network", "level off by")
    return Grid("What the router sees", heading, tuple(body), _note(names, confused))


def _note(names: Sequence[str], confused: Sequence[str]) -> str:
    text = (
        f"The router of {', '.join(map(printable, names))}: of each degradation's test images, over the measured "
        "levels, the part in % that it gives each name, and the part that the degradation's own network answers. An "
        "image that it names clean goes to the network that is best on clean validation images. Left out are "
        "levels that leave an image as it is; mild ones leave it nearly so. Level off by: the mean distance of the "
        "guessed level where the name is right."
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
