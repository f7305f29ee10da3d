"""What the verbs of the command line call once a config is prepared: run the missing stages, measure, check."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusiondistill import NAME
from fusiondistill_runner.driving.prepared import Prepared
from fusiondistill_runner.planning.rows import Plan
from fusiondistill_runner.planning.specs import TrainSpec

if TYPE_CHECKING:
    from fusiondistill_runner.nodes.node_checks import Needs

__all__ = ["bench", "bench_schedule", "check_room", "check_synchronised", "note_plan", "run"]


def note_plan(prepared: Prepared, command: str, *, whole: bool = True) -> None:
    """Write the whole plan into the store, with the command that started it.

    A command that does only a part (``whole`` false) leaves the note of an earlier command for the same plan.
    """
    from fusiondistill_runner.storage import noted_plans

    started = datetime.now(UTC).isoformat()
    extra: dict[str, Any] = {"command": command, "started": started, "machine": _machine(), "versions": _versions()}
    extra["plugins"] = {plugin.file: plugin.sha256 for plugin in prepared.context.plugins}
    for order, plan in enumerate(prepared.points):
        place: dict[str, Any] = {"sweep": prepared.config.experiment, "order": order} if prepared.config.sweep else {}
        place["normalisation"] = prepared.normalisations.get(plan.config.experiment, "")
        before = None if whole else noted_plans.noted_plan(prepared.store, plan)
        noted_plans.note_plan(prepared.store, plan, {**extra, **(before or {}), **place})
    # After they are written: a damaged plan is mended by running its config again.
    kept = [plan.config.experiment for plan in prepared.points]
    noted_plans.retire_points(prepared.store, prepared.config.experiment, kept)


def check_room(prepared: Prepared) -> None:
    """Refuse a run that would start its own Ray and whose workers this machine can never hold.

    Raises:
        ValueError: says what a worker needs and what there is.
    """
    from fusiondistill_runner.nodes.cluster import check_here
    from fusiondistill_runner.nodes.connection import cluster_address

    try:
        if not cluster_address():
            check_here(prepared.config.resources)
    except ValueError:
        if prepared.looked_up().missing:  # else no worker is needed
            raise


def run(prepared: Prepared, display: Any, *, local: bool = False) -> Any:
    """Run the missing stages; returns the driver's outcome. With none missing, Ray is not imported.

    Args:
        display: shows every stage that starts, goes on and ends.
        local: in this process, without Ray.
    """
    from fusiondistill_runner.driving.driver import Outcome
    from fusiondistill_runner.nodes.cluster import refuse_fleeting

    refuse_fleeting(prepared.context.store)
    stored = _take_checkpoints(prepared, display)
    if len(stored) == len(prepared.plan.stages):
        return Outcome()
    return (_run_here if local else _run_on_ray)(prepared, stored, display)


def _take_checkpoints(prepared: Prepared, display: Any) -> set[str]:
    """Import the checkpoints that stand for stages; returns the digests of all stages that are stored now."""
    from fusiondistill_runner.driving.queue import Event
    from fusiondistill_runner.working.execute import execute

    stored = set(prepared.stored)
    for stage in prepared.missing:
        if stage.kind == "import":
            import torch

            execute(stage, prepared.context, torch.device("cpu"), lambda facts: None)
            stored.add(stage.digest)
            display.note(stage, Event("done", stage.digest, "driver", {}))
    return stored


def _run_here(prepared: Prepared, stored: set[str], display: Any) -> Any:
    """Run the missing stages in this process."""
    from fusiondistill_runner.driving.interruption import Interruption
    from fusiondistill_runner.driving.local import LocalDriver

    with Interruption() as interruption:
        driver = LocalDriver(prepared.plan, prepared.store, prepared.context, stored, display, interruption)
        display.say(f"--local: one stage after another in this process, on {driver.device}; meant for small runs")
        return driver.run()


def _run_on_ray(prepared: Prepared, stored: set[str], display: Any) -> Any:
    """Run the missing stages on Ray's workers."""
    from fusiondistill_runner.driving.driver import Driver

    store, plan = prepared.store, prepared.plan
    compiled = ThreadPoolExecutor(1).submit(_compile_kernels, prepared)  # beside the start of Ray's processes
    from fusiondistill_runner.driving.interruption import Interruption
    from fusiondistill_runner.nodes.capacity import Capacity
    from fusiondistill_runner.nodes.connection import cluster_address, connected
    from fusiondistill_runner.nodes.growing import enough_nodes
    from fusiondistill_runner.nodes.node_checks import NodeSurvey
    from fusiondistill_runner.nodes.watch import Watch

    driver = None
    with Interruption() as interruption:

        def check() -> None:
            interruption.check()
            store.check_held()

        address = cluster_address()
        display.say(f"connecting to Ray at {address}" if address else "starting Ray, which takes some ten seconds")
        try:
            with connected() as ray, Watch(ray, not address, partial(_lost, interruption)):
                interruption.install()
                resources, survey = prepared.config.resources, NodeSurvey(ray, _needs(prepared), here=not address)
                with enough_nodes(ray, resources, display.say, check, survey.require) as checked:
                    capacity = Capacity(ray, resources, survey, checked)
                    for text in capacity.warnings:
                        display.say(text)
                    check_synchronised(plan, capacity.share.gpus)
                    compiled.result()
                    driver = Driver(ray, plan, store, prepared.context, stored, display, capacity)
                    return driver.run(checked)
        except Exception as error:
            if interruption.requested:  # a scheduler signals Ray's processes, too, and they may end before this one
                raise KeyboardInterrupt from error
            if _ray_failed(error):
                display.say(f"Ray failed: {error}")
                raise KeyboardInterrupt from error
            raise
        finally:
            if driver:
                driver.leave()


