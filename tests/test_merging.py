"""Merging methods against the formulas of their papers, written out in numpy, and a method of a user's own."""

from __future__ import annotations

import doctest
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fusiondistill import merging
from fusiondistill.merging import MERGING, At, _at, merge
from fusiondistill.plugins import load_plugins, read_plugins
from fusiondistill.state_dicts import average
from toy_network import toy

State = dict[str, torch.Tensor]


def shaken(count: int, seed: int = 1) -> tuple[State, list[State]]:
    """A base of three tensors with BatchNorm's statistics, and networks some way from it."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a.weight": (4, 3), "a.bias": (3,), "scale": (), "bn.running_var": (3,)}
    base = {name: torch.rand(shape, generator=generator) + 0.5 for name, shape in shapes.items()}
    base["bn.num_batches_tracked"] = torch.tensor(3)
    networks = [
        {n: t + torch.rand(t.shape, generator=generator) if t.is_floating_point() else t + i for n, t in base.items()}
        for i in range(count)
    ]
    return base, networks


PARAMETERS = ("a.weight", "a.bias", "scale")


def arrays(states: list[State], key: str) -> np.ndarray:
    return np.stack([state[key].double().numpy() for state in states])


def flat(state: State) -> np.ndarray:
    return np.concatenate([state[key].double().numpy().ravel() for key in PARAMETERS])


def check(merged: State, expected: dict[str, np.ndarray], networks: list[State]) -> None:
    """Parameters as expected, statistics averaged, counters the first's."""
    assert list(merged) == list(networks[0])
    for key, values in expected.items():
        assert merged[key].dtype == torch.float32 and merged[key].shape == networks[0][key].shape
        np.testing.assert_allclose(merged[key].numpy(), values, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(merged["bn.running_var"], arrays(networks, "bn.running_var").mean(0), rtol=1e-6)
    assert merged["bn.num_batches_tracked"].item() == networks[0]["bn.num_batches_tracked"].item()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_average_and_median_are_numpys(count: int) -> None:
    _, networks = shaken(count)
    for method, function in (("average", np.mean), ("median", np.median)):
        check(merge(networks, method), {k: function(arrays(networks, k), axis=0) for k in PARAMETERS}, networks)
    assert all(torch.equal(merge(networks, "average")[k], t) for k, t in average(networks).items())


def test_linear_takes_weights_in_order_or_by_degradation() -> None:
    _, networks = shaken(3)
    expected = {k: np.average(arrays(networks, k), axis=0, weights=[2, 0, 6]) for k in PARAMETERS}
    at = At(names=("jpeg", "blur", "noise"))
    for weights in ([2, 0, 6], {"noise": 6, "jpeg": 2, "blur": 0}):
        check(merge(networks, "linear", at=at, weights=weights), expected, networks)
    with pytest.raises(ValueError, match="weights are for jpeg, the experts for jpeg, blur, noise"):
        merge(networks, "linear", at=at, weights={"jpeg": 1})
    with pytest.raises(ValueError, match="degradation of each expert; it was not given"):
        merge(networks, "linear", weights={"jpeg": 1})
    with pytest.raises(ValueError, match="3 state dicts need 3 weights, got 2"):
        merge(networks, "linear", weights=[1, 2])


@pytest.mark.parametrize("weights", [[1, float("nan")], [float("inf"), 1], [0, 0], [1, -1], {"a": -1}, "no", None])
def test_unusable_weights_are_told_before_anything_is_merged(weights: object) -> None:
    with pytest.raises(ValidationError, match=r"finite|sum above 0|valid"):
        MERGING["linear"].resolve({"weights": weights})
    with pytest.raises(ValidationError, match="required"):
        MERGING["linear"].resolve({})


@pytest.mark.parametrize("scale", [0.3, 1.0, -0.5, 0.0])
def test_task_arithmetic_adds_the_changes_to_the_base(scale: float) -> None:
    base, networks = shaken(4)
    expected = {
        k: base[k].double().numpy() + scale * (arrays(networks, k) - base[k].double().numpy()).sum(0)
        for k in PARAMETERS
    }
    check(merge(networks, "task_arithmetic", at=At(base=base), scale=scale), expected, networks)
    if scale == 0.3:
        check(merge(networks, "task_arithmetic", at=At(base=base)), expected, networks)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_model_stock_is_the_papers_formula_tensor_by_tensor(count: int) -> None:
    base, networks = shaken(count)
    expected = {}
    for key in PARAMETERS:
        start = base[key].double().numpy()
        changes = [change.ravel() for change in arrays(networks, key) - start]
        cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in itertools.combinations(changes, 2)]
        c = sum(cosines) / len(cosines)
        t = count * c / (1 + (count - 1) * c)
        assert 0 < t <= 1
        expected[key] = t * arrays(networks, key).mean(0) + (1 - t) * start
    check(merge(networks, "model_stock", at=At(base=base)), expected, networks)


