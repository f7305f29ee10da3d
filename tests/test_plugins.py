"""Each kind of entry through a plugin's file of at most 40 lines."""

import copy
import doctest
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fusiondistill import (
    DEGRADATIONS,
    INFERENCE,
    NETWORKS,
    SOURCES,
    build_model,
    degrade,
    evaluate,
    load_images,
    load_model,
    plugins,
    save_checkpoint,
)
from fusiondistill.checkpoints import CheckpointError, card_of
from fusiondistill.data import DataError, fingerprint
from fusiondistill.evaluation import Conditions, judge
from fusiondistill.folding import for_inference
from fusiondistill.inference import combined
from fusiondistill.models import ImageClassifier, SoftVote
from fusiondistill.models.features import with_features, without_features
from fusiondistill.plugins import all_registries, load_plugins, read_plugins

FOLDER = Path(__file__).parent / "plugins"


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIONDISTILL_CACHE", str(tmp_path / "cache"))
    yield
    unload()


def unload() -> None:
    for file in list(plugins._loaded):
        for registry in all_registries().values():
            registry.forget(file)
    plugins._loaded.clear()


def load(*names: str, text: str | None = None, tmp_path: Path | None = None) -> None:
    paths = [str(FOLDER / f"{name}.py") for name in names]
    if text is not None and tmp_path is not None:
        (tmp_path / "mine.py").write_text(text)
        paths.append(str(tmp_path / "mine.py"))
    load_plugins(read_plugins(paths))


def test_the_files_are_short():
    for path in FOLDER.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 40, path.name


# --- degradations -----------------------------------------------------------------------------------------------------


def test_a_degradation_with_a_parameter():
    load("fog")
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    expected = (images.numpy().astype(int) * 6 + 4 * 90) // 10
    assert np.array_equal(degrade(images, "fog", 4, seed=0, light=90).numpy(), expected)
    assert degrade(images, "fog", 10, seed=0).unique().tolist() == [200]
    with pytest.raises(ValueError, match="parameter light of the degradation 'fog': input should be less than"):
        degrade(images, "fog", 4, seed=0, light=300)
    with pytest.raises(ValueError, match="has no parameter 'ligth'; did you mean 'light'"):
        degrade(images, "fog", 4, seed=0, ligth=3)
    assert DEGRADATIONS["fog"].levels == range(11) and DEGRADATIONS["fog"].unseen


def test_a_composition_has_the_code_of_its_parts():
    assert DEGRADATIONS["blur_noise_jpeg"].code == "1 blur 1 noise 1 jpeg 1"


# --- data sources -----------------------------------------------------------------------------------------------------


def test_a_source_without_files(tmp_path):
    load("stripes")
    images = load_images("stripes", "train", side=8, count=10)
    assert images.images.shape == (10, 3, 8, 8) and images.labels.tolist() == [0, 1] * 5 and not images.flip
    assert torch.equal(images.images[1][:, :, :1].expand(3, 8, 8), images.images[1])  # across: a row has one colour
    assert images.fingerprint == fingerprint("stripes", "train", side=8, count=10)
    others = {fingerprint("stripes", side=side, count=count) for side in (8, 16) for count in (10, 40)}
    assert len(others) == 4 and fingerprint("stripes") == fingerprint("stripes", side=16, count=40)
    assert load_images("stripes", "test", side=8, count=10).mean == images.mean  # of the training images
    again = pickle.loads(pickle.dumps(images.take(4)))
    assert torch.equal(again.images, images.take(4).images)
    with pytest.raises(ValueError, match="parameter side of the data source 'stripes'"):
        load_images("stripes", "train", side=4)
    before = fingerprint("stripes")
    changed = (FOLDER / "stripes.py").read_text().replace("default_rng(0", "default_rng(2")
    (tmp_path / "stripes.py").write_text(changed)
    load_plugins(read_plugins([str(tmp_path / "stripes.py")]))
    assert fingerprint("stripes") != before


def test_a_source_with_files_of_its_own_form(tmp_path):
    text = """
import numpy as np
from fusiondistill.sources import SOURCES, Contents, Row

@SOURCES.register("grids", needs_root="a folder of .npy files, one a class", mean=(1, 2, 3), std=(4, 5, 6))
def grids(files, split):
    "Arrays uint8 [N, H, W, 3], a file for each class."
    names = sorted(files)
    rows = (Row(x, i, f"{files[n]}, {k}") for i, n in enumerate(names) for k, x in enumerate(np.load(files[n])))
    return Contents([n.removesuffix(".npy") for n in names], rows)
"""
    load(text=text, tmp_path=tmp_path)
    root = tmp_path / "arrays"
    (root / "deep").mkdir(parents=True)
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    np.save(root / "cat.npy", pixels)
    np.save(root / "deep" / "dog.npy", pixels[:1])
    (root / ".hidden").write_text("no image")
    images = load_images("grids", "train", root)
    assert images.classes == ["cat", "deep/dog"] and images.labels.tolist() == [0, 0, 1]
    assert np.array_equal(images.images[1].permute(1, 2, 0).numpy(), pixels[1]) and images.mean == (1, 2, 3)
    before = fingerprint("grids", root=root)
    np.save(root / "cat.npy", pixels + 1)
    assert fingerprint("grids", root=root) != before
    with pytest.raises(DataError, match=r"`grids` needs a root: a folder of \.npy files, one a class"):
        load_images("grids", "train")
    with pytest.raises(DataError, match="no such file or folder"):
        load_images("grids", "train", tmp_path / "nowhere")
    assert SOURCES["grids"].needs_root


