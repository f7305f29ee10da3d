"""What stays float32 where a training has a reduced precision: loss terms, BatchNorm's statistics, optimiser state."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from fusiondistill import precision
from fusiondistill.config_file import ConfigError, parse
from fusiondistill.losses import LOSSES, Outputs
from fusiondistill.methods import Trained
from fusiondistill.objectives import Objective
from fusiondistill.precision import slow_precision
from fusiondistill.progress import Progress
from fusiondistill.training import NonFiniteLoss, train
from toy_training import Toy, make_pipeline, make_recipe

SLICES = [slice(0, 5), slice(5, 12)]
LABELS = torch.arange(12) % 3


def outputs(seed: int, count: int) -> Outputs:
    """Random logits, features and a layer in bfloat16."""
    draw = torch.Generator().manual_seed(seed)
    logits, *maps = (torch.randn(count, *shape, generator=draw) for shape in ((3,), (4, 2, 2), (4, 2, 2)))
    return Outputs(8 * logits.bfloat16(), maps[0].bfloat16(), {"conv": maps[1].bfloat16()})


def values(objective: Objective, student: Outputs, teachers: list[Outputs]) -> dict[str, torch.Tensor]:
    total, terms = objective.loss(*student, LABELS, SLICES, teachers, student.layers)
    return {"total": total, **terms}


def wide(given: Outputs) -> Outputs:
    layers = given.layers and {name: one.float() for name, one in given.layers.items()}
    return Outputs(*(None if one is None else one.float() for one in given), layers)


@pytest.mark.parametrize("term", [*LOSSES.builtin, {"feature": {"weight": 1.0, "layers": {"conv": 1.0}}}])
def test_every_loss_term_is_computed_in_float32(term: Any) -> None:
    objective = Objective(term if isinstance(term, dict) else {"ce": 0.0, term: 1.0})
    student, teachers = outputs(0, 12), [outputs(1, 5), outputs(2, 7)]
    expected = values(objective, wide(student), [wide(one) for one in teachers])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = values(objective, student, teachers)
    assert {one.dtype for one in found.values()} == {torch.float32}
    assert found == expected


def test_a_term_that_multiplies_matrices_does_so_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a plugin's may: autocast would round the products, which a term's own `.float()` does not prevent."""

    def gram(student: Outputs, teacher: Outputs | None, labels: torch.Tensor) -> torch.Tensor:
        assert student.logits is not None
        return (student.logits @ student.logits.T).square().mean()

    monkeypatch.setitem(LOSSES._builtin, "ce", dataclasses.replace(LOSSES["ce"], function=gram))
    student = outputs(0, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = Objective({"ce": 1.0}).loss(student.logits, None, LABELS, SLICES)
    assert student.logits is not None
    products = student.logits.double() @ student.logits.double().T
    assert float(found) == pytest.approx(float(products.square().mean()), rel=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "radam", "adamw", "muon"])
def test_weights_statistics_and_optimiser_stay_float32(optimizer: str) -> None:
    recipe = make_recipe(epochs=1, optimizer=optimizer).model_copy(update={"precision": "bf16"})
    batches, model = make_pipeline((), batch_size=21), Toy(1, norm=True)
    (batch,) = batches.epoch(0)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        maps = model.conv(batch.student)
    assert maps.dtype == torch.bfloat16
    progress: Progress = train(model, recipe, batches, seed=0)
    state = [one for part in progress.optimizer["state"].values() for one in part.values()]
    floats = [one for one in (*state, *progress.model.values()) if one.is_floating_point()]
    assert len(state) >= 4 and {one.dtype for one in floats} == {torch.float32}
    pixels = maps.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(progress.model["norm.running_mean"].double(), 0.1 * pixels.mean(1), rtol=1e-4, atol=1e-7)
    spread = 0.9 + 0.1 * pixels.var(1)
    torch.testing.assert_close(progress.model["norm.running_var"].double(), spread, rtol=1e-5, atol=0)


def precisions(text: str) -> dict[str, str]:
    config = parse(f"experiment: x\n{text}")
    return {name: row.precision for name, row in config.table.items() if isinstance(row, Trained)}


