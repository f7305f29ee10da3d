"""A store in a bucket, on a real S3 server that is a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from pyarrow import fs

from bucket import KEYS, Bucket, free_port, serving
from fusiondistill.checkpoints import (
    CheckpointError,
    load_checkpoint,
    new_attempt,
    save_checkpoint,
)
from fusiondistill.config_file import parse
from fusiondistill.locations import LocationError, open_location
from fusiondistill_runner.cli import main
from fusiondistill_runner.planning.plan import Plan, build
from fusiondistill_runner.storage.holding import CLAIMS, BucketClaims, StoreBusy
from fusiondistill_runner.storage.lease import Taken, leased
from fusiondistill_runner.storage.noted_plans import note_plan
from fusiondistill_runner.storage.progress import ProgressWriter
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.watching.status import StoreWatch, status_lines
from fusiondistill_runner.watching.status_file import STATUS_FILE
from fusiondistill_runner.working.train import pack, unpack
from test_store import FOUR, fill, follows, progress


@pytest.fixture
def store(bucket: Bucket, request: pytest.FixtureRequest) -> Store:
    """An empty store, a folder of the bucket."""
    return Store(bucket.uri(f"stores/{request.node.name}"))


@pytest.fixture
def plan() -> Plan:
    return build(parse("experiment: x\nevaluation: {every: 50}\n"), "f", FOUR.__getitem__)


def spoil(store: Store, path: str, data: bytes | None) -> None:
    """Overwrite an object behind the store's back, or delete it."""
    if data is None:
        store.filesystem.delete_file(path)
    else:
        with store.filesystem.open_output_stream(path) as stream:
            stream.write(data)


def test_a_look_at_a_bucket_costs_a_listing_and_the_manifests(bucket: Bucket, store: Store, plan: Plan) -> None:
    assert store.stored(plan.stages) == (set(), []) and store.directories() == []
    fill(store, plan)
    before = len(bucket.requests())
    assert store.stored(plan.stages) == ({s.digest for s in plan.stages}, [])
    counted, new = bucket.counted(before), bucket.requests()[before:]
    assert counted == {"LIST": 1, "HEAD": len(plan.stages), "GET": len(plan.stages)}
    assert all(r["path"].endswith("/manifest.json") for r in new if "list-type" not in r["query"])
    assert store.directories() == sorted(s.directory for s in plan.stages)
    note_plan(store, plan, {})
    before = len(bucket.requests())
    (line,) = status_lines(store)
    assert f"{len(plan.stages)} of {len(plan.stages)} stages stored" in line
    assert bucket.counted(before)["GET"] == len(plan.stages) + 1


def test_watching_a_bucket_reads_one_small_file_until_a_stage_is_done(bucket: Bucket, store: Store, plan: Plan) -> None:
    def tell(finished: int, epoch: int) -> None:
        news = {"running": [{"directory": last.directory, "worker": "w", "since": 0, "epoch": epoch, "epochs": 9}]}
        at = {"state": "running", "host": "elsewhere", "process": 1, "updated": time.time(), "finished": finished}
        store.write(json.dumps({**at, "failed": 0, "seconds_left": None, **news}).encode(), STATUS_FILE)

    fill(store, plan)
    note_plan(store, plan, {})
    *_, last = plan.stages
    store.delete(last.directory)
    tell(0, 1)
    watching = StoreWatch(store)
    assert watching.look().state(last.directory) == "running on w, epoch 1/9"
    tell(0, 2)
    before = len(bucket.requests())
    assert watching.look().state(last.directory) == "running on w, epoch 2/9"
    assert bucket.counted(before) == {"HEAD": 1, "GET": 1}
    store.commit(last, {}, {"seconds": 1.0}, new_attempt())
    tell(1, 9)
    before = len(bucket.requests())
    seen = watching.look()
    assert seen.outcome == "done" and seen.state(last.directory) == "done"
    assert bucket.counted(before) == {"LIST": 1, "HEAD": 2, "GET": 2}


def test_a_file_takes_one_request_to_write_and_two_to_read(bucket: Bucket, store: Store) -> None:
    data = os.urandom(3_000_000)
    before = len(bucket.requests())
    store.write(data, "a.bin")
    assert bucket.counted(before) == {"PUT": 1}
    assert store.read_raw("a.bin") == data
    assert bucket.counted(before) == {"PUT": 1, "HEAD": 1, "GET": 1}
    assert store.read_raw("b.bin") is None


