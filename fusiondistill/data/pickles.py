"""Reads the CIFAR archives' pickles without running code from them.

A pickle is a program. This reader lets it name five functions and gives it stand-ins for them, which can build lists,
numbers, text and flat arrays of integers alone. The pure Python unpickler is used, since nine bytes (`LONG_BINPUT` with
a large index) make the C one allocate gigabytes. Ninety bytes make a nested tuple that takes hours to hash and
gigabytes to print, so only text and numbers may be keys or stand in a message.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any, ClassVar

import numpy as np

from fusiondistill.data.errors import DataError

__all__ = ["read_pickle"]

DTYPES = {"u1": np.uint8, "|u1": np.uint8, "i4": np.int32, "<i4": np.int32, "i8": np.int64, "<i8": np.int64}


class _Array:
    """Stands for numpy.ndarray: filled by the pickle's BUILD with (version, shape, dtype, fortran order, bytes)."""

    __slots__ = ("array",)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes) or type(shape) is not tuple:
            raise pickle.UnpicklingError("an array that is not plain")
        if len(shape) > 4 or not all(type(n) is int and 0 <= n < 2**32 for n in shape):
            raise pickle.UnpicklingError("an array whose shape is none")
        if math.prod(shape) * dtype.numpy.itemsize != len(raw):
            raise pickle.UnpicklingError(f"an array of the shape {shape} with {len(raw)} bytes")
        self.array = np.frombuffer(raw, dtype=dtype.numpy).reshape(shape, order="F" if fortran else "C")


class _Dtype:
    """Stands for numpy.dtype. The state that numpy adds (byte order and so on) is in the name already."""

    __slots__ = ("numpy",)

    def __init__(self, name: str) -> None:
        self.numpy = np.dtype(DTYPES[name])

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("|", "<", b"|", b"<") or state[2] is not None:  # bytes from Python 2
            raise pickle.UnpicklingError("a structured or big-endian array")


class _Name:
    """The stand-in for one of the allowed names: the pickle may call it and cannot change it."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *arguments: Any) -> Any:
        if self._name == "_reconstruct":
            return _Array()
        if self._name == "dtype":
            name = arguments[0].decode("ascii") if type(arguments[0]) is bytes else arguments[0]
            if type(name) is not str or name not in DTYPES:
                raise pickle.UnpicklingError("an array of another kind than integers")
            return _Dtype(name)
        if self._name == "encode" and arguments[1] in ("latin1", b"latin1"):  # how Python 3 writes bytes in protocol 2
            return arguments[0].encode("latin1")
        raise pickle.UnpicklingError(f"a call of {self._name}")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"a change of {self._name}")


def _with_plain_keys(code: bytes, keys: slice) -> Any:
    """The function for an instruction that fills a dictionary; it checks the keys (``keys`` of the stack) first."""
    load = pickle._Unpickler.dispatch[code[0]]

    def checked(unpickler: Any) -> None:
        if not all(type(key) in (str, bytes, int) for key in unpickler.stack[keys]):
            raise pickle.UnpicklingError("a key that is neither text nor a number")
        load(unpickler)

    return checked


def _refused(unpickler: Any) -> None:
    raise pickle.UnpicklingError("a set, or bytes that can be changed")


class _Unpickler(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.SETITEM[0]: _with_plain_keys(pickle.SETITEM, slice(-2, -1)),
        pickle.SETITEMS[0]: _with_plain_keys(pickle.SETITEMS, slice(None, None, 2)),  # a mark begins its own stack
        pickle.DICT[0]: _with_plain_keys(pickle.DICT, slice(None, None, 2)),
        **dict.fromkeys(pickle.EMPTY_SET + pickle.ADDITEMS + pickle.FROZENSET + pickle.BYTEARRAY8, _refused),
    }
    ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file needs")
        return _Name(name)


def read_pickle(data: bytes, where: str) -> dict[str, Any]:
    """Read a pickled dictionary of lists, numbers, text and integer arrays.

    Args:
        data: the bytes of the file.
        where: its path, for the message.

    Returns:
        the dictionary, its keys as str, its arrays as numpy arrays (read-only). Bytes stay bytes.

    Raises:
        DataError: the bytes are no pickle, are cut short, or need anything that CIFAR's files do not hold.
    """
    try:
        loaded = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        if type(loaded) is not dict:
            raise pickle.UnpicklingError("it holds no dictionary")
        keys = [key.decode("ascii") if isinstance(key, bytes) else str(key) for key in loaded]
        values = [value.array if isinstance(value, _Array) else value for value in loaded.values()]
    except Exception as error:  # damaged pickles raise nearly everything
        reason = f"{type(error).__name__}: {error}"
        raise DataError(
            f"{where}: not a file of the CIFAR archives ({reason}). Nothing in it was run. "
            "Fetch the archive again from its official place."
        ) from error
    return dict(zip(keys, values, strict=True))
