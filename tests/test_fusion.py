import doctest

import numpy as np
import pytest
import torch
from torch import nn

from fusiondistill import fusion
from fusiondistill.fusion import FUSIONS, average, distance, median, recalibrate_batchnorm, state_difference, ties
from fusiondistill.models import build_model


def toy(seed: int) -> nn.Module:
    """A network with convolution, BatchNorm, dropout and a head, with statistics of its own."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.9),
        nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2),
    )  # fmt: skip
    for _ in range(seed + 1):
        model(torch.randn(8, 3, 6, 6) * (seed + 1))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def states(*seeds: int) -> list[dict[str, torch.Tensor]]:
    return [{k: v.clone() for k, v in toy(seed).state_dict().items()} for seed in seeds]


@pytest.mark.parametrize("weights", [None, [1, 1, 1], [0.2, 0.3, 0.5], [3, 0, 1], [2, -0.5, 1]])
def test_average_is_numpys(weights: list[float] | None) -> None:
    three = states(0, 1, 2)
    fused = average(three, weights)
    assert list(fused) == list(three[0])
    for key, tensor in fused.items():
        assert tensor.dtype == three[0][key].dtype
        if tensor.is_floating_point():
            stacked = np.stack([state[key].numpy().astype(np.float64) for state in three])
            expected = np.average(stacked, axis=0, weights=weights).astype(np.float32)
            np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6, atol=1e-9)
    assert fused["1.num_batches_tracked"].item() == three[0]["1.num_batches_tracked"].item() == 1
    assert not torch.equal(fused["1.running_mean"], three[0]["1.running_mean"])


def test_the_first_networks_buffers_can_be_kept() -> None:
    two = states(0, 1)
    kept, averaged = average(two, buffers="first"), average(two)
    for key in kept:
        if "running" in key or "tracked" in key:
            assert torch.equal(kept[key], two[0][key]), key
        else:
            assert torch.equal(kept[key], averaged[key]) and not torch.equal(kept[key], two[0][key]), key


def test_the_average_of_equal_networks_is_that_network_bit_for_bit() -> None:
    state = build_model("cifar_resnet8", 10).state_dict()
    for count in (1, 3, 7):
        assert all(torch.equal(tensor, state[key]) for key, tensor in average([state] * count).items())


def test_the_average_neither_changes_nor_aliases_its_input() -> None:
    (one,) = states(0)
    before = {key: tensor.clone() for key, tensor in one.items()}
    for buffers in ("average", "first"):
        for tensor in average([one], buffers=buffers).values():
            tensor.fill_(7)
    assert all(torch.equal(one[key], before[key]) for key in one)


def test_half_precision_is_summed_in_double() -> None:
    small = [{"w": torch.tensor([v], dtype=torch.bfloat16)} for v in [256.0] + [1.0] * 255]
    fused = average(small)["w"]  # a bfloat16 sum would stay at 256: 256 + 1 rounds back
    assert fused.dtype == torch.bfloat16 and fused.item() == torch.tensor(511 / 256).bfloat16().item()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1], "2 state dicts need 2 weights, got 1"),
        ([1, float("nan")], "finite"),
        ([1, float("inf")], "finite"),
        ([0, 0], "sum above 0"),
        ([1, -1], "sum above 0"),
    ],
)
def test_unusable_weights_are_errors(weights: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        average(states(0, 1), weights)


def test_what_cannot_be_averaged_is_named() -> None:
    one, two = states(0, 1)
    del two["1.weight"]
    two["4.bias"] = torch.zeros(6)
    two["extra"] = torch.zeros(1)
    expected = (
        r"state dict 1 does not fit.*1\.weight is missing; 4\.bias has shape \(6,\) instead of \(5,\); extra is not"
    )
    with pytest.raises(ValueError, match=expected):
        average([one, two])
    with pytest.raises(ValueError, match="no state dict"):
        average([])
    with pytest.raises(ValueError, match="'average' or 'first'"):
        average([one], buffers="last")  # type: ignore[arg-type]


def test_differences_are_counted_beyond_the_limit() -> None:
    state = toy(0).state_dict()
    assert state_difference(state, state) == ""
    text = state_difference(state, {}, limit=2)
    assert text == f"0.weight is missing; 1.weight is missing; and {len(state) - 2} more"


def test_the_registry_of_fusion_methods() -> None:
    states = [{"w": torch.tensor([1.0, 5.0])}, {"w": torch.tensor([3.0, -1.0])}]
    for name, fuse in FUSIONS.items():
        assert fuse(states, base={"w": torch.zeros(2)}, buffers="first")["w"].shape == (2,), name
    assert torch.equal(FUSIONS["average"](states, base={}, buffers="average")["w"], average(states)["w"])


def test_distance_is_numpys_over_parameters_only() -> None:
    base, expert = toy(0), toy(1)
    start = np.concatenate([p.detach().numpy().astype(np.float64).ravel() for p in base.parameters()])
    end = np.concatenate([p.detach().numpy().astype(np.float64).ravel() for p in expert.parameters()])
    expected = np.linalg.norm(end - start) / np.linalg.norm(start)
    assert distance(expert.state_dict(), base.state_dict()) == pytest.approx(expected, rel=1e-12)
    assert distance(base.state_dict(), base.state_dict()) == 0
    with pytest.raises(ValueError, match="all zero"):
        distance({"w": torch.ones(1)}, {"w": torch.zeros(1)})
    with pytest.raises(ValueError, match="w is missing"):
        distance({}, {"w": torch.zeros(1)})


@pytest.mark.parametrize("name", ["cifar_resnet8", "swin_v2_t", "maxvit_t", "vit_b_32", "mobilenet_v3_small"])
def test_every_floating_buffer_of_the_networks_is_known_by_its_key(name: str) -> None:
    with torch.device("meta"):
        model = build_model(name, 3)
    parameters = {key for key, _ in model.named_parameters()}
    by_key = {k for k in model.state_dict() if not fusion._ends(k, fusion._STATISTICS + fusion._OTHER_BUFFERS)}
    assert by_key == parameters


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
    """After it, eval mode normalises like training on the same images, whatever the statistics were before."""
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
    tried = doctest.testmod(fusion)
    assert tried.attempted > 0 and tried.failed == 0


def test_the_median_is_numpys_and_leaves_statistics_to_the_average() -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 3, 4, 5):
        states = [
            {
                "w": torch.randn(5, 3, generator=generator),
                "bn.running_mean": torch.randn(4, generator=generator),
                "bn.num_batches_tracked": torch.tensor(i),
            }
            for i in range(count)
        ]
        fused = median(states)
        expected = np.median(np.stack([state["w"].double().numpy() for state in states]), axis=0)
        assert fused["w"].dtype == torch.float32 and np.array_equal(fused["w"].numpy(), expected.astype(np.float32))
        assert torch.equal(fused["bn.running_mean"], average(states)["bn.running_mean"])
        assert torch.equal(median(states, buffers="first")["bn.running_mean"], states[0]["bn.running_mean"])
        assert int(fused["bn.num_batches_tracked"]) == 0


def _ties_by_hand(base: np.ndarray, networks: list[np.ndarray], density: float) -> np.ndarray:
    """TIES weight by weight, as the paper's algorithm 1 says it."""
    kept = []
    for network in networks:
        change = network - base
        order = sorted(range(len(change)), key=lambda i: -abs(change[i]))[: int(np.ceil(density * len(change)))]
        kept.append([change[i] if i in order else 0.0 for i in range(len(change))])
    merged = []
    for weight in zip(*kept, strict=True):
        positive, negative = [v for v in weight if v > 0], [v for v in weight if v < 0]
        agreed = positive if sum(positive) > -sum(negative) else negative
        merged.append(sum(agreed) / len(agreed) if agreed else 0.0)
    return base + np.array(merged)


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 1.0])
def test_ties_is_the_papers_algorithm_over_the_whole_network(density: float) -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = {"a.weight": (4, 3), "a.bias": (3,), "b.weight": (5,)}
    base = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    states = [{name: t + torch.randn(t.shape, generator=generator) for name, t in base.items()} for _ in range(4)]

    def flat(state: dict[str, torch.Tensor]) -> np.ndarray:
        return np.concatenate([t.double().numpy().ravel() for t in state.values()])

    fused = ties(states, base=base, density=density)
    expected = _ties_by_hand(flat(base), [flat(state) for state in states], density)
    np.testing.assert_allclose(flat(fused), expected, rtol=0, atol=1e-6)
    assert [t.shape for t in fused.values()] == [t.shape for t in base.values()]


