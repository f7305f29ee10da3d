"""How long the stages of a plan take on this machine: one after another in one process, or side by side through Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from fusiondistill.config import Resources
from fusiondistill.counting import counted
from fusiondistill.data.reading import cores
from fusiondistill_runner.forecasting.forecast import clock, jobs_of
from fusiondistill_runner.forecasting.simulation import simulate
from fusiondistill_runner.nodes.cluster import share_of, slots_on
from fusiondistill_runner.planning.stage import Stage

__all__ = ["Duration", "duration_line", "workers_here"]

# Seconds besides the stages, from a run of the demo on a machine with two idle CPU cores.
START = 2.0
"""Importing the libraries, finding the data and planning."""
REPORT = 4.0
"""Collecting the results and drawing the report."""
RAY_START = 7.0
"""Starting Ray (4), and ending it (3)."""


@dataclass(frozen=True)
class Duration:
    """Seconds of a whole run on this machine.

    Attributes:
        local: with ``--local``: one stage after another.
        ray: through Ray, with ``workers`` of them side by side; None: it cannot be told, since no worker fits.
        workers: how many fit on this machine.
    """

    local: float
    ray: float | None
    workers: int

    @classmethod
    def of(cls, stages: Sequence[Stage], seconds: Mapping[str, float], resources: Resources) -> Duration:
        """The durations of a run over these stages.

        A stage is taken to need as long beside others as it needs alone. On a processor whose cores share caches, or a
        GPU that several workers share, it needs longer.

        Args:
            stages: inputs before what uses them; others count as stored.
            seconds: digest -> seconds of one worker.
            resources: what a worker holds.
        """
        local = START + sum(seconds[stage.digest] for stage in stages) + REPORT
        workers = workers_here(resources)
        widest = max((stage.spec.workers for stage in stages), default=1)
        if workers < widest:
            return cls(local, None, workers)
        schedule = simulate(jobs_of(stages, seconds), workers, group_size=resources.group_size, at_once=True)
        return cls(local, START + RAY_START + schedule.makespan + REPORT, workers)


def workers_here(resources: Resources) -> int:
    """How many workers fit on this machine at once."""
    node = {"CPU": float(cores()), "GPU": float(torch.cuda.device_count())}
    fitting = slots_on(share_of(resources, [node]), node)
    return min(fitting, resources.workers or fitting)


def duration_line(duration: Duration, where: str) -> str:
    """A line about both; ``where`` names the machine."""
    ray = "" if duration.ray is None else f", {clock(duration.ray)} through Ray ({_workers(duration.workers)})"
    return f"A run takes about {clock(duration.local)} with --local{ray}, on this machine ({where})"


def _workers(count: int) -> str:
    return counted(count, "worker", "workers side by side")
