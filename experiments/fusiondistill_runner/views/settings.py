"""What the rows of an experiment were trained on, how epochs were chosen, and how that departs from the published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fusiondistill.config import PAPER_DEGRADATIONS, Config, chosen_by, held_out_of
from fusiondistill.loss import Loss

__all__ = ["settings"]

_FUSED = {"modelsoups", "fusing", "fusiondistill"}
_NEEDS = {
    "expert": _FUSED | {"oracle", "ensemble"},
    **{role: {role} for role in ("scratch", "vanilla", "fusing", "fusiondistill")},
}
"""Role -> the methods that need it, beside the base, which is always trained."""
_NO_RESULT = ("compile", "channels_last")  # of a recipe: they change how fast it goes


def settings(config: Mapping[str, Any]) -> dict[str, str]:
    """For people: ``select`` (how epochs are chosen), ``training`` (images and epochs) and ``deviations``.

    Args:
        config: as a plan holds it, of this version or an earlier one.
    """
    select = chosen_by(config.get("select"), config["protocol"])
    return {"select": select, "training": _training(config), "deviations": "; ".join(_deviations(config, select))}


def _roles(config: Mapping[str, Any]) -> list[str]:
    methods = set(config.get("methods") or ())
    wanted = ["base", *(role for role, needing in _NEEDS.items() if methods & needing)]
    return [role for role in wanted if role in config]


def _training(config: Mapping[str, Any]) -> str:
    data = config["data"]
    images = f"{data['train_images']:,} training images" if data.get("train_images") else "all training images"
    held_out = held_out_of(data.get("validation"), config["protocol"])
    less = f", {100 * held_out:.3g} % of them held out" if held_out else ""
    epochs = ", ".join(f"{role} {config[role]['epochs']}" for role in _roles(config))
    return f"{images}{less}; epochs: {epochs}"


def _deviations(config: Mapping[str, Any], select: str) -> Iterator[str]:
    """What of the config would have to change for the published experiment, but for network and protocol."""
    data, evaluation, fusion = config["data"], config["evaluation"], config.get("fusion") or {}
    for name in ("train_images", "test_images"):
        if data.get(name):
            yield f"only {data[name]:,} {name.replace('_images', '')} images"
    if data.get("validation"):
        yield f"{100 * data['validation']:.3g} % of the training images held out"
    if set(config.get("degradations") or ()) != set(PAPER_DEGRADATIONS):
        yield "other degradations"
    yield from _of_recipes(config)
    if config["protocol"] == "paper" and select != "test":
        yield f"epochs chosen by {select}"
    if fusion.get("method", "average") != "average" or fusion.get("recalibrate") or fusion.get("checkpoint"):
        yield "another fusion"
    if evaluation.get("every", 1) > 1:
        yield f"one level in {evaluation['every']} measured"
    if evaluation.get("precision", "fp32") != "fp32":
        yield f"evaluated in {evaluation['precision']}"
    if (workers := (config.get("resources") or {}).get("workers_per_run", 1)) > 1:
        yield f"{workers} data-parallel workers a run"


def _of_recipes(config: Mapping[str, Any]) -> Iterator[str]:
    usual = Config.model_validate({"experiment": "x", "data": {"name": config["data"]["name"]}}).model_dump(mode="json")
    other = []
    for role in _roles(config):
        given, expected = (
            {**one, "loss": _weighted(one["loss"])} for one in ({**usual[role], **config[role]}, usual[role])
        )
        if given["epochs"] != expected["epochs"]:
            yield f"{role} {given['epochs']} instead of {expected['epochs']} epochs"
        if any(given[key] != expected.get(key) for key in given if key not in ("epochs", *_NO_RESULT)):
            other.append(role)
    if other:
        yield f"other settings of {', '.join(other)}"


def _weighted(loss: Any) -> Any:
    """The terms of a noted loss that were computed, however it is spelled; as it is where a term is unknown here."""
    try:
        return Loss.model_validate(loss).weighted
    except ValueError:
        return loss