def _needs(prepared: Prepared) -> Needs:
    """What nodes must have: the plan, and on a cluster the plugins and the data of the missing stages.

    No other store holds the plan that :func:`note_plan` has just written, so a node that reads it sees the store.
    """
    from fusiondistill_runner.nodes.connection import cluster_address
    from fusiondistill_runner.nodes.node_checks import KnownFile, Needs, needs_of

    name = f"{prepared.points[0].config.experiment}.json"
    digest = hashlib.sha256(prepared.store.read_raw("plans", name) or b"").hexdigest()
    plan_file = KnownFile(prepared.context.store, prepared.store.path("plans", name), digest)
    if not cluster_address():
        return Needs(plan_file)
    return needs_of(prepared.context, prepared.missing, plan_file)


def _lost(interruption: Any, what: str) -> None:
    from fusiondistill_runner.driving.interruption import end_at_once

    end_at_once("interrupted" if interruption.requested else f"Ray failed ({what})")


def _ray_failed(error: Exception) -> bool:
    """Whether an error says that a process of Ray (the queue's included) is gone, not that a task failed."""
    from ray import exceptions

    return isinstance(error, exceptions.RayError) and not isinstance(error, exceptions.RayTaskError)


def check_synchronised(plan: Plan, gpus: float) -> None:
    """Refuse synchronised BatchNorm where a worker holds less than a whole GPU (``gpus`` of one).

    Raises:
        ValueError: says which setting to change.
    """
    asked = any(isinstance(stage.spec, TrainSpec) and stage.spec.sync_batchnorm for stage in plan.stages)
    if asked and gpus < 1:
        raise ValueError(
            f"resources.sync_batchnorm needs a GPU for each worker, these hold {gpus:g}: leave it out, or set "
            "resources.gpus_per_worker to 1 on a cluster that has GPUs"
        )


def _compile_kernels(prepared: Prepared) -> None:
    """Compile the CPU kernels once, into the cache on disk, so that workers that start together need not."""
    import torch

    from fusiondistill.degradations import DEGRADATIONS, degrade

    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    configs = [plan.config for plan in prepared.points]
    for one, protocol in {(d, c.protocol) for c in configs for d in (*c.degradations, *c.evaluation.unseen)}:
        degrade(image, one.name, DEGRADATIONS[one.name].levels[0], seed=0, protocol=protocol, **one.parameters)


