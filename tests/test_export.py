"""Exported networks, read by the programs that they are for: the same labels, the classes by name, no leftovers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from fusiondistill import NETWORKS, build_model, load_model, plugins
from fusiondistill.cards import card_of
from fusiondistill.exporting import Differs, ExportError, Written, comparing, export, form_of
from fusiondistill.exporting.onnx_form import Onnx
from fusiondistill.models import ImageClassifier
from fusiondistill.plugins import load_plugins, read_plugins

CLASSES = ["cat", "dög | <b>", 'a,"b"\nc']
SIZE = (8, 12)
PLUGIN = Path(__file__).parent / "plugins" / "tiny.py"


class Made(NamedTuple):
    folder: Path
    model: ImageClassifier
    card: dict[str, Any]
    images: torch.Tensor
    written: dict[str, Written]


def classifier(name: str, **more: Any) -> tuple[ImageClassifier, dict[str, Any]]:
    """A network with weights that answer with every class, and its card."""
    torch.manual_seed(0)
    network = build_model(name, len(CLASSES)).eval()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    about = {"classes": CLASSES, "mean": (90.0, 120.0, 150.0), "std": (50.0, 60.0, 70.0), "size": SIZE}
    card = {**card_of(name, None, dataset="photos", **about), **more}  # type: ignore[arg-type]
    return ImageClassifier(network, card["mean"], card["std"], card["classes"]).eval(), card


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """One network, a plugin's, in all three forms."""
    folder, before = tmp_path_factory.mktemp("exported"), dict(NETWORKS._added)
    load_plugins(read_plugins([str(PLUGIN)]))
    model, card = classifier("tiny", fit="stretch")
    images = (torch.rand(128, 3, *SIZE) * torch.rand(128, 3, 1, 1) * 255).to(torch.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "SECONDS", 0.0)
        written = {name: export(model, card, folder / name, images[:10]) for name in ("m.onnx", "m.pt2", "hub")}
    yield Made(folder, model, card, images, written)
    NETWORKS._added = before
    del plugins._loaded[PLUGIN.name]


