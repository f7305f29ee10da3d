"""A training step as a function of tensors that keep their place: what a CPU can check of a CUDA graph of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from fusiondistill.batches import Pipeline
from fusiondistill.capturing import captured, pays, why_not
from fusiondistill.config_file import parse
from fusiondistill.degradations import DEGRADATIONS, PAPER_DEGRADATIONS
from fusiondistill.degradations.machinery import fields
from fusiondistill.host_reads import HostReads
from fusiondistill.models import build_model
from fusiondistill.optimizers import load, optimizer_of, set_rate
from fusiondistill.recipe import Schedule, with_keys
from fusiondistill.static_batches import StaticBatches
from fusiondistill.training import Loop, train
from fusiondistill_runner.planning.plan import build
from toy_training import Toy, make_pipeline, make_recipe

ALL = tuple(DEGRADATIONS)
DISTILLING = {"ce": 0.5, "feature": 1.0, "kd": 0.25, "dkd": 0.1}
SETTINGS: dict[str, tuple[tuple[str, ...], dict[str, float], dict[str, Any]]] = {
    "clean": ((), {}, {}),
    "distilled": (PAPER_DEGRADATIONS, DISTILLING, {"pairing": "same", "coupled": True, "teacher_view": "degraded"}),
    "every degradation, resized": (ALL, {"kd": 1.0}, {"scale": (0.3, 1.0)}),
    "weighted and balanced": (("noise", "blur"), {}, {
        "class_weights": torch.tensor([1.0, 2.0, 0.5]), "balanced": True, "protocol": "paper", "teacher_view": None,
    }),
    "mixed, by confidence": (("noise", "blur"), {"ce": 0.5, "kd": 1.0, "feature": 0.5, "dist": 0.5}, {"mixup": 0.4}),
    "apart": (("noise", "blur"), {"feature": 0.5}, {}),
}  # fmt: skip


class ByHand:
    """Stands for CUDA graphs where there is no GPU: the step itself is its replay."""

    def warm(self) -> Any:
        return nullcontext()

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        return step


@pytest.fixture
def tensors_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: no compiled kernels."""
    monkeypatch.setattr(fields, "cpu_kernels", lambda module: None)


def pipeline_of(setting: str) -> Pipeline:
    degradations, loss, other = SETTINGS[setting]
    return make_pipeline(degradations, **{"teacher_view": "clean" if loss else None, **other})


def loop_of(
    setting: str = "distilled", optimizer: str = "sgd", model: nn.Module | None = None, static: bool = True
) -> Loop:
    degradations, loss, _ = SETTINGS[setting]
    recipe = make_recipe(epochs=2, optimizer=optimizer, **{"ce": 1.0, **loss})
    if setting == "weighted and balanced":  # and what short recipes have
        changes = {"optimizer.nesterov": optimizer == "sgd", "loss.ce.label_smoothing": 0.1, "ema": 0.9}
        schedule = Schedule(name="cosine", by="step", warmup=0.3)
        recipe = with_keys(recipe, changes).model_copy(update={"schedule": schedule})
    by = "degradation"
    if setting == "mixed, by confidence":
        recipe, by = with_keys(recipe, {"mixup": 0.4, "swa": 0.5, "pull": 0.1, "loss.kd.fade": 1.0}), "confidence"
    if setting == "apart":
        recipe = with_keys(recipe, {"batchnorm": "apart"})
    teachers = [Toy(10 + i, norm=True) for i in range(max(1, len(degradations)))] if loss else []
    loop = Loop(model or Toy(1, norm=True), recipe, pipeline_of(setting), teachers, taught_by=by)
    loop.optimizer = optimizer_of(loop.model, recipe, static)
    return loop


def state(loop: Loop) -> list[torch.Tensor]:
    """All that a step changes."""
    found = [*loop.model.state_dict().values(), loop.sums, loop.done, loop.first_bad, torch.get_rng_state()]
    found += loop.average.network.state_dict().values() if loop.average else []
    for values in loop.optimizer.state.values():
        found += [one for one in values.values() if isinstance(one, torch.Tensor)]
    return [one.detach().clone() for one in found]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _parts(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple) else [value]


