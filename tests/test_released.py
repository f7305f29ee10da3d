"""Checkpoints of the paper's released code: its names, its form, and nothing of its pickles executed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusiondistill import build_model, load_checkpoint, load_images, load_model
from fusiondistill.checkpoints import CheckpointError, UnreadObjects, checkpoint_digest
from fusiondistill.config import ModelConfig
from fusiondistill.data import fingerprint
from fusiondistill.plugins import load_plugins, read_plugins
from fusiondistill.released import depth_of, renamed
from fusiondistill_runner.planning.specs import CheckpointSpec, DataSpec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.working.context import Context
from fusiondistill_runner.working.execute import execute
from running import finished, fusiondistill, stages

TRACE: list[str] = []
NAMES = {"conv": "conv1", "norm": "bn1", "stage1": "res1", "stage2": "res2", "stage3": "res3", "norm1": "bn1",
         "norm2": "bn2", "conv1": "conv1", "conv2": "conv2", "shortcut": "ds", "head": "fc"}  # fmt: skip
"""Each part of our names -> the released code's."""


class Config:
    """Stands for the config object that the released code pickles: says when it is made or filled."""

    def __init__(self) -> None:
        self.resume, self.folder = None, Path("saved")

    def __setstate__(self, state: dict[str, Any]) -> None:
        TRACE.append("filled")


class Caller:
    """Calls a function of this file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return called, ("by reduce",)


def called(text: str) -> str:
    TRACE.append(text)
    return text


def theirs(state: dict[str, torch.Tensor], wrapped: str = "") -> dict[str, torch.Tensor]:
    return {wrapped + ".".join(NAMES.get(part, part) for part in key.split(".")): state[key] for key in state}


def released(path: Path, state: dict[str, torch.Tensor], **more: Any) -> Path:
    """A file as the released code's trainer saves it."""
    content = {"model": "ResNet_simple", "epoch": 7, "state_dict": theirs(state), "optimizer": {"state": {}},
               "monitor_best": np.float64(0.7), "config": Config(), **more}  # fmt: skip
    torch.save(content, path)
    return path


def network(name: str = "cifar_resnet14", classes: int = 10) -> torch.nn.Module:
    torch.manual_seed(3)
    made = build_model(name, classes)
    made(torch.randn(8, 3, 16, 16))  # statistics of its own
    return made.eval()


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_resnet14", "cifar_resnet56"])
@pytest.mark.parametrize("wrapped", ["", "module."])
def test_the_released_names_are_ours_in_another_spelling(name: str, wrapped: str) -> None:
    state = network(name).state_dict()
    foreign = theirs(state, wrapped)
    assert not foreign.keys() & state.keys()
    back = renamed(foreign)
    assert list(back) == list(state) and all(torch.equal(back[key], state[key]) for key in state)
    assert depth_of(back) == int(name.removeprefix("cifar_resnet"))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_other_networks_keep_their_names(name: str) -> None:
    state = build_model(name, 3).state_dict()
    assert renamed(state) == dict(state) and depth_of(state) is None
    assert renamed({"conv1.weight": 1, "fc.bias": 2}) == {"conv1.weight": 1, "fc.bias": 2}
    assert renamed({**theirs(network().state_dict()), "extra.weight": 1}).keys() >= {"conv1.weight", "extra.weight"}


def test_a_released_file_gives_its_weights_and_nothing_else_of_it_runs(tmp_path: Path) -> None:
    TRACE.clear()
    made = network()
    path = released(tmp_path / "model_best.pth", made.state_dict(), hook=Caller())
    with pytest.warns(UnreadObjects, match=r"model_best\.pth holds more than weights, .*test_released\.Config"):
        state, card = load_checkpoint(path)
    assert TRACE == [] and card == {}
    again = build_model("cifar_resnet14", 10).eval()
    again.load_state_dict(state)
    images = torch.randn(4, 3, 16, 16)
    assert torch.equal(again(images), made(images))
    torch.load(path, weights_only=False)
    assert sorted(TRACE) == ["by reduce", "filled"]  # it would have


@pytest.mark.filterwarnings("ignore")
def test_what_stands_among_the_weights_must_be_weights(tmp_path: Path) -> None:
    TRACE.clear()
    released(tmp_path / "a.pth", {}, state_dict={"conv1.weight": Caller()})
    torch.save(Config(), tmp_path / "b.pth")
    for name in ("a.pth", "b.pth"):
        with pytest.raises(CheckpointError, match=f"{name} holds no state dict"):
            load_checkpoint(tmp_path / name)
    (tmp_path / "c.pth").write_bytes(pickle.dumps({"state_dict": {}, "config": Caller()}))
    with pytest.raises(CheckpointError, match=r"c\.pth cannot be read as plain weights"):
        load_checkpoint(tmp_path / "c.pth")
    assert TRACE == []


