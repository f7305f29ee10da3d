"""The loaders under atheris, which looks for inputs that reach new code: a few seconds for each, where it installs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzzing import cases

pytest.importorskip("atheris", reason="has wheels for Linux on x86_64 only")
pytestmark = pytest.mark.slow

SECONDS = 3
"""For each loader; with what it takes to start, the test ends within about 80 s on two cores."""
FUZZ = """
import os
import sys
from pathlib import Path
import atheris
import torch, pyarrow.parquet, PIL.Image, safetensors.torch, ray  # before: their code is not what is looked at
with atheris.instrument_imports(include=["fusiondistill", "fusiondistill_runner", "yaml", "zipfile"]):
    from fuzzing import OURS, cases

def fuzz(name, use, valid):
    corpus, folder = Path("corpus") / name, Path("folder") / name
    for place in (corpus, folder):
        place.mkdir(parents=True)
    for number, data in enumerate(valid):
        (corpus / str(number)).write_bytes(data)

    def one(data):
        try:
            use(folder, data)
        except OURS as error:
            assert str(error)

    atheris.Setup(["fuzz", f"-max_total_time={sys.argv[1]}", "-seed=1", "-rss_limit_mb=4096", "-timeout=30",
                   "-artifact_prefix=found/", str(corpus)], one)
    atheris.Fuzz()  # and ends the process

Path("found").mkdir()
for name, (valid, use) in cases().items():
    if name in sys.argv[2:]:
        print(f"== {name}", file=sys.stderr, flush=True)
        child = os.fork()  # the imports, which take longer than the fuzzing, are there already
        if child == 0:
            fuzz(name, use, valid)
        _, status = os.waitpid(child, 0)
        print(f"== {name} ended with {status}", flush=True)
"""
LOADERS = [name for name in cases() if name not in ("image", "folder", "torch", "labels")]
"""Those whose reading is Python that can be looked into; the others decode in C."""


def test_inputs_that_reach_new_code(tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "FUSIONDISTILL_CACHE": str(tmp_path / "cache")}
    line = [sys.executable, "-c", FUZZ, str(SECONDS), *LOADERS]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, timeout=600)
    said = done.stderr.decode(errors="replace")
    ended = {text.split()[1]: text.split()[-1] for text in done.stdout.decode().splitlines() if text.startswith("== ")}
    assert ended == dict.fromkeys(LOADERS, "0"), (ended, said[-6000:])
    assert said.count("DONE") == len(LOADERS), said[-6000:]
    assert {one.name for one in tmp_path.iterdir()} <= {"corpus", "folder", "found", "cache"}
    assert {one.name for one in (tmp_path / "folder").iterdir()} == set(LOADERS)
