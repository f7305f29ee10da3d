"""`evaluate` builds networks of one image size for the images, and reads three numbers without quotes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fusiondistill_runner.cli import main
from fusiondistill_runner.driving.prepared import prepare_evaluation

timm = pytest.importorskip("timm")


def test_a_vision_transformer_of_ones_own_is_built_for_the_images(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit", num_classes=10, img_size=16).state_dict(), tmp_path / "vit.pt")
    overrides = ["model.name=timm/test_vit", "degradations=[noise]", "data.mean=[127, 127, 127]", "data.std=[9, 9, 9]"]
    plan = prepare_evaluation([str(tmp_path / "vit.pt")], overrides, str(tmp_path / "store"), data="digits")
    assert plan.plan.stages[0].spec.model.parameters["img_size"] in ([16, 16], (16, 16))


@pytest.mark.parametrize("line", [["0.485", "0.456", "0.406"], ["0.485,", "0.456,", "0.406"], ["0.485,0.456,0.406"]])
def test_three_numbers_need_no_quotes(line: list[str]) -> None:
    given = main.commands["evaluate"].make_context("evaluate", ["a.pt", "--mean", *line, "b.pt", "--data", "digits"])
    assert given.params["mean"] == [0.485, 0.456, 0.406] and given.params["checkpoints"] == ("a.pt", "b.pt")