# --- networks ---------------------------------------------------------------------------------------------------------


def test_a_network_of_ones_own_hands_out_features():
    load("tiny")
    assert NETWORKS.check_name("tiny") is None
    model = build_model("tiny", 4, width=6).eval()
    x = torch.randn(3, 3, 10, 10)
    logits, feature_map = model(x, features=True)
    body = without_features(copy.deepcopy(model)).body(x)  # type: ignore[operator, union-attr]
    assert torch.equal(feature_map, body) and feature_map.shape == (3, 12, 5, 5)
    assert torch.equal(model(x), logits)
    assert sorted(model.state_dict()) == sorted(type(without_features(copy.deepcopy(model)))(4, 6).state_dict())
    other = build_model("tiny", 4, feature_layer="body.2").eval()
    assert other.forward_features(x)[1].shape == (3, 8, 10, 10)
    for duplicate in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(torch.equal(a, b) for a, b in zip(duplicate.forward_features(x), (logits, feature_map), strict=True))
    with pytest.raises(ValueError, match="tiny has no feature layer 'bdy'; candidates: body"):
        build_model("tiny", 4, feature_layer="bdy")
    with pytest.raises(ValueError, match="parameter width of the network 'tiny'"):
        build_model("tiny", 4, width=0)
    with pytest.raises(ValueError, match="did you mean 'tiny'"):
        build_model("tini", 4)
    with torch.device("meta"):
        assert build_model("tiny", 4).forward_features(torch.zeros(2, 3, 16, 16))[1].shape == (2, 16, 8, 8)


def test_a_network_of_ones_own_compiles_and_folds():
    load("tiny")
    model = build_model("tiny", 4).eval()
    x = torch.randn(3, 3, 10, 10)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        for got, expected in zip(compiled(x, features=True), model(x, features=True), strict=True):
            torch.testing.assert_close(got, expected)
        torch.compiler.reset()
        classifier = ImageClassifier(model, (1, 2, 3), (50, 60, 70), "abcd").eval()
        fast = for_inference(classifier)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
        images = torch.randint(0, 256, (9, 3, 12, 12), dtype=torch.uint8)
        torch.testing.assert_close(fast(images), classifier(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)),
            "no layer of it gives a feature map: give feature_layer",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(7, 2)), "cannot be found .with images of 32x32 pixels: RuntimeError"),
    ],
)
def test_a_network_without_a_map_asks_for_its_layer(network, message):
    with pytest.raises(ValueError, match=message):
        with_features(network, None, "it")


def test_the_layer_is_found_without_a_trace():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    network[1].eval()
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    found = with_features(network)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and found.training and not network[1].training
    assert found.eval().forward_features(torch.zeros(1, 3, 6, 6))[1].shape == (1, 4, 4, 4)  # not the pooled 2x2


def card() -> dict:
    facts = {"classes": ["a", "b"], "mean": (1.0, 2.0, 3.0), "std": (50.0, 60.0, 70.0), "size": (16, 16)}
    return card_of("tiny", None, dataset="made up", parameters={"width": 5}, **facts)  # type: ignore[arg-type]


def test_a_card_names_the_plugin_that_it_needs(tmp_path):
    load("tiny")
    network = build_model("tiny", 2, width=5)
    save_checkpoint(tmp_path / "model.safetensors", network.state_dict(), card())
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    expected = ImageClassifier(network, (1, 2, 3), (50, 60, 70), "ab").eval()(images)
    assert torch.equal(load_model(tmp_path / "model.safetensors")(images), expected)
    digest = read_plugins([str(FOLDER / "tiny.py")])[0].sha256
    unload()
    with pytest.raises(CheckpointError, match=rf"'tiny' of the plugin tiny\.py .sha256 {digest}.*--plugin FILE"):
        load_model(tmp_path / "model.safetensors")
    (tmp_path / "tiny.py").write_text((FOLDER / "tiny.py").read_text() + "\n# another\n")
    load_plugins(read_plugins([str(tmp_path / "tiny.py")]))
    with pytest.raises(CheckpointError, match=r"the plugin that is loaded, .* is another"):
        load_model(tmp_path / "model.safetensors")


def test_the_card_of_a_built_in_network_has_no_more_than_before():
    facts = {"classes": ["a"], "mean": (1.0,) * 3, "std": (1.0,) * 3, "size": (8, 8), "dataset": "x"}
    parts = {"model", "feature_layer", "classes", "mean", "std", "size", "dataset"}
    assert set(card_of("cifar_resnet8", None, **facts)) == parts  # type: ignore[arg-type]


