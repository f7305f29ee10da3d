"""A Ray that a run starts for itself: who can reach it, and who gets in."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from running import command, environment, epochs_stored, stages, started, wait_for

pytestmark = pytest.mark.slow

LOCAL = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1 in both versions of IP, and ::1."""
CONFIG = """
experiment: trust
data: {name: digits, train_images: 300, test_images: 50}
model: {name: cifar_resnet8}
methods: [base]
base: {epochs: 200, batch_size: 16}
"""
HOLD = """
import sys
from fusiondistill_runner.nodes.connection import connected
with connected() as ray:
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int, Path]]:
    """(address, process, home) of a driver with a Ray of its own, of a user without a token so far."""
    home = tmp_path_factory.mktemp("home")
    kept = {name: value for name, value in environment(home).items() if not name.startswith("RAY_")}
    line, pipe = [sys.executable, "-c", HOLD], subprocess.PIPE
    with subprocess.Popen(line, env={**kept, "HOME": str(home)}, stdin=pipe, stdout=pipe, text=True) as driver:
        assert driver.stdout is not None and driver.stdin is not None
        try:
            yield driver.stdout.readline().strip(), driver.pid, home
        finally:
            driver.stdin.close()
            driver.wait(120)


def family(root: int) -> set[int]:
    listing = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True).stdout
    rows = [tuple(map(int, line.split())) for line in listing.splitlines()[1:]]
    found = {root}
    for _ in range(6):
        found |= {pid for pid, parent in rows if parent in found}
    return found


def listening(processes: set[int]) -> list[str]:
    """Addresses at which these processes take TCP connections, as the kernel lists them (hexadecimal)."""
    sockets = set()
    for pid in processes:
        try:
            links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]  # noqa: PTH115
        except OSError:
            continue
        sockets |= {found[1] for link in links if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return [row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in sockets]


def test_nothing_of_it_listens_to_other_machines(running: tuple[str, int, Path]) -> None:
    address, driver, _ = running
    found = listening(family(driver))
    assert address.startswith("127.0.0.1:") and len(found) >= 5
    assert set(found) <= LOCAL, found


def test_nothing_listens_to_other_machines_while_a_run_trains(tmp_path: Path) -> None:
    config, store = tmp_path / "config.yaml", tmp_path / "store"
    config.write_text(CONFIG)
    with started("run", str(config), "--store", str(store), cache=tmp_path / "cache") as process:
        wait_for(lambda: epochs_stored(store, "base") >= 1, 240)
        found, still = listening(family(process.pid)), not stages(store, "base")
        process.send_signal(signal.SIGTERM)
    assert still and len(found) >= 5 and set(found) <= LOCAL, found


def test_its_token_is_private_and_needed(running: tuple[str, int, Path], tmp_path: Path) -> None:
    address, _, home = running
    token = home / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    kept = {name: value for name, value in environment(tmp_path).items() if not name.startswith("RAY_")}
    strangers = {"without": {}, "wrong": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}}
    # Ray takes 127.0.0.1 for this machine's other address, at which nothing listens, unless it is told not to.
    there = {**kept, "HOME": str(tmp_path), "RAY_ADDRESS": address, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    for who in strangers.values():
        line = command("cluster", "check")
        done = subprocess.run(line, env={**there, **who}, capture_output=True, text=True, timeout=250)
        assert done.returncode == 1 and "InvalidAuthToken" in done.stderr, done.stderr
        assert "do you hold its token (RAY_AUTH_MODE=token" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
