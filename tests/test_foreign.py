"""Weights as other programs save them: every form gives the tensors that its network had, and runs nothing."""

from __future__ import annotations

import argparse
import collections
import enum
import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from fusiondistill import build_model, load_model
from fusiondistill.checkpoints import CheckpointError, fitted, load_checkpoint
from fusiondistill.config import ModelConfig
from fusiondistill.starting import finished
from fusiondistill.torch_files import TakenWeights


class Net(nn.Module):
    """A small network whose parts are named as torchvision's."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())
        self.fc = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(self.layer1(self.bn1(self.conv1(x))).mean((2, 3)))
        return out


class Holds(nn.Module):
    """Stands for a Lightning module: a network as an attribute, beside other weights."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


class AttributeDict(dict):  # type: ignore[type-arg]
    """Stands for Lightning's hyper-parameters, which are a dict of a class of its own."""


class Colour(enum.Enum):
    RED = 1


def lightning(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What a Lightning trainer saves, with hyper-parameters of many kinds."""
    odd = {"args": argparse.Namespace(lr=0.1), "root": Path("x"), "act": functools.partial(print, 1), "c": Colour.RED,
           "best": np.float64(0.5), "array": np.arange(3), "type": Net, "seen": {Path("y")},
           "counts": collections.defaultdict(int, a=1), "inner": AttributeDict(lr=AttributeDict(a=0.1))}  # fmt: skip
    return {
        "epoch": 3, "global_step": 10, "pytorch-lightning_version": "2.5.0", "state_dict": state, "loops": {},
        "callbacks": {"ModelCheckpoint{'monitor': 'val'}": {"best_model_path": "a.ckpt", "scores": odd}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}],
        "lr_schedulers": [{"base_lrs": [0.1]}], "hparams_name": "kwargs", "hyper_parameters": AttributeDict(odd),
    }  # fmt: skip


NET = Net()
STATE = {name: tensor.clone() for name, tensor in NET.state_dict().items()}
FORMS: dict[str, Any] = {
    "plain": STATE,
    "parallel": nn.DataParallel(NET).state_dict(),
    "compiled": {f"_orig_mod.{name}": tensor for name, tensor in STATE.items()},
    "compiled parallel": {"model": {f"module._orig_mod.{name}": tensor for name, tensor in STATE.items()}},
    "a compiled part": {n.replace("layer1.", "layer1._orig_mod."): tensor for n, tensor in STATE.items()},
    "averaged": torch.optim.swa_utils.AveragedModel(NET).state_dict(),
    "lightning": lightning(Holds(model=NET, loss=nn.Linear(1, 1)).state_dict()),
    "lightning, compiled": lightning({f"model._orig_mod.{name}": tensor for name, tensor in STATE.items()}),
    "an attribute of any name": {"state_dict": Holds(classifier=NET).state_dict()},
    "a network and its average": {"state_dict": Holds(net=NET, ema=Net()).state_dict()},
    "nested": {"checkpoint": 1, "model": {"epoch": 1, "state_dict": {f"net.{n}": t for n, t in STATE.items()}}},
    "timm": {"arch": "x", "args": argparse.Namespace(a=1), "state_dict": STATE, "state_dict_ema": Net().state_dict()},
    "without counters": {n: tensor for n, tensor in STATE.items() if not n.endswith("num_batches_tracked")},
    "half": {n: t.half() if t.is_floating_point() else t for n, t in STATE.items()},
    "bf16": {"state_dict": {n: t.bfloat16() if t.is_floating_point() else t for n, t in STATE.items()}},
    "double": {n: t.double() if t.is_floating_point() else t for n, t in STATE.items()},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*more than weights", "ignore:.*are taken")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_networks_tensors(form: str, tmp_path: Path) -> None:
    content, path = FORMS[form], tmp_path / "a.ckpt"
    torch.save(content, path)
    if all(isinstance(value, torch.Tensor) for value in content.values()):
        path = tmp_path / "a.safetensors"
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in content.items()}, path)
    expected = STATE
    if form in ("half", "bf16"):
        kind = torch.float16 if form == "half" else torch.bfloat16
        expected = {n: t.to(kind).to(t.dtype) if t.is_floating_point() else t for n, t in STATE.items()}
    found = fitted(*load_checkpoint(path, as_written=True), str(path), "net", Net().state_dict()).state
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype


def test_what_was_done_to_the_names_is_noted() -> None:
    notes = fitted(Holds(model=NET, loss=nn.Linear(1, 1)).state_dict(), {}, "a", "net", STATE).notes
    assert notes == ("read without 'model.' before its names", "left out: loss.weight, loss.bias")
    assert fitted(STATE, {}, "a", "net", STATE).notes == ()


@pytest.mark.parametrize(
    "keys, said",
    [
        (("state_dict",), None),
        (("model_ema",), "under 'model_ema' are taken$"),
        (("generator",), "under 'generator' are taken$"),
        (("model", "ema"), "under 'model' are taken; other weights, under 'ema', are not"),
        (("net", "teacher"), "under 'net' are taken; other weights, under 'teacher', are not"),
    ],
)
def test_which_weights_were_taken_is_said_where_it_is_not_plain(
    keys: tuple[str, ...], said: str | None, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    torch.save({"epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, **dict.fromkeys(keys, STATE)},
               tmp_path / "a.pt")  # fmt: skip
    load_checkpoint(tmp_path / "a.pt")
    texts = [str(one.message) for one in recwarn if issubclass(one.category, TakenWeights)]
    assert [bool(re.search(said or "", text)) for text in texts] == [True] * (said is not None)


def test_a_file_without_a_card_is_a_model_by_what_its_user_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_model("squeezenet1_1", 7).eval()
    torch.save(
        {"state_dict": {f"module.{n}": t.half() for n, t in network.state_dict().items()}}, path := tmp_path / "a.pt"
    )
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    model = load_model(path, model="squeezenet1_1", mean=mean, std=std)
    images = torch.randint(0, 256, (4, 3, 24, 24), dtype=torch.uint8)
    pixels = (images / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    network.load_state_dict({n: t.half() for n, t in network.state_dict().items()})
    assert torch.allclose(model(images), network(pixels), atol=1e-3) and model.classes == tuple("0123456")
    named = load_model(
        path, model={"name": "squeezenet1_1"}, mean=[127.5] * 3, std=[64] * 3, classes=list("abcdefg"), size=32
    )
    assert named.classes == tuple("abcdefg") and named.mean.flatten().tolist() == [127.5] * 3
    for given, message in (
        ({}, "does not say its model, mean, std"),
        ({"model": "squeezenet1_1", "mean": mean}, "does not say its std"),
        ({"model": {"name": "squeezenet1_1", "feature": 2}, "mean": mean, "std": std}, "did you mean 'feature_layer'"),
        ({"model": "squeezenet11", "mean": mean, "std": std}, "squeezenet1_1"),
        ({"model": "cifar_resnet8", "mean": mean, "std": std}, "does not fit cifar_resnet8"),
        ({"model": "squeezenet1_1", "mean": mean, "std": std, "classes": 3}, r"classifier\.1\.weight has shape \(7"),
        ({"model": "squeezenet1_1", "mean": mean, "std": (64, 64, 64)}, "scale 0..1"),
        ({"model": "squeezenet1_1", "mean": mean, "std": (0.5,)}, "three numbers each"),
    ):
        with pytest.raises(ValueError, match=message):
            load_model(path, **given)  # type: ignore[arg-type]


def test_a_head_for_other_classes_points_to_the_weights_to_start_from() -> None:
    made, model = build_model("cifar_resnet8", 3), ModelConfig(name="cifar_resnet8")
    state = build_model("cifar_resnet8", 5).state_dict()
    with pytest.raises(
        CheckpointError, match=r"head\.bias has shape.*write model: .name: cifar_resnet8, weights: a\.pt"
    ):
        finished(made, model, 3, (state, {}), "a.pt")
    with pytest.raises(CheckpointError) as error:
        finished(made, model, 3, ({"w": torch.ones(1)}, {}), "a.pt")
    assert "weights: a.pt" not in str(error.value)


REFUSED: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "two networks": (
        Holds(teacher=Net(), student=Net()).state_dict(),
        r"the file holds 2 networks of these names, behind 'student\.' and 'teacher\.': save the one that is meant",
    ),
    "another network": (
        {"features.0.weight": torch.ones(1), "module.fc.bias": torch.ones(3)},
        r"1 of its 9 names are in the file, behind 'module\.': conv1\.weight is missing; .*tried: .*_orig_mod\..*"
        r"names are like features\.0\.weight, module\.fc\.bias",
    ),
    "other classes": (
        {f"module.{name}": tensor for name, tensor in Net(7).state_dict().items()},
        r"fc\.weight has shape \(7, 4\) instead of \(3, 4\); .*read without 'module\.'",
    ),
    "more than the network": ({**STATE, "extra.weight": torch.ones(1)}, r"extra\.weight is not expected"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_weights_that_do_not_fit_say_what_was_tried(case: str) -> None:
    state, message = REFUSED[case]
    with pytest.raises(CheckpointError, match=f"file.pt does not fit net: {message}"):
        fitted(state, {}, "file.pt", "net", STATE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["module", "module under a key", "torchscript"])
def test_a_program_is_refused_with_the_lines_that_make_a_state_dict_of_it(how: str, tmp_path: Path) -> None:
    path = tmp_path / "whole.pt"
    if how == "torchscript":
        torch.jit.save(torch.jit.trace(NET.eval(), torch.zeros(2, 3, 8, 8)), path)
    else:
        torch.save(NET if how == "module" else {"epoch": 3, "model": NET}, path)
    with pytest.raises(CheckpointError, match="Where you trust it, make a state dict of it in Python:") as told:
        load_checkpoint(path)
    lines = [line.strip() for line in str(told.value).splitlines()[1:]]
    assert len(lines) == 2
    program = "\n".join(lines).replace("'weights.pt'", repr(str(tmp_path / "weights.pt")))
    exec(program, {"torch": torch})
    state, _ = load_checkpoint(tmp_path / "weights.pt", as_written=True)
    found = fitted(state, {}, "weights.pt", "net", STATE).state
    assert all(torch.equal(found[name], tensor) for name, tensor in STATE.items())


WHOLE = Net().state_dict()
ODD: dict[str, Any] = {
    "under another key": {"best": torch.tensor(3.0), "params": WHOLE},
    "beside other values": {**WHOLE, "epoch": 3},
    "names as bytes": {name.encode(): tensor for name, tensor in WHOLE.items()},
    "an auxiliary head": {**WHOLE, "AuxLogits.fc.weight": torch.ones(2)},
    "an empty one first": {"state_dict": {}, "model": WHOLE},
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_odd_forms_are_read_too(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    state, card = load_checkpoint(tmp_path / "a.pt", as_written=True)
    found = fitted(state, card, "a.pt", "net", WHOLE)
    assert found.state.keys() == WHOLE.keys() and all(torch.equal(found.state[name], WHOLE[name]) for name in WHOLE)


def test_files_that_hold_no_weights_say_what_they_are(tmp_path: Path) -> None:
    torch.save(WHOLE, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "zero.ckpt").write_bytes(b"")
    torch.save({}, tmp_path / "none.pt")
    torch.save({name: tensor.numpy() for name, tensor in WHOLE.items()}, tmp_path / "numpy.pt")
    np.savez(tmp_path / "arrays.npz", a=np.ones(2))
    told = {"cut.pt": "is cut short", "text.pt": "is a text file, neither", "zero.ckpt": "is empty",
            "none.pt": "it holds nothing", "numpy.pt": "from_numpy", "arrays.npz": "from_numpy"}  # fmt: skip
    for name, message in told.items():
        with pytest.raises(CheckpointError, match=f"{name} .*{message}"):
            load_checkpoint(tmp_path / name)
