"""Every file of a finished store, changed by one bit or cut short: found, named and made again; nothing is used."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fusiondistill.checkpoints import CheckpointError
from fusiondistill.progress import Progress
from fusiondistill_runner.planning.rows import Plan
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.storage import noted_plans
from fusiondistill_runner.storage.parquet import parquet_bytes, read_parquet
from fusiondistill_runner.storage.store import PROGRESS, Store
from fusiondistill_runner.views import results
from fusiondistill_runner.working.train import pack
from shelf import PLAN, Shelf, drawn


def contents(stage: Stage) -> dict[str, bytes]:
    """What a stage of this kind leaves, made of its digest alone: made again it is the same."""
    if stage.kind == "evaluate":
        table = {"level": pa.array([0, 50], pa.int64()), "right": pa.array([3, 2], pa.int64()), "seen": [4, 4]}
        images = {"label": np.arange(4, dtype=np.int16), "right": np.array([2, 1, 1, 1], np.int16)}
        return {"counts.parquet": parquet_bytes(pa.table(table)), "images.parquet": parquet_bytes(pa.table(images))}
    if stage.kind == "validate":
        return {}
    return {"model.safetensors": stage.digest.encode() * 4, "metrics.parquet": b"PAR1" + stage.digest.encode()}


def complete(store: Store, plan: Plan) -> list[str]:
    """Do what is missing, as a run would; returns what it said about damage."""
    stored, damage = store.stored(plan.stages)
    for stage in plan.stages:
        if stage.digest not in stored:
            store.commit(stage, contents(stage), {"seconds": 1.0}, stage.digest[:8])
    return damage


def everything(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


SMALL = Plan(PLAN.config, tuple(s for s in PLAN.stages if s.name in ("base", "expert-jpeg", "evaluate-base-blur")), ())


@pytest.mark.parametrize("harm", ["first", "middle", "last", "cut", "emptied", "gone"])
def test_every_committed_file(harm: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    complete(store, SMALL)
    sound = everything(tmp_path / "store")
    assert len(sound) == 3 * len(SMALL.stages)
    for name, data in sound.items():
        path = tmp_path / "store" / name
        if harm == "gone":
            path.unlink()
        else:
            path.write_bytes(harmed(data, harm))
        damage = complete(store, SMALL)
        if harm != "gone" or path.name != "manifest.json":
            assert len(damage) == 1 and str(path) in damage[0], (name, damage)
        assert everything(tmp_path / "store") == sound, name
        assert complete(store, SMALL) == []


def harmed(data: bytes, harm: str) -> bytes:
    if harm == "emptied":
        return b""
    if harm == "unsealed":
        return re.sub(rb'"seal": "\w+"', b'"other": 1', data)
    if harm == "cut":
        return data[: len(data) * 2 // 3]
    at = {"first": 0, "middle": len(data) // 2, "last": len(data) - 1}[harm]
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_every_bit_of_a_manifest(tmp_path: Path) -> None:
    """Its seal covers all of it: the reader finds each changed bit, or the bit changes nothing that it reads."""
    store, stage = Store(tmp_path), SMALL.stages[0]
    complete(store, SMALL)
    path, said = tmp_path / stage.directory / "manifest.json", store.manifest(stage)
    sound = path.read_bytes()
    for at in range(0, len(sound), 7):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ (1 << at % 8)]) + sound[at + 1 :])
        try:
            assert store.manifest_of(stage.directory) == said
        except CheckpointError as error:
            assert str(path) in str(error)


HARMS = itertools.product(("state", "pointer"), ("first", "middle", "last", "cut", "emptied", "gone"))


@pytest.mark.parametrize(("what", "harm"), [*HARMS, ("pointer", "unsealed")])
def test_the_epochs_of_an_unfinished_training(what: str, harm: str, tmp_path: Path) -> None:
    store, stage = Store(tmp_path), SMALL.stages[0]
    state = pack(_progress())
    store.save_progress(stage, 1, state, "a")
    assert store.stored([stage]) == (set(), []) and store.load_progress(stage) == state
    path = tmp_path / stage.directory / (PROGRESS if what == "pointer" else "last.a.1.pt")
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(harmed(path.read_bytes(), harm))
    stored, damage = store.stored([stage])
    assert store.load_progress(stage) is None and not stored
    if (what, harm) != ("pointer", "gone"):
        assert len(damage) == 1 and str(path) in damage[0]
    store.save_progress(stage, 1, state, "b")
    assert store.stored([stage]) == (set(), []) and store.load_progress(stage) == state


def _progress() -> Progress:
    return Progress(epoch=1, model={}, optimizer={}, best={}, best_epoch=1, best_score=0.5, rows=[{"epoch": 1}])


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Two methods that differ, on four degradations, with their paired test."""
    shelf = Shelf(tmp_path / "store")
    for number, method in enumerate(("base", "vanilla")):
        for degradation in ("jpeg", "blur", "noise", "saltpepper"):
            shelf.piece(method, 0, degradation, drawn(2, 0.5 + 0.3 * number, number), [0, 50])
    shelf.write()
    return shelf


