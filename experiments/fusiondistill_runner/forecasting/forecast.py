"""How long a plan will take on a given cluster: measured or assumed seconds of each stage, simulated, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fusiondistill.checkpoints import MODEL
from fusiondistill.config import ModelConfig
from fusiondistill.counting import counted
from fusiondistill_runner.driving.prepared import Prepared
from fusiondistill_runner.driving.tasks import tasks_of
from fusiondistill_runner.forecasting.assumptions import Cluster, Times, parse_cluster, read_times
from fusiondistill_runner.forecasting.estimates import Estimates
from fusiondistill_runner.forecasting.paths import critical_path
from fusiondistill_runner.forecasting.simulation import Job, Schedule
from fusiondistill_runner.forecasting.traffic import Traffic, network_of, traffic, weight_bytes
from fusiondistill_runner.planning.stage import Stage

__all__ = ["Forecast", "clock", "forecast", "jobs_of", "path_line", "traffic_line", "wished"]

Sizes = dict[tuple[ModelConfig, str], float]
"""(network, name of the data set) -> bytes of its weights."""
Wished = tuple[list[Cluster], dict[str, float]]
"""Clusters, and seconds of stages by name."""


def jobs_of(stages: Sequence[Stage], seconds: Mapping[str, float]) -> list[Job]:
    """Stages as jobs in the driver's order.

    Args:
        stages: inputs before what uses them; inputs that are not among them count as stored.
        seconds: digest -> seconds.
    """
    return [
        Job(task.key, task.kind, seconds[task.key], task.needs, task.priority, task.workers, task.trials)
        for task in tasks_of(stages)
    ]


@dataclass(frozen=True)
class Forecast:
    """Simulated runs of stages.

    Attributes:
        stages: those to run, inputs before what uses them.
        schedules: (cluster, its simulated run); empty where a time is unknown.
        unknown: the stages whose time is unknown.
        assumed: how many times were given.
        jobs: the stages as jobs.
        moved: the bytes through the store.
    """

    stages: Sequence[Stage] = ()
    schedules: Sequence[tuple[Cluster, Schedule]] = ()
    unknown: Sequence[Stage] = ()
    assumed: int = 0
    jobs: Sequence[Job] = ()
    moved: Traffic | None = None

    @classmethod
    def of(cls, stages: Sequence[Stage], clusters: Sequence[Cluster], times: Times, sizes: Sizes) -> Forecast:
        """Simulate each cluster in turn.

        Args:
            stages: to run, inputs before what uses them.
            clusters: to run them on.
            times: seconds of the stages.
            sizes: measured; others are computed.
        """
        found = {stage.digest: times.of(stage) for stage in stages}
        known = {digest: seconds for digest, (seconds, _) in found.items() if seconds is not None}
        if not stages or len(known) < len(stages):
            return cls(stages, unknown=[stage for stage in stages if stage.digest not in known])
        jobs = jobs_of(stages, known)
        moved = traffic(stages, lambda stage: _size(stage, sizes))
        assumed = sum(is_assumed for _, is_assumed in found.values())
        return cls(stages, [(one, one.simulate(jobs)) for one in clusters], (), assumed, jobs, moved)

    def lines(self) -> list[str]:
        """Lines about the simulated runs; where times are unknown, lines that name these instead."""
        if self.unknown:
            return _unknown(self.unknown)
        if not self.moved:
            return []
        measured = len(self.stages) - self.assumed
        source = f"{self.assumed} assumed (--times), {measured} measured" if self.assumed else "measured"
        what = f"simulated as the driver would run it, {counted(len(self.stages), 'stage')}"
        head = f"{what}, times {source}; start of Ray not counted:"
        lines = [f"  {cluster.label}: {_line(schedule)}" for cluster, schedule in self.schedules]
        by_key = {stage.digest: stage for stage in self.stages}
        return [head, *lines, f"  {path_line(self.jobs, by_key)}", f"  {traffic_line(self.moved)}"]

    def content(self) -> dict[str, Any]:
        """The same, JSON-able: seconds, and bytes through the store."""
        by_key = {stage.digest: stage for stage in self.stages}
        chain = critical_path(self.jobs) if self.jobs else []
        return {
            "clusters": [
                {
                    "cluster": cluster.label,
                    "workers": cluster.slots,
                    "seconds": schedule.makespan,
                    "device_seconds": schedule.device_seconds,
                    "utilisation": schedule.utilisation,
                }
                for cluster, schedule in self.schedules
            ],
            "times": {
                "assumed": self.assumed,
                "measured": len(self.stages) - self.assumed - len(self.unknown),
                "unknown": [stage.directory for stage in self.unknown],
            },
            "critical_path": [{"stage": by_key[job.key].directory, "seconds": job.shortest} for job in chain],
            "bytes": {"written": self.moved.written, "progress": self.moved.progress, "read": self.moved.read}
            if self.moved
            else None,
        }


def wished(prepared: Prepared, clusters: Sequence[str], times: Sequence[str]) -> Wished:
    """The clusters and the times that ``fusiondistill plan CONFIG --simulate ... --times ...`` names.

    Raises:
        ValueError, FileNotFoundError: as :func:`parse_cluster` and :func:`read_times`; or ``times`` without a cluster.
    """
    if times and not clusters:
        raise ValueError("--times is for a simulation: give --simulate workers=N, or nodes=N,gpus=N, too")
    parsed = [parse_cluster(text, prepared.config.resources) for text in clusters]
    return parsed, read_times(times, prepared.plan.stages)


def forecast(prepared: Prepared, wishes: Wished, estimates: Estimates) -> Forecast:
    """What a plan says about the missing stages on the clusters that a user names.

    Args:
        wishes: of :func:`wished`.
        estimates: from the store's stages.
    """
    clusters, assumed = wishes
    if not clusters:
        return Forecast()
    given = Times(assumed, estimates)
    sizes: Sizes = {}
    for stage in prepared.plan.stages:
        manifest = prepared.store.manifest(stage) if stage.digest in prepared.stored else None
        if manifest and MODEL in manifest["files"]:
            sizes[network_of(stage)] = manifest["files"][MODEL]["bytes"]
    return Forecast.of(prepared.missing, clusters, given, sizes)


def _unknown(stages: Sequence[Stage]) -> list[str]:
    names: dict[str, list[str]] = {}
    for stage in stages:
        names.setdefault(stage.kind, []).append(stage.name)
    lines = ["no simulation: some times are unknown"]
    for kind, of in names.items():
        some = list(dict.fromkeys(of))
        which = ", ".join(some[:4]) + (", ..." if len(some) > 4 else "")
        lines.append(
            f"  unknown for {counted(len(of), 'stage')} of kind {kind} ({which}): give --times {kind}=SECONDS, "
            "or run one seed first"
        )
    return lines


def _size(stage: Stage, sizes: Sizes) -> float:
    return sizes.get(network_of(stage)) or weight_bytes(stage)


def _line(schedule: Schedule) -> str:
    hours = schedule.device_seconds / 3600
    amount = f"{hours:.3g} device-hours" if hours >= 0.1 else f"{hours * 60:.2g} device-minutes"
    return f"{clock(schedule.makespan)}, {amount}, utilisation {schedule.utilisation:.0%}"


def path_line(jobs: Sequence[Job], stages: Mapping[str, Stage]) -> str:
    """The critical path with the time of each of its stages."""
    chain = critical_path(jobs)
    first = stages[chain[0].key]
    steps = " -> ".join(f"{stages[job.key].name} {clock(job.shortest)}" for job in chain)
    where = f"{network_of(first)[1]}, seed {first.seed}"
    return f"critical path {clock(sum(job.shortest for job in chain))} on any number of devices ({where}): {steps}"


def traffic_line(moved: Traffic) -> str:
    """A line about the bytes through the store."""
    return (
        f"through the store: about {_bytes(moved.written)} written ({_bytes(moved.progress)} of it progress, which "
        f"each epoch replaces), {_bytes(moved.read)} read"
    )


def clock(seconds: float) -> str:
    """Seconds in words: 6 h 57 min, 36 min 24 s, 12.3 s."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"
