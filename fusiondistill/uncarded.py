"""A card for a checkpoint that carries none, from what its user says: network, normalisation, classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fusiondistill.cards import card_of
from fusiondistill.commits import CheckpointError
from fusiondistill.pixel_scale import of_pixels
from fusiondistill.registry import close_to
from fusiondistill.released import depth_of, renamed

if TYPE_CHECKING:
    import torch

    from fusiondistill.config import ModelConfig
    from fusiondistill.data import ImageSet

    State = Mapping[str, torch.Tensor]

__all__ = ["Told", "with_card"]


@dataclass(frozen=True)
class Told:
    """What a caller states about a file without a card.

    Attributes:
        model: a network's name, or a mapping as ``model:`` of a config has it; None: a CIFAR ResNet, whose tensors name
            it.
        mean, std: per channel, on the scale 0..255 or 0..1.
        classes: their names in the order of the outputs, or how many; None: as many as the file's head has.
        size: (height, width) of the images of its training; None: it takes any.
        dataset: the name of these images.
    """

    model: str | Mapping[str, Any] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    classes: Sequence[str] | int | None = None
    size: int | tuple[int, int] | None = None
    dataset: str = ""

    def of(self, images: ImageSet) -> Told:
        """The values that are not given, taken from images with the classes and the normalisation of the training."""
        height, width = images.size
        return replace(
            self,
            mean=self.mean or images.mean,
            std=self.std or images.std,
            classes=self.classes or list(images.classes),
            size=self.size or (height, width),
            dataset=images.name,
        )


def with_card(state: State, told: Told, source: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights under the names of their network, and a card.

    Args:
        state: of the file, ``as_written``.
        source: the file, for messages.

    Raises:
        CheckpointError: what is needed is not said, or the weights do not fit the network.
        ValueError: no such network; or mean and std are not three numbers each, or on different scales.
    """
    from fusiondistill.checkpoints import fitted
    from fusiondistill.foreign import unwrapped
    from fusiondistill.starting import built

    depth = depth_of(renamed(unwrapped(state)))
    lacking = [] if told.model or depth else ["model"]
    lacking += [name for name in ("mean", "std") if getattr(told, name) is None]
    if lacking:
        raise CheckpointError(_asked(source, lacking))
    model = _network(told.model or f"cifar_resnet{depth}")
    mean, std = of_pixels(told.mean, told.std)
    if mean is None or std is None or len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"mean and std must be three numbers each, std above 0; got {told.mean} and {told.std}")
    count = told.classes if isinstance(told.classes, int) else len(told.classes or ()) or _outputs(model, state)
    if not count:
        raise CheckpointError(
            f"{source}: how many classes it has cannot be told of its head: give classes=[...], or --classes"
        )
    found = fitted(state, {}, source, model.name, built(model, count).state_dict()).state
    listed = told.classes if isinstance(told.classes, Sequence) else None
    card = card_of(
        model.name,
        model.feature_layer,
        classes=list(listed or map(str, range(count))),
        mean=mean,
        std=std,
        size=(told.size, told.size) if isinstance(told.size, int) else told.size or (0, 0),
        dataset=told.dataset,
        parameters=model.parameters,
    )
    return found, card if told.size else {key: value for key, value in card.items() if key != "size"}


def _network(given: str | Mapping[str, Any]) -> ModelConfig:
    from pydantic import ValidationError

    from fusiondistill.config import ModelConfig

    said: dict[str, Any] = {"name": given} if isinstance(given, str) else dict(given)
    try:
        return ModelConfig(**said)
    except ValidationError as error:
        first = error.errors()[0]
        key, told = ".".join(map(str, first["loc"])), first["msg"]
        if first["type"] == "extra_forbidden":
            told = f"unknown key{close_to(key, [*ModelConfig.model_fields, *ModelConfig.parameter_names(said)])}"
        raise ValueError(f"model: {key}: {told}") from None


def _asked(source: str, lacking: list[str]) -> str:
    return (
        f"{source} carries no card: it does not say its {', '.join(lacking)}. Say it, as its training had it: "
        "--model resnet18 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --classes cat,dog; or from Python "
        "model='resnet18', mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), classes=['cat', 'dog'], or "
        "trained_on=load_images('cifar100', 'test'), images of the training's classes and normalisation"
    )


def _outputs(model: ModelConfig, state: State) -> int | None:
    """How many classes the head of a file has; None: its shape does not say it, or it is that of another network."""
    from fusiondistill.foreign import Unmatched, matched
    from fusiondistill.starting import head_of, shapes_of

    few, more = shapes_of(model, 2), shapes_of(model, 3)
    try:
        there = matched(few, state, shapes=False).state
    except Unmatched:
        return 2  # `fitted` says what is wrong
    found = {
        there[key].shape[place]
        for key in head_of(model, 2)
        if key in there and there[key].dim() == few[key].dim()
        for place, sides in enumerate(zip(few[key].shape, more[key].shape, strict=True))
        if sides == (2, 3)
    }
    return found.pop() if len(found) == 1 else None
