"""What makes a set of images useless, and what is left out of it: known before any worker starts."""

import os
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fusiondistill import DataError, config_file, feeding
from fusiondistill.checkpoints import CheckpointError, save_checkpoint
from fusiondistill.config_file import ConfigError
from fusiondistill.data import load_images
from fusiondistill.data.names import escaped
from fusiondistill_runner.cli import main
from fusiondistill_runner.driving.prepared import look_for_data, prepare


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIONDISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def image(path: Path | bytes, seed: int = 0, side: int = 8, value: int | None = None) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    with open(path, "wb") as file:  # noqa: PTH123
        Image.fromarray(pixels if value is None else np.full_like(pixels, value)).save(file, "PNG")


def a_set(root: Path, train: dict[str, int], test: dict[str, int] | None = None, **options) -> Path:
    """Images of random pixels, so many for each class."""
    for split, counts in (("train", train), ("test", train if test is None else test)):
        for name, count in counts.items():
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                image(root / split / name / f"{number}.png", number, **options)
    return root


BASE = "experiment: x\nmethods: [base]\nmodel: {name: cifar_resnet8}\n"


def prepared(root: Path, more: str = BASE, *overrides: str):
    (root / "c.yaml").write_text(f"{more}data: {{name: folder, root: {root}}}\n")
    return prepare(str(root / "c.yaml"), overrides)


def looked_for(root: Path) -> list[str]:
    (root / "c.yaml").write_text(f"{BASE}data: {{name: folder, root: {root}}}\n")
    return look_for_data(config_file.load_points(str(root / "c.yaml"))[1])


def test_validate_decodes_what_lies_at_a_root(tmp_path):
    a_set(tmp_path, {"a": 20, "b": 20})
    (tmp_path / "c.yaml").write_text(f"{BASE}data: {{name: folder, root: {tmp_path}}}\n")
    said = CliRunner().invoke(main, ["validate", str(tmp_path / "c.yaml")])
    assert said.exit_code == 0 and "is valid" in said.output, said.output
    (tmp_path / "train" / "a" / "bad.png").write_bytes(b"no image")
    said = CliRunner().invoke(main, ["validate", str(tmp_path / "c.yaml")])
    assert said.exit_code == 2 and "bad.png" in said.output and "data.broken: skip" in said.output, said.output
    a_set(tmp_path, {"a": 20, "b": 20}, value=7)
    (tmp_path / "train" / "a" / "bad.png").unlink()
    said = CliRunner().invoke(main, ["validate", str(tmp_path / "c.yaml")])
    assert said.exit_code == 2 and "all training images are the same" in said.output, said.output


@pytest.mark.parametrize("source", ["folder", "parquet", "tiny_imagenet", "cifar100", "table"])
@pytest.mark.parametrize("verb", ["validate", "plan"])
def test_a_root_that_is_not_there_is_told_with_its_line(tmp_path, source, verb):
    config = tmp_path / "c.yaml"
    config.write_text(f"{BASE}data:\n  name: {source}\n  root: {tmp_path}/nowhere\n")
    said = CliRunner().invoke(main, [verb, str(config)])
    assert said.exit_code == 2 and f"line 6: data.root: {tmp_path}/nowhere: there is no such" in said.output, (
        said.output
    )
    assert "--set data.root=PATH" in said.output
    said = CliRunner().invoke(main, [verb, str(config), "--set", f"data.root={tmp_path}/no"])
    assert said.exit_code == 2 and f"--set: data.root: {tmp_path}/no: there is no such" in said.output, said.output


def test_a_missing_table_and_a_sweeps_root_are_told_with_their_lines(tmp_path):
    a_set(tmp_path / "set", {"a": 2, "b": 2})
    config = tmp_path / "c.yaml"
    config.write_text(f"{BASE}data: {{name: table, images: {tmp_path}/set,\n  labels: {tmp_path}/no.csv}}\n")
    said = CliRunner().invoke(main, ["validate", str(config)])
    assert said.exit_code == 2 and f"line 5: data.labels: {tmp_path}/no.csv: there is no such" in said.output, (
        said.output
    )
    points = f"[{{data: {{name: digits}}}},\n    {{data: {{name: folder, root: {tmp_path}/no}}}}]"
    config.write_text(f"{BASE}sweep:\n  sets: {points}\n")
    said = CliRunner().invoke(main, ["validate", str(config)])
    assert said.exit_code == 2 and "line 6: sweep.sets.1.data.root: " in said.output, said.output


