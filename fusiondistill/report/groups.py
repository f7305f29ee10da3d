"""The contents of the report's tables as plain values, without prose or markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fusiondistill.report.methods import Method, base_of, ours_of
from fusiondistill.report.published import AVERAGE, DEGRADATIONS, MODEL, published
from fusiondistill.statistics import Interval, mean_interval

__all__ = ["FULL", "LEVEL", "TRAINED", "Cell", "Column", "Comparison", "Group", "Routing", "Row", "Share"]

TRAINED = "trained"  # the kind of degradation that experts were trained for: the columns of the main table
FULL = "fp32"  # the default precision of an evaluation
LEVEL = 0.05  # a corrected p-value below it calls a difference established


@dataclass(frozen=True)
class Cell:
    """A method's accuracies in percent (or another figure in its own unit), by seed; empty where one is missing."""

    by_seed: Mapping[int, float]

    @property
    def interval(self) -> Interval | None:
        """Mean over seeds with its 95 % interval, in the unit of the values; None for a missing cell."""
        return mean_interval(list(self.by_seed.values())) if self.by_seed else None


@dataclass(frozen=True)
class Row:
    """One method: a cell for each degradation, and the average over all of them.

    ``about`` is the plan's description, ``method`` the id. ``average`` has the seeds for which no degradation is
    missing. ``curves[degradation][seed]`` holds the accuracy in percent at each of the group's measured levels. ``nll``
    (nats) and ``ece`` (percent) are means over levels and degradations like ``average``; ``clean`` is the accuracy in
    percent at levels that leave an image as it is. ``balanced`` is the balanced accuracy in percent like ``average``.
    ``always`` has the class that the row named for every image at every level, by seed; seeds at which it named several
    are left out.
    """

    about: Method
    cells: Mapping[str, Cell]
    average: Cell
    curves: Mapping[str, Mapping[int, Sequence[float]]]
    nll: Cell
    ece: Cell
    clean: Cell
    balanced: Cell = Cell({})
    always: Mapping[int, str] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """The method's id."""
        return self.about.id

    def cell(self, column: str) -> Cell:
        """The cell of a degradation, or of the column of averages (``published.AVERAGE``)."""
        return self.average if column == AVERAGE else self.cells[column]

    @property
    def is_expert(self) -> bool:
        """Whether this is a network for one degradation."""
        return bool(self.about.own)

    @property
    def competes(self) -> bool:
        """Whether the row can be the best of its table: not one for a degradation alone, nor one that is told more."""
        return not self.is_expert and not self.about.told and not self.about.transductive


