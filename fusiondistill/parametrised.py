"""A value that names an entry of a registry and holds the entry's parameters flat beside its own keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from fusiondistill.frozen import Frozen
from fusiondistill.registry import Entry, Kind, Registry

__all__ = ["Parametrised", "named", "wrong"]


def wrong(location: tuple[str | int, ...], text: str, value: object = None) -> ValidationError:
    """An error at a place inside of the value that is being validated."""
    problem = PydanticCustomError("value_error", "{text}", {"text": text})
    return ValidationError.from_exception_data("", [InitErrorDetails(type=problem, loc=location, input=value)])


class Parametrised(Frozen):
    """A name of a registry, with the entry's parameters flat beside it. Defaults are filled in."""

    model_config = ConfigDict(frozen=True, extra="allow")

    later: ClassVar[frozenset[str]] = frozenset()
    """Keys that are not dumped at their default: what was stored before a key was there stays the same."""

    def entry(self) -> Entry | None:
        """The entry that is named, None where the name is not for a registry."""
        raise NotImplementedError

    @classmethod
    def parameter_names(cls, raw: Mapping[str, Any]) -> list[str]:
        """The parameters that belong to what some raw content names; none where it names nothing that is there."""
        try:
            entry = cls.model_construct(None, **raw).entry()
        except (ValueError, AttributeError, TypeError):
            return []
        return list(entry.parameters.model_fields) if entry else []

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the entry, as JSON has them."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _resolved(self) -> Self:
        entry = self.entry()
        if entry is None and self.parameters:
            unknown = [InitErrorDetails(type="extra_forbidden", loc=(k,), input=v) for k, v in self.parameters.items()]
            raise ValidationError.from_exception_data("", unknown)
        resolved = entry.plain(self.parameters) if entry else {}
        object.__setattr__(self, "__pydantic_extra__", resolved)
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        said = {name for name in self.later if getattr(self, name) != fields[name].default}
        # The later keys come last, so that those that were there before keep their order.
        return {name: dumped[name] for name in sorted(dumped, key=self.later.__contains__)
                if name in said or name not in self.later}  # fmt: skip

    def __hash__(self) -> int:
        return hash(self.model_dump_json())


def named(registry: Registry[Kind], name: str, key: str) -> Kind:
    """The entry of that name; an unknown one is an error at that key."""
    try:
        return registry.find(name)
    except ValueError as error:
        raise wrong((key,), str(error), name) from error
