"""How an experiment's rows were trained and epochs chosen, and where that deviates from the published experiment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fusiondistill.config import Config, chosen_by, held_out_of
from fusiondistill.counting import counted
from fusiondistill.degradation_config import ids_in
from fusiondistill.degradations import PAPER_DEGRADATIONS

__all__ = ["settings", "usual"]

_NO_RESULT = ("compile", "channels_last", "title", "description")
"""Keys of a method that change no result: speed and names."""

Table = Mapping[str, Mapping[str, Any]]
"""Method id -> what it is made of: form, start, train_on, teachers, and its recipe's keys where it is trained."""


def settings(plan: Mapping[str, Any]) -> dict[str, str]:
    """For people: ``select`` (how epochs are chosen), ``training`` (images and epochs) and ``deviations``.

    Args:
        plan: as a store holds it. Its ``methods`` are the rows, its config's ``table`` holds all methods, resolved.
    """
    config = plan["config"]
    select = chosen_by(config.get("select"), config["protocol"])
    needed = _needed(plan)
    deviations = "; ".join(_deviations(config, needed, select))
    training = _training(config, needed, own_split=plan.get("validation") is True)
    return {"select": select, "training": training, "deviations": deviations}


def usual(config: Mapping[str, Any]) -> Table:
    """The published experiment's methods for these data and this protocol."""
    plain = {"experiment": "usual", "protocol": config["protocol"], "data": {"name": config["data"]["name"]}}
    table: Table = Config.model_validate(plain).model_dump(mode="json")["table"]
    return table


def _needed(plan: Mapping[str, Any]) -> Table:
    """The methods that the rows of a plan rest on, in the order of the config's table."""
    table: Table = plan["config"].get("table") or {}
    waiting = [name for row in plan.get("methods") or () for name in (row["id"], row.get("of"), row.get("searched"))]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in table and name not in found:
            found.add(name)
            method = table[name]
            waiting += [_named(method.get(key)) for key in ("of", "start", "teachers")]
    return {name: method for name, method in table.items() if name in found}


def _named(value: Any) -> Any:
    """The method that a start or teachers name, by its id or under ``of``."""
    return value.get("of") if isinstance(value, Mapping) else value


def _training(config: Mapping[str, Any], needed: Table, own_split: bool) -> str:
    data = config["data"]
    images = counted(data["train_images"], "training image") if data.get("train_images") else "all training images"
    held_out = held_out_of(data.get("validation"), config["protocol"])
    less = f", {100 * held_out:.3g} % of them held out" if held_out and not own_split else ""
    less += ", judged on the set's own validation split" if own_split else ""
    if data.get("test"):
        seed = data.get("split_seed", 0)
        less += f"; {100 * data['test']:.3g} % of the images cut off before as the test split (split_seed {seed})"
    if data.get("size"):
        height, width = data["size"]
        less += f"; resized to {width}x{height} ({data.get('fit', 'crop')})"
    epochs = ", ".join(f"{name} {method['epochs']}" for name, method in needed.items() if "epochs" in method)
    return f"{images}{less}" + (f"; epochs: {epochs}" if epochs else "")


def _deviations(config: Mapping[str, Any], needed: Table, select: str) -> Iterator[str]:
    """The differences between a config and the published experiment, other than network and protocol."""
    data, evaluation = config["data"], config["evaluation"]
    for name in ("train_images", "test_images"):
        if data.get(name):
            yield f"only {counted(data[name], name.replace('_images', ' image'))}"
    if data.get("validation"):
        yield f"{100 * data['validation']:.3g} % of the training images held out"
    given = config.get("degradations") or []
    if sorted(ids_in(given)) != sorted(PAPER_DEGRADATIONS):
        yield "other degradations"
    elif any(isinstance(one, Mapping) for one in given):
        yield "other levels"
    yield from _of_methods(usual(config), needed) if needed else ()
    if config["protocol"] == "paper":
        if select != "test":
            yield f"epochs chosen by {select}"
        if any("pairing" in method and "coupled_draws" not in method for method in needed.values()):
            yield "trainings of an earlier version, whose draws were not coupled"
    if evaluation.get("every", 1) > 1:
        yield f"one level in {evaluation['every']} measured"
    if evaluation.get("precision", "fp32") != "fp32":
        yield f"evaluated in {evaluation['precision']}"
    if (workers := (config.get("resources") or {}).get("workers_per_run", 1)) > 1:
        yield f"{workers} data-parallel workers a run"


def _of_methods(published: Table, needed: Table) -> Iterator[str]:
    """The differences of the methods that the published experiment has. Other methods are no deviation from it."""
    other = []
    for name, method in needed.items():
        if name not in published:
            continue
        usually, own = published[name], {key: value for key, value in method.items() if key not in _NO_RESULT}
        if own.get("epochs") != usually.get("epochs"):
            yield f"{name} {own.get('epochs')} instead of {usually.get('epochs')} epochs"
        if any(_differs(key, value, usually.get(key)) for key, value in own.items() if key != "epochs"):
            other.append(name)
    if other:
        yield f"other settings of {', '.join(other)}"


def _differs(key: str, value: Any, usually: Any) -> bool:
    """Whether a setting is another; plans that were noted before a section got a key lack it and say its default."""
    if key in ("optimizer", "schedule") and isinstance(value, Mapping) and isinstance(usually, Mapping):
        return {**usually, **value} != dict(usually)
    return bool(value != usually)
