"""The memory layout of a training: chosen by a rule, kept by a resume, noted, and in no digest."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fusiondistill
from fusiondistill import build_model, fitting
from fusiondistill.checkpoints import new_attempt
from fusiondistill.config_file import parse
from fusiondistill.data import fingerprint, load_images
from fusiondistill.fitting import Training
from fusiondistill.layout import channels_last
from fusiondistill.progress import Progress
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.specs import TrainSpec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views.stage_tables import facts
from fusiondistill_runner.working.context import Context
from fusiondistill_runner.working.execute import perform
from fusiondistill_runner.working.train import pack, unpack
from shelf import Shelf
from toy_training import Toy, make_recipe, make_set

CPU = torch.device("cpu")
IN_SPACE = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Unflatten(1, (2, 4)), nn.Conv3d(2, 2, 3))
PATCHES = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Flatten(2), nn.Linear(4, 4))
CONFIG = """
experiment: laid-out
methods: [base]
degradations: [blur]
data: {name: digits, train_images: 40, test_images: 20}
model: {name: cifar_resnet8}
base: {epochs: 2, batch_size: 20KEY}
"""


@pytest.mark.parametrize(
    ("network", "faster"),
    [
        (Toy(0), True),
        (build_model("cifar_resnet8", 3), True),
        (PATCHES, False),
        (nn.Linear(3, 3), False),
        (IN_SPACE, False),
    ],
    ids=["convolution", "resnet", "patches", "linear", "3-D too"],
)
def test_the_rule_goes_by_the_network(network: nn.Module, faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for device in (CPU, torch.device("cuda")):
        assert channels_last("auto", network, device) is faster
        assert channels_last(True, network, device) is True and channels_last(False, network, device) is False


def test_the_rule_goes_by_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert channels_last("auto", Toy(0), torch.device("cuda")) and not channels_last("auto", Toy(0), CPU)


def train_stage(key: str = "") -> Stage:
    plan = build(parse(CONFIG.replace("KEY", key)), fingerprint("digits"), lambda _: range(2))
    (stage,) = (stage for stage in plan.stages if isinstance(stage.spec, TrainSpec))
    return stage


def test_no_digest_holds_it() -> None:
    as_before = "0c308f31e9131f65f2d3bdc046a73b91b512c3f2c1b1b1c91039103677d4f2bd"  # with `false` as the default
    digests = {train_stage(f", channels_last: {value}").digest for value in ("auto", "true", "false")}
    assert digests == {train_stage().digest} == {as_before}


def seen(training: Training, network: nn.Module, **run: Any) -> tuple[Progress, set[bool]]:
    """What a training came to, and whether its network, in training and in validation, got images channels-last."""
    layouts: set[bool] = set()
    network.register_forward_pre_hook(
        lambda _, given: layouts.add(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    return training.run(network, **run), layouts


@pytest.mark.parametrize("first", [True, False])
def test_a_training_goes_on_in_the_layout_that_it_began_in(first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on another machine, where the rule says something else: through the stored bytes, to the same bits."""
    monkeypatch.setattr(fitting, "channels_last", lambda given, *_: first)
    training = Training(make_recipe(epochs=3), make_set(), make_set(), ("noise",))
    stops: list[Progress] = []
    whole, layouts = seen(training, Toy(1, norm=True), on_epoch=stops.append)
    assert layouts == {first} and whole.channels_last is first
    monkeypatch.setattr(fitting, "channels_last", lambda given, *_: not first)
    again, layouts = seen(training, Toy(1, norm=True), start=unpack(pack(stops[0])))
    assert layouts == {first} and again.channels_last is first
    assert all(torch.equal(tensor, again.model[name]) for name, tensor in whole.model.items())
    other, layouts = seen(training, Toy(1, norm=True))
    assert layouts == {not first} and other.channels_last is not first
    for name, tensor in whole.model.items():
        torch.testing.assert_close(other.model[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("given", ["auto", True, False])
def test_one_that_was_stored_before_layouts_were_noted_goes_on_as_its_recipe_said(given: Any) -> None:
    recipe = make_recipe(epochs=2).model_copy(update={"channels_last": given})
    training, stops = Training(recipe, make_set()), []
    training.run(Toy(1), on_epoch=stops.append)
    before = dataclasses.replace(stops[0], channels_last=None)
    assert training.run(Toy(1), start=before).channels_last is (given is True)


def test_fit_follows_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    images = load_images("digits", "train").take(40)
    for given, last in (("auto", True), (False, False)):
        fitted = fusiondistill.fit({"epochs": 1, "channels_last": given}, images, model="cifar_resnet8")
        weight = next(w for w in fitted.model.parameters() if w.dim() == 4 and w.shape[1] > 1 and w.shape[2] > 1)
        assert weight.is_contiguous(memory_format=torch.channels_last) is last


def test_a_stage_notes_it_and_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    store, stage = Store(tmp_path), train_stage()
    given = stage, store, Context(str(tmp_path)), CPU, lambda _: None
    perform(*given, until=1)
    monkeypatch.setattr(fitting, "channels_last", lambda *_: False)
    perform(*given)
    manifest = store.manifest(stage)
    assert manifest is not None and manifest["channels_last"] is True
    assert manifest["recipe"]["channels_last"] == manifest["spec"]["recipe"]["channels_last"] == "auto"


def laid_out(shelf: Shelf, *noted: dict[str, Any], name: str = "row-{}") -> str | None:
    """What a report says of trainings whose manifests note this."""
    for seed, more in enumerate(noted):
        spec = train_stage().spec
        stage = Stage(name.format(seed), seed, spec)
        shelf.store.commit(stage, {}, more, new_attempt())
        shelf.plan["stages"].append({"name": stage.name, "kind": "train", "seed": seed, "directory": stage.directory})
    return facts(shelf.store, [shelf.plan]).get("memory layout")


def test_a_report_of_one_layout_names_it_and_one_that_mixes_says_so(tmp_path: Path) -> None:
    last, older = {"channels_last": True}, {"recipe": {"channels_last": False}}
    assert laid_out(Shelf(tmp_path / "a"), last, last) == "channels last"
    assert laid_out(Shelf(tmp_path / "b"), {}) is None
    said = "two layouts, which differ by rounding: channels first: row-1; channels last: row-0, row-2"
    assert laid_out(Shelf(tmp_path / "c"), last, older, last) == said
    said = "two layouts, which differ by rounding: channels first: base (seed 1); channels last: base (seed 0)"
    assert laid_out(Shelf(tmp_path / "d"), last, older, name="base") == said
