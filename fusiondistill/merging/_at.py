"""What a merging method may ask for besides the experts' state dicts. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fusiondistill.state_dicts import StateDict

    Labelled = tuple[torch.Tensor, torch.Tensor]

__all__ = ["At"]

_MISSING = {
    "base": "the base: the state dict that the experts were fine-tuned from",
    "names": "the degradation of each expert",
    "network": "a way to build a network from a state dict",
    "batches": "labelled training images of each degradation",
    "validation": "held-out labelled images of each degradation",
    "seed": "a seed",
    "device": "a device",
}


class At:
    """What a merging method may ask for. All of it is optional; asking for what is not there raises ValueError.

    Args:
        base: the state dict that the experts were fine-tuned from.
        names: the degradation of each expert, in the order of the experts.
        network: makes a network in eval mode, on ``device``, from a state dict.
        batches: degradation -> its training images in batches, afresh at every call: (normalised float32 [B,3,H,W],
            labels int64 [B]), on ``device``.
        validation: the same of held-out images.
        seed: the caller's, for the random numbers that a method draws.
        device: where networks run.
    """

    def __init__(
        self,
        *,
        base: StateDict | None = None,
        names: Sequence[str] | None = None,
        network: Callable[[StateDict], nn.Module] | None = None,
        batches: Callable[[str], Iterable[Labelled]] | None = None,
        validation: Callable[[str], Iterable[Labelled]] | None = None,
        seed: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._given: dict[str, Any] = {
            "base": base,
            "names": None if names is None else tuple(names),
            "network": network,
            "batches": batches,
            "validation": validation,
            "seed": seed,
            "device": device,
        }

    def has(self, what: str) -> bool:
        """Whether a thing is there, named like its argument."""
        return self._given.get(what) is not None

    def check(self, needs: Iterable[str], method: str) -> None:
        """Raise ValueError where something is missing that a method needs."""
        for what in sorted(needs):
            if not self.has(what):
                raise ValueError(f"the merging method {method!r} needs {_MISSING.get(what, what)}")

    @property
    def base(self) -> StateDict:
        """The state dict that the experts were fine-tuned from."""
        state: StateDict = self._ask("base")
        return state

    @property
    def names(self) -> tuple[str, ...]:
        """The degradation of each expert, in the order of the experts."""
        names: tuple[str, ...] = self._ask("names")
        return names

    @property
    def seed(self) -> int:
        """The seed for the random numbers that a method draws."""
        return int(self._ask("seed"))

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        device: torch.device = self._ask("device")
        return device

    def network(self, state: StateDict) -> nn.Module:
        """A network in eval mode, on ``device``, with these weights."""
        network: nn.Module = self._ask("network")(state)
        return network

    def batches(self, degradation: str) -> Iterator[Labelled]:
        """Training images under a degradation: (normalised float32 [B,3,H,W], labels int64 [B]), on ``device``."""
        return self._images("batches", degradation)

    def validation(self, degradation: str) -> Iterator[Labelled]:
        """Held-out images under a degradation, in the form of :meth:`batches`."""
        return self._images("validation", degradation)

    def _images(self, what: str, degradation: str) -> Iterator[Labelled]:
        images = self._ask(what)
        if self.has("names") and degradation not in self.names:
            raise ValueError(f"no expert is for {degradation!r}: the degradations are {', '.join(self.names)}")
        return iter(images(degradation))

    def _ask(self, what: str) -> Any:
        if not self.has(what):
            raise ValueError(f"a merging method asked for {_MISSING[what]}; it was not given")
        return self._given[what]
