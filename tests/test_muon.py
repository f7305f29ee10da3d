"""Muon: against the singular value decomposition, against torch's own for matrices, and against plain momentum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fusiondistill.muon import Muon, is_matrix, orthogonalised
from fusiondistill.training import train
from fusiondistill_runner.working.train import pack, unpack
from toy_training import Toy, make_pipeline, make_recipe


@pytest.mark.parametrize(("rows", "columns"), [(8, 40), (40, 8), (16, 16)])
def test_directions_stay_and_singular_values_come_near_one(rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    matrices = torch.randn(3, rows, columns, generator=generator) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    found = orthogonalised(matrices).double()
    u, s, v = torch.linalg.svd(matrices.double(), full_matrices=False)
    turned = u.mT @ found @ v.mT  # diagonal: the same singular vectors
    values = turned.diagonal(dim1=1, dim2=2)
    assert float((turned - torch.diag_embed(values)).abs().max()) < 1e-3
    large = s / s.norm(dim=1, keepdim=True) > 0.02
    assert float(values[large].min()) > 0.65 and float(values.max()) < 1.25


def test_zeros_and_one_row_in_a_stack_stay_finite() -> None:
    stack = torch.stack([torch.zeros(4, 6), torch.ones(4, 6)])
    found = orthogonalised(stack)
    assert not found[0].any() and bool(found.isfinite().all())


@pytest.mark.parametrize("nesterov", [True, False])
def test_matrices_move_as_with_torch(nesterov: bool) -> None:
    """torch computes the directions in bfloat16: equal to a part in a hundred of a step."""
    generator = torch.Generator().manual_seed(1)
    ours, theirs = (nn.Parameter(torch.zeros(24, 10)) for _ in range(2))
    with torch.no_grad():
        ours.copy_(torch.randn(24, 10, generator=generator))
        theirs.copy_(ours)
    settings = {"lr": 0.1, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.1}
    torchs = torch.optim.Muon([theirs], **settings)  # type: ignore[arg-type]
    made = Muon([ours], 0.1, 0.9, nesterov, 0.1)
    for _ in range(5):
        before = ours.detach().clone()
        ours.grad = torch.randn(24, 10, generator=generator)
        theirs.grad = ours.grad.clone()
        made.step()
        torchs.step()
        assert float((ours - theirs).norm() / (ours - before).norm()) < 0.05


def test_a_convolution_is_the_matrix_of_its_filters_in_any_layout() -> None:
    generator = torch.Generator().manual_seed(2)
    start, grad = (torch.randn(6, 4, 3, 3, generator=generator) for _ in range(2))
    forms = [start.flatten(1), start, start.contiguous(memory_format=torch.channels_last)]
    moved = []
    for form in forms:
        weight = nn.Parameter(form.clone(memory_format=torch.preserve_format))
        weight.grad = grad.flatten(1) if form.ndim == 2 else grad.to(memory_format=torch.preserve_format)
        Muon([weight], 0.1, weight_decay=0.1).step()
        moved.append(weight.detach().flatten(1))
    for one in moved[1:]:
        torch.testing.assert_close(one, moved[0], rtol=0, atol=1e-6)


def test_what_is_no_matrix_follows_momentum_at_half_the_rate() -> None:
    generator = torch.Generator().manual_seed(3)
    shapes = [(7,), (1, 5, 3), (1, 9)]  # a bias, positions of a transformer, a layer of one output
    ours = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    theirs = [nn.Parameter(one.detach().clone()) for one in ours]
    assert not any(map(is_matrix, ours)) and is_matrix(torch.zeros(2, 1, 3, 3)) and is_matrix(torch.zeros(2, 3))
    made, plain = Muon(ours, 0.2), torch.optim.SGD(theirs, 0.1, 0.9, nesterov=True)
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        made.step()
        plain.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_weights_without_a_gradient_stay() -> None:
    frozen, moving = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    moving.grad = torch.eye(3)
    Muon([frozen, moving], 0.1, weight_decay=0.5).step()
    assert torch.equal(frozen, torch.ones(3, 3)) and not torch.equal(moving, torch.ones(3, 3))


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_each_kind_of_layer_moves_by_its_matrix(static: bool, last: bool) -> None:
    """A grouped and a depthwise convolution, 1x1, with positions and a frozen layer beside, by a decomposition."""
    torch.manual_seed(4)
    layers = nn.ModuleList([
        nn.Conv2d(4, 6, 3), nn.Conv2d(8, 6, 3, groups=2), nn.Conv2d(6, 6, (3, 1), groups=6), nn.Conv2d(5, 3, 1),
        nn.ConvTranspose2d(4, 5, 2), nn.Conv3d(2, 3, 2), nn.Linear(4, 6), nn.MultiheadAttention(4, 2),
        nn.Embedding(5, 4),
    ])  # fmt: skip
    for layer in layers:
        if last and not isinstance(layer, nn.Conv3d):
            layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    layers[0].requires_grad_(False)
    weights = list(layers.parameters())
    for weight in weights:
        weight.grad = torch.randn_like(weight) if weight.requires_grad else None
    before = [weight.detach().clone() for weight in weights]
    rate = torch.tensor(0.1) if static else 0.1
    Muon(weights, rate, nesterov=False, weight_decay=0.5).step()
    for weight, old in zip(weights, before, strict=True):
        if weight.grad is None:
            assert torch.equal(weight, old)
            continue
        moved = (weight.detach() - old * (1 - 0.1 * 0.5 * (1 if is_matrix(weight) else 0.5))) / -0.1
        if not is_matrix(weight):
            torch.testing.assert_close(moved, 0.5 * weight.grad, rtol=1e-4, atol=1e-4)
            continue
        u, s, v = torch.linalg.svd(weight.grad.flatten(1), full_matrices=False)
        turned = (u.mT @ moved.flatten(1) @ v.mT) / max(1.0, len(weight) / weight[0].numel()) ** 0.5
        values = turned.diagonal()
        torch.testing.assert_close(turned, torch.diag_embed(values), rtol=0, atol=2e-3)
        assert float(values[s > 0.1 * s[0]].min()) > 0.6 and float(values.max()) < 1.25


def test_a_training_goes_on_where_it_stopped_to_the_bit() -> None:
    """The state of the optimiser goes through the store's form, and comes back in another memory layout."""
    recipe = make_recipe(3, "muon", feature=1.0)
    whole, half = (dict[str, Any](start=None, seen=[]) for _ in range(2))
    pipeline = make_pipeline(("noise", "blur"), channels_last=True)
    for run, starts in ((whole, [None]), (half, [None, 2])):
        for at in starts:
            start = None if at is None else unpack(pack(run["seen"][at - 1]))
            train(Toy(1), recipe, pipeline, seed=0, teachers=[Toy(2), Toy(3)], start=start, on_epoch=run["seen"].append)
    ends = [run["seen"][-1].model for run in (whole, half)]
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
