"""cluster/slurm.sh for real: Slurm's daemons, two nodes in namespaces of their own, a run over both, preempted."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from running import counts, environment, finished, weights

HERE = Path(__file__).parent
MAIN = "from fusiondistill_runner.cli import main; main()"
ROOT = HERE.parents[1]
SCRIPT = ROOT / "cluster" / "slurm.sh"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "unshare", "nsenter", "ip")
MISSING = [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING), reason=f"{MISSING}: apt-get install slurmctld slurmd slurm-client munge iproute2"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and Slurm's daemons need root"),
]

CONFIG = """
experiment: slurm
seeds: [0]
data: {name: digits, train_images: 600, test_images: 50}
model: {name: cifar_resnet8}
methods: [base, oracle]
degradations: [blur, noise]
base: {epochs: 60, batch_size: 16}
expert: {epochs: 2, batch_size: 32}
evaluation: {every: 25}
"""

Inside = Callable[..., str]


@pytest.fixture
def site() -> Iterator[Inside]:
    """Calls a program inside of a running Slurm site; returns what it prints."""
    folder = Path(tempfile.mkdtemp(prefix="site"))  # a short path: Slurm's sockets lie in it
    with (folder / "site.log").open("w") as log:
        process = subprocess.Popen([str(HERE / "slurm_site.sh"), str(folder)], stdout=log, stderr=log)

    def inside(*words: str) -> str:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        enter = ["nsenter", "--target", children[0], "--net", "--uts", "--pid", "--mount"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_", "SBATCH_"))}
        done = subprocess.run(
            [*enter, *words], env={**kept, "SLURM_CONF": str(folder / "slurm.conf")}, capture_output=True, text=True
        )
        return done.stdout + done.stderr

    try:
        _wait(
            lambda: (folder / "slurmctld.pid").exists() and inside("sinfo", "-hN", "-t", "idle").count("main") == 2, 60
        )
        yield inside
    finally:
        process.kill()  # all that runs in the namespaces ends with it
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(condition: Callable[[], object], seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.5)


def _submitted(site: Inside, folder: Path, config: Path, store: Path) -> tuple[str, Path]:
    """Number and log of a job that was submitted as a user would."""
    programs = folder / "bin"
    programs.mkdir()
    program = programs / "fusiondistill"
    program.write_text(f'#!/bin/bash\nexec {sys.executable} -c {shlex.quote(MAIN)} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {**environment(folder / "cache"), "PATH": path, "PYTHONPATH": f"{ROOT}:{ROOT / 'experiments'}"}
    exported = ",".join(
        f"{name}={variables[name]}" for name in ("PATH", "PYTHONPATH", "FUSIONDISTILL_CACHE", "OMP_NUM_THREADS")
    )
    log = folder / "job.log"
    answer = site(
        "sbatch", "--parsable", f"--chdir={folder}", f"--output={log}", f"--export=ALL,{exported}",
        str(SCRIPT), "run", str(config), "--store", str(store),
    )  # fmt: skip
    assert re.fullmatch(r"\d+\n", answer), answer
    return answer.strip(), log


def _said(log: Path, text: str) -> int:
    return log.read_text().count(text) if log.exists() else 0


def test_a_run_over_two_nodes_that_is_interrupted_and_preempted(site: Inside, tmp_path: Path) -> None:
    config, store = tmp_path / "config.yaml", tmp_path / "store"
    config.write_text(CONFIG)
    job, log = _submitted(site, tmp_path, config, store)
    _wait(lambda: _said(log, "base: epoch "), 180)
    site("scancel", "--batch", "--signal=TERM", job)  # as at the end of its time
    _wait(lambda: _said(log, f"job {job} goes back into the queue"), 120)
    assert _said(log, "interrupted: what is stored stays") == 1  # in order: exit code 75
    _wait(lambda: _said(log, "found stored, going on from there"), 240)
    site(
        "sbatch", "--partition=urgent", "--nodes=2", "--exclusive", f"--output={tmp_path}/urgent.log", "--wrap=sleep 1"
    )
    _wait(
        lambda: _said(log, "9 to do") + _said(log, "8 to do") + _said(log, "7 to do") >= 3, 300
    )  # preempted, back again
    assert not _said(log, "Traceback")
    _wait(lambda: _said(log, "stages done") and job not in site("squeue", "-h", "-o", "%i"), 300)
    assert _said(log, "Oracle") and _said(log, "report: ")
    _, undisturbed, _ = finished(CONFIG)
    assert weights(store) == weights(undisturbed)
    assert counts(store) == counts(undisturbed)


def test_a_cancelled_job_does_not_come_back(site: Inside, tmp_path: Path) -> None:
    config, store = tmp_path / "config.yaml", tmp_path / "store"
    config.write_text(CONFIG)
    job, log = _submitted(site, tmp_path, config, store)
    _wait(lambda: _said(log, "Running command on head node"), 120)
    site("scancel", job)
    _wait(lambda: job not in site("squeue", "-h", "-o", "%i"), 120)
    time.sleep(15)
    assert job not in site("squeue", "-h", "-o", "%i")
    assert not _said(log, "goes back into the queue")
