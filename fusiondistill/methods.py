"""A row of the table is a value: what it starts from, what it is trained on, who teaches, how it answers.

:data:`METHODS` is the table of the built-in rows, as a config would write them; nothing else knows a row by its name but
the published figures. A config lays sections over them and defines its own (:mod:`fusiondistill.resolution`).
Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    computed_field,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from fusiondistill.recipe import Count, Frozen, Recipe
from fusiondistill.registry import Entry, Registry

__all__ = [
    "DEFAULT_ROWS", "EXPERTS", "METHODS", "SEARCHED", "Combined", "Inference", "Merge", "Merged", "Method", "Parametrised",
    "Teachers", "Trained", "form_of", "searched_name",
]  # fmt: skip

EXPERTS = "expert"
"""The method that a merge or a combination is of, where the config does not say."""
SEARCHED = "fusiondistill"
"""The method that a search is of, where the config does not say."""

METHODS: dict[str, dict[str, Any]] = {
    "base": {
        "title": "Base",
        "description": "trained on clean images only (step 1); the starting point of most rows below",
        "start": "random",
        "train_on": "clean",
    },
    EXPERTS: {
        "title": "Expert",
        "description": "the base, fine-tuned on one degradation alone with the base as its teacher (step 2)",
        "start": "base",
        "train_on": "each",
        "teachers": "base",
    },
    "oracle": {
        "title": "Oracle",
        "description": "for each degradation the expert that was fine-tuned on it; it is told the degradation, so it is "
        "a yardstick and not a competitor",
        "of": EXPERTS,
        "inference": "own",
    },
    "ensemble": {
        "title": "Ensemble",
        "description": "all experts vote on every image, a tie goes to the largest summed logits; one forward pass per "
        "expert",
        "of": EXPERTS,
        "inference": "vote",
    },
    "scratch": {
        "title": "Scratch",
        "description": "one network from random weights, trained on all degradations with cross-entropy",
        "start": "random",
        "train_on": "all",
    },
    "vanilla": {
        "title": "Vanilla",
        "description": "starts from the base, fine-tuned on all degradations with cross-entropy",
        "start": "base",
        "train_on": "all",
    },
    "modelsoups": {
        "title": "ModelSoups",
        "description": "the uniform average of the experts' weights, evaluated without further training",
        "start": {"merge": "average", "of": EXPERTS},
    },
    "modelsoups-told": {
        "title": "ModelSoups (told)",
        "description": "the same average with BatchNorm statistics of its own for each degradation; it is told the "
        "degradation, so it is a yardstick too",
        "start": {"merge": "average", "of": EXPERTS, "recalibrate": "per_degradation"},
        "inference": "own",
    },
    "fusing": {
        "title": "Fusing",
        "description": "starts from the average, fine-tuned on all degradations with cross-entropy",
        "start": "modelsoups",
        "train_on": "all",
    },
    SEARCHED: {
        "title": "FusionDistill",
        "description": "starts from the average, fine-tuned on all degradations with cross-entropy and distillation from "
        "the expert of each image's degradation (step 4), with fixed loss weights; told nothing",
        "start": "modelsoups",
        "train_on": "all",
        "teachers": EXPERTS,
    },
}
"""Built-in methods by name, in the order of the table."""
DEFAULT_ROWS = tuple(name for name in METHODS if name not in (EXPERTS, "modelsoups-told"))
"""The built-in rows of a table whose config names none: the others are shown if they are named."""


def searched_name(method: str) -> str:
    """The row that a search of a method gives."""
    return f"{method}-searched"


def wrong(location: tuple[str | int, ...], text: str, value: object = None) -> ValidationError:
    """An error at a place inside of the value that is being validated."""
    problem = PydanticCustomError("value_error", "{text}", {"text": text})
    return ValidationError.from_exception_data("", [InitErrorDetails(type=problem, loc=location, input=value)])


class Parametrised(Frozen):
    """A name of a registry, with the entry's parameters flat beside it. Defaults are filled in."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def entry(self) -> Entry | None:
        """The entry that is named, None where the name is not for a registry."""
        raise NotImplementedError

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the entry."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _resolved(self) -> Parametrised:
        entry = self.entry()
        resolved = entry.resolve(self.parameters) if entry else {}
        object.__setattr__(self, "__pydantic_extra__", resolved)
        return self

    def __hash__(self) -> int:
        return hash(self.model_dump_json())


