"""How much memory a process may still take, on a device or on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

__all__ = ["free_memory"]

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
