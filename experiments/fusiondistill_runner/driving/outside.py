"""What plans need to know about data sets, plugins, networks and corruption sets, read before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fusiondistill.config import Config, DataConfig
from fusiondistill.plugins import read_plugins
from fusiondistill_runner.driving.found import Models
from fusiondistill_runner.driving.network_facts import NetworkFacts, sized
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.rows import CORRUPTED, Plan
from fusiondistill_runner.planning.stage import Stage

__all__ = ["Data", "Outside"]


class Data(NamedTuple):
    """What plans need to know of a data set."""

    fingerprint: str
    images: Mapping[str, Any]
    """Split -> its images; validation, where the set has such a split."""
    size: tuple[int, int]
    """Of the test images: (height, width) in pixels."""

    @property
    def train(self) -> Any:
        """The training images."""
        return self.images["train"]

    @property
    def test(self) -> Any:
        """The test images."""
        return self.images["test"]


class Outside:
    """Reads what plans need to know about data sets, plugins and corruption sets; each of them once."""

    def __init__(self, plugins: Sequence[str], networks: NetworkFacts | None = None) -> None:
        self.plugins = read_plugins(plugins)
        self.data: dict[DataConfig, Data] = {}
        self.corruptions: dict[tuple[str, str], dict[str, str]] = {}  # folder and data -> its files' digests
        self.networks = networks or NetworkFacts()

    def completed(self, config: Config) -> Config:
        """The config with what its images and its weights say of what it leaves out."""
        data = self.data_of(config)
        return self.networks.completed(config, data.train, data.size)

    def of(self, config: Config) -> tuple[str, Any]:
        """Fingerprint of the data, and the levels of each degradation."""
        from fusiondistill.degradations import DEGRADATIONS

        return self.data_of(config).fingerprint, lambda name: DEGRADATIONS[name].levels

    def plan(self, config: Config, shared: dict[str, Stage]) -> Plan:
        """The plan of an experiment, with the normalisation of checkpoints that do not say theirs.

        Args:
            shared: digest -> stage, of all plans for a store.
        """
        facts = {"shared": shared, **self.facts(config)}
        plan = build(config, *self.of(config), **facts)
        if config.data.mean or config.data.std:
            return plan
        found = self.networks.normalisations.of_plan(plan, self.data_of(config).train)
        if found is None:
            return plan
        data = config.data.model_copy(update={"mean": found[0], "std": found[1]})
        return build(config.model_copy(update={"data": data}), *self.of(config), **facts)

    def with_facts(self, config: Config, models: Models) -> Models:
        """Checkpoints to evaluate; those without a card get their network's image size and their normalisation."""
        data, of_file, found = self.data_of(config), self.networks.normalisations.of_file, {}
        for row, (path, model, card) in models.items():
            if not card:
                model = sized(model, data.size)
                if not (config.data.mean or config.data.std):
                    card = dict(zip(("mean", "std"), of_file(path, model, data.train), strict=True))
            found[row] = (path, model, card)
        return found

    def data_of(self, config: Config) -> Data:
        """The images of a config, read once for all configs that see them alike."""
        from fusiondistill.data import load_images
        from fusiondistill.data.loading import locate

        given = config.data
        data = DataConfig(name=given.name, root=given.root, images=given.images, labels=given.labels, **given.loading)
        if data not in self.data:
            there = locate(data.name, data.place, **data.loading)
            splits = dict.fromkeys(("train", *there.splits, "test"))  # a missing one is told by its source
            images = {split: load_images(data.name, split, data.place, **data.loading) for split in splits}
            self.data[data] = Data(there.whole, images, images["test"].size)
        return self.data[data]

    def facts(self, config: Config) -> dict[str, Any]:
        """The rest of what :func:`planning.plan.build` takes."""
        data, folder, model = self.data_of(config), config.evaluation.corruptions, config.model
        found = self._corruptions(folder, data) if folder else {}
        parameters = self.networks.parameters(model, len(data.test.classes), data.size)
        self.networks.check_weights(model, list(data.train.classes))
        facts = {"test_images": len(data.test), "size": data.size, "weights": self.networks.weights(model)}
        facts["validation"] = "validation" in data.images
        return {**facts, "corruptions": found, "parameters": parameters}

    def _corruptions(self, folder: str, data: Data) -> dict[str, str]:
        from fusiondistill.data.corruptions import check_corruptions, corruption_digest, corruption_names

        if (at := (folder, data.fingerprint)) not in self.corruptions:
            check_corruptions(folder, len(data.test.classes), data.size, data.test.labels)
            names = corruption_names(folder)
            self.corruptions[at] = {f"{CORRUPTED}{n}": corruption_digest(folder, n) for n in names}
        return self.corruptions[at]
