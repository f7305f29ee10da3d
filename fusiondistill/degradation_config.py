"""A degradation as a config names it: an entry of the registry, its levels, its parameters, and the id of its column.

Nothing here imports torch.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from pydantic import (
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from fusiondistill.degradations import DEGRADATIONS, Degradation
from fusiondistill.parametrised import Parametrised, wrong
from fusiondistill.safe_yaml import Location

__all__ = [
    "DegradationConfig",
    "as_degradation",
    "band_id",
    "id_in",
    "ids_in",
    "in_bands",
    "problems_of_ids",
    "spelled",
    "starts_of_bands",
]

_ID = re.compile(r"[a-z][a-z0-9_]{0,39}")
_RANGE = re.compile(r"\s*(-?\d{1,9})\s*\.\.\s*(-?\d{1,9})\s*", re.ASCII)
_RESERVED = ("average", "avg", "clean")
"""Ids that the tables and the metrics use for something else."""
_MOST = 10_000
"""The most levels that a range may have; no degradation has as many."""
_FORMS = "a range like 0..20, or a list like [0, 5, 10]"


class DegradationConfig(Parametrised):
    """A degradation by name, or with levels, parameters and an id: ``{name: blur, as: light, levels: 0..10}``.

    ``levels`` are rising. It is None where they are all levels of the degradation, however that was written, so that
    ``blur``, ``{name: blur}`` and ``{name: blur, levels: 0..50}`` are one value.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = Field(description="a degradation")
    label: str | None = Field(None, alias="as", description="the id of its column and expert; default: its name")
    levels: tuple[int, ...] | None = Field(
        None, description="a range like 0..20, or a list like [0, 5, 10]; default: all that it has"
    )

    @model_validator(mode="before")
    @classmethod
    def _long(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"name": given}
        if not isinstance(given, Mapping | DegradationConfig):
            raise ValueError("must be a name like blur, or a mapping like {name: blur, as: light, levels: 0..10}")
        if isinstance(given, Mapping) and "name" not in given and len(given) == 1:
            ((name, said),) = given.items()
            if name in DEGRADATIONS:
                rest = ", ".join(f"{key}: {value}" for key, value in said.items()) if isinstance(said, Mapping) else (
                    f"levels: {said}"
                )  # fmt: skip
                raise ValueError(f"must be a name, or have one: write {{name: {name}, {rest}}}")
        return given

    @field_validator("levels", mode="before")
    @classmethod
    def _rising(cls, given: Any) -> tuple[int, ...] | None:
        return None if given is None else _levels(given)

    @field_validator("label")
    @classmethod
    def _usable(cls, given: str | None) -> str | None:
        if given is None or (_ID.fullmatch(given) and given not in _RESERVED):
            return given
        if given in _RESERVED:
            raise ValueError(f"{given} has its own meaning in tables: choose another, like my_{given}")
        raise ValueError(
            f"must be lower-case letters, digits and underscores, at most 40, a letter first, not {given!r}"
        )

    @model_validator(mode="after")
    def _known(self) -> Self:
        """Refuse what the degradation does not have; take away what changes nothing."""
        if self.label == self.name:
            object.__setattr__(self, "label", None)
        if self.label is not None and self.label in DEGRADATIONS:
            raise wrong(("as",), f"{self.label} is the name of another degradation: choose its own id", self.label)
        if self.levels is None or self.name not in DEGRADATIONS:
            return self
        entry = DEGRADATIONS[self.name]
        if outside := [level for level in self.levels if level not in entry.levels]:
            meaning = f" ({entry.means})" if entry.means else ""
            text = f"{self.name} has the levels {spelled(entry.levels)}{meaning}, and {outside[0]} is none of them"
            raise wrong(("levels",), text, outside[0])
        if len(self.levels) == len(entry.levels):
            object.__setattr__(self, "levels", None)
        return self

    def entry(self) -> Degradation | None:
        """The registry's entry; None for an unknown name, and where nothing needs to be read of a built-in one."""
        if not self.model_extra and self.name in DEGRADATIONS.builtin and self.name not in DEGRADATIONS.replaced:
            return None
        return DEGRADATIONS.get(self.name)

    @model_serializer(mode="wrap")
    def _short(self, standard: SerializerFunctionWrapHandler, info: SerializationInfo) -> str | dict[str, Any]:
        """As a config would have it: the name alone where nothing else is said."""
        said: dict[str, Any] = {"as": self.label, "levels": None if self.levels is None else _written(self.levels)}
        said = {key: value for key, value in said.items() if value is not None} | self.parameters
        return {"name": self.name, **said} if said else self.name

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @property
    def id(self) -> str:
        """Its name in tables, experts and stages."""
        return self.label or self.name

    @property
    def every_level(self) -> Sequence[int]:
        """Its levels, rising: those given, else all of the degradation's."""
        return DEGRADATIONS.find(self.name).levels if self.levels is None else self.levels


