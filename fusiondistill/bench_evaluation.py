"""The benchmark of evaluation: ours beside a plain loop, beside the bare network, and two processes beside one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch import nn

from fusiondistill.batches import normalise
from fusiondistill.bench import (
    CLASSES,
    STATISTICS,
    medians,
    picture_set,
    row,
    threads_in_words,
    torch_threads,
)
from fusiondistill.degradations import PAPER_DEGRADATIONS, find
from fusiondistill.devices import device_of
from fusiondistill.evaluation import Conditions, judge
from fusiondistill.folding import for_inference, piece_of
from fusiondistill.models import ImageClassifier, build_model

__all__ = ["bench_evaluation"]

_PLAIN_BATCH = 100


def bench_evaluation(
    device: str = "cpu",
    *,
    model: str = "cifar_resnet56",
    size: int = 32,
    images: int | None = None,
    batch: int | None = None,
    degradations: Sequence[str] | None = None,
    levels: int = 5,
    threads: Sequence[int] | None = None,
    repeats: int = 5,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Images per second of :func:`fusiondistill.evaluation.judge`, random weights, levels spread over the range.

    Three comparisons, whose two sides take turns:

    - with a plain loop: imagedegrade on one image at a time, to a tensor, normalised, batches of 100 through the
      network as it is;
    - with the bare forward pass of our own copy of the network on tensors that are ready;
    - on a CPU, of two processes of one thread with one of them.

    Args:
        device: where both sides run; the plain loop degrades on the CPU.
        model: name of a network.
        size: side of the square images.
        images: for each pass; default: 256, on a GPU 8192. The plain loop takes 100 of them.
        batch: of ours; default: all images, on a GPU 2048.
        degradations: names of the paper's; default: all four.
        levels: how many of each degradation.
        threads: how many for each measurement; default: one, and all that torch may use. On a GPU: one.
        repeats: the medians of so many turns are reported.
        progress: called with each finished row.

    Returns:
        One dict per comparison: ``name``, ``ours``, ``reference``, ``ratio``, ``unit`` ("images/s"), ``limit``.

    Raises:
        ValueError: unknown degradation, one without a reference, or a device that is not there.
    """
    names = [find(name).name for name in degradations or PAPER_DEGRADATIONS]
    if other := [name for name in names if name not in PAPER_DEGRADATIONS]:
        raise ValueError(f"{other[0]} has no reference to compare with: choose from {', '.join(PAPER_DEGRADATIONS)}")
    where = device_of(device)
    gpu = where.type != "cpu"
    images = images or (8192 if gpu else 256)
    subject = _Subject(model, size, images, batch or (2048 if gpu else images), levels, where)
    rows: list[dict[str, Any]] = []

    def add(one: dict[str, Any]) -> None:
        rows.append(one)
        if progress:
            progress(one)

    for count in threads or ([1] if gpu else sorted({1, torch.get_num_threads()})):
        with torch_threads(count):
            suffix = f"{size}x{size}" if gpu else f"{size}x{size}, {threads_in_words(count)}"
            for name in names:
                sides = [subject.plain(name), subject.ours(name), subject.bare(name), subject.convolution()]
                plain, ours, bare, peak = medians(sides, repeats, where)
                limit = (
                    f"arithmetic: {ours / peak:.0%} of the {peak:,.0f} images/s at which {subject.work / 1e9:.3f} G "
                    f"multiply-adds an image run as one large convolution; n = {repeats}"
                )
                add(row(f"{name} {suffix}: plain loop", ours, plain, limit))
                add(row(f"{name} {suffix}: bare forward", ours, bare, limit))
    if not gpu:
        one, two = _processes((model, size, images, images, levels), names[0], repeats)
        add(row(f"{size}x{size}, two processes: one process", two, one, f"2.00x: a core each; n = {repeats}"))
    return rows


