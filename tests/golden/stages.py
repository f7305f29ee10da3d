"""What each kind of stage gives, from a small run of both protocols, stage by stage."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fusiondistill import build_model, save_checkpoint
from fusiondistill.batches import Pipeline
from fusiondistill.checkpoints import card_of, checkpoint_digest
from fusiondistill.config import ModelConfig
from fusiondistill.degradation_config import as_degradation
from fusiondistill.evaluation import validate
from fusiondistill_runner.driving.prepared import Prepared, prepare
from fusiondistill_runner.planning.specs import (
    CheckpointSpec,
    DataSpec,
    EvaluateSpec,
    FitSpec,
    PackSpec,
    SearchSpec,
    TrainSpec,
    ValidateSpec,
)
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.planning.trials import trial_stage
from fusiondistill_runner.searching.journal import Candidate
from fusiondistill_runner.searching.search_results import choose, outcome, summary
from fusiondistill_runner.searching.searchers import searcher_for
from fusiondistill_runner.storage.parquet import read_parquet
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.working.context import Context
from fusiondistill_runner.working.execute import execute
from golden import cases as common
from golden.material import CLASSES

CPU = torch.device("cpu")
COMMON = """
experiment: golden
plugins: [TOYS]
data: {name: golden_images, test_images: 12}
model: {name: golden_conv}
degradations: [blur, noise]
evaluation: {every: 50}
"""
"""What all configs begin with."""
CONFIG = """
methods: [base, scratch, vanilla, modelsoups, modelsoups-told, fusing, fusiondistill, taught]
define:
  taught: {like: vanilla, teachers: expert, loss: {ce: 1, feature: 0, dkd: 0.5}}
base: {epochs: 2, batch_size: 4}
expert: {epochs: 2, batch_size: 4, optimizer: {lr: 0.03}}
scratch: {epochs: 2, batch_size: 8, optimizer: {name: adamw, lr: 0.03}, schedule: {name: constant}}
vanilla: {epochs: 3, batch_size: 4, optimizer: {lr: 0.03}}
modelsoups: {start: {merge: average, of: expert, images: 16}}
modelsoups-told: {start: {merge: average, of: expert, recalibrate: per_degradation, images: 16}}
fusing: {epochs: 2, batch_size: 4, optimizer: {lr: 0.03}}
fusiondistill: {epochs: 2, batch_size: 4, optimizer: {lr: 0.03}, loss: {kd: 0.5}}
"""
BEYOND = """
methods: [all, sure]
base: {epochs: 1, batch_size: 8}
expert: {epochs: 3, batch_size: 8, optimizer: {lr: 0.03}, average_every: 2, pull: 0.1}
modelsoups: {start: {merge: average, of: expert, images: 16}}
define:
  all: {like: fusiondistill, teachers: {of: expert, by: mean}, mixup: 0.4, loss: {dist: 1, kd: {weight: 1, fade: 1}}}
  sure: {like: fusiondistill, teachers: {of: expert, by: confidence}, swa: 0.5, pairing: same, loss: {consistency: 1}}
fusiondistill: {epochs: 2, batch_size: 8, optimizer: {lr: 0.03}}
select: last
"""
FAST = """
recipe: fast
methods: [fusiondistill]
base: {epochs: 1, batch_size: 8}
expert: {epochs: 1, batch_size: 8}
modelsoups: {start: {merge: average, of: expert, images: 16}}
fusiondistill: {epochs: 2, batch_size: 8}
select: last
"""
OTHERS = {"beyond": BEYOND, "fast": FAST}
"""Trainings beyond the paper's, and by the fast recipe."""
PROTOCOLS = {"standard": "select: last\n", "paper": "protocol: paper\nselect: last\n"}
"""An epoch that is chosen by accuracy could be another one on another processor."""
SEARCH = """
search:
  trials: 6
  space:
    loss.kd: {loguniform: [0.1, 1]}
    loss.ce: {uniform: [0, 1]}
    optimizer.lr: {choice: [0.1, 0.01]}
    start.merge: {grid: [average, median]}
"""


