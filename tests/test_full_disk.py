"""A disk that is really full, a small one mounted for it: what is stored stays, nothing half-written counts."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusiondistill.locations import DiskFull
from fusiondistill_runner.storage.store import Store
from shelf import PLAN


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_commits_and_epochs_on_a_full_disk(disk: Path) -> None:
    store, (first, second) = Store(disk / "store"), PLAN.stages[:2]
    store.commit(first, {"a.bin": bytes(300_000)}, {}, "one")
    store.save_progress(second, 1, bytes(200_000), "two")
    before = {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()}
    said = (
        r"b\.three\.bin cannot be written: No space left on device \(900,000 bytes, [\d,]+ are free in .*\)\. Make room"
    )
    with pytest.raises(DiskFull, match=said):
        store.commit(second, {"a.bin": bytes(100_000), "b.bin": bytes(900_000)}, {}, "three")
    with pytest.raises(DiskFull, match=r"last\.two\.2\.pt cannot be written"):
        store.save_progress(second, 2, bytes(900_000), "two")
    litter = [path for path in disk.rglob("*") if path.is_file() and path not in before]
    assert [path.name for path in litter] == ["a.three.bin"]  # whole, named by no manifest
    assert all(path.read_bytes() == data for path, data in before.items())
    assert store.stored([first, second])[1] == [] and store.manifest(second) is None
    assert store.load_progress(second) == bytes(200_000)
    litter[0].unlink()
    store.commit(second, {"a.bin": b"done"}, {}, "four")
    assert store.read(second, "a.bin") == b"done"
    (disk / "ballast").write_bytes(bytes(400_000))
    full = disk / "ballast2"
    with pytest.raises(OSError, match="No space left"), full.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(DiskFull, match=r"lock cannot be written"), Store(disk / "another").held():
        pass
