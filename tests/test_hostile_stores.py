"""Stores and checkpoints made by a stranger: what they name stays inside the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fusiondistill import build_model
from fusiondistill.checkpoints import MODEL, CheckpointError, card_of, commit, open_location, to_safetensors
from fusiondistill_runner.driving.prepared import prepare_evaluation
from fusiondistill_runner.storage.store import Store

CARD = card_of("cifar_resnet8", None, classes=[str(i) for i in range(10)], mean=(1, 1, 1), std=(1, 1, 1),
               size=(16, 16), dataset="digits")  # fmt: skip


def checkpoint(folder: Path, **facts: Any) -> str:
    """A sound checkpoint whose manifest says of itself what it likes."""
    filesystem, place = open_location(folder / "given")
    data = to_safetensors(build_model("cifar_resnet8", 10).state_dict(), CARD)
    commit(filesystem, place, {MODEL: data}, facts, "a")
    return place


def rows(folder: Path, **facts: Any) -> set[tuple[str, int]]:
    found = prepare_evaluation([checkpoint(folder, **facts)], (), str(folder / "store"), data="digits")
    assert all("/" not in stage.directory and ".." not in stage.directory for stage in found.plan.stages)
    return {(row.method, row.seed) for row in found.plan.rows}


@pytest.mark.parametrize("name", ["expert-../../../x", "expert-/etc", "expert-", "expert-a b", "expert-a\n", ["base"]])
def test_a_manifest_cannot_name_a_row_that_leads_elsewhere(name: Any, tmp_path: Path) -> None:
    assert rows(tmp_path, name=name, seed=3) == {("given", 0)}


def test_a_manifest_names_its_row_and_seed(tmp_path: Path) -> None:
    assert rows(tmp_path, name="expert-zoom_blur", seed=3) == {("expert-zoom_blur", 3)}
    assert rows(tmp_path, name="fused", seed=4) == {("fused", 4)}
    assert rows(tmp_path, name="ties-dkd", seed=5) == {("ties-dkd", 5)}


@pytest.mark.parametrize("seed", [[1], "1", None, True, 1.5, 2**63])
def test_a_manifest_whose_seed_is_none(seed: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="given has a manifest whose seed is none"):
        rows(tmp_path, name="base", seed=seed)


@pytest.mark.parametrize("name", ["", ".", "..", "/etc", "../x", "expert-../../x", "a/", "a//b", "a/./b"])
def test_no_name_leads_out_of_a_store(name: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.path("report", "figures/a.png").endswith("/store/report/figures/a.png")
    (tmp_path / "x").mkdir()
    store.discard(name)
    for use in (store.delete, store.manifest_of, store.read_raw, lambda part: store.write(b"", part)):
        with pytest.raises(CheckpointError, match="leads out of the store"):
            use(name)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
