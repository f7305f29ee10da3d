"""`predict`: files are classified as the evaluation classified the same images, and what cannot be read is named."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import nn

from fusiondistill import build_model, load_model, predict, save_checkpoint
from fusiondistill.checkpoints import CheckpointError, card_of, check_card, checkpoint_digest
from fusiondistill.config import ModelConfig
from fusiondistill.data import DataError, fingerprint
from fusiondistill.models import Ensemble, ImageClassifier, SoftVote
from fusiondistill.prediction_table import OutError, check_out
from fusiondistill_runner.cli import main
from fusiondistill_runner.planning.specs import CheckpointSpec, DataSpec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.working.context import Context
from fusiondistill_runner.working.execute import execute
from image_files import GREY, png16
from test_evaluate_stage import CPU, EvaluateSpec, evaluated

CLASSES = ["cat", "dog, big", "owl"]


def pixels(seed: int, height: int = 24, width: int = 20, channels: int = 3) -> np.ndarray:
    """Blurred noise, so that resized images still differ."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, channels), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def turned(array: np.ndarray) -> bytes:
    """A PNG whose EXIF block says how its pixels are to be turned; upright it shows ``array``."""
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(array)).save(stream, "PNG", exif=exif)  # 6: turn it clockwise
    return stream.getvalue()


def network(seed: int, classes: int = 3) -> nn.Module:
    """One that tells such images apart in its own way."""
    torch.manual_seed(seed)
    made = build_model("cifar_resnet8", classes)
    shown = torch.stack([torch.from_numpy(pixels(n, 16, 16).copy()).permute(2, 0, 1) for n in range(30)])
    for layer in made.modules():
        layer.momentum = 1.0  # type: ignore[assignment]  # of BatchNorm: the statistics are those of these images
    made((shown.float() - 120) / 60)
    nn.init.normal_(made.head.weight, std=0.3)  # type: ignore[union-attr, arg-type]
    return made.eval()


