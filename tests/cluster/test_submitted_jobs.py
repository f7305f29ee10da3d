"""`ray job submit --working-dir` to a cluster that is there: token on, run left, found, stopped, started again."""

from __future__ import annotations

import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from heads import RAY, free_port, stop
from running import environment, fusiondistill, stages

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-c", "from experiments.cli import main; main()"]

CONFIG = """
experiment: submitted
seeds: [0]
data: {name: digits, train_images: 600, test_images: 50}
model: {name: cifar_resnet8}
methods: [base]
degradations: [blur]
base: {epochs: 60, batch_size: 16}
evaluation: {every: 25}
"""


@dataclass(frozen=True)
class Head:
    """A head that was started by `ray start`, and a node beside it."""

    address: str
    variables: dict[str, str]

    def ray(self, *words: str, **changes: str) -> str:
        """What a command of Ray prints."""
        done = subprocess.run(
            [*RAY, *words], env={**self.variables, **changes}, cwd=ROOT, capture_output=True, text=True, timeout=240
        )
        return done.stdout + done.stderr

    def submit(self, number: str, *words: str, wait: bool = False) -> str:
        """Submit `fusiondistill WORDS` as a user would: this checkout is what runs."""
        options = ["--submission-id", number, "--working-dir", ".", *([] if wait else ["--no-wait"])]
        return self.ray("job", "submit", *options, "--", *PROGRAM, *words)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head without work and a node of one CPU, each by `ray start`, with a token."""
    with tempfile.TemporaryDirectory(prefix="fd", ignore_cleanup_errors=True) as folder:  # sockets want short paths
        port, dashboard = free_port(), free_port()
        variables = {
            **environment(tmp_path_factory.mktemp("jobs") / "cache"),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        }
        variables.pop("PYTHONPATH", None)  # the code comes with the job
        here = Head(f"127.0.0.1:{port}", variables)
        ports = [f"--{name}-port={free_port()}" for name in ("ray-client-server", "dashboard-agent-listen")]
        try:
            said = here.ray(
                "start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}", f"--dashboard-port={dashboard}",
                "--dashboard-host=127.0.0.1", "--num-cpus=0", f"--temp-dir={folder}/a", *ports,
            )  # fmt: skip
            assert "Ray runtime started" in said, said
            said = here.ray(
                "start", f"--address=127.0.0.1:{port}", "--node-ip-address=127.0.0.1", "--num-cpus=1",
                f"--temp-dir={folder}/b", f"--dashboard-agent-listen-port={free_port()}",
            )  # fmt: skip
            assert "Ray runtime started" in said, said
            yield here
        finally:
            stop(folder)


def _wait(condition: Callable[[], object], seconds: float = 180) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(1)


def test_a_run_is_left_found_stopped_and_goes_on(head: Head, tmp_path: Path) -> None:
    config, store = tmp_path / "config.yaml", tmp_path / "store"
    config.write_text(CONFIG)
    words = ("run", str(config), "--store", str(store))
    assert "submitted successfully" in head.submit("first", *words)
    _wait(lambda: list(store.glob("base-*/progress.json")))
    assert "RUNNING" in head.ray("job", "status", "first")
    found = fusiondistill("status", str(store), cache=tmp_path / "cache")
    assert found.returncode == 0 and "base" in found.stdout, found.stderr
    assert "was stopped" in head.ray("job", "stop", "first")
    logs = head.ray("job", "logs", "first")
    assert "start the same command again to go on" in logs, logs
    assert not stages(store, "base")
    again = head.submit("second", *words, wait=True)
    assert "found stored, going on from there" in again and "Job 'second' succeeded" in again, again
    assert stages(store, "base") and (store / "report" / "index.html").exists()


def test_the_check_as_a_job(head: Head, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    said = head.submit("check", "cluster", "check", str(config), "--store", str(tmp_path / "store"), wait=True)
    assert "2 nodes at" in said and "token authentication on" in said and "\nfits\n" in said, said


def test_data_that_only_the_driver_s_place_has(head: Head, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    said = head.submit(
        "nodata", "cluster", "check", "cifar10", "--set", f"data.root={missing}", "--store", str(tmp_path), wait=True
    )
    assert "Job 'nodata' failed" in said and str(missing) in said, said


def test_a_store_inside_the_job_s_copy_is_refused(head: Head, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    said = head.submit("fleeting", "run", str(config), wait=True)
    assert "which Ray deletes after the job" in said and "Job 'fleeting' failed" in said, said


def test_without_the_token_nobody_gets_in(head: Head) -> None:
    assert "Invalid authentication token" in head.ray("job", "list", RAY_AUTH_TOKEN="wrong")
    wrong = {**head.variables, "RAY_AUTH_TOKEN": "wrong", "RAY_ADDRESS": head.address}
    done = subprocess.run(
        [*PROGRAM, "cluster", "check"], env=wrong, cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 1 and "do you hold its token" in done.stderr
