"""Kernels for GPUs, used where they give the pixels of the tensor operations."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable

import torch

__all__ = ["gpu_kernel"]


@functools.cache
def gpu_kernel(
    module: str,
    device: torch.device,
    reference: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    table: Callable[[torch.device], torch.Tensor],
) -> Callable[..., torch.Tensor] | None:
    """The kernel ``module.run`` if it can be built for a GPU and its pixels are right there, which is tried once.

    Args:
        module: of this folder.
        device: a GPU.
        reference: the tensor operations, of images and levels.
        table: numbers by level, on a device, that the kernel is also given.
    """
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        run: Callable[..., torch.Tensor] = importlib.import_module(f"fusiondistill.degradations.machinery.{module}").run
        problem = "" if agrees(run, device, reference, table(device)) else "it gives other pixels"
    except Exception as error:  # compilers raise anything
        problem = next(iter(str(error).strip().splitlines()), repr(error))
    if problem:
        warnings.warn(f"{module} is not used on {device}, tensor operations are: {problem}", stacklevel=2)
        return None
    return run


def agrees(
    run: Callable[..., torch.Tensor],
    device: torch.device,
    reference: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    table: torch.Tensor,
    size: tuple[int, int] = (33, 47),
) -> bool:
    """Whether both give the same pixels at every level, on noise and on flat images, where rounding decides."""
    levels = torch.arange(2 * len(table), device=device) // 2
    pixels = torch.randint(
        0, 256, (len(levels), 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    pixels[::2] = pixels[::2, :, :1, :1].clone()
    images = pixels.to(device)
    return torch.equal(run(images, levels, table), reference(images, levels))
