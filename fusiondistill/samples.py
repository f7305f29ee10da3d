"""Chooses a few images of a test split to show, some of them for what a network says, and encodes them as PNG files."""

from __future__ import annotations

import io
import itertools

import torch

__all__ = ["mistake_rows", "png", "sample_rows"]

MOST, FEWEST = 16, 4
PIXELS = MOST * 64 * 64
"""Of all samples at one level together; 4 images are taken even where they have more."""
MOST_MISTAKES, FEWEST_MISTAKES = 6, 2


def sample_rows(labels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The rows of a few images to show: the same for every method, since they depend on the labels and size alone.

    Args:
        labels: int64 [N].
        size: (height, width) of the images; of large images fewer are taken.

    Returns:
        int64 [n], 4 to 16 rows (fewer only if there are fewer images): the first image of each class, then the second
        of each, and so on. Of more classes than rows some are taken, evenly spread.
    """
    count = min(len(labels), max(FEWEST, min(MOST, PIXELS // (size[0] * size[1]))))
    present = labels.cpu().unique()
    spread = torch.linspace(0, len(present) - 1, min(count, len(present))).round().long()
    of_class = [(labels.cpu() == label).nonzero().flatten().tolist() for label in present[spread]]
    in_turn = (row for rows in itertools.zip_longest(*of_class) for row in rows if row is not None)
    return torch.tensor(list(itertools.islice(in_turn, count)), dtype=torch.int64)


def mistake_rows(wrong: torch.Tensor, confidence: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The rows of the images about which a network is wrong and surest.

    Args:
        wrong: whether it is wrong about each image, bool [N].
        confidence: the probability of what it says, float32 [N].
        size: (height, width) of the images; of large images fewer are taken.

    Returns:
        int64 [n], the surest first and the earlier of equals; 2 to 6 rows, fewer only if there are fewer mistakes.
    """
    count = max(FEWEST_MISTAKES, min(MOST_MISTAKES, PIXELS // (size[0] * size[1])))
    rows = wrong.nonzero().flatten()
    return rows[confidence[rows].argsort(descending=True, stable=True)[:count]]


def png(image: torch.Tensor) -> bytes:
    """An image, uint8 [3,H,W], as the bytes of a PNG file that holds exactly these pixels."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy()).save(stream, format="PNG", optimize=True)
    return stream.getvalue()
