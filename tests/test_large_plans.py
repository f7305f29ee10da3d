"""Ten thousand stages: planned in seconds and little memory, and found again in a store as quickly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PLAN = """
import json, sys, time
from fusiondistill.degradations import DEGRADATIONS
[entry.code for entry in DEGRADATIONS.values()]  # a digest knows the code of degradations, whose files import torch
before = int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.rows import union
from fusiondistill_runner.planning.stage import priorities
from fusiondistill.config_file import parse_points

LEVELS = {"jpeg": range(1, 102), "blur": range(51), "noise": range(51), "saltpepper": range(26)}
TEXT = '''
experiment: large
seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
sweep:
  model.name: [cifar_resnet20, cifar_resnet56]
  protocol: [standard, paper]
  fusiondistill.loss.kd: [0.25, 0.5, 1.0]
'''
began = time.process_time()
config, points = parse_points(TEXT)
shared = {}
plans = [build(point, "f", LEVELS.__getitem__, shared=shared) for point in points]
plan = union(config, plans)
directories = {stage.directory for stage in plan.stages}
priorities(plan.stages), plan.labels, json.dumps([one.describe() for one in plans])
seconds = time.process_time() - began
"""
TOLD = """
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))  # of this program alone
print(len(directories), seconds, (int(peak.split()[1]) - before) / 1024)
"""

STORED = """
import os
from fusiondistill_runner.storage import noted_plans
from fusiondistill_runner.views import results
from fusiondistill_runner.watching import status
from fusiondistill_runner.storage.store import Store
os.fsync = lambda descriptor: None  # of 30,000 files, which no test waits for
store = Store(sys.argv[1])
for stage in plan.stages:
    store.commit(stage, {"a.bin": b"x" * 100}, {"seconds": 1.0}, "a")
for one in plans:
    noted_plans.note_plan(store, one, {})
began = time.process_time()
stored, damage = store.stored(plan.stages)
assert len(stored) == len(directories) and not damage
lines = status.status_lines(store)
assert len(lines) == len(plans)
seconds = time.process_time() - began
"""


def told(program: str, *arguments: str) -> list[float]:
    line = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(line, capture_output=True, text=True, timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return [float(figure) for figure in done.stdout.split()]


def test_ten_thousand_stages_are_planned_and_found_in_seconds(tmp_path: Path) -> None:
    """Seconds of the processor: what else the machine does is not the plan's doing."""
    figures = told(PLAN + TOLD + STORED + TOLD, str(tmp_path / "store"))
    count, seconds, megabytes = figures[:3]
    assert count >= 10_000 and seconds < 5 and megabytes < 300, figures
    count, seconds, megabytes = figures[3:]
    assert count >= 10_000 and seconds < 30 and megabytes < 500, figures
    assert json.loads((tmp_path / "store" / "plans").glob("*.json").__next__().read_bytes())["seal"]