# --- what is left out -------------------------------------------------------------------------------------------------


def test_what_is_no_image_is_counted_and_said(tmp_path):
    a_set(tmp_path, {"a": 20, "b": 20})
    for name in ("notes.txt", "more.txt", ".hidden.png", "x.heic", "no_suffix", "Thumbs.db"):
        (tmp_path / "train" / "a" / name).touch()
    (tmp_path / "train" / "a" / "thumbs").mkdir()
    (tmp_path / "train" / "README").touch()
    (tmp_path / "train" / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "val").mkdir()
    told = "left out: 9 files or folders (1 .heic, 2 .txt, 1 beside the folders of the classes, "
    told += "1 folder inside a class, 2 hidden, 1 link that leads nowhere, 1 without a suffix)"
    for notes in (looked_for(tmp_path), prepared(tmp_path).notes):
        assert any(told in note for note in notes), notes
        assert any("val: is not used, since it has no folder of a class that holds images" in note for note in notes)


@pytest.mark.parametrize("kind", ["empty", "other files", "folders"])
def test_a_class_without_an_image_is_an_error(kind, tmp_path):
    a_set(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "train" / "c").mkdir()
    if kind == "other files":
        (tmp_path / "train" / "c" / "1.heic").touch()
    if kind == "folders":
        a_set(tmp_path / "train" / "c", {"x": 2})
    with pytest.raises(DataError, match=r"train/c: holds no image for this class \(it holds"):
        looked_for(tmp_path)
    with pytest.raises(DataError, match="train/c"):
        load_images("folder", "train", tmp_path)


def test_a_class_of_one_split_alone(tmp_path):
    a_set(tmp_path, {"a": 20, "b": 20, "c": 20}, {"a": 2, "b": 2})
    assert any("without a test image: 1 of 3 classes: c" in note for note in prepared(tmp_path).notes)
    a_set(tmp_path, {}, {"cow": 1, "Dog": 1})
    with pytest.raises(DataError, match=r"2 classes without a folder under .*: Dog, cow"):
        looked_for(tmp_path)


@pytest.mark.parametrize(
    "suffix, kind", [("tif", "TIFF"), ("TIFF", "TIFF"), ("gif", "GIF"), ("webp", "WEBP"), ("ppm", "PPM")]
)
def test_suffixes(suffix, kind, tmp_path):
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (3, 2), (255, 0, 0)).save(tmp_path / split / name / f"0.{suffix}", kind)
    found = load_images("folder", "train", tmp_path).images
    assert abs(found.double().mean((0, 2, 3)).numpy() - [255, 0, 0]).max() <= 2


def test_broken_images_are_an_error_or_are_named_and_left_out(tmp_path):
    a_set(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "train" / "a" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "train" / "b" / "empty.png").touch()
    with pytest.raises(DataError, match=r"bad\.png.*data\.broken: skip"):
        load_images("folder", "train", tmp_path)
    images = load_images("folder", "train", tmp_path, broken="skip")
    assert len(images) == 6 and images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert any("left out: 2 (" in note and "bad.png" in note and "empty.png" in note for note in images.notes)
    assert any(
        "left out: 2 (" in note for note in load_images("folder", "train", tmp_path, broken="skip").notes
    )  # stored
    assert any(
        "left out: 2 (" in note for note in prepared(tmp_path, BASE, "data.broken=skip", "data.validation=0.4").notes
    )


