"""Frozen values and the number types of a config. Nothing here imports torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Frozen", "Positive", "Weight"]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Frozen(BaseModel):
    """A value: hashable content, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
