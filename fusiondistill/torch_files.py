"""Files of ``torch.save``, read without running anything of them: other programs' objects become empty stand-ins."""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from fusiondistill.commits import CheckpointError

if TYPE_CHECKING:
    import torch

__all__ = ["TakenWeights", "UnreadObjects", "parse_torch"]


def parse_torch(data: bytes, source: str) -> dict[str, torch.Tensor]:
    """The state dict in the bytes of a file of ``torch.save``, alone or beside other things.

    Args:
        source: its path, for messages.

    Raises:
        CheckpointError: damaged, no state dict, or a program: a pickled module, a TorchScript archive.
    """
    import torch

    from fusiondistill.foreign import HOLDERS, find_state, others_than
    from fusiondistill.locations import absolute

    try:
        zipped = zipfile.is_zipfile(io.BytesIO(data))
        if data.startswith(b"PK") and not zipped:
            raise CheckpointError(f"{source} is cut short or damaged: its {len(data):,} bytes lack the end of a "
                                  "file of torch.save; copy it again")  # fmt: skip
        if zipped:
            _check_archive(data, source)
            content, unread = _load_beside_strangers(data)
        else:
            content, unread = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True), []
    except CheckpointError:
        raise
    except Exception as error:  # torch raises nearly everything on damaged bytes
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{source} cannot be read as plain weights: {reason}") from error
    found = find_state(content)
    if found is None:
        _refuse_module(content, source)
        if isinstance(content, dict):
            held = f"it holds {', '.join(map(repr, list(content)[:10])) or 'nothing'}"
        else:
            held = f"it holds one object, of {unread[0]}" if unread else f"it holds a {type(content).__name__}"
        raise CheckpointError(
            f"{source} holds no state dict: expected names with tensors, alone or under {', '.join(HOLDERS)}; {held}. "
            + (_FROM_NUMPY.format("arrays") if _of_numpy(unread) else "Save network.state_dict() with torch.save")
        )
    state, taken = found
    place = absolute(source)  # a path that is given in two ways is told once
    if unread:
        text = f"{place} holds more than weights, which was not loaded: objects of {', '.join(unread[:5])}"
        warnings.warn(UnreadObjects(text + (", ..." if len(unread) > 5 else "")), stacklevel=2)
    if (others := others_than(content, taken)) is not None:
        beside = f"; other weights, under {', '.join(map(repr, others))}, are not" if others else ""
        warnings.warn(TakenWeights(f"{place}: its weights under {taken!r} are taken{beside}"), stacklevel=2)
    return state


def _of_numpy(unread: list[str]) -> bool:
    """Whether a file names numpy's arrays, which are not read."""
    return any(name.startswith("numpy") and name.endswith("_reconstruct") for name in unread)


def _check_archive(data: bytes, source: str) -> None:
    """Raise where a zip file's parts are larger than it, or where it holds a program beside weights."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = archive.infolist()
    names = {info.filename.partition("/")[2] for info in parts}
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise CheckpointError(
            f"{source} is a TorchScript archive, a program with weights in it. Where you trust it, make a state dict "
            "of it in Python:" + _TO_STATE.format(f"torch.jit.load({source!r}, map_location='cpu')")
        )
    if all(info.filename.endswith(".npy") for info in parts):
        raise CheckpointError(f"{source} is an archive of numpy arrays. {_FROM_NUMPY.format(f'np.load({source!r})')}")
    if any(name.startswith("models/") for name in names) and "data.pkl" not in names:
        raise CheckpointError(
            f"{source} is an archive of torch.export, a program with weights in it: run it with torch.export.load, or "
            "give the store or the folder that it was exported from. Where you trust it, make a state dict of it in "
            "Python:" + _TO_STATE.format(f"torch.export.load({source!r})")
        )
    # torch.save does not compress; a compressed part may unpack to a thousand times its size.
    if sum(info.file_size for info in parts) > len(data):
        raise ValueError("its parts claim to be larger than the file")


_FROM_NUMPY = "Save tensors: torch.save({{name: torch.from_numpy(a) for name, a in {}.items()}}, 'weights.pt')"
_TO_STATE = "\n    network = {}\n    torch.save(network.state_dict(), 'weights.pt')"


def _refuse_module(content: Any, source: str) -> None:
    """Raise where what a file holds, or holds under a key that weights stand under, is an object of a class."""
    from fusiondistill.foreign import HOLDERS

    held = [key for key in HOLDERS if isinstance(content, dict) and isinstance(content.get(key), _Unread)]
    if not (held or isinstance(content, _Unread)):
        return
    whole = content[held[0]] if held and isinstance(content, dict) else content
    entry = f"[{held[0]!r}]" if held else ""
    under = f" under {held[0]!r}" if held else ""
    raise CheckpointError(
        f"{source} holds no state dict: it holds a whole object{under}, of {whole.named}, and "
        "reading that runs code of the file. Where you trust it, make a state dict of it in Python:"
        + _TO_STATE.format(f"torch.load({source!r}, map_location='cpu', weights_only=False){entry}")
    )


class TakenWeights(UserWarning):
    """Says which of several weights in a checkpoint were taken, or that they stand under an unusual key."""


class UnreadObjects(UserWarning):
    """Says that a checkpoint holds objects beside its weights, which were left alone."""


def _load_beside_strangers(data: bytes) -> tuple[Any, list[str]]:
    """What ``torch.save`` wrote, read with ``weights_only``, and the names of the classes and functions left alone.

    The paper's released code saves its config object beside the weights, Lightning its hyper-parameters. Where a file
    names anything but tensors and plain values, an empty stand-in takes its place: what the file names is neither
    imported nor called. torch fills a dictionary of its own class only if it is one; which class is such is found
    by trying.
    """
    import torch

    names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data)))
    kinds: list[type] = [type(f"Unread{n}_", (_Unread,), {"named": name}) for n, name in enumerate(names)]
    while True:
        try:
            with torch.serialization.safe_globals(list(zip(kinds, names, strict=True))):
                return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True), names
        except pickle.UnpicklingError as error:
            refused = re.search(r"Can only SETITEMS? .*Unread(\d+)_'", str(error))
            if refused is None or kinds[int(refused[1])].__base__ is _UnreadItems:
                raise
            kinds[int(refused[1])] = type(f"Unread{refused[1]}_", (_UnreadItems,), {})


class _Unread(list):
    """Takes the place of an object of a checkpoint; forgets all that it is given. torch appends to lists alone."""

    named = ""

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def append(self, item: object) -> None:
        """Forget it."""

    def extend(self, items: object) -> None:
        """Forget them."""

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__  # type: ignore[assignment]


class _UnreadItems(_Unread):
    """Makes a dictionary instead of an object whose class is one."""

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        return OrderedDict()
