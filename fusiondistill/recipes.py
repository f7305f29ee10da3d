"""Named defaults of recipes. Which of them a method gets depends on its shape (what it starts from, what it sees)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

__all__ = ["PRETRAINED", "RANDOM", "RECIPES", "RecipeName", "recipe_of_data", "shape_of"]

RecipeName = Literal["paper", "paper-cifar100", "fast"]
RANDOM = "random"
"""A start from weights drawn at random."""
PRETRAINED = "pretrained"
"""A start from ``model.weights``."""


def shape_of(raw: Mapping[str, Any], merged: Callable[[str], bool]) -> str:
    """The shape of a trained method, from its settings.

    Args:
        raw: the settings.
        merged: whether a method of that name is merged.

    Returns:
        ``clean``, ``clean-pretrained``, ``each``, or ``all-random``, ``all-network``, ``all-merged`` by what it starts
        from; ``-taught`` is appended where it has teachers.
    """
    start, train_on = raw.get("start"), raw.get("train_on")
    shape = str(train_on)
    if start == PRETRAINED and train_on == "clean":
        shape = "clean-pretrained"
    if train_on == "all":
        from_merged = isinstance(start, dict) or (isinstance(start, str) and merged(start))
        shape += "-random" if start == RANDOM else "-merged" if from_merged else "-network"
    return shape + ("-taught" if raw.get("teachers") else "")


def _recipe(epochs: int, optimizer: tuple[str, float], schedule: dict[str, Any], **loss: float) -> dict[str, Any]:
    return {
        "epochs": epochs,
        "optimizer": {"name": optimizer[0], "lr": optimizer[1], "weight_decay": 1e-4},
        "schedule": schedule,
        "loss": loss,
    }


_EARLY = {"name": "steps", "milestones": (0.3, 0.6, 0.8)}
_LATE = {"name": "steps", "milestones": (0.3, 0.7, 0.9)}
_SGD, _RADAM = ("sgd", 0.1), ("radam", 1e-3)
_PAPER: dict[str, dict[str, Any]] = {
    "clean": _recipe(200, _SGD, _EARLY, ce=1.0),
    "clean-taught": _recipe(200, _SGD, _EARLY, ce=1.0, feature=1.0),
    # The paper trains no base from pretrained weights; this is how it fine-tunes.
    "clean-pretrained": _recipe(100, _RADAM, {"name": "cosine"}, ce=1.0),
    "clean-pretrained-taught": _recipe(100, _RADAM, {"name": "cosine"}, ce=1.0, feature=1.0),
    "each": _recipe(100, _RADAM, {"name": "cosine"}, ce=1.0),
    "each-taught": _recipe(100, _RADAM, {"name": "cosine"}, ce=1.0, feature=1.0),
    "all-random": _recipe(200, _SGD, _LATE, ce=1.0),
    "all-random-taught": _recipe(200, _SGD, _LATE, ce=0.1, feature=1.0),
    "all-network": _recipe(200, _RADAM, _LATE, ce=1.0),
    "all-network-taught": _recipe(200, _RADAM, _LATE, ce=0.1, feature=1.0),
    "all-merged": _recipe(100, _RADAM, _LATE, ce=1.0),
    "all-merged-taught": _recipe(100, _RADAM, _LATE, ce=0.1, feature=1.0),
}
"""METHOD's schedules; milestones are fractions, so a shorter run keeps the shape."""


def _with_decay(recipe: Mapping[str, Any], decay: float) -> dict[str, Any]:
    return {**recipe, "optimizer": {**recipe["optimizer"], "weight_decay": decay}}


def _fast(epochs: int, lr: float, taught: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        "epochs": epochs,
        "optimizer": {"name": "muon", "lr": lr, "nesterov": True, "weight_decay": 5e-4},
        "schedule": {"name": "linear", "by": "step", "warmup": 0.1},
        "loss": {"ce": 1.0},
        **(taught or {}),
    }


_RATE, _TUNED, _PRETRAINED = 0.05, 0.01, 0.005
"""Rates for most, for fine-tunes to one degradation, and for weights from elsewhere."""
_HINTS: dict[str, Any] = {"loss": {"ce": 1.0, "feature": 1.0}}
_KD: dict[str, Any] = {"loss": {"ce": 1.0, "kd": {"weight": 0.1, "temperature": 4.0}}, "teacher_view": "degraded"}
_FAST: dict[str, dict[str, Any]] = {
    "clean": _fast(50, _RATE),
    "clean-taught": _fast(50, _RATE, _HINTS),
    "clean-pretrained": _fast(25, _PRETRAINED),
    "clean-pretrained-taught": _fast(25, _PRETRAINED, _HINTS),
    "each": _fast(25, _TUNED),
    "each-taught": _fast(25, _TUNED, _HINTS),
    "all-random": _fast(50, _RATE),
    "all-random-taught": _fast(50, _RATE, _KD),
    "all-network": _fast(50, _RATE),
    "all-network-taught": _fast(50, _RATE, _KD),
    "all-merged": _fast(25, _RATE),
    "all-merged-taught": _fast(25, _RATE, _KD),
}
"""A quarter of METHOD's epochs. Rates were chosen on a small scale (docs/benchmarks.md); those for pretrained weights
were not measured."""

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "paper": _PAPER,
    # The original trains the base on CIFAR-100 and Tiny ImageNet with a weight decay of 5e-4.
    "paper-cifar100": {
        shape: _with_decay(recipe, 5e-4) if shape in ("clean", "clean-taught") else recipe
        for shape, recipe in _PAPER.items()
    },
    "fast": _FAST,
}
"""Recipe -> shape -> settings."""


def recipe_of_data(name: object) -> str:
    """The recipe of a data set where the config names none."""
    return "paper-cifar100" if name in ("cifar100", "tiny_imagenet") else "paper"
