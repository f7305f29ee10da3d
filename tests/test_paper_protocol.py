"""The protocol ``paper`` against numbers that the released code gave (dineshdaultani/FusionDistill, run beside ours).

Its random numbers are not ours. So its loaders told which draws degradations share (300 images, three epochs, training
and test loaders), and its trainers were fed with the batches that our pipeline makes here.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import nn

from fusiondistill import batches, build_model, evaluation, level_draws
from fusiondistill.config_file import parse
from fusiondistill.data import ImageSet
from fusiondistill.degradations import DEGRADATIONS, Degradation, degrade
from fusiondistill.degradations.machinery.operator import applied
from fusiondistill.fitting import Training
from fusiondistill.methods import Trained
from fusiondistill.progress import batch_mean_accuracy
from fusiondistill.recipe import Recipe, with_keys
from fusiondistill_runner.planning.plan import build
from golden.cases import filled
from golden.material import whole

FOUR = ("jpeg", "blur", "noise", "saltpepper")
MIXED = ("scratch", "vanilla", "fusing", "fusiondistill")
CIFAR10 = ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7))

# Ours, of seed 123 and epoch 0: the levels of twelve images; first and last row and column of the holes of a step's
# first three images; the levels on which six images are scored.
LEVELS = {
    "jpeg": [39, 42, 65, 70, 22, 15, 50, 8, 96, 72, 52, 12],
    "blur": [34, 17, 29, 32, 14, 29, 6, 5, 29, 49, 32, 38],
    "noise": [34, 17, 29, 32, 14, 29, 6, 5, 29, 49, 32, 38],
    "saltpepper": [8, 7, 4, 10, 23, 10, 21, 5, 18, 6, 20, 0],
}
HOLES = {
    "jpeg": [(14, 12, 29, 27), (23, 0, 31, 9), (0, 7, 7, 22)],
    "blur": [(14, 12, 29, 27), (23, 0, 31, 9), (0, 7, 7, 22)],
    "noise": [(0, 0, 15, 11), (8, 0, 23, 8), (21, 0, 31, 8)],
    "saltpepper": [(0, 0, 7, 14), (5, 0, 20, 11), (18, 0, 31, 11)],
}
SCORED = {
    "jpeg": [76, 97, 69, 70, 65, 81],
    "blur": [17, 48, 37, 41, 48, 10],
    "noise": [17, 48, 37, 41, 48, 10],
    "saltpepper": [11, 4, 24, 17, 20, 8],
}
# The released code's, of our batches: row -> images, mean losses over them, (mean, norm) of tensors afterwards. One
# step of SGD on 8 images under four degradations; two of RAdam, the second on 4.
STEPS = {
    "scratch": (
        8,
        {"loss": 3.9483957, "ce": 3.9483957},
        {
            "conv.weight": (-0.008388546, 4.6991403), "norm.running_var": (2.077561, 8.5802969),
            "stage1.0.conv1.weight": (-0.0004328165, 4.6109329),
            "stage2.0.shortcut.0.weight": (-0.02823098, 6.6295268),
            "stage3.2.norm2.weight": (0.02502212, 8.4912976),
            "stage3.2.norm2.running_mean": (0.2252069, 8.2598955),
            "head.weight": (0.0003795587, 4.1977465), "head.bias": (0.4953076, 3.1516394),
        },
    ),
    "fusiondistill": (
        12,
        {"loss": 2.7759990, "ce": 4.6431507, "feature": 2.3116840},
        {
            "conv.weight": (-0.007407868, 4.697504), "norm.running_var": (2.004046, 8.2609084),
            "stage1.0.conv1.weight": (-0.0002043577, 4.6058713),
            "stage2.0.shortcut.0.weight": (-0.02803819, 6.6294596),
            "stage3.2.norm2.weight": (0.02441477, 8.49277),
            "stage3.2.norm2.running_mean": (0.1827446, 7.6073559),
            "head.weight": (0.0003795623, 3.6552624), "head.bias": (0.4953124, 3.1604455),
        },
    ),
}  # fmt: skip


def images(count: int) -> ImageSet:
    """Noise without black, so that zeros after normalisation are a hole; each image has a label of its own up to 10."""
    pixels = torch.from_numpy(whole("images of the paper's protocol", count, 3, 32, 32)).to(torch.uint8)
    names = [str(i) for i in range(10)]
    return ImageSet("x", pixels, torch.arange(count) % 10, names, statistics=CIFAR10, flip=True)


def recipe(row: str, protocol: str = "paper", more: str = "") -> Recipe:
    method = parse(f"experiment: x\nprotocol: {protocol}\n{more}").table[row]
    assert isinstance(method, Trained)
    return method.recipe


def training(row: str, count: int = 12, held_out: ImageSet | None = None) -> Training:
    # The released code's layout: another one changes the rounding, which some steps enlarge.
    whole_recipe = with_keys(recipe(row), {"epochs": 1, "batch_size": 8, "channels_last": False})
    return Training(whole_recipe, images(count), held_out, FOUR, seed=123, protocol="paper")


class Draws:
    """Spies on the levels that are drawn, and finds the holes of batches."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.levels: dict[tuple[str, int], int] = {}
        self.seeds: set[int] = set()

        def seen(pixels: torch.Tensor, name: str, levels: torch.Tensor, **more: Any) -> torch.Tensor:
            self.seeds.add(more["seed"])
            self.levels |= {(name, int(i)): int(v) for i, v in zip(more["indices"], levels, strict=True)}
            return degrade(pixels, name, levels, **more)

        def trained(entry: Degradation, pixels: torch.Tensor, levels: torch.Tensor, *more: Any) -> torch.Tensor:
            self.levels |= {(entry.name, int(i)): int(v) for i, v in zip(more[1], levels, strict=True)}
            return applied(entry, pixels, levels, *more)

        patch.setattr(batches, "applied", trained)
        patch.setattr(level_draws, "degrade", seen)
        patch.setattr(evaluation, "degrade", seen)

    def of(self, name: str, count: int) -> list[int]:
        return [self.levels[name, i] for i in range(count)]


