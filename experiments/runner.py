"""The verbs behind the command line: each is one function, from a config to stored results."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.plan import Plan, build
from experiments.stage import Stage, ancestors
from experiments.store import Store
from fusiondistill import config_file
from fusiondistill.config import Config

__all__ = ["Prepared", "check_data", "cost", "evaluate_checkpoints", "note_plan", "prepare", "read_plugins", "run"]


@dataclass(frozen=True)
class Prepared:
    """A checked config with its plan, and what its store already holds."""

    config: Config
    plan: Plan
    store: Store
    context: Any
    stored: set[str] = field(default_factory=set)
    damage: list[str] = field(default_factory=list)

    @property
    def missing(self) -> list[Stage]:
        """Stages that need work."""
        return [stage for stage in self.plan.stages if stage.digest not in self.stored]

    def looked_up(self) -> Prepared:
        """The same with a fresh look at what the store holds."""
        stored, damage = self.store.stored(self.plan.stages)
        return replace(self, stored=stored, damage=damage)

    def narrowed(self, stages: Sequence[Stage]) -> Prepared:
        """Only these stages and what they rest on; no rows."""
        kept = {needed.digest: needed for one in stages for needed in ancestors(one)}
        return replace(self, plan=replace(self.plan, stages=tuple(kept.values()), rows=()))


def prepare(name: str, overrides: Sequence[str] = (), store: str | None = None) -> Prepared:
    """Read a config, find its data and plan it; starts nothing, and does not look into the store (``looked_up``).

    Raises:
        ConfigError, DataError, CheckpointError, FileNotFoundError: the user's input is wrong.
    """
    config = config_file.load(name, overrides)
    from experiments.materials import Context
    from fusiondistill.data import fingerprint
    from fusiondistill.degradations import DEGRADATIONS

    plugins = read_plugins(config.plugins)
    import hashlib

    digests = tuple(hashlib.sha256(source.encode()).hexdigest() for _, source in plugins)
    unknown = [d for d in config.degradations if d not in DEGRADATIONS]
    if unknown:
        raise ValueError(f"no degradation {unknown[0]!r}, not in the plugins either; known: {', '.join(DEGRADATIONS)}")
    found = fingerprint(config.data.name, root=config.data.root)
    plan = build(config, found, lambda d: DEGRADATIONS[d].levels, plugins=digests)
    place = Store(store or f"runs/{config.experiment}")
    root = str(Path(config.data.root).expanduser().absolute()) if config.data.root else None
    where = place.location if "://" in place.location else str(Path(place.location).expanduser().absolute())
    context = Context(where, ((found, root),), evaluation_batch=config.evaluation.batch_size, plugins=plugins)
    return Prepared(config, plan, place, context)


def read_plugins(paths: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Run the users' files that register degradations; returns (file name, source) of each.

    Raises:
        ValueError: a file is missing or raises.
    """
    from experiments.materials import load_plugins

    try:
        plugins = tuple((Path(path).name, Path(path).read_text()) for path in paths)
        load_plugins(plugins)
    except Exception as error:  # whatever the user's file does
        raise ValueError(f"plugin {', '.join(paths)}: {type(error).__name__}: {error}") from error
    return plugins


def check_data(prepared: Prepared) -> None:
    """Decode the images (once), so that a broken file is reported before any worker starts."""
    from fusiondistill.data import load_images

    for split in ("train", "test"):
        load_images(prepared.config.data.name, split, prepared.config.data.root)


def note_plan(prepared: Prepared, command: str) -> None:
    """Leave the whole plan in the store, with how and where it was started."""
    from experiments import results

    extra = {"command": command, "machine": _machine(), "versions": _versions()}
    results.note_plan(prepared.store, prepared.plan, extra)


def run(prepared: Prepared, display: Any) -> Any:
    """Do what is missing; returns the driver's outcome. With nothing missing Ray is not even imported."""
    from experiments.driver import Driver, Outcome
    from experiments.queue import Event
    from experiments.stages import execute

    store, plan = prepared.store, prepared.plan
    stored = set(prepared.stored)
    for stage in prepared.missing:
        if stage.kind == "import":
            import torch

            execute(stage, prepared.context, torch.device("cpu"), lambda facts: None)
            stored.add(stage.digest)
            display.note(stage, Event("done", stage.digest, "driver", {}))
    if len(stored) == len(plan.stages):
        return Outcome()
    _compile_kernels(prepared)
    from experiments.cluster import connected, nodes_without
    from experiments.interruption import Interruption

    with Interruption() as interruption, connected() as ray:
        interruption.install()
        note = f"{prepared.context.store}/plans/{prepared.config.experiment}.json"
        blind = [] if "://" in note else nodes_without(ray, note)
        if blind:
            raise ValueError(
                f"nodes {', '.join(blind)} do not see the store {prepared.context.store}: "
                "give a --store on a file system that all nodes share"
            )
        return Driver(ray, plan, store, prepared.context, stored, display.note).run(interruption.check)


