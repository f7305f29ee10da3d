"""From a config to the graph of stages: pure, printable, known in full before anything runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fusiondistill.checkpoints import checkpoint_digest
from fusiondistill.config import Config, ModelConfig
from fusiondistill.locations import absolute
from fusiondistill.recipe import Role
from fusiondistill_runner.planning.rows import SEVERITIES, Kind, Plan, Row, cut, every, spread
from fusiondistill_runner.planning.stage import (
    FUSION_KEYS,
    PLAIN,
    CheckpointSpec,
    DataSpec,
    EvaluateSpec,
    FuseSpec,
    SearchSpec,
    Spec,
    Stage,
    TrainSpec,
    ancestors,
    start_role,
)

__all__ = ["build", "build_evaluation"]

PAPER_SEED = 123
"""The original seeds its loaders with this, whatever the run's seed is."""
SHOWN = 5
"""Levels of a degradation at which evaluations keep a few images."""


def build(
    config: Config,
    fingerprint: str,
    levels: Callable[[str], range],
    *,
    test_images: int = 10_000,
    plugins: tuple[str, ...] = (),
    corruptions: Mapping[str, str] | None = None,
    sha256_of: Callable[[str], str] = checkpoint_digest,
    shared: dict[str, Stage] | None = None,
) -> Plan:
    """The plan of an experiment.

    Args:
        config: the experiment.
        fingerprint: of its data source.
        levels: degradation name -> its levels.
        test_images: how many images its test split has; decides how evaluations are cut, not what they give.
        plugins: digests of the plugin files.
        corruptions: name -> digest of the published corruption sets to evaluate on.
        sha256_of: digest of a checkpoint that stands for a stage: of its weights' file.
        shared: digest -> stage, filled here; plans for one store that are given the same one hold the same stages, so
            that what is the same has one name and one directory, whatever it is called in the other plans.
    """
    builder = _Builder(config, fingerprint, levels, test_images, plugins, corruptions, sha256_of, shared)
    for seed in config.seeds:
        builder.add_seed(seed)
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
        builder.evaluate(name, seed, {"model": builder.existing(name, seed, path, model, card)})
    return builder.plan()


