"""Merging methods that look at images or choose by them, against numpy and brute force."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from fusiondistill.merging import MERGING, At, merge
from fusiondistill.merging._judging import Judge, _Kept
from fusiondistill.merging.regmean import regmean
from fusiondistill.recalibration import recalibrate_batchnorm
from fusiondistill.state_dicts import average
from toy_network import toy

State = dict[str, torch.Tensor]
Labelled = tuple[torch.Tensor, torch.Tensor]
NAMES = ("jpeg", "blur", "noise")


def labelled(seed: int, *shape: int, classes: int = 2) -> list[Labelled]:
    """Two batches of random images, the second one shorter, with random labels."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = torch.randn(shape, generator=generator), torch.randint(classes, shape[:1], generator=generator)
    half = (shape[0] + 1) // 2
    return [(images[:half], labels[:half]), (images[half:], labels[half:])]


def at_of(model: nn.Module, images: dict[str, list[Labelled]], **more: Any) -> At:
    """An :class:`At` with these images for both uses."""

    def network(state: Any) -> nn.Module:
        built = copy.deepcopy(model)
        built.load_state_dict(state)
        return built.eval()

    return At(names=tuple(images), network=network, batches=images.__getitem__, validation=images.__getitem__, **more)


def varied(model: nn.Module, count: int, seed: int = 0) -> list[State]:
    """State dicts of a model with other parameters; BatchNorm's variances stay positive."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        for key, tensor in state.items():
            if tensor.is_floating_point():
                moved = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(tensor + moved.abs() if key.endswith("running_var") else tensor + 0.5 * moved)
        found.append(state)
    return found


def whole(batches: Sequence[Labelled]) -> Labelled:
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


# Fisher.


@pytest.mark.parametrize("normalise", [False, True])
def test_fisher_of_a_linear_network_is_the_closed_form(normalise: bool) -> None:
    """d log p_y / dW = (onehot(y) - p) x^T, squared for each image by itself."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    states = varied(model, 3)
    images = {name: labelled(i, 9, 3, 2, 2, classes=3) for i, name in enumerate(NAMES)}
    above: dict[str, Any] = {"1.weight": 0.0, "1.bias": 0.0}
    below = dict(above)
    for state, batches in zip(states, images.values(), strict=True):
        x, y = whole(batches)
        x, weight = x[:7].flatten(1).double().numpy(), state["1.weight"].double().numpy()
        logits = x @ weight.T + state["1.bias"].double().numpy()
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        d = np.eye(3)[y[:7].numpy()] - p
        found = {"1.weight": (d[:, :, None] ** 2 * x[:, None, :] ** 2).mean(0), "1.bias": (d**2).mean(0)}
        length = np.sqrt(sum((one**2).sum() for one in found.values())) if normalise else 1
        for key in above:
            information = np.maximum(found[key] / length, 1e-3)
            above[key] = above[key] + information * state[key].double().numpy()
            below[key] = below[key] + information
    merged = merge(states, "fisher", at=at_of(model, images), examples=7, floor=1e-3, normalise=normalise)
    for key in above:
        np.testing.assert_allclose(merged[key], above[key] / below[key], rtol=2e-5, atol=1e-6)


def test_fisher_squares_each_examples_gradient_through_convolutions_and_batchnorm() -> None:
    model = toy(0).eval()
    states = varied(model, 2)
    images = {name: labelled(i, 5, 3, 6, 6) for i, name in enumerate(NAMES[:2])}
    information = []
    for state, batches in zip(states, images.values(), strict=True):
        model.load_state_dict(state)
        buffers = dict(model.named_buffers())

        def loss(parameters: State, x: torch.Tensor, y: torch.Tensor, buffers: State = buffers) -> torch.Tensor:
            return F.cross_entropy(torch.func.functional_call(model, (parameters, buffers), (x[None],)), y[None])

        parameters = {key: one.detach() for key, one in model.named_parameters()}
        each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, *whole(batches))
        information.append({key: one.double().square().mean(0).clamp(min=1e-6) for key, one in each.items()})
    merged = merge(states, "fisher", at=at_of(toy(0), images))
    for key in information[0]:
        total = sum(i[key] * s[key] for i, s in zip(information, states, strict=True))
        expected = total / (information[0][key] + information[1][key])
        torch.testing.assert_close(merged[key], expected.float(), rtol=1e-4, atol=1e-5)
    assert torch.equal(merged["1.running_var"], average(states)["1.running_var"])
    own = merge(states, "fisher", at=at_of(toy(0), images, seed=1), labels="own")
    assert not torch.equal(own["8.weight"], merged["8.weight"])
    again = merge(states, "fisher", at=at_of(toy(0), images, seed=1), labels="own")
    assert all(torch.equal(again[key], own[key]) for key in own)


