"""Classifiers of raw uint8 images, alone or voting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from fusiondistill.data.preparation import Preparation
from fusiondistill.models.network import FeatureNetwork

if TYPE_CHECKING:
    from fusiondistill.prediction import Prediction


class Classifier(nn.Module):
    """What all classifiers of raw images can do."""

    def predict(self, paths: str | Path | Sequence[str | Path], **options: Any) -> list[Prediction]:
        """Classify image files; see :func:`fusiondistill.predict`."""
        from fusiondistill.prediction import predict

        return predict(self, paths, **options)


class ImageClassifier(Classifier):
    """A network together with its normalisation and its classes: raw images in, logits out.

    Args:
        network: takes normalised images, see `FeatureNetwork`.
        mean: of each channel, on the scale 0..255.
        std: of each channel, on the scale 0..255, above 0.
        classes: names of the classes, in the order of the logits.
        preparation: how files become images that it takes; where it has a size, other images are refused.

    Raises:
        ValueError: mean or std are not three numbers, or a std is not above 0.

    Example:
        >>> network = build_model("cifar_resnet8", 2)
        >>> classifier = ImageClassifier(network, (125.3, 123.0, 113.9), (63.0, 62.1, 66.7), ["cat", "dog"]).eval()
        >>> classifier(torch.zeros(4, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([4, 2])
    """

    mean: torch.Tensor
    std: torch.Tensor
    splits = True
    """Whether an image's logits depend on its own pixels alone, so that a batch may be cut and filled up."""

    def __init__(
        self,
        network: FeatureNetwork,
        mean: Sequence[float],
        std: Sequence[float],
        classes: Sequence[str],
        preparation: Preparation = Preparation(),  # noqa: B008  # frozen
    ) -> None:
        super().__init__()
        if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
            raise ValueError(f"mean and std must be three numbers each, std above 0; got {mean} and {std}")
        self.network = network
        self.classes, self.preparation = tuple(classes), preparation
        self.register_buffer("mean", torch.tensor([float(value) for value in mean]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([float(value) for value in std]).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor, features: bool = False) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Classify uint8 images [B, 3, H, W], 0..255.

        Returns:
            Logits, float [B, classes]; with `features=True` the pair (logits, feature map [B, F, h, w]).

        Raises:
            TypeError: the images are not uint8 (normalised ones belong into `network`).
            ValueError: they are not [B, 3, H, W], or have another size than the classifier takes.
        """
        self.check(images)
        return self.network((images - self.mean) / self.std, features=features)

    def check(self, images: torch.Tensor) -> None:
        """Raise if the classifier does not take images of this shape and type; their values are not checked."""
        if images.dtype != torch.uint8:
            raise TypeError(f"a classifier takes uint8 images, 0..255, and normalises them itself; got {images.dtype}")
        if images.dim() != 4 or images.shape[1] != 3:
            sides = ", ".join(map(str, images.shape))
            raise ValueError(f"a classifier takes images [B, 3, H, W], the channels before the rows; got [{sides}]")
        size = self.preparation.size
        if size is not None and (images.shape[2] != size[0] or images.shape[3] != size[1]):
            raise ValueError(
                f"the network was trained on images of {size[1]}x{size[0]} pixels, these have "
                f"{images.shape[3]}x{images.shape[2]}: resize them as in its training, which `predict` does for files, "
                "or load it with any_size=True"
            )

    def forward_features(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute (logits [B, classes], feature map [B, F, h, w]) of uint8 images [B, 3, H, W]."""
        logits, feature_map = self(images, features=True)
        return logits, feature_map


class Ensemble(Classifier):
    """Classifiers that vote: the plurality of their predicted classes, a tie broken by the summed logits.

    Its output is a score, not a logit: its arg-max is the decision and nothing else about it has a meaning, so take no
    softmax of it. An image with a unique winner gets the vote counts of the classes; one with a tie gets the models'
    logits, summed, over all classes: as in the paper, a class that no member voted for may win there.

    Args:
        models: at least one, with the same classes; each takes images and returns logits [B, classes].

    Raises:
        ValueError: no model, or models with different classes.

    Example:
        >>> models = [nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(2, 3)]
        >>> Ensemble(models)(torch.randn(5, 2)).argmax(1).shape
        torch.Size([5])
    """

    gives = "votes"

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        if not models:
            raise ValueError("an ensemble needs at least one model")
        classes = {model.classes for model in models if isinstance(model, ImageClassifier)}
        if len(classes) > 1:
            raise ValueError("the models of an ensemble must have the same classes in the same order")
        self.models = nn.ModuleList(models)
        self.classes = next(iter(classes), ())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Vote on `images`, uint8 [B, 3, H, W] (a size that the models take); returns scores float32 [B, classes]."""
        logits = torch.stack([model(images).float() for model in self.models])  # [M, B, C]
        votes = F.one_hot(logits.argmax(2), logits.shape[2]).sum(0)
        unique = (votes == votes.amax(1, keepdim=True)).sum(1, keepdim=True) == 1
        return torch.where(unique, votes.float(), logits.sum(0))


class SoftVote(Ensemble):
    """Classifiers whose probabilities are averaged: log(1/M sum_m softmax(logits_m)).

    Args and errors are those of :class:`Ensemble`.

    Example:
        >>> soft = SoftVote([nn.Linear(2, 3), nn.Linear(2, 3)])
        >>> bool(torch.isclose(soft(torch.randn(1, 2)).exp().sum(), torch.tensor(1.0)))
        True
    """

    gives = "log-probabilities"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Log-probabilities float32 [B, classes] of `images`, uint8 [B, 3, H, W] (a size that the models take)."""
        logarithms = torch.stack([model(images).float().log_softmax(1) for model in self.models])  # [M, B, C]
        return logarithms.logsumexp(0) - math.log(len(self.models))
