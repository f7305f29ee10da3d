"""Merging methods: several networks of one architecture in, the weights of one out.

An entry is a function ``(experts, at, **parameters) -> state dict``. It is responsible for the parameters alone and may
leave out buffers: :func:`merge` sets BatchNorm's statistics and other buffers afterwards by one rule
(:func:`fusiondistill.state_dicts.with_statistics`). The fact ``needs`` names what the function asks of
``at`` (:class:`At`): ``base``, ``network``, ``batches``, ``validation``; the fact ``scans`` those parameters of which a
user may give a list, and held-out images choose. Nothing here imports torch before a method is called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial
from math import prod
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from fusiondistill.merging._at import At, chosen_text
from fusiondistill.merging._scanning import best_of, lists_in, or_lists
from fusiondistill.registry import Entry, Registry
from fusiondistill.signatures import model_of

if TYPE_CHECKING:
    import torch

    from fusiondistill.state_dicts import StateDict

__all__ = ["MERGING", "At", "Merging", "chosen_text", "merge"]

NEEDS = ("base", "network", "batches", "validation")
"""What a merging method may need of :class:`At`; the rest is always there in a run."""
JUDGING = frozenset({"network", "validation"})
"""What it takes to choose between values of a parameter."""

Method = Callable[..., "Mapping[str, torch.Tensor]"]


class Merging(Entry):
    """A merging method."""

    @property
    def scans(self) -> frozenset[str]:
        """The parameters of which a list may be given."""
        return frozenset(self.facts.get("scans", ()))

    @cached_property
    def parameters(self) -> type[BaseModel]:
        """See :class:`fusiondistill.registry.Entry`; those of :attr:`scans` may be lists."""
        return or_lists(model_of(self), self.scans)

    def plain(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """See :class:`fusiondistill.registry.Entry`; without parameters that came later and have their default."""
        later = self.facts.get("later", {})
        return {key: one for key, one in super().plain(given).items() if key not in later or one != later[key]}

    def needs(self, values: Mapping[str, Any]) -> frozenset[str]:
        """What it needs of :class:`At` with these parameters, some of :data:`NEEDS`."""
        own: frozenset[str] = self.facts.get("needs", frozenset())
        return own | (JUDGING if lists_in(values, self.scans) else frozenset())

    def labelled(self, values: Mapping[str, Any]) -> bool:
        """Whether it reads the labels of images with these parameters."""
        said = self.facts.get("labelled", True)
        return "batches" in self.needs(values) and bool(said(values) if callable(said) else said)

    def work(self, values: Mapping[str, Any], experts: int) -> tuple[int, int]:
        """Its cost beside adding up weights, for forecasts.

        Args:
            values: its parameters.
            experts: how many it merges.

        Returns:
            how many candidates it judges, and how many images pass forward through a network besides.
        """
        candidates, passes = self.facts.get("candidates"), self.facts.get("passes")
        lists = [len(one) for one in lists_in(values, self.scans).values()]
        judged = candidates(values, experts) if candidates else 0
        return judged + (prod(lists) if lists else 0), prod(lists) * (passes(values, experts) if passes else 0)


class Mergings(Registry[Merging]):
    """The registry of merging methods."""

    entry = Merging

    def register(  # type: ignore[override]  # what a method needs is no fact among others
        self,
        name: str,
        *,
        needs: Collection[str] = (),
        scans: Collection[str] = (),
        later: Mapping[str, Any] | None = None,
        candidates: Callable[[Mapping[str, Any], int], int] | None = None,
        passes: Callable[[Mapping[str, Any], int], int] | None = None,
        check: Callable[[Mapping[str, Any], Sequence[str]], str | None] | None = None,
        single: bool = False,
        labelled: bool | Callable[[Mapping[str, Any]], bool] = True,
        version: int = 1,
        source: str = "",
        replace: bool = False,
    ) -> Callable[[Method], Method]:
        """Make a function a merging method: ``start: {merge: NAME, of: expert, PARAMETER: ...}`` in a config.

        Args:
            name: lower-case letters, digits and underscores, a letter first.
            needs: what it asks of ``at``, some of :data:`NEEDS`; a config without that is then refused early.
            scans: parameters of which a config may also give a list. The function gets one value at a time; the value
                is taken whose network is right most often on held-out images.
            later: parameters that came after results were stored, with the default under which all is as before.
            candidates: (parameters, number of experts) -> how many merged networks it judges by itself, for forecasts.
            passes: the same of images that pass forward through a network; a pass back counts as two.
            check: (parameters, degradations) -> what does not go together, or None; a config is then refused early.
            single: it also makes sense of one network; a config that merges one by another method is refused early.
            labelled: whether it reads the labels of ``at.batches``, perhaps by its parameters.
            version, source, replace: see :meth:`fusiondistill.registry.Registry.register`, which also says how
                parameters are written.

        The function is called as ``function(experts, at, **parameters)``. ``experts`` is a sequence of state dicts of
        one architecture, which it must not change; ``at`` is an :class:`At`. It returns a state dict with all their
        parameters, in their shapes. Buffers (BatchNorm's statistics) are set afterwards and replace what it returns.

        Raises:
            ValueError: as :meth:`fusiondistill.registry.Registry.register`; or ``needs`` names something else.

        Example:
            A file ``mine.py``, which the config names under ``plugins: [mine.py]``:

            >>> from fusiondistill import MERGING, average
            >>> @MERGING.register("by_accuracy", needs={"batches"})
            ... def by_accuracy(experts, at, *, power: float = 1.0):
            ...     "The average weighted by each expert's accuracy on images of its own degradation."
            ...     weights = []
            ...     for state, degradation in zip(experts, at.names, strict=True):
            ...         network = at.network(state)
            ...         hits = [network(images).argmax(1) == labels for images, labels in at.batches(degradation)]
            ...         right = sum(int(hit.sum()) for hit in hits) / sum(len(hit) for hit in hits)
            ...         weights.append(right**power)
            ...     return average(experts, weights)
        """
        asked = {needs} if isinstance(needs, str) else set(needs)
        if wrong := sorted(asked - set(NEEDS)):
            text = f"it may name {', '.join(NEEDS)}"
            raise ValueError(f"the merging method {name!r} says that it needs {', '.join(wrong)}: {text}")
        facts = {
            "needs": frozenset(asked), "scans": tuple(scans), "later": later or {}, "check": check,
            "candidates": candidates, "passes": passes, "single": single, "labelled": labelled,
        }  # fmt: skip
        return super().register(name, version=version, source=source, replace=replace, **facts)


MERGING = Mergings(
    "merging method",
    __name__,
    first=("average", "median", "ties"),
    takes=("experts", "at"),
    reserved=frozenset({"merge", "of", "recalibrate", "images"}),
)
"""Merging methods by name."""


def merge(
    state_dicts: Sequence[StateDict], method: str, *, at: At | None = None, **parameters: Any
) -> dict[str, torch.Tensor]:
    """Merge networks of one architecture by a registered method.

    BatchNorm's running statistics are averaged over the networks; other rules are those of
    :func:`fusiondistill.state_dicts.with_statistics` and :func:`fusiondistill.recalibrate_batchnorm`.

    Args:
        state_dicts: at least one, with the same keys and shapes; they are not changed and not aliased.
        method: a name of :data:`MERGING`.
        at: what the method needs besides, like the base; see :class:`At`.
        parameters: of the method.

    Returns:
        A new state dict with the first one's keys, dtypes and devices.

    Raises:
        UnknownEntry: there is no such method; a ValueError.
        ValueError: a parameter is unknown or out of range, the method needs what `at` does not have, tensors do not
            fit or are not finite (naming the first), or the method gave no such state dict.

    What a method chose by itself stands in ``at.chosen`` afterwards.

    Example:
        >>> import torch
        >>> base, one, other = ({"w": torch.tensor([value])} for value in (1.0, 2.0, 3.0))
        >>> merge([one, other], "task_arithmetic", at=At(base=base), scale=0.5)
        {'w': tensor([2.5000])}
    """
    from fusiondistill import state_dicts as tools

    entry, at = MERGING.find(method), at or At()
    values = entry.checked(parameters)
    at.check(entry.needs(values), method)
    tools.check_alike(state_dicts)
    names = at.names if at.has("names") else tuple(map(str, range(len(state_dicts))))
    if len(names) != len(state_dicts):
        raise ValueError(f"{len(state_dicts)} state dicts need as many names, got {len(names)}")
    for index, state in enumerate(state_dicts):
        tools.check_finite(state, f"state dict {index}" + (f" ({names[index]})" if at.has("names") else ""))
    if at.has("base"):
        if difference := tools.state_difference(state_dicts[0], at.base):
            raise ValueError(f"the base does not fit the state dicts: {difference}")
        tools.check_finite(at.base, "the base")
    lists = lists_in(values, entry.scans)
    once = partial(_merged, entry, state_dicts, at, **{key: one for key, one in values.items() if key not in lists})
    merged = best_of(once, lists, state_dicts, at) if lists else once()
    return tools.with_statistics(merged, state_dicts)


def _merged(entry: Merging, state_dicts: Sequence[StateDict], at: At, **values: Any) -> Mapping[str, torch.Tensor]:
    """What a method gives, checked."""
    merged: Mapping[str, torch.Tensor] = entry.function(state_dicts, at, **values)
    _check_result(merged, state_dicts[0], entry)
    return merged


def _check_result(merged: Any, expected: StateDict, entry: Entry) -> None:
    """Raise WrongResult where a method's result lacks a parameter, or has one of another shape or not finite."""
    from fusiondistill import state_dicts as tools

    if not isinstance(merged, Mapping):
        raise entry.gave(f"must return a state dict, not {type(merged).__name__}")
    wanted = {key: expected[key] for key in tools.parameter_keys(expected)}
    found = {key: merged[key] for key in wanted if key in merged}
    if difference := tools.state_difference(wanted, found):
        raise entry.gave(f"gave other tensors than it got: {difference}")
    why = "a number of its parameters is too large"
    tools.check_finite(found, f"what the merging method {entry.name!r} gave", why)
