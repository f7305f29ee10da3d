"""From a config to the graph of stages: pure, printable, known in full before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fusiondistill.checkpoints import checkpoint_digest
from fusiondistill.config import Config, ModelConfig
from fusiondistill.data.errors import WrongValue
from fusiondistill.degradation_config import DegradationConfig
from fusiondistill.methods import Combined, Inference, Merged, Trained, searched_name
from fusiondistill.resolution import where
from fusiondistill_runner.planning.descriptions import Description, of_method, of_network
from fusiondistill_runner.planning.levels import SEVERITIES, cut, every, spread
from fusiondistill_runner.planning.networks import Networks, StagesOfMethods
from fusiondistill_runner.planning.rows import Kind, Plan, Row, Shown, Validated
from fusiondistill_runner.planning.specs import EvaluateSpec, ValidateSpec
from fusiondistill_runner.planning.stage import Stage, ancestors

__all__ = ["build", "build_evaluation"]

SHOWN = 5
"""Levels of a degradation at which evaluations keep a few images."""
DRAWS = 2
"""Levels of each degradation at which a validation shows an image."""


def build(config: Config, fingerprint: str, levels: Callable[[str], range], **outside: Any) -> Plan:
    """The plan of an experiment.

    Args:
        config: the experiment.
        fingerprint: of its data source.
        levels: degradation name -> its levels.
        outside: what the config does not say:

            - ``test_images``: how many images the test split has; decides how evaluations are cut, not what they give;
            - ``size``: of its images;
            - ``validation``: whether the set has its own validation split;
            - ``corruptions``: name -> digest, of the published corruption sets to evaluate on;
            - ``sha256_of``: gives the digest of a checkpoint's weights;
            - ``parameters``: of one network;
            - ``weights``: the file of ``model.weights: pretrained``;
            - ``shared``: digest -> stage, filled here. The caller gives one to all plans for a store. A stage of
              several plans then has one name and one directory, also where the plans would name it differently.
    """
    builder = _Builder(config, fingerprint, levels, **outside)
    for seed in config.seeds:
        for method in config.methods:
            builder.add(method, seed)
    return builder.plan()


def build_evaluation(
    config: Config,
    fingerprint: str,
    levels: Callable[[str], range],
    models: Mapping[tuple[str, int], tuple[str, ModelConfig, Mapping[str, Any]]],
    **outside: Any,
) -> Plan:
    """The plan of an evaluation of checkpoints: no training; each gets a row.

    Args:
        config: says what is evaluated on what; its methods play no part.
        models: (row, seed) -> (path of the checkpoint, its network, its card).
        outside: as for :func:`build`.
    """
    builder = _Builder(config, fingerprint, levels, **outside)
    for (name, seed), (path, model, card) in models.items():
        builder.describe(of_network(name, builder.parameters))
        builder.evaluate(name, seed, {"model": builder.networks.existing(name, seed, path, model, card)})
    return builder.plan()


class _Builder:
    """Collects the stages of one seed after another; methods that need the same stage share it."""

    def __init__(
        self,
        config: Config,
        fingerprint: str,
        levels: Callable[[str], range],
        *,
        test_images: int = 10_000,
        size: tuple[int, int] | None = None,
        corruptions: Mapping[str, str] | None = None,
        sha256_of: Callable[[str], str] = checkpoint_digest,
        parameters: int = 0,
        validation: bool = False,
        weights: str | None = None,
        shared: dict[str, Stage] | None = None,
    ) -> None:
        self.config, self.fingerprint, self.levels = config, fingerprint, levels
        self.sha256_of, self.corruptions, self.parameters = sha256_of, corruptions or {}, parameters
        self.size, self.known = size, {one.id: one for one in (*config.degradations, *config.evaluation.unseen)}
        self.test_images = min(test_images, config.data.test_images or test_images)
        self.stages = {} if shared is None else shared

        self.networks = StagesOfMethods(
            config, fingerprint, sha256_of, self.stages, validation=validation, weights=weights
        )
        self.validation = validation and self.networks.data(config.seeds[0]).validation_split
        self.rows: dict[tuple[str, int, str], list[Row]] = {}
        self.validated: dict[tuple[str, int], Validated] = {}
        self.descriptions: dict[str, Description] = {}

    def plan(self) -> Plan:
        """What the rows need, inputs first."""
        rows = [row for pieces in self.rows.values() for row in pieces]
        validated = tuple(self.validated.values())
        ends = [*(row.stage for row in rows), *(one.stage for one in validated)]
        needed = {stage.digest for end in ends for stage in ancestors(end)}
        stages = tuple(stage for stage in self.stages.values() if stage.digest in needed)
        ids = [name for name in dict.fromkeys(row.degradation for row in rows) if name not in self.corruptions]
        shown = {name: Shown.of(self.known[name], self._levels(self.known[name])) for name in ids}
        # Networks that are for one degradation come last.
        described = sorted(self.descriptions.values(), key=lambda one: bool(one.own))
        return Plan(self.config, stages, tuple(rows), shown, tuple(described), self.size, validated, self.validation)

    def _levels(self, degradation: DegradationConfig) -> Sequence[int]:
        return self.levels(degradation.name) if degradation.levels is None else degradation.levels

    def describe(self, description: Description) -> None:
        """Note what a row is."""
        self.descriptions.setdefault(description.id, description)

    def add(self, name: str, seed: int) -> None:
        """The rows of a method, and of its search."""
        method = self.config.table[name]
        networks = self.networks.of(name, seed)
        self._answer(name, seed, networks, method.inference)
        search = self.config.search_of(name)
        trained = any(stage.spec.training for stage in networks.values())
        if isinstance(method, Trained) and search and trained:
            found = {key: self.networks.searched(name, seed, key, one, search) for key, one in networks.items()}
            self._answer(searched_name(name), seed, found, method.inference)

    def _answer(self, name: str, seed: int, networks: Networks, inference: Inference | None) -> None:
        """The rows of a method's networks, alone or together."""
        if inference is None and "" in networks:
            self.describe(of_method(self.config, name, self.parameters))
            self.evaluate(name, seed, {"model": networks[""]})
            self._validate(name, seed, networks[""])
        elif inference is None:
            self._matrix(name, seed, networks, whole=True)
        elif inference.entry().whole:
            self._whole(name, seed, networks, inference)
        elif inference.entry().facts.get("alone"):
            self._own(name, seed, networks)
        elif inference.entry().facts.get("told"):
            self.describe(of_method(self.config, name, len(networks) * self.parameters, told=True))
            for d, stage in networks.items():
                self.evaluate(name, seed, {f"expert-{d}": stage}, (d,), inference=inference)
        else:
            self.describe(of_method(self.config, name, len(networks) * self.parameters, passes=len(networks)))
            inputs = {f"expert-{d}": stage for d, stage in networks.items()}
            self.evaluate(name, seed, inputs, inference=inference)

    def _whole(self, name: str, seed: int, networks: Networks, inference: Inference) -> None:
        """The row of networks that are stored with what makes them answer."""
        entry = inference.entry()
        if self.size and min(self.size) < entry.facts["smallest"]:
            least, (height, width) = entry.facts["smallest"], self.size
            text = f"{entry.name} takes images from {least}x{least} pixels, these have {width}x{height}"
            raise WrongValue(where(name, "inference"), text)
        # Merged networks with their own statistics have one set of weights.
        sets = 1 if isinstance(self.config.table.get(name), Merged) else len(networks)
        part = entry.weighs(len(self.config.degradations), inference.parameters)
        passes = entry.passes(len(networks))
        about = of_method(self.config, name, sets * self.parameters + part, passes=passes)
        self.describe(replace(about, part=part, transductive=entry.transductive))
        whole = self.networks.whole(name, seed, inference, networks)
        self.evaluate(name, seed, {"model": whole})
        if sets == 1 and not entry.transductive:
            self._validate(name, seed, whole)

    def _own(self, name: str, seed: int, networks: Networks) -> None:
        """The row of a method that is told the degradation, which shares evaluations with the expert matrix."""
        self.describe(of_method(self.config, name, len(networks) * self.parameters, told=True))
        method = self.config.table.get(name)
        if isinstance(method, Combined) and isinstance(self.config.table[method.of], Trained):
            self._matrix(method.of, seed, networks, whole=self.config.evaluation.expert_matrix)
            for d in networks:
                for row in self.rows[f"{method.of}-{d}", seed, d]:
                    self._add(Row(name, seed, d, row.stage))
            return
        for d, stage in networks.items():
            self.evaluate(name, seed, {"model": stage}, (d,))

    def _matrix(self, name: str, seed: int, networks: Networks, *, whole: bool) -> None:
        """A row for each network, on its own degradation or on all of them."""
        for own, stage in networks.items():
            self.describe(of_network(f"{name}-{own}", self.parameters, self.config, name, own))
            on = tuple(one.id for one in self.config.degradations) if whole else (own,)
            self.evaluate(f"{name}-{own}", seed, {"model": stage}, on)
            if whole:
                self._validate(f"{name}-{own}", seed, stage)

    def _validate(self, method: str, seed: int, network: Stage) -> None:
        """Judge a network on the validation split, where no test image played a part in its making."""
        data = self.networks.data(seed)
        if self.config.epoch_choice == "test" or not (data.held_out or data.validation_split):
            return
        spec = ValidateSpec(
            degradations=self.config.degradations,
            draws=DRAWS,
            data=data,
            protocol=self.config.protocol,
            threads=self.config.threads,
        )
        stage = self.networks.stage(f"validate-{method}", seed, spec, {"model": network})
        self.validated.setdefault((method, seed), Validated(method, seed, network, stage))

    def _add(self, row: Row) -> None:
        pieces = self.rows.setdefault((row.method, row.seed, row.degradation), [])
        if row not in pieces:
            pieces.append(row)

    def evaluate(
        self,
        method: str,
        seed: int,
        inputs: Mapping[str, Stage],
        degradations: tuple[str, ...] | None = None,
        inference: Inference | None = None,
    ) -> None:
        """Rows for these degradations; by default for the trained, the unseen and the corrupted ones of the config."""
        trained = tuple(one.id for one in self.config.degradations)
        wanted: list[tuple[str, Kind]] = [(name, "trained") for name in degradations or trained]
        if degradations is None:
            wanted += [(one.id, "unseen") for one in self.config.evaluation.unseen]
            wanted += [(name, "corruption") for name in self.corruptions]
        for name, kind in wanted:
            for row in self._pieces(method, seed, inputs, name, kind, inference):
                self._add(row)

    def _pieces(
        self,
        method: str,
        seed: int,
        inputs: Mapping[str, Stage],
        degradation: str,
        kind: Kind,
        inference: Inference | None,
    ) -> Iterator[Row]:
        """One row for each piece of the levels."""
        evaluation, given, cut_to = self.config.evaluation, kind == "corruption", self.config.data.test_images
        known = None if given else self.known[degradation]
        levels = SEVERITIES if known is None else every(self._levels(known), evaluation.every)
        shown = spread(levels, SHOWN)
        for piece in cut(levels, -(-len(levels) * self.test_images // evaluation.piece)):
            spec = EvaluateSpec(
                inference=inference.name if inference else None,
                parameters=inference.parameters if inference else {},
                degradation=degradation if known is None else known.name,
                settings={} if known is None else known.parameters,
                levels=piece,
                # The validation split plays no part in a test figure.
                # A published set is whole, and its noise is in it.
                data=self.networks.data(seed).model_copy(
                    update={
                        "held_out": 0.0,
                        "holdout_seed": 0,
                        "validation_split": False,
                        "test_images": None if given else cut_to,
                    }
                ),
                protocol=self.config.protocol,
                noise_seed=0 if given else evaluation.seed,
                precision=evaluation.precision,
                threads=self.config.threads,
                corruption=self.corruptions[degradation] if given else None,
                shown=tuple(level for level in piece if level in shown),
            )
            stage = self.networks.stage(f"evaluate-{method}-{degradation}", seed, spec, inputs)
            yield Row(method, seed, degradation, stage, kind)
