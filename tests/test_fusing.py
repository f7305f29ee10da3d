"""Fusing checkpoints of any program by `fusiondistill fuse`, and what it measures, against numpy."""

from __future__ import annotations

import doctest
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file, save_file

from fusiondistill import build_model, fusing, load_checkpoint, load_images, load_model, merge, save_checkpoint
from fusiondistill.batches import as_in_training
from fusiondistill.cards import card_of
from fusiondistill.commits import sealed
from fusiondistill.data import ImageSet
from fusiondistill.degradation_config import DegradationConfig, as_degradation
from fusiondistill.fusing import Ingredient, fuse, ingredients, measures
from fusiondistill.fusing.material import Material
from fusiondistill.merging import At
from fusiondistill.recalibration import recalibrate_batchnorm
from fusiondistill.recipe import Augmentation
from fusiondistill.state_dicts import average
from fusiondistill_runner.cli import main
from toy_network import toy

State = dict[str, torch.Tensor]


def call(*words: object) -> Result:
    return CliRunner().invoke(main, ["fuse", *map(str, words)])


def refused(*words: object) -> str:
    """The message of a call that is wrong; nothing is written."""
    done = call(*words)
    assert done.exit_code == 2, done.output
    out = [Path(str(words[i + 1])) for i, word in enumerate(words[:-1]) if word == "--out"]
    assert not any(path.suffix == ".safetensors" and path.is_file() and path.stat().st_size > 10 for path in out)
    return " ".join(done.output.split())


def foreign(seed: int) -> State:
    """A state dict of some other program: its names, a counter, a table of whole numbers, several norms."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "stem.weight": (4, 3, 3, 3), "bn.weight": (4,), "bn.bias": (4,), "bn.running_mean": (4,),
        "bn.running_var": (4,), "ln.weight": (4,), "block.0.fc.weight": (5, 4), "temperature": (),
    }  # fmt: skip
    state = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    return {**state, "bn.num_batches_tracked": torch.tensor(seed + 5), "index": torch.arange(3)}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A base and three networks, each saved as another program does."""
    states = {name: foreign(seed) for seed, name in enumerate(("base", "a", "b", "c"))}
    places = {"base": "base.pt", "a": "a.safetensors", "b": "b.pth", "c": "c.ckpt"}
    found = {name: tmp_path / place for name, place in places.items()}
    torch.save(states["base"], found["base"])
    save_file(states["a"], found["a"])
    torch.save({f"module.{key}": tensor for key, tensor in states["b"].items()}, found["b"])
    torch.save({"epoch": 3, "state_dict": {f"model.{k}": t for k, t in states["c"].items()}}, found["c"])
    return found


WITHOUT_DATA: dict[str, list[str]] = {
    "average": [], "median": [], "linear": ["weights=[1, 2, 5]"], "ties": ["density=0.5", "scale=0.7"],
    "task_arithmetic": ["scale=0.2"], "wise_ft": ["alpha=0.25"], "model_stock": [],
    "dare": ["drop=0.5"], "iso_c": [],
}  # fmt: skip


@pytest.mark.parametrize("method", WITHOUT_DATA)
def test_state_dicts_of_any_program_are_fused_without_data(method: str, files: dict[str, Path], tmp_path: Path) -> None:
    given = [word for text in WITHOUT_DATA[method] for word in ("--set", text)]
    out = tmp_path / "fused.safetensors"
    done = call(files["a"], files["b"], files["c"], "--base", files["base"], "--method", method, *given, "--out", out)
    assert done.exit_code == 0, done.output
    base, *states = (foreign(seed) for seed in range(4))
    parameters: Any = dict(text.split("=") for text in WITHOUT_DATA[method])
    parameters = {key: [1, 2, 5] if key == "weights" else float(text) for key, text in parameters.items()}
    expected = merge(states, method, at=At(base=base, names="abc", seed=0), **parameters)
    found = load_file(out)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert found["bn.num_batches_tracked"] == 6 and found["index"].tolist() == [0, 1, 2]
    assert torch.equal(found["bn.running_var"], average(states)["bn.running_var"])
    assert "recomputed ones may fit better" in done.output and "read without 'module.'" in done.output