@pytest.mark.parametrize("name", ["results.parquet", "comparisons.parquet"])
def test_views_are_made_again_whatever_became_of_them(name: str, shelf: Shelf) -> None:
    path = Path(shelf.store.path(name))
    sound = path.read_bytes()
    places = {*range(0, len(sound), max(1, len(sound) // 20)), sound.index(b"base"), sound.index(b"vanilla")}
    for at, bit in itertools.product(sorted(places), (2, 0x80)):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ bit]) + sound[at + 1 :])
        results.write_results(shelf.store)
        assert path.read_bytes() == sound, at
    for size in (0, len(sound) // 2, len(sound) - 1):
        os.truncate(path, size)
        results.write_results(shelf.store)
        assert path.read_bytes() == sound


def test_a_table_that_claims_to_be_huge_is_not_read(shelf: Shelf) -> None:
    """Half a megabyte for a hundred million equal values: memory is not made room for, and the tests are made again."""
    many = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2**27, np.int8)), pa.array([0.5]))
    lie = parquet_bytes(pa.table({"p": many}))
    assert len(lie) < 2**20
    with pytest.raises(CheckpointError, match="claims to hold 134,217,728 rows"):
        read_parquet(lie)
    sound = Path(shelf.store.path("comparisons.parquet")).read_bytes()
    shelf.store.write(lie, "comparisons.parquet")
    results.write_results(shelf.store)
    assert Path(shelf.store.path("comparisons.parquet")).read_bytes() == sound


def test_a_changed_figure_of_the_paired_tests_is_not_taken_over(shelf: Shelf) -> None:
    """Written by pyarrow, so that the file itself is sound: its digest tells."""
    sound: Any = results.kept_table(shelf.store, "comparisons")
    lie = sound.set_column(sound.schema.get_field_index("p"), "p", pa.array([0.0] * len(sound)))
    assert lie.schema.metadata == sound.schema.metadata and not lie.equals(sound)
    shelf.store.write(parquet_bytes(lie), "comparisons.parquet")
    results.write_results(shelf.store)
    assert results.kept_table(shelf.store, "comparisons").equals(sound)  # type: ignore[union-attr]


def test_every_byte_of_a_plan(shelf: Shelf) -> None:
    store, path = shelf.store, Path(shelf.store.path("plans", "x.json"))
    (said,) = noted_plans.plans(store)
    sound = path.read_bytes()
    for at in range(0, len(sound), 97):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ (1 << at % 8)]) + sound[at + 1 :])
        try:
            (found,) = noted_plans.plans(store)
            assert {key: found[key] for key in said} == said
        except CheckpointError as error:
            assert str(path) in str(error) and "run the config again" in str(error)
    unsealed = json.dumps({**json.loads(sound), "seal": None}).encode()
    for broken in (b"", sound[:1], sound[: len(sound) // 2], sound[:-1], unsealed, json.dumps(shelf.plan).encode()):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"x\.json is damaged"):
            noted_plans.plans(store)
    shutil.rmtree(path.parent)
    with pytest.raises(CheckpointError, match="is no store"):
        noted_plans.plans(store)
