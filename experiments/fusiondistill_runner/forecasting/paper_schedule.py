"""`fusiondistill bench schedule`: how long the published tables take on 1 to 256 devices, at given speeds.

The data sets need not be there: the plan is made with their published sizes and made-up fingerprints.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fusiondistill import config_file
from fusiondistill.methods import SEARCHED
from fusiondistill_runner.forecasting.forecast import clock, jobs_of, path_line, traffic_line
from fusiondistill_runner.forecasting.paths import ORDERS, critical_path
from fusiondistill_runner.forecasting.simulation import Job, simulate
from fusiondistill_runner.forecasting.traffic import network_of, traffic
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.rows import union
from fusiondistill_runner.planning.specs import EvaluateSpec, TrainSpec
from fusiondistill_runner.planning.stage import Stage

__all__ = ["SPEEDS", "bench_schedule", "paper_stages", "parse_speeds", "seconds_at"]

SPEEDS = {32: 8_500.0, 64: 4_000.0}
"""Images that one device trains ResNet-56 on in a second, by the side of the image: at 32 as measured on an H200 with
batches of 4 x 128 in float32 (docs/benchmarks.md says how), at 64 ASSUMED."""
SETS = {"cifar10": (50_000, 32), "cifar100": (50_000, 32), "tiny_imagenet": (100_000, 64)}
"""Training images and side of an image, as published; each has 10,000 test images."""
TEST_IMAGES = 10_000
FORWARD = 1 / 3
"""A forward pass as a part of a training step, which also goes back: for teachers, validation, evaluation."""
FUSE_IMAGES = 10_000 + 2_000 * 5
"""Images of a fusion's forward passes: for BatchNorm's statistics, and to judge four experts and their average."""
DEVICES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def paper_stages(config: str = "paper_sweep", overrides: Sequence[str] = ()) -> tuple[Stage, ...]:
    """All stages of a sweep over the published data sets, which need not be on this machine.

    Raises:
        ConfigError: the config cannot be used.
        ValueError: it has another data set, or a search.
    """
    from fusiondistill.degradations import DEGRADATIONS

    whole, points = config_file.load_points(config, overrides)
    for point in points:
        if point.data.name not in SETS or point.search:
            raise ValueError(f"{config}: bench schedule takes {', '.join(SETS)} without a search")
    plans = [build(point, f"made up: {point.data.name}", lambda name: DEGRADATIONS[name].levels) for point in points]
    return union(whole, plans).stages


def seconds_at(stage: Stage, speeds: Mapping[int, float]) -> float:
    """Seconds of a stage on one device.

    Args:
        speeds: side of an image -> training images a second. Teachers, validation and evaluation count as a third.
    """
    images, side = SETS[network_of(stage)[1]]
    spec = stage.spec
    if isinstance(spec, TrainSpec):
        count = min(images, spec.data.train_images or images)
        trained = count * (1 - spec.data.held_out) * max(1, len(spec.degradations))
        judged = {"test": TEST_IMAGES, "validation": count * spec.data.held_out}.get(spec.select, 0.0)
        taught = trained * spec.teachers
        work = trained + FORWARD * (taught + judged * max(1, len(spec.degradations)))
        return spec.epochs * work / speeds[side]
    if isinstance(spec, EvaluateSpec):
        return FORWARD * TEST_IMAGES * len(spec.levels) * len(stage.inputs) / speeds[side]
    return FORWARD * FUSE_IMAGES / speeds[side]


def parse_speeds(given: Sequence[str]) -> dict[int, float]:
    """``32=15000`` -> {32: 15000.0}.

    Raises:
        ValueError: not of this form.
    """
    speeds: dict[int, float] = {}
    for text in given:
        side, _, speed = text.partition("=")
        if side not in map(str, SPEEDS) or not re.fullmatch(r"[0-9]*\.?[0-9]+", speed) or not float(speed):
            raise ValueError(f"--speed {text}: expected images a second at 32 or 64 pixels, like 32=15000")
        speeds[int(side)] = float(speed)
    return speeds


def bench_schedule(
    say: Callable[[str], None], speeds: Mapping[int, float] | None = None, devices: Sequence[int] = DEVICES
) -> list[dict[str, Any]]:
    """Simulate the paper sweep on more and more devices, in the driver's order and in others.

    Returns:
        For each number of devices and each other order a row with ``name``, ``ours`` and ``reference`` (hours),
        ``ratio`` (reference / ours), ``unit`` and ``limit`` (``devices`` or ``critical path``: the longer bound).
    """
    speeds = {**SPEEDS, **(speeds or {})}
    stages = paper_stages()
    jobs = jobs_of(stages, {stage.digest: seconds_at(stage, speeds) for stage in stages})
    told = ", ".join(f"{speeds[side]:,.0f} training images/s at {side}x{side}" for side in sorted(speeds))
    say(f"paper_sweep, {len(stages)} stages, simulated; taken to be so: a device does {told}")
    others = [name for name in ORDERS if name != "driver"]
    say("time: in the driver's order, longest path (in epochs) first; then longest path in seconds, and naive orders")
    say(f"{'devices':>7} {'time':>12} {'speed-up':>9} {'used':>5}  {'limit':13}" + "".join(f"{n:>20}" for n in others))
    work = sum(job.device_seconds for job in jobs)
    path = sum(job.shortest for job in critical_path(jobs))
    rows: list[dict[str, Any]] = []
    for count in devices:
        ours = simulate(jobs, count)
        limit = "devices" if work / count > path else "critical path"
        line = f"{count:7} {clock(ours.makespan):>12} {work / ours.makespan:8.1f}x {ours.utilisation:5.0%}  {limit:13}"
        for order in others:
            reference = simulate(ORDERS[order](jobs), count).makespan
            line += f"{clock(reference):>12} {reference / ours.makespan - 1:+6.1%} "
            rows.append(_row(f"{count} devices, {order}", ours.makespan, reference, limit))
        say(line)
    say(f"work: {work / 3600:.1f} device-hours; the longest chain is {path / work:.1%} of it: on more than "
        f"{work / path:.0f} devices nothing gets shorter")  # fmt: skip
    for line in (path_line(jobs, {s.digest: s for s in stages}), *_chains(stages, jobs), traffic_line(traffic(stages))):
        say(line)
    return rows


def _row(name: str, ours: float, reference: float, limit: str) -> dict[str, Any]:
    hours = {"ours": ours / 3600, "reference": reference / 3600}
    return {"name": name, **hours, "ratio": reference / ours, "unit": "h", "limit": limit}


def _chains(stages: Sequence[Stage], jobs: Sequence[Job]) -> list[str]:
    """For each data set's first seed a line with the chain of stages that ends in the distilled network."""
    seconds = {job.key: job.shortest for job in jobs}
    lines = []
    for stage in stages:
        if stage.name == SEARCHED and stage.seed == stages[0].seed:
            fused = stage.inputs["start"]
            expert = max((s for role, s in fused.inputs.items() if role != "base"), key=lambda s: seconds[s.digest])
            chain = (fused.inputs["base"], expert, fused, stage)
            steps = " -> ".join(f"{one.name} {clock(seconds[one.digest])}" for one in chain)
            total = clock(sum(seconds[one.digest] for one in chain))
            lines.append(f"to the distilled network of {network_of(stage)[1]}: {total}: {steps}")
    return lines
