"""Real processes killed, real clusters joined: a disturbed run ends with the bits of the undisturbed one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from running import (
    Process,
    counts,
    ends,
    epochs_stored,
    finished,
    frozen,
    fusiondistill,
    half_way,
    stages,
    started,
    tell,
    wait_for,
    weights,
    workers_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

CONFIG = """
experiment: faults
seeds: [0]
data: {name: digits, train_images: 600, test_images: 50}
model: {name: cifar_resnet8}
methods: [base, oracle]
degradations: [blur, noise]
base: {epochs: 60, batch_size: 16}
expert: {epochs: 3, batch_size: 32}
evaluation: {every: 25}
resources: {workers: 1}
"""
SHORT = ("--set", "base.epochs=20")


@pytest.fixture(scope="module")
def undisturbed() -> tuple[Path, Path, Path]:
    """(config, store, cache) of a run that nothing happened to."""
    return finished(CONFIG)


@pytest.fixture(scope="module")
def short(undisturbed: tuple[Path, Path, Path]) -> tuple[Path, Path, Path]:
    """The same of a run of fewer epochs."""
    return finished(CONFIG, *SHORT)


def test_a_killed_train_worker(short: tuple[Path, Path, Path], tmp_path: Path, two_cpus: str) -> None:
    config, reference, cache = short
    store = tmp_path / "store"
    line = ("run", str(config), "--store", str(store), *SHORT)
    with started(*line, cache=cache, address=two_cpus) as process:
        half_way(process, store, "base")
        workers = frozen(os.getpid(), "RayTrainWorker")
        stored = half_way(process, store, "base")
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    assert "was lost (attempt 1)" in output
    tell("a Train worker killed", stored, output, "base")
    assert weights(store) == weights(reference)
    assert counts(store) == counts(reference)


def _kill_driver(process: Process) -> None:
    """Its worker lives on: it wakes up when the next driver's worker has stored an epoch."""
    frozen(process.pid, "RayTrainWorker")
    process.kill()


def _kill(name: str, process: Process) -> None:
    pids = workers_of(process.pid, name)
    assert pids, process.poll()
    os.kill(pids[0], signal.SIGKILL)


def _interrupt_group(process: Process) -> None:
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: Ray's own processes are in that group


def _interrupt_twice(process: Process) -> None:
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=0.6)
    process.send_signal(signal.SIGINT)


ENDS = {
    "the driver killed, its worker living on": (_kill_driver, -signal.SIGKILL, ""),
    "Ray's head (GCS) killed": (lambda p: _kill("gcs/gcs_server", p), 75, "Ray's head (gcs_server) at"),
    "the head's raylet killed": (lambda p: _kill("raylet/raylet", p), 75, "the raylet of this node at"),
    "the queue's process killed": (lambda p: _kill("ray::StageQueue", p), 75, "Ray failed"),
    "SIGTERM": (lambda p: p.send_signal(signal.SIGTERM), 75, "interrupted: "),
    "Ctrl-C, the whole group": (_interrupt_group, 75, "interrupted: "),
    "Ctrl-C twice": (_interrupt_twice, 75, "interrupted"),
}


def test_a_run_that_ends_badly_again_and_again(undisturbed: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Every start of the same command goes on where the one before was ended; the last is left alone."""
    config, reference, cache = undisturbed
    store, before = tmp_path / "store", 0
    line = ("run", str(config), "--store", str(store))
    last, sleeping = "", []
    for fault, (strike, code, words) in ENDS.items():
        with started(*line, cache=cache, together=True, group=True, fresh=True) as process:
            stored = half_way(process, store, "base", before + 2)
            for pid in sleeping:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)  # of the killed driver: it may write what it has, and finds an end
            if sleeping:
                stored = half_way(process, store, "base", stored + 1)
            if before:
                tell(last, before, process.said()[0], "base")
            if fault == "SIGTERM":  # before it something that a run survives
                _kill("ray::TrainController", process)
                wait_for(lambda: "gave back what a failed group had reserved" in process.said()[0])
                stored = half_way(process, store, "base", stored + 1)
            family, trainers = workers_of(process.pid, ""), workers_of(process.pid, "RayTrainWorker")
            strike(process)
            sleeping = trainers if strike is _kill_driver else []
            ends(process, [pid for pid in family if pid not in sleeping])
        said, _ = process.said()
        assert process.returncode == code, (fault, said)
        assert words in said and (code != 75 or "start the same command again to go on" in said), (fault, said)
        assert "Traceback" not in said, (fault, said)
        assert not stages(store, "base")
        before, last = max(stored, epochs_stored(store, "base")), fault
    done = fusiondistill("run", str(config), "--local", "--store", str(store), cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    tell(last, before, done.stdout, "base")
    assert weights(store) == weights(reference)
    assert counts(store) == counts(reference)
