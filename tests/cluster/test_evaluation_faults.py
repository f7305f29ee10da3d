"""Evaluation with any number of workers, any batch size, killed workers and a killed driver: the same counts."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from running import counts, finished, frozen_at_work, fusiondistill, stages, started, wait_for, workers_of

pytestmark = pytest.mark.slow

Counts = dict[tuple[str, int, str, int], tuple[int, int]]
LINE = ("--data", "digits", "--images", "240", "--every", "3", "--set", "evaluation.piece=720")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Counts]:
    """(checkpoint, cache, its counts by one undisturbed process with the default batch size)."""
    _, store, cache = finished(
        "experiment: one\nmethods: [base]\ndegradations: [blur]\ndata: {name: digits, train_images: 400, "
        "test_images: 20}\nmodel: {name: cifar_resnet14}\nbase: {epochs: 2, batch_size: 32}\nevaluation: {every: 50}\n"
    )
    (base,) = stages(store, "base")
    one = tmp_path_factory.mktemp("measured")
    done = fusiondistill("evaluate", str(base), *LINE, "--local", "--store", str(one), cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    return base, cache, counts(one)


def test_workers_and_batches_change_no_count(
    measured: tuple[Path, Path, Counts], tmp_path: Path, two_cpus: str
) -> None:
    base, cache, expected = measured
    share = ("--set", "resources.workers=3", "--set", "resources.cpus_per_worker=0.5")
    threads = ("--set", "resources.threads=1", "--batch-size", "7", "--store", str(tmp_path))
    done = fusiondistill("evaluate", str(base), *LINE, *share, *threads, cache=cache, address=two_cpus)
    assert done.returncode == 0, done.stdout + done.stderr
    assert counts(tmp_path) == expected and len(expected) > 70


def test_a_lost_worker_costs_its_piece_and_not_the_job(
    measured: tuple[Path, Path, Counts], tmp_path: Path, two_cpus: str
) -> None:
    base, cache, expected = measured
    line = ("evaluate", str(base), *LINE, "--store", str(tmp_path))
    with started(*line, cache=cache, address=two_cpus) as process:
        wait_for(lambda: len(stages(tmp_path, "evaluate")) >= 3)
        killed = frozen_at_work(os.getpid(), "task_loop", tmp_path)[0]
        before = {path: (path / "manifest.json").stat().st_mtime_ns for path in stages(tmp_path, "evaluate")}
        os.kill(killed, signal.SIGKILL)
        for pid in workers_of(os.getpid(), "task_loop"):
            os.kill(pid, signal.SIGCONT)
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "was lost (attempt 1)" in output
    assert counts(tmp_path) == expected
    after = {path: (path / "manifest.json").stat().st_mtime_ns for path in stages(tmp_path, "evaluate")}
    assert len(before) < len(after) and before.items() <= after.items()


def test_a_driver_killed_half_way_does_only_the_rest(
    measured: tuple[Path, Path, Counts], tmp_path: Path, two_cpus: str
) -> None:
    base, cache, expected = measured
    line = ("evaluate", str(base), *LINE, "--store", str(tmp_path))
    with started(*line, cache=cache, address=two_cpus) as process:
        wait_for(lambda: len(stages(tmp_path, "evaluate")) >= 4)
        process.kill()
    before = {path: (path / "manifest.json").stat().st_mtime_ns for path in stages(tmp_path, "evaluate")}
    done = fusiondistill("evaluate", str(base), *LINE, "--local", "--store", str(tmp_path), cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    assert counts(tmp_path) == expected
    after = {path: (path / "manifest.json").stat().st_mtime_ns for path in stages(tmp_path, "evaluate")}
    untouched = {path: time for path, time in before.items() if after[path] == time}
    assert 4 <= len(untouched) < len(after)
    # At most what was being written when the driver died is written once more.
    assert len(before) - len(untouched) <= 2
