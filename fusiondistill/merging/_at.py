"""What a merging method may ask for besides the experts' state dicts. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fusiondistill.state_dicts import StateDict

    Labelled = tuple[torch.Tensor, torch.Tensor]

__all__ = ["At", "chosen_text"]

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
        judged: the names of the held-out images that choose; None: those of the experts.
        network: makes a network in eval mode, on ``device``, from a state dict.
        batches: degradation -> its training images in batches, afresh at every call: (normalised float32 [B,3,H,W],
            labels int64 [B]), on ``device``.
        validation: the same of held-out images.
        seed: the caller's, for the random numbers that a method draws.
        device: where networks run.
        finish: makes the network, in eval mode, that merged weights become at the end: with BatchNorm's statistics set
            by the caller's rule. Left out, they are averaged over the experts.

    Attributes:
        chosen: what a method found by itself, for logs and reports: setting -> number, text, or a mapping or list of
            these.
    """

    def __init__(
        self,
        *,
        base: StateDict | None = None,
        names: Sequence[str] | None = None,
        judged: Sequence[str] | None = None,
        network: Callable[[StateDict], nn.Module] | None = None,
        batches: Callable[[str], Iterable[Labelled]] | None = None,
        validation: Callable[[str], Iterable[Labelled]] | None = None,
        seed: int | None = None,
        device: torch.device | None = None,
        finish: Callable[[StateDict], nn.Module] | None = None,
    ) -> None:
        self.chosen: dict[str, Any] = {}
        self._given: dict[str, Any] = {
            "base": base,
            "names": None if names is None else tuple(names),
            "judged": None if judged is None else tuple(judged),
            "network": network,
            "batches": batches,
            "validation": validation,
            "seed": seed,
            "device": device,
            "finish": finish,
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
    def judged(self) -> tuple[str, ...]:
        """What held-out images that choose stand under: :attr:`names`, unless the caller says otherwise."""
        found: tuple[str, ...] = self._given["judged"] if self.has("judged") else self.names
        return found

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

    def finished(self, merged: StateDict, experts: Sequence[StateDict]) -> nn.Module:
        """The network that merged parameters become at the end, in eval mode, on ``device``."""
        from fusiondistill.state_dicts import with_statistics

        state = with_statistics(merged, experts)
        network: nn.Module = self._given["finish"](state) if self.has("finish") else self.network(state)
        return network

    def batches(self, degradation: str) -> Iterator[Labelled]:
        """Training images under a degradation: (normalised float32 [B,3,H,W], labels int64 [B]), on ``device``."""
        return self._images("batches", degradation)

    def validation(self, degradation: str) -> Iterator[Labelled]:
        """Held-out images under a degradation, in the form of :meth:`batches`."""
        return self._images("validation", degradation)

    def _images(self, what: str, degradation: str) -> Iterator[Labelled]:
        images = self._ask(what)
        if self.has("names") and degradation not in (*self.names, *self.judged):
            raise ValueError(f"no expert is for {degradation!r}: the degradations are {', '.join(self.names)}")
        return iter(images(degradation))

    def _ask(self, what: str) -> Any:
        if not self.has(what):
            raise ValueError(f"a merging method asked for {_MISSING[what]}; it was not given")
        return self._given[what]


def chosen_text(chosen: Mapping[str, Any]) -> str:
    """What a method chose (:attr:`At.chosen`), in words.

    Example:
        >>> chosen_text({"scale": 0.5, "validation": 0.6128, "candidates": 4})
        'scale 0.5; 61.3 % right on validation; best of 4 candidates'
    """
    own = [f"{name} {_value(value)}" for name, value in chosen.items() if name not in ("validation", "candidates")]
    own += [f"{100 * chosen['validation']:.1f} % right on validation"] if "validation" in chosen else []
    own += [f"best of {chosen['candidates']} candidates"] if "candidates" in chosen else []
    return "; ".join(own)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
