"""From a config to the graph of stages: pure, printable, known in full before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fusiondistill.checkpoints import checkpoint_digest
from fusiondistill.config import Config, ModelConfig, SearchConfig
from fusiondistill.locations import absolute
from fusiondistill.losses import need_of
from fusiondistill.methods import Combined, Inference, Merge, Merged, Trained, searched_name
from fusiondistill.recipes import RANDOM
from fusiondistill_runner.planning.levels import SEVERITIES, cut, every, spread
from fusiondistill_runner.planning.rows import Kind, Plan, Row
from fusiondistill_runner.planning.specs import (
    CheckpointSpec,
    DataSpec,
    EvaluateSpec,
    MergeSpec,
    SearchSpec,
    Spec,
    TrainSpec,
)
from fusiondistill_runner.planning.stage import Stage, ancestors
from fusiondistill_runner.planning.told import Told, of_method, of_network
from fusiondistill_runner.planning.trials import AS_IT_STANDS, search_name

__all__ = ["build", "build_evaluation"]

SHOWN = 5
"""Levels of a degradation at which evaluations keep a few images."""
Networks = dict[str, Stage]
"""The networks that a method gives: degradation -> stage, or one stage under ""."""


def build(config: Config, fingerprint: str, levels: Callable[[str], range], **outside: Any) -> Plan:
    """The plan of an experiment.

    Args:
        config: the experiment.
        fingerprint: of its data source.
        levels: degradation name -> its levels.
        outside: ``test_images`` (how many images the test split has; decides how evaluations are cut, not what they
            give), ``corruptions`` (name -> digest of the published corruption sets to evaluate on), ``sha256_of``
            (digest of a checkpoint's weights), ``parameters`` (of one network), and ``shared`` (digest -> stage, filled
            here; plans for one store that are given the same one hold the same stages, so that what is the same has
            one name and one directory, whatever it is called in the other plans).
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
    """The plan of an evaluation of checkpoints: no training; each is a row of its own.

    Args:
        config: says what is evaluated on what; its methods play no part.
        models: (row, seed) -> (path of the checkpoint, its network, its card).
        outside: as for :func:`build`.
    """
    builder = _Builder(config, fingerprint, levels, **outside)
    for (name, seed), (path, model, card) in models.items():
        builder.tell(of_network(name, builder.parameters))
        builder.evaluate(name, seed, {"model": builder.existing(name, seed, path, model, card)})
    return builder.plan()


