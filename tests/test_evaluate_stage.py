"""The evaluate stage on a worker, without Ray: its files against the model itself."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from fusiondistill import build_model, load_images
from fusiondistill.checkpoints import CheckpointError, card_of, checkpoint_digest, save_checkpoint
from fusiondistill.config import ModelConfig
from fusiondistill.data import DataError, ImageSet, fingerprint
from fusiondistill.data.corruptions import corruption_digest
from fusiondistill.evaluation import Conditions, judge
from fusiondistill.models import ImageClassifier
from fusiondistill_runner.planning.specs import CheckpointSpec, DataSpec, EvaluateSpec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.working.context import Context
from fusiondistill_runner.working.execute import execute
from fusiondistill_runner.working.job import _classifier

CPU = torch.device("cpu")


@functools.cache
def digits() -> ImageSet:
    return load_images("digits", "test").take(60)


def data_spec() -> DataSpec:
    return DataSpec(
        name="digits", fingerprint=fingerprint("digits"), train_images=None, test_images=60, held_out=0.0,
        holdout_seed=0, mean=None, std=None,
    )  # fmt: skip


def imported(folder: Path, seed: int) -> tuple[Stage, ImageClassifier]:
    """A stored stage whose network tells digits apart in its own way, and the same as a classifier."""
    torch.manual_seed(seed)
    network = build_model("cifar_resnet8", 10)
    for _ in range(20):
        network((digits().images.float() - 40) / 80)
    nn.init.normal_(network.head.weight, std=0.3)  # type: ignore[union-attr, arg-type]
    card = card_of("cifar_resnet8", None, classes=digits().classes, mean=digits().mean, std=digits().std, size=(16, 16),
                   dataset="digits")  # fmt: skip
    save_checkpoint(folder / f"given{seed}", network.state_dict(), card)
    path = next((folder / f"given{seed}").glob("*.safetensors"))
    sha256 = checkpoint_digest(path)
    spec = CheckpointSpec(sha256=sha256, model=ModelConfig(name="cifar_resnet8"), data=data_spec(), path=str(path))
    stage = Stage("base", seed, spec)
    (folder / "store").mkdir(exist_ok=True)  # as the driver does that holds it
    execute(stage, Context(str(folder / "store")), CPU, lambda *_: None)
    return stage, ImageClassifier(network, digits().mean, digits().std, digits().classes).eval()


def evaluated(folder: Path, spec: EvaluateSpec, inputs: dict[str, Stage], **context: object) -> dict[str, pa.Table]:
    stage = Stage("evaluate", 0, spec, inputs)
    execute(stage, Context(str(folder / "store"), **context), CPU, lambda *_: None)  # type: ignore[arg-type]
    place = folder / "store" / stage.directory
    return {path.name.split(".")[0]: pq.read_table(path) for path in place.glob("*.parquet")}


def spec_of(degradation: str, levels: tuple[int, ...], precision: str = "fp32", **more: str | None) -> EvaluateSpec:
    return EvaluateSpec(
        inference=more.pop("inference", None), degradation=degradation, levels=levels, data=data_spec(),
        protocol="standard", noise_seed=5, precision=precision, threads=1, **more,
    )  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_files_say_what_the_model_says(tmp_path: Path, precision: str) -> None:
    stage, model = imported(tmp_path, 0)
    levels = (0, 20, 50)
    found = evaluated(tmp_path, spec_of("noise", levels, precision), {"model": stage})
    expected = judge(model, digits(), Conditions("noise", levels, seed=5, batch_size=500))
    counts, said, images = found["counts"], found["predictions"], found["images"]
    assert [f"{field.name}: {field.type}" for field in counts.schema] == [
        "level: int64", "right: int64", "seen: int64", "nll: double", "ece: double",
    ]  # fmt: skip
    assert str(said.schema.field("predictions").type).startswith("list<") and said.schema.field("level").type == "int64"
    assert said.schema.field("predictions").type.value_type == pa.int16()
    assert [(field.name, field.type) for field in images.schema] == [("label", pa.int16()), ("right", pa.int16())]
    predictions = np.array(said["predictions"].to_pylist())
    right = predictions == digits().labels.numpy()
    assert counts["level"].to_pylist() == said["level"].to_pylist() == list(levels)
    assert counts["right"].to_pylist() == right.sum(1).tolist() and counts["seen"].to_pylist() == [60] * 3
    assert images["label"].to_pylist() == digits().labels.tolist()
    assert images["right"].to_pylist() == right.sum(0).tolist()
    changed = (predictions != expected.predictions.numpy()).sum()
    assert changed == 0 if precision == "fp32" else changed < 10
    close = 1e-4 if precision == "fp32" else 0.1
    assert counts["nll"].to_pylist() == pytest.approx(expected.mean_nll(), rel=close)
    assert counts["ece"].to_pylist() == pytest.approx(expected.calibration_error(digits().labels), abs=close)


def test_a_checkpoint_that_was_replaced_after_the_planning_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    stage, _ = imported(tmp_path, 0)
    assert isinstance(stage.spec, CheckpointSpec)
    other = imported(tmp_path, 1)[0].spec
    assert isinstance(other, CheckpointSpec)
    Path(stage.spec.path).write_bytes(Path(other.path).read_bytes())
    (tmp_path / "again").mkdir()
    with pytest.raises(CheckpointError, match=r"given0.*is no longer the checkpoint that this run was planned with"):
        execute(stage, Context(str(tmp_path / "again")), CPU, lambda *_: None)
    assert Store(tmp_path / "again").intact(stage) == "not stored"


def test_an_input_that_is_made_again_while_it_is_used_makes_the_result_one_of_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed, _ = imported(tmp_path, 0)
    store = Store(tmp_path / "store")

    def remade(*given: Any, **more: Any) -> Any:
        store.commit(needed, {"model.safetensors": store.read(needed, "model.safetensors")}, {}, "second")
        return judge(*given, **more)

    stage = Stage("evaluate", 0, spec_of("noise", (0,)), {"model": needed})
    with monkeypatch.context() as patch:
        patch.setattr("fusiondistill.evaluation.judge", remade)
        execute(stage, Context(store.location), CPU, lambda *_: None)
    assert store.intact(needed) is None and store.intact(stage) == "not stored"
    execute(stage, Context(store.location), CPU, lambda *_: None)
    assert store.intact(stage) is None


def test_an_ensemble_has_votes_but_no_likelihood(tmp_path: Path) -> None:
    members = [imported(tmp_path, seed)[0] for seed in range(3)]
    found = evaluated(
        tmp_path, spec_of("jpeg", (1, 101), inference="vote"), {f"expert-{i}": one for i, one in enumerate(members)}
    )
    assert found["counts"]["nll"].to_pylist() == found["counts"]["ece"].to_pylist() == [None, None]
    assert found["counts"].schema.field("nll").type == pa.float64()
    assert len(found["predictions"]["predictions"][0]) == 60


def test_a_corruption_set_is_judged_as_it_is(tmp_path: Path) -> None:
    stage, model = imported(tmp_path, 0)
    folder = tmp_path / "digits-c"
    folder.mkdir()
    pixels = digits().images.permute(0, 2, 3, 1).numpy()
    darker = np.concatenate([pixels // divisor for divisor in (1, 2, 3, 5, 9)])
    np.save(folder / "dark.npy", darker)
    np.save(folder / "labels.npy", np.tile(digits().labels.numpy(), 5))
    digest = corruption_digest(folder, "dark")
    spec, place = spec_of("c-dark", (1, 3, 5), corruption=digest), ((digest, str(folder)),)
    found = evaluated(tmp_path, spec, {"model": stage}, corruptions=place, evaluation_batch=7)
    right = np.stack([
        (model(torch.from_numpy(pixels // divisor).permute(0, 3, 1, 2)).argmax(1) == digits().labels).numpy()
        for divisor in (1, 3, 9)
    ])  # fmt: skip
    assert found["counts"]["right"].to_pylist() == right.sum(1).tolist()
    assert found["images"]["right"].to_pylist() == right.sum(0).tolist()
    np.save(folder / "dark.npy", darker // 2)
    other = spec_of("c-dark", (1, 3), corruption=digest)
    with pytest.raises(DataError, match=r"dark\.npy and labels\.npy"):
        evaluated(tmp_path, other, {"model": stage}, corruptions=place)


def test_a_worker_keeps_a_model_for_each_precision(tmp_path: Path) -> None:
    stage, _ = imported(tmp_path, 0)
    kept = [
        _classifier(str(tmp_path / "store"), stage.directory, stage.digest, "cpu", precision)
        for precision in ("fp32", "bf16", "fp32")
    ]
    assert kept[0] is kept[2] and kept[0] is not kept[1]


def test_what_is_stored_by_now_is_not_done_again_and_what_is_damaged_is(tmp_path: Path) -> None:
    """A worker that was taken for lost may come to its end after all."""
    model, _ = imported(tmp_path, 0)
    stage, store = Stage("evaluate", 0, spec_of("noise", (0,)), {"model": model}), Store(tmp_path / "store")
    place = tmp_path / "store" / stage.directory

    def execute_it() -> dict[str, int]:
        execute(stage, Context(store.location), CPU, lambda *_: None)
        assert store.intact(stage) is None
        return {path.name: path.stat().st_mtime_ns for path in place.iterdir()}

    first = execute_it()
    assert execute_it() == first
    next(place.glob("counts.*")).write_bytes(b"damaged")
    assert execute_it() != first
