"""Counts in words."""

from __future__ import annotations

import pytest

from fusiondistill.counting import counted


@pytest.mark.parametrize(
    "one, several",
    [
        ("image", "images"),
        ("class", "classes"),
        ("search", "searches"),
        ("epoch", "epochs"),
        ("copy", "copies"),
        ("key", "keys"),
        ("box", "boxes"),
        ("forward pass", "forward passes"),
    ],
)
def test_one_and_several(one: str, several: str) -> None:
    assert [counted(n, one) for n in (0, 1, 2, 4000)] == [
        f"0 {several}",
        f"1 {one}",
        f"2 {several}",
        f"4,000 {several}",
    ]
