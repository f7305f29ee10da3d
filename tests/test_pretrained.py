"""A base that starts from pretrained weights, of a library's cache or a file; networks of timm, without BatchNorm."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from fusiondistill import build_model, config_file
from fusiondistill.checkpoints import CheckpointError, card_of, load_checkpoint, save_checkpoint
from fusiondistill.config import ModelConfig
from fusiondistill.networks import NETWORKS
from fusiondistill.starting import head_of, start_from
from fusiondistill_runner import runner
from fusiondistill_runner.driving.prepared import Prepared, prepare
from fusiondistill_runner.planning.specs import JUDGING, PretrainedSpec
from running import stages

timm = pytest.importorskip("timm")

TINY = """
experiment: own
data: {name: digits, train_images: 40, test_images: 20}
degradations: [noise]
methods: [base, modelsoups]
base: {epochs: 1, batch_size: 20}
expert: {epochs: 1, batch_size: 20}
evaluation: {every: 50}
"""


def planned(tmp_path: Path, *overrides: str) -> Prepared:
    (tmp_path / "c.yaml").write_text(TINY)
    return prepare(str(tmp_path / "c.yaml"), overrides, str(tmp_path / "store"))


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the caches of torch and of the Hub; what a download would have left is made here."""
    folder = tmp_path_factory.mktemp("caches")
    torch.manual_seed(1)
    place = folder / "torch" / "hub" / "checkpoints"
    place.mkdir(parents=True)
    network = build_model("mobilenet_v3_small", 1000)
    torch.save(network.state_dict(), place / "mobilenet_v3_small-047dcff4.pth")
    hub = folder / "hf" / "hub" / "models--timm--test_vit.r160_in1k"
    snapshot = hub / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("a" * 40)
    safetensors.torch.save_file(timm.create_model("test_vit").state_dict(), snapshot / "model.safetensors")
    return folder