@pytest.mark.parametrize("setting", SETTINGS)
def test_static_batches_are_the_pipelines(setting: str) -> None:
    pipeline = pipeline_of(setting)
    batches = StaticBatches(pipeline)
    for epoch in (1, 0):
        batches.begin(epoch)
        usual = list(pipeline.epoch(epoch))
        assert len(batches.sizes) == len(usual) == pipeline.steps
        for size, one in zip(batches.sizes, usual, strict=True):
            ours = batches.next(size)
            assert vars(ours).keys() == vars(one).keys()
            for name, expected in vars(one).items():
                given = getattr(ours, name)
                for ours_, theirs in zip(*map(_parts, (given, expected)), strict=True):
                    equal = torch.equal(ours_, theirs) if isinstance(theirs, torch.Tensor) else ours_ == theirs
                    assert equal, (name, epoch, size)


@pytest.mark.parametrize("optimizer", ["sgd", "radam", "adamw", "muon"])
@pytest.mark.parametrize("setting", ["clean", "distilled", "weighted and balanced", "mixed, by confidence", "apart"])
def test_replayed_steps_are_the_steps_to_the_bit(setting: str, optimizer: str) -> None:
    plain, replayed = loop_of(setting, optimizer), loop_of(setting, optimizer)
    told: list[str] = []
    replayed.captured = captured(replayed, told.append, ByHand())
    assert replayed.captured and not told
    for epoch in range(2):
        assert plain.epoch(epoch) == replayed.epoch(epoch)
        assert same(state(plain), state(replayed))


@pytest.mark.usefixtures("tensors_only")
@pytest.mark.parametrize("optimizer", ["sgd", "radam", "adamw", "muon"])
def test_a_step_reads_nothing_back(optimizer: str) -> None:
    """Neither for any degradation and loss term nor for crops, weights, repeats and the optimiser."""
    for setting in SETTINGS if optimizer == "radam" else ["clean"]:
        loop = loop_of(setting, optimizer)
        batches = StaticBatches(loop.pipeline)
        loop.step(batches.next(8))  # tables and the optimiser's state are made once
        with HostReads() as reads:
            loop.step(batches.next(8))
        assert reads.found == [], setting


def test_the_paper_network_reads_nothing_back() -> None:
    loop = loop_of("clean", "radam", build_model("cifar_resnet8", 3))
    made = captured(loop, pytest.fail, ByHand())
    assert made and sorted(made._replays) == [5, 8]  # two shapes: 21 images in batches of 8


def test_host_reads_are_found_with_their_line() -> None:
    ones = torch.ones(4)
    for ask in (
        lambda: ones.sum().item(), lambda: bool(ones[0] > 0), lambda: ones.nonzero(), lambda: ones[ones > 0],
        lambda: ones.masked_select(ones > 0), lambda: ones.unique(), lambda: ones.long().bincount(),
        lambda: ones.to("meta"), lambda: torch.repeat_interleave(ones.long()), lambda: torch.equal(ones, ones.clone()),
    ):  # fmt: skip
        with HostReads() as reads:
            ask()
        assert len(reads.found) >= 1 and "test_capturing.py, line" in reads.found[0]
    with HostReads() as reads:
        _ = ones[torch.tensor([0, 1])] * 2 + torch.where(ones > 0, ones, 0.0).sum().double()
    assert reads.found == []


class Reads(Toy):
    """Looks at a value in each pass."""

    def forward(self, x: torch.Tensor, features: bool = False) -> Any:
        return super().forward(x if x.mean() < 1e9 else x * 2, features)


class Draws(Toy):
    """Has dropout, which draws on the host where the network is on a CPU."""

    def forward(self, x: torch.Tensor, features: bool = False) -> Any:
        return super().forward(nn.functional.dropout(x, training=self.training), features)


class Twice(ByHand):
    """Its replays follow each gradient twice."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        def both() -> None:
            step()
            self.loop.optimizer.step()

        return both


class Frozen(ByHand):
    """Its replays repeat the first images."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        batch = next(iter(self.loop.pipeline.epoch(0)))
        return lambda: self.loop.step(batch)


class Broken(ByHand):
    """Fails after the steps before, as a driver may."""

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        step()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")


FAILING: dict[str, tuple[type[Toy], Callable[[Loop], Any]]] = {
    r"host wait for the device: aten\._local_scalar_dense\.default \(test_capturing\.py, line": (
        Reads, lambda loop: ByHand(),
    ),
    "draws random numbers on the host": (Draws, lambda loop: ByHand()),
    "train otherwise than the same steps one by one: loss": (Toy, Twice),
    "train otherwise": (Toy, Frozen),
    r"CUDA graph: RuntimeError: operation not permitted when stream is capturing\.$": (Toy, lambda loop: Broken()),
}  # fmt: skip


