"""The store: what counts as stored, what is damaged, who may write, and what is swept away."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fusiondistill.checkpoints import CheckpointError, commit, new_attempt, to_safetensors
from fusiondistill.config_file import parse
from fusiondistill.progress import Progress
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.rows import Plan
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.storage.holding import StoreBusy
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.working.context import Context
from fusiondistill_runner.working.execute import execute, note_error
from fusiondistill_runner.working.metrics import LiveEvents
from fusiondistill_runner.working.train import pack, unpack
from fusiondistill_runner.working.trial import train_candidate

FOUR = {"jpeg": range(1, 102), "blur": range(51), "noise": range(51), "saltpepper": range(26)}


@pytest.fixture
def plan() -> Plan:
    return build(parse("experiment: x\nevaluation: {every: 50}\n"), "f", FOUR.__getitem__)


def fill(store: Store, plan: Plan) -> None:
    for stage in plan.stages:
        store.commit(stage, {"a.bin": stage.digest.encode(), "b.txt": b"text"}, {"seconds": 1.0}, new_attempt())


def follows(stage: Stage, what: Stage) -> bool:
    return stage is what or any(follows(needed, what) for needed in stage.inputs.values())


def test_a_new_store_holds_nothing(tmp_path: Path, plan: Plan) -> None:
    store = Store(tmp_path / "store")
    assert store.directories() == [] and store.stored(plan.stages) == (set(), [])
    base = plan.stages[0]
    assert store.intact(base) == "not stored" and store.manifest(base) is None
    assert store.load_progress(base) is None and store.directories() == []
    with pytest.raises(CheckpointError, match="is not stored"):
        store.read(base, "a.bin")


def test_a_filled_store_needs_nothing_and_remembers_why(tmp_path: Path, plan: Plan) -> None:
    store = Store(tmp_path)
    fill(store, plan)
    assert store.stored(plan.stages) == ({s.digest for s in plan.stages}, [])
    assert store.directories() == sorted(s.directory for s in plan.stages)
    expert = next(s for s in plan.stages if s.name == "expert-blur")
    assert Store(str(tmp_path)).read(expert, "a.bin") == expert.digest.encode()
    manifest = store.manifest(expert)
    assert manifest is not None and manifest["spec"]["recipe"]["optimizer"]["name"] == "radam"
    base = next(s for s in plan.stages if s.name == "base")
    assert manifest["inputs"] == {"start": base.directory, "teacher-blur": base.directory}
    assert (manifest["digest"], manifest["kind"], manifest["seconds"]) == (expert.digest, "train", 1.0)


@pytest.mark.parametrize("name", ["base", "expert-noise", "fused", "fusiondistill", "evaluate-base-jpeg"])
def test_without_one_directory_only_it_and_what_follows_is_missing(tmp_path: Path, plan: Plan, name: str) -> None:
    store = Store(tmp_path)
    fill(store, plan)
    lost = next(s for s in plan.stages if s.name == name)
    shutil.rmtree(tmp_path / lost.directory)
    stored, damage = store.stored(plan.stages)
    assert {s.digest for s in plan.stages} - stored == {s.digest for s in plan.stages if follows(s, lost)}
    assert damage == []


def test_damage_is_told_and_counts_as_missing(tmp_path: Path, plan: Plan) -> None:
    store = Store(tmp_path)
    fill(store, plan)
    one, two, three = (next(s for s in plan.stages if s.name == n) for n in ("expert-jpeg", "scratch", "vanilla"))
    flipped = next((tmp_path / one.directory).glob("a.*"))
    flipped.write_bytes(bytes([flipped.read_bytes()[0] ^ 1]) + flipped.read_bytes()[1:])
    (tmp_path / two.directory / "manifest.json").write_text('{"digest": ')
    gone = next((tmp_path / three.directory).glob("b.*"))
    gone.unlink()
    stored, damage = store.stored(plan.stages)
    missing = {s.digest for s in plan.stages} - stored
    assert missing == {s.digest for s in plan.stages if any(follows(s, d) for d in (one, two, three))}
    assert len(damage) == 3
    for path, text in ((flipped, "damaged"), (tmp_path / two.directory, "damaged"), (gone, "missing")):
        assert any(str(path) in message and text in message for message in damage)
    fill(store, plan)  # made again
    assert store.stored(plan.stages)[0] == {s.digest for s in plan.stages}


def test_a_directory_of_another_digest_is_not_taken_for_it(tmp_path: Path, plan: Plan) -> None:
    """Names hold 16 hex digits; the whole digest is compared."""
    store, base = Store(tmp_path), plan.stages[0]
    commit(store.filesystem, store.path(base.directory), {}, {"digest": base.digest[:16] + "0" * 48}, "a")
    assert store.intact(base) == "not stored"


def progress(epoch: int) -> Progress:
    torch.manual_seed(epoch)
    weights = {"w": torch.randn(5), "n": torch.tensor(epoch)}
    return Progress(
        epoch=epoch, model=weights, optimizer={"state": {0: {"m": torch.randn(5)}}, "param_groups": [{"lr": 0.1}]},
        best=weights, best_epoch=epoch, best_score=0.5, rows=[{"epoch": epoch, "loss": 0.25}],
    )  # fmt: skip


def test_progress_goes_round_and_only_the_last_is_kept(tmp_path: Path, plan: Plan) -> None:
    store, base = Store(tmp_path), plan.stages[0]
    for epoch in (1, 2, 3):
        store.save_progress(base, epoch, pack(progress(epoch)), "attempt")
    found = unpack(Store(tmp_path).load_progress(base))
    assert found is not None and (found.epoch, found.rows) == (3, [{"epoch": 3, "loss": 0.25}])
    assert torch.equal(found.model["w"], progress(3).model["w"])
    assert torch.equal(found.optimizer["state"][0]["m"], progress(3).optimizer["state"][0]["m"])
    assert sorted(p.name for p in (tmp_path / base.directory).iterdir()) == ["last.attempt.3.pt", "progress.json"]
    assert store.intact(base) == "not stored"  # unfinished is not stored


@pytest.mark.parametrize("harm", ["flip", "cut", "gone", "pointer", "no-json", "empty"])
def test_damaged_progress_is_ignored(tmp_path: Path, plan: Plan, harm: str) -> None:
    store, base = Store(tmp_path), plan.stages[0]
    store.save_progress(base, 1, pack(progress(1)), "attempt")
    state, pointer = tmp_path / base.directory / "last.attempt.1.pt", tmp_path / base.directory / "progress.json"
    sound = state.read_bytes()
    if harm == "flip":
        state.write_bytes(sound[:99] + bytes([sound[99] ^ 4]) + sound[100:])
    elif harm == "cut":
        state.write_bytes(sound[:-1])
    elif harm == "gone":
        state.unlink()
    else:
        pointer.write_text({"pointer": json.dumps({"epoch": 1}), "no-json": '{"fi', "empty": ""}[harm])
    assert store.load_progress(base) is None
    store.save_progress(base, 1, pack(progress(1)), "another")
    assert unpack(store.load_progress(base)) is not None


def test_committing_sweeps_litter_and_nothing_else(tmp_path: Path, plan: Plan) -> None:
    store, base = Store(tmp_path), plan.stages[0]
    other = next(stage for stage in plan.stages if stage.name == "scratch")
    store.save_progress(base, 4, b"state", "old")
    store.save_progress(other, 1, b"state", "old")
    store.write(b"why", base.directory, "error.txt")
    place = tmp_path / base.directory
    (place / "last.dead.2.pt").write_bytes(b"of a killed worker")
    (place / "model.dead.safetensors").write_bytes(b"of a writer that died an hour ago")
    os.utime(place / "model.dead.safetensors", (time.time() - 3600,) * 2)
    (place / "model.busy.safetensors").write_bytes(b"of a writer that is about to name it")
    (place / ".manifest.json.abcd").write_bytes(b"being written")
    files = {"model.safetensors": to_safetensors({"w": torch.ones(2)}, {}), "log.txt": b"log"}
    store.commit(base, files, {}, "mine")
    assert sorted(p.name for p in place.iterdir()) == [
        ".manifest.json.abcd", "log.mine.txt", "manifest.json", "model.busy.safetensors", "model.mine.safetensors",
    ]  # fmt: skip
    assert store.intact(base) is None and store.weights(base)[0]["w"].tolist() == [1, 1]
    assert store.load_progress(other) == b"state"


@pytest.mark.parametrize("held", [True, False])
def test_nobody_makes_a_store_again_that_was_moved_away(held: bool, tmp_path: Path, plan: Plan) -> None:
    base, place = plan.stages[0], tmp_path / "store"
    with contextlib.ExitStack() as stack:
        if held:  # by the driver, who makes it
            stack.enter_context((store := Store(place)).held())
        else:
            place.mkdir()
            store = Store(place)
        store.write(b"there", "file")
        place.rename(tmp_path / "moved")
        for write in (
            lambda: store.write(b"", "status.json"),
            lambda: store.commit(base, {"a.bin": b""}, {}, new_attempt()),
            lambda: store.save_progress(base, 1, b"", new_attempt()),
            lambda: execute(base, Context(str(place)), torch.device("cpu"), lambda _: None),
            lambda: train_candidate(base, {}, Context(str(place)), torch.device("cpu"), lambda _: None),
        ):
            with pytest.raises(FileNotFoundError, match="is gone: was it moved"):
                write()
        note_error(base, Context(str(place)), "its store is gone")
        LiveEvents(place / base.directory / "events").add([{"epoch": 1, "seconds": 1.0, "train_loss": 1.0}])
    assert not place.exists()


def test_two_writers_of_one_stage_leave_it_intact(tmp_path: Path, plan: Plan) -> None:
    """A worker that was given up still writes while its successor commits. The result is whole in either order."""
    store, base = Store(tmp_path), plan.stages[0]
    (tmp_path / base.directory).mkdir()
    (tmp_path / base.directory / "a.late.bin").write_bytes(b"late")  # its first file, not yet named
    store.commit(base, {"a.bin": b"early"}, {}, "early")
    assert (tmp_path / base.directory / "a.late.bin").exists() and store.intact(base) is None
    store.commit(base, {"a.bin": b"late"}, {}, "late")
    assert store.intact(base) is None and store.read(base, "a.bin") == b"late"


HOLD = """
import subprocess, sys, time
from fusiondistill_runner.storage.store import Store
with Store(sys.argv[1]).held():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(child.pid, flush=True)
    time.sleep(60)
