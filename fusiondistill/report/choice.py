"""The best single network: chosen on validation images, then its accuracy on the test split."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusiondistill import NAME
from fusiondistill.counting import counted
from fusiondistill.report.answers import always, marked_name
from fusiondistill.report.blocks import Block, Section, Terms, Text, grid_blocks
from fusiondistill.report.comparisons import listed
from fusiondistill.report.grid import Grid, escaped, wrapped
from fusiondistill.report.groups import Cell, Group, Row
from fusiondistill.report.methods import Method, Methods
from fusiondistill.report.tables import cell_text
from fusiondistill.report.words import MISSING, printable

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "SCHEMA", "Candidate", "Choice", "choice_blocks", "choice_lines", "choice_markdown", "choice_sections", "choices",
]  # fmt: skip

SCHEMA = {
    **dict.fromkeys(("same", "experiment", "model", "method"), "string"),
    "seed": "int64",
    **dict.fromkeys(("network", "place", "plugin", "why"), "string"),
    **dict.fromkeys(("any_size", "foreign"), "bool"),
    **dict.fromkeys(("right", "seen", "clean_right", "clean_seen"), "int64"),
}
"""A row for each network that may be chosen.

``same``: equal where two networks were judged on the same images in the same way; ``network``: its stage directory;
``place``: where it lies under a stable name, else that directory; ``plugin``: the file that registers it, "" for a
built-in; ``any_size``: whether photos of any size are fitted to it; ``foreign``: whether it rests on a checkpoint from
elsewhere; ``right`` of ``seen`` images under degradations and ``clean_right`` of ``clean_seen`` clean ones, null while
the network is not judged. A row with ``why`` instead says why an experiment has no such networks.
"""


FEW = 4
"""Choices that are said in full."""
_FOREIGN = "It rests on a checkpoint from elsewhere, which may have trained on the validation images."


@dataclass(frozen=True)
class Candidate:
    """A row of the table whose networks were judged on validation images: one network for each seed."""

    experiment: str
    model: str
    about: Method
    group: Group | None
    """The table that its row stands in."""
    seeds: Mapping[int, Mapping[str, Any]]

    @property
    def row(self) -> Row | None:
        """Its figures on the test split."""
        return self.group.row(self.about.id) if self.group else None

    @property
    def finished(self) -> bool:
        """Whether the networks of all seeds are judged."""
        return all(one["seen"] for one in self.seeds.values())

    def validation(self, part: str = "") -> Cell:
        """Percent right on validation images by seed; ``clean_``: on clean ones."""
        seen = {seed: one for seed, one in self.seeds.items() if one[f"{part}seen"]}
        return Cell({seed: 100 * one[f"{part}right"] / one[f"{part}seen"] for seed, one in seen.items()})

    @property
    def test(self) -> Cell:
        """Percent right on the test images, the mean over levels and degradations, by seed."""
        return self.row.average if self.row else Cell({})

    @property
    def test_clean(self) -> Cell:
        """Percent right on clean test images by seed."""
        return self.row.clean if self.row else Cell({})

    @property
    def score(self) -> float:
        """The part of all images of all seeds that is right; each seed holds out its own images."""
        right, seen = (sum(one[key] for one in self.seeds.values()) for key in ("right", "seen"))
        return float(right / seen)


@dataclass(frozen=True)
class Choice:
    """Networks that were judged on the same images, and the best of them.

    Attributes:
        candidates: in the order of the table.
        best: the finished one with the highest score, of equal ones the first; None while none is finished.
        seed: of its network that is best on validation images.
    """

    candidates: tuple[Candidate, ...]
    best: Candidate | None
    seed: int

    @property
    def chosen(self) -> Mapping[str, Any]:
        """The row of :data:`SCHEMA` of the chosen network."""
        assert self.best is not None
        return self.best.seeds[self.seed]


def choices(judged: pa.Table | None, groups: Sequence[Group], methods: Mapping[str, Methods]) -> list[Choice]:
    """The choice for each set of networks that can be compared.

    Args:
        judged: rows of :data:`SCHEMA`; None: nothing was judged.
        groups: the tables of results.
        methods: experiment -> its methods.
    """
    networks = [one for one in judged.to_pylist() if not one["why"]] if judged is not None else []
    rows: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
    for one in networks:
        rows.setdefault((one["same"], one["experiment"], one["method"]), {})[one["seed"]] = one
    # Each seed holds out its own images, so rows of other seeds are not compared.
    found: dict[tuple[str, frozenset[int]], dict[tuple[str, str], dict[int, dict[str, Any]]]] = {}
    for (same, experiment, method), seeds in rows.items():
        found.setdefault((same, frozenset(seeds)), {})[experiment, method] = seeds
    return [_choice(comparable, groups, methods) for comparable in found.values()]


def _choice(
    rows: Mapping[tuple[str, str], Mapping[int, Mapping[str, Any]]],
    groups: Sequence[Group],
    methods: Mapping[str, Methods],
) -> Choice:
    candidates = []
    for (experiment, method), seeds in rows.items():
        model = next(iter(seeds.values()))["model"]
        group = next((g for g in groups if (g.experiment, g.model) == (experiment, model)), None)
        about = methods.get(experiment, methods[""])[method]
        candidates.append(Candidate(experiment, model, about, group, seeds))
    finished = [one for one in candidates if one.finished]
    best = max(finished, key=lambda one: one.score, default=None)
    by_seed = best.validation().by_seed if best else {0: 0.0}
    return Choice(tuple(candidates), best, max(by_seed, key=lambda seed: by_seed[seed]))


def choice_lines(found: Sequence[Choice], judged: pa.Table | None) -> list[str]:
    """The choices, for a terminal."""
    lines = []
    for choice in found[:FEW]:
        lines += [
            "",
            *(line for text in _said(choice) for line in wrapped(text)),
            *(f"  {use}" for use in _use(choice)),
        ]
    if len(found) > FEW:
        rest = counted(len(found) - FEW, "more best single network") + ", of other experiments that cannot be compared"
        lines += ["", *wrapped(f"{rest} with these: see the report.")]
    for reason in _unnamed(judged):
        lines += ["", *wrapped(reason)]
    return lines


def _said(choice: Choice) -> list[str]:
    """The network, its accuracy, how sure that is, and where the network lies, as lines."""
    return [f"{question}: {answer}" for question, answer in _answers(choice)]


def _answers(choice: Choice) -> list[tuple[str, str]]:
    """(question, answer) of a choice."""
    best = choice.best
    if best is None:
        return [("Best single network", "not known before one row is finished and judged on the validation images.")]
    unfinished = sum(not one.finished for one in choice.candidates)
    so_far = f" so far ({counted(unfinished, 'row is', 'rows are')} not finished)" if unfinished else ""
    found = {
        f"Best single network{so_far}": _which(choice, best),
        "How good": " ".join(_how_good(choice, best)),
        "How sure": " ".join(_how_sure(best)),
        "Where it lies": choice.chosen["place"],
    }
    return [(question, printable(answer)) for question, answer in found.items() if answer]


def _which(choice: Choice, best: Candidate) -> str:
    """The network's name, and how it was chosen."""
    several = len({one.experiment for one in choice.candidates}) > 1
    where = ([best.experiment] if several else []) + ([f"seed {choice.seed}"] if len(best.seeds) > 1 else [])
    name = best.about.name + (f" ({', '.join(where)})" if where else "")
    about = f" {best.about.name}: {best.about.description.rstrip('.')}." if best.about.description else ""
    foreign = f" {_FOREIGN}" if choice.chosen["foreign"] else ""
    return (
        f"{name}. Validation on {counted(choice.chosen['clean_seen'], 'image')} chose it among "
        f"{counted(len(choice.candidates), 'row')}{_tied(choice)}.{about}{foreign}"
    )


