"""The benchmark of training: our whole step beside the bare network, and beside the usual way of writing one."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from fusiondistill.batches import normalise
from fusiondistill.bench import CLASSES, STATISTICS, picture_set, row, threads_in_words, torch_threads, turns
from fusiondistill.degradations import PAPER_DEGRADATIONS
from fusiondistill.devices import device_of
from fusiondistill.fitting import Training
from fusiondistill.layout import memory_format
from fusiondistill.memory import kept_memory
from fusiondistill.models import build_model
from fusiondistill.precision import autocast
from fusiondistill.recipe import Recipe
from fusiondistill.recipes import RECIPES
from fusiondistill.speed import STILL
from fusiondistill.training import Loop
from fusiondistill.usual_way import usual_way

__all__ = ["KINDS", "bench_training"]


@dataclass(frozen=True)
class Kind:
    """A kind of training: the shape whose recipe it has, and what its images are degraded by."""

    shape: str
    degradations: tuple[str, ...]
    taught: bool = False

    def recipe(self, batch: int, precision: str, layout: Any, **optimizer: Any) -> Recipe:
        """The paper's recipe for such a training at the learning rate of a standstill; ``optimizer`` is laid over."""
        known = RECIPES["paper"][self.shape]
        own = {"epochs": 1, "batch_size": batch, "precision": precision, "channels_last": layout}
        return Recipe.model_validate({**known, "optimizer": {**known["optimizer"], "lr": STILL, **optimizer}, **own})


KINDS = {
    "clean": Kind("clean", ()),
    "mixture": Kind("all-network", PAPER_DEGRADATIONS),
    "distillation": Kind("all-merged-taught", PAPER_DEGRADATIONS, taught=True),
}
"""Kind of training -> what it is: on clean images, on all degradations, and that with an expert for each."""


