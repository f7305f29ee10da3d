"""What happens to a store while a real run is at work: full, unreachable, damaged, taken over. Nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bucket import Bucket, Gate
from fusiondistill.checkpoints import CheckpointError
from fusiondistill_runner.storage.holding import CLAIMS, BucketClaims
from fusiondistill_runner.storage.store import Store
from running import counts, finished, fusiondistill, stages, started, wait_for, weights

pytestmark = pytest.mark.slow

CONFIG = """
experiment: kept
seeds: [0]
data: {name: digits, train_images: 600, test_images: 50}
model: {name: cifar_resnet8}
methods: [base, oracle]
degradations: [blur]
base: {epochs: 12, batch_size: 16}
expert: {epochs: 2, batch_size: 32}
evaluation: {every: 25}
resources: {workers: 1}
"""


@pytest.fixture(scope="module")
def undisturbed() -> tuple[Path, Path, Path]:
    """(config, store, cache) of a run that nothing happened to."""
    return finished(CONFIG)


@pytest.fixture(scope="module")
def two_cpus(bucket: Bucket, two_cpus: str) -> str:
    """The address of a cluster whose node, which starts after the bucket, has its credentials."""
    return two_cpus


LONG = 400
"""Seconds until a run counts as hanging, also on a machine that does much else."""


def epochs(store: Store) -> int:
    """Of the base, as long as it is unfinished."""
    return max([0, *(store.epochs_stored(name) for name in store.directories() if name.startswith("base-"))])


def half_way(store: Store) -> bool:
    """Whether the base has an epoch stored and one to go."""
    found = epochs(store)
    assert not any(name.startswith("base-") and store.manifest_of(name) for name in store.directories())
    return 2 <= found < 12


def same_as(reference: Path, store: Store) -> bool:
    """Whether a store holds the weights and counts of a directory, to the bit."""
    import pyarrow as pa

    held = {}
    for name in store.directories():
        manifest = store.manifest_of(name)
        if manifest and "model.safetensors" in manifest["files"]:
            held[name] = store.read_from(name, "model.safetensors")
    table: pa.Table = pq.ParquetFile(pa.BufferReader(store.read_raw("results.parquet") or b"")).read()
    rows = {(r["method"], r["seed"], r["degradation"], r["level"]): (r["right"], r["seen"]) for r in table.to_pylist()}
    return held == weights(reference) and rows == counts(reference)


def test_a_full_disk(undisturbed: tuple[Path, Path, Path], tmp_path: Path) -> None:
    config, reference, cache = undisturbed
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        store, ballast = Store(disk / "store"), disk / "ballast"
        with started("run", str(config), "--local", "--store", store.location, cache=cache) as process:
            wait_for(lambda: half_way(store), LONG)
            with pytest.raises(OSError, match="No space left"), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            output, errors = process.communicate(timeout=LONG)
        assert process.returncode == 1, output + errors
        assert f"{store.location}/" in errors and "cannot be written: No space left on device" in errors
        assert " are free in " in errors and "Make room and start the same command again" in errors
        assert "Traceback" not in errors
        assert not stages(disk / "store", "*")
        assert not list((disk / "store").glob("*/.*.????????"))  # nothing half-written
        reached = epochs(store)
        assert reached >= 2
        ballast.unlink()
        again = fusiondistill("run", str(config), "--local", "--store", store.location, cache=cache)
        assert again.returncode == 0, again.stdout + again.stderr
        assert f"base: epoch {reached}/12, found stored" in again.stdout, again.stdout
        assert same_as(reference, store)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_store_that_is_moved_away_and_back(
    undisturbed: tuple[Path, Path, Path], tmp_path: Path, two_cpus: str
) -> None:
    config, reference, cache = undisturbed
    place, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    store = Store(place)
    with started("run", str(config), "--store", str(place), cache=cache, address=two_cpus) as process:
        wait_for(lambda: half_way(store), LONG)
        place.rename(elsewhere)
        output, errors = process.communicate(timeout=LONG)
    assert process.returncode == 1 and f"{place} is gone (No such file or directory)" in errors, output + errors
    assert "Traceback" not in errors and not place.exists()
    elsewhere.rename(place)
    reached = epochs(store)
    assert 2 <= reached < 12
    again = fusiondistill("run", str(config), "--local", "--store", str(place), cache=cache)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"base: epoch {reached}/12, found stored" in again.stdout, again.stdout
    assert same_as(reference, store)


def test_a_gap_in_the_network(undisturbed: tuple[Path, Path, Path], bucket: Bucket) -> None:
    """A short one is waited for; after a long one the run ends and says why, and the same command goes on."""
    config, reference, cache = undisturbed
    gate = Gate(bucket.port)
    gate.open()
    store, through = Store(bucket.uri("gap")), replace(bucket, port=gate.port).uri("gap")
    patient, hasty = ({"FUSIONDISTILL_WAIT_FOR_STORE": seconds} for seconds in ("120", "2"))
    line = ("run", str(config), "--local", "--store", through)
    with started(*line, cache=cache, around=hasty) as process:
        wait_for(lambda: half_way(store), LONG)
        gate.shut()
        output, errors = process.communicate(timeout=LONG)
    assert process.returncode == 1 and "the server does not answer" in errors, output + errors
    assert "Traceback" not in errors
    reached = epochs(store)
    assert 2 <= reached < 12
    gate.open()
    with started(*line, cache=cache, around=patient) as process:
        wait_for(lambda: half_way(store) and epochs(store) > reached, LONG)
        gate.shut()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(5)
        gate.open()
        output, errors = process.communicate(timeout=LONG)
    assert process.returncode == 0, output + errors
    assert "was lost" not in output and same_as(reference, store)
    gate.shut()


def test_a_driver_that_was_stopped_while_another_took_over(
    undisturbed: tuple[Path, Path, Path], bucket: Bucket, two_cpus: str
) -> None:
    """Its workers go on, the other driver does the same work: nothing is mixed, and it leaves when it wakes up."""
    config, reference, cache = undisturbed
    store = Store(bucket.uri("stopped"))
    folder = BucketClaims(store.filesystem, store.path(CLAIMS))
    line = ("run", str(config), "--store", store.location)

    def held_by(process: int) -> bool:
        claims = [json.loads(data) for name in folder.names() if (data := folder.read(name))]
        return any(claim["held"] and claim["process"] == process for claim in claims)

    with started(*line, cache=cache, address=two_cpus) as first:
        wait_for(lambda: half_way(store) or first.poll() is not None, LONG)
        assert first.poll() is None, first.said()
        first.send_signal(signal.SIGSTOP)
        with started(*line, "--local", cache=cache) as second:
            wait_for(lambda: held_by(second.pid), LONG)
            first.send_signal(signal.SIGCONT)
            _, errors = first.communicate(timeout=LONG)
            assert first.returncode == 1 and f"was taken over by process {second.pid} on " in errors, errors
            output, errors = second.communicate(timeout=LONG)
            assert second.returncode == 0, output + errors
    assert same_as(reference, store) and folder.names() == []


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_damage_of_every_kind_is_named_and_made_again(undisturbed: tuple[Path, Path, Path], tmp_path: Path) -> None:
    config, reference, cache = undisturbed
    store = tmp_path / "store"
    shutil.copytree(reference, store)
    (model,) = store.glob("expert-blur-*/model.*.safetensors")
    (manifest,) = store.glob("evaluate-base-*/manifest.json")
    flip(model)
    os.truncate(manifest, manifest.stat().st_size // 2)
    for view in (store / "results.parquet", store / "comparisons.parquet", store / "plans" / "kept.json"):
        flip(view)
    status = fusiondistill("status", str(store), cache=cache)
    assert status.returncode == 2 and "plans/kept.json is damaged" in status.stderr
    mended = fusiondistill("run", str(config), "--local", "--store", str(store), cache=cache)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    for path in (model, manifest):
        assert f"damaged, will be made again: {path} is damaged" in mended.stderr
    assert same_as(reference, Store(store))
    with pytest.raises(CheckpointError, match="does not exist"):  # not one that was never there
        from fusiondistill_runner.storage.noted_plans import plans

        plans(Store(tmp_path / "nowhere"))