def card(**more: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {"classes": CLASSES, "mean": (120.0,) * 3, "std": (60.0,) * 3, "size": (16, 16)}
    return card_of("cifar_resnet8", None, dataset="made up", **{**facts, **more})


class Made(NamedTuple):
    folder: Path
    """Holds ``set`` (photos of many kinds), ``plain.safetensors`` (without a word on sizes), ``fits.safetensors``."""
    stage: Path
    counts: dict[str, Any]
    said: list[str]
    """What the evaluation said of the test images, in the order of their names."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("predict")
    for split in ("train", "test"):
        for label, name in enumerate(CLASSES):
            place = folder / "set" / split / name
            place.mkdir(parents=True)
            for n in range(3):
                Image.fromarray(pixels(9 * label + n, 20 + n, 30)).save(place / f"{n}.jpg")
            Image.fromarray(pixels(40 + label, channels=4), "RGBA").save(place / "clear.png")
            (place / "deep.png").write_bytes(png16(pixels(50 + label)[..., :1].astype(np.uint16) * 16, GREY))
            (place / "turned.png").write_bytes(turned(pixels(60 + label, 30, 18)))
            Image.fromarray(pixels(70 + label)).quantize(8).save(place / "palette.gif")
    save_checkpoint(folder / "plain.safetensors", network(0).state_dict(), card())
    save_checkpoint(folder / "fits.safetensors", network(0).state_dict(), card(fit="crop"))
    arranged: dict[str, Any] = {"size": (16, 16), "fit": "pad", "background": "black", "bits": 12}
    data = DataSpec(
        name="folder", fingerprint=fingerprint("folder", root=folder / "set", **arranged), train_images=None,
        test_images=None, held_out=0.0, holdout_seed=0, mean=(120,) * 3, std=(60,) * 3, **arranged,
    )  # fmt: skip
    path = str(folder / "plain.safetensors")
    spec = CheckpointSpec(
        sha256=checkpoint_digest(path), model=ModelConfig(name="cifar_resnet8"), data=data, path=path
    )  # fmt: skip
    stage, roots = Stage("base", 0, spec), ((data.fingerprint, str(folder / "set")),)
    (folder / "store").mkdir()
    execute(stage, Context(str(folder / "store"), roots=roots), CPU, lambda *_: None)
    judged = EvaluateSpec(
        inference=None, degradation="noise", levels=(0,), data=data, protocol="standard", noise_seed=5,
        precision="fp32", threads=1,
    )  # fmt: skip
    tables = evaluated(folder, judged, {"model": stage}, roots=roots)
    said = [CLASSES[label] for label in tables["predictions"]["predictions"][0].as_py()]
    return Made(folder, folder / "store" / stage.directory, tables["counts"].to_pylist()[0], said)


def command(*words: object, given: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["predict", *map(str, words)], input=given)


def test_new_photos_are_treated_as_those_of_the_training_were(made: Made, tmp_path: Path) -> None:
    told = load_model(made.stage).preparation
    assert (told.size, told.fit, told.background, told.bits) == ((16, 16), "pad", "black", 12)
    out = tmp_path / "said.json"
    done = command(made.stage, made.folder / "set" / "test", "--top", 3, "--out", out)
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())
    assert [row["label"] for row in rows] == made.said and len(set(made.said)) > 1 and len(rows) == 21
    likelihood = []
    for row in rows:
        chances = {row["label" + n]: row["probability" + n] for n in ("", "_2", "_3")}
        assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
        assert row["probability"] >= row["probability_2"] >= row["probability_3"]
        likelihood.append(-math.log(chances[Path(row["path"]).parent.name]))
    assert np.mean(likelihood) == pytest.approx(made.counts["nll"], rel=1e-4)  # the evaluation's, of the same images


def test_a_batch_changes_nothing_and_order_is_kept(made: Made) -> None:
    model = load_model(made.stage)
    whole = model.predict(made.folder / "set", top=2)
    assert predict(model, str(made.folder / "set"), top=2, batch_size=1) == whole
    back = [one.path for one in reversed(whole)]
    assert model.predict(back, top=2) == whole[::-1]
    assert [one[:3] for one in whole] == [tuple(one)[:3] for one in model.predict([made.folder / "set"])]


def test_a_photo_that_is_to_be_turned_is_the_upright_one(made: Made, tmp_path: Path) -> None:
    for n in range(4):
        upright = pixels(n, 40, 20)
        Image.fromarray(upright).save(tmp_path / f"{n}a.png")
        (tmp_path / f"{n}b.png").write_bytes(turned(upright))
    said = load_model(made.folder / "fits.safetensors").predict(tmp_path)
    assert [(one.label, one.probability) for one in said[::2]] == [(one.label, one.probability) for one in said[1::2]]


def test_a_file_without_a_card_is_told_the_rest(made: Made, tmp_path: Path) -> None:
    torch.save(network(0).state_dict(), tmp_path / "bare.pt")
    (tmp_path / "names.txt").write_text("\n".join(CLASSES) + "\n")
    photos = made.folder / "set" / "test" / "owl" / "0.jpg"
    wanted = command(made.folder / "fits.safetensors", photos).stdout
    told = ["--mean", "120", "--std", "60", "--size", 16, "--fit", "crop"]
    assert command(tmp_path / "bare.pt", photos, *told, "--classes", tmp_path / "names.txt").stdout == wanted
    said = command(tmp_path / "bare.pt", photos, *told, "--model", "cifar_resnet8", "--classes", "cat,dog,owl").stdout
    assert said.split()[3:] == wanted.replace("dog, big", "dog").split()[3:]
    for words, message in ((told[4:], "carries no card"), (told[:4], "--size 224")):
        done = command(tmp_path / "bare.pt", photos, *words)
        assert done.exit_code == 2 and message in done.stderr, done.stderr


def test_values_of_twelve_bits_are_not_taken_for_black_without_a_word(made: Made, tmp_path: Path) -> None:
    values = pixels(3, 16, 16)[..., :1]
    (tmp_path / "deep.png").write_bytes(png16(values.astype(np.uint16) * 16, GREY))
    Image.fromarray(values[..., 0]).save(tmp_path / "plain.png")
    done = command(made.folder / "plain.safetensors", tmp_path)
    assert done.exit_code == 0 and "so the network saw them nearly black" in done.stderr and "--bits 12" in done.stderr
    deep, plain = load_model(made.folder / "plain.safetensors").predict(tmp_path, bits=12)
    assert deep.probability == pytest.approx(plain.probability, abs=0.02) and deep.label == plain.label


def test_an_image_of_another_size_is_no_answer(made: Made, tmp_path: Path) -> None:
    for name, side in (("a.png", 16), ("b.png", 24)):
        Image.fromarray(pixels(1, side, side)).save(tmp_path / name)
    plain = made.folder / "plain.safetensors"
    done = command(plain, tmp_path)
    assert done.exit_code == 1 and "passed over: 1 of 2 files" in done.output and f"{tmp_path}/a.png" in done.stdout
    assert "b.png: has 24x24 pixels, and the network was trained on images of 16x16. Say how" in done.stderr
    assert command(plain, tmp_path, "--fit", "crop").exit_code == 0
    model = load_model(plain)
    with pytest.warns(UserWarning, match=r"b\.png: has 24x24"):
        assert len(model.predict(tmp_path)) == 1
    assert len(model.predict(tmp_path, fit="stretch")) == 2
    for images, kind, words in (
        (torch.zeros(2, 3, 16, 16), TypeError, "uint8"),
        (torch.zeros(3, 16, 16, dtype=torch.uint8), ValueError, r"\[B, 3, H, W\].*\[3, 16, 16\]"),
        (torch.zeros(2, 1, 16, 16, dtype=torch.uint8), ValueError, r"\[2, 1, 16, 16\]"),
        (torch.zeros(2, 3, 16, 24, dtype=torch.uint8), ValueError, "of 16x16 pixels, these have 24x16"),
    ):
        with pytest.raises(kind, match=words):
            model(images)
    assert load_model(plain, any_size=True)(torch.zeros(2, 3, 16, 24, dtype=torch.uint8)).shape == (2, 3)
    bare = ImageClassifier(model.network, (120,) * 3, (60,) * 3, CLASSES)
    with pytest.raises(ValueError, match="--size 224"):
        bare.predict(tmp_path)
    assert len(bare.predict(tmp_path, size=16, fit="pad")) == 2
    with pytest.raises(ValueError, match="card says so already: its images have 16x16"):
        model.predict(tmp_path, size=24)


def test_files_folders_patterns_and_lists(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["a/1.png", "a/b/2.PNG", "a/[x].png", "a/.hidden/3.png", "=c.png", "plain"]
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(1, 16, 16)).save(name, "PNG")
    Path("a/notes.txt").write_text("no image")
    Path("a/b/back").symlink_to(tmp_path / "a")
    model = made.folder / "plain.safetensors"

    def read(*words: str, given: str | None = None, code: int = 0) -> list[str]:
        done = command(model, *words, given=None if given is None else given.encode())
        assert done.exit_code == code, done.output
        return [line.split()[0] for line in done.stdout.splitlines()[1:]]

    assert read("a", "plain", "a/1.png") == ["a/1.png", "a/[x].png", "a/b/2.PNG", "plain"]
    assert read("a/[x].png") == ["a/[x].png"] and read("a/[0-9].png", "?c.png") == ["a/1.png", "=c.png"]
    assert read("**/*.[pP][nN][gG]") == ["=c.png", "a/1.png", "a/[x].png", "a/b/2.PNG"]
    assert read("a/.hidden/*", f"{tmp_path}/?c.png") == ["a/.hidden/3.png", f"{tmp_path}/=c.png"]
    twice = command(model, "plain", "./plain", "plain")
    assert len(twice.stdout.splitlines()) == 2 and "given twice, and read once: 2 files" in twice.stderr
    assert read("-", given="a/1.png\r\n\nplain\n") == ["a/1.png", "plain"]
    assert read("-", given="a\0plain\0gone\0", code=1) == ["a/1.png", "a/[x].png", "a/b/2.PNG", "plain"]
    assert (
        "1 .txt" in command(model, "a").stderr and "gone: cannot be read" in command(model, "-", given=b"gone").stderr
    )
    assert command(model, "=c.png", "--out", "o.csv").exit_code == 0
    assert Path("o.csv").read_text().splitlines()[1].startswith("./=c.png,")


def test_broken_files_are_named_and_passed_over(made: Made, tmp_path: Path) -> None:
    Image.fromarray(pixels(1, 16, 16)).save(tmp_path / "good.png")
    shutil.copy(tmp_path / "good.png", tmp_path / "caf\udce9.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    (tmp_path / "empty.jpg").touch()
    out = tmp_path / "o.parquet"
    done = command(made.folder / "plain.safetensors", tmp_path, "--out", out)
    assert done.exit_code == 1 and "cut.png: cannot be decoded" in done.stderr and "(it is empty)" in done.stderr
    assert [Path(path).name for path in pq.read_table(out)["path"].to_pylist()] == ["caf\\xe9.png", "good.png"]
    kept = out.read_bytes()
    done = command(made.folder / "plain.safetensors", tmp_path / "cut.png", "--out", out, "--force")
    assert done.exit_code == 1 and "is not written" in done.stderr and out.read_bytes() == kept


def test_wrong_input_is_named_before_anything_is_done(made: Made, tmp_path: Path) -> None:
    model, photos, there = made.folder / "plain.safetensors", made.folder / "set", tmp_path / "there.csv"
    there.write_text("mine")
    (tmp_path / "empty").mkdir()
    for words, said in (
        ((model, photos, "--out", there), "is there already: give another name, or --force"),
        ((model, photos, "--out", tmp_path / "o.xlsx"), "a table ends with .csv, .json, .parquet, not '.xlsx'"),
        ((model, photos, "--out", tmp_path / "no" / "o.csv"), "there is no folder"),
        ((model, photos, "--out", tmp_path), "not 'without a suffix'"),
        ((model, tmp_path / "gone"), "there is no such file or folder"),
        ((model, tmp_path / "*.png"), "no image fits this pattern"),
        ((model, tmp_path / "empty"), f"{tmp_path}/empty: there is no image to read. Read are .jpg, .png"),
        ((model, "-"), "the list: there is no image to read"),
        ((tmp_path / "gone", photos, "--out", there), "is there already"),
        ((model, photos, "--size", 16, "--classes", "a,b"), "its card says so already: do not give classes, size"),
        ((photos / "test" / "owl" / "0.jpg", model), "is an image, neither"),
        ((model, photos, "--device", "nowhere"), "nowhere"),
        ((there, photos), "neither a file of torch.save nor of safetensors"),
        ((tmp_path / "gone.safetensors", photos), "no such checkpoint"),
    ):
        done = command(*words)
        assert done.exit_code == 2 and said in done.output, done.output
    assert there.read_text() == "mine" and len(list(tmp_path.iterdir())) == 2
    assert command(model, photos, "--fit", "crop", "--out", there, "--force").exit_code == 0
    assert there.read_text().startswith("path,label,probability\n")


HARD = ["plain", 'a "quoted", name', "two\nlines", "semi;colon", " blank ", "", "-1.5", "+", "naïve 鳥"]


def test_tables_give_back_every_name(tmp_path: Path) -> None:
    model, photo = ImageClassifier(network(1, len(HARD)), (120,) * 3, (60,) * 3, HARD), tmp_path / 'a, "b".png'
    save_checkpoint(tmp_path / "m.safetensors", model.network.state_dict(), card(classes=HARD))
    Image.fromarray(pixels(2, 16, 16)).save(photo)
    expected = load_model(tmp_path / "m.safetensors").predict(photo, top=99)[0]
    labels = [expected.label, *(name for name, _ in expected.others)]
    assert sorted(labels) == sorted(HARD)
    readers: dict[str, Callable[[Path], dict[str, Any]]] = {
        "csv": lambda path: next(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline=""))),
        "json": lambda path: json.loads(path.read_text(encoding="utf-8"))[0],
        "parquet": lambda path: pq.read_table(path).to_pylist()[0],
    }
    for kind, reader in readers.items():
        assert command(tmp_path / "m.safetensors", photo, "--top", 99, "--out", tmp_path / f"o.{kind}").exit_code == 0
        row = reader(tmp_path / f"o.{kind}")
        assert row["path"] == str(photo) and len(row) == 1 + 2 * len(HARD)
        assert [row["label" + (f"_{n}" if n > 1 else "")] for n in range(1, 1 + len(HARD))] == labels
        assert float(row["probability_2"]) == pytest.approx(expected.others[0][1], rel=1e-5)


@pytest.mark.parametrize("name", ["=1+1", "@home", "-lion-", "+x", "\tcat", "a\0b", "end\r", "\ud800"])
def test_a_name_that_a_csv_cannot_hold_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutError, match="csv cannot hold the name of the class"):
        check_out(str(tmp_path / "o.csv"), ["cat", name])
    if name != "\ud800":
        check_out(str(tmp_path / "o.json"), ["cat", name])


def test_a_vote_has_no_probability_and_a_soft_vote_has_the_mean(made: Made) -> None:
    photos = made.folder / "set" / "test" / "owl"
    members = [ImageClassifier(network(n), (120,) * 3, (60,) * 3, CLASSES) for n in range(3)]
    options: dict[str, Any] = {"size": 16, "fit": "crop", "bits": 12}
    apart = [member.predict(photos, top=3, **options) for member in members]
    for vote, *own in zip(Ensemble(members).predict(photos, **options), *apart, strict=True):
        assert vote.probability is None and vote.others == () and vote.path == own[0].path
        labels = [one.label for one in own]
        assert vote.label == max(labels, key=labels.count) or len(set(labels)) == 3
    for soft, *own in zip(SoftVote(members).predict(photos, **options), *apart, strict=True):
        chances = [dict([(one.label, one.probability), *one.others])[soft.label] for one in own]
        assert soft.probability == pytest.approx(np.mean(chances), rel=1e-5)
    with pytest.raises(ValueError, match="top must be 1"):
        Ensemble(members).predict(photos, top=2, **options)


@pytest.mark.parametrize("key", ["size", "fit", "background", "bits"])
def test_a_card_that_says_nonsense_is_refused(key: str) -> None:
    wrong: dict[str, list[Any]] = {
        "size": [[16], [0, 16], [16.0, 16], [10**6, 10**6], "16"], "fit": ["fill", 3, []],
        "background": ["green", [0, 0], [0, 0, 256]], "bits": [8, 17, "12", [12]],
    }  # fmt: skip
    check_card(card(fit="pad", background=[1, 2, 3], bits=12), "here")
    for value in wrong[key]:
        with pytest.raises(CheckpointError, match=f"whose {key} is"):
            check_card({**card(), key: value}, "here")


def test_top_and_batch_size_are_checked(made: Made) -> None:
    model = load_model(made.stage)
    for wrong in ({"top": 0}, {"batch_size": 0}, {"size": 0}, {"bits": 8}, {"device": "nowhere"}):
        with pytest.raises(ValueError):
            predict(model, made.folder / "set", **wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no image"):
        predict(model, [])
