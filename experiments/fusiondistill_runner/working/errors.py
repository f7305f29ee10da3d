"""What went wrong with a stage, in words for a user."""

from __future__ import annotations

import traceback

from fusiondistill.locations import DiskFull
from fusiondistill.plugins import blamed
from fusiondistill.registry import WrongResult

__all__ = ["describe"]


def describe(problem: Exception) -> str:
    """An error as a user should read it: one line where the project or a plugin raised it, else the traceback's end."""
    import torch

    from fusiondistill.checkpoints import CheckpointError
    from fusiondistill.data import DataError
    from fusiondistill.room import BatchTooLarge
    from fusiondistill.training import NonFiniteLoss
    from fusiondistill.wrapping import NeedsGPU

    of_training = BatchTooLarge | NeedsGPU | NonFiniteLoss
    if isinstance(problem, CheckpointError | DataError | DiskFull | WrongResult | ConnectionError | of_training):
        return str(problem)
    if at := blamed(problem):
        return at
    if isinstance(problem, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(problem):
        reason = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        return f"out of memory: lower the method's batch_size, or evaluation.batch_size where it evaluates ({reason})"
    return "".join(traceback.format_exception(problem)[-4:]).strip()
