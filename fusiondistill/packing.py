"""Several networks and how they answer in one file: weights that all share are stored once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusiondistill.cards import HOW
from fusiondistill.commits import CheckpointError
from fusiondistill.inference import INFERENCE, combined

if TYPE_CHECKING:
    import torch

    from fusiondistill.models.whole import Whole

__all__ = ["How", "pack", "unpack"]

_ALL, _EACH, _PART = "all.", "networks.", "part."
State = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True)
class How:
    """How networks answer, as a card has it.

    Attributes:
        name: of the way of inference.
        parameters: its parameters.
        roles: what each network is, in order: ``expert-<degradation>``, or ``model``.
        about: of the fitted part, JSON-able.
        code: what stands for the entry's code: its version, or the digest of its plugin.
    """

    name: str
    parameters: Mapping[str, Any]
    roles: tuple[str, ...]
    about: Mapping[str, Any]
    code: str = ""

    def content(self) -> dict[str, Any]:
        """JSON-able."""
        return {"name": self.name, "parameters": dict(self.parameters), "roles": list(self.roles),
                "about": dict(self.about), "code": self.code}  # fmt: skip

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> How:
        """That of a checked card."""
        given = card[HOW]
        return cls(given["name"], given["parameters"], tuple(given["roles"]), given["about"], given["code"])


def pack(states: Sequence[State], part: State) -> dict[str, torch.Tensor]:
    """One state dict of those of several networks of one architecture, and of a fitted part.

    A tensor that is equal in all networks is held once. So networks that differ in BatchNorm's statistics alone take
    little more room than one of them.
    """
    import torch

    found = {f"{_PART}{name}": tensor for name, tensor in part.items()}
    for name, first in states[0].items():
        if all(torch.equal(first, one[name]) for one in states[1:]):
            found[f"{_ALL}{name}"] = first
        else:
            found |= {f"{_EACH}{place}.{name}": one[name] for place, one in enumerate(states)}
    return found


def unpack(state: State, card: Mapping[str, Any], source: str) -> Whole:
    """The module that a packed state dict and its card describe, in eval mode.

    Raises:
        CheckpointError: a way of inference that is not there, or weights that do not go with it.
    """
    from fusiondistill.checkpoints import from_card
    from fusiondistill.inference import Part
    from fusiondistill.models.whole import Whole

    how = How.of_card(card)
    if how.name not in INFERENCE or INFERENCE[how.name].code != how.code:
        plugin = how.code.startswith("plugin")
        needed = f"the plugin of sha256 {how.code.removeprefix('plugin ')}: give it with --plugin FILE" if plugin else (
            "another version of this project")  # fmt: skip
        raise CheckpointError(f"{source} answers by the way of inference {how.name!r}, which needs {needed}")
    one = {key: value for key, value in card.items() if key != HOW}
    shared = _below(state, _ALL)
    networks = {
        role: from_card({**shared, **_below(state, f"{_EACH}{place}.")}, one, source)
        for place, role in enumerate(how.roles)
    }
    try:
        answers = combined(how.name, networks, how.parameters, Part(_below(state, _PART), how.about))
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{source} is no intact file of {how.name}: {error}") from error
    entry = INFERENCE[how.name]
    return Whole(answers, one["classes"], entry.gives, transductive=entry.transductive).eval()


def _below(state: State, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors below a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
