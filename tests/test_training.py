"""The training loop against loops written out with torch.optim, and what it promises about stopping and going on."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import forking
import toy_training
from fusiondistill.progress import Progress, batch_mean_accuracy
from fusiondistill.training import NonFiniteLoss, train
from fusiondistill_runner.working.train import pack, unpack
from toy_training import BATCH_SIZES, WAYS, Toy, distilled, make_pipeline, make_recipe


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def same(one: Any, other: Any) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, weight_decay=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.05, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.01),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("degradations", [(), ("noise", "blur")])
def test_it_is_the_loop_that_one_would_write(optimizer: str, degradations: tuple[str, ...]) -> None:
    """Objective, teachers, schedule and optimiser spelled out; the weights agree after every epoch."""
    recipe = make_recipe(epochs=4, optimizer=optimizer, ce=0.5, feature=2.0, kd=0.25, temperature=3.0)
    model, twin = Toy(1), Toy(1)
    teachers = [Toy(10 + i) for i in range(max(1, len(degradations)))]
    pipeline = make_pipeline(degradations)
    seen: list[list[torch.Tensor]] = []
    progress = train(
        model, recipe, pipeline, seed=0, teachers=teachers, on_epoch=lambda p: seen.append(list(p.model.values()))
    )

    by_hand = OPTIMIZERS[optimizer](twin.parameters())
    for epoch in range(4):
        for group in by_hand.param_groups:
            group["lr"] = 0.05 * (1, 1, 0.2, 0.04)[epoch]  # milestones at 0.5 and 0.75 of 4
        losses, right, count = 0.0, 0, 0
        for batch in pipeline.epoch(epoch):
            logits, features = twin(batch.student, features=True)
            loss = 0.5 * functional.cross_entropy(logits, batch.labels)
            for teacher, part in zip(teachers, batch.slices, strict=True):
                with torch.no_grad():
                    their_logits, their_features = teacher(batch.teacher[part], features=True)  # type: ignore[index]
                a, b = features[part].flatten(1), their_features.flatten(1)
                loss = loss + 2.0 * (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean()
                p, q = (their_logits / 3).softmax(1), (logits[part] / 3).log_softmax(1)
                loss = loss + 0.25 * 9 * (p * (p.log() - q)).sum(1).mean()
            by_hand.zero_grad()
            loss.backward()
            by_hand.step()
            losses += float(loss.detach()) * len(batch.labels)
            right += int((logits.argmax(1) == batch.labels).sum())
            count += len(batch.labels)
        for ours, theirs in zip(seen[epoch], weights(twin), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-6)
        row = progress.rows[epoch]
        assert row["images"] == count == 21 * max(1, len(degradations)) and row["epoch"] == epoch + 1
        assert row["loss"] == pytest.approx(losses / count, rel=1e-4)
        assert row["train_accuracy"] == pytest.approx(right / count, abs=1.1 / count)
        assert row["lr"] == pytest.approx(0.05 * (1, 1, 0.2, 0.04)[epoch])
        assert {"ce", "feature", "kd", "seconds"} <= row.keys()
    assert not same(seen[0], seen[3])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resuming_gives_the_same_bits(optimizer: str) -> None:
    recipe = make_recipe(epochs=5, optimizer=optimizer)
    stored: list[bytes] = []

    def score(model: nn.Module, epoch: int) -> dict[str, float]:
        return {"clean": float(model.state_dict()["fc.bias"][0])}

    def run(start: Progress | None, model: nn.Module) -> Progress:
        return train(
            model, recipe, make_pipeline(("noise",)), seed=3, validation=score, start=start,
            on_epoch=lambda p: stored.append(pack(p)),
        )  # fmt: skip

    whole = run(None, Toy(1))
    for k in range(5):
        model = Toy(99)  # other weights, which the stored ones replace
        resumed = run(unpack(stored[k]), model)
        assert same(weights(model), list(whole.model.values()))
        assert same(list(resumed.best.values()), list(whole.best.values()))
        assert (resumed.epoch, resumed.best_epoch, resumed.best_score) == (5, whole.best_epoch, whole.best_score)
        assert [r["loss"] for r in resumed.rows] == [r["loss"] for r in whole.rows]
    assert same(list(run(None, Toy(1)).model.values()), list(whole.model.values()))
    assert unpack(None) is None


class Explodes(Toy):
    """Gives NaN in the n-th training step."""

    def __init__(self, step: int) -> None:
        super().__init__(1)
        self.left = step

    def forward(self, x: torch.Tensor, features: bool = False) -> Any:
        if self.training:
            self.left -= 1
        x = x * float("nan") if self.left == 0 else x
        return super().forward(x, features=features)


def test_a_loss_that_is_not_finite_names_its_first_step_and_keeps_the_epoch_before() -> None:
    pipeline = make_pipeline(())
    assert pipeline.steps == 3
    kept: list[Progress] = []
    with pytest.raises(NonFiniteLoss, match=r"epoch 3, step 2 of 3.*lower the learning rate") as caught:
        train(Explodes(3 + 3 + 2), make_recipe(epochs=9), pipeline, seed=0, on_epoch=kept.append)
    assert (caught.value.epoch, caught.value.step) == (3, 2)
    assert [p.epoch for p in kept] == [1, 2]
    two: list[Progress] = []
    with pytest.raises(StopIteration):  # what on_epoch raises ends training
        train(Toy(1), make_recipe(epochs=9), pipeline, seed=0, on_epoch=lambda p: _keep(p, two))
    last = kept[-1]
    assert same(list(last.model.values()), list(two[1].model.values()))
    state, expected = last.optimizer["state"], two[1].optimizer["state"]
    assert state and all(torch.equal(state[i]["momentum_buffer"], expected[i]["momentum_buffer"]) for i in state)
    assert all(tensor.isfinite().all() for tensor in last.model.values())
    with pytest.raises(NonFiniteLoss, match="epoch 1, step 1 of 3"):
        train(Explodes(1), make_recipe(epochs=1), pipeline, seed=0)


def _keep(progress: Progress, kept: list[Progress]) -> None:
    kept.append(progress)
    if len(kept) == 2:
        raise StopIteration


@pytest.mark.parametrize(
    ("scores", "best"),
    [([0.1, 0.5, 0.3, 0.2], 2), ([0.5, 0.2, 0.5, 0.1], 3), ([0.0] * 4, 4), ([0.4, 0.1, 0.2, 0.3], 1)],
)
def test_the_best_epoch_is_kept_and_of_equals_the_later(scores: list[float], best: int) -> None:
    told = iter(scores)
    seen: list[list[torch.Tensor]] = []

    def validation(model: nn.Module, epoch: int) -> dict[str, float]:
        model.eval()  # as the real one leaves it
        seen.append(weights(model))
        score = next(told)
        return {"noise": score - 0.1, "blur": score + 0.1}

    recipe = make_recipe(epochs=4)
    progress = train(Toy(1), recipe, make_pipeline(("noise", "blur")), seed=0, validation=validation)
    assert progress.best_epoch == best and progress.best_score == pytest.approx(scores[best - 1])
    assert same(list(progress.best.values()), seen[best - 1])
    assert [row["validation"] for row in progress.rows] == pytest.approx(scores)
    assert progress.rows[0]["validation_blur"] == pytest.approx(scores[0] + 0.1)


def test_without_validation_the_last_epoch_is_kept() -> None:
    progress = train(Toy(1), make_recipe(epochs=3), make_pipeline(()), seed=0)
    assert progress.best_epoch == 3 and same(list(progress.best.values()), list(progress.model.values()))
    assert "validation" not in progress.rows[-1]


def test_no_rounding_decides_between_equal_scores() -> None:
    tenths = [Fraction(one, 10) for one in (1, 2, 3)]
    assert sum(map(float, tenths)) > sum(map(float, reversed(tenths))), "as floats the first epoch would win"
    told = iter([tenths, tenths[::-1]])

    def validation(model: nn.Module, epoch: int) -> dict[str, Fraction]:
        return dict(zip("abc", next(told), strict=True))

    progress = train(Toy(1), make_recipe(epochs=2), make_pipeline(()), seed=0, validation=validation)
    assert progress.best_epoch == 2 and progress.best_score == pytest.approx(0.2)
    assert {type(value) for row in progress.rows for value in row.values()} == {float, int}


@pytest.mark.parametrize("size", [100, 128])
def test_the_papers_accuracy_is_a_mean_of_batches(size: int) -> None:
    right = torch.arange(300) % 7 < 3
    by_hand = [sum(right[i : i + size].tolist()) / len(right[i : i + size]) for i in range(0, 300, size)]
    assert float(batch_mean_accuracy(right, size)) == pytest.approx(sum(by_hand) / 3)
    uneven = torch.tensor([True] * size + [False])
    assert batch_mean_accuracy(uneven, size) == 0.5 < float(uneven.double().mean())


def test_teachers_are_never_changed_nor_in_training_mode() -> None:
    teacher = Toy(4, norm=True)
    teacher.train()
    before = weights(teacher)
    modes: list[bool] = []
    teacher.register_forward_hook(lambda module, *_: modes.append(module.training))
    train(Toy(1, norm=True), make_recipe(epochs=2, feature=1.0), make_pipeline(()), seed=0, teachers=[teacher])
    assert len(modes) == 6 and not any(modes)
    assert same(weights(teacher), before) and all(p.grad is None for p in teacher.parameters())
    with pytest.raises(ValueError, match="a teacher per degradation: 2, got 1"):
        two = make_pipeline(("noise", "blur"))
        train(Toy(1), make_recipe(epochs=1, kd=1.0), two, seed=0, teachers=[teacher])


@pytest.mark.parametrize("setting", [{"precision": "bf16"}, {"channels_last": True}])
def test_settings_of_speed_train_to_about_the_same(setting: dict[str, Any]) -> None:
    plain = train(Toy(1, norm=True), make_recipe(epochs=3), make_pipeline(()), seed=0)
    recipe = make_recipe(epochs=3).model_copy(update=setting)
    fast = train(Toy(1, norm=True), recipe, make_pipeline((), channels_last=recipe.channels_last), seed=0)
    assert [r["loss"] for r in fast.rows] == pytest.approx([r["loss"] for r in plain.rows], rel=0.02)
    assert all(tensor.dtype != torch.bfloat16 for tensor in fast.best.values())
    if setting.get("precision"):
        assert not same(list(fast.model.values()), list(plain.model.values()))


@pytest.mark.slow
def test_a_compiled_student_trains_to_the_same() -> None:
    plain = train(Toy(1), make_recipe(epochs=2, feature=1.0), make_pipeline(()), seed=0, teachers=[Toy(2)])
    recipe = make_recipe(epochs=2, feature=1.0).model_copy(update={"compile": True})
    fast = train(Toy(1), recipe, make_pipeline(()), seed=0, teachers=[Toy(2)])
    assert list(fast.model) == list(plain.model)
    assert [r["loss"] for r in fast.rows] == pytest.approx([r["loss"] for r in plain.rows], rel=1e-3)


def test_two_processes_follow_the_curve_of_one(tmp_path: Path) -> None:
    """Without BatchNorm data-parallel training is the same sum in another order. NaN is noticed by both alike."""
    forking.both(toy_training.worker, tmp_path)
    for way, batch_size in product(WAYS, BATCH_SIZES):
        single = distilled(WAYS[way], batch_size)
        double = torch.load(tmp_path / f"result-{way}-{batch_size}.pt", weights_only=True)
        assert double["epoch"] == 3 and len(double["rows"]) == 3
        for ours, theirs in zip(double["rows"], single.rows, strict=True):
            for name in ("images", "loss", "ce", "feature", "train_accuracy"):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name
        for name, tensor in single.model.items():
            torch.testing.assert_close(double["model"][name], tensor, rtol=1e-3, atol=1e-5)
    assert (tmp_path / "nan-0").read_text() == (tmp_path / "nan-1").read_text() == "1 2"
