"""A run from a folder whose files bear the names of modules that the driver, Ray or the workers import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from running import environment, stages

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FILES = ("experiments/__init__", "fusiondistill/__init__", "fusiondistill_runner/__init__", "ray/__init__")
MODULES = ("profile", "queue", "random", "torch", "pickle", "asyncio", "logging", "typing", "numpy", "pyarrow", "click")
CONFIG = """
experiment: mine
data: {name: digits, train_images: 100, test_images: 20}
model: {name: cifar_resnet8}
methods: [base]
degradations: [blur]
base: {epochs: 1}
evaluation: {every: 50}
"""


def test_no_file_of_the_users_folder_is_imported(tmp_path: Path) -> None:
    """Each such file notes its import and fails. The paths of the command stay relative to that folder."""
    folder, imported = tmp_path / "mine", tmp_path / "imported"
    folder.mkdir()
    for name in (*FILES, *MODULES):
        file = folder / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"open({str(imported)!r}, 'a').write(__file__ + '\\n')\nraise SystemExit('not mine')\n")
    (folder / "config.yaml").write_text(CONFIG)
    # As the console script: Python puts neither "" nor the current folder on sys.path.
    program = [sys.executable, "-P", "-c", "from fusiondistill_runner.cli import main; main()"]
    variables = environment(tmp_path / "cache") | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'experiments'}"}
    done = subprocess.run(
        [*program, "run", "config.yaml", "--store", "store"],
        cwd=folder, env=variables, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    seen = imported.read_text() if imported.exists() else ""
    assert done.returncode == 0 and not seen, f"{seen}\n{done.stdout}\n{done.stderr}"
    assert stages(folder / "store", "base") and stages(folder / "store", "evaluate")
