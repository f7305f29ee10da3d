"""Which recipe was taken is said, and a set that looks like one of another recipe is not trained without a word."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from fusiondistill_runner.cli import main
from fusiondistill_runner.driving.prepared import Prepared, prepare
from fusiondistill_runner.planning.specs import TrainSpec

HINT = "write recipe: paper-cifar100 (or recipe: paper, to keep it)"


def png(label: int, side: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(label).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def as_parquet(root: Path, classes: int, side: int) -> str:
    """Two images of each class in each split."""
    labels = [*range(classes)] * 2
    images = [{"bytes": png(label, side), "path": None} for label in labels]
    for split in ("train", "test"):
        pq.write_table(pa.table({"img": images, "label": labels}), root / f"{split}-00000-of-00001.parquet")
    return "parquet"


def as_folder(root: Path, classes: int, side: int) -> str:
    """Two images of each class in each split."""
    for split in ("train", "test"):
        for label in range(classes):
            place = root / split / f"{label:03}"
            place.mkdir(parents=True)
            for number in range(2):
                (place / f"{number}.png").write_bytes(png(label, side))
    return "folder"


def prepared(root: Path, name: str, *overrides: str) -> Prepared:
    data = f"data: {{name: {name}, root: {root}}}\nmodel: {{name: cifar_resnet8}}\n"
    (root / "config.yaml").write_text(f"experiment: x\nmethods: [base, vanilla]\n{data}")
    found = prepare(str(root / "config.yaml"), overrides, str(root / "store"))
    return replace(found, notes=tuple(note for note in found.notes if "few validation images" not in note))


def decay(ready: Prepared) -> float:
    return next(s.spec.recipe.optimizer.weight_decay for s in ready.plan.stages if isinstance(s.spec, TrainSpec))


def test_cifar100_under_another_name_is_noticed_and_the_line_works(tmp_path: Path) -> None:
    name = as_parquet(tmp_path, 100, 32)
    ready = prepared(tmp_path, name)
    assert decay(ready) == 1e-4 and ready.notes[0] == "recipe: paper, the default"
    (hint,) = ready.notes[1:]
    assert hint.startswith("100 classes at 32x32: if this is CIFAR-100") and hint.endswith(HINT)
    for line, weight_decay in (("recipe=paper-cifar100", 5e-4), ("recipe=paper", 1e-4)):
        told = prepared(tmp_path, name, line)
        assert decay(told) == weight_decay
        assert told.notes == (f"recipe: {line.removeprefix('recipe=')}, as the config says",)
    assert prepared(tmp_path, name, "base.optimizer.weight_decay=5e-4").notes == ("recipe: paper, the default",)
    for verb in ("plan", "run"):
        line = [verb, str(tmp_path / "config.yaml"), "--store", str(tmp_path / "other"), "--set", "methods=[base]"]
        more = ["--set", "base.epochs=1", "--set", "degradations=[blur]", "--set", "evaluation.every=50"]
        done = CliRunner().invoke(main, [*line, *more, *(["--local"] if verb == "run" else [])])
        assert done.exit_code == 0 and f"note: {hint}" in done.output.splitlines(), done.output


@pytest.mark.parametrize(("classes", "side", "hinted"), [(200, 64, True), (99, 32, False), (100, 28, False)])
def test_it_goes_by_classes_and_size(tmp_path: Path, classes: int, side: int, hinted: bool) -> None:
    notes = prepared(tmp_path, as_folder(tmp_path, classes, side)).notes
    assert notes[0] == "recipe: paper, the default" and len(notes) == 1 + hinted
    assert not hinted or notes[1].startswith("200 classes at 64x64: if this is Tiny ImageNet")


def test_a_sweep_says_each_once(tmp_path: Path) -> None:
    ready = prepared(tmp_path, as_parquet(tmp_path, 3, 16), "sweep={base.epochs: [1, 2], recipe: [paper, null]}")
    said = [note for note in ready.notes if note.startswith("recipe: ")]
    assert len(ready.points) == 4 and said == ["recipe: paper, as the config says", "recipe: paper, the default"]


def test_a_recipe_inside_a_method_is_said(tmp_path: Path) -> None:
    name = as_parquet(tmp_path, 10, 8)
    (tmp_path / "c.yaml").write_text(
        f"experiment: x\nmethods: [base, mine]\ndata: {{name: {name}, root: {tmp_path}}}\nmodel: cifar_resnet8\n"
        "base: {recipe: paper-cifar100}\nvanilla: {recipe: paper-cifar100}\ndefine: {mine: {like: vanilla}}\n"
    )
    (said,) = (note for note in prepare(str(tmp_path / "c.yaml"), (), str(tmp_path)).notes if "recipe" in note)
    assert said == "recipe: paper, the default; of base paper-cifar100; of mine paper-cifar100"


@pytest.mark.parametrize(("protocol", "told"), [("paper", True), ("standard", False)])
def test_a_precision_that_the_papers_protocol_does_not_take_is_said(tmp_path: Path, protocol: str, told: bool) -> None:
    name = as_folder(tmp_path, 2, 16)
    ready = prepared(tmp_path, name, "precision=bf16", f"protocol={protocol}", "data.validation=0", "select=last")
    assert any("precision: bf16 is not taken" in note for note in ready.notes) is told
    found = {s.spec.recipe.precision for s in ready.plan.stages if isinstance(s.spec, TrainSpec)}
    assert found == {"fp32" if told else "bf16"}
