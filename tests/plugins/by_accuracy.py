"""A merging method of one's own: each expert weighs as much as it is right on its own degradation's images."""

from typing import Annotated

from pydantic import Field

from fusiondistill import MERGING, average


@MERGING.register("by_accuracy", needs=frozenset({"batches"}))
def by_accuracy(
    experts, at, *, power: Annotated[float, Field(ge=0, description="0 weighs all experts the same")] = 1.0
):
    """The average weighted by each expert's accuracy on training images under its own degradation."""
    accuracies = []
    for state, name in zip(experts, at.names, strict=True):
        network, right, seen = at.network(state), 0, 0
        for images, labels in at.batches(name):
            right += int((network(images).argmax(1) == labels).sum())
            seen += len(labels)
        accuracies.append(right / seen)
    return average(experts, [accuracy**power for accuracy in accuracies])
