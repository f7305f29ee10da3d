"""A recipe's loss as a frozen value: terms with weights and parameters. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import (
    ConfigDict,
    Field,
    RootModel,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, to_jsonable_python

from fusiondistill.frozen import Weight
from fusiondistill.losses import LOSSES, RAMPS, Needs, needs
from fusiondistill.registry import close_to

__all__ = ["FOR_DIGEST", "Loss", "idle_keys", "merged_loss", "modern_loss", "set_loss_key", "strength"]

FOR_DIGEST = {"digest": True}
"""Context of ``model_dump`` under which a loss leaves out the terms of weight 0, which change no result."""

_COLUMNS = ("epoch", "images", "loss", "lr", "right", "seconds", "train_accuracy", "validation")
"""Columns of a stage's metrics, which has one for each term, too."""
Ramp = Annotated[float, Field(ge=0, le=1)]
_OWN: dict[str, TypeAdapter[float]] = {"weight": TypeAdapter(Weight), **dict.fromkeys(RAMPS, TypeAdapter(Ramp))}


class Loss(RootModel[dict[str, dict[str, Any]]]):
    """Loss terms by name, each with its ``weight`` and its parameters.

    In a config a number is short for ``{weight: number}``: ``{ce: 0.1, kd: {weight: 0.5, temperature: 2}}``. The
    cross-entropy weighs 1 where it is not named. The value holds weight and all parameters of each named term, so that
    a default that is spelled out makes no other value. A term of weight 0 is not computed.

    ``warmup`` and ``fade`` beside the weight are fractions of all epochs, as milestones are: in the first ones the
    weight rises from 0, in the last ones it falls to 0, see :func:`strength`.
    """

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        """Weight and all parameters of each term, in the order of the registry."""
        given, _ = modern_loss(given)
        if not isinstance(given, dict):
            return given
        found: dict[str, dict[str, Any]] = {}
        problems: list[InitErrorDetails] = []
        for term, value in {"ce": 1.0, **given}.items():
            try:
                found[term] = _term(term, value)
            except ValidationError as error:
                problems += _below((term,), error)
            except ValueError as error:
                problems.append(_problem((term,), str(error), value))
        if problems:
            raise ValidationError.from_exception_data(cls.__name__, problems)
        if not any(term["weight"] for term in found.values()):
            raise ValueError("all weights are 0: give ce, feature, kd or another term a positive weight")
        return {term: found[term] for term in sorted(found, key=_place)}

    @model_serializer(mode="wrap")
    def _content(self, standard: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        content: dict[str, Any] = standard(self)
        if info.context and info.context.get("digest"):
            return {term: content[term] for term in self.weighted}
        return content

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @property
    def weighted(self) -> dict[str, dict[str, Any]]:
        """The terms of positive weight: term -> {weight, parameters}; what is computed, and what a digest holds."""
        return {term: values for term, values in self.root.items() if values["weight"] > 0}

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers whose outputs terms of positive weight ask for by name."""
        return tuple(sorted({name for values in self.weighted.values() for name in values.get("layers") or ()}))

    @property
    def needs(self) -> Needs:
        """What the terms of positive weight need of networks."""
        return needs(self.weighted)

    def weight(self, term: str) -> float:
        """The weight of a term, 0 for one that is not named."""
        return float(self.root[term]["weight"]) if term in self.root else 0.0

    def flat(self) -> dict[str, Any]:
        """Every term as ``term`` -> weight and ``term.parameter`` -> value, plain as in JSON.

        Terms that are not named have weight 0 and the defaults of their parameters; a parameter without a default is
        left out.
        """
        own, found = self.model_dump(mode="json"), {}
        for term in dict.fromkeys([*LOSSES, *own]):
            values = {"weight": 0.0, **_defaults(term), **own.get(term, {})}
            found[term] = values["weight"]
            found |= {f"{term}.{key}": value for key, value in values.items() if key != "weight"}
        return found


def strength(values: Mapping[str, Any], epoch: int, epochs: int) -> float:
    """The factor on a term's weight in an epoch: above 0, at most 1.

    It is min(1, (e + 1) / (warmup E), (E - e) / (fade E)) in epoch e from 0 of E, constant within an epoch, so that
    with a warm-up of 20 of 240 epochs the first has 1/20 (Zhao et al. 2022, DKD).

    Args:
        values: of the term; what is not there is 0.
    """
    warmup, fade = (float(values.get(key, 0.0)) * epochs for key in RAMPS)
    rise = (epoch + 1) / warmup if warmup else 1.0
    fall = (epochs - epoch) / fade if fade else 1.0
    return min(1.0, rise, fall)


def _as_before(term: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A term's values without keys that came later and have their default: stored results keep their digests."""
    later = {**LOSSES[term].facts["later"], **dict.fromkeys(RAMPS, 0.0)}
    return {key: value for key, value in values.items() if key not in later or value != later[key]}


def _place(term: str) -> tuple[int, str]:
    """Where a term stands among others, independent of the order in a file: sums of floats depend on it."""
    builtin = LOSSES.builtin
    return (builtin.index(term) if term in builtin else len(builtin), term)


def _term(term: str, value: Any) -> dict[str, Any]:
    """Weight and all parameters of a term.

    Raises:
        ValueError: there is no such term.
        pydantic.ValidationError: a weight or a parameter that is not admitted.
    """
    entry = LOSSES.find(term)
    if term in _COLUMNS or term.startswith("validation_"):
        raise ValueError("is a column of the metrics: give the loss term another name")
    given = _long(value)
    if "weight" not in given:
        raise ValueError(f"needs a weight: {term}: {{weight: 1.0, ...}}")
    known = (*_OWN, *entry.parameters.model_fields)
    problems = [_problem((k,), f"unknown key{close_to(str(k), known)}", v) for k, v in given.items() if k not in known]
    found: dict[str, Any] = {}
    for key in given.keys() & _OWN.keys():
        try:
            found[key] = _OWN[key].validate_python(given[key])
        except ValidationError as error:
            problems += _below((key,) if given is value else (), error)
    found = {key: found[key] for key in _OWN if key in found}
    try:
        found |= entry.plain({key: one for key, one in given.items() if key in entry.parameters.model_fields})
    except ValidationError as error:
        problems += _below((), error)
    if problems:
        raise ValidationError.from_exception_data(term, problems)
    return _as_before(term, found)


def _problem(where: tuple[str | int, ...], message: str, value: Any) -> InitErrorDetails:
    return InitErrorDetails(type=PydanticCustomError("value_error", message), loc=where, input=value)


def _below(where: tuple[str | int, ...], error: ValidationError) -> Iterable[InitErrorDetails]:
    """The problems of a part, at their place within the whole."""
    for one in error.errors():
        kind = PydanticCustomError(one["type"], one["msg"])
        yield InitErrorDetails(type=kind, loc=(*where, *one["loc"]), input=one["input"])


def _defaults(term: str) -> dict[str, Any]:
    """The ramps, and the parameters of a term that have a default, as JSON has them."""
    fields = LOSSES[term].parameters.model_fields
    known = {n: to_jsonable_python(field.get_default()) for n, field in fields.items() if not field.is_required()}
    return {**dict.fromkeys(RAMPS, 0.0), **known}


def modern_loss(raw: Any) -> tuple[Any, list[str]]:
    """A raw ``loss`` section in today's spelling, and a line for each old one that it has.

    ``temperature: T`` beside the terms is ``kd``'s now. Where ``kd`` is not named it gets weight 0.

    Args:
        raw: as a file has it; it is not changed.

    Example:
        >>> modern_loss({"kd": 0.5, "temperature": 2.0})[0]
        {'kd': {'weight': 0.5, 'temperature': 2.0}}
    """
    if not isinstance(raw, dict) or "temperature" not in raw or "temperature" in LOSSES:
        return raw, []
    kd = raw.get("kd", 0.0)
    given = dict(kd) if isinstance(kd, dict) else {"weight": kd}
    if "temperature" in given:
        return raw, []  # said twice: the old spelling is then an unknown term
    rest = {term: value for term, value in raw.items() if term not in ("kd", "temperature")}
    message = "loss.temperature is loss.kd.temperature now: write kd: {weight: ..., temperature: ...}"
    return {**rest, "kd": {**given, "temperature": raw["temperature"]}}, [message]


def merged_loss(defaults: Any, given: Any) -> Any:
    """Lay a raw loss over another, term by term and key by key; a number sets a term's weight alone.

    Example:
        >>> merged_loss({"ce": 0.1, "kd": 0.5}, {"kd": {"temperature": 2}})
        {'ce': 0.1, 'kd': {'weight': 0.5, 'temperature': 2}}
    """
    if not isinstance(defaults, dict):
        return given  # as it is spelled: what it is laid over later may weigh what it names
    (old, _), (new, changed) = modern_loss(defaults), modern_loss(given)
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    if changed and "kd" in old and "kd" not in given:  # the old spelling says nothing of the weight
        new = {**new, "kd": {"temperature": given["temperature"]}}
    result = dict(old)
    for term, value in new.items():
        before = result.get(term, {})
        mixed = isinstance(before, dict) or isinstance(value, dict)
        result[term] = {**_long(before), **_long(value)} if term in result and mixed else value
    return result


def _long(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {"weight": value}


def set_loss_key(content: dict[str, dict[str, Any]], parts: Sequence[str], value: Any) -> bool:
    """Set ``[term]``, which is its weight, or ``[term, parameter]`` in a dumped loss; False: there is no such key.

    A parameter of a term that is not there adds the term with weight 0.
    """
    if not parts or parts[0] not in LOSSES or len(parts) > 2:
        return False
    term, key = parts[0], parts[1] if len(parts) == 2 else "weight"
    if key not in _OWN and key not in LOSSES[term].parameters.model_fields:
        return False
    content.setdefault(term, {"weight": 0.0})[key] = value
    return True


def idle_keys(values: Mapping[str, Any]) -> set[str]:
    """Keys of a flat recipe that change nothing beside the others: see :func:`fusiondistill.recipe.flat`.

    A term's parameters have no effect while its weight is 0; what teachers are shown has none while every term that
    needs a teacher has weight 0.
    """
    weights = {term: values.get(f"loss.{term}") for term in LOSSES}
    idle = {
        key for key in values for term, weight in weights.items() if weight == 0 and key.startswith(f"loss.{term}.")
    }
    if not any(needs({term: 1.0}).teacher for term, weight in weights.items() if weight != 0):
        idle.add("teacher_view")
    return idle
