"""A checked config as a file that says all: every default filled in, the methods that its rows need written out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fusiondistill import safe_yaml
from fusiondistill.config import Config
from fusiondistill.recipes import recipe_of_data

__all__ = ["resolved", "resolved_text"]


def resolved(config: Config) -> dict[str, Any]:
    """The content of a config file that makes the same stages, with what a protocol and a recipe choose in it.

    What stays null depends on the images, the machine or the cluster.
    """
    content = config.content()
    content["select"] = config.epoch_choice
    content["recipe"] = config.recipe or recipe_of_data(config.data.name)
    content["resources"]["threads"] = config.threads
    for section, keys in (("data", ("size", "test", "images", "labels")), ("model", ("weights",))):
        content[section] = {"name": None, **dict.fromkeys(keys), **content[section]}
    for place in (content, content.get("define", {})):
        for name in config.table.keys() & place.keys():
            place[name] = _row(place[name], config.assumed.recalibrate)
    return {key: content[key] for key in sorted(content, key=_place)}


def _row(row: dict[str, Any], recalibrate: str) -> dict[str, Any]:
    """A method's settings: what it is before its recipe, and how its merge recomputes BatchNorm."""
    start = row.get("start")
    if isinstance(start, dict) and start["recalibrate"] is None:
        row = {**row, "start": {**start, "recalibrate": recalibrate}}
    return {**{key: row[key] for key in _FIRST if key in row}, **row}


_FIRST = ("title", "description", "start", "train_on", "teachers", "of", "inference", "checkpoint")
_ORDER = (
    "experiment", "protocol", "recipe", "precision", "seeds", "data", "model", "degradations", "methods", "select",
)  # fmt: skip
_LAST = ("search", "evaluation", "resources", "tracking", "plugins", "sweep")


def _place(key: str) -> int:
    """Where a key stands: what the experiment is, its methods, how it is run."""
    if key in _ORDER:
        return _ORDER.index(key)
    return 100 + _LAST.index(key) if key in _LAST else 50


def resolved_text(source: str, points: Sequence[Config], notes: Iterable[str] = ()) -> str:
    """The resolved config as YAML; of a sweep a document for each point, parted by ``---``.

    Args:
        source: the name of the config.
        points: the config, or those of a sweep's points.
        notes: sentences to write above it, as comments.
    """
    head = [f"note: {text}" for text in notes]
    count = f"{len(points)} points of its sweep, each its own config" if len(points) > 1 else "all defaults filled in"
    head.append(f"{source}: {count}; what is null depends on the images or the machine")
    comment = "".join(f"# {line}\n" for text in head for line in text.splitlines())
    return comment + "---\n".join(safe_yaml.write(resolved(point)) for point in points)
