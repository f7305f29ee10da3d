"""What a process keeps for its next step, seen from outside: by the pages that the system has to hand out."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

import pytest
import torch

from fusiondistill.memory import kept_memory

CPU = torch.device("cpu")
BLOCK, PAGE = 48 * 2**20, resource.getpagesize()

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")


def pages() -> int:
    """The pages that were handed out while a block of 48 MiB was filled three times and freed each time."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        torch.ones(BLOCK, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def held() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def test_pages_are_handed_out_once_within_the_block_and_go_back_after_it() -> None:
    usual = pages()
    assert usual > 2.5 * BLOCK / 2**21, "pages may be huge, of 2 MiB"
    with kept_memory(CPU):
        for _ in range(3):  # glibc's aligned blocks need some room around them before they fit where others were
            pages()
        assert pages() < 0.1 * usual
        with kept_memory(CPU):
            assert pages() < 0.1 * usual
        assert pages() < 0.1 * usual, "only the outermost block gives memory back"
        within = held()
    assert held() < within - 0.8 * BLOCK
