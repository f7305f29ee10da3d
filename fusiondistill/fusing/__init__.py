"""Fuses state dicts of one architecture, from any program, into one, and measures its accuracy and barriers.

:func:`fuse` is the whole of it: no store, no config, no Ray. Without images it touches weights alone, and no network is
built. With images it recomputes BatchNorm's statistics and judges networks on held-out images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fusiondistill.fusing.ingredients import FuseError, Ingredient
from fusiondistill.merging import MERGING, At, merge

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fusiondistill.fusing.material import Material
    from fusiondistill.fusing.measures import Judged, Kept, Pair

__all__ = ["FuseError", "Fused", "Ingredient", "check_method", "fuse"]

_GIVE = {
    "base": "--base FILE: the network that the ingredients were fine-tuned from",
    "network": "--data NAME or --photos FOLDER, and --model NAME for files without a card",
    "batches": "--data NAME, or --photos FOLDER: images to look at",
    "labels": "--data NAME: images with labels, with these parameters",
    "validation": "--data NAME: images with labels, which choose",
}


@dataclass(frozen=True)
class Fused:
    """A merged network and what was measured of it.

    Attributes:
        state: its state dict.
        chosen: what the method chose by itself; see :class:`fusiondistill.merging.At`.
        distances: name -> distance of each ingredient from the base; empty without a base.
        pairs: all pairs of ingredients.
        alone: name -> each ingredient on held-out images, perhaps the base too; empty without images.
        merged: the merged network on held-out images; None without.
        gains: name -> what each ingredient brings, see :func:`fusiondistill.fusing.measures.left_out`.
        statistics: the mean accuracy on held-out images with BatchNorm's statistics ``mixed`` and ``average``, of which
            the better are taken; empty where the caller chose.
        kept: of each ingredient with a task, what is kept of its accuracy there.
    """

    state: dict[str, torch.Tensor]
    chosen: Mapping[str, Any] = field(default_factory=dict)
    distances: Mapping[str, float] = field(default_factory=dict)
    pairs: Sequence[Pair] = ()
    alone: Mapping[str, Judged] = field(default_factory=dict)
    merged: Judged | None = None
    gains: Mapping[str, float] = field(default_factory=dict)
    statistics: Mapping[str, float] = field(default_factory=dict)
    kept: Sequence[Kept] = ()


def check_method(
    method: str,
    parameters: Mapping[str, Any],
    names: Sequence[str],
    *,
    base: bool,
    data: bool,
    photos: bool = False,
) -> None:
    """Check the arguments before a file is read.

    Args:
        method: a name of :data:`fusiondistill.MERGING`.
        parameters: of the method.
        names: of the ingredients.
        base, data, photos: whether there are a base, labelled images, images without labels.

    Raises:
        UnknownEntry: there is no such method.
        ValueError: a parameter is unknown, out of range, or does not go with so many ingredients.
        FuseError: something is missing that the method needs; the message says what to give.
    """
    entry = MERGING.find(method)
    values = entry.checked(parameters)
    if len(names) == 1 and not entry.facts["single"]:
        raise FuseError(f"{method} merges several networks, and there is one: {names[0]}")
    check = entry.facts.get("check")
    if check and (problem := check(values, names)):
        raise FuseError(f"{method}: {problem}")
    images = data or photos
    there = {"base": base, "labels": data, "batches": images, "validation": data, "network": images}
    needs = entry.needs(values) | ({"labels"} if entry.labelled(values) else set())
    if lacking := [what for what in there if what in needs and not there[what]]:
        raise FuseError(f"the merging method {method} needs {_GIVE[lacking[0]]}")


def fuse(
    given: Sequence[Ingredient],
    method: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    base: Ingredient | None = None,
    material: Material | None = None,
    seed: int = 0,
    measure: bool = True,
) -> Fused:
    """Merge networks, set BatchNorm's statistics, and measure.

    Args:
        given: with weights, all of one architecture (:func:`fusiondistill.fusing.ingredients.read`).
        method, parameters: of the merge.
        base: what they were fine-tuned from.
        material: images and how networks are built; None: weights alone, BatchNorm's statistics are averaged. Without
            images to judge by nothing is judged.
        seed: of a method that draws random numbers, where there is no material.
        measure: False: nothing but the merge.

    Raises:
        ValueError: as :func:`fusiondistill.merge`.

    Example:
        >>> import torch
        >>> two = [Ingredient(name, name, state={"w": torch.tensor([v])}) for name, v in (("a", 1.0), ("b", 2.0))]
        >>> fuse(two, "average").state
        {'w': tensor([1.5000])}
    """
    from fusiondistill.fusing import measures

    start = base.state if base else None
    chosen: dict[str, Any] = {}

    def make(some: Sequence[Ingredient]) -> dict[str, torch.Tensor]:
        at = material.at(some, start) if material else At(base=start, names=[one.name for one in some], seed=seed)
        made = merge([one.state for one in some], method, at=at, **_for(parameters or {}, given, some))
        if some is given:
            chosen.update(at.chosen)
        return made

    state = make(given)
    tried: dict[str, tuple[nn.Module, Judged]] = {}
    if material:
        normalised = any(key.endswith("running_var") for key in state)
        if measure and normalised and material.recalibrate == "best" and material.validation is not None:
            tried = measures.by_statistics(state, material)
            best = max(tried, key=lambda way: tried[way][1].mean)
            material = replace(material, recalibrate=best)
        network = tried[material.recalibrate][0] if tried else material.recomputed(state)
        state = {key: tensor.detach().cpu() for key, tensor in network.state_dict().items()}
    found = Fused(state, chosen, statistics={way: one.mean for way, (_, one) in tried.items()})
    if not measure:
        return found
    judge = material if material and material.validation is not None else None
    found = replace(
        found,
        distances=measures.to_base(given, start) if start else {},
        pairs=measures.pairs(given, start, judge),
    )
    if not judge:
        return found
    alone = measures.accuracies([*given, *([base] if base else [])], judge)
    whole = tried[judge.recalibrate][1] if tried else measures.judged(network, judge.judged)
    gains = measures.left_out(given, make, whole, judge) if len(given) > 1 else {}
    kept = [
        measures.Kept(one.name, one.task, alone[one.name].accuracy[one.task], whole.accuracy[one.task])
        for one in given
        if one.task
    ]
    return replace(found, alone=alone, merged=whole, gains=gains, kept=kept)


def _for(parameters: Mapping[str, Any], given: Sequence[Ingredient], some: Sequence[Ingredient]) -> dict[str, Any]:
    """The parameters for some of the ingredients: of one weight for each, those of these."""
    weights = parameters.get("weights")
    if weights is None or len(some) == len(given):
        return dict(parameters)
    places = [i for i, one in enumerate(given) if any(one is other for other in some)]
    if isinstance(weights, Mapping):
        return {**parameters, "weights": {given[i].name: weights[given[i].name] for i in places}}
    return {**parameters, "weights": [weights[i] for i in places]}
