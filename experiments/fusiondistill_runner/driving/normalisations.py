"""The normalisation of checkpoints that do not say theirs: common ones are compared, once for a file and data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fusiondistill.checkpoints import CheckpointError, checkpoint_digest
from fusiondistill.config import ModelConfig
from fusiondistill.pixel_scale import in_words
from fusiondistill.recipes import PRETRAINED
from fusiondistill_runner.planning.rows import Plan
from fusiondistill_runner.planning.specs import CheckpointSpec, PretrainedSpec

if TYPE_CHECKING:
    import torch

    from fusiondistill.data import ImageSet
    from fusiondistill.normalisation import Statistics, Tried

    Weights = tuple[Mapping[str, torch.Tensor], Mapping[str, Any]]

__all__ = ["Normalisations"]

VERSION = 2
"""Raised whenever a comparison would come out in another way."""
SHOWN = 4


class Normalisations:
    """Finds the normalisation of checkpoints without a card.

    Args:
        read: gives state dict and card of a path.
        say: takes what users should know, a sentence each.

    Attributes:
        why: how each one that was found is better than others, in words.
    """

    def __init__(self, read: Callable[[str], Weights], say: Callable[[str], None]) -> None:
        self.read, self.say = read, say
        self.why: dict[Statistics, str] = {}
        self._found: dict[str, Statistics] = {}

    def of_plan(self, plan: Plan, train: ImageSet) -> Statistics | None:
        """The normalisation of the checkpoints that a plan takes in; None: the config or their cards say it.

        Raises:
            CheckpointError: it cannot be told, or two checkpoints have different ones; the message asks for it.
        """
        found: dict[str, Statistics] = {}
        for spec in (stage.spec for stage in plan.stages):
            if not isinstance(spec, CheckpointSpec | PretrainedSpec) or self.read(spec.path)[1]:
                continue
            start = isinstance(spec, PretrainedSpec)
            if not (start and plan.config.model.weights == PRETRAINED):  # which say it
                found[spec.path] = self.of_file(spec.path, spec.model, train, start=start)
        kinds = list(dict.fromkeys(found.values()))
        if len(kinds) > 1:
            said = "; ".join(f"{path}: mean {list(mean)}, std {list(std)}" for path, (mean, std) in found.items())
            raise CheckpointError(f"the checkpoints were trained with different normalisations, it seems ({said}): "
                                  "an experiment has one; give data.mean and data.std")  # fmt: skip
        return kinds[0] if kinds else None

    def of_file(self, path: str, model: ModelConfig, train: ImageSet, *, start: bool = False) -> Statistics:
        """The normalisation of a checkpoint without a card.

        Args:
            train: training images.
            start: trainings start from it, so that its head may be that of other classes.

        Raises:
            CheckpointError: it cannot be told; the message has the comparison and asks for it.
        """
        key = _key(path, model, train)
        if key not in self._found:
            from fusiondistill.data.files import recalled, remember

            facts = recalled(_memo(key))
            if facts is None:
                facts = self._compared(path, model, train, start)
                remember(_memo(key), facts)
            self._found[key] = tuple(facts["mean"]), tuple(facts["std"])
            self.why.setdefault(self._found[key], f"{path}: {facts['said']}")
            self.say(f"{path}: {facts['said']}")
        return self._found[key]

    def _compared(self, path: str, model: ModelConfig, train: ImageSet, start: bool) -> dict[str, Any]:
        from fusiondistill.normalisation import candidates, compared, looked_at, other_order, winner

        network = _filled(path, model, len(train.classes), self.read(path), start)
        images = looked_at(train)
        tried = compared(network, images, candidates((tuple(train.mean), tuple(train.std))))
        if other := other_order(tried, images):
            raise CheckpointError(_of_other_order(path, *other, train.classes))
        best = winner(tried)
        if best is None:
            raise CheckpointError(_question(path, tried))
        others = [one for one in tried if one is not best]
        said = (
            f"it does not say its normalisation; of {len(tried)} common ones {best.name} fits clearly best on "
            f"{len(best.right)} training images ({best}; next: {others[0]}), and is used: mean "
            f"{in_words(best.mean)}, std {in_words(best.std)}"
        )
        return {"mean": best.mean, "std": best.std, "said": said}


def _filled(path: str, model: ModelConfig, classes: int, weights: Weights, start: bool) -> torch.nn.Module:
    """The network with a checkpoint's weights; where trainings start from it, its head may be one at random."""
    from fusiondistill.starting import built, finished, start_from

    network = built(model, classes)
    if start:
        state = start_from(network, model, classes, weights, path).state
    else:
        state = finished(network, model, classes, weights, path).state
    network.load_state_dict(state)
    return network


def _question(path: str, tried: list[Tried]) -> str:
    shown = "; ".join(f"{one} (mean {in_words(one.mean)}, std {in_words(one.std)})" for one in tried[:SHOWN])
    why = " (its network has no BatchNorm, whose statistics could)" if tried[0].distance is None else ""
    return (
        f"{path} does not say by which mean and std the images of its training were normalised, and "
        f"{len(tried[0].right)} training images do not tell{why}: {shown}. Say it, on the scale 0..255 or 0..1: in a "
        "config data.mean and data.std, of `evaluate` --mean and --std"
    )


def _of_other_order(path: str, tried: Tried, order: list[int], classes: list[str]) -> str:
    seems = ", ".join(classes[place] for place in order[:SHOWN]) + (", ..." if len(order) > SHOWN else "")
    return (
        f"{path} does not name its classes, and its outputs seem to stand in another order than the data set's "
        f"({tried}): output by output they look like {seems}. Write its classes into a card, in Python: "
        "save_checkpoint('mine.safetensors', state_dict, card_of(..., classes=[...], ...)), and give that file"
    )


def _key(path: str, model: ModelConfig, train: ImageSet) -> str:
    content = [VERSION, checkpoint_digest(path), model.model_dump(mode="json"), train.fingerprint, train.classes]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _memo(key: str) -> Any:
    from fusiondistill.data.files import cache_folder

    return cache_folder() / "normalisation" / f"{key[:32]}.json"
