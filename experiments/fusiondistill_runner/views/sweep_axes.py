"""What a sweep varies, read from the settings in which its stored plans differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["axes_table"]

_NAMES = ("experiment", "seeds", "methods", "sweep", "resources")
"""Keys of a config in which points differ without being measured at another value."""


def axes_table(plans: Sequence[Mapping[str, Any]]) -> pa.Table | None:
    """One row per point of a sweep and key in which its points differ; None without a sweep.

    Columns: sweep, experiment (the point's), key (str, like ``expert.epochs``), text (the value as JSON) and value
    (float64, null where it is no number). Of keys that change together only the first is listed.
    """
    import pyarrow as pa

    points: dict[str, dict[str, dict[str, Any]]] = {}
    for plan in plans:
        if plan.get("sweep"):
            points.setdefault(plan["sweep"], {})[plan["experiment"]] = dict(_leaves(plan["config"]))
    rows = [
        {"sweep": sweep, "experiment": point, "key": key.removeprefix("table."), "text": text, "value": _number(text)}
        for sweep, settings in points.items()
        for key in _varying([*settings.values()])
        for point, text in ((point, json.dumps(found.get(key))) for point, found in settings.items())
    ]
    kinds = {"sweep": pa.string(), "experiment": pa.string(), "key": pa.string(), "text": pa.string()}
    return pa.Table.from_pylist(rows, pa.schema({**kinds, "value": pa.float64()})) if rows else None


def _leaves(content: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by their dotted keys."""
    if not isinstance(content, Mapping):
        yield place, content
        return
    for key, value in content.items():
        if place or key not in _NAMES:
            yield from _leaves(value, f"{place}.{key}" if place else str(key))


def _varying(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys in which settings differ; of keys that tell the same ones apart, the first."""
    found: dict[tuple[int, ...], str] = {}
    for key in dict.fromkeys(key for one in settings for key in one):
        texts = [json.dumps(one.get(key)) for one in settings]
        order = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        if len(order) > 1:
            found.setdefault(tuple(order[text] for text in texts), key)
    return [*found.values()]


def _number(text: str) -> float | None:
    value = json.loads(text)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
