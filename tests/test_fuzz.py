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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusiondistill import config_file
from fusiondistill.config import Config
from fusiondistill.config_file import ConfigError
from fusiondistill.data import DataError, load_images
from fuzzing import OURS, TINY, cases, parquet

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
        attempt(use, home, one)  # sound, or at least answered

    @bounded(SLOW.get(name, 150))
    @given(st.sampled_from(valid), EDITS)
    def check(sound: bytes, edits: list[tuple[str, float, bytes]]) -> None:
        nonlocal number
        number += 1
        folder = home / str(number)
        began = time.monotonic()
        attempt(use, folder, edited(sound, edits))
        assert time.monotonic() - began < 20
        shutil.rmtree(folder)

    check()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def attempt(use: Any, folder: Path, data: bytes) -> None:
    folder.mkdir(exist_ok=True)
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


FACTS = ("card", "manifest", "plan", "progress", "journal", "status", "lease")


@pytest.mark.parametrize("name", FACTS)
def test_facts_of_which_one_is_of_another_kind(name: str, tmp_path: Path) -> None:
    """Sound JSON, as a stranger would write it, with parts of it replaced or gone: at the top or deep inside."""
    valid, use = cases()[name]

    @bounded(SLOW.get(name, 150))
    @given(st.lists(st.tuples(st.lists(st.floats(0, 1), min_size=1, max_size=4), JSON | st.just(GONE)), min_size=1))
    def check(changes: list[tuple[list[float], Any]]) -> None:
        facts = json.loads(valid[0])
        for path, value in changes:
            replace(facts, path, value)
        folder = tmp_path / "home"
        attempt(use, folder, json.dumps(facts).encode())
        shutil.rmtree(folder)

    check()
    assert list(tmp_path.iterdir()) == []


GONE = "\0gone"


def replace(content: Any, path: list[float], value: Any) -> None:
    """Put a value where a path of fractions leads, or as deep as there is anything."""
    names = list(content) if isinstance(content, dict) else list(range(len(content)))
    if not names:
        return
    name = names[int(path[0] * (len(names) - 1))]
    if len(path) > 1 and isinstance(content[name], dict | list):
        replace(content[name], path[1:], value)
    elif value == GONE:
        del content[name]
    else:
        content[name] = value


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


def test_a_parquet_file_whose_column_names_are_no_text(tmp_path: Path) -> None:
    """Found by atheris: pyarrow reads the names with another error than it has for damage."""
    (tmp_path / "train.parquet").write_bytes(parquet().replace(b"image", b"\xff\xffage"))
    with pytest.raises(DataError, match="no intact Parquet file"):
        load_images("parquet", "train", tmp_path / "train.parquet")
