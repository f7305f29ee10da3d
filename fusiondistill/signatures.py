"""Reads the signature of an entry's function: the arguments that the project passes, and the keys of a config.

Nothing here imports torch.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError, create_model

if TYPE_CHECKING:
    from fusiondistill.registry import Entry

__all__ = ["check_arguments", "model_of"]


def check_arguments(entry: Entry, takes: tuple[str, ...] | None) -> None:
    """Raise ValueError where a function cannot be called by position with what its kind is given."""
    if takes is None:
        return
    parameters = inspect.signature(entry.function).parameters.values()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    own = [name for name in named if name not in entry.offered]
    call = f"the {entry.kind} {entry.name!r} is called with ({', '.join(takes)})"
    if len(own) > len(takes):
        raise ValueError(f"{call}: put a * before {own[len(takes)]}, and it is a parameter that a config may give")
    if len(own) < len(takes) and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise ValueError(f"{call}, and takes ({', '.join(own)})")


def model_of(entry: Entry) -> type[BaseModel]:
    """The keyword-only parameters of an entry's function as a model, which refuses other keys.

    Raises:
        ValueError: a parameter has no type, none that a config can hold, or a default that its type does not admit.
    """
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(entry.function).parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY or name in entry.offered:
            continue
        what = f"parameter {name} of the {entry.kind} {entry.name!r}"
        if parameter.annotation is parameter.empty:
            raise ValueError(f"{what} needs a type, like {name}: float")
        try:
            annotation = _annotation(entry.function, parameter.annotation)
            fields[name] = (annotation, ... if parameter.default is parameter.empty else parameter.default)
            adapter: TypeAdapter[Any] = TypeAdapter(annotation)
            if parameter.default is not parameter.empty:
                adapter.validate_python(parameter.default)
        except ValidationError as error:
            raise ValueError(f"{what} has the default {parameter.default!r}: {error.errors()[0]['msg']}") from None
        except (PydanticUserError, NameError, TypeError) as error:
            text = str(error) if isinstance(error, NameError) else f"not {parameter.annotation}"
            raise ValueError(f"{what} needs a type that a config can hold, like float or str: {text}") from None
    config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    return create_model(f"{entry.name}_parameters", __config__=config, **fields)


def _annotation(function: Callable[..., Any], annotation: Any) -> Any:
    """An annotation that may be text (``from __future__ import annotations``), evaluated where it was written."""
    if isinstance(annotation, str):
        names = {**vars(typing), **getattr(inspect.unwrap(function), "__globals__", {})}
        return eval(annotation, names)  # written by the author of the function, in the same file
    return annotation
