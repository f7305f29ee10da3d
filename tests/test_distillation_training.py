"""Trainings beyond the paper's: several teachers of an image, mixup, SWA, a pull to the start, a span of epochs."""

from __future__ import annotations

import copy
import doctest
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import beta
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from fusiondistill import fit, load_images, teaching
from fusiondistill.data import ImageSet
from fusiondistill.degradation_config import as_degradation
from fusiondistill.evaluation import validate
from fusiondistill.fitting import Training, random_network
from fusiondistill.losses import Mixed, Outputs
from fusiondistill.losses.attention import attention_loss
from fusiondistill.losses.feature import cosine_feature_loss
from fusiondistill.mixing import shares
from fusiondistill.models.features import LayerTaps
from fusiondistill.optimizers import optimizer_of
from fusiondistill.progress import Progress
from fusiondistill.randomness import key
from fusiondistill.recipe import Recipe, with_keys
from fusiondistill.teaching import confidences, joined
from fusiondistill.training import train
from fusiondistill_runner.working.train import pack, unpack
from toy_training import Toy, make_pipeline, make_recipe, make_set

LABELS = torch.arange(6) % 3


def outputs(count: int = 3) -> list[Outputs]:
    """Of some teachers of six images in three classes."""
    torch.manual_seed(0)
    return [
        Outputs(torch.randn(6, 3) * 3, torch.randn(6, 2, 2, 2), {"a": torch.randn(6, 4, 1, 1)}) for _ in range(count)
    ]


def test_confidence_is_the_papers_weight_of_each_image() -> None:
    said = outputs()
    found = confidences([one.logits for one in said if one.logits is not None], LABELS)
    for image, label in enumerate(LABELS.tolist()):
        losses = [-np.log(np.exp(z := one.logits[image].double().numpy()) / np.exp(z).sum())[label] for one in said]  # type: ignore[index]
        softmax = np.exp(losses) / np.exp(losses).sum()
        assert found[:, image].tolist() == pytest.approx(((1 - softmax) / 2).tolist(), rel=1e-4)
    torch.testing.assert_close(found.sum(0), torch.ones(6))
    mixed = confidences([one.logits for one in said], LABELS, Mixed(LABELS.roll(1), torch.ones(6)))  # type: ignore[misc]
    torch.testing.assert_close(mixed, found)


@pytest.mark.parametrize("by", ["mean", "confidence"])
def test_what_several_teachers_say_is_averaged_image_by_image(by: str) -> None:
    said = outputs()
    weights = confidences([one.logits for one in said], LABELS) if by == "confidence" else torch.full((3, 6), 1 / 3)  # type: ignore[misc]
    whole = joined(said, by, LABELS)
    for pick in (lambda one: one.logits, lambda one: one.features, lambda one: one.layers["a"]):
        stacked = torch.stack([pick(one) for one in said])
        for image in range(6):
            expected = (weights[:, image].view(-1, *[1] * (stacked.dim() - 2)) * stacked[:, image]).sum(0)
            torch.testing.assert_close(pick(whole)[image], expected)
    assert joined([Outputs(one.logits, None) for one in said], by, LABELS).layers is None


