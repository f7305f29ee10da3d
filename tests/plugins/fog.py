"""A degradation of one's own with a parameter."""

from typing import Annotated

import torch
from pydantic import Field

from fusiondistill.degradations import DEGRADATIONS


@DEGRADATIONS.register("fog", range(0, 11))
def fog(
    images: torch.Tensor,
    levels: torch.Tensor,
    *,
    light: Annotated[int, Field(ge=0, le=255, description="grey value of the fog")] = 200,
) -> torch.Tensor:
    """Level tenths of the picture are replaced by even grey."""
    share = levels.view(-1, 1, 1, 1)
    return ((images * (10 - share) + light * share) // 10).to(torch.uint8)
