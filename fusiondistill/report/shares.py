"""The table of what each row recovers of the oracle's gain over the base."""

from __future__ import annotations

from fusiondistill.report.answers import marked_name
from fusiondistill.report.grid import Entry, Grid
from fusiondistill.report.groups import Group, Share
from fusiondistill.report.words import MISSING

__all__ = ["share_grid"]


def share_grid(group: Group) -> Grid | None:
    """A row for each method with its share in percent and its intervals; None where no share is known."""
    known = {one.method: one for one in group.shares}
    rows = [row for row in group.rows if row.method in known]
    if not rows:
        return None
    several = any(known[row.method].seed_half is not None for row in rows)
    heading = ("", "share, %", "95 % over images", *(["± over seeds"] if several else []))
    body = tuple(((marked_name(row), ""), *_entries(known[row.method], several)) for row in rows)
    if all(known[row.method].share is None for row in rows):
        body = ()
    oracle = group.name(known[rows[0].method].upper)
    return Grid(f"Share of the gain of {oracle}", heading, body, _note(group, [known[row.method] for row in rows]))


def _entries(one: Share, several: bool) -> tuple[Entry, ...]:
    if one.share is None or one.low is None or one.high is None:
        return ((MISSING, ""),) * (3 if several else 2)
    half = (f"{100 * one.seed_half:.1f}" if one.seed_half is not None else MISSING, "")
    return (
        (f"{100 * one.share:.1f}", ""),
        (f"{100 * one.low:.1f} .. {100 * one.high:.1f}", ""),
        *([half] if several else []),
    )


def _note(group: Group, shares: list[Share]) -> str:
    first = shares[0]
    base, oracle = group.name(first.lower), group.name(first.upper)
    seeds = f", mean of {first.seeds} seeds" if first.seeds > 1 else ", one seed"
    text = (
        f"{oracle}, which is told the degradation, is {first.gain:+.1f} points above {base} ({first.gain_low:.1f} .. "
        f"{first.gain_high:.1f} over images{seeds}). A row's share is its own gain over {base} in percent of that: the "
        "same images, bootstrapped in pairs"
    )
    if any(one.seed_half is not None for one in shares):
        text += "; ±: half the 95 % interval over seeds, of a ratio of means (Cochran 1977)"
    if all(one.share is None for one in shares):
        return f"{text}. {oracle} may gain nothing, and a share of that says nothing."
    told = [row.about.name for row in group.rows if row.about.told and row.method != first.upper]
    text += f". Told the degradation, too: {', '.join(told)}" if told else ""
    return f"{text}."