@pytest.mark.parametrize("batchnorm", ["together", "apart"])
def test_batchnorm_normalises_by_all_images_of_a_step_or_by_each_degradations(batchnorm: str) -> None:
    """A training by hand: each degradation's images in a pass of their own, or all in one."""
    pipeline, teachers = make_pipeline(("noise", "blur"), flip=False), [Toy(5).eval(), Toy(6).eval()]
    recipe = make_recipe(epochs=1, feature=0.5)
    recipe = with_keys(recipe, {"batchnorm": batchnorm, "loss.attention": 3.0, "loss.attention.layers": {"norm": 1}})
    model, twin = Toy(1, norm=True), Toy(1, norm=True)
    train(model, recipe, pipeline, seed=0, teachers=teachers)
    by_hand = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.8, weight_decay=0.01)
    seen: list[torch.Tensor] = []
    twin.norm.register_forward_hook(lambda module, given, output: seen.append(output))
    for batch in pipeline.epoch(0):
        by_hand.zero_grad()
        passes = batch.slices if batchnorm == "apart" else [slice(None)]
        seen.clear()
        logits, features = map(
            torch.cat, zip(*(twin(batch.student[part], features=True) for part in passes), strict=True)
        )
        maps, total = torch.cat(seen), functional.cross_entropy(logits, batch.labels)
        for teacher, part in zip(teachers, batch.slices, strict=True):
            taps = LayerTaps(teacher, ["norm"])
            with torch.no_grad():
                _, feature = teacher(batch.teacher[part], features=True)  # type: ignore[index]
            total = total + 0.5 * cosine_feature_loss(features[part], feature)
            total = total + 3 * attention_loss(maps[part], taps.take()["norm"])  # type: ignore[index]
            taps.remove()
        total.backward()
        by_hand.step()
    for (name, ours), theirs in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


@pytest.mark.parametrize("batchnorm", ["together", "apart"])
def test_a_network_is_validated_as_it_was_normalised_in_training(batchnorm: str) -> None:
    """A network with BatchNorm apart answers with statistics of one degradation, and is judged so after each epoch."""
    images = make_set()
    pixels = torch.randint(0, 256, (200, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    held_out = ImageSet("toy", pixels, torch.arange(200) % 3, ["a", "b", "c"], statistics=(images.mean, images.std))
    degradations = tuple(map(as_degradation, ("noise", "blur")))
    recipe = with_keys(make_recipe(epochs=2), {"batchnorm": batchnorm, "loss.attention": 3.0})
    recipe = with_keys(recipe, {"loss.attention.layers": {"norm": 1}})
    training = Training(recipe, images, held_out, degradations, flip=False)
    model = Toy(1, norm=True)
    progress = training.run(model, [Toy(5, norm=True), Toy(6, norm=True)])
    twin = Toy(1, norm=True)
    twin.load_state_dict(progress.model)
    for one in degradations:
        if batchnorm == "apart":  # all that the network sees of the degradation in an epoch; images fit a batch
            batches = replace(training.pipeline(), degradations=(one,), teacher_view=None).epoch(1)
            seen = twin.conv(next(batches).student).detach()
            twin.norm.running_mean, twin.norm.running_var = seen.mean((0, 2, 3)), seen.var((0, 2, 3))
        right = validate(twin, held_out, (one,), seed=0, device=torch.device("cpu"), protocol="standard")[one.id]
        assert progress.rows[-1][f"validation_{one.id}"] == float(right.double().mean())
    now = model.state_dict()
    assert all(torch.equal(now[name], kept) for name, kept in progress.model.items()), "judging changes it"


@pytest.mark.parametrize("degradations", [(), ("noise", "blur")])
def test_all_teachers_teach_each_image(degradations: tuple[str, ...]) -> None:
    pipeline = make_pipeline(degradations, flip=False)
    recipe = make_recipe(epochs=1, kd=1.0, feature=0.5)
    model, twin = Toy(1), Toy(1)
    teachers = [Toy(seed).eval() for seed in (5, 6, 7)]
    train(model, recipe, pipeline, seed=0, teachers=teachers, taught_by="mean")
    by_hand = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.8, weight_decay=0.01)
    for batch in pipeline.epoch(0):
        by_hand.zero_grad()
        logits, features = twin(batch.student, features=True)
        total = functional.cross_entropy(logits, batch.labels)
        with torch.no_grad():
            said = [teacher(batch.teacher, features=True) for teacher in teachers]
        mean, feature = (sum(parts) / 3 for parts in zip(*said, strict=True))
        for part in batch.slices:
            student, teacher = ((one[part] / 4).log_softmax(1) for one in (logits, mean))
            total = total + 16 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
            cosine = functional.cosine_similarity(features[part].flatten(1), feature[part].flatten(1))
            total = total + 0.5 * (1 - cosine).mean()
        total.backward()
        by_hand.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="teachers by confidence are two or more, got 1"):
        train(Toy(1), recipe, pipeline, seed=0, teachers=teachers[:1], taught_by="confidence")