def cases() -> dict[str, Callable[[], common.Found]]:
    """Key -> what works its results out."""
    trained = {f"stages/train {protocol}": lambda p=protocol: of_run(p, "train") for protocol in PROTOCOLS}
    fused = {f"stages/fuse {protocol}": lambda p=protocol: of_run(p, "fuse") for protocol in PROTOCOLS}
    return {
        **trained, **fused, **{f"stages/train {name}": lambda n=name: of_run(n, "train") for name in OTHERS},
        "stages/train batches": batches, "stages/train validation": validation,
        "stages/evaluate": evaluated, "stages/validate": validated, "stages/import": imported,
        "stages/search": searched, "stages/fit": routed,
    }  # fmt: skip


def version(*stages: Stage) -> str:
    """Of stages: a result may change only if their digests do."""
    kinds = sorted({f"{stage.kind} {stage.spec.version}" for stage in stages})
    return ", ".join([*kinds, f"digests {common.sha256([stage.digest for stage in stages])[:16]}"])


def raised(spec: type) -> str:
    """What a person raises, in words."""
    return f"{spec.__name__}.version in experiments/fusiondistill_runner/planning/specs.py"


@cache
def folder(name: str) -> Path:
    """A folder that lives as long as the process."""
    keep.append(tempfile.TemporaryDirectory(prefix=f"golden-{name}-"))
    return Path(keep[-1].name)


keep: list[Any] = []


def planned(protocol: str, more: str = "") -> Prepared:
    """The small run of a protocol, or one of the others, planned."""
    place = folder(protocol)
    text = COMMON + (CONFIG + PROTOCOLS[protocol] if protocol in PROTOCOLS else OTHERS[protocol])
    (place / "config.yaml").write_text(text.replace("TOYS", str(common.TOYS)) + more)
    return prepare(str(place / "config.yaml"), (), str(place / "store"))


@cache
def ran(protocol: str) -> Prepared:
    """The small run, all but its evaluations done."""
    ready = planned(protocol)
    Path(ready.store.path()).mkdir(exist_ok=True)
    for stage in ready.plan.stages:
        if stage.kind in ("train", "fuse"):
            execute(stage, ready.context, CPU, lambda facts: None)
    return ready


def of_run(protocol: str, kind: str) -> common.Found:
    """The weights of all stages of a kind, and the metrics of trainings."""
    with common.toys():
        ready = ran(protocol)
        stages = [stage for stage in ready.plan.stages if stage.kind == kind]
        close = {}
        for stage in stages:
            state, _ = ready.store.weights(stage)
            told = f" {stage.spec.told}" if getattr(stage.spec, "told", None) else ""
            close[stage.name + told] = common.numbers(*(state[key] for key in sorted(state)))
            if kind == "train":
                rows = read_parquet(ready.store.read(stage, "metrics.parquet")).to_pylist()
                kept = ("lr", "images", "loss", *(name for name in rows[0] if name in ("ce", "feature", "kd", "dkd")))
                close[f"{stage.name} metrics"] = [float(f"{row[name]:.7g}") for row in rows for name in kept]
        return common.Found(version(*stages), raised(type(stages[0].spec)), close=close)


def batches() -> common.Found:
    """Pixels, labels and order of whole epochs."""
    names = ("jpeg", "noise")
    ways: dict[str, dict[str, Any]] = {
        "independent, clean teachers": {"pairing": "independent", "teacher_view": "clean", "cutout": 5},
        "same, degraded teachers, paper": {"pairing": "same", "teacher_view": "degraded", "protocol": "paper"},
        "clean images": {"degradations": (), "cutout": 3},
        "second of two workers": {"rank": 1, "world_size": 2},
        "coupled": {"degradations": ("jpeg", "blur", "noise"), "pairing": "same", "coupled": True, "cutout": 5},
    }
    usual: dict[str, Any] = {
        "degradations": names, "seed": 11, "batch_size": 8, "flip": True, "padding": 2, "cutout": 0,
        "pairing": "independent", "teacher_view": None, "protocol": "standard", "device": CPU,
    }  # fmt: skip
    exact = {}
    for way, changes in ways.items():
        parts: list[Any] = []
        for batch in Pipeline(common.image_set(), **{**usual, **changes}).epoch(2):
            teacher = [] if batch.teacher is None else [batch.teacher]
            ends = [[part.start, part.stop] for part in batch.slices]
            parts += [batch.student, *teacher, batch.labels, ends, batch.share, batch.weight]
        exact[way] = common.sha256(*parts)
    codes = ", ".join(f"{name} {common.DEGRADATIONS[name].code}" for name in names)
    return common.Found(f"train {TrainSpec.version}, {codes}", raised(TrainSpec), exact)