"""


def test_one_driver_holds_a_store_until_it_dies(tmp_path: Path) -> None:
    """Killed without a chance to clean up, and although a process that it started lives on."""
    store = Store(tmp_path / "store")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, store.location], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(StoreBusy, match=rf"store is in use by process {holder.pid} on \S+ since 20"), store.held():
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait(60)
        with store.held():
            os.kill(child, 0)  # it is still there
            with pytest.raises(StoreBusy, match=f"process {os.getpid()} "), Store(tmp_path / "store").held():
                pass
    finally:
        holder.kill()
        holder.wait(60)
        os.kill(child, signal.SIGKILL)
    with store.held():  # released at the end of the block, too
        pass


def test_what_was_made_from_an_earlier_input_is_made_again(tmp_path: Path) -> None:
    """An interrupted repair: the base is new, the experts rest on weights that are gone."""
    import shutil

    base, expert = (next(s for s in build(parse("experiment: x\n"), "f", lambda _: range(3)).stages if s.name == n)
                    for n in ("base", "expert-jpeg"))  # fmt: skip
    store = Store(tmp_path)
    for stage in (base, expert):
        store.commit(stage, {"a.txt": b"first"}, {}, new_attempt())
    assert store.stored([base, expert])[0] == {base.digest, expert.digest}
    store.save_progress(expert, 1, b"state", "x")
    assert store.load_progress(expert) == b"state"
    shutil.rmtree(tmp_path / base.directory)
    store.commit(base, {"a.txt": b"second"}, {}, new_attempt())
    assert store.stored([base, expert])[0] == {base.digest}
    assert store.load_progress(expert) is None
    store.discard(base.directory)  # is finished: stays
    assert (tmp_path / base.directory).is_dir()
