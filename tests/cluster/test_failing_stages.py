"""What fails every time it is tried, or can never be started: a bounded end, and everything else gets done."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from running import fusiondistill, stages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CONFIG = """
experiment: failing
seeds: [0]
data: {name: digits, train_images: 300, test_images: 50}
model: {name: cifar_resnet8}
methods: [base, scratch, fusiondistill, hot]
degradations: [deadly]
base: {epochs: 1, batch_size: 32}
expert: {epochs: 1, batch_size: 32}
scratch: {epochs: 2, batch_size: 23}
fusiondistill: {epochs: 2, batch_size: 32, loss: {kd: 0.5}}
define: {hot: {like: vanilla, epochs: 1, batch_size: 32, optimizer: {lr: 1.0e+30}}}
search: {trials: 2, scheduler: none, space: {loss.kd: {uniform: [0.1, 1.0]}}}
evaluation: {every: 5}
"""
DEADLY = """
import os, traceback
from fusiondistill.degradations import register

@register("deadly", range(0, 11))
def deadly(images, levels):
    "Kills the process that uses it in a search, or to train from scratch (known by the size of its batches)."
    trial = any(frame.name == "train_candidate" for frame in traceback.extract_stack())
    if trial or len(images) == 23:
        os.kill(os.getpid(), 9)
    return images
"""


def test_a_stage_and_a_search_that_kill_their_processes_each_time(tmp_path: Path, two_cpus: str) -> None:
    """And a stage that diverges. Each fails alone."""
    config, plugin, store = tmp_path / "config.yaml", tmp_path / "deadly.py", tmp_path / "store"
    config.write_text(CONFIG)
    plugin.write_text(DEADLY)
    line = ("run", str(config), "--store", str(store), "--set", f"plugins=[{plugin}]")
    done = fusiondistill(*line, cache=tmp_path / "cache", timeout=600, address=two_cpus)
    assert done.returncode == 1, done.stdout + done.stderr
    for attempt in (1, 2):
        assert f"was lost (attempt {attempt})" in done.stdout, done.stdout
    assert re.search(r"hot.*\n.*is not finite at epoch 1, step \d+ of", done.stderr), done.stderr
    assert "evaluate-hot-deadly" in done.stderr and not stages(store, "hot")
    assert "hot, seed 0: failed" in fusiondistill("status", str(store), cache=tmp_path / "cache").stdout
    assert "was lost (attempt 3)" in done.stderr and "exit" in done.stderr, done.stderr  # and what Ray knows of it
    (search,) = stages(store, "search")
    trials = pq.read_table(next(search.glob("trials.*.parquet"))).to_pylist()
    assert "was lost (attempt 3)" in trials[1]["error"] and trials[0]["error"] is None  # it was stored already
    assert "not done, since they need what failed" in done.stderr and "start the same command again" in done.stderr
    assert not stages(store, "scratch")
    for prefix in ("base", "expert-deadly", "fusiondistill", "evaluate-base", "evaluate-fusiondistill"):
        assert stages(store, prefix), prefix
    assert (store / "report" / "index.html").exists()


def test_a_data_parallel_stage_that_loses_a_worker_each_time(tmp_path: Path, two_cpus: str) -> None:
    config, plugin, store = tmp_path / "config.yaml", tmp_path / "deadly.py", tmp_path / "store"
    config.write_text(CONFIG)
    plugin.write_text(DEADLY.replace("if trial or len(images) == 23:", 'if os.environ.get("RANK") == "1":'))
    settings = ("--set", f"plugins=[{plugin}]", "--set", "methods=[base, scratch]")
    line = ("run", str(config), "--store", str(store), *settings, "--set", "resources.workers_per_run=2")
    done = fusiondistill(*line, cache=tmp_path / "cache", timeout=600, address=two_cpus)
    assert done.returncode == 1, done.stdout + done.stderr
    for attempt in (1, 2):
        assert f"was lost (attempt {attempt})" in done.stdout, done.stdout
    assert "was lost (attempt 3)" in done.stderr, done.stderr
    assert not stages(store, "scratch") and stages(store, "base") and stages(store, "evaluate-base")


@pytest.fixture(scope="module")
def declared(ray_head: Any) -> str:
    """The address of a cluster of which a node says that it has two GPUs, on a machine that may have none."""
    ray_head.add_node(num_cpus=2, num_gpus=2)
    address: str = ray_head.address
    return address


def _run(address: str, folder: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    config = folder / "config.yaml"
    config.write_text(CONFIG.replace("[deadly]", "[blur]"))
    line = ("run", str(config), "--store", str(folder / "store"), *settings)
    return fusiondistill(*line, cache=folder / "cache", timeout=600, address=address)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("gpus_per_worker: 3", "a worker needs 1 CPU and 3 GPU, which no node has (nodes: "),
        ("cpus_per_worker: 0.5, gpus_per_worker: 0.75, workers_per_run: 3", "only 2 workers fit"),
    ],
)
def test_what_can_never_be_met_is_refused(declared: str, tmp_path: Path, settings: str, words: str) -> None:
    done = _run(declared, tmp_path, "--set", f"resources={{{settings}}}")
    assert done.returncode == 2 and words in done.stderr, done.stdout + done.stderr
    assert "2 CPU, 2 GPU" in done.stderr
    assert not stages(tmp_path / "store", "")


def test_what_a_failed_start_reserved_is_given_back(declared: str, tmp_path: Path) -> None:
    """NCCL does not start without a GPU, and every try needs all that the cluster has: a leak would starve the next."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("NCCL would start here")
    began = time.monotonic()
    done = _run(
        declared, tmp_path, "--set", "resources={gpus_per_worker: 1, workers_per_run: 2}", "--set", "methods=[base]"
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "was lost (attempt 3)" in done.stderr and time.monotonic() - began < 500, done.stderr
    assert "gave back what a failed group had reserved (1 placement groups)" in done.stdout, done.stdout
    assert "NCCL" in done.stderr or "nccl" in done.stderr, done.stderr
