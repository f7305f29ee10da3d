"""Memory that a process may still take, and pages of files that it will need."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import torch

__all__ = ["free_memory", "will_need"]

_WILL_NEED = 3
"""POSIX's MADV_WILLNEED, on Linux and macOS."""
_PROC, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU, or on this machine up to the limits of the process's control groups.

    What torch keeps for later use counts as free, and so does the page cache of this machine, since the system gives it
    up when it is needed.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return min([_available(), *_limits()])


def _available() -> int:
    """What Linux says is available; elsewhere all memory of the machine."""
    try:
        lines = (_PROC / "meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limits() -> Iterator[int]:
    """The memory limits of the control groups of this process and of those around them, of both versions."""
    try:
        named = [line.split(":", 2) for line in (_PROC / "self/cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, kinds, path in named:
        if kinds == "":
            root, file = _GROUPS, "memory.max"
        elif "memory" in kinds.split(","):
            root, file = _GROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        # In a container the path may be that of the machine outside, and the root is the container's own group.
        for place in (group, *(parent for parent in group.parents if parent.is_relative_to(root))):
            try:
                text = (place / file).read_text().strip()
            except OSError:
                continue
            if text.isdecimal():
                yield int(text)


def will_need(mapped: torch.Tensor, rows: torch.Tensor) -> None:
    """Let the system read rows of a mapped tensor, all at once, before they are touched one after another.

    Without it the system reads as many pages as it thinks right at each page that is not there, and waits each time.

    Args:
        mapped: contiguous; nothing happens where it is no map of a file.
        rows: int64 [B].
    """
    advise = getattr(ctypes.CDLL(None), "madvise", None)
    if advise is None:
        return
    size, page = mapped[0].nbytes, os.sysconf("SC_PAGE_SIZE")
    for row in rows.tolist():
        start = mapped.data_ptr() + row * size
        before = start % page
        advise(ctypes.c_void_p(start - before), ctypes.c_size_t(size + before), _WILL_NEED)
