"""Weights that other programs saved: finds them in a file, and brings them to the names of a network.

A wrapper puts a prefix before every name: ``module.`` (DataParallel, averaged models), ``_orig_mod.`` (torch.compile),
``model.`` and ``net.`` (Lightning modules, by the name of their attribute), also one behind the other. A trainer saves
the state dict beside other things, under its own key.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fusiondistill.released import renamed
from fusiondistill.state_dicts import state_difference

__all__ = ["HOLDERS", "Matched", "Unmatched", "find_state", "matched", "others_than", "unwrapped", "widened"]

HOLDERS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "module",
    "model_ema", "state_dict_ema", "ema_state_dict", "ema",
)  # fmt: skip
"""Keys under which people save a state dict beside other things; of several the first counts."""
USUAL = HOLDERS[:-4]
"""Those that need no word where they stand alone: averages of weights (EMA) are another network."""
WRAPPERS = ("module", "_orig_mod", "model", "net", "network")
"""Prefixes that a wrapper puts before every name, each followed by a dot."""
_ANYWHERE = ("module", "_orig_mod")
"""Those that also stand in the middle of names, where only a part of a network was wrapped."""
_COUNTER = "num_batches_tracked"
"""BatchNorm's counter, which old files lack; it changes no output."""
_AUXILIARY = re.compile(r"aux", re.IGNORECASE)
"""How the names of auxiliary heads begin (aux1, AuxLogits, aux_head), which only a training uses."""
DEEPEST = 3
"""Dictionaries around a state dict, at most."""


class Unmatched(ValueError):
    """Weights do not fit a network; the message says what was tried."""


@dataclass(frozen=True)
class Matched:
    """Weights under the names of a network.

    Attributes:
        state: name -> tensor, for names of the network alone, floating ones as float32.
        notes: what was done to the names, and what was left out, a few words each.
    """

    state: dict[str, torch.Tensor]
    notes: tuple[str, ...] = ()


def find_state(content: object) -> tuple[dict[str, torch.Tensor], str] | None:
    """The state dict in what a file holds, and under which keys; None: there is none.

    It is what stands under one of :data:`HOLDERS`, else the only dictionary of tensors, else the tensors that stand
    beside a few other values.

    Example:
        >>> find_state({"epoch": 3, "model": {"state_dict": {"w": torch.ones(1)}}})
        ({'w': tensor([1.])}, 'model.state_dict')
    """
    return _find(content, ()) if isinstance(content, Mapping) else None


def others_than(content: Mapping[Any, Any], keys: str) -> list[str] | None:
    """The keys beside the one that :func:`find_state` took under which weights stand, too.

    Returns:
        None where there is nothing to say: there are no others, and the key is a usual one.

    Example:
        >>> weights = {"w": torch.ones(1)}
        >>> others_than({"model": weights, "model_ema": weights}, "model"), others_than({"model": weights}, "model")
        (['model_ema'], None)
    """
    *above, taken = keys.split(".")
    for key in above:
        inner = content.get(key)
        if not isinstance(inner, Mapping):  # a key with a dot in it
            return None
        content = inner
    known = (key for key, value in content.items() if isinstance(value, Mapping) and _text(key) != taken)
    others = [_text(key) for key in known if (key in HOLDERS or _is_state(content[key])) and find_state(content[key])]
    return others if others or (taken and taken not in USUAL) else None


