"""The stored figures of one row at one level, and what follows from those of all levels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

__all__ = ["Count", "always_named", "majority_share"]


class Count(NamedTuple):
    """The figures at one level: counts, mean negative log-likelihood in nats, the other figures as fractions.

    ``majority`` counts the images of the largest class, ``said_times`` those for which ``said`` was named, the class
    that was named most often.
    """

    right: int
    seen: int
    nll: float | None = None
    ece: float | None = None
    balanced: float | None = None
    majority: int | None = None
    said: str | None = None
    said_times: int | None = None

    def with_shard(self, right: int, seen: int) -> Count:
        """Add a shard's counts. The other figures become None, since those of shards do not add up."""
        return Count(self.right + right, self.seen + seen)


def majority_share(counts: Iterable[Count]) -> float | None:
    """The share of the largest class in percent: of the first counts that say so, since all are of the same images."""
    return next((100 * count.majority / count.seen for count in counts if count.majority is not None), None)


def always_named(by_degradation: Iterable[Mapping[int, Sequence[Count]]]) -> dict[int, str]:
    """Seed -> the class that was named for every image at every level; seeds at which there were several are left out.

    Args:
        by_degradation: of each degradation seed -> the counts at its levels.
    """
    named: dict[int, set[str | None]] = {}
    for by_seed in by_degradation:
        for seed, counts in by_seed.items():
            named.setdefault(seed, set()).update(c.said if c.said_times == c.seen else None for c in counts)
    return {seed: said for seed, of in named.items() if len(of) == 1 and (said := next(iter(of))) is not None}