def test_onnxruntime_gives_the_same_labels_of_raw_pixels_in_any_batch(made: Made) -> None:
    import onnxruntime

    with torch.no_grad():
        expected = made.model(made.images)
    assert len(expected.argmax(1).unique()) > 1
    session = onnxruntime.InferenceSession(made.folder / "m.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 3, 128):
        (logits,) = session.run(["logits"], {"images": made.images[:count].numpy()})
        assert torch.equal(torch.from_numpy(logits).argmax(1), expected[:count].argmax(1))
        assert torch.allclose(torch.from_numpy(logits), expected[:count], atol=1e-5)
    with pytest.raises(Exception, match="invalid dimensions"):
        session.run(None, {"images": made.images[:, :, :, :8].numpy()})


def test_the_files_say_what_they_take_and_the_names_of_the_classes(made: Made) -> None:
    import onnx

    found = onnx.load(made.folder / "m.onnx")
    facts = {entry.key: entry.value for entry in found.metadata_props}
    assert json.loads(facts["classes"]) == CLASSES
    assert (facts["fit"], facts["dataset"], json.loads(facts["size"])) == ("stretch", "photos", list(SIZE))
    assert json.loads(facts["mean"]) == [90, 120, 150]
    assert "EXIF orientation, lay transparent pixels over white" in facts["preparation"]
    assert "resize the whole image to 12x8 by Pillow's BICUBIC" in facts["preparation"]
    (taken,) = found.graph.input
    assert taken.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [side.dim_param or side.dim_value for side in taken.type.tensor_type.shape.dim] == ["batch", 3, *SIZE]
    config = json.loads((made.folder / "hub" / "config.json").read_text())
    assert list(config["id2label"].values()) == CLASSES == list(config["label2id"]) == config["label_names"]
    processor = json.loads((made.folder / "hub" / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": SIZE[0], "width": SIZE[1]}
    assert processor["image_std"] == [50 / 255, 60 / 255, 70 / 255]
    assert str(Path(__file__).parents[1]).encode() not in (made.folder / "m.onnx").read_bytes()  # no paths of ours
    assert all(one.largest < 1e-5 and one.images == 10 for one in made.written.values())
    use = [one.lines("x")[-1] for one in made.written.values()]
    assert f'm.onnx\').run(None, {{"images": pixels}}), pixels: uint8 [N,3,{SIZE[0]},{SIZE[1]}]' in use[0]
    assert "its plugin is loaded first" in use[2]


FRESH = """
import json, sys, torch
folder, count = sys.argv[1], int(sys.argv[2])
images = torch.load(folder + "/images.pt")
about = {"fusiondistill.json": ""}
found = torch.export.load(folder + "/m.pt2", extra_files=about).module()
assert "fusiondistill" not in sys.modules and json.loads(about["fusiondistill.json"])["classes"][0] == "cat"
with torch.no_grad():
    logits = [torch.cat([found(some) for some in images.split(count)])]
    import fusiondistill.plugins
    fusiondistill.plugins.load_plugins(fusiondistill.plugins.read_plugins([sys.argv[3]]))
    logits.append(fusiondistill.load_model(folder + "/hub")(images))
torch.save(logits, folder + "/logits.pt")
"""


def test_a_fresh_process_reads_the_program_without_us_and_the_folder_without_a_store(made: Made) -> None:
    torch.save(made.images, made.folder / "images.pt")
    subprocess.run([sys.executable, "-c", FRESH, str(made.folder), "3", str(PLUGIN)], check=True)
    with torch.no_grad():
        expected = made.model(made.images)
    for found in torch.load(made.folder / "logits.pt"):
        assert torch.allclose(found, expected, atol=1e-5)


def test_the_model_card_opens_with_what_the_hub_reads_and_its_example_runs(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (made.folder / "hub" / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["pipeline_tag"] == "image-classification" and "license" not in yaml.safe_load(front)
    assert "<b>" not in body and "8,12]" in body and "stretch" in body
    Image.new("RGBA", (30, 20), (0, 200, 0, 128)).save(tmp_path / "photo.jpg", "PNG")
    (tmp_path / "tiny.py").write_bytes((made.folder / "hub" / "plugin.tiny.py").read_bytes())
    monkeypatch.chdir(tmp_path)
    code = body.split("```python\n")[1].split("```")[0].replace("FOLDER", str(made.folder / "hub"))
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["found"].label in CLASSES and names["found"].probability


def test_what_is_there_is_kept_unless_an_export_wrote_it(made: Made, tmp_path: Path) -> None:
    taken, mine, empty = tmp_path / "m.pt2", tmp_path / "photos", tmp_path / "hub"
    taken.write_text("mine")
    mine.mkdir()
    empty.mkdir()
    (mine / "cat.jpg").write_text("mine")
    no = r"holds cat\.jpg, which no export wrote: it is not replaced"
    refused = {taken: "is there already", mine: no, tmp_path / "m.h5": r"no form \.h5", "none/m.pt2": "no folder"}
    for out, said in refused.items():
        for force in (False,) if out == taken else (False, True):
            with pytest.raises(ExportError, match=said):
                export(made.model, made.card, out, made.images, force=force)
    assert [form_of(name).title for name in ("a.ONNX", "a.onnx/", "a")] == ["ONNX", "the folder", "the folder"]
    assert taken.read_text() == "mine" == (mine / "cat.jpg").read_text() and len(list(tmp_path.iterdir())) == 3
    for force in (False, True):
        export(made.model, made.card, empty, made.images[:1], force=force)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "hub")(made.images), made.model(made.images))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "m.pt2", "photos"]


class Moody(nn.Module):
    """Answers by the pixels' mean, or by chance."""

    def __init__(self, classes: int, chance: bool) -> None:
        super().__init__()
        self.conv, self.head, self.chance = nn.Conv2d(3, 4, 3), nn.Linear(4, classes), chance

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        if self.chance:
            x = x + torch.randn_like(x)
        elif x.mean() > 0:
            x = -x
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize(("chance", "error"), [(True, Differs), (False, ExportError)])
def test_a_network_that_the_file_cannot_hold_or_repeat_is_refused(
    chance: bool, error: type[Exception], tmp_path: Path
) -> None:
    @NETWORKS.register("moody")
    def moody(classes: int) -> nn.Module:
        "Of this test."
        return Moody(classes, chance)

    model, card = classifier("moody")
    said = "gives another label" if chance else "cannot hold the network moody: .*folder can"
    with pytest.raises(error, match=said):
        export(model, card, tmp_path / "m.pt2", torch.randint(0, 256, (64, 3, *SIZE), dtype=torch.uint8))
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_the_line_that_brings_it(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Onnx, "packages", ("onnx", "no_such_package"))
    with pytest.raises(ExportError, match=r"needs no_such_package: pip install 'fusiondistill\[onnx\]'"):
        export(made.model, made.card, tmp_path / "m.onnx", made.images)


def test_names_and_cards_that_a_form_cannot_hold_are_named(made: Made, tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("m.onnx", {"classes": ["cat", "dog", "caf\udce9"]}, r"class 2 is called caf\\xe9"),
        ("hub", {"classes": ["cat", "dog", "cat"]}, "classes 0 and 2 are both called 'cat'"),
        ("m.onnx", {"size": None}, "does not say how large"),
        ("m.onnx", {"dataset": "\ud800"}, "not Unicode"),
    ]
    for out, other, said in cases:
        card = {**made.card, **other}
        model = ImageClassifier(made.model.network, card["mean"], card["std"], card["classes"]).eval()
        with pytest.raises(ExportError, match=said):
            export(model, card, tmp_path / out, made.images)
    assert not list(tmp_path.iterdir())
