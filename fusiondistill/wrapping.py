"""The student as a training loop calls it: with synchronised BatchNorm, data-parallel, compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fusiondistill.batches import Pipeline
from fusiondistill.recipe import Recipe

__all__ = ["NeedsGPU", "synchronised", "wrapped_student"]


class NeedsGPU(ValueError):
    """A setting that torch has for GPUs only."""


def synchronised(model: nn.Module, device: torch.device) -> nn.Module:
    """The model, changed in place such that each BatchNorm normalises over all workers' parts of a batch.

    Raises:
        NeedsGPU: torch can do it on CUDA alone.
    """
    if device.type != "cuda":
        raise NeedsGPU(
            f"resources.sync_batchnorm needs a GPU for each worker, these have a {device.type.upper()}: "
            "leave it out, or set resources.gpus_per_worker to 1 on machines that have GPUs"
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def wrapped_student(
    model: nn.Module, recipe: Recipe, pipeline: Pipeline, say: Callable[[str], None]
) -> Callable[..., Any]:
    """The student as the loop calls it: data-parallel and compiled if asked for. State dicts are the bare model's."""
    wrapped = model
    if pipeline.world_size > 1:
        devices = [pipeline.device] if pipeline.device.type == "cuda" else None
        unused = not recipe.loss.needs.head
        wrapped = nn.parallel.DistributedDataParallel(model, device_ids=devices, find_unused_parameters=unused)
    return _Compiled(wrapped, say) if recipe.compile else wrapped


class _Compiled:
    """A compiled network; the network itself from where compiling fails, which a first call with other shapes can."""

    def __init__(self, network: nn.Module, say: Callable[[str], None]) -> None:
        self.network, self.say = network, say
        self.compiled: Callable[..., Any] | None = torch.compile(network)

    def __call__(self, *given: Any, **named: Any) -> Any:
        if self.compiled is not None:
            try:
                return self.compiled(*given, **named)
            except Exception as error:  # compilers raise anything; what the network itself raises, it raises again
                self.compiled = None
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                self.say(f"compile failed, training goes on without it: {reason}")
        return self.network(*given, **named)
