"""The copy made for speed against the classifier that it was made of."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fusiondistill.folding import InferenceClassifier, for_inference, piece_of
from fusiondistill.models import CifarResNet, Ensemble, ImageClassifier, build_model

SIDES = {"vit_b_16": 224, "maxvit_t": 224, "inception_v3": 96}


def classifier(name: str, seed: int = 0, classes: int = 7) -> ImageClassifier:
    """A classifier whose BatchNorms have statistics, scales and shifts that matter."""
    torch.manual_seed(seed)
    network = build_model(name, classes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
        last = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
        last.weight.normal_(0, 0.05, generator=generator)
    names = [f"class {i}" for i in range(classes)]
    return ImageClassifier(network, (120.0, 110.0, 100.0), (60.0, 61.0, 62.0), names).eval()


def pictures(n: int, side: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("cifar_resnet8", 0), ("cifar_resnet20", 0), ("resnet18", 0), ("mobilenet_v3_small", 0), ("densenet121", 62),
        ("efficientnet_b0", 0), ("shufflenet_v2_x0_5", 0), ("googlenet", 0), ("regnet_y_400mf", 0),
        ("inception_v3", 0), ("convnext_tiny", 0), ("swin_t", 0), ("squeezenet1_1", 0),
        *(pytest.param(name, 0, marks=pytest.mark.slow) for name in ("vgg11_bn", "vit_b_16")),  # 100 million weights
    ],
)  # fmt: skip
@torch.no_grad()
def test_the_copy_gives_the_same_logits_and_leaves_the_original_alone(name: str, left: int) -> None:
    model = classifier(name)
    images = pictures(3, SIDES.get(name, 32))
    before = copy.deepcopy(model.state_dict())
    expected, feature_map = model.forward_features(images)
    fast = for_inference(model)
    got = fast(images)
    assert got.dtype == torch.float32 and got.shape == (3, 7)
    assert float(expected.std(0).mean()) > 0  # the images differ, so a constant would be noticed
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert norms(fast) == left
    assert fast.classes == model.classes
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)
    again, same_map = model.forward_features(images)
    assert torch.equal(again, expected) and torch.equal(same_map, feature_map)  # its feature map is still to be had


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@torch.no_grad()
def test_a_reduced_precision_answers_in_float32_and_roughly_alike(precision: str) -> None:
    model, images = classifier("cifar_resnet20"), pictures(40, 32)
    expected, got = model(images), for_inference(model, precision=precision)(images)
    assert got.dtype == torch.float32
    assert 0 < float((got - expected).abs().max() / expected.abs().max()) < 0.05
    with pytest.raises(ValueError, match="fp8"):
        for_inference(model, precision="fp8")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@torch.no_grad()
def test_an_images_logits_do_not_depend_on_its_batch(precision: str) -> None:
    fast, images = for_inference(classifier("cifar_resnet20"), precision=precision), pictures(75, 32)
    whole = fast(images)
    order = torch.randperm(75, generator=torch.Generator().manual_seed(2))
    assert torch.equal(fast(images[order]), whole[order])
    for size in (2, 7, 50):
        assert torch.equal(torch.cat([fast(part) for part in images.split(size)]), whole)
    assert fast(images[:0]).shape == (0, 7)


@torch.no_grad()
def test_an_ensemble_of_copies_votes_alike() -> None:
    models, images = [classifier("cifar_resnet8", seed) for seed in range(3)], pictures(50, 16)
    fast = for_inference(Ensemble(models))
    assert isinstance(fast, Ensemble) and all(isinstance(one, InferenceClassifier) for one in fast.models)
    assert torch.equal(fast(images).argmax(1), Ensemble(models)(images).argmax(1))
    assert fast.classes == models[0].classes
    with pytest.raises(TypeError, match="Linear"):
        for_inference(nn.Linear(2, 2))


class Awkward(CifarResNet):
    """Cannot be traced, since it looks at its pixels."""

    def forward(self, x: torch.Tensor, features: bool = False) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """As a CIFAR ResNet."""
        return super().forward(x if x.mean() > -1e9 else -x, features)


class Twice(CifarResNet):
    """Calls its first convolution for two readers, and one BatchNorm for two convolutions."""

    def forward(self, x: torch.Tensor, features: bool = False) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Logits of a mixture."""
        seen = self.conv(x)
        x = self.norm(seen) + seen
        x = self.stage1[0].norm1(self.stage1[0].conv1(x)) + self.stage1[0].norm1(self.stage1[0].conv2(x))
        x = self.stage3(self.stage2(x))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


@pytest.mark.parametrize(("kind", "left"), [(Awkward, 9), (Twice, 2)])
@torch.no_grad()
def test_what_cannot_be_folded_is_right_all_the_same(kind: type[CifarResNet], left: int) -> None:
    donor = classifier("cifar_resnet8")
    network = kind(8, 7)
    network.load_state_dict(donor.network.state_dict())
    model = ImageClassifier(network, (120, 110, 100), (60, 61, 62), donor.classes).eval()
    fast = for_inference(model)
    torch.testing.assert_close(fast(pictures(9, 16)), model(pictures(9, 16)), rtol=1e-4, atol=1e-4)
    assert norms(fast) == left


def test_pieces_are_of_one_size_and_small_enough_for_the_cache() -> None:
    sizes: list[int] = []
    fast = for_inference(classifier("cifar_resnet8"))
    assert isinstance(fast, InferenceClassifier)
    fast.network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    fast(pictures(70, 32))
    assert sizes == [32, 32, 32]
    sides = {8: 64, 16: 64, 32: 32, 64: 8, 224: 8}
    assert {side: piece_of(Ensemble([fast, fast]), side, side) for side in sides} == sides
    assert piece_of(classifier("cifar_resnet8"), 32, 32) == 1
    with pytest.raises(TypeError, match="uint8"):
        fast(torch.zeros(2, 3, 8, 8))