@pytest.fixture
def cached(caches: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setenv("TORCH_HOME", str(caches / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(caches / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("https_proxy", "HTTPS_PROXY"):  # no test fetches anything
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    return caches


class Silent:
    """A display that shows nothing."""

    def note(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        pass


def spec_of(plan: Prepared) -> PretrainedSpec:
    (spec,) = (stage.spec for stage in plan.plan.stages if isinstance(stage.spec, PretrainedSpec))
    return spec


def test_weights_are_a_start_of_the_base_and_their_content_is_digested(cached: Path, tmp_path: Path) -> None:
    weights = "model={name: mobilenet_v3_small, weights: pretrained}"
    plan = planned(tmp_path, weights)
    spec, stage = spec_of(plan), {one.name: one for one in plan.plan.stages}
    assert stage["base"].inputs["start"] is stage["pretrained"] and spec.new_head
    assert stage["expert-noise"].inputs["start"] is stage["base"]
    assert spec.data.mean == (123.675, 116.28, 103.53) and stage["base"].spec.data.std == (58.395, 57.12, 57.375)
    assert any("normalisation: mean [123.675, " in note for note in plan.notes)
    assert plan.normalisations["own"].endswith(": that of MobileNet_V3_Small_Weights.IMAGENET1K_V1")
    assert any(re.search(r"base starts from .*047dcff4\.pth: new head: classifier\.3\.weight", n) for n in plan.notes)
    (told,) = (one for one in plan.plan.describe()["methods"] if one["id"] == "base")
    assert told["start"] == "pretrained" and told["description"].endswith("pretrained weights of mobilenet_v3_small")
    # The same content at another place is the same base; other content is another one.
    original = Path(spec.path)
    (tmp_path / "mine.pth").write_bytes(original.read_bytes())
    other = planned(tmp_path, weights, f"model.weights={tmp_path / 'mine.pth'}", "data.mean=[9, 9, 9]")
    assert spec_of(other).sha256 == spec.sha256 and not spec_of(other).new_head
    assert re.fullmatch(r"mean \[9, 9, 9\], std \[.*\]: given", other.normalisations["own"])
    assert not any(stage.kind == "import" for stage in planned(tmp_path, weights, "base.start=random").plan.stages)
    scratch = planned(tmp_path, weights, "methods=[scratch]", "scratch.batch_size=20")
    assert [stage.kind for stage in scratch.plan.stages if stage.kind not in JUDGING] == ["train"]


def test_what_is_not_in_a_cache_is_named_with_the_place(cached: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"shufflenetv2_x0\.5-\w+\.pth is not in .*torch/hub/checkpoints .*"
                       r"TORCH_HOME.*copy it into that folder, or say model\.weights: FILE"):  # fmt: skip
        planned(tmp_path, "model={name: shufflenet_v2_x0_5, weights: pretrained}")
    with pytest.raises(CheckpointError, match=r"model\.safetensors of timm/test_resnet\.r160_in1k is not in .*hf/hub"):
        planned(tmp_path, "model={name: timm/test_resnet, weights: pretrained}")


def test_weights_are_at_hand_where_a_cache_holds_them(cached: Path) -> None:
    held = {"mobilenet_v3_small": True, "shufflenet_v2_x0_5": False, "timm/test_vit": True, "timm/test_resnet": False}
    assert {name: NETWORKS.provider(name).pretrained(name).at_hand() for name in held} == held


MISTAKES = [
    ("model={name: cifar_resnet8, weights: pretrained}", "model.weights", "no pretrained weights for cifar_resnet8"),
    ("model.weights=nowhere.pt", "model.weights", "no such file: nowhere.pt; or say pretrained"),
    ("base.start=pretrained", "base.start", "pretrained is model.weights: say pretrained there, or a FILE"),
    ("model.name=timm/resnet1", "model.name", "timm has no network 'resnet1'; did you mean 'resnet18'?"),
    ("model={name: timm/test_vit.nope, weights: pretrained}", "model.weights", "tags with weights: test_vit.r160_in1k"),
]


@pytest.mark.parametrize(("override", "key", "message"), MISTAKES)
def test_mistakes_are_told_with_their_key(override: str, key: str, message: str) -> None:
    with pytest.raises(config_file.ConfigError, match=rf"{re.escape(key)}.*{re.escape(message)}"):
        config_file.parse(TINY, overrides=[override])


def test_images_of_a_size_that_a_network_does_not_take_are_told_by_the_plan(tmp_path: Path) -> None:
    said = (
        r"alexnet does not take images of 16x16 pixels \(RuntimeError: .*\); it takes 64x64: write data: \{size: 64\}"
    )
    with pytest.raises(ValueError, match=said):
        planned(tmp_path, "model.name=alexnet")


def test_a_network_of_timm_without_batchnorm_goes_through_the_whole_run(cached: Path, tmp_path: Path) -> None:
    path = next((cached / "hf").rglob("model.safetensors"))
    halves = ("data.mean=[0.5, 0.5, 0.5]", "data.std=[0.5, 0.5, 0.5]")
    plan = planned(tmp_path, f"model={{name: timm/test_vit, weights: {path}}}", *halves)
    assert len([n for n in plan.notes if "timm/test_vit has no BatchNorm: a merge's recalibrate: mixed" in n]) == 1
    with plan.store.held():
        outcome = runner.run(plan, Silent(), local=True)
    assert not outcome.failed and not outcome.blocked
    (start,), (expert,), (merged,) = (
        stages(tmp_path / "store", name) for name in ("pretrained", "expert-noise", "fused")
    )
    state, card = load_checkpoint(start)
    given = safetensors.torch.load_file(path)
    assert card["mean"] == [127.5] * 3 and card["parameters"] == {"img_size": [16, 16]}
    assert torch.equal(state["blocks.3.attn.qkv.weight"], given["blocks.3.attn.qkv.weight"])
    assert state["pos_embed"].shape != given["pos_embed"].shape and state["head.weight"].shape == (10, 64)
    # Of one expert the merge is that expert, to the bit: nothing was recalibrated.
    one, other = (load_checkpoint(place)[0] for place in (expert, merged))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert {stage.kind for stage in outcome.done} == {"train", "fuse", "evaluate", "validate"}


class Net(nn.Module):
    """A body and a head, with an auxiliary head in files alone."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(4, 5), nn.Linear(5, classes)


def test_the_head_is_kept_where_it_fits_and_made_anew_elsewhere(tmp_path: Path) -> None:
    network: Any = build_model("cifar_resnet8", 3)
    model = ModelConfig(name="cifar_resnet8")
    assert head_of(model, 3) == ("head.weight", "head.bias")
    own = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for classes, new_head, kept in ((3, False, True), (3, True, False), (7, False, False)):
        torch.manual_seed(5)
        theirs = {**build_model("cifar_resnet8", classes).state_dict(), "aux.weight": torch.ones(1)}
        wrapped = {f"module.{name}": tensor for name, tensor in theirs.items()}
        start = start_from(network, model, 3, (wrapped, {}), "a.pt", new_head=new_head)
        assert start.state.keys() == own.keys() and bool(start.head) is not kept
        for name, tensor in start.state.items():
            assert torch.equal(tensor, theirs[name] if kept or not name.startswith("head") else own[name]), name
    with pytest.raises(CheckpointError, match=r"a\.pt does not fit cifar_resnet8: .* names are in the file"):
        start_from(network, model, 3, (Net(3).state_dict(), {}), "a.pt")


def test_the_card_of_a_file_says_its_normalisation_and_its_classes(tmp_path: Path) -> None:
    facts: dict[str, Any] = {"mean": (1.0, 2.0, 3.0), "std": (4.0, 5.0, 6.0), "size": (16, 16), "dataset": "d"}
    notes = {}
    for name, classes in (("same", [str(n) for n in range(10)]), ("other", [f"c{n}" for n in range(10)])):
        save_checkpoint(tmp_path / name, build_model("cifar_resnet8", 10).state_dict(),
                        card_of("cifar_resnet8", None, classes=classes, **facts))  # fmt: skip
        plan = planned(tmp_path, "model.name=cifar_resnet8", f"model.weights={tmp_path / name}")
        assert spec_of(plan).data.mean == (1.0, 2.0, 3.0)
        notes[name] = next(note for note in plan.notes if note.startswith("base starts from"))
    assert "its head is kept" in notes["same"] and "new head: head.weight, head.bias" in notes["other"]
