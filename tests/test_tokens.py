"""Only its owner can read the token of a cluster, also where another program made its file."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fusiondistill_runner.nodes.tokens import keep_token_private


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_token_is_private_from_the_start_and_ray_takes_it(home: Path) -> None:
    said: list[str] = []
    keep_token_private(said.append)
    path = home / ".ray" / "auth_token"
    assert not said and mode(path) == 0o600 and len(path.read_text()) == 64
    keep_token_private(said.append)
    environment = {**os.environ, "RAY_AUTH_MODE": "token"}
    shown = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "get-auth-token"],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert shown.stdout.strip().endswith(path.read_text()), shown.stderr
    assert not said and mode(path) == 0o600


def test_a_token_that_others_can_read_is_closed_and_that_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "elsewhere"
    path.write_text("secret")
    path.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    said: list[str] = []
    keep_token_private(said.append)
    assert mode(path) == 0o600 and path.read_text() == "secret"
    (text,) = said
    assert str(path) in text and "could be read by others (0644)" in text and "secret" not in text


def test_a_token_in_the_environment_needs_no_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    keep_token_private(pytest.fail)
    assert not (home / ".ray").exists()


def test_an_empty_token_is_replaced(home: Path) -> None:
    """What a process leaves that died between making the file and writing it."""
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").touch(mode=0o600)
    keep_token_private(pytest.fail)
    assert len((home / ".ray" / "auth_token").read_text()) == 64 and mode(home / ".ray" / "auth_token") == 0o600
    assert [path.name for path in (home / ".ray").iterdir()] == ["auth_token"]


def test_first_runs_at_one_instant_find_one_whole_token(home: Path) -> None:
    """Each reads the file right after its own call: the token that it finds there stays."""
    path = home / ".ray" / "auth_token"

    def run(start: threading.Barrier) -> str:
        start.wait()
        keep_token_private(pytest.fail)
        return path.read_text()

    for _ in range(30):
        path.unlink(missing_ok=True)
        start = threading.Barrier(8)
        with ThreadPoolExecutor(8) as pool:
            (token,) = set(pool.map(run, [start] * 8))
        assert len(token) == 64
    assert [one.name for one in path.parent.iterdir()] == ["auth_token"]
