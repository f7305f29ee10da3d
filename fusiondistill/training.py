"""The training loop. Every trained row of the table is this loop with another recipe.

Rows differ only in initial weights, degradations, objective, teachers, optimiser and schedule, which the caller gives.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial

import torch
from torch import distributed, nn
from torch.utils._pytree import tree_map_only

from fusiondistill.batches import Batch, Pipeline
from fusiondistill.capturing import Captured, captured, in_words, pays, why_not
from fusiondistill.layout import memory_format
from fusiondistill.losses import Outputs
from fusiondistill.mixing import right
from fusiondistill.models.features import LayerTaps
from fusiondistill.objectives import Objective
from fusiondistill.optimizers import load, optimizer_of, set_rate
from fusiondistill.precision import autocast, slow_precision
from fusiondistill.progress import Progress
from fusiondistill.randomness import key
from fusiondistill.recipe import Recipe
from fusiondistill.teaching import check_count, joined
from fusiondistill.weight_average import Pull, average_of
from fusiondistill.wrapping import synchronised, wrapped_student

__all__ = ["Loop", "NonFiniteLoss", "train"]

Validation = Callable[[nn.Module, int], Mapping[str, float | Fraction]]


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; ``epoch`` and ``step`` count from 1."""

    def __init__(self, epoch: int, step: int, steps: int, precision: str = "fp32") -> None:
        self.epoch, self.step = epoch, step
        advice = "lower the learning rate (optimizer.lr)"
        if precision != "fp32":
            advice = f"try precision: fp32 instead of {precision}, or {advice}"
        super().__init__(
            f"the loss (or a weight) is not finite at epoch {epoch}, step {step} of {steps}: {advice}; the last good "
            "epoch is kept"
        )


def train(
    model: nn.Module,
    recipe: Recipe,
    pipeline: Pipeline,
    *,
    seed: int,
    teachers: Sequence[nn.Module] = (),
    taught_by: str = "degradation",
    span: tuple[int, int] | None = None,
    validation: Validation | None = None,
    start: Progress | None = None,
    on_epoch: Callable[[Progress], None] | None = None,
    sync_batchnorm: bool = False,
    capture: bool = True,
    say: Callable[[str], None] = warnings.warn,
) -> Progress:
    """Train ``model`` in place and return the progress after the last epoch.

    Each data-parallel worker normalises its own part of a batch (BatchNorm); gradients are averaged over workers. The
    running statistics that are validated and kept are those of rank 0, of its parts of the batches alone.

    Args:
        model: takes normalised float32 [B,3,H,W]; ``model(x, features=True)`` gives (logits, feature map). On the
            pipeline's device, holding its initial weights.
        recipe: epochs, optimiser, schedule, loss weights, precision.
        pipeline: where batches come from, and in which memory layout networks are. With ``world_size`` > 1 a
            torch.distributed group must be up.
        seed: of the model's own randomness (dropout).
        teachers: one per degradation of the pipeline (one in all for clean training), same call as ``model``; put in
            eval mode, never wrapped, never changed. Needed if a loss term of the recipe needs them.
        taught_by: ``degradation``: each image's own degradation's teacher teaches it; ``mean`` or ``confidence``: all
            of two or more teachers do, see :func:`fusiondistill.teaching.joined`.
        span: the first epoch, from 0, and the one after the last that are done; None: all. The schedule is that of the
            whole recipe.
        validation: (model, epoch from 0) -> accuracy (fraction) per degradation, called after every epoch; the epoch
            with the best mean is kept, the later one of equals. None keeps the last epoch.
        start: where an earlier call stopped.
        on_epoch: called after every epoch on rank 0, to store and report. What it raises ends training.
        sync_batchnorm: see :func:`fusiondistill.wrapping.synchronised`.
        capture: on CUDA replay steps as graphs where that can be done and pays; see :mod:`fusiondistill.capturing`.
        say: told in a sentence what does not go as the recipe asks but changes no result, like a failed ``compile``.

    Returns:
        The progress after the last epoch; ``best`` holds the chosen weights. Complete on rank 0.

    Raises:
        NonFiniteLoss: at the end of an epoch in which the loss or a weight was not finite; the epoch before is kept.
        ValueError: teachers are missing, or the loss names a layer that a network has not.
        NeedsGPU: ``sync_batchnorm`` on another device.
    """
    if sync_batchnorm:
        model = synchronised(model, pipeline.device)
    if slow := slow_precision(recipe.precision, pipeline.device):
        say(slow)
    first, end = span or (0, recipe.epochs)
    progress = replace(start or Progress(epoch=first), channels_last=pipeline.channels_last)
    capture = capture and pays(recipe, pipeline, progress.epoch + recipe.epochs - end)
    loop = Loop(model, recipe, pipeline, teachers, say, capture=capture, taught_by=taught_by, first=first)
    if start:
        loop.restore(start)
    try:
        for epoch in range(progress.epoch, end):
            began = time.perf_counter()
            torch.manual_seed(key(seed, "model", epoch, pipeline.rank) & (2**63 - 1))
            row = loop.epoch(epoch)
            if pipeline.rank == 0:
                progress = loop.judge(progress, epoch, row, validation, began)
                if on_epoch:
                    on_epoch(progress)
    finally:
        loop.close()
    return progress


