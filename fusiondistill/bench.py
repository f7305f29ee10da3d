"""Benchmarks: ours beside a reference, in one run, on the same images. Numbers, not tests."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from fusiondistill.data import ImageSet
from fusiondistill.degradations import DEGRADATIONS, PAPER_DEGRADATIONS, degrade, degrade_grid, find
from fusiondistill.devices import device_of

__all__ = [
    "CLASSES", "STATISTICS", "bench_degradations", "degrade_grid", "medians", "picture_set", "pictures", "row",
    "threads_in_words", "torch_threads", "turns", "wait",
]  # fmt: skip

_SEED = 0
CLASSES = tuple(str(i) for i in range(100))
STATISTICS = ((125.0, 123.0, 114.0), (63.0, 62.0, 67.0))
"""Mean and standard deviation of each channel, 0 to 255."""
DIFFERENT = 4096
"""Pictures of a set that differ."""


def bench_degradations(
    device: str = "cpu",
    *,
    sizes: Sequence[int] = (32, 64),
    batch: int = 512,
    degradations: Sequence[str] | None = None,
    threads: Sequence[int] | None = None,
    seconds: float = 0.5,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Images per second of every degradation, levels drawn uniformly per image, ours and imagedegrade's.

    Args:
        device: where ours runs; the reference always runs on the CPU.
        sizes: sides of the square images.
        batch: images per call.
        degradations: names; default: all that are registered.
        threads: how many for each measurement; default: one, and all that torch may use. On a GPU: one.
        seconds: for each of the two sides of a measurement; the fastest call counts.
        progress: called with each finished row.

    Returns:
        One dict per size, number of threads and degradation: ``name`` ("jpeg 32x32, 1 thread"), ``ours``,
        ``reference`` and ``ratio`` (None where imagedegrade has no such degradation, or is not installed), ``unit``
        ("images/s"), ``limit``: what ours comes up against and how far from it it is, measured in the same run.

    Raises:
        ValueError: unknown degradation, or a device that is not there.
    """
    names = list(DEGRADATIONS) if degradations is None else [find(name).name for name in degradations]
    where = device_of(device)
    if threads is None:
        threads = sorted({1, torch.get_num_threads()}) if where.type == "cpu" else [1]
    rows = []
    for size in sizes:
        images = pictures(batch, size)
        for count in threads:
            with torch_threads(count):
                for name in names:
                    rows.append(_row(name, images, where, count, seconds))
                    if progress:
                        progress(rows[-1])
    return rows


def _row(name: str, images: torch.Tensor, device: torch.device, threads: int, seconds: float) -> dict[str, Any]:
    known = find(name).levels
    levels = torch.randint(known[0], known[-1] + 1, (len(images),), generator=torch.Generator().manual_seed(_SEED))
    on_device, levels_there = images.to(device), levels.to(device)
    ours = len(images) / _fastest(lambda: degrade(on_device, name, levels_there, seed=_SEED), seconds, device)
    reference = _reference(name, images, levels.tolist(), threads, seconds)
    size = f"{images.shape[2]}x{images.shape[3]}"
    return {
        "name": f"{name} {size}, {threads_in_words(threads)}" if device.type == "cpu" else f"{name} {size}",
        "ours": round(ours),
        "reference": reference and round(reference),
        "ratio": reference and round(ours / reference, 2),
        "unit": "images/s",
        "limit": _limit(name, images, levels, ours / threads, device),
    }


def pictures(batch: int, size: int) -> torch.Tensor:
    """Smooth coloured blobs with some grain, uint8 [B,3,size,size]: no data set is needed to measure."""
    generator = torch.Generator().manual_seed(_SEED)
    blobs = torch.rand((batch, 3, 6, 6), generator=generator) * 255
    smooth = torch.nn.functional.interpolate(blobs, (size, size), mode="bicubic")
    return (smooth + 8 * torch.randn(smooth.shape, generator=generator)).clamp(0, 255).to(torch.uint8)


