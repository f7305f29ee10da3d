"""Uneven classes: weights in the cross-entropy against torch's own, and draws that even them out."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from fusiondistill import fit
from fusiondistill.balancing import balanced_positions, class_weights_of
from fusiondistill.batches import Pipeline
from fusiondistill.data import ImageSet
from fusiondistill.objectives import Objective
from test_batches import pipeline, rows

COUNTS = (30, 11, 2, 0, 5)
NAMES = ["ant", "bee", "cat", "none of these", "dog"]
LABELS = torch.arange(5).repeat_interleave(torch.tensor(COUNTS))[torch.randperm(48, generator=torch.Generator())]


def uneven() -> ImageSet:
    images = torch.randint(1, 256, (48, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet("uneven", images, LABELS, NAMES, statistics=((120.0,) * 3, (60.0,) * 3))


def balanced(degradations: tuple[str, ...] = ("noise", "jpeg"), **other: Any) -> Pipeline:
    return pipeline(uneven(), degradations, **{"balanced": True, **other})


def test_weights_of_classes() -> None:
    found = class_weights_of("balanced", LABELS, NAMES)
    there = [c for c, count in enumerate(COUNTS) if count]
    theirs = compute_class_weight("balanced", classes=np.array(there), y=LABELS.numpy())
    assert found is not None and found[there].tolist() == pytest.approx(theirs.tolist())
    assert float(found[LABELS].mean()) == pytest.approx(1)
    assert class_weights_of("none", LABELS, NAMES) is None
    assert class_weights_of((1, 2, 3, 4, 5), LABELS, NAMES).tolist() == [1, 2, 3, 4, 5]  # type: ignore[union-attr]
    assert class_weights_of({"cat": 9}, LABELS, NAMES).tolist() == [1, 1, 9, 1, 1]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="2 weights for 5 classes"):
        class_weights_of((1, 2), LABELS, NAMES)
    with pytest.raises(ValueError, match="no class 'cow'; there are ant, bee"):
        class_weights_of({"cow": 2}, LABELS, NAMES)


@pytest.mark.parametrize("world", [1, 2])
def test_the_cross_entropy_is_torchs_weighted_mean(world: int) -> None:
    """On one worker, and averaged over two as their gradients are; other terms do not know of weights."""
    weights = torch.tensor([0.5, 1.0, 7.0, 1.0, 2.5])
    head = torch.randn(192, 5, generator=torch.Generator().manual_seed(0))
    theirs = torch.nn.CrossEntropyLoss(weight=weights)
    loss = Objective({"ce": 1.0})
    settings: dict[str, Any] = {"batch_size": 20, "class_weights": weights, "world_size": world}
    workers = [list(pipeline(uneven(), ("noise", "jpeg"), rank=r, **settings).epoch(0)) for r in range(world)]
    whole = list(pipeline(uneven(), ("noise", "jpeg"), batch_size=20).epoch(0))
    for step, batch in enumerate(whole):
        own, gradients = [], []
        for part in (worker[step] for worker in workers):
            logits = (part.student.flatten(1) @ head).requires_grad_()
            total, terms = loss.loss(logits, None, part.labels, part.slices, weights=part.image_weights)
            own.append(float(terms["ce"]) * part.share)
            (gradient,) = torch.autograd.grad(total * part.share, logits)
            gradients.append(part.student.flatten(1).T @ gradient)
        logits = (batch.student.flatten(1) @ head).requires_grad_()
        value = theirs(logits, batch.labels)
        assert sum(own) / world == pytest.approx(float(value.detach()), rel=1e-5)
        expected = batch.student.flatten(1).T @ torch.autograd.grad(value, logits)[0]
        torch.testing.assert_close(sum(gradients) / world, expected, rtol=1e-4, atol=1e-5)
        assert batch.image_weights is None


def test_classes_come_equally_often() -> None:
    counts = []
    for epoch in range(8):
        positions = balanced_positions(LABELS, epoch)
        assert len(positions) == len(LABELS) and torch.equal(positions, positions.unique())
        of_class = LABELS[positions % 48].bincount(minlength=5).tolist()
        counts.append(of_class)
        assert of_class == [12, 12, 12, 0, 12]
        times = Counter((positions % 48).tolist())
        for label, size in enumerate(COUNTS):
            seen = [times[i] for i in range(48) if LABELS[i] == label]
            assert all(one in (12 // max(1, size), -(-12 // max(1, size))) for one in seen)
        assert all(i + 48 * t in positions for i, count in times.items() for t in range(count))
    odd = torch.cat([LABELS, torch.tensor([0, 0])])  # 50 images of 4 classes: two classes come once more
    spread = [odd[balanced_positions(odd, epoch) % 50].bincount(minlength=5) for epoch in range(40)]
    assert {tuple(sorted(one.tolist())) for one in spread} == {(0, 12, 12, 13, 13)}
    assert len({tuple(one.tolist()) for one in spread}) > 3  # not always the same two
    seen = torch.stack([balanced_positions(LABELS, e) % 48 for e in range(40)]).flatten().bincount(minlength=48)
    assert int(seen[LABELS == 0].min()) > 4  # nor always the same images of a large class


def test_balanced_draws_are_a_function_of_seed_and_epoch() -> None:
    once = rows(list(balanced(batch_size=48).epoch(3)))
    assert len(set(once)) == len(once) == 96  # repeats look different
    for size in (7, 20):
        assert Counter(rows(list(balanced(batch_size=size).epoch(3)))) == Counter(once)
    shared = [rows(list(balanced(batch_size=16, rank=rank, world_size=3).epoch(3))) for rank in range(3)]
    assert Counter(row for part in shared for row in part) == Counter(once)
    assert Counter(label for *_, label in once) == {0: 24, 1: 24, 2: 24, 4: 24}
    assert not set(rows(list(balanced(batch_size=48).epoch(4)))) & set(once)
    (same,) = balanced(batch_size=48, pairing="same").epoch(3)
    assert torch.equal(same.labels[:48], same.labels[48:])


def test_even_classes_are_drawn_as_they_are() -> None:
    labels = torch.arange(48) % 4
    assert torch.equal(balanced_positions(labels, 1), torch.arange(48))


def test_a_fit_takes_them() -> None:
    images = uneven()
    usual = {"epochs": 1, "batch_size": 16, "cutout": 0}
    settings: list[dict[str, Any]] = [
        {}, {"class_weights": "balanced"}, {"class_weights": {"cat": 4}}, {"sampling": "balanced"},
        {"resized_crop": [0.5, 1]}, {"resized_crop": [0.5, 1], "crop_padding": 0}, {"class_weights": [1.0] * 5},
    ]  # fmt: skip
    fits = [fit({**usual, **one}, images, model="cifar_resnet8", validation=0.2) for one in settings]
    heads = [next(iter(one.model.network.parameters())) for one in fits]
    same = [[j for j in range(7) if torch.equal(heads[i], heads[j])] for i in range(7)]
    assert same[:6] == [[0, 6], [1], [2], [3], [4, 5], [4, 5]]  # beside a resized crop there is no padded one