@pytest.mark.parametrize("reason", FAILING)
def test_what_cannot_be_captured_trains_on_as_if_it_had_not_been_tried(reason: str) -> None:
    network, recorder = FAILING[reason]
    loop, twin = (loop_of("distilled", "radam", network(1, norm=True)) for _ in range(2))
    for one in (loop, twin):
        torch.manual_seed(7)
        one.epoch(0)
    before, told = state(loop), list[str]()
    assert captured(loop, told.append, recorder(loop)) is None
    assert len(told) == 1 and re.search(reason, told[0]) and "\n" not in told[0]
    assert same(state(loop), before)
    rows = [(torch.manual_seed(8), one.epoch(1))[1] for one in (loop, twin)]
    assert rows[0] == rows[1] and same(state(loop), state(twin))


def test_a_first_attempt_that_fails_leaves_no_state_behind() -> None:
    loop = loop_of("clean", "radam")
    assert captured(loop, [].append, Broken()) is None
    assert not loop.optimizer.state


@pytest.mark.skipif(torch.cuda.is_available(), reason="would capture")
def test_without_a_gpu_nothing_is_said_and_a_forced_capture_says_why_not() -> None:
    train(Toy(1), make_recipe(epochs=1), make_pipeline(()), seed=0, say=pytest.fail)
    loop, told = loop_of("clean"), list[str]()
    before = state(loop)
    loop.device = torch.device("cuda")
    assert captured(loop, told.append) is None
    assert told[0].startswith("Each step starts its operations one by one and is not one CUDA graph: ")
    assert same(state(loop), before)


REASONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "several workers": ({}, {"world_size": 2}),
    "compiled": ({"compile": True}, {}),
    "fp16": ({"precision": "fp16"}, {}),
    "do not fit": ({}, {"limit": 0}),
}


@pytest.mark.parametrize("reason", REASONS)
def test_what_is_not_tried_is_said(reason: str) -> None:
    changes, other = REASONS[reason]
    recipe = make_recipe(epochs=1).model_copy(update=changes)
    pipeline = make_pipeline((), **{"device": torch.device("cuda"), "limit": 10**9, **other})
    assert reason in (why_not(recipe, pipeline) or "")
    assert why_not(make_recipe(epochs=1), make_pipeline((), device=torch.device("cuda"), limit=10**9)) is None
    assert why_not(recipe, make_pipeline((), **other)) == ""


def test_short_trainings_are_not_captured() -> None:
    pipeline = make_pipeline(())  # 3 steps
    assert pays(make_recipe(epochs=17), pipeline) and not pays(make_recipe(epochs=16), pipeline)
    assert not pays(make_recipe(epochs=17), pipeline, epochs_done=1)


@pytest.mark.parametrize("name", ["sgd", "radam", "adamw", "muon"])
def test_static_optimisers_are_torchs_but_for_rounding(name: str) -> None:
    """Over the steps in which RAdam changes its form; states go from one form to the other."""
    recipe = make_recipe(epochs=1, optimizer=name)
    models = [Toy(1), Toy(1)]
    makers = [optimizer_of(one, recipe, static) for one, static in zip(models, (False, True), strict=True)]
    generator = torch.Generator().manual_seed(0)
    for step in range(12):
        if step == 8:  # each goes on from the other's state
            states = [one.state_dict() for one in makers]
            makers = [optimizer_of(one, recipe, static) for one, static in zip(models, (False, True), strict=True)]
            for one, stored in zip(makers, reversed(states), strict=True):
                load(one, stored)
        for weights in zip(*(one.parameters() for one in models), strict=True):
            weights[0].grad = torch.randn(weights[0].shape, generator=generator)
            weights[1].grad = weights[0].grad.clone()
        for one in makers:
            set_rate(one, 0.05 / (1 + step // 4))
            one.step()
        for ours, theirs in zip(models[1].parameters(), models[0].parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert isinstance(makers[1].param_groups[0]["lr"], torch.Tensor)
    assert isinstance(makers[0].param_groups[0]["lr"], float)


def test_the_users_word_is_no_part_of_a_result() -> None:
    found = []
    for more in ("", "resources: {capture: false}\n"):
        config = parse(f"experiment: x\nmethods: [scratch]\n{more}")
        plan = build(config, "f" * 64, lambda name: DEGRADATIONS[name].levels, test_images=400, parameters=1)
        found.append((config.resources.capture, [stage.digest for stage in plan.stages]))
    assert [one for one, _ in found] == [True, False] and found[0][1] == found[1][1]
