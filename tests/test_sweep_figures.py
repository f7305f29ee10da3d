"""Figures of a sweep over numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fusiondistill import report
from fusiondistill.report.figures import Pictures
from fusiondistill.report.sweep_figures import sweep_pictures
from fusiondistill_runner.storage import noted_plans
from fusiondistill_runner.views import results
from fusiondistill_runner.views.sweep_axes import axes_table
from shelf import Shelf, drawn

RATES = (0.001, 0.01, 0.1)


def swept(path: Path, points: dict[str, dict[str, Any]]) -> list[Any]:
    """The figures of a sweep whose points have these settings of the method ``expert``; fusing was measured at each."""
    for order, (name, settings) in enumerate(points.items()):
        shelf = Shelf(path, f"s.{name}", levels={"blur": [0, 7]})
        shelf.plan |= {"sweep": "s", "order": order}
        config = shelf.plan["config"]
        config["table"] = {**config.get("table", {}), "expert": settings, "like": dict(settings)}
        for seed in (0, 1):
            shelf.piece("fusing", seed, "blur", drawn(2, 0.3 + 0.1 * order, 10 * order + seed), (0, 7))
        table = shelf.write()
    plans = noted_plans.plans(shelf.store)
    groups = report.summarise(table, planned=results.planned_table(plans, table))
    pictures = [*sweep_pictures(Pictures(), axes_table(plans), groups)]
    means = {g.experiment: g.rows[0].average.interval.mean for g in groups}  # type: ignore[union-attr]
    said = " ".join(picture.alt for picture in pictures)
    assert not pictures or all(f"{means[f's.{name}']:.1f}" in said for name in points)
    return pictures


@pytest.mark.parametrize("kept", [["16"], ["4", "16"]])
def test_a_line_for_each_row_along_the_key_with_the_most_numbers(kept: list[str], tmp_path: Path) -> None:
    points = {f"{lr}-at {epochs}": {"optimizer": {"lr": lr}, "epochs": int(epochs)} for lr in RATES for epochs in kept}
    pictures = swept(tmp_path, points)
    varied = [f"expert.optimizer.lr at expert.epochs {epochs}" for epochs in kept]
    assert [p.title for p in pictures] == (varied if len(kept) > 1 else ["expert.optimizer.lr"])
    for picture in pictures:
        assert "0.001, 0.01, 0.1" in picture.alt and "Fusing: " in picture.alt and "n = 2 seeds" in picture.caption
        assert b"0.01" in picture.svg, "a logarithmic axis names each value"


@pytest.mark.parametrize(
    "points",
    [
        {"a": {"epochs": 1}, "b": {"epochs": 2}},
        {name: {"kind": name} for name in "abc"},
        {f"{i}": {"epochs": i, "lr": i // 2, "crop": i // 3} for i in range(6)},
    ],
    ids=["two numbers", "words", "three keys"],
)
def test_other_sweeps_have_no_figure(points: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    assert swept(tmp_path, points) == []


def test_a_store_without_a_sweep_has_no_axes() -> None:
    assert axes_table([{"experiment": "a", "config": {"data": {}}}]) is None