@pytest.mark.parametrize("background, expected", [("white", 255), ("black", 0), ([1, 2, 3], [1, 2, 3])])
def test_the_background_is_a_setting_with_a_cache_of_its_own(background, expected, tmp_path):
    a_set(tmp_path, {"a": 1, "b": 1})
    Image.new("RGBA", (8, 8), (9, 9, 9, 0)).save(tmp_path / "train" / "a" / "0.png")
    found = [load_images("folder", "train", tmp_path, background=one) for one in ("white", background)]
    assert (found[1].images[0].permute(1, 2, 0).numpy() == expected).all()
    assert (found[0].fingerprint == found[1].fingerprint) == (background == "white")


# --- sets that cannot be learned --------------------------------------------------------------------------------------


def test_images_that_are_all_the_same(tmp_path):
    a_set(tmp_path, {"a": 20, "b": 20}, value=7)
    with pytest.raises(DataError, match=r"all training images are the same.*data\.std: \[1\.0, 1\.0, 1\.0\]"):
        prepared(tmp_path)
    assert prepared(tmp_path, BASE, "data.mean=[7,7,7]", "data.std=[1,1,1]").plan.stages


def test_a_channel_that_is_the_same_everywhere(tmp_path):
    a_set(tmp_path, {"a": 20, "b": 20})
    for path in tmp_path.rglob("*.png"):
        pixels = np.array(Image.open(path))
        pixels[..., 2] = 9
        Image.fromarray(pixels).save(path)
    with pytest.raises(DataError, match="blue is the same everywhere"):
        prepared(tmp_path)


@pytest.mark.parametrize(
    "train, words",
    [({"a": 9}, "are of one class, 'a'"), ({f"c{i:02}": 1 for i in range(60)}, "each class has one image")],
)
def test_too_little_to_learn_or_to_validate_on(train, words, tmp_path):
    with pytest.raises(DataError, match=words):
        prepared(a_set(tmp_path, train))


def test_nothing_is_held_out_of_classes_of_one_image(tmp_path):
    a_set(tmp_path, {f"c{i:02}": 1 for i in range(60)})
    assert prepared(tmp_path, BASE, "data.validation=0", "select=last").plan.stages


@pytest.mark.parametrize("count, size, fails", [(9, 8, True), (10, 8, False), (9, 3, False), (9, 9, False)])
def test_a_last_batch_of_one_image(count, size, fails, tmp_path):
    a_set(tmp_path, {"a": count - 4, "b": 4}, side=32)
    told = ("data.validation=0", "select=last", f"base.batch_size={size}")
    assert prepared(tmp_path, BASE, *told).plan.stages  # this network has more values than one a channel
    if fails:
        with pytest.raises(DataError, match=r"batch of one image cannot train resnet18.*base: batches of"):
            prepared(tmp_path, BASE, *told, "model.name=resnet18")
    else:
        assert prepared(tmp_path, BASE, *told, "model.name=resnet18").plan.stages


def test_a_batch_that_holds_all_images_is_said(tmp_path):
    a_set(tmp_path, {"a": 20, "b": 20})
    assert any("its batch of 128 holds all 36 training images" in note for note in prepared(tmp_path).notes)


def test_few_validation_images_are_said(tmp_path):
    told = r"few validation images (4): each is 25.0 points of the accuracy by which epochs and networks are chosen"
    a_set(tmp_path, {"a": 20, "b": 20})
    assert told in prepared(tmp_path).notes
    assert not any("few validation" in note for note in prepared(tmp_path, BASE, "protocol=paper").notes)
    a_set(tmp_path, {}, {})
    for number in range(3):
        for name in "ab":
            (tmp_path / "val" / name).mkdir(parents=True, exist_ok=True)
            image(tmp_path / "val" / name / f"{number}.png", 50 + number)
    assert any(note.startswith("few validation images (6): each is 16.7") for note in prepared(tmp_path).notes)


