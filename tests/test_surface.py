"""The loss on the way from an expert to the fused network, as a fuse stage stores it, against torch by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from fusiondistill import build_model, load_images
from fusiondistill.config_file import parse
from fusiondistill.evaluation import mixed_batches
from fusiondistill.merging import At, merge
from fusiondistill_runner.planning.specs import MergeSpec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views.stage_tables import stage_tables
from fusiondistill_runner.working.context import Context
from fusiondistill_runner.working.execute import execute
from test_evaluate_stage import CPU, data_spec, imported


def test_the_loss_between_an_expert_and_the_average_is_that_of_their_mixture(tmp_path: Path) -> None:
    base, noise, blur = (imported(tmp_path, seed)[0] for seed in range(3))
    names = ("noise", "blur")
    data = data_spec().model_copy(update={"held_out": 0.2, "train_images": 400})
    spec = MergeSpec(
        merge="average", parameters={}, recalibrate="mixed", told=None, images=200, degradations=names, data=data,
        protocol="standard", data_seed=7, threads=1,
    )  # fmt: skip
    stage = Stage("fused", 0, spec, {"base": base, "expert-noise": noise, "expert-blur": blur})
    execute(stage, Context(str(tmp_path / "store")), CPU, lambda *_: None)
    store = Store(tmp_path / "store")
    surface = json.loads((tmp_path / "store" / stage.directory / "manifest.json").read_text())["outcome"]["surface"]
    assert set(surface) == set(names)
    assert all([alpha for alpha, _ in points] == [0, 0.25, 0.5, 0.75, 1] for points in surface.values())
    assert surface["noise"][-1] == surface["blur"][-1], "both ways end at the same network"

    training, validation = load_images("digits", "train").take(400).holdout(0.2, 0)
    (sample,) = (pixels for pixels, _ in batches(training.take(128), names))
    judged = list(batches(validation.take(80), names))
    assert len(validation) == 80, "fewer than the 250 of each degradation that are looked at"
    ends = {name: store.weights(one)[0] for name, one in (("noise", noise), ("blur", blur), ("end", stage))}
    for name in names:
        for alpha, expected in surface[name]:
            network = build_model("cifar_resnet8", 10)
            network.load_state_dict(
                {k: torch.lerp(v, ends["end"][k], alpha) if v.is_floating_point() else v for k, v in ends[name].items()}
            )
            for layer in network.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.reset_running_stats()
                    layer.momentum = None
            with torch.no_grad():
                network.train()(sample)
                network.eval()
                losses = torch.cat([nn.functional.cross_entropy(network(x), y, reduction="none") for x, y in judged])
            assert expected == pytest.approx(float(losses.mean()), rel=1e-4)

    listed = [{"name": one.name, "kind": one.kind, "seed": one.seed, "directory": one.directory} for one in (stage,)]
    config = parse("experiment: x\n").model_dump(mode="json")
    table = stage_tables(store, [{"experiment": "x", "config": config, "stages": listed, "rows": []}])["surface"]
    assert table is not None and table.schema.names == ["experiment", "seed", "stage", "degradation", "alpha", "loss"]
    rows = {(r["degradation"], r["alpha"]): r["loss"] for r in table.to_pylist()}
    assert rows == {(name, alpha): loss for name, points in surface.items() for alpha, loss in points}


def batches(images, names):  # type: ignore[no-untyped-def]
    return mixed_batches(images, names, seed=7, device=CPU, protocol="standard")


def test_a_merge_that_chooses_looks_at_the_validation_split_alone_and_notes_its_choice(tmp_path: Path) -> None:
    """Told a degradation or not, and under every rule for BatchNorm, it chooses by the images of all degradations."""
    base, noise, blur = (imported(tmp_path, seed)[0] for seed in range(3))
    names = ("noise", "blur")
    data = data_spec().model_copy(update={"held_out": 0.2, "train_images": 100})
    _, validation = load_images("digits", "train").take(100).holdout(0.2, 0)
    states = [Store(tmp_path / "store").weights(one)[0] for one in (noise, blur)]
    start = Store(tmp_path / "store").weights(base)[0]
    chosen = {}
    for told, rule in ((None, "average"), (None, "mixed"), ("blur", "mixed")):
        spec = MergeSpec(
            merge="wise_ft", parameters={"alpha": [0.25, 1.0]}, recalibrate=rule, told=told, images=40,
            degradations=names, data=data, protocol="standard", data_seed=7, threads=1,
        )  # fmt: skip
        stage = Stage("fused", 0, spec, {"base": base, "expert-noise": noise, "expert-blur": blur})
        execute(stage, Context(str(tmp_path / "store")), CPU, lambda *_: None)
        manifest = json.loads((tmp_path / "store" / stage.directory / "manifest.json").read_text())
        chosen[told, rule] = manifest["outcome"]["chosen"]
    assert chosen["blur", "mixed"] == chosen[None, "mixed"] and chosen[None, "mixed"]["candidates"] == 2
    accuracies = []
    for alpha in (0.25, 1.0):
        network = build_model("cifar_resnet8", 10)
        network.load_state_dict(merge(states, "wise_ft", at=At(base=start), alpha=alpha))
        with torch.no_grad():
            right = [[network.eval()(x).argmax(1) == y for x, y in batches(validation, (name,))] for name in names]
        accuracies.append(sum(float(torch.cat(one).double().mean()) for one in right) / 2)
    assert chosen[None, "average"]["validation"] == pytest.approx(max(accuracies))