def test_ties_of_equal_networks_is_that_network_and_of_opposite_ones_the_base() -> None:
    base = {"w": torch.tensor([1.0, 2.0]), "bn.running_var": torch.tensor([1.0]), "n": torch.tensor(3)}
    one = {"w": torch.tensor([1.5, 4.0]), "bn.running_var": torch.tensor([2.0]), "n": torch.tensor(4)}
    other = {"w": torch.tensor([0.5, 0.0]), "bn.running_var": torch.tensor([4.0]), "n": torch.tensor(5)}
    same = ties([one, one], base=base, density=1)
    assert all(torch.equal(same[key], one[key]) for key in one)
    opposite = ties([one, other], base=base, density=1)
    assert torch.equal(opposite["w"], base["w"]) and opposite["bn.running_var"].item() == 3
    assert ties([one, other], base=base, buffers="first")["bn.running_var"].item() == 2


def test_ties_says_what_does_not_fit() -> None:
    state = {"w": torch.ones(2)}
    with pytest.raises(ValueError, match="density must be above 0"):
        ties([state], base=state, density=0)
    with pytest.raises(ValueError, match="the base does not fit"):
        ties([state], base={"w": torch.ones(3)})
    with pytest.raises(ValueError, match="nothing to average"):
        ties([], base=state)
    with pytest.raises(ValueError, match="state dict 1 does not fit"):
        median([state, {"v": torch.ones(2)}])
