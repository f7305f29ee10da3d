"""Why a step takes as long as it does: how many kernels it has, how busy they keep the GPU, and what they are."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

__all__ = ["explained", "family", "in_words"]

_FAMILIES = (
    ("optimiser", ("multi_tensor", "foreach", "fused_adam", "fused_sgd")),
    ("BatchNorm", ("batch_norm", "batchnorm", "bn_fw", "bn_bw", "_bn_")),
    ("convolution", ("conv", "xmma", "wgrad", "dgrad", "fprop", "implicit", "cudnn", "nchwtonhwc", "nhwctonchw")),
    ("matrix product", ("gemm", "cutlass", "nvjet", "splitk")),
    ("copies", ("memcpy", "memset", "copy", "cat", "fill")),
    ("gathers", ("gather", "index", "scatter")),
    ("sums", ("reduce", "softmax", "scan")),
    ("elementwise", ("elementwise", "vectorized")),
)
"""What kernels are, by the first word of these that their names have."""
_SHORT = 4.0
"""Microseconds: a kernel that takes no longer is mostly its own start."""


def family(kernel: str) -> str:
    """What a kernel does, by its name."""
    name = kernel.lower()
    return next((kind for kind, words in _FAMILIES if any(word in name for word in words)), "other")


def explained(run: Callable[[], Any], steps: int) -> str:
    """A sentence about the bound of some steps, or about why the profiler does not work.

    Args:
        run: does the steps.
        steps: how many it does.
    """
    run()
    torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    torch.cuda.synchronize()
    wall = 1e6 * (time.perf_counter() - began) / steps
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            run()
            torch.cuda.synchronize()
        kernels = {
            (event.key, index): (event.count / steps, event.self_device_time_total / steps)
            for index, event in enumerate(seen.key_averages())
            if event.device_type == DeviceType.CUDA
        }
    except Exception as error:  # profilers need rights that containers often have not
        return f"{wall / 1000:.2f} ms a step; not profiled: {str(error).splitlines()[0] if str(error) else error!r}"
    return in_words({name: found for (name, _), found in kernels.items()}, wall) if kernels else "not profiled"


def in_words(kernels: Mapping[str, tuple[float, float]], wall: float) -> str:
    """A sentence.

    Args:
        kernels: name -> (how often in a step, microseconds of a step).
        wall: microseconds of a step.
    """
    busy, launches = sum(took for _, took in kernels.values()), sum(count for count, _ in kernels.values())
    short = sum(took for count, took in kernels.values() if count and took / count <= _SHORT)
    shares: Counter[str] = Counter()
    for name, (_, took) in kernels.items():
        shares[family(name)] += took / busy  # type: ignore[assignment]
    most = ", ".join(f"{name} {share:.0%}" for name, share in shares.most_common(5))
    if busy < 0.7 * wall:
        what = "the host and gaps between kernels"
    elif short > 0.4 * busy:
        what = "the start of short kernels"
    else:
        what = f"{shares.most_common(1)[0][0]} (bandwidth or arithmetic)"
    return (
        f"{wall / 1000:.2f} ms a step, {launches:,.0f} kernels busy for {busy / wall:.0%} of it, {short / busy:.0%} of "
        f"that in kernels of at most {_SHORT:g} us; {most}; bound by {what}"
    )