# RegMean.


def columns_by_hand(x: np.ndarray, conv: nn.Conv2d) -> np.ndarray:
    """The inputs of a convolution, [groups, positions, Cin / groups * kh * kw], position by position."""
    (kh, kw), (sh, sw), (dh, dw) = conv.kernel_size, conv.stride, conv.dilation
    if conv.padding == "same":
        sides = [(d * (k - 1) // 2, d * (k - 1) - d * (k - 1) // 2) for d, k in ((dh, kh), (dw, kw))]
    else:
        sides = [(side, side) for side in conv.padding]  # type: ignore[misc]
    mode: Any = {"zeros": "constant", "reflect": "reflect"}[conv.padding_mode]
    x = np.pad(x, ((0, 0), (0, 0), *sides), mode=mode)
    rows = []
    for image in x:
        for top in range(0, image.shape[1] - dh * (kh - 1), sh):
            for left in range(0, image.shape[2] - dw * (kw - 1), sw):
                patch = image[:, top : top + dh * kh : dh, left : left + dw * kw : dw]
                rows.append(patch.reshape(conv.groups, -1))
    return np.stack(rows, 1)


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    "grouped": {"kernel_size": (3, 1), "groups": 2, "stride": (1, 2)},
    "depthwise": {"kernel_size": 3, "groups": 4, "padding": "same", "dilation": 2},
    "even, same": {"kernel_size": 2, "padding": "same"},
    "reflected": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
}


@pytest.mark.parametrize("which", CONVOLUTIONS)
@pytest.mark.parametrize("off_diagonal", [0.999, 0.6])
def test_regmean_of_a_convolution_is_the_least_squares_of_its_columns(which: str, off_diagonal: float) -> None:
    conv = nn.Conv2d(4, 4, **CONVOLUTIONS[which])
    model = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    states = varied(model, 3)
    images = {name: labelled(i, 9, 4, 6, 7) for i, name in enumerate(NAMES)}
    left, right = 0.0, 0.0
    for state, batches in zip(states, images.values(), strict=True):
        columns = columns_by_hand(whole(batches)[0].double().numpy(), conv)
        gram = columns.transpose(0, 2, 1) @ columns / columns.shape[1]
        shrunk = np.where(np.eye(gram.shape[1], dtype=bool), gram, off_diagonal * gram)
        weight = state["0.weight"].double().numpy().reshape(conv.groups, 4 // conv.groups, -1)
        left, right = left + shrunk, right + shrunk @ weight.transpose(0, 2, 1)
    expected = np.linalg.solve(left, right).transpose(0, 2, 1).reshape(conv.weight.shape)
    merged = merge(states, "regmean", at=at_of(model, images), off_diagonal=off_diagonal, ridge=1e-9)
    np.testing.assert_allclose(merged["0.weight"], expected, rtol=1e-3, atol=1e-4)
    if conv.bias is not None:
        torch.testing.assert_close(merged["0.bias"], average(states)["0.bias"])


def test_regmean_of_a_linear_layer_answers_as_the_experts_do_in_the_least_squares() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3, bias=False))
    states = varied(model, 2)
    images = {name: labelled(i, 20, 3, 2, 2) for i, name in enumerate(NAMES[:2])}
    inputs = [whole(batches)[0].flatten(1).double().numpy() for batches in images.values()]
    targets = [x @ s["1.weight"].double().numpy().T for x, s in zip(inputs, states, strict=True)]
    expected = np.linalg.lstsq(np.concatenate(inputs), np.concatenate(targets), rcond=None)[0]
    merged = regmean(states, at_of(model, images), off_diagonal=1, ridge=0)
    np.testing.assert_allclose(merged["1.weight"], expected.T, rtol=1e-3, atol=1e-4)
    diagonal = [(x**2).mean(0) for x in inputs]
    weighed = [d * s["1.weight"].double().numpy() for d, s in zip(diagonal, states, strict=True)]
    merged = merge(states, "regmean", at=at_of(model, images), off_diagonal=0, ridge=1e-9)
    np.testing.assert_allclose(merged["1.weight"], sum(weighed) / sum(diagonal), rtol=1e-4)


