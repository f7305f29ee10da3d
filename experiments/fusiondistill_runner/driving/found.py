"""Checkpoints to evaluate: which network each belongs to, and which row and seed of the table it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from fusiondistill.config import ModelConfig
from fusiondistill.methods import METHODS
from fusiondistill_runner.driving.network_facts import NetworkFacts

__all__ = ["Checkpoint", "Found", "Models"]

Checkpoint = tuple[str, ModelConfig, Mapping[str, Any]]
"""Path, network and card of a checkpoint to evaluate."""
Models = Mapping[tuple[str, int], Checkpoint]
"""(row, seed) -> checkpoint."""


class Found:
    """Checkpoints to evaluate, by network: (row, seed) -> (path, network, card)."""

    def __init__(self, networks: NetworkFacts, named: ModelConfig | None = None) -> None:
        self.networks, self.named = networks, named
        """The network of files that do not say which one they belong to."""
        self.by_network: dict[ModelConfig, dict[tuple[str, int], Checkpoint]] = {}

    def add(self, path: str) -> None:
        """Look at a checkpoint.

        Raises:
            CheckpointError: it is missing, damaged, or does not say which network it belongs to.
        """
        from fusiondistill.checkpoints import CheckpointError, check_plugin
        from fusiondistill.foreign import unwrapped
        from fusiondistill.released import depth_of, renamed

        state, card = self.networks.read(path)
        if card:
            check_plugin(card, path)
            own = card.get("parameters") or {}
            model = ModelConfig(name=card["model"], feature_layer=card.get("feature_layer"), **own)
        elif self.named:
            model = self.named
        elif depth := depth_of(renamed(unwrapped(state))):
            model = ModelConfig(name=f"cifar_resnet{depth}")
        else:
            raise CheckpointError(
                f"{path} carries no card: it does not say which network it belongs to; name it, like --model resnet18, "
                "or take it into a run as base: {checkpoint: FILE}, whose config names the network"
            )
        models = self.by_network.setdefault(model, {})
        name, seed = _row(path)
        unique = next(n for n in (name, *(f"{name}-{i}" for i in range(2, 10_000))) if (n, seed) not in models)
        models[unique, seed] = (path, model, card)

    def resizing(self) -> list[str] | None:
        """How images of several sizes are to be resized, as overrides: the size and fit of the cards, if all agree."""
        cards = [card for models in self.by_network.values() for _, _, card in models.values()]
        kinds = {(tuple(card.get("size") or ()), card.get("fit") or "crop") for card in cards}
        (size, fit), *others = kinds
        return [f"data.size={list(size)}", f"data.fit={fit}"] if size and not others else None


_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}[a-z0-9_]")


def _row(path: str) -> tuple[str, int]:
    """Row and seed of a checkpoint: those of its stage, else the end of its path and 0.

    The row becomes a part of paths, and another program may have written the manifest: its name counts only if a stage
    could have it. The end of a path gets ``file-`` in front where it looks like a method's name.
    """
    from fusiondistill.checkpoints import CheckpointError, open_location, read_manifest

    filesystem, place = open_location(path)
    if not place.endswith((".safetensors", ".pt", ".pth")):
        manifest = read_manifest(filesystem, place.removesuffix("/manifest.json")) or {}
        stage, seed = str(manifest.get("name", "")), manifest.get("seed", 0)
        if type(seed) is not int or abs(seed) >= 2**63:
            raise CheckpointError(f"{path} has a manifest whose seed is none: {str(seed)[:80]}")
        if _NAME.fullmatch(stage):
            return stage, seed
    end = PurePosixPath(place.removesuffix("/manifest.json")).name
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", re.sub(r"\.(safetensors|pt|pth)$", "", end)).strip("-.") or "checkpoint"
    known = tuple(f"{each}-" for each, raw in METHODS.items() if raw.get("train_on") == "each")
    return (f"file-{name}" if name in METHODS or name.startswith(known) else name), 0