def equal(a: list[Any], b: list[Any]) -> float:
    return sum(x == y for x, y in zip(a, b, strict=True)) / len(a)


@pytest.mark.parametrize("row", MIXED)
def test_degradations_share_the_draws_that_they_share_in_the_released_code(
    monkeypatch: pytest.MonkeyPatch, row: str
) -> None:
    draws, made = Draws(monkeypatch), training(row, 300)
    before: list[int] = []
    for epoch in (0, 1):
        holes: dict[str, list[bytes]] = {name: [] for name in FOUR}
        labels: dict[str, list[int]] = {name: [] for name in FOUR}
        for batch in made.pipeline().epoch(epoch):
            for name, part in zip(FOUR, batch.slices, strict=True):
                holes[name] += [(one == 0).all(0).numpy().tobytes() for one in batch.student[part]]
                labels[name] += batch.labels[part].tolist()
        for a, b in combinations(FOUR, 2):
            levels = equal(draws.of(a, 300), draws.of(b, 300))
            assert levels == 1 if {a, b} == {"blur", "noise"} else levels < 0.06, (a, b)
            same_hole = equal(holes[a], holes[b])
            assert same_hole == 1 if {a, b} == {"jpeg", "blur"} else same_hole < 0.03, (a, b)
            assert labels[a] == labels[b]
        assert len({*draws.of("jpeg", 300)}) > 80 and equal(before or [-1] * 300, draws.of("blur", 300)) < 0.06
        before = draws.of("blur", 300)


def test_levels_and_holes_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = Draws(monkeypatch)
    (batch, _) = training("fusiondistill").pipeline().epoch(0)
    assert {name: draws.of(name, 12) for name in FOUR} == LEVELS
    corners = {}
    for name, part in zip(FOUR, batch.slices, strict=True):
        holes = [(one == 0).all(0).nonzero() for one in batch.student[part][:3]]
        corners[name] = [(*hole.min(0).values.tolist(), *hole.max(0).values.tolist()) for hole in holes]
    assert corners == HOLES


