import doctest
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusiondistill import losses, objectives
from fusiondistill.losses import LOSSES, Needs, Outputs, needs
from fusiondistill.losses import feature as feature_file
from fusiondistill.losses import kd as kd_file
from fusiondistill.losses.dkd import decoupled
from fusiondistill.losses.feature import cosine_feature_loss
from fusiondistill.losses.kd import softened_kl
from fusiondistill.objectives import Objective
from fusiondistill.plugins import load_plugins, read_plugins
from fusiondistill.recipe import Loss

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


def objective(ce: float, feature: float, kd: float) -> Objective:
    """The three weights, at temperature 3."""
    return Objective({"ce": ce, "feature": feature, "kd": {"weight": kd, "temperature": 3.0}})


class Step:
    """Random outputs of a student and of four teachers on 16 images."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.logits = torch.randn(16, 7, generator=generator)
        self.features = torch.randn(16, 3, 2, 2, generator=generator).relu() + 0.01
        self.labels = torch.randint(0, 7, (16,), generator=generator)
        self.teachers = [
            Outputs(torch.randn(s.stop - s.start, 7, generator=generator), torch.rand(s.stop - s.start, 3, 2, 2))
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
    total, terms = step.loss(objective(*weights))
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
    total, _ = step.loss(objective(0.1, 1.0, 0.5))
    total.backward()
    for tensor in (step.logits, step.features):
        assert tensor.grad is not None and bool((tensor.grad.flatten(1).abs().sum(1) > 0).all())
    assert all(tensor.grad is None for pair in step.teachers for tensor in pair)


def test_float32_under_autocast_and_from_half_precision() -> None:
    step = Step()
    whole = Objective({"ce": 1, "feature": 1, "kd": {"weight": 1, "temperature": 3.0}, "dkd": 1})
    total, _ = step.loss(whole)
    with torch.autocast("cpu", torch.bfloat16):
        inside, terms = step.loss(whole)
    assert torch.equal(inside, total) and all(term.dtype == torch.float32 for term in terms.values())
    for name in ("logits", "features"):
        setattr(step, name, getattr(step, name).bfloat16())
    rounded, _ = step.loss(whole)
    assert rounded.dtype == torch.float32 and rounded.item() == pytest.approx(total.item(), rel=0.02)


def test_nothing_is_read_back_from_the_device() -> None:
    step = Step()  # a tensor on "meta" has no values: reading one, or deciding by one, raises
    step.logits, step.features, step.labels = step.logits.to("meta"), step.features.to("meta"), step.labels.to("meta")
    step.teachers = [Outputs(logits.to("meta"), features.to("meta")) for logits, features in step.teachers]
    total, terms = step.loss(Objective({"ce": 1, "feature": 1, "kd": 1, "dkd": 1}))
    assert total.device.type == "meta" and len(terms) == 4


def test_what_an_objective_needs() -> None:
    plain, hints, soft = Objective({}), Objective({"ce": 0.1, "feature": 1}), Objective({"ce": 0.1, "kd": 1})
    assert [o.needs.teacher for o in (plain, hints, soft)] == [False, True, True]
    assert [o.needs.features for o in (plain, hints, soft)] == [False, True, False]
    step = Step()
    assert set(plain.loss(step.logits, None, step.labels, [])[1]) == {"ce"}
    assert "kd" in soft.loss(step.logits, None, step.labels, SLICES, [Outputs(t, None) for t, _ in step.teachers])[1]
    assert (
        "feature"
        in hints.loss(step.logits, step.features, step.labels, SLICES, [Outputs(None, f) for _, f in step.teachers])[1]
    )


def test_a_missing_teacher_or_feature_is_an_error() -> None:
    step, hints = Step(), Objective({"feature": 1})
    with pytest.raises(ValueError, match="student's features"):
        hints.loss(step.logits, None, step.labels, SLICES, step.teachers)
    with pytest.raises(ValueError, match="teachers: none"):
        hints.loss(step.logits, step.features, step.labels, SLICES)
    with pytest.raises(ValueError, match="4 slices, teachers: 3"):
        hints.loss(step.logits, step.features, step.labels, SLICES, step.teachers[:3])
    with pytest.raises(ValueError, match="teachers' features"):
        hints.loss(step.logits, step.features, step.labels, SLICES, [Outputs(t, None) for t, _ in step.teachers])


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"ce": -1}, r"^1 validation error.*\nce\n.*greater than or equal to 0"),
        ({"kd": float("nan")}, r"\nkd\n.*finite"),
        ({"feature": float("inf")}, r"\nfeature\n.*finite"),
        ({"kd": {"weight": 1, "temperature": 0}}, r"\nkd\.temperature\n.*greater than 0"),
        ({"dkd": {"weight": 1, "beta": -2}}, r"\ndkd\.beta\n"),
        ({"ce": 0}, "all weights are 0"),
    ],
)
def test_an_impossible_objective_is_an_error(loss: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Objective(loss)


def test_the_order_of_a_file_changes_no_sum() -> None:
    one = Objective({"dkd": 0.1, "kd": 0.2, "feature": 0.3, "ce": 0.4})
    assert one.names == ("ce", "feature", "kd", "dkd")
    assert Objective(Loss({"kd": 0.2})).names == ("ce", "kd")


def test_what_losses_need_is_said_without_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from fusiondistill.losses import LOSSES, needs; from fusiondistill.merging import MERGING;"
        "assert needs({'dkd': 1, 'feature': 0}) == (True, False, True);"
        "[entry.parameters for registry in (LOSSES, MERGING) for entry in registry.values()];"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert needs({}) == needs({"kd": 0}) == Needs(False, False, False)
    assert needs({"feature": {"weight": 1.0}}) == Needs(True, True, False)
    assert needs({"ce": 1, "feature": 1}) == Needs(True, True, True)


def slow_dkd(student: np.ndarray, teacher: np.ndarray, label: int, temperature: float) -> tuple[float, float, float]:
    """(TCKD, NCKD, the teacher's probability of the label) of one image, in plain softmaxes of float64."""
    p, q = softmax(teacher.tolist(), temperature), softmax(student.tolist(), temperature)
    target = p[label] * math.log(p[label] / q[label]) + (1 - p[label]) * math.log((1 - p[label]) / (1 - q[label]))
    rest = [i for i in range(len(p)) if i != label]
    p_rest, q_rest = softmax(teacher[rest].tolist(), temperature), softmax(student[rest].tolist(), temperature)
    return target, sum(a * math.log(a / b) for a, b in zip(p_rest, q_rest, strict=True)), p[label]


@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(1.0, 8.0, 4.0), (0.5, 2.0, 1.0), (0.0, 1.0, 0.7)])
def test_dkd_is_the_papers_formula(alpha: float, beta: float, temperature: float) -> None:
    step = Step()
    weights = {"weight": 2.0, "alpha": alpha, "beta": beta, "temperature": temperature}
    total, terms = step.loss(Objective({"ce": 0, "dkd": weights}))
    expected = 0.0
    for part, (logits, _) in zip(SLICES, step.teachers, strict=True):
        parts = [
            slow_dkd(own.double().numpy(), theirs.double().numpy(), label, temperature)
            for own, theirs, label in zip(step.logits[part], logits, step.labels[part].tolist(), strict=True)
        ]
        expected += temperature**2 * sum(alpha * target + beta * rest for target, rest, _ in parts) / len(parts)
    assert terms["dkd"].item() == pytest.approx(expected, rel=1e-4)
    assert total.item() == pytest.approx(2 * expected, rel=1e-4)
    assert LOSSES["dkd"].resolve({}) == {"alpha": 1.0, "beta": 8.0, "temperature": 4.0, "standardise": False}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kd_is_its_two_parts_put_together_again(temperature: float) -> None:
    """KD = TCKD + (1 - p_t) NCKD, image by image (Zhao et al., equation 7)."""
    student, teacher = torch.randn(2, 9, 6).unbind()
    labels = torch.arange(9) % 6
    target, rest = decoupled(student, teacher, labels, temperature)
    p_t = (teacher / temperature).softmax(1).gather(1, labels[:, None])[:, 0]
    whole = temperature**2 * (target + (1 - p_t) * rest).mean()
    torch.testing.assert_close(whole, softened_kl(student, teacher, temperature), rtol=1e-4, atol=1e-5)


