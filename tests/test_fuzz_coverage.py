"""The loaders under atheris, which looks for inputs that reach new code: a few seconds for each, where it installs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing import cases

pytest.importorskip("atheris", reason="pip install 'fusiondistill[fuzz]'")
pytestmark = pytest.mark.slow

SECONDS = 4
FUZZ = """
import sys
from pathlib import Path
import atheris
import torch, pyarrow.parquet, PIL.Image, safetensors.torch, ray  # before: their code is not what is looked at
with atheris.instrument_imports(include=["fusiondistill", "experiments", "yaml", "zipfile"]):
    from fuzzing import OURS, cases

name, folder, corpus, seconds = sys.argv[1:]
use = cases()[name][1]

def one(data):
    try:
        use(Path(folder), data)
    except OURS as error:
        assert str(error)

atheris.Setup(["fuzz", f"-max_total_time={seconds}", "-seed=1", "-rss_limit_mb=4096", "-timeout=30", corpus], one)
atheris.Fuzz()
"""


@pytest.mark.parametrize("name", ["config", "override", "pickle", "archive", "parquet", "safetensors", "card",
                                  "manifest", "plan", "progress", "journal", "lease", "corruption"])  # fmt: skip
def test_inputs_that_reach_new_code(name: str, tmp_path: Path) -> None:
    corpus, folder = tmp_path / "corpus", tmp_path / "folder"
    corpus.mkdir()
    folder.mkdir()
    for number, data in enumerate(cases()[name][0]):
        (corpus / str(number)).write_bytes(data)
    line = [sys.executable, "-c", FUZZ, name, str(folder), str(corpus), str(SECONDS)]
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "FUSIONDISTILL_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, timeout=250)
    said = done.stderr.decode(errors="replace")
    assert done.returncode == 0 and "DONE" in said, said[-3000:]
    assert {one.name for one in tmp_path.iterdir()} <= {"corpus", "folder", "cache"}