def test_distances_and_cosines_are_numpys(files: dict[str, Path], tmp_path: Path) -> None:
    done = call(files["a"], files["b"], files["c"], "--base", files["base"], "--method", "average", "--out",
                tmp_path / "o.pt")  # fmt: skip
    assert done.exit_code == 0, done.output
    keys = [key for key in foreign(0) if "running" not in key and key not in ("bn.num_batches_tracked", "index")]
    base, *states = (np.concatenate([foreign(s)[k].double().numpy().ravel() for k in keys]) for s in range(4))
    lines = done.output.splitlines()
    for name, state in zip("abc", states, strict=True):
        expected = np.linalg.norm(state - base) / np.linalg.norm(base)
        assert f"  {name}    {expected:.4f}" in [re.sub(r" +", "    ", line).replace("    ", "  ", 1) for line in lines]
    for (one, a), (other, b) in itertools.combinations(zip("abc", states, strict=True), 2):
        distance = 2 * np.linalg.norm(a - b) / (np.linalg.norm(a) + np.linalg.norm(b))
        cosine = (a - base) @ (b - base) / np.linalg.norm(a - base) / np.linalg.norm(b - base)
        assert [f"{one}", "-", f"{other}", f"{distance:.4f}", f"{cosine:.3f}"] in [line.split() for line in lines]
    assert torch.load(tmp_path / "o.pt", weights_only=True).keys() == foreign(0).keys()


def test_what_is_wrong_is_named_before_any_work(files: dict[str, Path], tmp_path: Path) -> None:
    a, b, out = files["a"], files["b"], tmp_path / "out.safetensors"
    two = (a, b, "--out", out, "--method")
    assert "no merging method 'avrage'; did you mean 'average'?" in refused(*two, "avrage")
    assert "task_arithmetic needs --base FILE" in refused(*two, "task_arithmetic")
    assert "greedy_soup needs --data NAME: images with labels, which choose" in refused(*two, "greedy_soup")
    assert "fisher needs --data NAME: images with labels" in refused(*two, "fisher")
    listed = refused(*two, "wise_ft", "--base", files["base"], "--set", "alpha=[0.1, 0.2]")
    assert "wise_ft needs --data NAME: images with labels, which choose" in listed
    assert "parameter alpha of the merging method 'wise_ft': input should be less" in refused(
        *two, "wise_ft", "--base", files["base"], "--set", "alpha=2"
    )
    assert "no parameter 'denisty'; did you mean 'density'?" in refused(
        *two, "ties", "--base", files["base"], "--set", "denisty=1"
    )
    assert "--set density: write KEY=VALUE" in refused(*two, "ties", "--base", files["base"], "--set", "density")
    assert "3 weights for 2 experts: a, b" in refused(*two, "linear", "--set", "weights=[1, 2, 3]")
    for text, said in {
        "weights=[1, -1]": "parameter weights of the merging method 'linear': must have a sum above 0, got [1.0, -1.0]",
        "weights=[1, -0.9999]": "must not cancel: their sum is 0.0001",
        "weights=[1, .nan]": "parameter weights.1 of the merging method 'linear': input should be a finite number",
        "weights=2": "input should be a list, not 2",
        "weights={a: 1, b: x}": "parameter weights.b of the merging method 'linear': input should be a number, not 'x'",
        "weights={a: 1, d: 2}": "weights are for a, d; there must be one for each of a, b",
    }.items():
        assert said in refused(*two, "linear", "--set", text)
    assert "the merging method 'linear' needs weights: a number for each expert" in refused(*two, "linear")
    for text in ("ridge=0", "off_diagonal=1", "off_diagonal=[0.5, 1]"):
        assert f"parameter {text.partition('=')[0]}" in refused(*two, "regmean", "--data", "digits", "--set", text)
    for words in (("--recalibrate", "mixed"), ("--model", "resnet18"), ("--degradation", "blur")):
        assert f"{words[0]} is about images: give --data NAME, or --photos" in refused(*two, "average", *words)
    assert f"{a} is given twice" in refused(a, a, "--method", "average", "--out", out)
    assert "no degradation 'jpg'; did you mean 'jpeg'?" in refused(f"jpg={a}", b, "--method", "average", "--out", out)
    assert "no degradation 'blurr'; did you mean 'blur'" in refused(
        *two, "average", "--degradation", "blurr", "--data", "digits"
    )
    assert "there is no folder" in refused(a, b, "--method", "average", "--out", tmp_path / "no" / "o.safetensors")
    assert "must end with .safetensors" in refused(a, b, "--method", "average", "--out", tmp_path / "o.txt")
    assert "no such file" in refused(a, tmp_path / "none.pt", "--method", "average", "--out", out).lower()
    out.write_text("kept")
    assert "is there already" in refused(*two, "average") and out.read_text() == "kept"
    assert "which is fused" in refused(b, a, "--method", "average", "--out", b, "--force")
    assert call(*two, "average", "--force").exit_code == 0


