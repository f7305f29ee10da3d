"""Leases: two never hold one, however they are timed; the dead are told from the living; who lost one finds out."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucket import KEYS, serving
from fusiondistill.locations import LocationError
from fusiondistill_runner.storage.holding import CLAIMS, BucketClaims, StoreBusy
from fusiondistill_runner.storage.lease import Lease, Taken, leased, machine
from fusiondistill_runner.storage.store import Store
from running import wait_for


class Folder:
    """A folder of claims on a disk, as quick as one can be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(exist_ok=True)

    def names(self) -> list[str]:
        return [path.name for path in self.path.iterdir() if not path.name.startswith(".")]

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        temporary = self.path / f".{name}.{threading.get_ident()}"
        temporary.write_bytes(data)
        temporary.replace(self.path / name)

    def delete(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)


def test_of_many_that_start_at_the_same_instant_never_two_hold(tmp_path: Path) -> None:
    claims, rounds, rivals = Folder(tmp_path / "claims"), 40, 4
    inside, most, winners, lock = 0, 0, 0, threading.Lock()
    gates = [threading.Barrier(rivals) for _ in range(rounds)]

    def rival() -> None:
        nonlocal inside, most, winners
        for gate in gates:
            gate.wait(60)
            try:
                with leased(claims, 0.5):
                    with lock:
                        inside += 1
                        winners += 1
                        most = max(most, inside)
                    time.sleep(0.02)
                    with lock:
                        inside -= 1
            except Taken as taken:
                assert f"process {os.getpid()} on " in str(taken)

    threads = [threading.Thread(target=rival) for _ in range(rivals)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert most == 1 and winners >= rounds // 2  # somebody nearly always wins, and never two
    assert claims.names() == []


RIVAL = """
import sys, time
from pathlib import Path
from fusiondistill_runner.storage.holding import StoreBusy
from fusiondistill_runner.storage.store import Store
folder, me, rounds = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
for i in range(rounds):
    print("ready", flush=True)
    start = float(sys.stdin.readline())
    time.sleep(max(0, start - time.monotonic()))
    try:
        with Store(f"{sys.argv[1]}".replace("ROUND", str(i))).held():
            began = time.monotonic()
            time.sleep(0.2)
            (folder / f"{i}.{me}").write_text(f"{began} {time.monotonic()}")
    except StoreBusy as error:
        assert "in use by process" in str(error), error
"""


@pytest.fixture(scope="module")
def bucket_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        with serving(tmp_path_factory.mktemp("bucket")) as running:
            yield running.uri("lease/ROUND")


@pytest.mark.parametrize("kind", ["directory", "bucket"])
def test_two_processes_that_start_at_the_same_instant(kind: str, tmp_path: Path, bucket_uri: str) -> None:
    """The real thing, a fresh store each time; both may give way in a bucket, but never do both go in."""
    place = str(tmp_path / "store" / "ROUND") if kind == "directory" else bucket_uri
    rounds = 10
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", RIVAL, place, str(tmp_path), str(me), str(rounds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )
        for me in range(2)
    ]  # fmt: skip
    try:
        for _ in range(rounds):
            for rival in rivals:
                assert rival.stdout is not None and rival.stdout.readline() == "ready\n"
            start = time.monotonic() + 0.02  # the same clock for all processes of a machine
            for rival in rivals:
                assert rival.stdin is not None
                rival.stdin.write(f"{start}\n")
        assert [rival.wait(60) for rival in rivals] == [0, 0]
    finally:
        for rival in rivals:
            rival.kill()
            rival.communicate()
    held = [[path.read_text().split() for path in tmp_path.glob(f"{i}.*")] for i in range(rounds)]
    assert sum(map(bool, held)) >= rounds // 2  # both may give way, but seldom do
    for times in held:
        spans = sorted((float(begin), float(end)) for begin, end in times)
        assert all(one[1] <= next_[0] for one, next_ in itertools.pairwise(spans)), spans


def claim(**facts: object) -> bytes:
    known = {"who": "process 1 on elsewhere", "machine": "elsewhere", "process": 1, "beat": 7, "held": True}
    return json.dumps({**known, **facts}).encode()


@pytest.mark.parametrize("left", [claim(), claim(held=False), b"", b"{", b"[1]", b'{"who": 3}', b"\xff", b"[" * 10_000])
def test_what_gives_no_sign_of_life_is_dead_whatever_it_says(left: bytes, tmp_path: Path) -> None:
    claims = Folder(tmp_path / "claims")
    claims.write("0", left)
    began = time.monotonic()
    with leased(claims, 0.2) as lease:
        assert time.monotonic() - began >= 0.5 and claims.names() == [lease.name]


