"""The blur's passes as Triton kernels: one launch each instead of a hundred, and bytes alone move through memory.

Each product and each sum is rounded to float64 on its own, since the compiler is told not to contract them to a fused
multiply-add, so that the pixels are those of the tensor operations in ``blur.py``. Importing this needs triton.
"""

import torch
import triton
import triton.language as tl

__all__ = ["run"]

BLOCK = 512


def run(images: torch.Tensor, levels: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Blur images.

    Args:
        images: uint8 [B,3,H,W].
        levels: int64 [B].
        table: float64 [levels, R + 1], the weight at each distance from the centre.

    Returns:
        uint8 [B,3,H,W].
    """
    images = images.contiguous()
    height, width = images.shape[2:]
    between, out = torch.empty_like(images), torch.empty_like(images)
    grid = (-(-images.numel() // BLOCK),)
    with torch.cuda.device_of(images):
        for source, target, size, stride in ((images, between, height, width), (between, out, width, 1)):
            _pass[grid](
                source, target, table, levels, images.numel(), images[0].numel(), size, stride,
                RADIUS=table.shape[1] - 1, BLOCK=BLOCK, enable_fp_fusion=False,
            )  # fmt: skip
    return out


@triton.jit
def _pass(source, target, table, levels, count, values, size, stride, RADIUS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One truncated pass along an axis of ``size`` places that lie ``stride`` values apart."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = at < count
    place = at // stride % size
    line = source + (at - place * stride)
    weights = table + tl.load(levels + at // values, mask=there, other=0) * (RADIUS + 1)
    total = tl.load(source + at, mask=there, other=0).to(tl.float64) * tl.load(weights, mask=there, other=0.0)
    for step in tl.static_range(RADIUS):  # from the farthest pair to the nearest, as scipy adds them
        distance = RADIUS - step
        before = tl.load(line + tl.maximum(place - distance, 0) * stride, mask=there, other=0).to(tl.int32)
        after = tl.load(line + tl.minimum(place + distance, size - 1) * stride, mask=there, other=0).to(tl.int32)
        total += (before + after).to(tl.float64) * tl.load(weights + distance, mask=there, other=0.0)
    tl.store(target + at, total.to(tl.int32).to(tl.uint8), mask=there)
