"""What a killed process leaves behind: its own processes end with it, and no others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fusiondistill_runner.nodes.orphans import Scratch
from running import lives, wait_for

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")

DRIVER = """
import subprocess, sys
from fusiondistill_runner.nodes import orphans
orphans.DELAY = 1
known = orphans._descendants
own, other = (subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL) for _ in range(2))
# As if the second one had ended, and its number were that of a process that started later.
orphans._descendants = lambda root: [(one, start - (one == other.pid)) for one, start in known(root)]
with orphans.reaped():
    print(own.pid, other.pid, flush=True)
    if sys.stdin.readline():
        sys.exit()
"""


def start() -> tuple[subprocess.Popen[str], int, int]:
    pipe = subprocess.PIPE
    driver = subprocess.Popen([sys.executable, "-c", DRIVER], stdin=pipe, stdout=pipe, text=True)
    assert driver.stdout is not None
    own, other = map(int, driver.stdout.readline().split())
    return driver, own, other


def test_its_own_processes_end_and_a_later_one_of_the_same_number_does_not() -> None:
    driver, own, other = start()
    try:
        assert lives(own) and lives(other)
        driver.kill()
        wait_for(lambda: not lives(own), 60)
        time.sleep(1)
        assert lives(other)
    finally:
        driver.kill()
        driver.communicate(timeout=60)
        os.kill(other, signal.SIGKILL)


LEAVES = """
import sys
from fusiondistill_runner.nodes.orphans import Scratch
with Scratch() as scratch:
    print(scratch.name, flush=True)
    sys.stdin.readline()
"""


def test_the_next_run_removes_the_files_of_dead_ones_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "fusiondistill-ray-of-somebody").mkdir()
    pipe, line = subprocess.PIPE, [sys.executable, "-c", LEAVES]
    dead, alive = (subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True) for _ in range(2))
    try:
        left, used = (Path(one.stdout.readline().strip()) for one in (dead, alive) if one.stdout)
        (left / "snapshot.json").write_text("{")
        dead.kill()
        dead.wait(60)
        with Scratch() as scratch:
            assert Path(scratch.name).parent == tmp_path and Path(scratch.name).is_dir()
            assert not left.exists() and used.is_dir() and (tmp_path / "fusiondistill-ray-of-somebody").is_dir()
        assert not Path(scratch.name).exists()
    finally:
        dead.kill()
        dead.communicate(timeout=60)
        alive.communicate("end\n", timeout=60)
    assert not used.exists()


def test_who_ends_by_itself_has_nothing_killed() -> None:
    driver, own, other = start()
    try:
        driver.communicate("end\n", timeout=60)
        time.sleep(3)
        assert driver.returncode == 0 and lives(own) and lives(other)
    finally:
        for pid in (own, other):
            os.kill(pid, signal.SIGKILL)
