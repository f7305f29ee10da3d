"""File systems that lack a call: the operating system's own error numbers, raised where the call is made."""

from __future__ import annotations

import errno
import fcntl
import mmap
import multiprocessing
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from fusiondistill import load_images, locations
from fusiondistill.checkpoints import load_checkpoint, save_checkpoint
from fusiondistill.report import _replace
from fusiondistill_runner.nodes.tokens import keep_token_private
from fusiondistill_runner.storage import lease
from fusiondistill_runner.storage.holding import CLAIMS, StoreBusy
from fusiondistill_runner.storage.store import Store

CALLS = {
    "rename": [(os, "rename"), (os, "replace")],
    "link": [(os, "link")],
    "lock": [(fcntl, "flock"), (fcntl, "lockf")],
    "fsync": [(os, "fsync"), (os, "fdatasync")],
    "mode": [(os, "chmod"), (os, "fchmod")],
    "map": [(mmap, "mmap")],
}


@pytest.fixture(params=[errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL], ids=errno.errorcode.get)
def number(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=[*CALLS, "all"])
def lacking(request: pytest.FixtureRequest, number: int) -> Iterator[str]:
    """The calls of a kind, or all of them, fail as a file system without them lets them fail."""

    def fails(*_: Any, **__: Any) -> NoReturn:
        raise OSError(number, os.strerror(number))

    with pytest.MonkeyPatch.context() as patch:
        for kind, calls in CALLS.items():
            for module, name in calls:
                if request.param in (kind, "all"):
                    patch.setattr(module, name, fails)
        yield request.param


def test_files_are_written_whole_and_again(lacking: str, tmp_path: Path) -> None:
    filesystem = locations.open_location(tmp_path)[0]
    for content in (b"one" * 1000, b"two"):
        locations.write_file(filesystem, str(tmp_path / "a" / "file"), content)
        _replace(tmp_path / "page", content)
        for path in (tmp_path / "a" / "file", tmp_path / "page"):
            assert path.read_bytes() == content
    save_checkpoint(tmp_path / "stage", {"w": torch.ones(3)}, {})
    assert load_checkpoint(tmp_path / "stage")[0]["w"].tolist() == [1, 1, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "page", "stage"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]


def test_images_are_decoded_into_the_cache_once(
    lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = load_images("digits", "test").images
    monkeypatch.setenv("FUSIONDISTILL_CACHE", str(tmp_path))
    for _ in range(2):
        assert torch.equal(load_images("digits", "test").images, expected)
        entries = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("images.npy")}
    assert len(entries) == 1 and not caplog.records  # nothing was damaged
    assert torch.equal(load_images("digits", "test").images, expected)
    assert entries == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("images.npy")}
    assert not list(tmp_path.rglob("*.tmp-*"))


def test_a_failing_disk_is_an_error_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match=rf"Input/output error: '{tmp_path}/file'"):
        locations.write_file(locations.open_location(tmp_path)[0], str(tmp_path / "file"), b"x")


def holds(store: str, queue: Any) -> None:
    try:
        with Store(store).held():
            queue.put("held")
    except StoreBusy as busy:
        queue.put(str(busy))


@pytest.mark.parametrize("lacking", ["lock", "all"], indirect=True)
def test_one_driver_holds_a_store_without_locks(lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.2)
    context, there = multiprocessing.get_context("fork"), str(tmp_path / "store")  # a fork keeps the patches

    def other() -> str:
        queue = context.Queue()
        process = context.Process(target=holds, args=(there, queue))
        process.start()
        said: str = queue.get(timeout=60)
        process.join()
        return said

    with Store(there).held():
        assert "store is in use by" in other()  # a claim that is just being written names nobody
    assert other() == "held"


@pytest.mark.parametrize(
    ("number", "held"),
    [(errno.EIO, True), (errno.EBADF, True), (errno.ENOTTY, True), (errno.EACCES, False)],
    ids=["EIO", "EBADF", "ENOTTY", "EACCES"],
)
def test_other_answers_of_disks_without_locks(
    number: int, held: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EACCES is what SMB says where another client holds the lock: this may be so here."""

    def fails(*_: Any) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fails)
    if held:
        with Store(str(tmp_path)).held():
            assert list((tmp_path / CLAIMS).iterdir())
    else:
        with (
            pytest.raises(StoreBusy, match=r"in use by another run, or its disk refuses to lock .*\.lock \(Permission"),
            Store(str(tmp_path)).held(),
        ):
            pass


def test_a_token_is_made_and_kept(lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / ".ray" / "auth_token"
    if lacking == "all":
        return  # neither a link nor a rename: see tests/test_homes.py
    keep_token_private(pytest.fail)
    token = path.read_text()
    keep_token_private(pytest.fail)
    assert len(token) == 64 and path.read_text() == token and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_where_nothing_goes_the_folder_and_the_calls_are_named(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fails)
    monkeypatch.setattr(locations.shutil, "copyfile", fails)
    with pytest.raises(OSError, match=r"folder: this file system can neither rename a file \(.*\) nor write over one"):
        locations.write_file(locations.open_location(tmp_path)[0], str(tmp_path / "folder" / "file"), b"x")
