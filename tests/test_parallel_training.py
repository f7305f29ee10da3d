"""Data-parallel training with BatchNorm against one process that normalises each half of every batch on its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import forking
import parallel_training
from fusiondistill.config_file import parse
from fusiondistill.training import train
from fusiondistill.wrapping import NeedsGPU, synchronised
from fusiondistill_runner.planning.plan import Plan, build
from fusiondistill_runner.runner import check_synchronised
from parallel_training import EPOCHS, SIZES, network, pipeline, recipe
from toy_training import Toy, make_pipeline, make_recipe


def half_loss(model: nn.Module, teachers: list[nn.Module], batch: Any, rank: int) -> tuple[torch.Tensor, float]:
    """(loss, share of the batch) of one worker's part: every other image of each degradation.

    A batch too small to cut is done by both; each then answers for a half of it.
    """
    parts = []
    for place in batch.slices:
        indices = torch.arange(place.start, place.stop)
        parts.append(indices if len(indices) < 4 else indices[rank::2])
    everything = torch.cat(parts)
    logits, features = model(batch.student[everything], features=True)
    loss = 0.5 * functional.cross_entropy(logits, batch.labels[everything])
    start = 0
    for teacher, part in zip(teachers, parts, strict=True):
        mine = slice(start, start := start + len(part))
        with torch.no_grad():
            their_logits, their_features = teacher(batch.teacher[part], features=True)
        a, b = features[mine].flatten(1), their_features.flatten(1)
        loss = loss + 2.0 * (1 - functional.cosine_similarity(a, b)).mean()
        p, q = (their_logits / 3).softmax(1), (logits[mine] / 3).log_softmax(1)
        loss = loss + 0.25 * 9 * (p * (p.log() - q)).sum(1).mean()
    whole = len(batch.slices) * (batch.slices[0].stop - batch.slices[0].start)
    return loss, 0.5 if len(everything) == whole else len(everything) / whole


def by_hand(batch_size: int) -> tuple[list[float], list[list[torch.Tensor]], nn.Module]:
    """Loss and rank 0's state of each epoch, and the other half's network."""
    first, teachers = network(1), [network(10 + i).eval() for i in range(3)]
    halves = [first, copy.deepcopy(first)]
    optimizer = torch.optim.SGD(first.parameters(), lr=0.02, momentum=0.8, weight_decay=0.01)
    losses, states = [], []
    for epoch in range(EPOCHS):
        optimizer.param_groups[0]["lr"] = 0.02 * (1, 1, 0.2)[epoch]
        total, images = 0.0, 0.0
        for batch in pipeline(batch_size).epoch(epoch):
            for model in halves:
                model.train()
                model.zero_grad()
            for rank, model in enumerate(halves):
                loss, share = half_loss(model, teachers, batch, rank)
                (share * loss).backward()
                total += float(loss.detach()) * share * len(batch.labels)
                images += share * len(batch.labels)
            for mine, other in zip(first.parameters(), halves[1].parameters(), strict=True):
                mine.grad += other.grad
            optimizer.step()
            with torch.no_grad():
                for mine, other in zip(first.parameters(), halves[1].parameters(), strict=True):
                    other.copy_(mine)
        losses.append(total / images)
        states.append([tensor.clone() for tensor in first.state_dict().values()])
    return losses, states, halves[1]


def test_two_workers_are_one_that_normalises_the_batch_in_halves(tmp_path: Path) -> None:
    """Two gloo processes; three degradations, features and kd, an uneven last batch, a last batch too small to cut."""
    forking.both(parallel_training.worker, tmp_path)
    for size in SIZES:
        losses, states, other = by_hand(size)
        kept = torch.load(tmp_path / f"{size}-0.pt", weights_only=True)
        assert [len(kept), len(losses)] == [EPOCHS, EPOCHS]
        for epoch in range(EPOCHS):
            assert kept[epoch]["rows"][-1]["loss"] == pytest.approx(losses[epoch], rel=1e-6)
            for ours, expected in zip(kept[epoch]["model"].values(), states[epoch], strict=True):
                torch.testing.assert_close(ours, expected, rtol=1e-5, atol=2e-6)
        # The running statistics are rank 0's; those of the other half differ, its weights do not.
        for name, tensor in other.state_dict().items():
            same = torch.allclose(tensor, kept[-1]["model"][name], rtol=1e-4, atol=1e-6)
            assert same != name.endswith(("running_mean", "running_var")), name
        names = list(other.state_dict())
        for name, tensor in zip(names, torch.load(tmp_path / f"{size}-1.pt", weights_only=True), strict=True):
            if "running" not in name and "num_batches" not in name:
                assert torch.equal(tensor, kept[-1]["model"][name]), name
        # It is the halves that make the difference: the whole batch at once is another curve.
        whole = train(network(1), recipe(), pipeline(size), seed=0, teachers=[network(10 + i) for i in range(3)])
        assert abs(whole.rows[-1]["loss"] / losses[-1] - 1) > 1e-4


def test_every_worker_goes_on_from_the_epoch_that_the_first_has_read(tmp_path: Path) -> None:
    forking.both(parallel_training.sent, tmp_path)


def test_batchnorm_becomes_synchronised_where_there_are_gpus() -> None:
    model = Toy(1, norm=True)
    images = torch.randn(4, 3, 8, 8)
    before, said = model.state_dict(), model.eval()(images)
    changed = synchronised(model, torch.device("cuda"))
    assert isinstance(changed.norm, nn.SyncBatchNorm) and not any(type(m) is nn.BatchNorm2d for m in changed.modules())
    after = changed.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(changed.eval()(images), said)
    with pytest.raises(NeedsGPU, match=r"resources.sync_batchnorm needs a GPU .* have a CPU: leave it out"):
        train(Toy(1, norm=True), make_recipe(epochs=1), make_pipeline(()), seed=0, sync_batchnorm=True)


def planned(*settings: str) -> Plan:
    config = parse("experiment: x\nsearch: {space: {loss.kd: {uniform: [0, 1]}}}\n", overrides=list(settings))
    return build(config, "f", lambda _: range(3))


def test_a_stage_without_synchronised_batchnorm_keeps_its_digest() -> None:
    plain, off = planned(), planned("resources.sync_batchnorm=false")
    alone = planned("resources.sync_batchnorm=true")  # a worker alone has no other to synchronise with
    digests = [stage.digest for stage in plain.stages]
    assert digests == [s.digest for s in off.stages] == [s.digest for s in alone.stages]
    two = planned("resources.workers_per_run=2")
    on = planned("resources.workers_per_run=2", "resources.sync_batchnorm=true")
    for one, other in zip(two.stages, on.stages, strict=True):
        assert one.digest != other.digest
    (search,) = (stage for stage in on.stages if stage.kind == "search")
    assert not search.spec.train.sync_batchnorm  # its trials have one worker each
    check_synchronised(two, gpus=0)
    check_synchronised(on, gpus=1)
    with pytest.raises(ValueError, match="these hold 0: leave it out"):
        check_synchronised(on, gpus=0)