@pytest.mark.filterwarnings("ignore")
def test_a_model_of_a_released_file_needs_images_to_tell_its_normalisation(tmp_path: Path) -> None:
    made, images = network(), load_images("digits", "test")
    path = released(tmp_path / "model_best.pth", made.state_dict())
    with pytest.raises(CheckpointError, match="or trained_on=load_images"):
        load_model(path)
    model = load_model(path, trained_on=images)
    pixels, _ = images.gather([0, 1, 2])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (images.mean, images.std))
    assert torch.equal(model(pixels), made((pixels - mean) / std)) and model.classes == tuple(images.classes)
    other = released(tmp_path / "other.pth", network(classes=7).state_dict())
    with pytest.raises(CheckpointError, match=r"does not fit cifar_resnet14: head\.weight has shape"):
        load_model(other, trained_on=images)


PLUGIN = """
from torch import nn
from fusiondistill import NETWORKS

class Theirs(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, classes)
        self.res1 = nn.Sequential(nn.ModuleDict({"conv1": nn.Conv2d(4, 4, 3)}))

    def forward(self, x):
        return self.fc(self.res1[0]["conv1"](self.conv1(x)).mean((2, 3)))

@NETWORKS.register("theirs")
def theirs(classes):
    "A network whose parameters have the released code's names."
    return Theirs(classes)
"""


def test_a_plugins_network_may_have_the_released_names_itself(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(PLUGIN)
    load_plugins(read_plugins([str(tmp_path / "theirs.py")]))
    made = build_model("theirs", 10, feature_layer="conv1")
    path = tmp_path / "own.pt"
    torch.save(made.state_dict(), path)
    assert "stage1.0.conv1.weight" in load_checkpoint(path)[0]
    assert load_checkpoint(path, as_written=True)[0].keys() == made.state_dict().keys()
    data = DataSpec(name="digits", fingerprint=fingerprint("digits"), train_images=None, test_images=20, held_out=0.0,
                    holdout_seed=0, mean=None, std=None)  # fmt: skip
    model = ModelConfig(name="theirs", feature_layer="conv1")
    spec = CheckpointSpec(sha256=checkpoint_digest(path), model=model, data=data, path=str(path))
    stage = Stage("base", 0, spec)
    (tmp_path / "store").mkdir()
    execute(stage, Context(str(tmp_path / "store")), torch.device("cpu"), lambda *_: None)
    state, card = load_checkpoint(tmp_path / "store" / stage.directory)
    assert card["model"] == "theirs" and torch.equal(
        state["res1.0.conv1.weight"], made.state_dict()["res1.0.conv1.weight"]
    )


CONFIG = """
experiment: theirs
data: {name: digits, train_images: 60, test_images: 30, mean: [78, 78, 78], std: [90, 90, 90]}
model: {name: cifar_resnet14}
degradations: [blur]
methods: [base, fusiondistill]
base: {checkpoint: FOLDER/base.pth}
expert: {checkpoint: "FOLDER/expert-{degradation}.pth"}
fusiondistill: {epochs: 1, batch_size: 30}
evaluation: {every: 25}
"""


@pytest.mark.filterwarnings("ignore")
def test_every_verb_takes_released_files(tmp_path: Path) -> None:
    made = network()
    for name in ("base", "expert-blur"):
        released(tmp_path / f"{name}.pth", made.state_dict())
    content = CONFIG.replace("FOLDER", str(tmp_path))
    config, store, cache = finished(content)
    output = (config.parent / "output.txt").read_text()
    assert "fusiondistill" in output
    (base,) = stages(store, "base")
    assert json.loads((base / "manifest.json").read_text())["kind"] == "import"
    state, _ = load_checkpoint(base)
    assert all(torch.equal(state[key], value) for key, value in made.state_dict().items())
    line = ("evaluate", str(tmp_path / "base.pth"), "--data", "digits", "--images", "30", "--every", "25", "--local")
    line = (*line, "--mean", "78", "--std", "90")
    done = fusiondistill(*line, "--degradation", "blur", "--store", str(tmp_path / "judged"), cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "note: " in done.stderr and "base.pth holds more than weights, which was not loaded" in done.stderr
