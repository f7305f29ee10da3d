"""SIGTERM where not every epoch is stored, since an upload takes longer than an epoch: the one under way is kept."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from bucket import KEYS, serving
from fusiondistill_runner.driving.interruption import LIMIT
from fusiondistill_runner.storage.store import Store
from running import started, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CONFIG = """
experiment: kept
data: {name: digits, train_images: 300, test_images: 50}
model: {name: cifar_resnet8}
methods: [base]
degradations: [blur]
base: {epochs: 200, batch_size: 16}
"""


def test_the_epoch_at_the_signal_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a worker of Ray, and by the command itself, which goes on from it."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    config, said = tmp_path / "config.yaml", list[str]()
    config.write_text(CONFIG)
    with serving(tmp_path, delay=0.35) as bucket:
        store = Store(bucket.uri("kept"))

        def epochs() -> int:
            return max([0, *(store.epochs_stored(d) for d in store.directories() if d.startswith("base-"))])

        def interrupted(since: int, *place: str) -> int:
            """Run on until an epoch after this one is stored, send SIGTERM; returns the epoch stored in the end."""
            line = ("run", str(config), *place, "--store", store.location)
            with started(*line, cache=tmp_path / "cache", together=True) as process:
                wait_for(lambda: epochs() > since or process.poll() is not None, 240)
                before = epochs()
                process.send_signal(signal.SIGTERM)
                began = time.monotonic()
                process.wait(timeout=120)
            said.append(process.said()[0])
            assert process.returncode == 75 and time.monotonic() - began < LIMIT + 5, said[-1]
            assert "interrupted: what is stored stays" in said[-1]
            after = epochs()
            assert since < before < after < 200  # far sooner than the next upload was due
            return after

        kept = interrupted(0)
        interrupted(kept, "--local")
        assert re.search(rf"base: epoch {kept}/200, found stored", said[-1]), said[-1]
