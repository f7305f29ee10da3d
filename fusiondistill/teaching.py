"""Several teachers of the same images, joined to one teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from fusiondistill.losses import Mixed, Outputs
from fusiondistill.mixing import blended, for_each

__all__ = ["check_count", "confidences", "joined"]


def check_count(count: int, by: str, degradations: int) -> None:
    """Whether there are as many teachers as it takes.

    Raises:
        ValueError: there are not.
    """
    if by == "degradation" and count != degradations:
        raise ValueError(f"the loss needs a teacher per degradation: {degradations}, got {count}")
    if by != "degradation" and count < 2:
        raise ValueError(f"teachers by {by} are two or more, got {count}")


def confidences(logits: Sequence[torch.Tensor], labels: torch.Tensor, mixed: Mixed | None = None) -> torch.Tensor:
    """How much each of K teachers counts for each image: `w_k = (1 - softmax_k(CE_k)) / (K - 1)`.

    CE_k is the cross-entropy of teacher k with the image's label: a teacher that is surer of the right class counts
    more. Zhang, Chen and Wang, Confidence-aware multi-teacher knowledge distillation (CA-MKD), ICASSP 2022,
    arXiv:2201.00007, equation 3.

    Args:
        logits: K times float [B, C], K at least 2.
        labels: int64 [B].
        mixed: what each image is mixed with: its cross-entropy is that with both labels, by their shares.

    Returns:
        float32 [K, B]; the weights of an image are at least 0 and sum to 1.

    Example:
        >>> confidences([torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 9.0]])], torch.tensor([0])).round(decimals=3)
        tensor([[1.],
                [0.]])
    """
    losses = torch.stack([_cross_entropy(one.float(), labels, mixed) for one in logits])
    return (1 - losses.softmax(0)) / (len(losses) - 1)


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor, mixed: Mixed | None) -> torch.Tensor:
    own = functional.cross_entropy(logits, labels, reduction="none")
    if mixed is None:
        return own
    return blended(own, functional.cross_entropy(logits, mixed.labels, reduction="none"), mixed.share)


def joined(outputs: Sequence[Outputs], by: str, labels: torch.Tensor, mixed: Mixed | None = None) -> Outputs:
    """Logits, features and layers of several teachers of the same images, averaged, so that every loss term takes them.

    CA-MKD weighs each teacher's loss; here its weights average what the teachers say, and one loss is computed.

    Args:
        outputs: of each teacher.
        by: ``mean``, or ``confidence`` for the weights of :func:`confidences`.
        labels, mixed: of the images.

    Returns:
        float32, of the shapes of each teacher's.
    """
    count = len(outputs)
    logits = [one.logits for one in outputs if one.logits is not None]
    weights = [1 / count] * count if by == "mean" else list(confidences(logits, labels, mixed))

    def mean(values: Sequence[torch.Tensor]) -> torch.Tensor:
        first, *others = (_times(one.float(), weight) for one, weight in zip(values, weights, strict=True))
        return sum(others, first)

    features = [one.features for one in outputs if one.features is not None]
    layers = [one.layers for one in outputs if one.layers]
    names = layers[0] if layers else {}
    return Outputs(
        mean(logits),
        mean(features) if features else None,
        {name: mean([one[name] for one in layers]) for name in names} or None,
    )


def _times(values: torch.Tensor, weight: float | torch.Tensor) -> torch.Tensor:
    """float [B, ...] times a number, or times one for each image, [B]."""
    return values * (weight if isinstance(weight, float) else for_each(weight, values))
