"""A sweep through the real command line: one plan, one store, few fits; and what is measured with it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from running import counts, fusiondistill, stages

pytestmark = pytest.mark.slow

SWEEP = """
experiment: few
seeds: [0, 1, 2]
methods: [vanilla, fusing, fusiondistill]
data: {name: digits, train_images: 200, test_images: 60}
model: {name: cifar_resnet8}
base: {epochs: 1, batch_size: 32}
expert: {epochs: 1, batch_size: 32}
vanilla: {epochs: 1, batch_size: 32}
fusing: {epochs: 1, batch_size: 32}
fusiondistill: {epochs: 1, batch_size: 32}
evaluation: {every: 25, expert_matrix: false, piece: 180}
sweep: {fusiondistill.loss.kd: [0, 0.5]}
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, two_cpus: str) -> tuple[Path, Path, Path, str]:
    """A finished sweep: (config, store, cache, what it printed)."""
    folder = tmp_path_factory.mktemp("swept")
    config, store, cache = folder / "few.yaml", folder / "store", folder / "cache"
    config.write_text(SWEEP)
    done = fusiondistill("sweep", str(config), "--store", str(store), cache=cache, address=two_cpus, fresh=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return config, store, cache, done.stdout


def test_what_points_share_is_done_once_and_in_few_fits(swept: tuple[Path, Path, Path, str]) -> None:
    _, store, _, output = swept
    for prefix, count in (("base", 3), ("expert", 12), ("fused", 3), ("vanilla", 3), ("fusing", 3)):
        assert len(stages(store, prefix)) == count, prefix
    assert len(stages(store, "fusiondistill")) == 6  # one per seed and point
    total = len(list(store.glob("*/manifest.json")))
    # 5 levels of 60 images in pieces of at most 180 images: JPEG 2 pieces, the others 1.
    assert len(stages(store, "evaluate")) == total - 30 - (3 + 3 + 6) == (3 + 3 + 6) * (2 + 1 + 1 + 1)
    assert len(stages(store, "validate")) == 3 + 3 + 6
    found = re.search(r"(\d+) stages done in (\d+) Ray Train fits?", output)
    assert found and int(found[1]) == total and int(found[2]) <= 4
    assert "2 experiments, 102 stages" in output
    plans = {path.stem: json.loads(path.read_text()) for path in (store / "plans").glob("*.json")}
    assert set(plans) == {"few.0", "few.0.5"}
    shared = [{stage["directory"] for stage in plan["stages"]} for plan in plans.values()]
    assert len(shared[0] & shared[1]) == 30 - 6 + (3 + 3) * (5 + 1)
    assert {level for m, s, d, level in counts(store) if (m, s, d) == ("vanilla", 0, "jpeg")} == {1, 26, 51, 76, 101}


def test_a_second_start_finds_everything_and_a_wider_sweep_only_the_rest(
    swept: tuple[Path, Path, Path, str],
) -> None:
    config, store, cache, _ = swept
    again = fusiondistill("sweep", str(config), "--store", str(store), cache=cache)
    assert again.returncode == 0 and "nothing to do" in again.stdout
    wider = ("plan", str(config), "--store", str(store), "--set", "sweep={fusiondistill.loss.kd: [0, 0.5, 1]}")
    planned = fusiondistill(*wider, cache=cache)
    assert "3 experiments, 123 stages, 102 stored, 21 to do" in planned.stdout
    assert "21 stages to do: 3 train, 15 evaluate, 3 validate" in planned.stdout and "device-minutes" in planned.stdout


def test_a_point_is_an_experiment_like_any_other(swept: tuple[Path, Path, Path, str]) -> None:
    config, store, cache, _ = swept
    alone = ("--set", "sweep=null", "--set", "fusiondistill.loss.kd=0.5", "--set", "experiment=alone")
    done = fusiondistill("run", str(config), "--store", str(store), *alone, cache=cache)
    assert done.returncode == 0 and "nothing to do" in done.stdout, done.stdout + done.stderr
    refused = fusiondistill("run", str(config), "--store", str(store), cache=cache)
    assert refused.returncode == 2 and "is a sweep of 2 experiments" in refused.stderr


def test_checkpoints_are_evaluated_over_the_workers(
    swept: tuple[Path, Path, Path, str], tmp_path: Path, two_cpus: str
) -> None:
    _, store, cache, _ = swept
    base = stages(store, "base")[0]
    line = ("evaluate", str(base), "--data", "digits", "--images", "60", "--every", "25", "--unseen", "haze")
    done = fusiondistill(*line, "--store", str(tmp_path / "e"), cache=cache, address=two_cpus)
    assert done.returncode == 0, done.stdout + done.stderr
    here = fusiondistill(*line, "--local", "--store", str(tmp_path / "here"), cache=cache)
    assert here.returncode == 0 and counts(tmp_path / "here") == counts(tmp_path / "e")
    found = counts(tmp_path / "e")
    seed = json.loads((base / "manifest.json").read_text())["seed"]
    assert {(method, of) for method, of, _, _ in found} == {("base", seed)}  # the row that the stage is
    assert {d for _, _, d, _ in found} == {"jpeg", "blur", "noise", "saltpepper", "haze"}
    again = fusiondistill(*line, "--store", str(tmp_path / "e"), cache=cache)
    assert again.returncode == 0 and "nothing to do" in again.stdout
    bad = fusiondistill("evaluate", str(base), "--data", "digits", "--degradation", "blurr", cache=cache, cwd=tmp_path)
    assert bad.returncode == 2 and "did you mean 'blur'?" in bad.stderr
    bad = fusiondistill("evaluate", str(tmp_path / "no"), "--data", "digits", cache=cache, cwd=tmp_path)
    assert bad.returncode == 2 and "Traceback" not in bad.stderr