def _machine() -> str:
    from fusiondistill_runner.working.facts import processor

    return f"{processor()}, {os.cpu_count()} cores, {platform.system()}"


def _versions() -> str:
    from fusiondistill_runner.nodes.probe import versions

    found = versions((NAME, "ray", "torch", "torchvision", "imagedegrade", "numpy"))
    return ", ".join(f"{name} {version}" for name, version in found.items())


def check_cluster(
    config: str | None, overrides: Sequence[str], store: str | None, say: Callable[[str], None]
) -> list[str]:
    """Ask every node of the cluster, say what was found; returns what does not fit.

    A cluster that grows is asked for the nodes of a run first: its head alone would say nothing of them.
    """
    from fusiondistill_runner.nodes import check as cluster_check
    from fusiondistill_runner.nodes.connection import cluster_address, connected
    from fusiondistill_runner.nodes.growing import enough_nodes

    wanted = _wanted(config, overrides, store)
    with connected() as ray, enough_nodes(ray, wanted.resources, say, lambda: None, lambda nodes: None):
        address = cluster_address() or "a Ray started here for this check"
        facts = cluster_check.gather(ray, wanted, address)
        for line in cluster_check.lines(facts, wanted):
            say(line)
    return cluster_check.complaints(facts, wanted)


def _wanted(config: str | None, overrides: Sequence[str], store: str | None) -> Any:
    from fusiondistill.locations import absolute
    from fusiondistill_runner.driving.prepared import prepare
    from fusiondistill_runner.nodes.check import Wanted
    from fusiondistill_runner.nodes.node_checks import needs_of

    if config is None:
        if overrides:
            raise ValueError("--set lays values over a config: name one")
        return Wanted(store=absolute(store) if store else None)
    prepared = prepare(config, overrides, store)
    needs = needs_of(prepared.context, prepared.plan.stages)
    return Wanted(prepared.context.store, needs, prepared.config.resources)


def bench(
    what: str,
    device: str,
    degradations: Sequence[str],
    json_file: str | None,
    say: Callable[[str], None],
    model: str | None = None,
) -> None:
    """Run the benchmark of the degradations, of training, of the evaluation or of reading; a line per row as it comes.

    Args:
        model: of training and evaluation; None: the benchmark's own.
    """
    import json

    from fusiondistill.bench import bench_degradations
    from fusiondistill.bench_evaluation import bench_evaluation
    from fusiondistill.bench_reading import bench_reading
    from fusiondistill.bench_training import bench_training

    measures: dict[str, Callable[..., list[dict[str, Any]]]] = {
        "degradations": bench_degradations, "evaluation": bench_evaluation, "reading": bench_reading,
        "training": bench_training,
    }  # fmt: skip
    named: dict[str, Any] = {"model": model} if model else {}

    say(f"{'images/s':42} {'ours':>12} {'reference':>12} {'ratio':>8}  limit")
    rows = measures[what](
        device, degradations=degradations or None, progress=lambda row: say(_bench_line(row)), **named
    )
    if json_file:
        Path(json_file).write_text(json.dumps(rows, indent=1))


def bench_schedule(speeds: Sequence[str], json_file: str | None, say: Callable[[str], None]) -> None:
    """Simulate the paper sweep; a line per number of devices."""
    import json

    from fusiondistill_runner.forecasting import paper_schedule

    rows = paper_schedule.bench_schedule(say, paper_schedule.parse_speeds(speeds))
    if json_file:
        Path(json_file).write_text(json.dumps(rows, indent=1))


def _bench_line(row: dict[str, Any]) -> str:
    reference = f"{row['reference']:12,.0f}" if row["reference"] else f"{'-':>12}"
    ratio = f"{row['ratio']:7.2f}x" if row["ratio"] else f"{'-':>8}"
    return f"{row['name']:42} {row['ours']:12,.0f} {reference} {ratio}  {row['limit']}"
