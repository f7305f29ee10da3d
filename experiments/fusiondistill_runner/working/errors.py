"""What went wrong with a stage, in words for a user."""

from __future__ import annotations

import traceback

from fusiondistill.locations import DiskFull

__all__ = ["describe"]


def describe(problem: Exception) -> str:
    """An error as a user should read it: our own in one line, a surprise with the end of its traceback."""
    from fusiondistill.checkpoints import CheckpointError
    from fusiondistill.data import DataError
    from fusiondistill.training import NeedsGPU, NonFiniteLoss

    if isinstance(problem, CheckpointError | DataError | NeedsGPU | NonFiniteLoss | DiskFull | ConnectionError):
        return str(problem)
    return "".join(traceback.format_exception(problem)[-4:]).strip()