def named(registry: Registry, name: str, key: str) -> Entry:
    """The entry of that name; an unknown one is an error at that key."""
    try:
        return registry.find(name)
    except ValueError as error:
        raise wrong((key,), str(error), name) from error


class Merge(Parametrised):
    """A start from merged weights: how, of which networks, and what becomes of BatchNorm."""

    merge: str = Field(description="merging method; see `fusiondistill list merging`")
    of: str = Field(EXPERTS, description="the method whose networks are merged: one that trains one per degradation")
    recalibrate: Literal["none", "average", "mixed", "per_degradation"] | None = Field(
        None,
        description="BatchNorm statistics: none (the first network's), average, mixed (recomputed on all "
        "degradations), per_degradation (recomputed for each; the network is told which); default mixed, paper none",
    )
    images: Count = Field(10_000, description="training images (at most) that statistics are recomputed on")

    def entry(self) -> Entry:
        """The merging method."""
        from fusiondistill.merging import MERGING

        return named(MERGING, self.merge, "merge")


class Inference(Parametrised):
    """How networks answer together."""

    name: str = Field(description="way of inference; see `fusiondistill list inference`")

    def entry(self) -> Entry:
        """The way of inference."""
        from fusiondistill.inference import INFERENCE

        return named(INFERENCE, self.name, "name")


class Teachers(Frozen):
    """Who teaches: the network of each image's degradation, or one network for all."""

    of: str = Field(description="a method")
    by: Literal["degradation"] = Field("degradation", description="which of its networks teaches an image")


def _of_text(key: str) -> BeforeValidator:
    """A text as short for a mapping with that key."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


class _Row(Frozen):
    title: str = Field("", description="what tables call it; default: its name")
    description: str = Field("", description="one sentence about it; default: made from its settings")
    inference: Annotated[Inference, _of_text("name")] | None = Field(
        None, description="how its networks answer: own (each image's own degradation's network), vote, ..."
    )


class Trained(_Row, Recipe):
    """A method that is trained: a network, or with ``train_on: each`` one for each degradation."""

    start: str | Merge = Field(description="random, a method, or {merge: ..., of: ...}")
    train_on: Literal["clean", "each", "all"] = Field(
        description="clean images, each degradation a network of its own, or all degradations"
    )
    teachers: Annotated[Teachers, _of_text("of")] | None = Field(None, description="a method, for terms of the loss")
    checkpoint: str | dict[str, str] | None = Field(
        None,
        description="a checkpoint to use instead of training; may contain {seed} and {degradation}, with train_on: "
        "each also a mapping degradation -> file",
    )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def form(self) -> str:
        """``clean``, ``each`` or ``all``."""
        return self.train_on

    @property
    def recipe(self) -> Recipe:
        """Everything that the training does."""
        return Recipe.model_construct(**{name: getattr(self, name) for name in Recipe.model_fields})

    @property
    def taught(self) -> bool:
        """Whether any term of the loss needs its teachers."""
        return self.teachers is not None and self.loss.needs.teacher


class Merged(_Row):
    """A method that is merged and not trained."""

    start: Merge = Field(description="{merge: ..., of: ...}")
    checkpoint: str | None = Field(None, description="a checkpoint to use instead of merging; may contain {seed}")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def form(self) -> str:
        """``merged``."""
        return "merged"


class Combined(_Row):
    """A method that answers with the networks of another one."""

    of: str = Field(description="the method whose networks answer")
    inference: Annotated[Inference, _of_text("name")] = Field(description="how they answer")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def form(self) -> str:
        """``combined``."""
        return "combined"


def form_of(raw: Any) -> str:
    """Which kind of method some settings make: ``trained``, ``merged``, ``combined``, or "" for none of them."""
    if not isinstance(raw, Mapping):
        return raw.form if isinstance(raw, Merged | Combined) else "trained"
    if raw.get("train_on") is not None:
        return "trained"
    if isinstance(raw.get("start"), Mapping):
        return "merged"
    return "combined" if raw.get("of") is not None else ""


Method = Annotated[
    Annotated[Trained, Tag("trained")] | Annotated[Merged, Tag("merged")] | Annotated[Combined, Tag("combined")],
    Discriminator(form_of),
]
"""A method, by its form."""
