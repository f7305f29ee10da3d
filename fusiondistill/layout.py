"""In which order the values of images lie in memory: channels last where convolutions run faster so."""

from __future__ import annotations

import platform

import torch
from torch import distributed, nn

from fusiondistill.recipe import Layout

__all__ = ["agreed", "channels_last", "memory_format"]


def channels_last(given: Layout, network: nn.Module, device: torch.device) -> bool:
    """Whether a training lays out images and weights with the channels last.

    A fixed rule of network and processor: yes for networks with 2-D convolutions, on CUDA and on x86 with oneDNN. The
    order changes results by rounding alone. Measured on x86, float32, one thread, how many times as fast a step is with
    AVX-512 (in brackets with AVX2):

    - CIFAR ResNet-8 1.56 (1.30), ResNet-20 1.41 (1.19), ResNet-56 1.28;
    - MobileNetV3 1.23, EfficientNet-B0 1.18, ResNet-18 at 224 pixels 1.16;
    - ResNet-50, VGG-11 and ConvNeXt 1.03 to 1.05; transformers and mixers of patches 1;
    - ResNet-18 at 64 pixels 0.96 at batches of 128 and 0.87 at 32: oneDNN brings its many weights into its own order in
      each step.

    Args:
        given: ``auto``, or what to return.
        network: what is trained.
        device: where.
    """
    if given != "auto":
        return given
    return _convolves(network) and (device.type == "cuda" or _is_x86_with_onednn(device))


def _convolves(network: nn.Module) -> bool:
    """Whether the network has 2-D convolutions on maps, besides one that cuts the image into patches.

    One with 3-D convolutions beside them does not count: torch cannot lay out its weights so.
    """
    if any(weight.ndim == 5 for weight in (*network.parameters(), *network.buffers())):
        return False
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    return any(layer.kernel_size != layer.stride or layer.kernel_size == (1, 1) for layer in layers)


def _is_x86_with_onednn(device: torch.device) -> bool:
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")


def memory_format(last: bool) -> torch.memory_format:
    """Torch's name of a layout."""
    return torch.channels_last if last else torch.contiguous_format


def agreed(last: bool, device: torch.device, world_size: int) -> bool:
    """What rank 0 says, on every rank: data-parallel workers add up gradients as they lie in memory."""
    if world_size == 1:
        return last
    told = torch.tensor(int(last), device=device)
    distributed.broadcast(told, src=0)
    return bool(told)