def _how_good(choice: Choice, best: Candidate) -> Iterator[str]:
    """Accuracy on the test images, degraded and clean, beside the base's, with warnings."""
    seed, base = choice.seed, best.group.base if best.group else None
    if best.row is None:
        right = _percents(best.validation(), best.validation("clean_"), seed)
        yield f"Accuracy on the validation images: {right}. Its test images are not counted."
        return
    beside = ""
    if base and base is not best.row:
        beside = f" ({base.about.name}, trained on clean images alone: {_percents(base.average, base.clean, seed)})"
    yield (
        f"Accuracy on the test images: {_percents(best.test, best.test_clean, seed)}{beside}. Degraded is the mean "
        "over degradations and their levels." + (" Tables hold means over seeds." if len(best.seeds) > 1 else "")
    )
    yield from _useless(best, seed)
    if best.row.always:
        yield f"It {always(best.row)}, for every test image at every level."


def _percents(degraded: Cell, clean: Cell, seed: int) -> str:
    return f"{_percent(degraded, seed)} degraded, {_percent(clean, seed)} clean"


def _how_sure(best: Candidate) -> Iterator[str]:
    """The spread over training seeds, and the paired tests against the rows that compete with it."""
    interval = best.test.interval
    if best.row is None or best.group is None or interval is None:
        return
    if interval.half is None:
        yield "One seed: how much another training would differ is not known."
    else:
        yield (
            f"Over {interval.n} seeds its row has {interval.mean:.1f} ±{interval.half:.1f} % degraded (± is half the "
            "95 % interval)."
        )
    found: dict[str, list[str]] = {"better than": [], "cannot be told apart from": [], "worse than": []}
    images = 0
    for row in best.group.rows:
        pair = best.group.comparison(best.about.id, row.method) if row.competes else None
        if pair:
            images = pair.images
            better = "better than" if pair.difference > 0 else "worse than"
            found[better if pair.established else "cannot be told apart from"].append(row.about.name)
    said = [f"{verdict} {listed(names)}" for verdict, names in found.items() if names]
    if said:
        yield f"Paired tests on {counted(images, 'test image')}: {'; '.join(said)}."


