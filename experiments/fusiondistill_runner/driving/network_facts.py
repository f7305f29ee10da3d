"""What a plan's network is like, and what a config leaves open of it: found before a worker starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fusiondistill.config import Config, DataConfig, ModelConfig
from fusiondistill.locations import absolute
from fusiondistill.methods import BASE
from fusiondistill.pixel_scale import in_words, of_pixels
from fusiondistill.recipes import PRETRAINED
from fusiondistill_runner.driving.normalisations import Normalisations
from fusiondistill_runner.planning.rows import Plan
from fusiondistill_runner.planning.specs import EvaluateSpec, MergeSpec, PackSpec, SearchSpec

if TYPE_CHECKING:
    import torch

    from fusiondistill.data import ImageSet
    from fusiondistill.models.network import FeatureNetwork

__all__ = ["NetworkFacts", "on_pixel_scale"]

SIZE = "img_size"
"""A parameter of networks that are built for one image size; left out, it is that of the images."""
MOST_FILES = 4
"""Checkpoints that are kept in memory while a plan is made."""
SIDES = (32, 64, 96, 128, 160, 224, 256, 299, 384, 512)
"""Sizes in pixels a side that a network is tried with, to say which it takes."""


class NetworkFacts:
    """Completes the networks of configs, and looks at each network once.

    Attributes:
        notes: what users should know, a sentence each.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._weights: dict[str, str] = {}
        self._origins: dict[Any, str] = {}
        self._files: dict[str, tuple[Mapping[str, torch.Tensor], Mapping[str, Any]]] = {}
        self._without_batchnorm: set[str] = set()
        self._fitting: set[tuple[ModelConfig, tuple[str, ...]]] = set()
        self.normalisations = Normalisations(self.read, self._say)
        self._parameters: dict[tuple[ModelConfig, int, tuple[int, int]], int] = {}

    def completed(self, config: Config, train: ImageSet, size: tuple[int, int]) -> Config:
        """The config with what is left out of it: the network's image size, the normalisation of its weights.

        Args:
            train: the training images.
            size: (height, width) of the test images.

        Raises:
            ValueError: mean and std are on different scales.
            CheckpointError: weights are missing, or cannot be fetched.
        """
        model = sized(config.model, size)
        data = self._normalised(on_pixel_scale(config.data, self._say), model)
        return config.model_copy(update={"model": model, "data": data})

    def weights(self, model: ModelConfig) -> str | None:
        """The file of ``model.weights``, fetched where it is not in its library's cache; None: there are none."""
        from fusiondistill.networks import NETWORKS

        if model.weights in (None, PRETRAINED):
            if model.weights and model.name not in self._weights:
                self._weights[model.name] = str(NETWORKS.provider(model.name).pretrained(model.name).fetch())
            return self._weights.get(model.name) if model.weights else None
        return model.weights

    def _normalised(self, data: DataConfig, model: ModelConfig) -> DataConfig:
        """The data section with the normalisation that the network's weights were trained with."""
        from fusiondistill.networks import NETWORKS

        if model.weights is None:
            return data
        if model.weights == PRETRAINED:
            found = NETWORKS.provider(model.name).pretrained(model.name)
            name, mean, std = found.name, found.mean, found.std
        elif card := self.read(model.weights)[1]:
            name, mean, std = f"the card of {model.weights}", tuple(card["mean"]), tuple(card["std"])
        else:
            return data
        if data.mean or data.std:
            if (data.mean or mean, data.std or std) != (mean, std):
                self._say(f"model.weights were trained with mean {in_words(mean)} and std {in_words(std)} ({name}); "
                          "data.mean and data.std stay as they are given")  # fmt: skip
            return data
        self._say(f"normalisation: mean {in_words(mean)}, std {in_words(std)}, from {name}")
        self._origins[mean, std] = f"that of {name}"
        return data.model_copy(update={"mean": mean, "std": std})

    def origin(self, plan: Plan, train: ImageSet) -> str:
        """How a plan's networks normalise images, and how that was found, in words."""
        from fusiondistill.sources import SOURCES

        data, told = plan.config.data, list[str]()
        specs = (stage.spec.train if isinstance(stage.spec, SearchSpec) else stage.spec for stage in plan.stages)
        kinds = dict.fromkeys((s.data.mean, s.data.std) for s in specs if not isinstance(s, EvaluateSpec))
        for mean, std in kinds:
            found = (tuple(mean or train.mean), tuple(std or train.std))
            if mean or std:
                why = self._origins.get(found) or self.normalisations.why.get(found)
                why = why or ("given" if data.mean or data.std else "that of a checkpoint's card")
            else:
                why = "published for the data set" if SOURCES[data.name].mean else "that of the training images"
            told.append(f"mean {in_words(found[0])}, std {in_words(found[1])}: {why}")
        return "; ".join(told)

    def read(self, path: str) -> tuple[Mapping[str, torch.Tensor], Mapping[str, Any]]:
        """State dict, ``as_written``, and checked card of a checkpoint; of a few each is read once.

        Raises:
            CheckpointError: as :func:`fusiondistill.load_checkpoint`.
        """
        from fusiondistill.checkpoints import check_card, load_checkpoint

        path = absolute(path)
        if path not in self._files:
            while len(self._files) >= MOST_FILES:
                del self._files[next(iter(self._files))]
            state, card = load_checkpoint(path, as_written=True)
            if card:
                check_card(card, path)
            self._files[path] = state, card
        return self._files[path]

    def check_weights(self, model: ModelConfig, classes: list[str]) -> None:
        """Check once that a network's weights fit it; a note says what becomes of its head.

        Raises:
            CheckpointError: they do not.
        """
        from fusiondistill.starting import built, start_from
        from fusiondistill_runner.working.pretrained import makes_head

        path, key = self.weights(model), (model, tuple(classes))
        if path is None or key in self._fitting:
            return
        start = start_from(
            built(model, len(classes)),
            model,
            len(classes),
            self.read(path),
            path,
            new_head=makes_head(model.weights == PRETRAINED, self.read(path)[1], classes),
        )
        self._say(f"{BASE} starts from {path}: {'; '.join(start.notes)}")
        self._fitting.add(key)

    def parameters(self, model: ModelConfig, classes: int, size: tuple[int, int]) -> int:
        """How many parameters a network has. One black image goes through it.

        Args:
            size: (height, width) of the images.

        Raises:
            ValueError: it does not take images of that size; the message says which it takes.
        """
        from fusiondistill.starting import built

        key = (model.network, classes, size)
        if key not in self._parameters:
            network = built(model, classes)
            check_size(network, model, classes, size)
            self._parameters[key] = sum(weight.numel() for weight in network.parameters())
            if not has_statistics(network):
                self._without_batchnorm.add(model.name)
        return self._parameters[key]

    def of(self, plan: Plan) -> Iterator[str]:
        """What users should know of a plan's network, a sentence each."""
        merges = [one.spec for one in plan.stages if isinstance(one.spec, MergeSpec) and one.spec.recalibrate != "none"]
        if merges and plan.config.model.name in self._without_batchnorm:
            yield (
                f"{plan.config.model.name} has no BatchNorm: a merge's recalibrate: {merges[0].recalibrate} changes "
                "nothing"
            )
        adapting = [one.spec for one in plan.stages if isinstance(one.spec, PackSpec) and one.spec.transductive]
        if adapting and plan.config.model.name in self._without_batchnorm:
            yield f"{plan.config.model.name} has no BatchNorm: inference: {adapting[0].inference} changes nothing"

    def _say(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def has_statistics(network: FeatureNetwork) -> bool:
    """Whether a network has a BatchNorm that keeps statistics."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return any(isinstance(one, _BatchNorm) and one.running_mean is not None for one in network.modules())


def sized(model: ModelConfig, size: tuple[int, int]) -> ModelConfig:
    """The network built for images of (height, width), where it has such a parameter that is left out."""
    entry = model.entry()
    if entry is None or SIZE not in entry.parameters.model_fields or model.parameters.get(SIZE) is not None:
        return model
    return ModelConfig(**{**model.model_dump(), SIZE: list(size)})


def check_size(network: FeatureNetwork, model: ModelConfig, classes: int, size: tuple[int, int]) -> None:
    """Raise ValueError where a network does not take images of (height, width), or gives no feature map of them."""
    problem = _problem(network, classes, size)
    if problem is None:
        return
    taken = next((side for side in SIDES if _problem(network, classes, (side, side)) is None), None)
    entry = model.entry()
    if taken is None and entry is not None and entry.plugin:
        _forward(network, size)  # raises: a mistake in the plugin, which is told with its line
    hint = f"; it takes {taken}x{taken}: write data: {{size: {taken}}}" if taken else ""
    vit = "" if model.name.startswith("timm/") or "vit" not in model.name else ", or take one of timm's (timm/vit_...)"
    raise ValueError(f"{model.name} does not take images of {size[1]}x{size[0]} pixels ({problem}){hint}{vit}")


def _problem(network: FeatureNetwork, classes: int, size: tuple[int, int]) -> str | None:
    """What goes wrong with one image of (height, width), in a line; None: nothing."""
    try:
        logits = _forward(network, size)
    except Exception as error:  # a network may raise anything at a size that does not suit it
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    return None if logits.shape == (1, classes) else f"it gives {list(logits.shape)} for {classes} classes"


def _forward(network: FeatureNetwork, size: tuple[int, int]) -> torch.Tensor:
    """Logits of one black image of (height, width); torch's generator stays as it is."""
    import torch

    network.eval()
    with torch.no_grad(), torch.random.fork_rng([]):
        return network.forward_features(torch.zeros(1, 3, *size))[0]


def on_pixel_scale(data: DataConfig, say: Any) -> DataConfig:
    """The data section with mean and std on the scale 0..255; values below 1 are read as those of 0..1, and said.

    Raises:
        ValueError: one of them is on the scale 0..1, the other is not.
    """
    mean, std = of_pixels(data.mean, data.std, say, "data.")
    return data.model_copy(update={"mean": mean, "std": std})
