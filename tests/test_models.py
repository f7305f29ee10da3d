import copy
import doctest
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fusiondistill.models import (
    CifarResNet,
    FeatureNetwork,
    build_model,
    cifar_resnet,
)
from fusiondistill.models import build as building
from fusiondistill.networks import torchvision as torchvision_networks

# One small member of each torchvision family, with an image size that it takes.
FAMILIES = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 16,
    "efficientnet_v2_s": 16,
    "googlenet": 32,
    "inception_v3": 75,
    "maxvit_t": 224,
    "mnasnet0_5": 16,
    "mobilenet_v2": 16,
    "mobilenet_v3_small": 16,
    "regnet_x_400mf": 16,
    "regnet_y_400mf": 16,
    "resnet18": 33,
    "resnext50_32x4d": 16,
    "shufflenet_v2_x0_5": 16,
    "squeezenet1_0": 32,
    "swin_t": 32,
    "swin_v2_t": 32,
    "vgg11_bn": 32,
    "vit_b_32": 224,
    "wide_resnet50_2": 16,
}
LARGE = ("maxvit_t", "vgg11_bn", "vit_b_32", "wide_resnet50_2")
"""Networks whose weights take long to draw."""


def randomise(model: FeatureNetwork, seed: int = 0) -> FeatureNetwork:
    """Give every tensor of a model other values than it starts with, statistics included."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.is_floating_point() and tensor.numel() < 100_000:  # larger ones are random from the start
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.02)
    return model


def expected_parameters(depth: int, classes: int) -> int:
    blocks = (depth - 2) // 6
    count = 3 * 16 * 9 + 2 * 16
    before = 16
    for channels in (16, 32, 64):
        count += before * channels * 9 + channels * channels * 9 * (2 * blocks - 1) + 2 * blocks * 2 * channels
        if before != channels:
            count += before * channels + 2 * channels
        before = channels
    return count + 256 * classes + classes


@pytest.mark.parametrize(("depth", "classes"), [(8, 10), (20, 100), (56, 100), (110, 200)])
def test_cifar_resnet_has_as_many_parameters_and_layers_as_the_formula(depth: int, classes: int) -> None:
    model = build_model(f"cifar_resnet{depth}", classes)
    assert sum(p.numel() for p in model.parameters()) == expected_parameters(depth, classes)
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) or getattr(m, "kernel_size", 0) == (3, 3)]
    assert len(layers) == depth


def slow_forward(state: dict[str, torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """METHOD's network from its weights alone, in float64, written apart from the module."""

    def conv(x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        weight = state[name + ".weight"].double()
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        of = {
            k: state[f"{name}.{k}"].double()[:, None, None] for k in ("weight", "bias", "running_mean", "running_var")
        }
        return (x - of["running_mean"]) / (of["running_var"] + 1e-5).sqrt() * of["weight"] + of["bias"]

    x = norm(conv(x.double(), "conv"), "norm").clamp(min=0)
    for stage in (1, 2, 3):
        block = 0
        while f"stage{stage}.{block}.conv1.weight" in state:
            name = f"stage{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            inner = norm(conv(x, f"{name}.conv1", stride), f"{name}.norm1").clamp(min=0)
            inner = norm(conv(inner, f"{name}.conv2"), f"{name}.norm2")
            if stride == 2:
                x = norm(conv(x, f"{name}.shortcut.0", stride), f"{name}.shortcut.1")
            x = (x + inner).clamp(min=0)
            block += 1
    side = x.shape[2] // 2
    quarters = [x[:, :, i : i + side, j : j + side].mean((2, 3)) for i in (0, side) for j in (0, side)]
    pooled = torch.stack(quarters, 2).flatten(1)
    return pooled @ state["head.weight"].double().T + state["head.bias"].double(), x


@pytest.mark.parametrize(("depth", "side"), [(8, 32), (14, 16)])
def test_cifar_resnet_computes_what_a_second_implementation_does(depth: int, side: int) -> None:
    model = randomise(build_model(f"cifar_resnet{depth}", 7)).eval()
    x = torch.randn(3, 3, side, side)
    with torch.no_grad():
        logits, feature_map = model.forward_features(x)
        slow_logits, slow_map = slow_forward(model.state_dict(), x)
        assert torch.equal(model(x), logits)
    torch.testing.assert_close(logits.double(), slow_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(feature_map.double(), slow_map, rtol=1e-4, atol=1e-4)
    assert feature_map.shape == (3, 64, side // 4, side // 4)


def test_cifar_resnet_starts_from_the_right_distributions() -> None:
    torch.manual_seed(0)
    model = CifarResNet(20, 100)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            expected = (2 / (module.out_channels * module.kernel_size[0] ** 2)) ** 0.5
            assert abs(module.weight.std().item() / expected - 1) < 5 / (2 * module.weight.numel()) ** 0.5
        elif isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all()) and bool((module.bias == 0).all())
    assert abs(model.head.weight.std().item() - 0.01) < 3e-4
    assert bool((model.head.bias == 0).all())


@pytest.mark.parametrize("shape", [(8, 8), (9, 13), (28, 28), (64, 64)])
def test_cifar_resnet_takes_any_image_size(shape: tuple[int, int]) -> None:
    logits, feature_map = build_model("cifar_resnet8", 4).forward_features(torch.randn(2, 3, *shape))
    assert logits.shape == (2, 4)
    assert feature_map.shape == (2, 64, -(-shape[0] // 4), -(-shape[1] // 4))


def test_cifar_resnet_hands_out_another_stage() -> None:
    model = build_model("cifar_resnet8", 4, feature_layer="stage2")
    x = torch.randn(2, 3, 16, 16)
    logits, feature_map = model.forward_features(x)
    assert feature_map.shape == (2, 32, 8, 8)
    assert isinstance(model, CifarResNet)
    assert torch.equal(model.head(F.adaptive_avg_pool2d(model.stage3(feature_map), 2).flatten(1)), logits)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar_resnet57", "nearest: 56 or 62"),
        ("cifar_resnet5", "nearest: 8$"),
        ("cifar_resnet", "did you mean.*cifar_resnet8"),
        ("mobilenet_v3_smal", "did you mean 'mobilenet_v3_small'"),
        ("fasterrcnn_resnet50_fpn", "no network"),
        ("qqqq", "fusiondistill list networks"),
    ],
)
def test_an_unknown_name_is_an_error_that_helps(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(name, 10)


def test_no_class_and_unknown_layers_are_errors() -> None:
    with pytest.raises(ValueError, match="at least one class"):
        build_model("cifar_resnet8", 0)
    with pytest.raises(ValueError, match="stage1, stage2, stage3"):
        build_model("cifar_resnet8", 10, feature_layer="layer4")
    with pytest.raises(ValueError, match=r"'layer5'; candidates: .*layer4.*layer4\.1"):
        build_model("resnet18", 10, feature_layer="layer5")
    with pytest.raises(ValueError, match=r"blocks\.3"):  # a ModuleList is not run, so it has no output
        build_model("maxvit_t", 10, feature_layer="blocks")
    attention = build_model("vit_b_32", 10, feature_layer="encoder.layers.encoder_layer_0.self_attention")
    with pytest.raises(ValueError, match="its output is tuple"):
        attention.forward_features(torch.randn(1, 3, 224, 224))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in FAMILIES])
def test_torchvision_networks_give_torchvisions_logits_and_features(name: str) -> None:
    from torchvision import models
    from torchvision.models.feature_extraction import create_feature_extractor

    side = FAMILIES[name]
    ours = randomise(build_model(name, 5)).eval()
    theirs = models.get_model(name, num_classes=5, **torchvision_networks._ARGUMENTS.get(name, {})).eval()
    theirs.load_state_dict(ours.state_dict())  # strict: the names are torchvision's own
    layer = next(v for k, v in torchvision_networks._FEATURE_LAYERS.items() if name.startswith(k))
    x = torch.randn(1, 3, side, side)
    with torch.no_grad():
        logits, feature_map = ours.forward_features(x)
        assert torch.equal(ours(x), logits)
        torch.testing.assert_close(logits, theirs(x), rtol=1e-4, atol=1e-4)
        expected = create_feature_extractor(theirs, eval_return_nodes=[layer], train_return_nodes=[layer])(x)[layer]
    if expected.dim() == 3:  # tokens: the map's pixel (i, j) is token 1 + i * w + j
        assert torch.equal(feature_map[0, :, 3, 4], feature_map.flatten(2)[0, :, 3 * feature_map.shape[3] + 4])
        expected = torch.stack([expected[:, 1 + i] for i in range(49)], 2).reshape(1, -1, 7, 7)
    if name == "densenet121":  # its next step is a ReLU in place, which the extractor leaves out
        expected = expected.relu()
    torch.testing.assert_close(feature_map, expected, rtol=1e-4, atol=1e-4)
    assert feature_map.dim() == 4 and logits.shape == (1, 5)


def test_every_classifier_of_torchvision_has_its_default_layer() -> None:
    with torch.device("meta"):  # shapes only: the largest has 644 million parameters
        for name in torchvision_networks.names():
            if not name.startswith("regnet"):  # works out its widths with tensors; two of them are tested above
                build_model(name, 3)


@pytest.mark.parametrize("name", ["cifar_resnet8", "resnet18", "mobilenet_v3_small"])
def test_gradients_reach_the_first_layer_through_features(name: str) -> None:
    model = build_model(name, 5)
    _, feature_map = model.forward_features(torch.randn(2, 3, 32, 32))
    feature_map.square().sum().backward()
    first = next(iter(model.parameters()))
    assert first.grad is not None and first.grad.abs().sum() > 0


def test_another_feature_layer_by_its_dotted_name() -> None:
    model = build_model("resnet18", 5, feature_layer="layer2.1").eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        _, feature_map = model.forward_features(x)
        expected = nn.Sequential(*list(model.children())[:6])(x)
    assert torch.equal(feature_map, expected)


@pytest.mark.parametrize("name", ["cifar_resnet8", "shufflenet_v2_x0_5"])
def test_copies_are_whole_and_independent(name: str) -> None:
    model = build_model(name, 5).eval()
    x = torch.randn(2, 3, 16, 16)
    expected = [t.detach() for t in model.forward_features(x)]
    for duplicate in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(torch.equal(a, b) for a, b in zip(duplicate.forward_features(x), expected, strict=True))
        randomise(duplicate)
        assert not torch.equal(duplicate.forward_features(x)[1], expected[1])
        assert all(torch.equal(a, b) for a, b in zip(model.forward_features(x), expected, strict=True))


@pytest.mark.parametrize("name", ["cifar_resnet8", "shufflenet_v2_x0_5"])
def test_compiles_into_one_graph_with_features(name: str) -> None:
    model = build_model(name, 5).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        for got, expected in zip(compiled(x, features=True), model.forward_features(x), strict=True):
            torch.testing.assert_close(got, expected)
    torch.compiler.reset()


def test_distributed_data_parallel_hands_out_features(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        for name in ("cifar_resnet8", "shufflenet_v2_x0_5"):
            parallel = nn.parallel.DistributedDataParallel(build_model(name, 5))
            logits, feature_map = parallel(torch.randn(2, 3, 16, 16), features=True)
            (logits.sum() + feature_map.sum()).backward()
            assert all(p.grad is not None for p in parallel.parameters())
    finally:
        dist.destroy_process_group()


def test_import_needs_neither_torchvision_nor_ray() -> None:
    code = (
        "import sys; import fusiondistill.state_dicts, fusiondistill.recalibration;"
        "from fusiondistill.models import build_model; build_model('cifar_resnet8', 10);"
        "print([m for m in ('torchvision', 'ray') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("module", [cifar_resnet, building])
def test_examples_run(module) -> None:  # type: ignore[no-untyped-def]
    tried = doctest.testmod(module, extraglobs={"torch": torch, "nn": nn, "build_model": build_model})
    assert tried.attempted > 0 and tried.failed == 0
