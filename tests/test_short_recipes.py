"""Keys of a recipe for short trainings against torch's own: Nesterov, warm-up, label smoothing, averaged weights."""

from __future__ import annotations

import copy
import math
from itertools import islice
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from fusiondistill import fit, load_images
from fusiondistill.config_file import parse
from fusiondistill.losses import LOSSES, Outputs
from fusiondistill.progress import Progress
from fusiondistill.recipe import Recipe, Schedule
from fusiondistill.recipes import RECIPES
from fusiondistill.training import train
from fusiondistill_runner.working.train import pack, unpack
from toy_training import Toy, make_pipeline, make_recipe


def recipe_of(epochs: int, **changes: Any) -> Recipe:
    """The toy's recipe with some keys changed; sections are laid over its own."""
    content = make_recipe(epochs).model_dump()
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) and key == "optimizer" else value
    return Recipe.model_validate(content)


def test_nesterov_and_a_rate_by_the_step_are_torchs() -> None:
    schedule = {"name": "cosine", "by": "step", "warmup": 0.25}
    recipe = recipe_of(4, optimizer={"nesterov": True}, schedule=schedule)
    model, twin, pipeline = Toy(1), Toy(1), make_pipeline(())
    progress = train(model, recipe, pipeline, seed=0)
    by_hand = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.8, weight_decay=0.01, nesterov=True)
    middles = [(step + 0.5) / 12 for step in range(13)]  # of 4 epochs of 3 steps
    factors = [min(1, 4 * t) * (1 + math.cos(math.pi * t)) / 2 for t in middles]
    rates = LambdaLR(by_hand, factors.__getitem__)
    for epoch in range(4):
        for batch in pipeline.epoch(epoch):
            last = rates.get_last_lr()[0]
            by_hand.zero_grad()
            functional.cross_entropy(twin(batch.student), batch.labels).backward()
            by_hand.step()
            rates.step()
        assert progress.rows[epoch]["lr"] == pytest.approx(last), "the rate of an epoch's last step is noted"
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_schedules_are_functions_of_time() -> None:
    linear, cosine = Schedule(name="linear", by="step"), Schedule(name="cosine")
    assert [linear.rate(epoch, 2, part) for epoch in (0, 1) for part in (0.0, 0.5)] == [1, 0.75, 0.5, 0.25]
    assert cosine.rate(1, 4, 0.9) == cosine.rate(1, 4) == (1 + math.cos(math.pi / 4)) / 2, "by the epoch"
    steps = Schedule(milestones=(0.5,), warmup=0.5, factor=0.1)
    assert [steps.rate(epoch, 4, 0.5) for epoch in range(4)] == pytest.approx([0.25, 0.75, 0.1, 0.1])
    plain = recipe_of(
        2, optimizer={"nesterov": True, "momentum": 0.0}
    )  # torch refuses the pair, which is plain descent
    bare = recipe_of(2, optimizer={"momentum": 0.0})
    ended = [train(Toy(1), one, make_pipeline(()), seed=0).model for one in (plain, bare)]
    assert all(torch.equal(ended[0][name], ended[1][name]) for name in ended[0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing_is_torchs(smoothing: float) -> None:
    logits, labels = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 4, 1, 1, 2, 3])
    ce = LOSSES["ce"].function
    ours = ce(Outputs(logits, None), None, labels, label_smoothing=smoothing)
    torch.testing.assert_close(ours, nn.CrossEntropyLoss(label_smoothing=smoothing)(logits, labels))
    weights = torch.tensor([1.0, 2.0, 0.5, 0.5, 1.0, 1.0])
    target = (1 - smoothing) * functional.one_hot(labels, 5) + smoothing / 5
    by_hand = (weights * -(target * logits.log_softmax(1)).sum(1)).mean()
    weighted = ce(Outputs(logits, None, None, weights), None, labels, label_smoothing=smoothing)
    torch.testing.assert_close(weighted, by_hand)


