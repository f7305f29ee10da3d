"""Every loader and the config under damaged and invented input: a result or an error of ours, and nothing outside."""

from __future__ import annotations

import io
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from fuzzing import CARD, OURS, TINY, cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusiondistill import config_file
from fusiondistill.config import Config
from fusiondistill.config_file import ConfigError

SLOW = {"parquet": 60, "archive": 50, "folder": 40, "torch": 60, "card": 40, "plan": 40, "config": 60}
"""Examples of what takes longer than most."""


def bounded(examples: int) -> Any:
    """The same examples each time: what fails here fails for everybody."""
    return settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )


TRAPS = [b"\xff" * 4, b"\0" * 8, b"9" * 30, b"../", b"[" * 200, b"&a *a"]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "overwrite", "repeat", "swap"]),
        st.floats(0, 1),
        st.binary(min_size=1, max_size=8) | st.sampled_from(TRAPS),
    ),
    min_size=1,
    max_size=4,
)  # fmt: skip


def edited(data: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    for kind, where, what in edits:
        at = int(where * max(0, len(data) - 1))
        if kind == "flip" and data:
            data = data[:at] + bytes([data[at] ^ (what[0] or 1)]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + what + data[at:]
        elif kind == "overwrite":
            data = data[:at] + what + data[at + len(what) :]
        elif kind == "repeat":
            data = data[:at] + data[at : at + 16] * 3 + data[at + 16 :]
        else:
            data = data[at:] + data[:at]
    return data


@pytest.mark.parametrize("name", list(cases()))
def test_damaged_input(name: str, tmp_path: Path) -> None:
    valid, use = cases()[name]
    home, number = tmp_path / "home", 0
    for one in valid:
        home.mkdir(exist_ok=True)
        attempt(use, home, one)  # sound, or at least answered

    @bounded(SLOW.get(name, 150))
    @given(st.sampled_from(valid), EDITS)
    def check(sound: bytes, edits: list[tuple[str, float, bytes]]) -> None:
        nonlocal number
        number += 1
        folder = home / str(number)
        folder.mkdir()
        began = time.monotonic()
        attempt(use, folder, edited(sound, edits))
        assert time.monotonic() - began < 20
        shutil.rmtree(folder)

    check()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def attempt(use: Any, folder: Path, data: bytes) -> None:
    try:
        use(folder, data)
    except OURS as error:
        assert len(str(error)) > 10


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["../x", "/etc", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@bounded(60)
@given(st.dictionaries(st.sampled_from(sorted(CARD)), JSON))
def test_invented_cards(changes: dict[str, Any]) -> None:
    attempt(cases()["card"][1], Path(), json.dumps({**CARD, **changes}).encode())


FACTS = st.dictionaries(st.sampled_from(["attempt", "digest", "files", "made_from"]), JSON)
ENTRY = st.dictionaries(st.sampled_from(["file", "bytes", "sha256"]), JSON)


def test_invented_manifests(tmp_path: Path) -> None:
    @bounded(80)
    @given(FACTS, ENTRY)
    def check(changes: dict[str, Any], entry: dict[str, Any]) -> None:
        sound = {"file": "a.x.bin", "sha256": "0" * 64, "bytes": 4}
        facts = {"attempt": "x", "digest": "d", "files": {"a.bin": {**sound, **entry}}, **changes}
        attempt(cases()["manifest"][1], tmp_path, json.dumps(facts).encode())

    check()


def keys(model: Any) -> st.SearchStrategy[Any]:
    """Contents of a section: known keys with values of any kind."""
    return st.dictionaries(st.sampled_from([*model, "unknown"]), JSON, max_size=4)


SECTIONS = {
    name: keys(getattr(field.annotation, "model_fields", ["epochs", "batch_size", "loss", "space", "trials", "name"]))
    for name, field in Config.model_fields.items()
}


@bounded(150)
@given(st.data())
def test_invented_configs(data: st.DataObject) -> None:
    """The right keys with anything behind them, each alone beside a sound rest or many together."""
    content = yaml.safe_load(TINY)
    for name in data.draw(st.lists(st.sampled_from(sorted(SECTIONS)), min_size=1, max_size=3)):
        value = data.draw(SECTIONS[name] | JSON)
        both = isinstance(value, dict) and isinstance(content.get(name), dict)
        content[name] = {**content[name], **value} if both else value
    check(yaml.safe_dump(content))


@bounded(100)
@given(
    st.text(max_size=60), st.lists(st.text(max_size=30) | st.sampled_from(["base.epochs=1", "sweep.x=[1]"]), max_size=3)
)
def test_invented_texts(text: str, overrides: list[str]) -> None:
    check(text, overrides)


def check(text: str, overrides: Any = ()) -> None:
    try:
        whole, points = config_file.parse_points(text, overrides=overrides)
    except ConfigError as error:
        assert error.mistakes and all(mistake.message for mistake in error.mistakes)
    else:
        assert all("/" not in point.experiment for point in (whole, *points))
        io.StringIO(whole.model_dump_json())
