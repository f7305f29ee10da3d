import doctest
import math

import numpy as np
import pytest
import torch

from fusiondistill import objectives
from fusiondistill.objectives import Objective, cosine_feature_loss, softened_kl

SLICES = [slice(0, 5), slice(5, 9), slice(9, 15), slice(15, 16)]


def slow_cosine(student: np.ndarray, teacher: np.ndarray) -> float:
    losses = []
    for own, theirs in zip(student, teacher, strict=True):
        a, b = own.ravel().tolist(), theirs.ravel().tolist()
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        losses.append(1 - dot / (math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))))
    return sum(losses) / len(losses)


def softmax(values: list[float], temperature: float) -> list[float]:
    exponentials = [math.exp(value / temperature) for value in values]
    return [e / sum(exponentials) for e in exponentials]


def slow_kl(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    total = 0.0
    for own, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = softmax(theirs, temperature), softmax(own, temperature)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(student)


def slow_ce(logits: np.ndarray, labels: list[int]) -> float:
    return -sum(math.log(softmax(row, 1)[label]) for row, label in zip(logits.tolist(), labels, strict=True)) / len(
        labels
    )


class Step:
    """Random outputs of a student and of four teachers on 16 images."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.logits = torch.randn(16, 7, generator=generator)
        self.features = torch.randn(16, 3, 2, 2, generator=generator).relu() + 0.01
        self.labels = torch.randint(0, 7, (16,), generator=generator)
        self.teachers = [
            (torch.randn(s.stop - s.start, 7, generator=generator), torch.rand(s.stop - s.start, 3, 2, 2))
            for s in SLICES
        ]

    def expected(self) -> dict[str, float]:
        feature = kd = 0.0
        for part, (logits, features) in zip(SLICES, self.teachers, strict=True):
            feature += slow_cosine(self.features[part].numpy(), features.numpy())
            kd += slow_kl(self.logits[part].numpy(), logits.numpy(), 3.0)
        return {"ce": slow_ce(self.logits.numpy(), self.labels.tolist()), "feature": feature, "kd": kd}

    def loss(self, objective: Objective) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return objective.loss(self.logits, self.features, self.labels, SLICES, self.teachers)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_softened_kl_is_the_formula(temperature: float) -> None:
    student, teacher = torch.randn(2, 6, 5).unbind()
    got = softened_kl(student, teacher, temperature)
    assert got.shape == () and got.item() == pytest.approx(slow_kl(student.numpy(), teacher.numpy(), temperature), 1e-4)
    assert softened_kl(teacher, teacher, temperature).item() == pytest.approx(0, abs=1e-6)


def test_softened_kl_stands_extreme_logits() -> None:
    student = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = softened_kl(student, torch.tensor([[-1e4, 1e4]]), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(2e4) and student.grad is not None and bool(student.grad.isfinite().all())


def test_cosine_feature_loss_is_the_formula_and_blind_to_scale() -> None:
    student, teacher = torch.randn(2, 6, 4, 3, 3).unbind()
    got = cosine_feature_loss(student, teacher)
    assert got.shape == () and got.item() == pytest.approx(slow_cosine(student.numpy(), teacher.numpy()), 1e-5)
    assert cosine_feature_loss(student, 100 * student).item() == pytest.approx(0, abs=1e-6)
    assert cosine_feature_loss(student, -student).item() == pytest.approx(2)


def test_an_all_zero_feature_is_finite_forward_and_backward() -> None:
    before = torch.full((2, 4), -1.0, requires_grad=True)
    loss = cosine_feature_loss(before.relu(), torch.rand(2, 4))
    loss.backward()
    assert loss.item() == 1 and before.grad is not None and bool((before.grad == 0).all())


def test_losses_refuse_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(1, 3\)"):
        cosine_feature_loss(torch.zeros(2, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(1, 3\)"):
        softened_kl(torch.zeros(2, 3), torch.zeros(1, 3), 1.0)


@pytest.mark.parametrize("weights", [(1, 0, 0), (0.1, 1, 0), (0, 0.7, 0), (0.3, 0, 2.5), (0.1, 1, 0.5)])
def test_the_total_is_the_weighted_sum_of_the_terms(weights: tuple[float, float, float]) -> None:
    step = Step()
    total, terms = step.loss(Objective(*weights, temperature=3.0))
    chosen = {name: w for name, w in zip(("ce", "feature", "kd"), weights, strict=True) if w > 0}
    assert set(terms) == set(chosen)
    for name, term in terms.items():
        assert term.shape == () and term.dtype == torch.float32 and not term.requires_grad
        assert term.item() == pytest.approx(step.expected()[name], rel=1e-4)
    assert total.item() == pytest.approx(sum(w * step.expected()[n] for n, w in chosen.items()), rel=1e-4)


def test_gradients_reach_the_student_and_never_the_teachers() -> None:
    step = Step()
    step.logits.requires_grad_()
    step.features.requires_grad_()
    for pair in step.teachers:
        for tensor in pair:
            tensor.requires_grad_()
    total, _ = step.loss(Objective(ce=0.1, feature=1.0, kd=0.5))
    total.backward()
    for tensor in (step.logits, step.features):
        assert tensor.grad is not None and bool((tensor.grad.flatten(1).abs().sum(1) > 0).all())
    assert all(tensor.grad is None for pair in step.teachers for tensor in pair)


def test_float32_under_autocast_and_from_half_precision() -> None:
    step = Step()
    objective = Objective(ce=1, feature=1, kd=1, temperature=3.0)
    total, _ = step.loss(objective)
    with torch.autocast("cpu", torch.bfloat16):
        inside, terms = step.loss(objective)
    assert torch.equal(inside, total) and all(term.dtype == torch.float32 for term in terms.values())
    for name in ("logits", "features"):
        setattr(step, name, getattr(step, name).bfloat16())
    rounded, _ = step.loss(objective)
    assert rounded.dtype == torch.float32 and rounded.item() == pytest.approx(total.item(), rel=0.02)


def test_nothing_is_read_back_from_the_device() -> None:
    step = Step()  # a tensor on "meta" has no values: reading one, or deciding by one, raises
    step.logits, step.features, step.labels = step.logits.to("meta"), step.features.to("meta"), step.labels.to("meta")
    step.teachers = [(logits.to("meta"), features.to("meta")) for logits, features in step.teachers]
    total, terms = step.loss(Objective(ce=1, feature=1, kd=1))
    assert total.device.type == "meta" and len(terms) == 3


def test_what_an_objective_needs() -> None:
    plain, hints, soft = Objective(), Objective(ce=0.1, feature=1), Objective(ce=0.1, kd=1)
    assert [o.needs_teacher for o in (plain, hints, soft)] == [False, True, True]
    assert [o.needs_features for o in (plain, hints, soft)] == [False, True, False]
    step = Step()
    assert set(plain.loss(step.logits, None, step.labels, [])[1]) == {"ce"}
    assert "kd" in soft.loss(step.logits, None, step.labels, SLICES, [(t, None) for t, _ in step.teachers])[1]
    assert (
        "feature"
        in hints.loss(step.logits, step.features, step.labels, SLICES, [(None, f) for _, f in step.teachers])[1]
    )


def test_a_missing_teacher_or_feature_is_an_error() -> None:
    step, hints = Step(), Objective(feature=1)
    with pytest.raises(ValueError, match="student's features"):
        hints.loss(step.logits, None, step.labels, SLICES, step.teachers)
    with pytest.raises(ValueError, match="teachers: none"):
        hints.loss(step.logits, step.features, step.labels, SLICES)
    with pytest.raises(ValueError, match="4 slices, teachers: 3"):
        hints.loss(step.logits, step.features, step.labels, SLICES, step.teachers[:3])
    with pytest.raises(ValueError, match="teachers' features"):
        hints.loss(step.logits, step.features, step.labels, SLICES, [(t, None) for t, _ in step.teachers])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ce": -1}, "^ce of an objective"),
        ({"kd": float("nan")}, "^kd of an objective"),
        ({"feature": float("inf")}, "^feature of an objective"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": -2}, "temperature"),
        ({"ce": 0}, "all weights"),
    ],
)
def test_an_impossible_objective_is_an_error(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Objective(**arguments)


def test_weights_are_plain_floats_and_objectives_are_values() -> None:
    objective = Objective(ce=1, kd=np.float32(0.5), temperature=np.int64(2))  # type: ignore[arg-type]
    assert all(type(getattr(objective, name)) is float for name in ("ce", "feature", "kd", "temperature"))
    assert objective == Objective(1.0, 0.0, 0.5, 2.0) and hash(objective) == hash(Objective(1.0, 0.0, 0.5, 2.0))


def test_examples_run() -> None:
    tried = doctest.testmod(objectives)
    assert tried.attempted > 0 and tried.failed == 0
