"""Evaluation against one image at a time, and its independence of the batch size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from conftest import Images
from fusiondistill import build_model, load_images
from fusiondistill.data import ImageSet
from fusiondistill.degradations import DEGRADATIONS, degrade
from fusiondistill.evaluation import Conditions, evaluate, judge, judge_images, mixed_batches, predict, validate
from fusiondistill.folding import for_inference
from fusiondistill.models import Ensemble, ImageClassifier
from fusiondistill.randomness import key

FOUR = ("jpeg", "blur", "noise", "saltpepper")
LEVELS = {"jpeg": (1, 60, 101), "blur": (0, 7, 50), "noise": (0, 25, 50), "saltpepper": (0, 3, 25)}


def resnet(images: ImageSet, seed: int = 0) -> ImageClassifier:
    """A ResNet-8 with statistics of its own, whose answers differ from image to image."""
    torch.manual_seed(seed)
    network = build_model("cifar_resnet8", len(images.classes))
    for _ in range(3):
        network(torch.randn(16, 3, 8, 8))
    nn.init.normal_([module for module in network.modules() if isinstance(module, nn.Linear)][-1].weight)
    return ImageClassifier(network, images.mean, images.std, images.classes).eval()


@pytest.mark.parametrize("protocol", ["standard", "paper"])
@pytest.mark.parametrize("name", FOUR)
def test_counts_are_those_of_a_loop_over_images(tiny: Images, name: str, protocol: str) -> None:
    images = tiny(23)
    model = resnet(images)
    right, seen = evaluate(model, images, name, LEVELS[name], seed=7, batch_size=10, protocol=protocol)
    expected = []
    for level in LEVELS[name]:
        count = 0
        for i in range(23):
            pixels = degrade(images.images[i : i + 1], name, level, seed=7, indices=[i], protocol=protocol)
            normalised = (pixels.double() - torch.tensor(images.mean).double().view(3, 1, 1)) / torch.tensor(
                images.std
            ).double().view(3, 1, 1)
            logits = model.network(normalised.float())[0]
            count += int(np.argmax(logits.detach().numpy())) == int(images.labels[i])
        expected.append(count)
    assert right.tolist() == expected and seen.tolist() == [23] * 3
    assert right.dtype == seen.dtype == torch.int64


@pytest.mark.parametrize("name", FOUR)
def test_predictions_do_not_depend_on_the_batch_size(tiny: Images, name: str) -> None:
    images = tiny(201, 16, 16, classes=10)  # a tail of one image for 2, 100 and 200
    # As evaluations have it: of a plain network the logits are those of the kernel that a processor has for a batch.
    model = for_inference(resnet(images))
    scores: dict[int, list[torch.Tensor]] = {}
    collected: list[torch.Tensor] = []
    model.register_forward_hook(lambda module, inputs, output: collected.append(output))
    answers = []
    for size in (2, 3, 7, 100, 200, 201, 500):
        collected.clear()
        answers.append(predict(model, images, Conditions(name, LEVELS[name], seed=3, batch_size=size)))
        per_level = [torch.cat(collected[i::3])[:201] for i in range(3)]
        scores[size] = per_level
    assert answers[0].shape == (3, 201) and len(answers[0].unique()) > 3
    assert all(torch.equal(answers[0], other) for other in answers[1:])
    for size, per_level in scores.items():
        for level in range(3):
            assert torch.equal(per_level[level], scores[201][level]), f"logits of batches of {size} differ"


def test_no_image_goes_through_alone(tiny: Images) -> None:
    images = tiny(5)
    sizes: list[int] = []
    model = resnet(images)
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    predict(model, images, Conditions("noise", [0], seed=0, batch_size=2))
    validate(model.network, images, (), seed=0, device=torch.device("cpu"), protocol="standard", batch_size=4)
    assert sizes == [2, 2, 2]
    with pytest.raises(ValueError, match="at least 2"):
        predict(model, images, Conditions("noise", [0], seed=0, batch_size=1))


def test_a_model_left_in_training_mode_is_judged_in_eval_mode(tiny: Images) -> None:
    images = tiny(40)
    model = resnet(images)
    before = [tensor.clone() for tensor in model.state_dict().values()]
    expected = predict(model, images, Conditions("blur", [3], seed=0, batch_size=7))
    assert torch.equal(predict(model.train(), images, Conditions("blur", [3], seed=0, batch_size=7)), expected)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before, strict=True))


def by_hand(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Mean negative log-likelihood and calibration error of one level: formulas in plain numpy, bins in a loop."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = shifted / shifted.sum(1, keepdims=True)
    likelihood = probabilities[np.arange(len(labels)), labels]
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels
    error = 0.0
    for m in range(1, 16):
        inside = (sure > (m - 1) / 15) & (sure <= m / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    return float(-np.log(likelihood).mean()), float(error)


@pytest.mark.parametrize("fast", [False, True])
def test_likelihoods_and_calibration_are_those_of_the_formulas(tiny: Images, fast: bool) -> None:
    images = tiny(150, 16, 16, classes=10)
    plain = resnet(images)
    model = for_inference(plain) if fast else plain
    judged = judge(model, images, Conditions("noise", LEVELS["noise"], seed=4, batch_size=40))
    assert judged.nll is not None and judged.confidence is not None
    assert [tensor.dtype for tensor in judged[:3]] == [torch.int64, torch.float32, torch.float32]
    assert {tensor.shape for tensor in judged[:3]} == {(3, 150)}
    assert torch.equal(
        judged.predictions, predict(model, images, Conditions("noise", LEVELS["noise"], seed=4, batch_size=40))
    )
    errors, means = judged.calibration_error(images.labels), judged.mean_nll()
    for row, level in enumerate(LEVELS["noise"]):
        with torch.no_grad():
            logits = plain(degrade(images.images, "noise", level, seed=4)).double().numpy()
        nll, error = by_hand(logits, images.labels.numpy())
        assert means[row] == pytest.approx(nll, rel=1e-5)
        assert errors[row] == pytest.approx(error, abs=1e-5)
    assert len(set(errors)) == len(set(means)) == 3


def test_a_vote_has_no_likelihood_and_a_broken_network_no_finite_one(tiny: Images) -> None:
    images = tiny(20)
    judged = judge(
        Ensemble([resnet(images, seed) for seed in (0, 1)]), images, Conditions("blur", [0, 9], seed=0, batch_size=5)
    )
    assert judged.nll is None and judged.confidence is None and judged.predictions.shape == (2, 20)
    assert judged.mean_nll() == judged.calibration_error(images.labels) == [None, None]
    broken = resnet(images)
    nn.init.constant_(broken.network.head.weight, torch.inf)  # type: ignore[arg-type, union-attr]
    judged = judge(broken, images, Conditions("blur", [0], seed=0, batch_size=5))
    assert judged.mean_nll() == judged.calibration_error(images.labels) == [None]


def test_images_that_are_degraded_already_are_judged_alike(tiny: Images) -> None:
    images = tiny(33)
    model = for_inference(resnet(images))
    degraded = [degrade(images.images, "jpeg", level, seed=0) for level in (5, 50)]
    expected = judge(model, images, Conditions("jpeg", [5, 50], seed=0, batch_size=500))
    for size in (2, 32, 500):
        got = judge_images(model, degraded, images.labels, batch_size=size)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True) if a is not None and b is not None)
    with pytest.raises(ValueError, match=r"33 labels for levels of \[33, 32\] images"):
        judge_images(model, [degraded[0], degraded[1][1:]], images.labels, batch_size=7)


@pytest.mark.parametrize("name", ["cifar_resnet20", "resnet18"])
def test_answers_on_photographs_are_the_same_for_any_batch_size_and_number_of_threads(name: str) -> None:
    root = Path(os.environ.get("FUSIONDISTILL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (root / "cifar-100-python").exists():
        pytest.skip(f"no CIFAR-100 in {root}; set FUSIONDISTILL_TEST_DATA")
    images = load_images("cifar100", "test", root / "cifar-100-python").take(139)
    torch.manual_seed(0)
    network = build_model(name, 100)
    pixels = (images.images.float() - 120) / 70
    with torch.no_grad():  # statistics and a head as after training, so that the answers differ
        for part in pixels.split(47):
            network(part)
        head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
        nn.init.normal_(head.weight)
        head.bias -= network.eval()(pixels).mean(0)
    model = for_inference(ImageClassifier(network, (120,) * 3, (70,) * 3, images.classes).eval())
    found = []
    for threads, sizes in ((1, (2, 7, 100, 128, 500)), (2, (7, 500))):
        torch.set_num_threads(threads)
        found += [judge(model, images, Conditions("noise", [0, 30], seed=1, batch_size=size)) for size in sizes]
    assert len(found[0].predictions.unique()) > 20
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0][:3], other[:3], strict=True))  # type: ignore[arg-type]
        assert other.mean_nll() == found[0].mean_nll()


@pytest.mark.parametrize("batch_size", [2, 5, 500])
def test_validation_is_a_loop_over_images_at_one_level_each(tiny: Images, batch_size: int) -> None:
    images = tiny(21)
    model = resnet(images)
    got = validate(
        model.network, images, FOUR, seed=9, device=torch.device("cpu"), protocol="paper", batch_size=batch_size
    )
    for name in FOUR:
        levels = DEGRADATIONS[name].levels
        drawn = []
        for i in range(21):
            level = levels[_bits(key(9, "validation level", name), i) % len(levels)]
            pixels = degrade(
                images.images[i : i + 1], name, level, seed=key(9, "validation"), indices=[i], protocol="paper"
            )
            assert bool(got[name][i]) == (int(model(pixels).argmax()) == int(images.labels[i]))
            drawn.append(level)
        assert len(set(drawn)) > 10
    clean = validate(model.network, images, (), seed=9, device=torch.device("cpu"), protocol="standard")
    assert list(clean) == ["clean"]
    assert torch.equal(clean["clean"], model(images.images).argmax(1) == images.labels)


def test_large_images_are_validated_a_few_at_a_time(tiny: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    images, sizes = tiny(21), list[int]()
    network = resnet(images).network
    network.register_forward_hook(lambda module, given, found: sizes.append(len(given[0])))
    settings: dict[str, Any] = {"seed": 9, "device": torch.device("cpu"), "protocol": "standard"}
    once = validate(network, images, ("blur",), **settings)
    monkeypatch.setattr("fusiondistill.evaluation.VALIDATED", 8 * images.images[0].numel())
    assert torch.equal(validate(network, images, ("blur",), **settings)["blur"], once["blur"])
    assert sizes == [21, 8, 8, 5]


def _bits(address: int, counter: int) -> int:
    mask = 2**64 - 1
    x = (counter * 0x9E3779B97F4A7C15 + address) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return (x ^ (x >> 31)) >> 11


def test_mixed_batches_hold_every_degradation_in_equal_parts(tiny: Images) -> None:
    images = tiny(21)

    def pixels(size: int, names: tuple[str, ...]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(
            mixed_batches(images, names, seed=1, device=torch.device("cpu"), protocol="standard", batch_size=size)
        )

    batches = pixels(8, FOUR)
    assert [len(x) for x, _ in batches] == [32, 32, 20]
    assert torch.equal(batches[1][1], images.labels[8:16].repeat(4))
    for d, name in enumerate(FOUR):  # the same as for one degradation alone in one batch
        together = torch.cat([x[d * len(x) // 4 : (d + 1) * len(x) // 4] for x, _ in batches])
        ((alone, labels),) = pixels(21, (name,))
        assert torch.equal(together, alone) and torch.equal(labels, images.labels)
    ((clean, _),) = pixels(21, ("jpeg",))
    plain = (images.images - torch.tensor(images.mean).view(3, 1, 1)) / torch.tensor(images.std).view(3, 1, 1)
    assert 0 < float((clean - plain).abs().mean()) < 1  # degraded, not augmented: no crop, no flip
