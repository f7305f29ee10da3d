"""How many bytes a plan moves through its store, from the number of parameters of its networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from fusiondistill.config import ModelConfig
from fusiondistill.recipe import MOMENTUM
from fusiondistill_runner.planning.specs import EvaluateSpec, ValidateSpec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.planning.trials import AS_IT_STANDS

__all__ = ["Traffic", "network_of", "traffic", "weight_bytes"]

CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100, "tiny_imagenet": 200}
USUAL_CLASSES = 100
"""Assumed for other data sets; the last layer is a small part of a network."""
TEST_IMAGES = 10_000
"""Assumed for a whole test split, whose size a stage does not tell; every published set here has so many."""


@dataclass(frozen=True)
class Traffic:
    """Bytes through the store."""

    read: float
    results: float
    """Written and kept: weights and predictions."""
    progress: float
    """Written after every epoch, to go on from; each epoch replaces the one before."""

    @property
    def written(self) -> float:
        """All that is written."""
        return self.results + self.progress


def traffic(stages: Sequence[Stage], weights: Callable[[Stage], float] | None = None) -> Traffic:
    """The bytes that stages read and write; manifests, logs and metrics (kilobytes) are left out.

    W is the bytes of a network's weights and buffers: 4 for each number in float32.

    - A training reads W for its start, if it has one, and W for each teacher of its loss. It writes W at its end, and
      after every epoch 2 W (the weights and those of the best epoch so far) and the optimiser's moments: 2 W for RAdam
      and AdamW, W for SGD and Muon.
    - A search is so many trainings. ASHA stops them after about half of their epochs, so half of them keep their W.
    - A fusion reads W for the base and for each expert, and writes W.
    - An evaluation reads W for each of its models, and writes 2 bytes an image and level and 4 an image. Both are
      upper bounds: a worker keeps the last models in memory, and what it writes is compressed.
    - An import writes W.

    Args:
        stages: the stages to run.
        weights: W of a stage's network; default :func:`weight_bytes`.
    """
    weights = weights or weight_bytes
    parts = [_of(stage, weights(stage)) for stage in stages]
    return Traffic(*(sum(values) for values in zip(*parts, strict=True))) if parts else Traffic(0.0, 0.0, 0.0)


def _of(stage: Stage, size: float) -> tuple[float, float, float]:
    """(read, results, progress) in bytes."""
    spec = stage.spec
    # A training reads one of a search's starts; no training reads the result of the recipe as it stands.
    inputs = sum(role not in ("search", AS_IT_STANDS) and not role.startswith("start-") for role in stage.inputs)
    if spec.training:
        moments = 1 if spec.training.recipe.optimizer.name in MOMENTUM else 2
        to_the_end = spec.part * spec.trainings * size
        return spec.trainings * inputs * size, to_the_end, to_the_end * spec.training.epochs * (2 + moments)
    if isinstance(spec, EvaluateSpec):
        images = spec.data.test_images or TEST_IMAGES
        return inputs * size, 2.0 * images * (len(spec.levels) + 2), 0.0
    if isinstance(spec, ValidateSpec):
        return inputs * size, 0.0, 0.0
    return inputs * size, size, 0.0


def weight_bytes(stage: Stage) -> float:
    """Bytes of the weights and buffers of the network that a stage makes or uses."""
    model, data = network_of(stage)
    return _network_bytes(model, CLASSES.get(data, USUAL_CLASSES))


def network_of(stage: Stage) -> tuple[ModelConfig, str]:
    """The network that a stage makes or uses, and the name of the data set that it was trained on."""
    network = stage.spec.network
    return (network, stage.spec.data.name) if network else network_of(next(iter(stage.inputs.values())))


@lru_cache(maxsize=64)
def _network_bytes(model: ModelConfig, classes: int) -> int:
    """Bytes of a network's weights and buffers, counted on the meta device without allocating them."""
    import torch

    from fusiondistill.models.build import build

    with torch.device("meta"):
        state = build(model.name, classes, model.feature_layer, model.parameters).state_dict()
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())
