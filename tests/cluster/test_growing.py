"""A cluster that starts empty: Ray's own autoscaler, with nodes that are processes of this machine."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from heads import RAY, free_port, stop
from running import command, environment, wait_for

pytestmark = pytest.mark.slow

CONFIG = """
experiment: growing
seeds: [0]
data: {name: digits, train_images: 300, test_images: 50}
model: {name: cifar_resnet8}
methods: [base]
degradations: [blur]
base: {epochs: 1, batch_size: 32}
evaluation: {every: 25}
resources: {workers: 1}
"""

ASK = "ray.init(log_to_driver=False); ask(bundles=[{'CPU': 1}])"


def _status(variables: dict[str, str]) -> str:
    address = variables["RAY_ADDRESS"]
    line = [*RAY, "status", "--address", address]
    return subprocess.run(line, env=variables, capture_output=True, text=True, timeout=60).stdout


def test_a_run_asks_for_the_nodes_that_it_needs(tmp_path: Path) -> None:
    port = free_port()
    nothing = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    nothing += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude")
    cluster: dict[str, Any] = {
        **{name: [] for name in nothing},
        "cluster_name": "growing",
        "max_workers": 1,
        "idle_timeout_minutes": 1,
        "upscaling_speed": 1.0,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "rsync_filter": [],
        "file_mounts_sync_continuously": False,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{port}",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 1},
        },
    }
    (tmp_path / "cluster.yaml").write_text(json.dumps(cluster))
    (tmp_path / "config.yaml").write_text(CONFIG)
    with tempfile.TemporaryDirectory(prefix="fd", ignore_cleanup_errors=True) as folder:
        variables = {
            **environment(tmp_path / "cache"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }
        try:
            started = subprocess.run(
                [
                    *RAY, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=0",
                    "--include-dashboard=false",
                    f"--autoscaling-config={tmp_path}/cluster.yaml", f"--temp-dir={folder}",
                    f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}",
                ],
                env=variables, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            assert started.returncode == 0, started.stdout + started.stderr
            line = command("run", str(tmp_path / "config.yaml"), "--store", str(tmp_path / "store"))
            there = {**variables, "RAY_ADDRESS": f"127.0.0.1:{port}"}
            fixed = subprocess.run(line, env=there, capture_output=True, text=True, timeout=200)
            assert fixed.returncode == 2 and "which no node has" in fixed.stderr, fixed.stdout + fixed.stderr
            there["FUSIONDISTILL_WAIT_FOR_NODES"] = "180"
            done = subprocess.run(line, env=there, capture_output=True, text=True, timeout=400)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "asked the cluster for room for 1 worker of 1 CPU" in done.stdout
            # What a killed run has asked for is taken over and given back, though there is room already.
            asks = f"import ray; from ray.autoscaler.sdk import request_resources as ask; {ASK}"
            subprocess.run([sys.executable, "-c", asks], env=there, check=True, capture_output=True, timeout=120)
            wait_for(lambda: " from request_resources()" in _status(there))
            more = subprocess.run([*line, "--set", "seeds=[1]"], env=there, capture_output=True, text=True, timeout=400)
            assert more.returncode == 0 and "asked the cluster" not in more.stdout, more.stdout + more.stderr
            wait_for(lambda: " from request_resources()" not in _status(there))
        finally:
            stop(folder)
