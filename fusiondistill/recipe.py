"""What one training stage does, as a frozen value: optimiser, schedule, loss weights, view of the teachers.

Nothing here imports torch, so that a mistake in a file is reported in the blink of an eye.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["Frozen", "Loss", "Optimizer", "Recipe", "Schedule", "merged", "with_keys"]

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Frozen(BaseModel):
    """A value: hashable content, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Optimizer(Frozen):
    """How weights follow the gradient."""

    name: Literal["sgd", "radam", "adamw"] = Field(description="sgd (no Nesterov), radam or adamw")
    lr: Positive = Field(description="learning rate at the start")
    momentum: Fraction = Field(0.9, description="sgd only")
    weight_decay: Weight = Field(
        1e-4, description="L2 penalty, coupled to the gradient (sgd, radam) or decoupled (adamw)"
    )


class Schedule(Frozen):
    """The learning rate as a pure function of the epoch."""

    name: Literal["steps", "cosine", "constant"] = Field("steps", description="steps, cosine (to 0) or constant")
    milestones: tuple[Fraction, ...] = Field(
        (), description="steps only: where the rate drops, as fractions of all epochs"
    )
    factor: Positive = Field(0.2, description="steps only: what the rate is multiplied by at each milestone")

    @field_validator("milestones")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("must ascend, like [0.3, 0.7, 0.9]")
        return value

    def rate(self, epoch: int, epochs: int) -> float:
        """The factor on the learning rate during ``epoch`` (from 0) of ``epochs``."""
        if self.name == "cosine":
            return 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        if self.name == "steps":
            return self.factor ** sum(epoch >= max(1, round(m * epochs)) for m in self.milestones)
        return 1.0


class Loss(Frozen):
    """Weights of the terms of the objective."""

    ce: Weight = Field(1.0, description="weight of the cross-entropy with the labels")
    feature: Weight = Field(0.0, description="weight of 1 - cosine(student feature, teacher feature)")
    kd: Weight = Field(0.0, description="weight of T^2 KL(teacher || student) on softened logits")
    temperature: Positive = Field(4.0, description="T of the softened logits")

    @model_validator(mode="after")
    def _something(self) -> Loss:
        if not (self.ce or self.feature or self.kd):
            raise ValueError("all weights are 0: give ce, feature or kd a positive weight")
        return self


class Recipe(Frozen):
    """Everything that one training stage does; defaults by shape are in :mod:`fusiondistill.recipes`."""

    epochs: Count = Field(description="passes over the training images (with several degradations: over each)")
    batch_size: Annotated[int, Field(ge=2)] = Field(128, description="images of each degradation in a step")
    optimizer: Optimizer
    schedule: Schedule
    loss: Loss
    teacher_view: Literal["clean", "degraded"] = Field("clean", description="what the teachers are shown")
    crop_padding: Annotated[int, Field(ge=0, le=64)] = Field(4, description="zero padding before the random crop")
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
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="autocast of the forward pass")
    channels_last: bool = Field(False, description="NHWC memory layout")
    compile: bool = Field(False, description="torch.compile the student")


def merged(defaults: dict[str, Any], given: Any) -> Any:
    """Lay what a user gave over the defaults of a role, one level deep where both are mappings."""
    if not isinstance(given, dict):
        return given
    merged = dict(defaults)
    for name, value in given.items():
        old = merged.get(name)
        merged[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def with_keys(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """The recipe with dotted keys replaced and checked again: ``with_keys(r, {"loss.kd": 2.0})``.

    Raises:
        KeyError: a key that the recipe does not have.
        pydantic.ValidationError: a value that the key does not admit.
    """
    content = recipe.model_dump()
    for dotted, value in values.items():
        *parents, last = dotted.split(".")
        place = content
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None  # type: ignore[assignment]
        if not isinstance(place, dict) or last not in place or isinstance(place[last], dict):
            raise KeyError(dotted)
        place[last] = value
    return Recipe.model_validate(content)