def _compile_kernels(prepared: Prepared) -> None:
    """Compile the CPU kernels once (they are kept on disk), so that workers that start together need not."""
    import torch

    from fusiondistill.degradations import DEGRADATIONS, degrade

    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    for name in prepared.config.degradations:
        degrade(image, name, DEGRADATIONS[name].levels[0], seed=0, protocol=prepared.config.protocol)


def _machine() -> str:
    import os

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        name = models[0] if models else name
    return f"{name}, {os.cpu_count()} cores, {platform.system()}"


def _versions() -> str:
    from importlib.metadata import version

    names = ("fusiondistill", "ray", "imagedegrade", "numpy")
    return ", ".join([f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in names)])


def cost(prepared: Prepared) -> str:
    """What the missing stages will take, from the measured times of stored ones of the same kind and name."""
    measured: dict[str, list[float]] = {}
    for stage in prepared.plan.stages:
        if stage.digest in prepared.stored and (manifest := prepared.store.manifest(stage)):
            measured.setdefault(stage.name, []).append(manifest["seconds"])
            measured.setdefault(stage.kind, []).append(manifest["seconds"])
    missing = prepared.missing
    if not missing:
        return "nothing to do"
    known = [measured.get(stage.name) or measured.get(stage.kind) for stage in missing]
    total = sum(sum(times) / len(times) for times in known if times)
    unknown = sum(times is None for times in known)
    if unknown == len(missing):
        return f"{len(missing)} stages to do, cost unknown: no stage of their kind was measured in this store"
    rest = f", and {unknown} stages of unknown cost" if unknown else ""
    return f"{len(missing)} stages to do, about {total / 60:.1f} worker-minutes{rest}"


def evaluate_checkpoints(
    checkpoints: Sequence[str],
    *,
    data: str,
    root: str | None,
    images: int | None,
    degradations: Sequence[str],
    every: int,
    seed: int,
    batch_size: int,
    protocol: str,
) -> list[str]:
    """Mean accuracy over levels of each checkpoint on each degradation, as lines for a terminal."""
    from fusiondistill import DEGRADATIONS, evaluate, load_images, load_model
    from fusiondistill.config import PAPER_DEGRADATIONS

    names = tuple(degradations) or PAPER_DEGRADATIONS
    for name in names:
        if name not in DEGRADATIONS:
            raise ValueError(f"no degradation {name!r}; known: {', '.join(DEGRADATIONS)}")
    test = load_images(data, "test", root)
    test = test.take(images) if images else test
    models = [(path, load_model(path)) for path in checkpoints]
    for path, model in models:
        if list(model.classes) != list(test.classes):
            raise ValueError(f"{path} knows {len(model.classes)} classes that are not those of {data}")
    header = ["  ".join(["checkpoint".ljust(40), *(f"{name:>10}" for name in names), f"{'mean':>10}"])]
    for path, model in models:
        means = []
        for name in names:
            levels = DEGRADATIONS[name].levels[::every]
            right, seen = evaluate(model, test, name, levels, seed=seed, batch_size=batch_size, protocol=protocol)
            means.append(float((100 * right / seen).mean()))
        figures = [*means, sum(means) / len(means)]
        header.append("  ".join([path[-40:].ljust(40), *(f"{value:9.2f}%" for value in figures)]))
    return header


def bench(
    what: str, device: str, degradations: Sequence[str], json_file: str | None, say: Callable[[str], None]
) -> None:
    """Run the benchmark of the degradations or of the evaluation; a line per row as it comes."""
    import json

    from fusiondistill.bench import bench_degradations
    from fusiondistill.bench_evaluation import bench_evaluation

    measure: Callable[..., list[dict[str, Any]]] = {"evaluation": bench_evaluation}.get(what, bench_degradations)

    say(f"{'images/s':42} {'ours':>12} {'reference':>12} {'ratio':>8}  limit")
    rows = measure(device, degradations=degradations or None, progress=lambda row: say(_bench_line(row)))
    if json_file:
        Path(json_file).write_text(json.dumps(rows, indent=1))


def _bench_line(row: dict[str, Any]) -> str:
    reference = f"{row['reference']:12,.0f}" if row["reference"] else f"{'-':>12}"
    ratio = f"{row['ratio']:7.2f}x" if row["ratio"] else f"{'-':>8}"
    return f"{row['name']:42} {row['ours']:12,.0f} {reference} {ratio}  {row['limit']}"