def test_model_stock_at_its_ends() -> None:
    base, (one, *_) = shaken(1)
    at = At(base=base)
    assert torch.equal(merge([one], "model_stock", at=at)["a.weight"], one["a.weight"])
    same = merge([one] * 4, "model_stock", at=at)
    torch.testing.assert_close(same["a.weight"], one["a.weight"])
    unmoved = merge([base] * 4, "model_stock", at=at)
    assert torch.equal(unmoved["a.weight"], base["a.weight"])
    simplex = np.eye(4) - 0.25  # four changes whose mean cosine is -1/3, the formula's pole
    far = [{**base, "a.weight": base["a.weight"] + torch.tensor(row).float()[:, None]} for row in simplex]
    assert torch.equal(merge(far, "model_stock", at=at)["a.weight"], base["a.weight"])


def by_hand(base: np.ndarray, networks: list[np.ndarray], density: float) -> np.ndarray:
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
    base, _ = shaken(0)
    generator = torch.Generator().manual_seed(2)
    networks = [
        {n: t + torch.randn(t.shape, generator=generator) if t.is_floating_point() else t for n, t in base.items()}
        for _ in range(4)
    ]
    networks = [{n: t.abs() if n.endswith("running_var") else t for n, t in one.items()} for one in networks]
    merged = merge(networks, "ties", at=At(base=base), density=density)
    np.testing.assert_allclose(flat(merged), by_hand(flat(base), [flat(n) for n in networks], density), atol=1e-6)
    check(merge(networks, "ties", at=At(base=base), density=density, scale=0.5),
          {k: (merged[k].double().numpy() + base[k].double().numpy()) / 2 for k in PARAMETERS}, networks)  # fmt: skip
    assert MERGING["ties"].resolve({}) == {"density": 0.2, "scale": 1.0}
    for wrong in (0, 1.1, "much", float("nan")):
        with pytest.raises(ValidationError, match="density"):
            MERGING["ties"].resolve({"density": wrong})


def test_ties_of_equal_networks_is_that_network_and_of_opposite_ones_the_base() -> None:
    base = {"w": torch.tensor([1.0, 2.0])}
    one, other = {"w": torch.tensor([1.5, 4.0])}, {"w": torch.tensor([0.5, 0.0])}
    assert torch.equal(merge([one, one], "ties", at=At(base=base), density=1)["w"], one["w"])
    assert torch.equal(merge([one, other], "ties", at=At(base=base), density=1)["w"], base["w"])


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_wise_ft_lies_between_base_and_average(alpha: float) -> None:
    base, networks = shaken(3)
    expected = {k: (1 - alpha) * base[k].double().numpy() + alpha * arrays(networks, k).mean(0) for k in PARAMETERS}
    check(merge(networks, "wise_ft", at=At(base=base), alpha=alpha), expected, networks)


def test_lines_scales_changes_by_the_depth_of_their_layer_in_the_network() -> None:
    names = ("stem", "body", "last")
    network = torch.nn.ModuleDict({name: torch.nn.Linear(2, 3) for name in names})
    generator = torch.Generator().manual_seed(0)
    base, *networks = (
        {k: torch.randn(t.shape, generator=generator) for k, t in sorted(network.state_dict().items())}
        for _ in range(4)
    )  # sorted, as files of weights have them
    merged = merge(networks, "lines", at=At(base=base, network=lambda state: network), shallow=0.1, deep=0.5)
    for key in base:
        start, moved = base[key].double().numpy(), arrays(networks, key) - base[key].double().numpy()
        scale = dict(zip(names, (0.1, 0.3, 0.5), strict=True))[key.split(".")[0]]
        np.testing.assert_allclose(merged[key], start + scale * moved.sum(0), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="'lines' needs a way to build a network"):
        merge(networks, "lines", at=At(base=base))