class _Builder:
    """Collects the stages of one seed after another; a stage that is already there is shared."""

    def __init__(
        self,
        config: Config,
        fingerprint: str,
        levels: Callable[[str], range],
        *,
        test_images: int = 10_000,
        corruptions: Mapping[str, str] | None = None,
        sha256_of: Callable[[str], str] = checkpoint_digest,
        parameters: int = 0,
        shared: dict[str, Stage] | None = None,
    ) -> None:
        self.config, self.fingerprint, self.levels = config, fingerprint, levels
        self.sha256_of, self.corruptions, self.parameters = sha256_of, corruptions or {}, parameters
        self.test_images = min(test_images, config.data.test_images or test_images)
        self.stages = {} if shared is None else shared
        self.made: dict[tuple[str, int], Networks] = {}
        self.rows: dict[tuple[str, int, str], list[Row]] = {}
        self.told: dict[str, Told] = {}

    def plan(self) -> Plan:
        """What the rows need, inputs first."""
        rows = [row for pieces in self.rows.values() for row in pieces]
        needed = {stage.digest for row in rows for stage in ancestors(row.stage)}
        stages = tuple(stage for stage in self.stages.values() if stage.digest in needed)
        known = [name for name in dict.fromkeys(row.degradation for row in rows) if name not in self.corruptions]
        levels = {name: self.levels(name) for name in known}
        ends = {name: (of[0], of[-1]) for name, of in levels.items()}
        # Networks that are for one degradation come last.
        told = sorted(self.told.values(), key=lambda one: bool(one.own))
        return Plan(self.config, stages, tuple(rows), ends, tuple(told))

    def tell(self, told: Told) -> None:
        """Note what a row is."""
        self.told.setdefault(told.id, told)

    def add(self, name: str, seed: int) -> None:
        """The rows of a method, and of its search."""
        method = self.config.table[name]
        networks = self.networks(name, seed)
        self._answer(name, seed, networks, method.inference)
        search = self.config.search_of(name)
        if isinstance(method, Trained) and search:
            found = {key: self._searched(name, seed, key, one, search) for key, one in networks.items()}
            self._answer(searched_name(name), seed, found, method.inference)

    # Networks.

    def networks(self, name: str, seed: int) -> Networks:
        """The networks of a method, made once."""
        if (name, seed) not in self.made:
            self.made[name, seed] = self._networks(name, seed)
        return self.made[name, seed]

    def _networks(self, name: str, seed: int) -> Networks:
        method = self.config.table[name]
        if isinstance(method, Combined):
            return self.networks(method.of, seed)
        if isinstance(method, Merged):
            if method.checkpoint:
                return {"": self.existing("fused", seed, _path(method.checkpoint, seed), self.config.model, {})}
            if method.start.recalibrate == "per_degradation":
                return {d: self._merge(method.start, seed, d) for d in self.config.degradations}
            return {"": self._merge(method.start, seed, None)}
        if method.train_on == "each":
            return {d: self._train(f"{name}-{d}", method, seed, (d,)) for d in self.config.degradations}
        return {"": self._train(name, method, seed, self.config.degradations if method.train_on == "all" else ())}

    def _train(self, name: str, method: Trained, seed: int, degradations: tuple[str, ...]) -> Stage:
        config = self.config
        if path := _checkpoint(method.checkpoint, seed, degradations):
            return self.existing(name, seed, path, config.model, {})
        spec = TrainSpec(
            recipe=method.recipe,
            degradations=degradations,
            data=self._data(seed),
            model=config.model,
            flip=config.data.flip,
            protocol=config.protocol,
            select=config.epoch_choice,
            data_seed=self._data_seed(seed),
            world_size=config.resources.workers_per_run,
            threads=config.threads,
            sync_batchnorm=config.resources.sync_batchnorm and config.resources.workers_per_run > 1,
        )
        return self._stage(
            name, seed, spec, {**self._start(method, seed, degradations), **self._teachers(method, seed, degradations)}
        )

    def _start(self, method: Trained, seed: int, degradations: tuple[str, ...]) -> dict[str, Stage]:
        if isinstance(method.start, Merge):
            return {"start": self._merge(method.start, seed, None)}
        if method.start == RANDOM:
            return {}
        networks = self.networks(method.start, seed)
        return {"start": networks[""] if "" in networks else networks[degradations[0]]}

    def _teachers(self, method: Trained, seed: int, degradations: tuple[str, ...]) -> dict[str, Stage]:
        """The teacher of each degradation; of clean images the one under ``teacher-clean``."""
        if method.teachers is None or not self._needs_teachers(method):
            return {}
        networks = self.networks(method.teachers.of, seed)
        return {f"teacher-{d}": networks[""] if "" in networks else networks[d] for d in degradations or ("clean",)}

    def _needs_teachers(self, method: Trained) -> bool:
        """Whether a term of the loss needs them, or one that a search may turn on."""
        searches = (s for s in self.config.search if self.config.table[s.of] is method)
        keys = (key for search in searches for key in search.space)
        terms = {key.split(".")[1] for key in keys if key.startswith("loss.")}
        return method.taught or any(need_of(term) != "nothing" for term in terms)

    def _merge(self, merge: Merge, seed: int, told: str | None) -> Stage:
        config = self.config
        recalibrate = merge.recalibrate or config.assumed.recalibrate
        spec = MergeSpec(
            merge=merge.merge,
            parameters=merge.parameters,
            recalibrate="mixed" if recalibrate == "per_degradation" else recalibrate,
            told=told,
            images=merge.images,
            degradations=config.degradations,
            data=self._data(seed),
            protocol=config.protocol,
            data_seed=self._data_seed(seed),
            threads=config.threads,
        )
        merged = {f"expert-{d}": stage for d, stage in self.networks(merge.of, seed).items()}
        return self._stage(f"fused-told-{told}" if told else "fused", seed, spec, {**self._base(merge, seed), **merged})

    def _base(self, merge: Merge, seed: int) -> dict[str, Stage]:
        """The network that all merged ones started from, if there is one."""
        of = self.config.table[merge.of]
        assert isinstance(of, Trained)
        starts = [self._start(of, seed, (d,)).get("start") for d in self.config.degradations]
        first = starts[0]
        return {"base": first} if first is not None and all(start is first for start in starts) else {}

    def _searched(self, name: str, seed: int, degradation: str, plain: Stage, search: SearchConfig) -> Stage:
        """The training with what its search found."""
        train = plain.spec
        if not isinstance(train, TrainSpec):
            return plain  # a checkpoint stands for it
        recipe = train.recipe.model_copy(update={"epochs": search.epochs or train.recipe.epochs})
        # Trials are judged on the validation split, whatever epoch the table's rows keep.
        alone = {"recipe": recipe, "world_size": 1, "sync_batchnorm": False, "select": "validation"}
        settings = {key: getattr(search, key) for key in ("trials", "searcher", "scheduler", "seeds", "space")}
        spec = SearchSpec(train=train.model_copy(update=alone), **settings)
        # The first trial is the training itself where nothing tells them apart: it is trained once.
        inputs = {**plain.inputs, AS_IT_STANDS: plain} if spec.train == train else plain.inputs
        ending = f"-{degradation}" if degradation else ""
        stage = self._stage(search_name(name, degradation), seed, spec, inputs)
        return self._stage(f"{searched_name(name)}{ending}", seed, train, {**plain.inputs, "search": stage})

    def existing(self, name: str, seed: int, path: str, model: ModelConfig, card: Mapping[str, Any]) -> Stage:
        """A checkpoint that stands for a stage, with the normalisation of its card."""
        data = self._data(seed)
        if card:
            data = data.model_copy(update={"mean": tuple(card["mean"]), "std": tuple(card["std"])})
        at = absolute(path)
        return self._stage(name, seed, CheckpointSpec(sha256=self.sha256_of(at), model=model, data=data, path=at), {})

    def _stage(self, name: str, seed: int, spec: Spec, inputs: Mapping[str, Stage]) -> Stage:
        stage = Stage(name, seed, spec, inputs)
        return self.stages.setdefault(stage.digest, stage)

    def _data(self, seed: int) -> DataSpec:
        data, config = self.config.data, self.config
        return DataSpec(
            name=data.name,
            fingerprint=self.fingerprint,
            train_images=data.train_images,
            # The test split plays no part in training, unless the epoch is chosen on it.
            test_images=data.test_images if config.epoch_choice == "test" else None,
            held_out=config.held_out,
            holdout_seed=seed if config.held_out else 0,
            mean=data.mean,
            std=data.std,
            **data.parameters,
        )

    def _data_seed(self, seed: int) -> int:
        fixed = self.config.assumed.data_seed
        return seed if fixed is None else fixed

    # Rows.

    def _answer(self, name: str, seed: int, networks: Networks, inference: Inference | None) -> None:
        """The rows of a method's networks, alone or together."""
        if inference is None and "" in networks:
            self.tell(of_method(self.config, name, self.parameters))
            self.evaluate(name, seed, {"model": networks[""]})
        elif inference is None:
            self._matrix(name, seed, networks, whole=True)
        elif inference.entry().facts.get("told"):
            self._own(name, seed, networks)
        else:
            self.tell(of_method(self.config, name, len(networks) * self.parameters, passes=len(networks)))
            inputs = {f"expert-{d}": stage for d, stage in networks.items()}
            self.evaluate(name, seed, inputs, inference=inference)

    def _own(self, name: str, seed: int, networks: Networks) -> None:
        """A row that is told the degradation: each image's own network, whose evaluation the matrix has, too."""
        self.tell(of_method(self.config, name, len(networks) * self.parameters, told=True))
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
            self.tell(of_network(f"{name}-{own}", self.parameters, self.config, name, own))
            self.evaluate(f"{name}-{own}", seed, {"model": stage}, self.config.degradations if whole else (own,))

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
        """Rows for some of the trained degradations; by default for all of them, and for whatever else is asked for."""
        wanted: list[tuple[str, Kind]] = [(name, "trained") for name in degradations or self.config.degradations]
        if degradations is None:
            wanted += [(name, "unseen") for name in self.config.evaluation.unseen]
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
        levels = SEVERITIES if given else every(self.levels(degradation), evaluation.every)
        shown = spread(levels, SHOWN)
        for piece in cut(levels, -(-len(levels) * self.test_images // evaluation.piece)):
            spec = EvaluateSpec(
                inference=inference.name if inference else None,
                parameters=inference.parameters if inference else {},
                degradation=degradation,
                levels=piece,
                # The validation split plays no part in a test figure.
                # A published set is whole, and its noise is in it.
                data=self._data(seed).model_copy(
                    update={"held_out": 0.0, "holdout_seed": 0, "test_images": None if given else cut_to}
                ),
                protocol=self.config.protocol,
                noise_seed=0 if given else evaluation.seed,
                precision=evaluation.precision,
                threads=self.config.threads,
                corruption=self.corruptions[degradation] if given else None,
                shown=tuple(level for level in piece if level in shown),
            )
            stage = self._stage(f"evaluate-{method}-{degradation}", seed, spec, inputs)
            yield Row(method, seed, degradation, stage, kind)


def _path(given: str, seed: int, degradation: str = "") -> str:
    return given.replace("{seed}", str(seed)).replace("{degradation}", degradation)


def _checkpoint(given: str | Mapping[str, str] | None, seed: int, degradations: tuple[str, ...]) -> str | None:
    if isinstance(given, Mapping):
        given = given.get(degradations[0]) if degradations else None
    return None if given is None else _path(given, seed, degradations[0] if len(degradations) == 1 else "")