def test_class_weights_are_those_of_the_classes(tmp_path):
    a_set(tmp_path, {"a": 30, "b": 10})
    for given in ("class_weights: {a: 2}", "class_weights: [1, 3]", "class_weights: balanced"):
        assert prepared(tmp_path, f"{BASE}base: {{{given}}}\n").plan.stages
    for given, words in (
        ("{cow: 2}", "line 4: base.class_weights.cow: no class 'cow'; there are a, b"),
        ("[1]", "line 4: base.class_weights: 1 weight for 2"),
    ):
        with pytest.raises(ConfigError, match=words):
            prepared(tmp_path, f"{BASE}base: {{class_weights: {given}}}\n")
        with pytest.raises(ConfigError, match=r"line 4: search\.space\.class_weights.*: " + words.split(": ")[-1]):
            more = f"search: {{of: base, space: {{class_weights: {{choice: [none, {given}]}}}}}}\n"
            prepared(tmp_path, BASE + more)


@pytest.mark.parametrize("form", ["{choice: [9, 12]}", "{grid: [9, 12]}", "{integers: [9, 12]}"])
def test_a_searched_batch_size_may_leave_one_image(form, tmp_path):
    a_set(tmp_path, {"a": 15, "b": 15}, side=32)  # 27 are trained on: 13 leaves one
    told = f"search: {{of: base, trials: 30, space: {{batch_size: {form}}}}}\n"
    prepared(tmp_path, BASE + told, "model.name=resnet18", "base.batch_size=9")
    with pytest.raises(DataError, match="batches of 13 images leave one of 27"):
        prepared(tmp_path, BASE + told.replace("12]", "13]"), "model.name=resnet18", "base.batch_size=9")


def test_images_that_do_not_fit_the_memory_are_said(tmp_path, monkeypatch):
    a_set(tmp_path, {"a": 20, "b": 20})
    assert not any("read ahead" in note for note in prepared(tmp_path).notes)
    monkeypatch.setattr(feeding, "SHARE", 1e-9)
    assert any("the 40 training images take 0.0 GB" in note for note in prepared(tmp_path).notes)


def test_checkpoints_of_other_classes_are_named_in_the_plan(tmp_path):
    from fusiondistill import build_model

    a_set(tmp_path, {"a": 20, "b": 20})
    card = {"model": "cifar_resnet8", "mean": [0.0] * 3, "std": [1.0] * 3, "feature_layer": None, "parameters": {}}
    weights = build_model("cifar_resnet8", 2).state_dict()
    for classes, words in ((["b", "a"], None), (["a", "cow"], "has 'cow' and lacks 'b'")):
        save_checkpoint(tmp_path / "model", weights, {**card, "classes": classes})
        more = f"{BASE}base: {{checkpoint: {tmp_path / 'model'}}}\n"
        if words:
            with pytest.raises(CheckpointError, match=words):
                prepared(tmp_path, more)
        else:
            assert any("matched by their names" in note for note in prepared(tmp_path, more).notes)


# --- names that are not UTF-8 -----------------------------------------------------------------------------------------


@pytest.mark.skipif(os.uname().sysname == "Darwin", reason="its file systems have no such names")
def test_names_that_are_not_utf8_are_written_with_their_bytes(tmp_path):
    folder = os.fsencode(tmp_path)
    for split in (b"train", b"test"):
        for name in (b"caf\xe9", b"dog\n"):
            (tmp_path / os.fsdecode(split) / os.fsdecode(name)).mkdir(parents=True)
            for number in range(20):
                image(folder + b"/" + split + b"/" + name + b"/im\xff%d.png" % number, number)
    images = load_images("folder", "train", tmp_path)
    assert images.classes == ["caf\\xe9", "dog\\x0a"] and len(images) == 40
    with open(folder + b"/train/caf\xe9/bad\xff.png", "wb"):  # noqa: PTH123
        pass
    notes = load_images("folder", "train", tmp_path, broken="skip").notes
    assert any("bad\\xff.png" in note for note in notes)
    with pytest.raises(DataError, match="bad") as error:
        load_images("folder", "train", tmp_path)
    assert str(error.value).encode()
    for text in (*notes, *images.classes):
        text.encode()


@pytest.mark.parametrize(
    "name, text", [("\udce9", "\\xe9"), ("\ud800", "\\ud800"), ("a\x1b[1m", "a\\x1b[1m"), ("né", "né")]
)
def test_printable(name, text):
    assert escaped(name) == text


# --- checkpoints that do not fit, folders without splits --------------------------------------------------------------