def test_ingredients_that_do_not_go_together_are_named(files: dict[str, Path], tmp_path: Path) -> None:
    a, out = files["a"], tmp_path / "out.safetensors"

    def other(name: str, **changed: torch.Tensor | None) -> Path:
        state = {**foreign(7), **{key.replace("__", "."): one for key, one in changed.items()}}
        path = tmp_path / f"{name}.pt"
        torch.save({key: one for key, one in state.items() if one is not None}, path)
        return path

    wide, less = other("wide", block__0__fc__weight=torch.ones(6, 4)), other("less", ln__weight=None)
    assert f"{wide} is another architecture than {a}: block.0.fc.weight has shape (6, 4) instead of (5, 4)" in refused(
        a, wide, "--method", "average", "--out", out
    )
    assert f"{less} is another architecture than {a}: ln.weight is missing" in refused(
        a, less, "--method", "average", "--out", out
    )
    assert f"{wide} is another" in refused(a, "--base", wide, "--method", "task_arithmetic", "--out", out)
    sick = other("sick", ln__weight=torch.full((4,), torch.nan))
    assert f"{sick} has values that are not finite in ln.weight" in refused(
        a, sick, "--method", "average", "--out", out
    )
    for name, tensor, said in (
        ("low", torch.arange(3, dtype=torch.int8), "differ in index, which holds int64 and int8 numbers"),
        ("turned", torch.tensor([0, 2, 1]), "differ in index, which holds int64 numbers"),
    ):
        assert said in refused(a, other(name, index=tensor), "--method", "average", "--out", out)
    below = other("below", bn__running_var=-foreign(7)["bn.running_var"])
    assert f"{below} has variances below 0 in bn.running_var" in refused(a, below, "--method", "average", "--out", out)
    none = tmp_path / "none.pt"
    torch.save({key: torch.zeros_like(one) for key, one in foreign(7).items()}, none)
    assert f"{none} has no weight but 0" in refused(a, "--base", none, "--method", "wise_ft", "--out", out)
    torch.save(foreign(1), tmp_path / "copy.pt")
    assert "hold the same weights" in refused(a, tmp_path / "copy.pt", "--method", "average", "--out", out)
    same = refused(a, "--base", tmp_path / "copy.pt", "--method", "task_arithmetic", "--out", out)
    assert f"the base {tmp_path / 'copy.pt'} and {a} hold the same weights" in same
    old = other("old", bn__num_batches_tracked=None)  # as torch wrote it before the counter was there
    assert call(a, old, "--method", "average", "--out", out).exit_code == 0


# With images.


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load_images("digits", "train").take(120)


def card() -> dict[str, Any]:
    images = load_images("digits", "train")
    return card_of("cifar_resnet8", None, classes=list(images.classes), mean=images.mean, std=images.std,
                   size=(16, 16), dataset="digits")  # fmt: skip


def networks(count: int) -> list[State]:
    torch.manual_seed(0)
    base = build_model("cifar_resnet8", 10).state_dict()
    found = [base]
    for _ in range(count):
        moved = {k: t + 0.05 * torch.randn(t.shape) if t.is_floating_point() else t for k, t in base.items()}
        found.append({k: t.abs() + 0.5 if k.endswith("running_var") else t for k, t in moved.items()})
    return found


