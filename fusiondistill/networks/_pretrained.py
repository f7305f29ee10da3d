"""Pretrained weights of a provider's networks: which file they are, where it is looked for, and its normalisation."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fusiondistill.commits import CheckpointError
from fusiondistill.pixel_scale import of_unit

__all__ = ["Pretrained", "torch_hub_file", "torch_hub_place"]

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Pretrained:
    """Published weights of a network.

    Attributes:
        name: what their publisher calls them.
        mean, std: the normalisation that they were trained with, a number for each channel, on the scale 0..255.
        fetch: gives the path of the file with them; downloads it where it is not in its cache.
        at_hand: whether it is in its cache.
    """

    name: str
    mean: Numbers
    std: Numbers
    fetch: Callable[[], Path]
    at_hand: Callable[[], bool] = lambda: False

    @classmethod
    def of_unit(
        cls, name: str, mean: Numbers, std: Numbers, fetch: Callable[[], Path], at_hand: Callable[[], bool]
    ) -> Pretrained:
        """With mean and std on the scale 0..1, as most libraries give them."""
        return cls(name, of_unit(mean), of_unit(std), fetch, at_hand)


def torch_hub_place(url: str) -> Path:
    """Where the file of a URL lies in torch's cache, or would lie."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def torch_hub_file(url: str) -> Path:
    """The file of a URL in torch's cache; downloaded where it is not there.

    The hash that torch's files have in their names is checked after a download, as ``torch.hub`` does.

    Raises:
        CheckpointError: it is not there and cannot be fetched; the message names it and its folder.
    """
    import torch

    file = torch_hub_place(url)
    folder = file.parent
    if not file.exists():
        digits = re.search(r"-([a-f0-9]{8,})\.", file.name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), digits[1] if digits else None, progress=False)
        except (OSError, RuntimeError) as error:
            at = f"{folder} (torch's cache; TORCH_HOME moves it)"
            raise not_here(file.name, url, at, "copy it into that folder, or", error) from error
    return file


def not_here(file: str, place: str, cache: str, then: str, error: Exception) -> CheckpointError:
    """The error for a file that is not in a cache and cannot be fetched."""
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return CheckpointError(
        f"pretrained weights: {file} is not in {cache}, and cannot be fetched ({reason}). On a machine with a network "
        f"connection fetch it from {place}; {then} say model.weights: FILE"
    )