class _Builder:
    """Collects the stages of one seed after another; a stage that is already there is shared."""

    def __init__(
        self,
        config: Config,
        fingerprint: str,
        levels: Callable[[str], range],
        test_images: int,
        plugins: tuple[str, ...] = (),
        corruptions: Mapping[str, str] | None = None,
        sha256_of: Callable[[str], str] = checkpoint_digest,
        shared: dict[str, Stage] | None = None,
    ) -> None:
        self.config, self.fingerprint, self.levels, self.plugins = config, fingerprint, levels, plugins
        self.sha256_of, self.corruptions = sha256_of, corruptions or {}
        self.test_images = min(test_images, config.data.test_images or test_images)
        self.stages = {} if shared is None else shared
        self.rows: list[Row] = []

    def plan(self) -> Plan:
        """What the rows need, inputs first."""
        needed = {stage.digest for row in self.rows for stage in ancestors(row.stage)}
        stages = tuple(stage for stage in self.stages.values() if stage.digest in needed)
        known = [name for name in dict.fromkeys(row.degradation for row in self.rows) if name not in self.corruptions]
        levels = {name: self.levels(name) for name in known}
        return Plan(self.config, stages, tuple(self.rows), {name: (of[0], of[-1]) for name, of in levels.items()})

    def add_seed(self, seed: int) -> None:
        config = self.config
        wanted = set(config.methods)
        base = self._train("base", seed, {}, ())
        if "base" in wanted:
            self.evaluate("base", seed, {"model": base})
        if "scratch" in wanted:
            self.evaluate("scratch", seed, {"model": self._train("scratch", seed, {}, config.degradations)})
        experts: dict[str, Stage] = {}
        if wanted & {"oracle", "ensemble", "modelsoups", "fusing", "fusiondistill"}:
            experts = {d: self._expert(base, d, seed) for d in config.degradations}
        if "oracle" in wanted:
            self._oracle(experts, seed)
        if "ensemble" in wanted:
            self.evaluate("ensemble", seed, {f"expert-{d}": stage for d, stage in experts.items()})
        if "vanilla" in wanted:
            vanilla = self._train("vanilla", seed, {"start": base}, config.degradations)
            self.evaluate("vanilla", seed, {"model": vanilla})
        if wanted & {"modelsoups", "fusing", "fusiondistill"}:
            self._fusion_rows(base, experts, seed, wanted)

    def _fusion_rows(self, base: Stage, experts: dict[str, Stage], seed: int, wanted: set[Any]) -> None:
        config = self.config
        fused = self._fuse(base, experts, seed, None)
        if "modelsoups" in wanted:
            self.evaluate("modelsoups", seed, {"model": fused})
            if config.fusion.recalibrate == "per_degradation":
                for d in config.degradations:
                    told = self._fuse(base, experts, seed, d)
                    self.evaluate("modelsoups-told", seed, {"model": told}, (d,))
        if "fusing" in wanted:
            fusing = self._train("fusing", seed, {"start": fused}, config.degradations)
            self.evaluate("fusing", seed, {"model": fusing})
        if "fusiondistill" in wanted:
            inputs = {"start": fused, **{f"teacher-{d}": stage for d, stage in experts.items()}}
            distilled = self._train("fusiondistill", seed, inputs, config.degradations)
            self.evaluate("fusiondistill", seed, {"model": distilled})
            if config.search and isinstance(distilled.spec, TrainSpec):
                inputs = {**inputs, **self._starts(fused, seed)}
                search = self._search(distilled, distilled.spec, inputs, seed)
                searched = self._stage("fusiondistill-searched", seed, distilled.spec, {**inputs, "search": search})
                self.evaluate("fusiondistill-searched", seed, {"model": searched})

    def _stage(self, name: str, seed: int, spec: Spec, inputs: Mapping[str, Stage]) -> Stage:
        stage = Stage(name, seed, spec, inputs, self.plugins)
        return self.stages.setdefault(stage.digest, stage)

    def _data(self, seed: int) -> DataSpec:
        data = self.config.data
        return DataSpec(
            name=data.name,
            fingerprint=self.fingerprint,
            train_images=data.train_images,
            # The test split plays no part in training, unless the epoch is chosen on it.
            test_images=data.test_images if self.config.epoch_choice == "test" else None,
            held_out=self.config.held_out,
            holdout_seed=seed if self.config.held_out else 0,
            mean=data.mean,
            std=data.std,
        )

    def _data_seed(self, seed: int) -> int:
        return PAPER_SEED if self.config.protocol == "paper" else seed

    def _train(self, role: Role, seed: int, inputs: dict[str, Stage], degradations: tuple[str, ...]) -> Stage:
        config = self.config
        recipe = config.recipe(role)
        name = f"{role}-{degradations[0]}" if role == "expert" else role
        if path := _checkpoint_path(recipe.checkpoint, seed, degradations):
            return self._import(name, seed, path)
        pairing = recipe.pairing or ("same" if config.protocol == "paper" else "independent")
        spec = TrainSpec(
            role=role,
            recipe=recipe.model_copy(update={"pairing": pairing, "checkpoint": None}),
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
        return self._stage(name, seed, spec, inputs)

    def _expert(self, base: Stage, degradation: str, seed: int) -> Stage:
        return self._train("expert", seed, {"start": base, f"teacher-{degradation}": base}, (degradation,))

    def existing(self, name: str, seed: int, path: str, model: ModelConfig, card: Mapping[str, Any]) -> Stage:
        """A checkpoint that stands for a stage, with the normalisation of its card."""
        data = self._data(seed)
        if card:
            data = data.model_copy(update={"mean": tuple(card["mean"]), "std": tuple(card["std"])})
        where = absolute(path)
        return self._stage(
            name, seed, CheckpointSpec(sha256=self.sha256_of(where), model=model, data=data, path=where), {}
        )

    def _import(self, name: str, seed: int, path: str) -> Stage:
        return self.existing(name, seed, path, self.config.model, {})

    def _fuse(self, base: Stage, experts: dict[str, Stage], seed: int, told: str | None) -> Stage:
        fusion = self.config.fusion
        if fusion.checkpoint and told is None:
            return self._import("fused", seed, fusion.checkpoint.replace("{seed}", str(seed)))
        recalibrate = fusion.recalibrate or ("none" if self.config.protocol == "paper" else "mixed")
        spec = FuseSpec(
            method=fusion.method,
            recalibrate="mixed" if recalibrate == "per_degradation" else recalibrate,
            told=told,
            images=fusion.images,
            degradations=self.config.degradations,
            data=self._data(seed),
            protocol=self.config.protocol,
            data_seed=self._data_seed(seed),
            threads=self.config.threads,
        )
        inputs = {"base": base, **{f"expert-{d}": stage for d, stage in experts.items()}}
        return self._stage(f"fused-told-{told}" if told else "fused", seed, spec, inputs)

    def _search(self, plain: Stage, train: TrainSpec, inputs: dict[str, Stage], seed: int) -> Stage:
        search = self.config.search
        assert search is not None
        recipe = train.recipe.model_copy(update={"epochs": search.epochs or train.recipe.epochs})
        spec = SearchSpec(
            # Trials are judged on the validation split, whatever epoch the table's rows keep.
            train=train.model_copy(
                update={"recipe": recipe, "world_size": 1, "sync_batchnorm": False, "select": "validation"}
            ),
            trials=search.trials,
            searcher=search.searcher,
            scheduler=search.scheduler,
            seeds=search.seeds,
            space=search.space,
        )
        # The first trial is the distillation itself where nothing tells them apart: it is trained once.
        return self._stage("search", seed, spec, {**inputs, PLAIN: plain} if spec.train == train else inputs)

    def _starts(self, fused: Stage, seed: int) -> dict[str, Stage]:
        """Role -> fuse stage, for every way of fusing that a search may choose; none if it searches no fusion."""
        assert self.config.search is not None
        space, plain = self.config.search.space, fused.spec
        chosen = {key: dimension.choice or dimension.grid for key, dimension in space.items() if key in FUSION_KEYS}
        if not chosen or not isinstance(plain, FuseSpec):
            return {}
        own = (plain.method, plain.recalibrate)
        named = zip(FUSION_KEYS, own, strict=True)
        starts = {}
        for method, recalibrate in dict.fromkeys(
            [own, *itertools.product(*(chosen.get(key) or (one,) for key, one in named))]
        ):
            spec = plain.model_copy(update={"method": method, "recalibrate": recalibrate})
            starts[start_role(method, recalibrate)] = self._stage("fused", seed, spec, fused.inputs)
        return starts

    def _oracle(self, experts: dict[str, Stage], seed: int) -> None:
        for own, expert in experts.items():
            others = self.config.degradations if self.config.evaluation.expert_matrix else (own,)
            for row in self.evaluate(f"expert-{own}", seed, {"model": expert}, others):
                if row.degradation == own:
                    self.rows.append(Row("oracle", seed, own, row.stage))

    def evaluate(
        self, method: str, seed: int, inputs: dict[str, Stage], degradations: tuple[str, ...] | None = None
    ) -> list[Row]:
        """Rows for some of the trained degradations; by default for all of them, and for whatever else is asked for."""
        rows: list[Row] = []
        for name in degradations or self.config.degradations:
            rows += self._rows(method, seed, inputs, name, "trained")
        if degradations is None:
            for name in self.config.evaluation.unseen:
                rows += self._rows(method, seed, inputs, name, "unseen")
            for name in self.corruptions:
                rows += self._rows(method, seed, inputs, name, "corruption")
        self.rows += rows
        return rows

    def _rows(self, method: str, seed: int, inputs: dict[str, Stage], degradation: str, kind: Kind) -> Iterator[Row]:
        """One row for each piece of the levels."""
        evaluation, given, cut_to = self.config.evaluation, kind == "corruption", self.config.data.test_images
        levels = SEVERITIES if given else every(self.levels(degradation), evaluation.every)
        shown = spread(levels, SHOWN)
        for piece in cut(levels, -(-len(levels) * self.test_images // evaluation.piece)):
            spec = EvaluateSpec(
                method=method,
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


def _checkpoint_path(given: str | dict[str, str] | None, seed: int, degradations: tuple[str, ...]) -> str | None:
    if isinstance(given, dict):
        given = given.get(degradations[0]) if degradations else None
    if given is None:
        return None
    name = degradations[0] if len(degradations) == 1 else ""
    return given.replace("{seed}", str(seed)).replace("{degradation}", name)
