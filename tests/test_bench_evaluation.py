"""That the benchmark of evaluation measures what it says. Speed itself is not a test."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from fusiondistill import build_model
from fusiondistill.bench_evaluation import _multiply_adds, bench_evaluation
from running import fusiondistill


def test_rows_of_the_benchmark() -> None:
    shown: list[dict[str, object]] = []
    rows = bench_evaluation(
        model="cifar_resnet8", size=16, images=20, degradations=["blur"], levels=2, threads=(1,), repeats=1,
        progress=shown.append,
    )  # fmt: skip
    assert rows == shown
    assert [row["name"] for row in rows] == [
        "blur 16x16, 1 thread: plain loop", "blur 16x16, 1 thread: bare forward", "16x16, two processes: one process",
    ]  # fmt: skip
    for row in rows:
        assert set(row) == {"name", "ours", "reference", "ratio", "unit", "limit"}
        assert row["unit"] == "images/s" and "n = 1" in row["limit"]
        assert row["ratio"] == pytest.approx(row["ours"] / row["reference"], rel=0.02, abs=0.006)
    assert "multiply-adds" in rows[0]["limit"]


def test_multiply_adds_of_the_papers_network() -> None:
    assert _multiply_adds(build_model("cifar_resnet56", 100), 32) == pytest.approx(0.126e9, rel=0.02)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, groups=1), nn.Conv2d(4, 4, 3, padding=1, groups=4))
    assert _multiply_adds(layers, 8) == 64 * (4 * 27 + 4 * 9)


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'fog'"):
        bench_evaluation(degradations=["fog"])
    with pytest.raises(ValueError, match="speckle has no reference"):
        bench_evaluation(degradations=["speckle"])
    with pytest.raises(ValueError, match="device 'warp' cannot be used"):
        bench_evaluation("warp")
    done = fusiondistill("bench", "evaluation", "--device", "cuda:99", "--json", str(tmp_path / "b"), cache=tmp_path)
    assert done.returncode == 2 and "cuda:99" in done.stderr and not (tmp_path / "b").exists()