def test_dare_drops_a_random_part_and_makes_the_rest_larger() -> None:
    base = {"w": torch.zeros(400, 50), "b": torch.ones(7)}
    one = {"w": torch.ones(400, 50), "b": torch.full((7,), 2.0)}
    at = At(base=base, seed=3)
    merged = merge([one], "dare", at=at, drop=0.8, scale=1)
    assert merged["w"].unique().tolist() == pytest.approx([0, 5])
    assert (merged["w"] == 0).double().mean().item() == pytest.approx(0.8, abs=0.01)
    assert torch.equal(merge([one], "dare", at=at, drop=0.8, scale=1)["w"], merged["w"])
    other = merge([one], "dare", at=At(base=base, seed=4), drop=0.8, scale=1)["w"]
    assert ((other == 0) & (merged["w"] == 0)).double().mean().item() == pytest.approx(0.64, abs=0.02)
    both = merge([one, one], "dare", at=at, drop=0.5, scale=1)["w"]  # masks of their own: 0, 1 or 2 are left
    assert [(both == value).double().mean().item() for value in (0, 2, 4)] == pytest.approx([0.25, 0.5, 0.25], abs=0.02)
    base, networks = shaken(3)
    whole, plain = (
        merge(networks, m, at=At(base=base), **p) for m, p in (("dare", {"drop": 0}), ("task_arithmetic", {}))
    )
    assert all(torch.equal(whole[key], plain[key]) for key in whole)


def test_iso_c_gives_each_matrix_equal_singular_values() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"conv.weight": (4, 3, 3, 3), "head.weight": (2, 5), "head.bias": (2,)}
    base, *networks = ({k: torch.randn(s, generator=generator) for k, s in shapes.items()} for _ in range(4))
    merged = merge(networks, "iso_c", at=At(base=base), scale=0.7)
    for key, shape in shapes.items():
        start = base[key].double().numpy()
        moved = np.stack([n[key].double().numpy() for n in networks]) - start
        change = moved.mean(0)
        if len(shape) > 1:
            u, s, v = np.linalg.svd(moved.sum(0).reshape(shape[0], -1), full_matrices=False)
            change = (s.mean() * u @ v).reshape(shape)
        np.testing.assert_allclose(merged[key], start + 0.7 * change, rtol=1e-5, atol=1e-6)
    still = merge([base, base], "iso_c", at=At(base=base))
    assert all(torch.equal(still[key], base[key]) for key in base)


NEED_IMAGES = [name for name in MERGING.builtin if MERGING[name].facts["needs"] - {"base"}]


@pytest.mark.parametrize("method", MERGING.builtin)
def test_no_method_changes_or_aliases_what_it_gets(method: str) -> None:
    base, networks = shaken(3)
    at = At(base=base)
    if method in NEED_IMAGES:
        base, *networks = ({k: t.clone() for k, t in toy(seed).state_dict().items()} for seed in range(4))
        batches = [(torch.randn(20, 3, 6, 6), torch.arange(20) % 2)]

        def network(state: State) -> torch.nn.Module:
            model = toy(9)
            model.load_state_dict(state)
            return model.eval()

        at = At(base=base, names="abc", network=network, batches=lambda _: batches, validation=lambda _: batches)
    before = [{key: tensor.clone() for key, tensor in state.items()} for state in (base, *networks)]
    parameters: dict[str, Any] = {"linear": {"weights": [1, 2, 3]}, "adamerging": {"steps": 2}}.get(method, {})
    merged = merge(networks, method, at=at, **parameters)
    running = [key for key in merged if "running" in key]
    assert all(torch.equal(merged[key], average(networks)[key]) for key in running)  # one rule for all
    for tensor in merged.values():
        tensor.fill_(7)
    for state, old in zip((base, *networks), before, strict=True):
        assert all(torch.equal(state[key], old[key]) for key in old)
    assert MERGING[method].summary and "\n" not in MERGING[method].summary


