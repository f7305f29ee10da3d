"""What people read fits a terminal of 80 columns, and commands to be copied stay whole."""

from __future__ import annotations

import pytest

from running import on_terminal

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
    code, said = on_terminal(*arguments, cache=tmp_path / "cache", cwd=tmp_path)
    assert code in (0, 2)
    lines = said.splitlines()
    assert lines
    assert [line for line in lines if len(line) > 80] == []