def test_one_line_sets_it_for_all_trainings_but_those_that_say_another_and_the_papers() -> None:
    assert set(precisions("").values()) == {"fp32"}
    found = precisions("precision: bf16\nbase: {precision: fp16}\ndefine: {mine: {like: vanilla}}")
    assert found.pop("base") == "fp16" and set(found.values()) == {"bf16"} and "mine" in found
    found = precisions("precision: bf16\nprotocol: paper\nbase: {precision: fp16}")
    assert found.pop("base") == "fp16" and set(found.values()) == {"fp32"}
    with pytest.raises(ConfigError, match=r"config: 1 mistake\n  line 2: precision: .*'fp32', 'bf16' or 'fp16'"):
        parse("experiment: x\nprecision: half")


@pytest.mark.parametrize(("ratio", "slow"), [(0.5, False), (1.1, False), (3.0, True)])
def test_a_processor_without_fast_bfloat16_trains_and_says_so(
    ratio: float, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_seconds", lambda dtype: 1.0 if dtype == torch.float32 else ratio)
    said: list[str] = []
    recipe = make_recipe(epochs=2).model_copy(update={"precision": "bf16"})
    progress = train(Toy(1), recipe, make_pipeline(()), seed=0, say=said.append)
    line = "precision: bf16 may be slower than fp32 here: this processor takes 3.0 times as long for it"
    assert said == [line] * slow and progress.epoch == 2
    assert slow_precision("fp32", torch.device("cpu")) is None and slow_precision("bf16", torch.device("cuda")) is None


def test_how_long_a_type_takes_is_measured() -> None:
    assert 0 < precision._seconds.__wrapped__(torch.float32) < 1


@pytest.mark.parametrize(("name", "hint"), [("bf16", True), ("fp32", False)])
def test_a_loss_that_is_not_finite_under_bf16_has_the_hint_to_try_fp32(name: str, hint: bool) -> None:
    recipe = make_recipe(epochs=1).model_copy(update={"precision": name})
    model = Toy(1)
    model.register_forward_hook(lambda m, i, out: out * float("inf"))
    with pytest.raises(NonFiniteLoss, match=r"epoch 1, step 1 of 3: .*lower the learning rate") as caught:
        train(model, recipe, make_pipeline(()), seed=0)
    assert ("try precision: fp32 instead of bf16" in str(caught.value)) is hint


@pytest.mark.parametrize("at_once", [True, False])
def test_a_failed_compile_says_why_and_training_goes_on(at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(network: nn.Module) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            raise RuntimeError("InvalidCxxCompiler: no working C++ compiler\nset TORCH_LOGS")

        return call() if at_once else call

    monkeypatch.setattr(torch, "compile", compiled)
    said: list[str] = []
    recipe = make_recipe(epochs=2).model_copy(update={"compile": True})
    found = train(Toy(1), recipe, make_pipeline(()), seed=0, say=said.append)
    plain = train(Toy(1), make_recipe(epochs=2), make_pipeline(()), seed=0)
    assert said == ["compile failed, training goes on without it: InvalidCxxCompiler: no working C++ compiler"]
    assert all(torch.equal(tensor, found.model[key]) for key, tensor in plain.model.items())


@pytest.mark.parametrize("size", [8, 5])
def test_a_backward_pass_that_cannot_be_compiled_leaves_nothing_behind(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first shape or of the short last batch; torch compiles it when the loop asks for gradients."""
    from torch._dynamo.backends.common import aot_autograd

    def backward(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        if size in inputs[-1].shape:
            raise RuntimeError(f"no code for {size} images\nset TORCH_LOGS")
        return graph.forward

    backend = aot_autograd(fw_compiler=lambda graph, inputs: graph.forward, bw_compiler=backward)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend, dynamic=False))
    said: list[str] = []
    found, plain = (
        train(noisy(), recipe, make_pipeline(()), seed=0, say=said.append)
        for recipe in (make_recipe(epochs=2).model_copy(update={"compile": compiled}) for compiled in (True, False))
    )
    assert len(said) == 1 and f"no code for {size} images" in said[0] and "\n" not in said[0]
    for name, tensor in plain.model.items():
        torch.testing.assert_close(found.model[name], tensor, msg=name)


def noisy() -> Toy:
    """With statistics and dropout, which a rehearsal would change."""
    model = Toy(1)
    model.norm = nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.3))
    return model
