"""That the benchmark of training measures what it says. Speed itself is not a test."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from fusiondistill.bench_training import KINDS, bench_training
from fusiondistill.data import ImageSet
from fusiondistill.degradations import PAPER_DEGRADATIONS
from fusiondistill.usual_way import _Stream
from fusiondistill_runner.cli import main
from toy_training import make_set


def test_rows_of_the_benchmark() -> None:
    shown: list[dict[str, object]] = []
    rows = bench_training(
        model="cifar_resnet8", size=16, batch=4, steps=1, repeats=1, kinds=["distillation"], threads=1,
        precisions=["bf16"], progress=shown.append,
    )  # fmt: skip
    assert rows == shown
    assert [row["name"] for row in rows] == [
        f"distillation cifar_resnet8, 1 thread, bf16: {reference}"
        for reference in ("bare network", "NCHW, fp32", "usual way")
    ]
    for row in rows:
        assert set(row) == {"name", "ours", "reference", "ratio", "unit", "limit"}
        assert row["unit"] == "images/s" and "n = 1" in row["limit"]
        assert row["ratio"] == pytest.approx(row["ours"] / row["reference"], rel=0.02, abs=0.006)
    assert "best of eager" in rows[0]["limit"] and "channels last" in rows[0]["limit"]


def test_the_usual_way_makes_the_images_of_the_pipeline() -> None:
    """At level 0 of blur, without padding, its images are the set's or their mirror images, normalised."""
    images: ImageSet = make_set()
    recipe = KINDS["distillation"].recipe(8, "fp32", False).model_copy(update={"crop_padding": 0})
    seen, clean, labels = next(iter(_Stream(images, PAPER_DEGRADATIONS, recipe, taught=True)))
    assert seen.shape == clean.shape == (32, 3, 8, 8) and labels.shape == (32,)
    pixels = (clean * torch.tensor(images.std).view(3, 1, 1) + torch.tensor(images.mean).view(3, 1, 1)).round()
    known = torch.cat([images.images, images.images.flip(3)])
    twice = images.labels.repeat(2)
    for one, label in zip(pixels.to(torch.uint8), labels, strict=True):
        (found,) = (known == one).flatten(1).all(1).nonzero(as_tuple=True)
        assert label in twice[found]
    assert not torch.equal(seen, clean)


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no kind of training 'fog': choose from clean, mixture, distillation"):
        bench_training(kinds=["fog"])
    with pytest.raises(ValueError, match="device 'warp' cannot be used"):
        bench_training("warp")
    for *line, said in (
        ("training", "--degradation", "blur", "leave out --degradation"),
        ("training", "--model", "nonet", "nonet"),
        ("reading", "--model", "x", "--model is for bench training and bench evaluation"),
    ):
        done = CliRunner().invoke(main, ["bench", *line, "--json", str(tmp_path / "b")])
        assert done.exit_code == 2 and said in done.output and not (tmp_path / "b").exists()
