"""LiNeS: the experts' changes added up, those of deep layers scaled more than those of shallow ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fusiondistill.merging import MERGING, At

if TYPE_CHECKING:
    import torch

    from fusiondistill.state_dicts import StateDict


@MERGING.register(
    "lines",
    needs={"base", "network"},
    scans={"shallow", "deep"},
    source="Wang et al., LiNeS: post-training layer scaling, ICLR 2025, arXiv:2410.17146",
)
def lines(
    experts: Sequence[StateDict],
    at: At,
    *,
    shallow: Annotated[float, Field(allow_inf_nan=False, description="scale of the first layer's changes")] = 0.25,
    deep: Annotated[float, Field(allow_inf_nan=False, description="scale of the last layer's changes")] = 0.5,
) -> dict[str, torch.Tensor]:
    """Task arithmetic with a scale that grows linearly with depth.

    `theta_0 + lambda_l sum_i (theta_i - theta_0)` with `lambda_l = shallow + (deep - shallow) l / (L - 1)` for the l-th
    of L layers. A layer is a module that has weights (a convolution, a normalisation, a head); their order is that in
    which the network defines them (files of weights sort names). A network with one layer takes `shallow`. Lists take
    the best pair on validation, such as `{shallow: [0.1, 0.2, 0.3], deep: [0.3, 0.5, 1.0]}`. Computed in float64 and
    cast back once.
    """
    from fusiondistill.state_dicts import moved, parameter_keys

    defined = [name for name, _ in at.network(experts[0]).named_parameters()]
    layers = list(dict.fromkeys(key.rpartition(".")[0] for key in (*defined, *parameter_keys(experts[0]))))

    def change(name: str, gone: torch.Tensor) -> torch.Tensor:
        depth = layers.index(name.rpartition(".")[0]) / max(1, len(layers) - 1)
        return (shallow + (deep - shallow) * depth) * gone.sum(0)

    return moved(experts, at.base, change)