def _find(content: Mapping[Any, Any], keys: tuple[str, ...]) -> tuple[dict[str, torch.Tensor], str] | None:
    tensors = {_text(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if content and len(tensors) == len(content):
        return tensors, ".".join(keys)
    inside = {key: value for key, value in content.items() if isinstance(value, Mapping)}
    for key in HOLDERS if len(keys) < DEEPEST else ():
        if key in inside and (found := _find(inside[key], (*keys, key))):
            return found
    states = [key for key, value in inside.items() if _is_state(value)]
    if len(states) == 1 and len(keys) < DEEPEST:
        return _find(inside[states[0]], (*keys, _text(states[0])))
    return (tensors, ".".join(keys)) if 2 * len(tensors) > len(content) and not inside else None


def _is_state(content: Mapping[Any, Any]) -> bool:
    """Whether a dictionary holds tensors alone, each under a name."""
    return bool(content) and all(
        isinstance(name, str | bytes) and isinstance(value, torch.Tensor) for name, value in content.items()
    )


def _text(name: object) -> str:
    """A name; those that Python 2 wrote are bytes."""
    return name.decode(errors="backslashreplace") if isinstance(name, bytes) else str(name)


def widened(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, those of half precision (float16, bfloat16) as float32: the same values."""
    half = (torch.float16, torch.bfloat16)
    return {name: tensor.float() if tensor.dtype in half else tensor for name, tensor in state.items()}


def unwrapped(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors without the prefixes that wrappers put before all of their names.

    Example:
        >>> list(unwrapped({"module._orig_mod.a.w": torch.ones(1), "module._orig_mod.b.w": torch.ones(1)}))
        ['a.w', 'b.w']
    """
    found = dict(state)
    while found and (first := next(iter(found)).partition(".")[0]) in WRAPPERS:
        if not all(name.startswith(f"{first}.") for name in found):
            break
        found = {name.removeprefix(f"{first}."): tensor for name, tensor in found.items()}
    return found


def matched(
    expected: Mapping[str, torch.Tensor],
    state: Mapping[str, torch.Tensor],
    *,
    optional: Collection[str] = (),
    shapes: bool = True,
) -> Matched:
    """Bring weights to the names of a network.

    Names count as they are; else behind a prefix that all of the network's have in the file; else without
    ``module.`` and ``_orig_mod.`` anywhere; each also in the spelling of the paper's released code. What stands in the
    file outside of the prefix is left out, and a note says so.

    Args:
        expected: the network's state dict.
        state: of the file.
        optional: names that may be missing, or have another shape (those of a head that is replaced); tensors of
            another shape are left out, and so are all names that the network lacks. Auxiliary heads that it lacks
            are always left out.
        shapes: raise where others have another shape.

    Raises:
        Unmatched: no way of reading the names fits, two fit, or shapes differ; the message says what was tried.
    """
    found = _under_names(expected, state, optional)
    left_out = {name for name in optional if name in found.state and found.state[name].shape != expected[name].shape}
    lacking = found.state.keys() - expected.keys()
    auxiliary = {name for name in lacking if _AUXILIARY.match(name)}
    left_out |= lacking if optional else auxiliary
    kept = {name: tensor for name, tensor in found.state.items() if name not in left_out}
    wanted = {name: tensor for name, tensor in expected.items() if name not in optional or name in kept}
    if difference := state_difference(wanted if shapes else {n: kept.get(n, t) for n, t in wanted.items()}, kept):
        raise Unmatched(difference + _tried(found.notes))
    cast = {name: tensor.to(expected[name].dtype) for name, tensor in kept.items()}
    heads = sorted({name.partition(".")[0] for name in auxiliary})
    return Matched(cast, (*found.notes, f"left out: the auxiliary {', '.join(heads)}") if heads else found.notes)


def _under_names(
    expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], optional: Collection[str]
) -> Matched:
    needed = {name for name in expected if name not in optional and name.rpartition(".")[2] != _COUNTER}
    best, best_prefix, count = state, "", -1
    for form in _spellings(state):
        counts = _prefixes(expected, form, needed)
        complete = [prefix for prefix, n in counts.items() if n == len(needed)]
        if complete:
            prefix = _chosen(complete)
            return _taken(expected, form, prefix, state)
        for prefix, n in counts.most_common(1):
            if n > count:
                best, best_prefix, count = form, prefix, n
    found = _taken(expected, best, best_prefix, state).state
    differs = state_difference({k: v for k, v in expected.items() if k not in optional}, found)
    tried = f"behind {best_prefix!r}" if best_prefix else "as they are"
    raise Unmatched(
        f"{max(count, 0)} of its {len(needed)} names are in the file, {tried}: {differs} (tried: the names as they "
        f"are, behind any prefix such as {'., '.join(WRAPPERS)}., and those of the paper's released code; the file's "
        f"names are like {', '.join(list(state)[:2]) or 'none'})"
    )


def _spellings(state: Mapping[str, torch.Tensor]) -> Iterator[Mapping[str, torch.Tensor]]:
    """The names as they are, without wrappers in the middle, and each of these as the released code has them."""
    parts = {".".join(p for p in name.split(".") if p not in _ANYWHERE): tensor for name, tensor in state.items()}
    forms = [state] if len(parts) < len(state) or parts.keys() == state.keys() else [state, parts]
    yield from forms
    for form in forms:
        ours = renamed(unwrapped(form))
        if ours.keys() != form.keys():
            yield ours


def _prefixes(
    expected: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], needed: Collection[str]
) -> Counter[str]:
    """Prefix -> how many needed names of the network stand behind it; "" first among equals."""
    counts = Counter({"": 0})
    for name in state:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in needed:
                counts["".join(f"{part}." for part in parts[:start])] += 1
    return counts


def _chosen(prefixes: list[str]) -> str:
    """The prefix to take where several copies of the network stand in a file: none, else one that a wrapper puts."""
    plain = [prefix for prefix in prefixes if all(part in WRAPPERS for part in prefix.split(".")[:-1])]
    usable = plain or prefixes
    if len(usable) > 1 and "" not in usable:
        raise Unmatched(
            f"the file holds {len(usable)} networks of these names, behind {' and '.join(map(repr, sorted(usable)))}: "
            "save the one that is meant by itself"
        )
    return "" if "" in usable else usable[0]


def _taken(
    expected: Mapping[str, torch.Tensor], form: Mapping[str, torch.Tensor], prefix: str, written: Mapping[str, Any]
) -> Matched:
    """The tensors behind a prefix, with counters that the file lacks."""
    inside = {name.removeprefix(prefix): tensor for name, tensor in form.items() if name.startswith(prefix)}
    outside = [name for name in form if not name.startswith(prefix)]
    for name, tensor in expected.items():
        if name.rpartition(".")[2] == _COUNTER and name not in inside:
            inside[name] = torch.zeros_like(tensor, device="cpu")
    notes = [f"read without {prefix!r} before its names"] if prefix else []
    if outside:
        notes.append(f"left out: {', '.join(outside[:3])}{f' and {len(outside) - 3} more' if outside[3:] else ''}")
    return Matched(inside, tuple(notes))


def _tried(notes: tuple[str, ...]) -> str:
    return f" ({'; '.join(notes)})" if notes else ""