def test_without_one_stage_only_it_and_what_follows_is_missing(store: Store, plan: Plan) -> None:
    fill(store, plan)
    lost = next(s for s in plan.stages if s.name == "expert-noise")
    store.delete(lost.directory)
    stored, damage = store.stored(plan.stages)
    assert {s.digest for s in plan.stages} - stored == {s.digest for s in plan.stages if follows(s, lost)}
    assert damage == []
    store.discard(lost.directory)  # is not there any more


@pytest.mark.parametrize("harm", ["cut", "gone", "manifest"])
def test_damage_that_a_listing_shows_is_found_at_once(store: Store, plan: Plan, harm: str) -> None:
    fill(store, plan)
    base = plan.stages[0]
    manifest = store.manifest(base)
    assert manifest is not None
    path = store.path(base.directory, manifest["files"]["a.bin"]["file"])
    if harm == "manifest":
        spoil(store, store.path(base.directory, "manifest.json"), b'{"half": ')
    else:
        spoil(store, path, None if harm == "gone" else base.digest.encode()[:-1])
    stored, (message,) = store.stored(plan.stages)
    assert base.digest not in stored
    assert {"cut": "63 bytes, the manifest says 64", "gone": "missing", "manifest": "damaged"}[harm] in message


def test_damage_of_the_same_size_is_found_when_used_and_then_made_again(store: Store, plan: Plan) -> None:
    fill(store, plan)
    base = plan.stages[0]
    manifest = store.manifest(base)
    assert manifest is not None
    sound = base.digest.encode()
    spoil(store, store.path(base.directory, manifest["files"]["a.bin"]["file"]), sound[:-1] + b"?")
    assert store.stored(plan.stages)[0] == {s.digest for s in plan.stages}  # sizes alone
    with pytest.raises(CheckpointError, match=r"a\.\w+\.bin is damaged"):
        store.read(base, "a.bin")
    stored, (message,) = Store(store.location).stored(plan.stages)  # somebody else's look
    assert base.digest not in stored and "is damaged" in message
    store.commit(base, {"a.bin": sound, "b.txt": b"text"}, {}, new_attempt())
    assert base.digest in store.stored(plan.stages)[0]
    names = {info.base_name for info in store.filesystem.get_file_info(fs.FileSelector(store.path(base.directory)))}
    assert "damaged.txt" not in names


def test_progress_goes_round(bucket: Bucket, store: Store, plan: Plan) -> None:
    base = plan.stages[0]
    writer = ProgressWriter(store, base, "first")
    before = len(bucket.requests())
    for epoch in (1, 2, 5):
        writer.save(epoch, pack(progress(epoch)))
        found = unpack(Store(store.location).load_progress(base))
        assert found is not None and found.epoch == epoch == store.epochs_stored(base.directory)
    assert bucket.counted(before)["PUT"] == 6 and "DELETE" not in bucket.counted(before)
    store.commit(base, {"a.bin": b"a"}, {}, "second")
    names = {info.base_name for info in store.filesystem.get_file_info(fs.FileSelector(store.path(base.directory)))}
    assert names == {"a.second.bin", "manifest.json"}


def test_progress_takes_a_tenth_of_the_time_at_most(tmp_path: Path, plan: Plan, monkeypatch) -> None:
    """Half a second a request, epochs of a twentieth: hardly one is stored. On a disk every one is."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    base, epochs = plan.stages[0], 200
    with serving(tmp_path, delay=0.1) as slow:
        Store(slow.uri()).write(b"", "the first request takes longer")
        writer = ProgressWriter(Store(slow.uri()), base, "a")
        began, spent, kept = time.monotonic(), 0.0, []
        for epoch in range(1, epochs + 1):
            time.sleep(0.02)
            if writer.due(epoch, epochs):
                start = time.monotonic()
                writer.save(epoch, b"state")
                spent += time.monotonic() - start
                kept.append(epoch)
        assert kept[0] == 1 and len(kept) < 10 and kept[-1] < epochs
        assert spent < 0.2 * (time.monotonic() - began) + 0.5  # the first one is on top
    local = ProgressWriter(Store(tmp_path / "local"), base, "a")
    for epoch in range(1, 4):
        assert local.due(epoch, 3)
        local.save(epoch, b"state")


HOLD = """
import sys, time
from fusiondistill_runner.storage.store import Store
with Store(sys.argv[1]).held():
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_driver_holds_a_bucket(store: Store) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, store.location], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(StoreBusy, match=rf"in use by process {holder.pid} on \S+ since 20"), store.held():
            pass
        holder.kill()
        holder.wait(60)
        began = time.monotonic()
        with store.held():
            assert time.monotonic() - began < 5  # its process is gone: no need to wait
        with store.held():  # released at the end of the block, too
            pass
    finally:
        holder.kill()
        holder.wait(60)
    assert not BucketClaims(store.filesystem, store.path(CLAIMS)).names()