def test_the_dead_of_this_machine_are_known_at_once_and_only_of_this_machine(tmp_path: Path) -> None:
    claims = Folder(tmp_path / "claims")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(60)
    claims.write("0", claim(machine=machine(), process=gone.pid))
    began = time.monotonic()
    with leased(claims, 60):
        assert time.monotonic() - began < 10
    claims.write("0", claim(machine="another container of the same name", process=gone.pid))
    began = time.monotonic()
    with leased(claims, 0.4):
        assert time.monotonic() - began >= 1


def test_who_lives_elsewhere_is_seen_by_its_beats_and_named(tmp_path: Path) -> None:
    claims, over = Folder(tmp_path / "claims"), threading.Event()

    claims.write("0", claim())  # there before anybody looks

    def alive() -> None:
        for beat in itertools.count():
            claims.write("0", claim(beat=beat))
            if over.wait(0.1):
                return

    thread = threading.Thread(target=alive)
    thread.start()
    try:
        with pytest.raises(Taken, match="process 1 on elsewhere"), leased(claims, 4.0):
            pass
        assert claims.names() == ["0"]
    finally:
        over.set()
        thread.join()


def test_a_holder_that_slept_finds_out_and_leaves_the_other_alone(tmp_path: Path) -> None:
    """Also if it woke up in the middle of a sign of life, and wrote over what the other one had taken away."""
    claims = Folder(tmp_path / "claims")
    first = Lease(claims, 2.0)
    first.thread = threading.Thread(target=first.over.wait)  # it sleeps
    first.take()
    with leased(claims, 2.0) as second:
        assert claims.names() == [second.name]
        first._write()
        first._sign()
        assert first.lost is not None and f"process {os.getpid()}" in first.lost
        wait_for(lambda: second.facts["beat"] >= 1)
        assert second.lost is None and len(claims.names()) == 2
        first.give_back()
        assert claims.names() == [second.name]  # or a pause of the second one would end that


def test_a_foreign_file_does_not_end_the_signs_of_life(tmp_path: Path) -> None:
    class Strict(Folder):
        def read(self, name: str) -> bytes | None:
            if name == "foreign":
                raise LocationError("it has 20,000 bytes, at most 10,000 were expected")
            return super().read(name)

    claims = Strict(tmp_path / "claims")
    with leased(claims, 0.05) as lease:
        claims.write("foreign", b"")
        time.sleep(0.5)
        claims.delete("foreign")
        beats = lease.facts["beat"]
        wait_for(lambda: lease.facts["beat"] > beats + 1)


HOLD = """
import sys, time
from fusiondistill_runner.storage import lease
lease.BEAT = 2.0
from fusiondistill_runner.storage.holding import StoreBusy
from fusiondistill_runner.storage.store import Store
store = Store(sys.argv[1])
with store.held():
    print("held", flush=True)
    try:
        while True:
            store.check_held()
            time.sleep(0.1)
    except StoreBusy as error:
        print(error, flush=True)
"""


def test_a_stopped_process_that_goes_on_is_told(bucket_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    monkeypatch.setattr("fusiondistill_runner.storage.lease.BEAT", 2.0)
    store = Store(bucket_uri.replace("ROUND", "stopped"))
    with subprocess.Popen([sys.executable, "-c", HOLD, store.location], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            with pytest.raises(StoreBusy, match=f"in use by process {holder.pid} "), store.held():
                pass
            holder.send_signal(signal.SIGSTOP)
            with store.held():
                holder.send_signal(signal.SIGCONT)
                said = holder.stdout.readline()
                assert f"was taken over by process {os.getpid()} on " in said, said
                assert holder.wait(60) == 0
                time.sleep(5)
                store.check_held()
        finally:
            holder.kill()
    assert BucketClaims(store.filesystem, store.path(CLAIMS)).names() == []


@pytest.mark.parametrize("harm", ["deleted", "replaced"])
def test_a_directory_that_goes_away_ends_the_run(harm: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with store.held():
        store.check_held()
        (tmp_path / "store").rename(tmp_path / "moved")
        if harm == "replaced":
            (tmp_path / "store").mkdir()
            (tmp_path / "store" / ".lock").write_text("")
        with pytest.raises(StoreBusy, match="is gone .No such file" if harm == "deleted" else "is another store"):
            store.check_held()


def test_a_file_system_that_does_not_answer_for_a_moment_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat, silent = Path.stat, False

    def look(path: Path, **how: bool) -> os.stat_result:
        if path.name == ".lock" and silent:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return stat(path, **how)

    monkeypatch.setattr(Path, "stat", look)
    store = Store(tmp_path / "store")
    with store.held():
        store.check_held()
        silent = True
        store.check_held()
        monkeypatch.setattr("fusiondistill_runner.storage.holding.GAP", 0.0)
        with pytest.raises(StoreBusy, match=r"is gone \(Stale"):
            store.check_held()
