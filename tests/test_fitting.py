"""``fusiondistill.fit``: one training from Python, which is the train stage's, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fusiondistill
from fusiondistill.config_file import parse
from fusiondistill.data import ImageSet, fingerprint, load_images
from fusiondistill.fitting import Training
from fusiondistill.progress import Progress
from fusiondistill.training import NonFiniteLoss
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.specs import TrainSpec
from fusiondistill_runner.planning.stage import Stage, ancestors
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.working.context import Context
from fusiondistill_runner.working.execute import execute

CONFIG = """
experiment: fitted
seeds: [3]
methods: [base, fusiondistill]
degradations: [blur, noise]
data: {name: digits, train_images: 120, test_images: 20}
model: {name: cifar_resnet8}
base: {epochs: 2, batch_size: 32}
expert: {epochs: 1, batch_size: 32}
fusiondistill: {epochs: 2, batch_size: 32, loss: {kd: 0.5}}
"""
CPU = torch.device("cpu")


def test_fit_says_whether_steps_become_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def run(training: Training, network: Any, *given: Any, **named: Any) -> Progress:
        seen.append(training.capture)
        return Progress(best=network.state_dict())

    monkeypatch.setattr(Training, "run", run)
    for given in ({}, {"capture": False}):
        fusiondistill.fit({"epochs": 1}, digits(20), model="cifar_resnet8", **given)
    assert seen == [True, False]


def digits(count: int = 120) -> ImageSet:
    return load_images("digits", "train").take(count)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Stage]]:
    """(store, name -> stage) of the trainings and the merge of an experiment, done by a worker's function."""
    plan = build(parse(CONFIG), fingerprint("digits"), lambda _: range(2))
    store = Store(tmp_path_factory.mktemp("fitted"))
    (last,) = (stage for stage in plan.stages if stage.name == "fusiondistill")
    for stage in ancestors(last):
        execute(stage, Context(store.location), CPU, lambda _: None)
    return store, {stage.name: stage for stage in ancestors(last)}


def same(fitted: Any, store: Store, stage: Stage) -> bool:
    """Whether a fit has the weights of a stage, and its metrics but for the times."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    state, found = store.weights(stage)[0], fitted.model.network.state_dict()
    rows = pq.read_table(pa.BufferReader(store.read(stage, "metrics.parquet"))).to_pylist()
    timeless = [[{k: v for k, v in row.items() if k != "seconds"} for row in table] for table in (rows, fitted.rows)]
    return (
        state.keys() == found.keys()
        and all(torch.equal(state[key], found[key]) for key in state)
        and timeless[0] == timeless[1]
    )


def test_a_base_is_that_of_the_train_stage(stored: tuple[Store, dict[str, Stage]]) -> None:
    store, stages = stored
    spec = stages["base"].spec
    assert isinstance(spec, TrainSpec)
    for recipe in (spec.recipe, {"epochs": 2, "batch_size": 32}):
        fitted = fusiondistill.fit(recipe, digits(), model="cifar_resnet8", seed=3)
        assert same(fitted, store, stages["base"]) and len(fitted.rows) == 2 and fitted.best_epoch in (1, 2)
    assert not fitted.model.training and fitted.model.classes == tuple(digits().classes)
    other = fusiondistill.fit(spec.recipe, digits(), model="cifar_resnet8", seed=4)
    assert not same(other, store, stages["base"])


def test_a_distillation_from_teachers_is_that_of_the_train_stage(stored: tuple[Store, dict[str, Stage]]) -> None:
    store, stages = stored
    spec = stages["fusiondistill"].spec
    assert isinstance(spec, TrainSpec)
    experts = {name: store.weights(stages[f"expert-{name}"])[0] for name in ("noise", "blur")}  # by name, in any order
    start = fusiondistill.load_model(f"{store.location}/{stages['fused'].directory}")
    before = {key: value.clone() for key, value in start.network.state_dict().items()}
    images, held_out = digits().holdout(0.1, 3)
    given: dict[str, Any] = {
        "degradations": ["blur", "noise"],
        "teachers": experts,
        "model": "cifar_resnet8",
        "seed": 3,
    }
    fitted = fusiondistill.fit(spec.recipe, images, start=start, validation=held_out, **given)
    assert same(fitted, store, stages["fusiondistill"])
    assert all(torch.equal(before[key], value) for key, value in start.network.state_dict().items())
    with pytest.raises(ValueError, match="needs a teacher for noise; there are blur"):
        fusiondistill.fit(spec.recipe, images, start=start, **{**given, "teachers": {"blur": experts["blur"]}})
    with pytest.raises(ValueError, match="needs teachers: give one for blur, noise"):
        fusiondistill.fit(spec.recipe, images, start=start, **{**given, "teachers": None})


def test_torchs_generator_is_left_as_it_was() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fusiondistill.fit({"epochs": 1}, digits(40), model="cifar_resnet8", validation=None)
    assert torch.equal(torch.rand(3), expected)


def test_what_is_wrong_is_said() -> None:
    images = digits(40)
    with pytest.raises(ValueError, match="no protocol 'papper'"):
        fusiondistill.fit({"epochs": 1}, images, protocol="papper")
    with pytest.raises(ValueError, match="do not fit cifar_resnet14: "):
        start = fusiondistill.build_model("cifar_resnet8", 10).state_dict()
        fusiondistill.fit({"epochs": 1}, images, model="cifar_resnet14", start=start)
    with pytest.raises(ValueError, match="not 9; nearest: 8 or 14"):
        fusiondistill.fit({"epochs": 1}, images, model="cifar_resnet9")
    with pytest.raises(NonFiniteLoss):
        fusiondistill.fit({"epochs": 2, "optimizer": {"lr": 1e30}}, images, model="cifar_resnet8", validation=None)


def test_it_needs_neither_ray_nor_the_runner(tmp_path: Path) -> None:
    program = (
        "import sys, fusiondistill\n"
        "images = fusiondistill.load_images('digits', 'train').take(40)\n"
        "fitted = fusiondistill.fit({'epochs': 1}, images, model='cifar_resnet8', degradations=['blur'])\n"
        "assert fitted.model(images.gather([0, 1])[0]).shape == (2, 10)\n"
        "found = {name.split('.')[0] for name in sys.modules}\n"
        "assert not found & {'ray', 'fusiondistill_runner', 'torchvision'}, found\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
