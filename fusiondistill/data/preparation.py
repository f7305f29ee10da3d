"""Prepares a file as the images of a training were: decoded by the same rules, and brought to the network's size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fusiondistill.data.arrangement import Fit
from fusiondistill.data.decoding import Decoded, decode, to_be_resized
from fusiondistill.data.errors import DataError
from fusiondistill.data.reading import Background, Bits, colour
from fusiondistill.data.resizing import resized

__all__ = ["Preparation"]

_KINDS: dict[str, TypeAdapter[Any]] = {
    "fit": TypeAdapter(Fit | None),
    "background": TypeAdapter(Background),
    "bits": TypeAdapter(Bits),
}

_FITS: dict[Fit, str] = {
    "crop": "crop: resize the largest centred part of that shape (its edges may lie within pixels: Pillow's `box`) to "
    "{size} in one step by Pillow's BICUBIC, which antialiases",
    "pad": "pad: resize the whole image by Pillow's BICUBIC, which antialiases, to the largest size that fits into "
    "{size}, and lay it into the middle of a black image of {size}",
    "stretch": "stretch: resize the whole image to {size} by Pillow's BICUBIC, which antialiases",
}

MOST_PIXELS = 4096 * 4096
"""Of the size that a card may ask for: that of the largest ``data.size``."""


@dataclass(frozen=True)
class Preparation:
    """How a file becomes an image that a network takes. A card holds what is not as here.

    Attributes:
        size: (height, width) in pixels that the network takes; None: any.
        fit: how an image of another size is brought to it, as ``data.fit`` says; None: such an image is an error.
        background: what transparent pixels are laid over, as ``data.background`` says.
        bits: how many bits the values of 16-bit images fill, as ``data.bits`` says; None: all of their format.

    Example:
        >>> Preparation.of_card({"size": [32, 32], "fit": "pad", "background": "black"})
        Preparation(size=(32, 32), fit='pad', background='black', bits=None)
    """

    size: tuple[int, int] | None = None
    fit: Fit | None = None
    background: Background = "white"
    bits: int | None = None

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> Preparation:
        """What a checked card says. Cards from before there was ``fit`` say how large an image is, and no more."""
        given = {key: _read(key, card[key]) for key in _KINDS if key in card}
        return cls(size=tuple(card["size"]) if card.get("size") else None, **given)

    def sentence(self) -> str:
        """What :meth:`prepared` does, for those who do it in another program."""
        deep = f"16-bit values fill {self.bits} bits and are" if self.bits else "more than 8 bits a value are"
        over = self.background if isinstance(self.background, str) else f"RGB {list(self.background)}"
        said = (
            f"Decode the file (of several frames the first; {deep} scaled to 8), turn it upright by its EXIF "
            f"orientation, lay transparent pixels over {over}, make it RGB 0..255 (grey repeated, CMYK converted "
            "without a colour profile)"
        )
        if self.size is None:
            return f"{said}."
        size = f"{self.size[1]}x{self.size[0]}"
        if self.fit is None:
            return f"{said}; it must then have {size} pixels (width x height), since the training resized none."
        return f"{said}; unless it has {size} pixels (width x height) by then, {_FITS[self.fit].format(size=size)}."

    def prepared(self, data: bytes, where: str) -> Decoded:
        """Decode an image and bring it to the size.

        Args:
            data: the bytes of an image file.
            where: the file, for messages.

        Returns:
            the image, whose pixels are uint8 [height, width, 3], RGB 0..255.

        Raises:
            DataError: as :func:`fusiondistill.data.decoding.decode`; or an image of another size, and no ``fit``.
        """
        with to_be_resized():
            image = decode(data, where, background=colour(self.background), bits=self.bits)
        own_height, own_width = image.pixels.shape[:2]
        if self.size is None or (own_height, own_width) == self.size:
            return image
        if self.fit is None:
            height, width = self.size
            raise DataError(
                f"{where}: has {own_width}x{own_height} pixels, and the network was trained on images of "
                f"{width}x{height}. Say how it gets that size: --fit crop, pad or stretch (in Python fit='crop')."
            )
        return replace(image, pixels=resized(image.pixels, self.size, self.fit))


def _read(key: str, value: Any) -> Any:
    return _KINDS[key].validate_json(json.dumps(value), strict=True)


def wrong_keys(card: Mapping[str, Any]) -> list[str]:
    """The keys of a card, which may come from an untrusted file, that :meth:`Preparation.of_card` could not take."""
    wrong = []
    size = card.get("size") or (1, 1)
    sides = isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    if not sides or size[0] * size[1] > MOST_PIXELS:
        wrong.append("size")
    for key in _KINDS:
        try:
            if key in card:
                _read(key, card[key])
        except ValidationError:
            wrong.append(key)
    return wrong
