"""cluster/slurm.sh with stand-ins for Slurm's and Ray's programs: what each node is told, how the job ends."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster" / "slurm.sh"
PROGRAMS = {
    # Two nodes, of two and of eight CPUs; options of its own end where the command begins.
    "srun": """
        while [[ $1 == --* ]]; do echo "$1" >>"$FOLDER/srun"; shift; done
        SLURM_CPUS_ON_NODE=2 "$@" & first=$!
        SLURM_CPUS_ON_NODE=8 NODE=1 "$@"
        wait $first
    """,
    # What is after -- runs on the first node; a head that does not start is no failure, as with the real one.
    "ray": """
        echo "$*" >"$FOLDER/ray${NODE:-0}"
        [[ ${NODE:-0} == 1 || -e $FOLDER/no-head ]] && exit 0
        while [[ $1 != -- ]]; do shift; done
        shift
        "$@"
    """,
    "fusiondistill": 'echo "$*" >"$FOLDER/arguments"; exit "$ENDS_WITH"',
    "squeue": "echo RUNNING",
    "scontrol": 'echo "$*" >"$FOLDER/scontrol"',
    "sleep": "exit 0",
}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Where they say what they were called with; they lie in its folder ``bin``."""
    (tmp_path / "bin").mkdir()
    for name, body in PROGRAMS.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    return tmp_path


def _run(folder: Path, ends_with: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    slurm = {"SLURM_JOB_ID": "17", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_ON_NODE": "2"}
    own = {"PATH": f"{folder}/bin:{os.environ['PATH']}", "FOLDER": str(folder), "ENDS_WITH": str(ends_with)}
    line = ["bash", str(SCRIPT), "run", "my config.yaml"]
    return subprocess.run(line, env={**kept, **slurm, **own, **more}, capture_output=True, text=True, timeout=60)


def test_a_ray_that_does_not_start_fails_the_job(programs: Path) -> None:
    (programs / "no-head").touch()
    done = _run(programs)
    assert done.returncode == 1 and "nothing ran" in done.stderr
    assert not (programs / "arguments").exists() and not (programs / "scontrol").exists()


@pytest.mark.parametrize("code", [0, 1, 2, 75])
def test_the_job_ends_as_the_run_does(programs: Path, code: int) -> None:
    done = _run(programs, code)
    assert done.returncode == code, done.stderr
    assert (programs / "arguments").read_text() == "run my config.yaml\n"
    assert (programs / "scontrol").exists() == (code == 75)  # only what was interrupted goes back into the queue


def test_each_node_offers_its_own_cpus(programs: Path) -> None:
    assert _run(programs).returncode == 0
    told = [(programs / f"ray{node}").read_text() for node in (0, 1)]
    assert "--num-cpus 2 " in told[0] and "--num-cpus 8 " in told[1]
    assert all(words.startswith("symmetric-run ") and "--min-nodes 2 " in words for words in told)
    assert "--cpu-bind=none" in (programs / "srun").read_text()
    assert _run(programs, SLURM_CPUS_PER_TASK="1").returncode == 0
    assert all("--num-cpus 1 " in (programs / f"ray{node}").read_text() for node in (0, 1))