def test_regmean_of_equal_experts_is_that_expert_and_only_layers_that_run_are_solved() -> None:
    model = toy(0)
    (state,) = varied(model, 1)
    images = {name: labelled(i, 40, 3, 6, 6) for i, name in enumerate(NAMES)}
    merged = merge([state] * 3, "regmean", at=at_of(model, images))
    for key in state:
        torch.testing.assert_close(merged[key], state[key], rtol=1e-4, atol=1e-5)
    aside = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    aside.unused = nn.Linear(3, 3)
    aside.forward = lambda x: aside[1](aside[0](x))  # type: ignore[method-assign]
    states = varied(aside, 2)
    few = {name: labelled(i, 30, 3, 2, 2) for i, name in enumerate(NAMES[:2])}
    torch.testing.assert_close(
        merge(states, "regmean", at=at_of(aside, few))["unused.weight"], average(states)["unused.weight"]
    )


@pytest.mark.parametrize("given", [{"off_diagonal": 1}, {"ridge": 0}, {"off_diagonal": [0.9, 1]}])
def test_parameters_that_leave_a_gram_matrix_singular_are_refused_before_any_image_is_read(given: dict) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    read = []

    class Unread:
        def __iter__(self) -> Iterator[Any]:
            read.append(1)
            return iter(())

    with pytest.raises(ValueError, match=next(iter(given))):
        merge(varied(model, 2), "regmean", at=at_of(model, dict.fromkeys(NAMES[:2], Unread())), **given)
    assert not read


def test_no_gram_matrix_is_singular_within_the_bounds() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    states = varied(model, 2)
    images = {name: labelled(i, 4, 3, 2, 2) for i, name in enumerate(NAMES[:2])}  # 8 images of 12 values
    at = at_of(model, images)
    loosest = {"off_diagonal": 0.999, "ridge": 1e-9}
    assert all(one.isfinite().all() for one in merge(states, "regmean", at=at, **loosest).values())
    with pytest.raises(ValueError, match=r"layer 1 is singular: its inputs depend .* off_diagonal below 1"):
        regmean(states, at, off_diagonal=1, ridge=0)
    for batches in images.values():
        for pixels, _ in batches:
            pixels[:, 0] = 0
    with pytest.raises(ValueError, match=r"layer 1 is singular: 4 of its 12 inputs are 0 .* Give ridge above 0"):
        regmean(states, at, ridge=0)
    shares = [float(whole(batches)[0].square().mean()) for batches in images.values()]
    for given in ({}, loosest):
        merged = merge(states, "regmean", at=at, **given)
        torch.testing.assert_close(merged["1.weight"][:, :4], average(states, shares)["1.weight"][:, :4])
    for batches in images.values():
        for pixels, _ in batches:
            pixels.zero_()
    torch.testing.assert_close(merge(states, "regmean", at=at, **loosest), dict(average(states)))
    for batches in images.values():
        for pixels, _ in batches:
            pixels[0] = torch.inf
    with pytest.raises(ValueError, match="inputs of the layer 1 are not finite"):
        merge(states, "regmean", at=at)
    with pytest.raises(ValueError, match="no image of jpeg"):
        merge(states, "regmean", at=at_of(model, {"jpeg": [], "blur": []}))


