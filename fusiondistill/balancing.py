"""Uneven classes: the weight of their images in the loss, and how often images are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from fusiondistill.counting import counted
from fusiondistill.randomness import bits
from fusiondistill.registry import close_to

__all__ = ["balanced_positions", "class_weights_of"]


def class_weights_of(
    given: str | Sequence[float] | Mapping[str, float], labels: torch.Tensor, classes: Sequence[str]
) -> torch.Tensor | None:
    """The weights of images by their class.

    Args:
        given: a recipe's ``class_weights``:

            - ``none``;
            - ``balanced``: n / (k n_c), for n images of k classes of which n_c are of class c (k counts those that
              have images);
            - a weight for each class;
            - class -> weight; classes that are left out weigh 1.

        labels: int64 [N], those of the training images.
        classes: the class names.

    Returns:
        float32 [classes], or None for ``none``.

    Raises:
        ValueError: another number of weights than classes, or no such class.

    Example:
        >>> class_weights_of("balanced", torch.tensor([0, 0, 0, 1]), ["cat", "dog"])
        tensor([0.6667, 2.0000])
    """
    if given == "none":
        return None
    if given == "balanced":
        counts = labels.bincount(minlength=len(classes)).double()
        return (len(labels) / (int((counts > 0).sum()) * counts.clamp(min=1))).float()
    if isinstance(given, Mapping):
        if unknown := [name for name in given if name not in classes]:
            shown = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
            meant = close_to(unknown[0], classes, listed=False)
            raise ValueError(f"class_weights: no class {unknown[0]!r}{meant}; there are {shown}")
        return torch.tensor([float(given.get(name, 1.0)) for name in classes])
    if len(given) != len(classes):
        told = f"{counted(len(given), 'weight')} for {counted(len(classes), 'class')}"
        raise ValueError(
            f"class_weights: {told}: give one for each, in their order, or a mapping from classes to weights"
        )
    return torch.tensor([float(weight) for weight in given])


def balanced_positions(labels: torch.Tensor, address: int) -> torch.Tensor:
    """As many images as there are, the same number of every class (or one more), in the order of the images.

    Of a class with too many images a random part is taken; the images of one with too few come equally often, or once
    more. All is a function of the labels and the address.

    Args:
        labels: int64 [N].
        address: a number from :func:`fusiondistill.randomness.key`.

    Returns:
        int64 [N], rising: i + N t is image i for the (t+1)-th time.
    """
    count = len(labels)
    present, labels, sizes = labels.unique(return_inverse=True, return_counts=True)
    wanted = torch.full_like(sizes, count // len(present))
    wanted[bits(address, -1 - present).argsort(stable=True)[: count % len(present)]] += 1
    # Each image's rank in a random order of its class.
    shuffled = bits(address, torch.arange(count)).argsort(stable=True)
    shuffled = shuffled[labels[shuffled].argsort(stable=True)]
    rank = torch.empty_like(labels)
    rank[shuffled] = torch.arange(count) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    times = (wanted // sizes)[labels] + (rank < (wanted % sizes)[labels])
    repeats = torch.arange(int(times.sum())) - (times.cumsum(0) - times).repeat_interleave(times)
    return (torch.arange(count).repeat_interleave(times) + count * repeats).sort().values
