"""`ray job submit --working-dir` to a cluster that is there: token on, run left, found, stopped, started again."""

from __future__ import annotations

import json
import pickle
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from heads import RAY, free_port, stop
from running import environment, fusiondistill, stages

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-c", "from fusiondistill_runner.cli import main; main()"]

PATIENT = ["--runtime-env-json", '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "40"}}']

CONFIG = """
experiment: submitted
seeds: [0]
data: {name: digits, train_images: 400, test_images: 50}
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
    folder: str
    cache: Path

    def ray(self, *words: str, **changes: str) -> str:
        """What a command of Ray prints."""
        done = subprocess.run(
            [*RAY, *words], env={**self.variables, **changes}, cwd=ROOT, capture_output=True, text=True, timeout=240
        )
        return done.stdout + done.stderr

    def submit(self, number: str, *words: str, wait: bool = False) -> str:
        """Submit `fusiondistill WORDS` as a user would: this checkout is what runs."""
        options = ["--submission-id", number, "--working-dir", ".", *PATIENT, *([] if wait else ["--no-wait"])]
        return self.ray("job", "submit", *options, "--", *PROGRAM, *words)

    def join(self, name: str, *words: str, **changes: str) -> None:
        """Start a node of this name beside the others."""
        said = self.ray(
            "start", f"--address={self.address}", "--node-ip-address=127.0.0.1", *words,
            f"--temp-dir={self.folder}/{name}", f"--dashboard-agent-listen-port={free_port()}", **changes,
        )  # fmt: skip
        assert "Ray runtime started" in said, said


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head without work and a node of one CPU, each by `ray start`, with a token."""
    with tempfile.TemporaryDirectory(prefix="fd", ignore_cleanup_errors=True) as folder:  # sockets want short paths
        port, dashboard = free_port(), free_port()
        cache = tmp_path_factory.mktemp("jobs") / "cache"
        variables = {
            **environment(cache),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        }
        variables.pop("PYTHONPATH", None)  # the code comes with the job
        here = Head(f"127.0.0.1:{port}", variables, folder, cache)
        ports = [f"--{name}-port={free_port()}" for name in ("ray-client-server", "dashboard-agent-listen")]
        try:
            said = here.ray(
                "start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}", f"--dashboard-port={dashboard}",
                "--dashboard-host=127.0.0.1", "--num-cpus=0", f"--temp-dir={folder}/a", *ports,
            )  # fmt: skip
            assert "Ray runtime started" in said, said
            here.join("b", "--num-cpus=1")
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


def _write_cifar10(folder: Path) -> None:
    """The official layout with a few rows of noise."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        content = {"data": random.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [i % 10 for i in range(20)]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}, protocol=2))


def test_a_node_without_the_data_gets_no_work(head: Head, tmp_path: Path) -> None:
    """It has a home, and a cache, of its own, and no way to fetch what only the others' cache holds."""
    _write_cifar10(head.cache / "downloads" / "cifar-10-batches-py")
    own = {"HOME": str(tmp_path / "home"), "FUSIONDISTILL_CACHE": str(tmp_path / "home" / "cache")}
    closed = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    config, store = tmp_path / "config.yaml", tmp_path / "store"
    config.write_text(CONFIG.replace("{name: digits, train_images: 400, test_images: 50}", "{name: cifar10}"))
    few = ("--set", "base.epochs=1")
    head.join("empty", "--num-cpus=4", **own, **closed)
    try:
        said = head.submit("nodata", "run", str(config), "--store", str(store), *few, wait=True)
        assert "Job 'nodata' succeeded" in said, said
        refused = re.search(r"node (\w+) \(\S+\) gets no work: the data set 'cifar10' is not on the node", said)
        assert refused, said
        made = [json.loads(path.read_text())["worker"] for path in store.glob("*/manifest.json")]
        assert made and all("on node " in worker and refused[1] not in worker for worker in made)
        # A worker that fits on that node alone has no place to be.
        wide = (*few, "--set", "resources.cpus_per_worker=2", "--set", "seeds=[1]")
        said = head.submit("nowhere", "run", str(config), "--store", str(store), *wide, wait=True)
        assert re.search(r"too few nodes can work; node \S+: the data set 'cifar10' is not on the node", said), said
        assert "Job 'nowhere' failed" in said and "exit code 2" in said, said
        said = head.submit("asked", "cluster", "check", str(config), "--store", str(store), wait=True)
        assert re.search(r"does not fit: node \S+: the data set cifar10 is not there", said), said
    finally:
        stop(f"{head.folder}/empty")


def test_a_job_that_is_stopped_has_time_to_end(head: Head, tmp_path: Path) -> None:
    """Whose environment counts is Ray's affair: the job's own, on a cluster that others have started."""
    told, ended = tmp_path / "told", tmp_path / "ended"
    script = tmp_path / "slow.sh"
    script.write_text(f'trap "sleep 5; touch {ended}; exit 75" TERM\ntouch {told}\nwhile true; do sleep 0.2; done\n')
    head.ray("job", "submit", "--submission-id", "slow", "--no-wait", *PATIENT, "--", "bash", str(script))
    _wait(told.exists)
    assert "was stopped" in head.ray("job", "stop", "slow")
    assert ended.exists()


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
