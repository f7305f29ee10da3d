"""A row of the table is a value: its start, its training images, its teachers, and how it answers.

:data:`METHODS` is the table of the built-in rows, as a config would write them; nothing else knows a row by its
name but the published figures. A config lays sections over them and defines its own (:mod:`fusiondistill.resolution`).
Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag, computed_field

from fusiondistill.parametrised import Parametrised, named
from fusiondistill.recipe import Count, Frozen, Recipe
from fusiondistill.registry import Entry

if TYPE_CHECKING:
    from fusiondistill.inference import Inference as Way

__all__ = [
    "BASE",
    "DEFAULT_ROWS",
    "EXPERTS",
    "FEW_ROWS",
    "METHODS",
    "SEARCHED",
    "TAUGHT_BY",
    "Combined",
    "Inference",
    "Merge",
    "Merged",
    "Method",
    "Teachers",
    "Trained",
    "chooses",
    "form_of",
    "needed_methods",
    "searched_name",
]

BASE = "base"
"""The method that starts from ``model.weights`` where the config has them."""
EXPERTS = "expert"
"""The method that a merge or a combination is of, where the config does not say."""
SEARCHED = "fusiondistill"
"""The method that a search is of, where the config does not say."""

METHODS: dict[str, dict[str, Any]] = {
    BASE: {
        "title": "Base",
        "description": "trained on clean images only; most other rows start from it",
        "start": "random",
        "train_on": "clean",
    },
    EXPERTS: {
        "title": "Expert",
        "description": "the base, fine-tuned on one degradation alone with the base as its teacher",
        "start": "base",
        "train_on": "each",
        "teachers": "base",
    },
    "oracle": {
        "title": "Oracle",
        "description": "for each degradation the expert that was fine-tuned on it; it is told the degradation, so it "
        "is a yardstick and not a competitor",
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
        "description": "the same average with its own BatchNorm statistics for each degradation; it is told the "
        "degradation, so it is a yardstick too",
        "start": {"merge": "average", "of": EXPERTS, "recalibrate": "per_degradation"},
        "inference": "own",
    },
    "routed": {
        "title": "Routed",
        "description": "the same average with its own BatchNorm statistics for each degradation, behind a small "
        "router that sees in the image which one it has; told nothing",
        "start": {"merge": "average", "of": EXPERTS, "recalibrate": "per_degradation"},
        "inference": "router",
    },
    "generalist": {
        "title": "Generalist",
        "description": "starts from the base, fine-tuned on all degradations with cross-entropy; BatchNorm normalises "
        "the images of each degradation apart, mild and strong ones",
        "start": "base",
        "train_on": "all",
        "batchnorm": "apart",
        "bands": 2,
    },
    "recommended": {
        "title": "Recommended",
        "description": "the weights of Generalist with BatchNorm statistics for each degradation, mild and strong, "
        "behind a small router that sees in the image which one it has; told nothing",
        "start": {"merge": "average", "of": "generalist", "recalibrate": "per_degradation"},
        "inference": "router",
    },
    "fusing": {
        "title": "Fusing",
        "description": "starts from the average, fine-tuned on all degradations with cross-entropy",
        "start": "modelsoups",
        "train_on": "all",
    },
    SEARCHED: {
        "title": "FusionDistill",
        "description": "starts from the average, fine-tuned on all degradations with cross-entropy and distillation "
        "from the expert of each image's degradation, with fixed loss weights; told nothing",
        "start": "modelsoups",
        "train_on": "all",
        "teachers": EXPERTS,
    },
}
"""Built-in methods by name, in the order of the table."""
DEFAULT_ROWS = tuple(
    name for name in METHODS if name not in (EXPERTS, "modelsoups-told", "routed", "generalist", "recommended")
)
"""The built-in rows of a table whose config names none: the others are shown if they are named."""

FEW_ROWS = tuple(name for name in DEFAULT_ROWS if name not in ("ensemble", "scratch"))
"""The rows for little time: the method's steps, their yardstick, and the simplest rival."""


def searched_name(method: str) -> str:
    """The row that a search of a method gives."""
    return f"{method}-searched"