def counting(name: str) -> torch.nn.Module:
    """A network of whole numbers."""
    network = common.filled(build_model("golden_counter", CLASSES), name, whole_numbers=True)
    return common.undecided(network, common.images(9, 12, 12).float())


def validation() -> common.Found:
    """Which held-out images a network of whole numbers gets right."""
    with common.toys():
        model = counting("counter")
    names = ("jpeg", "blur")
    found = validate(model, common.image_set(), names, seed=11, device=CPU, protocol="standard", batch_size=7)
    codes = ", ".join(f"{name} {common.DEGRADATIONS[name].code}" for name in names)
    exact = {name: common.sha256(right) for name, right in found.items()}
    given: dict[str, Any] = {"epoch": 1, "coupled": True, "protocol": "paper"}
    anew = validate(model, common.image_set(), ("blur", "noise"), seed=11, device=CPU, **given)
    exact |= {f"{name}, coupled, epoch 1": common.sha256(right) for name, right in anew.items()}
    return common.Found(f"train {TrainSpec.version}, {codes}", raised(TrainSpec), exact)


@cache
def counter(number: int) -> tuple[Stage, Context]:
    """An imported network of whole numbers, whose normalisation changes nothing, and its store."""
    from fusiondistill.data import fingerprint

    place = folder("counters")
    network = counting(f"counter {number}")
    classes, neutral = [f"class {i}" for i in range(CLASSES)], ((0.0,) * 3, (1.0,) * 3)
    card = card_of("golden_counter", None, classes=classes, mean=neutral[0], std=neutral[1], size=(12, 12), dataset="x")
    path = place / f"{number}.safetensors"
    save_checkpoint(path, network.state_dict(), card)
    data = DataSpec(
        name="golden_images", fingerprint=fingerprint("golden_images"), train_images=None, test_images=None,
        held_out=0.0, holdout_seed=0, mean=neutral[0], std=neutral[1],
    )  # fmt: skip
    model = ModelConfig(name="golden_counter")
    stage = Stage(
        "base", number, CheckpointSpec(sha256=checkpoint_digest(path), model=model, data=data, path=str(path))
    )
    (place / "store").mkdir(exist_ok=True)
    context = Context(str(place / "store"))
    execute(stage, context, CPU, lambda facts: None)
    return stage, context


def imported() -> common.Found:
    """The weights and the card that an import commits."""
    with common.toys():
        stage, context = counter(0)
        state, card = Store(context.store).weights(stage)
        card["plugin"] = sorted(card["plugin"])
        exact = {
            "weights": common.sha256(*sorted(state), *(state[k] for k in sorted(state))),
            "card": common.sha256(card),
        }
        return common.Found(version(stage), raised(CheckpointSpec), exact)


def evaluated() -> common.Found:
    """Counts, predictions and right answers of one network of whole numbers, and of three that vote."""
    exact, made = {}, []
    with common.toys():
        members = [counter(number)[0] for number in range(3)]
        context = counter(0)[1]
        one, all_three = {"model": members[0]}, {f"expert-{i}": stage for i, stage in enumerate(members)}
        ways: dict[str, tuple[str, str | None, str, dict[str, Stage]]] = {
            "one, jpeg": ("jpeg", None, "standard", one),
            "one, saltpepper, paper": ("saltpepper", None, "paper", one),
            "three that vote, noise": ("noise", "vote", "standard", all_three),
        }
        for way, (degradation, inference, protocol, inputs) in ways.items():
            data = members[0].spec.data  # type: ignore[union-attr]
            spec = EvaluateSpec(
                inference=inference, degradation=degradation, levels=(1, 9, 25), data=data, protocol=protocol,
                noise_seed=5, precision="fp32", threads=1, shown=(9,),
            )  # fmt: skip
            stage = Stage("evaluate", 0, spec, inputs)
            execute(stage, context, CPU, lambda facts: None)
            store = Store(context.store)
            names = ("counts", "predictions", "images", "samples")
            tables = [read_parquet(store.read(stage, f"{name}.parquet")).to_pydict() for name in names]
            for column in ("nll", "ece", "image"):  # two hold exponentials, one is a PNG
                for table in tables:
                    table.pop(column, None)
            exact[way] = common.sha256(*tables)
            made.append(stage)
        return common.Found(version(*made), raised(EvaluateSpec), exact)