# --- ways of inference ------------------------------------------------------------------------------------------------


def classifiers(count: int, classes: int = 5) -> dict[str, nn.Module]:
    made: dict[str, nn.Module] = {}
    for seed in range(count):
        torch.manual_seed(seed)
        network = build_model("cifar_resnet8", classes)
        nn.init.normal_(network.head.weight, std=0.5)  # type: ignore[arg-type, union-attr]
        made[f"expert-{seed}"] = ImageClassifier(network, (120,) * 3, (60,) * 3, "abcde"[:classes]).eval()
    return made


@torch.no_grad()
def test_a_way_of_inference_of_ones_own():
    load("confident")
    models, images = classifiers(3), torch.randint(0, 256, (20, 3, 16, 16), dtype=torch.uint8)
    for temperature in (1.0, 2.0):
        each = np.stack([model(images).numpy() for model in models.values()]) / temperature
        sure = np.exp(each) / np.exp(each).sum(2, keepdims=True)
        got = combined("confident", models, {"temperature": temperature})
        np.testing.assert_allclose(got(images).numpy(), each[sure.max(2).argmax(0), np.arange(20)], rtol=1e-5)
    with pytest.raises(ValueError, match="parameter temperature of the way of inference 'confident'"):
        combined("confident", models, {"temperature": 0})
    fast = for_inference(got)
    torch.testing.assert_close(fast(images), got(images), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_soft_vote_is_the_mean_of_the_probabilities(tiny):
    images = tiny(30, 16, 16, classes=5)
    models = classifiers(3)
    soft = combined("soft_vote", models)
    each = np.stack([model(images.images).double().numpy() for model in models.values()])
    mean = (np.exp(each) / np.exp(each).sum(2, keepdims=True)).mean(0)
    np.testing.assert_allclose(soft(images.images).double().exp().numpy(), mean, rtol=1e-4, atol=1e-6)
    assert isinstance(soft, SoftVote)
    judged = judge(soft, images, Conditions("blur", [0], seed=0, batch_size=30))
    likelihood = -np.log(mean[np.arange(30), images.labels.numpy()]).mean()
    assert judged.mean_nll()[0] == pytest.approx(likelihood, rel=1e-3)
    vote = judge(combined("vote", models), images, Conditions("blur", [0], seed=0, batch_size=30))
    assert vote.nll is None and vote.calibration_error(images.labels) == [None]


def test_own_is_the_one_network_of_the_degradation():
    models = classifiers(2)
    assert INFERENCE["own"].told and not INFERENCE["vote"].told
    assert combined("own", {"expert-0": models["expert-0"]}) is models["expert-0"]
    with pytest.raises(ValueError, match="own takes the network of one degradation, not 2: expert-0, expert-1"):
        combined("own", models)
    with pytest.raises(ValueError, match="no way of inference 'vot'; did you mean 'vote'"):
        combined("vot", models)


@pytest.mark.parametrize("folder", plugins.FOLDERS)
def test_the_examples_in_the_docstrings_run(folder):
    registry = all_registries()[folder]
    try:
        failed, tried = doctest.testmod(sys.modules[f"fusiondistill.{folder}"])
        assert not failed and tried >= 3 and registry._added, "the decorator's docstring has an example of an entry"
    finally:
        registry._added.clear()


# --- together ---------------------------------------------------------------------------------------------------------


def test_all_kinds_work_together():
    load("stripes", "tiny", "confident", "fog")
    test = load_images("stripes", "test", count=12)
    networks = {f"expert-{i}": build_model("tiny", len(test.classes)) for i in range(2)}
    made = {role: ImageClassifier(one, test.mean, test.std, test.classes) for role, one in networks.items()}
    right, seen = evaluate(combined("confident", made), test, "fog", [0, 5], seed=0, batch_size=5, light=30)
    assert seen.tolist() == [12, 12] and 0 <= int(right.min()) <= int(right.max()) <= 12


def test_the_list_shows_them():
    line = [sys.executable, "-c", "from fusiondistill_runner.cli import main; main()", "list"]

    def said(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*line, *words], capture_output=True, text=True)

    options = [word for name in ("stripes", "tiny", "fog") for word in ("--plugin", str(FOLDER / f"{name}.py"))]
    done = said(*options)
    assert done.returncode == 0, done.stderr
    for expected in (
        "degradations (degradations: [NAME])", "sources (data: ", "networks (", "inference (", "jpeg JPEG",
        "Level tenths of the picture", "light (whole number) = 200, at least 0, at most 255: grey value of the fog",
        "side (whole number) = 16, at least 8, at most 64", "width (whole number) = 8, at least 1: channels",
        "gives votes", "plugin: ",
    ):  # fmt: skip
        assert expected in " ".join(done.stdout.split()), expected
    paths = [line for line in done.stdout.splitlines() if "/" in line]
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if line not in paths)
    alone = said("inference")
    assert alone.stdout.startswith("inference  (inference: NAME") and "jpeg" not in alone.stdout
    wrong = said("netwrks")
    assert wrong.returncode == 2 and "did you mean 'networks'" in wrong.stderr