def test_the_average_is_torchs_with_batchnorm_recomputed() -> None:
    """At a decay that is reached after the first steps; torch's average is updated with the decays written out."""
    pipeline, decay = make_pipeline(("noise", "blur"), teacher_view=None), 0.3
    seen: list[nn.Module] = []

    def score(model: nn.Module, epoch: int) -> dict[str, float]:
        seen.append(copy.deepcopy(model))
        return {"noise": float(epoch)}

    progress = train(Toy(1, norm=True), recipe_of(3, ema=decay), pipeline, seed=0, validation=score)
    twin = Toy(1, norm=True)
    decays = iter([min(decay, (1 + n) / (10 + n)) for n in range(9)])
    average = AveragedModel(twin, avg_fn=lambda old, new, _: (d := next_decay[0]) * old + (1 - d) * new)
    average.update_parameters(twin)  # torch's first update copies
    next_decay = [0.0]
    by_hand = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.8, weight_decay=0.01)
    for epoch in range(3):
        by_hand.param_groups[0]["lr"] = 0.05 * (1, 1, 0.04)[epoch]  # both milestones round to the third
        for batch in pipeline.epoch(epoch):
            by_hand.zero_grad()
            functional.cross_entropy(twin(batch.student), batch.labels).backward()
            by_hand.step()
            next_decay[0] = next(decays)
            average.update_parameters(twin)
        for ours, theirs in zip(seen[epoch].parameters(), average.module.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
        pixels = torch.cat([batch.student for batch in islice(pipeline.epoch(epoch), 8)])
        inputs = functional.conv2d(pixels, average.module.conv.weight, average.module.conv.bias, 2, 1)
        norm = seen[epoch].norm
        torch.testing.assert_close(norm.running_mean, inputs.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, inputs.transpose(0, 1).flatten(1).var(1), rtol=1e-4, atol=1e-5)
    assert list(progress.best) == list(progress.model) and not torch.equal(
        progress.best["fc.bias"], progress.model["fc.bias"]
    )
    assert all(torch.equal(one, progress.best[name]) for name, one in seen[-1].state_dict().items()), "it is kept"


@pytest.mark.parametrize("name", ["sgd", "muon"])
def test_a_training_with_an_average_goes_on_to_the_same_bits(name: str) -> None:
    recipe = recipe_of(
        4, ema=0.9, optimizer={"name": name, "nesterov": True}, schedule={"name": "linear", "by": "step", "warmup": 0.2}
    )
    stored: list[bytes] = []

    def run(start: Progress | None, model: nn.Module) -> Progress:
        score = lambda model, epoch: {"clean": float(model.state_dict()["fc.bias"][0])}  # noqa: E731
        kept = lambda progress: stored.append(pack(progress))  # noqa: E731
        return train(model, recipe, make_pipeline(("noise",)), seed=3, validation=score, start=start, on_epoch=kept)

    whole = run(None, Toy(1, norm=True))
    for k in range(3):
        resumed = run(unpack(stored[k]), Toy(99, norm=True))
        for name in ("model", "average", "best"):
            ours, theirs = getattr(resumed, name), getattr(whole, name)
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours), name
        assert [r["validation"] for r in resumed.rows] == [r["validation"] for r in whole.rows]


def test_fast_has_every_shape_and_a_quarter_of_the_papers_epochs() -> None:
    assert RECIPES["fast"].keys() == RECIPES["paper"].keys()
    for shape, content in RECIPES["fast"].items():
        assert 4 * Recipe.model_validate(content).epochs == RECIPES["paper"][shape]["epochs"], shape
    table = parse("experiment: x\nrecipe: fast\nvanilla: {recipe: paper}\nbase: {optimizer: {lr: 0.2}}\n").table
    assert (table["base"].epochs, table["base"].optimizer.lr, table["base"].optimizer.nesterov) == (50, 0.2, True)
    assert table["vanilla"].optimizer.name == "radam" and table["fusiondistill"].loss.weight("kd") > 0
    rows = fit({"recipe": "fast", "epochs": 1}, load_images("digits", "train").take(60), model="cifar_resnet8").rows
    assert len(rows) == 1
    with pytest.raises(ValueError, match="no recipe 'fats'; did you mean 'fast'"):
        fit({"recipe": "fats"}, load_images("digits", "train").take(60), model="cifar_resnet8")
