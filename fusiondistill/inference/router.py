"""A small router names the degradation of each image, and that degradation's network answers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from fusiondistill.inference import INFERENCE

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fusiondistill.data import ImageSet
    from fusiondistill.inference import At, Part
    from fusiondistill.inference._routing import Router

__all__ = ["router"]

BATCH = 256
"""Images of a step."""
RATE = 5e-3
"""Learning rate of AdamW at the first step; it falls to 0 evenly."""
DECAY = 1e-4
LEVELS = 2.0
"""Weight of the squared error of the level, beside the cross-entropy of the name."""


def _fit(at: At, *, images: int, views: int, epochs: int, width: int) -> Part:
    """Train a router on images clean and at random levels; the accuracy is that on held-out images."""
    from fusiondistill.inference import Part

    made = _new(_about(at), width, at.seed).to(at.device)
    seen = _train(made, at, at.images.at_most(images), views, epochs)
    outcome: dict[str, Any] = {"parameters": sum(one.numel() for one in made.parameters()), "seen": seen}
    if at.held_out is not None:
        traces, names, _ = _views(made, at, at.held_out, "judged", 0)
        outputs = made.eval().outputs(traces)
        wrong = outputs[:, : len(made.names)].argmax(1) != names
        outcome |= {"accuracy": 1 - float(wrong.double().mean()), "judged_on": "validation", "images": len(names)}
    return Part({name: tensor.cpu() for name, tensor in made.state_dict().items()}, _about(at), outcome)


def _settle(classifiers: Mapping[str, nn.Module], images: ImageSet, about: Mapping[str, Any]) -> dict[str, Any]:
    """Which network answers where an image seems clean: that with the most right answers on clean images."""
    from fusiondistill.evaluation import Conditions, predict
    from fusiondistill.folding import for_inference

    def right(network: nn.Module) -> int:
        found = predict(for_inference(network), images, Conditions("noise", [0], 0, 500))
        return int((found[0].cpu() == images.labels).sum())

    best = [max(map(right, several)) for several in _grouped(classifiers, [one["id"] for one in about["degradations"]])]
    return {"clean": best.index(max(best))}


def _grouped(classifiers: Mapping[str, nn.Module], degradations: Sequence[str]) -> list[list[nn.Module]]:
    """For each degradation its network, or those of the bands of its levels, the lowest first."""
    from fusiondistill.degradation_config import band_id

    whole = [f"expert-{one}" for one in degradations]
    if classifiers.keys() == set(whole):  # first, since an id may look like a band of another: blur and blur_1
        return [[classifiers[role]] for role in whole]
    found = []
    for degradation in degradations:
        bands = (f"expert-{band_id(degradation, number)}" for number in itertools.count(1))
        roles = [*itertools.takewhile(classifiers.__contains__, bands)] or [f"expert-{degradation}"]
        found.append([classifiers[role] for role in roles])
    return found


def _parameters(degradations: int, *, width: int, **rest: Any) -> int:
    """How many parameters the part has."""
    from fusiondistill.inference._routing import parameters_of

    return parameters_of(degradations, width)


@INFERENCE.register(
    "router",
    fits=_fit,
    settles=_settle,
    weighs=_parameters,
    picks=True,
    levels=True,
    smallest=8,
    source="a router of the degradation's type, as in CMES 2024, 138(1); the 8x8 blocks are those of JPEG",
)
def router(
    classifiers: Mapping[str, nn.Module],
    *,
    part: Part | None = None,
    images: Annotated[int, Field(ge=1, description="training images (at most) that the router is fitted on")] = 2000,
    views: Annotated[int, Field(ge=1, le=64, description="draws of a level for each image and degradation")] = 4,
    epochs: Annotated[int, Field(ge=1, le=1000, description="epochs of the router's training")] = 20,
    width: Annotated[int, Field(ge=1, le=1024, description="width of its two layers")] = 64,
) -> nn.Module:
    """The network of the degradation that a small fitted router sees in the image, told nothing.

    It also names a rough level, and chooses by it where there are networks for bands of levels. An image that seems
    clean goes to the network that is best on clean validation images.
    """
    from fusiondistill.inference._routing import Routed

    if part is None:
        raise ValueError("router needs its fitted part")
    made = _new(part.about, width, 0)
    made.load_state_dict(dict(part.state))
    return Routed(made.eval(), _grouped(classifiers, [one.id for one in made.degradations]))


def _about(at: At) -> dict[str, Any]:
    return {"degradations": [{"id": one.id, "levels": list(one.every_level)} for one in at.degradations]}


def _new(about: Mapping[str, Any], width: int, seed: int) -> Router:
    """A router with weights at random; torch's generator stays as it is."""
    import torch

    from fusiondistill.inference._routing import Degradation, Router
    from fusiondistill.randomness import key

    known = [Degradation(str(one["id"]), tuple(map(int, one["levels"]))) for one in about["degradations"]]
    with torch.random.fork_rng([]):
        torch.manual_seed(key(seed, "router") & (2**63 - 1))
        return Router(known, width, about.get("clean"))


def _views(
    made: Router, at: At, images: ImageSet, purpose: str, draw: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images clean and at a random level of each degradation.

    An image that a degradation leaves as it is counts as clean.

    Returns:
        (numbers float32 [n, FEATURES], what is right int64 [n], level float32 [n]: 0 the lowest, 1 the highest).
    """
    import torch

    from fusiondistill.level_draws import degraded, random_levels
    from fusiondistill.randomness import key

    traces, names, heights = [], [], []
    seed = key(at.seed, "router", purpose, draw)
    for start in range(0, len(images), 500):
        indices = torch.arange(start, min(start + 500, len(images)))
        pixels, indices = images.gather(indices)[0].to(at.device), indices.to(at.device)
        traces.append(made.traces(pixels))
        names.append(torch.zeros_like(indices))
        heights.append(torch.zeros(len(indices), device=at.device))
        for place, one in enumerate(at.degradations):
            levels = random_levels(one, key(seed, "level", one.id), indices)
            seen = degraded(pixels, one, levels, seed=seed, indices=indices, protocol=at.protocol)
            same = (seen == pixels).flatten(1).all(1)
            first, last = one.every_level[0], one.every_level[-1]
            traces.append(made.traces(seen))
            names.append(torch.where(same, 0, place + 1))
            heights.append((levels - first) / max(1, last - first))
    return torch.cat(traces), torch.cat(names), torch.cat(heights).float()


def _train(made: Router, at: At, images: ImageSet, views: int, epochs: int) -> int:
    """Fit the router's layers; its scale is that of the numbers that it is fitted on. Returns how many it saw."""
    import torch
    import torch.nn.functional as F

    from fusiondistill.randomness import key, permutation

    drawn = [_views(made, at, images, "fitted", draw) for draw in range(views)]
    traces, names, heights = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    made.mean.copy_(traces.mean(0))
    made.deviation.copy_(traces.std(0, correction=0).clamp_min(1e-3))
    optimizer = torch.optim.AdamW(made.parameters(), lr=RATE, weight_decay=DECAY)
    steps = epochs * -(-len(names) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    count = len(made.names)
    for epoch in range(epochs):
        order = permutation(key(at.seed, "router order", epoch), len(names), at.device)
        for rows in order.split(BATCH):
            outputs, right = made.outputs(traces[rows]), names[rows]
            height = outputs[:, count:].gather(1, (right - 1).clamp_min(0)[:, None]).squeeze(1)
            off = ((height - heights[rows]).square() * (right > 0)).mean()
            loss = F.cross_entropy(outputs[:, :count], right) + LEVELS * off
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return len(names)