class _Subject:
    """The images and the two networks that are measured."""

    def __init__(self, model: str, size: int, images: int, batch: int, levels: int, device: torch.device) -> None:
        torch.manual_seed(0)
        network = build_model(model, len(CLASSES))
        self.eager = ImageClassifier(network, *STATISTICS, CLASSES).eval().to(device)
        self.fast = for_inference(self.eager)
        self.work = _multiply_adds(network, size)
        self.images = picture_set(images, size)
        self.batch, self.count, self.device, self.size = batch, levels, device, size

    def levels(self, name: str) -> list[int]:
        known = find(name).levels
        return [known[round(i * (len(known) - 1) / max(1, self.count - 1))] for i in range(self.count)]

    def ours(self, name: str) -> Callable[[], int]:
        levels = self.levels(name)

        def run() -> int:
            judge(self.fast, self.images, Conditions(name, levels, seed=0, batch_size=self.batch))
            return len(self.images) * len(levels)

        return run

    def plain(self, name: str) -> Callable[[], int]:
        from fusiondistill.degradations.machinery.reference import apply_package

        arrays = list(self.images.images[:_PLAIN_BATCH].permute(0, 2, 3, 1).contiguous().numpy())
        levels = self.levels(name)

        @torch.no_grad()
        def run() -> int:
            for level in levels:
                degraded = [torch.from_numpy(apply_package(one, name, level)).permute(2, 0, 1) for one in arrays]
                pixels = torch.stack([normalise(one[None], *STATISTICS)[0] for one in degraded]).to(self.device)
                self.eager.network(pixels).argmax(1).cpu()
            return len(arrays) * len(levels)

        return run

    def bare(self, name: str) -> Callable[[], int]:
        assert isinstance(self.fast, ImageClassifier)
        network, piece = self.fast.network, piece_of(self.fast, self.size, self.size)
        step = piece if piece > 1 else self.batch
        pixels = normalise(self.images.images.to(self.device), *STATISTICS)
        parts = [part.contiguous(memory_format=torch.channels_last) for part in pixels.split(step)]

        @torch.no_grad()
        def run() -> int:
            for _ in range(self.count):
                for part in parts:
                    network(part)
            return len(pixels) * self.count

        return run

    def convolution(self) -> Callable[[], float]:
        """As many multiply-adds in one large convolution, in images: what the library reaches at best in float32."""
        batch, channels, times = (8, 128, 40) if self.device.type == "cpu" else (256, 512, 10)
        layer = nn.Conv2d(channels, channels, 3, padding=1).to(self.device).to(memory_format=torch.channels_last)
        pixels = torch.zeros(batch, channels, 16, 16, device=self.device).contiguous(memory_format=torch.channels_last)

        @torch.no_grad()
        def run() -> float:
            for _ in range(times):
                layer(pixels)
            return times * pixels.numel() * layer.weight[0].numel() / self.work

        return run


@torch.no_grad()
def _multiply_adds(network: nn.Module, size: int) -> float:
    """Multiply-adds of the convolutions and linear layers for one image of size x size."""
    total = 0.0

    def count(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        weight = module.get_parameter("weight")
        total += output.numel() / len(output) * weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    network(torch.zeros(2, 3, size, size, device=next(network.parameters()).device))
    for hook in hooks:
        hook.remove()
    return total


_subject: _Subject | None = None


def _start(arguments: tuple[str, int, int, int, int]) -> None:
    """Prepare a process of the pool."""
    global _subject
    torch.set_num_threads(1)
    _subject = _Subject(*arguments, torch.device("cpu"))


def _work(name: str) -> int:
    assert _subject is not None
    return _subject.ours(name)()


def _processes(arguments: tuple[str, int, int, int, int], name: str, repeats: int) -> list[float]:
    """Images per second of one process and of two, start-up not counted; each call of ours is one piece of work."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, initializer=_start, initargs=(arguments,)) as pool:
        sides = [lambda: sum(pool.map(_work, [name])), lambda: sum(pool.map(_work, [name] * 2))]
        for _ in range(2):  # Both processes are up when both have answered at the same time.
            sides[1]()
        return medians(sides, repeats, torch.device("cpu"))