def test_what_does_not_fit_is_named_before_anything_is_merged() -> None:
    base, networks = shaken(2)
    with pytest.raises(ValueError, match="no merging method 'tie'; did you mean 'ties'"):
        merge(networks, "tie")
    with pytest.raises(ValueError, match="nothing to merge"):
        merge([], "average")
    with pytest.raises(ValueError, match="'ties' needs the base"):
        merge(networks, "ties")
    with pytest.raises(ValueError, match="base does not fit the state dicts: extra is not expected"):
        merge(networks, "ties", at=At(base={**base, "extra": torch.ones(1)}))
    with pytest.raises(ValueError, match="state dict 1 does not fit state dict 0: scale is missing"):
        merge([networks[0], {k: v for k, v in networks[1].items() if k != "scale"}], "average")
    with pytest.raises(ValueError, match="2 state dicts need as many names, got 1"):
        merge(networks, "average", at=At(names=["jpeg"]))
    networks[1]["a.bias"][1] = float("nan")
    with pytest.raises(ValueError, match=r"^state dict 1 \(blur\) has values that are not finite in a\.bias"):
        merge(networks, "average", at=At(names=["jpeg", "blur"]))
    with pytest.raises(ValueError, match="density"):
        merge(networks, "average", density=0.5)


def test_a_methods_result_is_checked() -> None:
    base, networks = shaken(2)
    with pytest.raises(ValueError, match=r"'task_arithmetic' gave has values that are not finite in a\.weight"):
        merge(networks, "task_arithmetic", at=At(base=base), scale=1e300)


def test_asking_for_what_is_not_there_says_what_is_missing() -> None:
    at = At(names=["jpeg"], batches=lambda name: [], seed=3)
    assert at.names == ("jpeg",) and at.seed == 3 and list(at.batches("jpeg")) == []
    for ask, said in (
        (lambda: at.base, "the base"), (lambda: at.device, "a device"), (lambda: at.network({}), "build a network"),
        (lambda: at.validation("jpeg"), "held-out"), (lambda: at.batches("blur"), "no expert is for 'blur'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            ask()


@pytest.fixture
def plugged() -> Iterator[None]:
    load_plugins(read_plugins([str(Path(__file__).parent / "plugins" / "by_accuracy.py")]))
    yield
    MERGING.forget("by_accuracy.py")


@pytest.mark.usefixtures("plugged")
def test_a_method_of_a_plugin_may_look_at_labelled_images() -> None:
    experts = [toy(seed).state_dict() for seed in (0, 1)]
    generator = torch.Generator().manual_seed(0)
    images = {d: [torch.randn(n, 3, 6, 6, generator=generator) for n in (9, 7)] for d in ("jpeg", "blur")}
    truth: dict[str, list[torch.Tensor]] = {}

    def network(state: State) -> torch.nn.Module:
        model = toy(9)
        model.load_state_dict(state)
        return model.eval()

    for state, (name, batches), wrong in zip(experts, images.items(), (4, 12), strict=True):
        said = [network(state)(batch).argmax(1) for batch in batches]
        labels = torch.cat(said)
        labels[:wrong] = 1 - labels[:wrong]
        truth[name] = list(labels.split([9, 7]))
    at = At(names=tuple(images), network=network, batches=lambda d: zip(images[d], truth[d], strict=True))
    merged = merge(experts, "by_accuracy", at=at)
    expected = average(experts, [12, 4])
    for key in ("0.weight", "8.bias"):
        torch.testing.assert_close(merged[key], expected[key])
    assert torch.equal(merged["1.running_var"], average(experts)["1.running_var"])
    assert all(torch.equal(t, average(experts)[k]) for k, t in merge(experts, "by_accuracy", at=at, power=0).items())
    with pytest.raises(ValueError, match="'by_accuracy' needs labelled training images"):
        merge(experts, "by_accuracy", at=At(names=("jpeg", "blur")))


def test_examples_run() -> None:
    for module in (merging, _at):
        tried = doctest.testmod(module)
        assert tried.attempted > 0 and tried.failed == 0
