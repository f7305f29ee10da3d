"""A training step as one launch: CUDA graphs of the whole step, one for each shape, replayed instead of some thousand
operations that the host would have to start one by one.

A graph holds all of a step: gathering and degrading the images, teachers, student, backward pass, optimiser and the
sums of the metrics. It reads and writes tensors that keep their place. What cannot be captured trains operation by
operation, and the reason is said.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch

from fusiondistill.feeding import fits
from fusiondistill.host_reads import HostReads
from fusiondistill.static_batches import StaticBatches

if TYPE_CHECKING:
    from fusiondistill.batches import Pipeline
    from fusiondistill.recipe import Recipe
    from fusiondistill.training import Loop

__all__ = ["Captured", "Recorder", "captured", "in_words", "pays", "why_not"]

LEAST = 50
"""Steps of a training that is worth a capture, which takes as long as about ten."""
_WARM = 2
"""Steps before the one that is watched, in which libraries choose and allocate, and tables come to the device."""
_TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2}
"""How far sums of replayed steps may lie from those of the same steps operation by operation, relatively."""

Step = Callable[[], None]


class CannotCapture(RuntimeError):
    """The step is not one that a graph can hold."""


class Recorder(Protocol):
    """Makes a function that repeats what another one has launched."""

    def warm(self) -> AbstractContextManager[Any]:
        """Where the steps before are done."""

    def record(self, step: Step) -> Step:
        """The step as a replay; it is not done."""


def pays(recipe: Recipe, pipeline: Pipeline, epochs_done: int = 0) -> bool:
    """Whether a training has enough steps left for a capture."""
    return (recipe.epochs - epochs_done) * pipeline.steps >= LEAST


def why_not(recipe: Recipe, pipeline: Pipeline) -> str | None:
    """Why steps cannot be captured, as far as that is known before; "" without a GPU, None: it can be tried."""
    if pipeline.device.type != "cuda":
        return ""
    if pipeline.world_size > 1:
        return "several workers share each batch"
    if recipe.compile:
        return "the student is compiled"
    if recipe.precision == "fp16":
        return "fp16 reads back in each step whether gradients overflowed"
    if not fits(pipeline.images, pipeline.device, pipeline.limit):
        return "the images do not fit the GPU and are read ahead of need"
    return None


def captured(loop: Loop, say: Callable[[str], None], recorder: Recorder | None = None) -> Captured | None:
    """The steps of a training as graphs; None where that failed, which ``say`` is told.

    In every case weights, statistics, state of the optimiser, sums and torch's generators are as before.

    Args:
        loop: in train mode, with an optimiser that a graph can hold.
        say: takes a sentence.
        recorder: None: CUDA graphs.
    """
    before = _State(loop)
    try:
        made = Captured(loop, recorder or CudaGraphs(loop.device))
        made.compare(before)
    except Exception as error:  # what a user's network or an old driver raises is not known
        before.restore(as_new=True)
        cause = error.__context__ or error if "captur" in str(error) else error  # ending a broken capture fails, too
        say(in_words(str(cause) if isinstance(cause, CannotCapture) else f"{type(cause).__name__}: {cause}"))
        return None
    before.restore()
    return made


def in_words(reason: str) -> str:
    """A sentence for the log."""
    first = reason.strip().splitlines()[0].rstrip(".")
    return f"Each step starts its operations one by one and is not one CUDA graph: {first}."


class Captured:
    """The steps of a training as replays.

    Args:
        loop: trains; its weights change, see :func:`captured`.
        recorder: makes the replays.

    Raises:
        CannotCapture: the step reads values back, has shapes that depend on them, or draws random numbers on the host.
    """

    def __init__(self, loop: Loop, recorder: Recorder) -> None:
        self.loop, self.batches = loop, StaticBatches(loop.pipeline)
        self._replays: dict[int, Step] = {}
        sizes = self.batches.sizes
        for size in dict.fromkeys(sizes):
            with recorder.warm():
                for _ in range(_WARM):
                    self.batches.begin(0)
                    self._step(size)
                self._watch(size)
            self.batches.begin(0)
            self._replays[size] = recorder.record(partial(self._step, size))

    def _step(self, size: int) -> None:
        self.loop.step(self.batches.next(size))

    def _watch(self, size: int) -> None:
        """Do a step, and refuse one that a graph cannot repeat."""
        self.batches.begin(0)
        drawn = torch.get_rng_state()
        with HostReads() as reads:
            self._step(size)
        if reads.found:
            raise CannotCapture(f"the step makes the host wait for the device: {reads.found[0]}")
        if not torch.equal(drawn, torch.get_rng_state()):
            raise CannotCapture("the step draws random numbers on the host, which a graph would repeat")

    def epoch(self, epoch: int) -> Iterator[Step]:
        """The steps of an epoch, each to be called."""
        self.batches.begin(epoch)
        yield from (self._replays[size] for size in self.batches.sizes)

    def compare(self, before: _State) -> None:
        """Do a few steps in both ways.

        Raises:
            CannotCapture: they differ.
        """
        sizes = self.batches.sizes
        few = sizes if len(sizes) <= 3 else [*sizes[:2], sizes[-1]]
        found = []
        for way in (self._step, lambda size: self._replays[size]()):
            before.restore()
            self.loop.clear()
            self.batches.begin(0)
            for size in few:
                way(size)
            found.append(self.loop.sums.clone())
        one_by_one, replayed = found
        images = float(one_by_one[0])
        limit = _TOLERANCE[self.loop.recipe.precision] * one_by_one.abs().clamp(min=0.01 * images)
        limit[1] = 0.05 * images  # right answers, which rounding may turn
        if bool(((replayed - one_by_one).abs() > limit).any()):
            raise CannotCapture(
                f"replayed steps train otherwise than the same steps one by one: loss {_mean(replayed)} instead of "
                f"{_mean(one_by_one)}"
            )


def _mean(sums: torch.Tensor) -> str:
    return f"{float(sums[2] / sums[0]):.6g}"


class CudaGraphs:
    """Records on its own stream, all graphs in one pool of memory: they are never replayed at once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def warm(self) -> Iterator[None]:
        """The stream, in turn with the current one."""
        with torch.cuda.device(self.device):
            current = torch.cuda.current_stream()
            self.stream.wait_stream(current)
            try:
                with torch.cuda.stream(self.stream):
                    yield
            finally:
                current.wait_stream(self.stream)

    def record(self, step: Step) -> Step:
        """A graph of the step. Other threads of the process may use the device meanwhile."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), _no_garbage():
            current = torch.cuda.current_stream()
            try:
                with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                    step()
            except BaseException:
                with suppress(Exception):  # torch goes on allocating there where a capture could not be ended
                    torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self.pool)
                raise
            finally:
                torch.cuda.set_stream(current)  # torch leaves its stream only where all went well
        return graph.replay


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Collect garbage before and not within the block: to free what an old graph holds would break a new one."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _State:
    """All that a step changes, as it was: weights, statistics, the optimiser's state, sums, generators."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in self._changing()]
        state = loop.optimizer.state
        self._optimizer = {
            weight: {name: one.clone() for name, one in values.items() if isinstance(one, torch.Tensor)}
            for weight, values in state.items()
        }
        self._host = torch.get_rng_state()
        self._cuda: tuple[torch.Generator, torch.Generator] | None = None
        if loop.device.type == "cuda" and torch.cuda.is_available():
            own = torch.cuda.default_generators[_index(loop.device)]
            self._cuda = own, own.clone_state()

    def _changing(self) -> Iterator[torch.Tensor]:
        yield from self.loop.model.parameters()
        yield from self.loop.model.buffers()
        yield from (self.loop.sums, self.loop.done, self.loop.first_bad)

    @torch.no_grad()
    def restore(self, as_new: bool = False) -> None:
        """Write it back, in place.

        Args:
            as_new: no graph uses the tensors, so that what was not there goes, and a generator that a failed capture
                has left half-way is replaced.
        """
        for tensor, saved in self._tensors:
            tensor.copy_(saved)
        state = self.loop.optimizer.state
        for weight, values in list(state.items()):
            saved_values = self._optimizer.get(weight, {})
            for name, one in list(values.items()):
                if name in saved_values:
                    one.copy_(saved_values[name])
                elif isinstance(one, torch.Tensor):
                    one.zero_()  # what optimisers begin with
            if as_new and weight not in self._optimizer:
                del state[weight]
        torch.set_rng_state(self._host)
        if self._cuda:
            own, saved_generator = self._cuda
            if as_new:
                own.graphsafe_set_state(saved_generator)
            else:
                own.set_state(saved_generator.get_state())


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index