def test_a_lease_of_another_machine_ends_when_its_signs_do(store: Store) -> None:
    """What a holder on another machine leaves when it dies."""
    claims = BucketClaims(store.filesystem, store.path(CLAIMS))
    dead = {"who": "process 1 on elsewhere", "machine": "elsewhere", "process": 1, "beat": 7, "held": True}
    claims.write("dead", json.dumps(dead).encode())
    began = time.monotonic()
    with leased(claims, 2.0):
        assert time.monotonic() - began >= 5 and len(claims.names()) == 1
        with pytest.raises(Taken, match=f"process {os.getpid()} on "), leased(claims, 2.0):
            pass


def test_checkpoints_go_to_a_bucket_and_back(bucket: Bucket) -> None:
    import torch

    weights = {"w": torch.arange(3)}
    for name in ("single.safetensors", "directory"):
        save_checkpoint(bucket.uri(f"checkpoints/{name}"), weights, {"model": "m"})
        state, card = load_checkpoint(bucket.uri(f"checkpoints/{name}"))
        assert state["w"].tolist() == [0, 1, 2] and card == {"model": "m"}
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(bucket.uri("checkpoints/none.safetensors"))


def test_locations_are_given_in_many_ways(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for given, expected in (
        ("runs/x", tmp_path / "runs/x"),
        ("~/x", tmp_path / "home/x"),
        (tmp_path.as_uri(), tmp_path),
    ):
        store = Store(given)
        assert store.root == str(expected) and not store.remote
        store.write(b"1", "a")
        assert (expected / "a").read_bytes() == b"1"
    assert Store(tmp_path.as_uri()).location == str(tmp_path)
    assert open_location("gs://shelf/x/")[1] == "shelf/x"
    for given, message in (
        ("s3://key:secret@shelf/x", "set AWS_ACCESS_KEY_ID"),
        ("s3://shelf/x?regoin=here", "unknown setting 'regoin'; known: region"),
        ("s3:///x", "names no bucket"),
        ("ftp://shelf/x", "is no location"),
    ):
        with pytest.raises(LocationError, match=message):
            open_location(given)


def told(config: Path, store: str) -> tuple[list[int], str, float]:
    """What run, plan, status and report answer: exit codes, messages, seconds of the slowest."""
    codes, said, slowest = [], "", 0.0
    for line in (["run", str(config), "--store", store], ["plan", str(config), "--store", store],
                 ["status", store], ["report", store]):  # fmt: skip
        began = time.monotonic()
        done = CliRunner().invoke(main, line)
        slowest = max(slowest, time.monotonic() - began)
        assert isinstance(done.exception, SystemExit), done.exception
        codes.append(done.exit_code)
        said += done.output
    return codes, said, slowest


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text("experiment: tiny\ndata: {name: digits, train_images: 100, test_images: 20}\n")
    return path


def test_no_such_bucket_is_said_at_once(bucket: Bucket, config: Path) -> None:
    codes, said, _ = told(config, bucket.uri(bucket="nobody"))
    assert codes == [2, 2, 2, 2] and said.count("there is no such bucket") == 4


def test_wrong_credentials_are_said_at_once(config: Path, tmp_path: Path, monkeypatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with serving(tmp_path, INITIAL_NO_AUTH_ACTION_COUNT="3") as strict:
        while not strict.refuses():
            pass  # the first few requests pass
        codes, said, _ = told(config, strict.uri())
    assert codes == [2, 2, 2, 2] and said.count("these credentials are refused (INVALID_ACCESS_KEY_ID") == 4


def test_a_server_that_is_not_there_is_said_soon(config: Path, monkeypatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    absent = Bucket(free_port(), Path())
    codes, said, seconds = told(config, absent.uri())
    assert codes == [1, 1, 1, 1] and said.count("the server does not answer") == 4
    assert seconds < 30


def test_a_server_that_says_nothing_is_given_up(monkeypatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("fusiondistill.locations.SILENCE", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ConnectionError, match="does not answer"):
            Store(Bucket(silent.getsockname()[1], Path()).uri()).glance()