def bench_training(
    device: str = "cpu",
    *,
    model: str | None = None,
    size: int = 32,
    batch: int = 128,
    steps: int | None = None,
    kinds: Sequence[str] = tuple(KINDS),
    precisions: Sequence[str] = ("fp32", "bf16"),
    threads: int | None = None,
    repeats: int = 5,
    compiled: bool | None = None,
    degradations: Sequence[str] | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Training images per second of :class:`fusiondistill.training.Loop`, random weights, the paper's recipes.

    Ours is a whole step: images gathered, degraded, cropped and normalised, teachers, student, optimiser and metrics.
    It is compared, taking turns:

    - with the bare network: forward and backward pass on one batch that is ready, without an optimiser; with teachers
      their forward passes, too; the best of the ways to run that in the same precision;
    - with itself in the default layout (NCHW), float32, without :func:`fusiondistill.memory.kept_memory`, which our
      side and the bare network have;
    - with :func:`fusiondistill.usual_way.usual_way`.

    Args:
        device: where all sides run; the usual way degrades on the CPU.
        model: name of a network; default: cifar_resnet8, on a GPU cifar_resnet56.
        size: side of the square images.
        batch: images of each degradation in a step.
        steps: of a turn; default: 4, on a GPU 50, since an epoch's end reads the metrics back.
        kinds: of :data:`KINDS`.
        precisions: fp32, bf16.
        threads: of torch; default: all that it may use.
        repeats: the medians of so many turns are reported.
        compiled: whether ``torch.compile`` is among the ways to run the bare network; default: on a GPU.
        degradations: must be left out; what other benchmarks choose by.
        progress: called with each finished row.

    Returns:
        One dict per comparison: ``name``, ``ours``, ``reference``, ``ratio``, ``unit`` ("images/s"), ``limit``.

    Raises:
        ValueError: an unknown kind, or a device that is not there.
    """
    if unknown := [name for name in kinds if name not in KINDS]:
        raise ValueError(f"no kind of training {unknown[0]!r}: choose from {', '.join(KINDS)}")
    if degradations:
        raise ValueError("the benchmark of training takes the paper's degradations: leave out --degradation")
    where = device_of(device)
    gpu = where.type != "cpu"
    subject = _Subject(
        model or ("cifar_resnet56" if gpu else "cifar_resnet8"), size, batch, steps or (50 if gpu else 4), where
    )
    rows: list[dict[str, Any]] = []
    count = threads or torch.get_num_threads()
    with torch_threads(count):
        for name in kinds:
            suffix = f"{name} {subject.model}" + ("" if gpu else f", {threads_in_words(count)}")
            for one in _compared(subject, name, suffix, precisions, repeats, gpu if compiled is None else compiled):
                rows.append(one)
                if progress:
                    progress(one)
    return rows


def _compared(
    subject: _Subject, name: str, suffix: str, precisions: Sequence[str], repeats: int, compiled: bool
) -> Iterator[dict[str, Any]]:
    """The rows of one kind of training."""
    kind = KINDS[name]
    slow = subject.usual(kind, repeats) if kind.degradations else None
    (plain,) = turns([subject.ours(kind, "fp32", False)], repeats, subject.device)
    sides: dict[tuple[str, str], Callable[[], float]] = {}
    for precision in precisions:
        sides[precision, "ours"] = subject.ours(kind, precision, "auto")
        sides |= {(precision, way): run for way, run in subject.ways(kind, precision, compiled).items()}
    with kept_memory(subject.device):
        found = dict(zip(sides, turns(list(sides.values()), repeats, subject.device), strict=True))
    for precision in precisions:
        ours = found.pop((precision, "ours"))
        ways = {way: statistics.median(rates) for (one, way), rates in found.items() if one == precision}
        best = max(ways, key=lambda way: ways[way])
        title, middle = f"{suffix}, {precision}", statistics.median(ours)
        said = f"n = {repeats}, ours from {min(ours):,.0f} to {max(ours):,.0f}"
        each = ", ".join(f"{way} {rate:,.0f}" for way, rate in ways.items())
        yield row(f"{title}: bare network", middle, ways[best], f"best of {each}; {said}")
        yield row(
            f"{title}: NCHW, fp32", middle, statistics.median(plain), f"the same step, without kept memory; {said}"
        )
        if slow:
            yield row(f"{title}: usual way", middle, statistics.median(slow), f"Pillow and imagedegrade; {said}")


class _Subject:
    """The images and networks that are measured."""

    def __init__(self, model: str, size: int, batch: int, steps: int, device: torch.device) -> None:
        self.model, self.batch, self.steps, self.device = model, batch, steps, device
        self.images = picture_set(batch * steps, size)

    def network(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return build_model(self.model, len(CLASSES)).to(self.device)

    def teachers(self, kind: Kind) -> list[nn.Module]:
        return [self.network(1 + i).eval() for i in range(len(kind.degradations))] if kind.taught else []

    def ours(self, kind: Kind, precision: str, layout: Any) -> Callable[[], float]:
        """Epochs of our loop."""
        recipe = kind.recipe(self.batch, precision, layout)
        training = Training(recipe, self.images, degradations=kind.degradations, flip=True, device=self.device)
        network = self.network()
        training = training.laid_out(network)
        loop = Loop(network, training.recipe, training.pipeline(), self.teachers(kind))
        epochs = iter(range(10**9))
        return lambda: loop.epoch(next(epochs))["images"]

    def ways(self, kind: Kind, precision: str, compiled: bool) -> dict[str, Callable[[], float]]:
        """The ways to run the bare network."""
        cuda = self.device.type == "cuda"
        found = {"eager": self._bare(kind, precision, False), "channels last": self._bare(kind, precision, True)}
        if compiled:
            found["compiled"] = self._bare(kind, precision, True, compiled=True)
        if cuda:
            found["captured"] = self._bare(kind, precision, True, captured=True)
        return found

    def _bare(
        self, kind: Kind, precision: str, last: bool, *, compiled: bool = False, captured: bool = False
    ) -> Callable[[], float]:
        """Forward and backward passes on one batch."""
        layout, parts = memory_format(last), max(1, len(kind.degradations))
        pixels, labels = (given.to(self.device) for given in self.images.gather(torch.arange(self.batch).repeat(parts)))
        batch = normalise(pixels, *STATISTICS).contiguous(memory_format=layout)
        network, *teachers = (one.to(memory_format=layout) for one in (self.network(), *self.teachers(kind)))
        called = torch.compile(network.train()) if compiled else network.train()

        def step() -> None:
            network.zero_grad(set_to_none=not captured)
            with autocast(precision, self.device):
                with torch.no_grad():
                    for teacher, part in zip(teachers, batch.chunk(parts), strict=False):
                        teacher(part)
                loss = functional.cross_entropy(called(batch).float(), labels)
            loss.backward()

        once = _captured(step) if captured else step

        def run() -> float:
            for _ in range(self.steps):
                once()
            return float(len(batch) * self.steps)

        return run

    def usual(self, kind: Kind, repeats: int) -> list[float]:
        """Images a second of the usual way, of each turn."""
        network = self.network()
        return usual_way(
            network, self.teachers(kind), self.images, kind.degradations,
            recipe=kind.recipe(self.batch, "fp32", False), device=self.device, steps=self.steps, repeats=repeats,
        )  # fmt: skip


def _captured(step: Callable[[], None]) -> Callable[[], None]:
    """The step as one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