# What held-out images choose.


def accuracy(model: nn.Module, state: State, images: dict[str, list[Labelled]], *, mixed: bool = False) -> float:
    """The mean share of right answers, with averaged statistics or with those of all images."""
    return score(model, state, images, mixed=mixed)[0]


def score(
    model: nn.Module, state: State, images: dict[str, list[Labelled]], *, mixed: bool = False
) -> tuple[float, float]:
    """The mean share of right answers, and the mean log-likelihood."""
    built = copy.deepcopy(model)
    built.load_state_dict(state)
    if mixed:
        recalibrate_batchnorm(built, [torch.cat([whole(batches)[0] for batches in images.values()])])
    found = []
    for batches in images.values():
        x, y = whole(batches)
        logits = built.eval()(x).double().detach()
        found.append(((logits.argmax(1) == y).double().mean().item(), -F.cross_entropy(logits, y).item()))
    shares, likelihoods = zip(*found, strict=True)
    return sum(shares) / len(shares), sum(likelihoods) / len(likelihoods)


def teachable(model: nn.Module, states: Sequence[State]) -> dict[str, list[Labelled]]:
    """Images whose labels are the answers of one of the networks each, so that experts differ in worth."""
    found = {}
    for i, (name, state) in enumerate(zip(NAMES, states, strict=True)):
        built = copy.deepcopy(model)
        built.load_state_dict(state)
        batches = labelled(10 + i, 60, 3, 6, 6)
        found[name] = [(x, built.eval()(x).argmax(1)) for x, _ in batches]
    return found


@pytest.mark.parametrize("seed", range(4))
def test_greedy_soup_is_the_papers_recipe(seed: int) -> None:
    model = toy(0)
    states = varied(model, 3, seed)
    images = teachable(model, states)
    at = at_of(model, images)
    merged = merge(states, "greedy_soup", at=at)

    def judged(members: Sequence[int]) -> tuple[float, float]:
        return score(model, {**average(states), **parameters(average([states[i] for i in members]))}, images)

    order = sorted(range(3), key=lambda i: judged([i]), reverse=True)
    soup = order[:1]
    for i in order[1:]:
        if judged([*soup, i]) >= judged(soup):
            soup.append(i)
    assert at.chosen["members"] == [NAMES[i] for i in soup] and at.chosen["validation"] == pytest.approx(
        judged(soup)[0]
    )
    assert at.chosen["candidates"] == 5
    assert torch.equal(merged["8.weight"], average([states[i] for i in soup])["8.weight"])
    assert torch.equal(merged["1.running_mean"], average(states)["1.running_mean"])


def parameters(state: State) -> State:
    return {k: t for k, t in state.items() if "running" not in k and "num_batches" not in k}


def test_linear_search_finds_weights_that_do_better() -> None:
    model = toy(0)
    states = varied(model, 3)
    images = teachable(model, states)
    images = {name: [(x, (x.mean((1, 2, 3)) > 0).long()) for x, _ in batches] for name, batches in images.items()}
    states[1]["8.weight"] *= -10  # an expert that is wrong most of the time
    at = at_of(model, images)
    merged = merge(states, "linear_search", at=at, trials=30)
    weights = [at.chosen["weights"][name] for name in NAMES]
    assert sum(weights) == pytest.approx(1, abs=1e-5) and min(weights) >= 0 and at.chosen["candidates"] <= 30
    torch.testing.assert_close(merged["8.weight"], average(states, weights)["8.weight"], rtol=1e-4, atol=1e-4)
    plain = accuracy(model, average(states), images)
    assert at.chosen["validation"] == pytest.approx(accuracy(model, merged, images)) and weights[1] < 1 / 3
    assert at.chosen["validation"] > plain
    one = at_of(model, images)
    assert torch.equal(merge(states, "linear_search", at=one, trials=1)["4.weight"], average(states)["4.weight"])
    assert one.chosen["validation"] == pytest.approx(plain)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_list_takes_the_value_that_is_best_on_validation(mixed: bool) -> None:
    model = toy(0)
    base, *states = varied(model, 4)
    images = teachable(model, states)
    everything = torch.cat([whole(batches)[0] for batches in images.values()])

    def finish(state: Any) -> nn.Module:
        built = copy.deepcopy(model)
        built.load_state_dict(state)
        return recalibrate_batchnorm(built, [everything]).eval()

    at = at_of(model, images, base=base, finish=finish if mixed else None)
    scales = [0.0, 0.2, 0.4, 0.8]
    made = {one: merge(states, "task_arithmetic", at=at_of(model, images, base=base), scale=one) for one in scales}
    scores = {one: accuracy(model, state, images, mixed=mixed) for one, state in made.items()}
    merged = merge(states, "task_arithmetic", at=at, scale=scales)
    assert at.chosen["validation"] == pytest.approx(max(scores.values())) and at.chosen["candidates"] == 4
    assert scores[at.chosen["scale"]] == max(scores.values()) > min(scores.values())
    assert all(torch.equal(merged[key], made[at.chosen["scale"]][key]) for key in merged)
    both = at_of(model, images, base=base)
    merge(states, "ties", at=both, density=[0.2, 1.0], scale=[0.5, 1.0, 1.5])
    assert both.chosen["candidates"] == 6 and {"density", "scale"} <= both.chosen.keys()