def in_bands(degradations: Sequence[DegradationConfig], bands: int) -> tuple[DegradationConfig, ...]:
    """Each degradation as several, with equal parts of its levels, the lowest first; as it is for one band.

    A degradation with fewer levels gets as many bands as it has levels.
    """
    if bands == 1:
        return tuple(degradations)
    found = []
    for one in degradations:
        levels = tuple(one.every_level)
        ends = [*starts_of_bands(len(levels), bands), len(levels)]
        for number, (first, end) in enumerate(itertools.pairwise(ends), 1):
            found.append(one.model_copy(update={"label": band_id(one.id, number), "levels": levels[first:end]}))
    return tuple(found)


def starts_of_bands(levels: int, bands: int) -> list[int]:
    """The place of the first of each band's levels, where so many levels are split."""
    bands = min(bands, levels)
    return [number * levels // bands for number in range(bands)]


def band_id(degradation: str, number: int) -> str:
    """The id of a band of a degradation's levels, counted from 1."""
    return f"{degradation}_{number}"


def _levels(given: Any) -> tuple[int, ...]:
    """The levels that a config gives, rising."""
    if isinstance(given, str):
        match = _RANGE.fullmatch(given)
        if not match:
            raise ValueError(f"must be {_FORMS}, not {given!r}")
        first, last = int(match[1]), int(match[2])
        if last < first:
            raise ValueError(f"{given} is empty: the lower level comes first, {last}..{first}")
        if last - first >= _MOST:
            raise ValueError(f"{given} has more levels than any degradation")
        return tuple(range(first, last + 1))
    if isinstance(given, int | float) and not isinstance(given, bool):
        raise ValueError(f"must be {_FORMS}; one level alone is [{given}]")
    if not isinstance(given, list | tuple | range):
        raise ValueError(f"must be {_FORMS}, not {given!r}")
    if not given:
        raise ValueError(f"is empty: give {_FORMS}, or leave it out for all levels")
    for level in given:
        if not isinstance(level, int) or isinstance(level, bool):
            raise ValueError(f"must be whole numbers, like [0, 5, 10], not {level!r}")
    if repeated := [level for i, level in enumerate(given) if level in given[:i]]:
        raise ValueError(f"has {repeated[0]} twice: each level counts once")
    return tuple(sorted(given))


def _written(levels: Sequence[int]) -> str | list[int]:
    """Levels as a config has them: a range where none is left out."""
    whole = len(levels) > 1 and len(levels) == levels[-1] - levels[0] + 1
    return f"{levels[0]}..{levels[-1]}" if whole else list(levels)


def spelled(levels: Sequence[int]) -> str:
    """Levels in words: ``0..20``, or ``0, 5, 10``."""
    found = _written(levels)
    return found if isinstance(found, str) else ", ".join(map(str, found))


def as_degradation(given: str | Mapping[str, Any] | DegradationConfig) -> DegradationConfig:
    """The degradation that a config, a stage or a Python caller gives, as a value.

    Raises:
        pydantic.ValidationError: as the class; a ValueError.
    """
    if isinstance(given, DegradationConfig):
        return given
    return DegradationConfig.model_validate(given)


def id_in(raw: Any) -> str | None:
    """The id that an item of a config's raw list says; None where it is malformed."""
    found = (raw.get("as") or raw.get("name")) if isinstance(raw, Mapping) else raw
    return found if isinstance(found, str) else None


def ids_in(raw: Any) -> list[str]:
    """The ids that a config's raw list says; malformed items are left out."""
    items = raw if isinstance(raw, list | tuple) else ()
    return [found for item in items if (found := id_in(item)) is not None]


def problems_of_ids(trained: Any, unseen: Any) -> Iterator[tuple[Location, str]]:
    """Ids that two items of raw ``degradations`` and ``evaluation.unseen`` share."""
    taken: set[str] = set()
    own = set(ids_in(trained))
    for where, raw in ((("degradations",), trained), (("evaluation", "unseen"), unseen)):
        for i, item in enumerate(raw if isinstance(raw, list | tuple) else ()):
            found = id_in(item)
            if found is None:
                continue
            at: Location = (*where, i, "as") if isinstance(item, Mapping) and "as" in item else (*where, i)
            remedy = f"give one of them its own id, like {{name: {_name(item)}, as: {_name(item)}_2, levels: ...}}"
            if found in taken and where == ("evaluation", "unseen") and found in own:
                yield at, f"{found} is one of the degradations that experts are trained for: {remedy}"
            elif found in taken:
                yield at, f"{found} is given twice: {remedy}"
            taken.add(found)


def _name(item: Any) -> str:
    return str(item.get("name")) if isinstance(item, Mapping) else str(item)
