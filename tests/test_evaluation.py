"""Evaluation against one image at a time, and its independence of the batch size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import Images
from torch import nn

from fusiondistill import build_model
from fusiondistill.data import ImageSet
from fusiondistill.degradations import DEGRADATIONS, degrade
from fusiondistill.evaluation import evaluate, mixed_batches, predict, validate
from fusiondistill.models import ImageClassifier
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
    model = resnet(images)
    scores: dict[int, list[torch.Tensor]] = {}
    collected: list[torch.Tensor] = []
    model.register_forward_hook(lambda module, inputs, output: collected.append(output))
    answers = []
    for size in (2, 3, 7, 100, 200, 201, 500):
        collected.clear()
        answers.append(predict(model, images, name, LEVELS[name], seed=3, batch_size=size))
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
    predict(model, images, "noise", [0], seed=0, batch_size=2)
    validate(model.network, images, (), seed=0, device=torch.device("cpu"), protocol="standard", batch_size=4)
    assert sizes == [2, 2, 2]
    with pytest.raises(ValueError, match="at least 2"):
        predict(model, images, "noise", [0], seed=0, batch_size=1)


def test_a_model_left_in_training_mode_is_judged_in_eval_mode(tiny: Images) -> None:
    images = tiny(40)
    model = resnet(images)
    before = [tensor.clone() for tensor in model.state_dict().values()]
    expected = predict(model, images, "blur", [3], seed=0, batch_size=7)
    assert torch.equal(predict(model.train(), images, "blur", [3], seed=0, batch_size=7), expected)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before, strict=True))


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
