"""Which stages make the networks of a method: its start, its teachers, its merge, its search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fusiondistill.config import Config, ModelConfig, SearchConfig
from fusiondistill.degradation_config import DegradationConfig, in_bands
from fusiondistill.locations import absolute
from fusiondistill.losses import need_of
from fusiondistill.methods import Combined, Inference, Merge, Merged, Trained, searched_name
from fusiondistill.recipe import Augmentation, Recipe
from fusiondistill.recipes import PRETRAINED, RANDOM
from fusiondistill_runner.planning.specs import (
    CheckpointSpec,
    DataSpec,
    FitSpec,
    MergeSpec,
    PackSpec,
    PretrainedSpec,
    SearchSpec,
    Spec,
    TrainSpec,
)
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.planning.trials import AS_IT_STANDS, search_name

__all__ = ["Networks", "StagesOfMethods"]

Networks = dict[str, Stage]
"""The networks that a method gives: id of a degradation -> stage, or one stage under ""."""


class StagesOfMethods:
    """Makes the stages of methods; methods that need the same stage share it.

    Args:
        config: the experiment.
        fingerprint: of its data source.
        sha256_of: digest of a checkpoint's weights, by its path.
        stages: digest -> stage, filled here.
        validation: whether the data set has its own validation split, which is used unless the config says how
            much is held out.
        weights: the file of ``model.weights``, where the config does not name one.
    """

    def __init__(
        self,
        config: Config,
        fingerprint: str,
        sha256_of: Callable[[str], str],
        stages: dict[str, Stage],
        *,
        validation: bool = False,
        weights: str | None = None,
    ) -> None:
        self.validation, self.weights, self.model = validation, weights, config.model.network
        self.config, self.fingerprint, self.sha256_of, self.stages = config, fingerprint, sha256_of, stages
        self.made: dict[tuple[str, int], Networks] = {}
        self._data: dict[int, DataSpec] = {}

    def of(self, name: str, seed: int) -> Networks:
        """The networks of a method, made once."""
        if (name, seed) not in self.made:
            self.made[name, seed] = self._networks(name, seed)
        return self.made[name, seed]

    def _networks(self, name: str, seed: int) -> Networks:
        method = self.config.table[name]
        if isinstance(method, Combined):
            return self.of(method.of, seed)
        if isinstance(method, Merged):
            if method.checkpoint:
                return {"": self.existing("fused", seed, _path(method.checkpoint, seed), self.model, {})}
            if method.start.recalibrate == "per_degradation":
                return {d.id: self._merge(method.start, seed, d.id) for d in self._bands(method.start.of)}
            return {"": self._merge(method.start, seed, None)}
        if method.train_on == "each":
            return self._experts(name, method, seed)
        return {"": self._train(name, method, seed, self._bands(name) if method.train_on == "all" else ())}

    def _bands(self, name: str) -> tuple[DegradationConfig, ...]:
        """What a method normalises apart: the degradations, or bands of their levels."""
        method = self.config.table[name]
        return in_bands(self.config.degradations, method.bands if isinstance(method, Trained) else 1)

    def _experts(self, name: str, method: Trained, seed: int) -> Networks:
        """A network for each degradation, after each round of ``average_every`` epochs all replaced by their average.

        Each round is a separate training that starts from the average and does the next epochs of the recipe: what is
        stored, shared and resumed is one mechanism. The last round's networks are the method's.
        """
        seen = self.config.degradations
        every, epochs = method.average_every, method.epochs
        if every is None or method.checkpoint:
            return {d.id: self._train(f"{name}-{d.id}", method, seed, (d,)) for d in seen}
        average, found = Merge(merge="average", of=name), Networks()
        for number, first in enumerate(range(0, epochs, every), 1):
            span, last = (first, min(first + every, epochs)), first + every >= epochs
            start: dict[str, Stage] = {}
            if found:
                role = f"{name}-average{number - 1}"
                start = {"start": self._merge_of(average, found, self._base(average, seed), seed, name=role)}
            ending = "" if last else f"-round{number}"
            found = {d.id: self._train(f"{name}-{d.id}{ending}", method, seed, (d,), span, start) for d in seen}
        return found

    def _train(
        self,
        name: str,
        method: Trained,
        seed: int,
        degradations: tuple[DegradationConfig, ...],
        span: tuple[int, int] | None = None,
        start: Mapping[str, Stage] | None = None,
    ) -> Stage:
        """The training of a network.

        Args:
            span: see :class:`TrainSpec`.
            start: in place of what the method starts from.
        """
        config = self.config
        ids = tuple(one.id for one in degradations)
        if path := _checkpoint(method.checkpoint, seed, ids):
            return self.existing(name, seed, path, self.model, {})
        spec = TrainSpec(
            recipe=_recipe_in_bands(method),
            degradations=degradations,
            data=self.data(seed),
            model=self.model,
            flip=config.data.flip,
            protocol=config.protocol,
            select=config.epoch_choice,
            data_seed=self._data_seed(seed),
            world_size=config.resources.workers_per_run,
            threads=config.threads,
            sync_batchnorm=config.resources.sync_batchnorm and config.resources.workers_per_run > 1,
            span=span,
            **self._taught(method, seed),
        )
        start = start or self._start(method, seed, ids)
        return self.stage(name, seed, spec, {**start, **self._teachers(method, seed, ids)})

    def _start(self, method: Trained, seed: int, degradations: tuple[str, ...]) -> dict[str, Stage]:
        if isinstance(method.start, Merge):
            return {"start": self._merge(method.start, seed, None)}
        if method.start == RANDOM:
            return {}
        if method.start == PRETRAINED:
            return {"start": self._pretrained(seed)}
        networks = self.of(method.start, seed)
        return {"start": networks[""] if "" in networks else networks[degradations[0]]}

    def _pretrained(self, seed: int) -> Stage:
        """The weights of ``model.weights``; ``weights`` is where they lie."""
        at = absolute(self.weights or str(self.config.model.weights))
        new_head = self.config.model.weights == PRETRAINED
        spec = PretrainedSpec(
            sha256=self.sha256_of(at), new_head=new_head, model=self.model, data=self.data(seed), path=at
        )
        return self.stage(PRETRAINED, seed, spec, {})

    def _teachers(self, method: Trained, seed: int, degradations: tuple[str, ...]) -> dict[str, Stage]:
        """Role -> teacher of a degradation; the role of a teacher of clean images is ``teacher-clean``."""
        if method.teachers is None or not self._needs_teachers(method):
            return {}
        networks = self.of(method.teachers.of, seed)
        if method.teachers.together:
            return {f"teacher-{d}": network for d, network in networks.items()}
        return {f"teacher-{d}": networks[""] if "" in networks else networks[d] for d in degradations or ("clean",)}

    def _taught(self, method: Trained, seed: int) -> dict[str, Any]:
        """What a training's spec says of teachers that teach together."""
        if method.teachers is None or not method.teachers.together or not self._needs_teachers(method):
            return {}
        return {"taught_by": method.teachers.by, "together": tuple(self.of(method.teachers.of, seed))}

    def _needs_teachers(self, method: Trained) -> bool:
        """Whether a term of the loss needs teachers, or a term that a search may turn on."""
        searches = (s for s in self.config.search if self.config.table[s.of] is method)
        keys = (key for search in searches for key in search.space)
        terms = {key.split(".")[1] for key in keys if key.startswith("loss.")}
        return method.taught or any(need_of(term) != "nothing" for term in terms)

    def _merge(self, merge: Merge, seed: int, told: str | None) -> Stage:
        name = f"fused-told-{told}" if told else "fused"
        return self._merge_of(merge, self.of(merge.of, seed), self._base(merge, seed), seed, told, name=name)

    def _merge_of(
        self,
        merge: Merge,
        networks: Networks,
        base: Mapping[str, Stage],
        seed: int,
        told: str | None = None,
        *,
        name: str,
    ) -> Stage:
        """The merge of some networks; ``base`` has what they started from, if that is one network."""
        config = self.config
        recalibrate = merge.recalibrate or config.assumed.recalibrate
        spec = MergeSpec(
            merge=merge.merge,
            parameters=merge.parameters,
            recalibrate="mixed" if recalibrate == "per_degradation" else recalibrate,
            told=told,
            images=merge.images,
            degradations=self._bands(merge.of) if told else config.degradations,
            data=self.data(seed),
            protocol=config.protocol,
            data_seed=self._data_seed(seed),
            threads=config.threads,
            augmentation=self._augmentation(merge.of),
        )
        merged = {f"expert-{d}": stage for d, stage in networks.items()}
        return self.stage(name, seed, spec, {**base, **merged})

    def _augmentation(self, name: str) -> Augmentation | None:
        """How the images of a method's training were cut and covered; None where it was trained elsewhere."""
        method = self.config.table[name]
        return method.augmentation if isinstance(method, Trained) and method.checkpoint is None else None

    def _base(self, merge: Merge, seed: int) -> dict[str, Stage]:
        """The network that all merged ones started from, if there is one."""
        of = self.config.table[merge.of]
        assert isinstance(of, Trained)
        starts = [self._start(of, seed, (d.id,)).get("start") for d in self.config.degradations]
        first = starts[0]
        return {"base": first} if first is not None and all(start is first for start in starts) else {}

    def whole(self, name: str, seed: int, inference: Inference, networks: Networks) -> Stage:
        """The networks of a method with what makes them answer, as one file; its fitted part is a separate stage."""
        inputs = {f"expert-{d}" if d else "model": stage for d, stage in networks.items()}
        if inference.entry().fits:
            fit = FitSpec(
                inference=inference.name,
                parameters=inference.parameters,
                degradations=self.config.degradations,
                data=self.data(seed),
                protocol=self.config.protocol,
                data_seed=self._data_seed(seed),
                threads=self.config.threads,
                model=self.model,
            )
            inputs["part"] = self.stage(inference.name, seed, fit, {})
        spec = PackSpec(
            inference=inference.name, parameters=inference.parameters, data=self.data(seed), threads=self.config.threads
        )
        return self.stage(name, seed, spec, inputs)

    def searched(self, name: str, seed: int, degradation: str, plain: Stage, search: SearchConfig) -> Stage:
        """The training with the values that its search finds; the search is its input."""
        train = plain.spec
        if not isinstance(train, TrainSpec):
            return plain  # a checkpoint stands for it
        method = self.config.table[name]
        assert isinstance(method, Trained)
        epochs = _epochs_in_bands(search.epochs, method.bands) if search.epochs else train.recipe.epochs
        recipe = train.recipe.model_copy(update={"epochs": epochs})
        # Trials are judged on the validation split, also where the table's rows keep the last epoch.
        alone = {"recipe": recipe, "world_size": 1, "sync_batchnorm": False, "select": "validation"}
        settings = {key: getattr(search, key) for key in ("trials", "searcher", "scheduler", "seeds", "space")}
        spec = SearchSpec(train=train.model_copy(update=alone), **settings)
        # Where the row's own training is the first trial, the search takes its result: it is trained once.
        inputs = {**plain.inputs, AS_IT_STANDS: plain} if spec.train == train else plain.inputs
        ending = f"-{degradation}" if degradation else ""
        stage = self.stage(search_name(name, degradation), seed, spec, inputs)
        return self.stage(f"{searched_name(name)}{ending}", seed, train, {**plain.inputs, "search": stage})

    def existing(self, name: str, seed: int, path: str, model: ModelConfig, card: Mapping[str, Any]) -> Stage:
        """A checkpoint that stands for a stage, with the normalisation of its card."""
        data = self.data(seed)
        if card:
            data = data.model_copy(update={"mean": tuple(card["mean"]), "std": tuple(card["std"])})
        at = absolute(path)
        return self.stage(name, seed, CheckpointSpec(sha256=self.sha256_of(at), model=model, data=data, path=at), {})

    def stage(self, name: str, seed: int, spec: Spec, inputs: Mapping[str, Stage]) -> Stage:
        """The stage with this content; the one that another method has made, where there is one."""
        stage = Stage(name, seed, spec, inputs)
        return self.stages.setdefault(stage.digest, stage)

    def data(self, seed: int) -> DataSpec:
        """The images of a run of this seed."""
        if seed not in self._data:
            self._data[seed] = self._data_of(seed)
        return self._data[seed]

    def _data_of(self, seed: int) -> DataSpec:
        data, config = self.config.data, self.config
        own = self.validation and data.validation is None and config.held_out > 0
        return DataSpec(
            name=data.name,
            fingerprint=self.fingerprint,
            train_images=data.train_images,
            # The test split plays no part in training, unless the epoch is chosen on it.
            test_images=data.test_images if config.epoch_choice == "test" else None,
            held_out=0.0 if own else config.held_out,
            holdout_seed=seed if config.held_out and not own else 0,
            mean=data.mean,
            std=data.std,
            validation_split=own,
            **data.loading,
        )

    def _data_seed(self, seed: int) -> int:
        fixed = self.config.assumed.data_seed
        return seed if fixed is None else fixed


def _recipe_in_bands(method: Trained) -> Recipe:
    """The recipe of a training under so many bands, at the cost of one without."""
    recipe, bands = method.recipe, method.bands
    if bands == 1:
        return recipe
    sizes = {"epochs": _epochs_in_bands(recipe.epochs, bands), "batch_size": max(2, recipe.batch_size // bands)}
    return recipe.model_copy(update=sizes)


def _epochs_in_bands(epochs: int, bands: int) -> int:
    """Epochs with so many bands, each of which sees the images once, at the cost of these epochs without."""
    return max(1, round(epochs / bands))


def _path(given: str, seed: int, degradation: str = "") -> str:
    return given.replace("{seed}", str(seed)).replace("{degradation}", degradation)


def _checkpoint(given: str | Mapping[str, str] | None, seed: int, degradations: tuple[str, ...]) -> str | None:
    if isinstance(given, Mapping):
        given = given.get(degradations[0]) if degradations else None
    return None if given is None else _path(given, seed, degradations[0] if len(degradations) == 1 else "")
