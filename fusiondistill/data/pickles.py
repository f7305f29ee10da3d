"""Read the CIFAR archives' pickles without running what they say.

A pickle is a program. This reader lets it name five things, and none of them is the real one: stand-ins build lists,
numbers, text, and flat arrays of integers, and nothing else. The pure Python unpickler is used because the C one can be
told to allocate gigabytes by nine bytes (`LONG_BINPUT` with a large index).
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

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
        if not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) * dtype.numpy.itemsize != len(raw):
            raise pickle.UnpicklingError(f"an array of the shape {shape} with {len(raw)} bytes")
        self.array = np.frombuffer(raw, dtype=dtype.numpy).reshape(shape, order="F" if fortran else "C")


class _Dtype:
    """Stands for numpy.dtype: the state that numpy adds (byte order and so on) is already in the name."""

    __slots__ = ("numpy",)

    def __init__(self, name: str) -> None:
        self.numpy = np.dtype(DTYPES[name])

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("|", "<", b"|", b"<") or state[2] is not None:  # bytes from Python 2
            raise pickle.UnpicklingError("a structured or big-endian array")


class _Name:
    """What the pickle gets for one of the allowed names: may be called, cannot be changed."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *arguments: Any) -> Any:
        if self._name == "_reconstruct":
            return _Array()
        if self._name == "dtype":
            name = arguments[0]
            return _Dtype(name.decode("ascii") if isinstance(name, bytes) else name)
        if self._name == "encode" and arguments[1] in ("latin1", b"latin1"):  # how Python 3 writes bytes in protocol 2
            return arguments[0].encode("latin1")
        raise pickle.UnpicklingError(f"a call of {self._name}")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"a change of {self._name}")


class _Unpickler(pickle._Unpickler):
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
        the dictionary, its keys as str, its arrays as numpy arrays (read-only); text stays bytes where it was so.

    Raises:
        DataError: it is no pickle, is cut short, or asks for anything but what CIFAR's files hold.
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
