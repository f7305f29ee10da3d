"""The student as a training loop calls it: with synchronised BatchNorm, data-parallel, compiled, by degradation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from fusiondistill.batches import Pipeline
from fusiondistill.models.features import LayerTaps
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
    model: nn.Module, recipe: Recipe, pipeline: Pipeline, taps: LayerTaps, say: Callable[[str], None]
) -> Callable[..., Any]:
    """The student as the loop calls it: compiled and data-parallel if asked for. State dicts are the bare model's.

    With ``batchnorm: apart`` it takes ``slices`` besides: where each degradation's images are within the batch.

    Args:
        taps: of the model's layers; they hold the outputs of the whole batch after a call.
    """
    wrapped: nn.Module = _Compiled(model, say) if recipe.compile else model
    if recipe.batchnorm == "apart":
        wrapped = _Apart(wrapped, taps)
    if pipeline.world_size == 1:
        return wrapped
    devices = [pipeline.device] if pipeline.device.type == "cuda" else None
    unused = not recipe.loss.needs.head
    return nn.parallel.DistributedDataParallel(wrapped, device_ids=devices, find_unused_parameters=unused)


class _Apart(nn.Module):
    """A network that sees the images of each degradation in a pass of its own: BatchNorm normalises these alone.

    The weights are shared; the running statistics follow one degradation after another.
    """

    def __init__(self, network: nn.Module, taps: LayerTaps) -> None:
        super().__init__()
        self.network, self.taps = network, taps

    def forward(self, images: torch.Tensor, *, slices: Sequence[slice], **named: Any) -> Any:
        """What the network gives of all images, in their order; the taps hold that of their layers."""
        given, tapped = [], []
        for part in slices:
            given.append(self.network(images[part], **named))
            tapped.append(self.taps.take())
        if tapped[0] is not None:
            self.taps.put({layer: torch.cat([one[layer] for one in tapped if one]) for layer in tapped[0]})
        if isinstance(given[0], torch.Tensor):
            return torch.cat(given)
        return tuple(torch.cat(parts) for parts in zip(*given, strict=True))


class _Compiled(nn.Module):
    """A compiled network; the network itself from where compiling fails, which later shapes and backward passes can.

    torch compiles anew for other shapes, and tells of a backward pass that cannot be compiled when it is called for:
    the first step of each shape is rehearsed, forward and backward, and leaves nothing behind.
    """

    def __init__(self, network: nn.Module, say: Callable[[str], None]) -> None:
        super().__init__()
        self.network, self.say = network, say
        self.compiled: Callable[..., Any] | None = None
        try:
            self.compiled = torch.compile(network)
        except Exception as error:  # a Python that torch does not compile on
            self._give_up(error)
        self._rehearsed: set[tuple[torch.Size, ...]] = set()

    def forward(self, *given: Any, **named: Any) -> Any:
        """What the network gives."""
        if self.compiled is not None:
            try:
                self._rehearse(self.compiled, given, named)
                return self.compiled(*given, **named)
            except Exception as error:  # compilers raise anything; what the network itself raises, it raises again
                self._give_up(error)
        return self.network(*given, **named)

    def _give_up(self, error: Exception) -> None:
        self.compiled = None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        self.say(f"compile failed, training goes on without it: {reason}")

    def _rehearse(self, compiled: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]) -> None:
        shapes = tuple(one.shape for one in given if isinstance(one, torch.Tensor))
        if shapes in self._rehearsed or not torch.is_grad_enabled():
            return
        self._rehearsed.add(shapes)
        weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        before = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        devices = sorted({weight.device.index for weight in weights if weight.device.type == "cuda"})
        try:
            with torch.random.fork_rng(devices):
                made = [one for one in tree_leaves(compiled(*given, **named)) if one.requires_grad]
                torch.autograd.grad(made, weights, [torch.zeros_like(one) for one in made], allow_unused=True)
        finally:
            with torch.no_grad():
                for buffer, value in before:
                    buffer.copy_(value)
