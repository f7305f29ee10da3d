"""A classifier as a graph of torch operations, from raw pixels to logits, for any number of images."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING

import torch
from torch import nn

from fusiondistill.cards import HOW
from fusiondistill.exporting.forms import Exported, ExportError
from fusiondistill.models.classifier import ImageClassifier
from fusiondistill.models.features import without_features
from fusiondistill.models.whole import Whole
from fusiondistill.plugins import blamed

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["BATCH", "captured", "in_a_line"]

BATCH = torch.export.Dim("batch", min=1)
"""The number of images."""


class _FromPixels(nn.Module):
    """Normalises images uint8 [N,3,H,W] and gives a network's logits, float32 [N,classes]."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network((images - self.mean) / self.std)
        return logits


def _from_pixels(source: ImageClassifier) -> _FromPixels:
    """A copy of a classifier without checks and feature maps."""
    network = without_features(copy.deepcopy(source.network).cpu())
    return _FromPixels(network, source.mean.detach().cpu().clone(), source.std.detach().cpu().clone())


def captured(what: Exported, form: str) -> ExportedProgram:
    """The graph of a classifier in eval mode, without paths of this machine in it.

    Args:
        form: the form that it is for, for the message.

    Raises:
        ExportError: the network's code has a way that depends on the pixels, or works for one number of images alone.
    """
    source = what.classifier
    if isinstance(source, Whole) and source.transductive:
        raise ExportError(
            f"{form} cannot hold {what.card[HOW]['name']}: an image's answer depends on the images beside it; "
            "a folder can"
        )
    whole = source.with_parts(_from_pixels).answers if isinstance(source, Whole) else _from_pixels(source)
    whole = whole.cpu().eval()
    images = torch.zeros(2, 3, *what.size, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(whole, (images,), dynamic_shapes=({0: BATCH},))
        except Exception as error:  # torch and a plugin's network may raise anything
            raise ExportError(
                f"{form} cannot hold the network {what.card['model']}: {blamed(error) or in_a_line(error)} (its code "
                "must do the same for all pixels and for any number of images); a folder can"
            ) from error
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # has the paths of the files that hold the code
    return program


def in_a_line(error: BaseException) -> str:
    """The first line of an error that says something, with its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
