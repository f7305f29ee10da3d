"""Test-time BatchNorm adaptation: the formula, groups, the last one, networks without BatchNorm, order and batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from fusiondistill.data import ImageSet
from fusiondistill.evaluation import Conditions, judge, judge_images
from fusiondistill.folding import for_inference
from fusiondistill.inference import INFERENCE, combined
from fusiondistill.models import ImageClassifier, build_model
from fusiondistill.models.whole import Whole
from fusiondistill.randomness import key, permutation

CLASSES = [str(i) for i in range(4)]


class Normed(nn.Module):
    """A BatchNorm, and the mean over the image."""

    def __init__(self, momentum: float = 0.1) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, momentum=momentum)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.norm(images.float())[:, :, 0, 0]
        return scores


def network() -> ImageClassifier:
    torch.manual_seed(0)
    made = build_model("cifar_resnet8", 4)
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()  # type: ignore[union-attr]
            layer.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return ImageClassifier(made, (120.0,) * 3, (60.0,) * 3, CLASSES).eval()


def whole(images: int = 8, **parameters: float) -> Whole:
    answers = combined("adapt", {"model": network()}, {"images": images, **parameters})
    return Whole(answers, CLASSES, "logits", transductive=True)


@pytest.mark.parametrize("prior", [0.0, 16.0])
def test_statistics_are_those_of_the_formula_group_by_group(tiny: Callable[..., ImageSet], prior: float) -> None:
    plain = Normed().eval()
    plain.norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))  # type: ignore[union-attr]
    plain.norm.running_var.copy_(torch.tensor([4.0, 5.0, 6.0]))  # type: ignore[union-attr]
    adapted = combined("adapt", {"model": plain}, {"images": 8, "prior": prior})
    pixels = tiny(19, 16, 16).gather(range(19))[0]
    x = pixels.double().numpy()
    expected = []
    for start in (0, 8, 16):
        part = x[start : start + 8]
        n = len(part)
        mean = (prior * np.array([1.0, 2, 3]) + n * part.mean((0, 2, 3))) / (prior + n)
        variance = (prior * np.array([4.0, 5, 6]) + n * part.var((0, 2, 3))) / (prior + n)
        expected.append((part[:, :, 0, 0] - mean) / np.sqrt(variance + 1e-5))
    for _ in range(2):  # nothing of a group stays behind
        np.testing.assert_allclose(adapted(pixels).detach().numpy(), np.concatenate(expected), rtol=1e-4, atol=1e-4)
    assert plain.norm.running_mean.tolist() == [1.0, 2.0, 3.0]  # type: ignore[union-attr,operator]


def test_no_batch_size_changes_an_answer_and_nothing_is_folded(tiny: Callable[..., ImageSet]) -> None:
    images = tiny(25, 16, 16, classes=4)  # 3 groups of 8, and one image that is left
    model = for_inference(whole())
    found = [judge(model, images, Conditions("noise", [0, 30], 3, size)) for size in (2, 8, 24, 500)]
    assert all(torch.equal(one.predictions, found[0].predictions) for one in found)
    assert all(torch.equal(one.nll, found[0].nll) for one in found if one.nll is not None and found[0].nll is not None)
    plain = judge(for_inference(network()), images, Conditions("noise", [0, 30], 3, 8))
    assert plain.nll is not None and found[0].nll is not None
    assert float((plain.nll - found[0].nll).abs().min()) > 1e-5
    levels = [images.gather(range(25))[0]] * 2
    given = [judge_images(model, levels, images.labels, batch_size=size) for size in (8, 25)]
    assert torch.equal(given[0].predictions, given[1].predictions)
    assert torch.equal(given[0].predictions[0], given[0].predictions[1])
    assert torch.equal(given[0].predictions[0], found[0].predictions[0])  # level 0 of noise, in the same order


def test_a_set_that_is_sorted_by_class_is_taken_in_a_random_order(tiny: Callable[..., ImageSet]) -> None:
    images = tiny(24, 16, 16, classes=4)
    model = whole()
    found = judge(model, images, Conditions("noise", [20], 3, 24)).nll
    shown = Conditions("noise", [20], 3, 24).shown(images.gather(range(24))[0], torch.arange(24), 20)
    with torch.no_grad():
        in_order, shuffled = (
            -model(shown[rows]).log_softmax(1)[torch.arange(24), images.labels[rows]]
            for rows in (torch.arange(24), permutation(key("together"), 24))
        )
    assert found is not None and float((found[0] - in_order).abs().max()) > 1e-4
    torch.testing.assert_close(found[0].sort().values, shuffled.sort().values, atol=1e-5, rtol=1e-5)


def test_a_network_without_batchnorm_answers_as_it_is() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    adapted = combined("adapt", {"model": plain})
    images = torch.rand(40, 3, 2, 2)
    torch.testing.assert_close(adapted(images), plain(images))
    assert getattr(adapted, "layers", None) == 0


def test_what_it_is_for_is_said() -> None:
    entry = INFERENCE["adapt"]
    assert entry.one and entry.transductive and entry.whole and entry.passes(1) == 1
    assert "transductive" in entry.notes()[0] and "fitted" in INFERENCE["router"].notes()[0]
    with pytest.raises(ValueError, match="takes one network, not 2"):
        combined("adapt", {"a": nn.Identity(), "b": nn.Identity()})
    with pytest.raises(ValueError, match="is one network's"):
        INFERENCE.register("mine", one=True, told=True)