def test_dkd_stands_extreme_logits_and_has_the_gradient_of_differences() -> None:
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    target, rest = decoupled(student, torch.tensor([[-1e4, 1e4, 0.0]]), torch.tensor([0]), 1.0)
    (target + rest).sum().backward()
    assert student.grad is not None and bool(student.grad.isfinite().all() and target.isfinite().all())
    same, alike = decoupled(torch.randn(3, 5), torch.randn(3, 5), torch.arange(3), 2.0)
    assert bool((same >= 0).all() and (alike >= 0).all())
    two, nothing = decoupled(torch.randn(3, 2), torch.randn(3, 2), torch.tensor([0, 1, 1]), 2.0)
    assert bool((two > 0).all()) and nothing.tolist() == [0, 0, 0]
    for bad in (torch.zeros(3, 4), torch.zeros(3, 1)):
        with pytest.raises(ValueError, match=r"differ|at least 2 classes"):
            decoupled(bad, torch.zeros(3, bad.shape[1] % 4), torch.zeros(3, dtype=torch.int64), 1.0)


@pytest.fixture
def plugged() -> Iterator[None]:
    load_plugins(read_plugins([str(Path(__file__).parent / "plugins" / "margin.py")]))
    yield
    LOSSES.forget("margin.py")


@pytest.mark.usefixtures("plugged")
def test_terms_of_a_plugin_are_called_as_they_say() -> None:
    step = Step()
    loss = {"ce": 0, "margin": {"weight": 0.5, "width": 2.0}, "squared": 3.0}
    total, terms = step.loss(Objective(loss))
    own = step.logits.numpy()
    wide = np.maximum(0, 2.0 + own - own[np.arange(16), step.labels.numpy()][:, None]).mean()
    parts = zip(SLICES, step.teachers, strict=True)
    squared = sum(((own[part] - logits.numpy()) ** 2).mean() for part, (logits, _) in parts)
    assert terms["margin"].item() == pytest.approx(wide, rel=1e-5)
    assert terms["squared"].item() == pytest.approx(squared, rel=1e-5)
    assert total.item() == pytest.approx(0.5 * wide + 3 * squared, rel=1e-5)
    assert needs({"margin": 1}) == Needs(False, False, True) and Loss(loss).needs == Needs(True, False, True)
    with pytest.raises(ValueError, match=r"'whole' \(plugin .*margin\.py, line 24\) must be one number, not of shape"):
        Objective({"whole": 1}).loss(step.logits, step.features, step.labels, [slice(0, 5)] * 1, step.teachers[:1])
    with pytest.raises(ValueError, match=r"\nmargin\.width\n"):
        Objective({"margin": {"weight": 1, "width": 0}})


def test_a_term_says_one_of_three_needs() -> None:
    with pytest.raises(ValueError, match="'odd' says needs='everything': it must be one of nothing, logits, feat"):
        LOSSES.register("odd", needs="everything")


@pytest.mark.parametrize("module", [objectives, losses, feature_file, kd_file])
def test_examples_run(module: Any) -> None:
    tried = doctest.testmod(module, extraglobs={"torch": torch})
    assert tried.attempted > 0 and tried.failed == 0
