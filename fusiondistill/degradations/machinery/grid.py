"""A picture of every degradation at several levels, to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fusiondistill.degradations import DEGRADATIONS, find
from fusiondistill.degradations.machinery.operator import degrade

__all__ = ["degrade_grid"]

_LARGEST = 224  # Larger pictures are made smaller first: a blur of 5 pixels would not be seen in them.
_SMALLEST = 128  # Smaller ones are shown with enlarged pixels.
_MOST_PIXELS = 8192 * 8192  # A camera's photographs, not a data set's images; 270 MB while it is read.
_MARGIN, _LINE, _LABEL = 8, 20, 136


def degrade_grid(
    image_path: str | Path,
    out_path: str | Path,
    *,
    degradations: Sequence[str] | None = None,
    columns: int = 5,
    seed: int = 0,
    protocol: str = "standard",
) -> Path:
    """Draw an image under every degradation, one row each, from its first level to its last.

    Args:
        image_path: a file of a kind that data sets may have, of at most 67 million pixels. One larger than 224
            pixels is made smaller before it is degraded, one smaller than 128 is enlarged, pixel by pixel, after that.
        out_path: the PNG file to write.
        degradations: names; default: all that are registered.
        columns: how many levels, evenly spread.
        seed, protocol: as in :func:`degrade`.

    Returns:
        ``out_path``.

    Raises:
        ValueError: the image is missing or cannot be read, or the grid cannot be written; the message has the path.
    """
    from PIL import Image, ImageDraw, ImageFont

    names = list(DEGRADATIONS) if degradations is None else [find(name).name for name in degradations]
    image = _read(Path(image_path))
    enlarge = max(1, -(-_SMALLEST // max(image.shape[2:])))
    height, width = (side * enlarge for side in image.shape[2:])
    cell_height, cell_width = height + _LINE + _MARGIN, max(width, 72) + _MARGIN
    size = (_LABEL + columns * cell_width + _MARGIN, len(names) * cell_height + _MARGIN)
    page = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for row, name in enumerate(names):
        top = _MARGIN + row * cell_height
        draw.text((_MARGIN, top + _LINE), name, "black", font)
        levels = _spread(find(name).levels, columns)
        batch = degrade(
            image.expand(columns, -1, -1, -1), name, levels, seed=seed, indices=[0] * columns, protocol=protocol
        )
        for column, level in enumerate(levels):
            left = _LABEL + column * cell_width
            draw.text((left, top), f"level {level}", "black", font)
            cell = Image.fromarray(batch[column].permute(1, 2, 0).contiguous().numpy())
            page.paste(cell.resize((width, height), Image.Resampling.NEAREST), (left, top + _LINE))
    return _write(page, Path(out_path))


def _spread(levels: range, count: int) -> list[int]:
    """``count`` of the levels, the first and the last among them."""
    return [levels[round(i * (len(levels) - 1) / max(1, count - 1))] for i in range(count)]


def _read(path: Path) -> torch.Tensor:
    """The image as uint8 [1,3,H,W], decoded like a data set's images, at most 224 pixels long."""
    import numpy as np
    from PIL import Image

    from fusiondistill.data.decoding import decode, read_bounded  # only here: the data know nothing of degradations

    image = Image.fromarray(decode(read_bounded(path), str(path), most_pixels=_MOST_PIXELS).pixels)
    image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].contiguous()


def _write(page: Any, path: Path) -> Path:
    try:
        page.save(path, format="PNG")
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path
