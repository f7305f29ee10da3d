"""What a simulation is given on the command line: clusters, and seconds of stages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fusiondistill.config import Resources
from fusiondistill.counting import counted
from fusiondistill_runner.forecasting.estimates import Estimates
from fusiondistill_runner.forecasting.simulation import Job, Schedule, simulate
from fusiondistill_runner.forecasting.traffic import network_of
from fusiondistill_runner.nodes.cluster import share_of, slots, slots_on
from fusiondistill_runner.planning.specs import EvaluateSpec, ValidateSpec
from fusiondistill_runner.planning.stage import Stage

__all__ = ["Cluster", "Times", "parse_cluster", "read_times"]


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
        return Cluster(counted(given["workers"], "worker"), (given["workers"],), unlimited)
    count = given.get("nodes", 1)
    if not count or not ("gpus" in given or "cpus" in given):
        raise ValueError(f"--simulate {text}: give gpus=N or cpus=N for each of at least one node, or workers=N")
    node = {"CPU": float(given.get("cpus", 1_000_000)), "GPU": float(given.get("gpus", 0))}
    nodes: list[Mapping[str, float]] = [node] * count
    share = share_of(resources, nodes)
    slots(share, nodes)  # raises where none fits
    have = " and ".join(f"{given[name]} {name[:-1].upper()}s" for name in ("gpus", "cpus") if name in given)
    found = Cluster(f"{counted(count, 'node')} with {have}", (slots_on(share, node),) * count, resources)
    return replace(found, label=f"{found.label}, {counted(found.slots, 'worker')}")


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
