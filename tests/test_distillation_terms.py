"""Loss terms beyond the paper's against formulas in plain numpy and scipy, and weights that change with the epoch."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.special import softmax as scipy_softmax
from scipy.stats import pearsonr, zscore

from fusiondistill.loss import Loss, strength
from fusiondistill.losses import LOSSES, Mixed, Outputs, attention, dist, kd
from fusiondistill.losses.attention import attention_loss
from fusiondistill.objectives import Objective

RNG = np.random.default_rng(3)
STUDENT, TEACHER = RNG.normal(size=(2, 9, 6)) * 3
LABELS = np.arange(9) % 6
MAPS = RNG.normal(size=(2, 9, 5, 4, 3))


def value(term: str, student: np.ndarray = STUDENT, teacher: np.ndarray = TEACHER, **parameters: Any) -> float:
    """A term's value on logits."""
    outputs = [Outputs(torch.tensor(logits, dtype=torch.float32), None) for logits in (student, teacher)]
    entry = LOSSES[term]
    return float(entry.function(*outputs, torch.from_numpy(LABELS), **entry.resolve(parameters)))


def kl(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    p = scipy_softmax(teacher / temperature, axis=1)
    each = (p * (np.log(p) - log_softmax(student / temperature, axis=1))).sum(1)
    return float(temperature**2 * each.mean())


def test_standardised_logits_are_scipys_z_scores() -> None:
    scored = [zscore(logits, axis=1, ddof=1) for logits in (STUDENT, TEACHER)]
    assert value("kd", temperature=2, standardise=True) == pytest.approx(kl(*scored, 2), rel=1e-4)
    scaled = value("kd", STUDENT * 7 + 3, TEACHER, temperature=2, standardise=True)
    assert scaled == pytest.approx(kl(*scored, 2), rel=1e-4), "the size and the mean of logits are not taught"
    assert value("dkd", standardise=True) == pytest.approx(value("dkd", *scored), rel=1e-4)
    flat = torch.ones(2, 4, requires_grad=True)
    kd.standardised(flat).square().sum().backward()
    assert flat.grad is not None and bool(flat.grad.isfinite().all())


@pytest.mark.parametrize(("beta", "gamma", "temperature"), [(1.0, 1.0, 1.0), (2.0, 0.0, 4.0), (0.0, 1.5, 2.0)])
def test_dist_is_one_minus_pearson_over_classes_and_over_images(beta: float, gamma: float, temperature: float) -> None:
    q, p = (scipy_softmax(logits / temperature, axis=1) for logits in (STUDENT, TEACHER))
    rows = np.mean([1 - pearsonr(a, b).statistic for a, b in zip(q, p, strict=True)])
    columns = np.mean([1 - pearsonr(a, b).statistic for a, b in zip(q.T, p.T, strict=True)])
    expected = temperature**2 * (beta * rows + gamma * columns)
    assert value("dist", beta=beta, gamma=gamma, temperature=temperature) == pytest.approx(expected, rel=1e-4)
    assert value("dist", TEACHER, TEACHER, beta=beta, gamma=gamma) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_attention_is_the_distance_of_normalised_maps(power: float) -> None:
    def attend(features: np.ndarray) -> np.ndarray:
        flat = (np.abs(features) ** power).mean(1).reshape(len(features), -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    expected = ((attend(MAPS[0]) - attend(MAPS[1])) ** 2).mean()
    student, teacher = torch.tensor(MAPS, dtype=torch.float32)
    assert float(attention_loss(student, teacher, power)) == pytest.approx(expected, rel=1e-4)
    layers = {"stage1": 2.0, "stage3": 0.5}
    outputs = [Outputs(None, maps, {"stage1": maps, "stage3": -maps}) for maps in (student, teacher)]
    assert float(LOSSES["attention"].function(*outputs, None, layers=layers, power=power)) == pytest.approx(
        2.5 * expected, rel=1e-4
    )
    with pytest.raises(ValueError, match=r"of one size, the student's and teacher's are \(9, 5, 4, 3\) and \(9, 5, 2"):
        attention_loss(student, teacher[:, :, :2], power)
    zero = torch.zeros(2, 3, 2, 2, requires_grad=True)
    attention_loss(zero, teacher[:2, :3, :2, :2], power).backward()
    assert zero.grad is not None and bool(zero.grad.isfinite().all())


def test_new_terms_are_float32_under_autocast_and_read_nothing_back() -> None:
    from fusiondistill.host_reads import HostReads

    loss = {"kd": {"weight": 1, "standardise": True}, "dist": 1, "attention": {"weight": 1, "layers": {"a": 1}}}
    logits = torch.tensor(STUDENT, dtype=torch.bfloat16, requires_grad=True)
    maps = torch.tensor(MAPS, dtype=torch.bfloat16)
    teacher = Outputs(torch.tensor(TEACHER, dtype=torch.bfloat16), maps[1], {"a": maps[1]})
    objective = Objective({**loss, "ce": {"weight": 1, "fade": 1}})
    with HostReads() as reads, torch.autocast("cpu", torch.bfloat16):
        total, terms = objective.loss(
            logits, maps[0], torch.from_numpy(LABELS), [slice(0, 9)], [teacher], {"a": maps[0]}
        )
        total.backward()
    assert not reads.found and {one.dtype for one in (total, *terms.values())} == {torch.float32}
    assert logits.grad is not None and bool(logits.grad.isfinite().all())


def test_weights_rise_and_fall_over_the_epochs() -> None:
    dkd = {"weight": 1.0, "warmup": 20 / 240}
    factors = [strength(dkd, epoch, 240) for epoch in range(240)]
    assert factors == pytest.approx([min((epoch + 1) / 20, 1) for epoch in range(240)]), "as mdistiller's epoch / 20"
    assert [strength({"fade": 1.0}, epoch, 4) for epoch in range(4)] == [1, 0.75, 0.5, 0.25]
    assert [strength({"warmup": 0.5, "fade": 0.5}, epoch, 4) for epoch in range(4)] == [0.5, 1, 1, 0.5]
    objective = Objective({"ce": 0, "kd": {"weight": 2.0, "fade": 1.0}})
    student, teacher = (torch.tensor(logits, dtype=torch.float32) for logits in (STUDENT, TEACHER))
    totals = []
    for epoch in range(4):
        objective.begin(epoch, 4)
        total, terms = objective.loss(student, None, torch.from_numpy(LABELS), [slice(0, 9)], [Outputs(teacher, None)])
        totals.append(float(total))
        assert float(terms["kd"]) == pytest.approx(kl(STUDENT, TEACHER, 4), rel=1e-4), "noted before weighting"
    assert totals == pytest.approx([2 * factor * kl(STUDENT, TEACHER, 4) for factor in (1, 0.75, 0.5, 0.25)], rel=1e-4)


def test_ramps_that_are_none_make_no_other_loss() -> None:
    plain, said = Loss({"kd": 0.5}), Loss({"kd": {"weight": 0.5, "warmup": 0, "fade": 0, "standardise": False}})
    assert plain == said and plain.model_dump_json() == said.model_dump_json()
    assert Loss({"kd": {"weight": 1, "fade": 0.5}}).model_dump()["kd"] == {"weight": 1, "fade": 0.5, "temperature": 4}
    for bad in (-0.1, 1.1, "x"):
        with pytest.raises(ValueError, match=r"kd\.warmup"):
            Loss({"kd": {"weight": 1, "warmup": bad}})
    with pytest.raises(ValueError, match="it must be one of one, unused, mixed"):
        LOSSES.register("odd", labels="several")


def test_a_mixed_cross_entropy_is_torchs_with_soft_labels() -> None:
    from torch.nn import functional

    logits, labels = torch.tensor(STUDENT, dtype=torch.float32), torch.from_numpy(LABELS)
    partners, share = labels.roll(1), torch.rand(9)
    one_hot = [functional.one_hot(one, 6).float() for one in (labels, partners)]
    soft = share[:, None] * one_hot[0] + (1 - share[:, None]) * one_hot[1]
    for smoothing in (0.0, 0.2):
        objective = Objective({"ce": {"weight": 1, "label_smoothing": smoothing}})
        found, _ = objective.loss(logits, None, labels, [slice(0, 9)], mixed=Mixed(partners, share))
        torch.testing.assert_close(found, functional.cross_entropy(logits, soft, label_smoothing=smoothing))
    classes = torch.rand(6) + 0.5
    weighted = Mixed(partners, share, classes[partners])
    found, _ = Objective({"ce": 1}).loss(logits, None, labels, [slice(0, 9)], weights=classes[labels], mixed=weighted)
    torch.testing.assert_close(found, functional.cross_entropy(logits, soft, classes, reduction="sum") / 9)


def test_consistency_is_scipys_jensen_shannon_divergence() -> None:
    from scipy.stats import entropy

    views = RNG.normal(size=(3, 4, 6)) * 3
    p = scipy_softmax(views, axis=2)
    expected = np.mean([entropy(p.mean(0)[i]) - np.mean([entropy(one[i]) for one in p]) for i in range(4)])
    slices = [slice(0, 4), slice(4, 8), slice(8, 12)]
    logits = torch.tensor(views.reshape(12, 6), dtype=torch.float32, requires_grad=True)
    total, _ = Objective({"ce": 0, "consistency": 12}).loss(logits, None, torch.zeros(12, dtype=torch.int64), slices)
    total.backward()
    assert float(total.detach()) == pytest.approx(12 * expected, rel=1e-4)
    same = Objective({"ce": 0, "consistency": 1}).loss(logits[:4].repeat(3, 1), None, torch.zeros(12).long(), slices)[0]
    assert float(same.detach()) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="two or more degradations, and there is one"):
        Objective({"consistency": 1}).loss(logits, None, torch.zeros(12, dtype=torch.int64), [slice(0, 12)])


@pytest.mark.parametrize("module", [kd, dist, attention])
def test_examples_run(module: Any) -> None:
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0
