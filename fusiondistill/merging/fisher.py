"""Fisher merging: each weight is averaged by how much each expert's answers depend on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from fusiondistill.merging import MERGING, At

if TYPE_CHECKING:
    import torch

    from fusiondistill.state_dicts import StateDict


@MERGING.register(
    "fisher",
    needs={"network", "batches"},
    labelled=lambda values: values["labels"] == "true",
    passes=lambda values, experts: 3 * experts * values["examples"],
    source="Matena and Raffel, Merging models with Fisher-weighted averaging, NeurIPS 2022, arXiv:2111.09832",
)
def fisher(
    experts: Sequence[StateDict],
    at: At,
    *,
    examples: Annotated[int, Field(ge=1, description="images of its degradation that each expert sees, at most")] = 256,
    labels: Annotated[
        Literal["true", "own"], Field(description="those of the images, or drawn from the expert's own answer")
    ] = "true",
    floor: Annotated[float, Field(gt=0, allow_inf_nan=False, description="least information of a weight")] = 1e-6,
    normalise: Annotated[bool, Field(description="scale each expert's information to length 1")] = False,
) -> dict[str, torch.Tensor]:
    """The average in which each weight of each expert counts by its Fisher information.

    `theta = sum_i F_i theta_i / sum_i F_i`, weight by weight, with `F_i = max(floor, mean_x (d log p_i(y|x) / d
    theta_i)^2)` over images x of the expert's own degradation: the gradient of each example is squared, not that of a
    batch. The expert runs in eval mode. Tensors that get no gradient are averaged. Computed in float64 and cast back
    once.
    """
    import torch

    from fusiondistill.state_dicts import parameter_keys

    keys = list(parameter_keys(experts[0]))
    above = {key: torch.zeros(experts[0][key].shape, dtype=torch.float64) for key in keys}
    below = {key: torch.zeros_like(tensor) for key, tensor in above.items()}
    for name, state in zip(at.names, experts, strict=True):
        found = _information(state, name, at, examples, labels)
        length = sum(float(one.square().sum()) for one in found.values()) ** 0.5 if normalise else 1.0
        for key in keys:
            weight = (found[key] / (length or 1.0)).clamp(min=floor) if key in found else torch.ones_like(above[key])
            above[key] += weight * state[key].detach().to(above[key])
            below[key] += weight
    return {key: (above[key] / below[key]).to(experts[0][key]) for key in keys}


def _information(state: StateDict, name: str, at: At, examples: int, labels: str) -> dict[str, torch.Tensor]:
    """The mean squared gradient of each parameter over single examples, float64 on the CPU."""
    import torch

    from fusiondistill.merging._images import first
    from fusiondistill.randomness import key, uniform

    network = at.network(state)
    parameters = {one: tensor.requires_grad_() for one, tensor in network.named_parameters()}
    total = {one: torch.zeros(tensor.shape, dtype=torch.float64) for one, tensor in parameters.items()}
    drawn, seen = key(at.seed if at.has("seed") else 0, "fisher", name), 0
    for image, label in ((i, n) for batch in first(at, name, examples) for i, n in zip(*batch, strict=True)):
        logarithms = network(image[None]).log_softmax(1)[0]
        if labels == "own":
            part = float(uniform(drawn, torch.tensor(seen)))
            label = (logarithms.exp().cumsum(0) < part).sum().clamp(max=len(logarithms) - 1)
        gradients = torch.autograd.grad(logarithms[label], list(parameters.values()), allow_unused=True)
        for one, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[one] += gradient.detach().to("cpu", torch.float64).square()
        seen += 1
    return {one: tensor / seen for one, tensor in total.items()}
