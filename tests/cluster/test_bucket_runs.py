"""Whole experiments in a bucket: the command line and a real S3 server; one through Ray, the others must equal it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bucket import Bucket
from fusiondistill_runner.storage.store import Store
from running import fusiondistill, started, wait_for

pytestmark = pytest.mark.slow

CONFIG = """
experiment: shelved
seeds: [0]
data: {name: digits, train_images: 600, test_images: 50}
model: {name: cifar_resnet8}
methods: [base, oracle]
degradations: [blur]
base: {epochs: 12, batch_size: 16}
expert: {epochs: 3, batch_size: 32}
evaluation: {every: 25}
resources: {workers: 1}
"""


@pytest.fixture(scope="module")
def finished(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Store, Path]:
    """(config, store, cache) of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    config, cache, store = folder / "config.yaml", folder / "cache", bucket.uri("runs/first")
    config.write_text(CONFIG)
    done = fusiondistill("run", str(config), "--store", store, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 stages done" in done.stdout
    assert "report: s3://shelf/runs/first/report/index.html" in done.stdout
    return config, Store(store), cache


def files(store: Store, pattern: str) -> dict[str, bytes]:
    """Stage -> content of its file of that name."""
    found = {}
    for directory in store.directories():
        manifest = store.manifest_of(directory)
        if manifest and pattern in manifest["files"]:
            found[directory] = store.read_from(directory, pattern)
    return found


def results(store: Store) -> list[dict[str, Any]]:
    table: pa.Table = pq.read_table(pa.BufferReader(store.read_raw("results.parquet") or b""))
    return [{k: v for k, v in row.items() if k != "stage"} for row in table.to_pylist()]


def test_what_is_stored_is_found_by_every_verb(bucket: Bucket, finished: tuple[Path, Store, Path]) -> None:
    config, store, cache = finished
    assert len(files(store, "model.safetensors")) == 2 and len(results(store)) == 9
    page = store.read_raw("report", "index.html")
    assert page is not None and len(page) > 10_000
    before = len(bucket.requests())
    again = fusiondistill("run", str(config), "--store", store.location, cache=cache)
    assert again.returncode == 0 and "6 stages, 6 stored, nothing to do" in again.stdout, again.stderr
    assert len(bucket.requests()) - before < 170  # of five tables and a page; few one after another
    weights = [r for r in bucket.requests()[before:] if "safetensors" in r["path"]]
    assert not weights  # nobody downloads them to say so
    plan = fusiondistill("plan", str(config), "--stages", "--store", store.location, cache=cache)
    assert plan.returncode == 0 and plan.stdout.count("  stored   ") == 6
    status = fusiondistill("status", store.location, cache=cache)
    assert "6 of 6 stages stored in s3://shelf/runs/first" in status.stdout
    store.filesystem.delete_file(store.path("report", "index.html"))
    report = fusiondistill("report", store.location, cache=cache)
    assert report.returncode == 0 and store.read_raw("report", "index.html") is not None


def test_a_killed_process(bucket: Bucket, finished: tuple[Path, Store, Path]) -> None:
    config, reference, cache = finished
    store = Store(bucket.uri("runs/second"))

    def epochs() -> int:
        return max([0, *(store.epochs_stored(d) for d in store.directories() if d.startswith("base-"))])

    with started("run", str(config), "--local", "--store", store.location, cache=cache) as process:
        wait_for(lambda: epochs() >= 2)
        process.kill()
    assert not files(store, "model.safetensors")
    status = fusiondistill("status", store.location, cache=cache)
    assert "base, seed 0: " in status.stdout and " stored" in status.stdout
    again = fusiondistill("run", str(config), "--local", "--store", store.location, cache=cache)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "found stored, going on from there" in again.stdout
    assert files(store, "model.safetensors") == files(reference, "model.safetensors")
    assert results(store) == results(reference)


def test_a_damaged_object_is_found_when_used_and_made_again(finished: tuple[Path, Store, Path], tmp_path: Path) -> None:
    config, store, cache = finished
    sound = files(store, "model.safetensors")
    (base,) = (d for d in store.directories() if d.startswith("base-"))
    manifest = store.manifest_of(base)
    assert manifest is not None
    entry = manifest["files"]["model.safetensors"]
    with store.filesystem.open_output_stream(store.path(base, entry["file"])) as stream:
        stream.write(bytes(entry["bytes"]))  # of the right size
    model = store.shown(base) + "?" + store.location.partition("?")[2]
    judged = fusiondistill("evaluate", model, "--data", "digits", "--store", str(tmp_path / "judged"), cache=cache)
    assert judged.returncode == 2 and "is damaged" in judged.stderr, judged.stderr
    other = ("--local", "--store", store.location, "--set", "expert.epochs=1")
    more = fusiondistill("run", str(config), *other, cache=cache)
    assert more.returncode == 1 and "is damaged" in more.stderr, more.stderr  # the new expert rests on it
    mended = fusiondistill("run", str(config), "--local", "--store", store.location, cache=cache)
    assert mended.returncode == 0 and "damaged, will be made again" in mended.stderr, mended.stderr
    assert files(store, "model.safetensors") == sound
    assert json.loads(store.read_raw("plans", "shelved.json") or b"{}")["experiment"] == "shelved"