def picture_set(count: int, size: int) -> ImageSet:
    """So many of :func:`pictures` with labels of :data:`CLASSES`; from :data:`DIFFERENT` on they come again."""
    some = pictures(min(count, DIFFERENT), size)
    pixels = some.repeat(-(-count // DIFFERENT), 1, 1, 1)[:count]
    labels = torch.arange(count) % len(CLASSES)
    return ImageSet("pictures", pixels, labels, list(CLASSES), statistics=STATISTICS)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_in_words(count: int) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{count} thread{'s' * (count > 1)}"


def row(name: str, ours: float, reference: float, limit: str) -> dict[str, Any]:
    """A row of a benchmark; ``limit`` says what ours comes up against."""
    ratio = round(ours / reference, 2)
    values = {"ours": round(ours, 1), "reference": round(reference, 1), "ratio": ratio}
    return {"name": name, **values, "unit": "images/s", "limit": limit}


def medians(sides: Sequence[Callable[[], float]], repeats: int, device: torch.device) -> list[float]:
    """Images per second of each side: the medians of :func:`turns`."""
    return [statistics.median(found) for found in turns(sides, repeats, device)]


def turns(sides: Sequence[Callable[[], float]], repeats: int, device: torch.device) -> list[list[float]]:
    """Images per second of each side in turns that the sides take one after another; one more before, to warm up."""
    rates: list[list[float]] = [[] for _ in sides]
    for turn in range(repeats + 1):
        for side, found in zip(sides, rates, strict=True):
            wait(device)
            start = time.perf_counter()
            done = side()
            wait(device)
            if turn:
                found.append(done / (time.perf_counter() - start))
    return rates


def wait(device: torch.device) -> None:
    """Wait until a GPU has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _fastest(call: Callable[[], Any], seconds: float, device: torch.device) -> float:
    """Seconds of the fastest of as many calls as fit, at least two, after one to warm up."""

    call()
    wait(device)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        wait(device)
        times.append(time.perf_counter() - start)
    return min(times)


def _reference(name: str, images: torch.Tensor, levels: list[int], threads: int, seconds: float) -> float | None:
    """imagedegrade's images per second, drawing its noise as it goes: reseeding for each image would slow it down."""
    if name not in PAPER_DEGRADATIONS:
        return None
    try:
        from fusiondistill.degradations.machinery.reference import apply_package
    except ImportError:
        return None
    count = min(len(images), 256)
    arrays = list(images[:count].permute(0, 2, 3, 1).contiguous().numpy())

    def part(start: int) -> None:
        for i in range(start, count, threads):
            apply_package(arrays[i], name, levels[i])

    try:
        if threads == 1:
            return count / _fastest(lambda: part(0), seconds, torch.device("cpu"))
        with ThreadPoolExecutor(threads) as pool:
            return count / _fastest(lambda: list(pool.map(part, range(threads))), seconds, torch.device("cpu"))
    except ImportError:
        return None


def _limit(name: str, images: torch.Tensor, levels: torch.Tensor, ours: float, device: torch.device) -> str:
    """What bounds ours (images per second and thread), as a sentence with a number."""
    values = images[0].numel()
    if device.type == "cpu" and name in PAPER_DEGRADATIONS and (peaks := _cpu_peaks()):
        if name in ("noise", "saltpepper"):
            peak = peaks["random numbers"] / values
            return f"random numbers: {ours / peak:.0%} of the {peak:,.0f} images/s at which one core draws them"
        # Blur: two passes, an addition and a multiply-add per pair. JPEG: two transforms each way over 1.5 planes.
        radius = ((3 * levels + 5) // 10).double().mean().item()
        work = 2 * values * (1 + 3 * radius) if name == "blur" else values / 3 * (1.5 * (4 * 8 + 6) + 30)
        peak = peaks["arithmetic"] / work
        return (
            f"arithmetic: {ours / peak:.0%} of the {peak:,.0f} images/s at which one core multiplies and adds in cache"
        )
    peak = _copies_per_second(device, images.numel()) * len(images)
    return f"memory: {ours / peak:.1%} of the {peak:,.0f} images/s at which the batch is copied"


@functools.cache
def _copies_per_second(device: torch.device, size: int) -> float:
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 1 / _fastest(lambda: target.copy_(source), 0.1, device)


@functools.cache
def _cpu_peaks() -> dict[str, float]:
    """What one core does per second at best: 32-bit random numbers, and float64 operations on cached numbers."""
    try:
        import numba
        import numpy as np

        from fusiondistill.degradations.machinery.field_kernels import random_bits
    except ImportError:
        return {}

    @numba.njit
    def draw(out: Any) -> None:
        for i in range(len(out)):
            out[i] = random_bits(123456789123456789, i)

    @numba.njit
    def multiply_and_add(out: Any, numbers: Any, times: int) -> None:
        for _ in range(times):
            for i in range(len(out)):
                out[i] = out[i] * 0.5 + numbers[i]

    words, numbers = np.zeros(1 << 14, np.int32), np.ones(1 << 10)
    sums, cpu = np.ones(1 << 10), torch.device("cpu")
    return {
        "random numbers": len(words) / _fastest(lambda: draw(words), 0.1, cpu),
        "arithmetic": 2 * 100 * len(sums) / _fastest(lambda: multiply_and_add(sums, numbers, 100), 0.1, cpu),
    }
