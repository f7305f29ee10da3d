"""Cards: the facts in a checkpoint that are needed to run it, among them the plugin that its network may need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusiondistill.commits import MANIFEST, CheckpointError, read_manifest
from fusiondistill.locations import open_location
from fusiondistill.plugins import COPY

if TYPE_CHECKING:
    from fusiondistill.registry import Plugin

__all__ = ["HOW", "card_of", "check_card", "check_how", "check_plugin"]

HOW = "inference"
"""The key of a card that says how several networks answer; a card without it is one network's."""
MOST_NETWORKS = 1000
"""Of a file that holds several."""

MOST_CLASSES = 100_000
"""The most classes of a card: a head for a billion would fill the memory before its weights are found missing."""


def card_of(
    model_name: str,
    feature_layer: str | None,
    *,
    classes: list[str],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    size: tuple[int, int],
    dataset: str,
    parameters: Mapping[str, Any] | None = None,
    **prepared: Any,
) -> dict[str, Any]:
    """The card of a network: its name, classes, normalisation (0..255 scale) and input size (height, width).

    It also holds the network's parameters if there are any, and the file and digest of the plugin that registered it.

    Args:
        prepared: how its images were made of files, where it is not by default: ``fit`` of those that were resized,
            ``background``, ``bits``; see :class:`fusiondistill.data.preparation.Preparation`.
    """
    card: dict[str, Any] = {
        "model": model_name,
        "feature_layer": feature_layer,
        "classes": list(classes),
        "mean": list(mean),
        "std": list(std),
        "size": list(size),
        "dataset": dataset,
    }
    if parameters:
        card["parameters"] = dict(parameters)
    card |= prepared
    if plugin := _plugin_of(model_name):
        card["plugin"] = {"file": plugin.file, "sha256": plugin.sha256}
    return card


def _plugin_of(model_name: str) -> Plugin | None:
    """The plugin that registered a network; None for a built-in or an unknown one."""
    from fusiondistill.networks import NETWORKS

    return NETWORKS.provider(model_name).plugin if NETWORKS.check_name(model_name) is None else None


def check_plugin(card: Mapping[str, Any], source: str) -> None:
    """Check that the plugin which a card names is loaded. A stored copy is never loaded by itself.

    Args:
        source: the path of the checkpoint; the message says whether a copy of the plugin lies there.

    Raises:
        CheckpointError: the plugin is not loaded, or has another digest; the message says what to do.
    """
    if "plugin" not in card:
        return
    file, sha256, loaded = card["plugin"]["file"], card["plugin"]["sha256"], _plugin_of(card["model"])
    if loaded is not None and loaded.sha256 == sha256:
        return
    wanted = f"{source} holds a network {card['model']!r} of the plugin {file} (sha256 {sha256})"
    copy = _plugin_copy(source, sha256)
    if copy:
        copy = f"; a copy of it lies at {copy} (a program: read it before you give it)"
    if loaded is None:
        raise CheckpointError(f"{wanted}: give that file with --plugin FILE, or in Python to load_plugins{copy}")
    raise CheckpointError(
        f"{wanted}, and the plugin that is loaded, {loaded.path}, is another (sha256 {loaded.sha256}): give the "
        f"file that the network was trained with, by --plugin FILE{copy}"
    )


def _plugin_copy(source: str, sha256: str) -> str:
    """The path of a plugin's copy beside a checkpoint, found by its digest; "" where there is none."""
    try:
        filesystem, place = open_location(source)
        place = place.removesuffix("/" + MANIFEST)
        place = place.rpartition("/")[0] if place.endswith(".safetensors") else place
        manifest = read_manifest(filesystem, place)
    except (OSError, ValueError):  # not a path, or no longer there
        return ""
    entries = (manifest or {}).get("files", {}).items()
    found = (entry["file"] for name, entry in entries if name.startswith(COPY) and entry["sha256"] == sha256)
    return next((f"{place}/{file}" for file in found), "")


def check_card(card: Mapping[str, Any], source: str) -> None:
    """Check that a card, which may come from an untrusted file, has the keys and types of :func:`card_of`.

    Raises:
        CheckpointError: it has not; the message names the first wrong key.
    """
    if not card:
        raise CheckpointError(f"{source} carries no card: it does not say which network it belongs to")

    def list_of(name: str, kind: Any, length: int | None = None) -> bool:
        value = card.get(name)
        if not isinstance(value, list | tuple) or length not in (None, len(value)):
            return False
        return all(type(one) in kind for one in value)

    def numbers(name: str, least: float) -> bool:
        return list_of(name, (int, float), 3) and all(least < one < 1e9 for one in card[name])  # and none is NaN

    from fusiondistill.data.preparation import wrong_keys

    wrong = [name for name, least in (("mean", -1e9), ("std", 0.0)) if not numbers(name, least)]
    wrong += [] if list_of("classes", (str,)) and 0 < len(card["classes"]) <= MOST_CLASSES else ["classes"]
    wrong += [] if isinstance(card.get("model"), str) else ["model"]
    wrong += [] if isinstance(card.get("feature_layer"), str | None) else ["feature_layer"]
    wrong += [] if isinstance(card.get("parameters", {}), dict) else ["parameters"]
    wrong += wrong_keys(card)
    plugin = card.get("plugin", {"file": "", "sha256": ""})
    told = isinstance(plugin, dict) and all(isinstance(plugin.get(key), str) for key in ("file", "sha256"))
    wrong += [] if told else ["plugin"]
    wrong += [] if HOW not in card or check_how(card[HOW]) else [HOW]
    if wrong:
        raise CheckpointError(f"{source} carries a card whose {wrong[0]} is missing or not what it should be")


def check_how(given: Any) -> bool:
    """Whether what an untrusted card has under :data:`HOW` has the form that :mod:`fusiondistill.packing` writes."""
    if not isinstance(given, dict) or not all(isinstance(given.get(key), str) for key in ("name", "code")):
        return False
    roles = given.get("roles")
    listed = isinstance(roles, list) and 0 < len(roles) <= MOST_NETWORKS and all(isinstance(one, str) for one in roles)
    return listed and all(isinstance(given.get(key), dict) for key in ("parameters", "about"))
