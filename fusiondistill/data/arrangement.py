"""What is done to the images of any source before they are stored: one size for all, and a test split cut off."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from fusiondistill.frozen import Frozen
from fusiondistill.parametrised import Parametrised

__all__ = ["CUT", "Arranged", "Arrangement", "Fit", "cut_advice"]

Side = Annotated[int, Field(ge=2, le=4096)]
Fit = Literal["crop", "pad", "stretch"]


CUT = "write data.test: 0.2 (or say --set data.test=0.2), which cuts one off the training images"
"""What users without a test split are told."""


def cut_advice(split: str) -> str:
    """What a source says of a split that is not there, after its own advice; "" where it is not the test split."""
    return f" Or {CUT}." if split == "test" else ""


class Arrangement(Frozen):
    """The settings, which are keys of ``data:`` for every source.

    Raises:
        pydantic.ValidationError: a value of a wrong type or out of range.
    """

    size: tuple[Side, Side] | None = Field(
        None,
        description="resize to so many pixels, 64 or [height, width], once, before anything else; default: as they are",
    )
    fit: Fit = Field(
        "crop",
        description="how images are brought to another shape: crop the middle, pad with black, or stretch; by "
        "Pillow's BICUBIC",
    )
    test: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="part of the training images to cut off as the test split, of a set that has none"
    )
    split_seed: int = Field(0, description="which images data.test cuts off; the run's seed does not change it")

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return (value, value)
        if value is not None and not (isinstance(value, list | tuple) and len(value) == 2):
            raise ValueError(f"is a number of pixels, like 64, or [height, width], not {value!r}")
        return value

    @property
    def arrangement(self) -> dict[str, Any]:
        """The settings that are not at their default, JSON-able: what stands in digests."""
        fields = Arrangement.model_fields
        given = {name: getattr(self, name) for name in fields}
        given["size"] = None if self.size is None else list(self.size)
        return {name: value for name, value in given.items() if value != fields[name].default}


class Arranged(Parametrised, Arrangement):
    """A data set with its source's parameters and its arrangement beside its own keys."""

    model_config = ConfigDict(frozen=True, extra="allow")

    later = frozenset(Arrangement.model_fields)

    @property
    def loading(self) -> dict[str, Any]:
        """What :func:`fusiondistill.load_images` takes by name, JSON-able."""
        return {**self.parameters, **self.arrangement}