def test_fit_takes_teachers_by_any_name() -> None:
    digits = load_images("digits", "train").take(10)
    first = random_network("cifar_resnet8", 10, 1)
    teachers = {"one": first, "two": random_network("cifar_resnet8", 10, 2)}
    recipe = {"epochs": 1, "loss": {"feature": 0, "kd": 1.0}}
    found = fit(recipe, digits, start=first, teachers=teachers, taught_by="mean", validation=None)
    assert "kd" in found.rows[0]
    for bad, given in (("mean", first), ("confidence", {"one": first}), ("all", teachers)):
        with pytest.raises(ValueError, match=r"taught_by"):
            fit(recipe, digits, start=first, teachers=given, taught_by=bad)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_are_drawn_from_beta(alpha: float) -> None:
    found = shares(alpha, key("x"), torch.arange(20_000))
    assert found.dtype == torch.float32 and bool((found >= 0).all() and (found <= 1).all())
    quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    expected = beta(alpha, alpha).cdf(found.double().quantile(quantiles.double()).numpy())
    assert expected.tolist() == pytest.approx(quantiles.tolist(), abs=0.012)
    assert torch.equal(found[7:9], shares(alpha, key("x"), torch.tensor([7, 8])))


@pytest.mark.parametrize("view", ["clean", "degraded"])
def test_mixed_images_are_those_of_one_epoch_blended_whatever_the_batch(view: str) -> None:
    """Every image and its partner, as they come without mixup; batches and workers change no pixel."""
    settings: dict[str, Any] = {"teacher_view": view, "pairing": "independent"}
    (whole,) = make_pipeline(("noise", "blur"), batch_size=21, **settings).epoch(3)
    (batch,) = make_pipeline(("noise", "blur"), batch_size=21, mixup=0.7, **settings).epoch(3)
    assert batch.mixed is not None and whole.teacher is not None and batch.teacher is not None
    assert torch.equal(batch.labels, whole.labels) and batch.weight == whole.weight
    for part in batch.slices:
        share = batch.mixed.share[part].view(-1, 1, 1, 1)
        for ours, theirs in ((batch.student[part], whole.student[part]), (batch.teacher[part], whole.teacher[part])):
            shift = next(
                n for n in range(1, 21) if torch.equal(batch.mixed.labels[part], whole.labels[part].roll(-n))
                and torch.allclose(ours, share * theirs + (1 - share) * theirs.roll(-n, 0), atol=1e-5)
            )  # fmt: skip
            assert 0 < shift < 21
    every = {image.numpy().tobytes() for image in batch.student}
    assert len(every) == 42
    for rank, world in ((0, 1), (1, 2)):
        part = make_pipeline(("noise", "blur"), batch_size=8, mixup=0.7, rank=rank, world_size=world, **settings)
        seen = [image.numpy().tobytes() for one in part.epoch(3) for image in one.student]
        assert set(seen) <= every and sum(one.weight for one in part.epoch(3)) == len(seen) == (
            42 if world == 1 else 20
        )


def test_mixed_class_weights_have_mean_1_over_the_images_of_all_workers() -> None:
    weights = torch.tensor([1.0, 4.0, 0.5])
    settings: dict[str, Any] = {"mixup": 1.0, "class_weights": weights, "teacher_view": None}
    for world in (1, 2):
        workers = [make_pipeline(("noise",), rank=r, world_size=world, **settings).epoch(0) for r in range(world)]
        for parts in zip(*workers, strict=True):
            total = count = 0.0
            for part in parts:
                mixed = part.mixed
                assert mixed is not None and mixed.weights is not None and part.image_weights is not None
                each = mixed.share * part.image_weights + (1 - mixed.share) * mixed.weights
                ratio = part.image_weights / mixed.weights
                torch.testing.assert_close(ratio, weights[part.labels] / weights[mixed.labels])
                total, count = total + float(each.sum()), count + len(each)
            assert total / count == pytest.approx(1, rel=1e-5)


