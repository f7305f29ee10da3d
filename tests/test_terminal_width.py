"""What people read fits a terminal of 80 columns, and commands to be copied stay whole."""

from __future__ import annotations

import os
import pty
import subprocess

import pytest

from running import command, environment

LONG = "a" * 30


@pytest.mark.parametrize(
    "arguments",
    [
        ("validate", "c.yaml"),
        ("validate", "c.yaml", "--set", "base.lr=1", "--set", "data.limit=3"),
        ("degrade", "missing.jpg", "--out", f"{LONG}/{LONG}/grid.png"),
        ("prune", "nowhere"),
    ],
)
def test_lines_end_before_the_terminal_does(arguments, tmp_path):
    (tmp_path / "c.yaml").write_text(f"experiment: {LONG}{LONG}\ndata: {{name: digits}}\nsearch: none\n")
    ours, theirs = pty.openpty()
    done = subprocess.Popen(
        command(*arguments), stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path,
        env=environment(tmp_path / "cache") | {"COLUMNS": "80"},
    )  # fmt: skip
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 65536):
            said += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert done.wait() in (0, 2)
    lines = said.decode().splitlines()
    assert lines
    assert [line for line in lines if len(line) > 80] == []
