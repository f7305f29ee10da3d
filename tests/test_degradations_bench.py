"""The grid to look at, and that the benchmark measures what it says. Speed itself is not a test."""

import numpy as np
import pytest
import torch
from PIL import Image

from fusiondistill.bench import bench_degradations
from fusiondistill.degradations import DEGRADATIONS, degrade_grid


def test_rows_of_the_benchmark():
    rows = bench_degradations(sizes=(16,), batch=16, threads=(1,), seconds=0.01)
    assert len(rows) == len(DEGRADATIONS)
    assert all({"name", "ours", "reference", "ratio", "unit", "limit"} == set(row) for row in rows)
    assert rows[0]["name"] == "jpeg 16x16, 1 thread"
    for row in rows:
        assert row["ours"] > 0
        assert row["unit"] == "images/s"
        assert "%" in row["limit"]
        if row["name"].split()[0] in ("jpeg", "blur", "noise", "saltpepper"):
            assert row["ratio"] == pytest.approx(row["ours"] / row["reference"], rel=0.01)
        else:
            assert row["ratio"] is None
    with pytest.raises(ValueError, match="no degradation 'fog'"):
        bench_degradations(degradations=["fog"])
    with pytest.raises(ValueError, match="device 'warp' cannot be used"):
        bench_degradations("warp")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device 'cuda' cannot be used"):
            bench_degradations("cuda")


@pytest.mark.parametrize(("mode", "size", "suffix"), [
    ("RGB", (48, 31), "png"), ("RGB", (700, 300), "jpg"), ("L", (5, 9), "png"), ("RGBA", (40, 40), "png"),
    ("P", (33, 20), "png"),
])  # fmt: skip
def test_a_grid_has_a_cell_for_every_degradation_and_level(tmp_path, mode, size, suffix):
    path = tmp_path / f"picture.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    Image.fromarray(noise).convert("RGB").convert(mode).save(path)
    out = degrade_grid(path, tmp_path / "grid.png")
    with Image.open(out) as grid:
        assert grid.format == "PNG"
        height = max(128, min(224, max(size))) * size[1] / max(size)
        assert grid.height > len(DEGRADATIONS) * height * 0.9
        assert grid.height < len(DEGRADATIONS) * (height * 2 + 60) + 60
        pixels = np.asarray(grid)
    assert (pixels < 128).any()  # Labels.


def test_the_grid_names_what_is_missing_or_broken(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.png: cannot be read \(No such file"):
        degrade_grid(tmp_path / "nowhere.png", tmp_path / "grid.png")
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.new("RGB", (300, 300), "red").save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:300])
    for name in ("text.png", "empty.jpg", "half.png", "."):
        with pytest.raises(ValueError, match=r"cannot be (decoded|read)"):
            degrade_grid(tmp_path / name, tmp_path / "grid.png")
    with pytest.raises(ValueError, match="cannot be written"):
        degrade_grid(tmp_path / "whole.png", tmp_path / "no" / "such" / "grid.png", degradations=["blur"])
    with pytest.raises(ValueError, match="no degradation"):
        degrade_grid(tmp_path / "whole.png", tmp_path / "grid.png", degradations=["blurr"])