def routed() -> common.Found:
    """A router after its first step, and the file of three networks behind it."""
    with common.toys():
        members = [counter(number)[0] for number in range(3)]
        context, data = counter(0)[1], members[0].spec.data  # type: ignore[union-attr]
        way: dict[str, Any] = {"inference": "router", "data": data}
        way["parameters"] = {"images": 12, "views": 1, "epochs": 1, "width": 4}
        seen = tuple(map(as_degradation, ("jpeg", "blur", "noise")))
        model = members[0].spec.network
        assert model is not None
        fit = FitSpec(degradations=seen, protocol="standard", data_seed=3, threads=1, model=model, **way)
        part = Stage("router", 0, fit)
        inputs = {f"expert-{one.id}": stage for one, stage in zip(seen, members, strict=True)}
        whole = Stage("routed", 0, PackSpec(threads=1, **way), {**inputs, "part": part})
        close = {}
        for stage in (part, whole):
            execute(stage, context, CPU, lambda facts: None)
            state, _ = Store(context.store).weights(stage)
            close[stage.name] = common.numbers(*(state[key] for key in sorted(state)))
        return common.Found(version(part, whole), f"{raised(FitSpec)}, or PackSpec's", close=close)


def validated() -> common.Found:
    """The right answers of a network of whole numbers on the images that are held out."""
    with common.toys():
        network, context = counter(0)
        data = network.spec.data.model_copy(update={"held_out": 0.5, "holdout_seed": 3})  # type: ignore[union-attr]
        degradations = tuple(map(as_degradation, ("jpeg", "noise")))
        spec = ValidateSpec(degradations=degradations, draws=2, data=data, protocol="standard", threads=1)
        stage = Stage("validate", 7, spec, {"model": network})
        execute(stage, context, CPU, lambda facts: None)
        manifest = Store(context.store).manifest(stage)
        assert manifest is not None
        return common.Found(version(stage), raised(ValidateSpec), {"counts": common.sha256(manifest["outcome"])})


def searched() -> common.Found:
    """The candidates that are drawn, their trainings, and what is made of results."""
    with common.toys():
        ready = planned("standard", SEARCH)
        (search,) = [stage for stage in ready.plan.stages if stage.kind == "search"]
        assert isinstance(search.spec, SearchSpec)
        searcher, drawn = searcher_for(search, []), []
        while (values := searcher.ask()) is not None:
            drawn.append(values)
        rows = [{"epoch": 1.0, "validation": 0.5 + (7 * i % 5) / 20, "seconds": 1.0} for i in range(len(drawn))]
        done = [
            Candidate(i, values, [f"trial-{i}"], {1: rows[i]}, "done", None, 0.0, 1.0) for i, values in enumerate(drawn)
        ]
        best = choose([summary(candidate, search.spec) for candidate in done])
        assert best is not None
        found = outcome(done, best)
        names = [json.dumps({k: v for k, v in values.items() if isinstance(v, str)}) for values in drawn]
        trials = [trial_stage(search, values, repeat).spec.data_seed for values in drawn for repeat in range(2)]  # type: ignore[union-attr]
        drawn_numbers = [float(f"{v:.7g}") for values in drawn for v in values.values() if not isinstance(v, str)]
        close = {"numbers": drawn_numbers, "importance": [*found["importance"].values(), found["importance_r2"]]}
        exact = {"names": common.sha256(names), "trials": common.sha256(trials), "best": common.sha256(best["trial"])}
        return common.Found(version(search), raised(SearchSpec), exact, close)