class Loop:
    """One training: the objects that all its epochs share; :mod:`fusiondistill.speed` times some of its steps."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        pipeline: Pipeline,
        teachers: Sequence[nn.Module],
        say: Callable[[str], None] = warnings.warn,
        *,
        capture: bool = True,
        taught_by: str = "degradation",
        first: int = 0,
    ) -> None:
        self.objective = Objective(recipe.loss, pipeline.device)
        if self.objective.needs.teacher:
            check_count(len(teachers), taught_by, max(1, len(pipeline.degradations)))
        self.recipe, self.pipeline, self.model, self.say = recipe, pipeline, model, say
        self.taught_by = taught_by
        self.device = pipeline.device
        self.layout = memory_format(pipeline.channels_last)
        model.to(self.device, memory_format=self.layout)  # type: ignore[call-overload]
        self.teachers = [t.to(self.device, memory_format=self.layout).eval() for t in teachers]  # type: ignore[call-overload]
        self.average = average_of(model, recipe, first)
        self.taps = LayerTaps(model, recipe.loss.layers)
        self.teacher_taps = [LayerTaps(teacher, recipe.loss.layers) for teacher in self.teachers]
        self._not_captured = why_not(recipe, pipeline) if capture else ""
        self.captured: Captured | None = None
        self.optimizer = optimizer_of(model, recipe, static=self._not_captured is None)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        self.forward = wrapped_student(model, recipe, pipeline, self.taps, say)
        self.pull = Pull(model, recipe.pull) if recipe.pull else None  # all workers have one start now
        self.names = ("images", "right", "loss", *self.objective.names)
        self.sums = torch.zeros(len(self.names), dtype=torch.float64, device=self.device)
        """Over the images of an epoch so far: their number, and what :attr:`names` says of each."""
        self.done = torch.zeros((), dtype=torch.int64, device=self.device)
        self.first_bad = torch.zeros_like(self.done)

    def prepare(self) -> None:
        """Capture the steps where that can be done; the first epoch does it, too."""
        reason, self._not_captured = self._not_captured, ""
        if reason is None:
            self.model.train()
            self.captured = captured(self, self.say)
        elif reason:
            self.say(in_words(reason))

    def close(self) -> None:
        """Leave the networks without hooks, and give up the graphs."""
        self.captured = None
        for taps in (self.taps, *self.teacher_taps):
            taps.remove()

    def restore(self, progress: Progress) -> None:
        """Go on from the state after an epoch."""
        self.model.load_state_dict(progress.model)
        if self.average and progress.average:
            self.average.network.load_state_dict(progress.average)
        load(self.optimizer, progress.optimizer)
        if progress.scaler:
            self.scaler.load_state_dict(progress.scaler)

    def epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch. Sums stay on the device until it is over."""
        self.objective.begin(epoch, self.recipe.epochs)
        self.prepare()
        self.model.train()
        self.clear()
        rate = -1.0
        for step, train in enumerate(self.steps(epoch)):
            rate = self._set_rate(epoch, step, rate)
            train()
            if self.average:
                self.average.update(epoch * self.pipeline.steps + step)
        sums, first_bad, never = self.sums, self.first_bad, self.pipeline.steps + 1
        if self.pipeline.world_size > 1:
            distributed.all_reduce(sums)
            distributed.all_reduce(first_bad, op=distributed.ReduceOp.MIN)
        finite = torch.stack([weight.detach().isfinite().all() for weight in self.model.parameters()]).all()
        first_bad = torch.where(finite, first_bad, first_bad.clamp(max=self.pipeline.steps))
        if int(first_bad) < never:
            raise NonFiniteLoss(epoch + 1, int(first_bad), self.pipeline.steps, self.recipe.precision)
        if self.average:
            with autocast(self.recipe.precision, self.device):
                self.average.end(self.pipeline, epoch)
        values = sums.tolist()
        row = {name: value / values[0] for name, value in zip(self.names[2:], values[2:], strict=True)}
        return {"lr": rate, "images": values[0], "train_accuracy": values[1] / values[0], **row}

    def _set_rate(self, epoch: int, step: int, before: float) -> float:
        """The learning rate of a step, which is what the optimiser has from now on."""
        part = (step + 0.5) / self.pipeline.steps
        rate = self.recipe.optimizer.lr * self.recipe.schedule.rate(epoch, self.recipe.epochs, part)
        if rate != before:  # on a GPU it is a launch
            set_rate(self.optimizer, rate)
        return rate

    def clear(self) -> None:
        """Set the sums of an epoch to zero."""
        self.sums.zero_()
        self.done.zero_()
        self.first_bad.fill_(self.pipeline.steps + 1)

    def steps(self, epoch: int) -> Iterator[Callable[[], None]]:
        """The steps of an epoch, each to be called."""
        if self.captured:
            return self.captured.epoch(epoch)
        return (partial(self.step, batch) for batch in self.pipeline.epoch(epoch))

    def step(self, batch: Batch) -> None:
        """Train on a batch, and add to the sums of the epoch; nothing is read back from the device."""
        logits, loss, terms = self._descend(batch)
        good = right(logits.argmax(1), batch.labels, batch.mixed)
        means = [torch.ones_like(good), good, loss.detach(), *(terms[name] for name in self.objective.names)]
        self.sums += torch.stack([mean.double() for mean in means]) * batch.weight
        self.done += 1
        bad = torch.minimum(self.first_bad, self.done)
        self.first_bad.copy_(torch.where(torch.isfinite(loss), self.first_bad, bad))

    def _descend(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        with autocast(self.recipe.precision, self.device):
            teachers = self._teach(batch) if self.objective.needs.teacher else None
            apart = {"slices": batch.slices} if self.recipe.batchnorm == "apart" else {}
            features = None
            if self.objective.needs.features:
                logits, features = self.forward(batch.student, features=True, **apart)
            else:
                logits = self.forward(batch.student, **apart)
            layers = self.taps.take()
            loss, terms = self.objective.loss(
                logits, features, batch.labels, batch.slices, teachers, layers, batch.image_weights, batch.mixed
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss * batch.share).backward()
        if self.pull:
            self.scaler.unscale_(self.optimizer)
            self.pull.apply(self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return logits, loss, terms

    @torch.no_grad()
    def _teach(self, batch: Batch) -> list[Outputs]:
        """What teaches the images of each degradation."""
        assert batch.teacher is not None
        if self.taught_by == "degradation":
            return [self._ask(place, batch.teacher[part]) for place, part in enumerate(batch.slices)]
        said = [self._ask(place, batch.teacher) for place in range(len(self.teachers))]
        whole = joined(said, self.taught_by, batch.labels, batch.mixed)
        return [whole.part(part) for part in batch.slices]

    def _ask(self, place: int, images: torch.Tensor) -> Outputs:
        """What a teacher says of some images."""
        if not self.objective.needs.features:
            return Outputs(self.teachers[place](images), None)
        logits, features = self.teachers[place](images, features=True)
        return Outputs(logits, features, self.teacher_taps[place].take())

    def judge(
        self, before: Progress, epoch: int, row: dict[str, float], validation: Validation | None, began: float
    ) -> Progress:
        """Validate, pick the best epoch so far, and copy the state. What is judged and kept is the average, if any."""
        state = _state(self.model)
        average = _state(self.average.network) if self.average and self.average.counts(epoch) else {}
        judged = self.average.network if self.average and average else self.model
        score = float("inf")
        if validation:
            accuracies = validation(judged, epoch)
            score = float(sum(accuracies.values()) / len(accuracies))
            row |= {"validation": score, **{f"validation_{name}": float(value) for name, value in accuracies.items()}}
        better = score >= before.best_score
        row = {"epoch": epoch + 1, "seconds": time.perf_counter() - began, **row}
        return Progress(
            epoch=epoch + 1,
            model=state,
            optimizer=tree_map_only(torch.Tensor, _copied, self.optimizer.state_dict()),
            scaler=self.scaler.state_dict(),
            average=average,
            best=(average or state) if better else before.best,
            best_epoch=epoch + 1 if better else before.best_epoch,
            best_score=score if better else before.best_score,
            rows=[*before.rows, row],
            channels_last=before.channels_last,
        )


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a network's weights on the CPU."""
    return {name: _copied(tensor) for name, tensor in model.state_dict().items()}


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU, so that any machine can go on from it."""
    return tensor.detach().to("cpu", copy=True)