def _useless(best: Candidate, seed: int) -> Iterator[str]:
    """A warning where the best network knows no more than which class is the largest."""
    there = best.test.by_seed.get(seed)
    majority = best.group.majority if best.group else None
    if majority is not None and there is not None and round(there, 1) <= round(majority, 1):
        yield (
            f"That is no better than always naming the largest class, which gives {majority:.1f} %: no network "
            "here is of use yet. Train longer, on more images, or try another learning rate or a smaller network."
        )


def _tied(choice: Choice) -> str:
    """The rows that are as good as the chosen one on the validation images."""
    best = choice.best
    tied = [one.about.name for one in choice.candidates if best and one.finished and one.score == best.score]
    others = ", ".join(name for name in tied if best and name != best.about.name)
    return f" (tied with {others}: the first of the table is taken)" if others else ""


def _use(choice: Choice) -> list[str]:
    """The lines that use the network, to be copied whole."""
    if choice.best is None:
        return []
    place, plugin, fits = (choice.chosen[key] for key in ("place", "plugin", "any_size"))
    options = ("" if fits else " --fit crop") + (f" --plugin {shlex.quote(plugin)}" if plugin else "")
    fit = "" if fits else ', fit="crop"'
    first = [f"from {NAME}.plugins import load_plugins, read_plugins", f"load_plugins(read_plugins([{plugin!r}]))"]
    python = [
        f"from {NAME} import load_model",
        *(first if plugin else []),
        f'load_model({place!r}).predict(["photo.jpg"]{fit})',
    ]
    lines = [f"{NAME} predict {shlex.quote(place)} PHOTO...{options}", *(f"python: {line}" for line in python)]
    return list(map(printable, lines))


def _percent(cell: Cell, seed: int) -> str:
    value = cell.by_seed.get(seed)
    return f"{MISSING} %" if value is None else f"{value:.1f} %"


def _unnamed(judged: pa.Table | None) -> Iterator[str]:
    """Why experiments have no best network, each reason once."""
    why: dict[str, list[str]] = {}
    for one in judged.to_pylist() if judged is not None else ():
        if one["why"]:
            why.setdefault(one["why"], []).append(one["experiment"])
    for reason, names in why.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield printable(f"No best single network is named for {', '.join(names[:3])}{more}: {reason}.")


def choice_blocks(found: Sequence[Choice], judged: pa.Table | None) -> list[Block]:
    """The choices for the top of the page."""
    blocks: list[Block] = []
    for choice in found[:FEW]:
        blocks.append(Terms(_answers(choice), "first"))
        blocks += [Text("\n".join(_use(choice)), "", "pre")] if choice.best else []
    return [*blocks, *map(Text, _unnamed(judged))]


def choice_markdown(found: Sequence[Choice], judged: pa.Table | None) -> list[str]:
    """The choices for the top of the Markdown file."""
    parts = []
    for choice in found[:FEW]:
        parts.append(escaped(" ".join(_said(choice))))
        parts += ["```\n" + "\n".join(_use(choice)) + "\n```"] if choice.best else []
    return [*parts, *map(escaped, _unnamed(judged))]


def choice_sections(found: Sequence[Choice]) -> list[Section]:
    """All networks that were candidates, with validation beside test."""
    blocks: list[Block] = []
    for choice in found:
        blocks += grid_blocks(_grid(choice))
    return [Section("choice", "Best single network", blocks)] if blocks else []


def _grid(choice: Choice) -> Grid:
    seeds = len({seed for one in choice.candidates for seed in one.seeds})
    several = len({one.experiment for one in choice.candidates}) > 1
    rows = []
    for one in choice.candidates:
        cells = (one.validation(), one.validation("clean_"), one.test, one.test_clean)
        name = (f"{one.experiment} · " if several else "") + (marked_name(one.row) if one.row else one.about.name)
        rows.append(((printable(name), ""), *(cell_text(cell, seeds) for cell in cells)))
    heading = ("", "validation", "validation, clean", "test", "test, clean")
    note = (
        "Accuracy in % of every network that answers alone and is not told the degradation. The validation images "
        "choose: no training of this run took a step on them. Each is shown at random levels of every degradation; all "
        "networks of a seed see the same pixels. Epochs were chosen on these images, too, so their accuracies are too "
        "high; the test columns had no part in the choice."
    )
    return Grid("Best single network", heading, tuple(rows), note)
