"""The measurements of a fusion, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fusiondistill.fusing import Fused
from fusiondistill.fusing.material import POINT
from fusiondistill.fusing.measures import ALPHAS
from fusiondistill.merging import chosen_text

__all__ = ["lines"]

NONE = "-"


def lines(found: Fused, names: Sequence[str]) -> Iterator[str]:
    """The lines, table by table; a table without numbers is left out.

    Args:
        names: of the ingredients, in their order.
    """
    if found.chosen:
        yield f"chosen: {chosen_text(found.chosen)}"
    if len(set(found.statistics.values())) > 1:
        mixed, average = (f"{100 * found.statistics[way]:.1f} %" for way in ("mixed", "average"))
        taken = "recomputed" if found.statistics["mixed"] > found.statistics["average"] else "averaged"
        yield (
            f"BatchNorm's statistics: recomputed {mixed} right on held-out images, averaged {average}; they are {taken}"
        )
    if found.distances:
        yield from _table(
            "distance from the base, |x - base| / |base|", ["", "distance"],
            [[name, f"{value:.4f}"] for name, value in found.distances.items()],
        )  # fmt: skip
    if found.pairs:
        title = "pairs: distance |a - b| by the mean length"
        if any(one.cosine is not None for one in found.pairs):
            title += "; cosine of the changes from the base"
        if any(one.barrier is not None for one in found.pairs):
            title += f"; barrier in nats, at {len(ALPHAS)} points between, on at most {POINT} images of each task"
        yield from _table(
            title,
            ["", "distance", "cosine", "barrier"],
            [
                [" - ".join(one.names), f"{one.distance:.4f}", _number(one.cosine, ".3f"), _number(one.barrier, "+.3f")]
                for one in found.pairs
            ],
        )
    if found.merged is None:
        return
    yield from _accuracies(found, names)
    if found.kept:
        shares = [one.share for one in found.kept if one.share is not None]
        body = [
            [f"{one.name}, on {one.task}", f"{100 * one.own:.1f}", f"{100 * one.merged:.1f}",
             NONE if one.share is None else f"{100 * one.share:.1f}"]
            for one in found.kept
        ]  # fmt: skip
        if len(shares) > 1:
            body.append(["mean", "", "", f"{100 * sum(shares) / len(shares):.1f}"])
        yield from _table("kept of each expert's accuracy on its own task, %", ["", "expert", "merged", "kept"], body)


def _accuracies(found: Fused, names: Sequence[str]) -> Iterator[str]:
    assert found.merged is not None
    tasks = list(found.merged.accuracy)
    mean = ["mean"] if len(tasks) > 1 else []
    rows = []
    for name, one in {**found.alone, "(merged)": found.merged}.items():
        shares = [one.accuracy[task] for task in tasks] + ([one.mean] if mean else [])
        gain = f"{round(-100 * found.gains[name], 1) + 0.0:+.1f}" if name in found.gains else NONE
        rows.append([name, *(f"{100 * share:.1f}" for share in shares), gain if name in names else ""])
    title = "right on held-out images, %; left out: how the mean of the merged network changes without it, in points"
    yield from _table(title, ["", *tasks, *mean, "left out"], rows)


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


def _table(title: str, heading: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A title, a heading and rows in columns; a column without a value is left out."""
    columns = [i for i in range(len(heading)) if i == 0 or any(row[i] not in ("", NONE) for row in rows)]
    widths = [max(len(row[i]) for row in (heading, *rows)) for i in columns]
    yield f"\n{title}"
    for row in (heading, *rows):
        first, *rest = [row[i] for i in columns]
        yield f"  {first:<{widths[0]}}" + "".join(f"  {one:>{n}}" for one, n in zip(rest, widths[1:], strict=True))