class Brightness(nn.Module):
    """Tells images apart by their mean."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot((x.mean((1, 2, 3)) * 1000).long() % 10, 10).float()


def test_an_epoch_is_scored_on_draws_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    draws, made = Draws(monkeypatch), training("scratch", held_out=images(60))
    found = []
    for epoch in (0, 1):
        made.validate(Brightness(), epoch)
        found.append({name: draws.of(name, 60) for name in FOUR})
        assert found[-1]["blur"] == found[-1]["noise"]
    assert {name: levels[:6] for name, levels in found[0].items()} == SCORED
    assert all(equal(found[0][name], found[1][name]) < 0.2 for name in FOUR) and len(draws.seeds) == 2
    draws.seeds.clear()
    usual = Training(recipe("scratch", "standard"), made.images, images(60), FOUR, seed=123)
    for epoch in (0, 1):
        usual.validate(Brightness(), epoch)
        found.append({name: draws.of(name, 60) for name in FOUR})
    assert found[2] == found[3] and len(draws.seeds) == 1
    assert equal(found[2]["blur"], found[2]["noise"]) < 0.2


def test_scores_are_means_over_batches_of_128() -> None:
    """What the released code's validation logs for these answers, four loaders of 300 images."""
    limits = {"jpeg": 200, "blur": 90, "noise": 140, "saltpepper": 170}
    right = {name: torch.from_numpy(whole(f"right {name}", 300) < limit) for name, limit in limits.items()}
    scores = [batch_mean_accuracy(values, 128) for values in right.values()]
    assert float(sum(scores) / 4) == pytest.approx(0.6034564393939394, abs=1e-15)
    assert sum(float(values.double().mean()) for values in right.values()) / 4 == pytest.approx(0.5958333333333334)
    assert batch_mean_accuracy(torch.tensor([True] * 128 + [False]), 128) == Fraction(1, 2)


def network(name: str) -> nn.Module:
    return filled(build_model("cifar_resnet20", 10), name)


@pytest.mark.parametrize("row", ["scratch", "fusiondistill"])
def test_a_training_step_comes_to_the_released_codes_numbers(row: str) -> None:
    count, losses, numbers = STEPS[row]
    teachers = [network(f"teacher {name}") for name in FOUR] if row == "fusiondistill" else []
    done = training(row, count).run(network("student"), teachers)
    (metrics,) = done.rows
    assert {name: metrics[name] for name in losses} == pytest.approx(losses, rel=1e-5)
    for name, (mean, norm) in numbers.items():
        found = done.model[name].double()
        assert float(found.mean()) == pytest.approx(mean, abs=2e-6, rel=1e-4), name
        assert float(found.norm()) == pytest.approx(norm, rel=1e-5), name


def test_what_paper_changes_is_in_the_digests() -> None:
    def train(more: str) -> str:
        plan = build(
            parse(f"experiment: x\nmethods: [scratch]\n{more}"), "f" * 64, lambda name: DEGRADATIONS[name].levels,
            test_images=400, parameters=1,
        )  # fmt: skip
        return next(stage.digest for stage in plan.stages if stage.kind == "train")

    alone = "scratch: {coupled_draws: false}\n"
    found = [train(more) for more in ("", "protocol: paper\n", f"protocol: paper\n{alone}", "select: last\n")]
    last = [train(f"protocol: paper\nselect: last\n{more}") for more in ("", alone)]
    assert len({*found, *last}) == 6 and train(alone) == found[0]


def test_what_shares_draws_is_a_matter_of_levels_and_random_numbers_not_of_names() -> None:
    assert {name for name in FOUR if DEGRADATIONS[name].random} == {"noise", "saltpepper"}
    assert DEGRADATIONS["blur_noise_jpeg"].random and not DEGRADATIONS["contrast"].random

    @DEGRADATIONS.register("dim", range(10, 61))
    def dim(pixels: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        "Less light."
        return (pixels * (100 - levels.view(-1, 1, 1, 1)) // 100).to(torch.uint8)

    one = torch.arange(50)
    addresses = [batches.level_address(name, True) for name in ("blur", "dim")]
    assert addresses[0] == addresses[1]
    assert torch.equal(batches.random_levels("blur", 7, one) + 10, batches.random_levels("dim", 7, one))
    assert batches.level_address("blur", False) == "blur"