def test_what_is_measured_is_what_a_second_way_of_computing_it_gives(digits: ImageSet) -> None:
    base, *states = networks(2)
    training, validation = digits.take(20), digits.take(30)
    noisy = DegradationConfig.model_validate("saltpepper")
    material = Material(card(), training, validation, [noisy], ("clean", "saltpepper"), "mixed", 0, torch.device("cpu"))
    given = [
        Ingredient("one", "1", "clean", states[0], card()),
        Ingredient("two", "2", "saltpepper", states[1], card()),
    ]
    found = fuse(given, "linear", {"weights": {"one": 1, "two": 3}}, base=Ingredient("base", "b", state=base),
                 material=material)  # fmt: skip
    views = {
        task: [torch.cat(parts) for parts in zip(*material.batches(validation, task), strict=True)]
        for task in ("clean", "saltpepper")
    }
    pixels, labels = validation.gather(torch.arange(len(validation)))
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (validation.mean, validation.std))
    torch.testing.assert_close(views["clean"][0], (pixels - mean) / std)
    assert torch.equal(views["clean"][1], labels) and not torch.equal(views["saltpepper"][0], views["clean"][0])

    def network(state: State, sample: int) -> torch.nn.Module:
        model = build_model("cifar_resnet8", 10)
        model.load_state_dict(state)
        few = training.take(sample)
        batches = [torch.cat([x for x, _ in (next(iter(material.batches(few, t))) for t in ("clean", "saltpepper"))])]
        return recalibrate_batchnorm(model, batches).eval()

    @torch.no_grad()
    def right(model: torch.nn.Module) -> dict[str, float]:
        return {t: float((model(x).argmax(1) == y).double().mean()) for t, (x, y) in views.items()}

    @torch.no_grad()
    def loss(state: State) -> float:
        model = network(state, 20)
        losses = [float(torch.nn.functional.cross_entropy(model(x), y)) for x, y in views.values()]
        return sum(losses) / 2

    merged = network(average(states, [1, 3]), 20)
    assert found.merged is not None and dict(found.merged.accuracy) == pytest.approx(right(merged))
    assert all(torch.allclose(found.state[k], t, atol=1e-5) for k, t in merged.state_dict().items())
    alone = [build_model("cifar_resnet8", 10) for _ in states]
    for model, state, name in zip(alone, states, ("one", "two"), strict=True):
        model.load_state_dict(state)
        assert dict(found.alone[name].accuracy) == pytest.approx(right(model.eval()))
    left = {name: network(state, 20) for name, state in zip(("two", "one"), states, strict=True)}
    for name, model in left.items():
        gain = sum(right(merged).values()) / 2 - sum(right(model).values()) / 2
        assert found.gains[name] == pytest.approx(gain)
    own = [right(model)[task] for model, task in zip(alone, ("clean", "saltpepper"), strict=True)]
    of_merged = [right(merged)[task] for task in ("clean", "saltpepper")]
    assert [one.own for one in found.kept] == own and [one.merged for one in found.kept] == of_merged
    ends = [loss(state) for state in states]
    over = [loss(average(states, [1 - a, a])) - (1 - a) * ends[0] - a * ends[1] for a in measures.ALPHAS]
    assert found.pairs[0].barrier == pytest.approx(max(over), abs=1e-4)


BY_IMAGES = {
    "task_arithmetic": "scale=[0.2, 0.5]", "greedy_soup": "", "regmean": "examples=20", "lines": "",
}  # fmt: skip


