import doctest
import math

import numpy as np
import pytest
import torch

from fusiondistill import state_dicts
from fusiondistill.models import build_model
from fusiondistill.state_dicts import average, check_finite, distance, state_difference, with_statistics
from toy_network import toy


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
    by_key = {k for k in model.state_dict() if k in set(state_dicts.parameter_keys({k: torch.zeros(1)}))}
    assert by_key == parameters


def test_examples_run() -> None:
    tried = doctest.testmod(state_dicts)
    assert tried.attempted > 0 and tried.failed == 0


def test_statistics_follow_one_rule_whatever_the_method_says_of_them() -> None:
    three = states(0, 1, 2)
    said = {key: torch.full_like(tensor, 7) for key, tensor in three[0].items()}
    parameters = {key for key, _ in toy(0).named_parameters()}
    for rule in ("first", "average"):
        found, expected = with_statistics(said, three, rule), average(three, buffers=rule)
        assert list(found) == list(three[0])
        for key, tensor in found.items():
            assert tensor.dtype == three[0][key].dtype
            assert torch.equal(tensor, said[key] if key in parameters else expected[key]), key
    said["0.weight"].fill_(1)
    assert found["0.weight"].unique().item() == 7, "not aliased"
    assert torch.equal(with_statistics({k: said[k] for k in parameters}, three)["0.weight"], said["0.weight"])
    with pytest.raises(ValueError, match=r"lacks 4\.bias"):
        with_statistics({key: said[key] for key in parameters - {"4.bias"}}, three)
    with pytest.raises(ValueError, match="'average' or 'first'"):
        with_statistics(said, three, "last")  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["0.weight", "1.running_var"])
def test_values_that_are_not_finite_are_named(key: str) -> None:
    (state,) = states(0)
    check_finite(state, "it")
    state[key].view(-1)[0] = float("inf")
    with pytest.raises(ValueError, match=f"^the base has values that are not finite in {key}: .*leave it out"):
        check_finite(state, "the base")


def test_variances_below_0_are_named() -> None:
    (state,) = states(0)
    state["1.running_var"][0] = -1e-6
    with pytest.raises(ValueError, match=r"^it has variances below 0 in 1\.running_var"):
        check_finite(state, "it")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.tensor([1, 2], dtype=torch.int8), torch.tensor([1, 3], dtype=torch.int8)),
        (torch.tensor([1.0, 2.0]), torch.tensor([1, 2], dtype=torch.int8)),
        (torch.tensor([1 + 1j]), torch.tensor([1 + 2j])),
        (torch.tensor([True, False]), torch.tensor([False, False])),
    ],
    ids=["int8", "mixed", "complex", "bool"],
)
def test_only_floating_weights_are_merged(one: torch.Tensor, other: torch.Tensor) -> None:
    assert torch.equal(average([{"w": one}, {"w": one.clone()}])["w"], one)
    with pytest.raises(ValueError, match=r"^state dict 1 and state dict 0 differ in w, which holds .* numbers"):
        average([{"w": one}, {"w": other}])


def test_counters_and_dtypes_of_floats_may_differ() -> None:
    two = [{"n": torch.tensor(3), "w": torch.ones(1)}, {"n": torch.tensor(5), "w": torch.zeros(1).bfloat16()}]
    assert average(two) == {"n": torch.tensor(3), "w": torch.tensor([0.5])}


@pytest.mark.parametrize("weights", [[1, -1], [1, -0.9999], [1, math.nan], [1, 1, 1]])
def test_weights_that_make_no_average_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        average([{"w": torch.ones(1)}] * 2, weights)
    assert average([{"w": torch.zeros(1)}, {"w": torch.ones(1)}], [2, -1])["w"] == -1


@pytest.mark.parametrize(
    "weights",
    [
        torch.tensor([1.0, 1e300], dtype=torch.float64),
        torch.tensor([1.0, 1e9]).half(),
        torch.tensor([1.0, math.nan]).bfloat16(),
        torch.tensor([1.0, math.nan]).to(torch.float8_e4m3fn),
        torch.tensor([1.0, complex(0, math.inf)]),
    ],
    ids=lambda weights: str(weights.dtype),
)
def test_values_of_any_dtype_must_be_finite_in_float32(weights: torch.Tensor) -> None:
    check_finite({"a": torch.ones(2)}, "it")
    with pytest.raises(ValueError, match=r"^it has values that are not finite in a:"):
        check_finite({"a": weights}, "it")
