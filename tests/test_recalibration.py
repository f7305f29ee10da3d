import doctest

import numpy as np
import pytest
import torch
from torch import nn

from fusiondistill import recalibration
from fusiondistill.models import build_model
from fusiondistill.recalibration import recalibrate_batchnorm
from toy_network import toy


def slow_pooled(model: nn.Module, batches: list[torch.Tensor]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Statistics of the toy's two BatchNorms: values of all batches in one array, normalised batch by batch between."""
    conv1, norm1, conv2 = model[0], model[1], model[4]  # type: ignore[index]
    first, second = [], []
    for batch in batches:
        x = conv1(batch).double().detach()
        first.append(x.transpose(0, 1).flatten(1).numpy())
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        weight, bias = (p.detach().double().view(1, -1, 1, 1) for p in (norm1.weight, norm1.bias))
        x = ((x - mean) / (variance + 1e-5).sqrt() * weight + bias).clamp(min=0)  # no dropout
        x = torch.einsum("oi,bihw->bohw", conv2.weight.detach()[:, :, 0, 0].double(), x)
        x = x + conv2.bias.detach().double().view(1, -1, 1, 1)
        second.append(x.transpose(0, 1).flatten(1).numpy())
    return [(v.mean(1), v.var(1, ddof=1)) for v in (np.concatenate(first, 1), np.concatenate(second, 1))]


def test_recalibration_pools_batches_of_different_sizes() -> None:
    model = toy(0)
    batches = [torch.randn(size, 3, 6, 6) * (i + 1) + i for i, size in enumerate((2, 16, 5))]
    expected = slow_pooled(model, batches)
    assert recalibrate_batchnorm(model, iter(batches)) is model
    for index, (mean, variance) in zip((1, 5), expected, strict=True):
        np.testing.assert_allclose(model.get_buffer(f"{index}.running_mean").numpy(), mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(model.get_buffer(f"{index}.running_var").numpy(), variance, rtol=1e-4)
        assert model.get_buffer(f"{index}.num_batches_tracked").item() == 3


def test_recalibration_on_one_batch_is_pytorchs_own() -> None:
    ours, theirs = build_model("cifar_resnet8", 10), build_model("cifar_resnet8", 10)
    theirs.load_state_dict(ours.state_dict())
    batch = torch.randn(16, 3, 16, 16)
    torch.optim.swa_utils.update_bn([batch], theirs)
    recalibrate_batchnorm(ours, [batch])
    for (key, got), want in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(got, want, msg=key)


def test_recalibration_cures_an_average_of_far_networks() -> None:
    """After it, eval mode normalises like training on the same images; the statistics from before do not count."""
    model = toy(3)
    model.get_buffer("1.running_mean").fill_(float("nan"))
    batch = torch.randn(400, 3, 6, 6)
    recalibrate_batchnorm(model, [batch])
    first = nn.Sequential(*list(model.children())[:2]).eval()
    with torch.no_grad():
        out = first(batch)
    gain, bias = model.get_parameter("1.weight").detach(), model.get_parameter("1.bias").detach()
    torch.testing.assert_close(out.mean((0, 2, 3)), bias, atol=1e-4, rtol=0)
    torch.testing.assert_close(out.std((0, 2, 3)), gain, atol=1e-3, rtol=0)


def test_recalibration_leaves_everything_else_as_it_was() -> None:
    model = toy(0)
    model.train()
    model.get_submodule("4").eval()
    model.get_submodule("5").momentum = 0.3  # type: ignore[assignment]
    flags = [module.training for module in model.modules()]
    parameters = [p.detach().clone() for p in model.parameters()]
    recalibrate_batchnorm(model, [torch.randn(4, 3, 6, 6)])
    assert [module.training for module in model.modules()] == flags
    assert (model.get_submodule("1").momentum, model.get_submodule("5").momentum) == (0.1, 0.3)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), parameters, strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_failed_recalibration_leaves_the_model_unchanged() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout()).train()
    model(torch.randn(5, 3))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="without a batch"):
        recalibrate_batchnorm(model, [])
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        recalibrate_batchnorm(model, [torch.randn(5, 3), torch.randn(1, 3)])
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules()) and model[1].momentum == 0.1


def test_layers_without_statistics_are_left_alone() -> None:
    plain = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False), nn.LayerNorm(2))
    assert recalibrate_batchnorm(plain, []) is plain

    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    model = Unused()
    model.unused.running_mean.fill_(3.0)  # type: ignore[union-attr]
    recalibrate_batchnorm(model, [torch.ones(4, 2)])
    assert model.used.running_mean.tolist() == [1, 1]  # type: ignore[union-attr]
    assert model.unused.running_mean.tolist() == [3, 3]  # type: ignore[union-attr]


def test_examples_run() -> None:
    tried = doctest.testmod(recalibration)
    assert tried.attempted > 0 and tried.failed == 0