@pytest.mark.parametrize("method", BY_IMAGES)
def test_the_verb_fuses_by_images_into_a_file_that_others_read(method: str, tmp_path: Path) -> None:
    base, *states = networks(2)
    save_checkpoint(tmp_path / "base.safetensors", base, card())
    save_checkpoint(tmp_path / "stage", states[0], card())  # a folder with a manifest
    torch.save(states[1], tmp_path / "bare.pt")
    out = tmp_path / "fused.safetensors"
    given = ("--set", BY_IMAGES[method]) if BY_IMAGES[method] else ()
    done = call(f"jpeg={tmp_path / 'stage'}", tmp_path / "bare.pt", "--base", tmp_path / "base.safetensors", "--method",
                method, "--data", "digits", "--images", 30, *given, "--out", out)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert load_checkpoint(out)[1] == card()
    assert load_model(out)(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape == (2, 10)
    for said in ("30 to judge by (10 % of the training images, held out by seed 0", "barrier",
                 "left out", "kept of each expert's accuracy", "jpeg, on jpeg", "written: "):  # fmt: skip
        assert said in done.output
    assert ("chosen: " in done.output) == (method in ("task_arithmetic", "greedy_soup"))


def test_files_without_a_card_say_what_they_need(tmp_path: Path) -> None:
    one, other = tmp_path / "one.pt", tmp_path / "two.pt"
    for path, seed in ((one, 1), (other, 2)):
        torch.save(toy(seed).state_dict(), path)
    out = tmp_path / "out.safetensors"
    words = (one, other, "--method", "average", "--data", "digits", "--images", 30, "--out", out)
    assert f"{one} carries no card: say which network it is, by --model NAME" in refused(*words)
    assert "does not fit cifar_resnet8" in refused(*words, "--model", "cifar_resnet8")
    _, *states = networks(2)
    for path, state in zip((one, other), states, strict=True):
        torch.save(state, path)
    done = call(*words, "--no-measure")
    assert done.exit_code == 0 and "normalised as digits is" in done.output and "barrier" not in done.output
    assert load_model(out).classes == tuple(load_images("digits", "train").classes)
    changed = {**card(), "mean": [1.0, 2.0, 3.0]}
    save_checkpoint(tmp_path / "p.safetensors", states[0], card())
    save_checkpoint(tmp_path / "q.safetensors", states[1], changed)
    pair = (tmp_path / "p.safetensors", tmp_path / "q.safetensors", "--method", "average", "--force", "--out", out)
    done = call(*pair)
    assert done.exit_code == 0 and "differ in mean" in done.output and load_checkpoint(out)[1] == {}
    out.unlink()
    for key, value, said in (
        ("classes", list("abcdefghij"), "the first that differ are 'a' and"), ("size", [32, 32], "of 32x32 pixels"),
    ):  # fmt: skip
        save_checkpoint(tmp_path / "r.safetensors", states[0], {**card(), key: value})
        assert said in refused(tmp_path / "r.safetensors", "--method", "average", "--data", "digits", "--out", out)
    assert "differ in mean: they are no networks of one kind" in refused(*pair, "--data", "digits", "--images", 30)


def photos(folder: Path, count: int = 24) -> torch.Tensor:
    """Files without labels in a folder and one below it, and one that is no image; uint8 [N,3,16,16] in their order."""
    images = load_images("digits", "train").take(count).images
    for place, image in enumerate(images):
        path = folder / ("more" if place >= 20 else "") / f"{place:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    (folder / "zz.jpg").write_text("no image")
    return images


@pytest.mark.parametrize("method", ["average", "adamerging", "regmean", "fisher"])
def test_images_without_labels_are_enough_for_statistics_and_for_methods_that_ask_for_none(
    method: str, tmp_path: Path
) -> None:
    base, *states = networks(2)
    for name, state in (("base", base), ("jpeg", states[0]), ("clean", states[1])):
        save_checkpoint(tmp_path / f"{name}.safetensors", state, card())
    pixels, out = photos(tmp_path / "photos"), tmp_path / "fused.safetensors"
    own = ("--set", "labels=own") if method == "fisher" else ()
    done = call(
        *(f"{name}={tmp_path / name}.safetensors" for name in ("jpeg", "clean")), "--base",
        tmp_path / "base.safetensors", "--method", method, *own, "--photos", tmp_path / "photos", "--out", out,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert (
        "24 images without labels, each seen as clean, jpeg; for statistics whole (--crop-padding and --cutout say"
        in done.output
    )
    assert "passed over: " in done.output and "zz.jpg" in done.output and "right on held-out" not in done.output
    if method == "average":
        images = ImageSet("mine", pixels, torch.zeros(24, dtype=torch.int64), card()["classes"])
        images = images.normalised_by(card()["mean"], card()["std"])
        seen = Material(card(), images, None, [DegradationConfig.model_validate("jpeg")], ("clean", "jpeg"), "mixed", 0,
                        torch.device("cpu"))  # fmt: skip
        network = recalibrate_batchnorm(seen.network(average(states)), [*seen.mixed(images)])
        for name, tensor in load_checkpoint(out)[0].items():
            torch.testing.assert_close(tensor, network.state_dict()[name], msg=name)


@pytest.mark.parametrize("known", ["by the stages", "by the caller", "by both", "by one stage"])
def test_statistics_belong_to_images_as_training_showed_them(known: str, tmp_path: Path) -> None:
    _, *states = networks(2)
    recipe = {
        "crop_padding": 2,
        "cutout": 6,
        "resized_crop": None,
        "resized_crop_ratio": [0.75, 4 / 3],
        "largest_cutout": None,
    }
    for name, state in zip(("jpeg", "blur"), states, strict=True):
        stage = tmp_path / name
        save_checkpoint(stage, state, card())
        manifest = json.loads((stage / "manifest.json").read_text())
        if known == "by the stages" or (known == "by one stage" and name == "jpeg"):
            manifest["recipe"] = recipe
        elif known == "by both":
            manifest["recipe"] = {**recipe, "cutout": 3}
        del manifest["seal"]
        (stage / "manifest.json").write_bytes(sealed(manifest))
    pixels, out = photos(tmp_path / "photos"), tmp_path / "fused.safetensors"
    own: tuple[object, ...] = {"by the caller": ("--crop-padding", 2, "--cutout", 6), "by both": ("--cutout", 6)}.get(
        known, ()
    )
    done = call(*(f"{name}={tmp_path / name}" for name in ("jpeg", "blur")), "--method", "average", "--photos",
                tmp_path / "photos", *own, "--out", out)  # fmt: skip
    assert (
        done.exit_code == 0
        and "for statistics cropped with a padding of 2 and covered by a hole of 6 pixels" in done.output
    ), done.output
    images = ImageSet("mine", pixels, torch.zeros(24, dtype=torch.int64), card()["classes"])
    images = images.normalised_by(card()["mean"], card()["std"])
    views = [
        torch.cat([*as_in_training(images, [as_degradation(name)], Augmentation(**recipe), seed=0, protocol="standard",
                                   device=torch.device("cpu"), batch_size=128)])
        for name in ("jpeg", "blur")
    ]  # fmt: skip
    model = build_model("cifar_resnet8", 10)
    model.load_state_dict(average(states))
    recalibrate_batchnorm(model, [torch.cat(views)])
    for name, tensor in load_checkpoint(out)[0].items():
        torch.testing.assert_close(tensor, model.state_dict()[name], msg=name)


def test_what_images_without_labels_cannot_do_is_said_before_any_work(tmp_path: Path) -> None:
    _, *states = networks(2)
    two = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for path, state in zip(two, states, strict=True):
        save_checkpoint(path, state, card())
    photos(tmp_path / "photos", 2)
    (tmp_path / "none").mkdir()
    mine, out = ("--photos", tmp_path / "photos"), ("--out", tmp_path / "out.safetensors")
    wrong: dict[str, tuple[object, ...]] = {
        "fisher needs --data NAME: images with labels": (*mine, "--method", "fisher"),
        "greedy_soup needs --data NAME: images with labels": (*mine, "--method", "greedy_soup"),
        "--photos stands in place of --data": (*mine, "--data", "digits", "--method", "average"),
        "--recalibrate best needs labels": (*mine, "--recalibrate", "best", "--method", "average"),
        "--set data.test=0.2: is about a data set": (*mine, "--set", "data.test=0.2", "--method", "average"),
        "no image": ("--photos", tmp_path / "none", "--method", "average"),
        "--size is about images: give --data NAME, or --photos": ("--size", 16, "--method", "average"),
    }
    for said, words in wrong.items():
        assert said in refused(*two, *words, *out), said
    assert "merges several networks, and there is one" in refused(two[0], "--method", "median", *out)


def test_files_with_and_without_a_card_go_together_in_any_order(tmp_path: Path) -> None:
    _, *states = networks(2)
    save_checkpoint(tmp_path / "a.safetensors", states[0], card())
    torch.save(states[1], tmp_path / "b.pt")
    photos(tmp_path / "photos", 4)
    out = tmp_path / "out.safetensors"
    mine = ("--method", "average", "--photos", tmp_path / "photos", "--force", "--out", out)
    for two in (("a.safetensors", "b.pt"), ("b.pt", "a.safetensors")):
        done = call(*(tmp_path / name for name in two), *mine)
        assert done.exit_code == 0 and load_checkpoint(out)[1] == card(), done.output
    torch.save(states[0], tmp_path / "a.pt")
    two = (tmp_path / "a.pt", tmp_path / "b.pt")
    told = ("--model", "cifar_resnet8", "--mean", "100,100,100", "--std", 50, "--size", 16)
    assert "it does not say its mean, std" in refused(
        *two, *mine[:-2], "--model", "cifar_resnet8", "--out", tmp_path / "n.safetensors"
    )
    done = call(*two, *mine, *told, "--classes", "a,b,c,d,e,f,g,h,i,j")
    assert done.exit_code == 0 and load_model(out).classes == tuple("abcdefghij"), done.output


@pytest.mark.parametrize(
    ("changed", "noted"), [({}, False), ({"train_images": 100}, True), ({"holdout_seed": 1}, True)]
)
def test_stages_that_may_know_the_images_that_judge_are_named(
    changed: dict[str, Any], noted: bool, tmp_path: Path
) -> None:
    _, *states = networks(2)
    for name, state in zip("ab", states, strict=True):
        save_checkpoint(tmp_path / name, state, card())
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    del manifest["seal"]
    manifest["spec"] = {"data": {"name": "digits", "train_images": None, "held_out": 0.1, "holdout_seed": 0, **changed}}
    (tmp_path / "a" / "manifest.json").write_bytes(sealed(manifest))
    done = call(tmp_path / "a", tmp_path / "b", "--method", "average", "--data", "digits", "--images", 20, "--out",
                tmp_path / "out.safetensors")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert ("note: a held other images of digits out of training" in done.output) == noted


def test_the_better_statistics_are_taken_and_the_data_set_takes_settings(tmp_path: Path) -> None:
    _, *states = networks(2)
    for name, state in zip("ab", states, strict=True):
        save_checkpoint(tmp_path / f"{name}.safetensors", state, card())
    images = load_images("digits", "train").take(60)
    for place, (image, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
        (tmp_path / "set" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "set" / str(label) / f"{place}.png")
    out = tmp_path / "out.safetensors"
    two = (tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    of_set = ("--data", "folder", "--root", tmp_path / "set", "--set", "data.test=0.2")
    words = (*two, "--method", "average", *of_set, "--out", out, "--force")
    found = {}
    for way in ("mixed", "average", "best"):
        done = call(*words, "--recalibrate", way)
        assert done.exit_code == 0, done.output
        found[way] = (done.output, load_checkpoint(out)[0])
    told = [line for line in found["best"][0].splitlines() if line.startswith("BatchNorm's statistics: recomputed")]
    taken = "average" if told and told[0].endswith("averaged") else "mixed"
    assert all(torch.equal(tensor, found[taken][1][name]) for name, tensor in found["best"][1].items())
    assert f"--root {tmp_path / 'set'} --set data.test=0.2" in found["best"][0], "the last line can be run"
    (tmp_path / "labels.csv").write_text(
        "".join(
            f"{path.relative_to(tmp_path / 'set')},{path.parent.name}\n" for path in (tmp_path / "set").rglob("*.png")
        )
    )
    table = ("--data", "table", "--root", tmp_path / "set", "--set", f"data.labels={tmp_path / 'labels.csv'}")
    done = call(*two, "--method", "average", *table, "--set", "data.test=0.2", "--out", out, "--force")
    assert done.exit_code == 0, done.output
    shares = {way: float(re.search(r"\(merged\) +([0-9.]+)", said)[1]) for way, (said, _) in found.items()}  # type: ignore[index]
    assert shares["best"] == max(shares.values())


def test_examples_run() -> None:
    for module in (fusing, ingredients):
        tried = doctest.testmod(module)
        assert tried.attempted > 0 and tried.failed == 0