@dataclass(frozen=True)
class Column:
    """What a column's degradation is: the registry's ``name``, what a level ``means`` with its unit, and ``said``, its
    levels in words where a config gives some of the degradation's. Empty where a plan does not say."""

    name: str = ""
    means: str = ""
    said: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same test images, over the seeds that both have.

    - ``difference``: mean accuracy of a minus that of b, in percentage points.
    - ``low`` and ``high``: its 95 % interval over images, by bootstrap.
    - ``p``: of the sign-flip test over images; ``p_holm``: corrected for all pairs of the group.
    - ``seed_half``: half the 95 % interval of the difference over seeds; None for one seed.
    """

    a: str
    b: str
    images: int
    seeds: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    seed_half: float | None

    @property
    def established(self) -> bool:
        """Whether another draw of test images would hardly have taken the difference away."""
        return self.p_holm < LEVEL

    def seen_from(self, method: str) -> Comparison:
        """The same comparison with ``method``, one of the two, as a."""
        if method == self.a:
            return self
        return replace(self, a=self.b, b=self.a, difference=-self.difference, low=-self.high, high=-self.low)


@dataclass(frozen=True)
class Share:
    """What a row recovers of the gain of ``upper``, an oracle, over ``lower``, the base, at seeds that all three have.

    ``gain`` is the oracle's gain in percentage points, ``gain_low`` and ``gain_high`` its 95 % bootstrap interval over
    images. ``share`` is a fraction of it, with its interval over images from ``low`` to ``high`` and half its interval
    over ``seeds``; None where the gain says nothing, and ``seed_half`` for one seed.
    """

    method: str
    lower: str
    upper: str
    images: int
    seeds: int
    gain: float
    gain_low: float
    gain_high: float
    share: float | None
    low: float | None
    high: float | None
    seed_half: float | None


@dataclass(frozen=True)
class Routing:
    """What a router said of the images of one degradation and seed at one level.

    ``named`` is how many were given each name, ``chosen`` how many each degradation's network answered, ``off`` the
    mean distance of the guessed levels for each name, None without such images.
    """

    degradation: str
    seed: int
    level: int
    named: Mapping[str, int]
    chosen: Mapping[str, int]
    off: Mapping[str, float | None]


@dataclass(frozen=True)
class Group:
    """One table: the rows of one experiment, data set, network, protocol and kind of degradation.

    ``levels`` and ``images`` hold for each degradation its measured levels and the number of test images at each;
    ``spans`` all levels that its mean is over, where known. ``others`` are the tables of the other kinds of
    degradation, with the same rows. ``comparisons`` is None where no pairs were tested. ``precision`` is that of the
    evaluation. ``seeds`` are the planned seeds, ``asked`` the planned figures (method, seed, degradation), None: one
    for each cell and seed. ``select`` says how epochs are chosen ("validation", "last" or "test"), ``training`` on how
    many images and for how many epochs the rows were trained, ``deviations`` how that differs from the published
    experiment, network and protocol apart; each is empty where unknown. ``methods`` are the experiment's, in order.
    ``about`` says what the columns' degradations are, ``size`` how large the images are, like "32 x 32". ``majority``
    is the share of the largest class among the test images in percent, None where unknown. ``shares`` is what rows
    recover of the oracle's gain, ``routing`` what the router of each method that has one said.
    """

    experiment: str
    dataset: str
    model: str
    protocol: str
    kind: str
    degradations: tuple[str, ...]
    levels: Mapping[str, tuple[int, ...]]
    spans: Mapping[str, Sequence[int]]
    images: Mapping[str, int]
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    others: tuple[Group, ...] = ()
    comparisons: tuple[Comparison, ...] | None = None
    precision: str = FULL
    asked: frozenset[tuple[str, int, str]] | None = None
    select: str = ""
    training: str = ""
    deviations: str = ""
    methods: tuple[Method, ...] = ()
    about: Mapping[str, Column] = field(default_factory=dict)
    size: str = ""
    majority: float | None = None
    shares: tuple[Share, ...] = ()
    routing: Mapping[str, tuple[Routing, ...]] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """The table's columns: the degradations, then the average."""
        return (*self.degradations, AVERAGE)

    @property
    def comparable(self) -> bool:
        """Whether figures may be compared with the published ones: the same network, protocol and settings."""
        return self.model == MODEL and self.protocol == "paper" and not self.deviations

    @property
    def missing(self) -> tuple[int, int]:
        """(cells that lack a planned figure, planned cells)."""
        cells = [(row, name) for row in self.rows for name in self.degradations]
        there = {(row.method, seed, name) for row, name in cells for seed in row.cells[name].by_seed}
        all_of_them = {(row.method, seed, name) for row, name in cells for seed in self.seeds}
        asked = all_of_them if self.asked is None else {one for one in self.asked if one[2] in self.degradations}
        return len({(m, d) for m, _, d in asked - there}), len({(m, d) for m, _, d in asked})

    def row(self, method: str) -> Row | None:
        """The row of a method, or None."""
        return next((row for row in self.rows if row.method == method), None)

    def name(self, method: str) -> str:
        """The name that readers see for a method of this table."""
        row = self.row(method)
        return (row.about if row else Method(method)).name

    @property
    def base(self) -> Row | None:
        """The row of the first method that was trained on clean images, or None."""
        found = base_of(row.about for row in self.rows)
        return self.row(found.id) if found else None

    @property
    def ours(self) -> list[Row]:
        """The rows that are trained on all degradations with teachers."""
        ids = {method.id for method in ours_of(row.about for row in self.rows)}
        return [row for row in self.rows if row.method in ids]

    @property
    def leading(self) -> list[Row]:
        """Our rows for a sentence: of more than three the first and the last."""
        return self.ours if len(self.ours) <= 3 else [self.ours[0], self.ours[-1]]

    def published(self, method: str, column: str) -> float | None:
        """The published figure in percent for a cell of this table, or None; an average only of the same columns."""
        if self.kind != TRAINED or (column == AVERAGE and set(self.degradations) != set(DEGRADATIONS)):
            return None
        return published(self.dataset, method, column)

    def interpolated(self, column: str) -> bool:
        """Whether a column's numbers use interpolated levels."""
        if column == AVERAGE:
            return any(self.interpolated(name) for name in self.degradations)
        return bool(self.levels[column]) and len(self.levels[column]) < len(self.spans.get(column, ()))

    def entry(self, degradation: str) -> str:
        """The registry's name of a column's degradation, which its id need not be."""
        return self.about.get(degradation, Column()).name or degradation

    def comparison(self, a: str, b: str) -> Comparison | None:
        """The paired test of two methods as seen from a, or None if there is none."""
        for found in self.comparisons or ():
            if {found.a, found.b} == {a, b}:
                return found.seen_from(a)
        return None

    @property
    def best(self) -> str | None:
        """The method whose average is better than that of every other competing row, by the paired tests; or None."""
        names = [row.method for row in self.rows if row.competes]
        for name in names:
            found = [self.comparison(name, other) for other in names if other != name]
            if found and all(c is not None and c.established and c.difference > 0 for c in found):
                return name
        return None
