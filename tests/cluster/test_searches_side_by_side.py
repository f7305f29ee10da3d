"""Several searches at the same time through a real Ray: each trains its own candidates."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from running import RESULTS, contents, finished, fusiondistill

pytestmark = pytest.mark.slow

CONFIG = """
experiment: two
seeds: [0, 1]
data: {name: digits, train_images: 200, test_images: 40}
model: {name: cifar_resnet8}
methods: [vanilla, fusing]
degradations: [jpeg, blur]
base: {epochs: 1, batch_size: 32}
expert: {epochs: 1, batch_size: 32}
vanilla: {epochs: 2, batch_size: 32}
fusing: {epochs: 2, batch_size: 32}
search:
- {of: vanilla, trials: 2, scheduler: none, space: {optimizer.lr: {loguniform: [1.0e-3, 1.0e-2]}}}
- of: fusing
  trials: 2
  scheduler: none
  space: {start.merge: {choice: [ties, average]}, start.density: {uniform: [0.1, 1.0]}}
evaluation: {every: 25}
"""


def test_searches_of_two_rows_and_two_seeds_give_what_they_give_one_after_another(
    tmp_path: Path, two_cpus: str
) -> None:
    """No search trains or judges the candidates of another one."""
    config, alone, cache = finished(CONFIG)
    store = tmp_path / "store"
    # Base and experts are those of the reference: the searches and what follows from them are the point here.
    shutil.copytree(alone, store, ignore=shutil.ignore_patterns("search-*", "trial-*", "*-searched-*"))
    done = fusiondistill("run", str(config), "--store", str(store), cache=cache, timeout=600, address=two_cpus)
    assert done.returncode == 0, done.stdout + done.stderr
    expected, found = contents(alone, *RESULTS, "best.json"), contents(store, *RESULTS, "best.json")
    assert found == expected and len([key for key in found if key[1] == "best.json"]) == 4
