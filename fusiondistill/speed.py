"""How fast this process trains and judges: real steps and forward passes, timed for a moment."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from fusiondistill.capturing import pays
from fusiondistill.data import ImageSet
from fusiondistill.evaluation import Conditions, judge_images
from fusiondistill.fitting import Training
from fusiondistill.memory import kept_memory
from fusiondistill.progress import Progress
from fusiondistill.training import Loop

__all__ = ["TrainingSpeed", "degrading_seconds", "judging_seconds", "training_speed"]

FEW = 8
"""Images of the first and smallest measurement."""
GROWTH = 8
"""The next measurement has at most so many times the images."""
LONGEST = 3
"""So many times the given time, and no further call is made."""
STILL = 1e-6
"""The learning rate of timed steps: random networks stay as they are, and no loss overflows."""


class TrainingSpeed(NamedTuple):
    """What a training takes on this device, and the state from which it could go on.

    Attributes:
        image: seconds of a step for each of its images; with several degradations each gives its own images.
        validated: seconds for each image that is validated under one degradation.
        epoch: seconds in which the state after an epoch is copied.
        progress: that state.
    """

    image: float
    validated: float
    epoch: float
    progress: Progress


def training_speed(
    training: Training, network: nn.Module, teachers: Sequence[nn.Module] = (), *, seconds: float = 1.0
) -> TrainingSpeed:
    """Time some steps of a training, and some images of its validation.

    The steps are those of the training loop, on batches of its pipeline, at a learning rate that changes nothing. Where
    a whole batch would take longer than the time that is given, a part of it is timed.

    Args:
        training: what is to be timed.
        network: its student, with any weights; is trained.
        teachers: for each of ``training.taught``.
        seconds: about how long to measure the steps; a third of it goes to the validation.

    Example:
        >>> digits = load_images("digits", "train")
        >>> speed = training_speed(Training(recipe, digits), random_network("cifar_resnet8", 10, 0), seconds=0.5)
        >>> minutes = speed.image * len(digits) * recipe.epochs / 60
    """
    training = training.laid_out(network)
    optimizer = training.recipe.optimizer.model_copy(update={"lr": STILL})
    still = replace(training, recipe=training.recipe.model_copy(update={"optimizer": optimizer}))
    several = max(1, len(training.degradations))
    largest = min(training.recipe.batch_size, len(training.images))
    capture = training.capture and pays(training.recipe, training.pipeline())
    last: list[Loop] = []
    rows: list[dict[str, float]] = []

    def images_of(count: int) -> tuple[int, int]:
        """(images of a step, images of an epoch), of each degradation."""
        batch = min(largest, max(2, count))
        return batch, min(len(training.images), max(1, count // batch) * batch)

    def ready(count: int) -> None:
        """Make what trains on about so many images of each degradation."""
        batch, epoch = images_of(count)
        recipe = still.recipe.model_copy(update={"batch_size": batch})
        part = replace(still, recipe=recipe, images=training.images.select(torch.arange(epoch)))
        if last:
            last.pop().close()
        graphs = capture and batch == largest
        last.append(Loop(network, recipe, part.pipeline(), teachers, capture=graphs, taught_by=training.taught_by))
        last[0].prepare()

    def steps(count: int) -> int:
        """Train; returns how many images that were in all."""
        epoch = images_of(count)[1]
        rows[:] = [last[0].epoch(number) for number in range(max(1, count // epoch))]
        return len(rows) * epoch * several

    def validated(count: int) -> int:
        """Validate so many images under each degradation."""
        few = training.held_out if training.held_out is not None else training.images
        rows = torch.arange(count) % len(few)
        replace(training, held_out=few.select(rows)).validate(network, 0)
        return count * several

    try:
        with kept_memory(training.device):
            image = _seconds_each(steps, seconds, training.device, ready)
        began = time.perf_counter()
        progress = last[0].judge(Progress(), 0, rows[-1], None, began)
        ended = time.perf_counter() - began
    finally:
        for loop in last:
            loop.close()
    return TrainingSpeed(image, _seconds_each(validated, seconds / 3, training.device), ended, progress)


def judging_seconds(model: nn.Module, images: ImageSet, *, batch_size: int = 500, seconds: float = 0.3) -> float:
    """The seconds in which a model judges an image, without degrading it.

    Args:
        model: takes uint8 [B,3,H,W], returns logits [B,C].
        images: any images of the size that counts.
        batch_size: images of a forward pass.
        seconds: about how long to measure.
    """
    device = next((one.device for one in model.parameters()), torch.device("cpu"))

    def judge(count: int) -> int:
        pixels, labels = images.gather(torch.arange(count) % len(images))
        judge_images(model, [pixels], labels, batch_size=batch_size)
        return count

    return _seconds_each(judge, seconds, device)


def degrading_seconds(images: ImageSet, conditions: Conditions, device: torch.device, *, seconds: float = 0.3) -> float:
    """The seconds in which an image is degraded to one of the levels of ``conditions``, the mean over them."""
    levels = conditions.levels

    def degrade(count: int) -> int:
        rows = torch.arange(min(count, conditions.batch_size)) % len(images)
        pixels, indices = images.gather(rows)[0].to(device), rows.to(device)
        times = max(1, count // len(rows))
        for _ in range(times):
            for level in levels:
                conditions.shown(pixels, indices, level)
        return times * len(rows) * len(levels)

    return _seconds_each(degrade, seconds, device)


def _seconds_each(
    call: Callable[[int], int],
    seconds: float,
    device: torch.device,
    ready: Callable[[int], None] = lambda count: None,
) -> float:
    """The seconds for each image of a call: the median of some calls that are long enough.

    Other processes may hold up any single call: two short ones tell how many images a long one takes, and three or more
    long ones vote. Where a few images take long already, there are fewer calls.

    Args:
        call: works on about as many images as it is told, and returns how many it has worked on.
        seconds: about how long all calls may take.
        ready: called with the number before the first call with it, and not timed.
    """
    began, asked = time.perf_counter(), FEW
    ready(asked)
    _timed(call, asked, device)  # compiles, allocates, fills caches
    while True:
        rates = [_timed(call, asked, device) for _ in range(2)]
        shortest = min(took for took, _ in rates)
        if shortest > seconds / 8:
            break
        asked *= max(2, min(GROWTH, int(seconds / 5 / shortest)))
        ready(asked)
    while time.perf_counter() - began < seconds or (len(rates) < 3 and time.perf_counter() - began < LONGEST * seconds):
        rates.append(_timed(call, asked, device))
    return statistics.median(took / done for took, done in rates)


def _timed(call: Callable[[int], int], count: int, device: torch.device) -> tuple[float, int]:
    """(seconds, what the call returns), with all that the device was asked to do."""
    began = time.perf_counter()
    done = call(count)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began, done
