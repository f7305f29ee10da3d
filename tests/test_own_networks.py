"""One's own checkpoint gives the accuracy of its own training script, in whatever form it was saved."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fusiondistill import load_images, load_model
from fusiondistill.checkpoints import CheckpointError
from fusiondistill.normalisation import COMMON, candidates, compared, looked_at, other_order, winner
from fusiondistill.plugins import load_plugins, read_plugins
from fusiondistill_runner.driving.prepared import prepare_evaluation
from running import fusiondistill

PLUGIN = """
from torch import nn
from fusiondistill import NETWORKS

@NETWORKS.register("own")
def own(classes, *, norm: bool = True):
    "A few convolutions."
    parts = []
    for width, wider in ((3, 16), (16, 32)):
        parts += [nn.Conv2d(width, wider, 3, stride=2), nn.BatchNorm2d(wider) if norm else nn.Identity(), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, classes))
"""
MEAN, STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def build(norm: bool = True) -> nn.Module:
    namespace: dict[str, object] = {}
    exec(PLUGIN.replace('@NETWORKS.register("own")', ""), namespace)
    made: nn.Module = namespace["own"](10, norm=norm)  # type: ignore[operator]
    return made


def normalised(pixels: torch.Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> torch.Tensor:
    """As torchvision's ToTensor and Normalize do it."""
    return (pixels.float() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def trained(norm: bool = True, seed: int = 0) -> nn.Module:
    """What a user's script trains: plainly, on digits with ImageNet's statistics."""
    torch.manual_seed(seed)
    images = load_images("digits", "train")
    pixels, labels = normalised(images.images), images.labels
    network = build(norm)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    for epoch in range(4):
        optimizer.param_groups[0]["lr"] = 0.08 * 0.2**epoch
        for rows in torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch)).split(64):
            loss = F.cross_entropy(network(pixels[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module, int]:
    """(folder with the plugin and a file for each form, the network, the test images that its script has right)."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.py").write_text(PLUGIN)
    network = trained()
    state = network.state_dict()
    torch.save(state, folder / "plain.pt")
    torch.save({"epoch": 3, "model": nn.DataParallel(network).state_dict()}, folder / "parallel.pth")
    for kind in ("_orig_mod", "net", "model", "module.model"):
        torch.save({f"{kind}.{name}": tensor for name, tensor in state.items()}, folder / f"{kind}.pt")
    for kind in ("state_dict", "model_state_dict"):
        torch.save({"optimizer": {"lr": 0.1}, kind: state}, folder / f"{kind}.pt")
    torch.save(torch.optim.swa_utils.AveragedModel(network).state_dict(), folder / "averaged.pth.tar")
    torch.save({name: t.half() if t.is_floating_point() else t for name, t in state.items()}, folder / "half.pt")
    content = {"state_dict": {f"model.{n}": t for n, t in state.items()}, "hyper_parameters": {"lr": 0.1}, "epoch": 3}
    torch.save({**content, "pytorch-lightning_version": "2.5", "callbacks": {}, "loops": {}}, folder / "lightning.ckpt")
    with torch.no_grad():
        test = load_images("digits", "test")
        right = int((network(normalised(test.images)).argmax(1) == test.labels).sum())
    return folder, network, right


def evaluate(folder: Path, *line: str) -> tuple[int, str, dict[str, tuple[int, int]]]:
    """(exit code, output, row -> (right, seen) at level 0)."""
    store = folder / f"store{len(list(folder.glob('store*')))}"
    options = (
        "--data",
        "digits",
        "--degradation",
        "{name: noise, levels: [0]}",
        "--model",
        "own",
        "--plugin",
        "own.py",
    )
    done = fusiondistill("evaluate", *line, *options, "--local", "--store", str(store), cache=folder, cwd=folder)
    rows = pq.read_table(store / "results.parquet").to_pylist() if done.returncode == 0 else []
    return done.returncode, done.stdout + done.stderr, {row["method"]: (row["right"], row["seen"]) for row in rows}


FORMS = ("plain.pt", "parallel.pth", "lightning.ckpt")


def test_each_form_has_the_accuracy_of_the_script(own: tuple[Path, nn.Module, int]) -> None:
    folder, _, right = own
    assert 200 < right < 400
    code, output, rows = evaluate(folder, *FORMS, "--mean", "0.485,0.456,0.406", "--std", "0.229 0.224 0.225")
    assert code == 0, output
    assert "data.mean is read as on the scale 0..1: [0.485, 0.456, 0.406] is [123.675, 116.28, 103.53]" in output
    assert rows == dict.fromkeys(("plain", "parallel", "lightning.ckpt"), (right, 400))


def test_each_form_is_a_model_that_is_right_as_often(own: tuple[Path, nn.Module, int]) -> None:
    folder, network, right = own
    load_plugins(read_plugins([str(folder / "own.py")]))
    images, labels = (test := load_images("digits", "test")).images, test.labels
    half = build()
    half.load_state_dict({name: t.half() if t.is_floating_point() else t for name, t in network.state_dict().items()})
    files = sorted(path for path in folder.iterdir() if path.suffix in (".pt", ".pth", ".ckpt", ".tar"))
    assert len(files) == 11
    with torch.no_grad():
        as_half = int((half.eval()(normalised(images)).argmax(1) == labels).sum())
        for file in files:
            model = load_model(file, model="own", mean=MEAN, std=STD)
            found = int((model(images).argmax(1) == labels).sum())
            assert found == (as_half if file.stem == "half" else right), file


def test_a_normalisation_that_is_not_said_is_found_or_asked_for(
    own: tuple[Path, nn.Module, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, _ = own
    monkeypatch.setenv("FUSIONDISTILL_CACHE", str(folder))
    overrides = ["model.name=own", f"plugins=[{folder / 'own.py'}]", "degradations=[noise]"]
    for _ in range(2):  # the second time from what the first one kept
        plan = prepare_evaluation([str(folder / "lightning.ckpt")], overrides, str(tmp_path / "store"), data="digits")
        (said,) = (note for note in plan.notes if "does not say its normalisation" in note)
        assert re.search(
            r"lightning\.ckpt: .*of 8 common ones ImageNet's fits clearly best on 512 training images", said
        )
        assert plan.plan.stages[0].spec.data.mean == pytest.approx([255 * value for value in MEAN])
        assert list(plan.normalisations.values()) == [
            f"mean [123.675, 116.28, 103.53], std [58.395, 57.12, 57.375]: {said}"
        ]
        assert plan.plan.stages[0].spec.data.std == pytest.approx([255 * value for value in STD])
    assert len(list(folder.rglob("normalisation/*.json"))) == 1
    torch.save(build().state_dict(), folder / "untrained.pt")
    with pytest.raises(
        CheckpointError, match=r"untrained\.pt does not say .* do not tell: .* of `evaluate` --mean and"
    ):
        prepare_evaluation([str(folder / "untrained.pt")], overrides, str(tmp_path / "store"), data="digits")


@pytest.mark.parametrize("true", ["0.5 and 0.5", "0..1 without normalisation", "CIFAR-10's"])
def test_the_comparison_finds_what_a_network_was_trained_with(true: str, own: tuple[Path, nn.Module, int]) -> None:
    """A first convolution that takes another normalisation back makes the same network of each."""
    network = build()
    network.load_state_dict(own[1].state_dict())
    mean, std = (torch.tensor(values) for values in COMMON[true])
    theirs, spread = torch.tensor(MEAN) * 255, torch.tensor(STD) * 255
    first = network[0]  # type: ignore[index]
    with torch.no_grad():  # (x - theirs) / spread = ((x - mean) / std) * (std / spread) + (mean - theirs) / spread
        first.bias += (first.weight * ((mean - theirs) / spread).view(1, 3, 1, 1)).sum((1, 2, 3))
        first.weight *= (std / spread).view(1, 3, 1, 1)
    images = load_images("digits", "train")
    found = winner(compared(network, looked_at(images), candidates((images.mean, images.std))))
    assert found is not None and found.name == true


def test_without_batchnorm_right_answers_tell_nothing() -> None:
    images = load_images("digits", "train")
    network = trained(norm=False)
    tried = compared(network, looked_at(images), candidates((images.mean, images.std)))
    assert all(one.distance is None for one in tried)
    with torch.no_grad():
        sample = looked_at(images)
        right = network(normalised(sample.images)).argmax(1) == sample.labels
    assert torch.equal(next(one.right for one in tried if one.name == "ImageNet's"), right)
    assert winner(tried) is None
    assert winner([one for one in tried if one.name in ("ImageNet's", "0..1 without normalisation")]) is None


def test_outputs_in_another_order_of_classes_are_noticed(own: tuple[Path, nn.Module, int]) -> None:
    images = looked_at(load_images("digits", "train"))
    tried, order = candidates((images.mean, images.std)), torch.tensor([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])
    assert other_order(compared(own[1], images, tried), images) is None
    assert other_order(compared(build(), images, tried), images) is None
    turned = build()
    turned.load_state_dict(own[1].state_dict())
    head: nn.Linear = turned[-1]  # type: ignore[index]
    with torch.no_grad():
        head.weight.copy_(head.weight[order])
        head.bias.copy_(head.bias[order])
    found = other_order(compared(turned, images, tried), images)
    assert found is not None and found[1] == order.tolist()
