"""When, where and with which versions a stage was done: facts that its manifest holds."""

from __future__ import annotations

import os
import platform
import socket
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fusiondistill_runner.working.context import Context

__all__ = ["processor", "run_facts"]


@cache
def processor() -> str:
    """The name of this machine's processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def run_facts(began: float, context: Context, device: torch.device) -> dict[str, Any]:
    """When, where and with which versions a stage was done.

    Args:
        began: seconds since 1970.
    """
    from importlib.metadata import version

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {
        "started": began,
        "finished": time.time(),
        "seconds": time.time() - began,
        "host": socket.gethostname(),
        "worker": f"{context.worker} (process {os.getpid()})",
        "device": name,
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "torchvision": version("torchvision")},
    }