def recipe_of(epochs: int, **changes: Any) -> Recipe:
    return with_keys(make_recipe(epochs), changes)


def test_swa_is_torchs_average_of_epochs_with_batchnorm_recomputed() -> None:
    pipeline = make_pipeline(("noise",), teacher_view=None)
    seen: list[nn.Module] = []
    last: list[nn.Module] = []

    def score(model: nn.Module, epoch: int) -> dict[str, float]:
        seen.append(copy.deepcopy(model))
        return {"noise": float(epoch)}

    model = Toy(1, norm=True)
    progress = train(
        model, recipe_of(4, swa=0.5), pipeline, seed=0, validation=score,
        on_epoch=lambda p: last.append(_loaded(p)),
    )  # fmt: skip
    assert progress.average and all(torch.equal(seen[1].state_dict()[n], v) for n, v in last[1].state_dict().items())
    average = AveragedModel(last[2])
    average.update_parameters(last[2])
    average.update_parameters(last[3])
    for ours, theirs in zip(seen[3].parameters(), average.module.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    pixels = torch.cat([batch.student for batch in pipeline.epoch(3)])
    inputs = functional.conv2d(pixels, average.module.conv.weight, average.module.conv.bias, 2, 1)
    torch.testing.assert_close(seen[3].norm.running_mean, inputs.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(progress.best[n], v) for n, v in seen[3].state_dict().items()), "the average is kept"


def _loaded(progress: Progress) -> nn.Module:
    model = Toy(9, norm=True)
    model.load_state_dict(progress.model)
    return model


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_pull_is_the_gradient_of_a_distance_to_the_start(precision: str) -> None:
    model, twin, pipeline = Toy(1), Toy(1), make_pipeline((), teacher_view=None)
    start = [weight.detach().clone() for weight in twin.parameters()]
    train(model, recipe_of(2, pull=0.7, precision=precision), pipeline, seed=0, say=lambda text: None)
    by_hand = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.8, weight_decay=0.01)
    for epoch in range(2):
        by_hand.param_groups[0]["lr"] = 0.05 * (1, 0.2)[epoch]
        for batch in pipeline.epoch(epoch):
            by_hand.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                logits = twin(batch.student).float()
            loss = functional.cross_entropy(logits, batch.labels)
            far = sum((w - s).square().sum() for w, s in zip(twin.parameters(), start, strict=True))
            (loss + 0.35 * far).backward()  # type: ignore[no-untyped-call]
            by_hand.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_where_gradients_are_rescaled_a_pull_goes_part_of_the_way_back(optimizer: str) -> None:
    pipeline, pull = make_pipeline((), teacher_view=None, batch_size=21), 3.0
    found, plain = (Toy(1) for _ in range(2))
    start = [weight.detach().clone() for weight in plain.parameters()]
    recipe = with_keys(make_recipe(2, optimizer=optimizer), {"pull": pull, "schedule.name": "constant"})
    train(found, recipe, pipeline, seed=0)
    by_hand = optimizer_of(plain, recipe)
    for epoch in range(2):
        for batch in pipeline.epoch(epoch):
            by_hand.zero_grad()
            functional.cross_entropy(plain(batch.student), batch.labels).backward()
            for weight, first in zip(plain.parameters(), start, strict=True):
                weight.data = (1 - 0.05 * pull) * weight.data + 0.05 * pull * first
            by_hand.step()
    for ours, theirs in zip(found.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


EVERYTHING = {"swa": 0.5, "pull": 0.2, "mixup": 0.4, "loss.kd": 1.0, "loss.kd.fade": 1.0, "loss.dist": 0.5}


def test_all_of_it_goes_on_to_the_same_bits() -> None:
    recipe, stored = recipe_of(4, **EVERYTHING), list[bytes]()
    teachers = [Toy(5), Toy(6)]

    def run(start: Progress | None) -> Progress:
        pipeline = make_pipeline(("noise", "blur"), mixup=recipe.mixup)
        score = lambda model, epoch: {"noise": float(model.state_dict()["fc.bias"][0])}  # noqa: E731
        return train(
            Toy(1, norm=True), recipe, pipeline, seed=3, validation=score, start=start, teachers=teachers,
            taught_by="confidence", on_epoch=lambda progress: stored.append(pack(progress)),
        )  # fmt: skip

    whole = run(None)
    for k in range(3):
        resumed = run(unpack(stored[k]))
        for name in ("model", "average", "best"):
            ours, theirs = getattr(resumed, name), getattr(whole, name)
            assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours), (name, k)
        assert [r["loss"] for r in resumed.rows] == [r["loss"] for r in whole.rows]


