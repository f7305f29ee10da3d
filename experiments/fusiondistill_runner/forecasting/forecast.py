"""How long a plan will take on a given cluster: measured or assumed seconds of each stage, simulated, in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fusiondistill.checkpoints import MODEL
from fusiondistill.config import ModelConfig, Resources
from fusiondistill_runner.driving.prepared import Prepared
from fusiondistill_runner.driving.tasks import tasks_of
from fusiondistill_runner.forecasting.estimates import Estimates
from fusiondistill_runner.forecasting.paths import critical_path
from fusiondistill_runner.forecasting.simulation import Job, Schedule, simulate
from fusiondistill_runner.forecasting.traffic import Traffic, network_of, traffic, weight_bytes
from fusiondistill_runner.nodes.cluster import share_of, slots, slots_on
from fusiondistill_runner.planning.specs import EvaluateSpec, ValidateSpec
from fusiondistill_runner.planning.stage import Stage

__all__ = [
    "Cluster",
    "Times",
    "clock",
    "forecast",
    "forecast_lines",
    "jobs_of",
    "parse_cluster",
    "path_line",
    "read_times",
    "traffic_line",
]

Sizes = dict[tuple[ModelConfig, str], float]
"""(network, name of the data set) -> bytes of its weights."""


@dataclass(frozen=True)
class Cluster:
    """A cluster to simulate.

    Attributes:
        label: its nodes or workers, in words.
        nodes: how many workers fit on each node.
        resources: of the config, which may allow fewer workers at once.
    """

    label: str
    nodes: tuple[int, ...]
    resources: Resources

    @property
    def slots(self) -> int:
        """How many workers there are at once."""
        return min(sum(self.nodes), self.resources.workers or sum(self.nodes))

    def simulate(self, jobs: Sequence[Job]) -> Schedule:
        """Run jobs on it as the driver would."""
        return simulate(jobs, self.nodes, group_size=self.resources.group_size, most=self.resources.workers)


def parse_cluster(text: str, resources: Resources) -> Cluster:
    """Read ``nodes=30,gpus=8`` (``gpus`` and ``cpus`` of each node), or ``workers=8`` for so many equal workers.

    A worker holds what ``resources`` say, as in a run. Without ``cpus`` the nodes have enough of them.

    Raises:
        ValueError: not of this form, or no node can hold a worker.
    """
    given: dict[str, int] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in ("nodes", "gpus", "cpus", "workers") or not value.isdecimal() or name in given:
            raise ValueError(f"--simulate {text}: expected nodes=30,gpus=8 or nodes=4,cpus=16 or workers=8")
        given[name] = int(value)
    if "workers" in given:
        if len(given) > 1 or not given["workers"]:
            raise ValueError(f"--simulate {text}: give workers=N alone, with N of at least 1")
        unlimited = resources.model_copy(update={"workers": None})
        return Cluster(_count(given["workers"], "worker"), (given["workers"],), unlimited)
    count = given.get("nodes", 1)
    if not count or not ("gpus" in given or "cpus" in given):
        raise ValueError(f"--simulate {text}: give gpus=N or cpus=N for each of at least one node, or workers=N")
    node = {"CPU": float(given.get("cpus", 1_000_000)), "GPU": float(given.get("gpus", 0))}
    nodes: list[Mapping[str, float]] = [node] * count
    share = share_of(resources, nodes)
    slots(share, nodes)  # raises where none fits
    have = " and ".join(f"{given[name]} {name[:-1].upper()}s" for name in ("gpus", "cpus") if name in given)
    found = Cluster(f"{_count(count, 'node')} with {have}", (slots_on(share, node),) * count, resources)
    return replace(found, label=f"{found.label}, {_count(found.slots, 'worker')}")


@dataclass
class Times:
    """Seconds of each stage: the given ones, else the estimate from stored stages.

    Attributes:
        given: ``DATA/NAME``, ``NAME``, ``DATA/KIND`` or ``KIND`` -> seconds of one such stage (of a search: of all its
            trials together). The first of these that is given counts. NAME is printed by ``plan`` (without its hash),
            DATA is the data set's name.
        estimates: from stored stages.
    """

    given: Mapping[str, float] = field(default_factory=dict)
    estimates: Estimates = field(default_factory=Estimates)

    def of(self, stage: Stage) -> tuple[float | None, bool]:
        """(seconds, None if unknown; whether they were given rather than measured)."""
        if stage.kind == "import":
            return 0.0, False
        key = next((key for key in _keys(stage) if key in self.given), None)
        return (self.given[key], True) if key else (self.estimates.seconds(stage), False)


def _keys(stage: Stage) -> tuple[str, ...]:
    data = network_of(stage)[1]
    own = (f"{data}/{stage.name}", stage.name, f"{data}/{stage.kind}", stage.kind)
    # A validation takes no longer than an evaluation.
    longer = EvaluateSpec.kind if isinstance(stage.spec, ValidateSpec) else ""
    return (*own, f"{data}/{longer}", longer) if longer else own


def read_times(sources: Sequence[str], stages: Iterable[Stage]) -> dict[str, float]:
    """Read times from the command line: each NAME=SECONDS, or a YAML or JSON file of them; the last one counts.

    Raises:
        ValueError: not of this form, or no stage has this name or kind.
        FileNotFoundError: no such file.
    """
    found: dict[str, float] = {}
    known = dict.fromkeys(key for stage in stages for key in _keys(stage))
    for source in sources:
        name, is_pair, value = source.partition("=")
        content: Any = {name: value} if is_pair else _read(source)
        if not isinstance(content, dict):
            raise ValueError(f"--times {source}: expected a mapping of names or kinds of stages to seconds")
        for key, seconds in content.items():
            if str(key) not in known:
                short = ", ".join(key for key in known if "/" not in key and not key.startswith("evaluate-"))
                raise ValueError(f"--times {source}: no stage or kind is called {key!r}; there are: {short}")
            try:
                found[str(key)] = float(seconds)
            except (TypeError, ValueError):
                found[str(key)] = math.nan
            if not 0 <= found[str(key)] < math.inf:
                raise ValueError(f"--times {source}: {key}: {seconds!r} is no number of seconds")
    return found


def _read(path: str) -> Any:
    from fusiondistill import safe_yaml

    if not Path(path).exists():
        raise FileNotFoundError(f"--times {path}: no such file; give a YAML file or NAME=SECONDS")
    try:
        return safe_yaml.read(safe_yaml.read_text(Path(path)))[0]
    except safe_yaml.YAMLProblem as error:
        raise ValueError(f"--times {path}: {error}") from error


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


def forecast(prepared: Prepared, clusters: Sequence[str], times: Sequence[str], estimates: Estimates) -> list[str]:
    """The lines of ``fusiondistill plan CONFIG --simulate ... --times ...`` about the missing stages.

    Args:
        estimates: from the store's stages.

    Raises:
        ValueError, FileNotFoundError: as :func:`parse_cluster` and :func:`read_times`; or ``times`` without a cluster.
    """
    if not clusters:
        if times:
            raise ValueError("--times is for a simulation: give --simulate workers=N, or nodes=N,gpus=N, too")
        return []
    parsed = [parse_cluster(text, prepared.config.resources) for text in clusters]
    given = Times(read_times(times, prepared.plan.stages), estimates)
    sizes: Sizes = {}
    for stage in prepared.plan.stages:
        manifest = prepared.store.manifest(stage) if stage.digest in prepared.stored else None
        if manifest and MODEL in manifest["files"]:
            sizes[network_of(stage)] = manifest["files"][MODEL]["bytes"]
    return forecast_lines(prepared.missing, parsed, given, sizes)


def forecast_lines(stages: Sequence[Stage], clusters: Sequence[Cluster], times: Times, sizes: Sizes) -> list[str]:
    """Lines about the simulated runs of stages; where times are unknown, lines that name these instead.

    Args:
        stages: the stages to run, inputs before what uses them.
        clusters: simulated in turn, a line for each.
        times: seconds of the stages.
        sizes: measured; others are computed.
    """
    if not stages:
        return []
    found = {stage.digest: times.of(stage) for stage in stages}
    known = {digest: seconds for digest, (seconds, _) in found.items() if seconds is not None}
    if len(known) < len(stages):
        return _unknown([stage for stage in stages if stage.digest not in known])
    jobs = jobs_of(stages, known)
    assumed = sum(is_assumed for _, is_assumed in found.values())
    source = f"{assumed} assumed (--times), {len(stages) - assumed} measured" if assumed else "measured"
    lines = [f"simulated as the driver would run it, {len(stages)} stages, times {source}; start of Ray not counted:"]
    lines += [f"  {cluster.label}: {_line(cluster.simulate(jobs))}" for cluster in clusters]
    moved = traffic(stages, lambda stage: _size(stage, sizes))
    return [*lines, f"  {path_line(jobs, {s.digest: s for s in stages})}", f"  {traffic_line(moved)}"]


def _unknown(stages: Sequence[Stage]) -> list[str]:
    names: dict[str, list[str]] = {}
    for stage in stages:
        names.setdefault(stage.kind, []).append(stage.name)
    lines = ["no simulation: some times are unknown"]
    for kind, of in names.items():
        some = list(dict.fromkeys(of))
        which = ", ".join(some[:4]) + (", ..." if len(some) > 4 else "")
        lines.append(
            f"  unknown for {_count(len(of), 'stage')} of kind {kind} ({which}): give --times {kind}=SECONDS, "
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


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
