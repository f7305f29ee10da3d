"""How the compiled CPU kernels are built and run. Imported on first use, because importing numba takes a while."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import torch

__all__ = ["compiled", "inlined", "over_batch"]

_FEWEST_IMAGES = 8  # Below this a thread costs more than it saves.

inlined: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(nogil=True, error_model="numpy")
"""For the small functions that kernels are made of; LLVM inlines them."""


@functools.cache
def _cache_folder() -> str:
    """Where machine code is kept: beside the source (or in ``NUMBA_CACHE_DIR``), apart for each state of the source.

    numba itself looks at the kernel's file alone and would miss a change in a function that it calls from another.
    """
    here = Path(__file__).parent
    sources = b"\0".join(path.read_bytes() for path in sorted(here.glob("*.py")))
    digest = hashlib.blake2b(sources, digest_size=8).hexdigest()
    return str(Path(numba.config.CACHE_DIR or here / "__pycache__") / f"kernels-{digest}")


def compiled(signature: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Compile a kernel ahead of its first call, without the interpreter's lock, and keep the machine code on disk.

    In a read-only installation numba falls back to the user's cache directory, and where nothing is writable the
    kernel is compiled anew in each process.
    """

    def build(function: Callable[..., None]) -> Callable[..., None]:
        options = {"nogil": True, "error_model": "numpy"}
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = _cache_folder()
        try:
            return numba.njit(signature, cache=True, **options)(function)
        except (RuntimeError, OSError):
            return numba.njit(signature, **options)(function)
        finally:
            numba.config.CACHE_DIR = before

    return build


def over_batch(kernel: Callable[..., None], batch: int, *arguments: Any) -> None:
    """Call ``kernel(start, stop, *arguments)`` on parts of 0..batch, in as many threads as torch may use.

    Plain threads, since kernels hold no lock: numba's own thread pool ends the process when two Python threads enter
    it at once, and it takes every core where the user gave torch fewer.
    """
    threads = min(torch.get_num_threads(), batch // _FEWEST_IMAGES)
    if threads <= 1:
        kernel(0, batch, *arguments)
        return
    cuts = [batch * part // threads for part in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(kernel, a, b, *arguments) for a, b in itertools.pairwise(cuts)]:
            future.result()