@pytest.mark.parametrize("degradations", [(), ("noise",), ("noise", "blur")])
@pytest.mark.parametrize(("key", "value"), [("ema", 0.5), ("swa", 0.5)])
def test_every_kind_of_training_may_keep_an_average(degradations: tuple[str, ...], key: str, value: float) -> None:
    """What is judged is what is kept: an average with statistics of its own, with teachers or without."""
    for loss in ({}, {"feature": 1.0}):
        seen: list[dict[str, torch.Tensor]] = []

        def score(model: nn.Module, epoch: int) -> dict[str, float]:
            seen.append({name: one.clone() for name, one in model.state_dict().items()})  # noqa: B023
            return {"any": float(epoch)}

        recipe = with_keys(make_recipe(4, **loss), {key: value})
        teachers = [Toy(5)] * max(1, len(degradations)) if loss else []
        found = train(
            Toy(1, norm=True), recipe, make_pipeline(degradations), seed=0, teachers=teachers, validation=score
        )
        for name, one in seen[-1].items():
            assert torch.equal(found.best[name], one) and torch.equal(found.average[name], one), name
        assert not torch.equal(found.best["norm.running_mean"], found.model["norm.running_mean"])


def test_spans_of_a_training_are_its_epochs_with_a_new_optimiser() -> None:
    recipe, pipeline = recipe_of(5, **{"optimizer.momentum": 0.0}), make_pipeline(("noise",), teacher_view=None)
    whole = train(Toy(1), recipe, pipeline, seed=0)
    model, found = Toy(1), list[Progress]()
    for span in ((0, 2), (2, 4), (4, 5)):
        found.append(train(model, recipe, pipeline, seed=0, span=span))
    assert [row["epoch"] for progress in found for row in progress.rows] == [1, 2, 3, 4, 5]
    assert [row["lr"] for progress in found for row in progress.rows] == [row["lr"] for row in whole.rows]
    assert all(torch.equal(found[-1].model[name], whole.model[name]) for name in whole.model), "without momentum"
    assert found[1].best_epoch == 4
    stored: list[bytes] = []
    momentum = recipe_of(5, swa=0.2)
    once = train(Toy(1), momentum, pipeline, seed=0, span=(2, 5), on_epoch=lambda p: stored.append(pack(p)))
    again = train(Toy(1), momentum, pipeline, seed=0, span=(2, 5), start=unpack(stored[1]))
    assert all(torch.equal(again.best[name], once.best[name]) for name in once.best) and len(again.rows) == 3


def test_what_does_not_go_together_is_refused() -> None:
    for changes, message in (
        ({"ema": 0.9, "swa": 0.5}, r"swa\n.*is an average of the weights like ema: give one of the two"),
        ({"mixup": 0.2, "loss.dkd": 1.0}, r"mixup\n.*mixes two labels, and the loss term dkd takes one"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe_of(2, **changes)
    assert recipe_of(2, **{"mixup": 0.2, "loss.dkd": 0.0, "loss.kd": 1.0}).mixup == 0.2


def test_examples_run() -> None:
    tried = doctest.testmod(teaching, extraglobs={"torch": torch})
    assert tried.attempted > 0 and tried.failed == 0