def test_a_list_needs_validation_and_each_of_its_values_is_checked() -> None:
    base, *states = varied(toy(0), 3)
    with pytest.raises(ValueError, match="'task_arithmetic' needs a way to build a network"):
        merge(states, "task_arithmetic", at=At(base=base), scale=[0.1, 0.2])
    with pytest.raises(ValueError, match="'greedy_soup' needs held-out labelled images"):
        merge(states, "greedy_soup", at=At(network=lambda state: toy(0)))
    for wrong in ([], [0.5, 1.5], ["much"]):
        with pytest.raises(ValidationError, match="alpha"):
            MERGING["wise_ft"].resolve({"alpha": wrong})
    assert MERGING["wise_ft"].resolve({"alpha": [0, 1]}) == {"alpha": (0, 1)}
    assert MERGING["wise_ft"].plain({"alpha": [0, 1]}) == {"alpha": [0, 1]}
    with pytest.raises(ValidationError, match="learning_rate"):
        MERGING["adamerging"].resolve({"learning_rate": [0.1, 0.2]})


def test_a_judge_keeps_images_while_there_is_room() -> None:
    batches, made = labelled(0, 8, 3, 2, 2), []

    def make() -> list[Labelled]:
        made.append(1)
        return batches

    for room, times in ((1000, 1), (50, 3), (0, 3)):
        kept = _Kept(make, room)
        made.clear()
        for _ in range(3):
            assert all(a is b for (a, _), (b, _) in zip(kept, batches, strict=True))
        assert len(made) == times
    with pytest.raises(ValueError, match="no held-out image"):
        Judge(varied(toy(0), 1), at_of(toy(0), {"jpeg": []}))(toy(0).state_dict())


def test_what_a_method_costs_is_told_for_forecasts() -> None:
    def work(method: str, **given: Any) -> tuple[int, int]:
        return MERGING[method].work(MERGING[method].resolve(given), 4)

    assert work("average") == (0, 0) and work("greedy_soup") == (7, 0)
    assert work("ties", density=[0.2, 0.5], scale=[1, 1.5, 2]) == (6, 0)
    assert work("fisher", examples=10) == (0, 120) and work("adamerging", steps=5, batch=2) == (0, 120)
    assert work("regmean", examples=10, off_diagonal=[0.5, 0.9]) == (2, 160)


