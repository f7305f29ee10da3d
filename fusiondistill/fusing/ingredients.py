"""The networks that are fused: read from files, brought to the names of the first one, and checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusiondistill.registry import close_to

if TYPE_CHECKING:
    import torch

    from fusiondistill.uncarded import Told

__all__ = ["BASE", "CLEAN", "FuseError", "Ingredient", "card_of_all", "named", "read", "with_cards"]

CLEAN = "clean"
"""The task of a network that is for images as they are."""
BASE = "(base)"
"""The name of the network that the ingredients were fine-tuned from."""


class FuseError(ValueError):
    """Networks cannot be fused as asked; the message says why, and what to do."""


@dataclass(frozen=True)
class Ingredient:
    """A network that is fused.

    Attributes:
        name: what it is called in tables: its task, or its file's name without suffix.
        path: as the user gave it.
        task: the id of the degradation that it is for, or :data:`CLEAN`; "" where that is not said.
        state: its state dict, on the CPU.
        card: of its file, empty without one.
        notes: what was done to read it, a few words each.
    """

    name: str
    path: str
    task: str = ""
    state: Mapping[str, torch.Tensor] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def named(
    texts: Sequence[str], tasks: Collection[str], place: Callable[[str], str] = lambda path: path
) -> list[Ingredient]:
    """The ingredients of a command line, without their weights.

    Args:
        texts: ``FILE`` or ``TASK=FILE`` each.
        tasks: ids of degradations that may be named.
        place: what a path stands for, like the best network of a store.

    Raises:
        FuseError: an unknown task, or a file that is given twice.

    Example:
        >>> [(one.name, one.path) for one in named(["jpeg=a.pt", "runs/b.safetensors"], ["jpeg"])]
        [('jpeg', 'a.pt'), ('b', 'runs/b.safetensors')]
    """
    pairs = [(task, place(path)) for task, path in (_task_of(text, tasks) for text in texts)]
    paths = [_whole(path) for _, path in pairs]
    if twice := [path for (_, path), whole in zip(pairs, paths, strict=True) if paths.count(whole) > 1]:
        raise FuseError(f"{twice[0]} is given twice: to weigh a network more, use --method linear --set weights=[2, 1]")
    plain = [task or (_whole(path).rstrip("/").rpartition("/")[2].rsplit(".", 1)[0] or path) for task, path in pairs]
    names = [f"{one}-{plain[:i].count(one) + 1}" if plain.count(one) > 1 else one for i, one in enumerate(plain)]
    return [Ingredient(name, path, task) for name, (task, path) in zip(names, pairs, strict=True)]


def _task_of(text: str, tasks: Collection[str]) -> tuple[str, str]:
    """(task, path) of ``TASK=FILE``; a file whose own name has an equals sign is itself."""
    task, mark, path = text.partition("=")
    if not mark or "/" in task or Path(text).exists():
        return "", text
    if task not in (known := (CLEAN, *tasks)):
        raise FuseError(f"{text}: no degradation {task!r}{close_to(task, known)}; name your own by --degradation")
    return task, path


def _whole(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().resolve())


def read(given: Sequence[Ingredient]) -> list[Ingredient]:
    """The ingredients with weights, all under the names of the first.

    Args:
        given: from :func:`named`; perhaps the base among them.

    Raises:
        CheckpointError: a file is missing, damaged, no checkpoint, or holds numbers that are not finite.
        FuseError: another architecture: the files and the first tensors that differ are named; tensors that cannot be
            merged, like quantised ones; weights that are all 0; or two files with the same weights.
    """
    from fusiondistill.checkpoints import load_checkpoint
    from fusiondistill.state_dicts import check_alike, parameter_keys

    found: list[Ingredient] = []
    for one in given:
        state, card = load_checkpoint(one.path, as_written=True)
        fitted, notes = _fitted(state, found[0], one.path) if found else (state, ())
        found.append(replace(one, state=fitted, card=card, notes=notes))
        if not any(bool(fitted[key].any()) for key in parameter_keys(fitted)):
            raise FuseError(f"{one.path} has no weight but 0: give the file of a trained network")
        try:
            check_alike([found[0].state, fitted], [found[0].path, one.path])
        except ValueError as error:
            raise FuseError(str(error)) from None
        for other in found[:-1]:
            if _same(other.state, fitted):
                which = "the base " if one.name == BASE else ""
                raise FuseError(f"{which}{one.path} and {other.path} hold the same weights: give one of them")
    return found


def _fitted(state: Mapping[str, torch.Tensor], first: Ingredient, path: str) -> tuple[Any, tuple[str, ...]]:
    """A state dict under the names of the first one."""
    from fusiondistill.foreign import Unmatched, matched
    from fusiondistill.state_dicts import state_difference

    difference = state_difference(first.state, state)
    if not difference:
        return state, ()
    try:
        found = matched(first.state, state)
    except Unmatched:
        text = f"{path} is another architecture than {first.path}: {difference}"
        raise FuseError(f"{text}; only networks of one architecture can be fused: leave one of them out") from None
    return found.state, found.notes


def _same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Whether two state dicts of one architecture have the same parameters."""
    from fusiondistill.state_dicts import parameter_keys

    return all(bool((one[key] == other[key]).all()) for key in parameter_keys(one))


def with_cards(given: Sequence[Ingredient], told: Told) -> list[Ingredient]:
    """The ingredients; those without a card get one from what the user says of them.

    Raises:
        CheckpointError, ValueError: as :func:`fusiondistill.uncarded.with_card`.
    """
    from fusiondistill.uncarded import with_card

    found = []
    for one in given:
        state, card = (one.state, one.card) if one.card else with_card(one.state, told, one.path)
        found.append(replace(one, state=state, card=card))
    return found


def card_of_all(given: Sequence[Ingredient]) -> tuple[dict[str, Any], str]:
    """The card that all have which have one; and, where cards differ, in what, as a sentence: then there is none.

    Example:
        >>> card_of_all([Ingredient("a", "a.pt", card={"model": "x"}), Ingredient("b", "b.pt")])
        ({'model': 'x'}, '')
    """
    carded = [one for one in given if one.card]
    if not carded:
        return {}, ""
    first = carded[0]
    for one in carded[1:]:
        differ = sorted(key for key in {*first.card, *one.card} if first.card.get(key) != one.card.get(key))
        if differ:
            return {}, f"the cards of {first.path} and {one.path} differ in {', '.join(differ)}"
    return dict(first.card), ""
