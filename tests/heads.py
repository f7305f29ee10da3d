"""Clusters of `ray start`, for tests: several beside each other, and beside other programs of the machine."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from bucket import free_port

__all__ = ["RAY", "free_port", "stop"]

RAY = [sys.executable, "-m", "ray.scripts.scripts"]


def stop(folder: str) -> None:
    """End the processes of one cluster: those that were started with its folder. (`ray stop` would end all.)"""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for entry in Path("/proc").iterdir():
            try:
                if (
                    entry.name.isdigit()
                    and int(entry.name) != os.getpid()
                    and folder in (entry / "cmdline").read_text()
                ):
                    os.kill(int(entry.name), number)
            except (OSError, UnicodeDecodeError):
                continue
        time.sleep(3)