class Merge(Parametrised):
    """A start from merged weights: the method, the networks, and the rule for BatchNorm."""

    merge: str = Field(description="merging method; see `fusiondistill list merging`")
    of: str = Field(EXPERTS, description="the trained method whose networks are merged; a single one is taken as it is")
    recalibrate: Literal["none", "average", "mixed", "per_degradation"] | None = Field(
        None,
        description="BatchNorm statistics: none (the first network's), average, mixed (recomputed on all "
        "degradations, of images cut and covered as in the networks' training), per_degradation (recomputed for each; "
        "the network is told which); default mixed, paper none",
    )
    images: Count = Field(10_000, description="training images (at most) that statistics are recomputed on")

    def entry(self) -> Entry:
        """The merging method."""
        from fusiondistill.merging import MERGING

        return named(MERGING, self.merge, "merge")

    def changed(self, values: Mapping[str, Any]) -> Merge:
        """The same with other values; parameters that the merging method does not have are left out.

        Args:
            values: ``merge``, ``recalibrate``, ``images``, or parameters of a merging method.

        Raises:
            pydantic.ValidationError: a value that is not admitted.
        """
        content = {**self.model_dump(exclude=set(self.parameters)), **values}
        own = self.parameters if content["merge"] == self.merge else {}
        fields, known = type(self).model_fields, named_parameters(content["merge"])
        return Merge.model_validate({k: v for k, v in {**own, **content}.items() if k in fields or k in known})


def named_parameters(merge: str) -> frozenset[str]:
    """The names of a merging method's parameters."""
    from fusiondistill.merging import MERGING

    return frozenset(MERGING[merge].parameters.model_fields)


def chooses(start: Mapping[str, Any]) -> str:
    """What of a merged start is chosen on validation images, in words; "" where nothing is."""
    from fusiondistill.merging import MERGING

    name = start.get("merge")
    if not isinstance(name, str) or name not in MERGING:
        return ""
    entry = MERGING[name]
    lists = ", ".join(key for key in sorted(entry.scans) if isinstance(start.get(key), list | tuple))
    return f"a list of {lists}" if lists else name if "validation" in entry.facts["needs"] else ""


class Inference(Parametrised):
    """How networks answer together."""

    name: str = Field(description="way of inference; see `fusiondistill list inference`")

    def entry(self) -> Way:
        """The way of inference."""
        from fusiondistill.inference import INFERENCE

        return named(INFERENCE, self.name, "name")


TaughtBy = Literal["degradation", "confidence", "mean"]
TAUGHT_BY: tuple[str, ...] = get_args(TaughtBy)
"""Which of a method's networks teach an image."""


class Teachers(Frozen):
    """The teachers: the network of each image's degradation, one network for all, or several together."""

    of: str = Field(description="a method")
    by: TaughtBy = Field(
        "degradation",
        description="which of its networks teach an image: that of its degradation; or all of them, whose outputs are "
        "averaged, evenly (mean) or by how sure each is of the image's label (confidence, the weights of CA-MKD; Zhang "
        "et al. 2022, arXiv:2201.00007); each costs a forward pass",
    )

    @property
    def together(self) -> bool:
        """Whether several networks teach each image."""
        return self.by != "degradation"


def _of_text(key: str) -> BeforeValidator:
    """A text as short for a mapping with that key."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


class _Row(Frozen):
    title: str = Field("", description="what tables call it; default: its name")
    description: str = Field("", description="one sentence about it; default: made from its settings")
    inference: Annotated[Inference, _of_text("name")] | None = Field(
        None,
        description="how its networks answer: own (each image's own degradation's network), vote, router, ...; "
        "or how a single one does: adapt",
    )


class Trained(_Row, Recipe):
    """A method that is trained: a network, or with ``train_on: each`` one for each degradation."""

    start: str | Merge = Field(description="random, pretrained (model.weights), a method, or {merge: ..., of: ...}")
    train_on: Literal["clean", "each", "all"] = Field(
        description="clean images, each degradation its own network, or all degradations"
    )
    teachers: Annotated[Teachers, _of_text("of")] | None = Field(None, description="a method, for terms of the loss")
    average_every: Count | None = Field(
        None,
        description="with train_on: each: after every so many epochs all networks are replaced by their average; the "
        "schedule goes on, the optimiser starts anew; default: never (as in McMahan et al. 2017, arXiv:1602.05629)",
    )
    bands: Annotated[int, Field(ge=1, le=8)] = Field(
        1,
        description="with batchnorm: apart: so many equal parts of each degradation's levels, each of which is "
        "normalised apart; a step has batch_size / bands images of each, and there are epochs / bands epochs, both "
        "rounded, so that it costs the same",
    )
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


def needed_methods(table: Mapping[str, Any], rows: Iterable[str]) -> list[str]:
    """The methods that rows need, and the rows themselves, in the order of the table."""
    needed: set[str] = set()

    def walk(name: object) -> None:
        if not isinstance(name, str) or name not in table or name in needed:
            return
        needed.add(name)
        method = table[name]
        start = getattr(method, "start", None)
        walk(start.of if isinstance(start, Merge) else start)
        teachers = getattr(method, "teachers", None)
        walk(teachers.of if teachers else None)
        walk(getattr(method, "of", None))

    for name in rows:
        walk(name)
    return [name for name in table if name in needed]
