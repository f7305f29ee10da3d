"""One image under the degradations of a store's experiment, and what the networks of its finished rows say of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from fusiondistill.checkpoints import MANIFEST, CheckpointError
from fusiondistill.data.preparation import Preparation
from fusiondistill.degradation_config import DegradationConfig, as_degradation
from fusiondistill.degradations import DEGRADATIONS
from fusiondistill.report.methods import Method, base_of, final_of, methods_of
from fusiondistill_runner.storage.best import noted_best
from fusiondistill_runner.storage.noted_plans import plans
from fusiondistill_runner.storage.store import Store

if TYPE_CHECKING:
    import torch

    from fusiondistill.models import ImageClassifier

__all__ = ["Network", "Tried", "Tryout", "open_tryout"]

_Row = tuple[Method, int, str]
"""A row of the table: its method, its seed, and where its network lies."""
TOP = 3
"""Classes that an answer names."""


class Network(NamedTuple):
    """A network that can be asked: what tables call it, a sentence about it, and where it lies."""

    title: str
    line: str
    place: str


class Tried(NamedTuple):
    """An image at the networks' size, uint8 [3,H,W], clean and degraded, and what networks say of the degraded one.

    ``answers``: network -> its best classes, each with its softmax probability, a fraction.
    """

    clean: torch.Tensor
    degraded: torch.Tensor
    answers: dict[str, tuple[tuple[str, float], ...]]


@dataclass(frozen=True)
class Tryout:
    """What can be tried with an experiment of a store.

    Attributes:
        experiment: its name.
        others: the names of the store's other experiments.
        networks: those of its finished rows that one network answers alone, by id.
        first: the ids of the base, of the experts, of the method's last network and of the store's best one.
        degradations: by the ids of their columns, with the levels and parameters that the experiment gives them.
        protocol, seed: as its test images were degraded.
        preparation: how a file becomes an image that the networks take.
    """

    experiment: str
    others: tuple[str, ...]
    networks: Mapping[str, Network]
    first: tuple[str, ...]
    degradations: Mapping[str, DegradationConfig]
    protocol: str
    seed: int
    preparation: Preparation

    def degradation(self, name: str) -> DegradationConfig:
        """A degradation by its id; ValueError where the experiment has none of this id."""
        if name not in self.degradations:
            known = ", ".join(self.degradations)
            raise ValueError(f"{self.experiment} has no degradation {name!r}: it has {known}")
        return self.degradations[name]

    def prepared(self, data: bytes, where: str) -> torch.Tensor:
        """The bytes of a file as the networks take it, uint8 [1,3,H,W]. ``where`` is its name, for messages.

        Raises:
            DataError: they are no image that can be read, or one that is too large.
        """
        import torch

        return torch.tensor(self.preparation.prepared(data, where).pixels).permute(2, 0, 1)[None]

    def tried(self, image: torch.Tensor, degradation: str, level: int, networks: Sequence[str]) -> Tried:
        """Degrade an image as the first of the experiment's test images was, and ask networks.

        Args:
            image: as :meth:`prepared` gives it.
            degradation, level: one of the experiment's, and one of its levels.
            networks: ids.

        Raises:
            CheckpointError: a network is damaged, or needs a plugin that is not loaded.
            ValueError: the experiment has no such degradation, level or network.
        """
        from fusiondistill import degrade

        of = self.degradation(degradation)
        if level not in of.every_level:
            raise ValueError(f"{degradation} has no level {level} in {self.experiment}")
        if unknown := [one for one in networks if one not in self.networks]:
            raise ValueError(f"{self.experiment} has no network {unknown[0]!r}: it has {', '.join(self.networks)}")
        degraded = degrade(image, of.name, level, seed=self.seed, protocol=self.protocol, **of.parameters)
        answers = {one: _best(_model(self.networks[one].place), degraded) for one in networks}
        return Tried(image[0], degraded[0], answers)


@lru_cache(32)
def _model(place: str) -> ImageClassifier:
    from fusiondistill import load_model

    return load_model(place)


def _best(model: ImageClassifier, image: torch.Tensor) -> tuple[tuple[str, float], ...]:
    import torch

    from fusiondistill.prediction import ranked

    with torch.inference_mode():
        (rows,), (chances,) = ranked(model(image).double(), TOP)
    return tuple((model.classes[row], chance) for row, chance in zip(rows, chances, strict=True))


def open_tryout(store: Store, experiment: str | None = None) -> Tryout:
    """What can be tried with an experiment of a store; default: the best network's, or one that has a finished row.

    Raises:
        CheckpointError: it is no store, or has no finished row of one network; or one of the first networks is damaged.
        ValueError: it has no such experiment, or a degradation is of a plugin that is not loaded.
    """
    known, best = {plan["experiment"]: plan for plan in plans(store)}, noted_best(store) or {}
    if experiment is not None and experiment not in known:
        raise ValueError(f"{store.location} has no experiment {experiment!r}: it has {', '.join(known)}")
    seen = store.glance(MANIFEST)
    for name in sorted(known, key=lambda name: name != best.get("experiment")) if experiment is None else [experiment]:
        try:
            if rows := sorted(_rows(seen, known[name]), key=lambda row: (row[0].rank, row[1])):
                there = [(method, seed, store.shown(place)) for method, seed, place in rows]
                of = best if best.get("experiment") == name else {}
                return _tryout(known[name], there, tuple(other for other in known if other != name), of)
        except (KeyError, TypeError, AttributeError, ValidationError) as error:  # a plan made by hand, another plugin
            text = f"{store.location}: the plan of {name} does not fit what is loaded or is damaged"
            raise CheckpointError(f"{text}: {type(error).__name__} {error}") from error
    raise CheckpointError(
        f"{store.location} has no finished row of one network{f' in {experiment}' if experiment else ''}: "
        f"`fusiondistill status {store.location}` says what is missing"
    )


def _rows(seen: Store, plan: Mapping[str, Any]) -> Iterator[_Row]:
    """(row, seed, directory of its network) of each row that one network answers alone, and that is evaluated."""
    methods, found = methods_of(plan), set()
    for row in plan["rows"]:
        method, seed = methods[row["method"]], row["seed"]
        if method.told or method.passes != 1 or (method.id, seed) in found:
            continue
        inputs = list((seen.manifest_of(row["directory"]) or {}).get("inputs", {}).values())
        if len(inputs) == 1 and seen.manifest_of(inputs[0]):
            found.add((method.id, seed))
            yield method, seed, inputs[0]


def _tryout(plan: Mapping[str, Any], rows: Sequence[_Row], others: tuple[str, ...], best: Mapping[str, Any]) -> Tryout:
    config, networks, first = plan["config"], dict[str, Network](), dict[str, str]()
    methods, several = [method for method, _, _ in rows], len({seed for _, seed, _ in rows}) > 1
    ends = (base_of(methods), final_of(methods))
    for method, seed, place in sorted(rows, key=lambda row: row[1] != best.get("seed")):
        of_seed = f", seed {seed}" if several else ""
        mark = " (best)" if (method.id, seed) == (best.get("method"), best.get("seed")) else ""
        networks[method.id + of_seed] = Network(method.name + of_seed + mark, method.line, place)
        if method in ends or method.own or method.id == best.get("method"):
            first.setdefault(method.id, method.id + of_seed)
    shown = tuple(first.values()) or tuple(networks)[:1]
    models = [_model(networks[one].place) for one in shown]  # each is read: a damaged one is told at once
    prepared = models[-1].preparation
    given = [*config["degradations"], *config["evaluation"]["unseen"]]
    for name in (one if isinstance(one, str) else one["name"] for one in given):
        if name not in DEGRADATIONS:
            raise ValueError(f"the degradation {name!r} is a plugin's: give its file with --plugin FILE")
    return Tryout(
        experiment=plan["experiment"],
        others=others,
        networks=networks,
        first=shown,
        degradations={one.id: one for one in map(as_degradation, given)},
        protocol=config["protocol"],
        seed=config["evaluation"]["seed"],
        preparation=replace(prepared, fit=prepared.fit or "crop"),
    )
