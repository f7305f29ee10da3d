"""RegMean: each convolution and linear layer is the least-squares fit to the experts' outputs on their own inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from fusiondistill.merging import MERGING, At

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fusiondistill.merging._at import Labelled
    from fusiondistill.state_dicts import StateDict

    Grams = dict[str, torch.Tensor]

COLUMNS = 2**24
"""Values of unfolded inputs that are held at a time: 64 MiB."""


@MERGING.register(
    "regmean",
    needs={"network", "batches"},
    labelled=False,
    passes=lambda values, experts: 2 * experts * values["examples"],  # as much again for the Gram matrices
    scans={"off_diagonal"},
    source="Jin et al., Dataless knowledge fusion by merging weights, ICLR 2023, arXiv:2212.09849; convolutions: ours",
)
def regmean(
    experts: Sequence[StateDict],
    at: At,
    *,
    examples: Annotated[int, Field(ge=1, description="images of its degradation that each expert sees, at most")] = 256,
    off_diagonal: Annotated[
        float,
        Field(ge=0, le=0.999, description="factor of the Gram matrices' off-diagonals; 1 would leave them singular"),
    ] = 0.9,
    ridge: Annotated[
        float,
        Field(ge=1e-9, allow_inf_nan=False, description="added to the diagonals, times their mean over the layer"),
    ] = 1e-6,
) -> dict[str, torch.Tensor]:
    """The weights of each layer that come nearest to the experts' outputs on the experts' own inputs.

    `W = (sum_i G_i)^-1 sum_i G_i W_i` with `G_i = X_i^T X_i / n_i` of the layer's inputs X_i in expert i on images of
    its degradation, off-diagonals times `off_diagonal`. A convolution is the same on the columns of its unfolded input
    (im2col, [Cin * kh * kw]); one with groups has a matrix for each group. Biases and all other parameters are
    averaged. Gram matrices are summed batch by batch in float64, and only the sum over experts is kept. No matrix is
    singular within the bounds of the parameters: off-diagonals shrink, and each diagonal gets a ridge (a layer whose
    inputs are all 0 is averaged).

    Raises:
        ValueError: a layer's inputs are not finite, or its matrix is singular (a direct call with parameters beyond
            their bounds); the message names the layer and what to change.
    """
    import torch

    from fusiondistill.merging._images import first
    from fusiondistill.state_dicts import average

    left: Grams = {}
    right: Grams = {}
    for number, (name, state) in enumerate(zip(at.names, experts, strict=True)):
        found = _grams(at.network(state), first(at, name, examples))
        for layer in list(left) if number else []:
            if layer not in found:  # a layer that not every expert's forward pass reaches is averaged
                del left[layer], right[layer]
        for layer, gram in found.items() if not number else ((one, found[one]) for one in left):
            shrunk = off_diagonal * gram + torch.diag_embed((1 - off_diagonal) * gram.diagonal(dim1=1, dim2=2))
            shrunk.diagonal(dim1=1, dim2=2).add_(ridge * (float(gram.diagonal(dim1=1, dim2=2).mean()) or 1.0))
            weight = state[f"{layer}.weight"].detach().to(gram)
            product = shrunk @ weight.view(len(gram), -1, gram.shape[1]).transpose(1, 2)
            left[layer] = left[layer] + shrunk if layer in left else shrunk
            right[layer] = right[layer] + product if layer in right else product
    merged = average(experts)
    for layer, gram in left.items():
        key = f"{layer}.weight"
        merged[key] = _solved(gram, right[layer], layer).transpose(1, 2).reshape(merged[key].shape).to(merged[key])
    return merged


def _solved(gram: torch.Tensor, right: torch.Tensor, layer: str) -> torch.Tensor:
    """X with gram X = right, for float64 [G,K,K] and [G,K,O]; the matrix is scaled to a diagonal of ones first."""
    import torch

    if not bool(gram.isfinite().all()):
        raise ValueError(f"regmean: the inputs of the layer {layer} are not finite; leave out that expert")
    scale = gram.diagonal(dim1=1, dim2=2).rsqrt()
    factor, failed = torch.linalg.cholesky_ex(scale[:, :, None] * gram * scale[:, None, :])
    pivots = factor.diagonal(dim1=1, dim2=2)
    smallest = gram.shape[1] * torch.finfo(gram.dtype).eps
    if bool(failed.any()) or not bool((pivots.square() > smallest).all()):
        dead = int((gram.diagonal(dim1=1, dim2=2) == 0).sum())
        why = f"{dead} of its {gram.shape[0] * gram.shape[1]} inputs are 0 on all images" if dead else (
            "its inputs depend on each other, or there are too few images"
        )  # fmt: skip
        raise ValueError(
            f"regmean: the Gram matrix of the layer {layer} is singular: {why}. Give ridge above 0 (like 1e-6), "
            "off_diagonal below 1 (like 0.9), or more examples"
        )
    return scale[:, :, None] * torch.cholesky_solve(scale[:, :, None] * right, factor)


def _grams(network: nn.Module, batches: Iterable[Labelled]) -> Grams:
    """Layer -> X^T X / n of its inputs, float64 [groups, K, K], on the network's device; only layers that were run."""
    import torch

    total: Grams = {}
    count: dict[str, int] = {}

    def note(layer: str, module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        for columns in _columns(module, inputs[0]):
            gram = (columns @ columns.transpose(1, 2)).double()
            total[layer] = total[layer] + gram if layer in total else gram
            count[layer] = count.get(layer, 0) + columns.shape[2]

    with _listening(network, note), torch.no_grad():
        for pixels, _ in batches:
            network(pixels)
    return {layer: gram / count[layer] for layer, gram in total.items()}


@contextmanager
def _listening(network: nn.Module, note: Any) -> Iterator[None]:
    """While the block runs, ``note(name, module, inputs)`` is called before each convolution and linear layer."""
    from torch import nn

    layers = {name: one for name, one in network.named_modules() if type(one) in (nn.Conv2d, nn.Linear)}
    hooks = [
        one.register_forward_pre_hook(lambda module, inputs, name=name: note(name, module, inputs))
        for name, one in layers.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _columns(module: Any, inputs: torch.Tensor) -> Iterator[torch.Tensor]:
    """The inputs of a layer as columns, float32 [groups, K, n], a part of the batch at a time."""
    import torch.nn.functional as F
    from torch import nn

    if isinstance(module, nn.Linear):
        yield inputs.reshape(1, -1, module.in_features).transpose(1, 2)
        return
    kernel = tuple(module.kernel_size)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = F.pad(inputs, module._reversed_padding_repeated_twice, mode=mode)
    each = max(1, COLUMNS // max(1, inputs[0].numel() * kernel[0] * kernel[1]))
    for part in padded.split(each):
        columns = F.unfold(part, kernel, dilation=module.dilation, stride=module.stride)  # [b, Cin * kh * kw, L]
        grouped = columns.unflatten(1, (module.groups, -1))
        yield grouped.permute(1, 2, 0, 3).flatten(2)