def test_a_checkpoint_that_does_not_fit_is_told_by_the_plan(tmp_path):
    import torch

    from fusiondistill import build_model

    root, states = a_set(tmp_path / "set", {"a": 30, "b": 30}), {}
    for name, network, classes in (
        ("good", "cifar_resnet8", 2), ("classes", "cifar_resnet8", 3), ("deep", "cifar_resnet14", 2)
    ):  # fmt: skip
        states[name] = build_model(network, classes).state_dict()
    states["lacks"] = {key: value for key, value in states["good"].items() if key != "head.bias"}
    for name, state in states.items():
        torch.save(state, tmp_path / f"{name}.pt")
    for name, said in (
        ("classes", r"head\.weight has shape"), ("deep", "stage1.1.conv1.weight is not expected"),
        ("lacks", r"head\.bias is missing"),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=rf"{name}\.pt does not fit cifar_resnet8: .*{said}"):
            prepared(root, BASE, f"base.checkpoint={tmp_path / name}.pt")
    with pytest.raises(CheckpointError, match=r"good\.pt does not say by which mean and std"):
        prepared(root, BASE, f"base.checkpoint={tmp_path / 'good.pt'}")
    given = (f"base.checkpoint={tmp_path / 'good.pt'}", "data.mean=[127, 127, 127]", "data.std=[60, 60, 60]")
    assert prepared(root, BASE, *given).plan.stages


def test_folders_that_are_laid_out_otherwise_are_told_with_what_to_do(tmp_path):
    a_set(tmp_path / "other", {"a": 1, "b": 1})
    for split, name in (("train", "learn"), ("test", "prove")):
        (tmp_path / "other" / split).rename(tmp_path / "other" / name)
    with pytest.raises(DataError, match=r"holds learn .*2 images in these.*, prove"):
        load_images("folder", "train", tmp_path / "other")
    a_set(tmp_path / "nested", {"a": 1, "b/images": 1})
    with pytest.raises(DataError, match=r"train/b: holds no image.*Move the images up"):
        load_images("folder", "train", tmp_path / "nested")
    a_set(tmp_path / "val", {"a": 1, "b": 1})
    (tmp_path / "val" / "test").rename(tmp_path / "val" / "dev")
    assert "dev is used as the test split" in load_images("folder", "test", tmp_path / "val").notes[0]


def test_two_names_that_are_one_text_are_refused(tmp_path):
    a_set(tmp_path, {"a": 1, "x\\xe9": 1})
    folder = os.fsencode(tmp_path) + b"/train/x\xe9"
    try:
        os.mkdir(folder)  # noqa: PTH102
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    image(folder + b"/0.png")
    with pytest.raises(DataError, match="the same text in two encodings"):
        load_images("folder", "train", tmp_path)


# --- on the command line ----------------------------------------------------------------------------------------------


def test_verbs_say_what_is_left_out_and_end_with_2(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from fusiondistill_runner.cli import main

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # put back afterwards
    monkeypatch.setattr(sys, "argv", ["fusiondistill"])
    config = tmp_path / "c.yaml"
    config.write_text(f"{BASE}data: {{name: folder, root: {a_set(tmp_path / 'set', {'a': 20, 'b': 20})}}}\n")
    (tmp_path / "set" / "train" / "a" / "x.heic").touch()
    for verb in ("validate", "plan"):
        done = CliRunner().invoke(main, [verb, str(config)])
        assert done.exit_code == 0 and "note: " in done.output and "1 .heic" in done.output, done.output
    (tmp_path / "set" / "train" / "c").mkdir()
    for verb in ("validate", "plan", "run"):
        done = CliRunner().invoke(main, [verb, str(config)])
        assert done.exit_code == 2 and "train/c: holds no image" in done.output, done.output
    monkeypatch.setattr(sys, "argv", ["fusiondistill", "plan", "caf\udce9.yaml"])
    done = CliRunner().invoke(main, ["plan", str(config)])
    assert done.exit_code == 2 and "caf\\xe9.yaml is not UTF-8" in done.output
    assert not (tmp_path / "runs").exists()
