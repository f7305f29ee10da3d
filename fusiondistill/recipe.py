"""What one training stage does, as a frozen value: optimiser, schedule, loss weights, view of the teachers.

Nothing here imports torch, so that a mistake in a file is reported in the blink of an eye.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from fusiondistill.frozen import Frozen, Positive, Weight
from fusiondistill.loss import Loss, merged_loss, set_loss_key
from fusiondistill.losses import LOSSES
from fusiondistill.parametrised import wrong

__all__ = [
    "MOMENTUM",
    "Count",
    "Fraction",
    "Frozen",
    "Layout",
    "Loss",
    "Optimizer",
    "Positive",
    "Precision",
    "Recipe",
    "Schedule",
    "Weight",
    "flat",
    "merged",
    "with_keys",
]

Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]


def _class_weights(given: Any) -> Any:
    """What a config says of class weights, if it has one of the forms."""
    if isinstance(given, str) and given in ("none", "balanced"):
        return given
    known = given if isinstance(given, Mapping) else dict(enumerate(given)) if isinstance(given, list | tuple) else {}
    if not known:
        raise ValueError(
            "must be none, balanced, a list with a weight for each class, or a mapping from classes to weights, not "
            f"{given!r}"
        )
    for name, weight in known.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise ValueError(f"must be numbers above 0, and that of {name} is {weight!r}")
    if isinstance(given, Mapping):
        return {str(name): float(weight) for name, weight in known.items()}
    return tuple(map(float, known.values()))


ClassWeights = Annotated[str | tuple[float, ...] | dict[str, float], BeforeValidator(_class_weights)]


def _layout(given: Any) -> Any:
    """What a config says of the memory layout, if it is one of the three."""
    if isinstance(given, bool) or given == "auto":
        return given
    raise ValueError(f"must be auto, true or false, not {given!r}")


Precision = Literal["fp32", "bf16", "fp16"]
Layout = Annotated[Literal["auto"] | bool, BeforeValidator(_layout)]


MOMENTUM = frozenset({"sgd", "muon"})
"""The optimisers that keep a momentum, one number for each weight; the others keep two moments."""


class Optimizer(Frozen):
    """The optimiser of a training."""

    name: Literal["sgd", "radam", "adamw", "muon"] = Field(
        description="sgd, radam, adamw, or muon (orthogonalised momentum for the weights of layers)"
    )
    lr: Positive = Field(description="the highest learning rate")
    momentum: Fraction = Field(0.9, description="sgd and muon only")
    nesterov: bool = Field(False, description="sgd and muon only: Nesterov's momentum")
    weight_decay: Weight = Field(
        1e-4, description="L2 penalty, coupled to the gradient (sgd, radam) or decoupled (adamw, muon)"
    )


class Schedule(Frozen):
    """The learning rate as a pure function of the epoch, or of the step."""

    name: Literal["steps", "cosine", "linear", "constant"] = Field(
        "steps", description="steps, cosine (to 0), linear (to 0) or constant"
    )
    milestones: tuple[Fraction, ...] = Field(
        (), description="steps only: where the rate drops, as fractions of all epochs"
    )
    factor: Positive = Field(0.2, description="steps only: the factor of the rate at each milestone")
    by: Literal["epoch", "step"] = Field(
        "epoch", description="cosine and linear: whether the rate falls after every epoch or after every step"
    )
    warmup: Fraction = Field(
        0.0, description="fraction of all epochs in which the rate also rises from 0, by the step; 0 for none"
    )

    @field_validator("milestones")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("must ascend, like [0.3, 0.7, 0.9]")
        return value

    def rate(self, epoch: int, epochs: int, part: float = 0.0) -> float:
        """The factor on the learning rate.

        Args:
            epoch: the epoch under way, from 0.
            epochs: of the whole training.
            part: how much of the epoch is over, 0 to 1. A step is taken at its middle, so that no step has rate 0.
        """
        done = epoch + part
        rise = min(1.0, done / (self.warmup * epochs)) if self.warmup else 1.0
        return rise * self._fall(epoch, done if self.by == "step" else epoch, epochs)

    def _fall(self, epoch: int, done: float, epochs: int) -> float:
        if self.name == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done / epochs))
        if self.name == "linear":
            return 1 - done / epochs
        if self.name == "steps":
            return self.factor ** sum(epoch >= max(1, round(m * epochs)) for m in self.milestones)
        return 1.0


class Augmentation(Frozen):
    """The keys of a recipe that say how training images are cut and covered, beside flips; see :class:`Recipe`."""

    crop_padding: int
    resized_crop: tuple[float, float] | None
    resized_crop_ratio: tuple[float, float]
    cutout: int | None
    largest_cutout: int | None

    def of(self, size: tuple[int, int]) -> dict[str, Any]:
        """The fields of a :class:`fusiondistill.batches.Pipeline` for images of this height and width in pixels.

        The hole's side is half of the shorter one, up to ``largest_cutout``, where ``cutout`` does not say.
        """
        half = min(size) // 2
        hole = half if self.largest_cutout is None else min(half, self.largest_cutout)
        return {
            "padding": self.crop_padding,
            "scale": self.resized_crop,
            "ratio": self.resized_crop_ratio,
            "cutout": hole if self.cutout is None else self.cutout,
        }


class Recipe(Frozen):
    """Everything that one training stage does; defaults by shape are in :mod:`fusiondistill.recipes`."""

    epochs: Count = Field(description="passes over the training images (with several degradations: over each)")
    batch_size: Annotated[int, Field(ge=2)] = Field(128, description="images of each degradation in a step")
    optimizer: Optimizer = Field(description="the optimiser; a name alone stands for {name: ...}")
    schedule: Schedule = Field(description="the course of the learning rate; replaces the default as a whole")
    loss: Loss = Field(description="loss term -> weight, or {weight, parameters of the term}")
    teacher_view: Literal["clean", "degraded"] = Field("clean", description="the view that the teachers see")
    crop_padding: Annotated[int, Field(ge=0, le=64)] = Field(4, description="zero padding before the random crop")
    resized_crop: tuple[Share, Share] | None = Field(
        None,
        description="[low, high]: cut out a random part of this share of the area and enlarge it, before the "
        "degradation and in place of the padded crop; a number stands for low, up to all of it; default: none",
    )
    resized_crop_ratio: tuple[Positive, Positive] = Field(
        (3 / 4, 4 / 3), description="[low, high]: width over height of what resized_crop cuts out"
    )
    cutout: Annotated[int, Field(ge=0)] | None = Field(
        None, description="side of the square hole in pixels, 0 for none; default: half the image"
    )
    largest_cutout: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="at most so many pixels where cutout is half the image; default: no limit, paper 16 for what "
        "starts from merged weights",
    )
    pairing: Literal["same", "independent"] = Field(
        "independent", description="do all degradations of a step hold the same images? default: by protocol"
    )
    coupled_draws: bool = Field(
        False,
        description="do degradations with equally many levels draw the same one for an image, and do those without "
        "random numbers share the hole of their cutout? default: by protocol",
    )
    class_weights: ClassWeights = Field(
        "none",
        description="weights of images in the cross-entropy: none, balanced (n / (k n_c)), a list with a weight for "
        "each class, or a mapping from classes to weights (others weigh 1)",
    )
    sampling: Literal["uniform", "balanced"] = Field(
        "uniform",
        description="uniform: each image once an epoch; balanced: as many images of each class, some repeatedly or "
        "not at all",
    )
    ema: Fraction = Field(
        0.0,
        description="decay by the step of an exponential moving average of the weights, which is validated and kept in "
        "their place, with BatchNorm recomputed; 0 for none (Polyak and Juditsky 1992)",
    )
    swa: Fraction = Field(
        0.0,
        description="fraction of all epochs after which the mean of the weights at the ends of epochs is validated and "
        "kept in their place, with BatchNorm recomputed; 0 for none (Izmailov et al. 2018, arXiv:1803.05407)",
    )
    pull: Weight = Field(
        0.0,
        description="weight w of w/2 |weights - start|^2, which keeps a network near its start; coupled or decoupled "
        "as weight_decay is; 0 for none (L2-SP; Li et al. 2018, arXiv:1802.01483)",
    )
    mixup: Weight = Field(
        0.0,
        description="alpha of Beta(alpha, alpha), from which each image's share in a mixture with another of the same "
        "degradation is drawn; teachers see the mixture; 0 for none (Zhang et al. 2018, arXiv:1710.09412)",
    )
    batchnorm: Literal["together", "apart"] = Field(
        "together",
        description="what BatchNorm normalises by in training on all degradations: all images of a step, or those of "
        "each degradation apart (Chang et al. 2019, arXiv:1906.03950); then answer with statistics of each, as the row "
        "`recommended` does",
    )
    precision: Precision = Field("fp32", description="precision of the forward pass (autocast)")
    channels_last: Layout = Field(
        "auto",
        description="NHWC memory layout: true, false, or auto, where network and processor are faster so; changes "
        "results by rounding alone and makes no other stage",
    )
    compile: bool = Field(False, description="torch.compile the student")

    @property
    def augmentation(self) -> Augmentation:
        """How it cuts and covers images."""
        return Augmentation(**{key: getattr(self, key) for key in Augmentation.model_fields})

    @field_validator("resized_crop", "resized_crop_ratio")
    @classmethod
    def _rising(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value and value[0] > value[1]:
            raise ValueError(f"must be [low, high], and {value[0]:g} is above {value[1]:g}")
        return value

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.ema and self.swa:
            raise wrong(("swa",), "is an average of the weights like ema: give one of the two", self.swa)
        single = [term for term in self.loss.weighted if LOSSES[term].facts["labels"] == "one"]
        if self.mixup and single:
            text = f"mixes two labels, and the loss term {single[0]} takes one: leave one of them out"
            raise wrong(("mixup",), text, self.mixup)
        across = [term for term in self.loss.weighted if LOSSES[term].facts["across"]]
        if across and self.pairing != "same":
            text = f"must be same: the loss term {across[0]} compares an image under all degradations of a step"
            raise wrong(("pairing",), text, self.pairing)
        return self


_SECTIONS = ("optimizer", "schedule")
"""Keys whose values have their own keys."""


def merged(defaults: dict[str, Any], given: Any) -> Any:
    """Lay what a user gave over the defaults of a recipe.

    ``optimizer`` is merged key by key, ``loss`` term by term and key by key (a number sets a term's weight alone).
    Everything else, ``schedule`` too, replaces whole.
    """
    if not isinstance(given, dict):
        return given
    result = dict(defaults)
    for name, value in given.items():
        old = result.get(name)
        if name == "loss":
            result[name] = merged_loss(old, value)
        elif name == "optimizer" and isinstance(old, dict) and isinstance(value, dict):
            result[name] = {**old, **value}
        else:
            result[name] = value
    return result


def with_keys(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """The recipe with dotted keys replaced and checked again: ``with_keys(r, {"loss.kd": 2.0})``.

    ``loss.kd`` is a term's weight, ``loss.kd.temperature`` one of its parameters; a parameter of a term that the
    recipe does not name adds the term with weight 0.

    Raises:
        KeyError: a key that no recipe has.
        pydantic.ValidationError: a value that the key does not admit.
    """
    content = recipe.model_dump()
    for dotted, value in values.items():
        first, *rest = dotted.split(".")
        if first == "loss":
            if not set_loss_key(content["loss"], rest, value):
                raise KeyError(dotted)
            continue
        place, last = (content.get(first), rest[0]) if len(rest) == 1 else (content, dotted)
        if not isinstance(place, dict) or last not in place or dotted in _SECTIONS:
            raise KeyError(dotted)
        place[last] = value
    return Recipe.model_validate(content)


def flat(recipe: Recipe) -> dict[str, Any]:
    """Every key of a recipe by its dotted name, with its value: what :func:`with_keys` takes.

    All loss terms are there, those that the recipe does not name with weight 0 and the defaults of their parameters.
    Values are plain ones, as JSON has them.
    """
    values: dict[str, Any] = {}
    for name, value in recipe.model_dump(mode="json").items():
        if name == "loss":
            values |= {f"loss.{key}": one for key, one in recipe.loss.flat().items()}
        elif name in _SECTIONS:
            values |= {f"{name}.{key}": one for key, one in value.items()}
        else:
            values[name] = value
    return values
