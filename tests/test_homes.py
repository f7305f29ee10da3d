"""Homes and temporary folders as schedulers and containers give them: unset, ``/``, read-only, another's, very long."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import socket
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fusiondistill.data.errors import DataError
from fusiondistill.data.files import cache_folder, recalled, remember
from fusiondistill.private_folder import private_folder
from fusiondistill_runner.command import _settle
from fusiondistill_runner.nodes.sockets import BELOW, LONGEST, socket_folder
from fusiondistill_runner.nodes.tokens import keep_token_private
from running import environment, finished, fusiondistill

FOREIGN = 12345
"""A user id that no list of users has."""
VARIABLES = ("HOME", "XDG_CACHE_HOME", "FUSIONDISTILL_CACHE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder of temporary files that every user may write, with a short path."""
    folder = Path(tempfile.mkdtemp(prefix="h", dir="/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def as_foreign(place: Path, check: Callable[[], None], **settings: str) -> None:
    """Run a check in a process of a user that nothing is known of, with group 0, as OpenShift starts containers."""
    if os.getuid() != 0:
        pytest.skip("needs root")
    if (process := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setgid(0)
            os.setuid(FOREIGN)
            for name in VARIABLES:
                os.environ.pop(name, None)
            os.environ.update(TMPDIR=str(place), **settings)
            tempfile.tempdir = None
            with pytest.raises(KeyError):
                pwd.getpwuid(os.getuid())
            check()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(process, 0)[1] == 0


HOMES = {"unset": {}, "root": {"HOME": "/"}, "missing": {"HOME": "/nowhere/at/all"}, "another's": {"HOME": "/root"},
         "cache": {"HOME": "/", "XDG_CACHE_HOME": "/proc/1/x"}}  # fmt: skip


@pytest.mark.parametrize("settings", HOMES.values(), ids=HOMES)
def test_what_belongs_into_a_home_finds_a_private_place(settings: dict[str, str], place: Path) -> None:
    def check() -> None:
        assert cache_folder() == place / f"fusiondistill-{FOREIGN}" / "cache"
        remember(cache_folder() / "fact", {"a": 1})
        assert recalled(cache_folder() / "fact") == {"a": 1}
        assert private_folder().stat().st_mode & 0o777 == 0o700
        keep_token_private(pytest.fail)
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64

    as_foreign(place, check, **settings)


def test_a_cache_that_is_named_is_taken_as_it_is_named(place: Path) -> None:
    def check() -> None:
        assert cache_folder() == Path("/nowhere")  # and what cannot be written there names the variable

    as_foreign(place, check, FUSIONDISTILL_CACHE="/nowhere")


def test_a_token_of_another_user_is_left_alone_unless_it_was_named(place: Path) -> None:
    (place / ".ray").mkdir()
    token = place / ".ray" / "auth_token"
    token.write_text("secret")
    token.chmod(0o600)

    def check() -> None:
        keep_token_private(pytest.fail)
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
        del os.environ["RAY_AUTH_TOKEN"]
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
        with pytest.raises(PermissionError, match=r"RAY_AUTH_TOKEN_PATH is .*auth_token, which cannot be read"):
            keep_token_private(pytest.fail)

    as_foreign(place, check, HOME=str(place))
    assert token.read_text() == "secret" and token.stat().st_uid == 0


def test_a_folder_that_others_prepared_is_refused_and_the_variable_named(place: Path) -> None:
    planted = place / f"fusiondistill-{FOREIGN}"
    planted.mkdir()
    planted.chmod(0o777)

    def check() -> None:
        with pytest.raises(DataError, match=r"is not yours alone.*Set FUSIONDISTILL_CACHE to a folder"):
            cache_folder()

    as_foreign(place, check, HOME="/")
    planted.rmdir()
    planted.symlink_to("/root")
    as_foreign(place, check, HOME="/")


def test_folders_that_take_no_files_are_no_place_for_compiled_code_and_settings(place: Path) -> None:
    for name in (".config/matplotlib", ".cache/fusiondistill/numba"):
        (place / name).mkdir(parents=True)
        (place / name).chmod(0o755)

    def check() -> None:
        for name in ("MPLCONFIGDIR", "NUMBA_CACHE_DIR", "XDG_CONFIG_HOME"):
            os.environ.pop(name, None)
        _settle()
        for name, below in (("MPLCONFIGDIR", "matplotlib"), ("NUMBA_CACHE_DIR", "numba")):
            assert Path(os.environ[name]) == place / f"fusiondistill-{FOREIGN}" / below

    as_foreign(place, check, HOME=str(place))


def test_a_folder_without_sockets_is_replaced(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(socket.socket):
        def bind(self, address: Any) -> None:
            if os.fsencode(place) in address:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            super().bind(address)

    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(socket, "socket", Refusing)
    with socket_folder():
        assert os.environ["RAY_TMPDIR"] == os.environ["TMPDIR"] != str(place)
    assert not list(place.iterdir())


@pytest.mark.parametrize("length", [20, LONGEST - BELOW, LONGEST - BELOW + 1, 200])
def test_a_folder_for_sockets_is_short(length: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray puts below its folder is a path that a socket takes."""
    long = Path(str(place).ljust(length, "x"))
    long.mkdir(exist_ok=True)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(long))
    with socket_folder():
        found = os.environ["TMPDIR"]
        assert (found == str(long)) == (length <= LONGEST - BELOW)
        path = Path(found + "/ray/session_2026-11-28_21-00-37_123456_1234567/sockets/plasma_store.123")
        path.parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(path))
    assert os.environ["TMPDIR"] == str(long) and "RAY_TMPDIR" not in os.environ
    assert found == str(long) or not Path(found).exists()
    shutil.rmtree(long, ignore_errors=True)


def test_a_folder_for_sockets_that_is_missing_or_anothers(place: Path) -> None:
    def check() -> None:
        for name in ("/nowhere", "/root"):
            os.environ["TMPDIR"] = name
            with socket_folder():
                assert os.environ["RAY_TMPDIR"] == os.environ["TMPDIR"] != name
                assert os.access(os.environ["TMPDIR"], os.W_OK)

    as_foreign(place, check)


@pytest.mark.slow
def test_a_run_through_ray_below_a_long_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = """
experiment: t
data: {name: digits, train_images: 60, test_images: 20}
model: {name: cifar_resnet8}
degradations: [blur]
methods: [base]
base: {epochs: 1, batch_size: 32}
evaluation: {every: 50}
"""
    config, _, cache = finished(content)
    long = place / ("x" * 150)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    assert "RAY_TMPDIR" not in environment(cache)
    done = fusiondistill("run", str(config), "--store", str(place / "store"), cache=cache)
    assert done.returncode == 0 and "3 stages done" in done.stdout, done.stdout + done.stderr