class Odd(nn.Module):
    """A network with other norms than BatchNorm, a table of whole numbers, a constant, and a layer that is not run."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, groups=1), nn.GroupNorm(2, 4), nn.ReLU(inplace=True),
            nn.Conv2d(4, 4, 3, padding="same", groups=4), nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        )  # fmt: skip
        self.norm, self.head, self.aside = nn.LayerNorm(4), nn.Linear(4, 2), nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("places", torch.tensor([3, 1, 2, 0]))
        self.register_buffer("constant", torch.tensor([1.0, -1.0, 2.0, 0.5]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.body(x).mean((2, 3))[:, self.places] * self.constant
        return self.head(self.norm(pooled)) * self.scale


@pytest.mark.parametrize("method", MERGING.builtin)
def test_networks_with_other_norms_or_none_and_buffers_of_all_kinds(method: str) -> None:
    model = Odd()
    base, *states = varied(model, 4)
    for state in (base, *states):
        state["constant"] = model.constant.clone()  # type: ignore[operator, union-attr]
    images = {name: labelled(i, 20, 3, 6, 6) for i, name in enumerate(NAMES)}
    given: dict[str, Any] = {
        "linear": {"weights": [1, 2, 3]},
        "adamerging": {"steps": 2},
        "linear_search": {"trials": 5},
    }
    merged = merge(states, method, at=at_of(model, images, base=base), **given.get(method, {}))
    assert torch.equal(merged["places"], model.state_dict()["places"])
    torch.testing.assert_close(merged["constant"], model.state_dict()["constant"])
    assert torch.equal(merged["body.4.running_var"], average(states)["body.4.running_var"])
    model.load_state_dict(merged)
    assert recalibrate_batchnorm(model, iter(())) is model, "there is no BatchNorm: no image is asked for"
    assert model.eval()(images["jpeg"][0][0]).isfinite().all()


# AdaMerging.


def test_adamerging_goes_down_the_entropy() -> None:
    """Adam's first step moves each scale by the learning rate, against the slope that differences show."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    base, *states = varied(model, 3)
    images = {name: labelled(i, 8, 3, 5, 5) for i, name in enumerate(NAMES[:2])}
    keys = list(base)

    def entropy(scales: np.ndarray, x: torch.Tensor) -> float:
        state = {
            k: base[k].double() + sum(c * (s[k].double() - base[k].double()) for c, s in zip(row, states, strict=True))
            for k, row in zip(keys, scales, strict=True)
        }
        logarithms = torch.func.functional_call(copy.deepcopy(model).double(), state, (x.double(),)).log_softmax(1)
        return float(-(logarithms.exp() * logarithms).sum(1).mean())

    x = torch.cat([batches[0][0] for batches in images.values()])
    start, slope = np.full((len(keys), 2), 0.3), np.zeros((len(keys), 2))
    for place in itertools.product(range(len(keys)), range(2)):
        up, down = start.copy(), start.copy()
        up[place] += 1e-5
        down[place] -= 1e-5
        slope[place] = (entropy(up, x) - entropy(down, x)) / 2e-5
    expected = start - 0.01 * np.sign(slope)
    at = at_of(model, images, base=base)
    merged = merge(states, "adamerging", at=at, steps=1, batch=4, learning_rate=0.01)
    for key, row in zip(keys, expected, strict=True):
        made = base[key] + sum(c * (s[key] - base[key]) for c, s in zip(row, states, strict=True))
        torch.testing.assert_close(merged[key], made.float(), rtol=1e-4, atol=1e-5)
    assert at.chosen["scales"] == pytest.approx(dict(zip(NAMES[:2], expected.mean(0), strict=True)), abs=1e-4)
    longer = merge(states, "adamerging", at=at, steps=40, batch=4, learning_rate=0.05)
    model.load_state_dict(longer)
    logarithms = model(x).log_softmax(1)
    assert float(-(logarithms.exp() * logarithms).sum(1).mean()) < entropy(start, x)


def test_adamerging_leaves_batchnorms_statistics_to_the_rule_for_all() -> None:
    base, *states = varied(toy(0), 4)
    images = {name: labelled(i, 10, 3, 6, 6) for i, name in enumerate(NAMES)}
    merged = merge(states, "adamerging", at=at_of(toy(0), images, base=base), steps=2, batch=4)
    for key in ("1.running_mean", "5.running_var"):
        assert torch.equal(merged[key], average(states)[key])
    assert merged["1.num_batches_tracked"] == states[0]["1.num_batches_tracked"]
